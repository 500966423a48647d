"""Whatever handlers and WSGI applications give, clients get sound replies.

Of each example: the client gets one reply that is well-formed to the byte, or one that
visibly breaks off; what was sent before and behind the request on its connection is
answered, or the reply has said that it would not; and no text of a reply that is
refused is sent.

These are the examples of every day. ``python tests/test_fuzz_replies.py 3600`` tries
others for an hour, and prints how many.
"""

import contextlib
import io
import logging
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import fuzzing
import helpers
import odd
import strict
from hypothesis import strategies as st

import fastbatch

BEFORE = helpers.get("/in-step")
BEHIND = helpers.get("/in-step", "Connection: close")
IN_STEP = b"in step"
REFUSAL = b"500 Internal Server Error\n"

SERVERS_OWN = (b"content-length", b"transfer-encoding", b"connection")


# ---- the server, and what is asked of it --------------------------------------------


class Log(logging.Handler):
    """What is wrong with what was logged: all is formatted, as a real log does."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.format(record)
        except Exception as error:  # noqa: BLE001 - whatever it is
            self.wrong.append(f"{record.msg!r} cannot be formatted: {error!r}")
        if record.exc_info and not isinstance(record.exc_info[1], Exception):
            self.wrong.append(f"{record.exc_info[1]!r} was logged")


class Stage:
    """A server of one example at a time, on the loop's own thread."""

    def __init__(self, interface: str) -> None:
        self.act: Callable[..., Any] = lambda *_: None
        handler = self._handle if interface == "request" else self._apply
        self._server = fastbatch.Server(
            handler, bind="127.0.0.1:0", interface=interface
        )
        self._log = Log()
        self._timeout = helpers.TIMEOUT

    def _handle(self, request: fastbatch.Request) -> Any:
        return IN_STEP if request.path == "/in-step" else self.act()

    def _apply(self, environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] != "/in-step":
            return self.act(environ, start_response)
        start_response("200 OK", [])
        return [IN_STEP]

    def __enter__(self) -> Self:
        self._server.start()
        log = logging.getLogger("fastbatch")
        self._before = log.handlers, log.propagate, sys.unraisablehook
        log.handlers, log.propagate = [self._log], False
        sys.unraisablehook = self._note_unraisable
        return self

    def __exit__(self, *_error: object) -> None:
        log = logging.getLogger("fastbatch")
        try:
            self._server.stop(now=True)
        finally:
            log.handlers, log.propagate, sys.unraisablehook = self._before
        assert self._log.wrong == []

    def _note_unraisable(self, unraisable: Any) -> None:
        self._log.wrong.append(
            f"unraisable: {odd.show(unraisable.exc_value)} in"
            f" {odd.show(unraisable.object)}, {unraisable.err_msg}"
        )

    def ask(self, way: "Way") -> tuple[bytes, bool]:
        """All that a client receives, and whether the connection was ended in order."""
        try:
            return self._ask(way)
        except TimeoutError:
            self._timeout = (
                1.0  # the example is tried again and again, to make it small
            )
            raise

    def _ask(self, way: "Way") -> tuple[bytes, bool]:
        data = bytearray()
        with socket.create_connection(self._server.address, self._timeout) as client:
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                if way.is_pipelined:
                    client.sendall(way.requests() + BEHIND)
                else:
                    client.sendall(way.requests())
                    data += client.recv(65536)
                    if b"\r\nConnection: close\r\n" not in data:
                        client.sendall(BEHIND)
            with contextlib.suppress(ConnectionResetError):
                while piece := client.recv(1_000_000):
                    data += piece
                self._check_log()
                return bytes(data), True
        self._check_log()
        return bytes(data), False

    def _check_log(self) -> None:
        wrong, self._log.wrong = self._log.wrong, []
        assert wrong == []


@dataclass(frozen=True)
class Way:
    """How the odd reply is asked for."""

    method: str
    version: str
    connection: str
    has_one_before: bool  # if it is pipelined
    is_pipelined: bool

    def requests(self) -> bytes:
        is_behind = self.has_one_before and self.is_pipelined
        return BEFORE * is_behind + self._request()

    def _request(self) -> bytes:
        fields = [f"Connection: {self.connection}"] if self.connection else []
        request = helpers.get("/odd", *fields, version=self.version)
        return request.replace(b"GET", self.method.encode(), 1)


