"""What ends when: close() of bodies, clients that leave, and what was kept too long."""

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import gates
import helpers
import pytest
import wsgi_helpers
from conftest import Serve
from helpers import Connection, get
from wsgi_helpers import OK, Body, Environ, StartResponse, replies, wait_until_closed

BLOCK = bytes(65536)


def endless() -> Iterator[bytes]:
    while True:
        yield BLOCK


def reset(connection: Connection) -> None:
    """Close the connection with a TCP reset."""
    linger = struct.pack("ii", 1, 0)
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.close()


LEAVE: dict[str, Callable[[Connection], object]] = {
    "closed": Connection.close,
    "reset": reset,
}
leaving = pytest.mark.parametrize("leave", LEAVE.values(), ids=LEAVE)

# ---- close() ------------------------------------------------------------------------


class Sized(Body):
    """A body whose len() is 1."""

    def __len__(self) -> int:
        return 1


class ListWithClose(list[bytes]):
    n_closed = 0

    def close(self) -> None:
        self.n_closed += 1


CLOSED: dict[str, tuple[Callable[[], Any], bytes]] = {
    # what it is, the request
    "nothing": (lambda: Body([]), get()),
    "one item": (lambda: Body([b"a"]), get()),
    "len() of 1": (lambda: Sized([b"a"]), get()),
    "many items": (lambda: Body([b"a"] * 1000), get()),
    "large item": (lambda: Body([BLOCK * 100]), get()),
    "empty items": (lambda: Body([b"", b""]), get()),
    "subclass of list": (lambda: ListWithClose([b"a", b"b"]), get()),
    "HEAD": (lambda: Body([b"a", b"b"]), gates.request(method="HEAD")),
    "HEAD of len() of 1": (lambda: Sized([b"a"]), gates.request(method="HEAD")),
    "HEAD of list": (lambda: ListWithClose([b"a"]), gates.request(method="HEAD")),
    "HTTP/1.0": (lambda: Body([b"a"]), get(version="1.0")),
    "Connection: close": (lambda: Body([b"a"]), get("/", "Connection: close")),
    "error at first": (lambda: Body([ZeroDivisionError()]), get()),
    "error later": (lambda: Body([b"a", ZeroDivisionError()]), get()),
    "wrong item at first": (lambda: Body([None]), get()),
    "wrong item later": (lambda: Body([b"a", None]), get()),
}


@pytest.mark.parametrize(("make", "data"), CLOSED.values(), ids=CLOSED)
def test_close_is_called_exactly_once(
    serve: Serve, make: Callable[[], Any], data: bytes
) -> None:
    body = make()

    def both(environ: Environ) -> Any:
        return [b"next"] if environ["PATH_INFO"] == "/next" else body

    server = serve(replies(both))
    with Connection(server) as connection:
        connection.send(data)
        with contextlib.suppress(OSError):
            connection.end()
            wsgi_helpers.rest(connection)
    wait_until_closed(body)
    assert helpers.get_url(server, "/next").body == b"next"
    server.stop()
    assert body.n_closed == 1


@pytest.mark.parametrize("status", ["204 None", "304 Same"])
def test_close_is_called_of_a_body_that_is_not_sent(serve: Serve, status: str) -> None:
    body = Body([b"never"])
    with Connection(serve(replies(body, status=status))) as connection:
        assert connection.ask().body == b""
        wait_until_closed(body)
    assert body.n_taken <= 1


class Iterator_(Body):  # noqa: N801 - not the one of collections.abc
    """An iterator that counts how often it was closed."""

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return next(self._items)  # type: ignore[call-overload]


def test_close_is_called_of_what_is_returned_and_not_of_its_iterator(
    serve: Serve,
) -> None:
    class Outer(Body):
        def __iter__(self) -> Any:
            return inner

    inner = Iterator_(iter([b"a", b"b"]))
    outer = Outer([])
    assert helpers.get_url(serve(replies(outer))).body == b"ab"
    wait_until_closed(outer)
    assert inner.n_closed == 0


def test_close_is_called_of_an_iterator_that_is_returned(serve: Serve) -> None:
    body = Iterator_(iter([b"a", b"b"]))
    assert helpers.get_url(serve(replies(body))).body == b"ab"
    wait_until_closed(body)


