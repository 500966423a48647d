"""That nothing is taken for each request, and nothing kept of it."""

import gc
import socket
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import gates
import helpers
import pytest
from conftest import Serve
from helpers import Connection, get

import fastbatch
from fastbatch._core import LIMITS

LARGE = 20_000_000  # bytes: more than sockets hold


def ask_many(connection: Connection, data: bytes, size: int) -> None:
    """Send requests whose replies have ``size`` bytes together, and read these."""
    connection.send(data)
    while size > 0:
        piece = connection.socket.recv(min(size, 1_000_000))
        assert piece
        size -= len(piece)


def reply_size(server: fastbatch.Server, path: str) -> int:
    return len(helpers.talk(server, get(path), replies=1))


# ---- the allocator ------------------------------------------------------------------


@pytest.mark.parametrize(("together", "rounds"), [(1, 200), (100, 100)])
def test_steady_state_takes_no_memory(serve: Serve, together: int, rounds: int) -> None:
    """100,000 requests with the larger of the parameters."""
    server = serve(lambda request: request.path)
    size = reply_size(server, "/") * together
    data = get() * together
    with gates.connect(server, 10) as connections:

        def ask_all(n: int) -> None:
            for _ in range(n):
                for connection in connections:
                    ask_many(connection, data, size)

        ask_all(3)
        before = server.stats()
        ask_all(rounds)
        after = server.stats()
    assert after["requests"] - before["requests"] == 10 * together * rounds
    assert after["allocations"] == before["allocations"]


def test_steady_state_of_bodies_and_headers_takes_no_memory(serve: Serve) -> None:
    def handler(request: fastbatch.Request) -> Any:
        return 200, {"X-A": request.headers["x-a"]}, request.body

    server = serve(handler)
    data = gates.request("/", "X-A: " + "b" * 200, method="POST", body=b"c" * 3000)
    with Connection(server) as connection:
        connection.send(data)
        connection.reply()
        size = len(connection.received)
        ask_many(connection, data, size)
        before = server.stats()["allocations"]
        for _ in range(500):
            ask_many(connection, data, size)
        assert server.stats()["allocations"] == before


def test_memory_of_connections_is_used_again(serve: Serve) -> None:
    gate = gates.Gate(lambda _request: "x")
    server = serve(gate)
    for _ in range(30):
        with gates.connect(server, 20) as connections:
            with gate.held(server):
                for connection in connections:
                    connection.send(get())
            for connection in connections:
                connection.reply()
        gates.wait_until_gone(server)
    stats = server.stats()
    assert stats["connections"] == 30 * 21
    assert stats["allocations"] < 10 * 21  # some for each that was open at a time


# ---- Python's objects ---------------------------------------------------------------

# One of each kind: what they do must leave nothing behind.
KINDS: dict[str, Callable[[fastbatch.Request], Any]] = {
    "text": lambda request: request.path,
    "attributes": lambda r: repr((r.headers, r.body, r.query, r.client, r.path)),
    "headers": lambda request: (200, {"X-A": request.headers["x-a"]}, b"x"),
    "Response": lambda _request: fastbatch.Response(200, [("X-A", "b")], "x"),
    "stream": lambda _request: (200, (b"%d" % i for i in range(10))),
    "large": lambda _request: bytes(2 * LIMITS["zero_copy_bytes"]),
    "large text": lambda _request: "é" * LIMITS["zero_copy_bytes"],
    "nothing": lambda _request: None,
}


@pytest.mark.parametrize("kind", KINDS)
def test_requests_leave_no_memory_behind(serve: Serve, kind: str) -> None:
    server = serve(KINDS[kind])
    data = gates.request("/%41?b=c", "X-A: b", method="POST", body=b"body")
    with Connection(server) as connection:
        connection.send(data)
        connection.reply()
        size = len(connection.received)

        def ask(n: int) -> None:
            for _ in range(n):
                ask_many(connection, data, size)

        def traced() -> int:
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            ask(1000)  # fills free lists
            time.sleep(0.05)  # the last body is let go of after its reply was read
            before = traced()
            ask(1000)
            # Bytes: less than one object for each request.
            helpers.wait_until(lambda: traced() - before < 1000 * 16, "letting go")
        finally:
            tracemalloc.stop()


