"""Every file of tests/wire through a real socket: whole, bytewise and with more behind.

The C tests feed the same files to the parser alone. Here it is seen that what comes
out of it reaches the handler, that every request is answered with the right status, and
that a connection is closed after a bad one, of which nothing more is read.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

import helpers
import pytest
from helpers import Connection

import fastbatch

WIRE = Path(__file__).parent / "wire"
WAYS = ("whole", "bytewise", "trailing")
TRAILING_PATH = "/trailing"
FIELDS = ("Server", "Date", "Content-Type", "Content-Length", "Connection")

Seen = list[dict[str, Any]]


@dataclass(frozen=True)
class WireFile:
    """A file, and what a server makes of it."""

    name: str
    data: bytes
    requests: Seen = field(default_factory=list)  # as handlers see them
    keep_alive: list[bool] = field(default_factory=list)  # after each of them
    status: int | None = None  # of the rejection that follows


def unescape(text: str) -> bytes:
    r"""Turn ``\x0d`` and the like, of an .expect file, into bytes."""
    code = re.compile(rb"\\x(..)")
    return code.sub(lambda match: bytes.fromhex(match[1].decode()), text.encode())


def read_expect(path: Path) -> tuple[Seen, list[bool]]:
    """The requests in an .expect file: see tests/wire/README.md."""
    requests: Seen = []
    keep_alive: list[bool] = []
    for line in path.read_text().splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "request":
            method, version, persistence = rest.split()
            requests.append(
                {
                    "method": method,
                    "http_version": version.removeprefix("HTTP/"),
                    "query_string": "",
                    "headers": [],
                    "body": b"",
                }
            )
            keep_alive.append(persistence == "keep-alive")
            continue
        request = requests[-1]
        if kind == "header":
            name, _, value = rest.partition(": ")
            request["headers"].append((unescape(name), unescape(value)))
        elif kind == "path":
            decoded = unquote_to_bytes(unescape(rest))
            request["path"] = decoded.decode(errors="replace")
        elif kind == "body":
            request["body"] = unescape(rest)
        elif kind != "dropped":
            key = {"target": "target", "query": "query_string"}[kind]
            request[key] = unescape(rest).decode()
    return requests, keep_alive


def wire_files(folder: str) -> list[WireFile]:
    """All files of tests/wire/``folder``."""
    files = []
    for path in sorted((WIRE / folder).glob("*.http")):
        expect = path.with_suffix(".expect")
        requests, keep_alive = read_expect(expect) if expect.exists() else ([], [])
        status = int(path.name[:3]) if folder == "reject" else None
        files.append(
            WireFile(path.stem, path.read_bytes(), requests, keep_alive, status)
        )
    return files


def each_file(folder: str) -> pytest.MarkDecorator:
    """Run the test for each file of tests/wire/``folder``."""
    return pytest.mark.parametrize(
        "file", wire_files(folder), ids=lambda file: str(file.name)
    )


def describe(request: fastbatch.Request) -> dict[str, Any]:
    """What a handler sees, in the words of ``read_expect``."""
    return {
        "method": request.method,
        "target": request.target,
        "path": request.path,
        "query_string": request.query_string,
        "http_version": request.http_version,
        "headers": request.headers.raw,
        "body": request.body,
    }


@pytest.fixture(scope="module")
def recorder() -> Iterator[tuple[fastbatch.Server, Seen]]:
    """One server for all files, and the requests that it has seen."""
    seen: Seen = []

    def handler(request: fastbatch.Request) -> str:
        seen.append(describe(request))
        return "seen"

    with fastbatch.Server(handler, bind="127.0.0.1:0") as server:
        yield server, seen


@pytest.fixture
def server(recorder: tuple[fastbatch.Server, Seen]) -> fastbatch.Server:
    """The server of all files."""
    return recorder[0]


@pytest.fixture
def seen(recorder: tuple[fastbatch.Server, Seen]) -> Seen:
    """What its handler has seen in this test."""
    recorder[1].clear()
    return recorder[1]


def send(connection: Connection, data: bytes, way: str) -> None:
    """Send it that way, as far as the server lets us."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.send(helpers.split_ways(data)[way])


