"""Whatever an option is given, it is taken, or refused with a sentence of ours.

As a Python value, a flag of the command line or a variable: what is taken is read back
from its own text, and the C extension takes it, too; what is not is a TypeError or a
ValueError that names the option and says what it may be.

The options are those of the table. ``python tests/test_fuzz_options.py 3600`` tries
other values than those of every day for an hour, and prints how many.
"""

import contextlib
import decimal
import enum
import fractions
import io
import os
import re
import sys
from typing import Any

import fuzzing
import odd
from hypothesis import strategies as st

import fastbatch
from fastbatch import __main__ as command_line
from fastbatch._config import (
    OPTIONS,
    SHORTHANDS,
    Binds,
    FieldValue,
    Integer,
    OneOf,
    Option,
    Options,
    Peers,
    RootPath,
    Seconds,
    Switch,
)

# Of these any value may go into a server: none is of a file that it would make. But
# reload is for the command line alone.
HARMLESS = (FieldValue, Integer, OneOf, Peers, RootPath, Seconds, Switch)

# Of one value; or of one that is right, but not without another option.
_SHOWN = r"['\"].*['\"]"
REFUSAL = rf"(?s)%s is not allowed: (?:{_SHOWN}: (?:it|its)|it|its|there|{_SHOWN} has) "
NEEDS = r"[a-z_]+ needs [a-z_]+, "


class Word(enum.StrEnum):
    """Words that are not quite str."""

    WSGI = "wsgi"
    ROOT = "/app"
    BIND = "127.0.0.1:0"
    UNIX = "unix"


class Index:
    """What is a whole number by __index__."""

    def __init__(self, number: Any) -> None:
        self._number = number

    def __index__(self) -> Any:
        if self._number is None:
            raise odd.OddError
        return self._number

    def __repr__(self) -> str:
        return f"Index({self._number!r})"


# ---- values -------------------------------------------------------------------------

_EDGES = [-1, 0, 1, 2, 255, 256, 257, 0o777, 0o1000, 65535, 65536, 2**20, 10**6]
_EDGES += [2147483, 2147484, 2**30, 2**31, 2**32, 2**40, 2**63 - 1, 2**63, 2**64]

_integers = odd.either(
    st.sampled_from(_EDGES),
    st.integers(-5, 300),
    st.integers(),
    st.integers(4301, 5000).map(lambda n: 10**n),
)

_floats = odd.either(
    st.floats(0, 3_000_000),
    st.floats(0, 1),
    st.floats(),
    st.sampled_from([0.0005, 2147483.0, 2147482.9999, 1e-320, -0.0]),
)

_hosts = odd.either(
    st.sampled_from(
        ["localhost", "127.0.0.1", "::1", "[::1]", "[::]", "", "é.example"]
    ),
    st.text(st.sampled_from("a1.:[]%/- \t\n\0é\ud800"), max_size=8),
)
_ports = odd.either(
    st.sampled_from(["0", "80", "65535", "65536", "-1", "+1", "", "٣", "0x50", " 80"]),
    _integers.filter(lambda n: abs(n) < 10**20).map(str),
)
_paths = odd.either(
    st.text(st.sampled_from("/ab.,% \0\ud800\udc80é€"), max_size=12),
    st.integers(100, 110).map(lambda n: "/" + n * "x"),
)

texts = odd.either(
    odd.texts,
    odd.texts,
    _integers.filter(lambda n: abs(n) < 10**20).map(str),
    _integers.filter(lambda n: 0 <= n < 10**20).map(oct),
    _floats.map(str),
    st.sampled_from(["auto", "request", "wsgi", "systemd", "on", "true", "off", "-"]),
    st.sampled_from(["unix", "*", "10.0.0.0/8", "10.0.0.1/8", "::/0", "10.0.0.1,unix"]),
    st.sampled_from(["1_000", "١٢", " 5 ", "5\n", "1e3", "9" * 5000, "0" * 5000 + "7"]),
    st.builds("{}:{}".format, _hosts, _ports),
    st.lists(st.builds("{}:{}".format, _hosts, _ports)).map(",".join),
    st.builds("{}{}".format, st.sampled_from(["unix:", "fd:", "/", ""]), _paths),
    st.builds("{}{}".format, st.sampled_from(["fd:", "unix:"]), _ports),
)

