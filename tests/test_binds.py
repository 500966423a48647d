"""Listening: every form of ``bind``, and what is said when it cannot be had."""

import contextlib
import errno
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helpers
import pytest
from conftest import Serve, Start

import fastbatch
from fastbatch import _sockets
from fastbatch._sockets import BindError, open_listeners, parse_bind


def hello(_request: fastbatch.Request) -> str:
    return "hello"


def ask(address: helpers.Address) -> bytes:
    with helpers.Connection(address) as connection:
        return connection.ask("/", "Connection: close").body


def refusal(bind: str | list[str]) -> BindError:
    """The error of a server that cannot listen, which leaves nothing behind."""
    before = helpers.open_files()
    with pytest.raises(BindError) as caught:
        fastbatch.Server(hello, bind=bind).start()
    assert helpers.open_files() == before
    return caught.value


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Host names of the test: from a name to its addresses."""
    found: dict[str, list[str]] = {}
    resolve = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *more: Any, **options: Any) -> list[Any]:
        addresses = found.get(host, [host])
        return [info for a in addresses for info in resolve(a, port, *more, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return found


needs_ipv6 = pytest.mark.skipif(
    not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6"
)


# ---- TCP --------------------------------------------------------------------------


def test_port_0_is_any_free_one(serve: Serve) -> None:
    first, second = serve(hello), serve(hello)
    assert first.address[0] == second.address[0] == "127.0.0.1"
    assert first.address != second.address
    assert first.url == f"http://127.0.0.1:{first.address[1]}"
    assert ask(first.address) == ask(second.address) == b"hello"


def test_port_can_be_used_again_at_once(serve: Serve) -> None:
    server = serve(hello)
    ask(server.address)  # leaves a connection in TIME_WAIT, on one side or the other
    server.stop()
    again = serve(hello, bind=server.url.removeprefix("http://"))
    assert again.address == server.address


@needs_ipv6
def test_ipv6_address(serve: Serve) -> None:
    server = serve(hello, bind="[::1]:0")
    assert server.address[0] == "::1"
    assert server.url == f"http://[::1]:{server.address[1]}"
    assert ask(server.address) == b"hello"


@needs_ipv6
def test_ipv6_wildcard_leaves_ipv4_alone(serve: Serve) -> None:
    port = serve(hello, bind="[::]:0").address[1]
    serve(lambda _: "v4", bind=f"0.0.0.0:{port}")
    assert ask(("::1", int(port))) == b"hello"
    assert ask(("127.0.0.1", int(port))) == b"v4"


def test_wildcard_url_is_one_that_works(serve: Serve) -> None:
    server = serve(hello, bind="0.0.0.0:0")
    assert server.address[0] == "0.0.0.0"
    assert server.url == f"http://127.0.0.1:{server.address[1]}"


@needs_ipv6
def test_no_host_is_every_address(serve: Serve) -> None:
    server = serve(hello, bind=":0")
    assert [address[0] for address in server.addresses] == ["0.0.0.0", "::"]
    assert len({address[1] for address in server.addresses}) == 1
    assert ask(("127.0.0.1", int(server.address[1]))) == b"hello"
    assert ask(("::1", int(server.address[1]))) == b"hello"


def test_name_is_all_of_its_addresses_with_one_port(
    serve: Serve, names: dict[str, list[str]]
) -> None:
    names["both"] = ["127.0.0.1", "127.0.0.2", "127.0.0.1"]
    server = serve(hello, bind="both:0")
    assert [address[0] for address in server.addresses] == ["127.0.0.1", "127.0.0.2"]
    assert len({address[1] for address in server.addresses}) == 1
    for address in server.addresses:
        assert ask(address) == b"hello"


def test_address_of_a_name_that_is_not_ours_is_left_out(
    serve: Serve, names: dict[str, list[str]]
) -> None:
    names["first"] = ["127.0.0.1", "203.0.113.1"]
    names["last"] = ["203.0.113.1", "127.0.0.1"]
    for name in names:
        server = serve(hello, bind=f"{name}:0")
        assert [address[0] for address in server.addresses] == ["127.0.0.1"]


def test_name_without_any_address_of_ours_is_refused(
    names: dict[str, list[str]],
) -> None:
    names["elsewhere"] = ["203.0.113.1", "203.0.113.2"]
    error = refusal("elsewhere:0")
    assert error.errno == errno.EADDRNOTAVAIL
    assert str(error) == (
        "cannot listen on elsewhere:0: this machine has no such address; choose one"
        " that it has with bind, or :port for all of them"
    )


def test_port_0_of_a_name_tries_until_one_is_free_everywhere(
    serve: Serve, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    names["both"] = ["127.0.0.1", "127.0.0.2"]
    bind = _sockets._tcp_socket
    failures = 3

    def tcp_socket(family: int, address: tuple[Any, ...]) -> socket.socket:
        nonlocal failures
        if address[0] == "127.0.0.2" and failures:
            failures -= 1
            raise OSError(errno.EADDRINUSE, "in use")
        return bind(family, address)

    monkeypatch.setattr(_sockets, "_tcp_socket", tcp_socket)
    before = helpers.open_files()
    server = serve(hello, bind="both:0")
    assert failures == 0
    assert len(server.addresses) == 2
    server.stop()
    assert helpers.open_files() == before
    failures = 1000
    assert "no port is free on all of its addresses" in str(refusal("both:0"))


def test_address_in_use(taken_port: int) -> None:
    error = refusal(f"127.0.0.1:{taken_port}")
    assert error.errno == errno.EADDRINUSE
    assert str(error) == (
        f"cannot listen on 127.0.0.1:{taken_port}: the address is in use; stop the"
        " other program or choose another address with bind"
    )


def test_one_bind_that_fails_closes_the_others(taken_port: int, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    refusal(["127.0.0.1:0", f"unix:{path}", f"127.0.0.1:{taken_port}"])
    assert not path.exists()


def test_server_can_be_started_again_once_the_address_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        server = fastbatch.Server(hello, port=other.getsockname()[1])
        with pytest.raises(BindError):
            server.start()
    with server:
        assert ask(server.address) == b"hello"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 64])
def test_unknown_host(host: str) -> None:
    error = refusal(f"{host}:8000")
    assert str(error).startswith(
        f"cannot listen on {host}:8000: the host name cannot be resolved ("
    )


def test_address_of_another_machine() -> None:
    assert "this machine has no such address" in str(refusal("203.0.113.1:8000"))


@pytest.mark.parametrize(
    ("number", "port", "why"),
    [
        (
            errno.EACCES,
            80,
            "ports below 1024 need root or CAP_NET_BIND_SERVICE; choose",
        ),
        (errno.EACCES, 8000, os.strerror(errno.EACCES)),
        (errno.EAFNOSUPPORT, 80, "does not speak that kind of address"),
        (errno.ENOBUFS, 80, os.strerror(errno.ENOBUFS)),
    ],
)
def test_other_errors_of_bind(
    monkeypatch: pytest.MonkeyPatch, number: int, port: int, why: str
) -> None:
    def fail(_family: int, _address: tuple[Any, ...]) -> socket.socket:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(_sockets, "_tcp_socket", fail)
    error = refusal(f"127.0.0.1:{port}")
    assert error.errno == number
    assert why in str(error)


def test_listening_sockets_are_not_inherited(serve: Serve, tmp_path: Path) -> None:
    before = helpers.open_files()
    serve(hello, bind=["127.0.0.1:0", f"unix:{tmp_path / 'socket'}"])
    for number in helpers.open_files().keys() - before:
        assert not os.get_inheritable(number)


# ---- unix -------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "socket"


def test_unix_socket(serve: Serve, path: Path) -> None:
    server = serve(hello, bind=f"unix:{path}")
    assert server.address == str(path)
    assert server.url == f"unix:{path}"
    assert ask(server.address) == b"hello"
    server.stop()
    assert not path.exists()


@pytest.mark.parametrize("mode", [0o600, 0o666, 0o777])
def test_mode_of_a_unix_socket(serve: Serve, path: Path, mode: int) -> None:
    before = os.umask(0o022)
    try:
        serve(hello, bind=f"unix:{path}", unix_mode=mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_relative_path_is_removed_from_where_it_was_made(
    serve: Serve, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    server = serve(hello, bind=f"unix:{path.name}")
    assert server.address == path.name
    monkeypatch.chdir("/")
    server.stop()
    assert not path.exists()


def test_stale_unix_socket_is_replaced(serve: Serve, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
        killed.listen()
    server = serve(hello, bind=f"unix:{path}")
    assert ask(server.address) == b"hello"


def test_unix_socket_of_a_living_server_is_left_alone(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        error = refusal(f"unix:{path}")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert str(error) == (
        f"cannot listen on unix:{path}: another program listens on it; stop the"
        " other program or choose another path with bind"
    )


def test_unix_socket_with_a_full_backlog_is_left_alone(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other, contextlib.ExitStack() as stack:
        other.bind(str(path))
        other.listen(0)
        while True:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            try:
                client.connect(str(path))
            except BlockingIOError:
                break
        assert "another program listens on it" in str(refusal(f"unix:{path}"))
    assert path.exists()


@pytest.mark.parametrize("kind", ["file", "directory", "dangling link"])
def test_what_is_no_socket_is_left_alone(path: Path, kind: str) -> None:
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    assert "the file exists and is not a socket" in str(refusal(f"unix:{path}"))
    assert path.lstat()


def test_directory_that_is_missing(path: Path) -> None:
    assert str(refusal(f"unix:{path}/socket")) == (
        f"cannot listen on unix:{path}/socket: there is no directory {path}; make it or"
        " choose another path with bind"
    )


def test_directory_that_is_a_file(path: Path) -> None:
    path.write_text("")
    assert f"{path} is not a directory" in str(refusal(f"unix:{path}/socket"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_directory_that_is_not_ours(path: Path) -> None:
    path.mkdir(mode=0o500)
    assert f"may not make files in {path}" in str(refusal(f"unix:{path}/socket"))


def test_unix_socket_that_is_not_ours_any_more_is_left(
    serve: Serve, path: Path
) -> None:
    server = serve(hello, bind=f"unix:{path}")
    path.unlink()
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(path))
        successor.listen()
        server.stop()
        assert path.exists()


def test_unix_socket_that_is_gone_is_no_error(serve: Serve, path: Path) -> None:
    server = serve(hello, bind=f"unix:{path}")
    path.unlink()
    server.stop()


def test_unix_socket_with_our_inode_but_another_listener_is_left(path: Path) -> None:
    """An inode number may be used again at once, by the server that comes after us."""
    [ours] = open_listeners([parse_bind(f"unix:{path}")], 1, 0o600)
    ours.socket.close()
    path.unlink()
    with socket.socket(socket.AF_UNIX) as successor:
        successor.bind(str(path))
        successor.listen()
        status = path.lstat()
        file = _sockets.SocketFile(path, status.st_dev, status.st_ino)
        file.remove()
        assert path.exists()
    file.remove()
    assert not path.exists()


# ---- inherited --------------------------------------------------------------------


def test_inherited_socket(serve: Serve) -> None:
    with socket.create_server(("127.0.0.1", 0)) as parent:
        server = serve(hello, bind=f"fd:{parent.fileno()}")
        assert server.address == parent.getsockname()
        assert ask(server.address) == b"hello"
        server.stop()
        # It is the parent's still: another server may have it next.
        again = serve(hello, bind=f"fd:{parent.fileno()}")
        assert ask(again.address) == b"hello"


def test_inherited_socket_that_does_not_listen_yet(serve: Serve) -> None:
    with socket.socket() as parent:
        parent.bind(("127.0.0.1", 0))
        server = serve(hello, bind=f"fd:{parent.fileno()}")
        assert ask(server.address) == b"hello"


def test_inherited_unix_socket_is_not_removed(serve: Serve, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as parent:
        parent.bind(str(path))
        server = serve(hello, bind=f"fd:{parent.fileno()}")
        assert server.address == str(path)
        assert ask(str(path)) == b"hello"
        server.stop()
    assert path.exists()


def test_inherited_abstract_socket(serve: Serve) -> None:
    with socket.socket(socket.AF_UNIX) as parent:
        parent.bind("")  # Linux chooses an abstract name
        server = serve(hello, bind=f"fd:{parent.fileno()}")
        assert server.url.startswith("unix:@")


def test_descriptor_that_is_closed() -> None:
    error = refusal("fd:999999")
    assert error.errno == errno.EBADF
    assert str(error) == (
        "cannot listen on fd:999999: descriptor 999999 is not open; the program that"
        " starts this one must pass it a listening stream socket"
    )


def test_descriptor_that_is_a_file(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        assert "is not a socket" in str(refusal(f"fd:{file.fileno()}"))


def test_descriptor_that_is_a_datagram_socket() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        assert "is not a stream socket" in str(refusal(f"fd:{sock.fileno()}"))


def test_descriptor_that_is_a_connection() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert "is a connection" in str(refusal(f"fd:{one.fileno()}"))


# ---- systemd ----------------------------------------------------------------------

# As the service manager does it: fork, move the sockets to 3 and on, set the two
# variables, exec.
ACTIVATE = """
import os, socket, sys
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
copies = [os.dup(s.fileno()) for s in sockets]  # out of the way of 3 and 4
spare = [os.dup(c) for c in copies]
for number, one in enumerate(spare):
    os.dup2(one, 3 + number, inheritable=True)
