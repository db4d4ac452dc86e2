"""Runs an engine at full speed for a long time and looks for what grows.

    python -m bench.soak [--seconds 600]

Clients connect, update, move and disconnect, alone and many at a time, and ask questions, while namespaces go and
come back.  The time is cut into tenths; after each, everything is disconnected, and what the engine and the kernel
use is noted at rest, where one tenth must look like the other.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import msgpack
import zmq

from bench.load import MIB, Use, engine_and_rooms, percentile
from fastnl.testing import PATIENCE, Namespaces, ip_json
from fastnl_engine.testing import EngineProcess, RawSocket, end, pair

ROOMS = 24
GUESTS = 4  # of the rooms, those that go and come back
CLIENTS = 6
IDS = 250  # connections of one client at most
WINDOW = 16  # requests of one client in flight
TENTHS = 10
WARM = 12_000  # operations before the first look: the log of events is full then, and so are caches
EXPECTED = {"busy", "netns_gone", "netns_not_found", "unknown_id"}  # nobody's fault here: moves do not wait

# growth from the first tenth to the last that counts as none
RESIDENT = 8 * MIB, 0.05  # of the engine: so much, or this part
FILLING = 16 * MIB, 0.05  # the same in a short run, in which what has a bound (the log of events, caches) is filling up
KERNEL = 64 * MIB, 0.10  # of a machine on which others work as well
SLOWER = 3.0  # times


class Worker:
    """One client's part of the load: always so many requests in flight, on ids of its own."""

    def __init__(self, engine: EngineProcess, number: int) -> None:
        self.raw = RawSocket(engine.endpoint)
        self.number = number
        self.dice = random.Random(number)
        self.flying: dict[int, tuple[str, float, int]] = {}
        self.latencies: list[float] = []
        self.operations = 0
        self.errors: Counter[str] = Counter()
        self._next = 0

    def fill(self) -> None:
        while len(self.flying) < WINDOW:
            self._ask(*self._something())

    def clear(self) -> None:
        self._ask("disconnect", {"ids": [self._id(n) for n in range(IDS)]}, IDS)

    def _ask(self, op: str, fields: dict[str, Any], operations: int) -> None:
        self._next += 1
        self.flying[self._next] = op, time.perf_counter(), operations
        self.raw.ask(id=self._next, op=op, **fields)

    def _something(self) -> tuple[str, dict[str, Any], int]:
        kind = self.dice.random()
        chosen = self.dice.sample(range(IDS), 1 if self.dice.random() < 0.7 else self.dice.randrange(2, 33))
        if kind < 0.5:
            return "connect", {"connections": [self._connection(n) for n in chosen], "wait": True}, len(chosen)
        if kind < 0.85:
            return "disconnect", {"ids": [self._id(n) for n in chosen]}, len(chosen)
        if kind < 0.97:
            moves = [
                {"id": self._id(n), "end": self.dice.choice("ab"), "netns": self._room(), "mode": "recreate"}
                for n in chosen
            ]
            return "move", {"moves": moves}, len(chosen)
        op = self.dice.choice(["list", "verify", "stats", "info"])
        return op, {} if op == "info" else {"ids": [self._id(n) for n in chosen]}, 1

    def _connection(self, n: int) -> dict[str, Any]:
        # names are this connection's own wherever it goes, so that nothing is in another's way
        name, address = f"{self.number}-{n}", f"10.{self.number}.{n}"
        mtu = self.dice.choice([1400, 1500])
        a = end(self._room(), f"a{name}", f"{address}.{self.dice.randrange(1, 100)}/24", mtu=mtu)
        return pair(self._id(n), a, end(self._room(), f"b{name}", f"{address}.101/24"))

    def _room(self) -> str:
        return f"r{self.dice.randrange(ROOMS)}"

    def _id(self, n: int) -> str:
        return f"{self.number}-{n}"

    def take(self) -> None:
        for _ in range(WINDOW):
            try:
                reply = msgpack.unpackb(self.raw.socket.recv(zmq.NOBLOCK))
            except zmq.Again:
                return
            op, asked, operations = self.flying.pop(reply["id"])
            self.latencies.append(time.perf_counter() - asked)
            self.operations += operations
            if "error" in reply:
                self.errors[reply["error"]["code"]] += 1
            elif op not in ("verify", "stats"):  # which may look at what a job is changing at that moment
                self.errors.update(r["error"]["code"] for r in reply["results"] if not r["ok"] and "error" in r)


@dataclass(frozen=True, slots=True)
class Tenth:
    """What a tenth did, and what there was at rest after it; latencies in seconds."""

    operations: int
    seconds: float
    p50: float
    p99: float
    use: Use
    interfaces: int


