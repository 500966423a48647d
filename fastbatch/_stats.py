"""What is counted: added up, made into figures, and told as lines of the log.

The counters themselves are C's; ``_core.read_stats`` has them as a dict. Here each
queue among them gets its name, and those of several loops become those of one.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from fastbatch._core import QUEUE_BOUNDS_US
from fastbatch._say import say

log = logging.getLogger("fastbatch.stats")

Stats = dict[str, Any]

# What a loop has now, rather than what it has had: nothing, once it is gone.
_GAUGES = ("open_connections", "slots_in_use", "waiting")

_QUEUE_BOUNDS = [0.0, *(bound / 1e6 for bound in QUEUE_BOUNDS_US)]

# What is told of all together, and of each queue, in this order.
_TOLD = (
    "connections",
    "open_connections",
    "slots_in_use",
    "requests",
    "batches",
    "rejected",
    "overloaded",
    "timed_out",
)
_TOLD_OF_QUEUES = (
    "requests",
    "batches",
    "batch_size_mean",
    "batch_size_p50",
    "batch_size_p99",
    "queue_p50",
    "queue_p99",
    "handler_seconds_per_batch",
    "handler_seconds_per_request",
    "waiting",
    "expired",
    "refused",
)


def named(stats: Stats, names: Sequence[str]) -> Stats:
    """The counters of a loop, with the names of its queues."""
    queues = zip(names, stats["queues"], strict=True)
    return stats | {"queues": [{"name": name} | queue for name, queue in queues]}


def add_up(each: Iterable[Stats]) -> Stats:
    """The counters of several loops as those of one; queues go by their names."""
    total: Stats = {}
    for stats in each:
        for name, value in stats.items():
            total[name] = (
                _together(name, total[name], value) if name in total else value
            )
    return total


def of_the_past(stats: Stats) -> Stats:
    """The counters of a loop that is gone."""
    gone = stats | {name: 0 for name in _GAUGES if name in stats}
    if "queues" in stats:
        gone["queues"] = [of_the_past(queue) for queue in stats["queues"]]
    return gone


def with_figures(stats: Stats) -> Stats:
    """The same and what follows from it, also for each queue and each worker."""
    parts = {
        name: [with_figures(part) for part in stats[name]]
        for name in ("queues", "workers")
        if name in stats
    }
    return stats | figures(stats) | parts


def figures(counts: Mapping[str, Any]) -> dict[str, float]:
    """What the counters of a queue, or of all, say; of nothing, all is 0."""
    sizes, times = counts["batch_sizes"], counts["queue_times"]
    n_batches, n_requests = max(counts["batches"], 1), max(counts["requests"], 1)
    n_handed_over = sum(size * n for size, n in enumerate(sizes))
    seconds = counts["handler_ns"] / 1e9
    return {
        "batch_size_mean": n_handed_over / max(sum(sizes), 1),
        "batch_size_p50": _size_at(sizes, 0.50),
        "batch_size_p99": _size_at(sizes, 0.99),
        "queue_p50": _time_at(times, 0.50),
        "queue_p99": _time_at(times, 0.99),
        "handler_seconds_per_batch": seconds / n_batches,
        "handler_seconds_per_request": seconds / n_requests,
    }


def tell(stats: Stats, n_workers: int) -> None:
    """Log what ``with_figures`` has: a line of all together and one of each queue."""
    head = {"pid": os.getpid(), "workers": n_workers}
    _say(head | {name: stats[name] for name in _TOLD})
    for queue in stats["queues"]:
        found = {name: queue[name] for name in _TOLD_OF_QUEUES}
        _say({"pid": os.getpid(), "queue": queue["name"]} | found)


# ---- adding up --------------------------------------------------------------------


def _together(name: str, a: Any, b: Any) -> Any:
    if name == "name":
        return a
    if name == "beat_ms":
        return max(a, b)
    if name == "queues":
        return _queues_together(a, b)
    if isinstance(a, dict):
        return add_up([a, b])
    if isinstance(a, list):
        return [x + y for x, y in zip(a, b, strict=True)]
    return a + b


def _queues_together(a: list[Stats], b: list[Stats]) -> list[Stats]:
    # A worker with newer code may have others.
    found: dict[str, Stats] = {}
    for queue in (*a, *b):
        name = queue["name"]
        found[name] = add_up([found.get(name, {}), queue])
    return list(found.values())


# ---- figures ----------------------------------------------------------------------


def _size_at(sizes: Sequence[int], share: float) -> int:
    """The least size that such a share of all batches do not exceed."""
    below = list(accumulate(sizes))
    return next(n for n, count in enumerate(below) if count >= share * below[-1])


def _time_at(times: Sequence[int], share: float) -> float:
    """The seconds that such a share of all requests do not exceed.

    Within a bucket they are taken to be spread evenly. Of those beyond the last bound
    nothing is known but that.
    """
    rank = share * sum(times)
    below = 0
    for (low, high), count in zip(pairwise(_QUEUE_BOUNDS), times, strict=False):
        if count and below + count >= rank:
            return low + (high - low) * (rank - below) / count
        below += count
    return _QUEUE_BOUNDS[-1] if below < rank else 0.0


# ---- lines ------------------------------------------------------------------------


def _say(pairs: Mapping[str, object]) -> None:
    say(" ".join(f"{key}={_text(key, value)}" for key, value in pairs.items()), log=log)


def _text(key: str, value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}" if key == "batch_size_mean" else f"{value:.7f}"
    return json.dumps(value)
