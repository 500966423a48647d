"""Options: what is allowed, what the messages say, and who wins."""

import dataclasses
import decimal
import enum
import inspect
import logging
import math
import pickle
from typing import Any, NoReturn, get_type_hints

import pytest

from fastbatch import Options, Server, _config, _core, run
from fastbatch._config import OPTIONS, SHORTHANDS, OptionArguments, describe_options

NAMES = [option.name for option in OPTIONS]
SECONDS = ["deadline", *(name for name in NAMES if name.endswith("_timeout"))]


def options(name: str, value: Any) -> Options:
    """The options of which one is set."""
    return Options(**{name: value})


def message(**arguments: Any) -> str:
    """What is said to these arguments."""
    with pytest.raises((TypeError, ValueError)) as caught:
        Options.from_arguments(**arguments)
    return str(caught.value)


# ---- values -----------------------------------------------------------------------


def test_defaults_are_those_of_the_c_core() -> None:
    defaults = Options()
    for name, value in dataclasses.asdict(defaults).items():
        if name in _core.LIMITS:
            assert value == _core.LIMITS[name]
        if f"{name}_ms" in _core.LIMITS:
            assert value * 1000 == _core.LIMITS[f"{name}_ms"]
        if f"{name}_us" in _core.LIMITS:
            assert value * 1_000_000 == _core.LIMITS[f"{name}_us"]
    assert (defaults.batch_wait, defaults.deadline) == (0.0, 0.0)
    assert (defaults.queue_size, defaults.queue_full_status) == (4096, 503)
    assert defaults.batch_size == _core.LIMITS["batch_slots"] == 256
    assert defaults.bind == ("127.0.0.1:8000",)


INTEGERS = {
    "batch_size": (1, 256),
    "queue_size": (1, 1_000_000),
    "threads": (0, 1024),
    "backlog": (1, 65535),
    "max_target": (1, 1024**2),
    "max_headers": (1, 256),
    "max_head": (1, 1024**2),
    "max_body": (0, 1024**4),
    "max_body_memory": (0, 1024**3),
    "max_connections": (1, 1_000_000),
    "max_keepalive_requests": (1, 2**32 - 1),
    "max_input_memory": (0, 1024**4),
    "max_requests": (0, 2**32 - 1),
    "max_requests_jitter": (0, 2**32 - 1),
    "max_rss": (0, 1024**4),
    "min_rate": (0, 1024**3),
    "unix_mode": (0, 0o777),
}


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_are_taken_up_to_their_bounds(name: str) -> None:
    for value in INTEGERS[name]:
        assert getattr(options(name, value), name) == value


@pytest.mark.parametrize("name", INTEGERS)
def test_integers_beyond_their_bounds_are_refused(name: str) -> None:
    low, high = INTEGERS[name]
    for value in (low - 1, high + 1, 2**41, -(2**63), 10**30):
        with pytest.raises(
            ValueError, match=f"^{name}={value} is not allowed: it must"
        ):
            options(name, value)


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", [True, False, 1.0, "1", b"1", None, [1], math.nan])
def test_what_is_no_integer_is_refused(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"^{name}=.* is not allowed: it must be "):
        options(name, value)


def test_the_sentence_names_option_value_and_what_is_allowed() -> None:
    assert message(batch_size=0) == (
        "batch_size=0 is not allowed: it must be an integer from 1 to 256 (requests)"
    )
    assert message(unix_mode=666) == (
        "unix_mode=666 is not allowed: it must be permission bits in octal, from 0 to"
        " 0o777"
    )
    assert message(head_timeout=-1) == (
        "head_timeout=-1 is not allowed: it must be a number of seconds from 0 (none)"
        " to 2147483"
    )
    assert message(batch_wait=3601) == (
        "batch_wait=3601 is not allowed: it must be a number of seconds from 0 (none)"
        " to 3600"
    )
    assert message(queue_full_status=500) == (
        "queue_full_status=500 is not allowed: it must be 503 or 429"
    )
    assert message(deadline_header="X-Deadline:") == (
        "deadline_header='X-Deadline:' is not allowed: it must be the name of a header"
        " field, or '' (none)"
    )
    assert message(interface="asgi") == (
        "interface='asgi' is not allowed: it must be 'auto', 'request', 'batch' or"
        " 'wsgi'"
    )
    assert message(root_path="app/") == (
        "root_path='app/' is not allowed: it must be a str that begins with '/' and"
        " does not end with it, with no '//', '?', '#', '%' or control character in it,"
        " or ''"
    )


