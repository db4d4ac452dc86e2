"""What holds in etcd and embedded alike."""

from __future__ import annotations

import asyncio
import contextlib
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastnl_engine.kv import open_etcd
from fastnl_engine.kv.base import (
    Compacted,
    Compare,
    Delete,
    DeletePrefix,
    Get,
    KVError,
    Put,
    Refused,
    Snapshot,
    absent,
    prefix_range,
    unchanged,
)
from fastnl_engine.kv.embedded import EmbeddedKV
from fastnl_engine.kv.mirror import Mirror
from fastnl_engine.kv.testing import eventually


async def values(kv, prefix=""):
    return {key: entry.value for key, entry in (await kv.get_prefix(prefix)).entries.items()}


async def test_a_key_is_put_read_and_deleted(open_kv):
    async with open_kv() as kv:
        assert await kv.get("a") is None
        first = await kv.put("a", b"1")
        second = await kv.put("a", b"2")
        entry = await kv.get("a")
        assert (entry.key, entry.value, entry.version, entry.lease) == ("a", b"2", 2, 0)
        assert (entry.create_revision, entry.mod_revision) == (first, second) and second == first + 1
        assert await kv.delete("a") is True
        assert await kv.delete("a") is False
        assert await kv.get("a") is None
        assert await kv.put("a", b"") == second + 2
        assert (await kv.get("a")).version == 1


async def test_delete_takes_one_key_only(open_kv):
    async with open_kv() as kv:
        for key in ("x", "x/1", "x/2", "xy", "y"):
            await kv.put(key, b"")
        assert await kv.delete("x") is True
        assert list(await values(kv)) == ["x/1", "x/2", "xy", "y"]
        assert await kv.delete_prefix("x/") == 2
        assert list(await values(kv)) == ["xy", "y"]
        assert await kv.delete_prefix("") == 2
        assert await values(kv) == {}


async def test_a_prefix_ends_where_it_ends(open_kv):
    async with open_kv() as kv:
        keys = ["a/", "a/1", "a/\uffff", "a/\U0010ffff", "a/\udcff", "a/\udcff\udcff", "a0", "b"]
        for key in keys:
            await kv.put(key, key.encode("utf-8", "surrogateescape"))
        assert set(await values(kv, "a/")) == set(keys[:-2])
        assert set(await values(kv, "a/\udcff")) == {"a/\udcff", "a/\udcff\udcff"}
        assert set(await values(kv)) == set(keys)


@given(st.text(max_size=5), st.binary(max_size=6))
def test_prefix_range_holds_what_begins_with_it(prefix, key):
    start, end = prefix_range(prefix)
    key = key or b"k"
    inside = start <= key and (end == b"\0" or key < end)
    assert inside == key.startswith(prefix.encode()) or (not prefix and inside == (key >= b"\0"))
    assert start <= prefix.encode() + key and (end == b"\0" or prefix.encode() + key < end)


async def test_everything_of_one_moment_has_its_revision(open_kv):
    async with open_kv() as kv:
        await kv.put("a", b"1")
        snapshot = await kv.get_prefix("")
        assert snapshot.revision == (await kv.get("a")).mod_revision
        assert await kv.get_prefix("", revision=snapshot.revision) == snapshot


async def test_a_transaction_is_done_as_a_whole_or_not_at_all(open_kv):
    async with open_kv() as kv:
        done = await kv.txn([absent("a"), absent("b")], [Put("a", b"1"), Put("b", b"1")])
        assert done.succeeded and list(done.results) == [None, None]
        a, b = await kv.get("a"), await kv.get("b")
        assert a.mod_revision == b.mod_revision == done.revision

        lost = await kv.txn([absent("c"), absent("b")], [Put("c", b"1")], [Get("b"), Get("c")])
        assert not lost.succeeded and list(lost.results) == [b, None]
        assert lost.revision == done.revision and await kv.get("c") is None

        await kv.put("a", b"2")
        assert not (await kv.txn([unchanged(a)], [Delete("a")])).succeeded
        assert (await kv.txn([unchanged(await kv.get("a"))], [Delete("a")])).results == [1]
        mixed = await kv.txn([], [DeletePrefix("b"), Put("a", b"3"), Get("a"), Delete("x")])
        assert mixed.results[0] == 1 and mixed.results[2].value == b"3" and mixed.results[3] == 0


@pytest.mark.parametrize(
    ("compare", "holds"),
    [
        (Compare("a", "version", "=", 2), True),
        (Compare("a", "version", ">", 2), False),
        (Compare("a", "value", "=", b"m"), True),
        (Compare("a", "value", "!=", b"m"), False),
        (Compare("a", "value", "<", b"n"), True),
        (Compare("a", "value", ">", b"n"), False),
        (Compare("a", "lease", "=", 0), True),
        (Compare("no", "version", "<", 1), True),
        (Compare("no", "mod_revision", "=", 0), True),
        (Compare("no", "create_revision", "!=", 0), False),
        (Compare("no", "lease", "=", 0), True),
        (Compare("no", "value", "=", b""), False),
        (Compare("no", "value", "!=", b"m"), False),
    ],
)
async def test_compares(open_kv, compare, holds):
    async with open_kv() as kv:
        await kv.put("a", b"l")
        await kv.put("a", b"m")
        assert (await kv.txn([compare], [])).succeeded is holds


