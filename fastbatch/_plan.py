"""What a handler and the options make of a server: its queues and its dispatcher.

C has a queue for each handler that is called with whole batches, and hands over batches
whose requests are all of one queue; ``batch.queue`` says of which. A batch handler and
a WSGI application, whose gateway is called so, have a queue of their own each, whatever
the number of their routes. All handlers of single requests share one, with what the
router answers by itself (404, 405, OPTIONS): the dispatcher of that queue looks up the
handler of each request.

Queue 0 is for what none of the routes that C was given takes. It is the shared one, or
that of the router's fallback if this is no handler of single requests; then the shared
one takes the other methods of all paths that have a route, too.

C goes by the very method first and by ``"*"`` then. It is given just the routes that
change something: ``"*"`` of a path where that is not queue 0, and a method where its
queue is not the one of ``"*"``.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

from fastbatch._batch import BatchSettings, settings_of
from fastbatch._config import Options
from fastbatch._core import LIMITS, Batch, Request
from fastbatch._dispatch import (
    Dispatcher,
    DispatcherMaker,
    dispatcher_for,
    kind_of,
)
from fastbatch._failures import name_of, reply_to_error
from fastbatch._reply import Response, plain_text
from fastbatch._router import ANY, Route, Router
from fastbatch._sockets import TcpAddress
from fastbatch._wsgi import ALONE, Concurrency

_MAX_QUEUES = LIMITS["queues_bound"]

SHARED = "requests"
"""The name of the queue of all handlers of single requests in a router."""

RequestHandler = Callable[[Request], Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a server is made of; nothing that is done to its router changes it."""

    queues: tuple[Mapping[str, Any], ...]
    """For each queue what ``_core.Server`` is told of it."""

    names: tuple[str, ...]
    """What each is called in the log and in the counters."""

    make_dispatcher: DispatcherMaker


def plan_for(
    handler: Callable[..., Any] | Router,
    options: Options,
    concurrency: Concurrency = ALONE,
) -> Plan:
    """Make the plan of a server of ``handler``.

    Raises:
        TypeError: as ``kind_of``; or the option ``interface`` is given with a router.
        ValueError: a router needs too many queues.
    """
    if isinstance(handler, Router):
        return _plan_of(handler, options, concurrency)
    queue = _Queue(kind_of(handler, options.interface), handler, _queue_name(handler))
    maker = dispatcher_for(handler, options, concurrency)
    return Plan((queue.spec(options),), (queue.name,), maker)


# ---- queues -----------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Queue:
    kind: str  # as the option interface has it, not "auto"
    handler: Callable[..., Any] | None  # None: those of the routes
    name: str
    routes: list[tuple[str, bytes]] = field(default_factory=list)

    def is_of(self, kind: str, handler: Callable[..., Any]) -> bool:
        return self.kind == kind and _is_same(self.handler, handler)

    def spec(self, options: Options) -> Mapping[str, Any]:
        """What C is told: the handler's own settings, or else the options."""
        own = settings_of(self.handler) if self.kind == "batch" else None
        settings = own or BatchSettings()

        def chosen(name: str) -> Any:
            value = getattr(settings, name)
            return getattr(options, name) if value is None else value

        return {
            "routes": tuple(self.routes),
            "is_whole": self.kind == "batch",
            "concurrency": settings.concurrency or 1,
            "batch_size": chosen("batch_size"),
            "batch_wait_us": _microseconds(chosen("batch_wait")),
            "deadline_ms": _milliseconds(chosen("deadline")),
            "queue_size": chosen("queue_size"),
            "full_status": options.queue_full_status,
        }


def _queue_name(handler: Any) -> str:
    """The same in all processes, as what they count is added up: no ``repr()``."""
    return name_of(handler if hasattr(handler, "__qualname__") else type(handler))


def _is_same(a: Any, b: Any) -> bool:
    # Each look at a method makes a new object of it.
    return a is b or (
        isinstance(a, MethodType) and isinstance(b, MethodType) and a == b
    )


def _microseconds(seconds: float) -> int:
    # 0 is "none": what was asked for must not round to it.
    return max(1, round(seconds * 1_000_000)) if seconds > 0 else 0


def _milliseconds(seconds: float) -> int:
    """Rounded up; what is beyond a nanosecond is not of the number, but of its bits."""
    return max(1, math.ceil(round(seconds * 1000, 6))) if seconds > 0 else 0


# ---- a router's -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Path:
    """The handlers of single requests that a path has."""

    handlers: Mapping[str, RequestHandler]  # by method
    otherwise: RequestHandler  # or, where C takes the others elsewhere, never called


