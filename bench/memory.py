"""What a connection costs the engine in memory, and how long the records take to list.

    python -m bench.memory [COUNT]

The connections wait for namespaces that are not there, so that the machine needs nothing but the engine's own
memory for them: each is a pair with one address an end and two namespaces of its own.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastnl.testing import isolate
from fastnl_engine.client import Client
from fastnl_engine.testing import EngineProcess, end, pair

COUNT = 100_000
TOGETHER = 500  # connections of one request
SETTLE = 6.0  # seconds in which the engine's look at every namespace comes round


def waiting(count: int) -> Iterator[dict[str, Any]]:
    for n in range(count):
        address = f"10.{n >> 14 & 255}.{n >> 6 & 255}.{n << 2 & 255}"
        base, last = address.rsplit(".", 1)
        yield pair(
            f"connection-{n}",
            end(f"absent-{n}-a", f"veth{n}a", f"{base}.{int(last) + 1}/30"),
            end(f"absent-{n}-b", f"veth{n}b", f"{base}.{int(last) + 2}/30"),
        )


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def timed(what: str, client: Client, op: str = "list", **fields: Any) -> None:
    begin = time.perf_counter()
    reply = client.request(op, **fields)
    took = time.perf_counter() - begin
    print(f"{what:45} {1000 * took:8.1f} ms   {len(reply['results'])} rows", flush=True)


def main(count: int) -> None:
    isolate()
    jobs = list(waiting(count))
    with tempfile.TemporaryDirectory(prefix="fastnl-") as folder:
        with EngineProcess(Path(folder), "--no-durable") as engine:
            client = engine.client(timeout=600)
            before = resident(engine.pid)
            begin = time.perf_counter()
            for at in range(0, count, TOGETHER):
                results = client.connect(jobs[at : at + TOGETHER], wait=True)
                assert all(r["state"] == "pending" for r in results), results
            print(f"{count} connections taken on in {time.perf_counter() - begin:.1f} s")
            time.sleep(SETTLE)
            after = resident(engine.pid)
            print(f"{before / 2**20:.1f} MiB idle, {after / 2**20:.1f} MiB with {count} connections: ", end="")
            print(f"{(after - before) / count / 1024:.2f} KiB a connection", flush=True)

            timed("list, first page of 1000", client, limit=1000)
            timed("list, a page of 1000 from the middle", client, limit=1000, after=f"connection-{count // 2}")
            timed("list, a page of 10,000", client, limit=10_000)
            timed("list, one id", client, ids=["connection-77"])
            timed("list, one namespace", client, netns="absent-77-a")
            timed("list, a state that none has", client, state="failed")
            timed("list, a label that none has", client, labels={"app": "shop"})
            timed("info", client, op="info")
            begin = time.perf_counter()
            rows = sum(1 for _ in client.list())
            print(f"{'list, everything page by page':45} {1000 * (time.perf_counter() - begin):8.1f} ms   {rows} rows")

            code = engine.stop()
            assert code == 0, engine.log
            begin = time.perf_counter()
            engine.start()
            print(f"started again in {time.perf_counter() - begin:.1f} s, ", end="")
            print(f"{(resident(engine.pid) - before) / count / 1024:.2f} KiB a connection", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else COUNT)
