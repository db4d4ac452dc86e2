"""Which hosts the fleet has and which of them are alive, and this one among them.

Every engine mirrors host/ and alive/, small keys of which there are as many as hosts.  A renewed lease is no change of
a key, so an idle fleet is silent.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import structlog

import fastnl
from fastnl_engine.config import Fleet
from fastnl_engine.fleet import path
from fastnl_engine.fleet.keys import Keys
from fastnl_engine.fleet.records import Alive, Host, decode, encode
from fastnl_engine.kv.base import Compare, Entry, Get, KVError, Op, Put, absent, unchanged
from fastnl_engine.kv.mirror import Changes, Mirror

if TYPE_CHECKING:
    from fastnl_engine.kv.etcd import EtcdKV

LOOK = 5.0  # seconds between looks at the underlay
AGAIN = 1.0  # seconds until it is tried again to register

log = structlog.get_logger()

OnChange = Callable[[set[str]], None]


class Membership:
    """hosts   by name, alive or not
    alive   those whose engine renews its lease
    here    this host as it shall be in the fleet; None until its place in the underlay is found
    known   hosts and alive have been read
    ready   and this host is among them
    refused why this host may not have its name in the fleet; "" if it may

    on_hosts, on_alive  are called with the names of hosts whose place, or whose being alive, has changed
    on_removed          this host was removed for good: called until its removed/<host>/<identity> is gone
    """

    def __init__(self, kv: EtcdKV, keys: Keys, name: str, identity: str, host: fastnl.Host, settings: Fleet) -> None:
        self._kv = kv
        self._keys = keys
        self.name = name
        self.identity = identity
        self._host = host
        self._settings = settings
        self.hosts: dict[str, Host] = {}
        self.alive: dict[str, Alive] = {}
        self.here: Host | None = None
        self.since = time.time()
        self.registered = False
        self.removed = False
        self.ready = asyncio.Event()
        self.known = asyncio.Event()
        self.on_hosts: OnChange = lambda _: None
        self.on_alive: OnChange = lambda _: None
        self.on_removed: Callable[[], None] = lambda: None
        self._lease = 0
        self._work = asyncio.Event()  # there is something to register
        self._read: set[str] = set()
        self._step = asyncio.Event()  # the mirrors make one
        self.refused = ""

    @property
    def trouble(self) -> str:
        """What is wrong with etcd, or with being registered; "" if nothing."""
        return f"etcd: {self._kv.trouble}" if self._kv.trouble else self.refused

    async def run(self) -> None:
        async with self._kv.lease(self._settings.lease, self._granted), asyncio.TaskGroup() as group:
            group.create_task(self._follow(self._keys.hosts, self._take_hosts))
            group.create_task(self._follow(self._keys.alives, self._take_alive))
            group.create_task(self._look())
            group.create_task(self._keep_registered())

    # -- the others ------------------------------------------------------------------------------------

    async def _follow(self, prefix: str, take: Callable[[Changes], set[str]]) -> None:
        async with Mirror(self._kv, prefix) as mirror:
            async for changes in mirror:
                changed = take(changes)
                step, self._step = self._step, asyncio.Event()
                step.set()
                self._read.add(prefix)
                self._update_ready()
                if len(self._read) == 2:
                    self.known.set()
                if changed and self.known.is_set():
                    (self.on_hosts if prefix == self._keys.hosts else self.on_alive)(changed)

    def _take_hosts(self, changes: Changes) -> set[str]:
        changed = set()
        for change in changes.changes:
            name = change.key.removeprefix(self._keys.hosts)
            if name == self.name:
                self._begin_anew()  # our own hand, or removed, or somebody wrote over it or emptied etcd
            if change.new is None:
                self.hosts.pop(name, None)
            else:
                host = decode(Host, change.new)
                if host is None:
                    continue
                self.hosts[name] = host
            changed.add(name)
        return changed

    def _take_alive(self, changes: Changes) -> set[str]:
        changed = set()
        for change in changes.changes:
            name = change.key.removeprefix(self._keys.alives)
            if name == self.name:
                self._begin_anew()  # by somebody's hand, or with a lease that ran out: another one is granted then
            if change.new is None:
                self.alive.pop(name, None)
                if name == self.name:
                    self.ready.clear()  # others take this host for dead, so what is asked for now waits for a moment
            else:
                alive = decode(Alive, change.new)
                if alive is None:
                    continue
                self.alive[name] = alive
            changed.add(name)
        return changed

    # -- this one --------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Follows what the underlay is."""
        said = ""
        while True:
            try:
                address, mtu = await asyncio.to_thread(path.find, self._host, self._settings)
            except (path.NoPath, fastnl.FastnlError) as e:
                if str(e) != said:
                    log.error("no place in the underlay", reason=str(e))
                said = str(e)
            else:
                said = ""
                here = Host(address, mtu, self.identity, fastnl.__version__)
                if here != self.here:
                    log.info("place in the underlay", host=self.name, address=address, mtu=mtu)
                    self.here = here
                    self._begin_anew()
            await asyncio.sleep(LOOK)

    async def _granted(self, lease: int) -> None:
        self._lease = lease
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._work.set()

    async def _keep_registered(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                done = not self._lease or self.here is None or await self._register(self._lease, self.here)
            except KVError as e:
                log.debug("not registered", reason=str(e))
                done = False
            if not done:
                await asyncio.sleep(AGAIN)
                self._work.set()

    async def _register(self, lease: int, here: Host) -> bool:
        keys, name = self._keys, self.name
        names = [keys.alive(name), keys.host(name), keys.removed(name, self.identity)]
        read = await self._kv.txn([], [Get(key) for key in names])
        alive, known, removed = (e if isinstance(e, Entry) else None for e in read.results)
        self.removed = removed is not None
        if self.removed:
            self._leave()
            self.on_removed()
            return False
        if why := await self._not_ours(decode(Alive, alive), decode(Host, known)):
            self._leave()
            self._refuse(why)
            return False
        # whoever else has done something meanwhile makes this fail, and it is looked at again
        compares: list[Compare] = [
            absent(key) if e is None else unchanged(e) for key, e in zip(names, (alive, known, removed), strict=True)
        ]
        ops: list[Op] = []
        if decode(Host, known) != here:
            ops.append(Put(keys.host(name), encode(here)))
        if alive is None or alive.lease != lease:
            ops.append(Put(keys.alive(name), encode(Alive(self.identity, self.since)), lease))
        if ops and not (await self._kv.txn(compares, ops)).succeeded:
            return False
        if not self.registered:
            log.info("registered in the fleet", host=name, address=here.address)
        self.registered, self.refused = True, ""
        self._update_ready()
        return True

    async def _not_ours(self, living: Alive | None, known: Host | None) -> str:
        """Why the name is somebody else's, with what to do; "" if it is not.

        Where its tunnels end and which numbers they have is known of the one that was here before, and it may be up
        still, whether its engine is alive or not.
        """
        name = self.name
        ways = f"`fastnl fleet remove {name}` takes that one out for good, with its connections, and this engine joins"
        other = "or give this engine a name of its own, with fleet.host"
        if living is not None and living.identity != self.identity:
            return f"another engine is alive as host {name!r} of the fleet; {other}. Or stop that one, and {ways}"
        if known is not None and known.identity != self.identity:
            what = "another machine, or this one with the state folder that it had before"
            return f"host {name!r} of the fleet is {what}; {ways}; {other}"
        # of one that was registered before its key went: somebody has deleted it, or etcd's data
        if known is None and not self.registered and await self._kv.count(self._keys.halves(name)):
            return f"the fleet still has connections of an earlier host {name!r}; {ways}; {other}"
        return ""

    def _leave(self) -> None:
        self.registered = False
        self.ready.clear()

    def _refuse(self, why: str) -> None:
        if why != self.refused:
            log.error("not registered in the fleet", host=self.name, reason=why)
        self.refused = why

    def _update_ready(self) -> None:
        alive = self.alive.get(self.name)
        # one that stood still may see another engine of its name before it has looked at its own registration
        if self.registered and self.name in self.hosts and alive is not None and alive.identity == self.identity:
            self.ready.set()

    async def catch_up(self, hosts: Collection[str]) -> None:
        """Waits until this host knows of some others what etcd knew a moment ago.  Raises KVError."""
        names = [make(host) for host in hosts for make in (self._keys.host, self._keys.alive)]
        found = await self._kv.txn([], [Get(name) for name in names])
        there = [isinstance(e, Entry) for e in found.results]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AGAIN):
                while there != [host in known for host in hosts for known in (self.hosts, self.alive)]:
                    await self._step.wait()
