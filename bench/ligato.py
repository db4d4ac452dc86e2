"""Configuration through etcd against the same connections over ZeroMQ, and how long the second half of a pair takes.

    python -m bench.ligato [--pairs 1000] [--halves 300] [--rounds 3]

Every round starts etcd and engines anew, durable, with state on the disk that TMPDIR names.  Keys are put one by one,
as many of them on their way as ZeroMQ requests.  A time ends with the last pair's event `up`, which is sent when the
outcome is on the disk.

A second half needs etcd and the engine, and what either takes is measured beside it, in turns: a bare put until a watch
tells of it, and a connect over ZeroMQ until `up`.  What they take together is what a half costs before the northbound
has done anything, with the noise of the machine in it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Coroutine, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import zmq
import zmq.asyncio

from fastnl.testing import Namespaces, isolate
from fastnl_engine.client import AsyncClient
from fastnl_engine.kv import open_etcd
from fastnl_engine.kv.base import KV
from fastnl_engine.kv.testing import Etcd
from fastnl_engine.testing import EngineProcess, end, pair

IN_FLIGHT = 64
WAITS = (0.0, 0.05, 0.1)  # seconds between two halves; after 0.05 the status of the first is just being written
QUIET = 0.2  # seconds after which the engine has looked at a pair and written its statuses
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


def job(n: int, prefix: str = "") -> dict[str, Any]:
    """The same pair as a connection, with a prefix for the names of its interfaces."""
    a, b = (end(f"{own}{n % 100}", f"{prefix}{own}{n}", address(n, own), mtu=1500) for own in "ab")
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


class Start(NamedTuple):
    """Seconds until all that is configured is up: since the engine was launched, and since its first answer.

    kernel   seconds of it that the engine spent in the kernel
    """

    launched: float
    answered: float
    kernel: float


async def before_the_start(pairs: int) -> Start:
    with machine() as (etcd, engine):
        async with open_etcd(etcd.urls) as kv:
            await each([kv.put(*half(n, *names)) for n in range(pairs) for names in ("ab", "ba")])
        began = time.perf_counter()
        engine.launch()
        async with AsyncClient(engine.endpoint) as client:
            await client.info()
            answered = time.perf_counter()
            while (info := await client.info())["connections"].get("up", 0) < pairs:  # noqa: ASYNC110, no event tells that
                await asyncio.sleep(0.02)
            up = time.perf_counter()
        return Start(up - began, up - answered, info["stages"]["kernel"]["seconds"])


class Seen:
    """Tells when a watch of this process sees a key."""

    def __init__(self, kv: KV, prefix: str) -> None:
        self._keys: dict[str, asyncio.Future[float]] = {}
        self._watching = asyncio.create_task(self._watch(kv, prefix))

    async def _watch(self, kv: KV, prefix: str) -> None:
        async for batch in kv.watch(prefix):
            for event in batch.events:
                self._keys.pop(event.key).set_result(time.perf_counter())

    def when(self, key: str) -> asyncio.Future[float]:
        self._keys[key] = asyncio.get_running_loop().create_future()
        return self._keys[key]

    def close(self) -> None:
        self._watching.cancel()


class Sample(NamedTuple):
    """Seconds from the put of a second half to both ends up, `wait` seconds after the first, and of what it needs."""

    wait: float
    half: float
    etcd: float
    zmq: float


async def second_halves(count: int) -> list[Sample]:
    """One pair after the other, while there is nothing else to do."""
    samples = []
    with machine() as (etcd, engine):
        engine.start().resumed()
        async with open_etcd(etcd.urls) as kv, AsyncClient(engine.endpoint) as client:
            ups, seen = Ups(engine), Seen(kv, "bare/")
            await client.info()
            await asyncio.sleep(0.5)

            async def until_up(doing: Awaitable[Any]) -> float:
                began = time.perf_counter()
                up = asyncio.ensure_future(ups.wait(1))
                await doing
                return await up - began

            for n, wait in zip(range(count), itertools.cycle(WAITS)):
                await kv.put(*half(n, "a", "b"))
                await asyncio.sleep(wait)
                of_half = await until_up(kv.put(*half(n, "b", "a")))
                await asyncio.sleep(QUIET)
                of_zmq = await until_up(client.connect([job(n, "z")]))
                told = seen.when(f"bare/{n}")
                began = time.perf_counter()
                await kv.put(f"bare/{n}", half(n, "a", "b")[1])
                samples.append(Sample(wait, of_half, await told - began, of_zmq))
            seen.close()
            ups.close()
    return samples


def tell_of(samples: Sequence[Sample]) -> None:
    def line(name: str, seconds: Iterable[float], remark: str = "") -> tuple[float, float]:
        p50, p99 = (quantile(seconds, place) * 1000 for place in (0.5, 0.99))
        print(f"  {name:<34} {p50:6.2f} {p99:7.2f} ms{remark}")
        return p50, p99

    print(f"second half to both ends up, {len(samples)} pairs{'p50':>10}{'p99':>8}")
    line("bare put until a watch tells", [s.etcd for s in samples])
    line("connect over ZeroMQ until up", [s.zmq for s in samples])
    both = line("both together", [s.etcd + s.zmq for s in samples])
    for wait in WAITS:
        line(f"second half {wait * 1000:.0f} ms after the first", [s.half for s in samples if s.wait == wait])
    halves = line("all second halves", [s.half for s in samples], "  (at most 10 and 50)")
    print(f"  {'times both together':<34} {halves[0] / both[0]:6.2f} {halves[1] / both[1]:7.2f}")


def quantile(values: Iterable[float], place: float) -> float:
    row = sorted(values)
    return row[min(len(row) - 1, int(place * len(row)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--halves", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    isolate()
    zmqs, etcds, puts, starts = [], [], [], list[Start]()
    for _ in range(given.rounds):
        zmqs.append(asyncio.run(over_zmq(given.pairs)))
        up, put = asyncio.run(through_etcd(given.pairs))
        etcds.append(up)
        puts.append(put)
        starts.append(asyncio.run(before_the_start(given.pairs)))
    samples = asyncio.run(second_halves(given.halves))
    base = statistics.median(zmqs)
    print(f"{given.pairs} pairs, medians of {given.rounds} rounds; times: the medians of the rounds' own ratios")
    print(f"  over ZeroMQ               {base:7.3f} s")
    answered = [start.answered for start in starts]
    for name, seconds, most in (("put one key at a time", etcds, 2.0), ("put before the start", answered, 1.5)):
        times = statistics.median(one / over for one, over in zip(seconds, zmqs, strict=True))
        print(f"  {name:<25} {statistics.median(seconds):7.3f} s  {times:5.2f} times (at most {most})")
    print(f"  of it until all are put   {statistics.median(puts):7.3f} s")
    launched = statistics.median(start.launched for start in starts)
    beyond = statistics.median(start.launched - start.kernel for start in starts)
    print(f"{2 * given.pairs} keys, from the launch {launched:.3f} s, {beyond:.3f} s of it not in the kernel")
    tell_of(samples)


if __name__ == "__main__":
    main()
