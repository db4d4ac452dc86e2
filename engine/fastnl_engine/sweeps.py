"""Deletes beside everything else: which go to the thread for sweeps, and who has to wait until they are over.

A delete spends tens of milliseconds waiting outside the kernel's lock (netdev_run_todo), in which others could be
served.  So it has a thread of its own, and what arrives meanwhile goes together in the next sweep.  Two things on
two threads must come out as one after the other would: an action that needs what a sweep gives back waits for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from fastnl.links import FOUND, MASTERS
from fastnl.netns import canonical
from fastnl_engine.backlog import Planned
from fastnl_engine.model import Connection, EndSpec, connection_of
from fastnl_engine.planner import Action

SWEEP = 128  # deletes of one sweep: many share its grace periods, and a create waits for the lock for so many at most

Thing = tuple[str, ...]
ANY: Thing = ("any",)  # given back by every delete


class Waiting(NamedTuple):
    """An action that needs things, and the number of the last delete that concerns it."""

    action: Action
    needs: list[Thing]
    until: int


class Sweeps:
    """Deletes that wait for their sweep or are in one, and the actions that wait for those."""

    def __init__(self) -> None:
        self._queued = Planned()
        self._things: dict[str, set[Thing]] = {}  # by id: what a delete gives back
        self._givers: dict[Thing, dict[str, int]] = {}  # the deletes that give it back, and their numbers, which rise
        self._last = 0
        self._behind: dict[str, list[Waiting]] = {}  # by id of a delete

    def __len__(self) -> int:
        """Deletes that are not over."""
        return len(self._things)

    @staticmethod
    def takes(action: Action) -> bool:
        """Whether it may be done beside others: a delete of something that no other interface hangs on.

        Policy rules and what is only found are shared with others in their namespace, so order matters there.
        """
        if action.verb != "remove" or action.wired is None:
            return False
        connection = action.wired.connection
        return connection.kind not in (*FOUND, *MASTERS) and not any(end.rules for end in connection.ends)

    def put(self, action: Action) -> None:
        assert action.record is not None
        things = {ANY, *_things_of(action.record.connection)}  # once each: both ends may be in one namespace
        self._last += 1
        self._things[action.job.id] = things
        for thing in things:
            self._givers.setdefault(thing, {})[action.job.id] = self._last
        self._queued.put(action)

    def due(self, running: int) -> bool:
        """Whether another sweep shall go while so many are on their way or ready for it.

        What comes during one goes together in the next; but a full one has nothing to gain by waiting.
        """
        queued = len(self._queued)
        return running < (2 if queued >= SWEEP else 1) and queued > 0

    def take(self) -> list[Action]:
        """The deletes of the next sweep."""
        return self._queued.take(SWEEP)

    def hold(self, action: Action) -> bool:
        """Whether an action has to wait; then `over` gives it back.

        Later deletes do not concern it: what it was planned to have belongs to it by then.
        """
        if not self._things or action.verb == "remove" or not action.spec:
            return False
        connection = connection_of(action.spec)
        # again: refused for what one of them may still have had, under another name for the same namespace perhaps
        needs = [ANY] if action.job.again or _leans_on_others(connection) else [*_needs_of(connection)]
        return self._wait(Waiting(action, needs, self._last))

    def _wait(self, waiting: Waiting) -> bool:
        """Puts it behind one delete at a time, the latest, as that is the last to go; False: there is none."""
        for thing in waiting.needs:
            for id_, number in reversed(self._givers.get(thing, {}).items()):
                if number <= waiting.until:
                    self._behind.setdefault(id_, []).append(waiting)
                    return True
        return False

    def over(self, id_: str) -> list[Action]:
        """A delete has been done or given up, if it was one; gives the actions that need not wait any more."""
        for thing in self._things.pop(id_, ()):
            givers = self._givers[thing]
            del givers[id_]
            if not givers:
                del self._givers[thing]
        return [waiting.action for waiting in self._behind.pop(id_, ()) if not self._wait(waiting)]

    def give_up(self) -> list[Action]:
        """Everything that is not in a sweep, at a stop: those that wait first."""
        behind = [waiting.action for several in self._behind.values() for waiting in several]
        self._behind.clear()
        queued = self._queued.take(len(self._queued))
        for action in queued:
            self.over(action.job.id)
        return behind + queued


def _ends_of(connection: Connection) -> Iterator[tuple[str, EndSpec]]:
    for end in (connection.a, connection.b):
        if end is not None:
            yield canonical(end.netns), end


def _things_of(connection: Connection) -> Iterator[Thing]:
    """What only one connection should have at a time; the namespaces are among them for those who need all of it."""
    for netns, end in _ends_of(connection):
        yield "name", netns, end.ifname
        yield "netns", netns
        for address in end.addresses:
            yield "address", netns, address.partition("/")[0]
    if connection.vxlan is not None:
        v = connection.vxlan
        yield "vni", canonical(v.underlay), str(v.vni), str(v.port)


def _needs_of(connection: Connection) -> Iterator[Thing]:
    """What has to be free before a connection is made; a route may be refused while a neighbour has its like."""
    for thing in _things_of(connection):
        if thing[0] != "netns":
            yield thing
    for netns, end in _ends_of(connection):
        if end.routes:
            yield "netns", netns


def _leans_on_others(connection: Connection) -> bool:
    """Whether it is made of, or on, what other connections make; then it keeps its place behind every delete."""
    if connection.kind in (*FOUND, *MASTERS) or (connection.vxlan is not None and connection.vxlan.dev is not None):
        return True
    return any(end.rules or end.master for _, end in _ends_of(connection))
