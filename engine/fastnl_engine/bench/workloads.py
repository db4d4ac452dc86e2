"""What is wired in the measurements: shapes of networks, and the namespaces that they need.

    spread  every pair has two namespaces of its own
    star    one end of every pair is in one shared namespace, the other in one of its own
    mesh    every namespace is connected with every other one
    dense   all pairs are between the same two namespaces

A tunnel has the first end of the pair only: its other end is on another host.  Namespaces are made once and stay for
the rest of the process: they cost more than what is wired between them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastnl import Connection, End, Route, Veth, Vxlan, netns

SHAPES = ("spread", "star", "mesh", "dense")
KINDS = ("veth", "vxlan")
ROOMS = [f"to{n}" for n in range(8)]  # namespaces that first ends are moved to


@dataclass(frozen=True, slots=True)
class Workload:
    """addresses, routes: of each end; prefix: of the interfaces' names and the ids, where several workloads meet."""

    shape: str = "spread"
    kind: str = "veth"
    count: int = 64
    addresses: int = 1
    routes: int = 0
    prefix: str = "v"

    def connections(self) -> list[Connection]:
        made: list[Connection] = []
        for i, (a, b) in enumerate(_places(self.shape, self.count)):
            id_ = f"{self.prefix}-{self.shape}-{i}"
            if self.kind == "veth":
                made.append(Veth(self._end(a, i, 0), self._end(b, i, 1), id=id_))
            elif self.kind == "vxlan":
                vni = sum(self.prefix.encode()) % 128 << 16 | i + 1
                made.append(Vxlan(a=self._end(a, i, 0), vni=vni, local="192.0.2.1", remote="192.0.2.2", id=id_))
            else:
                raise ValueError(f"{self.kind!r} is none of {', '.join(KINDS)}")
        return made

    def _end(self, place: str, i: int, side: int) -> End:
        """A /30 for each connection out of 10.0.0.0/8, 11.0.0.0/8, …, and routes to as many in 20.0.0.0/8, …"""
        n = i * 4 + side + 1
        host = f"{n >> 16}.{n >> 8 & 255}.{n & 255}"
        net = f"{n >> 16}.{n >> 8 & 255}.{n & 252}"
        return End(
            place, f"{self.prefix}{i}{'ab'[side]}", [f"{10 + k}.{host}/30" for k in range(self.addresses)],
            routes=[Route(f"{20 + 4 * side + k}.{net}/30") for k in range(self.routes)],
        )  # fmt: skip


def _places(shape: str, count: int) -> Iterator[tuple[str, str]]:
    """The namespaces of each pair."""
    if shape == "spread":
        return ((f"a{i}", f"b{i}") for i in range(count))
    if shape == "star":
        return (("hub", f"b{i}") for i in range(count))
    if shape == "dense":
        return (("a0", "b0") for _ in range(count))
    if shape == "mesh":
        return itertools.islice(((f"a{i}", f"a{k}") for k in itertools.count() for i in range(k)), count)
    raise ValueError(f"{shape!r} is none of {', '.join(SHAPES)}")


def pairs(shape: str, count: int, *, address: bool = True, prefix: str = "v") -> list[Veth]:
    """Veth pairs, with one IPv4 address an end or without."""
    made = Workload(shape, "veth", count, addresses=int(address), prefix=prefix).connections()
    return [c for c in made if isinstance(c, Veth)]


def names(connections: Sequence[Connection]) -> list[str]:
    """The namespaces that connections are between, each once."""
    return list(dict.fromkeys(end.netns for c in connections for end in c.ends))


def make_namespaces(connections: Sequence[Connection]) -> None:
    """Makes those that are not there yet."""
    for name in names(connections):
        make_namespace(name)


def make_namespace(name: str) -> None:
    """Makes one, unless it is there."""
    try:
        netns.create(name)
    except FileExistsError:
        return


def updated(c: Connection) -> Connection:
    """The same connection with another address and MTU at its first end."""
    others = [a.text.replace("1", "3", 1) for a in c.a.addresses]  # 10.… becomes 30.…
    return replace(c, a=End(c.a.netns, c.a.ifname, others, mtu=1400, routes=c.a.routes))


def room(n: int) -> str:
    """Where the first end of connection `n` is moved to."""
    return ROOMS[n % len(ROOMS)]


def elsewhere(c: Connection, n: int) -> Connection:
    """Connection `n` with its first end where it is moved to."""
    return replace(c, a=replace(c.a, netns=room(n)))


def as_job(c: Connection) -> dict[str, Any]:
    """A connection as the engine's protocol has it."""

    def end(e: End) -> dict[str, Any]:
        out: dict[str, Any] = {"netns": e.netns, "ifname": e.ifname, "addresses": [a.text for a in e.addresses]}
        if e.mtu is not None:
            out["mtu"] = e.mtu
        return out | {"routes": [{"to": r.to} for r in e.routes]} if e.routes else out

    if isinstance(c, Vxlan):
        tunnel = {"vni": c.vni, "local": c.local, "remote": c.remote}
        return {"id": c.id, "kind": "vxlan", "a": end(c.a), "vxlan": tunnel}
    assert isinstance(c, Veth)
    return {"id": c.id, "kind": "veth", "a": end(c.a), "b": end(c.b)}
