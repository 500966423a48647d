"""What a server counts, and that it counts it once."""

import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from conftest import Serve
from helpers import Connection, get, wait_until

import fastbatch
from fastbatch import _core

HELLO = b"Hello!"


def answer(request: fastbatch.Request) -> Any:
    if request.path == "/missing":
        raise fastbatch.HTTPError(404, "no such thing")
    if request.path == "/broken":
        return object()
    if request.path == "/stream":
        return 201, iter([b"a", b"b"])
    return HELLO


def test_replies_are_counted_by_their_status(serve: Serve) -> None:
    server = serve(answer)
    with Connection(server) as client:
        for path in ["/", "/", "/missing", "/broken", "/stream"]:
            client.ask(path)
        client.send(b"GET / HTTP/1.1\r\n\r\n")  # without a Host
        assert client.reply().status == 400
    server.stop()
    stats = server.stats()
    assert stats["replies"] == {200: 2, 201: 1, 400: 1, 404: 1, 500: 1}
    assert stats["requests"] == 5
    assert stats["rejected"] == 1


def test_reply_to_a_client_that_left_is_counted(serve: Serve) -> None:
    is_called, may_go_on = threading.Event(), threading.Event()

    def slow(_request: fastbatch.Request) -> bytes:
        is_called.set()
        may_go_on.wait()
        return HELLO

    server = serve(slow)
    with Connection(server) as client:
        client.send(get())
        is_called.wait()
    may_go_on.set()
    server.stop()
    assert server.stats()["replies"] == {200: 1}


def test_request_behind_a_reply_that_says_close_is_not_counted(serve: Serve) -> None:
    server = serve(lambda _request: (200, {"Connection": "close"}, HELLO))
    with Connection(server) as client:
        client.send(get() + get())
        assert client.reply().status == 200
    server.stop()
    assert server.stats()["replies"] == {200: 1}


def late_application(environ: dict[str, Any], start: Any) -> Iterator[bytes]:
    """Says what it answers as late as it may: when its first item is asked for."""
    for _ in range(int(environ["QUERY_STRING"])):
        yield b""
    if environ["PATH_INFO"] == "/fails":
        raise ValueError
    start("202 Accepted", [("Content-Length", "6")])
    yield HELLO


@pytest.mark.parametrize("n_empty", [0, 1_000])
@pytest.mark.parametrize(("path", "status"), [("/", 202), ("/fails", 500)])
def test_wsgi_reply_is_counted_once_however_late_it_begins(
    serve: Serve, path: str, status: int, n_empty: int
) -> None:
    server = serve(late_application)
    with Connection(server) as client:
        assert client.ask(f"{path}?{n_empty}").status == status
    server.stop()
    assert server.stats()["replies"] == {status: 1}


