"""The bodies of a batch all at once: ``Batch.bodies``, ``stack`` and ``json``."""

import array
import contextlib
import gc
import json
import math
import struct
import sys
import threading
import tracemalloc
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import fuzzing
import gates
import helpers
import pytest
from conftest import Serve
from hypothesis import strategies as st

import fastbatch
from fastbatch import _json
from fastbatch._core import LIMITS
from fastbatch._dtype import format_of

numpy = pytest.importorskip("numpy")

ROW = 16  # bytes, in most of these tests

Look = Callable[[fastbatch.Batch], Any]


@dataclass(frozen=True)
class Seen:
    """What a look at a batch returned, and the replies, for each connection."""

    value: Any
    replies: list[list[helpers.Reply]]

    @property
    def firsts(self) -> list[tuple[int, bytes]]:
        return [(first.status, first.body) for first, *_ in self.replies]


OK = (200, b"ok")


def wait_until_read(server: fastbatch.Server, n: int) -> None:
    helpers.wait_until(lambda: server.stats()["slots_in_use"] == n, "reading")


@pytest.fixture(params=[0, 1], ids=["loop", "thread"])
def see(serve: Serve, request: pytest.FixtureRequest) -> Callable[..., Seen]:
    """A function that shows requests, one or more to a connection, as one batch.

    ``look`` is called with the batch by its handler, which then gives "ok" for all
    slots. What ``look`` raises is raised here.
    """

    def show(look: Look, *data: bytes | list[bytes], **options: Any) -> Seen:
        pipelines = [[one] if isinstance(one, bytes) else one for one in data]
        longest = max(len(b"".join(pipeline)) for pipeline in pipelines)
        if request.param == 0 and longest > LIMITS["input_bytes"]:
            pytest.skip("it is not ready in one turn of the loop")
        seen: list[Any] = []
        raised: list[Exception] = []
        gate = gates.Gate(lambda _request: "ok")

        def handler(batch: fastbatch.Batch) -> list[str]:
            if batch[0].path == "/gate":
                return [gate(batch[0])]
            try:
                seen.append(look(batch))
            except Exception as error:  # noqa: BLE001 - it is raised again
                raised.append(error)
            return ["ok"] * len(batch)

        server = serve(handler, interface="batch", threads=request.param, **options)
        with gates.connect(server, len(data)) as connections:
            with gate.held(server):
                n_slots = 1  # that of the gate
                for connection, pipeline in zip(connections, pipelines, strict=True):
                    connection.send(b"".join(pipeline))
                    n_slots += len(pipeline)
                    if longest > LIMITS["input_bytes"]:
                        wait_until_read(server, n_slots)  # or others overtake it
                if request.param > 0:
                    wait_until_read(server, n_slots)
            replies = [
                [connection.reply() for _ in pipeline]
                for connection, pipeline in zip(connections, pipelines, strict=True)
            ]
        for error in raised:
            raise error
        (value,) = seen
        return Seen(value, replies)

    return show


See = Callable[..., Seen]


def post(body: bytes) -> bytes:
    return gates.request(method="POST", body=body)


def chunked(body: bytes, step: int = 5) -> bytes:
    pieces = [body[at : at + step] for at in range(0, len(body), step)]
    head = helpers.get("/", "Transfer-Encoding: chunked").replace(b"GET", b"POST", 1)
    return head + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"


