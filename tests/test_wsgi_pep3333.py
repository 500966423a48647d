"""PEP 3333, rule by rule, in its order and under its headings.

The docstring of a test is the rule, in the PEP's own words as far as they fit. Rules
that bind applications or middleware alone have no test. What the PEP leaves to the
server is in the other test_wsgi files.
"""

import collections
import functools
import gc
import io
import re
import select
import sys
import tempfile
import threading
import time
import weakref
import wsgiref.util
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gates
import helpers
import pytest
import wsgi_helpers
from conftest import Serve
from helpers import Connection, get
from wsgi_helpers import OK, Body, Environ, StartResponse, environ_of, replies

# ---- The Application/Framework Side -------------------------------------------------


def function(_environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response(OK, [])
    return [b"hello"]


def generator_function(
    _environ: Environ, start_response: StartResponse
) -> Iterator[bytes]:
    start_response(OK, [])
    yield b"hello"


class Class:
    def __init__(self, _environ: Environ, start_response: StartResponse) -> None:
        self._start = start_response

    def __iter__(self) -> Iterator[bytes]:
        self._start(OK, [])
        yield b"hello"


class Instance:
    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        return function(environ, start_response)

    method = __call__


def hello(body: bytes, _environ: Environ, start_response: StartResponse) -> Any:
    start_response(OK, [])
    return [body]


APPLICATIONS: dict[str, Any] = {
    "function": function,
    "lambda": lambda environ, start_response: function(environ, start_response),
    "generator function": generator_function,
    "class": Class,
    "instance": Instance(),
    "method": Instance().method,
    "partial": functools.partial(hello, b"hello"),
    "positional only": lambda e, s, /: function(e, s),
}


@pytest.mark.parametrize("app", APPLICATIONS.values(), ids=APPLICATIONS)
def test_application_is_any_callable_that_accepts_two_arguments(
    serve: Serve, app: Any
) -> None:
    """A function, method, class, or instance with a __call__ method will do."""
    with Connection(serve(app)) as connection:
        assert [connection.ask().body for _ in range(2)] == [b"hello"] * 2


def test_callables_are_only_called_when_the_interface_is_named(serve: Serve) -> None:
    """Callables are only to be called, not introspected upon."""

    class Opaque:
        __signature__ = "none at all"

        def __call__(self, *arguments: Any) -> Iterable[bytes]:
            return function(*arguments)

    assert helpers.get_url(serve(Opaque(), interface="wsgi")).body == b"hello"


def test_application_is_called_once_for_each_request(serve: Serve) -> None:
    """The server invokes the application callable once for each request."""
    paths: list[str] = []
    app = replies(lambda environ: paths.append(environ["PATH_INFO"]) or [b"x"])
    data = b"".join(get(f"/{n}") for n in range(300))
    helpers.talk(serve(app), data, replies=300)
    assert paths == [f"/{n}" for n in range(300)]


# ---- Specification Details ----------------------------------------------------------


def test_arguments_are_positional(serve: Serve) -> None:
    """The server must invoke the application object using positional arguments."""
    calls: list[Any] = []

    def app(*arguments: Any, **named: Any) -> list[bytes]:
        calls.append((len(arguments), named))
        return list(function(*arguments))

    assert helpers.get_url(serve(app, interface="wsgi")).status == 200
    assert calls == [(2, {})]


def test_environ_is_a_builtin_dictionary(serve: Serve) -> None:
    """It must be a builtin Python dictionary (not a subclass ...)."""
    kinds: list[type] = []
    app = replies(lambda environ: kinds.append(type(environ)) or [])
    helpers.get_url(serve(app))
    assert kinds == [dict]


def test_application_may_modify_environ(serve: Serve) -> None:
    """It is allowed to modify the dictionary in any way it desires."""
    keys: list[list[str]] = []

    def body(environ: Environ) -> list[bytes]:
        keys.append(sorted(environ))
        environ.clear()
        environ.update({"wsgi.input": None, "PATH_INFO": 1, "mine": environ})
        return [b"x"]

    with Connection(serve(replies(body))) as connection:
        assert [connection.ask().status for _ in range(3)] == [200] * 3
    assert keys[0] == keys[1] == keys[2]
    assert "mine" not in keys[0]


def test_start_response_takes_two_or_three_positional_arguments(serve: Serve) -> None:
    """It has two required positional arguments, and one optional argument."""
    errors: list[int] = []

    def app(_environ: Environ, start_response: StartResponse) -> list[bytes]:
        for arguments in ((), (OK,), (b"never",), (OK, [], None, None)):
            try:
                start_response(*arguments)
            except Exception:  # noqa: BLE001 - whatever the server raises
                errors.append(len(arguments))
        start_response(OK, [("X-A", "b")], None)
        return [b"x"]

    reply = helpers.get_url(serve(app))
    assert (reply.status, reply.headers["X-A"], reply.body) == (200, "b", b"x")
    assert errors == [0, 1, 1, 4]


def test_start_response_returns_write(serve: Serve) -> None:
    """It must return a write(body_data) callable of one positional parameter."""
    errors: list[int] = []

    def app(_environ: Environ, start_response: StartResponse) -> list[bytes]:
        write: Any = start_response(OK, [])
        for arguments in ((), (b"never", b"never")):
            try:
                write(*arguments)
            except Exception:  # noqa: BLE001 - whatever the server raises
                errors.append(len(arguments))
        write(b"written")
        return []

    assert helpers.get_url(serve(app)).body == b"written"
    assert errors == [0, 2]


class OldSequence:
    """The iterable of a class that has no __iter__."""

    def __getitem__(self, n: int) -> bytes:
        return [b"a", b"b"][n]


class Sized(Body):
    def __len__(self) -> int:
        return len(self._items)  # type: ignore[arg-type]


class Unsized(Body):
    def __init__(self, items: Iterable[bytes], error: type[Exception]) -> None:
        super().__init__(items)
        self._error = error

    def __len__(self) -> int:
        raise self._error


ITERABLES: dict[str, tuple[Callable[[], Any], bytes]] = {
    "list": (lambda: [b"a", b"b"], b"ab"),
    "tuple": (lambda: (b"a", b"b"), b"ab"),
    "list of one": (lambda: [b"ab"], b"ab"),
    "generator": (lambda: (item for item in [b"a", b"b"]), b"ab"),
    "list iterator": (lambda: iter([b"a", b"b"]), b"ab"),
    "callable iterator": (lambda: iter(io.BytesIO(b"ab").read, b""), b"ab"),
    "map": (lambda: map(bytes.lower, [b"A", b"B"]), b"ab"),
    "deque": (lambda: collections.deque([b"a", b"b"]), b"ab"),
    "dict": (lambda: {b"a": 1, b"b": 2}, b"ab"),
    "file": (lambda: io.BytesIO(b"a\nb"), b"a\nb"),
    "iterable with close": (lambda: Body([b"a", b"b"]), b"ab"),
    "iterable with length": (lambda: Sized([b"a", b"b"]), b"ab"),
    "iterable of one with length": (lambda: Sized([b"ab"]), b"ab"),
    "length that fails": (lambda: Unsized([b"a", b"b"], TypeError), b"ab"),
    "length that is not made": (lambda: Unsized([b"ab"], NotImplementedError), b"ab"),
    "old sequence": (OldSequence, b"ab"),
    "empty list": (list, b""),
    "empty tuple": (tuple, b""),
    "empty generator": (lambda: (item for item in []), b""),
    "empty iterable": (lambda: Body([]), b""),
    "empty iterable with length": (lambda: Sized([]), b""),
    "list of empty": (lambda: [b""], b""),
    "only empty bytestrings": (lambda: iter([b"", b"", b""]), b""),
    "empty bytestring first": (lambda: iter([b"", b"a", b"b"]), b"ab"),
    "empty bytestrings between": (lambda: iter([b"a", b"", b"", b"b", b""]), b"ab"),
    "empty bytestrings in a list": (lambda: [b"", b"a", b"", b"b"], b"ab"),
    "large list": (lambda: [b"x" * 500_000] * 10, b"x" * 5_000_000),
    "large generator": (lambda: (b"x" * 500_000 for _ in range(10)), b"x" * 5_000_000),
}


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(("make", "expected"), ITERABLES.values(), ids=ITERABLES)
def test_application_may_return_any_iterable_of_bytestrings(
    serve: Serve, make: Callable[[], Any], expected: bytes, version: str
) -> None:
    """... the application object must return an iterable yielding zero or more."""
    server = serve(replies(lambda _environ: make()))
    with Connection(server) as connection:
        for _ in range(2 if version == "1.1" else 1):
            connection.send(get(version=version))
            reply = connection.reply()
            assert (reply.status, reply.body) == (200, expected)


def three_blocks(tell: Callable[[], object]) -> Iterator[bytes]:
    for n in range(3):
        yield b"block %d." % n
        tell()


def yielding(tell: Callable[[], object]) -> wsgi_helpers.Application:
    return replies(lambda _environ: three_blocks(tell))


def writing(tell: Callable[[], object]) -> wsgi_helpers.Application:
    def app(_environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response(OK, [])
        for block in three_blocks(tell):
            write(block)
        return []

    return app


@pytest.mark.parametrize("make", [yielding, writing])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_each_block_is_sent_before_the_next_is_asked_for(
    serve: Serve, make: Callable[..., wsgi_helpers.Application], version: str
) -> None:
    """... in an unbuffered fashion, completing the transmission of each bytestring
    before requesting another one; servers must not delay the transmission of any block.
    """
    received = threading.Semaphore(0)
    in_time: list[bool] = []
    app = make(lambda: in_time.append(received.acquire(timeout=2)))
    with Connection(serve(app)) as connection:
        connection.send(get("/", "Connection: close", version=version))
        data = b""
        for n in range(3):
            while b"block %d." % n not in data:
                piece = connection.socket.recv(4096)
                assert piece
                data += piece
            received.release()
        connection.rest()
    assert in_time == [True] * 3


def test_bytestrings_are_not_altered(serve: Serve) -> None:
    """... as binary byte sequences: ... line endings are not altered."""
    data = bytes(range(256)) + b"\r\n\n\r\r\n" * 100
    for body in ([data], iter([data, data])):
        expected = data if isinstance(body, list) else data * 2
        assert helpers.get_url(serve(replies(body))).body == expected


def test_close_is_called_when_the_request_was_completed(serve: Serve) -> None:
    """If the iterable has a close() method, the server must call that method."""
    bodies = [Body([b"a", b"b"]), Sized([b"a"]), Body([]), Body([b""])]
    waiting = iter(bodies)
    with Connection(serve(replies(lambda _environ: next(waiting)))) as connection:
        for _ in bodies:
            assert connection.ask().status == 200
        wsgi_helpers.wait_until_closed(*bodies)


def test_close_is_called_after_an_error_during_iteration(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """... or terminated early due to an application error during iteration."""
    bodies = [Body([ZeroDivisionError()]), Body([b"item", ZeroDivisionError()])]
    waiting = iter(bodies)
    server = serve(replies(lambda _environ: next(waiting)))
    for _ in bodies:
        with Connection(server) as connection:
            connection.send(get("/", "Connection: close"))
            wsgi_helpers.rest(connection)
    wsgi_helpers.wait_until_closed(*bodies)
    wsgi_helpers.wait_for_errors(caplog, 2)


def test_close_is_called_when_the_client_leaves(serve: Serve) -> None:
    """... or an early disconnect of the browser. Applications ... should not assume the
    entire iterator will be consumed.
    """
    body = Body(iter(lambda: bytes(65536), None))
    with Connection(serve(replies(body))) as connection:
        connection.send(get())
        assert connection.socket.recv(1)
    wsgi_helpers.wait_until_closed(body)


def test_start_response_may_be_called_by_the_first_iteration(serve: Serve) -> None:
    """Servers must not assume that start_response() has been called before they begin
    iterating.
    """

    def app(_environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response("201 Lazy", [("X-A", "b")])
        yield b""
        yield b"late"

    reply = helpers.get_url(serve(app))
    assert (reply.status, reply.reason) == (201, "Lazy")
    assert (reply.headers["X-A"], reply.body) == ("b", b"late")


def test_no_other_attribute_of_the_iterable_is_used(serve: Serve) -> None:
    """Servers must not directly use any other attributes of the iterable."""
    asked: list[str] = []

    class Shy:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"a", b"b"])

        def __getattr__(self, name: str) -> Any:
            asked.append(name)
            raise AttributeError(name)

    server = serve(replies(lambda _environ: Shy()))
    assert helpers.get_url(server).body == b"ab"
    server.stop()
    assert set(asked) <= {"close", "__len__"}


# ---- environ Variables --------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "PROPFIND"])
def test_request_method(serve: Serve, method: str) -> None:
    """The HTTP request method, such as GET or POST. This ... is always required."""
    data = gates.request(method=method)
    assert environ_of(serve, data)["REQUEST_METHOD"] == method


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        ("/", "/", ""),
        ("/a/b?c=d", "/a/b", "c=d"),
        ("/a?", "/a", ""),
        ("/a?b?c", "/a", "b?c"),
        ("/?%41=%42", "/", "%41=%42"),
        ("/a%20b%3Fc", "/a b?c", ""),
    ],
)
def test_path_and_query(serve: Serve, target: str, path: str, query: str) -> None:
    """SCRIPT_NAME may be an empty string, if the application corresponds to the root;
    PATH_INFO is the remainder of the request URL's path; QUERY_STRING follows the ?.
    """
    environ = environ_of(serve, get(target))
    assert environ["SCRIPT_NAME"] == ""
    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == (path, query)


