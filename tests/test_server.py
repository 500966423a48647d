"""fastbatch.Server: its life, what it knows, and that it leaves nothing behind."""

import gc
import logging
import mmap
import os
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import helpers
import pytest
from conftest import Serve, Start

import fastbatch
from fastbatch import _core, _server, _sockets
from fastbatch._plan import plan_for


def hello(_request: fastbatch.Request) -> str:
    return "hello"


def new_server(handler: Callable[..., Any] = hello, **options: Any) -> fastbatch.Server:
    return fastbatch.Server(handler, bind="127.0.0.1:0", **options)


# ---- life -------------------------------------------------------------------------


def test_start_returns_the_server_when_clients_can_connect() -> None:
    for _ in range(20):
        server = new_server()
        assert server.start() is server
        assert helpers.get_url(server).body == b"hello"
        server.stop()


def test_context_manager_starts_and_stops() -> None:
    with new_server() as server:
        assert helpers.get_url(server).body == b"hello"
    with pytest.raises(ConnectionRefusedError):
        helpers.get_url(server)


def test_context_manager_stops_after_an_error_too() -> None:
    server = new_server()
    with pytest.raises(ZeroDivisionError), server:
        1 / 0  # noqa: B018
    with pytest.raises(ConnectionRefusedError):
        helpers.get_url(server)


def test_run_serves_until_another_thread_stops_it() -> None:
    server = new_server()
    thread = threading.Thread(target=server.run)
    thread.start()
    helpers.wait_until(lambda: server._workers is not None)
    assert helpers.get_url(server).body == b"hello"
    server.stop()
    thread.join(helpers.TIMEOUT)
    assert not thread.is_alive()


def test_server_is_used_from_any_thread() -> None:
    server = new_server()
    for function in (server.start, lambda: helpers.get_url(server), server.stop):
        thread = threading.Thread(target=function)
        thread.start()
        thread.join(helpers.TIMEOUT)
    assert server.stats()["requests"] == 1


def test_stop_does_nothing_the_second_time() -> None:
    server = new_server().start()
    server.stop()
    server.stop()
    server.stop(now=True)


