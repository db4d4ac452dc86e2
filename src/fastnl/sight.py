"""Looks at the namespaces of many connections: each is read once, whatever it is called and whoever shares it."""

from __future__ import annotations

import errno
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from fastnl import settings
from fastnl._nl import read_settings
from fastnl.errors import NetnsNotFound
from fastnl.links import Connection, End, Vxlan
from fastnl.netns import Identity, identity, open_reference
from fastnl.readback import MAIN_TABLE, Link, Neighbour, Reader, Route, Rule
from fastnl.wired import Place, Wired

FEW = 16  # interfaces of one namespace that are asked for one by one; for more, the whole namespace is read

Row = TypeVar("Row", Route, Neighbour)


@dataclass(frozen=True, slots=True)
class Seen:
    """What one namespace holds of what was looked for; rows by index of their interface.

    numbers   by which the namespace knows others, None: it does not
    settings  what files under /proc/sys/net hold, None: there is none
    """

    by_index: dict[int, Link]
    by_name: dict[str, Link]
    addresses: dict[int, list[str]]
    routes: dict[int, list[Route]]
    neighbours: dict[int, list[Neighbour]]
    numbers: dict[Identity, int | None]
    rules: list[Rule]
    settings: dict[str, str | None]


@dataclass(frozen=True, slots=True)
class Sight:
    """Who each reference is, None: nobody; and what each namespace holds."""

    who: dict[str, Identity | None]
    seen: dict[Identity, Seen]

    def at(self, reference: str) -> Seen | None:
        who = self.who[reference]
        return self.seen[who] if who is not None else None

    def tied(self, link: Link, here: str, there: str) -> bool:
        """Whether the other side of an interface `here` is in the namespace `there`."""
        seen, who = self.at(here), self.who[there]
        if seen is None or who is None:
            return False
        if who == self.who[here]:
            return link.link_netns is None
        return link.link_netns is not None and link.link_netns == seen.numbers.get(who)


@dataclass(slots=True)
class _Wanted:
    """What to read in one namespace.

    names    of lower devices
    others   namespaces that interfaces here are tied to
    """

    reference: str
    ends: list[tuple[End, Place | None]] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    others: dict[Identity, str] = field(default_factory=dict)


def look(wired: Sequence[Wired]) -> Sight:
    """Reads all that verify compares.  Holds one namespace open at a time, or two."""
    who: dict[str, Identity | None] = {}
    for w in wired:
        for reference in _references(w.connection):
            if reference not in who:
                with _opened(reference) as fd:
                    who[reference] = identity(fd) if fd is not None else None
    seen: dict[Identity, Seen] = {}
    for is_, wanted in _sort(wired, who).items():
        with _opened(wanted.reference, is_) as fd:
            if fd is not None:
                with Reader(fd) as reader:
                    seen[is_] = _read(reader, wanted, fd)
    # one that went or was replaced since a moment ago is nobody's now
    return Sight({reference: is_ if is_ in seen else None for reference, is_ in who.items()}, seen)


def _references(connection: Connection) -> Iterator[str]:
    yield from (end.netns for end in connection.ends)
    if isinstance(connection, Vxlan):
        yield connection.underlay


@contextmanager
def _opened(reference: str, who: Identity | None = None) -> Iterator[int | None]:
    """A namespace, open meanwhile; None if it is not there, or is another one than `who`."""
    try:
        fd = open_reference(reference)
    except NetnsNotFound as e:
        if e.errno in (errno.EMFILE, errno.ENFILE):  # it may be there
            raise
        yield None
        return
    try:
        yield fd if who is None or identity(fd) == who else None
    finally:
        os.close(fd)


def _sort(wired: Iterable[Wired], who: dict[str, Identity | None]) -> dict[Identity, _Wanted]:
    out: dict[Identity, _Wanted] = {}
    for w in wired:
        for reference in _references(w.connection):
            is_ = who[reference]
            if is_ is not None and is_ not in out:
                out[is_] = _Wanted(reference)
        for n, end in enumerate(w.connection.ends):
            here = who[end.netns]
            if here is None:
                continue
            out[here].ends.append((end, w.places[n] if w.places else None))
            for reference in _references(w.connection):
                there = who[reference]
                if there is not None and there != here:
                    out[here].others[there] = reference
        if isinstance(w.connection, Vxlan) and w.connection.dev is not None:
            underlay = who[w.connection.underlay]
            if underlay is not None:
                out[underlay].names.add(w.connection.dev)
    return out


def _read(reader: Reader, wanted: _Wanted, fd: int) -> Seen:
    if len(wanted.ends) + len(wanted.names) > FEW:
        links, scope = reader.links(), [0]
    else:
        links = list(_one_by_one(reader, wanted))
        scope = [link.ifindex for link in links]
    ends = [end for end, _ in wanted.ends]
    tables = {route.table or MAIN_TABLE for end in ends for route in end.routes}
    meet = any(end.neighbours for end in ends)
    files = [path for end in ends if end.settings for path, _ in settings.wanted(end).values()]
    addresses: dict[int, list[str]] = defaultdict(list)
    for index, text in (row for i in scope for row in reader.addresses(i)):
        addresses[index].append(text)
    return Seen(
        by_index={link.ifindex: link for link in links},
        by_name={link.ifname: link for link in links},
        addresses=addresses,
        routes=_by_index(row for table in tables for i in scope for row in reader.routes(table, i)),
        neighbours=_by_index(row for i in scope if meet for row in reader.neighbours(i)),
        # after the links: asking for one makes the kernel number the namespace that it is tied to
        numbers={other: _number(reader, other, reference) for other, reference in wanted.others.items()},
        rules=reader.rules() if any(end.rules for end in ends) else [],
        settings=dict(zip(files, read_settings(fd, files) if files else (), strict=True)),
    )


def _one_by_one(reader: Reader, wanted: _Wanted) -> Iterator[Link]:
    asked = [(place.ifindex if place else 0, end.ifname) for end, place in wanted.ends]
    asked += [(0, name) for name in wanted.names]
    for index, name in asked:
        link = (reader.link(index) if index else None) or reader.link(name=name)
        if link is not None:
            yield link


def _by_index(rows: Iterable[Row]) -> dict[int, list[Row]]:
    out: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        out[row.ifindex].append(row)
    return out


def _number(reader: Reader, other: Identity, reference: str) -> int | None:
    with _opened(reference, other) as fd:
        return reader.number_of(fd) if fd is not None else None
