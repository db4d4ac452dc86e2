"""Settings: a TOML file, then FASTNL_* in the environment, then flags; the later wins."""

from __future__ import annotations

import ipaddress
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from fastnl_engine.northbound.ligato import keys

ENDPOINT = "ipc:///run/fastnl/engine.sock"
EVENTS = "ipc:///run/fastnl/events.sock"
STATE_DIR = "/var/lib/fastnl"

CHOICES = {
    "log_level": ("debug", "info", "warning", "error"),
    "resync": ("adopt", "recreate"),
    "store": ("", "etcd", "embedded"),
}
LEAST = {
    "queue": 1, "audit": 0, "status_lease": 5, "statistics": 0,
    "lease": 1, "port": 1, "vni_first": 1, "vni_last": 1, "patience": 1,
}  # fmt: skip
TABLES = ("ligato", "fleet")
T = TypeVar("T", "Config", "Ligato", "Fleet")


class ConfigError(Exception):
    """A setting that is not known or not possible; the message names it and where it was read."""


@dataclass(frozen=True, slots=True)
class Ligato:
    """The table [ligato]: configuration as keys and values, see docs/ligato.md.

    store           where it is: "etcd", "embedded" (a file in state_dir), or "" for nowhere
    endpoints       of etcd: HOST:PORT, http://HOST:PORT or https://HOST:PORT of its members
    label           the microservice label: keys begin with /vnf-agent/<label>/
    ca, cert, key   files for TLS: who signs etcd's certificates, and our own
    user            for etcd, with the password in `password_file`
    create_missing  make a named namespace that is not there, and remove it with its last user
    adopt_ligato    take over interfaces that a Ligato agent of this label made
    status_lease    seconds after which a status vanishes from etcd when the engine does
    statistics      seconds between counters in status and events; 0: never
    """

    store: str = ""
    endpoints: list[str] = field(default_factory=lambda: ["127.0.0.1:2379"])
    label: str = "vpp1"
    ca: str = ""
    cert: str = ""
    key: str = ""
    user: str = ""
    password_file: str = ""
    create_missing: bool = False
    adopt_ligato: bool = False
    status_lease: int = 30
    statistics: int = 30

    def __bool__(self) -> bool:
        return bool(self.store)


@dataclass(frozen=True, slots=True)
class Fleet:
    """The table [fleet]: engines of several hosts that agree through etcd, see docs/fleet.md.

    endpoints       of etcd, as in [ligato]; none given: this engine is in no fleet
    ca, cert, key   files for TLS: who signs etcd's certificates, and our own
    user            for etcd, with the password in `password_file`
    name            of the fleet: its keys begin with /fastnl/fleet/<name>/
    host            this host's name in the fleet; "": its hostname
    address         that its tunnels begin and end at, v4 or v6; "": the first global one of `interface`
    interface       "": the one that the default route leads to
    underlay        namespace reference of where both are; "": the engine's own
    port            UDP port of the tunnels, the same on every host
    lease           seconds after which a host is away when its engine does not renew it
    vni_first, vni_last  what numbers tunnels may have
    patience        seconds that a job waits for etcd and for other hosts
    """

    endpoints: list[str] = field(default_factory=list)
    ca: str = ""
    cert: str = ""
    key: str = ""
    user: str = ""
    password_file: str = ""
    name: str = "default"
    host: str = ""
    address: str = ""
    interface: str = ""
    underlay: str = ""
    port: int = 4789
    lease: int = 10
    vni_first: int = 1
    vni_last: int = (1 << 24) - 1
    patience: int = 20

    def __bool__(self) -> bool:
        return bool(self.endpoints)


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
    docker             Docker's Unix socket, for `microservice:` references; "": they are not followed
    microservice_label name of the Docker label that makes a container a microservice
    ligato             configuration as keys and values
    nsm                where the mesh's API is served, see docs/nsm.md; "" for nowhere
    fleet              engines of several hosts that agree
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
    docker: str = ""
    microservice_label: str = "fastnl.microservice"
    ligato: Ligato = field(default_factory=Ligato)
    nsm: str = ""
    fleet: Fleet = field(default_factory=Fleet)

    @property
    def state_file(self) -> Path:
        return Path(self.state_dir) / "state.db"