async def test_what_etcd_would_not_take_is_refused(open_kv):
    async with open_kv() as kv:
        for ops in (
            [Put("a", b"1"), Put("a", b"2")],
            [Put("a/1", b"1"), DeletePrefix("a/")],
            [Delete("a"), Put("a", b"1")],
            [Put(f"k{i}", b"") for i in range(129)],
        ):
            with pytest.raises(Refused):
                await kv.txn([], ops)
            with pytest.raises(Refused):
                await kv.txn([absent("a")], [], ops)
        with pytest.raises(Refused, match="empty key"):
            await kv.put("", b"")
        before = (await kv.get_prefix("")).revision
        with pytest.raises(Refused, match="lease"):
            await kv.txn([], [Put("a", b""), Put("b", b"", lease=12345)])
        assert await kv.get_prefix("") == Snapshot("", before, {})
        with pytest.raises(Refused, match=r"revision"):
            await kv.get("a", revision=10**9)
        assert await values(kv) == {}
        assert len((await kv.txn([], [Put(f"k{i}", b"") for i in range(128)])).results) == 128


KEYS = st.sampled_from(["a", "a/", "a/1", "a/2", "b"])
OPS = st.one_of(
    st.builds(Get, KEYS),
    st.builds(Put, KEYS, st.binary(max_size=3)),
    st.builds(Delete, KEYS),
    st.builds(DeletePrefix, st.sampled_from(["a", "a/", "b", ""])),
)
COMPARES = st.one_of(
    st.builds(Compare, KEYS, st.just("value"), st.sampled_from("=<>") | st.just("!="), st.binary(max_size=2)),
    st.builds(
        Compare, KEYS, st.sampled_from(["version", "lease"]), st.sampled_from("=<>") | st.just("!="), st.integers(0, 3)
    ),
)
TXNS = st.tuples(st.lists(COMPARES, max_size=2), st.lists(OPS, max_size=4), st.lists(OPS, max_size=2))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TXNS, min_size=1, max_size=12))
def test_both_do_the_same(etcd, tmp_path, txns):
    """Results, contents and the batches of a watch, with revisions counted from the start."""

    async def follow(kv):
        await kv.delete_prefix("")
        origin = await kv.put("origin", b"")
        seen, said = [], []
        async with contextlib.aclosing(kv.watch("")) as watch:
            await anext(watch)
            for compares, then, otherwise in txns:
                try:
                    result = await kv.txn(compares, then, otherwise)
                    said.append(
                        (result.succeeded, result.revision - origin, [plain(r, origin) for r in result.results])
                    )
                except Refused:
                    said.append("refused")
            end = await kv.put("end", b"")
            async for batch in watch:
                seen += [(e.key, plain(e.entry, origin), e.revision - origin) for e in batch.events]
                if batch.revision == end:
                    break
        seen.sort(key=lambda e: (e[2], e[0]))  # within a transaction etcd's order is that of its operations
        contents = {k: plain(e, origin) for k, e in (await kv.get_prefix("")).entries.items()}
        return said, seen, contents

    def plain(result, origin):
        if result is None or isinstance(result, int):
            return result
        return result.key, result.value, result.version, result.create_revision - origin, result.mod_revision - origin

    async def both():
        (tmp_path / "kv.db").unlink(missing_ok=True)
        async with open_etcd(etcd.urls) as remote, EmbeddedKV(tmp_path / "kv.db", durable=False) as local:
            assert await follow(local) == await follow(remote)

    asyncio.run(both())


# -- watches -----------------------------------------------------------------------------------------


async def test_a_watch_begins_with_what_is_there(open_kv):
    async with open_kv() as kv:
        await kv.put("w/1", b"1")
        await kv.put("v", b"")
        async with contextlib.aclosing(kv.watch("w/")) as watch:
            first = await anext(watch)
            assert first.reread and [(e.key, e.entry.value) for e in first.events] == [("w/1", b"1")]
            await kv.put("v", b"2")
            done = await kv.txn([], [Put("w/2", b"2"), Delete("w/1")])
            batch = await anext(watch)
            assert not batch.reread and batch.revision == done.revision
            assert {e.key: e.entry and e.entry.value for e in batch.events} == {"w/1": None, "w/2": b"2"}


async def test_a_watch_of_nothing_says_so(open_kv):
    async with open_kv() as kv, contextlib.AsyncExitStack() as stack:
        watch = await stack.enter_async_context(contextlib.aclosing(kv.watch("none/")))
        first = await anext(watch)
        assert first.reread and not first.events


