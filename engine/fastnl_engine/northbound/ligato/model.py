"""What a value of the configuration means, the same for both layouts: frozen, normalized and checked.

InvalidValue names the field as the configuration spells it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import fastnl
from fastnl import InvalidValue
from fastnl._nl import name_problem
from fastnl.links import End
from fastnl.netns import canonical

Type = Literal["veth", "tap", "loopback", "existing", "vrf", "dummy"]
Scope = Literal["global", "site", "link", "host"]

# As the configuration calls them, for people.
TYPE_NAMES: dict[Type, str] = {
    "veth": "VETH",
    "tap": "TAP_TO_VPP",
    "loopback": "LOOPBACK",
    "existing": "EXISTING",
    "vrf": "VRF_DEVICE",
    "dummy": "DUMMY",
}

MAX_NAME = 255  # bytes; names become part of ids and labels
MAX_PARTS = 4096  # addresses, routes or neighbours of one end, as in the engine's own connections
MIN_IPV6_MTU = 1280

# Names of the library's fields and those of the configuration.
_FIELDS = {"ifname": "host_if_name", "mac": "phys_address", "addresses": "ip_addresses", "netns": "namespace"}


def check_name(name: str, field: str = "name") -> None:
    """Raises InvalidValue for text that cannot be a logical name."""
    if not name:
        raise InvalidValue(field, "is empty")
    if not name.isprintable():
        raise InvalidValue(field, f"{name!r} holds characters that cannot be printed")
    if len(name.encode()) > MAX_NAME:
        raise InvalidValue(field, f"is longer than {MAX_NAME} bytes")


def check_namespace(reference: str, field: str = "namespace") -> str:
    """The reference as the engine spells it.  Raises InvalidValue for one that cannot be a namespace."""
    if reference.startswith("microservice:"):
        check_name(reference.partition(":")[2], field)
        return reference
    try:
        return canonical(reference)
    except InvalidValue as e:
        raise InvalidValue(field, e.problem) from None


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface.

    name          logical, what others refer to; host_if_name: in the kernel, "" becomes the name ("lo" of a loopback)
    netns         reference of the engine: "", a name, pid:N, file:/path or microservice:label
    mtu           bytes, 0: as the kernel has it; phys_address "": likewise
    peer          of a veth: the logical name of the other half
    link_only     addresses are somebody else's business
    rx_checksum, tx_checksum   offloads; None: as the kernel has them
    vrf_master    logical name of the VRF that it is in; table: of a VRF
    tap_source    of a tap: what the VPP side called it; there is no VPP here, so it is only kept
    """

    name: str
    type: Type
    netns: str = ""
    host_if_name: str = ""
    enabled: bool = False
    ip_addresses: tuple[str, ...] = ()
    phys_address: str = ""
    mtu: int = 0
    peer: str = ""
    link_only: bool = False
    rx_checksum: bool | None = None
    tx_checksum: bool | None = None
    vrf_master: str = ""
    table: int = 0
    tap_source: str = ""

    def __post_init__(self) -> None:
        check_name(self.name)
        put = object.__setattr__
        put(self, "netns", check_namespace(self.netns))
        put(self, "phys_address", self.phys_address.lower().replace("-", ":"))
        self._name_in_kernel()
        if len(self.ip_addresses) > MAX_PARTS:
            raise InvalidValue("ip_addresses", f"has more than {MAX_PARTS} entries")
        addresses = [fastnl.Address(a, f"ip_addresses[{i}]") for i, a in enumerate(self.ip_addresses)]
        addresses = list(dict.fromkeys(addresses))
        put(self, "ip_addresses", tuple(a.text for a in addresses))
        try:
            End(self.netns, self.host_if_name, addresses, mac=self.phys_address or None, mtu=self.mtu or None)
        except InvalidValue as e:
            raise InvalidValue(_FIELDS.get(e.field, e.field), e.problem) from None
        self._fits_type()

    def _name_in_kernel(self) -> None:
        default = "lo" if self.type == "loopback" else self.name
        if not self.host_if_name:
            problem = name_problem(default)
            if problem:
                raise InvalidValue("host_if_name", f"is empty, and the name cannot take its place: {problem}")
            object.__setattr__(self, "host_if_name", default)
        elif self.type == "loopback" and self.host_if_name != "lo":
            raise InvalidValue("host_if_name", f"{self.host_if_name!r}: the loopback of a namespace is called lo")

    def _fits_type(self) -> None:
        if self.type == "veth":
            if not self.peer:
                raise InvalidValue("veth.peer_if_name", "is empty; a VETH needs the name of its other half")
            if self.peer == self.name:
                raise InvalidValue("veth.peer_if_name", f"{self.peer!r} is the interface itself")
        if self.type == "existing" and self.netns:
            raise InvalidValue("namespace", "an EXISTING interface is in the engine's own namespace")
        if self.type == "vrf":
            if not 0 < self.table <= 0xFFFFFFFF:
                raise InvalidValue("vrf_dev.routing_table", f"{self.table} is not between 1 and 4294967295")
            if self.phys_address:
                raise InvalidValue("phys_address", "a VRF_DEVICE has none")
            if self.vrf_master:
                raise InvalidValue("vrf_master_interface", "a VRF_DEVICE cannot be in a VRF")
        if self.type == "loopback" and (self.phys_address or self.vrf_master):
            field = "phys_address" if self.phys_address else "vrf_master_interface"
            raise InvalidValue(field, "a LOOPBACK has none")
        if self.vrf_master == self.name:
            raise InvalidValue("vrf_master_interface", f"{self.name!r} is the interface itself")

    @property
    def type_name(self) -> str:
        return TYPE_NAMES[self.type]

    @property
    def found(self) -> bool:
        """Whether somebody else made it; it then keeps whatever it had."""
        return self.type in ("existing", "loopback")

    @property
    def has_others_addresses(self) -> bool:
        """Whether it may have addresses that the configuration does not tell of."""
        return self.link_only or self.found