values: st.SearchStrategy[Any] = odd.either(
    _integers,
    _floats,
    texts,
    texts,
    st.lists(texts, max_size=3),
    st.lists(texts, max_size=3).map(tuple),
    st.lists(odd.either(texts, _integers, st.none()), max_size=3),
    st.booleans(),
    st.none(),
    st.binary(max_size=8),
    st.binary(max_size=8).map(bytearray),
    st.sampled_from(Word),
    st.sampled_from(odd.Colour),
    odd.either(_integers, _floats, st.none(), odd.texts).map(Index),
    st.integers(0, 9).map(odd.HostileInt),
    st.sampled_from([decimal.Decimal(1), fractions.Fraction(1, 2), 1j, 5 + 0j]),
    st.dictionaries(texts, _integers, max_size=2),
    st.sets(texts, max_size=2),
    odd.hostile_objects,
    st.builds(lambda: odd.HostileList(["a:1"])),
    st.builds(lambda: range(2)),
)

table = st.sampled_from(OPTIONS + SHORTHANDS)


def check_refusal(error: Exception, label: str) -> None:
    fuzzing.tally["refused"] += 1
    assert type(error) in (TypeError, ValueError)
    assert re.match(f"{REFUSAL % label}|{NEEDS}", str(error)), str(error)


def check_taken(options: Options) -> None:
    """Each is read back from its text, and a server can be made of the harmless."""
    fuzzing.tally["taken"] += 1
    for option in OPTIONS:
        value = getattr(options, option.name)
        text = "" if value in ("", ()) else option.rule.format(value)
        if isinstance(option.rule, Binds) and not _can_be_text(value):
            continue
        again = option.parse(text, "what it says itself")
        assert (type(again), again) == (type(value), value)
    server = fastbatch.Server(
        lambda _request: None,
        **{
            option.name: getattr(options, option.name)
            for option in OPTIONS
            if isinstance(option.rule, HARMLESS) and option.name != "reload"
        },
        bind="127.0.0.1:0",
    )
    server._open(wakeup_fd=-1)
    server._abandon()


def _can_be_text(binds: tuple[str, ...]) -> bool:
    """Whether no path has in it what separates several."""
    return not any("," in bind or bind != bind.strip() for bind in binds)


def python_value(option: Option, value: Any) -> None:
    if value is None and option in SHORTHANDS:
        return
    try:
        options = Options.from_arguments(**{option.name: value})
    except (TypeError, ValueError) as error:
        check_refusal(error, f"{option.name}=.*")
    else:
        check_taken(options)


def variable(option: Option, text: str) -> None:
    if option in SHORTHANDS:
        return
    try:
        os.environ[option.variable] = text
    except (ValueError, UnicodeError):  # no system can have it
        return
    try:
        options = Options.from_env()
    except (TypeError, ValueError) as error:
        check_refusal(error, f"{option.variable}=.*")
    else:
        check_taken(options)
    finally:
        del os.environ[option.variable]


def flag(option: Option, text: str) -> None:
    said = io.StringIO()
    path = list(sys.path)
    try:
        with contextlib.redirect_stderr(said):
            command_line.main([f"{option.flag}={text}", "no_such_module_at_all:app"])
    except SystemExit as end:
        status = end.code
    finally:
        sys.path[:] = path
    assert status == 2
    message = said.getvalue().partition(": ")[2]
    if "no_such_module_at_all" not in message:
        check_refusal(ValueError(message), re.escape(option.flag) + " .*")


def together(given: dict[str, Any]) -> None:
    """Values that are taken one by one are taken together, if they need no other."""
    taken = {}
    for option in OPTIONS:
        with contextlib.suppress(TypeError, ValueError):
            taken[option.name] = option.check(given[option.name], option.name)
    try:
        options = Options(**taken)
    except ValueError as error:
        check_refusal(error, "nothing else")
    else:
        check_taken(options)


# ---- the tests ----------------------------------------------------------------------

TRIALS = [
    fuzzing.Trial(python_value, option=table, value=values),
    fuzzing.Trial(variable, option=table, text=texts),
    fuzzing.Trial(flag, option=table, text=texts),
    fuzzing.Trial(
        together,
        given=st.fixed_dictionaries({option.name: values for option in OPTIONS}),
    ),
]


def test_whatever_value_an_option_is_given_is_taken_or_refused_in_our_words() -> None:
    TRIALS[0].run()


def test_whatever_a_variable_says_is_taken_or_refused_in_our_words() -> None:
    TRIALS[1].run()


def test_whatever_a_flag_says_is_taken_or_refused_in_our_words() -> None:
    TRIALS[2].run(150)


def test_values_that_are_taken_alone_are_taken_together() -> None:
    TRIALS[3].run(50)


if __name__ == "__main__":
    for trial in TRIALS:
        fuzzing.main(trial, share=1 / len(TRIALS))
