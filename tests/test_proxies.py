"""Behind proxies: whom the server believes what they say of their clients."""

import contextlib
import json
import socket
import struct
import threading
import wsgiref.util
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gates
import helpers
import pytest
from conftest import Serve
from helpers import Connection, get, parse_replies, split_ways, talk
from wsgi_helpers import replies

import fastbatch
from fastbatch import _core

LOCAL = "127.0.0.0/8"
ELSEWHERE = "192.0.2.0/24, 2001:db8::/32, unix"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
SHORT = 0.3  # seconds: a time-out that is to be seen

# Who asks, as a handler is told: host, port, scheme.
Who = tuple[str | None, int | None, str]

needs_ipv6 = pytest.mark.skipif(
    not Path("/proc/net/if_inet6").exists(), reason="this machine has no IPv6"
)
pause = threading.Event().wait


def who(request: fastbatch.Request) -> str:
    host, port = request.client or (None, None)
    return json.dumps([host, port, request.scheme])


@replies
def who_wsgi(environ: dict[str, Any]) -> list[bytes]:
    port = environ.get("REMOTE_PORT", "0") if environ["REMOTE_ADDR"] else None
    told = [
        environ["REMOTE_ADDR"] or None,
        int(port) if port is not None else None,
        environ["wsgi.url_scheme"],
    ]
    return [json.dumps(told).encode()]


HANDLERS = {"request": who, "wsgi": who_wsgi}
either = pytest.mark.parametrize("interface", HANDLERS)


def said(reply: helpers.Reply) -> Who:
    assert reply.status == 200
    host, port, scheme = json.loads(reply.body)
    return host, port, scheme


def peer(connection: Connection, scheme: str = "http") -> Who:
    """The client's end of ``connection`` itself."""
    host, port = connection.socket.getsockname()[:2]
    return host, port, scheme


def forwarded(*values: str) -> list[str]:
    return [f"X-Forwarded-For: {value}" for value in values]


def is_closed_without_a_reply(connection: Connection) -> bool:
    """Wait for the close, which resets the connection if something was not read."""
    with contextlib.suppress(ConnectionResetError):
        return connection.rest() == b""
    return connection.received == b""


# ---- X-Forwarded-*: whose, row 26 of the pitfalls ------------------------------------


HOSTILE = [
    ["X-Forwarded-For: 198.51.100.1"],
    ["X-Forwarded-Proto: https"],
    ["X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: https"],
    ["X-Forwarded-For: no address", "X-Forwarded-Proto: gopher, https"],
    ["X_Forwarded_For: 198.51.100.1", "X_Forwarded_Proto: https"],
    ["Forwarded: for=198.51.100.1;proto=https"],
]


@either
@pytest.mark.parametrize("fields", HOSTILE)
@pytest.mark.parametrize("trusted", ["", ELSEWHERE])
def test_forwarded_fields_of_an_untrusted_peer_are_ignored(
    serve: Serve, interface: str, fields: list[str], trusted: str
) -> None:
    server = serve(HANDLERS[interface], forwarded_allow_ips=trusted)
    with Connection(server) as connection:
        for _ in range(2):
            assert said(connection.ask("/", *fields)) == peer(connection)


def test_fields_stay_what_they_are_whoever_sent_them(serve: Serve) -> None:
    def show(request: fastbatch.Request) -> str:
        return request.headers["x-forwarded-for"] + request.headers["x-forwarded-proto"]

    fields = ["X-Forwarded-For: 198.51.100.1, ::1", "X-Forwarded-Proto: https"]
    for trusted in ("", LOCAL):
        with Connection(serve(show, forwarded_allow_ips=trusted)) as connection:
            assert connection.ask("/", *fields).body == b"198.51.100.1, ::1https"


@either
@pytest.mark.parametrize(
    "trusted", [LOCAL, "127.0.0.1", "*", f"{ELSEWHERE}, 127.0.0.1"]
)
def test_forwarded_fields_of_a_trusted_peer_are_believed(
    serve: Serve, interface: str, trusted: str
) -> None:
    server = serve(HANDLERS[interface], forwarded_allow_ips=trusted)
    proto = "X-Forwarded-Proto: HTTPS"
    with Connection(server) as connection:
        assert said(connection.ask()) == peer(connection)
        assert said(connection.ask("/", proto)) == peer(connection, "https")
        assert said(connection.ask("/", *forwarded("198.51.100.1"), proto)) == (
            "198.51.100.1",
            0,
            "https",
        )
        # Nothing of it is left over for the next request.
        assert said(connection.ask()) == peer(connection)


