"""The sequence of the kernel forwarding plane of Network Service Mesh, which fastnl wants to leave behind.

Both ends are created in the host's namespace under temporary names, looked up, moved, looked up again,
renamed, given an address and brought up; removing takes an end down, moves it back and deletes it there.
One message at a time, each on a socket of its own and waited for.  What the original does besides, such as
searching all of /proc for a namespace at every step, is left out, and it gets one queue an interface as fastnl
does: both make it faster than it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from fastnl import Connection, End, Veth, Vxlan
from fastnl._nl import LinkRow, Tour, Visit
from fastnl.netns import Handles
from fastnl_engine.bench.contenders import Clock, Step, Time

MTU = 16000


class SeedSequence:
    """One message at a time: "moved" is the sequence, and "born" the same with the moves left out."""

    name = "seed's sequence"

    def __init__(self, connections: Sequence[Connection], form: str = "moved") -> None:
        self.form = form
        self.count = len(connections)
        self._connections = connections

    def step(self, step: Step) -> Time:
        clock = Clock(self.count)
        for n, c in enumerate(self._connections):
            if step == "create":
                _connect(c, n) if self.form == "moved" else _bear(c)
            elif step == "delete":
                _disconnect(c) if self.form == "moved" else _delete(c)
            else:
                raise ValueError(f"the seed's sequence has no {step}")
        return clock.read()


def _connect(c: Connection, n: int) -> None:
    names = [f"nsm{n}{side}" for side in "ab"]
    with Handles() as handles:
        here = handles.open("")
        if isinstance(c, Vxlan):
            _do(here, Visit.vxlan, replace(c, a=End("", names[0])), here, 0)
        else:
            pair = Veth(End("", names[0], txqlen=0), End("", names[1], txqlen=0), mtu=MTU)
            _do(here, Visit.veth, pair, here, 0, here, 0)
        _look_up(here, names[0])
    for end, name in zip(c.ends, names, strict=False):
        with Handles() as handles:
            here, there = handles.open(""), handles.open(end.netns)
            _do(here, Visit.move, _look_up(here, name), there)
            index = _look_up(there, name)
            _do(there, Visit.change, index, name=end.ifname)
            _furnish(there, index, end)


def _bear(c: Connection) -> None:
    with Handles() as handles:
        here, spaces = handles.open(""), [handles.open(end.netns) for end in c.ends]
        if isinstance(c, Vxlan):
            _do(here, Visit.vxlan, c, spaces[0], 0)
        else:
            a, b = (End(end.netns, end.ifname, txqlen=0) for end in c.ends)
            _do(here, Visit.veth, Veth(a, b, mtu=MTU), spaces[0], 0, spaces[1], 0)
    for end in c.ends:
        with Handles() as handles:
            there = handles.open(end.netns)
            _furnish(there, _look_up(there, end.ifname), end)


def _furnish(there: int, index: int, end: End) -> None:
    for address in end.addresses:
        _do(there, Visit.address, index, address)
    _do(there, Visit.change, index, up=True)


def _disconnect(c: Connection) -> None:
    for end in c.ends:
        with Handles() as handles:
            here, there = handles.open(""), handles.open(end.netns)
            index = _look_up(there, end.ifname)
            _do(there, Visit.change, index, up=False)
            _do(there, Visit.move, index, here)
    with Handles() as handles:
        here = handles.open("")
        _do(here, Visit.delete, _look_up(here, c.a.ifname))


def _delete(c: Connection) -> None:
    with Handles() as handles:
        there = handles.open(c.a.netns)
        _do(there, Visit.delete, _look_up(there, c.a.ifname))


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
