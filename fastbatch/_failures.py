"""What goes wrong in a handler: the reply to it, and its line in the log.

It stays where it went wrong, in one slot or in one batch; KeyboardInterrupt and
SystemExit are not looked at here: they go through, and stop the server.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import Any

from fastbatch._core import Batch, ReplyError
from fastbatch._reply import HTTPError, Response, plain_text

log = logging.getLogger("fastbatch")

FAILED = Response(500, (), plain_text(500))


def name_of(handler: Any) -> str:
    """The handler's name for messages, ``module.qualname`` where it has them."""
    name = getattr(handler, "__qualname__", None)
    if name is None:
        return repr(handler)
    return f"{getattr(handler, '__module__', '?')}.{name}"


def reply_to_error(
    batch: Batch, index: int, handler: Callable[..., Any], error: BaseException
) -> tuple[int, ...] | None:
    """Answer a slot whose handler raised, or whose reply was none, and log it."""
    if isinstance(error, HTTPError):
        try:
            return batch.reply(index, error.response)
        except Exception as bad:  # noqa: BLE001 - a subclass, its headers, its body
            error = bad
    request = batch[index]
    dropped = batch.reply(index, FAILED)
    log_failure(handler, request, error)
    return dropped


def log_failure(
    handler: Callable[..., Any], what: object, error: BaseException
) -> None:
    """Log that ``handler`` failed with ``what`` it was given."""
    if isinstance(error, ReplyError):
        # Its traceback would show our files alone; the message has what it was.
        log_error("handler %s, %s: %s", handler, what, error)
    else:
        log_error("handler %s failed, %s", handler, what, error=error)


def log_error(
    message: str,
    handler: Callable[..., Any],
    *arguments: object,
    error: BaseException | None = None,
) -> None:
    """Log ``message`` about ``handler``, whose name is its first argument."""
    try:
        log.error(message, name_of(handler), *arguments, exc_info=error)
    except Exception:  # noqa: BLE001 - a log that fails must not fail other slots
        traceback.print_exc()
