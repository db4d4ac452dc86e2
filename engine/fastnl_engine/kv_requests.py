"""The requests of op `kv`: the engine's own keys and values for its clients.

The store lives on the event loop of another thread; here requests go there, and answers come back when they are
there, in any order.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
from collections.abc import AsyncGenerator, Callable, Iterator
from operator import attrgetter
from typing import Any

import structlog

from fastnl_engine import wire
from fastnl_engine.kv.base import KV, Batch, Compacted, Entry, Event, Get, KVError
from fastnl_engine.looplane import Answer, LoopLane, Question, Rows

log = structlog.get_logger()

PAGE_BYTES = 4 << 20  # of keys and values in one reply, about
ROW_BYTES = 128  # of a row besides
EVENTS = 10_000  # changes that are kept for watches
EVENT_BYTES = 16 << 20  # and the bytes of them, about

# the fields that each action needs, and those that it may have
FIELDS: dict[str, tuple[set[str], set[str]]] = {
    "get": ({"key"}, set()),
    "range": ({"prefix"}, {"after"}),
    "put": ({"key", "value"}, set()),
    "delete": (set(), {"key", "prefix"}),
    "watch": ({"prefix", "since"}, set()),
}

_revision_of = attrgetter("revision")


class KvRequests(LoopLane):
    """kv, loop: the store, and the running loop that it is used from."""

    def __init__(self, kv: KV, loop: asyncio.AbstractEventLoop, answered: Callable[[Any, bytes], None]) -> None:
        super().__init__(loop, answered, "store_failed")
        self._kv = kv
        self._history = History(kv)

    def prepare(self, request: wire.Kv) -> Question:
        """What to run in the loop.  Raises ProtocolError for fields that do not go with the action."""
        _check(request)
        return lambda: getattr(self, f"_{request.action}")(request)

    def stop(self) -> list[Any]:
        left = super().stop()
        closing = self._history.close()
        try:
            asyncio.run_coroutine_threadsafe(closing, self._loop)
        except RuntimeError:  # it went with the loop
            closing.close()
        return left

    # -- the actions, in the loop --------------------------------------------------------------------

    async def _get(self, request: wire.Kv) -> Answer:
        assert request.key is not None
        entry = await self._kv.get(request.key)
        return ([_row(entry)] if entry else []), {}

    async def _range(self, request: wire.Kv) -> Answer:
        assert request.prefix is not None
        snapshot = await self._kv.get_prefix(request.prefix)
        after = request.after
        entries = (e for key, e in snapshot.entries.items() if after is None or key > after)
        rows: Rows = []
        size = 0
        for entry in entries:
            if len(rows) == request.limit or size > PAGE_BYTES:
                return rows, {"revision": snapshot.revision, "after": rows[-1]["key"]}
            rows.append(_row(entry))
            size += _size(entry.key, entry)
        return rows, {"revision": snapshot.revision, "after": None}

    async def _put(self, request: wire.Kv) -> Answer:
        assert request.key is not None
        revision = await self._kv.put(request.key, _bytes(request.value))
        return [{"ok": True}], {"revision": revision}

    async def _delete(self, request: wire.Kv) -> Answer:
        if request.prefix is not None:
            deleted = await self._kv.delete_prefix(request.prefix)
        else:
            assert request.key is not None
            deleted = int(await self._kv.delete(request.key))
        return [{"ok": True, "deleted": deleted}], {}

    async def _watch(self, request: wire.Kv) -> Answer:
        assert request.prefix is not None and request.since is not None
        events, revision = await self._history.since(request.since, request.prefix, request.wait)
        return [_row(e.entry) if e.entry else _row_of_deleted(e) for e in events], {"revision": revision}


class History:
    """The last changes of a store, for those who ask again and again what is new.

    It is kept from the first question on: an engine that nobody watches does not pay for it.
    """

    def __init__(self, kv: KV) -> None:
        self._kv = kv
        self._events: list[Event] = []
        self._bytes = 0
        self._floor = self._revision = 0  # all that came after the one, up to the other, is known
        self._news = asyncio.Event()
        self._starting = asyncio.Lock()
        self._follower: asyncio.Task[None] | None = None

    async def close(self) -> None:
        if self._follower is not None:
            self._follower.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._follower

    async def since(self, revision: int, prefix: str, wait: float) -> tuple[list[Event], int]:
        """Changes under a prefix after a revision, and the revision that they reach; [] after `wait` seconds.

        Raises Compacted.
        """
        await self._start()
        if revision > self._revision and revision > (await self._kv.txn([], [Get("/")])).revision:
            raise Compacted(f"revision {revision} is of another store; read what is there now")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait):
                while next(self._known_after(revision, prefix), None) is None:
                    await self._news.wait()
        return self._page(revision, prefix)

    def _known_after(self, revision: int, prefix: str) -> Iterator[Event]:
        """Raises Compacted."""
        if revision < self._floor:
            raise Compacted(f"changes before revision {self._floor} are forgotten; read what is there now")
        begin = bisect.bisect_right(self._events, revision, key=_revision_of)
        return (e for e in itertools.islice(self._events, begin, None) if e.key.startswith(prefix))

    def _page(self, revision: int, prefix: str) -> tuple[list[Event], int]:
        page: list[Event] = []
        size = 0
        for event in self._known_after(revision, prefix):
            # what one request has changed is told as a whole
            if size > PAGE_BYTES and event.revision != page[-1].revision:
                return page, page[-1].revision
            page.append(event)
            size += _size(event.key, event.entry)
        return page, max(revision, self._revision)

    async def _start(self) -> None:
        """Returns after the first look, so that nothing that comes after a first question is unknown."""
        async with self._starting:
            if self._follower is not None and not self._follower.done():
                return
            batches = self._kv.watch("")
            try:
                self._take(await anext(batches))
            except BaseException:
                await batches.aclose()
                raise
            self._follower = asyncio.create_task(self._follow(batches), name="history of keys")

    async def _follow(self, batches: AsyncGenerator[Batch, None]) -> None:
        try:
            async with contextlib.aclosing(batches):
                async for batch in batches:
                    self._take(batch)
        except KVError as e:
            log.warning("history of keys ended", reason=str(e))

    def _take(self, batch: Batch) -> None:
        if batch.reread:  # what was in between is not known
            self._events, self._bytes, self._floor = [], 0, batch.revision
        else:
            self._events += batch.events
            self._bytes += sum(_size(e.key, e.entry) for e in batch.events)
            self._trim()
        self._revision = batch.revision
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _trim(self) -> None:
        if len(self._events) <= 2 * EVENTS and self._bytes <= 2 * EVENT_BYTES:
            return
        drop = 0
        while len(self._events) - drop > EVENTS or self._bytes > EVENT_BYTES:
            event = self._events[drop]
            self._bytes -= _size(event.key, event.entry)
            self._floor = event.revision
            drop += 1
        del self._events[:drop]


def _check(request: wire.Kv) -> None:
    action = request.action
    given = {f for f in ("key", "prefix", "value", "after", "since") if getattr(request, f) is not None}
    needed, possible = FIELDS[action]
    for field in sorted(needed - given):
        raise wire.ProtocolError("bad_request", f"{field}: {action} needs it", request.id, field)
    for field in sorted(given - needed - possible):
        raise wire.ProtocolError("bad_request", f"{field}: does not go with {action}", request.id, field)
    if action == "delete" and len(given) != 1:
        raise wire.ProtocolError("bad_request", "key: delete needs either key or prefix", request.id, "key")
    if request.key == "":
        raise wire.ProtocolError("bad_request", "key: is empty", request.id, "key")
    if action == "put":
        if not isinstance(request.value, (str, bytes)):
            raise wire.ProtocolError("bad_request", "value: must be text or bytes", request.id, "value")
        size = len(_bytes(request.value))
        if size > wire.MAX_VALUE:
            problem = f"value: has {size} bytes; {wire.MAX_VALUE} are possible"
            raise wire.ProtocolError("too_large", problem, request.id, "value")


def _row(entry: Entry) -> dict[str, Any]:
    return {
        "ok": True, "key": _text(entry.key), "value": _text(entry.value), "create_revision": entry.create_revision,
        "mod_revision": entry.mod_revision, "version": entry.version, "lease": entry.lease,
    }  # fmt: skip


def _row_of_deleted(event: Event) -> dict[str, Any]:
    return {"ok": True, "key": _text(event.key), "value": None, "mod_revision": event.revision}


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _text(value: str | bytes) -> str | bytes:
    """Text, or bytes where it is none."""
    raw = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _size(key: str, entry: Entry | None) -> int:
    return ROW_BYTES + len(key) + (len(entry.value) if entry else 0)
