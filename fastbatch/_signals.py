"""The signal handlers of a server that runs on the main thread."""

from __future__ import annotations

import _thread
import logging
import signal
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from fastbatch._say import say

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_REOPEN_SIGNAL = signal.SIGUSR1
STATS_SIGNAL = signal.SIGUSR2

_Handler = Callable[[int, FrameType | None], None]

STOPPING = "answering what has arrived, then ending; another one ends it at once"


class Signals:
    """The signal handlers during ``run()``.

    libuv's own are not used: at the end they leave SIG_DFL instead of what was there.

    Args:
        stop: called with False for the first of ``stop_signals``, with True for others.
        reopen: called for SIGUSR1, if given.
        tell_stats: called for SIGUSR2, if given and the program has no use of its own
            for that: in a thread, as it may wait for what was interrupted.
        stop_signals: a worker process leaves SIGINT to its supervisor.
        is_quiet: whether to say nothing of a stop.
        is_last: whether the process ends with what they stop: then they stay, for no
            signal is to end what it does last.
    """

    def __init__(
        self,
        stop: Callable[[bool], None],
        reopen: Callable[[], None] | None = None,
        tell_stats: Callable[[], None] | None = None,
        *,
        stop_signals: Sequence[signal.Signals] = STOP_SIGNALS,
        is_quiet: bool = False,
        is_last: bool = False,
    ) -> None:
        self.is_over = False
        self._handlers: dict[int, _Handler] = dict.fromkeys(
            stop_signals, self._on_signal
        )
        if reopen is not None:
            self._handlers[_REOPEN_SIGNAL] = self._on_reopen
        if tell_stats is not None:
            self._handlers[STATS_SIGNAL] = self._on_stats
        self._is_quiet = is_quiet
        self._is_last = is_last
        self._stop = stop
        self._reopen = reopen
        self._tell_stats = tell_stats
        self._is_stopping = False
        self._late: list[int] = []
        self._telling = _thread.allocate_lock()
        self._telling_stats = _thread.allocate_lock()
        self._are_stats_wanted = False
        self._before: dict[int, Any] = {}
        self._wakeup_before: int | None = None

    def install(self, wakeup_fd: int) -> None:
        """Handle the signals; each also writes a byte to ``wakeup_fd``.

        Without that byte a loop that waits for sockets would not notice them.
        """
        # A full pipe means that the loop is awake anyway.
        self._wakeup_before = signal.set_wakeup_fd(wakeup_fd, warn_on_full_buffer=False)
        for number, handler in self._handlers.items():
            before = signal.getsignal(number)
            # None: a handler that is not Python's, which Python cannot put back.
            if before is None or (number == STATS_SIGNAL and not is_free(number)):
                continue
            self._before[number] = before
            signal.signal(number, handler)

    def restore(self) -> None:
        """Put back what was there; what came too late goes to that."""
        if not self._is_last:
            for number, before in self._before.items():
                signal.signal(number, before)
        if self._wakeup_before is not None:
            signal.set_wakeup_fd(self._wakeup_before)
        # So that it is said before the program ends.
        for lock in (self._telling, self._telling_stats):
            if lock.acquire(timeout=1):
                lock.release()
        if not self._is_last:
            for number in self._late:
                signal.raise_signal(number)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.is_over:
            self._late.append(number)
            return
        is_second, self._is_stopping = self._is_stopping, True
        self._stop(is_second)
        if is_second:
            raise KeyboardInterrupt
        if not self._is_quiet:
            self._tell(f"{signal.Signals(number).name}: {STOPPING}")

    def _on_reopen(self, _number: int, _frame: FrameType | None) -> None:
        if self.is_over or self._reopen is None:
            return
        try:
            self._reopen()
        except OSError as error:
            self._tell(f"the old file is still written to: {error}", logging.ERROR)

    def _on_stats(self, _number: int, _frame: FrameType | None) -> None:
        self._are_stats_wanted = True
        self._start_telling_stats()

    def _start_telling_stats(self) -> None:
        if self._are_stats_wanted and not self.is_over:
            # It may be asked for again meanwhile, and told already is less than that.
            again = self._start_telling_stats
            _start_telling(self._telling_stats, self._tell_wanted_stats, again)

    def _tell_wanted_stats(self) -> None:
        self._are_stats_wanted = False
        if self._tell_stats is not None:
            self._tell_stats()

    def _tell(self, line: str, level: int = logging.INFO) -> None:
        _start_telling(self._telling, lambda: say(line, level))


def is_free(number: int) -> bool:
    """Whether the program has no use of its own for a signal, as far as Python knows.

    The supervisor's is none.
    """
    before = signal.getsignal(number)
    return before in (signal.SIG_DFL, do_nothing)


def do_nothing(_number: int, _frame: FrameType | None) -> None:
    """What handles a signal whose byte in the wakeup socket is all that counts."""


def _start_telling(
    telling: _thread.LockType,
    tell: Callable[[], None],
    then: Callable[[], None] | None = None,
) -> None:
    """Call ``tell`` in a thread, of the plain kind, and ``then`` when it is done.

    ``telling`` is held meanwhile: as long as it is, nothing else is told.

    A signal handler may have interrupted the writing of a log message, and neither
    streams nor the locks of logging and threading can be entered twice.
    """

    def tell_and_release() -> None:
        try:
            tell()
        finally:
            telling.release()
        if then is not None:
            then()

    if not telling.acquire(blocking=False):
        return  # another one may wait for what was interrupted: this goes unsaid
    try:
        _thread.start_new_thread(tell_and_release, ())
    except RuntimeError:  # there are too many threads: it goes unsaid
        telling.release()
