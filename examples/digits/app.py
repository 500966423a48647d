"""A scikit-learn classifier: one call of the model for all requests that are ready.

fastbatch examples.digits.app:router
"""

from typing import Any

import numpy as np

import fastbatch
from examples.digits.model import train

model = train()
router = fastbatch.Router()


@router.post("/predict")
@fastbatch.batch
def predict(batch: fastbatch.Batch) -> list[object]:
    return classify(np.asarray(batch.stack("f4", (64,))))


@router.post("/predict-json")
@fastbatch.batch
def predict_json(batch: fastbatch.Batch) -> list[object]:
    return classify(np.stack([image_of(pixels) for pixels in batch.json()]))


@router.post("/predict-one")
def predict_one(request: fastbatch.Request) -> object:
    if len(request.body) != 256:
        raise fastbatch.HTTPError(400, "an image is 64 float32")
    [found] = classify(np.frombuffer(bytearray(request.body), "f4").reshape(1, 64))
    if isinstance(found, Exception):
        raise found
    return found


@router.get("/health")
def health(_request: fastbatch.Request) -> str:
    return "ok"


def image_of(pixels: Any) -> Any:
    try:
        return np.array(pixels, "f4").reshape(64)
    except (TypeError, ValueError, OverflowError):
        return np.full(64, np.nan, "f4")


def classify(images: Any) -> list[object]:
    """The digits. One NaN has the model raise for all, so it is refused before."""
    is_image = np.isfinite(images).all(axis=1)
    images[~is_image] = 0
    refused = fastbatch.HTTPError(400, "an image is 64 finite numbers")
    digits = model.predict(images)
    return [str(d) if ok else refused for d, ok in zip(digits, is_image, strict=True)]
