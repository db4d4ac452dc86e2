"""How long does a connect take while another client disconnects?  python -m bench.beside, as root.

    python -m bench.beside [--other DIR] [--rounds 5] [--pairs 1000]

    alone       lone connects, and nothing else
    lone        another client makes and unmakes one connection again and again; and how often it does
    eight       as many clients make and unmake one connection each
    spread, star, dense   another client has so many pairs of that shape disconnected in one request; and for how long
    mixed       one request of 32 connects and one of 32 disconnects at a time, by one client

--other: the folder `engine` of another checkout; its engine and this one take turns, and every figure is given as the
ratio to its.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastnl.testing import isolate
from fastnl_engine.bench import workloads
from fastnl_engine.client import Client
from fastnl_engine.testing import EngineProcess, end, pair

Figures = dict[str, float]  # ms
LONE = 40  # connects of a part that is not ended by the other client


def _ask(client: Client, op: str, **fields: Any) -> float:
    """Milliseconds that a request took, which has to be done."""
    begun = time.perf_counter()
    reply = client.request(op, **fields)
    took = 1000 * (time.perf_counter() - begun)
    assert reply["ok"], reply
    return took


def connects(client: Client, enough: Callable[[int], bool]) -> list[float]:
    """One connection after the other until it is enough; then all go."""
    took = []
    while not enough(len(took)):
        n = len(took)
        a = end("solo-a", f"s{n}a", f"10.200.{n >> 6}.{4 * (n & 63) + 1}/30")
        took.append(_ask(client, "connect", connections=[pair(f"s{n}", a, end("solo-b", f"s{n}b"))]))
    _ask(client, "disconnect", ids=[f"s{n}" for n in range(len(took))])
    return took


def spread_of(name: str, took: list[float]) -> Figures:
    took = sorted(took)
    return {f"{name}: connect, median": statistics.median(took), f"{name}: connect, p95": took[int(0.95 * len(took))]}


def lone(engine: EngineProcess, client: Client) -> Figures:
    """Connects while somebody else churns."""
    other, ended, deletes = engine.client(), threading.Event(), []

    def churn() -> None:
        while not ended.is_set():
            _ask(other, "connect", connections=[pair("w", end("other-a", "w"), end("other-b", "w"))])
            deletes.append(_ask(other, "disconnect", ids=["w"]))

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        took = connects(client, lambda n: n >= LONE)
    finally:
        ended.set()
        thread.join()
    return {**spread_of("lone", took), "lone: delete, median": statistics.median(deletes)}


def eight(engine: EngineProcess) -> Figures:
    """Everyone makes and unmakes, one thing at a time, for a second."""
    clients, created, deleted = [engine.client() for _ in range(8)], [], []
    until = time.monotonic() + 1

    def churn(client: Client, name: str) -> None:
        while time.monotonic() < until:
            created.append(
                _ask(client, "connect", connections=[pair(name, end("other-a", name), end("other-b", name))])
            )
            deleted.append(_ask(client, "disconnect", ids=[name]))

    threads = [threading.Thread(target=churn, args=(c, f"w{n}")) for n, c in enumerate(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"eight: connect, median": statistics.median(created), "eight: delete, median": statistics.median(deleted)}


def many(engine: EngineProcess, client: Client, shape: str, count: int) -> Figures:
    """Connects while somebody else has many disconnected."""
    other, made = engine.client(), workloads.pairs(shape, count)
    jobs = [workloads.as_job(c) for c in made]
    for at in range(0, count, 500):
        _ask(other, "connect", connections=jobs[at : at + 500])
    alone = _ask(other, "disconnect", ids=[c.id for c in made])
    for at in range(0, count, 500):
        _ask(other, "connect", connections=jobs[at : at + 500])
    request: list[float] = []
    thread = threading.Thread(target=lambda: request.append(_ask(other, "disconnect", ids=[c.id for c in made])))
    thread.start()
    took = connects(client, lambda n: n > 0 and not thread.is_alive())
    thread.join()
    return {**spread_of(shape, took), f"{shape}: request": request[0], f"{shape}: request without connects": alone}


def mixed(client: Client) -> Figures:
    """Requests that make and unmake by turns, sent together."""
    begun = time.perf_counter()
    for turn in range(12):
        sets = [[workloads.as_job(c) for c in workloads.pairs("dense", 32, prefix=prefix)] for prefix in ("m", "n")]
        coming, going = sets[turn % 2], sets[(turn + 1) % 2]
        client.send("connect", connections=coming)
        client.send("disconnect", ids=[c["id"] for c in going])
        for _ in range(2):
            assert client.receive()["ok"]
    took = 1000 * (time.perf_counter() - begun)
    _ask(client, "disconnect", ids=[c["id"] for s in sets for c in s])
    return {"mixed: 12 times 32 and 32": took}


def measure(engine: EngineProcess, pairs: int) -> Figures:
    client = engine.client()
    figures = spread_of("alone", connects(client, lambda n: n >= LONE))
    figures |= lone(engine, client) | eight(engine)
    for shape in ("spread", "star", "dense"):
        figures |= many(engine, client, shape, pairs)
    return figures | mixed(client)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.beside")
    parser.add_argument("--other", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=1000)
    options = parser.parse_args()
    isolate()
    for name in ("solo-a", "solo-b", "other-a", "other-b"):
        workloads.make_namespace(name)
    for shape in ("spread", "star", "dense"):
        workloads.make_namespaces(workloads.pairs(shape, options.pairs))
    engines = {"this": {}} | ({"other": {"PYTHONPATH": str(options.other)}} if options.other else {})
    rounds: dict[str, list[Figures]] = defaultdict(list)
    for turn in range(options.rounds):
        for name, env in sorted(engines.items(), reverse=bool(turn % 2)):
            with tempfile.TemporaryDirectory(prefix="fastnl-") as folder:
                with EngineProcess(Path(folder), env=env) as engine:
                    rounds[name].append(measure(engine, options.pairs))
                    assert engine.stop() == 0
    for figure in rounds["this"][0]:
        ours = [r[figure] for r in rounds["this"]]
        line = f"{figure:36} {statistics.median(ours):9.2f} ms"
        if options.other:
            theirs = [r[figure] for r in rounds["other"]]
            ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
            line += f"   other {statistics.median(theirs):9.2f} ms   ratio {statistics.median(ratios):5.2f}"
            line += f" ({ratios[0]:.2f}-{ratios[-1]:.2f})"
        print(line)


if __name__ == "__main__":
    main()
