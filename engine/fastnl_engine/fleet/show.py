"""What `fleet` and `list` tell.  Long lists come in pages, and a page costs what it shows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from fastnl_engine.fleet.answers import row_of
from fastnl_engine.fleet.halves import Halves
from fastnl_engine.fleet.keys import Keys
from fastnl_engine.fleet.membership import Membership
from fastnl_engine.fleet.records import Agreed, Outcome, decode
from fastnl_engine.fleet.reports import read
from fastnl_engine.kv.base import Entry
from fastnl_engine.looplane import Answer, Rows

if TYPE_CHECKING:
    from fastnl_engine.kv.etcd import EtcdKV

FLYING = 16  # counts of hosts that are asked for at once


class Show:
    def __init__(self, kv: EtcdKV, keys: Keys, membership: Membership, halves: Halves, port: int) -> None:
        self._kv = kv
        self._keys = keys
        self._membership = membership
        self._halves = halves
        self._port = port

    async def hosts(self, limit: int, after: str | None) -> Answer:
        members = self._membership
        names = sorted(name for name in members.hosts if after is None or name > after)
        rows: Rows = []
        asked = asyncio.Semaphore(FLYING)

        async def row(name: str) -> dict[str, Any]:
            async with asked:
                count = await self._kv.count(self._keys.halves(name))
            host, alive = members.hosts[name], members.alive.get(name)
            return {
                "ok": True, "host": name, "alive": alive is not None, "since": alive.since if alive else None,
                "address": host.address, "mtu": host.mtu, "connections": count, "version": host.version,
                **({"strays": len(self._halves.strays)} if name == members.name and members.registered else {}),
            }  # fmt: skip

        rows = list(await asyncio.gather(*(row(name) for name in islice(names, limit))))
        connections, vnis = await asyncio.gather(
            self._kv.count(self._keys.connections), self._kv.count(self._keys.vnis(self._port))
        )
        totals = {
            "hosts": len(members.hosts), "alive": len(members.alive.keys() & members.hosts.keys()),
            "connections": connections, "vnis": vnis,
        }  # fmt: skip
        more = {"after": names[limit - 1] if len(names) > limit else None}
        here = {"here": members.name, "joined": members.registered, "reason": members.trouble}
        return rows, {**here, "totals": totals, **more}

    async def connections(self, limit: int, after: str | None) -> Answer:
        prefix = self._keys.connections
        entries, more = await self._kv.page(prefix, after=prefix + after if after is not None else "", limit=limit)
        rows = await self._rows(entries)
        return rows, {"after": entries[-1].key.removeprefix(prefix) if more else None}

    async def vnis(self, limit: int, after: str | None) -> Answer:
        prefix = self._keys.vnis(self._port)
        last = f"{prefix}{int(after):08}" if after is not None and after.isascii() and after.isdigit() else ""
        entries, more = await self._kv.page(prefix, after=last, limit=limit)
        rows: Rows = []
        for e in entries:
            number = e.key.removeprefix(prefix)
            vni = int(number) if number.isascii() and number.isdigit() else number
            rows.append({"ok": True, "vni": vni, "port": self._port, "id": e.value.decode(errors="replace")})
        return rows, {"after": str(rows[-1]["vni"]) if more else None}

    async def of(self, ids: Sequence[str]) -> Rows:
        """Those of some connections that there are."""
        found = await read(self._kv, [self._keys.connection(id_) for id_ in ids])
        return await self._rows([entry for entry in found if entry is not None])

    async def _rows(self, entries: Sequence[Entry]) -> Rows:
        agreed = {e.key.removeprefix(self._keys.connections): a for e in entries if (a := decode(Agreed, e))}
        asked = [(id_, host) for id_, one in agreed.items() for host in one.hosts]
        outcomes: dict[str, dict[str, Outcome | None]] = {id_: {} for id_ in agreed}
        found = await read(self._kv, [self._keys.outcome(host, id_) for id_, host in asked])
        for (id_, host), entry in zip(asked, found, strict=True):
            outcomes[id_][host] = decode(Outcome, entry)
        return [row_of(id_, one, outcomes[id_], self._membership.alive) for id_, one in agreed.items()]
