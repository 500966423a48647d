"""Serve the network of model.py with a server that batches, to be measured.

Usage: python bench/serve_batcher.py BATCHER binary|json
       python bench/serve_batcher.py BATCHER --about

BATCHER is one of BATCHERS below, installed for the interpreter that runs this. Prints
``{"port": N}`` and listens on that port of 127.0.0.1 soon after; ends at SIGTERM.
``--about`` prints what would be measured instead.

Each is given one process that runs the network, batches of up to 256 and 1 ms to
collect one. All serve POST /predict.
"""

import argparse
import importlib
import os
import signal
import sys

from serving import (  # type: ignore[import-not-found] # it is beside this file
    HOST,
    about,
    free_port,
    say,
)

BATCH_SIZE = 256
WAIT_MS = 1
ROUTE = "/predict"


def serve_mosec(body: str) -> None:
    """A process of Rust, which has threads, and one of Python for batches."""
    port = free_port()
    os.environ |= {
        "MOSEC_ADDRESS": HOST,
        "MOSEC_PORT": str(port),
        "MOSEC_LOG_LEVEL": "error",
    }
    # It reads the command line, too, and some of both as soon as it is imported.
    del sys.argv[1:]
    apps = importlib.import_module("mosec_apps")
    mosec = importlib.import_module("mosec")
    server = mosec.Server()
    server.append_worker(
        apps.WORKERS[body],
        num=1,
        max_batch_size=BATCH_SIZE,
        max_wait_time=WAIT_MS,
        route=ROUTE,
    )
    say({"port": port})
    server.run()


def serve_litserve(body: str) -> None:
    """A process for HTTP (uvicorn), one for batches and one that watches.

    It ends them at Ctrl-C alone. The one for HTTP is forked: it has this handler, too.
    """
    watching = os.getpid()

    def end(*_: object) -> None:
        raise KeyboardInterrupt if os.getpid() == watching else SystemExit

    signal.signal(signal.SIGTERM, end)
    apps = importlib.import_module("litserve_apps")
    litserve = importlib.import_module("litserve")
    port = free_port()
    api = apps.APIS[body](
        max_batch_size=BATCH_SIZE, batch_timeout=WAIT_MS / 1e3, api_path=ROUTE
    )
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    say({"port": port})
    server.run(
        host=HOST,
        port=port,
        num_api_servers=1,
        log_level="error",
        access_log=False,
        generate_client_file=False,
    )


BATCHERS = {
    "mosec": serve_mosec,
    "litserve": serve_litserve,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve bench's network in batches.")
    parser.add_argument("batcher", choices=BATCHERS)
    parser.add_argument("body", nargs="?", choices=("binary", "json"), default="binary")
    parser.add_argument("--about", action="store_true")
    args = parser.parse_args()
    if args.about:
        say(about(args.batcher))
    else:
        BATCHERS[args.batcher](args.body)


if __name__ == "__main__":
    main()
