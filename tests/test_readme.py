"""What the README says is so."""

import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from conftest import Serve

import fastbatch
from fastbatch import _core
from fastbatch._core import LIMITS

README = Path(__file__).parent.parent.joinpath("README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
ROWS = re.findall(r"^\| `(\w+)` \| ([\d.]+) \w+", README, re.MULTILINE)


def block_with(text: str) -> str:
    [block] = [block for block in BLOCKS if text in block]
    return block


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_the_first_example_serves(serve: Serve, monkeypatch: Any) -> None:
    handlers = []
    monkeypatch.setattr(fastbatch, "run", handlers.append)
    exec(block_with("fastbatch.run(hello)"), {})
    assert get(serve(handlers[0]).url) == (200, "Hello, World!")


def test_the_example_of_replies_gives_them(serve: Serve) -> None:
    names: dict[str, Any] = {}
    exec(block_with("def app(request)"), names)
    url = serve(names["app"]).url
    assert get(url + "/users/1") == (200, '{"name": "Ada"}')
    assert get(url + "/users/2") == (404, "no such user")
    assert get(url + "/count") == (200, "".join(f"{n}\n" for n in range(1000)))


def test_the_example_of_a_server_prints_its_reply(
    capsys: pytest.CaptureFixture[str],
) -> None:
    exec(block_with("fastbatch.Server("), {})
    assert capsys.readouterr().out == "b'Hello!'\n"


def test_the_example_of_an_application_serves(serve: Serve, monkeypatch: Any) -> None:
    applications = []
    monkeypatch.setattr(fastbatch, "run", applications.append)
    exec(block_with("fastbatch.run(application)"), {})
    assert get(serve(applications[0]).url + "/a") == (200, "Hello from /a")


def test_the_example_of_a_batch_handler_serves(serve: Serve, monkeypatch: Any) -> None:
    handlers: list[Any] = []
    monkeypatch.setattr(fastbatch, "run", lambda *args, **_: handlers.extend(args))
    names: dict[str, Any] = {}
    exec(block_with("fastbatch.run(predict, threads=1)"), names)
    url = serve(handlers[0], threads=1).url
    image = bytes(784 * 4)
    with urllib.request.urlopen(url, data=image) as reply:
        assert reply.read() == bytes(10 * 4)
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(url, data=image[1:])


def test_the_example_of_routes_serves(serve: Serve, monkeypatch: Any) -> None:
    routers = []
    monkeypatch.setattr(fastbatch, "run", routers.append)
    exec(block_with("fastbatch.run(router)"), {})
    url = serve(routers[0]).url
    assert get(url + "/health") == (200, "ok")
    assert get(url + "/double")[0] == 405
    with urllib.request.urlopen(url + "/double", data=b"ab") as reply:
        assert reply.read() == b"abab"


def test_options_that_others_are_compared_with_are_there() -> None:
    rows = re.findall(r"^\| [^|]+(?: \|[^|]*){3} \|([^|]*)\|$", README, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named <= set(fastbatch.Options.__dataclass_fields__)
    assert {"max_body", "root_path", "keepalive_timeout"} <= named


def test_all_python_blocks_are_run_here() -> None:
    assert len(BLOCKS) == 6


def test_bounds_that_cannot_be_set_are_named() -> None:
    text = " ".join(README.split())
    assert f"or {LIMITS['chunk_framing']} bytes between the data of two chunks" in text
    assert f"{LIMITS['linger_timeout_ms'] / 1000:g} s after the last reply" in text
    assert "A time-out or rate of 0 is none." in text


@pytest.mark.parametrize(("name", "value"), ROWS)
def test_the_table_of_limits_has_the_defaults(name: str, value: str) -> None:
    assert getattr(fastbatch.Options(), name) == float(value)


def test_the_table_of_limits_has_every_limit() -> None:
    unlimited = {"bind", "unix_mode", "interface", "root_path", "server_header"}
    unlimited |= {"forwarded_allow_ips", "proxy_protocol"}
    unlimited |= {"deadline_header", "queue_full_status"}
    unlimited |= {"access_log", "access_log_format", "metrics"}
    unlimited |= {"workers", "processes", "threads", "pid_file", "reload"}
    unlimited |= {"max_requests", "max_requests_jitter", "max_rss"}
    assert {name for name, _ in ROWS} | unlimited == set(
        fastbatch.Options.__dataclass_fields__
    )


def test_the_versions_are_those_built_in() -> None:
    for name, version in _core.VERSIONS.items():
        assert f"{name} {version} (" in README