CHAINS: dict[str, tuple[list[str], str, int]] = {
    "with a port": (["198.51.100.1:4711"], "198.51.100.1", 4711),
    "IPv6": (["2001:db8::1"], "2001:db8::1", 0),
    "IPv6 in brackets": (["[2001:db8::1]:65535"], "2001:db8::1", 65535),
    "made up by the client": (["10.9.9.9, junk, 198.51.100.1"], "198.51.100.1", 0),
    "through two proxies": (["198.51.100.1, 127.0.0.9"], "198.51.100.1", 0),
    "of the proxies' own": (["127.0.0.8, 127.0.0.9"], "127.0.0.8", 0),
    "in several fields": (["junk", "198.51.100.1", "127.0.0.9"], "198.51.100.1", 0),
    "with empty elements": ([",198.51.100.1 , ,", ""], "198.51.100.1", 0),
}


@either
@pytest.mark.parametrize("name", CHAINS)
def test_client_is_the_first_untrusted_address_from_the_right(
    serve: Serve, interface: str, name: str
) -> None:
    values, host, port = CHAINS[name]
    server = serve(HANDLERS[interface], forwarded_allow_ips=LOCAL)
    with Connection(server) as connection:
        reply = connection.ask("/", *forwarded(*values))
        assert said(reply) == (host, port, "http")


MALFORMED = [
    forwarded("unknown"),
    forwarded("_secret"),
    forwarded("198.51.100.1:"),
    forwarded("198.51.100.1:65536"),
    forwarded("198.51.100"),
    forwarded("[198.51.100.1]"),
    forwarded("[::1"),
    forwarded("fe80::1%eth0"),
    forwarded("junk, 127.0.0.1"),
    forwarded("junk", "127.0.0.1"),
    ["X-Forwarded-Proto:"],
    ["X-Forwarded-Proto: ws"],
    ["X-Forwarded-Proto: https, http"],
    ["X-Forwarded-Proto: https", "X-Forwarded-Proto: https"],
]


@pytest.mark.parametrize("fields", MALFORMED)
@pytest.mark.parametrize("way", ["whole", "bytewise", "trailing"])
def test_malformed_fields_of_a_trusted_peer_are_400(
    serve: Serve, fields: list[str], way: str
) -> None:
    asked = []

    def ask(request: fastbatch.Request) -> str:
        asked.append(request.path)
        return "answered"

    server = serve(ask, forwarded_allow_ips=LOCAL)
    data = get("/before") + get("/bad", *fields)
    received = parse_replies(talk(server, split_ways(data)[way]))
    assert [reply.status for reply in received] == [200, 400]
    assert received[-1].headers["Connection"] == "close"
    assert asked == ["/before"]
    assert server.stats()["rejected"] == 1


@either
def test_pipelined_requests_have_each_its_own_client(
    serve: Serve, interface: str
) -> None:
    server = serve(HANDLERS[interface], forwarded_allow_ips=LOCAL)
    fields = [
        [],
        [*forwarded("198.51.100.1:1"), "X-Forwarded-Proto: https"],
        forwarded("2001:db8::2"),
        ["X-Forwarded-Proto: https"],
        [],
    ]
    with Connection(server) as connection:
        connection.send(b"".join(get("/", *each) for each in fields))
        assert [said(connection.reply()) for _ in fields] == [
            peer(connection),
            ("198.51.100.1", 1, "https"),
            ("2001:db8::2", 0, "http"),
            peer(connection, "https"),
            peer(connection),
        ]


@either
def test_many_clients_of_one_proxy_are_told_apart(serve: Serve, interface: str) -> None:
    server = serve(HANDLERS[interface], forwarded_allow_ips=LOCAL)
    hosts = [f"198.{n % 7}.{n // 256}.{n % 256}" for n in range(2000)] * 2
    data = b"".join(get("/", *forwarded(host)) for host in hosts)
    received = parse_replies(talk(server, data, replies=len(hosts)))
    assert [said(reply)[0] for reply in received] == hosts