@pytest.mark.parametrize("name", SECONDS)
def test_timeouts_are_floats_and_zero_is_none(name: str) -> None:
    for value in (0, 0.0, 1, 0.001, 2147483):
        kept = getattr(options(name, value), name)
        assert kept == value
        assert type(kept) is float


@pytest.mark.parametrize("name", SECONDS)
@pytest.mark.parametrize(
    "value", [-0.001, math.nan, math.inf, -math.inf, 2147484, 1e300]
)
def test_timeouts_that_are_no_time_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name}=.* is not allowed"):
        options(name, value)


@pytest.mark.parametrize("value", [True, "1", None, decimal.Decimal(1), 1j])
def test_timeouts_that_are_no_number_are_refused(value: object) -> None:
    with pytest.raises(TypeError, match=r"^head_timeout=.* is not allowed"):
        Options(head_timeout=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, 0.000001, 0.5, 3600])
def test_batch_wait_is_a_float_of_up_to_an_hour(value: float) -> None:
    kept = Options(batch_wait=value).batch_wait
    assert kept == value
    assert type(kept) is float


@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf, 3600.001, 10**400])
def test_batch_wait_that_is_no_such_time_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"^batch_wait=.* is not allowed"):
        Options(batch_wait=value)


@pytest.mark.parametrize("value", [503, 429])
def test_full_queue_may_be_told_in_two_ways(value: int) -> None:
    assert Options(queue_full_status=value).queue_full_status == value


@pytest.mark.parametrize("value", [0, 500, 504, 4290, -503, 10**30])
def test_full_queue_is_told_in_no_other_way(value: int) -> None:
    with pytest.raises(ValueError, match=r"^queue_full_status=.* must be 503 or 429$"):
        Options(queue_full_status=value)


@pytest.mark.parametrize("value", [True, 503.0, "503", None])
def test_status_of_a_full_queue_that_is_no_integer_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^queue_full_status=.* must be 503 or 429$"):
        Options(queue_full_status=value)


@pytest.mark.parametrize("value", ["", "X-Deadline", "grpc.timeout", "a!#$%&'*+^`|~1"])
def test_deadline_header_may_be_any_field_name(value: str) -> None:
    assert Options(deadline_header=value).deadline_header == value


@pytest.mark.parametrize(
    "value", ["X Deadline", "X-Deadline:", "X\r\n", "\n", "\0", "é", "(a)", "a/b", " "]
)
def test_deadline_header_that_is_no_field_name_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="must be the name of a header field"):
        Options(deadline_header=value)


def test_deadline_header_that_would_be_dropped_is_refused() -> None:
    with pytest.raises(ValueError, match="with an underscore in their names are drop"):
        Options(deadline_header="X_Deadline")


@pytest.mark.parametrize("value", [None, b"X-Deadline", 1])
def test_deadline_header_that_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^deadline_header=.* is not allowed"):
        Options(deadline_header=value)


@pytest.mark.parametrize("value", ["", "fastbatch", "a/1 (b; c)", "x" * 127])
def test_server_header_may_be_any_field_value(value: str) -> None:
    assert Options(server_header=value).server_header == value


@pytest.mark.parametrize(
    "value",
    ["a\r\nSet-Cookie: b", "a\n", "\r", "a\0", " a", "a ", "é", "\x7f", "x" * 128],
)
def test_server_header_that_breaks_the_head_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        Options(server_header=value)


