"""Applications that do at the worst moment what nobody does: none harms the server."""

import contextlib
import gc
import gzip
import io
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gates
import helpers
import pytest
from conftest import Serve
from helpers import Connection, get
from wsgi_helpers import OK, Environ, StartResponse, replies

import fastbatch

MANY = [(f"X-{n}", "v") for n in range(16)]


# ---- start_response within start_response -------------------------------------------


def test_field_whose_end_calls_start_response(serve: Serve) -> None:
    seen: list[str] = []

    def app(_environ: Environ, start_response: StartResponse) -> list[bytes]:
        class Name(str):  # noqa: SLOT000
            def __del__(self) -> None:
                try:
                    start_response(OK, MANY)
                except fastbatch.ReplyError as error:
                    seen.append(str(error))

        start_response(OK, [(Name("X-Old"), "w")])
        start_response(OK, MANY, (ValueError, ValueError(), None))
        return [b"body"]

    reply = helpers.get_url(serve(app))
    assert (reply.status, reply.body) == (200, b"body")
    assert [name for name in reply.headers if name.startswith("X-")] == [
        name for name, _ in MANY
    ]
    gc.collect()
    assert seen == ["start_response was called again without exc_info"]


def test_item_whose_repr_calls_start_response(serve: Serve) -> None:
    def app(_environ: Environ, start_response: StartResponse) -> list[bytes]:
        class Item:
            def __repr__(self) -> str:
                start_response("201 Created", MANY)
                return "item"

        start_response(OK, [Item()])
        return [b"body"]

    assert helpers.get_url(serve(app)).status == 500


def test_threads_that_call_start_response_together(serve: Serve) -> None:
    def app(_environ: Environ, start_response: StartResponse) -> list[bytes]:
        class Name(str):  # noqa: SLOT000
            def __del__(self) -> None:
                time.sleep(0.001)  # lets the others in

        def call() -> None:
            start_response(OK, [(Name(f"X-{n}"), "v") for n in range(16)], error)

        error = (ValueError, ValueError(), None)
        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        call()
        for thread in threads:
            thread.join()
        return [b"body"]

    server = serve(app)
    for _ in range(5):
        reply = helpers.get_url(server)
        names = [name for name in reply.headers if name.startswith("X-")]
        assert (reply.status, len(names)) == (200, 16)


# ---- what clients choose ------------------------------------------------------------


def test_names_that_clients_make_up_are_not_kept(serve: Serve) -> None:
    """An interned str may be there for ever, in some builds."""
    server = serve(replies(lambda environ: [b"%d" % len(environ)]))
    with Connection(server) as connection:
        for n in range(400):
            names = [f"X-Made-Up-{n}-{k}: v" for k in range(90)]
            connection.ask("/", *names)
            if n == 100:
                gc.collect()
                before = sys.getallocatedblocks()
        gc.collect()
    assert sys.getallocatedblocks() - before < 5000  # of 27,000 names


# ---- files that are not what they seem ----------------------------------------------


