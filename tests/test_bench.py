"""The benchmark: it reads, counts and compares rightly, and its floor is a server."""

import dataclasses
import importlib.util
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import helpers
import pytest

# Last, so that ``import fastbatch`` still finds the one that is installed.
sys.path.append(str(Path(__file__).resolve().parent.parent))

from bench import __main__ as command_line
from bench import (
    batch,
    listeners,
    machine,
    measure,
    mixed,
    paced,
    peers,
    plot,
    scale,
    sweep,
    wrk,
)
from bench.compare import load_table, servers_text
from bench.errors import BenchError
from bench.figures import (
    Spread,
    batch_sizes,
    pairwise_ratios,
    spread,
    subtract,
)
from bench.floor import ROOT, VENDOR, build_floor, find_sources
from bench.instructions import parse_callgrind, read_exactly, read_reply
from bench.machine import Cores, CpuTime, all_cores, choose_cores, parse_core_list
from bench.measure import Reading, Settings
from bench.mixed import FastOnes, MixedRow, mixed_text
from bench.paced import Latencies, Pace, percentile, reply_length, run_paced
from bench.peers import (
    BATCHERS,
    FRAMEWORKS,
    MODEL_PACKAGES,
    MODEL_PEERS,
    PEERS,
    PINS,
    Found,
    find_peers,
    peer_subject,
    read_pins,
)
from bench.plot import COLOURS, INK, Axis, Panel, Series, legend_columns, write_plot
from bench.report import show, table
from bench.results import METRICS, Cell, Result, Sample
from bench.scale import Kind, Row, scale_text
from bench.seed import seed_text
from bench.servers import (
    About,
    Server,
    Subject,
    ask_about,
    fastbatch_subject,
    floor_subject,
    running,
)
from bench.serving import WSGI_APPS
from bench.wrk import Load, Post, WrkResult, parse_wrk
from bench.wsgi_apps import hello

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

WRK_OUTPUT = """\
Running 1s test @ http://127.0.0.1:1/
  1 threads and 100 connections
  Socket errors: connect 0, read 3, write 0, timeout 0
Requests/sec:  50000.00
{"requests": 50000, "duration": 1000000, "bytes": 7450000, "errors": {"connect": 0, \
"read": 3, "write": 0, "status": 1, "timeout": 0}, "latency": {"p50": 400, "p99": 900, \
"p99.9": 5000, "max": 8000}}
"""

needs_floor = pytest.mark.skipif(
    not (VENDOR / "llhttp").is_dir() or shutil.which("cc") is None,
    reason="the floor needs csrc/vendor (python csrc/fetch_vendor.py) and cc",
)
needs_wrk = pytest.mark.skipif(
    shutil.which("wrk") is None, reason="wrk is not installed"
)


# ---- what wrk says -------------------------------------------------------------------


def test_the_last_line_of_wrk_is_read() -> None:
    found = parse_wrk(WRK_OUTPUT)
    assert found.requests == 50_000
    assert found.seconds == 1.0
    assert found.latency["p99.9"] == 5000
    assert found.errors["read"] == 3


def test_wrk_without_a_result_is_an_error_that_shows_what_it_said() -> None:
    with pytest.raises(BenchError, match="unable to connect"):
        parse_wrk("unable to connect to 127.0.0.1:1\n")


def test_a_missing_wrk_is_an_error_that_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BenchError, match="apt-get install wrk"):
        wrk.find_wrk()


# ---- statistics ----------------------------------------------------------------------


def test_a_spread_is_the_median_with_the_extremes() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)


def test_ratios_are_taken_round_by_round() -> None:
    assert pairwise_ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]


def test_a_round_without_a_base_gives_no_ratio() -> None:
    assert pairwise_ratios([2.0, 9.0], [0.0, 3.0]) == [3.0]


def test_batch_sizes_are_counted_per_batch() -> None:
    counts = [0] * 257
    counts[1], counts[2], counts[8] = 2, 1, 1
    found = batch_sizes(counts, cap=8)
    assert found is not None
    assert (found.mean, found.p50, found.max, found.full) == (3.0, 1, 8, 0.25)


def test_no_batches_have_no_sizes() -> None:
    assert batch_sizes([0] * 257, cap=256) is None


def test_counters_of_the_warm_up_are_subtracted() -> None:
    assert subtract([5, 7], [5, 3]) == [0, 4]


# ---- samples, results, tables --------------------------------------------------------


def make_sample(load: Load, cpu: float = 0.5) -> Sample:
    result = parse_wrk(WRK_OUTPUT)
    return Sample(load, result, CpuTime(cpu, cpu / 10), others_seconds=0.02)


def make_result(name: str, load: Load, cpu: float, rounds: int = 2) -> Result:
    cell = Cell(Subject(name, ("true",)), load)
    return Result(cell, [make_sample(load, cpu) for _ in range(rounds)])


def test_cpu_time_is_per_request_that_wrk_counted() -> None:
    sample = make_sample(Load(100))
    assert sample.cpu_us == pytest.approx(10.0)
    assert sample.user_us == pytest.approx(1.0)
    assert sample.busy == pytest.approx(50.0)
    assert sample.others == pytest.approx(2.0)


def test_the_round_trip_follows_from_the_rate() -> None:
    assert make_sample(Load(100, 16)).round_trip_ms == pytest.approx(32.0)


def test_wrks_latencies_are_not_shown_for_pipelined_requests() -> None:
    assert make_sample(Load(100, 1)).p99_ms == pytest.approx(0.9)
    assert make_sample(Load(100, 16)).p99_ms is None


def test_a_server_that_answered_nothing_has_no_cpu_time_per_request() -> None:
    nothing = WrkResult(0, 1.0, 0, {"connect": 100}, {})
    sample = Sample(Load(100), nothing, CpuTime(0.0, 0.0), others_seconds=0.0)
    assert sample.cpu_us is None
    assert sample.round_trip_ms is None
    assert sample.errors == 100


def test_every_metric_is_a_property_of_a_sample() -> None:
    sample = make_sample(Load(100))
    for key in METRICS:
        getattr(sample, key)


def test_the_table_has_each_server_and_its_ratio_to_the_floor() -> None:
    load = Load(100)
    text = load_table(
        load, [make_result("floor", load, 0.5), make_result("mine", load, 0.6)]
    )
    line = next(line for line in text.splitlines() if "CPU per request" in line)
    assert line.split()[-4:] == ["10.00", "12.00", "x", "1.20"]
    assert "batch size" not in text


def test_the_seed_table_marks_the_control_and_the_other_machines_figures() -> None:
    load = Load(50)
    text = seed_text([make_result("1", load, 0.5), make_result("8", load, 0.4)])
    assert "1,981" in text
    assert "another machine" in text
    assert text.count("control    ") > 0
    assert "x 0.80" in text
    assert "errors in all cells: 16" in text


def test_a_spread_is_shown_with_its_extremes_unless_it_has_none() -> None:
    assert show(Spread(1234.5, 1000.0, 2000.0), 1) == "1,234.5 (1,000.0-2,000.0)"
    assert show(Spread(1.0, 1.0, 1.0), 0) == "1"
    assert show(None, 0) == "-"


def test_columns_are_as_wide_as_their_contents() -> None:
    assert table([["a", "bb"], ["ccc", "d"]]).splitlines() == [
        "a    bb",
        "---  --",
        "ccc   d",
    ]


@pytest.mark.parametrize("kind", listeners.KINDS)
def test_every_client_of_several_workers_is_counted_once(kind: str) -> None:
    setting = listeners.Setting(kind, 2, 5, "hello", at_once=True)
    with listeners.started(sys.executable, kind, 2, "hello", threads=False) as workers:
        found = listeners.measure(workers, setting)
        workers.wait_until_empty()
    assert (sum(found.spread), len(found.first_ms), found.starved) == (5, 5, 0)
    assert found.replies >= 5
    [_, _, row] = listeners.to_text([found]).splitlines()
    assert row.split()[:3] == [kind, "idle", "at"]