def body_of(length: int, seed: int = 0) -> bytes:
    """Bytes that differ by place and by ``seed``."""
    return bytes((7 * i + 31 * seed + i // 251) % 256 for i in range(length))


def refused(length: int, row: int = ROW) -> tuple[int, bytes]:
    return 400, b"the body has %d bytes, not %d" % (length, row)


# ---- bodies -------------------------------------------------------------------------


def test_bodies_are_views_of_the_very_bytes_of_the_requests(see: See) -> None:
    def look(batch: fastbatch.Batch) -> Any:
        bodies = batch.bodies
        assert type(bodies) is tuple
        assert all(type(body) is memoryview for body in bodies)
        for body, request in zip(bodies, batch, strict=True):
            assert body.obj is request.body
            assert body.readonly
        assert all(a.obj is b.obj for a, b in zip(bodies, batch.bodies, strict=True))
        return [bytes(body) for body in bodies]

    bodies = [b"", b"a", body_of(3000), b"chunked" * 9]
    seen = see(look, *map(post, bodies[:3]), chunked(bodies[3]))
    assert seen.value == bodies
    assert seen.firsts == [OK] * 4


def test_bodies_are_good_after_the_dispatch(see: See) -> None:
    bodies = [body_of(3000, seed) for seed in range(5)]
    kept = see(lambda batch: batch.bodies, *map(post, bodies)).value
    gc.collect()
    assert [bytes(body) for body in kept] == bodies


def test_bodies_in_files_are_read(see: See) -> None:
    bodies = [body_of(n) for n in (99, 100, 101, 300_000)]
    seen = see(
        lambda batch: [bytes(body) for body in batch.bodies],
        *map(post, bodies),
        max_body_memory=100,
    )
    assert seen.value == bodies


# ---- stack: what fits ---------------------------------------------------------------


@pytest.mark.parametrize("make", [post, chunked])
def test_stack_holds_the_bodies_in_order(
    see: See, make: Callable[[bytes], bytes]
) -> None:
    bodies = [body_of(ROW, seed) for seed in range(20)]
    seen = see(lambda batch: batch.stack("f", 4), *map(make, bodies))
    stack = seen.value
    assert type(stack) is fastbatch.Stack
    assert bytes(stack) == b"".join(bodies)
    assert stack.mask.tolist() == [True] * 20
    assert seen.firsts == [OK] * 20


def test_stack_of_a_full_batch(see: See) -> None:
    bodies = [struct.pack("<784f", *[seed] * 784) for seed in range(256)]
    stack = see(lambda batch: batch.stack("f4", 784), *map(post, bodies)).value
    assert stack.shape == (256, 784)
    assert numpy.asarray(stack)[:, 783].tolist() == list(range(256))


def test_rows_that_do_not_fit_are_answered_and_masked_out(see: See) -> None:
    sizes = [ROW - 1, ROW, ROW + 1, 0, 2 * ROW, ROW]
    bodies = [body_of(size, seed=size) for size in sizes]
    seen = see(lambda batch: batch.stack("B", ROW), *map(post, bodies))
    rows = [body if len(body) == ROW else bytes(ROW) for body in bodies]
    assert bytes(seen.value) == b"".join(rows)
    assert seen.value.mask.tolist() == [size == ROW for size in sizes]
    assert seen.firsts == [OK if n == ROW else refused(n) for n in sizes]
    misfit = seen.replies[0][0]
    assert misfit.headers["Content-Type"] == "text/plain; charset=utf-8"


def test_no_row_fits(see: See) -> None:
    seen = see(lambda batch: batch.stack("d", (3, 5)), *[post(b"short")] * 3)
    assert numpy.array_equal(seen.value, numpy.zeros((3, 3, 5)))
    assert seen.value.mask.tolist() == [False] * 3
    assert seen.firsts == [refused(5, 120)] * 3


def test_slots_that_were_answered_before_are_masked_out(see: See) -> None:
    def look(batch: fastbatch.Batch) -> Any:
        batch.reply(1, "early")
        batch.reply(2, "early, too")
        return batch.stack("B", 4), batch.json()

    bodies = [b"1234", b"5678", b"no row", b"9012"]
    seen = see(look, *map(post, bodies))
    stack, items = seen.value
    assert bytes(stack) == b"1234" + bytes(8) + b"9012"
    assert stack.mask.tolist() == [True, False, False, True]
    assert items == [1234, None, None, 9012]
    assert seen.firsts == [OK, (200, b"early"), (200, b"early, too"), OK]


def test_stack_twice_refuses_once(see: See) -> None:
    def look(batch: fastbatch.Batch) -> Any:
        return [batch.stack("B", 3).mask.tolist(), batch.stack("B", 4).mask.tolist()]

    seen = see(look, *map(post, [b"123", b"1234", b"12345"]))
    assert seen.value == [[True, False, False], [False] * 3]
    assert seen.firsts == [refused(3, 4), refused(4, 3), refused(5, 3)]


def test_empty_bodies_are_rows_of_no_bytes(see: See) -> None:
    seen = see(
        lambda batch: [batch.stack("f", shape) for shape in (0, (3, 0))],
        helpers.get(),
        chunked(b""),
        post(b"x"),
    )
    for stack, shape in zip(seen.value, [(3, 0), (3, 3, 0)], strict=True):
        assert stack.shape == numpy.asarray(stack).shape == shape
        assert stack.nbytes == len(bytes(stack)) == 0
    assert [stack.mask.tolist() for stack in seen.value] == [[True, True, False]] * 2
    assert seen.firsts == [OK, OK, refused(1, 0)]


@pytest.mark.parametrize("length", [99, 100, 101, 300_000])
def test_rows_come_from_memory_and_from_files(see: See, length: int) -> None:
    bodies = [body_of(length + off, length) for off in (0, -1, 1, 0)]
    seen = see(
        lambda batch: batch.stack("B", length), *map(post, bodies), max_body_memory=100
    )
    assert bytes(seen.value) == bodies[0] + bytes(2 * length) + bodies[3]
    assert seen.firsts == [
        OK,
        refused(length - 1, length),
        refused(length + 1, length),
        OK,
    ]


def test_file_that_was_stacked_can_be_read_by_its_request(see: See) -> None:
    def look(batch: fastbatch.Batch) -> Any:
        before = bytes(batch.stack("B", 1000))
        return before, batch[0].body, bytes(batch.stack("B", 1000)), batch[0]

    body = body_of(1000)
    before, between, after, kept = see(look, post(body), max_body_memory=100).value
    assert before == between == after == kept.body == body


@pytest.mark.parametrize("last", [b"wrong size", b"last"])
def test_pipelined_requests_are_rows_of_their_own(see: See, last: bytes) -> None:
    bodies = [b"1234", b"no", b"5678", last]
    seen = see(
        lambda batch: batch.stack("B", 4),
        [post(body) for body in bodies],
        post(b"9012"),
    )
    rows = [body if len(body) == 4 else bytes(4) for body in [*bodies, b"9012"]]
    assert bytes(seen.value) == b"".join(rows)
    assert [(reply.status, reply.body) for reply in seen.replies[0]] == [
        OK if len(body) == 4 else refused(len(body), 4) for body in bodies
    ]


# ---- stack: as a buffer -------------------------------------------------------------


def test_stack_is_a_writable_contiguous_aligned_buffer(see: See) -> None:
    floats = [[1.5, -2.0], [math.inf, 0.25], [3e-39, 7.0]]
    stack = see(
        lambda batch: batch.stack("<f", (1, 2)),
        *[post(struct.pack("<2f", *row)) for row in floats],
    ).value
    view = memoryview(stack)
    assert (view.format, view.itemsize, view.shape) == ("f", 4, (3, 1, 2))
    assert view.strides == (8, 8, 4)
    assert view.c_contiguous
    assert not view.readonly
    assert view.tolist()[:2] == [[row] for row in floats[:2]]
    assert numpy.asarray(stack).ctypes.data % 64 == 0
    view[1, 0, 0] = 42.0
    assert struct.unpack("<6f", stack)[2] == 42.0
    assert view.tobytes() == bytes(stack)


def test_stack_says_what_it_is(see: See) -> None:
    stack = see(
        lambda batch: batch.stack(shape=(2, 3), dtype="int16"),
        post(bytes(12)),
        post(bytes(11)),
    ).value
    assert len(stack) == 2
    assert stack.shape == (2, 2, 3)
    assert (stack.format, stack.itemsize, stack.nbytes) == ("h", 2, 24)
    mask = stack.mask
    assert (mask.format, mask.shape, mask.readonly) == ("?", (2,), True)
    assert repr(stack) == "<Stack of 'h' in shape (2, 2, 3), 1 of 2 rows held>"
    for name in ("shape", "format", "itemsize", "nbytes", "mask"):
        with pytest.raises(AttributeError):
            setattr(stack, name, None)


def test_mask_selects_rows_of_numpy(see: See) -> None:
    bodies = [struct.pack("<2d", seed, -seed) for seed in range(4)]
    bodies[2] += b"!"
    stack = see(lambda batch: batch.stack("float64", 2), *map(post, bodies)).value
    rows = numpy.asarray(stack)[numpy.asarray(stack.mask)]
    assert rows.tolist() == [[0.0, -0.0], [1.0, -1.0], [3.0, -3.0]]


def test_numpy_shares_the_memory_of_the_stack_and_keeps_it(see: See) -> None:
    stack = see(lambda batch: batch.stack("f4", 4), post(body_of(16))).value
    one, two = numpy.asarray(stack), numpy.frombuffer(stack, numpy.float32)
    assert numpy.shares_memory(one, two)
    assert one.base is not None
    assert one.flags.writeable
    assert two.flags.writeable
    one[0, 0] = 8.0
    assert two[0] == 8.0
    del stack
    gc.collect()
    assert two.tobytes()[4:] == body_of(16)[4:]


def test_other_consumers_of_buffers(see: See) -> None:
    body = body_of(8)
    stack = see(lambda batch: batch.stack("B", (2, 4)), post(body)).value
    assert bytearray(stack) == body
    assert array.array("B", memoryview(stack).cast("B")).tobytes() == body
    assert b"".join([stack, b"!"]) == body + b"!"
    assert struct.unpack_from("<Q", stack) == struct.unpack("<Q", body)
    with pytest.raises((BufferError, ValueError)):
        numpy.frombuffer(stack, "f8").reshape(3)
    fortran = numpy.asarray(stack).T
    assert memoryview(fortran).f_contiguous


def test_torch_shares_the_memory_of_the_stack(see: See) -> None:
    torch = pytest.importorskip("torch")
    floats = [1.0, 2.0, 3.0, 4.0]
    stack = see(
        lambda batch: batch.stack(torch.float32, 4), post(struct.pack("<4f", *floats))
    ).value
    assert torch.frombuffer(stack, dtype=torch.float32).tolist() == floats


def test_stack_is_good_after_the_dispatch_and_in_threads(see: See) -> None:
    bodies = [body_of(1000, seed) for seed in range(50)]
    stack = see(lambda batch: batch.stack("B", 1000), *map(post, bodies)).value
    found: list[bytes] = []

    def read() -> None:
        for _ in range(50):
            view = memoryview(stack)
            numpy.asarray(stack)
            assert stack.mask.tolist() == [True] * 50
            repr(stack)
        found.append(view.tobytes())

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"".join(bodies)] * 4


# ---- stack: dtype and shape ---------------------------------------------------------

NAMES = (
    "bool int8 uint8 int16 uint16 int32 uint32 int64 uint64 "
    "float16 float32 float64 complex64 complex128"
).split()


def test_every_dtype_is_what_numpy_has_under_that_name(see: See) -> None:
    kinds = {name: numpy.dtype(name) for name in NAMES}
    order = ">" if sys.byteorder == "little" else "<"
    body = bytes([0, 1] * 24)

    def look(batch: fastbatch.Batch) -> dict[str, list[Any]]:
        found = {}
        for name, kind in kinds.items():
            foreign = kind.newbyteorder(order)
            spellings = [name, kind.str, kind.str[1:], kind.char, kind, kind.type]
            found[name] = [
                numpy.asarray(batch.stack(dtype, 48 // kind.itemsize))
                for dtype in [*spellings, foreign]
            ]
        return found

    found = see(look, post(body)).value
    for name, kind in kinds.items():
        *natives, swapped = found[name]
        assert [array.dtype for array in natives] == [kind] * len(natives)
        assert swapped.dtype == kind.newbyteorder(order)
        assert {array.tobytes() for array in found[name]} == {body}


@pytest.mark.parametrize("typecode", "bBhHiIlLqQfd")
def test_typecodes_of_array_are_formats(typecode: str) -> None:
    assert format_of(typecode) == (typecode, array.array(typecode).itemsize)


@pytest.mark.parametrize("form", "?bBhHiIqQefd")
@pytest.mark.parametrize("order", "@=<>")
def test_formats_of_struct_are_formats(form: str, order: str) -> None:
    found, size = format_of(order + form)
    assert size == struct.calcsize(order + form)
    ones = bytes([0] * (size - 1) + [1])
    assert struct.unpack(found, ones) == struct.unpack(order + form, ones)
    is_native = size == 1 or order in "@=" or order == "><"[sys.byteorder == "little"]
    assert found == (form if is_native else order + form)


@pytest.mark.parametrize(
    ("text", "form"),
    [("torch.float32", "f"), ("torch.bool", "?"), ("torch.int64", "q")],
)
def test_dtypes_of_torch_go_by_what_they_are_called(text: str, form: str) -> None:
    class Dtype:
        def __repr__(self) -> str:
            return text

    assert format_of(Dtype())[0] == form


@pytest.mark.parametrize("dtype", [1, None, b"f", ("f",), object(), {}])
def test_what_is_no_dtype_is_a_type_error(dtype: Any) -> None:
    with pytest.raises(
        TypeError, match=r"stack\(\) dtype=.* is not allowed: .*float32"
    ):
        format_of(dtype)


@pytest.mark.parametrize(
    "dtype",
    [
        *["", "x", "float", "f3", "4f", "<l", ">>f", "|f4", "s", "O", float, int, list],
        *map(numpy.dtype, ["V8", "M8[s]", "S3", "O"]),
    ],
)
def test_dtype_that_is_not_known_is_a_value_error(dtype: Any) -> None:
    with pytest.raises(
        ValueError, match=r"stack\(\) dtype=.* is not allowed: .*float32"
    ):
        format_of(dtype)


SHAPES: list[int | tuple[int, ...]] = [24, (24,), (4, 6), (1,) * 62 + (24,)]


def test_shape_of_a_row(see: See) -> None:
    bodies = [body_of(24, seed) for seed in range(2)]
    stacks = see(
        lambda batch: [batch.stack("B", shape) for shape in SHAPES], *map(post, bodies)
    ).value
    for stack, shape in zip(stacks, SHAPES, strict=True):
        row = shape if isinstance(shape, tuple) else (shape,)
        assert stack.shape == memoryview(stack).shape == (2, *row)
        assert memoryview(stack).tobytes() == b"".join(bodies)


def test_row_of_one_item(see: See) -> None:
    data = [post(struct.pack("<d", seed)) for seed in range(3)]
    stack = see(lambda batch: batch.stack("d", ()), *data).value
    assert stack.shape == (3,)
    assert memoryview(stack).tolist() == [0.0, 1.0, 2.0]


NO_SHAPES = {
    TypeError: ["4", 4.0, None, [4], (4, "4"), (2, None)],
    ValueError: [-1, (2, -3), 2**63 - 1, 2**70, (0, 2**70), (1,) * 64],
}


def test_what_is_no_shape_is_refused_and_nobody_answered(see: See) -> None:
    def look(batch: Any) -> None:
        for kind, shapes in NO_SHAPES.items():
            for shape in shapes:
                with pytest.raises(
                    kind, match=r"stack\(\) shape=.* is not allowed: .*integer"
                ):
                    batch.stack("f", shape)
        for shape in (2**61, (2**31, 2**31), (2**62, 1)):
            with pytest.raises(ValueError, match="more bytes than there can be"):
                batch.stack("d", shape)
        for dtype, kind in ((b"f", TypeError), ("g", ValueError)):
            with pytest.raises(kind, match="dtype="):
                batch.stack(dtype, 4)

    assert see(look, post(b"1234")).firsts == [OK]


def test_what_is_asked_of_a_shape_may_fail(see: See) -> None:
    class Odd:
        def __index__(self) -> int:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        see(lambda batch: batch.stack("f", (2, Odd())), post(b"1234"))


def test_arguments_are_checked(see: See) -> None:
    def look(batch: Any) -> None:
        for args in ((), ("f",), ("f", 1, 2)):
            with pytest.raises(TypeError):
                batch.stack(*args)
        with pytest.raises(TypeError):
            batch.stack("f", size=1)
        with pytest.raises(TypeError):
            batch.json(1)
        with pytest.raises(AttributeError):
            batch.bodies = ()

    see(look, post(b"1234"))


# ---- json ---------------------------------------------------------------------------


def test_json_is_a_list_of_what_the_bodies_are(see: See) -> None:
    values: list[Any] = [{"a": [1, 2.5, None, True]}, [], "é€😀", -1, "x" * 3000]
    bodies = [json.dumps(value).encode() for value in values]
    makers = [post, chunked, post, post, chunked]
    data = [make(body) for make, body in zip(makers, bodies, strict=True)]
    seen = see(lambda batch: batch.json(), *data, max_body_memory=1000)
    assert seen.value == values
    assert seen.firsts == [OK] * 5


def test_bodies_that_are_no_json_are_answered_alone(see: See) -> None:
    bodies = [b"1", b"{", b"", b'"\xff"', b"null", b"2"]
    seen = see(lambda batch: batch.json(), *map(post, bodies))
    assert seen.value == [1, None, None, None, None, 2]
    assert [status for status, _ in seen.firsts] == [200] + [400] * 3 + [200] * 2
    reasons = [body.decode() for _, body in seen.firsts[1:4]]
    assert all(reason.startswith("the body is no JSON: ") for reason in reasons)
    assert reasons[0].endswith("double quotes: line 1 column 2 (char 1)")


def test_body_that_is_nested_too_deeply_is_no_json(see: See) -> None:
    def look(batch: fastbatch.Batch) -> Any:
        with pytest.raises(ValueError, match="nested too deeply"):
            batch[0].json()
        return batch.json()

    seen = see(look, post(b"[" * 200_000))
    assert seen.value == [None]
    assert seen.firsts == [(400, b"the body is no JSON: it is nested too deeply")]


def test_pipelined_requests_that_are_no_json(see: See) -> None:
    bodies = [b"1", b"no", b"2", b"no"]
    seen = see(lambda batch: batch.json(), [post(body) for body in bodies])
    assert seen.value == [1, None, 2, None]
    assert [reply.status for reply in seen.replies[0]] == [200, 400, 200, 400]


def test_columns_of_a_batch_that_is_over_are_refused(see: See) -> None:
    batch = see(lambda batch: batch, post(b"1")).value
    for ask in (
        lambda: batch.bodies,
        lambda: batch.json(),
        lambda: batch.stack("B", 1),
    ):
        with pytest.raises(RuntimeError, match="over, or another thread's"):
            ask()


def test_columns_of_another_threads_batch_are_refused(see: See) -> None:
    def look(batch: fastbatch.Batch) -> list[BaseException]:
        raised: list[BaseException] = []

        def ask() -> None:
            try:
                batch.stack("B", 1)
            except RuntimeError as error:
                raised.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        return raised

    assert len(see(look, post(b"1")).value) == 1


# ---- json: the parser ---------------------------------------------------------------


@pytest.fixture(autouse=True)
def choose_anew() -> Iterator[None]:
    """The parser is chosen at its first use, by each test."""
    _json.fastest.cache_clear()
    yield
    _json.fastest.cache_clear()


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A function that has only these parsers be there: None is what cannot be had."""

    def put(**modules: Any) -> None:
        for name in ("orjson", "msgspec", "msgspec.json"):
            monkeypatch.setitem(sys.modules, name, None)
        for name, parse in modules.items():
            if name == "msgspec":
                fake = types.SimpleNamespace(decode=parse)
                package = types.SimpleNamespace(json=fake)
                monkeypatch.setitem(sys.modules, "msgspec", package)
                monkeypatch.setitem(sys.modules, "msgspec.json", fake)
            else:
                fake = types.SimpleNamespace(loads=parse)
                monkeypatch.setitem(sys.modules, name, fake)
        _json.fastest.cache_clear()

    return put


def fake(name: str) -> Callable[[bytes], Any]:
    return lambda body: f"{name} was given {body!r}"


def refuse(_body: bytes) -> Any:
    raise KeyError("an error of its own")


@pytest.mark.parametrize(
    ("there", "value"),
    [
        (["orjson", "msgspec"], "orjson was given b'1'"),
        (["orjson"], "orjson was given b'1'"),
        (["msgspec"], "msgspec was given b'1'"),
        ([], 1),
    ],
)
def test_fastest_parser_that_is_there_is_taken(
    see: See, install: Callable[..., None], there: list[str], value: Any
) -> None:
    install(**{name: fake(name) for name in there})
    seen = see(lambda batch: [batch[0].json(), *batch.json()], post(b"1"))
    assert seen.value == [value, value]


@pytest.mark.parametrize("name", ["orjson", "msgspec"])
def test_what_a_parser_refuses_is_given_to_json(
    see: See, install: Callable[..., None], name: str
) -> None:
    install(**{name: refuse})

    def look(batch: fastbatch.Batch) -> Any:
        with pytest.raises(json.JSONDecodeError):
            batch[1].json()
        return batch.json()

    seen = see(look, post("é".join('""').encode("utf-16")), post(b"{"))
    assert seen.value == ["é", None]


LONG = [
    b"18446744073709551615",  # it is looked at by its length
    b"18446744073709551616",
    b"-9223372036854775808",
    b"[1,2,-9223372036854775809]",
    b"1" * 30,
    b'["%b",100000000000000000000,"%b"]' % (b"x" * 100, b"x" * 100),
]

SHORT = [b"9" * 19, b"-" + b"9" * 18, b"0." + b"1" * 19, b"", b"1", b"123456789, " * 30]


def test_integers_of_more_than_64_bits_are_for_json(
    see: See, install: Callable[..., None]
) -> None:
    install(orjson=lambda _body: "fast")
    long = [b" " * off + body for body in LONG for off in range(0, 40, 7)]
    short = [b" " * off + body for body in SHORT for off in range(0, 40, 7)]
    seen = see(lambda batch: batch.json(), *map(post, long + short))
    assert seen.value == [*map(json.loads, long), *["fast"] * len(short)]


def test_without_the_gil_nothing_is_imported_for_json(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    monkeypatch.setattr("importlib.import_module", asked.append)
    for name in ("orjson", "msgspec", "msgspec.json"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert _json.fastest() is None
    assert asked == []


PARSERS = ("orjson", "msgspec")


@pytest.fixture(params=PARSERS)
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A parser that is really there, and is the one to be taken."""
    name: str = request.param
    pytest.importorskip(name)
    for other in PARSERS:
        if other != name:
            for module in (other, f"{other}.json"):
                monkeypatch.setitem(sys.modules, module, None)
    _json.fastest.cache_clear()
    found = _json.fastest()
    assert found is not None
    assert found.__module__.partition(".")[0] in (name, f"_{name}")
    return name


UNUSUAL = {
    "NaN": b"[NaN, 1]",
    "Infinity": b"[Infinity, -Infinity]",
    "twice the same key": b'{"a": 1, "b": 2, "a": 3}',
    "byte order mark": b'\xef\xbb\xbf{"a": 1}',
    "UTF-16": '{"é": "€"}'.encode("utf-16"),
    "UTF-32": '{"é": "€"}'.encode("utf-32-be"),
    "large float": b"[1e400, -1e400, 1e308]",
    "small float": b"[1e-400, 5e-324, -0.0, -0]",
    "long float": b"0.1000000000000000055511151231257827",
    "64 bits": b"[18446744073709551615, -9223372036854775808]",
    "more than 64 bits": b"[18446744073709551616, -9223372036854775809]",
    "many digits": b'{"a": 123456789012345678901234567890}',
    "lone surrogate": b'"\\ud800"',
    "encoded surrogate": b'"\xed\xa0\x80"',
    "pair": b'"\\ud83d\\ude00"',
    "NUL": b'"\\u0000"',
    "deep": b"[" * 900 + b"]" * 900,
}

WRONG = {
    "nothing": b"",
    "space": b" \t\r\n",
    "no UTF-8": b'"\xff"',
    "control character": b'"\n"',
    "trailing comma": b"[1,]",
    "leading zero": b"01",
    "more behind": b"1 2",
    "single quotes": b"'a'",
    "comment": b"/**/1",
    "too many digits": b"1" * 5000,
    "too deep": b"[" * 200_000,
    "no end": b'{"a": [1, 2',
}


def test_unusual_json_reads_the_same_whatever_is_installed(
    see: See, parser: str
) -> None:
    assert parser
    values = see(lambda batch: batch.json(), *map(post, UNUSUAL.values())).value
    found = dict(zip(UNUSUAL, map(repr, values), strict=True))
    assert found == {name: repr(json.loads(body)) for name, body in UNUSUAL.items()}


@pytest.mark.parametrize("body", WRONG.values(), ids=WRONG)
def test_what_is_no_json_is_the_same_error_whatever_is_installed(
    parser: str, body: bytes
) -> None:
    raised = []
    assert parser
    for parse in (_json.loads, _json.loads_exactly):
        with pytest.raises(ValueError) as info:  # noqa: PT011 - they are compared
            parse(body)
        raised.append((type(info.value), str(info.value)))
    assert raised[0] == raised[1]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda items: st.lists(items) | st.dictionaries(st.text(), items),
    max_leaves=10,
)


@pytest.mark.parametrize("name", PARSERS)
def test_parsers_agree_with_json(name: str) -> None:
    module = pytest.importorskip("orjson" if name == "orjson" else "msgspec.json")
    parse = module.loads if name == "orjson" else module.decode

    def check(value: Any, indent: int | None, *, is_ascii: bool) -> None:
        text = json.dumps(value, ensure_ascii=is_ascii, indent=indent)
        body = text.encode("utf-8", "surrogatepass")
        try:
            found = parse(body)
        except ValueError:
            return  # json reads it then
        assert repr(found) == repr(json.loads(body))

    fuzzing.Trial(
        check,
        value=JSON,
        indent=st.none() | st.integers(0, 3),
        is_ascii=st.booleans(),
    ).run(100)


# ---- nothing is left behind ---------------------------------------------------------


@pytest.mark.parametrize(
    "look",
    [
        lambda batch: batch.bodies,
        lambda batch: numpy.asarray(batch.stack("B", 5)).sum(),
        lambda batch: batch.stack("B", 4).mask,
        lambda batch: batch.json(),
    ],
    ids=["bodies", "stack", "misfit", "json"],
)
def test_columns_leave_no_memory_behind(serve: Serve, look: Look) -> None:
    def handler(batch: fastbatch.Batch) -> list[str]:
        look(batch)
        with contextlib.suppress(ValueError):
            batch.stack("f", -1)
        return ["ok"] * len(batch)

    server = serve(handler, interface="batch")
    data = post(b"12345") + post(b"wrong")
    with helpers.Connection(server) as connection:
        connection.send(data)
        connection.reply()
        connection.reply()
        size = len(connection.received)

        def ask(n: int) -> int:
            for _ in range(n):
                connection.send(data)
                left = size
                while left > 0:
                    left -= len(connection.socket.recv(left))
            gc.collect()
            return tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            ask(300)
            before = ask(300)
            # Bytes: less than one object for each batch.
            helpers.wait_until(lambda: ask(300) - before < 300 * 16, "letting go")
        finally:
            tracemalloc.stop()
