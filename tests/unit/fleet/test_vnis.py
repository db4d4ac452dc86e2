"""Numbers for tunnels are guessed, and looked up where guesses are wrong."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from fastnl_engine.fleet.keys import Keys
from fastnl_engine.fleet.vnis import NoneLeft, Vnis

KEYS = Keys("test")


class Store:
    def __init__(self, taken):
        self.taken = taken

    async def get_prefix(self, prefix):
        assert prefix == KEYS.vnis(4789)
        return SimpleNamespace(entries=[KEYS.vni(4789, n) for n in self.taken] + [prefix + "junk"])


def test_guesses_are_within_bounds():
    vnis = Vnis(Store([]), KEYS, 4789, 100, 103)
    assert {vnis.pick() for _ in range(200)} == {100, 101, 102, 103}


def test_the_last_free_one_is_found():
    vnis = Vnis(Store([n for n in range(1000, 2000) if n != 1234]), KEYS, 4789, 1000, 1999)
    asyncio.run(vnis.look())
    assert vnis.pick() == 1234


def test_of_many_numbers_not_all_are_enumerated():
    vnis = Vnis(Store(range(1, 1000)), KEYS, 4789, 1, (1 << 24) - 1)
    asyncio.run(vnis.look())
    assert all(vnis.pick() >= 1000 for _ in range(20))


def test_none_is_left_until_it_is_looked_again():
    store = Store([1, 2, 3])
    vnis = Vnis(store, KEYS, 4789, 1, 3)
    asyncio.run(vnis.look())
    with pytest.raises(NoneLeft, match="1 to 3"):
        vnis.pick()
    store.taken = [1, 3]
    asyncio.run(vnis.look())
    assert vnis.pick() == 2


def test_keys_of_numbers_are_in_their_order():
    keys = [KEYS.vni(4789, n) for n in (9, 10, 99, 100, 1 << 20, (1 << 24) - 1)]
    assert keys == sorted(keys)
