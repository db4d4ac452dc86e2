"""Which name or process a network namespace belongs to, by its inode number.

What was found once is looked at again for the price of one stat, so the walk through /proc is only for a number that
was never asked for; all that wait for one share it.
"""

from __future__ import annotations

import asyncio
import os

from fastnl.netns import RUN_NETNS


class Inodes:
    """For one loop."""

    def __init__(self) -> None:
        self._known: dict[int, str] = {}
        self._walk: asyncio.Task[None] | None = None

    def learn(self, inode: int, reference: str) -> None:
        """Prefers a reference that a connection has already, so that asking again changes nothing."""
        self._known[inode] = reference

    async def reference(self, inode: int) -> str | None:
        """A reference of the engine; None: neither a name nor a process has that namespace."""
        found = self._still(inode)
        joined = self._walk is not None
        if found is None:
            found = await self._look(inode)
        if found is None and joined:
            # that walk may have passed the process before it was there
            found = await self._look(inode)
        return found

    async def _look(self, inode: int) -> str | None:
        if self._walk is None:
            self._walk = asyncio.create_task(self._take_walk())
        await asyncio.shield(self._walk)
        return self._still(inode)

    async def _take_walk(self) -> None:
        try:
            found = await asyncio.to_thread(walk)
        finally:
            self._walk = None
        # what was learnt stays as long as it is true
        self._known = found | {inode: known for inode, known in self._known.items() if inode_of(known) == inode}

    def _still(self, inode: int) -> str | None:
        known = self._known.get(inode)
        return known if known is not None and inode_of(known) == inode else None


def walk() -> dict[int, str]:
    """Every namespace that can be named; by a name in /run/netns if it has one, else by its oldest process."""
    found: dict[int, str] = {}
    born: dict[int, int] = {}
    for pid in (name for name in os.listdir("/proc") if name.isdigit()):
        try:
            inode = os.stat(f"/proc/{pid}/ns/net").st_ino
            with open(f"/proc/{pid}/stat", "rb") as f:
                began = int(f.read().rpartition(b")")[2].split()[19])
        except (OSError, IndexError):
            continue  # it has ended meanwhile
        # the oldest is the one that the others come and go beside
        if began < born.get(inode, began + 1):
            born[inode], found[inode] = began, f"pid:{pid}"
    try:
        names = os.listdir(RUN_NETNS)
    except OSError:
        names = []
    for name in names:
        try:
            found[os.stat(f"{RUN_NETNS}/{name}").st_ino] = f"name:{name}"
        except OSError:
            continue
    return found


def inode_of(reference: str) -> int | None:
    """What a reference to a name, process or file means now."""
    kind, _, value = reference.partition(":")
    path = {"pid": f"/proc/{value}/ns/net", "name": f"{RUN_NETNS}/{value}"}.get(kind, value)
    try:
        return os.stat(path).st_ino
    except OSError:
        return None
