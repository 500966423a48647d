"""The mixed load of ``python -m bench scale``: 1 % of the requests wait for 50 ms.

Two questions. How many requests are served, by wrk, as fast as they are answered. And
what the fast ones have to wait for, by a client that sends at a fixed rate, the same
for all servers: at its own highest rate each server has a queue, and its latencies
would say how long that is and no more.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.figures import spread
from bench.machine import pinned
from bench.measure import OnFailure, Settings, in_rounds, measure
from bench.paced import Latencies, Pace, percentile, run_paced
from bench.peers import Found, peer_subject
from bench.report import show, table
from bench.results import METRICS, Cell, Result, result_to_json
from bench.servers import About, Subject, describe_python, fastbatch_subject, running
from bench.wrk import Load

PEERS = ("gunicorn", "granian", "waitress")
APP = "wsgi-mixed"
SLOW_EVERY = 100
THREADS = 8


@dataclass(frozen=True, slots=True)
class FastOnes:
    """One server at the fixed rate in one round; times in ms."""

    p50: float
    p99: float
    max: float
    slow_p50: float
    client_late: float
    """By how much the client was late itself, p99: what the others are good to."""
    errors: int


@dataclass(frozen=True)
class MixedRow:
    """A server, its samples under wrk and those at the fixed rate."""

    result: Result
    paced: list[FastOnes] = field(default_factory=list)


# ---- what there is to measure --------------------------------------------------------


def fastbatch_subjects(
    paths: Mapping[str, str], about: Mapping[str, About]
) -> list[Subject]:
    """Without handler threads, and with them where fastbatch has them."""
    subjects = []
    for name, path in paths.items():
        alone = f"fastbatch, {name}, no threads"
        subjects.append(fastbatch_subject(alone, path, APP))
        if "threads" in about[name]["options"]:
            threaded = f"fastbatch, {name}, {THREADS} threads"
            subjects.append(fastbatch_subject(threaded, path, APP, threads=THREADS))
    return subjects


def peer_subjects(peers: Sequence[tuple[Path, Found]]) -> list[Subject]:
    return [
        dataclasses.replace(
            peer_subject(peer, where, APP, threads=THREADS),
            name=f"{peer}, {describe_python(about)}, {THREADS} threads",
        )
        for where, found in peers
        for peer, about in found.about.items()
    ]


# ---- measuring -----------------------------------------------------------------------


def measure_mixed(
    subjects: Sequence[Subject],
    connections: int,
    rate: int,
    settings: Settings,
    on_failure: OnFailure,
) -> list[MixedRow]:
    """Each server under wrk and then at the fixed rate; those that fail have no row."""
    load = Load(connections, slow_every=SLOW_EVERY)
    pace = Pace(rate, SLOW_EVERY, connections)
    rows = {s.name: MixedRow(Result(Cell(s, load))) for s in subjects}

    def sample(result: Result) -> None:
        subject = result.cell.subject
        with running(subject, settings.cores.of_server) as server:
            result.samples.append(measure(server, load, settings))
            with pinned(settings.cores.of_wrk):
                found = run_paced(server.port, pace, settings.seconds)
            rows[subject.name].paced.append(summary(found))

    results = [row.result for row in rows.values()]
    in_rounds(results, settings.rounds, sample, on_failure)
    measured = [row for row in rows.values() if row.result.samples]
    if not measured:
        raise BenchError("no server could be measured under the mixed load")
    return measured


def summary(found: Latencies) -> FastOnes:
    return FastOnes(
        p50=1e3 * percentile(found.fast, 50),
        p99=1e3 * percentile(found.fast, 99),
        max=1e3 * max(found.fast),
        slow_p50=1e3 * percentile(found.slow, 50),
        client_late=1e3 * percentile(found.late, 99) if found.late else 0.0,
        errors=found.errors,
    )


# ---- the table -----------------------------------------------------------------------


def mixed_text(rows: Sequence[MixedRow], rate: int) -> str:
    lines = [row_cells(row) for row in rows]
    title = f"1 of {SLOW_EVERY} requests waits for 50 ms; times at {rate:,} requests/s"
    rows_text = table([list(lines[0]), *(list(cells.values()) for cells in lines)])
    return f"{title}\n{rows_text}"


def row_cells(row: MixedRow) -> dict[str, str]:
    def of_wrk(key: str) -> str:
        return show(row.result.spread(METRICS[key]), METRICS[key].digits)

    def paced(of: Callable[[FastOnes], float], digits: int = 2) -> str:
        return show(spread(map(of, row.paced)), digits)

    n_errors = sum(row.result.values(METRICS["errors"]))
    n_errors += sum(one.errors for one in row.paced)
    return {
        "server": row.result.cell.subject.name,
        "requests/s": of_wrk("rate"),
        "CPU us": of_wrk("cpu_us"),
        "fast p50 ms": paced(lambda one: one.p50),
        "fast p99 ms": paced(lambda one: one.p99),
        "fast max ms": paced(lambda one: one.max),
        "slow p50 ms": paced(lambda one: one.slow_p50),
        "client late ms": paced(lambda one: one.client_late),
        "errors": f"{n_errors:.0f}",
    }


def row_to_json(row: MixedRow) -> dict[str, Any]:
    found = result_to_json(row.result, row.result)
    found["app"] = APP
    found["paced"] = [dataclasses.asdict(one) for one in row.paced]
    return found
