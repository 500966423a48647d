"""``python -m bench batch``: one model behind servers that batch and some that do not.

All serve the network of model.py. What a server is said to do to a model's figures is
told apart from the model's own: it counts its calls itself, and is called in a loop
without a server, which is the floor.
"""

import dataclasses
import http.client
import json
import operator
import os
import struct
import subprocess
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from bench.errors import BenchError
from bench.figures import Spread, spread
from bench.machine import Cores, all_cores, pinned
from bench.measure import OnFailure, Settings, in_rounds, measure, settle
from bench.peers import BATCHERS, Found, peer_subject
from bench.plot import Axis, Panel, Series
from bench.report import show, show_ratio, table
from bench.results import METRICS, Cell, Result, result_to_json
from bench.servers import Server, Subject, ask, fastbatch_subject, running
from bench.wrk import Load, Post, run_wrk

MODEL = Path(__file__).with_name("model.py")
PATH = "/predict"
BODIES: tuple[str, ...] = ("binary", "json")

# Where server and wrk run. A server of several processes needs all cores, and so does
# who is compared with it.
OWN_CORE = "a core each"
ALL_CORES = "all cores"

BATCH_SIZE = 256
WAIT = 0.001

# What multiplies uses one thread, whichever library numpy has for it.
ONE_THREAD = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}

# With so many other connections are answers looked at, while wrk asks as well.
CHECKERS = 16
TOLERANCE = 1e-4
CHECK_SECONDS = 20.0

# To start and end a server and check it, for the estimate alone.
START_SECONDS = 1.5

FLOOR_BATCHES = (1, 16, 64, 256)
FLOOR_SECONDS = 0.25

# The bars, which are for the batch handlers that have the same cores as mosec.
RIVAL = "mosec"
BUSY_CONNECTIONS = (64, 256)
RATE_BAR = 2.0
LONELY_RATE_BAR = 5.0
LONELY_P50_BAR = 1.1
FLOOR_BAR = 1.3


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to serve the model with fastbatch."""

    key: str
    title: str
    handler: str
    batch_wait: float | None = None
    threads: int | None = None


VARIANTS = (
    Variant("request", "request handler", "request"),
    Variant("batch", "batch handler", "batch", 0.0),
    Variant("batch-1ms", "batch handler, wait 1 ms", "batch", WAIT),
    Variant("batch-thread", "batch handler, threads=1", "batch", 0.0, 1),
    Variant(
        "batch-1ms-thread", "batch handler, wait 1 ms, threads=1", "batch", WAIT, 1
    ),
)
PEERS = (*BATCHERS, "fastpysgi")
KEYS = (*(variant.key for variant in VARIANTS), *PEERS)

# What --quick measures: what the bars are about.
QUICK_KEYS = ("request", "batch", "batch-thread", RIVAL)
QUICK_BODIES: tuple[str, ...] = ("binary",)
QUICK_ROUNDS, QUICK_SECONDS = 3, 1

# The lines of the plot; more would hide each other.
PLOTTED = ("request", "batch", "batch-thread", *PEERS)


@dataclass(frozen=True, slots=True)
class Kind:
    """A server with one kind of body, on its own core or not."""

    key: str
    title: str
    body: str
    where: str
    subject: Subject
    counts: Path
    """The file that the model counts in."""

    @property
    def is_batching(self) -> bool:
        """Whether it is fastbatch with a batch handler."""
        return self.key.startswith("batch")


@dataclass(frozen=True, slots=True)
class Use:
    """What the model was used for: its calls, the items in them, and its CPU time."""

    calls: int
    items: int
    seconds: float

    @classmethod
    def read(cls, counts: Path) -> Self:
        calls, items, nanoseconds = struct.unpack("=QQQ", counts.read_bytes())
        return cls(calls, items, nanoseconds / 1e9)

    def __sub__(self, before: "Use") -> "Use":
        return Use(
            self.calls - before.calls,
            self.items - before.items,
            self.seconds - before.seconds,
        )

    @property
    def per_call(self) -> float:
        return self.items / self.calls if self.calls else 0.0


@dataclass(frozen=True)
class Row:
    """A kind under one load: its samples, and what the model did in each."""

    kind: Kind
    result: Result
    uses: list[Use] = field(default_factory=list)

    @property
    def connections(self) -> int:
        return self.result.cell.load.connections

    def value(self, key: str) -> float | None:
        """The median of a metric."""
        found = self.result.spread(METRICS[key])
        return found.median if found else None

    def model_share(self) -> Spread:
        """Percent of the CPU time of the server's processes."""
        pairs = zip(self.uses, self.result.samples, strict=True)
        return spread(100 * use.seconds / (s.cpu.total or 1) for use, s in pairs)


