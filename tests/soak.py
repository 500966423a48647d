"""A soak: clients of every kind, good and bad, for as long as is wanted.

    python tests/soak.py --seconds 600 [--seed N] [--only KIND]

Three servers (tests/apps/soaked.py), one of a handler, one of a WSGI application and
one of a router with batch handlers, each in a process of its own, are visited by
CLIENTS clients at a time. Each visit is one function below, of some kind, and sees that
every reply is the right one. At the end of each round all clients leave; then it is
seen that the servers rest, that no request, no connection and no descriptor is left,
and, over the rounds, that their memory does not grow with what they have answered. What
was counted on both sides has to agree, and the access logs, which are rotated, have a
line of each reply. In the end a signal stops the servers in good order.

It prints a summary, and what went wrong with the seed that it happened with. Its status
is 0 if nothing did. Memory is only reported for builds whose allocators keep it: those
with a sanitizer, and free-threaded ones; and with threads, each of which keeps some.
"""

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import itertools
import json
import os
import random
import resource
import signal
import socket
import statistics
import struct
import sys
import sysconfig
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gates
import helpers
from apps import soaked
from apps.soaked import PATTERN
from test_wire import WireFile, wire_files

import fastbatch

CLIENTS = 40  # visits at a time
STORM = 60  # connections of one visit
PIECE = 100_000  # bytes that are read or sent together
PATIENCE = 60.0  # seconds that a visit may take
ROUND = (7.5, 20.0)  # seconds, the least and the most
WARM_UP = 0.2  # of the rounds
MAX_ERRORS = 20  # then it ends early

# Growth of memory that is none: of each request, and besides.
BYTES_PER_REQUEST = 50
BYTES_BESIDES = 2 << 20

OWN_BYTES = 50_000  # that the reply which says what was sent has at the most

LONG_PATTERN = PATTERN * 3

MAX_BODY = fastbatch.Options().max_body

ACCEPTED = [
    file
    for file in wire_files("accept")
    if all(request["method"] != "HEAD" for request in file.requests)
]
REJECTED = wire_files("reject")


# ---- what is asked ------------------------------------------------------------------


@dataclass(frozen=True)
class Ask:
    """A request, and what its reply must be."""

    data: bytes
    status: int = 200
    body: bytes | None = None  # None: whatever it is
    method: str = "GET"
    may_expire: bool = False  # then it is a 504


def first(n: int) -> bytes:
    return PATTERN[:n]


def last(n: int) -> bytes:
    return PATTERN[len(PATTERN) - n :]


SIZED: dict[str, Callable[[int], bytes]] = {
    "bytes": first,
    "stream": first,
    "written": first,
    "file": last,
}


def of_size(rng: random.Random, n: int) -> Ask:
    kind = rng.choice(list(SIZED))
    return Ask(gates.request(f"/{kind}/{n}"), body=SIZED[kind](n))


def tagged(rng: random.Random) -> Ask:
    word = f"{rng.getrandbits(64):x}"
    verb = rng.choice(["tag", "tag", "tag", "kept"])
    return Ask(gates.request(f"/{verb}/{word}"), body=word.encode())


def head_of_tag(rng: random.Random) -> Ask:
    data = tagged(rng).data.replace(b"GET", b"HEAD", 1)
    return Ask(data, body=b"", method="HEAD")


def upload(rng: random.Random, n: int) -> Ask:
    at = rng.randrange(1000)
    body = LONG_PATTERN[at : at + n]
    data = posted(rng, "/upload", body)
    return Ask(data, body=soaked.digest([body]), method="POST")


def posted(rng: random.Random, path: str, body: bytes) -> bytes:
    make = rng.choice([with_length, with_chunks])
    return make(rng, path, body)


def with_length(_rng: random.Random, path: str, body: bytes) -> bytes:
    return gates.request(path, method="POST", body=body)


