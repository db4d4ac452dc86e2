"""What every command can be told, before or after its name."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(slots=True)
class Settings:
    """endpoint, events: as given, None for the environment's or the default; timeout: seconds for each answer."""

    endpoint: str | None = None
    events: str | None = None
    timeout: float = 30.0
    json: bool = False


def _remember(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if isinstance(value, float) and math.isnan(value):
        raise click.BadParameter("is no number", ctx, param)
    if value is not None:
        setattr(ctx.ensure_object(Settings), str(param.name), value)


_endpoint = click.option(
    "--endpoint",
    metavar="ENDPOINT",
    expose_value=False,
    callback=_remember,
    help="Where the engine takes jobs; else FASTNL_ENDPOINT, else ipc:///run/fastnl/engine.sock.",
)
_events = click.option(
    "--events",
    metavar="ENDPOINT",
    expose_value=False,
    callback=_remember,
    help="Where the engine publishes events; else FASTNL_EVENTS, else ipc:///run/fastnl/events.sock.",
)
_timeout = click.option(
    "--timeout",
    type=click.FloatRange(0, 86_400, min_open=True),
    metavar="SECONDS",
    expose_value=False,
    callback=_remember,
    help="How long to wait for an answer (default: 30).",
)
_json = click.option(
    "--json",
    flag_value=True,
    type=bool,
    default=None,
    expose_value=False,
    callback=_remember,
    help="Print JSON for programs.",
)


def _to_environment(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    # where every client of this process looks
    if value is not None:
        os.environ["FASTNL_SERVER_KEY" if param.name == "server_key" else "FASTNL_KEY"] = value


_server_key = click.option(
    "--server-key",
    metavar="KEY",
    expose_value=False,
    callback=_to_environment,
    help="Public key of an engine at tcp://…; else FASTNL_SERVER_KEY.",
)
_key = click.option(
    "--key",
    metavar="FILE",
    expose_value=False,
    callback=_to_environment,
    help="File with your own secret key, for tcp://…; else FASTNL_KEY.",
)


def prints(command: F) -> F:
    """--json alone."""
    return _json(command)


def asks_engine(command: F) -> F:
    """--endpoint, --server-key, --key, --timeout and --json."""
    return _endpoint(_server_key(_key(_timeout(_json(command)))))


def everything(command: F) -> F:
    """All of them."""
    return _events(asks_engine(command))


pass_settings = click.make_pass_decorator(Settings, ensure=True)
