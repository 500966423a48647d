"""A lookup by id: one SELECT for all requests that are ready together.

fastbatch examples.lookup.app:router
"""

import json
import os
from collections.abc import Sequence

import fastbatch

if "LOOKUP_DATABASE_URL" in os.environ:
    from examples.lookup.postgres import find
else:
    from examples.lookup.sqlite import find

JSON = {"Content-Type": "application/json"}

router = fastbatch.Router()


@router.get("/user")
@fastbatch.batch
def users(batch: Sequence[fastbatch.Request]) -> list[object]:
    wanted = [wanted_id(request) for request in batch]
    names = find({key for key in wanted if key is not None})
    return [answer(key, names) for key in wanted]


@router.get("/user-one")
def user(request: fastbatch.Request) -> object:
    [found] = users([request])
    if isinstance(found, Exception):
        raise found
    return found


@router.get("/health")
def health(_request: fastbatch.Request) -> str:
    return "ok"


def wanted_id(request: fastbatch.Request) -> int | None:
    text = request.query.get("id", [""])[0]
    return int(text) if text.isdecimal() and len(text) < 10 else None


def answer(key: int | None, names: dict[int, str]) -> object:
    """The reply to one request; an exception in the list fails that request alone."""
    if key is None:
        return fastbatch.HTTPError(400, "id is to be a number")
    if key not in names:
        return fastbatch.HTTPError(404, "no such user")
    return 200, JSON, json.dumps({"id": key, "name": names[key]})
