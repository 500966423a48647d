"""Many requests on one connection without waiting for their replies."""

import functools
import random
import re
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import gates
import helpers
import pytest
from conftest import Serve
from helpers import Connection, get

import fastbatch
from fastbatch._core import LIMITS

ZERO_COPY = LIMITS["zero_copy_bytes"]


def echo(request: fastbatch.Request) -> bytes:
    return f"{request.path}:".encode() + request.body


def pieces(data: bytes, sizes: Iterator[int]) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = next(sizes)
        yield data[at : at + size]
        at += size


def bodies(data: bytes) -> list[bytes]:
    return [reply.body for reply in helpers.parse_replies(data)]


def mixed_requests(n: int) -> tuple[bytes, list[bytes]]:
    """Requests with and without bodies, and the bodies of their replies."""
    data, expected = b"", []
    for i in range(n):
        body = b"%d\r\n" % i * (i % 9)
        if i % 4 == 3:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            head = gates.request(f"/{i}", "Transfer-Encoding: chunked", method="POST")
            data += head + chunk + b"0\r\n\r\n"
        else:
            data += gates.request(f"/{i}", method="POST", body=body)
        expected.append(b"/%d:" % i + body)
    return data, expected


# ---- any number, in any split -------------------------------------------------------


def test_10_000_requests_in_one_write_are_answered_in_order(serve: Serve) -> None:
    n = 10_000
    server = serve(echo)
    data = b"".join(get(f"/{i}") for i in range(n - 1))
    data += get(f"/{n - 1}", "Connection: close")
    received = helpers.talk(server, data)
    assert re.findall(rb"\r\n\r\n/(\d+):", received) == [b"%d" % i for i in range(n)]
    assert server.stats()["requests"] == n


SPLITS = {
    "one byte": lambda: iter(lambda: 1, 0),
    "two bytes": lambda: iter(lambda: 2, 0),
    "37 bytes": lambda: iter(lambda: 37, 0),
    "4096 bytes": lambda: iter(lambda: 4096, 0),
    "any": lambda: iter(functools.partial(random.Random(7).randint, 1, 90), 0),
}


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
def test_requests_in_any_split_are_answered_in_order(
    serve: Serve, split: Callable[[], Iterator[int]]
) -> None:
    data, expected = mixed_requests(60)
    sent = pieces(data, split())
    assert bodies(helpers.talk(serve(echo), sent, replies=60)) == expected


def test_large_bodies_can_be_pipelined(serve: Serve) -> None:
    sizes = [0, 10, 100_000, 1, 3_000_000, 65_536, 5] * 3
    data, expected = b"", []
    for i, size in enumerate(sizes):
        data += gates.request(f"/{i}", method="POST", body=b"%d" % i * size)
        expected.append(b"/%d:" % i + b"%d" % i * size)
    server = serve(echo)
    assert bodies(helpers.talk(server, data, replies=len(sizes))) == expected


def test_order_does_not_depend_on_how_long_a_handler_takes(serve: Serve) -> None:
    def handler(request: fastbatch.Request) -> str:
        i = int(request.path[1:])
        threading.Event().wait((50 - i) / 20_000)
        return request.path

    data = b"".join(get(f"/{i}") for i in range(50))
    found = bodies(helpers.talk(serve(handler), data, replies=50))
    assert found == [b"/%d" % i for i in range(50)]


@pytest.mark.parametrize("size", [100, ZERO_COPY], ids=["small", "large"])
@pytest.mark.parametrize("batch_size", [1, 256])
def test_slow_reader_gets_all_replies_in_order(
    serve: Serve, batch_size: int, size: int
) -> None:
    n = 200 if size == ZERO_COPY else 5000
    server = serve(lambda r: r.path[1:].rjust(size, "."), batch_size=batch_size)
    client = socket.socket()
    client.settimeout(helpers.TIMEOUT)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(server.address)
    data = b"".join(get(f"/{i}") for i in range(n - 1))
    data += get(f"/{n - 1}", "Connection: close")
    sender = threading.Thread(target=client.sendall, args=(data,))
    with client:
        sender.start()
        received = bytearray()
        while piece := client.recv(5000):
            received += piece
        sender.join()
    found = bodies(bytes(received))
    assert [int(body.strip(b".")) for body in found] == [*range(n)]
    assert {len(body) for body in found} == {size}


# ---- where it ends ------------------------------------------------------------------


def test_nothing_is_answered_behind_a_bad_request(serve: Serve) -> None:
    seen: list[str] = []
    server = serve(lambda request: seen.append(request.path))
    data = get("/1") + get("/2") + b"GET / HTTP/1.1\r\nHost : x\r\n\r\n" + get("/never")
    with Connection(server) as connection:
        connection.send(data)
        connection.send(get("/never"))
        assert [connection.reply().status for _ in range(3)] == [204, 204, 400]
        assert connection.is_closed()
    assert seen == ["/1", "/2"]


@pytest.mark.parametrize("n_before", [0, 3, 255, 256, 257, 600])
def test_nothing_is_answered_behind_connection_close(
    serve: Serve, n_before: int
) -> None:
    seen: list[str] = []

    def handler(request: fastbatch.Request) -> str:
        seen.append(request.path)
        return "x"

    data = get("/before") * n_before + get("/last", "Connection: close")
    replies = helpers.parse_replies(helpers.talk(serve(handler), data + get("/never")))
    assert len(replies) == n_before + 1
    assert [reply.headers["Connection"] for reply in replies] == (
        [None] * n_before + ["close"]
    )
    assert seen == ["/before"] * n_before + ["/last"]


def test_nothing_is_sent_behind_a_reply_that_says_close(serve: Serve) -> None:
    def handler(request: fastbatch.Request) -> object:
        if request.path == "/last":
            return 200, {"Connection": "close"}, "last"
        return request.path

    data = get("/1") + get("/2") + get("/last") + get("/never") * 300
    found = bodies(helpers.talk(serve(handler), data))
    assert found == [b"/1", b"/2", b"last"]


REPLIES: dict[str, Callable[[], Any]] = {
    "small": lambda: b"x",
    "large": lambda: b"x" * ZERO_COPY,
    "stream": lambda: (200, iter([b"x", b"y"])),
}


@pytest.mark.parametrize("kind", REPLIES)
@pytest.mark.parametrize("batch_size", [1, 256])
@pytest.mark.parametrize("n", [1, 5, 300])
def test_client_that_closes_its_sending_half_gets_all_replies(
    serve: Serve, n: int, batch_size: int, kind: str
) -> None:
    gate = gates.Gate(lambda _request: REPLIES[kind]())
    server = serve(gate, batch_size=batch_size)
    with gates.connect(server, 1) as (connection,):
        with gate.held(server):
            connection.send(get() * n)
            connection.end()
        replies = helpers.parse_replies(connection.rest())
    assert len(replies) == n
    assert len({reply.body for reply in replies}) == 1


def test_request_that_is_cut_off_is_not_handled(serve: Serve) -> None:
    seen: list[str] = []
    server = serve(lambda request: seen.append(request.path))
    data = get("/whole") + gates.request("/cut", method="POST", body=b"body")
    with Connection(server) as connection:
        connection.send(data[:-1])
        connection.end()
        (reply,) = helpers.parse_replies(connection.rest())
    assert reply.status == 204
    assert seen == ["/whole"]