async def test_a_watch_goes_on_from_a_snapshot(open_kv):
    async with open_kv() as kv:
        await kv.put("w/1", b"1")
        await kv.put("w/2", b"1")
        await kv.put("w/3", b"1")
        snapshot = await kv.get_prefix("w/")
        await kv.put("w/1", b"2")
        await kv.delete("w/2")
        last = await kv.put("w/4", b"2")
        told = {}
        async with contextlib.aclosing(kv.watch("w/", since=snapshot)) as watch:
            async for batch in watch:
                told |= {e.key: e.entry and e.entry.value for e in batch.events}
                if batch.revision == last:
                    break
        assert told == {"w/1": b"2", "w/2": None, "w/4": b"2"}


async def test_a_mirror_is_gathered_while_its_reader_is_busy(open_kv):
    async with open_kv() as kv, Mirror(kv, "m/") as mirror:
        first = await anext(mirror)
        assert first.reread and not first.changes
        for i in range(20):
            await kv.put("m/often", b"%d" % i)
        await kv.put("m/short", b"")
        await kv.delete("m/short")
        last = await kv.put("m/last", b"")
        await eventually(lambda: mirror._reached == last)
        step = await anext(mirror)
        assert {(c.key, c.old, c.new.value) for c in step.changes} == {("m/often", None, b"19"), ("m/last", None, b"")}
        assert step.revision == mirror.revision == last
        assert {k: e.value for k, e in mirror.contents.items()} == await values(kv, "m/")

        await kv.put("m/often", b"new")
        [change] = (await anext(mirror)).changes
        assert (change.old.value, change.new.value) == (b"19", b"new")
        await kv.delete("m/often")
        [change] = (await anext(mirror)).changes
        assert (change.old.value, change.new) == (b"new", None) and "m/often" not in mirror.contents


async def test_mirrors_follow_many_writers(open_kv):
    async with open_kv() as kv, Mirror(kv, "") as one, Mirror(kv, "1/") as other:

        async def write(name):
            for i in range(30):
                await kv.put(f"{name}/{i % 7}", b"%d" % i)
                if i % 3 == 0:
                    await kv.delete(f"{name}/{(i + 1) % 7}")

        await asyncio.gather(*(write(i) for i in range(5)))
        end = await kv.put("1/end", b"")
        for mirror in (one, other):
            async for step in mirror:
                if step.revision == end:
                    break
            assert mirror.contents == dict((await kv.get_prefix(mirror.prefix)).entries)


async def test_closing_the_store_ends_its_watches(open_kv):
    async with open_kv() as kv:
        mirror = await Mirror(kv, "").__aenter__()
        await anext(mirror)
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(anext(mirror), 30)
    with pytest.raises(KVError, match="closed"):
        await kv.get("a")


# -- leases ------------------------------------------------------------------------------------------


async def test_keys_go_with_their_lease(open_kv):
    async with open_kv() as kv:
        granted = asyncio.Event()

        async def publish(lease):
            await kv.put("l/1", b"", lease=lease)
            await kv.put("l/2", b"", lease=lease)
            granted.set()

        async with kv.lease(5, publish) as lease:
            await asyncio.wait_for(granted.wait(), 30)
            assert lease.alive and (await kv.get("l/1")).lease == lease.id
            await kv.put("l/2", b"stays")
        assert not lease.alive
        assert await values(kv, "l/") == {"l/2": b"stays"}


async def test_what_a_grant_calls_may_fail_at_first(open_kv):
    async with open_kv() as kv:
        calls = []
        granted = asyncio.Event()

        async def publish(lease):
            calls.append(lease)
            if len(calls) == 1:
                raise KVError("not yet")
            granted.set()

        async with kv.lease(1, publish) as lease:
            await asyncio.wait_for(granted.wait(), 30)
            assert calls[-1] == lease.id


async def test_no_lease_of_no_time(open_kv):
    async with open_kv() as kv:
        with pytest.raises(KVError, match="least is 1"):
            kv.lease(0)


# -- from elsewhere ----------------------------------------------------------------------------------


async def test_other_threads_hand_over_to_the_loop(open_kv):
    async with open_kv() as kv:
        loop = asyncio.get_running_loop()
        revisions = []

        def work(name):
            for i in range(10):
                put = asyncio.run_coroutine_threadsafe(kv.put(f"{name}", b"%d" % i), loop)
                revisions.append(put.result(60))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await asyncio.to_thread(thread.join)
        assert len(set(revisions)) == 40
        assert await values(kv) == {str(n): b"9" for n in range(4)}


async def test_old_revisions(open_kv):
    async with open_kv() as kv:
        old = await kv.put("a", b"1")
        await kv.put("a", b"2")
        try:
            assert (await kv.get("a", revision=old)).value == b"1"
            assert (await kv.get_prefix("", revision=old)).entries["a"].value == b"1"
        except Compacted as e:
            assert "history" in str(e) and isinstance(kv, EmbeddedKV)
