"""Serve a WSGI application with another server, to be measured next to fastbatch.

Usage: python bench/serve_peer.py PEER APP [--workers N] [--threads N]
       python bench/serve_peer.py PEER --about

PEER is one of PEERS below, installed for the interpreter that runs this; APP names a
WSGI application of serving.py. Prints ``{"port": N}``, and listens on that port of
127.0.0.1 soon after if not before; ends at SIGTERM. ``--about`` prints what would be
measured instead.

Each serves with one worker of one thread unless told otherwise, set for the most that
one core gives, without access log.
"""

import argparse
import importlib
import logging
import signal
import socket
from dataclasses import dataclass
from typing import Any

from serving import (  # type: ignore[import-not-found] # it is beside this file
    BACKLOG,
    HOST,
    MODEL_WSGI_APPS,
    WSGI_APPS,
    about,
    free_port,
    load_app,
    say,
)


@dataclass(frozen=True, slots=True)
class Size:
    """What a server is told; ``threads`` run the application in each worker."""

    workers: int
    threads: int


def serve_bjoern(app: str, _size: Size) -> None:
    """One thread, and nothing to set."""
    bjoern = importlib.import_module("bjoern")
    listener = bjoern.bind_and_listen(HOST, 0, listen_backlog=BACKLOG)
    say({"port": listener.getsockname()[1]})
    bjoern.server_run(listener, load_app(app))


def serve_fastpysgi(app: str, size: Size) -> None:
    """One thread, in this process; or workers that are forked, each with a listener.

    TCP_NODELAY is off by default, which makes pipelined replies wait for each other.
    Errors are logged by default, and a client that goes away is one: wrk does.
    """
    fastpysgi = importlib.import_module("fastpysgi")
    port = free_port()
    fastpysgi.server.backlog = BACKLOG
    fastpysgi.server.tcp_nodelay = 1
    say({"port": port})  # init() prints a line of its own, which nobody reads
    if size.workers > 1:  # then it ends them at Ctrl-C alone
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    fastpysgi.server.init(
        load_app(app), HOST, port, fastpysgi.LL_CRIT_ERROR, size.workers
    )
    fastpysgi.server.run()


def serve_granian(app: str, size: Size) -> None:
    """A worker is a process of its own, or a thread where there is no GIL.

    In it are one thread for the network and one for Python, the fewest: more would take
    turns on the core. HTTP/2 is off, so that it need not look which one it is. The
    other runtime_mode and fewer runtime_blocking_threads made no difference to be seen.
    """
    granian = importlib.import_module("granian")
    port = free_port()
    server = granian.Granian(
        WSGI_APPS[app],
        address=HOST,
        port=port,
        interface="wsgi",
        workers=size.workers,
        blocking_threads=size.threads,
        runtime_threads=1,
        http="1",
        backlog=BACKLOG,
        log_access=False,
        log_level="warning",
    )
    say({"port": port})
    server.serve()


def serve_gunicorn(app: str, size: Size) -> None:
    """Its gthread workers: one thread for the network and ``threads`` for Python."""
    base = importlib.import_module("gunicorn.app.base")
    port = free_port()
    options = {
        "bind": f"{HOST}:{port}",
        "workers": size.workers,
        "worker_class": "gthread",
        "threads": size.threads,
        "backlog": BACKLOG,
        "loglevel": "error",
    }

    class Application(base.BaseApplication):  # type: ignore[misc, name-defined]
        def load_config(self) -> None:
            for name, value in options.items():
                self.cfg.set(name, value)

        def load(self) -> Any:
            return load_app(app)

    say({"port": port})
    Application().run()


def serve_waitress(app: str, size: Size) -> None:
    """One process, one thread for the network and ``threads`` for Python.

    Its warning of every queued request is off: nobody reads it.
    """
    waitress = importlib.import_module("waitress")
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    listener = socket.create_server((HOST, 0), backlog=BACKLOG)
    say({"port": listener.getsockname()[1]})
    listener.setblocking(False)
    waitress.serve(load_app(app), sockets=[listener], threads=size.threads)


PEERS = {
    "bjoern": serve_bjoern,
    "fastpysgi": serve_fastpysgi,
    "granian": serve_granian,
    "gunicorn": serve_gunicorn,
    "waitress": serve_waitress,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve bench's WSGI applications.")
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument(
        "app", nargs="?", choices=[*WSGI_APPS, *MODEL_WSGI_APPS], default="wsgi"
    )
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--about", action="store_true")
    args = parser.parse_args()
    if args.about:
        say(about(args.peer))
    else:
        PEERS[args.peer](args.app, Size(args.workers, args.threads))


if __name__ == "__main__":
    main()
