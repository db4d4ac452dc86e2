"""The engine over ZeroMQ: clients with so many connections in flight each.

It is measured from outside, as a process of its own, and the clients' share of the processor counts too.
"""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack
import zmq

from fastnl import Connection
from fastnl_engine.bench.contenders import Clock, Step, Time, between
from fastnl_engine.bench.workloads import as_job, room, updated
from fastnl_engine.testing import EngineProcess, RawSocket

CLIENTS = 8
IN_FLIGHT = 64
WAIT = 60_000  # milliseconds for one answer


class Engine:
    """A running engine and its clients, to be used in `with`.

    durable     whether the outcome is on the disk before the reply
    together    connections of one request; in_flight / together requests of a client are on their way
    folder      for state and endpoints; it should be on a disk, as a durable store is measured
    """

    form = "born"

    def __init__(
        self,
        connections: Sequence[Connection],
        folder: Path,
        *,
        durable: bool = True,
        clients: int = CLIENTS,
        in_flight: int = IN_FLIGHT,
        together: int = 1,
    ) -> None:
        self.name = "engine" if durable else "engine, not durable"
        if together > 1:
            self.name += f", {together} a request"
        self.count = len(connections)
        self._alone = clients == in_flight == 1
        self._window = max(1, in_flight // together)
        self._together = together
        share = -(-self.count // clients)
        self._shares = [connections[at : at + share] for at in range(0, self.count, share)]
        folder.mkdir(parents=True)
        flags = [] if durable else ["--no-durable"]
        self._engine = EngineProcess(folder, *flags, instance=folder.name[:32])

    def __enter__(self) -> Engine:
        self._engine.start()
        self._clients = [RawSocket(self._engine.endpoint) for _ in self._shares]
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.close()
        self._engine.close()

    def step(self, step: Step) -> Time:
        """Sends every client's requests, never more than allowed in flight; until the last reply."""
        requests = [list(_requests(step, share, self._together)) for share in self._shares]
        gc.collect()
        if self._alone:
            return self._one_by_one(requests[0])
        sockets = [client.socket for client in self._clients]
        poller = zmq.Poller()
        for socket in sockets:
            poller.register(socket, zmq.POLLIN)
        waiting = dict(zip(sockets, map(iter, requests), strict=True))
        missing = sum(len(frames) for frames in requests)
        replies: list[bytes] = []
        clock = Clock(self.count)
        for socket, frames in waiting.items():
            for frame in itertools.islice(frames, self._window):
                socket.send(frame)
        while missing:
            ready = poller.poll(WAIT)
            if not ready:
                raise RuntimeError(f"the engine stopped answering:\n{self._engine.log}")
            for socket, _ in ready:
                for reply in _receive_all(socket):
                    replies.append(reply)
                    missing -= 1
                    following = next(waiting[socket], None)
                    if following is not None:
                        socket.send(following)
        took = clock.read()
        _check(replies)
        # without processor time: most of the work is the engine's own process's
        return Time(took.passed)

    def _one_by_one(self, frames: Sequence[bytes]) -> Time:
        """Each request when the one before it has its reply: as a client would that has nothing else to wait for."""
        socket = self._clients[0].socket
        socket.rcvtimeo = WAIT
        replies: list[bytes] = []
        moments = [time.perf_counter()]
        clock = Clock(self.count)
        try:
            for frame in frames:
                socket.send(frame)
                replies.append(socket.recv())
                moments.append(time.perf_counter())
        except zmq.Again:
            raise RuntimeError(f"the engine stopped answering:\n{self._engine.log}") from None
        took = clock.read()
        _check(replies)
        return Time(took.passed, calls=between(moments))


def _receive_all(socket: zmq.Socket[bytes]) -> Iterator[bytes]:
    while True:
        try:
            yield socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            return


def _requests(step: Step, connections: Sequence[Connection], together: int) -> Iterator[bytes]:
    for at in range(0, len(connections), together):
        part = connections[at : at + together]
        fields: dict[str, Any]
        if step == "create":
            fields = {"op": "connect", "connections": [as_job(c) for c in part]}
        elif step == "update":
            fields = {"op": "connect", "connections": [as_job(updated(c)) for c in part]}
        elif step == "delete":
            fields = {"op": "disconnect", "ids": [c.id for c in part]}
        else:
            moves = [{"id": c.id, "end": "a", "netns": room(at + n), "mode": step} for n, c in enumerate(part)]
            fields = {"op": "move", "moves": moves}
        yield msgpack.packb({"v": 1, "id": at, **fields})


def _check(replies: Sequence[bytes]) -> None:
    for frame in replies:
        reply = msgpack.unpackb(frame)
        if not reply["ok"]:
            raise RuntimeError(f"the engine: {reply}")