ways = st.builds(
    Way,
    st.sampled_from(["GET", "GET", "HEAD"]),
    st.sampled_from(["1.1", "1.1", "1.0"]),
    st.sampled_from(["", "", "close", "keep-alive"]),
    st.booleans(),
    st.booleans(),
)


def odd_reply(data: bytes, way: Way, may_break: Callable[[], bool]) -> strict.Reply:
    """The reply in question, from all that came; the others are checked."""
    if way.requests().startswith(BEFORE):
        data = data[check_in_step(data) :]
    reply = strict.read_reply(data, method=way.method, version=way.version)
    rest = data[reply.size :]
    if reply.says_close or not reply.is_whole:
        assert rest == b""
    elif rest or not may_break():
        behind = check_in_step(rest)
        assert rest[behind:] == b""
    if way.connection == "close" or (way.version == "1.0" and not way.connection):
        assert reply.says_close
    return reply


def check_in_step(data: bytes) -> int:
    reply = strict.read_reply(data)
    assert (reply.status, reply.body) == (200, IN_STEP)
    return reply.size


def is_refusal(reply: strict.Reply, way: Way) -> bool:
    """Whether it is the server's 500, in which nothing is of what was refused."""
    if reply.status != 500 or reply.reason != b"Internal Server Error":
        return False
    if reply.body != (b"" if way.method == "HEAD" else REFUSAL):
        return False
    others = [
        pair
        for pair in reply.fields
        if pair[0] not in (b"Server", b"Date", b"Content-Length", b"Connection")
    ]
    return (
        others == [(b"Content-Type", b"text/plain; charset=utf-8")]
        and reply.values(b"content-length") == [b"%d" % len(REFUSAL)]
        and reply.values(b"server") == [b"fastbatch"]
    )


def check_fields(reply: strict.Reply, given: odd.Fields) -> None:
    """What is on the wire was given, all of it and in order; or is the server's."""
    own = {name.lower() for name, _ in given}
    optional = {b"server", b"date", b"content-type"} - own
    found = [
        pair
        for pair in reply.fields
        if pair[0].lower() not in SERVERS_OWN and pair[0].lower() not in optional
    ]
    expected = [pair for pair in given if pair[0].lower() not in SERVERS_OWN]
    assert found == expected
    for name in optional:
        assert len(reply.values(name)) <= 1
    assert b"date" in own or len(reply.values(b"date")) == 1


def check_body(
    reply: strict.Reply,
    way: Way,
    given: bytes,
    *,
    is_whole: bool,
    is_length_given: bool,
) -> None:
    if way.method == "HEAD" or reply.status in (204, 205, 304):
        assert reply.body == b""
    elif is_whole and not is_length_given:
        assert reply.body == given
    else:
        assert given.startswith(reply.body)


def has_length(fields: odd.Fields) -> bool:
    return any(name.lower() == b"content-length" for name, _ in fields)


# ---- handlers -----------------------------------------------------------------------


@dataclass
class Headers:
    """Headers of a reply; ``pairs`` is None if they are no fields."""

    value: Any
    pairs: Sequence[Any] | None = None
    is_plain: bool = False

    def __repr__(self) -> str:
        return f"Headers({odd.show(self.value)}, {odd.show(self.pairs)})"


class Mapping:
    """A mapping by its method items() alone."""

    def __init__(self, pairs: list[Any]) -> None:
        self._pairs = pairs

    def items(self) -> Any:
        return iter(self._pairs)


def _as_dict(pairs: list[Any]) -> Headers:
    try:
        value = dict(pairs)
    except Exception:  # noqa: BLE001 - what cannot be a key
        return Headers(pairs, pairs)
    return Headers(value, list(value.items()))


def _failing(pairs: list[Any]) -> Iterator[Any]:
    yield from pairs
    raise odd.OddError


_pairs = st.lists(odd.pairs, max_size=4)
_many = st.integers(15, 40).map(lambda n: [(f"X-{i}", "v") for i in range(n)])

