"""Every option: its name, default, rule and description, once.

``run()``, the command line, the ``FASTBATCH_*`` variables and the documentation are all
made from the fields of ``Options``. Values are read and judged here and nowhere else;
the C extension only asserts them. Nothing here opens, imports or starts anything.

To add an option: a field of ``Options`` and its type in ``OptionArguments``. Whole
numbers and time-outs go to the C extension by themselves, to be named in
csrc/core/limits.h and csrc/python/limits.c; others by ``_core_arguments()``.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import logging
import operator
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypedDict, Unpack

from fastbatch._core import LIMITS
from fastbatch._sockets import BIND_FORMS, MAX_PORT, format_host, parse_bind

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8000
ENV_PREFIX = "FASTBATCH_"

_MAX_SECONDS = LIMITS["timeout_bound_ms"] // 1000

_MAX_BATCH_WAIT = LIMITS["batch_wait_bound_us"] // 1_000_000

_MAX_NETWORKS = LIMITS["max_networks"]

_SERVER_HEADER_CHARS = LIMITS["server_value_bytes"]

STDOUT = "-"

AUTO = "auto"

AccessLog = str | os.PathLike[str] | logging.Logger
"""What ``access_log`` may be; once checked, no PathLike any more."""

log = logging.getLogger("fastbatch")


class Refusal(Exception):  # noqa: N818 - it is turned into a TypeError or ValueError
    """A value that its rule does not allow; the message says what is."""

    def __init__(self, reason: str, error: type[Exception] = ValueError) -> None:
        super().__init__(reason)
        self.error = error  # what the user is given


# ---- rules: what a value may be, in Python and as text ----------------------------


class Rule:
    """What an option may be. ``check`` takes a Python value, ``parse`` a text."""

    metavar: str  # what stands for the value in --help
    unit: str = ""

    def check(self, value: Any) -> Any:
        """The value as it is kept. Raises Refusal."""
        raise NotImplementedError

    def parse(self, text: str) -> Any:
        """The value that ``text`` writes, checked. Raises Refusal."""
        return self.check(text)

    def format(self, value: Any) -> str:
        """``value`` as ``parse`` reads it."""
        return str(value)


class Integer(Rule):
    """A whole number; a bool is none."""

    def __init__(self, low: int, high: int, unit: str = "") -> None:
        self.low = low
        self.high = high
        self.unit = unit
        self.metavar = "BYTES" if unit == "bytes" else "N"

    @property
    def allowed(self) -> str:
        unit = f" ({self.unit})" if self.unit else ""
        return f"it must be an integer from {self.low} to {self.high}{unit}"

    def check(self, value: Any) -> int:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise Refusal(self.allowed, TypeError)
        number = int(operator.index(value))  # no enum: its text is not its number
        if not self.low <= number <= self.high:
            raise Refusal(self.allowed)
        return number

    def parse(self, text: str) -> int:
        try:
            return self.check(int(text))
        except ValueError:
            raise Refusal(self.allowed) from None


class Mode(Integer):
    """Permission bits of a file, in octal where they are text."""

    def __init__(self) -> None:
        super().__init__(0, 0o777)
        self.metavar = "OCTAL"

    @property
    def allowed(self) -> str:
        return "it must be permission bits in octal, from 0 to 0o777"

    def parse(self, text: str) -> int:
        try:
            return self.check(int(text, 8))
        except ValueError:
            raise Refusal(self.allowed) from None

    def format(self, value: int) -> str:
        return f"{value:o}"


class Seconds(Rule):
    """A time-out, or a wait; 0 is none."""

    metavar = "SECONDS"
    unit = "seconds"

    def __init__(self, high: int = _MAX_SECONDS) -> None:
        self.high = high

    @property
    def allowed(self) -> str:
        return f"it must be a number of seconds from 0 (none) to {self.high}"

    def check(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Refusal(self.allowed, TypeError)
        if not 0 <= value <= self.high:  # false for nan
            raise Refusal(self.allowed)
        return float(value)

    def parse(self, text: str) -> float:
        try:
            return self.check(float(text))
        except ValueError:
            raise Refusal(self.allowed) from None

    def format(self, value: float) -> str:
        return str(int(value)) if value.is_integer() else repr(value)


class OneOf(Rule):
    """One of a few words."""

    def __init__(self, *words: str) -> None:
        self.words = words
        self.metavar = "|".join(words)

    def check(self, value: Any) -> str:
        *first, last = map(repr, self.words)
        allowed = f"it must be {', '.join(first)} or {last}"
        if not isinstance(value, str):
            raise Refusal(allowed, TypeError)
        if value not in self.words:
            raise Refusal(allowed)
        return str(value)


class IntegerOneOf(Rule):
    """One of a few whole numbers."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers
        self.metavar = "|".join(map(str, numbers))

    @property
    def allowed(self) -> str:
        *first, last = map(str, self.numbers)
        return f"it must be {', '.join(first)} or {last}"

    def check(self, value: Any) -> int:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise Refusal(self.allowed, TypeError)
        number = int(operator.index(value))
        if number not in self.numbers:
            raise Refusal(self.allowed)
        return number

    def parse(self, text: str) -> int:
        try:
            return self.check(int(text))
        except ValueError:
            raise Refusal(self.allowed) from None


