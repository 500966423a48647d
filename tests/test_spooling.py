"""Bodies of request handlers that are too long for memory."""

import json
import threading
from typing import Any

import gates
import helpers
import pytest
from conftest import Serve, Start
from helpers import Connection, get

import fastbatch

LIMIT = 100_000  # bytes held in memory, in these tests


def body_of(length: int) -> bytes:
    return (b"0123456789abcdef" * (length // 16 + 1))[:length]


def temporary_files() -> list[str]:
    """Those that this process has open: they have no name any more."""
    return sorted(name for name in helpers.open_files().values() if "(deleted)" in name)


def chunked(body: bytes, step: int) -> bytes:
    pieces = [body[at : at + step] for at in range(0, len(body), step)]
    head = get("/", "Transfer-Encoding: chunked").replace(b"GET", b"POST", 1)
    return head + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize("length", [LIMIT - 1, LIMIT, LIMIT + 1, 3_000_000])
def test_body_is_whole_and_beyond_its_limit_in_a_file(
    serve: Serve, length: int
) -> None:
    seen: list[int] = []

    def handler(request: fastbatch.Request) -> bytes:
        seen.append(len(temporary_files()))
        return request.body

    server = serve(handler, max_body_memory=LIMIT)
    before = len(temporary_files())
    body = body_of(length)
    with Connection(server) as connection:
        for data in (gates.request(method="POST", body=body), chunked(body, 7777)):
            connection.send(data + get("/behind"))
            assert connection.reply().body == body
            assert connection.reply().body == b""
    # Those behind may be in the same batch, or in the next.
    assert seen[::2] == [before + (length > LIMIT)] * 2
    helpers.wait_until(lambda: len(temporary_files()) == before, "closing")


def test_request_that_is_kept_keeps_its_body(serve: Serve) -> None:
    kept: list[fastbatch.Request] = []
    server = serve(kept.append, max_body_memory=LIMIT)
    before = temporary_files()
    body = body_of(1_000_000)
    with Connection(server) as connection:
        for _ in range(3):
            connection.send(gates.request(method="POST", body=body))
            connection.reply()
        helpers.wait_until(lambda: len(temporary_files()) == len(before) + 3)
        found: list[Any] = []
        readers = [
            threading.Thread(target=lambda: found.append(kept[0].body))
            for _ in range(4)
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        assert found == [body] * 4
        assert kept[1].body == body
        kept.clear()
        connection.ask()  # the server's own references go when it runs again
        kept.clear()
        connection.ask()
    helpers.wait_until(lambda: temporary_files() == before, "closing")


def test_json_of_a_long_body(serve: Serve) -> None:
    server = serve(lambda request: str(len(request.json())), max_body_memory=LIMIT)
    body = json.dumps(list(range(100_000))).encode()
    with Connection(server) as connection:
        connection.send(gates.request(method="POST", body=body))
        assert connection.reply().body == b"100000"


def test_longest_body_is_still_the_longest(serve: Serve) -> None:
    server = serve(
        lambda request: str(len(request.body)), max_body_memory=10, max_body=LIMIT
    )
    for length, status in ((LIMIT, 200), (LIMIT + 1, 413)):
        for data in (
            gates.request(method="POST", body=body_of(length)),
            chunked(body_of(length), 1000),
        ):
            reply = helpers.parse_replies(helpers.talk(server, data, replies=1))[0]
            assert reply.status == status


NOWHERE = """
import os, tempfile, time, fastbatch
folder = tempfile.mkdtemp()
tempfile.tempdir = folder
server = fastbatch.Server(lambda r: str(len(r.body)), port=0, max_body_memory=10)
server.start()
os.rmdir(folder)
print(f"listening on {server.url}", flush=True)
time.sleep(60)
"""


def test_directory_that_has_vanished_is_a_507(start: Start) -> None:
    program = start("-c", NOWHERE)
    address = program.address()
    for _ in range(2):
        with Connection(address) as connection:
            connection.send(gates.request(method="POST", body=b"0123456789"))
            assert connection.reply().body == b"10"
            connection.send(gates.request(method="POST", body=b"0123456789a"))
            reply = connection.reply()
            assert (reply.status, reply.headers["Connection"]) == (507, "close")
