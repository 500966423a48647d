"""What happens when memory, sockets and files fail: FASTBATCH_FAULTS=1 .ci/test.

The faults are set by tests/c/faults.c, which such a build has in it.
"""

import contextlib
import ctypes
import errno
import gc
import http.client
import importlib.util
import itertools
import logging
import random
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import gates
import helpers
import pytest
import wsgi_helpers
from helpers import Connection, get

import fastbatch
from fastbatch import _core

CORE = ctypes.CDLL(_core.__file__)
HAS_FAULTS = hasattr(CORE, "faults_nth")
if HAS_FAULTS:
    CORE.faults_nth.restype = ctypes.c_bool
    CORE.faults_rate.restype = ctypes.c_bool
    CORE.faults_end.restype = ctypes.c_ulong
    CORE.faults_held.restype = ctypes.c_long

pytestmark = pytest.mark.skipif(
    not HAS_FAULTS, reason="the extension was built without FASTBATCH_FAULTS=1"
)

SHORT = 0  # not an error: a call that moves less than it could

LARGE = b"large" * 40_000  # bytes: sent in place
LONG = b"long" * 50_000  # bytes: a body that goes to a file
LIMIT = 100_000  # bytes of a body in memory

# A reply that may be given in place of the right one.
FAILED = {500, 503, 507}


def fail_nth(
    kind: str, nth: int, error: int = errno.ENOMEM, *, here: bool = False
) -> None:
    """Have the nth call of a kind from now fail: in this thread, or in all others."""
    assert CORE.faults_nth(kind.encode(), error, ctypes.c_ulong(nth), here)


def fail_often(kind: str, error: int, per_mille: int, seed: int) -> None:
    """Have so many of the calls in other threads fail."""
    assert CORE.faults_rate(kind.encode(), error, per_mille, seed)


def end_faults() -> int:
    """Have nothing fail any more; how many calls did."""
    return int(CORE.faults_end())


