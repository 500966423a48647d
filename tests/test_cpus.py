"""How many workers "auto" is: by affinity, and by the limits of cgroups."""

import os
from pathlib import Path

import pytest

from fastbatch import Options
from fastbatch._cpus import usable_cpus
from fastbatch._workers import worker_count


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(8)))


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def v2(path: str, **limits: str) -> dict[str, str]:
    """A machine with the one hierarchy of version 2; ``limits`` by folder."""
    files = {
        f"sys/fs/cgroup/{folder.replace('_', '/')}/cpu.max": text
        for folder, text in limits.items()
    }
    return {"proc/self/cgroup": f"0::{path}\n", **files}


def v1(path: str, quota: str, folder: str = "", names: str = "cpu,cpuacct") -> dict:
    """A machine with version 1, and a quota in one folder."""
    here = f"sys/fs/cgroup/{names}/{folder}"
    return {
        "proc/self/cgroup": f"3:memory:/other\n4:{names}:{path}\n0::/\n",
        f"{here}/cpu.cfs_quota_us": f"{quota}\n",
        f"{here}/cpu.cfs_period_us": "100000\n",
    }


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, 8),
        (v2("/a"), 8),
        (v2("/a", a="max 100000\n"), 8),
        (v2("/a", a="200000 100000\n"), 2),
        (v2("/a", a="250000 100000\n"), 3),
        (v2("/a", a="50000 100000\n"), 1),
        (v2("/a", a="1600000 100000\n"), 8),
        (v2("/a/b", a="300000 100000\n", a_b="max 100000\n"), 3),
        (v2("/a/b", a="300000 100000\n", a_b="100000 50000\n"), 2),
        (v2("/of/the/host", **{"": "150000 100000\n"}), 2),
        (v2("/../../of/the/host", **{"": "150000 100000\n"}), 2),
        (v2("/a", a="nonsense\n"), 8),
        (v2("/a", a="100000 0\n"), 8),
        (v1("/a", "-1", "a"), 8),
        (v1("/a", "150000", "a"), 2),
        (v1("/docker/1234", "400000"), 4),
        (v1("/a/b", "300000", "a"), 3),
        (v1("/a", "300000", "a", names="cpu"), 3),
        (v1("/a", "nonsense", "a"), 8),
    ],
)
def test_limits_of_cgroups_are_kept(
    tmp_path: Path, files: dict[str, str], cpus: int
) -> None:
    assert usable_cpus(write(tmp_path, files)) == cpus


def test_affinity_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3})
    write(tmp_path, v2("/a", a="200000 100000\n"))
    assert usable_cpus(tmp_path) == 1


def test_auto_is_that_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastbatch._workers.usable_cpus", lambda: 5)
    assert worker_count(Options(workers="auto")) == 5
    assert worker_count(Options(workers=3)) == 3
