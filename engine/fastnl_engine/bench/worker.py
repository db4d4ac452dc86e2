"""A contender in a process of its own, so that none pays for what another one has loaded, opened or left behind.

    python -m fastnl_engine.bench.worker NAME FORM FILE

Any program can be one (bench/peers has one in Go).  The last word of its command line is a file of JSON: `connections`
as the engine's protocol has them, how they are after they were `updated`, the `rooms` that their first ends are moved
to in turn, and the `workload` that they are.  It says `ready`; then each line that it reads is a step, which it answers
with the seconds passed and the processor time of the whole step, and it ends with its input.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from fastnl import Connection
from fastnl.testing import spawn
from fastnl_engine.bench.contenders import Contender, Library, MovedLibrary, Step, Time
from fastnl_engine.bench.workloads import ROOMS, Workload, as_job, updated


def _library(connections: Sequence[Connection], form: str) -> Contender:
    return MovedLibrary(connections) if form == "moved" else Library(connections)


def _seed(connections: Sequence[Connection], form: str) -> Contender:
    from fastnl_engine.bench.seed_sequence import SeedSequence

    return SeedSequence(connections, form)


def _ip(connections: Sequence[Connection], form: str) -> Contender:
    from fastnl_engine.bench.iproute2 import Ip

    return Ip(connections, form)


def _ip_batch(connections: Sequence[Connection], form: str) -> Contender:
    from fastnl_engine.bench.iproute2 import IpBatch

    return IpBatch(connections, form)


def _pyroute2(connections: Sequence[Connection], form: str) -> Contender:
    from fastnl_engine.bench.pyroute2_peer import Pyroute2

    return Pyroute2(connections, form)


def _pyroute2_batch(connections: Sequence[Connection], form: str) -> Contender:
    from fastnl_engine.bench.pyroute2_peer import Pyroute2Batch

    return Pyroute2Batch(connections, form)


KNOWN: dict[str, Callable[[Sequence[Connection], str], Contender]] = {
    "library": _library,
    "seed's sequence": _seed,
    "ip": _ip,
    "ip -batch": _ip_batch,
    "pyroute2": _pyroute2,
    "pyroute2 IPBatch": _pyroute2_batch,
}


class Process:
    """A worker, to be used in `with`.

    folder    a new one, for what it is told
    command   of a program that is none of KNOWN
    """

    def __init__(self, name: str, form: str, workload: Workload, folder: Path, command: Sequence[str] = ()) -> None:
        self.name = name
        self.form = form
        self.count = workload.count
        folder.mkdir()
        self._file = folder / "workload.json"
        made = workload.connections()
        told = {
            "workload": asdict(workload), "connections": [as_job(c) for c in made],
            "updated": [as_job(updated(c)) for c in made], "rooms": ROOMS,
        }  # fmt: skip
        self._file.write_text(json.dumps(told))
        self._command = list(command) or [sys.executable, "-m", "fastnl_engine.bench.worker", name]

    def __enter__(self) -> Process:
        command = [*self._command, self.form, str(self._file)]
        self._process = spawn(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer("start")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def step(self, step: Step) -> Time:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{step}\n")
        self._process.stdin.flush()
        passed, cpu = map(float, self._answer(step).split())
        return Time(passed / self.count, cpu / self.count)

    def _answer(self, what: str) -> str:
        assert self._process.stdout is not None
        line: str = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ({self.form}) did not survive {what}; see above what it said")
        return line


def main(name: str, form: str, file: str) -> None:
    workload = Workload(**json.loads(Path(file).read_text())["workload"])
    contender = KNOWN[name](workload.connections(), form)
    print("ready", flush=True)
    for line in sys.stdin:
        step = line.strip()
        took = contender.step(step)  # type: ignore[arg-type]  # the other side's words
        print(took.passed * contender.count, took.cpu * contender.count, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
