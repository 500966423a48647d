"""The turns of the loop: who is served when, and what an end in the middle leaves."""

import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn, Self

import gates
import helpers
import pytest
from conftest import Serve, Start
from helpers import Connection, get

import fastbatch
from fastbatch import _core

READ = _core.LIMITS["input_bytes"]  # the most that a first read takes
STREAM = [bytes(40_000)] * 2  # more than leaves at once


def handler(request: fastbatch.Request) -> Any:
    return (200, iter(STREAM)) if request.path == "/stream" else request.path


def get_of_size(n: int) -> bytes:
    """A GET request of ``n`` bytes."""
    return get("/", "X-A: " + "b" * (n - len(get("/", "X-A: "))))


def has_replies(connection: Connection, n: int) -> bool:
    """Read until there were ``n`` replies, as fast as can be; False if it ends."""
    received = b""
    while received.count(b"HTTP/1.1 200 OK\r\n") < n:
        piece = connection.socket.recv(65536)
        if not piece:
            return False
        received += piece
    return True


def rest_if_any(connection: Connection) -> bytes:
    """Read until the server closes the connection, or resets it."""
    try:
        return connection.rest()
    except ConnectionResetError:
        return connection.received


# ---- connections that are ready without a read --------------------------------------

PROGRAM = """\
import fastbatch, sys
import test_loop

size = int(sys.argv[1])
fastbatch.run(test_loop.handler, bind="127.0.0.1:0", batch_size=size)
"""

STREAMS = get("/stream") * 2
FULL_READ = STREAMS + get_of_size(READ - len(STREAMS))


@pytest.mark.parametrize(
    ("batch_size", "data"),
    [
        (1, [FULL_READ + get()] * 5),
        (
            256,
            [
                get() * (256 - n) + get("/stream") * n + get() * 256
                for n in range(1, 20)
            ],
        ),
    ],
    ids=["1", "256"],
)
def test_last_request_that_fills_the_batch_exactly_harms_nobody(
    start: Start, batch_size: int, data: list[bytes]
) -> None:
    """In a process of its own, which a crash would bring down."""
    program = start("-c", PROGRAM, str(batch_size))
    address = program.address()
    for each in data:
        with Connection(address) as connection:
            connection.send(each)
            time.sleep(0.02)  # by then the replies fill what sockets hold
            assert has_replies(connection, each.count(b"GET "))
    program.signal()
    assert program.wait() == 0, program.errors


@pytest.mark.parametrize(
    ("batch_size", "before", "after"), [(1, 0, 100), (256, 256, 10)]
)
@pytest.mark.parametrize("n_streams", [1, 2, 3, 9, 10, 20])
def test_pipelined_requests_before_a_half_close_are_all_answered(
    serve: Serve, batch_size: int, before: int, after: int, n_streams: int
) -> None:
    server = serve(handler, batch_size=batch_size)
    data = get() * max(before - n_streams, 0)
    data += get("/stream") * n_streams + get() * after
    with Connection(server) as connection:
        connection.send(data)
        connection.end()
        replies = helpers.parse_replies(connection.rest())
    assert len(replies) == data.count(b"GET ")


# ---- streams beside others ----------------------------------------------------------


def test_slow_stream_does_not_hold_up_small_requests(serve: Serve) -> None:
    n_taken = 0

    def slow() -> Iterator[bytes]:
        nonlocal n_taken
        while True:
            time.sleep(0.003)
            n_taken += 1
            yield b"0123456789"

    server = serve(lambda request: (200, slow()) if request.path == "/slow" else "ok")
    with Connection(server) as connection, Connection(server) as bystander:
        connection.send(get("/slow"))
        assert connection.socket.recv(1)
        before = n_taken
        times = []
        for _ in range(15):
            began = time.monotonic()
            assert bystander.ask().body == b"ok"
            times.append(time.monotonic() - began)
        assert statistics.median(times) < 0.2
        helpers.wait_until(lambda: n_taken > before, "going on with the stream")


# ---- time-outs beside slow handlers -------------------------------------------------


