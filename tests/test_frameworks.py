"""Frameworks that people use: the same small site with each of them, in apps/."""

import hashlib
import random
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gates
import helpers
import pytest
import requests
import wsgi_helpers
from apps import bottle_site, django_site, falcon_site, flask_site, pyramid_site
from conftest import Serve
from django.core import signals
from helpers import Connection

import fastbatch

SITES: dict[str, Any] = {
    "flask": flask_site.app,
    "django": django_site.app,
    "bottle": bottle_site.app,
    "falcon": falcon_site.app,
    "pyramid": pyramid_site.app,
}


class Client(requests.Session):
    """A client of one server, on one connection."""

    def __init__(self, server: fastbatch.Server) -> None:
        super().__init__()
        self.url = server.url

    def request(self, method: Any, path: Any, *args: Any, **options: Any) -> Any:
        options.setdefault("timeout", helpers.TIMEOUT)
        # As what requests follows by itself has the rest of the URL.
        url = path if path.startswith("http") else self.url + path
        return super().request(method, url, *args, **options)


@pytest.fixture(params=SITES)
def name(request: pytest.FixtureRequest) -> str:
    """The framework of the site."""
    found: str = request.param
    return found


@pytest.fixture
def server(serve: Serve, name: str) -> fastbatch.Server:
    """A server of the site, whose interface was not named."""
    return serve(SITES[name])


@pytest.fixture
def client(server: fastbatch.Server) -> Iterator[Client]:
    """What is asked on one connection, which must outlive it all."""
    with Client(server) as client:
        yield client
        assert client.get("/hello").text == "hello"
    assert server.stats()["connections"] == 1


# ---- every framework ----------------------------------------------------------------


def test_frameworks_leave_the_gil_as_it_is() -> None:
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        pytest.skip("this build has a GIL")
    assert not sys._is_gil_enabled()


def test_hello(client: Client) -> None:
    reply = client.get("/hello")
    assert (reply.status_code, reply.text) == (200, "hello")
    assert reply.headers["Content-Length"] == "5"
    assert client.head("/hello").text == ""


def test_path_is_unicode(client: Client) -> None:
    assert client.get("/path/caf%C3%A9 €%25").json() == {"name": "café €%"}


def test_query(client: Client) -> None:
    reply = client.get("/query", params={"a": ["1", "2&3"], "b": "é €"})
    assert reply.json() == {"a": ["1", "2&3"], "b": "é €"}


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_json(client: Client, *, is_chunked: bool) -> None:
    text = b'{"a": [1, 2, null], "b": "\xc3\xa9"}'
    body: Any = iter([text[:7], text[7:]]) if is_chunked else text
    reply = client.post("/json", body, headers={"Content-Type": "application/json"})
    assert reply.json() == {"a": [1, 2, None], "b": "é"}


def test_form(client: Client) -> None:
    fields = {"a": "1 + 1 = 2 & more", "b": "é €", "c": "x" * 20_000}
    assert client.post("/form", fields).json() == fields


UPLOADS = {
    "empty": ("empty.txt", 0),
    "a byte": ("one.bin", 1),
    "small": ("small.bin", 5000),
    "over Django's memory": ("medium.bin", 200_000),
    "over our memory": ("large.bin", 3_000_000),
    "large": ("larger.bin", 10_000_000),
}


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize(("filename", "size"), UPLOADS.values(), ids=UPLOADS)
def test_upload(client: Client, filename: str, size: int, *, is_chunked: bool) -> None:
    data = random.Random(size).randbytes(size)
    request = requests.Request(
        "POST",
        client.url + "/upload",
        data={"text": "with é"},
        files={"file": (filename, data, "application/octet-stream")},
    ).prepare()
    kind, body = request.headers["Content-Type"], request.body
    assert isinstance(body, bytes)
    pieces = (body[at : at + 99_999] for at in range(0, len(body), 99_999))
    reply = client.post(
        "/upload", pieces if is_chunked else body, headers={"Content-Type": kind}
    )
    assert reply.json() == {
        "name": filename,
        "size": size,
        "sha256": hashlib.sha256(data).hexdigest(),
        "text": "with é",
    }


def test_upload_that_is_not_read(client: Client) -> None:
    for _ in range(3):
        reply = client.post("/missing", bytes(2_000_000))
        assert reply.status_code in (404, 405)


def test_stream(client: Client) -> None:
    reply = client.get("/stream")
    assert reply.text == "".join(f"/stream {i}\n" for i in range(1000))
    assert reply.headers["Transfer-Encoding"] == "chunked"


