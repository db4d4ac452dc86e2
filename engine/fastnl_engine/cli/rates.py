"""What changed between two looks at the engine's counters, per second."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence

import click

from fastnl_engine.cli import output
from fastnl_engine.cli.talk import Result

UNITS = ("", "k", "M", "G", "T")


def per_second(old: Mapping[str, float], new: Mapping[str, float], seconds: float) -> dict[str, float]:
    """The rate of each counter; of none that began again, for its interface or engine is another one than before."""
    names = [n for n in new if n in old and isinstance(new[n], (int, float)) and not isinstance(new[n], bool)]
    if any(new[n] < old[n] for n in names):
        return {}
    return {n: (new[n] - old[n]) / seconds for n in names}


def of_ends(old: Sequence[Result], new: Sequence[Result], seconds: float) -> list[Result]:
    """Rows like those of `stats`, whose ends have rates instead of counters; an end that is new has none."""
    before = {(row["id"], end): row[end] for row in old for end in "ab" if end in row}
    rows = []
    for row in new:
        rated = dict(row)
        for end in "ab":
            if end in row:
                rates = per_second(before.get((row["id"], end), {}), row[end], seconds)
                rated[end] = {"ifname": row[end]["ifname"], **rates}
        rows.append(rated)
    return rows


def short(number: float) -> str:
    """`12.3k`"""
    for unit in UNITS:
        if abs(number) < 999.5 or unit == UNITS[-1]:
            break
        number /= 1000
    return f"{number:.0f}{unit}" if number >= 99.5 or number == int(number) else f"{number:.3g}{unit}"


def watch(ask: Callable[[], list[Result]], seconds: float, count: int | None, json: bool) -> list[Result]:
    """Shows the rates of every `seconds`, `count` times or for ever; gives the last answer."""
    before, old = time.monotonic(), ask()
    while count is None or count > 0:
        time.sleep(max(0.0, before + seconds - time.monotonic()))
        now, new = time.monotonic(), ask()
        rated = of_ends(old, new, now - before)
        before, old = now, new
        if json:
            output.as_json_line(rated)
        else:
            if sys.stdout.isatty():
                click.clear()
            _show(rated)
            output.failures(rated)
        sys.stdout.flush()
        count = None if count is None else count - 1
    return old


def _show(rated: Sequence[Result]) -> None:
    numbers = [f"{way} {name}/s" for way in ("rx", "tx") for name in output.COUNTERS.values()]
    rows = []
    for row in rated:
        for end in "ab":
            if end in row:
                rates = [row[end].get(f"{way}_{name}") for way in ("rx", "tx") for name in output.COUNTERS]
                rows.append((row["id"], end, row[end]["ifname"], *("-" if r is None else short(r) for r in rates)))
    output.table(("id", "end", "interface", *numbers), rows)
