"""A worker process, as its supervisor sees it: told, heard, looked at; never served."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import resource
import signal
import socket
import time
from pathlib import Path
from typing import Any

from fastbatch import _core
from fastbatch._seat import SLOTS, counters
from fastbatch._stats import add_up, named

_REPORT_BYTES = 1024 * 1024  # of a traceback, at the most


class StartError(RuntimeError):
    """No worker can start; ``str()`` is what there is to say, with the traceback."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status if status > 0 else 1  # what the program is to end with


class Process:
    """One worker process.

    ``outdated`` says why it is to be replaced, once it is ready, or is empty.
    """

    def __init__(
        self,
        pid: int,
        control: socket.socket,
        memory: mmap.mmap,
        n_loops: int,
        worker: int = 0,
    ) -> None:
        self.pid = pid
        self.worker = worker  # the number of its first one, among those of all
        self.control = control
        self.live = list(range(n_loops))  # the numbers of its loops
        self.queues: list[str] = []  # the names of what each loop has, once it is ready
        self.error: StartError | None = None  # why it does not start
        self.began = time.monotonic()
        self.is_ready = False
        self.is_stopping = False
        self.is_doomed = False  # it was sent SIGABRT
        self.outdated = ""
        self.ends_by: float | None = None  # then it is killed
        self.request_limit = 0  # for each of its loops; 0: none
        self._memory = memory
        self._heard = b""
        self._n_made = n_loops
        self._workers = list(range(worker, worker + n_loops))  # the number of each loop
        self._beats: dict[int, int] = {}
        self._silence: dict[int, float] = {}  # seconds, while somebody looked

    # ---- told ---------------------------------------------------------------------

    def stop(self, ends_by: float | None) -> None:
        """Have it answer what has arrived and end, by that time if any."""
        self.is_stopping = True
        self.ends_by = ends_by
        # It does not listen before it is ready; then its end is the default action.
        if not (self.is_ready and self.tell("stop")):
            self.kill(signal.SIGTERM)

    def more(self) -> bool:
        """Have it start another loop. Returns False if it has had too many for that."""
        if self._n_made == SLOTS:
            return False
        self._workers.append(self.worker + len(self.live))
        self.live.append(self._n_made)
        self._n_made += 1
        self.tell("more")
        return True

    def less(self) -> None:
        """Have it end the last of its loops."""
        if len(self.live) > 1:
            self.live.pop()
            self.tell("less")

    def tell(self, word: str) -> bool:
        """Send it a line. Returns whether it can be read, as far as one can tell."""
        try:
            self.control.send(word.encode() + b"\n")
        except OSError:
            return False
        return True

    def kill(self, number: signal.Signals) -> None:
        """Send it a signal; it is not reaped yet, so that the number is its own."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    # ---- heard --------------------------------------------------------------------

    def hear(self) -> dict[str, Any] | None:
        """What it has to say, {} if that is not complete, None if it has gone."""
        has_gone = False
        try:
            while not has_gone and len(self._heard) < _REPORT_BYTES:
                data = self.control.recv(65536)
                self._heard += data
                has_gone = not data
        except BlockingIOError:
            pass
        except OSError:
            has_gone = True
        line, newline, self._heard = self._heard.partition(b"\n")
        if newline:
            said: dict[str, Any] = json.loads(line)
            return said
        self._heard = line
        return None if has_gone else {}

    # ---- looked at ----------------------------------------------------------------

    def stats(self) -> list[dict[str, Any]]:
        """The counters of each loop that it has had."""
        return [
            named(
                _core.read_stats(counters(self._memory, number), len(self.queues)),
                self.queues,
            )
            for number in range(self._n_made)
        ]

    def stats_by_worker(self) -> list[tuple[int, dict[str, Any]]]:
        """The same, each behind the number of its worker; one may have had several."""
        return list(zip(self._workers, self.stats(), strict=True))

    def silence(self, elapsed: float) -> float:
        """For how many seconds one of its loops has shown no sign of life.

        Args:
            elapsed: the seconds since this was last asked. They are added up, rather
                than clocks compared, so that a machine or a container that was stopped
                meanwhile is not held against anybody.
        """
        longest = 0.0
        for number in self.live:
            beat = _core.read_stats(counters(self._memory, number))["beat_ms"]
            if beat == 0 or beat != self._beats.get(number):  # 0: it has not begun
                self._beats[number] = beat
                self._silence[number] = 0.0
            else:
                self._silence[number] += elapsed
            longest = max(longest, self._silence[number])
        return longest

    def requests(self) -> int:
        """How many requests it has been given."""
        total: int = add_up(self.stats())["requests"]
        return total

    def rss(self) -> int:
        """Its resident set in bytes, 0 if that cannot be known."""
        try:
            pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        except (OSError, IndexError):
            return 0
        return int(pages) * resource.getpagesize()

    def close(self) -> None:
        """Let go of what it shared with the supervisor."""
        self.control.close()
        self._memory.close()
