"""Statistics of a few numbers: spreads over rounds, and the sizes of batches."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """The median over the rounds, with the lowest and the highest."""

    median: float
    low: float
    high: float


def spread(values: Iterable[float]) -> Spread:
    found = list(values)
    return Spread(statistics.median(found), min(found), max(found))


def pairwise_ratios(values: Sequence[float], bases: Sequence[float]) -> list[float]:
    """Each round's value over the same round's base.

    Rounds are paired because what disturbs a machine disturbs neighbours in time alike.
    Rounds whose base is zero say nothing and are left out.
    """
    return [v / b for v, b in zip(values, bases, strict=True) if b]


@dataclass(frozen=True, slots=True)
class BatchSizes:
    """What the batches of one measurement were like, counted per batch."""

    mean: float
    p50: int
    max: int
    full: float
    """The share of batches that were as large as batch_size allows: 1.0 is all."""


def batch_sizes(counts: Sequence[int], cap: int) -> BatchSizes | None:
    """Summarise a list whose item n is the number of batches of n requests."""
    n_batches = sum(counts)
    if n_batches == 0:
        return None
    n_requests = sum(size * count for size, count in enumerate(counts))
    return BatchSizes(
        mean=n_requests / n_batches,
        p50=median_size(counts, n_batches),
        max=max(size for size, count in enumerate(counts) if count),
        full=counts[cap] / n_batches,
    )


def median_size(counts: Sequence[int], n_batches: int) -> int:
    seen = 0
    for size, count in enumerate(counts):
        seen += count
        if seen * 2 >= n_batches:
            return size
    raise ValueError("counts do not add up to n_batches")


def subtract(after: Sequence[int], before: Sequence[int]) -> list[int]:
    return [a - b for a, b in zip(after, before, strict=True)]
