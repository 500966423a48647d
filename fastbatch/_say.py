"""What ``run()`` and the command line tell their user, by the logger or on stderr."""

from __future__ import annotations

import contextlib
import logging
import sys

log = logging.getLogger("fastbatch")


def say(line: str, level: int = logging.INFO) -> None:
    """Tell the user of ``run()``, whether or not logging was set up.

    ``run()`` is the program then, not a library within one, so silence would be wrong;
    and setting up logging for a program that has not done so would be, too.
    """
    with contextlib.suppress(OSError, ValueError):  # stderr may be closed
        if log.hasHandlers():
            log.log(level, line)
        elif log.level <= level:
            print(line, file=sys.stderr, flush=True)
