"""Keeps records in step with the namespaces that they refer to.

A connection whose namespace goes becomes pending, and what is left of it is removed; when the namespace is
there again it is made again, any number of times.  A process that has ended does not come back, nor does an
inode number mean the namespace any more that it meant: both are given again, to somebody else.  Such a
connection stays pending until a client asks for it anew.
"""

from __future__ import annotations

import functools
import heapq
import itertools
import re
from collections.abc import Callable

from fastnl.netns import Identity, canonical
from fastnl_engine.model import Record, connection_of
from fastnl_engine.watch.namespaces import UNKNOWN, Namespaces, look

MISSING = 10_000  # references that are counted when somebody asks: bounds the time, which is the gateway's


class Upkeep:
    """Follows every record; asks for what has to be done through calls.

    retry(record)            its namespaces may all be there now
    suspend(record, reason)  one of its namespaces is gone or is another one
    tell(event, reference, identity)  a namespace "appeared", has "gone" or "changed" into another one
    """

    def __init__(
        self,
        retry: Callable[[Record], None],
        suspend: Callable[[Record, str], None],
        tell: Callable[[str, str, Identity | None], None],
    ) -> None:
        self._retry = retry
        self._suspend = suspend
        self._tell = tell
        self._records: dict[str, dict[str, Record]] = {}  # reference -> id -> record
        self.namespaces = Namespaces(self._changed)

    def follow(self, old: Record | None, new: Record | None) -> None:
        """Takes note that a record was replaced; old None: it is new, new None: it is gone."""
        before = references_of(old) if old is not None else ()
        after = references_of(new) if new is not None and not waits_in_vain(new) else ()
        for reference in before:
            users = self._records.get(reference, {})
            if old is not None:
                users.pop(old.id, None)
            if not users:
                self._records.pop(reference, None)
                if reference not in after:
                    self.namespaces.forget([reference])
        for reference in after:
            assert new is not None
            # it may have come or gone while the connection was being made
            known = reference in self.namespaces
            seen = who = self.namespaces.watch(reference)
            fits = _fits(new, reference, who)
            if not fits:
                who = self.namespaces.refresh(reference)
                if not known and who == seen != UNKNOWN:
                    self._tell("gone" if who is None else "changed", reference, who)
            self._records.setdefault(reference, {})[new.id] = new
            if new.state != "failed" and not (fits and new.state == "up"):
                self._check(new, reference, who, first=True)

    def uses(self, reference: str) -> bool:
        """Whether some connection refers to a namespace."""
        return reference in self._records

    def missing(self, most: int) -> list[tuple[str, int]]:
        """Of the first 10,000 references that mean nothing now, those that most connections wait for; with how many."""
        missing = itertools.islice(self.namespaces.missing, MISSING)
        waiting = [(reference, len(self._records.get(reference, ()))) for reference in missing]
        return heapq.nlargest(most, waiting, key=lambda pair: pair[1])

    def _changed(self, reference: str, who: Identity | None, was: Identity | None) -> None:
        # told before what follows from it
        event = "gone" if who is None else "appeared" if was in (None, UNKNOWN) else "changed"
        self._tell(event, reference, who)
        for record in list(self._records.get(reference, {}).values()):
            if who is None and is_mortal(reference) and not record.places:
                self.follow(record, None)  # what it waits for otherwise does not matter any more
            elif record.state == "up" and reference not in ends_of(record):
                # an underlay has no place of its own to compare with: that it changed is enough
                self._suspend(record, astray(record) or _why(ends_of(record), reference, who))
            else:
                self._check(record, reference, who)

    def _check(self, record: Record, reference: str, who: Identity | None, *, first: bool = False) -> None:
        """Asks for what a record needs, as a reference means `who`.

        first  nothing is known of what the reference meant until now
        """
        if who == UNKNOWN:
            return
        if record.state == "up":
            # a process is not followed into another namespace unless it was seen going there
            gone = None if first and is_mortal(reference) else who
            if not _fits(record, reference, who):
                self._suspend(record, astray(record, reference) or _why(ends_of(record), reference, gone))
        elif who is not None and all(self.namespaces.watch(r) not in (None, UNKNOWN) for r in references_of(record)):
            self._retry(record)


FOR_GOOD = " for good, as its number may mean another one now; connect again to use that"
_MORTAL = re.compile(r"pid:|inode:|file:/proc/\d")


def _fits(record: Record, reference: str, who: Identity | None) -> bool:
    """Whether what is in the kernel of a record that is up is where a reference means now."""
    if record.state != "up":
        return True
    for end, place in zip(ends_of(record), record.places, strict=False):
        if end == reference and place.netns != who:
            return False
    return who is not None


def _why(ends: tuple[str, ...], reference: str, who: Identity | None) -> str:
    # an underlay is no end
    field = f"{'ab'[ends.index(reference)]}.netns" if reference in ends else "vxlan.underlay"
    if who is not None:
        return f"{field}: namespace {reference!r} is another one than before"
    return f"{field}: namespace {reference!r} is gone{FOR_GOOD if is_mortal(reference) else ''}"


def astray(record: Record, seen: str = "") -> str:
    """Why a record that is up must not be made again: a number that it goes by may mean another by now.  "": it may.

    seen  a reference of which it is known where it has gone
    """
    ends = ends_of(record)
    for reference, place in zip(ends, record.places, strict=False):
        if reference != seen and is_mortal(reference) and look(reference) not in (place.netns, UNKNOWN):
            return _why(ends, reference, None)
    return ""


def lost_for_good(spec: bytes) -> str:
    """Why a connection cannot be made after a reboot, as one of its references means something else now; "": it can."""
    ends, needed = _references(spec)
    for reference in filter(is_mortal, needed):
        return _why(ends, reference, None)
    return ""


def is_mortal(reference: str) -> bool:
    """Whether a reference that has lost its meaning must not get another one."""
    return _MORTAL.match(reference) is not None


def waits_in_vain(record: Record) -> bool:
    """Whether a record waits for a namespace that cannot come back."""
    return record.state == "pending" and record.reason.endswith(FOR_GOOD)


WAITED_FOR = ("name", "file", "pid", "inode", "microservice", "other")
_MISSING = re.compile(r"[\w.]+: namespace [\'\"](?:(file|pid|inode|microservice):)?")


def waits_for(reason: str) -> str:
    """The kind of the reference that a pending connection waits for, one of WAITED_FOR."""
    found = _MISSING.match(reason)
    return (found[1] or "name") if found else "other"


def ends_of(record: Record) -> tuple[str, ...]:
    """The references of the ends, in their order."""
    return ends_of_spec(record.spec)


def ends_of_spec(spec: bytes) -> tuple[str, ...]:
    return _references(spec)[0]


def references_of(record: Record) -> tuple[str, ...]:
    """Every namespace that a connection needs, but the engine's own, which cannot go."""
    return _references(record.spec)[1]


@functools.lru_cache(maxsize=512)
def _references(spec: bytes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    connection = connection_of(spec)
    ends = [canonical(connection.a.netns)]
    if connection.b is not None:
        ends.append(canonical(connection.b.netns))
    needed = dict.fromkeys(ends)
    if connection.vxlan is not None:
        needed[canonical(connection.vxlan.underlay)] = None
    needed.pop("", None)
    return tuple(ends), tuple(needed)
