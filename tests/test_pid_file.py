"""The pid file: whose it is, and what becomes of one that another process left."""

import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import helpers
import pytest
from conftest import Start

import fastbatch
from fastbatch._pid_file import PidFile, PidFileError

OURS = f"{os.getpid()}\n"

is_root = os.geteuid() == 0
as_nobody = pytest.mark.skipif(not is_root, reason="only root may become somebody else")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "server.pid"


@pytest.fixture
def another() -> Iterator[int]:
    """The number of a process that runs."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as process:
        yield process.pid
        process.communicate()


@pytest.fixture
def nobody() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def refusal(path: Path) -> str:
    """What is said when the file at ``path`` cannot be had; it stays as it is."""
    before = path.lstat() if os.path.lexists(path) else None
    neighbours = sorted(os.listdir(path.parent)) if path.parent.is_dir() else []
    with pytest.raises(PidFileError) as caught:
        PidFile(str(path)).write()
    if before is not None:
        assert os.path.samestat(before, path.lstat())
    if path.parent.is_dir():
        assert sorted(os.listdir(path.parent)) == neighbours
    beginning = f"pid_file={str(path)!r} cannot be written: "
    sentence = str(caught.value)
    assert sentence.startswith(beginning)
    return sentence.removeprefix(beginning)


def test_it_has_our_number_until_it_is_removed(path: Path) -> None:
    file = PidFile(str(path))
    file.write()
    assert path.read_text() == OURS
    assert os.listdir(path.parent) == [path.name]
    file.remove()
    assert os.listdir(path.parent) == []
    file.remove()


def test_everybody_may_read_it(path: Path) -> None:
    PidFile(str(path)).write()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_another_working_directory_changes_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    file = PidFile(path.name)
    monkeypatch.chdir("/")
    file.write()
    assert path.read_text() == OURS


def test_one_that_a_killed_server_left_is_replaced(path: Path, nobody: int) -> None:
    path.write_text(f"{nobody}\n")
    PidFile(str(path)).write()
    assert path.read_text() == OURS


@pytest.mark.parametrize("text", ["", "\n", OURS, "999999999\n"])
def test_one_that_is_nobodys_is_replaced(path: Path, text: str) -> None:
    path.write_text(text)
    PidFile(str(path)).write()
    assert path.read_text() == OURS


def test_a_reader_never_sees_half_of_it(path: Path, nobody: int) -> None:
    """The old file is not touched: who has opened it can go on reading it."""
    path.write_text(f"{nobody}\n")
    with path.open() as old:
        PidFile(str(path)).write()
        assert old.read() == f"{nobody}\n"


def test_one_of_a_process_that_runs_is_left_alone(path: Path, another: int) -> None:
    path.write_text(f"{another}\n")
    assert refusal(path) == (
        f"it is that of process {another}, which is running; stop that one or choose"
        " another path"
    )


def test_a_process_of_somebody_else_runs_too(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(_pid: int, _number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    path.write_text("1\n")
    assert refusal(path).startswith("it is that of process 1, which is running;")


@pytest.mark.parametrize("text", ["import app\n", "-1\n", "0\n", "12 13\n", "1" * 10])
def test_what_is_no_pid_file_is_left_alone(path: Path, text: str) -> None:
    path.write_text(text)
    assert refusal(path) == (
        "what is there is no pid file; remove it or choose another path"
    )


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_left_alone(path: Path, make: object) -> None:
    assert callable(make)
    make(path)
    assert refusal(path).startswith("what is there is no pid file;")


def test_link_stays_a_link(path: Path) -> None:
    target = path.with_name("target")
    path.symlink_to(target)
    file = PidFile(str(path))
    file.write()
    assert target.read_text() == OURS
    assert path.is_symlink()
    file.remove()
    assert not target.exists()


def test_there_is_no_such_directory(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none" / "pid") == (
        f"there is no directory {tmp_path / 'none'}"
    )
    (tmp_path / "file").touch()
    assert refusal(tmp_path / "file" / "pid") == (
        f"{tmp_path / 'file'} is not a directory"
    )


AS_NOBODY = """
import os, sys
from fastbatch._pid_file import PidFile, PidFileError
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    PidFile(sys.argv[1]).write()
except PidFileError as error:
    print(error.why)
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A file to be, in a directory that everybody can reach; tmp_path is our own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "server.pid"


