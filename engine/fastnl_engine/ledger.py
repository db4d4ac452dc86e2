"""Every end that is up and how it has to be, for the audit to compare with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import fastnl
from fastnl import Address, Place, Vxlan, Wired, settings


@dataclass(slots=True, eq=False)
class Watched:
    """One end as it has to be, which never changes; `rest` holds what a glance does not see."""

    id: str
    end: int
    place: Place
    ifname: str
    mtu: int
    up: bool
    addresses: tuple[Address, ...]
    rest: Rest | None


@dataclass(frozen=True, slots=True)
class Rest:
    addresses: frozenset[str] = frozenset()
    routes: frozenset[tuple[str, str, int]] = frozenset()  # (to, via, table)
    neighbours: frozenset[str] = frozenset()
    others: bool = True  # whether addresses of others may be there
    master: str = ""
    rules: frozenset[fastnl.Rule] = frozenset()
    settings: tuple[tuple[str, str, str], ...] = ()  # (field, path, value)


@dataclass(slots=True)
class Residents:
    """The ends behind one reference.

    version  goes up with every change, which outdates `drawn`, what the audit has made of them
    """

    ends: dict[tuple[str, int], Watched] = field(default_factory=dict)
    version: int = 0
    drawn: Any = None

    def put(self, watched: Watched) -> None:
        self.ends[watched.id, watched.end] = watched
        self.version += 1

    def remove(self, key: tuple[str, int]) -> Watched | None:
        self.version += 1
        return self.ends.pop(key, None)


@dataclass(slots=True)
class Ledger:
    """Every end that is up, by the reference of its namespace; kept by the gateway's thread.

    strict: an address that was not asked for is a difference too.
    here    those in the engine's own namespace, by index
    """

    strict: bool = False
    residents: dict[str, Residents] = field(default_factory=dict)
    here: dict[int, Watched] = field(default_factory=dict)
    _where: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def put(self, id_: str, wired: Wired | None) -> None:
        """Takes note of how a connection is now; None: it is not up."""
        for n, reference in enumerate(self._where.pop(id_, ())):
            there = self.residents.get(reference)
            if there is not None:
                gone = there.remove((id_, n))
                if reference == "" and gone is not None:
                    self.here.pop(gone.place.ifindex, None)
                if not there.ends:
                    del self.residents[reference]
        if wired is not None:
            self._where[id_] = tuple(end.netns for end in wired.connection.ends)
            self._add(id_, wired.connection, wired.places)

    def has(self, watched: Watched) -> bool:
        """Whether the end is still to be as it was when it was looked at."""
        where = self._where.get(watched.id, ())
        if watched.end >= len(where):
            return False
        return self.residents[where[watched.end]].ends.get((watched.id, watched.end)) is watched

    def _add(self, id_: str, connection: fastnl.Connection, places: tuple[Place, ...]) -> None:
        for n, (end, place) in enumerate(zip(connection.ends, places, strict=True)):
            mtu = connection.inner_mtu if isinstance(connection, Vxlan) else end.mtu or connection.mtu
            watched = Watched(
                id_,
                n,
                place,
                end.ifname,
                mtu or 0,
                end.up,
                tuple(a for a in end.addresses if a.family == 4),
                self._rest(end, connection.found),
            )
            self.residents.setdefault(end.netns, Residents()).put(watched)
            if end.netns == "":
                self.here[place.ifindex] = watched

    def _rest(self, end: fastnl.End, found: bool) -> Rest | None:
        if not (end.ipv6 or end.routes or end.neighbours or end.master or end.rules or end.settings or self.strict):
            return None
        return Rest(
            frozenset(a.text for a in end.addresses),
            frozenset((r.to, r.via or "", r.table or 254) for r in end.routes),
            frozenset(n.ip for n in end.neighbours),
            others=not self.strict or end.keep_addresses or found,
            master=end.master or "",
            rules=frozenset(end.rules),
            settings=tuple((name, path, value) for name, (path, value) in settings.wanted(end).items()),
        )
