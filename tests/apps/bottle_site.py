"""The site of test_frameworks, with Bottle."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bottle
from bottle import request, response

app = bottle.Bottle()


@app.get("/hello")
def hello() -> str:
    return "hello"


@app.get("/path/<name>")
def path(name: str) -> dict[str, str]:
    return {"name": name}


@app.get("/query")
def query() -> dict[str, Any]:
    return {"a": request.query.getall("a"), "b": request.query.getunicode("b")}


@app.post("/json")
def json() -> Any:
    return request.json


@app.post("/form")
def form() -> dict[str, str]:
    return {name: request.forms.getunicode(name) for name in request.forms}


@app.post("/upload")
def upload() -> dict[str, Any]:
    file = request.files["file"]
    data = file.file.read()
    return {
        "name": file.raw_filename,
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "text": request.forms.getunicode("text"),
    }


@app.get("/stream")
def stream() -> Iterator[str]:
    response.content_type = "text/plain"
    for n in range(1000):
        yield f"/stream {n}\n"


@app.get("/file")
def file() -> Any:
    path = Path(request.query["path"])
    return bottle.static_file(path.name, root=path.parent)


@app.get("/visits")
def visits() -> str:
    n = int(request.get_cookie("visits", "0")) + 1
    response.set_cookie("visits", str(n))
    response.set_cookie("other", "a-b")
    return str(n)


@app.get("/redirect")
def redirect() -> None:
    bottle.redirect("/hello")


@app.get("/forbidden")
def forbidden() -> None:
    bottle.abort(403, "not for you")


@app.get("/error")
def error() -> None:
    raise ZeroDivisionError("of the site")


@app.get("/url")
def url() -> str:
    here: str = request.url
    return here.removesuffix("url") + "hello"


@app.error(404)
def not_found(_error: Exception) -> str:
    return "the site's own 404"
