"""`ip` of iproute2, one command after the other, and `ip -batch`, which reads many from its input.

`ip` enters a namespace by `-n`, so every namespace is a process of its own, with a batch as well as without.
"""

from __future__ import annotations

import subprocess
from collections import defaultdict
from collections.abc import Sequence

from fastnl import Connection, End, Vxlan
from fastnl_engine.bench.contenders import Clock, Step, Time
from fastnl_engine.bench.workloads import elsewhere, updated

QUEUES = ["numtxqueues", "1", "numrxqueues", "1"]  # as fastnl has it, and much cheaper than the default
Command = tuple[str, list[str]]  # the namespace that it runs in, and its words
Phases = list[list[Command]]  # all of a phase is done before any of the next


class Ip:
    """A process for each command."""

    name = "ip"

    def __init__(self, connections: Sequence[Connection], form: str) -> None:
        self.form = form
        self.count = len(connections)
        self._connections = connections
        self._standing: Sequence[Connection] = []

    def step(self, step: Step) -> Time:
        phases = self._phases(step)
        clock = Clock(self.count)
        for commands in phases:
            self._run(commands)
        return Time(clock.read().passed)  # the work is done by children

    def _phases(self, step: Step) -> Phases:
        was = self._standing
        if step == "create":
            self._standing = self._connections
            return _create(self._connections, moved=self.form == "moved")
        if step == "update":
            self._standing = [updated(c) for c in was]
            return [[x for old, new in zip(was, self._standing, strict=True) for x in _update(old.a, new.a)]]
        if step == "move":
            self._standing = [elsewhere(c, n) for n, c in enumerate(was)]
            leaving = [
                (old.a.netns, ["link", "set", old.a.ifname, "netns", new.a.netns])
                for old, new in zip(was, self._standing, strict=True)
            ]
            return [leaving, [x for c in self._standing for x in _furnish(c.a)]]
        if step == "delete":
            return [[(c.a.netns, ["link", "delete", c.a.ifname]) for c in was]]
        raise ValueError(f"{self.name} is not asked for {step}")

    def _run(self, commands: Sequence[Command]) -> None:
        for netns, words in commands:
            subprocess.run(["ip", *_at(netns), *words], check=True)


class IpBatch(Ip):
    """A process for each namespace of a phase."""

    name = "ip -batch"

    def _run(self, commands: Sequence[Command]) -> None:
        batches: dict[str, list[str]] = defaultdict(list)
        for netns, words in commands:
            batches[netns].append(" ".join(words))
        for netns, lines in batches.items():
            subprocess.run(["ip", *_at(netns), "-batch", "-"], input="\n".join(lines), text=True, check=True)


def _at(netns: str) -> list[str]:
    return ["-n", netns] if netns else []


def _create(connections: Sequence[Connection], *, moved: bool) -> Phases:
    """First what is done in the host's namespace, then what in those of the ends."""
    here: list[Command] = []
    there: list[Command] = []
    for n, c in enumerate(connections):
        names = [f"tmp{n}{side}" if moved else end.ifname for side, end in zip("ab", c.ends, strict=False)]
        where = [[] if moved else ["netns", end.netns] for end in c.ends]
        if isinstance(c, Vxlan):
            tunnel = ["id", str(c.vni), "local", str(c.local), "remote", str(c.remote), "dstport", str(c.port)]
            here.append(("", ["link", "add", names[0], *QUEUES, "mtu", "1450", *where[0], "type", "vxlan", *tunnel]))
        else:
            peer = ["peer", "name", names[1], *QUEUES, *where[1]]
            here.append(("", ["link", "add", names[0], *QUEUES, *where[0], "type", "veth", *peer]))
        for end, name in zip(c.ends, names, strict=True):
            if moved:
                here.append(("", ["link", "set", name, "netns", end.netns, "name", end.ifname]))
            there += _furnish(end)
    return [here, there]


def _furnish(end: End) -> list[Command]:
    words = [["address", "add", a.text, "dev", end.ifname] for a in end.addresses]
    words.append(["link", "set", end.ifname, "up"])
    words += [["route", "add", r.to, "dev", end.ifname] for r in end.routes]
    return [(end.netns, line) for line in words]


def _update(old: End, new: End) -> list[Command]:
    words = [["link", "set", new.ifname, "mtu", str(new.mtu)]]
    words += [["address", "add", a.text, "dev", new.ifname] for a in new.addresses]
    words += [["address", "delete", a.text, "dev", old.ifname] for a in old.addresses]
    return [(new.netns, line) for line in words]
