"""The command line: ``python -m bench --help``."""

import argparse
import json
import math
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from bench.compare import floor_text
from bench.errors import BenchError
from bench.instructions import (
    count_all,
    count_to_json,
    find_valgrind,
    instructions_text,
)
from bench.machine import Cores, choose_cores, describe_machine, raise_file_limit
from bench.measure import Settings, measure_cells
from bench.results import METRICS, Result, pair_with_base, result_to_json
from bench.seed import seed_text
from bench.servers import (
    Subject,
    ask_about,
    describe_python,
    fastbatch_subject,
    floor_subject,
)
from bench.wrk import Load, find_wrk, wrk_version

# What the rest of the machine may use before a reader is warned: the kernel's own
# threads and the runner stay below.
OTHERS_PERCENT = 10

# What a command finds: the text to print, and the same for --json.
Report: TypeAlias = tuple[str, dict[str, Any]]

APPS = ("hello", "binary", "json", "burn")

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
  python -m bench seed --connections 50     what batching gives
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
        ("seed", add_seed, run_seed, "batch sizes, from 1 (the control) to 256"),
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


def add_seed(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "The table of the system that the idea comes from: connections by batch_size, "
        "without and with pipelining. The first batch_size is the control."
    )
    add_python(parser, several=False)
    add_app(parser)
    add_loads(parser, connections=[50, 100, 200, 500], pipeline=[1, 16])
    parser.add_argument(
        "--batch-sizes",
        nargs="+",
        type=number(1, 256),
        default=[1, 8, 32, 128, 256],
        metavar="N",
        help="(default: 1 8 32 128 256)",
    )
    add_rounds(parser, rounds=3, seconds=2)
    add_machine(parser)


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
        help="the handler, of bench/apps.py (default: %(default)s)",
    )


def add_loads(
    parser: argparse.ArgumentParser, connections: list[int], pipeline: list[int]
) -> None:
    parser.add_argument(
        "--connections",
        "-c",
        nargs="+",
        type=number(1, 10_000),
        default=connections,
        metavar="N",
        help=f"kept open by wrk (default: {' '.join(map(str, connections))})",
    )
    parser.add_argument(
        "--pipeline",
        nargs="+",
        type=number(1, 1000),
        default=pipeline,
        metavar="N",
        help=f"requests per write (default: {' '.join(map(str, pipeline))})",
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
    """The interpreters to measure, asked what they are before anything is started."""

    def __init__(self, given: Sequence[str] | None) -> None:
        self.paths: dict[str, str] = {}
        self.about: dict[str, dict[str, Any]] = {}
        for text in given or [sys.executable]:
            self._add(text)

    def _add(self, text: str) -> None:
        name, _, path = text.rpartition("=")
        about = ask_about(path)
        name = name or describe_python(about)
        if name in self.paths:
            raise BenchError(f"two interpreters are called {name!r}: use NAME=PATH")
        self.paths[name] = path
        self.about[name] = about

    def subjects(self, app: str, batch_size: int = 256) -> list[Subject]:
        return [
            fastbatch_subject(name, path, app, batch_size)
            for name, path in self.paths.items()
        ]


def run_floor(args: argparse.Namespace, cores: Cores) -> Report:
    pythons = Pythons(args.python)
    subjects = [floor_subject(), *pythons.subjects(args.app)]
    return run_measurement(args, cores, pythons, subjects, floor_text)


def run_seed(args: argparse.Namespace, cores: Cores) -> Report:
    pythons = Pythons([args.python] if args.python else None)
    subjects = [
        subject
        for batch_size in args.batch_sizes
        for subject in pythons.subjects(args.app, batch_size)
    ]
    return run_measurement(args, cores, pythons, subjects, seed_text)


def run_measurement(
    args: argparse.Namespace,
    cores: Cores,
    pythons: "Pythons",
    subjects: Sequence[Subject],
    to_text: Callable[[Sequence[Result]], str],
) -> Report:
    """What ``floor`` and ``seed`` share: all subjects under all loads."""
    find_wrk()
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
        "servers": pythons.about,
        "results": [result_to_json(*pair) for pair in pair_with_base(results)],
    }
    return to_text(results), found


def run_instructions(args: argparse.Namespace, cores: Cores) -> Report:
    find_valgrind()
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


def warn(text: str) -> None:
    print(text, file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    args = make_parser().parse_args(arguments)
    # As at Ctrl-C, so that no server and no wrk is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        raise_file_limit()
        cores = choose_cores(args.server_core, args.wrk_core)
        text, found = args.run(args, cores)
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
