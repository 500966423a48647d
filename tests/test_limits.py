"""Every limit at one below, at and beyond; what full memory and full queues do.

Limits of the head and the body are walked in C as well, at every split of the input
(tests/c/test_http.c); time-outs are in test_timeouts.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import gates
import helpers
import pytest
from conftest import Serve
from helpers import Connection, get

import fastbatch

LONG_HEAD = get("/", "X: " + "x" * 20_000)


def echo(request: fastbatch.Request) -> bytes:
    return request.body


def head_of(n: int) -> bytes:
    """A request whose head has ``n`` bytes."""
    return get("/", "X: " + "x" * (n - len(get("/", "X: "))))


def chunked(n: int) -> bytes:
    """A request with ``n`` bytes of body in chunks of at most 7."""
    sizes = [7] * (n // 7) + [n % 7] * (n % 7 > 0)
    chunks = b"".join(b"%x\r\n%s\r\n" % (size, size * b"x") for size in sizes)
    head = get("/", "Transfer-Encoding: chunked")
    return head + chunks + b"0\r\n\r\n"


def spread(n: int) -> bytes:
    """As many fields as that; Host is one."""
    return get("/", *(f"X-{i}: {i}" for i in range(n - 1)))


# What makes a request of n, and what is answered when that is one too many.
LIMITS: dict[str, tuple[str, Callable[[int], bytes], int]] = {
    "target": ("max_target", lambda n: get("/" + "a" * (n - 1)), 414),
    "head": ("max_head", head_of, 431),
    "fields": ("max_headers", spread, 431),
    "body": ("max_body", lambda n: gates.request(body=n * b"x"), 413),
    "chunked body": ("max_body", chunked, 413),
}


@pytest.mark.parametrize("n", [100, 199])
@pytest.mark.parametrize("kind", LIMITS)
def test_request_is_refused_just_beyond_its_limit(
    serve: Serve, kind: str, n: int
) -> None:
    option, request, status = LIMITS[kind]
    server = serve(echo, **{option: n})
    for length, wanted in ((n - 1, 200), (n, 200), (n + 1, status)):
        with Connection(server) as connection:
            connection.send(request(length))
            assert connection.reply().status == wanted
            if wanted != 200:
                assert connection.is_closed()


@pytest.mark.parametrize("kind", LIMITS)
def test_defaults_are_limits(serve: Serve, kind: str) -> None:
    option, request, status = LIMITS[kind]
    n = getattr(fastbatch.Options(), option)
    server = serve(lambda request: str(len(request.body)))
    for length, wanted in ((n, 200), (n + 1, status)):
        assert helpers.talk(server, request(length), replies=1).startswith(
            b"HTTP/1.1 %d " % wanted
        )


# ---- requests of a connection -------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5])
def test_last_request_of_a_connection_is_told_so(serve: Serve, n: int) -> None:
    server = serve(echo, max_keepalive_requests=n)
    with Connection(server) as connection:
        for i in range(1, n + 1):
            last = connection.ask()
            assert last.headers["Connection"] == ("close" if i == n else None)
        assert connection.is_closed()
    assert helpers.get_url(server).status == 200


def test_requests_pipelined_beyond_the_last_are_left_unanswered(serve: Serve) -> None:
    asked = []
    server = serve(lambda request: asked.append(request.path), max_keepalive_requests=3)
    received = helpers.talk(server, b"".join(get(f"/{i}") for i in range(300)))
    assert len(helpers.parse_replies(received)) == 3
    assert asked == ["/0", "/1", "/2"]


def test_limit_of_requests_is_each_connections_own(serve: Serve) -> None:
    server = serve(echo, max_keepalive_requests=2)
    for _ in range(3):  # connections are recycled; their counts are not
        with gates.connect(server, 2) as (one, other):
            assert one.ask().headers["Connection"] is None
            assert other.ask().headers["Connection"] is None
            assert one.ask().headers["Connection"] == "close"
            assert other.ask().headers["Connection"] == "close"
        gates.wait_until_gone(server)


# ---- memory -------------------------------------------------------------------------


@pytest.mark.parametrize(("memory", "status"), [(8191, 503), (8192, 200), (8193, 200)])
def test_head_that_does_not_fit_into_memory_waits_and_is_answered_503(
    serve: Serve, memory: int, status: int
) -> None:
    """A reading buffer has 4096 bytes, and twice as many when these are used up."""
    server = serve(echo, max_input_memory=memory, queue_timeout=0.3)
    head = head_of(7000)
    with Connection(server) as connection:
        connection.send(head[:5000])
        began = time.monotonic()
        if status == 503:
            reply = connection.reply()
            assert time.monotonic() - began >= 0.2
            assert reply.headers["Retry-After"] == "5"
            assert connection.is_closed()
        else:
            connection.send(head[5000:])
            reply = connection.reply()
    assert reply.status == status
    assert server.stats()["overloaded"] == (status == 503)
    assert helpers.get_url(server).status == 200


def test_head_does_not_wait_for_memory_for_ever_when_queues_have_no_time_out(
    serve: Serve,
) -> None:
    """It is not read meanwhile: that its client has left would never be seen."""
    server = serve(echo, max_input_memory=0, queue_timeout=0, head_timeout=0.2)
    with Connection(server) as stays, Connection(server) as leaves:
        for connection in (stays, leaves):
            connection.send(LONG_HEAD)
        gates.wait_until_read(server, 2 * 4096)
        leaves.close()
        assert stays.reply().status == 503
    gates.wait_until_gone(server)
    assert server.stats()["overloaded"] == 2


def test_head_that_waits_for_memory_goes_on_when_there_is_some(serve: Serve) -> None:
    """Those that wait go on in the order in which they came."""
    server = serve(echo, max_input_memory=50_000)
    with gates.connect(server, 4) as connections:
        for connection in connections:  # the first has 32 KiB, and there is no more
            connection.send(LONG_HEAD[:-1])
        # Only who waits already has a place in the queue.
        gates.wait_until_read(server, len(LONG_HEAD) - 1 + 16384 + 2 * 4096)
        for connection in connections:
            connection.send(LONG_HEAD[-1:])
            assert connection.reply().status == 200
    assert server.stats()["overloaded"] == 0


def test_buffers_kept_for_reuse_count_when_memory_is_short(serve: Serve) -> None:
    """Who begins with a large one would be served before those that wait."""
    server = serve(echo, max_input_memory=50_000, queue_timeout=0.3)
    with gates.connect(server, 3) as (first, poster, late):
        first.send(LONG_HEAD[:10])
        gates.wait_until_read(server, 10)
        poster.send(gates.request(method="POST", body=bytes(30_000)))
        assert len(poster.reply().body) == 30_000
        before = server.stats()["bytes_received"]
        first.send(LONG_HEAD[10:-1])
        gates.wait_until_read(server, before + len(LONG_HEAD) - 11)
        late.send(LONG_HEAD)
        assert late.reply().status == 503
        first.send(LONG_HEAD[-1:])
        assert first.reply().status == 200


def test_small_requests_are_served_while_memory_is_full(serve: Serve) -> None:
    server = serve(echo, max_input_memory=0, queue_timeout=30)
    with gates.connect(server, 2) as (waiting, other):
        waiting.send(LONG_HEAD)
        for _ in range(10):
            assert other.ask().status == 200
        assert helpers.get_url(server).status == 200
        assert gates.is_at_rest()


@pytest.mark.parametrize("kind", ["length", "chunked"])
def test_bodies_go_to_files_when_memory_is_full(serve: Serve, kind: str) -> None:
    body = bytes(range(256)) * 200
    if kind == "length":
        data = gates.request(method="POST", body=body)
    else:
        head = gates.request("/", "Transfer-Encoding: chunked", method="POST")
        data = head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    server = serve(echo, max_input_memory=0)
    for pieces in ([data], [data[i : i + 999] for i in range(0, len(data), 999)]):
        (reply,) = helpers.parse_replies(helpers.talk(server, pieces, replies=1))
        assert reply.body == body
    assert server.stats()["spooled"] == 2
    assert server.stats()["overloaded"] == 0


def test_memory_that_is_not_full_keeps_bodies_out_of_files(serve: Serve) -> None:
    server = serve(echo, max_input_memory=200_000)
    for _ in range(20):  # 20 times as much, but not at once
        data = gates.request(method="POST", body=bytes(50_000))
        assert len(helpers.talk(server, data, replies=1)) > 50_000
    assert server.stats()["spooled"] == 0


def test_bodies_that_stand_still_make_room_for_heads(serve: Serve) -> None:
    """Many connections hold half a body each; a long head is served all the same."""
    server = serve(echo, max_input_memory=300_000, queue_timeout=30)
    body = bytes(50_000)
    post = gates.request(method="POST", body=body)
    with gates.connect(server, 30) as connections:
        for connection in connections:
            connection.send(post[:-10_000])
        gates.wait_until_read(server, 30 * (len(post) - 10_000))
        assert helpers.talk(server, LONG_HEAD, replies=1).startswith(b"HTTP/1.1 200 ")
        for connection in connections:
            connection.send(post[-10_000:])
            assert connection.reply().body == body
    assert 0 < server.stats()["spooled"] <= 30


# ---- queues -------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0.0, 0.2, 30.0])
def test_request_that_waits_too_long_for_its_slot_is_answered_503(
    serve: Serve, timeout: float
) -> None:
    """Each takes 50 ms, and they are called one after the other."""

    def slow(_request: fastbatch.Request) -> str:
        time.sleep(0.05)
        return "done"

    gate = gates.Gate(slow)
    server = serve(gate, batch_size=1, queue_timeout=timeout)
    with gates.connect(server, 16) as connections:
        with gate.held(server):
            for connection in connections:
                connection.send(get())
        replies = [connection.reply() for connection in connections]
    n_refused = sum(reply.status == 503 for reply in replies)
    assert server.stats()["overloaded"] == n_refused
    if timeout == 0.2:
        assert 0 < n_refused < 16  # the first one at least has not waited
        refused = [reply for reply in replies if reply.status == 503]
        assert {reply.headers["Retry-After"] for reply in refused} == {"5"}
        assert {reply.headers["Connection"] for reply in refused} == {"close"}
    else:
        assert n_refused == 0
    assert helpers.get_url(server).body == b"done"


def test_what_waits_behind_its_own_pipeline_is_not_refused(serve: Serve) -> None:
    def slow(_request: fastbatch.Request) -> None:
        time.sleep(0.02)

    server = serve(slow, batch_size=1, queue_timeout=0.5)
    replies = helpers.parse_replies(helpers.talk(server, get() * 50, replies=50))
    assert [reply.status for reply in replies] == [204] * 50


def test_time_that_an_upload_takes_is_not_time_in_the_queue(serve: Serve) -> None:
    server = serve(echo, queue_timeout=0.1)
    data = gates.request(method="POST", body=b"0123456789")
    with Connection(server) as connection:
        for i in range(0, len(data), 10):
            connection.send(data[i : i + 10])
            threading.Event().wait(0.03)
        assert connection.reply().body == b"0123456789"


def test_503_is_no_reply_to_requests_that_were_answered_before(serve: Serve) -> None:
    """A pipeline whose first requests were in time keeps their replies."""

    def slow(request: fastbatch.Request) -> Any:
        time.sleep(0.05)
        return request.path

    gate = gates.Gate(slow)
    server = serve(gate, batch_size=2, queue_timeout=0.2)
    with gates.connect(server, 12) as connections:
        with gate.held(server):
            for connection in connections:
                connection.send(get("/first") + get("/second"))
        for connection in connections:
            received = connection.reply()
            if received.status == 503:
                assert connection.is_closed()
            else:
                assert received.body == b"/first"
                assert connection.reply().status in (200, 503)
