"""Workers that accept from the same sockets: ``sharing.py BIND NUMBER``.

It says where it listens, and "worker PID is ready" for each; at SIGUSR1 it starts one
more. A worker answers with the number of its process.
"""

import os
import signal
import sys
import threading
from typing import Any

from fastbatch import Options, _core
from fastbatch._plan import plan_for
from fastbatch._server import _core_arguments
from fastbatch._sockets import open_listeners, parse_bind

BIND, NUMBER = sys.argv[1:]
OPTIONS = Options(backlog=64)
LISTENERS = open_listeners([parse_bind(BIND)], OPTIONS.backlog, 0o600)
PARENT, PARENT_END = os.pipe()


def handler(_request: Any) -> str:
    return str(os.getpid())


PLAN = plan_for(handler, OPTIONS)


def say(text: str) -> None:
    os.write(1, text.encode() + b"\n")


def end_with_the_parent() -> None:
    os.read(PARENT, 1)
    os._exit(1)


def work() -> None:
    os.close(PARENT_END)
    threading.Thread(target=end_with_the_parent, daemon=True).start()
    core = _core.Server(
        PLAN.make_dispatcher([each.address for each in LISTENERS]),
        tuple(os.dup(each.socket.fileno()) for each in LISTENERS),
        wakeup_fd=-1,
        access_log=None,
        stats=None,
        heartbeat_ms=0,
        roster=LISTENERS[0].roster,
        queues=PLAN.queues,
        **_core_arguments(OPTIONS),
    )
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    say(f"worker {os.getpid()} is ready")
    core.serve()


def start() -> None:
    if os.fork() == 0:
        try:
            work()
        finally:
            os._exit(1)


signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps
for listener in LISTENERS:
    print(f"listening on {listener.url}", flush=True)
for _ in range(int(NUMBER)):
    start()
while True:
    signal.sigwait([signal.SIGUSR1])
    start()
