"""Clients that count: was each request that was sent answered, and by whom?

The server's handler has to write each number that it handles to a file, and to answer
with it, as ``HANDLER`` does. A request that failed is either

* *unread*: it was on a connection that had been used before, no byte of a reply came,
  and the handler never saw its number. The server closed the connection before it read
  the request, as it may at any time; a client sends it again (RFC 9112 9.3.1), or
* *lost*: anything else.
"""

import contextlib
import http.client
import select
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import helpers
from helpers import Address, Connection

HANDLER = """
import os, threading, time

handled = os.open("handled", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def handler(request):
    number = request.path[1:]
    os.write(handled, f"{number}\\n".encode())
    if request.query_string == "slow":
        time.sleep(0.02)
    return f"{number} {os.getpid()} {threading.get_native_id()} {len(request.body)}"
"""

PAUSE = 0.004  # seconds between two requests of a client
SLOW = 0.02  # seconds between the head and the body of an upload
BODY = b"x" * 1000

AT_MOST = 30_000  # requests of all clients together: more than they get to in TIMEOUT


# ---- requests ---------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """What a client asks for, and how."""

    name: str
    keeps: bool = True  # the connection, as long as the server does
    is_slow: bool = False  # in the handler
    is_upload: bool = False  # its body comes later than its head

    def send(self, connection: Connection, number: int) -> None:
        path = f"/{number}?slow" if self.is_slow else f"/{number}"
        fields = [] if self.keeps else ["Connection: close"]
        if not self.is_upload:
            connection.send(helpers.get(path, *fields))
            return
        head = helpers.get(path, *fields, f"Content-Length: {len(BODY)}")
        connection.send(head.replace(b"GET", b"POST", 1))
        threading.Event().wait(SLOW)
        connection.send(BODY)


KEPT = Kind("kept")
NEW = Kind("new", keeps=False)
SLOW_HANDLER = Kind("slow", is_slow=True)
UPLOAD = Kind("upload", is_upload=True)
KINDS = (KEPT, KEPT, NEW, NEW, SLOW_HANDLER, UPLOAD)


# ---- what became of them ----------------------------------------------------------


@dataclass(frozen=True)
class Failure:
    """A request without a reply."""

    number: int
    kind: str
    n_before: int  # replies on the same connection
    has_part: bool  # of its reply
    why: str


@dataclass(repr=False)
class Count:
    """What became of all requests of some clients."""

    answered: dict[int, str] = field(default_factory=dict)  # by number, by whom
    wrong: list[str] = field(default_factory=list)  # replies
    refused: list[str] = field(default_factory=list)  # connections
    failures: list[Failure] = field(default_factory=list)
    n_closed: int = 0  # connections that the server closed between two requests
    handled: Counter[int] = field(default_factory=Counter)

    @property
    def unread(self) -> list[Failure]:
        return [one for one in self.failures if self._is_unread(one)]

    @property
    def lost(self) -> list[Failure]:
        return [one for one in self.failures if not self._is_unread(one)]

    @property
    def unaccepted(self) -> list[Failure]:
        """Of those lost, the ones that no server may have had: as good as refused."""
        return [
            one
            for one in self.lost
            if one.n_before == 0 and not one.has_part and one.number not in self.handled
        ]

    @property
    def workers(self) -> Counter[str]:
        """How many requests each worker answered."""
        return Counter(self.answered.values())

    def check(self, *, lost: int = 0, unread: int = 10) -> None:
        """See that no more than that went wrong, and nothing else.

        How many are unread depends on how long clients are kept from their turn,
        between seeing that a connection is open and sending: mostly, none is.
        """
        assert self.refused == [], self
        assert self.wrong == [], self
        assert len(self.lost) <= lost, (self.lost, self)
        assert len(self.unread) <= unread, (self.unread, self)
        assert [n for n, times in self.handled.items() if times > 1] == [], self
        assert self.answered.keys() <= self.handled.keys(), self

    def _is_unread(self, failure: Failure) -> bool:
        was_seen = failure.number in self.handled
        return failure.n_before > 0 and not failure.has_part and not was_seen

    def __repr__(self) -> str:
        return (
            f"{len(self.answered)} answered by {len(self.workers)} workers,"
            f" {len(self.refused)} refused, {len(self.wrong)} wrong,"
            f" {len(self.lost)} lost ({len(self.unaccepted)} unaccepted),"
            f" {len(self.unread)} unread,"
            f" {self.n_closed} closed between two"
            + "".join(f"\n{failure}" for failure in self.failures)
        )


