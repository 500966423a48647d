"""Bodies that are made while they are sent."""

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import gates
import helpers
import pytest
from conftest import Serve
from helpers import Connection

import fastbatch
from fastbatch._core import LIMITS

BLOCK = bytes(65536)


class Items:
    """An iterator that counts how far it came and how often it was closed."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = iter(items)
        self.n_taken = 0
        self.n_closed = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        item = next(self._items)
        self.n_taken += 1
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        self.n_closed += 1


def endless() -> Iterator[bytes]:
    while True:
        yield BLOCK


def wait_until_closed(*streams: Items) -> None:
    helpers.wait_until(
        lambda: all(items.n_closed > 0 for items in streams), "calling close()"
    )
    assert [items.n_closed for items in streams] == [1] * len(streams)


def chunks_of(data: bytes) -> list[bytes]:
    """The chunks of a whole chunked reply."""
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"\r\nTransfer-Encoding: chunked\r\n" in head + b"\r\n"
    assert b"\r\nContent-Length:" not in head
    chunks = []
    while not body.startswith(b"0\r\n"):
        size, _, body = body.partition(b"\r\n")
        chunks.append(body[: int(size, 16)])
        assert body[len(chunks[-1]) :].startswith(b"\r\n")
        body = body[len(chunks[-1]) + 2 :]
    assert body == b"0\r\n\r\n"
    return chunks


def read_to_end(connection: Connection) -> tuple[bytes, bool]:
    """All that comes, and whether the connection was ended in an orderly way."""
    data = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.socket.recv(65536):
            data += piece
        return bytes(data), True
    return bytes(data), False


# ---- framing ------------------------------------------------------------------------


def test_stream_is_chunked_and_the_connection_goes_on(serve: Serve) -> None:
    server = serve(lambda _request: (200, (b"%d" % i for i in range(3))))
    for _ in range(2):
        data = helpers.talk(server, helpers.get(), replies=1)
        assert b"\r\nContent-Type: application/octet-stream\r\n" in data
        assert chunks_of(data) == [b"0", b"1", b"2"]
    with Connection(server) as connection:
        assert [connection.ask().body for _ in range(3)] == [b"012"] * 3


@pytest.mark.parametrize("fields", [[], ["Connection: keep-alive"]])
def test_stream_on_http_1_0_ends_with_the_connection(
    serve: Serve, fields: list[str]
) -> None:
    server = serve(lambda _request: (200, iter([b"a", b"b"])))
    data = helpers.talk(server, helpers.get("/", *fields, version="1.0") * 2)
    (reply,) = helpers.parse_replies(data)
    assert reply.body == b"ab"
    assert reply.headers["Connection"] == "close"
    assert "Transfer-Encoding" not in reply.headers
    assert "Content-Length" not in reply.headers


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_stream_of_known_length_is_sent_as_it_is(serve: Serve, version: str) -> None:
    def handler(_request: fastbatch.Request) -> Any:
        return 200, {"Content-Length": "4"}, iter([b"ab", b"", b"cd"])

    data = helpers.get("/", "Connection: keep-alive", version=version) * 3
    replies = helpers.parse_replies(helpers.talk(serve(handler), data, replies=3))
    assert [reply.body for reply in replies] == [b"abcd"] * 3
    assert all("Transfer-Encoding" not in reply.headers for reply in replies)


def test_stream_has_the_headers_of_its_handler(serve: Serve) -> None:
    def handler(_request: fastbatch.Request) -> Any:
        return 206, {"Content-Type": "text/csv", "X-A": "b"}, iter([b"a,b\n"])

    reply = helpers.get_url(serve(handler))
    assert (reply.status, reply.body) == (206, b"a,b\n")
    assert reply.headers.get_all("Content-Type") == ["text/csv"]
    assert reply.headers["X-A"] == "b"


def test_stream_with_connection_close_ends_the_connection(serve: Serve) -> None:
    def handler(_request: fastbatch.Request) -> Any:
        return 200, {"Connection": "close"}, iter([b"ab"])

    data = helpers.talk(serve(handler), helpers.get() * 2)
    (reply,) = helpers.parse_replies(data)
    assert (reply.body, reply.headers["Transfer-Encoding"]) == (b"ab", "chunked")


# ---- items --------------------------------------------------------------------------

BODIES: dict[str, tuple[Any, bytes | None]] = {
    "list": ([b"a", b"b"], b"ab"),
    "tuple": ((b"a", b"b"), b"ab"),
    "bytes-like of all kinds": (
        [b"a", bytearray(b"b"), memoryview(b"-c-")[1:2]],
        b"abc",
    ),
    "empty items": ([b"", b"a", b"", b"", b"b", b""], b"ab"),
    "only empty items": ([b"", b""], b""),
    "empty first item": (iter([b"", b"a"]), b"a"),
    "nothing": ([], b""),
    "items of any size": ([bytes([n % 256]) * n for n in range(0, 3000, 7)], None),
    "large items": ([b"a" * 1_000_000, b"b", b"c" * 300_000], None),
    "many items": ([b"%d," % n for n in range(50_000)], None),
}


@pytest.mark.parametrize(("body", "expected"), BODIES.values(), ids=BODIES)
def test_items_arrive_as_they_are(
    serve: Serve, body: Any, expected: bytes | None
) -> None:
    def handler(request: fastbatch.Request) -> Any:
        return "in step" if request.path == "/next" else (200, body)

    if expected is None:
        expected = b"".join(body)
    with Connection(serve(handler)) as connection:
        reply = connection.ask()
        assert (reply.status, len(reply.body)) == (200, len(expected))
        assert reply.body == expected
        assert connection.ask("/next").body == b"in step"


def test_stream_of_nothing_has_length_0(serve: Serve) -> None:
    reply = helpers.get_url(serve(lambda _request: (200, iter(()))))
    assert (reply.body, reply.headers["Content-Length"]) == (b"", "0")


def test_file_is_a_stream_and_closed(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"line\n" * 1000)
    file = path.open("rb")
    reply = helpers.get_url(serve(lambda _request: (200, file)))
    assert reply.body == b"line\n" * 1000
    helpers.wait_until(lambda: file.closed, "closing the file")


@pytest.mark.parametrize("item", ["text", 1, None, [b"x"]], ids=repr)
def test_first_item_of_a_wrong_type_is_a_500(
    serve: Serve, caplog: pytest.LogCaptureFixture, item: Any
) -> None:
    items = Items([item])
    with Connection(serve(lambda _request: (200, items))) as connection:
        assert connection.ask().status == 500
        items = Items([b"good"])
        assert connection.ask().body == b"good"
    assert "is not bytes-like" in gates.wait_for_error(caplog).getMessage()


@pytest.mark.parametrize("item", ["text", 1, None, memoryview(b"0123")[::2]], ids=repr)
@pytest.mark.parametrize(
    "fields", [{}, {"Content-Length": "9"}], ids=["chunked", "length"]
)
def test_later_item_of_a_wrong_type_breaks_the_connection(
    serve: Serve, caplog: pytest.LogCaptureFixture, fields: Any, item: Any
) -> None:
    items = Items([b"good", item, b"never"])

    def handler(request: fastbatch.Request) -> Any:
        return (200, fields, items) if request.path == "/bad" else "never"

    with Connection(serve(handler)) as connection:
        connection.send(helpers.get("/bad") + helpers.get())
        data, is_orderly = read_to_end(connection)
    assert not is_orderly
    assert_is_broken(data)
    record = gates.wait_for_error(caplog)
    assert "broke off" in record.getMessage()
    assert record.exc_info is not None
    assert "is not bytes-like" in str(record.exc_info[1])
    wait_until_closed(items)


def assert_is_broken(data: bytes) -> None:
    """A client must see that the one reply in ``data`` is not whole."""
    assert b"never" not in data
    if data:  # a reset may overtake what was sent before it
        with pytest.raises(http.client.HTTPException):
            helpers.parse_replies(data)


# ---- streams that fail --------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("n_items", [1, 1000])
def test_stream_that_raises_breaks_its_connection_alone(
    serve: Serve, caplog: pytest.LogCaptureFixture, n_items: int, version: str
) -> None:
    items = Items([b"item"] * n_items + [ZeroDivisionError("no more")])

    def handler(request: fastbatch.Request) -> Any:
        return (200, items) if request.path == "/bad" else request.path[1:]

    server = serve(handler)
    with Connection(server) as bystander, Connection(server) as connection:
        connection.send(helpers.get("/bad", version=version) + helpers.get("/never"))
        data, is_orderly = read_to_end(connection)
        assert bystander.ask("/good").body == b"good"
    assert not is_orderly
    if version == "1.1":
        assert_is_broken(data)
    record = gates.wait_for_error(caplog)
    assert "broke off" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError
    wait_until_closed(items)


def test_stream_that_raises_before_its_first_item_is_a_500(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    items = Items([ZeroDivisionError("none at all")])

    def handler(request: fastbatch.Request) -> Any:
        return (200, items) if request.path == "/bad" else "good"

    with Connection(serve(handler)) as connection:
        assert connection.ask("/bad").status == 500
        assert connection.ask().body == b"good"
    record = gates.wait_for_error(caplog)
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError
    assert items.n_closed == 1


@pytest.mark.parametrize(
    ("sent", "message"), [(9, "shorter than its"), (11, "longer than its")]
)
def test_stream_that_is_not_of_its_length_breaks_the_connection(
    serve: Serve, caplog: pytest.LogCaptureFixture, sent: int, message: str
) -> None:
    def handler(_request: fastbatch.Request) -> Any:
        return 200, {"Content-Length": "10"}, iter([b"x"] * sent)

    with Connection(serve(handler)) as connection:
        connection.send(helpers.get() * 2)
        data, is_orderly = read_to_end(connection)
    assert not is_orderly
    assert len(data.partition(b"\r\n\r\n")[2]) <= 10
    record = gates.wait_for_error(caplog)
    assert record.exc_info is not None
    assert message in str(record.exc_info[1])


def test_stream_of_nothing_that_has_a_length_is_a_500(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(lambda _request: (200, {"Content-Length": "4"}, iter([])))
    with Connection(server) as connection:
        assert [connection.ask().status for _ in range(2)] == [500, 500]
    assert all("has 0 bytes" in record.getMessage() for record in gates.errors(caplog))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_stream_that_ends_the_program_ends_the_server(
    serve: Serve, error: type[BaseException]
) -> None:
    items = Items([b"item", error()])
    server = serve(lambda _request: (200, items))
    with Connection(server) as connection:
        connection.send(helpers.get())
        data, _ = read_to_end(connection)
    with pytest.raises(error):
        server.stop()
    assert_is_broken(data)
    assert items.n_closed == 1


def test_close_that_raises_is_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    class Bad(Items):
        def close(self) -> None:
            super().close()
            raise ZeroDivisionError("in close")

    bad = Bad([b"item"])

    def handler(request: fastbatch.Request) -> Any:
        return (200, bad) if request.path == "/bad" else "good"

    with Connection(serve(handler)) as connection:
        assert connection.ask("/bad").body == b"item"
        wait_until_closed(bad)
        assert connection.ask().body == b"good"
    assert "close()" in gates.wait_for_error(caplog).getMessage()


# ---- close() ------------------------------------------------------------------------


def test_close_is_called_at_the_end(serve: Serve) -> None:
    streams = [Items([b"a", b"b"]) for _ in range(5)]
    waiting = iter(streams)
    with Connection(serve(lambda _request: (200, next(waiting)))) as connection:
        for _ in streams:
            assert connection.ask().body == b"ab"
        wait_until_closed(*streams)


UNSENT: dict[str, tuple[bytes, Any]] = {
    "HEAD": (gates.request(method="HEAD"), (200, ())),
    "HEAD on 1.0": (b"HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", (200, ())),
    "204": (helpers.get(), (204, ())),
    "205": (helpers.get(), (205, ())),
    "304": (helpers.get(), (304, ())),
    "bad headers": (helpers.get(), (200, {"X-A": "\n"})),
    "bad status": (helpers.get(), (2000, ())),
}


@pytest.mark.parametrize(("data", "start"), UNSENT.values(), ids=UNSENT)
def test_close_is_called_of_a_stream_that_is_not_sent(
    serve: Serve, data: bytes, start: tuple[Any, Any]
) -> None:
    items = Items([b"a", b"b"])

    def handler(request: fastbatch.Request) -> Any:
        return "in step" if request.path == "/next" else (*start, items)

    with Connection(serve(handler)) as connection:
        connection.send(data)
        reply = connection.reply(data.decode().split()[0])
        assert connection.ask("/next").body == b"in step"
    assert reply.status == (500 if "X-A" in start[1] or start[0] > 599 else start[0])
    assert "Transfer-Encoding" not in reply.headers
    if start[0] < 600:
        assert items.n_closed == 1
    assert items.n_taken <= 1


def test_stream_behind_a_reply_that_says_close_is_never_asked_for(
    serve: Serve,
) -> None:
    streams = {"/first": Items([b"a"]), "/second": Items([b"b"])}

    def handler(request: fastbatch.Request) -> Any:
        return 200, {"Connection": "close"}, streams.pop(request.path)

    data = helpers.get("/first") + helpers.get("/second")
    (reply,) = helpers.parse_replies(helpers.talk(serve(handler), data))
    assert reply.body == b"a"
    assert list(streams) == ["/second"]


@pytest.mark.parametrize("is_alone", [True, False], ids=["last client", "one of two"])
def test_close_is_called_when_the_client_leaves(
    serve: Serve, *, is_alone: bool
) -> None:
    items = Items(endless())
    server = serve(lambda _request: (200, items))
    with contextlib.ExitStack() as stack:
        if not is_alone:
            stack.enter_context(Connection(server))
        with Connection(server) as connection:
            connection.send(helpers.get())
            assert connection.socket.recv(1)
        wait_until_closed(items)


@pytest.mark.parametrize("now", [True, False])
def test_close_is_called_when_the_server_stops(serve: Serve, *, now: bool) -> None:
    items = Items(endless())
    server = serve(lambda _request: (200, items), graceful_timeout=0.1)
    with Connection(server) as connection:
        connection.send(helpers.get())
        assert connection.socket.recv(1)
        server.stop(now=now)
    assert items.n_closed == 1


def test_stream_is_finished_when_the_server_stops_gracefully(serve: Serve) -> None:
    go_on = threading.Event()

    def items() -> Iterator[bytes]:
        yield b"first"
        assert go_on.wait(helpers.TIMEOUT)
        for _ in range(1000):
            yield b"more"

    server = serve(lambda _request: (200, items()))
    with Connection(server) as connection:
        connection.send(helpers.get())
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        go_on.set()
        assert connection.reply().body == b"first" + b"more" * 1000
        assert connection.is_closed()
        stopper.join()


# ---- pace ---------------------------------------------------------------------------


def test_each_item_has_left_before_the_next_is_asked_for(serve: Serve) -> None:
    received = threading.Semaphore(0)
    in_time: list[bool] = []

    def events() -> Iterator[bytes]:
        for n in range(5):
            yield b"data: %d\n\n" % n
            in_time.append(received.acquire(timeout=helpers.TIMEOUT))

    server = serve(lambda _: (200, {"Content-Type": "text/event-stream"}, events()))
    with Connection(server) as connection:
        connection.send(helpers.get("/", "Connection: close"))
        data = b""
        for n in range(5):
            while b"data: %d\n\n" % n not in data:
                data += connection.socket.recv(4096)
            received.release()
        read_to_end(connection)
    assert in_time == [True] * 5


def connect_with_small_buffer(server: fastbatch.Server) -> socket.socket:
    client = socket.socket()
    client.settimeout(helpers.TIMEOUT)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(server.address)
    return client


def wait_until_paused(items: Items, bystander: Connection) -> int:
    """Wait until the stream does not go on although the server has the time to."""
    n_taken = -1
    while n_taken != items.n_taken:
        n_taken = items.n_taken
        for _ in range(20):
            assert bystander.ask("/quick").body == b"quick"
    return n_taken


def test_stream_waits_for_a_client_that_does_not_read(serve: Serve) -> None:
    n_blocks = 2**30 // len(BLOCK)
    items = Items(BLOCK for _ in range(n_blocks))

    def handler(request: fastbatch.Request) -> Any:
        return "quick" if request.path == "/quick" else (200, items)

    server = serve(handler)
    with (
        Connection(server) as bystander,
        connect_with_small_buffer(server) as client,
    ):
        client.sendall(helpers.get())
        assert client.recv(1)
        paused_at = wait_until_paused(items, bystander)
        in_kernel = 8 * 2**20  # the most that Linux buffers by default, and more
        high_water = LIMITS["output_high_water"]
        assert 0 < paused_at * len(BLOCK) < in_kernel + 2 * high_water

        left = 2 * in_kernel
        while left > 0:
            left -= len(client.recv(65536))
        helpers.wait_until(lambda: items.n_taken > paused_at, "going on")
        assert wait_until_paused(items, bystander) < n_blocks / 8
    wait_until_closed(items)


def test_endless_stream_holds_up_nobody(serve: Serve) -> None:
    items = Items(endless())

    def handler(request: fastbatch.Request) -> Any:
        return "quick" if request.path == "/quick" else (200, items)

    server = serve(handler)
    is_over = threading.Event()
    with Connection(server) as bystander, Connection(server) as connection:
        connection.send(helpers.get())

        def read() -> None:
            while not is_over.is_set():
                assert connection.socket.recv(1_000_000)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            for _ in range(50):
                assert bystander.ask("/quick").body == b"quick"
        finally:
            is_over.set()
            reader.join()


# ---- order --------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 256])
def test_streams_and_others_keep_their_order_on_one_connection(
    serve: Serve, batch_size: int
) -> None:
    kinds = ["stream", "plain", "large", "stream", "stream", "empty", "plain"] * 8

    def handler(request: fastbatch.Request) -> Any:
        name = request.path[1:]
        kind, i = name.split("-")
        if kind == "stream":
            return 200, (f"{name}.".encode() * 100 for _ in range(20 + int(i)))
        if kind == "empty":
            return 200, iter([])
        return name * 20_000 if kind == "large" else name

    def body_of(name: str) -> str:
        kind, i = name.split("-")
        if kind == "stream":
            return f"{name}." * 100 * (20 + int(i))
        return {"plain": name, "large": name * 20_000, "empty": ""}[kind]

    names = [f"{kind}-{i}" for i, kind in enumerate(kinds)]
    data = b"".join(helpers.get(f"/{name}") for name in names)
    server = serve(handler, batch_size=batch_size)
    replies = helpers.parse_replies(helpers.talk(server, data, replies=len(names)))
    assert [reply.body.decode() for reply in replies] == [*map(body_of, names)]


def test_streams_on_two_connections_go_on_by_turns(serve: Serve) -> None:
    first, second = Items(endless()), Items(endless())
    waiting = iter([first, second])
    server = serve(lambda _request: (200, next(waiting)))
    with Connection(server) as one, Connection(server) as other:
        for connection in (one, other):
            connection.send(helpers.get())
            assert connection.socket.recv(1)
        left = 64 * 2**20
        while left > 0:
            left -= len(one.socket.recv(65536)) + len(other.socket.recv(65536))
    assert min(first.n_taken, second.n_taken) * len(BLOCK) > 16 * 2**20
