"""The service with a store and an engine that do what the test says: what depends on who comes first."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import fastnl
from fastnl_engine.config import Ligato
from fastnl_engine.kv.base import Batch, Denied, Entry, Event, TxnResult
from fastnl_engine.model import Record
from fastnl_engine.northbound.ligato.made import Made
from fastnl_engine.northbound.ligato.service import Service
from fastnl_engine.northbound.port import Answer

ROOT = "/vnf-agent/vpp1/"
I1 = ROOT + "linux/config/v1/interface/"


class Store:
    """A prefix tells nothing until it is opened."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.queues: dict[str, asyncio.Queue[Batch | Denied]] = {}
        self.statuses: dict[str, bytes] = {}

    def _queue(self, prefix: str) -> asyncio.Queue[Batch | Denied]:
        return self.queues.setdefault(prefix, asyncio.Queue())

    def tell(self, prefix: str, **values: dict[str, Any]) -> None:
        events = [
            Event(ROOT + prefix + k, Entry(ROOT + prefix + k, json.dumps(v).encode(), 1, 1, 1), 1)
            for k, v in values.items()
        ]
        self._queue(ROOT + prefix).put_nowait(Batch(1, events, reread=True))

    def deny(self, prefix: str) -> None:
        self._queue(ROOT + prefix).put_nowait(Denied("not you"))

    async def watch(self, prefix: str, *, since: Any = None) -> AsyncGenerator[Batch, None]:
        while True:
            batch = await self._queue(prefix).get()
            if isinstance(batch, Denied):
                raise batch
            yield batch

    def lease(self, ttl: int, on_grant: Callable[[int], Awaitable[None]]) -> Store:
        self._granting = asyncio.ensure_future(on_grant(1))
        return self

    async def close(self) -> None:
        await self._granting

    async def txn(self, compares: Sequence[Any], then: Sequence[Any]) -> TxnResult:
        for op in then:
            self.statuses[op.key] = getattr(op, "value", b"")
        return TxnResult(True, 1, [])


class Engine:
    """Answers what `answer` says."""

    def __init__(self, *ids: str) -> None:
        self.there = [Record(id, b"", "up") for id in ids]
        self.asked: list[tuple[str, str]] = []
        self.error: dict[str, Any] | None = None

    async def records(self) -> list[Record]:
        return self.there

    async def connect(self, connections: Sequence[dict[str, Any]]) -> list[Answer]:
        self.asked += [("connect", c["id"]) for c in connections]
        return [Answer(self.error, None, changed=True) for _ in connections]

    async def disconnect(self, ids: Sequence[str]) -> list[Answer]:
        self.asked += [("disconnect", id) for id in ids]
        return [Answer(None, None, changed=True) for _ in ids]

    def listen(self, heard: Any) -> Callable[[], None]:
        return lambda: None

    listen_to_links = listen


def half(name: str, peer: str) -> dict[str, Any]:
    return {"name": name, "veth": {"peer_if_name": peer}}


def run(tmp_path: Path, engine: Engine, play: Callable[[Store], Awaitable[None]]) -> None:
    async def main() -> None:
        store = Store()
        service = Service(store, engine, fastnl.Host("test"), Ligato(statistics=0), Made(tmp_path / "made"))
        task = asyncio.create_task(service.run())
        await play(store)
        assert not task.done()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def test_nothing_is_done_until_all_of_the_configuration_is_read(tmp_path: Path) -> None:
    engine = Engine("ligato/vpp1/old", "ligato/vpp1/va+vb")

    async def play(store: Store) -> None:
        store.tell("config/")
        store.tell("vpp/config/v1/interface/")
        await asyncio.sleep(0.1)
        assert engine.asked == []
        store.tell("linux/config/", **{"v1/interface/va": half("va", "vb"), "v1/interface/vb": half("vb", "va")})
        await until(lambda: len(engine.asked) == 2)
        assert set(engine.asked) == {("disconnect", "ligato/vpp1/old"), ("connect", "ligato/vpp1/va+vb")}

    run(tmp_path, engine, play)


def test_what_is_refused_is_tried_again_and_its_status_tells(tmp_path: Path) -> None:
    engine = Engine()
    engine.error = {"code": "kernel", "message": "no"}

    async def play(store: Store) -> None:
        store.tell("config/")
        store.tell("vpp/config/v1/interface/")
        store.tell("linux/config/", **{"v1/interface/va": half("va", "vb"), "v1/interface/vb": half("vb", "va")})
        await until(lambda: len(engine.asked) >= 3)
        assert set(engine.asked) == {("connect", "ligato/vpp1/va+vb")}
        await until(lambda: store.statuses)
        told = json.loads(store.statuses[ROOT + "linux/status/v1/interface/va"])["value"]
        assert (told["state"], told["error"]) == ("RETRYING", "no")

    run(tmp_path, engine, play)


def test_what_was_deleted_while_reading_was_forbidden_goes(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("fastnl_engine.northbound.ligato.service.DENIED", 0.01)
    engine = Engine()

    async def play(store: Store) -> None:
        store.tell("config/")
        store.tell("vpp/config/v1/interface/")
        store.tell("linux/config/", **{"v1/interface/va": half("va", "vb"), "v1/interface/vb": half("vb", "va")})
        await until(lambda: engine.asked)
        store.deny("linux/config/")
        store.deny("linux/config/")
        await asyncio.sleep(0.1)
        assert len(engine.asked) == 1
        store.tell("linux/config/", **{"v1/interface/va": half("va", "vb")})
        await until(lambda: engine.asked[-1] == ("disconnect", "ligato/vpp1/va+vb"))

    run(tmp_path, engine, play)
