"""Serve an application on a free port of 127.0.0.1, to be measured.

Usage: python bench/serve.py APP [--interface I] [--batch-size N] [--access-log FORMAT]
       python bench/serve.py --about

APP is a handler of apps.py, or "wsgi" or "flask", the WSGI applications.

Prints one line of JSON when it listens, ``{"port": N}``; one with the server's counters
at each SIGUSR2 and one more when SIGTERM has ended it. ``--about`` prints what would be
measured instead, and ends.

It is run as a file, not as ``-m bench.serve``: the first entry of sys.path is then this
directory, so that ``import fastbatch`` finds what is installed and not the checkout.
"""

import argparse
import logging
import signal
import socket
import tempfile
from typing import Any

from serving import (  # type: ignore[import-not-found] # it is beside this file
    BACKLOG,
    about,
    load_app,
    say,
)

import fastbatch
from fastbatch._server import serve


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve one application of bench/.")
    parser.add_argument("app", nargs="?", default="hello")
    parser.add_argument(
        "--interface", choices=("auto", "request", "wsgi"), default="auto"
    )
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--access-log", choices=("combined", "json"))
    parser.add_argument("--about", action="store_true")
    args = parser.parse_args()
    if args.about:
        say(about("fastbatch"))
        return

    handler = load_app(args.app)
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    port = listener.getsockname()[1]
    options: dict[str, Any] = {
        "bind": f"fd:{listener.detach()}",
        "interface": args.interface,
        "backlog": BACKLOG,
        "batch_size": args.batch_size,
    }
    if args.access_log:  # into a file that is gone with the server
        log = tempfile.NamedTemporaryFile()  # noqa: SIM115
        options |= {"access_log": log.name, "access_log_format": args.access_log}
    server = fastbatch.Server(handler, **options)
    signal.signal(signal.SIGUSR2, lambda *_: say(server.stats()))
    logging.getLogger("fastbatch").setLevel(logging.WARNING)
    say({"port": port})
    # What fastbatch.run() does after it has read its options: this is what is measured.
    serve(server)
    say(server.stats())


if __name__ == "__main__":
    main()