headers: st.SearchStrategy[Headers] = odd.either(
    st.lists(odd.plain_fields, max_size=4).map(lambda p: Headers(p, p, is_plain=True)),
    _many.map(lambda p: Headers(p, p, is_plain=True)),
    _pairs.map(lambda p: Headers(p, p)),
    _pairs.map(lambda p: Headers(tuple(p), p)),
    _pairs.map(lambda p: Headers(iter(p), p)),
    _pairs.map(lambda p: Headers([list(pair) for pair in p], p)),
    _pairs.map(lambda p: Headers(Mapping(p), p)),
    _pairs.map(_as_dict),
    _pairs.map(lambda p: Headers(_failing(p))),
    st.lists(odd.either(odd.pairs, odd.texts, odd.numbers, odd.hostile_objects)).map(
        lambda p: Headers([*p, None])
    ),
    odd.either(st.none(), odd.texts, odd.byte_strings, odd.numbers).map(Headers),
    odd.hostile_objects.map(Headers),
    st.builds(lambda: Headers(odd.HostileList([("a", "b")]))),
    st.builds(lambda: Headers(odd.HostileDict(a="b"))),
)


@dataclass
class Case:
    """What a handler does. Of ``body`` None nothing is known."""

    kind: str
    act: Callable[[], Any]
    status: Any = None
    headers: Headers | None = None
    body: odd.Body | None = None
    is_refused: bool = False  # for sure

    def __repr__(self) -> str:
        return (
            f"Case({self.kind}, {odd.show(self.status)}, {self.headers}, {self.body})"
        )


class OwnError(fastbatch.HTTPError):
    """One with any reply."""

    def __init__(self, response: Any) -> None:
        super().__init__(400)
        self.response = response


def _raising(error: Callable[[], Exception]) -> Callable[[], Any]:
    def act() -> Any:
        raise error()

    return act


def _returning(value: Any) -> Callable[[], Any]:
    return lambda: value


def _of_body(body: odd.Body) -> Case:
    """A body alone; of streams and lists none is a reply."""
    case = Case("body", _returning(body.value), 200, Headers(None), body)
    case.is_refused = body.stream is not None
    if body.value is None:
        case.status = 204
    if isinstance(body.value, tuple):
        case = Case("tuple", _returning(body.value))
    return case


def _of_two(status: Any, body: odd.Body) -> Case:
    return Case("two", _returning((status, body.value)), status, Headers(None), body)


def _of_three(
    make: Callable[..., Any], status: Any, headers: Headers, body: odd.Body, length: Any
) -> Case:
    """``length``: how much more the body is said to have than it has, or None."""
    if length is not None and headers.is_plain:
        size = len(body.data or b"") if body.stream is None else body.stream.n_bytes
        pair = ("Content-Length", str(max(0, size + length)))
        headers = Headers([*headers.value, pair], [*headers.value, pair])
    value = make((status, headers.value, body.value))
    return Case("three", _returning(value), status, headers, body)


def _raised(case: Case) -> Case:
    """The same, within an error."""
    value = case.act()
    case.act = _raising(lambda: OwnError(value))
    case.kind = f"raised {case.kind}"
    return case


def _of_error(status: Any, message: odd.Body, headers: Headers) -> Case:
    body = message if message.value is not None else None
    act = _raising(lambda: fastbatch.HTTPError(status, message.value, headers.value))
    return Case("HTTPError", act, status, headers, body)


_leaves = odd.either(
    st.none(),
    st.integers(),
    st.sampled_from([200, 204, 304]),
    st.binary(max_size=5),
    odd.texts,
    odd.hostile_objects,
    odd.values,
)

