"""The command line: ``python -m bench --help``."""

import argparse
import json
import math
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from bench import batch, listeners, mixed, scale, sweep
from bench.compare import compare_text, servers_text
from bench.errors import BenchError
from bench.instructions import (
    count_all,
    count_to_json,
    find_valgrind,
    instructions_text,
)
from bench.machine import (
    Cores,
    all_cores,
    choose_cores,
    describe_machine,
    raise_file_limit,
)
from bench.measure import Settings, measure_cells
from bench.paced import MAX_CONNECTIONS
from bench.peers import (
    FRAMEWORKS,
    MODEL_PACKAGES,
    MODEL_PEERS,
    PEERS,
    VENVS,
    Found,
    find_peers,
    install_peers,
    require_frameworks,
    require_packages,
)
from bench.plot import require_matplotlib, require_svg, write_plot
from bench.results import (
    METRICS,
    OTHERS_PERCENT,
    Result,
    pair_with_base,
    result_to_json,
)
from bench.seed import seed_text
from bench.servers import (
    About,
    Subject,
    ask_about,
    describe_python,
    fastbatch_subject,
    floor_subject,
)
from bench.serving import WSGI_APPS
from bench.wrk import Load, find_wrk, wrk_version

# What a command finds: the text to print, and the same for --json.
Report: TypeAlias = tuple[str, dict[str, Any]]

APPS = ("hello", "binary", "json", "burn", *WSGI_APPS)

DESCRIPTION = """\
Measure fastbatch. A server runs on one core and wrk, which makes the load, on
another; servers that are compared take turns, in as many rounds as asked for.
Figures are medians over the rounds, with the lowest and the highest.
"""
EPILOG = """\
examples:
  python -m bench floor                     what fastbatch costs above libuv and llhttp
  python -m bench floor --python python3.13 --python python3.13t
  python -m bench floor --python before=old/bin/python --python after=new/bin/python
  python -m bench peers                     installs the servers to compare with
  python -m bench wsgi                      a WSGI application on all of them
  python -m bench flask --connections 100   the same with Flask
  python -m bench scale                     1, 2 and more workers, handler threads
  python -m bench peers --batch             installs those to compare batches with
  python -m bench batch --quick             a model, in batches and not
  python -m bench seed --connections 50     what batching gives
  python -m bench sweep --plot sweep.svg    the same for handlers of several kinds
  python -m bench instructions              what it costs outside the kernel, exactly

bench/README.md says what each figure means.
"""


def number(low: int, high: int) -> Callable[[str], int]:
    """An argparse type: a whole number from ``low`` to ``high``."""

    def parse(text: str) -> int:
        value = int(text) if text.isascii() and text.isdigit() else -1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(
                f"{text!r} is no whole number from {low} to {high}"
            )
        return value

    return parse


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, add_arguments, run, summary in (
        ("floor", add_floor, run_floor, "next to the floor: libuv and llhttp alone"),
        ("wsgi", add_wsgi, run_wsgi, "as a WSGI server, next to the floor and peers"),
        ("flask", add_flask, run_flask, "a Flask application, next to peers"),
        ("peers", add_peers, run_peers, "install the peers, each in its own venv"),
        ("scale", add_scale, run_scale, "1, 2 and more workers; handlers that wait"),
        ("batch", add_batch, run_batch, "a model behind servers that batch"),
        ("log", add_log, run_log, "with an access log and without"),
        ("seed", add_seed, run_seed, "batch sizes, from 1 (the control) to 256"),
        ("sweep", add_sweep, run_sweep, "batch sizes by handler and load, plotted"),
        ("listeners", add_listeners, run_listeners, "connections spread over workers"),
        ("instructions", add_instructions, run_instructions, "counted by callgrind"),
    ):
        command = commands.add_parser(name, help=summary)
        command.set_defaults(run=run)
        add_arguments(command)
    return parser


