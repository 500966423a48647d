"""wsgi.input: the body of a request as a file, in memory and in a temporary one."""

import contextlib
import hashlib
import io
import itertools
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import gates
import helpers
import pytest
import wsgi_helpers
from conftest import Serve, Start
from helpers import Connection, get
from wsgi_helpers import Environ, replies

LIMIT = 1000  # bytes: max_body_memory of some tests

# A body is kept in memory, or goes to a file from its first byte on.
KEPT = {"memory": 2**20, "spooled": 0}
kept = pytest.mark.parametrize("max_body_memory", KEPT.values(), ids=KEPT)

sent = pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])


def post(body: bytes, is_chunked: bool = False, path: str = "/") -> bytes:
    """A request with this body."""
    if not is_chunked:
        field = f"Content-Length: {len(body)}"
        return get(path, field).replace(b"GET", b"POST") + body
    head = get(path, "Transfer-Encoding: chunked").replace(b"GET", b"POST")
    pieces = [body[at : at + 999] for at in range(0, len(body), 999)]
    chunks = (b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return head + b"".join(chunks) + b"0\r\n\r\n"


def reading(read: Callable[[Any], object]) -> tuple[wsgi_helpers.Application, Any]:
    """An application that reads so, and the list of what it reads."""
    seen: list[Any] = []

    def body(environ: Environ) -> list[bytes]:
        seen.append(read(environ["wsgi.input"]))
        return [b"x"]

    return replies(body), seen


# ---- the same as io.BytesIO ---------------------------------------------------------

SIZES = [0, 1, 2, 7, 100, 8191, 8192, 8193, 10**6, 2**31, 2**62, -1, -7, None]

OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "read": lambda stream, size: stream.read(size),
    "read without size": lambda stream, _size: stream.read(),
    "readline": lambda stream, size: stream.readline(size),
    "readline without size": lambda stream, _size: stream.readline(),
    "readlines": lambda stream, size: stream.readlines(size),
    "readlines without hint": lambda stream, _size: stream.readlines(),
    "next": lambda stream, _size: next(iter(stream), None),
    "some lines": lambda stream, size: [
        line for line, _ in zip(stream, range((size or 0) % 5), strict=False)
    ],
    "all lines": lambda stream, _size: list(stream),
}


def random_bodies() -> dict[str, bytes]:
    chance = random.Random(3333)
    return {
        "nothing": b"",
        "a byte": b"x",
        "a newline": b"\n",
        "newlines": b"\n" * 3000,
        "no newline": b"x" * 200_000,
        "short lines": b"".join(
            chance.randbytes(chance.randrange(20)).replace(b"\n", b"") + b"\n"
            for _ in range(5000)
        ),
        "long lines": b"".join(
            b"%d" % n * chance.randrange(20_000) + b"\n" for n in range(30)
        ),
        "no newline at the end": b"one\r\ntwo\rthree\n\nfour",
        "any bytes": chance.randbytes(300_000),
        "multiple of 8192": (b"x" * 8191 + b"\n") * 4,
    }


BODIES = random_bodies()


def differences(stream: Any, body: bytes, seed: int) -> list[Any]:
    """What a stream does otherwise than BytesIO, asked for the same at random."""
    chance = random.Random(seed)
    oracle = io.BytesIO(body)
    found = []
    for _ in range(chance.choice([3, 30, 300])):
        name = chance.choice([*OPERATIONS])
        if "out" in name or name == "all lines":  # these read all: not too often
            name = chance.choice(["read", "readline", "readlines", "next", name])
        # Small ones more often: large ones are soon at the end.
        size = chance.choice([*SIZES, 1, 3, 10, 50, 500])
        expected = OPERATIONS[name](oracle, size)
        given = OPERATIONS[name](stream, size)
        if given != expected:
            found.append((name, size, expected, given))
            break
    return found


@kept
@sent
@pytest.mark.parametrize("name", BODIES)
def test_input_reads_as_bytes_io_does(
    serve: Serve, max_body_memory: int, name: str, *, is_chunked: bool
) -> None:
    body = BODIES[name]
    found: list[Any] = []

    def compare(environ: Environ) -> list[bytes]:
        seed = int(environ["PATH_INFO"][1:])
        found.extend(differences(environ["wsgi.input"], body, seed))
        return [b"x"]

    server = serve(replies(compare), max_body_memory=max_body_memory)
    with Connection(server) as connection:
        for seed in range(40):
            connection.send(post(body, is_chunked, f"/{seed}"))
            assert connection.reply().status == 200
    assert found == []


