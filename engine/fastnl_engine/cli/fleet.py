"""fleet: its hosts, the connections between them, the numbers of their tunnels; and a host removed for good."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from fastnl_engine.cli import output
from fastnl_engine.cli.options import Settings, asks_engine, pass_settings
from fastnl_engine.cli.talk import Refused, Result, engine

if TYPE_CHECKING:
    from fastnl_engine.client import Client

PAGE = 1000  # rows of one request


class NoFleet(Refused):
    """The engine is in none."""

    exit_code = 2


@click.group(invoke_without_command=True)
@asks_engine
@click.pass_context
def fleet(ctx: click.Context) -> None:
    """Show the hosts that agree through etcd, and what is between them; `fleet hosts` without a command."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(hosts)


@fleet.command()
@asks_engine
@pass_settings
def hosts(settings: Settings) -> None:
    """Show the hosts: which are alive, where their tunnels end, and how many connections they have."""
    with engine(settings) as client:
        reply = _ask(client, "hosts")
        rows = [*reply["results"], *_pages(client, "hosts", reply["after"])]
    if settings.json:
        output.as_json(rows)
        return
    columns = ("host", "engine", "address", "mtu", "connections")
    output.table(columns, [(r["host"], _life(r), r["address"], r["mtu"], r["connections"]) for r in rows])
    totals = reply["totals"]
    strays = next((r["strays"] for r in rows if r.get("strays")), 0)
    more = f"; {strays} strays on {reply['here']}, which nobody asks for" if strays else ""
    click.echo(
        f"{totals['hosts']} hosts, {totals['alive']} alive, {totals['connections']} connections, "
        f"{totals['vnis']} VNIs in use{more}"
    )
    if not reply["joined"]:
        click.echo(f"{reply['here']} has not joined: {reply['reason'] or 'it is about to'}")


@fleet.command()
@asks_engine
@pass_settings
def connections(settings: Settings) -> None:
    """Show the connections whose ends name hosts, and how they stand."""
    with engine(settings) as client:
        rows = list(_pages(client, "connections"))
    if settings.json:
        output.as_json(rows)
        return
    columns = ("id", "state", "a", "b", "vni", "reason")
    table = [(r["id"], r["state"], _end(r, "a"), _end(r, "b"), r.get("vni", ""), output.why(r)) for r in rows]
    output.table(columns, table)


@fleet.command()
@asks_engine
@pass_settings
def vnis(settings: Settings) -> None:
    """Show the numbers in use, and whose they are."""
    with engine(settings) as client:
        rows = list(_pages(client, "vnis"))
    if settings.json:
        output.as_json(rows)
        return
    output.table(("vni", "port", "connection"), [(r["vni"], r["port"], r["id"]) for r in rows])


@fleet.command()
@click.argument("host")
@click.option("--force", is_flag=True, help="Also while its engine is alive, which then takes all of it away.")
@asks_engine
@pass_settings
def remove(settings: Settings, host: str, force: bool) -> None:
    """Remove HOST for good, with every connection that has an end on it.

    It has to be dead.  Should it come back, it takes away what is left of them on it, and joins anew.
    """
    with engine(settings) as client:
        [result] = _ask(client, "remove", host=host, force=force)["results"]
    if settings.json:
        output.as_json(result)
    else:
        click.echo(f"{host} is removed, and {result['removed']} connections with it")


def _ask(client: Client, action: str, **fields: Any) -> Result:
    reply = client.request("fleet", action=action, **fields)
    if "error" in reply:
        error = reply["error"]
        kind = NoFleet if error["code"] == "no_fleet" else Refused
        raise kind(f"{error['code']}: {error['message']}")
    return reply


def _pages(client: Client, action: str, after: str | None = "") -> Iterator[Result]:
    while after is not None:
        reply = _ask(client, action, limit=PAGE, after=after or None)
        yield from reply["results"]
        after = reply["after"]


def _life(row: Result) -> str:
    return "alive" if row["alive"] else "away"


def _end(row: Result, end: str) -> str:
    return f"{row[end]['host']}: {output.end_of(row, end)}"
