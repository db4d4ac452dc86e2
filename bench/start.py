"""How long a start takes with connections that are up: until jobs are answered, and until all is looked at.

    python -m bench.start [--shape star] [--connections 10000]

Prints seconds of an engine that was stopped and is started again; no interface is touched.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from fastnl.testing import ip_json, isolate
from fastnl_engine.bench import machine, workloads
from fastnl_engine.testing import EngineProcess

TOGETHER = 500  # connections of one request


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=workloads.SHAPES, default="star")
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    isolate()
    connections = workloads.pairs(options.shape, options.connections)
    workloads.make_namespaces(connections)
    jobs = [workloads.as_job(c) for c in connections]
    others = machine.Others()
    with tempfile.TemporaryDirectory(prefix="fastnl-", dir=".") as name:
        folder = Path(name).resolve()
        with EngineProcess(folder, "--state-dir", str(folder / "state")) as engine:
            for at in range(0, len(jobs), TOGETHER):
                assert all(r["ok"] for r in engine.client().connect(jobs[at : at + TOGETHER]))
            first = connections[0].a
            before = ip_json(first.netns, "link", "show", first.ifname)[0]["ifindex"]
            for _ in range(options.rounds):
                assert engine.stop() == 0
                began = time.monotonic()
                engine.start()
                served = time.monotonic() - began
                [again] = engine.client().connect([jobs[-1]])
                job = time.monotonic() - began
                assert not again["changed"], again
                engine.resumed()
                print(
                    f"{options.shape}, {len(jobs)} connections up: first answer after {served:.2f} s, first job after "
                    f"{job:.2f} s, everything looked at after {time.monotonic() - began:.2f} s"
                )
            assert ip_json(first.netns, "link", "show", first.ifname)[0]["ifindex"] == before
            print(engine.log.splitlines()[-1])
    taken = others.read()["taken by others"]
    print(f"others took {taken:.0%} of a processor meanwhile")


if __name__ == "__main__":
    main()
