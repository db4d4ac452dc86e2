"""The later generation: the forwarder is one hop on the way from a client to an endpoint.

What a client asks of us we ask of the manager, as the next hop, and then join what the two sides were given.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

import grpc
import grpc.aio
import structlog
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp

import fastnl
from fastnl.netns import open_reference
from fastnl_engine.adapters.nsm.counters import Counts
from fastnl_engine.adapters.nsm.errors import Refused, answering, refuse
from fastnl_engine.adapters.nsm.gate import Call, Gate
from fastnl_engine.adapters.nsm.inodes import Inodes
from fastnl_engine.adapters.nsm.monitor import Feed, in_parts
from fastnl_engine.adapters.nsm.pb import (
    connection_pb2,
    connection_pb2_grpc,
    networkservice_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)
from fastnl_engine.adapters.nsm.pb.connection_pb2 import Connection, ConnectionEvent, Mechanism, PathSegment
from fastnl_engine.adapters.nsm.pb.crossconnect_pb2 import CrossConnect
from fastnl_engine.adapters.nsm.pb.networkservice_pb2 import NetworkServiceRequest
from fastnl_engine.adapters.nsm.plane import Plane
from fastnl_engine.adapters.nsm.policies import Tables
from fastnl_engine.adapters.nsm.relay import Relay
from fastnl_engine.adapters.nsm.settings import Settings
from fastnl_engine.adapters.nsm.tls import Complaint
from fastnl_engine.adapters.nsm.tls import channel as channel_to
from fastnl_engine.adapters.nsm.translate import KERNEL, LARGEST_VNI, VXLAN, Side, interface_name, path_mtu
from fastnl_engine.northbound.port import Port

PREFIX = "nsm/c/"
ANSWER = 15.0  # seconds that the next hop has, unless the one before us has less
CLOSING = 5.0  # seconds that it has to close
TRIES = 8  # VNIs that are tried when some are in use
AGAIN = 1.0  # seconds until the registry is tried again
LATER = 30.0  # seconds until what has expired and could not be closed is tried again

INODE_URL = re.compile(r"inode://\d+/(\d{1,19})", re.ASCII)

log = structlog.get_logger()


class Modern(networkservice_pb2_grpc.NetworkServiceServicer, connection_pb2_grpc.MonitorConnectionServicer):
    """A connection is known by the id of our segment of its path.

    Of each the plane keeps both sides: source is the connection as we have answered it, destination as the next hop
    has answered us.
    """

    def __init__(
        self, port: Port, inodes: Inodes, settings: Settings, way: Way, broken: Callable[[BaseException], None],
        tables: Tables, ended: Callable[[str], Callable[[str], None]],
    ) -> None:  # fmt: skip
        self._settings = settings
        self._ended = ended
        self._inodes = inodes
        self._way = way
        self._feed: Feed[ConnectionEvent] = Feed()
        self._expiries: dict[str, asyncio.TimerHandle] = {}
        self.plane = Plane(port, PREFIX, settings.modern, inodes, self._changed, broken, tables, lambda ids: None)

    def serve(self, gate: Gate) -> None:
        networkservice_pb2_grpc.add_NetworkServiceServicer_to_server(self, gate)
        connection_pb2_grpc.add_MonitorConnectionServicer_to_server(self, gate)

    async def begin(self) -> None:
        await self.plane.begin()
        for id_, cross in self.plane.known.items():
            self._expire(id_, cross)

    async def end(self) -> None:
        for timer in self._expiries.values():
            timer.cancel()
        await self.plane.end()

    # -- calls ---------------------------------------------------------------------------------------

    async def Request(self, request: NetworkServiceRequest, context: Call) -> Connection:
        async with answering(context, self._ended("NetworkService/Request")):
            ours = arrive(request.connection, self._settings.name)
            remaining = context.time_remaining()
            wait = ANSWER if remaining is None else min(ANSWER, remaining)
            return await self.plane.alone(
                ours.id, lambda: self._request(request, ours, wait), lambda: self._close(ours)
            )
        raise AssertionError("answering ends what it keeps from raising")

    async def Close(self, request: Connection, context: Call) -> Empty:
        async with answering(context, self._ended("NetworkService/Close")):
            ours = arrive(request, self._settings.name)
            await self.plane.alone(ours.id, lambda: self._close(ours))
        return Empty()

    async def MonitorConnections(
        self, request: connection_pb2.MonitorScopeSelector, context: Call
    ) -> AsyncIterator[ConnectionEvent]:
        def chosen(connections: Iterable[Connection]) -> dict[str, Connection]:
            return {c.id: c for c in connections if selects(request, c)}

        def initial() -> Iterator[ConnectionEvent]:
            kind = connection_pb2.INITIAL_STATE_TRANSFER
            for part in in_parts(list(self.plane.known)):
                part_now = chosen(self._as_it_is(id_) for id_ in part if id_ in self.plane.known)
                yield ConnectionEvent(type=kind, connections=part_now)
                kind = connection_pb2.UPDATE

        async with (
            answering(context, self._ended("MonitorConnection")),
            contextlib.aclosing(self._feed.subscribe(initial)) as events,
        ):
            async for event in events:
                picked = chosen(event.connections.values())
                if picked or event.type == connection_pb2.INITIAL_STATE_TRANSFER:
                    yield ConnectionEvent(type=event.type, connections=picked)

    # -- one connection ------------------------------------------------------------------------------

    async def _request(self, request: NetworkServiceRequest, ours: Connection, wait: float) -> Connection:
        was = self.plane.known.get(ours.id)
        if was is not None and ours.state == connection_pb2.RESELECT_REQUESTED:
            with contextlib.suppress(grpc.aio.AioRpcError):  # it may be gone, which is why another is wanted
                await self._close(ours)
            was = None
        ours.state = connection_pb2.UP
        client = ours.path.path_segments[ours.path.index - 1]
        if client.HasField("expires") and client.expires.ToMicroseconds() <= time.time() * 1e6:
            raise Refused({"code": "expired", "message": f"the token of {client.name!r} has expired"})
        # the next hop drops what expires, too, and ours cannot outlive the client's
        own = ours.path.path_segments[ours.path.index]
        own.expires.CopyFrom(_in(self._settings.lifetime))
        if client.HasField("expires") and client.expires.ToMicroseconds() < own.expires.ToMicroseconds():
            own.expires.CopyFrom(client.expires)
        ours.mechanism.CopyFrom(self._mechanism(ours, request.mechanism_preferences))
        if ours.mechanism.type == VXLAN:
            self._offer_tunnel(ours, was)
        answered = await self._ask_next(ours, was, wait)
        try:
            cross = await self._wire(ours, answered)
        except Refused:
            if was is None:  # the endpoint must not go on with what is not there
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await self._next().Close(answered, timeout=CLOSING)
            raise
        self._expire(ours.id, cross)
        seen = self._as_it_is(ours.id)
        self._tell(connection_pb2.UPDATE, seen)
        return leave(seen)

    async def _close(self, ours: Connection) -> None:
        """Closes at the next hop and here; what the next hop refuses is raised when it is done here."""
        was = self.plane.known.get(ours.id)
        # what was asked for last is what there is, whatever the one who closes remembers
        problem: grpc.aio.AioRpcError | None = None
        stub = self._way.stub
        if was is not None and stub is not None:
            try:
                await self._pass_on(was.destination.mechanism)
                await stub.Close(was.destination, timeout=CLOSING)
            except grpc.aio.AioRpcError as e:
                problem = e
        await self.plane.unwire(ours.id)
        timer = self._expiries.pop(ours.id, None)
        if timer is not None:
            timer.cancel()
        if was is not None:
            self._tell(connection_pb2.DELETE, was.source)
        if problem is not None:
            raise problem

    def _mechanism(self, ours: Connection, preferences: Sequence[Mechanism]) -> Mechanism:
        """What the client's side shall be: what it has already, or the first that it would like and we can do."""
        wanted = [ours.mechanism] if ours.mechanism.type else list(preferences)
        able = (*KERNEL, VXLAN) if self._settings.tunnel_ip else KERNEL
        for mechanism in wanted:
            if mechanism.type in able:
                chosen = Mechanism()
                chosen.CopyFrom(mechanism)
                if chosen.type in KERNEL and not chosen.parameters.get("name"):
                    chosen.parameters["name"] = interface_name(ours.network_service, ours.id)
                return chosen
        kinds = ", ".join(m.type or "?" for m in wanted) or "none"
        raise refuse("unsupported", "mechanism_preferences", f"{kinds}; here there are {', '.join(able)}")

    def _offer_tunnel(self, ours: Connection, was: CrossConnect | None) -> None:
        """The client is on another host: our end of the tunnel, and its number, which is ours to choose."""
        parameters = ours.mechanism.parameters
        parameters["dst_ip"] = self._settings.tunnel_ip
        parameters["dst_port"] = str(self._settings.modern.port)
        before = was.source.mechanism if was is not None else Mechanism()
        if before.type == VXLAN and before.parameters.get("src_ip") == parameters.get("src_ip"):
            parameters["vni"] = before.parameters["vni"]
        else:
            parameters["vni"] = str(self._new_vni(parameters.get("src_ip", "")))

    def _new_vni(self, theirs: str) -> int:
        # each side of two hosts that choose for one another has the even or the odd ones to itself
        odd = int(theirs > self._settings.tunnel_ip)
        return random.randrange(2, LARGEST_VNI - 1) // 2 * 2 + odd

    async def _ask_next(self, ours: Connection, was: CrossConnect | None, wait: float) -> Connection:
        """Asks the next hop for the rest of the way; gives the connection as that has answered it."""
        asked = Connection()
        asked.CopyFrom(ours)
        asked.ClearField("mechanism")
        kernel = Mechanism(cls="LOCAL", type="KERNEL")
        preferences = [kernel]
        if was is not None:
            asked.mechanism.CopyFrom(was.destination.mechanism)
        if self._settings.tunnel_ip and ours.mechanism.type in KERNEL:
            parameters = {"src_ip": self._settings.tunnel_ip, "src_port": str(self._settings.modern.port)}
            preferences.append(Mechanism(cls="REMOTE", type=VXLAN, parameters=parameters))
        tunnel = ours.mechanism if ours.mechanism.type == VXLAN else asked.mechanism
        mtu = self._tunnel_mtu(tunnel) if tunnel.type == VXLAN else 0
        if mtu:
            asked.context.mtu = min(mtu, asked.context.mtu or mtu)
        request = NetworkServiceRequest(connection=asked, mechanism_preferences=preferences)
        stub = self._next()
        await self._pass_on(asked.mechanism)
        answered: Connection = await stub.Request(request, timeout=wait)
        return answered

    async def _wire(self, ours: Connection, answered: Connection) -> CrossConnect:
        """Joins the client's side and what the next hop has answered."""
        cross = CrossConnect(id=ours.id, payload=answered.payload or "IP", source=ours, destination=answered)
        source, destination = cross.source, cross.destination
        for field in ("context", "labels", "network_service_endpoint_name", "network_service", "payload"):
            source.ClearField(field)
        source.context.CopyFrom(answered.context)
        source.network_service_endpoint_name = answered.network_service_endpoint_name
        source.network_service, source.payload = answered.network_service, answered.payload
        source.labels.update(answered.labels)
        source.path.path_segments.extend(answered.path.path_segments[len(source.path.path_segments) :])
        if destination.mechanism.type in KERNEL and not destination.mechanism.parameters.get("name"):
            destination.mechanism.parameters["name"] = interface_name(ours.network_service, ours.id)
        tunnel = next((m for m in (source.mechanism, destination.mechanism) if m.type == VXLAN), None)
        mtu = self._tunnel_mtu(tunnel) if tunnel is not None else 0
        if tunnel is not None and mtu:
            tunnel.parameters["MTU"] = str(mtu)
            source.context.mtu = min(mtu, source.context.mtu or mtu)
        for tries_left in reversed(range(TRIES)):
            try:
                await self.plane.wire(
                    cross.id,
                    Side(source.mechanism, source.context, True, "mechanism"),
                    Side(destination.mechanism, source.context, False, "mechanism"),
                    cross,
                )
                break
            except Refused as e:
                # the number is ours to choose only where the client is on another host
                if e.error["code"] != "vni_in_use" or source.mechanism.type != VXLAN or not tries_left:
                    raise
                parameters = source.mechanism.parameters
                parameters["vni"] = str(self._new_vni(parameters.get("src_ip", "")))
        return cross

    def _tunnel_mtu(self, tunnel: Mechanism) -> int:
        """What both sides of a tunnel can carry; 0: nobody knows."""
        text = tunnel.parameters.get("MTU", "")
        known = [int(text)] if text.isascii() and text.isdigit() and len(text) < 6 and int(text) else []
        if self._settings.mtu:
            known.append(path_mtu(self._settings.mtu, self._settings.tunnel_ip))
        return min(known, default=0)

    def _next(self) -> networkservice_pb2_grpc.NetworkServiceStub:
        stub = self._way.stub
        if stub is None:
            raise Refused({
                "code": "no_manager",
                "message": "no next hop is known; set NSM_CONNECT_TO to the manager's URL",
            })  # fmt: skip
        return stub

    async def _pass_on(self, mechanism: Mechanism) -> None:
        """The next hop wants a descriptor with each inode that it is told of, also of those that came from it."""
        number = INODE_URL.fullmatch(mechanism.parameters.get("inodeURL", ""))
        if not self._way.passes_descriptors or number is None:
            return
        reference = await self._inodes.reference(int(number[1]))
        if reference is not None:
            with contextlib.suppress(fastnl.FastnlError):  # it has gone meanwhile
                self._way.send(open_reference(reference))

    # -- what happens by itself ----------------------------------------------------------------------

    def _expire(self, id_: str, cross: CrossConnect) -> None:
        """Has it closed when the token of the one before us expires without a refresh."""
        timer = self._expiries.pop(id_, None)
        if timer is not None:
            timer.cancel()
        path = cross.source.path
        client = path.path_segments[path.index - 1]
        if client.HasField("expires"):
            left = client.expires.ToMicroseconds() / 1e6 - time.time()
            loop = asyncio.get_running_loop()
            self._expiries[id_] = loop.call_later(max(left, 0.0), self._expired, id_, cross)

    def _expired(self, id_: str, cross: CrossConnect) -> None:
        async def close() -> None:
            async with self.plane.turn(id_):
                if self.plane.known.get(id_) is not cross:
                    return  # it was refreshed, or closed, at the last moment
                log.info("expired", id=id_)
                try:
                    await self._close(cross.source)
                except grpc.aio.AioRpcError as e:
                    log.warning("what has expired could not be closed at the next hop", id=id_, reason=str(e.details()))
                except Refused as e:
                    log.warning("what has expired could not be closed", id=id_, reason=str(e))
                    self._expiries[id_] = asyncio.get_running_loop().call_later(LATER, self._expired, id_, cross)

        self.plane.spawn(close(), alone=True)

    def _changed(self, id_: str) -> None:
        self._tell(connection_pb2.UPDATE, self._as_it_is(id_))

    def _as_it_is(self, id_: str) -> Connection:
        seen = Connection()
        seen.CopyFrom(self.plane.known[id_].source)
        seen.state = connection_pb2.DOWN if id_ in self.plane.down else connection_pb2.UP
        own = seen.path.path_segments[seen.path.index]
        own.ClearField("metrics")
        alone = "client" if seen.mechanism.type == VXLAN else "server"
        for side, counts in zip((alone, "client"), self.plane.counts.get(id_, ()), strict=False):
            own.metrics.update(_metrics(side, counts) if counts is not None else {})
        return seen

    def _tell(self, kind: connection_pb2.ConnectionEventType, connection: Connection) -> None:
        if self._feed.followed:
            self._feed.publish(ConnectionEvent(type=kind, connections={connection.id: connection}))