def test_content_type_and_length_are_those_of_the_request(serve: Serve) -> None:
    """The contents of any Content-Type and Content-Length fields in the request."""
    data = gates.request("/", "content-type: a/b; c=d", method="POST", body=b"12345")
    environ = environ_of(serve, data)
    assert environ["CONTENT_TYPE"] == "a/b; c=d"
    assert environ["CONTENT_LENGTH"] == "5"


def test_content_type_and_length_may_be_absent(serve: Serve) -> None:
    """May be empty or absent: absent it is."""
    environ = environ_of(serve, get())
    assert "CONTENT_TYPE" not in environ
    assert "CONTENT_LENGTH" not in environ


def test_server_name_and_port_are_never_empty(serve: Serve) -> None:
    """They are required strings and must never be empty."""
    for fields in (b"Host: elsewhere:99\r\n", b""):
        environ = environ_of(serve, b"GET / HTTP/1.0\r\n" + fields + b"\r\n")
        assert environ["SERVER_NAME"] == "127.0.0.1"
        assert re.fullmatch("[1-9][0-9]*", environ["SERVER_PORT"])


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_server_protocol_is_the_version_of_the_request(
    serve: Serve, version: str
) -> None:
    """The version of the protocol the client used to send the request."""
    environ = environ_of(serve, get(version=version))
    assert environ["SERVER_PROTOCOL"] == f"HTTP/{version}"


