"""Arrays of numpy that batch handlers return: each item of the first axis a reply."""

from typing import Any

import gates
import helpers
import pytest
from conftest import Serve
from helpers import Connection, Reply, get

import fastbatch

numpy = pytest.importorskip("numpy")

N = 3  # requests, and so replies

NUMBERS = numpy.arange(4 * N).reshape(N, 4)


def replies_of(server: fastbatch.Server) -> list[Reply]:
    """The replies to as many requests of one connection."""
    with Connection(server) as connection:
        connection.send(get() * N)
        connection.end()
        return helpers.parse_replies(connection.rest())


def bytes_of(item: Any) -> bytes:
    if isinstance(item, bytes):
        return item
    return item.encode() if isinstance(item, str) else item.tobytes()


@pytest.mark.parametrize("threads", [0, 1])
@pytest.mark.parametrize(
    "array",
    [
        *(NUMBERS.astype(kind) for kind in ("?", "i1", "<f4", ">f4", "f2", "c8", "g")),
        NUMBERS.astype("f4")[:, 1:3],
        NUMBERS.astype("f4")[::-1],
        NUMBERS.astype("f4").reshape(N, 1, 4, 1)[:, :, :1],
        numpy.zeros((2 * N, 2, 4))[::2],
        numpy.broadcast_to(NUMBERS[0], (N, 4)),
        numpy.array(["a", "b", "c"]),
        numpy.array([b"a", b"b", b"c"]),
        numpy.array(["a", b"b", "c"], dtype=object),
        numpy.array([1.5, 2.5, 3.5]),
        [*NUMBERS],
    ],
    ids=lambda array: f"{getattr(array, 'dtype', 'list')}{getattr(array, 'shape', '')}",
)
def test_item_of_the_first_axis_is_a_reply(
    serve: Serve, array: Any, threads: int
) -> None:
    server = serve(lambda _batch: array, interface="batch", threads=threads)
    bodies = [reply.body for reply in replies_of(server)]
    assert bodies == [bytes_of(item) for item in array]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (numpy.zeros((4, N)).T, "whose rows are not contiguous"),
        (numpy.zeros((N, 8))[:, ::2], "whose rows are not contiguous"),
        (numpy.array([["a"], ["b"], ["c"]]), "of the format 1w was returned"),
        (numpy.array([[b"a"], [b"b"], [b"c"]]), "of the format 1s was returned"),
        (numpy.array([[1], ["a"], [None]], object), "of the format O was returned"),
        (numpy.zeros((N, 2), "i4,f4"), "of the format T{i:f0:f:f1:} was returned"),
        (numpy.array(3), "len() of unsized object"),
        (numpy.zeros((N + 1, 4)), "4 replies for a batch of 3"),
        (numpy.zeros((0, 4)), "0 replies for a batch of 3"),
    ],
    ids=[
        *("transposed", "every second", "str", "bytes", "objects", "records", "0-d"),
        *("too many", "none"),
    ],
)
def test_array_that_is_no_replies_is_refused(
    serve: Serve, caplog: pytest.LogCaptureFixture, array: Any, message: str
) -> None:
    server = serve(lambda _batch: array, interface="batch")
    assert [reply.status for reply in replies_of(server)] == [500] * N
    record = gates.wait_for_error(caplog)
    reason = record.exc_info[1] if record.exc_info else record.getMessage()
    assert message in str(reason)