@pytest.mark.parametrize("size", [0, 1, 300_000, 20_000_000])
def test_file(client: Client, tmp_path: Path, size: int) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(random.Random(size).randbytes(size))
    client.get("/hello")  # opens the connection
    before = len(helpers.open_files())
    for _ in range(3):
        reply = client.get("/file", params={"path": str(path)})
        assert reply.headers["Content-Length"] == str(size)
        assert reply.content == path.read_bytes()
    helpers.wait_until(lambda: len(helpers.open_files()) <= before, "closing files")


def test_cookies(client: Client) -> None:
    assert [client.get("/visits").text for _ in range(3)] == ["1", "2", "3"]
    assert client.cookies["visits"] == "3"
    assert client.cookies["other"] == "a-b"


def test_redirect(client: Client) -> None:
    reply = client.get("/redirect")
    assert [step.status_code for step in reply.history] in ([302], [303])
    assert (reply.url, reply.text) == (client.url + "/hello", "hello")


def test_pages_of_errors(client: Client) -> None:
    reply = client.get("/missing")
    assert (reply.status_code, reply.text) == (404, "the site's own 404")
    assert client.get("/forbidden").status_code == 403


# What is in the page of an exception that the site did not catch.
ERROR_PAGES = {
    "flask": "<h1>Internal Server Error</h1>",
    "django": "ZeroDivisionError",
    "bottle": "Error: 500 Internal Server Error",
    "falcon": '"title": "500 Internal Server Error"',
    "pyramid": "500 Internal Server Error\n",  # ours: it leaves this to the server
}


def test_exception(client: Client, name: str, caplog: pytest.LogCaptureFixture) -> None:
    reply = client.get("/error")
    assert reply.status_code == 500
    assert ERROR_PAGES[name] in reply.text
    logger = "django.request" if name == "django" else "fastbatch"

    def is_logged() -> bool:
        said = [wsgi_helpers.said(r) for r in gates.errors(caplog) if r.name == logger]
        return any("of the site" in text for text in said)

    helpers.wait_until(is_logged, "logging")


@pytest.mark.parametrize("root_path", ["", "/prefix", "/a/b"])
def test_url_of_the_site(serve: Serve, name: str, root_path: str) -> None:
    with Client(serve(SITES[name], root_path=root_path)) as client:
        for path in ("/url", f"{root_path}/url"):
            assert client.get(path).text == f"{client.url}{root_path}/hello"


def test_many_requests_at_once(server: fastbatch.Server) -> None:
    data = b"".join(helpers.get(f"/path/{n}") for n in range(300))
    replied = helpers.parse_replies(helpers.talk(server, data, replies=300))
    for n, reply in enumerate(replied):
        assert b'"%d"' % n in reply.body


def test_client_that_leaves_holds_up_nobody(server: fastbatch.Server) -> None:
    for _ in range(20):
        with Connection(server) as connection:
            connection.send(helpers.get("/stream") * 20)
            assert connection.socket.recv(1)
    gates.wait_until_gone(server)
    assert helpers.get_url(server, "/hello").body == b"hello"


# ---- Flask --------------------------------------------------------------------------


@pytest.fixture
def said() -> list[str]:
    """What the hooks of the Flask site say from now on."""
    flask_site.said.clear()
    return flask_site.said


def test_flask_hooks_are_called_in_their_order(serve: Serve, said: list[str]) -> None:
    reply = helpers.get_url(serve(flask_site.app), "/hello")
    assert reply.headers["X-After"] == "yes"
    helpers.wait_until(lambda: len(said) == 3)
    assert said == ["before /hello", "after /hello", "teardown /hello NoneType"]


def test_flask_hooks_see_an_exception(serve: Serve, said: list[str]) -> None:
    assert helpers.get_url(serve(flask_site.app), "/error").status == 500
    helpers.wait_until(lambda: len(said) == 3)
    assert said[2] == "teardown /error ZeroDivisionError"


def test_flask_context_lives_as_long_as_the_stream(
    serve: Serve, said: list[str]
) -> None:
    assert helpers.get_url(serve(flask_site.app), "/stream").status == 200
    helpers.wait_until(lambda: said[-2:] == ["streamed", "teardown /stream NoneType"])


def test_flask_contexts_of_streams_at_once_do_not_mix(serve: Serve) -> None:
    """Flask has them in context variables, from the first item to the last."""
    server = serve(flask_site.app)
    with gates.connect(server, 10) as connections:
        for n, connection in enumerate(connections):
            connection.send(helpers.get(f"/stream?n={n}") * 3)
        for n, connection in enumerate(connections):
            for _ in range(3):
                lines = connection.reply().body.decode().split("\n")
                assert lines[:-1] == [f"/stream?n={n} {i}" for i in range(1000)]


