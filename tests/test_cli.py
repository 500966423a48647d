"""The command line, as a user meets it: what it does, and what it says if it cannot."""

import os
import re
import signal
import socket
import sys
import sysconfig
from pathlib import Path

import helpers
import pytest
from conftest import Start
from helpers import Connection, Program

import fastbatch
from fastbatch import __main__ as command_line
from fastbatch._config import OPTIONS

APP = """
import logging, sys
import fastbatch

def hello(request):
    return "hello"

def fail(request):
    raise ValueError("of the handler")

def leave(request):
    sys.exit(3)

def log(request):
    logging.getLogger("mine").warning("a message")
    return "logged"

def none():
    pass

def three(a, b, c):
    pass

async def later(request):
    pass

def make_nothing():
    pass

def make_application():
    def application(environ, start_response):
        start_response("200 OK", [])
        return [environ["SCRIPT_NAME"].encode()]
    return application

class Views:
    def hello(self, request):
        return "hello from a method"

views = Views()
settings = {"a": 1}
"""


@pytest.fixture(autouse=True)
def app(tmp_path: Path) -> Path:
    """The module ``app`` in the directory where the program is started."""
    path = tmp_path / "app.py"
    path.write_text(APP)
    return path


@pytest.fixture
def fastbatch_(start: Start) -> "Start":
    """A function that starts ``python -m fastbatch`` with these arguments."""

    def start_it(
        *arguments: str, env: dict[str, str] | None = None, **options: object
    ) -> Program:
        return start("-m", "fastbatch", *arguments, env=env, **options)

    return start_it


def hello(program: Program) -> bytes:
    with Connection(program.address()) as connection:
        return connection.ask("/", "Connection: close").body


def refused(program: Program, status: int = 2) -> str:
    """What it says, without its name in front, when it refuses to start."""
    assert program.wait() == status, program.errors
    assert program.output == ""
    lines = program.errors.splitlines()
    if status == 2:
        assert lines.pop() == "See python -m fastbatch --help."
    name, _, sentence = lines.pop().partition(": ")
    assert name == "python -m fastbatch"
    return sentence


# ---- it serves --------------------------------------------------------------------


def test_it_serves_and_says_where(fastbatch_: Start) -> None:
    program = fastbatch_("app:hello", "--port", "0")
    assert hello(program) == b"hello"
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
    version = re.escape(fastbatch.__version__)
    line = (
        rf"{stamp} INFO fastbatch: fastbatch {version} listening on"
        r" http://127\.0\.0\.1:\d+\n"
    )
    assert re.fullmatch(line, program.errors)


def test_function_that_makes_the_application(fastbatch_: Start) -> None:
    program = fastbatch_("app:make_application()", "--port=0", "--root-path=/shop")
    assert hello(program) == b"/shop"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_it_with_0_and_no_traceback(
    fastbatch_: Start, number: signal.Signals
) -> None:
    program = fastbatch_("app:hello", "--port=0")
    program.address()
    program.signal(number)
    assert program.wait() == 0
    assert "Traceback" not in program.errors


# Short sleeps: a signal that comes just before a sleep does not wake it.
STUCK = """
import time
def stuck(request):
    while True:
        time.sleep(0.01)
"""


def test_second_signal_ends_it_with_130_and_no_traceback(
    fastbatch_: Start, app: Path
) -> None:
    app.write_text(STUCK)
    program = fastbatch_("app:stuck", "--port=0")
    with Connection(program.address()) as connection:
        connection.send(helpers.get())
        program.signal()
        program.wait_for("answering what has arrived")
        program.signal()
        assert program.wait() == 130
    assert "Traceback" not in program.errors


def test_exit_of_the_handler_is_that_of_the_program(fastbatch_: Start) -> None:
    program = fastbatch_("app:leave", "--port=0")
    with Connection(program.address()) as connection:
        connection.send(helpers.get())
        connection.rest()
    assert program.wait() == 3


def test_method_of_an_object(fastbatch_: Start) -> None:
    program = fastbatch_("app:views.hello", "--port=0")
    assert hello(program) == b"hello from a method"


def test_module_of_a_package(fastbatch_: Start, tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "views.py").write_text(APP)
    assert hello(fastbatch_("pack.views:hello", "--port=0")) == b"hello"


