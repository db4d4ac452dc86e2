"""Clients of the engine, for ordinary and for asyncio programs.

with Client() as engine:
    for result in engine.connect([{"id": "c1", "kind": "veth", "a": {...}, "b": {...}}]):
        print(result)
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import msgpack
import zmq
import zmq.asyncio

from fastnl_engine.config import client_endpoint
from fastnl_engine.curve import Curve, KeyProblem, reach

Connection = Mapping[str, Any]
Result = dict[str, Any]

PAGE = 1000  # records of one `list` request


class EngineError(Exception):
    """The engine refused a whole request; `code` is one of the protocol's, `error` all that it said."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error.get('code')}: {error.get('message')}")
        self.code: str = error.get("code", "internal")
        self.error = error


class NoEngine(Exception):
    """Nobody answered within the time limit."""


def _pack(id_: int, op: str, fields: dict[str, Any]) -> bytes:
    frame: bytes = msgpack.packb({"v": 1, "id": id_, "op": op, **{k: v for k, v in fields.items() if v is not None}})
    return frame


def _unpack(frame: bytes) -> dict[str, Any]:
    reply: dict[str, Any] = msgpack.unpackb(frame, strict_map_key=False)
    return reply


def _results(reply: dict[str, Any]) -> list[Result]:
    if "error" in reply:
        raise EngineError(reply["error"])
    results: list[Result] = reply["results"]
    return results


class Client:
    """Talks to one engine; for one thread at a time.

    timeout: seconds to wait for a reply, then NoEngine; so it is also when the engine does not know the key.
    curve: the keys for an engine at tcp://…; without, those of the environment (FASTNL_SERVER_KEY, FASTNL_KEY), and
    KeyProblem when there are none.  `send` and `receive` are for programs that keep several requests in flight.
    """

    def __init__(self, endpoint: str | None = None, *, timeout: float = 30.0, curve: Curve | None = None) -> None:
        self.endpoint = client_endpoint(endpoint)
        self.timeout = timeout
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        try:
            reach(self._socket, self.endpoint, curve)
        except (zmq.ZMQError, KeyProblem):
            self.close()
            raise
        self._ids = itertools.count(1)
        self._sent: set[int] = set()  # by `send`, and not received yet
        self._early: deque[dict[str, Any]] = deque()  # what came for them while `request` waited

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()
        self._context.term()

    def send(self, op: str, **fields: Any) -> int:
        """Sends a request and returns its id without waiting."""
        id_ = self._send(op, fields)
        self._sent.add(id_)
        return id_

    def receive(self, timeout: float | None = None) -> dict[str, Any]:
        """The next reply to what `send` has sent, whichever request it belongs to.  Raises NoEngine."""
        while True:
            reply = (
                self._early.popleft() if self._early else self._receive(self.timeout if timeout is None else timeout)
            )
            if self._is_wanted(reply):
                self._sent.discard(reply["id"])
                return reply

    def request(self, op: str, **fields: Any) -> dict[str, Any]:
        """Sends a request and waits for its reply.  Raises NoEngine."""
        id_ = self._send(op, fields)
        while True:
            reply = self._receive(self.timeout)
            if reply.get("id") == id_ or (reply.get("id") is None and not self._sent):
                return reply
            if self._is_wanted(reply):
                self._early.append(reply)

    def _send(self, op: str, fields: dict[str, Any]) -> int:
        id_ = next(self._ids)
        self._socket.send(_pack(id_, op, fields))
        return id_

    def _receive(self, timeout: float) -> dict[str, Any]:
        if not self._socket.poll(int(timeout * 1000)):
            raise NoEngine(f"no answer from {self.endpoint}; is fastnl-engine running there?")
        return _unpack(self._socket.recv())

    def _is_wanted(self, reply: dict[str, Any]) -> bool:
        """False for one that comes late, when `request` has given up.  None: the engine could not read the id."""
        return reply.get("id") is None or reply["id"] in self._sent

    def connect(self, connections: Sequence[Connection], *, wait: bool = False) -> list[Result]:
        """One result per connection; raises EngineError only when the whole request is refused."""
        return _results(self.request("connect", connections=list(connections), wait=wait))

    def disconnect(self, ids: Sequence[str]) -> list[Result]:
        return _results(self.request("disconnect", ids=list(ids)))

    def move(self, moves: Sequence[Mapping[str, Any]]) -> list[Result]:
        return _results(self.request("move", moves=list(moves)))

    def list(self, *, limit: int | None = None, **filters: Any) -> Iterator[Result]:
        """Every record that fits (ids, netns, state, labels), page by page; at most `limit` in all."""
        after = filters.pop("after", None)
        left = sys.maxsize if limit is None else limit
        while left > 0:
            reply = self.request("list", limit=min(PAGE, left), after=after, **filters)
            rows = _results(reply)
            yield from rows
            left -= len(rows)
            after = reply.get("after")
            if after is None:
                return

    def verify(self, ids: Sequence[str] | None = None) -> list[Result]:  # type: ignore[valid-type]
        return _results(self.request("verify", ids=ids))

    def stats(self, ids: Sequence[str] | None = None) -> list[Result]:  # type: ignore[valid-type]
        return _results(self.request("stats", ids=ids))

    def info(self) -> Result:
        return _results(self.request("info"))[0]

    def events(self, since: int = 0, limit: int = 1000) -> dict[str, Any]:
        """Events after number `since` from the engine's log: {"events": […], "run", "oldest", "newest"}."""
        reply = self.request("events", since=since, limit=limit)
        rows = [row["event"] for row in _results(reply)]
        return {"events": rows, **{k: reply[k] for k in ("run", "oldest", "newest")}}


