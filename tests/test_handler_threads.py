"""Handler threads: a handler that blocks holds up nobody else, and order is kept."""

import logging
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gates
import helpers
import pytest
from conftest import Serve, Start
from helpers import Connection, get

import fastbatch


class Blocker:
    """A handler whose /block waits until it is let go; others answer at once."""

    def __init__(self) -> None:
        self.n_blocked = 0
        self._lock = threading.Lock()
        self._free = threading.Event()

    def __call__(self, request: fastbatch.Request) -> str:
        if request.path.startswith("/block"):
            with self._lock:
                self.n_blocked += 1
            assert self._free.wait(helpers.TIMEOUT)
        return request.path

    def free(self) -> None:
        self._free.set()

    def wait_for(self, n: int) -> None:
        helpers.wait_until(lambda: self.n_blocked >= n, "blocking")


@pytest.fixture
def blocker() -> Iterator[Blocker]:
    blocker = Blocker()
    yield blocker
    blocker.free()


def bodies(data: bytes) -> list[bytes]:
    return [reply.body for reply in helpers.parse_replies(data)]


def block(server: fastbatch.Server, blocker: Blocker, n: int) -> list[Connection]:
    """Have ``n`` threads of the server blocked."""
    connections = [Connection(server) for _ in range(n)]
    for i, connection in enumerate(connections):
        connection.send(get(f"/block/{i}"))
        blocker.wait_for(i + 1)
    return connections


# ---- nobody is held up -------------------------------------------------------------


@pytest.mark.parametrize("threads", [2, 5])
def test_others_are_served_as_long_as_a_thread_is_free(
    serve: Serve, blocker: Blocker, threads: int
) -> None:
    server = serve(blocker, threads=threads)
    blocked = block(server, blocker, threads - 1)
    with Connection(server) as connection:
        for i in range(100):
            assert connection.ask(f"/{i}").body == f"/{i}".encode()
    blocker.free()
    for i, connection in enumerate(blocked):
        assert connection.reply().body == f"/block/{i}".encode()
        connection.close()


def test_what_came_together_with_one_that_blocks_is_given_to_others(
    serve: Serve, blocker: Blocker
) -> None:
    gate = gates.Gate(blocker)
    server = serve(gate, threads=2)
    held = block(server, blocker, 1)  # one thread is busy: all below goes to the other
    with gates.connect(server, 40) as connections:
        with gate.held(server):
            for i, connection in enumerate(connections):
                connection.send(get("/block" if i == 20 else f"/{i}"))
            blocker.free()  # the first one is free again, and takes over
        for i, connection in enumerate(connections):
            expected = b"/block" if i == 20 else f"/{i}".encode()
            assert connection.reply().body == expected
    assert held[0].reply().body == b"/block/0"
    held[0].close()


def test_slots_behind_one_that_blocks_go_to_threads_that_are_idle(
    serve: Serve,
) -> None:
    started, go = threading.Event(), threading.Event()
    all_are_here = threading.Event()

    def handler(request: fastbatch.Request) -> str:
        if request.path == "/first":
            started.set()
            assert all_are_here.wait(helpers.TIMEOUT)  # both threads, for a while
        elif request.path == "/block":
            assert go.wait(helpers.TIMEOUT)
        return request.path

    server = serve(handler, threads=2)
    with gates.connect(server, 22) as (one, two, *others):
        one.send(get("/first"))
        two.send(get("/first"))
        assert started.wait(helpers.TIMEOUT)
        helpers.wait_until(lambda: server.stats()["requests"] == 2, "two busy threads")
        received = server.stats()["bytes_received"]
        for i, connection in enumerate(others):
            connection.send(get("/block" if i == 0 else "/other"))
        gates.wait_until_read(
            server, received + len(get("/block")) + 19 * len(get("/other"))
        )
        all_are_here.set()
        for connection in others[1:]:
            assert connection.reply().body == b"/other"  # /block still blocks
        # They are not only answered: what they ask next is, too.
        for connection in others[1:]:
            assert connection.ask("/again").body == b"/again"
        go.set()
        assert others[0].reply().body == b"/block"


