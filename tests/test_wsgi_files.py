"""wsgi.file_wrapper: files of all kinds, and those that sendfile cannot send."""

import contextlib
import gzip
import io
import os
import random
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gates
import helpers
import pytest
import wsgi_helpers
from conftest import Serve
from helpers import Connection, get
from wsgi_helpers import OK, Application, Environ, StartResponse, replies

LARGE = 50_000_000  # bytes: more than sockets hold


def pattern(size: int) -> bytes:
    """Bytes among which one that is lost or moved is seen."""
    return random.Random(size).randbytes(size)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of 100,000 bytes."""
    path = tmp_path / "file"
    path.write_bytes(pattern(100_000))
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "large"
    path.write_bytes(pattern(LARGE))
    return path


class FileLike:
    """A file that is none of Python's own, and counts what is asked of it."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.n_reads = 0
        self.n_closed = 0

    def read(self, size: int = -1) -> Any:
        self.n_reads += 1
        return self._file.read(size)

    def close(self) -> None:
        self.n_closed += 1
        self._file.close()


class Files:
    """Opens files for the server to send, and sees that they are closed."""

    def __init__(self, *, are_plain: bool) -> None:
        self._are_plain = are_plain
        self._files: list[Any] = []
        self._like: list[FileLike] = []

    def open(self, path: Path) -> Any:
        self._files.append(path.open("rb"))
        if self._are_plain:
            return self._files[-1]
        self._like.append(FileLike(self._files[-1]))
        return self._like[-1]

    def wait_until_closed(self) -> None:
        helpers.wait_until(
            lambda: all(file.closed for file in self._files), "closing the files"
        )
        assert self._files
        assert [file.n_closed for file in self._like] == [1] * len(self._like)


@pytest.fixture(params=[True, False], ids=["plain", "file-like"])
def files(request: pytest.FixtureRequest) -> Files:
    return Files(are_plain=request.param)


def sending(
    make: Callable[[], Any], *fields: tuple[str, str], status: str = OK
) -> Application:
    """An application that returns what ``make()`` opens, in a file wrapper."""
    return replies(
        lambda environ: environ["wsgi.file_wrapper"](make()), *fields, status=status
    )


