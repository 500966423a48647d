"""WSGI applications beyond the words of PEP 3333: environ, framing, order, errors."""

import contextvars
import io
import itertools
import logging
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gates
import helpers
import pytest
import wsgi_helpers
from conftest import Serve, Start
from helpers import Connection, get
from wsgi_helpers import OK, Body, Environ, StartResponse, echo, environ_of, replies

import fastbatch

needs_ipv6 = pytest.mark.skipif(
    not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6"
)

# ---- the interface ------------------------------------------------------------------


def test_request_handler_is_not_taken_for_an_application(serve: Serve) -> None:
    def handler(request: fastbatch.Request, suffix: str = "!") -> str:
        return request.path + suffix

    assert helpers.get_url(serve(handler)).body == b"/!"


def test_application_can_be_named(serve: Serve) -> None:
    def app(*arguments: Any) -> Iterable[bytes]:
        return echo(*arguments)

    assert helpers.get_url(serve(app, interface="wsgi"), "/a").body == b"/a"


def test_application_is_run_by_run(start: Start) -> None:
    program = start(
        "-c",
        "import fastbatch, wsgiref.simple_server\n"
        "fastbatch.run(wsgiref.simple_server.demo_app, bind='127.0.0.1:0')",
    )
    with Connection(program.address()) as connection:
        assert connection.ask().body.startswith(b"Hello world!\n")


def test_application_is_run_from_the_command_line(start: Start, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("from wsgi_helpers import echo as app\n")
    program = start("-m", "fastbatch", "shop:app", "--port=0", "--root-path=/shop")
    with Connection(program.address()) as connection:
        assert connection.ask("/shop/cart").body == b"/cart"


# ---- environ: where ----------------------------------------------------------------

ROOT_PATHS = [
    # root_path, target: SCRIPT_NAME, PATH_INFO
    ("", "/", "", "/"),
    ("", "/a/b", "", "/a/b"),
    ("/a", "/a/b", "/a", "/b"),
    ("/a", "/a/", "/a", "/"),
    ("/a", "/a", "/a", ""),
    ("/a", "/a?b", "/a", ""),
    ("/a", "/ab", "/a", "/ab"),
    ("/a", "/b", "/a", "/b"),
    ("/a", "/", "/a", "/"),
    ("/a", "/a/a", "/a", "/a"),
    ("/a", "/%61/b", "/a", "/b"),
    ("/a/b", "/a/b/c", "/a/b", "/c"),
    ("/a/b", "/a/c", "/a/b", "/a/c"),
]


@pytest.mark.parametrize(("root_path", "target", "script_name", "path"), ROOT_PATHS)
def test_root_path_is_taken_off_the_path(
    serve: Serve, root_path: str, target: str, script_name: str, path: str
) -> None:
    environ = environ_of(serve, get(target), root_path=root_path)
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script_name, path)
    assert environ["REQUEST_URI"] == target


PATHS = {
    "/a/b": "/a/b",
    "/%41%2f%2F": "/A//",
    "/a+b": "/a+b",
    "/a%20b%25": "/a b%",
    "/%c3%a9": "/\xc3\xa9",
    "/%E9%ff%80": "/\xe9\xff\x80",
    "/%00": "/\x00",
    "/%0d%0a": "/\r\n",
    "/a;b=c,d": "/a;b=c,d",
    "//a//": "//a//",
    "/a/../b/./c": "/a/../b/./c",
    "/%2e%2e/": "/../",
    "/a?b=%41&c=+": "/a",
    "/%3F?": "/?",
    "/" + "%41" * 2000: "/" + "A" * 2000,
}


@pytest.mark.parametrize("target", PATHS, ids=lambda target: target[:20])
def test_path_is_decoded(serve: Serve, target: str) -> None:
    environ = environ_of(serve, get(target))
    assert environ["PATH_INFO"] == PATHS[target]
    assert environ["QUERY_STRING"] == target.partition("?")[2]
    assert environ["REQUEST_URI"] == target


def test_target_with_a_host_is_reduced_to_its_path(serve: Serve) -> None:
    environ = environ_of(serve, get("http://test/a%20b?c"))
    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/a b", "c")
    assert environ["HTTP_HOST"] == "test"


def test_path_of_a_target_that_is_a_star_is_empty(serve: Serve) -> None:
    environ = environ_of(serve, b"OPTIONS * HTTP/1.1\r\nHost: test\r\n\r\n")
    assert (environ["REQUEST_METHOD"], environ["PATH_INFO"]) == ("OPTIONS", "")
    assert (environ["REQUEST_URI"], environ["QUERY_STRING"]) == ("*", "")


