"""The connections of one generation: what was asked for, one at a time for each id, and what becomes of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import structlog

from fastnl_engine.adapters.nsm.counters import Counts, Sides
from fastnl_engine.adapters.nsm.errors import Refused, refuse
from fastnl_engine.adapters.nsm.inodes import Inodes, inode_of
from fastnl_engine.adapters.nsm.pb.crossconnect_pb2 import CrossConnect
from fastnl_engine.adapters.nsm.policies import Tables
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
    broken   called with what must not happen, where nobody waits for an answer
    counts   what has gone through each, as it was read last
    told_of_counts  called with the ids of those that have changed
    """

    def __init__(
        self, port: Port, prefix: str, manners: Manners, inodes: Inodes, changed: Callable[[str], None],
        broken: Callable[[BaseException], None], tables: Tables,
        told_of_counts: Callable[[list[str]], None],
    ) -> None:  # fmt: skip
        self.known: dict[str, CrossConnect] = {}
        self.down: set[str] = set()
        self.counts: dict[str, Sides] = {}
        self.manners = manners
        self._port = port
        self._prefix = prefix
        self._inodes = inodes
        self._changed = changed
        self._told_of_counts = told_of_counts
        self._broken = broken
        self._tables = tables
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
                    for rule in end.rules:
                        self._tables.add(place.netns.inode, rule.table, record.id)
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
        whole = self._prefix + id_
        had = self._tables.of(whole)
        inode = (inode_of(namespaces[0]) or 0) if source.context.ip_context.policies else 0
        try:
            table_of = self._tables.choose(inode, whole)
            wanted = connection_of(whole, source, destination, namespaces, self.manners, labels, table_of)
            [answer] = await self._port.connect([wanted])
        except BaseException:
            self._tables.keep(whole, had)
            raise
        refused = answer.error is not None
        self._tables.keep(whole, had if refused else [(inode, rule["table"]) for rule in wanted["a"].get("rules", ())])
        if answer.error is not None:
            raise Refused(answer.error)
        record = answer.record
        if record is None or record.state != "up":
            # the engine would wait for the namespace; the mesh wants to know now
            await self._port.disconnect([self._prefix + id_])
            reason = record.reason if record is not None else "it was disconnected at the same time"
            raise Refused({"code": "netns_not_found", "message": reason})
        was = self.known.get(id_)
        if was is not None and _kinds(was) != _kinds(cross):
            self.counts.pop(id_, None)  # a tunnel has one end less
        self.known[id_] = cross
        self.down.discard(id_)

    async def unwire(self, id_: str) -> CrossConnect | None:
        """Removes the connection; gives what it was.  Raises Refused when something of it could not be removed."""
        [answer] = await self._port.disconnect([self._prefix + id_])
        if answer.error is not None:
            raise Refused(answer.error)
        self._tables.keep(self._prefix + id_, ())
        self.down.discard(id_)
        self._records.pop(id_, None)
        self.counts.pop(id_, None)
        return self.known.pop(id_, None)

    async def _namespace(self, side: Side) -> str:
        asked = namespace_of(side)
        if isinstance(asked, str):
            return asked
        by_url = bool(side.parameter("inodeURL"))
        reference = await self._inodes.reference(asked, may_be_passed=by_url)
        if reference is None:
            raise refuse(
                "netns_not_found", side.field("inodeURL" if by_url else "netnsInode"),
                f"neither a process nor a name has namespace {asked}, and no descriptor of it was passed, which is of "
                "use on Linux 6.18 and later",
            )  # fmt: skip
        return reference

    # -- what went through ---------------------------------------------------------------------------

    def records(self) -> list[tuple[str, Record]]:
        """Of what is up, by id."""
        return [(i, r) for i, r in self._records.items() if r is not None and r.state == "up" and i in self.known]

    def counted(self, found: Sequence[tuple[str, int, Counts]]) -> None:
        """What has been read of ends, by id and 0 or 1; tells of what is another one than before."""
        changed: dict[str, None] = {}
        for id_, end, counts in found:
            if id_ not in self.known:
                continue  # it was closed meanwhile
            sides = self.counts.setdefault(id_, [None, None])
            if sides[end] != counts:
                sides[end] = counts
                changed[id_] = None
        if changed:
            self._told_of_counts(list(changed))

    # -- what happens by itself ----------------------------------------------------------------------

    def _heard(self, news: Sequence[tuple[str, Record | None]]) -> None:
        try:
            for id_, record in news:
                short = id_.removeprefix(self._prefix)
                self._records[short] = record
                if short not in self._locks:  # else it is compared at the end of that
                    self._compare(short)
        except Exception as e:
            self._broken(e)

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
            self.spawn(self._clean_up(id_, record), alone=True)

    async def _clean_up(self, id_: str, record: Record) -> None:
        """A namespace has gone.  One of that name that comes later is not the one that was asked for."""
        async with self.turn(id_):
            if self._records.get(id_) is not record:
                return
            [answer] = await self._port.disconnect([record.id])
            if answer.error is not None:
                log.warning("what a namespace left could not be removed", id=id_, **answer.error)

    def spawn(self, work: Coroutine[Any, Any, T], *, alone: bool = False) -> asyncio.Task[T]:
        """alone  nobody waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)

        def finished(task: asyncio.Task[T]) -> None:
            self._tasks.discard(task)
            # whoever waits for it has its exception; of what is refused there may be nobody any more
            problem = None if task.cancelled() else task.exception()
            if alone and problem is not None:
                self._broken(problem)

        task.add_done_callback(finished)
        return task


def _kinds(cross: CrossConnect) -> tuple[str, str]:
    return cross.source.mechanism.type, cross.destination.mechanism.type
