"""Looks whether somebody changed our interfaces, every few seconds and at little cost.

What every end has (name, up, MTU, IPv4 addresses) is looked at by ioctl, in C from list to list; ends with
IPv6 addresses, routes, neighbours or policy rules need a dump of their namespace.  The work of one round is spread over
its time.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import fastnl
from fastnl._nl import (
    AddrRow,
    Glances,
    LinkRow,
    NeighRow,
    RouteRow,
    RuleRow,
    Tour,
    look_around,
    read_settings,
)
from fastnl.change import is_foreign
from fastnl.netns import Handles, Identity, open_reference, path_of
from fastnl_engine.ledger import Ledger, Residents, Watched

SLICE = 0.2  # seconds between two parts of a round
BATCH = 256  # namespaces dumped at a time: bounds the open descriptors

Row = AddrRow | RouteRow | NeighRow | LinkRow | RuleRow
Wrong = dict[str, tuple[Watched, str]]


@dataclass(slots=True)
class Sight:
    """How to look at the ends behind one reference, as of a version of the ledger."""

    version: int
    glances: list[Glances]  # one for each namespace that they are said to be in, which is one but for a moment
    ends: list[Watched]
    rest: list[Watched]  # those that need a dump


class Audit:
    """A thread that goes round the ledger; on it, `found(watched, reason)` is called for every end that changed.

    There is none until `set_pace`.
    """

    def __init__(self, host: fastnl.Host, ledger: Ledger, found: Callable[[Watched, str], None]) -> None:
        self._host = host
        self._ledger = ledger
        self._found = found
        self._seconds = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def set_pace(self, seconds: float) -> None:
        """From now on, looks at everything once in so many seconds; 0: never."""
        if seconds == self._seconds:
            return
        self.stop()
        self._seconds = seconds
        if seconds:
            self._stop.clear()
            self._thread = threading.Thread(target=self._main, name="audit")
            self._thread.start()

    def stop(self) -> None:
        if self._thread is not None:
            self._stop.set()
            self._thread.join()
            self._thread = None

    def _main(self) -> None:
        parts = max(1, round(self._seconds / SLICE))
        while not self._stop.is_set():
            # one copy a round, made in one step of the interpreter; what changes meanwhile is seen in the next
            references = list(self._ledger.residents)
            for part in range(parts):
                self.look(references[part::parts])
                if self._stop.wait(self._seconds / parts):
                    return

    def look(self, references: Sequence[str]) -> None:
        """Looks at all ends of some namespaces."""
        wrong: Wrong = {}
        with contextlib.ExitStack() as stack:
            sights = {r: sight for r in references if (sight := self._sight(r, stack)) is not None}
            look_around([glances for sight in sights.values() for glances in sight.glances])
        for sight in sights.values():
            for glances in sight.glances:
                for item, what in glances.changed():
                    w = sight.ends[item]
                    wrong.setdefault(w.id, (w, f"{'ab'[w.end]}: interface {w.ifname!r}: {WORDS[what]}"))
        self._dump({r: sight.rest for r, sight in sights.items() if sight.rest}, wrong)
        for w, reason in wrong.values():
            self._found(w, reason)

    def _sight(self, reference: str, stack: contextlib.ExitStack) -> Sight | None:
        """What to look at behind a reference; it is drawn up anew only when the ledger has changed."""
        residents = self._ledger.residents.get(reference)
        if residents is None:
            return None
        sight: Sight | None = residents.drawn
        if sight is not None and sight.version == residents.version:
            return sight
        path = path_of(reference)
        if path is None:
            # it has to be searched for each time
            try:
                fd = open_reference(reference)
            except fastnl.FastnlError:
                return None  # gone namespaces are the watch's business
            stack.callback(os.close, fd)
            return _draw(residents, f"/proc/self/fd/{fd}", careful=False)
        sight = residents.drawn = _draw(residents, path, careful=reference.startswith("file:"))
        return sight

    def _dump(self, ends: dict[str, list[Watched]], wrong: Wrong) -> None:
        references = list(ends)
        for at in range(0, len(references), BATCH):
            with Handles() as handles:
                tour = Tour(0, False)
                asked = []
                for reference in references[at : at + BATCH]:
                    try:
                        fd = handles.open(reference)
                    except fastnl.FastnlError:
                        continue
                    there = [w for w in ends[reference] if w.place.netns == handles.identity(fd)]
                    question = tour.visit(fd, asks=True)
                    question.dump_addresses()
                    question.dump_routes()
                    question.dump_neighbours()
                    if any(w.rest.master for w in there if w.rest is not None):
                        question.dump_links()
                    if any(w.rest.rules for w in there if w.rest is not None):
                        question.dump_rules()
                    asked.append((there, question))
                    _read_settings(fd, there, wrong)
                tour.run()
            for there, question in asked:
                # what could not be read to its end says nothing of what is missing
                if not question.interrupted and not any(err for _, _, err in question.states()):
                    self._compare(there, question.rows(), wrong)

    def _compare(self, ends: list[Watched], rows: list[Row], wrong: Wrong) -> None:
        have: dict[int, tuple[dict[str, AddrRow], set[tuple[str, str, int]], set[str]]] = {}
        links: dict[int, LinkRow] = {}
        rules: set[fastnl.Rule | None] = set()
        for row in rows:
            if isinstance(row, RuleRow):
                rules.add(row.rule)
                continue
            if isinstance(row, LinkRow):
                links[row.ifindex] = row
                continue
            addresses, routes, neighbours = have.setdefault(row.ifindex, ({}, set(), set()))
            if isinstance(row, AddrRow):
                addresses[row.address] = row
            elif isinstance(row, RouteRow):
                routes.add((row.to, row.via, row.table))
            else:
                neighbours.add(row.ip)
        for w in ends:
            assert w.rest is not None
            addresses, routes, neighbours = have.get(w.place.ifindex, ({}, set(), set()))
            missing = w.rest.addresses - addresses.keys() or w.rest.routes - routes or w.rest.neighbours - neighbours
            where = f"{'ab'[w.end]}: interface {w.ifname!r}"
            if missing:
                wrong.setdefault(w.id, (w, f"{where}: {sorted(missing)[0]} is missing"))
            elif w.rest.master and not _is_port(links, w.place.ifindex, w.rest.master):
                wrong.setdefault(w.id, (w, f"{where}: is no port of {w.rest.master!r} any more"))
            elif not w.rest.rules <= rules:
                wrong.setdefault(w.id, (w, f"{where}: rule {str(min(w.rest.rules - rules, key=str))!r} is missing"))
            elif not w.rest.others:
                foreign = sorted(a for a, row in addresses.items() if is_foreign(row, w.rest.addresses))
                if foreign:
                    wrong.setdefault(w.id, (w, f"{where}: {foreign[0]} was not asked for"))


def _read_settings(fd: int, ends: list[Watched], wrong: Wrong) -> None:
    wanted = [(w, *setting) for w in ends if w.rest is not None for setting in w.rest.settings]
    if not wanted:
        return
    have = read_settings(fd, [path for _, _, path, _ in wanted])
    for (w, name, _, value), now in zip(wanted, have, strict=True):
        if now != value:
            where = f"{'ab'[w.end]}: interface {w.ifname!r}"
            wrong.setdefault(w.id, (w, f"{where}: {name} is {now or 'gone'}, not {value}"))


def _is_port(links: dict[int, LinkRow], index: int, master: str) -> bool:
    link = links.get(index)
    above = links.get(link.master) if link is not None else None
    return above is not None and above.ifname == master


def _draw(residents: Residents, path: str, *, careful: bool) -> Sight:
    version = residents.version  # before its ends are read: what changes meanwhile is drawn up again
    ends = list(residents.ends.values())
    by_namespace: dict[Identity, Glances] = {}
    for item, w in enumerate(ends):
        glances = by_namespace.get(w.place.netns)
        if glances is None:
            glances = by_namespace[w.place.netns] = Glances(path, w.place.netns, careful)
        for address in w.addresses or (None,):
            glances.add(item, w.place.ifindex, w.ifname, w.mtu, address, w.up)
    return Sight(version, list(by_namespace.values()), ends, [w for w in ends if w.rest is not None])


WORDS = {
    "gone": "deleted or moved away",
    "renamed": "renamed",
    "down": "taken down",
    "mtu": "MTU changed",
    "address": "address removed",
}