def test_callgrinds_total_is_read() -> None:
    assert parse_callgrind("events: Ir\n\nfn=(0)\n\nsummary: 12\ntotals: 12\n") == 12


# ---- the machine ---------------------------------------------------------------------


def test_all_cores_are_for_the_server_and_wrk_together(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {2, 3})
    assert choose_cores().of_server == {2}
    assert choose_cores().of_wrk == {3}
    assert all_cores().of_server == all_cores().of_wrk == {2, 3}
    command_line.announce(all_cores(), seconds=1)
    assert "server and wrk on the same 2 core(s)" in capsys.readouterr().err


def test_the_memory_of_two_processes_is_that_of_both() -> None:
    with running(two_processes("ends"), choose_cores().server) as server:
        first, second = server.pids()
        both = machine.memory_bytes(first, second)
        assert both > machine.memory_bytes(first) > 2**20
    with pytest.raises(BenchError, match=f"no memory of process {second}"):
        machine.memory_bytes(second)


def test_core_lists_are_read() -> None:
    assert parse_core_list("0-2,8\n") == {0, 1, 2, 8}


def test_wrk_avoids_the_sibling_of_the_servers_core(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3})
    monkeypatch.setattr(machine, "siblings", lambda _core: {0, 1})
    assert choose_cores() == Cores(server=0, wrk=2)


def test_a_core_that_is_not_there_is_an_error() -> None:
    with pytest.raises(BenchError, match="core 9999 is not one of"):
        choose_cores(server=9999)


def test_with_one_core_it_is_said_what_the_figures_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0})
    command_line.announce(choose_cores(), seconds=61)
    said = capsys.readouterr().err
    assert "about 2 min" in said
    assert "One core only" in said


def test_the_clock_of_a_process_counts_its_own_time() -> None:
    before = machine.cpu_time(os.getpid())
    sum(range(1_000_000))
    assert 0 < (machine.cpu_time(os.getpid()) - before).total < 10


# A server of two processes, as some peers are: the second answers, some time after the
# first has named the port. With an argument it ends at SIGTERM; without, half of it.
TWO_PROCESSES = """
import http.server, json, os, signal, socket, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *args):
        pass

# It keeps the port, or others could have it meanwhile; clients are refused.
taken = socket.socket()
taken.bind(("127.0.0.1", 0))
address = taken.getsockname()
print(json.dumps({"port": address[1]}), flush=True)
time.sleep(0.1)
child = os.fork()
if child == 0:
    server = http.server.HTTPServer(address, Handler, bind_and_activate=False)
    server.socket = taken
    server.server_activate()
    server.serve_forever()
if sys.argv[1:]:
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
os.wait()
"""


def two_processes(*arguments: str) -> Subject:
    return Subject("two", (sys.executable, "-c", TWO_PROCESSES, *arguments))


def test_all_processes_of_a_server_are_counted() -> None:
    with running(two_processes("ends"), choose_cores().server) as server:
        first, second = server.pids()
        assert first == server.pid
        assert os.sched_getaffinity(second) == {choose_cores().server}
        before = machine.cpu_time(second)
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/") as reply:
            assert reply.status == 200
        # The kernel adds what a process uses when it stops, or at the next tick.
        helpers.wait_until(lambda: machine.cpu_time(second).total > before.total)
        both = machine.cpu_time(first, second).total
        assert both >= machine.cpu_time(first).total + before.total
    assert server.pids() == []


def test_no_process_of_a_server_is_left_behind() -> None:
    with (
        pytest.raises(BenchError, match=r"two did not end within 0\.5 s of SIGTERM"),
        running(two_processes(), choose_cores().server) as server,
    ):
        server.end(0.5)
    # A process that was killed closes its output before its sockets.
    helpers.wait_until(lambda: is_refused(server.port), "being refused")


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        pass  # it was about to be closed
    return False


def test_a_server_that_ends_before_it_listens_is_an_error() -> None:
    ends = Subject("brief", (sys.executable, "-c", "print('{\"port\": 1}')"))
    with (
        pytest.raises(BenchError, match=r"brief does not answer: .*refused"),
        running(ends, choose_cores().server),
    ):
        pytest.fail("it cannot be measured")


def test_the_clock_is_read_when_the_server_is_idle(
    monkeypatch: pytest.MonkeyPatch, fake_server: Server
) -> None:
    readings = iter([1.0, 1.09, 1.15, 1.151, 9.0])
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    monkeypatch.setattr(measure, "cpu_time", lambda *_: CpuTime(next(readings), 0))
    measure.settle(fake_server)
    assert next(readings) == 9.0


def test_a_server_that_loses_a_process_gives_no_figure(
    monkeypatch: pytest.MonkeyPatch, fake_server: Server
) -> None:
    readings = iter([Reading([1, pid], CpuTime(0, 0), 0, 0, None) for pid in (2, 3)])
    monkeypatch.setattr(Reading, "take", lambda *_: next(readings))
    monkeypatch.setattr(measure, "run_wrk", lambda *_: parse_wrk(WRK_OUTPUT))
    monkeypatch.setattr(measure, "settle", lambda _server: None)
    settings = Settings(1, 1, 1, Cores(0, 1))
    with pytest.raises(BenchError, match="fake started or lost a process"):
        measure.measure(fake_server, Load(1), settings)


@pytest.fixture
def fake_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(Server, "pids", lambda _self: [1])
    with subprocess.Popen(["true"], stdout=subprocess.PIPE) as process:
        yield Server(Subject("fake", ("true",)), process)


# ---- the peers -----------------------------------------------------------------------


def make_about(server: str, **changes: str | None) -> About:
    pins = read_pins(PINS.read_text())
    about = {
        "server": server,
        "version": pins.get(server, "1.0"),
        "implementation": "CPython",
        "python": "3.13.0",
        "free_threaded": False,
        "gil": True,
        **{name: pins[name] for name in (*FRAMEWORKS, *MODEL_PACKAGES)},
    }
    return about | changes


def test_every_peer_and_all_of_flask_has_an_exact_version() -> None:
    text = PINS.read_text()
    pins = read_pins(text)
    assert {*PEERS, *MODEL_PEERS, *FRAMEWORKS, *MODEL_PACKAGES} <= pins.keys()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines == [f"{name}=={version}" for name, version in pins.items()]


@pytest.mark.parametrize("name", [*PEERS, *BATCHERS])
def test_serve_peer_knows_every_peer(name: str) -> None:
    about = peers.about_peer(name, sys.executable)
    assert about["server"] == name
    assert about.keys() == make_about(name).keys()


def test_other_versions_than_the_pinned_are_named() -> None:
    about = make_about("granian", version="1.0", flask=None)
    pins = read_pins(PINS.read_text())
    assert peers.wrong_versions(about, ["granian", *FRAMEWORKS]) == [
        f"granian is 1.0 and not {pins['granian']}",
        f"flask is missing and not {pins['flask']}",
    ]
    assert peers.wrong_versions(make_about("granian"), ["granian", *FRAMEWORKS]) == []


def test_an_interpreter_without_the_same_flask_is_told_how_to_get_it() -> None:
    peers.require_frameworks("mine", make_about("fastbatch"))
    command = r"`mine -m pip install -c bench/peers\.txt flask`"
    with pytest.raises(BenchError, match=rf"flask is missing .*run {command}"):
        peers.require_frameworks("mine", make_about("fastbatch", flask=None))
    with pytest.raises(BenchError, match=r"werkzeug is 1\.0 and not"):
        peers.require_frameworks("mine", make_about("fastbatch", werkzeug="1.0"))