def test_console_script(start: Start) -> None:
    script = Path(sysconfig.get_path("scripts"), "fastbatch")
    if not script.exists():
        pytest.skip("fastbatch was not installed with its script")
    assert hello(start(str(script), "app:hello", "--port=0")) == b"hello"
    program = start(str(script), "app:helo")
    assert program.wait() == 2
    assert program.errors.startswith("fastbatch: module app has no attribute 'helo'")
    assert program.errors.endswith("\nSee fastbatch --help.\n")


def test_several_binds(fastbatch_: Start) -> None:
    program = fastbatch_("app:hello", "--bind", "127.0.0.1:0", "--bind", "unix:socket")
    program.wait_for("(?s)listening.*listening on unix:socket\n")
    assert hello(program) == b"hello"


def test_mode_is_octal(fastbatch_: Start, tmp_path: Path) -> None:
    program = fastbatch_("app:hello", "--bind=unix:socket", "--unix-mode=600")
    program.wait_for("listening")
    assert (tmp_path / "socket").stat().st_mode & 0o777 == 0o600


def test_inherited_socket(fastbatch_: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as parent:
        number = parent.fileno()
        program = fastbatch_("app:hello", f"--bind=fd:{number}", pass_fds=[number])
        assert hello(program) == b"hello"


# ---- options ----------------------------------------------------------------------


def header(program: Program) -> str | None:
    with Connection(program.address()) as connection:
        value: str | None = connection.ask().headers["Server"]
        return value


def test_command_line_wins_over_the_environment(fastbatch_: Start) -> None:
    env = {
        "FASTBATCH_BIND": "127.0.0.1:0",
        "FASTBATCH_SERVER_HEADER": "from the environment",
    }
    assert header(fastbatch_("app:hello", env=env)) == "from the environment"
    program = fastbatch_("app:hello", "--server-header", "from the line", env=env)
    assert header(program) == "from the line"
    assert header(fastbatch_("app:hello", "--server-header=", env=env)) is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--batch-size", "0"],
            "--batch-size 0 is not allowed: it must be an integer from 1 to 256"
            " (requests)",
        ),
        (
            ["--unix-mode=999"],
            "--unix-mode 999 is not allowed: it must be permission bits in octal, from"
            " 0 to 0o777",
        ),
        (
            ["--head-timeout", "nan"],
            "--head-timeout nan is not allowed: it must be a number of seconds from 0"
            " (none) to 2147483",
        ),
        (
            ["--interface=asgi"],
            "--interface asgi is not allowed: it must be 'auto', 'request', 'batch' or"
            " 'wsgi'",
        ),
        (
            ["--bind", "8000"],
            "--bind 8000 is not allowed: it must be host:port, [ipv6]:port, :port,"
            " unix:path, fd:number or systemd",
        ),
        (
            ["--bind=a:1", "--bind=b"],
            "--bind a:1 --bind b is not allowed: 'b': it must be host:port,"
            " [ipv6]:port, :port, unix:path, fd:number or systemd",
        ),
        (
            ["--port=http"],
            "--port http is not allowed: it must be an integer from 0 to 65535",
        ),
        (
            ["--bind=a:1", "--port=1"],
            "--bind and --host or --port were both given: choose one",
        ),
        (
            ["--log-level=loud"],
            "--log-level loud is not allowed: it must be 'debug', 'info', 'warning',"
            " 'error' or 'critical'",
        ),
        (["--batchsize=1"], "unrecognized arguments: --batchsize=1"),
        (["--batch"], "unrecognized arguments: --batch"),
        (["--batch-size"], "argument --batch-size: expected one argument"),
    ],
)
def test_option_that_is_wrong(
    fastbatch_: Start, arguments: list[str], sentence: str
) -> None:
    assert refused(fastbatch_("app:hello", *arguments)) == sentence


def test_variable_that_is_wrong(fastbatch_: Start) -> None:
    assert refused(fastbatch_("app:hello", env={"FASTBATCH_BATCH_SIZE": "many"})) == (
        "FASTBATCH_BATCH_SIZE='many' is not allowed: it must be an integer from 1 to"
        " 256 (requests)"
    )
    assert refused(fastbatch_("app:hello", env={"FASTBATCH_LOG_LEVEL": ""})).startswith(
        "FASTBATCH_LOG_LEVEL='' is not allowed: it must be 'debug', 'info',"
    )


# ---- handlers that are not there --------------------------------------------------


