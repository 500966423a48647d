"""``python -m bench sweep``: where larger batches help, and which default follows.

Handlers of several kinds under several loads, each with ``batch_size`` from 1 to 256.
What a batch is good for depends on the handler: one that is given a request at a time
saves some calls and no more, one that is given the batch does the work once for all.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from bench.apps import BURN_NANOSECONDS
from bench.errors import BenchError
from bench.measure import OnFailure, Settings, measure_cells
from bench.plot import Axis, Panel, Series
from bench.report import show, show_ratio, table
from bench.results import METRICS, OTHERS_PERCENT, Result, result_to_json
from bench.servers import Subject, fastbatch_subject
from bench.wrk import Load

# Ratios as near to 1 as that are taken for 1. Two runs of one server are further apart
# only now and then.
NOISE = 0.05


@dataclass(frozen=True, slots=True)
class Kind:
    """A handler, and where it runs."""

    title: str
    app: str
    threads: int | None = None
    """Handler threads; None: on the loop, as older ones do that know of no threads."""

    @property
    def is_batch(self) -> bool:
        return self.app.startswith("batch-")

    def subject(self, python: str, batch_size: int) -> Subject:
        name = f"{self.title}, batch_size {batch_size}"
        return fastbatch_subject(
            name, python, self.app, batch_size, threads=self.threads
        )


# Of batch_apps.py, which is imported where fastbatch is.
MODEL = "batch handler, 50 us + 1 us each"

KINDS = {
    "hello": Kind("request handler, 0 us", "hello"),
    "burn": Kind(f"request handler, {BURN_NANOSECONDS // 1000} us each", "burn"),
    "batch-hello": Kind("batch handler, 0 us", "batch-hello"),
    "batch": Kind(MODEL, "batch-model"),
    "thread": Kind(f"{MODEL}, in a thread", "batch-model", threads=1),
}


@dataclass(frozen=True)
class Row:
    """A kind with one batch_size under one load."""

    kind: Kind
    result: Result

    @property
    def batch_size(self) -> int:
        size = self.result.cell.subject.batch_size
        assert size is not None
        return size

    @property
    def connections(self) -> int:
        return self.result.cell.load.connections

    def value(self, key: str) -> float:
        """The median; ``measure_rows`` has none that answered nothing."""
        return median(self.result.values(METRICS[key]))


def measure_rows(
    kinds: Sequence[Kind],
    python: str,
    batch_sizes: Sequence[int],
    connections: Sequence[int],
    settings: Settings,
    on_failure: OnFailure,
) -> list[Row]:
    """Every kind with every batch_size under every load.

    Those that fail, or answer nothing, have no row. The sizes of a kind take turns:
    they are what is compared.
    """
    cells = [(kind, kind.subject(python, n)) for kind in kinds for n in batch_sizes]
    loads = [Load(c) for c in connections]
    subjects = [subject for _, subject in cells]
    results = measure_cells(subjects, loads, settings, on_failure)
    kind_of = {subject.name: kind for kind, subject in cells}
    rows = [
        Row(kind_of[result.cell.subject.name], result)
        for result in results
        if result.values(METRICS["cpu_us"])
    ]
    if not rows:
        raise BenchError("no server could be measured")
    return rows


# ---- tables --------------------------------------------------------------------------


def sweep_text(rows: Sequence[Row]) -> str:
    """A table for each kind, then what they say."""
    texts = [
        f"{kind.title}\n{kind_table(of_kind)}"
        for kind, of_kind in by_kind(rows).items()
    ]
    n_errors = sum(sum(row.result.values(METRICS["errors"])) for row in rows)
    texts.append(f"errors in all cells: {n_errors:.0f}")
    return "\n\n".join([*texts, *conclusions(rows)])


def by_kind(rows: Sequence[Row]) -> dict[Kind, list[Row]]:
    found: dict[Kind, list[Row]] = {}
    for row in rows:
        found.setdefault(row.kind, []).append(row)
    return found


def by_load(rows: Sequence[Row]) -> dict[tuple[Kind, int], list[Row]]:
    """Those that differ in batch_size alone, the smallest first."""
    found: dict[tuple[Kind, int], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.batch_size):
        found.setdefault((row.kind, row.connections), []).append(row)
    return found


def kind_table(rows: Sequence[Row]) -> str:
    lines = [
        row_cells(row, of_load[0])
        for of_load in by_load(rows).values()
        for row in of_load
    ]
    return table([list(lines[0]), *(list(cells.values()) for cells in lines)])


def row_cells(row: Row, base: Row) -> dict[str, str]:
    """The columns by their titles."""

    def value(key: str) -> str:
        return show(row.result.spread(METRICS[key]), METRICS[key].digits)

    def ratio(key: str) -> str:
        if row is base:
            return "base"
        return show_ratio(row.result.ratio(METRICS[key], base.result))

    return {
        "connections": f"c={row.connections}",
        "batch_size": str(row.batch_size),
        "requests/s": value("rate"),
        "to the smallest": ratio("rate"),
        "CPU us": value("cpu_us"),
        "p50 ms": value("p50_ms"),
        "p99 ms": value("p99_ms"),
        "mean batch": value("batch_mean"),
        "full %": value("batch_full"),
    }


# ---- what they say -------------------------------------------------------------------


def conclusions(rows: Sequence[Row]) -> list[str]:
    """What larger batches give each kind, then what each size costs and the default.

    None where one size was measured, or no load has all of them.
    """
    sizes = sorted({row.batch_size for row in rows})
    groups = [g for g in by_load(rows).values() if [r.batch_size for r in g] == sizes]
    if len(sizes) == 1 or not groups:
        return []
    gains = [
        gain_text(kind, [group for group in groups if group[0].kind == kind])
        for kind in dict.fromkeys(group[0].kind for group in groups)
    ]
    quiet = [group for group in groups if not is_disturbed(group)]
    at_worst = {size: worst_case(quiet or groups, n) for n, size in enumerate(sizes)}
    lines = [worst_cells(size, worst) for size, worst in at_worst.items()]
    worst_table = table([list(lines[0]), *(list(cells.values()) for cells in lines)])
    return [
        "\n".join(gains),
        worst_table,
        default_text(at_worst, len(groups), len(groups) - len(quiet)),
    ]


def is_disturbed(rows: Sequence[Row]) -> bool:
    """Whether other processes made one of them look worse than it is."""
    return max(row.value("others") for row in rows) > OTHERS_PERCENT


def gain_text(kind: Kind, groups: Sequence[Sequence[Row]]) -> str:
    """What the largest size gives this kind, from the worst load to the best."""
    gains = {
        group[0].connections: group[-1].value("rate") / group[0].value("rate")
        for group in groups
    }
    worst, best = min(gains, key=gains.__getitem__), max(gains, key=gains.__getitem__)
    if gains[worst] < 1 - NOISE:
        verdict = "costs"
    elif gains[best] > 1 + NOISE:
        verdict = "helps"
    else:
        verdict = "changes nothing for"
    smallest, largest = groups[0][0].batch_size, groups[0][-1].batch_size
    return (
        f"{largest} and not {smallest} {verdict}: {kind.title}: "
        f"requests/s x {gains[worst]:.2f} at c={worst}, x {gains[best]:.2f} at c={best}"
    )


@dataclass(frozen=True, slots=True)
class Worst:
    """How far one size is from the best of them, where it is furthest."""

    rate: float
    """Its requests/s to those of the best: 1 is as good everywhere."""
    cpu_us: float
    p99_ms: float


def worst_case(groups: Sequence[Sequence[Row]], n: int) -> Worst:
    """Of the n-th size; a group is a kind under a load, with one row for each size."""

    def ratios(key: str, best: Callable[[Iterable[float]], float]) -> list[float]:
        return [g[n].value(key) / best(row.value(key) for row in g) for g in groups]

    return Worst(
        rate=min(ratios("rate", max)),
        cpu_us=max(ratios("cpu_us", min)),
        p99_ms=max(ratios("p99_ms", min)),
    )


def worst_cells(size: int, worst: Worst) -> dict[str, str]:
    return {
        "batch_size": str(size),
        "requests/s to the best, at worst": f"x {worst.rate:.2f}",
        "CPU": f"x {worst.cpu_us:.2f}",
        "p99": f"x {worst.p99_ms:.2f}",
    }


def default_text(at_worst: Mapping[int, Worst], n_loads: int, n_disturbed: int) -> str:
    """The size that loses least where it loses most; of equals the lowest p99."""
    disturbed = (
        f"other processes took more than {OTHERS_PERCENT} % of a core "
        f"under {n_disturbed} of {n_loads} loads"
    )
    if 2 * n_disturbed > n_loads:
        return f"no default follows: {disturbed}"
    most = max(worst.rate for worst in at_worst.values())
    equals = [size for size, worst in at_worst.items() if worst.rate >= most - NOISE]
    best = min(equals, key=lambda size: at_worst[size].p99_ms)
    said = (
        f"the default that follows: batch_size {best}. Under every handler and load it "
        f"has x {at_worst[best].rate:.2f} or more of the best size's requests/s"
    )
    if losers := [str(size) for size in equals if size != best]:
        said += f"; so has {' and '.join(losers)}, with a higher p99"
    return f"{said}. Left out: {disturbed}" if n_disturbed else said


def row_to_json(row: Row, base: Row) -> dict[str, Any]:
    found = result_to_json(row.result, base.result)
    return found | {"handler": row.kind.title, "threads": row.kind.threads}


def rows_to_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [
        row_to_json(row, of_load[0])
        for of_load in by_load(rows).values()
        for row in of_load
    ]


# ---- the plot ------------------------------------------------------------------------


def sweep_panels(rows: Sequence[Row]) -> tuple[list[Panel], int]:
    """For write_plot: requests/s above p99, a column for each load."""
    loads = list(dict.fromkeys(row.connections for row in rows))
    panels = [
        load_panel([row for row in rows if row.connections == load], key, label, load)
        for key, label in (("rate", "requests/s"), ("p99_ms", "latency p99, ms"))
        for load in loads
    ]
    # Those of a row have the same axis: said once.
    for n, panel in enumerate(panels):
        if n % len(loads):
            panels[n] = dataclasses.replace(panel, y=Axis("", is_log=True))
    return panels, len(loads)


def load_panel(rows: Sequence[Row], key: str, label: str, connections: int) -> Panel:
    sizes = sorted({row.batch_size for row in rows})
    lines = [
        Series(kind.title, sorted((row.batch_size, row.value(key)) for row in of_kind))
        for kind, of_kind in by_kind(rows).items()
    ]
    x = Axis("batch_size", is_log=True, ticks=sizes)
    return Panel(f"{connections} connections", x, Axis(label, is_log=True), lines)