@dataclass(frozen=True, slots=True)
class Route:
    """A route through an interface, named by its logical name.

    netns   that the value names (v1), "" without: then it is the interface's
    scope   None: the kernel's natural one, link without `via` and global with it
    """

    interface: str
    to: str
    via: str | None = None
    metric: int = 0
    table: int = 0
    source: str | None = None
    scope: Scope | None = None
    netns: str = ""

    def __post_init__(self) -> None:
        check_name(self.interface, "interface")
        route = fastnl.Route(self.to, self.via, metric=self.metric, table=self.table, source=self.source, field="route")
        if self.via is not None and self.scope == "host":
            raise InvalidValue("scope", "a route with a gateway cannot have the scope HOST")
        put = object.__setattr__
        put(self, "netns", check_namespace(self.netns))
        put(self, "to", route.to)
        put(self, "via", route.via)
        put(self, "source", route.source)
        natural = "link" if route.via is None else "global"
        # IPv6 has no scopes of routes
        if self.scope == natural or route.family == 6:
            put(self, "scope", None)

    @property
    def ipv6(self) -> bool:
        return ":" in self.to


@dataclass(frozen=True, slots=True)
class Arp:
    """A neighbour entry on an interface, named by its logical name.  netns as of Route."""

    interface: str
    ip: str
    mac: str
    state: str = "permanent"
    netns: str = ""

    def __post_init__(self) -> None:
        check_name(self.interface, "interface")
        entry = fastnl.Neighbour(self.ip, self.mac.replace("-", ":"), state=self.state, field="entry")
        put = object.__setattr__
        put(self, "netns", check_namespace(self.netns))
        put(self, "ip", entry.ip)
        put(self, "mac", entry.mac)

    @property
    def ipv6(self) -> bool:
        return ":" in self.ip


@dataclass(frozen=True, slots=True)
class AfPacket:
    """A dependent: an AF_PACKET interface of somebody else, on a host interface in the engine's own namespace.

    linux_interface   logical name of an Interface here, instead of host_if_name
    """

    name: str
    host_if_name: str = ""
    linux_interface: str = ""
    enabled: bool = False

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.linux_interface:
            check_name(self.linux_interface, "afpacket.linux_interface")
            return
        problem = name_problem(self.host_if_name)
        if problem:
            raise InvalidValue("afpacket.host_if_name", problem)


Value = Interface | Route | Arp | AfPacket
