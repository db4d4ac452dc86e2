"""connect, disconnect and move: what changes something."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from fastnl_engine.cli import output
from fastnl_engine.cli.options import Settings, asks_engine, pass_settings
from fastnl_engine.cli.talk import REQUEST, Batch, engine


@click.command()
@click.argument("file")
@click.option("--wait", is_flag=True, help="A missing namespace is no error: the connection waits for it.")
@asks_engine
@pass_settings
def connect(settings: Settings, file: str, wait: bool) -> None:
    """Make or change the connections of FILE, YAML or JSON; - is standard input.

    FILE holds one connection or a list of them.  What is as it should be stays untouched.
    """
    from fastnl_engine.cli.files import read_connections

    _run(settings, Batch("connect", "connections", read_connections(file), wait=wait))


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Remove every connection that the engine has.")
@click.option("--yes", is_flag=True, help="Do not ask before --all.")
@asks_engine
@pass_settings
def disconnect(settings: Settings, ids: tuple[str, ...], everything: bool, yes: bool) -> None:
    """Remove connections.  One that is not there is no error."""
    if bool(ids) == everything:
        raise click.UsageError("give either IDs or --all")
    if everything:
        if not (yes or sys.stdin.isatty()):
            raise click.UsageError("--all needs --yes when nobody can be asked")
        with engine(settings) as client:
            ids = tuple(record["id"] for record in client.list())
        if not yes:
            click.confirm(f"Remove all {len(ids)} connections?", abort=True, err=True)
    _run(settings, Batch("disconnect", "ids", list(dict.fromkeys(ids))))


@click.command()
@click.argument("id")
@click.argument("end", type=click.Choice(["a", "b"]))
@click.argument("netns")
@click.option(
    "--mode",
    type=click.Choice(["move", "recreate"]),
    default="move",
    show_default=True,
    help="move keeps the interface itself, with its MAC, index and counters; recreate is faster.",
)
@asks_engine
@pass_settings
def move(settings: Settings, id: str, end: str, netns: str, mode: str) -> None:
    """Take END (a or b) of connection ID to the namespace NETNS."""
    _run(settings, Batch("move", "moves", [{"id": id, "end": end, "netns": netns, "mode": mode}]))


def _run(settings: Settings, batch: Batch) -> None:
    """Sends it all and prints what became of it, also when it is cut short."""
    try:
        with engine(settings) as client, _progress(batch) as bar:
            batch.run(client, bar)
    except BaseException:
        if batch.answered:
            _report(settings, batch)
        if batch.sent:
            missing = len(batch.items) - len(batch.answered)
            click.echo(f"{missing} have no answer and may still be done; `fastnl list` shows what is there", err=True)
        raise
    _report(settings, batch)
    if not all(result["ok"] for result in batch.answered):
        click.get_current_context().exit(1)


def _report(settings: Settings, batch: Batch) -> None:
    if settings.json:
        output.as_json(batch.answered)
    else:
        output.outcome(batch.op, batch.answered)


@contextmanager
def _progress(batch: Batch) -> Iterator[Any]:
    """A bar for what takes more than one request, if somebody is looking."""
    if len(batch.items) <= REQUEST or not sys.stderr.isatty():
        yield lambda answered: None
        return
    with click.progressbar(length=len(batch.items), label=batch.op, file=sys.stderr) as bar:
        yield bar.update


commands = (connect, disconnect, move)
