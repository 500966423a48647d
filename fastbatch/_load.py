"""Find the handler that the command line names: ``module:attribute``."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from fastbatch._router import Router


class LoadError(Exception):
    """There is no such handler; the message is one sentence that says what is wrong."""


Handler = Callable[..., Any] | Router


def load_handler(name: str) -> Handler:
    """The handler that ``name`` names, ``module:attribute`` or ``module:object.name``.

    With ``()`` at its end it names a function that makes the handler.

    Raises:
        LoadError: there is none.
        Exception: whatever the module raised while it was imported, or the function.
    """
    path = name.removesuffix("()")
    found = _find(path)
    return _handler(found if path == name else _callable(found, path)(), name)


def _handler(found: Any, name: str) -> Handler:
    return found if isinstance(found, Router) else _callable(found, name)


def _callable(found: Any, name: str) -> Callable[..., Any]:
    if not callable(found):
        kind = type(found).__name__
        raise LoadError(f"{name} is no handler: it is of type {kind}, not callable")
    handler: Callable[..., Any] = found
    return handler


def _find(name: str) -> Any:
    module_name, colon, path = name.partition(":")
    if not (colon and module_name and path):
        example = f"{module_name.removesuffix('.py') or 'app'}:handler"
        raise LoadError(f"{name!r} names no handler: write module:name, as {example}")
    if module_name.endswith(".py") or "/" in module_name:
        dotted = ".".join(Path(module_name.removesuffix(".py")).parts)
        raise LoadError(f"{module_name} is no module name: write {dotted}:{path}")
    found: Any = _module(module_name)
    where = f"module {module_name}"
    for attribute in path.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError:
            hint = _did_you_mean(attribute, dir(found))
            raise LoadError(f"{where} has no attribute {attribute!r}{hint}") from None
        where += f".{attribute}"
    return found


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not f"{name}.".startswith(f"{missing}."):
            raise  # the module is there, and what it imports is not
        parent, _, last = missing.rpartition(".")
        hint = _did_you_mean(last, _module_names(parent), parent)
        raise LoadError(
            f"there is no module {missing} in {Path.cwd()} or installed{hint}"
        ) from None


def _module_names(parent: str) -> Iterable[str]:
    """The modules in the working directory, or in the package ``parent``."""
    if parent:
        paths = getattr(sys.modules.get(parent), "__path__", [])
    else:
        paths = [str(Path.cwd())]
    return [module.name for module in pkgutil.iter_modules(paths)]


def _did_you_mean(word: str, words: Iterable[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(word, words, n=1)
    if not close:
        return ""
    return f"; did you mean {prefix + '.' if prefix else ''}{close[0]}?"
