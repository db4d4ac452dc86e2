"""What a desk decides on while this host itself loses its place in the fleet."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import msgspec
import pytest

from fastnl_engine.fleet.desk import Desk
from fastnl_engine.fleet.keys import Keys
from fastnl_engine.fleet.plan import Job
from fastnl_engine.fleet.records import Host
from fastnl_engine.kv.base import TxnResult, Unavailable
from fastnl_engine.model import Connection

ENDS = {end: {"netns": "n", "ifname": end, "host": "one"} for end in "ab"}
PAIR = msgspec.convert({"id": "c", "kind": "veth", **ENDS}, Connection)


def test_a_host_whose_lease_runs_out_does_not_call_itself_away():
    replies = []
    ready = asyncio.Event()
    ready.set()
    alive = {"one": None}

    async def catch_up(_):
        pass

    class Store:
        async def txn(self, _, ops):
            ready.clear()
            alive.clear()
            return TxnResult(True, 2, [None for _ in ops])

    membership = SimpleNamespace(
        name="one", hosts={"one": Host("192.0.2.1", 1500, "i")}, alive=alive, ready=ready, catch_up=catch_up
    )
    desk = Desk(Store(), Keys("test"), membership, None, SimpleNamespace(pick=lambda: 7), 4789, 20)
    job = Job("connect", "c", replies.append, "t", 0.0, PAIR)
    desk.submit(job)
    with pytest.raises(Unavailable):
        asyncio.run(desk._decide([job]))
    assert replies == [], "it was answered, though it can be done in a moment"