class Steps:
    """A handler that waits to be let go each time that it is asked for /step."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self._entered = threading.Semaphore(0)
        self._opened = threading.Semaphore(0)

    def __call__(self, request: fastbatch.Request) -> str:
        self.paths.append(request.path)
        if request.path == "/step":
            self._entered.release()
            assert self._opened.acquire(timeout=helpers.TIMEOUT)
        return request.path

    def wait(self) -> None:
        """Wait until it waits."""
        assert self._entered.acquire(timeout=helpers.TIMEOUT)

    def go(self) -> None:
        self._opened.release()


def test_request_that_came_while_two_handlers_were_slow_is_not_late(
    serve: Serve,
) -> None:
    steps = Steps()
    server = serve(steps, keepalive_timeout=2)
    with gates.connect(server, 3) as (first, second, third):
        third.ask()
        first.send(get("/step"))
        steps.wait()
        second.send(get("/step"))
        time.sleep(1.1)
        steps.go()
        steps.wait()
        third.send(get("/third"))  # less than the time-out after the last one
        time.sleep(1.1)
        steps.go()
        assert third.reply().body == b"/third"


def test_idle_connections_give_way_to_a_new_one_after_a_second(serve: Serve) -> None:
    server = serve(handler, max_connections=3)
    with gates.connect(server, 3) as connections:
        began = time.monotonic()
        for connection in connections:
            connection.ask()
        with Connection(server) as new:
            assert new.ask("/new").body == b"/new"
        assert time.monotonic() - began > 0.5


def test_connection_whose_request_waits_for_a_slow_handler_does_not_give_way(
    serve: Serve,
) -> None:
    steps = Steps()
    server = serve(steps, max_connections=2)
    with gates.connect(server, 2) as (first, second):
        second.ask()
        first.send(get("/step"))
        steps.wait()
        with Connection(server) as new:
            new.send(get("/new"))
            second.send(get("/second"))
            time.sleep(1.2)  # longer than what makes an idle connection give way
            steps.go()
            assert second.reply().body == b"/second"
            assert new.reply().body == b"/new"


# ---- ends ---------------------------------------------------------------------------


def test_stop_does_not_wait_for_an_idle_connection_whose_buffer_is_full(
    serve: Serve,
) -> None:
    server = serve(handler, batch_size=1, graceful_timeout=helpers.TIMEOUT)
    with gates.connect(server, 2) as (connection, bystander):
        connection.send(get_of_size(READ))
        connection.reply()
        bystander.ask()  # by then the loop has done with the other one
        began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < helpers.TIMEOUT / 2
        assert connection.is_closed()


@pytest.mark.parametrize(("batch_size", "most"), [(2, 6), (256, 1)])
def test_stop_now_drops_requests_that_were_parsed(
    serve: Serve, batch_size: int, most: int
) -> None:
    steps = Steps()
    server = serve(steps, batch_size=batch_size)
    with gates.connect(server, 3) as (first, second, third):
        first.send(get("/step"))
        steps.wait()
        second.send(get("/parsed"))  # is ready before the stop, so it is read first
        third.send(get("/parsed") * 4 + get()[:-1])
        server._running().stop(True)
        steps.go()
        server.stop()
        for connection in (second, third):
            rest_if_any(connection)  # and no more
    assert server.stats()["open_connections"] == 0
    assert len(steps.paths) <= most


# ---- what a reply raises ------------------------------------------------------------


class NotFoundError(fastbatch.HTTPError):
    """Its ``__init__`` forgets that of its base."""

    def __init__(self, what: str) -> None:
        self.what = what


class Raising:
    """A body, or headers, that raise."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __iter__(self) -> NoReturn:
        raise self._error

    items = __iter__

    def keys(self) -> list[str]:
        return []

    def __getitem__(self, name: str) -> NoReturn:
        raise KeyError(name)


ERRORS: dict[str, Callable[[], fastbatch.HTTPError]] = {
    "no init": lambda: NotFoundError("page"),
    "headers": lambda: fastbatch.HTTPError(
        404,
        None,
        Raising(ZeroDivisionError()),  # type: ignore[arg-type]
    ),
    "generator": lambda: fastbatch.HTTPError(
        404,
        None,
        (str(1 / n) for n in [0]),  # type: ignore[arg-type]
    ),
}


@pytest.mark.parametrize("make", ERRORS.values(), ids=ERRORS)
def test_http_error_that_is_none_fails_in_its_slot_alone(
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[], fastbatch.HTTPError],
) -> None:
    def handler(request: fastbatch.Request) -> str:
        if request.path == "/bad":
            raise make()
        return request.path

    gate = gates.Gate(handler)
    server = serve(gate)
    with gates.connect(server, 6) as connections:
        with gate.held(server):
            for i, connection in enumerate(connections):
                connection.send(get("/bad" if i == 1 else "/good"))
        statuses = [connection.reply().status for connection in connections]
    assert statuses == [200, 500, 200, 200, 200, 200]
    assert gates.batch_sizes(server) == {1: 1, 6: 1}
    assert gates.wait_for_error(caplog).exc_info is not None


