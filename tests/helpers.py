"""A client that sends exactly the bytes it is told, and processes to be tried out."""

import contextlib
import http.client
import io
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import fastbatch

# A Python built with ThreadSanitizer takes ten times as long for everything.
IS_WATCHED = "--with-thread-sanitizer" in (
    sysconfig.get_config_var("CONFIG_ARGS") or ""
)

TIMEOUT = 60.0 if IS_WATCHED else 20.0  # seconds: for whatever should take none
TRAILING = b"GET /trailing HTTP/1.1\r\nHost: test\r\n\r\n"

Address = tuple[str, int] | str


@dataclass(frozen=True)
class Reply:
    """One reply, as http.client understands it."""

    status: int
    reason: str
    headers: http.client.HTTPMessage
    body: bytes


def get(path: str = "/", *fields: str, version: str = "1.1") -> bytes:
    """A GET request with a Host and the header ``fields``."""
    lines = [f"GET {path} HTTP/{version}", "Host: test", *fields, "", ""]
    return "\r\n".join(lines).encode()


def split_ways(data: bytes, trailing: bytes = TRAILING) -> dict[str, list[bytes]]:
    """The ways to feed ``data``: whole, byte by byte, and with ``trailing`` data."""
    return {
        "whole": [data],
        "bytewise": [data[n : n + 1] for n in range(len(data))],
        "trailing": [data + trailing],
    }


class Connection:
    """A connection to a server. Its ``received`` is every byte that was read so far."""

    def __init__(self, server: fastbatch.Server | Address) -> None:
        address = server.address if isinstance(server, fastbatch.Server) else server
        if isinstance(address, str):
            self.socket = _connect_unix(address)
        else:
            self.socket = socket.create_connection(address, TIMEOUT)
            # What is sent apart is to arrive apart, as far as that can be had.
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._tape = _Tape(self.socket)

    @property
    def received(self) -> bytes:
        return bytes(self._tape.played)

    def send(self, data: bytes | Iterable[bytes]) -> None:
        for piece in [data] if isinstance(data, bytes) else data:
            self.socket.sendall(piece)

    def end(self) -> None:
        """Close the sending half."""
        self.socket.shutdown(socket.SHUT_WR)

    def reply(self, method: str = "GET") -> Reply:
        """Read the next reply, the one to a request with ``method``."""
        return _read_reply(self._tape, method)

    def ask(self, path: str = "/", *fields: str) -> Reply:
        """Send a GET request and read its reply."""
        self.send(get(path, *fields))
        return self.reply()

    def rest(self) -> bytes:
        """Read until the server closes the connection."""
        return self._tape.read()

    def is_closed(self) -> bool:
        """Wait for the server to close the connection; False if it sends a byte."""
        return self._tape.read(1) == b""

    def close(self) -> None:
        self._tape.close()
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def talk(
    server: fastbatch.Server | Address,
    data: bytes | Iterable[bytes],
    *,
    replies: int | None = None,
    method: str = "GET",
) -> bytes:
    """Send ``data``; return what comes until the server closes, or that many replies.

    It is sent by another thread, so that neither side waits for the other to read.
    """
    with Connection(server) as connection:

        def send() -> None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.send(data)

        sender = threading.Thread(target=send)
        sender.start()
        try:
            if replies is None:
                connection.rest()
            for _ in range(replies or 0):
                connection.reply(method)
            return connection.received
        finally:
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
            sender.join()


def parse_replies(data: bytes, methods: Sequence[str] = ()) -> list[Reply]:
    """All replies in ``data``; the nth is to ``methods[n]``, or else to a GET."""
    stream = io.BytesIO(data)
    replies: list[Reply] = []
    while stream.tell() < len(data):
        number = len(replies)
        method = methods[number] if number < len(methods) else "GET"
        replies.append(_read_reply(stream, method))
    return replies


def get_url(server: fastbatch.Server, path: str = "/") -> Reply:
    """Ask a server on a new connection which is closed then."""
    with Connection(server) as connection:
        return connection.ask(path, "Connection: close")