class FieldName(Rule):
    """The name of a header field of requests, RFC 9110 5.1, or '' for none."""

    metavar = "NAME"
    allowed = "it must be the name of a header field, or '' (none)"

    def check(self, value: Any) -> str:
        if not isinstance(value, str):
            raise Refusal(self.allowed, TypeError)
        if "_" in value:
            raise Refusal("fields with an underscore in their names are dropped")
        if not re.fullmatch(r"[!#$%&'*+.^`|~0-9A-Za-z-]*", value):
            raise Refusal(self.allowed)
        return str(value)

    def format(self, value: str) -> str:
        return value or "''"


class FieldValue(Rule):
    """The value of a header field that we send: RFC 9110 5.5, and ASCII."""

    metavar = "TEXT"
    allowed = (
        f"it must be a str of at most {_SERVER_HEADER_CHARS} printable ASCII characters"
        " with no space at either end"
    )

    def check(self, value: Any) -> str:
        if not isinstance(value, str):
            raise Refusal(self.allowed, TypeError)
        # A CR or LF here would end the field and start one of an attacker's making.
        is_printable = value.isascii() and value.isprintable()
        if (
            not is_printable
            or value != value.strip()
            or len(value) > _SERVER_HEADER_CHARS
        ):
            raise Refusal(self.allowed)
        return str(value)

    def format(self, value: str) -> str:
        return value or "''"


class RootPath(Rule):
    """Where an application is mounted: decoded, as in SCRIPT_NAME."""

    metavar = "PATH"
    allowed = (
        "it must be a str that begins with '/' and does not end with it, with no '//',"
        " '?', '#', '%' or control character in it, or ''"
    )

    def check(self, value: Any) -> str:
        if not isinstance(value, str):
            raise Refusal(self.allowed, TypeError)
        is_path = value.startswith("/") and not value.endswith("/")
        is_plain = "//" not in value and not set(value) & set("?#%")
        if value and not (is_path and is_plain and value.isprintable()):
            raise Refusal(self.allowed)
        return str(value)

    def format(self, value: str) -> str:
        return value or "''"


class LogDestination(Rule):
    """Where the access log goes. A PathLike becomes a str."""

    metavar = "PATH"
    allowed = (
        "it must be '' (none), '-' (standard output), the path of a file or, in Python,"
        " a logging.Logger"
    )

    def check(self, value: Any) -> AccessLog:
        if isinstance(value, logging.Logger):
            return value
        path = value
        if isinstance(value, os.PathLike):
            path = os.fspath(value)
            path = "./-" if path == STDOUT else path  # a file that is named so
        if not isinstance(path, str):
            raise Refusal(self.allowed, TypeError)
        if "\0" in path:
            raise Refusal("there is a null character in it")
        return str(path)

    def format(self, value: AccessLog) -> str:
        return str(value) or "''"