def _metrics(side: str, counts: Counts) -> dict[str, str]:
    """As the forwarder sees them: it receives what the interface sends.  `server` is towards the client."""
    ours = {f"{there}_{what}": counts[f"{here}_{what}"] for there, here in (("rx", "tx"), ("tx", "rx"))
            for what in ("bytes", "packets")}  # fmt: skip
    return {f"{side}_{name}": str(count) for name, count in (*ours.items(), ("drops", counts["dropped"]))}


class Way:
    """To the next hop; by a Unix socket descriptors come and go along with the messages.

    place   path for a socket of ours
    passed  called with the descriptors that come
    """

    def __init__(self, settings: Settings, place: str, passed: Callable[[int], None]) -> None:
        self._stub: networkservice_pb2_grpc.NetworkServiceStub | None = None
        self._tls = settings.tls
        self._stamp: tuple[int, ...] = ()  # of the papers that the channel has
        self._closing: set[asyncio.Task[None]] = set()
        self._relay: Relay | None = None
        self._listening: socket.socket | None = None
        self._channel: grpc.aio.Channel | None = None
        self._place = place
        target = settings.manager
        if not target:
            return
        if target.startswith("unix:"):
            self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(place)
            self._listening.bind(place)
            self._listening.listen()
            self._relay = Relay(self._listening, target.removeprefix("unix:"), passed)
            target = f"unix:{place}"
        self._target = target
        self._dial()

    def _dial(self) -> None:
        stamp = self._tls.stamp() if self._tls is not None else ()
        self._channel = channel_to(self._target, self._tls)
        self._stub = networkservice_pb2_grpc.NetworkServiceStub(self._channel)
        self._stamp = stamp

    @property
    def stub(self) -> networkservice_pb2_grpc.NetworkServiceStub | None:
        """None: there is no next hop."""
        old = self._channel
        if self._tls is not None and old is not None:
            # a channel keeps the papers that it began with, also when it has to connect again
            with contextlib.suppress(OSError):
                if self._tls.stamp() != self._stamp:
                    self._dial()
                    closing = asyncio.create_task(old.close(ANSWER))
                    self._closing.add(closing)
                    closing.add_done_callback(self._closing.discard)
        return self._stub

    @property
    def passes_descriptors(self) -> bool:
        return self._relay is not None

    def send(self, fd: int) -> None:
        assert self._relay is not None
        self._relay.send(fd)

    async def close(self) -> None:
        for closing in self._closing:
            closing.cancel()
        if self._channel is not None:
            await self._channel.close()
        if self._relay is not None and self._listening is not None:
            self._relay.close()
            self._listening.close()
            os.unlink(self._place)