@pytest.mark.parametrize(
    ("handler", "sentence"),
    [
        ("app", "'app' names no handler: write module:name, as app:handler"),
        ("app.py", "'app.py' names no handler: write module:name, as app:handler"),
        ("app:", "'app:' names no handler: write module:name, as app:handler"),
        (":hello", "':hello' names no handler: write module:name, as app:handler"),
        ("app.py:hello", "app.py is no module name: write app:hello"),
        ("src/app:hello", "src/app is no module name: write src.app:hello"),
        ("app:helo", "module app has no attribute 'helo'; did you mean hello?"),
        ("app:xyz", "module app has no attribute 'xyz'"),
        (
            "app:views.helo",
            "module app.views has no attribute 'helo'; did you mean hello?",
        ),
        (
            "app:settings",
            "app:settings is no handler: it is of type dict, not callable",
        ),
        (
            "app:settings()",
            "app:settings is no handler: it is of type dict, not callable",
        ),
        (
            "app:make_nothing()",
            "app:make_nothing() is no handler: it is of type NoneType, not callable",
        ),
        ("app.x:hello", "there is no module app.x in {cwd} or installed"),
        ("ap:hello", "there is no module ap in {cwd} or installed; did you mean app?"),
        (
            "pack.view:hello",
            "there is no module pack.view in {cwd} or installed; did you mean"
            " pack.views?",
        ),
    ],
)
def test_handler_that_is_not_there(
    fastbatch_: Start, tmp_path: Path, handler: str, sentence: str
) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "views.py").write_text(APP)
    assert refused(fastbatch_(handler)) == sentence.format(cwd=tmp_path)


@pytest.mark.parametrize("name", ["none", "three", "later"])
def test_handler_with_another_signature(fastbatch_: Start, name: str) -> None:
    sentence = refused(fastbatch_(f"app:{name}"))
    assert sentence.startswith(f"app:{name}: the handler app.{name}")
    assert "request" in sentence


def test_no_handler_at_all(fastbatch_: Start) -> None:
    assert refused(fastbatch_()) == (
        "the following arguments are required: module:handler"
    )


@pytest.mark.parametrize(
    ("source", "last"),
    [
        (
            "import no_such_module",
            "ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def hello(request)", "SyntaxError: expected ':'"),
    ],
)
def test_module_that_fails_shows_its_own_traceback(
    fastbatch_: Start, app: Path, source: str, last: str
) -> None:
    app.write_text(source)
    program = fastbatch_("app:hello")
    assert refused(program, 1) == "app:hello cannot be imported: see above"
    assert program.errors.splitlines()[-2] == last
    assert f'File "{app}", line 1' in program.errors
    assert program.errors.count("File ") == 1  # no frames of ours or of importlib


def test_module_that_exits_is_let_go(fastbatch_: Start, app: Path) -> None:
    app.write_text("import sys; sys.exit(5)")
    assert fastbatch_("app:hello").wait() == 5


def test_working_directory_comes_before_what_is_installed(
    fastbatch_: Start, tmp_path: Path
) -> None:
    (tmp_path / "pytest.py").write_text(APP)
    assert hello(fastbatch_("pytest:hello", "--port=0")) == b"hello"


# ---- addresses --------------------------------------------------------------------


