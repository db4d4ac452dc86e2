"""What a host has to tell goes in transactions that etcd takes, however much of it there is."""

from __future__ import annotations

import asyncio

from fastnl_engine.fleet.keys import Keys
from fastnl_engine.fleet.records import Half, Outcome, encode
from fastnl_engine.fleet.reports import Report, Reports
from fastnl_engine.kv.embedded import EmbeddedKV


def test_many_that_end_at_once_with_numbers_of_their_own_and_homes_far_apart(tmp_path):
    keys = Keys("f")

    async def main() -> None:
        async with EmbeddedKV(tmp_path / "keys.db") as kv:
            reports = Reports(kv, keys, "one")
            for n in range(60):
                vnis = [3 * n + 1, 3 * n + 2, 3 * n + 3]  # two of them a kernel had for something else
                half = Half(2, f"home{n}", ending=True, vnis=vnis, port=4789)
                await kv.put(keys.connection(f"c{n}"), b"{}")
                for vni in vnis:
                    await kv.put(keys.vni(4789, vni), f"c{n}".encode())
                revision = await kv.put(keys.half("one", f"c{n}"), encode(half))
                reports.put(f"c{n}", Report(half, revision, Outcome(2, "gone")))
            running = asyncio.create_task(reports.run())
            async with asyncio.timeout(15):
                while len(left := (await kv.get_prefix(keys.root)).entries) > 60:
                    assert not running.done()
                    await asyncio.sleep(0.02)
            running.cancel()
            assert all(key.startswith(f"{keys.root}news/") for key in left)

    asyncio.run(main())
