"""KV in a SQLite file: what works with etcd works on one machine without it.

The file belongs to one process, and that process is what its leases live with: keys that had one are deleted when
the file is opened again.  It keeps no history: an older revision is Compacted, and a watch from an older snapshot
begins with the difference.  One thread does all the work; what has come while it was busy is committed together, with
one wait for the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import structlog

from fastnl_engine.kv.base import (
    KV,
    Batch,
    Compacted,
    Compare,
    Delete,
    DeletePrefix,
    Entry,
    Event,
    KVError,
    OnGrant,
    Op,
    Put,
    Refused,
    Snapshot,
    TxnResult,
    check_key,
    check_ops,
)
from fastnl_engine.kv.table import Table

log = structlog.get_logger()


@dataclass(slots=True)
class _Job:
    work: Callable[[Table], Any]
    done: asyncio.Future[Any]


@dataclass(slots=True, eq=False)
class _Subscriber:
    prefix: str
    events: list[Event] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)


class EmbeddedKV:
    """KV in a file.

    durable   wait for the disk (fsync) before a change counts as made

    Made in a running loop, and used from it.  Raises KVError when the file cannot be used.
    """

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        self.path = path
        self.trouble = ""
        self.loop = asyncio.get_running_loop()
        try:
            self._table = Table(path, durable)
        except sqlite3.OperationalError as e:
            raise KVError(
                f"{path}: {e}; is the folder there, writable, not full, and no other engine using the file?"
            ) from e
        except sqlite3.DatabaseError as e:
            raise KVError(
                f"{path}: {e}; the file is damaged. It was left as it is: put a copy of it back, or move it away to "
                "start with no keys"
            ) from e
        self._subscribers: set[_Subscriber] = set()
        self._leases: set[EmbeddedLease] = set()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="kv", daemon=True)
        self._thread.start()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        if self._closed:
            return
        for lease in list(self._leases):
            await lease.close()
        self._closed = True
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)
        self._table.close()
        for subscriber in self._subscribers:
            subscriber.news.set()

    # -- the thread ----------------------------------------------------------------------------------

    def _work(self) -> None:
        running = True
        while running:
            jobs = [self._jobs.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    jobs.append(self._jobs.get_nowait())
            running = None not in jobs
            outcomes, events, trouble = self._commit([job for job in jobs if job is not None])
            # the loop may be gone when the process ends without close()
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._deliver, outcomes, events, trouble)

    def _commit(self, jobs: Sequence[_Job]) -> tuple[list[tuple[_Job, Any]], list[Event], str]:
        outcomes: list[tuple[_Job, Any]] = []
        trouble = ""
        try:
            with self._table.transaction():
                outcomes = [(job, self._outcome(job)) for job in jobs]
        except sqlite3.Error as e:
            trouble = f"{self.path}: {e}; nothing was changed. Is the disk full, or the file gone?"
            outcomes = [(job, Refused(trouble)) for job in jobs]
            self._table.events.clear()
        events, self._table.events = self._table.events, []
        return outcomes, events, trouble

    def _outcome(self, job: _Job) -> Any:
        """What is to be returned, or an exception that is to be raised."""
        try:
            with self._table.step():
                return job.work(self._table)
        except (sqlite3.InterfaceError, sqlite3.ProgrammingError) as e:  # a value that is none
            return e
        except sqlite3.Error:
            raise  # of the file, so all are concerned
        except Exception as e:
            return e

    # -- in the loop ---------------------------------------------------------------------------------

    def _deliver(self, outcomes: Sequence[tuple[_Job, Any]], events: Sequence[Event], trouble: str) -> None:
        self.trouble = trouble
        for subscriber in self._subscribers:
            mine = [e for e in events if e.key.startswith(subscriber.prefix)]
            if mine:
                subscriber.events += mine
                subscriber.news.set()
        for job, outcome in outcomes:
            if job.done.cancelled():
                continue
            if isinstance(outcome, Exception):
                job.done.set_exception(outcome)
            else:
                job.done.set_result(outcome)

    async def _ask(self, work: Callable[[Table], Any]) -> Any:
        if self._closed:
            raise KVError(f"{self.path}: closed")
        job = _Job(work, self.loop.create_future())
        self._jobs.put(job)
        return await job.done

    # -- KV ------------------------------------------------------------------------------------------

    async def get(self, key: str, *, revision: int = 0) -> Entry | None:
        check_key(key)

        def work(table: Table) -> Entry | None:
            self._check_revision(table, revision)
            return table.get(key)

        entry: Entry | None = await self._ask(work)
        return entry

    async def get_prefix(self, prefix: str, *, revision: int = 0) -> Snapshot:
        def work(table: Table) -> Snapshot:
            self._check_revision(table, revision)
            return table.get_prefix(prefix)

        snapshot: Snapshot = await self._ask(work)
        return snapshot

    def _check_revision(self, table: Table, revision: int) -> None:
        if revision and revision < table.revision:
            raise Compacted(f"{self.path}: keeps no history; revision {table.revision} is the only one")
        if revision > table.revision:
            raise Refused(f"{self.path}: revision {revision} is yet to come; the last one is {table.revision}")

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        return (await self.txn([], [Put(key, value, lease)])).revision

    async def delete(self, key: str) -> bool:
        return (await self.txn([], [Delete(key)])).results != [0]

    async def delete_prefix(self, prefix: str) -> int:
        (count,) = (await self.txn([], [DeletePrefix(prefix)])).results
        assert isinstance(count, int)
        return count

    async def txn(self, compares: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op] = ()) -> TxnResult:
        check_ops(then)
        check_ops(otherwise)
        for op in (*then, *otherwise):
            if not isinstance(op, DeletePrefix):
                check_key(op.key)
        result: TxnResult = await self._ask(lambda table: table.txn(compares, then, otherwise))
        return result

    async def watch(self, prefix: str, *, since: Snapshot | None = None) -> AsyncGenerator[Batch, None]:
        subscriber = _Subscriber(prefix)
        self._subscribers.add(subscriber)
        try:
            # what is committed after this reading comes to the subscriber after it
            snapshot = await self.get_prefix(prefix)
            reached = snapshot.revision
            if since is None or since.revision != reached:
                yield _difference(since, snapshot)
            while True:
                await subscriber.news.wait()
                if self._closed:
                    return
                subscriber.news.clear()
                events, subscriber.events = [e for e in subscriber.events if e.revision > reached], []
                if events:
                    reached = events[-1].revision
                    yield Batch(reached, events)
        finally:
            self._subscribers.discard(subscriber)

    def lease(self, ttl: int, on_grant: OnGrant | None = None) -> EmbeddedLease:
        lease = EmbeddedLease(self, ttl, on_grant)
        self._leases.add(lease)
        return lease

    async def _grant(self) -> int:
        lease: int = await self._ask(Table.grant)
        return lease

    async def _revoke(self, lease: EmbeddedLease) -> None:
        self._leases.discard(lease)
        if lease.id and not self._closed:
            await self._ask(lambda table: table.revoke(lease.id))


class EmbeddedLease:
    """Lives as long as the process, whatever its time: nobody else can see whether its owner still does."""

    def __init__(self, kv: EmbeddedKV, ttl: int, on_grant: OnGrant | None) -> None:
        if ttl < 1:
            raise KVError(f"a lease of {ttl} seconds; the least is 1")
        self.ttl = ttl
        self.id = 0
        self._kv = kv
        self._on_grant = on_grant
        self._task = asyncio.create_task(self._start(), name="lease")

    async def _start(self) -> None:
        self.id = await self._kv._grant()
        while self._on_grant is not None:
            try:
                await self._on_grant(self.id)
                return
            except Exception:  # as with etcd: its mistake shall not end the lease
                log.exception("keys of a lease not put", lease=self.id)
                await asyncio.sleep(self.ttl / 3)

    @property
    def alive(self) -> bool:
        return self.id != 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self._kv._revoke(self)
        self.id = 0


def _difference(since: Snapshot | None, now: Snapshot) -> Batch:
    before = since.entries if since else {}
    events = [Event(key, None, now.revision) for key in before if key not in now.entries]
    events += [Event(e.key, e, e.mod_revision) for e in now.entries.values() if before.get(e.key) != e]
    return Batch(now.revision, events, reread=True)


def _is_a_kv(kv: EmbeddedKV) -> KV:  # for mypy to check
    return kv
