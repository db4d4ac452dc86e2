"""The keys of the engine: op `kv` as bytes on the wire, and EngineKV on top of it."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgpack
import pytest

from fastnl.testing import eventually
from fastnl_engine import kv_requests, wire
from fastnl_engine.auth import NEEDED
from fastnl_engine.client import AsyncClient
from fastnl_engine.kv.base import Entry, KVError, Refused, Unavailable
from fastnl_engine.kv.embedded import EmbeddedKV
from fastnl_engine.kv.remote import EngineKV
from fastnl_engine.kv.testing import eventually as until
from fastnl_engine.testing import EngineProcess, RawSocket

Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def engine(make_keys_engine: Callable[..., EngineProcess]) -> EngineProcess:
    return make_keys_engine().start()


@pytest.fixture
def ask(raw: RawSocket) -> Ask:
    """One request of a key; `id` tells replies apart."""

    def ask(action: str, **fields: Any) -> dict[str, Any]:
        return raw.request(id=action, op="kv", action=action, **fields)

    return ask


def watch(raw: RawSocket, since: int, prefix: str = "", **more: Any) -> None:
    raw.ask(id="watch", op="kv", action="watch", prefix=prefix, since=since, **more)


# -- what is asked and answered ------------------------------------------------------------------------


def test_a_key_is_put_read_and_deleted_alone(ask: Ask) -> None:
    one = ask("put", key="k/veth1", value='{"mtu": 1500}')
    two = ask("put", key="k/veth10", value=b"\xff\x00")
    assert two["revision"] == one["revision"] + 1
    [row] = ask("get", key="k/veth1")["results"]
    assert row == {
        "ok": True, "key": "k/veth1", "value": '{"mtu": 1500}', "create_revision": one["revision"],
        "mod_revision": one["revision"], "version": 1, "lease": 0,
    }  # fmt: skip
    assert ask("get", key="k/veth10")["results"][0]["value"] == b"\xff\x00"
    assert ask("get", key="k/veth")["results"] == []
    assert ask("delete", key="k/veth1")["results"] == [{"ok": True, "deleted": 1}]
    assert ask("delete", key="k/veth1")["results"] == [{"ok": True, "deleted": 0}]
    assert [row["key"] for row in ask("range", prefix="k/")["results"]] == ["k/veth10"]
    assert ask("delete", prefix="k/")["results"] == [{"ok": True, "deleted": 1}]


def test_pages(ask: Ask) -> None:
    keys = [f"k/{n:03}" for n in range(25)]
    for key in [*keys, "l"]:
        ask("put", key=key, value="")
    found, after = [], None
    while True:
        page = ask("range", prefix="k/", limit=10, **({"after": after} if after else {}))
        assert page["revision"] and len(page["results"]) <= 10
        found += [row["key"] for row in page["results"]]
        after = page["after"]
        if after is None:
            break
    assert found == keys


def test_a_page_has_some_megabytes_at_most(ask: Ask) -> None:
    for n in range(6):
        ask("put", key=f"k/{n}", value=bytes(wire.MAX_VALUE))
    page = ask("range", prefix="k/")
    assert 4 <= len(page["results"]) <= 5 and page["after"] == page["results"][-1]["key"]
    assert len(ask("range", prefix="k/", after=page["after"])["results"]) == 6 - len(page["results"])


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"action": "get"}, "bad_request", "key"),
        ({"action": "get", "key": ""}, "bad_request", "key"),
        ({"action": "get", "key": "k", "prefix": "k"}, "bad_request", "prefix"),
        ({"action": "get", "key": "k" * 5000}, "too_large", "key"),
        ({"action": "range"}, "bad_request", "prefix"),
        ({"action": "range", "prefix": "", "limit": 0}, "bad_request", "limit"),
        ({"action": "put", "key": "k"}, "bad_request", "value"),
        ({"action": "put", "key": "k", "value": 7}, "bad_request", "value"),
        ({"action": "put", "key": "k", "value": bytes(wire.MAX_VALUE + 1)}, "too_large", "value"),
        ({"action": "delete"}, "bad_request", "key"),
        ({"action": "delete", "key": "k", "prefix": "k"}, "bad_request", "key"),
        ({"action": "watch", "prefix": ""}, "bad_request", "since"),
        ({"action": "watch", "prefix": "", "since": 1, "wait": 61}, "bad_request", "wait"),
        ({"action": "compact"}, "bad_request", "action"),
        ({}, "bad_request", ""),
    ],
)
def test_what_cannot_be(raw: RawSocket, fields: dict[str, Any], code: str, field: str) -> None:
    reply = raw.request(id=1, op="kv", **fields)
    assert (reply["ok"], reply["error"]["code"], reply["error"].get("field", "")) == (False, code, field), reply
    assert raw.request(id=2, op="kv", action="range", prefix="")["results"] == []


def test_an_engine_without_a_store_says_how_it_gets_one(make_engine: Callable[..., EngineProcess]) -> None:
    reply = make_engine().start().raw().request(id=1, op="kv", action="get", key="k")
    assert reply["error"]["code"] == "no_store"
    assert '[ligato] store = "embedded"' in reply["error"]["message"]


AS_USER = """
from fastnl_engine.client import Client
engine = Client({endpoint!r}, timeout=60)
for fields in [{{"action": "get", "key": "k"}}, {{"action": "range", "prefix": ""}},
               {{"action": "watch", "prefix": "", "since": {since}, "wait": 0}},
               {{"action": "put", "key": "k", "value": ""}}, {{"action": "delete", "key": "k"}}]:
    reply = engine.request("kv", **fields)
    print("ok" if reply["ok"] else reply["error"]["code"])
