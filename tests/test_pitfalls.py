"""Where servers of this kind have failed: the classes of failures, and what is ours.

``PITFALLS`` names the tests that show each; those that have no other place are here.
"""

import contextlib
import re
import resource
import select
import socket
import struct
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gates
import helpers
import pytest
from conftest import Serve, Start
from helpers import Connection, get

import fastbatch

# Number and what must hold: the tests, as file::test, or as files of requests.
PITFALLS = {
    "1 both Content-Length and Transfer-Encoding are 400": [
        "wire/reject/400-transfer-encoding-and-content-length.http",
        "wire/reject/400-transfer-encoding-and-content-length-zero.http",
    ],
    "2 Content-Length twice is 400": [
        "wire/reject/400-content-length-twice-differing.http",
        "wire/reject/400-content-length-twice-the-same.http",
    ],
    "3 any other Transfer-Encoding is 400 or 501": [
        "wire/reject/400-transfer-encoding-vertical-tab-before.http",
        "wire/reject/501-transfer-encoding-gzip-chunked.http",
        "wire/reject/400-transfer-encoding-chunked-not-last.http",
        "wire/reject/400-transfer-encoding-on-http-1.0.http",
    ],
    "4 a Content-Length that is not digits is 400": [
        "wire/reject/400-content-length-plus.http",
        "wire/reject/400-content-length-minus.http",
        "wire/reject/400-content-length-hexadecimal.http",
        "wire/reject/400-content-length-space-within.http",
        "wire/reject/400-content-length-overflow.http",
    ],
    "5 a space before the colon is 400": [
        "wire/reject/400-field-space-before-colon.http",
        "wire/reject/400-content-length-space-before-colon.http",
    ],
    "6 chunks of any other form are 400": [
        "wire/reject/400-chunk-size-bare-lf.http",
        "wire/reject/400-chunk-extension-bare-lf.http",
        "wire/reject/400-chunk-extension-quoted-crlf.http",
        "wire/reject/400-chunk-extension-empty-name.http",
        "wire/reject/400-chunk-size-not-hexadecimal.http",
        "wire/reject/400-chunk-size-overflow.http",
        "wire/reject/400-chunk-data-bare-lf.http",
        "wire/reject/400-chunk-data-too-long.http",
    ],
    "7 nothing is parsed behind a bad message": [
        "test_pipelining::test_nothing_is_answered_behind_a_bad_request",
        "test_wire::test_rejected",
    ],
    "8 replies keep their order": [
        "test_pipelining::test_order_does_not_depend_on_how_long_a_handler_takes",
        "test_batching::test_full_batch_mixes_connections_and_keeps_the_order_of_each",
    ],
    "9 10,000 requests in one write are answered": [
        "test_pipelining::test_10_000_requests_in_one_write_are_answered_in_order",
    ],
    "10 no byte is dropped, or read twice": [
        "test_pipelining::test_requests_in_any_split_are_answered_in_order",
        "test_pipelining::test_large_bodies_can_be_pipelined",
        "wire/accept/chunked-body-looks-like-a-request.http",
        "wire/accept/content-length-body-looks-like-a-request.http",
    ],
    "11 large uploads pass or get 413; memory returns": [
        "test_clients::test_requests_large_upload",
        "test_clients::test_requests_sees_413_while_it_uploads_100_mb",
        "test_pitfalls::test_memory_of_large_uploads_is_given_back",
    ],
    "12 half-closed and reset: the CPU stays idle": [
        "test_pitfalls::test_cpu_stays_idle_when_a_client_half_closes_or_resets",
        "test_leaving::test_many_clients_that_leave_together_let_the_server_rest",
    ],
    "13 a client that leaves before its reply harms nobody": [
        "test_pitfalls::test_client_that_leaves_harms_nobody_of_its_batch",
        "test_pitfalls::test_clients_that_leave_at_any_moment_harm_nobody",
    ],
    "14 a slot that fails fails alone": [
        "test_errors::test_others_of_the_batch_are_not_harmed",
        "test_batching::test_slots_that_the_dispatcher_leaves_out_are_500s",
        "test_replies::test_malformed_reply_is_a_500_and_one_line_that_says_why",
    ],
    "15 the second request of a connection, and the 10,000th": [
        "test_keepalive::test_10_000_requests_on_one_connection",
    ],
    "16 ab and ab -k end": ["test_clients::test_ab"],
    "17 X_Foo does not pass for X-Foo": [
        "test_pitfalls::test_header_with_an_underscore_is_not_seen",
    ],
    "18 one table of status texts": [
        "test_replies::test_every_status_has_the_registered_reason",
    ],
    "19 no body with HEAD, 204, 304": [
        "test_replies::test_head_is_answered_as_get_but_without_body",
        "test_replies::test_status_without_body_is_sent_without",
    ],
    "20 very long or very many headers are 431": [
        "test_pitfalls::test_too_much_of_header_fields_is_431",
        "test_limits::test_request_is_refused_just_beyond_its_limit",
    ],
    "21 several workers and persistent clients: none starves": [
        "test_listeners::test_one_client_more_than_workers_and_none_starves",
        "test_listeners::test_every_worker_gets_clients",
        "test_listeners::test_every_thread_that_is_a_worker_gets_clients",
        "test_listeners::test_every_process_of_a_supervisor_gets_clients",
        "test_listeners::test_who_was_held_up_catches_up",
    ],
    "22 slow clients: 408 or close, by default": [
        "test_timeouts::test_all_timeouts_are_on_by_default",
        "test_timeouts::test_head_that_drips_is_answered_408",
        "test_timeouts::test_body_that_drips_below_the_least_rate_is_answered_408",
        "test_timeouts::test_client_that_does_not_read_is_closed",
    ],
    "23 CR or LF in a reply's header is a 500": [
        "test_replies::test_malformed_reply_is_a_500_and_one_line_that_says_why",
    ],
    "24 other threads drop objects, and there is no GIL": [
        "test_threads::test_last_reference_may_be_dropped_by_another_thread",
        "test_threads::test_serving_does_not_turn_the_gil_on",
    ],
    "25 a thread or process of the pool dies: service goes on": [
        "test_handler_threads::test_handler_that_fails_hurts_its_slot_alone",
        "test_supervisor::test_worker_whose_handler_exits_is_replaced",
        "test_supervisor::test_worker_that_is_killed_is_replaced",
        "test_supervisor::test_workers_that_die_again_and_again_have_to_wait",
    ],
    "26 forwarded headers of untrusted peers are ignored": [
        "test_proxies::test_forwarded_fields_of_an_untrusted_peer_are_ignored",
    ],
    "27 a refused body that looks like a request is not parsed": [
        "test_pitfalls::test_refused_body_that_looks_like_a_request_is_not_parsed",
    ],
    "28 idle connections do not keep out new work": [
        "test_pitfalls::test_idle_connections_do_not_keep_new_clients_out",
        "test_pitfalls::test_connection_gives_way_when_it_is_idle",
        "test_limits::test_small_requests_are_served_while_memory_is_full",
    ],
    "29 a full table of files loses nobody and does not spin": [
        "test_pitfalls::test_full_table_of_files_loses_no_client_and_does_not_spin",
        "test_faults::test_accepting_that_always_fails_waits_and_harms_nobody",
    ],
    "30 close() is called exactly once": [
        "test_wsgi_lifetime::test_close_is_called_exactly_once",
        "test_streaming::test_close_is_called_when_the_client_leaves",
    ],
}


