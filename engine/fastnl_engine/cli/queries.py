"""list, show, verify, stats, events and info: what only looks."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from fastnl_engine.cli import output, rates
from fastnl_engine.cli.options import F, Settings, asks_engine, everything, pass_settings
from fastnl_engine.cli.talk import Batch, Result, engine

if TYPE_CHECKING:
    from fastnl_engine.client import Client

STATES = ("up", "pending", "failed", "removing", "degraded")
VERIFIED = 1000  # connections of one request: the engine reads each namespace once for all of them


def _labels(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> dict[str, str] | None:
    pairs = [value.partition("=") for value in values]
    for key, equals, _ in pairs:
        if not key or not equals:
            raise click.BadParameter(f"{key!r} is not of the form key=value", ctx, param)
    return {key: value for key, _, value in pairs} or None


def filters(command: F) -> F:
    """--netns, --state, --label and --limit: which connections."""
    for option in (
        click.option(
            "--limit", type=click.IntRange(min=1), metavar="N", help="At most so many, in order of their ids."
        ),
        click.option("--label", "labels", metavar="KEY=VALUE", multiple=True, callback=_labels, help="Those with it."),
        click.option("--state", type=click.Choice(STATES), help="Only those in this state."),
        click.option("--netns", help="Only those with an end in this namespace."),
    ):
        command = option(command)
    return command


@click.command(name="list")
@filters
@asks_engine
@pass_settings
def list_(
    settings: Settings, netns: str | None, state: str | None, labels: dict[str, str] | None, limit: int | None
) -> None:
    """Show the connections that the engine has."""
    with engine(settings) as client:
        records = list(itertools.islice(client.list(netns=netns, state=state, labels=labels), limit))
    if settings.json:
        output.as_json(records)
    elif records:
        columns = ("id", "kind", "state", "a", "b or tunnel", "reason")
        rows = [
            (r["id"], r["kind"], r["state"], output.end_of(r, "a"), output.other_end(r), output.why(r)) for r in records
        ]
        output.table(columns, rows)
    else:
        click.echo("no connections", err=True)


@click.command()
@click.argument("id")
@asks_engine
@pass_settings
def show(settings: Settings, id: str) -> None:
    """Show everything that the engine knows of one connection."""
    with engine(settings) as client:
        records = list(client.list(ids=[id]))
    if not records:
        error = {"code": "unknown_id", "message": f"id: there is no connection {id!r}", "field": "id"}
        result = {"id": id, "ok": False, "error": error}
        if settings.json:
            output.as_json(result)
        else:
            output.failures([result])
        click.get_current_context().exit(1)
    if settings.json:
        output.as_json(records[0])
    else:
        output.as_yaml(records[0])


@click.command()
@click.argument("ids", metavar="[ID...]", nargs=-1)
@asks_engine
@pass_settings
def verify(settings: Settings, ids: tuple[str, ...]) -> None:
    """Read connections back from the kernel and show what is not as it should be; all without ID."""
    results = _of_each(settings, "verify", ids, VERIFIED)
    if settings.json:
        output.as_json(results)
    else:
        output.differences(results)
    _exit(results)


@click.command()
@click.argument("ids", metavar="[ID...]", nargs=-1)
@click.option("--watch", type=click.FloatRange(0.1, 86_400), metavar="SECONDS", help="Show rates, again and again.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="With --watch: stop after so many.")
@asks_engine
@pass_settings
def stats(settings: Settings, ids: tuple[str, ...], watch: float | None, count: int | None) -> None:
    """Show the counters of both ends of connections; of all without ID.

    With --watch and --json each look is one line.
    """
    from fastnl_engine.wire import MAX_ITEMS

    def ask() -> list[Result]:
        # the engine reads each namespace once for every request, so the larger the better
        return _of_each(settings, "stats", ids, MAX_ITEMS)

    if count is not None and watch is None:
        raise click.UsageError("--count goes with --watch")
    if watch is not None:
        _exit(rates.watch(ask, watch, count, settings.json))
        return
    results = ask()
    if settings.json:
        output.as_json(results)
    else:
        output.counters(results)
        output.failures(results)
    _exit(results)


@click.command()
@asks_engine
@pass_settings
def info(settings: Settings) -> None:
    """Show the engine's version, what its kernel can do, its limits and totals."""
    with engine(settings) as client:
        found = client.info()
    if settings.json:
        output.as_json(found)
    else:
        output.as_yaml({key: value for key, value in found.items() if key != "ok"})


@click.command()
@click.option("--since", type=click.IntRange(min=0), metavar="N", help="Those after number N that the log still has.")
@click.option("--follow", is_flag=True, help="Go on with what happens; so it is without --since.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Stop after so many.")
@click.option("--state", type=click.Choice([*STATES, "removed", "mended"]), help="Only such, of connections.")
@everything
@pass_settings
def events(settings: Settings, since: int | None, follow: bool, count: int | None, state: str | None) -> None:
    """Show what happens to connections, namespaces and the engine, as it happens or from the engine's log.

    None is missing and none comes twice, also when this reader was too slow: what was lost on the way is asked for.
    With --json each event is one line.
    """
    published = settings.events or os.environ.get("FASTNL_EVENTS")
    if published is not None and "://" not in published:
        raise click.UsageError(f"{published} is no endpoint")
    with engine(settings) as client:
        found = _followed(client.endpoint, published, since) if since is None or follow else _logged(client, since)
        left = count
        for event in found:
            note = event["of"] == "follower"
            if not note and state is not None and (event["of"], event["event"]) != ("connection", state):
                continue
            if settings.json:
                output.as_json_line(event)
            else:
                click.echo(output.note_line(event) if note else output.event_line(event), err=note)
            if left is not None and not note:
                left -= 1
                if left == 0:
                    break


def _logged(client: Client, since: int) -> Iterator[Result]:
    while rows := client.events(since)["events"]:
        yield from rows
        since = rows[-1]["n"]


def _followed(endpoint: str, published: str | None, since: int | None) -> Iterator[Result]:
    import zmq

    from fastnl_engine.follow import OtherEngine, follow

    try:
        yield from follow(endpoint, published, since=since)
    except zmq.ZMQError as e:
        raise click.UsageError(f"{published} is no endpoint: {e}") from None
    except OtherEngine as e:
        raise click.UsageError(str(e)) from None


def _of_each(settings: Settings, op: str, ids: Sequence[str], size: int) -> list[Result]:
    """The answer for each id, or for each connection that there is."""
    with engine(settings) as client:
        chosen = list(dict.fromkeys(ids)) or [record["id"] for record in client.list()]
        batch = Batch(op, "ids", chosen, size=size)
        batch.run(client)
    return batch.answered


def _exit(results: Sequence[Result]) -> None:
    if not all(result["ok"] for result in results):
        click.get_current_context().exit(1)


commands = (list_, show, verify, stats, info, events)
