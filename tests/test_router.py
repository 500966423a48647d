"""Routers: what a method and a path get, and which queue C has for them."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gates
import helpers
import pytest
from conftest import Serve, Start
from helpers import Connection

import fastbatch
from fastbatch import Options, Router
from fastbatch._core import LIMITS
from fastbatch._plan import Plan, plan_for

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "M-SEARCH"]


def hello(request: fastbatch.Request) -> str:
    return f"hello {request.method} {request.path}"


@fastbatch.batch
def double(batch: fastbatch.Batch) -> list[bytes]:
    return [2 * request.body for request in batch]


def application(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    path = environ["PATH_INFO"].encode("latin-1")
    return [b"application ", environ["REQUEST_METHOD"].encode(), b" ", path]


def plan(router: Router, **options: Any) -> Plan:
    return plan_for(router, Options(**options))


def router_of(*routes: tuple[str, str, Any], **arguments: Any) -> Router:
    router = Router(**arguments)
    for route in routes:
        router.add(*route)
    return router


def queue_of(plan: Plan, method: str, path: str) -> int:
    """Where C puts such a request: by its very method, then by "*", else 0."""
    found = {
        route: number
        for number, queue in enumerate(plan.queues)
        for route in queue["routes"]
    }
    assert len(found) == sum(len(queue["routes"]) for queue in plan.queues)
    return found.get((method, path.encode()), found.get(("*", path.encode()), 0))


class FakeBatch:
    """A batch of requests that have nothing but a method and a path."""

    def __init__(self, queue: int, *requests: tuple[str, str]) -> None:
        self.queue = queue
        self.replies: dict[int, Any] = {}
        self._requests = requests

    def __iter__(self) -> Any:
        for method, path in self._requests:
            yield SimpleNamespace(method=method, path=path)

    def __getitem__(self, index: int) -> Any:
        return list(self)[index]

    def reply(self, index: int, reply: Any) -> None:
        assert index not in self.replies
        self.replies[index] = reply


def ask(plan: Plan, method: str, path: str) -> Any:
    """What the dispatcher replies, to a request in the queue that C has for it."""
    batch: Any = FakeBatch(queue_of(plan, method, path), (method, path))
    plan.make_dispatcher([])(batch)
    return batch.replies[0]


# ---- registration -----------------------------------------------------------------


def test_decorators_leave_handlers_as_they_are() -> None:
    router = Router()
    names = ["get", "post", "put", "patch", "delete"]
    for name in names:
        assert getattr(router, name)("/")(hello) is hello
    assert router.route("M-SEARCH", "/")(hello) is hello
    methods = [route.method for route in router.routes]
    assert methods == [*map(str.upper, names), "M-SEARCH"]


@pytest.mark.parametrize("method", ["get", "", " GET", "GET,POST", "GET\n", "**", "É"])
def test_method_that_no_request_has_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match=r"^method=.* is not allowed: it must be a "):
        Router().add(method, "/", hello)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("", "begin with '/'"),
        ("a", "begin with '/'"),
        ("*", "begin with '/'"),
        ("/a?b=c", "without a query"),
        ("/a#b", "no '[?]', '#' or '%' in it"),
        ("/a%20b", "must be decoded"),
        ("/a\0", "printable"),
        ("/a\r\n", "printable"),
        ("/\ud800", "printable"),
        ("/a\N{REPLACEMENT CHARACTER}", "printable"),
        ("/" + 512 * "é", "at most 1024 bytes"),
    ],
)
def test_path_that_no_request_has_is_refused(path: str, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"^path=.* is not allowed: .*{reason}"):
        Router().get(path)(hello)


def test_path_may_have_as_many_bytes_as_c_takes() -> None:
    path = "/" + "é" * 511 + "a"
    assert len(path.encode()) == LIMITS["route_path_bytes"]
    Router().get(path)(hello)


@pytest.mark.parametrize("argument", [None, 1, b"/"])
def test_what_is_no_text_is_refused(argument: Any) -> None:
    with pytest.raises(TypeError, match=r"^method=.* is not allowed"):
        Router().add(argument, "/", hello)
    with pytest.raises(TypeError, match=r"^path=.* is not allowed: it must be a str"):
        Router().add("GET", argument, hello)


def test_same_method_and_path_twice_is_refused() -> None:
    router = router_of(("GET", "/a", hello), ("*", "/a", hello), ("GET", "/b", hello))
    for method, path in [("GET", "/a"), ("*", "/a")]:
        sentence = re.escape(f"there is a route {method} {path} already")
        with pytest.raises(ValueError, match=f"^{sentence}$"):
            router.add(method, path, hello)
    assert len(router.routes) == 3


def test_what_is_no_handler_is_refused_by_its_route() -> None:
    async def coroutine(_request: Any) -> None:
        pass

    def three(_a: Any, _b: Any, _c: Any) -> None:
        pass

    handlers: list[tuple[Any, str]] = [
        (None, "the handler None is not callable"),
        (Router(), "is not callable"),
        (coroutine, "is a coroutine function"),
        (three, "neither with one argument nor with two"),
        (lambda *_: "", "say interface="),
    ]
    for handler, reason in handlers:
        router = Router()
        with pytest.raises(TypeError, match=rf"^route PUT /a: .*{reason}"):
            router.put("/a")(handler)
        assert router.routes == ()
    with pytest.raises(TypeError, match=r"^fallback: the handler 1 is not callable"):
        Router(fallback=1)  # type: ignore[arg-type]


def test_interface_of_a_route_may_be_said() -> None:
    def anything(*arguments: Any) -> Any:
        return application(*arguments) if len(arguments) == 2 else "a request's"

    router = Router(fallback=anything, interface="request")
    router.add("GET", "/batch", anything, interface="batch")
    router.route("GET", "/wsgi", interface="wsgi")(anything)
    made = plan(router)
    assert ask(made, "GET", "/") == "a request's"
    assert [queue["is_whole"] for queue in made.queues] == [False, True, False]


def test_interface_of_a_server_is_not_for_routers() -> None:
    with pytest.raises(TypeError, match=r"^interface='wsgi' is for a server of one"):
        plan(Router(), interface="wsgi")


def test_interface_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^interface='asgi' is not allowed"):
        Router().add("GET", "/", hello, interface="asgi")
    with pytest.raises(ValueError, match=r"^interface='asgi' is not allowed"):
        Router(fallback=hello, interface="asgi")


def test_route_that_is_added_later_changes_no_plan() -> None:
    router = router_of(("GET", "/a", hello))
    made = plan(router)
    router.add("POST", "/a", hello)
    router.add("GET", "/b", double)
    assert len(made.queues) == 1
    assert ask(made, "POST", "/a").status == 405
    assert ask(made, "GET", "/b").status == 404


def test_handler_may_be_marked_after_its_route_was_added() -> None:
    router = Router()

    def handler(_batch: fastbatch.Batch) -> None:
        pass

    fastbatch.batch(router.get("/")(handler))
    assert [queue["is_whole"] for queue in plan(router).queues] == [False, True]


# ---- what is answered -------------------------------------------------------------


def test_get_answers_head_unless_it_has_a_route() -> None:
    router = router_of(
        ("GET", "/a", lambda _: "get"),
        ("GET", "/b", lambda _: "get"),
        ("HEAD", "/b", lambda _: "head"),
        ("POST", "/c", lambda _: "post"),
        ("GET", "/d", lambda _: "get"),
        ("*", "/d", lambda _: "any"),
    )
    made = plan(router)
    assert ask(made, "HEAD", "/a") == "get"
    assert ask(made, "HEAD", "/b") == "head"
    assert ask(made, "HEAD", "/c").status == 405
    assert ask(made, "HEAD", "/d") == "get"


def test_method_that_a_path_has_not_is_405_with_those_it_has() -> None:
    made = plan(router_of(("GET", "/a", hello), ("PUT", "/a", hello)))
    for method in ("POST", "DELETE", "M-SEARCH"):
        reply = ask(made, method, "/a")
        assert reply.status == 405
        assert dict(reply.headers) == {"Allow": "GET, PUT, HEAD, OPTIONS"}


def test_options_are_answered_unless_they_have_a_route() -> None:
    router = router_of(
        ("POST", "/a", hello),
        ("OPTIONS", "/b", lambda _: "its own"),
        ("*", "/c", lambda _: "any"),
    )
    made = plan(router)
    reply = ask(made, "OPTIONS", "/a")
    assert (reply.status, dict(reply.headers)) == (204, {"Allow": "POST, OPTIONS"})
    assert reply.body is None
    assert ask(made, "OPTIONS", "/b") == "its own"
    assert dict(ask(made, "GET", "/b").headers) == {"Allow": "OPTIONS"}
    assert ask(made, "OPTIONS", "/c") == "any"


def test_path_that_is_unknown_is_404() -> None:
    made = plan(router_of(("*", "/a", hello)))
    for path in ("/", "/a/", "/A", "/a/b", "//a", "*"):
        for method in METHODS:
            assert ask(made, method, path).status == 404


def test_fallback_answers_paths_but_no_methods() -> None:
    made = plan(router_of(("GET", "/a", hello), fallback=lambda _: "fallback"))
    assert ask(made, "GET", "/a") == "hello GET /a"
    assert ask(made, "POST", "/a").status == 405
    assert ask(made, "POST", "/b") == "fallback"
    assert len(made.queues) == 1


def test_router_without_routes_knows_no_path() -> None:
    assert ask(plan(Router()), "GET", "/").status == 404
    assert ask(plan(Router(fallback=hello)), "GET", "/") == "hello GET /"


def test_handler_that_fails_is_named(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_request: fastbatch.Request) -> None:
        raise OSError("of its own")

    made = plan(router_of(("GET", "/a", hello), ("GET", "/b", broken)))
    batch: Any = FakeBatch(0, ("GET", "/b"), ("GET", "/a"))
    made.make_dispatcher([])(batch)
    assert batch.replies[0].status == 500
    assert batch.replies[1] == "hello GET /a"
    (record,) = gates.errors(caplog)
    assert "broken failed" in record.getMessage()


# ---- queues -----------------------------------------------------------------------


def test_every_request_is_of_the_queue_of_its_handler() -> None:
    """Whatever the routes and the fallback are, for all methods of all paths."""

    def other(_environ: Any, _start_response: Any) -> list[bytes]:
        return []

    kinds = {"request": hello, "batch": double, "wsgi": application}
    for fallback in (None, hello, double, application, other):
        for exact, own in kinds.items():
            for rest, others in kinds.items():
                routes = [("GET", "/a", own), ("*", "/a", others), ("PUT", "/b", own)]
                made = plan(router_of(*routes, fallback=fallback))
                names = {hello: "requests", **_names(made, routes, fallback)}

                def queue(method: str, path: str, made: Plan = made) -> str:
                    return made.names[queue_of(made, method, path)]

                assert queue("GET", "/a") == queue("HEAD", "/a") == names[own], exact
                for method in METHODS[2:]:
                    assert queue(method, "/a") == names[others], rest
                assert queue("PUT", "/b") == names[own]
                for method in ("GET", "HEAD", "OPTIONS"):
                    assert queue(method, "/b") == "requests"
                assert queue("GET", "/c") == names[fallback or hello]


def _names(made: Plan, routes: list[Any], fallback: Any) -> dict[Any, str]:
    """What the queue of each handler must be called, if it has one of its own."""
    found: dict[Any, str] = {}
    if fallback not in (None, hello):
        found[fallback] = f"{fallback.__module__}.{fallback.__qualname__}"
    for method, path, handler in routes:
        if handler is not hello:
            found.setdefault(handler, f"{method} {path}")
    assert set(made.names) <= {"requests", *found.values()}
    return found


def test_requests_alone_need_one_queue_and_no_routes_in_c() -> None:
    router = router_of(("GET", "/a", hello), ("*", "/a", hello), fallback=hello)
    (queue,) = plan(router).queues
    assert queue["routes"] == ()
    assert queue["is_whole"] is False


def test_handler_with_several_routes_has_one_queue() -> None:
    class Model:
        @fastbatch.batch
        def predict(self, batch: fastbatch.Batch) -> list[str]:
            return ["" for _ in batch]

    one, two = Model(), Model()
    made = plan(
        router_of(
            ("POST", "/one", one.predict),
            ("PUT", "/one", one.predict),
            ("POST", "/two", two.predict),
            ("*", "/app", application),
            ("*", "/shop", application),
        )
    )
    assert made.names == ("requests", "POST /one", "POST /two", "* /app")
    assert made.queues[1]["routes"] == (("POST", b"/one"), ("PUT", b"/one"))
    assert made.queues[3]["routes"] == (("*", b"/app"), ("*", b"/shop"))


def test_batch_handler_as_fallback_has_queue_0() -> None:
    made = plan(router_of(("GET", "/health", hello), fallback=double))
    assert made.names == (f"{__name__}.double", "requests")
    assert [queue["is_whole"] for queue in made.queues] == [True, False]
    assert queue_of(made, "POST", "/health") == 1
    assert ask(made, "POST", "/health").status == 405


def test_paths_are_given_to_c_as_bytes_of_utf_8() -> None:
    made = plan(router_of(("POST", "/é b", double)))
    assert made.queues[1]["routes"] == (("POST", b"/\xc3\xa9 b"),)


def test_settings_of_a_batch_handler_win_over_the_options() -> None:
    @fastbatch.batch(
        batch_size=3, batch_wait=0.25, deadline=0.5, queue_size=7, concurrency=2
    )
    def handler(batch: fastbatch.Batch) -> list[str]:
        return ["" for _ in batch]

    options: dict[str, Any] = {
        "batch_size": 4,
        "batch_wait": 0.0000014,
        "deadline": 0.0001,
        "queue_size": 8,
        "queue_full_status": 429,
    }
    of_options = {
        "routes": (),
        "is_whole": False,
        "concurrency": 1,
        "batch_size": 4,
        "batch_wait_us": 1,
        "deadline_ms": 1,
        "queue_size": 8,
        "full_status": 429,
    }
    own = {
        "is_whole": True,
        "concurrency": 2,
        "batch_size": 3,
        "batch_wait_us": 250_000,
        "deadline_ms": 500,
        "queue_size": 7,
        "full_status": 429,
    }
    routers = router_of(("GET", "/a", handler), ("GET", "/b", double))
    queues = plan(routers, **options).queues
    assert queues[0] == of_options
    get, head = ("GET", b"/a"), ("HEAD", b"/a")
    assert queues[1] == own | {"routes": (get, head)}
    get, head = ("GET", b"/b"), ("HEAD", b"/b")
    assert queues[2] == of_options | {"is_whole": True, "routes": (get, head)}
    for handler_, expected in [
        (handler, own | {"routes": ()}),
        (double, of_options | {"is_whole": True}),
        (hello, of_options),
        (application, of_options),
    ]:
        (queue,) = plan_for(handler_, Options(**options)).queues
        assert queue == expected


@pytest.mark.parametrize(
    ("seconds", "us", "ms"),
    [
        (0, 0, 0),
        (1e-9, 1, 1),
        (0.000001, 1, 1),
        (0.0015, 1500, 2),
        (0.07, 70_000, 70),  # a little more than 70 times 0.001
        (0.0700001, 70_000, 71),
        (3600, 3_600_000_000, 3_600_000),
    ],
)
def test_waits_are_rounded_and_deadlines_rounded_up(
    seconds: float, us: int, ms: int
) -> None:
    options = Options(batch_wait=seconds, deadline=seconds)
    (queue,) = plan_for(hello, options).queues
    assert queue["batch_wait_us"] == us
    assert queue["deadline_ms"] == ms


def test_name_of_the_only_handler_is_its_queues() -> None:
    assert plan_for(hello, Options()).names == (f"{__name__}.hello",)


def batch_handlers(n: int) -> list[Any]:
    return [fastbatch.batch(lambda _batch: None) for _ in range(n)]


def test_there_are_as_many_queues_as_c_has() -> None:
    router = Router()
    for number, handler in enumerate(batch_handlers(LIMITS["queues_bound"] - 1)):
        router.add("POST", f"/{number}", handler)
    assert len(plan(router).queues) == LIMITS["queues_bound"] == 16
    router.add("POST", "/more", fastbatch.batch(lambda _batch: None))
    with pytest.raises(ValueError, match="these are 17, and there can be 16"):
        plan(router)


# ---- served -----------------------------------------------------------------------


def test_routes_are_served(serve: Serve) -> None:
    router = router_of(
        ("GET", "/hello", hello), ("POST", "/hello", lambda request: request.body)
    )
    with Connection(serve(router)) as connection:
        connection.send(
            gates.request("/hello")
            + gates.request("/hello", method="HEAD")
            + gates.request("/hello", method="POST", body=b"body")
            + gates.request("/hello", method="PUT", body=b"body")
            + gates.request("/hello", method="OPTIONS")
            + gates.request("/other")
        )
        methods = ["GET", "HEAD", "POST", "PUT", "OPTIONS", "GET"]
        replies = [connection.reply(method) for method in methods]
    assert [reply.status for reply in replies] == [200, 200, 200, 405, 204, 404]
    assert replies[0].body == b"hello GET /hello"
    assert replies[1].headers["Content-Length"] == str(len("hello HEAD /hello"))
    assert replies[2].body == b"body"
    for reply in (replies[3], replies[4]):
        assert reply.headers["Allow"] == "GET, POST, HEAD, OPTIONS"
    assert replies[3].body == b"405 Method Not Allowed\n"
    assert replies[5].body == b"404 Not Found\n"


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/caf%C3%A9%20au%20lait", 200),
        ("/%63af%c3%a9%20au%20lait?milk=%31", 200),
        ("http://test/caf%C3%A9%20au%20lait", 200),
        ("/caf%E9%20au%20lait", 404),
        ("/caf%C3%A9+au+lait", 404),
        ("/caf%C3%A9%20au%20lait/", 404),
        ("/caf%C3%A9%20au%20lai%74%", 404),
    ],
)
def test_paths_are_decoded_before_they_are_compared(
    serve: Serve, target: str, status: int
) -> None:
    router = router_of(("GET", "/café au lait", hello))
    with Connection(serve(router)) as connection:
        assert connection.ask(target).status == status


def test_empty_path_of_an_absolute_target_is_the_root(serve: Serve) -> None:
    router = router_of(("GET", "/", hello))
    with Connection(serve(router)) as connection:
        assert connection.ask("http://test").body == b"hello GET /"


ROUTES = """
import fastbatch

