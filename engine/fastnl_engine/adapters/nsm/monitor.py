"""Streams of events: what is there at first, then what changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

from fastnl_engine.adapters.nsm.errors import Refused

WAITING = 1024  # events that a subscriber may be behind

PART = 100  # connections in one event: a client of gRPC takes 4 MiB at a time unless told otherwise

E = TypeVar("E")


class Feed(Generic[E]):
    """For one loop.  Nobody waits for a subscriber."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[E | None]] = set()

    @property
    def followed(self) -> bool:
        """Whether anybody hears what is published."""
        return bool(self._queues)

    def publish(self, event: E) -> None:
        for queue in list(self._queues):
            if queue.qsize() >= WAITING:
                # it begins anew with all that is there, which is less than what it has missed
                self._queues.discard(queue)
                queue.put_nowait(None)
            else:
                queue.put_nowait(event)

    async def subscribe(self, initial: Callable[[], Iterable[E]]) -> AsyncGenerator[E, None]:
        """`initial()`, then every event since.  Raises Refused when it is read too slowly.

        What there is at first is gone through while others do something, so it may show what is told of again later.
        """
        queue: asyncio.Queue[E | None] = asyncio.Queue()
        self._queues.add(queue)
        try:
            for event in initial():
                yield event
                await asyncio.sleep(0)
            while (later := await queue.get()) is not None:
                yield later
            raise Refused({"code": "slow", "message": f"{WAITING} events were not read; subscribe again"})
        finally:
            self._queues.discard(queue)


def in_parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """At least one, which is empty if there are none."""
    for first in range(0, max(len(ids), 1), PART):
        yield ids[first : first + PART]
