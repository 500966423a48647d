"""``run()`` and ``Server``: the life of a server, from its options to its last reply.

The loop itself is ``_core.Server``; this file gives it sockets, a thread if it is to
have one, and the signals. No request passes through here.
"""

from __future__ import annotations

import atexit
import enum
import logging
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

from fastbatch import _core
from fastbatch._access import Destination
from fastbatch._config import OPTIONS, Integer, OptionArguments, Options, Seconds
from fastbatch._dispatch import Dispatcher
from fastbatch._metrics import PATH, handler_of, options_of, render
from fastbatch._pid_file import PidFile
from fastbatch._plan import plan_for
from fastbatch._router import Router
from fastbatch._say import say
from fastbatch._seat import Seat
from fastbatch._signals import Signals
from fastbatch._sockets import (
    BindError,
    Listener,
    TcpAddress,
    format_host,
    open_listeners,
    parse_bind,
)
from fastbatch._stats import tell, with_figures
from fastbatch._supervisor import Supervisor, is_wanted
from fastbatch._worker_process import leave, status_of, work
from fastbatch._workers import Workers, new_thread, worker_count
from fastbatch._wsgi import Concurrency

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

_NO_RELOAD = (
    "reload=True needs the command line, python -m fastbatch --reload module:handler: a"
    " handler that is given cannot be loaded again"
)

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
    thread. Its ``workers`` are threads; what is for a supervisor to do (``processes``,
    ``max_requests``, ``max_rss``, ``worker_timeout``) is done for ``run()`` alone.

    Args:
        handler: what answers the requests: a function of one request, one of a batch,
            a WSGI application, or a Router of these.
        options: the options, or else keyword arguments, as for ``run()``.

    Raises:
        TypeError, ValueError: an option, or the handler's signature, is wrong.
    """

    def __init__(
        self,
        handler: Callable[..., Any] | Router,
        options: Options | None = None,
        /,
        **arguments: Unpack[OptionArguments],
    ) -> None:
        if options is None:
            options = Options.from_arguments(**arguments)
        elif arguments:
            raise TypeError("give either an Options or keyword arguments, not both")
        self._options = options
        self._handler = handler
        self._plan = plan_for(handler, options, _concurrency(options))
        self._lock = threading.Lock()  # for the two below
        self._state = _State.NEW
        self._workers: Workers | None = None
        self._seat: Seat | None = None  # in a worker process
        self._access_log = Destination(options.access_log)
        self._listeners: list[Listener] = []
        self._metrics: Server | None = None  # the endpoint's
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None  # the one of start()
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
        for line in _greeting(self._listeners, self._metrics_listeners):
            log.info(line)
        self._begin()
        return self

    def run(self) -> None:
        """Serve on this thread until ``stop()`` is called.

        Raises:
            RuntimeError: it was started before.
            OSError: it cannot listen; it can be started again.
            BaseException: what the handler raised that is no ``Exception``.
        """
        self._open(wakeup_fd=-1)
        for line in _greeting(self._listeners, self._metrics_listeners):
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
        self._stop(now)
        if self._running().is_here():
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
        workers = self._running()
        if self._access_log.is_file:
            workers.reopen_access_log(self._access_log.open_file)

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
        self._running()
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

        They are those of all workers together, and as ``workers`` a list of each one's
        own.

        Requests: ``requests`` (handed over), ``batches``, ``batch_sizes`` (a list whose
        item n is the number of batches of n requests), ``replies`` (a dict: how many of
        each status, those that the server gives by itself included), ``slots_in_use``
        (requests that are collected or handled now), ``queue_ns`` (nanoseconds that
        requests have waited, from when their bytes were there, or the request before
        them on the connection was answered, to the batch), ``queue_times`` (how many
        did for how long: see the README), ``handler_ns`` (nanoseconds that batches have
        taken) and ``waiting`` (requests that wait for their batch now).

        What follows from these, 0 as long as there is nothing: ``batch_size_mean``,
        ``batch_size_p50`` and ``batch_size_p99``; ``queue_p50`` and ``queue_p99``, in
        seconds: they are in the right bucket of ``queue_times``, whose bounds are a
        factor of 2 or 2.5 apart, and evenly spread within it (more than 10 s are 10 s);
        ``handler_seconds_per_batch`` and ``handler_seconds_per_request``.

        ``queues`` is a list of all these, but ``replies`` and ``slots_in_use``, for
        each handler that has batches of its own, with its ``name``.

        Connections: ``connections`` (accepted), ``open_connections`` (now),
        ``bytes_received``, ``bytes_sent`` and ``timed_out``.

        What was refused or lost: ``rejected`` (bad requests, and connections without a
        PROXY header), ``overloaded`` (requests that got 503, among those rejected),
        ``expired`` (requests whose deadline passed as they waited), ``refused``
        (requests whose queue was full), both also of each queue,
        ``fields_dropped`` (header fields with an underscore in their names) and
        ``log_lines_dropped`` (of the access log: it was too slow, or could not be
        written).

        The server itself: ``spooled`` (bodies that went to files), ``allocations``
        (blocks of memory that it took) and ``beat_ms`` (milliseconds by
        CLOCK_MONOTONIC: when the loop last came round).

        Raises:
            RuntimeError: it was not started.
        """
        return with_figures(self._running().stats())

    # ---- inside -------------------------------------------------------------------

    def _begin(self) -> None:
        """Have a thread serve, once it is opened."""
        self._begin_metrics()
        try:
            self._thread = new_thread(self._serve_in_thread, f"fastbatch {self.url}")
            self._thread.start()
        except BaseException:
            self._abandon()
            raise
        _in_threads.add(self)

    def _open(self, wakeup_fd: int) -> None:
        """Listen, and make the loop; nothing stays open if that fails."""
        with self._lock:
            if self._state is not _State.NEW:
                raise RuntimeError(
                    f"this server was {self._state.value} already; a Server serves"
                    " once: make another one"
                )
            if self._options.reload and self._seat is None:
                raise ValueError(_NO_RELOAD)
            if self._options.processes and self._seat is None:
                raise ValueError(
                    "processes=True needs run() in the main thread, or the command"
                    " line, to start them: the workers of a Server are threads"
                )
            listeners = self._open_listeners()
            try:
                self._metrics = self._open_metrics()
                self._workers = self._open_workers(listeners, wakeup_fd)
            except BaseException:
                self._end_metrics()
                for listener in listeners:
                    listener.close()
                raise
            self._listeners = listeners
            self._state = _State.OPEN

    def _open_metrics(self) -> Server | None:
        """The server of the metrics endpoint, if there is to be one: it listens."""
        if not self._options.metrics or self._seat is not None:
            return None
        handler = handler_of(lambda: render(self.stats()["workers"]))
        metrics = Server(handler, options_of(self._options))
        try:
            metrics._open(wakeup_fd=-1)
        except BindError as error:
            error.option = "metrics"
            raise
        return metrics

    def _begin_metrics(self) -> None:
        """Have the metrics endpoint served, in a thread, if there is one."""
        if self._metrics is None:
            return
        try:
            self._metrics._begin()
        except BaseException:
            self._abandon()
            raise

    def _end_metrics(self) -> None:
        metrics, self._metrics = self._metrics, None
        if metrics is None:
            return
        if metrics._thread is None:
            metrics._abandon()
        else:
            metrics.stop(now=True)

    def _open_listeners(self) -> list[Listener]:
        if self._seat is not None:
            return self._seat.listeners
        options = self._options
        binds = [parse_bind(text) for text in options.bind]
        return open_listeners(binds, options.backlog, options.unix_mode)

    def _open_workers(self, listeners: list[Listener], wakeup_fd: int) -> Workers:
        workers = Workers(
            lambda number: self._make_core(number, listeners, wakeup_fd),
            lambda core: core.handle(self._new_dispatcher(listeners)),
            self._options.threads,
            f"fastbatch {listeners[0].url}",
            self._plan.names,
        )
        if self._seat is not None:
            workers.open(self._seat.n_loops)
        else:
            workers.open(worker_count(self._options))
        if not self._grows:
            _close_sockets(listeners)
        return workers

    @property
    def _grows(self) -> bool:
        """Whether there may be more workers later on, which need the listeners."""
        return self._seat is not None and not self._seat.uses_processes

    def _make_core(
        self, number: int, listeners: list[Listener], wakeup_fd: int
    ) -> _core.Server:
        """Make the loop of a worker, on the thread that is to run it."""
        options, seat = self._options, self._seat
        dispatcher = self._new_dispatcher(listeners)
        arguments = _core_arguments(options)
        fds = _copies(listeners)
        try:
            access_log = self._access_log.open()
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        # It closes these, and the log, also if it cannot be made. A tuple, which it
        # reads without taking memory.
        return _core.Server(
            dispatcher,
            fds,
            wakeup_fd=wakeup_fd if number == 0 else -1,
            access_log=access_log,
            stats=None if seat is None else seat.counters(number),
            heartbeat_ms=0 if seat is None else seat.heartbeat_ms,
            roster=listeners[0].roster,
            queues=self._plan.queues,
            **arguments,
        )

    def _new_dispatcher(self, listeners: list[Listener]) -> Dispatcher:
        """One for the thread that calls this: nothing of it is shared."""
        return self._plan.make_dispatcher([each.address for each in listeners])

    def _serve(self) -> None:
        """Run an opened server on this thread."""
        self._begin_metrics()
        try:
            self._running().serve()
        finally:
            self._close()

    def _serve_in_thread(self) -> None:
        try:
            self._running().serve()
        except BaseException as error:  # noqa: BLE001 - stop() raises it
            self._error = error
            # The owner may call stop() much later, or never.
            log.critical("the server was ended by %r", error)
        finally:
            self._close()

    def _stop(self, now: bool) -> None:
        """As ``stop()``, without waiting."""
        if self._grows:
            _close_sockets(self._listeners)
        self._running().stop(now)

    def _close(self) -> None:
        """Leave nothing behind, and let ``stop()`` return."""
        try:
            for listener in self._listeners:
                listener.close()
            self._end_metrics()
        finally:
            self._state = _State.ENDED
            self._ended.set()

    def _abandon(self) -> None:
        """Close what was opened and will not be served after all."""
        if self._state is _State.OPEN:
            self._running().abandon()
            self._workers = None
            self._close()

    def _stop_at_exit(self) -> None:
        # A child that was forked has a copy of the server, but nothing that serves it.
        if self._state is _State.OPEN and os.getpid() == self._pid:
            self.stop()

    def _tell_stats(self) -> None:
        stats = self.stats()
        tell(stats, len(stats["workers"]))

    def _running(self) -> Workers:
        workers = self._workers
        if workers is None:
            raise RuntimeError("this server was not started: call start() or run()")
        return workers

    @property
    def _metrics_listeners(self) -> list[Listener]:
        return [] if self._metrics is None else self._metrics._listeners

    def _sit(self, seat: Seat) -> None:
        """Serve as what a supervisor has started, on its listeners."""
        self._seat = seat
        self._pid = os.getpid()
        concurrency = Concurrency(
            multithread=not seat.uses_processes or self._options.threads > 0,
            multiprocess=True,
        )
        self._plan = plan_for(self._handler, self._options, concurrency)


