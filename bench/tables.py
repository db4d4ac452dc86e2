"""Results as tables: one for each experiment, a row for each contender in each setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from bench.targets import Target
from fastnl_engine.bench.results import Results, Series

PERCENTS = (50, 90, 99, 100)
UNITS = {"us": "us", "ms": "ms, p50"}


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table as text; `words` columns come first, the others are figures."""

    title: str
    words: int
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def as_markdown(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def for_terminal(self) -> Table:
        table = Table(title=self.title, min_width=96)
        for n, column in enumerate(self.columns):
            table.add_column(column, justify="left" if n < self.words else "right", no_wrap=n >= self.words)
        for row in self.rows:
            table.add_row(*row)
        return table


def sheet(results: Results, experiment: str) -> Sheet:
    """Medians, and how many times the base's they are: the floor's, else those of the first contender."""
    series = results.find(experiment)
    names = [name for name in dict.fromkeys(n for s in series for n in s.setting) if _varies(series, name)]
    steps = list(dict.fromkeys(s.step for s in series))
    latencies = any(s.distribution for s in series)
    base = "floor" if any(s.who == "floor" for s in series) else series[0].who
    columns = [*names, "who"]
    for step in steps:
        columns += [f"{step}, {UNITS[series[0].unit]}", "p99" if latencies else f"x {base}"]
    rows: dict[tuple[object, ...], dict[str, Series]] = {}
    for s in series:
        rows.setdefault((*(s.setting.get(name, "") for name in names), s.label), {})[s.step] = s
    cells = []
    for key, found in rows.items():
        row = [str(x) for x in key]
        for step in steps:
            row += _figures(results, found.get(step), base, latencies=latencies)
        cells.append(row)
    return Sheet(f"{experiment}: {_constant(series, names)}", len(names) + 1, columns, cells)


def _figures(results: Results, s: Series | None, base: str, *, latencies: bool) -> list[str]:
    if s is None or not s.rounds:
        return ["", ""]
    figure = f"{s.median:,.{_digits(s.median)}f}"
    if latencies:
        return [figure, f"{s.percentile(99):,.2f}"]
    other = results.beside(s, base)
    return [figure, "1" if s.who == base else str(s.over(other)) if other else ""]


def _digits(value: float) -> int:
    return 2 if value < 10 else 1 if value < 100 else 0


def _varies(series: Sequence[Series], name: str) -> bool:
    return len({s.setting.get(name) for s in series}) > 1


def _constant(series: Sequence[Series], varying: Sequence[str]) -> str:
    """What is the same in all of them, in words."""
    same = {name: value for s in series for name, value in s.setting.items() if name not in varying}
    words = [f"{name} {value}" for name, value in same.items()]
    rounds = sorted({len(s.rounds) for s in series})
    return ", ".join([*words, f"{' to '.join(str(n) for n in dict.fromkeys((rounds[0], rounds[-1])))} rounds"])


def of_targets(found: Sequence[Target]) -> Sheet:
    rows = [(t.what, t.where, t.target, t.found, t.floors, t.verdict) for t in found]
    columns = ("what", "where", "target", "measured", "the floor reaches", "")
    return Sheet("figures to reach", 2, columns, rows)