def test_flask_context_ends_when_the_client_leaves(
    serve: Serve, said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(flask_site.app)
    with wsgi_helpers.connect_with_small_buffer(server.address) as client:
        # Enough of them to have one that cannot be sent to its end.
        client.sendall(helpers.get("/stream") * 400)
        assert client.recv(1)
    gates.wait_until_gone(server)
    helpers.wait_until(lambda: "teardown /stream GeneratorExit" in said)
    assert gates.errors(caplog) == []


def test_flask_sends_ranges_and_knows_what_did_not_change(
    serve: Serve, tmp_path: Path
) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(bytes(range(250)) * 1000)
    with Client(serve(flask_site.app)) as client:
        where = {"path": str(path)}
        reply = client.get("/file", params=where, headers={"Range": "bytes=260-509"})
        assert (reply.status_code, reply.headers["Content-Length"]) == (206, "250")
        assert reply.content == path.read_bytes()[260:510]
        etag = {"If-None-Match": reply.headers["ETag"]}
        reply = client.get("/file", params=where, headers=etag)
        assert (reply.status_code, reply.content) == (304, b"")
        assert client.get("/hello").text == "hello"


def test_bottle_sends_ranges(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(bytes(range(250)) * 1000)
    with Client(serve(bottle_site.app)) as client:
        reply = client.get(
            "/file", params={"path": str(path)}, headers={"Range": "bytes=-10"}
        )
        assert (reply.status_code, reply.content) == (206, bytes(range(240, 250)))


# ---- Django -------------------------------------------------------------------------


def test_django_keeps_large_uploads_in_files_of_its_own(serve: Serve) -> None:
    with Client(serve(django_site.app)) as client:
        kinds = {}
        for size in (50_000, 150_000):
            files = {"file": ("name", bytes(size))}
            reply = client.post("/upload", {"text": ""}, files=files)
            assert reply.json()["size"] == size
            kinds[size] = reply.headers["X-Kept-As"]
    assert kinds == {50_000: "InMemoryUploadedFile", 150_000: "TemporaryUploadedFile"}


def test_django_serves_static_files(serve: Serve) -> None:
    expected = Path(django_site.__file__).read_bytes()
    with Client(serve(django_site.app_with_static_files)) as client:
        reply = client.get("/static/django_site.py")
        assert (reply.status_code, reply.content) == (200, expected)
        assert reply.headers["Content-Type"] == "text/x-python"
        since = {"If-Modified-Since": reply.headers["Last-Modified"]}
        reply = client.get("/static/django_site.py", headers=since)
        assert (reply.status_code, reply.content) == (304, b"")
        assert client.get("/static/none.py").status_code == 404
        assert client.get("/static/../../pyproject.toml").status_code == 404
        assert client.get("/hello").text == "hello"


def test_django_shows_its_page_of_an_exception(serve: Serve) -> None:
    with Client(serve(django_site.app)) as client:
        reply = client.get("/error")
        assert reply.status_code == 500
        assert "<title>ZeroDivisionError" in reply.text
        assert "fastbatch/" in reply.text  # it lists the environ
        reply = client.get("/nothing/here")
        assert (reply.status_code, "Page not found" in reply.text) == (404, True)


@pytest.mark.parametrize("path", ["/hello", "/stream", "/error", "/missing"])
def test_django_is_told_the_end_of_each_request_once(serve: Serve, path: str) -> None:
    ends: list[Any] = []

    def on_end(sender: Any, **_arguments: Any) -> None:
        ends.append(sender)

    signals.request_finished.connect(on_end)
    try:
        server = serve(django_site.app)
        for _ in range(5):
            helpers.get_url(server, path)
        server.stop()
    finally:
        signals.request_finished.disconnect(on_end)
    assert len(ends) == 5


SITES_WITH_BAD_STREAMS = {"flask": flask_site.app, "django": django_site.app}


@pytest.mark.parametrize(
    "app", SITES_WITH_BAD_STREAMS.values(), ids=SITES_WITH_BAD_STREAMS
)
def test_exception_in_a_stream_breaks_it_off(
    serve: Serve, app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with Connection(serve(app)) as connection:
        connection.send(helpers.get("/stream/error"))
        data, is_orderly = wsgi_helpers.rest(connection)
    assert not is_orderly
    assert not data.endswith(b"0\r\n\r\n")
    assert "in the stream" in wsgi_helpers.wait_for_errors(caplog, 1)[0]
