"""graph: the wired topology as a picture or as text for other programs."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import click

from fastnl_engine.cli.options import Settings, asks_engine, pass_settings
from fastnl_engine.cli.queries import filters
from fastnl_engine.cli.talk import engine

FORMATS = ("svg", "html", "dot", "mermaid")
SUFFIXES = {f".{kind}": kind for kind in FORMATS} | {".htm": "html", ".gv": "dot", ".mmd": "mermaid"}


@click.command()
@click.option("--format", "kind", type=click.Choice(FORMATS), help="Default: by the ending of FILE, else svg.")
@click.option(
    "-o", "--output", "file", type=click.Path(dir_okay=False), metavar="FILE", help="Instead of standard output."
)
@filters
@asks_engine
@pass_settings
def graph(
    settings: Settings, kind: str | None, file: str | None, netns: str | None, state: str | None,
    labels: dict[str, str] | None, limit: int | None,
) -> None:  # fmt: skip
    """Draw which namespaces are connected, and in what state.

    Connections between the same two namespaces are one line that counts them; html can be zoomed and searched.
    """
    from fastnl_engine import drawing, topology

    with engine(settings) as client:
        records = list(itertools.islice(client.list(netns=netns, state=state, labels=labels), limit))
    found = topology.Topology.of(records)
    draw = {"svg": drawing.svg, "html": drawing.html, "dot": topology.dot, "mermaid": topology.mermaid}
    kind = kind or SUFFIXES.get(Path(file or "").suffix.lower(), "svg")
    text = json.dumps(found.as_dict()) + "\n" if settings.json else draw[kind](found)
    if file is None or file == "-":
        click.echo(text, nl=False)
        return
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as e:
        raise click.ClickException(f"{file}: {e.strerror}") from None
    click.echo(f"{file}: {topology.tally(found.states)}, {len(found.nodes)} nodes, {len(found.edges)} lines", err=True)
