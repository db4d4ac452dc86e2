"""The forwarder of a mesh: how many requests it answers, how fast, with many connections up, and over three hosts.

    python -m bench.nsm [--pairs 1000] [--rounds 5] [--probes 500] [--established 10000] [--remote 1000]
                        [--only rate,latency,mesh,growth]

rate     connections made and removed over the legacy API and over ZeroMQ, one a request, 64 requests in flight; each
         has an engine of its own, durable, with state on the disk that TMPDIR names.  They take turns, and a ratio is
         the median of the rounds' own.  The seed's create-and-move sequence stands beside it, without any engine.
latency  one local Request after the other, to a forwarder that has nothing else to do
mesh     three hosts with a network between them; half of each connection is on either of two hosts
growth   the latency of a forwarder with 100 connections and that of one with so many more, in turns

Messages are packed before the clock runs, and what the client costs counts.  So `rate` has one that costs little on
either side: gRPC's own for Python takes as much of the processors as the forwarder does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import msgpack
import zmq

from bench import http2
from bench.load import percentile
from fastnl import End, Veth
from fastnl.testing import Namespaces, isolate, nsenter, ping
from fastnl_engine.adapters.nsm.inodes import inode_of
from fastnl_engine.adapters.nsm.pb.crossconnect_pb2 import CrossConnect
from fastnl_engine.adapters.nsm.testing import addresses, cross_connect, kernel, vxlan
from fastnl_engine.bench import machine
from fastnl_engine.bench.contenders import settle
from fastnl_engine.bench.seed_sequence import SeedSequence
from fastnl_engine.testing import EngineProcess

IN_FLIGHT = 64
ROOMS = 100  # namespaces on either side
FEW = 100  # connections that make no difference
SAMPLE = 60  # connections of the mesh that are pinged through
SERVING = "forwarding for the mesh"
WAIT = 120  # seconds for one answer


# -- what is asked for -------------------------------------------------------------------------------


class Rooms:
    """Namespaces, and messages about connections between them."""

    def __init__(self, names: Sequence[str]) -> None:
        self.inodes = {name: inode_of(f"name:{name}") for name in names}

    def cross(self, id_: str, n: int, source: str, destination: str) -> CrossConnect:
        """A pair over the legacy API; names and addresses follow from `n`."""
        a, b = ends(n, source, destination)
        return cross_connect(
            id_, kernel(a.ifname, self.inodes[source]), kernel(b.ifname, self.inodes[destination]),
            addresses(*(end.addresses[0].text for end in (a, b))),
        )  # fmt: skip


def ends(n: int, source: str, destination: str) -> tuple[End, End]:
    net = f"10.{n >> 14 & 255}.{n >> 6 & 255}"
    host = (n & 63) * 4
    return (
        End(source, f"s{n}", [f"{net}.{host + 1}/30"]),
        End(destination, f"d{n}", [f"{net}.{host + 2}/30"]),
    )


def job(id_: str, n: int, source: str, destination: str) -> dict[str, Any]:
    """The same pair over ZeroMQ."""
    a, b = (
        {"netns": e.netns, "ifname": e.ifname, "addresses": [e.addresses[0].text]} for e in ends(n, source, destination)
    )
    return {"id": id_, "kind": "veth", "a": a, "b": b, "mtu": 16000}


# -- ways in -----------------------------------------------------------------------------------------


class Mesh:
    """Calls of a forwarder's legacy API, as bytes."""

    def __init__(self, *targets: str) -> None:
        self._channels = [
            grpc.aio.insecure_channel(t, options=[("grpc.use_local_subchannel_pool", 1)]) for t in targets
        ]

    async def __aenter__(self) -> Mesh:
        await asyncio.gather(*(channel.channel_ready() for channel in self._channels))
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in self._channels:
            await channel.close()

    async def each(self, method: str, messages: Sequence[bytes], at: Sequence[int] | None = None) -> list[float]:
        """Sends all, IN_FLIGHT at a time, in their order; seconds that each took.  `at` says to which target each."""
        calls = [channel.unary_unary(f"/forwarder.Forwarder/{method}") for channel in self._channels]
        took = [0.0] * len(messages)
        work = iter(enumerate(messages))

        async def worker() -> None:
            for n, message in work:
                began = time.perf_counter()
                await calls[at[n] if at else 0](message, timeout=WAIT)
                took[n] = time.perf_counter() - began

        await asyncio.gather(*(worker() for _ in range(min(IN_FLIGHT, len(messages)))))
        return took

    async def one(self, method: str, message: bytes) -> float:
        [took] = await self.each(method, [message])
        return took


