"""The examples, as a reader would run them: EXAMPLES=1 .ci/test python3 THIS-FILE."""

import contextlib
import importlib
import json
import math
import operator
import os
import re
import shlex
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Serve
from helpers import parse_replies, talk, wait_until

# Last, so that ``import fastbatch`` still finds the one that is installed.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from examples.measure import Address, drive, get, post, serving

if "EXAMPLES" not in os.environ:
    pytest.importorskip("onnxruntime", reason="the group examples is not installed")
    pytest.importorskip("sklearn", reason="the group examples is not installed")

ROOT = Path(__file__).resolve().parent.parent
NAMES = ["digits", "onnx", "lookup"]


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def address(name: str) -> Iterator[Address]:
    """Where the example listens, in a process of its own."""
    with serving(name) as address:
        yield address


def load(name: str) -> Any:
    return importlib.import_module(f"examples.{name}.load")


def app(name: str) -> Any:
    return importlib.import_module(f"examples.{name}.app")


# ---- as its README says -----------------------------------------------------------


def console(name: str) -> list[tuple[str, str]]:
    """The commands of a README, and what it says that they print."""
    text = ROOT.joinpath("examples", name, "README.md").read_text()
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    lines = "".join(blocks)
    return re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", lines, re.MULTILINE)


def test_the_readme_runs_it_with_the_command_that_is_tested(name: str) -> None:
    assert console(name)[0] == (f"fastbatch examples.{name}.app:router", "")


def test_it_answers_the_commands_of_the_readme(name: str, address: Address) -> None:
    commands = [pair for pair in console(name) if "curl" in pair[0]]
    assert commands
    for command, printed in commands:
        host, port = address
        command = command.replace("127.0.0.1:8000", f"{host}:{port}")
        command = command.replace("python ", f"{shlex.quote(sys.executable)} ", 1)
        done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True)
        same_answer(done.stdout.decode(), printed)


def same_answer(printed: str, expected: str) -> None:
    """Equal; of numbers, the largest is at the same place."""
    if "." not in expected:
        assert printed.rstrip() == expected.rstrip()
    else:
        numbers, right = (
            list(map(float, text.split())) for text in (printed, expected)
        )
        assert len(numbers) == len(right)
        assert numbers.index(max(numbers)) == right.index(max(right))


# ---- right answers ----------------------------------------------------------------


def test_many_at_once_get_right_answers(name: str, address: Address) -> None:
    for path in load(name).PATHS.values():
        drive(address, load(name).questions(path), connections=64, at_least=1000)


def test_it_is_healthy(address: Address) -> None:
    [reply] = parse_replies(talk(address, get("/health"), replies=1))
    assert (reply.status, reply.body) == (200, b"ok")


# ---- what is bad fails alone ------------------------------------------------------


@pytest.fixture(autouse=True)
def database(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One connection to SQLite for all threads, closed at the end.

    Those that the example has end with their threads, of which Python 3.13 warns.
    """
    sqlite = importlib.import_module("examples.lookup.sqlite")
    connection = sqlite3.connect(sqlite.FILE, check_same_thread=False)
    with contextlib.closing(connection):
        monkeypatch.setattr(sqlite, "_connection", lambda: connection)
        yield


NANS = struct.pack("<64f", *[math.nan] * 64)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[object]]:
    """A function that counts the calls of what it names: one item for each."""

    def count(what: str) -> list[object]:
        module, _, path = what.partition(":")
        call = operator.attrgetter(path)(importlib.import_module(module))
        found: list[object] = []

        def counted(*arguments: Any, **named: Any) -> Any:
            found.append(arguments)
            return call(*arguments, **named)

        monkeypatch.setattr(f"{module}.{path}", counted)
        return found

    return count


@pytest.mark.parametrize(
    ("name", "path", "work", "bad", "status"),
    [
        ("digits", "/predict", "model.predict", post("/predict", b"short"), 400),
        ("digits", "/predict", "model.predict", post("/predict", NANS), 400),
        ("onnx", "/predict", "session.run", post("/predict", bytes(257)), 400),
        ("lookup", "/user", "find", get("/user?id=seven"), 400),
        ("lookup", "/user", "find", get("/user"), 400),
        ("lookup", "/user", "find", get("/user?id=999999999"), 404),
    ],
)
def test_what_is_bad_fails_alone_in_its_batch(
    serve: Serve,
    calls: Callable[[str], list[object]],
    name: str,
    path: str,
    work: str,
    bad: bytes,
    status: int,
) -> None:
    server = serve(app(name).router)  # what is sent in one piece is one batch
    first, second, *_ = load(name).questions(path)
    counted = calls(f"examples.{name}.app:{work}")
    data = talk(server, first.request + bad + second.request, replies=3)
    replies = parse_replies(data)
    assert [reply.status for reply in replies] == [200, status, 200]
    assert [first.answer, second.answer] == [replies[0].body, replies[2].body]
    assert len(counted) == 1


@pytest.mark.parametrize(
    "bad", [b"{", b"null", b"7", b"[1, 2]", b'["a"]', b"[NaN" + b",0" * 63 + b"]"]
)
def test_what_is_no_image_in_json_fails_alone(serve: Serve, bad: bytes) -> None:
    server = serve(app("digits").router)
    question, *_ = load("digits").questions("/predict-json")
    image = json.dumps(struct.unpack("<64f", question.request[-256:])).encode()
    data = b"".join(post("/predict-json", body) for body in (image, bad, image))
    replies = parse_replies(talk(server, data, replies=3))
    assert [reply.status for reply in replies] == [200, 400, 200]
    assert [replies[0].body, replies[2].body] == [question.answer] * 2


@pytest.mark.parametrize("name", NAMES)
def test_what_is_bad_fails_without_batching_too(serve: Serve, name: str) -> None:
    server = serve(app(name).router)
    bad = get("/user-one?id=0x") if name == "lookup" else post("/predict-one", b"!")
    [reply] = parse_replies(talk(server, bad, replies=1))
    assert reply.status == 400


# ---- the lookup in PostgreSQL -----------------------------------------------------


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """A PostgreSQL of our own, in a new directory; its URL."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    assert installed, "please install postgresql: the lookup is tested with it"
    # It does not run as root, and the directories of pytest are for its user alone.
    user = "postgres" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        if user is not None:
            shutil.chown(directory, user)
        data = Path(directory, "data")
        make = [
            installed[-1] / "initdb",
            "--no-sync",
            "--auth=trust",
            "--username=test",
        ]
        subprocess.run([*make, data], user=user, cwd=directory, check=True)
        command = [
            installed[-1] / "postgres",
            "-F",
            "-D",
            data,
            "-k",
            directory,
            "-h",
            "",
        ]
        with subprocess.Popen(command, user=user, cwd=directory) as server:
            try:
                ask = [installed[-1] / "pg_isready", "--quiet", "--host", directory]
                wait_until(lambda: subprocess.run(ask).returncode == 0, "its start")
                yield f"postgresql://test@/postgres?host={directory}"
            finally:
                server.send_signal(signal.SIGINT)  # without waiting for its clients


def test_postgresql_finds_the_same_users(
    postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKUP_DATABASE_URL", postgresql)
    command = [sys.executable, "-m", "examples.lookup.postgres"]
    subprocess.run(command, cwd=ROOT, check=True)
    with serving("lookup") as address:
        for path in load("lookup").PATHS.values():
            questions = load("lookup").questions(path)
            drive(address, questions, connections=64, at_least=1000)
