"""doctor: whether this machine is fit for the engine, and what to do where it is not."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from fastnl_engine.cli import output
from fastnl_engine.cli.options import Settings, everything, pass_settings
from fastnl_engine.cli.talk import engine, knock, reason

if TYPE_CHECKING:
    from fastnl_engine.cli.machine import Check, Machine
    from fastnl_engine.config import Config

PATIENCE = 3.0  # seconds for the engine to answer
COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option("--config", "config_file", type=click.Path(dir_okay=False), help="The engine's TOML file.")
@click.option("--state-dir", help="The engine's state folder.")
@everything
@pass_settings
def doctor(settings: Settings, config_file: str | None, state_dir: str | None) -> None:
    """Look for what would keep the engine from working well, and say what to do.

    Needs no engine, but looks at the running one if there is one.  Exit code 1 if a check fails; warnings do not count.
    """
    from fastnl_engine.config import ConfigError, load

    flags = {"endpoint": settings.endpoint, "events": settings.events, "state_dir": state_dir}
    try:
        config = load(config_file, os.environ, flags)
    except ConfigError as e:
        raise click.UsageError(str(e)) from None
    checks = examine(_machine(config, settings))
    if settings.json:
        output.as_json([{"name": c.name, "status": c.status, "found": c.found, "advice": c.advice} for c in checks])
    else:
        _show(checks)
    if any(check.status == "fail" for check in checks):
        click.get_current_context().exit(1)


def examine(machine: Machine) -> list[Check]:
    """Every check.  One that cannot be made is a warning."""
    from fastnl_engine.cli import checks_host, checks_kernel
    from fastnl_engine.cli.machine import Check

    found = []
    for check in (*checks_host.CHECKS, *checks_kernel.CHECKS):
        try:
            found += list(check(machine))
        except Exception as e:
            problem = f"could not be looked at: {type(e).__name__}: {e}"
            found.append(Check(check.__name__, "warn", problem, "please report this"))
    return found


def _machine(config: Config, settings: Settings) -> Machine:
    from fastnl_engine.cli.machine import Machine

    machine = Machine(config)
    try:
        machine.pid = knock(config.endpoint)
        asked = Settings(config.endpoint, timeout=min(settings.timeout, PATIENCE))
        with engine(asked) as client:
            machine.info = client.info()
    except OSError as e:
        machine.problem = f"none at {config.endpoint}: {reason(e)}"
    except click.ClickException as e:
        machine.problem = e.message.splitlines()[0]
    return machine


def _show(checks: list[Check]) -> None:
    width = max(len(check.name) for check in checks)
    for check in checks:
        status = click.style(f"{check.status:4}", fg=COLOURS[check.status])
        click.echo(f"{status}  {check.name:{width}}  {check.found}")
        if check.advice and check.status != "ok":
            click.echo(f"{'':{width + 8}}{check.advice}")
    count = {status: sum(check.status == status for check in checks) for status in COLOURS}
    click.echo(f"{count['ok']} ok, {count['warn']} to look at, {count['fail']} failed")
