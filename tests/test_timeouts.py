"""Clients that take too long: what they get, and what is not too long."""

import contextlib
import itertools
import select
import socket
import threading
import time
from collections.abc import Iterable
from typing import Any

import gates
import helpers
import pytest
from conftest import Serve
from helpers import Connection, get

import fastbatch
from fastbatch._core import LIMITS

SHORT = 0.2  # seconds: the time-out that is to be seen
FAIR = 1.0  # one that this program is not to miss when it is kept from its turn
LONG = 30.0  # the others then
POST = gates.request(method="POST", body=b"body")

pause = threading.Event().wait


def hello(_request: fastbatch.Request) -> str:
    return "hello"


def options(**own: float) -> Any:
    """Options with time-outs of which ``own`` alone can be seen."""
    names = ["keepalive", "head", "body", "write"]
    return {f"{n}_timeout": LONG for n in names} | {f"{n}_timeout": own[n] for n in own}


def drip(connection: Connection, data: Iterable[bytes], every: float) -> None:
    """Send piece by piece until there are no more or the server says something."""
    for piece in data:
        connection.send(piece)
        if select.select([connection.socket], [], [], every)[0]:
            break


# ---- between requests ---------------------------------------------------------------


@pytest.mark.parametrize("n_before", [0, 1, 3])
def test_idle_connection_is_closed_quietly(serve: Serve, n_before: int) -> None:
    server = serve(hello, **options(keepalive=FAIR if n_before else SHORT))
    with Connection(server) as connection:
        for _ in range(n_before):
            connection.ask()
        assert connection.rest() == b""
        gates.wait_until_gone(server)


def test_connection_that_is_used_is_not_closed(serve: Serve) -> None:
    server = serve(hello, **options(keepalive=2 * FAIR))
    with Connection(server) as connection:
        for _ in range(5):
            assert connection.ask().body == b"hello"
            pause(FAIR / 2)
        assert connection.ask().body == b"hello"


def test_handler_that_takes_long_is_no_idle_connection(serve: Serve) -> None:
    def slow(_request: fastbatch.Request) -> str:
        pause(1.5 * FAIR)
        return "late"

    times = dict.fromkeys(("keepalive", "head", "body", "write"), FAIR)
    with Connection(serve(slow, **options(**times))) as connection:
        for _ in range(2):
            assert connection.ask().body == b"late"


WAITING = {
    "request": ("keepalive", b"", get()),
    "head": ("head", get()[:9], get()[9:]),
    "body": ("body", POST[:-2], POST[-2:]),
}


@pytest.mark.parametrize(("name", "before", "data"), WAITING.values(), ids=WAITING)
def test_what_came_while_a_handler_ran_is_read_before_it_is_called_late(
    serve: Serve, name: str, before: bytes, data: bytes
) -> None:
    gate = gates.Gate(hello)
    server = serve(gate, **options(**{name: FAIR}))
    with gates.connect(server, 1) as (connection,):
        connection.send(before)
        helpers.wait_until(
            lambda: server.stats()["bytes_received"] == len(before), "reading"
        )
        with gate.held(server):
            connection.send(data)
            pause(1.5 * FAIR)  # while nothing can be read
        assert connection.reply().body == b"hello"


# ---- heads --------------------------------------------------------------------------


def assert_is_408(connection: Connection) -> None:
    reply = connection.reply()
    assert (reply.status, reply.body) == (408, b"408 Request Timeout\n")
    assert reply.headers["Connection"] == "close"
    assert connection.is_closed()


@pytest.mark.parametrize("part", [b"G", b"GET / HTTP/1.1\r\n", get()[:-1]])
def test_head_that_stops_is_answered_408(serve: Serve, part: bytes) -> None:
    server = serve(hello, **options(head=SHORT))
    with Connection(server) as connection:
        connection.ask()
        connection.send(part)
        assert_is_408(connection)
    assert server.stats()["timed_out"] == 1


def test_head_that_drips_is_answered_408(serve: Serve) -> None:
    endless = itertools.chain([get()[:-2], b"X-A: "], itertools.repeat(b"b"))
    server = serve(hello, **options(head=SHORT))
    with Connection(server) as connection:
        drip(connection, itertools.islice(endless, 500), 0.02)
        assert_is_408(connection)
    assert server.stats()["bytes_received"] < 500
    assert server.stats()["requests"] == 0


