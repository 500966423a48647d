"""The command line: ``fastbatch module:handler``, ``python -m fastbatch``.

Its flags are the table of options, the ``FASTBATCH_*`` variables the same once more.
It ends with 0 after a stop in good order, 1 if the server or the handler's module
failed, 2 if what it was told is wrong, and 130 after a second Ctrl-C.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from fastbatch import __version__, _core
from fastbatch._config import (
    BINDING,
    ENV_PREFIX,
    LOGGING,
    OPTIONS,
    SHORTHANDS,
    OneOf,
    Option,
    Options,
    Switch,
)
from fastbatch._load import LoadError, load_handler
from fastbatch._process import StartError
from fastbatch._reload import ReloadError, ReloadProcess
from fastbatch._server import Server, serve, supervise
from fastbatch._sockets import BindError
from fastbatch._supervisor import is_wanted
from fastbatch._worker_process import leave, status_of, work

_FAILED = 1
_MISUSED = 2
_INTERRUPTED = 130  # as a shell reports a program that SIGINT ended

_LOG_LEVEL = Option(
    "log_level",
    LOGGING,
    OneOf("debug", "info", "warning", "error", "critical"),
    "The least severe messages of fastbatch that are shown, on stderr. Logging that the"
    " handler's module sets up is left as it is.",
    "info",
)

_EPILOG = (
    "A time-out of 0 is none. An option of true|false that stands alone is true. Each"
    " option can be set by a variable of its name too, as"
    f" {ENV_PREFIX}BATCH_SIZE; several addresses in {ENV_PREFIX}BIND are separated by"
    " commas. The command line wins over the environment."
)


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one sentence, not three lines of usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(_MISUSED, _misuse(self.prog, message) + "\n")


def _misuse(prog: str, message: str) -> str:
    return f"{prog}: {message}\nSee {prog} --help."


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve as the command line says. Returns the exit status."""
    try:
        return _run(_parser(), arguments)
    except KeyboardInterrupt:
        return _INTERRUPTED


def _run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    given = vars(parser.parse_args(_with_values(words)))
    name = given.pop("handler")
    try:
        log_level = _log_level(given)
        options = Options.from_env(**_values(given))
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    # As for a script: what is in the working directory can be imported.
    sys.path.insert(0, str(Path.cwd()))

    def make_server() -> Server:
        server = _make_server(parser.prog, name, options)
        _set_up_logging(log_level)
        return server

    try:
        if is_wanted(options):
            is_program = arguments is None
            return _supervise(options, log_level, make_server, is_program)
        serve(make_server())
    except StartError as error:
        parser.exit(error.status, f"{error}\n")
    except BindError as error:
        return _failed(parser, error.sentence(f"--{error.option}"))
    except ReloadError as error:
        return _failed(parser, str(error))
    except OSError as error:
        return _failed(parser, f"cannot serve: {error}")
    return 0


def _make_server(prog: str, name: str, options: Options) -> Server:
    """A server of the handler that ``name`` names. Raises StartError."""
    try:
        handler = load_handler(name)
    except LoadError as error:
        raise StartError(_misuse(prog, str(error)), _MISUSED) from None
    except Exception as error:  # it is the user's, whatever it is
        sentence = f"{prog}: {name} cannot be imported: see above"
        raise StartError(_user_traceback(error) + sentence) from error
    try:
        return Server(handler, options)
    except TypeError as error:  # the handler's signature
        raise StartError(_misuse(prog, f"{name}: {error}"), _MISUSED) from None