def why_not_nobody(path: Path) -> str:
    """Why a user with no rights cannot write the file."""
    return subprocess.check_output(
        [sys.executable, "-P", "-c", AS_NOBODY, path],
        env=helpers.clean_environment(),
        text=True,
    ).strip()


@as_nobody
def test_directory_that_is_not_ours(public: Path) -> None:
    assert why_not_nobody(public) == f"this user may not make files in {public.parent}"


@as_nobody
def test_stale_file_that_is_not_ours(public: Path, nobody: int) -> None:
    public.parent.chmod(0o1777)
    public.write_text(f"{nobody}\n")
    public.chmod(0o600)
    assert why_not_nobody(public) == "this user may not read the file that is there"
    public.chmod(0o644)
    public.parent.chmod(0o1777)
    assert why_not_nobody(public) == "this user may not replace the file that is there"
    assert public.read_text() == f"{nobody}\n"
    assert os.listdir(public.parent) == [public.name]


def test_one_that_is_another_ones_by_now_is_not_removed(path: Path) -> None:
    file = PidFile(str(path))
    file.write()
    path.write_text("1\n")
    file.remove()
    assert path.read_text() == "1\n"


def test_one_that_is_gone_is_not_missed(path: Path) -> None:
    file = PidFile(str(path))
    file.write()
    path.unlink()
    file.remove()


def test_one_that_was_not_written_is_not_removed(path: Path) -> None:
    path.write_text(OURS)
    PidFile(str(path)).remove()
    assert path.exists()


FORKING = """
import os, sys
from fastbatch._pid_file import PidFile
file = PidFile(sys.argv[1])
file.write()
child = os.fork()
file.remove() if child == 0 else os.waitpid(child, 0)
sys.exit(not os.path.exists(sys.argv[1]))
"""


def test_a_child_does_not_remove_it(path: Path) -> None:
    command = [sys.executable, "-P", "-c", FORKING, path]
    subprocess.run(command, env=helpers.clean_environment(), check=True)


def test_file_system_without_hard_links(
    path: Path, monkeypatch: pytest.MonkeyPatch, another: int
) -> None:
    def refuse(_self: Path, _target: Path) -> None:
        raise PermissionError(1, "not here")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    PidFile(str(path)).write()
    assert path.read_text() == OURS
    path.write_text(f"{another}\n")
    assert str(another) in refusal(path)