def check_replies(connection: Connection, file: WireFile) -> None:
    """Every request of the file is answered, with what it says of the connection."""
    for request, keep_alive in zip(file.requests, file.keep_alive, strict=True):
        reply = connection.reply(request["method"])
        assert reply.status == 200
        assert reply.body == (b"" if request["method"] == "HEAD" else b"seen")
        field_is = reply.headers["Connection"]
        if keep_alive:
            assert field_is == (
                "keep-alive" if request["http_version"] == "1.0" else None
            )
        else:
            assert field_is == "close"


@pytest.mark.parametrize("way", WAYS)
@each_file("accept")
def test_accepted(
    server: fastbatch.Server, seen: Seen, file: WireFile, way: str
) -> None:
    with Connection(server) as connection:
        send(connection, file.data, way)
        check_replies(connection, file)
        goes_on = file.keep_alive[-1]
        if goes_on and way == "trailing":
            assert connection.reply().body == b"seen"
            assert seen.pop()["path"] == TRAILING_PATH
        if goes_on:
            connection.end()
        assert connection.rest() == b""
    assert seen == file.requests


@pytest.mark.parametrize("way", WAYS)
@each_file("reject")
def test_rejected(
    server: fastbatch.Server, seen: Seen, file: WireFile, way: str
) -> None:
    with Connection(server) as connection:
        send(connection, file.data, way)
        check_replies(connection, file)
        reply = connection.reply()
        assert reply.status == file.status
        assert reply.headers["Connection"] == "close"
        assert connection.rest() == b""
        # No more than what is known of the status: nothing that was sent comes back.
        assert sorted(reply.headers) == sorted(FIELDS)
        assert reply.body == f"{reply.status} {reply.reason}\n".encode()
        # What is refused was not asked for before, however its head arrived.
        assert b"100 Continue" not in connection.received
    assert seen == file.requests


def test_server_lives_after_all_of_it(server: fastbatch.Server, seen: Seen) -> None:
    assert helpers.get_url(server, "/after").body == b"seen"
    assert [request["path"] for request in seen] == ["/after"]


# ---- limits: inputs too long to keep as files ----------------------------------


def padded_head(length: int) -> bytes:
    """A request whose head has that many bytes."""
    begin = b"GET / HTTP/1.1\r\nHost: a\r\nPadding: "
    end = b"\r\n\r\n"
    return begin + b"p" * (length - len(begin) - len(end)) + end


def with_target(length: int) -> bytes:
    """A request whose target has that many bytes."""
    return b"GET /" + b"t" * (length - 1) + b" HTTP/1.1\r\nHost: a\r\n\r\n"


def with_fields(count: int) -> bytes:
    """A request with that many header fields."""
    return b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * (count - 1) + b"\r\n"


def with_length(length: int) -> bytes:
    """A request whose body, announced by Content-Length, has that many bytes."""
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length
    return head + b"b" * length