def add_floor(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "fastbatch next to the floor, 150 lines of C that answer every request alike: "
        "requests/s, server CPU time per request, latency and batch sizes, with the "
        "ratio to the floor in the same round."
    )
    add_python(parser, several=True)
    add_app(parser)
    add_loads(parser, connections=[100, 500], pipeline=[1, 16])
    add_rounds(parser, rounds=5, seconds=3)
    add_machine(parser)


def add_wsgi(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "A WSGI application that answers at once, served by fastbatch and by those "
        "peers that are installed, with the ratio to the floor in the same round."
    )
    add_comparison(parser, seconds=3)


def add_flask(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "A Flask application of one route, served by fastbatch and by those peers that "
        "are installed, with the ratio to fastbatch, the first one, in the same round."
    )
    # Longer than the others: what wrk leaves waiting at the end is work that no request
    # is counted for, and here as much as a tenth of a second of it.
    add_comparison(parser, seconds=5)


def add_comparison(parser: argparse.ArgumentParser, seconds: int) -> None:
    add_python(parser, several=True)
    add_venvs(parser)
    add_loads(parser, connections=[100, 500], pipeline=[1])
    add_rounds(parser, rounds=5, seconds=seconds)
    add_machine(parser)


def add_scale(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "fastbatch and those peers that are installed with 1, 2 and more workers, all "
        "cores being for the server and wrk together: requests/s, server CPU time, "
        "memory. Then, on one core, a load of which 1 % waits for 50 ms, with handler "
        "threads and without."
    )
    add_python(parser, several=True)
    parser.add_argument(
        "--venvs",
        type=Path,
        action="append",
        metavar="DIR",
        help="where each peer has its venv; may be given several times, for peers on "
        "several Pythons (default: bench/.venvs)",
    )
    parser.add_argument(
        "--part",
        choices=("all", "workers", "mixed"),
        default="all",
        help="(default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        nargs="+",
        type=number(1, 256),
        metavar="N",
        help="(default: 1, 2, 4 ... as far as there are cores)",
    )
    parser.add_argument(
        "--connections",
        "-c",
        type=number(1, MAX_CONNECTIONS),
        default=64,
        metavar="N",
        help="kept open by the client (default: %(default)s)",
    )
    parser.add_argument(
        "--rate",
        type=number(100, 10_000),
        default=1000,
        metavar="N",
        help="requests per second at which the mixed load's latencies are taken "
        "(default: %(default)s)",
    )
    add_rounds(parser, rounds=3, seconds=2)
    add_machine(parser)


def add_batch(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "One numpy model behind fastbatch, as a request handler and as batch handlers, "
        "and behind those of mosec, LitServe and fastpysgi that are installed: "
        " requests/s, latency, how many items the model was called with, and "
        "its share of the time. Answers are checked."
    )
    parser.add_argument(
        "--python",
        metavar="[NAME=]PATH",
        help="the interpreter that has fastbatch, numpy and orjson (default: this one)",
    )
    add_venvs(parser)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=batch.KEYS,
        default=batch.KEYS,
        metavar="SERVER",
        help=f"which (default: {' '.join(batch.KEYS)})",
    )
    parser.add_argument(
        "--body",
        nargs="+",
        choices=batch.BODIES,
        default=batch.BODIES,
        help="what clients send (default: both)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="what the bars are about, in 4 min: binary bodies, "
        f"{batch.QUICK_ROUNDS} rounds of {batch.QUICK_SECONDS} s of "
        f"{' '.join(batch.QUICK_KEYS)}",
    )
    add_connections(parser, [1, 16, 64, 256, 512])
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.svg", help="draw the figures there as well"
    )
    add_rounds(parser, rounds=3, seconds=2)
    add_machine(parser)


def add_peers(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Install the peers and Flask with the versions of bench/peers.txt. What is "
        "there already stays; a venv of another Python is made anew."
    )
    parser.add_argument(
        "--python",
        default=sys.executable,
        metavar="PATH",
        help="the interpreter for the peers (default: the one that runs this)",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="PEER",
        help=f"which (default: {' '.join(PEERS)}; "
        f"with --batch: {' '.join(MODEL_PEERS)})",
    )
    parser.add_argument(
        "--batch",
        action="store_true",
        help="those that `batch` measures, with numpy and orjson instead of Flask",
    )
    add_venvs(parser)
    parser.set_defaults(json=None)