# ---- environ: who -------------------------------------------------------------------


def test_addresses_of_both_sides(serve: Serve) -> None:
    environs: list[Environ] = []
    server = serve(replies(lambda environ: environs.append(environ) or []))
    with Connection(server) as connection:
        connection.ask()
        client = connection.socket.getsockname()
    (environ,) = environs
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == (
        client[0],
        str(client[1]),
    )
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == (
        "127.0.0.1",
        str(server.address[1]),
    )


@needs_ipv6
def test_addresses_of_ipv6_have_no_brackets(serve: Serve) -> None:
    environ = environ_of(serve, bind="[::1]:0")
    assert (environ["REMOTE_ADDR"], environ["SERVER_NAME"]) == ("::1", "::1")


def test_addresses_of_a_unix_socket(serve: Serve, tmp_path: Path) -> None:
    environ = environ_of(serve, bind=f"unix:{tmp_path / 'socket'}")
    assert environ["REMOTE_ADDR"] == ""
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("localhost", "80")
    assert {type(environ[name]) for name in environ if name.isupper()} == {str}


def test_server_name_of_all_addresses_is_that_of_the_machine(serve: Serve) -> None:
    environs: list[Environ] = []
    app = replies(lambda environ: environs.append(environ) or [])
    server = serve(app, bind="0.0.0.0:0")
    helpers.talk(("127.0.0.1", server.address[1]), get(), replies=1)
    assert environs[0]["SERVER_NAME"] == socket.gethostname()


def test_server_port_is_that_of_the_listener_that_was_asked(serve: Serve) -> None:
    app = replies(lambda environ: [environ["SERVER_PORT"].encode()])
    server = serve(app, bind=["127.0.0.1:0", "localhost:0"])
    for address in server.addresses:
        with Connection(address) as connection:
            assert connection.ask().body == str(address[1]).encode()


def test_server_software_is_ours(serve: Serve) -> None:
    software = environ_of(serve)["SERVER_SOFTWARE"]
    assert software == f"fastbatch/{fastbatch.__version__}"


# ---- environ: header fields ---------------------------------------------------------

FIELDS: dict[str, tuple[list[str], dict[str, str]]] = {
    "one": (["X-A: b"], {"HTTP_X_A": "b"}),
    "two of a name": (["X-A: b", "x-a: c"], {"HTTP_X_A": "b, c"}),
    "many of a name": ([f"X-A: {n}" for n in range(9)], {"HTTP_X_A": None}),
    "two apart": (["X-A: b", "X-B: c", "X-A: d"], {"HTTP_X_A": "b, d"}),
    "empty and not": (["X-A:", "X-A: b"], {"HTTP_X_A": ", b"}),
    "cookies": (["Cookie: a=b", "cookie: c=d; e=f"], {"HTTP_COOKIE": "a=b; c=d; e=f"}),
    "with spaces": (["X-A:  \t b  c\t "], {"HTTP_X_A": "b  c"}),
    "with commas": (["Accept: a,b", "Accept: c"], {"HTTP_ACCEPT": "a,b, c"}),
    "other characters": (["X!#$%&'*+.^`|~9: a"], {"HTTP_X!#$%&'*+.^`|~9": "a"}),
    "content alike": (["Content: a", "Content-Md5: b"], {"HTTP_CONTENT": "a"}),
    "two types": (["Content-Type: a/b", "Content-Type: c/d"], {}),
}


@pytest.mark.parametrize(("fields", "expected"), FIELDS.values(), ids=FIELDS)
def test_header_fields_become_variables(
    serve: Serve, fields: list[str], expected: dict[str, str | None]
) -> None:
    environ = environ_of(serve, get("/", *fields))
    for name, value in expected.items():
        assert environ[name] == (value or ", ".join(map(str, range(9))))
    assert environ["HTTP_HOST"] == "test"


@pytest.mark.parametrize(
    "field",
    ["X_A: b", "X_a: b", "Content_Length: 5", "Content_Type: a/b", "X-_A: b", "_: b"],
)
def test_names_with_underscores_are_dropped(serve: Serve, field: str) -> None:
    """CVE-2015-0219: they would pass for what a proxy has set."""
    environ = environ_of(serve, get("/", field, "X-Other: c"))
    names = {name for name in environ if name.startswith(("HTTP_", "CONTENT"))}
    assert names == {"HTTP_HOST", "HTTP_X_OTHER"}


def test_name_with_underscore_does_not_hide_or_join_the_good_one(serve: Serve) -> None:
    environ = environ_of(serve, get("/", "X_A: bad", "X-A: good", "X_A: bad"))
    assert environ["HTTP_X_A"] == "good"