def with_chunks(length: int) -> bytes:
    """A request whose body, in chunks of up to 1000 bytes, has that many bytes."""
    pieces = [b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"]
    for at in range(0, length, 1000):
        size = min(1000, length - at)
        pieces += [b"%x\r\n" % size, b"b" * size, b"\r\n"]
    return b"".join([*pieces, b"0\r\n\r\n"])


@pytest.mark.parametrize(
    ("option", "limit", "status", "make"),
    [
        ("max_target", 500, 414, with_target),
        ("max_target", 8192, 414, with_target),
        ("max_headers", 10, 431, with_fields),
        ("max_headers", 100, 431, with_fields),
        ("max_head", 1000, 431, padded_head),
        ("max_head", 65536, 431, padded_head),
        ("max_body", 5000, 413, with_length),
        ("max_body", 5000, 413, with_chunks),
        ("max_body", 1_000_000, 413, with_chunks),
    ],
)
def test_limit_is_kept_to_the_byte(
    serve: Callable[..., fastbatch.Server],
    option: str,
    limit: int,
    status: int,
    make: Callable[[int], bytes],
) -> None:
    server = serve(lambda _request: "seen", **{option: limit})
    for size in (limit - 1, limit, limit + 1):
        data = helpers.talk(server, make(size), replies=1)
        (reply,) = helpers.parse_replies(data)
        assert reply.status == (200 if size <= limit else status), size


def test_ten_thousand_requests_in_one_write(
    serve: Callable[..., fastbatch.Server],
) -> None:
    server = serve(lambda request: request.path)
    data = b"".join(helpers.get(f"/{number}") for number in range(10_000))
    replies = helpers.parse_replies(helpers.talk(server, data, replies=10_000))
    assert [reply.body for reply in replies] == [b"/%d" % n for n in range(10_000)]


# ---- what is not in a file's verdict --------------------------------------------


@pytest.mark.parametrize(
    ("rest", "status"),
    [
        (b" /" + b"t" * 10_000 + b" HTTP/1.1\r\n", 414),
        (b" / HTTP/1.1\r\nExpect: teapot\r\n\r\n", 417),
        (b" / HTTP/1.1\r\nHost: a\r\nNo colon\r\n\r\n", 400),
        (b" / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b" / HTTP/2.0\r\n\r\n", 505),
    ],
)
def test_refused_head_request_gets_no_body(
    server: fastbatch.Server, rest: bytes, status: int
) -> None:
    data = helpers.talk(server, [helpers.get(), b"HEAD" + rest])
    first, second = helpers.parse_replies(data, ["GET", "HEAD"])
    assert first.body == b"seen"
    assert second.status == status
    assert int(second.headers["Content-Length"]) > 0


HUNDRED = b"HTTP/1.1 100 Continue\r\n\r\n"


def post(*fields: str, version: str = "1.1") -> bytes:
    """The head of a request with a body, whatever the ``fields`` say of it."""
    return helpers.get("/post", *fields, version=version).replace(b"GET", b"POST", 1)


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (["Expect: 100-continue", "Content-Length: 4"], b"body"),
        (["Content-Length: 4", "expect: 100-CONTINUE"], b"body"),
        (["Expect: 100-continue", "Expect: 100-continue", "Content-Length: 1"], b"b"),
        (["Expect: 100-continue, 100-continue", "Content-Length: 1"], b"b"),
        (["Expect: 100-continue", "Transfer-Encoding: chunked"], b"0\r\n\r\n"),
    ],
)
@pytest.mark.parametrize("before", [0, 2])
def test_100_is_sent_once_and_behind_the_replies_before_it(
    server: fastbatch.Server, before: int, fields: list[str], body: bytes
) -> None:
    with Connection(server) as connection:
        connection.send(helpers.get() * before + post(*fields))
        received = b""
        while not received.endswith(HUNDRED):
            received += connection.socket.recv(1000)
        connection.send(body + helpers.get("/", "Connection: close"))
        received += connection.rest()
    assert received.count(HUNDRED) == 1
    replies = helpers.parse_replies(received)
    assert [reply.body for reply in replies] == [b"seen"] * (before + 2)


@pytest.mark.parametrize(
    ("version", "fields", "first", "rest"),
    [
        ("1.1", ["Expect: 100-continue"], b"", b""),
        ("1.1", ["Expect: 100-continue", "Content-Length: 0"], b"", b""),
        ("1.1", ["Expect: 100-continue", "Content-Length: 4"], b"body", b""),
        ("1.1", ["Expect: 100-continue", "Content-Length: 4"], b"b", b"ody"),
        (
            "1.1",
            ["Expect: 100-continue", "Transfer-Encoding: chunked"],
            b"4\r\nb",
            b"ody\r\n0\r\n\r\n",
        ),
        ("1.0", ["Expect: 100-continue", "Content-Length: 4"], b"", b"body"),
        ("1.0", ["Expect: teapot", "Content-Length: 4"], b"", b"body"),
        ("1.1", ["Content-Length: 4"], b"", b"body"),
    ],
)
def test_100_is_not_sent_to_who_does_not_wait_for_it(
    server: fastbatch.Server, version: str, fields: list[str], first: bytes, rest: bytes
) -> None:
    head = post("Connection: close", *fields, version=version)
    with Connection(server) as connection:
        connection.send(head + first)
        if rest:
            # Served by the same loop, and so behind the read of the first part.
            assert helpers.get_url(server).status == 200
            connection.send(rest)
        assert connection.rest().startswith(b"HTTP/1.1 200 ")


def test_empty_lines_without_end_are_refused_also_one_by_one(
    server: fastbatch.Server, seen: Seen
) -> None:
    with Connection(server) as connection:
        for _ in range(2):
            for _ in range(16):
                connection.send(b"\r\n")
                # Served by the same loop, and so behind the read of the line.
                assert helpers.get_url(server).status == 200
            seen.clear()
            assert connection.ask("/asked").body == b"seen"
            assert [request["path"] for request in seen] == ["/asked"]
        for _ in range(17):
            assert connection.received.count(b"400") == 0
            connection.send(b"\r\n")
            assert helpers.get_url(server).status == 200
        assert connection.reply().status == 400
        assert connection.is_closed()


