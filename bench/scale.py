"""``python -m bench scale``: what more workers give, in threads and in processes.

All servers run one WSGI application with 1, 2 and more workers; here is what the rows
are and what is made of them. The load generator has to run too: with as many workers as
there are cores it takes from theirs, which ``corrected`` makes up for.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.figures import Spread, spread
from bench.measure import OnFailure, Settings, measure_cells
from bench.peers import Found, peer_subject
from bench.report import show, show_ratio, table
from bench.results import METRICS, OTHERS_PERCENT, Result, Sample, result_to_json
from bench.servers import About, Subject, describe_python, workers_subject
from bench.wrk import Load
from bench.wsgi_apps import BURN_NANOSECONDS

PEERS = ("granian", "fastpysgi")

# The applications, and what their table is called.
APPS = {
    "wsgi-burn": f"{BURN_NANOSECONDS // 1000} us of CPU time in every request",
    "wsgi": "hello, world",
}
CPU_BOUND = "wsgi-burn"

# Two workers on two cores do at least so many times the CPU-bound work of one, and, as
# threads, hold less than so many times its memory.
WORK_BAR = 1.7
MEMORY_BAR = 1.3


@dataclass(frozen=True, slots=True)
class Kind:
    """A server to be measured with several numbers of workers."""

    name: str
    subject: Callable[[str, int], Subject]
    """Of an application and a number of workers."""
    has_bar: bool = False
    """Whether it is fastbatch."""
    in_threads: bool = False


@dataclass(frozen=True)
class Row:
    """A kind with so many workers under one application."""

    kind: Kind
    app: str
    workers: int
    result: Result


# ---- what there is to measure --------------------------------------------------------


def fastbatch_kinds(paths: Mapping[str, str], about: Mapping[str, About]) -> list[Kind]:
    """Workers as processes everywhere, as threads where these run side by side."""
    kinds = []
    for name, path in paths.items():
        if not about[name]["gil"]:
            kinds.append(fastbatch_kind(name, path, processes=False))
        kinds.append(fastbatch_kind(name, path, processes=True))
    return kinds


def fastbatch_kind(name: str, path: str, processes: bool) -> Kind:
    title = f"fastbatch, {name}, {'processes' if processes else 'threads'}"
    return Kind(
        title,
        lambda app, workers: workers_subject(title, path, app, workers, processes),
        has_bar=True,
        in_threads=not processes,
    )


def about_peers(peers: Sequence[tuple[Path, Found]]) -> dict[str, About]:
    """Named as the rows name them."""
    return {
        f"{peer}, {describe_python(about)}": about
        for _, found in peers
        for peer, about in found.about.items()
    }


def peer_kinds(peers: Sequence[tuple[Path, Found]]) -> list[Kind]:
    return [
        peer_kind(peer, where, about)
        for where, found in peers
        for peer, about in found.about.items()
    ]


def peer_kind(peer: str, venvs: Path, about: About) -> Kind:
    name = f"{peer}, {describe_python(about)}"
    return Kind(
        name,
        lambda app, workers: dataclasses.replace(
            peer_subject(peer, venvs, app, workers), name=name
        ),
    )


def default_workers(n_cores: int) -> list[int]:
    """1, 2, 4 and so on while there are cores; 2 in any case."""
    return [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= max(n_cores, 2)]


def measure_rows(
    kinds: Sequence[Kind],
    workers: Sequence[int],
    load: Load,
    settings: Settings,
    on_failure: OnFailure,
) -> list[Row]:
    """Every kind with every number of workers and every application.

    Those that fail have no row.
    """
    cells = [
        (kind, app, n, kind.subject(app, n))
        for app in APPS
        for kind in kinds
        for n in workers
    ]
    subjects = [subject for *_, subject in cells]
    results = measure_cells(subjects, [load], settings, on_failure)
    rows = [
        Row(kind, app, n, result)
        for (kind, app, n, _), result in zip(cells, results, strict=True)
        if result.samples
    ]
    if not rows:
        raise BenchError("there is no server here that could be given workers")
    return rows


# ---- what is made of a sample --------------------------------------------------------


def cores_left(sample: Sample, workers: int, n_cores: int) -> float:
    """How many cores so many workers can have used beside wrk.

    A little in any case: on one core, wrk's own start may seem to have taken all.
    """
    return max(min(workers, n_cores - sample.wrk_busy / 100), 0.01)


def useful_share(sample: Sample, workers: int, n_cores: int) -> float:
    """What of these cores went into the application: 1.0 is all."""
    work = sample.rate * BURN_NANOSECONDS / 1e9
    return work / cores_left(sample, workers, n_cores)


def corrected_ratio(
    sample: Sample, workers: int, base: Sample, base_workers: int, n_cores: int
) -> float:
    """How many times the work of ``base``, had wrk run on cores of its own.

    Each is taken to use the cores that wrk took as well as it used the others.
    """
    share = useful_share(sample, workers, n_cores)
    base_share = useful_share(base, base_workers, n_cores)
    return share * min(workers, n_cores) / (base_share * min(base_workers, n_cores))


def corrected(row: Row, base: Row, n_cores: int) -> Spread | None:
    """Round by round; those in which the base answered nothing say nothing."""
    pairs = zip(row.result.samples, base.result.samples, strict=True)
    ratios = [
        corrected_ratio(sample, row.workers, other, base.workers, n_cores)
        for sample, other in pairs
        if other.rate
    ]
    return spread(ratios) if ratios else None


def with_base(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Each row with the fewest workers of the same server and application."""
    bases: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = (row.kind.name, row.app)
        if key not in bases or row.workers < bases[key].workers:
            bases[key] = row
    return [(row, bases[row.kind.name, row.app]) for row in rows]


