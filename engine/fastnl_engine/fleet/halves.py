"""What this host has to make: each half of half/<host>/ becomes a connection of the engine, and is gone when its key
says so.

Absence is no instruction.  A key that is not there any more, because etcd was emptied or put back to an older copy,
takes nothing away: what is up stays up, as a stray.  Only a half that says so, or a host that was removed, has
interfaces removed.  So nothing happens either before the first complete read, however long etcd is away.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any

import msgspec
import structlog

from fastnl_engine.backoff import Backoff
from fastnl_engine.fleet.keys import Keys
from fastnl_engine.fleet.local import PREFIX, Unreachable, connection_here, told_of
from fastnl_engine.fleet.membership import Membership
from fastnl_engine.fleet.records import Half, Outcome, decode
from fastnl_engine.fleet.reports import Report, Reports
from fastnl_engine.judgement import ends_of
from fastnl_engine.kv.base import KV, KVError
from fastnl_engine.kv.mirror import Changes, Mirror
from fastnl_engine.model import Record
from fastnl_engine.northbound.port import Answer, Port

PART = 64  # halves that the engine is asked for in one go
FLYING = 4  # such parts that it is asked for at once

log = structlog.get_logger()


class Halves:
    """wanted   what this host has to have, by id
    records  what its engine has

    on_vni_in_use(id, half) is called when this host's kernel has the number of a half for something else; gives
    whether there will be another one.
    """

    def __init__(self, kv: KV, keys: Keys, port: Port, membership: Membership, reports: Reports, underlay: str) -> None:
        self._kv = kv
        self._keys = keys
        self._port = port
        self._membership = membership
        self._reports = reports
        self._underlay = underlay
        self.wanted: dict[str, Half] = {}
        self.records: dict[str, Record] = {}
        self.on_vni_in_use: Callable[[str, Half], Awaitable[bool]]
        self._revisions: dict[str, int] = {}
        self._of_peer: dict[str, set[str]] = defaultdict(set)
        self._due: dict[str, None] = {}  # in the order in which they came
        self._busy: set[str] = set()
        self._meanwhile: dict[str, Record | None] = {}  # what was heard of those last
        self._news = asyncio.Event()
        self._backoff = Backoff()
        self._read = asyncio.Event()
        self._away: set[str] = set()  # hosts that halves have been told of

    @property
    def strays(self) -> set[str]:
        """What is up here without a key that says so."""
        return self.records.keys() - self.wanted.keys() if self._read.is_set() else set()

    async def run(self) -> None:
        deaf = self._port.listen(self._heard)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow())
                group.create_task(self._work())
        finally:
            deaf()

    # -- from etcd -------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        await self._membership.ready.wait()
        prefix = self._keys.halves(self._membership.name)
        for record in await self._port.records():
            self.records.setdefault(_id(record), record)
        outcomes = await self._outcomes()
        async with Mirror(self._kv, prefix) as mirror:
            async for changes in mirror:
                self._take(changes, prefix)
                if not self._read.is_set():
                    self._read.set()
                    self._reports.told |= outcomes
                    log.info("halves read", halves=len(self.wanted), strays=len(self.strays))
                    for id_ in self.strays:
                        log.warning("stray", id=PREFIX + id_)
                    self.alive_changed(list(self._of_peer))  # some went away before this host listened

    async def _outcomes(self) -> dict[str, Outcome]:
        """What was told of this host before."""
        prefix = self._keys.outcomes(self._membership.name)
        # the same patience as a watch has
        async with contextlib.aclosing(self._kv.watch(prefix)) as batches:
            async for batch in batches:
                return {e.key.removeprefix(prefix): o for e in batch.events if (o := decode(Outcome, e.entry))}
        return {}

    def _take(self, changes: Changes, prefix: str) -> None:
        for change in changes.changes:
            id_ = change.key.removeprefix(prefix)
            half = decode(Half, change.new)
            before = self.wanted.pop(id_, None)
            if before is not None:
                self._of_peer[before.peer].discard(id_)
            if change.old is None or change.new is None or change.old.create_revision != change.new.create_revision:
                self._reports.told.pop(id_, None)  # of one that had the name before
            self._reports.forget(id_)
            self._backoff.forget(id_)
            if half is None or change.new is None:
                self._revisions.pop(id_, None)
                # of one that was to go this is the end; of any other it is no instruction
                if before is not None and not before.removing:
                    log.warning("half has vanished from etcd", id=PREFIX + id_)
                continue
            self.wanted[id_] = half
            self._revisions[id_] = change.new.mod_revision
            if half.peer:
                self._of_peer[half.peer].add(id_)
            self._want(id_)

    def _want(self, id_: str) -> None:
        self._due[id_] = None
        self._news.set()

    def hosts_changed(self, hosts: Collection[str]) -> None:
        """Other addresses or MTUs: of this host, every tunnel is another one."""
        here = self._membership.name in hosts
        for id_ in list(self.wanted) if here else [i for h in hosts for i in self._of_peer.get(h, ())]:
            self._want(id_)

    def alive_changed(self, hosts: Collection[str]) -> None:
        """Tells of connections whose other host went away, or came back."""
        for host in hosts:
            gone = host not in self._membership.alive
            if gone == (host in self._away):
                continue
            (self._away.add if gone else self._away.discard)(host)
            up = [i for i in self._of_peer.get(host, ()) if i in self.records and self.records[i].state == "up"]
            if host != self._membership.name and up:
                log.log(30 if gone else 20, "host is away" if gone else "host is back", host=host, connections=len(up))
                told = {"state": "degraded", "was": "up", "reason": f"host {host} is away"}
                if not gone:
                    told = {"state": "up", "was": "degraded"}
                self._port.tell("degraded" if gone else "up", [{"id": PREFIX + id_, **told} for id_ in up])

    # -- to the engine ---------------------------------------------------------------------------------

    async def _work(self) -> None:
        flying = asyncio.Semaphore(FLYING)
        async with asyncio.TaskGroup() as group:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._backoff.timeout):
                        await self._news.wait()
                await asyncio.sleep(0)  # what comes together goes together
                self._news.clear()
                await self._membership.ready.wait()
                for id_ in self._backoff.due():
                    self._due[id_] = None
                while part := [id_ for id_, _ in zip(self._ready(), range(PART), strict=False)]:
                    for id_ in part:
                        del self._due[id_]
                    self._busy.update(part)
                    await flying.acquire()
                    group.create_task(self._part(part)).add_done_callback(lambda _: flying.release())

    def _ready(self) -> Iterable[str]:
        return (id_ for id_ in self._due if id_ not in self._busy)

    async def _part(self, ids: list[str]) -> None:
        """Brings some halves to what is wanted of them now."""
        peers = {half.peer for id_ in ids if (half := self.wanted.get(id_)) is not None and half.peer}
        if strange := sorted(peers - self._membership.hosts.keys()):
            # it has just come, and the desk knew of it sooner
            with contextlib.suppress(KVError):
                await self._membership.catch_up(strange)
        gone: dict[str, Half] = {}
        made: dict[str, Half] = {}
        items: list[dict[str, Any]] = []
        revisions = {id_: self._revisions.get(id_, 0) for id_ in ids}
        for id_ in ids:
            half = self.wanted.get(id_)
            if half is None:
                continue
            if half.removing:
                gone[id_] = half
                continue
            try:
                assert self._membership.here is not None
                peer = self._membership.hosts.get(half.peer)
                there = connection_here(id_, half, self._membership.here, peer, self._underlay)
            except (Unreachable, msgspec.ValidationError) as e:
                error = {"code": "kernel", "message": str(e), "phase": "create"}
                self._reports.put(id_, Report(half, revisions[id_], Outcome(half.generation, "failed", error=error)))
                self._backoff.put(id_)
                continue
            made[id_] = half
            items.append(msgspec.to_builtins(there))
        left, came = await asyncio.gather(
            self._port.disconnect([PREFIX + id_ for id_ in gone]), self._port.connect(items)
        )
        self._busy.difference_update(ids)
        for (id_, half), answer in zip(gone.items(), left, strict=True):
            self._settled(id_, answer)
            if answer.error is not None:
                await self._failed(id_, half, revisions[id_], answer.error)
            elif self._revisions.get(id_) == revisions[id_]:
                self._reports.put(id_, Report(half, revisions[id_], Outcome(half.generation, "gone")))
        for (id_, half), answer in zip(made.items(), came, strict=True):
            self._settled(id_, answer)
            await self._answered(id_, half, revisions[id_], answer)
        if self._due:
            self._news.set()

    def _settled(self, id_: str, answer: Answer) -> None:
        heard = self._meanwhile.pop(id_, answer.record)
        self._note(id_, answer.record)
        if heard is not answer.record:
            self._want(id_)  # it has changed since, or had before: whichever, it is looked at once more

    async def _answered(self, id_: str, half: Half, revision: int, answer: Answer) -> None:
        if self._revisions.get(id_) != revision:
            return  # it is another half by now, and that is due
        if answer.error is not None:
            await self._failed(id_, half, revision, answer.error)
        elif answer.record is not None:
            self._backoff.forget(id_)
            self._reports.put(id_, Report(half, revision, outcome_of(half, answer.record)))

    async def _failed(self, id_: str, half: Half, revision: int, error: dict[str, Any]) -> None:
        if self._revisions.get(id_) != revision:
            return
        tries, _ = self._backoff.attempts(id_)
        self._backoff.put(id_)
        self._news.set()  # the wait is another one now
        if error["code"] == "vni_in_use" and tries < 1:
            return  # one whose namespace has just gone keeps its number for a moment
        if error["code"] == "vni_in_use" and await self.on_vni_in_use(id_, half):
            return
        outcome = Outcome(half.generation, "failed", error=told_of(half, error))
        self._reports.put(id_, Report(half, revision, outcome))

    # -- from the engine -------------------------------------------------------------------------------

    def _heard(self, news: list[tuple[str, Record | None]]) -> None:
        for local, record in news:
            id_ = local.removeprefix(PREFIX)
            self._note(id_, record)
            half = self.wanted.get(id_)
            if id_ in self._busy:
                self._meanwhile[id_] = record  # a part that is on its way tells itself
            elif half is None or half.removing or id_ in self._due:
                continue
            elif record is None:
                # somebody disconnected it here, not knowing that the fleet wants it
                self._want(id_)
            elif half.generation == self._reports.generation(id_):
                self._reports.put(id_, Report(half, self._revisions[id_], outcome_of(half, record)))

    def _note(self, id_: str, record: Record | None) -> None:
        if record is None:
            self.records.pop(id_, None)
        else:
            self.records[id_] = record

    # -- this host was removed -------------------------------------------------------------------------

    async def take_all_away(self) -> bool:
        """Whether nothing of the fleet is in this host's kernel any more; if something is, call it again."""
        # what its keys said until now is void; parts that are on their way may still make something of it
        self.wanted.clear()
        self._revisions.clear()
        self._due.clear()
        self._of_peer.clear()
        if self._busy:
            return False
        ids = [record.id for record in await self._port.records()]
        answers = await self._port.disconnect(ids)
        for id_, answer in zip(ids, answers, strict=True):
            self._note(id_.removeprefix(PREFIX), answer.record)
            if answer.error is not None:
                log.error("not removed", id=id_, reason=answer.error["message"])
        return all(answer.error is None for answer in answers)


def outcome_of(half: Half, record: Record) -> Outcome:
    """How a half stands, with the ends as the connection has them: the only end of a half is `a` here."""
    there = ends_of(record)
    names = [name for name, end in (("a", half.a), ("b", half.b)) if end is not None]
    ends = {name: there[at] for name, at in zip(names, "ab", strict=False) if at in there}
    state = "failed" if record.state == "removing" else record.state
    reason = told_of(half, {"reason": record.reason})["reason"]
    return Outcome(half.generation, state, ends, reason, told_of(half, record.error) if record.error else None)


def _id(record: Record) -> str:
    return record.id.removeprefix(PREFIX)
