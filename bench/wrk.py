"""Run wrk for some seconds and read what load.lua says at the end."""

import json
import shutil
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.machine import pinned

SCRIPT = Path(__file__).with_name("load.lua")

# wrk stops within 0.1 s of its time, then waits for nothing; the rest is patience.
GRACE_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Post:
    """A request with a body, where others are GET /."""

    path: str
    body: Path
    """The file that has it."""
    content_type: str


@dataclass(frozen=True, slots=True)
class Load:
    """How many connections, and how many requests each sends in one write."""

    connections: int
    pipeline: int = 1
    slow_every: int = 0
    """If not 0, each n-th request is for /slow, and Lua runs for every one."""
    post: Post | None = None

    def __str__(self) -> str:
        return f"c={self.connections}, {self.pipeline} per write"


@dataclass(frozen=True, slots=True)
class WrkResult:
    """What wrk counted. Latencies are in microseconds."""

    requests: int
    seconds: float
    bytes: int
    errors: dict[str, int]
    latency: dict[str, int]


def parse_wrk(output: str) -> WrkResult:
    """Read the line of JSON that load.lua prints after wrk's own report.

    Raises:
        BenchError: there is no such line; the message has what there is instead.
    """
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            return result_from_json(json.loads(line))
    raise BenchError(f"wrk gave no result:\n{output.strip()}")


def result_from_json(found: dict[str, Any]) -> WrkResult:
    return WrkResult(
        requests=found["requests"],
        seconds=found["duration"] / 1e6,
        bytes=found["bytes"],
        errors=found["errors"],
        latency=found["latency"],
    )


def find_wrk() -> str:
    path = shutil.which("wrk")
    if path is None:
        raise BenchError("wrk makes the load and is missing: apt-get install wrk")
    return path


def wrk_version() -> str:
    """The first line of ``wrk --version``, without the copyright."""
    said = subprocess.run([find_wrk(), "--version"], capture_output=True, text=True)
    return said.stdout.split(" [")[0].strip()


def wrk_command(port: int, load: Load, seconds: int) -> list[str]:
    path = load.post.path if load.post else "/"
    body = [str(load.post.body), load.post.content_type] if load.post else []
    return [
        find_wrk(),
        "--threads=1",
        f"--connections={load.connections}",
        f"--duration={seconds}s",
        f"--script={SCRIPT}",
        f"http://127.0.0.1:{port}{path}",
        "--",
        str(load.pipeline),
        str(load.slow_every),
        *body,
    ]


def run_wrk(
    port: int, load: Load, seconds: int, cores: int | Collection[int]
) -> WrkResult:
    with pinned(cores):
        # Popen kills what it started when the time is over or on Ctrl-C.
        done = subprocess.run(
            wrk_command(port, load, seconds),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds + GRACE_SECONDS,
        )
    if done.returncode != 0:
        raise BenchError(f"wrk failed ({done.returncode}):\n{done.stdout.strip()}")
    return parse_wrk(done.stdout)