@dataclass(frozen=True)
class Floor:
    """Seconds per item without a server, by the size of batches; a dict per round."""

    rounds: list[dict[int, float]] = field(default_factory=list)

    def seconds(self, connections: int) -> float:
        """The median with the largest batches that so many connections can fill."""
        size = max(n for n in FLOOR_BATCHES if n <= connections)
        return spread(one[size] for one in self.rounds).median

    def times(self, row: Row) -> float | None:
        """How many times the floor's time per item a server took, on the wall clock."""
        rate = row.value("rate")
        return 1 / (rate * self.seconds(row.connections)) if rate else None


# ---- what clients send and have to be answered ---------------------------------------


@dataclass(frozen=True)
class Samples:
    """Bodies by the format that they have, and the ten numbers that answer each."""

    bodies: Mapping[str, Sequence[bytes]]
    answers: Sequence[Sequence[float]]
    posts: Mapping[str, Post]
    """The first body of each format, for wrk."""


def make_samples(python: str, where: Path) -> Samples:
    """Let ``python`` make them, which has numpy; wrk's files are put into ``where``."""
    run_model(python, "--samples", str(where))
    found = json.loads((where / "samples.json").read_text())
    bodies = {name: [bytes.fromhex(text) for text in found[name]] for name in BODIES}
    posts = {}
    for name, of_format in bodies.items():
        file = where / f"body.{name}"
        file.write_bytes(of_format[0])
        binary = name == "binary"
        content_type = "application/octet-stream" if binary else "application/json"
        posts[name] = Post(PATH, file, content_type)
    return Samples(bodies, found["answers"], posts)


def run_model(python: str, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [python, str(MODEL), *arguments],
            env=os.environ | ONE_THREAD,
            capture_output=True,
            text=True,
            timeout=60,
        )
    except subprocess.TimeoutExpired:
        raise BenchError("the model alone takes over a minute") from None
    if done.returncode != 0:
        raise BenchError(f"the model does not run:\n{done.stderr.strip()}")
    return done.stdout


def read_answer(body: str, data: bytes) -> list[float]:
    """The numbers of a reply.

    Raises:
        ValueError: there are none.
    """
    found = array("f", data) if body == "binary" else json.loads(data)
    return [float(value) for value in found]


def is_close(found: Sequence[float], wanted: Sequence[float]) -> bool:
    """The order in which products are added up depends on the size of the batch."""
    pairs = zip(found, wanted, strict=False)
    return len(found) == len(wanted) and all(abs(a - b) < TOLERANCE for a, b in pairs)


def check_answers(server: Server, kind: Kind, samples: Samples) -> None:
    """Send every sample, many at once, and compare what comes back.

    Raises:
        BenchError: there is a wrong answer, or none.
    """
    post = server.subject.post
    assert post is not None
    bodies = samples.bodies[kind.body]
    peers = [
        http.client.HTTPConnection("127.0.0.1", server.port, timeout=CHECK_SECONDS)
        for _ in range(CHECKERS)
    ]
    try:
        for first in range(0, len(bodies), CHECKERS):
            numbers = range(first, min(first + CHECKERS, len(bodies)))
            asked = list(zip(numbers, peers, strict=False))
            for n, peer in asked:
                ask(peer, post, bodies[n])
            for n, peer in asked:
                reply = peer.getresponse()
                found = reply.read()
                if reply.status != http.HTTPStatus.OK:
                    raise BenchError(f"{kind.title} answers {reply.status}, not 200")
                if not is_close(read_answer(kind.body, found), samples.answers[n]):
                    raise BenchError(f"{kind.title} answers wrongly: {found[:200]!r}")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise BenchError(f"{kind.title} does not answer rightly: {error}") from None
    finally:
        for peer in peers:
            peer.close()


# ---- what there is to measure --------------------------------------------------------


