"""Clients that leave, at every stage of a request and of its reply.

A client may leave with a reset, by closing, or by closing its sending half, as many do
when they have sent all: that one is owed the replies to what it has sent whole. In any
case nobody else notices, nothing is kept, what is streamed is closed once, and the
server comes to rest. Others of these are in test_pitfalls (rows 12, 13 and 27),
test_streaming and test_wsgi_lifetime.
"""

import io
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gates
import helpers
import pytest
from conftest import Serve
from helpers import Connection, get
from wsgi_helpers import Body, Environ, StartResponse, wait_until_closed

import fastbatch
from fastbatch._core import LIMITS

LARGE = 20_000_000  # bytes: more than sockets hold
MEMORY = 100_000  # bytes of a body in memory, in these tests
PIECE = 50_000  # bytes of an item

Leave = Callable[[Connection], None]


def reset(connection: Connection) -> None:
    linger = struct.pack("ii", 1, 0)
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.close()


def close(connection: Connection) -> None:
    connection.close()


def half_close(connection: Connection) -> None:
    connection.end()


each_manner = pytest.mark.parametrize("leave", [reset, close, half_close])


def is_at_rest(seconds: float = 0.1) -> bool:
    """Whether this process, with its server, does next to nothing for a while."""
    began = time.process_time()
    time.sleep(seconds)
    return time.process_time() - began < seconds / 2


def check_all_is_well(server: fastbatch.Server, bystander: Connection) -> None:
    """The one that left is gone, and the server rests and goes on."""
    helpers.wait_until(lambda: server.stats()["open_connections"] == 1, "closing")
    assert any(is_at_rest() for _ in range(3))
    assert bystander.ask("/alive").body == b"/alive"
    assert server.stats()["timed_out"] == 0


# ---- in a request -------------------------------------------------------------------

POST = gates.request("/cut", method="POST", body=b"body")
LONG = gates.request("/cut", method="POST", body=bytes(3 * MEMORY))
CHUNKED = gates.request("/cut", "Transfer-Encoding: chunked", method="POST")

# What is sent whole before, and what is cut off.
CUT: dict[str, tuple[list[str], bytes]] = {
    "nothing sent": ([], b""),
    "an empty line": ([], b"\r\n"),
    "in the method": ([], b"GE"),
    "in the target": ([], b"GET /cu"),
    "in the version": ([], b"GET /cut HTTP/1"),
    "in the end of a line": ([], b"GET /cut HTTP/1.1\r"),
    "before the fields": ([], b"GET /cut HTTP/1.1\r\n"),
    "in the name of a field": ([], b"GET /cut HTTP/1.1\r\nHo"),
    "in the value of a field": ([], b"GET /cut HTTP/1.1\r\nHost: a"),
    "before the last LF": ([], get("/cut")[:-1]),
    "before the body": ([], POST[:-4]),
    "in the body": ([], POST[:-1]),
    "in a body in a file": ([], LONG[:-1]),
    "before the chunks": ([], CHUNKED),
    "in the size of a chunk": ([], CHUNKED + b"1"),
    "in an extension": ([], CHUNKED + b"4;a=b"),
    "in a chunk": ([], CHUNKED + b"4\r\nbo"),
    "in a chunk in a file": ([], CHUNKED + b"100000\r\n" + bytes(2 * MEMORY)),
    "behind a chunk": ([], CHUNKED + b"4\r\nbody"),
    "in the last chunk": ([], CHUNKED + b"4\r\nbody\r\n0"),
    "in a trailer": ([], CHUNKED + b"4\r\nbody\r\n0\r\nX-A: b"),
    "before the last line": ([], CHUNKED + b"4\r\nbody\r\n0\r\nX-A: b\r\n"),
    "between two requests": (["/1"], b""),
    "in the second request": (["/1"], get("/cut")[:-5]),
    "in the second body": (["/1"], POST[:-1]),
    "between two pipelines": ([f"/{n}" for n in range(300)], b""),
    "behind a pipeline": ([f"/{n}" for n in range(300)], get("/cut")[:-5]),
}


@each_manner
@pytest.mark.parametrize(("paths", "cut"), CUT.values(), ids=CUT)
def test_client_leaves_in_a_request(
    serve: Serve, paths: list[str], cut: bytes, leave: Leave
) -> None:
    seen: list[str] = []

    def handler(request: fastbatch.Request) -> str:
        seen.append(request.path)
        return request.path

    server = serve(handler, max_body_memory=MEMORY)
    with gates.connect(server, 2) as (bystander, connection):
        connection.send(b"".join(map(get, paths)) + cut)
        leave(connection)
        if leave is half_close:
            replies = helpers.parse_replies(connection.rest())
            assert [reply.body for reply in replies] == [p.encode() for p in paths]
        check_all_is_well(server, bystander)
    assert seen[:-1] == paths[: len(seen) - 1]
    if leave is half_close:
        assert seen == [*paths, "/alive"]


