"""The group of all commands, and what happens when one of them is cut short."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from fastnl_engine.cli import bench, ctl, doctor, fleet, graph, jobs, keys, queries, top, transfer
from fastnl_engine.cli.options import everything

INTERRUPTED = 130  # as a shell reports a command that SIGINT ended
BROKEN_PIPE = 141  # and SIGPIPE


class Group(click.Group):
    """Ends without a traceback on Ctrl-C and when the reader of the output goes away."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            # what is still in the buffer would fail again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(BROKEN_PIPE)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@everything
@click.version_option(package_name="fastnl", prog_name="fastnl")
def main() -> None:
    """Wires network namespaces together through a running fastnl-engine.

    Exit codes: 0 done, 1 some item failed, 2 wrong usage or no engine.
    """


for _command in (*jobs.commands, *queries.commands, *transfer.commands, top.top, graph.graph, doctor.doctor, keys.keys):
    main.add_command(_command)
main.add_command(bench.bench)
main.add_command(ctl.ctl)
main.add_command(fleet.fleet)
