"""Workers that are threads of one process: several loops behind one Server."""

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helpers
import pytest
from conftest import Serve
from helpers import Connection

import fastbatch

N = 3


class Hold:
    """A handler whose /hold waits, which makes its worker busy; knows their threads."""

    def __init__(self) -> None:
        self.threads: set[int] = set()
        self.is_over = threading.Event()

    def __call__(self, request: fastbatch.Request) -> str:
        if request.path == "/hold":
            self.threads.add(threading.get_ident())
            assert self.is_over.wait(helpers.TIMEOUT)
        return request.path

    @contextlib.contextmanager
    def busy(self, server: fastbatch.Server, n: int) -> Iterator[list[Connection]]:
        """Have ``n`` workers in the handler; the connections that have them there."""
        end = time.monotonic() + helpers.TIMEOUT
        with contextlib.ExitStack() as stack:
            stack.callback(self.is_over.set)
            connections = []
            while len(self.threads) < n:
                # A busy worker may have got this one, too: then another one is tried.
                assert time.monotonic() < end, f"{len(self.threads)} of {n} are busy"
                connections.append(stack.enter_context(Connection(server)))
                connections[-1].send(helpers.get("/hold"))
                before = len(self.threads)
                soon = time.monotonic() + 0.2
                while len(self.threads) == before and time.monotonic() < soon:
                    time.sleep(0.002)
            yield connections


@pytest.fixture
def hold() -> Iterator[Hold]:
    handler = Hold()
    yield handler
    handler.is_over.set()


# ---- they serve -------------------------------------------------------------------


def test_as_many_handlers_run_at_once_as_there_are_workers(
    serve: Serve, hold: Hold
) -> None:
    server = serve(hold, workers=N)
    with hold.busy(server, N) as connections:
        hold.is_over.set()
        for connection in connections:
            assert connection.reply().body == b"/hold"
    assert len(hold.threads) == N


def test_each_worker_has_handler_threads_of_its_own(serve: Serve, hold: Hold) -> None:
    server = serve(hold, workers=2, threads=2)
    with hold.busy(server, 4) as connections:
        hold.is_over.set()
        for connection in connections:
            assert connection.reply().body == b"/hold"
    server.stop()
    assert len(hold.threads) == 4
    assert all(one["requests"] for one in server.stats()["workers"])


def test_worker_that_is_busy_does_not_keep_others_from_serving(
    serve: Serve, hold: Hold
) -> None:
    server = serve(hold, workers=2)
    with hold.busy(server, 1):
        assert _ask_until_answered(server) == b"/free"


def _ask_until_answered(server: fastbatch.Server) -> bytes:
    """The reply of a worker that is free, whoever the kernel gives connections to."""
    for _ in range(50):
        with Connection(server) as connection:
            connection.socket.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                return connection.ask("/free").body
    pytest.fail("no worker answers")


def test_many_clients_are_served_by_all(serve: Serve) -> None:
    server = serve(lambda request: request.path, workers=N)

    def ask(n: int) -> None:
        for i in range(20):
            with Connection(server) as connection:
                assert connection.ask(f"/{n}/{i}").body == f"/{n}/{i}".encode()

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.stats()["requests"] == 120


