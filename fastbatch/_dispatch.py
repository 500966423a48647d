"""Dispatchers: what C calls once per batch, made for each kind of handler."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from fastbatch._batch import batch_dispatcher, settings_of
from fastbatch._config import Options
from fastbatch._core import Batch, Request
from fastbatch._failures import name_of, reply_to_error
from fastbatch._sockets import TcpAddress
from fastbatch._wsgi import ALONE, Concurrency, gateway

Dispatcher = Callable[[Batch], object]

DispatcherMaker = Callable[[Sequence[TcpAddress | str]], Dispatcher]

# Whose objects are applications even where their signatures do not tell.
_WSGI_FRAMEWORKS = frozenset(
    "bottle cherrypy dash django falcon flask paste pecan pyramid web web2py webob "
    "werkzeug whitenoise wsgiref zope".split()
)


def dispatcher_for(
    handler: Any, options: Options, concurrency: Concurrency = ALONE
) -> DispatcherMaker:
    """Find out how a handler is to be called, by the option ``interface``.

    Returns:
        What makes its dispatcher, once the addresses of the listeners are known.

    Raises:
        TypeError: as ``kind_of``.
    """
    kind = kind_of(handler, options.interface)
    if kind == "wsgi":
        name = name_of(handler)
        return lambda addresses: gateway(
            handler, name, addresses, options.root_path, concurrency
        )
    if kind == "batch":
        return lambda _addresses: batch_dispatcher(handler)
    return lambda _addresses: request_dispatcher(handler)


def kind_of(handler: Any, interface: str = "auto") -> str:
    """How a handler is called: "request", "batch" or "wsgi", which interface may be.

    Raises:
        TypeError: the handler does not fit the interface; the message says which
            handlers do.
    """
    if not callable(handler):
        raise TypeError(
            f"the handler {handler!r} is not callable: give a function of one request, "
            "or a WSGI application"
        )
    asynchronous = _asynchronous_kind(handler)
    if asynchronous is not None:
        raise TypeError(
            f"the handler {name_of(handler)} is {asynchronous}, which is not "
            "served: give a plain function of one request, or a WSGI application"
        )
    kind = _recognise(handler) if interface == "auto" else interface
    if kind == "batch":
        _check_batch_handler(handler)
    return kind


def _asynchronous_kind(handler: Any) -> str | None:
    """What a handler is that only an event loop of Python's can call."""
    call = getattr(type(handler), "__call__", None)  # noqa: B004 - its kind is asked
    for function in (handler, call):
        if inspect.iscoroutinefunction(function):
            return "a coroutine function"
        if inspect.isasyncgenfunction(function):
            return "an asynchronous generator function"
    return None


def _check_batch_handler(handler: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        return  # nothing is known of some C functions: a call will tell
    if not _takes(signature, 1):
        raise TypeError(
            f"the handler {name_of(handler)}{signature} cannot be called with one "
            "argument: a batch handler takes one batch, def handler(batch)"
        )


def _recognise(handler: Callable[..., Any]) -> str:
    """Tell the interface of a handler: by its mark, its signature, or its origin."""
    if settings_of(handler) is not None:
        return "batch"
    is_known = type(handler).__module__.partition(".")[0] in _WSGI_FRAMEWORKS
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        # Nothing is known of some C functions: a call will tell.
        return "wsgi" if is_known else "request"
    takes_one, takes_two = (_takes(signature, n) for n in (1, 2))
    if takes_two and (
        not takes_one or is_known or "start_response" in signature.parameters
    ):
        return "wsgi"
    if takes_one and not (takes_two and _has_no_names(signature)):
        return "request"
    if takes_one:
        raise TypeError(
            f"the handler {name_of(handler)}{signature} takes any arguments, which "
            "does not tell how to call it: say interface='request' or interface='wsgi'"
        )
    raise TypeError(
        f"the handler {name_of(handler)}{signature} can be called neither with one "
        "argument nor with two: a handler takes one request, def handler(request), a "
        "WSGI application def application(environ, start_response)"
    )


def _takes(signature: inspect.Signature, n: int) -> bool:
    try:
        signature.bind(*[None] * n)
    except TypeError:
        return False
    return True


def _has_no_names(signature: inspect.Signature) -> bool:
    """Whether all positional arguments go into ``*args``."""
    named = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return all(p.kind not in named for p in signature.parameters.values())


def request_dispatcher(handler: Callable[[Request], Any]) -> Dispatcher:
    """Call ``handler`` with each request of the batch and reply at once.

    What goes wrong in a slot stays in the slot; KeyboardInterrupt and SystemExit go
    through and stop the server.
    """

    def dispatch(batch: Batch) -> None:
        reply = batch.reply
        dropped: tuple[int, ...] = ()
        for i, request in enumerate(batch):
            if dropped and i in dropped:
                continue
            try:
                behind = reply(i, handler(request))
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the slot's
                behind = reply_to_error(batch, i, handler, error)
            if behind is not None:
                dropped += behind

    return dispatch
