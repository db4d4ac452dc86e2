"""What floods and soaks have in common: an engine of one's own, what it uses, and figures of latencies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from fastnl.testing import Namespaces, isolate
from fastnl_engine.testing import EngineProcess

MIB = 1 << 20


@contextlib.contextmanager
def engine_and_rooms(rooms: int, *flags: str) -> Iterator[tuple[EngineProcess, Namespaces]]:
    """An engine and so many namespaces, r0, r1, …, where nothing else is.  Before any thread is started."""
    isolate()
    with TemporaryDirectory(prefix="fastnl-") as folder, Namespaces() as namespaces:
        namespaces.many(rooms, "r")
        with EngineProcess(Path(folder), *flags) as engine:
            yield engine, namespaces


@dataclass(frozen=True, slots=True)
class Use:
    """What a process uses, and the kernel beside it; memory in bytes.

    unreclaimable   the kernel's slab memory that it cannot take back, of the whole machine
    available       what the kernel says could be had, of the whole machine
    """

    resident: int
    descriptors: int
    threads: int
    unreclaimable: int
    available: int

    @classmethod
    def of(cls, pid: int) -> Use:
        status = _fields(f"/proc/{pid}/status")
        machine = _fields("/proc/meminfo")
        return cls(
            _bytes(status["VmRSS"]), len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"]),
            _bytes(machine["SUnreclaim"]), _bytes(machine["MemAvailable"]),
        )  # fmt: skip


def _fields(path: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in Path(path).read_text().splitlines() if ":" in line)


def _bytes(text: str) -> int:
    return int(text.split(maxsplit=1)[0]) * 1024  # the kernel's "kB"


def percentile(values: Sequence[float], percent: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * percent / 100))] if values else float("nan")
