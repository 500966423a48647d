"""Servers in subinterpreters, each with a GIL of its own."""

import json
import sys
import threading

import pytest

CODE = """
import json
import urllib.request
import fastbatch

def handler(request):
    return request.path

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield environ["PATH_INFO"].encode()

def stream(request):
    return 200, (byte.encode() for byte in request.path)

options = json.loads(OPTIONS)
with fastbatch.Server(globals()[HANDLER], port=0, **options) as server:
    for n in range(20):
        reply = urllib.request.urlopen(f"{server.url}/{n}").read()
        assert reply == b"/%d" % n, reply
    assert server.stats()["requests"] == 20
"""


@pytest.mark.skipif(
    sys.version_info < (3, 13), reason="before 3.13 the test would use what is private"
)
@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("handler", ["handler", "app", "stream"])
def test_two_subinterpreters_serve_at_once(handler: str, threads: int) -> None:
    import _interpreters  # of PEP 734; its public face comes with 3.14

    results: list[object] = []
    options = json.dumps({"threads": threads})
    code = f"HANDLER, OPTIONS = {handler!r}, {options!r}\n{CODE}"

    def serve_in_a_new_one() -> None:
        interpreter = _interpreters.create()
        results.append(_interpreters.exec(interpreter, code))
        _interpreters.destroy(interpreter)

    mains = [threading.Thread(target=serve_in_a_new_one) for _ in range(2)]
    for thread in mains:
        thread.start()
    for thread in mains:
        thread.join()
    assert results == [None, None]