@each_manner
@pytest.mark.parametrize("body", [b"", b"bo"], ids=["before", "in"])
def test_client_leaves_a_body_that_it_was_told_to_send(
    serve: Serve, body: bytes, leave: Leave
) -> None:
    server = serve(lambda request: request.path)
    with gates.connect(server, 2) as (bystander, connection):
        connection.send(gates.request("/", "Expect: 100-continue", body=b"body")[:-4])
        assert connection.socket.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.send(body)
        leave(connection)
        if leave is half_close:
            assert connection.rest() == b""
        check_all_is_well(server, bystander)


@pytest.mark.parametrize("extra", [-1, 0, 1])
@pytest.mark.parametrize("n_buffers", [1, 2])
def test_end_that_is_read_together_with_the_request_leaves_it_its_reply(
    serve: Serve, n_buffers: int, extra: int
) -> None:
    """It is when the request fills the buffer: then more is read at once."""
    size = n_buffers * LIMITS["input_bytes"] + extra
    padding = "p" * (size - len(get("/padded", "X-A: ")))
    gate = gates.Gate(lambda request: request.path)
    server = serve(gate)
    with gates.connect(server, 2) as (bystander, connection):
        with gate.held(server):
            connection.send(get("/padded", f"X-A: {padding}"))
            connection.end()
        (reply,) = helpers.parse_replies(connection.rest())
        assert reply.body == b"/padded"
        check_all_is_well(server, bystander)


def test_clients_that_leave_in_a_body_leave_no_file(serve: Serve) -> None:
    server = serve(lambda request: request.path, max_body_memory=MEMORY)
    helpers.get_url(server)
    gates.wait_until_gone(server)
    before = helpers.open_files()
    for leave in (reset, close, half_close) * 5:
        with gates.connect(server, 1) as (connection,):
            connection.send(LONG[:-1])
            helpers.wait_until(
                lambda: any("(deleted)" in f for f in helpers.open_files().values()),
                "storing the body",
            )
            leave(connection)
        gates.wait_until_gone(server)
        assert helpers.open_files() == before


# ---- while the handler runs, and while the reply is sent ----------------------------


class Site:
    """A WSGI application with replies of every kind, which waits in /held/KIND."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.is_entered = threading.Event()
        self.is_open = threading.Event()
        self.bodies: list[Body] = []
        self.files: list[File] = []

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        path = environ["PATH_INFO"]
        if path.startswith("/held/"):
            self.is_entered.set()
            assert self.is_open.wait(helpers.TIMEOUT)
        start_response("200 OK", [])
        kind = path.rpartition("/")[2]
        if kind == "large":
            return [bytes(LARGE)]
        if kind == "stream":
            self.bodies.append(Body(pieces()))
            return self.bodies[-1]
        if kind == "file":
            self.files.append(File(self._file.open("rb", buffering=0)))
            return environ["wsgi.file_wrapper"](self.files[-1])
        return [path.encode()]

    def check_all_closed(self) -> None:
        """Everything that was handed out is closed, once."""
        wait_until_closed(*self.bodies)
        helpers.wait_until(lambda: all(f.n_closed for f in self.files), "closing files")
        assert [file.n_closed for file in self.files] == [1] * len(self.files)


class File:
    """A file that counts how often it was closed."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self.n_closed = 0

    def read(self, size: int) -> bytes:
        return self._file.read(size)

    def fileno(self) -> int:
        return self._file.fileno()

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def close(self) -> None:
        self.n_closed += 1
        self._file.close()


def pieces() -> Iterator[bytes]:
    for _ in range(0, LARGE, PIECE):
        yield bytes(PIECE)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    file = tmp_path / "file"
    file.write_bytes(bytes(LARGE))
    return Site(file)


@pytest.fixture
def server(serve: Serve, site: Site) -> fastbatch.Server:
    return serve(site, interface="wsgi")


@each_manner
@pytest.mark.parametrize("behind", [b"", get("/file") + get()[:-5]], ids=["", "more"])
@pytest.mark.parametrize("kind", ["small", "large", "stream", "file"])
def test_client_leaves_while_the_handler_runs(
    server: fastbatch.Server, site: Site, kind: str, behind: bytes, leave: Leave
) -> None:
    with gates.connect(server, 2) as (bystander, connection):
        connection.send(get(f"/held/{kind}") + behind)
        assert site.is_entered.wait(helpers.TIMEOUT)
        leave(connection)
        site.is_open.set()
        if leave is half_close:
            reply, *others = helpers.parse_replies(connection.rest())
            assert len(reply.body) == (LARGE if kind != "small" else len("/held/small"))
            assert [len(other.body) for other in others] == [LARGE] * bool(behind)
        check_all_is_well(server, bystander)
    site.check_all_closed()
    if kind == "stream" and leave is not half_close:
        assert site.bodies[0].n_taken < LARGE // PIECE


