"""Measure servers under loads, in interleaved rounds."""

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

from bench.errors import BenchError
from bench.figures import batch_sizes, subtract
from bench.machine import (
    Cores,
    CpuTime,
    busy_seconds,
    children_seconds,
    cpu_time,
    memory_bytes,
)
from bench.results import Cell, Result, Sample
from bench.servers import Server, Stats, Subject, running
from bench.wrk import Load, WrkResult, run_wrk

# What wrk leaves behind is the server's work too: connections to close, and as many
# requests as a slow application has waiting. The clock is read when all that is done:
# in a tenth of a second the server then takes hardly any time.
SETTLE_SECONDS = 0.1
IDLE_SHARE = 0.1
SETTLE_TRIES = 50

# Starting and ending a server, for the estimate alone.
START_STOP_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Settings:
    """What all measurements of a run have in common."""

    rounds: int
    seconds: int
    warmup: int
    cores: Cores

    def expected_seconds(self, n_cells: int) -> float:
        """How long ``measure_cells`` takes, for a person who waits."""
        overhead = 2 * SETTLE_SECONDS + START_STOP_SECONDS
        return n_cells * self.rounds * (self.seconds + self.warmup + overhead)


@dataclass(frozen=True, slots=True)
class Reading:
    """All counters at one moment, in seconds: what lies between two is measured."""

    pids: list[int]
    """The server's processes: ``cpu`` is of all of them."""
    cpu: CpuTime
    busy: float
    children: float
    stats: Stats | None
    memory: int = 0
    """In bytes."""

    @classmethod
    def take(cls, server: Server, cores: Cores) -> Self:
        stats = server.stats()
        pids = server.pids()
        cpu = cpu_time(*pids)
        busy = busy_seconds(cores)
        memory = memory_bytes(*pids)
        return cls(pids, cpu, busy, children_seconds(), stats, memory)


# Called with a server that cannot be measured, and why.
OnFailure: TypeAlias = Callable[[Subject, BenchError], None]


def measure_cells(
    subjects: Sequence[Subject],
    loads: Sequence[Load],
    settings: Settings,
    on_failure: OnFailure | None = None,
) -> list[Result]:
    """Every server under every load once, then all once more: each time a new process.

    What is compared is measured right after each other. A disturbance of some seconds
    then hits neighbours alike and not one server, and the luck that a process has with
    its addresses shows in the spread.

    Raises:
        BenchError: a server failed and there is no ``on_failure``. With it, that server
            has no samples under that load, and the others are measured.
    """

    def sample(result: Result) -> None:
        with running(result.cell.subject, settings.cores.of_server) as server:
            result.samples.append(measure(server, result.cell.load, settings))

    results = [Result(Cell(subject, load)) for load in loads for subject in subjects]
    in_rounds(results, settings.rounds, sample, on_failure)
    return results


def in_rounds(
    results: Sequence[Result],
    rounds: int,
    sample: Callable[[Result], None],
    on_failure: OnFailure | None = None,
) -> None:
    """What ``measure_cells`` does, ``sample`` being what is done with each in turn."""
    failed = []
    for n in range(rounds):
        for result in results:
            subject = result.cell.subject
            if result in failed:
                continue
            progress(f"round {n + 1} of {rounds}: {subject.name}", result.cell)
            try:
                sample(result)
            except BenchError as error:
                if on_failure is None:
                    raise
                on_failure(subject, error)
                failed.append(result)
    for result in failed:
        result.samples.clear()


def measure(server: Server, load: Load, settings: Settings) -> Sample:
    """Warm ``server`` up with the same load, then measure."""
    cores = settings.cores
    if settings.warmup:
        run_wrk(server.port, load, settings.warmup, cores.of_wrk)
        settle(server)
    before = Reading.take(server, cores)
    result = run_wrk(server.port, load, settings.seconds, cores.of_wrk)
    settle(server)
    after = Reading.take(server, cores)
    if before.pids != after.pids:
        raise BenchError(
            f"{server.subject.name} started or lost a process under load "
            f"({before.pids}, then {after.pids}): its CPU time is not known"
        )
    return make_sample(server.subject, load, result, before, after)


def settle(server: Server) -> None:
    """Wait until ``server`` is idle, or, if it never is, for some seconds."""
    used = cpu_time(*server.pids()).total
    for _ in range(SETTLE_TRIES):
        time.sleep(SETTLE_SECONDS)
        before, used = used, cpu_time(*server.pids()).total
        if used - before < SETTLE_SECONDS * IDLE_SHARE:
            break


def make_sample(
    subject: Subject, load: Load, result: WrkResult, before: Reading, after: Reading
) -> Sample:
    cpu = after.cpu - before.cpu
    wrk_cpu = after.children - before.children
    others = max(after.busy - before.busy - cpu.total - wrk_cpu, 0)
    sample = Sample(load, result, cpu, others, wrk_seconds=wrk_cpu, memory=after.memory)
    if before.stats is None or after.stats is None or subject.batch_size is None:
        return sample
    counts = subtract(after.stats["batch_sizes"], before.stats["batch_sizes"])
    allocations = after.stats["allocations"] - before.stats["allocations"]
    batches = batch_sizes(counts, subject.batch_size)
    return dataclasses.replace(sample, batches=batches, allocations=allocations)


def progress(what: str, cell: Cell) -> None:
    if sys.stderr.isatty():
        text = f"{what}, {cell.load}"
        print(f"{text:<87}", end="\r", file=sys.stderr, flush=True)