class FilePath(Rule):
    """The path of a file, or '' for none. A PathLike becomes a str."""

    metavar = "PATH"
    allowed = "it must be the path of a file, or '' (none)"

    def check(self, value: Any) -> str:
        path = os.fspath(value) if isinstance(value, os.PathLike) else value
        if not isinstance(path, str):
            raise Refusal(self.allowed, TypeError)
        if "\0" in path:
            raise Refusal("there is a null character in it")
        return str(path)

    def format(self, value: str) -> str:
        return value or "''"


class Binds(Rule):
    """Addresses to listen on; as text, separated by commas."""

    metavar = "ADDRESS"
    allowed = f"it must be {BIND_FORMS}, or a sequence of these"

    def check(self, value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            value = (value,)
        if not isinstance(value, Sequence) or isinstance(value, bytes | bytearray):
            raise Refusal(self.allowed, TypeError)
        texts = tuple(value)
        if not texts:
            raise Refusal(self.allowed)
        for text in texts:
            self._check_one(text, is_only=len(texts) == 1)
        for text in texts:
            if texts.count(text) > 1:
                raise Refusal(f"it has {text} twice")
        return tuple(map(str, texts))

    def _check_one(self, text: Any, *, is_only: bool) -> None:
        if not isinstance(text, str):
            raise Refusal(self.allowed, TypeError)
        try:
            parse_bind(text)
        except ValueError as error:
            where = "" if is_only else f"{text!r}: "
            raise Refusal(f"{where}{error}") from None

    def parse(self, text: str) -> tuple[str, ...]:
        return self.check(tuple(part.strip() for part in text.split(",")))

    def format(self, value: tuple[str, ...]) -> str:
        return ",".join(value)


class OptionalBind(Rule):
    """One address to listen on, or none."""

    metavar = "ADDRESS"
    allowed = "it must be host:port, [ipv6]:port, :port, unix:path, fd:number or ''"

    def check(self, value: Any) -> str:
        if not isinstance(value, str):
            raise Refusal(self.allowed, TypeError)
        if value == "systemd":  # all of its sockets are those of bind
            raise Refusal(self.allowed)
        try:
            _ = value and parse_bind(value)
        except ValueError as error:
            raise Refusal(str(error)) from None
        return str(value)

    def format(self, value: str) -> str:
        return value or "''"


class Peers(Rule):
    """Whom to trust, by their addresses; as text, separated by commas."""

    metavar = "ADDRESSES"
    allowed = (
        "it must be IP addresses, networks such as 10.0.0.0/8, 'unix' (peers of unix"
        " sockets) or '*' (everybody): a str of them separated by commas, or a sequence"
    )

    def check(self, value: Any) -> tuple[str, ...]:
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",")] if value else ()
        if not isinstance(value, Sequence) or isinstance(value, bytes | bytearray):
            raise Refusal(self.allowed, TypeError)
        if len(value) > _MAX_NETWORKS:
            raise Refusal(f"it has more than {_MAX_NETWORKS} items")
        return tuple(self._check_one(text) for text in value)

    def _check_one(self, text: Any) -> str:
        if not isinstance(text, str):
            raise Refusal(self.allowed, TypeError)
        if text in ("unix", "*"):
            return str(text)
        address, has_slash, prefix = text.partition("/")
        # A netmask in the place of a prefix would be taken, and a zone for an address.
        if "%" in address or (
            has_slash and not (prefix.isascii() and prefix.isdigit())
        ):
            raise Refusal(f"{text!r}: {self.allowed}")
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise Refusal(f"{text!r}: {self.allowed}") from None
        if network.network_address != ipaddress.ip_address(address):
            raise Refusal(
                f"{text!r} has bits behind its prefix: the network is {network}"
            )
        return str(network if has_slash else network.network_address)

    def format(self, value: tuple[str, ...]) -> str:
        return ",".join(value) or "''"


