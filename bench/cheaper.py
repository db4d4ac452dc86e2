"""Studies of what could make the kernel do less for the same pair; `python -m bench.studies` runs them.

docs/design/past-the-floor.md has what came out.  The messages of bench.plans are replayed by the floor's C program
beside the library's own.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from bench.at_birth import what_a_create_takes
from bench.plans import (
    Birth,
    Create,
    Fill,
    Namespaces,
    Replay,
    Sweep,
    different,
    down,
    hand_out,
    hold,
    nothing,
    rename,
    settings_of_namespaces,
    without_addresses,
)
from bench.replay import Floor, build
from fastnl import Host, Veth
from fastnl_engine.bench import workloads
from fastnl_engine.bench.contenders import BATCH, Contender, Step, Time, wired
from fastnl_engine.bench.results import Results, Setting
from fastnl_engine.bench.rounds import measure

BOTH = ("spread", "star")
CPU = "processor time"

Plan = Mapping[str, Fill]  # of each step


@dataclass
class Study:
    """What a study is given.

    pairs   as the caller wants it; None: as the study does
    say     for what is no figure
    """

    name: str
    results: Results
    folder: Path
    rounds: int
    pairs: int | None
    say: Callable[[str], None]
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def place(self) -> Path:
        return self.folder / str(next(self._numbers))

    def shapes(self, count: int, shapes: Sequence[str] = BOTH) -> Iterator[tuple[str, list[Veth]]]:
        for shape in shapes:
            made = workloads.pairs(shape, self.pairs or count)
            workloads.make_namespaces(made)
            yield shape, made

    def replays(self, pairs: Sequence[Veth], plans: Mapping[str, Plan], **more: Any) -> list[Replay]:
        """A contender for each; says what one leaves behind that the first one does not."""
        found = [Replay(name, pairs, self.place(), steps, **more) for name, steps in plans.items()]
        for one in found:
            if words := different(one.after, found[0].after):
                self.say(f"{one.name}: {words}")
        return found

    def compare(
        self, setting: Setting, contenders: Sequence[Contender], steps: Sequence[str], only: Sequence[str]
    ) -> None:
        about: Setting = {"pairs": contenders[0].count, **setting}
        # the steps have names of their own
        steps, only = cast("Sequence[Step]", steps), cast("Sequence[Step]", only)
        measure(self.results, self.name, about, contenders, steps, only=only, rounds=self.rounds)


def births(study: Study) -> None:
    plans = {
        "as now": Birth(),
        "mode merged with the first up": Birth(mode="merged"),
        "first end up at birth": Birth(born_up=True),
        "without alias": Birth(alias=False),
        "without IPv6 mode": Birth(mode="never"),
        "IPv6 off by file": Birth(mode="file"),
        "addresses before up": Birth(first="addresses"),
        "addresses before up, mode merged": Birth(first="addresses", mode="merged"),
        "second end first": Birth(order=(1, 0)),
        "mode and up for the whole batch": Birth(by_group=True),
    }
    for shape, made in study.shapes(128):
        small = [replace(p, mtu=1279) for p in made]
        contenders: list[Contender] = [
            Floor(made, study.place(), name="the library's messages"),
            *study.replays(made, {name: {"create": plan, "delete": Sweep()} for name, plan in plans.items()}),
            *study.replays(small, {"bound: an MTU without IPv6": {"create": Birth(mode="never"), "delete": Sweep()}}),
        ]
        study.compare({"shape": shape, "a batch": BATCH}, contenders, ("create", "delete"), ("create",))


def defaults(study: Study) -> None:
    """The settings are written while the clock stands still: a namespace's owner does it once."""
    now: Plan = {"create": Birth(), "delete": Sweep()}
    less: Plan = {"create": Birth(mode="never"), "delete": Sweep()}
    by_file: Plan = {"create": Birth(mode="file"), "delete": Sweep()}
    for shape, made in study.shapes(128, (*BOTH, "dense")):
        contenders = study.replays(made, {"by message, as now": now, "by file, as now in a crowd": by_file})
        for setting in ("addr_gen_mode", "disable_ipv6"):
            before = settings_of_namespaces(made, setting)
            contenders += study.replays(made, {f"default {setting}": less}, before=before)
        study.compare({"shape": shape, "a batch": BATCH}, contenders, ("create", "delete"), ("create",))


def lone(study: Study) -> None:
    for shape, made in study.shapes(64, ("spread",)):
        plans: dict[str, Plan] = {
            "as now": {"create": Birth(), "delete": Sweep()},
            "sent from the first end's namespace": {"create": Birth(inside=True), "delete": Sweep()},
            "the same, mode merged with the first up": {"create": Birth(inside=True, mode="merged"), "delete": Sweep()},
        }
        kept: dict[str, Plan] = {"as now, sockets kept open": plans["as now"]}
        bare: dict[str, Plan] = {"bound: the create alone": {"create": Create(), "delete": Sweep(addresses=False)}}
        one = {"batch": 1, "sizes": {"delete": BATCH}}
        contenders = [
            *study.replays(made, plans, **one),
            *study.replays(made, kept, kept=True, **one),
            *study.replays(made, bare, **one),
        ]
        study.compare({"shape": shape, "a batch": 1}, contenders, ("create", "delete"), ("create",))