def test_head_that_stops_in_a_pipeline_is_answered_408(serve: Serve) -> None:
    with Connection(serve(hello, **options(head=SHORT))) as connection:
        connection.send(get() * 3 + get()[:-1])
        assert [connection.reply().status for _ in range(3)] == [200] * 3
        assert_is_408(connection)


# ---- bodies -------------------------------------------------------------------------

CHUNKED = gates.request("/", "Transfer-Encoding: chunked", method="POST")
PARTS = {
    "nothing": POST[:-4],
    "a part": POST[:-1],
    "no chunk": CHUNKED,
    "a part of a chunk": CHUNKED + b"4\r\nbo",
    "no last chunk": CHUNKED + b"4\r\nbody\r\n",
    "no last line": CHUNKED + b"4\r\nbody\r\n0\r\n",
    "after 100 Continue": gates.request("/", "Expect: 100-continue", body=b"body")[:-4],
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_body_that_stops_is_answered_408(serve: Serve, part: bytes) -> None:
    with Connection(serve(hello, **options(body=SHORT))) as connection:
        connection.send(part)
        assert_is_408(connection)


def test_body_that_drips_is_accepted_above_the_least_rate(serve: Serve) -> None:
    body = b"0123456789"
    data = gates.request(method="POST", body=body)
    server = serve(lambda request: request.body, min_rate=2, **options(body=FAIR))
    with Connection(server) as connection:
        connection.send(data[: -len(body)])
        drip(connection, (body[n : n + 1] for n in range(len(body))), FAIR / 8)
        assert connection.reply().body == body


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("min_rate", [0, 1000])
def test_body_that_drips_below_the_least_rate_is_answered_408(
    serve: Serve, chunked: bool, min_rate: int
) -> None:
    """With a rate of 0 it may drip for ever."""
    n = 30
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {n}"
    piece = b"1\r\nx\r\n" if chunked else b"x"
    server = serve(
        lambda request: request.body,
        min_rate=min_rate,
        **options(body=SHORT if min_rate > 0 else FAIR),
    )
    with Connection(server) as connection:
        connection.send(get("/", length))
        drip(connection, itertools.repeat(piece, n), FAIR / 20)
        if min_rate > 0:
            assert_is_408(connection)
            assert server.stats()["timed_out"] == 1
        else:
            connection.send(b"0\r\n\r\n" if chunked else b"")
            assert connection.reply().body == n * b"x"


def test_chunks_without_end_but_of_no_data_are_no_progress(serve: Serve) -> None:
    server = serve(hello, min_rate=1000, **options(body=SHORT))
    with Connection(server) as connection:
        connection.send(CHUNKED + b"1;")
        drip(connection, itertools.repeat(b"a", 30), SHORT / 8)
        assert_is_408(connection)


def test_time_in_which_a_handler_holds_the_loop_is_no_time_of_the_body(
    serve: Serve,
) -> None:
    gate = gates.Gate(lambda request: request.body)
    server = serve(gate, min_rate=1000, **options(body=FAIR))
    with Connection(server) as connection:
        connection.send(POST[:-3])
        gates.wait_until_read(server, len(POST) - 3)
        with gate.held(server):
            connection.send(POST[-3:-2])
            pause(1.5 * FAIR)
        connection.send(POST[-2:])
        assert connection.reply().body == b"body"


# ---- replies ------------------------------------------------------------------------

LARGE = 20_000_000  # bytes: more than sockets hold


@pytest.mark.parametrize("kind", ["body", "stream", "pipeline"])
def test_client_that_does_not_read_is_closed(serve: Serve, kind: str) -> None:
    def handler(_request: fastbatch.Request) -> Any:
        if kind == "stream":
            return 200, (bytes(50_000) for _ in range(LARGE // 50_000))
        return bytes(LARGE if kind == "body" else 50_000)

    server = serve(handler, **options(write=SHORT))
    with gates.connect(server, 1) as (connection,):
        n = LARGE // 50_000 if kind == "pipeline" else 1
        sender = threading.Thread(target=send_quietly, args=(connection, get() * n))
        sender.start()
        gates.wait_until_gone(server)
        sender.join()
        with contextlib.suppress(ConnectionResetError):
            assert len(connection.rest()) < LARGE
    assert server.stats()["timed_out"] == 1


def send_quietly(connection: Connection, data: bytes) -> None:
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.send(data)


def test_client_that_reads_slowly_gets_all(serve: Serve) -> None:
    server = serve(lambda _request: bytes(LARGE), **options(write=FAIR))
    with Connection(server) as connection:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 500_000)
        connection.send(get("/", "Connection: close"))
        left = LARGE
        while left > 0:
            for _ in range(32):
                left -= len(connection.socket.recv(65_536))
            pause(0.02)
        assert len(connection.rest()) < 1000  # the head
    assert server.stats()["timed_out"] == 0


@pytest.mark.parametrize("end", ["time-out", "stop"])
def test_reply_that_is_broken_off_does_not_look_complete(
    serve: Serve, end: str
) -> None:
    """On HTTP/1.0 the end of the connection is that of the reply, RFC 9112 6.3."""
    items = (bytes(50_000) for _ in range(LARGE // 50_000))
    server = serve(
        lambda _request: (200, items), **options(write=SHORT if end != "stop" else LONG)
    )
    with gates.connect(server, 1) as (connection,):
        connection.send(get("/", version="1.0"))
        assert connection.socket.recv(1)
        if end == "stop":
            server.stop(now=True)
        else:
            gates.wait_until_gone(server)
        with pytest.raises(ConnectionResetError):
            connection.rest()


def test_client_that_reads_below_the_least_rate_is_closed(serve: Serve) -> None:
    server = serve(
        lambda _request: bytes(LARGE), min_rate=10**9, **options(write=2 * SHORT)
    )
    with gates.connect(server, 1) as (connection,):
        connection.send(get())
        with contextlib.suppress(ConnectionResetError):
            while connection.socket.recv(200_000):
                pause(SHORT / 4)
        gates.wait_until_gone(server)
    assert server.stats()["timed_out"] == 1
    assert server.stats()["bytes_sent"] < LARGE


def test_client_that_does_not_close_after_the_last_reply_is_closed(
    serve: Serve,
) -> None:
    server = serve(hello)
    with Connection(server) as connection:
        connection.send(b"bad\r\n\r\n")
        assert connection.reply().status == 400
        assert connection.is_closed()
        gates.wait_until_gone(server)  # although this side is still open


def test_client_that_drips_after_the_last_reply_is_closed_in_its_time(
    serve: Serve,
) -> None:
    linger = LIMITS["linger_timeout_ms"] / 1000
    server = serve(hello)
    with Connection(server) as connection:
        connection.send(b"bad\r\n\r\n")
        assert connection.reply().status == 400
        n = int(3 * linger / 0.1)
        for _ in range(n):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.send(b"x")
            if server.stats()["open_connections"] == 0:
                break
            pause(0.1)
        assert server.stats()["open_connections"] == 0


# ---- none, and many -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["keepalive", "head", "body", "write"])
def test_no_timeout_is_early(serve: Serve, name: str) -> None:
    sent = {"keepalive": b"", "head": get()[:-1], "body": POST[:-1], "write": get()}
    timeout = 2 * SHORT
    server = serve(lambda _request: bytes(LARGE), **options(**{name: timeout}))
    began = time.monotonic()
    with gates.connect(server, 1) as (connection,):
        connection.send(sent[name])
        helpers.wait_until(lambda: server.stats()["timed_out"] == 1, "the time-out")
        assert time.monotonic() - began >= timeout - 0.01


def test_timeout_of_0_is_none(serve: Serve) -> None:
    none = dict.fromkeys(("keepalive", "head", "body", "write"), 0.0)
    server = serve(hello, **options(**none))
    with gates.connect(server, 3) as connections:
        sent = [b"", get()[:9], POST[:-2]]
        rest = [get(), get()[9:], POST[-2:]]
        for connection, data in zip(connections, sent, strict=True):
            connection.send(data)
        pause(0.6)  # longer than the tick that looks for what is over
        for connection, data in zip(connections, rest, strict=True):
            connection.send(data)
            assert connection.reply().body == b"hello"


def test_all_timeouts_are_on_by_default() -> None:
    default = fastbatch.Options()
    for name in ("keepalive", "head", "body", "write", "queue", "graceful"):
        assert 0 < getattr(default, f"{name}_timeout") <= 120
    assert default.min_rate > 0


def test_many_connections_time_out_together_and_others_do_not(serve: Serve) -> None:
    server = serve(hello, **options(head=SHORT))
    with (
        gates.connect(server, 10) as idle,
        gates.connect(server, 50) as slow,
    ):
        for connection in slow:
            connection.send(b"GET / HT")
        for connection in slow:
            assert_is_408(connection)
        for connection in idle:
            assert connection.ask().body == b"hello"
    assert server.stats()["timed_out"] == 50
