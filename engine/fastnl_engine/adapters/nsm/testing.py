"""For tests and the demonstration: the rest of a mesh, as far as a forwarder meets it.

    with Manager(f"unix:{folder}/manager.sock") as manager, Forwarder("unix:/run/nsm.sock") as forwarder:
        forwarder.cross.Request(cross_connect("c1", kernel("eth0", inode_of("name:blue")), ...))

Nothing here is needed to run a forwarder.
"""

from __future__ import annotations

import asyncio
import os
import pathlib
import queue
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.timestamp_pb2 import Timestamp

from fastnl.netns import handle_reference
from fastnl.testing import PATIENCE, eventually
from fastnl_engine.adapters.nsm.modern import arrive, leave
from fastnl_engine.adapters.nsm.pb import (
    connection_pb2_grpc,
    crossconnect_pb2_grpc,
    forwarder_pb2_grpc,
    forwarderregistrar_pb2,
    forwarderregistrar_pb2_grpc,
    networkservice_pb2_grpc,
    registry_pb2,
    registry_pb2_grpc,
)
from fastnl_engine.adapters.nsm.pb.connection_pb2 import Connection, Mechanism, Path, PathSegment
from fastnl_engine.adapters.nsm.pb.connectioncontext_pb2 import ConnectionContext
from fastnl_engine.adapters.nsm.pb.crossconnect_pb2 import CrossConnect, CrossConnectEvent
from fastnl_engine.adapters.nsm.pb.networkservice_pb2 import NetworkServiceRequest
from fastnl_engine.adapters.nsm.relay import Relay

SERVICE = "icmp-responder"


class Forwarder:
    """What a client of a forwarder needs: its services."""

    def __init__(self, target: str) -> None:
        self.channel = grpc.insecure_channel(target, options=[("grpc.use_local_subchannel_pool", 1)])
        self.cross = forwarder_pb2_grpc.ForwarderStub(self.channel)
        self.mechanisms = forwarder_pb2_grpc.MechanismsMonitorStub(self.channel)
        self.cross_monitor = crossconnect_pb2_grpc.MonitorCrossConnectStub(self.channel)
        self.service = networkservice_pb2_grpc.NetworkServiceStub(self.channel)
        self.monitor = connection_pb2_grpc.MonitorConnectionStub(self.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()


class Manager(
    forwarderregistrar_pb2_grpc.ForwarderRegistrationServicer,
    forwarderregistrar_pb2_grpc.ForwarderUnRegistrationServicer,
    networkservice_pb2_grpc.NetworkServiceServicer,
    registry_pb2_grpc.NetworkServiceEndpointRegistryServicer,
):
    """The manager of one host, and an endpoint of it: both generations.

    endpoint  answers as the endpoint with this mechanism and `context`
    remote    or passes requests on to the forwarder of another host, and offers it a tunnel
    followed  how many forwarders have begun to follow whether it lives: a server of gRPC for Python that stops right
              before that may leave them a connection which nobody serves and nobody closes
    """

    def __init__(self, address: str, name: str = "manager") -> None:
        self.address = address
        self.name = name
        self.endpoint: Mechanism | None = None
        self.context: ConnectionContext | None = None
        self.remote: Forwarder | None = None
        self.refusal: tuple[grpc.StatusCode, str] | None = None
        self.registered: list[str] = []
        self.followed = 0
        self.unregistered: list[str] = []
        self.endpoints: list[registry_pb2.NetworkServiceEndpoint] = []
        self.asked: list[Connection] = []
        self.closed: list[Connection] = []
        self.delay = 0.0  # seconds before it answers
        self._server: grpc.Server | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        self._server = server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        forwarderregistrar_pb2_grpc.add_ForwarderRegistrationServicer_to_server(self, server)
        forwarderregistrar_pb2_grpc.add_ForwarderUnRegistrationServicer_to_server(self, server)
        networkservice_pb2_grpc.add_NetworkServiceServicer_to_server(self, server)
        registry_pb2_grpc.add_NetworkServiceEndpointRegistryServicer_to_server(self, server)
        self.bind(server)
        server.start()
        return self

    def bind(self, server: grpc.Server) -> None:
        server.add_insecure_port(self.address)

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(0).wait()
            self._server = None
            # gRPC removes the socket's file a moment later, and would remove that of a server which comes next
            path = self.address.removeprefix("unix:")
            assert not self.address.startswith("unix:") or eventually(lambda: not pathlib.Path(path).exists())

    # -- first generation ----------------------------------------------------------------------------

    def RequestForwarderRegistration(
        self, request: forwarderregistrar_pb2.ForwarderRegistrationRequest, context: Any
    ) -> forwarderregistrar_pb2.ForwarderRegistrationReply:
        self.registered.append(request.forwarder_socket)
        return forwarderregistrar_pb2.ForwarderRegistrationReply(registered=True)

    def RequestLiveness(self, requests: Iterator[Empty], context: Any) -> Iterator[Empty]:
        self.followed += 1
        while context.is_active():
            yield Empty()
            time.sleep(0.1)

    def RequestForwarderUnRegistration(
        self, request: forwarderregistrar_pb2.ForwarderUnRegistrationRequest, context: Any
    ) -> forwarderregistrar_pb2.ForwarderUnRegistrationReply:
        self.unregistered.append(request.forwarder_name)
        return forwarderregistrar_pb2.ForwarderUnRegistrationReply(un_registered=True)

    # -- later generation ----------------------------------------------------------------------------

    def Register(
        self, request: registry_pb2.NetworkServiceEndpoint, context: Any
    ) -> registry_pb2.NetworkServiceEndpoint:
        self.endpoints.append(request)
        return request

    def Unregister(self, request: registry_pb2.NetworkServiceEndpoint, context: Any) -> Empty:
        self.unregistered.append(request.name)
        return Empty()

    def Request(self, request: NetworkServiceRequest, context: Any) -> Connection:
        if self.refusal is not None:
            context.abort(*self.refusal)
        self.asked.append(request.connection)
        time.sleep(self.delay)
        ours = arrive(request.connection, self.name)
        if self.remote is not None:
            # a tunnel is the only way to another host
            tunnels = [m for m in request.mechanism_preferences if m.type == "VXLAN"]
            asked = NetworkServiceRequest(connection=ours, mechanism_preferences=tunnels)
            answered: Connection = self.remote.service.Request(asked, timeout=10)
            return leave(answered)
        assert self.endpoint is not None
        ours.mechanism.CopyFrom(self.endpoint)
        ours.network_service_endpoint_name = "endpoint"
        if self.context is not None:
            ours.context.MergeFrom(self.context) if not ours.context.ip_context.src_ip_addrs else None
        return leave(ours)

    def Close(self, request: Connection, context: Any) -> Empty:
        self.closed.append(request)
        if self.remote is not None:
            self.remote.service.Close(arrive(request, self.name), timeout=10)
        return Empty()


class Passing:
    """A way to a Unix socket by which descriptors can be sent along, as clients and managers of the mesh do.

    target    its address, for gRPC
    received  identities of the namespaces whose descriptors came along, from either side
    """

    def __init__(self, place: str, target: str) -> None:
        self.target = f"unix:{place}"
        self.received: list[str | None] = []
        self._loop = asyncio.new_event_loop()
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listening.bind(place)
        self._listening.listen()
        self._began = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(target),))

    async def _run(self, target: str) -> None:
        self._end = asyncio.Event()
        self._relay = Relay(
            self._listening, target.removeprefix("unix:"), lambda fd: self.received.append(handle_reference(fd))
        )
        self._began.set()
        await self._end.wait()
        self._relay.close()

    def send(self, fd: int) -> None:
        """With the next byte to the target."""
        self._loop.call_soon_threadsafe(self._relay.send, os.dup(fd))

    def cut(self) -> None:
        """Ends every connection at once, and lets nobody in any more."""
        self._loop.call_soon_threadsafe(self._end.set)

    def __enter__(self) -> Self:
        self._thread.start()
        self._began.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
        self._loop.close()
        self._listening.close()


