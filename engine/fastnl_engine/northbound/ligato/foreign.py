"""Interfaces that a Ligato agent made: they carry its alias, /vnf-agent/<label>/<name>[/<peer>]."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog

import fastnl
from fastnl._nl import Address, LinkRow, Tour
from fastnl.netns import RUN_NETNS, Handles, Identity
from fastnl.wired import Place
from fastnl_engine.northbound.ligato import keys

log = structlog.get_logger()

RT_SCOPE_LINK = 253  # include/uapi/linux/rtnetlink.h
RTPROT_KERNEL = 2
ADOPTABLE = ("veth", "dummy")  # of another kind it takes more than a look to tell whether it is what is wanted

Desired = Mapping[str, Any]


class Taken(NamedTuple):
    """What was adopted, as places by connection, and how many interfaces were removed."""

    adopted: dict[str, tuple[Place, ...]]
    removed: int


@dataclass(slots=True)
class Room:
    """A namespace, by one of its references, and a Ligato's interfaces in it, by alias."""

    reference: str
    identity: Identity
    rows: dict[str, LinkRow]


def take_over(host: fastnl.Host, wanted: Iterable[Desired], label: str) -> Taken:
    """Finds a Ligato's interfaces in the namespaces of connections, in every named one and in the engine's own.

    Those that are what a connection wants, but for what can change in place, are prepared to be the connection's; all
    others are removed.  One end of a pair takes the other along, wherever that is.
    """
    wanted = list(wanted)
    mark = keys.prefix(label)
    named = {w[end]["netns"] for w in wanted for end in "ab" if end in w}
    rooms: dict[Identity, Room] = {}
    known: dict[str, Identity] = {}
    for reference in dict.fromkeys(("", *sorted(named), *_named())):
        try:
            with Handles() as handles:
                identity = known[reference] = handles.identity(handles.open(reference))
            if identity not in rooms:
                rows = {row.alias: row for row in host.links(reference) if row.alias.startswith(mark)}
                rooms[identity] = Room(reference, identity, rows)
        except fastnl.FastnlError as e:
            log.warning("not looked into for a Ligato's interfaces", netns=reference, reason=str(e))
    adopted: dict[str, tuple[Place, ...]] = {}
    for connection in wanted:
        places = _places(host, connection, label, rooms, known)
        if places:
            adopted[connection["id"]] = places
    kept = {place for places in adopted.values() for place in places}
    return Taken(adopted, sum(_remove(host, room, kept) for room in rooms.values()))


def _places(
    host: fastnl.Host, wanted: Desired, label: str, rooms: Mapping[Identity, Room], known: Mapping[str, Identity]
) -> tuple[Place, ...]:
    """Where a connection's interfaces are, fit to be its own; () if they are not."""
    if wanted["kind"] not in ADOPTABLE:
        return ()
    ends = [end for end in "ab" if end in wanted]
    names = [wanted["labels"][f"ligato.{end}"] for end in ends]
    found: list[tuple[Room, LinkRow]] = []
    for n, end in enumerate(ends):
        room = rooms.get(known.get(wanted[end]["netns"], Identity(-1, -1)))
        alias = keys.ligato_alias(label, names[n], names[1 - n] if len(ends) == 2 else "")
        row = room.rows.get(alias) if room else None
        if room is None or row is None or row.kind != wanted["kind"]:
            return ()
        found.append((room, row))
    if len(found) == 2 and (found[0][1].link, found[1][1].link) != (found[1][1].ifindex, found[0][1].ifindex):
        return ()
    try:
        if all(_tidy(host, room.reference, row, wanted[e]) for (room, row), e in zip(found, ends, strict=True)):
            return tuple(Place(row.ifindex, room.identity) for room, row in found)
    except fastnl.FastnlError as e:
        log.warning("interfaces of a Ligato cannot be adopted", id=wanted["id"], reason=str(e))
    return ()


def _tidy(host: fastnl.Host, reference: str, row: LinkRow, end: Mapping[str, Any]) -> bool:
    """Takes off what is not asked for; False: there is more than addresses of that."""
    asked = {(r["to"], r.get("via", "")) for r in end.get("routes", ())}
    if any(
        route.ifindex == row.ifindex and route.protocol != RTPROT_KERNEL and (route.to, route.via) not in asked
        for route in host.routes(reference)
    ):
        return False
    if end.get("keep_addresses"):
        return True
    addresses = end.get("addresses", ())
    ipv6 = any(":" in text for text in addresses)
    extra = [
        address.address
        for address in host.addresses(reference)
        if address.ifindex == row.ifindex
        and address.address not in addresses
        and not (ipv6 and address.scope == RT_SCOPE_LINK)
    ]
    if extra:
        with Handles() as handles:
            tour = Tour(1)
            visit = tour.visit(handles.open(reference))
            for n, text in enumerate(extra):
                visit.address(0, row.ifindex, Address(text), False, 0, n, soft=True)
            host.run(tour)
    return True


def _remove(host: fastnl.Host, room: Room, kept: set[Place]) -> int:
    """Removes a Ligato's interfaces from a namespace; gives how many."""
    rows = [row for row in room.rows.values() if Place(row.ifindex, room.identity) not in kept]
    if not rows:
        return 0
    try:
        with Handles() as handles:
            tour = Tour(len(rows))
            fd = handles.open(room.reference)
            if handles.identity(fd) != room.identity:
                return 0
            visit = tour.visit(fd)
            for item, row in enumerate(rows):
                visit.delete(item, row.ifindex)
            host.run(tour)
    except fastnl.FastnlError as e:
        log.warning("interfaces of a Ligato not removed", netns=room.reference, reason=str(e))
        return 0
    for row in rows:
        log.info("interface of a Ligato removed", netns=room.reference, interface=row.ifname, alias=row.alias)
    return len(rows)


def _named() -> list[str]:
    try:
        return os.listdir(RUN_NETNS)
    except FileNotFoundError:
        return []
