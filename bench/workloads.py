"""What is wired in the measurements: shapes of networks, and the namespaces that they need.

    spread  every pair has two namespaces of its own
    star    one end of every pair is in one shared namespace, the other in one of its own
    mesh    every namespace is connected with every other one
    dense   all pairs are between the same two namespaces

Namespaces are made once and stay for the rest of the process: they cost more than what is wired between them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from fastnl import End, Veth, netns

SHAPES = ("spread", "star", "mesh", "dense")


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
    """`count` pairs, with one IPv4 address an end (a /30 for each pair) or without."""

    def end(place: str, i: int, side: int) -> End:
        n = i * 4 + side + 1
        ip = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}/30"] if address else []
        return End(place, f"{prefix}{i}{'ab'[side]}", ip)

    return [Veth(end(a, i, 0), end(b, i, 1), id=f"{shape}-{i}") for i, (a, b) in enumerate(_places(shape, count))]


def names(connections: Sequence[Veth]) -> list[str]:
    """The namespaces that connections are between, each once."""
    return list(dict.fromkeys(end.netns for c in connections for end in c.ends))


def make_namespaces(connections: Sequence[Veth]) -> None:
    """Makes those that are not there yet."""
    for name in names(connections):
        try:
            netns.create(name)
        except FileExistsError:
            continue


def as_job(c: Veth) -> dict[str, Any]:
    """A connection as the engine's protocol has it."""

    def end(e: End) -> dict[str, Any]:
        return {"netns": e.netns, "ifname": e.ifname, "addresses": [a.text for a in e.addresses]}

    return {"id": c.id, "kind": "veth", "a": end(c.a), "b": end(c.b)}
