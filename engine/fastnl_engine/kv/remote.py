"""The keys of an engine that has a store of its own, over its endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import structlog

from fastnl_engine.client import AsyncClient, NoEngine
from fastnl_engine.kv.base import Batch, Compacted, Denied, Entry, Event, KVError, Refused, Snapshot, Unavailable

log = structlog.get_logger()

POLL = 5.0  # seconds that a watch lets the engine wait before it asks again; so soon a new engine is found
PAUSE = 0.5  # seconds before an engine that was away is asked again
BUSY = 0.05  # and before one that was busy is
AT_ONCE = 6  # requests besides watches, of the eight questions that a client may have waiting

ERRORS: dict[str, type[KVError]] = {
    "compacted": Compacted,
    "forbidden": Denied,
    "shutting_down": Unavailable,
    "no_store": KVError,
}


class EngineKV:
    """What fastnl_engine.kv.base.KV has, but for transactions, leases and older revisions.

    Every method may raise Unavailable (nobody answers; a change may have been made), Denied or Refused.
    """

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self.trouble = ""
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def get(self, key: str) -> Entry | None:
        rows = (await self._ask("get", key=key))["results"]
        return _entry(rows[0]) if rows else None

    async def get_prefix(self, prefix: str) -> Snapshot:
        """All keys under a prefix.  Several pages may be of several moments; the revision is that of the first."""
        entries: dict[str, Entry] = {}
        revision, after = 0, None
        while True:
            reply = await self._ask("range", prefix=prefix, after=after)
            revision = revision or reply["revision"]
            entries |= {entry.key: entry for entry in map(_entry, reply["results"])}
            after = reply["after"]
            if after is None:
                return Snapshot(prefix, revision, entries)

    async def put(self, key: str, value: bytes) -> int:
        """Gives the revision."""
        revision: int = (await self._ask("put", key=key, value=value))["revision"]
        return revision

    async def delete(self, key: str) -> bool:
        """Deletes exactly this key; False if it was not there."""
        return bool((await self._ask("delete", key=key))["results"][0]["deleted"])

    async def delete_prefix(self, prefix: str) -> int:
        deleted: int = (await self._ask("delete", prefix=prefix))["results"][0]["deleted"]
        return deleted

    async def watch(self, prefix: str) -> AsyncGenerator[Batch, None]:
        """As KV.watch: everything that is there first, then what changes; nothing is missed, whatever happens."""
        known: dict[str, Entry] = {}
        revision: int | None = None
        watching = False
        while True:
            try:
                if revision is None:
                    snapshot = await self.get_prefix(prefix)
                    revision = snapshot.revision
                    events = _difference(known, snapshot)
                    known = dict(snapshot.entries)
                    watching = True
                    yield Batch(revision, events, reread=True)
                reply = await self._ask("watch", prefix=prefix, since=revision, wait=POLL)
            except Compacted:
                revision = None
                continue
            except Denied:
                raise
            except KVError as e:
                # an engine that begins takes requests before it has opened its store
                if not (watching or isinstance(e, Unavailable)):
                    raise
                if not self.trouble:
                    log.warning("trouble with the engine", reason=str(e))
                self.trouble = str(e)
                await asyncio.sleep(PAUSE)
                continue
            if self.trouble:
                log.info("the engine answers again", endpoint=self._client.endpoint)
                self.trouble = ""
            revision = reply["revision"]
            events = []
            for event in map(_event, reply["results"]):
                if known.get(event.key) == event.entry:
                    continue  # the snapshot, if it had several pages, knows of it already
                events.append(event)
                if event.entry is None:
                    del known[event.key]
                else:
                    known[event.key] = event.entry
            if events:
                yield Batch(events[-1].revision, events)

    async def _ask(self, action: str, **fields: Any) -> dict[str, Any]:
        if action == "watch":
            return await self._answer(fields["wait"] + POLL, action, fields)
        async with self._turn:
            return await self._answer(self._client.timeout, action, fields)

    async def _answer(self, patience: float, action: str, fields: dict[str, Any]) -> dict[str, Any]:
        try:
            async with asyncio.timeout(patience):
                while True:
                    reply = await self._client.request("kv", action=action, **fields)
                    error = reply.get("error")
                    if error is None:
                        return reply
                    if error["code"] != "busy":
                        raise ERRORS.get(error["code"], Refused)(error["message"])
                    await asyncio.sleep(BUSY)  # it was not looked at, so it may come again
        except (TimeoutError, NoEngine):
            raise Unavailable(f"no answer from {self._client.endpoint}; is fastnl-engine running there?") from None


def _difference(known: dict[str, Entry], snapshot: Snapshot) -> list[Event]:
    gone = [Event(key, None, snapshot.revision) for key in known if key not in snapshot.entries]
    return gone + [Event(e.key, e, e.mod_revision) for e in snapshot.entries.values() if known.get(e.key) != e]


def _event(row: dict[str, Any]) -> Event:
    entry = None if row["value"] is None else _entry(row)
    return Event(_key(row), entry, row["mod_revision"])


def _entry(row: dict[str, Any]) -> Entry:
    value = row["value"]
    return Entry(
        _key(row), value.encode() if isinstance(value, str) else value, row["create_revision"], row["mod_revision"],
        row["version"], row["lease"],
    )  # fmt: skip


def _key(row: dict[str, Any]) -> str:
    key: str | bytes = row["key"]
    return key if isinstance(key, str) else key.decode("utf-8", "surrogateescape")