def with_chunks(rng: random.Random, path: str, body: bytes) -> bytes:
    """The body in chunks of any size, some with extensions; a trailer or two."""
    parts = [gates.request(path, "Transfer-Encoding: chunked", method="POST")]
    most = max(2, len(body) // rng.randint(1, 20))
    at = 0
    while at < len(body):
        piece = body[at : at + rng.randint(1, most)]
        extension = rng.choice([b"", b"", b";a", b";name=value", b';a="b;c"'])
        parts += [b"%x%b\r\n" % (len(piece), extension), piece, b"\r\n"]
        at += len(piece)
    trailers = rng.choice([b"", b"", b"X-Sum: 1\r\n", b"A: b\r\nA: c\r\n"])
    return b"".join([*parts, b"0\r\n", trailers, b"\r\n"])


def row(rng: random.Random) -> Ask:
    """One of a batch of rows, or one that does not fit."""
    body = rng.randbytes(soaked.ROW if rng.random() < 0.8 else rng.randrange(20))
    fits = len(body) == soaked.ROW
    reply = body if fits else b"the body has %d bytes, not %d" % (len(body), soaked.ROW)
    return Ask(posted(rng, "/row", body), 200 if fits else 400, reply, "POST")


def echo(rng: random.Random) -> Ask:
    if rng.random() < 0.1:
        return Ask(posted(rng, "/echo", soaked.RAISE), 500, None, "POST")
    body = rng.randbytes(rng.randrange(1, 1000))
    return Ask(posted(rng, "/echo", body), 200, body, "POST")


def hurried(rng: random.Random) -> Ask:
    """One with a deadline, which may be over before its turn comes."""
    make, word = rng.choice([row, echo]), rng.choice(["0.001", "0.3", "1", "20"])
    ask = make(rng)
    field = f"\r\n{soaked.DEADLINE}: {word}\r\n"
    data = ask.data.replace(b"\r\n", field.encode(), 1)
    return dataclasses.replace(ask, data=data, may_expire=True)


def fixed(path: str, status: int, body: bytes | None) -> Callable[[random.Random], Ask]:
    return lambda _rng: Ask(gates.request(path), status, body)


SMALL: list[tuple[float, Callable[[random.Random], Ask]]] = [
    (10, tagged),
    (1, head_of_tag),
    (3, lambda rng: of_size(rng, rng.randrange(20_000))),
    (0.3, lambda rng: of_size(rng, rng.randrange(200_000))),
    (2, lambda rng: upload(rng, rng.randrange(5000))),
    (3, row),
    (2, echo),
    (1, hurried),
    (1, fixed("/none", 204, b"")),
    (1, fixed("/missing", 404, b"not here")),
    (0.3, fixed("/raise", 500, None)),
]


def small(rng: random.Random) -> Ask:
    weights, makers = zip(*SMALL, strict=True)
    (make,) = rng.choices(makers, weights)
    return make(rng)


# ---- connections --------------------------------------------------------------------


class Wrong(Exception):  # noqa: N818 - what the soak looks for
    """The server did what it should not."""


def ensure(is_so: bool, what: str) -> None:
    if not is_so:
        raise Wrong(what)


@dataclass(frozen=True)
class Reply:
    status: int
    fields: dict[str, str]
    body: bytes


class Peer:
    """A connection to a server."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        tally: collections.Counter[str],
        pause: float = 0.0,
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.tally = tally
        self._pause = pause  # seconds, after each PIECE of a body
        self._n_read = 0  # of a body since then

    def send(self, data: bytes) -> None:
        """Send it, whenever it can be: so replies may be read meanwhile."""
        self.writer.write(data)
        self.tally["bytes sent"] += len(data)

    async def send_pieces(self, data: bytes, size: int, pause: float = 0.0) -> None:
        """Send it as it is taken, as long as the server is there."""
        view = memoryview(data)
        with contextlib.suppress(ConnectionError):
            for at in range(0, len(data), size):
                self.send(bytes(view[at : at + size]))
                await self.writer.drain()
                if pause:
                    await asyncio.sleep(pause)

    def end(self) -> None:
        self.writer.write_eof()

    async def reply(self, method: str = "GET") -> Reply:
        """Read a reply, also one of 1xx."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")[:-2]
        pairs = [line.partition(":") for line in lines]
        fields = {name.lower(): value.strip() for name, _, value in pairs}
        status = int(line.split(" ")[1])
        is_bare = method == "HEAD" or status < 200 or status in (204, 304)
        body = b"" if is_bare else await self._body(fields)
        self.tally["bytes read"] += len(head) + len(body)
        self.tally[f"status {status}"] += 1
        return Reply(status, fields, body)

    async def _body(self, fields: dict[str, str]) -> bytes:
        if "transfer-encoding" in fields:
            return b"".join([chunk async for chunk in self._chunks()])
        if "content-length" in fields:
            return await self._exactly(int(fields["content-length"]))
        return await self.reader.read()

    async def _chunks(self) -> AsyncIterator[bytes]:
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            yield await self._exactly(size)
            ensure(await self.reader.readexactly(2) == b"\r\n", "a chunk without end")
        ensure(await self.reader.readexactly(2) == b"\r\n", "chunks without end")

    async def _exactly(self, n: int) -> bytes:
        parts = []
        for at in range(0, n, PIECE):
            parts.append(await self.reader.readexactly(min(PIECE, n - at)))
            self._n_read += len(parts[-1])
            if self._pause and self._n_read >= PIECE:
                self._n_read = 0
                await asyncio.sleep(self._pause)
        return b"".join(parts)

    async def answer(self, ask: Ask) -> Reply:
        """Read the reply to ``ask``, and see that it is that."""
        reply = await self.reply(ask.method)
        what = ask.data[:60]
        if ask.may_expire and reply.status == 504:
            self.tally["answered"] += 1
            return reply
        ensure(reply.status == ask.status, f"{reply.status} to {what!r}")
        if ask.body is not None and reply.body != ask.body:
            got = f"{len(reply.body)} bytes, {reply.body[:40]!r}"
            raise Wrong(f"{got}, not {len(ask.body)}, {ask.body[:40]!r} to {what!r}")
        self.tally["answered"] += 1
        return reply

    async def refusal(self, status: int) -> None:
        """Read the reply of the server itself, after which it closes."""
        reply = await self.reply()
        ensure(reply.status == status, f"{reply.status} where {status} was due")
        ensure(reply.fields.get("connection") == "close", "no Connection: close")
        self.tally["rejected"] += 1
        await self.no_more()

    async def no_more(self) -> None:
        """See that the server closes, and sends nothing more."""
        rest = await self.reader.read()
        ensure(rest == b"", f"{rest[:60]!r} where nothing was due")

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        linger = struct.pack("ii", 1, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()


# ---- servers ------------------------------------------------------------------------


class Side:
    """One of the servers: its process, and what was seen of it."""

    def __init__(self, interface: str, program: helpers.Program, log: Path) -> None:
        self.interface = interface
        self.program = program
        self._log = log
        self.address = program.address()
        self.tally: collections.Counter[str] = collections.Counter()
        self.samples: list[dict[str, Any]] = []  # at rest, one of each round

    @contextlib.asynccontextmanager
    async def connect(self, pause: float = 0.0) -> AsyncIterator[Peer]:
        sock = socket.socket()
        if pause:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 300_000)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, self.address)
        except BaseException:
            sock.close()
            raise
        self.tally["connections"] += 1
        reader, writer = await asyncio.open_connection(sock=sock)
        try:
            yield Peer(reader, writer, self.tally, pause)
        finally:
            writer.transport.abort() if pause else writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def look(self, path: str = "/stats") -> dict[str, Any]:
        """What the server says of itself; this connection included."""
        async with self.connect() as peer:
            peer.send(gates.request(path, "Connection: close"))
            reply = await peer.reply()
            self.tally["answered"] += 1
            stats: dict[str, Any] = json.loads(reply.body)
            return stats

    async def rest(self) -> None:
        """All clients have left: take a sample when the server has seen it, and rests.

        Raises:
            Wrong: it does not.
        """
        end = time.monotonic() + helpers.TIMEOUT
        while n_left := await self._left():
            ensure(time.monotonic() < end, f"{n_left} connections or files are left")
            await asyncio.sleep(0.05)
        began = (await self.look())["cpu"]
        await asyncio.sleep(0.3)
        sample = await self.look("/rest")
        spent = sample["cpu"] - began
        ensure(spent < 0.2, f"{spent:.2f} s of CPU in 0.3 s of rest")
        waiting, in_use = sample["waiting"], sample["slots_in_use"]
        is_rest = waiting == 0 and in_use == 1  # its own
        ensure(is_rest, f"{waiting} requests that wait, {in_use} in slots, at rest")
        self.samples.append(sample)

    async def _left(self) -> int:
        """How many connections and files the server has more than at first."""
        now = await self.look()
        before = self.samples[0] if self.samples else now | {"open_connections": 1}
        names = ("open_connections", "files")
        return sum(max(0, now[name] - before[name]) for name in names)

    def counts_agree(self) -> None:
        """See that both sides have counted the same, as far as both can know it.

        Raises:
            Wrong: they have not.
        """
        stats, tally = self.samples[-1], self.tally
        # Those that have expired were not handed over.
        stats = stats | {"requests": stats["requests"] + stats["expired"]}
        answered = tally["answered"]
        for name, low, high in (
            ("connections", tally["connections"], tally["connections"]),
            ("rejected", tally["rejected"], tally["rejected"]),
            ("requests", answered, answered + tally["sent and left"]),
            (
                "expired",
                tally["status 504"],
                tally["status 504"] + tally["sent and left"],
            ),
            ("timed_out", tally["idled"], tally["connections"]),
            ("bytes_received", 0, tally["bytes sent"]),
            ("bytes_sent", tally["bytes read"] - OWN_BYTES, None),
        ):
            count = stats[name]
            is_more = high is not None and count > high
            ensure(
                low <= count and not is_more, f"{name} is {count}, not {low} to {high}"
            )

    async def rotate(self) -> None:
        """Move the access log away, and count what is in it."""
        old = self._log.with_suffix(".old")
        self._log.rename(old)
        self.program.signal(signal.SIGUSR1)
        end = time.monotonic() + helpers.TIMEOUT
        while not self._log.exists():
            ensure(time.monotonic() < end, "the access log is not opened anew")
            await asyncio.sleep(0.05)
        self.count_lines(old)

    def count_lines(self, log: Path | None = None) -> None:
        """Count the replies that an access log has, each of them in a line of JSON."""
        with (log or self._log).open() as lines:
            for line in lines:
                self.tally["lines"] += 1
                ensure("status" in json.loads(line), f"{line!r} in the access log")

    def log_agrees(self) -> None:
        """See that each reply has its line: when all of the log was counted."""
        low = self.tally["answered"] + self.tally["rejected"]
        high = low + self.tally["sent and left"]
        n = self.tally["lines"]
        ensure(low <= n <= high, f"{n} lines in the access log, not {low} to {high}")

    def growth(self) -> tuple[float, int]:
        """Bytes that memory has grown by after warming up, and requests meanwhile."""
        samples = self.samples[max(1, round(len(self.samples) * WARM_UP)) :]
        half = len(samples) // 2
        if half == 0:
            return 0.0, 0
        early, late = samples[:half], samples[-half:]

        def middle(name: str, some: list[dict[str, Any]]) -> float:
            return statistics.median(sample[name] for sample in some)

        grown = middle("resident", late) - middle("resident", early)
        return grown, int(middle("requests", late) - middle("requests", early))

    def log_is_clean(self) -> Iterator[str]:
        """What the server wrote that was not to be expected."""
        for line in self.program.errors.splitlines():
            is_planned = line.startswith("ERROR:") and "(Planned:" in line
            if not is_planned and not line.startswith("INFO:"):
                yield f"it wrote: {line}"