class Events:
    """What a stream of a monitor says, from its first event on, until the end of the `with` block."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._events: queue.Queue[Any] = queue.Queue()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            for event in self._call:
                self._events.put(event)
        except grpc.RpcError as e:
            self._events.put(e)

    def next(self, *, counted: bool = False) -> Any:
        """The next event, or the error that ended the stream.  Raises queue.Empty when there is none for long.

        counted  one that brings what went through connections; otherwise those that come later are left out
        """
        while True:
            event = self._events.get(timeout=PATIENCE)
            brings = event.type and getattr(event, "metrics", None) if isinstance(event, CrossConnectEvent) else False
            if bool(brings) == counted or not isinstance(event, CrossConnectEvent):
                return event

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._call.cancel()
        self._thread.join()


# -- messages ----------------------------------------------------------------------------------------


def kernel(name: str, inode: int | str, *, generation: int = 1) -> Mechanism:
    """An interface of a namespace, by its inode; or, in the later generation, by a URL."""
    where = {"inodeURL": str(inode)} if isinstance(inode, str) else {"netnsInode": str(inode)}
    kind = "KERNEL_INTERFACE" if generation == 1 else "KERNEL"
    return Mechanism(cls="LOCAL", type=kind, parameters={"name": name, **where})


def vxlan(src: str, dst: str, vni: int, **more: str) -> Mechanism:
    return Mechanism(cls="REMOTE", type="VXLAN", parameters={"src_ip": src, "dst_ip": dst, "vni": str(vni), **more})


def addresses(src: Sequence[str] | str = (), dst: Sequence[str] | str = (), **more: Any) -> ConnectionContext:
    """A context with addresses of the client's and the endpoint's side, and other fields of its ip_context."""
    src, dst = ([a] if isinstance(a, str) else list(a) for a in (src, dst))
    return ConnectionContext(ip_context={"src_ip_addrs": src, "dst_ip_addrs": dst, **more})


def cross_connect(
    id: str, source: Mechanism, destination: Mechanism, context: ConnectionContext | None = None
) -> CrossConnect:
    """As a manager of the first generation asks for it."""

    def side(name: str, mechanism: Mechanism) -> Connection:
        # a connection from or to another host has come through both managers
        segments = [PathSegment(name=f"{name}-{i}", id=id) for i in range(1 + (mechanism.cls == "REMOTE"))]
        return Connection(
            id=f"{id}-{name}", network_service=SERVICE, mechanism=mechanism, context=context,
            path=Path(path_segments=segments),
        )  # fmt: skip

    return CrossConnect(id=id, payload="IP", source=side("client", source), destination=side("endpoint", destination))


def request(
    id: str, mechanism: Mechanism, context: ConnectionContext | None = None, *, lifetime: float = 600,
    labels: Mapping[str, str] | None = None,
) -> NetworkServiceRequest:  # fmt: skip
    """As a client of the later generation asks for a service."""
    expires = Timestamp()
    expires.FromMicroseconds(int((time.time() + lifetime) * 1e6))
    path = Path(path_segments=[PathSegment(name="client", id=id, token="secret", expires=expires)])
    connection = Connection(id=id, network_service=SERVICE, context=context, labels=labels, path=path)
    return NetworkServiceRequest(connection=connection, mechanism_preferences=[mechanism])
