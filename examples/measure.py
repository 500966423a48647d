"""Ask an example by HTTP, without batching and with it: ``python -m examples.measure``.

    python -m examples.measure digits
    python -m examples.measure lookup --connections 64 --rounds 5

The server has one core and this client another. Every connection sends its next request
when the last is answered, and every answer is compared with the right one. The two ways
take turns in each round; what is printed is the median of the rounds.
"""

import argparse
import contextlib
import importlib
import operator
import os
import re
import select
import socket
import statistics
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 10.0  # seconds without any answer, after which something is wrong

Address = tuple[str, int]


@dataclass(frozen=True)
class Question:
    """A request, all its bytes, and the body of the right answer, which is a 200."""

    request: bytes
    answer: bytes
    is_same: Callable[[bytes, bytes], bool] = operator.eq


@dataclass(frozen=True)
class Figures:
    """What came of asking for some time."""

    rate: float  # answers per second
    p50: float  # milliseconds
    p99: float


def post(
    path: str, body: bytes, content_type: str = "application/octet-stream"
) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


class Client:
    """One connection. It asks one question after another, from the ``start``-th on."""

    def __init__(
        self, address: Address, questions: Sequence[Question], start: int
    ) -> None:
        self.socket = socket.create_connection(address, PATIENCE)
        self._questions = questions
        self._next = start
        self._received = b""

    def ask(self) -> None:
        self._question = self._questions[self._next % len(self._questions)]
        self._next += 1
        self.asked_at = time.perf_counter()
        self.socket.sendall(self._question.request)

    def is_answered(self) -> bool:
        """Read what there is. Returns whether that completes the right answer.

        Raises:
            ValueError: it is another answer, or the end of the connection.
        """
        received = self.socket.recv(65536)
        self._received += received
        head, _, body = self._received.partition(b"\r\n\r\n")
        right = self._question.answer
        if received and len(body) < len(right):
            return False
        is_right = self._question.is_same(body, right)
        if not (head.startswith(b"HTTP/1.1 200 ") and is_right):
            raise ValueError(f"{self._received!r} is not {right!r}")
        self._received = b""
        return True


def drive(
    address: Address,
    questions: Sequence[Question],
    connections: int,
    seconds: float = 0.0,
    at_least: int = 0,
) -> Figures:
    """Ask over that many connections, for some time and some number of answers.

    Raises:
        ValueError: an answer was wrong; the message has it.
        TimeoutError: there was none for PATIENCE seconds.
    """
    times: list[float] = []
    with contextlib.ExitStack() as stack:
        epoll = stack.enter_context(select.epoll())
        clients = {}
        for n in range(connections):
            client = Client(address, questions, n * len(questions) // connections)
            stack.callback(client.socket.close)
            clients[client.socket.fileno()] = client
            epoll.register(client.socket, select.EPOLLIN)
        begun = time.perf_counter()
        for client in clients.values():
            client.ask()
        while (now := time.perf_counter()) < begun + seconds or len(times) < at_least:
            ready = epoll.poll(PATIENCE)
            if not ready:
                raise TimeoutError(f"no answer for {PATIENCE} s")
            for fd, _ in ready:
                client = clients[fd]
                if client.is_answered():
                    times.append(time.perf_counter() - client.asked_at)
                    client.ask()
    p50, p99 = (statistics.quantiles(times, n=100)[n - 1] * 1e3 for n in (50, 99))
    return Figures(len(times) / (now - begun), p50, p99)


@contextlib.contextmanager
def serving(
    name: str, options: Sequence[str] = (), core: int | None = None
) -> Iterator[Address]:
    """Run an example, on that core alone if one is given; where it listens."""
    cores = os.sched_getaffinity(0) if core is None else {core}
    fastbatch = Path(sysconfig.get_path("scripts"), "fastbatch")
    handler = f"examples.{name}.app:router"
    server = subprocess.Popen(
        [fastbatch, handler, "--bind", "127.0.0.1:0", *options],
        cwd=Path(__file__).parents[1],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    with server:
        try:
            assert server.stderr is not None
            said = ""
            while not (where := re.search(r"listening on http://(.+):(\d+)\n", said)):
                line = server.stderr.readline()
                if not line:
                    raise ChildProcessError(f"{handler} does not start:\n{said}")
                said += line
            yield where[1], int(where[2])
        finally:
            server.terminate()


def median(figures: Sequence[Figures]) -> Figures:
    return Figures(
        *(
            statistics.median(getattr(figure, name) for figure in figures)
            for name in ("rate", "p50", "p99")
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.measure")
    parser.add_argument("example", choices=["digits", "onnx", "lookup"])
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="of each measurement"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("server", nargs="*", help="options of the server, after --")
    options = parser.parse_args()

    load = importlib.import_module(f"examples.{options.example}.load")
    first, *others = sorted(os.sched_getaffinity(0))
    ways = {way: load.questions(path) for way, path in load.PATHS.items()}
    found: dict[tuple[int, str], list[Figures]] = {}
    with serving(options.example, options.server, first) as address:
        if others:
            os.sched_setaffinity(0, others)
        for _ in range(options.rounds):
            for n in options.connections:
                for way, questions in ways.items():
                    figures = drive(address, questions, n, options.seconds)
                    found.setdefault((n, way), []).append(figures)
    print("| connections | way | requests/s | p50 | p99 |\n|---|---|---|---|---|")
    for (n, way), rounds in found.items():
        it = median(rounds)
        print(f"| {n} | {way} | {it.rate:,.0f} | {it.p50:.2f} ms | {it.p99:.2f} ms |")


if __name__ == "__main__":
    main()
