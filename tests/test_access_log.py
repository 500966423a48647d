"""The access log: one line a reply, whatever was asked and whatever becomes of it."""

import contextlib
import json
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gates
import helpers
import pytest
from conftest import Serve, Start
from helpers import Connection, get, talk
from wsgi_helpers import OK, Environ, StartResponse, replies

import fastbatch
from fastbatch._core import LIMITS

COMBINED = re.compile(
    r"(?P<client>\S+) - - \[(?P<time>\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000)\]"
    r' "(?P<request>[^"]*)" (?P<status>\d{3}) (?P<bytes>\d+)'
    r' "(?P<referer>[^"]*)" "(?P<agent>[^"]*)"'
)
HELLO = "GET / HTTP/1.1"
AGENT = "User-Agent: test/1.0"
LONG = "/" + "a" * (LIMITS["max_target"] - 1)

# For a program: it answers with what was asked for.
PROGRAM = """
import sys
import fastbatch
fastbatch.run(lambda request: request.target, port=0, access_log=sys.argv[1])
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


def hello(_request: fastbatch.Request) -> str:
    return "Hello!"


def entries(path: Path) -> list[tuple[str, int, int]]:
    """Request line, status and bytes of each line of a combined log."""
    found = []
    text = path.read_text(encoding="ascii")
    assert text == "" or text.endswith("\n")
    for line in text.split("\n")[:-1]:
        match = COMBINED.fullmatch(line)
        assert match is not None, line
        found += [(match["request"], int(match["status"]), int(match["bytes"]))]
    return found


def logged(
    serve: Serve, path: Path, handler: Any, data: bytes, **options: Any
) -> list[tuple[str, int, int]]:
    """The entries of a server that was sent ``data`` on one connection."""
    server = serve(handler, access_log=path, **options)
    talk(server, data)
    server.stop()
    return entries(path)


def objects(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


def wait_for_lines(path: Path, n: int) -> None:
    helpers.wait_until(
        lambda: path.exists() and len(path.read_bytes().splitlines()) >= n,
        f"logging {n} lines",
    )


# ---- what a line says -------------------------------------------------------------


def test_combined_line_is_that_of_apache_and_nginx(serve: Serve, path: Path) -> None:
    server = serve(hello, access_log=path)
    before = datetime.now(UTC).replace(microsecond=0)
    with Connection(server) as connection:
        connection.ask("/a?b=%20c", "Referer: http://there/", AGENT)
        connection.ask()
    server.stop()
    first, second = path.read_text().splitlines()
    match = COMBINED.fullmatch(first)
    assert match is not None
    at = datetime.strptime(match["time"], "%d/%b/%Y:%H:%M:%S %z")
    assert before <= at <= datetime.now(UTC)
    assert first == (
        f'127.0.0.1 - - [{match["time"]}] "GET /a?b=%20c HTTP/1.1" 200 6'
        ' "http://there/" "test/1.0"'
    )
    assert second.endswith('] "GET / HTTP/1.1" 200 6 "-" "-"')


def test_json_line_is_one_object(serve: Serve, path: Path) -> None:
    def slow(_request: fastbatch.Request) -> tuple[int, bytes]:
        time.sleep(0.05)
        return 201, b"made"

    server = serve(slow, access_log=path, access_log_format="json")
    before = datetime.now(UTC)
    with Connection(server) as connection:
        connection.ask("/a?b", "Referer: http://there/", AGENT)
    server.stop()
    (line,) = objects(path)
    at = datetime.fromisoformat(line.pop("time"))
    assert (before - at).total_seconds() < 0.001
    assert at <= datetime.now(UTC)
    assert 0.05 <= line.pop("duration") < helpers.TIMEOUT
    assert line == {
        "client": "127.0.0.1",
        "method": "GET",
        "target": "/a?b",
        "version": "1.1",
        "referer": "http://there/",
        "user_agent": "test/1.0",
        "status": 201,
        "bytes": 4,
    }


def test_duration_counts_the_wait_for_the_dispatch(serve: Serve, path: Path) -> None:
    def slow(_request: fastbatch.Request) -> str:
        time.sleep(0.02)
        return "done"

    server = serve(slow, access_log=path, access_log_format="json", batch_size=1)
    talk(server, get("/1") + get("/2") + get("/3", "Connection: close"))
    server.stop()
    durations = [line["duration"] for line in objects(path)]
    assert len(durations) == 3
    assert durations[0] >= 0.02
    assert all(duration < helpers.TIMEOUT for duration in durations)


@pytest.mark.parametrize("log_format", ["combined", "json"])
def test_peer_of_a_unix_socket_has_no_address(
    serve: Serve, path: Path, tmp_path: Path, log_format: str
) -> None:
    bind = f"unix:{tmp_path}/socket"
    server = serve(hello, access_log=path, access_log_format=log_format, bind=bind)
    helpers.get_url(server)
    server.stop()
    if log_format == "json":
        assert objects(path)[0]["client"] is None
    else:
        assert path.read_text().startswith("- - - [")


def test_peer_of_ipv6_has_its_address(serve: Serve, path: Path) -> None:
    try:
        server = serve(hello, access_log=path, bind="[::1]:0")
    except OSError:
        pytest.skip("this machine has no IPv6")
    helpers.get_url(server)
    server.stop()
    assert path.read_text().startswith("::1 - - [")


def test_client_that_a_trusted_proxy_names_is_logged(serve: Serve, path: Path) -> None:
    server = serve(hello, access_log=path, forwarded_allow_ips="127.0.0.1")
    with Connection(server) as connection:
        connection.ask("/a", "X-Forwarded-For: 203.0.113.9")
        connection.ask("/b", "X-Forwarded-For: 2001:db8::1")
        connection.ask("/c")
        connection.send(b"nonsense\r\n\r\n")
        connection.rest()
    server.stop()
    clients = [line.split(" ")[0] for line in path.read_text().splitlines()]
    # Of a request that is none, whoever sent it.
    assert clients == ["203.0.113.9", "2001:db8::1", "127.0.0.1", "127.0.0.1"]


def test_nothing_is_logged_unless_it_is_asked_for(serve: Serve, tmp_path: Path) -> None:
    assert fastbatch.Options().access_log == ""
    server = serve(hello)
    helpers.get_url(server)
    server.stop()
    assert server.stats()["log_lines_dropped"] == 0
    assert list(tmp_path.iterdir()) == []


# ---- log injection ----------------------------------------------------------------

# All that a header value can hold, and more than is harmless in a line.
ODD = bytes([*b'"\\\t\x1b[31m', *range(0x80, 0x100)]).replace(b"\x1b", b"")


@pytest.mark.parametrize("log_format", ["combined", "json"])
def test_no_value_can_forge_a_line(serve: Serve, path: Path, log_format: str) -> None:
    def app(_request: fastbatch.Request) -> None:
        return None

    server = serve(app, access_log=path, access_log_format=log_format)
    forged = b'" 200 0 "-" "-"\\n127.0.0.1 - - [' + ODD
    fields = b"Host: x\r\nUser-Agent: " + forged + b"\r\nReferer: " + ODD
    talk(server, b"GET /%0a%22\x22\\ HTTP/1.1\r\n" + fields + b"\r\n\r\n", replies=1)
    server.stop()
    data = path.read_bytes()
    assert data.count(b"\n") == 1
    assert all(0x20 <= c < 0x7F for c in data[:-1])
    if log_format == "json":
        line = json.loads(data)
        assert line["user_agent"].encode("latin-1") == forged
        assert line["referer"].encode("latin-1") == ODD
        return
    match = COMBINED.fullmatch(data.decode().rstrip("\n"))
    assert match is not None
    undo = re.compile(r"\\x([0-9A-F]{2})")

    def plain(text: str) -> bytes:
        return undo.sub(lambda hexed: chr(int(hexed[1], 16)), text).encode("latin-1")

    assert plain(match["agent"]) == forged
    assert plain(match["referer"]) == ODD
    assert "\\x22" in match["agent"]
    assert "\\x5C" in match["agent"]


@pytest.mark.parametrize("byte", [b"\n", b"\r", b"\x1b", b"\0", b"\x7f", b"\x0b"])
@pytest.mark.parametrize("log_format", ["combined", "json"])
def test_control_bytes_never_reach_the_log(
    serve: Serve, path: Path, byte: bytes, log_format: str
) -> None:
    server = serve(hello, access_log=path, access_log_format=log_format)
    for data in (
        b"GET /a" + byte + b"b HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: a" + byte + b"b\r\n\r\n",
    ):
        with contextlib.suppress(OSError), Connection(server) as connection:
            connection.send(data)
            connection.end()
            connection.rest()
    server.stop()
    lines = path.read_bytes().split(b"\n")
    assert len(lines) == 3
    assert all(0x20 <= c < 0x7F for line in lines for c in line)


@pytest.mark.parametrize("n", [8191, 8192, 8193, 20000])
def test_long_values_are_cut(serve: Serve, path: Path, n: int) -> None:
    agent = "a" * n
    logged(serve, path, hello, get("/", f"User-Agent: {agent}", "Connection: close"))
    assert path.read_text().endswith(f'"-" "{agent[:8192]}"\n')


# ---- which replies have a line ----------------------------------------------------


def test_pipelined_requests_are_logged_in_order(serve: Serve, path: Path) -> None:
    targets = [f"/{n}" for n in range(600)]
    data = b"".join(map(get, targets)) + get("/last", "Connection: close")
    found = logged(serve, path, hello, data)
    assert found == [(f"GET {t} HTTP/1.1", 200, 6) for t in [*targets, "/last"]]


def test_replies_without_a_body_have_zero_bytes(serve: Serve, path: Path) -> None:
    def app(request: fastbatch.Request) -> Any:
        return None if request.path == "/none" else "Hello!"

    head = get("/").replace(b"GET", b"HEAD")
    found = logged(serve, path, app, get("/none") + head + get("/", version="1.0"))
    assert found == [
        ("GET /none HTTP/1.1", 204, 0),
        ("HEAD / HTTP/1.1", 200, 0),
        ("GET / HTTP/1.0", 200, 6),
    ]


def test_failed_handlers_are_logged(serve: Serve, path: Path) -> None:
    def app(request: fastbatch.Request) -> Any:
        if request.path == "/raise":
            raise ValueError
        if request.path == "/http":
            raise fastbatch.HTTPError(404, "no")
        return object()

    data = get("/raise") + get("/http") + get("/wrong", "Connection: close")
    assert logged(serve, path, app, data) == [
        ("GET /raise HTTP/1.1", 500, 26),
        ("GET /http HTTP/1.1", 404, 2),
        ("GET /wrong HTTP/1.1", 500, 26),
    ]


def test_large_bodies_have_their_length(serve: Serve, path: Path) -> None:
    found = logged(
        serve, path, lambda _: bytes(1_000_000), get("/", "Connection: close")
    )
    assert found == [(HELLO, 200, 1_000_000)]


def test_what_follows_a_reply_that_says_close_is_not_logged(
    serve: Serve, path: Path
) -> None:
    def app(_request: fastbatch.Request) -> Any:
        return 200, {"Connection": "close"}, b"bye"

    assert logged(serve, path, app, get("/1") + get("/2") + get("/3")) == [
        ("GET /1 HTTP/1.1", 200, 3)
    ]


REJECTED = {
    "400 of no request": (b"nonsense\r\n\r\n", ("-", 400, 16)),
    "400 of a field": (
        b"GET / HTTP/1.1\r\nHost: x\r\na b: c\r\n\r\n",
        (HELLO, 400, 16),
    ),
    "400 without Host": (b"GET / HTTP/1.1\r\n\r\n", (HELLO, 400, 16)),
    "413": (
        get("/", "Content-Length: 99999999999"),
        (HELLO, 413, len("413 Content Too Large\n")),
    ),
    "414": (get(LONG + "b"), ("-", 414, len("414 URI Too Long\n"))),
    "417": (
        get("/", "Expect: tea", "Content-Length: 1"),
        (HELLO, 417, len("417 Expectation Failed\n")),
    ),
    "431": (
        get("/", *["A: b"] * 101),
        (HELLO, 431, len("431 Request Header Fields Too Large\n")),
    ),
    "501": (b"BREW / HTTP/1.1\r\n\r\n", ("-", 501, len("501 Not Implemented\n"))),
    "505": (
        b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
        ("GET / HTTP/2.0", 505, len("505 HTTP Version Not Supported\n")),
    ),
    "HEAD": (b"HEAD / HTTP/1.1\r\n\r\n", ("HEAD / HTTP/1.1", 400, 0)),
}


@pytest.mark.parametrize("name", REJECTED)
def test_rejected_requests_are_logged(serve: Serve, path: Path, name: str) -> None:
    data, expected = REJECTED[name]
    assert logged(serve, path, hello, get("/before") + data) == [
        ("GET /before HTTP/1.1", 200, 6),
        expected,
    ]
    if expected[0] == "-":
        assert path.read_text().splitlines()[1].startswith("127.0.0.1 - - [")


def test_rejected_requests_are_logged_as_json(serve: Serve, path: Path) -> None:
    server = serve(hello, access_log=path, access_log_format="json")
    talk(server, b"\x16\x03\x01\x02")
    talk(server, b"GET /a HTTP/1.1\r\nUser-Agent: me\r\n\r\n")
    server.stop()
    nothing, something = objects(path)
    assert nothing["method"] is nothing["target"] is nothing["version"] is None
    assert (nothing["client"], nothing["status"]) == ("127.0.0.1", 400)
    assert (something["target"], something["user_agent"]) == ("/a", "me")


def test_head_that_is_late_is_logged(serve: Serve, path: Path) -> None:
    data = b"GET /slow HTTP/1.1\r\n"
    assert logged(serve, path, hello, data, head_timeout=0.05) == [
        ("GET /slow HTTP/1.1", 408, len("408 Request Timeout\n"))
    ]


def test_concurrent_clients_have_a_line_each(serve: Serve, path: Path) -> None:
    server = serve(hello, access_log=path)

    def ask(client: int) -> None:
        with Connection(server) as connection:
            for n in range(50):
                connection.ask(f"/{client}/{n}")

    clients = [threading.Thread(target=ask, args=(n,)) for n in range(16)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    server.stop()
    found = sorted(entries(path))
    assert found == sorted(
        (f"GET /{client}/{n} HTTP/1.1", 200, 6)
        for client in range(16)
        for n in range(50)
    )


# ---- streams ----------------------------------------------------------------------


def test_stream_is_logged_when_it_is_over_with_what_it_sent(
    serve: Serve, path: Path
) -> None:
    gate = threading.Event()

    def items() -> Iterator[bytes]:
        yield b"12345"
        gate.wait(helpers.TIMEOUT)
        yield b"678"

    server = serve(lambda _: (200, items()), access_log=path)
    with Connection(server) as connection:
        connection.send(get("/stream"))
        helpers.wait_until(lambda: server.stats()["bytes_sent"] > 0, "the first item")
        assert not path.read_bytes()
        gate.set()
        assert connection.reply().body == b"12345678"
    server.stop()
    assert entries(path) == [("GET /stream HTTP/1.1", 200, 8)]


def test_lines_of_streams_are_held_while_other_replies_are_sent(
    serve: Serve, path: Path
) -> None:
    """Both take memory of one heap, on two threads: for ThreadSanitizer to watch."""

    def answer(request: fastbatch.Request) -> Any:
        if request.path == "/long":
            return bytes(30_000)  # three and more of them are not kept for reuse
        time.sleep(0.01)  # the replies before leave meanwhile
        return 200, iter([b"123"])

    gate = gates.Gate(answer)
    server = serve(gate, access_log=path)
    with Connection(server) as reader, Connection(server) as listener:
        for _ in range(3):
            with gate.held(server):
                reader.send(get("/long") * 4)
                listener.send(get("/stream"))
            assert [len(reader.reply().body) for _ in range(4)] == [30_000] * 4
            assert listener.reply().body == b"123"
    server.stop()
    lines = entries(path)
    assert lines.count(("GET /long HTTP/1.1", 200, 30_000)) == 12
    assert lines.count(("GET /stream HTTP/1.1", 200, 3)) == 3


def test_stream_that_breaks_off_is_logged_with_what_it_sent(
    serve: Serve, path: Path
) -> None:
    def items() -> Iterator[bytes]:
        yield b"12345"
        raise ValueError

    server = serve(lambda _: (200, items()), access_log=path)
    with Connection(server) as connection, contextlib.suppress(OSError):
        connection.send(get("/stream"))
        connection.rest()
    server.stop()
    assert entries(path) == [("GET /stream HTTP/1.1", 200, 5)]


def test_stream_whose_client_leaves_is_logged(serve: Serve, path: Path) -> None:
    def items() -> Iterator[bytes]:
        while True:
            yield bytes(65536)

    server = serve(lambda _: (200, items()), access_log=path)
    with Connection(server) as connection:
        connection.send(get("/stream"))
        helpers.wait_until(lambda: server.stats()["bytes_sent"] > 65536, "streaming")
    wait_for_lines(path, 1)
    server.stop()
    ((request, status, n),) = entries(path)
    assert (request, status) == ("GET /stream HTTP/1.1", 200)
    assert n >= 65536
    assert n % 65536 == 0


@pytest.mark.parametrize("now", [False, True])
def test_stream_that_a_stop_ends_is_logged(serve: Serve, path: Path, now: bool) -> None:
    def items() -> Iterator[bytes]:
        while True:
            yield bytes(65536)

    server = serve(
        lambda _: (200, items()),
        access_log=path,
        graceful_timeout=0.05,
        write_timeout=0,
    )
    with Connection(server) as connection:
        connection.send(get("/stream"))
        helpers.wait_until(lambda: server.stats()["bytes_sent"] > 65536, "streaming")
        server.stop(now=now)
    assert [line[:2] for line in entries(path)] == [("GET /stream HTTP/1.1", 200)]


def test_streams_and_replies_of_one_connection_have_a_line_each(
    serve: Serve, path: Path
) -> None:
    def app(request: fastbatch.Request) -> Any:
        return (200, iter([b"12", b"3"])) if request.path == "/stream" else "Hello!"

    data = get("/stream") + get("/1") + get("/stream") + get("/2", "Connection: close")
    found = logged(serve, path, app, data)
    # Streams are over later than what stands behind them was answered.
    assert sorted(found) == [
        ("GET /1 HTTP/1.1", 200, 6),
        ("GET /2 HTTP/1.1", 200, 6),
        ("GET /stream HTTP/1.1", 200, 3),
        ("GET /stream HTTP/1.1", 200, 3),
    ]


# ---- WSGI -------------------------------------------------------------------------


def write(environ: Environ, start_response: StartResponse) -> list[bytes]:
    give = start_response("201 Created", [])
    give(b"123")
    give(b"45")
    if environ["PATH_INFO"] == "/raise":
        raise ValueError
    return [b"678"] if environ["PATH_INFO"] == "/rest" else []


def late(_environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    yield b""
    start_response("202 Accepted", [])
    yield b"123"


def late_failure(_environ: Environ, _start: StartResponse) -> Iterator[bytes]:
    yield b""
    raise ValueError


def file(environ: Environ, start_response: StartResponse) -> Any:
    start_response(OK, [])
    return environ["wsgi.file_wrapper"](Path(__file__).open("rb"))


WSGI: dict[str, tuple[Callable[..., Any], str, int, int]] = {
    "list": (replies([b"123", b"45"]), "/", 200, 5),
    "empty": (replies([], status="204 No Content"), "/", 204, 0),
    "stream": (replies(lambda _: iter([b"123", b"45"])), "/", 200, 5),
    "length": (
        replies(lambda _: iter([b"123", b"45"]), ("Content-Length", "5")),
        "/",
        200,
        5,
    ),
    "too much": (replies([b"12345"], ("Content-Length", "3")), "/", 200, 3),
    "write": (write, "/", 201, 5),
    "write and a list": (write, "/rest", 201, 8),
    "write and failure": (write, "/raise", 201, 5),
    "late": (late, "/", 202, 3),
    "late failure": (late_failure, "/", 500, 26),
    "no start_response": (lambda _environ, _start: [b"1"], "/", 500, 26),
    "file": (file, "/", 200, Path(__file__).stat().st_size),
}


@pytest.mark.parametrize("name", WSGI)
def test_replies_of_applications_are_logged(
    serve: Serve, path: Path, name: str
) -> None:
    app, target, status, n = WSGI[name]
    server = serve(app, access_log=path, interface="wsgi")
    with contextlib.suppress(OSError):
        talk(server, get(target, "Connection: close"))
    server.stop()
    assert entries(path) == [(f"GET {target} HTTP/1.1", status, n)]


@pytest.mark.parametrize("name", ["list", "stream", "write", "late", "file"])
def test_heads_of_applications_are_logged(serve: Serve, path: Path, name: str) -> None:
    app, target, status, _ = WSGI[name]
    data = get(target, "Connection: close").replace(b"GET", b"HEAD")
    assert logged(serve, path, app, data, interface="wsgi") == [
        (f"HEAD {target} HTTP/1.1", status, 0)
    ]


def test_connection_that_ends_before_there_is_a_status_is_499(
    serve: Serve, path: Path
) -> None:
    def app(_environ: Environ, _start: StartResponse) -> Iterator[bytes]:
        while True:
            yield b""

    server = serve(app, access_log=path, interface="wsgi")
    with Connection(server) as connection:
        connection.send(get())
        helpers.wait_until(lambda: server.stats()["batches"] > 0, "the call")
        server.stop(now=True)
    assert entries(path) == [(HELLO, 499, 0)]


def test_file_whose_client_leaves_is_logged_with_what_was_sent(
    serve: Serve, path: Path, tmp_path: Path
) -> None:
    large = tmp_path / "large"
    with large.open("wb") as sparse:
        sparse.truncate(1 << 30)

    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response(OK, [])
        return environ["wsgi.file_wrapper"](large.open("rb"))

    server = serve(app, access_log=path, interface="wsgi")
    with Connection(server) as connection:
        connection.send(get())
        helpers.wait_until(lambda: server.stats()["bytes_sent"] > 65536, "sending")
    wait_for_lines(path, 1)
    server.stop()
    ((_, status, n),) = entries(path)
    assert status == 200
    assert 0 < n < 1 << 30


# ---- files ------------------------------------------------------------------------


def test_lines_are_written_soon(serve: Serve, path: Path) -> None:
    server = serve(hello, access_log=path)
    with Connection(server) as connection:
        connection.ask()
        wait_for_lines(path, 1)
    assert entries(path) == [(HELLO, 200, 6)]
    assert path.stat().st_mode & 0o777 == 0o644 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_lines_are_written_when_the_last_client_has_left(
    serve: Serve, path: Path
) -> None:
    server = serve(hello, access_log=path)
    helpers.get_url(server)
    wait_for_lines(path, 1)
    server.stop()
    assert entries(path) == [(HELLO, 200, 6)]


def test_lines_are_added_to_what_is_there(serve: Serve, path: Path) -> None:
    for n in range(2):
        server = serve(hello, access_log=str(path))
        helpers.get_url(server, f"/{n}")
        server.stop()
    assert [line[0] for line in entries(path)] == ["GET /0 HTTP/1.1", "GET /1 HTTP/1.1"]


@pytest.mark.parametrize("name", ["missing/access.log", "."])
def test_file_that_cannot_be_opened_is_an_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    before = helpers.open_files()
    server = fastbatch.Server(hello, port=0, access_log=path)
    reason = "No such file or directory" if "/" in name else "Is a directory"
    message = f"access_log='{path}' cannot be opened: {reason}"
    with pytest.raises(OSError, match=re.escape(message)):
        server.start()
    assert helpers.open_files() == before


def test_command_that_cannot_open_its_log_says_so(start: Start) -> None:
    module = "app.py"
    process = start("-m", "fastbatch", "--access-log", "no/log", "helpers:get_url")
    assert process.wait() == 1, module
    assert "access_log=" in process.errors
    assert "/no/log' cannot be opened: No such file or directory" in process.errors


def test_descriptors_are_closed_at_the_end(serve: Serve, path: Path) -> None:
    before = helpers.open_files()
    server = serve(hello, access_log=path)
    helpers.get_url(server)
    server.reopen_access_log()
    server.reopen_access_log()
    server.stop()
    server.reopen_access_log()
    assert helpers.open_files() == before


def test_full_disk_loses_lines_and_nothing_else(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(hello, access_log="/dev/full")
    with Connection(server) as connection:
        for _ in range(3):
            assert connection.ask().body == b"Hello!"
            time.sleep(0.01)
        helpers.wait_until(
            lambda: server.stats()["log_lines_dropped"] > 0, "dropping lines"
        )
        assert connection.ask().body == b"Hello!"
    server.stop()
    assert server.stats()["log_lines_dropped"] == 4
    messages = [r for r in caplog.records if "lines of the access log" in r.message]
    assert len(messages) == 1
    assert "No space left on device" in caplog.text


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """The path of a named pipe, and its reading end."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    with contextlib.suppress(OSError):
        yield path, reader
        os.close(reader)


