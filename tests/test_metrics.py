"""The metrics endpoint, read as Prometheus reads it."""

import logging
import os
import re
import signal
import socket
import threading
import urllib.request
from pathlib import Path
from typing import Any

import helpers
import pytest
from conftest import Serve, Start
from helpers import Connection, get
from prometheus_client.parser import text_string_to_metric_families

import fastbatch
from fastbatch import _core, _metrics

HELLO = b"Hello!"

Labels = frozenset[tuple[str, str]]
Samples = dict[tuple[str, Labels], float]


def parse(text: str) -> Samples:
    """The samples by name and labels; each is there once."""
    samples: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert family.type != "unknown"
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples
            samples[key] = sample.value
    return samples


def value(samples: Samples, name: str, **labels: object) -> float:
    found = {key: str(label) for key, label in labels.items()}
    return samples[f"fastbatch_{name}", frozenset(found.items())]


def address_of(server: fastbatch.Server) -> helpers.Address:
    assert server._metrics is not None
    return server._metrics.address


def scrape(address: fastbatch.Server | helpers.Address) -> Samples:
    if isinstance(address, fastbatch.Server):
        address = address_of(address)
    with Connection(address) as client:
        reply = client.ask("/metrics")
    assert reply.status == 200
    return parse(reply.body.decode())


def wait_for_value(
    expected: float, address: fastbatch.Server | helpers.Address, name: str
) -> Samples:
    """Scrape until ``name``, of all workers together, is that: then all the samples.

    A reply may be read before the server, which has just written it, goes on to count.
    """
    found: list[Samples] = []

    def is_so() -> bool:
        found[:] = [scrape(address)]
        each = [n for (key, _), n in found[0].items() if key == f"fastbatch_{name}"]
        return sum(each) == expected

    helpers.wait_until(is_so, f"{name} of {expected}")
    return found[0]


def counters(*queues: dict[str, Any], **given: Any) -> dict[str, Any]:
    """Those of a worker that has done nothing but what is ``given``."""
    empty = _core.read_stats(bytearray(_core.STATS_BYTES))
    return {**empty, "queues": list(queues) or [queue()], **given}


def queue(name: str = "hello", **given: Any) -> dict[str, Any]:
    """Those of one queue, likewise."""
    [empty] = _core.read_stats(bytearray(_core.STATS_BYTES))["queues"]
    return {"name": name, **empty, **given}


# ---- the text ---------------------------------------------------------------------


def test_each_worker_has_its_own_counters() -> None:
    samples = parse(
        _metrics.render(
            [
                counters(replies={200: 7, 404: 1}, connections=3, bytes_sent=10**15),
                counters(replies={200: 2}),
            ]
        )
    )
    assert value(samples, "requests_total", worker=0, status=200) == 7
    assert value(samples, "requests_total", worker=0, status=404) == 1
    assert value(samples, "requests_total", worker=1, status=200) == 2
    assert value(samples, "connections_total", worker=0) == 3
    assert value(samples, "connections_total", worker=1) == 0
    assert value(samples, "sent_bytes_total", worker=0) == 10**15


@pytest.mark.parametrize("n", [0, 1, 3])
def test_text_is_one_that_prometheus_reads(n: int) -> None:
    text = _metrics.render([counters(replies={200: 1})] * n)
    families = list(text_string_to_metric_families(text))
    assert len(families) == len(_metrics._METRICS)
    n_lines = sum(line.startswith("fastbatch_") for line in text.splitlines())
    assert sum(len(family.samples) for family in families) == n_lines == n * 51
    assert text.endswith("\n")


def test_only_counters_are_named_total() -> None:
    declared = re.findall(
        "^# TYPE (fastbatch_[a-z_]+) ([a-z]+)$",
        _metrics.render([counters()]),
        re.MULTILINE,
    )
    assert len(declared) == len(_metrics._METRICS)
    for name, kind in declared:
        assert (kind == "counter") == name.endswith("_total")


def buckets(samples: Samples, name: str, queue: str = "hello") -> dict[float, float]:
    """The cumulative counts of worker 0, by their bounds."""
    ours = {("worker", "0"), ("queue", queue)}
    return {
        float(dict(labels)["le"]): count
        for (key, labels), count in samples.items()
        if key == f"fastbatch_{name}_bucket" and ours <= labels
    }