def _plan_of(router: Router, options: Options, concurrency: Concurrency) -> Plan:
    if options.interface != "auto":
        raise TypeError(
            f"interface={options.interface!r} is for a server of one handler: the"
            " routes of a Router have interfaces of their own"
        )
    queues = _Queues()
    default, missing = queues.shared, _always(404)
    fallback = router.fallback
    if fallback is not None:
        default = queues.of(fallback, _queue_name(fallback.handler))
        if default is queues.shared:
            missing = fallback.handler
    paths = {
        path: _path_of(path, routes, queues, default)
        for path, routes in _by_path(router.routes).items()
    }
    in_order = queues.in_order(default)
    makers = [
        _maker_of(queue, paths, missing, options, concurrency) for queue in in_order
    ]
    return Plan(
        tuple(queue.spec(options) for queue in in_order),
        tuple(queue.name for queue in in_order),
        _together(makers),
    )


class _Queues:
    """The queues of a router, while its plan is made."""

    def __init__(self) -> None:
        self.shared = _Queue("request", None, SHARED)
        self._own: list[_Queue] = []  # of handlers that are called with whole batches

    def of(self, route: Route, name: str) -> _Queue:
        """The one of the route's handler, called ``name`` if it is new."""
        kind = kind_of(route.handler, route.interface)
        if kind == "request":
            return self.shared
        for queue in self._own:
            if queue.is_of(kind, route.handler):
                return queue
        self._own.append(_Queue(kind, route.handler, name))
        return self._own[-1]

    def in_order(self, default: _Queue) -> list[_Queue]:
        """All that something gets to, ``default`` being queue 0."""
        shared = [self.shared] if self.shared.routes else []
        others = [queue for queue in (*shared, *self._own) if queue is not default]
        n = 1 + len(others)
        if n > _MAX_QUEUES:
            raise ValueError(
                "the router has too many handlers: each batch handler and each WSGI"
                f" application needs a queue, and so do all others together; these are"
                f" {n}, and there can be {_MAX_QUEUES}"
            )
        return [default, *others]


def _by_path(routes: Iterable[Route]) -> dict[str, list[Route]]:
    found: dict[str, list[Route]] = {}
    for route in routes:
        found.setdefault(route.path, []).append(route)
    return found


def _path_of(
    path: str, routes: Iterable[Route], queues: _Queues, default: _Queue
) -> _Path:
    """The handlers of one path; the routes that C has to know go to their queues."""
    queue_of = {route.method: queues.of(route, str(route)) for route in routes}
    handlers = {route.method: route.handler for route in routes}
    _complete(queue_of, handlers, queues.shared)
    others = queue_of[ANY]
    for method, queue in queue_of.items():
        if queue is not (default if method == ANY else others):
            queue.routes.append((method, path.encode()))
    return _Path(
        {m: handler for m, handler in handlers.items() if queue_of[m] is queues.shared},
        handlers[ANY],
    )


def _complete(
    queues: dict[str, _Queue], handlers: dict[str, RequestHandler], shared: _Queue
) -> None:
    """Have a path answer HEAD as GET, and what else it has no route for by itself."""
    if "GET" in handlers and "HEAD" not in handlers:
        queues["HEAD"], handlers["HEAD"] = queues["GET"], handlers["GET"]
    if ANY in handlers:
        return
    allow = ", ".join([*(m for m in handlers if m != "OPTIONS"), "OPTIONS"])
    if "OPTIONS" not in handlers:
        queues["OPTIONS"], handlers["OPTIONS"] = shared, _always(204, allow)
    queues[ANY], handlers[ANY] = shared, _always(405, allow)


def _always(status: int, allow: str | None = None) -> RequestHandler:
    fields = () if allow is None else (("Allow", allow),)
    reply = Response(status, fields, None if status == 204 else plain_text(status))
    return lambda _request: reply


# ---- dispatchers ------------------------------------------------------------------


def _maker_of(
    queue: _Queue,
    paths: Mapping[str, _Path],
    missing: RequestHandler,
    options: Options,
    concurrency: Concurrency,
) -> DispatcherMaker:
    if queue.handler is None:
        return lambda _addresses: _routing_dispatcher(paths, missing)
    options = dataclasses.replace(options, interface=queue.kind)
    return dispatcher_for(queue.handler, options, concurrency)


def _routing_dispatcher(
    paths: Mapping[str, _Path], missing: RequestHandler
) -> Dispatcher:
    """As ``request_dispatcher``, with the handler that the request's path has."""

    def dispatch(batch: Batch) -> None:
        reply = batch.reply
        dropped: tuple[int, ...] = ()
        for i, request in enumerate(batch):
            if dropped and i in dropped:
                continue
            path = paths.get(request.path)
            handler = missing
            if path is not None:
                handler = path.handlers.get(request.method, path.otherwise)
            try:
                behind = reply(i, handler(request))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the slot's
                behind = reply_to_error(batch, i, handler, error)
            if behind is not None:
                dropped += behind

    return dispatch


def _together(makers: Sequence[DispatcherMaker]) -> DispatcherMaker:
    """The maker of a dispatcher for all queues, in their order."""

    def make(addresses: Sequence[TcpAddress | str]) -> Dispatcher:
        dispatchers = tuple(maker(addresses) for maker in makers)
        if len(dispatchers) == 1:
            return dispatchers[0]

        def dispatch(batch: Batch) -> None:
            dispatchers[batch.queue](batch)

        return dispatch

    return make
