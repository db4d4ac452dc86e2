"""Which name or process a network namespace belongs to, by its inode number.

What was found once is looked at again for the price of one stat, so the walk through /proc is only for a number that
was never asked for; all that wait for one share it.  Where a client has passed a descriptor there is none, and the
namespace may be one that nobody in sight has.
"""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict

from fastnl.errors import FastnlError
from fastnl.netns import RUN_NETNS, handle_reference, open_reference

PASSED = 4096  # namespaces whose handles are remembered
LATE = 1.0  # seconds that a descriptor may come after the request that it belongs to


class Inodes:
    """For one loop."""

    def __init__(self) -> None:
        self._known: dict[int, str] = {}
        self._walk: asyncio.Task[None] | None = None
        self._handles: OrderedDict[int, str] = OrderedDict()  # of what was passed; the longest not used comes first
        self._arrival = asyncio.Event()

    def learn(self, inode: int, reference: str) -> None:
        """Prefers a reference that a connection has already, so that asking again changes nothing."""
        self._known[inode] = reference

    def passed(self, fd: int) -> None:
        """A client or the next hop has passed a descriptor; which namespace it is stays known."""
        reference = handle_reference(fd)
        if reference is None:
            return
        inode = inode_of(reference)
        if inode is None:
            return
        self._handles[inode] = reference
        self._handles.move_to_end(inode)
        if len(self._handles) > PASSED:
            self._handles.popitem(last=False)
        self._arrival.set()
        self._arrival = asyncio.Event()

    async def reference(self, inode: int, *, may_be_passed: bool = False) -> str | None:
        """A reference of the engine; None: neither a name nor a process has that namespace, and nobody has passed it.

        may_be_passed  waits a moment for a descriptor, if there ever were any
        """
        found = self._still(inode) or self._handle(inode)
        joined = self._walk is not None
        if found is None:
            found = await self._look(inode) or self._handle(inode)
        if found is None and joined:
            # that walk may have passed the process before it was there
            found = await self._look(inode)
        if found is None and may_be_passed and self._handles:
            found = await self._wait_for(inode)
        return found

    async def _wait_for(self, inode: int) -> str | None:
        try:
            async with asyncio.timeout(LATE):
                while (found := self._handle(inode)) is None:
                    await self._arrival.wait()
        except TimeoutError:
            return None
        return found

    def _handle(self, inode: int) -> str | None:
        reference = self._handles.get(inode)
        if reference is None or inode_of(reference) != inode:
            return None
        self._handles.move_to_end(inode)
        self._known[inode] = reference
        return reference

    async def _look(self, inode: int) -> str | None:
        if self._walk is None:
            self._walk = asyncio.create_task(self._take_walk())
        await asyncio.shield(self._walk)
        return self._still(inode)

    async def _take_walk(self) -> None:
        known = self._known.copy()

        def look() -> dict[int, str]:
            # what was learnt stays as long as it is true
            return walk() | {inode: reference for inode, reference in known.items() if inode_of(reference) == inode}

        try:
            found = await asyncio.to_thread(look)
        finally:
            self._walk = None
        # and so does what was learnt meanwhile
        self._known = found | {i: reference for i, reference in self._known.items() if reference != known.get(i)}

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
    """What a reference to a name, process, file or handle means now."""
    kind, _, value = reference.partition(":")
    if kind == "inode":
        try:
            fd = open_reference(reference)
        except FastnlError:
            return None
        try:
            return os.fstat(fd).st_ino
        finally:
            os.close(fd)
    path = {"pid": f"/proc/{value}/ns/net", "name": f"{RUN_NETNS}/{value}"}.get(kind, value)
    try:
        return os.stat(path).st_ino
    except OSError:
        return None