def test_batch_sizes_are_a_histogram() -> None:
    sizes = [0] * 257
    sizes[1], sizes[2], sizes[3], sizes[256] = 10, 5, 2, 1
    samples = parse(_metrics.render([counters(queue(batch_sizes=sizes))]))
    assert buckets(samples, "batch_size") == {
        1: 10, 2: 15, 4: 17, 8: 17, 16: 17, 32: 17, 64: 17, 128: 17, 256: 18,
        float("inf"): 18,
    }  # fmt: skip
    assert (
        value(samples, "batch_size_sum", worker=0, queue="hello") == 10 + 10 + 6 + 256
    )
    assert value(samples, "batch_size_count", worker=0, queue="hello") == 18


def test_times_in_the_queue_are_a_histogram_in_seconds() -> None:
    times = list(range(1, len(_core.QUEUE_BOUNDS_US) + 2))
    waits = queue(queue_times=times, queue_ns=2_500_000)
    samples = parse(_metrics.render([counters(waits)]))
    found = buckets(samples, "queue_seconds")
    bounds = [bound / 1e6 for bound in _core.QUEUE_BOUNDS_US]
    assert list(found) == [*bounds, float("inf")]
    assert list(found.values()) == [sum(times[: n + 1]) for n in range(len(times))]
    assert value(samples, "queue_seconds_sum", worker=0, queue="hello") == 0.0025
    assert value(samples, "queue_seconds_count", worker=0, queue="hello") == sum(times)


def test_time_of_batches_is_a_summary_in_seconds() -> None:
    batches = queue(batches=4, handler_ns=1_500_000_000)
    samples = parse(_metrics.render([counters(batches)]))
    assert value(samples, "batch_seconds_sum", worker=0, queue="hello") == 1.5
    assert value(samples, "batch_seconds_count", worker=0, queue="hello") == 4


def test_each_queue_has_its_own_counters() -> None:
    first = queue("first", waiting=3, batches=1)
    second = queue("second", expired=4, refused=5, batches=2)
    samples = parse(_metrics.render([counters(first, second), counters(first)]))
    assert {
        name: (
            value(samples, name, worker=0, queue="first"),
            value(samples, name, worker=0, queue="second"),
            value(samples, name, worker=1, queue="first"),
        )
        for name in (
            "waiting_requests", "expired_total", "refused_total", "batch_seconds_count"
        )
    } == {
        "waiting_requests": (3, 0, 3),
        "expired_total": (0, 4, 0),
        "refused_total": (0, 5, 0),
        "batch_seconds_count": (1, 2, 1),
    }  # fmt: skip
    assert len(buckets(samples, "batch_size", "second")) == 10


@pytest.mark.parametrize(
    "name", ["POST /a b", 'POST /"', "POST /\\", "POST /\\n\n", "POST /é", "{,=}"]
)
def test_name_of_a_queue_is_escaped(name: str) -> None:
    samples = parse(_metrics.render([counters(queue(name, waiting=7))]))
    assert value(samples, "waiting_requests", worker=0, queue=name) == 7


# ---- the endpoint -----------------------------------------------------------------


def answer(request: fastbatch.Request) -> Any:
    if request.path == "/missing":
        raise fastbatch.HTTPError(404, "no such thing")
    return HELLO


def test_there_is_no_endpoint_by_default(serve: Serve) -> None:
    server = serve(answer)
    assert server._metrics is None
    with Connection(server) as client:
        assert client.ask("/metrics").body == HELLO


def test_values_are_what_was_served(serve: Serve) -> None:
    server = serve(answer, metrics="127.0.0.1:0")
    with Connection(server) as client:
        client.send(get() * 3 + get("/missing"))
        for _ in range(4):
            client.reply()
        wait_for_value(4, server, "requests_total")
        samples = wait_for_value(len(client.received), server, "sent_bytes_total")
        assert value(samples, "open_connections", worker=0) == 1
        stats = server.stats()
    assert value(samples, "requests_total", worker=0, status=200) == 3
    assert value(samples, "requests_total", worker=0, status=404) == 1
    of = {"worker": 0, "queue": f"{__name__}.answer"}
    assert value(samples, "batch_size_sum", **of) == 4
    assert value(samples, "queue_seconds_count", **of) == 4
    assert value(samples, "queue_seconds_sum", **of) == stats["queue_ns"] / 1e9
    assert value(samples, "received_bytes_total", worker=0) == stats["bytes_received"]
    assert value(samples, "sent_bytes_total", worker=0) == len(client.received)
    assert value(samples, "connections_total", worker=0) == 1  # not those that scrape


