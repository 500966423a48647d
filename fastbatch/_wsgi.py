"""WSGI applications, PEP 3333: what of serving them is not in csrc/python/gateway.c.

That is what is made once for a server, and what is rare: the template of environ, the
log behind ``wsgi.errors``, ``wsgi.file_wrapper``, and reports of what went wrong.
"""

from __future__ import annotations

import io
import logging
import os
import socket
import stat
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from fastbatch._core import Gateway, ReplyError, Request
from fastbatch._sockets import TcpAddress

log = logging.getLogger("fastbatch")

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_WILDCARDS = ("0.0.0.0", "::")

_BUFFERED = (io.BufferedReader, io.BufferedRandom)


class FileWrapper:
    """``wsgi.file_wrapper``: a file as an iterable of its blocks.

    When an application returns one of a regular file, no block is read: the kernel
    sends the file from its current position on (sendfile).

    Args:
        filelike: what has ``read(size)``, and maybe ``close()``.
        block_size: bytes of a block.
    """

    def __init__(self, filelike: Any, block_size: int = 8192) -> None:
        self.filelike = filelike
        self.block_size = block_size

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        block: bytes = self.filelike.read(self.block_size)
        if not block:
            raise StopIteration
        return block

    def close(self) -> None:
        """Close the file, if it can be closed."""
        close = getattr(self.filelike, "close", None)
        if close is not None:
            close()

    def region(self) -> tuple[int, int, int] | None:
        """What the kernel is to send: descriptor, offset and length, in bytes.

        The descriptor is a new one, for the caller to close: the application may close
        its own at any time. None if the file has to be read.
        """
        file = self.filelike
        # The descriptor of others may be of something else than read() gives: that of
        # gzip.GzipFile is of the compressed file.
        raw = file.raw if type(file) in _BUFFERED else file
        if type(raw) is not io.FileIO or not raw.readable():
            return None
        try:
            if isinstance(file, io.BufferedRandom):
                file.flush()
            offset: int = file.tell()
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size <= offset:
                return None  # the files of /proc have more than their size says
            return os.dup(file.fileno()), offset, status.st_size - offset
        except (OSError, ValueError):  # closed, or no descriptor is left: read() tells
            return None


class ErrorLog:
    """``wsgi.errors``: a text stream whose lines are logged, level ERROR.

    Where logging itself writes to ``wsgi.errors``, as Flask can be told to have it, its
    lines go to ``sys.stderr``.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = ""  # a line that has not ended
        self._logging = threading.local()  # is_busy: this thread is logging a line

    def write(self, text: str) -> int:
        """Log the lines that end in ``text``; the rest waits for its end."""
        if not isinstance(text, str):
            raise TypeError(f"wsgi.errors takes str, not {type(text).__name__}")
        if getattr(self._logging, "is_busy", False):
            return sys.stderr.write(text)
        with self._lock:
            *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._log(line)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of ``lines``."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Log a line that has not ended, too."""
        if getattr(self._logging, "is_busy", False):
            sys.stderr.flush()
            return
        with self._lock:
            line, self._begun = self._begun, ""
        if line:
            self._log(line)

    def _log(self, line: str) -> None:
        # As log.error() does, but for one thing: since 3.13.4 that is silent within the
        # handler of any logger, and such a handler may well be what writes here.
        is_off = log.disabled or log.manager.disable >= logging.ERROR
        if is_off or log.getEffectiveLevel() > logging.ERROR:
            return
        record = log.makeRecord(
            log.name, logging.ERROR, __file__, 0, "%s", (line,), None
        )
        if not log.filter(record):
            return
        self._logging.is_busy = True
        try:
            log.callHandlers(record)
        finally:
            self._logging.is_busy = False


@dataclass(frozen=True, slots=True)
class Concurrency:
    """Whether an application may be called while it runs already: PEP 3333."""

    multithread: bool  # by another thread of its process
    multiprocess: bool  # by another process


ALONE = Concurrency(multithread=False, multiprocess=False)


def gateway(
    application: Application,
    name: str,
    addresses: Sequence[TcpAddress | str],
    root_path: str,
    concurrency: Concurrency,
) -> Gateway:
    """Make the dispatcher of an application.

    Args:
        application: what is served.
        name: what it is called in the log.
        addresses: where the server listens, listener by listener.
        root_path: the option of that name.
        concurrency: what it has to expect.
    """
    script_name = root_path.encode()
    common = {
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": ErrorLog(),
        "wsgi.file_wrapper": FileWrapper,
        "wsgi.multithread": concurrency.multithread,
        "wsgi.multiprocess": concurrency.multiprocess,
        "wsgi.run_once": False,
        # The body ends where wsgi.input does, whatever its framing was.
        "wsgi.input_terminated": True,
        "SERVER_SOFTWARE": _software(),
        "SCRIPT_NAME": script_name.decode("latin-1"),
    }
    return Gateway(
        application,
        templates=tuple(common | _server_keys(address) for address in addresses),
        root_path=script_name,
        file_wrapper=FileWrapper,
        report=_reporter(name),
    )


def _software() -> str:
    from fastbatch import __version__  # not at the top: it imports this module

    return f"fastbatch/{__version__}"


def _server_keys(address: TcpAddress | str) -> dict[str, str]:
    """SERVER_NAME and SERVER_PORT, which may not be empty, for clients without Host."""
    if isinstance(address, str):
        return {"SERVER_NAME": "localhost", "SERVER_PORT": "80"}
    host, port = address
    name = socket.gethostname() if host in _WILDCARDS else host
    return {"SERVER_NAME": name or "localhost", "SERVER_PORT": str(port)}


def _reporter(name: str) -> Callable[[Request, BaseException], None]:
    def report(request: Request, error: BaseException) -> None:
        try:
            if isinstance(error, ReplyError) and error.__traceback__ is None:
                # Not raised in the application: the message has all there is.
                log.error("application %s, %r: %s", name, request, error)
            else:
                log.error("application %s failed, %r", name, request, exc_info=error)
        except Exception:  # noqa: BLE001 - a log that fails must not fail other slots
            traceback.print_exc()

    return report
