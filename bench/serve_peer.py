"""Serve a WSGI application with another server, to be measured next to fastbatch.

Usage: python bench/serve_peer.py PEER APP    (or PEER --about)

PEER is bjoern, fastpysgi or granian, installed for the interpreter that runs this; APP
is "wsgi" or "flask". Prints ``{"port": N}``, and listens on that port of 127.0.0.1 soon
after if not before; ends at SIGTERM. ``--about`` prints what would be measured instead.

Each serves with one worker, set for the most that one core gives, without access log.
"""

import argparse
import importlib
import socket

from serving import (  # type: ignore[import-not-found] # it is beside this file
    BACKLOG,
    WSGI_APPS,
    about,
    load_app,
    say,
)

HOST = "127.0.0.1"


def serve_bjoern(app: str) -> None:
    """One thread, and nothing to set."""
    bjoern = importlib.import_module("bjoern")
    listener = bjoern.bind_and_listen(HOST, 0, listen_backlog=BACKLOG)
    say({"port": listener.getsockname()[1]})
    bjoern.server_run(listener, load_app(app))


def serve_fastpysgi(app: str) -> None:
    """One thread, in this process.

    TCP_NODELAY is off by default, which makes pipelined replies wait for each other.
    Errors are logged by default, and a client that goes away is one: wrk does.
    """
    fastpysgi = importlib.import_module("fastpysgi")
    port = free_port()
    fastpysgi.server.backlog = BACKLOG
    fastpysgi.server.tcp_nodelay = 1
    say({"port": port})  # init() prints a line of its own, which nobody reads
    fastpysgi.server.init(load_app(app), HOST, port, fastpysgi.LL_CRIT_ERROR)
    fastpysgi.server.run()


def serve_granian(app: str) -> None:
    """One worker: a process of its own, or a thread where there is no GIL.

    In it are one thread for the network and one for Python, the fewest: more would take
    turns on the one core. HTTP/2 is off, so that it need not look which one it is. The
    other runtime_mode and fewer runtime_blocking_threads made no difference to be seen.
    """
    granian = importlib.import_module("granian")
    port = free_port()
    server = granian.Granian(
        WSGI_APPS[app],
        address=HOST,
        port=port,
        interface="wsgi",
        workers=1,
        blocking_threads=1,
        runtime_threads=1,
        http="1",
        backlog=BACKLOG,
        log_access=False,
        log_level="warning",
    )
    say({"port": port})
    server.serve()


PEERS = {
    "bjoern": serve_bjoern,
    "fastpysgi": serve_fastpysgi,
    "granian": serve_granian,
}


def free_port() -> int:
    """A port for a server that takes neither a socket nor port 0."""
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve bench's WSGI applications.")
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("app", nargs="?", choices=WSGI_APPS, default="wsgi")
    parser.add_argument("--about", action="store_true")
    args = parser.parse_args()
    if args.about:
        say(about(args.peer))
    else:
        PEERS[args.peer](args.app)


if __name__ == "__main__":
    main()
