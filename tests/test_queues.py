"""What waits for a handler: how many may, for how long, and who waits for whom."""

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import gates
import helpers
import pytest
from conftest import Serve
from helpers import Connection, get

import fastbatch

LONG = 3000.0  # seconds: nobody waits for so long here


class BatchGate:
    """A batch handler that waits where a request is for /gate; it notes all paths."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self._is_entered = threading.Event()
        self._is_open = threading.Event()

    @fastbatch.batch
    def __call__(self, batch: fastbatch.Batch) -> list[str]:
        paths = [request.path for request in batch]
        self.batches.append(paths)
        if "/gate" in paths:
            self._is_entered.set()
            assert self._is_open.wait(helpers.TIMEOUT)
        return paths

    @contextlib.contextmanager
    def held(self, server: fastbatch.Server) -> Iterator[None]:
        """Keep one thread of the server in the handler for the length of the block."""
        with Connection(server) as connection:
            connection.send(get("/gate"))
            try:
                assert self._is_entered.wait(helpers.TIMEOUT)
                yield
            finally:
                self._is_open.set()
            assert connection.reply().body == b"/gate"


def echo(request: fastbatch.Request) -> str:
    return request.path


def send_and_wait(
    server: fastbatch.Server, connections: list[Connection], *fields: str
) -> None:
    """Send a request on each, and wait until all are in the queue."""
    before = server.stats()["bytes_received"]
    requests = [get(f"/{i}", *fields) for i in range(len(connections))]
    for connection, request in zip(connections, requests, strict=True):
        connection.send(request)
    gates.wait_until_read(server, before + sum(map(len, requests)))


# ---- how many ----------------------------------------------------------------------


@pytest.mark.parametrize("status", [503, 429])
@pytest.mark.parametrize("more", [-1, 0, 1, 3])
@pytest.mark.parametrize("size", [1, 4, 300])
def test_queue_that_is_full_refuses_just_what_is_too_much(
    serve: Serve, size: int, more: int, status: int
) -> None:
    gate = gates.Gate(echo)
    server = serve(gate, threads=1, queue_size=size, queue_full_status=status)
    with gates.connect(server, size + more) as connections:
        fitting, refused = connections[:size], connections[size:]
        with gate.held(server):
            send_and_wait(server, fitting)
            send_and_wait(server, refused)
            for connection in refused:
                reply = connection.reply()
                assert reply.status == status
                assert reply.headers["Retry-After"] == "5"
                assert reply.headers["Connection"] is None
        for i, connection in enumerate(fitting):
            assert connection.reply().body == f"/{i}".encode()


def test_client_that_was_refused_may_come_again(serve: Serve) -> None:
    gate = gates.Gate(echo)
    server = serve(gate, threads=1, queue_size=2)
    with gates.connect(server, 3) as connections:
        with gate.held(server):
            send_and_wait(server, connections[:2])
            for _ in range(3):
                assert connections[2].ask("/again").status == 503
        for i, connection in enumerate(connections[:2]):
            assert connection.reply().body == f"/{i}".encode()
        assert connections[2].ask("/again").body == b"/again"
    stats = server.stats()
    assert stats["refused"] == stats["replies"][503] == 3


def test_body_of_a_refused_request_is_no_request(serve: Serve) -> None:
    gate = gates.Gate(echo)
    server = serve(gate, threads=1, queue_size=1)
    body = get("/smuggled")
    with gates.connect(server, 2) as (first, second):
        with gate.held(server):
            send_and_wait(server, [first])
            for _ in range(2):
                second.send(gates.request("/", method="POST", body=body))
                assert second.reply().status == 503
        assert first.reply().body == b"/0"
        assert second.ask("/mine").body == b"/mine"


def test_pipelined_requests_are_refused_in_order(serve: Serve) -> None:
    """What follows one that has a place waits for its turn, and is not refused."""
    gate = gates.Gate(echo)
    server = serve(gate, threads=1, queue_size=2)
    with gates.connect(server, 2) as (first, second):
        with gate.held(server):
            first.send(b"".join(get(f"/{i}") for i in range(5)))
            gates.wait_until_read(server, 5 * len(get("/0")))
        assert [first.reply().body for _ in range(5)] == [
            f"/{i}".encode() for i in range(5)
        ]
        assert second.ask("/a").body == b"/a"


def test_full_queue_of_a_batch_handler_leaves_others_alone(serve: Serve) -> None:
    gate = BatchGate()
    router = fastbatch.Router(fallback=gate)
    router.add("GET", "/health", echo)
    server = serve(router, threads=2, queue_size=2)
    with gates.connect(server, 4) as connections:
        with gate.held(server):
            # One batch at a time: the other thread has nothing to do.
            send_and_wait(server, connections[:2])
            assert connections[2].ask("/refused").status == 503
            for _ in range(3):
                assert connections[3].ask("/health").body == b"/health"
                assert connections[2].ask("/health").body == b"/health"
            assert gate.batches == [["/gate"]]
        assert [each.reply().body for each in connections[:2]] == [b"/0", b"/1"]
    assert [sorted(batch) for batch in gate.batches] == [["/gate"], ["/0", "/1"]]


# ---- for how long ------------------------------------------------------------------


def behind(gate: BatchGate, handler: Any) -> fastbatch.Router:
    """A router where requests of ``gate`` never expire, and all others may."""
    router = fastbatch.Router(fallback=handler)
    router.get("/gate")(fastbatch.batch(deadline=0)(lambda batch: gate(batch)))
    return router


def test_request_that_waits_for_too_long_gets_504(serve: Serve) -> None:
    gate = BatchGate()
    server = serve(behind(gate, echo), threads=1, deadline=0.05)
    with gates.connect(server, 3) as connections, gate.held(server):
        send_and_wait(server, connections)
        for connection in connections:
            reply = connection.reply()  # while the only thread is busy
            assert reply.status == 504
            assert reply.headers["Connection"] is None
    stats = server.stats()
    assert stats["requests"] == 1
    assert stats["expired"] == stats["replies"][504] == 3


def test_handler_is_not_called_for_what_has_expired(serve: Serve) -> None:
    gate = BatchGate()
    server = serve(gate, threads=1, deadline_header="X-Deadline")
    with gates.connect(server, 3) as connections:
        with gate.held(server):
            send_and_wait(server, connections, "X-Deadline: 0.05")
            assert [each.reply().status for each in connections] == 3 * [504]
        assert connections[0].ask("/later").body == b"/later"
    assert gate.batches == [["/gate"], ["/later"]]


def test_deadline_of_a_handler_wins_over_the_servers(serve: Serve) -> None:
    gate = BatchGate()
    hasty = fastbatch.batch(deadline=0.05)(lambda batch: gate(batch))
    server = serve(behind(gate, hasty), threads=1, deadline=LONG)
    with gates.connect(server, 1) as connections, gate.held(server):
        send_and_wait(server, connections)
        assert connections[0].reply().status == 504


@pytest.mark.parametrize(
    ("name", "value"), [("X-Deadline", "0.05"), ("X-Deadline-ms", "50")]
)
@pytest.mark.parametrize("deadline", [0, LONG])
def test_client_may_shorten_the_deadline(
    serve: Serve, name: str, value: str, deadline: float
) -> None:
    gate = gates.Gate(echo)
    server = serve(gate, threads=1, deadline=deadline, deadline_header=name)
    with gates.connect(server, 2) as (patient, hasty):
        with gate.held(server):
            send_and_wait(server, [patient])
            send_and_wait(server, [hasty], f"{name.lower()}: {value}")
            assert hasty.reply().status == 504
        assert patient.reply().body == b"/0"


@pytest.mark.parametrize("value", ["1000", "nonsense", "-1", "", "1e9", "0x1", "inf"])
def test_client_cannot_lengthen_the_deadline(serve: Serve, value: str) -> None:
    gate = BatchGate()
    router = behind(gate, echo)
    server = serve(router, threads=1, deadline=0.05, deadline_header="X-Deadline")
    with gates.connect(server, 1) as connections, gate.held(server):
        send_and_wait(server, connections, f"X-Deadline: {value}")
        assert connections[0].reply().status == 504


def test_deadline_header_is_not_read_unless_it_is_named(serve: Serve) -> None:
    gate = gates.Gate(echo)
    server = serve(gate, threads=1, deadline_header="X-Other")
    with gates.connect(server, 1) as connections:
        with gate.held(server):
            send_and_wait(server, connections, "X-Deadline: 0")
            time.sleep(0.1)
        assert connections[0].reply().body == b"/0"


# ---- for whom ----------------------------------------------------------------------


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_batch_that_waits_is_handed_over_when_it_is_full(
    serve: Serve, threads: int
) -> None:
    gate = BatchGate()
    server = serve(gate, threads=threads, batch_wait=LONG, batch_size=4)
    with gates.connect(server, 4) as connections:
        for i, connection in enumerate(connections[:3]):
            send_and_wait(server, [connection])
            assert gate.batches == [], i
        send_and_wait(server, connections[3:])
        assert [each.reply().body for each in connections] == 4 * [b"/0"]
    assert gate.batches == [4 * ["/0"]]


@pytest.mark.parametrize("threads", [0, 1])
def test_batch_that_is_not_full_is_handed_over_in_time(
    serve: Serve, threads: int
) -> None:
    gate = BatchGate()
    server = serve(gate, threads=threads, batch_wait=0.1)
    with gates.connect(server, 3) as connections:
        began = time.monotonic()
        send_and_wait(server, connections)
        for connection in connections:
            assert connection.reply().status == 200
        assert time.monotonic() - began >= 0.1
    assert sum(map(len, gate.batches)) == 3


def test_wait_is_of_the_first_request_of_a_batch(serve: Serve) -> None:
    """Those that come later do not begin it anew."""
    gate = BatchGate()
    server = serve(gate, batch_wait=0.2)
    with gates.connect(server, 100) as connections:
        n_sent = 0
        while not gate.batches and n_sent < len(connections):
            connections[n_sent].send(get())
            n_sent += 1
            time.sleep(0.05)
        assert 1 <= len(gate.batches[0]) < len(connections)


def test_one_route_waits_and_the_other_does_not(serve: Serve) -> None:
    gate = BatchGate()
    router = fastbatch.Router()
    router.add("GET", "/health", echo)
    router.post("/wait")(fastbatch.batch(batch_wait=LONG)(lambda batch: gate(batch)))
    server = serve(router)
    with gates.connect(server, 2) as (first, second):
        first.send(gates.request("/wait", method="POST"))
        for _ in range(3):
            assert second.ask("/health").body == b"/health"
        assert gate.batches == []
        server.stop()  # it answers what it has
        assert first.reply().body == b"/wait"


@pytest.mark.parametrize("threads", [0, 1])
def test_client_that_leaves_a_waiting_batch_harms_nobody(
    serve: Serve, threads: int
) -> None:
    gate = BatchGate()
    server = serve(gate, threads=threads, batch_wait=LONG, batch_size=3)
    with gates.connect(server, 3) as connections:
        send_and_wait(server, connections[:2])
        connections[0].close()
        assert gate.batches == []
        send_and_wait(server, connections[2:])
        assert [each.reply().body for each in connections[1:]] == [b"/1", b"/0"]
        helpers.wait_until(
            lambda: server.stats()["open_connections"] == 2, "noticing that it left"
        )
    assert [len(batch) for batch in gate.batches] == [3]


def test_deadline_ends_a_wait_for_others(serve: Serve) -> None:
    gate = BatchGate()
    server = serve(gate, batch_wait=LONG, deadline=0.05)
    with gates.connect(server, 1) as (connection,):
        connection.send(get())
        assert connection.reply().status == 504
        connection.send(get())
        assert connection.reply().status == 504
    assert gate.batches == []


def test_stop_hands_over_what_waits(serve: Serve) -> None:
    gate = BatchGate()
    server = serve(gate, batch_wait=LONG)
    with gates.connect(server, 2) as connections:
        send_and_wait(server, connections)
        server.stop()
        assert [each.reply().body for each in connections] == [b"/0", b"/1"]
    assert [sorted(batch) for batch in gate.batches] == [["/0", "/1"]]


def test_server_that_has_batches_waiting_is_at_rest(serve: Serve) -> None:
    server = serve(BatchGate(), batch_wait=LONG)
    with gates.connect(server, 2) as connections:
        send_and_wait(server, connections)
        assert gates.is_at_rest()
