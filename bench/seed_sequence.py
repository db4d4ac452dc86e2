"""The sequence of the kernel forwarding plane of Network Service Mesh, which fastnl wants to leave behind.

Both ends are created in the host's namespace under temporary names, looked up, moved, looked up again,
renamed, given an address and brought up; removing takes an end down, moves it back and deletes it there.
One message at a time, each on a socket of its own and waited for.  What the original does besides, such as
searching all of /proc for a namespace at every step, is left out, and it gets one queue an interface as fastnl
does: both make it faster than it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bench.contenders import Clock, Cost, settle
from fastnl import End, Veth
from fastnl._nl import LinkRow, Tour, Visit
from fastnl.netns import Handles

MTU = 16000


class SeedSequence:
    """Create-and-move, for the first `count` of the connections: a pair costs it a tenth of a second."""

    name = "seed's sequence"

    def __init__(self, connections: Sequence[Veth], count: int = 8) -> None:
        self.connections = connections[:count]

    def round(self) -> Cost:
        count = len(self.connections)
        clock = Clock(count)
        for n, c in enumerate(self.connections):
            _connect(c, n)
        create, create_cpu = clock.read()
        settle()
        clock = Clock(count)
        for c in self.connections:
            _disconnect(c)
        return Cost(create, clock.read()[0], create_cpu)


def _connect(c: Veth, n: int) -> None:
    names = [f"nsm{n}a", f"nsm{n}b"]
    pair = Veth(End("", names[0], txqlen=0), End("", names[1], txqlen=0), mtu=MTU)
    with Handles() as handles:
        here = handles.open("")
        _do(here, Visit.veth, pair, here, 0, here, 0)
        _look_up(here, names[0])
    for end, name in zip(c.ends, names, strict=True):
        with Handles() as handles:
            here, there = handles.open(""), handles.open(end.netns)
            _do(here, Visit.move, _look_up(here, name), there)
            index = _look_up(there, name)
            _do(there, Visit.change, index, name=end.ifname)
            for address in end.addresses:
                _do(there, Visit.address, index, address)
            _do(there, Visit.change, index, up=True)


def _disconnect(c: Veth) -> None:
    for end in c.ends:
        with Handles() as handles:
            here, there = handles.open(""), handles.open(end.netns)
            index = _look_up(there, end.ifname)
            _do(there, Visit.change, index, up=False)
            _do(there, Visit.move, index, here)
    with Handles() as handles:
        here = handles.open("")
        _do(here, Visit.delete, _look_up(here, c.a.ifname))


def _do(ns_fd: int, message: Callable[..., None], *values: Any, **more: Any) -> Visit:
    """One message and its acknowledgement; an error ends the measurement."""
    tour = Tour(1)
    visit = tour.visit(ns_fd, asks=message is Visit.get_link)
    message(visit, 0, *values, **more)
    tour.run()
    if tour.problems():
        raise RuntimeError(f"the seed's sequence: {tour.problems()}")
    return visit


def _look_up(ns_fd: int, name: str) -> int:
    [row] = _do(ns_fd, Visit.get_link, name=name).rows()
    assert isinstance(row, LinkRow)
    return row.ifindex