# ---- visits -------------------------------------------------------------------------


@dataclass
class Visit:
    """One client: what a function of KINDS is given."""

    side: Side
    rng: random.Random
    end: float  # of its round, on the clock of time.monotonic
    slots: dict[str, asyncio.Semaphore] = field(default_factory=dict)

    def connect(
        self, pause: float = 0.0
    ) -> contextlib.AbstractAsyncContextManager[Peer]:
        return self.side.connect(pause)


async def plain(visit: Visit) -> None:
    """One request after the other; the last may say close."""
    async with visit.connect() as peer:
        for _ in range(visit.rng.randint(1, 40)):
            ask = small(visit.rng)
            peer.send(ask.data)
            await peer.answer(ask)
        if visit.rng.random() < 0.5:
            line = visit.rng.choice([(" HTTP/1.0", ""), (" HTTP/1.1", "close")])
            await say_close(peer, tagged(visit.rng), *line)


async def say_close(peer: Peer, ask: Ask, version: str, field_is: str) -> None:
    data = ask.data.replace(b" HTTP/1.1", version.encode(), 1)
    if field_is:
        data = data[:-2] + b"Connection: close\r\n\r\n"
    peer.send(data)
    reply = await peer.answer(Ask(data, body=ask.body))
    ensure(reply.fields.get("connection") == "close", "no Connection: close")
    await peer.no_more()


