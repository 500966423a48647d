"""How connections spread over workers, by the ways to share an address.

The clients are persistent: each connects, asks, and asks again as soon as it has the
reply. What counts is who serves them, how long each waits for its first reply, and
whether one gets none.
"""

import json
import selectors
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.report import table

SERVE = Path(__file__).with_name("serve_listeners.py")
KINDS = ("reuseport", "shared", "roster")
REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"

# A client that has no reply after that is called starved.
STARVED_SECONDS = 1.0
SECONDS = 0.25  # of each measurement
FEW = 100  # clients: as many may also come one after the other
PAUSE_SECONDS = 0.0005  # between clients that come one after the other
EMPTY_SECONDS = 5.0
STOP_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Setting:
    kind: str
    workers: int
    clients: int
    app: str  # burn: the workers are busy all the time
    at_once: bool  # or one after the other


@dataclass(slots=True)
class Found:
    setting: Setting
    spread: list[int]  # clients of each worker, fewest first
    first_ms: list[float]  # connect to first reply, in order
    starved: int
    replies: int
    seconds: float

    def row(self) -> list[str]:
        way, n = self.setting, len(self.first_ms)
        p50, p99 = (self.first_ms[n * p // 100] for p in (50, 99)) if n else (0.0, 0.0)
        return [
            way.kind,
            "busy" if way.app == "burn" else "idle",
            "at once" if way.at_once else "in turn",
            str(way.workers),
            str(way.clients),
            f"{self.spread[0]}..{self.spread[-1]}",
            f"{p50:.1f}",
            f"{p99:.1f}",
            str(self.starved),
            f"{self.replies / self.seconds / 1000:.1f}",
        ]


HEADER = ["listener", "workers", "opened", "N", "clients", "of a worker"]
HEADER += ["first p50 ms", "p99 ms", "starved", "k req/s"]


class Workers:
    """A process of serve_listeners.py."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.port: int = self._hear()["port"]

    def counts(self, name: str = "open_connections") -> list[int]:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return [each[name] for each in self._hear()["workers"]]

    def wait_until_empty(self) -> None:
        end = time.monotonic() + EMPTY_SECONDS
        while any(self.counts()):
            if time.monotonic() > end:
                raise BenchError("connections of the last measurement stay open")
            time.sleep(0.01)

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchError("the workers did not start: see above")
        said: dict[str, Any] = json.loads(line)
        return said


@contextmanager
def started(
    python: str, kind: str, n: int, app: str, threads: bool
) -> Iterator[Workers]:
    command = [python, str(SERVE), kind, app, "--workers", str(n)]
    command += ["--threads"] if threads else []
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Workers(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


@dataclass(slots=True)
class Client:
    socket: socket.socket
    began: float
    has_asked: bool = False
    first_ms: float | None = None


@dataclass(slots=True)
class Crowd:
    """All clients of one measurement, on this thread."""

    port: int
    selector: selectors.BaseSelector = field(default_factory=selectors.DefaultSelector)
    clients: list[Client] = field(default_factory=list)
    replies: int = 0
    answered: int = 0  # clients

    def add(self) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = Client(sock, time.perf_counter())
        self.clients.append(client)
        sock.connect_ex(("127.0.0.1", self.port))
        self.selector.register(sock, selectors.EVENT_WRITE, client)

    def turn(self, seconds: float) -> None:
        for key, _ in self.selector.select(seconds):
            client: Client = key.data
            if not client.has_asked:
                client.has_asked = True
                self.selector.modify(client.socket, selectors.EVENT_READ, client)
            elif not client.socket.recv(4096):
                raise BenchError("a worker closed a connection")
            else:
                self._note_reply(client)
            client.socket.send(REQUEST)

    def close(self) -> None:
        for client in self.clients:
            client.socket.close()
        self.selector.close()

    def _note_reply(self, client: Client) -> None:
        # One that is so short comes in one piece.
        self.replies += 1
        if client.first_ms is None:
            client.first_ms = (time.perf_counter() - client.began) * 1000
            self.answered += 1


def measure(workers: Workers, setting: Setting) -> Found:
    workers.wait_until_empty()
    crowd = Crowd(workers.port)
    try:
        began = time.perf_counter()
        for _ in range(setting.clients):
            crowd.add()
            if not setting.at_once:
                crowd.turn(0)
                time.sleep(PAUSE_SECONDS)
        opened = time.perf_counter()
        while (now := time.perf_counter()) < opened + STARVED_SECONDS:
            if now > opened + SECONDS and crowd.answered == setting.clients:
                break
            crowd.turn(0.05)
        seconds = time.perf_counter() - began
        spread = sorted(workers.counts())
    finally:
        crowd.close()
    times = sorted(c.first_ms for c in crowd.clients if c.first_ms is not None)
    starved = setting.clients - crowd.answered
    return Found(setting, spread, times, starved, crowd.replies, seconds)


def measure_all(
    python: str, counts: Sequence[int], clients: Sequence[int], threads: bool
) -> list[Found]:
    """Every way with every number of workers, and of clients; also N + 1 of these."""
    found = []
    for app in ("hello", "burn"):
        for n in counts:
            with ExitStack() as stack:
                # All at the same time: those that have no clients do nothing.
                servers = {
                    kind: stack.enter_context(started(python, kind, n, app, threads))
                    for kind in KINDS
                }
                found += [
                    measure(workers, Setting(kind, n, c, app, at_once))
                    for c in (n + 1, *clients)
                    for at_once in ((False, True) if c <= FEW else (True,))
                    for kind, workers in servers.items()
                ]
    return found


def to_text(found: Sequence[Found]) -> str:
    order = sorted(
        found,
        key=lambda f: (
            f.setting.app != "hello",
            f.setting.workers,
            f.setting.clients,
            f.setting.at_once,
            KINDS.index(f.setting.kind),
        ),
    )
    return table([HEADER, *(each.row() for each in order)])


def to_json(found: Sequence[Found]) -> list[dict[str, Any]]:
    return [asdict(each) for each in found]
