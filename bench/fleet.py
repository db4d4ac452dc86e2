"""How the control plane of a fleet grows: a SIMULATION, no interface is made.

    python -m bench.fleet --hosts 100 --connections 10000 [--seconds 900] [--folder DIR]

Everything that a fleet does with etcd is real: a real etcd with its data on a disk, and for each host the code that an
engine runs, with a client of etcd, a lease and watches of its own.  What is stubbed out is below it: the engine and the
kernel, which answer `up` at once to whatever they are asked for, and the underlay of each host.  All hosts share one
Python process, and etcd the machine: so times are those of one busy processor for all hosts together, and an upper
bound for hosts that have one each.  Keys, bytes, requests and watches are what they would be.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import itertools
import json
import logging
import os
import random
import resource
import tempfile
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import structlog

from bench.load import MIB, Use, percentile
from fastnl.netns import Identity
from fastnl.wired import Place
from fastnl_engine.bench import machine
from fastnl_engine.config import Fleet
from fastnl_engine.fleet.desk import new_token
from fastnl_engine.fleet.plan import Job
from fastnl_engine.fleet.start import Service
from fastnl_engine.fleet.testing import at
from fastnl_engine.kv import open_etcd
from fastnl_engine.kv.etcd import TIMEOUT, EtcdKV
from fastnl_engine.kv.testing import Etcd
from fastnl_engine.model import Connection, Record
from fastnl_engine.northbound.port import Answer
from fastnl_engine.testing import pair

QUOTA = 8 << 30  # bytes that etcd may use, its largest recommended
TOGETHER = 100  # connections of one request
FLYING = 24  # requests at once, each to another host
JOINING = 50  # hosts that start at once
PROBES = 100  # connections that are made one by one in the full fleet
STEPS = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 1 << 62)
LEASE, HEARTBEAT = 10, 5.0  # seconds, as a host has them
# many hosts that share a processor are not as quick as those that have one each
CROWD, CROWDED_LEASE, CROWDED_HEARTBEAT = 200, 600, 300.0
IDLE = 10.0  # seconds in which nothing is asked for
# what was before is of no use to a fleet, but for the few seconds of a watch that broke
COMPACTION = ("--auto-compaction-mode=periodic", "--auto-compaction-retention=1m")


@dataclass
class Figures:
    """Of etcd, from its own metrics and the kernel."""

    keys: int
    watchers: int
    revision: int
    db: int
    db_in_use: int
    resident: int
    requests: dict[str, int]
    processor: float

    @classmethod
    def of(cls, etcd: Etcd) -> Figures:
        values: dict[str, float] = defaultdict(float)
        requests: Counter[str] = Counter()
        [member] = etcd.members
        with urllib.request.urlopen(f"{member.url}/metrics", timeout=60) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith("#"):
                    continue
                name, _, value = line.rpartition(" ")
                name, _, labels = name.partition("{")
                values[name] += float(value)
                if name == "grpc_server_msg_received_total":
                    requests[labels.partition('grpc_method="')[2].partition('"')[0]] += int(float(value))
        assert member.process is not None
        status = json.loads(etcd.ctl("endpoint", "status", "--write-out", "json"))[0]["Status"]
        return cls(
            keys=int(values["etcd_debugging_mvcc_keys_total"]),
            watchers=int(values["etcd_debugging_mvcc_watcher_total"]),
            revision=status["header"]["revision"],
            db=int(values["etcd_mvcc_db_total_size_in_bytes"]),
            db_in_use=int(values["etcd_mvcc_db_total_size_in_use_in_bytes"]),
            resident=Use.of(member.process.pid).resident,
            requests={k: v for k, v in requests.items() if v},
            processor=values["process_cpu_seconds_total"],
        )


# -- what is stubbed out -----------------------------------------------------------------------------


class StubPort:
    """Takes the place of the engine and the kernel below it: whatever is asked for is up at once."""

    def __init__(self) -> None:
        self._records: dict[str, Record] = {}

    async def connect(self, connections: Sequence[dict[str, Any]]) -> list[Answer]:
        answers = []
        for connection in connections:
            ends = 2 if "b" in connection else 1
            places = tuple(Place(next(_indexes), NOWHERE) for _ in range(ends))
            spec = msgspec.msgpack.encode(connection)
            record = self._records.get(connection["id"])
            if record is None or record.spec != spec:
                record = self._records[connection["id"]] = Record(connection["id"], spec, "up", places)
            answers.append(Answer(None, record, True))
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
        self.address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"

    def links(self, netns: str = "") -> list[Any]:
        return [SimpleNamespace(ifindex=1, ifname="stub", mtu=1500)]

    def addresses(self, netns: str = "") -> list[Any]:
        return [SimpleNamespace(ifindex=1, address=f"{self.address}/8", scope=0, flags=0)]


NOWHERE = Identity(0, 0)
_indexes = itertools.count(1)


# -- the fleet ---------------------------------------------------------------------------------------


class Simulation:
    """So many hosts, each with a client of etcd and a service of its own, on this loop."""

    def __init__(self, etcd: Etcd, hosts: int, patience: int) -> None:
        self._urls = etcd.urls
        self._patience = patience
        crowded = hosts > CROWD
        self.lease, self._heartbeat = (CROWDED_LEASE, CROWDED_HEARTBEAT) if crowded else (LEASE, HEARTBEAT)
        self._timeout = 120.0 if crowded else TIMEOUT
        self.names = [f"host-{n:04}" for n in range(hosts)]
        self.kvs: dict[str, EtcdKV] = {}
        self.services: dict[str, Service] = {}
        self._ports = {name: StubPort() for name in self.names}  # an engine keeps its records when it starts again
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, name: str) -> None:
        number = self.names.index(name)
        kv = self.kvs[name] = open_etcd(self._urls, timeout=self._timeout, heartbeat=self._heartbeat)
        host = StubHost(number + 1)
        settings = Fleet(endpoints=self._urls, address=host.address, lease=self.lease, patience=self._patience)
        port: Any = self._ports[name]
        underlay: Any = host
        service = self.services[name] = Service(kv, port, underlay, settings, name, f"identity-{number}")
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
        for first in range(0, len(self.names), JOINING):
            part = self.names[first : first + JOINING]
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


async def fill(simulation: Simulation, count: int, until: float, reached: Callable[[int], None]) -> tuple[int, int]:
    """Makes connections until there are `count` or it is time to stop; gives how many, and how many failed."""
    numbers = itertools.count(0, TOGETHER)
    made = failed = 0
    problems: Counter[str] = Counter()

    async def client(name_of: random.Random) -> None:
        nonlocal made, failed
        while (first := next(numbers)) < count and time.monotonic() < until:
            jobs = [connection(n, simulation.names) for n in range(first, min(first + TOGETHER, count))]
            results = await simulation.connect(name_of.choice(simulation.names), jobs)
            good = sum(r["ok"] and r["state"] == "up" for r in results)
            made, failed = made + good, failed + len(results) - good
            for result in results:
                if not result["ok"] or result["state"] != "up":
                    problems[str(result.get("error", result))[:200]] += 1
            reached(made)

    await asyncio.gather(*(client(random.Random(n)) for n in range(min(FLYING, len(simulation.names)))))
    for problem, times in problems.most_common(3):
        print(f"{times} times: {problem}")
    return made, failed


# -- the run -----------------------------------------------------------------------------------------


async def run(etcd: Etcd, hosts: int, connections: int, seconds: float) -> dict[str, Any]:
    """Everything, in phases; gives what was measured."""
    simulation = Simulation(etcd, hosts, patience=int(seconds))
    out: dict[str, Any] = {"hosts": hosts, "asked for": connections, "lease": simulation.lease}
    if hosts > CROWD:
        print(f"so many hosts on one processor: leases of {simulation.lease} s, and watches that may be silent as long")

    def note(what: str, value: Any) -> None:
        out[what] = value
        print(f"{what:52} {value}", flush=True)

    try:
        empty = Figures.of(etcd)
        begun = time.monotonic()
        await simulation.start_all()
        note("all hosts registered, s", round(time.monotonic() - begun, 1))
        while any(len(s.membership.alive) < hosts or len(s.membership.hosts) < hosts for s in simulation.all):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        note("  and known to each other, s", round(time.monotonic() - begun, 1))
        joined = Figures.of(etcd)
        note("  watches", joined.watchers)
        note("  keys", joined.keys)
        note("  requests", difference(empty.requests, joined.requests))
        note("  etcd, resident MiB", joined.resident // MIB)

        gc.freeze()
        steps = iter(STEPS)
        step = next(steps)
        growth: list[dict[str, Any]] = []

        def reached(made: int) -> None:
            nonlocal step
            if made < step:
                return
            while step <= made:
                step = next(steps)
            now = Figures.of(etcd)
            growth.append(
                {
                    "connections": made, "seconds": round(time.monotonic() - begun, 1), "keys": now.keys,
                    "data MiB": now.db // MIB, "in use MiB": now.db_in_use // MIB, "etcd MiB": now.resident // MIB,
                    "hosts MiB": Use.of(os.getpid()).resident // MIB,
                }
            )  # fmt: skip
            print("  " + ", ".join(f"{what} {value}" for what, value in growth[-1].items()), flush=True)

        out["growth"] = growth
        bare = Use.of(os.getpid()).resident
        begun, busy = time.monotonic(), time.process_time()
        made, failed = await fill(simulation, connections, begun + seconds, reached)
        passed, busy = time.monotonic() - begun, time.process_time() - busy
        full = Figures.of(etcd)
        note("connections up", made)
        note("  failed", failed)
        note("  seconds", round(passed, 1))
        note("  connections a second", round(made / passed))
        note("  processor of all hosts together, ms a connection", round(1000 * busy / made, 3))
        note("  processor of etcd, ms a connection", round(1000 * (full.processor - joined.processor) / made, 3))
        asked = difference(joined.requests, full.requests)
        note("  requests", asked)
        note("  requests a connection", round(sum(asked.values()) / made, 2))
        note("  revisions a connection", round((full.revision - joined.revision) / made, 2))
        note("  keys", full.keys)
        note("  keys a connection", round((full.keys - joined.keys) / made, 2))
        note("  watches", full.watchers)
        note("  etcd, data MiB", full.db // MIB)
        note("  etcd, data in use MiB", full.db_in_use // MIB)
        note("  etcd, bytes of data a connection", (full.db - joined.db) // made)
        note("  etcd, resident MiB", full.resident // MIB)
        note("  hosts, KiB a half", round((Use.of(os.getpid()).resident - bare) / made / 2 / 1024, 2))

        latencies = []
        for number in range(made, made + PROBES):
            began = time.perf_counter()
            [result] = await simulation.connect(random.choice(simulation.names), [connection(number, simulation.names)])
            assert result["ok"], result
            latencies.append(1000 * (time.perf_counter() - began))
        figures = "{:.1f} / {:.1f}".format(*(percentile(latencies, p) for p in (50, 99)))
        note("one more connection, ms p50 / p99", figures)

        before, begun, busy = Figures.of(etcd), time.monotonic(), time.process_time()
        await asyncio.sleep(IDLE)
        passed, after = time.monotonic() - begun, Figures.of(etcd)
        note("idle: requests a second", round(sum(difference(before.requests, after.requests).values()) / passed, 1))
        note("idle: changes", after.revision - before.revision)
        note("idle: etcd, % of a core", round(100 * (after.processor - before.processor) / passed, 1))
        note("idle: all hosts, % of a core", round(100 * (time.process_time() - busy) / passed, 1))

        name = simulation.names[0]
        await simulation.stop(name)
        begun = time.monotonic()
        await simulation.start(name)
        halves = simulation.services[name].halves
        await halves._read.wait()
        note("a host starts again: halves", len(halves.wanted))
        note("  all of them read after, s", round(time.monotonic() - begun, 2))
        await simulation.services[name].membership.ready.wait()

        if hosts <= CROWD:
            begun = time.monotonic()
            await simulation.stop(name, kill=True)
            others = [service.membership for service in simulation.all if service.membership.name != name]
            while any(name in membership.alive for membership in others):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            passed = time.monotonic() - begun - simulation.lease
            note("a host dies: all others know, s after its lease", round(passed, 1))
        etcd_after = Figures.of(etcd)
        note("in the end: etcd, data MiB", etcd_after.db // MIB)
        note("  resident MiB", etcd_after.resident // MIB)
    finally:
        await simulation.stop_all()
    return out


def difference(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {k: v - before.get(k, 0) for k, v in after.items() if v > before.get(k, 0)}


def main(hosts: int, connections: int, seconds: float, folder: str | None = None) -> dict[str, Any]:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    print(f"SIMULATION of {hosts} hosts: real etcd, no kernel: engines that say `up` at once")
    for fact, value in machine.facts().items():
        print(f"  {fact}: {value}")
    others = machine.Others()
    with tempfile.TemporaryDirectory(prefix="fastnl-", dir=folder) as place:
        with Etcd(Path(place), f"--quota-backend-bytes={QUOTA}", *COMPACTION) as etcd:
            out = asyncio.run(run(etcd, hosts, connections, seconds))
    print(f"others took {others.read()['taken by others']} of a processor, etcd included")
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=10)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=900, help="no more are asked for after so long")
    parser.add_argument("--folder", help="where etcd's data go; a disk")
    options = parser.parse_args()
    main(options.hosts, options.connections, options.seconds, options.folder)
