"""The WSGI applications that are measured: the first is what a server alone costs."""

import time
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

BURN_NANOSECONDS = 50_000
SLOW_SECONDS = 0.05

BODY = b"Hello, World!"
HEADERS = [
    ("Content-Type", "text/plain; charset=utf-8"),
    ("Content-Length", str(len(BODY))),
]


def hello(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The body and the headers of apps.hello; the server adds what else it sends."""
    start_response("200 OK", HEADERS)
    return [BODY]


def burn(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """As apps.burn: 50 us of the thread's own CPU time."""
    end = time.thread_time_ns() + BURN_NANOSECONDS
    while time.thread_time_ns() < end:
        pass
    return hello(environ, start_response)


def mixed(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """``hello``, but for /slow, which waits as for a database and uses no CPU."""
    if environ["PATH_INFO"] == "/slow":
        time.sleep(SLOW_SECONDS)
    return hello(environ, start_response)
