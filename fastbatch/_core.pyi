"""What the C extension gives to the Python layer; made by csrc/python."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, final, overload

from typing_extensions import Buffer

LIMITS: Mapping[str, int]
"""The compiled-in numbers of csrc/core/limits.h, by option name or as FB_* lower-cased:
the defaults (``max_body``, ``head_timeout_ms``, ...) and the bounds (``batch_slots``,
``headers_bound``, ...)."""

REASONS: Mapping[int, str]
"""The reason phrases, by status; of csrc/core/status.c, the one table of them."""

VERSIONS: Mapping[str, str]
"""The vendored libraries: ``{"libuv": "1.52.1", "llhttp": "9.4.3"}``."""

class ReplyError(ValueError):
    """What a handler returned is no reply; the message says what is wrong with it."""

@final
class Headers(Mapping[str, str]):
    """The header fields of one request: a case-insensitive, read-only mapping.

    Names are given in lower case. A field that was sent several times reads as one
    value joined by ``", "`` (``"; "`` for cookie), RFC 9110 section 5.3; ``get_all``
    gives the lines as they were received, ``raw`` all fields in order of arrival.
    """

    def __getitem__(self, name: str, /) -> str: ...
    def __iter__(self) -> Iterator[str]: ...
    def __len__(self) -> int: ...
    def get_all(self, name: str, /) -> list[str]: ...
    @property
    def raw(self) -> list[tuple[bytes, bytes]]: ...

@final
class Request:
    """One HTTP request. Every attribute is computed when it is first read.

    A request may be kept for as long as the handler's code likes.
    """

    @property
    def method(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def query_string(self) -> str: ...
    @property
    def query(self) -> Mapping[str, list[str]]: ...
    @property
    def http_version(self) -> str: ...
    @property
    def headers(self) -> Headers: ...
    @property
    def body(self) -> bytes: ...
    @property
    def client(self) -> tuple[str, int] | None:
        """The client's address, or None on a unix socket.

        Behind a trusted proxy it is what the proxy says; the port is 0 if it says none.
        """

    @property
    def scheme(self) -> str:
        """``"http"``, or ``"https"`` if a trusted proxy says so."""

    def json(self) -> Any:
        """The body, as ``json.loads`` reads it; by orjson or msgspec if installed.

        Raises:
            ValueError: it is no JSON, or is nested too deeply.
        """

@final
class Stack:
    """The bodies of a batch as the rows of one array.

    It is a writable, C-contiguous buffer of its own, aligned to 64 bytes, which
    ``memoryview``, ``numpy.asarray`` and ``torch.frombuffer`` take without a copy, and
    which lives for as long as one of these.
    """

    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __len__(self) -> int: ...
    @property
    def shape(self) -> tuple[int, ...]:
        """The number of rows, then the shape of one."""

    @property
    def format(self) -> str:
        """What an item is, as the ``struct`` module has it."""

    @property
    def itemsize(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def mask(self) -> memoryview:
        """Which rows hold a body: a read-only view of ``bool``, one for each row.

        The others are all zeros, and their requests are answered.
        """

@final
class Batch(Sequence[Request]):
    """The requests that were ready together, in slots 0 to ``len(batch) - 1``.

    An immutable sequence of them, for as long as the dispatch lasts and for its thread;
    then, and for others, it is empty.
    """

    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, index: int, /) -> Request: ...
    @overload
    def __getitem__(self, index: slice, /) -> Sequence[Request]: ...
    @property
    def queue(self) -> int:
        """Which of the server's queues all of them are of."""

    @property
    def bodies(self) -> tuple[memoryview, ...]:
        """The bodies, one for each slot; each of the bytes that ``Request.body`` is.

        They may be kept for as long as one likes.

        Raises:
            OSError: one that is in a file cannot be read.
            RuntimeError: the dispatch is over, or it is another thread's.
        """

    def json(self) -> list[Any]:
        """The bodies as ``Request.json()`` reads them, one for each slot.

        A request whose body is no JSON is answered 400, alone, and its item is None, as
        is that of a request that was answered before.

        Raises:
            OSError: a body that is in a file cannot be read.
            RuntimeError: the dispatch is over, or it is another thread's.
        """

    def stack(self, dtype: object, shape: int | tuple[int, ...]) -> Stack:
        """The bodies as the rows of one array, each byte copied once.

        A request whose body has another size than a row is answered 400, alone; its row
        is all zeros, and False in ``mask``, as is that of a request that was answered
        before. What a batch handler returns for these is ignored.

        Args:
            dtype: of the items: bool, int8 to int64, uint8 to uint64, float16 to
                float64, complex64 or complex128, by the name that ``struct``,
                ``array``, numpy or torch have for it: ``"f"``, ``"<f4"``,
                ``"float32"``, ``numpy.float32``, ``numpy.dtype("f4")``,
                ``torch.float32``.
            shape: of a row; ``()`` is a single item.

        Raises:
            TypeError, ValueError: ``dtype`` or ``shape`` is not allowed.
            OSError: a body that is in a file cannot be read.
            RuntimeError: the dispatch is over, or it is another thread's.
        """

    def reply(self, index: int, reply: object, /) -> tuple[int, ...] | None:
        """Answer slot ``index``.

        A reply to a request that was pipelined behind one that is not answered yet is
        read and judged now, and sent when it is its turn.

        Returns:
            None; or, when the reply ends its connection, or one that waited for it
            does, the slots that were pipelined behind: they are not to be processed,
            RFC 9112 section 9.6.

        Raises:
            ReplyError: ``reply`` is no reply; the slot is still unanswered.
            IndexError: there is no such slot.
            RuntimeError: the slot is answered already, the dispatch is over, or it is
                another thread's.
        """

    def reply_all(
        self, result: object, fail: Callable[[int, BaseException], object], /
    ) -> int:
        """Answer each slot with its item of what a batch handler has returned.

        Slots that are answered already are left out. ``fail`` is called with the number
        of each slot whose item is an exception or no reply, and with what was wrong: it
        is to answer that slot.

        Returns:
            How many replies there were, at the most one more than slots of an iterator.
            Of a sequence with another number of them none was given.

        Raises:
            ReplyError: ``result`` is no sequence of replies, no array of numbers with
                contiguous rows and no iterator, nor None when all are answered.
            RuntimeError: the dispatch is over, or it is another thread's.
            BaseException: what the iterator raised, or ``fail``, or an item that is to
                stop the server.
        """

    def take_all(self) -> int:
        """Have all slots handled here, and each reply leave when it is given.

        Returns:
            How many slots there are.

        Raises:
            RuntimeError: the dispatch is over, or it is another thread's.
        """

    def unanswered(self) -> tuple[int, ...]:
        """The slots that have no reply yet.

        Raises:
            RuntimeError: the dispatch is over, or it is another thread's.
        """

