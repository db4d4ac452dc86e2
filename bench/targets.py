"""The figures to reach, and what a run found of them.  Those of the engine as a service have commands of their own.

Beside each stands what the floor, which sends the same messages and does nothing else, reached in the same rounds: a
figure that the floor misses is one that the kernel forbids on this machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fastnl_engine.bench.results import Results, Series

# by shape: milliseconds, and how many times what a delete of its own costs
DELETES = {"star": (0.5, 30), "mesh": (2.5, 8), "spread": (2.5, 8)}


class Target(NamedTuple):
    """limit: at most so many, or at least where `least`; unit: "x" is a ratio, the median of the rounds' own.

    best   what the floor reached; None where it has no part in it
    """

    what: str
    where: str
    limit: float
    unit: str
    measured: float
    best: float | None = None
    least: bool = False

    @property
    def met(self) -> bool:
        return self.measured >= self.limit if self.least else self.measured <= self.limit

    @property
    def verdict(self) -> str:
        if self.met:
            return "met"
        if self.best is not None and not self._replace(measured=self.best).met:
            return "missed, by the floor too"
        return "missed"

    @property
    def target(self) -> str:
        return f"{'at least' if self.least else 'at most'} {self.limit:g} {self.unit}"

    @property
    def found(self) -> str:
        return self._written(self.measured)

    @property
    def floors(self) -> str:
        return "" if self.best is None else self._written(self.best)

    def _written(self, value: float) -> str:
        return f"{value:.{2 if value < 10 else 0}f} {self.unit}"


def targets(results: Results) -> list[Target]:
    return list(_targets(results))


def _targets(results: Results) -> Iterator[Target]:
    for who, limit in (("library", 1.15), ("engine", 1.30)):
        for s in results.find("levels", who=who, kind="veth"):
            yield from _ratio(results, s, "floor", f"{who} against the floor", limit)
    for percent, limit in ((50, 1.0), (99, 5.0)):
        for s in results.find("lone", who="engine", step="create", kind="veth"):
            floor = results.beside(s, "floor")
            if floor and s.distribution:
                more = s.percentile(percent) - floor.percentile(percent)
                yield Target(f"a lone connect, p{percent}, over the floor's", _where(s), limit, "ms", more)
    for s in results.find("peers", step="create", kind="veth"):
        library = results.beside(s, "library", "born")
        least = {"seed's sequence": 80, "vishvananda/netlink": 3, "pyroute2": 50}.get(s.who)
        if library and least and s.form == ("moved" if s.who.startswith("seed") else "born"):
            floors = [floor for who in ("floor", "floor, sockets kept") if (floor := results.beside(s, who))]
            best = max((s.over(floor).median for floor in floors), default=None)
            yield Target(
                f"{s.label} against the library", _where(s), least, "x", s.over(library).median, best, least=True
            )
    for s in results.find("deletes", who="all in one sweep", step="delete", kind="veth"):
        one = results.beside(s, "one by one")
        shape = str(s.setting["shape"])
        if one and shape in DELETES:
            limit, least = DELETES[shape]
            floor = results.beside(s, "floor")
            bests = (floor.median / 1e3, one.over(floor).median) if floor else (None, None)
            yield Target("a delete", _where(s), limit, "ms", s.median / 1e3, bests[0])
            yield Target("one by one against a sweep", _where(s), least, "x", one.over(s).median, bests[1], least=True)
    for s in results.find("growth", who="library", step="create", kind="veth"):
        few = {who: _with_100(results, s, who) for who in ("library", "floor")}
        floor = results.beside(s, "floor")
        if few["library"] and int(s.setting["standing"]) > 100:
            where = f"{_where(s)}, {s.setting['standing']} up against 100"
            best = floor.median / few["floor"].median if floor and few["floor"] else None
            yield Target("cost of one more pair", where, 1.3, "x", s.median / few["library"].median, best)
    for s in results.find("bytes", who="library", step="build", kind="veth", addresses=1, routes=0):
        yield Target("building a connection's messages", "one address an end", 3, "us", s.median)


def _ratio(results: Results, s: Series, base: str, what: str, limit: float) -> Iterator[Target]:
    other = results.beside(s, base)
    if other:
        yield Target(what, _where(s), limit, "x", s.over(other).median, 1.0)


def _with_100(results: Results, s: Series, who: str) -> Series | None:
    """Of the same experiment with 100 connections standing."""
    found = results.find(s.experiment, who=who, step=s.step, **(s.setting | {"standing": 100}))
    return found[0] if found else None


def _where(s: Series) -> str:
    return f"{s.setting.get('shape', '')}, {s.step}"