def test_reply_leaves_before_a_later_one_of_its_connection_is_there(
    serve: Serve, blocker: Blocker
) -> None:
    server = serve(blocker, threads=1)
    with Connection(server) as connection:
        connection.send(get("/quick") + get("/block") + get("/quick"))
        assert connection.reply().body == b"/quick"
        blocker.free()
        assert connection.reply().body == b"/block"
        assert connection.reply().body == b"/quick"


def test_loop_goes_on_while_every_thread_is_blocked(
    serve: Serve, blocker: Blocker
) -> None:
    # A client that is kept from its turn before it sends is not to be one that is idle.
    server = serve(
        blocker, threads=2, head_timeout=0.1, keepalive_timeout=1.5, max_body=10
    )
    blocked = block(server, blocker, 2)
    assert helpers.talk(server, b"BAD\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert helpers.talk(server, b"GET /slow HTTP/1.1\r\n").startswith(b"HTTP/1.1 408 ")
    large = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n"
    assert helpers.talk(server, large).startswith(b"HTTP/1.1 413 ")
    assert helpers.talk(server, b"") == b""  # idle: closed
    blocker.free()
    for i, connection in enumerate(blocked):
        # These were not idle: the time of a handler is not that of its client.
        assert connection.reply().body == f"/block/{i}".encode()
        connection.close()


# ---- the queue ---------------------------------------------------------------------


def test_batch_grows_while_all_threads_are_busy(serve: Serve) -> None:
    gate = gates.Gate(lambda request: request.path)
    server = serve(gate, threads=1)
    with gates.connect(server, 60) as connections:
        with gate.held(server):
            received = server.stats()["bytes_received"]
            for i, connection in enumerate(connections):
                connection.send(get(f"/{i:02}"))
            gates.wait_until_read(server, received + 60 * len(get("/00")))
        for i, connection in enumerate(connections):
            assert connection.reply().body == f"/{i:02}".encode()
    assert gates.batch_sizes(server) == {1: 1, 60: 1}


def test_full_batch_stops_reading_and_nothing_is_lost(
    serve: Serve, blocker: Blocker
) -> None:
    server = serve(blocker, threads=1, batch_size=4)
    (blocked,) = block(server, blocker, 1)
    with gates.connect(server, 12) as connections:
        for i, connection in enumerate(connections):
            connection.send(get(f"/{i}") * 3)
        time.sleep(0.05)
        # Who finds no slot waits, and is not asked again and again.
        assert gates.is_at_rest()
        assert server.stats()["requests"] == 1
        blocker.free()
        assert blocked.reply().body == b"/block/0"
        for i, connection in enumerate(connections):
            for _ in range(3):
                assert connection.reply().body == f"/{i}".encode()
    assert max(gates.batch_sizes(server)) <= 4
    blocked.close()


@pytest.mark.parametrize("batch_size", [2, 256])
def test_who_waits_for_too_long_gets_503(
    serve: Serve, blocker: Blocker, batch_size: int
) -> None:
    server = serve(blocker, threads=1, queue_timeout=0.2, batch_size=batch_size)
    (blocked,) = block(server, blocker, 1)
    with gates.connect(server, 6) as connections:
        for connection in connections:
            connection.send(get("/late") * 2)
        for connection in connections:
            reply = connection.reply()
            assert reply.status == 503
            assert reply.headers["retry-after"] == "5"
            assert reply.headers["connection"] == "close"
            assert connection.is_closed()
    assert server.stats()["overloaded"] == 6
    blocker.free()
    assert blocked.reply().body == b"/block/0"
    assert blocked.ask("/on").body == b"/on"
    blocked.close()


def test_who_is_refused_is_told_about_the_request_that_came_first(
    serve: Serve, blocker: Blocker, tmp_path: Path
) -> None:
    log = tmp_path / "access.log"
    server = serve(blocker, threads=1, queue_timeout=0.2, access_log=str(log))
    (blocked,) = block(server, blocker, 1)
    head = get("/head").replace(b"GET", b"HEAD")
    with gates.connect(server, 2) as (one, two):
        one.send(head)
        two.send(get("/get") + head)
        assert one.rest().endswith(b"\r\n\r\n")  # and no body
        (reply,) = helpers.parse_replies(two.rest())
        assert reply.status == 503
        assert reply.body == b"503 Service Unavailable\n"
    blocker.free()
    assert blocked.reply().body == b"/block/0"
    blocked.close()
    server.stop()
    lines = log.read_text()
    assert '"HEAD /head HTTP/1.1" 503 0 ' in lines
    assert '"GET /get HTTP/1.1" 503 24 ' in lines


def test_no_time_in_the_queue_is_too_long_without_a_timeout(
    serve: Serve, blocker: Blocker
) -> None:
    server = serve(blocker, threads=1, queue_timeout=0, keepalive_timeout=0.1)
    (blocked,) = block(server, blocker, 1)
    with Connection(server) as connection:
        connection.send(get("/waits"))
        time.sleep(0.4)
        blocker.free()
        assert connection.reply().body == b"/waits"
    blocked.close()


# ---- order -------------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(serve: Serve) -> None:
    def handler(request: fastbatch.Request) -> str:
        time.sleep(0.002 * (int(request.path[1:]) % 3 == 0))
        return request.path

    server = serve(handler, threads=4)

    def ask(start: int) -> None:
        n = 60
        data = b"".join(get(f"/{start + i}") for i in range(n))
        data += get("/0", "Connection: close")
        replies = helpers.talk(server, data)
        expected = [f"/{start + i}".encode() for i in range(n)] + [b"/0"]
        assert bodies(replies) == expected

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(0, 600, 100)))