router = fastbatch.Router()

@router.get("/a")
def hello(request):
    return "hello"

@router.post("/double")
@fastbatch.batch
def double(batch):
    return [2 * request.body for request in batch]

def make():
    return router
"""


@pytest.mark.parametrize("processes", ["true", "false"])
@pytest.mark.parametrize("name", ["router", "make()"])
def test_command_line_takes_a_router(
    start: Start, tmp_path: Path, name: str, processes: str
) -> None:
    (tmp_path / "routes.py").write_text(ROUTES)
    options = ["--bind=127.0.0.1:0", "--workers=2", f"--processes={processes}"]
    program = start("-m", "fastbatch", *options, f"routes:{name}")
    for _ in range(4):
        with Connection(program.address()) as connection:
            assert connection.ask("/a").body == b"hello"
            assert connection.ask("/b").status == 404
            connection.send(gates.request("/double", method="POST", body=b"ab"))
            assert connection.reply().body == b"abab"


# ---- queues of a server -----------------------------------------------------------

TARGETS = ["/hello", "/double", "/application", "/other"]


def mixed() -> Router:
    return router_of(
        ("GET", "/hello", hello),
        ("*", "/double", double),
        ("GET", "/application", application),
    )


def expected(target: str, i: int) -> tuple[int, bytes]:
    body = {
        "/hello": b"hello GET /hello",
        "/double": 2 * (b"%d" % i),
        "/application": b"application GET /application",
    }
    return (200, body[target]) if target in body else (404, b"404 Not Found\n")


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_pipelined_requests_of_several_queues_are_answered_in_order(
    serve: Serve, threads: int
) -> None:
    server = serve(mixed(), threads=threads)
    targets = [TARGETS[i * (i + i // 5) % 13 % 4] for i in range(300)]
    assert set(targets) == set(TARGETS)
    requests = [
        gates.request(target, body=b"%d" % i) for i, target in enumerate(targets)
    ]
    data = helpers.talk(server, b"".join(requests), replies=len(requests))
    replies = helpers.parse_replies(data)
    assert [(reply.status, reply.body) for reply in replies] == [
        expected(target, i) for i, target in enumerate(targets)
    ]


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("workers", [1, 2])
def test_many_clients_get_their_own_replies(
    serve: Serve, threads: int, workers: int
) -> None:
    server = serve(mixed(), threads=threads, workers=workers)
    with gates.connect(server, 20) as connections:
        for turn in range(10):
            for i, connection in enumerate(connections):
                target = TARGETS[(i + turn) % 4]
                connection.send(gates.request(target, body=b"%d" % i))
            for i, connection in enumerate(connections):
                reply = connection.reply()
                target = TARGETS[(i + turn) % 4]
                assert (reply.status, reply.body) == expected(target, i)


@pytest.mark.parametrize("target", TARGETS)
def test_http_1_0_has_one_reply_and_the_end(serve: Serve, target: str) -> None:
    data = helpers.talk(serve(mixed()), helpers.get(target, version="1.0"))
    (reply,) = helpers.parse_replies(data)
    assert reply.status == (404 if target == "/other" else 200)


def test_batch_handler_is_given_its_own_requests_alone(serve: Serve) -> None:
    batches = []

    @fastbatch.batch(batch_size=2)
    def note(batch: fastbatch.Batch) -> list[str]:
        batches.append([request.path for request in batch])
        return batches[-1]

    gate = gates.Gate(hello)
    server = serve(router_of(("GET", "/note", note), fallback=gate))
    with gates.connect(server, 9) as connections:
        with gate.held(server):
            for i, connection in enumerate(connections):
                connection.send(helpers.get("/note" if i % 2 == 0 else "/else"))
        for i, connection in enumerate(connections):
            body = b"/note" if i % 2 == 0 else b"hello GET /else"
            assert connection.reply().body == body
    assert sorted(map(len, batches)) == [1, 2, 2]
    assert {path for batch in batches for path in batch} == {"/note"}
    # One batch of the gate, and those that came meanwhile, by queue.
    assert gates.batch_sizes(server) == {1: 2, 2: 2, 4: 1}


def test_application_as_fallback_has_all_other_paths(serve: Serve) -> None:
    router = router_of(
        ("GET", "/hello", hello), ("POST", "/double", double), fallback=application
    )
    with Connection(serve(router)) as connection:
        assert connection.ask("/hello").body == b"hello GET /hello"
        assert connection.ask("/shop/a%20b?c").body == b"application GET /shop/a b"
        assert connection.ask("/").body == b"application GET /"
        connection.send(gates.request("/hello", method="POST"))
        reply = connection.reply()
        assert (reply.status, reply.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")
        connection.send(gates.request("/shop", method="POST"))
        assert connection.reply().body == b"application POST /shop"
        connection.send(gates.request("/double", method="OPTIONS"))
        reply = connection.reply("OPTIONS")
        assert (reply.status, reply.headers["Allow"]) == (204, "POST, OPTIONS")
        connection.send(gates.request("/double", method="POST", body=b"ab"))
        assert connection.reply().body == b"abab"
        assert connection.ask("/double").status == 405


def test_batch_handler_as_fallback_has_all_other_paths(serve: Serve) -> None:
    router = router_of(("GET", "/hello", hello), fallback=double)
    with Connection(serve(router)) as connection:
        assert connection.ask("/hello").body == b"hello GET /hello"
        connection.send(gates.request("/hello", method="POST", body=b"ab"))
        assert connection.reply().status == 405
        connection.send(gates.request("/any", method="POST", body=b"ab"))
        assert connection.reply().body == b"abab"


@pytest.mark.parametrize(
    "target",
    [
        "/caf%C3%A9%20au%20lait",
        "/%63af%c3%a9%20au%20lait?milk=%31",
        "http://test/caf%C3%A9%20au%20lait",
    ],
)
def test_path_of_a_batch_handler_is_decoded_before_it_is_compared(
    serve: Serve, target: str
) -> None:
    router = router_of(("GET", "/café au lait", double), ("*", "/other", double))
    with Connection(serve(router)) as connection:
        connection.send(gates.request(target, body=b"ab"))
        assert connection.reply().body == b"abab"
        assert connection.ask("/caf%E9%20au%20lait").status == 404
        assert connection.ask("/caf%C3%A9%20au%20lait/").status == 404


def test_empty_path_is_the_root_for_batch_handlers_too(serve: Serve) -> None:
    with Connection(serve(router_of(("GET", "/", double)))) as connection:
        for target in ("/", "http://test", "http://test/", "/?a"):
            connection.send(gates.request(target, body=b"ab"))
            assert connection.reply().body == b"abab", target


def test_head_of_a_batch_handler_has_no_body(serve: Serve) -> None:
    with Connection(serve(router_of(("GET", "/", double)))) as connection:
        connection.send(gates.request(method="HEAD", body=b"ab"))
        reply = connection.reply("HEAD")
        assert (reply.status, reply.headers["Content-Length"]) == (200, "4")
        connection.send(gates.request(body=b"ab"))
        assert connection.reply().body == b"abab"


def test_handler_that_fails_fails_its_batch_alone(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    @fastbatch.batch
    def broken(_batch: fastbatch.Batch) -> None:
        raise OSError("of its own")

    router = router_of(("GET", "/broken", broken), ("GET", "/hello", hello))
    with Connection(serve(router)) as connection:
        connection.send(helpers.get("/broken") + helpers.get("/hello"))
        assert connection.reply().status == 500
        assert connection.reply().body == b"hello GET /hello"
    assert "broken" in gates.wait_for_error(caplog).getMessage()
