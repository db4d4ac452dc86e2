"""Connections that come and go at random moments, at a rate that does not wait for the engine.

Arrivals are a Poisson process.  A latency counts from the moment at which a request was meant to be sent, not from
when it was: a program that stalls makes the requests behind it late, and a clock that starts at the send hides that.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgpack
import zmq

from fastnl import Connection
from fastnl_engine.bench.workloads import as_job
from fastnl_engine.testing import EngineProcess, RawSocket

WAIT = 60.0  # seconds for the last answers


@dataclass(slots=True)
class Latencies:
    """Seconds from the intended start to the reply; `late`: from the intended start to the send, at worst."""

    create: list[float] = field(default_factory=list)
    delete: list[float] = field(default_factory=list)
    late: float = 0.0


def churn(
    engine: EngineProcess,
    connections: Sequence[Connection],
    *,
    rate: float,
    seconds: float,
    clients: int,
    seed: int = 0,
) -> Latencies:
    """About half of the connections stand; each arrival makes one that is not there or takes one away.

    rate: arrivals a second.  When it returns, none is left.
    """
    dice = random.Random(seed)
    absent, standing = deque(connections), deque[Connection]()
    dice.shuffle(absent)
    jobs = {c.id: as_job(c) for c in connections}
    sockets = [RawSocket(engine.endpoint) for _ in range(clients)]
    poller = zmq.Poller()
    for one in sockets:
        poller.register(one.socket, zmq.POLLIN)
    found = Latencies()
    flying: dict[int, tuple[float, str, Connection]] = {}

    def send(number: int, due: float, step: str, c: Connection) -> None:
        create, delete = {"op": "connect", "connections": [jobs[c.id]]}, {"op": "disconnect", "ids": [c.id]}
        body = create if step == "create" else delete
        flying[number] = (due, step, c)
        sockets[number % clients].send(msgpack.packb({"v": 1, "id": number, **body}))

    def take(milliseconds: int) -> None:
        for socket, _ in poller.poll(milliseconds):
            while True:
                try:
                    frame = socket.recv(zmq.NOBLOCK)
                except zmq.Again:
                    break
                now = time.perf_counter()
                reply = msgpack.unpackb(frame)
                if not reply["ok"]:
                    raise RuntimeError(f"the engine: {reply}")
                due, step, c = flying.pop(reply["id"])
                (found.create if step == "create" else found.delete).append(now - due)
                (standing if step == "create" else absent).append(c)

    try:
        number = 0
        for number in range(len(connections) // 2):
            send(number, 0.0, "create", absent.popleft())
        _await(lambda: not flying, take, engine)
        found.create.clear()
        begin = due = time.perf_counter()
        while due < begin + seconds:
            due += dice.expovariate(rate)
            take(0)  # also when it is late already
            while (ahead := due - time.perf_counter()) > 0:
                take(int(ahead * 1e3))  # below a millisecond it asks again at once
            # all may be on their way: the clock of this arrival runs on
            _await(lambda: bool(absent or standing), take, engine)
            number += 1
            step = "create" if absent and (not standing or dice.random() < 0.5) else "delete"
            found.late = max(found.late, time.perf_counter() - due)
            send(number, due, step, (absent if step == "create" else standing).popleft())
        _await(lambda: not flying, take, engine)
        deleted = len(found.delete)
        while standing:
            number += 1
            send(number, 0.0, "delete", standing.popleft())
        _await(lambda: not flying, take, engine)
        del found.delete[deleted:]
    finally:
        for one in sockets:
            one.close()
    return found


def _await(condition: Callable[[], bool], take: Callable[[int], None], engine: EngineProcess) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"the engine does not answer:\n{engine.log}")
        take(100)