def test_http_variables_are_the_headers_of_the_request(serve: Serve) -> None:
    """Their presence or absence ... should correspond with the presence or absence of
    the appropriate HTTP header.
    """
    fields = ["x-one: 1", "X-TWO-b: 2, 2", "X-Empty:", "Accept: */*"]
    environ = environ_of(serve, get("/", *fields))
    assert {n: v for n, v in environ.items() if n.startswith("HTTP_")} == {
        "HTTP_HOST": "test",
        "HTTP_X_ONE": "1",
        "HTTP_X_TWO_B": "2, 2",
        "HTTP_X_EMPTY": "",
        "HTTP_ACCEPT": "*/*",
    }


def test_variables_without_a_value_are_left_out(serve: Serve) -> None:
    """Missing variables (such as REMOTE_USER ...) should be left out."""
    environ = environ_of(serve)
    unknown = {"REMOTE_USER", "REMOTE_HOST", "AUTH_TYPE", "HTTPS", "PATH_TRANSLATED"}
    assert not unknown & environ.keys()
    assert None not in environ.values()


def test_variables_of_cgi_are_native_strings(serve: Serve) -> None:
    """No CGI variable's value may be of any type other than str."""
    data = gates.request("/a?b", "X-A: b", "Content-Type: a/b", body=b"body")
    environ = environ_of(serve, data)
    cgi = {name: value for name, value in environ.items() if name.isupper()}
    assert len(cgi) >= 12
    assert {type(text) for pair in cgi.items() for text in pair} == {str}


def test_variables_of_wsgi(serve: Serve) -> None:
    """... and must contain the following WSGI-defined variables."""
    environ = environ_of(serve)
    assert environ["wsgi.version"] == (1, 0)
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["wsgi.multithread"] is False
    assert environ["wsgi.multiprocess"] is False
    assert environ["wsgi.run_once"] is False
    assert {"wsgi.input", "wsgi.errors"} <= environ.keys()


def test_server_defined_variables_have_a_prefix_of_their_own(serve: Serve) -> None:
    """They should be named using only lower-case letters, numbers, dots, and
    underscores, and ... prefixed.
    """
    environ = environ_of(serve, get("/", "X-A: b"))
    others = [name for name in environ if not re.fullmatch("[A-Z][A-Z0-9_]*", name)]
    assert all(re.fullmatch(r"(wsgi|fastbatch)\.[a-z0-9_.]+", n) for n in others)


# ---- Input and Error Streams --------------------------------------------------------

BODY = b"one\ntwo\nthree"

READS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "read(size)": (lambda stream: [stream.read(5), stream.read(99)], 2),
    "read()": (lambda stream: [stream.read()], 1),
    "readline()": (lambda stream: [stream.readline() for _ in range(3)], 3),
    "readline(size)": (lambda stream: [stream.readline(2), stream.read()], 2),
    "readlines()": (lambda stream: stream.readlines(), 3),
    "readlines(hint)": (lambda stream: stream.readlines(1) + stream.readlines(), 3),
    "__iter__()": (list, 3),
}


@pytest.mark.parametrize(("read", "n_parts"), READS.values(), ids=READS)
def test_input_has_the_methods_of_a_file(
    serve: Serve, read: Callable[[Any], list[bytes]], n_parts: int
) -> None:
    """It must support the following methods; read() should do without an argument and
    readline() should support the optional size argument.
    """
    parts: list[bytes] = []
    app = replies(lambda environ: parts.extend(read(environ["wsgi.input"])) or [])
    helpers.talk(serve(app), gates.request(method="POST", body=BODY), replies=1)
    assert b"".join(parts) == BODY
    assert len(parts) == n_parts
    assert {type(part) for part in parts} == {bytes}


@pytest.mark.parametrize("body", [b"", BODY])
def test_input_ends_with_the_body_and_then_gives_nothing(
    serve: Serve, body: bytes
) -> None:
    """The server should simulate an end-of-file condition and return empty bytestrings
    from any attempt to read from an empty or exhausted input stream.
    """
    seen: list[Any] = []

    def read(environ: Environ) -> list[bytes]:
        stream = environ["wsgi.input"]
        seen.append(stream.read(10_000))
        ends = [stream.read(), stream.read(1), stream.readline(), stream.readline(1)]
        seen.append((set(ends), stream.readlines(), list(stream)))
        return []

    data = gates.request(method="POST", body=body) + get("/not/of/this/body")
    helpers.talk(serve(replies(read)), data, replies=2)
    assert seen[:2] == [body, ({b""}, [], [])]


def test_errors_has_the_methods_of_a_file_and_goes_to_the_log(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """The stream must support flush(), write(str) and writelines(seq), and will be the
    server's main error log.
    """

    def complain(environ: Environ) -> list[bytes]:
        errors = environ["wsgi.errors"]
        errors.write("first line\nsecond")
        errors.writelines([" line\n", "third line\n"])
        errors.write("no newline")
        errors.flush()
        return [b"x"]

    assert helpers.get_url(serve(replies(complain))).body == b"x"
    lines = [record.getMessage() for record in gates.errors(caplog)]
    assert lines == ["first line", "second line", "third line", "no newline"]
    assert {record.name for record in gates.errors(caplog)} == {"fastbatch"}


def test_errors_accepts_arbitrary_unicode(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """It should accept and log arbitrary unicode without raising an error."""
    text = "é € 𝄞 \x00 \x1b %s {} %(a)s"

    def complain(environ: Environ) -> list[bytes]:
        environ["wsgi.errors"].write(text + "\n")
        environ["wsgi.errors"].write("\ud800\n")
        return [b"x"]

    assert helpers.get_url(serve(replies(complain))).body == b"x"
    assert text in [record.getMessage() for record in gates.errors(caplog)]


# ---- The start_response() Callable --------------------------------------------------


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("200 OK", "OK"),
        ("200 Fine, thank you", "Fine, thank you"),
        ("404 Not Found", "Not Found"),
        ("299 Unknown to all", "Unknown to all"),
        ("599 The last", "The last"),
        ("418 caf\xe9", "caf\xe9"),
    ],
)
def test_status_is_sent_as_it_is(serve: Serve, status: str, reason: str) -> None:
    """... a Status-Code and a Reason-Phrase, in that order and separated by a single
    space.
    """
    server = serve(replies([b"x"], status=status))
    data = helpers.talk(server, get(), replies=1)
    assert data.startswith(b"HTTP/1.1 %b\r\n" % status.encode("latin-1"))
    assert helpers.parse_replies(data)[0].reason == reason


