"""An interface with its routes and neighbours as an end of a connection, and which of them have to wait."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any

from fastnl_engine.northbound.ligato.model import MAX_PARTS, MIN_IPV6_MTU, Arp, Interface, Route
from fastnl_engine.northbound.ligato.status import Verdict, failed, pending


def end_of(interface: Interface, master: str) -> dict[str, Any]:
    """The end without routes and neighbours; master: name in the kernel of the VRF device that it is in, or ""."""
    end: dict[str, Any] = {"netns": interface.netns, "ifname": interface.host_if_name}
    if interface.ip_addresses and not interface.link_only:
        end["addresses"] = list(interface.ip_addresses)
    if interface.phys_address:
        end["mac"] = interface.phys_address
    if interface.mtu:
        end["mtu"] = interface.mtu
    if not interface.enabled:
        end["up"] = False
    for name in ("rx_checksum", "tx_checksum"):
        if (wanted := getattr(interface, name)) is not None:
            end[name] = wanted
    if master:
        end["master"] = master
    if interface.link_only and not interface.found:
        end["keep_addresses"] = True
    return end


class Nets:
    """Networks, asked whether one of them holds an address; a look-up for each prefix length there is."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._by_length: dict[tuple[int, int], set[int]] = {}
        for network in networks:
            self.add(network)

    def add(self, network: str) -> None:
        net = ipaddress.ip_network(network, strict=False)
        lengths = self._by_length.setdefault((net.version, net.max_prefixlen - net.prefixlen), set())
        lengths.add(int(net.network_address) >> (net.max_prefixlen - net.prefixlen))

    def hold(self, ip: str) -> bool:
        address = ipaddress.ip_address(ip)
        return any(
            version == address.version and int(address) >> host_bits in numbers
            for (version, host_bits), numbers in self._by_length.items()
        )


def attach(
    interface: Interface, routes: list[tuple[str, Route, str]], arps: list[tuple[str, Arp, str]], table: int
) -> tuple[dict[str, Any], dict[str, Verdict], list[tuple[str, str]]]:
    """What of the routes and neighbours an interface that is up can have.

    Each comes with its key and with the key of another that stands in its place, or "". `table` is that of the
    interface's VRF, 0 without.  Returns fields of the end, verdicts of those that it cannot have, and (key, path)
    of the others.
    """
    fields: dict[str, Any] = {}
    out: dict[str, Verdict] = {}
    placed: list[tuple[str, str]] = []

    def put(name: str, key: str, spec: dict[str, Any]) -> None:
        there = fields.setdefault(name, [])
        if len(there) >= MAX_PARTS:
            out[key] = failed(f"{interface.name} has {MAX_PARTS} {name} already")
            return
        placed.append((key, f"{name}[{len(there)}]"))
        there.append(spec)

    waiting: list[tuple[str, Route]] = []
    for key, route, holder in sorted(routes):
        refused = _refuse(interface, route, holder, "destination, table and metric")
        if refused is not None:
            out[key] = refused
        elif route.via is not None:
            waiting.append((key, route))
        else:
            put("routes", key, _route(route, table))
    # after those on the link, which they may need
    nets = Nets((*interface.ip_addresses, *(route["to"] for route in fields.get("routes", ())))) if waiting else Nets()
    for key, route in waiting:
        assert route.via is not None
        linklocal = route.via.startswith("fe80:")
        if interface.has_others_addresses or linklocal or nets.hold(route.via):
            put("routes", key, _route(route, table))
        else:
            text = f"no address of {interface.name} and no link route through it covers {route.via}"
            out[key] = pending("gw-reachable", text)
    for key, arp, holder in sorted(arps):
        refused = _refuse(interface, arp, holder, "address")
        if refused is not None:
            out[key] = refused
        elif not interface.ip_addresses and not interface.has_others_addresses:
            out[key] = pending("outgoing-interface-has-ip-address", f"interface {interface.name} has none")
        else:
            spec = {"ip": arp.ip, "mac": arp.mac}
            put("neighbours", key, spec if arp.state == "permanent" else {**spec, "state": arp.state})
    return fields, out, placed


def _route(route: Route, table: int) -> dict[str, Any]:
    spec: dict[str, Any] = {"to": route.to}
    for name in ("via", "metric", "source", "scope"):
        if wanted := getattr(route, name):
            spec[name] = wanted
    if route.table or table:
        spec["table"] = route.table or table
    return spec


def _refuse(interface: Interface, value: Route | Arp, holder: str, what: str) -> Verdict | None:
    if value.netns and value.netns != interface.netns:
        return failed(f"namespace: {value.netns!r} is not that of interface {interface.name}, {interface.netns!r}")
    if holder:
        return failed(f"has the {what} of {holder}")
    if value.ipv6 and 0 < interface.mtu < MIN_IPV6_MTU:
        return failed(f"IPv6 needs an MTU of at least {MIN_IPV6_MTU}; interface {interface.name} has {interface.mtu}")
    if not interface.enabled:
        return pending("outgoing-interface-is-up", f"interface {interface.name} is not enabled")
    return None
