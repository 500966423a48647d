# SPDX-License-Identifier: MIT
"""Build fastbatch._core: our C, libuv and llhttp in one shared object.

Environment variables for other builds than the one to be used:

    FASTBATCH_DEBUG=1                       assertions, no optimisation
    FASTBATCH_COVERAGE=1                    the same, and lines are counted for gcov
    FASTBATCH_SANITIZE=address,undefined    assertions, and what -fsanitize= is to be;
                                            thread: for a Python that has it, too
    FASTBATCH_FAULTS=1                      assertions, and calls that fail when told to
    FASTBATCH_WERROR=1                      a warning in our C is an error
"""

import os
import re
import subprocess
import sys
import sysconfig
import zlib
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

import setuptools
from setuptools.command.build_ext import build_ext

if sys.platform != "linux":
    sys.exit("fastbatch: it is built and tested on Linux only, so far.")
if int(setuptools.__version__.partition(".")[0]) < 77:
    sys.exit(f"fastbatch: needs setuptools 77 or newer, not {setuptools.__version__}.")
if subprocess.call([sys.executable, "csrc/fetch_vendor.py"]) != 0:
    sys.exit(1)  # it has said why

DEBUG, COVERAGE, SANITIZE, FAULTS, WERROR = (
    os.environ.get(f"FASTBATCH_{name}", "")
    for name in ("DEBUG", "COVERAGE", "SANITIZE", "FAULTS", "WERROR")
)

# The flags of each directory. A layer finds the headers of those below it, no others.
OURS = ["-std=c11", "-Icsrc", "-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wvla"]
OURS += ["-Wstrict-prototypes", "-Wmissing-prototypes"] + ["-Werror"] * bool(WERROR)
LLHTTP = ["-isystemcsrc/vendor/llhttp/include"]
LIBUV = ["-isystemcsrc/vendor/libuv/include", "-D_GNU_SOURCE"]
PYTHON = [f"-isystem{sysconfig.get_path('include')}"]
IN_LIBUV = ["-Icsrc/vendor/libuv/src", "-D_POSIX_C_SOURCE=200112"]  # as its own build
FLAGS = {
    "csrc/core": OURS + LLHTTP,
    "csrc/io": OURS + LLHTTP + LIBUV,
    "csrc/python": OURS + LLHTTP + LIBUV + PYTHON,
    "csrc/vendor/llhttp": ["-w", *LLHTTP],
    "csrc/vendor/libuv": ["-w", "-fno-strict-aliasing", *IN_LIBUV, *LIBUV],
    "tests/c": [*OURS, *PYTHON, "-D_GNU_SOURCE"],
}

# The flags of all code, and of the link. Instructions per request, c=64: -O2 4,232, -O3
# 4,129, -O2 and LTO 3,818, -O3 and LTO 3,689; hidden visibility adds nothing to LTO.
CODE, LINK = ["-fvisibility=hidden"], ["-Wl,--version-script=csrc/exports.map"]
SOURCES = sorted(glob("csrc/**/*.c", recursive=True))
if FAULTS:
    SOURCES.append("tests/c/faults.c")
    # The functions that it stands before.
    WRAPPED = r"^(?:__wrap_|WRAP\(|BLOCK\(|OBJECT\(|INT\()(\w+)"
    LINK = ["-Wl,--version-script=tests/c/faults.map"]
    LINK += [
        f"-Wl,--wrap={name}"
        for name in re.findall(WRAPPED, Path(SOURCES[-1]).read_text(), re.MULTILINE)
    ]
if SANITIZE:
    CODE += [f"-fsanitize={SANITIZE}", "-fno-sanitize-recover=all"]
    CODE += ["-O1", "-fno-omit-frame-pointer"]
if COVERAGE:
    CODE += ["--coverage", "-fprofile-update=atomic"]
if DEBUG or COVERAGE or SANITIZE or FAULTS:
    CODE = ["-O0", "-g", "-UNDEBUG", "-U_FORTIFY_SOURCE", *CODE]
else:
    CODE = ["-O3", "-DNDEBUG", *CODE]


class BuildExt(build_ext):
    """Compile in parallel, and only what is older than its sources or has new flags."""

    def build_extension(self, ext: setuptools.Extension) -> None:
        self.compiler.set_include_dirs([])
        self.lto = [] if "-g" in CODE else self.link_time_optimisation()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            ext.extra_objects = list(pool.map(self.compile, ext.sources))
        ext.sources, ext.extra_link_args = [], LINK + CODE + self.lto
        # The objects may be older than the last link and yet others.
        self.force = self.compiler.force = True
        super().build_extension(ext)

    def link_time_optimisation(self) -> list[str]:
        """Return the flag for it, or none if this compiler and linker cannot do it."""
        os.makedirs(self.build_temp, exist_ok=True)
        probe = ["-flto=auto", "-xc", os.devnull, "-o", f"{self.build_temp}/probe.so"]
        tried = subprocess.run(self.compiler.linker_so + probe, capture_output=True)
        return probe[:1] if tried.returncode == 0 else []

    def compile(self, source: str) -> str:
        flags = CODE + self.lto + next(FLAGS[d] for d in FLAGS if source.startswith(d))
        key = zlib.crc32(repr([self.compiler.compiler_so, flags]).encode())
        into = f"{self.build_temp}/{key:08x}"
        [obj] = self.compiler.object_filenames([source], output_dir=into)
        files = [source] if "vendor" in source else [source, *glob("csrc/*/*.h")]
        made = os.path.getmtime(obj) if os.path.exists(obj) else 0
        if made <= max(map(os.path.getmtime, files)):
            self.compiler.compile([source], output_dir=into, extra_postargs=flags)
        return obj


CORE = setuptools.Extension("fastbatch._core", SOURCES, libraries=["dl", "rt", "m"])
setuptools.setup(ext_modules=[CORE], cmdclass={"build_ext": BuildExt})
