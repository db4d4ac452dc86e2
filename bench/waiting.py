"""From a namespace's appearing to its connection's being up: python -m bench.waiting [rounds], as root.

Connections wait for a name, as `ip netns add` makes it, and for a file that a namespace is bound to.  The clock runs
from the moment that the namespace is there until the event has arrived; 200 other connections wait as well.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from fastnl.netns import create, remove
from fastnl.testing import Namespaces, isolate
from fastnl_engine.testing import EngineProcess, end, pair

OTHERS = 200
MS_BIND, MNT_DETACH = 4096, 2  # include/uapi/linux/mount.h, sys/mount.h


def main(rounds: int = 300) -> None:
    isolate()
    libc = ctypes.CDLL(None, use_errno=True)
    with Namespaces() as namespaces, tempfile.TemporaryDirectory(prefix="fastnl-") as folder:
        hub, held = namespaces.make("hub"), namespaces.make("held")
        file = Path(folder) / "ns"
        file.touch()

        def bind() -> None:
            source = os.fsencode(f"/run/netns/{held}")
            if libc.mount(source, os.fsencode(file), None, ctypes.c_ulong(MS_BIND), None):
                raise OSError(ctypes.get_errno(), "mount")

        def unbind() -> None:
            # the file goes as well: an unmount alone is seen at the next look only
            libc.umount2(os.fsencode(file), MNT_DETACH)
            file.unlink()
            file.touch()

        with EngineProcess(Path(folder)) as engine:
            client = engine.client()
            client.connect([pair(f"o{n}", end(hub, f"o{n}"), end(f"absent{n}", "e")) for n in range(OTHERS)], wait=True)
            kinds: list[tuple[str, str, Callable[[], None], Callable[[], None]]] = [
                ("name", "later", lambda: create("later"), lambda: remove("later")),
                ("file", f"file:{file}", bind, unbind),
            ]
            for kind, reference, appear, go in kinds:
                client.connect([pair(kind, end(hub, kind), end(reference, kind))], wait=True)
                events = engine.subscribe(f"connection.up.{kind}")
                gone = engine.subscribe(f"connection.pending.{kind}")
                took = []
                for _ in range(rounds):
                    appear()
                    begun = time.perf_counter()
                    events.next()
                    took.append(1000 * (time.perf_counter() - begun))
                    go()
                    gone.next()
                took.sort()
                worst = f"p99 {took[int(0.99 * rounds)]:.1f} ms, worst {took[-1]:.1f} ms"
                print(f"{kind}: {rounds} times, p50 {statistics.median(took):.1f} ms, {worst}")


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
