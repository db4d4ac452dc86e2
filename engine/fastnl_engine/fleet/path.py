"""This host's place in the underlay: the address that its tunnels have, and what a packet there may carry."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import fastnl
from fastnl_engine.config import Fleet

UNICAST, MAIN, GLOBAL = 1, 254, 0  # RTN_UNICAST, RT_TABLE_MAIN, RT_SCOPE_UNIVERSE
NOT_YET = 0x40 | 0x08  # IFA_F_TENTATIVE, IFA_F_DADFAILED
PASSING = 0x01 | 0x20  # IFA_F_SECONDARY (of IPv6: temporary), IFA_F_DEPRECATED


class NoPath(Exception):
    """The underlay has no such place; the message says which setting may help."""


def find(host: fastnl.Host, settings: Fleet) -> tuple[str, int]:
    """Address and MTU.  Raises NoPath, FastnlError."""
    links = {link.ifindex: link for link in host.links(settings.underlay)}
    addresses = host.addresses(settings.underlay)
    if settings.address:
        wanted = ipaddress.ip_address(settings.address)
        for row in addresses:
            if ipaddress.ip_interface(row.address).ip == wanted and row.ifindex in links:
                return str(wanted), links[row.ifindex].mtu
        raise NoPath(f"fleet.address: no interface of this host has {settings.address}")
    indexes = [i for i, link in links.items() if link.ifname == settings.interface]
    if settings.interface and not indexes:
        raise NoPath(f"fleet.interface: this host has no interface {settings.interface!r}")
    for index in indexes or _default_routes(host, settings.underlay):
        usable = [a for a in addresses if a.ifindex == index and a.scope == GLOBAL and not a.flags & NOT_YET]
        # v4 first, and those that stay first
        usable.sort(key=lambda a: (":" in a.address, bool(a.flags & PASSING)))
        if usable and index in links:
            return str(ipaddress.ip_interface(usable[0].address).ip), links[index].mtu
    where = f"interface {settings.interface} has" if settings.interface else "no interface of a default route has"
    raise NoPath(f"{where} {'no' if settings.interface else 'a'} global address; set fleet.address or fleet.interface")


def _default_routes(host: fastnl.Host, netns: str) -> Iterator[int]:
    routes = [r for r in host.routes(netns) if r.to in ("0.0.0.0/0", "::/0") and r.table == MAIN and r.kind == UNICAST]
    for route in sorted(routes, key=lambda r: (":" in r.to, r.metric)):
        yield route.ifindex
