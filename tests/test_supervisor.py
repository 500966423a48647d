"""The supervisor, by its command line and its signals: who is started, kept, ended."""

import contextlib
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import helpers
import pytest
from conftest import Start
from helpers import Connection, Program

from fastbatch import Options
from fastbatch._process import Process
from fastbatch._seat import new_memory
from fastbatch._supervisor import Supervisor, is_wanted

APP = """
import os, sys, threading, time

def hello(request):
    path = request.path
    if path == "/stuck":
        print("in the handler", flush=True)
        stay_for_ever()
    elif path == "/slow":
        print("in the handler", flush=True)
        time.sleep(0.5)
    elif path == "/exit":
        sys.exit(3)
    elif path == "/grow":
        global ballast
        ballast = os.urandom(1) * 100_000_000
    return f"{os.getpid()} first"

def stay_for_ever():
    while True:
        time.sleep(0.01)
"""

# Appended to it: waits for a file of the test.
WAIT = """
def wait(exists=os.path.exists, sleep=time.sleep):
    while not exists("go"):
        sleep(0.01)
"""

READY = r"worker process (\d+) is ready"

# The same options, signals and log lines either way.
MODES = {"processes": ["--processes=true"], "threads": ["--processes=false"]}


def write(app: Path, source: str) -> None:
    """Change the module at once: a worker may be reading it."""
    new = app.with_suffix(".new")
    new.write_text(source)
    new.replace(app)


class Service:
    """A program with workers."""

    def __init__(self, program: Program, is_threads: bool) -> None:
        self.program = program
        self.is_threads = is_threads  # then there is one process

    @property
    def ready(self) -> list[int]:
        """The processes that were ever ready, in order."""
        return [int(pid) for pid in re.findall(READY, self.program.errors)]

    def wait_for_ready(self, n: int) -> list[int]:
        helpers.wait_until(lambda: len(self.ready) >= n, f"{n} ready processes")
        return self.ready

    def wait_for(self, pattern: str) -> re.Match[str]:
        return self.program.wait_for(pattern)

    def signal(self, number: signal.Signals) -> None:
        self.program.signal(number)

    def ask(self, path: str = "/") -> str:
        with Connection(self.program.address()) as connection:
            return connection.ask(path, "Connection: close").body.decode()

    def pid(self) -> int:
        """The process that answers."""
        return int(self.ask().split()[0])

    def end(self) -> str:
        """End it in good order. What was logged."""
        self.signal(signal.SIGTERM)
        assert self.program.wait() == 0, self.program.errors
        return self.program.errors


Serve = Callable[..., Service]


@pytest.fixture(autouse=True)
def app(tmp_path: Path) -> Path:
    """The module ``app`` in the directory where the program is started."""
    path = tmp_path / "app.py"
    path.write_text(APP)
    return path


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def serve(start: Start, mode: str) -> Serve:
    """A function that starts the app with workers, of both kinds in turn."""

    def start_it(*arguments: str, workers: int = 2, wait: bool = True) -> Service:
        program = start(
            *("-m", "fastbatch", "app:hello", "--port=0", f"--workers={workers}"),
            *MODES[mode],
            *arguments,
            env={"PYTHONDONTWRITEBYTECODE": "1"},
        )
        service = Service(program, mode == "threads")
        if wait:
            program.address()
            service.wait_for_ready(1 if service.is_threads else workers)
        return service

    return start_it


