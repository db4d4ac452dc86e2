"""From what the mesh asks for to connections of the engine, as docs/protocol.md has them, and back from their labels.

Nothing here does anything.  `a` is the client's end of a pair, and the only end of a tunnel.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import ipaddress
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from fastnl_engine.adapters.nsm import policies
from fastnl_engine.adapters.nsm.errors import refuse
from fastnl_engine.adapters.nsm.pb.connection_pb2 import Mechanism
from fastnl_engine.adapters.nsm.pb.connectioncontext_pb2 import ConnectionContext
from fastnl_engine.adapters.nsm.pb.connectioncontext_pb2 import Route as RoutePb
from fastnl_engine.adapters.nsm.pb.crossconnect_pb2 import CrossConnect

KERNEL = ("KERNEL_INTERFACE", "KERNEL")  # of the first generation, of the later one
VXLAN = "VXLAN"
PIECE, PIECES = 4000, 200  # characters of a label that holds a part of a request, and how many there may be
LARGEST_VNI = (1 << 24) - 1
OVERHEAD = {4: 50, 6: 70}  # bytes that a tunnel needs of its underlay's MTU, by IP version

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


@dataclass(frozen=True, slots=True)
class Manners:
    """What differs between the generations.

    veth_mtu    where the context says nothing; None: the kernel's
    tunnel_mtu  the same for tunnels
    port        UDP port of tunnels that name none
    next_hops   routes lead through the other end's address, and every address of the other end has a route;
                otherwise everything is on the link, and the routes of a context are for the end they lead away from
    ping_group_range  groups that may ping from the namespaces without privilege; None: left as it is
    """

    veth_mtu: int | None
    tunnel_mtu: int | None
    port: int
    next_hops: bool
    ping_group_range: tuple[int, int] | None = None


# the first generation gives its pairs 16000 and its tunnels the Ethernet default
LEGACY = Manners(veth_mtu=16000, tunnel_mtu=1500, port=8472, next_hops=False)
MODERN = Manners(veth_mtu=None, tunnel_mtu=None, port=4789, next_hops=True, ping_group_range=(0, (1 << 31) - 1))


@dataclass(frozen=True, slots=True)
class Side:
    """Of a connection: what the client's (source) or the endpoint's side is to get.

    where  the path of its mechanism in the message, for errors
    """

    mechanism: Mechanism
    context: ConnectionContext
    is_source: bool
    where: str

    @property
    def is_kernel(self) -> bool:
        return self.mechanism.type in KERNEL

    def parameter(self, name: str) -> str:
        return self.mechanism.parameters.get(name, "")

    def field(self, name: str) -> str:
        return f"{self.where}.parameters[{name}]"


def sides_of(cross: CrossConnect) -> tuple[Side, Side]:
    """Source and destination of the first generation.  Raises Refused for what it cannot be."""
    if not cross.id:
        raise refuse("invalid", "id", "is empty")
    for name, connection in (("source", cross.source), ("destination", cross.destination)):
        if not cross.HasField(name):
            raise refuse("invalid", name, "is missing")
        if not connection.network_service:
            raise refuse("invalid", f"{name}.network_service", "is empty")
        segments = len(connection.path.path_segments)
        if connection.HasField("path") and connection.path.index >= segments:
            raise refuse("invalid", f"{name}.path.index", f"{connection.path.index}, but there are {segments} segments")
    if not cross.payload:
        raise refuse("invalid", "payload", 'is empty; it is "IP" or "ETHERNET"')
    kernel = cross.source.mechanism.type in KERNEL
    # the two ends of a pair are told apart in the client's context; an end that is alone here has its own
    left = cross.source.context
    right = left if kernel and cross.destination.mechanism.type in KERNEL else cross.destination.context
    return (
        Side(cross.source.mechanism, left, True, "source.mechanism"),
        Side(cross.destination.mechanism, right, False, "destination.mechanism"),
    )


def kernel_sides(source: Side, destination: Side) -> list[Side]:
    """Those whose interface is on this host.  Raises Refused where nothing can be made of the two."""
    kinds = (source.mechanism.type, destination.mechanism.type)
    local = [side for side in (source, destination) if side.is_kernel]
    if local and all(kind in (*KERNEL, VXLAN) for kind in kinds):
        return local
    odd = next((s for s in (source, destination) if s.mechanism.type not in (*KERNEL, VXLAN)), source)
    raise refuse(
        "unsupported", f"{odd.where}.type",
        f"{odd.mechanism.type!r} with {kinds[1] if odd is source else kinds[0]!r} is not supported by this forwarding "
        "plane, which joins kernel interfaces to each other and to VXLAN",
    )  # fmt: skip


def namespace_of(side: Side) -> int | str:
    """The namespace of a kernel interface: its inode, or a reference of the engine.  Raises Refused."""
    inode, url = side.parameter("netnsInode"), side.parameter("inodeURL")
    if url:
        scheme, _, rest = url.partition("://")
        if scheme == "inode":
            inode = rest.rpartition("/")[2]
        elif scheme == "file" and rest.startswith("/"):
            process = re.fullmatch(r"/proc/(\d+)/ns/net", rest)
            return f"pid:{process[1]}" if process else f"file:{rest}"
        else:
            raise refuse("invalid", side.field("inodeURL"), f"{url!r} is neither inode://DEV/INODE nor file:///PATH")
    field = side.field("inodeURL" if url else "netnsInode")
    if not inode:
        raise refuse("invalid", field, "is missing; the namespace of the interface has to be named")
    if not (inode.isascii() and inode.isdigit() and len(inode) < 20):
        raise refuse("invalid", field, f"{inode!r} is not the inode number of a namespace")
    return int(inode)


def connection_of(
    id: str, source: Side, destination: Side, namespaces: Sequence[str], manners: Manners,
    labels: Mapping[str, str], table_of: policies.TableOf,
) -> dict[str, Any]:  # fmt: skip
    """The engine's connection; `namespaces` are references for `kernel_sides`.  Raises Refused.

    table_of  numbers for the tables of the client's policies
    """
    local = kernel_sides(source, destination)
    ends = [_end(side, netns, manners, table_of) for side, netns in zip(local, namespaces, strict=True)]
    out: dict[str, Any] = {"id": id, "a": ends[0], "labels": dict(labels)}
    mtu: int | None = local[0].context.mtu
    if len(local) == 2:
        out |= {"kind": "veth", "b": ends[1]}
        mtu = mtu or manners.veth_mtu
    else:
        out |= {"kind": "vxlan", "vxlan": _tunnel(source, destination, manners)}
        mtu = mtu or manners.tunnel_mtu
    return out | {"mtu": mtu} if mtu else out


def _end(side: Side, netns: str, manners: Manners, table_of: policies.TableOf) -> dict[str, Any]:
    for name, needs in (("vlan", "a VLAN"), ("IPTables4NatTemplate", "address translation")):
        if side.parameter(name) not in ("", "0", "false"):
            raise refuse("unsupported", side.field(name), f"{needs} on the interface is not supported")
    name = side.parameter("name")
    if not name:
        raise refuse("invalid", side.field("name"), "is missing; the interface needs a name of 1 to 15 bytes")
    where = side.where.rpartition(".")[0]
    field = f"{where}.context" if where else "context"
    ip, ethernet = side.context.ip_context, side.context.ethernet_context
    if ethernet.vlan_tag:
        raise refuse("unsupported", f"{field}.ethernet_context.vlan_tag", "a VLAN tag is not supported")
    names = ("src_ip_addrs", "dst_ip_addrs") if side.is_source else ("dst_ip_addrs", "src_ip_addrs")
    own, others = (_interfaces(getattr(ip, n), f"{field}.ip_context.{n}") for n in names)
    end: dict[str, Any] = {"netns": netns, "ifname": name}
    if own:
        end["addresses"] = list(own)
    mac = ethernet.src_mac if side.is_source else ethernet.dst_mac
    if mac:
        end["mac"] = mac
    # the generations disagree on whose the routes of a side are
    chosen = "src_routes" if side.is_source == manners.next_hops else "dst_routes"
    given = _prefixes(getattr(ip, chosen), f"{field}.ip_context.{chosen}")
    routes = (
        _routes_by_next_hop(own.values(), others.values(), given)
        if manners.next_hops
        else _routes_on_link(own.values(), given)
    )
    if ip.policies and side.is_source:  # they are about what the client sends
        end["rules"], more = policies.translate(ip.policies, f"{field}.ip_context.policies", table_of)
        routes += more
    if routes:
        end["routes"] = list({(r["to"], r.get("via"), r.get("table")): r for r in routes}.values())
    if ip.ip_neighbors:
        mine = {str(address.ip) for address in own.values()}
        neighbours = {n.ip: n.hardware_address for n in ip.ip_neighbors if n.ip not in mine}
        if neighbours:
            end["neighbours"] = [{"ip": address, "mac": mac} for address, mac in neighbours.items()]
    if side.parameter("routeLocalNet").lower() in ("1", "t", "true"):
        end["route_localnet"] = True
    if manners.ping_group_range is not None:
        end["ping_group_range"] = list(manners.ping_group_range)
    return end


def _interfaces(addresses: Iterable[str], field: str) -> dict[str, Interface]:
    """By their usual spelling."""
    found: dict[str, Interface] = {}
    for i, text in enumerate(addresses):
        if not text:
            continue  # an empty one is none: how a single address is left out on the wire
        try:
            spelling, interface = _interface(text)
        except ValueError as e:
            raise refuse("invalid", f"{field}[{i}]", str(e)) from None
        found[spelling] = interface
    return found


@functools.lru_cache(1024)  # one end's own address is the other's peer
def _interface(text: str) -> tuple[str, Interface]:
    interface = ipaddress.ip_interface(text)
    return str(interface), interface


Prefix = tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, str]  # and the next hop, "" if none


def _prefixes(routes: Iterable[RoutePb], field: str) -> list[Prefix]:
    found = []
    for i, route in enumerate(routes):
        try:
            # bits beyond the mask are forgiven, as the first generation forgave them
            prefix = ipaddress.ip_network(route.prefix, strict=False)
            if route.next_hop:
                ipaddress.ip_address(route.next_hop)
        except ValueError as e:
            raise refuse("invalid", f"{field}[{i}]", str(e)) from None
        found.append((prefix, route.next_hop))
    return found


def _routes_on_link(own: Collection[Interface], given: Iterable[Prefix]) -> list[dict[str, Any]]:
    """Each on the link, with the interface's address as its source."""
    routes = []
    for prefix, _ in given:
        if any(prefix == address.network for address in own):
            continue  # the kernel makes that one with the address
        route: dict[str, Any] = {"to": str(prefix)}
        source = next((address.ip for address in own if address.version == prefix.version), None)
        routes.append(route | {"source": str(source)} if source is not None else route)
    return routes