BAD_STARTS: dict[str, tuple[Any, ...]] = {
    "status of bytes": (b"200 OK", []),
    "status of int": (200, []),
    "status None": (None, []),
    "status empty": ("", []),
    "status without reason and space": ("200", []),
    "status of two digits": ("20 OK", []),
    "status of four digits": ("2000 OK", []),
    "status of no digits": ("OK", []),
    "status with a sign": ("+20 OK", []),
    "status with other digits": ("\u0662\u0660\u0660 OK", []),
    "status with space before": (" 200 OK", []),
    "status without space": ("200OK", []),
    "status with a tab": ("200\tOK", []),
    "status that is informational": ("100 Continue", []),
    "status that does not exist": ("600 Beyond", []),
    "status with CR LF": ("200 OK\r\nX-A: b", []),
    "status with LF at the end": ("200 OK\n", []),
    "status with NUL": ("200 O\0K", []),
    "status with DEL": ("200 O\x7fK", []),
    "status not latin-1": ("200 €", []),
    "headers tuple": (OK, ()),
    "headers dict": (OK, {}),
    "headers None": (OK, None),
    "headers iterator": (OK, iter([])),
    "header as list": (OK, [["X-A", "b"]]),
    "header as text": (OK, ["ab"]),
    "header of one": (OK, [("X-A",)]),
    "header of three": (OK, [("X-A", "b", "c")]),
    "name of bytes": (OK, [(b"X-A", "b")]),
    "name None": (OK, [(None, "b")]),
    "name empty": (OK, [("", "b")]),
    "name with colon": (OK, [("X-A:", "b")]),
    "name with space": (OK, [("X A", "b")]),
    "name with CR LF": (OK, [("X-A\r\nX-B", "b")]),
    "name with NUL": (OK, [("X-A\0", "b")]),
    "name not ASCII": (OK, [("X-\xe9", "b")]),
    "name not latin-1": (OK, [("X-€", "b")]),
    "value of bytes": (OK, [("X-A", b"b")]),
    "value of int": (OK, [("Content-Length", 1)]),
    "value None": (OK, [("X-A", None)]),
    "value with CR LF": (OK, [("X-A", "b\r\nX-B: c")]),
    "value with LF": (OK, [("X-A", "b\nc")]),
    "value with CR": (OK, [("X-A", "b\rc")]),
    "value with LF at the end": (OK, [("X-A", "b\n")]),
    "value with NUL": (OK, [("X-A", "b\0")]),
    "value with ESC": (OK, [("X-A", "\x1b")]),
    "value with DEL": (OK, [("X-A", "\x7f")]),
    "value not latin-1": (OK, [("X-A", "€")]),
    "second header bad": (OK, [("X-A", "b"), ("X-B", "\n")]),
    "length signed": (OK, [("Content-Length", "+1")]),
    "length empty": (OK, [("Content-Length", "")]),
    "length in words": (OK, [("content-length", "one")]),
    "length negative": (OK, [("Content-Length", "-1")]),
    "lengths that differ": (OK, [("Content-Length", "1"), ("Content-Length", "2")]),
    "length too large": (OK, [("Content-Length", "9" * 25)]),
}