class Kinds:
    """Makes the servers that are asked for; ``where`` is for the files they need."""

    def __init__(self, samples: Samples, where: Path, keys: Sequence[str]) -> None:
        self._samples = samples
        self._where = where
        self._keys = keys
        self.found: list[Kind] = []

    def add_fastbatch(self, python: str, body: str) -> None:
        for variant in VARIANTS:
            subject = fastbatch_subject(
                variant.title,
                python,
                f"model-{variant.handler}-{body}",
                BATCH_SIZE,
                threads=variant.threads,
                batch_wait=variant.batch_wait,
            )
            for where in (OWN_CORE, ALL_CORES):
                self._add(
                    variant.key, f"fastbatch, {variant.title}", body, where, subject
                )

    def add_peers(self, venvs: Path, found: Found, body: str) -> None:
        """With one process a core of its own, as it is always measured here."""
        for name, about in found.about.items():
            title = f"{name} {about['version']}"
            if name not in BATCHERS:
                subject = peer_subject(name, venvs, f"model-wsgi-{body}")
                self._add(name, f"{title}, one at a time", body, OWN_CORE, subject)
            else:
                subject = peer_subject(name, venvs, body)
                self._add(name, title, body, ALL_CORES, subject)

    def _add(
        self,
        key: str,
        title: str,
        body: str,
        where: str,
        subject: Subject,
    ) -> None:
        if key not in self._keys:
            return
        counts = self._where / f"counts.{len(self.found)}"
        counts.write_bytes(bytes(24))
        environment = ONE_THREAD | {"MODEL_COUNTS": str(counts)}
        settings = [f"{key}={value}" for key, value in environment.items()]
        subject = dataclasses.replace(
            subject,
            name=f"{title}, {body}, {where}",
            command=("env", *settings, *subject.command),
            post=self._samples.posts[body],
        )
        self.found.append(Kind(key, title, body, where, subject, counts))


# ---- measuring -----------------------------------------------------------------------


def measure_batch(
    kinds: Sequence[Kind],
    connections: Sequence[int],
    samples: Samples,
    python: str,
    settings: Settings,
    on_failure: OnFailure,
) -> tuple[list[Row], Floor]:
    """Every server under all loads, one after the other; then all once more.

    A server that fails has no rows. Each starts once a round and not for each load:
    some take seconds for that.
    """
    rows = {
        kind: [
            Row(kind, Result(Cell(kind.subject, Load(c, post=kind.subject.post))))
            for c in connections
        ]
        for kind in kinds
    }
    first_rows = {found[0].result.cell.subject: found for found in rows.values()}
    firsts = [found[0].result for found in rows.values()]
    floor = Floor()

    def sample(result: Result) -> None:
        if result is firsts[0]:
            floor.rounds.append(measure_floor(python, settings.cores))
        measure_kind(first_rows[result.cell.subject], samples, settings)

    in_rounds(firsts, settings.rounds, sample, on_failure)
    measured = [row for of in rows.values() if of[0].result.samples for row in of]
    if not measured:
        raise BenchError("no server could be measured with the model")
    return measured, floor


def expected_seconds(
    kinds: Sequence[Kind], connections: Sequence[int], settings: Settings
) -> float:
    """How long ``measure_batch`` takes, for a person who waits."""
    of_load = dataclasses.replace(settings, warmup=0)
    once = settings.rounds * len(kinds) * (settings.warmup + START_SECONDS)
    return once + of_load.expected_seconds(len(kinds) * len(connections))


def measure_kind(rows: Sequence[Row], samples: Samples, settings: Settings) -> None:
    """A sample for each row of a kind, whose answers are looked at before."""
    kind = rows[0].kind
    cores = all_cores() if kind.where == ALL_CORES else settings.cores
    settings = dataclasses.replace(settings, cores=cores)
    at_once = dataclasses.replace(settings, warmup=0)
    with running(kind.subject, cores.of_server) as server:
        busiest = max(rows, key=lambda row: row.connections).result.cell.load
        warm_up(server, kind, busiest, samples, settings)
        for row in rows:
            before = Use.read(kind.counts)
            found = measure(server, row.result.cell.load, at_once)
            if found.wrk.requests == 0:
                raise BenchError(f"{kind.title} answered nothing at {found.load}")
            row.result.samples.append(found)
            row.uses.append(Use.read(kind.counts) - before)


def warm_up(
    server: Server, kind: Kind, load: Load, samples: Samples, settings: Settings
) -> None:
    """Under load, since that is what could mix answers up; without warm-up, alone."""
    if not settings.warmup:
        check_answers(server, kind, samples)
        return
    with ThreadPoolExecutor(1) as executor:
        loaded = executor.submit(
            run_wrk, server.port, load, settings.warmup, settings.cores.of_wrk
        )
        check_answers(server, kind, samples)
        loaded.result()
    settle(server)


def measure_floor(python: str, cores: Cores) -> dict[int, float]:
    with pinned(cores.server):
        sizes = map(str, FLOOR_BATCHES)
        said = run_model(python, "--floor", str(FLOOR_SECONDS), *sizes)
    return {int(size): seconds for size, seconds in json.loads(said).items()}


