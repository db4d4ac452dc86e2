"""The connections of one generation: what was asked for, one at a time for each id, and what becomes of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import structlog

from fastnl_engine.adapters.nsm.errors import Refused, refuse
from fastnl_engine.adapters.nsm.inodes import Inodes
from fastnl_engine.adapters.nsm.pb.crossconnect_pb2 import CrossConnect
from fastnl_engine.adapters.nsm.translate import (
    Manners,
    Side,
    connection_of,
    kernel_sides,
    namespace_of,
    recall,
    remember,
)
from fastnl_engine.model import Record
from fastnl_engine.northbound.port import Port

log = structlog.get_logger()

T = TypeVar("T")


class Plane:
    """For one loop.

    known    what is wired, or was until something happened to it, by its id
    down     those of them that do not work
    changed  called with an id when its connection goes down, or is up again by itself
    """

    def __init__(
        self, port: Port, prefix: str, manners: Manners, inodes: Inodes, changed: Callable[[str], None]
    ) -> None:
        self.known: dict[str, CrossConnect] = {}
        self.down: set[str] = set()
        self.manners = manners
        self._port = port
        self._prefix = prefix
        self._inodes = inodes
        self._changed = changed
        self._records: dict[str, Record | None] = {}  # as the latest event had it
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}  # and how many hold it or wait for it
        self._tasks: set[asyncio.Task[Any]] = set()
        self._unlisten: Callable[[], None] = lambda: None

    async def begin(self) -> None:
        """Takes up what the engine has kept over its last end."""
        self._unlisten = self._port.listen(self._heard)
        for record in await self._port.records():
            id_ = record.id.removeprefix(self._prefix)
            connection = record.connection
            cross = recall(connection.labels)
            if cross is None:
                log.warning("not one of the mesh's connections, left alone", id=record.id)
                continue
            self.known[id_] = cross
            self._records.setdefault(id_, record)  # an event may have come meanwhile
            for end, place in zip((connection.a, connection.b), record.places, strict=False):
                if end is not None:
                    self._inodes.learn(place.netns.inode, end.netns)
            self._compare(id_)

    async def end(self) -> None:
        self._unlisten()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- what is asked for ---------------------------------------------------------------------------

    async def alone(
        self, id_: str, work: Callable[[], Coroutine[Any, Any, T]],
        undo: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> T:  # fmt: skip
        """Does work that belongs to one id after all that was begun before for it.

        It goes on when whoever asked goes away, so that nothing is left half done; what was new is undone then.
        """
        abandoned = False

        async def in_turn() -> T:
            async with self.turn(id_):
                new = id_ not in self.known
                result = await work()
                if abandoned and new and undo is not None:
                    await undo()
                return result

        task = self.spawn(in_turn())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            abandoned = True
            raise

    @contextlib.asynccontextmanager
    async def turn(self, id_: str) -> AsyncIterator[None]:
        lock, users = self._locks.get(id_) or (asyncio.Lock(), 0)
        self._locks[id_] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks[id_]
            if users == 1:
                del self._locks[id_]
                self._compare(id_)
            else:
                self._locks[id_] = (lock, users - 1)

    async def wire(self, id_: str, source: Side, destination: Side, cross: CrossConnect) -> None:
        """Makes the connection, or what it was into what it shall be.  Raises Refused, and nothing has changed then."""
        namespaces = [await self._namespace(side) for side in kernel_sides(source, destination)]
        labels = remember(cross)
        wanted = connection_of(self._prefix + id_, source, destination, namespaces, self.manners, labels)
        [answer] = await self._port.connect([wanted])
        if answer.error is not None:
            raise Refused(answer.error)
        record = answer.record
        if record is None or record.state != "up":
            # the engine would wait for the namespace; the mesh wants to know now
            await self._port.disconnect([self._prefix + id_])
            reason = record.reason if record is not None else "it was disconnected at the same time"
            raise Refused({"code": "netns_not_found", "message": reason})
        self.known[id_] = cross
        self.down.discard(id_)

    async def unwire(self, id_: str) -> CrossConnect | None:
        """Removes the connection; gives what it was.  Raises Refused when something of it could not be removed."""
        [answer] = await self._port.disconnect([self._prefix + id_])
        if answer.error is not None:
            raise Refused(answer.error)
        self.down.discard(id_)
        self._records.pop(id_, None)
        return self.known.pop(id_, None)

    async def _namespace(self, side: Side) -> str:
        asked = namespace_of(side)
        if isinstance(asked, str):
            return asked
        reference = await self._inodes.reference(asked)
        if reference is None:
            raise refuse(
                "netns_not_found", side.field("netnsInode"), f"neither a process nor a name has namespace {asked}"
            )
        return reference

    # -- what happens by itself ----------------------------------------------------------------------

    def _heard(self, news: Sequence[tuple[str, Record | None]]) -> None:
        for id_, record in news:
            short = id_.removeprefix(self._prefix)
            self._records[short] = record
            if short not in self._locks:  # else it is compared at the end of that
                self._compare(short)

    def _compare(self, id_: str) -> None:
        """Tells when a connection is not any more what was told of it last."""
        if id_ not in self.known:
            self._records.pop(id_, None)
            return
        record = self._records.get(id_)
        up = record is not None and record.state == "up"
        if up == (id_ in self.down):
            (self.down.discard if up else self.down.add)(id_)
            self._changed(id_)
        if record is not None and record.state == "pending":
            self.spawn(self._clean_up(id_, record))

    async def _clean_up(self, id_: str, record: Record) -> None:
        """A namespace has gone.  One of that name that comes later is not the one that was asked for."""
        async with self.turn(id_):
            if self._records.get(id_) is not record:
                return
            [answer] = await self._port.disconnect([record.id])
            if answer.error is not None:
                log.warning("what a namespace left could not be removed", id=id_, **answer.error)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waits for it has it; nobody may be waiting any more