@pytest.mark.parametrize("value", [0.0005, 1 / 3, 1234567.891, 2147483.0, 1e-320])
def test_timeouts_are_read_back_from_their_text(value: float) -> None:
    (option,) = (option for option in OPTIONS if option.name == "head_timeout")
    assert option.parse(option.rule.format(value), "it") == value


def test_integer_of_more_digits_than_can_be_shown_is_refused_by_name() -> None:
    assert message(batch_size=10**5000) == (
        "batch_size=<int> is not allowed: it must be an integer from 1 to 256"
        " (requests)"
    )
    assert message(port=10**5000).startswith("port=<int> is not allowed: it must be")


@pytest.mark.parametrize("name", ["batch_size", "bind", "max_body"])
def test_value_that_raises_is_refused_by_name(name: str) -> None:
    class Raises(list[str]):
        def __iter__(self) -> NoReturn:
            raise OSError("of its own")

        __index__ = __repr__ = __iter__  # type: ignore[assignment]

    with pytest.raises(TypeError) as caught:
        options(name, Raises())
    assert str(caught.value) == f"{name}=<Raises> is not allowed: it raises an error"
    assert isinstance(caught.value.__cause__, OSError)


def test_enums_are_kept_as_their_plain_values() -> None:
    class Number(enum.IntEnum):
        SEVEN = 7

    class Word(enum.StrEnum):
        WSGI = "wsgi"
        ROOT = "/app"
        BIND = "a:1"

    given: Any = {
        "batch_size": Number.SEVEN,
        "interface": Word.WSGI,
        "root_path": Word.ROOT,
        "server_header": Word.WSGI,
        "bind": Word.BIND,
    }
    kept = Options(**given)
    for name in given.keys() - {"bind"}:
        assert type(getattr(kept, name)) in (int, str)
    assert repr(kept.bind) == "('a:1',)"


# ---- bind -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "127.0.0.1:8000",
        "localhost:0",
        ":8000",
        "[::1]:80",
        "[fe80::1%eth0]:80",
        "a.example:65535",
        "unix:/run/app.sock",
        "unix:app.sock",
        "fd:3",
        "systemd",
    ],
)
def test_bind_may_be_any_of_its_forms(value: str) -> None:
    assert Options(bind=value).bind == (value,)  # type: ignore[arg-type]


def test_bind_may_be_several() -> None:
    assert Options(bind=["a:1", "b:2"]).bind == ("a:1", "b:2")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "host:port, [ipv6]:port, :port, unix:path, fd:number or systemd"),
        ("8000", "host:port, "),
        ("localhost", "host:port, "),
        ("localhost:", "port must be an integer from 0 to 65535"),
        ("localhost:http", "port must be"),
        ("localhost:65536", "port must be"),
        ("localhost:-1", "port must be"),
        ("localhost:+1", "port must be"),
        ("localhost: 1", "port must be"),
        ("localhost:\N{ARABIC-INDIC DIGIT ONE}", "port must be"),
        ("localhost:" + "9" * 5000, "port must be"),
        ("::1:8000", "brackets"),
        ("::", "brackets"),
        ("[::1]", "brackets"),
        ("[localhost]:80", "no IPv6 address"),
        ("[]:80", "no IPv6 address"),
        ("http://localhost:80", "name or an IP address, not 'http://localhost'"),
        ("local host:80", "name or an IP address"),
        ("local\nhost:80", "name or an IP address"),
        ("unix:", "unix:path"),
        ("unix:a\0b", "unix:path"),
        ("unix:\ud800", "it must be unix:path, a path that the system can have"),
        ("unix:" + "a" * 108, "its path is 108 bytes long, and the system allows 107"),
        ("unix:" + "é" * 54, "its path is 108 bytes long"),
        ("fd:", "fd:number"),
        ("fd:-1", "fd:number"),
        ("fd:stdin", "fd:number"),
        ((), "a sequence of these"),
        (("a:1", "a:1"), "it has a:1 twice"),
        (("a:1", "b"), "'b': it must be host:port"),
    ],
)
def test_bind_that_says_nothing_is_refused(value: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=r"^bind=") as caught:
        Options(bind=value)
    assert reason in str(caught.value)


