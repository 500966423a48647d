"""What to ask ``app.py``, and what it has to answer.

``python -m examples.digits.load`` writes one image as JSON.
"""

import json

from examples.digits.model import train, unseen
from examples.measure import Question, post

PATHS = {"one by one": "/predict-one", "in batches": "/predict"}


def questions(path: str) -> list[Question]:
    digits = train().predict(unseen)
    return [
        Question(post(path, pixels.tobytes()), str(digit).encode())
        for pixels, digit in zip(unseen, digits, strict=True)
    ]


if __name__ == "__main__":
    print(json.dumps(unseen[0].tolist()))
