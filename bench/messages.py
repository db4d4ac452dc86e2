"""Bytes alone: messages of connections are built and answers of the kernel parsed, and no kernel is asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pyroute2 import IPBatch
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from fastnl import Connection, Veth, Vxlan
from fastnl._nl import Tour
from fastnl_engine.bench.pyroute2_peer import furnish, link

ADDR_GEN_MODE_NONE = 1


def build(connections: Sequence[Connection]) -> Tour:
    """All messages that Host.connect sends for connections of the star shape: create, marks, up, addresses, routes."""
    tour = Tour(len(connections))
    sender, hub = tour.visit(3), tour.visit(4)
    for n, c in enumerate(connections):
        visits = [hub]
        if isinstance(c, Vxlan):
            sender.vxlan(n, c, 4, 1000 + n, 0, 77)
        elif isinstance(c, Veth):
            sender.veth(n, c, 4, 1000 + n, 5, 2000 + n, 77)
            visits.append(tour.visit(5))
        for k, (visit, end) in enumerate(zip(visits, c.ends, strict=True)):
            visit.bring_up(n, k, 1000 * (k + 1) + n, "fastnl/bench/star-1/a", ADDR_GEN_MODE_NONE)
            visit.furnish(n, k, 1000 * (k + 1) + n, end)
    return tour


def build_with_pyroute2(connections: Sequence[Connection], builder: IPBatch) -> bytes:
    """The same by IPBatch, without the marks."""
    builder.reset()
    for n, c in enumerate(connections):
        builder.link("add", **link(c, [end.ifname for end in c.ends], [4, 5][: len(c.ends)]))
        for k, end in enumerate(c.ends):
            furnish(builder, 1000 * (k + 1) + n, end)
    return bytes(builder.batch)


def answers(count: int) -> bytes:
    """So many RTM_NEWLINK as a kernel would send them, as far as pyroute2 knows how to write them."""
    with IPBatch() as builder:
        for n in range(count):
            builder.link(
                "add", kind="veth", ifname=f"v{n}a", peer={"ifname": f"v{n}b"}, index=1000 + n, mtu=1500, group=77,
                address=f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}", ifalias=f"fastnl/bench/star-{n}/a",
            )  # fmt: skip
        return bytes(builder.batch)


def read_with_pyroute2(data: bytes) -> int:
    return sum(1 for _ in MarshalRtnl().parse(data))


def timed(work: Callable[[], object], count: int, least: float = 0.02) -> float:
    """Seconds for each of `count`, from as many repetitions as take `least` seconds."""
    done = 0
    begin = time.perf_counter()
    while (passed := time.perf_counter() - begin) < least or not done:
        work()
        done += 1
    return passed / done / count
