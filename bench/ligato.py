"""Configuration through etcd against the same connections over ZeroMQ, and how long the second half of a pair takes.

    python -m bench.ligato [--pairs 1000] [--halves 200] [--rounds 3]

Every round starts etcd and engines anew, durable, with state on the disk that TMPDIR names.  Keys are put one by one,
as many of them on their way as ZeroMQ requests.  A time ends with the last pair's event `up`, which is sent when the
outcome is on the disk.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import zmq
import zmq.asyncio

from fastnl.testing import Namespaces, isolate
from fastnl_engine.client import AsyncClient
from fastnl_engine.kv import open_etcd
from fastnl_engine.kv.testing import Etcd
from fastnl_engine.testing import EngineProcess, end, pair

IN_FLIGHT = 64
ROOT = "/vnf-agent/vpp1/linux/config/v1/interface/"


def half(n: int, own: str, peer: str) -> tuple[str, bytes]:
    """Key and value of one half of pair `n`."""
    value = {
        "name": f"{own}{n}", "enabled": True, "veth": {"peer_if_name": f"{peer}{n}"}, "mtu": 1500,
        "ip_addresses": [address(n, own)], "namespace": {"type": 2, "name": f"{own}{n % 100}"},
    }  # fmt: skip
    return f"{ROOT}{own}{n}", json.dumps(value).encode()


def address(n: int, own: str) -> str:
    return f"10.{n >> 8}.{n & 255}.{1 + (own == 'b')}/24"


def job(n: int) -> dict[str, Any]:
    """The same pair as a connection."""
    a, b = (end(f"{own}{n % 100}", f"{own}{n}", address(n, own), mtu=1500) for own in "ab")
    return pair(f"zmq/{n}", a, b)


class Ups:
    """Counts the events `up` of an engine."""

    def __init__(self, engine: EngineProcess) -> None:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.subscribe("connection.up.")
        self._socket.connect(engine.events)

    async def wait(self, count: int) -> float:
        """The time at which so many have come."""
        for _ in range(count):
            await self._socket.recv_multipart()
        return time.perf_counter()

    def close(self) -> None:
        self._socket.close()
        self._context.term()


@contextlib.contextmanager
def machine(*, etcd: bool = True) -> Iterator[tuple[Etcd, EngineProcess]]:
    """Namespaces, an etcd and an engine that is not started yet."""
    with tempfile.TemporaryDirectory(prefix="fastnl-") as folder, Namespaces() as namespaces:
        for own in "ab":
            namespaces.many(100, own)
        with Etcd(Path(folder) / "etcd") as store:
            place = Path(folder) / "engine"
            place.mkdir()
            settings = f'[ligato]\nstore = "etcd"\nendpoints = {json.dumps(store.urls)}\nstatistics = 0\n'
            (place / "engine.toml").write_text(settings if etcd else "")
            engine = EngineProcess(place, "--config", str(place / "engine.toml"), instance="bench")
            try:
                yield store, engine
            finally:
                engine.close()


async def each(work: list[Coroutine[Any, Any, Any]]) -> None:
    """Awaits all of them, IN_FLIGHT at a time, in their order."""
    items = iter(work)

    async def worker() -> None:
        for item in items:
            await item

    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))


async def over_zmq(pairs: int) -> float:
    with machine(etcd=False) as (_, engine):
        engine.start().resumed()
        async with AsyncClient(engine.endpoint) as client:
            await client.info()
            ups = Ups(engine)
            await asyncio.sleep(0.5)
            began = time.perf_counter()
            done = asyncio.ensure_future(ups.wait(pairs))
            await each([client.connect([job(n)]) for n in range(pairs)])
            up = await done - began
            ups.close()
            return up


async def through_etcd(pairs: int) -> tuple[float, float]:
    """Seconds until all are up, and until all are put."""
    with machine() as (etcd, engine):
        engine.start().resumed()
        async with open_etcd(etcd.urls) as kv:
            await kv.get("x")
            ups = Ups(engine)
            await asyncio.sleep(0.5)
            began = time.perf_counter()
            done = asyncio.ensure_future(ups.wait(pairs))
            await each([kv.put(*half(n, *names)) for n in range(pairs) for names in ("ab", "ba")])
            put = time.perf_counter() - began
            up = await done - began
            ups.close()
            return up, put


async def before_the_start(pairs: int) -> float:
    """From the engine's first answer until all are up."""
    with machine() as (etcd, engine):
        async with open_etcd(etcd.urls) as kv:
            await each([kv.put(*half(n, *names)) for n in range(pairs) for names in ("ab", "ba")])
        ups = Ups(engine)
        engine.launch()
        async with AsyncClient(engine.endpoint) as client:
            await client.info()
            began = time.perf_counter()
            while (await client.info())["connections"].get("up", 0) < pairs:  # noqa: ASYNC110, some may be up before this
                await asyncio.sleep(0.02)
            up = time.perf_counter() - began
        ups.close()
        return up


async def second_halves(count: int) -> list[float]:
    """Seconds from the put of a second half to both ends up, one pair after the other."""
    took = []
    with machine() as (etcd, engine):
        engine.start().resumed()
        async with open_etcd(etcd.urls) as kv:
            ups = Ups(engine)
            await asyncio.sleep(0.5)
            for n in range(count):
                await kv.put(*half(n, "a", "b"))
                await asyncio.sleep(0.05)
                began = time.perf_counter()
                done = asyncio.ensure_future(ups.wait(1))
                await kv.put(*half(n, "b", "a"))
                took.append(await done - began)
            ups.close()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--halves", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    isolate()
    zmqs, etcds, puts, starts = [], [], [], []
    for _ in range(given.rounds):
        zmqs.append(asyncio.run(over_zmq(given.pairs)))
        up, put = asyncio.run(through_etcd(given.pairs))
        etcds.append(up)
        puts.append(put)
        starts.append(asyncio.run(before_the_start(given.pairs)))
    took = sorted(asyncio.run(second_halves(given.halves)))
    base = statistics.median(zmqs)
    print(f"{given.pairs} pairs, medians of {given.rounds} rounds")
    print(f"  over ZeroMQ               {base:7.3f} s")
    for name, seconds, most in (("put one key at a time", etcds, 2.0), ("put before the start", starts, 1.5)):
        middle = statistics.median(seconds)
        print(f"  {name:<25} {middle:7.3f} s  {middle / base:5.2f} times (at most {most})")
    print(f"  of it until all are put   {statistics.median(puts):7.3f} s")
    print(f"second half to both ends up, {given.halves} pairs")
    for name, place, most in (("p50", 0.5, 10), ("p99", 0.99, 50)):
        print(f"  {name} {took[min(len(took) - 1, int(place * len(took)))] * 1000:6.2f} ms (at most {most})")


if __name__ == "__main__":
    main()