def over_zmq(endpoint: str, frames: Sequence[bytes]) -> float:
    """Sends all, IN_FLIGHT at a time; seconds until the last reply."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as client:
        client.setsockopt(zmq.LINGER, 0)
        client.connect(endpoint)
        replies = []
        began = time.perf_counter()
        waiting = iter(frames)
        for frame in itertools.islice(waiting, IN_FLIGHT):
            client.send(frame)
        while len(replies) < len(frames):
            if not client.poll(WAIT * 1000):
                raise RuntimeError("the engine stopped answering")
            replies.append(client.recv())
            if (following := next(waiting, None)) is not None:
                client.send(following)
        took = time.perf_counter() - began
    bad = [reply for frame in replies if not (reply := msgpack.unpackb(frame))["ok"]]
    if bad:
        raise RuntimeError(f"the engine: {bad[0]}")
    return took


def over_grpc(target: str, method: str, messages: Sequence[bytes]) -> float:
    """The same with calls of the legacy API."""
    path = target.removeprefix("unix:")
    return http2.unary(path, f"/forwarder.Forwarder/{method}", messages, IN_FLIGHT, WAIT)


@contextlib.contextmanager
def engine(folder: Path, name: str, *, mesh: bool = True, **more: Any) -> Iterator[EngineProcess]:
    """An engine in a folder of its own, and `unix:FOLDER/nsm.sock` for the mesh."""
    place = folder / name
    place.mkdir()
    flags = ["--nsm", target_of(place)] if mesh else []
    running = EngineProcess(place, *flags, instance=name, **more)
    try:
        running.start()
        deadline = time.monotonic() + WAIT
        while mesh and SERVING not in running.log:
            assert time.monotonic() < deadline, running.log
            time.sleep(0.02)
        yield running
    finally:
        running.close()


def target_of(folder: Path) -> str:
    return f"unix:{folder}/nsm.sock"


# -- the four measurements ---------------------------------------------------------------------------


def rate(given: argparse.Namespace, folder: Path, rooms: Rooms) -> None:
    places = [(n, f"a{n % ROOMS}", f"b{n % ROOMS}") for n in range(given.pairs)]
    crosses = [rooms.cross(f"g{n}", n, *at).SerializeToString() for n, *at in places]
    pack = [
        msgpack.packb({"v": 1, "id": n, "op": "connect", "connections": [job(f"z{n}", n, *at)]}) for n, *at in places
    ]
    drop = [msgpack.packb({"v": 1, "id": n, "op": "disconnect", "ids": [f"z{n}"]}) for n, *_ in places]
    seed = SeedSequence([Veth(*ends(n, *at)) for n, *at in places[:8]])
    rounds: list[dict[str, float]] = []
    with engine(folder, "rate-grpc") as first, engine(folder, "rate-zmq", mesh=False) as second:
        target = target_of(first.folder)
        contenders: list[Callable[[], dict[str, float]]] = [
            lambda: {
                "grpc, create": over_grpc(target, "Request", crosses),
                "grpc, delete": over_grpc(target, "Close", crosses),
            },
            lambda: {
                "zmq, create": over_zmq(second.endpoint, pack),
                "zmq, delete": over_zmq(second.endpoint, drop),
            },
        ]
        for turn in range(given.rounds + 1):
            found: dict[str, float] = {}
            for contender in contenders if turn % 2 else contenders[::-1]:
                settle()
                found |= contender()
            if turn:  # the first one warms both up
                rounds.append(found)
    slow = {step: seed.step(step).passed for step in ("create", "delete")}
    print(f"{given.pairs} pairs, one a request, {IN_FLIGHT} in flight, medians of {given.rounds} rounds")
    for step in ("create", "delete"):
        ratios = sorted(r[f"zmq, {step}"] / r[f"grpc, {step}"] for r in rounds)
        for who in ("zmq", "grpc"):
            middle = statistics.median(r[f"{who}, {step}"] for r in rounds)
            print(f"  {step}, {who:<8} {given.pairs / middle:8,.0f} requests a second")
        print(f"  {step}, seed's   {1 / slow[step]:8,.0f} pairs a second, one at a time")
        goal = "at least 0.6" if step == "create" else "no target"
        print(f"  {step}, ratio    {statistics.median(ratios):8.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f}; {goal})")


async def _probe(mesh: Mesh, messages: Sequence[bytes]) -> list[float]:
    """Seconds of one Request at a time; each is closed again."""
    took = []
    for message in messages:
        took.append(await mesh.one("Request", message))
        await mesh.one("Close", message)
    return took


def latency(given: argparse.Namespace, folder: Path, rooms: Rooms) -> None:
    messages = [rooms.cross(f"p{n}", n, "a0", "b0").SerializeToString() for n in range(given.probes)]

    async def run(target: str) -> list[float]:
        async with Mesh(target) as mesh:
            await _probe(mesh, messages[:20])
            return await _probe(mesh, messages)

    with engine(folder, "latency") as forwarder:
        took = asyncio.run(run(target_of(forwarder.folder)))
    print(f"a local Request to an idle forwarder, {given.probes} of them, one after the other")
    print(
        f"  p50 {percentile(took, 50) * 1e3:.2f} ms, p90 {percentile(took, 90) * 1e3:.2f} ms, "
        f"p99 {percentile(took, 99) * 1e3:.2f} ms (less than 10), slowest {max(took) * 1e3:.1f} ms"
    )


def growth(given: argparse.Namespace, folder: Path, rooms: Rooms) -> None:
    def connections(count: int, first: int) -> list[bytes]:
        spread = ((n, f"a{n % ROOMS}", f"b{n // ROOMS % ROOMS}") for n in range(first, first + count))
        return [rooms.cross(f"e{n}", n, *at).SerializeToString() for n, *at in spread]

    # in namespaces where nothing else is, so that the forwarder is compared and not the kernel's lists
    probes = [rooms.cross(f"p{n}", n, "probe-a", "probe-b").SerializeToString() for n in range(given.probes)]

    async def run(few: str, many: str) -> None:
        async with Mesh(few) as small, Mesh(many) as large:
            await small.each("Request", connections(FEW, 0))
            alone = await _probe(small, probes)
            began = time.perf_counter()
            await large.each("Request", connections(given.established, FEW))
            passed = time.perf_counter() - began
            print(
                f"{given.established} connections made in {passed:.1f} s ({given.established / passed:,.0f} a second)"
            )
            took: dict[Mesh, list[float]] = {small: [], large: []}
            ratios = []
            blocks = [probes[at : at + 50] for at in range(0, len(probes), 50)]
            for turn, block in enumerate(blocks):
                middles = {}
                for mesh in (small, large) if turn % 2 else (large, small):
                    seconds = await _probe(mesh, block)
                    took[mesh] += seconds
                    middles[mesh] = statistics.median(seconds)
                ratios.append(middles[large] / middles[small])
        ratios.sort()
        print(f"  p50 / p99 at {FEW}, before                 {_figures(alone)}")
        print(f"  p50 / p99 at {FEW}, in turns with the next {_figures(took[small])}")
        print(f"  p50 / p99 at {given.established:<6}                  {_figures(took[large])}")
        print(
            f"  median at {given.established} to that at {FEW}: {statistics.median(ratios):.2f} "
            f"({ratios[0]:.2f}–{ratios[-1]:.2f}; at most 1.3)"
        )

    with engine(folder, "few") as first, engine(folder, "many") as second:
        asyncio.run(run(target_of(first.folder), target_of(second.folder)))


def _figures(seconds: Sequence[float]) -> str:
    return f"{percentile(seconds, 50) * 1e3:6.2f} / {percentile(seconds, 99) * 1e3:6.2f} ms"


HOSTS = {f"host{n}": f"192.0.2.{n}" for n in (1, 2, 3)}


def lay_network(namespaces: Namespaces) -> None:
    """Namespaces that stand for hosts, and a bridge between them."""

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    ip("link", "add", "under", "type", "bridge")
    ip("link", "set", "under", "up")
    for n, (host, address) in enumerate(HOSTS.items()):
        namespaces.make(host)
        ip("link", "add", f"under{n}", "master", "under", "type", "veth", "peer", "name", "under", "netns", host)
        ip("link", "set", f"under{n}", "up")
        ip("-n", host, "addr", "add", f"{address}/24", "dev", "under")
        ip("-n", host, "link", "set", "under", "up")
        ip("-n", host, "link", "set", "lo", "up")


def mesh(given: argparse.Namespace, folder: Path, rooms: Rooms) -> None:
    """Each connection is two requests, one to the forwarder of either host."""
    requests: list[tuple[bytes, int]] = []
    pings = []
    for n in range(given.remote):
        one, other = ((n + shift) % 3 for shift in (0, 1 + n // 3 % 2))
        row = n // 6 % (ROOMS // 3) * 3  # a namespace is on one host
        here, there = f"a{row + one}", f"b{row + other}"
        a, b = ends(n, here, there)
        tunnel = vxlan(*(list(HOSTS.values())[host] for host in (one, other)), n + 1)
        context = addresses(a.addresses[0].text, b.addresses[0].text)
        ours, theirs = kernel(a.ifname, rooms.inodes[here]), kernel(b.ifname, rooms.inodes[there])
        requests.append((cross_connect(f"m{n}", ours, tunnel, context).SerializeToString(), one))
        requests.append((cross_connect(f"m{n}", tunnel, theirs, context).SerializeToString(), other))
        pings.append((here, b.addresses[0].text.partition("/")[0]))

    async def run(targets: Sequence[str]) -> None:
        async with Mesh(*targets) as hosts:
            messages, at = [message for message, _ in requests], [host for _, host in requests]
            began = time.perf_counter()
            took = await hosts.each("Request", messages, at)
            passed = time.perf_counter() - began
            sample = random.Random(0).sample(pings, min(SAMPLE, len(pings)))
            answered = sum([await asyncio.to_thread(ping, *one) for one in sample])
            print(
                f"3 hosts, {given.remote} remote connections, {IN_FLIGHT} requests in flight: {passed:.1f} s "
                f"({given.remote / passed:,.0f} connections a second), requests p50 / p99 {_figures(took)}\n"
                f"  none failed; {answered} of {len(sample)} pings across them were answered"
            )
            began = time.perf_counter()
            await hosts.each("Close", messages, at)
            print(f"  closed in {time.perf_counter() - began:.1f} s")

    with Namespaces() as namespaces, contextlib.ExitStack() as stack:
        lay_network(namespaces)
        running = [
            stack.enter_context(
                engine(folder, host, prefix=nsenter(host), env={"NSM_FORWARDER_SRC_IP": address, "NSM_NAME": host})
            )
            for host, address in HOSTS.items()
        ]
        asyncio.run(run([target_of(e.folder) for e in running]))


# what leaves the kernel most to clean up comes last
PARTS = {part.__name__: part for part in (rate, latency, mesh, growth)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--probes", type=int, default=500)
    parser.add_argument("--established", type=int, default=10_000)
    parser.add_argument("--remote", type=int, default=1000)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(PARTS))
    given = parser.parse_args()
    isolate()
    others = machine.Others()
    with tempfile.TemporaryDirectory(prefix="fastnl-") as folder:
        for part in given.only:
            with Namespaces() as namespaces:
                names = [*namespaces.many(ROOMS, "a"), *namespaces.many(ROOMS, "b")]
                names += [namespaces.make(f"probe-{own}") for own in "ab"]
                PARTS[part](given, Path(folder), Rooms(names))
    taken = others.read()
    print(f"others took {taken['taken by others']} processors on average, the hypervisor {taken['stolen']}")


if __name__ == "__main__":
    main()
