"""The site of test_frameworks, with Flask."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flask
import flask.logging

app = flask.Flask(__name__, static_folder=None)
app.logger.addHandler(flask.logging.default_handler)  # it writes to wsgi.errors

said: list[str] = []  # by the hooks, in their order


@app.before_request
def say_before() -> None:
    said.append(f"before {flask.request.path}")


@app.after_request
def say_after(response: flask.Response) -> flask.Response:
    said.append(f"after {flask.request.path}")
    response.headers["X-After"] = "yes"
    return response


@app.teardown_request
def say_teardown(error: BaseException | None) -> None:
    said.append(f"teardown {flask.request.path} {type(error).__name__}")


@app.get("/hello")
def hello() -> str:
    return "hello"


@app.get("/path/<name>")
def path(name: str) -> Any:
    return flask.jsonify(name=name)


@app.get("/query")
def query() -> Any:
    args = flask.request.args
    return flask.jsonify(a=args.getlist("a"), b=args.get("b"))


@app.post("/json")
def json() -> Any:
    return flask.jsonify(flask.request.get_json())


@app.post("/form")
def form() -> Any:
    return flask.jsonify(flask.request.form.to_dict())


@app.post("/upload")
def upload() -> Any:
    file = flask.request.files["file"]
    data = file.read()
    return flask.jsonify(
        name=file.filename,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        text=flask.request.form["text"],
    )


@app.get("/stream")
def stream() -> flask.Response:
    @flask.stream_with_context
    def lines() -> Iterator[str]:
        for i in range(1000):
            yield f"{flask.request.full_path.rstrip('?')} {i}\n"
        said.append("streamed")

    return flask.Response(lines(), mimetype="text/plain")


@app.get("/file")
def file() -> Any:
    return flask.send_file(Path(flask.request.args["path"]))


@app.get("/visits")
def visits() -> flask.Response:
    n = int(flask.request.cookies.get("visits", "0")) + 1
    response = flask.Response(str(n))
    response.set_cookie("visits", str(n))
    response.set_cookie("other", "a-b")
    return response


@app.get("/redirect")
def redirect() -> Any:
    return flask.redirect(flask.url_for("hello"))


@app.get("/forbidden")
def forbidden() -> Any:
    flask.abort(403, "not for you")


@app.get("/error")
def error() -> str:
    raise ZeroDivisionError("of the site")


@app.get("/url")
def url() -> str:
    return flask.url_for("hello", _external=True)


@app.get("/stream/error")
def stream_error() -> flask.Response:
    def lines() -> Iterator[str]:
        yield "first"
        raise ZeroDivisionError("in the stream")

    return flask.Response(lines())


@app.errorhandler(404)
def not_found(_error: Exception) -> tuple[str, int]:
    return "the site's own 404", 404
