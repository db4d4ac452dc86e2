"""Which host interfaces are there that dependents stand on: those of the engine's connections, and others'."""

from __future__ import annotations

import fcntl
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from fastnl_engine.engine import Engine
from fastnl_engine.northbound.dependents import Attendance, Dependent, Ground

SIOCGIFMTU, SIOCGIFHWADDR = 0x8921, 0x8927  # include/uapi/linux/sockios.h
LOOK = 1.0  # seconds between looks for interfaces that are not the engine's


class Grounds:
    """Tells an Attendance of the interfaces that it has dependents on, and of no others.  For the gateway's thread.

    An interface in the engine's own namespace that no connection has is looked for by its name.
    """

    def __init__(self, engine: Engine, attendance: Attendance) -> None:
        self._engine = engine
        self._attendance = attendance
        self._standing: dict[str, Ground] = {}  # dependent -> what it stands on
        self._up: dict[Ground, int] = {}  # index of those that are there
        self._of: dict[str, set[Ground]] = {}  # by connection
        self._next_look = 0.0
        engine.listeners.append(self._heard)

    def configure(self, dependent: Dependent) -> None:
        self._attendance.configure(dependent)
        self._standing[dependent.name] = dependent.ground
        self._look(dependent.ground)

    def unconfigure(self, name: str) -> None:
        self._attendance.unconfigure(name)
        ground = self._standing.pop(name, None)
        if ground is not None and ground not in self._standing.values():
            self._up.pop(ground, None)
            self._attendance.gone(*ground, "nothing stands on it any more")

    def turn(self) -> None:
        """Looks for others' interfaces when it is time."""
        now = time.monotonic()
        if self._standing and now >= self._next_look:
            self._next_look = now + LOOK
            for ground in set(self._standing.values()):
                if self._engine.claims.owner(*ground) is None:
                    self._look(ground)

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
        if of == "connection" and (self._standing or self._of):
            self._note(fields["id"], str(fields.get("reason", "")))

    def _note(self, id_: str, reason: str = "") -> None:
        """Takes in how the ends of a connection are now."""
        record = self._engine.records.get(id_)
        now: dict[Ground, int] = {}
        if record is not None and record.state == "up":
            standing = set(self._standing.values())
            ends = (record.connection.a, record.connection.b)
            for end, place in zip(ends, record.places, strict=False):
                if end is not None and (end.netns, end.ifname) in standing:
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

    def release(self, ground: Ground, released: Callable[[], None], reason: str) -> None:
        """Calls `released` once nothing stands on an interface any more, or it has taken too long."""
        if ground in self._up:
            self._attendance.hold(*ground, released, reason)
        else:
            released()

    def settled(self, ground: Ground) -> None:
        """What an interface was to be released for has been done, or was not: one that is there may be had again."""
        if ground in self._up:
            self._attendance.keep(*ground)


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
