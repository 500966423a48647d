"""Which requests are handed over together, and what a dispatcher may do with them."""

import re
import threading
from collections.abc import Callable, Sequence
from typing import Any

import gates
import helpers
import pytest
from conftest import Serve
from helpers import Connection, get

import fastbatch
from fastbatch._core import LIMITS

SLOTS = LIMITS["batch_slots"]

Dispatcher = Callable[[fastbatch.Batch], object]


@pytest.fixture
def dispatch(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A function that starts a server with a dispatcher of the test's own."""

    def start(dispatcher: Dispatcher, **options: Any) -> fastbatch.Server:
        with monkeypatch.context() as patch:
            patch.setattr(
                "fastbatch._plan.dispatcher_for", lambda *_: lambda _: dispatcher
            )
            return serve(lambda _request: None, **options)

    return start


Dispatch = Callable[..., fastbatch.Server]


def paths(replies: Sequence[helpers.Reply]) -> list[str]:
    return [reply.body.decode() for reply in replies]


def echo(request: fastbatch.Request) -> str:
    return request.path


def split(n: int, size: int) -> list[int]:
    """The sizes of the batches that ``n`` ready requests make."""
    return [size] * (n // size) + [n % size] * (n % size > 0)


# ---- what is ready together ---------------------------------------------------------


def test_requests_that_are_ready_together_are_one_batch(serve: Serve) -> None:
    gate = gates.Gate(echo)
    server = serve(gate)
    with gates.connect(server, 50) as connections:
        with gate.held(server):
            for i, connection in enumerate(connections):
                connection.send(get(f"/{i}"))
        for i, connection in enumerate(connections):
            assert connection.reply().body == f"/{i}".encode()
    assert gates.batch_sizes(server) == {1: 1, 50: 1}


def test_dispatcher_is_called_once_for_a_batch(dispatch: Dispatch) -> None:
    calls: list[list[str]] = []
    gate = gates.Gate(echo)

    def dispatcher(batch: fastbatch.Batch) -> None:
        calls.append([request.path for request in batch])
        for i, request in enumerate(batch):
            batch.reply(i, gate(request))

    server = dispatch(dispatcher)
    with gates.connect(server, 3) as connections:
        with gate.held(server):
            for connection in connections:
                connection.send(get("/a") + get("/b"))
        for connection in connections:
            assert paths([connection.reply(), connection.reply()]) == ["/a", "/b"]
    assert calls == [["/gate"], ["/a", "/b"] * 3]


def test_request_that_is_alone_does_not_wait_for_others(serve: Serve) -> None:
    server = serve(echo)
    with Connection(server) as connection:
        for i in range(20):
            assert connection.ask(f"/{i}").body == f"/{i}".encode()
    assert gates.batch_sizes(server) == {1: 20}


def test_request_that_is_not_complete_is_in_no_batch(serve: Serve) -> None:
    gate = gates.Gate(echo)
    server = serve(gate)
    data = gates.request("/slow", method="POST", body=b"body")
    with gates.connect(server, 2) as (slow, quick):
        with gate.held(server):
            slow.send(data[:-1])
            quick.send(get("/quick"))
        assert quick.reply().body == b"/quick"
        slow.send(data[-1:])
        assert slow.reply().body == b"/slow"
    assert gates.batch_sizes(server) == {1: 3}


# ---- the cap ------------------------------------------------------------------------


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("size", [1, 2, 255, 256])
def test_no_batch_is_larger_than_batch_size(serve: Serve, size: int, off: int) -> None:
    n = size + off
    if n == 0:
        pytest.skip("no request, no batch")
    seen: list[str] = []

    def handler(request: fastbatch.Request) -> str:
        seen.append(request.path)
        return request.path

    server = serve(handler, batch_size=size)
    expected = [f"/{i}" for i in range(n)]
    data = b"".join(map(get, expected))
    replies = helpers.parse_replies(helpers.talk(server, data, replies=n))
    assert paths(replies) == seen == expected
    assert server.stats()["batch_sizes"][size + 1 :] == [0] * (SLOTS - size)


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("size", [2, 8, 255, 256])
def test_ready_requests_fill_batches_up_to_the_cap(
    serve: Serve, size: int, off: int
) -> None:
    n = size + off
    gate = gates.Gate(echo)
    server = serve(gate, batch_size=size)
    with gates.connect(server, n) as connections:
        with gate.held(server):
            for i, connection in enumerate(connections):
                connection.send(get(f"/{i}"))
        for i, connection in enumerate(connections):
            assert connection.reply().body == f"/{i}".encode()
    expected = sorted([1, *split(n, size)])
    sizes = gates.batch_sizes(server)
    assert sorted(size for size, n in sizes.items() for _ in range(n)) == expected


def test_more_than_a_batch_from_one_connection_goes_on_at_once(serve: Serve) -> None:
    gate = gates.Gate(echo)
    server = serve(gate)
    expected = [f"/{i}" for i in range(1000)]
    with gates.connect(server, 1) as (connection,):
        with gate.held(server):
            connection.send(b"".join(map(get, expected)))
        assert paths([connection.reply() for _ in expected]) == expected
    assert gates.batch_sizes(server) == {1: 1, 256: 3, 1000 - 3 * 256: 1}


def test_full_batch_mixes_connections_and_keeps_the_order_of_each(
    serve: Serve,
) -> None:
    gate = gates.Gate(echo)
    server = serve(gate, batch_size=7)
    with gates.connect(server, 9) as connections:
        with gate.held(server):
            for c, connection in enumerate(connections):
                connection.send(b"".join(get(f"/{c}/{i}") for i in range(11)))
        for c, connection in enumerate(connections):
            replies = [connection.reply() for _ in range(11)]
            assert paths(replies) == [f"/{c}/{i}" for i in range(11)]
    assert gates.batch_sizes(server) == {1: 2, 7: 14}


# ---- counters -----------------------------------------------------------------------


def test_stats_count_what_happened(serve: Serve) -> None:
    server = serve(echo)
    zero = server.stats()
    assert zero.pop("batch_sizes") == [0] * (SLOTS + 1)
    zero.pop("allocations")
    zero.pop("workers")
    assert not any(zero.pop("queue_times"))
    [queue] = zero.pop("queues")
    assert queue["requests"] == queue["batches"] == 0
    assert zero.pop("replies") == {}
    assert set(zero.values()) == {0}
    data = b"".join(get(f"/{i}") for i in range(10))
    with Connection(server) as first, Connection(server) as second:
        received = 0
        for connection in (first, second):
            connection.send(data)
            for _ in range(10):
                connection.reply()
            received += len(connection.received)
        assert server.stats()["open_connections"] == 2
    gates.wait_until_gone(server)
    stats = server.stats()
    assert stats["requests"] == 20
    assert stats["connections"] == 2
    assert stats["batches"] == sum(stats["batch_sizes"])
    assert sum(n * count for n, count in enumerate(stats["batch_sizes"])) == 20
    assert stats["bytes_received"] == 2 * len(data)
    assert stats["bytes_sent"] == received
    server.stop()
    assert server.stats()["requests"] == 20


def test_each_counter_is_documented(serve: Serve) -> None:
    documented = re.findall(r"``(\w+)``", fastbatch.Server.stats.__doc__ or "")
    stats = serve(echo).stats()
    assert set(documented) == set(stats) | set(stats["queues"][0])


# ---- replies that leave early -------------------------------------------------------


@pytest.mark.parametrize("is_slow", [True, False], ids=["slow first", "quick first"])
@pytest.mark.parametrize("same", [True, False], ids=["one client", "two clients"])
def test_reply_leaves_before_a_later_handler_of_the_batch_ends(
    serve: Serve, *, same: bool, is_slow: bool
) -> None:
    has_reply = threading.Event()
    in_time: list[bool] = []

    def handler(request: fastbatch.Request) -> str:
        if request.path == "/first" and is_slow:
            has_reply.wait(0.01)  # longer than the millisecond that a batch may take
        if request.path == "/second":
            in_time.append(has_reply.wait(helpers.TIMEOUT))
        return request.path

    gate = gates.Gate(handler)
    server = serve(gate)
    with gates.connect(server, 2) as (first, second):
        second = first if same else second
        with gate.held(server):
            first.send(get("/first"))
            second.send(get("/second"))
        assert first.reply().body == b"/first"
        has_reply.set()
        assert second.reply().body == b"/second"
    assert gates.batch_sizes(server) == {1: 1, 2: 1}
    assert in_time == [True]


def test_replies_that_left_early_are_followed_by_the_others_in_order(
    serve: Serve,
) -> None:
    def handler(request: fastbatch.Request) -> Any:
        i = int(request.path[1:])
        if i % 10 == 0:
            threading.Event().wait(0.002)
        if i % 7 == 0:
            return 200, (b"%d." % i for _ in range(30))
        return b"%d." % i * (30 if i % 3 else 30_000)

    n = 60
    data = b"".join(get(f"/{i}") for i in range(n))
    server = serve(handler)
    replies = helpers.parse_replies(helpers.talk(server, data, replies=n))
    assert [int(reply.body.partition(b".")[0]) for reply in replies] == [*range(n)]


# ---- the batch itself ---------------------------------------------------------------


def send_together(server: fastbatch.Server, *paths: str) -> list[helpers.Reply]:
    """One request of each path, on one connection and in one write."""
    data = b"".join(map(get, paths))
    return helpers.parse_replies(helpers.talk(server, data, replies=len(paths)))


def test_batch_is_a_sequence_of_its_requests(dispatch: Dispatch) -> None:
    seen: list[bool] = []

    def dispatcher(batch: fastbatch.Batch) -> None:
        found = list(batch)
        seen.append(
            isinstance(batch, Sequence)
            and len(batch) == len(found) == 5
            and [request.path for request in found] == list("/a /b /c /d /e".split())
            and all(isinstance(request, fastbatch.Request) for request in found)
            and all(batch[i] is batch[i - 5] is found[i] for i in range(5))
            and list(batch[1:4]) == found[1:4]
            and list(batch[::-2]) == found[::-2]
            and list(batch[9:]) == []
            and list(reversed(batch)) == found[::-1]
            and found[2] in batch
            and None not in batch
        )
        for i in (5, -6, 2**70):
            with pytest.raises(IndexError):
                batch[i]
        with pytest.raises(TypeError):
            batch["0"]  # type: ignore[call-overload]
        for i in range(5):
            batch.reply(i, "x")

    send_together(dispatch(dispatcher), "/a", "/b", "/c", "/d", "/e")
    assert seen == [True]


def test_batch_has_the_other_methods_of_a_sequence(dispatch: Dispatch) -> None:
    seen: list[Any] = []

    def dispatcher(batch: fastbatch.Batch) -> None:
        seen.append((batch.index(batch[1]), batch.count(batch[1])))

    send_together(dispatch(dispatcher), "/a", "/b")
    assert seen == [(1, 1)]


def test_kept_batch_is_empty_after_its_dispatch(dispatch: Dispatch) -> None:
    kept: list[fastbatch.Batch] = []

    def dispatcher(batch: fastbatch.Batch) -> None:
        kept.append(batch)
        batch.reply(0, "x")

    server = dispatch(dispatcher)
    with Connection(server) as connection:
        for _ in range(3):
            connection.ask()
    assert len(set(map(id, kept))) == 3
    for batch in kept:
        assert len(batch) == 0
        assert list(batch) == list(batch[:]) == []
        with pytest.raises(IndexError):
            batch[0]
        with pytest.raises(RuntimeError, match="over"):
            batch.reply(0, "late")


def test_slots_of_different_clients_can_be_answered_in_any_order(
    dispatch: Dispatch,
) -> None:
    gate = gates.Gate(echo)

    def dispatcher(batch: fastbatch.Batch) -> None:
        for i in reversed(range(len(batch))):
            batch.reply(i, gate(batch[i]))

    server = dispatch(dispatcher)
    with gates.connect(server, 5) as connections:
        with gate.held(server):
            for i, connection in enumerate(connections):
                connection.send(get(f"/{i}"))
        for i, connection in enumerate(connections):
            assert connection.reply().body == f"/{i}".encode()
    assert gates.batch_sizes(server) == {1: 1, 5: 1}


def test_what_cannot_be_answered_is_refused(dispatch: Dispatch) -> None:
    seen: list[str] = []

    def dispatcher(batch: fastbatch.Batch) -> None:
        with pytest.raises(fastbatch.ReplyError, match="42 is no reply"):
            batch.reply(0, 42)
        batch.reply(0, "first")
        with pytest.raises(RuntimeError, match="slot 0 is answered already"):
            batch.reply(0, "again")
        for i in (2, -1, 2**70):
            with pytest.raises(IndexError):
                batch.reply(i, "nobody's")
        with pytest.raises(TypeError):
            batch.reply(1)  # type: ignore[call-arg]
        batch.reply(1, "second")
        seen.append("all")

    replies = send_together(dispatch(dispatcher), "/", "/")
    assert seen == ["all"]
    assert paths(replies) == ["first", "second"]


def test_slots_that_the_dispatcher_leaves_out_are_500s(dispatch: Dispatch) -> None:
    server = dispatch(lambda batch: batch.reply(0, "only the first"))
    with Connection(server) as connection:
        connection.send(get() * 3)
        statuses = [connection.reply().status for _ in range(3)]
        assert statuses == [200, 500, 500]
        assert connection.ask().status == 200


def test_dispatcher_that_fails_is_logged_and_the_rest_are_500s(
    dispatch: Dispatch, caplog: pytest.LogCaptureFixture
) -> None:
    def dispatcher(batch: fastbatch.Batch) -> None:
        batch.reply(0, "before")
        if len(batch) > 1:
            raise ZeroDivisionError("in the dispatcher")

    with Connection(dispatch(dispatcher)) as connection:
        connection.send(get() * 3)
        statuses = [connection.reply().status for _ in range(3)]
        assert statuses == [200, 500, 500]
        assert connection.ask().status == 200
    record = gates.wait_for_error(caplog)
    assert record.getMessage() == "the dispatcher failed"
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError
