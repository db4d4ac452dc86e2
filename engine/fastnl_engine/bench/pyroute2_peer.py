"""pyroute2: its ordinary calls, and IPBatch, which builds many messages to be sent in one go.

A namespace's socket is opened once for each step.  IPBatch builds messages and leaves sending to the caller: they go
out here over plain sockets, and indexes are asked for by ioctl, which is the best that can be done with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from pyroute2 import IPBatch, IPRoute

from fastnl import Connection, End, Vxlan
from fastnl._nl import route_socket
from fastnl.netns import RUN_NETNS, Handles
from fastnl_engine.bench.contenders import Clock, Step, Time
from fastnl_engine.bench.workloads import elsewhere, updated

SIOCGIFINDEX = 0x8933  # include/uapi/linux/sockios.h
PART = 32  # calls whose messages go into one datagram

Call = Callable[[socket.socket], Any]


class Pyroute2:
    """One call after the other, each waited for."""

    name = "pyroute2"

    def __init__(self, connections: Sequence[Connection], form: str) -> None:
        self.form = form
        self.count = len(connections)
        self._connections = connections
        self._standing: Sequence[Connection] = []

    def step(self, step: Step) -> Time:
        was = self._standing
        if step == "create":
            self._standing = self._connections
        elif step == "update":
            self._standing = [updated(c) for c in was]
        elif step == "move":
            self._standing = [elsewhere(c, n) for n, c in enumerate(was)]
        elif step != "delete":
            raise ValueError(f"{self.name} is not asked for {step}")
        clock = Clock(self.count)
        with contextlib.ExitStack() as stack:
            self._do(step, was, stack)
            return clock.read()

    def _do(self, step: Step, was: Sequence[Connection], stack: contextlib.ExitStack) -> None:
        """The step, from what `was` there to self._standing."""
        opened: dict[str, Any] = {}
        descriptors: dict[str, int] = {}

        def at(netns: str) -> Any:
            if netns not in opened:
                opened[netns] = stack.enter_context(IPRoute(netns=netns) if netns else IPRoute())
            return opened[netns]

        def descriptor(netns: str) -> int:
            if netns not in descriptors:
                descriptors[netns] = os.open(f"{RUN_NETNS}/{netns}", os.O_RDONLY | os.O_CLOEXEC)
                stack.callback(os.close, descriptors[netns])
            return descriptors[netns]

        def take(name: str, netns: str, end: End) -> None:
            """Takes the interface of that name from one namespace to the end's."""
            here = at(netns)
            here.link("set", index=_index(here, name), net_ns_fd=descriptor(end.netns))

        if step == "create":
            for n, c in enumerate(self._connections):
                moved = self.form == "moved"
                names = [f"tmp{n}{'ab'[k]}" if moved else end.ifname for k, end in enumerate(c.ends)]
                at("").link("add", **link(c, names, [] if moved else [descriptor(end.netns) for end in c.ends]))
                for end, name in zip(c.ends, names, strict=True):
                    if moved:
                        take(name, "", end)
                    there = at(end.netns)
                    index = _index(there, name)
                    if moved:
                        there.link("set", index=index, ifname=end.ifname)
                    furnish(there, index, end)
            return
        for old, new in zip(was, self._standing, strict=True):
            if step == "move":
                take(old.a.ifname, old.a.netns, new.a)
            there = at(new.a.netns)
            index = _index(there, new.a.ifname)
            if step == "delete":
                there.link("del", index=index)
            elif step == "update":
                change(there, index, old.a, new.a)
            else:
                furnish(there, index, new.a)


def _index(ipr: Any, ifname: str) -> int:
    return int(ipr.link_lookup(ifname=ifname)[0])


def link(c: Connection, names: Sequence[str], spaces: Sequence[int]) -> dict[str, Any]:
    """What the `add` of a connection is told; `spaces` are descriptors of the namespaces that ends are born in."""

    def end(k: int) -> dict[str, Any]:
        out: dict[str, Any] = {"ifname": names[k], "num_tx_queues": 1, "num_rx_queues": 1}
        if spaces:
            out["net_ns_fd"] = spaces[k]
        return out

    if isinstance(c, Vxlan):
        tunnel = {"vxlan_id": c.vni, "vxlan_local": c.local, "vxlan_group": c.remote, "vxlan_port": c.port}
        return end(0) | {"kind": "vxlan", "mtu": 1450} | tunnel
    return end(0) | {"kind": "veth", "peer": end(1)}


def furnish(ipr: Any, index: int, end: End) -> None:
    for a in end.addresses:
        ip, _, length = a.text.partition("/")
        ipr.addr("add", index=index, address=ip, prefixlen=int(length))
    ipr.link("set", index=index, state="up")
    for r in end.routes:
        ipr.route("add", dst=r.to, oif=index, scope="link")


def change(ipr: Any, index: int, old: End, new: End) -> None:
    ipr.link("set", index=index, mtu=new.mtu)
    for step, end in (("add", new), ("del", old)):
        for a in end.addresses:
            ip, _, length = a.text.partition("/")
            ipr.addr(step, index=index, address=ip, prefixlen=int(length))


class Pyroute2Batch(Pyroute2):
    """IPBatch: all that is done in one namespace goes out in datagrams of PART calls each."""

    name = "pyroute2 IPBatch"

    def _do(self, step: Step, was: Sequence[Connection], stack: contextlib.ExitStack) -> None:
        handles = stack.enter_context(Handles())
        builder = stack.enter_context(contextlib.closing(IPBatch()))
        for phase in self._phases(step, was, handles, builder):
            for netns, calls in phase.items():
                with socket.socket(fileno=route_socket(handles.open(netns))) as s:
                    for at in range(0, len(calls), PART):
                        builder.reset()
                        for call in calls[at : at + PART]:
                            call(s)
                        _send(s, bytes(builder.batch))

    def _phases(
        self, step: Step, was: Sequence[Connection], handles: Handles, builder: Any
    ) -> Iterator[dict[str, list[Call]]]:
        """What is done in each namespace; all of a phase before any of the next."""
        create: dict[str, list[Call]] = defaultdict(list)
        move: dict[str, list[Call]] = defaultdict(list)
        finish: dict[str, list[Call]] = defaultdict(list)
        if step == "create":
            for n, c in enumerate(self._connections):
                moved = self.form == "moved"
                names = [f"tmp{n}{'ab'[k]}" if moved else end.ifname for k, end in enumerate(c.ends)]
                spaces = [] if moved else [handles.open(end.netns) for end in c.ends]
                create[""].append(partial(_add, builder, link(c, names, spaces)))
                for end, name in zip(c.ends, names, strict=True):
                    if moved:
                        move[""].append(partial(_move, builder, name, handles.open(end.netns), end.ifname))
                    finish[end.netns].append(partial(_finish, builder, end))
        else:
            for old, new in zip(was, self._standing, strict=True):
                if step == "delete":
                    finish[old.a.netns].append(partial(_delete, builder, old.a.ifname))
                elif step == "update":
                    finish[old.a.netns].append(partial(_change, builder, old.a, new.a))
                else:
                    to = handles.open(new.a.netns)
                    move[old.a.netns].append(partial(_move, builder, old.a.ifname, to, new.a.ifname))
                    finish[new.a.netns].append(partial(_finish, builder, new.a))
        yield create
        yield move
        yield finish


def _add(builder: Any, made: dict[str, Any], _: socket.socket) -> None:
    builder.link("add", **made)


def _move(builder: Any, name: str, to: int, ifname: str, s: socket.socket) -> None:
    builder.link("set", index=_index_by_ioctl(s, name), net_ns_fd=to, ifname=ifname)


def _finish(builder: Any, end: End, s: socket.socket) -> None:
    furnish(builder, _index_by_ioctl(s, end.ifname), end)


def _change(builder: Any, old: End, new: End, s: socket.socket) -> None:
    change(builder, _index_by_ioctl(s, new.ifname), old, new)


def _delete(builder: Any, ifname: str, s: socket.socket) -> None:
    builder.link("del", index=_index_by_ioctl(s, ifname))


def _index_by_ioctl(s: socket.socket, ifname: str) -> int:
    request = fcntl.ioctl(s, SIOCGIFINDEX, struct.pack("16s24x", ifname.encode()))
    return int(struct.unpack_from("=i", request, 16)[0])


def _send(s: socket.socket, data: bytes) -> None:
    """Sends messages and waits for each one's acknowledgement."""
    missing, at = 0, 0
    while at < len(data):
        at += struct.unpack_from("=I", data, at)[0] + 3 & ~3  # NLMSG_ALIGN
        missing += 1
    s.send(data)
    while missing:
        answer = s.recv(1 << 16)
        at = 0
        while at < len(answer):
            length, kind = struct.unpack_from("=IH", answer, at)
            error = struct.unpack_from("=i", answer, at + 16)[0]
            if kind == 2 and error:  # NLMSG_ERROR
                raise OSError(-error, f"pyroute2 IPBatch: {os.strerror(-error)}")
            missing -= 1
            at += length + 3 & ~3
