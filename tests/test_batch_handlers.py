"""Handlers of whole batches: what they are given, may return, and may do wrong."""

import collections
import contextlib
import ctypes
import functools
import gc
import logging
import select
import socket
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import gates
import helpers
import pytest
from conftest import Serve
from helpers import Connection, Reply, get

import fastbatch
from fastbatch._core import LIMITS
from fastbatch._dispatch import dispatcher_for

SLOTS = LIMITS["batch_slots"]
ZERO_COPY = LIMITS["zero_copy_bytes"]

Batch = fastbatch.Batch
BatchHandler = Callable[[Batch], Any]


@pytest.fixture(params=[0, 1, 2], ids=["loop", "1 thread", "2 threads"])
def threads(request: pytest.FixtureRequest) -> int:
    """On the loop, or in handler threads."""
    number: int = request.param
    return number


@pytest.fixture
def serve_batch(serve: Serve, threads: int) -> Serve:
    """A function that starts servers of batch handlers, on the loop or in threads."""

    def start(handler: BatchHandler, **options: Any) -> fastbatch.Server:
        options = {"interface": "batch", "threads": threads, **options}
        return serve(handler, **options)

    return start


def pipeline(
    server: fastbatch.Server, n: int, methods: Sequence[str] = ()
) -> list[Reply]:
    """All replies to ``n`` requests of one connection, which are one batch.

    Their paths are /0, /1 and so on, and they are GETs unless ``methods`` says more.
    """
    methods = methods or ["GET"] * n
    data = b"".join(
        gates.request(f"/{i}", method=method) for i, method in enumerate(methods)
    )
    with Connection(server) as connection:
        connection.send(data)
        connection.end()
        return helpers.parse_replies(connection.rest(), methods)


def texts(replies: Sequence[Reply]) -> list[str]:
    """The bodies of those that are no failures, and the status of those that are."""
    return [
        reply.body.decode() if reply.status == 200 else str(reply.status)
        for reply in replies
    ]


def paths_of(batch: Batch) -> list[str]:
    return [request.path for request in batch]


def numbered(n: int) -> list[str]:
    return [f"/{i}" for i in range(n)]


def logged(log: pytest.LogCaptureFixture) -> str:
    return gates.wait_for_error(log).getMessage()


# ---- marking ------------------------------------------------------------------------


@fastbatch.batch
def marked(batch: Batch) -> list[str]:
    """Say how many there are."""
    return [f"one of {len(batch)}"] * len(batch)


class Model:
    """Its methods are marked in the class body."""

    @fastbatch.batch
    def predict(self, batch: Batch) -> list[str]:
        return [f"one of {len(batch)}"] * len(batch)

    @fastbatch.batch(batch_size=100)
    def __call__(self, batch: Batch) -> list[str]:
        return self.predict(batch)

    @fastbatch.batch
    @staticmethod
    def static(batch: Batch) -> list[str]:
        return marked(batch)

    @fastbatch.batch
    @classmethod
    def of_class(cls, batch: Batch) -> list[str]:
        return marked(batch)

    def plain(self, batch: Batch) -> list[str]:
        return self.predict(batch)


def passed_on(handler: BatchHandler) -> BatchHandler:
    @functools.wraps(handler)
    def wrapper(batch: Batch) -> Any:
        return handler(batch)

    return wrapper


MARKED: dict[str, BatchHandler] = {
    "function": marked,
    "method": Model().predict,
    "instance": Model(),
    "static method": Model.static,
    "class method": Model.of_class,
    "bound method": fastbatch.batch(Model().plain),
    "partial": functools.partial(marked),
    "wrapped": passed_on(marked),
    "generator": fastbatch.batch(lambda batch: (yield from marked(batch))),
}


@pytest.mark.parametrize("handler", MARKED.values(), ids=MARKED)
def test_marked_handler_is_given_the_batch(serve: Serve, handler: BatchHandler) -> None:
    assert texts(pipeline(serve(handler), 3)) == ["one of 3"] * 3


def test_handler_that_is_not_marked_is_given_it_when_that_is_said(serve: Serve) -> None:
    server = serve(lambda batch: paths_of(batch), interface="batch")
    assert texts(pipeline(server, 3)) == numbered(3)


def test_what_is_said_is_stronger_than_the_mark(serve: Serve) -> None:
    @fastbatch.batch
    def handler(request: fastbatch.Request) -> str:
        return request.path

    server = serve(handler, interface="request")
    assert texts(pipeline(server, 3)) == numbered(3)


def test_marked_handler_can_still_be_called() -> None:
    assert marked([1, 2]) == ["one of 2"] * 2  # type: ignore[arg-type]
    assert marked.__name__ == "marked"
    taken = fastbatch.batch(Model().plain)
    assert taken([1]) == ["one of 1"]  # type: ignore[arg-type]
    assert taken.__name__ == "plain"


def test_settings_are_kept_with_the_handler() -> None:
    @fastbatch.batch(
        batch_size=64, batch_wait=0.002, deadline=1, queue_size=500, concurrency=2
    )
    def handler(batch: Batch) -> list[str]:
        return paths_of(batch)

    settings = handler.__fastbatch_batch__  # type: ignore[attr-defined]
    assert settings == fastbatch.BatchSettings(
        batch_size=64, batch_wait=0.002, deadline=1.0, queue_size=500, concurrency=2
    )
    assert marked.__fastbatch_batch__ == fastbatch.BatchSettings()  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        settings.batch_size = 1


