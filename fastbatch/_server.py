"""``run()`` and ``Server``: the life of a server, from its options to its last reply.

The loop itself is ``_core.Server``; this file gives it sockets, a thread if it is to
have one, and the signals. No request passes through here.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import enum
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self, Unpack

from fastbatch import _core
from fastbatch._access import Destination
from fastbatch._config import OPTIONS, Integer, OptionArguments, Options, Seconds
from fastbatch._dispatch import dispatcher_for
from fastbatch._sockets import (
    Listener,
    TcpAddress,
    format_host,
    open_listeners,
    parse_bind,
)

log = logging.getLogger("fastbatch")


class _InThreads:
    """The servers that run in threads of their own: they are stopped at exit.

    One function is registered once for all of them, because free-threaded 3.13 crashes
    when several threads use atexit at once.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._servers: set[Server] = set()

    def add(self, server: Server) -> None:
        with self._lock:
            self._servers.add(server)

    def discard(self, server: Server) -> None:
        with self._lock:
            self._servers.discard(server)

    def stop_all(self) -> None:
        with self._lock:
            servers = list(self._servers)
        for server in servers:
            server._stop_at_exit()


_in_threads = _InThreads()
atexit.register(_in_threads.stop_all)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_REOPEN_SIGNAL = signal.SIGUSR1

# Where a wildcard address can be reached from this machine.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}


class _State(enum.Enum):
    NEW = "not started"
    OPEN = "started"
    ENDED = "stopped"


