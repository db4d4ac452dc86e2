"""Two hosts, one etcd, a connection between them: what `make fleet-demo` runs.

It works in network and mount namespaces of its own, so nothing of the machine is touched.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fastnl.testing import isolate


def main() -> int:
    isolate()
    # after that, as gRPC and ZeroMQ start threads
    from fastnl_engine.fleet.testing import Fleet, at, reachable
    from fastnl_engine.testing import pair

    console = Console()
    table = Table("connection", "from", "to", "connect", "MTU", "ping")
    good = True
    with tempfile.TemporaryDirectory(prefix="fastnl-") as name:
        folder = Path(name)
        etcd = reachable(folder / "etcd")
        with Fleet(folder, etcd) as fleet, etcd:
            one, two = fleet.add("one"), fleet.add("two")
            for machine in (one, two):
                machine.make("blue", "red")
            fleet.start()
            client = one.client()
            for number, (a, b) in enumerate([("one", "two"), ("two", "one"), ("one", "one"), ("two", "two")], 1):
                net = f"10.0.{number}"
                ends = at(a, "blue", f"a{number}", f"{net}.1/24"), at(b, "red", f"b{number}", f"{net}.2/24")
                began = time.monotonic()
                [result] = client.connect([pair(f"c{number}", *ends)])
                took = time.monotonic() - began
                if not result["ok"]:
                    console.print(result)
                    return 1
                answered = fleet[a].ping("blue", f"{net}.2")
                good = good and answered
                mtu = fleet[a].links("blue")[f"a{number}"]["mtu"]
                said = "answered" if answered else "NO ANSWER"
                table.add_row(f"c{number}", f"blue on {a}", f"red on {b}", f"{took * 1e3:.0f} ms", str(mtu), said)
            console.print(table)
            for command in (["fleet", "hosts"], ["fleet", "connections"], ["fleet", "vnis"]):
                console.print(f"\n[bold]fastnl {' '.join(command)}")
                print(fleet.cli(two, *command), end="", flush=True)
            client.disconnect([row["id"] for row in client.list()])
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