@pytest.mark.parametrize("row", PITFALLS)
def test_each_pitfall_has_its_tests(row: str) -> None:
    here = Path(__file__).parent
    for name in PITFALLS[row]:
        file, _, test = name.partition("::")
        if test:
            text = here.joinpath(f"{file}.py").read_text()
            assert re.search(rf"^def {test}\(", text, re.MULTILINE), name
        else:
            assert here.joinpath(name).is_file(), name


def test_no_pitfall_is_left_out() -> None:
    rows = [int(row.partition(" ")[0]) for row in PITFALLS]
    assert rows == list(range(1, 31))


LARGE = 20_000_000  # bytes: more than sockets hold


def handler(request: fastbatch.Request) -> Any:
    if request.path == "/large":
        return bytes(LARGE)
    if request.path == "/stream":
        return 200, iter(lambda: bytes(65536), None)
    return request.path


def reset(connection: Connection) -> None:
    """Close the connection with a TCP reset."""
    linger = struct.pack("ii", 1, 0)
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.close()


def half_close(connection: Connection) -> None:
    connection.end()


# ---- 11: large uploads --------------------------------------------------------------


def resident() -> int:
    """The memory that this process has, in bytes."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="the allocator of a free-threaded Python keeps memory for itself",
)
def test_memory_of_large_uploads_is_given_back(serve: Serve) -> None:
    server = serve(lambda request: str(len(request.body)), max_body=100_000_000)
    piece = bytes(1_000_000)

    def upload(connection: Connection) -> None:
        connection.send(get("/", "Content-Length: 50000000"))
        connection.send(piece for _ in range(50))
        assert connection.reply().body == b"50000000"

    with Connection(server) as connection:
        for _ in range(6):  # an allocator that keeps what is freed has its fill then
            upload(connection)
        before = resident()
        for _ in range(3):
            upload(connection)
        # The connection is still open, and idle as soon as the reply is on its way.
        helpers.wait_until(lambda: resident() - before < 25_000_000, "giving it back")


# ---- 12: half-open sockets ----------------------------------------------------------

STAGES: dict[str, bytes] = {
    "nothing sent": b"",
    "part of a head": get()[:-5],
    "part of a body": gates.request(method="POST", body=b"body")[:-2],
    "part of a chunk": gates.request("/", "Transfer-Encoding: chunked") + b"5\r\nab",
    "waiting for 100": gates.request("/", "Expect: 100-continue", body=b"body")[:-4],
    "answered": get(),
    "refused": b"bad\r\n\r\n",
    "told close": get("/", "Connection: close"),
    "large reply": get("/large"),
    "endless stream": get("/stream"),
    "pipelined": get("/large") * 3 + get()[:-5],
    "pipelined more": get("/stream") + get("/") * 5000,
}


@pytest.mark.parametrize("end", [half_close, reset])
@pytest.mark.parametrize("data", STAGES.values(), ids=STAGES)
def test_cpu_stays_idle_when_a_client_half_closes_or_resets(
    serve: Serve, data: bytes, end: Callable[[Connection], None]
) -> None:
    server = serve(handler)
    with gates.connect(server, 2) as (bystander, connection):
        connection.send(data)
        if b"large" in data or b"stream" in data:
            assert connection.socket.recv(1)
        end(connection)
        for _ in range(20):  # by then the server has seen it
            bystander.ask()
        assert gates.is_at_rest()
        assert bystander.ask("/alive").body == b"/alive"
    gates.wait_until_gone(server)


def test_half_closed_client_still_gets_a_large_reply(serve: Serve) -> None:
    with Connection(serve(handler)) as connection:
        connection.send(get("/large"))
        connection.end()
        (reply,) = helpers.parse_replies(connection.rest())
    assert len(reply.body) == LARGE


# ---- 13: the client leaves ----------------------------------------------------------


@pytest.mark.parametrize("path", ["/small", "/large", "/stream"])
@pytest.mark.parametrize("leave", [Connection.close, reset])
def test_client_that_leaves_harms_nobody_of_its_batch(
    serve: Serve, leave: Callable[[Connection], None], path: str
) -> None:
    gate = gates.Gate(handler)
    server = serve(gate)
    with gates.connect(server, 9) as connections:
        with gate.held(server):
            for i, connection in enumerate(connections):
                connection.send(get(path if i % 2 else f"/{i}") + get("/next"))
            for connection in connections[1::2]:
                leave(connection)
        for i, connection in enumerate(connections[::2]):
            assert connection.reply().body == f"/{2 * i}".encode()
            assert connection.reply().body == b"/next"
    gates.wait_until_gone(server)


def test_clients_that_leave_at_any_moment_harm_nobody(serve: Serve) -> None:
    server = serve(handler)
    paths = ["/small", "/large", "/stream"]
    with Connection(server) as bystander:
        for i in range(150):
            connection = Connection(server)
            connection.send((get(paths[i % 3]) * 2)[: 20 + i])
            if i % 4 == 0:
                bystander.ask()
            (reset if i % 2 else Connection.close)(connection)
        assert bystander.ask("/alive").body == b"/alive"
    gates.wait_until_gone(server)


# ---- 17, 20: header fields ----------------------------------------------------------


def test_header_with_an_underscore_is_not_seen(serve: Serve) -> None:
    server = serve(lambda request: ",".join(request.headers))
    with Connection(server) as connection:
        reply = connection.ask("/", "X_Foo: bad", "X-Foo: good", "Content_Length: 5")
    assert reply.body == b"host,x-foo"


@pytest.mark.parametrize(
    "fields",
    [
        [f"X-{i}: x" for i in range(10_000)],
        ["X-A: " + "b" * 1_000_000],
        ["X" * 1_000_000 + ": a"],
    ],
    ids=["many", "long value", "long name"],
)
def test_too_much_of_header_fields_is_431(serve: Serve, fields: list[str]) -> None:
    server = serve(handler)
    data = helpers.talk(server, get("/", *fields) + get("/never"))
    (reply,) = helpers.parse_replies(data)
    assert (reply.status, reply.headers["Connection"]) == (431, "close")
    assert helpers.get_url(server, "/alive").body == b"/alive"


# ---- 27: bodies that were refused ---------------------------------------------------


@pytest.mark.parametrize(
    ("expect", "length", "status"),
    [
        ("100-continue", 10**9, 413),
        ("100-continue", 10**30, 400),
        ("200-maybe", 40, 417),
    ],
)
def test_refused_body_that_looks_like_a_request_is_not_parsed(
    serve: Serve, expect: str, length: int, status: int
) -> None:
    seen: list[str] = []
    server = serve(lambda request: seen.append(request.path))
    head = get("/", f"Expect: {expect}", f"Content-Length: {length}")
    with Connection(server) as connection:
        connection.send(head)
        reply = connection.reply()
        assert (reply.status, reply.headers["Connection"]) == (status, "close")
        connection.send(get("/smuggled") * 10)
        assert connection.is_closed()
    gates.wait_until_gone(server)
    assert seen == []


@pytest.mark.parametrize(
    ("rest", "status"),
    [
        ("", 200),
        ("Content-Length: 1000000000", 413),
        ("Expect: 200-maybe\r\nContent-Length: 5", 417),
        ("Content-Length: 5\r\nContent-Length: 6", 400),
    ],
)
def test_100_continue_waits_for_the_whole_head(
    serve: Serve, rest: str, status: int
) -> None:
    server = serve(handler)
    head = get("/", "Expect: 100-continue", *filter(None, [rest]))
    with Connection(server) as connection:
        first = head.index(b"continue\r\n") + 11  # the next byte ends the value
        connection.send(head[:first])
        helpers.wait_until(lambda: server.stats()["bytes_received"] == first)
        assert not select.select([connection.socket], [], [], 0.05)[0]
        connection.send(head[first:])
        assert connection.reply().status == status
        assert b"100 Continue" not in connection.received


# ---- 28, 29: more connections than there is room for --------------------------------


def test_connections_beyond_the_limit_wait_for_one_to_end(serve: Serve) -> None:
    server = serve(handler, max_connections=2)
    with gates.connect(server, 2) as (first, second):
        first.send(get("/stream"))
        second.send(get("/stream"))
        assert first.socket.recv(1)
        assert second.socket.recv(1)
        with Connection(server) as third:
            third.send(get("/third"))
            assert gates.is_at_rest()
            assert not select.select([third.socket], [], [], 0)[0]
            first.close()
            assert third.reply().body == b"/third"
            assert server.stats()["open_connections"] == 2


@pytest.mark.parametrize("n", [1, 3])
def test_as_many_connections_as_allowed_are_served_and_not_one_more(
    serve: Serve, n: int
) -> None:
    server = serve(handler, max_connections=n)
    with crowd(server.address, n + 1) as connections:
        for connection in connections:
            connection.send(get("/stream"))
        for connection in connections[:n]:
            assert connection.socket.recv(1)
        assert not select.select([connections[n].socket], [], [], 0.1)[0]
        assert server.stats()["open_connections"] == n
        connections[0].close()
        assert connections[n].socket.recv(1)


@pytest.mark.parametrize("timeout", [75.0, 0.0])
@pytest.mark.parametrize("sent", [b"", get(), get() + b"\r"])
def test_connection_gives_way_when_it_is_idle(
    serve: Serve, sent: bytes, timeout: float
) -> None:
    server = serve(handler, max_connections=1, keepalive_timeout=timeout)
    with gates.connect(server, 1) as (idle,):
        idle.send(sent)
        with Connection(server) as other:
            assert other.ask("/other").body == b"/other"


def test_idle_connections_do_not_keep_new_clients_out(serve: Serve) -> None:
    server = serve(handler, max_connections=2)
    with gates.connect(server, 2) as (idle, fresh):
        idle.ask()
        with Connection(server) as third:
            assert third.ask("/third").body == b"/third"
        del fresh


FEW_FILES = """\
import fastbatch, resource, time

