"""Odd values for handlers and applications to give, and what is to come of them.

Everything is made anew for each example. What cannot be told from a value itself, as
the items of an iterator, is told by the class that holds it.
"""

import array
import collections
import enum
import http
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, Self

from hypothesis import strategies as st

from fastbatch._core import LIMITS

Fields = list[tuple[bytes, bytes]]


class OddError(Exception):
    """What odd things raise; its text is odd, too."""

    def __str__(self) -> NoReturn:
        raise ValueError("no text")

    __repr__ = __str__


def _refuse(*_args: Any) -> NoReturn:
    raise OddError


_HOSTILE = dict.fromkeys(
    "__str__ __repr__ __eq__ __ne__ __hash__ __len__ __bool__ __iter__ __contains__"
    " __getitem__ __format__ __int__ __index__ __float__ __bytes__ __lt__ __add__"
    " encode decode lower upper strip join items keys close".split(),
    _refuse,
)


class HostileStr(str):  # noqa: SLOT000
    """A str of which nothing but the object itself can be used."""


class HostileBytes(bytes):
    """Such bytes."""


class HostileInt(int):
    """Such an int."""


class HostileTuple(tuple):  # noqa: SLOT001
    """Such a tuple."""


class HostileList(list):
    """Such a list."""


class HostileDict(dict):
    """Such a dict."""


for _kind in (HostileStr, HostileBytes, HostileInt, HostileTuple, HostileList):
    for _name, _method in _HOSTILE.items():
        setattr(_kind, _name, _method)
for _name in ("items", "keys", "__iter__", "__repr__", "__len__"):
    setattr(HostileDict, _name, _refuse)


class Refuses:
    """An object whose methods of these names raise, and that has no others."""

    def __new__(cls, *names: str) -> Self:
        kind = type("Refuses", (object,), dict.fromkeys(names, _refuse))
        made: Self = kind()
        return made


class Gives:
    """An object whose methods of these names give things of the wrong type."""

    def __new__(cls, what: Any, *names: str) -> Self:
        def give(_self: object, *arguments: Any) -> Any:
            if arguments and isinstance(arguments[0], int) and arguments[0] > 2:
                raise IndexError  # or else a sequence would have no end
            return what

        kind = type("list", (object,), dict.fromkeys(names, give))
        made: Self = kind()
        return made


class Colour(enum.IntEnum):
    """Numbers with names."""

    OK = 200
    TEAPOT = 418
    NONE = 0


