"""What deployments of the mesh set in the environment, by the names that they use."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pyroute2 import IPRoute

from fastnl_engine.adapters.nsm.tls import Tls
from fastnl_engine.adapters.nsm.translate import LEGACY, MODERN, Manners

FOLDER = "/var/lib/networkservicemesh"
LONGEST = 10 * 366 * 86400  # seconds
DEFAULT = "default"  # as address: what the environment says, or the mesh's own default


class SettingsError(OSError):
    """A setting of the mesh that cannot be; the message names it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """listen, registrar, manager, probes: unix:PATH or HOST:PORT; "": not at all.

    name        of this forwarder, as both kinds of managers know it
    reached_at  what they are told: the socket, or HOST:PORT
    registrar   of the first generation, where forwarders register
    manager     of the later one: the next hop, and the registry
    tunnel_ip   our end of tunnels; "": none are offered
    mtu         of the interface that has it
    lifetime    seconds that a connection lives without a refresh, at most, and a registration
    counting    seconds between looks at what went through; 0: none
    probes      HTTP /liveness and /readiness
    """

    listen: str
    name: str = "kernel-forwarder"
    reached_at: str = ""
    registrar: str = ""
    manager: str = ""
    service: str = "forwarder"
    tunnel_ip: str = ""
    mtu: int = 0
    lifetime: float = 600.0
    probes: str = ""
    counting: float = 2.0
    tls: Tls | None = None
    legacy: Manners = LEGACY
    modern: Manners = MODERN


def read(listen: str, environ: Mapping[str, str] = os.environ) -> Settings:
    """Raises SettingsError."""
    drop_in = listen == DEFAULT
    folder = environ.get("NSM_BASEDIR", FOLDER).rstrip("/")
    if drop_in:
        place = environ.get("FORWARDER_SOCKET", f"{folder}/nsm-vppagent.forwarder.sock")
        listen = _address(place, environ.get("FORWARDER_SOCKET_TYPE", "unix"), "FORWARDER_SOCKET_TYPE")
    check_address(listen, "nsm")
    registrar = environ.get("FORWARDER_REGISTRAR_SOCKET", "")
    if drop_in and not registrar:
        registrar = f"{folder}/nsm.forwarder-registrar.io.sock"
    if registrar:
        kind = environ.get("FORWARDER_REGISTRAR_SOCKET_TYPE", "unix")
        registrar = _address(registrar, kind, "FORWARDER_REGISTRAR_SOCKET_TYPE")
    names = [n for n in ("NSM_FORWARDER_SRC_IP", "NSM_TUNNEL_IP") if environ.get(n)]
    tunnel_ip, mtu = _underlay(environ[names[0]], names[0]) if names else ("", 0)
    port = _number(environ, "NSM_VXLAN_PORT", MODERN.port, 65535)
    probes = environ.get("FORWARDER_PROBES", "0.0.0.0:5555" if drop_in else "")
    if probes:
        check_address(probes, "FORWARDER_PROBES")
    return Settings(
        listen=listen,
        name=environ.get("NSM_NAME") or environ.get("FORWARDER_NAME") or "kernel-forwarder",
        reached_at=listen.removeprefix("unix:"),
        registrar=registrar,
        manager=_of_url(environ.get("NSM_CONNECT_TO", "")),
        service=environ.get("NSM_REGISTER_SERVICE_NAME", "forwarder"),
        tunnel_ip=tunnel_ip,
        mtu=mtu,
        lifetime=_duration(environ, "NSM_MAX_TOKEN_LIFETIME", "10m"),
        probes=probes,
        counting=_counting(environ),
        tls=_tls(environ),
        legacy=replace(
            LEGACY,
            port=_number(environ, "FORWARDER_VXLAN_PORT", LEGACY.port, 65535),
            veth_mtu=_number(environ, "FORWARDER_VETH_MTU", 16000, 65535),
            tunnel_mtu=_number(environ, "FORWARDER_VXLAN_MTU", 1500, 65535),
        ),
        modern=replace(MODERN, port=port, ping_group_range=_groups(environ)),
    )