@final
class Gateway:
    """The dispatcher for a WSGI application, PEP 3333."""

    def __init__(
        self,
        application: Callable[..., Any],
        *,
        templates: tuple[Mapping[str, Any], ...],
        root_path: bytes,
        file_wrapper: type,
        report: Callable[[Request, BaseException], object],
    ) -> None:
        """``templates`` are, for each listener, what all its environs have. Instances
        of ``file_wrapper`` have a method ``region()`` that gives a descriptor to be
        closed, an offset and a length, or None. ``report`` is told what went wrong in a
        slot, and may not raise.
        """

    def __call__(self, batch: Batch, /) -> None:
        """Answer all slots of ``batch``.

        Raises:
            BaseException: what the application raised that is no ``Exception``.
        """

@final
class Server:
    """One worker: one event loop with its listeners and its batches."""

    def __init__(
        self,
        dispatcher: Callable[[Batch], object],
        listeners: Sequence[int],
        *,
        limits: Mapping[str, int],
        server_header: bytes,
        temp_dir: bytes,
        trusted: bytes,
        proxy_protocol: bool,
        wakeup_fd: int,
        access_log: int | Callable[[bytes], object] | None,
        access_log_format: str,
        stats: Buffer | None,
        heartbeat_ms: int,
        roster: Buffer | None,
        queues: Sequence[Mapping[str, Any]],
        deadline_header: bytes,
    ) -> None:
        """``listeners`` are file descriptors of bound stream sockets (TCP or unix), not
        yet listening or listening; the server takes them and closes them when it stops.
        ``wakeup_fd`` is the reading end of ``signal.set_wakeup_fd``, or -1: when it is
        readable, the server drains it and lets Python run its signal handlers.
        ``limits`` has every field of fb_limits by its name; a time-out of 0 is none.
        Bodies longer than ``max_body_memory`` go to files in ``temp_dir``. ``trusted``
        are the peers whose X-Forwarded-* are believed: addresses, address/prefix,
        "unix" or "*", separated by commas. With ``proxy_protocol`` others are not
        served, and these must begin with a PROXY header. A descriptor that cannot be
        used is closed, too.

        ``access_log`` is a descriptor that lines are written to, which the server
        takes; or a function that is given one or more whole lines of ASCII, and what it
        raises is logged; or None. ``access_log_format`` is "combined" or "json".

        The counters are kept in ``stats``, which has STATS_BYTES bytes at least, zero
        at first, so that ``read_stats`` can read them elsewhere. With ``heartbeat_ms``
        their ``beat_ms``, when the loop last came round by CLOCK_MONOTONIC, is never
        older than that while the loop is not held up.

        ``roster`` has ROSTER_BYTES bytes at least, zero at first: memory that all
        servers share which are given copies of the same ``listeners``. They keep an
        account of their connections there, and those that are ahead let the others
        accept first. Without one, a server takes whatever comes.

        ``queues`` has a mapping for each queue, 1 to QUEUES_BOUND of them, with
        ``routes``, a tuple of pairs of a method, or "*", and the bytes of a decoded
        path: requests of which are its own; those of no queue's are of queue 0. Then,
        as whole numbers, ``is_whole``, whether its batches go to one thread each,
        ``concurrency`` of them at a time; ``batch_size``, ``batch_wait_us``,
        ``deadline_ms``, ``queue_size`` and ``full_status``. ``deadline_header``, in
        lower case, is where a client says how long it waits; or empty.

        Raises:
            KeyError, ValueError: a limit is missing, or out of its bounds.
            OSError: a listener cannot be used, or ``trusted`` is malformed.
        """

    def serve(self) -> None:
        """Run the loop on this thread until it is stopped.

        Raises:
            KeyboardInterrupt, SystemExit, or any exception that a Python signal handler
            or the dispatcher raised and that is no ``Exception``, after what had been
            answered was sent.
        """

    def handle(self, dispatcher: Callable[[Batch], object], /) -> None:
        """Be a handler thread of a server with ``threads``: give its batches to
        ``dispatcher`` until the server has ended.

        Returns at once when it has ended, or has as many threads as it has places for.
        """

    def is_abandoned(self) -> bool:
        """Whether ``serve()`` ended by a signal without waiting for handler threads."""

    def stop(self, now: bool = False) -> None:
        """From any thread: stop accepting, answer what has arrived, end.

        With ``now``, end at once. Does nothing when it has ended.
        """

    def set_access_log(self, fd: int, /) -> None:
        """From any thread: have the access log go on in that file, which is taken.

        Without an access log to a descriptor, or when the server has ended, ``fd`` is
        closed.
        """

    def stats(self) -> dict[str, Any]:
        """Counters since the start, as ``fastbatch.Server.stats()`` lists them.

        ``batch_sizes`` has 257 items. ``queue_times`` has one more than
        QUEUE_BOUNDS_US: item n counts the requests that waited for at most bound n and
        for longer than the bound before, the last those that did for longer than all.
        What is counted of each queue is there once more in ``queues``, a list.
        """

QUEUE_BOUNDS_US: tuple[int, ...]
"""The bounds of ``queue_times`` in the counters, in microseconds."""

ROSTER_BYTES: int
"""How much memory the roster of Servers with the same listeners takes."""

STATS_BYTES: int
"""How much memory the counters of a Server take."""

def read_stats(buffer: Buffer, n_queues: int = 1, /) -> dict[str, Any]:
    """``Server.stats()`` of the server that was given this buffer, in any process.

    Its ``queues`` are the first ``n_queues``; the totals are of all.

    Raises:
        ValueError: it is too small, or not aligned; there cannot be so many queues.
    """
