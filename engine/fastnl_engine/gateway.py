"""The sockets: requests in, replies and events out.

One thread owns every socket.  It decodes and answers; the kernel and the disk are other threads' business.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import structlog
import zmq

import fastnl
from fastnl_engine import wire
from fastnl_engine.auth import NEEDED, Roles, peer_of
from fastnl_engine.config import Config
from fastnl_engine.engine import Engine
from fastnl_engine.events import Events
from fastnl_engine.metrics import Http
from fastnl_engine.model import decode_connection, encode, values_of
from fastnl_engine.planner import Job
from fastnl_engine.queries import Queries

log = structlog.get_logger()

DRAIN = 256  # requests taken in a row before results go out again


class Ticket:
    """A request on its way: where its reply goes and which results are still missing."""

    __slots__ = ("address", "id", "missing", "results")

    def __init__(self, address: list[bytes], id_: wire.RequestId, items: int) -> None:
        self.address = address
        self.id = id_
        self.results: list[Any] = [None] * items
        self.missing = items


class InUse(Exception):
    """Another engine has the endpoint."""


class Gateway:
    """Serves until `stop` is called (from any thread or a signal handler)."""

    def __init__(self, config: Config, make_engine: Callable[[Gateway], Engine]) -> None:
        self.config = config
        self._context = zmq.Context()
        self._locks: list[int] = []
        self._stopping = False
        self.serving = False
        self._answers: deque[tuple[list[bytes], bytes]] = deque()
        self._roles = Roles.parse(config.roles)
        self._peers: dict[str, int] = {}
        self._router = self._bind(zmq.ROUTER, config.endpoint)
        self.events = Events(self._bind(zmq.PUB, config.events))
        self.engine = make_engine(self)
        self.metrics = self.engine.metrics
        self.metrics.info.labels(fastnl.__version__, config.instance).set(1)
        self._http = self._serve_http(config.http)
        self.queries = Queries(self.engine, config)
        self._asked: queue.SimpleQueue[tuple[Ticket, Any] | None] = queue.SimpleQueue()
        self._asker = threading.Thread(target=self._query_main, name="queries")
        self._asker.start()

    # -- sockets -------------------------------------------------------------------------------------

    def _bind(self, kind: int, endpoint: str) -> zmq.Socket[bytes]:
        """Binds; on an ipc path only under a lock, as a second bind would silently take the path over."""
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 500)
        # beyond what a request may have, so that most get an answer that says so; above, the peer is cut off
        socket.setsockopt(zmq.MAXMSGSIZE, 4 * wire.MAX_FRAME)
        if endpoint.startswith("ipc://") and not endpoint.startswith("ipc://@"):
            path = Path(endpoint.removeprefix("ipc://"))
            path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._locks.append(lock(path.with_name(path.name + ".lock"), f"the endpoint {endpoint}"))
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as e:
            raise InUse(f"cannot bind {endpoint}: {e}") from e
        return socket

    def _serve_http(self, address: str) -> Http | None:
        if not address:
            return None
        host, _, port = address.rpartition(":")
        try:
            return Http(
                (host.strip("[]"), int(port)), self.metrics, self.engine.refresh_metrics,
                lambda: "" if self.serving else "not serving yet",
                lambda: "" if self.engine.pipeline.alive else "a thread of the pipeline has ended",
            )  # fmt: skip
        except (OSError, ValueError, OverflowError) as e:
            raise InUse(f"http: cannot listen on {address!r}: {e}") from e

    def close(self) -> None:
        if self._http is not None:
            self._http.close()
        self._asked.put(None)
        self._asker.join()
        self.engine.stop()
        self._send_answers()
        self._router.close()
        self.events.close()
        self._context.term()
        for endpoint in (self.config.endpoint, self.config.events):
            if endpoint.startswith("ipc://") and not endpoint.startswith("ipc://@"):
                Path(endpoint.removeprefix("ipc://")).unlink(missing_ok=True)
        for fd in self._locks:
            os.close(fd)

    # -- the loop ------------------------------------------------------------------------------------

    def stop(self) -> None:
        self._stopping = True
        self.engine.pipeline.wake()

    def serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self.engine.pipeline.wakeup, zmq.POLLIN)
        namespaces = self.engine.upkeep.namespaces
        watched: set[int] = set()
        self.serving = True
        while not self._stopping:
            fds = set(namespaces.fds)
            for fd in watched - fds:
                poller.unregister(fd)
            for fd in fds - watched:
                poller.register(fd, zmq.POLLIN)
            watched = fds
            poller.poll(int(1000 * min(1.0, namespaces.timeout, self.engine.backoff.timeout)) + 1)
            self._take_requests()
            namespaces.turn()
            self.engine.turn()
            self._send_answers()
        self._finish()

    def _finish(self) -> None:
        """What is in the kernel is finished and answered, everything else refused."""
        self.serving = False
        error = {"code": "shutting_down", "message": "the engine is being stopped; interfaces stay as they are"}
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            self._take_requests()
            self.engine.refuse_backlog(error)
            self.engine.turn()
            self._send_answers()
            if self.engine.idle and not self._router.poll(0):
                break
            time.sleep(0.001)
        self._asked.put(None)
        self._asker.join()
        self._send_answers()

    def _take_requests(self) -> None:
        for _ in range(DRAIN):
            try:
                frames = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self._request([bytes(f.buffer) for f in frames], self._role_of(frames[-1]))

    def _role_of(self, frame: zmq.Frame) -> int:
        """What the sender may do; peers of one address are the same process."""
        try:
            address = str(frame.get("Peer-Address"))
        except zmq.ZMQError:
            address = ""
        role = self._peers.get(address)
        if role is None:
            if len(self._peers) > 4096:
                self._peers.clear()
            peer = peer_of(address)
            role = self._peers[address] = self._roles.of(peer[0], peer[1]) if peer else 0
        return role

    def _request(self, frames: list[bytes], role: int) -> None:
        # DEALER sends one frame, REQ puts an empty one before it; both get back what they sent
        address = frames[:2] if len(frames) > 2 and frames[1] == b"" else frames[:1]
        if len(frames) != len(address) + 1:
            error = wire.ProtocolError("bad_request", f"a request is one frame, not {len(frames) - len(address)}")
            self._answers.append((address, wire.refuse(error)))
            return
        try:
            request = wire.decode(frames[-1])
            op = wire.NAMES[type(request)]
            self.metrics.requests.labels(op).inc()
            if role < NEEDED[op]:
                raise wire.ProtocolError(
                    "forbidden", f"op: {op!r} is not for you; `roles` of the engine's configuration decides", request.id
                )
            self._dispatch(address, request)
        except wire.ProtocolError as e:
            self.metrics.refused.labels(e.code).inc()
            self._answers.append((address, wire.refuse(e)))
        except Exception as e:
            # nothing that a client sends may end the engine
            log.exception("request failed", op=frames[-1][:80])
            error = wire.ProtocolError("internal", f"{type(e).__name__}: {e}; please report this")
            self._answers.append((address, wire.refuse(error)))

    def _dispatch(self, address: list[bytes], request: wire.Request) -> None:
        match request:
            case wire.Connect():
                self._items(address, request.id, request.connections, lambda raw: _connect_job(raw, request.wait))
            case wire.Disconnect():
                self._items(address, request.id, request.ids, _disconnect_job)
            case wire.Move():
                self._items(address, request.id, request.moves, _move_job)
            case wire.Info() | wire.List():
                self._answers.append((address, self.queries.answer(request)))
            case wire.EventsSince():
                rows = [{"ok": True, "event": body} for body in self.events.since(request.since, request.limit)]
                bounds = {"run": self.events.run, "oldest": self.events.oldest, "newest": self.events.newest}
                self._answers.append((address, wire.reply(request.id, rows, **bounds)))
            case wire.Verify() | wire.Stats():
                # they read the kernel: on a thread of their own, with the records as they are now
                self._asked.put((Ticket(address, request.id, 0), self.queries.prepare(request)))

    def _items(
        self, address: list[bytes], id_: wire.RequestId, items: list[msgspec.Raw], make: Callable[[msgspec.Raw], Job]
    ) -> None:
        if len(items) > self.engine.queue:
            raise wire.ProtocolError("too_large", f"the queue takes {self.engine.queue} items, not {len(items)}", id_)
        if not self.engine.has_room(len(items)):
            raise wire.ProtocolError("busy", f"{self.engine.load} jobs are waiting; try again in a moment", id_)
        ticket = Ticket(address, id_, len(items))
        seen: set[str] = set()
        for place, raw in enumerate(items):
            try:
                job = make(raw)
                if job.id in seen:
                    raise fastnl.Conflict(f"id: {job.id!r} is there twice in one request", field="id")
            except (fastnl.FastnlError, msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError) as e:
                self.result(ticket, place, {"id": wire.id_in(raw), "ok": False, "error": _item_error(e)})
                continue
            seen.add(job.id)
            job.ticket, job.place = ticket, place
            self.engine.submit(job)
        if not items:
            self._answers.append((address, wire.reply(id_, [])))

    # -- results -------------------------------------------------------------------------------------

    def result(self, ticket: Ticket, place: int, result: dict[str, Any]) -> None:
        """One item is done; the reply goes when all are."""
        ticket.results[place] = result
        ticket.missing -= 1
        if ticket.missing == 0:
            self._answers.append((ticket.address, wire.reply(ticket.id, ticket.results)))

    def _query_main(self) -> None:
        while (asked := self._asked.get()) is not None:
            ticket, run = asked
            try:
                answer = wire.reply(ticket.id, run())
            except Exception as e:
                log.exception("query failed")
                answer = wire.refuse(wire.ProtocolError("internal", f"{type(e).__name__}: {e}", ticket.id))
            self._answers.append((ticket.address, answer))
            self.engine.pipeline.wake()

    def _send_answers(self) -> None:
        while self._answers:
            address, answer = self._answers.popleft()
            # a client that is gone or does not read loses its own replies; the engine does not wait for it
            with contextlib.suppress(zmq.Again, zmq.ZMQError):
                self._router.send_multipart([*address, answer], zmq.NOBLOCK)


def lock(path: Path, what: str) -> int:
    """Holds a lock file until its descriptor is closed.  Raises InUse when somebody else does."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(fd, 64, 0).decode(errors="replace").strip() or "?"
        os.close(fd)
        raise InUse(f"{what} belongs to another engine, pid {holder}") from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _connect_job(raw: msgspec.Raw, wait: bool) -> Job:
    connection = decode_connection(raw)
    values = values_of(connection)
    return Job("connect", connection.id, connection, values, encode(connection), wait=wait)


def _disconnect_job(raw: msgspec.Raw) -> Job:
    return Job("disconnect", wire.decode_text(raw))


def _move_job(raw: msgspec.Raw) -> Job:
    move = wire.decode_move(raw)
    return Job("move", move.id, move=move)


def _item_error(e: Exception) -> dict[str, Any]:
    if isinstance(e, fastnl.FastnlError):
        return e.as_dict()
    field, problem = wire.explain(e)
    error: dict[str, Any] = {"code": "invalid", "message": f"{field}: {problem}" if field else problem}
    return error | {"field": field} if field else error
