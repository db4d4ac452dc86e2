"""Numbers for tunnels: a guess, which the transaction proves right or wrong."""

from __future__ import annotations

import random
import time

from fastnl_engine.fleet.keys import Keys
from fastnl_engine.kv.base import KV

CROWDED = 6  # guesses that may be wrong before it is read which numbers are free
AHEAD = 64  # numbers that are found to be free at once
AGAIN = 0.5  # seconds until it is looked again whether there is one


class NoneLeft(Exception):
    """Every number has its connection."""


class Vnis:
    """Guesses at random, so that desks that allocate at the same time seldom meet: of 2^24 numbers with a million in
    use one guess in sixteen is wrong.  Where numbers are few, those that are free are read."""

    def __init__(self, kv: KV, keys: Keys, port: int, first: int, last: int) -> None:
        self._kv = kv
        self._keys = keys
        self._port = port
        self._first, self._last = first, last
        self._free: list[int] = []
        self._none_until = 0.0

    def pick(self) -> int:
        """Raises NoneLeft."""
        if self._none_until > time.monotonic():
            raise NoneLeft(
                f"vxlan.vni: all {self._count} numbers of the fleet are in use ({self._first} to {self._last}); "
                "disconnect something, or widen fleet.vni_first and fleet.vni_last"
            )
        return self._free.pop() if self._free else random.randint(self._first, self._last)

    @property
    def _count(self) -> int:
        return self._last - self._first + 1

    async def look(self) -> None:
        """Reads which numbers are free, for the next few guesses.  Raises KVError."""
        prefix = self._keys.vnis(self._port)
        numbers = (key.removeprefix(prefix) for key in (await self._kv.get_prefix(prefix)).entries)
        taken = {int(number) for number in numbers if number.isascii() and number.isdigit()}
        if 2 * len(taken) < self._count:
            some = {random.randint(self._first, self._last) for _ in range(2 * AHEAD)} - taken
            free = list(some)
        else:
            free = [vni for vni in range(self._first, self._last + 1) if vni not in taken]
        random.shuffle(free)
        self._free = free[:AHEAD]
        self._none_until = 0.0 if free else time.monotonic() + AGAIN
