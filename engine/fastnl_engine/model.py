"""What a job says: connections and their parts as msgspec structs, and as values of the library.

Decoding checks types and names the path of a bad field; turning a Connection into a fastnl.Veth or
fastnl.Vxlan checks everything else.
"""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal

import msgspec

from fastnl import Connection as Values
from fastnl import Device, InvalidValue, Neighbour, Place, Route, Rule, Veth, Vxlan, Wired, netns
from fastnl import End as EndValue
from fastnl.netns import Identity, canonical

Kind = Literal["veth", "vxlan", "dummy", "bridge", "vrf", "tap", "loopback", "existing"]
State = Literal["up", "pending", "failed", "removing"]

MAX_PARTS = 4096  # addresses, routes, neighbours or rules of one end
Text = Annotated[str, msgspec.Meta(max_length=4096)]


class RouteSpec(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    to: Text
    via: Text | None = None
    metric: int = 0
    table: int = 0
    source: Text | None = None
    onlink: bool = False
    scope: str | None = None


class NeighbourSpec(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    ip: Text
    mac: Text
    state: str = "permanent"


Ports = int | tuple[int, int]


class RuleSpec(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True, rename={"source": "from"}):
    table: int
    source: Text | None = None
    to: Text | None = None
    iif: str | None = None
    fwmark: int = 0
    ipproto: int = 0
    sport: Ports | None = None
    dport: Ports | None = None
    priority: int = 32765
    family: Literal[4, 6] | None = None


class EndSpec(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    netns: Text
    ifname: str
    addresses: Annotated[list[Text], msgspec.Meta(max_length=MAX_PARTS)] = []
    mac: str | None = None
    mtu: int | None = None
    routes: Annotated[list[RouteSpec], msgspec.Meta(max_length=MAX_PARTS)] = []
    neighbours: Annotated[list[NeighbourSpec], msgspec.Meta(max_length=MAX_PARTS)] = []
    queues: int = 1
    txqlen: int | None = None
    up: bool = True
    master: str | None = None
    rx_checksum: bool | None = None
    tx_checksum: bool | None = None
    keep_addresses: bool = False
    rules: Annotated[list[RuleSpec], msgspec.Meta(max_length=MAX_PARTS)] = []
    route_localnet: bool = False
    ping_group_range: tuple[int, int] | None = None
    host: Text = ""  # of a fleet; "": the engine that it is submitted to


class VrfSpec(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    table: int


class VxlanSpec(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """Field by field what fastnl.Vxlan has."""

    vni: int
    local: Text | None = None
    remote: Text | None = None
    port: int = 4789
    underlay: Text = ""
    dev: str | None = None
    port_range: tuple[int, int] | None = None
    ttl: int | Literal["inherit"] | None = None
    tos: int | Literal["inherit"] | None = None
    df: Literal["unset", "set", "inherit"] | None = None
    label: int | None = None
    learning: bool | None = None
    ageing: int | None = None
    limit: int | None = None
    proxy: bool | None = None
    rsc: bool | None = None
    l2miss: bool | None = None
    l3miss: bool | None = None
    udp_csum: bool | None = None
    udp_zero_csum6_tx: bool | None = None
    udp_zero_csum6_rx: bool | None = None
    remcsum_tx: bool | None = None
    remcsum_rx: bool | None = None
    remcsum_nopartial: bool | None = None
    gbp: bool | None = None
    gpe: bool | None = None
    external: bool | None = None
    vnifilter: bool | None = None
    localbypass: bool | None = None


class Connection(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    id: str
    kind: Kind
    a: EndSpec
    b: EndSpec | None = None
    vxlan: VxlanSpec | None = None
    vrf: VrfSpec | None = None
    mtu: int | None = None
    labels: Annotated[dict[str, Text], msgspec.Meta(max_length=256)] = {}


encode = msgspec.msgpack.Encoder(order="sorted").encode
decode_connection = msgspec.msgpack.Decoder(Connection).decode


def values_of(connection: Connection) -> Values:
    """The library's values of a connection.  Raises InvalidValue with the path of the field."""
    if not connection.id:
        raise InvalidValue("id", "is empty")
    a = _end(connection.a, "a")
    kind = connection.kind
    if connection.vxlan is not None and kind != "vxlan":
        raise InvalidValue("vxlan", f"a {kind} connection has no tunnel")
    if connection.vrf is not None and kind != "vrf":
        raise InvalidValue("vrf", f"a {kind} connection has no table")
    if kind == "veth":
        if connection.b is None:
            raise InvalidValue("b", "a veth connection needs its other end")
        return Veth(a, _end(connection.b, "b"), connection.id, connection.mtu)
    if connection.b is not None:
        what = "the other is on another host" if kind == "vxlan" else "it leads nowhere else"
        raise InvalidValue("b", f"a {kind} connection has one end here; {what}")
    if kind != "vxlan":
        table = connection.vrf.table if connection.vrf else None
        return Device(kind, a, connection.id, connection.mtu, table)
    if connection.vxlan is None:
        raise InvalidValue("vxlan", "a vxlan connection needs its tunnel")
    options = {name: getattr(connection.vxlan, name) for name in VxlanSpec.__struct_fields__}
    options["underlay"] = _reference(connection.vxlan.underlay, "vxlan.underlay")
    return Vxlan(a=a, id=connection.id, mtu=connection.mtu, **options)


def check_reach(connection: Connection) -> None:
    """Raises InvalidValue, with the field, for a namespace that the settings `file_prefixes` or `docker` keep out."""
    netns.check_reach(connection.a.netns, "a.netns")
    if connection.b is not None:
        netns.check_reach(connection.b.netns, "b.netns")
    if connection.vxlan is not None:
        netns.check_reach(connection.vxlan.underlay, "vxlan.underlay")


def _end(end: EndSpec, where: str) -> EndValue:
    if end.host:
        raise InvalidValue(f"{where}.host", "this engine is in no fleet; [fleet] in its configuration joins one")
    routes = [
        Route(
            r.to,
            r.via,
            metric=r.metric,
            table=r.table,
            source=r.source,
            onlink=r.onlink,
            scope=r.scope,
            field=f"{where}.routes[{i}]",
        )
        for i, r in enumerate(end.routes)
    ]
    neighbours = [
        Neighbour(n.ip, n.mac, state=n.state, field=f"{where}.neighbours[{i}]") for i, n in enumerate(end.neighbours)
    ]
    return EndValue(
        _reference(end.netns, f"{where}.netns"),
        end.ifname,
        end.addresses,
        mac=end.mac,
        mtu=end.mtu,
        routes=routes,
        neighbours=neighbours,
        queues=end.queues,
        txqlen=end.txqlen,
        up=end.up,
        master=end.master,
        rx_checksum=end.rx_checksum,
        tx_checksum=end.tx_checksum,
        keep_addresses=end.keep_addresses,
        rules=_rules(end.rules, where) if end.rules else (),
        route_localnet=end.route_localnet,
        ping_group_range=end.ping_group_range,
        where=where,
    )


def _rules(rules: list[RuleSpec], where: str) -> list[Rule]:
    return [
        Rule(
            table=r.table,
            source=r.source,
            to=r.to,
            iif=r.iif,
            fwmark=r.fwmark,
            ipproto=r.ipproto,
            sport=r.sport,
            dport=r.dport,
            priority=r.priority,
            family=r.family,
            field=f"{where}.rules[{i}]",
        )
        for i, r in enumerate(rules)
    ]


def _reference(reference: str, field: str) -> str:
    try:
        return canonical(reference)
    except InvalidValue as e:
        raise InvalidValue(field, e.problem) from None


class Record:
    """A connection that the engine has taken on, in memory.

    spec    the Connection as msgpack, with its keys in order, so that equal connections are equal bytes
    places  of the ends while anything of it is in the kernel, else ()
    reason  why it is pending; error: why it failed, as in a reply
    """

    __slots__ = ("error", "id", "places", "reason", "since", "spec", "state")

    def __init__(
        self,
        id: str,
        spec: bytes,
        state: State,
        places: tuple[Place, ...] = (),
        reason: str = "",
        error: dict[str, Any] | None = None,
        since: float = 0.0,
    ) -> None:
        self.id = id
        self.spec = spec
        self.state = state
        self.places = places
        self.reason = reason
        self.error = error
        self.since = since

    @property
    def connection(self) -> Connection:
        return connection_of(self.spec)

    def wired(self) -> Wired:
        """As the library knows it; only with places."""
        return Wired(_values_of_spec(self.spec), self.places)


# A connection is looked at several times on its way through a cycle; records keep it as bytes, which take a
# tenth of the memory.
@functools.lru_cache(maxsize=512)
def connection_of(spec: bytes) -> Connection:
    """A connection from the bytes of a record."""
    return decode_connection(spec)


@functools.lru_cache(maxsize=512)
def _values_of_spec(spec: bytes) -> Values:
    return values_of(connection_of(spec))


def pack_places(places: tuple[Place, ...]) -> bytes:
    return msgspec.msgpack.encode([(p.ifindex, p.netns.inode, p.netns.id) for p in places])


def unpack_places(raw: bytes) -> tuple[Place, ...]:
    rows = msgspec.msgpack.decode(raw, type=list[tuple[int, int, int]])
    return tuple(Place(ifindex, Identity(inode, id_)) for ifindex, inode, id_ in rows)
