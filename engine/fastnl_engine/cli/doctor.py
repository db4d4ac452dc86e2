"""doctor: whether this machine is fit for the engine, why connections are not up, and what to do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from fastnl_engine.cli import output
from fastnl_engine.cli.options import Settings, everything, pass_settings
from fastnl_engine.cli.talk import engine, knock, reason

if TYPE_CHECKING:
    from fastnl_engine.cli.machine import Check, Machine
    from fastnl_engine.cli.talk import Result
    from fastnl_engine.client import Client
    from fastnl_engine.config import Config

PATIENCE = 3.0  # seconds for the engine to answer
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.argument("ids", metavar="[ID...]", nargs=-1)
@click.option("--config", "config_file", type=click.Path(dir_okay=False), help="The engine's TOML file.")
@click.option("--state-dir", help="The engine's state folder.")
@everything
@pass_settings
def doctor(settings: Settings, ids: tuple[str, ...], config_file: str | None, state_dir: str | None) -> None:
    """Look for what would keep the engine from working well, and say what to do.

    Needs no engine, but looks at the running one and its connections if there is one.  With ID: why these connections
    are not up, or differ from the kernel.  Exit code 1 if a check fails; warnings do not count.
    """
    from fastnl_engine.config import ConfigError, client_endpoint, load

    flags = {"endpoint": settings.endpoint, "events": settings.events, "state_dir": state_dir}
    environ = dict(os.environ)
    where = client_endpoint(settings.endpoint)
    if where.startswith("tcp://"):
        # how a client reaches it, and nothing that an engine's own `endpoint` could be
        flags |= {"endpoint": None, "events": None}
        environ = {k: v for k, v in environ.items() if k not in ("FASTNL_ENDPOINT", "FASTNL_EVENTS")}
    try:
        config = load(config_file, environ, flags)
    except ConfigError as e:
        raise click.UsageError(str(e)) from None
    if not where.startswith("tcp://"):
        where = config.endpoint
    checks = _of_each(config, settings, where, ids) if ids else examine(_machine(config, settings, where))
    if settings.json:
        output.as_json([{"name": c.name, "status": c.status, "found": c.found, "advice": c.advice} for c in checks])
    else:
        _show(checks)
    if any(check.status == "fail" for check in checks):
        click.get_current_context().exit(1)


def examine(machine: Machine) -> list[Check]:
    """Every check.  One that cannot be made is a warning."""
    from fastnl_engine.cli import checks_connections, checks_host, checks_kernel
    from fastnl_engine.cli.machine import Check

    found = []
    for check in (*checks_host.CHECKS, *checks_kernel.CHECKS, *checks_connections.CHECKS):
        try:
            found += list(check(machine))
        except Exception as e:
            problem = f"could not be looked at: {type(e).__name__}: {e}"
            found.append(Check(check.__name__, "warn", problem, "please report this"))
    return found


def _machine(config: Config, settings: Settings, where: str) -> Machine:
    from fastnl_engine.cli.machine import MOST, Machine

    machine = Machine(config)
    try:
        machine.pid = knock(where)
        asked = Settings(where, timeout=min(settings.timeout, PATIENCE))
        with engine(asked) as client:
            machine.info = client.info()
            for state in ("failed", "pending"):
                machine.records += client.request("list", state=state, limit=MOST).get("results", [])
    except OSError as e:
        machine.problem = f"none at {where}: {reason(e)}"
    except click.ClickException as e:
        machine.problem = e.message.splitlines()[0]
    return machine


def _of_each(config: Config, settings: Settings, where: str, ids: Sequence[str]) -> list[Check]:
    """One check for each id."""
    from fastnl_engine.cli.checks_connections import one
    from fastnl_engine.cli.machine import Check, Machine

    machine = Machine(config, pid=_pid(where))
    checks = []
    with engine(Settings(where, timeout=settings.timeout)) as client:
        records = {record["id"]: record for record in client.list(ids=list(ids))}
        up = [id_ for id_, record in records.items() if record["state"] == "up"]
        verdicts = client.verify(up) if up else []
        differing = {row["id"]: row for row in verdicts if not row["ok"]}
        for id_ in dict.fromkeys(ids):
            name = f"connection {id_}"
            if id_ not in records:
                checks.append(Check(name, "fail", "the engine does not know it", _last_heard(client, id_)))
            elif id_ in differing:
                checks.append(
                    Check(name, "fail", _differences(differing[id_]), "it is mended within seconds; else see its log")
                )
            else:
                checks.append(one(machine, records[id_]))
    return checks


def _pid(where: str) -> int:
    try:
        return knock(where)
    except OSError:
        return 0


def _differences(row: Result) -> str:
    if "error" in row:
        return f"{row['error']['code']}: {row['error']['message']}"
    words = [f"{d['field']} is {d['have']!r}, not {d['want']!r}" for d in row["differences"]]
    return "up, but " + "; ".join(words)


def _last_heard(client: Client, id_: str) -> str:
    """What the log of events last says of a connection that is not there."""
    last, since = None, 0
    while rows := client.events(since)["events"]:
        last = next((e for e in reversed(rows) if e.get("id") == id_), last)
        since = rows[-1]["n"]
    if last is None:
        return (
            "nothing happened to it lately; one that could not be made leaves no record: its error went to the client"
        )
    return f"last heard of: {click.unstyle(output.event_line(last))}"


def _show(checks: list[Check]) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        status = click.style(f"{check.status:4}", fg=COLOURS[check.status])
        click.echo(f"{status}  {check.name:{width}}  {check.found}")
        if check.advice and check.status != "ok":
            click.echo(f"{'':{width + 8}}{check.advice}")
    count = {status: sum(check.status == status for check in checks) for status in COLOURS}
    click.echo(f"{count['ok']} ok, {count['warn']} to look at, {count['fail']} failed")
