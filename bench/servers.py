"""Start a server that is to be measured, ask it for its counters, end it."""

import http.client
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from bench.errors import BenchError
from bench.floor import build_floor
from bench.machine import pinned

SERVE = Path(__file__).with_name("serve.py")
START_SECONDS = 20.0
STOP_SECONDS = 10.0

Stats: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Subject:
    """A server to measure: what it is called and how it is started."""

    name: str
    command: tuple[str, ...]
    batch_size: int | None = None
    """The cap it was given; None is a server without batches, which has no counters."""


def floor_subject() -> Subject:
    return Subject("floor", (str(build_floor()),))


def fastbatch_subject(
    name: str, python: str, app: str = "hello", batch_size: int = 256
) -> Subject:
    command = (python, str(SERVE), app, "--batch-size", str(batch_size))
    return Subject(name, command, batch_size)


def ask_about(python: str) -> dict[str, Any]:
    """What ``python`` would serve with: see serve.py --about."""
    try:
        said = subprocess.run(
            [python, str(SERVE), "--about"],
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
        )
    except OSError as error:
        raise BenchError(f"{python} does not run: {error.strerror}") from None
    if said.returncode != 0:
        last_line = said.stderr.strip().rpartition("\n")[2]
        raise BenchError(
            f"{python} cannot import fastbatch ({last_line}): "
            f"run `{python} -m pip install .` in the checkout, "
            "or name another interpreter with --python"
        )
    about: dict[str, Any] = json.loads(said.stdout)
    return about


def describe_python(about: dict[str, Any]) -> str:
    """A short name for a column: "CPython 3.13.0", with what is unusual about it."""
    name = f"{about['implementation']} {about['python']}"
    if about["free_threaded"]:
        name += " with the GIL on" if about["gil"] else " free-threaded"
    return name


class Server:
    """A running server: its process and the lines that it prints."""

    def __init__(self, subject: Subject, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self.subject = subject
        self.pid = process.pid
        self.port = 0
        self._process = process
        self._output = process.stdout.fileno()
        self._unread = b""

    def wait_until_serving(self, seconds: float) -> None:
        """Until it has answered a request; from then on it also has counters."""
        self.port = self.read_line(seconds)["port"]
        peer = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            peer.request("GET", "/")
            reply = peer.getresponse()
            reply.read()
        except (OSError, http.client.HTTPException) as error:
            raise BenchError(f"{self.subject.name} does not answer: {error}") from None
        finally:
            peer.close()
        if reply.status != http.HTTPStatus.OK:
            raise BenchError(f"{self.subject.name} answers {reply.status}, not 200")

    def stats(self) -> Stats | None:
        """The counters so far, or None if this server has none."""
        if self.subject.batch_size is None:
            return None
        self._process.send_signal(signal.SIGUSR1)
        return self.read_line(START_SECONDS)

    def read_line(self, seconds: float) -> dict[str, Any]:
        """The next line of JSON on its standard output."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._unread:
            left = max(deadline - time.monotonic(), 0)
            ready, _, _ = select.select([self._output], [], [], left)
            data = os.read(self._output, 65536) if ready else b""
            if not data:
                what = "ended" if ready else f"said nothing for {seconds:g} s"
                raise BenchError(f"{self.subject.name} {what}; see its messages above")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self, seconds: float) -> None:
        """SIGTERM; SIGKILL for one that does not end. Only ever this one process."""
        self._process.terminate()
        try:
            self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise BenchError(
                f"{self.subject.name} did not end within {seconds:g} s of SIGTERM"
            ) from None


@contextmanager
def running(
    subject: Subject, core: int, wrapper: Sequence[str] = (), patience: float = 1
) -> Iterator[Server]:
    """Start ``subject`` on ``core``, wait until it answers, end it afterwards.

    ``wrapper`` is a command that runs it, such as valgrind; ``patience`` times as long
    as usual is waited for its start and its end.
    """
    with pinned(core):
        process = subprocess.Popen([*wrapper, *subject.command], stdout=subprocess.PIPE)
    server = Server(subject, process)
    try:
        server.wait_until_serving(START_SECONDS * patience)
        yield server
    except BaseException:
        process.kill()
        process.communicate()
        raise
    server.end(STOP_SECONDS * patience)
