"""``Router``: which handler a method and a path have.

Nothing is matched here: what a router has when the server is made becomes tables, for
C and for the dispatcher (``_plan.py``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from fastbatch._config import OPTIONS
from fastbatch._core import LIMITS
from fastbatch._dispatch import kind_of

ANY = "*"

(_INTERFACE,) = (option for option in OPTIONS if option.name == "interface")

_MAX_PATH = LIMITS["route_path_bytes"]

_Handler = TypeVar("_Handler", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Route:
    """One line of a router."""

    method: str  # "*": all that have no route of their own
    path: str
    handler: Callable[..., Any]
    interface: str  # as the option of that name

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Router:
    """Handlers by method and path, each of any kind, behind one server.

    For example::

        router = fastbatch.Router()

        @router.get("/health")
        def health(request):
            return "ok"

        @router.post("/predict")
        @fastbatch.batch
        def predict(batch):
            return model([request.json() for request in batch])

        fastbatch.run(router)

    A handler is one of requests, one of batches or a WSGI application, as a server's
    handler is, and may have several routes. Each batch handler, and each application,
    has a queue and batches of its own.

    A path is matched as a whole and as it is: ``Request.path``, decoded. There are no
    patterns; what needs some is for ``fallback``.

    GET answers HEAD, too, where that has no route; OPTIONS is answered with the methods
    of the path. A method that a path does not have is 405, and a path that is not here
    404.

    Args:
        fallback: the handler of all paths that are not here, of any kind.
        interface: how ``fallback`` is called, as the option of that name.

    Raises:
        TypeError: ``fallback`` is no handler, or none of that interface.
        ValueError: there is no such interface.
    """

    def __init__(
        self, *, fallback: Callable[..., Any] | None = None, interface: str = "auto"
    ) -> None:
        if fallback is not None:
            _check_handler("fallback", fallback, interface)
        self._fallback = fallback
        self._interface = interface
        self._routes: dict[tuple[str, str], Route] = {}

    def add(
        self,
        method: str,
        path: str,
        handler: Callable[..., Any],
        *,
        interface: str = "auto",
    ) -> None:
        """Have ``handler`` answer requests of that method and path.

        A server that is made already does not change.

        Args:
            method: such as ``"GET"``, or ``"*"``, all that the path has no route for.
            path: it begins with "/" and is as ``Request.path`` has it: decoded.
            handler: of one request, or of a batch, or a WSGI application.
            interface: how it is called, as the option of that name.

        Raises:
            TypeError: what is given is no method, path or handler.
            ValueError: the method, the path or the interface is none that there is, or
                there is such a route already.
        """
        _check_method(method)
        _check_path(path)
        route = Route(method, path, handler, interface)
        if (method, path) in self._routes:
            raise ValueError(f"there is a route {route} already")
        _check_handler(f"route {route}", handler, interface)
        self._routes[method, path] = route

    def route(
        self, method: str, path: str, *, interface: str = "auto"
    ) -> Callable[[_Handler], _Handler]:
        """As ``add()``, for the handler that this decorates, which stays as it is."""

        def decorate(handler: _Handler) -> _Handler:
            self.add(method, path, handler, interface=interface)
            return handler

        return decorate

    def get(self, path: str) -> Callable[[_Handler], _Handler]:
        """``route("GET", path)``."""
        return self.route("GET", path)

    def post(self, path: str) -> Callable[[_Handler], _Handler]:
        """``route("POST", path)``."""
        return self.route("POST", path)

    def put(self, path: str) -> Callable[[_Handler], _Handler]:
        """``route("PUT", path)``."""
        return self.route("PUT", path)

    def patch(self, path: str) -> Callable[[_Handler], _Handler]:
        """``route("PATCH", path)``."""
        return self.route("PATCH", path)

    def delete(self, path: str) -> Callable[[_Handler], _Handler]:
        """``route("DELETE", path)``."""
        return self.route("DELETE", path)

    @property
    def fallback(self) -> Route | None:
        """The handler of all other paths, as if it had a route."""
        if self._fallback is None:
            return None
        return Route(ANY, ANY, self._fallback, self._interface)

    @property
    def routes(self) -> tuple[Route, ...]:
        """What was added up to now, in that order."""
        return tuple(self._routes.values())

    def __repr__(self) -> str:
        return f"<Router of {len(self._routes)} routes>"


def _check_method(method: Any) -> None:
    allowed = "it must be a method in capitals, such as 'GET', or '*', all others"
    if not isinstance(method, str):
        raise TypeError(f"method={method!r} is not allowed: {allowed}")
    if method != ANY and not re.fullmatch(r"[A-Z]+(-[A-Z]+)*", method):
        raise ValueError(f"method={method!r} is not allowed: {allowed}")


def _check_path(path: Any) -> None:
    if not isinstance(path, str):
        raise TypeError(f"path={path!r} is not allowed: it must be a str")
    reason = _fault_of(path)
    if reason is not None:
        raise ValueError(f"path={path!r} is not allowed: {reason}")


def _fault_of(path: str) -> str | None:
    if not path.startswith("/"):
        return "it must begin with '/'"
    if set(path) & set("?#%"):
        # They would be taken for a query, or for text that is not decoded yet.
        return "it must be decoded and without a query, with no '?', '#' or '%' in it"
    if not path.isprintable() or "\N{REPLACEMENT CHARACTER}" in path:
        # The latter reads as what is no UTF-8, so that there would be two of a kind.
        return "it must have printable characters only"
    if len(path.encode()) > _MAX_PATH:
        return f"it must have at most {_MAX_PATH} bytes of UTF-8"
    return None


def _check_handler(where: str, handler: Any, interface: Any) -> None:
    _INTERFACE.check(interface, f"interface={interface!r}")
    try:
        kind_of(handler, interface)
    except TypeError as error:
        raise TypeError(f"{where}: {error}") from None
