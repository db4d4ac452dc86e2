"""`make bench-report`: one HTML page, with pictures and tables, about what `make bench` found.

    python -m bench.report [RESULTS.json] [--out bench/out/report.html] [--readme] [--markdown EXPERIMENT]

Without RESULTS.json it takes bench/out/results.json, or, where nothing was measured yet, the newest of bench/results.
--readme writes the two pictures of the README to docs/figures as well.  --markdown writes nothing and prints one table:
that of the experiment, or of the figures to reach (`targets`).
"""

from __future__ import annotations

import argparse
import html
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import figures, tables
from bench.experiments import EXPERIMENTS
from bench.targets import targets
from bench.words import MEANINGS, TARGETS, WORDS
from fastnl_engine.bench.results import Results

HERE = Path(__file__).parent
README = ("peers", "layers")

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1, h2 { line-height: 1.2 } h2 { margin-top: 3rem; border-top: 1px solid #ccc; padding-top: 1rem }
figure { margin: 1rem 0; overflow-x: auto } figure svg { max-width: 100%; height: auto }
table { border-collapse: collapse; font-size: 13px; margin: .5rem 0 }
th, td { padding: .15rem .6rem; text-align: right; border-bottom: 1px solid #eee; white-space: nowrap }
th.word, td.word { text-align: left } .missed { color: #b00; font-weight: bold }
.scroll { overflow-x: auto } dt { font-weight: bold } summary { cursor: pointer }
"""


def page(results: Results) -> str:
    return "\n".join(_page(results))


def _page(results: Results) -> Iterator[str]:
    yield f"<!doctype html><html lang=en><meta charset=utf-8><title>How fast is fastnl?</title><style>{STYLE}</style>"
    yield f"<h1>How fast is fastnl?</h1>{WORDS}"
    yield "<h2>Where this was measured</h2><table>"
    for name, value in results.machine.items():
        yield f"<tr><th class=word>{html.escape(name)}</th><td class=word>{html.escape(str(value))}</td></tr>"
    yield f"</table><p>By <code>{html.escape(results.command)}</code>. Where others took more than 0.3 processors, "
    yield "times are worth little; ratios suffer less.</p>"
    for who, why in results.missing.items():
        yield f"<p><b>Missing: {html.escape(who)}</b>: {html.escape(why)}.</p>"
    if found := targets(results):
        yield f"<h2>What was to be reached</h2><p>{TARGETS}</p>"
        yield _table(tables.of_targets(found))
    order = [*figures.FIGURES, *(name for name in EXPERIMENTS if name not in figures.FIGURES)]
    for name in order:
        if results.find(name):
            yield f"<h2>{html.escape(EXPERIMENTS[name].__doc__ or name)}</h2><p>{MEANINGS[name]}</p>"
            if name in figures.FIGURES:
                yield f"<figure>{_inline(figures.FIGURES[name](results))}</figure>"
            yield f"<details><summary>All figures</summary>{_table(tables.sheet(results, name))}</details>"


def _inline(svg: str) -> str:
    """Without what only a file of its own has."""
    return svg[svg.index("<svg") :]


def _table(sheet: tables.Sheet) -> str:
    def cells(tag: str, values: Sequence[str]) -> str:
        out = []
        for n, value in enumerate(values):
            kind = " class=word" if n < sheet.words else " class=missed" if value.startswith("missed") else ""
            out.append(f"<{tag}{kind}>{html.escape(value)}</{tag}>")
        return "<tr>" + "".join(out) + "</tr>"

    rows = "".join(cells("td", row) for row in sheet.rows)
    return f"<div class=scroll><p>{html.escape(sheet.title)}</p><table>{cells('th', sheet.columns)}{rows}</table></div>"


def default() -> Path:
    mine = HERE / "out" / "results.json"
    if mine.exists():
        return mine
    kept = sorted((HERE / "results").glob("*.json"))
    if not kept:
        sys.exit("nothing was measured yet: run `make bench`")
    return kept[-1]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="?", default=None)
    parser.add_argument("--out", type=Path, default=HERE / "out" / "report.html")
    parser.add_argument("--readme", action="store_true")
    parser.add_argument("--markdown", choices=["targets", *EXPERIMENTS], metavar="EXPERIMENT")
    options = parser.parse_args()
    results = Results.read(options.results or default())
    if options.markdown:
        wanted = tables.of_targets(targets(results)) if options.markdown == "targets" else None
        print((wanted or tables.sheet(results, options.markdown)).as_markdown())
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page(results))
    print(os.path.relpath(options.out))
    if options.readme:
        folder = HERE.parent / "docs" / "figures"
        folder.mkdir(exist_ok=True)
        for name in README:
            path = folder / f"{name}.svg"
            path.write_text(re.sub(r"[ \t]+$", "", figures.FIGURES[name](results), flags=re.MULTILINE))
            print(os.path.relpath(path))


if __name__ == "__main__":
    main()