# -- the path ----------------------------------------------------------------------------------------


def arrive(connection: Connection, name: str) -> Connection:
    """A connection as the one before us has sent it, turned into ours: the path leads on to us.

    Our id follows from that of the one before us, so that asking again, also after a restart, finds the same one.
    Raises Refused.
    """
    path = connection.path
    if not connection.id:
        raise refuse("invalid", "connection.id", "is empty")
    if not path.path_segments:
        raise refuse("invalid", "connection.path", "has no segments")
    if path.index >= len(path.path_segments):
        raise refuse("invalid", "connection.path.index", f"{path.index}; there are {len(path.path_segments)} segments")
    before = path.path_segments[path.index]
    if before.id != connection.id:
        raise refuse("invalid", "connection.id", f"{connection.id!r} is not that of its path segment, {before.id!r}")
    ours = Connection()
    ours.CopyFrom(connection)
    ours.id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{name}/{before.name}/{before.id}"))
    ours.path.index += 1
    segments = ours.path.path_segments
    if ours.path.index == len(segments) or segments[ours.path.index].id != ours.id:
        # what lies beyond is another way
        del segments[ours.path.index :]
        segments.append(PathSegment(name=name, id=ours.id))
    return ours


def leave(ours: Connection) -> Connection:
    """Back to the one before us: the connection as its own."""
    back = Connection()
    back.CopyFrom(ours)
    back.path.index -= 1
    back.id = back.path.path_segments[back.path.index].id
    return back


