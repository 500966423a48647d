"""What a server counts, that it counts it once, and what it makes of it."""

import logging
import os
import re
import shlex
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import helpers
import pytest
from conftest import Serve, Start
from helpers import Connection, get, wait_until

import fastbatch
from fastbatch import _core, _signals, _stats
from fastbatch._stats import add_up

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


# ---- of several queues ------------------------------------------------------------


def queue(name: str = "hello", **given: Any) -> dict[str, Any]:
    """The counters of a queue that has had nothing but what is ``given``."""
    [empty] = _core.read_stats(bytearray(_core.STATS_BYTES))["queues"]
    return {"name": name, **empty, **given}


def histogram(n_items: int, counts: dict[int, int]) -> list[int]:
    return [counts.get(i, 0) for i in range(n_items)]


def sizes(counts: dict[int, int]) -> list[int]:
    return histogram(_core.LIMITS["batch_slots"] + 1, counts)


def times(counts: dict[int, int]) -> list[int]:
    return histogram(len(_core.QUEUE_BOUNDS_US) + 1, counts)


def test_counters_of_the_only_queue_are_the_totals(serve: Serve) -> None:
    server = serve(answer)
    with Connection(server) as client:
        client.send(get() * 3 + get("/missing"))
        for _ in range(4):
            client.reply()
    server.stop()
    stats = server.stats()
    [only] = stats["queues"]
    assert only["name"] == f"{__name__}.answer"
    assert only["requests"] == 4
    assert {name: stats[name] for name in only if name != "name"} == {
        name: count for name, count in only.items() if name != "name"
    }


def two_queues() -> fastbatch.Router:
    """A route of batches, and one of requests."""
    router = fastbatch.Router()

    @router.post("/predict")
    @fastbatch.batch
    def predict(batch: fastbatch.Batch) -> list[bytes]:
        return [HELLO] * len(batch)

    router.get("/health")(lambda _request: HELLO)
    return router


def test_each_queue_counts_what_is_its_own(serve: Serve) -> None:
    server = serve(two_queues(), workers=2)
    post = get("/predict").replace(b"GET", b"POST")
    for _ in range(5):
        with Connection(server) as client:
            client.send(post * 3 + get("/health"))
            for _ in range(4):
                assert client.reply().status == 200
    server.stop()
    stats = server.stats()
    assert [queue["name"] for queue in stats["queues"]] == ["requests", "POST /predict"]
    assert [queue["requests"] for queue in stats["queues"]] == [5, 15]
    assert [sum(queue["queue_times"]) for queue in stats["queues"]] == [5, 15]
    assert all(queue["handler_ns"] > 0 for queue in stats["queues"])
    assert stats["requests"] == 20
    assert stats["waiting"] == 0


@pytest.mark.parametrize(
    ("settings", "status", "name"),
    [({"deadline": 0.05}, 504, "expired"), ({"queue_size": 1}, 503, "refused")],
)
def test_who_gets_no_batch_is_counted_of_the_queue(
    serve: Serve, settings: dict[str, Any], status: int, name: str
) -> None:
    is_called, may_go_on = threading.Event(), threading.Event()
    router = fastbatch.Router()

    @router.get("/slow")
    @fastbatch.batch(batch_size=1, **settings)
    def slow(batch: fastbatch.Batch) -> list[bytes]:
        is_called.set()
        may_go_on.wait()
        return [HELLO] * len(batch)

    server = serve(router, threads=1)

    def of_slow(name: str) -> Any:
        [found] = [q for q in server.stats()["queues"] if q["name"] == "GET /slow"]
        return found[name]

    clients = [Connection(server) for _ in range(3)]
    clients[0].send(get("/slow"))
    is_called.wait()
    clients[1].send(get("/slow"))
    wait_until(lambda: of_slow("waiting") + of_slow("expired") == 1)
    clients[2].send(get("/slow"))
    assert clients[2].reply().status == status
    may_go_on.set()
    assert clients[0].reply().status == 200
    assert clients[1].reply().status == (200 if name == "refused" else status)
    for client in clients:
        client.close()
    server.stop()
    assert of_slow(name) + of_slow("requests") == 3
    assert of_slow(name) == (1 if name == "refused" else 2)
    assert of_slow("waiting") == server.stats()["waiting"] == 0
    assert server.stats()[name] == of_slow(name)


