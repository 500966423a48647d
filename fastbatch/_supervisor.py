"""The supervisor: starts worker processes, replaces them, and ends them all.

It serves nothing and imports nothing of the user's, so that it stays small and what is
forked from it is fresh. It opens the listeners, and all workers accept from them: while
one is replaced, a connection waits in the kernel at worst.

There is one rule for who is started and stopped, ``_reconcile()``: as many processes
as wanted, none of them outdated; an outdated one goes when a new one is ready. Signals,
deaths and limits only change what is wanted or who is outdated.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import random
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fastbatch._config import Options
from fastbatch._core import LIMITS
from fastbatch._metrics import render
from fastbatch._metrics_process import MetricsProcess
from fastbatch._process import Process, StartError
from fastbatch._say import flush, say
from fastbatch._seat import Seat, new_memory
from fastbatch._signals import STATS_SIGNAL, STOPPING, do_nothing, is_free
from fastbatch._sockets import Listener, open_listeners, parse_bind
from fastbatch._stats import add_up, of_the_past, tell, with_figures
from fastbatch._workers import worker_count

_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGUSR1,
    STATS_SIGNAL,
    signal.SIGCHLD,
)

# Seconds. A process that died sooner than this after its start counts as one that does
# so again and again: beyond one such death for each worker, the next one has to wait.
_STEADY = 10.0
_FIRST_WAIT = 0.5
_LONGEST_WAIT = 30.0

# Seconds beyond graceful_timeout, in which a loop closes what is left.
_GRACE = 2.0

# Seconds that handlers have at a second signal, and that a process has to die of
# SIGABRT, and to write what it was doing.
_AT_ONCE = 1.0

# Seconds from one look at the workers to the next, at the most and at the least.
_LOOK = 1.0
_LOOK_LEAST = 0.02

# For what is counted rather than timed.
_LOOK_AT_COUNTS = 0.25

_RELOAD = "SIGHUP"
_RECYCLED = "its limits"


def is_wanted(options: Options) -> bool:
    """Whether ``run()`` needs a supervisor for what the options ask."""
    has_limits = options.max_requests > 0 or options.max_rss > 0
    has_timeout = options.worker_timeout not in (0, Options().worker_timeout)
    is_alone = options.workers == 1 and not options.processes
    return not is_alone or has_limits or has_timeout or options.reload


def uses_processes(options: Options) -> bool:
    """Whether each worker is to be a process, rather than a thread of one."""
    if options.processes is not None:
        return options.processes
    return not is_free_threaded()


def is_free_threaded() -> bool:
    """Whether threads run side by side, in this process, now."""
    is_gil_enabled = getattr(sys, "_is_gil_enabled", lambda: True)
    return not is_gil_enabled()


class Supervisor:
    """Worker processes, from the first start to the last end.

    Args:
        options: the options; all workers have the same.
        greet: called once, with the listeners and those of the metrics endpoint, when a
            worker is ready.
    """

    def __init__(
        self, options: Options, greet: Callable[[list[Listener], list[Listener]], None]
    ) -> None:
        self._options = options
        self._greet = greet
        self._uses_processes = uses_processes(options)
        self._n_workers = worker_count(options)
        self._listeners: list[Listener] = []
        self._processes: dict[int, Process] = {}
        self._past: dict[int, dict[str, Any]] = {}  # of those gone, by their worker
        self._metrics: MetricsProcess | None = None
        self._selector = selectors.DefaultSelector()
        self._wakeup = socket.socketpair()
        self._signals_before: dict[int, Any] = {}
        self._wakeup_before: int | None = None
        self._is_ready = False  # a worker has been
        self._is_stopping = False
        self._is_reloading = False
        self._has_deaths = False  # children have ended, and were not reaped
        self._n_deaths = 0  # in a row, each soon after its start
        self._spawn_after = 0.0
        self._last_error = ""  # of a start
        self._looked = 0.0

    def run(self) -> Seat | None:
        """Supervise until it is told to end: by a signal.

        It returns in each worker process as well, as ``fork()`` does. There it gives
        the seat to serve at, everything else being as it was before.

        Raises:
            BindError: it cannot listen.
            StartError: no worker could start.
            KeyboardInterrupt: there was a second signal.
        """
        options = self._options
        binds = [parse_bind(text) for text in options.bind]
        self._listeners = open_listeners(binds, options.backlog, options.unix_mode)
        try:
            if options.metrics:
                self._metrics = MetricsProcess(
                    options, lambda: render(self.stats_by_worker())
                )
                self._metrics.open()
            self._install_signals()
            # What the collector does not look at stays shared with the children: of
            # 20 MB, 3 to 6 that each would have copied on free-threaded 3.13.
            gc.collect()
            gc.freeze()
            seat = self._supervise()
        except BaseException:
            self._kill_all()
            self._close()
            raise
        if seat is None:
            gc.unfreeze()
            self._close()
        return seat

    def stats(self) -> dict[str, Any]:
        """The counters of all workers together, also of those that have ended.

        ``workers`` has those of each loop that there is, with the ``pid`` of its
        process. ``open_connections`` are those of living processes.
        """
        each = [
            stats | {"pid": process.pid}
            for process in self._processes.values()
            for stats in process.stats()
        ]
        counts = [{k: v for k, v in one.items() if k != "pid"} for one in each]
        total = add_up([*counts, *self._past.values()])
        return (with_figures(total) if total else {}) | {
            "workers": [with_figures(one) for one in each]
        }

    def stats_by_worker(self) -> list[dict[str, Any]]:
        """The counters of each worker, item n those of worker n.

        One that replaces another has its number, and goes on from its counters.
        """
        each = [one for p in self._processes.values() for one in p.stats_by_worker()]
        by_worker: dict[int, list[dict[str, Any]]] = {}
        for number, stats in (*self._past.items(), *each):
            by_worker.setdefault(number, []).append(stats)
        return [add_up(by_worker[number]) for number in sorted(by_worker)]

    # ---- the loop -----------------------------------------------------------------

    def _supervise(self) -> Seat | None:
        while True:
            self._start_metrics()
            seat = self._reconcile()
            if seat is not None:
                return seat
            if self._is_stopping and not self._processes:
                return None
            for key, _ in self._selector.select(self._seconds_to_wait()):
                key.data()
            if self._has_deaths:  # not before: what they had to say was to be read
                self._has_deaths = False
                self._reap()
            self._look()

    def _reconcile(self) -> Seat | None:
        """Start and stop what is missing and what is too much. Returns as run()."""
        serving = [p for p in self._processes.values() if not p.is_stopping]
        outdated = [p for p in serving if p.outdated]
        current = [p for p in serving if not p.outdated]
        ready = [p for p in current if p.is_ready]
        n_spare = len(ready) + len(outdated) - self._n_wanted
        for process in outdated[: max(n_spare, 0)]:
            self._stop(process)
        for process in current[self._n_wanted :]:
            self._stop(process)
        if self._is_reloading and not outdated:
            self._is_reloading = False
            say(f"{_RELOAD}: the workers are replaced")
        missing = self._n_wanted - len(current)
        if outdated:  # one by one
            missing = min(missing, 1 - (len(current) - len(ready)))
        for _ in range(missing):
            if time.monotonic() < self._spawn_after:
                break
            seat = self._spawn()
            if seat is not None:
                return seat
        return None

    @property
    def _n_wanted(self) -> int:
        """How many processes there are to be."""
        if self._is_stopping:
            return 0
        return self._n_workers if self._uses_processes else 1

    def _seconds_to_wait(self) -> float | None:
        now = time.monotonic()
        times = [p.ends_by for p in self._processes.values() if p.ends_by is not None]
        interval = self._interval()
        if interval is not None:
            times.append(self._looked + interval)
        if now < self._spawn_after < math.inf:
            times.append(self._spawn_after)
        if (metrics := self._missing_metrics()) is not None:
            times.append(metrics.starts_at)
        return max(0.0, min(times) - now) if times else None

    # ---- starting and stopping ----------------------------------------------------

    def _spawn(self) -> Seat | None:
        """Start a process. Returns as run()."""
        ours, theirs = socket.socketpair()
        memory = new_memory()
        n_loops = 1 if self._uses_processes else self._n_workers
        worker = self._free_number()
        try:
            pid = self._fork()
        except OSError as error:
            ours.close()
            theirs.close()
            memory.close()
            self._delay(f"a worker process cannot be started: {error.strerror}")
            return None
        if pid == 0:
            ours.close()
            if self._metrics is not None:
                self._metrics.leave()
            return Seat(
                control=theirs,
                listeners=[replace(each, file=None) for each in self._listeners],
                memory=memory,
                n_loops=n_loops,
                heartbeat_ms=self._heartbeat_ms(),
                uses_processes=self._uses_processes,
            )
        theirs.close()
        self._adopt(Process(pid, ours, memory, n_loops, worker))
        return None

    def _free_number(self) -> int:
        """The first worker that no process serves as, or will go on to."""
        taken = {
            process.worker
            for process in self._processes.values()
            if not process.outdated and not process.is_stopping
        }
        return next(n for n in range(len(taken) + 1) if n not in taken)

    def _fork(self) -> int:
        """As ``os.fork()``; what is the supervisor's alone is not the child's.

        Raises:
            OSError: there can be no more processes.
        """
        flush()
        # A signal that came to the child before it has its own handlers would be
        # written into the wakeup socket, which it shares with us.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
        except OSError:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            raise
        if pid == 0:
            self._leave_to_parent()
        else:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return pid

    def _start_metrics(self) -> None:
        """Start the process of the metrics endpoint, if there is to be one."""
        metrics = self._missing_metrics()
        if metrics is None or time.monotonic() < metrics.starts_at:
            return
        metrics.start(self._fork_for_metrics)
        if metrics.control is not None:
            self._selector.register(
                metrics.control, selectors.EVENT_READ, metrics.answer
            )

    def _missing_metrics(self) -> MetricsProcess | None:
        """The process of the metrics endpoint, if it does not run and is to."""
        metrics = self._metrics
        is_missing = metrics is not None and metrics.control is None
        return metrics if is_missing and not self._is_stopping else None

    def _fork_for_metrics(self) -> int:
        pid = self._fork()
        if pid == 0:
            for listener in self._listeners:
                listener.socket.close()
        return pid

    def _leave_to_parent(self) -> None:
        """In a new child: let go of everything that is the supervisor's."""
        try:
            signal.set_wakeup_fd(-1)
            for number in self._signals_before:
                # SIGTERM ends it while it starts. The others are the supervisor's, but
                # a terminal sends SIGINT to both. No SIG_IGN: what a handler starts
                # would inherit it.
                is_ours = number in (signal.SIGTERM, signal.SIGCHLD)
                signal.signal(number, signal.SIG_DFL if is_ours else do_nothing)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            self._selector.close()
            for process in self._processes.values():
                process.close()
            for end in self._wakeup:
                end.close()
        except BaseException:  # noqa: BLE001 - it must not go on as a second supervisor
            os._exit(1)

    def _adopt(self, process: Process) -> None:
        process.control.setblocking(False)
        if self._options.max_requests:
            jitter = random.randint(0, self._options.max_requests_jitter)
            process.request_limit = self._options.max_requests + jitter
        self._processes[process.pid] = process
        self._selector.register(
            process.control, selectors.EVENT_READ, lambda: self._on_message(process)
        )

    def _stop(self, process: Process) -> None:
        timeout = self._options.graceful_timeout
        process.stop(time.monotonic() + timeout + _GRACE if timeout else None)

    def _delay(self, what: str) -> None:
        """Say what has failed, and wait before the next start if it does so often."""
        self._n_deaths += 1
        extra = self._n_deaths - self._n_workers
        if extra <= 0:
            say(f"{what}: starting another one", logging.ERROR)
            return
        seconds = min(_FIRST_WAIT * 2.0 ** min(extra - 1, 16), _LONGEST_WAIT)
        self._spawn_after = time.monotonic() + seconds
        say(f"{what}: starting another one in {seconds:g} s", logging.ERROR)

    # ---- what processes do --------------------------------------------------------

    def _on_message(self, process: Process) -> None:
        said = process.hear()
        if said is None:
            self._selector.unregister(process.control)  # it is about to be reaped
        elif "ready" in said:
            self._on_ready(process, said["queues"])
        elif "error" in said:
            process.error = StartError(said["error"], said["status"])

    def _on_ready(self, process: Process, queues: list[str]) -> None:
        process.is_ready = True
        process.queues = queues
        say(f"worker process {process.pid} is ready{_threads(process)}")
        if process.is_stopping:
            process.tell("stop")
        if not self._is_ready:
            self._is_ready = True
            self._spawn_after = 0.0
            metrics = self._metrics
            self._greet(self._listeners, metrics.listeners if metrics else [])
            if self._last_error:
                say(self._last_error, logging.ERROR)

    def _reap(self) -> None:
        metrics = self._metrics
        if metrics is not None and metrics.control is not None and metrics.reap():
            self._selector.unregister(metrics.control)
            metrics.forget()
        for process in list(self._processes.values()):
            # A report that it left behind must be read first.
            pid, status = os.waitpid(process.pid, os.WNOHANG)
            if pid == 0:
                continue
            # From now on its number may be somebody else's.
            del self._processes[process.pid]
            if process.control in self._selector.get_map():
                self._on_message(process)
            self._on_death(process, os.waitstatus_to_exitcode(status))

    def _on_death(self, process: Process, status: int) -> None:
        for number, stats in process.stats_by_worker():
            gone = of_the_past(stats)
            self._past[number] = add_up([self._past.get(number, {}), gone])
        if process.control in self._selector.get_map():
            self._selector.unregister(process.control)
        process.close()
        how = _how(status)
        what = f"worker process {process.pid}"
        if process.is_stopping:
            is_well = status == 0 or not process.is_ready
            level = logging.INFO if is_well else logging.WARNING
            say(f"{what} has ended{how}", level)
        elif process.is_ready:
            if time.monotonic() - process.began > _STEADY:
                self._n_deaths = 0
            self._delay(f"{what} has died{how}")
        else:
            what += f" has died{how} before it was ready"
            self._on_failed_start(process.error or StartError(what, status), what)

    def _on_failed_start(self, error: StartError, what: str) -> None:
        is_new = str(error) != self._last_error
        self._last_error = str(error)
        if not self._is_ready:
            # All are started together: what fails all of them is said once, at the end.
            self._n_deaths += 1
            self._spawn_after = math.inf
            if not self._processes:
                raise error
            return
        if is_new:
            say(str(error), logging.ERROR)
        if self._is_reloading:
            self._is_reloading = False
            for other in self._processes.values():
                if other.outdated == _RELOAD:
                    other.outdated = ""
            say(f"{_RELOAD}: {what}: the old workers are kept", logging.ERROR)
        else:
            self._delay(what)

    # ---- signals ------------------------------------------------------------------

    def _install_signals(self) -> None:
        reader, writer = self._wakeup
        reader.setblocking(False)
        writer.setblocking(False)
        self._selector.register(reader, selectors.EVENT_READ, self._on_signals)
        self._wakeup_before = signal.set_wakeup_fd(
            writer.fileno(), warn_on_full_buffer=False
        )
        for number in _SIGNALS:
            if number != STATS_SIGNAL or is_free(number):
                self._signals_before[number] = signal.signal(number, do_nothing)

    def _on_signals(self) -> None:
        for number in self._wakeup[0].recv(4096):
            if number == signal.SIGCHLD:
                self._has_deaths = True
            elif number in (signal.SIGINT, signal.SIGTERM):
                self._on_stop(signal.Signals(number).name)
            elif number == STATS_SIGNAL:
                if number in self._signals_before:  # else the program has its own use
                    self._tell_stats()
            elif self._is_stopping:
                pass
            elif number == signal.SIGHUP:
                self._on_reload()
            elif number == signal.SIGTTIN:
                self._on_count(+1, "SIGTTIN")
            elif number == signal.SIGTTOU:
                self._on_count(-1, "SIGTTOU")
            elif number == signal.SIGUSR1:
                for process in self._processes.values():
                    process.tell("reopen")

    def _tell_stats(self) -> None:
        ready = [p for p in self._processes.values() if p.is_ready]
        stats = self.stats()
        if ready:
            tell(stats, sum(len(process.live) for process in ready))

    def _on_stop(self, name: str) -> None:
        if self._is_stopping:
            self._stop_at_once()
            raise KeyboardInterrupt
        self._is_stopping = True
        say(f"{name}: {STOPPING}")
        # The workers have theirs; once they let go, clients are refused.
        for listener in self._listeners:
            listener.socket.close()

    def _stop_at_once(self) -> None:
        """Have all end, also those in whose handlers something goes on for ever."""
        for process in self._processes.values():
            if not process.tell("now"):
                process.kill(signal.SIGKILL)
        end = time.monotonic() + _AT_ONCE
        while self._processes and time.monotonic() < end:
            self._reap()
            time.sleep(_LOOK_LEAST)
        self._kill_all()

    def _kill_all(self) -> None:
        for process in self._processes.values():
            process.kill(signal.SIGKILL)
            os.waitpid(process.pid, 0)
            process.close()
        self._processes.clear()

    def _on_reload(self) -> None:
        n = self._n_workers
        say(f"{_RELOAD}: replacing {n} worker{'s' if n > 1 else ''}")
        self._is_reloading = True
        self._n_deaths = 0
        self._spawn_after = 0.0
        self._last_error = ""
        for process in self._processes.values():
            if process.is_ready:
                process.outdated = _RELOAD
            elif not process.is_stopping:  # what it is about to run is old already
                self._stop(process)

    def _on_count(self, change: int, name: str) -> None:
        n = min(max(self._n_workers + change, 1), LIMITS["workers_bound"])
        if n != self._n_workers and not self._uses_processes:
            for process in self._processes.values():
                if not process.is_stopping:
                    self._count(process, change)
        self._n_workers = n
        say(f"{name}: {n} worker{'s' if n > 1 else ''}")

    def _count(self, process: Process, change: int) -> None:
        """Have ``process`` have one loop more or less."""
        if change < 0:
            process.less()
        elif not process.more():
            process.outdated = process.outdated or _RECYCLED

    # ---- health and limits --------------------------------------------------------

    def _interval(self) -> float | None:
        """The seconds from one look to the next; None: there is nothing to look at."""
        options = self._options
        if self._is_stopping:
            return None
        intervals = []
        if options.worker_timeout:
            intervals.append(max(min(options.worker_timeout / 4, _LOOK), _LOOK_LEAST))
        if options.max_requests or options.max_rss:
            intervals.append(_LOOK_AT_COUNTS)
        return min(intervals) if intervals else None

    def _heartbeat_ms(self) -> int:
        timeout = self._options.worker_timeout
        if not timeout:
            return 0
        return round(max(min(timeout / 4, _LOOK), _LOOK_LEAST) * 500)

    def _look(self) -> None:
        """Look at the workers, if it is time to."""
        now = time.monotonic()
        for process in self._processes.values():
            if process.ends_by is not None and now >= process.ends_by:
                process.ends_by = None
                say(
                    f"worker process {process.pid} does not end: killing it",
                    logging.WARNING,
                )
                process.kill(signal.SIGKILL)
        interval = self._interval()
        if interval is None or now - self._looked < interval:
            return
        elapsed, self._looked = now - self._looked, now
        for process in self._processes.values():
            if process.is_ready and not process.is_stopping and not process.is_doomed:
                # Two intervals: more is not the worker's silence but our own.
                self._look_at(process, min(elapsed, 2 * interval))

    def _look_at(self, process: Process, elapsed: float) -> None:
        options = self._options
        name = f"worker process {process.pid}"
        if options.worker_timeout:
            silence = process.silence(elapsed)
            if silence >= options.worker_timeout:
                say(
                    f"{name} has shown no sign of life for"
                    f" {options.worker_timeout:g} s: ending it with SIGABRT",
                    logging.CRITICAL,
                )
                process.is_doomed = True
                process.kill(signal.SIGABRT)
                process.ends_by = time.monotonic() + _AT_ONCE
                return
        if process.outdated:
            return
        limit = process.request_limit * len(process.live)
        if limit and (n := process.requests()) >= limit:
            say(f"{name} has had {n} requests: replacing it")
            process.outdated = _RECYCLED
        elif options.max_rss and (rss := process.rss()) > options.max_rss:
            say(f"{name} takes {rss} bytes of memory: replacing it")
            process.outdated = _RECYCLED

    # ---- the end ------------------------------------------------------------------

    def _close(self) -> None:
        if self._wakeup_before is not None:
            signal.set_wakeup_fd(self._wakeup_before)
        for number, before in self._signals_before.items():
            if before is not None:  # one that is not Python's: it cannot be put back
                signal.signal(number, before)
        self._selector.close()
        for end in self._wakeup:
            end.close()
        for listener in self._listeners:
            listener.close()
        if self._metrics is not None:
            self._metrics.close()


def _how(status: int) -> str:
    if status == 0:
        return ""
    if status > 0:
        return f" with status {status}"
    try:
        return f" of {signal.Signals(-status).name}"
    except ValueError:
        return f" of signal {-status}"


def _threads(process: Process) -> str:
    n = len(process.live)
    return f", {n} threads" if n > 1 else ""