def selects(selector: connection_pb2.MonitorScopeSelector, connection: Connection) -> bool:
    """Whether the segments of the selector are a run in the connection's path; what is empty in one matches all."""
    if selector.network_services and connection.network_service not in selector.network_services:
        return False
    wanted, have = selector.path_segments, connection.path.path_segments

    def fits(want: PathSegment, segment: PathSegment) -> bool:
        return all(getattr(want, f) in ("", getattr(segment, f)) for f in ("name", "id", "token"))

    return any(
        all(fits(want, have[start + i]) for i, want in enumerate(wanted))
        for start in range(len(have) - len(wanted) + 1)
    )


async def keep_registered(settings: Settings) -> None:
    """Is an endpoint of the forwarder service, until cancelled."""
    url = f"unix://{settings.reached_at}" if settings.listen.startswith("unix:") else f"tcp://{settings.reached_at}"
    endpoint = registry_pb2.NetworkServiceEndpoint(
        name=settings.name, network_service_names=[settings.service], url=url,
        network_service_labels={settings.service: registry_pb2.NetworkServiceLabels(labels={"p2p": "true"})},
    )  # fmt: skip
    complaint = Complaint("the registry is away", registry=settings.manager)
    while True:
        try:
            # anew after each failure, as a channel keeps the certificates that it began with; their files may just
            # be being replaced, one by one
            async with channel_to(settings.manager, settings.tls) as channel:
                await _register(channel, endpoint, settings, complaint)
        except (grpc.aio.AioRpcError, OSError) as e:
            complaint.of(e)
        await asyncio.sleep(AGAIN)


async def _register(
    channel: grpc.aio.Channel, endpoint: registry_pb2.NetworkServiceEndpoint, settings: Settings, complaint: Complaint
) -> None:
    """Until the registry cannot be reached, which is raised."""
    stub = registry_pb2_grpc.NetworkServiceEndpointRegistryStub(channel)
    try:
        while True:
            endpoint.expiration_time.CopyFrom(_in(settings.lifetime))
            registered = await stub.Register(endpoint, timeout=ANSWER)
            complaint.over()
            endpoint.name = registered.name or endpoint.name
            log.info("registered", registry=settings.manager, name=endpoint.name)
            granted = registered.expiration_time.ToMicroseconds() / 1e6 - time.time()
            lifetime = min(settings.lifetime, granted or settings.lifetime)
            with contextlib.suppress(TimeoutError):
                # a registry that was away may have forgotten us
                async with asyncio.timeout(max(AGAIN, lifetime / 3)):
                    await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
    except asyncio.CancelledError:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await stub.Unregister(endpoint, timeout=2)
        raise


def _in(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(int((time.time() + seconds) * 1e6))
    return stamp
