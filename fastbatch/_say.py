"""What ``run()`` and the command line tell their user, by the logger or on stderr."""

from __future__ import annotations

import contextlib
import logging
import sys

_log = logging.getLogger("fastbatch")


def say(
    line: str, level: int = logging.INFO, *, log: logging.Logger | None = None
) -> None:
    """Tell the user of ``run()``, whether or not logging was set up.

    A ``log`` of its own is one below "fastbatch".

    ``run()`` is the program then, not a library within one, so silence would be wrong;
    and setting up logging for a program that has not done so would be, too.
    """
    log, title = (_log, "") if log is None else (log, f"{log.name}: ")
    with contextlib.suppress(OSError, ValueError):  # stderr may be closed
        if log.hasHandlers():
            log.log(level, line)
        elif (log.level or _log.level) <= level:
            # One write, also where streams have no buffer: workers share stderr.
            print(f"{title}{line}\n", end="", file=sys.stderr, flush=True)


def flush() -> None:
    """Write out what a child that is forked would write a second time."""
    for stream in (sys.stdout, sys.stderr):
        # One that was closed may be None; another one may be the program's own.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