class Server:
    """A server that is started and stopped by its owner: in tests, in other programs.

    For example::

        with fastbatch.Server(handler, bind="127.0.0.1:0") as server:
            urllib.request.urlopen(server.url)

    It reads no environment variables and installs no signal handlers: ``run()`` does.
    It serves once: make another one to serve again. All methods may be called from any
    thread.

    Args:
        handler: what answers the requests: a function of one request, or a WSGI
            application.
        options: the options, or else keyword arguments, as for ``run()``.

    Raises:
        TypeError, ValueError: an option, or the handler's signature, is wrong.
    """

    def __init__(
        self,
        handler: Callable[..., Any],
        options: Options | None = None,
        /,
        **arguments: Unpack[OptionArguments],
    ) -> None:
        if options is None:
            options = Options.from_arguments(**arguments)
        elif arguments:
            raise TypeError("give either an Options or keyword arguments, not both")
        self._options = options
        self._make_dispatcher = dispatcher_for(handler, options)
        self._handler_threads: list[threading.Thread] = []
        self._lock = threading.Lock()  # for the two below
        self._state = _State.NEW
        self._core: _core.Server | None = None
        self._access_log = Destination(options.access_log)
        self._listeners: list[Listener] = []
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None  # the one of start()
        self._serving_thread: int | None = None  # its number, or that of run()'s
        self._error: BaseException | None = None  # what ended the thread of start()
        self._pid = os.getpid()

    # ---- life ---------------------------------------------------------------------

    def start(self) -> Self:
        """Serve in a new thread. Returns when clients can connect.

        The thread does not keep the process alive: a server that still runs when the
        main thread ends is stopped as by ``stop()``. In a subinterpreter, where there
        are no such threads, it has to be stopped.

        Raises:
            RuntimeError: it was started before.
            OSError: it cannot listen; it can be started again.
        """
        self._open(wakeup_fd=-1)
        for line in self._greeting():
            log.info(line)
        try:
            self._thread = _make_thread(self._serve_in_thread, f"fastbatch {self.url}")
            self._thread.start()
        except BaseException:
            self._abandon()
            raise
        _in_threads.add(self)
        return self

    def run(self) -> None:
        """Serve on this thread until ``stop()`` is called.

        Raises:
            RuntimeError: it was started before.
            OSError: it cannot listen; it can be started again.
            BaseException: what the handler raised that is no ``Exception``.
        """
        self._open(wakeup_fd=-1)
        for line in self._greeting():
            log.info(line)
        self._serve()

    def stop(self, now: bool = False) -> None:
        """Stop accepting, answer what has arrived, end; return when that is done.

        It takes ``graceful_timeout`` at most, unless a handler runs for longer: that is
        waited for. Called by the handler itself it does not wait. Once stopped, it does
        nothing.

        Args:
            now: close all connections at once, whatever is owed to them.

        Raises:
            RuntimeError: it was not started.
            BaseException: what ended the server before, if it was started with
                ``start()``: raised by the first ``stop()``.
        """
        self._running_core().stop(now)
        if self._is_of_this_thread():
            return
        self._ended.wait()
        if self._thread is not None:
            self._thread.join()
        _in_threads.discard(self)
        error, self._error = self._error, None
        if error is not None:
            raise error

    def reopen_access_log(self) -> None:
        """Open the file of the access log anew, once it was moved away.

        No line is lost; a few that are formed already may go to the new file. Does
        nothing when the access log is no file, or the server has stopped.

        Raises:
            RuntimeError: it was not started.
            OSError: it cannot be opened: the old file is still written to.
        """
        core = self._running_core()
        if self._access_log.is_file:
            core.set_access_log(self._access_log.open_file())

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # ---- what is known about it ---------------------------------------------------

    @property
    def addresses(self) -> list[TcpAddress | str]:
        """Where it listens: (host, port), or the path of a unix socket.

        Raises:
            RuntimeError: it was not started.
        """
        self._running_core()
        return [listener.address for listener in self._listeners]

    @property
    def address(self) -> TcpAddress | str:
        """The first of ``addresses``."""
        return self.addresses[0]

    @property
    def url(self) -> str:
        """``http://host:port`` of the first address, as this machine can reach it.

        A unix socket has no URL that clients agree upon; it is ``unix:path``.
        """
        address = self.address
        if isinstance(address, str):
            return f"unix:{address}"
        host, port = address
        return f"http://{format_host(_LOOPBACK.get(host, host))}:{port}"

    def stats(self) -> dict[str, Any]:
        """Counters since the start, also when it has stopped.

        ``requests``, ``batches``, ``connections`` (accepted), ``open_connections``,
        ``bytes_received``, ``bytes_sent``, ``rejected`` (bad requests, and connections
        without a PROXY header), ``timed_out`` (connections), ``overloaded`` (requests
        that got 503, among those rejected), ``spooled`` (bodies that went to files),
        ``fields_dropped`` (header fields with an underscore in their names),
        ``log_lines_dropped`` (of the access log: it was too slow, or could not be
        written), ``allocations`` (blocks of memory that the server took),
        ``batch_sizes``, a list whose item n is the number of batches of n requests, and
        ``beat_ms`` (milliseconds by CLOCK_MONOTONIC: when the loop last came round).

        Raises:
            RuntimeError: it was not started.
        """
        return self._running_core().stats()

    # ---- inside -------------------------------------------------------------------

    def _open(self, wakeup_fd: int) -> None:
        """Listen, and make the loop; nothing stays open if that fails."""
        with self._lock:
            if self._state is not _State.NEW:
                raise RuntimeError(
                    f"this server was {self._state.value} already; a Server serves"
                    " once: make another one"
                )
            options = self._options
            listeners = open_listeners(
                [parse_bind(text) for text in options.bind],
                options.backlog,
                options.unix_mode,
            )
            try:
                addresses = [each.address for each in listeners]
                dispatcher = self._make_dispatcher(addresses)
                arguments = _core_arguments(options)
                access_log = self._access_log.open()
                self._core = _core.Server(
                    dispatcher,
                    # The core closes these and the log, also if it cannot be made. A
                    # tuple, which it reads without taking memory.
                    tuple(listener.socket.detach() for listener in listeners),
                    wakeup_fd=wakeup_fd,
                    access_log=access_log,
                    stats=None,
                    heartbeat_ms=0,
                    **arguments,
                )
            except BaseException:
                for listener in listeners:
                    listener.close()
                raise
            self._listeners = listeners
            self._state = _State.OPEN

    def _serve(self) -> None:
        """Run the loop of an opened server on this thread."""
        self._serving_thread = threading.get_ident()
        try:
            self._serve_with_threads()
        finally:
            self._close()

    def _serve_with_threads(self) -> None:
        core = self._running_core()
        try:
            for number in range(self._options.threads):
                thread = _make_thread(self._handle, f"fastbatch handler {number}")
                thread.start()
                self._handler_threads.append(thread)
            core.serve()
        except BaseException:
            core.dismiss()
            raise
        finally:
            for thread in self._handler_threads:
                thread.join()

    def _is_of_this_thread(self) -> bool:
        """Whether this thread serves, or is a handler thread."""
        me = threading.get_ident()
        return me == self._serving_thread or any(
            me == thread.ident for thread in self._handler_threads
        )

    def _handle(self) -> None:
        """Be a handler thread, with a dispatcher of its own: nothing is shared."""
        core = self._running_core()
        core.handle(self._make_dispatcher(self.addresses))

    def _serve_in_thread(self) -> None:
        self._serving_thread = threading.get_ident()
        try:
            self._serve_with_threads()
        except BaseException as error:  # noqa: BLE001 - stop() raises it
            self._error = error
            # The owner may call stop() much later, or never.
            log.critical("the server was ended by %r", error)
        finally:
            self._close()

    def _close(self) -> None:
        """Leave nothing behind, and let ``stop()`` return."""
        try:
            for listener in self._listeners:
                listener.close()
        finally:
            self._state = _State.ENDED
            self._serving_thread = None
            self._ended.set()

    def _abandon(self) -> None:
        """Close what was opened and will not be served after all."""
        if self._state is _State.OPEN:
            self._core = None  # with it go the listening sockets
            self._close()

    def _stop_at_exit(self) -> None:
        # A child that was forked has a copy of the server, but nothing that serves it.
        if self._state is _State.OPEN and os.getpid() == self._pid:
            self.stop()

    def _running_core(self) -> _core.Server:
        core = self._core
        if core is None:
            raise RuntimeError("this server was not started: call start() or run()")
        return core

    def _greeting(self) -> list[str]:
        from fastbatch import __version__  # not at the top: it imports this module

        return [
            f"fastbatch {__version__} listening on {listener.url}"
            for listener in self._listeners
        ]


