"""Which host interfaces are there that dependents stand on: those of the engine's connections, and others'."""

from __future__ import annotations

import fcntl
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from fastnl.change import in_place
from fastnl_engine.engine import Engine
from fastnl_engine.northbound.dependents import Attendance, Dependent, Ground
from fastnl_engine.planner import Action

SIOCGIFMTU, SIOCGIFHWADDR = 0x8921, 0x8927  # include/uapi/linux/sockios.h
LOOK = 1.0  # seconds between looks for interfaces that are not the engine's


class Grounds:
    """Tells an Attendance of the interfaces that it has dependents on, and of no others.  For the gateway's thread.

    An interface in the engine's own namespace that no connection has is looked for by its name.  The engine's own
    actions wait until consumers have let go of what they take away, whoever asked for them.
    """

    def __init__(self, engine: Engine, attendance: Attendance) -> None:
        self._engine = engine
        self._attendance = attendance
        self._standing: dict[str, Ground] = {}  # dependent -> what it stands on
        self._count: Counter[Ground] = Counter()  # dependents on each
        self._up: dict[Ground, int] = {}  # index of those that are there
        self._of: dict[str, set[Ground]] = {}  # by connection
        self._holding: dict[str, list[Ground]] = {}  # by connection: what its action takes away
        self._next_look = 0.0
        engine.listeners.append(self._heard)
        engine.guard = self

    def configure(self, dependent: Dependent) -> None:
        self._attendance.configure(dependent)
        self._leave(dependent.name)
        self._standing[dependent.name] = dependent.ground
        self._count[dependent.ground] += 1
        self._look(dependent.ground)

    def unconfigure(self, name: str) -> None:
        self._attendance.unconfigure(name)
        self._leave(name)

    def _leave(self, name: str) -> None:
        ground = self._standing.pop(name, None)
        if ground is None:
            return
        self._count[ground] -= 1
        if self._count[ground]:
            return
        del self._count[ground]
        # one that a consumer still has something on is followed on: it goes after that
        if ground in self._up and not self._attendance.has_on(ground):
            self._set(ground, 0, "nothing stands on it any more")

    def turn(self) -> None:
        """Looks for others' interfaces when it is time."""
        now = time.monotonic()
        if self._standing and now >= self._next_look:
            self._next_look = now + LOOK
            for ground in list(self._count):
                if self._engine.claims.owner(*ground) is None:
                    self._look(ground)

    def changed(self, ifname: str) -> None:
        """Something happened to an interface in the engine's own namespace that no connection has."""
        if ("", ifname) in self._count:
            self._look(("", ifname))

    def _look(self, ground: Ground) -> None:
        """Finds out how an interface is now."""
        netns, ifname = ground
        id_ = self._engine.claims.owner(netns, ifname)
        if id_ is not None:
            self._note(id_)
            if ground not in self._of.get(id_, ()):
                self._set(ground, 0, "its connection is not up")
        elif netns == "":
            try:
                index = socket.if_nametoindex(ifname)
            except OSError:
                index = 0
            self._set(ground, index, "it is gone")
        else:
            self._set(ground, 0, "no connection has it")

    def _heard(self, event: str, fields: dict[str, Any], of: str) -> None:
        if of == "connection" and event != "link" and (self._standing or self._of):
            self._note(fields["id"], str(fields.get("reason", "")))

    def _note(self, id_: str, reason: str = "") -> None:
        """Takes in how the ends of a connection are now."""
        record = self._engine.records.get(id_)
        now: dict[Ground, int] = {}
        if record is not None and record.state == "up":
            ends = (record.connection.a, record.connection.b)
            for end, place in zip(ends, record.places, strict=False):
                ground = (end.netns, end.ifname) if end is not None else None
                if end is not None and (ground in self._count or ground in self._up):
                    now[end.netns, end.ifname] = place.ifindex
        for ground in self._of.pop(id_, set()) - now.keys():
            self._set(ground, 0, reason or "its connection is not up")
        if now:
            self._of[id_] = set(now)
        for ground, index in now.items():
            self._set(ground, index, reason)

    def _set(self, ground: Ground, index: int, reason: str) -> None:
        before = self._up.get(ground, 0)
        if index == before:
            return
        if before:
            del self._up[ground]
            self._attendance.gone(*ground, reason or "it was made again")
        if index:
            self._up[ground] = index
            mac, mtu = _facts(ground[1]) if ground[0] == "" else ("", 0)
            self._attendance.up(*ground, index, mac=mac, mtu=mtu)

    # -- letting go ----------------------------------------------------------------------------------

    def hold(self, action: Action, go: Callable[[], None]) -> bool:
        """See Guard."""
        id_ = action.job.id
        grounds = self._taken_away(action) if id_ in self._of else []
        if not grounds:
            return False
        self._holding[id_] = grounds
        waiting = len(grounds)

        def released() -> None:
            nonlocal waiting
            waiting -= 1
            if waiting == 0:
                go()

        for ground in grounds:
            self._attendance.hold(*ground, released, _REASONS.get(action.verb, "it is made anew"))
        return True

    def _taken_away(self, action: Action) -> list[Ground]:
        """The interfaces that go, or may be made anew, in an action."""
        standing = self._of[action.job.id]
        if action.verb == "mend":
            # it is made anew when the other end is missing, which only a look into its namespace would tell
            return [ground for ground in standing if _is_there(ground, self._up.get(ground, 0))]
        old, new, move = action.wired, action.values, action.job.move
        if old is None or new is None or not (move.mode == "move" if move else in_place(old.connection, new)):
            return list(standing)
        stays = {(end.netns, end.ifname) for end in new.ends}
        return [ground for ground in standing if ground not in stays]

    def settled(self, id_: str) -> None:
        """See Guard.  What is still there may be had again."""
        grounds = self._holding.pop(id_, None)
        if grounds is None:
            return
        self._note(id_)  # a change that failed may have made its interfaces anew without a word
        for ground in grounds:
            if ground in self._up:
                self._attendance.keep(*ground)


_REASONS = {"remove": "it is being removed", "move": "it is moved", "mend": "its connection is mended"}


def _is_there(ground: Ground, index: int) -> bool:
    try:
        return ground[0] != "" or socket.if_nametoindex(ground[1]) == index
    except OSError:
        return False


def _facts(ifname: str) -> tuple[str, int]:
    """MAC and MTU of an interface here; ("", 0) if it is gone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            request = struct.pack("16s24x", ifname.encode())
            mac = fcntl.ioctl(s, SIOCGIFHWADDR, request)[18:24]
            (mtu,) = struct.unpack_from("i", fcntl.ioctl(s, SIOCGIFMTU, request), 16)
        except OSError:
            return "", 0
    return mac.hex(":"), mtu
