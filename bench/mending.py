"""How soon the engine answers to what others do: python -m bench.mending [rounds], as root.

deleted   an interface is deleted behind its back: until it is there again
let go    a namespace loses its name: until the kernel has let it go, which takes the other end of its pair along

200 other connections are up meanwhile.  `ip` looks, so some ten milliseconds are its own.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fastnl.testing import PATIENCE, Namespaces, ip_json, isolate
from fastnl_engine.bench.results import distribution
from fastnl_engine.testing import EngineProcess, end, pair

OTHERS = 200


def until(condition: Callable[[], bool]) -> float:
    """Milliseconds until it holds."""
    begun = time.perf_counter()
    while not condition():
        assert time.perf_counter() - begun < PATIENCE, "it does not happen"
    return 1000 * (time.perf_counter() - begun)


def names(netns: str) -> set[str]:
    return {row["ifname"] for row in ip_json(netns, "link", "show")}


def main(rounds: int = 30) -> None:
    isolate()
    with Namespaces() as namespaces, tempfile.TemporaryDirectory(prefix="fastnl-") as folder:
        hub, held = namespaces.make("hub"), namespaces.make("held")
        spaces = namespaces.many(OTHERS)
        with EngineProcess(Path(folder)) as engine:
            client = engine.client()
            client.connect([pair(f"o{n}", end(hub, f"o{n}"), end(space, "e")) for n, space in enumerate(spaces)])
            deleted, let_go = [], []
            for n in range(rounds):
                assert client.connect([pair("mended", end(hub, "mended"), end(held, "e"))])[0]["ok"]
                subprocess.run(["ip", "-n", hub, "link", "delete", "mended"], check=True)
                deleted.append(until(lambda: "mended" in names(hub)))
                namespaces.make("guest")
                assert client.connect([pair(f"g{n}", end(hub, "guest"), end("guest", "e"))])[0]["ok"]
                namespaces.let_go("guest")
                let_go.append(until(lambda: "guest" not in names(hub)))
                client.disconnect([f"g{n}"])
            for what, took in (("deleted", deleted), ("let go", let_go)):
                worst = dict(distribution(took))[100]
                print(f"{what}: {rounds} times, p50 {statistics.median(took):.0f} ms, worst {worst:.0f} ms")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
