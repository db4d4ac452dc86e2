"""Whether a change made something slower: python -m bench.compare BASE.json NEW.json

Both are files that `make bench` wrote, on one machine.  Even so its moments differ, and times with them, so only
ratios are compared: of each contender to the floor of the same run, or to the first contender where there is no floor.
A ratio counts as changed when the ranges that its rounds span in the two runs do not meet, and its median has changed
by more than TOLERANCE.  Exit code: 0 nothing is slower, 1 something is, 2 there is nothing to compare.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fastnl_engine.bench.results import Ratio, Results, Series

TOLERANCE = 0.05
OURS = ("library", "engine", "etcd", "gRPC", "and ")  # how the names of what fastnl does begin


class Change(NamedTuple):
    what: str
    before: Ratio
    after: Ratio

    @property
    def factor(self) -> float:
        return self.after.median / self.before.median

    @property
    def slower(self) -> bool:
        return self.after.low > self.before.high and self.factor > 1 + TOLERANCE

    @property
    def faster(self) -> bool:
        return self.after.high < self.before.low and self.factor < 1 - TOLERANCE


def changes(base: Results, new: Results) -> Iterator[Change]:
    """Of everything of ours that was measured in both runs."""
    before, after = _ratios(base), _ratios(new)
    for key in after:
        if key in before:
            series, ratio = after[key]
            yield Change(_name(series), before[key][1], ratio)


def _ratios(results: Results) -> dict[tuple[object, ...], tuple[Series, Ratio]]:
    bases: dict[tuple[object, ...], Series] = {}
    for s in results.series:
        if s.who == "floor" or s.place not in bases:
            bases[s.place] = s
    return {
        s.key: (s, s.over(bases[s.place]))
        for s in results.series
        if s.who.startswith(OURS) and s.rounds and s is not bases[s.place] and all(bases[s.place].rounds)
    }


def _name(s: Series) -> str:
    setting = ", ".join(f"{name} {value}" for name, value in s.setting.items())
    return f"{s.experiment}: {s.label}, {s.step} ({setting})"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("new", type=Path)
    options = parser.parse_args()
    try:
        base, new = Results.read(options.base), Results.read(options.new)
    except (OSError, ValueError) as e:
        print(e, file=sys.stderr)
        return 2
    for fact in ("kernel", "cpu", "cpus", "hz", "mitigations"):
        if base.machine.get(fact) != new.machine.get(fact):
            print(f"note: the machines differ: {fact} {base.machine.get(fact)} and {new.machine.get(fact)}")
    found = list(changes(base, new))
    if not found:
        print("the two runs have nothing in common", file=sys.stderr)
        return 2
    slower = [c for c in found if c.slower]
    for word, some in (("slower", slower), ("faster", [c for c in found if c.faster])):
        for c in sorted(some, key=lambda c: c.factor, reverse=word == "slower"):
            print(f"{word} {c.factor:.2f} times: {c.what}: {c.before} before, {c.after} now")
    print(f"{len(found)} ratios compared, {len(slower)} slower")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
