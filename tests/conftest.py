"""What the tests are given: servers in this process, and other processes."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import helpers
import pytest

import fastbatch


class Serve(Protocol):
    """Start a server of ``handler``: on a free port if ``bind`` is not given."""

    def __call__(
        self, handler: Callable[..., Any], **options: Any
    ) -> fastbatch.Server: ...


class Start(Protocol):
    """Start Python with these arguments, in ``tmp_path``."""

    def __call__(
        self, *arguments: str, env: dict[str, str] | None = None, **options: Any
    ) -> helpers.Program: ...


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A function that starts servers, which are stopped at the end."""
    with contextlib.ExitStack() as stack:

        def start(handler: Callable[..., Any], **options: Any) -> fastbatch.Server:
            options.setdefault("bind", "127.0.0.1:0")
            server = fastbatch.Server(handler, **options).start()
            stack.callback(server.stop, now=True)
            return server

        yield start


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A function that starts processes, which are killed at the end."""
    with contextlib.ExitStack() as stack:

        def start_python(
            *arguments: str, env: dict[str, str] | None = None, **options: Any
        ) -> helpers.Program:
            command = [helpers.PYTHON, *arguments]
            program = helpers.Program(command, tmp_path, env or {}, **options)
            stack.callback(program.kill)
            return program

        yield start_python


@pytest.fixture(autouse=True)
def no_options_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("FASTBATCH_"):
            monkeypatch.delenv(name)