def test_pipe_that_nobody_reads_holds_up_nobody(
    serve: Serve, pipe: tuple[Path, int]
) -> None:
    path, reader = pipe
    n = 400  # lines of 8 KiB: more than what may wait
    server = serve(hello, access_log=path)
    with Connection(server) as connection:
        for _ in range(n // 20):
            connection.send(get(LONG) * 20)
            for _ in range(20):
                assert connection.reply().body == b"Hello!"
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < helpers.TIMEOUT
    os.set_blocking(reader, False)
    data = b""
    with contextlib.suppress(BlockingIOError):
        while more := os.read(reader, 65536):
            data += more
    lost = server.stats()["log_lines_dropped"]
    assert data.count(b"\n") + lost == n
    assert lost > n / 2


def test_pipe_that_is_read_slowly_loses_nothing(
    serve: Serve, pipe: tuple[Path, int]
) -> None:
    path, reader = pipe
    seen = bytearray()

    def read() -> None:
        while more := os.read(reader, 16384):
            seen.extend(more)
            time.sleep(0.001)

    n = 100
    server = serve(hello, access_log=path)
    thread = threading.Thread(target=read)
    with Connection(server) as connection:
        connection.send(get(LONG) * n)
        for _ in range(n):
            connection.reply()
    helpers.wait_until(lambda: not server.stats()["open_connections"], "the close")
    thread.start()
    server.stop()
    thread.join()
    assert server.stats()["log_lines_dropped"] == 0
    assert bytes(seen).count(f"GET {LONG} HTTP/1.1".encode()) == n


def test_pipe_without_a_reader_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    server = fastbatch.Server(hello, port=0, access_log=path)
    with pytest.raises(OSError, match="No such device or address"):
        server.start()


def test_pipe_whose_reader_leaves_loses_lines_and_nothing_else(
    serve: Serve, pipe: tuple[Path, int]
) -> None:
    path, reader = pipe
    server = serve(hello, access_log=path)
    os.close(reader)
    with Connection(server) as connection:
        assert connection.ask().body == b"Hello!"
        helpers.wait_until(
            lambda: server.stats()["log_lines_dropped"] > 0, "dropping lines"
        )
        assert connection.ask().body == b"Hello!"


# ---- opening it anew --------------------------------------------------------------


def test_file_that_was_moved_is_opened_anew(serve: Serve, path: Path) -> None:
    server = serve(hello, access_log=path)
    helpers.get_url(server, "/old")
    wait_for_lines(path, 1)
    old = path.rename(path.with_suffix(".1"))
    server.reopen_access_log()
    helpers.get_url(server, "/new")
    server.stop()
    assert entries(old) == [("GET /old HTTP/1.1", 200, 6)]
    assert entries(path) == [("GET /new HTTP/1.1", 200, 6)]


def test_file_that_cannot_be_opened_anew_goes_on(serve: Serve, path: Path) -> None:
    server = serve(hello, access_log=path)
    old = path.rename(path.with_suffix(".1"))
    path.mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        server.reopen_access_log()
    helpers.get_url(server)
    server.stop()
    assert entries(old) == [(HELLO, 200, 6)]


def test_relative_path_is_found_again_elsewhere(
    serve: Serve, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    server = serve(hello, access_log=path.name)
    monkeypatch.chdir("/")
    path.unlink()
    server.reopen_access_log()
    helpers.get_url(server)
    server.stop()
    assert len(entries(path)) == 1


def test_opening_anew_needs_a_server_that_was_started(path: Path) -> None:
    server = fastbatch.Server(hello, access_log=path)
    with pytest.raises(RuntimeError, match="not started"):
        server.reopen_access_log()


@pytest.mark.parametrize("access_log", ["", "-", logging.getLogger("elsewhere")])
def test_opening_anew_what_is_no_file_does_nothing(
    serve: Serve, access_log: Any
) -> None:
    serve(hello, access_log=access_log).reopen_access_log()


def test_rotation_by_signal_loses_no_line(start: Start, path: Path) -> None:
    process = start("-c", PROGRAM, str(path))
    address = process.address()
    is_over = threading.Event()
    n_asked = 0

    def ask() -> None:
        nonlocal n_asked
        with Connection(address) as connection:
            while not is_over.is_set():
                connection.ask(f"/{n_asked}")
                n_asked += 1

    client = threading.Thread(target=ask)
    client.start()
    rotated = []
    try:
        for n in range(5):
            wait_for_lines(path, 1)
            rotated += [path.rename(path.with_suffix(f".{n}"))]
            process.signal(signal.SIGUSR1)
            helpers.wait_until(path.exists, "opening anew")
    finally:
        is_over.set()
        client.join()
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    found = [line for file in [*rotated, path] for line in entries(file)]
    assert [line[0] for line in found] == [f"GET /{n} HTTP/1.1" for n in range(n_asked)]


def test_signal_whose_file_cannot_be_opened_is_reported(
    start: Start, path: Path
) -> None:
    process = start("-c", PROGRAM, str(path))
    address = process.address()
    old = path.rename(path.with_suffix(".1"))
    path.mkdir()
    process.signal(signal.SIGUSR1)
    process.wait_for("the old file is still written to: .*Is a directory")
    with Connection(address) as connection:
        connection.ask("/a")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert entries(old) == [("GET /a HTTP/1.1", 200, 2)]


def test_previous_handler_of_the_signal_is_put_back(start: Start, path: Path) -> None:
    program = (
        "import signal, sys\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('mine'))\n"
        f"{PROGRAM}\n"
        "signal.raise_signal(signal.SIGUSR1)\n"
    )
    process = start("-c", program, str(path))
    process.address()
    process.signal(signal.SIGUSR1)
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert process.output == "mine\n"


def test_signal_is_left_alone_without_a_file(start: Start) -> None:
    program = (
        "import signal, sys\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('mine', flush=True))\n"
        f"{PROGRAM}\n"
    )
    process = start("-c", program, "")
    process.address()
    process.signal(signal.SIGUSR1)
    process.wait_for("mine")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0


# ---- elsewhere --------------------------------------------------------------------


def test_dash_is_standard_output(start: Start) -> None:
    process = start("-c", PROGRAM, "-")
    address = process.address()
    with Connection(address) as connection:
        connection.ask("/a")
        match = COMBINED.fullmatch(process.wait_for(r"(?m)^127.*$")[0])
        assert match is not None
        assert match["request"] == "GET /a HTTP/1.1"
        connection.ask("/b")
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    assert "GET /b HTTP/1.1" in process.output


def test_logger_is_given_the_lines(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("test.access")
    caplog.set_level(logging.INFO, logger="test.access")
    server = serve(hello, access_log=logger)
    with Connection(server) as connection:
        connection.send(b"".join(get(f"/{n}%d") for n in range(3)))
        for _ in range(3):
            connection.reply()
        helpers.wait_until(
            lambda: any(r.name == "test.access" for r in caplog.records), "logging"
        )
    server.stop()
    lines = [r.getMessage() for r in caplog.records if r.name == "test.access"]
    assert all(COMBINED.fullmatch(line) for line in lines)
    assert [line.split('"')[1].removesuffix(" HTTP/1.1") for line in lines] == [
        "GET /0%d",
        "GET /1%d",
        "GET /2%d",
    ]


class Failing(logging.Logger):
    """It raises for every second line."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__("failing")
        self.error = error
        self.lines: list[str] = []

    def info(self, msg: object, *_args: object, **_kwargs: Any) -> None:
        self.lines.append(str(msg))
        if len(self.lines) % 2 == 1:
            raise self.error("it failed")


def test_logger_that_fails_hurts_nobody(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    logger = Failing(ValueError)
    server = serve(hello, access_log=logger)
    with Connection(server) as connection:
        connection.send(get() * 4)
        for _ in range(4):
            assert connection.reply().body == b"Hello!"
        assert connection.ask().body == b"Hello!"
    server.stop()
    assert len(logger.lines) == 5
    assert "a line of the access log was lost" in caplog.text


def test_logger_that_wants_to_end_the_program_does(serve: Serve) -> None:
    server = serve(hello, access_log=Failing(KeyboardInterrupt))
    assert helpers.get_url(server).body == b"Hello!"
    with pytest.raises(KeyboardInterrupt):
        server.stop()


# ---- the options ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kept"),
    [("", ""), ("-", "-"), ("a/b", "a/b"), (Path("a/b"), "a/b"), (Path("-"), "./-")],
)
def test_access_log_may_be_a_path(value: Any, kept: str) -> None:
    assert fastbatch.Options(access_log=value).access_log == kept


@pytest.mark.parametrize("value", [None, b"path", 1, True, print])
def test_access_log_that_is_no_path_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^access_log=.* a logging\.Logger$"):
        fastbatch.Options(access_log=value)


def test_access_log_with_a_null_character_is_refused() -> None:
    with pytest.raises(ValueError, match="null character"):
        fastbatch.Options(access_log="a\0b")


def test_access_log_format_is_one_of_two() -> None:
    with pytest.raises(ValueError, match="'combined' or 'json'"):
        fastbatch.Options(access_log_format="common")
