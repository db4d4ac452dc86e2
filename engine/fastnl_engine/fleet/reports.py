"""Tells the fleet what became of this host's halves, and takes the keys of those away that are gone.

What has come while a transaction was on its way goes together in the next one.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Sequence
from itertools import islice
from typing import NamedTuple

import structlog

from fastnl_engine.fleet.keys import Keys
from fastnl_engine.fleet.records import Half, News, Outcome, encode
from fastnl_engine.kv.base import KV, OPS, Compare, Delete, Entry, Get, KVError, Op, Put, absent

TOGETHER = 24  # outcomes of one transaction
AGAIN = 0.5  # seconds

log = structlog.get_logger()


class Report(NamedTuple):
    """An outcome of a half as it was at a revision of its key."""

    half: Half
    revision: int
    outcome: Outcome


class Reports:
    """told   the outcomes of this host as they are in etcd"""

    def __init__(self, kv: KV, keys: Keys, host: str) -> None:
        self._kv = kv
        self._keys = keys
        self._host = host
        self.told: dict[str, Outcome] = {}
        self._due: dict[str, Report] = {}
        self._flying: Collection[str] = ()
        self._news = asyncio.Event()

    def put(self, id_: str, report: Report) -> None:
        # what is being told right now will be what was told last
        if self.told.get(id_) == report.outcome and id_ not in self._flying:
            self._due.pop(id_, None)
        else:
            self._due[id_] = report
            self._news.set()

    def generation(self, id_: str) -> int:
        """That the last report of a half was about; 0: there was none."""
        due = self._due.get(id_)
        outcome = due.outcome if due is not None else self.told.get(id_)
        return outcome.generation if outcome is not None else 0

    def forget(self, id_: str) -> None:
        """The half is another one, or nobody's business any more."""
        self._due.pop(id_, None)

    async def run(self) -> None:
        size = TOGETHER
        while True:
            await self._news.wait()
            part = self._part(size)
            if not part:
                self._news.clear()
                continue
            self._flying = part.keys()
            try:
                done = await self._send(part)
            except KVError as e:
                # whether it was done or not: saying it again says the same, and a half that is gone compares as such
                log.debug("outcomes not told", reason=str(e))
                await asyncio.sleep(AGAIN)
                continue
            finally:
                self._flying = ()
            size = min(TOGETHER, 2 * size) if len(done) == len(part) else max(1, size // 4)
            for id_ in done:
                if self._due.get(id_) is part[id_]:
                    del self._due[id_]

    def _part(self, most: int) -> dict[str, Report]:
        """The first of what is due, as much as one transaction takes; a single one always."""
        part: dict[str, Report] = {}
        weight = 0
        for id_, report in islice(self._due.items(), most):
            half, gone = report.half, report.outcome.state == "gone"
            # operations, the news among them; it has no more compares than that, but for the hosts that it had once
            weight += max(4 + len(half.vnis) if gone else 2, 1 + len(half.others))
            if part and weight > OPS:
                break
            part[id_] = report
        return part

    async def _send(self, part: dict[str, Report]) -> Collection[str]:
        """Gives those that are done with.

        One whose half is another one by now is, too: it comes again with that.  But when another host let go of its
        half between our look and the transaction, it is all to be looked at again.
        """
        compares: list[Compare] = []
        ops: list[Op] = []
        news: dict[str, list[News]] = defaultdict(list)
        remaining = await self._remaining({i: r.half for i, r in part.items() if r.outcome.state == "gone"})
        for id_, (half, revision, outcome) in part.items():
            compares.append(Compare(self._keys.half(self._host, id_), "mod_revision", "=", revision))
            news[half.home].append(News(id_, self._host, outcome))
            if outcome.state != "gone":
                ops.append(Put(self._keys.outcome(self._host, id_), encode(outcome)))
                continue
            ops += [Delete(self._keys.half(self._host, id_)), Delete(self._keys.outcome(self._host, id_))]
            if not half.ending:
                continue
            # two hosts that come at the same time: the second one finds the first one's half gone, and compares again
            for other, there in remaining[id_].items():
                key = self._keys.half(other, id_)
                compares.append(Compare(key, "version", ">", 0) if there else absent(key))
            if not any(remaining[id_].values()):
                ops.append(Delete(self._keys.connection(id_)))
                ops += [Delete(self._keys.vni(half.port, vni)) for vni in half.vnis]
        ops += [Put(self._keys.news(home), encode(rows)) for home, rows in news.items()]
        if not (await self._kv.txn(compares, ops)).succeeded:
            now = await read(self._kv, [self._keys.half(self._host, id_) for id_ in part])
            return [
                id_
                for (id_, report), half in zip(part.items(), now, strict=True)
                if half is None or half.mod_revision != report.revision
            ]
        for id_, report in part.items():
            if report.outcome.state == "gone":
                self.told.pop(id_, None)
            else:
                self.told[id_] = report.outcome
        return part.keys()

    async def _remaining(self, halves: dict[str, Half]) -> dict[str, dict[str, bool]]:
        """For each connection that ends, whether the halves of other hosts are there still."""
        asked = [(id_, other) for id_, half in halves.items() if half.ending for other in half.others]
        found: dict[str, dict[str, bool]] = {id_: {} for id_ in halves}
        entries = await read(self._kv, [self._keys.half(other, id_) for id_, other in asked])
        for (id_, other), entry in zip(asked, entries, strict=True):
            found[id_][other] = entry is not None
        return found


async def read(kv: KV, keys: Sequence[str]) -> list[Entry | None]:
    """Many keys, each None where there is none; not all at one moment."""
    parts = [keys[at : at + OPS] for at in range(0, len(keys), OPS)]
    answers = await asyncio.gather(*(kv.txn([], [Get(key) for key in part]) for part in parts))
    return [e if isinstance(e, Entry) else None for answer in answers for e in answer.results]
