"""The site of test_frameworks, with Pyramid."""

import hashlib
import warnings
from collections.abc import Callable
from typing import Any

with warnings.catch_warnings():
    # It imports pkg_resources and, by way of WebOb, cgi.
    warnings.simplefilter("ignore")
    from pyramid.config import Configurator
    from pyramid.httpexceptions import HTTPForbidden, HTTPFound
    from pyramid.request import Request
    from pyramid.response import FileResponse, Response


def close_body(request: Request) -> None:
    """Close WebOb's copy of the body: a file that it leaves to be warned of."""
    request.body_file_raw.close()


def hello(_request: Request) -> Any:
    return Response("hello")


def path(request: Request) -> Any:
    return Response(json=dict(request.matchdict))


def query(request: Request) -> Any:
    return Response(json={"a": request.GET.getall("a"), "b": request.GET["b"]})


def json(request: Request) -> Any:
    return Response(json=request.json_body)


def form(request: Request) -> Any:
    fields = dict(request.POST)
    close_body(request)
    return Response(json=fields)


def upload(request: Request) -> Any:
    file = request.POST["file"]
    data = file.file.read()
    found = {"name": file.filename, "size": len(data), "text": request.POST["text"]}
    file.file.close()
    close_body(request)
    return Response(json=found | {"sha256": hashlib.sha256(data).hexdigest()})


def stream(_request: Request) -> Any:
    lines = (f"/stream {n}\n".encode() for n in range(1000))
    return Response(content_type="text/plain", app_iter=lines)


def file(request: Request) -> Any:
    return FileResponse(request.GET["path"], request=request)


def visits(request: Request) -> Any:
    n = int(request.cookies.get("visits", "0")) + 1
    response = Response(str(n))
    response.set_cookie("visits", str(n))
    response.set_cookie("other", "a-b")
    return response


def redirect(request: Request) -> Any:
    return HTTPFound(request.route_url("hello"))


def forbidden(_request: Request) -> Any:
    raise HTTPForbidden("not for you")


def error(_request: Request) -> Any:
    raise ZeroDivisionError("of the site")


def url(request: Request) -> Any:
    return Response(request.route_url("hello"))


def not_found(_request: Request) -> Any:
    return Response("the site's own 404", status=404)


VIEWS: list[Callable[[Request], Any]] = [
    hello,
    query,
    json,
    form,
    upload,
    stream,
    file,
    visits,
    redirect,
    forbidden,
    error,
    url,
]

with Configurator() as config:
    for view in VIEWS:
        config.add_route(view.__name__, f"/{view.__name__}")
        config.add_view(view, route_name=view.__name__)
    config.add_route("path", "/path/{name}")
    config.add_view(path, route_name="path")
    config.add_notfound_view(not_found)
    app = config.make_wsgi_app()