def test_each_worker_has_a_dispatcher_of_its_own_thread(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    makers: list[int] = []
    from fastbatch._dispatch import request_dispatcher

    def make(_addresses: Any) -> Any:
        makers.append(threading.get_ident())
        return request_dispatcher(lambda _request: "x")

    monkeypatch.setattr("fastbatch._plan.dispatcher_for", lambda *_: make)
    serve(lambda _request: None, workers=N)
    assert len(makers) == len(set(makers)) == N


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("threads", [0, 1])
def test_application_is_told_whether_there_are_other_threads(
    serve: Serve, workers: int, threads: int
) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        found = [environ["wsgi.multithread"], environ["wsgi.multiprocess"]]
        return [repr(found).encode()]

    server = serve(application, workers=workers, threads=threads)
    expected = [workers > 1 or threads > 0, False]
    assert helpers.get_url(server).body == repr(expected).encode()


def test_auto_is_one_for_each_cpu(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastbatch._workers.usable_cpus", lambda: 4)
    server = serve(lambda _request: "x", workers="auto")
    assert len(server.stats()["workers"]) == 4


# ---- counters ---------------------------------------------------------------------


def test_counters_are_those_of_all_workers_and_of_each(
    serve: Serve, hold: Hold
) -> None:
    server = serve(hold, workers=N)
    with hold.busy(server, N):
        pass
    server.stop()
    stats = server.stats()
    each = stats["workers"]
    assert len(each) == N
    assert all(one["requests"] >= 1 for one in each)
    for name in ("requests", "batches", "connections", "bytes_received", "bytes_sent"):
        assert stats[name] == sum(one[name] for one in each) > 0
    sizes = [sum(one["batch_sizes"][n] for one in each) for n in range(257)]
    assert stats["batch_sizes"] == sizes
    assert stats["beat_ms"] == max(one["beat_ms"] for one in each)
    assert stats["open_connections"] == 0


def test_one_worker_has_the_same_counters(serve: Serve) -> None:
    server = serve(lambda _request: "x")
    helpers.get_url(server)
    stats = server.stats()
    [one] = stats.pop("workers")
    assert stats["requests"] == one["requests"] == 1
    assert stats.keys() == one.keys()


# ---- the end ----------------------------------------------------------------------


@pytest.mark.parametrize("now", [False, True])
def test_stop_ends_all_and_leaves_nothing(now: bool) -> None:
    files, threads = helpers.open_files(), threading.active_count()
    for _ in range(3):
        server = fastbatch.Server(
            lambda request: request.path, bind="127.0.0.1:0", workers=N
        )
        server.start()
        helpers.get_url(server)
        server.stop(now)
        with pytest.raises(ConnectionRefusedError):
            helpers.get_url(server)
    assert helpers.open_files() == files
    assert threading.active_count() == threads


def test_stop_lets_every_worker_answer(hold: Hold) -> None:
    server = fastbatch.Server(hold, bind="127.0.0.1:0", workers=N).start()
    with hold.busy(server, N) as connections:
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        time.sleep(0.05)
        assert stopper.is_alive()
        hold.is_over.set()
        replies = [connection.reply() for connection in connections]
        assert {reply.body for reply in replies} == {b"/hold"}
        assert {reply.headers["Connection"] for reply in replies} == {"close"}
        stopper.join(helpers.TIMEOUT)
        assert not stopper.is_alive()


@pytest.mark.parametrize("threads", [0, 2])
def test_stop_by_a_handler_does_not_wait_whichever_worker_it_is_on(
    hold: Hold, threads: int
) -> None:
    def handler(request: fastbatch.Request) -> str:
        if request.path == "/stop":
            server.stop()
        return hold(request)

    server = fastbatch.Server(
        handler, bind="127.0.0.1:0", workers=2, threads=threads
    ).start()
    with hold.busy(server, 1), Connection(server) as connection:
        connection.send(helpers.get("/stop"))
        hold.is_over.set()
        assert connection.reply().body == b"/stop"
    server.stop()


def test_run_serves_with_all_workers(hold: Hold) -> None:
    server = fastbatch.Server(hold, bind="127.0.0.1:0", workers=2)
    thread = threading.Thread(target=server.run)
    thread.start()
    helpers.wait_until(lambda: server._workers is not None)
    with hold.busy(server, 2):
        assert thread.ident in hold.threads
    server.stop()
    thread.join(helpers.TIMEOUT)
    assert not thread.is_alive()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("others", [0, 1])
def test_what_ends_one_worker_ends_all_and_is_raised(
    hold: Hold,
    caplog: pytest.LogCaptureFixture,
    error: type[BaseException],
    others: int,
) -> None:
    """With another one busy, and so not the same worker each time."""

    def handler(request: fastbatch.Request) -> str:
        if request.path == "/end":
            raise error
        return hold(request)

    server = fastbatch.Server(handler, bind="127.0.0.1:0", workers=2).start()
    with hold.busy(server, others):
        _send_until(server, "/end", lambda: server._running().is_stopping())
    with pytest.raises(error):
        server.stop()
    assert "the server was ended by" in caplog.text
    server.stop()  # it is raised once


def _send_until(server: fastbatch.Server, path: str, is_so: Callable[[], bool]) -> None:
    """Ask for ``path`` on new connections until a worker that is free has got it."""
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            with contextlib.suppress(OSError):
                connection = stack.enter_context(Connection(server))
                connection.send(helpers.get(path))
            soon = time.monotonic() + 0.2
            while time.monotonic() < soon:
                if is_so():
                    return
                time.sleep(0.002)
    pytest.fail("it did not happen")


# ---- beginning --------------------------------------------------------------------


def test_worker_that_cannot_be_made_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files, threads = helpers.open_files(), threading.active_count()
    server = fastbatch.Server(lambda _request: "x", bind="127.0.0.1:0", workers=N)
    made: list[Any] = []
    make = server._make_core

    def fail_the_last(*arguments: Any) -> Any:
        if len(made) == N - 1:
            raise OSError("of the test")
        made.append(make(*arguments))
        return made[-1]

    monkeypatch.setattr(server, "_make_core", fail_the_last)
    with pytest.raises(OSError, match="of the test"):
        server.start()
    made.clear()
    assert helpers.open_files() == files
    assert threading.active_count() == threads
    monkeypatch.undo()
    with server:  # it can be started again
        assert helpers.get_url(server).body == b"x"


def test_processes_need_run() -> None:
    server = fastbatch.Server(lambda _request: "x", port=0, workers=2, processes=True)
    with pytest.raises(ValueError, match=r"processes=True needs run\(\)"):
        server.start()


# ---- the access log ---------------------------------------------------------------


def test_all_workers_write_one_access_log_and_reopen_it(
    tmp_path: Path, hold: Hold
) -> None:
    path = tmp_path / "log"
    server = fastbatch.Server(hold, port=0, workers=N, access_log=path).start()
    with hold.busy(server, N) as connections:
        hold.is_over.set()
        for connection in connections:
            connection.reply()
        path.rename(tmp_path / "old")
        server.reopen_access_log()
        for connection in connections:
            connection.ask("/later")
    server.stop()
    lines = (tmp_path / "old").read_text() + path.read_text()
    assert lines.count('"GET /hold ') == lines.count('"GET /later ') == len(connections)
    assert path.read_text().count('"GET /later ') > 0


def test_logger_is_given_the_lines_of_all(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("access of all")
    with caplog.at_level(logging.INFO, logger.name):
        server = serve(lambda _request: "x", workers=2, access_log=logger)
        for _ in range(10):
            helpers.get_url(server, "/seen")
        server.stop()
    assert caplog.text.count('"GET /seen ') == 10


# ---- more and less ----------------------------------------------------------------


def test_workers_are_taken_away_while_they_serve(hold: Hold) -> None:
    server = fastbatch.Server(hold, bind="127.0.0.1:0", workers=2)
    server._open(wakeup_fd=-1)
    thread = threading.Thread(target=server._serve)
    thread.start()
    workers = server._running()
    workers.remove()
    helpers.wait_until(lambda: len(server.stats()["workers"]) == 1)
    assert helpers.get_url(server, "/a").body == b"/a"
    workers.remove()  # never the last one
    assert len(server.stats()["workers"]) == 1
    assert helpers.get_url(server, "/b").body == b"/b"
    assert server.stats()["requests"] == 2
    server.stop()
    thread.join(helpers.TIMEOUT)


def test_no_gil_is_turned_on(serve: Serve) -> None:
    if not hasattr(sys, "_is_gil_enabled") or sys._is_gil_enabled():
        pytest.skip("this Python has a GIL")
    server = serve(lambda _request: str(sys._is_gil_enabled()), workers=2)
    assert helpers.get_url(server).body == b"False"
