"""Hosts of a fleet in one process, for `python -m bench.fleet`: the fleet's own code, engine and kernel stubbed out."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec

import fastnl
from fastnl.netns import Identity
from fastnl.wired import Place
from fastnl_engine.config import Fleet
from fastnl_engine.fleet.desk import new_token
from fastnl_engine.fleet.keys import Keys
from fastnl_engine.fleet.local import connection_here
from fastnl_engine.fleet.plan import Job
from fastnl_engine.fleet.records import Half, Host, Outcome, decode
from fastnl_engine.fleet.start import Service
from fastnl_engine.fleet.testing import at
from fastnl_engine.kv import open_etcd
from fastnl_engine.kv.etcd import TIMEOUT, EtcdKV
from fastnl_engine.model import Connection, Record
from fastnl_engine.northbound.port import Answer
from fastnl_engine.testing import pair

JOINING = 50  # hosts that start at once
LEASE, HEARTBEAT = 10, 5.0  # seconds, as a host has them
# many hosts that share a processor are not as quick as those that have one each
CROWD, CROWDED_LEASE, CROWDED_HEARTBEAT = 200, 600, 300.0


class StubPort:
    """Takes the place of the engine and the kernel below it: whatever is asked for is up at once."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}

    def have(self, connection: dict[str, Any], indexes: Sequence[int]) -> None:
        """It made that before."""
        places = tuple(Place(index, NOWHERE) for index in indexes)
        spec = msgspec.msgpack.encode(connection)
        self._records[connection["id"]] = Record(connection["id"], spec, "up", places)

    async def connect(self, connections: Sequence[dict[str, Any]]) -> list[Answer]:
        answers = []
        for connection in connections:
            ends = 2 if "b" in connection else 1
            record = self._records.get(connection["id"])
            if record is None or record.spec != msgspec.msgpack.encode(connection):
                self.have(connection, [next(_indexes) for _ in range(ends)])
            answers.append(Answer(None, self._records[connection["id"]], True))
        return answers

    async def disconnect(self, ids: Sequence[str]) -> list[Answer]:
        for id_ in ids:
            self._records.pop(id_, None)
        return [Answer(None, None, True) for _ in ids]

    async def records(self) -> list[Record]:
        return list(self._records.values())

    def listen(self, heard: Any) -> Any:
        return lambda: None

    def tell(self, event: str, connections: Any) -> None:
        pass


class StubHost:
    """Takes the place of the underlay: one interface with one address."""

    def __init__(self, number: int) -> None:
        self.address = place_of(number).address

    def links(self, netns: str = "") -> list[Any]:
        return [SimpleNamespace(ifindex=1, ifname="stub", mtu=1500)]

    def addresses(self, netns: str = "") -> list[Any]:
        return [SimpleNamespace(ifindex=1, address=f"{self.address}/8", scope=0, flags=0)]


def names_of(hosts: int) -> list[str]:
    return [f"host-{n:04}" for n in range(hosts)]


def identity_of(number: int) -> str:
    return f"identity-{number}"


def place_of(number: int) -> Host:
    """In the underlay."""
    n = number + 1
    return Host(f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 1500, identity_of(number), fastnl.__version__)


NOWHERE = Identity(0, 0)
_indexes = itertools.count(1)


class Simulation:
    """Hosts, each with a client of etcd and a service of its own, on this loop.

    names  of all hosts; of those beyond `live` there is nothing but what somebody else writes
    """

    def __init__(self, urls: Sequence[str], hosts: int, patience: int, live: int = 0) -> None:
        self._urls = list(urls)
        self._patience = patience
        crowded = (live or hosts) > CROWD
        self.lease, self._heartbeat = (CROWDED_LEASE, CROWDED_HEARTBEAT) if crowded else (LEASE, HEARTBEAT)
        self._timeout = 120.0 if crowded else TIMEOUT
        self.names = names_of(hosts)
        self.live = self.names[: live or hosts]
        self.kvs: dict[str, EtcdKV] = {}
        self.services: dict[str, Service] = {}
        self._ports = {name: StubPort() for name in self.live}  # an engine keeps its records when it starts again
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, name: str) -> None:
        number = self.names.index(name)
        kv = self.kvs[name] = open_etcd(self._urls, timeout=self._timeout, heartbeat=self._heartbeat)
        host = StubHost(number)
        settings = Fleet(endpoints=self._urls, address=host.address, lease=self.lease, patience=self._patience)
        port: Any = self._ports[name]
        underlay: Any = host
        service = self.services[name] = Service(kv, port, underlay, settings, name, identity_of(number))
        self._tasks[name] = asyncio.create_task(service.run())

    async def stop(self, name: str, *, kill: bool = False) -> None:
        """kill: its lease is left to run out."""
        kv = self.kvs.pop(name)
        for lease in kv._leases if kill else ():
            lease.id = 0  # otherwise it is revoked
        self._tasks[name].cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._tasks.pop(name)
        await kv.close()

    async def start_all(self) -> None:
        """A few at a time, as hosts do not all boot in the same second."""
        for first in range(0, len(self.live), JOINING):
            part = self.live[first : first + JOINING]
            for name in part:
                await self.start(name)
            for name in part:
                await self.services[name].membership.ready.wait()

    @property
    def all(self) -> list[Service]:
        return list(self.services.values())

    async def stop_all(self) -> None:
        for name in list(self.kvs):
            await self.stop(name)

    async def recall(self) -> None:
        """Gives the engines of the hosts that will start what they had made, as etcd has it."""
        keys = Keys(Fleet().name)
        hosts = {name: place_of(number) for number, name in enumerate(self.names)}
        async with open_etcd(self._urls, timeout=120.0) as kv:
            for name in self.live:
                halves = await kv.get_prefix(keys.halves(name))
                outcomes = (await kv.get_prefix(keys.outcomes(name))).entries
                for entry in halves.entries.values():
                    id_ = entry.key.removeprefix(keys.halves(name))
                    half, outcome = decode(Half, entry), decode(Outcome, outcomes.get(keys.outcome(name, id_)))
                    assert half is not None and outcome is not None, id_
                    made = connection_here(id_, half, hosts[name], hosts.get(half.peer))
                    indexes = [end["ifindex"] for end in outcome.ends.values()]
                    self._ports[name].have(msgspec.to_builtins(made), indexes)

    async def connect(self, name: str, connections: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """As a client of that host's engine asks, and its answers."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        results: list[dict[str, Any]] = []

        def reply(result: dict[str, Any]) -> None:
            results.append(result)
            if len(results) == len(connections):
                done.set_result(None)

        for connection in connections:
            spec = msgspec.convert(connection, Connection)
            deadline = loop.time() + self._patience
            self.services[name].desk.submit(Job("connect", spec.id, reply, new_token(), deadline, spec))
        await done
        return results


def connection(number: int, names: Sequence[str]) -> dict[str, Any]:
    """One of them, between two hosts that `number` decides on."""
    dice = random.Random(number)
    a, b = dice.sample(names, 2)
    net = f"10.{number >> 14 & 255}.{number >> 6 & 255}.{number << 2 & 255}"
    return pair(
        f"connection-{number:07}",
        at(a, f"pod-{number:07}-a", "eth0", f"{net}/30"),
        at(b, f"pod-{number:07}-b", "eth0", f"{net}/30"),
    )