def load(path: str | None, environ: Mapping[str, str], flags: Mapping[str, Any]) -> Config:
    """The settings from all three places.  Raises ConfigError."""
    config = Config()
    if path is not None:
        config = _apply(config, _read(path), path)
    config = _apply(config, _of_environment(environ), "the environment")
    config = _apply(config, {k: v for k, v in flags.items() if v is not None}, "the command line")
    _check_transports(config)
    _check_ligato(config.ligato)
    _check_fleet(config.fleet)
    return config


def _of_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for table, kind in (("", Config), ("ligato", Ligato), ("fleet", Fleet)):
        prefix = f"FASTNL_{table}_".upper() if table else "FASTNL_"
        names = {prefix + f.name.upper(): f.name for f in fields(kind)}
        taken: dict[str, Any] = {names[k]: v for k, v in environ.items() if k in names and names[k] not in TABLES}
        if table:
            settings[table] = taken
        else:
            settings = taken
    if "MICROSERVICE_LABEL" in environ:  # Ligato's own
        settings["ligato"].setdefault("label", environ["MICROSERVICE_LABEL"])
    return settings


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as f:
            return tomllib.load(f)
    except (OSError, ValueError) as e:  # of TOML, or of UTF-8
        raise ConfigError(f"{path}: {e}") from e


def _apply(config: T, values: Mapping[str, Any], where: str, table: str = "") -> T:
    known = {f.name: str(f.type) for f in fields(config)}
    changes = {}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{where}: there is no setting {table + name!r}; known are {', '.join(known)}")
        if known[name] in ("Ligato", "Fleet"):
            if not isinstance(value, dict):
                raise ConfigError(f"{where}: {name} must be a table, not {value!r}")
            changes[name] = _apply(getattr(config, name), value, where, f"{name}.")
        else:
            changes[name] = _typed(table + name, value, known[name], where)
    new = replace(config, **changes)
    for name, possible in CHOICES.items():
        if name in known and getattr(new, name) not in possible:
            choices = ", ".join(choice or '""' for choice in possible)
            raise ConfigError(f"{where}: {table + name} {getattr(new, name)!r} is none of {choices}")
    for name, least in LEAST.items():
        if name in known and getattr(new, name) < least:
            raise ConfigError(f"{where}: {table + name} must be at least {least}")
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


def _check_ligato(ligato: Ligato) -> None:
    try:
        keys.prefix(ligato.label)
    except ValueError as e:
        raise ConfigError(f"ligato.label: {e}") from None
    if not ligato.endpoints:
        raise ConfigError("ligato.endpoints is empty; etcd needs one")
    _check_access("ligato", ligato)


def _check_fleet(fleet: Fleet) -> None:
    _check_access("fleet", fleet)
    for name in ("name", "host"):
        value = getattr(fleet, name)
        if "/" in value or not value.isprintable() or len(value) > 200 or (name == "name" and not value):
            raise ConfigError(f"fleet.{name}: {value!r} must be up to 200 printable characters without '/'")
    for name, most in (("port", 65535), ("vni_last", (1 << 24) - 1), ("vni_first", fleet.vni_last)):
        if getattr(fleet, name) > most:
            raise ConfigError(f"fleet.{name} must be at most {most}")
    if fleet.address:
        try:
            ipaddress.ip_address(fleet.address)
        except ValueError as e:
            raise ConfigError(f"fleet.address: {e}") from None


def _check_access(table: str, settings: Ligato | Fleet) -> None:
    for one, other in (("cert", "key"), ("key", "cert"), ("user", "password_file"), ("password_file", "user")):
        if getattr(settings, one) and not getattr(settings, other):
            raise ConfigError(f"{table}.{one} needs {table}.{other}")


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
            separator = "," if name.endswith(".endpoints") else ":"
            value = [part for part in value.split(separator) if part]
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
