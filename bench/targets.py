"""The figures to reach, and what a run found of them.  Those of the engine as a service have commands of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fastnl_engine.bench.results import Results, Series

# by shape: milliseconds, and how many times what a delete of its own costs
DELETES = {"star": (0.5, 30), "mesh": (2.5, 8), "spread": (2.5, 8)}


class Target(NamedTuple):
    """limit: at most so many, or at least where `least`; unit: "x" is a ratio, the median of the rounds' own."""

    what: str
    where: str
    limit: float
    unit: str
    measured: float
    least: bool = False

    @property
    def met(self) -> bool:
        return self.measured >= self.limit if self.least else self.measured <= self.limit

    @property
    def target(self) -> str:
        return f"{'at least' if self.least else 'at most'} {self.limit:g} {self.unit}"

    @property
    def found(self) -> str:
        return f"{self.measured:.{2 if self.measured < 10 else 0}f} {self.unit}"


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
        library = results.beside(s, "library")
        least = {"seed's sequence": 80, "vishvananda/netlink": 3, "pyroute2": 50}.get(s.who)
        if library and least and s.form == ("moved" if s.who.startswith("seed") else "born"):
            yield Target(f"{s.label} against the library", _where(s), least, "x", s.over(library).median, least=True)
    for s in results.find("deletes", who="all in one sweep", step="delete", kind="veth"):
        one = results.beside(s, "one by one")
        shape = str(s.setting["shape"])
        if one and shape in DELETES:
            limit, least = DELETES[shape]
            yield Target("a delete", _where(s), limit, "ms", s.median / 1e3)
            yield Target("one by one against a sweep", _where(s), least, "x", one.over(s).median, least=True)
    for s in results.find("growth", who="library", step="create", kind="veth"):
        first = results.find(
            "growth", who="library", step="create", kind="veth", shape=s.setting["shape"], standing=100
        )
        if first and int(s.setting["standing"]) > 100:
            where = f"{_where(s)}, {s.setting['standing']} up against 100"
            yield Target("cost of one more pair", where, 1.3, "x", s.median / first[0].median)
    for s in results.find("bytes", who="library", step="build", kind="veth", addresses=1, routes=0):
        yield Target("building a connection's messages", "one address an end", 3, "us", s.median)


def _ratio(results: Results, s: Series, base: str, what: str, limit: float) -> Iterator[Target]:
    other = results.beside(s, base)
    if other:
        yield Target(what, _where(s), limit, "x", s.over(other).median)


def _where(s: Series) -> str:
    return f"{s.setting.get('shape', '')}, {s.step}"
