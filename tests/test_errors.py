"""Handlers that raise: what clients get, what is logged, and what goes on."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import gates
import helpers
import pytest
from conftest import Serve, Start
from helpers import Connection, get

import fastbatch


def endless_recursion(_request: fastbatch.Request) -> Any:
    return endless_recursion(_request)


def out_of_memory(_request: fastbatch.Request) -> None:
    raise MemoryError


def divide(_request: fastbatch.Request) -> float:
    return 1 / 0


class UnprintableError(Exception):
    def __str__(self) -> NoReturn:
        raise ZeroDivisionError

    __repr__ = __str__


def unprintable(_request: fastbatch.Request) -> None:
    raise UnprintableError


def stop_iteration(_request: fastbatch.Request) -> None:
    raise StopIteration


class Careless:
    """A handler that is no function."""

    def __call__(self, _request: fastbatch.Request) -> None:
        raise LookupError

    def __repr__(self) -> str:
        return "<Careless>"


HANDLERS: dict[str, tuple[Callable[..., Any], type[BaseException]]] = {
    "divide": (divide, ZeroDivisionError),
    "endless_recursion": (endless_recursion, RecursionError),
    "out_of_memory": (out_of_memory, MemoryError),
    "unprintable": (unprintable, UnprintableError),
    "stop_iteration": (stop_iteration, StopIteration),
    "<Careless>": (Careless(), LookupError),
}


@pytest.mark.parametrize(
    ("name", "handler", "error"),
    [(name, *pair) for name, pair in HANDLERS.items()],
    ids=HANDLERS,
)
def test_handler_that_raises_is_a_500_and_logged_once_with_traceback(
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
    name: str,
    handler: Callable[..., Any],
    error: type[BaseException],
) -> None:
    def handle(request: fastbatch.Request) -> Any:
        return handler(request)

    handle.__qualname__ = name
    with Connection(serve(handle)) as connection:
        reply = connection.ask("/path?query")
        assert (reply.status, reply.body) == (500, b"500 Internal Server Error\n")
        assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert "Connection" not in reply.headers
    record = gates.wait_for_error(caplog)
    assert record.name == "fastbatch"
    assert record.levelno == logging.ERROR
    assert name in record.getMessage()
    assert "GET /path?query" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is error


def test_handler_without_a_name_is_logged_by_its_repr(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    assert helpers.get_url(serve(Careless())).status == 500
    assert "<Careless>" in gates.wait_for_error(caplog).getMessage()


def fail_on_odd(request: fastbatch.Request) -> str:
    if int(request.path[1:]) % 2:
        raise ValueError(request.path)
    return request.path


def test_others_of_the_batch_are_not_harmed(serve: Serve) -> None:
    gate = gates.Gate(fail_on_odd)
    server = serve(gate)
    with gates.connect(server, 10) as connections:
        with gate.held(server):
            for i, connection in enumerate(connections):
                connection.send(get(f"/{i}") + get(f"/{i + 1}"))
        for i, connection in enumerate(connections):
            statuses = [connection.reply().status for _ in range(2)]
            assert statuses == ([500, 200] if i % 2 else [200, 500])
    assert gates.batch_sizes(server) == {1: 1, 20: 1}


def test_errors_of_every_request_do_not_stop_the_server(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    n = 600
    data = get("/1") * n + get("/0")
    replies = helpers.parse_replies(
        helpers.talk(serve(fail_on_odd), data, replies=n + 1)
    )
    assert [reply.status for reply in replies] == [500] * n + [200]
    assert len(gates.errors(caplog)) == n


# ---- logging that fails -------------------------------------------------------------


@contextlib.contextmanager
def failing_log(error: type[Exception]) -> Iterator[None]:
    class Failing(logging.Handler):
        def emit(self, _record: logging.LogRecord) -> None:
            raise error("in the log's handler")

    log = logging.getLogger("fastbatch")
    failing = Failing()
    log.addHandler(failing)
    try:
        yield
    finally:
        log.removeHandler(failing)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_log_that_fails_harms_no_other_slot(serve: Serve) -> None:
    with failing_log(OSError), Connection(serve(fail_on_odd)) as connection:
        connection.send(b"".join(get(f"/{i}") for i in range(6)))
        statuses = [connection.reply().status for _ in range(6)]
        assert statuses == [200, 500] * 3
        assert connection.ask("/0").status == 200


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_log_that_fails_does_not_keep_a_broken_stream_open(serve: Serve) -> None:
    def items() -> Iterator[bytes]:
        yield b"item"
        raise ZeroDivisionError

    server = serve(lambda _request: (200, items()))
    with failing_log(OSError), Connection(server) as connection:
        connection.send(get())
        with contextlib.suppress(ConnectionResetError):
            assert connection.rest()[-5:] != b"0\r\n\r\n"
    gates.wait_until_gone(server)


# ---- errors that end the server -----------------------------------------------------


class OwnExit(BaseException):
    pass


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OwnExit])
def test_base_exception_answers_the_batch_and_ends_the_server(
    serve: Serve, error: type[BaseException]
) -> None:
    def handler(request: fastbatch.Request) -> str:
        if request.path == "/1":
            raise error
        return request.path

    gate = gates.Gate(handler)
    server = serve(gate)
    with gates.connect(server, 5) as connections:
        _idle, *others = connections
        with gate.held(server):
            for i, connection in enumerate(others):
                connection.send(get(f"/{i}"))
        replies = [connection.reply() for connection in others]
        assert [reply.status for reply in replies] == [200, 500, 500, 500]
        assert all(connection.is_closed() for connection in connections)
    with pytest.raises(error):
        server.stop()
    server.stop()  # it is raised once


def test_base_exception_is_raised_by_run(serve: Serve) -> None:
    raised: list[BaseException] = []
    del serve

    def handler(_request: fastbatch.Request) -> NoReturn:
        raise SystemExit(7)

    server = fastbatch.Server(handler, bind="127.0.0.1:0")

    def run() -> None:
        try:
            server.run()
        except BaseException as error:  # noqa: BLE001 - that is what is looked at
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    helpers.wait_until(lambda: server._workers is not None, "listening")
    assert helpers.get_url(server).status == 500
    thread.join()
    (error,) = raised
    assert isinstance(error, SystemExit)
    assert error.code == 7


def test_system_exit_of_a_handler_ends_the_program_with_its_status(
    start: Start,
) -> None:
    program = start(
        "-c",
        "import fastbatch, sys\n"
        "fastbatch.run(lambda request: sys.exit(7), bind='127.0.0.1:0')",
    )
    with Connection(program.address()) as connection:
        assert connection.ask().status == 500
    assert program.wait() == 7


def test_base_exception_of_the_last_requests_is_not_lost_by_many(
    serve: Serve,
) -> None:
    def handler(_request: fastbatch.Request) -> NoReturn:
        raise KeyboardInterrupt

    server = serve(handler)
    with Connection(server) as connection:
        connection.send(get() * 300)
        replies = helpers.parse_replies(connection.rest())
    assert {reply.status for reply in replies} == {500}
    with pytest.raises(KeyboardInterrupt):
        server.stop()