def add_venvs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--venvs",
        type=Path,
        default=VENVS,
        metavar="DIR",
        help="where each peer has its venv (default: bench/.venvs)",
    )


def add_log(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "fastbatch without an access log, which is what the others are compared with, "
        "and with each format of one, into a file."
    )
    add_python(parser, several=False)
    add_app(parser)
    add_loads(parser, connections=[100], pipeline=[1, 16])
    add_rounds(parser, rounds=7, seconds=2)
    add_machine(parser)


def add_seed(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "The table of the system that the idea comes from: connections by batch_size, "
        "without and with pipelining. The first batch_size is the control."
    )
    add_python(parser, several=False)
    add_app(parser)
    add_loads(parser, connections=[50, 100, 200, 500], pipeline=[1, 16])
    add_batch_sizes(parser)
    add_rounds(parser, rounds=3, seconds=2)
    add_machine(parser)


def add_sweep(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Which batch_size is right, by handler and number of connections: request "
        "handlers and batch handlers, with nothing to do and with some work, on the "
        "loop and in a thread. Ends with the default that follows."
    )
    add_python(parser, several=False)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=sweep.KINDS,
        default=list(sweep.KINDS),
        metavar="KIND",
        help=f"which handlers (default: {' '.join(sweep.KINDS)})",
    )
    add_connections(parser, [50, 100, 200, 500])
    add_batch_sizes(parser)
    parser.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.svg",
        help="draw it there as well; takes matplotlib",
    )
    add_rounds(parser, rounds=3, seconds=2)
    add_machine(parser)


def add_batch_sizes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch-sizes",
        nargs="+",
        type=number(1, 256),
        default=[1, 8, 32, 128, 256],
        metavar="N",
        help="(default: 1 8 32 128 256)",
    )


def add_instructions(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Instructions per request outside the kernel, under a load that is the same "
        "each time; valgrind counts them, some seconds for each figure."
    )
    add_python(parser, several=True)
    add_app(parser)
    parser.add_argument(
        "--requests",
        type=number(100, 100_000),
        default=4096,
        metavar="N",
        help="how many are counted (default: %(default)s)",
    )
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="DIR",
        help="keep callgrind's files there, for callgrind_annotate",
    )
    add_machine(parser)


def add_listeners(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Persistent clients of several workers: how many each worker has, and how long "
        "each client waits for its first reply; with a socket for each worker "
        "(SO_REUSEPORT), a shared one, and a shared one with the roster."
    )
    add_python(parser, several=False)
    parser.add_argument(
        "--workers", nargs="+", type=number(2, 64), default=[2, 4], metavar="N",
        help="(default: 2 4)",
    )  # fmt: skip
    parser.add_argument(
        "--clients", nargs="+", type=number(1, 5000), default=[10, 100, 1000],
        metavar="N", help="next to workers + 1 (default: 10 100 1000)",
    )  # fmt: skip
    parser.add_argument(
        "--threads", action="store_true",
        help="workers that are threads: for a free-threaded Python",
    )  # fmt: skip
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write all figures there as well"
    )


def add_python(parser: argparse.ArgumentParser, several: bool) -> None:
    again = "; may be given several times" if several else ""
    parser.add_argument(
        "--python",
        action="append" if several else "store",
        metavar="[NAME=]PATH",
        help=f"an interpreter with fastbatch installed{again} "
        "(default: the one that runs this)",
    )


def add_app(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--app",
        choices=APPS,
        default="hello",
        help="a handler of bench/apps.py, or a WSGI application (default: %(default)s)",
    )