def run(
    handler: Callable[..., Any] | Router,
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
    anew, if there is one. SIGUSR2 has what was counted logged by "fastbatch.stats",
    unless the program handles that signal itself.

    With several ``workers``, or an option that looks after them (``processes=True``,
    ``max_requests``, ``max_rss``, ``worker_timeout``), this process is their
    supervisor: it forks worker processes, so there should be no other threads, and
    obeys SIGHUP (replace all), SIGTTIN (one more) and SIGTTOU (one less), too. In
    another thread than the main one they are threads, without a supervisor.

    What is not given is taken from the environment, ``FASTBATCH_<OPTION>``, or else is
    the default; ``help(fastbatch.Options)`` lists the options.

    Where it listens is logged by the logger "fastbatch", level INFO, or, when the
    program has not set up logging, written to stderr; a higher level of that logger
    silences it.

    Args:
        handler: what answers the requests: a function of one request, one of a batch,
            a WSGI application, or a Router of these.
        options: all options, the environment being ignored; or else keyword arguments:
        **arguments: the options that are to differ, and ``host`` and ``port``, short
            for ``bind="host:port"``.

    Raises:
        TypeError, ValueError: an option, or the handler's signature, is wrong.
        OSError: it cannot listen, or the pid file cannot be written.
        RuntimeError: no worker can start.
        KeyboardInterrupt: there was a second signal.
        BaseException: what the handler raised that is no ``Exception``; a worker
            process ends of it, and is replaced.
    """
    if options is None:
        options, arguments = Options.from_env(**arguments), {}
    server = Server(handler, options, **arguments)
    if options.reload:
        raise ValueError(_NO_RELOAD)
    is_main = threading.current_thread() is threading.main_thread()
    if not (is_main and is_wanted(options)):
        serve(server)
        return
    seat = supervise(options)
    if seat is not None:
        timeout = options.graceful_timeout
        leave(status_of(lambda: work(seat, lambda: server, timeout)))


def serve(server: Server) -> None:
    """Serve a new server until it is stopped: by a signal, on the main thread."""
    pid_file = PidFile(server._options.pid_file)
    if threading.current_thread() is not threading.main_thread():
        server._open(wakeup_fd=-1)
        try:
            with pid_file:
                pid_file.write()
                announce(server._listeners, server._metrics_listeners)
                server._serve()
        finally:
            server._abandon()
        return
    reader, writer = socket.socketpair()
    with reader, writer, pid_file:
        reader.setblocking(False)
        writer.setblocking(False)
        server._open(wakeup_fd=reader.fileno())
        reopen = server.reopen_access_log if server._access_log.is_file else None
        signals = Signals(server._stop, reopen, server._tell_stats)
        try:
            signals.install(writer.fileno())
            pid_file.write()
            announce(server._listeners, server._metrics_listeners)
            server._serve()
        finally:
            # Not in restore(): a second signal could raise as that is entered.
            signals.is_over = True
            signals.restore()
            server._abandon()


def _close_sockets(listeners: list[Listener]) -> None:
    """Close what the workers have copies of; the names of the listeners are kept."""
    for listener in listeners:
        listener.socket.close()


def _copies(listeners: list[Listener]) -> tuple[int, ...]:
    fds: list[int] = []
    try:
        for listener in listeners:  # no comprehension: those before it are closed
            fds += [os.dup(listener.socket.fileno())]
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise
    return tuple(fds)


def _concurrency(options: Options) -> Concurrency:
    """What the application of a server without other processes has to expect."""
    is_alone = options.workers == 1 and options.threads == 0
    return Concurrency(multithread=not is_alone, multiprocess=False)


def supervise(options: Options) -> Seat | None:
    """Supervise workers, as ``Supervisor.run()``; the user is told where they listen.

    Raises:
        PidFileError: as for ``run()``, besides what that raises.
    """

    def greet(listeners: list[Listener], metrics: list[Listener]) -> None:
        pid_file.write()
        announce(listeners, metrics)

    with PidFile(options.pid_file) as pid_file:
        return Supervisor(options, greet).run()


def announce(listeners: Sequence[Listener], metrics: Sequence[Listener] = ()) -> None:
    """Tell the user where it listens; ``metrics`` are those of its endpoint."""
    for line in _greeting(listeners, metrics):
        say(line)


def _greeting(listeners: Sequence[Listener], metrics: Sequence[Listener]) -> list[str]:
    from fastbatch import __version__  # not at the top: it imports this module

    return [
        *(f"fastbatch {__version__} listening on {each.url}" for each in listeners),
        *(f"fastbatch {__version__} metrics at {each.url}{PATH}" for each in metrics),
    ]


def _core_arguments(options: Options) -> dict[str, Any]:
    return {
        "limits": _limits(options),
        "server_header": options.server_header.encode("ascii"),
        "access_log_format": options.access_log_format,
        "temp_dir": os.fsencode(tempfile.gettempdir()),
        "trusted": ",".join(options.forwarded_allow_ips).encode("ascii"),
        "proxy_protocol": options.proxy_protocol,
        "deadline_header": options.deadline_header.lower().encode("ascii"),
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
