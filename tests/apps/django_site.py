"""The site of test_frameworks, with Django, its settings included."""

import hashlib
import json as json_module
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.staticfiles.handlers import StaticFilesHandler
from django.core.exceptions import PermissionDenied
from django.core.wsgi import get_wsgi_application
from django.http import (
    FileResponse,
    HttpRequest,
    HttpResponse,
    HttpResponseRedirect,
    JsonResponse,
    StreamingHttpResponse,
)
from django.urls import path as route
from django.urls import re_path, reverse

FOLDER = Path(__file__).parent

settings.configure(
    DEBUG=True,
    SECRET_KEY="of no use",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["django.contrib.staticfiles"],
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    STATIC_URL="static/",
    STATICFILES_DIRS=[FOLDER],
    FILE_UPLOAD_MAX_MEMORY_SIZE=100_000,
    LOGGING_CONFIG=None,
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
)


def hello(_request: HttpRequest) -> HttpResponse:
    return HttpResponse("hello")


def path(_request: HttpRequest, name: str) -> HttpResponse:
    return JsonResponse({"name": name})


def query(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"a": request.GET.getlist("a"), "b": request.GET["b"]})


def json(request: HttpRequest) -> HttpResponse:
    return JsonResponse(json_module.loads(request.body))


def form(request: HttpRequest) -> HttpResponse:
    return JsonResponse(request.POST.dict())


def upload(request: HttpRequest) -> HttpResponse:
    file = request.FILES["file"]
    digest = hashlib.sha256()
    for chunk in file.chunks():
        digest.update(chunk)
    response = JsonResponse(
        {
            "name": file.name,
            "size": file.size,
            "sha256": digest.hexdigest(),
            "text": request.POST["text"],
        }
    )
    response["X-Kept-As"] = type(file).__name__
    return response


def stream(_request: HttpRequest) -> StreamingHttpResponse:
    lines = (f"/stream {n}\n" for n in range(1000))
    return StreamingHttpResponse(lines, content_type="text/plain")


def file(request: HttpRequest) -> FileResponse:
    return FileResponse(Path(request.GET["path"]).open("rb"))


def visits(request: HttpRequest) -> HttpResponse:
    n = int(request.COOKIES.get("visits", "0")) + 1
    response = HttpResponse(str(n))
    response.set_cookie("visits", str(n))
    response.set_cookie("other", "a-b")
    return response


def redirect(_request: HttpRequest) -> HttpResponse:
    return HttpResponseRedirect(reverse("hello"))


def forbidden(_request: HttpRequest) -> HttpResponse:
    raise PermissionDenied("not for you")


def error(_request: HttpRequest) -> HttpResponse:
    raise ZeroDivisionError("of the site")


def url(request: HttpRequest) -> HttpResponse:
    return HttpResponse(request.build_absolute_uri(reverse("hello")))


def stream_error(_request: HttpRequest) -> StreamingHttpResponse:
    def lines() -> Iterator[str]:
        yield "first"
        raise ZeroDivisionError("in the stream")

    return StreamingHttpResponse(lines())


def not_found(_request: HttpRequest) -> HttpResponse:
    return HttpResponse("the site's own 404", status=404)


VIEWS: list[Any] = [
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

urlpatterns = [
    *(route(view.__name__, view, name=view.__name__) for view in VIEWS),
    route("path/<str:name>", path),
    route("stream/error", stream_error),
    re_path("^missing", not_found),
]

app = get_wsgi_application()
app_with_static_files = StaticFilesHandler(app)
