"""Batch handlers: those that are given all requests of a batch at once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from fastbatch._config import BATCHING, OPTIONS, Integer, Option
from fastbatch._core import LIMITS, Batch
from fastbatch._failures import FAILED, log_error, log_failure, reply_to_error
from fastbatch._reply import HTTPError

MARK = "__fastbatch_batch__"
"""The attribute of a handler that has its BatchSettings."""

Handler = TypeVar("Handler", bound=Callable[..., Any])

_CONCURRENCY = Option(
    "concurrency",
    BATCHING,
    Integer(1, LIMITS["threads_bound"], "batches"),
    "The most batches of a handler that are in flight at once in a worker, where there"
    " are handler threads.",
    1,
)

_OPTIONS = {option.name: option for option in (*OPTIONS, _CONCURRENCY)}


# ---- the mark ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """What ``fastbatch.batch`` was told of a handler; None: as the server's option.

    Attributes:
        batch_size: the most requests in one batch, 1 to 256.
        batch_wait: seconds that the oldest request waits for others at most.
        deadline: seconds in the queue after which a request gets 504 instead; 0: none.
        queue_size: requests that may wait; those beyond are refused.
        concurrency: batches of this handler that are in flight at once in a worker,
            where there are handler threads; None: 1.

    Raises:
        TypeError, ValueError: a value is not allowed; the message says which one and
            what is.
    """

    batch_size: int | None = None
    batch_wait: float | None = None
    deadline: float | None = None
    queue_size: int | None = None
    concurrency: int | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None:
                checked = _OPTIONS[field.name].check(value, f"{field.name}={value!r}")
                object.__setattr__(self, field.name, checked)


@overload
def batch(
    handler: Handler,
    /,
    *,
    batch_size: int | None = None,
    batch_wait: float | None = None,
    deadline: float | None = None,
    queue_size: int | None = None,
    concurrency: int | None = None,
) -> Handler: ...


@overload
def batch(
    handler: None = None,
    /,
    *,
    batch_size: int | None = None,
    batch_wait: float | None = None,
    deadline: float | None = None,
    queue_size: int | None = None,
    concurrency: int | None = None,
) -> Callable[[Handler], Handler]: ...


def batch(handler: Any = None, /, **settings: Any) -> Any:
    """Mark a handler as one of whole batches.

    For example::

        @fastbatch.batch
        def predict(batch):
            inputs = numpy.stack([numpy.frombuffer(r.body, "<f4") for r in batch])
            return model(inputs)  # row i is the reply to batch[i]

    It is called with a ``Batch``: the requests that are ready together. It returns as
    many replies, in the same order:

    * a list, a tuple or another sequence of replies, each as a handler of one request
      returns it; an exception *instance* fails its slot alone, an ``HTTPError`` with
      its own response;
    * a buffer of numbers with two or more dimensions, such as a numpy array, whose rows
      are contiguous: the bytes of row i are reply i;
    * an iterator, for example because the handler is a generator: each reply leaves
      when it is given, while the handler goes on.

    ``batch.reply(i, reply)`` answers slot i before that, and then item i is ignored;
    when all are answered so, None may be returned. With any other number of replies,
    and when the handler raises, all slots that are not answered get 500 (or the
    response of the ``HTTPError``), and one line is logged.

    The handler stays as callable as it was. Methods can be marked in a class body, and
    a ``__call__``, too, which marks the instances.

    Args:
        handler: what is marked. Without it, ``batch(...)`` gives a decorator.
        **settings: those of ``BatchSettings``; what is not given is as the options of
            the server say.

    Raises:
        TypeError: the handler is not callable, or is a class; or there is no such
            setting.
        TypeError, ValueError: a setting is not allowed; the message says which one and
            what is.
    """
    chosen = BatchSettings(**settings)
    if handler is None:
        return functools.partial(_mark, chosen)
    return _mark(chosen, handler)


def _mark(settings: BatchSettings, handler: Any) -> Any:
    if isinstance(handler, staticmethod | classmethod):
        # What is looked up later is the function, or bound to it.
        _mark(settings, handler.__func__)
        return handler
    if isinstance(handler, type):
        raise TypeError(
            f"fastbatch.batch was given the class {handler.__qualname__}: mark its "
            "__call__, or another of its methods"
        )
    if not callable(handler):
        raise TypeError(
            f"fastbatch.batch was given {handler!r}, which is not callable: give a "
            "function of one batch; settings are given by name"
        )
    try:
        setattr(handler, MARK, settings)
    except (AttributeError, TypeError):
        # It takes no attributes: a bound method, a function in C.
        wrapper = functools.partial(handler)
        return _mark(settings, functools.update_wrapper(wrapper, handler))
    return handler


def settings_of(handler: Any) -> BatchSettings | None:
    """What a handler was marked with, or None if it was not."""
    while True:
        call = getattr(type(handler), "__call__", None)  # noqa: B004 - for its mark
        for marked in (handler, call):
            settings = getattr(marked, MARK, None)
            if isinstance(settings, BatchSettings):
                return settings
        if not isinstance(handler, functools.partial):
            return None
        handler = handler.func


# ---- dispatching ------------------------------------------------------------------


def batch_dispatcher(handler: Callable[[Batch], Any]) -> Callable[[Batch], None]:
    """Call ``handler`` with each batch and answer with what it returns.

    What goes wrong stays in the slot, or in the batch; KeyboardInterrupt and SystemExit
    go through and stop the server.
    """

    def dispatch(batch: Batch) -> None:
        def fail(index: int, error: BaseException) -> None:
            reply_to_error(batch, index, handler, error)

        size = batch.take_all()
        try:
            result = handler(batch)
            n = batch.reply_all(result, fail)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the batch's
            _fail_rest(batch, handler, error)
            return
        if n != size:
            _refuse_count(batch, handler, n, is_open=hasattr(result, "__next__"))

    return dispatch


def _refuse_count(
    batch: Batch, handler: Callable[..., Any], n: int, *, is_open: bool
) -> None:
    """Answer what is not answered yet: there were ``n`` replies.

    If ``is_open`` and there were too many, nobody knows how many more.
    """
    size = len(batch)
    _reply_to_rest(batch, FAILED)
    given = f"more than {size}" if is_open and n > size else str(n)
    log_error("handler %s: %s replies for a batch of %d", handler, given, size)


def _fail_rest(batch: Batch, handler: Callable[..., Any], error: Exception) -> None:
    """Answer what is not answered yet: the handler has raised ``error``."""
    if isinstance(error, HTTPError):
        try:
            _reply_to_rest(batch, error.response)
        except Exception as bad:  # noqa: BLE001 - a subclass, its headers, its body
            error = bad
        else:
            return
    _reply_to_rest(batch, FAILED)
    log_failure(handler, f"a batch of {len(batch)}", error)


def _reply_to_rest(batch: Batch, reply: object) -> None:
    # One that ends its connection answers others, too.
    while waiting := batch.unanswered():
        batch.reply(waiting[0], reply)