def wait_until(is_so: Callable[[], bool], what: str = "it") -> None:
    """Wait until ``is_so()``, for what can only be looked at."""
    end = time.monotonic() + TIMEOUT
    while not is_so():
        assert time.monotonic() < end, f"{what} did not happen in {TIMEOUT:g} s"
        time.sleep(0.005)


def open_files() -> dict[int, str]:
    """The descriptors of this process, and what they are."""
    found = {}
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the listing's own
            found[int(link.name)] = str(link.readlink())
    return found


class Program:
    """A process whose stderr is read line by line."""

    def __init__(
        self, command: Sequence[str], cwd: Path, env: dict[str, str], **options: Any
    ) -> None:
        self.cwd = cwd
        self.command = list(command)
        self._process: subprocess.Popen[str] = subprocess.Popen(
            command,
            cwd=cwd,
            env=clean_environment() | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A signal that pytest was started with as ignored would be so here, too.
            preexec_fn=_default_signals,
            **options,
        )
        self._output: list[str] = []
        self._errors: list[str] = []
        self._news = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=pair)
            for pair in (
                (self._process.stdout, self._output),
                (self._process.stderr, self._errors),
            )
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        return "".join(self._output)

    @property
    def errors(self) -> str:
        return "".join(self._errors)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until stdout or stderr has ``pattern``."""
        end = time.monotonic() + TIMEOUT
        with self._news:
            while True:
                match = re.search(pattern, self.errors) or re.search(
                    pattern, self.output
                )
                if match:
                    return match
                assert self._news.wait(end - time.monotonic()), (
                    f"no {pattern!r} in:\n{self.errors}{self.output}"
                )

    def address(self) -> Address:
        """Wait until it listens; where it does."""
        where = self.wait_for(r"listening on (?:http://|unix:)(\S+)\n")[1]
        host, _, port = where.rpartition(":")
        return (host.strip("[]"), int(port)) if host else where

    def signal(self, number: signal.Signals = signal.SIGINT) -> None:
        self._process.send_signal(number)

    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait(self) -> int:
        """Wait for its end. Returns its status, negative after a signal."""
        status = self._process.wait(TIMEOUT)
        for reader in self._readers:
            reader.join()
        return status

    def kill(self) -> None:
        self._process.kill()
        self.wait()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _read(self, pipe: Iterable[str], lines: list[str]) -> None:
        for line in pipe:
            with self._news:
                lines.append(line)
                self._news.notify_all()


def clean_environment() -> dict[str, str]:
    """This process's environment without options, with our fastbatch and helpers."""
    ours = ("FASTBATCH_", "LISTEN_", "PYTHON")
    clean = {n: value for n, value in os.environ.items() if not n.startswith(ours)}
    folders = (Path(fastbatch.__file__).parents[1], Path(__file__).parent)
    return clean | {
        "PYTHONPATH": os.pathsep.join(str(folder) for folder in folders),
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "80",
    }


PYTHON = sys.executable


def _default_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _connect_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(TIMEOUT)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


class _Tape(io.BufferedReader):
    """What a socket receives, and all that was read of it."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(socket.SocketIO(sock, "r"))
        self.played = bytearray()

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.played += data
        return data

    def readline(self, size: int | None = -1) -> bytes:
        line = super().readline(size)
        self.played += line
        return line


class _Source:
    """What http.client takes for a socket."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream = stream

    def makefile(self, _mode: str) -> "_Source":
        return self

    def read(self, size: int | None = -1) -> bytes:
        return self._stream.read(size)

    def readline(self, size: int | None = -1) -> bytes:
        return self._stream.readline(size)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass  # http.client does at the end of a reply, and there may be another one


def _read_reply(stream: io.BufferedIOBase, method: str) -> Reply:
    source = cast(socket.socket, _Source(stream))
    response = http.client.HTTPResponse(source, method=method)
    response.begin()
    return Reply(response.status, response.reason, response.msg, response.read())