def run(
    handler: Callable[..., Any],
    options: Options | None = None,
    /,
    **arguments: Unpack[OptionArguments],
) -> None:
    """Serve until a signal ends it.

    SIGINT (Ctrl-C) and SIGTERM stop it in good order: nothing more is accepted, what
    has arrived is answered, and ``run()`` returns within ``graceful_timeout``. A second
    signal ends it at once, with KeyboardInterrupt, in the handler too if one runs. The
    signal handlers that were there before are there again afterwards. In another thread
    than the main one no signal is handled. SIGUSR1 opens the file of the access log
    anew, if there is one.

    What is not given is taken from the environment, ``FASTBATCH_<OPTION>``, or else is
    the default; ``help(fastbatch.Options)`` lists the options.

    Where it listens is logged by the logger "fastbatch", level INFO, or, when the
    program has not set up logging, written to stderr; a higher level of that logger
    silences it.

    Args:
        handler: what answers the requests: a function of one request, or a WSGI
            application.
        options: all options, the environment being ignored; or else keyword arguments:
        **arguments: the options that are to differ, and ``host`` and ``port``, short
            for ``bind="host:port"``.

    Raises:
        TypeError, ValueError: an option, or the handler's signature, is wrong.
        OSError: it cannot listen.
        KeyboardInterrupt: there was a second signal.
        BaseException: what the handler raised that is no ``Exception``.
    """
    if options is None:
        serve(Server(handler, Options.from_env(**arguments)))
    else:
        serve(Server(handler, options, **arguments))


def serve(server: Server) -> None:
    """Serve a new server until it is stopped: by a signal, on the main thread."""
    if threading.current_thread() is not threading.main_thread():
        server._open(wakeup_fd=-1)
        _announce(server)
        server._serve()
        return
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        server._open(wakeup_fd=reader.fileno())
        reopen = server.reopen_access_log if server._access_log.is_file else None
        signals = _Signals(server._running_core().stop, reopen)
        try:
            signals.install(writer.fileno())
            _announce(server)
            server._serve()
        finally:
            # Not in restore(): a second signal could raise as that is entered.
            signals.is_over = True
            signals.restore()
            server._abandon()