@each_manner
@pytest.mark.parametrize("behind", [b"", get("/stream") + POST[:-1]], ids=["", "more"])
@pytest.mark.parametrize("kind", ["large", "stream", "file"])
def test_client_leaves_while_the_reply_is_sent(
    server: fastbatch.Server, site: Site, kind: str, behind: bytes, leave: Leave
) -> None:
    with gates.connect(server, 2) as (bystander, connection):
        connection.send(get(f"/{kind}") + behind)
        assert connection.socket.recv(1, socket.MSG_PEEK)
        bystander.ask()
        leave(connection)
        if leave is half_close:
            replies = helpers.parse_replies(connection.rest())
            assert [len(r.body) for r in replies] == [LARGE] * (2 if behind else 1)
        check_all_is_well(server, bystander)
    site.check_all_closed()


@each_manner
def test_client_leaves_when_it_was_answered(
    server: fastbatch.Server, leave: Leave
) -> None:
    with gates.connect(server, 2) as (bystander, connection):
        for path in ("/small", "/large", "/stream", "/file"):
            connection.ask(path)
        leave(connection)
        if leave is half_close:
            assert connection.rest() == b""
        check_all_is_well(server, bystander)


# ---- while the server says goodbye --------------------------------------------------

MEGABYTES = 3_000_000  # bytes that still come: more than sockets hold
OVER = get("/", f"Content-Length: {10**9}")

REFUSED: dict[str, tuple[int, bytes]] = {
    "400": (400, b"bad\r\n\r\n"),
    "400 in a chunk": (400, CHUNKED + b"4\r\nbodybad\r\n"),
    "413 by length": (413, OVER),
    "413 by chunks": (413, CHUNKED + b"fffffff\r\n"),
    "417": (417, get("/", "Expect: 200-maybe", f"Content-Length: {MEGABYTES}")),
    "431": (431, get("/", "X-A: " + "b" * 70_000)),
    "501": (501, b"BREW / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "505": (505, b"GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
    "behind another": (413, get("/first") + OVER),
}


def check_is_refused(data: bytes, status: int, n_before: int) -> None:
    *before, reply = helpers.parse_replies(data)
    assert [each.status for each in before] == [200] * n_before
    assert reply.status == status
    assert reply.headers["Connection"] == "close"
    assert len(reply.body) == int(reply.headers["Content-Length"]) > 0


@each_manner
@pytest.mark.parametrize(("status", "data"), REFUSED.values(), ids=REFUSED)
def test_client_leaves_when_it_was_refused(
    serve: Serve, status: int, data: bytes, leave: Leave
) -> None:
    server = serve(lambda request: request.path)
    n_before = data.count(b"/first")
    with gates.connect(server, 2) as (bystander, connection):
        connection.send(data)
        check_is_refused(connection.rest(), status, n_before)
        leave(connection)
        check_all_is_well(server, bystander)


@pytest.mark.parametrize("end", ["open", "half-closed"])
@pytest.mark.parametrize(("status", "data"), REFUSED.values(), ids=REFUSED)
def test_client_that_reads_only_when_it_has_sent_all_gets_its_refusal(
    serve: Serve, status: int, data: bytes, end: str
) -> None:
    server = serve(lambda request: request.path)
    n_before = data.count(b"/first")
    with gates.connect(server, 1) as (bystander,):
        for _ in range(15):
            with Connection(server) as connection:
                connection.send(data + b"x" * MEGABYTES)
                if end == "half-closed":
                    connection.end()
                check_is_refused(connection.rest(), status, n_before)
        check_all_is_well(server, bystander)
    assert server.stats()["rejected"] == 15


def test_client_that_is_told_close_and_sends_on_gets_the_reply(serve: Serve) -> None:
    """Its requests are not bad: it has not heard yet that there will be no reply."""

    def handler(request: fastbatch.Request) -> Any:
        if request.path == "/last":
            return 200, {"Connection": "close"}, bytes(PIECE)
        return request.path

    server = serve(handler)
    more = get("/never", "X-A: " + "b" * 5000)
    with gates.connect(server, 1) as (bystander,):
        for _ in range(15):
            with Connection(server) as connection:
                connection.send(get("/last"))
                connection.send(more * (MEGABYTES // len(more)))
                (reply,) = helpers.parse_replies(connection.rest())
                assert len(reply.body) == PIECE
        check_all_is_well(server, bystander)


@each_manner
def test_client_leaves_in_the_upload_that_was_refused(
    serve: Serve, leave: Leave
) -> None:
    server = serve(lambda request: request.path)
    with gates.connect(server, 2) as (bystander, connection):
        connection.send(OVER + bytes(MEGABYTES))
        leave(connection)
        if leave is half_close:
            check_is_refused(connection.rest(), 413, 0)
        check_all_is_well(server, bystander)


def test_many_clients_that_leave_together_let_the_server_rest(serve: Serve) -> None:
    server = serve(lambda request: request.path)
    manners: list[Leave] = [reset, close, half_close]
    with gates.connect(server, 1) as (bystander,):
        cuts = list(CUT.values())
        with gates.connect(server, len(cuts)) as connections:
            for connection, (_, cut) in zip(connections, cuts, strict=True):
                connection.send(cut)
            for i, connection in enumerate(connections):
                manners[i % 3](connection)
        check_all_is_well(server, bystander)
