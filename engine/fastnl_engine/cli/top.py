"""top: what the engine is doing, as it does it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from fastnl_engine.cli import output
from fastnl_engine.cli.options import Settings, asks_engine, pass_settings
from fastnl_engine.cli.talk import engine

if TYPE_CHECKING:
    from fastnl_engine.client import Client

PATIENCE = 5.0  # seconds for an answer while somebody looks on


@click.command()
@click.option("--interval", type=click.FloatRange(0.1, 3600), default=2.0, show_default=True, metavar="SECONDS")
@click.option("--once", is_flag=True, help="Print one picture; so it is when the output is no terminal.")
@asks_engine
@pass_settings
def top(settings: Settings, interval: float, once: bool) -> None:
    """Watch the engine: connections, rates, queue, latency, errors and the busiest connections.  q ends it."""
    from fastnl_engine.cli.sampler import Sampler

    once = once or settings.json or not sys.stdout.isatty()
    asked = Settings(settings.endpoint, timeout=settings.timeout if once else min(settings.timeout, PATIENCE))
    with engine(asked) as client:
        sampler = Sampler(client)
        sampler.look()
        if once:
            time.sleep(interval)
            sample = sampler.look()
            if settings.json:
                output.as_json(sample.as_dict())
            else:
                _print(sample, client)
            return
        _live(sampler, client, interval)


def _print(sample: Any, client: Client) -> None:
    from rich.console import Console

    from fastnl_engine.cli.panels import page

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    with console.capture() as captured:
        console.print(page(sample, client.endpoint, console.width))
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _live(sampler: Any, client: Client, interval: float) -> None:
    from rich.console import Console
    from rich.live import Live

    from fastnl_engine.cli.panels import page

    console = Console(highlight=False)
    sample = sampler.last
    with _ended_by_signals(), _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(page(sample, client.endpoint, console.width, console.height, interval), refresh=True)
            if pressed(interval):
                return
            sample = sampler.look()


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP leave the terminal as it was, too; Ctrl-C is no mishap here."""

    def end(*_: object) -> None:
        raise SystemExit(0)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _keys() -> Iterator[Any]:
    """A function that waits so many seconds and tells whether q was pressed; the keyboard is as before afterwards."""
    import termios
    import tty

    if not sys.stdin.isatty():

        def wait(seconds: float) -> bool:
            time.sleep(seconds)
            return False

        yield wait
        return
    fd = sys.stdin.fileno()

    def pressed(seconds: float) -> bool:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([fd], [], [], left)[0]:
                keys = os.read(fd, 64)
                if not keys or b"q" in keys.lower():  # "": the terminal is gone
                    return True
        return False

    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield pressed
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
