"""A worker process, from its fork to its end; _seat.py says what it is given."""

from __future__ import annotations

import atexit
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from fastbatch._process import StartError
from fastbatch._say import flush, say
from fastbatch._seat import Seat
from fastbatch._signals import Signals

if TYPE_CHECKING:
    from fastbatch._server import Server

# Characters of a traceback that are reported: its end says what was wrong. As JSON they
# are less than what the supervisor reads of a line.
_MOST_REPORTED = 65536

# Seconds beyond graceful_timeout, for an orphan whose handler does not return.
_GRACE = 2.0


def work(seat: Seat, make_server: Callable[[], Server], graceful_timeout: float) -> int:
    """Serve at ``seat`` until told to end. Returns the exit status.

    Args:
        seat: what the supervisor has given; taken.
        make_server: imports the handler and makes a server that has not begun. It may
            raise StartError.
        graceful_timeout: the option.

    Raises:
        BaseException: what the handler raised that is no ``Exception``.
    """
    import faulthandler  # not at the top: a subinterpreter may not import it

    if not faulthandler.is_enabled() and sys.stderr is not None:
        # So that a worker that is ended with SIGABRT says where it was stuck.
        # The program's own stderr may be no file.
        with contextlib.suppress(OSError, ValueError, RuntimeError, AttributeError):
            faulthandler.enable()
    # As it ends, the interpreter takes its signal handlers back, and SIGTERM would have
    # the default action again. What is registered first is called last.
    atexit.register(signal.signal, signal.SIGTERM, signal.SIG_IGN)
    reader, writer = socket.socketpair()
    with seat.control, reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        try:
            server = make_server()
            server._sit(seat)
            server._open(wakeup_fd=reader.fileno())
        except SystemExit:
            raise
        except BaseException as error:  # noqa: BLE001 - the supervisor says it
            return _report(seat.control, error)
        # SIGTERM comes from whoever ends all processes of a service at once.
        signals = Signals(
            server._stop,
            _reopener(server),
            server._tell_stats,
            stop_signals=[signal.SIGTERM],
            is_quiet=True,
            is_last=True,
        )
        is_over = threading.Event()

        def obey() -> None:
            _obey(seat.control, server)
            # An orphan whose handler does not return: nobody else is there to end it.
            if graceful_timeout and not is_over.wait(graceful_timeout + _GRACE):
                os._exit(1)

        control = threading.Thread(target=obey, name="fastbatch control", daemon=True)
        try:
            signals.install(writer.fileno())
            _tell(seat.control, {"ready": True, "queues": server._plan.names})
            control.start()
            server._serve()
        finally:
            signals.is_over = True
            signals.restore()
            server._abandon()
            is_over.set()
            with contextlib.suppress(OSError):
                seat.control.shutdown(socket.SHUT_RD)
            control.join()
    return 0


def status_of(serving: Callable[[], int]) -> int:
    """What ``serving()`` returns, or the exit status for what it raises."""
    try:
        return serving()
    except SystemExit as exit_:
        if isinstance(exit_.code, int):
            return exit_.code
        if exit_.code is not None:
            print(exit_.code, file=sys.stderr)
        return 0 if exit_.code is None else 1
    except KeyboardInterrupt:
        return 130
    except BaseException:  # noqa: BLE001 - the program is not to go on in a worker
        traceback.print_exc()
        return 1


def leave(status: int) -> NoReturn:
    """End this process, a fork of a program that is not to go on in it."""
    flush()
    os._exit(status)


def _reopener(server: Server) -> Callable[[], None] | None:
    return server.reopen_access_log if server._access_log.is_file else None


def _report(control: socket.socket, error: BaseException) -> int:
    """Tell the supervisor why there is no start. Returns the exit status."""
    if isinstance(error, StartError):
        status, text = error.status, str(error)
    elif isinstance(error, OSError):
        status, text = 1, f"cannot serve: {error}"
    else:
        status, text = 1, "".join(traceback.format_exception(error)).rstrip()
    _tell(control, {"status": status, "error": text[-_MOST_REPORTED:]})
    return status


def _tell(control: socket.socket, said: dict[str, object]) -> None:
    with contextlib.suppress(OSError):  # the supervisor has gone: see _obey()
        control.sendall(json.dumps(said).encode() + b"\n")


def _obey(control: socket.socket, server: Server) -> None:
    """Do what the supervisor says, until there is none; on a thread of its own."""
    name = f"worker process {os.getpid()}"
    with control.makefile("r") as lines:
        for line in lines:
            try:
                _do(line.strip(), server)
            except Exception as error:  # noqa: BLE001 - the service goes on
                say(f"{name} cannot do {line.strip()!r}: {error}", logging.ERROR)
    if not server._running().is_stopping():
        say(f"{name} ends, for its supervisor has gone", logging.ERROR)
        server._stop(False)


def _do(word: str, server: Server) -> None:
    if word == "stop":
        server._stop(False)
    elif word == "now":
        server._stop(True)
    elif word == "reopen":
        server.reopen_access_log()
    elif word == "more":
        server._running().add()
    elif word == "less":
        server._running().remove()
