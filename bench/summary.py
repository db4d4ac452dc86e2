"""`make bench`: what a pair costs the floor, the library, the engine and the seed's sequence, in one run.

    python -m bench.summary [--seconds 240] [--rounds 12] [--pairs 512] [--shapes spread,star]

Prints two tables and writes every round to bench/out/summary.json.  Contenders take turns in every round,
in rotating order; a ratio is the median of the rounds' own ratios, so that a slow moment of the machine hits both
sides of it.  Nothing here fails because of a figure: a target that was missed is printed as missed.

It needs root, and works in network and mount namespaces of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import resource
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TextIO

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench import engine, machine, messages, workloads
from bench.contenders import BATCH, Contender, Cost, Floor, Library, build_floor, settle
from bench.seed_sequence import SeedSequence
from fastnl import Veth
from fastnl.testing import isolate

OUT = Path(__file__).parent / "out"
WORK = OUT / "work"
STEPS = ("create", "delete")


@dataclass
class Shape:
    """All rounds of one shape, by contender."""

    name: str
    rounds: list[dict[str, Cost]] = field(default_factory=list)

    def cost(self, who: str, step: str) -> float:
        """Median, seconds a pair."""
        return statistics.median(float(getattr(r[who], step)) for r in self.rounds)

    def ratios(self, who: str, base: str, step: str) -> list[float]:
        return sorted(getattr(r[who], step) / getattr(r[base], step) for r in self.rounds)

    def ratio(self, who: str, base: str, step: str) -> float:
        return statistics.median(self.ratios(who, base, step))


def main() -> None:
    options = _options()
    signal.alarm(options.seconds + 45)  # whatever hangs; all that was made goes with this process and its children
    begin = time.monotonic()
    lock = _alone()  # noqa: F841  held until the end
    isolate()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    build_floor()
    console = Console(width=max(100, Console().width))
    facts = machine.facts()
    others = machine.Others()
    console.print(", ".join(f"{k} {v}" for k, v in facts.items()), highlight=False)
    building = messages.build_cost()
    shapes = []
    # on the disk and not in /tmp, which may be memory: the engine's store is to be waited for
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    for n, name in enumerate(options.shapes):
        end = begin + options.seconds * (n + 1) / len(options.shapes)
        shapes.append(measure(name, options.pairs, options.rounds, end, console))
        console.print(_costs(shapes[-1], options.pairs))
    shutil.rmtree(WORK)
    facts |= others.read()
    console.print(
        f"others took {facts['taken by others']} processors on average, the hypervisor {facts['stolen']}; "
        "over 0.3 the figures are worth little",
        highlight=False,
    )
    console.print(_verdicts(targets(shapes, building)))
    _write(options.out, facts, shapes, building, options.pairs)
    console.print(f"every round: {os.path.relpath(options.out)}; {time.monotonic() - begin:.0f} s")


def _alone() -> TextIO:
    """Two measurements at once would disturb each other; exits when there is one already."""
    OUT.mkdir(exist_ok=True)
    file = (OUT / "lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit("another `make bench` of this checkout is at work")
    return file


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.summary", description="What a pair costs, and whom.")
    parser.add_argument("--seconds", type=int, default=210, help="no further round begins after this long")
    parser.add_argument("--rounds", type=int, default=12, help="at most so many rounds of each shape")
    parser.add_argument("--pairs", type=int, default=512)
    parser.add_argument("--shapes", type=lambda text: text.split(","), default=["spread", "star"])
    parser.add_argument("--out", type=Path, default=OUT / "summary.json")
    return parser.parse_args()


def measure(name: str, pairs: int, rounds: int, end: float, console: Console) -> Shape:
    """Rounds of one shape until `rounds` or the moment `end`; at least one."""
    connections = workloads.pairs(name, pairs)
    shape = Shape(name)
    with contextlib.ExitStack() as stack, Progress(console=console, transient=True) as progress:
        task = progress.add_task(f"{name}: making namespaces", total=rounds)
        workloads.make_namespaces(connections)
        contenders = _contenders(connections, WORK / name, stack)
        while len(shape.rounds) < rounds and (not shape.rounds or time.monotonic() < end):
            turn = len(shape.rounds) % len(contenders)
            costs = {}
            for contender in contenders[turn:] + contenders[:turn]:
                progress.update(task, description=f"{name}: {contender.name}")
                settle()
                costs[contender.name] = contender.round()
            shape.rounds.append(costs)
            progress.advance(task)
    return shape


def _contenders(connections: Sequence[Veth], folder: Path, stack: contextlib.ExitStack) -> list[Contender]:
    folder.mkdir()
    found: list[Contender] = [
        Floor(connections, folder),
        Floor(connections, folder, kept=True),
        Library(connections),
        Library(connections, batch=len(connections), name="library, one call"),
        SeedSequence(connections),
    ]
    if engine.available():
        found += [
            stack.enter_context(engine.Engine(connections, folder / f"engine{n}", together=n))
            for n in (1, engine.IN_FLIGHT)
        ]
    return found


# -- the tables ------------------------------------------------------------------------------------


def _costs(shape: Shape, pairs: int) -> Table:
    title = f"{shape.name}: cost of a pair; {pairs} in batches of {BATCH}, {len(shape.rounds)} rounds"
    table = Table(title=title, min_width=96)
    table.add_column("", no_wrap=True)
    for step in STEPS:
        table.add_column(f"{step}, us", justify="right")
        table.add_column("x floor (range)", justify="right", no_wrap=True)
    for who in shape.rounds[0]:
        cells = []
        for step in STEPS:
            ratios = shape.ratios(who, "floor", step)
            spread = f" ({ratios[0]:.2f}..{ratios[-1]:.2f})" if who != "floor" else ""
            cells += [f"{shape.cost(who, step) * 1e6:,.0f}", f"{statistics.median(ratios):.2f}{spread}"]
        table.add_row(who, *cells)
    return table


def _verdicts(found: Sequence[Target]) -> Table:
    table = Table(title="targets", min_width=96)
    for column in Target._fields:
        table.add_column(column, justify="right" if column in ("target", "measured") else "left")
    for target in found:
        table.add_row(*target)
    return table


class Target(NamedTuple):
    what: str
    where: str
    target: str
    measured: str
    verdict: str


def targets(shapes: Sequence[Shape], building: float) -> list[Target]:
    """What docs/performance.md promises, and what came out."""
    out = []

    def most(what: str, where: str, limit: float, value: float, unit: str) -> None:
        out.append(Target(what, where, f"<= {limit:g}{unit}", f"{value:.2f}{unit}", _verdict(value <= limit)))

    for shape in shapes:
        for who, limit in (("library", 1.15), ("engine", 1.30)):
            if who in shape.rounds[0]:
                for step in STEPS:
                    value = shape.ratio(who, "floor", step)
                    most(f"{who} against the floor", f"{shape.name}, {step}", limit, value, " x")
    for shape in shapes:
        times = shape.ratio("seed's sequence", "library", "create")
        out.append(
            Target(
                "seed's sequence against the library", f"{shape.name}, create", ">= 80 x", f"{times:.0f} x",
                _verdict(times >= 80),
            )
        )  # fmt: skip
    for shape in shapes:
        if shape.name == "star":
            most("library, one call", "star, delete", 0.5, shape.cost("library, one call", "delete") * 1e3, " ms")
    most("building a connection's messages", "one address an end", 3, building * 1e6, " us")
    return out


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


def _write(path: Path, facts: machine.Facts, shapes: Sequence[Shape], building: float, pairs: int) -> None:
    path.write_text(
        json.dumps(
            {
                "machine": facts,
                "pairs": pairs,
                "batch": BATCH,
                "message_building_seconds": building,
                "targets": [t._asdict() for t in targets(shapes, building)],
                "shapes": {s.name: [{who: c._asdict() for who, c in r.items()} for r in s.rounds] for s in shapes},
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
