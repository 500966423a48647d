"""``python -m bench instructions``: instructions per request, counted by callgrind.

Times differ from run to run; counted instructions by less than two per cent, with one
connection hardly at all. Only those outside the kernel are counted.
"""

import os
import re
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.machine import process_stat
from bench.report import table
from bench.servers import Server, Subject, running
from bench.wrk import Load

REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
LOADS = (Load(1, 1), Load(1, 16), Load(64, 1))

# Before counting starts: interpreters specialise their code, free lists fill.
WARMUP_REQUESTS = 1024
PATIENCE = 10
SOCKET_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Count:
    subject: Subject
    load: Load
    instructions: float
    """Per request."""


def find_valgrind() -> str:
    path = shutil.which("valgrind")
    if path is None:
        raise BenchError("valgrind counts and is missing: apt-get install valgrind")
    return path


def parse_callgrind(text: str) -> int:
    """The sum of all instructions in a callgrind.out file."""
    found = re.search(r"^(?:totals|summary): (\d+)", text, re.MULTILINE)
    if found is None:
        raise BenchError("callgrind's output has no total: did the server end early?")
    return int(found[1])


class Client:
    """Sends the same requests each time, and takes all replies before the next ones."""

    def __init__(self, server: Server, load: Load) -> None:
        self._pid = server.pid
        self._depth = load.pipeline
        address = ("127.0.0.1", server.port)
        self._sockets = [
            socket.create_connection(address, timeout=SOCKET_SECONDS)
            for _ in range(load.connections)
        ]
        self._sockets[0].sendall(REQUEST)
        self._reply_len = len(read_reply(self._sockets[0]))

    def wave(self) -> None:
        """One write on every connection, then all replies.

        The server is stopped while the requests are sent, so that it always finds all
        of them at once, however slow valgrind makes it.
        """
        os.kill(self._pid, signal.SIGSTOP)
        wait_until_stopped(self._pid)
        for sock in self._sockets:
            sock.sendall(REQUEST * self._depth)
        os.kill(self._pid, signal.SIGCONT)
        for sock in self._sockets:
            read_exactly(sock, self._reply_len * self._depth)

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()


def wait_until_stopped(pid: int) -> None:
    deadline = time.monotonic() + SOCKET_SECONDS
    while process_stat(pid)[0] != "T":
        if time.monotonic() > deadline:
            raise BenchError(f"process {pid} does not stop at SIGSTOP")


def read_reply(sock: socket.socket) -> bytes:
    """One reply with a Content-Length."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += read_some(sock, 65536)
    head = data.partition(b"\r\n\r\n")[0]
    length = re.search(rb"(?i)^content-length: (\d+)", head, re.MULTILINE)
    if length is None or not head.startswith(b"HTTP/1.1 200"):
        raise BenchError(f"unexpected reply: {head!r}")
    missing = len(head) + 4 + int(length[1]) - len(data)
    return data + read_exactly(sock, missing)


def read_exactly(sock: socket.socket, n: int) -> bytes:
    data = b""
    while len(data) < n:
        data += read_some(sock, n - len(data))
    return data


def read_some(sock: socket.socket, n: int) -> bytes:
    data = sock.recv(n)
    if not data:
        raise BenchError("the server closed a connection")
    return data


def count_run(subject: Subject, load: Load, waves: int, core: int, out: Path) -> int:
    """All instructions of a server that answers ``waves`` waves and ends."""
    wrapper = [
        *("env", "PYTHONHASHSEED=0"),
        find_valgrind(),
        "--quiet",
        "--tool=callgrind",
        f"--callgrind-out-file={out}",
    ]
    with running(subject, core, wrapper, PATIENCE) as server:
        client = Client(server, load)
        for _ in range(waves):
            client.wave()
        client.close()
    return parse_callgrind(out.read_text())


def count(
    subject: Subject, load: Load, requests: int, core: int, directory: Path
) -> Count:
    """Two runs that differ in nothing but ``requests``: the rest cancels out."""
    per_wave = load.connections * load.pipeline
    warmup, waves = -(-WARMUP_REQUESTS // per_wave), -(-requests // per_wave)
    name = f"{subject.name}.c{load.connections}.p{load.pipeline}".replace(" ", "-")
    short = count_run(subject, load, warmup, core, directory / f"{name}.warmup.out")
    full = count_run(subject, load, warmup + waves, core, directory / f"{name}.out")
    return Count(subject, load, (full - short) / (waves * per_wave))


def count_all(
    subjects: Sequence[Subject], requests: int, core: int, keep: Path | None
) -> list[list[Count]]:
    """For each of LOADS a list with each of ``subjects``."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = keep or Path(scratch)
        directory.mkdir(parents=True, exist_ok=True)
        return [
            [count(subject, load, requests, core, directory) for subject in subjects]
            for load in LOADS
        ]


def instructions_text(counts: Sequence[Sequence[Count]]) -> str:
    """A row for each load; the others are compared with the first server."""
    header = ["instructions per request", *(one.subject.name for one in counts[0])]
    return table([header, *([str(row[0].load), *count_cells(row)] for row in counts)])


def count_cells(row: Sequence[Count]) -> list[str]:
    base = row[0].instructions
    found = [one.instructions for one in row[1:]]
    return [f"{base:,.0f}", *(f"{n:,.0f}  x {n / base:.2f}" for n in found)]


def count_to_json(one: Count) -> dict[str, Any]:
    return {
        "server": one.subject.name,
        "connections": one.load.connections,
        "pipeline": one.load.pipeline,
        "instructions_per_request": one.instructions,
    }