class _Signals:
    """The signal handlers during ``run()``.

    libuv's own are not used: at the end they leave SIG_DFL instead of what was there.
    """

    def __init__(
        self, stop: Callable[[bool], None], reopen: Callable[[], None] | None = None
    ) -> None:
        self.is_over = False
        self._stop = stop
        self._reopen = reopen
        self._is_stopping = False
        self._late: list[int] = []
        self._telling = _thread.allocate_lock()
        self._before: dict[int, Any] = {}
        self._wakeup_before: int | None = None

    def install(self, wakeup_fd: int) -> None:
        """Handle the signals; each also writes a byte to ``wakeup_fd``.

        Without that byte a loop that waits for sockets would not notice them.
        """
        # A full pipe means that the loop is awake anyway.
        self._wakeup_before = signal.set_wakeup_fd(wakeup_fd, warn_on_full_buffer=False)
        for number in (*_SIGNALS, *([] if self._reopen is None else [_REOPEN_SIGNAL])):
            before = signal.getsignal(number)
            # None: a handler that is not Python's, which Python cannot put back.
            if before is not None:
                self._before[number] = before
                is_reopen = number == _REOPEN_SIGNAL
                handler = self._on_reopen if is_reopen else self._on_signal
                signal.signal(number, handler)

    def restore(self) -> None:
        """Put back what was there; what came too late goes to that."""
        for number, before in self._before.items():
            signal.signal(number, before)
        if self._wakeup_before is not None:
            signal.set_wakeup_fd(self._wakeup_before)
        # So that it is said before the program ends.
        if self._telling.acquire(timeout=1):
            self._telling.release()
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
        self._tell(
            f"{signal.Signals(number).name}: answering what has arrived, then ending;"
            " another one ends it at once"
        )

    def _on_reopen(self, _number: int, _frame: FrameType | None) -> None:
        if self.is_over or self._reopen is None:
            return
        try:
            self._reopen()
        except OSError as error:
            self._tell(f"the old file is still written to: {error}", logging.ERROR)

    def _tell(self, line: str, level: int = logging.INFO) -> None:
        """Say it in a thread, of the plain kind.

        A signal handler may have interrupted the writing of a log message, and neither
        streams nor the locks of logging and threading can be entered twice.
        """

        def tell() -> None:
            try:
                _say(line, level)
            finally:
                self._telling.release()

        if not self._telling.acquire(blocking=False):
            return  # another line may wait for what was interrupted: this goes unsaid
        try:
            _thread.start_new_thread(tell, ())
        except RuntimeError:  # there are too many threads: it goes unsaid
            self._telling.release()


def _make_thread(target: Callable[[], None], name: str) -> threading.Thread:
    try:
        return threading.Thread(target=target, name=name, daemon=True)
    except RuntimeError:  # a subinterpreter with a GIL of its own has none of these
        return threading.Thread(target=target, name=name)


def _announce(server: Server) -> None:
    for line in server._greeting():
        _say(line)


def _say(line: str, level: int = logging.INFO) -> None:
    """Tell the user of ``run()``, whether or not logging was set up.

    ``run()`` is the program then, not a library within one, so silence would be wrong;
    and setting up logging for a program that has not done so would be, too.
    """
    with contextlib.suppress(OSError, ValueError):  # stderr may be closed
        if log.hasHandlers():
            log.log(level, line)
        elif log.level <= level:
            print(line, file=sys.stderr, flush=True)


def _core_arguments(options: Options) -> dict[str, Any]:
    return {
        "limits": _limits(options),
        "server_header": options.server_header.encode("ascii"),
        "access_log_format": options.access_log_format,
        "temp_dir": os.fsencode(tempfile.gettempdir()),
        "trusted": ",".join(options.forwarded_allow_ips).encode("ascii"),
        "proxy_protocol": options.proxy_protocol,
    }


def _limits(options: Options) -> dict[str, int]:
    """The numbers among the options, time-outs in milliseconds: as C takes them."""
    limits = {}
    for option in OPTIONS:
        value = getattr(options, option.name)
        if isinstance(option.rule, Seconds):
            limits[f"{option.name}_ms"] = _milliseconds(value)
        elif isinstance(option.rule, Integer):
            limits[option.name] = value
    return limits


def _milliseconds(seconds: float) -> int:
    # 0 is "none": a time-out that was asked for must not round to it.
    return max(1, round(seconds * 1000)) if seconds > 0 else 0
