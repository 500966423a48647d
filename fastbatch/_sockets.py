"""Where a server listens: what the option ``bind`` may say, and the sockets for it.

Everything that can go wrong with an address is found and put into words here, in the
thread that starts the server; the C extension is handed sockets that listen already.
Nothing here accepts, reads or writes.

However many workers there are, they share one socket for each address, and a roster:
memory in which each keeps how many connections it has, so that those which have more
than others let these accept first. A socket for each worker, with SO_REUSEPORT, was
measured (``python -m bench listeners``) and is not used: the kernel deals connections
out by chance and for good, so that of two workers with three clients one has none every
fourth time; who waits for a worker that is busy, or has died, waits though others are
idle; unix sockets have no such thing; and a second program could take the port, too.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import mmap
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fastbatch import _core

BIND_FORMS = "host:port, [ipv6]:port, :port, unix:path, fd:number or systemd"
MAX_PORT = 65535

_UNIX_PATH_BYTES = 107  # sockaddr_un.sun_path holds 108, with the NUL

# An address of a name or of ":port" that this machine does not have is left out, so
# that "localhost" works where IPv6 is switched off.
_UNAVAILABLE = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})

# How often another port is tried when port 0 of a name got one that is taken on the
# next of its addresses.
_PORT_ATTEMPTS = 16

# sd_listen_fds(3): the sockets that systemd passes start at this descriptor.
_SYSTEMD_FIRST_FD = 3

TcpAddress = tuple[str, int]


class BindError(OSError):
    """A listening socket cannot be had; ``str()`` is one sentence that says why.

    ``errno`` is the system's number, so ``except OSError`` and a look at it work.
    """

    option = "bind"  # that asked for it

    def __init__(self, number: int, where: str, why: str, advice: str = "") -> None:
        super().__init__(number, why)
        self.where = where  # the bind, as the user wrote it
        self.why = why
        self.advice = advice  # what to do; {bind} stands for the option's name

    def sentence(self, option: str) -> str:
        """The message, with the option called ``option``: ``bind`` or ``--bind``."""
        text = f"cannot listen on {self.where}: {self.why}"
        if self.advice:
            text += "; " + self.advice.format(bind=option)
        return text

    def __str__(self) -> str:
        return self.sentence(self.option)


@dataclass(frozen=True, slots=True)
class SocketFile:
    """The file of a unix socket that this process made."""

    path: Path  # absolute: the handler may change the working directory
    device: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> SocketFile:
        """The socket file that was just bound at ``path``."""
        path = path.absolute()
        status = path.lstat()
        return cls(path, status.st_dev, status.st_ino)

    def remove(self) -> None:
        """Remove the file if it is still the one that this process made.

        Call it when the socket is closed. An inode number can be used again for the
        socket of another server, so one that somebody listens on is left alone too.
        """
        with contextlib.suppress(OSError):
            status = self.path.lstat()
            is_ours = (status.st_dev, status.st_ino) == (self.device, self.inode)
            if is_ours and not _is_listening(self.path):
                self.path.unlink()


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that listens, with its names: they are gone once it is detached."""

    socket: socket.socket
    address: TcpAddress | str  # (host, port), or the path of a unix socket
    file: SocketFile | None = None
    roster: mmap.mmap | None = None  # of all that accept from copies of the socket

    @property
    def url(self) -> str:
        """The address as a user would type it."""
        if isinstance(self.address, str):
            return f"unix:{self.address}"
        return f"http://{format_host(self.address[0])}:{self.address[1]}"

    def close(self) -> None:
        """Close the socket, unless it was detached, and remove its file."""
        self.socket.close()
        if self.file is not None:
            self.file.remove()