class Switch(Rule):
    """On or off: a bool."""

    metavar = "true|false"

    def check(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise Refusal("it must be True or False", TypeError)
        return value

    def parse(self, text: str) -> bool:
        if text not in ("true", "false"):
            raise Refusal("it must be true or false")
        return text == "true"

    def format(self, value: bool) -> str:
        return "true" if value else "false"


class Workers(Rule):
    """How many workers: a number, or "auto"."""

    metavar = "N|auto"
    high = LIMITS["workers_bound"]
    allowed = f"it must be an integer from 1 to {high}, or 'auto'"

    def check(self, value: Any) -> int | str:
        if _is_auto(value):
            return AUTO
        try:
            return Integer(1, self.high).check(value)
        except Refusal as refusal:
            raise Refusal(self.allowed, refusal.error) from None

    def parse(self, text: str) -> int | str:
        try:
            return self.check(text if text == AUTO else int(text))
        except ValueError:
            raise Refusal(self.allowed) from None


class Choice(Rule):
    """On, off, or None, which text has as "auto": whatever suits."""

    metavar = "auto|true|false"

    def check(self, value: Any) -> bool | None:
        if value is None or _is_auto(value):
            return None
        if not isinstance(value, bool):
            raise Refusal("it must be True, False or None ('auto')", TypeError)
        return value

    def parse(self, text: str) -> bool | None:
        if text not in (AUTO, "true", "false"):
            raise Refusal("it must be auto, true or false")
        return None if text == AUTO else text == "true"

    def format(self, value: bool | None) -> str:
        return AUTO if value is None else str(value).lower()


def _is_auto(value: Any) -> bool:
    return isinstance(value, str) and value == AUTO


class Host(Rule):
    """The ``host`` of run(): a name or an address, without brackets."""

    metavar = "HOST"

    def check(self, value: Any) -> str:
        if not isinstance(value, str):
            raise Refusal("it must be a str, a host name or an IP address", TypeError)
        try:
            parse_bind(f"{format_host(value)}:0")
        except ValueError:
            raise Refusal("it must be a host name or an IP address") from None
        return value


# ---- the options ------------------------------------------------------------------

BINDING = "Binding"
BATCHING = "Batching"
WORKING = "Workers"
LIMITING = "Limits"
TIMING = "Time-outs"
REPLYING = "Replies"
PROXIES = "Proxies"
LOGGING = "Logging"
METRICS = "Metrics"


def _option(default: Any, group: str, rule: Rule, description: str) -> Any:
    metadata = {"group": group, "rule": rule, "description": description}
    return dataclasses.field(default=default, metadata=metadata)


def _seconds(name: str) -> float:
    milliseconds: int = LIMITS[f"{name}_ms"]
    return milliseconds / 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a server may be told: immutable, and valid once it is made.

    ``bind`` and the time-outs are normalised: a tuple of str, and floats.

    Raises:
        TypeError, ValueError: a value is not allowed; the message says which one and
            what is.
    """

    bind: tuple[str, ...] = _option(
        (f"{DEFAULT_HOST}:{DEFAULT_PORT}",),
        BINDING,
        Binds(),
        "Where to listen: host:port, [ipv6]:port, :port (all addresses of this"
        " machine), unix:path, fd:number (a socket that the parent process opened) or"
        " systemd (the sockets of the .socket unit). Several may be given. Port 0 is"
        " any free one.",
    )
    unix_mode: int = _option(
        0o666,
        BINDING,
        Mode(),
        "The permissions of a unix socket; by default anybody on this machine may"
        " connect, as with a port of 127.0.0.1.",
    )
    backlog: int = _option(
        LIMITS["backlog"],
        BINDING,
        Integer(1, LIMITS["backlog_bound"], "connections"),
        "New connections that may wait in the kernel to be accepted. Beyond it they"
        " are refused or retried by the client's system.",
    )
    interface: str = _option(
        "auto",
        BATCHING,
        OneOf("auto", "request", "batch", "wsgi"),
        "How the handler is called: request (one Request, returns a reply), batch (a"
        " Batch, returns as many replies), wsgi (a WSGI application, PEP 3333), or auto"
        " (batch if it is marked with fastbatch.batch, else found out from its"
        " signature).",
    )
    root_path: str = _option(
        "",
        BATCHING,
        RootPath(),
        "The path under which a proxy in front has put a WSGI application: its"
        " SCRIPT_NAME. It is taken off PATH_INFO unless the proxy has done that.",
    )
    batch_size: int = _option(
        LIMITS["batch_slots"],
        BATCHING,
        Integer(1, LIMITS["batch_slots"], "requests"),
        "The most requests that are handed over together. Others wait for the next"
        " batch.",
    )
    batch_wait: float = _option(
        LIMITS["batch_wait_us"] / 1_000_000,
        BATCHING,
        Seconds(_MAX_BATCH_WAIT),
        "How long the first request of a batch may wait for others to join it, in"
        " steps of a microsecond. 0: a batch is what is ready.",
    )
    deadline: float = _option(
        _seconds("deadline"),
        BATCHING,
        Seconds(),
        "How long a request that has arrived may wait to be handled. Then the client"
        " gets 504, and the handler is not called.",
    )
    deadline_header: str = _option(
        "",
        BATCHING,
        FieldName(),
        "The header field in which clients say how long their requests may wait, in"
        " seconds, or milliseconds if its name ends with -ms. It can make deadline"
        " shorter, not longer. Empty for none.",
    )
    queue_size: int = _option(
        LIMITS["queue_size"],
        BATCHING,
        Integer(1, LIMITS["queue_size_bound"], "requests"),
        "The most requests that wait for a handler: of each batch handler, and of all"
        " others together. Beyond it the client gets queue_full_status.",
    )
    queue_full_status: int = _option(
        LIMITS["queue_full_status"],
        BATCHING,
        IntegerOneOf(503, 429),
        "What a client gets when queue_size requests wait already: 503 (Service"
        " Unavailable) or 429 (Too Many Requests), with Retry-After.",
    )
    workers: int | str = _option(
        1,
        WORKING,
        Workers(),
        "How many event loops serve side by side, each on a CPU: a number, or auto, as"
        " many as there are CPUs that this process may use, the limit of its container"
        " included.",
    )
    processes: bool | None = _option(
        None,
        WORKING,
        Choice(),
        "Whether each worker is a process of its own (true), or all are threads of one"
        " (false). With auto they are threads where Python runs without the GIL, and"
        " processes elsewhere.",
    )
    threads: int = _option(
        LIMITS["threads"],
        WORKING,
        Integer(0, LIMITS["threads_bound"], "threads"),
        "Threads of a worker that run the handler, so that one that blocks holds up"
        " nobody else. 0: it runs on the event loop.",
    )
    max_requests: int = _option(
        0,
        WORKING,
        Integer(0, LIMITS["worker_requests_bound"], "requests, 0 for no end"),
        "After how many requests a worker is replaced by a new one, which is ready"
        " before the old one ends; for applications that leak. 0 is never.",
    )
    max_requests_jitter: int = _option(
        0,
        WORKING,
        Integer(0, LIMITS["worker_requests_bound"], "requests"),
        "Up to how many requests are added to max_requests, at random for each worker,"
        " so that they are not replaced all together.",
    )
    max_rss: int = _option(
        0,
        WORKING,
        Integer(0, LIMITS["worker_memory_bound"], "bytes, 0 for no end"),
        "The most memory (resident set) that a worker process may take. Beyond it, it"
        " is replaced as by max_requests. 0 is any.",
    )
    pid_file: str | os.PathLike[str] = _option(  # noqa: RUF009 - it makes a field
        "",
        WORKING,
        FilePath(),
        "The path of a file with the number of the process that signals are for, of"
        " run() and the command line. It is there while the server is. One of a"
        " process that runs is left alone: the server does not start. Empty for none.",
    )
    reload: bool = _option(
        False,
        WORKING,
        Switch(),
        "Whether the workers are replaced whenever a Python file in the working"
        " directory, or of a module that they have imported and that is not installed,"
        " has changed; for development, on the command line. It needs the package"
        " watchdog: pip install 'fastbatch[reload]'.",
    )
    max_target: int = _option(
        LIMITS["max_target"],
        LIMITING,
        Integer(1, LIMITS["head_bound"], "bytes"),
        "The longest request target (path and query). Beyond it the client gets 414.",
    )
    max_headers: int = _option(
        LIMITS["max_headers"],
        LIMITING,
        Integer(1, LIMITS["headers_bound"], "header fields"),
        "The most header fields of a request. Beyond it the client gets 431.",
    )
    max_head: int = _option(
        LIMITS["max_head"],
        LIMITING,
        Integer(1, LIMITS["head_bound"], "bytes"),
        "The longest request head, from the request line to the empty line. Beyond it"
        " the client gets 431.",
    )
    max_body: int = _option(
        LIMITS["max_body"],
        LIMITING,
        Integer(0, LIMITS["body_bound"], "bytes"),
        "The longest request body. Beyond it the client gets 413.",
    )
    max_body_memory: int = _option(
        LIMITS["max_body_memory"],
        LIMITING,
        Integer(0, LIMITS["body_memory_bound"], "bytes"),
        "The longest request body that is held in memory. Beyond it the body goes to a"
        " temporary file, in TMPDIR or else where tempfile.gettempdir() says.",
    )
    max_connections: int = _option(
        LIMITS["max_connections"],
        LIMITING,
        Integer(1, LIMITS["connections_bound"], "connections"),
        "The most open connections. Beyond it one that is idle gives way, or the new"
        " one waits in the backlog.",
    )
    max_keepalive_requests: int = _option(
        LIMITS["max_keepalive_requests"],
        LIMITING,
        Integer(1, LIMITS["keepalive_requests_bound"], "requests"),
        "The most requests of one connection. The reply to the last one closes it.",
    )
    max_input_memory: int = _option(
        LIMITS["max_input_memory"],
        LIMITING,
        Integer(0, LIMITS["input_memory_bound"], "bytes"),
        "The most memory for requests that arrive or are handled, of all connections"
        " together. Beyond it bodies go to temporary files, and long heads wait for up"
        " to queue_timeout.",
    )
    keepalive_timeout: float = _option(
        _seconds("keepalive_timeout"),
        TIMING,
        Seconds(),
        "How long a connection may be idle between two requests. Then it is closed.",
    )
    head_timeout: float = _option(
        _seconds("head_timeout"),
        TIMING,
        Seconds(),
        "How long a request head may take to arrive. Then the client gets 408.",
    )
    body_timeout: float = _option(
        _seconds("body_timeout"),
        TIMING,
        Seconds(),
        "How long a request body may pause while it arrives. Then the client gets 408.",
    )
    write_timeout: float = _option(
        _seconds("write_timeout"),
        TIMING,
        Seconds(),
        "How long the client may read nothing of its reply. Then the connection is"
        " closed.",
    )
    queue_timeout: float = _option(
        _seconds("queue_timeout"),
        TIMING,
        Seconds(),
        "How long a request that has arrived may wait to be handled, behind those of"
        " others or for memory. Then the client gets 503 with Retry-After.",
    )
    min_rate: int = _option(
        LIMITS["min_rate"],
        TIMING,
        Integer(0, LIMITS["rate_bound"], "bytes per second, 0 for none"),
        "The fewest bytes per second of a body, on average once body_timeout has"
        " passed, and of a reply, in each write_timeout; 0 for none, as where that"
        " time-out is none. Below it the client gets 408, or the connection is closed.",
    )
    graceful_timeout: float = _option(
        _seconds("graceful_timeout"),
        TIMING,
        Seconds(),
        "How long the last replies may take after a stop. Then all connections are"
        " closed.",
    )
    worker_timeout: float = _option(
        _seconds("worker_timeout"),
        TIMING,
        Seconds(),
        "How long the loop of a worker may show no sign of life, because a handler"
        " holds it up or for any other reason. Then its process is ended, with all its"
        " connections, and another one is started. Of workers with a supervisor.",
    )

    server_header: str = _option(
        "fastbatch",
        REPLYING,
        FieldValue(),
        "The Server header of each reply; empty for none.",
    )
    access_log: AccessLog = _option(  # noqa: RUF009 - it makes a field
        "",
        LOGGING,
        LogDestination(),
        "Where each reply gets a line: the path of a file, which is opened anew on"
        " SIGUSR1, or - for standard output. In Python also a logging.Logger. Empty for"
        " none.",
    )
    access_log_format: str = _option(
        "combined",
        LOGGING,
        OneOf("combined", "json"),
        "What the lines of the access log are: combined, as those of Apache and nginx,"
        " or json, one object a line.",
    )

    metrics: str = _option(
        "",
        METRICS,
        OptionalBind(),
        "Where Prometheus may GET /metrics: an address as for bind, of its own. Empty"
        " for nowhere.",
    )

    forwarded_allow_ips: tuple[str, ...] = _option(
        (),
        PROXIES,
        Peers(),
        "The proxies whose X-Forwarded-For and X-Forwarded-Proto are believed: IP"
        " addresses, networks such as 10.0.0.0/8, unix (peers of unix sockets) or *"
        " (all peers, where no other can connect), separated by commas; empty for none."
        " What they send that is malformed gets 400. Of all others these fields are"
        " ignored.",
    )
    proxy_protocol: bool = _option(
        False,
        PROXIES,
        Switch(),
        "Whether every connection must begin with a PROXY protocol header (version 1 or"
        " 2) of one of forwarded_allow_ips. One that does not is closed.",
    )

    def __post_init__(self) -> None:
        for option in OPTIONS:
            value = getattr(self, option.name)
            checked = option.check(value, f"{option.name}={_shown(value)}")
            object.__setattr__(self, option.name, checked)
        if self.proxy_protocol and not self.forwarded_allow_ips:
            raise ValueError(
                "proxy_protocol needs forwarded_allow_ips, the proxies that may speak"
                " it: without, every connection would be closed"
            )

    @classmethod
    def from_arguments(cls, **arguments: Unpack[OptionArguments]) -> Self:
        """The options that ``arguments`` say, with ``host`` and ``port`` for ``bind``.

        Raises:
            TypeError: there is no option of that name, or as for ``Options()``.
            ValueError: ``bind`` and ``host`` or ``port``, or as for ``Options()``.
        """
        return cls(**_without_shorthands(arguments))

    @classmethod
    def from_env(cls, **arguments: Unpack[OptionArguments]) -> Self:
        """As ``from_arguments``, and ``FASTBATCH_<OPTION>`` for what is not given.

        An argument wins over the environment, and the environment over the default.
        """
        given = _without_shorthands(arguments)
        return cls(**{**_environment(os.environ, given), **given})


class OptionArguments(TypedDict, total=False):
    """The keyword arguments of run() and Server()."""

    bind: str | Sequence[str]
    host: str | None
    port: int | None
    unix_mode: int
    backlog: int
    interface: str
    root_path: str
    batch_size: int
    batch_wait: float
    deadline: float
    deadline_header: str
    queue_size: int
    queue_full_status: int
    workers: int | str
    processes: bool | None
    threads: int
    max_requests: int
    max_requests_jitter: int
    max_rss: int
    pid_file: str | os.PathLike[str]
    reload: bool
    max_target: int
    max_headers: int
    max_head: int
    max_body: int
    max_body_memory: int
    max_connections: int
    max_keepalive_requests: int
    max_input_memory: int
    keepalive_timeout: float
    head_timeout: float
    body_timeout: float
    write_timeout: float
    queue_timeout: float
    min_rate: int
    graceful_timeout: float
    worker_timeout: float
    server_header: str
    forwarded_allow_ips: str | Sequence[str]
    proxy_protocol: bool
    access_log: AccessLog
    access_log_format: str
    metrics: str


@dataclass(frozen=True, slots=True)
class Option:
    """One line of the table: a field of Options, or a shorthand for ``bind``."""

    name: str
    group: str
    rule: Rule
    description: str
    default: Any

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """Its name in the environment."""
        return ENV_PREFIX + self.name.upper()

    def check(self, value: Any, label: str) -> Any:
        """The value as it is kept; ``label`` names it in the message if it is wrong."""
        try:
            return self.rule.check(value)
        except Refusal as refusal:
            raise _worded(refusal, label) from None
        except Exception as error:
            raise TypeError(f"{label} is not allowed: it raises an error") from error

    def parse(self, text: str, label: str) -> Any:
        """As ``check``, of a value from the command line or the environment."""
        try:
            return self.rule.parse(text)
        except Refusal as refusal:
            raise _worded(refusal, label) from None


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - one of too many digits, or its own
        return f"<{type(value).__name__}>"


def _worded(refusal: Refusal, label: str) -> Exception:
    return refusal.error(f"{label} is not allowed: {refusal}")


OPTIONS = tuple(
    Option(field.name, default=field.default, **field.metadata)
    for field in dataclasses.fields(Options)
)
"""The table."""

HOST = Option(
    "host", BINDING, Host(), "Short for --bind HOST:8000, or with --port.", DEFAULT_HOST
)
PORT = Option(
    "port",
    BINDING,
    Integer(0, MAX_PORT),
    "Short for --bind 127.0.0.1:PORT, or with --host.",
    DEFAULT_PORT,
)
# These are not read from the environment: Kubernetes sets FASTBATCH_PORT to a URL in
# every container that can see a service named "fastbatch".
SHORTHANDS = (HOST, PORT)


def describe_options() -> str:
    """The table as text: name, type and unit, default, and what the client sees."""
    lines = []
    for option in OPTIONS:
        unit = f" ({option.rule.unit})" if option.rule.unit else ""
        kind = "bool" if option.default is None else type(option.default).__name__
        lines += [f"{option.name}: {kind} = {option.default!r}{unit}"]
        lines += [f"    {option.description}", ""]
    return "\n".join(lines)


def _without_shorthands(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """``arguments`` with ``bind`` for ``host`` and ``port``, all names known."""
    names = {option.name for option in OPTIONS + SHORTHANDS}
    for name in arguments:
        if name not in names:
            hint = _did_you_mean(name, names)
            raise TypeError(f"there is no option {name!r}{hint}")
    given = dict(arguments)
    host, port = given.pop("host", None), given.pop("port", None)
    if host is None and port is None:
        return given
    if "bind" in given:
        raise ValueError("bind and host or port were both given: choose one")
    host = DEFAULT_HOST if host is None else HOST.check(host, f"host={_shown(host)}")
    port = DEFAULT_PORT if port is None else PORT.check(port, f"port={_shown(port)}")
    given["bind"] = (f"{format_host(host)}:{port}",)
    return given


def _environment(environ: Mapping[str, str], given: Iterable[str]) -> dict[str, Any]:
    """The options that ``environ`` sets, without those that are ``given`` anyway."""
    values = {}
    for option in OPTIONS:
        text = environ.get(option.variable)
        if text is not None and option.name not in given:
            label = f"{option.variable}={text!r}"
            values[option.name] = option.parse(text, label)
    _warn_of_typos(environ)
    return values


def _warn_of_typos(environ: Mapping[str, str]) -> None:
    """Warn of FASTBATCH_BATCHSIZE; other programs' variables are no concern of ours."""
    variables = {option.variable for option in OPTIONS}
    for name in environ:
        if name.startswith(ENV_PREFIX) and name not in variables:
            hint = _did_you_mean(name, variables)
            if hint:
                log.warning("%s is ignored: it is no option%s", name, hint)


def _did_you_mean(word: str, words: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, sorted(words), n=1, cutoff=0.8)
    return f"; did you mean {close[0]}?" if close else ""


# One description for help(Options), the command line and the documentation.
Options.__doc__ = f"{Options.__doc__}\n\nOptions:\n\n{describe_options()}"