async def pipelining(visit: Visit) -> None:
    """Many requests at once: the replies come in their order."""
    rng = visit.rng
    async with visit.connect() as peer:
        for _ in range(rng.randint(1, 4)):
            make = tagged if rng.random() < 0.7 else small
            asks = [make(rng) for _ in range(rng.randint(1, 200))]
            data = b"".join(ask.data for ask in asks)
            for piece in split(rng, data, rng.randint(0, 3)):
                peer.send(piece)
                await asyncio.sleep(0)
            for ask in asks:
                await peer.answer(ask)


def split(rng: random.Random, data: bytes, n: int) -> list[bytes]:
    """``data`` cut at ``n`` places."""
    cuts = [0, *sorted(rng.randrange(len(data)) for _ in range(n)), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(cuts)]


async def dripping(visit: Visit) -> None:
    """Heads and bodies byte by byte."""
    async with visit.connect() as peer:
        for _ in range(visit.rng.randint(1, 3)):
            is_upload = visit.rng.random() < 0.5
            ask = upload(visit.rng, 100) if is_upload else tagged(visit.rng)
            await peer.send_pieces(ask.data, 1, visit.rng.choice([0.0005, 0.003]))
            await peer.answer(ask)


async def reading_slowly(visit: Visit) -> None:
    """Large replies, which are read more slowly than they are written."""
    async with visit.connect(pause=0.005) as peer:
        asks = [of_size(visit.rng, visit.rng.randrange(1, 6_000_000)) for _ in "ab"]
        peer.send(b"".join(ask.data for ask in asks))
        for ask in asks:
            await peer.answer(ask)


