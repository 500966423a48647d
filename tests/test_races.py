"""What handlers share, keep and drop across threads, while the collector runs.

Every request has a number, in its target, a header and its body: what a thread reads of
it, whenever that is, must be of that number. ThreadSanitizer watches these tests in the
step ``tsan`` of .ci/run; elsewhere they find what crashes, hangs or lies.
"""

import contextlib
import dataclasses
import gc
import itertools
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import gates
import helpers
import pytest
from conftest import Serve
from helpers import Connection
from wsgi_helpers import OK, Environ, StartResponse

import fastbatch
from fastbatch import ReplyError, _core

N_CLIENTS = 4
N_BURSTS = 24  # a client's connections, one after another
BURST = 12  # requests that are pipelined on a connection
LOOKS = 8  # how often another thread looks at what it was given

HAS_THREADS = "threads" in {
    field.name for field in dataclasses.fields(fastbatch.Options)
}
LARGE = bytes(_core.LIMITS["zero_copy_bytes"] * 3)

# The loop's thread runs the handler, or threads of the server's own do.
in_threads = pytest.mark.parametrize("threads", [0, 4] if HAS_THREADS else [0])


def options(threads: int, **more: Any) -> dict[str, Any]:
    return more | ({"threads": threads} if HAS_THREADS else {})


# ---- requests with numbers ----------------------------------------------------------


def body_of(n: int) -> bytes:
    """Of one size or another: it is kept in the buffer, or goes to a file."""
    return b"%d " % n * (500 if n % 7 == 0 else n % 7)


def request_of(n: int) -> bytes:
    fields = [f"X-Number: {n}", f"X-Twice: {n}", f"x-twice: {n}"]
    return gates.request(f"/{n}?{n}", *fields, method="POST", body=body_of(n))


def check_request(request: fastbatch.Request, n: int) -> None:
    assert request.target == f"/{n}?{n}"
    assert request.path == f"/{n}"
    assert request.query_string == str(n)
    assert request.query == {str(n): [""]}
    assert request.body == body_of(n)
    assert request.method == "POST"
    assert request.http_version == "1.1"
    assert request.scheme == "http"
    assert request.client is not None
    assert request.client[0] == "127.0.0.1"
    check_headers(request.headers, n)


def check_headers(headers: fastbatch.Headers, n: int) -> None:
    assert headers["x-number"] == headers.get("X-NUMBER") == str(n)
    assert headers["X-Twice"] == f"{n}, {n}"
    assert headers.get_all("x-twice") == [str(n)] * 2
    assert (b"X-Number", b"%d" % n) in headers.raw
    assert dict(headers)["x-number"] == str(n)


def number_of(request: fastbatch.Request) -> int:
    return int(request.path[1:])


# ---- threads ------------------------------------------------------------------------


class Others:
    """Threads that work on what they are given; at the end, all must have gone well."""

    def __init__(self, work: Callable[..., object], n: int = 3) -> None:
        self._work = work
        self._given: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._run) for _ in range(n)]
        self.errors: list[BaseException] = []

    def give(self, *what: object) -> None:
        self._given.put(what)

    def _run(self) -> None:
        while (what := self._given.get()) is not None:
            try:
                self._work(*what)
            except BaseException as error:  # noqa: BLE001 - raised at the end
                self.errors.append(error)
            del what

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for _ in self._threads:
            self._given.put(None)
        for thread in self._threads:
            thread.join()
        if self.errors:
            raise self.errors[0]


@contextlib.contextmanager
def again_and_again(*works: Callable[[], object]) -> Iterator[None]:
    """Call each all the time, in a thread of its own, and so the garbage collector."""
    is_over = threading.Event()

    def repeat(work: Callable[[], object]) -> None:
        while not is_over.wait(0.001):
            work()

    gc.freeze()  # what was there before is of no interest, and there is much
    try:
        with Others(repeat, len(works) + 1) as others:
            for work in (gc.collect, *works):
                others.give(work)
            try:
                yield
            finally:
                is_over.set()
    finally:
        gc.unfreeze()


