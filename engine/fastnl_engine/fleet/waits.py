"""Jobs that wait for what hosts make of their halves.

What an outcome says is in its key, for ever; that there is one, the news tell: one key for each desk, which all hosts
put, and of which the desk sees every value.  So an engine watches a handful of keys, whatever the number of
connections.  News may be lost in a gap of the watch: then, and when somebody has waited for long, the outcomes are
read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Sequence

import structlog

from fastnl_engine.fleet.keys import Keys
from fastnl_engine.fleet.membership import Membership
from fastnl_engine.fleet.records import Agreed, News, Outcome, decode
from fastnl_engine.fleet.reports import read
from fastnl_engine.kv.base import KV, KVError

LOOK = 1.0  # seconds until outcomes are read for one that waits, at first; then ever later

log = structlog.get_logger()


class Wait:
    """For one connection.

    agreed     what is waited for; while it is removed, until nothing of it is left
    outcomes   so far, by host
    impatient  one end that waits for its namespace is enough to be done
    made       the change that it waits for is in etcd; before that what is there says nothing
    gone       there is no connection any more, or it is being removed
    other      somebody else wants it otherwise by now
    """

    def __init__(self, id_: str, agreed: Agreed, *, impatient: bool) -> None:
        self.id = id_
        self.agreed = agreed
        self.impatient = impatient
        self.outcomes: dict[str, Outcome] = {}
        self.made = self.gone = self.other = False
        self.done = asyncio.Event()
        self.look_at = 0.0
        self.pause = LOOK


class Waits:
    def __init__(self, kv: KV, keys: Keys, membership: Membership) -> None:
        self._kv = kv
        self._keys = keys
        self._membership = membership
        self._waits: dict[str, Wait] = {}
        self._look = asyncio.Event()

    def put(self, wait: Wait) -> None:
        """Before the change is made that it waits for: its news may come before the answer of the transaction."""
        wait.look_at = asyncio.get_running_loop().time() + wait.pause
        if not self._waits:
            self._look.set()  # until now there was no reason to look at the clock
        self._waits[wait.id] = wait

    def drop(self, wait: Wait) -> None:
        if self._waits.get(wait.id) is wait:
            del self._waits[wait.id]

    def alive_changed(self) -> None:
        for wait in self._waits.values():
            self._judge(wait)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._keep_looking())

    async def _follow(self) -> None:
        # not a mirror: each value of the key counts
        async with contextlib.aclosing(self._kv.watch(self._keys.news(self._membership.name))) as batches:
            async for batch in batches:
                if batch.reread:  # what was between is not known
                    self.look_now(self._waits)
                    continue
                for event in batch.events:
                    self._hear(decode(list[News], event.entry) or [])

    def _hear(self, rows: Sequence[News]) -> None:
        for row in rows:
            wait = self._waits.get(row.id)
            if wait is None:
                continue
            if row.outcome.generation > wait.agreed.generation:
                self.look_now([row.id])
            else:
                wait.outcomes[row.host] = row.outcome
                self._judge(wait)

    def _judge(self, wait: Wait) -> None:
        """Whether there is nothing more to wait for: hosts that are away are not waited for."""
        agreed = wait.agreed
        if wait.gone or wait.other:
            wait.done.set()
            return
        if agreed.removing:
            left = [h for h in agreed.hosts if not self._is(wait, h, "gone") and h in self._membership.alive]
        else:
            hosts = set(agreed.ends.values())
            left = [h for h in hosts if not self._is(wait, h) and h in self._membership.alive]
            if any(self._is(wait, h, "failed") or (wait.impatient and self._is(wait, h, "pending")) for h in hosts):
                left = []
        if not left:
            wait.done.set()

    def _is(self, wait: Wait, host: str, state: str = "") -> bool:
        outcome = wait.outcomes.get(host)
        if outcome is None or outcome.generation != wait.agreed.generation:
            return False
        return not state or outcome.state == state

    # -- looking instead of hearing --------------------------------------------------------------------

    def look_now(self, ids: Collection[str]) -> None:
        for id_ in ids:
            self._waits[id_].look_at = 0.0
        self._look.set()

    async def _keep_looking(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK / 4 if self._waits else None):
                    await self._look.wait()
            self._look.clear()
            due = [w for w in self._waits.values() if w.made and w.look_at <= loop.time() and not w.done.is_set()]
            if not due:
                continue
            for wait in due:
                wait.look_at = loop.time() + wait.pause
                wait.pause = min(8.0, 2 * wait.pause)
            try:
                await self._read(due)
            except KVError as e:
                log.debug("outcomes not read", reason=str(e))

    async def _read(self, waits: Collection[Wait]) -> None:
        asked = [(w, host) for w in waits for host in w.agreed.hosts]
        names = [self._keys.connection(w.id) for w in waits]
        names += [self._keys.outcome(host, w.id) for w, host in asked]
        found = await read(self._kv, names)
        for wait, entry in zip(waits, found, strict=False):
            agreed = decode(Agreed, entry)
            if agreed is None or agreed.generation < wait.agreed.generation:
                wait.gone = True  # and perhaps made anew since, which counts from 1 again
            elif agreed.wanted == wait.agreed.wanted:  # the same, or with another number for its tunnel
                wait.agreed = agreed
            elif agreed.removing:
                wait.gone = True
            else:
                wait.other = True
        for (wait, host), entry in zip(asked, found[len(waits) :], strict=True):
            outcome = decode(Outcome, entry)
            if outcome is not None:
                wait.outcomes[host] = outcome
        for wait in waits:
            self._judge(wait)
