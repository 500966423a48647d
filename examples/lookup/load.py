"""What to ask ``app.py``, and what it has to answer."""

from examples.measure import Question, get

PATHS = {"one by one": "/user-one", "in batches": "/user"}


def questions(path: str) -> list[Question]:
    # Some here, some there: 7919 is a prime.
    ids = [n * 7919 % 100_000 + 1 for n in range(1000)]
    return [
        Question(get(f"{path}?id={n}"), f'{{"id": {n}, "name": "user {n}"}}'.encode())
        for n in ids
    ]
