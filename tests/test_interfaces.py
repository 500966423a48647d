"""How a handler is called: found out from what it is, or said outright."""

from collections.abc import Callable
from typing import Any

import helpers
import pytest
from conftest import Serve

import fastbatch
from fastbatch._dispatch import dispatcher_for


def wsgi(_environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [b"wsgi"]


class Application:
    """As frameworks have them: an object that is called."""

    def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
        return wsgi(environ, start_response)

    def method(self, environ: Any, start_response: Any) -> list[bytes]:
        return wsgi(environ, start_response)


def with_a_default(environ: Any, start_response: Any = None) -> list[bytes]:
    return wsgi(environ, start_response)


class Middleware:
    """It passes everything on, and says nothing of what it is."""

    __module__ = "werkzeug.middleware.some"

    def __call__(self, *args: Any, **kwargs: Any) -> list[bytes]:
        return wsgi(*args, **kwargs)


class Decorated:
    """Both: a request and something that has a default."""

    def __call__(self, request: fastbatch.Request, tries: int = 3) -> str:
        return f"request {request.path} {tries}"


@pytest.mark.parametrize(
    "application",
    [wsgi, Application(), Application().method, with_a_default, Middleware()],
    ids=["function", "object", "method", "default", "framework"],
)
def test_application_is_recognised(serve: Serve, application: Any) -> None:
    assert helpers.get_url(serve(application)).body == b"wsgi"


def test_handler_with_a_default_is_given_a_request(serve: Serve) -> None:
    assert helpers.get_url(serve(Decorated())).body == b"request / 3"


def test_package_of_a_user_may_be_called_as_a_framework(serve: Serve) -> None:
    class Handler:
        __module__ = "web.views"

        def __call__(self, request: fastbatch.Request) -> str:
            return f"request {request.path}"

    assert helpers.get_url(serve(Handler())).body == b"request /"


@pytest.mark.parametrize("name", ["request", "wsgi"])
def test_what_is_said_is_not_guessed(serve: Serve, name: str) -> None:
    def handler(*arguments: Any) -> Any:
        return wsgi(*arguments) if len(arguments) == 2 else "request"

    assert helpers.get_url(serve(handler, interface=name)).body == name.encode()


@pytest.mark.parametrize(
    "function",
    [lambda *_: "", lambda *_, **__: ""],
    ids=["positional", "and keywords"],
)
def test_what_cannot_be_told_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"say interface='request' or interface='wsgi'"):
        dispatcher_for(function, fastbatch.Options())


@pytest.mark.parametrize(
    "function",
    [lambda: "", lambda _a, _b, _c: "", lambda *, _request: ""],
    ids=["none", "three", "keyword"],
)
def test_what_is_neither_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="neither with one argument nor with two"):
        dispatcher_for(function, fastbatch.Options())


def test_coroutine_functions_are_refused() -> None:
    async def application(_scope: Any, _receive: Any, _send: Any) -> None:
        pass

    with pytest.raises(TypeError, match="is a coroutine function, which is not served"):
        dispatcher_for(application, fastbatch.Options())
