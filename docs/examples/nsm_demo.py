"""icmp-responder without a cluster: what `make nsm-demo` runs.

Two hosts with a network between them, an engine on each as its forwarder, and managers and an endpoint that stand in
for the rest of the mesh.  Clients on both hosts ask for the service, in both generations of the API, over real gRPC,
and ping the endpoint.  It works in network and mount namespaces of its own, so nothing of the machine is touched.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fastnl.testing import Namespaces, isolate, nsenter, ping

ADDRESSES = {"host1": "192.0.2.1", "host2": "192.0.2.2"}

console = Console()


def cable(namespaces: Namespaces) -> None:
    """Two hosts, and a network between them."""
    for host in ADDRESSES:
        namespaces.make(host)
    ends = ["name", "under", "netns", "host1", "type", "veth", "peer", "name", "under", "netns", "host2"]
    subprocess.run(["ip", "link", "add", *ends], check=True)
    for host, address in ADDRESSES.items():
        subprocess.run(["ip", "-n", host, "addr", "add", f"{address}/24", "dev", "under"], check=True)
        subprocess.run(["ip", "-n", host, "link", "set", "under", "up"], check=True)


def main() -> int:
    isolate()
    # after that, as gRPC and ZeroMQ start threads
    from fastnl_engine.adapters.nsm.inodes import inode_of
    from fastnl_engine.adapters.nsm.testing import Forwarder, Manager, addresses, cross_connect, kernel, request, vxlan
    from fastnl_engine.testing import EngineProcess

    def inode(netns: str) -> int:
        found = inode_of(f"name:{netns}")
        assert found is not None
        return found

    def url(netns: str) -> str:
        return f"inode://4/{inode(netns)}"

    table = Table("client", "generation", "way", "request", "ping of the endpoint")
    good = True

    def show(client: str, generation: str, way: str, seconds: float, address: str) -> None:
        nonlocal good
        answered = ping(client, address)
        good = good and answered
        table.add_row(client, generation, way, f"{seconds * 1e3:.1f} ms", "answered" if answered else "NO ANSWER")

    with tempfile.TemporaryDirectory(prefix="fastnl-") as name, Namespaces() as namespaces:
        folder = Path(name)
        cable(namespaces)
        for netns in ("endpoint", "client-a", "client-b", "client-c", "client-d"):
            namespaces.make(netns)
        managers, engines, forwarders = {}, {}, {}
        try:
            for host, address in ADDRESSES.items():
                place = folder / host
                place.mkdir()
                managers[host] = Manager(f"unix:{place}/manager.sock", host).start()
                env = {"NSM_FORWARDER_SRC_IP": address, "NSM_NAME": f"forwarder-{host}",
                       "NSM_CONNECT_TO": f"unix://{place}/manager.sock"}  # fmt: skip
                target = f"unix:{place}/nsm.sock"
                engines[host] = EngineProcess(place, "--nsm", target, prefix=nsenter(host), env=env).start()
                forwarders[host] = Forwarder(target)
            first, second = forwarders["host1"], forwarders["host2"]

            # the first generation: the managers have agreed on everything already
            context = addresses("172.16.1.1/30", "172.16.1.2/30")
            began = time.monotonic()
            asked = cross_connect(
                "a", kernel("nsm0", inode("client-a")), kernel("nsm-a", inode("endpoint")), context
            )  # fmt: skip
            second.cross.Request(asked, timeout=30, wait_for_ready=True)
            show("client-a", "first", "local", time.monotonic() - began, "172.16.1.2")
            context, tunnel = addresses("172.16.2.1/30", "172.16.2.2/30"), vxlan("192.0.2.1", "192.0.2.2", 3)
            began = time.monotonic()
            second.cross.Request(cross_connect("b", tunnel, kernel("nsm-b", inode("endpoint")), context), timeout=30)
            asked = cross_connect("b", kernel("nsm0", inode("client-b")), tunnel, context)
            first.cross.Request(asked, timeout=30, wait_for_ready=True)
            show("client-b", "first", "remote", time.monotonic() - began, "172.16.2.2")

            # the later one: each hop asks the next
            managers["host1"].remote = second
            for client, face, way, net in (("client-c", second, "local", 3), ("client-d", first, "remote", 4)):
                managers["host2"].endpoint = kernel(f"nsm-{client[-1]}", url("endpoint"), generation=2)
                managers["host2"].context = addresses(f"172.16.{net}.1/30", f"172.16.{net}.2/30")
                began = time.monotonic()
                face.service.Request(request(client, kernel("nsm0", url(client), generation=2)), timeout=30)
                show(client, "later", way, time.monotonic() - began, f"172.16.{net}.2")
        finally:
            for forwarder in forwarders.values():
                forwarder.channel.close()
            for engine in engines.values():
                engine.close()
            for manager in managers.values():
                manager.stop()
    console.print(table)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
