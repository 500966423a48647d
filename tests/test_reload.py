"""What is watched for --reload, when a change is told of, and what becomes of it."""

import importlib
import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import counting
import helpers
import pytest
from conftest import Start

import fastbatch
from fastbatch import _reload
from fastbatch._reload import (
    Folder,
    ReloadError,
    Watcher,
    folders_of,
)

# Of watchdog 7.1; _reload ignores it, in a process of its own.
pytestmark = pytest.mark.filterwarnings("ignore:Callback with id:RuntimeWarning")

GOOD = "answer = 1\n"
BROKEN = "answer = (\n"


class Told:
    """The changes that were told of, by the names of their files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._changes: queue.SimpleQueue[list[str]] = queue.SimpleQueue()

    def put(self, files: Sequence[Path]) -> None:
        self._changes.put([str(file.relative_to(self._folder)) for file in files])

    def next(self) -> list[str]:
        return self._changes.get(timeout=helpers.TIMEOUT)

    def is_over(self) -> bool:
        return self._changes.empty()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with an application and what need not be watched."""
    names = ["app.py", "pack/views.py", ".venv/hidden.py", "pack/__pycache__/views.py"]
    names += ["venv/lib/site-packages/installed.py", "notes.txt", "pack/.#views.py"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(GOOD)
    return tmp_path.resolve()


@pytest.fixture
def watch(folder: Path) -> Iterator[Callable[..., Told]]:
    """A function that watches directories, unless others are given ``folder``."""
    pytest.importorskip("watchdog")
    watchers = []

    def start(*folders: Folder) -> Told:
        told = Told(folder)
        watchers.append(Watcher(folders or [Folder(folder, True)], told.put))
        watchers[-1].start()
        return told

    yield start
    for watcher in watchers:
        watcher.stop()


def edit(path: Path, source: str) -> None:
    """Write a file in one step, as good editors do: it is never half of it."""
    whole = path.with_name("edited")
    whole.write_text(source)
    whole.rename(path)


# ---- changes ----------------------------------------------------------------------


def test_file_that_is_edited(folder: Path, watch: Callable[..., Told]) -> None:
    told = watch()
    with (folder / "app.py").open("a") as file:
        file.write("more = 2\n")
    assert told.next() == ["app.py"]
    edit(folder / "pack" / "views.py", "answer = 3\n")
    assert told.next() == ["pack/views.py"]
    assert told.is_over()


def test_file_that_is_made_renamed_and_removed(
    folder: Path, watch: Callable[..., Told]
) -> None:
    told = watch()
    edit(folder / "new.py", GOOD)
    assert told.next() == ["new.py"]
    (folder / "new.py").rename(folder / "newer.py")
    assert told.next() == ["new.py", "newer.py"]
    (folder / "newer.py").unlink()
    assert told.next() == ["newer.py"]


def test_file_that_an_editor_replaces(folder: Path, watch: Callable[..., Told]) -> None:
    """A new file is renamed over the old one, and the old one kept as another."""
    told = watch()
    edit(folder / "app.py.new", "answer = 2\n")
    (folder / "app.py").rename(folder / "app.py~")
    (folder / "app.py.new").rename(folder / "app.py")
    assert told.next() == ["app.py"]
    assert told.is_over()


def test_file_in_a_directory_that_is_new(
    folder: Path, watch: Callable[..., Told]
) -> None:
    told = watch()
    (folder / "more" / "deep").mkdir(parents=True)
    edit(folder / "more" / "deep" / "views.py", GOOD)
    assert told.next() == ["more/deep/views.py"]
    edit(folder / "more" / "deep" / "views.py", "answer = 2\n")
    assert told.next() == ["more/deep/views.py"]


def test_what_is_written_at_once_is_one_change(
    folder: Path, watch: Callable[..., Told], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "fastbatch")
    told = watch()
    for number in range(20):
        (folder / f"{number:02}.py").write_text(GOOD)
    told_of = told.next()
    while len(told_of) < 20:  # on a machine that is very slow
        told_of += told.next()
    assert told_of == [f"{number:02}.py" for number in range(20)]
    assert caplog.messages[0].startswith(f"{folder / '00.py'} has changed and ")


def test_what_is_no_code_of_the_application(
    folder: Path, watch: Callable[..., Told]
) -> None:
    told = watch()
    edit(folder / "notes.txt", "changed")
    edit(folder / ".venv" / "hidden.py", "changed")
    (folder / "pack" / ".#views.py").write_text("changed")
    edit(folder / "pack" / "__pycache__" / "views.py", "changed")
    edit(folder / "venv/lib/site-packages/installed.py", "changed")
    (folder / "app.py").read_text()
    (folder / "app.py").touch()
    edit(folder / "pack" / "views.py", "answer = 2\n")
    assert told.next() == ["pack/views.py"]
    assert told.is_over()


def test_only_the_directory_itself(folder: Path, watch: Callable[..., Told]) -> None:
    told = watch(Folder(folder, is_whole=False))
    edit(folder / "pack" / "views.py", "answer = 2\n")
    edit(folder / "app.py", "answer = 2\n")
    assert told.next() == ["app.py"]


def test_a_program_that_makes_code_for_itself_is_not_started_for_ever(
    folder: Path, watch: Callable[..., Told]
) -> None:
    told = watch()
    edit(folder / "made.py", GOOD)
    assert told.next() == ["made.py"]
    edit(folder / "made.py", GOOD)  # by the program that was started for that
    edit(folder / "app.py", "answer = 2\n")
    assert told.next() == ["app.py"]


# ---- code that is no code ---------------------------------------------------------


def test_code_that_cannot_be_compiled_is_told_of_when_it_is_mended(
    folder: Path, watch: Callable[..., Told], caplog: pytest.LogCaptureFixture
) -> None:
    told = watch()
    edit(folder / "app.py", BROKEN)
    helpers.wait_until(lambda: "SyntaxError" in caplog.text)
    message = caplog.messages[-1]
    assert message.startswith(f"{folder / 'app.py'} is not loaded until it is mended:")
    assert "line 1" in message
    edit(folder / "pack" / "views.py", "answer = 2\n")
    helpers.wait_until(lambda: len(caplog.messages) > 1)
    assert told.is_over()
    edit(folder / "app.py", "answer = 2\n")
    assert told.next() == ["app.py", "pack/views.py"]


@pytest.mark.parametrize(
    "source", [b"\0", b"\xff", b"return", b"# coding: none\n", b"a = " + b"(" * 1000]
)
def test_everything_that_cannot_be_compiled(
    folder: Path,
    watch: Callable[..., Told],
    caplog: pytest.LogCaptureFixture,
    source: bytes,
) -> None:
    told = watch()
    (folder / "app.py").write_bytes(source)
    helpers.wait_until(lambda: "is not loaded" in caplog.text)
    (folder / "app.py").unlink()
    assert told.next() == ["app.py"]


def test_code_is_not_run(folder: Path, watch: Callable[..., Told]) -> None:
    told = watch()
    edit(folder / "app.py", "open('ran', 'w')\nraise SystemExit\n")
    assert told.next() == ["app.py"]
    assert not (folder / "ran").exists()


# ---- the life of a watcher --------------------------------------------------------


def test_a_failure_of_what_is_called_does_not_end_it(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("watchdog")
    told = Told(folder)

    def fail(files: Sequence[Path]) -> None:
        told.put(files)
        raise ValueError("of the callback")

    watcher = Watcher([Folder(folder, True)], fail)
    watcher.start()
    for number in range(2):
        edit(folder / "app.py", f"answer = {number}\n")
        assert told.next() == ["app.py"]
    watcher.stop()
    assert caplog.text.count("ValueError: of the callback") == 2


def test_it_leaves_nothing_behind(folder: Path) -> None:
    pytest.importorskip("watchdog")
    Watcher([Folder(folder, True)], print).stop()  # not started
    files, threads = helpers.open_files(), threading.active_count()
    for _ in range(3):
        watcher = Watcher([Folder(folder, True), Folder(folder / "pack", True)], print)
        watcher.start()
        watcher.stop()
    helpers.wait_until(lambda: threading.active_count() == threads)
    assert helpers.open_files() == files


def test_what_is_called_may_stop_it(folder: Path) -> None:
    pytest.importorskip("watchdog")
    is_over = threading.Event()

    def stop(_files: Sequence[Path]) -> None:
        watcher.stop()
        is_over.set()

    watcher = Watcher([Folder(folder, True)], stop)
    watcher.start()
    edit(folder / "app.py", "answer = 2\n")
    assert is_over.wait(helpers.TIMEOUT)


def test_directory_that_cannot_be_watched(folder: Path) -> None:
    pytest.importorskip("watchdog")
    files = helpers.open_files()
    with pytest.raises(ReloadError) as caught:
        Watcher([Folder(folder / "none", True)], print).start()
    assert str(caught.value) == (
        f"reload cannot watch {folder / 'none'}: No such file or directory"
    )
    assert helpers.open_files() == files


def test_watchdog_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "watchdog.observers", None)
    with pytest.raises(ReloadError) as caught:
        Watcher([], print).start()
    assert str(caught.value) == (
        "reload needs the package watchdog, which is not installed:"
        " pip install 'fastbatch[reload]'"
    )


# ---- the process that watches ----------------------------------------------------

# Says SIGHUP when that comes, and ends when it is told to.
SUPERVISOR = """
import logging, os, signal, sys
from pathlib import Path
from fastbatch._reload import ReloadProcess

logging.basicConfig(level="INFO", format="%(message)s")
process = ReloadProcess(Path.cwd())
process.start()
signal.signal(signal.SIGHUP, lambda *_: print("SIGHUP", flush=True))
print("ready", flush=True)
while line := sys.stdin.readline():
    if line == "report\\n":
        sys.path.insert(0, sys.argv[1])
        import shared
        if os.fork() == 0:  # a worker
            process.report(sys.modules)
            print("reported", flush=True)
            os._exit(0)
        os.wait()
"""


@pytest.fixture
def supervisor(
    folder: Path, elsewhere: Path
) -> Iterator[tuple[Callable[[str], None], Callable[[], str]]]:
    """Functions to tell it a word, and to read a line of its."""
    pytest.importorskip("watchdog")
    (elsewhere / "shared.py").write_text(GOOD)
    with subprocess.Popen(
        [sys.executable, "-P", "-c", SUPERVISOR, elsewhere],
        cwd=folder,
        env=helpers.clean_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
    ) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None
        assert stdout.readline() == "ready\n"
        yield lambda word: print(word, file=stdin), lambda: stdout.readline().strip()
        stdin.close()
        # The end of the file: no process is left that could write to it.
        assert stdout.read() == ""


def test_it_is_sent_sighup(
    folder: Path,
    elsewhere: Path,
    supervisor: tuple[Callable[[str], None], Callable[[], str]],
) -> None:
    tell, read = supervisor
    edit(folder / "app.py", "answer = 2\n")
    assert read() == f"{folder / 'app.py'} has changed"
    tell("report")  # no signal before that
    assert sorted([read(), read()]) == ["SIGHUP", "reported"]
    for path in (folder / "app.py", elsewhere / "shared.py"):
        edit(path, "answer = 3\n")
        assert [read(), read()] == [f"{path} has changed", "SIGHUP"]
    tell("report")
    assert read() == "reported"
    edit(elsewhere / "shared.py", "answer = 4\n")
    assert [read(), read()] == [f"{elsewhere / 'shared.py'} has changed", "SIGHUP"]


def test_it_ends_with_its_supervisor(
    supervisor: tuple[Callable[[str], None], Callable[[], str]],
) -> None:
    """Which the fixture sees: here it has had nothing to do."""


# ---- the option -------------------------------------------------------------------


@pytest.fixture
def serve(start: Start, folder: Path) -> Callable[..., helpers.Program]:
    """A function that starts the command line, which reloads ``handler`` of app.py."""
    pytest.importorskip("watchdog")
    edit(folder / "app.py", answering("first"))

    def start_it(*options: str, env: dict[str, str] | None = None) -> helpers.Program:
        arguments = ["app:handler", "--port=0", "--reload", *options]
        return start("-m", "fastbatch", *arguments, env=env)

    return start_it


def answering(word: str) -> str:
    return f"def handler(request):\n    return {word!r}\n"


def answer(program: helpers.Program) -> str:
    with helpers.Connection(program.address()) as connection:
        return connection.ask("/", "Connection: close").body.decode()


def wait_for_answer(program: helpers.Program, word: str) -> None:
    helpers.wait_until(lambda: answer(program) == word, f"the answer {word}")


def end(program: helpers.Program) -> None:
    program.signal(signal.SIGTERM)
    assert program.wait() == 0  # and stderr is closed by then: all processes are gone


@pytest.mark.parametrize("processes", ["true", "false"])
def test_reply_changes_with_the_file(
    serve: Callable[..., helpers.Program], folder: Path, processes: str
) -> None:
    program = serve("--workers=2", f"--processes={processes}")
    assert answer(program) == "first"
    for number in range(3):  # within a second: bytecode would not tell these apart
        edit(folder / "app.py", answering(f"no. {number}"))
        wait_for_answer(program, f"no. {number}")
        program.wait_for(f"(?s)({folder}/app.py has changed.*){{{number + 1}}}")
    end(program)


def test_no_connection_is_refused_meanwhile(
    serve: Callable[..., helpers.Program], folder: Path
) -> None:
    edit(folder / "app.py", counting.HANDLER)
    program = serve("--workers=2")
    with counting.Clients(program.address(), folder / "handled") as clients:
        for number in range(1, 4):
            clients.go_on()
            edit(folder / "app.py", counting.HANDLER + "#" * number)
            clients.go_on_until(
                lambda: program.errors.count("are replaced") >= number,  # noqa: B023
                "the replacement",
            )
    clients.count.check()
    end(program)


def test_code_that_fails_leaves_the_old_one_serving(
    serve: Callable[..., helpers.Program], folder: Path
) -> None:
    program = serve()
    assert answer(program) == "first"
    edit(folder / "app.py", "def handler(:")
    program.wait_for("app.py is not loaded until it is mended:\n.*line 1")
    assert "SIGHUP" not in program.errors
    assert answer(program) == "first"
    edit(folder / "app.py", "no_such_name")
    program.wait_for("NameError: name 'no_such_name' is not defined")
    program.wait_for("the old workers are kept")
    assert answer(program) == "first"
    edit(folder / "app.py", answering("mended"))
    wait_for_answer(program, "mended")
    # Once for each edit that could be compiled: nothing is tried again and again.
    assert program.errors.count("SIGHUP: replacing") == 2
    end(program)


def test_module_from_elsewhere(
    serve: Callable[..., helpers.Program], folder: Path, elsewhere: Path
) -> None:
    edit(elsewhere / "shared.py", answering("first"))
    edit(folder / "app.py", f"import sys\nsys.path.append({str(elsewhere)!r})\n")
    with (folder / "app.py").open("a") as file:
        file.write("from shared import handler\n")
    program = serve()
    assert answer(program) == "first"
    edit(elsewhere / "shared.py", answering("second"))
    wait_for_answer(program, "second")
    end(program)


def test_all_end_when_the_supervisor_is_killed(
    serve: Callable[..., helpers.Program],
) -> None:
    program = serve()
    assert answer(program) == "first"
    program.kill()
    assert program.wait() == -signal.SIGKILL


def test_it_works_without_stdin_and_stdout(start: Start, folder: Path) -> None:
    pytest.importorskip("watchdog")
    edit(folder / "app.py", answering("first"))
    command = [sys.executable, "-m", "fastbatch", "app:handler", "--port=0", "--reload"]
    starting = f"os.closerange(0, 2); os.execv({command[0]!r}, {command!r})"
    program = start("-c", f"import os; {starting}")
    assert answer(program) == "first"
    edit(folder / "app.py", answering("second"))
    wait_for_answer(program, "second")
    end(program)


def test_command_line_without_watchdog(
    start: Start, folder: Path, tmp_path: Path
) -> None:
    edit(folder / "app.py", answering("first"))
    missing = "raise ModuleNotFoundError(name='watchdog')\n"
    (tmp_path / "watchdog.py").write_text(missing)
    program = start("-m", "fastbatch", "app:handler", "--port=0", "--reload")
    assert program.wait() == 1
    assert program.errors == (
        "python -m fastbatch: reload needs the package watchdog, which is not"
        " installed: pip install 'fastbatch[reload]'\n"
    )


def test_handler_that_is_given_cannot_be_reloaded() -> None:
    server = fastbatch.Server(lambda _: None, port=0, reload=True)
    for begin in (
        server.start,
        server.run,
        lambda: fastbatch.run(lambda _: None, port=0, reload=True),
    ):
        with pytest.raises(ValueError, match=r"^reload=True needs the command line"):
            begin()


@pytest.mark.parametrize("last", [False, True])
def test_switch_alone_is_on(start: Start, *, last: bool) -> None:
    arguments = ["--proxy-protocol", "app:handler"]
    arguments = arguments[::-1] if last else arguments
    program = start("-m", "fastbatch", *arguments)
    assert program.wait() == 2
    assert "proxy_protocol needs forwarded_allow_ips" in program.errors


# ---- which directories ------------------------------------------------------------


def modules_of(**files: Path | None) -> dict[str, ModuleType]:
    """Modules of these names, from these files; two underscores are a dot."""
    modules = {}
    for name, file in files.items():
        module = ModuleType(name.replace("__", "."))
        module.__file__ = None if file is None else str(file)
        modules[module.__name__] = module
    return modules


@pytest.fixture
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elsewhere").resolve()


def test_the_working_directory_is_watched(folder: Path) -> None:
    assert folders_of({}, folder) == [Folder(folder, True)]
    modules = modules_of(app=folder / "app.py", pack__views=folder / "pack/views.py")
    assert folders_of(modules, folder) == [Folder(folder, True)]


def test_modules_from_elsewhere(folder: Path, elsewhere: Path) -> None:
    (elsewhere / "lib" / "pack" / "sub").mkdir(parents=True)
    inside = elsewhere / "lib" / "pack" / "sub"
    modules = modules_of(
        pack=inside.parent / "__init__.py",
        pack__sub__views=inside / "views.py",
        tool=elsewhere / "tool.py",
    )
    assert set(folders_of(modules, folder)) == {
        Folder(folder, True),
        Folder(inside.parent, True),
        Folder(elsewhere, False),
    }


def test_directory_with_another_name_than_its_package(
    folder: Path, elsewhere: Path
) -> None:
    modules = modules_of(a__b__c=elsewhere / "c.py")
    assert Folder(elsewhere, False) in folders_of(modules, folder)


def test_a_whole_directory_stands_for_those_in_it(elsewhere: Path) -> None:
    (elsewhere / "app").mkdir()
    modules = modules_of(a=elsewhere / "a.py", b=elsewhere / "app" / "b.py")
    assert folders_of(modules, elsewhere) == [Folder(elsewhere, True)]
    assert folders_of(modules, elsewhere / "app") == [
        Folder(elsewhere, False),
        Folder(elsewhere / "app", True),
    ]


def test_links_are_followed(folder: Path, elsewhere: Path) -> None:
    (elsewhere / "shared.py").write_text(GOOD)
    (folder / "shared.py").symlink_to(elsewhere / "shared.py")
    modules = modules_of(shared=folder / "shared.py")
    assert Folder(elsewhere, False) in folders_of(modules, folder)


def test_what_is_no_application(folder: Path, elsewhere: Path) -> None:
    (elsewhere / "site-packages").mkdir()
    modules = modules_of(
        installed=elsewhere / "site-packages" / "installed.py",
        json=Path(json.__file__),
        extension=elsewhere / "extension.so",
        namespace=None,
        zipped=elsewhere / "some.zip" / "zipped.py",
        fastbatch___reload=Path(_reload.__file__),
    )
    modules["fastbatch._reload"] = _reload
    modules["importlib"] = importlib
    assert folders_of(modules, folder) == [Folder(folder, True)]


def test_of_all_modules_of_this_process(folder: Path) -> None:
    ours = Path(__file__).resolve().parent
    paths = [found.path for found in folders_of(sys.modules, folder)]
    assert {folder, ours} <= set(paths)
    assert not any("site-packages" in path.parts for path in paths)


def test_importing_fastbatch_does_not_need_watchdog() -> None:
    program = "import sys, fastbatch; sys.exit('watchdog' in sys.modules)"
    command = [sys.executable, "-P", "-c", program]
    subprocess.run(command, env=helpers.clean_environment(), check=True)