@pytest.mark.parametrize(("threads", "batch_wait"), [(0, 0), (0, 0.001), (1, 0)])
def test_request_that_is_handled_does_not_wait(
    serve: Serve, threads: int, batch_wait: float
) -> None:
    seen: list[dict[str, Any]] = []

    def handler(_request: fastbatch.Request) -> bytes:
        seen.append(server.stats())
        return HELLO

    server = serve(handler, threads=threads, batch_wait=batch_wait)
    with Connection(server) as client:
        client.send(get())
        client.reply()
    assert [(stats["slots_in_use"], stats["waiting"]) for stats in seen] == [(1, 0)]


class Greeter:
    def __call__(self, _request: fastbatch.Request) -> bytes:
        return HELLO

    def __repr__(self) -> str:
        raise NotImplementedError


def test_queue_of_an_object_has_the_name_of_its_class(serve: Serve) -> None:
    server = serve(Greeter())
    with Connection(server) as client:
        assert client.ask().body == HELLO
    assert [queue["name"] for queue in server.stats()["queues"]] == [
        f"{__name__}.Greeter"
    ]


def words(*found: tuple[int, int]) -> bytearray:
    """Memory of counters: item n of it has the given number."""
    memory = bytearray(_core.STATS_BYTES)
    numbers = memoryview(memory).cast("Q")
    for n, number in found:
        numbers[n] = number
    return memory


def test_totals_are_those_of_all_queues() -> None:
    n_queues = _core.LIMITS["queues_bound"]
    n_all = _core.STATS_BYTES // 8
    filled = words(*((n, 1) for n in range(n_all)))
    stats = _core.read_stats(filled, n_queues)
    assert len(stats["queues"]) == n_queues
    for name in queue():
        if name == "name":
            continue
        each = [one[name] for one in stats["queues"]]
        if isinstance(stats[name], list):
            assert stats[name] == [sum(counts) for counts in zip(*each, strict=True)]
        else:
            assert stats[name] == sum(each) == n_queues
    assert _core.read_stats(filled) == {**stats, "queues": stats["queues"][:1]}
    assert _core.read_stats(filled, 0) == {**stats, "queues": []}


@pytest.mark.parametrize("n_queues", [-1, _core.LIMITS["queues_bound"] + 1])
def test_there_are_no_more_queues_than_the_bound(n_queues: int) -> None:
    with pytest.raises(ValueError, match="no more than 16 queues"):
        _core.read_stats(words(), n_queues)


def test_counters_are_added_up_name_by_name() -> None:
    first = {"requests": 1, "sizes": [1, 0], "replies": {200: 1}, "beat_ms": 5}
    second = {"requests": 2, "sizes": [2, 3], "replies": {200: 2, 404: 1}, "beat_ms": 4}
    assert add_up([first, {}, second]) == {
        "requests": 3,
        "sizes": [3, 3],
        "replies": {200: 3, 404: 1},
        "beat_ms": 5,
    }
    assert add_up([]) == {}
    assert first["replies"] == {200: 1}


def test_queues_are_added_up_by_their_names() -> None:
    first = {"queues": [{"name": "a", "requests": 1}, {"name": "b", "requests": 2}]}
    newer = {"queues": [{"name": "b", "requests": 4}, {"name": "c", "requests": 8}]}
    assert add_up([first, newer]) == {
        "queues": [
            {"name": "a", "requests": 1},
            {"name": "b", "requests": 6},
            {"name": "c", "requests": 8},
        ]
    }
    assert first["queues"][1] == {"name": "b", "requests": 2}


def test_who_waits_is_not_of_the_past() -> None:
    gone = _stats.of_the_past(
        {
            "waiting": 3,
            "slots_in_use": 2,
            "requests": 5,
            "queues": [queue(waiting=3, requests=5)],
        }
    )
    assert (gone["waiting"], gone["slots_in_use"], gone["requests"]) == (0, 0, 5)
    assert gone["queues"] == [queue(waiting=0, requests=5)]


# ---- figures ----------------------------------------------------------------------


def test_figures_of_nothing_are_zero() -> None:
    assert set(_stats.figures(queue()).values()) == {0}


def test_batch_sizes_have_a_mean_and_percentiles() -> None:
    counts = queue(batches=100, batch_sizes=sizes({1: 50, 2: 48, 64: 1, 256: 1}))
    found = _stats.figures(counts)
    assert found["batch_size_mean"] == (50 + 96 + 64 + 256) / 100
    assert (found["batch_size_p50"], found["batch_size_p99"]) == (1, 64)