def _supervise(
    options: Options,
    log_level: str,
    make_server: Callable[[], Server],
    is_program: bool,
) -> int:
    """Serve with workers. Returns the exit status.

    It returns in each of their processes, too, if the whole program is ours: then what
    the handler's module has for the end of the program is done there.
    """
    ours = _set_up_logging(log_level)
    with ReloadProcess(Path.cwd()) as watching:
        if options.reload:
            # Of two edits in a second, bytecode would be that of the first.
            sys.dont_write_bytecode = True
            watching.start()
        seat = supervise(options)
        if seat is None:
            return 0
        for handler in ours:  # so that the handler's module can set up its own
            logging.getLogger().removeHandler(handler)

        def make_watched_server() -> Server:
            server = make_server()
            watching.report(sys.modules)
            return server

        def serve_here() -> int:
            return work(seat, make_watched_server, options.graceful_timeout)

        if not is_program:
            leave(status_of(serve_here))
        return serve_here()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m fastbatch" if __name__ == "__main__" else "fastbatch",
        usage="%(prog)s [options] module:handler",
        description="Serve the handler that module:handler names over HTTP/1.1.",
        epilog=_EPILOG,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument(
        "handler",
        metavar="module:handler",
        help="what answers the requests: app:hello is hello in app.py",
    )
    parser.add_argument("-h", "--help", action="help", help="show this and exit")
    parser.add_argument(
        "--version", action="version", version=_version(), help="show it and exit"
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for option in _table():
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        _add_flag(groups[option.group], option)
    return parser


def _table() -> list[Option]:
    """The options in the order of --help: the shorthands next to --bind."""
    bind, *others = OPTIONS
    assert bind.group == BINDING
    return [bind, *SHORTHANDS, *others, _LOG_LEVEL]


def _add_flag(group: argparse._ArgumentGroup, option: Option) -> None:
    description = option.description.replace("%", "%%")
    if option not in SHORTHANDS:
        description += f" [default: {option.rule.format(option.default)}]"
    group.add_argument(
        option.flag,
        # Texts: argparse would word a bad value in its own way.
        action="append" if option.name == "bind" else "store",
        default=argparse.SUPPRESS,
        metavar=option.rule.metavar,
        help=description,
    )


def _with_values(arguments: Sequence[str]) -> list[str]:
    """``arguments`` with a value for each switch that stands alone: it is on."""
    switches = {option.flag for option in OPTIONS if isinstance(option.rule, Switch)}
    following = [*arguments[1:], ""]
    return [
        f"{one}=true" if one in switches and value not in ("true", "false") else one
        for one, value in zip(arguments, following, strict=False)
    ]


def _values(given: dict[str, Any]) -> dict[str, Any]:
    """The flags that were given, as the arguments of run()."""
    if "bind" in given and ("host" in given or "port" in given):
        raise ValueError("--bind and --host or --port were both given: choose one")
    values = {}
    for option in _table():
        if option.name not in given:
            continue
        text = given[option.name]
        if option.name == "bind":
            label = " ".join(f"{option.flag} {one}" for one in text)
            values["bind"] = option.check(text, label)
        else:
            values[option.name] = option.parse(text, f"{option.flag} {text}")
    return values


def _log_level(given: dict[str, Any]) -> str:
    """--log-level, taken out of ``given``, or its variable, or its default."""
    level: str = _LOG_LEVEL.default
    if _LOG_LEVEL.name in given:
        text = given.pop(_LOG_LEVEL.name)
        level = _LOG_LEVEL.parse(text, f"{_LOG_LEVEL.flag} {text}")
    elif _LOG_LEVEL.variable in os.environ:
        text = os.environ[_LOG_LEVEL.variable]
        level = _LOG_LEVEL.parse(text, f"{_LOG_LEVEL.variable}={text!r}")
    return level


def _set_up_logging(level: str) -> list[logging.Handler]:
    """Show the messages of fastbatch on stderr. Returns the handlers that do.

    To be called once the handler's module is imported: basicConfig() does nothing then
    if that has set up logging.
    """
    before = logging.getLogger().handlers[:]
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("fastbatch").setLevel(level.upper())
    return [each for each in logging.getLogger().handlers if each not in before]


def _user_traceback(error: Exception) -> str:
    """The traceback of ``error`` from where the user's module starts."""

    def is_ours(frame: TracebackType) -> bool:
        name = frame.tb_frame.f_globals.get("__name__", "")
        return name.partition(".")[0] in {__package__, "importlib", "__main__"}

    frames = error.__traceback__
    while frames is not None and is_ours(frames):
        frames = frames.tb_next
    return "".join(traceback.format_exception(error.with_traceback(frames)))


def _failed(parser: argparse.ArgumentParser, message: str) -> int:
    print(f"{parser.prog}: {message}", file=sys.stderr)
    return _FAILED


def _version() -> str:
    libraries = (f"{name} {version}" for name, version in _core.VERSIONS.items())
    return f"fastbatch {__version__} ({', '.join(libraries)})"


if __name__ == "__main__":
    sys.exit(main())