def test_close_is_called_when_start_response_never_was(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    for items in ([], [b""], [b"item"]):
        body = Body(items)
        assert helpers.get_url(serve(lambda _e, _s, b=body: b)).status == 500
        wait_until_closed(body)
    wsgi_helpers.wait_for_errors(caplog, 3)


def test_close_is_called_when_iter_fails(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    class NoIterator(Body):
        def __iter__(self) -> Any:
            raise ZeroDivisionError

    class WrongIterator(Body):
        def __iter__(self) -> Any:
            return 42

    for body in (NoIterator([]), WrongIterator([])):
        assert helpers.get_url(serve(replies(body))).status == 500
        wait_until_closed(body)
    wsgi_helpers.wait_for_errors(caplog, 2)


def test_close_is_called_after_the_last_item_has_left(serve: Serve) -> None:
    received = threading.Event()
    in_time: list[bool] = []

    class Closing(Body):
        def close(self) -> None:
            in_time.append(received.wait(2))
            super().close()

    body = Closing([b"all of it"])
    with Connection(serve(replies(body, ("Content-Length", "9")))) as connection:
        assert connection.ask().body == b"all of it"
        received.set()
        wait_until_closed(body)
    assert in_time == [True]


def test_close_is_not_called_before_the_end(serve: Serve) -> None:
    go_on = threading.Event()
    seen: list[int] = []

    def items() -> Iterator[bytes]:
        yield b"a"
        assert go_on.wait(helpers.TIMEOUT)
        seen.append(body.n_closed)
        yield b"b"

    body = Body(items())
    with Connection(serve(replies(body))) as connection:
        connection.send(get("/", "Connection: close"))
        assert connection.socket.recv(1)
        go_on.set()
        connection.rest()
    assert seen == [0]
    wait_until_closed(body)


@pytest.mark.parametrize("items", [[b"item"], [b"a", b"b"]])
def test_close_that_raises_is_logged_and_harms_nobody(
    serve: Serve, caplog: pytest.LogCaptureFixture, items: list[bytes]
) -> None:
    class Bad(Body):
        def close(self) -> None:
            super().close()
            raise ZeroDivisionError("in close")

    bad = Bad(items)

    def body(environ: Environ) -> Any:
        return bad if environ["PATH_INFO"] == "/bad" else [b"good"]

    with Connection(serve(replies(body))) as connection:
        assert connection.ask("/bad").body == b"".join(items)
        wait_until_closed(bad)
        assert connection.ask().body == b"good"
    assert "in close" in wsgi_helpers.wait_for_error(caplog)


def test_close_that_is_no_method_is_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    class Odd:
        close = 42

        def __iter__(self) -> Iterator[bytes]:
            return iter([b"item"])

    with Connection(serve(replies(lambda _environ: Odd()))) as connection:
        assert connection.ask().status in (200, 500)
        assert connection.ask().status in (200, 500)
    wsgi_helpers.wait_for_errors(caplog, 2)


@pytest.mark.parametrize("now", [True, False])
def test_close_is_called_when_the_server_stops(serve: Serve, *, now: bool) -> None:
    bodies = [Body(endless()) for _ in range(5)]
    waiting = iter(bodies)
    server = serve(replies(lambda _environ: next(waiting)), graceful_timeout=0.1)
    with contextlib.ExitStack() as stack:
        for _ in bodies:
            connection = stack.enter_context(Connection(server))
            connection.send(get())
            assert connection.socket.recv(1)
        server.stop(now=now)
    assert [body.n_closed for body in bodies] == [1] * 5


def test_body_is_finished_when_the_server_stops_gracefully(serve: Serve) -> None:
    go_on = threading.Event()

    def items() -> Iterator[bytes]:
        yield b"first"
        assert go_on.wait(helpers.TIMEOUT)
        for _ in range(1000):
            yield b"more"

    body = Body(items())
    server = serve(replies(body))
    with Connection(server) as connection:
        connection.send(get())
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        go_on.set()
        assert connection.reply().body == b"first" + b"more" * 1000
    stopper.join()
    assert body.n_closed == 1


# ---- clients that leave -------------------------------------------------------------


@leaving
def test_client_that_leaves_while_the_application_runs(
    serve: Serve, leave: Callable[[Connection], object]
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    body = Body([BLOCK] * 100)

    def wait(_environ: Environ) -> Body:
        entered.set()
        assert go_on.wait(helpers.TIMEOUT)
        return body

    server = serve(replies(wait))
    with Connection(server) as connection:
        connection.send(get())
        assert entered.wait(helpers.TIMEOUT)
        leave(connection)
        go_on.set()
    wait_until_closed(body)
    gates.wait_until_gone(server)
    assert body.n_taken <= 100


@leaving
@pytest.mark.parametrize("n_bytes", [1, 1000, 10_000_000])
def test_client_that_leaves_in_the_middle_of_a_stream(
    serve: Serve, leave: Callable[[Connection], object], n_bytes: int
) -> None:
    body = Body(endless())
    server = serve(replies(body))
    with Connection(server) as connection, Connection(server) as bystander:
        connection.send(get())
        left = n_bytes
        while left > 0:
            left -= len(connection.socket.recv(65536))
        leave(connection)
        wait_until_closed(body)
        bystander.close()
    gates.wait_until_gone(server)


@leaving
def test_client_that_leaves_while_an_item_is_made(
    serve: Serve, leave: Callable[[Connection], object]
) -> None:
    go_on = threading.Event()

    def items() -> Iterator[bytes]:
        yield b"first"
        assert go_on.wait(helpers.TIMEOUT)
        yield from endless()

    body = Body(items())
    server = serve(replies(body))
    with Connection(server) as connection:
        connection.send(get())
        assert connection.socket.recv(1)
        leave(connection)
        go_on.set()
    wait_until_closed(body)
    gates.wait_until_gone(server)


@leaving
def test_client_that_leaves_in_the_middle_of_a_large_list(
    serve: Serve, leave: Callable[[Connection], object]
) -> None:
    body = ListWithClose([bytes(1_000_000)] * 50)
    server = serve(replies(body))
    with Connection(server) as connection:
        connection.send(get())
        assert connection.socket.recv(1)
        leave(connection)
    gates.wait_until_gone(server)
    wait_until_closed(body)


@leaving
def test_client_that_leaves_while_it_is_written_to(
    serve: Serve, leave: Callable[[Connection], object]
) -> None:
    """The application may go on to the end of its loop, or be told by an exception."""
    body = Body([b"end"])
    returned: list[Body] = []
    is_over = threading.Event()

    def app(_environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response(OK, [])
        try:
            for _ in range(300):
                write(BLOCK)
            returned.append(body)
        finally:
            is_over.set()
        return body

    server = serve(app)
    with Connection(server) as connection:
        connection.send(get())
        assert connection.socket.recv(1)
        leave(connection)
    assert is_over.wait(helpers.TIMEOUT)
    gates.wait_until_gone(server)
    helpers.wait_until(lambda: body.n_closed == len(returned), "calling close()")


@leaving
def test_client_that_leaves_with_requests_pipelined(
    serve: Serve, leave: Callable[[Connection], object]
) -> None:
    bodies: list[Body] = []

    def body(_environ: Environ) -> Body:
        bodies.append(Body([BLOCK] * 100))
        return bodies[-1]

    server = serve(replies(body))
    with Connection(server) as connection:
        connection.send(get() * 20)
        assert connection.socket.recv(1)
        leave(connection)
    gates.wait_until_gone(server)
    wait_until_closed(*bodies)


def test_clients_that_leave_at_any_moment_leave_nothing_behind(serve: Serve) -> None:
    chance = random.Random(7)
    bodies: list[Body] = []

    def body(environ: Environ) -> Any:
        kind = environ["PATH_INFO"]
        size = 1 + len(bodies) % 50
        items: Any = [BLOCK] * size if kind == "/list" else (BLOCK for _ in range(size))
        bodies.append(Body(items))
        return bodies[-1]

    server = serve(replies(body))
    for _ in range(150):
        with Connection(server) as connection:
            connection.send(get(chance.choice(["/list", "/stream"])) * 2)
            for _ in range(chance.randrange(4)):
                connection.socket.recv(chance.choice([1, 100, 100_000]))
            chance.choice([*LEAVE.values()])(connection)
    gates.wait_until_gone(server)
    assert bodies
    wait_until_closed(*bodies)


# ---- what is kept beyond the request ------------------------------------------------


def keeping() -> tuple[wsgi_helpers.Application, list[tuple[Environ, Any, Any]]]:
    """An application that keeps all that it is given."""
    kept: list[tuple[Environ, Any, Any]] = []

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response(OK, [])
        kept.append((environ, start_response, write))
        return iter([b"ab"]) if environ["PATH_INFO"] == "/stream" else [b"ab"]

    return app, kept


ATTEMPTS: dict[str, Callable[[Environ, Any, Any], object]] = {
    "write()": lambda _environ, _start, write: write(b"late"),
    "start_response()": lambda _environ, start, _write: start("200 Late", []),
    "start_response() with exc_info": lambda _environ, start, _write: start(
        "500 Late", [], (ValueError, ValueError("late"), None)
    ),
}


@pytest.mark.parametrize("path", ["/list", "/stream"])
@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS)
def test_late_use_raises_and_sends_nothing(
    serve: Serve, attempt: Callable[..., object], path: str
) -> None:
    app, kept = keeping()
    with Connection(serve(app)) as connection:
        for n in range(3):
            assert connection.ask(path).body == b"ab"
            for late in kept:
                with pytest.raises(Exception):  # noqa: B017, PT011 - whatever it is
                    attempt(*late)
            assert len(kept) == n + 1
    with pytest.raises(Exception):  # noqa: B017, PT011 - also without a connection
        attempt(*kept[0])


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=ATTEMPTS)
def test_use_after_the_server_has_stopped_raises(
    serve: Serve, attempt: Callable[..., object]
) -> None:
    app, kept = keeping()
    server = serve(app)
    assert helpers.get_url(server).body == b"ab"
    server.stop()
    del server
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever it is
        attempt(*kept[0])


def test_late_use_by_many_threads_harms_nobody(serve: Serve) -> None:
    app, kept = keeping()
    is_over = threading.Event()
    n_raised = 0

    def use() -> None:
        nonlocal n_raised
        chance = random.Random(threading.get_ident())
        while not is_over.is_set():
            if late := kept[:-1]:
                attempt = chance.choice([*ATTEMPTS.values()])
                try:
                    attempt(*chance.choice(late))
                except Exception:  # noqa: BLE001 - whatever it is
                    n_raised += 1

    server = serve(app)
    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        with Connection(server) as connection:
            for n in range(50):
                reply = connection.ask("/stream" if n % 2 else "/list")
                assert reply.body == b"ab"
        helpers.wait_until(lambda: n_raised > 0, "a late use")
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def in_thread(function: Callable[[], object]) -> list[Exception]:
    """Call it in another thread; what it raises."""
    raised: list[Exception] = []

    def call() -> None:
        try:
            function()
        except Exception as error:  # noqa: BLE001 - that is what is looked at
            raised.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return raised


def test_write_in_another_thread_raises(serve: Serve) -> None:
    raised: list[Exception] = []

    def app(_environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response(OK, [])
        raised.extend(in_thread(lambda: write(b"never")))
        return [b"body"]

    with Connection(serve(app)) as connection:
        assert [connection.ask().body for _ in range(2)] == [b"body"] * 2
    assert len(raised) == 2


def test_start_response_may_be_called_in_another_thread(serve: Serve) -> None:
    """Nothing forbids it while the application waits."""

    def app(_environ: Environ, start_response: StartResponse) -> list[bytes]:
        raised = in_thread(lambda: start_response(OK, [("X-A", "b")]))
        if raised:
            error = raised[0]
            start_response(OK, [("X-A", "c")], (type(error), error, None))
        return [b"body"]

    with Connection(serve(app)) as connection:
        for _ in range(2):
            reply = connection.ask()
            assert (reply.status, reply.body) == (200, b"body")
            assert reply.headers["X-A"] in ("b", "c")


def test_environ_and_its_streams_may_be_kept(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    kept: list[Environ] = []
    server = serve(replies(lambda environ: kept.append(environ) or [b"x"]))
    bodies = [b"%d\n" % n * 100 for n in range(50)]
    with Connection(server) as connection:
        for n, body in enumerate(bodies):
            connection.send(gates.request(f"/{n}", method="POST", body=body))
            connection.reply()
    server.stop()
    for n, (environ, body) in enumerate(zip(kept, bodies, strict=True)):
        assert environ["PATH_INFO"] == f"/{n}"
        with contextlib.suppress(ValueError, OSError, RuntimeError):
            assert environ["wsgi.input"].read() in (b"", body)
        with contextlib.suppress(ValueError, OSError, RuntimeError):
            environ["wsgi.errors"].write(f"late {n}\n")
            assert gates.errors(caplog)[-1].getMessage() == f"late {n}"
        wrapper = environ["wsgi.file_wrapper"](open("/dev/null", "rb"))  # noqa: SIM115
        assert b"".join(wrapper) == b""
        wrapper.close()


def test_input_and_errors_that_are_kept_alone_may_be_used(serve: Serve) -> None:
    streams: list[Any] = []

    def body(environ: Environ) -> list[bytes]:
        streams.extend([environ.pop("wsgi.input"), environ.pop("wsgi.errors")])
        return [b"x"]

    server = serve(replies(body))
    with Connection(server) as connection:
        connection.send(gates.request(method="POST", body=b"body" * 1000))
        connection.reply()
    gates.wait_until_gone(server)
    for _ in range(2):
        with contextlib.suppress(ValueError, OSError, RuntimeError):
            assert streams[0].read(4) in (b"", b"body")
        with contextlib.suppress(ValueError, OSError, RuntimeError):
            streams[1].write("late\n")
        server.stop()


def test_cycles_through_the_environ_are_harmless(serve: Serve) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        write = start_response(OK, [])
        environ["me"] = environ
        environ["all"] = [start_response, write, environ]
        yield b"x"

    with Connection(serve(app)) as connection:
        assert [connection.ask().body for _ in range(100)] == [b"x"] * 100


def test_server_may_be_stopped_by_its_application(serve: Serve) -> None:
    def body(_environ: Environ) -> Iterator[bytes]:
        server.stop()
        yield b"the last words"

    server = serve(replies(body))
    assert helpers.get_url(server).body == b"the last words"
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        Connection(server)
