"""The package as it is installed, and the way its vendored sources are fetched."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import fastbatch
from fastbatch import _core

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(fastbatch.__file__).parent


def installed() -> list[str]:
    return [str(path) for path in importlib.metadata.files("fastbatch") or ()]


def run_python(code: str, where: Path) -> None:
    """Run code in an interpreter of its own, with warnings as errors."""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(
        command, cwd=where, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_installed_package_is_tested_and_not_the_checkout() -> None:
    assert PACKAGE.parent != ROOT


def test_version_is_that_of_the_metadata() -> None:
    assert fastbatch.__version__ == importlib.metadata.version("fastbatch")


def test_vendored_libraries_are_the_pinned_ones() -> None:
    assert dict(_core.VERSIONS) == {"libuv": "1.52.1", "llhttp": "9.4.3"}
    pins = (ROOT / "csrc/vendor.txt").read_text()
    assert (
        dict(re.findall(r"^# (\w+) ([\d.]+) \(", pins, re.MULTILINE)) == _core.VERSIONS
    )


def test_types_are_installed() -> None:
    assert {"fastbatch/py.typed", "fastbatch/_core.pyi"} <= set(installed())


def test_licences_of_all_that_is_inside_are_installed() -> None:
    licences = {path.partition("/licenses/")[2] for path in installed()}
    assert licences - {""} == {
        "LICENSE",
        "csrc/vendor/libuv/LICENSE",
        "csrc/vendor/libuv/LICENSE-extra",
        "csrc/vendor/llhttp/LICENSE",
        "csrc/vendor/llhttp/LICENSE-MIT",
    }


def test_nothing_but_the_package_is_installed() -> None:
    top = {path.partition("/")[0] for path in installed()}
    assert top - {"..", "fastbatch"} == {f"fastbatch-{fastbatch.__version__}.dist-info"}
    assert not [path for path in installed() if path.endswith((".c", ".h", ".o"))]


def test_module_function_is_the_only_symbol_that_the_extension_exports() -> None:
    if not shutil.which("nm"):
        pytest.skip("there is no nm")
    command = ["nm", "--dynamic", "--defined-only", "--format=posix", _core.__file__]
    symbols = subprocess.check_output(command, text=True)
    assert [line.split()[0] for line in symbols.splitlines()] == ["PyInit__core"]


@pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this build has a GIL"
)
def test_import_leaves_the_gil_disabled(tmp_path: Path) -> None:
    run_python(
        "import sys, fastbatch.__main__; assert not sys._is_gil_enabled()", tmp_path
    )


USE_ALL_THREE = """
import asyncio

class Reply:
    body = b""
    def on_body(self, data):
        self.body += data

async def fetch(host, port):
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET / HTTP/1.1\\r\\nHost: here\\r\\nConnection: close\\r\\n\\r\\n")
    received = await reader.read()
    writer.close()
    await writer.wait_closed()
    return received

with fastbatch.Server(lambda request: "together", bind="127.0.0.1:0") as server:
    received = uvloop.run(fetch(*server.address))
reply = Reply()
parser = httptools.HttpResponseParser(reply)
parser.feed_data(received)
assert (parser.get_status_code(), reply.body) == (200, b"together")
"""


@pytest.mark.skipif(
    not (importlib.util.find_spec("uvloop") and importlib.util.find_spec("httptools")),
    reason="uvloop and httptools are not installed; free-threaded 3.13 has no wheels of"
    " them, and they would enable the GIL",
)
@pytest.mark.parametrize(
    "imports",
    ["import fastbatch, httptools, uvloop", "import uvloop, httptools, fastbatch"],
)
def test_other_libuv_and_llhttp_in_the_process_are_not_mixed_with_ours(
    imports: str, tmp_path: Path
) -> None:
    run_python(imports + USE_ALL_THREE, tmp_path)


def fetch_vendor(csrc: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of the script in csrc with no index that to be reached."""
    for file in ("fetch_vendor.py", "vendor.txt"):
        shutil.copy(ROOT / "csrc" / file, csrc)
    nowhere = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_NO_CACHE_DIR": "1",
    }
    return subprocess.run(
        [sys.executable, csrc / "fetch_vendor.py"],
        env={**os.environ, **nowhere, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_missing_network_is_one_sentence(tmp_path: Path) -> None:
    done = fetch_vendor(tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(r"fastbatch: .* no index that .*\.\n", done.stderr)
    assert not (tmp_path / "vendor").exists()


def test_wrong_hash_is_one_sentence(tmp_path: Path) -> None:
    archives = tmp_path / "archives"
    archives.mkdir()
    (archives / "uvloop-0.23.0.tar.gz").write_bytes(b"something else")
    done = fetch_vendor(tmp_path, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(archives))
    assert done.returncode == 1
    assert re.fullmatch(r"fastbatch: .* sha256 of uvloop.* not .*\.\n", done.stderr)
    assert not (tmp_path / "vendor").exists()


def test_sources_that_are_there_are_not_fetched_again(tmp_path: Path) -> None:
    if not (ROOT / "csrc/vendor").is_dir():
        pytest.skip("csrc/vendor is not there: a wheel is tested, nothing was built")
    shutil.copytree(ROOT / "csrc/vendor", tmp_path / "vendor")
    assert fetch_vendor(tmp_path).returncode == 0


def test_sources_of_other_pins_are_fetched_again(tmp_path: Path) -> None:
    if not (ROOT / "csrc/vendor").is_dir():
        pytest.skip("csrc/vendor is not there: a wheel is tested, nothing was built")
    shutil.copytree(ROOT / "csrc/vendor", tmp_path / "vendor")
    (tmp_path / "vendor/vendor.txt").write_text("of another version")
    assert fetch_vendor(tmp_path).returncode == 1
