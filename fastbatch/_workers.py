"""The workers of one process: event loops, each on a thread of its own.

They share no lock while they serve; what is here runs when one is started, stopped or
asked for its counters. Which processes there are is no concern of this file.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastbatch import _core
from fastbatch._config import AUTO, Options
from fastbatch._cpus import usable_cpus
from fastbatch._stats import add_up, named

MakeCore = Callable[[int], _core.Server]
"""Makes the loop of worker n, on the thread that is to run it."""


@dataclass(slots=True)
class _Loop:
    core: _core.Server
    thread: threading.Thread | None = None  # None: the one that calls serve()
    is_over: threading.Event = field(default_factory=threading.Event)


class Workers:
    """Loops that begin together and end together.

    The first one runs on the thread that calls ``serve()``, the others on new threads.
    What a handler raises that is no ``Exception``, in any of them, stops all.

    Args:
        make: makes the loops.
        handle: makes the calling thread one of a loop's handler threads.
        n_threads: how many of these each loop has.
        name: of all these threads.
        queues: the names of the queues that each loop has.
    """

    def __init__(
        self,
        make: MakeCore,
        handle: Callable[[_core.Server], None],
        n_threads: int,
        name: str,
        queues: Sequence[str],
    ) -> None:
        self._make = make
        self._handle = handle
        self._n_threads = n_threads
        self._name = name
        self._queues = queues
        # For what follows, down to _stopping. A signal handler calls stop(), and may
        # have interrupted whoever holds the lock.
        self._lock = threading.RLock()
        self._loops: list[_Loop] = []
        self._leaving: list[_Loop] = []  # taken away, and answering what has arrived
        self._past: list[dict[str, Any]] = []  # the counters of those that have left
        self._n_made = 0
        self._stopping: bool | None = None  # what stop() was told
        self._go = threading.Event()
        self._idents: set[int] = set()  # of threads that serve
        self._error: BaseException | None = None

    def open(self, n: int) -> None:
        """Make ``n`` workers; nothing is left if that fails."""
        try:
            self._loops.append(_Loop(self._make(self._next_number())))
            for _ in range(1, n):
                self.add()
        except BaseException:
            self.abandon()
            raise

    def serve(self) -> None:
        """Run the first worker on this thread, until all have ended.

        Raises:
            BaseException: what ended one of them.
        """
        self._go.set()
        self._run(self._loops[0])
        while (loop := self._one_that_runs()) is not None:
            loop.is_over.wait()
            self._join(loop)
        error, self._error = self._error, None
        if error is not None:
            raise error

    def stop(self, now: bool = False) -> None:
        """Have all answer what has arrived and end; from any thread, and at once."""
        with self._lock:
            self._stopping = now or bool(self._stopping)
            cores = [loop.core for loop in (*self._loops, *self._leaving)]
        for core in cores:
            core.stop(now)

    def add(self) -> None:
        """Start one more. Raises what making it raised."""
        made: queue.SimpleQueue[_Loop | BaseException] = queue.SimpleQueue()
        number = self._next_number()
        name = f"{self._name} worker {number}"
        thread = new_thread(lambda: self._work(number, made), name)
        thread.start()
        loop = made.get()
        if isinstance(loop, BaseException):
            thread.join()
            raise loop
        loop.thread = thread
        with self._lock:
            self._loops.append(loop)
            stopping = self._stopping
        if stopping is not None:
            loop.core.stop(stopping)

    def remove(self) -> None:
        """Have the last one answer what has arrived and end; never the first one."""
        with self._lock:
            if len(self._loops) < 2:
                return
            loop = self._loops.pop()
            self._leaving.append(loop)
        loop.core.stop()

    def abandon(self) -> None:
        """End those that were made and did not serve."""
        self.stop(now=True)
        self._go.set()
        for loop in self._loops:
            self._join(loop)
        self._loops.clear()  # with them go their listening sockets

    def is_stopping(self) -> bool:
        """Whether ``stop()`` was called, or an error has ended all."""
        return self._stopping is not None

    def is_here(self) -> bool:
        """Whether the calling thread is one that serves."""
        return threading.get_ident() in self._idents

    def reopen_access_log(self, open_file: Callable[[], int]) -> None:
        """Have all go on in files that ``open_file`` opens."""
        with self._lock:
            cores = [loop.core for loop in (*self._loops, *self._leaving)]
        for core in cores:
            core.set_access_log(open_file())

    def stats(self) -> dict[str, Any]:
        """The counters of all together, and each one's as ``workers``."""
        with self._lock:
            each = [self._stats_of(loop) for loop in self._loops]
            others = [self._stats_of(loop) for loop in self._leaving] + self._past
        return add_up([*each, *others]) | {"workers": each}

    # ---- inside -------------------------------------------------------------------

    def _work(self, number: int, made: queue.SimpleQueue[Any]) -> None:
        try:
            loop = _Loop(self._make(number))
        except BaseException as error:  # noqa: BLE001 - add() raises it
            made.put(error)
            return
        made.put(loop)
        self._go.wait()
        self._run(loop)

    def _run(self, loop: _Loop) -> None:
        handlers: list[threading.Thread] = []
        try:
            with self._here():
                self._start_handlers(loop, handlers)
                loop.core.serve()
        except BaseException as error:  # noqa: BLE001 - serve() raises it
            self._fail(error)
        for thread in handlers:
            is_started = thread.ident is not None
            if is_started and not loop.core.is_abandoned():
                thread.join()
        loop.is_over.set()

    def _start_handlers(self, loop: _Loop, handlers: list[threading.Thread]) -> None:
        """Start them; where that fails, the loop is to end as soon as it begins."""
        try:
            for number in range(self._n_threads):
                name = f"{self._name} handler {number}"
                handlers.append(new_thread(lambda: self._handle_here(loop), name))
                handlers[-1].start()
        except BaseException as error:  # noqa: BLE001 - serve() raises it
            self._fail(error)
            loop.core.stop(now=True)

    def _handle_here(self, loop: _Loop) -> None:
        try:
            with self._here():
                self._handle(loop.core)
        except BaseException as error:  # noqa: BLE001 - serve() raises it
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """End all, because of ``error``."""
        with self._lock:
            if self._error is None:
                self._error = error
        self.stop()

    @contextlib.contextmanager
    def _here(self) -> Iterator[None]:
        """The calling thread serves during the block."""
        ident = threading.get_ident()
        self._idents.add(ident)
        try:
            yield
        finally:
            self._idents.discard(ident)

    def _stats_of(self, loop: _Loop) -> dict[str, Any]:
        return named(loop.core.stats(), self._queues)

    def _one_that_runs(self) -> _Loop | None:
        with self._lock:
            for loop in (*self._loops, *self._leaving):
                if not loop.is_over.is_set():
                    return loop
        return None

    def _join(self, loop: _Loop) -> None:
        if loop.thread is not None:
            loop.thread.join()

    def _next_number(self) -> int:
        """A number that no loop has had; lets go of those that have left meanwhile."""
        with self._lock:
            for loop in list(self._leaving):
                if loop.is_over.is_set():
                    self._leaving.remove(loop)
                    self._past.append(self._stats_of(loop))
            self._n_made += 1
            return self._n_made - 1


def worker_count(options: Options) -> int:
    """How many workers the options ask for, on this machine."""
    return usable_cpus() if options.workers == AUTO else int(options.workers)


def new_thread(target: Callable[[], None], name: str) -> threading.Thread:
    """A thread that keeps no process alive, where there are such threads."""
    try:
        return threading.Thread(target=target, name=name, daemon=True)
    except RuntimeError:  # a subinterpreter with a GIL of its own has none
        return threading.Thread(target=target, name=name)