@pytest.mark.parametrize("value", [None, 8000, b"a:1", {"a:1"}, [8000], [b"a:1"]])
def test_bind_that_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^bind=.* is not allowed: "):
        Options(bind=value)


# ---- proxies ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("", ()),
        ((), ()),
        ("127.0.0.1", ("127.0.0.1",)),
        ("10.0.0.0/8, unix,::1", ("10.0.0.0/8", "unix", "::1")),
        (["2001:DB8:0::/32", "*"], ("2001:db8::/32", "*")),
        ("10.1.2.3/32", ("10.1.2.3/32",)),
        ("0.0.0.0/0", ("0.0.0.0/0",)),
        (["::1"] * 1024, ("::1",) * 1024),
    ],
)
def test_proxies_may_be_addresses_networks_and_words(value: Any, kept: Any) -> None:
    assert Options(forwarded_allow_ips=value).forwarded_allow_ips == kept


@pytest.mark.parametrize(
    "value",
    [
        ",",
        "127.0.0.1,",
        "localhost",
        "127.0.0",
        "127.0.0.01",
        "127.0.0.1:80",
        "[::1]",
        "::1%lo",
        "fe80::%lo/10",
        "10.0.0.0/",
        "10.0.0.0/33",
        "10.0.0.0/255.0.0.0",
        "10.0.0.0/+8",
        "10.0.0.0/8/8",
        "::/129",
        "UNIX",
        "1",
        [""],
        ["::1, ::2"],
    ],
)
def test_proxies_that_are_no_addresses_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^forwarded_allow_ips=.*networks such as"):
        Options(forwarded_allow_ips=value)


@pytest.mark.parametrize("value", [None, 1, b"::1", {"::1"}, [b"::1"], [2130706433]])
def test_proxies_that_are_no_text_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^forwarded_allow_ips=.* is not allowed: "):
        Options(forwarded_allow_ips=value)


def test_network_with_bits_behind_its_prefix_is_refused() -> None:
    assert message(forwarded_allow_ips="10.1.2.3/8") == (
        "forwarded_allow_ips='10.1.2.3/8' is not allowed: '10.1.2.3/8' has bits behind"
        " its prefix: the network is 10.0.0.0/8"
    )
    assert "the network is fd00::/8" in message(forwarded_allow_ips="fd00::1/8")


def test_proxies_beyond_what_c_has_room_for_are_refused() -> None:
    assert "more than 1024 items" in message(forwarded_allow_ips=["::1"] * 1025)


def test_proxy_protocol_needs_somebody_to_speak_it() -> None:
    assert Options(proxy_protocol=True, forwarded_allow_ips="*").proxy_protocol is True
    assert message(proxy_protocol=True).startswith(
        "proxy_protocol needs forwarded_allow_ips, the proxies that may speak it"
    )


@pytest.mark.parametrize("value", [1, 0, "true", None])
def test_switch_that_is_no_bool_is_refused(value: Any) -> None:
    expected = f"proxy_protocol={value!r} is not allowed: it must be True or False"
    assert message(proxy_protocol=value) == expected


# ---- workers ----------------------------------------------------------------------


@pytest.mark.parametrize("value", [1, 256, "auto"])
def test_workers_are_a_number_or_auto(value: Any) -> None:
    assert Options(workers=value).workers == value


@pytest.mark.parametrize("value", [0, -1, 257, "2", "", "Auto", True, 1.0, None, b"2"])
def test_workers_that_are_neither_are_refused(value: Any) -> None:
    assert message(workers=value) == (
        f"workers={value!r} is not allowed: it must be an integer from 1 to 256, or"
        " 'auto'"
    )


