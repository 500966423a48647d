"""What a handler may return or raise besides plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from fastbatch._core import REASONS

Body: TypeAlias = "str | bytes | bytearray | memoryview | Iterable[bytes] | None"
Text: TypeAlias = "str | bytes"
Fields: TypeAlias = "Mapping[str, Text] | Sequence[tuple[Text, Text]]"


class Response(NamedTuple):
    """A reply with names for its parts: the tuple ``(status, headers, body)``.

    Attributes:
        status: 200 to 599; default 200.
        headers: a mapping, or pairs of name and value where a name is to be sent
            several times; ``str`` (latin-1) or ``bytes``; default none. Content-Type
            follows from the body unless it is here; ``Connection: close`` ends the
            connection after the reply; Transfer-Encoding is the server's alone.
        body: ``str`` (sent as UTF-8), bytes-like, ``None`` (empty), or an iterable of
            bytes-like objects, which is streamed: with the Content-Length that
            ``headers`` may give, else chunked on HTTP/1.1 and up to the end of the
            connection on 1.0. Default empty.
    """

    status: int = 200
    headers: Fields = ()
    body: Body = None


class HTTPError(Exception):
    """Raise it from anywhere within a handler to answer with an error status.

    Args:
        status: 400 to 599.
        message: the body, as text; default the status and its reason phrase.
        headers: as of ``Response``; default none.

    Raises:
        ValueError: ``status`` is no error status.
    """

    def __init__(
        self, status: int, message: str | None = None, headers: Fields = ()
    ) -> None:
        is_number = isinstance(status, int) and not isinstance(status, bool)
        number = int.__index__(status) if is_number else 0  # of an Enum, or the like
        if not 400 <= number <= 599:
            raise ValueError(
                f"HTTPError status={status!r} is not allowed: "
                "it must be an integer from 400 to 599"
            )
        self.response = Response(
            number, headers, plain_text(number) if message is None else message
        )
        super().__init__(status, message)


def plain_text(status: int) -> str:
    """The body of a reply that has nothing to say but its status."""
    return f"{status} {REASONS.get(status, '')}".rstrip() + "\n"