def either(*strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """One of these, each as often; one_of() would count the parts of its parts."""
    return st.integers(0, len(strategies) - 1).flatmap(lambda n: strategies[n])


# ---- texts, numbers ----------------------------------------------------------------

_CHARS = 'aZ0\r\n\0\t :;,"\x01\x1f\x7f\x80\x85é\xff€\u2028\ud800\U0001d11e'

texts = either(
    st.text(st.sampled_from(_CHARS), max_size=12),
    st.text(max_size=40),
    st.text(st.sampled_from("abc XYZ"), max_size=20),
)

byte_strings = either(
    st.binary(max_size=40),
    st.sampled_from(
        [b"", b"\r\n", b"a\r\nX-Injected: yes", b"\r\n\r\nHTTP/1.1 200 OK"]
    ),
    st.builds(HostileBytes, st.binary(max_size=8)),
)

hostile_objects: st.SearchStrategy[Any] = either(
    st.lists(st.sampled_from(sorted(_HOSTILE)), max_size=4, unique=True).map(
        lambda names: Refuses(*names)
    ),
    st.builds(
        Gives,
        st.sampled_from([None, 1, -1, "x", (), 2**70, object()]),
        st.sampled_from(sorted(_HOSTILE)),
        st.sampled_from(["__iter__", "__len__", "__buffer__", "items", "__getitem__"]),
    ),
    st.sampled_from([object, type, len, NotImplemented, ..., OddError, print]),
    st.builds(OddError),
    st.builds(lambda: Refuses("__buffer__")),
    st.builds(lambda: Refuses("__iter__", "__len__")),
    st.builds(lambda: Refuses("__getattr__")),
)

numbers: st.SearchStrategy[Any] = either(
    st.integers(-1, 1000),
    st.integers(),
    st.booleans(),
    st.floats(),
    st.complex_numbers(),
    st.sampled_from(Colour),
    st.builds(HostileInt, st.integers(0, 999)),
)

statuses: st.SearchStrategy[Any] = either(
    st.sampled_from([200, 200, 204, 205, 304, 404, 500, 599, http.HTTPStatus.OK]),
    st.sampled_from([200, 200, 201, 206, 404]),
    st.integers(200, 599),
    st.just(200),
    st.sampled_from([201, 204]).map(HostileInt),
    st.integers(-1, 1000),
    st.sampled_from([100, 101, 103, 199, 600, 2**31, 2**32 + 200, 2**64 + 200, -200]),
    numbers,
    texts,
)

# ---- bodies ------------------------------------------------------------------------

_LARGE = LIMITS["zero_copy_bytes"]


def raw(value: Any) -> bytes | None:
    """The bytes of a buffer as a reply may have it, or None."""
    try:
        view = memoryview(value)
    except Exception:  # noqa: BLE001 - whatever it is
        return None
    with view:
        return view.tobytes() if view.c_contiguous else None


def show(value: Any) -> str:
    """Its repr, if it has one."""
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - whatever it is
        return f"<odd {type(value).__name__}>"


def _in_two_dimensions(data: bytes) -> memoryview:
    return memoryview(data * 2 or b"12").cast("B", (2, max(1, len(data))))


def _released() -> memoryview:
    view = memoryview(b"released")
    view.release()
    return view


buffers: st.SearchStrategy[Any] = either(
    byte_strings,
    st.binary(max_size=40).map(bytearray),
    byte_strings.map(memoryview),
    st.binary(min_size=2, max_size=20).map(lambda data: memoryview(data)[::2]),
    st.binary(min_size=2, max_size=20).map(lambda data: memoryview(data)[::-1]),
    st.binary(min_size=2, max_size=20).map(lambda data: memoryview(data)[1:-1]),
    st.binary(max_size=20).map(_in_two_dimensions),
    st.lists(st.integers(-5, 5), max_size=5).map(lambda ns: array.array("i", ns)),
    st.sampled_from([_LARGE - 1, _LARGE, _LARGE + 1, 3 * _LARGE]).map(bytes),
    st.sampled_from([_LARGE, 2 * _LARGE]).map(bytearray),
    st.builds(_released),
)


class Stream:
    """An iterator of ``items``, of which it raises those that are exceptions.

    ``given`` is what of them may be on the wire; ``is_broken`` that one was bad.
    """

    def __init__(self, items: list[Any], end: Exception | None = None) -> None:
        self._items = iter(items)
        self.n_bytes = sum(len(raw(item) or b"") for item in items)
        self._end = end
        self.given = bytearray()
        self.n_given = 0
        self.is_broken = False
        self.n_closed = 0

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Any:
        item = next(self._items)
        data = raw(item)
        if data is None:
            self.is_broken = True
        if isinstance(item, Exception):
            raise item
        if data is not None:
            self.n_given += 1
            self.given += data
        return item

    def close(self) -> None:
        self.n_closed += 1
        if self._end is not None:
            raise self._end


class Sized(Stream):
    """A stream that says how many items it has, right or wrong."""

    def __init__(self, items: list[Any], n: Any) -> None:
        super().__init__(items)
        self._n = n

    def __len__(self) -> int:
        n: int = self._n
        return n


class Sequence:
    """What has but __getitem__ to be iterated by."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __getitem__(self, _index: int) -> Any:
        try:
            return next(self._stream)
        except StopIteration:
            raise IndexError from None


def _generator(stream: Stream) -> Iterator[Any]:
    yield from stream


_items = st.lists(
    either(
        buffers,
        buffers,
        *[st.binary(max_size=8)] * 12,
        st.none(),
        texts,
        st.integers(),
        hostile_objects,
        st.builds(OddError),
        st.builds(ValueError, st.just("midway")),
    ),
    max_size=5,
)

_breaking = st.builds(
    lambda good, bad: [*good, bad],
    st.lists(st.binary(min_size=1, max_size=8), min_size=1, max_size=3),
    either(st.none(), texts, st.builds(OddError), buffers, hostile_objects),
)

streams: st.SearchStrategy[Stream] = either(
    st.builds(Stream, _breaking),
    st.builds(Stream, _items),
    st.builds(Stream, st.lists(st.binary(max_size=8), max_size=4)),
    st.builds(Stream, _items, st.builds(OddError)),
    st.builds(Sized, _items, st.sampled_from([0, 1, 1, 2, 2**70, -1, None])),
)


@dataclass
class Body:
    """A body, and what is to come of it on the wire."""

    value: Any
    data: bytes | None = None  # None: of a stream, or else it is refused
    stream: Stream | None = None

    def __repr__(self) -> str:
        given = bytes(self.stream.given) if self.stream is not None else self.data
        return f"Body({show(self.value)}, {given!r})"


def text_body(text: str) -> Body:
    try:
        return Body(text, str.encode(text))
    except UnicodeEncodeError:
        return Body(text)


_WRAPPERS: list[Callable[[Stream], Any]] = [
    lambda stream: stream,
    lambda stream: stream,
    _generator,
    _generator,
    Sequence,
    lambda stream: filter(lambda _item: True, stream),
]


def _stream_body(stream: Stream, wrap: Callable[[Stream], Any]) -> Body:
    return Body(wrap(stream), None, stream)


def _list_body(items: list[Any], kind: Callable[[Any], Any]) -> Body:
    stream = Stream([])
    for item in items:
        data = raw(item)
        if data is None:
            stream.is_broken = True
            break
        stream.n_given += 1
        stream.given += data
        stream.n_bytes += len(data)
    return Body(kind(items), None, stream)


streamed: st.SearchStrategy[Body] = either(
    st.builds(_stream_body, streams, st.sampled_from(_WRAPPERS)),
    st.builds(_stream_body, streams, st.sampled_from(_WRAPPERS)),
    st.builds(_list_body, _items, st.sampled_from([list, tuple, collections.deque])),
)

bodies: st.SearchStrategy[Body] = either(
    streamed,
    streamed,
    texts.map(text_body),
    texts.map(HostileStr).map(text_body),
    st.just("text").map(text_body),
    buffers.map(lambda value: Body(value, raw(value))),
    st.none().map(lambda value: Body(value, b"")),
    either(numbers, hostile_objects, st.just({}), st.just({"a": 1})).map(Body),
    st.builds(lambda: Body(HostileList([b"x"]))),
    st.builds(lambda: Body(HostileDict(a=1))),
)

# ---- fields ------------------------------------------------------------------------

_NAMES = (
    "X-A Set-Cookie Content-Type content-type Date Server Content-Length content-length"
    " Transfer-Encoding Connection connection Keep-Alive Upgrade Trailer TE Trailers"
    " Proxy-Connection Proxy-Authenticate Content-Encoding"
).split()

_VALUES = (
    "close Close keep-alive chunked gzip 0 4 5 00004 +4 1e3 4,4 18446744073709551615"
    " 18446744073709551616 identity text/html h2c"
).split()

names: st.SearchStrategy[Any] = either(
    st.sampled_from(_NAMES),
    st.sampled_from(_NAMES),
    st.sampled_from(["X-B", "X-C", "x-d"]),
    st.sampled_from(["X A", "X:", "", "X\r\nInjected", "X\0", "X-é", "X-€", "\ud800"]),
    texts,
    byte_strings,
    st.sampled_from(_NAMES).map(HostileStr),
    st.sampled_from(_NAMES).map(str.encode),
    numbers,
    hostile_objects,
    st.none(),
)

values: st.SearchStrategy[Any] = either(
    st.sampled_from(_VALUES),
    st.sampled_from(["plain", "", "é", "two words", "\t"]),
    st.sampled_from(["a\r\nX-Injected: yes", "a\nb", "a\rb", "a\0b", "a\x7f", "€"]),
    texts,
    byte_strings,
    texts.map(HostileStr),
    numbers,
    hostile_objects,
    st.none(),
)

plain_fields: st.SearchStrategy[Any] = st.tuples(
    st.sampled_from(["X-A", "x-b", "Set-Cookie", "Content-Type", "Date", "Server"]),
    st.sampled_from(["plain", "", "é", "two words", "\t"]),
)

_good_names = st.sampled_from(["X-A", "x-b", "Set-Cookie", "Content-Type", b"X-C"])

pairs: st.SearchStrategy[Any] = either(
    plain_fields,
    plain_fields,
    plain_fields,
    plain_fields,
    st.tuples(_good_names, values),
    st.tuples(names, st.sampled_from(["plain", "close", "4"])),
    st.tuples(names, values),
)


def _encoded(text: Any) -> bytes:
    if isinstance(text, str):
        return str.encode(text, "latin-1")
    return memoryview(text).tobytes()


def encoded(fields: Any) -> Fields:
    """Pairs of name and value that the server took, as the wire has them."""
    kept = list.__iter__(fields) if isinstance(fields, list) else fields
    return [(_encoded(name), _encoded(value)) for name, value in kept]
