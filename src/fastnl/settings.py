"""Kernel settings that an End asks for and that are files under /proc/sys/net, not netlink's."""

from __future__ import annotations

from fastnl._nl import Visit
from fastnl.links import End

IPV4 = "/proc/sys/net/ipv4"


def write(visit: Visit, n: int, end: int, e: End) -> None:
    """Sets everything that an end asks for, before the messages of its visit."""
    if e.route_localnet:
        visit.route_localnet(n, end, e.ifname)
    if e.ping_group_range is not None:
        visit.ping_group_range(n, end, *e.ping_group_range)


def write_changes(visit: Visit, n: int, end: int, old: End, new: End, name: str) -> None:
    """Turns what one end asked for into what another asks for; a namespace keeps what is not asked for any more.

    name   what the interface is called now
    """
    if new.route_localnet != old.route_localnet:
        visit.route_localnet(n, end, name, new.route_localnet)
    if new.ping_group_range is not None and new.ping_group_range != old.ping_group_range:
        visit.ping_group_range(n, end, *new.ping_group_range)


def wanted(e: End) -> dict[str, tuple[str, str]]:
    """What an end asks for: field -> the path of the file and what read_settings has to find in it."""
    out = {}
    if e.route_localnet:
        out["route_localnet"] = (f"{IPV4}/conf/{e.ifname}/route_localnet", "1")
    if e.ping_group_range is not None:
        out["ping_group_range"] = (f"{IPV4}/ping_group_range", "{} {}".format(*e.ping_group_range))
    return out