def test_request_that_was_kept_knows_its_client(serve: Serve) -> None:
    kept: list[fastbatch.Request] = []

    def keep(request: fastbatch.Request) -> str:
        kept.append(request)
        return "kept"

    fields = [*forwarded("198.51.100.1:99"), "X-Forwarded-Proto: https"]
    with Connection(serve(keep, forwarded_allow_ips=LOCAL)) as connection:
        connection.ask("/", *fields)
        connection.ask("/")
        connection.ask("/")
    assert kept[0].client == ("198.51.100.1", 99)
    assert [request.scheme for request in kept] == ["https", "http", "http"]
    assert kept[1].client == kept[2].client != kept[0].client


def test_application_makes_urls_of_the_scheme(serve: Serve) -> None:
    @replies
    def url(environ: dict[str, Any]) -> list[bytes]:
        return [wsgiref.util.request_uri(environ).encode()]

    with Connection(serve(url, forwarded_allow_ips=LOCAL)) as connection:
        reply = connection.ask("/a?b", "X-Forwarded-Proto: https")
        assert reply.body == b"https://test/a?b"


def test_port_that_is_not_known_is_left_out_of_environ(serve: Serve) -> None:
    @replies
    def keys(environ: dict[str, Any]) -> list[bytes]:
        return [str(environ.get("REMOTE_PORT")).encode()]

    with Connection(serve(keys, forwarded_allow_ips=LOCAL)) as connection:
        assert connection.ask("/", *forwarded("::2")).body == b"None"
        assert connection.ask("/", *forwarded("[::2]:80")).body == b"80"
        assert connection.ask("/", *forwarded("::2")).body == b"None"


# ---- peers of other kinds ------------------------------------------------------------


@either
def test_unix_peers_are_trusted_by_name(
    serve: Serve, tmp_path: Path, interface: str
) -> None:
    for trusted, expected in [
        ("unix", ("198.51.100.1", 0, "https")),
        ("*", ("198.51.100.1", 0, "https")),
        (f"{LOCAL}, 0.0.0.0/0, ::/0", (None, None, "http")),
    ]:
        server = serve(
            HANDLERS[interface],
            bind=f"unix:{tmp_path}/{trusted[:1]}",
            forwarded_allow_ips=trusted,
        )
        fields = [*forwarded("198.51.100.1"), "X-Forwarded-Proto: https"]
        with Connection(server) as connection:
            assert said(connection.ask()) == (None, None, "http")
            assert said(connection.ask("/", *fields)) == expected


@needs_ipv6
def test_ipv6_peers_are_trusted_by_their_networks(serve: Serve) -> None:
    for trusted, host in [
        ("::1", "198.51.100.1"),
        ("::/127", "198.51.100.1"),
        (LOCAL, "::1"),
    ]:
        server = serve(who, bind="[::1]:0", forwarded_allow_ips=trusted)
        with Connection(server) as connection:
            reply = connection.ask("/", *forwarded("198.51.100.1"))
            assert said(reply)[0] == host


@needs_ipv6
def test_ipv4_peer_of_an_ipv6_socket_is_in_ipv4_networks(serve: Serve) -> None:
    listener = socket.socket(socket.AF_INET6)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", 0))
    port = listener.getsockname()[1]
    serve(who, bind=f"fd:{listener.detach()}", forwarded_allow_ips=LOCAL)
    with Connection(("127.0.0.1", port)) as connection:
        host, port, _ = peer(connection)
        assert said(connection.ask()) == (f"::ffff:{host}", port, "http")
        assert said(connection.ask("/", *forwarded("198.51.100.1"))) == (
            "198.51.100.1",
            0,
            "http",
        )


# ---- the PROXY protocol --------------------------------------------------------------


def v1(text: str) -> bytes:
    return f"PROXY {text}\r\n".encode()


def v2(
    kind: int, block: bytes, command: int = 0x21, length: int | None = None
) -> bytes:
    length = len(block) if length is None else length
    return SIGNATURE + struct.pack("!BBH", command, kind, length) + block


