"""The floor as a contender: what the library did, replayed by a C program."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.record import Recorder
from fastnl import Connection, Host
from fastnl.batch import CHUNK
from fastnl_engine.bench.contenders import BATCH, Library, Step, Time

FLOOR = Path(__file__).parent / "floor" / "floor"


def build() -> None:
    subprocess.run(["make", "-s", "-C", str(FLOOR.parent)], check=True)


class Floor:
    """Takes the connections through the steps once, writes down how, and replays that.

    kept       namespaces and sockets are opened while the clock stands still
    messages   sent for each connection, by step
    """

    form = "born"

    def __init__(
        self,
        connections: Sequence[Connection],
        folder: Path,
        steps: Sequence[Step] = ("create", "delete"),
        *,
        batch: int = BATCH,
        kept: bool = False,
        name: str = "",
        host: Host | None = None,
    ) -> None:
        self.name = name or ("floor, sockets kept" if kept else "floor")
        self.count = len(connections)
        self.messages: dict[str, float] = {}
        self._command = [str(FLOOR), *(["-k"] if kept else [])]
        self._folder = folder / self.name.replace(" ", "-")
        self._folder.mkdir(parents=True)
        # a host does more than CHUNK in several goes, each with descriptors of its own
        library = Library(connections, min(batch, CHUNK), host=host)
        for step in steps:
            library.host.trace = recorder = Recorder()
            library.before = recorder.begin
            library.step(step)
            library.host.trace = None
            recorder.write(self.recording(step))
            self.messages[step] = recorder.messages / self.count

    def recording(self, step: Step) -> Path:
        return self._folder / f"{step}.floor"

    def step(self, step: Step) -> Time:
        command = [*self._command, str(self.recording(step))]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise RuntimeError(f"{self.name}, {step}: {done.stderr}")
        batches = [tuple(int(number) / 1e9 for number in line.split()) for line in done.stdout.splitlines()]
        passed, cpu = (sum(batch[i] for batch in batches) / self.count for i in (0, 1))
        return Time(passed, cpu, [batch[0] for batch in batches])