async def uploading(visit: Visit) -> None:
    """Bodies up to the most that is allowed: into memory, or into files."""
    async with visit.slots["heavy"], visit.connect() as peer:
        n = visit.rng.choice([100_000, 299_999, 300_001, 2_000_000, MAX_BODY])
        ask = upload(visit.rng, n)
        sending = asyncio.ensure_future(peer.send_pieces(ask.data, PIECE))
        await peer.answer(ask)
        await sending


async def uploading_too_much(visit: Visit) -> None:
    """A body over the limit, of which the client sends until it is told."""
    async with visit.slots["heavy"], visit.connect() as peer:
        data = upload(visit.rng, visit.rng.randint(MAX_BODY + 1, 20_000_000)).data
        sending = asyncio.ensure_future(peer.send_pieces(data, PIECE))
        await peer.refusal(413)
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def expecting(visit: Visit) -> None:
    """Bodies that wait for 100 Continue, or are refused before they are sent."""
    async with visit.connect() as peer:
        for _ in range(visit.rng.randint(1, 5)):
            ask = upload(visit.rng, visit.rng.randint(1, 50_000))
            head, _, body = ask.data.partition(b"\r\n\r\n")
            peer.send(head + b"\r\nExpect: 100-continue\r\n\r\n")
            reply = await peer.reply()
            ensure(reply.status == 100, f"{reply.status} to 100-continue")
            peer.send(body)
            await peer.answer(ask)
        status, value, n = visit.rng.choice(
            [(417, "200-maybe", 5), (413, "100-continue", MAX_BODY + 1)]
        )
        length = f"Content-Length: {n}"
        peer.send(gates.request("/upload", f"Expect: {value}", length, method="POST"))
        await peer.refusal(status)


