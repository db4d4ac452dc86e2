"""Building messages and reading answers, without their way through the kernel.

python -m pytest bench/test_bench_messages.py
"""

from __future__ import annotations

import pytest

from bench import messages
from fastnl import Address, End, Host, Neighbour, Route, Veth, Vxlan
from fastnl._nl import Tour
from fastnl_engine.bench import workloads

COUNT = 64


def plain(i: int) -> Veth:
    return Veth(End("a", f"e{i}"), End("b", f"e{i}"))


def rich(i: int) -> Veth:
    """Everything that an end can have, two addresses of each family, three routes, two neighbours."""

    def end(place: str, side: int) -> End:
        return End(
            place,
            f"e{i}",
            [f"10.0.{i}.{side}/24", f"10.1.{i}.{side}/24", f"fd00:{i:x}::{side}/64", f"fd01:{i:x}::{side}/64"],
            mac=f"02:00:00:00:{i:02x}:{side:02x}",
            mtu=9000,
            routes=[Route(f"10.{n}.0.0/16", via=f"10.0.{i}.9") for n in (7, 8, 9)],
            neighbours=[Neighbour(f"10.0.{i}.{n}", "02:00:00:00:00:09") for n in (9, 10)],
        )

    return Veth(end("a", 1), end("b", 2), id=f"rich-{i}")


@pytest.mark.parametrize("make", [plain, rich])
def test_build_pairs(benchmark, make):
    """Benchmark the messages of 64 pairs, created and furnished at both ends."""
    connections = [make(i) for i in range(COUNT)]
    benchmark(messages.build, connections)


def test_build_pairs_with_one_address(benchmark):
    """Benchmark the messages of 64 pairs with one address an end: 64 times the figure of docs/performance.md."""
    benchmark(messages.build, workloads.pairs("star", COUNT))


def test_build_tunnels(benchmark):
    """Benchmark the messages that create 64 VXLANs."""
    tunnels = [
        Vxlan(a=End("a", f"vx{i}"), vni=i + 1, local="192.0.2.1", remote="192.0.2.2", ttl=64) for i in range(COUNT)
    ]

    def build() -> None:
        visit = Tour(COUNT).visit(3)
        for i, tunnel in enumerate(tunnels):
            visit.vxlan(i, tunnel, 4, 1000 + i, 0, 77)

    benchmark(build)


def test_make_values(benchmark):
    """Benchmark 64 Veth values with one address an end, checked, from text."""
    benchmark(workloads.pairs, "star", COUNT)


def test_make_addresses(benchmark):
    """Benchmark 64 addresses parsed from text."""
    texts = [f"10.0.{i}.1/24" for i in range(COUNT)]
    benchmark(lambda: [Address(text) for text in texts])


@pytest.mark.parametrize("stats", [False, True], ids=["plain", "counters"])
@pytest.mark.usefixtures("private")
def test_read_links(benchmark, stats):
    """Benchmark a dump of 256 interfaces to rows, the kernel's share included."""
    connections = workloads.pairs("dense", 256)
    workloads.make_namespaces(connections)
    host = Host("bench")
    results = host.connect(connections)
    try:
        assert len(benchmark(host.links, "a0", stats=stats)) > 256
    finally:
        host.disconnect([r.wired for r in results])
