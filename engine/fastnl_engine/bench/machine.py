"""Facts about the machine, to be kept with every figure."""

from __future__ import annotations

import os
import platform
import re
import time
from pathlib import Path

import fastnl

CLOCK_MONOTONIC_COARSE = 6  # include/uapi/linux/time.h; it goes on by one tick of the kernel, which grace periods take
# ticks after which the kernel looks, and looks again, whether a grace period is over
GRACE_PERIODS = ("jiffies_till_first_fqs", "jiffies_till_next_fqs")

Facts = dict[str, str | int | float]


def facts() -> Facts:
    return {
        "kernel": platform.release(),
        "preemption": _first(r"PREEMPT\w*", platform.version()) or "none",
        "hz": str(round(1 / time.clock_getres(CLOCK_MONOTONIC_COARSE))),
        "rcu_normal": _read("/sys/kernel/rcu_normal"),
        "rcu_expedited": _read("/sys/kernel/rcu_expedited"),
        **{name: _read(f"/sys/module/rcutree/parameters/{name}") for name in GRACE_PERIODS},
        "rcu on the command line": " ".join(re.findall(r"\S*(?:rcu|nohz)\S*", _read("/proc/cmdline"))) or "nothing",
        "mitigations": _mitigations(),
        "cpu": _first(r"model name\s*: (.*)", _read("/proc/cpuinfo")) or platform.machine(),
        "cpus": os.cpu_count() or 0,
        "memory GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "fastnl": fastnl.__version__,
    }


class Others:
    """How much of the processors others take, counted from when it is made.

    The kernel's own threads count as others: what they do for us cannot be told apart.
    """

    def __init__(self) -> None:
        self._begin = time.monotonic()
        self._busy, self._stolen = _processors()
        self._own = sum(os.times()[:4])

    def read(self) -> Facts:
        """Processors, on average; `stolen` are those that a hypervisor gave to somebody else."""
        passed = time.monotonic() - self._begin
        busy, stolen = _processors()
        own = sum(os.times()[:4]) - self._own
        return {
            "taken by others": round((busy - self._busy - own) / passed, 2),
            "stolen": round((stolen - self._stolen) / passed, 2),
        }


def _processors() -> tuple[float, float]:
    """Seconds that all processors have been at work, and that were stolen from them."""
    user, nice, system, _, _, irq, softirq, stolen = map(int, _read("/proc/stat").split("\n")[0].split()[1:9])
    tick = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / tick, stolen / tick


def _mitigations() -> str:
    """Weaknesses of the processor that the kernel works around, which every system call pays for."""
    folder = Path("/sys/devices/system/cpu/vulnerabilities")
    try:
        found = {entry.name: _read(str(entry)) for entry in sorted(folder.iterdir())}
    except OSError:
        return "unknown"
    return ", ".join(name for name, state in found.items() if state.startswith("Mitigation")) or "none"


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found[found.re.groups] if found else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return "unknown"
