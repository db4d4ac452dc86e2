"""Keeps the engine as the configuration in a store says, and tells the store what became of each value.

    store --changes--> compiler --connections--> engine --records--> statuses --> store

What has come while a burst was being worked through is the next burst, so that what changes together goes together.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any

import structlog

import fastnl
from fastnl_engine.backoff import Backoff
from fastnl_engine.config import Ligato
from fastnl_engine.kv.base import KV, Denied
from fastnl_engine.kv.mirror import Changes, Mirror
from fastnl_engine.model import Connection, Record
from fastnl_engine.northbound.dependents import Dependent
from fastnl_engine.northbound.ligato import dependents, foreign, keys, made
from fastnl_engine.northbound.ligato.compile import Compiler, Desired
from fastnl_engine.northbound.ligato.interfaces import Interfaces
from fastnl_engine.northbound.ligato.made import Made
from fastnl_engine.northbound.ligato.publish import Publisher
from fastnl_engine.northbound.ligato.status import INVALID, Verdict, blamed, settle
from fastnl_engine.northbound.port import Answer, Port

PREFIX = "ligato/"  # of the ids of connections
PACE = 0.01  # seconds between two bursts while the engine is at work: many go together, and a lone change does not wait
PART = 64  # connections that are submitted in one go; the engine is at work on them while the next are made up
GATHER = 0.05  # seconds that a status waits for others to be worked out and written with it
PATIENCE = 3.0  # seconds at most that it waits for the engine to have answered everything
STATUSES = 256  # that are worked out in one go: changes come in between
# errors with which the engine leaves a connection where it was, and configuration wants it nowhere for now
HOMELESS = ("netns_not_found", *INVALID)
DENIED = 5.0  # seconds until what was forbidden is asked for again

log = structlog.get_logger()


class Service:
    """One agent's configuration.  `run` does all of it, until it is cancelled.

    kv      where it is
    port    into the engine, for connections whose ids begin with PREFIX
    host    to look at interfaces with
    made    namespaces that were made; only where the settings say so
    """

    def __init__(self, kv: KV, port: Port, host: fastnl.Host, settings: Ligato, made: Made) -> None:
        self._kv = kv
        self._port = port
        self._host = host
        self._settings = settings
        self._made = made
        self.compiler = Compiler(settings.label)
        self._publisher = Publisher(kv, settings.status_lease)
        self._interfaces = Interfaces(host, port, settings.statistics, self._tell, self._is_busy)

        self._news = asyncio.Event()
        self._unread = {keys.prefix(settings.label) + prefix for prefix in keys.CONFIGURATION}
        self._began = False

        self._wanted: dict[str, Desired] = {}
        self._left = set(made.names)  # namespaces that what was wanted needed: some may have been made
        self._asked: dict[str, int] = {}  # by id: number of the last submission that has no answer yet
        self._submissions = 0
        self._refused: dict[str, dict[str, Any]] = {}  # by id: why the engine does not do what is wanted
        self._backoff = Backoff()
        self._records: dict[str, Record] = {}

        self._verdicts: dict[str, Verdict] = {}  # by key
        self._concerned: dict[str, set[str]] = defaultdict(set)  # keys of values, by the connection that they are in
        self._pending: set[str] = set()  # connections whose namespaces may have to be made
        self._standing: dict[str, tuple[str, str]] = {}  # by dependent: namespace and name of what it stands on
        self._alone: set[str] = set()  # connections that the engine may have to wait for consumers with
        self._stale: set[str] = set()  # keys of values whose status may be another one now
        self._batches: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        deaf = self._port.listen(self._heard)
        try:
            async with asyncio.TaskGroup() as group:
                for prefix in tuple(self._unread):
                    group.create_task(self._follow(prefix), name=f"follow {prefix}")
                group.create_task(self._publisher.run(), name="statuses")
                group.create_task(self._interfaces.run(), name="interfaces")
                group.create_task(self._work(), name="work")
        finally:
            deaf()
            for batch in self._batches:
                batch.cancel()

    # -- from the store ------------------------------------------------------------------------------

    async def _follow(self, prefix: str) -> None:
        """Takes in what is under a prefix, for ever; while the store is away all stays as it is."""
        known: set[str] = set()
        while True:
            mirror = Mirror(self._kv, prefix)
            try:
                async with mirror:
                    async for changes in mirror:
                        # what went while it was forbidden is not among the changes of a new mirror
                        for key in known - mirror.contents.keys():
                            self.compiler.delete(key)
                        known.clear()
                        self._take(prefix, changes)
            except Denied as e:
                known |= mirror.contents.keys()
                log.error("configuration may not be read", prefix=prefix, reason=str(e))
                await asyncio.sleep(DENIED)

    def _take(self, prefix: str, changes: Changes) -> None:
        for change in changes.changes:
            if change.new is None:
                self.compiler.delete(change.key)
            else:
                self.compiler.put(change.key, change.new.value, change.new.create_revision)
        self._unread.discard(prefix)
        self._news.set()

    # -- to the engine -------------------------------------------------------------------------------

    async def _work(self) -> None:
        clock = asyncio.get_running_loop().time
        last = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._backoff.timeout):
                    await self._news.wait()
            await asyncio.sleep(last + PACE - clock() if self._is_busy() else 0)
            last = clock()
            self._news.clear()
            if self._unread:
                continue  # part of the configuration says nothing of what is obsolete
            again = self._backoff.due()
            for name in again:
                self.compiler.bar(name, None)  # a key, else the compiler does not know it
            changes = self.compiler.changes()
            if not self._began:
                self._began = True
                changes = await self._begin(changes)
            self._depend(self.compiler.dependents())
            for key, verdict in self.compiler.statuses().items():
                self._judge(key, verdict)
            if self._pending:
                pending, self._pending = self._pending, set()
                await self._make(_references(self._wanted[id] for id in pending if id in self._wanted))
            due = {id: self._wanted.get(id) for id in again if id.startswith(PREFIX) and id not in changes}
            await self._submit(due | changes)

    async def _begin(self, changes: dict[str, Desired | None]) -> dict[str, Desired | None]:
        """Looks at what an earlier run has left; gives the changes with what is obsolete among them."""
        obsolete: dict[str, Desired | None] = {}
        for record in await self._port.records():
            self._records[record.id] = record
            if record.id not in changes:
                obsolete[record.id] = None
        if self._settings.adopt_ligato:
            # what we have already is ours already
            new = [wanted for id, wanted in changes.items() if wanted and id not in self._records]
            taken = await asyncio.to_thread(foreign.take_over, self._host, new, self._settings.label)
            self._port.adopt([(wanted, taken.adopted[wanted["id"]]) for wanted in new if wanted["id"] in taken.adopted])
            log.info("interfaces of a Ligato taken over", connections=len(taken.adopted), removed=taken.removed)
        log.info("configuration read", connections=len(changes), obsolete=len(obsolete))
        return obsolete | changes

    async def _submit(self, changes: dict[str, Desired | None]) -> None:
        """Has the engine do what is wanted now; in order, and without waiting for what comes of it."""
        for id, wanted in changes.items():
            before = self._wanted.pop(id, None)
            if before is not None and self._settings.create_missing:
                self._left.update(_references([before]))
            if wanted is not None:
                self._wanted[id] = wanted
        if self._settings.create_missing:
            await self._make(_references(filter(None, changes.values())))
        items = []
        standing = set(self._standing.values())
        for id, wanted in changes.items():
            if id in self._alone:
                continue  # what is wanted when it is done is what counts
            if standing and id in self._records and not standing.isdisjoint(_names(self._records[id].connection)):
                self._alone.add(id)
                self._start(self._by_itself(id))
            else:
                items.append((id, wanted))
        for at in range(0, len(items), PART):
            self._start(self._batch(items[at : at + PART]))
            await asyncio.sleep(0)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        batch = asyncio.create_task(work)
        self._batches.add(batch)
        batch.add_done_callback(self._batches.discard)

    async def _by_itself(self, id: str) -> None:
        """Has a connection brought to what is wanted of it while nothing else waits for that."""
        done: Sequence[Desired | None] = ()
        while not done or done[0] != self._wanted.get(id):
            done = [self._wanted.get(id)]
            await self._batch([(id, done[0])])
        self._alone.discard(id)

    async def _batch(self, items: Sequence[tuple[str, Desired | None]]) -> None:
        self._submissions += 1
        number = self._submissions
        self._asked |= {id: number for id, _ in items}
        gone = [id for id, wanted in items if wanted is None]
        wanted = [wanted for _, wanted in items if wanted is not None]
        if gone and wanted:
            # both are on their way before either is waited for
            left, came = await asyncio.gather(self._port.disconnect(gone), self._port.connect(wanted))
            answers = left + came
        else:
            answers = await (self._port.disconnect(gone) if gone else self._port.connect(wanted))
        freed = False
        homeless: list[str] = []
        for id, answer in zip(gone + [w["id"] for w in wanted], answers, strict=True):
            freed |= answer.changed
            stands = id in self._records and self._records[id].state == "up"
            self._answered(id, number, answer)
            if stands and id not in self._asked and self._refused.get(id, {}).get("code") in HOMELESS:
                homeless.append(id)
        in_the_way = homeless or (not freed and self._knot())
        if in_the_way:
            for id, answer in zip(in_the_way, await self._port.disconnect(in_the_way), strict=True):
                freed |= answer.changed
                self._note(id, answer.record)
        again = [(id, self._wanted[id]) for id in homeless if id in self._wanted and id not in self._asked]
        if again:
            await self._batch(again)
        if freed:
            self._try_again()
            if self._settings.create_missing:
                await self._let_go()

    def _answered(self, id: str, number: int, answer: Answer) -> None:
        if self._asked.get(id) != number:
            return  # of what was wanted before
        del self._asked[id]
        if answer.error is None:
            self._refused.pop(id, None)
            for name in (id, *self._concerned.get(id, ())):
                self._backoff.forget(name)
        elif self._barred(id, answer.error):
            self._refused.pop(id, None)
        else:
            self._refused[id] = answer.error
            self._backoff.put(id)
            self._news.set()  # the wait is another one now
        self._note(id, answer.record)

    def _barred(self, id: str, error: Mapping[str, Any]) -> bool:
        """Leaves out the route or neighbour that is why a connection failed, and has the rest of it made at once."""
        for key in self._concerned.get(id, ()):
            verdict = blamed(self._verdicts[key], error)
            if verdict is not None:
                self.compiler.bar(key, verdict)
                self._backoff.put(key)
                self._news.set()
                return True
        return False

    def _knot(self) -> list[str]:
        """Connections of ours that have the names that others of ours are to have, and cannot go elsewhere themselves.

        Two that swap their names are the plainest case.
        """
        stuck = [id for id, error in self._refused.items() if error["code"] == "conflict" and id in self._wanted]
        has = {name: id for id in stuck if id in self._records for name in _names(self._records[id].connection)}
        needed = {(end["netns"], end["ifname"]): id for id in stuck for end in _ends(self._wanted[id])}
        return sorted({id for name, id in has.items() if needed.get(name, id) != id})

    def _try_again(self) -> None:
        """What was in the way of others may have gone."""
        for id, error in self._refused.items():
            if error["code"] in ("conflict", "ifname_in_use") and id not in self._asked:
                self._backoff.forget(id)
                self._backoff.put(id, most=0.0)
                self._news.set()

    def _heard(self, news: list[tuple[str, Record | None]]) -> None:
        for id, record in news:
            self._note(id, record)
            if record is not None and record.state == "failed" and record.error and id not in self._asked:
                self._barred(id, record.error)

    def _note(self, id: str, record: Record | None) -> None:
        """How the engine has a connection from now on."""
        if record is None:
            self._records.pop(id, None)
        else:
            self._records[id] = record
            if record.state == "pending" and self._settings.create_missing:
                self._pending.add(id)
                self._news.set()
        self._interfaces.note(id, record)
        self._tell(id)

    # -- dependents ----------------------------------------------------------------------------------

    def _depend(self, changes: Mapping[str, dependents.Dependent | None]) -> None:
        for name, found in changes.items():
            if found is None:
                self._standing.pop(name, None)
                self._port.depend(name, None)
            else:
                dependent = Dependent(name, found.host_if_name, enabled=found.enabled)
                self._standing[name] = dependent.ground
                self._port.depend(name, dependent)

    # -- namespaces ----------------------------------------------------------------------------------

    async def _make(self, references: Iterable[str]) -> None:
        names = made.missing(references)
        if names:
            await asyncio.to_thread(self._made.make, names)

    async def _let_go(self) -> None:
        """Namespaces that were made and that nothing needs any more."""
        self._left.intersection_update(self._made.names)
        if self._left:
            self._left.difference_update(_references(self._wanted.values()))
        if idle := set(self._left):
            idle -= await self._port.used(idle)
            self._left -= idle
            await asyncio.to_thread(self._made.let_go, idle)

    # -- statuses ------------------------------------------------------------------------------------

    def _judge(self, key: str, verdict: Verdict | None) -> None:
        """What configuration alone says of a value; None: the value is deleted."""
        before = self._verdicts.pop(key, None)
        if before is not None:
            self._concerned[before.connection].discard(key)
            if not self._concerned[before.connection]:
                del self._concerned[before.connection]
        if verdict is not None:
            self._verdicts[key] = verdict
            self._concerned[verdict.connection].add(key)
        else:
            self._backoff.forget(key)
        self._stale_now(key)

    def _tell(self, id: str) -> None:
        """Something about a connection is another than before, and with it the statuses of what is in it."""
        for key in self._concerned.get(id, ()):
            self._stale_now(key)

    def _stale_now(self, key: str) -> None:
        loop = asyncio.get_running_loop()
        if not self._stale:
            loop.call_later(GATHER, self._publish, loop.time() + PATIENCE)
        self._stale.add(key)

    def _is_busy(self) -> bool:
        """Whether the processor is better used for interfaces than for telling of them."""
        # what waits for a consumer keeps nobody busy
        return not self._asked.keys() <= self._alone

    def _publish(self, latest: float) -> None:
        """Works out the statuses that may have changed."""
        loop = asyncio.get_running_loop()
        if self._is_busy() and loop.time() < latest:
            loop.call_later(GATHER, self._publish, latest)
            return
        for _ in range(min(STATUSES, len(self._stale))):
            key = self._stale.pop()
            parsed = keys.parse_key(key, self._settings.label)
            assert parsed is not None
            verdict = self._verdicts.get(key)
            known, value = (True, None) if verdict is None else self._status(parsed, verdict)
            if known:
                self._publisher.put(keys.status_key(parsed, self._settings.label), value)
        if self._stale:
            loop.call_soon(self._publish, latest)

    def _status(self, parsed: keys.Key, verdict: Verdict) -> tuple[bool, bytes | None]:
        """What is to be published of a value; False: that is about to be known."""
        id, key = verdict.connection, parsed.text
        if verdict.state is not None or not id:
            return True, settle(key, verdict, None).json()
        record, error = self._records.get(id), self._refused.get(id)
        if error is not None:
            return True, settle(key, verdict, {"state": "failed", "error": error}).json()
        if record is None or id in self._asked:
            return False, None
        interface = None
        if parsed.kind == "interface" and record.state == "up":
            interface = self._interfaces.facts(id, verdict.path)
            if interface is None:
                return False, None
        told = {"state": record.state, "reason": record.reason, "error": record.error}
        return True, settle(key, verdict, told).json(interface)


def _ends(wanted: Desired) -> Iterator[dict[str, Any]]:
    return (wanted[end] for end in "ab" if end in wanted)


def _names(connection: Connection) -> Iterator[tuple[str, str]]:
    return ((end.netns, end.ifname) for end in (connection.a, connection.b) if end is not None)


def _references(connections: Iterable[Desired]) -> Iterator[str]:
    """Every namespace but the engine's own."""
    return (end["netns"] for wanted in connections for end in _ends(wanted) if end["netns"])