def test_10000_requests_in_one_write_are_answered_in_order(serve: Serve) -> None:
    server = serve(lambda request: request.path, threads=3)
    data = b"".join(get(f"/{i}") for i in range(9_999)) + get(
        "/end", "Connection: close"
    )
    found = bodies(helpers.talk(server, data))
    assert found == [*(f"/{i}".encode() for i in range(9_999)), b"/end"]


def test_reply_that_says_close_drops_what_was_pipelined_behind_it(
    serve: Serve,
) -> None:
    asked = []

    def handler(request: fastbatch.Request) -> Any:
        asked.append(request.path)
        return 200, {"Connection": "close"}, b"last"

    server = serve(handler, threads=2)
    replies = helpers.talk(server, get("/1") + get("/2") + get("/3"))
    assert bodies(replies) == [b"last"]
    assert asked == ["/1"]


# ---- what a handler may do ---------------------------------------------------------


def test_requests_may_be_kept_while_the_connection_goes_on(serve: Serve) -> None:
    kept: list[fastbatch.Request] = []
    go = threading.Event()

    def handler(request: fastbatch.Request) -> str:
        kept.append(request)
        if request.path == "/block":
            assert go.wait(helpers.TIMEOUT)
        return request.path

    server = serve(handler, threads=1)
    with gates.connect(server, 2) as (one, two):
        with_gate = [get("/kept", "X-A: 1"), get("/block", "X-A: 2")]
        one.send(with_gate[0])
        assert one.reply().body == b"/kept"
        two.send(with_gate[1])
        helpers.wait_until(lambda: len(kept) == 2, "blocking")
        go.set()
        assert two.reply().body == b"/block"
    assert [request.headers["x-a"] for request in kept] == ["1", "2"]
    assert [request.path for request in kept] == ["/kept", "/block"]


def test_request_stays_good_when_its_connection_was_taken_back(serve: Serve) -> None:
    go, seen = threading.Event(), []

    def handler(request: fastbatch.Request) -> str:
        if request.path == "/first":
            first.append(request)
        elif request.path == "/block":
            assert go.wait(helpers.TIMEOUT)
            # Its own dispatch lasts, but the connection of /first has gone on.
            seen.append((first[0].path, first[0].headers["x-long"], first[0].body))
        return request.path

    first: list[fastbatch.Request] = []
    gate = gates.Gate(handler)
    server = serve(gate, threads=1)
    with gates.connect(server, 2) as (one, two):
        with gate.held(server):
            received = server.stats()["bytes_received"]
            ask = gates.request(
                "/first", "X-Long: " + "x" * 900, method="POST", body=b"b" * 100
            )
            one.send(ask)
            gates.wait_until_read(server, received + len(ask))
            two.send(get("/block"))
            gates.wait_until_read(server, received + len(ask) + len(get("/block")))
        assert one.reply().body == b"/first"
        one.send(get("/" + "y" * 2000))  # it waits, but overwrites nothing
        time.sleep(0.05)
        go.set()
        assert two.reply().body == b"/block"
        assert one.reply().body == b"/" + b"y" * 2000
    assert seen == [("/first", "x" * 900, b"b" * 100)]