def is_there(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@contextlib.contextmanager
def crowd(service: Service) -> Iterator[list[str]]:
    """Clients that ask all the time, on new connections; what was wrong."""
    address = service.program.address()
    failures: list[str] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            try:
                with Connection(address) as connection:
                    reply = connection.ask("/", "Connection: close")
                if reply.status != 200:
                    failures.append(str(reply.status))
            except Exception as error:  # noqa: BLE001 - whatever it is
                failures.append(repr(error))
            time.sleep(0.002)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield failures
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


# ---- beginning and end ------------------------------------------------------------


def test_workers_serve_and_end_in_good_order(serve: Serve) -> None:
    service = serve()
    pids = service.ready
    assert service.pid() in pids
    assert service.program.pid not in pids
    log = service.end()
    assert f"listening on http://127.0.0.1:{service.program.address()[1]}\n" in log
    assert "SIGTERM: answering what has arrived, then ending" in log
    assert all(f"worker process {pid} has ended\n" in log for pid in pids)
    assert not any(is_there(pid) for pid in pids)
    assert not re.search("Traceback|WARNING|ERROR", log), log


def test_workers_are_as_many_as_asked_for(serve: Serve) -> None:
    service = serve(workers=3)
    if service.is_threads:
        service.wait_for(f"{READY}, 3 threads\n")
    assert len(service.ready) == (1 if service.is_threads else 3)
    service.end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_request_in_a_handler_is_answered_at_the_end(
    serve: Serve, app: Path, number: signal.Signals
) -> None:
    # The sleep is for the worker to be told: it says nothing of that.
    slow = "wait(); time.sleep(0.5)"
    write(app, APP.replace("time.sleep(0.5)", slow) + WAIT)
    service = serve()
    with Connection(service.program.address()) as connection:
        connection.send(helpers.get("/slow"))
        service.wait_for("in the handler")
        service.signal(number)
        service.wait_for("answering what has arrived")
        app.with_name("go").touch()
        reply = connection.reply()
        assert reply.body.endswith(b"first")
        assert reply.headers["Connection"] == "close"
    assert service.program.wait() == 0, service.program.errors


def test_ctrl_c_of_a_terminal_goes_to_all_and_lets_them_answer(
    start: Start, mode: str
) -> None:
    program = start(
        *("-m", "fastbatch", "app:hello", "--port=0", "--workers=2", *MODES[mode]),
        start_new_session=True,
    )
    with Connection(program.address()) as connection:
        connection.send(helpers.get("/slow"))
        program.wait_for("in the handler")
        os.killpg(program.pid, signal.SIGINT)
        assert connection.reply().body.endswith(b"first")
    assert program.wait() == 0
    assert "Traceback" not in program.errors


def test_second_signal_ends_handlers_that_do_not_return(serve: Serve) -> None:
    service = serve()
    with Connection(service.program.address()) as connection:
        connection.send(helpers.get("/stuck"))
        service.wait_for("in the handler")
        service.signal(signal.SIGTERM)
        service.wait_for("answering what has arrived")
        service.signal(signal.SIGTERM)
        assert service.program.wait() == 130
    assert not any(is_there(pid) for pid in service.ready)
    assert "Traceback" not in service.program.errors


def test_handler_that_does_not_return_is_killed_after_graceful_timeout(
    serve: Serve,
) -> None:
    service = serve("--graceful-timeout=0.1")
    with Connection(service.program.address()) as connection:
        connection.send(helpers.get("/stuck"))
        service.wait_for("in the handler")
        service.signal(signal.SIGTERM)
        assert service.program.wait() == 0, service.program.errors
    assert re.search(
        r"worker process \d+ does not end: killing it", service.program.errors
    )


def test_new_connections_are_refused_once_it_ends(serve: Serve) -> None:
    service = serve()
    address = service.program.address()
    with Connection(address) as connection:
        connection.send(helpers.get("/slow"))
        service.wait_for("in the handler")
        service.signal(signal.SIGTERM)
        connection.reply()
    service.program.wait()
    with pytest.raises(ConnectionRefusedError):
        Connection(address)


def test_workers_end_when_their_supervisor_is_killed(serve: Serve) -> None:
    service = serve(workers=3)
    pids = service.ready
    service.signal(signal.SIGKILL)
    helpers.wait_until(lambda: not any(is_there(pid) for pid in pids))
    service.program.wait()
    assert "ends, for its supervisor has gone" in service.program.errors


def test_signal_to_a_worker_ends_it_in_good_order_and_another_comes(
    serve: Serve,
) -> None:
    service = serve()
    with Connection(service.program.address()) as connection:
        connection.send(helpers.get("/slow"))
        service.wait_for("in the handler")
        n = len(service.ready)
        for pid in service.ready:
            os.kill(pid, signal.SIGTERM)
        assert connection.reply().body.endswith(b"first")
    service.wait_for_ready(2 * n)
    service.pid()
    service.end()


def test_unix_socket_is_removed_by_the_supervisor_alone(
    start: Start, mode: str, tmp_path: Path
) -> None:
    program = start(
        *("-m", "fastbatch", "app:hello", "--bind=unix:socket", "--workers=2"),
        *MODES[mode],
    )
    path = tmp_path / "socket"
    program.wait_for("listening")
    service = Service(program, mode == "threads")
    pids = service.wait_for_ready(1 if service.is_threads else 2)
    os.kill(pids[0], signal.SIGKILL)
    service.wait_for_ready(len(pids) + 1)
    with Connection(str(path)) as connection:
        assert connection.ask().status == 200
    program.signal(signal.SIGTERM)
    assert program.wait() == 0
    assert not path.exists()


# ---- deaths -----------------------------------------------------------------------


def test_worker_that_is_killed_is_replaced(serve: Serve) -> None:
    service = serve()
    n = len(service.ready)
    killed = service.pid()
    os.kill(killed, signal.SIGKILL)
    service.wait_for(
        f"ERROR fastbatch: worker process {killed} has died of SIGKILL: starting"
        " another one"
    )
    service.wait_for_ready(n + 1)
    assert service.pid() != killed
    service.end()


@pytest.mark.parametrize("threads", [0, 2])
def test_worker_whose_handler_exits_is_replaced(serve: Serve, threads: int) -> None:
    service = serve(f"--threads={threads}")
    n = len(service.ready)
    with Connection(service.program.address()) as connection:
        connection.send(helpers.get("/exit"))
        connection.rest()
    service.wait_for(r"worker process \d+ has died with status 3: starting another one")
    service.wait_for_ready(n + 1)
    service.pid()
    service.end()


def test_process_that_was_reaped_is_not_killed_whatever_is_wrong() -> None:
    """The pid file cannot be written, say, when a worker that has died was ready."""

    def refuse(*_: object) -> None:
        raise PermissionError

    supervisor = Supervisor(Options(workers=2), refuse)
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.send(b'{"ready": true, "queues": []}\n')
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    supervisor._adopt(Process(pid, ours, new_memory(), 1))
    try:
        with pytest.raises(PermissionError):
            supervisor._reap()
        supervisor._kill_all()
    finally:
        supervisor._close()
        ours.close()


def test_workers_that_die_again_and_again_have_to_wait(serve: Serve) -> None:
    service = serve()
    killed: set[int] = set()

    def kill_until_it_says(words: str) -> bool:
        for pid in set(service.ready) - killed:
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
        return words in service.program.errors

    for seconds in ("0.5", "1"):
        words = f"starting another one in {seconds} s\n"
        helpers.wait_until(lambda words=words: kill_until_it_says(words), words)
    service.end()


# ---- starts that fail -------------------------------------------------------------


def test_module_that_fails_ends_it_with_its_traceback_once(
    serve: Serve, app: Path
) -> None:
    write(app, "import no_such_module\n")
    service = serve(wait=False, workers=3)
    assert service.program.wait() == 1
    errors = service.program.errors
    assert errors.count("ModuleNotFoundError: No module named 'no_such_module'") == 1
    assert errors.count("File ") == 1  # no frames of ours or of importlib
    assert errors.endswith(
        "python -m fastbatch: app:hello cannot be imported: see above\n"
    )
    assert "listening" not in errors


def test_traceback_of_megabytes_ends_it_with_what_it_ends_with(
    serve: Serve, app: Path
) -> None:
    write(app, "raise ValueError('é' * 3_000_000 + ' is too long')\n")
    service = serve(wait=False)
    assert service.program.wait() == 1
    assert "é is too long\n" in service.program.errors


def test_one_start_that_fails_is_made_up_for_when_another_one_is_ready(
    serve: Serve, app: Path
) -> None:
    write(
        app,
        APP
        + WAIT
        + """
try:
    os.mkdir("first")
except FileExistsError:
    wait()
else:
    os.kill(os.getpid(), 9)
""",
    )
    service = serve("--worker-timeout=0", wait=False)
    helpers.wait_until(app.with_name("first").is_dir)
    if service.is_threads:  # there is no other one
        assert service.program.wait() == 1
        return
    time.sleep(0.3)  # for the supervisor to see its death
    app.with_name("go").touch()
    service.wait_for_ready(2)
    service.wait_for(r"has died of SIGKILL before it was ready\n")
    service.end()


def test_handler_that_is_not_there_ends_it_with_2(serve: Serve, app: Path) -> None:
    write(app, "def helo(request): pass\n")
    service = serve(wait=False)
    assert service.program.wait() == 2
    assert service.program.errors == (
        "python -m fastbatch: module app has no attribute 'hello'; did you mean helo?\n"
        "See python -m fastbatch --help.\n"
    )


def test_module_that_exits_ends_it_with_that_status(serve: Serve, app: Path) -> None:
    write(app, "import sys; sys.exit(5)\n")
    service = serve(wait=False)
    assert service.program.wait() == 5
    assert re.fullmatch(
        r"worker process \d+ has died with status 5 before it was ready\n",
        service.program.errors,
    )


def test_signal_ends_workers_that_have_not_started_yet(serve: Serve, app: Path) -> None:
    write(app, "import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    service = serve(wait=False)
    service.wait_for("importing")
    service.signal(signal.SIGTERM)
    assert service.program.wait() == 0, service.program.errors


def test_access_log_that_cannot_be_opened_ends_it(serve: Serve) -> None:
    service = serve("--access-log=no/such/folder", wait=False)
    assert service.program.wait() == 1
    assert "no/such/folder' cannot be opened: No such file" in service.program.errors


# ---- SIGHUP -----------------------------------------------------------------------


def test_sighup_brings_fresh_code_and_nobody_is_refused(
    serve: Serve, app: Path
) -> None:
    service = serve()
    before = service.ready
    with crowd(service) as failures:
        write(app, APP.replace("first", "second"))
        service.signal(signal.SIGHUP)
        service.wait_for("SIGHUP: the workers are replaced")
        for pid in before:
            service.wait_for(f"worker process {pid} has ended\n")
    assert failures == []
    assert service.ask().endswith("second")
    assert len(service.ready) == 2 * len(before)
    assert "SIGHUP: replacing 2 workers\n" in service.end()


def test_sighup_with_broken_code_keeps_the_old_workers(serve: Serve, app: Path) -> None:
    service = serve()
    before = service.ready
    write(app, "raise ValueError('of the module')\n")
    service.signal(signal.SIGHUP)
    service.wait_for(r"SIGHUP: worker process \d+ .*: the old workers are kept\n")
    assert service.program.errors.count("ValueError: of the module") == 1
    assert service.pid() in before
    write(app, APP.replace("first", "repaired"))
    service.signal(signal.SIGHUP)
    service.wait_for("SIGHUP: the workers are replaced")
    helpers.wait_until(lambda: service.ask().endswith("repaired"))
    service.end()


def test_sighup_twice_in_a_row_replaces_all(serve: Serve, app: Path) -> None:
    service = serve()
    service.signal(signal.SIGHUP)
    write(app, APP.replace("first", "second"))
    service.signal(signal.SIGHUP)
    service.wait_for("SIGHUP: the workers are replaced")
    helpers.wait_until(lambda: service.ask().endswith("second"))
    service.end()


def test_sighup_that_repairs_what_the_one_before_broke(serve: Serve, app: Path) -> None:
    service = serve()
    before = service.ready
    write(app, "import time\nprint('importing', flush=True)\ntime.sleep(60)\n1 / 0\n")
    service.signal(signal.SIGHUP)
    service.wait_for("importing")
    write(app, APP.replace("first", "repaired"))
    service.signal(signal.SIGHUP)
    service.wait_for_ready(len(before) + 1)
    # The first new one is ready before any of the old ones is gone.
    until, _, _ = service.program.errors.partition(f"{service.ready[len(before)]} is")
    assert not any(f"process {pid} has ended" in until for pid in before)
    service.wait_for("SIGHUP: the workers are replaced")
    helpers.wait_until(lambda: service.ask().endswith("repaired"))
    assert not re.search("WARNING|ERROR", service.end())


# ---- more and less ----------------------------------------------------------------


def test_sigttin_and_sigttou_are_one_more_and_one_less(serve: Serve) -> None:
    service = serve()
    service.signal(signal.SIGTTIN)
    service.wait_for("SIGTTIN: 3 workers\n")
    if not service.is_threads:
        service.wait_for_ready(3)
    service.signal(signal.SIGTTOU)
    service.wait_for("SIGTTOU: 2 workers\n")
    if not service.is_threads:
        helpers.wait_until(lambda: sum(map(is_there, service.ready)) == 2)
    service.signal(signal.SIGTTOU)
    service.wait_for("SIGTTOU: 1 worker\n")
    service.pid()
    service.signal(signal.SIGTTIN)
    helpers.wait_until(
        lambda: service.program.errors.count("SIGTTIN: 2 workers\n") == 1
    )
    service.pid()
    assert not re.search("WARNING|ERROR", service.end())


def test_process_that_ends_is_not_told_of_more(start: Start, app: Path) -> None:
    write(app, APP.replace("time.sleep(0.5)", "wait()") + WAIT)
    program = start(
        *("-m", "fastbatch", "app:hello", "--port=0", "--workers=2"),
        "--processes=false",
    )
    service = Service(program, is_threads=True)
    with Connection(program.address()) as connection:
        connection.send(helpers.get("/slow"))
        service.wait_for("in the handler")
        service.signal(signal.SIGHUP)
        service.wait_for("SIGHUP: the workers are replaced")
        service.signal(signal.SIGTTIN)
        service.wait_for("SIGTTIN: 3 workers\n")
        app.with_name("go").touch()
        assert connection.reply().status == 200
    assert not re.search("WARNING|ERROR", service.end())


FEW_SLOTS = """
import fastbatch, fastbatch._process, fastbatch._seat

fastbatch._seat.SLOTS = fastbatch._process.SLOTS = 4
fastbatch.run(lambda request: "x", port=0, workers=2, processes=False)
"""


def test_process_that_has_had_too_many_workers_is_replaced(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(FEW_SLOTS)
    service = Service(start("script.py"), is_threads=True)
    service.wait_for_ready(1)
    for number in (signal.SIGTTIN, signal.SIGTTOU) * 3:
        n = len(re.findall(r"SIGTT\w+: \d worker", service.program.errors))
        service.signal(number)
        helpers.wait_until(
            lambda n=n: len(re.findall(r"SIGTT\w+: \d", service.program.errors)) > n
        )
    service.wait_for_ready(2)
    assert service.ask() == "x"
    service.end()


def test_there_is_always_one_worker(serve: Serve) -> None:
    service = serve("--max-requests=1000", workers=1)  # which asks for a supervisor
    service.signal(signal.SIGTTOU)
    service.wait_for("SIGTTOU: 1 worker\n")
    service.pid()
    service.end()


# ---- limits of workers ------------------------------------------------------------


def test_worker_that_has_had_its_requests_is_replaced_without_a_gap(
    serve: Serve,
) -> None:
    service = serve("--max-requests=20", "--max-requests-jitter=5")
    n = len(service.ready)
    with crowd(service) as failures:
        service.wait_for_ready(n + 2)
        service.wait_for(r"worker process \d+ has ended\n")
    assert failures == []
    assert re.search(
        r"worker process \d+ has had \d+ requests: replacing it\n", service.end()
    )


def test_worker_that_takes_too_much_memory_is_replaced(serve: Serve) -> None:
    service = serve("--max-rss=90000000")
    n = len(service.ready)
    service.ask("/grow")
    service.wait_for(r"worker process \d+ takes \d+ bytes of memory: replacing it\n")
    service.wait_for_ready(n + 1)
    service.pid()
    service.end()


def test_worker_that_is_stuck_says_where_and_is_replaced(serve: Serve) -> None:
    # A worker that has nothing to do must not be kept from its turn for so long.
    service = serve("--worker-timeout=2")
    n = len(service.ready)
    with Connection(service.program.address()) as connection:
        connection.send(helpers.get("/stuck"))
        with contextlib.suppress(ConnectionResetError):
            connection.rest()
    pid = service.wait_for(
        r"worker process (\d+) has shown no sign of life for 2 s: ending it with"
        " SIGABRT"
    )[1]
    service.wait_for(f"worker process {pid} has died of SIGABRT: starting another one")
    assert "in stay_for_ever" in service.program.errors
    service.wait_for_ready(n + 1)
    service.pid()
    service.end()


def test_time_in_which_all_were_stopped_is_nobody_s_silence(serve: Serve) -> None:
    """As when a container is paused."""
    service = serve("--worker-timeout=2")
    pids = [*service.ready, service.program.pid]
    for pid in reversed(pids):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(2.5)
    for pid in reversed(pids):
        os.kill(pid, signal.SIGCONT)
    time.sleep(0.5)
    service.pid()
    assert "no sign of life" not in service.end()


# ---- what workers have ------------------------------------------------------------


def test_sigusr1_opens_the_access_logs_of_all_anew(
    serve: Serve, tmp_path: Path
) -> None:
    service = serve("--access-log=log")
    log = tmp_path / "log"
    service.pid()
    old = log.rename(tmp_path / "old")
    service.signal(signal.SIGUSR1)
    helpers.wait_until(
        lambda: not any(has_open(pid, old) for pid in service.ready), "opening anew"
    )
    for _ in range(10):
        service.pid()
    service.end()
    # The first one may have been formed and not written.
    n_lines = log.read_text().count("\n")
    assert 10 <= n_lines == 11 - old.read_text().count("\n")


def has_open(pid: int, path: Path) -> bool:
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it is closed by now
            if link.samefile(path):
                return True
    return False


def test_application_is_told_of_other_processes_and_threads(
    serve: Serve, app: Path
) -> None:
    write(
        app,
        """
def hello(environ, start_response):
    start_response("200 OK", [])
    return [repr((environ["wsgi.multithread"], environ["wsgi.multiprocess"])).encode()]
""",
    )
    service = serve()
    assert service.ask() == repr((service.is_threads, True))
    service.end()


def test_logging_of_the_application_is_left_alone(serve: Serve, app: Path) -> None:
    setting_up = "import logging\nlogging.basicConfig(format='<%(message)s>')\n"
    failing = "def hello(request):\n    logging.getLogger().warning('of the app')\n"
    write(app, setting_up + failing)
    service = serve()
    service.ask()
    service.wait_for("<of the app>\n")
    service.end()


# Appended to it.
LEAVING = """
import atexit

def leave(self=None, write=os.write, wait=wait):
    write(1, b"leaving\\n")
    wait()
    write(1, b"left\\n")

class Last:
    __del__ = leave

"""


def test_exit_functions_of_the_application_are_called(serve: Serve, app: Path) -> None:
    write(app, APP + "import atexit\natexit.register(os.write, 1, b'at exit\\n')\n")
    service = serve()
    service.end()
    n = len(service.ready)
    assert service.program.output.count("at exit\n") == n


@pytest.mark.parametrize(
    "last", ["atexit.register(leave)", "last = Last()"], ids=["atexit", "finalizer"]
)
def test_signal_to_all_processes_does_not_cut_short_what_is_done_last(
    serve: Serve, app: Path, last: str
) -> None:
    """As a service manager sends it: it may reach a worker that has served already."""
    write(app, f"{APP}{WAIT}{LEAVING}{last}\n")
    service = serve()
    n = len(service.ready)
    service.signal(signal.SIGTERM)
    helpers.wait_until(lambda: service.program.output.count("leaving\n") == n)
    for pid in service.ready:
        os.kill(pid, signal.SIGTERM)
    app.with_name("go").touch()
    assert service.program.wait() == 0
    assert service.program.output.count("left\n") == n
    assert "WARNING" not in service.program.errors


def test_worker_has_no_descriptors_of_others(serve: Serve) -> None:
    service = serve(workers=3)
    if not service.is_threads:
        # What is imported on the way to the loop is open for a moment.
        helpers.wait_until(
            lambda: (
                len({len(os.listdir(f"/proc/{pid}/fd")) for pid in service.ready}) == 1
            ),
            "as many descriptors in each",
        )
    service.end()


# ---- scripts ----------------------------------------------------------------------

SCRIPT = """
import os, signal
import fastbatch

print("begun", flush=True)
before = signal.getsignal(signal.SIGTERM)
try:
    fastbatch.run(lambda request: str(os.getpid()), port=0, workers=2, processes={})
finally:
    print("returned", signal.getsignal(signal.SIGTERM) == before, flush=True)
"""


@pytest.mark.parametrize("processes", [True, False])
def test_script_goes_on_once_when_all_workers_have_ended(
    start: Start, tmp_path: Path, *, processes: bool
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT.format(processes))
    program = start("script.py")
    with Connection(program.address()) as connection:
        assert connection.ask().body != str(program.pid).encode()
    program.signal(signal.SIGHUP)
    program.wait_for("SIGHUP: the workers are replaced")
    program.signal(signal.SIGTERM)
    assert program.wait() == 0
    assert program.output == "begun\nreturned True\n"


SCRIPT_WITH_STDERR = """
import os, sys
import fastbatch

class Lines:
    def write(self, text):
        assert text[-1:] in ("", "\\n"), text
        os.write(2, text.encode())

    def flush(self):
        pass

sys.stderr = Lines()
fastbatch.run(lambda request: "x", port=0, workers=2, processes={})
"""


@pytest.mark.parametrize("processes", [True, False])
def test_stderr_of_a_script_need_be_no_file_and_is_given_whole_lines(
    start: Start, tmp_path: Path, *, processes: bool
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT_WITH_STDERR.format(processes))
    program = start("script.py")
    with Connection(program.address()) as connection:
        assert connection.ask().body == b"x"
    program.signal(signal.SIGTERM)
    assert program.wait() == 0


def test_run_in_another_thread_has_threads_and_no_supervisor() -> None:
    import fastbatch

    servers: list[fastbatch.Server] = []
    original = fastbatch.Server._open

    def opened(server: fastbatch.Server, wakeup_fd: int) -> None:
        original(server, wakeup_fd)
        servers.append(server)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fastbatch.Server, "_open", opened)
        thread = threading.Thread(
            target=lambda: fastbatch.run(lambda _request: "x", port=0, workers=2)
        )
        thread.start()
        helpers.wait_until(lambda: bool(servers))
    [server] = servers
    assert helpers.get_url(server).body == b"x"
    assert len(server.stats()["workers"]) == 2
    server.stop()
    thread.join(helpers.TIMEOUT)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, False),
        ({"processes": False}, False),
        ({"processes": True}, True),
        ({"workers": 2}, True),
        ({"workers": 2, "processes": False}, True),
        ({"workers": "auto"}, True),
        ({"max_requests": 1}, True),
        ({"max_requests_jitter": 1}, False),
        ({"max_rss": 1}, True),
        ({"worker_timeout": 0}, False),
        ({"worker_timeout": 30}, True),
        ({"reload": True}, True),
    ],
)
def test_supervisor_is_there_when_it_is_asked_for(
    arguments: dict[str, object], *, expected: bool
) -> None:
    assert is_wanted(Options(**arguments)) is expected  # type: ignore[arg-type]