def _address(place: str, kind: str, name: str) -> str:
    if kind not in ("unix", "tcp"):
        raise SettingsError(f"{name} {kind!r} is neither unix nor tcp")
    return f"unix:{place}" if kind == "unix" else place


def _of_url(url: str) -> str:
    return url.removeprefix("tcp://").replace("unix://", "unix:", 1) if url else ""


def check_address(address: str, name: str) -> None:
    """Raises SettingsError for what is neither unix:PATH nor HOST:PORT."""
    if address.startswith("unix:/"):
        if len(address) > len("unix:") + 107:
            raise SettingsError(f"{name} {address!r}: the path of a socket has 107 bytes at most")
        return
    host, _, port = address.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise SettingsError(f"{name} {address!r} is neither unix:/PATH nor HOST:PORT, nor {DEFAULT!r}")


def _number(environ: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = environ.get(name, str(default))
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= most):
        raise SettingsError(f"{name} {text!r} is not a number from 1 to {most}")
    return int(text)


def _tls(environ: Mapping[str, str]) -> Tls | None:
    names = ("NSM_TLS_CERT", "NSM_TLS_KEY", "NSM_TLS_CA")
    given = [name for name in names if environ.get(name)]
    if not given:
        return None
    if len(given) < len(names):
        raise SettingsError(f"{given[0]} needs {', '.join(n for n in names if n not in given)}, too")
    cert, key, ca = (environ[name] for name in names)
    tls = Tls(cert, key, ca, environ.get("NSM_TLS_NAME", ""))
    try:
        tls.read()
    except OSError as e:
        reason = f"{e.filename}: {e.strerror}" if e.filename else str(e)
        raise SettingsError(f"NSM_TLS_CERT, NSM_TLS_KEY or NSM_TLS_CA: {reason}") from None
    return tls


def _counting(environ: Mapping[str, str]) -> float:
    wanted = environ.get("METRICS_COLLECTOR_ENABLED", "true").lower()
    if wanted not in ("true", "false", "1", "0"):
        raise SettingsError(f"METRICS_COLLECTOR_ENABLED {wanted!r} is neither true nor false")
    period = _duration(environ, "METRICS_COLLECTOR_REQUEST_PERIOD", "2s")
    return period if wanted in ("true", "1") else 0.0


def _groups(environ: Mapping[str, str]) -> tuple[int, int] | None:
    text = environ.get("NSM_PING_GROUP_RANGE")
    if text is None:
        return MODERN.ping_group_range
    if not text.strip():
        return None
    found = re.fullmatch(r"\s*(\d{1,10})\s+(\d{1,10})\s*", text, re.ASCII)
    if found is None or not int(found[1]) <= int(found[2]) < 1 << 31:
        raise SettingsError(f"NSM_PING_GROUP_RANGE {text!r} is not two groups, such as '0 2147483647'")
    return int(found[1]), int(found[2])


def _duration(environ: Mapping[str, str], name: str, default: str) -> float:
    """Seconds, of what is written as in Go: 10m, 1h30m, 2.5s."""
    text = environ.get(name, default)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s)", text)
    seconds = sum(float(count) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit] for count, unit in parts)
    if "".join(count + unit for count, unit in parts) != text or not 1 <= seconds <= LONGEST:
        raise SettingsError(f"{name} {text!r} is not a duration from a second to ten years, such as 10m")
    return seconds


def _underlay(text: str, name: str) -> tuple[str, int]:
    """The address as the kernel writes it, and the MTU of the interface that has it."""
    try:
        address = str(ipaddress.ip_address(text))
    except ValueError as e:
        raise SettingsError(f"{name}: {e}") from None
    with IPRoute() as ipr:
        for row in ipr.get_addr():
            if address in (row.get("local"), row.get("address")):
                [link] = ipr.get_links(row["index"])
                return address, int(link.get("mtu"))
    raise SettingsError(f"{name} {text}: no interface of this host has that address")