@pytest.mark.parametrize(
    ("setting", "error", "message"),
    [
        (
            {"batch_size": 0},
            ValueError,
            "batch_size=0 is not allowed: it must be an integer from 1 to 256",
        ),
        ({"batch_size": "64"}, TypeError, "batch_size='64' is not allowed: it must be"),
        ({"batch_wait": -1}, ValueError, "batch_wait=-1 is not allowed: it must be a"),
        ({"deadline": True}, TypeError, "deadline=True is not allowed: it must be a"),
        ({"queue_size": 0}, ValueError, "queue_size=0 is not allowed: it must be an"),
        ({"concurrency": 0}, ValueError, "concurrency=0 is not allowed: it must be an"),
        ({"workers": 2}, TypeError, "unexpected keyword argument 'workers'"),
    ],
    ids=str,
)
def test_setting_that_is_not_allowed_is_refused(
    setting: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fastbatch.batch(**setting)
    with pytest.raises(error, match=message):
        fastbatch.BatchSettings(**setting)


@pytest.mark.parametrize(
    ("thing", "message"),
    [(64, "64, which is not callable"), (Model, "the class Model: mark its __call__")],
    ids=str,
)
def test_what_is_no_handler_is_not_marked(thing: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        fastbatch.batch(thing)


async def coroutine(batch: Batch) -> list[str]:
    return paths_of(batch)


async def asynchronous_generator(batch: Batch) -> Any:
    for path in paths_of(batch):
        yield path


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (coroutine, "is a coroutine function, which is not served"),
        (asynchronous_generator, "is an asynchronous generator function, which is not"),
        (lambda *, _batch: [], "a batch handler takes one batch, def handler"),
        (lambda _environ, _start_response: [], "a batch handler takes one batch"),
    ],
    ids=["coroutine", "async generator", "no argument", "two arguments"],
)
@pytest.mark.parametrize("interface", ["auto", "batch"])
def test_handler_that_cannot_be_one_of_batches_is_refused(
    handler: Callable[..., Any], message: str, interface: str
) -> None:
    with pytest.raises(TypeError, match=message):
        dispatcher_for(fastbatch.batch(handler), fastbatch.Options(interface=interface))


# ---- what may be returned -----------------------------------------------------------


class Countdown(Sequence[str]):
    """A sequence of no built-in kind."""

    def __init__(self, items: list[str]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: Any) -> Any:
        return self._items[index]


class Iterating:
    """An iterator that is no generator."""

    def __init__(self, items: list[str]) -> None:
        self._items = iter(items)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return next(self._items)


RESULTS: dict[str, Callable[[list[str]], Any]] = {
    "list": list,
    "tuple": tuple,
    "deque": collections.deque,
    "UserList": collections.UserList,
    "sequence": Countdown,
    "list iterator": iter,
    "map": lambda paths: map(str, paths),
    "generator": lambda paths: (path for path in paths),
    "iterator": Iterating,
}


@pytest.mark.parametrize("result", RESULTS.values(), ids=RESULTS)
@pytest.mark.parametrize("n", [1, 5, SLOTS])
def test_replies_are_given_in_the_order_of_the_requests(
    serve_batch: Serve, result: Callable[[list[str]], Any], n: int
) -> None:
    server = serve_batch(lambda batch: result(paths_of(batch)))
    assert texts(pipeline(server, n)) == numbered(n)
    assert texts(pipeline(server, n)) == numbered(n)


def test_replies_of_a_batch_are_of_all_kinds(serve_batch: Serve) -> None:
    def handler(_batch: Batch) -> list[Any]:
        return [
            "text",
            b"bytes",
            None,
            (201, "created"),
            (200, {"X-A": "b"}, "fields"),
            fastbatch.Response(404, (), "not here"),
            (200, iter([b"a ", b"stream"])),
            bytearray(b"x" * ZERO_COPY),
        ]

    replies = pipeline(serve_batch(handler), 8)
    statuses = [200, 200, 204, 201, 200, 404, 200, 200]
    assert [reply.status for reply in replies] == statuses
    assert replies[4].headers["x-a"] == "b"
    assert [replies[i].body for i in (0, 1, 2, 3, 5, 6)] == [
        b"text",
        b"bytes",
        b"",
        b"created",
        b"not here",
        b"a stream",
    ]
    assert replies[7].body == b"x" * ZERO_COPY
    assert "text/plain" in replies[0].headers["content-type"]


def test_requests_of_many_clients_are_one_batch(serve: Serve) -> None:
    seen: list[list[str]] = []
    gate = gates.Gate(lambda _request: None)

    def handler(batch: Batch) -> list[str]:
        if batch[0].path == "/gate":
            return [gate(batch[0])]
        seen.append(paths_of(batch))
        return [path[::-1] for path in seen[-1]]

    server = serve(handler, interface="batch")
    with gates.connect(server, 50) as connections:
        with gate.held(server):
            for i, connection in enumerate(connections):
                connection.send(get(f"/{i}"))
        for i, connection in enumerate(connections):
            assert connection.reply().body.decode() == f"/{i}"[::-1]
    assert [sorted(paths) for paths in seen] == [sorted(numbered(50))]


# ---- rows of numbers ----------------------------------------------------------------


class _PyBuffer(ctypes.Structure):
    """CPython's Py_buffer."""

    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.POINTER(ctypes.c_ssize_t)),
        ("strides", ctypes.POINTER(ctypes.c_ssize_t)),
        ("suboffsets", ctypes.POINTER(ctypes.c_ssize_t)),
        ("internal", ctypes.c_void_p),
    ]


def strided(
    memory: ctypes.Array[Any],
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    offset: int = 0,
) -> memoryview:
    """A view as numpy makes them, of bytes that are not in a row."""
    numbers = ctypes.c_ssize_t * len(shape)
    view = _PyBuffer(
        buf=ctypes.addressof(memory) + offset,
        len=ctypes.sizeof(memory),
        itemsize=1,
        readonly=1,
        ndim=len(shape),
        format=b"B",
        shape=numbers(*shape),
        strides=numbers(*strides),
    )
    from_buffer = ctypes.pythonapi.PyMemoryView_FromBuffer
    from_buffer.restype = ctypes.py_object
    made: memoryview = from_buffer(ctypes.byref(view))
    return made


MEMORY = (ctypes.c_ubyte * 24)(*range(24))
MEMORY_ROWS = [bytes(range(i, i + 8)) for i in (0, 8, 16)]


def floats() -> Any:
    return ((ctypes.c_float * 2) * 3)((1, 2), (3, 4), (5, 6))


def cast(kind: Any, *shape: int) -> memoryview:
    return memoryview(bytes(range(24))).cast(kind, list(shape))


