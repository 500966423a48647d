"""What serve.py and serve_peer.py share: the applications by name, and what they say.

Both are run as files, with this directory first in sys.path. Nothing of the package is
imported here, because the interpreters that they run in need not find it.
"""

import importlib
import importlib.metadata
import json
import platform
import socket
import sys
import sysconfig
from typing import Any

HOST = "127.0.0.1"

# As many as the floor lets wait.
BACKLOG = 2048

# The WSGI applications, and the handlers of whole batches. Any other name is that of a
# request handler in apps.py.
WSGI_APPS = {
    "wsgi": "wsgi_apps:hello",
    "wsgi-burn": "wsgi_apps:burn",
    "wsgi-mixed": "wsgi_apps:mixed",
    "flask": "flask_app:app",
}
BATCH_APPS = {
    "batch-hello": "batch_apps:hello",
    "batch-model": "batch_apps:model",
}
# The network of ``bench batch``, which takes numpy: as handlers of fastbatch, and as
# WSGI applications for a server that does not batch.
MODEL_APPS = {
    "model-request-binary": "model_apps:request_binary",
    "model-request-json": "model_apps:request_json",
    "model-batch-binary": "model_apps:batch_binary",
    "model-batch-json": "model_apps:batch_json",
}
MODEL_WSGI_APPS = {
    "model-wsgi-binary": "model_wsgi:binary",
    "model-wsgi-json": "model_wsgi:json",
}


def load_app(name: str) -> Any:
    named = WSGI_APPS | BATCH_APPS | MODEL_APPS | MODEL_WSGI_APPS
    module, _, attribute = named.get(name, f"apps:{name}").partition(":")
    return getattr(importlib.import_module(module), attribute)


def free_port() -> int:
    """A port for a server that takes neither a socket nor port 0."""
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def say(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def about(server: str) -> dict[str, Any]:
    """What ``server`` and its application would run with here.

    The server is imported if it is installed: an extension that does not declare itself
    safe turns the GIL on.
    """
    version = installed(server)
    if version is not None:
        importlib.import_module(server)
    return {
        "server": server,
        "version": version,
        "implementation": platform.python_implementation(),
        "python": platform.python_version(),
        "free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
        "flask": installed("flask"),
        "werkzeug": installed("werkzeug"),
        "numpy": installed("numpy"),
        "orjson": installed("orjson"),
    }


def installed(distribution: str) -> str | None:
    """The version that this interpreter has of it, if any."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
