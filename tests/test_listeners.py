"""Several workers accept from one socket: who serves whom, and what is never lost."""

import contextlib
import errno
import mmap
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import helpers
import pytest
from conftest import Serve, Start
from helpers import TIMEOUT, Connection, get

import fastbatch
from fastbatch import _core, _server, _sockets
from fastbatch._plan import plan_for

SHARING = str(Path(__file__).parent / "apps" / "sharing.py")


class Group:
    """Workers of apps/sharing.py, and what their clients find."""

    def __init__(self, program: helpers.Program, n: int) -> None:
        self._program = program
        self.address = program.address()
        self.workers: list[int] = []
        self.expect(n)

    def expect(self, n: int) -> None:
        """Wait until ``n`` more workers serve."""
        end = time.monotonic() + TIMEOUT
        for _ in range(n):
            while not (new := self._ready() - set(self.workers)):
                assert time.monotonic() < end, self._program.errors
                time.sleep(0.005)
            self.workers.append(new.pop())

    def start_another(self) -> None:
        os.kill(self._program.pid, signal.SIGUSR1)
        self.expect(1)

    def kill_all(self) -> None:
        for pid in self._ready():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _ready(self) -> set[int]:
        found = re.findall(r"worker (\d+) is ready\n", self._program.output)
        return set(map(int, found))


StartGroup = Callable[[str, int], Group]


@pytest.fixture
def start_group(start: Start) -> Iterator[StartGroup]:
    """A function that starts so many workers, which are killed at the end."""
    groups = []

    def start_one(bind: str, n: int) -> Group:
        group = Group(start(SHARING, bind, str(n)), n)
        groups.append(group)
        return group

    yield start_one
    for group in groups:
        group.kill_all()


@pytest.fixture(params=["tcp", "unix"])
def bind(request: pytest.FixtureRequest) -> str:
    # Short, and relative to where the program runs.
    return "127.0.0.1:0" if request.param == "tcp" else "unix:s"


@pytest.fixture(autouse=True)
def where_the_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a unix socket is found there


def pause(pid: int) -> None:
    """Stop a process, as if it was busy; returns when it has."""
    os.kill(pid, signal.SIGSTOP)
    end = time.monotonic() + TIMEOUT
    while process_state(pid) != "T":
        assert time.monotonic() < end
        time.sleep(0.001)


def process_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


def kill(pid: int) -> None:
    """Kill a process; returns when it is gone."""
    os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + TIMEOUT
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end
        time.sleep(0.001)


def go_on(pid: int) -> None:
    os.kill(pid, signal.SIGCONT)


def pid_of(connection: Connection) -> int:
    """Which worker serves a client."""
    return int(connection.ask().body)


# ---- nobody starves ------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3])
def test_one_client_more_than_workers_and_none_starves(
    start_group: StartGroup, bind: str, n: int
) -> None:
    group = start_group(bind, n)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Connection(group.address)) for _ in range(n + 1)]
        serves = [pid_of(client) for client in clients]
        for _ in range(100):
            for client in clients:
                client.send(get())
            replies = [int(client.reply().body) for client in clients]
            assert replies == serves


def give_them_time(n: int) -> None:
    """On a machine that is busy a worker may be kept from its turn for a while.

    The ``n``th client waits for that: not the first ones, 400 of them for 4 s in all.
    """
    time.sleep(n / 20_000)


def test_every_worker_gets_clients(start_group: StartGroup, bind: str) -> None:
    group = start_group(bind, 3)
    serves: Counter[int] = Counter()
    with contextlib.ExitStack() as stack:
        while any(serves[pid] < 5 for pid in group.workers):
            serves[pid_of(stack.enter_context(Connection(group.address)))] += 1
            give_them_time(serves.total())
            assert serves.total() < 400, serves


def test_every_thread_that_is_a_worker_gets_clients(serve: Serve) -> None:
    server = serve(lambda _: "", workers=3)
    with contextlib.ExitStack() as stack:
        for n in range(400):
            give_them_time(n)
            connection = stack.enter_context(Connection(server))
            assert connection.ask().status == 200
            counts = [each["open_connections"] for each in server.stats()["workers"]]
            if min(counts) >= 5:
                return
    pytest.fail(f"the clients of each are {counts}")


