"""The clients that people use."""

import http.client
import os
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from typing import Any

import gates
import pytest
import requests
from conftest import Serve

import fastbatch


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        shutil.which(program) is None, reason=f"{program} is not installed"
    )


def echo(request: fastbatch.Request) -> Any:
    fields = {"X-Method": request.method, "X-Path": request.path}
    return 200, fields, request.body or b"no body"


def run(*command: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    # A sanitizer's library, which Python is then started with, is not for others.
    env = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    done = subprocess.run(command, input=data, env=env, capture_output=True, timeout=30)
    assert done.returncode == 0, done.stderr.decode()
    return done


@pytest.fixture
def url(serve: Serve) -> str:
    return serve(echo).url


# ---- Python's -----------------------------------------------------------------------


def test_requests_session(serve: Serve) -> None:
    server = serve(echo)
    with requests.Session() as session:
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            reply = session.request(method, server.url + "/é", data=b"body", timeout=10)
            assert (reply.status_code, reply.content) == (200, b"body")
            assert (reply.headers["X-Method"], reply.reason) == (method, "OK")
        reply = session.head(server.url, timeout=10)
        assert (reply.content, reply.headers["Content-Length"]) == (b"", "7")
    assert server.stats()["connections"] == 1


def test_requests_json_and_form(serve: Serve) -> None:
    def handler(request: fastbatch.Request) -> Any:
        return request.json()["text"] + str(request.query)

    url = serve(handler).url
    reply = requests.post(url, json={"text": "é€"}, params={"a": "é b"}, timeout=10)
    assert reply.text == "é€{'a': ['é b']}"


def test_requests_chunked_upload_and_download(serve: Serve) -> None:
    def handler(request: fastbatch.Request) -> Any:
        return 200, (request.body[i : i + 1000] for i in range(0, 100_000, 1000))

    def pieces() -> Iterator[bytes]:
        for n in range(1000):
            yield b"%03d" % n * 40

    url = serve(handler).url
    with requests.Session() as session:
        for _ in range(2):
            with session.post(url, data=pieces(), timeout=10, stream=True) as reply:
                assert reply.headers["Transfer-Encoding"] == "chunked"
                body = b"".join(reply.iter_content(777))
            assert body == b"".join(pieces())[:100_000]


@pytest.mark.parametrize("size", [1_000_000, 16 * 2**20])
def test_requests_large_upload(url: str, size: int) -> None:
    body = b"0123456789abcdef" * (size // 16) + b"x" * (size % 16)
    assert requests.post(url, data=body, timeout=10).content == body


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_requests_sees_413_while_it_uploads_100_mb(
    serve: Serve, *, is_chunked: bool
) -> None:
    piece = bytes(2**20)
    body: Any = (piece for _ in range(100)) if is_chunked else piece * 100
    server = serve(echo)
    assert requests.post(server.url, data=body, timeout=10).status_code == 413
    gates.wait_until_gone(server)
    assert requests.get(server.url, timeout=10).content == b"no body"


def test_http_client(serve: Serve) -> None:
    server = serve(echo)
    client = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10)
    for body in (b"", b"body", b"x" * 100_000):
        client.request("POST", "/path", body)
        reply = client.getresponse()
        assert (reply.status, reply.version) == (200, 11)
        assert (reply.read(), reply.will_close) == (body or b"no body", False)
    client.close()
    assert server.stats()["connections"] == 1


def test_urllib(url: str) -> None:
    with urllib.request.urlopen(url + "/path", timeout=10) as reply:
        assert (reply.status, reply.read()) == (200, b"no body")


# ---- programs -----------------------------------------------------------------------


@needs("curl")
@pytest.mark.parametrize("option", ["--http1.0", "--http1.1", "--http2"])
def test_curl(url: str, option: str) -> None:
    done = run("curl", "-sS", option, url, url, url)
    assert done.stdout == b"no body" * 3


@needs("curl")
def test_curl_waits_for_100_continue(url: str) -> None:
    done = run(
        "curl", "-sSv", "-H", "Expect: 100-continue", "--expect100-timeout", "30",
        "--data-binary", "@-", url, data=b"x" * 2_000_000,
    )  # fmt: skip
    assert b"< HTTP/1.1 100 Continue" in done.stderr
    assert done.stdout == b"x" * 2_000_000


@needs("curl")
def test_curl_is_told_413_and_does_not_send(serve: Serve) -> None:
    server = serve(echo, max_body=1000)
    done = run(
        "curl", "-sSv", "-H", "Expect: 100-continue", "--expect100-timeout", "30",
        "--data-binary", "@-", server.url, data=b"x" * 2_000_000,
    )  # fmt: skip
    assert b"< HTTP/1.1 413 " in done.stderr
    assert b"100 Continue" not in done.stderr
    assert server.stats()["bytes_received"] < 10_000


@needs("curl")
@pytest.mark.parametrize("option", ["-I", "-r0-3", "-T-", "--compressed"])
def test_curl_with_options_of_all_kinds(url: str, option: str) -> None:
    done = run("curl", "-sS", "-w", "%{http_code}", option, url, data=b"upload")
    assert done.stdout.endswith(b"200")


@needs("ab")
@pytest.mark.parametrize("keep_alive", [[], ["-k"]], ids=["ab", "ab -k"])
@pytest.mark.parametrize("size", [0, 5, 100_000])
def test_ab(serve: Serve, keep_alive: list[str], size: int) -> None:
    server = serve(lambda _request: b"x" * size)
    n = 500
    done = run("ab", "-q", "-s", "10", *keep_alive, f"-n{n}", "-c10", server.url + "/")
    report = done.stdout.decode()
    assert re.search(rf"Complete requests: +{n}\n", report)
    assert re.search(r"Failed requests: +0\n", report)
    assert "Non-2xx" not in report
    assert re.search(rf"HTML transferred: +{n * size} bytes\n", report)
    if keep_alive:
        assert re.search(rf"Keep-Alive requests: +{n}\n", report)
        assert server.stats()["connections"] <= 10


@needs("wrk")
@pytest.mark.parametrize("connections", [1, 50, 100, 200, 500])
def test_wrk(serve: Serve, connections: int) -> None:
    server = serve(lambda _request: "Hello, World!")
    done = run("wrk", "-t1", "-d1s", f"-c{connections}", server.url)
    report = done.stdout.decode()
    assert "Socket errors" not in report
    assert "Non-2xx" not in report
    found = re.search(r"(\d+) requests in", report)
    assert found is not None
    assert int(found[1]) > 0
    gates.wait_until_gone(server)
    assert server.stats()["requests"] >= int(found[1])