def test_lock_of_another_program_is_waited_for_no_longer_than_that(
    path: Path, nobody: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr("fastbatch._pid_file._ATTEMPTS", 3)
    path.write_text(f"{nobody}\n")
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert refusal(path) == "others lock it or write it all the time"


# ---- the option -------------------------------------------------------------------

APP = """
def hello(request):
    return "hello"
def end(request):
    raise SystemExit(3)
"""

FORMS = ([], ["--processes=true"], ["--workers=2", "--processes=false"])


@pytest.fixture
def serve(start: Start, tmp_path: Path) -> Callable[..., helpers.Program]:
    """A function that starts the command line with a pid file."""
    (tmp_path / "app.py").write_text(APP)

    def start_it(*options: str, handler: str = "hello") -> helpers.Program:
        arguments = ["--port=0", "--pid-file=server.pid", *options]
        return start("-m", "fastbatch", f"app:{handler}", *arguments)

    return start_it


@pytest.mark.parametrize("form", FORMS)
def test_it_is_there_from_when_clients_can_connect_until_the_end(
    serve: Callable[..., helpers.Program], path: Path, form: list[str]
) -> None:
    program = serve(*form)
    helpers.wait_until(path.exists)
    assert int(path.read_text()) == program.pid
    with helpers.Connection(program.address()) as connection:
        assert connection.ask().body == b"hello"
    program.signal(signal.SIGTERM)
    assert program.wait() == 0
    assert not path.exists()


@pytest.mark.parametrize("form", FORMS)
def test_server_does_not_start_while_another_has_the_file(
    serve: Callable[..., helpers.Program], path: Path, form: list[str]
) -> None:
    first = serve()
    first.address()
    second = serve(*form)
    assert second.wait() == 1
    assert second.errors.splitlines()[-1] == (
        f"python -m fastbatch: cannot serve: pid_file={str(path)!r} cannot be written:"
        f" it is that of process {first.pid}, which is running; stop that one or choose"
        " another path"
    )
    assert "listening" not in second.errors
    assert int(path.read_text()) == first.pid


@pytest.mark.parametrize("form", FORMS)
def test_one_of_a_server_that_was_killed_is_replaced(
    serve: Callable[..., helpers.Program], path: Path, form: list[str]
) -> None:
    first = serve(*form)
    first.address()
    first.kill()
    assert int(path.read_text()) == first.pid
    second = serve(*form)
    second.address()
    assert int(path.read_text()) == second.pid


def test_it_is_removed_when_a_handler_ends_the_server(
    serve: Callable[..., helpers.Program], path: Path
) -> None:
    program = serve(handler="end")
    with helpers.Connection(program.address()) as connection:
        connection.send(helpers.get())
        connection.rest()
    assert program.wait() == 3
    assert not path.exists()


def test_server_that_cannot_listen_leaves_it_alone(
    serve: Callable[..., helpers.Program], path: Path
) -> None:
    assert serve("--port=-1").wait() == 2
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert serve(f"--port={other.getsockname()[1]}").wait() == 1
    assert not path.exists()


@pytest.mark.parametrize("name", ["main", "another"])
def test_run_in_a_script_has_it(start: Start, path: Path, name: str) -> None:
    target = "serve()" if name == "main" else "threading.Thread(target=serve).start()"
    script = f"""
import pathlib, threading
import fastbatch
path = pathlib.Path("server.pid")
def serve():
    fastbatch.run(lambda _: path.read_text(), port=0, pid_file=path)
{target}
"""
    (path.parent / "script.py").write_text(script)
    program = start("script.py")
    with helpers.Connection(program.address()) as connection:
        assert int(connection.ask().body) == program.pid


@pytest.mark.parametrize(("value", "text"), [("a\0b", "null"), (1, "path"), (b"a", "")])
def test_what_is_no_path(value: object, text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^pid_file=.*{text}"):
        fastbatch.Options(pid_file=value)  # type: ignore[arg-type]


def test_none_is_written_by_default() -> None:
    assert fastbatch.Options().pid_file == ""
    assert fastbatch.Options(pid_file=Path("/a")).pid_file == "/a"
    with PidFile("") as file:
        file.write()


# ---- servers that start at once ---------------------------------------------------

COMPETITOR = """
import sys, time
from fastbatch._pid_file import PidFile, PidFileError
file = PidFile(sys.argv[1])
print("ready", flush=True)
input()
try:
    file.write()
    print("won", flush=True)
except PidFileError as error:
    print(error.why, flush=True)
input()
file.remove()
"""


def compete(path: Path, count: int) -> list[str]:
    """What ``count`` servers say that want the same file at the same time."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", COMPETITOR, path],
            env=helpers.clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(count)
    ]
    said = []
    for step in ("ready", None):
        for process in processes:
            assert process.stdin is not None
            assert process.stdout is not None
            if step is None:
                said.append(process.stdout.readline().strip())
            else:
                assert process.stdout.readline().strip() == step
        if step is not None:
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
    owner = int(path.read_text())
    for process in processes:
        process.communicate("\n")
        assert process.returncode == 0
    assert said[[process.pid for process in processes].index(owner)] == "won"
    return said


@pytest.mark.parametrize("before", ["nothing", "stale"])
def test_of_servers_that_start_at_once_one_gets_it(
    path: Path, nobody: int, before: str
) -> None:
    for _ in range(3):
        if before == "stale":
            path.write_text(f"{nobody}\n")
        said = compete(path, 4)
        assert said.count("won") == 1
        others = [why for why in said if why != "won"]
        assert all(re.match(r"it is that of process \d+, which", w) for w in others)
        assert os.listdir(path.parent) == []
