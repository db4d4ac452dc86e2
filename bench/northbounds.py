"""The other ways into the engine as contenders: keys in etcd, and the gRPC of a forwarder of a mesh.

Requests are packed before the clock runs, and IN_FLIGHT are on their way.  Each engine is durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc.aio
from pyroute2 import IPRoute

from fastnl import Connection, Veth, Vxlan
from fastnl.testing import PATIENCE
from fastnl_engine.adapters.nsm.inodes import inode_of
from fastnl_engine.adapters.nsm.testing import addresses, cross_connect, kernel, vxlan
from fastnl_engine.bench.contenders import Clock, Step, Time
from fastnl_engine.bench.engine import IN_FLIGHT
from fastnl_engine.kv import open_etcd
from fastnl_engine.kv.testing import Etcd
from fastnl_engine.testing import EngineProcess

PREFIX = "/vnf-agent/vpp1/linux/config/v1/interface/"


async def _each(work: Sequence[Any]) -> None:
    """Awaits what each of `work` makes when it is called, IN_FLIGHT at a time, in their order."""
    items = iter(work)

    async def worker() -> None:
        for make in items:
            await make()

    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))


class EtcdNorthbound:
    """Two keys a pair, put one by one, and deleted; until the engine's last event about it."""

    name = "etcd northbound"
    form = "born"
    kinds = ("veth",)
    without = "Ligato's Linux plugins have no tunnels; `python -m bench.fleet` measures those of hosts with one etcd"

    def __init__(self, connections: Sequence[Connection], folder: Path) -> None:
        self.count = len(connections)
        self._values = [half for c in connections if isinstance(c, Veth) for half in _halves(c)]
        self._folder = folder

    def __enter__(self) -> EtcdNorthbound:
        self._stack = contextlib.ExitStack()
        (self._folder / "etcd").mkdir(parents=True)
        self._etcd = self._stack.enter_context(Etcd(self._folder / "etcd"))
        settings = f'[ligato]\nstore = "etcd"\nendpoints = {json.dumps(self._etcd.urls)}\nstatistics = 0\n'
        (self._folder / "engine.toml").write_text(settings)
        flags = ["--config", str(self._folder / "engine.toml")]
        self._engine = self._stack.enter_context(EngineProcess(self._folder, *flags, instance="bench-etcd"))
        self._engine.resumed()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def step(self, step: Step) -> Time:
        return asyncio.run(self._run(step))

    async def _run(self, step: Step) -> Time:
        subscriber = self._engine.subscribe(f"connection.{'up' if step == 'create' else 'removed'}.")
        async with open_etcd(self._etcd.urls) as kv:
            await kv.get("x")
            loop = asyncio.get_running_loop()
            clock = Clock(self.count)
            done = loop.run_in_executor(None, lambda: [subscriber.next() for _ in range(self.count)])
            if step == "create":
                await _each([lambda key=key, value=value: kv.put(key, value) for key, value in self._values])
            else:
                await _each([lambda key=key: kv.delete(key) for key, _ in self._values])
            await done
            took = clock.read()
        self._engine.hang_up()
        return Time(took.passed)


def _halves(c: Veth) -> list[tuple[str, bytes]]:
    """Key and value of each end."""
    out = []
    for own, peer in ((c.a, c.b), (c.b, c.a)):
        value = {
            "name": own.ifname, "enabled": True, "veth": {"peer_if_name": peer.ifname}, "mtu": 1500,
            "ip_addresses": [a.text for a in own.addresses], "namespace": {"type": 2, "name": own.netns},
        }  # fmt: skip
        out.append((PREFIX + own.ifname, json.dumps(value).encode()))
    return out


class Forwarder:
    """One cross connect a connection, requested and closed: between two namespaces, or a namespace and a tunnel."""

    name = "gRPC forwarder"
    form = "born"
    kinds = ("veth", "vxlan")
    without = ""

    def __init__(self, connections: Sequence[Connection], folder: Path) -> None:
        self.count = len(connections)
        inodes = {e.netns: inode_of(f"name:{e.netns}") for c in connections for e in c.ends}
        self._messages = []
        env = {}
        for c in connections:
            sides = [kernel(e.ifname, inodes[e.netns]) for e in c.ends]
            if isinstance(c, Vxlan):
                sides.append(vxlan(str(c.local), str(c.remote), c.vni))
                env["NSM_FORWARDER_SRC_IP"] = str(c.local)
            context = addresses(*(e.addresses[0].text for e in c.ends))
            self._messages.append(cross_connect(c.id, *sides, context).SerializeToString())
        for address in env.values():
            with IPRoute() as ipr:  # a forwarder looks whether its tunnels' address is there
                ipr.addr("replace", index=ipr.link_lookup(ifname="lo")[0], address=address, prefixlen=32)
        folder.mkdir(parents=True)
        self._target = f"unix:{folder}/nsm.sock"
        self._engine = EngineProcess(folder, "--nsm", self._target, instance="bench-nsm", env=env)

    def __enter__(self) -> Forwarder:
        self._engine.start()
        deadline = time.monotonic() + PATIENCE
        while "forwarding for the mesh" not in self._engine.log:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the forwarder does not serve:\n{self._engine.log}")
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close()

    def step(self, step: Step) -> Time:
        return asyncio.run(self._run("Request" if step == "create" else "Close"))

    async def _run(self, method: str) -> Time:
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self._target, options=options) as channel:
            await channel.channel_ready()
            call = channel.unary_unary(f"/forwarder.Forwarder/{method}")
            clock = Clock(self.count)
            await _each([lambda message=message: call(message, timeout=PATIENCE) for message in self._messages])
            return Time(clock.read().passed)


CONTENDERS = (EtcdNorthbound, Forwarder)
