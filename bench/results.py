"""What is measured of a server, and how it is summarised over the rounds."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.figures import BatchSizes, Spread, pairwise_ratios, spread
from bench.machine import CpuTime
from bench.servers import Subject
from bench.wrk import Load, WrkResult

# What the rest of the machine may use before a reader is warned: the kernel's own
# threads and the runner stay below.
OTHERS_PERCENT = 10


@dataclass(frozen=True)
class Sample:
    """One server under one load in one round. A figure that it cannot give is None."""

    load: Load
    wrk: WrkResult
    cpu: CpuTime
    others_seconds: float
    """What other processes used of the server's core and of wrk's."""
    batches: BatchSizes | None = None
    allocations: int | None = None
    """Blocks that the server's C code took from the allocator meanwhile."""
    wrk_seconds: float = 0.0
    """What wrk used."""
    memory: int | None = None
    """What the server holds afterwards, in bytes."""

    @property
    def rate(self) -> float:
        return self.wrk.requests / self.wrk.seconds

    @property
    def cpu_us(self) -> float | None:
        return self._per_request(self.cpu.total)

    @property
    def user_us(self) -> float | None:
        return self._per_request(self.cpu.user)

    def _per_request(self, seconds: float) -> float | None:
        return seconds * 1e6 / self.wrk.requests if self.wrk.requests else None

    @property
    def busy(self) -> float:
        """Percent of the server's core. Well below 100, wrk was the slower one."""
        return 100 * self.cpu.total / self.wrk.seconds

    @property
    def wrk_busy(self) -> float:
        """Percent of one core. Next to 100, the server had to wait for wrk."""
        return 100 * self.wrk_seconds / self.wrk.seconds

    @property
    def memory_mib(self) -> float | None:
        return None if self.memory is None else self.memory / 2**20

    @property
    def others(self) -> float:
        """Percent of one core: what was lost to anything but server and wrk."""
        return 100 * self.others_seconds / self.wrk.seconds

    @property
    def round_trip_ms(self) -> float | None:
        """From one write of a connection to its next, on average (Little's law)."""
        requests_at_once = self.load.connections * self.load.pipeline
        return 1e3 * requests_at_once / self.rate if self.rate else None

    @property
    def p50_ms(self) -> float | None:
        return self._latency("p50")

    @property
    def p99_ms(self) -> float | None:
        return self._latency("p99")

    @property
    def p999_ms(self) -> float | None:
        return self._latency("p99.9")

    def _latency(self, percentile: str) -> float | None:
        """A percentile of wrk's, in ms; of no use as soon as requests are pipelined.

        wrk adds what a stalled connection would have sent meanwhile (it corrects for
        "coordinated omission") and takes the time between two replies for the usual
        pause. With 16 replies to a write that is a sixteenth of the truth.
        """
        pipelined = self.load.pipeline > 1
        return None if pipelined else self.wrk.latency[percentile] / 1e3

    @property
    def batch_mean(self) -> float | None:
        return self.batches.mean if self.batches else None

    @property
    def batch_p50(self) -> float | None:
        return self.batches.p50 if self.batches else None

    @property
    def batch_max(self) -> float | None:
        return self.batches.max if self.batches else None

    @property
    def batch_full(self) -> float | None:
        return 100 * self.batches.full if self.batches else None

    @property
    def errors(self) -> int:
        return sum(self.wrk.errors.values())


@dataclass(frozen=True, slots=True)
class Metric:
    """A property of Sample, and how it is shown."""

    key: str
    title: str
    digits: int = 0
    compared: bool = False
    """Whether the ratio to another server says something."""


METRICS = {
    metric.key: metric
    for metric in (
        Metric("rate", "requests/s", compared=True),
        Metric("cpu_us", "server CPU per request, us", 2, compared=True),
        Metric("user_us", "  outside the kernel, us", 2, compared=True),
        Metric("busy", "server's core busy, %"),
        Metric("wrk_busy", "wrk's core busy, %"),
        Metric("others", "lost to other processes, %"),
        Metric("round_trip_ms", "mean round trip, ms", 3),
        Metric("p50_ms", "latency p50, ms", 3, compared=True),
        Metric("p99_ms", "latency p99, ms", 3, compared=True),
        Metric("p999_ms", "latency p99.9, ms", 3, compared=True),
        Metric("batch_mean", "batch size, mean", 1),
        Metric("batch_p50", "batch size, p50"),
        Metric("batch_max", "batch size, largest"),
        Metric("batch_full", "batches that were full, %"),
        Metric("allocations", "allocations in C"),
        Metric("memory_mib", "memory, MiB", 1, compared=True),
        Metric("errors", "errors"),
    )
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One server under one load, to be measured once in each round."""

    subject: Subject
    load: Load


@dataclass(frozen=True)
class Result:
    """A cell and its samples, one for each round."""

    cell: Cell
    samples: list[Sample] = dataclasses.field(default_factory=list)

    def values(self, metric: Metric) -> list[float]:
        found = (getattr(sample, metric.key) for sample in self.samples)
        return [value for value in found if value is not None]

    def spread(self, metric: Metric) -> Spread | None:
        values = self.values(metric)
        return spread(values) if values else None

    def ratio(self, metric: Metric, base: "Result") -> Spread | None:
        """The ratio to ``base``, taken round by round."""
        values, bases = self.values(metric), base.values(metric)
        if not metric.compared or len(values) != len(bases):
            return None
        ratios = pairwise_ratios(values, bases)
        return spread(ratios) if ratios else None


def pair_with_base(results: Sequence[Result]) -> list[tuple[Result, Result]]:
    """Each result with what it is compared with: the first one under the same load."""
    bases: dict[Load, Result] = {}
    return [(r, bases.setdefault(r.cell.load, r)) for r in results]


def result_to_json(result: Result, base: Result) -> dict[str, Any]:
    """Everything that is known of a cell."""
    return {
        "server": result.cell.subject.name,
        "connections": result.cell.load.connections,
        "pipeline": result.cell.load.pipeline,
        "batch_size": result.cell.subject.batch_size,
        "metrics": {
            metric.key: metric_to_json(metric, result, base)
            for metric in METRICS.values()
            if result.values(metric)
        },
        "samples": [dataclasses.asdict(sample) for sample in result.samples],
    }


def metric_to_json(metric: Metric, result: Result, base: Result) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if value := result.spread(metric):
        found = dataclasses.asdict(value)
    if result is not base and (ratio := result.ratio(metric, base)):
        found["ratio"] = dataclasses.asdict(ratio)
    return found