def test_peers_that_are_not_there_are_left_out_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(name: str, _python: str) -> About:
        if name == "bjoern":
            raise ImportError("no libev")
        return make_about(name)

    for name in ("bjoern", "granian"):
        python = peers.venv_python(tmp_path, name)
        python.parent.mkdir(parents=True)
        python.touch()
    monkeypatch.setattr(peers, "about_peer", ask)
    found = find_peers(tmp_path, "flask")
    assert found.left_out == {"bjoern": "no libev", "fastpysgi": "it is not installed"}
    assert found.about == {"granian": make_about("granian")}
    assert [subject.name for subject in found.subjects] == ["granian"]
    assert found.subjects[0].command[-2:] == ("granian", "flask")


def test_who_is_left_out_is_told_how_to_install_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command_line.warn_of_left_out({"bjoern": "it is not installed"})
    said = capsys.readouterr().err
    assert "bjoern is left out: it is not installed." in said
    assert "`python -m bench peers`" in said


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("x.h:1:1: fatal error: ev.h: No such file or directory\n", "libev-dev"),
        ("x.h:1:1: fatal error: Python.h: No such file or directory", "python3-dev"),
        ("error: command 'x86_64-linux-gnu-gcc' failed: No such file", "libc6-dev"),
        ("maturin failed\nerror: metadata-generation-failed", "another Python"),
        ("so\nERROR: No matching distribution\n\nhint: none\n", "ERROR: No matching"),
        ("so\n", "so"),
        ("", "said nothing"),
    ],
)
def test_why_a_peer_is_not_installed_is_one_sentence(output: str, reason: str) -> None:
    assert reason in peers.failure(output)
    assert "\n" not in peers.failure(output)


def test_what_an_installation_says_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = "raise SystemExit('fatal error: ev.h: No such file or directory')"
    with pytest.raises(BenchError, match=r"libev-dev; see .*log"):
        peers.run_logged([sys.executable, "-c", code], log)
    assert "fatal error" in log.read_text()