def test_every_process_of_a_supervisor_gets_clients(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text("import os\ndef pid(_): return str(os.getpid())\n")
    arguments = ("app:pid", "--port=0", "--workers=3", "--processes=true")
    program = start("-m", "fastbatch", *arguments)
    address = program.address()
    serves: Counter[int] = Counter()
    with contextlib.ExitStack() as stack:
        while len(serves) < 3 or min(serves.values()) < 5:
            serves[pid_of(stack.enter_context(Connection(address)))] += 1
            assert serves.total() < 400, serves
            # The others may be about to start.
            time.sleep(0.01) if len(serves) < 3 else give_them_time(serves.total())


def test_workers_that_are_held_up_leave_their_clients_to_the_others(
    start_group: StartGroup, bind: str
) -> None:
    group = start_group(bind, 2)
    held_up, free = group.workers
    pause(held_up)
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            assert pid_of(stack.enter_context(Connection(group.address))) == free


def test_who_was_held_up_catches_up(start_group: StartGroup, bind: str) -> None:
    group = start_group(bind, 2)
    held_up, free = group.workers
    pause(held_up)
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            assert pid_of(stack.enter_context(Connection(group.address))) == free
        go_on(held_up)
        serves: Counter[int] = Counter({free: 40})
        while serves[held_up] < serves[free] * 3 // 4:
            serves[pid_of(stack.enter_context(Connection(group.address)))] += 1
            give_them_time(serves.total())
            assert serves.total() < 600, serves


# ---- nothing is lost -----------------------------------------------------------------


def wait_in_the_queue(
    address: helpers.Address, stack: contextlib.ExitStack
) -> list[Connection]:
    """Clients that have asked, while nobody accepts."""
    clients = [stack.enter_context(Connection(address)) for _ in range(10)]
    for client in clients:
        client.send(get())
    return clients


def test_clients_that_wait_outlive_a_worker_that_is_killed(
    start_group: StartGroup, bind: str
) -> None:
    group = start_group(bind, 2)
    killed, other = group.workers
    for pid in group.workers:
        pause(pid)
    with contextlib.ExitStack() as stack:
        clients = wait_in_the_queue(group.address, stack)
        kill(killed)
        go_on(other)
        assert {int(client.reply().body) for client in clients} == {other}


def test_clients_that_wait_are_served_by_whoever_comes_after_all_were_killed(
    start_group: StartGroup, bind: str
) -> None:
    group = start_group(bind, 2)
    for pid in group.workers:
        pause(pid)
    with contextlib.ExitStack() as stack:
        clients = wait_in_the_queue(group.address, stack)
        for pid in group.workers:
            kill(pid)
        group.start_another()
        replaced = {int(client.reply().body) for client in clients}
        assert replaced == {group.workers[-1]}


def test_a_worker_alone_serves_all_though_others_seem_to_have_none() -> None:
    [listener] = _sockets.open_listeners([_sockets.parse_bind("127.0.0.1:0")], 64, 0)
    options = fastbatch.Options()
    plan = plan_for(lambda _: "", options)

    def new_server() -> _core.Server:
        return _core.Server(
            plan.make_dispatcher([listener.address]),
            (os.dup(listener.socket.fileno()),),
            wakeup_fd=-1,
            access_log=None,
            stats=None,
            heartbeat_ms=0,
            roster=listener.roster,
            queues=plan.queues,
            **_server._core_arguments(options),
        )

    # It never runs, as one that is stuck: it has a place in the roster.
    stuck = new_server()
    core = new_server()
    thread = threading.Thread(target=core.serve)
    thread.start()
    try:
        with contextlib.ExitStack() as stack:
            clients = [
                stack.enter_context(Connection(listener.address)) for _ in range(50)
            ]
            for client in clients:
                assert client.ask().status == 200
    finally:
        core.stop(now=True)
        thread.join()
        listener.close()
        del stuck


# ---- the address is taken ------------------------------------------------------------


@pytest.mark.parametrize("option", [None, socket.SO_REUSEADDR, socket.SO_REUSEPORT])
def test_a_second_program_is_refused(
    start_group: StartGroup, option: int | None
) -> None:
    group = start_group("127.0.0.1:0", 2)
    with socket.socket() as second:
        if option is not None:
            second.setsockopt(socket.SOL_SOCKET, option, 1)
        with pytest.raises(OSError, match="in use") as raised:  # noqa: PT012
            second.bind(group.address)
            second.listen()
    assert raised.value.errno == errno.EADDRINUSE


def test_a_second_program_of_ours_is_refused(start_group: StartGroup) -> None:
    group = start_group("127.0.0.1:0", 2)
    host, port = group.address
    with pytest.raises(_sockets.BindError, match="the address is in use"):
        fastbatch.Server(lambda _: "", bind=f"{host}:{port}").start()


# ---- the roster ----------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, _core.ROSTER_BYTES - 1])
def test_memory_for_a_roster_that_is_too_small_is_refused(size: int) -> None:
    with (
        mmap.mmap(-1, max(size, 1)) as memory,
        memoryview(memory)[:size] as roster,
        pytest.raises(ValueError, match=f"{_core.ROSTER_BYTES} bytes"),
    ):
        _core.Server(
            lambda _batch: None,
            (),
            wakeup_fd=-1,
            access_log=None,
            stats=None,
            heartbeat_ms=0,
            roster=roster,
            queues=plan_for(str, fastbatch.Options()).queues,
            **_server._core_arguments(fastbatch.Options()),
        )
