"""`ip` of iproute2, one command after the other, and `ip -batch`, which reads many from its input.

`ip` enters a namespace by `-n`, so every namespace is a process of its own, with a batch as well as without.
"""

from __future__ import annotations

import subprocess
from collections import defaultdict
from collections.abc import Sequence

from fastnl import Connection, End, Vxlan
from fastnl_engine.bench.contenders import Clock, Step, Time

QUEUES = ["numtxqueues", "1", "numrxqueues", "1"]  # as fastnl has it, and much cheaper than the default
Command = tuple[str, list[str]]  # the namespace that it runs in, and its words


class Ip:
    """A process for each command."""

    name = "ip"

    def __init__(self, connections: Sequence[Connection], form: str) -> None:
        self.form = form
        self.count = len(connections)
        self._connections = connections

    def step(self, step: Step) -> Time:
        if step not in ("create", "delete"):
            raise ValueError(f"{self.name} is not asked for {step}")
        if step == "delete":
            commands = [(c.a.netns, ["link", "delete", c.a.ifname]) for c in self._connections]
        else:
            commands = [x for n, c in enumerate(self._connections) for x in _create(c, n, moved=self.form == "moved")]
        clock = Clock(self.count)
        self._run(commands)
        return Time(clock.read().passed)  # the work is done by children

    def _run(self, commands: Sequence[Command]) -> None:
        for netns, words in commands:
            subprocess.run(["ip", *_at(netns), *words], check=True)


class IpBatch(Ip):
    """A process for each namespace: first all that is done in the host's, then each of the others."""

    name = "ip -batch"

    def _run(self, commands: Sequence[Command]) -> None:
        batches: dict[str, list[str]] = defaultdict(list)
        batches[""] = []
        for netns, words in commands:
            batches[netns].append(" ".join(words))
        for netns, lines in batches.items():
            if lines:
                subprocess.run(["ip", *_at(netns), "-batch", "-"], input="\n".join(lines), text=True, check=True)


def _at(netns: str) -> list[str]:
    return ["-n", netns] if netns else []


def _create(c: Connection, n: int, *, moved: bool) -> list[Command]:
    """The commands that make a connection."""
    out: list[Command] = []
    names = [f"tmp{n}{side}" if moved else end.ifname for side, end in zip("ab", c.ends, strict=False)]
    where = [[] if moved else ["netns", end.netns] for end in c.ends]
    if isinstance(c, Vxlan):
        tunnel = ["id", str(c.vni), "local", str(c.local), "remote", str(c.remote), "dstport", str(c.port)]
        out.append(("", ["link", "add", names[0], *QUEUES, "mtu", "1450", *where[0], "type", "vxlan", *tunnel]))
    else:
        peer = ["peer", "name", names[1], *QUEUES, *where[1]]
        out.append(("", ["link", "add", names[0], *QUEUES, *where[0], "type", "veth", *peer]))
    for end, name in zip(c.ends, names, strict=True):
        if moved:
            out.append(("", ["link", "set", name, "netns", end.netns, "name", end.ifname]))
        out += _furnish(end)
    return out


def _furnish(end: End) -> list[Command]:
    words = [["address", "add", a.text, "dev", end.ifname] for a in end.addresses]
    words.append(["link", "set", end.ifname, "up"])
    words += [["route", "add", r.to, "dev", end.ifname] for r in end.routes]
    return [(end.netns, line) for line in words]