# ---- files --------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("size", [0, 1, 8191, 8192, 8193, 65536, 1_000_003])
def test_file_is_sent_whole(
    serve: Serve, tmp_path: Path, files: Files, size: int, version: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(pattern(size))
    server = serve(sending(lambda: files.open(path), ("Content-Length", str(size))))
    data = get("/", "Connection: keep-alive", version=version) * 3
    for reply in helpers.parse_replies(helpers.talk(server, data, replies=3)):
        assert (len(reply.body), reply.body) == (size, pattern(size))
        assert reply.headers["Content-Length"] == str(size)
    files.wait_until_closed()


@pytest.mark.parametrize("position", [0, 777])
def test_plain_file_is_sent_by_the_kernel_and_not_read(
    serve: Serve, path: Path, position: int
) -> None:
    """Then the position of its descriptor, which a twin shares, is the same after."""
    twins: list[int] = []

    def opened() -> Any:
        file = path.open("rb", buffering=0)
        file.seek(position)
        twins.append(os.dup(file.fileno()))
        return file

    with Connection(serve(sending(opened))) as connection:
        for _ in range(2):
            reply = connection.ask()
            assert reply.body == path.read_bytes()[position:]
            assert reply.headers["Content-Length"] == str(len(reply.body))
    for twin in twins:
        assert os.lseek(twin, 0, os.SEEK_CUR) == position
        os.close(twin)


def test_large_file_is_sent_whole(serve: Serve, large: Path) -> None:
    with Connection(serve(sending(lambda: large.open("rb")))) as connection:
        for _ in range(2):
            reply = connection.ask()
            assert len(reply.body) == LARGE
            assert reply.body == large.read_bytes()


def test_wrapper_is_a_class(serve: Serve) -> None:
    kinds: list[Any] = []

    def body(environ: Environ) -> Any:
        wrapper = environ["wsgi.file_wrapper"]
        result = wrapper(io.BytesIO(b"data"))
        kinds.append((wrapper, type(result)))
        return result

    with Connection(serve(replies(body))) as connection:
        assert [connection.ask().body for _ in range(2)] == [b"data"] * 2
    (wrapper, kind), again = kinds
    assert isinstance(wrapper, type)
    assert wrapper is kind
    assert (wrapper, kind) == again


@pytest.mark.parametrize("arguments", [(), (1, 2, 3)], ids=repr)
def test_wrapper_of_wrong_arguments_is_a_type_error(
    serve: Serve, arguments: tuple[Any, ...]
) -> None:
    raised: list[TypeError] = []

    def body(environ: Environ) -> list[bytes]:
        try:
            environ["wsgi.file_wrapper"](*arguments)
        except TypeError as error:
            raised.append(error)
        return [b"x"]

    assert helpers.get_url(serve(replies(body))).body == b"x"
    assert len(raised) == 1


POSITIONS: dict[str, Callable[[Any], object]] = {
    "start": lambda _file: None,
    "after read()": lambda file: file.read(10),
    "after readline()": lambda file: file.readline(100),
    "after seek()": lambda file: file.seek(50_000),
    "before the end": lambda file: file.seek(-1, os.SEEK_END),
    "the end": lambda file: file.seek(0, os.SEEK_END),
    "beyond the end": lambda file: file.seek(200_000),
}


@pytest.mark.parametrize("buffering", [-1, 0], ids=["buffered", "raw"])
@pytest.mark.parametrize("move", POSITIONS.values(), ids=POSITIONS)
def test_file_is_sent_from_its_position(
    serve: Serve, path: Path, move: Callable[[Any], object], buffering: int
) -> None:
    positions: list[int] = []

    def opened() -> Any:
        file = path.open("rb", buffering=buffering)
        move(file)
        positions.append(file.tell())
        return file

    with Connection(serve(sending(opened))) as connection:
        for _ in range(2):
            reply = connection.ask()
            assert reply.body == path.read_bytes()[positions[-1] :]
            assert reply.headers["Content-Length"] == str(len(reply.body))


@pytest.mark.parametrize("size", [0, 1, 5000, 99_990])
def test_no_more_of_a_file_is_sent_than_its_content_length(
    serve: Serve, path: Path, size: int
) -> None:
    def opened() -> Any:
        file = path.open("rb")
        file.seek(10)
        return file

    app = sending(opened, ("Content-Length", str(size)), status="206 Partial Content")
    with Connection(serve(app)) as connection:
        for _ in range(2):
            reply = connection.ask()
            assert (reply.status, reply.headers["Content-Length"]) == (206, str(size))
            assert reply.body == path.read_bytes()[10 : 10 + size]


def test_file_shorter_than_its_content_length_is_a_500(
    serve: Serve, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = sending(lambda: path.open("rb"), ("Content-Length", "100001"))
    with Connection(serve(app)) as connection:
        assert [connection.ask().status for _ in range(2)] == [500, 500]
    for text in wsgi_helpers.wait_for_errors(caplog, 2):
        assert "Content-Length" in text


def test_file_like_object_shorter_than_its_content_length_breaks_the_connection(
    serve: Serve, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = FileLike(path.open("rb"))
    asked: list[FileLike] = []

    def give() -> FileLike:
        asked.append(file)
        return file

    app = sending(give, ("Content-Length", "100001"))
    with Connection(serve(app)) as connection:
        connection.send(get() + get())
        data, _ = wsgi_helpers.rest(connection)
    assert data.count(b"HTTP/1.1") <= 1
    assert len(data.partition(b"\r\n\r\n")[2]) <= 100_000
    assert "Content-Length" in wsgi_helpers.wait_for_error(caplog)
    # At once, although nothing else wakes the loop.
    helpers.wait_until(lambda: file.n_closed == len(asked), "closing the file")


def test_file_that_shrinks_while_it_is_sent_breaks_the_connection(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(LARGE))
    with Connection(serve(sending(lambda: path.open("rb")))) as connection:
        connection.send(get())
        assert connection.socket.recv(1)
        os.truncate(path, 1000)
        data, _ = wsgi_helpers.rest(connection)
    assert len(data) < LARGE
    wsgi_helpers.wait_for_errors(caplog, 1)


def test_file_that_grows_while_it_is_sent_has_its_first_length(
    serve: Serve, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(LARGE))
    with Connection(serve(sending(lambda: path.open("rb")))) as connection:
        connection.send(get("/", "Connection: close"))
        with path.open("ab") as file:
            file.write(b"more" * 1000)
        assert len(connection.reply().body) in (LARGE, LARGE + 4000)
        assert connection.is_closed()


def test_files_of_one_description_are_sent_apart(serve: Serve, large: Path) -> None:
    """They share a position, which whoever reads one moves for all."""
    with large.open("rb", buffering=0) as file:
        app = sending(lambda: os.fdopen(os.dup(file.fileno()), "rb", buffering=0))
        server = serve(app)
        with Connection(server) as one, Connection(server) as other:
            for connection in (one, other):
                connection.send(get("/", "Connection: close"))
            assert len(one.reply().body) == LARGE
            assert len(other.reply().body) == LARGE


# ---- what is not sent ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "status"), [("HEAD", OK), ("GET", "204 None"), ("GET", "304 Same")]
)
def test_file_of_a_reply_without_body_is_closed(
    serve: Serve, path: Path, files: Files, method: str, status: str
) -> None:
    app = sending(lambda: files.open(path), status=status)
    with Connection(serve(app)) as connection:
        for _ in range(2):
            connection.send(gates.request(method=method))
            reply = connection.reply(method)
            assert (reply.status, reply.body) == (int(status[:3]), b"")
        assert connection.received.endswith(b"\r\n\r\n")
    files.wait_until_closed()


def test_head_of_a_file_has_its_length(serve: Serve, path: Path) -> None:
    with Connection(serve(sending(lambda: path.open("rb")))) as connection:
        connection.send(gates.request(method="HEAD"))
        assert connection.reply("HEAD").headers["Content-Length"] == "100000"


def test_file_is_closed_when_the_application_fails_behind_it(
    serve: Serve, path: Path, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    """It returns a file, but has not called start_response()."""

    def app(environ: Environ, _start_response: StartResponse) -> Any:
        return environ["wsgi.file_wrapper"](files.open(path))

    assert helpers.get_url(serve(app)).status == 500
    assert "start_response" in wsgi_helpers.wait_for_error(caplog)
    files.wait_until_closed()


def test_file_is_closed_when_the_client_leaves(
    serve: Serve, large: Path, files: Files
) -> None:
    server = serve(sending(lambda: files.open(large)))
    for _ in range(5):
        with Connection(server) as connection:
            connection.send(get())
            assert connection.socket.recv(1)
    files.wait_until_closed()


@pytest.mark.parametrize("now", [True, False])
def test_file_is_closed_when_the_server_stops(
    serve: Serve, large: Path, files: Files, *, now: bool
) -> None:
    server = serve(sending(lambda: files.open(large)), graceful_timeout=0.1)
    with Connection(server) as connection:
        connection.send(get())
        assert connection.socket.recv(1)
        server.stop(now=now)
    files.wait_until_closed()


def test_descriptor_of_a_file_is_not_used_when_it_was_closed(
    serve: Serve, tmp_path: Path, large: Path
) -> None:
    """The application closes it while it is sent, and its number is another file's."""
    kept: list[Any] = []

    def opened() -> Any:
        kept.append(large.open("rb"))
        return kept[-1]

    other = tmp_path / "other"
    other.write_bytes(b"other" * (LARGE // 5))
    with Connection(serve(sending(opened))) as connection:
        connection.send(get("/", "Connection: close"))
        assert connection.socket.recv(1, socket.MSG_PEEK)
        kept[0].close()
        with contextlib.ExitStack() as stack:
            for _ in range(10):
                stack.enter_context(other.open("rb"))
            data, _ = wsgi_helpers.rest(connection)
    body = data.partition(b"\r\n\r\n")[2]
    assert body == large.read_bytes()[: len(body)]


# ---- what sendfile cannot send ------------------------------------------------------


class OnlyRead:
    def __init__(self, data: bytes) -> None:
        self.read = io.BytesIO(data).read


class NoTell(OnlyRead):
    """Its descriptor is of a file, but where it is in it is not said."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.read_bytes())
        self._file = path.open("rb")
        self.fileno = self._file.fileno
        self.close = self._file.close


class BadTell(NoTell):
    def tell(self) -> int:
        raise OSError


class BadFileno(OnlyRead):
    def fileno(self) -> int:
        raise io.UnsupportedOperation


class ClosedFileno(OnlyRead):
    def fileno(self) -> int:
        return -1


class NoneAsFileno(OnlyRead):
    fileno = None


class SmallPieces(OnlyRead):
    """Its read() gives less than it is asked for, as that of a socket does."""

    def __init__(self, data: bytes) -> None:
        source = io.BytesIO(data)
        self.read = lambda size=-1: source.read(min(size, 777))


def pipe_with(data: bytes) -> Any:
    reader, writer = os.pipe()

    def write() -> None:
        with os.fdopen(writer, "wb") as file:
            file.write(data)

    threading.Thread(target=write).start()
    return os.fdopen(reader, "rb")


def gzipped(path: Path) -> Any:
    """Its descriptor is that of the compressed file."""
    compressed = path.with_suffix(".gz")
    compressed.write_bytes(gzip.compress(path.read_bytes()))
    return gzip.open(compressed)


def temporary(path: Path) -> Any:
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115 - the server closes it
    file.write(path.read_bytes())
    file.seek(0)
    return file


def spooled(path: Path) -> Any:
    file = tempfile.SpooledTemporaryFile()  # noqa: SIM115 - the server closes it
    file.write(path.read_bytes())
    file.seek(0)
    return file


KINDS: dict[str, Callable[[Path], Any]] = {
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "read() alone": lambda path: OnlyRead(path.read_bytes()),
    "less than asked for": lambda path: SmallPieces(path.read_bytes()),
    "no tell()": NoTell,
    "tell() that fails": BadTell,
    "fileno() that fails": lambda path: BadFileno(path.read_bytes()),
    "fileno() of none": lambda path: ClosedFileno(path.read_bytes()),
    "fileno that is None": lambda path: NoneAsFileno(path.read_bytes()),
    "pipe": lambda path: pipe_with(path.read_bytes()),
    "gzip": gzipped,
    "named temporary file": temporary,
    "spooled temporary file": spooled,
    "random access": lambda path: path.open("r+b"),
    "memory view reader": lambda path: io.BufferedReader(io.FileIO(path)),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_file_like_objects_of_all_kinds_are_sent(
    serve: Serve, path: Path, make: Callable[[Path], Any]
) -> None:
    with Connection(serve(sending(lambda: make(path)))) as connection:
        for _ in range(2):
            reply = connection.ask()
            assert len(reply.body) == 100_000
            assert reply.body == path.read_bytes()


@pytest.mark.parametrize("fields", [(), (("Content-Length", "9"),)], ids=["", "length"])
def test_file_like_object_that_gives_text_is_an_error(
    serve: Serve, fields: Any, caplog: pytest.LogCaptureFixture
) -> None:
    reply = helpers.get_url(serve(sending(lambda: io.StringIO("some text"), *fields)))
    assert reply.status == 500
    assert "bytes" in wsgi_helpers.wait_for_error(caplog)


def test_read_that_fails_is_an_error(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing:
        n_closed = 0

        def read(self, _size: int) -> bytes:
            raise OSError("no such device")

        def close(self) -> None:
            self.n_closed += 1

    failing = Failing()
    assert helpers.get_url(serve(sending(lambda: failing))).status == 500
    assert "no such device" in wsgi_helpers.wait_for_error(caplog)
    assert failing.n_closed == 1


def test_file_that_was_closed_is_an_error(
    serve: Serve, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def closed() -> Any:
        file = path.open("rb")
        file.close()
        return file

    with Connection(serve(sending(closed))) as connection:
        assert [connection.ask().status for _ in range(2)] == [500, 500]
    assert all("closed" in text for text in wsgi_helpers.wait_for_errors(caplog, 2))


def test_directory_is_an_error(serve: Serve, tmp_path: Path) -> None:
    class Folder:
        def fileno(self) -> int:
            return folder

        def tell(self) -> int:
            return 0

        def read(self, size: int) -> bytes:
            return os.read(folder, size)

    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        assert helpers.get_url(serve(sending(Folder))).status == 500
    finally:
        os.close(folder)


# ---- together with others -----------------------------------------------------------


def test_files_and_others_keep_their_order(serve: Serve, path: Path) -> None:
    def body(environ: Environ) -> Any:
        name = environ["PATH_INFO"].encode()
        kind = int(name[1:]) % 4
        if kind == 0:
            return environ["wsgi.file_wrapper"](path.open("rb"))
        if kind == 1:
            return environ["wsgi.file_wrapper"](io.BytesIO(name * 5000), 1000)
        return (name for _ in range(5)) if kind == 2 else [name]

    def expected(name: bytes) -> bytes:
        times = {1: 5000, 2: 5, 3: 1}
        kind = int(name[1:]) % 4
        return name * times[kind] if kind else path.read_bytes()

    names = [b"/%d" % n for n in range(100)]
    data = b"".join(get(name.decode()) for name in names)
    received = helpers.talk(serve(replies(body)), data, replies=100)
    for reply, name in zip(helpers.parse_replies(received), names, strict=True):
        assert reply.body == expected(name)


def test_client_that_does_not_read_its_file_holds_up_nobody(
    serve: Serve, large: Path
) -> None:
    def body(environ: Environ) -> Any:
        if environ["PATH_INFO"] == "/large":
            return environ["wsgi.file_wrapper"](large.open("rb"))
        return [b"quick"]

    server = serve(replies(body))
    with Connection(server) as bystander, Connection(server) as connection:
        connection.send(get("/large"))
        assert connection.socket.recv(1)
        for _ in range(50):
            assert bystander.ask().body == b"quick"
        left = LARGE - 1_000_000
        while left > 0:
            left -= len(connection.socket.recv(1_000_000))


def test_file_behind_middleware_is_sent_whole(serve: Serve, path: Path) -> None:
    file = FileLike(path.open("rb"))

    def body(environ: Environ) -> Iterator[bytes]:
        wrapper = environ["wsgi.file_wrapper"](file, 1000)
        yield from (block[::-1][::-1] for block in wrapper)
        wrapper.close()

    assert helpers.get_url(serve(replies(body))).body == path.read_bytes()
    assert (file.n_closed, file.n_reads) == (1, 101)


def test_wrapper_may_be_subclassed(serve: Serve, path: Path) -> None:
    """Then it is the subclass that says what the bytes are."""

    def body(environ: Environ) -> Any:
        class Upper(environ["wsgi.file_wrapper"]):  # type: ignore[misc]
            def __iter__(self) -> Iterator[bytes]:
                yield from [b"made ", b"here"]

        return Upper(path.open("rb"))

    with Connection(serve(replies(body))) as connection:
        assert [connection.ask().body for _ in range(2)] == [b"made here"] * 2


def test_many_files_leave_no_descriptor_behind(serve: Serve, path: Path) -> None:
    server = serve(sending(lambda: path.open("rb")))
    with Connection(server) as connection:
        connection.ask()
        before = helpers.open_files()
        for _ in range(300):
            connection.ask()
        helpers.wait_until(
            lambda: len(helpers.open_files()) <= len(before), "closing all files"
        )