def add_loads(
    parser: argparse.ArgumentParser, connections: list[int], pipeline: list[int]
) -> None:
    add_connections(parser, connections)
    parser.add_argument(
        "--pipeline",
        nargs="+",
        type=number(1, 1000),
        default=pipeline,
        metavar="N",
        help=f"requests per write (default: {' '.join(map(str, pipeline))})",
    )


def add_connections(parser: argparse.ArgumentParser, connections: list[int]) -> None:
    parser.add_argument(
        "--connections",
        "-c",
        nargs="+",
        type=number(1, 10_000),
        default=connections,
        metavar="N",
        help=f"kept open by wrk (default: {' '.join(map(str, connections))})",
    )


def add_rounds(parser: argparse.ArgumentParser, rounds: int, seconds: int) -> None:
    parser.add_argument(
        "--rounds", type=number(1, 100), default=rounds, metavar="N",
        help="how often each figure is taken (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=number(1, 60), default=seconds, metavar="N",
        help="length of one measurement (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--warmup", type=number(0, 60), default=1, metavar="N",
        help="seconds of the same load before it (default: %(default)s)",
    )  # fmt: skip


def add_machine(parser: argparse.ArgumentParser) -> None:
    core = number(0, 10_000)
    parser.add_argument(
        "--server-core", type=core, metavar="N", help="(default: the first)"
    )
    parser.add_argument(
        "--wrk-core", type=core, metavar="N",
        help="(default: the next that is no sibling of the server's)",
    )  # fmt: skip
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write all figures there as well"
    )


class Pythons:
    """The interpreters to measure, asked what they are before anything is started.

    Those that are given no name are called after their Python, and ``alone`` if there
    is no other.
    """

    def __init__(self, given: Sequence[str] | None, alone: str = "") -> None:
        self.paths: dict[str, str] = {}
        self.about: dict[str, About] = {}
        given = given or [sys.executable]
        for text in given:
            self._add(text, alone if len(given) == 1 else "")

    def _add(self, text: str, default_name: str) -> None:
        name, _, path = text.rpartition("=")
        about = ask_about(path)
        name = name or default_name or describe_python(about)
        if name in self.paths:
            raise BenchError(f"two interpreters are called {name!r}: use NAME=PATH")
        self.paths[name] = path
        self.about[name] = about

    def with_options(self, *names: str) -> dict[str, str]:
        """Those whose fastbatch has these options; the others are named."""
        found = {}
        for name, path in self.paths.items():
            about = self.about[name]
            missing = [option for option in names if option not in about["options"]]
            if missing:
                warn(
                    f"{name}: its fastbatch {about['version']} has no option "
                    f"{' and no '.join(missing)}, so it has no such rows"
                )
            else:
                found[name] = path
        return found

    def subjects(self, app: str, batch_size: int = 256) -> list[Subject]:
        if app == "flask":
            for name, path in self.paths.items():
                require_frameworks(path, self.about[name])
        return [
            fastbatch_subject(name, path, app, batch_size)
            for name, path in self.paths.items()
        ]


def run_floor(args: argparse.Namespace) -> Report:
    pythons = Pythons(args.python)
    subjects = [floor_subject(), *pythons.subjects(args.app)]
    return run_measurement(args, pythons.about, subjects, compare_text)


def run_wsgi(args: argparse.Namespace) -> Report:
    return run_comparison(args, "wsgi", [floor_subject()])


def run_flask(args: argparse.Namespace) -> Report:
    return run_comparison(args, "flask", [], FRAMEWORKS)


def run_comparison(
    args: argparse.Namespace,
    app: str,
    before: Sequence[Subject],
    frameworks: Sequence[str] = (),
) -> Report:
    """What ``wsgi`` and ``flask`` share: fastbatch and the peers that are there."""
    pythons = Pythons(args.python, alone="fastbatch")
    peers = find_peers(args.venvs, app)
    warn_of_left_out(peers.left_out)
    subjects = [*before, *pythons.subjects(app), *peers.subjects]
    servers = pythons.about | peers.about
    text, found = run_measurement(args, servers, subjects, compare_text)
    found["left_out"] = peers.left_out
    return f"{text}\n\n{servers_text(servers, frameworks)}", found


