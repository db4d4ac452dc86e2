"""How the control plane of a fleet grows: a SIMULATION, no interface is made.

    python -m bench.fleet --hosts 100 --connections 10000 [--seconds 900] [--flying 24] [--folder DIR]
    python -m bench.fleet --hosts 1000 --connections 1000000 --load [--live 50]

Everything that a fleet does with etcd is real: a real etcd with its data on a disk, and for each host the code that an
engine runs, with a client of etcd, a lease and watches of its own.  What is stubbed out is below it: the engine and the
kernel, which answer `up` at once to whatever they are asked for, and the underlay of each host.  All hosts share one
Python process, and etcd the machine: so times are those of one busy processor for all hosts together, and an upper
bound for hosts that have one each.  Keys, bytes, requests and watches are what they would be.

With --load most of the connections are not asked for: their records are written, see bench/fleet_records.py.  Of the
hosts some are live, the others are records too.  What is measured then is what live hosts do in so full a fleet, and
first, for comparison, what they do in an empty one.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import logging
import os
import random
import tempfile
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from bench.fleet_hosts import CROWD, Simulation, connection
from bench.fleet_records import load
from bench.load import MIB, Use, percentile
from fastnl.testing import allow_many_files
from fastnl_engine.bench import machine
from fastnl_engine.kv.testing import Etcd

QUOTA = 8 << 30  # bytes that etcd may use, its largest recommended
TOGETHER = 100  # connections of one request
FLYING = 24  # requests at once
FURTHER = 1_000  # connections that are made for real beside those that are loaded
LIVE = 50  # hosts
PROBES = 100  # connections that are made one by one in the full fleet
STEPS = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 1 << 62)
IDLE = 10.0  # seconds in which nothing is asked for
# what was before is of no use to a fleet; but each time it is forgotten etcd goes through all keys
COMPACTION = ("--auto-compaction-mode=periodic", "--auto-compaction-retention=10m")
# otherwise it keeps the last 100,000 requests in memory, whatever their size
SNAPSHOTS = "--snapshot-count=5000"


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
    events: int
    sent: int
    received: int

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
            events=int(values["etcd_debugging_mvcc_events_total"]),
            sent=int(values["etcd_network_client_grpc_sent_bytes_total"]),
            received=int(values["etcd_network_client_grpc_received_bytes_total"]),
        )


Note = Callable[[str, Any], None]


async def fill(
    simulation: Simulation, first: int, count: int, until: float, reached: Callable[[int], None], flying: int = FLYING
) -> tuple[int, int]:
    """Makes connections until there are `count` or it is time to stop; gives how many, and how many failed."""
    numbers = itertools.count(first, TOGETHER)
    last = first + count
    made = failed = 0
    problems: Counter[str] = Counter()

    async def client(name_of: random.Random) -> None:
        nonlocal made, failed
        while (at := next(numbers)) < last and time.monotonic() < until:
            jobs = [connection(n, simulation.live) for n in range(at, min(at + TOGETHER, last))]
            results = await simulation.connect(name_of.choice(simulation.live), jobs)
            good = sum(r["ok"] and r["state"] == "up" for r in results)
            made, failed = made + good, failed + len(results) - good
            for result in results:
                if not result["ok"] or result["state"] != "up":
                    problems[str(result.get("error", result))[:200]] += 1
            reached(made)

    await asyncio.gather(*(client(random.Random(n)) for n in range(flying)))
    for problem, times in problems.most_common(3):
        print(f"{times} times: {problem}")
    return made, failed


async def made_for_real(
    etcd: Etcd, simulation: Simulation, note: Note, first: int, count: int, until: float,
    reached: Callable[[int], None] = lambda _: None, flying: int = FLYING,
) -> int:  # fmt: skip
    """Connections from `first` on, and what they cost; gives how many they are."""
    before, bare = Figures.of(etcd), Use.of(os.getpid()).resident
    begun, busy = time.monotonic(), time.process_time()
    made, failed = await fill(simulation, first, count, until, reached, flying)
    passed, busy = time.monotonic() - begun, time.process_time() - busy
    after = Figures.of(etcd)
    note("connections up", made)
    note("  failed", failed)
    note("  seconds", round(passed, 1))
    note("  connections a second", round(made / passed))
    note("  processor of all hosts together, ms a connection", round(1000 * busy / made, 3))
    note("  processor of etcd, ms a connection", round(1000 * (after.processor - before.processor) / made, 3))
    asked = difference(before.requests, after.requests)
    note("  requests", asked)
    note("  requests a connection", round(sum(asked.values()) / made, 2))
    note("  revisions a connection", round((after.revision - before.revision) / made, 2))
    note("  events of watches a connection", round((after.events - before.events) / made, 2))
    note("  bytes to etcd a connection", (after.received - before.received) // made)
    note("  bytes from etcd a connection", (after.sent - before.sent) // made)
    note("  keys", after.keys)
    note("  keys a connection", round((after.keys - before.keys) / made, 2))
    note("  watches", after.watchers)
    note("  etcd, data MiB", after.db // MIB)
    note("  etcd, data in use MiB", after.db_in_use // MIB)
    note("  etcd, bytes of data a connection", (after.db - before.db) // made)
    note("  etcd, resident MiB", after.resident // MIB)
    note("  hosts, KiB a half", round((Use.of(os.getpid()).resident - bare) / made / 2 / 1024, 2))

    latencies = []
    for number in range(first + made, first + made + PROBES):
        began = time.perf_counter()
        [result] = await simulation.connect(random.choice(simulation.live), [connection(number, simulation.live)])
        assert result["ok"], result
        latencies.append(1000 * (time.perf_counter() - began))
    figures = "{:.1f} / {:.1f}".format(*(percentile(latencies, p) for p in (50, 99)))
    note("one more connection, ms p50 / p99", figures)
    return made


async def idle(etcd: Etcd, note: Note) -> None:
    before, begun, busy = Figures.of(etcd), time.monotonic(), time.process_time()
    await asyncio.sleep(IDLE)
    passed, after = time.monotonic() - begun, Figures.of(etcd)
    note("idle: requests a second", round(sum(difference(before.requests, after.requests).values()) / passed, 1))
    note("idle: changes", after.revision - before.revision)
    note("idle: etcd, % of a core", round(100 * (after.processor - before.processor) / passed, 1))
    note("idle: all hosts, % of a core", round(100 * (time.process_time() - busy) / passed, 1))


async def one_starts_again(etcd: Etcd, simulation: Simulation, note: Note) -> None:
    name = simulation.live[0]
    await simulation.stop(name)
    before, begun, busy = Figures.of(etcd), time.monotonic(), time.process_time()
    await simulation.start(name)
    halves = simulation.services[name].halves
    await halves._read.wait()
    note("a host starts again: halves", len(halves.wanted))
    note("  all of them read after, s", round(time.monotonic() - begun, 2))
    note("  processor of the host, s", round(time.process_time() - busy, 2))
    note("  bytes that it read", Figures.of(etcd).sent - before.sent)
    await simulation.services[name].membership.ready.wait()


# -- the runs ----------------------------------------------------------------------------------------


async def grow(etcd: Etcd, note: Note, hosts: int, connections: int, seconds: float, flying: int) -> None:
    """All connections are asked for."""
    simulation = Simulation(etcd.urls, hosts, patience=int(seconds))
    note("lease, s", simulation.lease)
    if hosts > CROWD:
        print(f"so many hosts on one processor: leases of {simulation.lease} s, and watches that may be silent as long")
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
        note("  events of watches", joined.events - empty.events)
        note("  etcd, resident MiB", joined.resident // MIB)
        gc.freeze()
        steps = iter(STEPS)
        step = next(steps)
        begun = time.monotonic()

        def reached(made: int) -> None:
            nonlocal step
            if made < step:
                return
            while step <= made:
                step = next(steps)
            now = Figures.of(etcd)
            print(
                f"  connections {made}, seconds {time.monotonic() - begun:.1f}, keys {now.keys}, "
                f"data MiB {now.db // MIB}, in use MiB {now.db_in_use // MIB}, etcd MiB {now.resident // MIB}, "
                f"hosts MiB {Use.of(os.getpid()).resident // MIB}",
                flush=True,
            )

        await made_for_real(etcd, simulation, note, 0, connections, begun + seconds, reached, flying)
        await idle(etcd, note)
        await one_starts_again(etcd, simulation, note)
        if hosts <= CROWD:
            name = simulation.live[0]
            begun = time.monotonic()
            await simulation.stop(name, kill=True)
            others = [service.membership for service in simulation.all if service.membership.name != name]
            while any(name in membership.alive for membership in others):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            passed = time.monotonic() - begun - simulation.lease
            note("a host dies: all others know, s after its lease", round(passed, 1))
    finally:
        await simulation.stop_all()


async def loaded(etcd: Etcd, note: Note, hosts: int, live: int, connections: int, seconds: float) -> None:
    """The records of connections are written into etcd; then some hosts are live there, and make further ones."""
    print(f"in a fleet of the {live} live hosts alone, for comparison")
    simulation = Simulation(etcd.urls, live, patience=int(seconds))
    try:
        await simulation.start_all()
        while any(len(s.membership.alive) < live or len(s.membership.hosts) < live for s in simulation.all):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        await made_for_real(etcd, simulation, note, connections, FURTHER, time.monotonic() + seconds)
        await idle(etcd, note)
        await one_starts_again(etcd, simulation, note)
    finally:
        await simulation.stop_all()
    etcd.ctl("del", "--prefix", "/fastnl/fleet/")

    print(f"LOADED: {connections} connections between {hosts} hosts; nobody asked for them, no host has made them")
    before = Figures.of(etcd)
    note("loaded: seconds", round(await asyncio.to_thread(load, etcd.urls, hosts, live, connections), 1))
    full = Figures.of(etcd)
    note("  keys", full.keys - before.keys)
    note("  etcd, data MiB", full.db // MIB)
    note("  etcd, bytes of data a connection", (full.db - before.db) // connections)
    note("  etcd, resident MiB", full.resident // MIB)
    simulation = Simulation(etcd.urls, hosts, patience=int(seconds), live=live)
    await simulation.recall()
    gc.freeze()
    print(f"in it, {live} hosts of the {hosts} are live; the others are in etcd alone")
    bare, before, begun = Use.of(os.getpid()).resident, Figures.of(etcd), time.monotonic()
    try:
        # one after the other: all together would keep this one processor for longer than their leases last
        for name in simulation.live:
            await simulation.start(name)
            await simulation.services[name].halves._read.wait()
        while any(len(s.membership.alive) < hosts for s in simulation.all):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        halves = sum(len(service.halves.wanted) for service in simulation.all)
        note("live hosts have started, and read their halves: s", round(time.monotonic() - begun, 1))
        note("  halves of all of them", halves)
        note("  bytes from etcd a half", (Figures.of(etcd).sent - before.sent) // halves)
        note("  memory, KiB a half", round((Use.of(os.getpid()).resident - bare) / halves / 1024, 2))
        note("  outcomes that were told anew", Figures.of(etcd).revision - before.revision - len(simulation.live))
        await made_for_real(etcd, simulation, note, connections, FURTHER, time.monotonic() + seconds)
        await idle(etcd, note)
        await one_starts_again(etcd, simulation, note)
        end = Figures.of(etcd)
        note("in the end: etcd, data MiB", end.db // MIB)
        note("  resident MiB", end.resident // MIB)
    finally:
        await simulation.stop_all()


def difference(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {k: v - before.get(k, 0) for k, v in after.items() if v > before.get(k, 0)}


def main(
    hosts: int, connections: int, seconds: float, folder: str | None = None, flying: int = FLYING, live: int = 0
) -> list[tuple[str, Any]]:
    """live: so many hosts are, and the connections are loaded; 0: nothing is.  Gives what was measured."""
    allow_many_files()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    print(f"SIMULATION of {hosts} hosts: real etcd, no kernel: engines that say `up` at once")
    for fact, value in machine.facts().items():
        print(f"  {fact}: {value}")
    others = machine.Others()
    out: list[tuple[str, Any]] = []

    def note(what: str, value: Any) -> None:
        out.append((what, value))
        print(f"{what:52} {value}", flush=True)

    with tempfile.TemporaryDirectory(prefix="fastnl-", dir=folder) as place:
        with Etcd(Path(place), f"--quota-backend-bytes={QUOTA}", *COMPACTION, SNAPSHOTS) as etcd:
            if live:
                asyncio.run(loaded(etcd, note, hosts, min(live, hosts), connections, seconds))
            else:
                asyncio.run(grow(etcd, note, hosts, connections, seconds, flying))
    print(f"others took {others.read()['taken by others']} of a processor, etcd included")
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=10)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=900, help="no more are asked for after so long")
    parser.add_argument("--flying", type=int, default=FLYING, help=f"requests of {TOGETHER} connections at once")
    parser.add_argument("--load", action="store_true", help="writes their records instead of asking for connections")
    parser.add_argument("--live", type=int, default=LIVE, help="with --load: so many hosts are more than records")
    parser.add_argument("--folder", help="where etcd's data go; a disk")
    options = parser.parse_args()
    main(
        options.hosts, options.connections, options.seconds, options.folder, options.flying,
        options.live if options.load else 0,
    )  # fmt: skip