def test_one_peer_that_fails_does_not_stop_the_others(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = []

    def install(name: str, *_: object) -> None:
        asked.append(name)
        if name == "bjoern":
            raise BenchError("libev's headers are missing")

    monkeypatch.setattr(peers, "install_peer", install)
    assert command_line.main(["peers", "--venvs", str(tmp_path)]) == 1
    assert asked == list(PEERS)
    assert "\nbjoern: libev's headers are missing\n" in capsys.readouterr().err


def test_a_venv_is_made_once_and_again_for_another_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    in_venv = str(peers.venv_python(tmp_path, "granian"))
    Path(in_venv).parent.mkdir(parents=True)
    Path(in_venv).touch()
    pythons = {"old": "3.12.1", "new": "3.13.0", in_venv: "3.12.1"}
    monkeypatch.setattr(
        peers,
        "about_peer",
        lambda name, python: make_about(name, python=pythons[python]),
    )
    monkeypatch.setattr(
        peers, "run_logged", lambda command, _: commands.append(command)
    )
    peers.install_peer("granian", tmp_path, "old")
    assert [command[:4] for command in commands] == [
        [in_venv, "-m", "pip", "--disable-pip-version-check"]
    ]
    assert commands[0][4:] == ["install", "-c", str(PINS), "granian", *FRAMEWORKS]
    peers.install_peer("granian", tmp_path, "new")
    assert commands[1][:4] == ["new", "-m", "venv", "--clear"]


def test_the_versions_of_what_ran_are_shown() -> None:
    servers = {"mine": make_about("fastbatch"), "bjoern": make_about("bjoern")}
    header, _, mine, _ = servers_text(servers, FRAMEWORKS).splitlines()
    assert header.split() == ["server", "version", "Python", "flask", "werkzeug"]
    flask, werkzeug = (servers["mine"][name] for name in FRAMEWORKS)
    assert mine.split() == [
        *("mine", "fastbatch", "1.0", "CPython", "3.13.0", flask, werkzeug)
    ]


def test_the_only_interpreter_is_called_fastbatch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def names(*given: str) -> list[str]:
        return list(command_line.Pythons(given, alone="fastbatch").about)

    monkeypatch.setattr(
        command_line,
        "ask_about",
        lambda path: make_about("fastbatch", python=path),
    )
    assert names("3.13.0") == ["fastbatch"]
    assert names("mine=3.13.0") == ["mine"]
    assert names("3.13.0", "3.12.0") == ["CPython 3.13.0", "CPython 3.12.0"]


def test_the_wsgi_application_answers_as_the_handler_does() -> None:
    said: list[Any] = []

    def start_response(*arguments: Any) -> Any:
        said.extend(arguments)
        return lambda _data: None

    environ: dict[str, Any] = {"REQUEST_METHOD": "GET", "QUERY_STRING": ""}
    setup_testing_defaults(environ)
    start: StartResponse = start_response
    body = validator(hello)(environ, start)
    assert b"".join(body) == b"Hello, World!"
    body.close()  # type: ignore[attr-defined]
    assert said[:2] == [
        "200 OK",
        [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", "13")],
    ]


@pytest.mark.parametrize("app", WSGI_APPS)
def test_fastbatch_is_told_that_an_application_is_a_wsgi_one(app: str) -> None:
    command = fastbatch_subject("mine", "python", app).command
    assert command[-2:] == ("--interface", "wsgi")
    assert "--interface" not in fastbatch_subject("mine", "python", "hello").command


# What serve_peer.py uses of bjoern.
STAND_IN = """
import socket
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

def bind_and_listen(host, port, listen_backlog):
    return socket.create_server((host, port), backlog=listen_backlog)

def server_run(listener, app):
    server = WSGIServer(listener.getsockname(), WSGIRequestHandler, False)
    server.socket.close()
    server.socket = listener
    server.server_name, server.server_port = listener.getsockname()
    server.setup_environ()
    server.set_app(app)
    server.serve_forever()
"""


def test_a_peer_serves_the_wsgi_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bjoern.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    command = (sys.executable, str(peers.SERVE_PEER), "bjoern", "wsgi")
    with (
        running(Subject("bjoern", command), choose_cores().server) as server,
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/") as reply,
    ):
        assert reply.read() == b"Hello, World!"
        assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"


# ---- workers -------------------------------------------------------------------------


def make_scale_sample(
    requests: int,
    wrk_seconds: float,
    memory: int = 2**20,
    errors: int = 0,
    others: float = 0.0,
) -> Sample:
    """One second."""
    latency = parse_wrk(WRK_OUTPUT).latency
    found = WrkResult(requests, 1.0, 0, {"read": errors}, latency)
    return Sample(
        Load(64),
        found,
        CpuTime(1.0, 0.5),
        others,
        wrk_seconds=wrk_seconds,
        memory=memory,
    )


def make_kind(name: str = "mine", is_ours: bool = True) -> Kind:
    def subject(app: str, workers: int) -> Subject:
        return Subject(name, ("true", app, str(workers)))

    return Kind(name, subject, has_bar=is_ours, in_threads=is_ours)


def make_row(kind: Kind, app: str, workers: int, *samples: Sample) -> Row:
    cell = Cell(kind.subject(app, workers), Load(64))
    return Row(kind, app, workers, Result(cell, list(samples)))


def make_pair(kind: Kind, app: str, rate: int, memory: int = 2**20) -> list[Row]:
    """One worker serves 16,000, two ``rate``, of which wrk takes a quarter core."""
    return [
        make_row(kind, app, 1, make_scale_sample(16_000, 0.125)),
        make_row(kind, app, 2, make_scale_sample(rate, 0.25, memory)),
    ]


def test_one_worker_has_a_core_while_wrk_has_another() -> None:
    sample = make_scale_sample(16_000, wrk_seconds=0.125)
    assert scale.cores_left(sample, workers=1, n_cores=2) == 1
    assert scale.cores_left(sample, workers=2, n_cores=2) == pytest.approx(1.875)
    assert scale.cores_left(sample, workers=1, n_cores=1) == pytest.approx(0.875)
    assert scale.cores_left(sample, workers=2, n_cores=4) == 2
    all_of_it = make_scale_sample(1, wrk_seconds=1.01)
    assert scale.cores_left(all_of_it, workers=1, n_cores=1) > 0


def test_the_useful_share_is_the_applications_own_work() -> None:
    # 16,000 x 50 us in a second are 0.8 s.
    sample = make_scale_sample(16_000, wrk_seconds=0.0)
    assert scale.useful_share(sample, workers=1, n_cores=2) == pytest.approx(0.8)
    assert scale.useful_share(sample, workers=2, n_cores=2) == pytest.approx(0.4)


def test_what_wrk_took_is_added_as_if_used_as_well_as_the_rest() -> None:
    one = make_scale_sample(16_000, wrk_seconds=0.125)
    two = make_scale_sample(28_000, wrk_seconds=0.25)
    ratio = scale.corrected_ratio(two, 2, one, 1, n_cores=2)
    assert ratio == pytest.approx(28_000 / 16_000 * 2 / 1.75)


def test_nothing_is_corrected_where_wrk_has_cores_of_its_own() -> None:
    one = make_scale_sample(16_000, wrk_seconds=0.5)
    two = make_scale_sample(28_000, wrk_seconds=1.0)
    assert scale.corrected_ratio(two, 2, one, 1, n_cores=3) == pytest.approx(1.75)


def test_two_workers_that_do_no_more_than_one_are_not_corrected_upwards() -> None:
    one = make_scale_sample(16_000, wrk_seconds=0.125)
    same = make_scale_sample(16_000, wrk_seconds=0.125)
    ratio = scale.corrected_ratio(same, 2, one, 1, n_cores=2)
    assert ratio == pytest.approx(2 / 1.875)


def test_rows_are_compared_with_one_worker_of_the_same_server_and_application() -> None:
    mine, other = make_kind("mine"), make_kind("other", is_ours=False)
    rows = [
        row
        for kind in (mine, other)
        for app in ("wsgi", "wsgi-burn")
        for row in make_pair(kind, app, 28_000)
    ]
    for row, base in scale.with_base(rows):
        assert (base.kind, base.app, base.workers) == (row.kind, row.app, 1)


def test_the_bars_are_met_and_missed() -> None:
    kind = make_kind()
    met = scale.bars(make_pair(kind, "wsgi-burn", 28_000, 1_300_000), n_cores=2)
    assert met == [
        "met: mine: at least 1.7 times the CPU-bound work of one: x 2.00, raw x 1.75",
        "met: mine: under 1.3 times the memory of one (50 us of CPU time in every "
        "request): x 1.24",
    ]
    missed = scale.bars(make_pair(kind, "wsgi-burn", 20_000, 1_400_000), n_cores=2)
    assert [text.partition(":")[0] for text in missed] == ["MISSED", "MISSED"]
    [text] = scale.bars(make_pair(kind, "wsgi", 20_000, 1_300_000), n_cores=2)
    assert "CPU-bound" not in text
    assert text.startswith("met: mine: under 1.3 times the memory")


def test_no_bar_is_for_a_peer_nor_for_processes_memory() -> None:
    assert scale.bars(make_pair(make_kind("x", False), "wsgi-burn", 1), 2) == []
    kind = scale.fastbatch_kind("3.13", "python3.13", processes=True)
    [text] = scale.bars(make_pair(kind, "wsgi-burn", 28_000), n_cores=2)
    assert "memory" not in text


def test_a_busy_machine_says_nothing_of_two_workers() -> None:
    one, two = make_pair(make_kind(), "wsgi-burn", 28_000)
    busy = make_row(two.kind, two.app, 2, make_scale_sample(28_000, 0.25, others=0.5))
    text, _ = scale.bars([one, busy], n_cores=2)
    assert text.startswith("not to be said: mine: at least 1.7 times")
    assert text.endswith("x 2.00, raw x 1.75; other processes took 50 % of a core")


def test_one_core_says_nothing_of_two_workers() -> None:
    text, _ = scale.bars(make_pair(make_kind(), "wsgi-burn", 16_000), n_cores=1)
    assert text.endswith("there are no two cores")


def test_the_table_of_workers_has_both_ratios_and_all_errors() -> None:
    rows = [
        make_row(make_kind(), "wsgi-burn", 1, *[make_scale_sample(16_000, 0.125)] * 2),
        make_row(
            make_kind(),
            "wsgi-burn",
            2,
            make_scale_sample(28_000, 0.25, 2**21, errors=3),
            make_scale_sample(28_000, 0.25, 2**21, errors=4),
        ),
    ]
    _, header, _, one, two = scale_text(rows, n_cores=2).splitlines()[:5]
    assert header.split()[:3] == ["server", "workers", "requests/s"]
    assert one.split()[:3] == ["mine", "1", "16,000"]
    assert two.split() == [
        *("mine", "2", "28,000", "x", "1.75", "25", "80.0", "x", "2.00"),
        *("100", "35.71", "2.0", "x", "2.00", "7"),
    ]
    assert one.split()[-1] == "0"
    found = scale.row_to_json(rows[1], rows[0], n_cores=2)
    assert found["corrected_ratio"]["median"] == pytest.approx(2.0)
    assert (found["workers"], found["app"]) == (2, "wsgi-burn")
    json.dumps(found)


def test_a_round_in_which_one_worker_answered_nothing_gives_no_ratio() -> None:
    nothing = make_scale_sample(0, 0.0)
    one = make_row(make_kind(), "wsgi-burn", 1, nothing)
    two = make_row(make_kind(), "wsgi-burn", 2, make_scale_sample(28_000, 0.25))
    assert scale.corrected(two, one, n_cores=2) is None
    assert "not to be said" in scale_text([one, two], n_cores=2)


def test_as_many_workers_are_measured_as_there_are_cores() -> None:
    assert scale.default_workers(1) == [1, 2]
    assert scale.default_workers(2) == [1, 2]
    assert scale.default_workers(6) == [1, 2, 4]


def test_workers_are_threads_only_where_there_is_no_gil() -> None:
    about = {"3.13": {"gil": True}, "3.13t": {"gil": False}}
    kinds = scale.fastbatch_kinds({name: name for name in about}, about)
    assert [kind.name for kind in kinds] == [
        "fastbatch, 3.13, processes",
        "fastbatch, 3.13t, threads",
        "fastbatch, 3.13t, processes",
    ]
    assert [kind.in_threads for kind in kinds] == [False, True, False]
    command = kinds[1].subject("wsgi", 2).command
    assert command[2:] == (
        *("wsgi", "--workers", "2", "--processes", "no"),
        *("--interface", "wsgi"),
    )


def test_peers_are_told_how_many_workers_and_threads() -> None:
    command = peer_subject("granian", Path("venvs"), "wsgi", 2, 8).command
    assert command[2:] == ("granian", "wsgi", "--workers", "2", "--threads", "8")
    command = peer_subject("granian", Path("venvs"), "wsgi").command
    assert command[2:] == ("granian", "wsgi")


def test_an_older_fastbatch_without_the_option_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"old": ["bind"], "new": ["bind", "workers", "processes"]}
    monkeypatch.setattr(
        command_line,
        "ask_about",
        lambda path: make_about("fastbatch") | {"options": options[path]},
    )
    pythons = command_line.Pythons(["old=old", "new=new"])
    assert pythons.with_options("workers", "processes") == {"new": "new"}
    said = capsys.readouterr().err
    assert "old: its fastbatch 1.0 has no option workers and no processes" in said
    assert "new" not in said


def test_a_server_that_fails_is_left_out_and_the_others_are_measured() -> None:
    kind = make_kind()
    good, bad = (Result(Cell(kind.subject("wsgi", n), Load(1))) for n in (1, 2))
    left_out: list[str] = []

    def sample(result: Result) -> None:
        # It fails in the second round: what was taken in the first is of no use.
        if result is bad and result.samples:
            raise BenchError("it does not answer")
        result.samples.append(make_scale_sample(1, 0.0))

    measure.in_rounds(
        [good, bad], 3, sample, lambda _, error: left_out.append(str(error))
    )
    assert left_out == ["it does not answer"]
    assert (len(good.samples), len(bad.samples)) == (3, 0)
    with pytest.raises(BenchError, match="it does not answer"):
        measure.in_rounds([good, bad], 3, sample)


# ---- the mixed load ------------------------------------------------------------------


def test_one_request_of_a_hundred_is_slow() -> None:
    pace = Pace(1000, 100, 10)
    assert [n for n in range(300) if pace.is_slow(n)] == [99, 199, 299]


def test_a_percentile_is_the_value_that_so_many_are_not_above() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert percentile(values, 50) == 50.0
    assert percentile(values, 99) == 99.0
    assert percentile([7.0], 99) == 7.0
    with pytest.raises(BenchError, match="no request was answered"):
        percentile([], 50)


def test_the_length_of_a_reply_is_that_of_head_and_body() -> None:
    head = b"HTTP/1.1 200 OK\r\nX: y\r\ncontent-length: 13\r\n\r\n"
    assert reply_length(head[:-1]) is None
    assert reply_length(head) == reply_length(head + b"Hello") == len(head) + 13
    with pytest.raises(BenchError, match="without Content-Length"):
        reply_length(b"HTTP/1.1 200 OK\r\n\r\n")


def test_the_latencies_of_the_fast_ones_are_apart() -> None:
    found = Latencies(fast=[0.001] * 99 + [0.003], slow=[0.05], errors=2, late=[0.0])
    assert mixed.summary(found) == FastOnes(
        p50=1.0, p99=1.0, max=3.0, slow_p50=50.0, client_late=0.0, errors=2
    )


def test_the_table_of_the_mixed_load_counts_errors_of_both_clients() -> None:
    result = make_row(
        make_kind(), mixed.APP, 1, make_scale_sample(1000, 0.1, errors=3)
    ).result
    row = MixedRow(result, [FastOnes(0.5, 1.25, 3.0, 50.5, 0.1, errors=4)])
    title, _, _, cells = mixed_text([row], rate=1000).splitlines()
    assert title == "1 of 100 requests waits for 50 ms; times at 1,000 requests/s"
    assert cells.split()[-6:] == ["0.50", "1.25", "3.00", "50.50", "0.10", "7"]
    assert mixed.row_to_json(row)["paced"][0]["p99"] == 1.25


def test_threads_are_measured_where_fastbatch_has_them() -> None:
    about = {"old": {"options": []}, "new": {"options": ["threads"]}}
    subjects = mixed.fastbatch_subjects({name: name for name in about}, about)
    assert [subject.name for subject in subjects] == [
        "fastbatch, old, no threads",
        "fastbatch, new, no threads",
        "fastbatch, new, 8 threads",
    ]
    assert "--threads" not in subjects[1].command
    assert subjects[2].command[-4:] == ("--threads", "8", "--interface", "wsgi")


# Answers each connection on a thread of its own: 404 to the third request of each, and
# hangs up instead of answering the fifth.
THREADED = """
import json, socket, socketserver, time

class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        for n in range(1, 5):
            head = b""
            while not head.endswith(b"\\r\\n\\r\\n"):
                data = self.request.recv(65536)
                if not data:
                    return
                head += data
            if head.startswith(b"GET /slow "):
                time.sleep(0.05)
            status = b"404 No" if n == 3 else b"200 OK"
            rest = b"\\r\\nContent-Length: 2\\r\\n\\r\\nok"
            self.request.sendall(b"HTTP/1.1 " + status + rest)
        self.request.recv(65536)

socketserver.ThreadingTCPServer.daemon_threads = True
with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
    print(json.dumps({"port": server.server_address[1]}), flush=True)
    server.serve_forever()
"""


def test_the_paced_client_counts_every_request_once() -> None:
    threaded = Subject("threaded", (sys.executable, "-c", THREADED))
    with running(threaded, all_cores().of_server) as server:
        found = run_paced(server.port, Pace(200, 33, connections=1), seconds=1)
        several = run_paced(server.port, Pace(200, 33, connections=5), seconds=1)
    # Of five requests the third is refused and the last not answered. Six of all are
    # slow, and three of these are such.
    assert (len(found.fast), len(found.slow), found.errors) == (117, 3, 80)
    assert min(found.slow) >= 0.05
    assert min(found.fast) < min(found.slow)
    assert len(several.fast) + len(several.slow) + several.errors == 200


def test_a_request_that_waits_for_a_connection_is_late_by_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(paced, "PATIENCE_SECONDS", 0.0)
    threaded = Subject("threaded", (sys.executable, "-c", THREADED))
    with running(threaded, all_cores().of_server) as server:
        # Every request takes 50 ms on the one connection, and each 10 ms one is due.
        found = run_paced(server.port, Pace(100, 1, connections=1), seconds=0.2)
    assert found.slow[1] >= 0.09
    assert len(found.slow) + found.errors == 20
    assert len(found.late) == 1


def test_wrks_script_asks_for_slow_now_and_then_if_told() -> None:
    assert wrk.wrk_command(1, Load(1, 1), 1)[-2:] == ["1", "0"]
    assert wrk.wrk_command(1, Load(1, slow_every=100), 1)[-2:] == ["1", "100"]


# ---- the command line ----------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["floor", "--rounds", "0"],
        ["floor", "--seconds", "61"],
        ["floor", "--connections", "x"],
        ["wsgi", "--rounds", "0"],
        ["flask", "--pipeline", "1001"],
        ["seed", "--batch-sizes", "257"],
        ["sweep", "--batch-sizes", "0"],
    ],
)
def test_counts_and_times_are_bounded(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command_line.main(arguments)
    assert "is no whole number from 1 to" in capsys.readouterr().err


def test_an_interpreter_that_does_not_exist_is_one_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command_line.main(["seed", "--python", "/nowhere/python"]) == 1
    assert "bench: /nowhere/python does not run" in capsys.readouterr().err


# ---- the floor -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def floor() -> Iterator[Server]:
    with running(floor_subject(), choose_cores().server) as server:
        yield server


@pytest.fixture
def peer(floor: Server) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", floor.port), timeout=10) as sock:
        yield sock


def test_without_the_vendored_sources_it_is_said_how_to_get_them(
    tmp_path: Path,
) -> None:
    with pytest.raises(BenchError, match=r"python csrc/fetch_vendor\.py"):
        find_sources(tmp_path)


@needs_floor
def test_the_floor_is_built_once() -> None:
    first = build_floor()
    built = first.stat().st_mtime_ns
    assert build_floor() == first
    assert first.stat().st_mtime_ns == built


@needs_floor
def test_the_floor_answers(peer: socket.socket) -> None:
    peer.sendall(GET)
    head, _, body = read_reply(peer).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == b"Hello, World!"


@needs_floor
@pytest.mark.parametrize("n", [1, 16, 10_000])
def test_the_floor_answers_all_pipelined_requests(peer: socket.socket, n: int) -> None:
    peer.sendall(GET)
    reply = read_reply(peer)
    peer.sendall(GET * n)
    assert read_exactly(peer, len(reply) * n) == reply * n
    # Nothing is left over: the next bytes answer the next request.
    peer.sendall(GET)
    assert read_reply(peer) == reply


@needs_floor
def test_the_floor_takes_a_request_in_pieces(peer: socket.socket) -> None:
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for i in range(len(GET)):
        peer.sendall(GET[i : i + 1])
    assert read_reply(peer).endswith(b"Hello, World!")


@needs_floor
@pytest.mark.parametrize(
    "request_bytes",
    [b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n"],
)
def test_the_floor_closes_when_asked_to(
    peer: socket.socket, request_bytes: bytes
) -> None:
    peer.sendall(request_bytes)
    read_reply(peer)
    assert peer.recv(1) == b""


@needs_floor
def test_the_floor_closes_on_what_is_no_request(peer: socket.socket) -> None:
    peer.sendall(b"what?\r\n\r\n")
    assert peer.recv(1) == b""


# ---- all of it -----------------------------------------------------------------------


@pytest.fixture
def fastbatch() -> Subject:
    try:
        ask_about(sys.executable)
    except BenchError as error:
        pytest.skip(str(error))
    return fastbatch_subject("fastbatch", sys.executable)


@needs_floor
@pytest.mark.usefixtures("fastbatch")
@pytest.mark.parametrize("app", ["hello", "wsgi"])
def test_fastbatchs_reply_is_as_long_as_the_floors(
    peer: socket.socket, app: str
) -> None:
    subject = fastbatch_subject("fastbatch", sys.executable, app)
    with (
        running(subject, choose_cores().server) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as other,
    ):
        peer.sendall(GET)
        other.sendall(GET)
        assert len(read_reply(other)) == len(read_reply(peer))


@needs_floor
@needs_wrk
@pytest.mark.usefixtures("fastbatch")
def test_one_short_round_next_to_the_floor(tmp_path: Path) -> None:
    output = tmp_path / "floor.json"
    for seconds in ("1", "5"):  # where others take the cores, none is answered in one
        done = subprocess.run(
            [
                *(sys.executable, "-m", "bench", "floor", "--json", str(output)),
                *("--rounds", "1", "--seconds", seconds, "--warmup", "0"),
                *("--connections", "20", "--pipeline", "1", "16"),
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        assert "c=20, 16 per write" in done.stdout
        results = json.loads(output.read_text())["results"]
        if all(result["metrics"]["rate"]["median"] > 0 for result in results):
            break
    assert len(results) == 4
    for result in results:
        assert result["metrics"]["rate"]["median"] > 0
        assert result["metrics"]["errors"]["high"] == 0
    compared = [result for result in results if result["batch_size"]]
    assert [r["pipeline"] for r in compared] == [1, 16]
    for result in compared:
        assert result["metrics"]["cpu_us"]["ratio"]["median"] > 0
        assert 1 <= result["metrics"]["batch_mean"]["median"] <= 256


def run_scale(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    """``scale`` in its shortest form, without peers."""
    output = tmp_path / "scale.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "bench", "scale", "--json", str(output)),
            *("--rounds", "1", "--seconds", "1", "--warmup", "0"),
            *("--connections", "10", "--venvs", str(tmp_path), *arguments),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "granian is left out: it is not installed" in done.stderr
    found: dict[str, Any] = json.loads(output.read_text())
    for result in found["results"]:
        assert result["metrics"]["rate"]["median"] > 0
        assert result["metrics"]["errors"]["high"] == 0
        assert result["metrics"]["memory_mib"]["median"] > 1
    return found


@needs_wrk
@pytest.mark.usefixtures("fastbatch")
def test_one_short_round_of_the_mixed_load(tmp_path: Path) -> None:
    found = run_scale(tmp_path, "--part", "mixed", "--rate", "100")
    n_kinds = 2 if "threads" in ask_about(sys.executable)["options"] else 1
    assert len(found["results"]) == n_kinds
    for result in found["results"]:
        [one] = result["paced"]
        assert one["errors"] == 0
        assert one["slow_p50"] >= 50
        assert one["p50"] <= one["p99"] <= one["max"]


@needs_wrk
@pytest.mark.usefixtures("fastbatch")
def test_one_short_round_with_one_worker(tmp_path: Path) -> None:
    found = run_scale(tmp_path, "--part", "workers", "--workers", "1")
    assert {result["app"] for result in found["results"]} == scale.APPS.keys()
    burnt = [r for r in found["results"] if r["app"] == scale.CPU_BOUND]
    for result in burnt:
        # The server's own clock agrees that every request took what it is to take.
        assert result["metrics"]["cpu_us"]["median"] > 50
        assert 0 < result["useful_share"][0] < 1


# ---- plots ---------------------------------------------------------------------------


def make_panel(title: str, names: Sequence[str], is_log: bool = False) -> Panel:
    lines = [Series(name, [(1, 10 + n), (256, 90)]) for n, name in enumerate(names)]
    x = Axis("batch_size", is_log=True, ticks=(1, 256))
    return Panel(title, x, Axis("latency p99, ms", is_log), lines)


def test_a_plot_has_its_texts_and_is_the_same_each_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    panels = [
        make_panel("on the loop", ["c=50", "c=500"]),
        make_panel("in a thread", ["c=50", "c=200"], is_log=True),
        make_panel("elsewhere", ["c=50"]),
    ]
    for name in ("once", "again"):
        write_plot(tmp_path / f"{name}.svg", panels, "What it does", columns=2)
    text = (tmp_path / "once.svg").read_text()
    for said in ("What it does", "on the loop", "elsewhere", "latency p99, ms", "256"):
        assert f">{said}</text>" in text
    for name in ("c=50", "c=200", "c=500"):
        assert text.count(f">{name}</text>") == 1, "in the one legend"
    assert (tmp_path / "again.svg").read_text() == text


def test_a_plot_can_be_read_on_white_and_on_black() -> None:
    def light(colour: str) -> float:
        """The relative luminance as WCAG 2 has it, of which 0.05 is glare."""
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
            for part in parts
        ]
        weights = (0.2126, 0.7152, 0.0722)
        return 0.05 + sum(w * part for w, part in zip(weights, linear, strict=True))

    for colour in (INK, *COLOURS):
        assert light("#ffffff") / light(colour) >= 3, colour
        assert light(colour) / light("#000000") >= 3, colour


def test_a_legend_has_as_many_names_in_a_row_as_fit() -> None:
    assert legend_columns(["c=50"] * 4, width=6) == 4
    assert legend_columns(["fastbatch, batch handler, wait 1 ms"] * 4, width=6) == 1
    assert legend_columns(["x" * 200], width=3) == 1


def test_without_matplotlib_it_is_said_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BenchError, match="pip install --group bench"):
        plot.require_matplotlib()
    with pytest.raises(BenchError, match="pip install --group bench"):
        write_plot(tmp_path / "a.svg", [make_panel("", ["a"])])


def test_a_plot_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"a\.png is no \.svg"):
        write_plot(tmp_path / "a.png", [make_panel("", ["a"])])
    pytest.importorskip("matplotlib")
    with pytest.raises(BenchError, match="cannot be written: No such file"):
        write_plot(tmp_path / "nowhere" / "a.svg", [make_panel("", ["a"])])


# ---- the sweep -----------------------------------------------------------------------


def make_sweep(
    kind: str, rates: dict[tuple[int, int], int], others: float = 0.0
) -> list[sweep.Row]:
    """Rows by (connections, batch_size); the latencies follow from the rates."""
    rows = []
    for (connections, size), rate in rates.items():
        cell = Cell(Subject("", ("true",), size), Load(connections))
        latency = {"p50": 10**9 // rate, "p99": 10**10 // rate, "p99.9": 10**11 // rate}
        found = WrkResult(rate, 1.0, 0, {"read": 1}, latency)
        sample = Sample(cell.load, found, CpuTime(0.5, 0.1), others)
        rows.append(sweep.Row(sweep.KINDS[kind], Result(cell, [sample, sample])))
    return rows


HELPS = {(50, 1): 100, (50, 8): 400, (50, 256): 390, (500, 1): 100, (500, 8): 700}
HELPS[500, 256] = 900
SAME = {(50, 1): 102, (50, 8): 100, (50, 256): 100}


def test_the_sweep_says_where_batching_helps_and_which_default_follows() -> None:
    rows = [*make_sweep("batch", HELPS), *make_sweep("burn", SAME)]
    text = sweep.sweep_text(rows)
    assert "each: requests/s x 3.90 at c=50, x 9.00 at c=500" in text
    assert "256 and not 1 helps: batch handler" in text
    assert "256 and not 1 changes nothing for: request handler, 50 us" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["1", "x", "0.11", "x", "9.00", "x", "9.00"] in lines
    assert ["8", "x", "0.78", "x", "1.29", "x", "1.29"] in lines
    assert "batch_size 256. Under every handler and load it has x 0.97 or more" in text
    assert "errors in all cells: 18" in text


def test_the_sweep_compares_sizes_of_the_same_handler_and_load() -> None:
    rows = [*make_sweep("batch", HELPS), *make_sweep("burn", SAME)]
    ratios = {
        (r["handler"], r["connections"], r["batch_size"]): r["metrics"]["rate"]["ratio"]
        for r in sweep.rows_to_json(rows)
        if r["batch_size"] > 1
    }
    batch, burn = sweep.KINDS["batch"].title, sweep.KINDS["burn"].title
    assert ratios[batch, 500, 256]["median"] == 9
    assert ratios[batch, 50, 256]["median"] == pytest.approx(3.9)
    assert ratios[burn, 50, 8]["median"] == pytest.approx(100 / 102)


def test_of_sizes_that_are_as_good_the_default_has_the_lowest_p99() -> None:
    equals = {
        8: sweep.Worst(rate=0.96, cpu_us=1.0, p99_ms=1.1),
        128: sweep.Worst(rate=0.98, cpu_us=1.0, p99_ms=1.3),
        256: sweep.Worst(rate=0.80, cpu_us=1.0, p99_ms=1.0),
    }
    text = sweep.default_text(equals, 8, n_disturbed=0)
    assert "batch_size 8. Under" in text
    assert "so has 128, with a higher p99" in text


def test_what_other_processes_disturbed_is_left_out_or_names_no_default() -> None:
    rows = [*make_sweep("batch", HELPS), *make_sweep("burn", SAME)]
    busy = make_sweep("burn", {(500, 1): 100, (500, 8): 10, (500, 256): 1}, others=0.5)
    text = sweep.sweep_text([*rows, *busy])
    assert "batch_size 256. Under every handler and load it has x 0.97" in text
    assert "took more than 10 % of a core under 1 of 4 loads" in text
    assert "no default follows: other processes" in sweep.sweep_text(busy)


@pytest.mark.usefixtures("fastbatch")
def test_the_model_takes_what_its_title_says() -> None:
    from bench.batch_apps import BATCH_NANOSECONDS, ITEM_NANOSECONDS

    microseconds = (BATCH_NANOSECONDS // 1000, ITEM_NANOSECONDS // 1000)
    assert "{} us + {} us each".format(*microseconds) in sweep.MODEL


def test_a_sweep_of_one_size_or_without_a_whole_load_concludes_nothing() -> None:
    assert sweep.conclusions(make_sweep("burn", {(50, 8): 100, (500, 8): 90})) == []
    assert sweep.conclusions(make_sweep("burn", {(50, 1): 100, (500, 8): 90})) == []


def test_the_sweep_is_plotted_with_a_column_for_each_load() -> None:
    rows = [*make_sweep("batch", HELPS), *make_sweep("burn", SAME)]
    panels, columns = sweep.sweep_panels(rows)
    assert (len(panels), columns) == (4, 2)
    assert [panel.y.label for panel in panels] == [
        *("requests/s", ""),
        *("latency p99, ms", ""),
    ]
    assert [len(panel.series) for panel in panels] == [2, 1, 2, 1]
    assert panels[0].series[0].points == [(1, 100), (8, 400), (256, 390)]


@needs_wrk
@pytest.mark.usefixtures("fastbatch")
def test_one_short_round_of_the_sweep(tmp_path: Path) -> None:
    output = tmp_path / "sweep.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "bench", "sweep", "--json", str(output)),
            *("--rounds", "1", "--seconds", "1", "--warmup", "0"),
            *("--only", "hello", "batch", "thread"),
            *("--connections", "20", "--batch-sizes", "4"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(output.read_text())["results"]
    assert [result["threads"] for result in results] == [None, None, 1]
    for result in results:
        assert result["metrics"]["rate"]["median"] > 0
        assert result["metrics"]["errors"]["high"] == 0
        assert 1 <= result["metrics"]["batch_mean"]["median"] <= 4


def test_a_sweep_that_could_not_be_plotted_does_not_start(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert command_line.main(["sweep", "--plot", "sweep.png"]) == 1
    assert "sweep.png is no .svg" in capsys.readouterr().err


# ---- the model behind servers that batch ---------------------------------------------

POST = Post("/predict", Path("body"), "application/octet-stream")
SAMPLES = batch.Samples(
    {"binary": [b"01234567"], "json": [b"[0.5, 1]"]}, [[0.25, -1.5]], {"binary": POST}
)

# Answers every POST with two numbers of float32.
ANSWERS = """
import http.server, json, struct

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        body = struct.pack("2f", 0.25, -1.5)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
    print(json.dumps({"port": server.server_address[1]}), flush=True)
    server.serve_forever()
"""


def make_batch_kind(key: str, body: str = "binary", where: str = "") -> batch.Kind:
    subject = Subject(key, (), post=POST)
    where = where or batch.ALL_CORES
    return batch.Kind(key, f"the {key}", body, where, subject, Path("counts"))


def make_batch_row(
    kind: batch.Kind, c: int, rate: int, p50: int = 400, p99: int = 900
) -> batch.Row:
    sample = make_scale_sample(rate, wrk_seconds=0.25)
    latency = {**sample.wrk.latency, "p50": p50, "p99": p99}
    wrk_result = dataclasses.replace(sample.wrk, latency=latency)
    sample = dataclasses.replace(sample, wrk=wrk_result)
    result = Result(Cell(kind.subject, Load(c, post=POST)), [sample] * 2)
    return batch.Row(kind, result, [batch.Use(rate // 10, rate, 0.5)] * 2)


FLOOR = batch.Floor([{1: 50e-6, 16: 20e-6, 64: 12e-6, 256: 10e-6}] * 2)


def test_what_the_model_did_is_read_from_its_file(tmp_path: Path) -> None:
    counts = tmp_path / "counts"
    counts.write_bytes(struct.pack("=QQQ", 12, 340, 1_500_000_000))
    use = batch.Use.read(counts) - batch.Use(2, 40, 0.5)
    assert use == batch.Use(10, 300, 1.0)
    assert use.per_call == 30.0
    assert batch.Use(0, 0, 0.0).per_call == 0.0


def test_answers_are_compared_as_numbers() -> None:
    binary = struct.pack("2f", 0.25, -1.5)
    assert batch.read_answer("binary", binary) == [0.25, -1.5]
    assert batch.read_answer("json", b"[0.25,-1.5]") == [0.25, -1.5]
    assert batch.is_close([0.25001, -1.5], [0.25, -1.5])
    assert not batch.is_close([0.26, -1.5], [0.25, -1.5])
    assert not batch.is_close([0.25], [0.25, -1.5])


def test_a_server_that_answers_wrongly_is_not_measured(tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"01234567")
    post = dataclasses.replace(POST, body=body)
    subject = Subject("answers", (sys.executable, "-c", ANSWERS), post=post)
    kind = dataclasses.replace(make_batch_kind("mosec"), subject=subject)
    with running(subject, all_cores().of_server) as server:
        batch.check_answers(server, kind, SAMPLES)
        wrong = dataclasses.replace(SAMPLES, answers=[[0.25, 1.5]])
        with pytest.raises(BenchError, match="the mosec answers wrongly"):
            batch.check_answers(server, kind, wrong)
        as_json = dataclasses.replace(kind, body="json")
        with pytest.raises(BenchError, match="does not answer rightly"):
            batch.check_answers(server, as_json, SAMPLES)


def test_each_server_is_given_its_cores_one_thread_and_a_file_to_count_in(
    tmp_path: Path,
) -> None:
    kinds = batch.Kinds(SAMPLES, tmp_path, ["batch-1ms-thread", "mosec", "fastpysgi"])
    kinds.add_fastbatch("python", "binary")
    about = {name: make_about(name) for name in MODEL_PEERS}
    kinds.add_peers(Path("venvs"), Found(about=about), "binary")
    assert [(kind.key, kind.where) for kind in kinds.found] == [
        ("batch-1ms-thread", batch.OWN_CORE),
        ("batch-1ms-thread", batch.ALL_CORES),
        ("fastpysgi", batch.OWN_CORE),
        ("mosec", batch.ALL_CORES),
    ]
    for kind in kinds.found:
        env, *command = kind.subject.command
        assert env == "env"
        assert {"OPENBLAS_NUM_THREADS=1", f"MODEL_COUNTS={kind.counts}"} <= {*command}
        assert batch.Use.read(kind.counts) == batch.Use(0, 0, 0.0)
    first, _, fastpysgi, mosec = (kind.subject.command for kind in kinds.found)
    assert first[-4:] == ("--threads", "1", "--batch-wait", "0.001")
    assert fastpysgi[-2:] == ("fastpysgi", "model-wsgi-binary")
    assert mosec[-2:] == ("mosec", "binary")


def test_the_floor_has_the_largest_batches_that_connections_fill() -> None:
    assert [FLOOR.seconds(c) for c in (1, 15, 64, 512)] == [50e-6, 50e-6, 12e-6, 10e-6]
    row = make_batch_row(make_batch_kind("batch"), 256, rate=50_000)
    assert FLOOR.times(row) == pytest.approx(2.0)


def test_the_table_of_batches_has_what_the_model_was_called_with() -> None:
    rows = [
        make_batch_row(make_batch_kind("batch"), 64, rate=20_000),
        make_batch_row(make_batch_kind("mosec"), 64, rate=5_000),
    ]
    title, header, _, ours, theirs = batch.batch_text(rows, FLOOR).splitlines()[:5]
    assert title == "binary bodies, c=64"
    assert header.split()[:3] == ["server", "where", "requests/s"]
    assert ours.split() == [
        *("the", "batch", "all", "cores", "20,000", "x", "4.00", "0.40", "0.90"),
        *("10.0", "50.0", "50", "x", "4.17", "100", "25", "0"),
    ]
    assert theirs.split()[:6] == ["the", "mosec", "all", "cores", "5,000", "0.40"]
    found = batch.row_to_json(rows[0], rows, FLOOR)
    assert found["items_per_call"]["median"] == 10.0
    assert found["metrics"]["rate"]["ratio"]["median"] == 4.0
    json.dumps(found)


def test_the_bars_of_batches_are_met_and_missed() -> None:
    own = make_batch_kind("batch", where=batch.OWN_CORE)
    rows = [
        make_batch_row(make_batch_kind("batch"), 1, 10_000),
        make_batch_row(make_batch_kind("mosec"), 1, 2_000),
        make_batch_row(make_batch_kind("batch"), 64, 20_000, p50=300, p99=800),
        make_batch_row(make_batch_kind("mosec"), 64, 10_000),
        make_batch_row(own, 1, 10_000, p50=109),
        make_batch_row(make_batch_kind("request", where=own.where), 1, 1, p50=100),
        make_batch_row(own, 256, 80_000),
    ]
    assert batch.bars(rows, FLOOR) == [
        "met: batch, c=1: at least 5 times the requests/s of mosec: x 5.00",
        "met: batch, c=64: at least 2 times the requests/s of mosec with lower p50 and "
        "p99: x 2.00, p50 x 0.75, p99 x 0.89",
        "MISSED: batch, c=64: within 1.3 times the loop without a server: x 4.17; the "
        "model has 50 % of the server's CPU time",
        "met: batch, c=1: p50 under 1.1 times that of the request handler: x 1.09",
        "met: batch, c=256: within 1.3 times the loop without a server: x 1.25; the "
        "model has 50 % of the server's CPU time",
    ]
    rows = [
        make_batch_row(make_batch_kind("batch"), 1, 9_000),
        make_batch_row(make_batch_kind("mosec"), 1, 2_000),
        make_batch_row(make_batch_kind("batch"), 64, 20_000, p50=300, p99=900),
        make_batch_row(make_batch_kind("mosec"), 64, 10_000),
        make_batch_row(own, 1, 10_000, p50=111),
        make_batch_row(make_batch_kind("request", where=own.where), 1, 1, p50=100),
        make_batch_row(own, 256, 70_000),
    ]
    said = batch.bars(rows, FLOOR)
    assert [text.partition(":")[0] for text in said] == ["MISSED"] * 5


def test_a_server_is_plotted_once_with_all_cores_if_it_was_measured_so() -> None:
    kinds = [
        make_batch_kind("batch", where=batch.OWN_CORE),
        make_batch_kind("batch"),
        make_batch_kind("batch-1ms"),
        make_batch_kind("fastpysgi", where=batch.OWN_CORE),
    ]
    rows = [make_batch_row(kind, c, c * 100) for kind in kinds for c in (64, 1)]
    rates, p50, _ = batch.batch_panels(rows, FLOOR)
    assert [series.name for series in rates.series] == [
        *("the batch", "the fastpysgi", "the model in a loop, batches of up to c"),
    ]
    assert rates.series[0].points == [(1, 100), (64, 6400)]
    assert p50.series[0].points == [(1, 0.4), (64, 0.4)]


def test_peers_of_the_model_come_with_its_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(
        peers, "run_logged", lambda command, _: commands.append(command)
    )
    assert command_line.main(["peers", "--batch", "--venvs", str(tmp_path)]) == 1
    installed = [command[-3:] for command in commands if "install" in command]
    assert installed == [[name, *MODEL_PACKAGES] for name in MODEL_PEERS]


def test_the_pins_of_the_model_are_those_that_are_installed_to_test_it() -> None:
    pins = read_pins(PINS.read_text())
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    for name in MODEL_PACKAGES:
        assert f"{name}=={pins[name]}" in [*groups["bench"], *groups["neighbours"]]


@needs_wrk
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in MODEL_PACKAGES),
    reason="the model takes numpy and orjson",
)
@pytest.mark.usefixtures("fastbatch")
def test_one_short_round_of_batches(tmp_path: Path) -> None:
    output = tmp_path / "batch.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "bench", "batch", "--json", str(output)),
            *("--rounds", "1", "--seconds", "1", "--warmup", "0", "-c", "8"),
            *("--venvs", str(tmp_path), "--only", "request", "batch", "mosec"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "`python -m bench peers --batch` installs it" in done.stderr
    found = json.loads(output.read_text())
    assert len(found["results"]) == 8
    for result in found["results"]:
        assert result["metrics"]["rate"]["median"] > 0
        assert result["metrics"]["errors"]["high"] == 0
        per_call = result["items_per_call"]["median"]
        assert 1 <= per_call <= 8
        assert per_call == 1 or result["key"] == "batch"
        assert 0 < result["model_share"]["median"] <= 100
    assert found["floor"][0].keys() == {"1", "16", "64", "256"}