def ends(host: str, port: int) -> bytes:
    """The addresses and ports of version 2: of a client, and of some server."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    address = socket.inet_pton(family, host)
    return address * 2 + struct.pack("!HH", port, 443)


NO_TLS = b"\x20\0\x05\0\0\0\0\0"
TLS = b"\x20\0\x0d\x01\0\0\0\0" + b"\x21\0\x05TLSv1"
TLVS = b"\x01\0\x02h2" + b"\x04\0\0" + NO_TLS + b"\xee\x03\xe8" + bytes(1000)

CLIENTS: dict[str, tuple[bytes, str, int]] = {
    "v1 TCP4": (v1("TCP4 198.51.100.1 192.0.2.1 56324 443"), "198.51.100.1", 56324),
    "v1 TCP6": (v1("TCP6 2001:db8::1 ::1 1 65535"), "2001:db8::1", 1),
    "v1 port 0": (v1("TCP4 198.51.100.1 192.0.2.1 0 0"), "198.51.100.1", 0),
    "v2 INET": (v2(0x11, ends("198.51.100.1", 56324)), "198.51.100.1", 56324),
    "v2 INET6": (v2(0x21, ends("2001:db8::1", 7)), "2001:db8::1", 7),
    "v2 DGRAM": (v2(0x12, ends("198.51.100.1", 9)), "198.51.100.1", 9),
    "v2 TLVs": (v2(0x11, ends("198.51.100.1", 9) + TLVS), "198.51.100.1", 9),
    "v2 INET6 TLVs": (v2(0x21, ends("2001:db8::1", 7) + TLVS), "2001:db8::1", 7),
}

NOBODY = {
    "v1 UNKNOWN": v1("UNKNOWN"),
    "v1 UNKNOWN and more": v1("UNKNOWN 198.51.100.1 192.0.2.1 56324 443"),
    "v2 LOCAL": v2(0, b"", command=0x20),
    "v2 LOCAL with a block": v2(0x11, ends("198.51.100.1", 9), command=0x20),
    "v2 UNSPEC": v2(0, b""),
    "v2 UNSPEC with a block": v2(0, b"\xff" * 9),
    "v2 INET, not of TCP": v2(0x10, ends("198.51.100.1", 9)),
}

Behind = Callable[..., fastbatch.Server]


@pytest.fixture
def behind(serve: Serve) -> Behind:
    """A function that starts servers which speak the PROXY protocol to this machine."""

    def start(handler: Callable[..., Any] = who, **options: Any) -> fastbatch.Server:
        options = {"forwarded_allow_ips": f"{LOCAL}, ::1, unix"} | options
        return serve(handler, proxy_protocol=True, **options)

    return start


@either
@pytest.mark.parametrize("way", ["whole", "bytewise", "trailing"])
@pytest.mark.parametrize("name", CLIENTS)
def test_client_is_who_the_proxy_header_says(
    behind: Behind, interface: str, name: str, way: str
) -> None:
    header, host, port = CLIENTS[name]
    data = split_ways(header + get())[way]
    n = 2 if way == "trailing" else 1
    received = parse_replies(talk(behind(HANDLERS[interface]), data, replies=n))
    assert [said(reply) for reply in received] == [(host, port, "http")] * n


@pytest.mark.parametrize("way", ["whole", "bytewise", "trailing"])
@pytest.mark.parametrize("name", NOBODY)
def test_header_without_a_client_leaves_the_real_peer(
    behind: Behind, name: str, way: str
) -> None:
    with Connection(behind()) as connection:
        connection.send(split_ways(NOBODY[name] + get())[way])
        assert said(connection.reply()) == peer(connection)


@either
def test_client_of_the_proxys_unix_socket_has_no_address(
    behind: Behind, interface: str
) -> None:
    with Connection(behind(HANDLERS[interface])) as connection:
        connection.send(v2(0x31, b"/run/client".ljust(216, b"\0")) + get())
        assert said(connection.reply()) == (None, None, "http")


def test_header_holds_for_the_whole_connection(behind: Behind) -> None:
    header, host, port = CLIENTS["v2 TLVs"]
    with Connection(behind()) as connection:
        connection.send(header + get() * 300)
        for _ in range(300):
            assert said(connection.reply()) == (host, port, "http")
        for _ in range(3):
            assert said(connection.ask()) == (host, port, "http")


def test_request_may_come_after_the_header(behind: Behind) -> None:
    options = {"head_timeout": SHORT, "keepalive_timeout": 30.0}
    with Connection(behind(**options)) as connection:
        connection.send(v1("TCP4 198.51.100.1 192.0.2.1 56324 443"))
        pause(3 * SHORT)  # it waits for a request now, no longer for a header
        assert said(connection.ask()) == ("198.51.100.1", 56324, "http")


@pytest.mark.parametrize("header", [v1("UNKNOWN"), v2(0, b"")])
def test_second_header_is_no_request(behind: Behind, header: bytes) -> None:
    for before in (b"", get()):
        received = parse_replies(talk(behind(), v1("UNKNOWN") + before + header))
        assert [reply.status for reply in received[:-1]] == [200] * bool(before)
        assert received[-1].status in (400, 501)


@either
def test_header_of_version_2_may_tell_of_tls(behind: Behind, interface: str) -> None:
    header = v2(0x11, ends("198.51.100.1", 9) + TLS + TLVS[:8])
    with Connection(behind(HANDLERS[interface])) as connection:
        connection.send(header + get() * 2)
        for _ in range(2):
            assert said(connection.reply()) == ("198.51.100.1", 9, "https")
        # The client's own fields do not count, but those of a trusted one do.
        reply = connection.ask("/", "X-Forwarded-Proto: http")
        assert said(reply) == ("198.51.100.1", 9, "https")
    with Connection(behind(HANDLERS[interface])) as connection:
        connection.send(v2(0x11, ends("127.0.0.9", 9) + TLS) + get())
        assert said(connection.reply()) == ("127.0.0.9", 9, "https")
        reply = connection.ask("/", "X-Forwarded-Proto: http")
        assert said(reply) == ("127.0.0.9", 9, "http")
        assert said(connection.ask()) == ("127.0.0.9", 9, "https")


@needs_ipv6
def test_proxies_may_come_by_ipv6_and_unix_sockets(
    behind: Behind, tmp_path: Path
) -> None:
    header, host, port = CLIENTS["v2 INET6"]
    for bind in ("[::1]:0", f"unix:{tmp_path}/socket"):
        with Connection(behind(bind=bind)) as connection:
            connection.send(header + get())
            assert said(connection.reply()) == (host, port, "http")
        with Connection(behind(bind=bind.replace("socket", "other"))) as connection:
            connection.send(v1("UNKNOWN") + get())
            expected = peer(connection) if bind[0] == "[" else (None, None, "http")
            assert said(connection.reply()) == expected


def test_header_is_none_of_the_servers_own_accord(serve: Serve) -> None:
    server = serve(who, forwarded_allow_ips=LOCAL)
    [reply] = parse_replies(talk(server, v1("UNKNOWN") + get()))
    assert reply.status == 501


# ---- X-Forwarded-* behind a PROXY header ---------------------------------------------


FIELDS = [*forwarded("203.0.113.1"), "X-Forwarded-Proto: https"]


@pytest.mark.parametrize(
    ("header", "is_believed"),
    [
        (v1("TCP4 198.51.100.1 192.0.2.1 1 2"), False),  # a client that makes them up
        (v1("TCP4 127.0.0.9 192.0.2.1 1 2"), True),  # another proxy, which is trusted
        (v2(0x21, ends("::ffff:127.0.0.9", 1)), True),
        (v2(0x11, ends("198.51.100.1", 1)), False),
        (v2(0x31, bytes(216)), True),  # "unix"
        (NOBODY["v2 LOCAL"], True),  # the proxy itself
        (NOBODY["v1 UNKNOWN"], False),  # somebody, not the proxy
        (NOBODY["v2 UNSPEC"], False),
    ],
)
def test_fields_are_believed_of_whom_the_header_names(
    behind: Behind, header: bytes, is_believed: bool
) -> None:
    with Connection(behind()) as connection:
        connection.send(header + get("/", *FIELDS))
        told = said(connection.reply())
        assert (told == ("203.0.113.1", 0, "https")) is is_believed
        assert (told[2] == "https") is is_believed


# ---- connections that do not begin as they must --------------------------------------


LONG_LINE = b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n"  # 108 bytes
NO_HEADER = {
    "a request": get(),
    "an empty line": b"\r\n" + get(),
    "nothing but spaces": b" " * 200,
    "TLS": b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "lower case": b"proxy UNKNOWN\r\n" + get(),
    "a bare LF": b"PROXY UNKNOWN\n" + get(),
    "a bare CR": b"PROXY UNKNOWN\r" + get(),
    "another protocol": v1("UDP4 198.51.100.1 192.0.2.1 1 2"),
    "no addresses": v1("TCP4"),
    "no ports": v1("TCP4 198.51.100.1 192.0.2.1"),
    "one port": v1("TCP4 198.51.100.1 192.0.2.1 1"),
    "a leading zero": v1("TCP4 198.51.100.1 192.0.2.1 01 2"),
    "a port too high": v1("TCP4 198.51.100.1 192.0.2.1 65536 2"),
    "two spaces": v1("TCP4  198.51.100.1 192.0.2.1 1 2"),
    "something behind": v1("TCP4 198.51.100.1 192.0.2.1 1 2 "),
    "IPv6 as TCP4": v1("TCP4 ::1 ::1 1 2"),
    "IPv4 as TCP6": v1("TCP6 198.51.100.1 192.0.2.1 1 2"),
    "a name": v1("TCP4 localhost localhost 1 2"),
    "a line too long": LONG_LINE + get(),
    "a signature that is another": SIGNATURE[:-1] + b"\r",
    "version 1 in bytes": v2(0x11, ends("198.51.100.1", 1), command=0x11),
    "version 3": v2(0x11, ends("198.51.100.1", 1), command=0x31),
    "another command": v2(0x11, ends("198.51.100.1", 1), command=0x22),
    "another family": v2(0x41, ends("198.51.100.1", 1)),
    "another transport": v2(0x13, ends("198.51.100.1", 1)),
    "no room for addresses": v2(0x11, b"", length=11) + bytes(11),
    "no room for IPv6": v2(0x21, ends("198.51.100.1", 1)),
    "no room for paths": v2(0x31, bytes(215)),
    "a TLV cut short": v2(0x11, ends("198.51.100.1", 1) + b"\x04\0"),
    "a TLV too long": v2(0x11, ends("198.51.100.1", 1) + b"\x04\0\x02\0"),
    "a TLV of TLS too short": v2(
        0x11, ends("198.51.100.1", 1) + b"\x20\0\x04\x01\0\0\0"
    ),
    "too many bytes": v2(0x11, b"", length=_core.LIMITS["proxy_header_bytes"] - 15),
}


@pytest.mark.parametrize("way", ["whole", "bytewise", "trailing"])
@pytest.mark.parametrize("name", NO_HEADER)
def test_what_is_no_header_is_closed_without_a_reply(
    behind: Behind, name: str, way: str
) -> None:
    asked: list[fastbatch.Request] = []
    server = behind(asked.append)
    with Connection(server) as connection:
        # The server may leave before all of it is sent.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.send(split_ways(NO_HEADER[name])[way])
        assert is_closed_without_a_reply(connection)
        gates.wait_until_gone(server)
    assert asked == []
    assert server.stats()["rejected"] == 1
    assert server.stats()["timed_out"] == 0


def test_longest_headers_are_taken(behind: Behind) -> None:
    server = behind()
    block = ends("198.51.100.1", 1)
    longest = block.ljust(_core.LIMITS["proxy_header_bytes"] - 16, b"\0")
    for header in (LONG_LINE.replace(b"x", b"", 1), v2(0x11, longest)):
        for data in split_ways(header + get()).values():
            assert parse_replies(talk(server, data, replies=1))[0].status == 200


@pytest.mark.parametrize("trusted", ["192.0.2.1", "unix", "::1"])
def test_untrusted_peer_is_closed_at_once_and_unread(
    behind: Behind, trusted: str
) -> None:
    server = behind(forwarded_allow_ips=trusted)
    for n in range(1, 4):
        with Connection(server) as connection:
            assert connection.is_closed()
        helpers.wait_until(lambda n=n: server.stats()["rejected"] == n, "counting")
    with Connection(server) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.send(v1("TCP4 198.51.100.1 192.0.2.1 1 2") + get())
        assert is_closed_without_a_reply(connection)
    assert server.stats()["bytes_received"] == 0
    assert server.stats()["requests"] == 0
    gates.wait_until_gone(server)  # it counts what it has closed a moment later


WHOLE = v2(0x11, ends("198.51.100.1", 1) + TLVS)
BEGUN = {
    "nothing": b"",
    "a byte": b"P",
    "half a line": b"PROXY TCP4 198.51",
    "half a block": WHOLE[:20],
    "all but a byte": WHOLE[:-1],
}


@pytest.mark.parametrize("name", BEGUN)
def test_header_that_is_late_is_closed_without_a_reply(
    behind: Behind, name: str
) -> None:
    server = behind(head_timeout=SHORT, keepalive_timeout=30.0)
    with Connection(server) as connection:
        connection.send(BEGUN[name])
        assert connection.rest() == b""
        gates.wait_until_gone(server)
    assert server.stats()["timed_out"] == 1
    assert server.stats()["rejected"] == 1


def test_header_that_drips_is_closed_in_its_time(behind: Behind) -> None:
    server = behind(head_timeout=SHORT, keepalive_timeout=30.0)

    def drip(connection: Connection, data: Iterable[int]) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for byte in data:
                connection.send(bytes([byte]))
                if server.stats()["timed_out"]:
                    return
                pause(SHORT / 10)

    with Connection(server) as connection:
        drip(connection, WHOLE)
        assert is_closed_without_a_reply(connection)
    assert server.stats()["timed_out"] == 1


def test_header_that_there_is_no_memory_for_is_closed_without_a_reply(
    behind: Behind,
) -> None:
    server = behind(max_input_memory=0, queue_timeout=SHORT)
    room = _core.LIMITS["proxy_header_bytes"]
    with Connection(server) as connection:
        connection.send(v2(0x11, b"", length=room - 16).ljust(room - 500, b"\0"))
        helpers.wait_until(
            lambda: server.stats()["bytes_received"] == room - 500, "reading"
        )
        connection.send(bytes(100))
        assert is_closed_without_a_reply(connection)
        gates.wait_until_gone(server)
    assert server.stats()["overloaded"] == 1
    assert server.stats()["rejected"] == 1


@pytest.mark.parametrize("name", BEGUN)
def test_peer_that_ends_within_the_header_is_closed(behind: Behind, name: str) -> None:
    server = behind()
    with Connection(server) as connection:
        connection.send(BEGUN[name])
        connection.end()
        assert connection.rest() == b""
        gates.wait_until_gone(server)
    # A connection without a byte is a look whether the server is there.
    assert server.stats()["rejected"] == (1 if BEGUN[name] else 0)


@pytest.mark.parametrize("name", BEGUN)
def test_peer_that_resets_within_the_header_leaves_nothing(
    behind: Behind, name: str
) -> None:
    server = behind()
    with gates.connect(server, 1) as [connection]:
        connection.send(BEGUN[name])
        linger = struct.pack("ii", 1, 0)
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    gates.wait_until_gone(server)
    assert talk(server, WHOLE + get(), replies=1).startswith(b"HTTP/1.1 200 ")


def test_peer_that_ends_after_its_request_is_answered(behind: Behind) -> None:
    with Connection(behind()) as connection:
        connection.send(WHOLE + get())
        connection.end()
        assert said(connection.reply())[0] == "198.51.100.1"
        assert connection.rest() == b""


@pytest.mark.parametrize("name", BEGUN)
def test_stop_ends_though_a_header_is_awaited(serve: Serve, name: str) -> None:
    options = {"proxy_protocol": True, "forwarded_allow_ips": LOCAL}
    server = serve(who, **options, graceful_timeout=30.0, head_timeout=2 * SHORT)
    with gates.connect(server, 1) as [connection]:
        connection.send(BEGUN[name])
        server.stop()
        assert is_closed_without_a_reply(connection)


# ---- fields that are dropped ---------------------------------------------------------


def test_dropped_fields_are_counted(serve: Serve) -> None:
    def show(request: fastbatch.Request) -> str:
        return ",".join(sorted(request.headers))

    server = serve(show)
    assert server.stats()["fields_dropped"] == 0
    with Connection(server) as connection:
        for fields in (["X_A: 1", "Y: 2", "X_B_: 3"], ["Y: 2"], ["_: 1"]):
            body = connection.ask("/", *fields).body
            assert body == (b"host,y" if "Y: 2" in fields else b"host")
    assert server.stats()["fields_dropped"] == 3