def test_each_thread_has_a_name_and_calls_the_handler(serve: Serve) -> None:
    barrier = threading.Barrier(3)
    names = set()

    def handler(_request: fastbatch.Request) -> str:
        barrier.wait(helpers.TIMEOUT)
        names.add(threading.current_thread().name)
        return "met"

    server = serve(handler, threads=3)
    with gates.connect(server, 3) as connections:
        for connection in connections:
            connection.send(get())
        for connection in connections:
            assert connection.reply().body == b"met"
    assert len(names) == 3
    assert all("handler" in name for name in names)


def test_handler_that_fails_hurts_its_slot_alone(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(request: fastbatch.Request) -> Any:
        if request.path == "/fail":
            raise ZeroDivisionError
        return object() if request.path == "/odd" else "well"

    server = serve(handler, threads=2)
    with Connection(server) as connection:
        for _ in range(20):
            assert connection.ask("/fail").status == 500
            assert connection.ask("/odd").status == 500
            assert connection.ask("/").body == b"well"
    assert len(gates.errors(caplog)) == 40


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_what_is_no_exception_stops_the_server(
    error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def handler(_request: fastbatch.Request) -> str:
        raise error

    server = fastbatch.Server(handler, bind="127.0.0.1:0", threads=2).start()
    assert helpers.get_url(server).status == 500
    with pytest.raises(error):
        server.stop()
    caplog.clear()


def test_handler_may_stop_its_server(serve: Serve) -> None:
    def handler(_request: fastbatch.Request) -> str:
        server.stop()
        return "bye"

    server = serve(handler, threads=2)
    with Connection(server) as connection:
        assert connection.ask().body == b"bye"
    server.stop()


# ---- clients that leave --------------------------------------------------------------


def test_client_that_resets_as_its_request_is_read_hurts_nobody(serve: Serve) -> None:
    def handler(request: fastbatch.Request) -> str:
        time.sleep(0.01)
        return request.path

    server = serve(handler, threads=2)
    # It fills the buffer, so that the loop reads on at once, and finds the reset.
    ask = get("/left", "X-Long: ")
    ask = ask.replace(b"X-Long: ", b"X-Long: " + b"x" * (4096 - len(ask)))
    for i in range(20):
        for _ in range(8):
            with socket.create_connection(server.address) as client:
                reset_at_close(client)
                client.sendall(ask)
        with Connection(server) as connection:
            assert connection.ask(f"/{i}").body == f"/{i}".encode()
    gates.wait_until_gone(server)


def reset_at_close(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# ---- streams and WSGI --------------------------------------------------------------


def test_stream_whose_next_item_is_late_holds_up_nobody(serve: Serve) -> None:
    go = threading.Event()

    pulled: list[str] = []

    def slow() -> Iterator[bytes]:
        yield b"first"
        pulled.append("second")
        assert go.wait(helpers.TIMEOUT)
        yield b"second"

    def handler(request: fastbatch.Request) -> Any:
        return (200, slow()) if request.path == "/slow" else "quick"

    server = serve(handler, threads=2)
    with Connection(server) as slow_one, Connection(server) as quick_one:
        slow_one.send(get("/slow"))
        helpers.wait_until(lambda: len(pulled) == 1, "the first item")
        for _ in range(50):
            assert quick_one.ask().body == b"quick"
        go.set()
        assert slow_one.reply().body == b"firstsecond"


def test_streams_are_closed_once_when_clients_leave(serve: Serve) -> None:
    closed = []

    class Endless:
        def __iter__(self) -> "Endless":
            return self

        def __next__(self) -> bytes:
            return b"x" * 10_000

        def close(self) -> None:
            closed.append(self)

    server = serve(lambda _request: (200, Endless()), threads=2)
    for _ in range(10):
        with Connection(server) as connection:
            connection.send(get())
            connection.socket.recv(100)
    helpers.wait_until(lambda: len(closed) == 10, "closing")
    gates.wait_until_gone(server)
    assert len(closed) == len({id(each) for each in closed}) == 10


def test_what_close_of_a_stream_raises_may_stop_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Closes:
        def __init__(self) -> None:
            self._items = iter([b"one", b"two"])

        def __iter__(self) -> Iterator[bytes]:
            return self

        def __next__(self) -> bytes:
            return next(self._items)

        def close(self) -> None:
            raise SystemExit

    server = fastbatch.Server(
        lambda _request: (200, Closes()), bind="127.0.0.1:0", threads=1
    ).start()
    with Connection(server) as connection:
        assert connection.ask().body == b"onetwo"
        assert connection.is_closed()  # without another request
    with pytest.raises(SystemExit):
        server.stop()
    caplog.clear()


def test_stream_that_is_asked_for_more_as_its_client_is_sent_away_has_one_line(
    serve: Serve, tmp_path: Path
) -> None:
    asked, go = threading.Event(), threading.Event()

    def slow() -> Iterator[bytes]:
        yield b"first"
        asked.set()
        assert go.wait(helpers.TIMEOUT)
        yield b"second"

    log = tmp_path / "access.log"
    server = serve(lambda _request: (200, slow()), threads=1, access_log=str(log))
    with Connection(server) as connection:
        connection.send(get("/slow"))
        assert asked.wait(helpers.TIMEOUT)
        stopper = threading.Thread(target=server.stop, args=(True,))
        stopper.start()
        with pytest.raises(ConnectionResetError):
            connection.rest()
        go.set()
        stopper.join(helpers.TIMEOUT)
    assert log.read_text().count('"GET /slow HTTP/1.1" 200 ') == 1


def test_the_log_does_not_wait_for_a_stream_whose_first_item_is_late(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    def slow() -> Iterator[bytes]:
        yield b""
        time.sleep(0.01)  # after which the first item that has bytes is not awaited
        yield b""
        assert go.wait(helpers.TIMEOUT)
        yield b"late"

    def either(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", [])
        return slow() if environ["PATH_INFO"] == "/slow" else [b"plain"]

    lines = keep_log(monkeypatch)
    logger = logging.getLogger("test.access")
    server = serve(either, threads=2, access_log=logger)
    with Connection(server) as connection:
        # One thread has the line to write and the stream to go on with.
        connection.send(get("/plain") + get("/slow"))
        helpers.wait_until(lambda: len(lines) == 1, "logging")
        go.set()
        assert connection.reply().body == b"plain"
        assert connection.reply().body == b"late"


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/write":
        write(b"written ")
        time.sleep(0.01)
        write(b"twice ")
    body = environ["wsgi.input"].read()
    return [body, b" ", str(environ["wsgi.multithread"]).encode()]


def test_wsgi_applications_run_in_threads(serve: Serve) -> None:
    server = serve(application, threads=3)

    def ask(n: int) -> None:
        with Connection(server) as connection:
            for i in range(30):
                body = f"{n}/{i}".encode()
                connection.send(gates.request("/", method="POST", body=body))
                assert connection.reply().body == body + b" True"
            connection.send(gates.request("/write", method="POST", body=b"b"))
            assert connection.reply().body == b"written twice b True"

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))


def test_what_write_gives_leaves_while_the_application_goes_on(serve: Serve) -> None:
    go = threading.Event()

    def writes(_environ: Any, start_response: Callable[..., Any]) -> list[bytes]:
        write = start_response("200 OK", [])
        for _ in range(100):
            write(b"w" * 10_000)
        assert go.wait(helpers.TIMEOUT)
        return [b"end"]

    server = serve(writes, threads=1)
    with Connection(server) as connection:
        connection.send(get())
        n = 0
        while n < 1_000_000:  # more than any socket holds: it goes on leaving
            n += len(connection.socket.recv(65536))
        go.set()


# ---- the end -----------------------------------------------------------------------


def test_stop_waits_for_handlers_and_answers_what_waits(
    serve: Serve, blocker: Blocker
) -> None:
    server = serve(blocker, threads=1)
    (blocked,) = block(server, blocker, 1)
    with Connection(server) as waiting:
        received = server.stats()["bytes_received"]
        waiting.send(get("/waits"))
        gates.wait_until_read(server, received + len(get("/waits")))
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        time.sleep(0.05)
        assert stopper.is_alive()
        blocker.free()
        assert blocked.reply().body == b"/block/0"
        assert waiting.reply().body == b"/waits"
        stopper.join(helpers.TIMEOUT)
        assert not stopper.is_alive()
    blocked.close()


def test_connections_are_closed_when_the_grace_is_over(
    serve: Serve, blocker: Blocker
) -> None:
    server = serve(blocker, threads=1, graceful_timeout=0.1)
    (blocked,) = block(server, blocker, 1)
    with gates.connect(server, 1) as (waiting,):
        # What is not read yet would be lost, and the connection reset.
        received = server.stats()["bytes_received"]
        waiting.send(get("/waits"))
        gates.wait_until_read(server, received + len(get("/waits")))
        stopper = threading.Thread(target=server.stop)
        stopper.start()
        assert waiting.is_closed()
        blocker.free()
        stopper.join(helpers.TIMEOUT)
        assert not stopper.is_alive()
    blocked.close()


def test_second_signal_does_not_wait_for_handlers(start: Start) -> None:
    code = """
import threading, fastbatch
def handler(_request):
    print("blocked", flush=True)
    threading.Event().wait()
fastbatch.run(handler, port=0, threads=2)
"""
    program = start("-c", code)
    address = program.address()
    with socket.create_connection(address) as client:
        client.sendall(get())
        helpers.wait_until(lambda: "blocked" in program.output)
        program.signal()
        program.wait_for("SIGINT")
        program.signal()
        assert program.wait() == -signal.SIGINT
        assert "KeyboardInterrupt" in program.errors


def test_handler_that_was_not_waited_for_may_return_later(start: Start) -> None:
    code = """
import gc, itertools, threading, time, fastbatch
go = threading.Event()
def handler(request):
    if request.path == "/stream":
        return 200, itertools.repeat(b"x" * 100_000)
    print("blocked", flush=True)
    go.wait()
    return "late"
try:
    fastbatch.run(handler, port=0, threads=2)
except KeyboardInterrupt:
    go.set()
while threading.active_count() > 1:
    time.sleep(0.01)
gc.collect()
print("all are gone", flush=True)
"""
    program = start("-c", code)
    address = program.address()
    with Connection(address) as stream, Connection(address) as blocked:
        stream.send(get("/stream"))
        assert stream.socket.recv(100)
        blocked.send(get())
        program.wait_for("blocked")
        program.signal()
        program.wait_for("SIGINT")
        program.signal()
        program.wait_for("all are gone")
        assert program.wait() == 0


def test_server_with_threads_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    for _ in range(5):
        with fastbatch.Server(lambda _: "x", bind="127.0.0.1:0", threads=4) as server:
            assert helpers.get_url(server).body == b"x"
    assert threading.active_count() == before


def keep_log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have the logger "test.access" keep its lines, with the thread of each."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(f"{threading.current_thread().name}: {record.getMessage()}")

    logger = logging.getLogger("test.access")
    monkeypatch.setattr(logger, "handlers", [Keep()])
    monkeypatch.setattr(logger, "propagate", False)
    logger.setLevel(logging.INFO)
    return lines


def test_server_may_be_stopped_before_its_threads_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    new_dispatcher = fastbatch.Server._new_dispatcher
    is_stopped = threading.Event()

    def make_late(self: fastbatch.Server, listeners: Any) -> Any:
        if "handler" in threading.current_thread().name:
            assert is_stopped.wait(helpers.TIMEOUT)
        return new_dispatcher(self, listeners)

    monkeypatch.setattr(fastbatch.Server, "_new_dispatcher", make_late)
    server = fastbatch.Server(lambda _: "x", bind="127.0.0.1:0", threads=3).start()
    server._stop(now=True)
    helpers.wait_until(lambda: is_closed(server), "closing")
    is_stopped.set()
    server.stop()


def is_closed(server: fastbatch.Server) -> bool:
    try:
        socket.create_connection(server.address).close()  # type: ignore[arg-type]
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        pass  # it stood at the door when the listener was closed
    return False


def test_server_whose_threads_do_not_start_ends_with_that_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("no more threads")

    def new_thread(target: Callable[[], None], name: str) -> threading.Thread:
        thread = threading.Thread(target=target, name=name, daemon=True)
        if name.endswith("handler 2"):
            monkeypatch.setattr(thread, "start", fail)
        return thread

    before = threading.active_count()
    monkeypatch.setattr("fastbatch._workers.new_thread", new_thread)
    server = fastbatch.Server(lambda _: "x", bind="127.0.0.1:0", threads=4).start()
    helpers.wait_until(lambda: is_closed(server), "closing")
    with pytest.raises(RuntimeError, match="no more threads"):
        server.stop()
    assert threading.active_count() == before
    caplog.clear()


def test_the_log_of_a_logger_is_written_by_a_thread(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = keep_log(monkeypatch)
    logger = logging.getLogger("test.access")
    server = serve(lambda _request: "x", threads=1, access_log=logger)
    helpers.get_url(server)
    helpers.wait_until(lambda: len(lines) == 1, "logging")
    assert "handler" in lines[0]
    assert '"GET / HTTP/1.1" 200 1' in lines[0]


def test_stream_goes_on_in_the_thread_that_its_handler_ran_in(serve: Serve) -> None:
    # What is local to a thread, as the connections of a database, is to be the same.
    local = threading.local()
    closed_in = []

    class Stream:
        def __init__(self) -> None:
            local.here = self
            self.n = 0
            self.thread = threading.current_thread()

        def __iter__(self) -> "Stream":
            return self

        def __next__(self) -> bytes:
            assert threading.current_thread() is self.thread
            self.n += 1
            if self.n > 5:
                raise StopIteration
            time.sleep(0.002)
            return b"x"

        def close(self) -> None:
            closed_in.append(threading.current_thread() is self.thread)

    server = serve(lambda _request: (200, Stream()), threads=3)

    def ask(_n: int) -> None:
        for _ in range(5):
            assert helpers.get_url(server).body == b"xxxxx"

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(ask, range(6)))
    helpers.wait_until(lambda: len(closed_in) == 30, "closing")
    assert all(closed_in)


def test_threads_without_streams_are_given_what_is_new(serve: Serve) -> None:
    go = threading.Event()

    def stream() -> Iterator[bytes]:
        yield b"first"
        assert go.wait(helpers.TIMEOUT)

    def handler(request: fastbatch.Request) -> Any:
        return (200, stream()) if request.path == "/stream" else "quick"

    server = serve(handler, threads=4)
    with gates.connect(server, 4) as (*streaming, quick):
        for connection in streaming:
            connection.send(get("/stream"))
            assert connection.socket.recv(15) == b"HTTP/1.1 200 OK"
        for _ in range(20):
            assert quick.ask("/").body == b"quick"
        go.set()


def test_whole_batches_are_dispatched_in_threads(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    busy, go = threading.Event(), threading.Event()

    def dispatcher(batch: fastbatch.Batch) -> None:
        sizes.append(len(batch))  # who asks for its length keeps all of it
        if batch[0].path == "/first":
            busy.set()
            assert go.wait(helpers.TIMEOUT)
        time.sleep(0.01)
        for i, path in enumerate([request.path for request in batch]):
            batch.reply(i, f"{path} of {len(batch)}")

    monkeypatch.setattr(
        "fastbatch._plan.dispatcher_for", lambda *_: lambda _: dispatcher
    )
    server = serve(str, threads=1)
    with gates.connect(server, 31) as (first, *others):
        first.send(get("/first"))
        assert busy.wait(helpers.TIMEOUT)
        received = server.stats()["bytes_received"]
        for i, connection in enumerate(others):
            connection.send(get(f"/{i:02}"))
        gates.wait_until_read(server, received + 30 * len(get("/00")))
        go.set()
        assert first.reply().body == b"/first of 1"
        for i, connection in enumerate(others):
            assert connection.reply().body == f"/{i:02} of 30".encode()
    assert sizes == [1, 30]
