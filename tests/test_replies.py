"""What handlers return, and what clients get for it."""

import ctypes
import re
import types
from collections.abc import Callable, Iterable
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, NoReturn

import gates
import helpers
import pytest
from conftest import Serve
from helpers import Connection, Reply

import fastbatch
from fastbatch._core import LIMITS

TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"
ZERO_COPY = LIMITS["zero_copy_bytes"]

Answer = Callable[..., Reply]


@pytest.fixture
def answer(serve: Serve) -> Answer:
    """A function that gives the reply to a request whose handler returns a value.

    Afterwards the connection must be in step: another request is answered on it.
    """

    def ask(value: Any, method: str = "GET") -> Reply:
        def handler(request: fastbatch.Request) -> Any:
            return "in step" if request.path == "/next" else value

        with Connection(serve(handler)) as connection:
            connection.send(gates.request(method=method))
            reply = connection.reply(method)
            assert connection.ask("/next").body == b"in step"
        return reply

    return ask


def pattern(size: int) -> bytes:
    """Bytes among which one that is lost or moved is seen."""
    return b"".join(b"%08d" % n for n in range(size // 8 + 1))[:size]


# ---- good ones ---------------------------------------------------------------------

BUFFER = bytearray(b"0123456789")


class Prices(ctypes.Structure):
    """Its format has an O, for which see the arrays of objects."""

    _fields_ = [("Open", ctypes.c_ubyte), ("Low", ctypes.c_ubyte)]


GOOD: dict[str, tuple[Any, int, str | None, bytes]] = {
    "str": ("hello", 200, TEXT, b"hello"),
    "empty str": ("", 200, TEXT, b""),
    "latin-1 str": ("café", 200, TEXT, "café".encode()),
    "str of any characters": ("€ 𝄞 \0", 200, TEXT, "€ 𝄞 \0".encode()),
    "bytes": (b"\x00\xff", 200, BYTES, b"\x00\xff"),
    "empty bytes": (b"", 200, BYTES, b""),
    "bytearray": (BUFFER, 200, BYTES, b"0123456789"),
    "memoryview": (memoryview(BUFFER), 200, BYTES, b"0123456789"),
    "sliced memoryview": (memoryview(BUFFER)[3:6], 200, BYTES, b"345"),
    "structures": ((Prices * 2)((1, 2), (3, 4)), 200, BYTES, b"\1\2\3\4"),
    "None": (None, 204, None, b""),
    "status and text": ((404, "no"), 404, TEXT, b"no"),
    "status and bytes": ((201, b"yes"), 201, BYTES, b"yes"),
    "status and None": ((200, None), 200, None, b""),
    "status as an enum": ((HTTPStatus.ACCEPTED, "x"), 202, TEXT, b"x"),
    "lowest status": ((200, "x"), 200, TEXT, b"x"),
    "highest status": ((599, "x"), 599, TEXT, b"x"),
    "status, headers and body": ((200, {"X-A": "b"}, "x"), 200, TEXT, b"x"),
    "headers None": ((200, None, "x"), 200, TEXT, b"x"),
    "Response": (fastbatch.Response(202, {"X-A": "b"}, b"x"), 202, BYTES, b"x"),
    "default Response": (fastbatch.Response(), 200, None, b""),
    "str subclass": (type("Text", (str,), {})("x"), 200, TEXT, b"x"),
    "tuple subclass": (type("Pair", (tuple,), {})((201, "x")), 201, TEXT, b"x"),
}

good = pytest.mark.parametrize(
    ("value", "status", "kind", "body"), GOOD.values(), ids=GOOD
)


@good
def test_value_is_sent_as_reply(
    answer: Answer, value: Any, status: int, kind: str | None, body: bytes
) -> None:
    reply = answer(value)
    assert (reply.status, reply.body) == (status, body)
    assert reply.headers.get_all("Content-Type") == ([kind] if kind else None)
    assert "Transfer-Encoding" not in reply.headers
    lengths = reply.headers.get_all("Content-Length")
    assert lengths == (None if status == 204 else [str(len(body))])


@good
def test_head_is_answered_as_get_but_without_body(
    answer: Answer, value: Any, status: int, kind: str | None, body: bytes
) -> None:
    reply = answer(value, method="HEAD")
    assert (reply.status, reply.body) == (status, b"")
    assert reply.headers["Content-Type"] == kind
    assert reply.headers["Content-Length"] == (
        None if status == 204 else str(len(body))
    )


# ---- errors that are raised ---------------------------------------------------------


def test_http_error_is_the_reply_from_however_deep(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def find(depth: int) -> str:
        if depth == 0:
            raise fastbatch.HTTPError(404, "no such user")
        return find(depth - 1)

    reply = helpers.get_url(serve(lambda _request: find(50)))
    assert (reply.status, reply.body) == (404, b"no such user")
    assert reply.headers["Content-Type"] == TEXT
    assert gates.errors(caplog) == []


def test_http_error_can_have_headers(serve: Serve) -> None:
    def handler(_request: fastbatch.Request) -> None:
        raise fastbatch.HTTPError(401, headers={"WWW-Authenticate": "Basic"})

    reply = helpers.get_url(serve(handler))
    assert (reply.status, reply.body) == (401, b"401 Unauthorized\n")
    assert reply.headers["WWW-Authenticate"] == "Basic"


def test_http_error_can_be_returned_by_a_stream_before_its_first_item(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def items() -> Iterable[bytes]:
        raise fastbatch.HTTPError(503, "later")
        yield b"never"

    with Connection(serve(lambda _request: (200, items()))) as connection:
        for _ in range(2):
            reply = connection.ask()
            assert (reply.status, reply.body) == (503, b"later")
    assert gates.errors(caplog) == []


class NotFound:
    """A body, or headers, whose making raises."""

    def items(self) -> NoReturn:
        raise fastbatch.HTTPError(404)

    __iter__ = items


@pytest.mark.parametrize(
    "value", [(200, NotFound()), (200, NotFound(), "x")], ids=["body", "headers"]
)
def test_http_error_is_not_lost_in_what_was_returned(
    answer: Answer, value: Any
) -> None:
    assert answer(value).status == 404


def test_http_error_with_a_bad_header_is_a_500(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(_request: fastbatch.Request) -> None:
        raise fastbatch.HTTPError(404, headers={"X-A": "1\r\nX-B: 2"})

    reply = helpers.get_url(serve(handler))
    assert (reply.status, reply.headers["X-B"]) == (500, None)
    assert "control character" in gates.wait_for_error(caplog).getMessage()


class Code(int):
    """A number that knows nothing but its value."""

    def __le__(self, _other: object) -> NoReturn:
        raise TypeError

    __ge__ = __lt__ = __gt__ = __hash__ = __str__ = __format__ = __le__


def test_http_error_may_have_any_kind_of_int() -> None:
    assert fastbatch.HTTPError(Code(404)).response == (404, (), "404 Not Found\n")


@pytest.mark.parametrize("status", [0, 200, 399, 600, True, -404, "404", 404.5, None])
def test_http_error_of_no_error_status_is_a_value_error(status: Any) -> None:
    with pytest.raises(ValueError, match="400 to 599"):
        fastbatch.HTTPError(status)


# ---- malformed ones -----------------------------------------------------------------


def with_header(name: Any, value: Any = "x") -> tuple[int, Any, str]:
    return 200, [(name, value)], "body"


MALFORMED: dict[str, tuple[Any, str]] = {
    "int": (42, "42 is no reply"),
    "bool": (True, "True is no reply"),
    "float": (1.5, r"1\.5 is no reply"),
    "list": ([b"x"], r"\[b'x'\] is no reply"),
    "dict": ({"a": 1}, r"\{'a': 1\} is no reply"),
    "generator": ((item for item in [b"x"]), r"<gen.*> is no reply"),
    "class": (fastbatch.Response, r"<class .*> is no reply"),
    "no tuple at all": ((), "tuple of 0"),
    "tuple of 1": ((200,), "tuple of 1"),
    "tuple of 4": ((200, {}, "x", "y"), "tuple of 4"),
    "int as body": ((200, 42), "42 is no body"),
    "dict as body": ((200, {"a": 1}), "a mapping is no body"),
    "status and body swapped": (("x", 200), "status 'x'"),
    "informational status": ((100, "x"), "status 100"),
    "status below the lowest": ((199, "x"), "status 199"),
    "status above the highest": ((600, "x"), "status 600"),
    "negative status": ((-200, "x"), "status -200"),
    "huge status": ((2**70, "x"), f"status {2**70}"),
    "status as text": (("200", "x"), "status '200'"),
    "status as float": ((200.0, "x"), r"status 200\.0"),
    "status True": ((True, "x"), "status True"),
    "status None": ((None, "x"), "status None"),
    "headers as text": ((200, "X-A: b", "x"), "headers 'X-A: b'"),
    "headers as int": ((200, 1, "x"), "headers 1"),
    "header alone": ((200, ["X-A"], "x"), "'X-A' is no pair"),
    "header of three": ((200, [("a", "b", "c")], "x"), "is no pair"),
    "name empty": (with_header(""), "'' is no header name"),
    "name with space": (with_header("X A"), "'X A' is no header name"),
    "name with colon": (with_header("X:"), "'X:' is no header name"),
    "name with CR LF": (with_header("X\r\nY"), "is no header name"),
    "name with NUL": (with_header("X\0"), "is no header name"),
    "name not ASCII": (with_header("X-é"), "is no header name"),
    "name not latin-1": (with_header("X-€"), "is not latin-1"),
    "name int": (with_header(1), "value 1 is not str or bytes"),
    "name None": (with_header(None), "value None is not str or bytes"),
    "value with CR": (with_header("X-A", "1\r2"), "control character"),
    "value with LF": (with_header("X-A", "1\n2"), "control character"),
    "value with CR LF": (with_header("X-A", b"1\r\nX-B: 2"), "control character"),
    "value with NUL": (with_header("X-A", "1\0"), "control character"),
    "value with DEL": (with_header("X-A", "\x7f"), "control character"),
    "value not latin-1": (with_header("X-A", "€"), "is not latin-1"),
    "value int": (with_header("X-A", 1), "value 1 is not str or bytes"),
    "value list": (with_header("X-A", ["1"]), "is not str or bytes"),
    "value bytearray": (with_header("X-A", bytearray(b"1")), "not str or bytes"),
    "length too small": (with_header("Content-Length", "3"), "the body has 4 bytes"),
    "length too large": (with_header("Content-Length", "5"), "the body has 4 bytes"),
    "length empty": (with_header("Content-Length", ""), "not one number"),
    "length signed": (with_header("Content-Length", "+4"), "not one number"),
    "length spaced": (with_header("Content-Length", " 4"), "not one number"),
    "length hex": (with_header("Content-Length", "0x4"), "not one number"),
    "length list": (with_header("Content-Length", "4, 4"), "not one number"),
    "length overflows": (with_header("content-length", "9" * 25), "not one number"),
    "lengths differ": (
        (200, [("Content-Length", "4"), ("content-length", "5")], "body"),
        "not one number",
    ),
    "Transfer-Encoding": (with_header("Transfer-Encoding", "chunked"), "server's"),
    "Upgrade": (with_header("upgrade", "h2c"), "the server's to send"),
    "Trailer": (with_header("TRAILER", "X"), "the server's to send"),
    "Keep-Alive": (with_header("Keep-Alive", "timeout=5"), "the server's to send"),
    "TE": (with_header("te", "trailers"), "the server's to send"),
    "Proxy-Connection": (with_header("Proxy-Connection", "close"), "the server's"),
    "Connection: keep-alive": (with_header("Connection", "keep-alive"), "Connection"),
    "Connection: upgrade": (with_header("Connection", "upgrade"), "Connection"),
    "text that UTF-8 cannot encode": ("\ud800", "surrogates"),
    "buffer with gaps": (memoryview(b"0123456789")[::2], "contiguous"),
    "buffer with gaps as body": ((200, memoryview(b"0123")[::-1]), "contiguous"),
    "buffer of objects": ((ctypes.py_object * 2)(), "holds objects, not bytes"),
    "buffer of objects as body": ((200, (ctypes.py_object * 2)()), "holds objects"),
}


@pytest.mark.parametrize(("value", "message"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_reply_is_a_500_and_one_line_that_says_why(
    serve: Serve, caplog: pytest.LogCaptureFixture, value: Any, message: str
) -> None:
    def careless(request: fastbatch.Request) -> Any:
        return value if request.path == "/bad" else "good"

    data = helpers.get("/good") + helpers.get("/bad") + helpers.get("/good")
    replies = helpers.parse_replies(helpers.talk(serve(careless), data, replies=3))
    assert [reply.status for reply in replies] == [200, 500, 200]
    assert replies[1].body == b"500 Internal Server Error\n"
    usual = ["Content-Length", "Content-Type", "Date", "Server"]
    assert sorted(replies[1].headers) == usual  # and nothing of the handler's
    record = gates.wait_for_error(caplog)
    assert "careless" in record.getMessage()
    assert "GET /bad" in record.getMessage()
    assert re.search(message, record.getMessage())
    assert record.exc_info is None


# ---- header fields ------------------------------------------------------------------

FIELDS: dict[str, Any] = {
    "dict": {"X-A": "1", "X-B": "2"},
    "read-only mapping": types.MappingProxyType({"X-A": "1", "X-B": "2"}),
    "list of tuples": [("X-A", "1"), ("X-B", "2")],
    "tuple of lists": (["X-A", "1"], ["X-B", "2"]),
    "bytes": {b"X-A": b"1", b"X-B": b"2"},
    "mixed": [("X-A", b"1"), (b"X-B", "2")],
    "iterator": zip(["X-A", "X-B"], ["1", "2"], strict=True),
}


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_header_fields_may_come_as_mapping_or_pairs(
    answer: Answer, fields: Any
) -> None:
    reply = answer((200, fields, "x"))
    assert (reply.headers["X-A"], reply.headers["X-B"]) == ("1", "2")


def test_header_fields_may_be_those_of_the_request(serve: Serve) -> None:
    def echo(request: fastbatch.Request) -> Any:
        return 200, request.headers, "x"

    with Connection(serve(echo)) as connection:
        reply = connection.ask("/", "X-A: 1", "X-A: 2")
    assert (reply.headers["Host"], reply.headers["X-A"]) == ("test", "1, 2")


def test_duplicate_fields_are_sent_apart_and_in_order(answer: Answer) -> None:
    pairs = [("Set-Cookie", "a=1"), ("X-A", "x"), ("Set-Cookie", "b=2")]
    assert answer((200, pairs, "x")).headers.get_all("Set-Cookie") == ["a=1", "b=2"]


def test_values_are_sent_as_latin_1_and_may_be_empty(serve: Serve) -> None:
    server = serve(lambda _request: (200, {"X-A": "é", "X-B": "", "X-C": "\t"}, "x"))
    data = helpers.talk(server, helpers.get(), replies=1)
    assert b"\r\nX-A: \xe9\r\nX-B: \r\nX-C: \t\r\n" in data


@pytest.mark.parametrize("n", [15, 16, 17, 1000])
def test_any_number_of_fields_can_be_sent(serve: Serve, n: int) -> None:
    fields = [(f"X-{i}", str(i)) for i in range(n)]
    server = serve(lambda _request: (200, fields, "x"))
    head = helpers.talk(server, helpers.get("/", "Connection: close")).decode()
    assert re.findall(r"X-(\d+): \1\r\n", head) == [str(i) for i in range(n)]


@pytest.mark.parametrize("name", ["Date", "date", "SERVER", "content-TYPE"])
def test_own_field_is_sent_in_place_of_the_usual_one(answer: Answer, name: str) -> None:
    reply = answer((200, {name: "own"}, "x"))
    assert reply.headers.get_all(name) == ["own"]


@pytest.mark.parametrize(
    "fields",
    [[("Content-Length", "4")], [("content-length", b"4"), ("Content-Length", "4")]],
)
def test_right_content_length_is_sent_once(answer: Answer, fields: Any) -> None:
    assert answer((200, fields, "body")).headers.get_all("Content-Length") == ["4"]


def test_connection_close_ends_the_connection(serve: Serve) -> None:
    server = serve(lambda _request: (200, {"connection": "close"}, "last"))
    with Connection(server) as connection:
        connection.send(helpers.get() * 3)
        reply = connection.reply()
        assert (reply.body, reply.headers.get_all("Connection")) == (b"last", ["close"])
        assert connection.is_closed()


def test_server_field_is_the_option(serve: Serve) -> None:
    assert helpers.get_url(serve(lambda _: "x")).headers["Server"] == "fastbatch"
    own = serve(lambda _: "x", server_header="mine/1.0")
    assert helpers.get_url(own).headers["Server"] == "mine/1.0"
    none = serve(lambda _: "x", server_header="")
    assert "Server" not in helpers.get_url(none).headers


def test_date_is_now_in_the_one_format(serve: Serve) -> None:
    def handler(_request: fastbatch.Request) -> str:
        return "x"

    with Connection(serve(handler)) as connection:
        first = connection.ask().headers["Date"]
        day = r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4}"
        assert re.fullmatch(rf"{day} \d\d:\d\d:\d\d GMT", first)
        later = first
        while later == first:  # a second at most
            later = connection.ask().headers["Date"]
    passed = parsedate_to_datetime(later) - parsedate_to_datetime(first)
    assert 1 <= passed.total_seconds() <= 5
    assert parsedate_to_datetime(later).strftime("%a") == later[:3]


# ---- statuses -----------------------------------------------------------------------

REASONS = {  # https://www.iana.org/assignments/http-status-codes
    200: "OK",
    201: "Created",
    202: "Accepted",
    203: "Non-Authoritative Information",
    204: "No Content",
    205: "Reset Content",
    206: "Partial Content",
    207: "Multi-Status",
    208: "Already Reported",
    226: "IM Used",
    300: "Multiple Choices",
    301: "Moved Permanently",
    302: "Found",
    303: "See Other",
    304: "Not Modified",
    305: "Use Proxy",
    307: "Temporary Redirect",
    308: "Permanent Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    402: "Payment Required",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    407: "Proxy Authentication Required",
    408: "Request Timeout",
    409: "Conflict",
    410: "Gone",
    411: "Length Required",
    412: "Precondition Failed",
    413: "Content Too Large",
    414: "URI Too Long",
    415: "Unsupported Media Type",
    416: "Range Not Satisfiable",
    417: "Expectation Failed",
    421: "Misdirected Request",
    422: "Unprocessable Content",
    423: "Locked",
    424: "Failed Dependency",
    425: "Too Early",
    426: "Upgrade Required",
    428: "Precondition Required",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    451: "Unavailable For Legal Reasons",
    500: "Internal Server Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
    506: "Variant Also Negotiates",
    507: "Insufficient Storage",
    508: "Loop Detected",
    510: "Not Extended",
    511: "Network Authentication Required",
}
NO_BODY = {204, 205, 304}


def test_every_status_has_the_registered_reason(serve: Serve) -> None:
    server = serve(lambda request: (int(request.path[1:]), "x"))
    statuses = range(200, 600)
    data = b"".join(helpers.get(f"/{status}") for status in statuses)
    replies = helpers.parse_replies(helpers.talk(server, data, replies=len(statuses)))
    found = {reply.status: reply.reason for reply in replies}
    assert found == {status: REASONS.get(status, "") for status in statuses}
    assert all(r.body == (b"" if r.status in NO_BODY else b"x") for r in replies)


def test_status_line_of_an_unknown_status_keeps_its_last_space(serve: Serve) -> None:
    server = serve(lambda _request: (299, "x"))
    data = helpers.talk(server, helpers.get(), replies=1)
    assert data.startswith(b"HTTP/1.1 299 \r\n")


def test_body_of_an_http_error_has_the_reason_of_the_status_line(
    serve: Serve,
) -> None:
    def handler(request: fastbatch.Request) -> None:
        raise fastbatch.HTTPError(int(request.path[1:]))

    statuses = range(400, 600)
    data = b"".join(helpers.get(f"/{status}") for status in statuses)
    raw = helpers.talk(serve(handler), data, replies=len(statuses))
    for reply in helpers.parse_replies(raw):
        assert reply.body.decode().strip() == f"{reply.status} {reply.reason}".strip()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", sorted(NO_BODY))
@pytest.mark.parametrize(
    "body", ["text", b"x" * 2 * ZERO_COPY, [b"item"]], ids=["small", "large", "stream"]
)
def test_status_without_body_is_sent_without(
    answer: Answer, status: int, body: Any, method: str
) -> None:
    reply = answer((status, body), method)
    assert (reply.status, reply.body) == (status, b"")
    assert "Transfer-Encoding" not in reply.headers
    length = reply.headers["Content-Length"]
    if status == 204:
        assert length is None
    elif status == 205:
        assert length == "0"


def test_204_has_no_length_even_if_the_handler_gives_one(answer: Answer) -> None:
    assert "Content-Length" not in answer((204, {"Content-Length": "0"}, "")).headers


def test_304_and_head_may_have_the_length_that_a_get_would_have(
    answer: Answer,
) -> None:
    fields = {"Content-Length": "1000"}
    assert answer((304, fields, None)).headers["Content-Length"] == "1000"
    reply = answer((200, fields, None), method="HEAD")
    assert reply.headers["Content-Length"] == "1000"


# ---- large bodies -------------------------------------------------------------------

KINDS: dict[str, Callable[[bytes], Any]] = {
    "str": lambda data: data.decode(),
    "str not ASCII": lambda data: "é" + data.decode()[2:],
    "bytes": bytes,
    "bytearray": bytearray,
    "memoryview": lambda data: memoryview(b"<" + data + b">")[1:-1],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "size", [ZERO_COPY - 1, ZERO_COPY, ZERO_COPY + 1, 5_000_000], ids=str
)
def test_large_body_arrives_as_it_is(answer: Answer, kind: str, size: int) -> None:
    body = KINDS[kind](pattern(size))
    expected = body.encode() if isinstance(body, str) else bytes(body)
    reply = answer(body)
    assert len(reply.body) == size
    assert reply.body == expected


def test_large_and_small_bodies_keep_their_order(serve: Serve) -> None:
    sizes = [1, ZERO_COPY, 0, 2 * ZERO_COPY, ZERO_COPY + 1, 3, ZERO_COPY, 5] * 5
    server = serve(lambda request: pattern(int(request.path[1:])))
    data = b"".join(helpers.get(f"/{size}") for size in sizes)
    replies = helpers.parse_replies(helpers.talk(server, data, replies=len(sizes)))
    assert [reply.body for reply in replies] == [pattern(size) for size in sizes]


def test_large_bytearray_cannot_be_resized_while_it_is_sent(serve: Serve) -> None:
    body = bytearray(50_000_000)  # more than sockets hold
    with Connection(serve(lambda _request: body)) as connection:
        connection.send(helpers.get("/", "Connection: close"))
        assert connection.socket.recv(1)
        with pytest.raises(BufferError):
            body.append(1)
        connection.rest()
    helpers.wait_until(lambda: can_grow(body), "releasing the body")


def test_small_bytearray_can_be_changed_at_once(serve: Serve) -> None:
    body = bytearray(b"old")

    def handler(request: fastbatch.Request) -> bytearray | str:
        if request.path == "/change":
            body[:] = b"something new"
            return "changed"
        return body

    data = helpers.get() + helpers.get("/change") + helpers.get()
    replies = helpers.parse_replies(helpers.talk(serve(handler), data, replies=3))
    assert [reply.body for reply in replies] == [b"old", b"changed", b"something new"]


def can_grow(body: bytearray) -> bool:
    try:
        body.append(0)
    except BufferError:
        return False
    return True