def test_wsgi_reply_of_write_is_counted(serve: Serve) -> None:
    def application(_environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        start("200 OK", [])(HELLO)
        return []

    server = serve(application)
    with Connection(server) as client:
        assert client.ask().body == HELLO
    server.stop()
    assert server.stats()["replies"] == {200: 1}


def test_slots_are_in_use_from_arrival_to_the_end_of_the_batch(serve: Serve) -> None:
    is_called, may_go_on = threading.Event(), threading.Event()

    def slow(_request: fastbatch.Request) -> bytes:
        is_called.set()
        may_go_on.wait()
        return HELLO

    server = serve(slow)
    assert server.stats()["slots_in_use"] == 0
    with Connection(server) as client:
        client.send(get() * 3)
        is_called.wait()
        assert server.stats()["slots_in_use"] == 3
        may_go_on.set()
        for _ in range(3):
            client.reply()
        wait_until(lambda: server.stats()["slots_in_use"] == 0)


def test_stop_at_once_leaves_no_slot_in_use(serve: Serve) -> None:
    server = serve(lambda _request: server.stop(now=True), batch_size=2)
    with Connection(server) as client:
        client.send(get() * 5)
        client.rest()
    server.stop()
    assert server.stats()["slots_in_use"] == 0


def test_each_request_has_its_time_in_the_queue(serve: Serve) -> None:
    pause = 0.1
    is_called = threading.Event()

    def slow(_request: fastbatch.Request) -> bytes:
        is_called.set()
        time.sleep(pause)
        return HELLO

    server = serve(slow)
    began = time.monotonic()
    with Connection(server) as first, Connection(server) as second:
        first.send(get())
        is_called.wait()
        second.send(get())  # waits in the socket while the first is handled
        first.reply()
        second.reply()
        first.send(get() * 2)
        first.reply()
        first.reply()
    server.stop()
    lasted = time.monotonic() - began
    stats = server.stats()
    assert sum(stats["queue_times"]) == stats["requests"] == 4
    assert len(stats["queue_times"]) == len(_core.QUEUE_BOUNDS_US) + 1
    assert 0 <= stats["queue_ns"] <= 4 * lasted * 1e9
    assert 4 * pause * 1e9 <= stats["handler_ns"] <= lasted * 1e9


def ask_together(serve: Serve, n: int, pause: float, **options: Any) -> dict[str, Any]:
    """The counters when n clients have asked at once, and are served one by one."""
    gate = threading.Event()

    def slow(request: fastbatch.Request) -> bytes:
        if request.path == "/gate":
            gate.wait()
        else:
            time.sleep(pause)
        return HELLO

    server = serve(slow, batch_size=1, **options)
    gatekeeper = Connection(server)
    gatekeeper.send(get("/gate"))
    wait_until(lambda: server.stats()["slots_in_use"] == 1)
    clients = [Connection(server) for _ in range(n)]
    for client in clients:
        client.send(get())
    gate.set()  # the loop reads all of them in one go
    for client in [gatekeeper, *clients]:
        client.reply()
        client.close()
    server.stop()
    return server.stats()


def test_time_in_the_queue_is_that_behind_others(serve: Serve) -> None:
    n, pause = 4, 0.05
    stats = ask_together(serve, n, pause)
    assert stats["replies"] == {200: n + 1}
    assert stats["queue_ns"] >= sum(range(n)) * pause * 1e9
    bounds = [*_core.QUEUE_BOUNDS_US, float("inf")]
    found = zip(bounds, stats["queue_times"], strict=True)
    assert sum(count for bound, count in found if bound > (n - 1) * pause * 1e6) >= 1


def test_who_waited_for_too_long_is_counted_as_a_503(serve: Serve) -> None:
    stats = ask_together(serve, 3, pause=0.2, queue_timeout=0.1)
    assert stats["replies"] == {200: 2, 503: 2}
    assert stats["overloaded"] == stats["rejected"] == 2
    assert sum(stats["queue_times"]) == stats["requests"] == 2


# ---- with handler threads ---------------------------------------------------------


def test_what_threads_answer_is_counted_once(serve: Serve) -> None:
    """Also where the loop takes it back early, or another thread takes it over."""
    n = 40

    def slow(request: fastbatch.Request) -> Any:
        time.sleep(0.001 if request.path != "/slow" else 0.05)
        if request.path == "/slow":
            raise fastbatch.HTTPError(503)
        return HELLO

    server = serve(slow, threads=3)
    clients = [Connection(server) for _ in range(n)]
    for client in clients:
        client.send(get() + get("/slow") + get())
    for client in clients:
        assert [client.reply().status for _ in range(3)] == [200, 503, 200]
        client.close()
    server.stop()
    stats = server.stats()
    assert stats["replies"] == {200: 2 * n, 503: n}
    assert stats["requests"] == sum(stats["queue_times"]) == 3 * n
    assert stats["slots_in_use"] == 0
    assert stats["handler_ns"] >= 0.05 * n * 1e9
    assert stats["queue_ns"] > 0


def test_slots_are_in_use_while_all_threads_are_busy(serve: Serve) -> None:
    may_go_on = threading.Event()

    def slow(_request: fastbatch.Request) -> bytes:
        may_go_on.wait()
        return HELLO

    server = serve(slow, threads=2)
    clients = [Connection(server) for _ in range(5)]
    for client in clients:
        client.send(get())
    wait_until(lambda: server.stats()["slots_in_use"] == 5)
    may_go_on.set()
    for client in clients:
        client.reply()
        client.close()
    server.stop()
    assert server.stats()["slots_in_use"] == 0


def test_who_waited_for_too_long_for_a_thread_is_in_no_slot(serve: Serve) -> None:
    may_go_on = threading.Event()

    def slow(_request: fastbatch.Request) -> bytes:
        may_go_on.wait()
        return HELLO

    server = serve(slow, threads=1, queue_timeout=0.1)
    with Connection(server) as first, Connection(server) as second:
        first.send(get())
        wait_until(lambda: server.stats()["slots_in_use"] == 1)
        second.send(get())
        assert second.reply().status == 503
        wait_until(lambda: server.stats()["slots_in_use"] == 1)
        may_go_on.set()
        assert first.reply().status == 200
    server.stop()
    stats = server.stats()
    assert stats["slots_in_use"] == 0
    assert stats["replies"] == {200: 1, 503: 1}
    assert sum(stats["queue_times"]) == stats["requests"] == 1


def test_stop_at_once_leaves_no_slot_in_use_of_threads(serve: Serve) -> None:
    may_go_on = threading.Event()
    server = serve(lambda _request: may_go_on.wait() and HELLO, threads=1)
    clients = [Connection(server) for _ in range(3)]
    for client in clients:
        client.send(get())
    wait_until(lambda: server.stats()["slots_in_use"] == 3)
    threading.Timer(0.05, may_go_on.set).start()
    server.stop(now=True)
    for client in clients:
        client.close()
    assert server.stats()["slots_in_use"] == 0


def test_replies_of_all_workers_are_added_up(serve: Serve) -> None:
    server = serve(answer, workers=2)
    for path in ["/", "/missing"] * 10:
        with Connection(server) as client:
            client.ask(path)
    server.stop()
    stats = server.stats()
    assert stats["replies"] == {200: 10, 404: 10}
    assert sum(stats["queue_times"]) == 20
    assert stats["slots_in_use"] == 0