TELLING = """
import os
import fastbatch, fastbatch._server
from fastbatch._supervisor import Supervisor

class Telling(Supervisor):
    def _on_death(self, process, status):
        super()._on_death(process, status)
        stats = self.stats()
        pids = sorted({{one["pid"] for one in stats["workers"]}})
        print(stats["requests"], stats["open_connections"], pids, flush=True)

fastbatch._server.Supervisor = Telling
fastbatch.run(lambda request: str(os.getpid()), port=0, workers=2, processes={})
"""


@pytest.mark.parametrize("processes", [True, False])
def test_counters_of_all_processes_and_of_those_that_died(
    start: Start, tmp_path: Path, *, processes: bool
) -> None:
    (tmp_path / "telling.py").write_text(TELLING.format(processes))
    service = Service(start("telling.py"), is_threads=not processes)
    service.program.address()
    first = service.wait_for_ready(2 if processes else 1)
    for _ in range(5):
        with Connection(service.program.address()) as connection:
            connection.ask()
            pid = int(connection.ask().body)
    os.kill(pid, signal.SIGKILL)
    others = sorted(set(first) - {pid})
    service.wait_for(rf"(?m)^10 \d {re.escape(str(others))}$")
    service.wait_for_ready(len(first) + 1)
    service.ask()
    service.signal(signal.SIGTERM)
    assert service.program.wait() == 0
    assert service.program.output.endswith("\n11 0 []\n")
