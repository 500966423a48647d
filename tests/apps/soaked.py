"""What the soak drives: a server whose replies are known from their paths.

    python tests/apps/soaked.py request|wsgi|router LOG [--leak BYTES] [--threads N]

serves these until it is stopped: as a handler of requests; as a WSGI application; or as
a router, which has a handler of batches for each that is marked with *, one of requests
for /none, /missing and /raise, and the application for all else:

    /tag/WORD           the word
    /kept/WORD          the word; the request is kept for a while
    /bytes/N            the first N bytes of PATTERN
    /stream/N           the same, in pieces
    /written/N          the same, by write() (WSGI; or else in pieces)
    /broken/N           the same, but for the end: it raises
    /file/N             the last N bytes of PATTERN, from a file
    /upload             * length and CRC of the body
    /row                * the body, which has ROW bytes, or else 400
    /echo               * the body; if that is RAISE, 500 and an entry in the log
    /none               204
    /missing            404
    /raise              500, and an entry in the log: an exception named Planned
    /stats              counters of the server, CPU time and memory of its process
    /rest               the same, after memory that is free was given back

and anything else with "seen".
"""

import argparse
import collections
import ctypes
import gc
import json
import logging
import os
import random
import resource
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import fastbatch
from fastbatch._server import serve

PATTERN = random.Random(4).randbytes(1 << 20) * 8
PIECE = 10_000  # bytes of an item of a stream

ROW = 8  # bytes
RAISE = b"raise"
DEADLINE = "X-Deadline-Ms"  # the field for the client's own

KEEPALIVE = 5.0  # seconds
GRACEFUL = 5.0
OPTIONS: dict[str, Any] = {
    "bind": "127.0.0.1:0",
    "max_body_memory": 300_000,
    "max_input_memory": 1_000_000,  # all that are uploaded together have more
    "keepalive_timeout": KEEPALIVE,
    "graceful_timeout": GRACEFUL,
    "deadline_header": DEADLINE,
}

Input = Callable[[], Iterable[bytes]]


class Planned(Exception):  # noqa: N818 - no error of anybody
    """What /raise, /broken and /echo raise."""


