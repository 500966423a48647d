"""An HTTP/1.1 server that enters Python once per batch of requests.

>>> import fastbatch
>>> def hello(request):
...     return "Hello, World!"
>>> fastbatch.run(hello)  # doctest: +SKIP
"""

from importlib.metadata import version

from fastbatch._batch import BatchSettings, batch
from fastbatch._config import Options
from fastbatch._core import Batch, Headers, ReplyError, Request, Stack
from fastbatch._reply import HTTPError, Response
from fastbatch._router import Router
from fastbatch._server import Server, run

__all__ = [
    "Batch",
    "BatchSettings",
    "HTTPError",
    "Headers",
    "Options",
    "ReplyError",
    "Request",
    "Response",
    "Router",
    "Server",
    "Stack",
    "__version__",
    "batch",
    "run",
]

__version__ = version("fastbatch")
