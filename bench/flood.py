"""Many clients ask for several times what the engine can do: does each request get its one reply, and memory end?

    python -m bench.flood [--seconds 60] [--clients 64]

Beside the crowd there are a client that never reads, one that is killed half-way, subscribers that never read, and
a modest one, a process of its own that asks for one connection at a time: its latency is what the others cost it.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections import Counter

import msgpack
import zmq

from bench.load import MIB, Use, engine_and_rooms, percentile
from fastnl.testing import PATIENCE, spawn
from fastnl_engine.client import Client
from fastnl_engine.testing import EngineProcess, RawSocket, end, pair

ROOMS = 16
ITEMS = 10  # of one request
WINDOW = 100  # requests of one client in flight: all of them together are many times the engine's queue
KINDS = 8  # different connects of a client, and as many disconnects
DEAF_SUBSCRIBERS = 4
PAUSE = 0.05  # seconds after which the modest client asks again when it was told to wait
GROWTH = 48 * MIB  # of the engine's memory from the second quarter to the last that counts as none


class Flooder:
    """A client with always so many requests in flight; remembers which have no reply."""

    def __init__(self, engine: EngineProcess, number: int) -> None:
        self.raw = RawSocket(engine.endpoint, options={zmq.SNDHWM: 0, zmq.RCVHWM: 0})
        self.waiting: set[int] = set()
        self.codes: Counter[str] = Counter()
        self._next = 0
        self._bodies: list[dict[str, object]] = []
        for kind in range(KINDS):
            ids = [f"{number}-{kind}-{n}" for n in range(ITEMS)]
            a, b = f"r{number % ROOMS}", f"r{(number + kind + 1) % ROOMS}"
            jobs = [pair(id_, end(a, f"a{id_}"), end(b, f"b{id_}")) for id_ in ids]
            self._bodies.append({"v": 1, "op": "connect", "connections": jobs})
            self._bodies.append({"v": 1, "op": "disconnect", "ids": ids})
        self._bodies.append({"v": 1, "op": "list", "limit": 100})

    def fill(self) -> None:
        while len(self.waiting) < WINDOW:
            body = self._bodies[self._next % len(self._bodies)]
            self.raw.send(msgpack.packb({**body, "id": self._next}))
            self.waiting.add(self._next)
            self._next += 1

    def take(self, most: int = 200) -> None:
        """Takes the replies that are there.  Raises AssertionError for one too many."""
        for _ in range(most):
            try:
                reply = msgpack.unpackb(self.raw.socket.recv(zmq.NOBLOCK))
            except zmq.Again:
                return
            assert reply["id"] in self.waiting, f"a second reply, or one to nobody: {reply['id']}"
            self.waiting.remove(reply["id"])
            if "error" in reply:
                self.codes[reply["error"]["code"]] += 1
            else:
                self.codes["taken"] += 1
                self.codes["items"] += (
                    len(reply["results"]) if reply["results"] and "changed" in reply["results"][0] else 0
                )
                bad = [r["error"]["code"] for r in reply["results"] if not r["ok"]]
                self.codes.update(f"item: {code}" for code in bad)


def modest(endpoint: str, seconds: float) -> None:
    """One connection at a time; prints what became of it."""
    latencies: list[float] = []
    told_to_wait = unanswered = 0
    with Client(endpoint, timeout=PATIENCE) as client:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for op, fields in (
                ("connect", {"connections": [pair("modest", end("r0", "modest0"), end("r1", "modest1"))]}),
                ("disconnect", {"ids": ["modest"]}),
            ):
                begin = time.perf_counter()
                while True:
                    reply = client.request(op, **fields)
                    if "error" not in reply:
                        assert reply["ok"], reply
                        break
                    assert reply["error"]["code"] == "busy", reply
                    told_to_wait += 1
                    time.sleep(PAUSE)
                latencies.append(time.perf_counter() - begin)
    print(json.dumps({"latencies": latencies, "busy": told_to_wait, "unanswered": unanswered}))


def _child(*words: str) -> subprocess.Popen[bytes]:
    return spawn([sys.executable, "-m", "bench.flood", *words], stdout=subprocess.PIPE)


def _deaf_subscribers(engine: EngineProcess, context: zmq.Context[zmq.Socket[bytes]]) -> list[zmq.Socket[bytes]]:
    sockets = []
    for _ in range(DEAF_SUBSCRIBERS):
        socket = context.socket(zmq.SUB)
        socket.setsockopt(zmq.RCVHWM, 1)
        socket.subscribe(b"")
        socket.connect(engine.events)
        sockets.append(socket)
    return sockets


def flood(seconds: float, clients: int) -> int:
    """Floods, reports and gives the exit code: 1 when something was not as it should be."""
    wrong: list[str] = []
    with engine_and_rooms(ROOMS) as (engine, _):
        polite = _child("--modest", engine.endpoint, "--seconds", str(seconds))
        doomed = _child("--doomed", engine.endpoint, "--seconds", str(seconds))
        deaf = RawSocket(engine.endpoint, options={zmq.RCVHWM: 1})
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        subscribers = _deaf_subscribers(engine, context)
        crowd = [Flooder(engine, n) for n in range(clients)]
        poller = zmq.Poller()
        of = {}
        for one in crowd:
            poller.register(one.raw.socket, zmq.POLLIN)
            of[one.raw.socket] = one
        uses: list[tuple[float, Use]] = []
        list_ = msgpack.packb({"v": 1, "id": 1, "op": "list"})
        begin = time.monotonic()
        while (now := time.monotonic() - begin) < seconds:
            if not uses or now - uses[-1][0] > seconds / 100:
                uses.append((now, Use.of(engine.pid)))
                for _ in range(20):
                    try:
                        deaf.socket.send(list_, zmq.NOBLOCK)
                    except zmq.Again:
                        break
            if now > seconds / 2 and doomed.poll() is None:
                doomed.send_signal(signal.SIGKILL)
                doomed.wait()
            for one in crowd:
                one.fill()
            for socket, _ in poller.poll(100):
                of[socket].take()
        took = time.monotonic() - begin
        deadline = time.monotonic() + PATIENCE
        while any(one.waiting for one in crowd) and time.monotonic() < deadline:
            for socket, _ in poller.poll(100):
                of[socket].take()
        missing = sum(len(one.waiting) for one in crowd)
        codes = sum((one.codes for one in crowd), Counter())
        served = json.loads(polite.communicate(timeout=PATIENCE)[0])
        for one in (deaf, *(c.raw for c in crowd)):
            one.close()
        for socket in subscribers:
            socket.close(0)
        context.term()
        load = engine.client().info()["load"]
        _report(seconds, took, codes, uses, served)
        if missing:
            wrong.append(f"{missing} requests have no reply")
        if set(codes) - {"taken", "busy", "items"}:
            wrong.append(f"errors that should not be: {codes}")
        if not codes["busy"] or not codes["taken"]:
            wrong.append("it was no flood: nobody was told to wait, or everybody")
        if len(served["latencies"]) < 2:
            wrong.append("the modest client was starved")
        if load:
            wrong.append(f"{load} jobs are left")
        quarter = len(uses) // 4
        early = max(use.resident for _, use in uses[quarter : 2 * quarter])
        late = max(use.resident for _, use in uses[-quarter:])
        if late - early > GROWTH:
            wrong.append(f"memory grew from {early / MIB:.0f} to {late / MIB:.0f} MiB")
        if engine.stop() != 0:
            wrong.append(f"the engine did not end well:\n{engine.log}")
    print("verdict:", "; ".join(wrong) or "one reply for each request, no growth, nobody starved", flush=True)
    return 1 if wrong else 0


def _report(
    seconds: float, took: float, codes: Counter[str], uses: list[tuple[float, Use]], served: dict[str, list[float]]
) -> None:
    requests = codes["taken"] + codes["busy"]
    print(f"{requests} requests in {took:.1f} s: {codes['taken']} taken, {codes['busy']} busy;", end=" ")
    print(
        f"{codes['items'] / took:.0f} items a second done, {requests / max(1, codes['taken']):.1f} times that asked for"
    )
    sizes = [use.resident / MIB for _, use in uses]
    print(f"engine: {sizes[0]:.0f} MiB at the start, {max(sizes):.0f} at most, {sizes[-1]:.0f} at the end")
    ms = [1000 * latency for latency in served["latencies"]]
    print(f"modest client: {len(ms)} requests served, told to wait {served['busy']} times;", end=" ")
    print(f"p50 {percentile(ms, 50):.0f} ms, p99 {percentile(ms, 99):.0f} ms, at most {max(ms, default=0):.0f} ms")


def doomed(endpoint: str) -> None:
    """Asks and asks, reads nothing, until it is killed."""
    raw = RawSocket(endpoint, options={zmq.SNDHWM: 100})
    n = 0
    while True:
        job = pair(f"doomed{n % 50}", end("r2", f"d{n % 50}"), end("r3", f"d{n % 50}"))
        raw.ask(id=n, op="connect", connections=[job])
        raw.ask(id=n, op="disconnect", ids=[job["id"]])
        n += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--modest", help=argparse.SUPPRESS)
    parser.add_argument("--doomed", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.modest:
        modest(chosen.modest, chosen.seconds)
    elif chosen.doomed:
        doomed(chosen.doomed)
    else:
        return flood(chosen.seconds, chosen.clients)
    return 0


if __name__ == "__main__":
    sys.exit(main())
