"""Serve an application on a free port of 127.0.0.1, to be measured.

Usage: python bench/serve.py APP [--interface I] [--batch-size N] [--access-log FORMAT]
                                 [--threads N] [--batch-wait SECONDS]
                                 [--workers N [--processes yes|no]]
       python bench/serve.py --about

APP is a handler of apps.py, or a name of serving.py. With
``--workers`` it is ``fastbatch.run()`` that serves, supervisor and all.

Prints one line of JSON when it listens, ``{"port": N}``; one with the server's counters
at each SIGUSR2 and one more when SIGTERM has ended it, unless it has workers.
``--about`` prints what would be measured instead, and ends.

It is run as a file, not as ``-m bench.serve``: the first entry of sys.path is then this
directory, so that ``import fastbatch`` finds what is installed and not the checkout.
"""

import argparse
import dataclasses
import logging
import signal
import socket
import tempfile
from typing import Any

from serving import (  # type: ignore[import-not-found] # it is beside this file
    BACKLOG,
    HOST,
    about,
    free_port,
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
    parser.add_argument("--batch-wait", type=float)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--processes", choices=("yes", "no"))
    parser.add_argument("--about", action="store_true")
    args = parser.parse_args()
    if args.about:
        options = [field.name for field in dataclasses.fields(fastbatch.Options)]
        say({**about("fastbatch"), "options": options})
        return

    handler = load_app(args.app)
    logging.getLogger("fastbatch").setLevel(logging.WARNING)
    if args.workers is None:
        serve_here(handler, args)
    else:
        serve_with_workers(handler, args)


def serve_here(handler: Any, args: argparse.Namespace) -> None:
    listener = socket.create_server((HOST, 0), backlog=BACKLOG)
    port = listener.getsockname()[1]
    options: dict[str, Any] = {
        **common_options(args),
        "bind": f"fd:{listener.detach()}",
    }
    if args.access_log:  # into a file that is gone with the server
        log = tempfile.NamedTemporaryFile()  # noqa: SIM115
        options |= {"access_log": log.name, "access_log_format": args.access_log}
    server = fastbatch.Server(handler, **options)
    signal.signal(signal.SIGUSR2, lambda *_: say(server.stats()))
    say({"port": port})
    # What fastbatch.run() does after it has read its options: this is what is measured.
    serve(server)
    say(server.stats())


def serve_with_workers(handler: Any, args: argparse.Namespace) -> None:
    """It opens its listeners itself, as many as it finds right for its workers."""
    port = free_port()
    options: dict[str, Any] = {
        **common_options(args),
        "bind": f"{HOST}:{port}",
        "workers": args.workers,
    }
    if args.processes is not None:
        options["processes"] = args.processes == "yes"
    say({"port": port})
    fastbatch.run(handler, **options)


def common_options(args: argparse.Namespace) -> dict[str, Any]:
    options: dict[str, Any] = {
        "interface": args.interface,
        "backlog": BACKLOG,
        "batch_size": args.batch_size,
    }
    if args.threads is not None:
        options["threads"] = args.threads
    if args.batch_wait is not None:
        options["batch_wait"] = args.batch_wait
    return options


if __name__ == "__main__":
    main()
