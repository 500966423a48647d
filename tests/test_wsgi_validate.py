"""wsgiref.validate between the server and several applications.

It asks for more than the PEP does in places: a Content-Type with every body, read()
with a size, and a known method.
"""

import io
import wsgiref.validate
from collections.abc import Iterable, Iterator
from typing import Any

import gates
import helpers
import pytest
import wsgi_helpers
from conftest import Serve
from helpers import Connection
from wsgi_helpers import OK, Application, Environ, StartResponse

TEXT = [("Content-Type", "text/plain")]


def as_list(_environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response(OK, TEXT)
    return [b"hello, ", b"world"]


def as_tuple(environ: Environ, start_response: StartResponse) -> tuple[bytes, ...]:
    return tuple(as_list(environ, start_response))


def as_generator(environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    return iter(as_list(environ, start_response))


def with_length(_environ: Environ, start_response: StartResponse) -> Iterator[bytes]:
    start_response(OK, [*TEXT, ("Content-Length", "12")])
    return iter([b"hello, ", b"world"])


def with_empty_items(
    _environ: Environ, start_response: StartResponse
) -> Iterable[bytes]:
    start_response(OK, TEXT)
    return [b"", b"hello, ", b"", b"world", b""]


def as_file(environ: Environ, start_response: StartResponse) -> Any:
    start_response(OK, TEXT)
    return environ["wsgi.file_wrapper"](io.BytesIO(b"hello, world"), 5)


def by_writing(_environ: Environ, start_response: StartResponse) -> list[bytes]:
    write = start_response(OK, TEXT)
    write(b"hello, ")
    write(b"world")
    return []


def changing_its_mind(_environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("404 Not Found", TEXT)
    try:
        raise LookupError
    except LookupError as error:
        start_response(OK, TEXT, (LookupError, error, error.__traceback__))
    return [b"hello, world"]


def complaining(environ: Environ, start_response: StartResponse) -> list[bytes]:
    environ["wsgi.errors"].write("to be ")
    environ["wsgi.errors"].writelines(["logged\n"])
    environ["wsgi.errors"].flush()
    return as_list(environ, start_response)


def reading(environ: Environ, start_response: StartResponse) -> list[bytes]:
    """Read as the validator has it, with a size; other ways are tried elsewhere."""
    stream = environ["wsgi.input"]
    body = stream.read(2) + stream.readline() + b"".join(stream.readlines())
    start_response(OK, TEXT)
    return [body or b"hello, world", *stream]


APPS: list[Application] = [
    as_list,
    as_tuple,
    as_generator,
    with_length,
    with_empty_items,
    as_file,
    by_writing,
    changing_its_mind,
    complaining,
    reading,
]


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("app", APPS, ids=lambda app: app.__name__)
def test_validator_finds_nothing_to_complain_of(
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    app: Application,
    version: str,
) -> None:
    server = serve(wsgiref.validate.validator(app), interface="wsgi")
    for method in ("GET", "POST", "HEAD", "PUT"):
        body = b"hello, world" if method in ("POST", "PUT") else b""
        fields = ["Content-Type: text/plain", "X-A: b", "X-A: c", "Cookie: d"]
        data = gates.request("/a%20b?c=d", *fields, method=method, body=body)
        with Connection(server) as connection:
            connection.send(data.replace(b"HTTP/1.1", f"HTTP/{version}".encode()))
            reply = connection.reply(method)
        assert reply.status == 200
        assert reply.body == (b"" if method == "HEAD" else b"hello, world")
    server.stop()
    logged = [record.getMessage() for record in gates.errors(caplog)]
    assert logged == (["to be logged"] * 4 if app is complaining else [])
    # It says there when an iterator was never closed.
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("root_path", ["", "/a"])
@pytest.mark.parametrize("target", ["/", "/a", "/a/", "/a/b?c", "/%00%ff", "//"])
def test_validator_accepts_the_environ_of_any_target(
    serve: Serve, target: str, root_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = wsgiref.validate.validator(as_list)
    server = serve(app, interface="wsgi", root_path=root_path)
    assert helpers.get_url(server, target).body == b"hello, world"
    assert gates.errors(caplog) == []


def test_validator_accepts_status_without_body(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def app(_environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response("204 No Content", [])
        return []

    server = serve(wsgiref.validate.validator(app), interface="wsgi")
    assert helpers.get_url(server).status == 204
    assert gates.errors(caplog) == []


def test_validator_accepts_a_client_that_leaves(
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def app(_environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response(OK, TEXT)
        return iter(lambda: bytes(65536), None)

    server = serve(wsgiref.validate.validator(app), interface="wsgi")
    with Connection(server) as connection:
        connection.send(helpers.get())
        assert connection.socket.recv(1)
    gates.wait_until_gone(server)
    server.stop()
    assert gates.errors(caplog) == []
    assert capfd.readouterr().err == ""


def test_validator_does_find_faults(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """That the tests above could fail: it is an application that is wrong here."""

    def app(_environ: Environ, start_response: StartResponse) -> list[bytes]:
        start_response(OK, [])
        return [b"no type"]

    server = serve(wsgiref.validate.validator(app), interface="wsgi")
    assert helpers.get_url(server).status == 500
    assert "No Content-Type header" in wsgi_helpers.wait_for_error(caplog)