@kept
@pytest.mark.parametrize("size", [0, 1, 8191, 8192, 8193, 65536, 1_000_003])
@pytest.mark.parametrize("step", [1, 1000, 8192, 10**9])
def test_body_is_read_in_steps(
    serve: Serve, max_body_memory: int, size: int, step: int
) -> None:
    size = min(size, 9000) if step == 1 else size
    body = random.Random(size).randbytes(size)
    app, seen = reading(lambda stream: [*iter(lambda: stream.read(step), b"")])
    server = serve(app, max_body_memory=max_body_memory)
    helpers.talk(server, post(body), replies=1)
    (pieces,) = seen
    assert b"".join(pieces) == body
    assert [len(piece) for piece in pieces[:-1]] == [step] * (len(pieces) - 1)


@kept
def test_lines_are_read_by_all_ways_in_turns(
    serve: Serve, max_body_memory: int
) -> None:
    lines = [b"line %d\n" % n for n in range(10)]

    def read(stream: Any) -> list[bytes]:
        found = [stream.readline(), *stream.readlines(1), next(iter(stream))]
        found += [stream.read(len(lines[3])), stream.readline(4), stream.readline(99)]
        for line in stream:
            found.append(line)
            break
        return [*found, *stream.readlines(9), stream.read()]

    app, seen = reading(read)
    server = serve(app, max_body_memory=max_body_memory)
    helpers.talk(server, post(b"".join(lines)), replies=1)
    assert b"".join(seen[0]) == b"".join(lines)
    assert seen[0][:4] == lines[:4]
    assert seen[0][4:7] == [lines[4][:4], lines[4][4:], lines[5]]


WRONG = {
    "read": lambda stream, value: stream.read(value),
    "readline": lambda stream, value: stream.readline(value),
    "readlines": lambda stream, value: stream.readlines(value),
}


@kept
@pytest.mark.parametrize("method", WRONG)
@pytest.mark.parametrize("value", ["1", 1.5, b"1", [1]], ids=repr)
def test_size_that_is_no_number_is_a_type_error(
    serve: Serve, max_body_memory: int, method: str, value: Any
) -> None:
    def read(stream: Any) -> bytes:
        with pytest.raises(TypeError):
            WRONG[method](stream, value)
        rest: bytes = stream.read()
        return rest

    app, seen = reading(read)
    server = serve(app, max_body_memory=max_body_memory)
    helpers.talk(server, post(b"body"), replies=1)
    assert seen == [b"body"]


@kept
def test_any_number_will_do_as_a_size(serve: Serve, max_body_memory: int) -> None:
    class Three:
        def __index__(self) -> int:
            return 3

    app, seen = reading(lambda stream: [stream.read(Three()), stream.read(True)])
    server = serve(app, max_body_memory=max_body_memory)
    helpers.talk(server, post(b"body"), replies=1)
    assert seen == [[b"bod", b"y"]]


# ---- where it is kept ---------------------------------------------------------------


def temporary_files() -> list[str]:
    """The open files of this process that have no name any more."""
    return [what for what in helpers.open_files().values() if "(deleted)" in what]


@sent
@pytest.mark.parametrize(
    ("size", "n_files"), [(0, 0), (LIMIT - 1, 0), (LIMIT, 0), (LIMIT + 1, 1)]
)
def test_body_above_the_limit_goes_to_a_temporary_file(
    serve: Serve, size: int, n_files: int, *, is_chunked: bool
) -> None:
    before = len(temporary_files())
    body = b"x" * size

    def read(stream: Any) -> tuple[int, bool]:
        return len(temporary_files()) - before, stream.read() == body

    app, seen = reading(read)
    server = serve(app, max_body_memory=LIMIT)
    helpers.talk(server, post(body, is_chunked), replies=1)
    assert seen == [(n_files, True)]
    helpers.wait_until(lambda: len(temporary_files()) == before, "closing the file")


