"""A model in onnxruntime: bytes in, bytes out, and one run for all that are ready.

fastbatch examples.onnx.app:router
"""

from typing import Any

import numpy as np

import fastbatch
from examples.onnx.model import load

session = load()
router = fastbatch.Router()


@router.post("/predict")
@fastbatch.batch
def predict(batch: fastbatch.Batch) -> Any:
    images = np.asarray(batch.stack("f4", (64,)))
    return session.run(None, {"pixels": images})[0]  # row i is the reply to request i


@router.post("/predict-one")
def predict_one(request: fastbatch.Request) -> bytes:
    if len(request.body) != 256:
        raise fastbatch.HTTPError(400, "an image has 256 bytes")
    image = np.frombuffer(request.body, "f4").reshape(1, 64)
    [probabilities] = session.run(None, {"pixels": image})
    return bytes(probabilities)


@router.get("/health")
def health(_request: fastbatch.Request) -> str:
    return "ok"