@pytest.mark.parametrize(
    ("counts", "p50", "p99"),
    [
        ({0: 100}, 5e-6, 9.9e-6),  # up to 10 us
        ({6: 100}, 0.75e-3, 0.995e-3),  # 0.5 to 1 ms
        ({0: 50, 6: 50}, 10e-6, 0.99e-3),
        ({0: 98, 18: 2}, 98 / 98 * 10e-6 * 50 / 98, 7.5),  # 5 to 10 s
        ({19: 1}, 10.0, 10.0),  # more than that
    ],
)
def test_time_in_the_queue_has_percentiles(
    counts: dict[int, int], p50: float, p99: float
) -> None:
    found = _stats.figures(queue(queue_times=times(counts)))
    assert found["queue_p50"] == pytest.approx(p50)
    assert found["queue_p99"] == pytest.approx(p99)


def test_time_of_the_handler_is_of_a_batch_and_of_a_request() -> None:
    found = _stats.figures(queue(batches=4, requests=10, handler_ns=2_000_000_000))
    assert found["handler_seconds_per_batch"] == 0.5
    assert found["handler_seconds_per_request"] == 0.2


def test_server_has_figures_of_all_and_of_each(serve: Serve) -> None:
    pause, n = 0.05, 4

    def slow(_request: fastbatch.Request) -> bytes:
        time.sleep(pause)
        return HELLO

    server = serve(slow, batch_size=1)
    with Connection(server) as client:
        client.send(get() * n)
        for _ in range(n):
            client.reply()
    server.stop()
    stats = server.stats()
    for found in (stats, *stats["queues"], *stats["workers"]):
        assert found["handler_seconds_per_batch"] >= pause
        assert found["handler_seconds_per_request"] >= pause
        assert found["batch_size_p99"] == found["batch_size_mean"] == 1
        assert found["queue_p50"] <= found["queue_p99"]


# ---- told on SIGUSR2 --------------------------------------------------------------

APP = """
import os

def hello(request):
    return f"{os.getpid()}"
"""

PROGRAM = """
import logging, os, signal, sys
import fastbatch

{setup}

def hello(request):
    return f"{{os.getpid()}}"

fastbatch.run(hello, port=0, {options})
"""


def told(program: helpers.Program, n: int = 1) -> list[dict[str, str]]:
    """The lines that are there when there are ``n`` of queues, as dicts."""
    line = r"(?m)^.*fastbatch\.stats: ?(pid=.*)$"
    wait_until(lambda: program.errors.count(" queue=") >= n, "the lines")
    return [
        dict(pair.split("=", 1) for pair in shlex.split(found))
        for found in re.findall(line, program.errors)
    ]


def ask(program: helpers.Program, n: int) -> list[int]:
    """The processes that have answered."""
    pids = []
    for _ in range(n):
        with Connection(program.address()) as client:
            pids.append(int(client.ask("/", "Connection: close").body))
    return pids


def ready_in(program: helpers.Program) -> set[int]:
    """The worker processes that there have been."""
    return set(map(int, re.findall(r"process (\d+) is ready", program.errors)))


def end(program: helpers.Program) -> None:
    program.signal(signal.SIGTERM)
    assert program.wait() == 0, program.errors


def test_command_line_tells_what_it_counted(start: Start, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    program = start("-m", "fastbatch", "--port=0", "app:hello")
    ask(program, 3)
    program.signal(signal.SIGUSR2)
    whole, of_queue = told(program)
    assert whole["pid"] == of_queue["pid"] == str(program.pid)
    assert whole["workers"] == "1"
    assert whole["requests"] == whole["connections"] == of_queue["requests"] == "3"
    assert of_queue["queue"] == "app.hello"
    assert of_queue["batch_size_mean"] == "1.0"
    assert 0 < float(of_queue["queue_p50"]) <= float(of_queue["queue_p99"])
    assert float(of_queue["handler_seconds_per_request"]) > 0
    assert re.search(r"(?m) INFO fastbatch\.stats: pid=", program.errors)
    ask(program, 1)
    program.signal(signal.SIGUSR2)
    assert [line["requests"] for line in told(program, 2)] == ["3", "3", "4", "4"]
    end(program)


def test_who_asks_while_it_is_told_is_told_once_more() -> None:
    may_go_on = threading.Semaphore(0)
    begun: list[int] = []

    def tell() -> None:
        begun.append(len(begun))
        may_go_on.acquire()

    before = signal.getsignal(signal.SIGUSR2)
    signals = _signals.Signals(lambda _now: None, tell_stats=tell, stop_signals=())
    signals.install(-1)
    try:
        os.kill(os.getpid(), signal.SIGUSR2)
        wait_until(lambda: len(begun) == 1)
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGUSR2)
        may_go_on.release()
        wait_until(lambda: len(begun) == 2)
        may_go_on.release()
    finally:
        signals.is_over = True
        signals.restore()
    assert begun == [0, 1]
    assert signal.getsignal(signal.SIGUSR2) is before


