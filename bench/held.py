"""What does a pair that is held ready save?  python -m bench.held [--rounds 9] [--pairs 64], as root.

A pair is held ready by connecting it with `up: false` at both ends and without addresses; handed out by connecting the
same id as it shall be.  Through an engine, in requests of one and of all pairs; ratios are to a connect that makes the
pair when it is asked for.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from fastnl.testing import isolate
from fastnl_engine.bench import workloads
from fastnl_engine.client import Client
from fastnl_engine.testing import EngineProcess

Jobs = list[dict[str, Any]]


def held(job: dict[str, Any]) -> dict[str, Any]:
    ends = {side: {"netns": job[side]["netns"], "ifname": job[side]["ifname"], "up": False} for side in "ab"}
    return {"id": job["id"], "kind": "veth", **ends}


def ask(client: Client, jobs: Jobs, batch: int) -> float:
    """Microseconds a pair."""
    begun = time.perf_counter()
    for at in range(0, len(jobs), batch):
        reply = client.request("connect", connections=jobs[at : at + batch])
        assert reply["ok"] and all(r["changed"] for r in reply["results"]), reply
    return 1e6 * (time.perf_counter() - begun) / len(jobs)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.held")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--pairs", type=int, default=64)
    options = parser.parse_args()
    isolate()
    with tempfile.TemporaryDirectory(prefix="fastnl-") as folder, EngineProcess(Path(folder)) as engine:
        client = engine.client()
        for shape in ("spread", "star"):
            made = workloads.pairs(shape, options.pairs)
            workloads.make_namespaces(made)
            jobs = [workloads.as_job(c) for c in made]
            ids = [c.id for c in made]
            for batch in (1, options.pairs):
                took: dict[str, list[float]] = defaultdict(list)
                for turn in range(options.rounds):
                    for way in ("now", "held") if turn % 2 else ("held", "now"):
                        if way == "held":
                            took["held ready"].append(ask(client, [held(j) for j in jobs], batch))
                            took["handed out"].append(ask(client, jobs, batch))
                        else:
                            took["made when asked for"].append(ask(client, jobs, batch))
                        assert client.request("disconnect", ids=ids)["ok"]
                first = took["made when asked for"]
                for name in ("made when asked for", "held ready", "handed out"):
                    ratios = sorted(a / b for a, b in zip(took[name], first, strict=True))
                    print(
                        f"{shape:7} {batch:4} a request  {name:20} {statistics.median(took[name]):8.0f} us a pair"
                        f"  {statistics.median(ratios):5.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
                    )


if __name__ == "__main__":
    main()
