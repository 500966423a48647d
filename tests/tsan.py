"""Judge what ThreadSanitizer has reported: which of it is ours.

Usage: python tests/tsan.py DIRECTORY

Every thread of a server has frames of ours at its bottom, and CPython has races of its
own. So a report is ours if one of its stacks has a frame of ours above (that is, called
later than) the last frame of Python code; if it has no such frame, it is CPython's.
Reports of both kinds are printed; the exit status is 1 if one is ours.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

OURS = re.compile(r"\bcsrc/|\bfastbatch/_core\b|\(_core\.")
FRAME = re.compile(r"^    #\d+ (.*)$")
PYTHON_CODE = "_PyEval_EvalFrameDefault "

# Stacks that tell how a thread or a lock came to be, not what was done.
ORIGIN = re.compile(r"^  (Thread|Mutex) ")


def reports(text: str) -> list[str]:
    """The reports in a log."""
    parts = re.split(r"^=+\n", text, flags=re.MULTILINE)
    return [part for part in parts if part.startswith("WARNING: ThreadSanitizer")]


def is_ours(report: str) -> bool:
    """Whether a report is one of ours, rather than of CPython's."""
    return any(_is_ours(frames) for frames in _stacks(report))


def _is_ours(frames: list[str]) -> bool:
    for frame in frames:
        if frame.startswith(PYTHON_CODE):
            return False
        if OURS.search(frame):
            return True
    return False


def _stacks(report: str) -> Iterator[list[str]]:
    for block in report.split("\n\n"):
        lines = block.splitlines()
        title = next((line for line in lines if not FRAME.match(line)), "")
        if not ORIGIN.match(title):
            yield [found[1] for line in lines if (found := FRAME.match(line))]


def _without_callers(report: str) -> str:
    """The report without what is behind the Python code of its stacks."""
    lines, is_behind = [], False
    for line in report.splitlines():
        is_behind = is_behind and FRAME.match(line) is not None
        if not is_behind:
            lines.append(re.sub(r" \(BuildId: \w+\)$", "", line))
        is_behind = is_behind or PYTHON_CODE in line
    return "\n".join(lines)


def main(directory: str) -> int:
    """Print all reports in the logs of a directory; what the exit status is to be."""
    logs = sorted(path for path in Path(directory).iterdir() if path.is_file())
    found = [report for log in logs for report in reports(log.read_text())]
    ours = [report for report in found if is_ours(report)]
    for report in found:
        whose = "ours" if report in ours else "CPython's"
        print(f"=== {whose}:", _without_callers(report), sep="\n")
    print(f"ThreadSanitizer: {len(found)} reports, {len(ours)} of them ours")
    return 1 if ours else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