def run_peers(args: argparse.Namespace) -> Report:
    known = MODEL_PEERS if args.batch else PEERS
    if unknown := set(args.names) - set(known):
        raise BenchError(f"{min(unknown)} is none of the peers: {', '.join(known)}")
    packages = MODEL_PACKAGES if args.batch else FRAMEWORKS
    peers = install_peers(args.venvs, args.python, args.names or known, packages)
    if peers.left_out:
        reasons = [f"{name}: {why}" for name, why in peers.left_out.items()]
        raise BenchError("not everything is installed.\n" + "\n".join(reasons))
    return servers_text(peers.about, packages), {}


def run_scale(args: argparse.Namespace) -> Report:
    find_wrk()
    pythons = Pythons(args.python)
    parts: list[tuple[str, dict[str, Any]]] = []
    if args.part != "mixed":
        parts.append(run_workers(args, pythons))
    if args.part != "workers":
        parts.append(run_mixed(args, pythons))
    found: dict[str, Any] = {
        "rounds": args.rounds,
        "seconds": args.seconds,
        "warmup": args.warmup,
        "wrk": wrk_version(),
        "servers": dict(pythons.about),
        "bars": [],
        "results": [],
    }
    for _, of_part in parts:
        found["servers"] |= of_part["servers"]
        found["bars"] += of_part["bars"]
        found["results"] += of_part["results"]
    texts = [text for text, _ in parts]
    return "\n\n".join([*texts, servers_text(found["servers"])]), found


def run_workers(args: argparse.Namespace, pythons: Pythons) -> Report:
    """Every kind of server with every number of workers."""
    paths = pythons.with_options("workers", "processes")
    peers = find_all_peers(args.venvs or [VENVS], scale.PEERS)
    kinds = [*scale.fastbatch_kinds(paths, pythons.about), *scale.peer_kinds(peers)]
    cores = all_cores()
    workers = sorted(set(args.workers or scale.default_workers(len(cores.common))))
    settings = Settings(args.rounds, args.seconds, args.warmup, cores)
    announce(cores, settings.expected_seconds(len(kinds) * len(workers) * 2))
    load = Load(args.connections)
    rows = scale.measure_rows(kinds, workers, load, settings, warn_of_failure)
    warn_of_others([row.result for row in rows])
    n_cores = len(cores.common)
    found = {
        "servers": scale.about_peers(peers),
        "bars": scale.bars(rows, n_cores),
        "results": [
            scale.row_to_json(row, base, n_cores) for row, base in scale.with_base(rows)
        ],
    }
    return scale.scale_text(rows, n_cores), found


def run_mixed(args: argparse.Namespace, pythons: Pythons) -> Report:
    """One worker each: what handler threads are for."""
    pythons.with_options("threads")
    peers = find_all_peers(args.venvs or [VENVS], mixed.PEERS)
    subjects = [
        *mixed.fastbatch_subjects(pythons.paths, pythons.about),
        *mixed.peer_subjects(peers),
    ]
    cores = choose_cores(args.server_core, args.wrk_core)
    settings = Settings(args.rounds, args.seconds, args.warmup, cores)
    announce(cores, 1.5 * settings.expected_seconds(len(subjects)))
    rows = mixed.measure_mixed(
        subjects, args.connections, args.rate, settings, warn_of_failure
    )
    warn_of_others([row.result for row in rows])
    found = {
        "servers": scale.about_peers(peers),
        "bars": [],
        "results": [mixed.row_to_json(row) for row in rows],
    }
    return mixed.mixed_text(rows, args.rate), found


