"""The small form that `fastnl bench` runs: fastnl, the engine and what is here of other programs, in turns."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from fastnl.testing import allow_many_files, isolate
from fastnl_engine.bench import machine
from fastnl_engine.bench.contenders import Contender, Library
from fastnl_engine.bench.engine import Engine
from fastnl_engine.bench.results import Results, Setting
from fastnl_engine.bench.rounds import measure
from fastnl_engine.bench.worker import Process
from fastnl_engine.bench.workloads import Workload, make_namespaces

SLOW = 4  # connections of a contender that takes tens of milliseconds for each
# what `make bench` has besides; a message for each, since nobody shall take this form for everything
LEFT_OUT = {
    "floor": "it is compiled: `make bench` in the source",
    "vishvananda/netlink": "it is compiled: `make bench` in the source",
    "etcd northbound, gRPC forwarder": "they need servers and extras: `make bench` in the source",
}
OTHERS = (("ip -batch", "born"), ("pyroute2", "born"), ("seed's sequence", "moved"))


def quick(
    folder: Path, *, kind: str, shapes: Iterable[str], count: int, rounds: int, tell: Callable[[str], None]
) -> Results:
    """Moves this process into network and mount namespaces of its own, for good, and measures there.

    folder   on a disk, with a short path

    Raises PermissionError where that is not allowed, and RuntimeError when this process has more than one thread.
    """
    isolate()
    allow_many_files()
    facts, others = machine.facts(), machine.Others()
    results = Results("fastnl bench", facts, _missing())
    for shape in shapes:
        workload = Workload(shape, kind, count)
        made = workload.connections()
        make_namespaces(made)
        few = Workload(shape, kind, min(SLOW, count))
        with contextlib.ExitStack() as stack:
            contenders: list[Contender] = [
                Library(made),
                stack.enter_context(Engine(made, folder / f"{shape}-durable")),
                stack.enter_context(Engine(made, folder / f"{shape}-fast", durable=False)),
            ]
            for name, form in OTHERS:
                if name not in results.missing:
                    process = Process(name, form, few, folder / f"{shape}-{name.split()[0]}")
                    contenders.append(stack.enter_context(process))
            about: Setting = {"kind": kind, "shape": shape, "addresses": 1, "routes": 0}
            measure(results, "quick", about, contenders, rounds=rounds, tell=partial(_tell, tell, shape))
    results.machine = facts | others.read()
    return results


def _tell(tell: Callable[[str], None], shape: str, who: str) -> None:
    tell(f"{shape}: {who}")


def _missing() -> dict[str, str]:
    missing = dict(LEFT_OUT)
    if shutil.which("ip") is None:
        missing["ip -batch"] = "no `ip` here; it comes with iproute2"
    if importlib.util.find_spec("pyroute2") is None:
        missing["pyroute2"] = "it is not installed"
    return missing
