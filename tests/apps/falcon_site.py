"""The site of test_frameworks, with Falcon."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import falcon

Handle = Callable[..., None]


class Resource:
    """What answers at one path."""

    def __init__(self, on_get: Handle | None = None, on_post: Handle | None = None):
        if on_get is not None:
            self.on_get = on_get
        if on_post is not None:
            self.on_post = on_post


def hello(_request: falcon.Request, response: falcon.Response) -> None:
    response.content_type = falcon.MEDIA_TEXT
    response.text = "hello"


def path(_request: falcon.Request, response: falcon.Response, name: str) -> None:
    response.media = {"name": name}


def query(request: falcon.Request, response: falcon.Response) -> None:
    response.media = {"a": request.get_param_as_list("a"), "b": request.get_param("b")}


def media(request: falcon.Request, response: falcon.Response) -> None:
    response.media = request.get_media()


def upload(request: falcon.Request, response: falcon.Response) -> None:
    found: dict[str, Any] = {}
    for part in request.get_media():
        if part.name == "file":
            digest, size = hashlib.sha256(), 0
            while piece := part.stream.read(65536):
                digest.update(piece)
                size += len(piece)
            found |= {"name": part.filename, "size": size}
            found["sha256"] = digest.hexdigest()
        else:
            found[part.name] = part.text
    response.media = found


def stream(_request: falcon.Request, response: falcon.Response) -> None:
    response.content_type = falcon.MEDIA_TEXT
    response.stream = (f"/stream {n}\n".encode() for n in range(1000))


def file(request: falcon.Request, response: falcon.Response) -> None:
    path = Path(request.get_param("path", required=True))
    response.content_type = "application/octet-stream"
    response.set_stream(path.open("rb"), path.stat().st_size)


def visits(request: falcon.Request, response: falcon.Response) -> None:
    n = int(request.cookies.get("visits", "0")) + 1
    response.text = str(n)
    response.set_cookie("visits", str(n), secure=False)
    response.set_cookie("other", "a-b", secure=False)


def redirect(_request: falcon.Request, _response: falcon.Response) -> None:
    raise falcon.HTTPFound("/hello")


def forbidden(_request: falcon.Request, _response: falcon.Response) -> None:
    raise falcon.HTTPForbidden(title="not for you")


def error(_request: falcon.Request, _response: falcon.Response) -> None:
    raise ZeroDivisionError("of the site")


def url(request: falcon.Request, response: falcon.Response) -> None:
    response.text = request.prefix + "/hello"


def not_found(_request: falcon.Request, response: falcon.Response) -> None:
    response.status = falcon.HTTP_404
    response.text = "the site's own 404"


app = falcon.App()
app.add_sink(not_found)
for where, resource in {
    "/hello": Resource(hello),
    "/path/{name}": Resource(path),
    "/query": Resource(query),
    "/json": Resource(on_post=media),
    "/form": Resource(on_post=media),
    "/upload": Resource(on_post=upload),
    "/stream": Resource(stream),
    "/file": Resource(file),
    "/visits": Resource(visits),
    "/redirect": Resource(redirect),
    "/forbidden": Resource(forbidden),
    "/error": Resource(error),
    "/url": Resource(url),
}.items():
    app.add_route(where, resource)
