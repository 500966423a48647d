"""What handlers see: Request and Headers, during the dispatch and long after it."""

import json
import socket
import struct
import threading
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any, TypeVar

import gates
import helpers
import pytest
from conftest import Serve
from helpers import Connection

import fastbatch

T = TypeVar("T")
Look = Callable[[fastbatch.Request], Any]

needs_ipv6 = pytest.mark.skipif(
    not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6"
)


@pytest.fixture
def see(serve: Serve) -> Callable[..., Any]:
    """A function that sends a request and says what a handler sees in it."""

    def send(look: Look, data: bytes = b"", **options: Any) -> Any:
        seen: list[Any] = []

        def handler(request: fastbatch.Request) -> None:
            seen.append(look(request))

        data = data or helpers.get()
        helpers.talk(serve(handler, **options), data, replies=1)
        (value,) = seen
        return value

    return send


def everything(request: fastbatch.Request) -> dict[str, Any]:
    """All that a request shows."""
    return {
        "method": request.method,
        "target": request.target,
        "path": request.path,
        "query_string": request.query_string,
        "query": request.query,
        "http_version": request.http_version,
        "headers": dict(request.headers),
        "raw": request.headers.raw,
        "body": request.body,
        "client": request.client,
        "scheme": request.scheme,
        "repr": repr(request),
    }


