"""Dispatchers: what C calls once per batch, made for each kind of handler."""

from __future__ import annotations

import inspect
import logging
import traceback
from collections.abc import Callable
from typing import Any

from fastbatch._core import Batch, ReplyError, Request
from fastbatch._reply import HTTPError, Response, plain_text

log = logging.getLogger("fastbatch")

Dispatcher = Callable[[Batch], None]


def dispatcher_for(handler: Any, interface: str = "auto") -> Dispatcher:
    """Make the dispatcher of a handler.

    ``interface`` is the option of that name; what is named outright is not guessed.

    Raises:
        TypeError: the handler does not fit the interface; the message says which
            handlers do.
    """
    if not callable(handler):
        raise TypeError(
            f"the handler {handler!r} is not callable: give a function of one request"
        )
    if _is_coroutine_function(handler):
        raise TypeError(
            f"the handler {name_of(handler)} is a coroutine function, which is not "
            "served: give a plain function of one request"
        )
    kind = _recognise(handler) if interface == "auto" else interface
    return _DISPATCHERS[kind](handler)


def _is_coroutine_function(handler: Any) -> bool:
    call = getattr(type(handler), "__call__", None)  # noqa: B004 - its kind is asked
    return any(map(inspect.iscoroutinefunction, (handler, call)))


def _recognise(handler: Callable[..., Any]) -> str:
    """Tell the interface of a handler from its signature."""
    try:
        signature = inspect.signature(handler)
    except (TypeError, ValueError):
        return "request"  # nothing is known of some C functions: a call will tell
    try:
        signature.bind(None)
    except TypeError:
        raise TypeError(
            f"the handler {name_of(handler)}{signature} cannot be called with one "
            "argument: a handler takes one request, def handler(request)"
        ) from None
    return "request"


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


_DISPATCHERS: dict[str, Callable[[Callable[[Request], Any]], Dispatcher]] = {
    "request": request_dispatcher,
}
