"""AF_PACKET interfaces of others, which stand on host interfaces: after them, never without them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fastnl_engine.northbound.ligato.model import AfPacket
from fastnl_engine.northbound.ligato.status import Verdict


@dataclass(frozen=True, slots=True)
class Dependent:
    """An AF_PACKET interface of somebody else and what it stands on.

    connection   the engine's connection that has the host interface, "" while none is to have it; end "a" or "b"
    """

    name: str
    host_if_name: str
    enabled: bool
    connection: str = ""
    end: str = ""


class Dependents:
    """Which there are, which have to be looked at again, and which changed."""

    def __init__(self) -> None:
        self._packets: dict[str, AfPacket] = {}
        self._standing: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._dirty: set[str] = set()
        self._found: dict[str, Dependent] = {}
        self._changed: dict[str, Dependent | None] = {}

    def configure(self, name: str, packet: AfPacket | None) -> None:
        """None: it is gone, or what is configured is invalid."""
        old = self._packets.pop(name, None)
        if old is not None:
            self._standing[_ground(old)].discard(name)
            if not self._standing[_ground(old)]:
                del self._standing[_ground(old)]
        if packet is not None:
            self._packets[name] = packet
            self._standing[_ground(packet)].add(name)
        self._dirty.add(name)

    def touch(self, kind: str, name: str) -> None:
        """Something about a "host" interface, by its name in the kernel, or an "interface", by its own, changed."""
        if (kind, name) in self._standing:
            self._dirty |= self._standing[kind, name]

    def work(self, stand: Callable[[AfPacket], tuple[Dependent, Verdict]]) -> Iterator[tuple[str, Verdict | None]]:
        """Finds out for all that may have changed what they stand on, and tells the verdict on each."""
        dirty, self._dirty = self._dirty, set()
        for name in dirty:
            packet, before = self._packets.get(name), self._found.pop(name, None)
            found, verdict = stand(packet) if packet is not None else (None, None)
            if found is not None:
                self._found[name] = found
            if found != before:
                self._changed[name] = found
            yield name, verdict

    def take_changes(self) -> dict[str, Dependent | None]:
        out, self._changed = self._changed, {}
        return out

    def all(self) -> dict[str, Dependent]:
        return dict(self._found)


def _ground(packet: AfPacket) -> tuple[str, str]:
    return ("interface", packet.linux_interface) if packet.linux_interface else ("host", packet.host_if_name)