def run_batch(args: argparse.Namespace) -> Report:
    find_wrk()
    if args.plot:
        require_svg(args.plot)
        require_matplotlib()
    pythons = Pythons([args.python] if args.python else None, alone="fastbatch")
    [(name, python)] = pythons.paths.items()
    require_packages(python, pythons.about[name], MODEL_PACKAGES, "numpy orjson")
    only, bodies = args.only, args.body
    if args.quick:
        only = [key for key in only if key in batch.QUICK_KEYS]
        bodies = batch.QUICK_BODIES
        args.rounds, args.seconds = batch.QUICK_ROUNDS, batch.QUICK_SECONDS
    wanted = [peer for peer in MODEL_PEERS if peer in only]
    peers = find_peers(args.venvs, "wsgi", wanted, MODEL_PACKAGES)
    warn_of_left_out(peers.left_out, "peers --batch")
    cores = choose_cores(args.server_core, args.wrk_core)
    settings = Settings(args.rounds, args.seconds, args.warmup, cores)
    with tempfile.TemporaryDirectory() as where:
        samples = batch.make_samples(python, Path(where))
        kinds = batch.Kinds(samples, Path(where), only)
        for body in bodies:
            kinds.add_fastbatch(python, body)
            kinds.add_peers(args.venvs, peers, body)
        announce(cores, batch.expected_seconds(kinds.found, args.connections, settings))
        rows, floor = batch.measure_batch(
            kinds.found, args.connections, samples, python, settings, warn_of_failure
        )
    warn_of_others([row.result for row in rows])
    if args.plot:
        write_plot(args.plot, batch.batch_panels(rows, floor), columns=3)
    servers = pythons.about | peers.about
    found = {
        "rounds": args.rounds,
        "seconds": args.seconds,
        "warmup": args.warmup,
        "wrk": wrk_version(),
        "servers": servers,
        "left_out": peers.left_out,
        "bars": batch.bars(rows, floor),
        "floor": batch.floor_to_json(floor),
        "results": [batch.row_to_json(row, rows, floor) for row in rows],
    }
    text = batch.batch_text(rows, floor)
    return f"{text}\n\n{servers_text(servers, MODEL_PACKAGES)}", found


def find_all_peers(
    venvs: Sequence[Path], names: Sequence[str]
) -> list[tuple[Path, Found]]:
    """Each place and which of these peers are there; the others are named."""
    peers = [(where, find_peers(where, "wsgi", names)) for where in venvs]
    for where, found in peers:
        in_which = f" (in {where})" if len(venvs) > 1 else ""
        warn_of_left_out({f"{n}{in_which}": w for n, w in found.left_out.items()})
    return peers


def run_log(args: argparse.Namespace) -> Report:
    pythons = Pythons([args.python] if args.python else None)
    [path] = pythons.paths.values()
    subjects = [
        fastbatch_subject("no log", path, args.app),
        fastbatch_subject("combined", path, args.app, access_log="combined"),
        fastbatch_subject("json", path, args.app, access_log="json"),
    ]
    return run_measurement(args, pythons.about, subjects, compare_text)


def run_seed(args: argparse.Namespace) -> Report:
    pythons = Pythons([args.python] if args.python else None)
    subjects = [
        subject
        for batch_size in args.batch_sizes
        for subject in pythons.subjects(args.app, batch_size)
    ]
    return run_measurement(args, pythons.about, subjects, seed_text)


def run_sweep(args: argparse.Namespace) -> Report:
    find_wrk()
    if args.plot:
        require_svg(args.plot)
        require_matplotlib()
    pythons = Pythons([args.python] if args.python else None)
    [path] = pythons.paths.values()
    kinds = [sweep.KINDS[name] for name in args.only]
    if not pythons.with_options("threads", "batch_wait"):
        kinds = [kind for kind in kinds if not kind.is_batch]
    sizes, connections = sorted(set(args.batch_sizes)), sorted(set(args.connections))
    cores = choose_cores(args.server_core, args.wrk_core)
    settings = Settings(args.rounds, args.seconds, args.warmup, cores)
    n_cells = len(kinds) * len(sizes) * len(connections)
    announce(cores, settings.expected_seconds(n_cells))
    rows = sweep.measure_rows(
        kinds, path, sizes, connections, settings, warn_of_failure
    )
    warn_of_others([row.result for row in rows])
    if args.plot:
        panels, columns = sweep.sweep_panels(rows)
        write_plot(args.plot, panels, columns=columns, share_y=True)
    found = {
        "rounds": args.rounds,
        "seconds": args.seconds,
        "warmup": args.warmup,
        "one_core": cores.shared,
        "wrk": wrk_version(),
        "servers": pythons.about,
        "results": sweep.rows_to_json(rows),
    }
    return sweep.sweep_text(rows), found