@dataclass(frozen=True, slots=True)
class TcpBind:
    """``host:port``; an empty host is every address of this machine."""

    text: str
    host: str
    port: int

    def open(self, backlog: int, _unix_mode: int) -> list[Listener]:
        addresses = self._addresses()
        for _ in range(_PORT_ATTEMPTS):
            with contextlib.suppress(_PortTakenError):
                return self._listen(addresses, backlog)
        raise BindError(
            errno.EADDRINUSE, self.text, "no port is free on all of its addresses"
        )

    def _addresses(self) -> list[tuple[int, TcpAddress]]:
        """The (family, address) pairs of the name, each once, as the resolver has them.

        Raises:
            BindError: it has none.
        """
        try:
            found = socket.getaddrinfo(
                self.host or None,
                self.port,
                type=socket.SOCK_STREAM,
                flags=socket.AI_PASSIVE,
            )
        except (OSError, UnicodeError) as error:
            detail = error.strerror if isinstance(error, OSError) else str(error)
            raise BindError(
                errno.EADDRNOTAVAIL,
                self.text,
                f"the host name cannot be resolved ({detail})",
                "use an IP address, or choose another host with {bind}",
            ) from error
        pairs = {(info[0], info[4]): None for info in found}
        return [(family, address) for family, address in pairs]  # type: ignore[misc]

    def _listen(
        self, addresses: list[tuple[int, TcpAddress]], backlog: int
    ) -> list[Listener]:
        """Listen on every address that this machine has, all with the same port.

        Raises:
            _PortTakenError: the system's choice for port 0 is in use on another one.
        """
        port = self.port
        with _closed_on_error() as listeners:
            for number, (family, address) in enumerate(addresses):
                is_last_hope = not listeners and number == len(addresses) - 1
                try:
                    sock = _tcp_socket(family, (address[0], port, *address[2:]))
                    listeners.append(_listen_on(sock, backlog))
                except OSError as error:
                    if error.errno in _UNAVAILABLE and not is_last_hope:
                        continue
                    if error.errno == errno.EADDRINUSE and port != self.port:
                        raise _PortTakenError from error
                    raise self._error(error) from error
                port = listeners[0].socket.getsockname()[1]
        return listeners

    def _error(self, error: OSError) -> BindError:
        number = error.errno or 0
        advice = "choose another address with {bind}"
        if number == errno.EADDRINUSE:
            why = "the address is in use"
            advice = "stop the other program or " + advice
        elif number in {errno.EACCES, errno.EPERM} and 0 < self.port < 1024:
            why = "ports below 1024 need root or CAP_NET_BIND_SERVICE"
            advice = "choose a higher port with {bind}"
        elif number == errno.EADDRNOTAVAIL:
            why = "this machine has no such address"
            advice = "choose one that it has with {bind}, or :port for all of them"
        elif number == errno.EAFNOSUPPORT:
            why = "this machine does not speak that kind of address"
        else:
            why = error.strerror or str(error)
            advice = ""
        return BindError(number, self.text, why, advice)


