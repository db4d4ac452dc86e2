"""The contents of a prefix, kept up to date whatever happens to the store meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Self

from fastnl_engine.kv.base import KV, Entry


@dataclass(frozen=True, slots=True)
class Change:
    """A key before and after; None is not there.  Both are never None."""

    key: str
    old: Entry | None
    new: Entry | None


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened up to a revision: each key once, with its last state, however often it changed.

    reread: some of it was found by reading everything, as at the start.
    """

    revision: int
    changes: Sequence[Change]
    reread: bool


class Mirror:
    """A copy that changes only when its reader takes the next step:

        async with Mirror(kv, "/vnf-agent/vpp1/") as mirror:
            async for changes in mirror:    # the first one is everything that is there, also when that is nothing
                ...                         # mirror.contents is as it was at changes.revision

    What comes while the reader is busy is gathered and is the next step, as one.  While the store is away there are
    no steps, and `contents` stays as it is.  Raises what KV.watch raises.
    """

    def __init__(self, kv: KV, prefix: str) -> None:
        self.prefix = prefix
        self.contents: dict[str, Entry] = {}
        self.revision = 0
        self._kv = kv
        self._pending: dict[str, Entry | None] = {}
        self._reached = 0
        self._reread = False
        self._news = asyncio.Event()  # set: something is pending, or the reader has ended
        self._fresh = False  # something is pending
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._reader = asyncio.create_task(self._read(), name=f"mirror {self.prefix}")
        # a reader that ends, ends the steps too
        self._reader.add_done_callback(lambda _: self._news.set())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._reader is not None
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):  # a reader of steps has been told
            await self._reader

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Changes:
        assert self._reader is not None, "use it in `async with`"
        await self._news.wait()
        if not self._fresh:
            self._reader.result()  # raises what ended it
            raise StopAsyncIteration
        return self._take()

    async def run(self, step: Callable[[Changes], Awaitable[None]]) -> None:
        """Calls `step` with each, for ever."""
        async for changes in self:
            await step(changes)

    async def _read(self) -> None:
        async with contextlib.aclosing(self._kv.watch(self.prefix)) as batches:
            async for batch in batches:
                for event in batch.events:
                    self._pending[event.key] = event.entry
                self._reached = batch.revision
                self._reread = self._reread or batch.reread
                self._fresh = True
                self._news.set()

    def _take(self) -> Changes:
        changes = []
        for key, new in self._pending.items():
            old = self.contents.get(key)
            if old == new:  # came and went meanwhile, or read again
                continue
            changes.append(Change(key, old, new))
            if new is None:
                del self.contents[key]
            else:
                self.contents[key] = new
        out = Changes(self._reached, changes, self._reread)
        self.revision = self._reached
        self._reread = self._fresh = False
        self._pending.clear()
        assert self._reader is not None
        if not self._reader.done():
            self._news.clear()
        return out
