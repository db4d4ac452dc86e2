"""Connections in, one result per connection out.

    host = Host()
    for result in host.connect([Veth(...), Vxlan(...)]):
        print(result.error or result.wired)

Every connection is made wholly or not at all, and a failing one does not touch its neighbours in the batch.
"""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from fastnl import birth, change, features, sweep
from fastnl._nl import AddrRow, LinkRow, NeighRow, RouteRow, RuleRow, Tour
from fastnl.errors import InvalidValue
from fastnl.links import Connection, End
from fastnl.netns import Handles, Identity
from fastnl.wired import Move, Place, Result, Wired

__all__ = ["Host", "Move", "Result", "Wired", "group_of"]

FIRST_INDEX = 1 << 20  # the kernel gives its own indexes from 1 upwards
CHUNK = 256  # connections of one tour: bounds the open descriptors and the time the caller waits


class Host:
    """The kernel of this machine, as a maker of connections.

    instance  goes into the alias `fastnl/<instance>/<id>/<end>` of every interface made
    group     interface group of everything made, over 65535; None: derived from the instance
    visit_itself   a thread that calls it visits the namespaces itself, unless it is the main thread, and comes back: a
              tenth less for a lone connection at best.  A process that gives up its capabilities meanwhile is aborted

    Holds no descriptor and no thread between calls.  Its methods may be called from several threads.
    """

    def __init__(self, instance: str = "lib", *, group: int | None = None, visit_itself: bool = False) -> None:
        if not instance or len(instance.encode()) > 32 or "/" in instance or not instance.isprintable():
            raise InvalidValue("instance", f"{instance!r} must have 1 to 32 printable bytes and no '/'")
        self.instance = instance
        self._visit_itself = visit_itself
        self.group = group if group is not None else group_of(instance)
        if not 65535 < self.group < 1 << 31:
            raise InvalidValue("group", f"{self.group} is not between 65536 and {(1 << 31) - 1}")
        # given every tour after its run and its number of threads, while the namespaces are still open
        self.trace: Callable[[Tour, int], None] | None = None
        self._lock = threading.Lock()
        # every index is used once, so a stale one never hits somebody else's interface
        self._first_index = self._next_index = FIRST_INDEX + secrets.randbelow(1 << 30)
        self._population: Counter[Identity] = Counter()

    # -- the four things it does -------------------------------------------------------------------

    def connect(
        self, connections: Sequence[Connection], *, indexes: Sequence[tuple[int, ...]] | None = None
    ) -> list[Result]:
        """Makes every connection; results in the order given.

        indexes: interface indexes to use, one tuple for each connection (see take_indexes); for callers
        that write down what they are about to do.
        """
        out: list[Result] = []
        ids: set[str] = set()
        for at in range(0, len(connections), CHUNK):
            part = connections[at : at + CHUNK]
            chosen = indexes[at : at + CHUNK] if indexes is not None else None
            with Handles() as handles:
                out += birth.create(self, handles, part, chosen, ids)
        return out

    def disconnect(self, wired: Sequence[Wired]) -> list[Result]:
        """Removes every connection; what is already gone is no error (changed is False then)."""
        out: list[Result] = []
        for at in range(0, len(wired), CHUNK):
            with Handles() as handles:
                out += sweep.remove(self, handles, wired[at : at + CHUNK])
        return out

    def update(self, changes: Sequence[tuple[Wired, Connection]]) -> list[Result]:
        """Turns wired connections into what is wanted now by the smallest change.

        Addresses, routes, neighbours, MTU, MAC and name change in place; a namespace, the kind and the
        tunnel's parameters by making the connection anew.  A change that fails is taken back.
        """
        out: list[Result] = []
        for at in range(0, len(changes), CHUNK):
            with Handles() as handles:
                out += change.update(self, handles, changes[at : at + CHUNK])
        return out

    def mend(self, wired: Sequence[Wired], *, strict: bool = False) -> list[Result]:
        """Makes connections again what they were, after somebody changed or deleted their interfaces.

        In place where the interfaces are still there; else by making the connection anew.  strict: addresses
        that were not asked for are removed.
        """
        out: list[Result] = []
        for at in range(0, len(wired), CHUNK):
            with Handles() as handles:
                out += change.mend(self, handles, wired[at : at + CHUNK], strict)
        return out

    def move(self, moves: Sequence[Move]) -> list[Result]:
        """Takes ends to other namespaces; a move that fails is taken back."""
        out: list[Result] = []
        for at in range(0, len(moves), CHUNK):
            with Handles() as handles:
                out += change.move(self, handles, moves[at : at + CHUNK])
        return out

    # -- reading -----------------------------------------------------------------------------------

    def links(self, netns: str = "", *, stats: bool = False) -> list[LinkRow]:
        """Every interface of a namespace; `stats` as in Visit.dump_links."""
        return self._ask(netns, lambda visit: visit.dump_links(0, stats))

    def addresses(self, netns: str = "") -> list[AddrRow]:
        return self._ask(netns, lambda visit: visit.dump_addresses(0))

    def routes(self, netns: str = "") -> list[RouteRow]:
        return self._ask(netns, lambda visit: visit.dump_routes(0))

    def neighbours(self, netns: str = "") -> list[NeighRow]:
        return self._ask(netns, lambda visit: visit.dump_neighbours(0))

    def rules(self, netns: str = "") -> list[RuleRow]:
        return self._ask(netns, lambda visit: visit.dump_rules(0))

    def _ask(self, netns: str, question: Callable[..., None]) -> list:  # type: ignore[type-arg]
        from fastnl.explain import explain
        from fastnl.links import Veth

        with Handles() as handles:
            tour = Tour(1)
            visit = tour.visit(handles.open(netns), asks=True)
            question(visit)
            self.run(tour)
            for problem in tour.problems():
                raise explain(Veth(End(netns, "a"), End(netns, "b")), problem)
            return visit.rows()

    # -- for the modules that do the work ----------------------------------------------------------

    def run(self, tour: Tour, threads: int = 1) -> None:
        tour.run(threads, here=self._visit_itself)
        if self.trace is not None:
            self.trace(tour, threads)

    def take_indexes(self, count: int) -> tuple[int, ...]:
        """Interface indexes that nobody has had from this Host before."""
        with self._lock:
            first = self._next_index
            self._next_index += count
            if self._next_index >= (1 << 31) - 1024:
                self._next_index = FIRST_INDEX
            return tuple(range(first, first + count))

    def has_given(self, index: int) -> bool:
        """Whether an index came from take_indexes of this Host."""
        first, following = self._first_index, self._next_index
        return first <= index < following if first <= following else index >= first or index < following

    def alias(self, connection: Connection, end: int) -> str:
        """The mark of ownership that an interface carries."""
        return f"fastnl/{self.instance}/{connection.id or connection.ends[end].ifname}/{'ab'[end]}"

    def population(self, who: Identity) -> int:
        """How many ends of ours a namespace holds, as far as this Host knows."""
        return self._population[who]

    def count(self, places: Iterable[Place], step: Literal[1, -1]) -> None:
        """Books the ends of a connection that came (1) or went (-1) in the population of their namespaces."""
        with self._lock:
            for place in places:
                self._population[place.netns] += step
                if self._population[place.netns] <= 0:
                    del self._population[place.netns]

    @property
    def features(self) -> features.Features:
        return features.probe()


def group_of(instance: str) -> int:
    """The interface group of an instance: the same at every start, over 2^30."""
    import zlib

    return 1 << 30 | zlib.crc32(instance.encode()) & 0x3FFFFFFF