"""


def test_a_viewer_reads_and_an_operator_writes(make_keys_engine: Callable[..., EngineProcess], tmp_path: Path) -> None:
    config = tmp_path / "engine.toml"
    config.write_text('[roles]\nviewer = ["uid:40001"]\noperator = ["uid:40002"]\n')
    engine = make_keys_engine("--config", str(config)).start()
    for folder in (engine.folder, engine.folder.parent):
        folder.chmod(0o755)
    Path(engine.endpoint.removeprefix("ipc://")).chmod(0o777)
    since = engine.raw().request(id=1, op="kv", action="put", key="k", value="")["revision"]
    script = AS_USER.format(endpoint=engine.endpoint, since=since)
    for uid, expected in (
        (40001, ["ok"] * 3 + ["forbidden"] * 2), (40002, ["ok"] * 5), (40003, ["forbidden"] * 5),
    ):  # fmt: skip
        command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", sys.executable, "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.stdout.split() == expected, done.stderr


def test_every_action_has_its_role() -> None:
    request = wire.Kv(action="get")
    for action in get_args(get_type_hints(wire.Kv)["action"]):
        request.action = action
        assert wire.name_of(request) in NEEDED
        assert action in kv_requests.FIELDS


# -- watching --------------------------------------------------------------------------------------------


def remembered_from(raw: RawSocket) -> int:
    """A revision after which all is known.  The first look begins that, and somebody else's put may come before it."""
    revision: int = raw.request(id=1, op="kv", action="range", prefix="")["revision"]
    watch(raw, revision, wait=0)
    assert raw.reply()["results"] == []
    return revision


def test_a_watch_answers_as_soon_as_there_is_something(engine: EngineProcess, raw: RawSocket) -> None:
    revision = remembered_from(raw)
    watch(raw, revision, "k/", wait=60)
    other = engine.raw()
    other.request(id=1, op="kv", action="put", key="elsewhere", value="1")
    assert not raw.socket.poll(200)
    began = time.monotonic()
    put = other.request(id=1, op="kv", action="put", key="k/1", value="1")
    reply = raw.reply()
    assert time.monotonic() - began < 30  # and not at the end of its time
    assert (reply["id"], reply["revision"]) == ("watch", put["revision"])
    assert [(row["key"], row["value"]) for row in reply["results"]] == [("k/1", "1")]
    watch(raw, reply["revision"], "k/", wait=60)
    other.request(id=1, op="kv", action="delete", key="k/1")
    [row] = raw.reply()["results"]
    assert row == {"ok": True, "key": "k/1", "value": None, "mod_revision": put["revision"] + 1}


