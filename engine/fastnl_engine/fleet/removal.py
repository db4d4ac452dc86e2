"""A host that does not come back, and one that was removed and comes back after all.

removed/<host>/<identity> comes first, and in one transaction host/<host> goes: from then on nothing new can name the
host.  Then its halves are dropped, one connection after the other, each in a transaction of its own.  Whoever does that
may die on the way: the same command goes on, and so does the host itself, if it ever starts again.  As long as there
are halves nobody else gets the name; whoever gets it then is another host, of which nothing is dropped.
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
from fastnl_engine.fleet.records import Alive, Half, Host, Removed, decode, encode
from fastnl_engine.fleet.reports import read
from fastnl_engine.kv.base import Compare, Delete, DeletePrefix, Entry, Op, Put, absent, unchanged

if TYPE_CHECKING:
    from fastnl_engine.kv.etcd import EtcdKV

PAGE = 256  # halves that are looked at together
FLYING = 16  # of them that are dropped at once

log = structlog.get_logger()


class Removal:
    def __init__(self, kv: EtcdKV, keys: Keys, membership: Membership, desk: Desk) -> None:
        self._kv = kv
        self._keys = keys
        self._here = membership
        self._desk = desk

    async def remove(self, host: str, *, force: bool) -> dict[str, Any]:
        """Gives how many connections went with it.  Raises KVError, ProtocolError."""
        keys = self._keys
        known = keys.host(host), keys.alive(host)
        there, alive = await read(self._kv, known)
        if there is None and not await self._kv.count(keys.halves(host)) + await self._kv.count(keys.removals(host)):
            raise wire.ProtocolError("host_unknown", f"host: the fleet has no host {host!r}", field="host")
        while there is not None:
            if alive is not None and not force:
                problem = f"host: the engine of {host} is alive; stop it first, or use `force`: then it takes all away"
                raise wire.ProtocolError("conflict", problem, field="host")
            who = decode(Host, there) or decode(Alive, alive)
            mark = Put(keys.removed(host, who.identity if who else ""), encode(Removed(time.time(), self._here.name)))
            compares = [unchanged(there), *([] if force else [absent(keys.alive(host))])]
            if (await self._kv.txn(compares, [mark, *map(Delete, known)])).succeeded:
                log.warning("host removed from the fleet", host=host, forced=force)
                break
            there, alive = await read(self._kv, known)
        return {"ok": True, "host": host, "removed": await self.drop(host)}

    async def drop(self, host: str) -> int:
        """Takes the halves of a removed host out of the fleet, and with them their connections.

        As soon as somebody has that name again, it leaves things alone: what there is then may be theirs.
        """
        prefix = self._keys.halves(host)
        asked = asyncio.Semaphore(FLYING)

        async def one(entry: Entry) -> bool:
            async with asked:
                return await self._drop(host, entry.key.removeprefix(prefix), entry)

        count = 0
        more = True
        while more:
            entries, more = await self._kv.page(prefix, limit=PAGE)
            dropped = await asyncio.gather(*(one(entry) for entry in entries))
            count += sum(dropped)
            more = more and all(dropped)
        leftovers: list[Op] = [DeletePrefix(self._keys.outcomes(host)), Delete(self._keys.news(host))]
        await self._kv.txn([absent(self._keys.host(host))], leftovers)
        return count

    async def _drop(self, host: str, id_: str, entry: Entry | None) -> bool:
        """Drops one half; what others are doing to the connection meanwhile is looked at again.

        Gives false when somebody is registered with the name of the host.
        """
        keys = self._keys
        while entry is not None:
            agreed, revision, leftovers = (await self._desk.look([id_]))[id_]
            compares = [Compare(entry.key, "mod_revision", "=", entry.mod_revision), absent(keys.host(host))]
            ops: list[Op] = [Delete(entry.key), Delete(keys.outcome(host, id_))]
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
                return True
            entry, somebody = await read(self._kv, [entry.key, keys.host(host)])
            if somebody is not None:
                return False
        return True

    async def come_back(self) -> None:
        """This host was removed, and nothing of the fleet is in its kernel any more: it may join anew."""
        await self.drop(self._here.name)
        await self._kv.delete(self._keys.removed(self._here.name, self._here.identity))
        log.warning("this host had been removed from the fleet")
