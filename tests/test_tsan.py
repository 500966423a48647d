"""ThreadSanitizer sees a race, and a report of ours is told from one of CPython's."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import helpers
import pytest
import tsan

RACY = Path(__file__).parent / "c" / "racy.c"

watched = pytest.mark.skipif(
    not helpers.IS_WATCHED, reason="this Python was built without ThreadSanitizer"
)

CODE = "import ctypes, sys; ctypes.CDLL(sys.argv[1]).fb_count_to(1000)"

OURS = "fb_out_add /build/csrc/core/out.c:1:2 (_core.cpython-313t.so+0x1)"
LIBUV = "uv_read_stop /build/csrc/vendor/libuv/src/unix/stream.c:7 (_core.so+0x2)"
SERVE = "server_serve csrc/python/server.c:5:1 (_core.cpython-313t.so+0x4)"
EVAL = "_PyEval_EvalFrameDefault /python/Python/ceval.c:9:9 (python3.13t+0x9)"
DICT = "dict_setitem /python/Objects/dictobject.c:3:3 (python3.13t+0x3)"


def report(first: list[str], second: list[str]) -> str:
    """A report of two stacks, the innermost frame first."""

    def stack(title: str, frames: list[str]) -> str:
        lines = [f"    #{n} {frame}" for n, frame in enumerate(frames)]
        return "\n".join([f"  {title}:", *lines, ""])

    stacks = [
        "WARNING: ThreadSanitizer: data race (pid=1)",
        stack("Write of size 4 at 0x1 by thread T1", first),
        stack("Previous read of size 4 at 0x1 by main thread", second),
        stack("Thread T1 (tid=2, running) created by thread T0 at", [OURS]),
        "SUMMARY: ThreadSanitizer: data race",
    ]
    line = "=" * 18
    return "\n".join([line, stacks[0] + "\n" + "\n".join(stacks[1:]), line, ""])


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([OURS, SERVE, EVAL], [LIBUV, SERVE, EVAL], True),
        ([LIBUV], [LIBUV], True),
        ([DICT, OURS, EVAL], [DICT, EVAL, SERVE, EVAL], True),
        ([DICT, EVAL], [DICT, EVAL, OURS], False),
        ([DICT], [DICT, EVAL, SERVE], False),
    ],
)
def test_report_is_ours_if_python_code_is_not_between(
    first: list[str], second: list[str], *, expected: bool
) -> None:
    found = tsan.reports("noise\n" + report(first, second) * 2)
    assert [tsan.is_ours(each) for each in found] == [expected] * 2


def test_reports_of_ours_fail(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert tsan.main(str(tmp_path)) == 0
    (tmp_path / "log.1").write_text(report([DICT, EVAL], [DICT, EVAL]))
    assert tsan.main(str(tmp_path)) == 0
    (tmp_path / "log.2").write_text(report([OURS], [LIBUV]))
    assert tsan.main(str(tmp_path)) == 1
    assert "2 reports, 1 of them ours" in capsys.readouterr().out


@watched
@pytest.mark.parametrize("is_racy", [True, False])
def test_race_is_seen(tmp_path: Path, *, is_racy: bool) -> None:
    """The same as CI does with the suite: it must not pass because nobody looked."""
    logs = tmp_path / "logs"
    logs.mkdir()
    library = tmp_path / "_core.so"  # a name of ours
    compiler = sysconfig.get_config_var("CC").split()
    flags = ["-fsanitize=thread", "-g", "-fPIC", "-shared", *["-DIS_RACY"] * is_racy]
    subprocess.run([*compiler, *flags, RACY, "-o", library], check=True)
    options = os.environ.get("TSAN_OPTIONS", "")
    subprocess.run(
        [sys.executable, "-c", CODE, library],
        env=os.environ | {"TSAN_OPTIONS": f"{options} log_path={logs}/log"},
        check=True,
    )
    assert tsan.main(str(logs)) == is_racy
