"""Keeps records in step with the namespaces that they refer to.

A connection whose namespace goes becomes pending, and what is left of it is removed; when the namespace is
there again it is made again, any number of times.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from fastnl.netns import Identity, canonical
from fastnl_engine.model import Record, connection_of
from fastnl_engine.watch.namespaces import UNKNOWN, Namespaces


class Upkeep:
    """Follows every record; asks for what has to be done through two calls.

    retry(record)            its namespaces may all be there now
    suspend(record, reason)  one of its namespaces is gone or is another one
    """

    def __init__(self, retry: Callable[[Record], None], suspend: Callable[[Record, str], None]) -> None:
        self._retry = retry
        self._suspend = suspend
        self._records: dict[str, dict[str, Record]] = {}  # reference -> id -> record
        self.namespaces = Namespaces(self._changed)

    def follow(self, old: Record | None, new: Record | None) -> None:
        """Takes note that a record was replaced; old None: it is new, new None: it is gone."""
        before = references_of(old) if old is not None else ()
        after = references_of(new) if new is not None else ()
        for reference in before:
            if reference not in after and old is not None:
                users = self._records.get(reference, {})
                users.pop(old.id, None)
                if not users:
                    self._records.pop(reference, None)
                    self.namespaces.forget([reference])
        if new is None:
            return
        for reference in after:
            self._records.setdefault(reference, {})[new.id] = new
            who = self.namespaces.watch(reference)
            # it may have come or gone while the connection was being made
            if new.state != "failed":
                self._check(new, reference, who)

    def _changed(self, reference: str, who: Identity | None) -> None:
        for record in list(self._records.get(reference, {}).values()):
            if record.state == "up" and reference not in ends_of(record) and who != UNKNOWN:
                # an underlay has no place of its own to compare with: that it changed is enough
                self._suspend(record, f"vxlan.underlay: namespace {reference!r} went or is another one than before")
            else:
                self._check(record, reference, who)

    def _check(self, record: Record, reference: str, who: Identity | None) -> None:
        if who == UNKNOWN:
            return
        if record.state == "up":
            for n, (end, place) in enumerate(zip(ends_of(record), record.places, strict=False)):
                if end == reference and place.netns != who:
                    what = "is gone" if who is None else "is another one than before"
                    self._suspend(record, f"{'ab'[n]}.netns: namespace {reference!r} {what}")
                    return
            if who is None:
                self._suspend(record, f"vxlan.underlay: namespace {reference!r} is gone")
        elif who is not None and all(self.namespaces.watch(r) not in (None, UNKNOWN) for r in references_of(record)):
            self._retry(record)


def ends_of(record: Record) -> tuple[str, ...]:
    """The references of the ends, in their order."""
    return _references(record.spec)[0]


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
