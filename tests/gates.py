"""Which requests are ready together, and what was logged: for the behaviour tests."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import helpers
import pytest

import fastbatch


class Gate:
    """A handler that is ``handler``, but for /gate, where it waits.

    A handler that waits holds up its loop, so what arrives meanwhile is ready together.
    """

    def __init__(self, handler: Callable[[fastbatch.Request], Any]) -> None:
        self._handler = handler
        self._is_entered = threading.Event()
        self._is_open = threading.Event()

    def __call__(self, request: fastbatch.Request) -> Any:
        if request.path != "/gate":
            return self._handler(request)
        self._is_entered.set()
        assert self._is_open.wait(helpers.TIMEOUT)
        return "the gate is open"

    @contextlib.contextmanager
    def held(self, server: fastbatch.Server) -> Iterator[None]:
        """Hold the server up for the length of the block."""
        self._is_entered.clear()
        self._is_open.clear()
        with helpers.Connection(server) as connection:
            connection.send(helpers.get("/gate"))
            try:
                assert self._is_entered.wait(helpers.TIMEOUT)
                yield
            finally:
                self._is_open.set()
            assert connection.reply().body == b"the gate is open"


@contextlib.contextmanager
def connect(server: fastbatch.Server, n: int) -> Iterator[list[helpers.Connection]]:
    """Open ``n`` connections that the server has accepted; nobody else may connect."""
    before = server.stats()["connections"]
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(helpers.Connection(server)) for _ in range(n)]
        helpers.wait_until(
            lambda: server.stats()["connections"] == before + n, "accepting"
        )
        yield opened


def batch_sizes(server: fastbatch.Server) -> dict[int, int]:
    """How many batches of each size there were."""
    sizes = server.stats()["batch_sizes"]
    return {size: count for size, count in enumerate(sizes) if count > 0}


def wait_until_read(server: fastbatch.Server, n: int) -> None:
    """Wait until the server has read ``n`` bytes in all."""
    helpers.wait_until(lambda: server.stats()["bytes_received"] >= n, "reading")


def wait_until_gone(server: fastbatch.Server) -> None:
    """Wait until the server has no connection left."""
    helpers.wait_until(
        lambda: server.stats()["open_connections"] == 0, "closing all connections"
    )


def is_at_rest() -> bool:
    """Whether this process uses next to no CPU for a while, in one look of three.

    What spins does so each time; what else this process does is over by then.
    """
    return any(_cpu_of_a_while() < 0.05 for _ in range(3))


def _cpu_of_a_while() -> float:
    began = time.process_time()
    time.sleep(0.1)
    return time.process_time() - began


def errors(log: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What was logged at level ERROR and above."""
    return [record for record in log.records if record.levelno >= logging.ERROR]


def wait_for_error(log: pytest.LogCaptureFixture) -> logging.LogRecord:
    """Wait for the one error that is logged, and return it."""
    helpers.wait_until(lambda: len(errors(log)) > 0, "logging")
    (record,) = errors(log)
    return record


def request(
    path: str = "/", *fields: str, method: str = "GET", body: bytes = b""
) -> bytes:
    """A request with a body of known length, if it has one."""
    length = [f"Content-Length: {len(body)}"] if body else []
    head = helpers.get(path, *fields, *length)
    return head.replace(b"GET", method.encode(), 1) + body