class Clients:
    """Clients, each in a thread, that ask from ``start()`` until ``stop()``.

    Args:
        address: of the server, or a function that finds it.
        handled: the file of numbers that its handler writes.
        kinds: what each client asks for.
        at_most: the requests after which they are tired.
    """

    def __init__(
        self,
        address: Address,
        handled: Path,
        kinds: Sequence[Kind] = KINDS,
        at_most: int = AT_MOST,
    ) -> None:
        self.count = Count()
        self._address = address
        self._handled = handled
        self._numbers = iter(range(at_most))
        self._is_over = threading.Event()
        self._lock = threading.Lock()  # for the count and the numbers
        self._threads = [
            threading.Thread(target=self._ask, args=(kind,)) for kind in kinds
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> Count:
        """Let all get the reply that they wait for, and end."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        self.count.handled = Counter(map(int, self._read_handled().split()))
        return self.count

    @property
    def n_answered(self) -> int:
        return len(self.count.answered)

    @property
    def workers(self) -> set[str]:
        with self._lock:
            return set(self.count.workers)

    def go_on(self, n: int = 100) -> None:
        """Wait until ``n`` more are answered."""
        goal = self.n_answered + n
        helpers.wait_until(
            lambda: self.n_answered >= goal or not self._are_asking(),
            f"{n} more replies",
        )

    def go_on_until(self, is_so: Callable[[], bool], what: str = "it") -> None:
        helpers.wait_until(lambda: is_so() or not self._are_asking(), what)
        assert is_so(), f"{what} did not happen: {self.count}"

    def _are_asking(self) -> bool:
        return any(thread.is_alive() for thread in self._threads)

    def _read_handled(self) -> str:
        with contextlib.suppress(FileNotFoundError):
            return self._handled.read_text()
        return ""

    # ---- a client -----------------------------------------------------------------

    def _ask(self, kind: Kind) -> None:
        visit: _Visit | None = None
        for number in self._mine():
            if visit is not None and visit.is_closed():
                with self._lock:
                    self.count.n_closed += 1
                visit = visit.end()
            try:
                visit = visit or _Visit(self._address)
            except OSError as error:
                with self._lock:
                    self.count.refused.append(f"{number}: {error!r}")
                continue
            if not self._ask_once(visit, kind, number):
                visit = visit.end()
        if visit is not None:
            visit.end()

    def _mine(self) -> Iterator[int]:
        while not self._is_over.wait(PAUSE):
            with self._lock:
                number = next(self._numbers, None)
            if number is None:
                return
            yield number

    def _ask_once(self, visit: "_Visit", kind: Kind, number: int) -> bool:
        """Ask, and count what comes. Returns whether the connection can be kept."""
        try:
            reply = visit.ask(kind, number)
        except (OSError, http.client.HTTPException) as error:
            failure = Failure(
                number, kind.name, visit.n_replies, visit.has_part, repr(error)
            )
            with self._lock:
                self.count.failures.append(failure)
            return False
        n_bytes = len(BODY) if kind.is_upload else 0
        said = reply.body.decode(errors="replace").split(" ")
        is_right = len(said) == 4 and [said[0], said[3]] == [str(number), str(n_bytes)]
        with self._lock:
            if reply.status == 200 and is_right:
                self.count.answered[number] = " ".join(said[1:3])
            else:
                self.count.wrong.append(f"{number}: {reply.status} {reply.body!r}")
        return kind.keeps and reply.headers["Connection"] != "close"


class _Visit:
    """A connection of a client."""

    def __init__(self, address: Address) -> None:
        self.n_replies = 0
        self._connection = Connection(address)
        self._n_bytes = 0  # of those replies

    @property
    def has_part(self) -> bool:
        """Whether some of a reply has come, but not all."""
        return len(self._connection.received) > self._n_bytes

    def ask(self, kind: Kind, number: int) -> helpers.Reply:
        kind.send(self._connection, number)
        reply = self._connection.reply()
        self.n_replies += 1
        self._n_bytes = len(self._connection.received)
        return reply

    def is_closed(self) -> bool:
        """Whether the server has closed it by now, as it may when nothing is asked."""
        return bool(select.select([self._connection.socket], [], [], 0)[0])

    def end(self) -> None:
        self._connection.close()
