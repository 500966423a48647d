"""The metrics endpoint: the counters of all workers, as Prometheus reads them.

What is here reads counters and writes text. It waits for nobody and holds up nobody:
the counters are in memory that the workers write to whether or not somebody looks.
Names and format follow https://prometheus.io/docs/instrumenting/exposition_formats/ and
what prometheus_client writes: base units, ``_total`` for what only grows, cumulative
buckets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from fastbatch._config import Options
from fastbatch._core import LIMITS, QUEUE_BOUNDS_US, Request
from fastbatch._reply import HTTPError

PATH = "/metrics"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Stats = Mapping[str, Any]
"""The counters of one worker, as ``_core.read_stats`` has them; queues have names."""

_METHODS = ("GET", "HEAD")

# Few ask, and seldom; whoever else finds the door is not to fill the memory.
_MOST_CONNECTIONS = 64

_SIZE_BOUNDS = [2**n for n in range(LIMITS["batch_slots"].bit_length())]
_QUEUE_BOUNDS = [bound / 1e6 for bound in QUEUE_BOUNDS_US]

Samples = Iterable[tuple[str, dict[str, object], float]]
"""What follows the name of the metric, further labels, the value."""


@dataclass(frozen=True, slots=True)
class _Metric:
    name: str
    kind: str  # counter, gauge, histogram or summary
    description: str
    samples: Callable[[Stats], Samples]


def _one(key: str, unit: float = 1) -> Callable[[Stats], Samples]:
    """One number, ``unit`` of which are what the metric counts."""

    def samples(stats: Stats) -> Samples:
        yield "", {}, stats[key] if unit == 1 else stats[key] / unit

    return samples


def _of_queues(of_one: Callable[[Stats], Samples]) -> Callable[[Stats], Samples]:
    """What ``of_one`` makes of the counters of a queue, for each of them."""

    def samples(stats: Stats) -> Samples:
        for queue in stats["queues"]:
            for suffix, labels, value in of_one(queue):
                yield suffix, {"queue": queue["name"], **labels}, value

    return samples


def _replies(stats: Stats) -> Samples:
    for status, count in sorted(stats["replies"].items()):
        yield "", {"status": status}, count


def _batch_sizes(stats: Stats) -> Samples:
    """Sum and count are made of the same look at the counters as the buckets."""
    sizes = stats["batch_sizes"]
    below = list(accumulate(sizes))  # item n: batches of n requests or fewer
    for bound in _SIZE_BOUNDS:
        yield "_bucket", {"le": bound}, below[bound]
    yield "_bucket", {"le": "+Inf"}, below[-1]
    yield "_sum", {}, sum(size * count for size, count in enumerate(sizes))
    yield "_count", {}, below[-1]


def _queue_times(stats: Stats) -> Samples:
    below = list(accumulate(stats["queue_times"]))
    for bound, count in zip([*_QUEUE_BOUNDS, "+Inf"], below, strict=True):
        yield "_bucket", {"le": bound}, count
    yield "_sum", {}, stats["queue_ns"] / 1e9
    yield "_count", {}, below[-1]


def _handler_time(stats: Stats) -> Samples:
    yield "_sum", {}, stats["handler_ns"] / 1e9
    yield "_count", {}, stats["batches"]


_METRICS = (
    _Metric(
        "requests_total",
        "counter",
        "Requests that were answered, by the handler or by the server itself.",
        _replies,
    ),
    _Metric(
        "batch_size",
        "histogram",
        "Requests that were handed over together.",
        _of_queues(_batch_sizes),
    ),
    _Metric(
        "queue_seconds",
        "histogram",
        "How long requests waited from their arrival to their batch.",
        _of_queues(_queue_times),
    ),
    _Metric(
        "batch_seconds",
        "summary",
        "How long the handler took for a batch.",
        _of_queues(_handler_time),
    ),
    _Metric(
        "waiting_requests",
        "gauge",
        "Requests that wait for their batch now.",
        _of_queues(_one("waiting")),
    ),
    _Metric(
        "expired_total",
        "counter",
        "Requests that were refused because their deadline passed as they waited.",
        _of_queues(_one("expired")),
    ),
    _Metric(
        "refused_total",
        "counter",
        "Requests that were refused because their queue was full.",
        _of_queues(_one("refused")),
    ),
    _Metric(
        "slots_in_use",
        "gauge",
        "Requests that are collected or handled now.",
        _one("slots_in_use"),
    ),
    _Metric(
        "open_connections",
        "gauge",
        "Connections that are open now.",
        _one("open_connections"),
    ),
    _Metric(
        "connections_total",
        "counter",
        "Connections that were accepted.",
        _one("connections"),
    ),
    _Metric(
        "received_bytes_total",
        "counter",
        "Bytes that clients have sent.",
        _one("bytes_received"),
    ),
    _Metric(
        "sent_bytes_total",
        "counter",
        "Bytes that clients were sent.",
        _one("bytes_sent"),
    ),
    _Metric(
        "timeouts_total",
        "counter",
        "Connections that a time-out has ended.",
        _one("timed_out"),
    ),
    _Metric(
        "rejected_total",
        "counter",
        "Requests that were refused unheard, and connections without a PROXY header.",
        _one("rejected"),
    ),
    _Metric(
        "overloaded_total",
        "counter",
        "Requests that were refused because they had waited for too long.",
        _one("overloaded"),
    ),
    _Metric(
        "spooled_bodies_total",
        "counter",
        "Request bodies that went to temporary files.",
        _one("spooled"),
    ),
    _Metric(
        "dropped_fields_total",
        "counter",
        "Header fields that were dropped for an underscore in their names.",
        _one("fields_dropped"),
    ),
    _Metric(
        "dropped_log_lines_total",
        "counter",
        "Lines of the access log that were lost.",
        _one("log_lines_dropped"),
    ),
)


def render(each: Sequence[Stats]) -> str:
    """The exposition of the counters of ``each`` worker; item n is worker n."""
    lines = []
    for metric in _METRICS:
        name = f"fastbatch_{metric.name}"
        lines.append(f"# HELP {name} {metric.description}")
        lines.append(f"# TYPE {name} {metric.kind}")
        for number, stats in enumerate(each):
            for suffix, labels, value in metric.samples(stats):
                pairs = {"worker": number, **labels}
                text = ",".join(f'{k}="{_escaped(v)}"' for k, v in pairs.items())
                lines.append(f"{name}{suffix}{{{text}}} {value!r}")
    return "\n".join(lines) + "\n"


def _escaped(label: object) -> str:
    text = str(label).replace("\\", "\\\\")
    return text.replace('"', '\\"').replace("\n", "\\n")


def handler_of(read: Callable[[], str]) -> Callable[[Request], Any]:
    """What answers at the endpoint, GET and HEAD of ``/metrics``, what ``read`` gives.

    It is called in a thread of the endpoint, once at a time.
    """

    def answer(request: Request) -> Any:
        if request.path != PATH:
            raise HTTPError(404, f"there is only {PATH}")
        if request.method not in _METHODS:
            return 405, {"Allow": ", ".join(_METHODS)}, "only GET and HEAD are allowed"
        return 200, {"Content-Type": CONTENT_TYPE}, read()

    return answer


def options_of(options: Options) -> Options:
    """The options of the endpoint of a server with ``options``."""
    return replace(
        Options(),
        bind=(options.metrics,),
        unix_mode=options.unix_mode,
        server_header=options.server_header,
        interface="request",
        batch_size=1,
        max_connections=_MOST_CONNECTIONS,
        max_body=0,
    )
