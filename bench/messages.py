"""What it costs to build the messages of a connection, and to read the kernel's answers; no kernel involved."""

from __future__ import annotations

import time
from collections.abc import Sequence

from bench import workloads
from fastnl import Veth
from fastnl._nl import Tour

ADDR_GEN_MODE_NONE = 1


def build(connections: Sequence[Veth]) -> Tour:
    """All messages that Host.connect sends for connections of the star shape: create, marks, up and addresses."""
    tour = Tour(len(connections))
    sender, hub = tour.visit(3), tour.visit(4)
    for n, c in enumerate(connections):
        sender.veth(n, c, 4, 1000 + n, 5, 2000 + n, 77)
        leaf = tour.visit(5)
        hub.bring_up(n, 0, 1000 + n, "fastnl/bench/star-1/a", ADDR_GEN_MODE_NONE)
        hub.furnish(n, 0, 1000 + n, c.a)
        leaf.bring_up(n, 1, 2000 + n, "fastnl/bench/star-1/b", ADDR_GEN_MODE_NONE)
        leaf.furnish(n, 1, 2000 + n, c.b)
    return tour


def build_cost(rounds: int = 200) -> float:
    """Median seconds a connection with one address an end, in batches of 64."""
    connections = workloads.pairs("star", 64)
    costs = []
    for _ in range(rounds):
        begin = time.perf_counter()
        build(connections)
        costs.append((time.perf_counter() - begin) / len(connections))
    return sorted(costs)[len(costs) // 2]
