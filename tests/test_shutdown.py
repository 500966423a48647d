"""How a server ends: what has arrived is answered, and signals are as before."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import helpers
import pytest
from conftest import Serve, Start
from helpers import Connection

import fastbatch
from fastbatch import _signals

SIGNALS = [signal.SIGINT, signal.SIGTERM]


class Gate:
    """A handler that waits until the test lets it answer."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, request: fastbatch.Request) -> str:
        self.entered.set()
        assert self.opened.wait(helpers.TIMEOUT)
        return request.path


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()


def stop_in_thread(server: fastbatch.Server) -> threading.Thread:
    """Have a thread stop it, which waits for its end; returns when it was told."""
    thread = threading.Thread(target=server.stop)
    thread.start()
    helpers.wait_until(server._running().is_stopping, "stop() being called")
    return thread


def seconds_to_stop(server: fastbatch.Server, now: bool = False) -> float:
    start = time.monotonic()
    server.stop(now)
    return time.monotonic() - start


# ---- stop() -----------------------------------------------------------------------


def test_request_in_the_handler_is_answered(serve: Serve, gate: Gate) -> None:
    server = serve(gate)
    with Connection(server) as connection:
        connection.send(helpers.get("/last"))
        gate.entered.wait()
        thread = stop_in_thread(server)
        time.sleep(0.05)
        assert thread.is_alive()
        gate.opened.set()
        reply = connection.reply()
        assert reply.body == b"/last"
        assert reply.headers["Connection"] == "close"
        assert connection.is_closed()
        thread.join(helpers.TIMEOUT)
    assert not thread.is_alive()


@pytest.mark.parametrize("batch_size", [1, 256])
def test_what_was_pipelined_behind_it_is_answered_in_order(
    serve: Serve, gate: Gate, batch_size: int
) -> None:
    server = serve(gate, batch_size=batch_size)
    with Connection(server) as connection:
        connection.send(b"".join(helpers.get(f"/{n}") for n in range(20)))
        gate.entered.wait()
        thread = stop_in_thread(server)
        time.sleep(0.05)
        gate.opened.set()
        replies = helpers.parse_replies(connection.rest())
        assert [reply.body.decode() for reply in replies] == [
            f"/{n}" for n in range(20)
        ]
        # RFC 9112 9.6: after that word nothing more is answered, so it is the last.
        said = [reply.headers["Connection"] for reply in replies]
        assert said == [None] * 19 + ["close"]
        thread.join(helpers.TIMEOUT)


def test_what_another_connection_has_sent_is_answered(serve: Serve, gate: Gate) -> None:
    server = serve(gate)
    with Connection(server) as first, Connection(server) as second:
        helpers.wait_until(lambda: server.stats()["connections"] == 2)
        first.send(helpers.get("/first"))
        gate.entered.wait()
        second.send(helpers.get("/second"))
        thread = stop_in_thread(server)
        time.sleep(0.05)
        gate.opened.set()
        assert helpers.parse_replies(second.rest())[0].body == b"/second"
        thread.join(helpers.TIMEOUT)


def test_connection_that_waits_in_the_backlog_is_answered(
    serve: Serve, gate: Gate
) -> None:
    server = serve(gate)
    with Connection(server) as first:
        first.send(helpers.get("/first"))
        gate.entered.wait()
        # The loop is in the handler: it has not accepted this one when it stops.
        with Connection(server) as second:
            second.send(helpers.get("/second"))
            thread = stop_in_thread(server)
            time.sleep(0.05)
            gate.opened.set()
            assert helpers.parse_replies(second.rest())[0].body == b"/second"
        thread.join(helpers.TIMEOUT)


def test_idle_connections_do_not_hold_up_the_end(serve: Serve) -> None:
    server = serve(lambda _: "hello", keepalive_timeout=0, graceful_timeout=0)
    with Connection(server) as used, Connection(server) as unused:
        used.ask()
        helpers.wait_until(lambda: server.stats()["connections"] == 2)
        assert seconds_to_stop(server) < helpers.TIMEOUT
        assert used.is_closed()
        assert unused.is_closed()


