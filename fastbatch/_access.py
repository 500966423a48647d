"""Where the access log goes: standard output, a file, or a logger.

C forms the lines and writes those of a file or of standard output by itself; a logger's
are handed to Python. See csrc/io/access.h.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable

from fastbatch._config import STDOUT, AccessLog

log = logging.getLogger("fastbatch")

# Without a reader, opening a pipe fails instead of waiting for one.
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY

_STDOUT_FD = 1


class Destination:
    """What an ``access_log`` option says, ready to be opened, and opened anew."""

    def __init__(self, access_log: AccessLog) -> None:
        self._logger: logging.Logger | None = None
        self._path: str | None = None  # absolute: a handler may change directories
        if isinstance(access_log, logging.Logger):
            self._logger = access_log
        elif access_log not in ("", STDOUT):
            self._path = os.path.abspath(access_log)
        self._is_stdout = access_log == STDOUT

    @property
    def is_file(self) -> bool:
        """Whether it can be opened anew."""
        return self._path is not None

    def open(self) -> int | Callable[[bytes], None] | None:
        """A new descriptor, a function that takes whole lines, or None: it is off.

        Raises:
            OSError: the message names the option, the path and the reason.
        """
        if self._logger is not None:
            return self._log_lines
        return self.open_file() if self.is_file or self._is_stdout else None

    def open_file(self) -> int:
        """A new descriptor of the file, or of standard output. Raises as ``open``."""
        try:
            if self._path is None:
                return os.dup(_STDOUT_FD)
            return os.open(self._path, _FLAGS, 0o644)
        except OSError as error:
            what = STDOUT if self._path is None else self._path
            sentence = f"access_log={what!r} cannot be opened: {error.strerror}"
            raise OSError(error.errno, sentence) from None

    def _log_lines(self, lines: bytes) -> None:
        assert self._logger is not None
        for line in lines.decode("ascii").splitlines():
            try:
                self._logger.info(line)
            except Exception:
                log.exception("a line of the access log was lost")
