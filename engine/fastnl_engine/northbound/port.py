"""A northbound's way into the engine: from an asyncio loop on a thread of its own to the thread that serves."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
import structlog

from fastnl.wired import Place
from fastnl_engine import wire
from fastnl_engine.engine import Engine
from fastnl_engine.jobs import ITEM_ERRORS, connect_job, disconnect_job, item_error
from fastnl_engine.model import Record
from fastnl_engine.northbound.dependents import Dependent
from fastnl_engine.northbound.grounds import Grounds
from fastnl_engine.planner import Job

log = structlog.get_logger()

Heard = Callable[[list[tuple[str, Record | None]]], None]


class Answer(NamedTuple):
    """What became of one item.

    error    as in a reply, None: none
    record   of the connection after it, None: there is none
    changed  whether anything was done
    """

    error: dict[str, Any] | None
    record: Record | None
    changed: bool = False


class Port:
    """For one northbound and its loop; every method is to be called on that loop's thread.

    name    tells its jobs from others': clients and northbounds take turns
    prefix  of the ids of its connections
    grounds for those that have dependents
    """

    def __init__(self, engine: Engine, name: str, prefix: str, grounds: Grounds | None = None) -> None:
        self._engine = engine
        self._name = name
        self._prefix = prefix
        self._loop = asyncio.get_running_loop()
        self._grounds = grounds
        self._jobs: list[Job] = []  # of this turn of the loop, to be submitted together
        self._calls: deque[Callable[[], None]] = deque()  # from the engine's thread

    async def connect(self, connections: Sequence[dict[str, Any]]) -> list[Answer]:
        """As the op `connect` with `wait`: one answer for each."""
        return await self._ask([wire.encode(c) for c in connections], lambda raw: connect_job(raw, wait=True))

    async def disconnect(self, ids: Sequence[str]) -> list[Answer]:
        """As the op `disconnect`."""
        return await self._ask([wire.encode(i) for i in ids], disconnect_job)

    async def _ask(self, items: Sequence[bytes], make: Callable[[msgspec.Raw], Job]) -> list[Answer]:
        answers = [Answer(None, None)] * len(items)
        missing = len(items)
        done: asyncio.Future[None] = self._loop.create_future()
        jobs = []

        def result(place: int, value: dict[str, Any]) -> None:
            nonlocal missing
            record = self._engine.records.get(value["id"])
            # one that waits has its error, too
            answers[place] = Answer(None if value["ok"] else value["error"], record, value.get("changed", False))
            missing -= 1
            if missing == 0:
                self._call(lambda: _settle(done, None))

        for place, item in enumerate(items):
            raw = msgspec.Raw(item)
            try:
                job = make(raw)
            except ITEM_ERRORS as e:
                answers[place] = Answer(item_error(e), None)
                missing -= 1
                continue
            job.ticket, job.place, job.client = result, place, self._name
            jobs.append(job)
        if jobs:
            if not self._jobs:
                self._loop.call_soon(self._submit)
            self._jobs += jobs
            await done
        return answers

    def _submit(self) -> None:
        """What one turn of the loop asks for goes together: a wake-up of the other thread costs more than a job."""
        jobs, self._jobs = self._jobs, []

        def submit() -> None:
            for job in jobs:
                self._engine.submit(job)

        self._engine.soon(submit)

    def _call(self, do: Callable[[], None]) -> None:
        """Has something done on the loop, unless that has ended, after all that was asked for before."""
        self._calls.append(do)
        if len(self._calls) == 1:  # else the loop has been woken for the first of a row
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._run_calls)

    def _run_calls(self) -> None:
        try:
            while self._calls:
                self._calls.popleft()()
        finally:
            if self._calls:  # one has failed, which is none of the others' business
                self._loop.call_soon(self._run_calls)

    async def records(self) -> list[Record]:
        """Those of its connections as they are now; records are replaced, never changed."""
        found: asyncio.Future[list[Record]] = self._loop.create_future()

        def look() -> None:
            records = self._engine.records
            ours = []
            for id_ in records.irange(minimum=self._prefix):
                if not id_.startswith(self._prefix):
                    break
                ours.append(records[id_])
            self._call(lambda: _settle(found, ours))

        self._engine.soon(look)
        return await found

    def listen(self, heard: Heard) -> Callable[[], None]:
        """Has `heard` called on the loop with what became of its connections, as (id, record); gives a way to end that.

        What happens in quick succession comes together, in its order.
        """
        news: deque[tuple[str, Record | None]] = deque()

        def deliver() -> None:
            heard_of = []
            while news:  # until there are none, as only the first of a row has this called
                heard_of.append(news.popleft())
            heard(heard_of)

        def listener(event: str, fields: dict[str, Any], of: str) -> None:
            # a carrier is no matter of records
            if of == "connection" and event != "link" and fields["id"].startswith(self._prefix):
                news.append((fields["id"], self._engine.records.get(fields["id"])))
                if len(news) == 1:
                    self._call(deliver)

        self._engine.soon(lambda: self._engine.listeners.append(listener))
        return lambda: self._engine.soon(lambda: self._engine.listeners.remove(listener))

    def listen_to_links(self, heard: Callable[[str], None]) -> Callable[[], None]:
        """Has `heard` called with the id of a connection of which an interface here got or lost its carrier."""

        def listener(event: str, fields: dict[str, Any], of: str) -> None:
            if event == "link" and fields["id"].startswith(self._prefix):
                id_ = fields["id"]
                self._call(lambda: heard(id_))

        self._engine.soon(lambda: self._engine.listeners.append(listener))
        return lambda: self._engine.soon(lambda: self._engine.listeners.remove(listener))

    async def used(self, references: Collection[str]) -> set[str]:
        """Those of some namespaces that connections refer to, whoever submitted them."""
        found: asyncio.Future[set[str]] = self._loop.create_future()

        def look() -> None:
            used = {reference for reference in references if self._engine.upkeep.uses(reference)}
            self._call(lambda: _settle(found, used))

        self._engine.soon(look)
        return await found

    def adopt(self, connections: Sequence[tuple[dict[str, Any], tuple[Place, ...]]]) -> None:
        """Interfaces that somebody else made are those of connections from now on; `connect` makes them fit."""
        for connection, places in connections:
            try:
                job = connect_job(msgspec.Raw(wire.encode(connection)), wait=True)
            except ITEM_ERRORS:
                continue  # `connect` is told why
            record = Record(job.id, job.spec, "failed", places, reason="it was adopted", since=time.time())
            self._engine.soon(functools.partial(self._engine.adopt, record))

    def tell(self, event: str, connections: Iterable[dict[str, Any]]) -> None:
        """Publishes an event of each of some connections, that changes nothing about them."""

        def publish() -> None:
            for fields in connections:
                self._engine.tell_of(event, fields)

        self._engine.soon(publish)

    def depend(self, name: str, dependent: Dependent | None) -> None:
        """Has consumers told of what stands on a host interface; None: nothing of that name does any more."""
        grounds = self._grounds
        assert grounds is not None
        self._engine.soon(lambda: grounds.configure(dependent) if dependent else grounds.unconfigure(name))


def _settle(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():  # whoever asked may have been cancelled
        future.set_result(value)