trees = st.recursive(
    _leaves,
    lambda inner: odd.either(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.lists(inner, min_size=2, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
        st.lists(inner, max_size=3).map(iter),
    ),
    max_leaves=8,
)

_replies = odd.either(
    odd.bodies.map(_of_body),
    st.builds(_of_two, odd.statuses, odd.bodies),
    st.builds(
        _of_three,
        st.sampled_from([tuple, tuple, lambda t: fastbatch.Response(*t)]),
        odd.statuses,
        headers,
        odd.bodies,
        st.sampled_from([None, None, None, 0, 0, 1, -1, 100]),
    ),
)

# But for one thing, or two, these are right.
_nearly_right = st.builds(
    _of_three,
    st.just(tuple),
    st.just(200),
    headers,
    odd.either(st.just("text").map(odd.text_body), odd.streamed),
    st.sampled_from([None, 0, 1, -1]),
)

cases: st.SearchStrategy[Case] = odd.either(
    _nearly_right,
    _nearly_right,
    _nearly_right,
    _replies,
    _replies,
    _replies.map(_raised),
    st.builds(
        _of_error,
        odd.either(odd.statuses, st.integers(400, 599), st.integers(400, 599)),
        odd.bodies,
        headers,
    ),
    trees.map(lambda tree: Case("tree", _returning(tree))),
    st.sampled_from([odd.OddError, StopIteration, RecursionError, MemoryError]).map(
        lambda error: Case("error", _raising(error), is_refused=True)
    ),
    st.builds(lambda: Case("error", _raising(lambda: OwnError(1)), is_refused=True)),
    st.builds(
        lambda value: Case("hostile", _returning(value), is_refused=True),
        odd.either(
            st.builds(lambda: odd.HostileTuple((200, "x"))).map(lambda t: [t]),
            st.builds(lambda: odd.HostileList([1])),
            st.builds(lambda: odd.HostileDict(a=1)),
        ),
    ),
)


def is_status(status: Any, low: int = 200) -> bool:
    return isinstance(status, int) and low <= int.__index__(status) <= 599


def is_good(case: Case) -> bool:
    """Whether there is no reason to refuse it."""
    body, headers = case.body, case.headers
    if body is None or headers is None or case.is_refused:
        return False
    is_body = body.data is not None
    if body.stream is not None:
        is_body = body.stream.n_given > 0 or not body.stream.is_broken
    is_plain = headers.is_plain or headers.value is None
    is_error = case.kind == "HTTPError"
    return is_body and is_plain and is_status(case.status, 400 if is_error else 200)


def check_handler(stage: Stage, case: Case, way: Way) -> None:
    stage.act = case.act
    data, is_orderly = stage.ask(way)
    stream = case.body.stream if case.body else None
    pairs = case.headers.pairs if case.headers else None

    def may_break() -> bool:
        if case.kind == "tree" or case.body is None:
            return True
        has_said = any(isinstance(p[0], str | bytes) for p in pairs or ())
        return stream is not None and (stream.is_broken or has_said)

    reply = odd_reply(data, way, may_break)
    is_whole = reply.is_whole and is_orderly
    assert is_whole or may_break()
    if is_refusal(reply, way):
        fuzzing.tally["refused"] += 1
        assert not is_good(case) or int.__index__(case.status) == 500
        return
    fuzzing.tally["sent" if is_whole else "broken off"] += 1
    assert not case.is_refused
    if case.status is None:
        return
    assert is_status(case.status)
    assert reply.status == int.__index__(case.status)
    given = odd.encoded(pairs or ())
    check_fields(reply, given)
    if case.body is not None:
        body = bytes(stream.given) if stream is not None else case.body.data
        assert body is not None
        check_body(
            reply,
            way,
            body,
            is_whole=is_whole,
            is_length_given=stream is not None and has_length(given),
        )


# ---- applications -------------------------------------------------------------------

status_lines: st.SearchStrategy[Any] = odd.either(
    st.sampled_from(["200 OK", "200 OK", "201 é", "204 No", "304 N", "404 ", "599 x"]),
    st.sampled_from(
        ["200 OK", "205 R", "200  x", "200 \t", "500 Internal Server Error"]
    ),
    st.sampled_from(
        ["200", "200OK", "1000 X", "100 Continue", "099 X", "600 X", "20 O"]
    ),
    st.sampled_from(["\uff12\uff10\uff10 OK", "200 €", "200 a\r\nX: y", "200 \0", ""]),
    st.sampled_from([b"200 OK", 200, None, True, -200, "-20 OK", "+20 OK", " 200 OK"]),
    st.integers(-1, 1000).map(lambda n: f"{n} Reason"),
    odd.texts.map(lambda text: f"200 {text}"),
    odd.texts,
    st.just("202 Hostile").map(odd.HostileStr),
    odd.hostile_objects,
)

field_lists: st.SearchStrategy[Any] = odd.either(
    st.lists(odd.plain_fields, max_size=4),
    _many,
    _pairs,
    st.tuples(_pairs, st.integers(0, 12)).map(
        lambda t: [*t[0], ("Content-Length", str(t[1]))]
    ),
    _pairs.map(tuple),
    _pairs.map(iter),
    st.lists(odd.pairs.map(list), min_size=1, max_size=2),
    st.lists(odd.either(odd.texts, odd.numbers, odd.hostile_objects), max_size=3),
    odd.either(st.none(), odd.texts, odd.numbers, odd.hostile_objects),
    st.builds(lambda: odd.HostileList([("X-A", "plain")])),
)


def _exc_info() -> Any:
    try:
        raise ValueError("of the application")
    except ValueError:
        return sys.exc_info()


exc_infos: st.SearchStrategy[Any] = odd.either(
    st.builds(_exc_info),
    st.builds(_exc_info),
    st.sampled_from([None, (), (1, 2, 3), (None, None, None), "exc", 5, True]),
    st.builds(lambda: (ValueError, odd.OddError(), "no traceback")),
    odd.hostile_objects,
)


@dataclass
class Start:
    """A call of start_response."""

    status: Any
    fields: Any
    more: tuple[Any, ...] = ()
    named: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return "Start(" + ", ".join(map(odd.show, vars(self).values())) + ")"

    def run(self, app: "App") -> None:
        app.write = app.start_response(
            self.status, self.fields, *self.more, **self.named
        )
        app.head = (int(str.__str__(self.status)[:3]), odd.encoded(self.fields))


@dataclass
class Write:
    """A call of write(), if there is one."""

    data: Any

    def __repr__(self) -> str:
        return f"Write({odd.show(self.data)})"

    def run(self, app: "App") -> None:
        if app.write is not None:
            app.write(self.data)
            app.given += odd.raw(self.data) or b""


@dataclass
class Fail:
    """What it raises."""

    error: type[Exception]

    def run(self, app: "App") -> None:
        app.has_failed = True
        raise self.error


Step = Start | Write | Fail

_length = st.integers(0, 12).map(lambda n: ("Content-Length", str(n)))
_good_start = st.builds(
    Start,
    st.just("200 OK"),
    odd.either(
        st.lists(odd.plain_fields, max_size=3),
        _length.map(lambda pair: [pair]),
        _pairs,
    ),
)
_start = odd.either(
    _good_start,
    st.builds(Start, status_lines, field_lists),
    st.builds(Start, st.just("200 OK"), field_lists),
    st.builds(Start, status_lines, st.just([])),
    st.builds(Start, st.just("203 Late"), field_lists, st.tuples(exc_infos)),
    st.builds(
        Start,
        status_lines,
        st.just([]),
        st.just(()),
        st.dictionaries(
            st.sampled_from(["exc_info", "exc_info", "x"]), exc_infos, min_size=1
        ),
    ),
)
_step: st.SearchStrategy[Step] = odd.either(
    _start,
    st.builds(Write, odd.buffers),
    st.builds(Write, odd.either(odd.texts, st.none(), odd.hostile_objects)),
    st.builds(Write, st.binary(max_size=20)),
    st.builds(Write, st.binary(max_size=20)),
    st.builds(Fail, st.sampled_from([odd.OddError, StopIteration, ValueError])),
)

steps: st.SearchStrategy[list[Step]] = odd.either(
    _good_start.map(lambda start: [start]),
    _start.map(lambda start: [start]),
    st.builds(
        lambda start, more: [start, *more],
        _good_start,
        st.lists(_step, min_size=1, max_size=3),
    ),
    st.builds(
        lambda start, more: [start, *more], _good_start, st.lists(_start, max_size=2)
    ),
    st.lists(_step, max_size=4),
)


class OddFile:
    """A file whose read() gives what it likes."""

    def __init__(self, stream: odd.Stream) -> None:
        self._stream = stream
        self.close = stream.close

    def read(self, *_size: Any) -> Any:
        block = next(self._stream, b"")
        try:
            bool(block)  # as whoever reads it asks
        except Exception:  # noqa: BLE001 - whatever it raises, it ends the stream
            self._stream.is_broken = True
        return block


def _temporary(data: bytes, at: int, **options: Any) -> Any:
    file = tempfile.TemporaryFile(**options)  # noqa: SIM115 - the server closes it
    file.write(data)
    file.seek(at)
    return file


def _closed() -> Any:
    with tempfile.TemporaryFile() as file:
        return file


def _of_file(opened: Callable[[], Any], given: bytes = b"") -> odd.Body:
    """A body whose value makes a file, of which that much may be sent."""
    stream = odd.Stream([])
    stream.given += given
    return odd.Body(opened, None, stream)


def _of_stream(stream: odd.Stream) -> odd.Body:
    return odd.Body(lambda: OddFile(stream), None, stream)


_data = odd.either(st.binary(max_size=50), st.sampled_from([9000, 300_000]).map(bytes))
_unreadable = {"mode": "wb", "buffering": 0}

files: st.SearchStrategy[odd.Body] = odd.either(
    st.builds(
        lambda data, at: _of_file(lambda: _temporary(data, at), data[at:]),
        _data,
        st.integers(0, 60),
    ),
    _data.map(lambda data: _of_file(lambda: io.BytesIO(data), data)),
    odd.streams.map(_of_stream),
    st.sampled_from(
        [
            odd.Body(lambda: _temporary(b"unread", 0, **_unreadable)),
            odd.Body(_closed),
            odd.Body(lambda: io.StringIO("text")),
        ]
    ),
    odd.hostile_objects.map(lambda value: odd.Body(lambda: value)),
)


@dataclass
class App:
    """An application: steps, then a result; or the steps when that is iterated."""

    steps: list[Step]
    result: odd.Body
    is_careful: bool  # goes on when start_response or write() raises
    is_lazy: bool
    block_size: Any  # of a file_wrapper; None: there is none

    def __post_init__(self) -> None:
        self.start_response: Any = None
        self.write: Any = None
        self.head: tuple[int, odd.Fields] | None = None
        self.given = bytearray()
        self.file: Any = None
        self.has_failed = False

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        self.start_response = start_response
        if self.is_lazy:
            return self._later()
        self._run()
        if self.block_size is not None:
            self.file = self.result.value()
            return environ["wsgi.file_wrapper"](self.file, *self.block_size)
        return self.result.value

    def _run(self) -> None:
        for step in self.steps:
            try:
                step.run(self)
            except Exception:
                if not self.is_careful or isinstance(step, Fail):
                    self.has_failed = True
                    raise

    def _later(self) -> Iterator[Any]:
        self._run()
        yield from self.result.value

    def body(self) -> bytes:
        stream = self.result.stream
        return bytes(self.given) + bytes(stream.given if stream is not None else b"")

    def may_break(self) -> bool:
        stream = self.result.stream
        return (
            self.has_failed
            or stream is None
            or stream.is_broken
            or (self.head is not None and has_length(self.head[1]))
        )


_result = odd.either(
    odd.streamed,
    odd.streamed,
    odd.streamed,
    odd.bodies,
    st.builds(lambda: odd.Body({}, None, odd.Stream([]))),
)
_good_size = st.sampled_from([(), (1,), (7,), (8192,)])

apps: st.SearchStrategy[App] = odd.either(
    st.builds(App, steps, _result, st.booleans(), st.booleans(), st.none()),
    st.builds(App, steps, _result, st.booleans(), st.just(False), st.none()),
    st.builds(App, steps, files, st.booleans(), st.just(False), _good_size),
)


def check_application(stage: Stage, app: App, way: Way) -> None:
    stage.act = app
    data, is_orderly = stage.ask(way)
    reply = odd_reply(data, way, app.may_break)
    is_whole = reply.is_whole and is_orderly
    assert is_whole or app.may_break()
    if is_refusal(reply, way) and not app.given:
        fuzzing.tally["refused"] += 1
        return
    fuzzing.tally["sent" if is_whole else "broken off"] += 1
    assert app.head is not None
    status, fields = app.head
    assert reply.status == status
    check_fields(reply, fields)
    check_body(
        reply,
        way,
        app.body(),
        is_whole=is_whole,
        is_length_given=has_length(fields),
    )


# ---- the tests ----------------------------------------------------------------------


def trial(interface: str, stage: Stage) -> fuzzing.Trial:
    if interface == "request":

        def handler(case: Case, way: Way) -> None:
            check_handler(stage, case, way)

        return fuzzing.Trial(handler, case=cases, way=ways)

    def application(app: App, way: Way) -> None:
        check_application(stage, app, way)

    return fuzzing.Trial(application, app=apps, way=ways)


def test_whatever_a_handler_gives_its_client_gets_a_sound_reply() -> None:
    with Stage("request") as stage:
        trial("request", stage).run()


def test_whatever_an_application_does_its_client_gets_a_sound_reply() -> None:
    with Stage("wsgi") as stage:
        trial("wsgi", stage).run()


if __name__ == "__main__":
    for name in ("request", "wsgi"):
        with Stage(name) as stage:
            fuzzing.main(trial(name, stage), share=1 / 2)