def looking_at(server: fastbatch.Server) -> list[Callable[[], object]]:
    """What may be asked of a server at any time."""
    return [server.stats, server.reopen_access_log, lambda: server.addresses]


def ask(
    server: fastbatch.Server,
    client: int,
    check: Callable[..., None],
    make: Callable[[int], bytes] = request_of,
) -> None:
    """Pipeline requests on connections, of which each third is left unread."""
    for burst in range(N_BURSTS):
        first = (client * N_BURSTS + burst) * BURST
        with Connection(server) as connection:
            connection.send(b"".join(make(first + i) for i in range(BURST)))
            if burst % 3 == 2:
                continue
            for i in range(BURST):
                check(connection.reply(), first + i)


def ask_all(
    servers: list[fastbatch.Server],
    check: Callable[..., None],
    make: Callable[[int], bytes] = request_of,
) -> None:
    """Have clients ask all servers at once, for what ``make`` makes of a number."""
    with Others(ask, N_CLIENTS) as clients:
        for client, server in zip(
            range(N_CLIENTS), itertools.cycle(servers), strict=False
        ):
            clients.give(server, client, check, make)


def says_its_number(reply: helpers.Reply, n: int) -> None:
    assert (reply.status, reply.body) == (200, b"%d" % n)


@pytest.fixture
def log(tmp_path: Path) -> str:
    return str(tmp_path / "access.log")


# ---- requests -----------------------------------------------------------------------


@in_threads
@pytest.mark.parametrize("n_servers", [1, 3])
def test_request_says_the_same_to_any_thread_at_any_time(
    serve: Serve, log: str, threads: int, n_servers: int
) -> None:
    kept: list[tuple[fastbatch.Request, int]] = []

    def look(request: fastbatch.Request, n: int) -> None:
        for _ in range(LOOKS):
            check_request(request, n)
        if n % 5 == 0:
            kept.append((request, n))

    def handler(request: fastbatch.Request) -> str:
        n = number_of(request)
        others.give(request, n)
        if n % 2:
            others.give(request, n)  # two look at once
        return str(n)

    with Others(look) as others:
        servers = [
            serve(handler, **options(threads, access_log=log, max_body_memory=1000))
            for _ in range(n_servers)
        ]
        works = [work for server in servers for work in looking_at(server)]
        with again_and_again(*works):
            ask_all(servers, says_its_number)
        for server in servers:
            server.stop()
    assert kept
    for request, n in kept:
        check_request(request, n)


@in_threads
def test_parts_of_a_request_live_for_themselves(
    serve: Serve, log: str, threads: int
) -> None:
    kept: list[Any] = []

    def look(headers: fastbatch.Headers, body: memoryview, lazy: Any, n: int) -> None:
        check_headers(headers, n)
        assert body == body_of(n)
        assert dict(zip(*lazy, strict=True)) == dict(headers)
        check_headers(headers, n)
        if n % 5 == 0:
            kept.append((headers, body, n))

    def handler(request: fastbatch.Request) -> str:
        n = number_of(request)
        headers = request.headers
        lazy = (iter(headers), iter(headers.values()))
        others.give(headers, memoryview(request.body), lazy, n)
        return str(n)

    with Others(look) as others:
        server = serve(
            handler, **options(threads, access_log=log, max_body_memory=1000)
        )
        with again_and_again(*looking_at(server)):
            ask_all([server], says_its_number)
        server.stop()
    for headers, body, n in kept:
        check_headers(headers, n)
        assert body == body_of(n)


# ---- batches ------------------------------------------------------------------------