async def resetting(visit: Visit) -> None:
    """Some requests, cut off anywhere; a part of the replies; a reset or a close."""
    rng = visit.rng
    asks = [small(rng) for _ in range(rng.randint(1, 10))]
    asks += [of_size(rng, rng.randrange(3_000_000)) for _ in range(rng.randint(0, 2))]
    rng.shuffle(asks)
    data = b"".join(ask.data for ask in asks)
    async with visit.connect() as peer:
        visit.side.tally["sent and left"] += len(asks)
        peer.send(data[: rng.randint(0, len(data))] if rng.random() < 0.7 else data)
        if rng.random() < 0.5:
            await asyncio.sleep(rng.random() * 0.02)
        if rng.random() < 0.5:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(peer.reader.read(rng.randint(1, 60_000)), 0.1)
        if rng.random() < 0.7:
            peer.reset()


async def half_closing(visit: Visit) -> None:
    """Some requests, cut off anywhere: the whole ones are answered, and no other."""
    rng = visit.rng
    asks = [small(rng) for _ in range(rng.randint(0, 20))]
    if rng.random() < 0.2:
        asks.append(of_size(rng, rng.randrange(3_000_000)))
    data = b"".join(ask.data for ask in asks)
    cut = rng.randint(0, len(data)) if rng.random() < 0.5 else len(data)
    async with visit.connect() as peer:
        peer.send(data[:cut])
        peer.end()
        end = 0
        for ask in asks:
            end += len(ask.data)
            if end <= cut:
                await peer.answer(ask)
        await peer.no_more()


async def malformed(visit: Visit) -> None:
    """A file of wire/reject, whole or in pieces, perhaps behind good requests."""
    file = visit.rng.choice(REJECTED)
    async with visit.connect() as peer:
        asks = [tagged(visit.rng) for _ in range(visit.rng.choice([0, 0, 5]))]
        peer.send(b"".join(ask.data for ask in asks))
        sending = asyncio.ensure_future(send_file(visit, peer, file))
        for ask in asks:
            await peer.answer(ask)
        await seen(peer, file)
        assert file.status is not None
        await peer.refusal(file.status)
        await sending


async def send_file(visit: Visit, peer: Peer, file: WireFile) -> None:
    size = visit.rng.choice([1, 10, len(file.data)])
    await peer.send_pieces(file.data, size, visit.rng.choice([0.0, 0.0005]))


async def seen(peer: Peer, file: WireFile) -> None:
    """Read the replies to the good requests of a file."""
    for request in file.requests:
        reply = await peer.reply(request["method"])
        while reply.status == 100:
            reply = await peer.reply(request["method"])
        ensure(reply.status == 200, f"{reply.status} to {file.name}")
        ensure(reply.body == b"seen", f"{reply.body[:40]!r} to {file.name}")
        peer.tally["answered"] += 1


async def unusual(visit: Visit) -> None:
    """A file of wire/accept."""
    file = visit.rng.choice(ACCEPTED)
    async with visit.connect() as peer:
        sending = asyncio.ensure_future(send_file(visit, peer, file))
        await seen(peer, file)
        await sending


async def storm(visit: Visit) -> None:
    """Many connections at once, most of which ask for something."""

    async def one(number: int) -> None:
        async with visit.connect() as peer:
            if number % 4:
                ask = tagged(random.Random(number))
                peer.send(ask.data)
                await peer.answer(ask)

    async with visit.slots["storm"]:
        await asyncio.gather(*map(one, range(STORM)))


async def idling(visit: Visit) -> None:
    """Nothing, or nothing more: the server closes when it is time."""
    if visit.end - time.monotonic() < soaked.KEEPALIVE:
        return  # it would hold up the end of the round
    async with visit.connect() as peer:
        if visit.rng.random() < 0.5:
            ask = tagged(visit.rng)
            peer.send(ask.data)
            await peer.answer(ask)
        began = time.monotonic()
        await peer.no_more()
        waited = time.monotonic() - began
        ensure(waited > soaked.KEEPALIVE - 1, f"closed after {waited:.1f} s")
        visit.side.tally["idled"] += 1


async def breaking_off(visit: Visit) -> None:
    """A stream that fails: the client can tell that it is not whole."""
    async with visit.connect() as peer:
        visit.side.tally["sent and left"] += 1
        peer.send(gates.request(f"/broken/{visit.rng.randint(1, 100_000)}"))
        try:
            reply = await peer.reply()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        raise Wrong(f"a broken stream is a {reply.status}, {len(reply.body)} bytes")


