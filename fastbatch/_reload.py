"""The option ``reload``: tell a supervisor when the code of its workers has changed.

For development. What watches the files is the package watchdog, which need not be
there. It has threads, and a supervisor is to have none, since it forks: so a process of
its own watches, and sends SIGHUP. What is done about that is the supervisor's.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import queue
import signal
import socket
import sysconfig
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, Self

from fastbatch._say import flush

log = logging.getLogger("fastbatch")

# Editors and version control write several files, and each more than once: a change is
# over when nothing was written for so many seconds, or has lasted for so many.
_QUIET = 0.1
_AT_MOST = 2.0

_VERBS = ("Created", "Modified", "Moved", "Deleted")  # the events of files

# What is said between the processes.
_READY = "ready"
_MESSAGE_BYTES = 1024 * 1024

# What is installed is not the application, and nobody edits bytecode.
_IGNORED = frozenset({"__pycache__", "site-packages", "dist-packages"})


class ReloadError(RuntimeError):
    """Nothing can be watched; the message is one sentence that says why."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A directory to watch, alone or with all those in it."""

    path: Path  # absolute, and no link: the system names files by it
    is_whole: bool

    def has(self, other: Folder) -> bool:
        """Whether who watches this one need not watch ``other``."""
        if self.is_whole:
            return other.path.is_relative_to(self.path)
        return other == self

    def is_code(self, path: Path) -> bool:
        """Whether ``path``, of a file in it, is that of a part of the application."""
        parts = path.relative_to(self.path).parts
        is_ignored = any(part.startswith(".") or part in _IGNORED for part in parts)
        return path.suffix == ".py" and not is_ignored


