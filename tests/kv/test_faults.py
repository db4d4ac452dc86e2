"""What etcd may do to its clients: die, hang, forget, lose its majority or its data, be full."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
import urllib.request

import pytest

from fastnl.testing import PATIENCE
from fastnl_engine.kv import open_etcd
from fastnl_engine.kv.base import Compacted, KVError, OutcomeUnknown, Refused, Unavailable
from fastnl_engine.kv.mirror import Mirror
from fastnl_engine.kv.testing import eventually, free_port

RECEIVED = "grpc_server_msg_received_total"


def held(mirror):
    return {key: entry.value for key, entry in mirror.contents.items()}


async def until(mirror, contents):
    """Steps until it holds these; gives the steps."""
    steps = []
    async with asyncio.timeout(PATIENCE):
        while held(mirror) != contents:
            steps.append(await anext(mirror))
    return steps


# -- one member --------------------------------------------------------------------------------------


async def test_killed_and_started_again_nothing_is_lost(make_etcd):
    etcd = make_etcd()
    async with open_etcd(etcd.urls, heartbeat=1) as kv, Mirror(kv, "m/") as mirror:
        await kv.put("m/1", b"1")
        await until(mirror, {"m/1": b"1"})
        for i in range(3):
            await asyncio.to_thread(etcd.kill)
            with pytest.raises(Unavailable, match="is it running") as e:
                await kv.get("m/1")
            # what the kernel says at the time: refused, or that the connection was reset
            assert etcd.urls[0] in str(e.value) and any(word in str(e.value) for word in ("efused", "reset"))
            with pytest.raises(Unavailable):
                await kv.put("m/never", b"")
            assert etcd.urls[0] in kv.trouble
            # a copy stays as it is while nobody can tell
            step = asyncio.ensure_future(anext(mirror))
            await asyncio.sleep(1)
            assert not step.done() and "m/1" in mirror.contents
            await asyncio.to_thread(etcd.start)
            etcd.ctl("put", "m/new", str(i))
            await step
            await until(mirror, {"m/1": b"1", "m/new": b"%d" % i})
            await kv.get("m/1")
            assert kv.trouble == ""


async def test_a_client_may_come_first(make_etcd):
    etcd = make_etcd()
    etcd.kill()
    calls = []

    async def publish(lease):
        await kv.put("m/me", b"", lease=lease)
        calls.append(lease)

    async with open_etcd(etcd.urls) as kv, Mirror(kv, "m/") as mirror, kv.lease(10, publish) as lease:
        await asyncio.sleep(0.5)
        assert lease.id == 0 and not lease.alive
        await asyncio.to_thread(etcd.start)
        await until(mirror, {"m/me": b""})
        await eventually(lambda: calls == [lease.id])
        assert lease.alive


async def test_compacted_while_away_the_difference_is_told(make_etcd):
    """Others go on with the rest of the cluster, and compact, while our only member is down."""
    etcd = make_etcd(size=3)
    ours, *others = etcd.members
    elsewhere = [m.url for m in others]
    async with open_etcd([ours.url], heartbeat=1) as kv, Mirror(kv, "m/") as mirror:
        for key in ("m/stays", "m/changes", "m/goes"):
            await kv.put(key, b"1")
        await until(mirror, {"m/stays": b"1", "m/changes": b"1", "m/goes": b"1"})
        for compacted in (False, True):
            ours.kill()
            await asyncio.to_thread(etcd.settle)
            etcd.ctl("put", "m/changes", f"2 {compacted}", endpoints=elsewhere)
            etcd.ctl("del", "m/goes", endpoints=elsewhere)
            etcd.ctl("put", "m/short", "", endpoints=elsewhere)
            etcd.ctl("del", "m/short", endpoints=elsewhere)
            etcd.ctl("put", "m/comes", f"{compacted}", endpoints=elsewhere)
            async with open_etcd(elsewhere) as other:
                if compacted:
                    now = (await other.get_prefix("")).revision
                    await other.compact(now)
                    with pytest.raises(Compacted, match="compacted"):
                        await other.get("m/stays", revision=now - 1)
            await asyncio.to_thread(etcd.start)
            want = {"m/stays": b"1", "m/changes": f"2 {compacted}".encode(), "m/comes": f"{compacted}".encode()}
            steps = await until(mirror, want)
            assert any(step.reread for step in steps) is compacted
            told = {c.key for step in steps for c in step.changes}
            assert "m/stays" not in told
            # and then it is an ordinary watch again
            await kv.put("m/goes", b"1")
            await until(mirror, want | {"m/goes": b"1"})
            await kv.delete("m/comes")


async def test_compaction_under_a_live_watch_changes_nothing(make_etcd):
    etcd = make_etcd()
    async with open_etcd(etcd.urls) as kv, Mirror(kv, "m/") as mirror:
        await kv.put("m/1", b"")
        await until(mirror, {"m/1": b""})
        await kv.put("m/1", b"live")
        await until(mirror, {"m/1": b"live"})
        for i in range(5):
            await kv.put("m/1", b"%d" % i)
            await kv.compact(await kv.put("elsewhere", b""))
        assert not any(step.reread for step in await until(mirror, {"m/1": b"4"}))


@pytest.mark.parametrize("compacted", [False, True])
async def test_what_happens_between_two_pages(etcd, compacted):
    """Nothing of it is in the answer; unless it is compacted, then the reading begins anew."""
    async with open_etcd(etcd.urls) as kv:
        for i in range(150):
            last = await kv.put(f"p/{i:03}", b"")
        asked = []
        ask = kv._range

        async def hooked(request):
            response = await ask(request)
            asked.append(request.revision)
            if len(asked) == 1:
                await kv.delete("p/149")
                new = await kv.put("p/new", b"")
                if compacted:
                    await kv.compact(new)
            return response

        kv._range = hooked
        snapshot = await kv.get_prefix("p/")
        assert ("p/new" in snapshot.entries, "p/149" in snapshot.entries) == (compacted, not compacted)
        assert snapshot.revision == (snapshot.entries["p/new"].mod_revision if compacted else last)


async def test_an_etcd_without_its_data_is_believed(make_etcd):
    """It counts from one again: a watch from a revision yet to come would wait for ever."""
    etcd = make_etcd()
    async with open_etcd(etcd.urls, heartbeat=1) as kv, Mirror(kv, "m/") as mirror:
        await kv.put("m/same", b"old")
        for i in range(20):
            await kv.put("m/1", b"%d" % i)
        await until(mirror, {"m/same": b"old", "m/1": b"19"})
        etcd.kill()
        etcd.members[0].lose_data()
        await asyncio.to_thread(etcd.start)
        etcd.ctl("put", "m/same", "new")
        await until(mirror, {"m/same": b"new"})
        await kv.put("m/2", b"")
        await until(mirror, {"m/same": b"new", "m/2": b""})


async def test_a_hung_member_is_noticed(make_etcd):
    etcd = make_etcd()
    async with open_etcd(etcd.urls, timeout=4, heartbeat=1) as kv, Mirror(kv, "m/") as mirror:
        await kv.put("m/1", b"1")
        await until(mirror, {"m/1": b"1"})
        etcd.members[0].hang()
        with pytest.raises(Unavailable, match="in time"):
            await kv.get("m/1")
        with pytest.raises(OutcomeUnknown, match="read the key"):
            await kv.put("m/2", b"1")
        await eventually(lambda: "silent" in kv.trouble or "answer" in kv.trouble)
        etcd.members[0].go_on()
        # what it had received it may do now
        await eventually(lambda: kv.get("m/1"))
        await kv.delete("m/2")
        await kv.put("m/3", b"1")
        await until(mirror, {"m/1": b"1", "m/3": b"1"})


async def test_silence_alone_ends_a_stream(make_etcd):
    """With no other request that would find out."""
    etcd = make_etcd()
    async with open_etcd(etcd.urls, heartbeat=1) as kv:
        async with contextlib.aclosing(kv.watch("m/")) as watch:
            await anext(watch)
            following = asyncio.ensure_future(anext(watch))
            await asyncio.sleep(3)
            assert kv.trouble == ""  # quiet is not silent
            etcd.members[0].hang()
            await eventually(lambda: "silent" in kv.trouble)
            etcd.members[0].go_on()
            etcd.ctl("put", "m/1", "1")
            batch = await following
            assert [e.key for e in batch.events] == ["m/1"] and not batch.reread


async def test_an_answer_to_somebody_else_speaks_for_a_quiet_watch(make_etcd):
    etcd = make_etcd()

    def asked():  # what etcd has received over the streams of watches
        with urllib.request.urlopen(f"{etcd.urls[0]}/metrics", timeout=PATIENCE) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(x.rpartition(" ")[2]) for x in lines if x.startswith(RECEIVED) and 'method="Watch"' in x)

    async with open_etcd(etcd.urls, heartbeat=1) as kv, contextlib.AsyncExitStack() as stack:
        for prefix in ("m/", "n/", "o/", "p/"):
            await anext(await stack.enter_async_context(Mirror(kv, prefix)))
        counts = []
        for interval in (0.02, 6):
            await eventually(lambda: asked() >= 4)
            before, end = asked(), time.monotonic() + 6
            while time.monotonic() < end:
                await asyncio.sleep(interval)
                await kv.get("x/1")
            counts.append(asked() - before)
        assert counts[0] < counts[1] / 2, counts


async def test_full(make_etcd):
    etcd = make_etcd("--quota-backend-bytes", str(1 << 20))
    async with open_etcd(etcd.urls) as kv:
        with pytest.raises(Refused, match=r"space exceeded; compact and defragment"):
            for i in range(200):
                await kv.put(f"f/{i}", bytes(64 << 10))
        assert (await kv.get("f/0")).value == bytes(64 << 10)
        [member] = await kv.members()
        assert "NOSPACE" in member.error


async def test_too_large(etcd):
    async with open_etcd(etcd.urls) as kv:
        for size in (1_700_000, 3_000_000):
            with pytest.raises(Refused, match=r"too large; .*max-request-bytes"):
                await kv.put("large", bytes(size))
        assert await kv.get("large") is None


# -- several members ---------------------------------------------------------------------------------


async def test_one_of_three_is_killed_and_comes_back(make_etcd):
    etcd = make_etcd(size=3)
    async with open_etcd(etcd.urls, heartbeat=1) as kv, Mirror(kv, "m/") as mirror, kv.lease(5) as lease:
        await eventually(lambda: lease.alive)
        leased = lease.id
        want = {}
        for i in range(3):
            victim = etcd.member(kv.endpoint)  # the one in use
            victim.kill()
            await eventually(lambda i=i: put(kv, f"m/{i}", b"1"))
            want[f"m/{i}"] = b"1"
            await until(mirror, want)
            assert kv.endpoint != victim.url
            [dead] = [m for m in await kv.members() if m.error]
            assert dead.url == victim.url and "efused" in dead.error
            await asyncio.to_thread(etcd.start)
        assert lease.alive and lease.id == leased
        members = await kv.members()
        assert [m.url for m in members] == sorted(etcd.urls)
        assert sum(m.leader for m in members) == 1 and all(m.version.startswith("3.") for m in members)


async def put(kv, key, value):
    await kv.put(key, value)
    return True


async def test_one_of_three_hangs(make_etcd):
    etcd = make_etcd(size=3)
    async with open_etcd(etcd.urls, timeout=9, heartbeat=1) as kv, Mirror(kv, "m/") as mirror:
        await kv.put("m/1", b"1")
        await until(mirror, {"m/1": b"1"})
        victim = etcd.member(kv.endpoint)
        victim.hang()
        assert (await kv.get("m/1")).value == b"1"  # the next one answers within the time
        async with open_etcd([m.url for m in etcd.members if m is not victim]) as other:
            await eventually(lambda: put(other, "m/2", b"1"))
        await until(mirror, {"m/1": b"1", "m/2": b"1"})
        victim.go_on()


async def test_without_a_majority_nothing_is_told_and_afterwards_everything(make_etcd):
    etcd = make_etcd(size=3)
    async with open_etcd(etcd.urls, timeout=6, heartbeat=1) as kv, Mirror(kv, "m/") as mirror:
        await kv.put("m/1", b"1")
        await until(mirror, {"m/1": b"1"})
        for member in etcd.members[:2]:
            member.kill()
        with pytest.raises(Unavailable):
            await kv.get("m/1")
        with pytest.raises((Unavailable, OutcomeUnknown)):
            await kv.put("m/2", b"1")
        assert kv.trouble
        await asyncio.to_thread(etcd.start)
        await kv.put("m/2", b"2")
        await until(mirror, {"m/1": b"1", "m/2": b"2"})


async def test_a_watch_does_not_stay_with_a_member_that_lost_the_others(make_etcd):
    """It would answer for ever that nothing has happened."""
    etcd = make_etcd(size=3)
    alone, *others = etcd.members
    async with open_etcd([alone.url], heartbeat=0.3) as kv, Mirror(kv, "m/") as mirror:
        await anext(mirror)
        await kv.put("m/1", b"1")
        await until(mirror, {"m/1": b"1"})
        for member in others:
            member.hang()
        await eventually(lambda: "no leader" in kv.trouble)
        for member in others:
            member.go_on()
        await eventually(lambda: put(kv, "m/2", b"1"))
        await until(mirror, {"m/1": b"1", "m/2": b"1"})


async def test_dead_endpoints_in_the_list_cost_nothing_but_time(etcd):
    for _ in range(4):  # the order is by chance
        dead = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
        async with open_etcd([*dead, *etcd.urls]) as kv:
            for i in range(5):
                await kv.put("d", b"%d" % i)
            assert kv.endpoint == etcd.urls[0] and (await kv.get("d")).value == b"4"


async def test_an_endpoint_that_takes_connections_and_says_nothing(etcd):
    """Nothing was sent to it, so a write goes to the next one without a doubt."""
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        for _ in range(4):  # the order is by chance
            async with open_etcd([url, *etcd.urls], timeout=6) as kv:
                await kv.put("d", b"1")
        async with open_etcd([url], timeout=1) as kv:
            for _ in range(2):
                with pytest.raises(Unavailable, match="does not answer") as e:
                    await kv.put("d", b"2")
                assert url in str(e.value)
        async with open_etcd(etcd.urls) as kv:
            assert (await kv.get("d")).version == 4


@pytest.mark.parametrize("url", ["", "127.0.0.1", "ftp://127.0.0.1:1", "http://:2379", "http://h:port"])
def test_what_is_no_endpoint(url):
    with pytest.raises(KVError, match=r"no endpoint.*HOST:PORT"):
        open_etcd([url])
    with pytest.raises(KVError, match="no endpoint"):
        open_etcd([])


# -- leases ------------------------------------------------------------------------------------------


async def test_a_lost_lease_is_granted_anew(make_etcd):
    etcd = make_etcd()
    calls = []

    async def publish(lease):
        await kv.put("host/me", b"", lease=lease)
        calls.append(lease)

    async with open_etcd(etcd.urls) as kv, kv.lease(2, publish) as lease:
        await eventually(lambda: len(calls) == 1)
        first = lease.id
        etcd.ctl("lease", "revoke", f"{first:x}")
        assert await kv.get("host/me") is None
        await eventually(lambda: len(calls) == 2)
        assert lease.id == calls[1] != first and lease.alive
        assert (await kv.get("host/me")).lease == lease.id


async def test_a_kept_lease_outlives_its_time(make_etcd):
    etcd = make_etcd()
    async with open_etcd(etcd.urls) as kv:
        async with kv.lease(2) as lease:

            async def gone():
                return await kv.get("k") is None

            await eventually(lambda: lease.alive)
            await kv.put("k", b"", lease=lease.id)
            first = lease.id
            await asyncio.sleep(5)
            assert lease.id == first and await kv.get("k")
            lease._keeper.cancel()  # its owner is gone
            await eventually(gone)
            assert not lease.alive


async def test_whether_a_lease_is_alive_is_known_without_etcd(make_etcd):
    etcd = make_etcd()
    async with open_etcd(etcd.urls) as kv, kv.lease(2) as lease:
        await eventually(lambda: lease.alive)
        etcd.kill()
        await eventually(lambda: not lease.alive)
        await asyncio.to_thread(etcd.start)
        await eventually(lambda: lease.alive)


# -- many and large ----------------------------------------------------------------------------------


async def test_ten_thousand_keys(etcd, record_property):
    async with open_etcd(etcd.urls) as kv:
        value = bytes(1024)
        gate = asyncio.Semaphore(64)

        async def write(i):
            async with gate:
                await kv.put(f"many/{i:05}", value)

        await asyncio.gather(*(write(i) for i in range(10_000)))
        sizes = []
        ask = kv._range

        async def hooked(request):
            response = await ask(request)
            sizes.append(response.ByteSize())
            return response

        kv._range = hooked
        begin = time.perf_counter()
        snapshot = await kv.get_prefix("many/")
        record_property("seconds to read 10,000 keys of 1 KiB", time.perf_counter() - begin)
        assert list(snapshot.entries) == [f"many/{i:05}" for i in range(10_000)]
        assert len(sizes) > 2 and max(sizes) < 4 << 20  # what gRPC takes if it is not told otherwise
        async with Mirror(kv, "many/") as mirror:
            assert len((await anext(mirror)).changes) == 10_000
            etcd.ctl("del", "many/", "--prefix")
            await until(mirror, {})


async def test_large_values(etcd):
    async with open_etcd(etcd.urls) as kv, Mirror(kv, "l/") as mirror:
        for i in range(12):
            await kv.put(f"l/{i:02}", bytes([i]) * 1_000_000)
        want = {f"l/{i:02}": bytes([i]) * 1_000_000 for i in range(12)}
        await until(mirror, want)
        assert {k: e.value for k, e in (await kv.get_prefix("l/")).entries.items()} == want
