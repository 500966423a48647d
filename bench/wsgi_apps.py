"""The WSGI application that is measured: what a PEP 3333 server costs by itself."""

from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIEnvironment

BODY = b"Hello, World!"
HEADERS = [
    ("Content-Type", "text/plain; charset=utf-8"),
    ("Content-Length", str(len(BODY))),
]


def hello(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The body and the headers of apps.hello; the server adds what else it sends."""
    start_response("200 OK", HEADERS)
    return [BODY]