def test_stop_from_many_threads_returns_in_all() -> None:
    server = new_server().start()
    threads = [threading.Thread(target=server.stop) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(helpers.TIMEOUT)
    assert not any(thread.is_alive() for thread in threads)


def test_stop_at_once_after_start() -> None:
    for now in (False, True) * 20:
        new_server().start().stop(now)


def test_handler_may_stop_its_own_server() -> None:
    def stop(_request: fastbatch.Request) -> str:
        server.stop()
        return "stopped"

    server = new_server(stop).start()
    reply = helpers.get_url(server)
    assert reply.body == b"stopped"
    server.stop()  # this one waits


@pytest.mark.parametrize("again", ["start", "run"])
def test_server_is_started_once(serve: Serve, again: str) -> None:
    server = serve(hello)
    expected = "this server was started already; a Server serves once: make another one"
    with pytest.raises(RuntimeError, match=expected):
        getattr(server, again)()
    assert helpers.get_url(server).body == b"hello"
    server.stop()
    with pytest.raises(RuntimeError, match="this server was stopped already; a Server"):
        getattr(server, again)()


@pytest.mark.parametrize("name", ["stop", "stats"])
def test_nothing_can_be_done_before_the_start(name: str) -> None:
    with pytest.raises(RuntimeError, match="was not started: call start"):
        getattr(new_server(), name)()


@pytest.mark.parametrize("name", ["address", "addresses", "url"])
def test_nothing_is_known_before_the_start(name: str) -> None:
    with pytest.raises(RuntimeError, match="was not started: call start"):
        getattr(new_server(), name)


def test_address_and_stats_are_known_after_the_stop() -> None:
    with new_server() as server:
        helpers.get_url(server)
        address = server.address
    assert server.address == address
    assert server.stats()["requests"] == 1
    assert server.stats()["open_connections"] == 0


def test_where_it_listens_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fastbatch")
    with new_server() as server:
        expected = f"fastbatch {fastbatch.__version__} listening on {server.url}"
    assert ("fastbatch", logging.INFO, expected) in caplog.record_tuples


# ---- options ----------------------------------------------------------------------


def none() -> None:
    pass


def three(_a: int, _b: int, _c: int) -> None:
    pass


def keyword(*, _a: int) -> None:
    pass


@pytest.mark.parametrize("handler", [none, three, keyword])
def test_handler_with_another_signature_is_refused(handler: Callable[..., Any]) -> None:
    for function in (fastbatch.Server, fastbatch.run):
        with pytest.raises(TypeError, match="request"):
            function(handler, port=0)


def test_environment_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTBATCH_BIND", "nonsense")
    with new_server() as server:
        assert helpers.get_url(server).body == b"hello"


def test_options_object_is_taken() -> None:
    options = fastbatch.Options(bind=("127.0.0.1:0",), server_header="test")
    with fastbatch.Server(hello, options) as server:
        assert helpers.get_url(server).headers["Server"] == "test"


@pytest.mark.parametrize("value", ["", "x" * 127])
def test_server_header_reaches_the_client(serve: Serve, value: str) -> None:
    reply = helpers.get_url(serve(hello, server_header=value))
    assert reply.headers.get("Server", "") == value


def test_smallest_and_largest_options_are_taken_by_the_core(serve: Serve) -> None:
    core = fastbatch._core.LIMITS
    serve(
        hello,
        batch_size=1,
        backlog=1,
        max_target=1,
        max_headers=1,
        max_head=1,
        max_body=0,
        max_connections=1,
        max_keepalive_requests=1,
        max_input_memory=0,
        min_rate=0,
        queue_timeout=0.0001,
        keepalive_timeout=0.0001,
        head_timeout=0.0001,
        body_timeout=0.0001,
        write_timeout=0.0001,
        graceful_timeout=0.0001,
    )
    server = serve(
        hello,
        backlog=65535,
        max_target=core["head_bound"],
        max_headers=core["headers_bound"],
        max_head=core["head_bound"],
        max_body=core["body_bound"],
        max_connections=1_000_000,
        max_keepalive_requests=2**32 - 1,
        max_input_memory=core["input_memory_bound"],
        min_rate=core["rate_bound"],
        queue_timeout=2147483,
        keepalive_timeout=2147483,
        head_timeout=2147483,
        body_timeout=2147483,
        write_timeout=2147483,
        graceful_timeout=2147483,
    )
    assert helpers.get_url(server).body == b"hello"


def test_small_timeout_is_not_none(serve: Serve) -> None:
    server = serve(hello, keepalive_timeout=0.0001)
    with helpers.Connection(server) as connection:
        connection.ask()
        assert connection.is_closed()


# ---- errors -----------------------------------------------------------------------


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_what_ended_the_thread_is_raised_by_the_first_stop(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_request: fastbatch.Request) -> str:
        raise error

    server = new_server(fail).start()
    with helpers.Connection(server) as connection:
        connection.send(helpers.get())
        connection.rest()
    helpers.wait_until(server._ended.is_set)
    assert f"the server was ended by {error!r}" in caplog.text
    with pytest.raises(type(error)) as caught:
        server.stop()
    assert caught.value is error
    server.stop()


def test_run_raises_what_the_handler_raised() -> None:
    def leave(_request: fastbatch.Request) -> str:
        raise SystemExit(3)

    server = new_server(leave)
    caught: list[BaseException] = []

    def run() -> None:
        try:
            server.run()
        except BaseException as error:  # noqa: BLE001
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    helpers.wait_until(lambda: server._workers is not None)
    with helpers.Connection(server) as connection:
        connection.send(helpers.get())
        connection.rest()
    thread.join(helpers.TIMEOUT)
    assert [type(error) for error in caught] == [SystemExit]
    server.stop()  # it is raised once


# ---- nothing is left --------------------------------------------------------------


def test_no_descriptors_and_no_threads_are_left(tmp_path: Path) -> None:
    files, threads = helpers.open_files(), threading.active_count()
    for _ in range(10):
        path = f"unix:{tmp_path / 'socket'}"
        with fastbatch.Server(hello, bind=["127.0.0.1:0", path]) as server:
            helpers.get_url(server)
    assert helpers.open_files() == files
    assert threading.active_count() == threads


def test_nothing_is_left_when_descriptors_run_out(tmp_path: Path) -> None:
    """Each number of free descriptors makes another step fail, until all succeed."""
    path = tmp_path / "socket"
    options = {"bind": ["127.0.0.1:0", f"unix:{path}"]}
    with fastbatch.Server(hello, **options):  # type: ignore[arg-type]
        pass  # whatever is opened once and for all is open now
    gc.collect()
    files = helpers.open_files()
    lowest_free = min(set(range(len(files) + 1)) - files.keys())
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    failures = 0
    for limit in range(lowest_free, lowest_free + 40):
        server = fastbatch.Server(hello, **options)  # type: ignore[arg-type]
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limits[1]))
        try:
            server.start()
        except OSError:
            failures += 1
        else:
            server.stop()
            break
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert helpers.open_files() == files
        assert not path.exists()
        with server:
            assert helpers.get_url(server).body == b"hello"
        assert helpers.open_files() == files
    assert failures > 2


