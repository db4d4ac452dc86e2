"""The main job from end to end, on the real kernel: what `make demo` runs.

Starts an engine of its own, makes namespaces, connects 200 pairs and two simulated hosts, pings across all
of it, verifies it with pyroute2, takes everything down and shows that nothing is left.  It works in network
and mount namespaces of its own, so nothing of the machine is touched, whenever it is interrupted.
"""

from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fastnl import testing
from fastnl_engine.client import Client, NoEngine

PAIRS = 200
BATCH = 20  # connections of one request
ROOMS = 40  # namespaces that the pairs run between

console = Console()


def pair(n: int) -> dict[str, object]:
    """Connection number n: between two of the rooms, a network of its own, one address an end."""
    a, b = n % ROOMS, (n * 7 + 1 + n // ROOMS) % ROOMS
    b = b if b != a else (b + 1) % ROOMS
    return {
        "id": f"pair-{n}",
        "kind": "veth",
        "a": {"netns": f"room{a}", "ifname": f"a{n}", "addresses": [f"10.1.{n}.1/30"]},
        "b": {"netns": f"room{b}", "ifname": f"b{n}", "addresses": [f"10.1.{n}.2/30"]},
    }


def hosts() -> list[dict[str, object]]:
    """Two hosts with a cable between them, and a client on each: a tunnel over the cable joins the clients."""
    underlay = {
        "id": "cable",
        "kind": "veth",
        "a": {"netns": "host1", "ifname": "uplink", "addresses": ["192.0.2.1/24"]},
        "b": {"netns": "host2", "ifname": "uplink", "addresses": ["192.0.2.2/24"]},
    }
    ends = []
    for here, there in ((1, 2), (2, 1)):
        ends.append(
            {
                "id": f"tunnel-{here}",
                "kind": "vxlan",
                "a": {"netns": f"client{here}", "ifname": "net0", "addresses": [f"10.2.0.{here}/24"]},
                "vxlan": {
                    "vni": 42,
                    "local": f"192.0.2.{here}",
                    "remote": f"192.0.2.{there}",
                    "underlay": f"host{here}",
                },
            }
        )
    return [underlay, *ends]


def main() -> int:
    started = time.monotonic()
    testing.isolate()
    # Ctrl-C and SIGTERM end it alike: through the `with` blocks, which clean up
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    before = testing.Census.take()
    with tempfile.TemporaryDirectory(prefix="fastnl-demo-") as folder, testing.Namespaces() as namespaces:
        engine = testing.spawn(
            [
                str(Path(sys.executable).with_name("fastnl-engine")),
                *("--endpoint", f"ipc://{folder}/engine.sock", "--events", f"ipc://{folder}/events.sock"),
                *("--state-dir", f"{folder}/state", "--log-level", "warning"),
            ]
        )
        try:
            with Client(f"ipc://{folder}/engine.sock", timeout=60) as client:
                ok = show(client, namespaces)
        finally:
            engine.terminate()
            engine.wait(timeout=10)
    left = testing.Census.take().difference(before)
    console.print(f"Left behind: {left or 'nothing'}")
    console.print(f"Done in {time.monotonic() - started:.1f} s.")
    return 0 if ok and not left else 1


def show(client: Client, namespaces: testing.Namespaces) -> bool:
    """Runs the whole job; true when every part of it went well."""
    client.info()  # waits until the engine answers
    namespaces.many(ROOMS, "room")
    for name in ("host1", "host2", "client1", "client2"):
        namespaces.make(name)
    wanted = [pair(n) for n in range(PAIRS)]
    results, times, elapsed = connect(client, wanted)
    remote = client.connect(hosts())
    failed = [r for r in results + remote if not r["ok"]]
    for r in failed:
        console.print(f"[red]{r['id']}: {r['error']['message']}")
    local_pings = ping_all([(f"room{n % ROOMS}", f"10.1.{n}.2") for n in range(PAIRS)], "local")
    remote_pings = ping_all([("client1", "10.2.0.2"), ("client2", "10.2.0.1")], "remote")
    verdicts = client.verify()
    differing = [v for v in verdicts if not v["ok"]]
    for v in differing:
        console.print(f"[red]{v['id']}: {v['differences']}")
    table = Table(title="fastnl", show_header=False)
    for row in (
        ("connections", f"{PAIRS} veth pairs between {ROOMS} namespaces, 1 tunnel between 2 hosts"),
        ("rate", f"{PAIRS / elapsed:,.0f} pairs a second, acknowledged and durable, in requests of {BATCH}"),
        ("a request, p50 / p99", f"{1e3 * percentile(times, 50):.1f} / {1e3 * percentile(times, 99):.1f} ms"),
        ("ping, local", f"{local_pings} of {PAIRS} answered"),
        ("ping, remote", f"{remote_pings} of 2 answered"),
        ("verified by pyroute2", f"{len(verdicts) - len(differing)} of {len(verdicts)} as asked for"),
    ):
        table.add_row(*row)
    console.print(table)
    begun = time.monotonic()
    gone = client.disconnect([v["id"] for v in verdicts])
    console.print(
        f"Disconnected {sum(r['ok'] for r in gone)} of {len(verdicts)} in {1e3 * (time.monotonic() - begun):.0f} ms."
    )
    links = sum(len(testing.ip_json(name, "link")) - 1 for name in namespaces)
    console.print(f"Interfaces left in the namespaces, loopback aside: {links}")
    return (
        not failed
        and not differing
        and local_pings == PAIRS
        and remote_pings == 2
        and links == 0
        and all(r["ok"] for r in gone)
    )


def percentile(times: list[float], of: int) -> float:
    return statistics.quantiles(times, n=100, method="inclusive")[of - 1]


def connect(client: Client, wanted: list[dict[str, object]]) -> tuple[list[dict[str, object]], list[float], float]:
    """Sends batch after batch with two in flight; results, seconds of each request, seconds of all."""
    results: list[dict[str, object]] = []
    times: list[float] = []
    sent: dict[int, float] = {}
    with bar("connecting", len(wanted)) as (progress, task):
        begun = time.monotonic()
        for at in range(0, len(wanted), BATCH):
            sent[client.send("connect", connections=wanted[at : at + BATCH])] = time.monotonic()
            if len(sent) < 2 and at + BATCH < len(wanted):
                continue
            while len(sent) >= 2 or (sent and at + BATCH >= len(wanted)):
                reply = client.receive()
                times.append(time.monotonic() - sent.pop(reply["id"]))
                results += reply.get("results", [])
                progress.update(task, completed=len(results))
        elapsed = time.monotonic() - begun
    return results, times, elapsed


def ping_all(targets: list[tuple[str, str]], what: str) -> int:
    """How many targets answer a real ICMP echo request sent from their namespace."""
    answered = 0
    with bar(f"pinging, {what}", len(targets)) as (progress, task), ThreadPoolExecutor(8) as pool:
        for ok in pool.map(lambda t: testing.ping(*t), targets):
            answered += ok
            progress.advance(task)
    return answered


class bar:
    """A progress bar as a context manager; gives (progress, task)."""

    def __init__(self, text: str, total: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description:18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
        )
        self._task = self._progress.add_task(text, total=total)

    def __enter__(self) -> tuple[Progress, object]:
        self._progress.start()
        return self._progress, self._task

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        console.print("Interrupted; everything was taken down.")
        sys.exit(130)
    except (PermissionError, NoEngine, subprocess.SubprocessError) as e:
        console.print(f"[red]{e}")
        sys.exit(1)