@pytest.mark.parametrize(
    "refused",
    [
        helpers.get("/secret", "No colon secret"),
        helpers.get("/secret", "Expect: secret"),
        helpers.get("/secret#secret"),
        helpers.get("/secret", version="2.0"),
        b"SECRET /secret HTTP/1.1\r\n\r\n",
        post("Content-Length: 99999999999", "X: secret"),
        helpers.get("/raise", "X: secret"),
    ],
)
def test_error_reply_says_nothing_but_its_status(
    serve: Callable[..., fastbatch.Server], refused: bytes
) -> None:
    def handler(request: fastbatch.Request) -> NoReturn:
        raise RuntimeError(request.headers["X"])

    with Connection(serve(handler, server_header="")) as connection:
        connection.send(refused)
        connection.end()
        reply = connection.reply()
        assert connection.rest() == b""
        lines = connection.received.split(b"\r\n")
    status = b"%d %s" % (reply.status, reply.reason.encode())
    assert reply.status >= 400
    assert lines[0] == b"HTTP/1.1 " + status
    assert reply.body == status + b"\n"
    assert [line.partition(b":")[0] for line in lines[1 : lines.index(b"")]] == [
        b"Date",
        b"Content-Type",
        b"Content-Length",
        *([b"Connection"] if reply.status != 500 else []),
    ]


# ---- files that are not quite those ---------------------------------------------

MUTATIONS = 2_000
FRAGMENTS = [
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b";", b"=", b'"', b",", b"_"),
    *(b"\x0b", b"\x7f", b"\xff", b"[", b"]", b"%", b"0", b"f", b"0\r\n\r\n"),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"chunked, "),
    *(b"Connection: close\r\n", b"Expect: 100-continue\r\n", b"Host: b\r\n"),
    *(b"HTTP/1.0", b"HTTP/1.1", helpers.get("/inserted")),
]


def mutate(random: Random, data: bytes, other: bytes) -> bytes:
    """``data`` with one to three small faults, or with the end of ``other``."""
    for _ in range(random.choice((1, 1, 2, 3))):
        at = random.randrange(len(data) + 1)
        begin, end = data[:at], data[at:]
        data = random.choice(
            (
                begin + random.randbytes(1) + end[1:],
                begin + random.choice(FRAGMENTS) + end,
                begin + end[random.randrange(1, 4) :],
                begin + end[: random.randrange(1, 40)] + end,
                begin + other[random.randrange(len(other) + 1) :],
            )
        )
    return data


def outcome(
    server: fastbatch.Server, seen: Seen, pieces: list[bytes]
) -> tuple[list[tuple[int, str | None]], Seen]:
    """The statuses that ``pieces`` are answered with, and the requests handled."""
    seen.clear()
    with Connection(server) as connection:
        with contextlib.suppress(OSError):
            connection.send(pieces)
            connection.end()
        received = connection.rest().replace(HUNDRED, b"")
        methods = [request["method"] for request in seen]
        if received.endswith(b"\r\n\r\n"):
            methods.append("HEAD")  # refused
    replies = helpers.parse_replies(received, methods)
    return [(reply.status, reply.headers["Connection"]) for reply in replies], [*seen]


def test_mutations_mean_the_same_in_any_split(
    server: fastbatch.Server, seen: Seen
) -> None:
    random = Random(9112)
    files = [file.data for file in (*wire_files("accept"), *wire_files("reject"))]
    files = [data for data in files if len(data) < 10_000]
    for _ in range(MUTATIONS):
        data = mutate(random, random.choice(files), random.choice(files))
        one, two = sorted(random.randrange(len(data) + 1) for _ in range(2))
        whole = outcome(server, seen, [data])
        assert outcome(server, seen, [data[:one], data[one:two], data[two:]]) == whole
        statuses = [status for status, _ in whole[0]]
        assert statuses[: len(whole[1])] == [200] * len(whole[1])
        # Only the last can be the server's own, and then it says close.
        assert all(close == "close" for status, close in whole[0] if status != 200)
        assert len(statuses) <= len(whole[1]) + 1
    assert helpers.get_url(server).status == 200