@pytest.mark.parametrize("part", [b"", b"\r\n"])
def test_connection_that_is_new_may_ask_once(serve: Serve, part: bytes) -> None:
    """While a worker is replaced nobody else answers it, for it was accepted."""
    server = serve(lambda request: request.path)
    with Connection(server) as connection:
        connection.send(part)
        helpers.wait_until(lambda: server.stats()["connections"] == 1)
        helpers.wait_until(lambda: server.stats()["bytes_received"] == len(part))
        thread = stop_in_thread(server)
        time.sleep(0.1)
        connection.send(helpers.get("/first"))
        reply = connection.reply()
        assert reply.body == b"/first"
        assert reply.headers["Connection"] == "close"
        assert connection.is_closed()
        thread.join(helpers.TIMEOUT)
        assert not thread.is_alive()


def test_new_connections_are_refused(serve: Serve, gate: Gate) -> None:
    server = serve(gate)
    with Connection(server) as connection:
        connection.send(helpers.get())
        gate.entered.wait()
        thread = stop_in_thread(server)
        gate.opened.set()
        thread.join(helpers.TIMEOUT)
        with pytest.raises(ConnectionRefusedError):
            Connection(server)


def test_reply_that_nobody_reads_ends_with_graceful_timeout(serve: Serve) -> None:
    server = serve(lambda _: b"x" * 50_000_000, graceful_timeout=0.5)
    with Connection(server) as connection:
        connection.send(helpers.get())
        helpers.wait_until(lambda: server.stats()["requests"] == 1)
        assert 0.3 < seconds_to_stop(server) < 5


def test_reply_that_is_read_slowly_is_sent_to_its_end(serve: Serve) -> None:
    server = serve(lambda _: b"x" * 20_000_000)
    with Connection(server) as connection:
        connection.send(helpers.get())
        helpers.wait_until(lambda: server.stats()["requests"] == 1)
        thread = stop_in_thread(server)
        time.sleep(0.1)
        assert len(connection.reply().body) == 20_000_000
        thread.join(helpers.TIMEOUT)


