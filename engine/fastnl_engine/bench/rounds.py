"""Rounds in which contenders take turns.

Each takes the same connections through the same steps; who comes first changes from round to round.  The first rounds
warm up and do not count.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from fastnl_engine.bench.contenders import Contender, Step, Time, settle
from fastnl_engine.bench.results import Results, Series, Setting, distribution


def measure(
    results: Results,
    experiment: str,
    setting: Setting,
    contenders: Sequence[Contender],
    steps: Sequence[Step] = ("create", "delete"),
    *,
    only: Sequence[Step] | None = None,
    rounds: int,
    warm: int = 1,
    until: float = float("inf"),
    latencies: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Series]:
    """Adds a series for each contender and step.  No round begins after the moment `until`, but one there is.

    only: the steps that are of interest, when not all are.
    latencies: of single calls, in milliseconds; a round's figure is their median.
    """
    unit = "ms" if latencies else "us"
    found = {
        (c.name, c.form, step): Series(experiment, dict(setting), c.name, c.form, step, unit, c.count)
        for c in contenders
        for step in (steps if only is None else only)
    }
    calls: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for n in range(warm + rounds):
        if n > warm and time.monotonic() > until:
            break
        turn = n % len(contenders)
        for contender in (*contenders[turn:], *contenders[:turn]):
            tell(contender.name)
            for step in steps:
                settle()
                took = contender.step(step)
                series = found.get((contender.name, contender.form, step))
                if n >= warm and series is not None:
                    _note(series, took)
                    calls[series.key] += took.calls
    for series in found.values():
        if latencies:
            series.distribution = distribution([1e3 * x for x in calls[series.key]])
    results.series += found.values()
    return list(found.values())


def _note(series: Series, took: Time) -> None:
    if series.unit == "ms":
        series.rounds.append(1e3 * statistics.median(took.calls))
        return
    series.rounds.append(1e6 * took.passed)
    if took.cpu:
        series.cpu.append(1e6 * took.cpu)