def _routes_by_next_hop(
    own: Collection[Interface], others: Collection[Interface], given: Iterable[Prefix]
) -> list[dict[str, Any]]:
    """A route to each address of the other end, and the given ones through it."""
    routes: list[dict[str, Any]] = [
        {"to": str(ipaddress.ip_network(other.ip))}
        for other in others
        if not any(other.version == address.version and other.ip in address.network for address in own)
    ]
    for prefix, via in given:
        if any(prefix == address.network for address in own):
            continue
        route: dict[str, Any] = {"to": str(prefix)}
        inside = any(a.version == prefix.version and prefix.subnet_of(a.network) for a in own)  # type: ignore[arg-type]
        if not via and not inside:
            via = next((str(other.ip) for other in others if other.version == prefix.version), "")
        if via and ipaddress.ip_network(via) != prefix:
            route |= {"via": via, "onlink": True}
        routes.append(route)
    return routes


def _tunnel(source: Side, destination: Side, manners: Manners) -> dict[str, Any]:
    """Outgoing: the endpoint is elsewhere, and we are the tunnel's src; incoming: the client is, and we are its dst."""
    outgoing = source.is_kernel
    side = destination if outgoing else source
    text = side.parameter("vni")
    if not (text.isascii() and text.isdigit() and len(text) < 9 and int(text) <= LARGEST_VNI):
        raise refuse("invalid", side.field("vni"), f"{text!r} is not a number from 0 to {LARGEST_VNI}")
    ours, theirs = ("src_ip", "dst_ip") if outgoing else ("dst_ip", "src_ip")
    tunnel: dict[str, Any] = {"vni": int(text), "learning": False}
    for name, parameter in (("local", ours), ("remote", theirs)):
        try:
            tunnel[name] = str(ipaddress.ip_address(side.parameter(parameter)))
        except ValueError as e:
            raise refuse("invalid", side.field(parameter), str(e)) from None
    port = side.parameter(theirs.replace("ip", "port")) or str(manners.port)
    if not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536):
        raise refuse("invalid", side.field(theirs.replace("ip", "port")), f"{port!r} is not a UDP port")
    return tunnel | {"port": int(port)}


