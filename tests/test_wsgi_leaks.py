"""That requests of WSGI applications leave nothing behind them."""

import gc
import io
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import gates
import helpers
import pytest
import wsgi_helpers
from conftest import Serve
from helpers import Connection, get
from wsgi_helpers import OK, Body, Environ, StartResponse, replies

import fastbatch

ITEM = bytes(100)


def by_writing(_environ: Environ, start_response: StartResponse) -> list[bytes]:
    write = start_response(OK, [("X-A", "b")])
    write(ITEM)
    return [ITEM]


def changing_its_mind(
    _environ: Environ, start_response: StartResponse
) -> Iterator[bytes]:
    start_response(OK, [("X-A", "b")])
    yield b""
    try:
        raise LookupError
    except LookupError:
        start_response("404 Not Found", [], sys.exc_info())
    yield ITEM


def mistaken(_environ: Environ, start_response: StartResponse) -> list[bytes]:
    for arguments in (("x", []), (OK, [("X-A", "\n")]), (OK, 1), (OK,)):
        try:
            start_response(*arguments)
        except Exception:  # noqa: BLE001 - each is wrong
            continue
    try:
        raise LookupError
    except LookupError:
        start_response(OK, [], sys.exc_info())
    return [ITEM]


def cyclic(environ: Environ, start_response: StartResponse) -> list[bytes]:
    environ["me"] = [environ, start_response, start_response(OK, [])]
    return [ITEM]


def read_all(environ: Environ) -> Iterable[bytes]:
    stream = environ["wsgi.input"]
    parts = [stream.read(3), stream.readline(), *stream.readlines(5), *stream]
    return [b"".join(parts)]


