"""Start a server that is to be measured, ask it for its counters, end it."""

import contextlib
import http.client
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from bench.errors import BenchError
from bench.floor import build_floor
from bench.machine import group_members, pinned
from bench.serving import WSGI_APPS
from bench.wrk import Post

SERVE = Path(__file__).with_name("serve.py")
START_SECONDS = 20.0
STOP_SECONDS = 10.0

# Between two looks whether a server listens.
POLL_SECONDS = 0.02

Stats: TypeAlias = dict[str, Any]
About: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Subject:
    """A server to measure: what it is called and how it is started."""

    name: str
    command: tuple[str, ...]
    batch_size: int | None = None
    """The cap it was given; None is a server without batches, which has no counters."""
    post: Post | None = None
    """What it answers with 200; None is GET /."""


def floor_subject() -> Subject:
    return Subject("floor", (str(build_floor()),))


def fastbatch_subject(
    name: str,
    python: str,
    app: str = "hello",
    batch_size: int = 256,
    access_log: str | None = None,
    threads: int | None = None,
    batch_wait: float | None = None,
) -> Subject:
    """A server on one thread, and as many handler threads as asked for."""
    command = [python, str(SERVE), app, "--batch-size", str(batch_size)]
    if access_log is not None:
        command += ["--access-log", access_log]
    if threads is not None:
        command += ["--threads", str(threads)]
    if batch_wait is not None:
        command += ["--batch-wait", str(batch_wait)]
    if app in WSGI_APPS:
        command += ["--interface", "wsgi"]
    return Subject(name, tuple(command), batch_size)


def workers_subject(
    name: str, python: str, app: str, workers: int, processes: bool
) -> Subject:
    """What ``fastbatch.run()`` starts; it says nothing of its counters."""
    command = [python, str(SERVE), app, "--workers", str(workers)]
    command += ["--processes", "yes" if processes else "no"]
    if app in WSGI_APPS:
        command += ["--interface", "wsgi"]
    return Subject(name, tuple(command))


def ask_about(python: str) -> About:
    """What ``python`` would serve fastbatch with: see serve.py --about."""
    try:
        return run_about(python, str(SERVE))
    except ImportError as error:
        raise BenchError(
            f"{python} cannot import fastbatch ({error}): "
            f"run `{python} -m pip install .` in the checkout, "
            "or name another interpreter with --python"
        ) from None


def run_about(python: str, *script: str) -> About:
    """What a script that serves says with --about.

    Raises:
        ImportError: its server cannot be imported; with the last line of what was said.
    """
    try:
        said = subprocess.run(
            [python, *script, "--about"],
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
        )
    except OSError as error:
        raise BenchError(f"{python} does not run: {error.strerror}") from None
    if said.returncode != 0:
        raise ImportError(said.stderr.strip().rpartition("\n")[2])
    about: About = json.loads(said.stdout)
    return about


def describe_python(about: About) -> str:
    """A short name for a column: "CPython 3.13.0", with what is unusual about it."""
    name = f"{about['implementation']} {about['python']}"
    if about["free_threaded"]:
        name += " with the GIL on" if about["gil"] else " free-threaded"
    return name


def ask(
    peer: http.client.HTTPConnection, post: Post | None, body: bytes | None = None
) -> None:
    """Send the request that this kind of server answers, or another body."""
    if post is None:
        peer.request("GET", "/")
    else:
        headers = {"Content-Type": post.content_type}
        peer.request("POST", post.path, body or post.body.read_bytes(), headers)


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
        deadline = time.monotonic() + seconds
        self.port = self.read_line(seconds)["port"]
        peer = http.client.HTTPConnection("127.0.0.1", self.port, timeout=seconds)
        try:
            self._connect(peer, deadline)
            ask(peer, self.subject.post)
            reply = peer.getresponse()
            reply.read()
        except (OSError, http.client.HTTPException) as error:
            raise BenchError(f"{self.subject.name} does not answer: {error}") from None
        finally:
            peer.close()
        if reply.status != http.HTTPStatus.OK:
            raise BenchError(f"{self.subject.name} answers {reply.status}, not 200")

    def _connect(self, peer: http.client.HTTPConnection, deadline: float) -> None:
        """A server may name its port before one of its processes listens on it."""
        while True:
            try:
                return peer.connect()
            except ConnectionRefusedError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(POLL_SECONDS)

    def pids(self) -> list[int]:
        """Its processes: some peers serve in children."""
        return group_members(self.pid)

    def stats(self) -> Stats | None:
        """The counters so far, or None if this server has none."""
        if self.subject.batch_size is None:
            return None
        self._process.send_signal(signal.SIGUSR2)
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
        """SIGTERM, upon which it ends its children; SIGKILL to all that do not end."""
        self._process.terminate()
        try:
            # Until nobody has its standard output any more: its children have it too.
            self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise BenchError(
                f"{self.subject.name} did not end within {seconds:g} s of SIGTERM"
            ) from None

    def kill(self) -> None:
        """End it and what it started: its group, and only ever that."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.communicate()


@contextmanager
def running(
    subject: Subject,
    cores: int | Collection[int],
    wrapper: Sequence[str] = (),
    patience: float = 1,
) -> Iterator[Server]:
    """Start ``subject`` on ``cores``, wait until it answers, end it afterwards.

    It leads a process group of its own, in which all its children are: they inherit
    the cores, count as it, and end with it. ``wrapper`` is a command that runs it, such
    as valgrind; ``patience`` times as long as usual is waited for its start and end.
    """
    with pinned(cores):
        process = subprocess.Popen(
            [*wrapper, *subject.command], stdout=subprocess.PIPE, process_group=0
        )
    server = Server(subject, process)
    try:
        server.wait_until_serving(START_SECONDS * patience)
        yield server
    except BaseException:
        server.kill()
        raise
    server.end(STOP_SECONDS * patience)
