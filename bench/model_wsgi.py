"""The network of model.py as WSGI applications, for servers that do not batch."""

# mypy: disable-error-code="import-not-found,misc,no-any-return,untyped-decorator"

from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.types import StartResponse

from model import (
    predict_binary,
    predict_json,
)


def binary(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    return answer(environ, start_response, predict_binary, "application/octet-stream")


def json(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    return answer(environ, start_response, predict_json, "application/json")


def answer(
    environ: dict[str, Any],
    start_response: StartResponse,
    predict: Callable[[bytes], bytes],
    content_type: str,
) -> list[bytes]:
    body = predict(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    headers = [("Content-Type", content_type), ("Content-Length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]
