"""Cores, clocks and the description of the machine. Linux only."""

import contextlib
import ctypes
import os
import platform
import resource
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError

TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"


@dataclass(frozen=True, slots=True)
class Cores:
    """Where the server and wrk run; the same core if there is no second."""

    server: int
    wrk: int
    common: frozenset[int] = frozenset()
    """If not empty, both run on all of these instead."""

    @property
    def shared(self) -> bool:
        return self.server == self.wrk

    @property
    def of_server(self) -> frozenset[int]:
        return self.common or frozenset({self.server})

    @property
    def of_wrk(self) -> frozenset[int]:
        return self.common or frozenset({self.wrk})


def choose_cores(server: int | None = None, wrk: int | None = None) -> Cores:
    """Two cores that share nothing, as far as there are such; named ones are kept."""
    allowed = sorted(os.sched_getaffinity(0))
    for core in (server, wrk):
        if core is not None and core not in allowed:
            raise BenchError(f"core {core} is not one of {allowed}")
    if server is None:
        server = next((c for c in allowed if c != wrk), allowed[0])
    if wrk is None:
        others = [c for c in allowed if c != server]
        apart = [c for c in others if c not in siblings(server)]
        wrk = (apart or others or [server])[0]
    return Cores(server, wrk)


def all_cores() -> Cores:
    """Every core for the server and wrk together: what a server of many workers has."""
    first, *others = sorted(os.sched_getaffinity(0))
    return Cores(first, (others or [first])[0], frozenset({first, *others}))


def siblings(core: int) -> set[int]:
    """The logical cores that share a physical one with ``core``, itself included."""
    try:
        return parse_core_list(Path(TOPOLOGY.format(core)).read_text())
    except OSError:
        return {core}


def parse_core_list(text: str) -> set[int]:
    """Read the kernel's notation: "0,8" or "0-1"."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


@contextlib.contextmanager
def pinned(cores: int | Collection[int]) -> Iterator[None]:
    """Processes started in this block run on ``cores``: they inherit the affinity."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cores} if isinstance(cores, int) else cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def process_clock(pid: int) -> int:
    """The clock that counts the CPU time of all threads of a process.

    It counts nanoseconds, also while the process runs; /proc/PID/stat hundredths of a
    second.
    """
    clock = ctypes.c_int()
    code = ctypes.CDLL(None).clock_getcpuclockid(pid, ctypes.byref(clock))
    if code != 0:
        raise BenchError(f"no CPU clock of process {pid}: {os.strerror(code)}")
    return clock.value


@dataclass(frozen=True, slots=True)
class CpuTime:
    """Seconds that processes have used: all of them, and those outside the kernel."""

    total: float
    user: float

    def __sub__(self, before: "CpuTime") -> "CpuTime":
        return CpuTime(self.total - before.total, self.user - before.user)


def cpu_time(*pids: int) -> CpuTime:
    """What these processes have used together.

    The total is exact. The kernel samples what of it is its own, some 100 times a
    second, so that ``user`` is good to some per cent of a measurement of seconds.
    """
    total = sum(time.clock_gettime(process_clock(pid)) for pid in pids)
    user_ticks = sum(int(process_stat(pid)[11]) for pid in pids)
    return CpuTime(total, user_ticks / os.sysconf("SC_CLK_TCK"))


def process_stat(pid: int) -> list[str]:
    """/proc/PID/stat from the state on; the name before it may contain anything.

    Raises:
        OSError: there is no such process, or none any more.
    """
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def group_members(leader: int) -> list[int]:
    """The processes of ``leader``'s group: itself and what it started, however deep.

    Unlike parenthood the group outlives the parent.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            # One that has ended meanwhile.
            with contextlib.suppress(OSError):
                if int(process_stat(int(entry.name))[2]) == leader:
                    found.append(int(entry.name))
    return sorted(found)


def busy_seconds(cores: Cores) -> float:
    """How long the cores have been anything but idle, whoever used them.

    What the host of a virtual machine took away ("steal") counts too.
    """
    wanted = {f"cpu{core}" for core in cores.of_server | cores.of_wrk}
    ticks = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in wanted:
            user, nice, system, _idle, _iowait, irq, softirq, steal = fields[:8]
            ticks += sum(map(int, (user, nice, system, irq, softirq, steal)))
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_bytes(*pids: int) -> int:
    """What these processes hold of memory together: their proportional set size.

    A page that several processes have, whoever they are, counts as one divided among
    them; so what is shared between the workers of a server counts once.
    """
    found = 0
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError as error:
            raise BenchError(f"no memory of process {pid}: {error}") from None
        found += int(text.partition("\nPss:")[2].split()[0]) * 1024
    return found


def children_seconds() -> float:
    """CPU time of the processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def raise_file_limit() -> None:
    """As many open files as allowed: each connection is one, on both sides."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def describe_machine() -> dict[str, str | int]:
    """What a reader of the figures must know; no name, no path."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count() or 1,
        "kernel": platform.release(),
        "libc": " ".join(platform.libc_ver()),
    }


def cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
