"""What a measurement leaves: series of figures, and where they were taken.  bench/schema.json describes the file.

Every figure is a cost: the lower the better.  Contenders took turns, so the n-th round of one series is compared with
the n-th of another, and a ratio is the median of the rounds' own: a slow moment of the machine hits both sides.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastnl_engine.bench.machine import Facts

VERSION = 1
PERCENTS = (*range(0, 100, 2), 99, 99.5, 99.9, 100)

Setting = dict[str, str | int]


@dataclass(slots=True)
class Series:
    """What one contender's step cost in every round.

    setting        what was measured: kind, shape, pairs, batch, …
    form           "born" in place, or created and "moved"; "" where that makes no difference
    unit           of `rounds`: "us" or "ms" for each connection, "s", "KiB"
    connections    of one round; slow contenders get fewer
    cpu            processor time, in the same unit; empty where nobody measured it
    distribution   percentage and the figure that so many are at or below, over all rounds; for latencies
    """

    experiment: str
    setting: Setting
    who: str
    form: str
    step: str
    unit: str
    connections: int
    rounds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    distribution: list[tuple[float, float]] = field(default_factory=list)

    @property
    def place(self) -> tuple[Any, ...]:
        """What is compared with each other: the same place, another contender."""
        return (self.experiment, tuple(sorted(self.setting.items())), self.step, self.unit)

    @property
    def key(self) -> tuple[Any, ...]:
        return (*self.place, self.who, self.form)

    @property
    def label(self) -> str:
        return f"{self.who}, {self.form}" if self.form == "moved" else self.who

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    def over(self, base: Series) -> Ratio:
        """How many times what `base` costs this one does."""
        return Ratio.of([mine / its for mine, its in zip(self.rounds, base.rounds, strict=False)])

    def percentile(self, percent: float) -> float:
        return next(value for at, value in self.distribution if at >= percent)


@dataclass(frozen=True, slots=True)
class Ratio:
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Ratio:
        return cls(statistics.median(ratios), min(ratios), max(ratios))

    def __str__(self) -> str:
        digits = 2 if self.median < 10 else 0
        return f"{self.median:.{digits}f} ({self.low:.{digits}f}–{self.high:.{digits}f})"


@dataclass(slots=True)
class Results:
    """missing: contenders that were not there, and why."""

    command: str
    machine: Facts
    missing: dict[str, str] = field(default_factory=dict)
    series: list[Series] = field(default_factory=list)

    def find(
        self, experiment: str, *, who: str | None = None, step: str | None = None, **setting: str | int
    ) -> list[Series]:
        """Series of an experiment; what is not given may be anything."""
        return [
            s
            for s in self.series
            if s.experiment == experiment and who in (None, s.who) and step in (None, s.step)
            and all(s.setting.get(k) == v for k, v in setting.items())
        ]  # fmt: skip

    def beside(self, series: Series, who: str, form: str = "") -> Series | None:
        """Another contender's series of the same place."""
        return next((s for s in self.series if s.place == series.place and s.who == who and form in ("", s.form)), None)

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.as_json(), indent=1) + "\n")

    def as_json(self) -> dict[str, Any]:
        series = []
        for s in self.series:
            numbers = {
                "rounds": [_short(x) for x in s.rounds],
                "cpu": [_short(x) for x in s.cpu],
                "distribution": [[at, _short(x)] for at, x in s.distribution],
            }
            series.append(asdict(s) | numbers)
        head = {"version": VERSION, "command": self.command, "machine": self.machine, "missing": self.missing}
        return head | {"series": series}

    @classmethod
    def read(cls, path: Path) -> Results:
        """Raises ValueError for a file of another version."""
        found = json.loads(path.read_text())
        if found.get("version") != VERSION:
            raise ValueError(f"{path}: these are no results of version {VERSION}")
        series = [Series(**s) for s in found["series"]]
        for s in series:
            s.distribution = [(at, value) for at, value in s.distribution]
        return cls(found["command"], found["machine"], found["missing"], series)


def distribution(values: Sequence[float]) -> list[tuple[float, float]]:
    ordered = sorted(values)
    last = len(ordered) - 1
    return [(percent, ordered[min(last, int(len(ordered) * percent / 100))]) for percent in PERCENTS] if ordered else []


def _short(value: float) -> float:
    """Four digits that count: more is noise."""
    return float(f"{value:.4g}")
