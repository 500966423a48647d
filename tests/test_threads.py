"""Several servers in a process, requests in several threads, and no GIL."""

import dataclasses
import json
import queue
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gates
import helpers
import pytest
from conftest import Serve, Start
from helpers import Connection, get
from wsgi_helpers import OK, Environ, StartResponse

import fastbatch

free_threaded = pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python has a GIL"
)


def in_threads(*functions: Callable[[], Any]) -> list[Any]:
    """Call all at once; what they return."""
    barrier = threading.Barrier(len(functions))

    def call(function: Callable[[], Any]) -> Any:
        barrier.wait()
        return function()

    with ThreadPoolExecutor(len(functions)) as pool:
        return list(pool.map(call, functions))


# ---- no GIL -------------------------------------------------------------------------


@free_threaded
@pytest.mark.parametrize("module", ["fastbatch", "fastbatch._core"])
def test_import_does_not_turn_the_gil_on(start: Start, module: str) -> None:
    code = f"import sys, {module}; print('GIL:', sys._is_gil_enabled())"
    program = start("-W", "error", "-c", code)
    assert program.wait() == 0
    assert "GIL: False" in program.output


def plain(_request: fastbatch.Request) -> str:
    return str(is_gil_enabled())


def streaming(_request: fastbatch.Request) -> tuple[int, Iterator[bytes]]:
    return 200, (str(is_gil_enabled()).encode() for _ in range(1))


def wsgi(_environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    write = start_response(OK, [])
    write(str(is_gil_enabled()).encode()[:1])
    return (str(is_gil_enabled()).encode()[1:] for _ in range(1))


@free_threaded
@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("handler", [plain, streaming, wsgi])
def test_serving_does_not_turn_the_gil_on(
    serve: Serve, tmp_path: Path, handler: Callable[..., Any], threads: int
) -> None:
    log = str(tmp_path / "access.log")
    server = serve(handler, threads=threads, access_log=log)
    with Connection(server) as connection:
        for _ in range(10):
            assert connection.ask().body == b"False"
    server.stop()
    assert not is_gil_enabled()


PROGRAM = """\
import fastbatch, json, sys, test_threads

options = json.loads(sys.argv[1])
fastbatch.run(test_threads.plain, bind="127.0.0.1:0", **options)
print("GIL:", sys._is_gil_enabled())
"""

# What run() may do besides serving on the main thread, if it can.
OPTIONS: list[dict[str, Any]] = [{}, {"threads": 2}]
if "workers" in {field.name for field in dataclasses.fields(fastbatch.Options)}:
    OPTIONS += [
        {"workers": 2, "processes": False},
        {"workers": 2, "processes": False, "threads": 2},
        {"workers": 2, "processes": True},
    ]


@free_threaded
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_run_does_not_turn_the_gil_on(start: Start, options: dict[str, Any]) -> None:
    program = start("-W", "error", "-c", PROGRAM, json.dumps(options))
    address = program.address()
    for _ in range(10):
        with Connection(address) as connection:
            assert connection.ask().body == b"False"
    program.signal()
    assert program.wait() == 0, program.errors
    assert "GIL: False" in program.output


def is_gil_enabled() -> bool:
    enabled: bool = sys._is_gil_enabled()  # type: ignore[attr-defined]
    return enabled


# ---- several servers ----------------------------------------------------------------


def test_servers_serve_side_by_side(serve: Serve) -> None:
    def make(name: str) -> fastbatch.Server:
        return serve(lambda request: name + request.path)

    names = ["a", "b", "c", "d"]
    servers = [make(name) for name in names]

    def ask(server: fastbatch.Server) -> list[bytes]:
        with Connection(server) as connection:
            return [connection.ask(f"/{i}").body for i in range(100)]

    found = in_threads(*[lambda server=server: ask(server) for server in servers * 2])
    for name, bodies in zip(names * 2, found, strict=True):
        assert bodies == [f"{name}/{i}".encode() for i in range(100)]


def test_servers_start_and_stop_while_others_serve(serve: Serve) -> None:
    server = serve(lambda _request: "x")

    def come_and_go() -> None:
        for _ in range(10):
            with fastbatch.Server(lambda _: "y", bind="127.0.0.1:0") as other:
                assert helpers.get_url(other).body == b"y"

    def ask() -> None:
        with Connection(server) as connection:
            for _ in range(200):
                assert connection.ask().body == b"x"

    in_threads(come_and_go, come_and_go, ask)


def test_handler_may_ask_another_server(serve: Serve) -> None:
    other = serve(lambda request: request.path)
    server = serve(lambda request: helpers.get_url(other, request.path).body)
    assert helpers.get_url(server, "/path").body == b"/path"


def test_server_may_be_used_by_many_threads(serve: Serve) -> None:
    server = serve(lambda request: request.path)

    def ask(n: int) -> None:
        with Connection(server) as connection:
            for i in range(50):
                assert connection.ask(f"/{n}/{i}").body == f"/{n}/{i}".encode()

    def look() -> None:
        for _ in range(200):
            stats = server.stats()
            assert stats["requests"] <= 400
            assert len(server.addresses) == 1

    in_threads(look, look, *[lambda n=n: ask(n) for n in range(8)])
    assert server.stats()["requests"] == 400


# ---- stop ---------------------------------------------------------------------------


@pytest.mark.parametrize("now", [[False] * 8, [True] * 8, [False, True] * 4], ids=str)
def test_stop_may_be_called_by_many_threads_at_once(
    serve: Serve, now: list[bool]
) -> None:
    server = serve(lambda _request: "x")
    helpers.get_url(server)
    in_threads(*[lambda n=n: server.stop(now=n) for n in now])
    server.stop()


STOP_ALL = """\
import fastbatch, threading

def stop_all():
    barrier.wait()
    for server in servers:
        server.stop(now=True)

for _ in range(30):
    servers = [
        fastbatch.Server(lambda request: "x", bind="127.0.0.1:0").start()
        for _ in range(16)
    ]
    barrier = threading.Barrier(8)
    threads = [threading.Thread(target=stop_all) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print("survived")
"""


def test_many_servers_may_be_stopped_by_many_threads_at_once(start: Start) -> None:
    """In its own process, which atexit.unregister() of a 3.13t would bring down."""
    program = start("-c", STOP_ALL)
    assert program.wait() == 0, program.errors
    assert program.output == "survived\n"


def test_stop_by_the_handler_does_not_wait_for_itself(serve: Serve) -> None:
    def handler(_request: fastbatch.Request) -> str:
        server.stop()
        return "last"

    server = serve(handler)
    with Connection(server) as connection:
        assert connection.ask().body == b"last"
        assert connection.is_closed()
    server.stop()


@pytest.mark.parametrize("now", [True, False])
def test_stop_waits_for_the_handler_that_runs(serve: Serve, *, now: bool) -> None:
    is_entered, may_leave = threading.Event(), threading.Event()
    ended: list[str] = []

    def handler(_request: fastbatch.Request) -> str:
        is_entered.set()
        assert may_leave.wait(helpers.TIMEOUT)
        ended.append("handler")
        return "x"

    def stop() -> None:
        server.stop(now=now)
        ended.append("stop")

    server = serve(handler)
    with Connection(server) as connection:
        connection.send(get())
        assert is_entered.wait(helpers.TIMEOUT)
        stopper = threading.Thread(target=stop)
        stopper.start()
        may_leave.set()
        stopper.join()
    assert ended == ["handler", "stop"]


# ---- requests in other threads ------------------------------------------------------


def test_requests_may_be_worked_on_by_other_threads(serve: Serve) -> None:
    work: queue.SimpleQueue[fastbatch.Request | None] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[str, str, bytes]] = queue.SimpleQueue()

    def worker() -> None:
        while (request := work.get()) is not None:
            done.put((request.path, request.headers["x-a"], request.body))

    n = 500
    server = serve(work.put)
    data = b"".join(
        gates.request(f"/{i}", f"X-A: {i}", method="POST", body=b"%d" % i * 50)
        for i in range(n)
    )
    workers = [threading.Thread(target=worker) for _ in range(3)]
    for thread in workers:
        thread.start()
    try:
        helpers.talk(server, data, replies=n)
        found = {done.get(timeout=helpers.TIMEOUT) for _ in range(n)}
    finally:
        for _ in workers:
            work.put(None)
        for thread in workers:
            thread.join()
    assert found == {(f"/{i}", str(i), b"%d" % i * 50) for i in range(n)}


