"""Bodies that are JSON: parsed by what is fastest, with the results of ``json``.

Parsers differ: orjson and msgspec refuse NaN, UTF-16, a byte order mark, lone
surrogates and floats that are too large, which ``json`` reads. So what they refuse is
given to ``json``, and its word is final: whatever is installed, the same bodies are
read, and the same errors raised. The one thing that is read otherwise, by orjson, are
integers of more than 64 bits: as floats. Bodies that may hold one go to
``loads_exactly``; that is decided by request.c.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

Parser = Callable[[bytes], Any]


def loads(body: bytes) -> Any:
    """Parse with what is fastest, else exactly."""
    parse = fastest()
    if parse is not None:
        try:
            return parse(body)
        except Exception:  # noqa: BLE001 - why it could not, json will say
            pass
    return loads_exactly(body)


def loads_exactly(body: bytes) -> Any:
    """Parse with ``json``.

    Raises:
        ValueError: it is no JSON, or is nested too deeply.
    """
    try:
        return json.loads(body)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


@functools.cache
def fastest() -> Parser | None:
    """The fastest parser that can be imported, or None: there is only ``json``."""
    orjson = _import("orjson")
    if orjson is not None:
        return orjson.loads  # type: ignore[no-any-return]
    msgspec_json = _import("msgspec.json")
    if msgspec_json is not None:
        return msgspec_json.decode  # type: ignore[no-any-return]
    return None


def _import(name: str) -> Any:
    """Return the module, or None: it is not there, or would turn the GIL on.

    Without the GIL nothing is imported that the application has not: an extension that
    is not made for that has the interpreter turn it on, for good.
    """
    is_free = not getattr(sys, "_is_gil_enabled", lambda: True)()
    if is_free and name not in sys.modules:
        return None
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
