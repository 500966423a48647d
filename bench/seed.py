"""``python -m bench seed``: what batching gives, batch_size=1 being the control.

The table is that of the system which the idea of fastbatch comes from: a Rust server
that entered asyncio once per batch. A cap binds only where more requests are ready than
it lets through, which the column "full" shows: elsewhere the rows must be equal.
"""

from collections.abc import Sequence

from bench.report import show, show_ratio, table
from bench.results import METRICS, Result, pair_with_base

# What that system reported of itself: connections, batch size (None: its baseline
# without batches), requests per second.
SEED_FIGURES = (
    (50, None, 1981),
    (50, 128, 3584),
    (200, 128, 3091),
    (50, 256, 3537),
    (100, 256, 3238),
    (200, 256, 3085),
    (500, 256, 3101),
)
SEED_NOTE = (
    "seed: the figures of the system that the idea comes from, on another machine,\n"
    "14 ms to 157 ms mean latency. Compare the pattern, not the numbers."
)

HEADER = [
    "connections",
    "per write",
    "batch_size",
    "requests/s",
    "to control",
    "CPU us",
    "to control",
    "round trip ms",
    "mean batch",
    "full %",
]


def seed_text(results: Sequence[Result]) -> str:
    """One table: that system's own figures first, then what was measured here."""
    rows = [result_row(result, control) for result, control in pair_with_base(results)]
    n_errors = sum(sum(result.values(METRICS["errors"])) for result in results)
    return "\n\n".join(
        [
            table([HEADER, *seed_rows(), *rows]),
            SEED_NOTE,
            f"errors in all cells: {n_errors:.0f}",
        ]
    )


def seed_rows() -> list[list[str]]:
    base = SEED_FIGURES[0][2]
    rows = []
    for connections, batch_size, rate in SEED_FIGURES:
        row = [f"seed c={connections}", "1", str(batch_size or "none"), f"{rate:,}"]
        row.append(f"x {rate / base:.2f}" if connections == SEED_FIGURES[0][0] else "")
        rows.append(row + [""] * (len(HEADER) - len(row)))
    return rows


def result_row(result: Result, control: Result) -> list[str]:
    def value(key: str) -> str:
        return show(result.spread(METRICS[key]), METRICS[key].digits)

    def ratio(key: str) -> str:
        return show_ratio(result.ratio(METRICS[key], control))

    load = result.cell.load
    return [
        f"c={load.connections}",
        str(load.pipeline),
        str(result.cell.subject.batch_size),
        value("rate"),
        "control" if result is control else ratio("rate"),
        value("cpu_us"),
        "control" if result is control else ratio("cpu_us"),
        value("round_trip_ms"),
        value("batch_mean"),
        value("batch_full"),
    ]