@pytest.fixture(autouse=True)
def raised(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[type[BaseException]]]:
    """The kinds of exceptions that were logged, or could not be; nothing is kept."""
    kinds: set[type[BaseException]] = set()

    def note(record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[0]:
            kinds.add(record.exc_info[0])
        return False

    monkeypatch.setattr(sys, "unraisablehook", lambda lost: kinds.add(lost.exc_type))
    log = logging.getLogger("fastbatch")
    log.addFilter(note)
    yield kinds
    log.removeFilter(note)
    end_faults()
    assert kinds <= KNOWN


@pytest.fixture(scope="module", autouse=True)
def _before_all() -> None:
    """Have what the first server of a process takes for good taken."""
    with serving(handler) as server:
        helpers.get_url(server)


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """See to it that no test leaves memory of the binding, or a descriptor, behind."""
    before = holdings()
    yield
    assert holdings() == before


class KnownError(Exception):
    """What the handlers of these tests raise."""


# What may be logged. ResourceWarning: close() of an application's file had failed.
# RuntimeError: for want of memory a dispatcher did not hear that a slot was answered,
# together with those behind it, and answers it again.
KNOWN = {
    MemoryError,
    OSError,
    BrokenPipeError,
    KnownError,
    ResourceWarning,
    RuntimeError,
}


# ---- what is asked for --------------------------------------------------------------

kept: list[Any] = []
held = threading.Event()  # set: /hold goes on
is_held = threading.Event()


def hold() -> bytes:
    is_held.set()
    assert held.wait(helpers.TIMEOUT)
    return b"held"


def handler(request: fastbatch.Request) -> Any:
    match request.path:
        case "/fields":
            headers = request.headers
            shown = [headers["x-a"], headers.raw, list(headers), request.query]
            shown += [request.method, repr(headers), len(headers), headers.get("x-b")]
            return 200, {"X-A": headers["x-a"], "X-B": "b"}, repr(shown)
        case "/body":
            return request.body
        case "/json":
            return str(request.json())
        case "/stream":
            return 200, {}, (piece for piece in (b"one", b"two", LARGE, b"three"))
        case "/large":
            return LARGE
        case "/view":
            return memoryview(LARGE)
        case "/kept":
            kept.append(request)
            return "kept"
        case "/hold":
            return hold()
        case "/404":
            raise fastbatch.HTTPError(404, "there is none")
        case "/raises":
            raise KnownError
        case "/close":
            return 200, {"Connection": "close"}, "the last one"
    return "text"


@fastbatch.batch
def columns(batch: fastbatch.Batch) -> list[str]:
    if batch[0].path != "/columns":
        return ["text"] * len(batch)
    stack, items, bodies = batch.stack("B", 4), batch.json(), batch.bodies
    shown = [bytes(stack), items, [bytes(body) for body in bodies], repr(stack)]
    return [repr([*shown, stack.mask.tolist(), stack.shape])] * len(batch)


def application(environ: dict[str, Any], start_response: Any) -> Any:
    fields = [("Content-Type", "text/plain"), ("X-A", "a")]
    path = environ["PATH_INFO"]
    if path == "/late":
        return late(start_response)
    if path == "/raises":
        raise KnownError
    write = start_response("200 OK", fields)
    match path:
        case "/fields":
            shown = {n: v for n, v in environ.items() if n.startswith("HTTP_X")}
            return [
                repr(sorted(shown.items())).encode(),
                environ["QUERY_STRING"].encode(),
            ]
        case "/body":
            return [environ["wsgi.input"].read()]
        case "/lines":
            return [b"".join(environ["wsgi.input"].readlines())]
        case "/stream":
            return (piece for piece in (b"one", b"two", LARGE, b"three"))
        case "/write":
            for piece in (b"one", LARGE, b"two"):
                write(piece)
            return [b"three"]
        case "/written":
            write(b"all")
            return wsgi_helpers.Body([])
        case "/file":
            return environ["wsgi.file_wrapper"](open(__file__, "rb"))
        case "/large":
            return [LARGE]
        case "/hold":
            return [hold()]
    return [b"text"]


def late(start_response: Any) -> Iterator[bytes]:
    yield b""
    time.sleep(0.002)  # longer than a dispatch waits for a first item
    start_response("200 OK", [("X-A", "a")])
    yield b"late"


Case = tuple[bytes, tuple[str, ...]]  # what is sent; the methods of the requests

FIELDS = get("/fields?a=1&b=2", "X-A: a", "X-B: b", "X-B: c", "X-" + "C" * 300 + ": d")

REJECTED = (get("/", "Content-Length: x"), ("GET",))  # which no handler hears of

COMMON: dict[str, Case] = {
    "text": (get("/"), ("GET",)),
    "1.0": (get("/", version="1.0"), ("GET",)),
    "head": (get("/large").replace(b"GET", b"HEAD", 1), ("HEAD",)),
    "fields": (FIELDS, ("GET",)),
    "encoded": (get("/%7Ea"), ("GET",)),
    "body": (gates.request("/body", method="POST", body=b"body" * 100), ("POST",)),
    "long": (gates.request("/body", method="POST", body=LONG), ("POST",)),
    "stream": (get("/stream"), ("GET",)),
    "large": (get("/large"), ("GET",)),
    "raises": (get("/raises"), ("GET",)),
    "rejected": REJECTED,
    "pipeline": (get("/") * 2 + get("/stream") + get("/large"), ("GET",) * 4),
    "close": (get("/") + get("/close") + get("/") * 2, ("GET",) * 2),
    "continue": (
        gates.request("/body", "Expect: 100-continue", method="POST", body=b"body"),
        ("POST",),
    ),
}

CASES: dict[str, tuple[Callable[..., Any], Case]] = {
    **{f"request-{name}": (handler, case) for name, case in COMMON.items()},
    **{
        f"wsgi-{name}": (application, case)
        for name, case in COMMON.items()
        if name != "close"  # which is not for applications to say
    },
    **{
        f"request-{name}": (handler, (get(f"/{name}"), ("GET",)))
        for name in ("view", "kept", "404")
    },
    "request-json": (
        handler,
        (gates.request("/json", method="POST", body=b'{"a": [1, 2]}'), ("POST",)),
    ),
    **{
        f"wsgi-{name}": (application, (get(f"/{name}"), ("GET",)))
        for name in ("late", "write", "written", "file")
    },
    "wsgi-write-1.0": (application, (get("/write", version="1.0"), ("GET",))),
    "wsgi-lines": (
        application,
        (
            gates.request("/lines", method="POST", body=(b"a" * 4999 + b"\n") * 30),
            ("POST",),
        ),
    ),
}

CASES |= {
    f"batch-{name}": (
        columns,
        (
            b"".join(gates.request("/columns", method="POST", body=b) for b in bodies),
            ("POST",) * len(bodies),
        ),
    )
    for name, bodies in {
        "columns": [b"1234"],
        "misfit": [b"12345"],
        "no-json": [b"abcd"],
        "long-columns": [LONG],
        "pipeline": [b"1234", b"no", b"5678"],
    }.items()
}

Outcome = list[tuple[int, bytes]]

PLAIN = (200, b"text")  # what a plain request is answered with


def outcome(connection: Connection, methods: Iterable[str]) -> Outcome:
    """The replies to requests that were sent, as far as they come whole."""
    came: Outcome = []
    with contextlib.suppress(ConnectionError, http.client.HTTPException):
        for method in methods:
            reply = connection.reply(method)
            came.append((reply.status, reply.body))
            if reply.headers["Connection"] == "close":
                assert connection.is_closed()
                break
    return came


def ask(server: fastbatch.Server, case: Case) -> Outcome:
    """Send it, and a plain request when it was answered; what came of both."""
    data, methods = case
    with Connection(server) as connection:
        with contextlib.suppress(ConnectionError):
            connection.send(data)
        came = outcome(connection, methods)
        with contextlib.suppress(ConnectionError):
            connection.send(get())
            came += outcome(connection, ["GET"])
    return came


def holdings() -> tuple[int, dict[int, str]]:
    """What the binding holds, and the descriptors of this process."""
    kept.clear()
    gc.collect()
    return CORE.faults_held(), helpers.open_files()


def wait_until_gone(server: fastbatch.Server) -> None:
    """As that of gates, but with less to wait for between."""
    end = time.monotonic() + helpers.TIMEOUT
    while server.stats()["open_connections"] > 0:
        assert time.monotonic() < end
        time.sleep(0.0005)


def judge(came: Outcome, right: Outcome) -> None:
    """See that each reply is the right one or says that it failed."""
    for got, due in itertools.zip_longest(came, right[: len(came)], fillvalue=PLAIN):
        assert got == due or got[0] in FAILED, (got[0], got[1][:80], due[0])


# ---- memory -------------------------------------------------------------------------


@contextlib.contextmanager
def serving(app: Callable[..., Any], threads: int = 0) -> Iterator[fastbatch.Server]:
    """A new server, which has taken no memory yet for connections and requests."""
    server = fastbatch.Server(
        app, bind="127.0.0.1:0", max_body_memory=LIMIT, threads=threads
    ).start()
    try:
        if threads > 0:
            helpers.get_url(server)  # so that its thread is there
        yield server
        wait_until_gone(server)
    finally:
        server.stop(now=True)


def fail_each(kind: str, app: Callable[..., Any], case: Case, threads: int = 0) -> int:
    """Have the first call of a kind fail, then the second, until a run has no more."""
    with serving(app, threads) as server:
        right = ask(server, case)
    nth = 0
    has_failed = True
    while has_failed:
        nth += 1
        with serving(app, threads) as server:
            fail_nth(kind, nth)
            came = ask(server, case)
            wait_until_gone(server)
            has_failed = end_faults() > 0
            judge(came, right)
            assert has_failed or came == right
            assert ask(server, COMMON["text"]) == [PLAIN] * 2
    return nth - 1


@pytest.mark.parametrize("kind", ["heap", "python"])
@pytest.mark.parametrize(("app", "case"), CASES.values(), ids=CASES)
def test_each_want_of_memory_fails_a_request_and_keeps_nothing(
    app: Callable[..., Any], case: Case, kind: str
) -> None:
    assert fail_each(kind, app, case) > 0 or (kind, case) == ("python", REJECTED)


@pytest.mark.parametrize("kind", ["heap", "python"])
@pytest.mark.parametrize(("app", "case"), CASES.values(), ids=CASES)
def test_each_want_of_memory_with_a_handler_thread_keeps_nothing(
    app: Callable[..., Any], case: Case, kind: str
) -> None:
    fail_each(kind, app, case, threads=1)  # what is kept may have been taken before


@pytest.mark.parametrize("app", [handler, application])
def test_want_of_memory_leaves_a_batch_in_step(app: Callable[..., Any]) -> None:
    cases = [(get("/hold"), ("GET",)), *MIX[app][:2], COMMON["fields"]]
    with serving(app) as server:
        held.set()
        rights = [ask(server, case)[:1] for case in cases]
    for nth in itertools.count(1):
        held.clear()
        with serving(app) as server, gates.connect(server, len(cases)) as connections:
            for (data, _), connection in zip(cases, connections, strict=True):
                connection.send(data)
                assert is_held.wait(helpers.TIMEOUT)
            fail_nth("python", nth)
            held.set()
            is_held.clear()
            for connection, right in zip(connections, rights, strict=True):
                judge(outcome(connection, ("GET",)), right)
        if end_faults() == 0:
            break
    assert nth > 20


# ---- sockets and files --------------------------------------------------------------

# What a reply survives, and what it may not.
HARMLESS = [
    ("receive", errno.EAGAIN),
    ("receive", errno.EINTR),
    ("receive", SHORT),
    ("send", errno.EAGAIN),
    ("send", errno.EINTR),
    ("send", errno.ENOBUFS),
    ("send", SHORT),
    ("sendfile", errno.EAGAIN),
    ("sendfile", errno.EINTR),
    ("sendfile", errno.EINVAL),
    ("sendfile", SHORT),
    ("accept", errno.EAGAIN),
    ("accept", errno.EINTR),
    ("accept", errno.ECONNABORTED),
    ("accept", errno.EMFILE),
    ("accept", errno.ENOMEM),
    ("filewrite", errno.EINTR),
    ("filewrite", SHORT),
    ("fileread", errno.EINTR),
    ("fileread", SHORT),
    ("poll", errno.EINTR),
    ("state", SHORT),
]
HARMFUL = [
    ("receive", errno.ECONNRESET),
    ("receive", errno.EIO),
    ("send", errno.EPIPE),
    ("send", errno.ECONNRESET),
    ("send", errno.ENOMEM),
    ("sendfile", errno.EPIPE),
    ("sendfile", errno.EIO),
    ("shutdown", errno.ENOTCONN),
    ("open", errno.EMFILE),
    ("open", errno.ENOSPC),
    ("filewrite", errno.ENOSPC),
    ("filewrite", errno.EIO),
    ("fileread", errno.EIO),
    ("option", errno.ENOMEM),
    ("heap", errno.ENOMEM),
    ("python", errno.ENOMEM),
]

# How many of a thousand calls fail. Of some kinds each reply needs many; and accepting
# pauses for a while.
RATES = {
    ("accept", True): 100,
    ("receive", False): 50,
    ("send", False): 50,
    ("option", False): 50,
    ("heap", False): 50,
    ("python", False): 20,
}

MIX = {
    app: [case for its, case in CASES.values() if its is app]
    for app in (handler, application)
}
N_CLIENTS = 3


def ask_mix(
    server: fastbatch.Server, app: Callable[..., Any], seed: int
) -> list[tuple[Case, Outcome]]:
    """Ask everything that there is to ask, in any order, by several clients."""
    came: list[tuple[Case, Outcome]] = []
    errors: list[BaseException] = []

    def ask_all(n: int) -> None:
        cases = MIX[app].copy()
        random.Random(seed * N_CLIENTS + n).shuffle(cases)
        try:
            mine = [(case, ask(server, case)) for case in cases]
            came.extend(mine)
        except BaseException as error:  # noqa: BLE001 - the test's thread raises it
            errors.append(error)

    clients = [threading.Thread(target=ask_all, args=(n,)) for n in range(N_CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    if errors:
        raise errors[0]
    return came


# Each with each, but for what a request handler has no need of, and for what takes as
# long as a connection may linger, and is the same for all.
CHANCES = [
    pytest.param(
        app,
        *fault,
        id=f"{fault[0]}-{errno.errorcode.get(fault[1], 'short')}-{app.__name__}",
    )
    for fault in HARMLESS + HARMFUL
    for app in (handler, application)
    if (app, fault[0]) not in ((handler, "sendfile"), (application, "shutdown"))
]


@pytest.mark.parametrize(("app", "kind", "error"), CHANCES)
def test_server_goes_on_when_calls_fail_by_chance(
    app: Callable[..., Any], kind: str, error: int
) -> None:
    is_harmless = (kind, error) in HARMLESS
    n_failed = 0
    with serving(app) as server:
        right = {case: ask(server, case) for case in MIX[app]}
        for seed in (1, 2):
            fail_often(kind, error, RATES.get((kind, is_harmless), 300), seed)
            came = ask_mix(server, app, seed)
            n_failed += end_faults()
            for case, got in came:
                judge(got, right[case])
                assert not is_harmless or got == right[case]
            assert ask(server, COMMON["text"]) == [PLAIN] * 2
        wait_until_gone(server)
        assert is_at_rest()
    assert n_failed > 0


@pytest.mark.parametrize("error", [errno.ENOMEM, errno.EIO])
@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_reply_that_cannot_be_sent_does_not_look_complete(error: int, nth: int) -> None:
    """On 1.0 the end of the connection is that of the body: it has to be a bad one."""
    with serving(application) as server:
        right = ask(server, CASES["wsgi-write-1.0"][1])[0]
        fail_nth("send", nth, error)
        with Connection(server) as connection:
            connection.send(get("/write", version="1.0"))
            data, is_orderly = wsgi_helpers.rest(connection)
        assert end_faults() > 0
    # One that failed while the application ran may be made up for behind it.
    assert not is_orderly or data.endswith(right[1])


def is_at_rest() -> bool:
    began = time.process_time()
    time.sleep(0.1)
    return time.process_time() - began < 0.05


@pytest.mark.parametrize(
    "error", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM]
)
def test_accepting_that_always_fails_waits_and_harms_nobody(error: int) -> None:
    with serving(handler) as server, gates.connect(server, 2) as (first, second):
        fail_often("accept", error, 1000, 1)
        with Connection(server) as late:
            late.send(get())
            for _ in range(3):
                assert is_at_rest()
                assert first.ask().body == second.ask().body == b"text"
            assert end_faults() > 0
            assert late.reply().body == b"text"


# ---- beginning ----------------------------------------------------------------------


@pytest.mark.parametrize("app", [handler, application])
@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("heap", errno.ENOMEM),
        ("python", errno.ENOMEM),
        ("open", errno.EMFILE),
        ("option", errno.ENOMEM),
    ],
)
def test_server_starts_whole_or_leaves_nothing(
    app: Callable[..., Any], kind: str, error: int
) -> None:
    for nth in itertools.count(1):
        fail_nth(kind, nth, error, here=True)
        server = fastbatch.Server(app, bind=["127.0.0.1:0", "localhost:0"])
        try:
            server.start()
        except (MemoryError, OSError):
            assert end_faults() == 1
        else:
            has_failed = end_faults() == 1
            assert helpers.get_url(server).body == b"text"
            server.stop(now=True)
            if not has_failed:
                break
        del server
    assert nth > 1


def test_server_without_a_thread_for_its_flusher_ends() -> None:
    fail_nth("thread", 1, errno.EAGAIN)
    server = fastbatch.Server(handler, bind="127.0.0.1:0").start()
    with pytest.raises(OSError, match="resource temporarily unavailable"):
        server.stop()
    assert end_faults() == 1
    del server


def test_module_is_made_whole_or_not_at_all() -> None:
    spec = importlib.util.spec_from_file_location("fastbatch._core", _core.__file__)
    assert spec is not None
    assert spec.loader is not None
    for nth in itertools.count(1):
        fail_nth("python", nth, here=True)
        module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except MemoryError:
            assert end_faults() == 1
        else:
            assert end_faults() == 0
            break
    assert nth > 1
    assert vars(module).keys() == vars(_core).keys()
