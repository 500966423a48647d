#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Lay the sources of libuv and llhttp into csrc/vendor, unless they are there already.

setup.py calls this before every build; it may also be called by hand. pip downloads the
archives that vendor.txt pins and checks their sha256. csrc/vendor appears whole or not
at all, with a copy of vendor.txt in it, which tells that it is up to date. What cannot
be done is said in one sentence, and the exit status is 1.
"""

import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from shutil import copy, rmtree

CSRC = Path(__file__).resolve().parent
PINS = CSRC / "vendor.txt"
VENDOR = CSRC / "vendor"

CARRIES = {"uvloop": "libuv", "httptools": "llhttp"}

# What is taken: licences, headers, and exactly the .c files that Linux needs, so that
# whoever compiles csrc/vendor may compile every .c file in it. libuv's are those of
# uv_sources in its CMakeLists.txt.
FILES = {
    "libuv": """
        LICENSE LICENSE-extra
        include/uv.h include/uv/errno.h include/uv/linux.h include/uv/threadpool.h
        include/uv/tree.h include/uv/unix.h include/uv/version.h
        src/heap-inl.h src/idna.h src/queue.h src/strscpy.h src/strtok.h src/uv-common.h
        src/fs-poll.c src/idna.c src/inet.c src/random.c src/strscpy.c src/strtok.c
        src/thread-common.c src/threadpool.c src/timer.c src/uv-common.c
        src/uv-data-getter-setters.c src/version.c
        src/unix/internal.h
        src/unix/async.c src/unix/core.c src/unix/dl.c src/unix/fs.c
        src/unix/getaddrinfo.c src/unix/getnameinfo.c src/unix/linux.c
        src/unix/loop-watcher.c src/unix/loop.c src/unix/pipe.c src/unix/poll.c
        src/unix/process.c src/unix/procfs-exepath.c src/unix/proctitle.c
        src/unix/random-devurandom.c src/unix/random-getrandom.c
        src/unix/random-sysctl-linux.c src/unix/signal.c src/unix/stream.c
        src/unix/tcp.c src/unix/thread.c src/unix/tty.c src/unix/udp.c
        """.split(),
    "llhttp": """
        LICENSE LICENSE-MIT include/llhttp.h src/api.c src/http.c src/llhttp.c
        """.split(),
}


def is_up_to_date() -> bool:
    stamp = VENDOR / PINS.name
    return (
        stamp.is_file()
        and stamp.read_bytes() == PINS.read_bytes()
        and all((VENDOR / lib / name).is_file() for lib in FILES for name in FILES[lib])
    )


def download(into: Path) -> list[Path]:
    """Let pip download the pinned archives.

    pip asks each archive for its metadata, for which it needs a setuptools; with build
    isolation off it takes the one at hand and does not look for unpinned ones.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--retries=2"]
    command += ["--no-deps", "--no-binary=:all:", "--no-build-isolation"]
    command += ["--require-hashes", f"--requirement={PINS}", f"--dest={into}"]
    pip = subprocess.run(command, capture_output=True, text=True, check=False)
    if pip.returncode != 0:
        sys.exit(
            f"fastbatch: cannot get the sources that {PINS} pins: {cause(pip.stderr)}."
        )
    return sorted(into.glob("*.tar.gz"))


def cause(output: str) -> str:
    """Return pip's many lines as the end of a sentence."""
    if "No module named pip" in output:
        return f"{sys.executable} has no pip"
    if "BackendUnavailable" in output or "metadata-generation-failed" in output:
        return f"{sys.executable} needs setuptools 77 or newer for it"
    wrong = re.search(r"(\S+) from .*\n +Expected sha256 (\w+)\n +Got +(\w+)", output)
    if wrong:
        return f"the sha256 of {wrong[1]} is {wrong[3]}, not {wrong[2]} as pinned"
    missing = re.search(r"No matching distribution found for (\S+)", output)
    if missing:
        return f"no index that pip can reach has {missing[1]} (is there a network?)"
    errors = re.findall(r"^ERROR: (.+)", output, re.MULTILINE) or output.splitlines()
    return errors[-1] if errors else "pip failed and did not say why"


def unpack(archives: list[Path], into: Path) -> None:
    """Write the files of FILES, and no other, from the archives."""
    for path in archives:
        root = path.name.removesuffix(".tar.gz")  # uvloop-0.23.0
        library = CARRIES[root.partition("-")[0]]
        with tarfile.open(path) as archive:
            for name in FILES[library]:
                source = archive.extractfile(f"{root}/vendor/{library}/{name}")
                assert source is not None, name
                target = into / library / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read())
    copy(PINS, into)


def main() -> None:
    if is_up_to_date():
        return
    with tempfile.TemporaryDirectory(prefix="vendor.", dir=CSRC) as scratch:
        new = Path(scratch, "new")
        unpack(download(Path(scratch)), new)
        rmtree(VENDOR, ignore_errors=True)
        new.rename(VENDOR)


if __name__ == "__main__":
    main()
