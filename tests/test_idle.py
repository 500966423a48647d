"""Thousands of connections that do nothing cost next to nothing."""

import contextlib
import json
import resource
import selectors
import time
from collections.abc import Iterator
from typing import Any

import helpers
import pytest
from conftest import Start
from helpers import Connection, get

from fastbatch._core import LIMITS

CROWD = 5000  # connections, or as many as the system lets a process have
SPARE = 200  # files besides
# Seconds: long enough to come, and be looked at, before it is over. The second is for
# a machine that is slow, or does much else.
KEEPALIVES = (8.0, 24.0)
TICK = 0.5  # seconds: FB_TICK_MAX_MS

SERVER = """\
import fastbatch, fastbatch._server, json, resource, sys, time

def handler(request):
    if request.path != "/look":
        return "hello"
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    stats = server.stats()
    stats["resident"] = pages * resource.getpagesize()
    stats["cpu"] = time.process_time()
    return json.dumps(stats)

timeout = float(sys.argv[1])
server = fastbatch.Server(handler, bind="127.0.0.1:0", keepalive_timeout=timeout)
fastbatch._server.serve(server)
"""


@pytest.fixture
def crowd_size() -> Iterator[int]:
    """How many connections there can be, this process being allowed to have them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CROWD + SPARE
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
    yield allowed - SPARE
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def look(connection: Connection) -> dict[str, Any]:
    """What the server says of itself."""
    stats: dict[str, Any] = json.loads(connection.ask("/look").body)
    return stats


def is_idle(connection: Connection) -> bool:
    """Whether the server uses next to no CPU for a while."""
    began = look(connection)["cpu"]
    time.sleep(0.5)
    spent: float = look(connection)["cpu"] - began
    return spent < 0.05


def ask_together(crowd: list[Connection]) -> None:
    for connection in crowd:
        connection.send(get())
    for connection in crowd:
        assert connection.reply().body == b"hello"


def wait_for_ends(crowd: list[Connection]) -> tuple[float, float]:
    """When the first and the last of them was closed by the server."""
    ends = []
    with selectors.DefaultSelector() as selector:
        for connection in crowd:
            selector.register(connection.socket, selectors.EVENT_READ)
        while len(ends) < len(crowd):
            ready = selector.select(KEEPALIVES[-1] + helpers.TIMEOUT)
            assert ready, f"{len(crowd) - len(ends)} are still open"
            for key, _ in ready:
                assert key.fileobj.recv(1) == b""  # type: ignore[union-attr]
                selector.unregister(key.fileobj)
                ends.append(time.monotonic())
    return ends[0], ends[-1]


def test_thousands_of_idle_connections_cost_next_to_nothing_and_end_together(
    start: Start, crowd_size: int
) -> None:
    are_in_time = False
    for keepalive in KEEPALIVES:
        if not are_in_time:
            address = start("-c", SERVER, str(keepalive)).address()
            are_in_time = check_idle_connections(address, keepalive, crowd_size)
    assert are_in_time


def check_idle_connections(
    address: helpers.Address, keepalive: float, crowd_size: int
) -> bool:
    """The test, at a server with that time-out. False: it took too long to come."""
    came = time.monotonic()
    with contextlib.ExitStack() as stack:
        with Connection(address) as bystander:
            before = look(bystander)
            crowd = [
                stack.enter_context(Connection(address)) for _ in range(crowd_size)
            ]
            began = time.monotonic()
            ask_together(crowd)
            asked = time.monotonic()
            if asked - came > keepalive / 2:
                return False
            stats = look(bystander)
            assert stats["open_connections"] == crowd_size + 1
            assert stats["timed_out"] == 0

            # None holds a buffer for reading, which alone is larger.
            each = (stats["resident"] - before["resident"]) / crowd_size
            print(f"{each:.0f} bytes for each of {crowd_size} connections")
            assert each < LIMITS["input_bytes"]
            assert any(is_idle(bystander) for _ in range(3))

        first, last = wait_for_ends(crowd)
        assert first - began > keepalive - 2 * TICK
        # Together: the asking took some time, and a tick, and this program.
        assert last - first < asked - began + 4 * TICK
    with Connection(address) as bystander:  # another one: it would be idle, too
        helpers.wait_until(
            lambda: look(bystander)["open_connections"] == 1, "closing all others"
        )
        assert look(bystander)["timed_out"] == crowd_size
        assert any(is_idle(bystander) for _ in range(3))
    return True


def test_thousands_of_idle_connections_do_not_slow_down_who_is_served(
    start: Start, crowd_size: int
) -> None:
    address = start("-c", SERVER, "0").address()
    n = 2000  # requests

    def cost(connection: Connection) -> float:
        """The server's CPU time for one request, in seconds."""
        began = look(connection)["cpu"]
        for _ in range(n // 100):
            connection.send(get() * 100)
            for _ in range(100):
                connection.reply()
        spent: float = look(connection)["cpu"] - began
        return spent / n

    with Connection(address) as busy, contextlib.ExitStack() as stack:
        alone = min(cost(busy) for _ in range(5))
        for _ in range(crowd_size):
            stack.enter_context(Connection(address))
        helpers.wait_until(
            lambda: look(busy)["open_connections"] == crowd_size + 1, "accepting"
        )
        among_many = min(cost(busy) for _ in range(5))
    assert among_many < 3 * alone
