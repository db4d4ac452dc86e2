"""Whoever waits for a connection hears that it is another one by now."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import msgspec
import pytest

from fastnl_engine.fleet.keys import Keys
from fastnl_engine.fleet.records import Agreed, Outcome, encode
from fastnl_engine.fleet.waits import Wait, Waits
from fastnl_engine.kv.base import Entry, TxnResult
from fastnl_engine.model import Connection

KEYS = Keys("test")
HOSTS = ("one", "two")


def agreed(generation, address="10.0.0.1/24", **more):
    ends = [{"netns": "n", "ifname": "e", "host": host, "addresses": [address]} for host in HOSTS]
    spec = msgspec.convert({"id": "c", "kind": "veth", "a": ends[0], "b": ends[1]}, Connection)
    return Agreed(spec, generation, "token", list(HOSTS), 7, 4789, **more)


class Store:
    def __init__(self, now):
        self.values = {KEYS.connection("c"): encode(now)} if now is not None else {}

    async def txn(self, _, ops):
        found = [Entry(op.key, self.values[op.key], 1, 2, 1) if op.key in self.values else None for op in ops]
        return TxnResult(True, 2, found)


def looked(before, now, *outcomes):
    """What a wait knows after a look."""

    async def look():
        store = Store(now)
        store.values |= {KEYS.outcome(host, "c"): encode(outcome) for host, outcome in outcomes}
        membership = SimpleNamespace(name="one", alive=dict.fromkeys(HOSTS))
        waits = Waits(store, KEYS, membership)
        wait = Wait("c", before, impatient=True)
        waits.put(wait)
        await waits._read([wait])
        return wait

    return asyncio.run(look())


@pytest.mark.parametrize(
    ("now", "gone", "other"),
    [
        (None, True, False),
        (agreed(5), False, False),
        (agreed(6, removing=True), True, False),
        (agreed(6, "10.0.0.9/24"), False, True),
        # ended and made anew: its generations begin anew, too
        (agreed(1, "10.0.0.9/24"), True, False),
        (agreed(1), True, False),
        (agreed(5, "10.0.0.9/24"), False, True),
    ],
)
def test_what_has_become_of_it(now, gone, other):
    wait = looked(agreed(5), now)
    assert (wait.gone, wait.other) == (gone, other)
    assert wait.done.is_set() == (gone or other)


def test_a_removal_is_over_when_another_one_was_made_since():
    assert looked(agreed(5, removing=True), agreed(1)).done.is_set()


def test_another_number_is_waited_for_in_place_of_the_first():
    up = [(host, Outcome(6, "up")) for host in HOSTS]
    wait = looked(agreed(5), agreed(6, spent=[3]), *up)
    assert wait.done.is_set() and not wait.gone and wait.agreed.generation == 6
