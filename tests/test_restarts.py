"""No request is lost while workers are replaced, added, taken away or killed.

Each test has clients that count (counting.py) ask while it happens. A kill that no
worker can prepare for may cost what that worker held: at most one request of a client.
"""

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import helpers
import pytest
from conftest import Start
from counting import HANDLER, KINDS, Clients
from helpers import Connection, Program

# In whose handler something goes on for ever, or which takes memory and keeps it.
APPS = (
    HANDLER
    + """
kept = []

def stuck(request):
    if request.path == "/stuck":
        time.sleep(1000)
    return handler(request)

def leaky(request):
    kept.append(os.urandom(200_000))
    return handler(request)
"""
)


FORMS = {
    "processes": ["--processes=true"],
    "threads": ["--processes=false"],
    "handler threads": ["--processes=true", "--threads=4"],
}


in_all_forms = pytest.mark.parametrize("serve", FORMS, indirect=True)


@pytest.fixture(params=["processes", "threads"])
def serve(
    start: Start, tmp_path: Path, request: pytest.FixtureRequest
) -> Callable[..., Program]:
    """A function that starts two workers, of one of the forms."""
    (tmp_path / "app.py").write_text(APPS)

    def start_it(*options: str, handler: str = "handler") -> Program:
        arguments = [f"app:{handler}", "--port=0", *FORMS[request.param]]
        program = start("-m", "fastbatch", *arguments, "--workers=2", *options)
        program.address()
        helpers.wait_until(lambda: len(pids(program)) == n_processes(program))
        return program

    return start_it


def clients_of(program: Program) -> Clients:
    return Clients(program.address(), program.cwd / "handled")


def pids(program: Program) -> list[int]:
    """The worker processes that got ready, in that order, the ended ones included."""
    return [
        int(n) for n in re.findall(r"worker process (\d+) is ready", program.errors)
    ]


def n_processes(program: Program) -> int:
    return 1 if "--processes=false" in program.command else 2


def n_ended(program: Program) -> int:
    return len(re.findall(r"worker process \d+ has (?:ended|died)", program.errors))


def wait_for(clients: Clients, program: Program, words: str, times: int = 1) -> None:
    """Wait until it has said ``words`` so often; the clients are to go on meanwhile."""
    clients.go_on_until(lambda: program.errors.count(words) >= times, words)


def end(program: Program) -> None:
    program.signal(signal.SIGTERM)
    assert program.wait() == 0, program.errors
    assert "Traceback" not in program.errors


@in_all_forms
def test_sighup(serve: Callable[..., Program]) -> None:
    program = serve()
    with clients_of(program) as clients:
        for number in range(1, 6):
            clients.go_on()
            program.signal(signal.SIGHUP)
            wait_for(clients, program, "the workers are replaced", number)
        clients.go_on()
    clients.count.check()
    assert len(pids(program)) == 6 * n_processes(program)
    workers = {int(worker.split()[0]) for worker in clients.count.workers}
    assert len(workers) > 5
    end(program)


def test_more_workers_and_fewer(serve: Callable[..., Program]) -> None:
    program = serve()
    with clients_of(program) as clients:
        for times in range(1, 4):
            clients.go_on()
            program.signal(signal.SIGTTIN)
            wait_for(clients, program, "SIGTTIN: 3 workers", times)
            clients.go_on()
            program.signal(signal.SIGTTOU)
            wait_for(clients, program, "SIGTTOU: 2 workers", times)
        clients.go_on()
        program.signal(signal.SIGTTOU)
        wait_for(clients, program, "SIGTTOU: 1 worker\n")
        clients.go_on()
    clients.count.check()
    assert len(clients.count.workers) > 2
    end(program)


@pytest.mark.parametrize(
    ("option", "handler"),
    [("--max-requests=100", "handler"), ("--max-rss=60000000", "leaky")],
)
def test_workers_that_reach_a_limit(
    serve: Callable[..., Program], option: str, handler: str
) -> None:
    program = serve(option, handler=handler)
    with clients_of(program) as clients:
        clients.go_on_until(lambda: n_ended(program) >= 3, "the end of 3 workers")
        clients.go_on()
    clients.count.check()
    assert len(clients.count.workers) > 3
    end(program)


@in_all_forms
def test_worker_that_is_killed(serve: Callable[..., Program]) -> None:
    program = serve()
    with clients_of(program) as clients:
        clients.go_on()
        for _ in range(2):
            n_ready = len(pids(program))
            os.kill(pids(program)[-1], signal.SIGKILL)
            wait_for(clients, program, " is ready", n_ready + 1)
            clients.go_on(200)
    # They were on a connection of that worker, one of each client.
    assert len(clients.count.lost) + len(clients.count.unread) <= 2 * len(KINDS)
    clients.count.check(lost=2 * len(KINDS), unread=2 * len(KINDS))
    end(program)


def test_worker_whose_handler_does_not_return(serve: Callable[..., Program]) -> None:
    # The other worker must not be kept from its turn for so long.
    program = serve("--worker-timeout=3", handler="stuck")
    with clients_of(program) as clients:
        clients.go_on()
        with Connection(program.address()) as connection:
            connection.send(helpers.get("/stuck"))
            assert connection.rest() == b""
        clients.go_on(200)
    assert n_ended(program) == 1
    clients.count.check(lost=len(KINDS), unread=len(KINDS))
    program.signal(signal.SIGTERM)
    assert program.wait() == 0


@in_all_forms
def test_sigterm_answers_what_was_sent(serve: Callable[..., Program]) -> None:
    program = serve()
    with clients_of(program) as clients:
        clients.go_on()
        end(program)
        clients.go_on_until(lambda: clients.count.refused != [], "a client too late")
    count = clients.count
    # Who comes too late is refused, by one of two errors.
    assert count.lost == count.unaccepted, count
    count.refused.clear()
    count.check(lost=len(KINDS))