KINDS: dict[Callable[[Visit], Awaitable[None]], float] = {
    plain: 20,
    pipelining: 20,
    dripping: 4,
    reading_slowly: 2,
    uploading: 2,
    uploading_too_much: 1,
    expecting: 4,
    resetting: 10,
    half_closing: 8,
    malformed: 12,
    unusual: 6,
    storm: 1,
    idling: 1,
    breaking_off: 2,
}


# ---- the soak -----------------------------------------------------------------------


class Soak:
    def __init__(
        self, seed: int, only: str | None, sides: list[Side], threads: int
    ) -> None:
        self.seed = seed
        self.sides = sides
        self.visits: collections.Counter[str] = collections.Counter()
        self.errors: list[str] = []
        self._kinds = {
            kind: weight
            for kind, weight in KINDS.items()
            if only in (None, kind.__name__)
        }
        self._keeps_memory = threads > 0 or keeps_memory()
        self.lag = 0.0  # seconds, the longest
        self._n_visits = 0
        self._slots = {
            "heavy": asyncio.Semaphore(2),
            "storm": asyncio.Semaphore(1),
        }

    async def run(self, seconds: float) -> None:
        """Round after round, until it is time or too much went wrong."""
        for side in self.sides:
            await self._guard(f"{side.interface} at first", side.rest())
        watch = asyncio.ensure_future(self._watch())
        end = time.monotonic() + seconds
        least, most = ROUND
        length = min(max(seconds / 30, least), most)
        while time.monotonic() < end and len(self.errors) < MAX_ERRORS:
            round_end = min(time.monotonic() + length, end)
            clients = [self._client(number, round_end) for number in range(CLIENTS)]
            await asyncio.gather(*clients)
            for side in self.sides:
                await self._guard(f"{side.interface} at rest", self._rest(side))

        watch.cancel()

    async def _watch(self) -> None:
        """Note how late this program is: a client that sleeps is idle to a server."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.1)
            self.lag = max(self.lag, time.monotonic() - began - 0.1)

    async def _client(self, number: int, end: float) -> None:
        side = self.sides[number % len(self.sides)]
        kinds, weights = list(self._kinds), list(self._kinds.values())
        while time.monotonic() < end and len(self.errors) < MAX_ERRORS:
            self._n_visits += 1
            seed = f"{self.seed}/{self._n_visits}"
            rng = random.Random(seed)
            (kind,) = rng.choices(kinds, weights)
            self.visits[kind.__name__] += 1
            visit = Visit(side, rng, end, self._slots)
            what = f"{kind.__name__} with seed {seed}, {side.interface}"
            await self._guard(what, kind(visit))

    async def _guard(self, what: str, work: Awaitable[None]) -> None:
        try:
            await asyncio.wait_for(work, PATIENCE)
        except Exception as error:  # noqa: BLE001 - all of it is reported
            self.errors.append(f"{what}: {type(error).__name__}: {error}")
            print("ERROR", self.errors[-1], flush=True)

    async def _rest(self, side: Side) -> None:
        await side.rest()
        sample = side.samples[-1]
        memory = sample["resident"] / 1e6
        print(
            f"{side.interface:8}{sample['requests']:9} requests"
            f"{sample['connections']:8} connections{memory:8.1f} MB",
            flush=True,
        )
        if not self.errors:  # a visit that went wrong has not counted all
            side.counts_agree()
        await side.rotate()

    async def stop(self) -> None:
        """Signal the servers while there are clients, one of which is owed a reply."""
        for side in self.sides:
            await self._guard(f"{side.interface} at the end", self._stop(side))

    @staticmethod
    async def _stop(side: Side) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for number in range(20):
                peer = await stack.enter_async_context(side.connect())
                peer.send(gates.request()[: number * 2])
            peer = await stack.enter_async_context(side.connect(pause=0.002))
            ask = Ask(gates.request("/bytes/8000000"), body=first(8_000_000))
            peer.send(ask.data)
            head = await peer.reader.readexactly(1)
            side.program.signal(signal.SIGTERM)
            began = time.monotonic()
            await asyncio.sleep(0.2)
            rest = await peer.reader.read()
            body = (head + rest).partition(b"\r\n\r\n")[2]
            ensure(body == ask.body, f"{len(body)} bytes of the last reply")
            status = await asyncio.to_thread(side.program.wait)
            ensure(status == 0, f"status {status} after SIGTERM")
            took = time.monotonic() - began
            ensure(took < soaked.GRACEFUL + 1, f"{took:.1f} s to end")
            side.tally["answered"] += 1
            side.count_lines()
            side.log_agrees()

    def judge(self) -> None:
        """What is seen of all of it together."""
        for side in self.sides:
            found = [*side.log_is_clean()]
            grown, n_requests = side.growth()
            bound = BYTES_BESIDES + BYTES_PER_REQUEST * n_requests
            if grown > bound and not self._keeps_memory:
                found.append(
                    f"memory has grown by {grown:.0f} bytes in {n_requests} requests"
                )
            self.errors += [f"{side.interface}: {what}" for what in found[:MAX_ERRORS]]

    def summary(self) -> str:
        lines = [
            f"visits: {listing(self.visits)}",
            f"the clients were late by up to {self.lag:.1f} s",
        ]
        for side in self.sides:
            if not side.samples:
                continue
            tally, sample = side.tally, side.samples[-1]
            statuses = collections.Counter(
                {
                    n.removeprefix("status "): c
                    for n, c in tally.items()
                    if "status" in n
                }
            )
            grown, n_requests = side.growth()
            lines += [
                f"{side.interface}: {sample['requests']} requests on"
                f" {sample['connections']} connections, {sample['rejected']} refused,"
                f" {sample['timed_out']} timed out",
                f"    replies: {listing(statuses)}",
                f"    received {sample['bytes_received'] / 1e6:.0f} MB, sent"
                f" {sample['bytes_sent'] / 1e6:.0f} MB, CPU {sample['cpu']:.1f} s",
                f"    memory at rest {sample['resident'] / 1e6:.1f} MB, peak"
                f" {sample['peak'] / 1e6:.1f} MB; grown by {grown / 1e3:.0f} kB in"
                f" {n_requests} requests after warming up",
            ]
        lines += [f"ERROR {error}" for error in self.errors]
        lines.append(f"{len(self.errors)} errors with seed {self.seed}")
        return "\n".join(lines)


def listing(counts: collections.Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def keeps_memory() -> bool:
    """Whether free memory does not go back to the system in this build."""
    is_sanitized = "san" in os.environ.get("LD_PRELOAD", "")
    return is_sanitized or bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def allow_files(n: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < n <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (n, hard))


async def soak(
    seconds: float, seed: int, only: str | None, leak: int, threads: int
) -> int:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        sides = []
        # Of the variables of Python they are given that of sanitized builds alone.
        env = {n: os.environ[n] for n in ("PYTHONMALLOC",) if n in os.environ}
        for interface in ("request", "wsgi", "router"):
            log = Path(folder, interface + ".log")
            command = [sys.executable, soaked.__file__, interface, str(log)]
            given = [f"--leak={leak}", f"--threads={threads}"]
            program = helpers.Program([*command, *given], Path(folder), env)
            stack.callback(program.kill)
            sides.append(Side(interface, program, log))
        it = Soak(seed, only, sides, threads)
        await it.run(seconds)
        await it.stop()
        it.judge()
        print(it.summary())
        return 1 if it.errors else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="how long it lasts")
    parser.add_argument("--seed", type=int, default=None, help="of what is sent")
    kinds = [kind.__name__ for kind in KINDS]
    parser.add_argument("--only", choices=kinds, help="visits of this kind alone")
    parser.add_argument(
        "--leak",
        type=int,
        default=0,
        metavar="BYTES",
        help="have the servers lose so much with each request, to see that it shows",
    )
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="of the servers' handlers"
    )
    given = parser.parse_args()
    seed = random.randrange(1_000_000) if given.seed is None else given.seed
    allow_files(4096)
    return asyncio.run(soak(given.seconds, seed, given.only, given.leak, given.threads))


if __name__ == "__main__":
    sys.exit(main())