def starting_badly(*arguments: Any) -> tuple[wsgi_helpers.Application, list[Exception]]:
    """An application whose start_response fails and which then says so itself."""
    raised: list[Exception] = []

    def app(_environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            start_response(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever the server raises
            raised.append(error)
            start_response("500 Oops", [("X-Second", "2")], sys.exc_info())
            return [b"error body"]
        return [b"x"]

    return app, raised


@pytest.mark.parametrize("arguments", BAD_STARTS.values(), ids=BAD_STARTS)
def test_bad_status_or_header_is_an_error_while_the_application_runs(
    serve: Serve, arguments: tuple[Any, ...]
) -> None:
    """Servers should check for errors in the headers at the time start_response is
    called, so that an error can be raised while the application is still running.
    """
    app, raised = starting_badly(*arguments)
    with Connection(serve(app)) as connection:
        reply = connection.ask()
        assert connection.ask().body == b"error body"
    assert len(raised) == 2
    assert (reply.reason, reply.body) == ("Oops", b"error body")
    assert (reply.headers["X-A"], reply.headers["X-B"]) == (None, None)
    assert str(raised[0])


@pytest.mark.parametrize("arguments", BAD_STARTS.values(), ids=BAD_STARTS)
def test_bad_status_or_header_that_is_not_caught_is_a_500(
    serve: Serve, caplog: pytest.LogCaptureFixture, arguments: tuple[Any, ...]
) -> None:
    """A server should consider it a fatal error; see Error Handling."""

    def app(_environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response(*arguments)
        return [b"never"]

    reply = helpers.get_url(serve(app))
    assert (reply.status, reply.body) == (500, b"500 Internal Server Error\n")
    assert (reply.headers["X-A"], reply.headers["X-B"]) == (None, None)
    record = gates.wait_for_error(caplog)
    assert record.exc_info


def test_server_adds_the_headers_that_are_missing(serve: Serve) -> None:
    """If the application omits a header required by HTTP ... the server ... must add
    it. For example, the HTTP Date: and Server: headers.
    """
    reply = helpers.get_url(serve(replies([b"x"])))
    assert reply.headers["Date"].endswith("GMT")
    assert reply.headers["Server"] == "fastbatch"
    assert reply.headers["Content-Length"] == "1"


def test_header_names_are_case_insensitive(serve: Serve) -> None:
    """HTTP header names are case-insensitive, so be sure to take that into
    consideration.
    """
    fields = [("dAtE", "today"), ("sErVeR", "mine"), ("cOnTeNt-LeNgTh", "2")]
    reply = helpers.get_url(serve(replies(iter([b"ab"]), *fields)))
    for name, value in fields:
        assert reply.headers.get_all(name) == [value]
    assert reply.headers["Transfer-Encoding"] is None


HOP_BY_HOP = [
    ("Connection", "close"),
    ("CONNECTION", "keep-alive"),
    ("Keep-Alive", "timeout=5"),
    ("Proxy-Authenticate", "Basic"),
    ("Proxy-Authorization", "Basic"),
    ("TE", "trailers"),
    ("Trailers", "X-A"),
    ("transfer-encoding", "chunked"),
    ("Upgrade", "h2c"),
]


@pytest.mark.parametrize("field", HOP_BY_HOP, ids=lambda field: field[0])
def test_hop_by_hop_header_is_an_error(serve: Serve, field: tuple[str, str]) -> None:
    """A server should raise an error if they are supplied to start_response()."""
    assert wsgiref.util.is_hop_by_hop(field[0])
    app, raised = starting_badly(OK, [("X-A", "b"), field])
    reply = helpers.get_url(serve(app))
    assert (reply.reason, reply.body) == ("Oops", b"error body")
    assert field[0].lower() in str(raised[0]).lower()


def test_every_hop_by_hop_header_is_tried() -> None:
    tried = {name.lower() for name, _ in HOP_BY_HOP}
    words = "connection keep-alive proxy-authenticate proxy-authorization te trailers"
    assert tried == {*words.split(), "transfer-encoding", "upgrade"}


def has_arrived(client: Connection) -> bool:
    """Whether anything arrives within a time in which it well could."""
    return bool(select.select([client.socket], [], [], 0.05)[0])


def test_head_is_not_sent_before_there_is_body(serve: Serve) -> None:
    """Response headers must not be sent until there is actual body data available, or
    until the application's returned iterable is exhausted.
    """
    arrived: list[bool] = []

    def app(_environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response(OK, [])
        for _ in range(3):
            arrived.append(has_arrived(client))
            yield b""
        yield b"body"
        arrived.append(has_arrived(client))
        is_over.set()

    is_over = threading.Event()
    with Connection(serve(app)) as client:
        client.send(get())
        assert is_over.wait(helpers.TIMEOUT)  # to read now would be to take it away
        assert client.reply().body == b"body"
    assert arrived == [False] * 3 + [True]


def test_head_is_not_sent_before_something_is_written(serve: Serve) -> None:
    """... or upon the application's first invocation of the write() callable."""
    arrived: list[bool] = []

    def app(_environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response(OK, [])
        arrived.append(has_arrived(client))
        write(b"written")
        arrived.append(has_arrived(client))
        is_over.set()
        return []

    is_over = threading.Event()
    with Connection(serve(app)) as client:
        client.send(get())
        assert is_over.wait(helpers.TIMEOUT)
        assert client.reply().body == b"written"
    assert arrived == [False, True]


class OopsError(Exception):
    pass


def oops(error: Exception) -> Any:
    """What sys.exc_info() is of an error that was raised here."""
    try:
        raise error
    except OopsError:
        return sys.exc_info()


@pytest.mark.parametrize(
    "when", ["in the call", "in the first iteration", "after empty bytestrings"]
)
def test_exc_info_replaces_the_head_while_it_is_not_sent(
    serve: Serve, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    """If no HTTP headers have been output yet, start_response should replace the
    currently-stored HTTP response headers with the newly-supplied ones.
    """

    def app(_environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 Froody", [("X-First", "1"), ("Content-Length", "1000")])

        def body() -> Iterator[bytes]:
            if when == "after empty bytestrings":
                yield from [b"", b""]
            start_response("503 Oops", [("X-Second", "2")], oops(OopsError()))
            yield b"error body"

        return list(body()) if when == "in the call" else body()

    reply = helpers.get_url(serve(app))
    assert (reply.status, reply.reason, reply.body) == (503, "Oops", b"error body")
    assert (reply.headers["X-First"], reply.headers["X-Second"]) == (None, "2")
    assert gates.errors(caplog) == []


def fail_late_by_yielding(start_response: StartResponse) -> Iterator[bytes]:
    start_response(OK, [])
    yield b"first"
    start_response("500 Oops", [], oops(OopsError("too late")))
    yield b"never"


def fail_late_by_writing(start_response: StartResponse) -> list[bytes]:
    start_response(OK, [])(b"first")
    start_response("500 Oops", [], oops(OopsError("too late")))
    return [b"never"]


@pytest.mark.parametrize("fail", [fail_late_by_yielding, fail_late_by_writing])
def test_exc_info_is_raised_again_when_the_head_was_sent(
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
    fail: Callable[[StartResponse], Iterable[bytes]],
) -> None:
    """... start_response must raise an error, and should re-raise using the exc_info
    tuple.
    """
    with Connection(serve(lambda _environ, start: fail(start))) as connection:
        connection.send(get())
        data, _ = wsgi_helpers.rest(connection)
    assert b"never" not in data
    assert b"Oops" not in data
    assert not data.endswith(b"0\r\n\r\n")
    record = gates.wait_for_error(caplog)
    assert record.exc_info is not None
    _, error, traceback = record.exc_info
    assert isinstance(error, OopsError)
    names = []
    while traceback is not None:
        names.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    assert {fail.__name__, "oops"} <= set(names)


@pytest.mark.parametrize("is_first_bad", [False, True], ids=["good", "bad"])
@pytest.mark.parametrize("exc_info", [(), (None,)], ids=["two arguments", "three"])
def test_start_response_is_called_again_only_with_exc_info(
    serve: Serve, exc_info: Any, *, is_first_bad: bool
) -> None:
    """It is a fatal error to call start_response without the exc_info argument if
    start_response has already been called ... This includes the case where the first
    call ... raised an error.
    """
    raised: list[int] = []

    def app(_environ: Environ, start_response: StartResponse) -> list[bytes]:
        calls = [(OK, [("X-A", "\n" if is_first_bad else "b")])]
        calls += [("299 Again", [], *exc_info)] * 2
        for n, arguments in enumerate(calls):
            try:
                start_response(*arguments)
            except Exception:  # noqa: BLE001 - whatever the server raises
                raised.append(n)
        if is_first_bad:
            start_response(OK, [("X-A", "b")], oops(OopsError()))
        return [b"x"]

    reply = helpers.get_url(serve(app))
    assert (reply.status, reply.headers["X-A"]) == (200, "b")
    assert raised == ([0, 1, 2] if is_first_bad else [1, 2])


def test_no_reference_to_exc_info_is_kept(serve: Serve) -> None:
    """The server should ensure that no reference is held to the exc_info parameter
    beyond the duration of the function's execution.
    """
    alive: list[bool] = []

    def app(_environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response(OK, [])
        error = OopsError()
        reference = weakref.ref(error)
        start_response("500 Oops", [], (OopsError, error, None))
        del error
        alive.append(reference() is not None)
        yield b"x"

    gc.disable()
    try:
        assert helpers.get_url(serve(app)).status == 500
    finally:
        gc.enable()
    assert alive == [False]


# ---- Handling the Content-Length Header ---------------------------------------------


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("items", [[b"ab", b"cd", b"never"], [b"abc", b"dnever"]])
def test_no_more_is_sent_than_content_length_allows(
    serve: Serve, items: list[bytes], version: str
) -> None:
    """The server should not transmit more bytes to the client than the header allows,
    and should stop iterating over the response when enough data has been sent.
    """
    body = Body([*items, b"never", b"never"])
    app = replies(body, ("Content-Length", "4"))
    with Connection(serve(app)) as connection:
        connection.send(get(version=version))
        assert connection.reply().body == b"abcd"
        wsgi_helpers.wait_until_closed(body)
    assert body.n_taken == 2


def test_write_past_content_length_is_an_error(serve: Serve) -> None:
    """... or raise an error if the application tries to write() past that point."""
    raised: list[int] = []

    def app(_environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response(OK, [("Content-Length", "4")])
        for n, data in enumerate([b"ab", b"cd", b"never"]):
            try:
                write(data)
            except Exception:  # noqa: BLE001 - whatever the server raises
                raised.append(n)
        return []

    with Connection(serve(app)) as connection:
        assert [connection.ask().body for _ in range(2)] == [b"abcd"] * 2
    assert raised == [2, 2]


def give_little_by_yielding(start_response: StartResponse) -> Iterator[bytes]:
    start_response(OK, [("Content-Length", "10")])
    yield from [b"abc", b"def"]


def give_little_by_writing(start_response: StartResponse) -> list[bytes]:
    start_response(OK, [("Content-Length", "10")])(b"abc")
    return [b"def"]


@pytest.mark.parametrize("give", [give_little_by_yielding, give_little_by_writing])
def test_less_than_content_length_closes_the_connection_and_is_logged(
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
    give: Callable[[StartResponse], Iterable[bytes]],
) -> None:
    """If it does not provide enough data to meet its stated Content-Length, the server
    should close the connection and log or otherwise report the error.
    """
    with Connection(serve(lambda _environ, start: give(start))) as connection:
        connection.send(get() + get("/never"))
        data, _ = wsgi_helpers.rest(connection)
    assert data.partition(b"\r\n\r\n")[2] in (b"", b"abc", b"abcdef")
    assert "Content-Length" in wsgi_helpers.wait_for_error(caplog)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("make", [list, tuple, Sized])
def test_content_length_of_one_bytestring_is_worked_out(
    serve: Serve, make: Callable[[list[bytes]], Any], version: str
) -> None:
    """For an iterable whose len() is 1 ... the server can automatically determine
    Content-Length.
    """
    app = replies(lambda _environ: make([b"hello"]))
    with Connection(serve(app)) as connection:
        for _ in range(2):
            connection.send(get("/", "Connection: keep-alive", version=version))
            reply = connection.reply()
            assert (reply.headers["Content-Length"], reply.body) == ("5", b"hello")
            assert "Transfer-Encoding" not in reply.headers


def test_content_length_counts_what_was_written(serve: Serve) -> None:
    """If the application does not call the write() callable ..."""

    def app(_environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response(OK, [])(b"written, ")
        return [b"yielded"]

    with Connection(serve(app)) as connection:
        bodies = [connection.ask().body for _ in range(2)]
    assert bodies == [b"written, yielded"] * 2


def test_body_of_unknown_length_is_chunked_for_http_1_1(serve: Serve) -> None:
    """The server may use chunked encoding to send a chunk for each ... bytestring
    yielded by the iterable.
    """
    items = [b"a", b"", b"bc" * 5000, b"", b"d"]
    server = serve(replies(lambda _environ: iter(items)))
    data = helpers.talk(server, get(), replies=1)
    assert wsgi_helpers.chunks_of(data) == [b"a", b"bc" * 5000, b"d"]
    with Connection(server) as connection:
        assert [connection.ask().status for _ in range(2)] == [200, 200]


def test_body_of_unknown_length_ends_with_the_connection_for_http_1_0(
    serve: Serve,
) -> None:
    """The simplest of these is to close the client connection when the response is
    completed.
    """
    server = serve(replies(lambda _environ: iter([b"a", b"b"])))
    data = helpers.talk(server, get("/", "Connection: keep-alive", version="1.0"))
    (reply,) = helpers.parse_replies(data)
    assert reply.body == b"ab"
    assert "Content-Length" not in reply.headers
    assert "Transfer-Encoding" not in reply.headers


# ---- The write() Callable -----------------------------------------------------------


def test_what_is_yielded_follows_what_was_written(serve: Serve) -> None:
    """Any bytestrings yielded by the iterable are transmitted after all bytestrings
    passed to write().
    """

    def app(_environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response(OK, [])
        for n in range(5):
            write(b"w%d " % n * 5000)
        return (b"y%d " % n * 5000 for n in range(5))

    expected = b"".join(b"%c%d " % (c, n) * 5000 for c in b"wy" for n in range(5))
    assert helpers.get_url(serve(app)).body == expected


@pytest.mark.parametrize("make", [list, tuple, lambda _: iter([]), lambda _: [b""]])
def test_iterable_may_be_empty_when_all_was_written(
    serve: Serve, make: Callable[[Any], Any]
) -> None:
    """The returned iterable may be empty."""

    def app(_environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response(OK, [])
        write(b"")
        write(b"a")
        write(b"b")
        result: Iterable[bytes] = make(())
        return result

    with Connection(serve(app)) as connection:
        assert [connection.ask().body for _ in range(2)] == [b"ab"] * 2


def test_iterable_must_be_returned_even_when_all_was_written(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """An application must return an iterable object, even if it uses write()."""

    def app(_environ: Environ, start_response: StartResponse) -> Any:
        start_response(OK, [])(b"written")

    with Connection(serve(app)) as connection:
        connection.send(get())
        data, _ = wsgi_helpers.rest(connection)
    assert not data.endswith(b"0\r\n\r\n")
    assert "None" in wsgi_helpers.wait_for_error(caplog)


def test_write_is_not_for_the_iteration(serve: Serve) -> None:
    """Applications must not invoke write() from within their return iterable."""
    raised: list[Exception] = []

    def app(_environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        write = start_response(OK, [])
        yield b"a"
        try:
            write(b"never")
        except Exception as error:  # noqa: BLE001 - whatever the server raises
            raised.append(error)
        yield b"b"

    assert helpers.get_url(serve(app)).body == b"ab"
    assert len(raised) == 1


# ---- Unicode Issues -----------------------------------------------------------------


def test_strings_of_environ_are_bytes_as_latin_1(serve: Serve) -> None:
    """Servers must not supply strings to an application containing any other Unicode
    characters than those of ISO-8859-1.
    """
    data = (
        b"GET /%E2%82%AC/%ff?\xe2 HTTP/1.1\r\nHost: test\r\nX-A: \xe2\x82\xac\xff\r\n"
    )
    data = data.replace(b"?\xe2", b"?%E2") + b"\r\n"
    environ = environ_of(serve, data)
    assert environ["PATH_INFO"].encode("latin-1") == "/€/".encode() + b"\xff"
    assert environ["QUERY_STRING"] == "%E2"
    assert environ["HTTP_X_A"].encode("latin-1") == "€".encode() + b"\xff"


def test_headers_are_sent_as_latin_1(serve: Serve) -> None:
    """They must either be ISO-8859-1 characters, or use RFC 2047 MIME encoding."""
    server = serve(replies([b"x"], ("X-A", "caf\xe9 \xff")))
    assert b"\r\nX-A: caf\xe9 \xff\r\n" in helpers.talk(server, get(), replies=1)


NO_BYTESTRINGS: list[Any] = ["text", 1, None, [b"x"], object()]


@pytest.mark.parametrize("item", NO_BYTESTRINGS, ids=repr)
@pytest.mark.parametrize("make", [list, tuple, iter, Body, Sized])
def test_what_is_no_bytestring_is_a_500(
    serve: Serve, caplog: pytest.LogCaptureFixture, make: Callable[..., Any], item: Any
) -> None:
    """The value must be of type bytes under Python 3."""

    def body(environ: Environ) -> Any:
        return make([item] if environ["PATH_INFO"] == "/bad" else [b"good"])

    with Connection(serve(replies(body))) as connection:
        assert connection.ask("/bad").status == 500
        assert connection.ask().body == b"good"
    assert "bytes" in wsgi_helpers.wait_for_error(caplog)


@pytest.mark.parametrize("item", NO_BYTESTRINGS, ids=repr)
def test_what_is_no_bytestring_breaks_a_body_that_has_begun(
    serve: Serve, caplog: pytest.LogCaptureFixture, item: Any
) -> None:
    """As above, when the head was sent."""
    body = Body([b"first", item, b"never"])
    with Connection(serve(replies(body))) as connection:
        connection.send(get())
        data, _ = wsgi_helpers.rest(connection)
    assert b"never" not in data
    assert not data.endswith(b"0\r\n\r\n")
    assert "bytes" in wsgi_helpers.wait_for_error(caplog)
    wsgi_helpers.wait_until_closed(body)


@pytest.mark.parametrize("item", NO_BYTESTRINGS, ids=repr)
def test_what_is_no_bytestring_cannot_be_written(serve: Serve, item: Any) -> None:
    """As above, passed to write()."""
    raised: list[Exception] = []

    def app(_environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response(OK, [])
        try:
            write(item)
        except TypeError as error:
            raised.append(error)
        write(b"good")
        return []

    assert helpers.get_url(serve(app)).body == b"good"
    assert len(raised) == 1


# ---- Error Handling -----------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/fails"])
def test_example_of_error_handling(serve: Serve, path: str) -> None:
    """The example: regular application code here."""

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        try:
            start_response("200 Froody", [("content-type", "text/plain")])
            if environ["PATH_INFO"] == "/fails":
                raise OopsError
        except OopsError:
            fields = [("content-type", "text/plain")]
            start_response("500 Oops", fields, sys.exc_info())
            return [b"error body goes here"]
        return [b"normal body goes here"]

    with Connection(serve(app)) as connection:
        reply = connection.ask(path)
    if path == "/":
        expected = (200, "Froody", b"normal body goes here")
    else:
        expected = (500, "Oops", b"error body goes here")
    assert (reply.status, reply.reason, reply.body) == expected


def fail_at_once(_environ: Environ, _start_response: StartResponse) -> Any:
    raise OopsError("at once")


def fail_after_start(_environ: Environ, start_response: StartResponse) -> Any:
    start_response(OK, [])
    raise OopsError("after start")


def fail_in_iter(_environ: Environ, start_response: StartResponse) -> Any:
    class Bad:
        def __iter__(self) -> Iterator[bytes]:
            raise OopsError("in __iter__")

    start_response(OK, [])
    return Bad()


def fail_in_iteration(_environ: Environ, start_response: StartResponse) -> Any:
    start_response(OK, [])
    yield b""
    raise OopsError("in iteration")


@pytest.mark.parametrize(
    "app", [fail_at_once, fail_after_start, fail_in_iter, fail_in_iteration]
)
def test_exception_that_aborts_the_application_is_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture, app: Any
) -> None:
    """Servers should trap and log any exception that aborts an application or the
    iteration of its return value.
    """
    with Connection(serve(app)) as connection:
        reply = connection.ask()
        assert (reply.status, reply.body) == (500, b"500 Internal Server Error\n")
        record = gates.wait_for_error(caplog)
        assert connection.ask().status == 500
    assert app.__qualname__ in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[0] is OopsError


def test_exception_in_a_body_that_has_begun_aborts_the_response(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """The server can then trap this (fatal) exception and abort the response."""
    body = Body([b"first", OopsError("in the middle")])
    with Connection(serve(replies(body))) as connection:
        connection.send(get() + get("/never"))
        data, is_orderly = wsgi_helpers.rest(connection)
    assert not data.endswith(b"0\r\n\r\n")
    assert data.count(b"HTTP/1.1 ") <= 1
    assert not is_orderly
    assert "in the middle" in wsgi_helpers.wait_for_error(caplog)


# ---- HTTP 1.1 Expect/Continue -------------------------------------------------------


def waiting(version: str) -> bytes:
    """The head of a request whose client waits to be told to send the body."""
    fields = ["Content-Length: 4", "Expect: 100-continue"]
    return get("/", *fields, version=version).replace(b"GET", b"POST")


def test_client_that_waits_is_told_to_continue(serve: Serve) -> None:
    """Servers ... must provide transparent support for HTTP 1.1's expect/continue
    mechanism.
    """
    with Connection(serve(wsgi_helpers.echo)) as connection:
        connection.send(waiting("1.1"))
        hundred = b"HTTP/1.1 100 Continue\r\n\r\n"
        received = b""
        while len(received) < len(hundred):
            piece = connection.socket.recv(len(hundred) - len(received))
            assert piece
            received += piece
        assert received == hundred
        connection.send(b"body")
        assert connection.reply().body == b"/body"


def test_http_1_0_client_is_not_told_to_continue(serve: Serve) -> None:
    """These behavior restrictions do not apply for HTTP 1.0 requests."""
    data = helpers.talk(serve(wsgi_helpers.echo), waiting("1.0") + b"body")
    (reply,) = helpers.parse_replies(data)
    assert (reply.status, reply.body) == (200, b"/body")


# ---- Other HTTP Features ------------------------------------------------------------


def test_output_of_the_application_is_sent_as_it_is(serve: Serve) -> None:
    """Servers should play dumb and allow the application complete control over its
    output.
    """
    fields = [
        ("set-COOKIE", "a=b"),
        ("X-A", "  "),
        ("Set-Cookie", "c=d"),
        ("ETag", '"same"'),
        ("X-Empty", ""),
        ("Last-Modified", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("Set-Cookie", "a=b"),
    ]
    server = serve(replies([b"body"], *fields, status="200 As I say"))
    asked = ['If-None-Match: "same"', "Range: bytes=1-2", "If-Modified-Since: now"]
    data = helpers.talk(server, get("/", *asked), replies=1)
    lines = data.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    assert lines[0] == "HTTP/1.1 200 As I say"
    names = [name for name, _ in fields]
    sent = [line.split(": ", 1) for line in lines if line.split(":")[0] in names]
    assert [(name, value.strip()) for name, value in sent] == [
        (name, value.strip()) for name, value in fields
    ]
    assert data.endswith(b"body")


def test_no_content_type_is_invented(serve: Serve) -> None:
    """Servers should be conservative in their implementation."""
    for body in ([b"text"], iter([b"text"]), []):
        assert "Content-Type" not in helpers.get_url(serve(replies(body))).headers


def test_transfer_encoding_of_the_request_is_decoded(serve: Serve) -> None:
    """WSGI servers must handle any supported inbound hop-by-hop headers on their own,
    such as by decoding any inbound Transfer-Encoding.
    """
    seen: list[Environ] = []

    def read(environ: Environ) -> list[bytes]:
        seen.append(environ)
        return [environ["wsgi.input"].read()]

    data = get("/", "Transfer-Encoding: chunked").replace(b"GET", b"POST")
    data += b"3;a=b\r\none\r\n4\r\n two\r\n0\r\nX-Trailer: x\r\n\r\n"
    raw = helpers.talk(serve(replies(read)), data, replies=1)
    assert helpers.parse_replies(raw)[0].body == b"one two"
    (environ,) = seen
    assert environ["CONTENT_LENGTH"] == "7"
    assert environ["wsgi.input_terminated"] is True
    assert not {"HTTP_TRANSFER_ENCODING", "HTTP_X_TRAILER"} & environ.keys()


# ---- Thread Support -----------------------------------------------------------------


def test_application_is_run_by_one_thread_at_a_time(serve: Serve) -> None:
    """This value should evaluate true if the application object may be simultaneously
    invoked by another thread: wsgi.multithread is false.
    """
    lock = threading.Lock()
    together: list[bool] = []

    def body(_environ: Environ) -> list[bytes]:
        is_alone = lock.acquire(blocking=False)
        together.append(not is_alone)
        time.sleep(0.001)
        if is_alone:
            lock.release()
        return [b"x"]

    server = serve(replies(body))
    with ThreadPoolExecutor(10) as pool:
        assert (
            len({*pool.map(lambda _: helpers.get_url(server).status, range(50))}) == 1
        )
    assert together == [False] * 50


# ---- Application Configuration ------------------------------------------------------


def test_environ_may_be_configured_by_a_script(serve: Serve) -> None:
    """Even in the worst case, persons deploying an application can create a script to
    supply the necessary configuration values.
    """
    the_app = replies(lambda environ: [environ["the_app.configval1"].encode()])

    def new_app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        environ["the_app.configval1"] = "something"
        return the_app(environ, start_response)

    assert helpers.get_url(serve(new_app)).body == b"something"


# ---- URL Reconstruction -------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "options", "script_name"),
    [
        ("/", {}, ""),
        ("/a%20b/%C3%A9?c=%26d", {}, ""),
        ("/a/b?c", {"root_path": "/a"}, "/a"),
        ("/a", {"root_path": "/a"}, "/a"),
    ],
)
@pytest.mark.parametrize("host", ["test", "test:8080", None])
def test_url_can_be_reconstructed(
    serve: Serve, target: str, options: Any, script_name: str, host: str | None
) -> None:
    """If an application wishes to reconstruct the complete URL, it may do so."""
    environs: list[Environ] = []
    app = replies(lambda environ: environs.append(environ) or [])
    server = serve(app, **options)
    field = f"Host: {host}\r\n" if host else ""
    helpers.talk(server, f"GET {target} HTTP/1.0\r\n{field}\r\n".encode())
    (environ,) = environs
    assert environ["SCRIPT_NAME"] == script_name
    there = host or server.url.removeprefix("http://")
    assert wsgiref.util.request_uri(environ) == f"http://{there}{target}"


# ---- Optional Platform-Specific File Handling ---------------------------------------


class Reader:
    """The least that is file-like."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)
        self.sizes: list[int] = []

    def read(self, size: int = -1) -> bytes:
        self.sizes.append(size)
        return self._file.read(size)


class Closing(Reader):
    n_closed = 0

    def close(self) -> None:
        self.n_closed += 1


def wrapped(*arguments: Any) -> wsgi_helpers.Application:
    """An application that returns these in a file wrapper."""
    return replies(lambda environ: environ["wsgi.file_wrapper"](*arguments))


@pytest.mark.parametrize("block_size", [(), (1,), (1000,), (10**9,)])
def test_file_wrapper_takes_a_file_and_perhaps_a_block_size(
    serve: Serve, block_size: tuple[int, ...]
) -> None:
    """It must be a callable that accepts one required positional parameter, and one
    optional positional parameter.
    """
    data = bytes(range(256)) * 10
    app = replies(
        lambda environ: environ["wsgi.file_wrapper"](io.BytesIO(data), *block_size)
    )
    with Connection(serve(app)) as connection:
        assert [connection.ask().body for _ in range(2)] == [data] * 2


def test_file_is_not_touched_unless_the_wrapper_is_returned(serve: Serve) -> None:
    """It must not perform any data transmission until and unless the server/gateway
    actually receives the iterable as a return value.
    """
    file = Closing(b"never")

    def body(environ: Environ) -> list[bytes]:
        environ["wsgi.file_wrapper"](file)
        return [b"something else"]

    server = serve(replies(body))
    assert helpers.get_url(server).body == b"something else"
    server.stop()
    assert (file.sizes, file.n_closed) == ([], 0)


def test_file_is_read_by_the_block(serve: Serve) -> None:
    """A file that is not suitable for the platform API is still wrapped: read() takes
    an optional size argument.
    """
    file = Reader(b"x" * 2500)
    assert helpers.get_url(serve(wrapped(file, 1000))).body == b"x" * 2500
    assert set(file.sizes) == {1000}
    assert len(file.sizes) in (3, 4)


def test_close_of_the_wrapper_is_that_of_the_file(serve: Serve) -> None:
    """The iterable must have a close() method that invokes the original file-like
    object's close() method.
    """
    closing, other = Closing(b"data"), Closing(b"other")

    def body(environ: Environ) -> Any:
        environ["wsgi.file_wrapper"](other).close()
        return environ["wsgi.file_wrapper"](closing)

    server = serve(replies(body))
    assert helpers.get_url(server).body == b"data"
    server.stop()
    assert (closing.n_closed, other.n_closed) == (1, 1)


def test_wrapper_is_an_iterable_for_middleware(serve: Serve) -> None:
    """The callable must return an iterable object; middleware may interpret or override
    the response data.
    """
    file = Closing(b"a\nb" * 500)

    def body(environ: Environ) -> Iterator[bytes]:
        wrapper = environ["wsgi.file_wrapper"](file, 100)
        yield from (block.upper() for block in wrapper)
        wrapper.close()

    assert helpers.get_url(serve(replies(body))).body == b"A\nB" * 500
    assert file.n_closed == 1


def test_transmission_begins_at_the_position_that_the_file_has_then(
    serve: Serve, tmp_path: Path
) -> None:
    """Transmission should begin at the current position within the file at the time
    that transmission begins, and continue until the end.
    """
    path = tmp_path / "file"
    path.write_bytes(bytes(range(250)) * 100)

    def body(environ: Environ) -> Any:
        file = path.open("rb")
        file.read(10)  # reads ahead: the position of its descriptor is another one
        wrapper = environ["wsgi.file_wrapper"](file)
        file.seek(990, io.SEEK_CUR)
        return wrapper

    assert helpers.get_url(serve(replies(body))).body == bytes(range(250)) * 96


@pytest.mark.parametrize("is_real", [True, False], ids=["file", "file-like"])
def test_transmission_ends_with_content_length(serve: Serve, *, is_real: bool) -> None:
    """... or until Content-Length bytes have been written."""

    def body(environ: Environ) -> Any:
        file: Any = tempfile.TemporaryFile() if is_real else io.BytesIO()  # noqa: SIM115
        file.write(b"0123456789" * 10_000)
        file.seek(3)
        return environ["wsgi.file_wrapper"](file)

    app = replies(body, ("Content-Length", "20"))
    with Connection(serve(app)) as connection:
        assert [connection.ask().body for _ in range(2)] == [b"3456789012" * 2] * 2


def test_content_length_of_a_file_is_worked_out(serve: Serve, tmp_path: Path) -> None:
    """The server may generate one from the file using its knowledge of the underlying
    file implementation.
    """
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100_000)
    app = replies(lambda environ: environ["wsgi.file_wrapper"](path.open("rb")))
    reply = helpers.get_url(serve(app))
    assert reply.headers["Content-Length"] == "100000"
    assert len(reply.body) == 100_000