@pytest.mark.parametrize(
    "part",
    [b"GET / HT", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf"],
)
def test_half_a_request_does_not_hold_up_the_end(serve: Serve, part: bytes) -> None:
    server = serve(lambda _: "hello", graceful_timeout=0.5)
    with Connection(server) as connection:
        connection.send(part)
        helpers.wait_until(lambda: server.stats()["bytes_received"] == len(part))
        assert seconds_to_stop(server) < 5


def test_now_closes_whatever_is_owed(serve: Serve) -> None:
    server = serve(lambda _: b"x" * 50_000_000)
    with Connection(server) as connection:
        connection.send(helpers.get())
        helpers.wait_until(lambda: server.stats()["requests"] == 1)
        assert seconds_to_stop(server, now=True) < helpers.TIMEOUT


def test_now_ends_a_graceful_stop(serve: Serve) -> None:
    server = serve(lambda _: b"x" * 50_000_000, graceful_timeout=0)
    with Connection(server) as connection:
        connection.send(helpers.get())
        helpers.wait_until(lambda: server.stats()["requests"] == 1)
        thread = stop_in_thread(server)
        time.sleep(0.1)
        assert thread.is_alive()
        assert seconds_to_stop(server, now=True) < helpers.TIMEOUT
        thread.join(helpers.TIMEOUT)
        assert not thread.is_alive()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_replies_that_were_given_are_sent_when_a_handler_ends_it(
    error: type[BaseException],
) -> None:
    def handler(request: fastbatch.Request) -> str:
        if request.path == "/end":
            raise error
        return request.path

    server = fastbatch.Server(handler, bind="127.0.0.1:0").start()
    with Connection(server) as connection:
        connection.send(helpers.get("/1") + helpers.get("/2") + helpers.get("/end"))
        replies = helpers.parse_replies(connection.rest())
    assert [reply.body for reply in replies[:2]] == [b"/1", b"/2"]
    assert [reply.status for reply in replies[2:]] in ([], [500], [503])
    with pytest.raises(error):
        server.stop()


# ---- signals ----------------------------------------------------------------------

# Runs until a signal; then says whether everything is as it was before. What is to be
# different is in the variables handler, options and prepare.
PROGRAM = """
import os, signal, socket, sys, threading, time
import fastbatch

def handler(request):
    if request.path == "/slow":
        print("in the handler", flush=True)
        while not os.path.exists("go"):
            time.sleep(0.01)
    elif request.path == "/stuck":
        print("in the handler", flush=True)
        while True:
            time.sleep(0.01)  # a signal just before it would not wake a longer one
    elif request.path == "/exit":
        sys.exit(3)
    return "answered"

options = {{"port": 0}}
reader, writer = socket.socketpair()
writer.setblocking(False)
signal.set_wakeup_fd(writer.fileno())
signal.signal(signal.SIGTERM, lambda *_: print("previous handler", flush=True))
{prepare}

def state():
    fd = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(fd)
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
    return [fd, *(signal.getsignal(number) for number in numbers)]

before = state()
try:
    fastbatch.run(handler, **options)
except BaseException as error:
    print("raised", type(error).__name__, error, flush=True)
else:
    print("returned", flush=True)
print("restored" if state() == before else f"{{before}} became {{state()}}")
"""


def program(tmp_path: Path, prepare: str = "") -> str:
    """The name of the script above, in ``tmp_path``."""
    (tmp_path / "program.py").write_text(PROGRAM.format(prepare=prepare))
    return "program.py"


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_ends_run_in_good_order(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    process = start(program(tmp_path))
    with Connection(process.address()) as connection:
        connection.ask()
        process.signal(number)
        assert connection.is_closed()
    assert process.wait() == 0
    assert process.output == "returned\nrestored\n"
    assert f"{number.name}: answering what has arrived, then ending" in process.errors
    assert "Traceback" not in process.errors


@pytest.mark.parametrize("number", SIGNALS)
def test_signal_lets_the_handler_answer(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    process = start(program(tmp_path))
    with Connection(process.address()) as connection:
        connection.send(helpers.get("/slow"))
        process.wait_for("in the handler")
        process.signal(number)
        process.wait_for("answering what has arrived")
        (tmp_path / "go").touch()
        reply = connection.reply()
        assert reply.body == b"answered"
        assert reply.headers["Connection"] == "close"
    assert process.wait() == 0
    assert process.output == "in the handler\nreturned\nrestored\n"


@pytest.mark.parametrize("number", SIGNALS)
def test_second_signal_interrupts_the_handler(
    start: Start, tmp_path: Path, number: signal.Signals
) -> None:
    process = start(program(tmp_path))
    with Connection(process.address()) as connection:
        connection.send(helpers.get("/stuck"))
        process.wait_for("in the handler")
        process.signal(number)
        process.wait_for("answering what has arrived")
        process.signal(number)
        assert process.wait() == 0
    assert process.output == "in the handler\nraised KeyboardInterrupt \nrestored\n"


def test_second_signal_ends_a_graceful_stop(start: Start, tmp_path: Path) -> None:
    prepare = "handler = lambda request: b'x' * 50_000_000"
    process = start(program(tmp_path, prepare))
    with Connection(process.address()) as connection:
        connection.send(helpers.get())
        assert connection._tape.read(1) == b"H"
        process.signal(signal.SIGTERM)
        process.wait_for("answering what has arrived")
        process.signal(signal.SIGINT)
        assert process.wait() == 0
    assert process.output == "raised KeyboardInterrupt \nrestored\n"


def test_exit_of_the_handler_restores_the_signals(start: Start, tmp_path: Path) -> None:
    process = start(program(tmp_path))
    with Connection(process.address()) as connection:
        connection.send(helpers.get("/exit"))
        connection.rest()
    assert process.wait() == 0
    assert process.output == "raised SystemExit 3\nrestored\n"


def test_address_in_use_leaves_the_signals_alone(start: Start, tmp_path: Path) -> None:
    prepare = """
other = socket.create_server(("127.0.0.1", 0))
options = {"port": other.getsockname()[1]}
"""
    process = start(program(tmp_path, prepare))
    assert process.wait() == 0
    assert process.output.startswith("raised BindError cannot listen on 127.0.0.1:")
    assert process.output.endswith("\nrestored\n")


def test_other_signals_reach_their_handlers_while_it_serves(
    start: Start, tmp_path: Path
) -> None:
    prepare = """
signal.signal(signal.SIGUSR1, lambda *_: print("got SIGUSR1", flush=True))
"""
    process = start(program(tmp_path, prepare))
    process.address()
    process.signal(signal.SIGUSR1)
    process.wait_for("got SIGUSR1")
    process.signal()
    assert process.wait() == 0


def test_error_of_another_signal_handler_is_logged(
    start: Start, tmp_path: Path
) -> None:
    prepare = "signal.signal(signal.SIGUSR1, lambda *_: 1 / 0)"
    process = start(program(tmp_path, prepare))
    with Connection(process.address()) as connection:
        connection.ask()  # it serves: what the signal raises is not raised by run()
        process.signal(signal.SIGUSR1)
        process.wait_for("ZeroDivisionError")
        assert connection.ask().body == b"answered"
    process.signal()
    assert process.wait() == 0


def test_another_thread_serves_without_signals(start: Start, tmp_path: Path) -> None:
    prepare = """
run = fastbatch.run
def in_thread(*arguments, **options):
    threading.Thread(target=run, args=arguments, kwargs=options, daemon=True).start()
    try:
        time.sleep(60)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
fastbatch.run = in_thread
"""
    process = start(program(tmp_path, prepare))
    with Connection(process.address()) as connection:
        assert connection.ask().body == b"answered"
    process.signal(signal.SIGTERM)
    process.wait_for("previous handler")
    process.signal(signal.SIGINT)
    assert process.wait() == 0
    assert process.output == "previous handler\ninterrupted\nreturned\nrestored\n"


def test_stop_may_interrupt_whoever_looks_at_the_workers(serve: Serve) -> None:
    """A signal handler does, on the main thread: it has to get the lock, too."""
    server = serve(lambda _request: "x")
    workers = server._workers
    assert workers is not None

    def interrupt() -> None:
        with workers._lock:
            workers.stop()

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    thread.join(helpers.TIMEOUT)
    assert not thread.is_alive()


def test_many_signals_at_once_end_it(start: Start, tmp_path: Path) -> None:
    process = start(program(tmp_path))
    process.address()
    for number in [signal.SIGINT, signal.SIGTERM] * 20:
        if process.is_running():
            process.signal(number)
    # In good order, at once, or just after the previous handlers were back.
    process.wait()
    assert "Fatal" not in process.errors


@pytest.fixture
def kept_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("kept_signals")
def test_signal_that_comes_too_late_goes_to_the_previous_handler() -> None:
    seen: list[int] = []
    previous = {
        n: signal.signal(n, lambda number, _: seen.append(number)) for n in SIGNALS
    }
    assert previous
    signals = _signals.Signals(lambda _now: pytest.fail("it is over"))
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        signals.install(writer.fileno())
        signals.is_over = True
        os.kill(os.getpid(), signal.SIGTERM)
        assert seen == []
        signals.restore()
    assert seen == [signal.SIGTERM]


@pytest.mark.usefixtures("kept_signals")
def test_handler_that_python_cannot_put_back_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda _number: None)
    installed: list[int] = []
    monkeypatch.setattr(signal, "signal", lambda number, _: installed.append(number))
    signals = _signals.Signals(lambda _now: None)
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        signals.install(writer.fileno())
        signals.restore()
    assert installed == []