class Soak:
    def __init__(self, engine: EngineProcess, namespaces: Namespaces) -> None:
        self._engine = engine
        self._namespaces = namespaces
        self._client = engine.client()
        self.workers = [Worker(engine, n) for n in range(CLIENTS)]
        self._poller = zmq.Poller()
        self._of = {}
        for worker in self.workers:
            self._poller.register(worker.raw.socket, zmq.POLLIN)
            self._of[worker.raw.socket] = worker
        self._dice = random.Random(0)
        self._away: list[str] = []
        self._next_guest = 0.0

    @property
    def operations(self) -> int:
        return sum(worker.operations for worker in self.workers)

    def warm_up(self) -> None:
        while self.operations < WARM:
            self._step()
        self._rest()

    def tenth(self, seconds: float) -> Tenth:
        for worker in self.workers:
            worker.latencies.clear()
        before, begin = self.operations, time.monotonic()
        while time.monotonic() < begin + seconds:
            self._step()
        took = time.monotonic() - begin
        done = self.operations - before
        latencies = [x for worker in self.workers for x in worker.latencies]
        self._rest()
        left = sum(len(ip_json(f"r{n}", "link", "show")) - 1 for n in range(ROOMS))
        use = Use.of(self._engine.pid)
        return Tenth(done, took, percentile(latencies, 50), percentile(latencies, 99), use, left)

    def _step(self) -> None:
        for worker in self.workers:
            worker.fill()
        self._receive()
        if time.monotonic() > self._next_guest:
            self._next_guest = time.monotonic() + 0.5
            if self._away:
                self._namespaces.make(self._away.pop())
            else:
                self._away.append(f"r{self._dice.randrange(GUESTS)}")
                self._namespaces.let_go(self._away[0])

    def _receive(self) -> None:
        ready = self._poller.poll(PATIENCE * 1000)
        assert ready, "the engine does not answer"
        for socket, _ in ready:
            self._of[socket].take()

    def _rest(self) -> None:
        """Everything is disconnected, every namespace is there, and the kernel has tidied up."""
        self._drain()
        while self._away:
            self._namespaces.make(self._away.pop())
        for worker in self.workers:
            worker.clear()
        self._drain()
        info = self._client.info()
        assert info["connections"] == {}, info["connections"]
        time.sleep(1.0)

    def _drain(self) -> None:
        while any(worker.flying for worker in self.workers):
            self._receive()


def verdict(tenths: list[Tenth], errors: Counter[str], *, long: bool) -> list[str]:
    """What is wrong, in words.

    long: what others do on the machine counts little, so its clock and its kernel's memory are looked at as well, and
    what has a bound has come to it
    """
    wrong = []
    first, last = tenths[0], tenths[-1]
    # of several, as one look may catch something that is about to end
    fds = [min(t.use.descriptors for t in part) for part in (tenths[:3], tenths[-3:])]
    threads = [min(t.use.threads for t in part) for part in (tenths[:3], tenths[-3:])]
    if fds[1] > fds[0]:
        wrong.append(f"descriptors grew from {fds[0]} to {fds[1]}")
    if threads[1] > threads[0]:
        wrong.append(f"threads grew from {threads[0]} to {threads[1]}")
    memory = [("the engine's memory", RESIDENT if long else FILLING, [t.use.resident for t in tenths])]
    if long:
        memory.append(("slab memory of the kernel", KERNEL, [t.use.unreclaimable for t in tenths]))
    for what, (most, part), values in memory:
        growth = _trend(values)
        if growth > max(most, part * values[0]):
            wrong.append(f"{what} grows: {growth / MIB:.1f} MiB in this time")
    if any(t.interfaces for t in tenths):
        wrong.append(f"interfaces were left: {[t.interfaces for t in tenths]}")
    if long and last.p50 > SLOWER * first.p50:
        wrong.append(f"it became slower: p50 {1000 * first.p50:.1f} ms, then {1000 * last.p50:.1f} ms")
    if set(errors) - EXPECTED:
        wrong.append(f"errors: {dict(errors)}")
    return wrong


def _trend(values: list[int]) -> float:
    """How much of a growth a straight line through the values shows, from the first to the last."""
    line = statistics.linear_regression(range(len(values)), values)
    return line.slope * (len(values) - 1)


def soak(seconds: float) -> int:
    """Soaks, reports and gives the exit code: 1 when something grew or went wrong."""
    with engine_and_rooms(ROOMS) as (engine, namespaces):
        run = Soak(engine, namespaces)
        run.warm_up()
        print(
            f"{'tenth':>6}{'operations/s':>14}{'p50 ms':>9}{'p99 ms':>9}{'RSS MiB':>9}{'fds':>6}{'threads':>9}", end=""
        )
        print(f"{'slab MiB':>10}{'available MiB':>15}", flush=True)
        tenths = []
        for n in range(TENTHS):
            t = run.tenth(seconds / TENTHS)
            tenths.append(t)
            print(f"{n + 1:>6}{t.operations / t.seconds:>14.0f}{1000 * t.p50:>9.1f}{1000 * t.p99:>9.1f}", end="")
            print(f"{t.use.resident / MIB:>9.1f}{t.use.descriptors:>6}{t.use.threads:>9}", end="")
            print(f"{t.use.unreclaimable / MIB:>10.1f}{t.use.available / MIB:>15.0f}", flush=True)
        errors = sum((worker.errors for worker in run.workers), Counter())
        print(f"{run.operations} operations in all; items that failed: {dict(errors) or 'none'}")
        # a short run is over before a machine that is busy with something else is quiet again
        wrong = verdict(tenths, errors, long=seconds >= 120)
        for worker in run.workers:
            worker.raw.close()
        if engine.stop() != 0:
            wrong.append(f"the engine did not end well:\n{engine.log}")
    print("verdict:", "; ".join(wrong) or "no growth", flush=True)
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    return soak(parser.parse_args().seconds)


if __name__ == "__main__":
    sys.exit(main())