def test_a_watch_without_news_ends_with_the_newest_revision(raw: RawSocket, ask: Ask) -> None:
    revision = remembered_from(raw)
    newest = ask("put", key="elsewhere", value="1")["revision"]
    watch(raw, revision, "k/", wait=0.1)
    reply = raw.reply()
    assert (reply["results"], reply["revision"]) == ([], newest)


def test_what_is_not_remembered_is_compacted(raw: RawSocket, ask: Ask) -> None:
    newest = [ask("put", key="k", value=str(n))["revision"] for n in range(3)][-1]
    for since in (0, newest + 100):  # from before the first watch, and of a store that was another
        watch(raw, since, wait=1)
        assert raw.reply()["error"]["code"] == "compacted"
    watch(raw, newest, wait=0)
    assert raw.reply()["ok"]


def test_history_forgets_the_oldest_and_says_so(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(kv_requests, "EVENTS", 5)

    async def run() -> None:
        async with EmbeddedKV(tmp_path / "k.db", durable=False) as kv:
            history = kv_requests.History(kv)
            first = await kv.put("k/0", b"")
            assert await history.since(first, "", 0.2) == ([], first)
            for n in range(12):
                last = await kv.put(f"k/{n}", b"x")
            events, reached = await history.since(last - 5, "", 5)
            assert (len(events), reached) == (5, last)
            with pytest.raises(kv_requests.Compacted):
                await history.since(first, "", 5)
            await history.close()

    asyncio.run(run())


def test_a_request_of_many_changes_is_told_as_a_whole(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(kv_requests, "PAGE_BYTES", 1)

    async def run() -> None:
        async with EmbeddedKV(tmp_path / "k.db", durable=False) as kv:
            history = kv_requests.History(kv)
            for n in range(4):
                first = await kv.put(f"k/{n}", b"")
            await history.since(first, "", 0.2)
            await kv.delete_prefix("k/")
            await kv.put("k/9", b"")
            events, reached = await history.since(first, "", 5)
            assert (len(events), reached) == (4, first + 1)
            events, reached = await history.since(reached, "", 5)
            assert ([e.key for e in events], reached) == (["k/9"], first + 2)
            await history.close()

    asyncio.run(run())


def test_a_stop_answers_who_waits(engine: EngineProcess, raw: RawSocket, ask: Ask) -> None:
    revision = ask("put", key="k", value="kept")["revision"]
    watch(raw, revision, wait=60)
    assert not raw.socket.poll(300)
    assert engine.stop() == 0, engine.log
    assert raw.reply()["error"]["code"] == "shutting_down"
    engine.start()
    assert raw.request(id=1, op="kv", action="get", key="k")["results"][0]["value"] == "kept"


def test_watches_of_one_client_are_counted(engine: EngineProcess, raw: RawSocket, ask: Ask) -> None:
    revision = ask("range", prefix="")["revision"]
    for _ in range(9):
        watch(raw, revision, wait=60)
    assert raw.reply()["error"]["code"] == "busy"
    assert engine.raw().request(id=1, op="kv", action="put", key="k", value="")["ok"]
    assert all(raw.reply()["ok"] for _ in range(8))


# -- EngineKV --------------------------------------------------------------------------------------------


def with_kv(engine: EngineProcess, work: Callable[[EngineKV], Any]) -> None:
    async def run() -> None:
        async with AsyncClient(engine.endpoint, timeout=60) as client:
            await work(EngineKV(client))

    asyncio.run(run())


def test_engine_kv_does_what_a_store_does(engine: EngineProcess) -> None:
    async def work(kv: EngineKV) -> None:
        revision = await kv.put("k/1", b"\xff")
        assert await kv.get("k/1") == Entry("k/1", b"\xff", revision, revision, 1)
        assert await kv.get("k/2") is None
        # more at once than one client may have waiting
        await asyncio.gather(*(kv.put(f"k/{n:05}", b"x" * 1000) for n in range(200)))
        snapshot = await kv.get_prefix("k/")
        assert len(snapshot.entries) == 201 and list(snapshot.entries) == sorted(snapshot.entries)
        assert (await kv.delete("k/1"), await kv.delete("k/1")) == (True, False)
        assert await kv.delete_prefix("k/") == 200
        with pytest.raises(Refused, match="key: is empty"):
            await kv.get("")

    with_kv(engine, work)


def test_engine_kv_watch_loses_nothing_over_a_restart(engine: EngineProcess, monkeypatch) -> None:
    monkeypatch.setattr("fastnl_engine.kv.remote.POLL", 1.0)
    copy: dict[str, bytes] = {}

    async def follow(kv: EngineKV, until: str) -> None:
        async with contextlib.aclosing(kv.watch("k/")) as batches:
            async for batch in batches:
                for event in batch.events:
                    if event.entry is None:
                        del copy[event.key]
                    else:
                        copy[event.key] = event.entry.value
                if until in copy:
                    return

    async def work(kv: EngineKV) -> None:
        await kv.put("k/gone", b"1")
        follower = asyncio.create_task(follow(kv, "k/end"))
        await until(lambda: "k/gone" in copy)
        await kv.put("k/a", b"1")
        await asyncio.to_thread(engine.restart)
        await kv.delete("k/gone")
        await kv.put("k/a", b"2")
        await kv.put("k/end", b"")
        await follower
        assert copy == {"k/a": b"2", "k/end": b""}

    with_kv(engine, work)


def test_engine_kv_says_what_is_wrong(make_engine: Callable[..., EngineProcess]) -> None:
    engine = make_engine().start()

    async def work(kv: EngineKV) -> None:
        with pytest.raises(KVError, match=r'store = "embedded"'):
            await kv.get("k")

    with_kv(engine, work)
    engine.stop()

    async def alone() -> None:
        async with AsyncClient(engine.endpoint, timeout=0.2) as client:
            with pytest.raises(Unavailable, match="is fastnl-engine running"):
                await EngineKV(client).get("k")

    asyncio.run(alone())


def test_many_clients_at_once(engine: EngineProcess) -> None:
    """Puts of several threads, all of which a watch of another tells of, in the order of their revisions."""
    raw = engine.raw()
    since = remembered_from(raw)
    watch(raw, since, "k/", wait=60)

    def put(name: str) -> None:
        mine = engine.raw()
        for n in range(50):
            assert mine.request(id=n, op="kv", action="put", key=f"k/{name}/{n}", value=str(n))["ok"]

    threads = [threading.Thread(target=put, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    seen: list[tuple[int, str]] = []
    while len(seen) < 150:
        reply = raw.reply()
        assert reply["ok"], reply
        seen += [(row["mod_revision"], row["key"]) for row in reply["results"]]
        watch(raw, reply["revision"], "k/", wait=60)
    for thread in threads:
        thread.join()
    assert [revision for revision, _ in seen] == list(range(since + 1, since + 151))
    assert len({key for _, key in seen}) == 150


def test_frames_that_are_not_quite_keys(raw: RawSocket) -> None:
    for fields in ({"key": 5}, {"key": None}, {"action": 5}, {"key": {"a": "b"}}, {"wait": "x"}, {"since": -1}):
        raw.send(msgpack.packb({"v": 1, "id": 1, "op": "kv", "action": "get", "key": "k"} | fields))
        assert raw.reply()["error"]["code"] == "bad_request"
    assert eventually(lambda: raw.request(id=2, op="info")["ok"])