def test_request_may_be_read_by_many_threads_at_once(serve: Serve) -> None:
    found: list[Any] = []

    def handler(request: fastbatch.Request) -> None:
        def read() -> tuple[Any, ...]:
            headers = request.headers
            return (
                request.path,
                request.target,
                request.query_string,
                request.body,
                request.client,
                headers["x-a"],
                tuple(headers.raw),
            )

        found.append(in_threads(*[read] * 6))

    with Connection(serve(handler)) as connection:
        for i in range(20):
            data = gates.request(f"/{i}?{i}", f"X-A: {i}", method="POST", body=b"body")
            connection.send(data)
            connection.reply()
    for i, values in enumerate(found):
        assert len(set(values)) == 1
        assert values[0][:4] == (f"/{i}", f"/{i}?{i}", str(i), b"body")


def test_last_reference_may_be_dropped_by_another_thread(serve: Serve) -> None:
    dropped = threading.Semaphore(0)
    work: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def drop() -> None:
        while (item := work.get()) is not None:
            del item
            dropped.release()

    def handler(request: fastbatch.Request) -> None:
        work.put([request, request.headers, request.body])

    thread = threading.Thread(target=drop)
    thread.start()
    try:
        data = gates.request(method="POST", body=b"x" * 1000) * 500
        helpers.talk(serve(handler), data, replies=500)
        for _ in range(500):
            assert dropped.acquire(timeout=helpers.TIMEOUT)
    finally:
        work.put(None)
        thread.join()


# ---- forks --------------------------------------------------------------------------


def test_handler_may_start_processes(serve: Serve) -> None:
    def handler(_request: fastbatch.Request) -> bytes:
        return subprocess.run(["echo", "x"], check=True, capture_output=True).stdout

    assert helpers.get_url(serve(handler)).body == b"x\n"
