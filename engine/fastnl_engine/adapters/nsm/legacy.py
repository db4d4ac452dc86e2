"""The first generation: a manager asks for cross connects, and watches over the forwarder."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

import grpc
import grpc.aio
import structlog
from google.protobuf.empty_pb2 import Empty

from fastnl_engine.adapters.nsm import translate
from fastnl_engine.adapters.nsm.errors import answering
from fastnl_engine.adapters.nsm.gate import Call, Gate
from fastnl_engine.adapters.nsm.inodes import Inodes
from fastnl_engine.adapters.nsm.monitor import Feed, in_parts
from fastnl_engine.adapters.nsm.pb import (
    connection_pb2,
    crossconnect_pb2,
    crossconnect_pb2_grpc,
    forwarder_pb2,
    forwarder_pb2_grpc,
    forwarderregistrar_pb2,
    forwarderregistrar_pb2_grpc,
)
from fastnl_engine.adapters.nsm.pb.crossconnect_pb2 import CrossConnect, CrossConnectEvent
from fastnl_engine.adapters.nsm.plane import Plane
from fastnl_engine.adapters.nsm.policies import Tables
from fastnl_engine.adapters.nsm.settings import Settings
from fastnl_engine.adapters.nsm.tls import Complaint
from fastnl_engine.adapters.nsm.tls import channel as channel_to
from fastnl_engine.northbound.port import Port

PREFIX = "nsm/x/"
AGAIN = 1.0  # seconds until the manager is tried again
ANSWER = 30.0  # seconds that it has for an answer

log = structlog.get_logger()


class Legacy(
    forwarder_pb2_grpc.ForwarderServicer,
    forwarder_pb2_grpc.MechanismsMonitorServicer,
    crossconnect_pb2_grpc.MonitorCrossConnectServicer,
):
    def __init__(
        self, port: Port, inodes: Inodes, settings: Settings, broken: Callable[[BaseException], None], tables: Tables,
        ended: Callable[[str], Callable[[str], None]],
    ) -> None:  # fmt: skip
        self._settings = settings
        self._ended = ended
        self._feed: Feed[CrossConnectEvent] = Feed()
        self.plane = Plane(port, PREFIX, settings.legacy, inodes, self._changed, broken, tables, self._counted)

    def serve(self, gate: Gate) -> None:
        forwarder_pb2_grpc.add_ForwarderServicer_to_server(self, gate)
        forwarder_pb2_grpc.add_MechanismsMonitorServicer_to_server(self, gate)
        crossconnect_pb2_grpc.add_MonitorCrossConnectServicer_to_server(self, gate)

    async def Request(self, request: CrossConnect, context: Call) -> CrossConnect:
        async def wire() -> None:
            await self.plane.wire(request.id, source, destination, request)
            self._tell(crossconnect_pb2.UPDATE, request)

        async with answering(context, self._ended("Forwarder/Request")):
            source, destination = translate.sides_of(request)
            await self.plane.alone(request.id, wire, lambda: self._close(request))
        return request

    async def Close(self, request: CrossConnect, context: Call) -> Empty:
        async with answering(context, self._ended("Forwarder/Close")):
            await self.plane.alone(request.id, lambda: self._close(request))
        return Empty()

    async def _close(self, request: CrossConnect) -> None:
        was = await self.plane.unwire(request.id)
        if was is not None:
            self._tell(crossconnect_pb2.DELETE, was)

    async def MonitorMechanisms(self, request: Empty, context: Call) -> AsyncIterator[forwarder_pb2.MechanismUpdate]:
        local = connection_pb2.Mechanism(cls="LOCAL", type="KERNEL_INTERFACE")
        remote = [
            connection_pb2.Mechanism(cls="REMOTE", type="VXLAN", parameters={"src_ip": address})
            for address in [self._settings.tunnel_ip]
            if address
        ]
        yield forwarder_pb2.MechanismUpdate(local_mechanisms=[local], remote_mechanisms=remote)
        await asyncio.Event().wait()  # they never change

    async def MonitorCrossConnects(self, request: Empty, context: Call) -> AsyncIterator[CrossConnectEvent]:
        def initial() -> Iterator[CrossConnectEvent]:
            kind = crossconnect_pb2.INITIAL_STATE_TRANSFER
            for part in in_parts(list(self.plane.known)):
                yield self._event(kind, [id_ for id_ in part if id_ in self.plane.known])
                kind = crossconnect_pb2.UPDATE

        async with (
            answering(context, self._ended("MonitorCrossConnect")),
            contextlib.aclosing(self._feed.subscribe(initial)) as events,
        ):
            async for event in events:
                yield event

    def _changed(self, id_: str) -> None:
        self._tell(crossconnect_pb2.UPDATE, self.plane.known[id_])

    def _counted(self, ids: list[str]) -> None:
        if self._feed.followed:
            self._feed.publish(self._event(crossconnect_pb2.UPDATE, ids))

    def _event(self, kind: crossconnect_pb2.CrossConnectEventType, ids: Sequence[str]) -> CrossConnectEvent:
        """With what went through them."""
        crosses = {id_: self._as_it_is(self.plane.known[id_]) for id_ in ids}
        return CrossConnectEvent(type=kind, cross_connects=crosses, metrics=self._metrics(ids))

    def _metrics(self, ids: Iterable[str]) -> dict[str, crossconnect_pb2.Metrics]:
        """By the names that its monitors know."""
        found = {}
        for id_ in ids:
            alone = "DST" if self.plane.known[id_].source.mechanism.type == translate.VXLAN else "SRC"
            for side, counts in zip((alone, "DST"), self.plane.counts.get(id_, ()), strict=False):
                if counts is not None:
                    metrics = {name: str(count) for name, count in counts.items() if name != "dropped"}
                    found[f"{side}-{id_}"] = crossconnect_pb2.Metrics(metrics=metrics)
        return found

    def _tell(self, kind: crossconnect_pb2.CrossConnectEventType, cross: CrossConnect) -> None:
        if self._feed.followed:
            self._feed.publish(CrossConnectEvent(type=kind, cross_connects={cross.id: self._as_it_is(cross)}))

    def _as_it_is(self, cross: CrossConnect) -> CrossConnect:
        seen = CrossConnect()
        seen.CopyFrom(cross)
        state = connection_pb2.DOWN if cross.id in self.plane.down else connection_pb2.UP
        seen.source.state = seen.destination.state = state
        return seen


async def keep_registered(settings: Settings) -> None:
    """Tells the manager where we are, for as long as it lives, and then the next one."""
    complaint = Complaint("the manager is away", manager=settings.registrar)
    while True:
        try:
            # anew after each failure; the files of TLS may just be being replaced, one by one
            async with channel_to(settings.registrar, settings.tls) as channel:
                await _register(channel, settings, complaint)
        except (grpc.aio.AioRpcError, OSError) as e:
            complaint.of(e)
        await asyncio.sleep(AGAIN)


async def _register(channel: grpc.aio.Channel, settings: Settings, complaint: Complaint) -> None:
    stub = forwarderregistrar_pb2_grpc
    registration = stub.ForwarderRegistrationStub(channel)
    try:
        await registration.RequestForwarderRegistration(
            forwarderregistrar_pb2.ForwarderRegistrationRequest(
                forwarder_name=settings.name, forwarder_socket=settings.reached_at
            ),
            timeout=ANSWER,
        )
        log.info("registered with the manager", manager=settings.registrar)
        complaint.over()
        async for _ in registration.RequestLiveness():
            pass
        log.warning("the manager has ended the liveness stream", manager=settings.registrar)
    except asyncio.CancelledError:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await stub.ForwarderUnRegistrationStub(channel).RequestForwarderUnRegistration(
                forwarderregistrar_pb2.ForwarderUnRegistrationRequest(forwarder_name=settings.name), timeout=2
            )
        raise