# ---- tables --------------------------------------------------------------------------


def scale_text(rows: Sequence[Row], n_cores: int) -> str:
    """A table for each application, then the bars."""
    pairs = with_base(rows)
    texts = []
    for app, title in APPS.items():
        of_app = [(row, base) for row, base in pairs if row.app == app]
        if of_app:
            texts.append(f"{title}\n{app_table(of_app, n_cores)}")
    said = "\n".join(bars(rows, n_cores))
    return "\n\n".join([*texts, said] if said else texts)


def app_table(pairs: Sequence[tuple[Row, Row]], n_cores: int) -> str:
    lines = [row_cells(row, base, n_cores) for row, base in pairs]
    return table([list(lines[0]), *(list(cells.values()) for cells in lines)])


def row_cells(row: Row, base: Row, n_cores: int) -> dict[str, str]:
    """The columns by their titles."""

    def value(key: str) -> str:
        found = row.result.spread(METRICS[key])
        return "-" if found is None else f"{found.median:,.{METRICS[key].digits}f}"

    def ratio(key: str) -> str:
        if row is base:
            return ""
        return show_ratio(row.result.ratio(METRICS[key], base.result))

    cells = {
        "server": row.kind.name,
        "workers": str(row.workers),
        "requests/s": show(row.result.spread(METRICS["rate"]), 0),
        "to 1 worker": ratio("rate"),
    }
    if row.app == CPU_BOUND:
        share = spread(
            100 * useful_share(sample, row.workers, n_cores)
            for sample in row.result.samples
        )
        cells["wrk used %"] = value("wrk_busy")
        cells["of the rest useful %"] = f"{share.median:.1f}"
        cells["corrected"] = (
            "" if row is base else show_ratio(corrected(row, base, n_cores))
        )
    return {
        **cells,
        "server used %": value("busy"),
        "CPU us": value("cpu_us"),
        "memory MiB": value("memory_mib"),
        "to one": ratio("memory_mib"),
        "errors": f"{sum(row.result.values(METRICS['errors'])):.0f}",
    }


def bars(rows: Sequence[Row], n_cores: int) -> list[str]:
    """Whether fastbatch does what is asked of it, in one sentence for each server."""
    said = []
    for row, base in with_base(rows):
        if not row.kind.has_bar or (row.workers, base.workers) != (2, 1):
            continue
        if row.app == CPU_BOUND:
            said.append(work_bar(row, base, n_cores))
        if row.kind.in_threads:
            said.append(memory_bar(row, base))
    return said


def work_bar(row: Row, base: Row, n_cores: int) -> str:
    bar = f"at least {WORK_BAR} times the CPU-bound work of one"
    found = corrected(row, base, n_cores)
    if found is None:
        return f"not to be said: {row.kind.name}: {bar}: one of them answered nothing"
    raw = row.result.ratio(METRICS["rate"], base.result)
    said = f"{row.kind.name}: {bar}: {show_ratio(found)}, raw {show_ratio(raw)}"
    if n_cores < row.workers:
        return f"not to be said: {said}; there are no two cores"
    both = (row.result.spread(METRICS["others"]), base.result.spread(METRICS["others"]))
    others = max(each.median for each in both if each is not None)
    if others > OTHERS_PERCENT:
        return f"not to be said: {said}; other processes took {others:.0f} % of a core"
    return f"{met(found.median >= WORK_BAR)}: {said}"


def memory_bar(row: Row, base: Row) -> str:
    bar = f"under {MEMORY_BAR} times the memory of one ({APPS[row.app]})"
    found = row.result.ratio(METRICS["memory_mib"], base.result)
    is_met = found is not None and found.median < MEMORY_BAR
    return f"{met(is_met)}: {row.kind.name}: {bar}: {show_ratio(found)}"


def met(is_met: bool) -> str:
    return "met" if is_met else "MISSED"


def row_to_json(row: Row, base: Row, n_cores: int) -> dict[str, Any]:
    found = result_to_json(row.result, base.result)
    found |= {"app": row.app, "workers": row.workers}
    if row.app == CPU_BOUND:
        found["useful_share"] = [
            useful_share(sample, row.workers, n_cores) for sample in row.result.samples
        ]
        if row is not base and (ratio := corrected(row, base, n_cores)):
            found["corrected_ratio"] = dataclasses.asdict(ratio)
    return found
