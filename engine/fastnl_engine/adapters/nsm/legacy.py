"""The first generation: a manager asks for cross connects, and watches over the forwarder."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import structlog
from google.protobuf.empty_pb2 import Empty

from fastnl_engine.adapters.nsm import translate
from fastnl_engine.adapters.nsm.errors import Refused, abort
from fastnl_engine.adapters.nsm.inodes import Inodes
from fastnl_engine.adapters.nsm.monitor import Feed
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
from fastnl_engine.adapters.nsm.settings import Settings
from fastnl_engine.northbound.port import Port

PREFIX = "nsm/x/"
AGAIN = 1.0  # seconds until the manager is tried again
ANSWER = 30.0  # seconds that it has for an answer

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[Any, Any]


class Legacy(
    forwarder_pb2_grpc.ForwarderServicer,
    forwarder_pb2_grpc.MechanismsMonitorServicer,
    crossconnect_pb2_grpc.MonitorCrossConnectServicer,
):
    def __init__(self, port: Port, inodes: Inodes, settings: Settings) -> None:
        self._settings = settings
        self._feed: Feed[CrossConnectEvent] = Feed()
        self.plane = Plane(port, PREFIX, settings.legacy, inodes, self._changed)

    def serve(self, server: grpc.aio.Server) -> None:
        forwarder_pb2_grpc.add_ForwarderServicer_to_server(self, server)
        forwarder_pb2_grpc.add_MechanismsMonitorServicer_to_server(self, server)
        crossconnect_pb2_grpc.add_MonitorCrossConnectServicer_to_server(self, server)

    async def Request(self, request: CrossConnect, context: Context) -> CrossConnect:
        async def wire() -> None:
            await self.plane.wire(request.id, source, destination, request)
            self._tell(crossconnect_pb2.UPDATE, request)

        try:
            source, destination = translate.sides_of(request)
            await self.plane.alone(request.id, wire, lambda: self._close(request))
        except Refused as e:
            await abort(context, e)
        return request

    async def Close(self, request: CrossConnect, context: Context) -> Empty:
        try:
            await self.plane.alone(request.id, lambda: self._close(request))
        except Refused as e:
            await abort(context, e)
        return Empty()

    async def _close(self, request: CrossConnect) -> None:
        was = await self.plane.unwire(request.id)
        if was is not None:
            self._tell(crossconnect_pb2.DELETE, was)

    async def MonitorMechanisms(self, request: Empty, context: Context) -> AsyncIterator[forwarder_pb2.MechanismUpdate]:
        local = connection_pb2.Mechanism(cls="LOCAL", type="KERNEL_INTERFACE")
        remote = [
            connection_pb2.Mechanism(cls="REMOTE", type="VXLAN", parameters={"src_ip": address})
            for address in [self._settings.tunnel_ip]
            if address
        ]
        yield forwarder_pb2.MechanismUpdate(local_mechanisms=[local], remote_mechanisms=remote)
        await asyncio.Event().wait()  # they never change

    async def MonitorCrossConnects(self, request: Empty, context: Context) -> AsyncIterator[CrossConnectEvent]:
        def initial() -> CrossConnectEvent:
            known = {id_: self._as_it_is(cross) for id_, cross in self.plane.known.items()}
            return CrossConnectEvent(type=crossconnect_pb2.INITIAL_STATE_TRANSFER, cross_connects=known)

        try:
            async with contextlib.aclosing(self._feed.subscribe(initial)) as events:
                async for event in events:
                    yield event
        except Refused as e:
            await abort(context, e)

    def _changed(self, id_: str) -> None:
        self._tell(crossconnect_pb2.UPDATE, self.plane.known[id_])

    def _tell(self, kind: crossconnect_pb2.CrossConnectEventType, cross: CrossConnect) -> None:
        self._feed.publish(CrossConnectEvent(type=kind, cross_connects={cross.id: self._as_it_is(cross)}))

    def _as_it_is(self, cross: CrossConnect) -> CrossConnect:
        seen = CrossConnect()
        seen.CopyFrom(cross)
        state = connection_pb2.DOWN if cross.id in self.plane.down else connection_pb2.UP
        seen.source.state = seen.destination.state = state
        return seen


async def keep_registered(settings: Settings) -> None:
    """Tells the manager where we are, for as long as it lives, and then the next one."""
    stub = forwarderregistrar_pb2_grpc
    quiet = False
    while True:
        async with grpc.aio.insecure_channel(settings.registrar) as channel:
            registration = stub.ForwarderRegistrationStub(channel)
            try:
                await registration.RequestForwarderRegistration(
                    forwarderregistrar_pb2.ForwarderRegistrationRequest(
                        forwarder_name=settings.name, forwarder_socket=settings.reached_at
                    ),
                    timeout=ANSWER,
                )
                log.info("registered with the manager", manager=settings.registrar)
                quiet = False
                async for _ in registration.RequestLiveness():
                    pass
                log.warning("the manager has ended the liveness stream", manager=settings.registrar)
            except grpc.aio.AioRpcError as e:
                if not quiet:
                    log.warning("the manager is away", manager=settings.registrar, reason=e.details())
                quiet = True
            except asyncio.CancelledError:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await stub.ForwarderUnRegistrationStub(channel).RequestForwarderUnRegistration(
                        forwarderregistrar_pb2.ForwarderUnRegistrationRequest(forwarder_name=settings.name), timeout=1
                    )
                raise
        await asyncio.sleep(AGAIN)