# ---- tables --------------------------------------------------------------------------


def batch_text(rows: Sequence[Row], floor: Floor) -> str:
    """A table for each kind of body and load, the floor, then the bars."""
    texts = []
    for body in BODIES:
        for connections in sorted({row.connections for row in rows}):
            found = select(rows, body, connections)
            if found:
                texts.append(
                    f"{body} bodies, c={connections}\n{load_table(found, floor)}"
                )
    texts.append(f"the model in a loop, without a server\n{floor_table(floor)}")
    said = "\n".join(bars(rows, floor))
    return "\n\n".join([*texts, said] if said else texts)


def select(rows: Sequence[Row], body: str, connections: int) -> list[Row]:
    return [r for r in rows if (r.kind.body, r.connections) == (body, connections)]


def rival_of(row: Row, rows: Iterable[Row]) -> Row | None:
    """Under the same load."""
    wanted = (RIVAL, row.kind.body, row.connections)
    return next(
        (r for r in rows if (r.kind.key, r.kind.body, r.connections) == wanted), None
    )


def load_table(rows: Sequence[Row], floor: Floor) -> str:
    lines = [row_cells(row, rival_of(row, rows), floor) for row in rows]
    return table([list(lines[0]), *(list(cells.values()) for cells in lines)])


def row_cells(row: Row, rival: Row | None, floor: Floor) -> dict[str, str]:
    """Of most figures the median alone: --json has all."""

    def value(key: str, digits: int = 0) -> str:
        found = row.value(key)
        return "-" if found is None else f"{found:,.{digits}f}"

    times = floor.times(row)
    to_rival = ""
    if rival is not None and rival is not row:
        ratio = row.result.ratio(METRICS["rate"], rival.result)
        to_rival = f"x {ratio.median:.2f}" if ratio else "-"
    return {
        "server": row.kind.title,
        "where": row.kind.where,
        "requests/s": show(row.result.spread(METRICS["rate"]), 0),
        f"to {RIVAL}": to_rival,
        "p50 ms": value("p50_ms", 2),
        "p99 ms": value("p99_ms", 2),
        "per call": f"{spread(use.per_call for use in row.uses).median:.1f}",
        "CPU us": value("cpu_us", 1),
        "model %": f"{row.model_share().median:.0f}",
        "to floor": "-" if times is None else f"x {times:.2f}",
        "server %": value("busy"),
        "wrk %": value("wrk_busy"),
        "errors": f"{sum(row.result.values(METRICS['errors'])):.0f}",
    }


def floor_table(floor: Floor) -> str:
    rows = [["batch", "us per item", "items/s"]]
    for size in FLOOR_BATCHES:
        us = spread(1e6 * one[size] for one in floor.rounds)
        rows.append([str(size), show(us, 1), f"{1e6 / us.median:,.0f}"])
    return table(rows)


# ---- the bars ------------------------------------------------------------------------


def bars(rows: Sequence[Row], floor: Floor) -> list[str]:
    """Whether batch handlers do what is asked of them: a sentence for each and load."""
    said = []
    for row in rows:
        if not row.kind.is_batching:
            continue
        if row.kind.where == ALL_CORES:
            said += rival_bars(row, rival_of(row, rows))
        elif row.connections == 1 and (request := request_of(row, rows)):
            said.append(latency_bar(row, request))
        if row.connections in BUSY_CONNECTIONS and row.kind.body == "binary":
            said.append(floor_bar(row, floor))
    return said


def rival_bars(row: Row, rival: Row | None) -> list[str]:
    if rival is None:
        return []
    if row.connections == 1:
        return [lonely_bar(row, rival)]
    return [busy_bar(row, rival)] if row.connections in BUSY_CONNECTIONS else []


def request_of(row: Row, rows: Iterable[Row]) -> Row | None:
    """Our request handler, with the same bodies, cores and load."""
    wanted = ("request", row.kind.body, row.kind.where, row.connections)
    for other in rows:
        kind = other.kind
        if (kind.key, kind.body, kind.where, other.connections) == wanted:
            return other
    return None


def busy_bar(row: Row, rival: Row) -> str:
    rate = row.result.ratio(METRICS["rate"], rival.result)
    p50, p99 = (
        row.result.ratio(METRICS[key], rival.result) for key in ("p50_ms", "p99_ms")
    )
    is_met = at_least(rate, RATE_BAR) and below(p50, 1.0) and below(p99, 1.0)
    return (
        f"{met(is_met)}: {name(row)}: at least {RATE_BAR:g} times the requests/s of "
        f"{RIVAL} with lower p50 and p99: {show_ratio(rate)}, p50 {show_ratio(p50)}, "
        f"p99 {show_ratio(p99)}"
    )


