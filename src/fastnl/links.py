"""What a connection is, as frozen values that have been checked when you hold them.

    Veth(a=End("blue", "eth0", ["10.0.0.1/24"]), b=End("red", "eth0", ["10.0.0.2/24"]))
    Vxlan(a=End("blue", "vx0", ["10.9.0.1/24"]), vni=42, local="192.0.2.1", remote="192.0.2.2")
    Device("dummy", End("blue", "d0", ["10.8.0.1/32"]))

Text is taken for addresses and turned into Address values, so mistakes show where they are made:
InvalidValue carries the path of the field.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from fastnl._nl import Address, Neighbour, Route, Rule, mac_problem, name_problem
from fastnl.errors import InvalidValue

__all__ = ["Address", "Connection", "Device", "End", "Neighbour", "Route", "Rule", "Veth", "Vxlan"]

MIN_MTU = 68  # ETH_MIN_MTU, include/uapi/linux/if_ether.h
MAX_MTU = 65535  # ETH_MAX_MTU
MAX_VNI = (1 << 24) - 1
VXLAN_OVERHEAD = {4: 50, 6: 70}  # bytes of outer Ethernet, IP, UDP and VXLAN headers
MAX_GROUP = (1 << 31) - 1  # GID_T_MAX, net/ipv4/sysctl_net_ipv4.c
NOBODY = (1, 0)  # how the kernel spells an empty range of groups
MAX_ID = 200  # bytes; the alias "fastnl/<instance>/<id>/<end>" must stay under IFALIASZ, 256


def _number(value: object, least: int, most: int, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidValue(where, f"must be a whole number, not {type(value).__name__}")
    if not least <= value <= most:
        raise InvalidValue(where, f"{value} is not between {least} and {most}")


def _all_of(kind: type, values: tuple[object, ...], where: str) -> None:
    for i, value in enumerate(values):
        if not isinstance(value, kind):
            raise InvalidValue(f"{where}[{i}]", f"must be a {kind.__name__}, not {type(value).__name__}")


def _each_once(values: tuple[object, ...], where: str) -> None:
    seen = set()
    for i, value in enumerate(values):
        if value in seen:
            raise InvalidValue(f"{where}[{i}]", f"{value!r} is there twice")
        seen.add(value)


def _check_groups(groups: tuple[int, int], where: str) -> None:
    if not isinstance(groups, tuple) or len(groups) != 2:
        raise InvalidValue(where, "must be the lowest and the highest group")
    if groups != NOBODY:
        _number(groups[0], 0, MAX_GROUP, f"{where}[0]")
        _number(groups[1], groups[0], MAX_GROUP, f"{where}[1]")


@dataclass(frozen=True, slots=True)
class End:
    """One end of a connection.

    netns       reference of the namespace it lives in, see fastnl.netns; "" is the caller's own
    ifname      name of the interface there
    addresses   Address values or text
    mac         None: the kernel picks a random one
    mtu         bytes; None: the connection's, or the kernel's default
    routes, neighbours   through this interface
    queues      transmit and receive queues
    txqlen      length of the transmit queue, packets; None: the kernel's default
    keep_addresses   addresses that others gave it are as good as those asked for
    rules       policy rules of its namespace, there as long as the connection
    route_localnet     whether 127.0.0.0/8 may be routed by it (net.ipv4.conf.<ifname>.route_localnet)
    ping_group_range   lowest and highest group that may send ICMP echo requests without privilege in its namespace,
                (1, 0): none; it stays when the connection goes.  None: as it is
    up          whether it is up; what is down has no routes and no neighbours
    master      name of the interface in the same namespace, a VRF or a bridge, that it becomes a port of
    rx_checksum, tx_checksum   whether checksums are left to the interface (ethtool -K); None: as the kernel has it

    `where` is put before the names of fields in errors.
    """

    netns: str
    ifname: str
    addresses: tuple[Address, ...] = ()
    mac: str | None = None
    mtu: int | None = None
    routes: tuple[Route, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    queues: int = 1
    txqlen: int | None = None
    up: bool = True
    master: str | None = None
    rx_checksum: bool | None = None
    tx_checksum: bool | None = None
    keep_addresses: bool = False
    rules: tuple[Rule, ...] = ()
    route_localnet: bool = False
    ping_group_range: tuple[int, int] | None = None
    where: str = field(default="", repr=False, compare=False)
    ipv6: bool = field(default=False, init=False, repr=False, compare=False)
    settings: bool = field(default=False, init=False, repr=False, compare=False)

    def __init__(
        self,
        netns: str,
        ifname: str,
        addresses: Iterable[Address | str] = (),
        *,
        mac: str | None = None,
        mtu: int | None = None,
        routes: Iterable[Route] = (),
        neighbours: Iterable[Neighbour] = (),
        queues: int = 1,
        txqlen: int | None = None,
        up: bool = True,
        master: str | None = None,
        rx_checksum: bool | None = None,
        tx_checksum: bool | None = None,
        keep_addresses: bool = False,
        rules: Iterable[Rule] = (),
        route_localnet: bool = False,
        ping_group_range: tuple[int, int] | None = None,
        where: str = "",
    ) -> None:
        dot = where and where + "."
        if not isinstance(netns, str):
            raise InvalidValue(dot + "netns", f"must be text, not {type(netns).__name__}")
        problem = name_problem(ifname)
        if problem:
            raise InvalidValue(dot + "ifname", problem)
        if mac is not None:
            problem = mac_problem(mac) if isinstance(mac, str) else "must be text"
            if problem:
                raise InvalidValue(dot + "mac", problem)
        if mtu is not None:
            _number(mtu, MIN_MTU, MAX_MTU, dot + "mtu")
        if queues != 1 or queues is True:
            _number(queues, 1, 4096, dot + "queues")
        if txqlen is not None:
            _number(txqlen, 0, (1 << 31) - 1, dot + "txqlen")
        if master is not None:
            problem = name_problem(master)
            if not problem and master == ifname:
                problem = "an interface cannot be its own master"
            if problem:
                raise InvalidValue(dot + "master", problem)
        checked = tuple(
            a if isinstance(a, Address) else Address(a, f"{dot}addresses[{i}]") for i, a in enumerate(addresses)
        )
        routes, neighbours = tuple(routes), tuple(neighbours)
        _all_of(Route, routes, dot + "routes")
        _all_of(Neighbour, neighbours, dot + "neighbours")
        if len(checked) > 1:
            _each_once(checked, dot + "addresses")
        if len(neighbours) > 1:
            _each_once(tuple(n.ip for n in neighbours), dot + "neighbours")
        if rules:
            rules = tuple(rules)
            _all_of(Rule, rules, dot + "rules")
            _each_once(rules, dot + "rules")
        if ping_group_range is not None:
            _check_groups(ping_group_range, dot + "ping_group_range")
        if not up and (routes or neighbours):
            what = "routes" if routes else "neighbours"
            raise InvalidValue(dot + what, "an interface that is down has none")
        everything: tuple[Address | Route | Neighbour, ...] = (*checked, *routes, *neighbours)
        ipv6 = any(x.family == 6 for x in everything)
        if ipv6 and mtu is not None and mtu < 1280:
            raise InvalidValue(dot + "mtu", f"{mtu}: IPv6 needs an MTU of at least 1280")
        put = object.__setattr__
        put(self, "netns", netns)
        put(self, "ifname", ifname)
        put(self, "addresses", checked)
        put(self, "mac", mac)
        put(self, "mtu", mtu)
        put(self, "routes", routes)
        put(self, "neighbours", neighbours)
        put(self, "queues", queues)
        put(self, "txqlen", txqlen)
        put(self, "up", up)
        put(self, "master", master)
        put(self, "rx_checksum", rx_checksum)
        put(self, "tx_checksum", tx_checksum)
        put(self, "keep_addresses", keep_addresses)
        put(self, "rules", rules)
        put(self, "route_localnet", route_localnet)
        put(self, "ping_group_range", ping_group_range)
        put(self, "where", where)
        put(self, "ipv6", ipv6)
        put(self, "settings", route_localnet or ping_group_range is not None)


def _check_id(value: str) -> None:
    if not isinstance(value, str):
        raise InvalidValue("id", f"must be text, not {type(value).__name__}")
    if len(value.encode("utf-8", "surrogatepass")) > MAX_ID:
        raise InvalidValue("id", f"is longer than {MAX_ID} bytes")
    if not value.isprintable():
        raise InvalidValue("id", f"{value!r} holds characters that cannot be printed")


@dataclass(frozen=True, slots=True)
class Veth:
    """A pair of interfaces: what goes in at one end comes out at the other.

    id    the caller's name for the connection; it becomes part of the interfaces' alias
    mtu   bytes, for an end that says nothing itself
    """

    a: End
    b: End
    id: str = ""
    mtu: int | None = None

    def __post_init__(self) -> None:
        if self.id:
            _check_id(self.id)
        if self.mtu is not None:
            _number(self.mtu, MIN_MTU, MAX_MTU, "mtu")
            if self.mtu < 1280 and any(e.ipv6 and e.mtu is None for e in (self.a, self.b)):
                raise InvalidValue("mtu", f"{self.mtu}: IPv6 needs an MTU of at least 1280")
        if self.a.netns == self.b.netns and self.a.ifname == self.b.ifname:
            raise InvalidValue("b.ifname", f"both ends would be {self.a.ifname!r} in one namespace")

    @property
    def ends(self) -> tuple[End, ...]:
        return (self.a, self.b)

    kind = "veth"
    found = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Vxlan:
    """A VXLAN interface in a namespace, its tunnel in another (drivers/net/vxlan/vxlan_core.c).

    a              the end in the client's namespace
    vni            network identifier, 24 bits; with the port unique in the underlay's namespace
    local, remote  outer addresses; a multicast `remote` is a group and needs `dev`
    port           UDP destination port
    underlay       namespace that carries the tunnel
    dev            lower device, by name in the underlay's namespace
    mtu            bytes; without it and without `dev`, 1500 less the overhead

    port_range (low, high); ttl number or "inherit"; tos number or "inherit"; df "unset", "set" or "inherit";
    label IPv6 flow label, 20 bits; ageing seconds; limit entries of the forwarding table; external: metadata
    per packet instead of vni and remote.  None leaves the kernel's default.
    """

    a: End
    vni: int = 0
    local: str | None = None
    remote: str | None = None
    port: int = 4789
    underlay: str = ""
    dev: str | None = None
    id: str = ""
    mtu: int | None = None
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

    kind = "vxlan"
    found = False

    def __post_init__(self) -> None:
        if self.id:
            _check_id(self.id)
        _number(self.vni, 0, MAX_VNI, "vxlan.vni")
        _number(self.port, 1, 65535, "vxlan.port")
        family = 0
        if self.local is not None:
            family = Address(self.local, "vxlan.local").family
            if "/" in self.local:
                raise InvalidValue("vxlan.local", f"{self.local!r}: an outer address has no prefix length")
        if self.remote is not None:
            family = self._check_remote(self.remote, family)
        if not isinstance(self.underlay, str):
            raise InvalidValue("vxlan.underlay", f"must be text, not {type(self.underlay).__name__}")
        if self.dev is not None and name_problem(self.dev):
            raise InvalidValue("vxlan.dev", name_problem(self.dev) or "")
        for mtu, where in ((self.mtu, "mtu"), (self.a.mtu, "a.mtu")):
            if mtu is not None:
                _number(mtu, MIN_MTU, MAX_MTU - self.overhead, where)
        if self.a.ipv6 and (self.inner_mtu or 1280) < 1280:
            raise InvalidValue("mtu", f"{self.inner_mtu}: IPv6 needs an MTU of at least 1280")
        self._check_options(family)

    def _check_remote(self, remote: str, family: int) -> int:
        # a group is multicast and so no address for an interface; Neighbour takes any address
        try:
            got = Neighbour(remote, "02:00:00:00:00:01")
        except InvalidValue as e:
            raise InvalidValue("vxlan.remote", e.problem) from None
        if family and got.family != family:
            raise InvalidValue("vxlan.remote", f"{remote!r} is not of the family of the local address")
        if got.family == 4:
            multicast = 224 <= int(got.ip.partition(".")[0]) <= 239
        else:
            first = got.ip.partition(":")[0]
            multicast = len(first) == 4 and first.startswith("ff")  # ff02::1, but not ff::1, which is 00ff::1
        if multicast and self.dev is None:
            raise InvalidValue("vxlan.dev", "a multicast group needs a lower device")
        return got.family

    def _check_options(self, family: int) -> None:
        for name, most in (("ttl", 255), ("tos", 255)):
            value = getattr(self, name)
            if value is not None and value != "inherit":
                _number(value, 0, most, f"vxlan.{name}")
        if self.df not in (None, "unset", "set", "inherit"):
            raise InvalidValue("vxlan.df", f"{self.df!r} is none of unset, set, inherit")
        if self.label is not None:
            _number(self.label, 0, (1 << 20) - 1, "vxlan.label")
            if family == 4:
                raise InvalidValue("vxlan.label", "a flow label needs IPv6 outer addresses")
        if self.ageing is not None:
            _number(self.ageing, 0, 2**31 // 100, "vxlan.ageing")
        if self.limit is not None:
            _number(self.limit, 0, 0xFFFFFFFF, "vxlan.limit")
        if self.port_range is not None:
            low, high = self.port_range
            _number(low, 1, 65535, "vxlan.port_range[0]")
            _number(high, low, 65535, "vxlan.port_range[1]")
        if self.vnifilter and not self.external:
            raise InvalidValue("vxlan.vnifilter", "is only possible with `external`")
        if self.gbp and self.gpe:
            raise InvalidValue("vxlan.gpe", "gbp and gpe exclude each other")

    @property
    def inner_mtu(self) -> int | None:
        """MTU of the interface; None lets the kernel take it from the lower device."""
        if self.a.mtu or self.mtu:
            return self.a.mtu or self.mtu
        if self.dev is not None:
            return None
        return 1500 - self.overhead

    @property
    def overhead(self) -> int:
        """Bytes that the outer headers take of a packet."""
        return VXLAN_OVERHEAD[6 if ":" in (self.remote or self.local or "") else 4]

    @property
    def ends(self) -> tuple[End, ...]:
        return (self.a,)


DEVICES = ("dummy", "bridge", "vrf", "tap", "loopback", "existing")
MASTERS = ("bridge", "vrf")
FOUND = ("loopback", "existing")


@dataclass(frozen=True, slots=True)
class Device:
    """One interface in a namespace that leads nowhere else.

    kind    "dummy"; "bridge", and "vrf" with the `table` of its routes, whose ports are the ends that name it as
            their master; "tap", a persistent TAP device that a program opens by name; "loopback", the `lo` of the
            namespace; "existing", any other interface that somebody else made

    The last two are found and not made: they get what their End says, and lose that again in the end.
    """

    kind: str
    a: End
    id: str = ""
    mtu: int | None = None
    table: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in DEVICES:
            raise InvalidValue("kind", f"{self.kind!r} is none of {', '.join(DEVICES)}")
        if self.id:
            _check_id(self.id)
        if self.mtu is not None:
            _number(self.mtu, MIN_MTU, MAX_MTU, "mtu")
            if self.mtu < 1280 and self.a.ipv6 and self.a.mtu is None:
                raise InvalidValue("mtu", f"{self.mtu}: IPv6 needs an MTU of at least 1280")
        if self.kind == "vrf":
            if self.table is None:
                raise InvalidValue("vrf.table", "a VRF needs the table of its routes")
            _number(self.table, 1, 0xFFFFFFFF, "vrf.table")
        elif self.table is not None:
            raise InvalidValue("vrf", f"a {self.kind} has no table")
        if self.kind in MASTERS and self.a.master is not None:
            raise InvalidValue("a.master", f"a {self.kind} cannot be a port of another interface")
        if self.kind == "loopback" and self.a.ifname != "lo":
            raise InvalidValue("a.ifname", f"the loopback interface is called 'lo', not {self.a.ifname!r}")
        if self.kind == "loopback" and not self.a.up:
            raise InvalidValue("a.up", "a loopback interface that is down breaks its namespace")
        if self.found and self.a.queues != 1:
            raise InvalidValue("a.queues", "an interface that is there has the queues that it has")
        if self.found and self.a.route_localnet:
            raise InvalidValue("a.route_localnet", "is for interfaces that fastnl makes, with which it goes")

    @property
    def ends(self) -> tuple[End, ...]:
        return (self.a,)

    @property
    def found(self) -> bool:
        """Whether somebody else made it, so that it is neither created nor deleted."""
        return self.kind in FOUND


Connection = Veth | Vxlan | Device
