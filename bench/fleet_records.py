"""Writes connections into etcd that nobody asked for, for `python -m bench.fleet --load`: LOADED, not made.

Each gets the very records that desk and hosts would have written, from the same code: the connection, its number, both
halves, both outcomes.  What is left out is the way there: no desk looks, no transaction compares, no host hears of its
half while it is loaded, and many connections share a transaction.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import msgspec

from bench.fleet_hosts import connection, identity_of, names_of, place_of
from fastnl_engine.config import Fleet
from fastnl_engine.fleet.desk import new_token
from fastnl_engine.fleet.keys import Keys
from fastnl_engine.fleet.local import halves_of
from fastnl_engine.fleet.plan import View, connect
from fastnl_engine.fleet.records import Alive, News, Outcome, encode
from fastnl_engine.kv import open_etcd
from fastnl_engine.kv.base import OPS, Op, Put
from fastnl_engine.model import Connection

WORKERS = 2  # processes
FLYING = 4  # transactions at once of each of them
PART = 5_000  # connections that a worker takes at a time
NUMBERS = 9_176_263  # has no divisor in common with the count of VNIs, so its multiples are all different


def load(urls: Sequence[str], hosts: int, live: int, connections: int) -> float:
    """Hosts but for those that are live, and connections between all of them.  Gives seconds."""
    begun = time.monotonic()
    with ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn")) as workers:
        jobs = [workers.submit(_write_hosts, list(urls), hosts, live)]
        jobs += [
            workers.submit(_write, list(urls), hosts, first, min(first + PART, connections))
            for first in range(0, connections, PART)
        ]
        for job in jobs:
            job.result()
    return time.monotonic() - begun


def _write_hosts(urls: Sequence[str], hosts: int, live: int) -> None:
    keys, names, now = Keys(Fleet().name), names_of(hosts), time.time()
    ops: list[Op] = []
    for number, name in enumerate(names):
        ops.append(Put(keys.host(name), encode(place_of(number))))
        # the last connection of each told its home
        last = News(f"connection-{number:07}", name, Outcome(1, "up", {"a": {"ifindex": number, "ifname": "eth0"}}))
        ops.append(Put(keys.news(name), encode([last])))
        if number >= live:
            ops.append(Put(keys.alive(name), encode(Alive(identity_of(number), now))))  # and no lease
    asyncio.run(_put(urls, iter(ops[at : at + OPS] for at in range(0, len(ops), OPS))))


def _write(urls: Sequence[str], hosts: int, first: int, last: int) -> None:
    asyncio.run(_put(urls, _transactions(hosts, first, last)))


def _transactions(hosts: int, first: int, last: int) -> Iterator[list[Op]]:
    settings = Fleet()
    keys, names = Keys(settings.name), names_of(hosts)
    places = {name: place_of(number) for number, name in enumerate(names)}
    numbers = settings.vni_last - settings.vni_first + 1
    part: list[Op] = []
    for number in range(first, last):
        spec = msgspec.convert(connection(number, names), Connection)
        home = names[number % hosts]
        vni = settings.vni_first + number * NUMBERS % numbers
        view = View(keys, home, settings.port, places, places, lambda vni=vni: vni)
        ops = list(connect(view, spec.id, new_token(), spec, None, 0, set(), wait=False).ops)
        for host, half in halves_of(spec, generation=1, home=home, vni=vni, port=settings.port).items():
            there = {name: end for name, end in (("a", half.a), ("b", half.b)) if end is not None}
            ends = {name: {"ifindex": 100 + number % 10_000, "ifname": end.ifname} for name, end in there.items()}
            ops.append(Put(keys.outcome(host, spec.id), encode(Outcome(1, "up", ends))))
        if len(part) + len(ops) > OPS:
            yield part
            part = []
        part += ops
    yield part


async def _put(urls: Sequence[str], parts: Iterator[list[Op]]) -> None:
    async with open_etcd(list(urls), timeout=120.0) as kv:

        async def writer() -> None:
            for part in parts:
                await kv.txn([], part)

        await asyncio.gather(*(writer() for _ in range(FLYING)))
