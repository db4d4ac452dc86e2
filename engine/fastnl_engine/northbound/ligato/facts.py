"""What the kernel says of interfaces that are up, for their status: read together, in one visit a namespace."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec

import fastnl
from fastnl._nl import LinkRow, Tour, Visit
from fastnl.netns import Handles
from fastnl.wired import Place

BATCH = 256  # namespaces read at a time: bounds the open descriptors
UP = 6  # IF_OPER_UP, include/uapi/linux/if.h
UNKNOWN = 0  # IF_OPER_UNKNOWN, of devices without a carrier such as lo

# of Ligato's Statistics, by the kernel's names as LinkRow has them
COUNTERS = {
    "in_packets": "rx_packets", "in_bytes": "rx_bytes", "out_packets": "tx_packets", "out_bytes": "tx_bytes",
    "in_error_packets": "rx_errors", "out_error_packets": "tx_errors",
}  # fmt: skip

Key = TypeVar("Key", bound=Hashable)


class Asked(NamedTuple):
    """An interface: the reference of its namespace, and where it was."""

    netns: str
    place: Place


class Facts(msgspec.Struct, frozen=True, omit_defaults=True):
    """Ligato's InterfaceState, as far as it is about the kernel; statistics are missing unless they were asked for."""

    name: str
    internal_name: str
    type: str
    if_index: int
    admin_status: str
    oper_status: str
    phys_address: str
    mtu: int
    statistics: dict[str, int] = {}


def read(host: fastnl.Host, asked: Mapping[Key, Asked], *, stats: bool = False) -> dict[Key, LinkRow]:
    """Those of the interfaces that are still there."""
    by_netns: dict[str, list[tuple[Key, Place]]] = {}
    for key, (netns, place) in asked.items():
        by_netns.setdefault(netns, []).append((key, place))
    references = list(by_netns)
    found: dict[Key, LinkRow] = {}
    for at in range(0, len(references), BATCH):
        with Handles() as handles:
            visits: list[tuple[Visit, list[tuple[Key, Place]]]] = []
            tour = Tour(0, False)
            for reference in references[at : at + BATCH]:
                try:
                    fd = handles.open(reference)
                except fastnl.FastnlError:
                    continue  # it has just gone, which the engine is about to find out
                visit = tour.visit(fd, asks=True)
                there = [(key, place) for key, place in by_netns[reference] if place.netns == handles.identity(fd)]
                for _, place in there:
                    visit.get_link(0, place.ifindex, stats=stats)
                visits.append((visit, there))
            tour.run()
            for visit, there in visits:
                rows = {row.ifindex: row for row in visit.rows()}
                found |= {key: rows[place.ifindex] for key, place in there if place.ifindex in rows}
    return found


def facts_of(row: LinkRow, name: str, type_name: str, *, stats: bool) -> Facts:
    return Facts(
        name=name,
        internal_name=row.ifname,
        type=type_name,
        if_index=row.ifindex,
        admin_status="UP" if row.up else "DOWN",
        oper_status="UP" if is_up(row) else "DOWN",
        phys_address=row.mac,
        mtu=row.mtu,
        statistics=counters(row) if stats else {},
    )


def is_up(row: LinkRow) -> bool:
    return bool(row.up and row.operstate in (UP, UNKNOWN))


def looks(row: LinkRow) -> tuple[Any, ...]:
    """All that a status tells of an interface."""
    return row.ifindex, row.ifname, row.up, is_up(row), row.mac, row.mtu, counters(row)


def counters(row: LinkRow) -> dict[str, int]:
    stats: dict[str, Any] | None = row.stats
    if not stats:
        return {}
    dropped = stats["rx_dropped"] + stats["tx_dropped"]
    return {name: stats[of] for name, of in COUNTERS.items()} | {"drop_packets": dropped}