@pytest.mark.parametrize("body", [b"", b"body"])
def test_content_headers_are_there_once(serve: Serve, body: bytes) -> None:
    data = gates.request("/", "Content-Type: a/b", method="POST", body=body)
    environ = environ_of(serve, data)
    assert environ["CONTENT_TYPE"] == "a/b"
    assert environ.get("CONTENT_LENGTH") == (str(len(body)) if body else None)
    assert not {"HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH"} & environ.keys()


def test_content_length_of_0_is_said(serve: Serve) -> None:
    environ = environ_of(serve, get("/", "Content-Length: 0"))
    assert environ["CONTENT_LENGTH"] == "0"


@pytest.mark.parametrize("size", [0, 1, 5000])
def test_content_length_of_a_chunked_body_is_its_length(
    serve: Serve, size: int
) -> None:
    head = get("/", "Transfer-Encoding: chunked").replace(b"GET", b"POST")
    chunks = b"1\r\nx\r\n" * size + b"0\r\n\r\n"
    environ = environ_of(serve, head + chunks)
    assert environ["CONTENT_LENGTH"] == str(size)
    assert "HTTP_TRANSFER_ENCODING" not in environ


def test_variables_do_not_pass_from_one_request_to_the_next(serve: Serve) -> None:
    environs: list[Environ] = []
    app = replies(lambda environ: environs.append(environ) or [])
    rich = gates.request(
        "/a?b", "X-A: b", "Content-Type: a/b", "Cookie: c", method="PUT", body=b"body"
    )
    server = serve(app)
    helpers.talk(server, get() + rich + get() + rich + get(), replies=5)
    for environ in environs:
        for name in ("wsgi.input", "wsgi.errors"):
            environ.pop(name)
    assert len({id(environ) for environ in environs}) == 5
    assert environs[0] == environs[2] == environs[4]
    assert environs[1] == environs[3]
    assert environs[0].keys() < environs[1].keys()


# ---- framing ------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("make", [list, tuple])
@pytest.mark.parametrize("items", [[], [b""], [b"ab"], [b"a", b"", b"b" * 9999]])
def test_length_of_a_list_is_worked_out(
    serve: Serve, items: list[bytes], make: Callable[..., Any], version: str
) -> None:
    server = serve(replies(lambda _environ: make(items)))
    data = get("/", "Connection: keep-alive", version=version) * 2
    for reply in helpers.parse_replies(helpers.talk(server, data, replies=2)):
        assert reply.body == b"".join(items)
        assert reply.headers["Content-Length"] == str(len(reply.body))


STREAMS: dict[str, Callable[[Environ], Any]] = {
    "generator": lambda _environ: (item for item in [b"ab", b"cd"]),
    "iterable": lambda _environ: Body([b"ab", b"", b"cd"]),
    "one item": lambda _environ: iter([b"abcd"]),
    "list": lambda _environ: [b"ab", b"cd"],
    "file": lambda environ: environ["wsgi.file_wrapper"](io.BytesIO(b"abcd"), 3),
}


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("body", STREAMS.values(), ids=STREAMS)
def test_stream_of_known_length_keeps_the_connection(
    serve: Serve, body: Callable[[Environ], Any], version: str
) -> None:
    server = serve(replies(body, ("Content-Length", "4")))
    data = get("/", "Connection: keep-alive", version=version) * 3
    for reply in helpers.parse_replies(helpers.talk(server, data, replies=3)):
        assert (reply.body, reply.headers["Content-Length"]) == (b"abcd", "4")
        assert "Transfer-Encoding" not in reply.headers


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("body", STREAMS.values(), ids=STREAMS)
def test_status_without_body_is_sent_without(
    serve: Serve, body: Callable[[Environ], Any], status: str
) -> None:
    server = serve(replies(body, status=status))
    received = helpers.talk(server, get() * 2, replies=2)
    for reply in helpers.parse_replies(received):
        assert (reply.status, reply.body) == (int(status[:3]), b"")
        assert "Transfer-Encoding" not in reply.headers
    assert received.count(b"\r\n\r\n") == 2
    assert received.endswith(b"\r\n\r\n")


def writing(_environ: Environ, start_response: StartResponse) -> list[bytes]:
    write = start_response(OK, [("X-A", "b")])
    write(b"ab")
    return [b"cd"]