def handler(request):
    if request.path == "/cpu":
        return str(time.process_time())
    return request.path

resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
fastbatch.run(handler, bind="127.0.0.1:0")
"""


@contextlib.contextmanager
def crowd(address: helpers.Address, n: int) -> Iterator[list[Connection]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Connection(address)) for _ in range(n)]


def is_at_rest(connection: Connection) -> bool:
    """Whether the server uses next to no CPU for half a second, in one look of three.

    One that spins gets some in any case; others may still serve whom they could accept.
    """

    def cpu() -> float:
        return float(connection.ask("/cpu").body)

    for _ in range(3):
        began = cpu()
        time.sleep(0.5)
        if cpu() - began < 0.05:
            return True
    return False


def test_full_table_of_files_loses_no_client_and_does_not_spin(start: Start) -> None:
    address = start("-c", FEW_FILES).address()
    with Connection(address) as first:
        first.ask()
        with crowd(address, 60) as connections:
            for i, connection in enumerate(connections):
                connection.send(get(f"/{i}", "Connection: close"))
            assert is_at_rest(first)
            for i, connection in enumerate(connections):
                assert connection.reply().body == f"/{i}".encode()
        assert first.ask("/alive").body == b"/alive"


def test_full_table_of_files_with_idle_clients_lets_others_in_later(
    start: Start,
) -> None:
    address = start("-c", FEW_FILES).address()
    with Connection(address) as first:
        first.ask()
        with crowd(address, 40) as connections:
            assert is_at_rest(first)
            last = connections[-1]
            last.send(get("/last"))
            for connection in connections[:-1]:
                connection.close()
            assert last.reply().body == b"/last"


def test_idle_connections_that_hold_all_files_give_way(start: Start) -> None:
    address = start("-c", FEW_FILES).address()
    with crowd(address, 40) as connections:
        for n, connection in enumerate(connections):
            connection.send(get(f"/{n}"))
        for n, connection in enumerate(connections):
            assert connection.reply().body == f"/{n}".encode()


# ---- and besides --------------------------------------------------------------------


def test_client_that_leaves_does_not_end_a_program_that_has_sigpipe_on(
    start: Start, tmp_path: Path
) -> None:
    program = start(
        "-c",
        "import fastbatch, signal\n"
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
        "fastbatch.run(lambda _: (200, iter(lambda: bytes(65536), None)),"
        f" bind='unix:{tmp_path}/socket')",
    )
    address = program.address()
    for _ in range(3):  # the last one sees whether it still runs
        with Connection(address) as connection:
            connection.send(get())
            assert connection.socket.recv(1)


def test_nothing_is_left_of_a_burst_of_connections(serve: Serve) -> None:
    server = serve(handler)

    def visit() -> None:
        for i in range(50):
            assert helpers.get_url(server, f"/{i}").body == f"/{i}".encode()

    visitors = [threading.Thread(target=visit) for _ in range(4)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    gates.wait_until_gone(server)
    assert server.stats()["requests"] == 200
