"""``python -m bench peers``: the servers that fastbatch is compared with.

Each has a venv of its own, named after it, with the versions of peers.txt.
"""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.errors import BenchError
from bench.servers import About, Subject, run_about

PEERS = ("bjoern", "fastpysgi", "granian", "gunicorn", "waitress")
# Those that are made for the most that one core gives.
ONE_CORE_PEERS = ("bjoern", "fastpysgi", "granian")
# Those that collect batches for a model; with fastpysgi they are what ``batch`` needs.
BATCHERS = ("mosec", "litserve")
MODEL_PEERS = ("fastpysgi", *BATCHERS)
FRAMEWORKS = ("flask", "werkzeug")
# What the model is made of and speaks.
MODEL_PACKAGES = ("numpy", "orjson")

PINS = Path(__file__).with_name("peers.txt")
SERVE_PEER = Path(__file__).with_name("serve_peer.py")
SERVE_BATCHER = Path(__file__).with_name("serve_batcher.py")
VENVS = Path(__file__).with_name(".venvs")

# A build from source is among it.
INSTALL_SECONDS = 900

# What the output of a failed installation shows to be missing, and how to get it.
REMEDIES = {
    r"\bev\.h: No such file": (
        "libev's headers are missing: apt-get install libev-dev"
    ),
    r"\bPython\.h: No such file": (
        "this Python's headers are missing: apt-get install python3-dev, if it is "
        "Debian's"
    ),
    r"command '\S*(?:gcc|cc|clang)' failed: No such file": (
        "there is no C compiler: apt-get install gcc libc6-dev"
    ),
    r"\bmaturin failed": (
        "it has no wheel for this Python and is not built here: name another Python"
    ),
    r"\bensurepip is not": (
        "this Python makes no venvs: apt-get install python3-venv, if it is Debian's"
    ),
}


@dataclass(frozen=True, slots=True)
class Found:
    """The peers that can be measured, and why the others cannot."""

    subjects: list[Subject] = field(default_factory=list)
    about: dict[str, About] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


# ---- versions ------------------------------------------------------------------------


def read_pins(text: str) -> dict[str, str]:
    """The lines "name==version" of a constraints file."""
    return dict(re.findall(r"^([\w-]+)==(\S+)$", text, re.MULTILINE))


def wrong_versions(about: About, names: Sequence[str]) -> list[str]:
    """What an interpreter has of ``names`` that is not as pinned, in words."""
    pins = read_pins(PINS.read_text())
    versions = {**about, about["server"]: about["version"]}
    return [
        f"{name} is {versions[name] or 'missing'} and not {pins[name]}"
        for name in names
        if versions[name] != pins[name]
    ]


def require_frameworks(python: str, about: About) -> None:
    """Flask itself is most of what its row measures: it is the same everywhere.

    Raises:
        BenchError: this interpreter does not have it as pinned.
    """
    require_packages(python, about, FRAMEWORKS, "flask")


def require_packages(
    python: str, about: About, packages: Sequence[str], to_install: str
) -> None:
    """Raise a BenchError that says how to get those that are not as pinned."""
    if wrong := wrong_versions(about, packages):
        raise BenchError(
            f"{python} cannot be compared ({', '.join(wrong)}): "
            f"run `{python} -m pip install -c bench/{PINS.name} {to_install}`"
        )


# ---- what is installed ---------------------------------------------------------------


def find_peers(
    venvs: Path,
    app: str,
    names: Sequence[str] = ONE_CORE_PEERS,
    packages: Sequence[str] = FRAMEWORKS,
) -> Found:
    """Look at each peer's venv, and for these packages; nothing is installed."""
    found = Found()
    for name in names:
        python = venv_python(venvs, name)
        if not python.exists():
            found.left_out[name] = "it is not installed"
            continue
        try:
            about = about_peer(name, str(python))
        except (BenchError, ImportError) as error:
            found.left_out[name] = str(error)
            continue
        if wrong := wrong_versions(about, [name, *packages]):
            found.left_out[name] = ", ".join(wrong)
            continue
        found.about[name] = about
        found.subjects.append(peer_subject(name, venvs, app))
    return found


def peer_subject(
    name: str, venvs: Path, app: str, workers: int = 1, threads: int = 1
) -> Subject:
    command = [str(venv_python(venvs, name)), str(server_script(name)), name, app]
    if workers > 1:
        command += ["--workers", str(workers)]
    if threads > 1:
        command += ["--threads", str(threads)]
    return Subject(name, tuple(command))


def server_script(name: str) -> Path:
    return SERVE_BATCHER if name in BATCHERS else SERVE_PEER


def about_peer(name: str, python: str) -> About:
    """See --about of serve_peer.py and serve_batcher.py.

    Raises:
        BenchError: ``python`` does not run.
        ImportError: the peer is there and cannot be imported.
    """
    return run_about(python, str(server_script(name)), name)


def venv_python(venvs: Path, name: str) -> Path:
    return venvs / name / "bin" / "python"


# ---- installing ----------------------------------------------------------------------


def install_peers(
    venvs: Path,
    python: str,
    names: Sequence[str] = PEERS,
    packages: Sequence[str] = FRAMEWORKS,
) -> Found:
    """Install what is not there as pinned, each whatever became of the one before."""
    failed = {}
    for name in names:
        try:
            install_peer(name, venvs, python, packages)
        except BenchError as error:
            failed[name] = str(error)
    found = find_peers(venvs, "wsgi", names, packages)
    found.left_out.update(failed)
    return found


def install_peer(
    name: str, venvs: Path, python: str, packages: Sequence[str] = FRAMEWORKS
) -> None:
    """Nothing happens to what is there already as it should be."""
    venvs.mkdir(parents=True, exist_ok=True)
    log = venvs / f"{name}.log"
    in_venv = str(venv_python(venvs, name))
    if not same_python(name, python, in_venv):
        run_logged([python, "-m", "venv", "--clear", str(venvs / name)], log)
    pip = [in_venv, "-m", "pip", "--disable-pip-version-check", "install"]
    run_logged([*pip, "-c", str(PINS), name, *packages], log)


def same_python(name: str, python: str, in_venv: str) -> bool:
    """Whether the peer has a venv already, and one of this Python."""
    try:
        wanted = about_peer(name, python)
        if not Path(in_venv).exists():
            return False
        there = about_peer(name, in_venv)
    except ImportError:
        return False
    keys = ("implementation", "python", "free_threaded")
    return all(there[key] == wanted[key] for key in keys)


def run_logged(command: Sequence[str], log: Path) -> None:
    """Run ``command``, its output written to ``log``.

    Raises:
        BenchError: it failed; the message says why, as far as that is known.
    """
    with log.open("wb") as output:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=INSTALL_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise BenchError(f"it took over {INSTALL_SECONDS} s; see {log}") from None
    if done.returncode != 0:
        raise BenchError(f"{failure(log.read_text(errors='replace'))}; see {log}")


def failure(output: str) -> str:
    """Why an installation failed: what to do if that is known, or its last words."""
    for pattern, remedy in REMEDIES.items():
        if re.search(pattern, output):
            return remedy
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")]
    return (errors or lines or ["it failed and said nothing"])[-1]
