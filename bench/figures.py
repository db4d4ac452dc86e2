"""The pictures of a report, as SVG."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from fastnl_engine.bench.contenders import BATCH
from fastnl_engine.bench.results import Results, Series

# told apart by those who do not see all colours as well (Okabe and Ito)
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#999999"]
OURS, THEIRS, FLOOR = "#0072B2", "#999999", "#444444"
mpl.rcParams |= {
    "figure.dpi": 90, "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.alpha": 0.25, "axes.axisbelow": True, "axes.prop_cycle": mpl.cycler(color=COLOURS), "legend.frameon": False,
    "svg.fonttype": "none", "svg.hashsalt": "fastnl", "figure.constrained_layout.use": True,
    "font.family": "sans-serif", "backend": "svg",
}  # fmt: skip

LAYERS = {
    "created": "kernel: interfaces created",
    "and up": "kernel: brought up",
    "and addresses": "kernel: addresses",
    "and visits": "kernel: namespaces entered",
    "and library": "library: Python",
    "engine, not durable": "engine: ZeroMQ, plan, store",
    "engine": "engine: waiting for the disk",
}


def batches(results: Results) -> str:
    """Creates a second by size of batch."""
    return _lines(results, "batches", "batch", "connections of one call", "creates a second", rate=True, log=2)


def growth(results: Results) -> str:
    """Microseconds of one more connection where so many are up."""
    return _lines(results, "growth", "standing", "connections that are up", "us for one more", rate=False, log=10)


def clients(results: Results) -> str:
    """Creates a second by the number of clients."""
    whose = ("engine", "engine, not durable")
    return _lines(results, "clients", "clients", "clients", "creates a second", rate=True, log=2, whose=whose)


def _lines(
    results: Results, experiment: str, x: str, xlabel: str, ylabel: str, *, rate: bool, log: int,
    whose: tuple[str, str] = ("library", "floor"),
) -> str:  # fmt: skip
    """The first of `whose` in full lines, the other in dotted ones."""
    series = [s for s in results.find(experiment, step="create") if s.rounds]
    kinds = _values(series, "kind")
    figure, axes = plt.subplots(1, len(kinds), figsize=(5 * len(kinds), 3.6), squeeze=False)
    for ax, kind in zip(axes[0], kinds, strict=True):
        for colour, shape in zip(COLOURS, _values(series, "shape"), strict=False):
            for who, style in zip(whose, ("-", ":"), strict=True):
                points = [s for s in series if (s.who, s.setting["kind"], s.setting["shape"]) == (who, kind, shape)]
                points.sort(key=lambda s: s.setting[x])
                xs = [s.setting[x] for s in points]
                ys, low, high = (
                    [1e6 / f(s) if rate else f(s) for s in points]
                    for f in (lambda s: s.median, lambda s: min(s.rounds), lambda s: max(s.rounds))
                )
                ax.plot(xs, ys, style, color=colour, marker="o", markersize=4, label=f"{who}, {shape}")
                if who == whose[0]:
                    ax.fill_between(xs, low, high, color=colour, alpha=0.12, linewidth=0)
        ax.set(title=kind, xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
        _ticks(ax, _values(series, x), log)
        ax.legend(fontsize=8)
    return _svg(figure)


def _ticks(ax: Any, measured: Iterable[int], log: int) -> None:
    """A tick for each value that was measured."""
    values = sorted(set(measured))
    ax.set_xscale("log", base=log)
    ax.set_xticks(values, [f"{value:,}" for value in values])
    ax.minorticks_off()


def changes(results: Results) -> str:
    """What an update, a move and a connection made anew cost by size of batch, in the first shape."""
    series = results.find("changes")
    kinds, shape = _values(series, "kind"), _values(series, "shape")[0]
    figure, axes = plt.subplots(1, len(kinds), figsize=(5 * len(kinds), 3.6), squeeze=False, sharey=True)
    for ax, kind in zip(axes[0], kinds, strict=True):
        for colour, step in zip(COLOURS, dict.fromkeys(s.step for s in series), strict=False):
            for who, style in (("library", "-"), ("floor", ":")):
                points = results.find("changes", who=who, step=step, kind=kind, shape=shape)
                points.sort(key=_batch)
                xs = [_batch(s) for s in points]
                label = f"{step}, {who}"
                ax.plot(xs, [s.median for s in points], style, color=colour, marker="o", markersize=4, label=label)
        ax.set(title=kind, xlabel="connections of one call", ylabel="us for each", yscale="log")
        ax.yaxis.set_major_formatter("{x:,g}")
        _ticks(ax, map(_batch, series), 2)
        ax.legend(fontsize=8)
    return _svg(figure)


def _batch(s: Series) -> int:
    """Of a result that does not say it, the usual one."""
    return int(s.setting.get("batch", BATCH))


def latencies(results: Results) -> str:
    """How many requests are answered within so many milliseconds."""
    panels: list[tuple[str, list[Series]]] = [("one at a time", results.find("lone", step="create", kind="veth"))]
    for rate in _values(results.find("arrivals"), "rate"):
        few = results.find("arrivals", step="create", kind="veth", rate=rate)
        panels.append((f"{rate} arrivals a second", few))
    panels = [(title, series) for title, series in panels if series]
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.6), squeeze=False, sharey=True)
    for ax, (title, series) in zip(axes[0], panels, strict=True):
        for s in series:
            label = s.who
            if s.experiment == "arrivals":
                label += f"; {s.setting['shape']}, clients: {s.setting['clients']}"
            ax.plot([ms for _, ms in s.distribution], [percent for percent, _ in s.distribution], label=label)
        ax.set(title=title, xlabel="milliseconds", xscale="log", ylim=(0, 100))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.minorticks_off()
        ax.legend(fontsize=8, loc="lower right")
    axes[0][0].set_ylabel("% of creates answered")
    return _svg(figure)


def layers(results: Results) -> str:
    """What each layer adds to the cost of a connection."""
    kinds = _values(results.find("layers"), "kind")
    figure, ax = plt.subplots(figsize=(9, 1.6 + 0.7 * len(kinds)))
    for y, kind in enumerate(kinds):
        left = 0.0
        for colour, (who, label) in zip(COLOURS, LAYERS.items(), strict=True):
            [s] = results.find("layers", who=who, step="create", kind=kind)
            # below what came before only because of noise
            width = max(0.0, s.median - left)
            ax.barh(y, width, left=left, color=colour, label=label if y == 0 else None)
            if width > 25:
                ax.text(left + width / 2, y, f"{width:.0f}", ha="center", va="center", color="white", fontsize=9)
            left += width
    ax.set_yticks(range(len(kinds)), kinds)
    ax.set_xlabel("us a connection")
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    return _svg(figure)


def deletes(results: Results) -> str:
    """Microseconds of a delete by strategy and shape."""
    series = results.find("deletes", step="delete", kind="veth")
    shapes, ways = _values(series, "shape"), list(dict.fromkeys(s.who for s in series))[::-1]
    figure, ax = plt.subplots(figsize=(9, 1.2 + 0.32 * len(ways) * max(1, len(shapes) / 2)))
    height = 0.8 / len(shapes)
    for n, (colour, shape) in enumerate(zip(COLOURS, shapes, strict=False)):
        for y, who in enumerate(ways):
            for s in series:
                if (s.who, s.setting["shape"]) == (who, shape):
                    place = y + 0.4 - height * (n + 0.5)
                    ax.barh(place, s.median, height, color=colour, label=shape if y == 0 else None)
                    ax.text(s.median * 1.05, place, f"{s.median:,.0f}", va="center", fontsize=8)
    ax.set_yticks(range(len(ways)), ways)
    ax.set(xscale="log", xlabel="us a delete", xlim=(100, None))
    ax.xaxis.set_major_formatter("{x:,g}")
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.12)
    ax.legend(fontsize=8)
    return _svg(figure)


def peers(results: Results) -> str:
    """Creates a second of everyone."""
    series = results.find("peers", step="create", kind="veth")
    shape = _values(series, "shape")[0]
    series = sorted((s for s in series if s.setting["shape"] == shape), key=lambda s: -s.median)
    figure, ax = plt.subplots(figsize=(9, 0.8 + 0.32 * len(series)))
    _rates(ax, series, "connections made a second")
    return _svg(figure)


def peers_changes(results: Results) -> str:
    """Updates and moves a second of everyone."""
    steps = {"update": "updates a second", "move": "moves a second"}
    found = {step: results.find("peers-changes", step=step, kind="veth") for step in steps}
    height = 0.8 + 0.32 * max(len(series) for series in found.values())
    figure, axes = plt.subplots(1, 2, figsize=(11, height))
    for ax, (step, xlabel) in zip(axes, steps.items(), strict=True):
        _rates(ax, sorted(found[step], key=lambda s: -s.median), xlabel)
    return _svg(figure)


def _rates(ax: Any, series: Sequence[Series], xlabel: str) -> None:
    """A bar for each; the scale is logarithmic."""
    for y, s in enumerate(series):
        rate = 1e6 / s.median
        colour = OURS if s.who == "library" else FLOOR if s.who.startswith("floor") else THEIRS
        ax.barh(y, rate, color=colour, alpha=0.6 if s.form == "moved" else 1)
        ax.text(rate * 1.05, y, f"{rate:,.0f}", va="center", fontsize=9)
    ax.set_yticks(range(len(series)), [_peer(s) for s in series])
    ax.set(xscale="log", xlabel=xlabel, xlim=(1, None))
    ax.xaxis.set_major_formatter("{x:,g}")
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.12)


def _peer(s: Series) -> str:
    """Whose way is measured; those that can be had in two forms say which."""
    names = {
        "library": "fastnl, library",
        "floor": "the floor: bytes alone",
        "floor, sockets kept": "the floor, sockets kept open",
        "seed's sequence": "one message at a time",
    }
    return f"{names.get(s.who, s.who)}{', create and move' if s.form == 'moved' else ''}"


def _values(series: Sequence[Series], name: str) -> list[Any]:
    return list(dict.fromkeys(s.setting[name] for s in series))


def _svg(figure: Any) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    plt.close(figure)
    return out.getvalue()


# by the experiment that they are of
FIGURES: dict[str, Callable[[Results], str]] = {
    "peers": peers,
    "layers": layers,
    "batches": batches,
    "lone": latencies,
    "clients": clients,
    "changes": changes,
    "peers-changes": peers_changes,
    "growth": growth,
    "deletes": deletes,
}