def test_processes_are_asked_for_or_refused_or_left_open() -> None:
    assert Options().processes is None
    for value, kept in [(True, True), (False, False), (None, None), ("auto", None)]:
        assert Options(processes=value).processes is kept  # type: ignore[arg-type]
    for value in (1, 0, "true", ""):
        assert message(processes=value) == (
            f"processes={value!r} is not allowed: it must be True, False or None"
            " ('auto')"
        )


# ---- arguments --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "bind"),
    [
        ({"host": "0.0.0.0"}, "0.0.0.0:8000"),
        ({"port": 80}, "127.0.0.1:80"),
        ({"port": 0}, "127.0.0.1:0"),
        ({"host": "::1", "port": 80}, "[::1]:80"),
        ({"host": "localhost", "port": None}, "localhost:8000"),
        ({"host": "", "port": 80}, ":80"),
        ({"host": None, "port": None}, "127.0.0.1:8000"),
    ],
)
def test_host_and_port_are_short_for_bind(arguments: Any, bind: str) -> None:
    assert Options.from_arguments(**arguments).bind == (bind,)


def test_host_and_port_are_checked() -> None:
    assert message(port=65536) == (
        "port=65536 is not allowed: it must be an integer from 0 to 65535"
    )
    assert message(port="80").startswith("port='80' is not allowed")
    assert message(port=True).startswith("port=True is not allowed")
    for host in ("unix:/a", "http://a", "a b", "[::1]", "a:1"):
        assert message(host=host) == (
            f"host={host!r} is not allowed: it must be a host name or an IP address"
        )


@pytest.mark.parametrize("other", [{"host": "a"}, {"port": 1}])
def test_bind_with_host_or_port_is_refused(other: Any) -> None:
    expected = "bind and host or port were both given: choose one"
    assert message(bind="b:1", **other) == expected


def test_unknown_option_is_refused_with_a_suggestion() -> None:
    expected = "there is no option 'batchsize'; did you mean batch_size?"
    assert message(batchsize=1) == expected
    assert message(colour=1) == "there is no option 'colour'"


def test_options_or_arguments_but_not_both() -> None:
    for function in (run, Server):
        with pytest.raises(TypeError, match="either an Options or keyword arguments"):
            function(lambda _: None, Options(), batch_size=1)


# ---- environment ------------------------------------------------------------------


def test_every_option_is_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = {
        "bind": ("unix:/a, [::1]:80", ("unix:/a", "[::1]:80")),
        "unix_mode": ("640", 0o640),
        "interface": ("wsgi", "wsgi"),
        "batch_wait": ("0.002", 0.002),
        "deadline_header": ("X-Deadline-ms", "X-Deadline-ms"),
        "queue_full_status": ("429", 429),
        "workers": ("auto", "auto"),
        "processes": ("false", False),
        "root_path": ("/app", "/app"),
        "server_header": ("", ""),
        "forwarded_allow_ips": ("::1, 10.0.0.0/8", ("::1", "10.0.0.0/8")),
        "proxy_protocol": ("true", True),
        "access_log": ("-", "-"),
        "pid_file": ("/run/a.pid", "/run/a.pid"),
        "reload": ("true", True),
        "access_log_format": ("json", "json"),
        "metrics": ("unix:/m", "unix:/m"),
    }
    texts |= {name: ("7", 7) for name in INTEGERS if name not in texts}
    texts |= dict.fromkeys(SECONDS, ("0.25", 0.25))
    for name, (text, _) in texts.items():
        monkeypatch.setenv(f"FASTBATCH_{name.upper()}", text)
    expected = {name: value for name, (_, value) in texts.items()}
    assert dataclasses.asdict(Options.from_env()) == expected
    assert set(expected) == set(NAMES)


def test_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTBATCH_BIND", "a:1")
    monkeypatch.setenv("FASTBATCH_BATCH_SIZE", "nonsense that is not looked at")
    options = Options.from_env(port=2, batch_size=3)
    assert options.bind == ("127.0.0.1:2",)
    assert options.batch_size == 3