# One of each kind: what they do must leave nothing behind.
KINDS: dict[str, Any] = {
    "list": replies([ITEM]),
    "list of many": replies([ITEM] * 10),
    "headers": replies([ITEM], ("X-A", "b"), ("Content-Length", "100")),
    "no start_response": lambda _environ, _start_response: [ITEM],
    "generator": replies(lambda _environ: (ITEM for _ in range(10))),
    "generator of known length": replies(
        lambda _environ: (ITEM for _ in range(10)), ("Content-Length", "1000")
    ),
    "iterable": replies(lambda _environ: Body([ITEM] * 3)),
    "large": replies(lambda _environ: [bytes(200_000)]),
    "file": replies(
        lambda environ: environ["wsgi.file_wrapper"](Path(__file__).open("rb"))  # noqa: SIM115
    ),
    "file-like": replies(
        lambda environ: environ["wsgi.file_wrapper"](io.BytesIO(ITEM), 10)
    ),
    "input": replies(read_all),
    "environ": replies(lambda environ: [repr(sorted(environ)).encode()]),
    "errors": replies(lambda environ: environ["wsgi.errors"].flush() or [ITEM]),
    "write()": by_writing,
    "exc_info": changing_its_mind,
    "mistakes": mistaken,
    "cycles": cyclic,
    "wrong item": replies([None]),
    "wrong body": replies(42),
}


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log nothing: pytest would keep it."""
    monkeypatch.setattr(wsgi_helpers.logging.getLogger("fastbatch"), "disabled", True)


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("kind", KINDS)
def test_requests_leave_no_memory_behind(serve: Serve, kind: str) -> None:
    server = serve(KINDS[kind])
    fields = ["X-A: b", "Cookie: d"]
    methods = {"GET": b"", "POST": b"some\nbody", "HEAD": b""}
    data = b"".join(
        gates.request("/%41?b=c", *fields, method=method, body=body)
        for method, body in methods.items()
    )
    n_rounds = 400
    with Connection(server) as connection:
        connection.send(data)
        for method in methods:
            connection.reply(method)
        size = len(connection.received)

        def ask(n: int) -> None:
            for _ in range(n):
                connection.send(data)
                left = size
                while left > 0:
                    piece = connection.socket.recv(min(left, 1_000_000))
                    assert piece
                    left -= len(piece)

        def memory() -> int:
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            ask(n_rounds)  # fills free lists
            before = memory()
            ask(n_rounds)
            # Less than one object for each request, when the last has ended.
            limit = before + n_rounds * len(methods) * 16
            helpers.wait_until(lambda: memory() < limit, "giving back all memory")
        finally:
            tracemalloc.stop()


def test_10_000_requests_leave_references_as_they_were(serve: Serve) -> None:
    item, name, value, status = bytes(10), "X-" + "A" * 9, "b" * 99, "200 As it was"
    fields = [(name, value)]

    def app(_environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, fields)
        return body

    body = [item]
    things = [item, name, value, status, fields, fields[0], body, app]
    server = serve(app)
    data = get() * 500
    helpers.talk(server, data, replies=500)
    before = [sys.getrefcount(thing) for thing in things]
    for _ in range(20):
        helpers.talk(server, data, replies=500)
    assert [sys.getrefcount(thing) for thing in things] == before
    assert server.stats()["requests"] == 21 * 500


def test_steady_state_takes_no_memory_in_c(serve: Serve) -> None:
    app = replies(lambda environ: [environ["wsgi.input"].read()], ("X-A", "b"))
    server = serve(app)
    data = gates.request(method="POST", body=bytes(3000))
    data += gates.request("/path", "X-A: " + "b" * 200, method="POST", body=b"body")
    with Connection(server) as connection:

        def ask(n: int) -> int:
            for _ in range(n):
                connection.send(data)
                connection.reply()
                connection.reply()
            allocations: int = server.stats()["allocations"]
            return allocations

        before = ask(20)
        assert ask(300) == before


def test_objects_of_a_request_are_freed_with_it(serve: Serve) -> None:
    """Without the help of the garbage collector."""
    gone: list[weakref.ref[Any]] = []

    class Item(list[bytes]):
        """What can be referred to weakly."""

    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response(OK, [])
        environ["mine"] = mine = Item()
        result = Item([b"x"])
        gone.extend(map(weakref.ref, [mine, result]))
        return result

    gc.disable()
    try:
        with Connection(serve(app)) as connection:
            for _ in range(10):
                connection.ask()
            helpers.wait_until(
                lambda: all(ref() is None for ref in gone), "freeing them all"
            )
    finally:
        gc.enable()
    assert len(gone) == 20


@pytest.mark.parametrize("is_read", [True, False], ids=["read", "aborted"])
def test_large_item_is_let_go_when_it_was_sent_or_the_client_left(
    serve: Serve, *, is_read: bool
) -> None:
    item = bytes(20_000_000)
    for body in ([item], (item,)):
        n_before = sys.getrefcount(item)
        with Connection(serve(replies(body))) as connection:
            connection.send(get())
            assert connection.socket.recv(1, 2)  # MSG_PEEK
            if is_read:
                assert len(connection.reply().body) == len(item)
        helpers.wait_until(
            lambda n=n_before: sys.getrefcount(item) == n, "letting go of the item"
        )


def test_item_of_a_stream_is_let_go_when_it_was_taken(serve: Serve) -> None:
    item = bytes(100_000)
    n_before = sys.getrefcount(item)

    def items() -> Iterator[bytes]:
        for _ in range(10):
            yield item

    with Connection(serve(replies(lambda _environ: items()))) as connection:
        assert len(connection.ask().body) == 10 * len(item)
        helpers.wait_until(
            lambda: sys.getrefcount(item) == n_before, "letting go of the item"
        )


def test_application_is_let_go_with_its_server() -> None:
    class App:
        def __call__(
            self, _environ: Environ, start_response: StartResponse
        ) -> list[bytes]:
            start_response(OK, [])
            return [b"x"]

    app = App()
    n_before = sys.getrefcount(app)
    server = fastbatch.Server(app, bind="127.0.0.1:0").start()
    helpers.get_url(server)
    server.stop()
    assert sys.getrefcount(app) > n_before
    del server
    gc.collect()
    assert sys.getrefcount(app) == n_before


def test_servers_of_applications_leave_no_descriptor_and_no_thread_behind(
    tmp_path: Path,
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(5_000_000))
    app = replies(lambda environ: environ["wsgi.file_wrapper"](path.open("rb")))
    before = helpers.open_files()
    n_threads = threading.active_count()
    for n in range(10):
        server = fastbatch.Server(app, bind="127.0.0.1:0", graceful_timeout=0.1)
        server.start()
        with Connection(server) as connection:
            connection.send(gates.request(method="POST", body=bytes(2_000_000)))
            assert connection.socket.recv(1)
            server.stop(now=bool(n % 2))
    assert helpers.open_files() == before
    assert threading.active_count() == n_threads