def chunked(*chunks: bytes) -> bytes:
    """A POST request whose body comes in ``chunks``."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    fields = ["Transfer-Encoding: chunked"]
    return gates.request("/", *fields, method="POST") + body + b"0\r\n\r\n"


# ---- attributes ---------------------------------------------------------------------


def test_request_shows_all_of_what_was_sent(serve: Serve) -> None:
    seen: list[dict[str, Any]] = []

    def handler(request: fastbatch.Request) -> None:
        seen.append(everything(request))

    with Connection(serve(handler)) as connection:
        data = gates.request("/a%20b?c=d&c=e", "X-A: b", method="PUT", body=b"{}")
        connection.send(data)
        connection.reply()
        client = connection.socket.getsockname()
    assert seen == [
        {
            "method": "PUT",
            "target": "/a%20b?c=d&c=e",
            "path": "/a b",
            "query_string": "c=d&c=e",
            "query": {"c": ["d", "e"]},
            "http_version": "1.1",
            "headers": {"host": "test", "x-a": "b", "content-length": "2"},
            "raw": [(b"Host", b"test"), (b"X-A", b"b"), (b"Content-Length", b"2")],
            "body": b"{}",
            "client": client,
            "scheme": "http",
            "repr": "<Request PUT /a%20b?c=d&c=e>",
        }
    ]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "M-SEARCH"])
def test_method_is_text(see: Callable[..., Any], method: str) -> None:
    assert see(lambda request: request.method, gates.request(method=method)) == method


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_http_version_is_text(see: Callable[..., Any], version: str) -> None:
    data = helpers.get(version=version)
    assert see(lambda request: request.http_version, data) == version


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/%41", "/A"),
        ("/%e2%82%AC", "/€"),
        ("/a%2Fb", "/a/b"),
        ("/%2541", "/%41"),
        ("/a+b", "/a+b"),
        ("/%00", "/\0"),
        ("/%ff", "/\ufffd"),
        ("/%e2%82x", "/\ufffdx"),
        ("/%ED%A0%80", "/\ufffd\ufffd\ufffd"),
        ("/%", "/%"),
        ("/%4", "/%4"),
        ("/%zz", "/%zz"),
        ("/%4g%41", "/%4gA"),
        ("/%%41", "/%A"),
        ("//a//", "//a//"),
        ("/a/../b", "/a/../b"),
        ("/a;b=c", "/a;b=c"),
        ("/a?%41", "/a"),
    ],
)
def test_path_is_percent_decoded(
    see: Callable[..., Any], target: str, path: str
) -> None:
    def look(request: fastbatch.Request) -> tuple[str, str]:
        return request.target, request.path

    assert see(look, helpers.get(target)) == (target, path)


@pytest.mark.parametrize(
    ("target", "text", "query"),
    [
        ("/", "", {}),
        ("/?", "", {}),
        ("/?a=1&b=2", "a=1&b=2", {"a": ["1"], "b": ["2"]}),
        ("/?a=1&a=2", "a=1&a=2", {"a": ["1", "2"]}),
        ("/?a=&b", "a=&b", {"a": [""], "b": [""]}),
        ("/?a=b?c", "a=b?c", {"a": ["b?c"]}),
        ("/?a=%e2%82%ac+b", "a=%e2%82%ac+b", {"a": ["€ b"]}),
        ("/?a=%ff%", "a=%ff%", {"a": ["\ufffd%"]}),
    ],
)
def test_query_is_parsed_and_query_string_is_not(
    see: Callable[..., Any], target: str, text: str, query: dict[str, list[str]]
) -> None:
    def look(request: fastbatch.Request) -> tuple[str, Mapping[str, list[str]]]:
        return request.query_string, request.query

    assert see(look, helpers.get(target)) == (text, query)


def test_query_is_the_callers_own(see: Callable[..., Any]) -> None:
    def look(request: fastbatch.Request) -> Any:
        query = request.query
        assert isinstance(query, MutableMapping)
        query.clear()
        return request.query

    assert see(look, helpers.get("/?a=b")) == {"a": ["b"]}


@pytest.mark.parametrize(
    ("target", "path", "query_string", "host"),
    [
        ("http://other/a%41?b", "/aA", "b", "other"),
        ("http://other:81?b=c", "/", "b=c", "other:81"),
        ("HTTPS://[::1]", "/", "", "[::1]"),
    ],
)
def test_absolute_form_gives_path_and_host(
    see: Callable[..., Any], target: str, path: str, query_string: str, host: str
) -> None:
    seen = see(everything, helpers.get(target))
    assert (seen["target"], seen["path"]) == (target, path)
    assert (seen["query_string"], seen["headers"]["host"]) == (query_string, host)
    assert seen["scheme"] == "http"


def test_asterisk_form_gives_an_asterisk(see: Callable[..., Any]) -> None:
    seen = see(everything, gates.request("*", method="OPTIONS"))
    assert (seen["target"], seen["path"], seen["query_string"]) == ("*", "*", "")


def test_attributes_are_read_only_and_their_values_kept(
    see: Callable[..., Any],
) -> None:
    def look(request: fastbatch.Request) -> None:
        for name in everything(request):
            if hasattr(fastbatch.Request, name):
                with pytest.raises(AttributeError):
                    setattr(request, name, None)
        with pytest.raises(AttributeError):
            request.state = 1  # type: ignore[attr-defined]
        for name in ("method", "target", "path", "query_string", "body", "client"):
            assert getattr(request, name) is getattr(request, name)

    see(look, gates.request("/a%20b?c", method="POST", body=b"body"))


@pytest.mark.parametrize(
    "kind", [fastbatch.Request, fastbatch.Headers, fastbatch.Batch, fastbatch.Stack]
)
def test_types_of_the_server_cannot_be_instantiated_or_subclassed(kind: Any) -> None:
    with pytest.raises(TypeError, match="cannot create"):
        kind()
    with pytest.raises(TypeError, match="not an acceptable base type"):
        type("Own", (kind,), {})
    with pytest.raises(TypeError, match="immutable"):
        kind.own = 1


# ---- bodies -------------------------------------------------------------------------

BODIES = {
    "none": (helpers.get(), b""),
    "of length": (gates.request(method="POST", body=b"a\r\n\0b"), b"a\r\n\0b"),
    "of a GET": (gates.request(body=b"body"), b"body"),
    "large": (
        gates.request(method="POST", body=b"0123456" * 500_000),
        b"0123456" * 500_000,
    ),
    "chunked": (chunked(b"ab", b"c", b"0" * 1000), b"abc" + b"0" * 1000),
    "chunked and empty": (chunked(), b""),
    "large and chunked": (chunked(*[b"0123456" * 9] * 9999), b"0123456" * 9 * 9999),
}


@pytest.mark.parametrize(("data", "body"), BODIES.values(), ids=BODIES)
def test_body_is_bytes(see: Callable[..., Any], data: bytes, body: bytes) -> None:
    seen = see(lambda request: request.body, data)
    assert type(seen) is bytes
    assert seen == body


@pytest.mark.parametrize(
    "value", [{"a": [1, 2.5, None]}, [], "é€", 1], ids=["object", "array", "str", "int"]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_reads_the_body(
    see: Callable[..., Any], value: Any, encoding: str
) -> None:
    body = json.dumps(value, ensure_ascii=False).encode(encoding)
    data = gates.request(method="POST", body=body)
    assert see(lambda request: request.json(), data) == value


@pytest.mark.parametrize("body", [b"", b"{", b"{'a': 1}", b"\xff", b"1 2"])
def test_json_of_what_is_none_is_a_value_error(
    see: Callable[..., Any], body: bytes
) -> None:
    def look(request: fastbatch.Request) -> bool:
        with pytest.raises(ValueError):  # noqa: PT011 - its kind depends on the body
            request.json()
        return True

    assert see(look, gates.request(method="POST", body=body))


# ---- clients ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bind", ["127.0.0.1:0", pytest.param("[::1]:0", marks=needs_ipv6)]
)
def test_client_is_the_peers_address_and_port(serve: Serve, bind: str) -> None:
    seen: list[Any] = []
    server = serve(lambda request: seen.append(request.client), bind=bind)
    with Connection(server) as connection:
        connection.ask()
        host, port = connection.socket.getsockname()[:2]
    assert seen == [(host, port)]


def test_client_on_a_unix_socket_is_none(serve: Serve, tmp_path: Path) -> None:
    seen: list[Any] = []
    server = serve(
        lambda request: seen.append(request.client), bind=f"unix:{tmp_path}/socket"
    )
    helpers.get_url(server)
    assert seen == [None]


def test_client_that_has_left_does_no_harm(serve: Serve) -> None:
    seen: list[Any] = []
    gate = gates.Gate(lambda request: seen.append((request.client, request.path)))
    server = serve(gate)
    with gates.connect(server, 1) as (connection,), gate.held(server):
        connection.send(helpers.get("/left"))
        reset(connection)
    gates.wait_until_gone(server)
    # Whether the request is still read depends on which the kernel tells first.
    assert all(client[0] == "127.0.0.1" and path == "/left" for client, path in seen)


def reset(connection: Connection) -> None:
    """Close the connection with a TCP reset."""
    linger = struct.pack("ii", 1, 0)
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.close()


# ---- headers ------------------------------------------------------------------------

FIELDS = ("X-A: 1", "x-b: two", "X-a: 3", "Cookie: a=b", "COOKIE: c=d", "X-Empty:")
HEADERS = {
    "host": "test",
    "x-a": "1, 3",
    "x-b": "two",
    "cookie": "a=b; c=d",
    "x-empty": "",
}
RAW = [
    (b"Host", b"test"),
    (b"X-A", b"1"),
    (b"x-b", b"two"),
    (b"X-a", b"3"),
    (b"Cookie", b"a=b"),
    (b"COOKIE", b"c=d"),
    (b"X-Empty", b""),
]


@pytest.fixture
def see_headers(see: Callable[..., Any]) -> Callable[[Callable[..., T]], T]:
    """A function that says what is seen in the headers of a request with ``FIELDS``."""

    def look_at(look: Callable[[fastbatch.Headers], T]) -> T:
        value: T = see(lambda r: look(r.headers), helpers.get("/", *FIELDS))
        return value

    return look_at


SeeHeaders = Callable[[Callable[[fastbatch.Headers], Any]], Any]


def test_headers_are_a_mapping(see_headers: SeeHeaders) -> None:
    assert see_headers(lambda headers: isinstance(headers, Mapping))
    assert see_headers(dict) == HEADERS
    assert see_headers(len) == len(HEADERS)
    assert see_headers(list) == list(HEADERS)
    assert see_headers(lambda headers: list(headers.keys())) == list(HEADERS)
    assert see_headers(lambda headers: list(headers.values())) == [*HEADERS.values()]
    assert see_headers(lambda headers: list(headers.items())) == [*HEADERS.items()]
    assert see_headers(lambda headers: {**headers}) == HEADERS
    assert see_headers(repr) == f"<Headers {HEADERS!r}>"


def test_views_of_headers_are_sets(see_headers: SeeHeaders) -> None:
    assert see_headers(lambda headers: headers.keys() & {"host", "x"}) == {"host"}
    assert see_headers(lambda headers: ("x-b", "two") in headers.items())
    assert see_headers(lambda headers: "two" in headers.values())


@pytest.mark.parametrize("name", ["x-b", "X-B", "X-b"])
def test_headers_are_found_in_any_case(see_headers: SeeHeaders, name: str) -> None:
    assert see_headers(lambda headers: headers[name]) == "two"
    assert see_headers(lambda headers: headers.get(name)) == "two"
    assert see_headers(lambda headers: headers.get(name, "x")) == "two"
    assert see_headers(lambda headers: headers.get_all(name)) == ["two"]
    assert see_headers(lambda headers: name in headers)


@pytest.mark.parametrize("key", ["x", "x-", "x-bb", "", "é", "\ud800", b"x-b", 1, None])
def test_what_is_no_header_is_not_found(see_headers: SeeHeaders, key: Any) -> None:
    def look(headers: fastbatch.Headers) -> bool:
        with pytest.raises(KeyError) as caught:
            headers[key]
        assert caught.value.args == (key,)
        assert headers.get(key) is None
        assert headers.get(key, 7) == 7
        assert headers.get_all(key) == []
        return key in headers

    assert see_headers(look) is False


def test_repeated_headers_are_joined_or_given_apart(see_headers: SeeHeaders) -> None:
    assert see_headers(lambda headers: headers["x-a"]) == "1, 3"
    assert see_headers(lambda headers: headers["cookie"]) == "a=b; c=d"
    assert see_headers(lambda headers: headers.get_all("X-A")) == ["1", "3"]
    assert see_headers(lambda headers: headers.get_all("Cookie")) == ["a=b", "c=d"]


def test_raw_headers_are_as_they_were_sent(see_headers: SeeHeaders) -> None:
    assert see_headers(lambda headers: headers.raw) == RAW


def test_headers_are_equal_to_a_mapping_with_their_items(
    see_headers: SeeHeaders,
) -> None:
    def look(headers: fastbatch.Headers) -> bool:
        assert headers == HEADERS
        assert dict(HEADERS) == headers
        assert headers == headers
        assert headers != {**HEADERS, "x-b": "other"}
        assert headers != {}
        assert headers != object()
        with pytest.raises(TypeError, match="unhashable"):
            hash(headers)
        return True

    assert see_headers(look)


def test_headers_cannot_be_changed(see_headers: SeeHeaders) -> None:
    def look(headers: Any) -> bool:
        with pytest.raises(TypeError):
            headers["x-a"] = "1"
        with pytest.raises(TypeError):
            del headers["x-a"]
        with pytest.raises(AttributeError):
            headers.raw = []
        return True

    assert see_headers(look)


def test_header_values_are_latin_1_without_the_space_around(
    see: Callable[..., Any],
) -> None:
    data = helpers.get("/", "X-A: @", "X-B: \t b  c \t").replace(b"@", b"\xe9")
    headers = see(lambda request: dict(request.headers), data)
    assert (headers["x-a"], headers["x-b"]) == ("é", "b  c")


def test_header_names_may_be_very_long(see: Callable[..., Any]) -> None:
    name = "X-" + "Ab" * 1000
    headers = see(lambda request: dict(request.headers), helpers.get("/", f"{name}: x"))
    assert headers[name.lower()] == "x"


# ---- requests that are kept ---------------------------------------------------------


@pytest.mark.parametrize("is_pipelined", [True, False])
def test_kept_request_shows_the_same_for_ever(
    serve: Serve, *, is_pipelined: bool
) -> None:
    kept: list[fastbatch.Request] = []
    server = serve(kept.append)
    n = 600  # some batches
    requests = [
        gates.request(f"/{i}?{i}=x", f"X-A: {i}", method="POST", body=b"%d" % i * 9)
        for i in range(n)
    ]
    with Connection(server) as connection:
        client = connection.socket.getsockname()
        if is_pipelined:
            connection.send(b"".join(requests))
            for _ in requests:
                connection.reply()
        else:
            for data in requests:
                connection.send(data)
                connection.reply()
    gates.wait_until_gone(server)
    server.stop()
    assert len(set(map(id, kept))) == n
    for i, request in enumerate(kept):
        for _ in range(2):
            seen = everything(request)
            assert (seen["method"], seen["path"]) == ("POST", f"/{i}")
            assert (seen["query"], seen["http_version"]) == ({str(i): ["x"]}, "1.1")
            assert seen["body"] == b"%d" % i * 9
            assert seen["client"] == client
            assert seen["headers"]["x-a"] == str(i)
            assert seen["raw"][1] == (b"X-A", b"%d" % i)


def test_kept_values_and_headers_are_good_without_their_request(serve: Serve) -> None:
    kept: list[tuple[fastbatch.Headers, str, bytes]] = []

    def handler(request: fastbatch.Request) -> None:
        kept.append((request.headers, request.path, request.body))

    with Connection(serve(handler)) as connection:
        for i in range(50):
            connection.send(gates.request(f"/{i}", f"X-A: {i}", body=b"%d" % i))
            connection.reply()
    for i, (headers, path, body) in enumerate(kept):
        assert (headers["x-a"], path, body) == (str(i), f"/{i}", b"%d" % i)
        assert dict(headers)["content-length"] == str(len(body))


def test_requests_that_are_not_kept_do_not_show_an_earlier_one(serve: Serve) -> None:
    seen: list[tuple[str, bytes, Mapping[str, str]]] = []

    def handler(request: fastbatch.Request) -> None:
        assert request.target == request.target  # reads twice, so caches
        seen.append((request.target, request.body, dict(request.headers)))

    with Connection(serve(handler)) as connection:
        for i in range(50):
            fields = [f"X-{i}: x"] if i % 2 else []
            connection.send(gates.request(f"/{i}", *fields, body=b"%d" % i))
            connection.reply()
    for i, (target, body, headers) in enumerate(seen):
        assert (target, body) == (f"/{i}", b"%d" % i)
        assert [name for name in headers if name.startswith("x-")] == (
            [f"x-{i}"] if i % 2 else []
        )


def test_large_body_of_a_kept_request_survives(serve: Serve) -> None:
    kept: list[fastbatch.Request] = []
    body = b"0123456789" * 300_000
    with Connection(serve(kept.append)) as connection:
        for _ in range(3):
            connection.send(gates.request(method="POST", body=body))
            connection.reply()
    assert all(request.body == body for request in kept)


def test_request_may_be_read_by_a_thread_while_its_dispatch_ends(serve: Serve) -> None:
    wrong: list[Any] = []
    threads: list[threading.Thread] = []

    def read(request: fastbatch.Request, i: str) -> None:
        for _ in range(20):
            seen = everything(request)
            got = (seen["path"], seen["headers"]["x-a"], seen["body"])
            if got != (f"/{i}", i, i.encode()):
                wrong.append(seen)

    def handler(request: fastbatch.Request) -> None:
        i = request.path[1:]
        thread = threading.Thread(target=read, args=(request, i))
        thread.start()
        threads.append(thread)

    with Connection(serve(handler)) as connection:
        for i in range(100):
            connection.send(gates.request(f"/{i}", f"X-A: {i}", body=b"%d" % i))
            connection.reply()
    for thread in threads:
        thread.join()
    assert wrong == []
