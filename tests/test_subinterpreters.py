"""Servers in subinterpreters, each with a GIL of its own."""

import sys
import threading

import pytest

CODE = """
import urllib.request
import fastbatch
with fastbatch.Server(lambda request: request.path, port=0) as server:
    for n in range(20):
        reply = urllib.request.urlopen(f"{server.url}/{n}").read()
        assert reply == b"/%d" % n, reply
    assert server.stats()["requests"] == 20
"""


@pytest.mark.skipif(
    sys.version_info < (3, 13), reason="before 3.13 the test would use what is private"
)
def test_two_subinterpreters_serve_at_once() -> None:
    import _interpreters  # of PEP 734; its public face comes with 3.14

    results: list[object] = []

    def serve_in_a_new_one() -> None:
        interpreter = _interpreters.create()
        results.append(_interpreters.exec(interpreter, CODE))
        _interpreters.destroy(interpreter)

    threads = [threading.Thread(target=serve_in_a_new_one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [None, None]