def test_endpoint_has_the_content_type_of_the_format(serve: Serve) -> None:
    server = serve(answer, metrics="127.0.0.1:0")
    with Connection(address_of(server)) as client:
        found = client.ask("/metrics")
        client.send(get("/metrics").replace(b"GET", b"HEAD"))
        head = client.reply("HEAD")
    assert (found.status, head.status) == (200, 200)
    for reply in (found, head):
        content_type = "text/plain; version=0.0.4; charset=utf-8"
        assert reply.headers["Content-Type"] == content_type
    assert head.body == b""


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metricsx", "/favicon.ico"])
def test_other_paths_are_not_found(serve: Serve, path: str) -> None:
    server = serve(answer, metrics="127.0.0.1:0")
    with Connection(address_of(server)) as client:
        assert client.ask(path).status == 404


def test_query_is_of_no_account(serve: Serve) -> None:
    server = serve(answer, metrics="127.0.0.1:0")
    with Connection(address_of(server)) as client:
        assert client.ask("/metrics?a=b").status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_not_allowed(serve: Serve, method: str) -> None:
    server = serve(answer, metrics="127.0.0.1:0")
    with Connection(address_of(server)) as client:
        client.send(get("/metrics").replace(b"GET", method.encode()))
        reply = client.reply()
    assert reply.status == 405
    assert reply.headers["Allow"] == "GET, HEAD"


