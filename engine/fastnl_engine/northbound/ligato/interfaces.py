"""The interfaces of connections that are up: what they are in the kernel, for their status, and their counters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

import fastnl
from fastnl._nl import LinkRow
from fastnl_engine.model import Record
from fastnl_engine.northbound.ligato.facts import Asked, Facts, counters, facts_of, is_up, looks, read
from fastnl_engine.northbound.ligato.model import TYPE_NAMES
from fastnl_engine.northbound.port import Port
from fastnl_engine.upkeep import ends_of

GATHER = 0.05  # seconds that one interface waits to be looked at together with others
AGAIN = 1.0  # seconds until what could not be looked at is
GATHERINGS = 60  # of these at most, while there is something better to do
TOGETHER = 128  # connections whose interfaces are taken in without a pause: changes come in between
SETTLING = 1.5  # seconds after which one without a carrier is looked at once more: the kernel tells it with a delay

log = structlog.get_logger()

Key = tuple[str, str]  # id of the connection, "a" or "b"


class Interfaces:
    """Looks at interfaces when their connection changes, when one in the engine's own namespace gets or loses its
    carrier, and all of them, for their counters, every so many seconds.

    statistics   seconds; 0: never
    on_change    told the id of a connection when what is known of its interfaces is another than before
    is_busy      whether there is something better to do than to look
    """

    def __init__(
        self, host: fastnl.Host, port: Port, statistics: int, on_change: Callable[[str], None],
        is_busy: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._host = host
        self._port = port
        self._statistics = statistics
        self._on_change = on_change
        self._is_busy = is_busy
        self._up: dict[str, Record] = {}
        self._rows: dict[Key, LinkRow] = {}
        self._due: set[str] = set()
        self._news = asyncio.Event()

    def note(self, id: str, record: Record | None) -> None:
        """How a connection is from now on."""
        if record is None or record.state != "up":
            self._up.pop(id, None)
            for end in "ab":
                self._rows.pop((id, end), None)
        elif self._up.get(id) is not record:
            self._up[id] = record
            self._look_at(id)

    def facts(self, id: str, end: str) -> Facts | None:
        """None: it has not been looked at yet."""
        row, record = self._rows.get((id, end)), self._up.get(id)
        if row is None or record is None:
            return None
        connection = record.connection
        name, kind = connection.labels[f"ligato.{end}"], TYPE_NAMES[connection.kind]  # type: ignore[index]
        return facts_of(row, name, kind, stats=bool(self._statistics))

    async def run(self) -> None:
        deaf = self._port.listen_to_links(self._linked)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._look_at_new(), name="new interfaces")
                if self._statistics:
                    group.create_task(self._count(), name="statistics")
        finally:
            deaf()

    def _linked(self, id: str) -> None:
        if id in self._up:
            self._look_at(id)

    def _look_at(self, id: str) -> None:
        self._due.add(id)
        self._news.set()

    def _look_at_all(self, ids: set[str]) -> None:
        for id in ids:
            self._look_at(id)

    async def _look_at_new(self) -> None:
        while True:
            await self._news.wait()
            for _ in range(GATHERINGS):
                await asyncio.sleep(GATHER)
                if not self._is_busy():
                    break
            self._news.clear()
            due, self._due = self._due, set()
            again = [id for id, _ in await self._look(due) if id in self._up]
            if again:
                asyncio.get_running_loop().call_later(SETTLING, self._look_once_more, again)

    def _look_once_more(self, ids: list[str]) -> None:
        for id in ids:
            if id in self._up and any(not is_up(row) for end in "ab" if (row := self._rows.get((id, end)))):
                self._look_at(id)

    async def _count(self) -> None:
        while True:
            await asyncio.sleep(self._statistics)
            await self._look(set(self._up), stats=True)

    async def _look(self, ids: set[str], *, stats: bool = False) -> list[Key]:
        """Takes in what there is; gives those that were down and were not known to be."""
        records = [(id, self._up[id]) for id in ids if id in self._up]

        def ask() -> tuple[dict[Key, Asked], dict[Key, LinkRow]]:
            asked: dict[Key, Asked] = {}
            for id, record in records:
                for end, netns, place in zip("ab", ends_of(record), record.places, strict=False):
                    asked[id, end] = Asked(netns, place)
            return asked, read(self._host, asked, stats=stats)

        try:
            asked, rows = await asyncio.to_thread(ask)
        except fastnl.FastnlError as e:
            log.warning("interfaces cannot be looked at", reason=str(e))
            asyncio.get_running_loop().call_later(AGAIN, self._look_at_all, ids)
            return []
        down: list[Key] = []
        for at in range(0, len(records), TOGETHER):
            # what is another connection by now will be looked at by itself
            same = [id for id, record in records[at : at + TOGETHER] if self._up.get(id) is record]
            down += self._take({key: rows[key] for id in same for end in "ab" if (key := (id, end)) in rows}, asked)
            await asyncio.sleep(0)  # changes come in between
        return down

    def _take(self, rows: dict[Key, LinkRow], asked: dict[Key, Asked]) -> list[Key]:
        """Takes in what was read of some connections, both ends of each, and tells of it; gives what `_look` does."""
        down = []
        changed: dict[str, None] = {}
        carriers: dict[str, dict[str, Any]] = {}
        counted: dict[str, dict[str, Any]] = {}
        for key, row in rows.items():
            id, end = key
            before = self._rows.get(key)
            if not is_up(row) and (before is None or is_up(before)):
                down.append(key)
            if before is None or looks(before) != looks(row):
                changed[id] = None
            # the engine tells of those in its own namespace by itself
            if before is not None and is_up(before) != is_up(row) and asked[key].netns:
                carriers.setdefault(id, {"id": id})[end] = {"oper_status": "UP" if is_up(row) else "DOWN"}
            if (now := counters(row)) and (before is None or now != counters(before)):
                counted.setdefault(id, {"id": id})[end] = now
            self._rows[key] = row
        for event, told in (("link", carriers), ("statistics", counted)):
            if told:
                self._port.tell(event, told.values())
        for id in changed:
            self._on_change(id)
        return down
