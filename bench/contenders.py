"""Who is measured: each makes and removes the same pairs, and says what a pair cost it.

A round makes all pairs and removes them again, so that every contender finds the namespaces empty.
"""

from __future__ import annotations

import gc
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from bench.record import Recorder
from fastnl import Host, Result, Veth, Wired

FLOOR = Path(__file__).parent / "floor" / "floor"
BATCH = 64


class Cost(NamedTuple):
    """Seconds a pair; `cpu` is processor time, which a busy machine disturbs less, and 0 where nobody measured it."""

    create: float
    delete: float
    create_cpu: float = 0
    delete_cpu: float = 0


class Contender(Protocol):
    name: str

    def round(self) -> Cost: ...


def build_floor() -> None:
    subprocess.run(["make", "-s", "-C", str(FLOOR.parent)], check=True)


def split(connections: Sequence[Veth], size: int = BATCH) -> list[list[Veth]]:
    return [list(connections[at : at + size]) for at in range(0, len(connections), size)]


def wired(results: Sequence[Result]) -> list[Wired]:
    """What was made; an error ends the measurement."""
    for result in results:
        if result.error is not None:
            raise result.error
    return [result.wired for result in results if result.wired is not None]


class Clock:
    """Started when made; read() gives time passed and processor time, in seconds for each of `count`."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._cpu = time.process_time()
        self._begin = time.perf_counter()

    def read(self) -> tuple[float, float]:
        passed, cpu = time.perf_counter() - self._begin, time.process_time() - self._cpu
        return passed / self._count, cpu / self._count


class Library:
    """Host.connect and Host.disconnect, a batch a call."""

    def __init__(self, connections: Sequence[Veth], batch: int = BATCH, name: str = "library") -> None:
        self.name = name
        self.host = Host("bench")
        self.batches = split(connections, batch)
        self.count = len(connections)

    def round(self) -> Cost:
        gc.collect()
        clock = Clock(self.count)
        results = [self.host.connect(batch) for batch in self.batches]
        create, create_cpu = clock.read()
        made = [wired(r) for r in results]
        settle()
        clock = Clock(self.count)
        results = [self.host.disconnect(batch) for batch in made]
        delete, delete_cpu = clock.read()
        for r in results:
            wired(r)
        return Cost(create, delete, create_cpu, delete_cpu)


class Floor:
    """The library's run, replayed by a C program."""

    def __init__(self, connections: Sequence[Veth], out: Path, *, kept: bool = False, batch: int = BATCH) -> None:
        self.name = "floor, sockets kept" if kept else "floor"
        self.count = len(connections)
        self._command = [str(FLOOR), *(["-k"] if kept else [])]
        self._create, self._delete = out / "create.floor", out / "delete.floor"
        self.messages = self._record(split(connections, batch))

    def _record(self, batches: Sequence[Sequence[Veth]]) -> Cost:
        """Makes the pairs once and writes down how; returns messages a pair."""
        host = Host("bench")
        host.trace = creating = Recorder()
        made = []
        for batch in batches:
            creating.begin()
            made.append(wired(host.connect(batch)))
        host.trace = deleting = Recorder()
        for connected in made:
            deleting.begin()
            wired(host.disconnect(connected))
        creating.write(self._create)
        deleting.write(self._delete)
        return Cost(creating.messages / self.count, deleting.messages / self.count)

    def round(self) -> Cost:
        create, create_cpu = self._replay(self._create)
        settle()
        delete, delete_cpu = self._replay(self._delete)
        return Cost(create, delete, create_cpu, delete_cpu)

    def _replay(self, recording: Path) -> tuple[float, float]:
        done = subprocess.run([*self._command, str(recording)], check=True, capture_output=True, text=True, timeout=60)
        lines = [line.split() for line in done.stdout.splitlines()]
        passed, cpu = (sum(int(line[i]) for line in lines) / 1e9 / self.count for i in (0, 1))
        return passed, cpu


def settle() -> None:
    """Lets the kernel's work that nobody waits for come to its end, so that the next one does not pay for it."""
    time.sleep(0.03)