def test_endpoint_may_be_a_unix_socket(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "metrics.sock"
    server = serve(answer, metrics=f"unix:{path}", unix_mode=0o600)
    assert path.stat().st_mode & 0o777 == 0o600
    with Connection(server) as client:
        client.ask()
    samples = wait_for_value(1, str(path), "requests_total")
    assert value(samples, "requests_total", worker=0, status=200) == 1
    server.stop()
    assert not path.exists()


def test_endpoint_may_be_an_inherited_socket(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        serve(answer, metrics=f"fd:{sock.fileno()}")
        assert scrape(sock.getsockname())


def test_endpoint_is_gone_when_the_server_has_stopped(serve: Serve) -> None:
    server = serve(answer, metrics="127.0.0.1:0")
    address = address_of(server)
    n_threads = threading.active_count()
    server.stop()
    assert threading.active_count() == n_threads - 2
    with pytest.raises(ConnectionRefusedError):
        Connection(address)


def test_scraping_does_not_wait_for_a_handler_that_blocks(serve: Serve) -> None:
    is_called, may_go_on = threading.Event(), threading.Event()

    def slow(_request: fastbatch.Request) -> bytes:
        is_called.set()
        may_go_on.wait()
        return HELLO

    server = serve(slow, metrics="127.0.0.1:0")
    with Connection(server) as client:
        client.send(get() * 2)
        is_called.wait()
        samples = scrape(server)
        may_go_on.set()
        client.reply()
    assert value(samples, "slots_in_use", worker=0) == 2
    [size] = [n for (name, _), n in samples.items() if name.endswith("batch_size_sum")]
    assert size == 2


def test_a_scraper_that_does_not_read_holds_up_nobody(serve: Serve) -> None:
    server = serve(answer, metrics="127.0.0.1:0")
    idle = [Connection(address_of(server)) for _ in range(8)]
    for client in idle:
        client.send(get("/metrics") * 200)
    with Connection(server) as client:
        assert client.ask().body == HELLO
    assert scrape(server)
    for client in idle:
        client.close()


def test_endpoint_cannot_be_filled_with_bodies(serve: Serve) -> None:
    server = serve(answer, metrics="127.0.0.1:0")
    with Connection(address_of(server)) as client:
        client.send(get("/metrics", "Content-Length: 1") + b"x")
        assert client.reply().status == 413


def test_route_of_batches_is_a_queue_of_its_own(serve: Serve) -> None:
    router = fastbatch.Router()

    @router.post("/predict")
    @fastbatch.batch
    def predict(batch: fastbatch.Batch) -> list[bytes]:
        return [HELLO] * len(batch)

    router.get("/")(answer)
    server = serve(router, metrics="127.0.0.1:0")
    with Connection(server) as client:
        client.ask()
        client.send(get("/predict").replace(b"GET", b"POST") * 3)
        for _ in range(3):
            assert client.reply().body == HELLO
    samples = wait_for_value(4, server, "queue_seconds_count")
    of = {"worker": 0, "queue": "POST /predict"}
    assert value(samples, "queue_seconds_count", **of) == 3
    assert value(samples, "batch_size_sum", **of) == 3
    assert value(samples, "batch_size_sum", worker=0, queue="requests") == 1


# ---- where it is ------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad", ["nonsense", "127.0.0.1:99999", "unix:", "systemd", "a:1,b:2"]
)
def test_bad_address_names_the_option(bad: str) -> None:
    with pytest.raises(ValueError, match=f"^metrics='{bad}' is not allowed: it"):
        fastbatch.Options(metrics=bad)


def test_address_that_is_no_text_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^metrics=\('a:1',\) is not allowed: it"):
        fastbatch.Options(metrics=("a:1",))  # type: ignore[arg-type]


def test_address_in_use_names_the_option_and_leaves_nothing_open(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path = tmp_path / "main.sock"
        server = fastbatch.Server(
            answer, bind=f"unix:{path}", metrics=f"127.0.0.1:{port}"
        )
        before = os.listdir("/proc/self/fd")
        with pytest.raises(OSError, match=r"with metrics$"):
            server.start()
        assert not path.exists()
        assert os.listdir("/proc/self/fd") == before
    server.start()  # now it can
    assert scrape(server)
    server.stop()


def test_address_is_announced(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fastbatch")
    server = serve(answer, metrics="127.0.0.1:0")
    assert server._metrics is not None
    port = server._metrics.address[1]
    version = fastbatch.__version__
    assert [message for message in caplog.messages if "metrics" in message] == [
        f"fastbatch {version} metrics at http://127.0.0.1:{port}/metrics"
    ]
    assert sum("listening" in message for message in caplog.messages) == 1


def test_command_line_serves_metrics(start: Start, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("def hello(request):\n    return 'Hello!'\n")
    program = start("-m", "fastbatch", "--port=0", "--metrics=127.0.0.1:0", "app:hello")
    url = program.wait_for(r"metrics at (\S+)\n")[1]

    def n_requests() -> float:
        with urllib.request.urlopen(url) as reply:
            samples = parse(reply.read().decode())
        return samples.get(one, 0)

    one = ("fastbatch_requests_total", frozenset({("worker", "0"), ("status", "200")}))
    with Connection(program.address()) as client:
        client.ask()
    helpers.wait_until(lambda: n_requests() == 1, "counting")
    program.signal()
    assert program.wait() == 0


def test_command_line_names_the_option_of_an_address_in_use(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "app.py").write_text("def hello(request):\n    return 'Hello!'\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = start(
            "-m", "fastbatch", "--port=0", f"--metrics=127.0.0.1:{port}", "app:hello"
        )
        assert program.wait() == 1
    assert program.errors.endswith("choose another address with --metrics\n")


# ---- with workers -----------------------------------------------------------------

APP = """
import os

def hello(request):
    if request.path == "/exit":
        os._exit(1)
    return f"{os.getpid()}"
"""

MODES = {"processes": "--processes=true", "threads": "--processes=false"}


class Service:
    """A program with two workers and a metrics endpoint."""

    def __init__(self, start: Start, tmp_path: Path, *options: str) -> None:
        (tmp_path / "app.py").write_text(APP)
        self.program = start(
            "-m", "fastbatch", "--port=0", "--workers=2", "--metrics=127.0.0.1:0",
            *options, "app:hello",
        )  # fmt: skip
        url = self.program.wait_for(r"metrics at http://(\S+)/metrics\n")[1]
        host, _, port = url.rpartition(":")
        self.address = (host, int(port))

    def ask(self, n: int = 1, path: str = "/") -> None:
        for _ in range(n):
            with Connection(self.program.address()) as client:
                client.ask(path, "Connection: close")

    def replies(self) -> list[float]:
        """How many each worker has given."""
        found = {
            dict(labels)["worker"]: count
            for (name, labels), count in scrape(self.address).items()
            if name == "fastbatch_requests_total"
        }
        return [found.get(str(number), 0) for number in range(2)]

    def wait_for_replies(self, n: int) -> Samples:
        return wait_for_value(n, self.address, "requests_total")

    def end(self) -> None:
        self.program.signal(signal.SIGTERM)
        assert self.program.wait() == 0, self.program.errors


@pytest.mark.parametrize("mode", MODES)
def test_workers_are_shown_together(start: Start, tmp_path: Path, mode: str) -> None:
    service = Service(start, tmp_path, MODES[mode])
    service.ask(20)
    service.wait_for_replies(20)
    # The last client may have gone before its worker has seen that.
    samples = wait_for_value(0, service.address, "open_connections")
    for worker in (0, 1):
        assert value(samples, "slots_in_use", worker=worker) == 0
    service.end()


@pytest.mark.parametrize("mode", MODES)
def test_counters_do_not_go_back_when_workers_are_replaced(
    start: Start, tmp_path: Path, mode: str
) -> None:
    service = Service(start, tmp_path, MODES[mode])
    service.ask(20)
    service.wait_for_replies(20)
    before = service.replies()
    service.program.signal(signal.SIGHUP)
    service.program.wait_for("the workers are replaced")
    after = service.replies()
    assert all(now >= then for now, then in zip(after, before, strict=True))
    service.ask(5)
    service.wait_for_replies(25)
    service.end()


def test_counters_do_not_go_back_when_a_worker_dies(
    start: Start, tmp_path: Path
) -> None:
    service = Service(start, tmp_path, MODES["processes"])
    service.ask(20)
    service.wait_for_replies(20)
    before = service.replies()
    with Connection(service.program.address()) as client:
        client.send(get("/exit"))
        assert client.rest() == b""
    service.program.wait_for("has died")
    samples = wait_for_value(0, service.address, "open_connections")
    assert sum(value(samples, "slots_in_use", worker=n) for n in (0, 1)) == 0
    assert service.replies() == before
    service.ask(5)
    service.wait_for_replies(25)
    service.end()


def test_workers_that_come_and_go_keep_their_numbers(
    start: Start, tmp_path: Path
) -> None:
    for mode in MODES.values():
        service = Service(start, tmp_path, mode)
        for number, line in [
            (signal.SIGTTOU, "SIGTTOU: 1 worker"),
            (signal.SIGTTIN, "SIGTTIN: 2 workers"),
        ]:
            service.program.signal(number)
            service.program.wait_for(line)
        helpers.wait_until(
            lambda service=service: workers_of(scrape(service.address)) == {"0", "1"},
            "two workers, and no third",
        )
        service.ask(20)
        service.wait_for_replies(20)
        service.end()


def workers_of(samples: Samples) -> set[str]:
    return {dict(labels)["worker"] for _name, labels in samples}


def test_metrics_process_that_dies_is_started_again(
    start: Start, tmp_path: Path
) -> None:
    service = Service(start, tmp_path, MODES["processes"])
    service.ask(3)
    [pid] = set(children(service.program.pid)) - set(
        map(int, re.findall(r"process (\d+) is ready", both_ready(service)))
    )
    os.kill(pid, signal.SIGKILL)
    service.program.wait_for(f"metrics process {pid} has died")
    service.wait_for_replies(3)  # a scraper waits in the kernel meanwhile
    service.end()


def both_ready(service: Service) -> str:
    service.program.wait_for(r"(?s)is ready.*is ready")
    return service.program.errors


def children(pid: int) -> list[int]:
    return [*map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def test_all_processes_end_with_the_supervisor(start: Start, tmp_path: Path) -> None:
    service = Service(start, tmp_path, MODES["processes"])
    both_ready(service)
    pids = children(service.program.pid)
    assert len(pids) == 3
    service.program.signal(signal.SIGKILL)
    helpers.wait_until(
        lambda: not any(is_running(pid) for pid in pids), "the end of all processes"
    )
    service.program.wait()  # it has the socket, too
    with pytest.raises(ConnectionRefusedError):
        Connection(service.address)


def is_running(pid: int) -> bool:
    """Whether it is there, and no zombie that nobody has reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_metrics_of_workers_may_be_on_a_unix_socket(
    start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "metrics.sock"
    (tmp_path / "app.py").write_text(APP)
    program = start(
        "-m", "fastbatch", "--port=0", "--workers=2", "--processes=true",
        f"--metrics=unix:{path}", "app:hello",
    )  # fmt: skip
    program.wait_for("metrics at")
    assert workers_of(scrape(str(path)))
    program.signal()
    assert program.wait() == 0
    assert not path.exists()


def test_address_in_use_ends_a_supervisor(start: Start, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = start(
            "-m", "fastbatch", "--port=0", "--workers=2", "--processes=true",
            f"--metrics=127.0.0.1:{port}", "app:hello",
        )  # fmt: skip
        assert program.wait() == 1
    assert program.errors.endswith("choose another address with --metrics\n")


def test_threads_of_a_server_are_workers_too(serve: Serve) -> None:
    server = serve(answer, workers=2, metrics="127.0.0.1:0")
    for _ in range(20):
        with Connection(server) as client:
            client.ask()
    samples = wait_for_value(20, server, "requests_total")
    assert workers_of(samples) == {"0", "1"}