os.environ["LISTEN_PID"] = str(os.getpid())
os.environ["LISTEN_FDS"] = "2"
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""

SERVE = """
import os
import fastbatch
def handler(request):
    return "inheritable" if os.get_inheritable(3) else "closed on exec"
fastbatch.run(handler, bind="systemd")
"""


def test_systemd_sockets(start: Start, tmp_path: Path) -> None:
    (tmp_path / "activate.py").write_text(ACTIVATE)
    (tmp_path / "serve.py").write_text(SERVE)
    program = start("activate.py", "serve.py")
    program.wait_for("(?s)listening.*listening")
    for line in program.errors.splitlines():
        host, port = line.rpartition("http://")[2].split(":")
        assert ask((host, int(port))) == b"closed on exec"
    program.signal()
    assert program.wait() == 0


@pytest.mark.parametrize(
    ("pid", "count", "why"),
    [
        (None, None, "LISTEN_PID and LISTEN_FDS are not set"),
        ("", "1", "LISTEN_PID and LISTEN_FDS are not set"),
        ("1", "1", "LISTEN_PID is 1, but this is process "),
        ("ours", "0", "LISTEN_FDS is '0', not a number of sockets"),
        ("ours", "x", "LISTEN_FDS is 'x', not a number of sockets"),
    ],
)
def test_systemd_without_sockets(
    monkeypatch: pytest.MonkeyPatch, pid: str | None, count: str | None, why: str
) -> None:
    for name, value in (("LISTEN_PID", pid), ("LISTEN_FDS", count)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value.replace("ours", str(os.getpid())))
    error = str(refusal("systemd"))
    start = "cannot listen on systemd: no sockets were passed to this process: "
    assert error.startswith(start + why)


# ---- several ----------------------------------------------------------------------


def test_several_binds_of_all_kinds(serve: Serve, path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as parent:
        server = serve(
            hello, bind=["127.0.0.1:0", f"unix:{path}", f"fd:{parent.fileno()}"]
        )
        assert len(server.addresses) == 3
        answers: list[bytes] = []
        threads = [
            threading.Thread(target=lambda a=address: answers.append(ask(a)))
            for address in server.addresses
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert answers == [b"hello"] * 3
        assert server.stats()["connections"] == 3
