"""Keys that are there as long as their writer: put with a lease, many at a time, and only what has changed."""

from __future__ import annotations

import asyncio

import structlog

from fastnl_engine.kv.base import KV, Delete, KVError, Op, Put, Refused

MOST = 100  # keys of one transaction
FIRST, LAST = 0.1, 5.0  # seconds until what failed is tried again

log = structlog.get_logger()


class Publisher:
    """Has the store agree with what `put` was told, whatever happens to the store meanwhile.

    ttl   seconds after which the keys vanish when their writer does
    """

    def __init__(self, kv: KV, ttl: int) -> None:
        self._kv = kv
        self._ttl = ttl
        self._wanted: dict[str, bytes] = {}
        self._dirty: dict[str, None] = {}  # in the order in which they will be written
        self._news = asyncio.Event()
        self._lease = 0
        self._most = MOST
        self._trouble = ""

    def put(self, key: str, value: bytes | None) -> None:
        """What the key shall be from now on; None: not there."""
        if value == self._wanted.get(key):
            return
        if value is None:
            del self._wanted[key]
        else:
            self._wanted[key] = value
        self._dirty[key] = None
        self._news.set()

    async def run(self) -> None:
        """Writes until it is cancelled, and then takes all of it away."""
        lease = self._kv.lease(self._ttl, self._granted)
        try:
            wait = FIRST
            while True:
                await self._news.wait()
                if await self._write():
                    wait = FIRST
                else:
                    await asyncio.sleep(wait)
                    wait = min(LAST, wait * 2)
        finally:
            await lease.close()

    async def _granted(self, lease: int) -> None:
        """Keys of a lease that was lost are gone."""
        self._lease = lease
        self._dirty = dict.fromkeys(self._wanted) | self._dirty
        self._news.set()

    async def _write(self) -> bool:
        """Writes some of what is to be written; False: that failed."""
        keys = [key for key, _ in zip(self._dirty, range(self._most), strict=False)]
        if not keys or not self._lease:
            self._news.clear()
            return True
        lease = self._lease
        ops: list[Op] = [Put(key, self._wanted[key], lease) if key in self._wanted else Delete(key) for key in keys]
        for key in keys:
            del self._dirty[key]
        try:
            await self._kv.txn([], ops)
        except KVError as e:
            # behind all others, so that one that is refused, however often, is in nobody's way
            self._dirty |= dict.fromkeys(keys)
            if isinstance(e, Refused):
                self._most = max(1, len(keys) // 2)
            if str(e) != self._trouble:
                self._trouble = str(e)
                log.warning("status cannot be written", reason=self._trouble, values=len(self._dirty))
            return False
        if self._trouble:
            self._trouble = ""
            log.info("status is written again")
        self._most = min(MOST, self._most * 2)
        return True