@in_threads
def test_batch_is_empty_to_all_threads_but_the_one_it_was_given(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    def look(batch: fastbatch.Batch, items: Iterator[Any]) -> None:
        for _ in range(LOOKS):
            assert len(batch) == 0
            assert list(batch) == list(batch[:]) == []
            with pytest.raises(IndexError):
                batch[0]
            with pytest.raises(RuntimeError):
                batch.reply(0, "another's")
        assert list(items) == []

    def dispatcher(batch: fastbatch.Batch) -> None:
        for i in range(len(batch)):
            others.give(batch, iter(batch))
            n = number_of(batch[i])
            check_request(batch[i], n)
            batch.reply(i, str(n))
            others.give(batch, iter(batch))

    monkeypatch.setattr(
        "fastbatch._plan.dispatcher_for", lambda *_: lambda _: dispatcher
    )
    with Others(look) as others:
        server = serve(lambda _request: None, **options(threads))
        with again_and_again(*looking_at(server)):
            ask_all([server], says_its_number)
        server.stop()


@in_threads
def test_what_a_batch_handler_has_may_come_to_other_threads(
    serve: Serve, threads: int
) -> None:
    kept: list[Any] = []

    def look(batch: fastbatch.Batch, requests: Any, columns: Any, given: Any) -> None:
        numbers, bodies, stack = columns
        for i in range(len(given)):
            given[i] = str(numbers[i])  # while it is read
        assert (len(batch), batch.queue) == (0, 0)
        for use in (batch.json, batch.unanswered, lambda: batch.stack("B", 1)):
            with pytest.raises(RuntimeError):
                use()
        for n, request, body in zip(numbers, requests, bodies, strict=True):
            check_request(request, n)
            assert body == body_of(n)
        rows = memoryview(stack)
        for n, row, is_held in zip(numbers, rows.tolist(), stack.mask, strict=True):
            assert bytes(row) == (body_of(n) if is_held else bytes(len(row)))
        if numbers[0] % 5 == 0:
            kept.append((batch, requests, columns))

    @fastbatch.batch(batch_wait=0.0005, batch_size=20)
    def handler(batch: fastbatch.Batch) -> list[str]:
        numbers = list(map(number_of, batch))
        stack = batch.stack("B", len(batch[-1].body))
        columns = (numbers, batch.bodies, stack)
        given = [str(n) for n in numbers]
        others.give(batch, batch[:], columns, given)
        return given

    def check(reply: helpers.Reply, n: int) -> None:
        if reply.status == 400:
            assert reply.body.startswith(b"the body has %d bytes" % len(body_of(n)))
        else:
            says_its_number(reply, n)

    with Others(look) as others:
        server = serve(handler, **options(threads, max_body_memory=1000))
        with again_and_again(*looking_at(server)):
            ask_all([server], check)
        server.stop()
    for batch, requests, (numbers, *_) in kept:
        assert len(batch) == 0
        for request, n in zip(requests, numbers, strict=True):
            check_request(request, n)


@in_threads
def test_batches_of_several_queues_are_answered_while_others_grow(
    serve: Serve, threads: int
) -> None:
    router = fastbatch.Router(fallback=lambda request: request.query_string)

    @router.post("/each")
    @fastbatch.batch(batch_wait=0.0005)
    def each(batch: fastbatch.Batch) -> Iterator[str]:
        for i in reversed(range(len(batch))):
            if i % 2:
                batch.reply(i, batch[i].query_string)
        for request in batch:
            yield request.query_string

    @router.post("/all")
    @fastbatch.batch(batch_size=5, concurrency=2)
    def give_all(batch: fastbatch.Batch) -> list[str]:
        return [request.query_string for request in batch]

    def make(n: int) -> bytes:
        path = ("/each", "/each", "/all", "/all", "/other")[n % 5]
        field = f"X-Deadline: {helpers.TIMEOUT}"
        return gates.request(f"{path}?{n}", field, method="POST", body=body_of(n))

    server = serve(
        router,
        **options(threads, max_body_memory=1000, deadline_header="X-Deadline"),
    )
    with again_and_again(*looking_at(server)):
        ask_all([server], says_its_number, make)
    server.stop()
    stats = server.stats()
    assert (stats["waiting"], stats["slots_in_use"], stats["expired"]) == (0, 0, 0)


# ---- WSGI ---------------------------------------------------------------------------


@in_threads
def test_wsgi_environ_and_input_may_be_read_by_other_threads(
    serve: Serve, log: str, threads: int
) -> None:
    kept: list[tuple[Environ, int]] = []
    pieces: list[list[bytes]] = [[] for _ in range(N_CLIENTS * N_BURSTS * BURST)]

    def check(environ: Environ, n: int) -> None:
        assert environ["PATH_INFO"] == f"/{n}"
        assert environ["REQUEST_URI"] == f"/{n}?{n}"
        assert environ["QUERY_STRING"] == environ["HTTP_X_NUMBER"] == str(n)
        assert environ["HTTP_X_TWICE"] == f"{n}, {n}"
        assert environ["REMOTE_ADDR"] == "127.0.0.1"

    def look(environ: Environ, n: int) -> None:
        check(environ, n)
        given = environ["wsgi.input"]
        into = pieces[n]
        into += [given.read(10), given.readline(7), *given.readlines(5), given.read()]
        into += given
        check(environ, n)
        if n % 5 == 0:
            kept.append((environ, n))

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        n = int(environ["PATH_INFO"][1:])
        for _ in range(2):
            others.give(environ, n)
        start_response(OK, [])
        return [b"%d" % n]

    with Others(look) as others:
        server = serve(app, **options(threads, access_log=log, max_body_memory=1000))
        with again_and_again(*looking_at(server)):
            ask_all([server], says_its_number)
        server.stop()
    for environ, n in kept:
        check(environ, n)
        # What is there was read once, by whichever thread.
        found = b"".join(pieces[n])
        assert sorted(found) == sorted(body_of(n))


@in_threads
def test_wsgi_start_response_and_write_may_come_to_other_threads(
    serve: Serve, threads: int
) -> None:
    kept: list[Any] = []

    def call(start_response: StartResponse, write: Any, n: int) -> None:
        with contextlib.suppress(ReplyError):
            start_response("201 Created", [("X-Number", str(n))])
        with pytest.raises(RuntimeError):
            write(b"another's")
        try:
            raise KeyError(n)
        except KeyError as error:
            exc_info = (KeyError, error, error.__traceback__)
            with contextlib.suppress(KeyError):
                start_response("202 Accepted", [("X-Number", str(n))], exc_info)
        if n % 5 == 0:
            kept.append((start_response, write))

    def app(environ: Environ, start_response: StartResponse) -> list[bytes]:
        n = int(environ["PATH_INFO"][1:])
        write = start_response(OK, [("X-Number", str(n))])
        others.give(start_response, write, n)
        if n % 2:
            write(b"%d" % n)
            return []
        return [b"%d" % n]

    def check(reply: helpers.Reply, n: int) -> None:
        assert reply.status in (200, 202)
        assert reply.headers["X-Number"] == str(n)
        assert reply.body == b"%d" % n

    with Others(call) as others:
        server = serve(app, **options(threads))
        with again_and_again(*looking_at(server)):
            ask_all([server], check)
        server.stop()
    for start_response, write in kept:
        with pytest.raises(RuntimeError):
            write(b"late")
        with pytest.raises(ReplyError):
            start_response(OK, [])


# ---- bodies -------------------------------------------------------------------------


class Stream:
    """Numbers without an end, or until it is closed: by any thread at any time.

    A generator that two threads run at once is not what free-threaded 3.13 can do.
    """

    def __init__(self, n: int, most: int) -> None:
        self._lock = threading.Lock()
        self._items = (b"%d " % n * 20 for _ in range(most))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        with self._lock:
            return next(self._items)

    def close(self) -> None:
        with self._lock:
            self._items.close()


@in_threads
@pytest.mark.parametrize("is_wsgi", [False, True], ids=["request", "wsgi"])
def test_streams_may_be_read_and_closed_by_other_threads(
    serve: Serve, log: str, threads: int, *, is_wsgi: bool
) -> None:
    def disturb(stream: Stream, n: int) -> None:
        for _ in range(n % 5):
            with contextlib.suppress(StopIteration):
                next(stream)
        if n % 3 == 0:
            stream.close()

    def stream_of(n: int) -> Stream:
        stream = Stream(n, 30)
        others.give(stream, n)
        return stream

    def handler(request: fastbatch.Request) -> tuple[int, Stream]:
        return 200, stream_of(number_of(request))

    def app(environ: Environ, start_response: StartResponse) -> Stream:
        start_response(OK, [("Content-Type", "text/plain")])
        return stream_of(int(environ["PATH_INFO"][1:]))

    def check(reply: helpers.Reply, n: int) -> None:
        assert reply.status == 200
        assert set(reply.body.split()) <= {b"%d" % n}

    with Others(disturb) as others:
        server = serve(
            app if is_wsgi else handler,
            # Lines that a logger gets are fetched by the loop, formed by any thread.
            **options(
                threads, access_log=log if is_wsgi else logging.getLogger("lines")
            ),
        )
        with again_and_again(*looking_at(server)):
            ask_all([server], check)
        server.stop()


@in_threads
def test_bodies_may_be_shared_by_replies_and_threads(
    serve: Serve, threads: int
) -> None:
    shared = [b"%d" % i + LARGE for i in range(3)]

    def look(body: bytes | memoryview, n: int) -> None:
        assert body[0] == ord("0") + n % 3
        assert body[-1] == 0

    def handler(request: fastbatch.Request) -> bytes | memoryview:
        n = number_of(request)
        body = shared[n % 3]
        view = body if n % 2 else memoryview(body)
        others.give(view, n)
        return view

    def check(reply: helpers.Reply, n: int) -> None:
        assert (reply.status, reply.body == shared[n % 3]) == (200, True)

    with Others(look) as others:
        server = serve(handler, **options(threads))
        with again_and_again(*looking_at(server)):
            ask_all([server], check)
        server.stop()


@in_threads
def test_counters_miss_nothing(serve: Serve, threads: int) -> None:
    """Some of a large reply is sent by a handler's thread, and some by the loop."""
    sizes: list[int] = []

    def handler(request: fastbatch.Request) -> bytes:
        return LARGE * (number_of(request) % 3)

    def read() -> None:
        for _ in range(N_BURSTS):
            with Connection(server) as connection:
                connection.send(b"".join(request_of(n) for n in range(BURST)))
                for _ in range(BURST):
                    connection.reply()
                sizes.append(len(connection.received))

    with again_and_again():
        server = serve(handler, **options(threads))
        with Others(read, N_CLIENTS) as clients:
            for _ in range(N_CLIENTS):
                clients.give()
        server.stop()
    stats = server.stats()
    assert stats["bytes_sent"] == sum(sizes)
    assert stats["requests"] == N_CLIENTS * N_BURSTS * BURST
    assert stats["bytes_received"] == N_CLIENTS * N_BURSTS * sum(
        len(request_of(n)) for n in range(BURST)
    )


# ---- servers ------------------------------------------------------------------------


@in_threads
@pytest.mark.parametrize("now", [False, True])
def test_servers_come_and_go_under_load(
    serve: Serve, log: str, threads: int, *, now: bool
) -> None:
    is_over = threading.Event()

    def handler(request: fastbatch.Request) -> str:
        return str(number_of(request))

    def ask_until_over(server: fastbatch.Server) -> None:
        for n in itertools.count():
            if is_over.is_set():
                return
            with contextlib.suppress(OSError), Connection(server) as connection:
                connection.send(request_of(n) * BURST)
                while reply := connection.socket.recv(65536):
                    assert b" 200 " in reply[:20] or b" 503 " in reply[:20]

    def come_and_go() -> None:
        server = serve(handler, **options(threads, access_log=log))
        is_over.clear()
        with Others(ask_until_over) as clients, again_and_again(*looking_at(server)):
            for _ in range(3):
                clients.give(server)
            helpers.wait_until(lambda: server.stats()["requests"] > BURST, "serving")
            with Others(server.stop) as stoppers:
                for _ in range(2):
                    stoppers.give(now)
            is_over.set()

    for _ in range(5):
        come_and_go()
