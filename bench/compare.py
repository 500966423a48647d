"""Servers side by side under the same loads: all commands but ``seed``."""

from collections.abc import Mapping, Sequence

from bench.report import show, show_ratio, table
from bench.results import METRICS, Metric, Result
from bench.servers import About, describe_python
from bench.wrk import Load


def compare_text(results: Sequence[Result]) -> str:
    """A table for each load."""
    by_load: dict[Load, list[Result]] = {}
    for result in results:
        by_load.setdefault(result.cell.load, []).append(result)
    return "\n\n".join(load_table(load, found) for load, found in by_load.items())


def load_table(load: Load, results: Sequence[Result]) -> str:
    """One row for each metric; the others are compared with the first server."""
    base, *others = results
    header = [str(load), base.cell.subject.name]
    for other in others:
        header += [other.cell.subject.name, f"to {base.cell.subject.name}"]
    rows = [metric_row(metric, base, others) for metric in METRICS.values()]
    # What none of them can say under this load is left out.
    return table([header, *(row for row in rows if set(row[1:]) - {"-", ""})])


def metric_row(metric: Metric, base: Result, others: Sequence[Result]) -> list[str]:
    row = [metric.title, show(base.spread(metric), metric.digits)]
    for other in others:
        row.append(show(other.spread(metric), metric.digits))
        row.append(show_ratio(other.ratio(metric, base)))
    return row


def servers_text(servers: Mapping[str, About], frameworks: Sequence[str] = ()) -> str:
    """What ran: a row for each server, its versions and those of ``frameworks``."""
    rows = [
        [
            name,
            f"{about['server']} {about['version']}",
            describe_python(about),
            *(about[framework] or "-" for framework in frameworks),
        ]
        for name, about in servers.items()
    ]
    return table([["server", "version", "Python", *frameworks], *rows])
