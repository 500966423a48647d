"""The network of model.py for LitServe."""

# mypy: disable-error-code="import-not-found,misc,no-any-return,untyped-decorator"

from typing import Annotated, Any

import litserve
import numpy as np
from fastapi import Body, Request, Response
from model import (
    predict,
    to_json,
)


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        """The network is there already."""

    def batch(self, inputs: list[Any]) -> Any:
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        return predict(x)

    def unbatch(self, output: Any) -> list[Any]:
        return list(output)


class Binary(Api):
    def decode_request(self, request: Annotated[bytes, Body()]) -> Any:
        return np.frombuffer(request, np.float32)

    def encode_response(self, output: Any) -> Response:
        return Response(output.tobytes(), media_type="application/octet-stream")


class Json(Api):
    """It reads JSON itself, before this, with the standard library's parser."""

    def decode_request(self, request: Request) -> Any:
        return np.array(request, np.float32)

    def encode_response(self, output: Any) -> Response:
        return Response(to_json(output), media_type="application/json")


APIS = {"binary": Binary, "json": Json}
