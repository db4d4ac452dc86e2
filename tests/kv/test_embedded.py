"""What only the embedded store has: a file."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import subprocess
import sys

import pytest

from fastnl.testing import spawn
from fastnl_engine.kv.base import KVError, Put, Refused
from fastnl_engine.kv.embedded import EmbeddedKV
from fastnl_engine.kv.mirror import Mirror
from fastnl_engine.kv.testing import eventually


async def test_the_file_keeps_everything_but_leases(tmp_path):
    path = tmp_path / "kv.db"
    async with EmbeddedKV(path) as kv:
        await kv.put("stays", b"1")
        lease = kv.lease(5)
        await eventually(lambda: lease.alive)
        last = await kv.put("leased", b"1", lease=lease.id)
        # no close of the lease: as at a kill
        kv._leases.clear()
        stays = await kv.get("stays")
    assert path.stat().st_mode & 0o777 == 0o600
    async with EmbeddedKV(path) as kv:
        assert dict((await kv.get_prefix("")).entries) == {"stays": stays}
        assert await kv.put("next", b"") == last + 2  # the deletion was a change
        with pytest.raises(Refused, match="lease 1 is not there"):
            await kv.put("a", b"", lease=1)
        async with kv.lease(5) as new:
            await eventually(lambda: new.alive)
            assert new.id == 2  # never the number of an older one


async def test_only_one_process_has_the_file(tmp_path):
    path = tmp_path / "kv.db"
    async with EmbeddedKV(path) as kv:
        await kv.put("a", b"1")
        with pytest.raises(KVError, match="no other engine using the file"):
            EmbeddedKV(path)
        assert (await kv.get("a")).value == b"1"
    async with EmbeddedKV(path) as kv:
        assert (await kv.get("a")).value == b"1"


async def test_files_that_cannot_be_used(tmp_path):
    with pytest.raises(KVError, match="is the folder there"):
        EmbeddedKV(tmp_path / "no" / "kv.db")
    (tmp_path / "junk").write_bytes(b"this is no database at all" * 1000)
    with pytest.raises(KVError, match="damaged"):
        EmbeddedKV(tmp_path / "junk")
    with contextlib.closing(sqlite3.connect(tmp_path / "new")) as db:
        db.execute("PRAGMA user_version=999")
    with pytest.raises(KVError, match="newer fastnl"):
        EmbeddedKV(tmp_path / "new")


async def test_a_full_disk_refuses_and_changes_nothing(tmp_path):
    async with EmbeddedKV(tmp_path / "kv.db") as kv, Mirror(kv, "") as mirror:
        first = await anext(mirror)
        kv._table._db.execute("PRAGMA max_page_count=20")
        with pytest.raises(Refused, match="disk full"):
            await kv.txn([], [Put("small", b"1"), Put("large", bytes(1 << 20))])
        assert "full" in kv.trouble
        assert await kv.get("small") is None and kv.trouble == ""
        kv._table._db.execute("PRAGMA max_page_count=1000000")
        assert await kv.put("small", b"2") == first.revision + 1
        [change] = (await anext(mirror)).changes
        assert (change.key, change.new.value) == ("small", b"2")


async def test_a_mistake_of_the_caller_is_the_callers_alone(tmp_path):
    async with EmbeddedKV(tmp_path / "kv.db") as kv:
        results = await asyncio.gather(
            kv.put("a", b"1"), kv.put("b", object()), kv.put("c", b"1"), return_exceptions=True
        )
        assert isinstance(results[1], Exception)
        assert list((await kv.get_prefix("")).entries) == ["a", "c"]


async def test_what_comes_together_is_committed_together(tmp_path):
    async with EmbeddedKV(tmp_path / "kv.db") as kv:
        commits = []
        commit = kv._commit

        def counted(jobs):
            commits.append(len(jobs))
            return commit(jobs)

        kv._commit = counted
        revisions = await asyncio.gather(*(kv.put(f"k{i}", b"") for i in range(2000)))
        assert sorted(revisions) == list(range(2, 2002))  # one each, all the same
        assert sum(commits) == 2000 and len(commits) < 1000


async def test_nothing_that_was_acknowledged_is_lost_by_a_kill(tmp_path):
    path = tmp_path / "kv.db"
    program = f"""
import asyncio, pathlib
from fastnl_engine.kv.embedded import EmbeddedKV
async def main():
    kv = EmbeddedKV(pathlib.Path({str(path)!r}))
    for i in range(10**9):
        await asyncio.gather(*(kv.put(f"k{{i * 10 + j}}", b"") for j in range(10)))
        print(i, flush=True)
asyncio.run(main())
"""
    process = spawn([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if int(line) >= 50:
            break
    process.kill()
    said = [int(line), *map(int, process.stdout.read().split("\n")[:-1])]
    process.wait()
    process.stdout.close()
    async with EmbeddedKV(path) as kv:
        keys = (await kv.get_prefix("")).entries
        assert {f"k{n}" for n in range(said[-1] * 10 + 10)} <= set(keys)
