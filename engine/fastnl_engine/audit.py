"""Looks whether somebody changed our interfaces, every few seconds and at little cost.

What every end has (name, up, MTU, IPv4 addresses) is looked at by ioctl; ends with IPv6 addresses, routes or
neighbours need a dump of their namespace.  The work of one round is spread over its time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import fastnl
from fastnl import Address, Place, Vxlan, Wired
from fastnl._nl import AddrRow, NeighRow, RouteRow, Tour
from fastnl.netns import Handles

SLICE = 0.2  # seconds between two parts of a round
BATCH = 256  # namespaces of one tour: bounds the open descriptors


@dataclass(frozen=True, slots=True)
class Watched:
    """One end as it has to be; `rest` holds what a glance does not see."""

    id: str
    end: int
    place: Place
    ifname: str
    mtu: int
    addresses: tuple[Address, ...]
    rest: Rest | None


@dataclass(frozen=True, slots=True)
class Rest:
    addresses: frozenset[str] = frozenset()
    routes: frozenset[tuple[str, str, int]] = frozenset()  # (to, via, table)
    neighbours: frozenset[str] = frozenset()


@dataclass(slots=True)
class Ledger:
    """Every end that is up, by the reference of its namespace; kept by the gateway's thread."""

    ends: dict[str, dict[tuple[str, int], Watched]] = field(default_factory=dict)
    _where: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def put(self, id_: str, wired: Wired | None) -> None:
        """Takes note of how a connection is now; None: it is not up."""
        for n, reference in enumerate(self._where.pop(id_, ())):
            there = self.ends.get(reference, {})
            there.pop((id_, n), None)
            if not there:
                self.ends.pop(reference, None)
        if wired is not None:
            self._where[id_] = tuple(end.netns for end in wired.connection.ends)
            self._add(id_, wired.connection, wired.places)

    def has(self, watched: Watched) -> bool:
        """Whether the end is still to be as it was when it was looked at."""
        where = self._where.get(watched.id, ())
        return watched.end < len(where) and self.ends[where[watched.end]].get((watched.id, watched.end)) is watched

    def _add(self, id_: str, connection: fastnl.Connection, places: tuple[Place, ...]) -> None:
        for n, (end, place) in enumerate(zip(connection.ends, places, strict=True)):
            mtu = connection.inner_mtu if isinstance(connection, Vxlan) else end.mtu or connection.mtu
            watched = Watched(
                id_, n, place, end.ifname, mtu or 0, tuple(a for a in end.addresses if a.family == 4), self._rest(end)
            )
            self.ends.setdefault(end.netns, {})[id_, n] = watched

    def _rest(self, end: fastnl.End) -> Rest | None:
        if not (end.ipv6 or end.routes or end.neighbours):
            return None
        return Rest(
            frozenset(a.text for a in end.addresses),
            frozenset((r.to, r.via or "", r.table or 254) for r in end.routes),
            frozenset(n.ip for n in end.neighbours),
        )


class Audit:
    """A thread that goes round the ledger; on it, `found(watched, reason)` is called for every end that changed."""

    def __init__(
        self, host: fastnl.Host, ledger: Ledger, seconds: float, found: Callable[[Watched, str], None]
    ) -> None:
        self._host = host
        self._ledger = ledger
        self._seconds = seconds
        self._found = found
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._main, name="audit")
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _main(self) -> None:
        parts = max(1, round(self._seconds / SLICE))
        while not self._stop.is_set():
            # one copy a round, made in one step of the interpreter; what changes meanwhile is seen in the next
            references = list(self._ledger.ends)
            for part in range(parts):
                self.look(references[part::parts])
                if self._stop.wait(self._seconds / parts):
                    return

    def look(self, references: list[str]) -> None:
        """Looks at all ends of some namespaces."""
        for at in range(0, len(references), BATCH):
            with Handles() as handles:
                self._tour(handles, references[at : at + BATCH])

    def _tour(self, handles: Handles, references: list[str]) -> None:
        tour = Tour(0, False)
        asked = []
        watched: list[Watched] = []
        for reference in references:
            ends = list(self._ledger.ends.get(reference, {}).values())
            try:
                fd = handles.open(reference)
            except fastnl.FastnlError:
                continue  # gone namespaces are the watch's business
            who = handles.identity(fd)
            ends = [w for w in ends if w.place.netns == who]
            if not ends:
                continue
            visit = tour.visit(fd)
            for w in ends:
                for address in w.addresses or (None,):
                    visit.glance(len(watched), w.place.ifindex, w.ifname, w.mtu, address)
                watched.append(w)
            rest = [w for w in ends if w.rest is not None]
            if rest:
                question = tour.visit(fd, asks=True)
                question.dump_addresses()
                question.dump_routes()
                question.dump_neighbours()
                asked.append((rest, question))
        tour.run()
        wrong: dict[str, tuple[Watched, str]] = {}
        for visit in tour.visits:
            for item, what in visit.changed():
                w = watched[item]
                wrong.setdefault(w.id, (w, f"{'ab'[w.end]}: interface {w.ifname!r}: {WORDS[what]}"))
        for rest, question in asked:
            # what could not be read to its end says nothing of what is missing
            if not question.interrupted and not any(err for _, _, err in question.states()):
                self._compare(rest, question.rows(), wrong)
        for w, reason in wrong.values():
            self._found(w, reason)

    def _compare(
        self, ends: list[Watched], rows: list[AddrRow | RouteRow | NeighRow], wrong: dict[str, tuple[Watched, str]]
    ) -> None:
        have: dict[int, tuple[set[str], set[tuple[str, str, int]], set[str]]] = {}
        for row in rows:
            addresses, routes, neighbours = have.setdefault(row.ifindex, (set(), set(), set()))
            if isinstance(row, AddrRow):
                addresses.add(row.address)
            elif isinstance(row, RouteRow):
                routes.add((row.to, row.via, row.table))
            else:
                neighbours.add(row.ip)
        for w in ends:
            assert w.rest is not None
            addresses, routes, neighbours = have.get(w.place.ifindex, (set(), set(), set()))
            missing = w.rest.addresses - addresses or w.rest.routes - routes or w.rest.neighbours - neighbours
            where = f"{'ab'[w.end]}: interface {w.ifname!r}"
            if missing:
                wrong.setdefault(w.id, (w, f"{where}: {sorted(missing)[0]} is missing"))


WORDS = {
    "gone": "deleted or moved away",
    "renamed": "renamed",
    "down": "taken down",
    "mtu": "MTU changed",
    "address": "address removed",
}
