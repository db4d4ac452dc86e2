"""bench: how many connections a second this machine can do, and how many other programs do."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastnl_engine.cli import output
from fastnl_engine.cli.options import Settings, pass_settings, prints

if TYPE_CHECKING:
    from fastnl_engine.bench.results import Results

LONGEST = 60  # bytes of a folder's path
WORDS = {
    "library": "fastnl as a library, 64 a call",
    "engine": "fastnl-engine, durable, 8 clients",
    "engine, not durable": "fastnl-engine, not durable, 8 clients",
    "ip -batch": "ip -batch of iproute2",
    "pyroute2": "pyroute2, one call after the other",
    "seed's sequence": "create, move and rename, one message at a time",
}


class NotAllowed(click.ClickException):
    """Not root."""

    exit_code = 2


@click.command()
@click.option("--kind", type=click.Choice(["veth", "vxlan"]), default="veth", show_default=True)
@click.option(
    "--shape", "shapes", type=click.Choice(["spread", "star", "mesh", "dense"]), multiple=True,
    default=["spread", "star"], help="May be given several times (default: spread and star).",
)  # fmt: skip
@click.option("--connections", type=click.IntRange(1, 2000), default=256, show_default=True, help="Of each round.")
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True)
@click.option(
    "--folder", type=click.Path(file_okay=False, exists=True, writable=True), default="/var/tmp", show_default=True,
    help="For the engines' state: the disk that a durable engine waits for.",
)  # fmt: skip
@prints
@pass_settings
def bench(settings: Settings, kind: str, shapes: tuple[str, ...], connections: int, rounds: int, folder: str) -> None:
    """Measure connections a second on this machine: fastnl, and other programs beside it.

    Needs root, and no engine: it starts engines of its own, in network and mount namespaces of its own, and leaves
    nothing behind.  Spread: each pair has two namespaces of its own; star: all share one; mesh: each namespace is
    connected with every other; dense: all are between the same two.
    """
    from fastnl import FastnlError
    from fastnl_engine.bench.quick import quick

    if len(os.fsencode(Path(folder).resolve())) > LONGEST:
        why = f"is longer than {LONGEST} bytes, and the path of a socket in it may have 107"
        raise click.BadParameter(why, param_hint="--folder")
    quiet = settings.json or not sys.stderr.isatty()

    def tell(text: str) -> None:
        if not quiet:
            click.echo(f"\r\x1b[K{text}", nl=False, err=True)

    with tempfile.TemporaryDirectory(prefix="fastnl-", dir=folder) as work:
        try:
            results = quick(
                Path(work), kind=kind, shapes=dict.fromkeys(shapes), count=connections, rounds=rounds, tell=tell
            )
        except PermissionError as e:
            raise NotAllowed(e.strerror or str(e)) from None
        except (OSError, RuntimeError, AssertionError, FastnlError) as e:
            raise click.ClickException(f"the measurement failed: {e}") from None
        finally:
            tell("")
    if settings.json:
        output.as_json(results.as_json())
    else:
        _show(results)


def _show(results: Results) -> None:
    click.echo(", ".join(f"{name} {value}" for name, value in results.machine.items()))
    rows = []
    for create in results.find("quick", step="create"):
        [delete] = [s for s in results.find("quick", who=create.who, step="delete") if s.setting == create.setting]
        library = results.beside(create, "library")
        times = create.over(library) if library is not None else ""
        what = WORDS.get(create.who, create.who)
        row = (create.setting["shape"], what, f"{1e6 / create.median:,.0f}", f"{1e6 / delete.median:,.0f}", str(times))
        rows.append(row)
    output.table(("shape", "who", "creates/s", "deletes/s", "cost of a create to the library's"), rows)
    for who, why in results.missing.items():
        click.echo(f"left out: {who}: {why}")
    click.echo("medians of the rounds, and their range; one size of batch, nothing standing, no updates and moves")