def test_temporary_file_is_closed_although_nothing_was_read(serve: Serve) -> None:
    before = helpers.open_files()
    server = serve(replies([b"x"]), max_body_memory=LIMIT)
    with Connection(server) as connection:
        for _ in range(100):
            connection.send(post(bytes(100_000)))
            assert connection.reply().body == b"x"
        open_now = len(helpers.open_files())
    assert open_now < len(before) + 50
    server.stop()
    helpers.wait_until(
        lambda: len(helpers.open_files()) <= len(before), "closing all files"
    )


@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
def test_temporary_file_is_closed_when_the_client_leaves(
    serve: Serve, *, is_reset: bool
) -> None:
    before = len(temporary_files())
    app, seen = reading(lambda stream: stream.read())
    server = serve(app, max_body_memory=LIMIT)
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(Connection(server))
            connection.send(post(bytes(500_000))[:-1])
        helpers.wait_until(lambda: server.stats()["bytes_received"] > 9_000_000)
        if is_reset:
            # What is unread at the other end makes it a reset.
            connection.send(get() * 10)
    gates.wait_until_gone(server)
    assert len(temporary_files()) == before
    assert len(seen) <= 1


def test_bodies_of_both_kinds_do_not_mix(serve: Serve) -> None:
    """Of one connection, in one write, and small ones between the large ones."""
    chance = random.Random(7)
    sizes = [chance.choice([0, 1, 999, 1000, 1001, 5000, 200_000]) for _ in range(100)]
    bodies = [chance.randbytes(size) for size in sizes]
    app, seen = reading(lambda stream: stream.read())
    server = serve(app, max_body_memory=LIMIT)
    data = b"".join(post(body, n % 3 == 0) for n, body in enumerate(bodies))
    helpers.talk(server, data, replies=len(bodies))
    assert [len(body) for body in seen] == sizes
    assert seen == bodies


def test_bodies_of_many_connections_do_not_mix(serve: Serve) -> None:
    def body(environ: Environ) -> list[bytes]:
        return [hashlib.sha256(environ["wsgi.input"].read()).hexdigest().encode()]

    server = serve(replies(body), max_body_memory=LIMIT)
    with gates.connect(server, 20) as connections:
        bodies = [random.Random(n).randbytes(50_000) for n in range(20)]
        for at in range(0, 60_000, 7000):  # by turns
            for connection, body_ in zip(connections, bodies, strict=True):
                connection.send(post(body_)[at : at + 7000])
        for connection, body_ in zip(connections, bodies, strict=True):
            expected = hashlib.sha256(body_).hexdigest().encode()
            assert connection.reply().body == expected


@sent
@pytest.mark.parametrize("max_body_memory", [0, LIMIT, 10 * LIMIT])
@pytest.mark.parametrize("excess", [-1, 0, 1])
def test_body_beyond_max_body_is_413_and_not_seen(
    serve: Serve, excess: int, max_body_memory: int, *, is_chunked: bool
) -> None:
    app, seen = reading(lambda stream: len(stream.read()))
    limit = 5 * LIMIT
    server = serve(app, max_body=limit, max_body_memory=max_body_memory)
    received = helpers.talk(
        server, post(bytes(limit + excess), is_chunked) + get("/", "Connection: close")
    )
    statuses = [reply.status for reply in helpers.parse_replies(received)]
    if excess > 0:
        assert (statuses, seen) == ([413], [])
    else:
        assert (statuses, seen) == ([200, 200], [limit + excess, 0])


@kept
def test_request_whose_body_does_not_come_whole_is_not_seen(
    serve: Serve, max_body_memory: int
) -> None:
    app, seen = reading(lambda stream: stream.read())
    server = serve(app, max_body_memory=max_body_memory)
    for data in (post(bytes(9000))[:-1], post(bytes(9000), is_chunked=True)[:-5]):
        with Connection(server) as connection:
            connection.send(data)
            connection.end()
            wsgi_helpers.rest(connection)
    assert seen == []


@kept
def test_client_that_waits_for_100_sends_its_body_then(
    serve: Serve, max_body_memory: int
) -> None:
    app, seen = reading(lambda stream: stream.read())
    head, _, body = post(b"body" * 5000).partition(b"\r\n\r\n")
    with Connection(serve(app, max_body_memory=max_body_memory)) as connection:
        connection.send(head + b"\r\nExpect: 100-continue\r\n\r\n")
        assert connection.socket.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.send(body)
        assert connection.reply().status == 200
    assert seen == [body]


