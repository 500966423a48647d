"""The network of model.py for mosec."""

# mypy: disable-error-code="import-not-found,misc,no-any-return,untyped-decorator"

from typing import Any

import numpy as np
import orjson
from model import (
    predict,
    to_json,
)
from mosec import Worker


class Binary(Worker):
    resp_mime_type = "application/octet-stream"

    def deserialize(self, data: bytes) -> Any:
        return np.frombuffer(data, np.float32)

    def forward(self, data: Any) -> Any:
        return predict(np.stack(data))

    def serialize(self, data: Any) -> bytes:
        return data.tobytes()


class Json(Worker):
    resp_mime_type = "application/json"

    def deserialize(self, data: bytes) -> Any:
        return orjson.loads(data)

    def forward(self, data: Any) -> Any:
        return predict(np.array(data, np.float32))

    def serialize(self, data: Any) -> bytes:
        return to_json(data)


WORKERS = {"binary": Binary, "json": Json}