class AsyncClient:
    """The same for asyncio; any number of tasks may share it.  Use it in `async with`."""

    def __init__(self, endpoint: str | None = None, *, timeout: float = 30.0, curve: Curve | None = None) -> None:
        self.endpoint = client_endpoint(endpoint)
        self.timeout = timeout
        self._curve = curve
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def __aenter__(self) -> AsyncClient:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        try:
            reach(self._socket, self.endpoint, self._curve)
        except (zmq.ZMQError, KeyProblem):
            self._socket.close()
            self._context.term()
            raise
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        self._socket.close()
        self._context.term()

    async def _read(self) -> None:
        while True:
            reply = _unpack(await self._socket.recv())
            future = self._waiting.pop(reply.get("id"), None)  # type: ignore[arg-type]
            if future is not None and not future.done():
                future.set_result(reply)

    async def request(self, op: str, **fields: Any) -> dict[str, Any]:
        """Sends a request and waits for its reply.  Raises NoEngine."""
        id_ = next(self._ids)
        future = self._waiting[id_] = asyncio.get_running_loop().create_future()
        await self._socket.send(_pack(id_, op, fields))
        try:
            return await asyncio.wait_for(future, self.timeout)
        except TimeoutError:
            raise NoEngine(f"no answer from {self.endpoint}; is fastnl-engine running there?") from None
        finally:
            self._waiting.pop(id_, None)

    async def connect(self, connections: Sequence[Connection], *, wait: bool = False) -> list[Result]:
        return _results(await self.request("connect", connections=list(connections), wait=wait))

    async def disconnect(self, ids: Sequence[str]) -> list[Result]:
        return _results(await self.request("disconnect", ids=list(ids)))

    async def move(self, moves: Sequence[Mapping[str, Any]]) -> list[Result]:
        return _results(await self.request("move", moves=list(moves)))

    async def list(self, *, limit: int | None = None, **filters: Any) -> AsyncIterator[Result]:
        after = filters.pop("after", None)
        left = sys.maxsize if limit is None else limit
        while left > 0:
            reply = await self.request("list", limit=min(PAGE, left), after=after, **filters)
            rows = _results(reply)
            for row in rows:
                yield row
            left -= len(rows)
            after = reply.get("after")
            if after is None:
                return

    async def verify(self, ids: Sequence[str] | None = None) -> list[Result]:  # type: ignore[valid-type]
        return _results(await self.request("verify", ids=ids))

    async def stats(self, ids: Sequence[str] | None = None) -> list[Result]:  # type: ignore[valid-type]
        return _results(await self.request("stats", ids=ids))

    async def info(self) -> Result:
        return _results(await self.request("info"))[0]


def subscribe(
    endpoint: str, prefix: str = "connection.", *, timeout: float | None = None, curve: Curve | None = None
) -> Iterator[Result]:
    """Events as they come; `prefix` of the topic chooses, e.g. "connection.up.".

    timeout: ends when no event has come for so many seconds; None: never.
    curve: as for Client.  Who may not look, or has a key that the engine does not know, hears nothing.
    """
    context = zmq.Context()
    socket = context.socket(zmq.SUB)
    try:
        socket.setsockopt(zmq.LINGER, 0)
        socket.subscribe(prefix.encode())
        reach(socket, endpoint, curve)
        while socket.poll(None if timeout is None else int(timeout * 1000)):
            _, body = socket.recv_multipart()
            yield _unpack(body)
    finally:
        socket.close()
        context.term()