def test_environment_is_read_by_from_env_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTBATCH_BATCH_SIZE", "3")
    assert Options().batch_size == 256
    assert Options.from_arguments().batch_size == 256
    assert Options.from_env().batch_size == 3


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("BATCH_SIZE", ""),
        ("BATCH_SIZE", "0"),
        ("BATCH_SIZE", "1.5"),
        ("BATCH_SIZE", "9" * 5000),
        ("MAX_BODY", "1M"),
        ("UNIX_MODE", "888"),
        ("UNIX_MODE", "1777"),
        ("HEAD_TIMEOUT", "nan"),
        ("HEAD_TIMEOUT", "inf"),
        ("HEAD_TIMEOUT", "1s"),
        ("INTERFACE", "Auto"),
        ("BIND", ""),
        ("BIND", "a:1,"),
        ("SERVER_HEADER", "a\nb"),
        ("FORWARDED_ALLOW_IPS", "localhost"),
        ("PROXY_PROTOCOL", "True"),
        ("WORKERS", "0"),
        ("WORKERS", "257"),
        ("WORKERS", "Auto"),
        ("WORKERS", ""),
        ("PROCESSES", "None"),
        ("PROCESSES", "1"),
        ("PROXY_PROTOCOL", "1"),
        ("PROXY_PROTOCOL", ""),
    ],
)
def test_environment_that_is_wrong_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str
) -> None:
    monkeypatch.setenv(f"FASTBATCH_{variable}", text)
    with pytest.raises(ValueError, match=f"^FASTBATCH_{variable}=.* is not allowed: "):
        Options.from_env()


def test_variable_that_looks_like_an_option_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FASTBATCH_BATCHSIZE", "1")
    monkeypatch.setenv("FASTBATCH_SANITIZE", "1")  # a switch of the build
    monkeypatch.setenv("FASTBATCH_PORT", "tcp://10.0.0.1:80")  # set by Kubernetes
    assert Options.from_env() == Options()
    assert caplog.record_tuples == [
        (
            "fastbatch",
            logging.WARNING,
            "FASTBATCH_BATCHSIZE is ignored: it is no option; did you mean"
            " FASTBATCH_BATCH_SIZE?",
        )
    ]


# ---- the table --------------------------------------------------------------------


def test_options_are_immutable_and_have_no_other_attributes() -> None:
    defaults = Options()
    with pytest.raises(dataclasses.FrozenInstanceError):
        defaults.batch_size = 1  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        object.__setattr__(defaults, "batchsize", 1)


def test_options_are_values() -> None:
    options = Options(bind=["a:1"], batch_size=2)  # type: ignore[arg-type]
    assert options == Options(bind=("a:1",), batch_size=2)
    assert hash(options) == hash(Options(bind=("a:1",), batch_size=2))
    assert pickle.loads(pickle.dumps(options)) == options
    assert dataclasses.replace(options, batch_size=3).bind == ("a:1",)
    with pytest.raises(ValueError, match=r"^batch_size=0 "):
        dataclasses.replace(options, batch_size=0)


def test_arguments_of_run_are_the_table() -> None:
    expected = {option.name for option in OPTIONS + SHORTHANDS}
    assert set(get_type_hints(OptionArguments)) == expected
    hints, fields = get_type_hints(OptionArguments), get_type_hints(Options)
    for name in set(NAMES) - {"bind", "forwarded_allow_ips"}:
        assert hints[name] == fields[name]


@pytest.mark.parametrize("option", OPTIONS, ids=NAMES)
def test_default_is_read_back_from_its_text(option: _config.Option) -> None:
    text = option.rule.format(option.default).replace("''", "")
    assert option.parse(text, "it") == option.default


def test_documentation_has_every_option() -> None:
    table = describe_options()
    assert "max_body: int = 16777216 (bytes)\n" in table
    assert "keepalive_timeout: float = 75.0 (seconds)\n" in table
    assert inspect.getdoc(Options) is not None
    for name in NAMES:
        assert f"\n{name}: " in f"\n{table}"
        assert f"{name}: " in (Options.__doc__ or "")
