"""How many CPUs this process may use: by its affinity, and by the limit of its cgroup.

A container that may use two CPUs of a machine with sixty-four sees all of them in
``os.cpu_count()``; sixty-four workers there would fight for two CPUs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def usable_cpus(root: Path = _ROOT) -> int:
    """The number of CPUs this process may use, at least 1.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    cpus = len(os.sched_getaffinity(0))
    for quota in _quotas(root):
        # Half a CPU needs a worker too, and two and a half keep three busy.
        cpus = min(cpus, math.ceil(quota))
    return max(cpus, 1)


def _quotas(root: Path) -> Iterator[float]:
    """What the cgroups of this process, and those above them, allow, in CPUs."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    mounts = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            for folder in _folders(mounts, path):
                yield from _quota_v2(folder)
        elif "cpu" in controllers.split(","):
            for name in {controllers, "cpu"}:
                for folder in _folders(mounts / name, path):
                    yield from _quota_v1(folder)


def _folders(mount: Path, path: str) -> Iterator[Path]:
    """A cgroup and those above it.

    In a container the path may be one that only the host has: then what the mount shows
    at its top is the container's own.
    """
    here = Path(path.lstrip("/"))
    if ".." in here.parts:  # outside of what is shown here
        here = Path()
    yield from (mount / folder for folder in (here, *here.parents))


def _quota_v2(folder: Path) -> Iterator[float]:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        if quota != "max":
            yield int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass


def _quota_v1(folder: Path) -> Iterator[float]:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        if quota > 0:  # -1: there is none
            yield quota / int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError, ZeroDivisionError):
        pass