def test_nothing_is_left_when_the_thread_cannot_be_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "socket"

    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    files = helpers.open_files()
    server = fastbatch.Server(hello, bind=f"unix:{path}")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            server.start()
    gc.collect()
    assert helpers.open_files() == files
    assert not path.exists()


def test_server_that_is_only_made_holds_nothing() -> None:
    files = helpers.open_files()
    server = new_server()
    assert helpers.open_files() == files
    del server


# ---- the end of the process -------------------------------------------------------

LEFT_RUNNING = """
import sys, threading, time
import fastbatch, helpers

started = threading.Event()

def handler(request):
    started.set()
    time.sleep(0.3)
    return "answered"

def ask():
    print(helpers.get_url(server).body, flush=True)

server = fastbatch.Server(handler, bind="unix:socket").start()
threading.Thread(target=ask, daemon=True).start()
started.wait()
"""


def test_server_that_still_runs_at_the_end_is_stopped(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "left.py").write_text(LEFT_RUNNING)
    program = start("left.py")
    assert program.wait() == 0
    assert program.errors == ""
    assert not (tmp_path / "socket").exists()


FORKED = """
import os, sys
import fastbatch, helpers

server = fastbatch.Server(lambda request: "parent", bind="unix:socket").start()
child = os.fork()
if child == 0:
    sys.exit(7)  # with all that is done at the end of a process
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
print(helpers.get_url(server).body.decode())
"""


def test_forked_child_leaves_the_server_to_its_parent(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "forked.py").write_text(FORKED)
    program = start("-W", "ignore", "forked.py")
    assert program.wait() == 0, program.errors
    assert program.output == "parent\n"
    assert os.listdir(tmp_path) == ["forked.py"]


def core_server(**arguments: Any) -> _core.Server:
    """A server without a Server above it, on a port of its own."""
    [listener] = _sockets.open_listeners([_sockets.parse_bind("127.0.0.1:0")], 8, 0)
    return _core.Server(
        lambda _batch: None,
        (listener.socket.detach(),),
        wakeup_fd=-1,
        access_log=None,
        queues=plan_for(str, fastbatch.Options()).queues,
        **_server._core_arguments(fastbatch.Options()),
        **{"heartbeat_ms": 0, "roster": None, **arguments},
    )


def test_counters_are_kept_in_the_memory_that_is_given() -> None:
    memory = mmap.mmap(-1, _core.STATS_BYTES)
    empty = _core.read_stats(memory)
    assert not any(value for value in empty.values() if isinstance(value, int))
    core = core_server(stats=memory, heartbeat_ms=1)
    thread = threading.Thread(target=core.serve)
    thread.start()
    first = _core.read_stats(memory)["beat_ms"]
    while _core.read_stats(memory)["beat_ms"] <= first:
        time.sleep(0.001)
    core.stop()
    thread.join()
    assert _core.read_stats(memory) == core.stats()
    assert first < core.stats()["beat_ms"] <= time.monotonic() * 1000


@pytest.mark.parametrize("size", [0, _core.STATS_BYTES - 1])
def test_memory_for_counters_that_is_too_small_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"{_core.STATS_BYTES} bytes"):
        core_server(stats=bytearray(size))
    with pytest.raises(ValueError, match=f"{_core.STATS_BYTES} bytes"):
        _core.read_stats(bytes(size))
