"""The handlers that are measured. Each takes a request and returns a reply."""

import time
from typing import Any

BURN_NANOSECONDS = 50_000


def hello(_request: Any) -> str:
    """A constant str: what the floor's reply is compared with."""
    return "Hello, World!"


def binary(_request: Any) -> bytes:
    """The same bytes, without an encoding and with another content type."""
    return b"Hello, World!"


def json(_request: Any) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body: the shape that most small APIs return."""
    return 200, {"Content-Type": "application/json"}, b'{"message":"Hello, World!"}'


def burn(_request: Any) -> str:
    """50 us of Python, as a light handler would use: the server's own cost fades.

    It is the thread's own CPU time: what another thread or process takes from the core
    meanwhile makes the request longer, and the work no less.
    """
    end = time.thread_time_ns() + BURN_NANOSECONDS
    while time.thread_time_ns() < end:
        pass
    return "Hello, World!"
