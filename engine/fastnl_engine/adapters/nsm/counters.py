"""What went through each connection, read from the kernel at a pace of its own.

No request waits for it: an answer has what was read last.  However many connections there are, it takes a twentieth of
one processor's time at most; with many, each is read more seldom.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import fastnl
from fastnl_engine.model import Record

SHARE = 20  # it rests so many times as long as it reads
AT_ONCE = 8  # namespaces that are read between two rests
TOLD = 100  # ends that are told of between two requests

Counts = dict[str, int]
Sides = list[Counts | None]  # of the ends a and b
Places = dict[str, tuple[Record, list[tuple[str, int, int]]]]  # by id: namespace, which end, index
Links = Callable[[str], Mapping[int, Counts]]  # of a namespace, by index; raises FastnlError


class Plane(Protocol):
    def records(self) -> list[tuple[str, Record]]: ...
    def counted(self, found: Sequence[tuple[str, int, Counts]]) -> None: ...


NAMES = ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets")


def links_of(host: fastnl.Host) -> Links:
    def read(netns: str) -> Mapping[int, Counts]:
        return {row.ifindex: _counts(row.stats or {}) for row in host.links(netns, stats=True)}

    return read


def _counts(stats: Mapping[str, int]) -> Counts:
    """What the mesh wants of them, by the names of its first generation."""
    errors = {f"{way}_error_packets": stats.get(f"{way}_errors", 0) for way in ("rx", "tx")}
    dropped = stats.get("rx_dropped", 0) + stats.get("tx_dropped", 0)
    return {name: stats.get(name, 0) for name in NAMES} | errors | {"dropped": dropped}


async def keep_counting(period: float, links: Links, planes: Sequence[Plane]) -> None:
    """Until cancelled: reads what belongs to the planes, and tells each what it found by `counted`."""
    places: list[Places] = [{} for _ in planes]
    while True:
        began = time.monotonic()
        for i, plane in enumerate(planes):
            places[i] = await _places(plane, places[i])
            await _round(links, plane, places[i])
        await asyncio.sleep(max(0.0, period - (time.monotonic() - began)))


async def _places(plane: Plane, before: Places) -> Places:
    """Where each connection's interfaces are.  To find that out costs something, so it is kept while it is true."""
    places: Places = {}
    for n, (id_, record) in enumerate(plane.records()):
        known = before.get(id_)
        places[id_] = known if known is not None and known[0] is record else (record, _ends(record))
        if n % AT_ONCE == 0:
            await asyncio.sleep(0)  # requests come first
    return places


async def _round(links: Links, plane: Plane, places: Places) -> None:
    wanted: dict[str, list[tuple[str, int, int]]] = defaultdict(list)  # by namespace: id, which end, index
    for n, (id_, (_, ends)) in enumerate(places.items()):
        for netns, end, index in ends:
            wanted[netns].append((id_, end, index))
        if n % AT_ONCE == 0:
            await asyncio.sleep(0)
    namespaces = list(wanted)
    for first in range(0, len(namespaces), AT_ONCE):
        some = namespaces[first : first + AT_ONCE]
        read, took = await asyncio.to_thread(_read, links, some)
        found = [
            (id_, end, rows[index])
            for netns, rows in read.items()
            for id_, end, index in wanted[netns]
            if index in rows
        ]
        for place in range(0, len(found), TOLD):  # one namespace may have thousands
            began = time.perf_counter()
            plane.counted(found[place : place + TOLD])
            took += time.perf_counter() - began
            await asyncio.sleep(0)
        await asyncio.sleep(SHARE * took)


def _ends(record: Record) -> list[tuple[str, int, int]]:
    connection = record.connection
    return [
        (end.netns, which, place.ifindex)
        for which, (end, place) in enumerate(zip((connection.a, connection.b), record.places, strict=False))
        if end is not None
    ]


def _read(links: Links, namespaces: Sequence[str]) -> tuple[dict[str, Mapping[int, Counts]], float]:
    """Of those that can be read, and the seconds that it took."""
    began = time.perf_counter()
    found = {}
    for netns in namespaces:
        try:
            found[netns] = links(netns)
        except fastnl.FastnlError:
            continue  # it may be going just now; it is looked at again the next time
    return found, time.perf_counter() - began
