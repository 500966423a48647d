"""Dispatchers: what C calls once per batch, made for each kind of handler."""

from __future__ import annotations

import inspect
import logging
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from fastbatch._config import Options
from fastbatch._core import Batch, ReplyError, Request
from fastbatch._reply import HTTPError, Response, plain_text
from fastbatch._sockets import TcpAddress
from fastbatch._wsgi import ALONE, Concurrency, gateway

log = logging.getLogger("fastbatch")

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
        TypeError: the handler does not fit the interface; the message says which
            handlers do.
    """
    if not callable(handler):
        raise TypeError(
            f"the handler {handler!r} is not callable: give a function of one request, "
            "or a WSGI application"
        )
    if _is_coroutine_function(handler):
        raise TypeError(
            f"the handler {name_of(handler)} is a coroutine function, which is not "
            "served: give a plain function of one request, or a WSGI application"
        )
    kind = options.interface
    if kind == "auto":
        kind = _recognise(handler)
    if kind == "wsgi":
        name = name_of(handler)
        return lambda addresses: gateway(
            handler, name, addresses, options.root_path, concurrency
        )
    return lambda _addresses: request_dispatcher(handler)


def _is_coroutine_function(handler: Any) -> bool:
    call = getattr(type(handler), "__call__", None)  # noqa: B004 - its kind is asked
    return any(map(inspect.iscoroutinefunction, (handler, call)))


def _recognise(handler: Callable[..., Any]) -> str:
    """Tell the interface of a handler: by its signature, or by where it comes from."""
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


def name_of(handler: Any) -> str:
    """The handler's name for messages, ``module.qualname`` where it has them."""
    name = getattr(handler, "__qualname__", None)
    if name is None:
        return repr(handler)
    return f"{getattr(handler, '__module__', '?')}.{name}"


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
                behind = _reply_to_error(batch, i, handler, error)
            if behind is not None:
                dropped += behind

    return dispatch


def _reply_to_error(
    batch: Batch, index: int, handler: Callable[[Request], Any], error: Exception
) -> tuple[int, ...] | None:
    """Answer a slot whose handler raised, or whose reply was none, and log it."""
    if isinstance(error, HTTPError):
        try:
            return batch.reply(index, error.response)
        except Exception as bad:  # noqa: BLE001 - a subclass, its headers, its body
            error = bad
    request = batch[index]
    dropped = batch.reply(index, Response(500, (), plain_text(500)))
    _log(handler, request, error)
    return dropped


def _log(handler: Callable[[Request], Any], request: Request, error: Exception) -> None:
    try:
        if isinstance(error, ReplyError):
            # Its traceback would show this file alone; the message has what it was.
            log.error("handler %s, %r: %s", name_of(handler), request, error)
        else:
            log.error(
                "handler %s failed, %r", name_of(handler), request, exc_info=error
            )
    except Exception:  # noqa: BLE001 - a log that fails must not fail other slots
        traceback.print_exc()