HEADS = {name: replies(body, ("X-A", "b")) for name, body in STREAMS.items()}


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("app", [*HEADS.values(), writing], ids=[*HEADS, "write()"])
def test_head_is_answered_without_body(serve: Serve, app: Any, version: str) -> None:
    server = serve(app)
    data = get("/", "Connection: keep-alive", version=version)
    with Connection(server) as connection:
        for _ in range(2):
            connection.send(data.replace(b"GET", b"HEAD"))
            reply = connection.reply("HEAD")
            assert (reply.status, reply.headers["X-A"]) == (200, "b")
        assert connection.received.endswith(b"\r\n\r\n")
        assert connection.received.count(b"\r\n\r\n") == 2


def test_head_has_the_length_that_get_has(serve: Serve) -> None:
    for app in (replies([b"ab", b"cd"]), replies(iter(()), ("Content-Length", "4"))):
        with Connection(serve(app)) as connection:
            connection.send(gates.request(method="HEAD"))
            assert connection.reply("HEAD").headers["Content-Length"] == "4"


def test_connection_close_of_the_client_is_obeyed(serve: Serve) -> None:
    for body in ([b"x"], iter([b"x"])):
        data = helpers.talk(serve(replies(body)), get("/", "Connection: close") * 2)
        (reply,) = helpers.parse_replies(data)
        assert (reply.body, reply.headers["Connection"]) == (b"x", "close")


