"""Reading replies as RFC 9112 has them and in no other way.

http.client forgives much; this forgives nothing, and knows nothing of the server.
"""

import re
from dataclasses import dataclass

_TEXT = rb"[\t \x21-\x7e\x80-\xff]*"
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9]) (%s)" % _TEXT)
_FIELD = re.compile(rb"([!#$%%&'*+\-.^_`|~0-9A-Za-z]+): (%s)" % _TEXT)
_CHUNK_SIZE = re.compile(rb"[0-9a-f]{1,16}\r\n")

_BODILESS = {204, 304}


@dataclass(frozen=True)
class Reply:
    """One reply. Its body may be cut short: then it is not whole."""

    status: int
    reason: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes
    is_whole: bool
    says_close: bool  # the connection ends behind it
    size: int  # of head and body, in bytes

    def values(self, name: bytes) -> list[bytes]:
        """All values of a field; ``name`` is in lower case."""
        return [value for key, value in self.fields if key.lower() == name]


def read_reply(data: bytes, *, method: str = "GET", version: str = "1.1") -> Reply:
    """Read the reply that ``data`` begins with; ``data`` ends where the peer closed.

    Args:
        data: what was received.
        method: that of the request, and
        version: that of its HTTP.

    Raises:
        AssertionError: it is not one.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    assert end, f"there is no whole head in {data[:200]!r}"
    first, *lines = head.split(b"\r\n")
    line = _STATUS_LINE.fullmatch(first)
    assert line, f"{first!r} is no status line"
    fields = []
    for text in lines:
        field = _FIELD.fullmatch(text)
        assert field, f"{text!r} is no field"
        fields.append((field[1], field[2]))
    status = int(line[1])
    says_close = _says_close(fields, version)
    body, n_body, is_whole = _read_body(rest, fields, status, method, version)
    assert is_whole or n_body == len(rest)
    size = len(head) + 4 + n_body
    return Reply(status, line[2], fields, body, is_whole, says_close, size)


def _only(fields: list[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The value of a field that may be there once."""
    values = [value for key, value in fields if key.lower() == name]
    assert len(values) <= 1, f"{name!r} is there {len(values)} times"
    return values[0] if values else None


def _says_close(fields: list[tuple[bytes, bytes]], version: str) -> bool:
    connection = _only(fields, b"connection")
    if version == "1.0":
        assert connection in (b"close", b"keep-alive")
    else:
        assert connection in (b"close", None)
    return connection == b"close"


def _read_body(
    rest: bytes,
    fields: list[tuple[bytes, bytes]],
    status: int,
    method: str,
    version: str,
) -> tuple[bytes, int, bool]:
    """The body, how many bytes of ``rest`` it took, and whether it is whole."""
    length = _only(fields, b"content-length")
    coding = _only(fields, b"transfer-encoding")
    assert length is None or re.fullmatch(rb"[0-9]+", length)
    assert status != 204 or length is None
    if coding is not None:
        assert coding == b"chunked"
        assert (length, version) == (None, "1.1")
        assert method != "HEAD"
    if method == "HEAD" or status in _BODILESS:
        assert coding is None
        return b"", 0, True
    if coding is not None:
        return _read_chunks(rest)
    if length is not None:
        body = rest[: int(length)]
        return body, len(body), len(body) == int(length)
    assert _says_close(fields, version), "nothing says where the body ends"
    return rest, len(rest), True


def _read_chunks(rest: bytes) -> tuple[bytes, int, bool]:
    body = b""
    at = 0
    while True:
        size = _CHUNK_SIZE.match(rest, at)
        if size is None:
            cut = rest[at:]
            assert re.fullmatch(rb"[0-9a-f]{0,16}\r?", cut), f"{cut!r} is no chunk"
            return body, len(rest), False
        n = int(size[0], 16)
        chunk = rest[size.end() : size.end() + n]
        body += chunk
        at = size.end() + n
        ending = rest[at : at + 2]
        if n == 0:
            assert size[0] == b"0\r\n"
        if len(ending) < 2:
            assert b"\r\n".startswith(ending)
            return body, len(rest), False
        assert ending == b"\r\n", f"a chunk ends in {ending!r}"
        at += 2
        if n == 0:
            return body, at, True