def test_kept_requests_are_freed_when_they_are_let_go(serve: Serve) -> None:
    kept: list[fastbatch.Request] = []
    server = serve(kept.append)
    body = b"x" * 10_000

    def ask(n: int) -> int:
        with Connection(server) as connection:
            for _ in range(n):
                connection.send(gates.request(method="POST", body=body))
                connection.reply()
        assert len(kept) == n
        kept.clear()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        ask(20)
        before = ask(20)
        assert ask(200) - before < 10 * len(body)
    finally:
        tracemalloc.stop()


def make_str() -> str:
    return "x" * LARGE


@pytest.mark.parametrize("make", [make_str, lambda: b"x" * LARGE], ids=["str", "bytes"])
@pytest.mark.parametrize("is_read", [True, False], ids=["read", "aborted"])
def test_large_body_is_let_go_when_it_was_sent_or_the_client_left(
    serve: Serve, make: Callable[[], Any], *, is_read: bool
) -> None:
    body = make()
    server = serve(lambda _request: body)
    n_before = sys.getrefcount(body)
    with Connection(server) as connection:
        connection.send(get())
        connection.socket.recv(1, socket.MSG_PEEK)
        assert sys.getrefcount(body) > n_before
        if is_read:
            connection.reply()
    helpers.wait_until(
        lambda: sys.getrefcount(body) == n_before, "letting go of the body"
    )


def test_item_of_a_stream_is_let_go_when_it_was_taken(serve: Serve) -> None:
    item = bytes(100_000)
    n_before = sys.getrefcount(item)

    def items() -> Iterator[bytes]:
        for _ in range(10):
            yield item

    with Connection(serve(lambda _request: (200, items()))) as connection:
        assert len(connection.ask().body) == 10 * len(item)
        helpers.wait_until(
            lambda: sys.getrefcount(item) == n_before, "letting go of the item"
        )


def test_handler_is_let_go_with_its_server(serve: Serve) -> None:
    del serve

    class Handler:
        def __call__(self, _request: fastbatch.Request) -> str:
            return "x"

    handler = Handler()
    n_before = sys.getrefcount(handler)
    server = fastbatch.Server(handler, bind="127.0.0.1:0").start()
    helpers.get_url(server)
    server.stop()
    assert sys.getrefcount(handler) > n_before
    del server
    gc.collect()
    assert sys.getrefcount(handler) == n_before


# ---- connections and descriptors ----------------------------------------------------


def test_no_connection_is_kept_after_its_end(serve: Serve) -> None:
    server = serve(lambda _request: "x")
    with gates.connect(server, 50) as connections:
        for i, connection in enumerate(connections):
            if i % 3 == 0:
                connection.ask()
            elif i % 3 == 1:
                connection.send(b"GET / HT")
        assert server.stats()["open_connections"] == 50
    gates.wait_until_gone(server)
    assert server.stats()["connections"] == 50


@pytest.mark.parametrize("now", [True, False])
def test_servers_leave_no_descriptor_and_no_thread_behind(*, now: bool) -> None:
    before = helpers.open_files()
    threads = threading.active_count()
    for _ in range(20):
        server = fastbatch.Server(
            lambda _request: "x", bind=["127.0.0.1:0", "localhost:0"]
        )
        server.start()
        helpers.get_url(server)
        server.stop(now=now)
    assert helpers.open_files() == before
    assert threading.active_count() == threads


def test_server_that_never_served_leaves_nothing_behind() -> None:
    before = helpers.open_files()
    server = fastbatch.Server(lambda _request: "x", bind="127.0.0.1:0")
    server._open(wakeup_fd=-1)
    assert helpers.open_files() != before
    server._abandon()
    del server
    gc.collect()
    assert helpers.open_files() == before


def test_stop_with_connections_of_every_kind_leaves_nothing_behind() -> None:
    before = helpers.open_files()

    def handler(request: fastbatch.Request) -> Any:
        if request.path == "/stream":
            return 200, iter(lambda: bytes(65536), None)
        return b"x" * LARGE

    server = fastbatch.Server(handler, bind="127.0.0.1:0").start()
    with gates.connect(server, 5) as connections:
        data = [
            get("/stream"),
            get("/large"),
            get()[:-5],
            b"",
            gates.request(body=b"x"),
        ]
        for connection, request in zip(connections, data, strict=True):
            connection.send(request[:-1] if request.endswith(b"x") else request)
        for connection in connections[:2]:
            assert connection.socket.recv(1)
        server.stop(now=True)
    assert server.stats()["open_connections"] == 0
    assert helpers.open_files() == before
