"""The clients that count: they have to see what goes wrong."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import helpers
import pytest
from conftest import Start
from counting import HANDLER, KEPT, KINDS, NEW, UPLOAD, Clients, Count, Kind

Peer = Callable[[socket.socket, bytes], bool]
"""Answers one request; returns whether the connection is to be kept."""


@pytest.fixture
def play() -> Iterator[Callable[[Peer], tuple[str, int]]]:
    """A function that starts a server which answers as ``peer`` does."""
    with contextlib.ExitStack() as stack:

        def start(peer: Peer) -> tuple[str, int]:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            thread = threading.Thread(target=serve_all, args=(listener, peer))
            thread.start()
            stack.callback(thread.join)
            stack.callback(listener.shutdown, socket.SHUT_RDWR)
            address: tuple[str, int] = listener.getsockname()
            return address

        yield start


def serve_all(listener: socket.socket, peer: Peer) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                while (data := connection.recv(10_000)) and peer(connection, data):
                    pass


def number_in(data: bytes) -> int:
    return int(data.split(b" ")[1][1:].partition(b"?")[0])


def answer(connection: socket.socket, number: int, *fields: str) -> None:
    body = f"{number} 1 1 0"
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *fields, "", body]
    connection.sendall("\r\n".join(lines).encode())


def ask(
    address: tuple[str, int], handled: Path, *kinds: Kind, at_most: int = 4
) -> Count:
    """The count of clients that have asked all that they are to ask."""
    with Clients(address, handled, kinds or (KEPT,), at_most) as clients:
        helpers.wait_until(lambda: not clients._are_asking())
    return clients.count


@pytest.fixture
def handled(tmp_path: Path) -> Path:
    return tmp_path / "handled"


def all_handled(handled: Path) -> None:
    handled.write_text("".join(f"{n}\n" for n in range(100)))


def test_all_are_answered(start: Start, tmp_path: Path, handled: Path) -> None:
    (tmp_path / "app.py").write_text(HANDLER)
    program = start("-m", "fastbatch", "app:handler", "--port=0")
    address = program.address()
    assert isinstance(address, tuple)
    count = ask(address, handled, *KINDS, at_most=200)
    count.check(unread=0)
    assert count.answered.keys() == set(range(200)) == count.handled.keys()
    assert len(count.workers) == 1
    assert str(count) == (
        "200 answered by 1 workers, 0 refused, 0 wrong, 0 lost (0 unaccepted),"
        " 0 unread, 0 closed between two"
    )


def test_connections_are_kept_or_not(play: Callable[[Peer], tuple[str, int]]) -> None:
    seen: list[int] = []

    def peer(connection: socket.socket, data: bytes) -> bool:
        seen.append(connection.getpeername()[1])
        answer(connection, number_in(data))
        return True

    ask(play(peer), Path(os.devnull), KEPT)
    assert len(seen) == 4
    assert len(set(seen)) == 1
    ask(play(peer), Path(os.devnull), NEW)
    assert len(set(seen)) == 5


def test_connection_is_not_used_after_the_last_reply(
    play: Callable[[Peer], tuple[str, int]], handled: Path
) -> None:
    all_handled(handled)

    def peer(connection: socket.socket, data: bytes) -> bool:
        answer(connection, number_in(data), "Connection: close")
        return False

    count = ask(play(peer), handled)
    count.check(unread=0)
    assert len(count.answered) == 4
    assert count.n_closed == 0


def test_connection_that_is_closed_between_two_requests(
    play: Callable[[Peer], tuple[str, int]], handled: Path
) -> None:
    all_handled(handled)

    def peer(connection: socket.socket, data: bytes) -> bool:
        answer(connection, number_in(data))
        return False

    count = ask(play(peer), handled)
    count.check()
    assert len(count.answered) + len(count.unread) == 4
    assert count.n_closed + len(count.unread) >= 2


def every_other(answer_to: Callable[[socket.socket, int], None]) -> Peer:
    """Answers the even requests; closes the connection after ``answer_to`` others."""

    def peer(connection: socket.socket, data: bytes) -> bool:
        number = number_in(data)
        if number % 2 == 0:
            answer(connection, number)
            return True
        answer_to(connection, number)
        return False

    return peer


def test_request_that_was_not_read_is_not_lost(
    play: Callable[[Peer], tuple[str, int]], handled: Path
) -> None:
    handled.write_text("0\n2\n")
    count = ask(play(every_other(lambda *_: None)), handled)
    assert [failure.number for failure in count.unread] == [1, 3]
    assert count.lost == []
    count.check(unread=2)
    with pytest.raises(AssertionError):
        count.check(unread=1)


def test_request_that_was_read_is_lost(
    play: Callable[[Peer], tuple[str, int]], handled: Path
) -> None:
    all_handled(handled)
    count = ask(play(every_other(lambda *_: None)), handled)
    assert [failure.number for failure in count.lost] == [1, 3]
    assert count.unaccepted == []
    count.check(lost=2)
    with pytest.raises(AssertionError):
        count.check(lost=1)


def test_half_a_reply_is_lost(
    play: Callable[[Peer], tuple[str, int]], handled: Path
) -> None:
    handled.write_text("0\n2\n")
    for half in (b"HTT", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"):
        count = ask(
            play(every_other(lambda peer, _, half=half: peer.send(half))), handled
        )
        assert [failure.number for failure in count.lost] == [1, 3]


def test_request_on_a_new_connection_is_lost(
    play: Callable[[Peer], tuple[str, int]], handled: Path
) -> None:
    for kind in (KEPT, NEW, UPLOAD):
        count = ask(play(lambda *_: False), handled, kind)
        assert len(count.lost) == len(count.unaccepted) == 4
        assert count.unread == []


def test_reply_to_another_request_is_wrong(
    play: Callable[[Peer], tuple[str, int]], handled: Path
) -> None:
    def answer_next(connection: socket.socket, data: bytes) -> bool:
        answer(connection, number_in(data) + 1)
        return True

    count = ask(play(answer_next), handled)
    assert len(count.wrong) == 4
    with pytest.raises(AssertionError):
        count.check()


def test_request_that_is_handled_twice_is_seen(
    play: Callable[[Peer], tuple[str, int]], handled: Path
) -> None:
    handled.write_text("0\n1\n2\n3\n2\n")
    peer = every_other(lambda *_: None)
    with pytest.raises(AssertionError):
        ask(play(peer), handled).check(lost=4, unread=4)


def test_refused_connections_are_seen(handled: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    count = ask(address, handled)
    assert len(count.refused) == 4
    with pytest.raises(AssertionError):
        count.check(lost=4, unread=4)
