"""The house rules that a program can check; they need the sources, not the package."""

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc"
LAYERS = ("core", "io", "python")
FILES = sorted(path for layer in LAYERS for path in (CSRC / layer).glob("*.[ch]"))

# The lowest layer that may include a header which is not ours.
LOWEST = {"llhttp.h": "core", "uv.h": "io", "Python.h": "python"}

# What a layer is given besides what the layers below it have.
FLAGS = {
    "core": ["-std=c11", f"-I{CSRC}", f"-isystem{CSRC}/vendor/llhttp/include"],
    "io": ["-D_GNU_SOURCE", f"-isystem{CSRC}/vendor/libuv/include"],
    "python": [f"-isystem{sysconfig.get_path('include')}"],
}

# CPython takes these tables as pointers to what is not const, so that ours are not.
PYTHON_TABLE = re.compile(
    r"^(?:static )?(?:struct )?Py(?:GetSetDef|MemberDef|MethodDef|ModuleDef"
    r"|ModuleDef_Slot|Type_Slot|Type_Spec) (\w+)",
    re.MULTILINE,
)


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def of(*layers: str, suffix: str = ".[ch]") -> pytest.MarkDecorator:
    """Run the test once for each file of these layers."""
    files = [p for p in FILES if p.parent.name in layers and p.match(f"*{suffix}")]
    return pytest.mark.parametrize("path", files, ids=name)


def compile_c(path: Path, *flags: str) -> None:
    """Compile with nothing in reach that is above the file's layer."""
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler")
    if not (CSRC / "vendor").is_dir():
        pytest.skip("csrc/vendor is not laid yet: python csrc/fetch_vendor.py")
    layers = LAYERS[: LAYERS.index(path.parent.name) + 1]
    layered = [flag for layer in layers for flag in FLAGS[layer]]
    command = ["cc", *layered, *flags, "-c", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_layer_has_files() -> None:
    assert {path.parent.name for path in FILES} == set(LAYERS)


@of(*LAYERS)
def test_includes_point_downward(path: Path) -> None:
    text = path.read_text()
    included = re.findall(r'^ *# *include *[<"](.+)[>"]', text, re.MULTILINE)
    lowest = [LOWEST.get(header, header.partition("/")[0]) for header in included]
    layers = [LAYERS.index(layer) for layer in lowest if layer in LAYERS]
    assert max(layers, default=0) <= LAYERS.index(path.parent.name)


@of("core", "io", suffix=".c")
def test_layer_compiles_without_those_above(path: Path) -> None:
    compile_c(path, "-fsyntax-only")


@of(*LAYERS, suffix=".c")
def test_nothing_at_file_scope_is_mutable(path: Path, tmp_path: Path) -> None:
    """What is not in .text or .rodata of position-dependent code is mutable."""
    if not shutil.which("nm"):
        pytest.skip("there is no nm")
    compile_c(path, "-fno-pic", "-fno-lto", "-o", str(tmp_path / "object"))
    symbols = subprocess.check_output(["nm", tmp_path / "object"], text=True)
    mutable = set(re.findall(r"^\w* +[bBcCdDgGsSuvV] (.+)$", symbols, re.MULTILINE))
    if path.parent.name == "python":
        mutable -= set(PYTHON_TABLE.findall(path.read_text()))
    assert mutable == set()


@of("core")
def test_core_has_no_macros_with_arguments(path: Path) -> None:
    assert not re.findall(r"^ *# *define +\w+\(.*", path.read_text(), re.MULTILINE)


@of(*LAYERS)
def test_file_opens_with_its_licence_and_its_purpose(path: Path) -> None:
    assert path.read_text().startswith("/* SPDX-License-Identifier: MIT */\n/*")


def test_lines_have_at_most_88_columns() -> None:
    lines = {
        f"{name(path)}:{number}": line
        for path in FILES
        for number, line in enumerate(path.read_text().splitlines(), start=1)
    }
    assert [place for place, line in lines.items() if len(line) > 88] == []


def test_vendored_sources_are_not_in_git() -> None:
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("this is no git checkout")
    listing = ["git", "-C", ROOT, "ls-files", "csrc/vendor"]
    assert subprocess.check_output(listing, text=True) == ""
