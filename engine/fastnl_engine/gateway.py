"""The sockets: requests in, replies and events out.

One thread owns every socket.  It decodes and answers; the kernel and the disk are other threads' business.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
import zmq

import fastnl
from fastnl_engine import wire
from fastnl_engine.auth import NEEDED, Roles, forget_groups, peer_of
from fastnl_engine.config import Config
from fastnl_engine.curve import read_secret
from fastnl_engine.door import HANDSHAKE, Door
from fastnl_engine.engine import Engine
from fastnl_engine.events import Events
from fastnl_engine.jobs import ITEM_ERRORS, connect_job, disconnect_job, item_error, move_job
from fastnl_engine.kv.base import KV
from fastnl_engine.kv_requests import KvRequests
from fastnl_engine.listeners import Listeners
from fastnl_engine.looplane import LoopLane
from fastnl_engine.metrics import Http
from fastnl_engine.nearby import Nearby
from fastnl_engine.northbound.dependents import Attendance, Step, TooManyConsumers
from fastnl_engine.northbound.grounds import Grounds
from fastnl_engine.peers import Peer, Peers
from fastnl_engine.planner import Job
from fastnl_engine.queries import Lane, Queries, Question
from fastnl_engine.requestlog import Asked, RequestLog, who_is

if TYPE_CHECKING:
    from fastnl_engine.fleet.door import Door as FleetDoor

log = structlog.get_logger()

FINISH = 3.0  # seconds that a stop waits for the kernel's work; then it takes what a cycle takes
LINGER = 1000  # ms for what has been answered to leave the engine, once in its own queue and once in ZeroMQ's
DRAIN = 256  # requests taken in a row before results go out again
DRAIN_SECONDS = 0.01  # and the time for it, as one request may be as much work as hundreds
FIRST_SECONDS = 0.002  # the same while no cycle waits for the kernel, which may have nothing to do in a moment
LANE = 64  # questions of one kind that may wait
KEYS = 256  # requests of keys that may; most of them are watches, which cost nothing
ARRIVED = 16  # requests of one client that ZeroMQ takes in beforehand; each may be as large as a request may be
SUBSCRIPTION = 4096  # bytes of a subscription; ZeroMQ remembers it in some fifty times as many


class Ticket:
    """A request on its way: where its reply goes and which results are still missing.

    route  the frames that lead its reply back
    lane   that a question waits in
    """

    __slots__ = ("asked", "id", "lane", "missing", "peer", "results", "route")

    def __init__(self, peer: Peer, route: list[bytes], asked: Asked) -> None:
        self.peer = peer
        self.route = route
        self.asked = asked
        self.id: wire.RequestId = None
        self.lane: Lane | LoopLane | None = None
        self.results: list[Any] = []
        self.missing = 0


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
        self.each_turn: Callable[[], None] = lambda: None  # called on the thread that serves
        self._answers: deque[tuple[Ticket, bytes]] = deque()
        self._answered: deque[Ticket] = deque()  # those of jobs that the log does not know of yet
        self.requests = RequestLog(config.log_level)
        self._roles = Roles.parse(config.roles)
        self._senders: dict[str, tuple[int, str]] = {}
        self._listeners = Listeners()
        secret = read_secret(config.curve_secret) if config.tcp or config.tcp_events else ""
        self._door = Door(self._context, secret, lambda: self._roles)
        self._routers = [self._bind(zmq.ROUTER, endpoint) for endpoint in (config.endpoint, config.tcp) if endpoint]
        self.events = Events([self._bind(zmq.PUB, where) for where in (config.events, config.tcp_events) if where])
        self.engine = make_engine(self)
        self.engine.send_answers = self._send_answers
        self.metrics = self.engine.metrics
        self.metrics.info.labels(fastnl.__version__, config.instance).set(1)
        self._http = self._serve_http(config.http)
        self.queries = Queries(self.engine, self.events, config)
        self.peers = Peers(self.metrics.replies_lost.inc)
        self._listeners.start()
        # what is known is told at once, though somebody else may be having the kernel read
        self._memory, self._kernel = (Lane(name, self.answered) for name in ("memory", "queries"))
        self.kv: KvRequests | None = None
        self.fleet: FleetDoor | None = None
        self.attendance = Attendance(time.monotonic, on_late=_too_slow)
        self.grounds = Grounds(self.engine, self.attendance)
        self._nearby = Nearby(self.engine, self.grounds)
        self._attending: dict[Ticket, None] = {}

    # -- sockets -------------------------------------------------------------------------------------

    def _bind(self, kind: int, endpoint: str) -> zmq.Socket[bytes]:
        """Binds; on an ipc path only under a lock, as a second bind would silently take the path over."""
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, LINGER)
        # beyond what a request may have, so that most get an answer that says so; above, the peer is cut off
        socket.setsockopt(zmq.MAXMSGSIZE, 4 * wire.MAX_FRAME if kind == zmq.ROUTER else SUBSCRIPTION)
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE)
        if kind == zmq.ROUTER:
            socket.setsockopt(zmq.RCVHWM, ARRIVED)
            Peers.prepare(socket)
        if endpoint.startswith("tcp://"):
            self._door.lock(socket, ipv6="[" in endpoint)
        elif kind == zmq.PUB:
            self._door.guard(socket)
        if endpoint.startswith("ipc://") and not endpoint.startswith("ipc://@"):
            path = Path(endpoint.removeprefix("ipc://"))
            path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._locks.append(lock(path.with_name(path.name + ".lock"), f"the endpoint {endpoint}"))
        self._listeners.add(socket)
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
        self._stop_lanes()
        self.engine.stop()
        self._send_answers()
        self.peers.finish(LINGER / 1000)
        self.requests.flush()
        self._listeners.close()
        for router in self._routers:
            router.close()
        self.events.close()
        self._door.close()
        self._nearby.close()
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

    def take_settings(self, config: Config, roles: Roles) -> None:
        """Puts changed roles, log level and queue into force, from the next request on."""
        self._roles = roles
        self._senders.clear()
        forget_groups()
        self.requests.level = getattr(logging, config.log_level.upper())
        self.engine.queue = config.queue
        self.engine.tell("reloaded")

    def offer_keys(self, kv: KV, loop: asyncio.AbstractEventLoop) -> None:
        """Lets clients have the keys of a store that is used from `loop`, which has to run for longer than this."""
        self.kv = KvRequests(kv, loop, self.answered)

    def serve(self) -> None:
        poller = zmq.Poller()
        for router in self._routers:
            poller.register(router, zmq.POLLIN)
        poller.register(self._door.socket, zmq.POLLIN)
        poller.register(self.engine.pipeline.wakeup, zmq.POLLIN)
        namespaces = self.engine.upkeep.namespaces
        poller.register(namespaces, zmq.POLLIN)
        poller.register(self._nearby, zmq.POLLIN)
        self.serving = True
        self.engine.tell("serving")
        while not self._stopping:
            self.each_turn()
            due = min(
                1.0, namespaces.timeout, self._nearby.timeout, self.engine.backoff.timeout, self.peers.timeout,
                self.attendance.timeout,
            )  # fmt: skip
            self.engine.send()
            ready = dict(poller.poll(int(1000 * due) + 1))
            if self.engine.pipeline.wakeup in ready:
                self.engine.book()  # first, as somebody waits for it
            if self._door.socket in ready:
                self._door.turn()
            self._take_requests([router for router in self._routers if router in ready])
            namespaces.turn(namespaces.fileno() in ready)
            self._nearby.turn(self._nearby.fileno() in ready)
            self.engine.plan()
            self.grounds.turn()
            self.attendance.turn()
            self._send_answers()
            self.requests.flush()
        self._finish()

    def _finish(self) -> None:
        """What is in the kernel is finished and answered, everything else refused."""
        self.serving = False
        self.engine.tell("stopping")
        error = {"code": "shutting_down", "message": "the engine is being stopped; interfaces stay as they are"}
        deadline = time.monotonic() + FINISH
        while time.monotonic() < deadline:
            self._take_requests(self._routers)
            self.engine.refuse_backlog(error)
            self.engine.turn()
            self._send_answers()
            if self.engine.idle and not any(router.poll(0) for router in self._routers):
                break
            time.sleep(0.001)
        if self.fleet is not None:
            self.fleet.give_up()
        for ticket in (*self._stop_lanes(), *self._attending):
            self.answered(ticket, wire.refuse(wire.ProtocolError(error["code"], error["message"], ticket.id)))
        self._send_answers()

    def _stop_lanes(self) -> list[Ticket]:
        """The questions that they did not come to."""
        lanes = (self._memory, self._kernel, self.kv, self.fleet)
        return [ticket for lane in lanes if lane is not None for ticket in lane.stop()]

    def _take_requests(self, routers: Iterable[zmq.Socket[bytes]]) -> None:
        for router in routers:
            # two milliseconds make a cycle that lasts for longer, so the kernel need not wait for the next one either
            until = time.monotonic() + (DRAIN_SECONDS if self.engine.pipeline.waiting else FIRST_SECONDS)
            with contextlib.suppress(zmq.Again):
                for _ in range(DRAIN):
                    if time.monotonic() > until:
                        break
                    frames = router.recv_multipart(zmq.NOBLOCK, copy=False)
                    sender = self._sender_of(frames[-1], over_tcp=router is not self._routers[0])
                    self._request(router, [bytes(f.buffer) for f in frames], *sender)

    def _sender_of(self, frame: zmq.Frame, *, over_tcp: bool) -> tuple[int, str]:
        """What the sender may do, and who it is; peers of one ipc address are the same process."""
        if over_tcp:
            # the door has asked for the key; over ipc a peer may claim to be any User-Id
            who = _told_of(frame, "User-Id")
            return self._roles.keys.get(who.removeprefix("key:"), 0), who
        address = _told_of(frame, "Peer-Address")
        sender = self._senders.get(address)
        if sender is None:
            peer = peer_of(address)
            if peer is None:
                return 0, ""
            if len(self._senders) > 4096:
                self._senders.clear()
            sender = self._senders[address] = self._roles.of(peer[0], peer[1]), who_is(peer[0], peer[2])
        return sender

    def _request(self, router: zmq.Socket[bytes], frames: list[bytes], role: int, who: str) -> None:
        # DEALER sends one frame, REQ puts an empty one before it; both get back what they sent
        route = frames[:2] if len(frames) > 2 and frames[1] == b"" else frames[:1]
        ticket = Ticket(self.peers.asks(router, frames[0]), route, Asked("", who))
        try:
            if len(frames) != len(route) + 1:
                raise wire.ProtocolError("bad_request", f"a request is one frame, not {len(frames) - len(route)}")
            request = wire.decode(frames[-1])
            ticket.id = request.id
            ticket.asked.op = op = wire.name_of(request)
            self.metrics.requests.add(op)
            if role < NEEDED[op]:
                raise wire.ProtocolError(
                    "forbidden", f"op: {op!r} is not for you; `roles` of the engine's configuration decides", request.id
                )
            busy = self.peers.too_much(ticket.peer, question=isinstance(request, Question | wire.Kv | wire.Fleet))
            if busy:
                raise wire.ProtocolError("busy", busy, request.id)
            self._dispatch(ticket, request)
        except wire.ProtocolError as e:
            self.metrics.refused.labels(e.code).inc()
            self.requests.refused(ticket.asked, e.id, e.code, e.message)
            self._answers.append((ticket, wire.refuse(e)))
        except Exception as e:
            # nothing that a client sends may end the engine
            log.exception("request failed", op=ticket.asked.op, client=who, frame=frames[-1][:80])
            error = wire.ProtocolError("internal", f"{type(e).__name__}: {e}; please report this")
            self._answers.append((ticket, wire.refuse(error)))

    def _dispatch(self, ticket: Ticket, request: wire.Request) -> None:
        match request:
            case wire.Connect():
                fleet = self.fleet is not None
                self._items(ticket, request.connections, lambda raw: connect_job(raw, request.wait, fleet=fleet))
            case wire.Disconnect():
                self._items(ticket, request.ids, disconnect_job)
            case wire.Move():
                self._items(ticket, request.moves, move_job)
            case wire.Info():
                fleets = {"fleet": self.fleet.info if self.fleet is not None else None}
                ticket.results = [{"ok": True, **self.queries.info(), **fleets}]
                self._answer(ticket)
            case wire.List(ids=list(ids)) if self.fleet is not None and (missing := self._not_here(ids)):
                self._wait_in(self.fleet, ticket, LANE)
                self.fleet.put(ticket, self.fleet.prepare_list(request, missing, self.queries.prepare(request)))
            case wire.List() | wire.EventsSince():
                self._wait_in(self._memory, ticket, LANE)
                self._memory.put(ticket, self.queries.prepare(request))
            case wire.Verify() | wire.Stats():
                self._wait_in(self._kernel, ticket, LANE)
                self._kernel.put(ticket, self.queries.prepare(request))
            case wire.Attend():
                self._attend(ticket, request)
            case wire.Fleet():
                if self.fleet is None:
                    raise wire.ProtocolError(
                        "no_fleet",
                        "this engine is in no fleet; `endpoints` of [fleet] in its configuration joins one",
                        request.id,
                    )
                asked = self.fleet.prepare(request)
                self._wait_in(self.fleet, ticket, LANE)
                self.fleet.put(ticket, asked)
            case wire.Kv():
                if self.kv is None:
                    raise wire.ProtocolError(
                        "no_store", 'this engine keeps no keys; [ligato] store = "embedded" in its configuration is '
                        "what makes it", request.id,
                    )  # fmt: skip
                question = self.kv.prepare(request)
                self._wait_in(self.kv, ticket, KEYS)
                self.kv.put(ticket, question)

    def _not_here(self, ids: list[str]) -> list[str]:
        return [id_ for id_ in dict.fromkeys(ids) if id_ not in self.engine.records]

    def _attend(self, ticket: Ticket, request: wire.Attend) -> None:
        """A long poll: answered from within a later turn, or right now."""

        def answer(steps: list[Step], anew: bool) -> None:
            self._attending.pop(ticket, None)
            reply = wire.reply(ticket.id, [step.as_dict() for step in steps], anew=anew)
            self.requests.done(ticket.asked, ticket.id, ())
            self._answers.append((ticket, reply))

        if request.leave:
            self.attendance.leave(request.consumer)
            answer([], False)
            return
        self._attending[ticket] = None
        try:
            self.attendance.attend(request.consumer, request.done, request.wait, answer)
        except TooManyConsumers as e:
            del self._attending[ticket]
            raise wire.ProtocolError("busy", str(e), request.id) from None

    def _wait_in(self, lane: Lane | LoopLane, ticket: Ticket, most: int) -> None:
        if lane.waiting >= most:
            raise wire.ProtocolError("busy", f"{lane.waiting} questions are waiting; try again in a moment", ticket.id)
        ticket.lane = lane
        lane.waiting += 1
        ticket.peer.questions += 1

    def _items(self, ticket: Ticket, items: list[msgspec.Raw], make: Callable[[msgspec.Raw], Job]) -> None:
        count, peer = len(items), ticket.peer
        if count > self.engine.queue:
            raise wire.ProtocolError("too_large", f"the queue takes {self.engine.queue} items, not {count}", ticket.id)
        # as many as the client has waiting have to fit in once more, so that nobody takes all the room
        away = self.fleet.load if self.fleet is not None else 0
        if not self.engine.has_room(away + peer.jobs + count):
            raise wire.ProtocolError(
                "busy",
                f"{self.engine.load + away} jobs wait, {peer.jobs} of them yours; try again in a moment",
                ticket.id,
            )
        ticket.results = [None] * count
        ticket.missing = count
        peer.jobs += count
        seen: set[str] = set()
        for place, raw in enumerate(items):
            try:
                job = make(raw)
                if job.id in seen:
                    raise fastnl.Conflict(f"id: {job.id!r} is there twice in one request", field="id")
                job.ticket, job.place, job.client = ticket, place, peer
                if self.fleet is not None:
                    job = self.fleet.route(job)
            except ITEM_ERRORS as e:
                self.result(ticket, place, {"id": wire.id_in(raw), "ok": False, "error": item_error(e)})
                continue
            seen.add(job.id)
            self.engine.submit(job)
        if not items:
            self._answer(ticket)

    # -- results -------------------------------------------------------------------------------------

    def result(self, ticket: Ticket, place: int, result: dict[str, Any]) -> None:
        """One item is done; the reply goes when all are."""
        ticket.results[place] = result
        ticket.missing -= 1
        ticket.peer.jobs -= 1
        if ticket.missing == 0:
            self._answer(ticket)

    def _answer(self, ticket: Ticket) -> None:
        self._answers.append((ticket, wire.reply(ticket.id, ticket.results)))
        self._answered.append(ticket)

    def answered(self, ticket: Ticket, reply: bytes) -> None:
        """A question has its answer.  On the thread of its lane."""
        self.requests.done(ticket.asked, ticket.id, ())
        self._answers.append((ticket, reply))
        self.engine.pipeline.wake()

    def tell(self, event: str, fields: dict[str, Any], of: str = "connection") -> None:
        """Something happened: for subscribers, and what failed for the log."""
        self.events.publish(event, fields, of)
        if event == "failed":
            self.requests.connection_failed(fields["id"], fields.get("error", {"message": fields.get("reason", "")}))

    def _send_answers(self) -> None:
        while self._answers:
            ticket, reply = self._answers.popleft()
            if ticket.lane is not None:
                ticket.lane.waiting -= 1
                ticket.peer.questions -= 1
            self.peers.send(ticket.peer, ticket.route, reply)
        self.peers.turn()
        # nobody waits for what follows
        while self._answered:
            ticket = self._answered.popleft()
            for code, count in self.requests.done(ticket.asked, ticket.id, ticket.results).items():
                self.metrics.results.add(ticket.asked.op, code, by=count)


def _too_slow(consumer: str, ground: tuple[str, str]) -> None:
    netns, ifname = ground
    log.warning("consumer did not let go in time", consumer=consumer, netns=netns, ifname=ifname)


def _told_of(frame: zmq.Frame, name: str) -> str:
    """What ZeroMQ knows of the peer that sent a frame; "" if nothing."""
    try:
        return str(frame.get(name))
    except zmq.ZMQError:
        return ""


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
