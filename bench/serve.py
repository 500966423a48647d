"""Serve one of the handlers of apps.py on a free port of 127.0.0.1, to be measured.

Usage: python bench/serve.py APP [--batch-size N]    (or --about)

Prints one line of JSON when it listens, ``{"port": N}``; one with the server's counters
at each SIGUSR1 and one more when SIGTERM has ended it. ``--about`` prints what would be
measured instead, and ends.

It is run as a file, not as ``-m bench.serve``: the first entry of sys.path is then this
directory, so that ``import fastbatch`` finds what is installed and not the checkout.
"""

import argparse
import importlib
import json
import logging
import platform
import signal
import socket
import sys
import sysconfig
from typing import Any

import fastbatch
from fastbatch._server import serve

# As many as the floor lets wait.
BACKLOG = 2048


def say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def about() -> dict[str, Any]:
    free_threaded = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    return {
        "fastbatch": fastbatch.__version__,
        "implementation": platform.python_implementation(),
        "python": platform.python_version(),
        "free_threaded": free_threaded,
        # Importing an extension that does not declare itself safe turns the GIL on.
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve one handler of bench/apps.py.")
    parser.add_argument("app", nargs="?", default="hello")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--about", action="store_true")
    args = parser.parse_args()
    if args.about:
        say(about())
        return

    handler = getattr(importlib.import_module("apps"), args.app)
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    port = listener.getsockname()[1]
    server = fastbatch.Server(
        handler,
        bind=f"fd:{listener.detach()}",
        backlog=BACKLOG,
        batch_size=args.batch_size,
    )
    signal.signal(signal.SIGUSR1, lambda *_: say(server.stats()))
    logging.getLogger("fastbatch").setLevel(logging.WARNING)
    say({"port": port})
    # What fastbatch.run() does after it has read its options: this is what is measured.
    serve(server)
    say(server.stats())


if __name__ == "__main__":
    main()