def lonely_bar(row: Row, rival: Row) -> str:
    rate = row.result.ratio(METRICS["rate"], rival.result)
    return (
        f"{met(at_least(rate, LONELY_RATE_BAR))}: {name(row)}: at least "
        f"{LONELY_RATE_BAR:g} times the requests/s of {RIVAL}: {show_ratio(rate)}"
    )


def latency_bar(row: Row, request: Row) -> str:
    """With a core of its own, where wrk does not disturb it."""
    p50 = row.result.ratio(METRICS["p50_ms"], request.result)
    return (
        f"{met(below(p50, LONELY_P50_BAR))}: {name(row)}: p50 under {LONELY_P50_BAR:g} "
        f"times that of the request handler: {show_ratio(p50)}"
    )


def floor_bar(row: Row, floor: Floor) -> str:
    times = floor.times(row)
    is_met = times is not None and times <= FLOOR_BAR
    found = "-" if times is None else f"x {times:.2f}"
    share = row.model_share().median
    return (
        f"{met(is_met)}: {name(row)}: within {FLOOR_BAR:g} times the loop without a "
        f"server: {found}; the model has {share:.0f} % of the server's CPU time"
    )


def name(row: Row) -> str:
    return f"{row.kind.subject.name}, c={row.connections}"


def at_least(found: Spread | None, bar: float) -> bool:
    return found is not None and found.median >= bar


def below(found: Spread | None, bar: float) -> bool:
    return found is not None and found.median < bar


def met(is_met: bool) -> str:
    return "met" if is_met else "MISSED"


# ---- the plot ------------------------------------------------------------------------


def batch_panels(rows: Sequence[Row], floor: Floor) -> list[Panel]:
    """Requests/s, p50 and p99 by connections: three for each kind of body."""
    panels = []
    for body in BODIES:
        found = plotted(rows, body)
        if not found:
            continue
        connections = sorted({row.connections for row in found})
        x = Axis("connections", is_log=True, ticks=connections)
        rates = lines(found, lambda row: row.value("rate"))
        rates.append(
            Series(
                "the model in a loop, batches of up to c",
                [(c, 1 / floor.seconds(c)) for c in connections],
                is_reference=True,
            )
        )
        panels.append(Panel(f"requests/s, {body}", x, Axis("requests/s"), rates))
        for key, title in (("p50_ms", "p50"), ("p99_ms", "p99")):
            y = Axis("ms", is_log=True)
            series = lines(found, operator.methodcaller("value", key))
            panels.append(Panel(f"latency {title}, {body}", x, y, series))
    return panels


def plotted(rows: Sequence[Row], body: str) -> list[Row]:
    """One place for each server: with all cores, if it was measured so."""
    found = [r for r in rows if r.kind.body == body and r.kind.key in PLOTTED]
    shared = {row.kind.key for row in found if row.kind.where == ALL_CORES}
    return [r for r in found if r.kind.where == ALL_CORES or r.kind.key not in shared]


def lines(rows: Sequence[Row], value: Callable[[Row], float | None]) -> list[Series]:
    points: dict[str, list[tuple[float, float]]] = {}
    for row in sorted(rows, key=lambda row: row.connections):
        y = value(row)
        if y:
            points.setdefault(row.kind.title, []).append((row.connections, y))
    return [Series(title, found) for title, found in points.items()]


# ---- for --json ----------------------------------------------------------------------


def row_to_json(row: Row, rows: Sequence[Row], floor: Floor) -> dict[str, Any]:
    rival = rival_of(row, rows)
    found = result_to_json(row.result, rival.result if rival else row.result)
    for sample in found["samples"]:
        del sample["load"]["post"]  # files that are gone by now
    return found | {
        "key": row.kind.key,
        "title": row.kind.title,
        "body": row.kind.body,
        "where": row.kind.where,
        "model": [dataclasses.asdict(use) for use in row.uses],
        "model_share": dataclasses.asdict(row.model_share()),
        "items_per_call": dataclasses.asdict(spread(u.per_call for u in row.uses)),
        "times_the_floor": floor.times(row),
    }


def floor_to_json(floor: Floor) -> list[dict[str, float]]:
    return [{str(n): seconds for n, seconds in one.items()} for one in floor.rounds]