# What is returned, and the three replies that it is.
ROWS: dict[str, tuple[Callable[[], Any], list[bytes]]] = {
    "bytes": (lambda: cast("B", 3, 8), MEMORY_ROWS),
    "shorts": (lambda: cast("h", 3, 4), MEMORY_ROWS),
    "characters": (lambda: cast("c", 3, 8), MEMORY_ROWS),
    "bools": (lambda: cast("?", 3, 8), MEMORY_ROWS),
    "three dimensions": (lambda: cast("B", 3, 2, 4), MEMORY_ROWS),
    "one number": (lambda: cast("Q", 3, 1), MEMORY_ROWS),
    "array of floats": (floats, [bytes(row) for row in floats()]),
    "with gaps": (
        lambda: strided(MEMORY, (3, 5), (8, 1)),
        [row[:5] for row in MEMORY_ROWS],
    ),
    "last first": (
        lambda: strided(MEMORY, (3, 8), (-8, 1), offset=16),
        MEMORY_ROWS[::-1],
    ),
    "the same again": (lambda: strided(MEMORY, (3, 8), (0, 1)), MEMORY_ROWS[:1] * 3),
    "rows of nothing": (lambda: strided(MEMORY, (3, 0), (8, 1)), [b""] * 3),
    "columns of one": (
        lambda: strided(MEMORY, (3, 1), (8, 99)),
        [row[:1] for row in MEMORY_ROWS],
    ),
}


@pytest.mark.parametrize(("make", "rows"), ROWS.values(), ids=ROWS)
def test_row_of_numbers_is_a_reply_of_its_bytes(
    serve_batch: Serve, make: Callable[[], Any], rows: list[bytes]
) -> None:
    replies = pipeline(serve_batch(lambda _batch: make()), 3)
    assert [reply.body for reply in replies] == rows
    for reply in replies:
        assert reply.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize("size", [8, 2 * ZERO_COPY], ids=["short", "long"])
def test_memory_of_rows_can_be_used_for_the_next_batch(
    serve_batch: Serve, size: int
) -> None:
    memory = bytearray(2 * size)
    rows = memoryview(memory).cast("B", [2, size])
    count = iter(range(1, 100))

    def handler(_batch: Batch) -> memoryview:
        memory[:] = bytes([next(count)]) * len(memory)
        return rows

    server = serve_batch(handler)
    with Connection(server) as slow, Connection(server) as quick:
        slow.send(get() * 2)
        helpers.wait_until(lambda: server.stats()["requests"] == 2, "handling")
        quick.send(get() * 2)
        for connection, number in ((quick, 2), (slow, 1)):
            for _ in range(2):
                assert connection.reply().body == bytes([number]) * size


class Pair(ctypes.Structure):
    _fields_ = [("a", ctypes.c_int), ("b", ctypes.c_int)]


# What is returned for three requests, and what is logged.
NO_RESULTS: dict[str, tuple[Callable[[], Any], str]] = {
    "str": (lambda: "abc", "'abc' was returned: give a list or another sequence"),
    "bytes": (lambda: b"abc", "b'abc' was returned: give"),
    "bytearray": (lambda: bytearray(3), "bytearray(b'\\x00\\x00\\x00') was returned:"),
    "memoryview": (lambda: memoryview(b"abc"), "was returned: give a list"),
    "dict": (lambda: dict.fromkeys("abc"), "was returned: give a list"),
    "UserDict": (
        lambda: collections.UserDict({0: 1, 1: 2, 2: 3}),
        "was returned: give",
    ),
    "set": (lambda: {"a", "b", "c"}, "was returned: give a list"),
    "number": (lambda: 3, "3 was returned: give a list"),
    "None": (lambda: None, "None was returned: give a list"),
    "objects": (
        lambda: ((ctypes.py_object * 2) * 3)(),
        "an array of 2 dimensions of the format <O was returned",
    ),
    "structures": (
        lambda: ((Pair * 2) * 3)(),
        "an array of 2 dimensions of the format T{<i:a:<i:b:} was returned",
    ),
    "columns": (
        lambda: strided(MEMORY, (3, 8), (1, 3)),
        "an array of 2 dimensions was returned whose rows are not contiguous: make a",
    ),
    "inner columns": (
        lambda: strided(MEMORY, (3, 2, 4), (8, 1, 2)),
        "an array of 3 dimensions was returned whose rows are not contiguous",
    ),
}


@pytest.mark.parametrize(("make", "message"), NO_RESULTS.values(), ids=NO_RESULTS)
def test_what_is_no_sequence_of_replies_is_a_500_for_the_batch(
    serve_batch: Serve,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[], Any],
    message: str,
) -> None:
    def handler(batch: Batch) -> Any:
        return make() if len(batch) == 3 else paths_of(batch)

    server = serve_batch(handler)
    replies = pipeline(server, 3)
    assert texts(replies) == ["500"] * 3
    assert replies[0].body == b"500 Internal Server Error\n"
    line = logged(caplog)
    assert line.startswith(f"handler {__name__}.test_what_is_no_sequence")
    assert ".handler, a batch of 3: " in line
    assert message in line
    assert texts(pipeline(server, 2)) == numbered(2)


# ---- how many -----------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 4, 6, 100])
@pytest.mark.parametrize(
    "make",
    [list, tuple, lambda items: ((ctypes.c_int * 2) * len(items))()],
    ids=["list", "tuple", "rows"],
)
def test_wrong_number_of_replies_is_a_500_for_all(
    serve_batch: Serve,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[list[str]], Any],
    n: int,
) -> None:
    def handler(batch: Batch) -> Any:
        return make(["x"] * n) if len(batch) == 5 else paths_of(batch)

    server = serve_batch(handler)
    assert texts(pipeline(server, 5)) == ["500"] * 5
    assert logged(caplog) == (
        f"handler {__name__}.test_wrong_number_of_replies_is_a_500_for_all"
        f".<locals>.handler: {n} replies for a batch of 5"
    )
    assert texts(pipeline(server, 2)) == numbered(2)