class OneLine(logging.Formatter):
    """An entry as one line, without its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage().replace("\n", " | ")
        error = record.exc_info[1] if record.exc_info else None
        cause = f" ({type(error).__name__}: {error})" if error else ""
        return f"{record.levelname}: {message}{cause}"


def pieces(n: int) -> Iterator[bytes]:
    for at in range(0, n, PIECE):
        yield PATTERN[at : min(at + PIECE, n)]


def broken(n: int) -> Iterator[bytes]:
    yield from pieces(n)
    raise Planned("a stream that breaks off")


def digest(items: Iterable[bytes]) -> bytes:
    length = crc = 0
    for item in items:
        length += len(item)
        crc = zlib.crc32(item, crc)
    return b"%d %d" % (length, crc)


def answer_short(verb: str, body: bytes) -> tuple[int, bytes]:
    if verb == "row" and len(body) != ROW:
        return 400, b"the body has %d bytes, not %d" % (len(body), ROW)
    if body == RAISE:
        raise Planned("a slot that fails")
    return 200, body


# ---- batches --------------------------------------------------------------------


@fastbatch.batch(batch_wait=0.002)
def digests(batch: fastbatch.Batch) -> list[bytes]:
    return [digest([body]) for body in batch.bodies]


@fastbatch.batch(batch_size=16, concurrency=2)
def rows(batch: fastbatch.Batch) -> memoryview:
    return memoryview(batch.stack("uint8", ROW))


@fastbatch.batch(batch_wait=0.0005, batch_size=5)
def echoes(batch: fastbatch.Batch) -> Iterator[bytes | Planned]:
    """Some early and backwards, the others as they come."""
    if len(batch) % 2:
        for i in reversed(range(len(batch))):
            if batch[i].body != RAISE:
                batch.reply(i, batch[i].body)
    for request in list(batch):
        time.sleep(0.0001)
        is_good = request.body != RAISE
        yield request.body if is_good else Planned("a slot that fails")


# ---- all kinds ------------------------------------------------------------------


class Site:
    """The replies, for all interfaces."""

    def __init__(self, folder: str, leak: int) -> None:
        self.server: fastbatch.Server | None = None
        self._kept: collections.deque[object] = collections.deque(maxlen=50)
        self._leak = leak
        self._leaked: list[bytes] = []
        self._file = Path(folder) / "pattern"
        self._file.write_bytes(PATTERN)

    def answer(self, path: str, body: Input, request: object) -> tuple[int, Any]:
        """The status and the body, which is bytes, an iterator or an open file."""
        if self._leak:
            self._leaked.append(os.urandom(self._leak))
        verb, _, word = path.removeprefix("/").partition("/")
        if verb == "kept":
            self._kept.append(request)
        if verb in ("tag", "kept"):
            return 200, word.encode()
        if verb == "bytes":
            return 200, memoryview(PATTERN)[: int(word)].toreadonly()
        if verb in ("stream", "written"):
            return 200, pieces(int(word))
        if verb == "broken":
            return 200, broken(int(word))
        if verb == "file":
            return 200, self._open_at(int(word))
        return self._answer_other(verb, body)

    def _answer_other(self, verb: str, body: Input) -> tuple[int, Any]:
        if verb == "upload":
            return 200, digest(body())
        if verb in ("row", "echo"):
            return answer_short(verb, b"".join(body()))
        if verb == "none":
            return 204, b""
        if verb == "missing":
            return 404, b"not here"
        if verb == "raise":
            raise Planned("a handler that raises")
        if verb in ("stats", "rest"):
            return 200, json.dumps(self._stats(is_at_rest=verb == "rest")).encode()
        return 200, b"seen"

    def _open_at(self, n: int) -> BinaryIO:
        file = self._file.open("rb")
        file.seek(-n, os.SEEK_END)
        return file

    def _stats(self, *, is_at_rest: bool) -> dict[str, Any]:
        assert self.server is not None
        if is_at_rest:
            self._kept.clear()
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return self.server.stats() | {
            "resident": pages * resource.getpagesize(),
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "cpu": time.process_time(),
            "files": len(os.listdir("/proc/self/fd")),
        }

    def handle(self, request: fastbatch.Request) -> Any:
        """The handler of requests."""
        status, body = self.answer(request.path, lambda: [request.body], request)
        return None if status == 204 else (status, body)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """The WSGI application."""
        source = environ["wsgi.input"]
        path = environ["PATH_INFO"]
        status, body = self.answer(
            path, lambda: iter(lambda: source.read(60_000), b""), environ
        )
        write = start_response(f"{status} -", [])
        if path.startswith("/written/"):
            for piece in body:
                write(piece)
            return []
        if path.startswith("/file/"):
            return environ["wsgi.file_wrapper"](body)  # type: ignore[no-any-return]
        return [bytes(body)] if isinstance(body, bytes | memoryview) else body

    def of(self, interface: str) -> tuple[Any, str]:
        """What a server is given, and the interface of that."""
        if interface == "router":
            return self.router(), "auto"
        return (self if interface == "wsgi" else self.handle), interface

    def router(self) -> fastbatch.Router:
        router = fastbatch.Router(fallback=self, interface="wsgi")
        router.add("POST", "/upload", digests)
        router.add("POST", "/row", rows)
        router.add("POST", "/echo", echoes)
        for path in ("/none", "/missing", "/raise"):
            router.add("GET", path, self.handle)
        return router


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve what the soak asks for.")
    parser.add_argument("interface", choices=["request", "wsgi", "router"])
    parser.add_argument("log", help="the file of the access log")
    parser.add_argument("--leak", type=int, default=0, help="bytes of each request")
    parser.add_argument("--threads", type=int, default=0, help="that handlers run in")
    arguments = parser.parse_args()
    to_stderr = logging.StreamHandler()
    to_stderr.setFormatter(OneLine())
    logging.basicConfig(level=logging.INFO, handlers=[to_stderr])
    with tempfile.TemporaryDirectory() as folder:
        site = Site(folder, arguments.leak)
        handler, interface = site.of(arguments.interface)
        site.server = fastbatch.Server(
            handler,
            interface=interface,
            threads=arguments.threads,
            access_log=arguments.log,
            access_log_format="json",
            **OPTIONS,
        )
        serve(site.server)


if __name__ == "__main__":
    main()