class ReloadProcess:
    """A process that sends this one SIGHUP when code has changed, if it is started.

    The directory ``working`` is watched, and what ``report()`` adds. No signal comes
    before the first report.
    """

    def __init__(self, working: Path) -> None:
        self._working = working
        self._channel: socket.socket | None = None

    def start(self) -> None:
        """Begin to watch; before there are threads.

        Raises:
            ReloadError: watchdog is not installed, or the system does not let it.
        """
        # Each message is read as one, whichever worker has sent it.
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        flush()
        parent = os.getpid()
        if os.fork() == 0:
            try:
                ours.close()
                _watch_for(parent, self._working, theirs)
            finally:
                os._exit(0)
        theirs.close()
        why = ours.recv(_MESSAGE_BYTES).decode()
        if why != _READY:
            ours.close()
            raise ReloadError(why)
        self._channel = ours

    def report(self, modules: Mapping[str, ModuleType]) -> None:
        """Watch where the code of a worker is, too; called by the worker, once.

        Args:
            modules: ``sys.modules``, when its handler has been imported.
        """
        if self._channel is None:
            return
        folders = folders_of(modules, self._working)
        message = [[str(each.path), each.is_whole] for each in folders]
        try:
            self._channel.send(json.dumps(message).encode())
        except OSError as error:
            log.error("changed code is not seen any more: %s", error)
        self.close()

    def close(self) -> None:
        """Let the process end, if nobody else has to do with it."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def folders_of(modules: Mapping[str, ModuleType], working: Path) -> list[Folder]:
    """Where the code of an application is: in the working directory, and elsewhere.

    Elsewhere it is where one of ``modules``, by their names as in ``sys.modules``, came
    from which is not installed and not of Python or of fastbatch: the directory, and if
    the module is in a package, all of that.
    """
    found = [Folder(working.resolve(), is_whole=True)]
    for name, module in list(modules.items()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.endswith(".py"):
            path = Path(file).resolve()
            if not _is_installed(path) and name.partition(".")[0] != __package__:
                found.append(_folder_of(name, path))
    return _without_repetition(found)


class Watcher:
    """Calls a function, in a thread of its own, when code in some folders has changed.

    Once for each change, with the files that were written, made, renamed or removed.
    While one of these cannot be compiled it says so and waits for the next change: what
    serves is to go on with the old code then.
    """

    def __init__(
        self, folders: Iterable[Folder], on_change: Callable[[Sequence[Path]], None]
    ) -> None:
        self._folders = list(folders)
        self._on_change = on_change
        self._events: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._contents: dict[Path, bytes | None] = {}  # when it was told of last
        self._observer: Any = None
        self._thread = threading.Thread(
            target=self._run, name="fastbatch reload", daemon=True
        )

    def start(self) -> None:
        """Begin to watch. What is written from now on is not missed.

        Raises:
            ReloadError: watchdog is not installed, or the system does not let it.
        """
        observers = _watchdog("observers")
        try:
            self._observer = observers.Observer()
            self._observer.start()
        except OSError as error:
            self._stop_observer()
            raise ReloadError(f"reload cannot watch files: {_why(error)}") from error
        try:
            folders, self._folders = self._folders, []
            for folder in folders:
                self.add(folder)
        except ReloadError:
            self._stop_observer()
            raise
        self._thread.start()

    def add(self, folder: Folder) -> None:
        """Watch ``folder`` too, if it is not watched.

        Raises:
            ReloadError: the system does not let it.
        """
        if any(other.has(folder) for other in self._folders):
            return
        events = _watchdog("events")
        kinds = [getattr(events, f"File{verb}Event") for verb in _VERBS]
        try:
            self._observer.schedule(
                _Listener(folder, self._events.put),
                str(folder.path),
                recursive=folder.is_whole,
                event_filter=kinds,
            )
        except OSError as error:
            why = _why(error)
            raise ReloadError(f"reload cannot watch {folder.path}: {why}") from error
        self._folders.append(folder)

    def stop(self) -> None:
        """Watch no longer. A call that runs is waited for, unless it is this one."""
        self._stop_observer()
        self._events.put(None)
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    # ---- inside -------------------------------------------------------------------

    def _stop_observer(self) -> None:
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()
            if observer.is_alive():
                observer.join()

    def _run(self) -> None:
        held: set[Path] = set()  # changed, with one that cannot be compiled
        while (first := self._events.get()) is not None:
            changed = self._collect(first)
            if changed is None:
                return
            # One that was written with what it had before is no change: a program that
            # makes code for itself when it starts would be started for ever.
            fresh = {path for path in changed if self._is_fresh(path)}
            if not fresh:
                continue
            held |= fresh
            if self._can_be_compiled(held):
                files, held = sorted(held), set()
                self._tell(files)

    def _collect(self, first: Path) -> set[Path] | None:
        """The files of one change, ``first`` among them; None: it is over."""
        paths = {first}
        end = time.monotonic() + _AT_MOST
        while (left := end - time.monotonic()) > 0:
            try:
                path = self._events.get(timeout=min(left, _QUIET))
            except queue.Empty:
                break
            if path is None:
                return None
            paths.add(path)
        return paths

    def _is_fresh(self, path: Path) -> bool:
        contents = _contents(path)
        is_known = path in self._contents and self._contents[path] == contents
        self._contents[path] = contents
        return not is_known

    def _can_be_compiled(self, paths: Iterable[Path]) -> bool:
        is_good = True
        for path in sorted(paths):
            source = self._contents[path]
            try:
                # It is not run.
                compile(source or b"", path, "exec", dont_inherit=True)
            except (SyntaxError, ValueError, RecursionError) as error:
                lines = "".join(traceback.format_exception_only(error)).rstrip()
                log.error("%s is not loaded until it is mended:\n%s", path, lines)
                is_good = False
        return is_good

    def _tell(self, files: Sequence[Path]) -> None:
        others = f" and {len(files) - 1} more" if len(files) > 1 else ""
        log.info("%s has changed%s", files[0], others)
        try:
            self._on_change(files)
        except Exception:
            log.exception("the code that has changed is not loaded")


class _Listener:
    """What watchdog calls, in a thread of its own, for each event of one folder."""

    def __init__(self, folder: Folder, put: Callable[[Path], None]) -> None:
        self._folder = folder
        self._put = put

    def dispatch(self, event: Any) -> None:
        for path in (
            event.src_path,
            event.dest_path,
        ):  # the latter of a renaming, or ""
            if path and self._folder.is_code(Path(os.fsdecode(path))):
                self._put(Path(os.fsdecode(path)))


def _watch_for(parent: int, working: Path, channel: socket.socket) -> None:
    """Be the process that watches, until ``channel`` is closed by all others."""
    # A terminal sends these to all processes that it has.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # watchdog 7.1 warns of a directory that it finds twice as it is made, and compile()
    # of what the worker will be warned of.
    warnings.simplefilter("ignore")
    # The supervisor may not listen to signals yet; when there is a worker, it does.
    has_worker = threading.Event()

    def tell(_files: Sequence[Path]) -> None:
        has_worker.wait()
        if os.getppid() == parent:
            os.kill(parent, signal.SIGHUP)

    watcher = Watcher([Folder(working.resolve(), is_whole=True)], tell)
    try:
        watcher.start()
    except ReloadError as error:
        channel.send(str(error).encode())
        return
    channel.send(_READY.encode())
    while message := channel.recv(_MESSAGE_BYTES):
        for path, is_whole in json.loads(message):
            try:
                watcher.add(Folder(Path(path), is_whole))
            except ReloadError as error:
                log.error("%s", error)
        has_worker.set()


def _watchdog(module: str) -> Any:
    try:
        return importlib.import_module(f"watchdog.{module}")
    except ModuleNotFoundError:
        raise ReloadError(
            "reload needs the package watchdog, which is not installed:"
            " pip install 'fastbatch[reload]'"
        ) from None


def _is_installed(path: Path) -> bool:
    standard = (sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))
    return not _IGNORED.isdisjoint(path.parts) or any(
        path.is_relative_to(Path(folder).resolve()) for folder in standard
    )


def _folder_of(name: str, path: Path) -> Folder:
    """What to watch for the module ``name`` in the file ``path``."""
    packages = name.split(".")
    if path.stem != "__init__":
        packages.pop()
    folder = Folder(path.parent, is_whole=False)
    above = path.parent
    # As far up as the directories have the names of the packages.
    for package in reversed(packages):
        if above.name != package:
            break
        folder = Folder(above, is_whole=True)
        above = above.parent
    return folder


def _without_repetition(folders: Iterable[Folder]) -> list[Folder]:
    kept: list[Folder] = []
    for folder in sorted(set(folders), key=lambda each: (each.path, not each.is_whole)):
        if folder.path.is_dir() and not any(other.has(folder) for other in kept):
            kept.append(folder)
    return kept


def _why(error: OSError) -> str:
    return error.strerror or str(error)


def _contents(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:  # it is gone, or nobody may read it
        return None