@pytest.mark.parametrize(
    ("setup", "is_told"),
    [
        ("", True),
        ("logging.basicConfig(level=logging.INFO)", True),
        ("logging.getLogger('fastbatch').setLevel(logging.WARNING)", False),
        ("logging.getLogger('fastbatch.stats').setLevel(logging.WARNING)", False),
    ],
)
def test_run_tells_it_unless_the_logger_is_silenced(
    start: Start, tmp_path: Path, setup: str, *, is_told: bool
) -> None:
    options = f"pid_file={str(tmp_path / 'pid')!r}"
    (tmp_path / "program.py").write_text(PROGRAM.format(setup=setup, options=options))
    program = start("program.py")
    wait_until(lambda: (tmp_path / "pid").exists(), "the start")
    program.signal(signal.SIGUSR2)
    if is_told:
        assert [line["requests"] for line in told(program)] == ["0", "0"]
    end(program)
    assert ("pid=" in program.errors) is is_told


def test_program_may_have_its_own_use_for_the_signal(
    start: Start, tmp_path: Path
) -> None:
    setup = "signal.signal(signal.SIGUSR2, lambda *_: print('mine', flush=True))"
    for options in ("", "workers=2, processes=True"):
        text = PROGRAM.format(setup=setup, options=options)
        (tmp_path / "program.py").write_text(text)
        program = start("program.py")
        [pid] = ask(program, 1)
        program.signal(signal.SIGUSR2)
        program.wait_for(r"mine\n")
        if pid != program.pid:
            os.kill(pid, signal.SIGUSR2)
            program.wait_for(r"mine\nmine\n")
        ask(program, 1)
        end(program)
        assert "fastbatch.stats" not in program.errors


@pytest.mark.parametrize("mode", ["processes=true", "processes=false"])
def test_supervisor_tells_the_sums_over_its_workers(
    start: Start, tmp_path: Path, mode: str
) -> None:
    (tmp_path / "app.py").write_text(APP)
    program = start(
        "-m", "fastbatch", "--port=0", "--workers=2", f"--{mode}", "app:hello"
    )
    n_ready = 2 if mode == "processes=true" else 1
    wait_until(lambda: len(ready_in(program)) == n_ready, "the workers")
    ask(program, 20)
    program.signal(signal.SIGUSR2)
    whole, of_queue = told(program)
    assert whole["pid"] == str(program.pid)
    assert whole["workers"] == "2"
    assert whole["requests"] == of_queue["requests"] == "20"
    assert of_queue["queue"] == "app.hello"
    program.signal(signal.SIGHUP)
    program.wait_for("the workers are replaced")
    ask(program, 5)
    program.signal(signal.SIGUSR2)
    *_, whole, of_queue = told(program, 2)
    assert whole["requests"] == of_queue["requests"] == "25"
    end(program)


def test_worker_process_tells_what_is_its_own(start: Start, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    program = start(
        "-m", "fastbatch", "--port=0", "--workers=2", "--processes=true", "app:hello"
    )
    wait_until(lambda: len(ready_in(program)) == 2, "the workers")
    pids = ask(program, 20)
    os.kill(pids[0], signal.SIGUSR2)
    whole, of_queue = told(program)
    assert whole["pid"] == str(pids[0])
    assert whole["requests"] == of_queue["requests"] == str(pids.count(pids[0]))
    assert set(ask(program, 20)) <= ready_in(program)  # it is not replaced
    end(program)


def test_text_of_a_name_can_be_read_again(caplog: pytest.LogCaptureFixture) -> None:
    name = 'POST /a b"\\c=\n'
    stats = add_up(
        [{**queue(), **dict.fromkeys(_stats._TOLD, 0), "queues": [queue(name)]}]
    )
    with caplog.at_level(logging.INFO, "fastbatch.stats"):
        _stats.tell(_stats.with_figures(stats), 1)
    [_, line] = caplog.messages
    assert "\n" not in line
    assert line.startswith(
        f'pid={os.getpid()} queue="POST /a b\\"\\\\c=\\n" requests=0'
    )