def test_address_in_use(fastbatch_: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert refused(fastbatch_("app:hello", f"--port={port}"), 1) == (
            f"cannot listen on 127.0.0.1:{port}: the address is in use; stop the other"
            " program or choose another address with --bind"
        )


AS_NOBODY = """
import contextlib, io, os, sys
from fastbatch.__main__ import main

# Once as root: nobody may not be allowed to read what is imported on the way.
with contextlib.redirect_stderr(io.StringIO()) as errors:
    assert main(["app:hello", "--bind=203.0.113.1:80"]) == 1
assert "no such address" in errors.getvalue()
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
sys.exit(main())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
@pytest.mark.parametrize(
    ("bind", "sentence"),
    [
        (
            "127.0.0.1:80",
            "ports below 1024 need root or CAP_NET_BIND_SERVICE; choose a higher port"
            " with --bind",
        ),
        (
            "unix:socket",
            "this user may not make files in .; choose another path with --bind",
        ),
    ],
)
def test_address_that_is_not_for_this_user(
    start: Start, tmp_path: Path, bind: str, sentence: str
) -> None:
    first = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()
    if int(first) <= 80:
        pytest.skip("port 80 is for everybody here")
    (tmp_path / "nobody.py").write_text(AS_NOBODY)
    program = start("nobody.py", "app:hello", "--bind", bind)
    assert program.wait() == 1
    assert program.errors == f"fastbatch: cannot listen on {bind}: {sentence}\n"


# ---- --help and --version ---------------------------------------------------------


def test_help_reads_well_in_80_columns(fastbatch_: Start) -> None:
    program = fastbatch_("--help")
    assert program.wait() == 0
    text = program.output
    assert max(map(len, text.splitlines())) <= 80
    groups = [
        "Binding:",
        "Batching:",
        "Workers:",
        "Limits:",
        "Time-outs:",
        "Replies:",
        "Logging:",
    ]
    groups += ["Proxies:"]
    places = [text.index(f"\n{group}\n") for group in groups]
    assert places == sorted(places)
    for option in OPTIONS:
        assert f"\n  {option.flag} {option.rule.metavar}" in text
    flat = " ".join(text.split())
    assert "[default: 127.0.0.1:8000]" in flat
    assert "[default: 666]" in flat
    assert "Beyond it the client gets 413. [default: 16777216]" in flat
    assert "a variable of its name too, as FASTBATCH_BATCH_SIZE;" in flat
    assert "A time-out of 0 is none." in flat
    assert "The fewest bytes per second" in flat


def test_version_names_the_libraries(fastbatch_: Start) -> None:
    program = fastbatch_("--version")
    assert program.wait() == 0
    versions = fastbatch._core.VERSIONS
    assert program.output == (
        f"fastbatch {fastbatch.__version__} (libuv {versions['libuv']}, llhttp"
        f" {versions['llhttp']})\n"
    )


def test_main_returns_a_status(capsys: pytest.CaptureFixture[str]) -> None:
    path = sys.path[:]
    with pytest.raises(SystemExit) as caught:
        command_line.main(["--batch-size=0", "app:hello"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("fastbatch: --batch-size 0 is not")
    assert sys.path == path


# ---- logging ----------------------------------------------------------------------


def can_connect(path: Path) -> bool:
    """Whether a program that may not say so listens at ``path``."""
    try:
        Connection(str(path)).close()
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    return True


def test_log_level_hides_what_is_less(fastbatch_: Start) -> None:
    env = {"FASTBATCH_BIND": "unix:socket", "FASTBATCH_LOG_LEVEL": "error"}
    program = fastbatch_("app:fail", env=env)
    path = program.cwd / "socket"
    helpers.wait_until(lambda: can_connect(path))
    with Connection(str(path)) as connection:
        assert connection.ask().status == 500
    program.signal()
    assert program.wait() == 0
    assert "INFO" not in program.errors
    assert "ValueError: of the handler" in program.errors


def test_messages_of_the_application_are_shown_too(fastbatch_: Start) -> None:
    program = fastbatch_("app:log", "--port=0")
    hello(program)
    program.wait_for("WARNING mine: a message")


def test_logging_of_the_application_is_left_alone(fastbatch_: Start, app: Path) -> None:
    setting_up = "import logging\nlogging.basicConfig(format='<%(message)s>')\n"
    app.write_text(setting_up + APP)
    program = fastbatch_("app:log", "--port=0")
    program.wait_for(r"^<fastbatch .* listening on http://127.0.0.1:\d+>\n")


SCRIPT = """
import logging
import fastbatch
{prepare}
fastbatch.run(lambda request: "hello", port=0)
"""


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        ("", r"fastbatch \S+ listening on http://127\.0\.0\.1:\d+\n"),
        ("logging.basicConfig(level='INFO')", r"INFO:fastbatch:fastbatch .*\n"),
    ],
)
def test_script_shows_where_it_listens(
    start: Start, tmp_path: Path, prepare: str, expected: str
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT.format(prepare=prepare))
    program = start("script.py")
    assert hello(program) == b"hello"
    assert re.fullmatch(expected, program.errors)
    assert program.output == ""


@pytest.mark.parametrize(
    "prepare",
    [
        "logging.getLogger('fastbatch').setLevel('WARNING')",
        "logging.basicConfig()",
        "import sys; sys.stderr.close()",
    ],
)
def test_script_can_be_silent(start: Start, tmp_path: Path, prepare: str) -> None:
    prepare += "\nimport os; os.environ['FASTBATCH_BIND'] = 'unix:socket'"
    script = SCRIPT.replace("port=0", "").format(prepare=prepare)
    (tmp_path / "script.py").write_text(script)
    program = start("script.py")
    helpers.wait_until(lambda: can_connect(tmp_path / "socket"))
    with Connection(str(tmp_path / "socket")) as connection:
        assert connection.ask().body == b"hello"
    program.signal(signal.SIGTERM)
    assert program.wait() == 0
    assert program.errors == program.output == ""