@kept
def test_upload_that_trickles_holds_up_nobody(
    serve: Serve, max_body_memory: int
) -> None:
    server = serve(wsgi_helpers.echo, max_body_memory=max_body_memory)
    body = bytes(range(256)) * 4
    with Connection(server) as slow, Connection(server) as bystander:
        data = post(body, path="/slow")
        for at in range(0, len(data), 64):
            slow.send(data[at : at + 64])
            assert bystander.ask("/quick").body == b"/quick"
        assert slow.reply().body == b"/slow" + body


# ---- what is kept of it -------------------------------------------------------------


@kept
def test_input_may_be_kept_beyond_the_request(
    serve: Serve, max_body_memory: int
) -> None:
    before = len(temporary_files())
    streams: list[Any] = []
    app = replies(lambda environ: streams.append(environ["wsgi.input"]) or [b"x"])
    bodies = [b"%d," % n * 5000 for n in range(20)]
    server = serve(app, max_body_memory=max_body_memory)
    with Connection(server) as connection:
        for body in bodies:
            connection.send(post(body))
            connection.reply()
    server.stop()
    for stream, body in zip(streams, bodies, strict=True):
        with contextlib.suppress(ValueError, OSError, RuntimeError):
            assert stream.read(10) in (b"", body[:10])
            assert stream.read() in (b"", body[10:])
    streams.clear()
    del stream
    assert len(temporary_files()) == before


@kept
def test_input_may_be_read_by_many_threads(serve: Serve, max_body_memory: int) -> None:
    lines = [b"%06d\n" % n for n in range(5000)]

    def read(stream: Any) -> list[bytes]:
        found: list[list[bytes]] = [[] for _ in range(4)]

        def read_some(mine: list[bytes]) -> None:
            while line := stream.readline():
                mine.append(line)

        threads = [threading.Thread(target=read_some, args=(mine,)) for mine in found]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(itertools.chain(*found))

    app, seen = reading(read)
    server = serve(app, max_body_memory=max_body_memory)
    helpers.talk(server, post(b"".join(lines)), replies=1)
    assert seen == [lines]


# ---- large ones ---------------------------------------------------------------------

PROGRAM = """
import fastbatch, hashlib, re

def peak():
    with open("/proc/self/status") as status:
        return re.search(r"VmHWM:\\s*(\\d+) kB", status.read())[1]

def app(environ, start_response):
    start_response("200 OK", [])
    digest, stream = hashlib.sha256(), environ["wsgi.input"]
    while piece := stream.read(65536):
        digest.update(piece)
    return [f"{digest.hexdigest()} {peak()}".encode()]

fastbatch.run(app, bind="127.0.0.1:0", max_body=200_000_000)
"""


# A sanitizer would keep what is freed, to see it used again.
FREEING = {"ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=1"}


@sent
def test_100_mb_are_received_in_little_memory(
    start: Start, *, is_chunked: bool
) -> None:
    piece = random.Random(1).randbytes(1_000_000)
    expected = hashlib.sha256(piece * 100).hexdigest()

    def upload() -> Iterator[bytes]:
        if is_chunked:
            yield get("/", "Transfer-Encoding: chunked").replace(b"GET", b"POST")
            for _ in range(100):
                yield b"%x\r\n%b\r\n" % (len(piece), piece)
            yield b"0\r\n\r\n"
        else:
            yield get("/", "Content-Length: 100000000").replace(b"GET", b"POST")
            for _ in range(100):
                yield piece

    with Connection(start("-c", PROGRAM, env=FREEING).address()) as connection:
        _, before = connection.ask().body.split()
        connection.send(upload())
        digest, peak = connection.reply().body.split()
    assert digest.decode() == expected
    assert int(peak) - int(before) < 40_000  # kB


def test_many_spooled_bodies_at_once_use_little_memory(start: Start) -> None:
    body = bytes(2_000_000)
    with contextlib.ExitStack() as stack:
        address = start("-c", PROGRAM, env=FREEING).address()
        connections = [stack.enter_context(Connection(address)) for _ in range(40)]
        before = connections[0].ask().body.split()[1]
        for connection in connections:
            connection.send(post(body)[:-1])
        for connection in connections:
            connection.send(body[:1])
        peaks = [int(connection.reply().body.split()[1]) for connection in connections]
    assert max(peaks) - int(before) < 40_000  # kB, of 80,000
