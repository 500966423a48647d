"""The file that says which process is the server: the option ``pid_file``.

It is there for as long as the server is, it always has a whole number in it, and it
belongs to one server at a time. What a server left behind which was killed is replaced.
Nothing here knows of sockets or workers.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

_MODE = 0o644  # whoever may see the process may know its number

# A number that is longer is none of a process.
_MOST_DIGITS = 9

# How often it is looked again, and after how many seconds, while other servers that
# start or end at once lock the same file, write it or remove it.
_ATTEMPTS = 100
_PAUSE = 0.01


class PidFileError(OSError):
    """The file cannot be had; ``str()`` is one sentence that says why.

    ``errno`` is the system's number: EEXIST if it belongs to somebody else.
    """

    def __init__(self, number: int, path: Path, why: str) -> None:
        super().__init__(number, why)
        self.path = path
        self.why = why

    def __str__(self) -> str:
        return f"pid_file={str(self.path)!r} cannot be written: {self.why}"


class PidFile:
    """A file with the number of this process, which is removed by this process.

    Args:
        path: the option; for an empty one nothing is done. Of a link, what it names is
            written and removed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._is_wanted = path != ""
        self._path = Path(os.path.realpath(path))  # a handler may change directories
        self._pid = 0  # that was written

    def write(self) -> None:
        """Write the number of this process; another one's is not overwritten.

        To be called once the server listens: who reads the file may then connect.

        Raises:
            PidFileError: a process that runs has it, or it cannot be written.
        """
        if not self._is_wanted:
            return
        try:
            self._write()
        except PidFileError:
            raise
        except OSError as error:
            raise self._refusal(error.errno or 0, self._words(error)) from error

    def remove(self) -> None:
        """Remove the file if it is still that of this process; may be called twice.

        It does nothing in a child that was forked, and nothing if the file cannot be
        removed: the next server replaces it.
        """
        if self._pid != os.getpid():
            return
        self._pid = 0
        with contextlib.suppress(OSError), self._opened() as number:
            if self._owner(number) == os.getpid():
                self._path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.remove()

    # ---- inside -------------------------------------------------------------------

    def _write(self) -> None:
        temporary = self._make_temporary()
        try:
            for _ in range(_ATTEMPTS):
                if self._link(temporary) or self._replace(temporary):
                    self._pid = os.getpid()
                    return
                time.sleep(_PAUSE)
        finally:
            temporary.unlink(missing_ok=True)  # replace() has taken it
        raise self._refusal(errno.EBUSY, "others lock it or write it all the time")

    def _make_temporary(self) -> Path:
        """The whole file, next to where it is to be."""
        number, name = tempfile.mkstemp(
            dir=self._path.parent, prefix=f".{self._path.name}."
        )
        try:
            with open(number, "w") as file:
                file.write(f"{os.getpid()}\n")
                os.fchmod(number, _MODE)
        except BaseException:
            os.unlink(name)
            raise
        return Path(name)

    def _link(self, temporary: Path) -> bool:
        """Put the file in its place; False if there is one already.

        As no rename can, this fails if another server was faster.
        """
        try:
            self._path.hardlink_to(temporary)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}:
                raise
            # This file system has no hard links.
            if os.path.lexists(self._path):
                return False
            temporary.replace(self._path)
        return True

    def _replace(self, temporary: Path) -> bool:
        """Replace the file that is there, if it is nobody's any more.

        False if it is gone, or another server is at it: look again. The lock is on the
        old file: of two servers that find it, the second sees after the first that
        another one is in its place.
        """
        try:
            with self._opened() as number:
                self._check_that_it_is_free(self._owner(number))
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(number), self._path.stat()):
                    return False
                temporary.replace(self._path)
                return True
        except (FileNotFoundError, BlockingIOError):
            return False

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """A descriptor of the file that is there. A pipe is not waited for."""
        number = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            yield number
        finally:
            os.close(number)

    def _owner(self, number: int) -> int:
        """Whose file it is: a number, or 0 if it is empty.

        Raises:
            PidFileError: it is no such file.
        """
        is_file = stat.S_ISREG(os.fstat(number).st_mode)
        text = os.read(number, _MOST_DIGITS + 2).strip() if is_file else b"?"
        if not text:
            return 0
        if not (text.isdigit() and len(text) <= _MOST_DIGITS and int(text) > 0):
            raise self._refusal(
                errno.EEXIST,
                "what is there is no pid file; remove it or choose another path",
            )
        return int(text)

    def _check_that_it_is_free(self, owner: int) -> None:
        if owner not in {0, os.getpid()} and _is_running(owner):
            raise self._refusal(
                errno.EEXIST,
                f"it is that of process {owner}, which is running; stop that one or"
                " choose another path",
            )

    def _words(self, error: OSError) -> str:
        folder = self._path.parent
        if error.errno in {errno.EACCES, errno.EPERM}:
            if error.filename2 is not None:  # of a rename
                return "this user may not replace the file that is there"
            if str(error.filename) == str(self._path):
                return "this user may not read the file that is there"
            return f"this user may not make files in {folder}"
        if error.errno == errno.ENOENT:
            return f"there is no directory {folder}"
        if error.errno == errno.ENOTDIR:
            return f"{folder} is not a directory"
        return error.strerror or str(error)

    def _refusal(self, number: int, why: str) -> PidFileError:
        return PidFileError(number, self._path, why)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is somebody else's
    return True