def test_sequence_of_the_wrong_length_is_not_read(
    serve_batch: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    read: list[int] = []

    class Long(Sequence[str]):
        def __len__(self) -> int:
            return sys.maxsize

        def __getitem__(self, i: Any) -> Any:
            read.append(i)
            if i == SLOTS:
                raise IndexError
            return "x"

    server = serve_batch(lambda _batch: Long())
    assert texts(pipeline(server, 5)) == ["500"] * 5
    assert logged(caplog).endswith(f": {sys.maxsize} replies for a batch of 5")
    assert read == []


@pytest.mark.parametrize("n", [0, 1, 4])
def test_iterator_that_gives_too_few_leaves_the_rest_to_500s(
    serve_batch: Serve, caplog: pytest.LogCaptureFixture, n: int
) -> None:
    server = serve_batch(lambda batch: iter(paths_of(batch)[:n]))
    assert texts(pipeline(server, 5)) == numbered(n) + ["500"] * (5 - n)
    assert logged(caplog).endswith(f": {n} replies for a batch of 5")


def test_iterator_that_gives_too_many_is_closed(
    serve_batch: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[str] = []

    def handler(batch: Batch) -> Iterator[str]:
        try:
            yield from paths_of(batch)
            while True:
                events.append("another one")
                yield "too much"
        finally:
            events.append("closed")

    assert texts(pipeline(serve_batch(handler), 5)) == numbered(5)
    assert logged(caplog).endswith(": more than 5 replies for a batch of 5")
    assert events == ["another one", "closed"]


def test_generator_that_gives_all_runs_to_its_end(serve_batch: Serve) -> None:
    events: list[str] = []

    def handler(batch: Batch) -> Iterator[str]:
        yield from paths_of(batch)
        events.append("end")

    server = serve_batch(handler)
    assert texts(pipeline(server, 5)) == numbered(5)
    helpers.wait_until(lambda: events == ["end"], "the end of the generator")


# ---- what goes wrong ----------------------------------------------------------------


def test_exception_in_the_place_of_a_reply_fails_its_slot_alone(
    serve_batch: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(batch: Batch) -> list[Any]:
        replies: list[Any] = paths_of(batch)
        replies[1] = ZeroDivisionError("slot one")
        replies[3] = fastbatch.HTTPError(404, "slot three")
        return replies

    replies = pipeline(serve_batch(handler), 5)
    assert texts(replies) == ["/0", "500", "/2", "404", "/4"]
    assert replies[3].body == b"slot three"
    record = gates.wait_for_error(caplog)
    assert record.getMessage().endswith(".handler failed, <Request GET /1>")
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


@pytest.mark.parametrize("make", [list, iter], ids=["list", "iterator"])
def test_item_that_is_no_reply_fails_its_slot_alone(
    serve_batch: Serve, caplog: pytest.LogCaptureFixture, make: Callable[[Any], Any]
) -> None:
    def handler(batch: Batch) -> Any:
        replies: list[Any] = paths_of(batch)
        replies[2] = 42
        return make(replies)

    replies = pipeline(serve_batch(handler), 4)
    assert texts(replies) == ["/0", "/1", "500", "/3"]
    assert ".handler, <Request GET /2>: 42 is no reply: give str" in logged(caplog)


def test_body_that_fails_when_it_is_begun_fails_its_slot_alone(
    serve_batch: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Iterator[bytes]:
        raise ZeroDivisionError
        yield b""

    def handler(batch: Batch) -> list[Any]:
        return ["x", (200, broken()), *["y"] * (len(batch) - 2)]

    assert texts(pipeline(serve_batch(handler), 3)) == ["x", "500", "y"]
    assert "<Request GET /1>" in logged(caplog)


def test_handler_that_raises_is_a_500_for_all_that_are_not_answered(
    serve_batch: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(batch: Batch) -> NoReturn:
        batch.reply(0, "before")
        raise ZeroDivisionError

    assert texts(pipeline(serve_batch(handler), 4)) == ["before", "500", "500", "500"]
    record = gates.wait_for_error(caplog)
    assert record.getMessage().endswith(".handler failed, a batch of 4")
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


def test_generator_that_raises_is_a_500_for_the_rest(
    serve_batch: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(batch: Batch) -> Iterator[str]:
        yield from paths_of(batch)[:2]
        raise ZeroDivisionError

    assert texts(pipeline(serve_batch(handler), 4)) == ["/0", "/1", "500", "500"]
    assert logged(caplog).endswith(".handler failed, a batch of 4")


def test_http_error_that_is_raised_answers_the_batch(
    serve_batch: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(batch: Batch) -> NoReturn:
        batch.reply(1, "before")
        raise fastbatch.HTTPError(503, "later", {"Retry-After": "1"})

    replies = pipeline(serve_batch(handler), 3)
    assert texts(replies) == ["503", "before", "503"]
    assert [reply.headers["retry-after"] for reply in replies] == ["1", None, "1"]
    assert gates.errors(caplog) == []


def test_http_error_that_ends_the_connection_drops_what_is_behind(
    serve_batch: Serve,
) -> None:
    def handler(_batch: Batch) -> NoReturn:
        raise fastbatch.HTTPError(503, "later", {"Connection": "close"})

    assert texts(pipeline(serve_batch(handler), 3)) == ["503"]


def test_http_error_with_a_bad_response_is_a_500(
    serve_batch: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(_batch: Batch) -> NoReturn:
        raise fastbatch.HTTPError(503, "later", {"Bad Name": "x"})

    assert texts(pipeline(serve_batch(handler), 3)) == ["500"] * 3
    assert ".handler, a batch of 3: 'Bad Name' is no header name" in logged(caplog)


class OwnExit(BaseException):
    """Neither an Exception nor one of Python's own."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, OwnExit])
@pytest.mark.parametrize("where", ["handler", "generator", "body"])
def test_base_exception_answers_the_batch_and_ends_the_server(
    serve_batch: Serve, error: type[BaseException], where: str
) -> None:
    def raising(first: Any) -> Iterator[Any]:
        yield first
        raise error

    def body() -> Iterator[bytes]:
        raise error
        yield b""

    def handler(batch: Batch) -> Any:
        batch.reply(2, "waits for the second")
        if where == "handler":
            batch.reply(0, "first")
            raise error
        return (
            raising("first")
            if where == "generator"
            else ["first", (200, body()), "", ""]
        )

    server = serve_batch(handler)
    with Connection(server) as connection:
        connection.send(get() * 4)
        replies = helpers.parse_replies(connection.rest())
    expected = ["first", "500", "waits for the second", "500"]
    assert texts(replies) == expected
    with pytest.raises(error):
        server.stop()


def test_close_of_an_iterator_that_fails_is_logged(
    serve_batch: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(batch: Batch) -> Iterator[str]:
        try:
            yield from ["x"] * (len(batch) + 1)
        finally:
            raise ZeroDivisionError

    assert texts(pipeline(serve_batch(handler), 2)) == ["x", "x"]
    helpers.wait_until(lambda: len(gates.errors(caplog)) == 2, "logging")
    closing, counting = (record.getMessage() for record in gates.errors(caplog))
    assert closing == "close() of a streamed reply failed"
    assert counting.endswith(": more than 2 replies for a batch of 2")


# ---- replies that leave at once -----------------------------------------------------


@pytest.mark.parametrize("n", [1, 3])
def test_reply_that_is_yielded_leaves_while_the_generator_goes_on(
    serve_batch: Serve, n: int
) -> None:
    has_reply = threading.Event()
    in_time: list[bool] = []

    def handler(batch: Batch) -> Iterator[str]:
        for path in paths_of(batch):
            yield path
            if not in_time:
                in_time.append(has_reply.wait(helpers.TIMEOUT))

    with Connection(serve_batch(handler)) as connection:
        connection.send(b"".join(map(get, numbered(n))))
        assert connection.reply().body == b"/0"
        has_reply.set()
        assert texts([connection.reply() for _ in range(1, n)]) == numbered(n)[1:]
    helpers.wait_until(lambda: in_time == [True], "the end of the handler")


@pytest.mark.parametrize("n", [1, 3])
def test_reply_that_is_given_early_leaves_while_the_handler_goes_on(
    serve_batch: Serve, n: int
) -> None:
    has_reply = threading.Event()
    in_time: list[bool] = []

    def handler(batch: Batch) -> list[str]:
        batch.reply(0, "early")
        in_time.append(has_reply.wait(helpers.TIMEOUT))
        return paths_of(batch)

    with Connection(serve_batch(handler)) as connection:
        connection.send(b"".join(map(get, numbered(n))))
        assert connection.reply().body == b"early"
        has_reply.set()
        assert texts([connection.reply() for _ in range(1, n)]) == numbered(n)[1:]
    helpers.wait_until(lambda: in_time == [True], "the end of the handler")


def test_item_of_a_slot_that_is_answered_is_ignored(
    serve_batch: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(batch: Batch) -> list[Any]:
        batch.reply(0, "early")
        batch.reply(2, "early, too")
        return [ValueError("ignored"), "second", object(), "fourth"]

    replies = pipeline(serve_batch(handler), 4)
    assert texts(replies) == ["early", "second", "early, too", "fourth"]
    assert gates.errors(caplog) == []


def test_none_is_a_result_when_all_is_answered(
    serve_batch: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(batch: Batch) -> None:
        assert batch.unanswered() == tuple(range(len(batch)))
        for i in batch.unanswered():
            batch.reply(i, batch[i].path)
        assert batch.unanswered() == ()

    assert texts(pipeline(serve_batch(handler), 4)) == numbered(4)
    assert gates.errors(caplog) == []


def test_none_is_no_result_when_something_is_not_answered(
    serve_batch: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(batch: Batch) -> None:
        batch.reply(1, "early")

    assert texts(pipeline(serve_batch(handler), 3)) == ["500", "early", "500"]
    assert ".handler, a batch of 3: None was returned" in logged(caplog)


def test_what_was_pipelined_behind_a_reply_that_closes_is_dropped(
    serve_batch: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(batch: Batch) -> list[Any]:
        replies: list[Any] = paths_of(batch)
        replies[1] = (200, {"Connection": "close"}, "bye")
        replies[2] = ValueError("ignored")
        return replies

    assert texts(pipeline(serve_batch(handler), 4)) == ["/0", "bye"]
    assert gates.errors(caplog) == []


def test_batch_is_kept_whole_although_threads_are_idle(serve: Serve) -> None:
    sizes: list[int] = []
    entered, go = threading.Event(), threading.Event()

    def handler(batch: Batch) -> list[str]:
        sizes.append(len(batch))
        if batch[0].path == "/first":
            entered.set()
            assert go.wait(helpers.TIMEOUT)
        time.sleep(0.02)  # slow: what is not begun is shared out
        return paths_of(batch)

    server = serve(handler, interface="batch", threads=3)
    with gates.connect(server, 21) as (first, *others):
        first.send(get("/first"))
        assert entered.wait(helpers.TIMEOUT)
        received = server.stats()["bytes_received"]
        for connection in others:
            connection.send(get("/other"))
        gates.wait_until_read(server, received + len(others) * len(get("/other")))
        go.set()
        assert first.reply().body == b"/first"
        assert {connection.reply().body for connection in others} == {b"/other"}
    assert sizes == [1, len(others)]


# ---- replies that wait for their turn -----------------------------------------------


@pytest.mark.parametrize("n", [2, 5, SLOTS, 3 * SLOTS + 7])
def test_replies_can_be_given_in_any_order(serve_batch: Serve, n: int) -> None:
    def handler(batch: Batch) -> None:
        for i in reversed(range(len(batch))):
            assert batch.reply(i, batch[i].path) is None

    server = serve_batch(handler)
    assert texts(pipeline(server, n)) == numbered(n)


def test_reply_that_waits_is_judged_at_once(serve_batch: Serve) -> None:
    seen: list[str] = []

    def handler(batch: Batch) -> list[str]:
        with pytest.raises(fastbatch.ReplyError, match="42 is no reply"):
            batch.reply(2, 42)
        with pytest.raises(fastbatch.ReplyError, match="Content-Length is 3, but"):
            batch.reply(2, (200, {"Content-Length": "3"}, "four"))
        batch.reply(2, "third")
        assert batch.unanswered() == (0, 1)
        with pytest.raises(RuntimeError, match="slot 2 is answered already"):
            batch.reply(2, "again")
        batch.reply(0, "first")
        batch.reply(1, "second")
        with pytest.raises(RuntimeError, match="slot 2 is answered already"):
            batch.reply(2, "again")
        seen.append("all")
        return ["", "", ""]

    replies = pipeline(serve_batch(handler), 3)
    assert seen == ["all"]
    assert texts(replies) == ["first", "second", "third"]


def test_reply_that_waits_leaves_when_its_turn_comes(serve_batch: Serve) -> None:
    has_reply = threading.Event()

    def handler(batch: Batch) -> list[str]:
        batch.reply(1, "second")
        batch.reply(0, "first")
        assert has_reply.wait(helpers.TIMEOUT)
        return paths_of(batch)

    with Connection(serve_batch(handler)) as connection:
        connection.send(b"".join(map(get, numbered(3))))
        assert connection.reply().body == b"first"
        assert connection.reply().body == b"second"
        has_reply.set()
        assert connection.reply().body == b"/2"


def test_only_those_of_the_same_connection_wait(serve: Serve) -> None:
    gate = gates.Gate(lambda _request: None)
    has_replies = threading.Event()

    def handler(batch: Batch) -> Any:
        if batch[0].path == "/gate":
            return [gate(batch[0])]
        last = [i for i, request in enumerate(batch) if request.path == "/b"]
        for i in last:
            batch.reply(i, "second")
        first = [i for i in range(len(batch)) if i not in last]
        batch.reply(first[0], "first")
        assert has_replies.wait(helpers.TIMEOUT)
        return ["first" if i in first else "" for i in range(len(batch))]

    server = serve(handler, interface="batch")
    with gates.connect(server, 2) as connections:
        with gate.held(server):
            for connection in connections:
                connection.send(get("/a") + get("/b"))
        sockets = [connection.socket for connection in connections]
        ready, _, _ = select.select(sockets, [], [], helpers.TIMEOUT)
        quick = sockets.index(ready[0])
        assert texts([connections[quick].reply() for _ in range(2)]) == [
            "first",
            "second",
        ]
        has_replies.set()
        assert texts([connections[1 - quick].reply() for _ in range(2)]) == [
            "first",
            "second",
        ]


def test_request_that_others_wait_for_gets_its_500(
    serve_batch: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(batch: Batch) -> NoReturn:
        batch.reply(3, "fourth")
        batch.reply(1, "second")
        raise ZeroDivisionError

    replies = pipeline(serve_batch(handler), 5)
    assert texts(replies) == ["500", "second", "500", "fourth", "500"]
    assert logged(caplog).endswith("failed, a batch of 5")


def test_dispatch_that_leaves_slots_out_answers_them_before_those_that_wait(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    def dispatcher(batch: Batch) -> None:
        batch.reply(4, "fifth")
        batch.reply(2, "third")
        batch.reply(0, "first")

    with monkeypatch.context() as patch:
        patch.setattr("fastbatch._plan.dispatcher_for", lambda *_: lambda _: dispatcher)
        server = serve(lambda _request: None, threads=threads)
    replies = pipeline(server, 6)
    assert texts(replies) == ["first", "500", "third", "500", "fifth", "500"]


class Stream:
    """A body that counts how often it is closed."""

    def __init__(self, *items: bytes) -> None:
        self.n_closed = 0
        self._items = iter(items)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._items)

    def close(self) -> None:
        self.n_closed += 1


def test_streams_and_long_bodies_can_wait(serve_batch: Serve) -> None:
    streams: list[Stream] = []

    def handler(batch: Batch) -> list[Any]:
        streams.append(Stream(b"a", b"b" * ZERO_COPY, b"c"))
        batch.reply(3, (200, streams[-1]))
        batch.reply(2, "x" * 2 * ZERO_COPY)
        batch.reply(1, bytearray(b"y" * 2 * ZERO_COPY))
        return ["first", None, None, None]

    server = serve_batch(handler)
    for _ in range(3):
        bodies = [reply.body for reply in pipeline(server, 4)]
        assert bodies[0] == b"first"
        assert bodies[1] == b"y" * 2 * ZERO_COPY
        assert bodies[2] == b"x" * 2 * ZERO_COPY
        assert bodies[3] == b"a" + b"b" * ZERO_COPY + b"c"
    helpers.wait_until(lambda: [s.n_closed for s in streams] == [1, 1, 1], "closing")


def test_reply_to_head_can_wait(serve_batch: Serve) -> None:
    stream = Stream(b"never sent")

    def handler(batch: Batch) -> list[str]:
        batch.reply(2, (200, stream))
        batch.reply(1, "only its length")
        return ["first", "", "", "last"]

    methods = ["GET", "HEAD", "HEAD", "GET"]
    replies = pipeline(serve_batch(handler), 4, methods=methods)
    assert [reply.body for reply in replies] == [b"first", b"", b"", b"last"]
    assert replies[1].headers["content-length"] == str(len("only its length"))
    assert stream.n_closed == 1


def test_reply_to_http_1_0_can_wait(serve_batch: Serve) -> None:
    def handler(batch: Batch) -> list[str]:
        batch.reply(1, (200, iter([b"up to ", b"the end"])))
        return ["first", "", ""]

    keep = "Connection: keep-alive"
    data = get("/0", keep, version="1.0") * 3
    replies = helpers.parse_replies(helpers.talk(serve_batch(handler), data))
    assert texts(replies) == ["first", "up to the end"]


@pytest.mark.parametrize("closes", [0, 1], ids=["the first", "one that waits"])
def test_what_waits_behind_a_reply_that_closes_is_dropped(
    serve_batch: Serve, caplog: pytest.LogCaptureFixture, closes: int
) -> None:
    stream, unsent = Stream(b"x"), Stream(b"y")
    dropped: list[Any] = []

    def handler(batch: Batch) -> list[Any]:
        fields = [{}, {}]
        fields[closes] = {"Connection": "close"}
        assert batch.reply(3, (200, unsent)) is None
        assert batch.reply(2, (200, stream)) is None
        assert batch.reply(1, (200, fields[1], "second")) is None
        dropped.append(batch.reply(0, (200, fields[0], "first")))
        for i in range(4):
            with pytest.raises(RuntimeError, match=f"slot {i} is answered already"):
                batch.reply(i, "again")
        assert batch.unanswered() == ()
        return ["", "", "", ""]

    replies = pipeline(serve_batch(handler), 4)
    assert texts(replies) == ["first", "second"][: closes + 1]
    assert dropped == [(1, 2, 3)[closes:]]
    helpers.wait_until(lambda: (stream.n_closed, unsent.n_closed) == (1, 1), "closing")
    assert gates.errors(caplog) == []


def test_connection_close_in_the_midst_ends_the_pipeline(serve_batch: Serve) -> None:
    def handler(batch: Batch) -> None:
        for i in reversed(range(len(batch))):
            batch.reply(i, batch[i].path)

    data = get("/0") + get("/1") + get("/2", "Connection: close") + get("/3")
    replies = helpers.parse_replies(helpers.talk(serve_batch(handler), data))
    assert texts(replies) == numbered(3)


def test_peer_that_leaves_takes_what_waits_with_it(serve_batch: Serve) -> None:
    entered, has_left = threading.Event(), threading.Event()
    streams: list[Stream] = []

    def handler(batch: Batch) -> list[Any]:
        if len(batch) == 1:
            return ["alone"]
        streams.append(Stream(*[b"x" * 100_000] * 100))
        batch.reply(2, (200, streams[-1]))
        batch.reply(1, b"y" * 2_000_000)
        entered.set()
        assert has_left.wait(helpers.TIMEOUT)
        return [b"z" * 2_000_000, None, None]

    server = serve_batch(handler)
    for _ in range(3):
        entered.clear()
        has_left.clear()
        with Connection(server) as connection:
            connection.send(get() * 3)
            assert entered.wait(helpers.TIMEOUT)
            linger = b"\1\0\0\0\0\0\0\0"  # a reset
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        has_left.set()
        gates.wait_until_gone(server)
        assert texts(pipeline(server, 1)) == ["alone"]
    helpers.wait_until(lambda: [s.n_closed for s in streams] == [1, 1, 1], "closing")


def test_server_that_is_stopped_sends_what_waits(serve_batch: Serve) -> None:
    entered, go = threading.Event(), threading.Event()

    def handler(batch: Batch) -> list[str]:
        batch.reply(2, "third")
        entered.set()
        assert go.wait(helpers.TIMEOUT)
        return paths_of(batch)

    server = serve_batch(handler)
    with Connection(server) as connection:
        connection.send(b"".join(map(get, numbered(4))))
        assert entered.wait(helpers.TIMEOUT)
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        go.set()
        replies = helpers.parse_replies(connection.rest())
        stopper.join()
    assert texts(replies) == ["/0", "/1", "third", "/3"]


def test_columns_mask_out_what_waits_for_its_turn(serve_batch: Serve) -> None:
    seen: list[Any] = []

    def handler(batch: Batch) -> list[str]:
        batch.reply(1, "waits")
        seen.append(batch.stack("B", 2).mask.tolist())
        seen.append(batch.stack("B", 1).mask.tolist())
        seen.append(batch.json())
        return ["first", "", "", "last"]

    bodies = [b"12", b"not two", b"345", b"67"]
    server = serve_batch(handler)
    with Connection(server) as connection:
        connection.send(b"".join(gates.request(method="POST", body=b) for b in bodies))
        connection.end()
        replies = helpers.parse_replies(connection.rest())
    # What does not fit in the second stack is not answered before that.
    assert texts(replies) == ["400", "waits", "400", "400"]
    assert seen == [[True, False, False, True], [False] * 4, [None] * 4]


# ---- bodies whose own code answers --------------------------------------------------


class Meddling:
    """A body whose iterator answers slots when it is begun."""

    def __init__(self, batch: Batch, *slots: int) -> None:
        self.n_closed = 0
        self._batch = batch
        self._slots = slots

    def __iter__(self) -> Iterator[bytes]:
        for i in self._slots:
            self._batch.reply(i, f"meddled with {i}")
        self._slots = ()
        return self

    def __next__(self) -> bytes:
        return b"x"

    def close(self) -> None:
        self.n_closed += 1


@pytest.mark.parametrize("slots", [(1,), (0, 1), (1, 0), (2, 1, 0)], ids=str)
def test_body_that_answers_its_own_slot_is_refused(
    serve_batch: Serve, slots: tuple[int, ...]
) -> None:
    bodies: list[Meddling] = []

    def handler(batch: Batch) -> list[str]:
        bodies.append(Meddling(batch, *slots))
        with pytest.raises(RuntimeError, match="answered while its reply was read"):
            batch.reply(1, (200, bodies[-1]))
        return ["first", "not used", "third"]

    replies = pipeline(serve_batch(handler), 3)
    first = "meddled with 0" if 0 in slots else "first"
    third = "meddled with 2" if 2 in slots else "third"
    assert texts(replies) == [first, "meddled with 1", third]
    assert bodies[0].n_closed == 1


def test_body_that_answers_those_before_it_is_sent_at_once(serve_batch: Serve) -> None:
    def handler(batch: Batch) -> list[str]:
        batch.reply(1, (200, {"Content-Length": "0"}, Meddling(batch, 0)))
        assert batch.unanswered() == (2,)
        return ["", "", "third"]

    with Connection(serve_batch(handler)) as connection:
        connection.send(get() * 3)
        assert connection.reply().body == b"meddled with 0"


def test_close_of_a_body_that_is_dropped_may_answer_others(serve: Serve) -> None:
    errors: list[str] = []

    class Closing(Stream):
        batch: Batch

        def close(self) -> None:
            super().close()
            try:
                self.batch.reply(2, "too late")
            except RuntimeError as error:
                errors.append(str(error))

    stream = Closing(b"x")

    def handler(batch: Batch) -> None:
        stream.batch = batch
        batch.reply(1, (200, stream))
        batch.reply(2, "third")
        batch.reply(0, (200, {"Connection": "close"}, "first"))

    replies = pipeline(serve(handler, interface="batch"), 3)
    assert texts(replies) == ["first"]
    assert errors == ["slot 2 is answered already"]
    assert stream.n_closed == 1


# ---- the batch is a sequence --------------------------------------------------------


def test_batch_is_an_immutable_sequence(serve_batch: Serve) -> None:
    seen: list[Any] = []

    def handler(batch: Batch) -> list[str]:
        requests = list(batch)
        seen.append(
            (
                isinstance(batch, Sequence),
                repr(batch),
                batch.queue,
                hash(batch) == hash(batch),
                list(reversed(batch)) == requests[::-1],
                batch[1:3] == tuple(requests[1:3]),
                batch[-1] is requests[3],
                requests[2] in batch,
                "another" in batch,
                batch.index(requests[2]),
                batch.index(requests[2], 2),
                batch.index(requests[2], -2, None),
                batch.index(requests[2], 0, 100),
                batch.count(requests[0]),
                batch.count("another"),
            )
        )
        for arguments in (
            (requests[2], 3),
            (requests[2], 0, 2),
            (requests[2], 0, -2),
            ("",),
        ):
            with pytest.raises(ValueError, match="it has no slot here"):
                batch.index(*arguments)
        with pytest.raises(TypeError):
            batch[0] = requests[1]  # type: ignore[index]
        with pytest.raises(TypeError):
            del batch[0]  # type: ignore[attr-defined]
        with pytest.raises(AttributeError):
            batch.queue = 1  # type: ignore[misc]
        seen.append("all")
        return paths_of(batch)

    assert texts(pipeline(serve_batch(handler), 4)) == numbered(4)
    assert seen == [
        (True, "<Batch of 4 requests>", 0, *[True] * 5, False, 2, 2, 2, 2, 1, 0),
        "all",
    ]


def test_batch_of_a_dispatch_that_is_over_answers_nothing(serve_batch: Serve) -> None:
    kept: list[Batch] = []

    def handler(batch: Batch) -> list[str]:
        kept.append(batch)
        return paths_of(batch)

    assert texts(pipeline(serve_batch(handler), 2)) == numbered(2)
    (batch,) = kept
    helpers.wait_until(lambda: len(batch) == 0, "the end of the dispatch")
    assert repr(batch) == "<Batch of 0 requests>"
    assert batch.queue == 0
    for call in (
        lambda: batch.reply(0, ""),
        lambda: batch.reply_all([], print),
        batch.take_all,
        batch.unanswered,
    ):
        with pytest.raises(RuntimeError, match="the dispatch of this batch is over"):
            call()


def test_slot_that_nobody_answers_does_not_stop_the_others(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """``fail`` should answer; when it does not, what is behind waits for its 500."""
    results: list[Any] = [
        [ValueError(), "b", "c"],
        memoryview(bytes(3)).cast("B", [3, 1]),
        (reply for reply in [ValueError(), "b", "c"]),
    ]

    def dispatcher(batch: Batch) -> None:
        result = results.pop(0)
        batch.reply_all(result, lambda _index, _error: None)

    with monkeypatch.context() as patch:
        patch.setattr("fastbatch._plan.dispatcher_for", lambda *_: lambda _: dispatcher)
        server = serve(lambda _request: None, threads=threads)
    assert texts(pipeline(server, 3)) == ["500", "b", "c"]
    assert texts(pipeline(server, 3)) == ["\0", "\0", "\0"]
    assert texts(pipeline(server, 3)) == ["500", "b", "c"]


# ---- nothing is left behind ---------------------------------------------------------


class Leaving:
    """One of each kind of batch, in turn."""

    def __init__(self) -> None:
        self.body = bytes(100)
        self.long_body = bytes(ZERO_COPY)
        self.stream_item = bytes(50)
        self.kinds = [
            self.give_list,
            self.give_rows,
            self.give_each,
            self.give_early,
            self.give_backwards,
            self.give_errors,
            self.give_too_few,
            self.give_too_many,
            self.fail,
        ]
        self._turn = 0

    def __call__(self, batch: Batch) -> Any:
        self._turn = (self._turn + 1) % len(self.kinds)
        return self.kinds[self._turn](batch)

    def give_list(self, batch: Batch) -> Any:
        return [(200, {"X-A": "b"}, self.body) for _ in batch]

    def give_rows(self, batch: Batch) -> Any:
        return memoryview(bytes(8 * len(batch))).cast("d", [len(batch), 1])

    def give_each(self, batch: Batch) -> Any:
        for request in batch:
            yield request.path

    def give_early(self, batch: Batch) -> Any:
        batch.reply(0, self.body)
        return ["x"] * len(batch)

    def give_backwards(self, batch: Batch) -> Any:
        bodies = [self.body, self.long_body, (200, iter([self.stream_item] * 3))]
        for i in reversed(range(len(batch))):
            batch.reply(i, bodies[i % 3])

    def give_errors(self, batch: Batch) -> Any:
        batch.reply(len(batch) - 1, (200, iter([self.stream_item] * 3)))
        return [fastbatch.HTTPError(404, "x") for _ in batch]

    def give_too_few(self, _batch: Batch) -> Any:
        return ["x"]

    def give_too_many(self, batch: Batch) -> Any:
        return iter(["x"] * (len(batch) + 3))

    def fail(self, batch: Batch) -> Any:
        batch.reply(2, self.body)
        raise fastbatch.HTTPError(503, "x")


def test_batches_leave_nothing_behind(
    serve_batch: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    handler = Leaving()
    server = serve_batch(handler)
    n = 5
    things = [handler.body, handler.long_body, handler.stream_item]
    data = b"".join(map(get, numbered(n)))

    def ask(cycles: int) -> None:
        for i in range(cycles * len(sizes)):
            connection.send(data)
            left = sizes[i % len(sizes)]
            while left > 0:
                piece = connection.socket.recv(left)
                assert piece
                left -= len(piece)

    def traced() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    counts = [sys.getrefcount(thing) for thing in things]
    caplog.set_level(logging.CRITICAL, "fastbatch")
    with Connection(server) as connection, contextlib.ExitStack() as stack:
        sizes = []
        for _ in handler.kinds:
            before = len(connection.received)
            connection.send(data)
            for _ in range(n):
                connection.reply()
            sizes.append(len(connection.received) - before)
        ask(20)  # fills free lists
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        ask(20)
        time.sleep(0.05)  # the last body is let go of after its reply was read
        before = traced()
        ask(100)
        # Bytes: less than one object for each batch.
        most = 100 * len(handler.kinds) * 16
        helpers.wait_until(lambda: traced() - before < most, "letting go")
    helpers.wait_until(
        lambda: [sys.getrefcount(thing) for thing in things] == counts, "letting go"
    )