def ready(study: Study) -> None:
    """What is prepared, is while the clock stands still."""
    workloads.make_namespace("room")
    in_place: dict[str, tuple[Fill, Fill]] = {
        "as now": (nothing, Birth()),
        "ready in place": (hold(), hand_out()),
        "ready in place, renamed": (hold(prefix="x"), rename),
    }
    moved: dict[str, tuple[Fill, Fill]] = {
        "one end ready elsewhere, moved": (hold([1]), hand_out([1])),
        "both ends ready elsewhere, moved": (hold([0, 1]), hand_out([0, 1])),
    }
    for shape, made in study.shapes(128):
        contenders = []
        for ways, pairs in ((in_place, made), (moved, made[:8])):  # a move waits for grace periods
            plans: dict[str, Plan] = {
                name: {"prepare": a, "hand out": b, "delete": Sweep()} for name, (a, b) in ways.items()
            }
            contenders += study.replays(pairs, plans, room="room")
        study.compare({"shape": shape, "a batch": BATCH}, contenders, ("prepare", "hand out", "delete"), ("hand out",))


def namespaces(study: Study) -> None:
    count = study.pairs or 32
    contenders = [
        Namespaces("made when asked for", count, held=False),
        Namespaces("taken from those held ready", count, held=True),
    ]
    for standing in (0, 500):
        for n in range(standing):
            workloads.make_namespace(f"standing{n}")
        study.compare({"namespaces there": standing}, contenders, ("prepare", "hand out", "delete"), ("hand out",))


def sweeps(study: Study) -> None:
    plans = {
        "as now": Sweep(),
        "without the question": Sweep(probe=False),
        "a lone one by its index": Sweep(lone=True),
        "all of the group, without marks": Sweep(born=True),
        "addresses left": Sweep(addresses=False),
    }
    for shape, made in study.shapes(BATCH):
        # all at once: what deletes the group that they were born into leaves nothing for a second batch
        steps: dict[str, Plan] = {name: {"create": Birth(), "delete": plan} for name, plan in plans.items()}
        contenders: list[Contender] = [
            Floor(made, study.place(), name="the library's messages", batch=len(made)),
            *study.replays(made, steps, batch=len(made)),
        ]
        study.compare({"shape": shape}, contenders, ("create", "delete"), ("delete",))


def deferred(study: Study) -> None:
    """`reply` is when the caller is told; `in all` has the sweep too, of up to 64 pairs at a time."""
    ways: dict[str, tuple[Fill, Fill]] = {
        "swept at once": (Sweep(), nothing),
        "down, then swept": (down, Sweep()),
        "addresses removed, then swept": (without_addresses, Sweep(addresses=False)),
    }
    for (shape, made), batch in itertools.product(study.shapes(64), (1, 8, 64)):
        pairs = made if batch == 64 else made[:32]
        plans: dict[str, Plan] = {name: {"create": Birth(), "reply": a, "in all": b} for name, (a, b) in ways.items()}
        sizes = {"create": BATCH, "reply": batch}
        contenders = [Total(r) for r in study.replays(pairs, plans, sizes=sizes)]
        steps = ("create", "reply", "in all")
        study.compare({"shape": shape, "a batch": batch}, contenders, steps, steps[1:])


class Total:
    """A replay whose last step counts the one before, too."""

    form = "born"

    def __init__(self, replay: Replay) -> None:
        self.name, self.count = replay.name, replay.count
        self._replay, self._reply = replay, Time(0)

    def step(self, step: Step) -> Time:
        took = self._replay.step(step)
        if step == cast("Step", "in all"):
            return Time(took.passed + self._reply.passed, took.cpu + self._reply.cpu)
        self._reply = took
        return took


def beside(study: Study) -> None:
    """Does a create wait for a delete that somebody else's thread is at?"""
    [other] = workloads.pairs("dense", 1, prefix="w")
    workloads.make_namespaces([other])
    for shape, made in study.shapes(64, ("spread",)):
        plans: dict[str, Plan] = {
            name: {"create": Birth(), "delete": Sweep()} for name in ("creates alone", "creates beside lone deletes")
        }
        alone, second = study.replays(made, plans, batch=1, sizes={"delete": BATCH})
        study.compare({"shape": shape}, [alone, Beside(second, other)], ("create", "delete"), ("create",))


class Beside:
    """A replay while a thread makes and deletes one pair again and again; nearly all of its time is deletes."""

    form = "born"

    def __init__(self, replay: Replay, other: Veth) -> None:
        self.name, self.count = replay.name, replay.count
        self._replay, self._other, self._host = replay, other, Host("beside")

    def step(self, step: Step) -> Time:
        ended = threading.Event()
        thread = threading.Thread(target=self._churn, args=(ended,))
        thread.start()
        try:
            return self._replay.step(step)
        finally:
            ended.set()
            thread.join()

    def _churn(self, ended: threading.Event) -> None:
        while not ended.is_set():
            self._host.disconnect(wired(self._host.connect([self._other])))


def refused(study: Study) -> None:
    """Says what becomes of what a create carries, instead of figures."""
    for _, made in study.shapes(1, ("spread",)):
        for line in what_a_create_takes(made[0]):
            study.say(line)


STUDIES: dict[str, Callable[[Study], None]] = {
    f.__name__: f for f in (refused, births, defaults, lone, ready, namespaces, sweeps, deferred, beside)
}


def run(
    name: str, results: Results, folder: Path, *, rounds: int, pairs: int | None, say: Callable[[str], None]
) -> None:
    """Adds the figures of a study, and those in processor time.

    What the kernel does within a call is counted as the caller's, and a busy machine disturbs that less.
    """
    build()
    STUDIES[name](Study(name, results, folder, rounds, pairs, say))
    results.series += [replace(s, experiment=f"{name}, {CPU}", rounds=s.cpu) for s in results.series if s.cpu]