def test_headers_that_are_changed_after_start_response_do_no_harm(
    serve: Serve,
) -> None:
    fields = [("X-A", "b")]

    def app(_environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response(OK, fields)
        fields[:] = [("X-A", "c\r\nX-B: d"), ("", ""), (None, 1)]  # type: ignore[list-item]
        yield b"x"

    reply = helpers.get_url(serve(app))
    assert (reply.headers["X-A"], reply.headers["X-B"]) == ("b", None)


# ---- pace ---------------------------------------------------------------------------


def test_slow_stream_holds_up_others_only_between_two_yields(serve: Serve) -> None:
    n_yields = 40

    def slow() -> Iterator[bytes]:
        for _ in range(n_yields):
            time.sleep(0.01)
            yield b"x"

    def body(environ: Environ) -> Iterable[bytes]:
        return slow() if environ["PATH_INFO"] == "/slow" else [b"quick"]

    server = serve(replies(body))
    n_quick = 0
    with Connection(server) as slow_one, Connection(server) as bystander:
        slow_one.send(get("/slow", "Connection: close"))
        reader = threading.Thread(target=slow_one.rest)
        reader.start()
        while reader.is_alive():
            assert bystander.ask().body == b"quick"
            n_quick += 1
    assert n_quick >= n_yields / 8  # else one or two; a busy machine takes its share
    assert wsgi_helpers.chunks_of(slow_one.received) == [b"x"] * n_yields


def test_stream_waits_for_a_client_that_does_not_read(serve: Serve) -> None:
    n_blocks = 16_384
    stream = Body(bytes(65536) for _ in range(n_blocks))

    def body(environ: Environ) -> Iterable[bytes]:
        return stream if environ["PATH_INFO"] == "/stream" else [b"quick"]

    server = serve(replies(body))
    with (
        Connection(server) as bystander,
        wsgi_helpers.connect_with_small_buffer(server.address) as client,
    ):
        client.sendall(get("/stream"))
        assert client.recv(1)
        n_taken = -1
        while n_taken != stream.n_taken:
            n_taken = stream.n_taken
            for _ in range(20):
                assert bystander.ask().body == b"quick"
        assert 0 < n_taken < n_blocks / 64  # what the kernel holds of 1 GiB
    wsgi_helpers.wait_until_closed(stream)


def test_endless_streams_hold_up_nobody(serve: Serve) -> None:
    def body(environ: Environ) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/stream":
            return iter(lambda: bytes(65536), None)
        return [b"quick"]

    server = serve(replies(body))
    is_over = threading.Event()

    def read(connection: Connection) -> None:
        connection.send(get("/stream"))
        while not is_over.is_set():
            assert connection.socket.recv(1_000_000)

    with (
        Connection(server) as bystander,
        Connection(server) as one,
        Connection(server) as other,
    ):
        readers = [threading.Thread(target=read, args=(c,)) for c in (one, other)]
        for reader in readers:
            reader.start()
        try:
            for _ in range(50):
                assert bystander.ask().body == b"quick"
        finally:
            is_over.set()
            for reader in readers:
                reader.join()


# ---- write() ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 1000, 300_000, 5_000_000])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_all_that_is_written_arrives(serve: Serve, size: int, version: str) -> None:
    blocks = [bytes([n]) * size for n in range(10)]

    def app(_environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response(OK, [])
        for block in blocks:
            write(block)
        return [b"end"]

    data = helpers.talk(serve(app), get("/", "Connection: close", version=version))
    (reply,) = helpers.parse_replies(data)
    assert reply.body == b"".join(blocks) + b"end"


def test_slow_reader_is_given_all_that_is_written(serve: Serve) -> None:
    def app(_environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response(OK, [("Content-Length", "20000000")])
        for _ in range(20):
            write(bytes(1_000_000))
        return []

    server = serve(app)
    with wsgi_helpers.connect_with_small_buffer(server.address) as client:
        client.sendall(get("/", "Connection: close"))
        n_received = 0
        while piece := client.recv(65536):
            n_received += len(piece)
            if n_received < 1_000_000:
                time.sleep(0.001)
    assert n_received > 20_000_000


def test_write_with_content_length_is_not_chunked(serve: Serve) -> None:
    def app(_environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response(OK, [("Content-Length", "4")])
        write(b"ab")
        return [b"cd"]

    for version in ("1.0", "1.1"):
        data = get("/", "Connection: keep-alive", version=version) * 2
        for reply in helpers.parse_replies(helpers.talk(serve(app), data, replies=2)):
            assert (reply.body, reply.headers["Content-Length"]) == (b"abcd", "4")


def test_error_after_write_breaks_the_connection(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def app(_environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response(OK, [])(b"written")
        raise ZeroDivisionError

    with Connection(serve(app)) as connection:
        connection.send(get() + get("/never"))
        data, is_orderly = wsgi_helpers.rest(connection)
    assert not is_orderly
    assert data.count(b"HTTP/1.1") <= 1
    assert not data.endswith(b"0\r\n\r\n")
    assert "ZeroDivisionError" in wsgi_helpers.wait_for_error(caplog)


def test_write_does_not_overtake_replies_before_it(serve: Serve) -> None:
    def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"].encode()
        write = start_response(OK, [])
        if path.startswith(b"/write"):
            write(path)
            return []
        return iter([path]) if path.startswith(b"/stream") else [path]

    kinds = ["write", "list", "stream", "write", "write", "stream", "list"] * 5
    paths = [f"/{kind}/{n}" for n, kind in enumerate(kinds)]
    data = b"".join(map(get, paths))
    replied = helpers.parse_replies(helpers.talk(serve(app), data, replies=len(paths)))
    assert [reply.body.decode() for reply in replied] == paths


# ---- order --------------------------------------------------------------------------


def kinds_of_replies(environ: Environ) -> Any:
    """A body that is of the kind that the path names."""
    path = environ["PATH_INFO"].encode()
    kind = path.split(b"/")[1]
    if kind == b"stream":
        return (path for _ in range(50))
    if kind == b"large":
        return [path * 20_000]
    if kind == b"file":
        return environ["wsgi.file_wrapper"](io.BytesIO(path * 100), 100)
    return [path]


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_pipelined_requests_are_answered_in_order(
    serve: Serve, batch_size: int
) -> None:
    kinds = ["stream", "list", "large", "file", "list", "list", "stream"] * 50
    times = {"stream": 50, "list": 1, "large": 20_000, "file": 100}
    paths = [f"/{kind}/{n}" for n, kind in enumerate(kinds)]
    server = serve(replies(kinds_of_replies), batch_size=batch_size)
    data = b"".join(map(get, paths))
    replied = helpers.parse_replies(helpers.talk(server, data, replies=len(paths)))
    for reply, path, kind in zip(replied, paths, kinds, strict=True):
        assert reply.body.decode() == path * times[kind]


def test_pipelined_bodies_go_to_their_own_requests(serve: Serve) -> None:
    bodies = [b"%d," % n * (n * 37 % 200) for n in range(300)]
    data = b"".join(gates.request("/", method="POST", body=body) for body in bodies)
    replied = helpers.parse_replies(helpers.talk(serve(echo), data, replies=300))
    assert [reply.body for reply in replied] == [b"/" + body for body in bodies]


def test_body_that_is_not_read_is_not_taken_for_a_request(serve: Serve) -> None:
    server = serve(replies([b"x"]))
    body = get("/never") * 3
    data = gates.request(method="POST", body=body) * 3
    helpers.talk(server, data, replies=3)
    assert server.stats()["requests"] == 3


# ---- contexts -----------------------------------------------------------------------

PATH: contextvars.ContextVar[str] = contextvars.ContextVar("PATH")


def set_in_call(environ: Environ) -> Iterator[bytes]:
    PATH.set(environ["PATH_INFO"])
    return (PATH.get().encode() * 10_000 for _ in range(20))


def set_in_iteration(environ: Environ) -> Iterator[bytes]:
    token = PATH.set(environ["PATH_INFO"])
    for _ in range(20):
        yield PATH.get().encode() * 10_000
    PATH.reset(token)  # an error if the context is not that of set()


@pytest.mark.parametrize("body", [set_in_call, set_in_iteration])
def test_streams_at_once_have_a_context_each(
    serve: Serve, caplog: pytest.LogCaptureFixture, body: Callable[..., Any]
) -> None:
    gate = wsgi_helpers.Gate(replies(body))
    server = serve(gate)
    with gates.connect(server, 5) as connections:
        with gate.held(server):
            for n, connection in enumerate(connections):
                connection.send(get(f"/stream/{n}"))
        with ThreadPoolExecutor(5) as pool:
            replied = [*pool.map(Connection.reply, connections)]
    for n, reply in enumerate(replied):
        assert reply.body == f"/stream/{n}".encode() * 200_000
    assert gates.errors(caplog) == []


def test_others_do_not_see_the_context_of_an_open_stream(serve: Serve) -> None:
    def body(environ: Environ) -> Any:
        if environ["PATH_INFO"] == "/":
            return [PATH.get("nothing").encode()]
        return itertools.chain(set_in_call(environ), set_in_iteration(environ))

    server = serve(replies(body))
    with Connection(server) as one, Connection(server) as other:
        for n in range(3):
            one.send(get(f"/stream/{n}") * 2)
            assert one.socket.recv(1)
            assert [other.ask().body for _ in range(3)] == [b"nothing"] * 3


def test_close_has_the_context_of_its_request(serve: Serve) -> None:
    closed_in: list[str] = []

    class Closing(Body):
        def close(self) -> None:
            closed_in.append(PATH.get("nothing"))
            super().close()

    def body(environ: Environ) -> Any:
        PATH.set(environ["PATH_INFO"])
        return Closing(iter(lambda: bytes(65536), None))

    server = serve(replies(body))
    with Connection(server) as one, Connection(server) as other:
        for connection, path in ((one, "/one"), (other, "/other")):
            connection.send(get(path))
            assert connection.socket.recv(1)
    helpers.wait_until(lambda: len(closed_in) == 2, "calling close()")
    assert sorted(closed_in) == ["/one", "/other"]


# ---- errors -------------------------------------------------------------------------


def raising(_environ: Environ, start_response: StartResponse) -> Any:
    start_response(OK, [])
    raise ZeroDivisionError


def returning_none(_environ: Environ, start_response: StartResponse) -> Any:
    start_response(OK, [])


def returning_int(_environ: Environ, start_response: StartResponse) -> Any:
    start_response(OK, [])
    return 42


def returning_text(_environ: Environ, start_response: StartResponse) -> Any:
    start_response(OK, [])
    return "text"


def returning_bytes(_environ: Environ, start_response: StartResponse) -> Any:
    start_response(OK, [])
    return b"bytes"


def not_starting(_environ: Environ, _start_response: StartResponse) -> Any:
    return [b"body"]


def not_starting_empty(_environ: Environ, _start_response: StartResponse) -> Any:
    return []


def not_starting_generator(_environ: Environ, _start_response: StartResponse) -> Any:
    yield b""
    yield b"body"


def starting_late(_environ: Environ, start_response: StartResponse) -> Any:
    yield b"body"
    start_response(OK, [])


def short_list(_environ: Environ, start_response: StartResponse) -> Any:
    start_response(OK, [("Content-Length", "10")])
    return [b"only"]


def short_generator(_environ: Environ, start_response: StartResponse) -> Any:
    start_response(OK, [("Content-Length", "10")])
    yield b""


def exhausting_memory(_environ: Environ, _start_response: StartResponse) -> Any:
    raise MemoryError


def recursing(environ: Environ, start_response: StartResponse) -> Any:
    return recursing(environ, start_response)


class Careless:
    def __call__(self, _environ: Environ, _start_response: StartResponse) -> Any:
        raise LookupError

    def __repr__(self) -> str:
        return "<Careless>"


BAD: dict[str, tuple[Any, str]] = {
    # what the log says besides the application's name
    "raising": (raising, "ZeroDivisionError"),
    "returning_none": (returning_none, "None"),
    "returning_int": (returning_int, "42|int"),
    "returning_text": (returning_text, "bytes"),
    "returning_bytes": (returning_bytes, "bytes"),
    "not_starting": (not_starting, "start_response"),
    "not_starting_empty": (not_starting_empty, "start_response"),
    "not_starting_generator": (not_starting_generator, "start_response"),
    "starting_late": (starting_late, "start_response"),
    "short_list": (short_list, "Content-Length"),
    "short_generator": (short_generator, "Content-Length"),
    "exhausting_memory": (exhausting_memory, "MemoryError"),
    "recursing": (recursing, "RecursionError"),
    "<Careless>": (Careless(), "LookupError"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_application_gets_a_500_and_one_line_in_the_log(
    serve: Serve, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    app, what = BAD[name]
    good = replies([b"good"])

    def both(environ: Environ, start_response: StartResponse) -> Any:
        return (app if environ["PATH_INFO"] == "/bad" else good)(
            environ, start_response
        )

    both.__qualname__ = name
    with Connection(serve(both)) as connection:
        reply = connection.ask("/bad?query")
        assert (reply.status, reply.body) == (500, b"500 Internal Server Error\n")
        assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert connection.ask().body == b"good"
    record = gates.wait_for_error(caplog)
    assert (record.name, record.levelname) == ("fastbatch", "ERROR")
    assert name in record.getMessage()
    assert any(word in wsgi_helpers.said(record) for word in what.split("|"))


def test_application_without_a_name_is_logged_by_its_repr(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    assert helpers.get_url(serve(Careless())).status == 500
    assert "<Careless>" in gates.wait_for_error(caplog).getMessage()


def test_list_longer_than_its_content_length_is_cut_off_and_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    app = replies([b"abc", b"def"], ("Content-Length", "4"))
    reply = helpers.get_url(serve(app))
    assert (reply.status, reply.body) == (200, b"abcd")
    assert "Content-Length" in wsgi_helpers.wait_for_error(caplog)


def test_stream_that_goes_on_behind_its_content_length_is_no_error(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """The iteration has stopped, so that nobody knows."""
    body = Body([b"abcd", ZeroDivisionError()])
    reply = helpers.get_url(serve(replies(body, ("Content-Length", "4"))))
    assert reply.body == b"abcd"
    wsgi_helpers.wait_until_closed(body)
    assert gates.errors(caplog) == []


def test_error_of_one_does_not_harm_the_others_of_its_batch(serve: Serve) -> None:
    def body(environ: Environ) -> Any:
        path = environ["PATH_INFO"]
        kind = int(path[1:]) % 3
        if kind == 1:
            raise ValueError(path)
        return [path.encode()] if kind else iter([path.encode()])

    gate = wsgi_helpers.Gate(replies(body))
    server = serve(gate)
    with gates.connect(server, 30) as connections:
        with gate.held(server):
            for n, connection in enumerate(connections):
                connection.send(get(f"/{n}") + get(f"/{n + 1}"))
        for n, connection in enumerate(connections):
            for m in (n, n + 1):
                reply = connection.reply()
                if m % 3 == 1:
                    assert reply.status == 500
                else:
                    assert reply.body == f"/{m}".encode()
    assert gates.batch_sizes(server) == {1: 1, 60: 1}


def test_every_error_of_many_is_logged(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    data = get() * 500
    replied = helpers.parse_replies(helpers.talk(serve(raising), data, replies=500))
    assert {reply.status for reply in replied} == {500}
    wsgi_helpers.wait_for_errors(caplog, 500)


# ---- errors that end the server -----------------------------------------------------


def end_in_call(error: type[BaseException]) -> Any:
    raise error


def end_in_first_iteration(error: type[BaseException]) -> Any:
    return Body([error()])


def end_in_close(error: type[BaseException]) -> Any:
    class Closing(Body):
        def close(self) -> None:
            super().close()
            raise error

    return Closing([b"x"])


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("end", [end_in_call, end_in_first_iteration, end_in_close])
def test_application_can_end_the_server_after_the_replies(
    serve: Serve, end: Callable[..., Any], error: type[BaseException]
) -> None:
    def body(environ: Environ) -> Any:
        return end(error) if environ["PATH_INFO"] == "/end" else [b"good"]

    gate = wsgi_helpers.Gate(replies(body))
    server = serve(gate)
    with gates.connect(server, 3) as connections:
        first, second, idle = connections
        with gate.held(server):
            first.send(get("/good"))
            second.send(get("/end"))
        assert first.reply().body == b"good"
        data, _ = wsgi_helpers.rest(second)
        assert data.startswith((b"HTTP/1.1 500 ", b"HTTP/1.1 200 OK"))
        assert idle.is_closed()
    with pytest.raises(error):
        server.stop()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_stream_can_end_the_server(serve: Serve, error: type[BaseException]) -> None:
    body = Body([b"item", error()])
    server = serve(replies(body))
    with Connection(server) as connection:
        connection.send(get())
        data, _ = wsgi_helpers.rest(connection)
    assert not data.endswith(b"0\r\n\r\n")
    with pytest.raises(error):
        server.stop()
    assert body.n_closed == 1


# ---- wsgi.errors --------------------------------------------------------------------

SAYINGS: dict[str, tuple[Callable[[Any], object], list[str]]] = {
    "a line": (lambda errors: errors.write("a line\n"), ["a line"]),
    "print": (lambda errors: print("one", 2, file=errors), ["one 2"]),
    "two lines at once": (lambda errors: errors.write("a\nb\n"), ["a", "b"]),
    "a line in parts": (
        lambda errors: [errors.write(c) for c in "part\n"],
        ["part"],
    ),
    "flushed": (lambda errors: (errors.write("a"), errors.flush()), ["a"]),
    "flushed twice": (
        lambda errors: (errors.write("a"), errors.flush(), errors.flush()),
        ["a"],
    ),
    "lines": (lambda errors: errors.writelines(["a\n", "b", "c\n"]), ["a", "bc"]),
    "lines of a generator": (
        lambda errors: errors.writelines(f"{n}\n" for n in range(3)),
        ["0", "1", "2"],
    ),
    "nothing": (lambda errors: (errors.write(""), errors.flush()), []),
    "percent": (lambda errors: errors.write("100 % %s %d\n"), ["100 % %s %d"]),
    "long": (lambda errors: errors.write("x" * 100_000 + "\n"), ["x" * 100_000]),
    "traceback": (
        lambda errors: traceback.print_exception(ValueError("wrong"), file=errors),
        ["ValueError: wrong"],
    ),
}


@pytest.mark.parametrize(("say", "lines"), SAYINGS.values(), ids=SAYINGS)
def test_each_line_of_errors_is_a_record(
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
    say: Callable[[Any], object],
    lines: list[str],
) -> None:
    def body(environ: Environ) -> list[bytes]:
        say(environ["wsgi.errors"])
        return [b"x"]

    assert helpers.get_url(serve(replies(body))).body == b"x"
    records = gates.errors(caplog)
    assert [record.getMessage() for record in records] == lines
    assert {(record.name, record.levelname) for record in records} <= {
        ("fastbatch", "ERROR")
    }


@pytest.mark.parametrize("value", [b"bytes", 1, None])
def test_errors_takes_text_alone(serve: Serve, value: Any) -> None:
    raised: list[Exception] = []

    def body(environ: Environ) -> list[bytes]:
        for write in (environ["wsgi.errors"].write, environ["wsgi.errors"].writelines):
            try:
                write(value if write.__name__ == "write" else [value])
            except TypeError as error:
                raised.append(error)
        return [b"x"]

    assert helpers.get_url(serve(replies(body))).body == b"x"
    assert len(raised) == 2


def test_errors_from_many_threads_keeps_lines_whole(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def body(environ: Environ) -> list[bytes]:
        def say(n: int) -> None:
            for _ in range(100):
                environ["wsgi.errors"].write(f"{n}" * 20 + "\n")

        threads = [threading.Thread(target=say, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [b"x"]

    assert helpers.get_url(serve(replies(body))).body == b"x"
    lines = sorted(record.getMessage() for record in gates.errors(caplog))
    assert lines == sorted(f"{n}" * 20 for n in range(4) for _ in range(100))


def test_errors_reaches_the_log_from_a_handler(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """As that of Flask; newer Pythons ignore what is logged meanwhile."""
    log = logging.Logger("a site")  # noqa: LOG001 - one that has no root

    def body(environ: Environ) -> list[bytes]:
        handler = logging.StreamHandler(environ["wsgi.errors"])
        log.addHandler(handler)
        try:
            log.error("said by %s", "the site")
        finally:
            log.removeHandler(handler)
        return [b"x"]

    assert helpers.get_url(serve(replies(body))).body == b"x"
    assert [record.getMessage() for record in gates.errors(caplog)] == [
        "said by the site"
    ]


def test_errors_may_be_where_the_log_itself_goes(
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """As the root logger of a site may, by Flask's documentation: it must end."""

    def body(environ: Environ) -> list[bytes]:
        handler = logging.StreamHandler(environ["wsgi.errors"])
        logging.getLogger().addHandler(handler)
        try:
            environ["wsgi.errors"].write("said by the site\n")
            logging.getLogger("a site").warning("warned by the site")
        finally:
            logging.getLogger().removeHandler(handler)
        return [b"x"]

    assert helpers.get_url(serve(replies(body))).body == b"x"
    stderr = capfd.readouterr().err.split("\n")
    for text in ("said by the site", "warned by the site"):
        ours = [r for r in gates.errors(caplog) if r.getMessage() == text]
        assert 1 <= len(ours) + stderr.count(text) <= 3
