"""A host that does not come back, and one that was removed and comes back after all.

removed/<host> comes first, and in one transaction host/<host> goes: from then on nothing new can name the host.  Then
its halves are dropped, one connection after the other, each in a transaction of its own.  Whoever does that may die on
the way: the same command goes on, and so does the host itself, if it ever starts again.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import structlog

from fastnl_engine import wire
from fastnl_engine.fleet import plan
from fastnl_engine.fleet.desk import Desk, new_token
from fastnl_engine.fleet.keys import Keys
from fastnl_engine.fleet.membership import Membership
from fastnl_engine.fleet.records import Half, Removed, decode, encode
from fastnl_engine.kv.base import Compare, Delete, Entry, Get, Put, absent

if TYPE_CHECKING:
    from fastnl_engine.kv.etcd import EtcdKV

PAGE = 256  # halves that are looked at together
FLYING = 16  # of them that are dropped at once

log = structlog.get_logger()


class Removal:
    def __init__(self, kv: EtcdKV, keys: Keys, membership: Membership, desk: Desk) -> None:
        self._kv = kv
        self._keys = keys
        self._membership = membership
        self._desk = desk

    async def remove(self, host: str, *, force: bool) -> dict[str, Any]:
        """Gives how many connections went with it.  Raises KVError, ProtocolError."""
        keys = self._keys
        names = [keys.host(host), keys.alive(host), keys.removed(host)]
        read = await self._kv.txn([], [Get(key) for key in names])
        there, alive, removed = (e if isinstance(e, Entry) else None for e in read.results)
        if there is None and removed is None:
            raise wire.ProtocolError("host_unknown", f"host: the fleet has no host {host!r}", field="host")
        if removed is None:
            problem = f"host: the engine of {host} is alive; stop it first, or use `force`: then it takes all away"
            if alive is not None and not force:
                raise wire.ProtocolError("conflict", problem, field="host")
            compares: list[Compare] = [] if force else [absent(keys.alive(host))]
            mark = Put(keys.removed(host), encode(Removed(time.time(), self._membership.name)))
            if not (await self._kv.txn(compares, [mark, Delete(keys.host(host)), Delete(keys.alive(host))])).succeeded:
                raise wire.ProtocolError("conflict", problem, field="host")
            log.warning("host removed from the fleet", host=host, forced=force)
        return {"ok": True, "host": host, "removed": await self.drop(host)}

    async def drop(self, host: str) -> int:
        """Takes the halves of a removed host out of the fleet, and with them their connections."""
        prefix = self._keys.halves(host)
        asked = asyncio.Semaphore(FLYING)

        async def one(entry: Entry) -> None:
            async with asked:
                await self._drop(host, entry.key.removeprefix(prefix), entry)

        count = 0
        more = True
        while more:
            entries, more = await self._kv.page(prefix, limit=PAGE)
            await asyncio.gather(*(one(entry) for entry in entries))
            count += len(entries)
        await self._kv.delete_prefix(self._keys.outcomes(host))
        await self._kv.delete(self._keys.news(host))
        return count

    async def _drop(self, host: str, id_: str, entry: Entry | None) -> None:
        """Drops one half; what others are doing to the connection meanwhile is looked at again."""
        keys = self._keys
        while entry is not None:
            agreed, revision, leftovers = (await self._desk.look([id_]))[id_]
            compares = [Compare(entry.key, "mod_revision", "=", entry.mod_revision)]
            ops: list[Any] = [Delete(entry.key), Delete(keys.outcome(host, id_))]
            if agreed is not None and host in agreed.ends.values():
                step = plan.disconnect(self._desk.view, id_, new_token(), agreed, revision, leftovers, without=host)
                compares += step.compares
                ops += step.ops
            elif agreed is not None and agreed.removing:
                # the last one ends the connection: then that is us
                half = decode(Half, entry)
                others = await self._desk.there(id_, [h for h in (half.others if half else agreed.hosts) if h != host])
                compares += [Compare(keys.connection(id_), "mod_revision", "=", revision)]
                compares += [
                    Compare(keys.half(h, id_), "version", ">" if is_there else "=", 0) for h, is_there in others.items()
                ]
                if not any(others.values()):
                    vnis = [agreed.vni, *agreed.spent] if agreed.vni else agreed.spent
                    ops += [Delete(keys.connection(id_)), *(Delete(keys.vni(agreed.port, vni)) for vni in vnis)]
            if (await self._kv.txn(compares, ops)).succeeded:
                return
            entry = await self._kv.get(entry.key)

    async def come_back(self) -> None:
        """This host was removed, and nothing of the fleet is in its kernel any more: it may join anew."""
        host = self._membership.name
        await self.drop(host)
        await self._kv.delete(self._keys.removed(host))
        log.warning("this host had been removed from the fleet")
