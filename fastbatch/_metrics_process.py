"""The metrics endpoint of a supervisor: a process of its own.

The supervisor has the counters of all workers, but it forks, and so it may neither
serve nor have threads. The process asks it for the text at each scrape, over a socket:
a number and a newline; the answer repeats the number before the length and the text.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import NoReturn

from fastbatch._config import Options
from fastbatch._metrics import handler_of, options_of
from fastbatch._reply import HTTPError
from fastbatch._say import say
from fastbatch._sockets import BindError, Listener, open_listeners, parse_bind

# Seconds that the supervisor may take to answer, and the process to read.
_PATIENCE = 5.0
_READING = 0.5

# Seconds from a death to the next start.
_WAIT = 1.0


class MetricsProcess:
    """The endpoint, as the supervisor sees it.

    Args:
        options: those of the server; they say where.
        read: gives the text.
    """

    def __init__(self, options: Options, read: Callable[[], str]) -> None:
        self._options = options
        self._read = read
        self.listeners: list[Listener] = []
        self.control: socket.socket | None = None  # while it runs
        self._pid = 0
        self.starts_at = 0.0  # when it may be started (again), by time.monotonic()

    def open(self) -> None:
        """Listen. Raises BindError."""
        options = self._options
        bind = parse_bind(options.metrics)
        try:
            self.listeners = open_listeners([bind], options.backlog, options.unix_mode)
        except BindError as error:
            error.option = "metrics"
            raise

    def start(self, fork: Callable[[], int]) -> None:
        """Start it; ``fork()`` leaves to the parent what a child is not to have."""
        ours, theirs = socket.socketpair()
        self.starts_at = time.monotonic() + _WAIT
        try:
            pid = fork()
        except OSError as error:
            ours.close()
            theirs.close()
            say(f"metrics cannot be served: {error.strerror}", logging.ERROR)
            return
        if pid == 0:
            ours.close()
            _serve(theirs, self._options, self.listeners)
        theirs.close()
        ours.settimeout(_READING)
        self.control = ours
        self._pid = pid

    def answer(self) -> None:
        """Answer what it has asked."""
        assert self.control is not None
        with contextlib.suppress(OSError):  # it has died, or hangs
            questions = self.control.recv(4096).split()
            if questions:
                text = self._read().encode()
                head = b"%b %d\n" % (questions[-1], len(text))
                self.control.sendall(head + text)
                return
        if self._pid != 0:
            os.kill(self._pid, signal.SIGKILL)  # it is to be reaped

    def reap(self) -> bool:
        """Whether it has ended: then it is to be started again."""
        if self._pid == 0 or os.waitpid(self._pid, os.WNOHANG)[0] == 0:
            return False
        say(f"metrics process {self._pid} has died", logging.ERROR)
        self._pid = 0
        return True

    def leave(self) -> None:
        """In another child of the supervisor: let go of what is none of its own."""
        self.forget()
        for listener in self.listeners:
            listener.socket.close()

    def close(self) -> None:
        """End it; it owes nothing to anybody."""
        if self._pid != 0:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0
        self.forget()
        for listener in self.listeners:
            listener.close()

    def forget(self) -> None:
        """Let go of what led to one that has ended, or is somebody else's."""
        if self.control is not None:
            self.control.close()
            self.control = None


def _serve(
    control: socket.socket, options: Options, listeners: list[Listener]
) -> NoReturn:
    """Be that process, until the supervisor has gone."""
    from fastbatch._server import Server  # not at the top: it imports the supervisor

    try:
        # It ends with the supervisor, whatever else is told to end.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        asker = _Asker(control)
        binds = tuple(f"fd:{listener.socket.fileno()}" for listener in listeners)
        server = Server(handler_of(asker.ask), replace(options_of(options), bind=binds))
        server._open(wakeup_fd=-1)
        server._begin()
        asker.hear()
    except BaseException:  # noqa: BLE001 - it must not go on as a second supervisor
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


class _Asker:
    """Asks on the thread of the endpoint, and hears the answers on the main thread."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._answers: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self._n_asked = 0

    def ask(self) -> str:
        """The text. Raises HTTPError."""
        self._n_asked += 1
        end = time.monotonic() + _PATIENCE
        try:
            self._control.sendall(b"%d\n" % self._n_asked)
            while True:  # an answer that came too late may be there still
                patience = max(0.0, end - time.monotonic())
                number, text = self._answers.get(timeout=patience)
                if number == self._n_asked:
                    return text.decode()
        except (OSError, queue.Empty):
            raise HTTPError(503, "the supervisor does not answer\n") from None

    def hear(self) -> None:
        """Take the answers, until the supervisor has gone."""
        with self._control.makefile("rb") as answers:
            for head in answers:
                number, size = map(int, head.split())
                self._answers.put((number, answers.read(size)))