def run_measurement(
    args: argparse.Namespace,
    servers: Mapping[str, About],
    subjects: Sequence[Subject],
    to_text: Callable[[Sequence[Result]], str],
) -> Report:
    """What all but ``instructions`` share: all subjects under all loads."""
    find_wrk()
    cores = choose_cores(args.server_core, args.wrk_core)
    settings = Settings(args.rounds, args.seconds, args.warmup, cores)
    loads = [Load(c, depth) for depth in args.pipeline for c in args.connections]
    announce(cores, settings.expected_seconds(len(loads) * len(subjects)))
    results = measure_cells(subjects, loads, settings)
    warn_of_others(results)
    found = {
        "rounds": args.rounds,
        "seconds": args.seconds,
        "warmup": args.warmup,
        "one_core": cores.shared,
        "wrk": wrk_version(),
        "servers": servers,
        "results": [result_to_json(*pair) for pair in pair_with_base(results)],
    }
    return to_text(results), found


def run_listeners(args: argparse.Namespace) -> Report:
    pythons = Pythons([args.python] if args.python else None)
    [path] = pythons.paths.values()
    found = listeners.measure_all(path, args.workers, args.clients, args.threads)
    return listeners.to_text(found), {
        "servers": pythons.about,
        "threads": args.threads,
        "results": listeners.to_json(found),
    }


def run_instructions(args: argparse.Namespace) -> Report:
    find_valgrind()
    cores = choose_cores(args.server_core, args.wrk_core)
    pythons = Pythons(args.python)
    subjects = [floor_subject(), *pythons.subjects(args.app)]
    counts = count_all(subjects, args.requests, cores.server, args.keep)
    found = {
        "servers": pythons.about,
        "results": [count_to_json(one) for row in counts for one in row],
    }
    return instructions_text(counts), found


def announce(cores: Cores, seconds: float) -> None:
    """Say where and for how long, before it starts."""
    where = f"server on core {cores.server}, wrk on core {cores.wrk}"
    if cores.common:
        where = f"server and wrk on the same {len(cores.common)} core(s)"
    warn(f"{where}, about {math.ceil(seconds / 60)} min")
    if cores.shared:
        warn(
            "One core only: server and wrk take turns on it. CPU per request still\n"
            "tells servers apart; requests/s and latency are of both together."
        )


def warn_of_others(results: Sequence[Result]) -> None:
    """Say so if the machine had other things to do."""
    most = max(max(result.values(METRICS["others"])) for result in results)
    if most > OTHERS_PERCENT:
        warn(
            f"Other processes took up to {most:.0f} % of a core: the figures say\n"
            "little, requests/s and latency least. Measure again on an idle machine."
        )


def warn_of_failure(subject: Subject, error: BenchError) -> None:
    warn(f"{subject.name} is left out: {error}")


def warn_of_left_out(left_out: Mapping[str, str], command: str = "peers") -> None:
    for name, why in left_out.items():
        warn(f"{name} is left out: {why}. `python -m bench {command}` installs it.")


def warn(text: str) -> None:
    print(text, file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(arguments)
    # As at Ctrl-C, so that no server and no wrk is left behind: a terminal that closes
    # does not reach the servers, which are process groups of their own.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        raise_file_limit()
        text, found = args.run(args)
    except BenchError as error:
        warn(f"bench: {error}")
        return 1
    except KeyboardInterrupt:
        warn("bench: interrupted, nothing to show")
        return 130
    print(text)
    if args.json:
        found = {"benchmark": args.command, "machine": describe_machine(), **found}
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