# -- what the engine remembers for us ----------------------------------------------------------------


def remember(cross: CrossConnect) -> dict[str, str]:
    """A request as labels of its connection: the engine keeps those, so that nothing else has to be kept."""
    kept = CrossConnect()
    kept.CopyFrom(cross)
    for side in (kept.source, kept.destination):
        for segment in side.path.path_segments:
            segment.token = ""  # it lets its bearer act for somebody else, which is not for a file
            segment.ClearField("metrics")
    text = base64.b64encode(kept.SerializeToString(deterministic=True)).decode()
    pieces = [text[i : i + PIECE] for i in range(0, len(text), PIECE)]
    if len(pieces) > PIECES:
        raise refuse("invalid", "", f"the request is too large to be kept; most are {PIECES * PIECE * 3 // 4} bytes")
    service = kept.source.network_service[:PIECE]
    return {f"nsm.{i:03}": piece for i, piece in enumerate(pieces)} | {"network_service": service}


def recall(labels: Mapping[str, str]) -> CrossConnect | None:
    """The request that labels hold; None: they hold none."""
    text = "".join(labels[name] for name in sorted(labels) if re.fullmatch(r"nsm\.\d{3}", name))
    cross = CrossConnect()
    try:
        cross.ParseFromString(base64.b64decode(text, validate=True))
    except (ValueError, DecodeError):
        return None
    return cross if cross.id else None


def interface_name(service: str, id: str) -> str:
    """15 characters that are the same whenever the same connection asks."""
    stem = re.sub(r"[^0-9A-Za-z]", "", service)[:7] or "nsm"
    return f"{stem}-{hashlib.sha256(id.encode()).hexdigest()}"[:15]


def path_mtu(underlay: int, outer: str) -> int:
    """Of what a tunnel to an address can carry."""
    return underlay - OVERHEAD[ipaddress.ip_address(outer).version]
