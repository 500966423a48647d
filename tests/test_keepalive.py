"""When a connection goes on after a reply, and when it ends."""

import gates
import helpers
import pytest
from conftest import Serve
from helpers import Connection, get

import fastbatch


def hello(_request: fastbatch.Request) -> str:
    return "hello"


def raw_get(version: str, connection: str | None) -> bytes:
    return get(
        "/", *([f"Connection: {connection}"] if connection else []), version=version
    )


@pytest.mark.parametrize(
    ("version", "asked", "said"),
    [
        ("1.1", None, None),
        ("1.1", "keep-alive", None),
        ("1.1", "Keep-Alive, TE", None),
        ("1.0", "keep-alive", "keep-alive"),
        ("1.0", "Keep-Alive", "keep-alive"),
    ],
)
def test_connection_goes_on(
    serve: Serve, version: str, asked: str | None, said: str | None
) -> None:
    with Connection(serve(hello)) as connection:
        for _ in range(3):
            connection.send(raw_get(version, asked))
            reply = connection.reply()
            assert (reply.status, reply.body) == (200, b"hello")
            assert reply.headers.get_all("Connection") == ([said] if said else None)


@pytest.mark.parametrize(
    ("version", "asked"),
    [
        ("1.1", "close"),
        ("1.1", "Close"),
        ("1.1", "x, close"),
        ("1.1", "close, keep-alive"),
        ("1.0", None),
        ("1.0", "close"),
        ("1.0", "close, keep-alive"),
    ],
)
def test_connection_ends(serve: Serve, version: str, asked: str | None) -> None:
    with Connection(serve(hello)) as connection:
        connection.send(raw_get(version, asked))
        reply = connection.reply()
        assert (reply.status, reply.body) == (200, b"hello")
        assert reply.headers.get_all("Connection") == ["close"]
        assert connection.is_closed()


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("reply", ["text", b"bytes", None, (404, ""), (304, "x"), 5])
def test_connection_goes_on_after_any_reply(
    serve: Serve, version: str, method: str, reply: object
) -> None:
    with Connection(serve(lambda _request: reply)) as connection:
        body = b"body" if method == "POST" else b""
        data = gates.request("/", "Connection: keep-alive", method=method, body=body)
        data = data.replace(b"HTTP/1.1", f"HTTP/{version}".encode())
        statuses = set()
        for _ in range(3):
            connection.send(data)
            statuses.add(connection.reply(method).status)
    assert len(statuses) == 1


def test_10_000_requests_on_one_connection(serve: Serve) -> None:
    server = serve(hello)
    with Connection(server) as connection:
        size = len(connection.ask().body) + len(connection.received) - len(b"hello")
        client = connection.socket
        for _ in range(9_999):
            client.sendall(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            left = size
            while left > 0:
                piece = client.recv(left)
                assert piece
                left -= len(piece)
        assert piece.endswith(b"hello")
    stats = server.stats()
    assert (stats["requests"], stats["connections"]) == (10_000, 1)


def test_connection_that_is_closed_between_two_requests_is_forgotten(
    serve: Serve,
) -> None:
    server = serve(hello)
    for _ in range(20):
        with Connection(server) as connection:
            assert connection.ask().body == b"hello"
    gates.wait_until_gone(server)
    assert server.stats()["connections"] == 20


def test_idle_connections_end_when_the_server_stops(serve: Serve) -> None:
    server = serve(hello)
    with gates.connect(server, 2) as (fresh, used):
        used.ask()
        server.stop()
        assert fresh.is_closed()
        assert used.is_closed()


def test_reply_of_a_server_that_stops_says_close(serve: Serve) -> None:
    gate = gates.Gate(hello)
    server = serve(gate)
    with gates.connect(server, 1) as (connection,):
        with gate.held(server):
            connection.send(get())
            server._running().stop()
        reply = connection.reply()
        assert (reply.body, reply.headers["Connection"]) == (b"hello", "close")
        assert connection.is_closed()


def test_pipelined_requests_that_have_arrived_are_answered_when_the_server_stops(
    serve: Serve,
) -> None:
    gate = gates.Gate(hello)
    server = serve(gate)
    with gates.connect(server, 1) as (connection,):
        with gate.held(server):
            connection.send(get() * 100)
            server._running().stop()
        replies = helpers.parse_replies(connection.rest())
    assert [reply.body for reply in replies] == [b"hello"] * 100
    assert replies[-1].headers["Connection"] == "close"