@dataclass(frozen=True, slots=True)
class UnixBind:
    """``unix:path``."""

    text: str
    path: Path

    def open(self, backlog: int, unix_mode: int) -> list[Listener]:
        file: SocketFile | None = None
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._bind(sock)
            file = SocketFile.of(self.path)
            # Before listen(): until then nobody can connect, so the mode that the
            # umask gave opens the door to no one.
            self.path.chmod(unix_mode)
            sock.listen(backlog)
        except BaseException as error:
            sock.close()
            if file is not None:
                file.remove()
            if isinstance(error, OSError) and not isinstance(error, BindError):
                raise self._error(error) from error
            raise
        return [Listener(sock, str(self.path), file)]

    def _bind(self, sock: socket.socket) -> None:
        try:
            sock.bind(str(self.path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            self._remove_stale()
            sock.bind(str(self.path))

    def _remove_stale(self) -> None:
        """Remove the socket that a server left behind which was killed.

        Raises:
            BindError: the file is something else, or somebody listens on it.
        """
        found = self.path.lstat()
        if not stat.S_ISSOCK(found.st_mode):
            raise BindError(
                errno.EADDRINUSE,
                self.text,
                "the file exists and is not a socket",
                "remove it or choose another path with {bind}",
            )
        if _is_listening(self.path):
            raise BindError(
                errno.EADDRINUSE,
                self.text,
                "another program listens on it",
                "stop the other program or choose another path with {bind}",
            )
        # Looked at again, so that the socket of a server which started meanwhile and
        # removed the same stale file is not taken for it.
        now = self.path.lstat()
        if (now.st_dev, now.st_ino) == (found.st_dev, found.st_ino):
            self.path.unlink()

    def _error(self, error: OSError) -> BindError:
        number = error.errno or 0
        folder = self.path.parent
        advice = "choose another path with {bind}"
        if number == errno.ENOENT:
            why = f"there is no directory {folder}"
            advice = "make it or " + advice
        elif number == errno.ENOTDIR:
            why = f"{folder} is not a directory"
        elif number in {errno.EACCES, errno.EPERM}:
            why = f"this user may not make files in {folder}"
        elif number == errno.EADDRINUSE:
            why = "another program has just taken it"
        else:
            why = error.strerror or str(error)
        return BindError(number, self.text, why, advice)


@dataclass(frozen=True, slots=True)
class FdBind:
    """``fd:N``: a socket that the parent process opened."""

    text: str
    number: int

    def open(self, backlog: int, _unix_mode: int) -> list[Listener]:
        return [_inherited(self.text, self.number, backlog)]


@dataclass(frozen=True, slots=True)
class SystemdBind:
    """``systemd``: every socket that the service manager passed, sd_listen_fds(3)."""

    text: str = "systemd"

    def open(self, backlog: int, _unix_mode: int) -> list[Listener]:
        with _closed_on_error() as listeners:
            for number in self._numbers():
                listeners.append(_inherited(f"systemd (fd {number})", number, backlog))
                # As sd_listen_fds does: a child of the handler has no use for it.
                os.set_inheritable(number, False)
        return listeners

    def _numbers(self) -> range:
        pid = os.environ.get("LISTEN_PID", "")
        count = os.environ.get("LISTEN_FDS", "")
        if not pid or not count:
            raise self._error("LISTEN_PID and LISTEN_FDS are not set")
        if pid != str(os.getpid()):
            raise self._error(
                f"LISTEN_PID is {pid}, but this is process {os.getpid()}"
                " (is there a shell in between?)"
            )
        if not count.isdecimal() or int(count) == 0:
            raise self._error(f"LISTEN_FDS is {count!r}, not a number of sockets")
        return range(_SYSTEMD_FIRST_FD, _SYSTEMD_FIRST_FD + int(count))

    def _error(self, why: str) -> BindError:
        return BindError(
            errno.EBADF,
            self.text,
            f"no sockets were passed to this process: {why}",
            "start it from a .service with a .socket unit or choose an address"
            " with {bind}",
        )


Bind = TcpBind | UnixBind | FdBind | SystemdBind


def parse_bind(text: str) -> Bind:
    """What ``text`` says, without looking whether there is such an address.

    Raises:
        ValueError: it says nothing; the message starts with "it" or "its".
    """
    if text == "systemd":
        return SystemdBind()
    kind, colon, rest = text.partition(":")
    if colon and kind == "unix":
        return UnixBind(text, _unix_path(rest))
    if colon and kind == "fd":
        if not (rest.isascii() and rest.isdecimal() and len(rest) < 10):
            raise ValueError("it must be fd:number, the number of an open socket")
        return FdBind(text, int(rest))
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError(f"it must be {BIND_FORMS}")
    return TcpBind(text, _host(host), _port(port))


def open_listeners(
    binds: Sequence[Bind], backlog: int, unix_mode: int
) -> list[Listener]:
    """Listen on all of ``binds``, or on none.

    Any number of workers, threads or forked processes, may be given copies of all the
    sockets, now and later on, and the listeners' roster, which is one and the same. It
    asks for no more: who ends or is killed gives its place up to the next one, and what
    waits in a socket's queue waits as long as somebody has a copy of it.

    Raises:
        BindError: one of them cannot be had; nothing stays open.
    """
    with _closed_on_error() as listeners:
        for bind in binds:
            listeners += bind.open(backlog, unix_mode)
        roster = mmap.mmap(-1, _core.ROSTER_BYTES)  # shared with children
    return [replace(each, roster=roster) for each in listeners]


def format_host(host: str) -> str:
    """``host`` as it stands before a port: an IPv6 address has brackets there."""
    return f"[{host}]" if ":" in host else host


class _PortTakenError(Exception):
    """The port chosen for one address of a name is in use on another."""


@contextlib.contextmanager
def _closed_on_error() -> Iterator[list[Listener]]:
    """A list to collect listeners in, all of which are closed if the block fails."""
    listeners: list[Listener] = []
    try:
        yield listeners
    except BaseException:
        for listener in listeners:
            listener.close()
        raise


def _tcp_socket(family: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Otherwise [::] takes the port of every IPv4 address as well, on some
            # systems, and "0.0.0.0" next to it fails.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _listen_on(sock: socket.socket, backlog: int) -> Listener:
    """Let ``sock`` listen. Takes it: it is closed if that fails."""
    try:
        sock.listen(backlog)
        return Listener(sock, _address_of(sock))
    except BaseException:
        sock.close()
        raise


def _address_of(sock: socket.socket) -> TcpAddress | str:
    name = sock.getsockname()
    if sock.family != socket.AF_UNIX:
        return name[0], name[1]
    # An abstract name starts with a NUL and is written with an @, as ss(8) does.
    return os.fsdecode(name).replace("\0", "@", 1)


def _inherited(text: str, number: int, backlog: int) -> Listener:
    """A listener on a copy of descriptor ``number``, which stays open as it is."""

    def refuse(code: int, why: str) -> BindError:
        return BindError(
            code,
            text,
            why,
            "the program that starts this one must pass it a listening stream socket",
        )

    try:
        is_socket = stat.S_ISSOCK(os.fstat(number).st_mode)
    except OSError as error:
        raise refuse(errno.EBADF, f"descriptor {number} is not open") from error
    if not is_socket:
        raise refuse(errno.ENOTSOCK, f"descriptor {number} is not a socket")
    sock = socket.socket(fileno=os.dup(number))
    families = {socket.AF_INET, socket.AF_INET6, socket.AF_UNIX}
    if sock.type != socket.SOCK_STREAM or sock.family not in families:
        sock.close()
        raise refuse(errno.ENOTSUP, f"descriptor {number} is not a stream socket")
    if _is_connected(sock):
        sock.close()
        raise refuse(errno.EINVAL, f"descriptor {number} is a connection")
    try:
        return _listen_on(sock, backlog)
    except OSError as error:
        raise refuse(error.errno or 0, error.strerror or str(error)) from error


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _is_listening(path: Path) -> bool:
    """Whether somebody may be listening on the unix socket at ``path``.

    Only a refused connection proves that nobody is: a full backlog, a missing
    permission and a datagram socket all belong to a living owner.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
    return True


def _unix_path(path: str) -> Path:
    if not path or "\0" in path:
        raise ValueError("it must be unix:path, the path of a socket to make")
    try:
        size = len(os.fsencode(path))
    except UnicodeEncodeError:
        raise ValueError(
            "it must be unix:path, a path that the system can have"
        ) from None
    if size > _UNIX_PATH_BYTES:
        raise ValueError(
            f"its path is {size} bytes long, and the system allows {_UNIX_PATH_BYTES}"
        )
    return Path(path)


def _host(host: str) -> str:
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1]))
        except ValueError:
            raise ValueError(f"its host {host} is no IPv6 address") from None
    if "/" in host or any(c.isspace() or not c.isprintable() for c in host):
        raise ValueError(f"its host must be a name or an IP address, not {host!r}")
    if ":" in host or "[" in host or "]" in host:
        raise ValueError("its host, an IPv6 address, needs brackets: [::1]:8000")
    return host


def _port(port: str) -> int:
    if port.isascii() and port.isdecimal() and len(port) < 10:
        number = int(port)
        if number <= MAX_PORT:
            return number
    raise ValueError(f"its port must be an integer from 0 to {MAX_PORT}")
