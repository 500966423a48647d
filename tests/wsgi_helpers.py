"""WSGI applications for the tests, and what was seen of them."""

import contextlib
import logging
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import gates
import helpers
import pytest
from conftest import Serve

OK = "200 OK"

Environ = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]


def replies(body: Any, *fields: tuple[str, str], status: str = OK) -> Application:
    """An application that gives this body, or what ``body(environ)`` is, to all."""

    def app(environ: Environ, start_response: StartResponse) -> Any:
        start_response(status, list(fields))
        return body(environ) if callable(body) else body

    return app


def echo(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Answer with what was asked for, and with the body if there is one."""
    start_response(OK, [("Content-Type", "text/plain")])
    return [environ["PATH_INFO"].encode("latin-1"), environ["wsgi.input"].read()]


class Body:
    """An iterable that counts what was taken of it, and how often it was closed.

    An item that is an exception is raised. Its iterator is an object of its own.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = items
        self.n_taken = 0
        self.n_closed = 0

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            self.n_taken += 1
            if isinstance(item, BaseException):
                raise item
            yield item

    def close(self) -> None:
        self.n_closed += 1


class Gate(gates.Gate):
    """An application that is another one, but for /gate, where it waits."""

    def __init__(self, app: Application) -> None:
        super().__init__(lambda _request: b"the gate is open")
        self._app = app

    def __call__(self, environ: Environ, start_response: StartResponse) -> Any:
        if environ["PATH_INFO"] != "/gate":
            return self._app(environ, start_response)
        self._is_entered.set()
        assert self._is_open.wait(helpers.TIMEOUT)
        start_response(OK, [])
        return [b"the gate is open"]


def wait_until_closed(*bodies: Body) -> None:
    """Wait until each was closed, and see that it was so once."""
    helpers.wait_until(
        lambda: all(body.n_closed > 0 for body in bodies), "calling close()"
    )
    assert [body.n_closed for body in bodies] == [1] * len(bodies)


def environ_of(serve: Serve, data: bytes = b"", **options: Any) -> Environ:
    """Send one request; a copy of the environ that the application is given."""
    seen: list[Environ] = []
    server = serve(replies(lambda environ: seen.append(dict(environ)) or []), **options)
    helpers.talk(server, data or helpers.get(), replies=1)
    (environ,) = seen
    return environ


def rest(connection: helpers.Connection) -> tuple[bytes, bool]:
    """All that comes, and whether the connection was ended in an orderly way."""
    data = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.socket.recv(65536):
            data += piece
        return bytes(data), True
    return bytes(data), False


def chunks_of(data: bytes) -> list[bytes]:
    """The chunks of a whole chunked reply."""
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"\r\nTransfer-Encoding: chunked" in head
    assert b"\r\nContent-Length:" not in head
    chunks = []
    while not body.startswith(b"0\r\n"):
        size, _, body = body.partition(b"\r\n")
        chunks.append(body[: int(size, 16)])
        assert body[len(chunks[-1]) :].startswith(b"\r\n")
        body = body[len(chunks[-1]) + 2 :]
    assert body == b"0\r\n\r\n"
    return chunks


def connect_with_small_buffer(address: Any) -> socket.socket:
    """A client for which the kernel holds little of what it does not read."""
    client = socket.socket()
    client.settimeout(helpers.TIMEOUT)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(address)
    return client


def said(record: logging.LogRecord) -> str:
    """The message of a record and of the exception in it."""
    error = record.exc_info[1] if record.exc_info else ""
    return f"{record.getMessage()}\n{error!r}"


def wait_for_error(log: pytest.LogCaptureFixture) -> str:
    """Wait for the one error that is logged; what it says."""
    return said(gates.wait_for_error(log))


def wait_for_errors(log: pytest.LogCaptureFixture, n: int) -> list[str]:
    """Wait until ``n`` errors are logged, and no more; what they say."""
    helpers.wait_until(lambda: len(gates.errors(log)) >= n, "logging")
    records = gates.errors(log)
    assert len(records) == n
    return [said(record) for record in records]
