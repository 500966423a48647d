"""What a worker process has of its supervisor: a socket, listeners, shared memory.

The socket carries lines. Down: ``stop`` (answer what has arrived, then end), ``now``
(end), ``reopen`` (the access log), ``more`` and ``less`` (one thread). Up: one JSON
object, ``{"ready": true, "queues": ["the name of each"]}``, or ``{"status": 1, "error":
"why it did not start"}``. Each end takes the closing of the other for its death.
"""

from __future__ import annotations

import mmap
import socket
from dataclasses import dataclass

from fastbatch import _core
from fastbatch._sockets import Listener

# Loops that a process may have had, all in all; pages that are not used cost nothing.
SLOTS = 4 * _core.LIMITS["workers_bound"]


def new_memory() -> mmap.mmap:
    """Memory for the counters of a worker process, shared with those it is forked from.

    The loop that was made as number n has ``counters(memory, n)``.
    """
    return mmap.mmap(-1, SLOTS * _core.STATS_BYTES)


def counters(memory: mmap.mmap, number: int) -> memoryview:
    """Where one loop counts, for ``_core.Server`` and ``_core.read_stats``."""
    if number >= SLOTS:
        raise RuntimeError(f"a process has no more than {SLOTS} workers in its life")
    start = number * _core.STATS_BYTES
    return memoryview(memory)[start : start + _core.STATS_BYTES]


@dataclass(frozen=True, slots=True)
class Seat:
    """The place of a worker process; it belongs to the one that is forked for it."""

    control: socket.socket
    listeners: list[Listener]  # without files to remove: that is the supervisor's
    memory: mmap.mmap
    n_loops: int  # to begin with
    heartbeat_ms: int  # 0: nobody looks
    uses_processes: bool  # there is one loop in each process

    def counters(self, number: int) -> memoryview:
        """Where loop ``number`` counts."""
        return counters(self.memory, number)
