"""A northbound's way into the engine: from an asyncio loop on a thread of its own to the thread that serves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from fastnl_engine import wire
from fastnl_engine.engine import Engine
from fastnl_engine.jobs import ITEM_ERRORS, connect_job, disconnect_job, item_error
from fastnl_engine.model import Record
from fastnl_engine.planner import Job

Result = dict[str, Any]


class Port:
    """For one northbound and its loop; every method is to be called on that loop's thread.

    name    tells its jobs from others': clients and northbounds take turns
    prefix  of the ids of its connections
    """

    def __init__(self, engine: Engine, name: str, prefix: str) -> None:
        self._engine = engine
        self._name = name
        self._prefix = prefix
        self._loop = asyncio.get_running_loop()

    async def connect(self, connections: Sequence[dict[str, Any]]) -> list[Result]:
        """As the op `connect` with `wait`: one result for each."""
        return await self._ask([wire.encode(c) for c in connections], lambda raw: connect_job(raw, wait=True))

    async def disconnect(self, ids: Sequence[str]) -> list[Result]:
        """As the op `disconnect`."""
        return await self._ask([wire.encode(i) for i in ids], disconnect_job)

    async def _ask(self, items: Sequence[bytes], make: Callable[[msgspec.Raw], Job]) -> list[Result]:
        results: list[Result] = [{} for _ in items]
        missing = len(items)
        done: asyncio.Future[None] = self._loop.create_future()
        jobs = []

        def settle() -> None:
            if not done.done():  # whoever asked may have been cancelled
                done.set_result(None)

        def result(place: int, value: Result) -> None:
            nonlocal missing
            results[place] = value
            missing -= 1
            if missing == 0:
                self._loop.call_soon_threadsafe(settle)

        for place, item in enumerate(items):
            raw = msgspec.Raw(item)
            try:
                job = make(raw)
            except ITEM_ERRORS as e:
                results[place] = {"id": wire.id_in(raw), "ok": False, "error": item_error(e)}
                missing -= 1
                continue
            job.ticket, job.place, job.client = result, place, self._name
            jobs.append(job)
        if jobs:
            self._engine.soon(lambda: self._submit(jobs))
            await done
        return results

    def _submit(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self._engine.submit(job)

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
            self._loop.call_soon_threadsafe(found.set_result, ours)

        self._engine.soon(look)
        return await found

    def listen(self, heard: Callable[[str, dict[str, Any]], None]) -> Callable[[], None]:
        """Has `heard(event, fields)` called on the loop for every event of its connections; gives a way to end that."""

        def listener(event: str, fields: dict[str, Any], of: str) -> None:
            if of == "connection" and fields["id"].startswith(self._prefix):
                self._loop.call_soon_threadsafe(heard, event, fields)

        self._engine.soon(lambda: self._engine.listeners.append(listener))
        return lambda: self._engine.soon(lambda: self._engine.listeners.remove(listener))


class Northbound:
    """A thread with a loop on which `serve` runs until `stop`."""

    def __init__(self, name: str, serve: Callable[[asyncio.Event], Any]) -> None:
        self._serve = serve
        self._stopping: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._begun = threading.Event()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()
        self._begun.wait()

    def _main(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        self._begun.set()
        await self._serve(self._stopping)

    def stop(self, seconds: float = 3.0) -> None:
        """Has it end, and waits for that no longer than so many seconds."""
        assert self._loop is not None and self._stopping is not None
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(seconds)
