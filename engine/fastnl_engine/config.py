"""Settings: a TOML file, then FASTNL_* in the environment, then flags; the later wins."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

ENDPOINT = "ipc:///run/fastnl/engine.sock"
EVENTS = "ipc:///run/fastnl/events.sock"
STATE_DIR = "/var/lib/fastnl"

CHOICES = {"log_level": ("debug", "info", "warning", "error"), "resync": ("adopt", "recreate")}


class ConfigError(Exception):
    """A setting that is not known or not possible; the message names it and where it was read."""


@dataclass(frozen=True, slots=True)
class Config:
    """What `fastnl-engine` can be told.

    endpoint, events   where jobs are taken and events are published
    state_dir          folder of the state file
    instance           name of this engine in the mark of every interface that it makes
    durable            wait for the disk (fsync) before a reply
    queue              jobs that may wait; more are refused with `busy`
    log_level          debug, info, warning or error
    http               HOST:PORT for /metrics, /livez and /readyz; "" for none
    roles              who may do what, see fastnl_engine.auth; root and the engine's own user may do everything
    resync             at a start "adopt" takes over what matches, "recreate" makes everything anew
    audit              seconds between looks at whether somebody changed our interfaces; 0: never
    strict             remove addresses from our interfaces that were not asked for
    tcp, tcp_events    where jobs are taken and events are published over TCP, for peers with a key; "" for nowhere
    curve_secret       file with the engine's secret key, see fastnl_engine.curve; TCP needs it
    file_prefixes      folders that `file:` references may lead into; none given: anywhere
    """

    endpoint: str = ENDPOINT
    events: str = EVENTS
    state_dir: str = STATE_DIR
    instance: str = "default"
    durable: bool = True
    queue: int = 10_000
    log_level: str = "info"
    http: str = ""
    roles: dict[str, list[str]] = field(default_factory=dict)
    resync: str = "adopt"
    audit: int = 4
    strict: bool = False
    tcp: str = ""
    tcp_events: str = ""
    curve_secret: str = ""
    file_prefixes: list[str] = field(default_factory=list)

    @property
    def state_file(self) -> Path:
        return Path(self.state_dir) / "state.db"


def load(path: str | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Config:
    """The settings from all three places.  Raises ConfigError."""
    config = Config()
    if path is not None:
        config = _apply(config, _read(path), path)
    names = {f"FASTNL_{f.name.upper()}": f.name for f in fields(Config)}
    config = _apply(config, {names[k]: v for k, v in environ.items() if k in names}, "the environment")
    config = _apply(config, {k: v for k, v in flags.items() if v is not None}, "the command line")
    _check_transports(config)
    return config


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as f:
            return tomllib.load(f)
    except (OSError, ValueError) as e:  # of TOML, or of UTF-8
        raise ConfigError(f"{path}: {e}") from e


def _apply(config: Config, values: Mapping[str, Any], where: str) -> Config:
    known = {f.name: f.type for f in fields(Config)}
    changes = {}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{where}: there is no setting {name!r}; known are {', '.join(known)}")
        changes[name] = _typed(name, value, str(known[name]), where)
    new = replace(config, **changes)
    for name, possible in CHOICES.items():
        if getattr(new, name) not in possible:
            raise ConfigError(f"{where}: {name} {getattr(new, name)!r} is none of {', '.join(possible)}")
    if new.queue < 1:
        raise ConfigError(f"{where}: queue must be at least 1")
    return new


def _check_transports(config: Config) -> None:
    """What leaves the machine is encrypted and its peers have keys, or it is refused."""
    for name, keyed in (("endpoint", "tcp"), ("events", "tcp_events")):
        value = getattr(config, name)
        scheme, colon, _ = value.partition("://")
        if colon and scheme not in ("ipc", "inproc"):
            raise ConfigError(
                f"{name} {value!r}: over {scheme} anybody could come in; {name} is an ipc:// endpoint. "
                f"For peers with keys over TCP set {keyed} and curve_secret"
            )
        value = getattr(config, keyed)
        if value and not value.startswith("tcp://"):
            raise ConfigError(f"{keyed} {value!r} must be of the form tcp://ADDRESS:PORT")
        if value and not config.curve_secret:
            raise ConfigError(f"{keyed} needs curve_secret, the file of a secret key; `fastnl keys` makes one")


def _typed(name: str, value: Any, kind: str, where: str) -> Any:
    if kind == "bool" and isinstance(value, str):
        if value.lower() in ("1", "true", "yes", "on"):
            return True
        if value.lower() in ("0", "false", "no", "off"):
            return False
    elif kind == "int" and isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value)
    elif kind.startswith("list"):
        if isinstance(value, str):  # of the environment, as PATH is written
            value = [part for part in value.split(":") if part]
        if _is_list_of_text(value):
            return value
    elif kind.startswith("dict"):
        if isinstance(value, dict) and all(_is_list_of_text(v) for v in value.values()):
            return value
    elif type(value).__name__ == kind:
        return value
    raise ConfigError(f"{where}: {name} must be of type {kind}, not {value!r}")


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def client_endpoint(given: str | None) -> str:
    """Where a client finds the engine: what it was given, FASTNL_ENDPOINT, or the default."""
    return given or os.environ.get("FASTNL_ENDPOINT") or ENDPOINT
