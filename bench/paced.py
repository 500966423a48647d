"""A client that sends at a fixed rate, some requests for /slow, and times the others.

wrk sends as fast as it is answered, and counts all requests alike. This one sends each
request when it is due, whatever became of those before, and measures from then on: what
a request waits for a free connection is part of its latency, as it is of a user's.
"""

import contextlib
import select
import socket
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from bench.errors import BenchError

# select(), unlike epoll, is woken to the microsecond; it takes descriptors up to 1023.
MAX_CONNECTIONS = 500

# After the last request was due; what is not answered then never is.
PATIENCE_SECONDS = 5.0
CONNECT_SECONDS = 10.0

FAST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
SLOW = b"GET /slow HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
OK = b"HTTP/1.1 200 "


@dataclass(frozen=True, slots=True)
class Pace:
    """How many requests a second, and each how many-th of them is for /slow."""

    rate: int
    slow_every: int
    connections: int

    def is_slow(self, n: int) -> bool:
        return n % self.slow_every == self.slow_every - 1


@dataclass(slots=True)
class Latencies:
    """In seconds. What was not answered is counted as an error and nowhere else."""

    fast: list[float] = field(default_factory=list)
    slow: list[float] = field(default_factory=list)
    errors: int = 0
    late: list[float] = field(default_factory=list)
    """How long after its time each request was sent that had no connection to wait for:
    the client's own delay, which is in the latencies too."""


def percentile(values: list[float], percent: float) -> float:
    """The smallest value that ``percent`` of all are not above."""
    if not values:
        raise BenchError("no request was answered: there are no latencies")
    ranked = sorted(values)
    rank = -(-len(ranked) * percent // 100)
    return ranked[max(int(rank), 1) - 1]


class Connection:
    """One socket, and the request on it that is not answered yet."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.due = 0.0
        self.is_slow = False
        self._unread = b""
        self._socket = self._connect()

    def _connect(self) -> socket.socket:
        address = ("127.0.0.1", self._port)
        made = socket.create_connection(address, timeout=CONNECT_SECONDS)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return made

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def reconnect(self) -> None:
        self.close()
        self._unread = b""
        self._socket = self._connect()

    def send(self, due: float, is_slow: bool) -> None:
        """Raises OSError: the server closed it."""
        self.due, self.is_slow = due, is_slow
        self._socket.sendall(SLOW if is_slow else FAST)

    def receive(self) -> bool | None:
        """Whether the reply says 200, or None while there is more of it to come.

        Raises:
            OSError: the server closed the connection.
        """
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionResetError("closed by the server")
        self._unread += data
        length = reply_length(self._unread)
        if length is None or len(self._unread) < length:
            return None
        is_ok = self._unread.startswith(OK) and len(self._unread) == length
        self._unread = b""
        return is_ok


def reply_length(data: bytes) -> int | None:
    """How long the reply is that ``data`` begins with, or None if it cannot be seen."""
    head, end, _ = data.partition(b"\r\n\r\n")
    if not end:
        return None
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return len(head) + len(end) + int(value)
    raise BenchError("a reply without Content-Length")


def run_paced(port: int, pace: Pace, seconds: float) -> Latencies:
    """Send for so many seconds, and wait for what is still to be answered."""
    found = Latencies()
    with opened(port, pace.connections) as connections:
        exchange(connections, pace, int(pace.rate * seconds), found)
    return found


@contextlib.contextmanager
def opened(port: int, n: int) -> Iterator[list[Connection]]:
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(contextlib.closing(Connection(port))) for _ in range(n)
        ]


def exchange(
    connections: list[Connection], pace: Pace, total: int, found: Latencies
) -> None:
    """The loop: send what is due while a connection is free, take what has come."""
    idle, busy = deque(connections), set[Connection]()
    start = time.perf_counter()
    give_up = start + total / pace.rate + PATIENCE_SECONDS
    n, starved = 0, 0.0  # starved: when there was no free connection, last of all
    while (n < total or busy) and time.perf_counter() < give_up:
        until = give_up
        while idle and n < total:
            due = start + n / pace.rate
            now = time.perf_counter()
            if now < due:
                until = due
                break
            if due > starved:
                found.late.append(now - due)
            send(idle.popleft(), due, pace.is_slow(n), busy, idle, found)
            n += 1
        timeout = max(until - time.perf_counter(), 0)
        ready, _, _ = select.select(busy, [], [], timeout)
        if not idle:
            starved = time.perf_counter()
        for connection in ready:
            take(connection, busy, idle, found)
    found.errors += total - n + len(busy)


def send(
    connection: Connection,
    due: float,
    is_slow: bool,
    busy: set[Connection],
    idle: deque[Connection],
    found: Latencies,
) -> None:
    try:
        connection.send(due, is_slow)
    except OSError:
        found.errors += 1
        connection.reconnect()
        idle.append(connection)
    else:
        busy.add(connection)


def take(
    connection: Connection,
    busy: set[Connection],
    idle: deque[Connection],
    found: Latencies,
) -> None:
    """What has come on a connection; it is free again if that was the whole reply."""
    try:
        is_ok = connection.receive()
    except OSError:
        connection.reconnect()
        is_ok = False
    if is_ok is None:
        return
    if is_ok:
        latency = time.perf_counter() - connection.due
        (found.slow if connection.is_slow else found.fast).append(latency)
    else:
        found.errors += 1
    busy.discard(connection)
    idle.append(connection)
