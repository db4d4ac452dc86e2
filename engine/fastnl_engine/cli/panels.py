"""How `top` looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fastnl_engine.cli.output import COLOURS
from fastnl_engine.cli.rates import short
from fastnl_engine.cli.sampler import Busy, Sample

RATES = {"connected": "connects", "disconnected": "disconnects", "updated": "updates", "moved": "moves"}
STAGES = ("waiting", "intent", "kernel", "outcome")
ROWS = 6  # of each of the three upper panels
SOME = 10  # of the busiest
BAR = 10


def page(
    sample: Sample, endpoint: str, width: int, height: int | None = None, interval: float | None = None
) -> RenderableType:
    """Everything, in so many columns and, on a screen, rows."""
    unwell = _unwell(sample)
    head = _head(sample, endpoint, interval)
    upper = Table.grid(expand=True, padding=0)
    for share in (4, 5, 6):
        upper.add_column(ratio=share)
    upper.add_row(_connections(sample), _rates(sample), _engine(sample))
    parts: list[RenderableType] = [head, upper]
    used = 1 + ROWS + 2
    if unwell is not None and (height is None or height >= used + 4):
        parts.append(unwell)
        used += 3
    left = None if height is None else height - used - 2
    if left is None or left > 1:
        parts.append(_busiest(sample, left))
    return Group(*parts)


def _head(sample: Sample, endpoint: str, interval: float | None) -> Text:
    info = sample.info
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"fastnl-engine {info['version']}", "bold")
    text.append(f"  {info['instance']}, up {_duration(info['uptime'])}")
    if sample.problem:
        text.append(f"  {sample.problem}", "bold red")
    elif interval is not None:
        text.append(f"  every {interval:g} s, q ends", "dim")
    text.append(f"  {endpoint}", "dim")
    return text


def _connections(sample: Sample) -> Panel:
    states = sample.info["connections"]
    total = sum(states.values())
    rows = []
    for state in ("up", "pending", "failed", *sorted(set(states) - {"up", "pending", "failed"})):
        count = states.get(state, 0)
        colour = COLOURS.get(state, "")
        bar = "█" * max(round(BAR * count / total), 1) if count else ""
        rows.append((Text(state, colour if count else "dim"), str(count), Text(bar, colour)))
    rows.append((Text("all", "bold"), str(total), Text()))
    return _panel("connections", _grid(rows), ROWS)


def _rates(sample: Sample) -> Panel:
    totals = sample.info["totals"]
    rows: list[tuple[Any, ...]] = [("", Text("per s", "dim"), Text("total", "dim"))]
    for name, word in (*RATES.items(), ("failed", "failures")):
        rate = sample.rates.get(name)
        style = "red" if name == "failed" and rate else ""
        rows.append((Text(word, style), "-" if rate is None else short(rate), short(totals.get(name, 0))))
    return _panel("rates", _grid(rows), ROWS)


def _engine(sample: Sample) -> Panel:
    load, most = sample.info["load"], sample.info["limits"]["queue"]
    style = "red" if load > 0.8 * most else "yellow" if load > 0.5 * most else ""
    cycles = sample.rates.get("cycles")
    items = "" if sample.cycle_items is None else f"{sample.cycle_items:.1f} jobs each"
    rows: list[tuple[Any, ...]] = [
        ("queue", Text(short(load), style), Text(f"of {short(most)}", "dim")),
        ("cycles/s", "-" if cycles is None else short(cycles), Text(items, "dim")),
    ]
    for stage in STAGES:
        half, most_ = sample.stages.get(stage, (None, None))
        rows.append((stage, _seconds(half), Text(f"p99 {_seconds(most_)}" if half is not None else "", "dim")))
    return _panel("engine", _grid(rows), ROWS)


def _unwell(sample: Sample) -> Panel | None:
    """Why connections are not up, and what went wrong lately; in one line."""
    text = Text(no_wrap=True, overflow="ellipsis")
    for (state, code), count in sample.unwell.items():
        text.append(f"{count} {state}", COLOURS.get(state, ""))
        text.append(f" {code}".rstrip() + "   ")
    for missing in sample.info["waiting_for"][:3]:
        text.append("waiting for ", "dim")
        text.append(f"{missing['netns']} {missing['connections']}   ")
    if sample.errors:
        text.append("just now: ", "bold")
        text.append("   ".join(f"{count:.0f} {code}" for code, count in sample.errors.items()))
    return Panel(text, title="not well", title_align="left", border_style="dim") if text else None


def _busiest(sample: Sample, rows: int | None) -> Panel:
    """In so many rows, or as many as it takes for a few."""
    table = Table(box=None, expand=True, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("connection", ratio=1, no_wrap=True, overflow="ellipsis")
    for column in ("a to b B/s", "pkt/s", "b to a B/s", "pkt/s", "lost/s"):
        table.add_column(column, justify="right", no_wrap=True)
    shown: Sequence[Busy] = sample.busiest[: SOME if rows is None else rows - 1]
    for b in shown:
        numbers = (b.out_bytes, b.out_packets, b.in_bytes, b.in_packets)
        table.add_row(Text(b.id), *(short(n) for n in numbers), Text(short(b.lost), "red" if b.lost else "dim"))
    body: RenderableType = table if shown else Text("no traffic, or too many connections to ask for all", "dim")
    return Panel(
        body, title="busiest", title_align="left", border_style="dim", height=None if rows is None else rows + 2
    )


def _grid(rows: Sequence[tuple[Any, ...]]) -> Table:
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, justify="right")
    grid.add_column(no_wrap=True, ratio=1, overflow="crop")
    for row in rows:
        grid.add_row(*row)
    return grid


def _panel(title: str, body: RenderableType, rows: int) -> Panel:
    return Panel(body, title=title, title_align="left", border_style="dim", height=rows + 2)


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    for unit, scale in (("s", 1.0), ("ms", 1e3)):
        if value * scale >= 1:
            return f"{value * scale:.1f} {unit}" if value * scale < 10 else f"{value * scale:.0f} {unit}"
    return f"{value * 1e6:.0f} µs"


def _duration(seconds: float) -> str:
    minutes, hours, days = int(seconds) // 60, int(seconds) // 3600, int(seconds) // 86400
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{int(seconds)} s"