def test_decompressed_file_is_sent_as_it_is_read(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "text.gz"
    path.write_bytes(gzip.compress(b"text " * 2000))

    def body(environ: Environ) -> Any:
        opened: Any = gzip.open(path)  # noqa: SIM115 - the server closes it
        return environ["wsgi.file_wrapper"](io.BufferedReader(opened))

    assert helpers.get_url(serve(replies(body))).body == b"text " * 2000


def test_file_that_cannot_be_read_is_a_500(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "unreadable"
    path.write_bytes(b"bytes")

    def body(environ: Environ) -> Any:
        return environ["wsgi.file_wrapper"](path.open("ab", buffering=0))

    assert helpers.get_url(serve(replies(body))).status == 500


# ---- lengths ------------------------------------------------------------------------


def test_head_of_what_yields_nothing_promises_no_length(serve: Serve) -> None:
    def body(_environ: Environ) -> Iterator[bytes]:
        end = time.monotonic() + 0.05
        while time.monotonic() < end:
            yield b""

    with Connection(serve(replies(body))) as connection:
        connection.send(get().replace(b"GET", b"HEAD"))
        assert connection.reply("HEAD").headers["Content-Length"] is None
        assert connection.ask().body == b""


def test_nothing_is_asked_for_once_all_was_written(serve: Serve) -> None:
    asked: list[str] = []

    def app(_environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
        start_response(OK, [("Content-Length", "4")])(b"body")
        return iter(lambda: asked.append("again") or b"x", None)

    with Connection(serve(app)) as connection:
        assert [connection.ask().body for _ in range(3)] == [b"body"] * 3
    assert asked == []


# ---- clients that read slowly what is written ---------------------------------------


def test_write_waits_for_nobody(serve: Serve) -> None:
    size = 30_000_000

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response(OK, [])
        if environ["PATH_INFO"] == "/much":
            for _ in range(size // 100_000):
                write(bytes(100_000))
        return [b"end"]

    server = serve(app)
    with Connection(server) as slow, Connection(server) as other:
        slow.send(get("/much") + get("/behind"))
        helpers.wait_until(lambda: server.stats()["requests"] > 0)
        assert other.ask().body == b"end"  # while the slow one has read nothing
        assert slow.reply().body == bytes(size) + b"end"
        assert slow.reply().body == b"end"


def temporary_files() -> list[str]:
    """Those that this process has open: they have no name any more."""
    return [name for name in helpers.open_files().values() if "(deleted)" in name]


def test_write_behind_a_stream_does_not_fill_the_memory(serve: Serve) -> None:
    before = temporary_files()

    def app(environ: Environ, start_response: StartResponse) -> Any:
        write = start_response(OK, [])
        if environ["PATH_INFO"] == "/stream":
            return (b"%d " % n for n in range(100))
        for _ in range(100):
            write(bytes(100_000))
        return [b"end"]

    server = serve(app)
    with Connection(server) as connection:
        connection.send(get("/stream") + get("/written") + get("/stream"))
        stream = b"".join(b"%d " % n for n in range(100))
        assert connection.reply().body == stream
        assert connection.reply().body == bytes(10_000_000) + b"end"
        assert connection.reply().body == stream
    gates.wait_until_gone(server)
    helpers.wait_until(lambda: temporary_files() == before, "closing")


def test_write_that_fails_breaks_the_reply_off(start: Any) -> None:
    """The disk is full: what is missing must not go unnoticed, whatever is caught."""
    program = start("-c", FULL_DISK)
    with Connection(program.address()) as connection:
        connection.send(get("/length") + get("/behind"))
        program.wait_for("OSError")
        received = rest_or_reset(connection)
    assert len(received) < 12_000_000
    assert b"behind" not in received
    with Connection(program.address()) as connection:
        connection.send(get("/chunked"))
        program.wait_for("OSError.*\\n.*OSError")
        assert not rest_or_reset(connection).endswith(b"0\r\n\r\n")


def rest_or_reset(connection: Connection) -> bytes:
    with contextlib.suppress(ConnectionResetError):
        connection.rest()
    return connection.received


FULL_DISK = """
import contextlib, resource, signal, fastbatch
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

def app(environ, start_response):
    path = environ["PATH_INFO"]
    fields = [("Content-Length", "12000000")] if path == "/length" else []
    write = start_response("200 OK", fields)
    if path != "/behind":
        for _ in range(120):
            try:
                write(bytes(100_000))
            except OSError as error:
                print(type(error).__name__, flush=True)
                break
    return [path.encode()] if path != "/length" else []

fastbatch.run(app, port=0)
"""


def test_write_that_is_kept_holds_no_file(serve: Serve) -> None:
    before = temporary_files()
    kept: list[Any] = []

    def app(_environ: Environ, start_response: StartResponse) -> list[bytes]:
        write = start_response(OK, [])
        kept.append(write)
        for _ in range(100):
            write(bytes(100_000))
        return []

    server = serve(app)
    for _ in range(5):
        assert len(helpers.get_url(server).body) == 10_000_000
    gates.wait_until_gone(server)
    helpers.wait_until(lambda: temporary_files() == before, "closing")
    for write in kept:
        with pytest.raises(RuntimeError):
            write(b"late")


# ---- what stops the server ----------------------------------------------------------


class Leaves:
    """It raises to stop the server, and once more when it is closed."""

    def __iter__(self) -> "Leaves":
        return self

    def __next__(self) -> bytes:
        raise SystemExit(3)

    def close(self) -> None:
        raise SystemExit(4)


def test_first_exception_that_stops_the_server_is_the_one_raised(serve: Serve) -> None:
    server = serve(replies(lambda _environ: Leaves()))
    with Connection(server) as connection:
        connection.send(get())
        assert connection.reply().status == 500
    with pytest.raises(SystemExit) as raised:
        server.stop()
    assert raised.value.code == 3


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(lambda _environ: [None], id="report"),
        pytest.param(lambda _environ: iter([b"a", None]), id="stream"),
    ],
)
def test_interrupt_within_the_log_stops_the_server(
    serve: Serve, body: Callable[[Environ], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    records: list[logging.LogRecord] = []

    class Interrupted(logging.Handler):
        def emit(self, _record: logging.LogRecord) -> None:
            if not records:
                records.append(_record)
                raise KeyboardInterrupt

    log = logging.getLogger("fastbatch")
    server = serve(replies(body))
    monkeypatch.setattr(log, "propagate", False)
    monkeypatch.setattr(log, "handlers", [Interrupted()])
    with Connection(server) as connection:
        connection.send(get("/", "Connection: close"))
        rest_or_reset(connection)
    monkeypatch.undo()
    with pytest.raises(KeyboardInterrupt):
        server.stop()
