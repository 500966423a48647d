"""The network of model.py as handlers of fastbatch."""

# mypy: disable-error-code="import-not-found,misc,no-any-return,untyped-decorator"

from typing import Any

import numpy as np
from model import (
    N_INPUTS,
    predict,
    predict_binary,
    predict_json,
    to_json,
)

import fastbatch

Reply = tuple[int, dict[str, str], bytes]

JSON_HEADERS = {"Content-Type": "application/json"}


def request_binary(request: Any) -> bytes:
    return predict_binary(request.body)


def request_json(request: Any) -> Reply:
    return 200, JSON_HEADERS, predict_json(request.body)


@fastbatch.batch
def batch_binary(batch: Any) -> Any:
    return predict(np.asarray(batch.stack("f4", (N_INPUTS,))))


@fastbatch.batch
def batch_json(batch: Any) -> list[Reply]:
    outputs = predict(np.array(batch.json(), np.float32))
    return [(200, JSON_HEADERS, to_json(row)) for row in outputs]
