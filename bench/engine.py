"""The engine over ZeroMQ: clients with so many connections in flight each, the store waiting for the disk.

It is measured from outside, as a process of its own, and the clients' share of the processor counts too.
"""

from __future__ import annotations

import gc
import importlib.util
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgpack
import zmq

from bench.contenders import Clock, Cost, settle
from bench.workloads import as_job
from fastnl import Veth
from fastnl.testing import spawn

CLIENTS = 8
IN_FLIGHT = 64


def available() -> bool:
    return importlib.util.find_spec("fastnl_engine.main") is not None


class Engine:
    """A running engine and its clients, to be used in `with`.

    together    connections of one request; IN_FLIGHT / together requests are in flight
    folder      for state and endpoints; it should be on a disk, as a durable store is measured
    """

    def __init__(self, connections: Sequence[Veth], folder: Path, *, together: int = 1) -> None:
        self.name = "engine" if together == 1 else f"engine, {together} a request"
        self.count = len(connections)
        self._together = together
        self._folder = folder
        share = -(-self.count // CLIENTS)
        shares = [connections[at : at + share] for at in range(0, self.count, share)]
        self._creates = [_requests("connect", "connections", [as_job(c) for c in s], together) for s in shares]
        self._deletes = [_requests("disconnect", "ids", [c.id for c in s], together) for s in shares]

    def __enter__(self) -> Engine:
        self._folder.mkdir(parents=True, exist_ok=True)
        # relative, as the path of a socket has at most 107 bytes
        endpoint, events = (f"ipc://{os.path.relpath(self._folder / name)}" for name in ("jobs.sock", "events.sock"))
        self._log = (self._folder / "log").open("w")
        self._process = spawn(
            [
                sys.executable, "-c", "from fastnl_engine.main import main; main()",
                "--endpoint", endpoint, "--events", events, "--state-dir", str(self._folder / "state"),
                "--instance", f"bench{self._together}",
            ],
            stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._context = zmq.Context()
        self._clients = [self._client(endpoint) for _ in self._creates]
        self._ask(self._clients[0], msgpack.packb({"v": 1, "id": 0, "op": "info"}))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients:
            client.close(0)
        self._context.term()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._log.close()

    def _client(self, endpoint: str) -> zmq.Socket[bytes]:
        client = self._context.socket(zmq.DEALER)
        client.connect(endpoint)
        return client

    def _ask(self, client: zmq.Socket[bytes], frame: bytes) -> None:
        client.send(frame)
        if not client.poll(10000):
            raise RuntimeError(f"the engine does not answer; see {self._log.name}")
        client.recv()

    def round(self) -> Cost:
        gc.collect()
        create = self._run(self._creates)
        settle()
        return Cost(create, self._run(self._deletes))

    def _run(self, requests: Sequence[Sequence[bytes]]) -> float:
        """Sends every client's requests, never more than allowed in flight; seconds a pair until the last reply."""
        window = max(1, IN_FLIGHT // self._together)
        poller = zmq.Poller()
        for client in self._clients:
            poller.register(client, zmq.POLLIN)
        waiting = {client: iter(frames) for client, frames in zip(self._clients, requests, strict=True)}
        missing = sum(len(frames) for frames in requests)
        replies: list[bytes] = []
        clock = Clock(self.count)
        for client, frames in waiting.items():
            for frame in itertools.islice(frames, window):
                client.send(frame)
        while missing:
            ready = poller.poll(20000)
            if not ready:
                raise RuntimeError(f"the engine stopped answering; see {self._log.name}")
            for client, _ in ready:
                for reply in _receive_all(client):
                    replies.append(reply)
                    missing -= 1
                    following = next(waiting[client], None)
                    if following is not None:
                        client.send(following)
        cost, _ = clock.read()
        _check(replies)
        return cost


def _receive_all(client: zmq.Socket[bytes]) -> Iterator[bytes]:
    while True:
        try:
            yield client.recv(zmq.NOBLOCK)
        except zmq.Again:
            return


def _requests(op: str, field: str, values: Sequence[Any], together: int) -> list[bytes]:
    return [
        msgpack.packb({"v": 1, "id": at, "op": op, field: values[at : at + together]})
        for at in range(0, len(values), together)
    ]


def _check(replies: Sequence[bytes]) -> None:
    for frame in replies:
        reply = msgpack.unpackb(frame)
        if not reply["ok"]:
            raise RuntimeError(f"the engine: {reply}")
