"""Workers that share an address, for listeners.py. Run as a file.

It says {"port": N}. For each line on stdin it says how many connections each worker has
open, and has accepted; it ends, with its workers, when stdin does.
"""

import argparse
import mmap
import os
import signal
import socket
import sys
import threading
import traceback
from dataclasses import dataclass
from typing import Any

from serving import (  # type: ignore[import-not-found] # it is beside this file
    BACKLOG,
    load_app,
    say,
)

import fastbatch
from fastbatch import _core
from fastbatch._plan import plan_for
from fastbatch._server import _core_arguments

KINDS = ("reuseport", "shared", "roster")


@dataclass(frozen=True)
class Worker:
    """What one is made of, before it is a thread or a process."""

    listener: socket.socket
    stats: mmap.mmap
    roster: mmap.mmap | None
    ready: int  # a pipe that it writes to

    def serve(self, app: str) -> None:
        options = fastbatch.Options(backlog=BACKLOG)
        plan = plan_for(load_app(app), options)
        address = self.listener.getsockname()
        core = _core.Server(
            plan.make_dispatcher([address]),
            (os.dup(self.listener.fileno()),),
            wakeup_fd=-1,
            access_log=None,
            stats=self.stats,
            heartbeat_ms=0,
            roster=self.roster,
            queues=plan.queues,
            **_core_arguments(options),
        )
        os.write(self.ready, b".")
        core.serve()

    def counts(self) -> dict[str, Any]:
        stats = _core.read_stats(self.stats)
        return {name: stats[name] for name in ("open_connections", "connections")}


def make_workers(kind: str, n: int, ready: int) -> list[Worker]:
    """All sockets listen before a worker begins, as under a supervisor."""
    roster = mmap.mmap(-1, _core.ROSTER_BYTES) if kind == "roster" else None
    listeners: list[socket.socket] = []
    for _ in range(n if kind == "reuseport" else 1):
        port = listeners[0].getsockname()[1] if listeners else 0
        listener = socket.socket()
        if kind == "reuseport":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(BACKLOG)
        listeners.append(listener)
    return [
        Worker(
            listeners[i % len(listeners)],
            mmap.mmap(-1, _core.STATS_BYTES),
            roster,
            ready,
        )
        for i in range(n)
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("app")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", action="store_true")
    args = parser.parse_args()
    ready, writer = os.pipe()
    workers = make_workers(args.kind, args.workers, writer)
    pids: list[int] = []
    try:
        for worker in workers:
            if args.threads:
                run = threading.Thread(
                    target=worker.serve, args=[args.app], daemon=True
                )
                run.start()
                continue
            pid = os.fork()
            if pid == 0:
                try:
                    worker.serve(args.app)
                except BaseException:  # noqa: BLE001 - it goes no further
                    traceback.print_exc()
                os._exit(1)
            pids.append(pid)
        for _ in workers:
            os.read(ready, 1)
        say({"port": workers[0].listener.getsockname()[1]})
        for _ in sys.stdin:
            say({"workers": [worker.counts() for worker in workers]})
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    sys.stdout.flush()
    os._exit(0)  # threads that serve do not end


if __name__ == "__main__":
    main()
