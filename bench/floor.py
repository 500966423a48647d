"""Build floor.c from the vendored libuv and llhttp, once per set of sources."""

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from bench.errors import BenchError

ROOT = Path(__file__).resolve().parent.parent
VENDOR = ROOT / "csrc" / "vendor"
SOURCE = Path(__file__).with_name("floor.c")

# As setup.py compiles the same sources.
FLAGS = ("-O3", "-flto", "-DNDEBUG", "-D_GNU_SOURCE", "-fno-strict-aliasing")
LIBRARIES = ("-lpthread", "-ldl", "-lrt")
BUILD_SECONDS = 300


def build_floor(vendor: Path = VENDOR, cache: Path | None = None) -> Path:
    """Return the floor's binary, compiled now unless the cache has it already."""
    sources = find_sources(vendor)
    compiler = find_compiler()
    command = compile_command(compiler, vendor, sources)
    name = "floor-" + digest(command, compiler, vendor, sources)
    binary = (cache or default_cache()) / name
    if binary.exists():
        return binary

    binary.parent.mkdir(parents=True, exist_ok=True)
    # Linked under another name and then renamed, so that no half-written binary is run.
    with tempfile.TemporaryDirectory(dir=binary.parent) as scratch:
        output = Path(scratch) / "floor"
        built = subprocess.run(
            [*command, "-o", str(output), *LIBRARIES],
            capture_output=True,
            text=True,
            timeout=BUILD_SECONDS,
        )
        if built.returncode != 0:
            raise BenchError(f"the floor does not compile:\n{built.stderr.strip()}")
        output.replace(binary)
    return binary


def find_sources(vendor: Path) -> list[Path]:
    """Every file to compile: all that fetch_vendor.py laid there, and floor.c."""
    found = sorted(vendor.rglob("*.c"))
    if not found:
        raise BenchError(
            "the floor is built from the vendored libuv and llhttp, which are not in "
            "csrc/vendor: run `python csrc/fetch_vendor.py`"
        )
    return [*found, SOURCE]


def find_compiler() -> list[str]:
    """The C compiler as ``CC`` names it, or cc."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if not compiler or shutil.which(compiler[0]) is None:
        raise BenchError(
            "no C compiler for the floor: install one (apt-get install gcc libc6-dev) "
            "or name it in CC"
        )
    return compiler


def compile_command(
    compiler: list[str], vendor: Path, sources: list[Path]
) -> list[str]:
    includes = ("libuv/include", "libuv/src", "llhttp/include")
    options = [f"-I{vendor / include}" for include in includes]
    return [*compiler, *FLAGS, *options, *map(str, sources)]


def digest(
    command: list[str], compiler: list[str], vendor: Path, sources: list[Path]
) -> str:
    """What the binary depends on: command, compiler version, sources and headers."""
    version = subprocess.run([*compiler, "--version"], capture_output=True).stdout
    state = hashlib.sha256("\0".join(command).encode() + version)
    for path in [*sources, *sorted(vendor.rglob("*.h"))]:
        state.update(path.read_bytes())
    return state.hexdigest()[:16]


def default_cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "fastbatch" / "bench"