class Unseen:
    """Headers whose attributes raise."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __getattr__(self, _name: str) -> NoReturn:
        raise self._error


REPLIES: dict[str, Callable[[BaseException], Any]] = {
    "body": lambda error: (200, Raising(error)),
    "headers": lambda error: (200, Raising(error), "text"),
    "attributes of headers": lambda error: (200, Unseen(error), "text"),
}


@pytest.mark.parametrize("kind", [ConnectionError, TypeError])
@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
def test_what_a_reply_raises_when_it_is_read_is_logged_with_its_traceback(
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
    reply: Callable[[BaseException], Any],
    kind: type[Exception],
) -> None:
    error = kind("the database is down")
    with Connection(serve(lambda _request: reply(error))) as connection:
        assert connection.ask().status == 500
    record = gates.wait_for_error(caplog)
    assert record.exc_info is not None
    assert record.exc_info[1] is error


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)
def test_reply_that_ends_the_program_when_it_is_read_ends_the_server(
    serve: Serve,
    reply: Callable[[BaseException], Any],
    error: type[BaseException],
) -> None:
    server = serve(lambda _request: reply(error()))
    with Connection(server) as connection:
        assert connection.ask().status == 500
        assert connection.is_closed()
    with pytest.raises(error):
        server.stop()


class Closing:
    """A body whose close() ends the program."""

    def __init__(self, items: Iterable[bytes] = STREAM) -> None:
        self._items = iter(items)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        return next(self._items)

    def close(self) -> NoReturn:
        raise SystemExit(7)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_close_that_ends_the_program_ends_the_server(serve: Serve, method: str) -> None:
    server = serve(lambda _request: (200, Closing()))
    with gates.connect(server, 2) as (connection, bystander):
        connection.send(gates.request(method=method))
        assert connection.reply(method).status == 200
        assert connection.is_closed()
        assert bystander.is_closed()
    with pytest.raises(SystemExit) as raised:
        server.stop()
    assert raised.value.code == 7


def test_close_after_its_client_left_that_ends_the_program_ends_the_server(
    serve: Serve,
) -> None:
    endless = iter(lambda: bytes(65536), None)
    server = serve(lambda _request: (200, Closing(endless)))
    with gates.connect(server, 2) as (connection, bystander):
        connection.send(get())
        assert connection.socket.recv(1)
        connection.close()
        assert bystander.is_closed()
    with pytest.raises(SystemExit):
        server.stop()


def test_close_that_ends_the_program_is_raised_by_run(start: Start) -> None:
    program = start(
        "-c",
        "import fastbatch, test_loop\n"
        "fastbatch.run(lambda _: (200, test_loop.Closing()), bind='127.0.0.1:0')",
    )
    with Connection(program.address()) as connection:
        assert connection.ask().status == 200
        assert connection.is_closed()
    assert program.wait() == 7


# ---- behind a reply that says close -------------------------------------------------


def say_close(request: fastbatch.Request) -> Any:
    headers = {"Connection": "close"}
    match request.path:
        case "/tuple":
            return 200, headers, "last"
        case "/stream":
            return 200, headers, iter([b"la", b"st"])
        case "/error":
            raise fastbatch.HTTPError(503, "last", headers)
    return request.path


@pytest.mark.parametrize("batch_size", [1, 256])
@pytest.mark.parametrize("path", ["/tuple", "/stream", "/error"])
def test_requests_behind_a_reply_that_says_close_are_not_handled(
    serve: Serve, path: str, batch_size: int
) -> None:
    """RFC 9112 9.6: a server that sends it MUST NOT process what comes after."""
    seen: list[str] = []

    def handler(request: fastbatch.Request) -> Any:
        seen.append(request.path)
        return say_close(request)

    gate = gates.Gate(handler)
    server = serve(gate, batch_size=batch_size)
    with gates.connect(server, 3) as (before, connection, after):
        with gate.held(server):
            before.send(get("/before") * 2)
            connection.send(get("/first") + get(path) + get("/never") * 3)
            after.send(get("/after") * 2)
        replies = helpers.parse_replies(connection.rest())
        for bystander, text in ((before, b"/before"), (after, b"/after")):
            assert [bystander.reply().body for _ in range(2)] == [text] * 2
            assert bystander.ask("/later").body == b"/later"
    assert [reply.body for reply in replies] == [b"/first", b"last"]
    assert replies[1].headers["Connection"] == "close"
    assert "/never" not in seen
    assert len(seen) == 8


def test_many_requests_behind_a_reply_that_says_close_are_not_handled(
    serve: Serve,
) -> None:
    seen: list[str] = []

    def handler(request: fastbatch.Request) -> Any:
        seen.append(request.path)
        return say_close(request)

    data = get("/tuple") + get("/never") * 2000
    server = serve(handler)
    (reply,) = helpers.parse_replies(helpers.talk(server, data))
    assert reply.body == b"last"
    assert helpers.get_url(server, "/alive").body == b"/alive"
    assert seen == ["/tuple", "/alive"]


@pytest.mark.parametrize("value", ["close", "Close", "CLOSE", b"cLoSe"])
@pytest.mark.parametrize("name", ["Connection", "connection"])
def test_connection_close_of_a_handler_closes_in_any_case(
    serve: Serve, name: str, value: str | bytes
) -> None:
    server = serve(lambda _request: (200, {name: value}, "last"))
    with Connection(server) as connection:
        reply = connection.ask()
        assert (reply.status, reply.body) == (200, b"last")
        assert reply.headers["Connection"].lower() == "close"
        assert len(reply.headers.get_all("Connection") or []) == 1
        assert connection.is_closed()
