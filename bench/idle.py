"""What an engine costs that has nothing to do: python -m bench.idle [connections] [seconds], as root.

The connections are up between two namespaces, so the engine watches over them: it listens for namespaces that come
and go, and looks at every interface in turn.  Its processor time is the kernel's count of all its threads.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from fastnl.testing import Namespaces, isolate
from fastnl_engine.testing import EngineProcess, end, pair

PAIRS = 20  # namespaces that the connections are spread over, by twos


def seconds_of(pid: int) -> dict[str, float]:
    """Processor time of every thread, by its name."""
    tick = os.sysconf("SC_CLK_TCK")
    out: dict[str, float] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        name, _, rest = (task / "stat").read_text().partition("(")[2].rpartition(")")
        fields = rest.split()
        out[f"{name} {task.name}"] = (int(fields[11]) + int(fields[12])) / tick
    return out


def main(connections: int = 1000, seconds: float = 30) -> None:
    isolate()
    with Namespaces() as namespaces, tempfile.TemporaryDirectory(prefix="fastnl-") as folder:
        spaces = namespaces.many(2 * PAIRS)
        with EngineProcess(Path(folder)) as engine:
            jobs = [
                pair(
                    f"c{n}",
                    end(spaces[n % PAIRS], f"a{n}", f"10.{n >> 8}.{n & 255}.1/30"),
                    end(spaces[PAIRS + n % PAIRS], f"b{n}", f"10.{n >> 8}.{n & 255}.2/30"),
                )
                for n in range(connections)
            ]
            client = engine.client(timeout=600)
            failed = [r for r in client.connect(jobs) if not r["ok"]]
            assert not failed, failed[0]
            time.sleep(3)  # what comes after the connects is over
            before, begun = seconds_of(engine.pid), time.monotonic()
            time.sleep(seconds)
            passed = time.monotonic() - begun
            after = seconds_of(engine.pid)
            used = sum(after.values()) - sum(before.values())
            print(f"{connections} connections, {passed:.0f} s: {100 * used / passed:.2f} % of a core")
            for name in sorted(after, key=lambda n: before.get(n, 0) - after[n]):
                print(f"  {100 * (after[name] - before.get(name, 0)) / passed:5.2f} %  {name}")
            client.disconnect([job["id"] for job in jobs])


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
