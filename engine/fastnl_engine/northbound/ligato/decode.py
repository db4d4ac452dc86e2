"""From the JSON of a value to its model, for both layouts.

Tolerant, for what people have in etcd: any spelling of a field, numbers or names for enums, null for absent.
What is unknown is a remark, what is wrong an error with field, line and column.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from fastnl import Address, InvalidValue
from fastnl import Route as RouteValue
from fastnl_engine.northbound.ligato.fields import Bad, Fields, Names
from fastnl_engine.northbound.ligato.keys import Key, Layout
from fastnl_engine.northbound.ligato.model import AfPacket, Arp, Interface, Route, Scope, Type, Value, check_namespace
from fastnl_engine.northbound.ligato.text import DecodeError, Path, fold, locate, parse_object


class Remark(NamedTuple):
    """Something odd in a value that is taken all the same."""

    field: str
    problem: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.field}: {self.problem} (line {self.line})"


class Decoded(NamedTuple):
    """value is None for configuration that is not ours: an interface of VPP that is no AF_PACKET interface."""

    value: Value | None
    remarks: tuple[Remark, ...] = ()


_INTERFACE = Names(
    "name", "description", "type", "enabled", "ip_addresses", "phys_address", "mtu", "host_if_name", "namespace",
    "link_only", "vrf_master_interface", "link", "veth", "tap", "vrf_dev",
    linux_namespace="namespace",
)  # fmt: skip
_LINK = Names("veth", "tap", "vrf_dev")
_VETH = Names("peer_if_name", "rx_checksum_offloading", "tx_checksum_offloading")
_TAP = Names("temp_if_name", "vpp_tap_if_name")
_VRF = Names("routing_table")
_NAMESPACE = Names("type", "pid", "microservice", "name", "filepath", "reference")
_ROUTE = {
    "v1": Names(
        "name", "description", "default", "namespace", "interface", "scope", "dst_ip_addr", "src_ip_addr", "gw_addr",
        "metric", "table",
        linux_namespace="namespace",
    ),
    "v3": Names("outgoing_interface", "scope", "dst_network", "gw_addr", "metric"),
}  # fmt: skip
_ARP = {
    "v1": Names(
        "name", "namespace", "interface", "ip_family", "state", "ip_addr", "hw_address",
        linux_namespace="namespace", family="ip_family", nud_state="state",
    ),
    "v3": Names("interface", "ip_address", "hw_address"),
}  # fmt: skip
_AFPACKET = Names("host_if_name", "linux_interface")

_TYPES: dict[str, Type | None] = {
    "UNDEFINED": None,
    "VETH": "veth",
    "AUTO_TAP": "tap",
    "TAP_TO_VPP": "tap",
    "TAP": "tap",
    "LOOPBACK": "loopback",
    "EXISTING": "existing",
    "VRF_DEVICE": "vrf",
    "VRF": "vrf",
    "DUMMY": "dummy",
}
_TYPE_NUMBERS: dict[Layout, dict[int, str]] = {
    "v1": {0: "VETH", 1: "AUTO_TAP"},
    "v3": dict(enumerate(("UNDEFINED", "VETH", "TAP_TO_VPP", "LOOPBACK", "EXISTING", "VRF_DEVICE", "DUMMY"))),
}
_NAMESPACES: dict[Layout, dict[int, str]] = {
    "v1": dict(enumerate(("PID_REF_NS", "MICROSERVICE_REF_NS", "NAMED_NS", "FILE_REF_NS"))),
    "v3": dict(enumerate(("UNDEFINED", "NSID", "PID", "FD", "MICROSERVICE"))),
}
_NAMESPACE_NAMES = {name: name for numbers in _NAMESPACES.values() for name in numbers.values()}
_V1_REFERENCE = {
    "PID_REF_NS": ("pid", "pid:"),
    "MICROSERVICE_REF_NS": ("microservice", "microservice:"),
    "NAMED_NS": ("name", "name:"),
    "FILE_REF_NS": ("filepath", "file:"),
}
_V3_REFERENCE = {"NSID": "name:", "PID": "pid:", "FD": "file:", "MICROSERVICE": "microservice:"}
_OFFLOADS = {0: "CHKSM_OFFLOAD_DEFAULT", 1: "CHKSM_OFFLOAD_ENABLED", 2: "CHKSM_OFFLOAD_DISABLED"}
_OFFLOAD: dict[str | None, bool] = {"CHKSM_OFFLOAD_ENABLED": True, "CHKSM_OFFLOAD_DISABLED": False}
_SCOPES: dict[Layout, dict[int, str]] = {
    "v1": dict(enumerate(("GLOBAL", "SITE", "LINK", "HOST"))),
    "v3": dict(enumerate(("UNDEFINED", "GLOBAL", "SITE", "LINK", "HOST"))),
}
_SCOPE: dict[str | None, Scope] = {"GLOBAL": "global", "SITE": "site", "LINK": "link", "HOST": "host"}
_STATES = dict(enumerate(("PERMANENT", "NOARP", "REACHABLE", "STALE")))
_FAMILIES = dict(enumerate(("IPV4", "IPV6", "ALL", "MPLS")))
# of VPP's own interface types only the one that depends on an interface of Linux
_AFPACKET_NUMBER = {"v1": 4, "v3": 6}
_AFPACKET_NAMES = ("AF_PACKET_INTERFACE", "AF_PACKET")

_STEP = re.compile(r"[^.\[\]]+")


def decode(key: Key, value: bytes) -> Decoded:
    """What `value` under `key` means.  Raises DecodeError, nothing else, whatever the bytes are."""
    if key.problem:
        raise DecodeError("key", key.problem)
    if key.kind == "other":
        raise DecodeError("key", "this kind of configuration is not supported")
    odd: list[tuple[Path, str]] = []
    try:
        text, obj = parse_object(value)
    except DecodeError:
        if key.kind == "afpacket":
            return Decoded(None)  # VPP's to judge
        raise
    try:
        found = _DECODERS[key.kind](key, obj, lambda path, problem: odd.append((path, problem)))
    except Bad as e:
        raise _error(text, e.path, e.problem) from None
    except InvalidValue as e:
        path = tuple(int(step) if step.isdigit() else step for step in _STEP.findall(e.field))
        raise _error(text, path, e.problem) from None
    return Decoded(found, tuple(Remark(_dotted(path), problem, *_place(text, path)) for path, problem in odd))


def _error(text: str, path: Path, problem: str) -> DecodeError:
    return DecodeError(_dotted(path), problem, *_place(text, path))


def _place(text: str, path: Path) -> tuple[int, int]:
    return locate(text, tuple(fold(step) if isinstance(step, str) else step for step in path))


def _dotted(path: Path) -> str:
    return "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in path).lstrip(".")


def _interface(key: Key, obj: dict[str, Any], say: Any) -> Interface:
    f = Fields(obj, _INTERFACE, (), say)
    f.flatten("link", _LINK)
    name = f.text("name")
    if key.layout == "v3":
        if name != key.name:
            raise f.bad("name", f"{name!r} is not the name in the key, {key.name!r}" if name else "is empty")
    elif not name:
        name = key.name
        say(("name",), f"is empty: taken from the key, {name!r}")
    elif name != key.name:
        say(("name",), f"{name!r} is not the name in the key, {key.name!r}: the value counts")
    word = f.choice("type", _TYPE_NUMBERS[key.layout], {word: word for word in _TYPES})
    if word is None and key.layout == "v1":
        word = "VETH"  # the zero of the enum, which writers leave out
    type_ = _TYPES[word] if word else None
    if type_ is None:
        raise f.bad("type", "is not defined; one of VETH, TAP_TO_VPP, LOOPBACK, EXISTING, VRF_DEVICE, DUMMY")
    for section, owner in (("veth", "veth"), ("tap", "tap"), ("vrf_dev", "vrf")):
        if section in f and owner != type_:
            if key.layout == "v3":
                raise f.bad(section, f"does not go with the type {word}")
            say((section,), f"does not go with the type {word}: ignored")
    peer, rx, tx, table, source = "", None, None, 0, ""
    if type_ == "veth":
        veth = f.message("veth", _VETH)
        peer = veth.text("peer_if_name")
        rx, tx = (_offload(veth, name) for name in ("rx_checksum_offloading", "tx_checksum_offloading"))
    elif type_ == "tap":
        tap = f.message("tap", _TAP)
        source = tap.text("temp_if_name") or tap.text("vpp_tap_if_name")
        if source:
            say(("tap",), "there is no VPP behind it: the TAP is made here")
    elif type_ == "vrf":
        table = f.message("vrf_dev", _VRF).number("routing_table")
    addresses = f.texts("ip_addresses")
    _remark_addresses(addresses, say)
    enabled = f.flag("enabled")
    if type_ == "loopback" and not enabled:
        say(("enabled",), "a LOOPBACK stays up: without it nothing in its namespace works")
        enabled = True
    link_only = f.flag("link_only")
    if link_only and addresses:
        say(("ip_addresses",), "are left alone, because of link_only")
    return Interface(
        name=name,
        type=type_,
        netns=_namespace(f, key.layout, say),
        host_if_name=f.text("host_if_name"),
        enabled=enabled,
        ip_addresses=tuple(addresses),
        phys_address=f.text("phys_address"),
        mtu=f.number("mtu"),
        peer=peer,
        link_only=link_only,
        rx_checksum=rx,
        tx_checksum=tx,
        vrf_master=f.text("vrf_master_interface"),
        table=table,
        tap_source=source,
    )


def _offload(veth: Fields, name: str) -> bool | None:
    word = veth.choice(name, _OFFLOADS, {word: word for word in _OFFLOADS.values()})
    return _OFFLOAD.get(word)


def _remark_addresses(addresses: list[str], say: Any) -> None:
    for i, text in enumerate(addresses):
        if text.startswith("alloc:"):
            raise Bad(("ip_addresses", i), f"{text!r}: allocated addresses are not supported; write the address itself")
        if "/" not in text:
            say(("ip_addresses", i), f"{text!r} has no prefix length: taken for /{128 if ':' in text else 32}")
    if len(set(addresses)) < len(addresses):
        say(("ip_addresses",), "holds an address twice")


def _namespace(f: Fields, layout: Layout, say: Any) -> str:
    """The engine's reference for the namespace of an interface, route or neighbour."""
    if "namespace" not in f:
        return ""
    ns = f.message("namespace", _NAMESPACE)
    kind = ns.choice("type", _NAMESPACES[layout], _NAMESPACE_NAMES)
    if kind is None:
        kind = _NAMESPACES[layout][0]
    if kind in _V1_REFERENCE:
        if "reference" in ns:
            raise ns.bad("reference", f"does not go with the type {kind}; that is {_V1_REFERENCE[kind][0]}")
        field, scheme = _V1_REFERENCE[kind]
        for other in ("pid", "microservice", "name", "filepath"):
            if other != field and other in ns:
                say(("namespace", other), f"does not go with the type {kind}: ignored")
        value = str(ns.number("pid") or "") if field == "pid" else ns.text(field)
        if not value and kind == "MICROSERVICE_REF_NS":
            raise ns.bad("microservice", "is empty")
    else:
        for other in ("pid", "microservice", "name", "filepath"):
            if other in ns:
                raise ns.bad(other, f"does not go with the type {kind}; that is reference")
        if kind == "UNDEFINED":
            raise ns.bad("type", "is not defined; one of NSID, PID, FD, MICROSERVICE")
        field, scheme = "reference", _V3_REFERENCE[kind]
        value = ns.text("reference")
        if not value and kind != "FD":
            raise ns.bad("reference", "is empty")
    if not value:
        return ""
    try:
        return check_namespace(scheme + value)
    except InvalidValue as e:
        raise ns.bad(field, e.problem) from None


def _route(key: Key, obj: dict[str, Any], say: Any) -> Route:
    v1 = key.layout == "v1"
    f = Fields(obj, _ROUTE[key.layout], (), say)
    interface, to = ("interface", "dst_ip_addr") if v1 else ("outgoing_interface", "dst_network")
    destination = f.text(to)
    if v1 and f.flag("default"):
        if destination and not destination.endswith("/0"):
            say((to,), f"{destination!r} does not count, because of default")
        destination = "default"
    if not destination:
        raise f.bad(to, "is empty; a default route has default: true" if v1 else "is empty")
    gateway = f.text("gw_addr")
    if "/" in gateway:
        say(("gw_addr",), f"{gateway!r} has a prefix length: ignored")
        gateway = gateway.partition("/")[0]
    names = {"to": to, "via": "gw_addr", "source": "src_ip_addr", "interface": interface}
    with_names = _Renamed(names)
    with with_names:
        route = Route(
            interface=f.text(interface),
            to=destination,
            via=gateway or None,
            metric=f.number("metric"),
            table=f.number("table") if v1 else 0,
            source=(f.text("src_ip_addr") or None) if v1 else None,
            scope=_scope(f, key.layout),
            netns=_namespace(f, key.layout, say) if v1 else "",
        )
    if not v1:
        ip, prefix, outgoing = key.parts
        if outgoing != route.interface:
            raise f.bad(interface, f"{route.interface!r} is not the interface in the key, {outgoing!r}")
        try:
            same = RouteValue(f"{ip}/{prefix}").to == route.to
        except InvalidValue:
            same = False
        if not same:
            raise f.bad(to, f"{destination!r} is not the network in the key, {ip}/{prefix}")
    return route


def _scope(f: Fields, layout: Layout) -> Scope | None:
    names = {word: word for word in _SCOPES[layout].values()}
    if layout == "v1" and f.is_object("scope"):
        inner = f.message("scope", Names("type"))
        return _SCOPE[inner.choice("type", _SCOPES["v1"], names) or "GLOBAL"]
    return _SCOPE.get(f.choice("scope", _SCOPES[layout], names))


def _arp(key: Key, obj: dict[str, Any], say: Any) -> Arp:
    v1 = key.layout == "v1"
    f = Fields(obj, _ARP[key.layout], (), say)
    ip_field = "ip_addr" if v1 else "ip_address"
    state = "PERMANENT"
    if v1:
        words = {word: word for word in (*_STATES.values(), *_FAMILIES.values())}
        holder, name = (f.message("state", Names("type")), "type") if f.is_object("state") else (f, "state")
        state = holder.choice(name, _STATES, words) or "PERMANENT"
        holder, name = (
            (f.message("ip_family", Names("family")), "family") if f.is_object("ip_family") else (f, "ip_family")
        )
        family = holder.choice(name, _FAMILIES, words)
        if family == "MPLS":
            raise f.bad("ip_family", "MPLS neighbours are not supported")
        if family == "IPV6" and ":" not in f.text(ip_field):
            say(("ip_family",), f"{family} is not the family of {f.text(ip_field)!r}: ignored")
    address = f.text(ip_field)
    if "/" in address:
        say((ip_field,), f"{address!r} has a prefix length: ignored")
        address = address.partition("/")[0]
    with _Renamed({"ip": ip_field, "mac": "hw_address"}):
        arp = Arp(
            interface=f.text("interface"),
            ip=address,
            mac=f.text("hw_address"),
            state=state.lower(),
            netns=_namespace(f, key.layout, say) if v1 else "",
        )
    if not v1:
        interface, ip = key.parts
        if interface != arp.interface:
            raise f.bad("interface", f"{arp.interface!r} is not the interface in the key, {interface!r}")
        try:
            same = Address(ip).ip == arp.ip
        except InvalidValue:
            same = ip == arp.ip
        if not same:
            raise f.bad(ip_field, f"{address!r} is not the address in the key, {ip!r}")
    return arp


class _Renamed:
    """The library's names for fields become the configuration's."""

    def __init__(self, names: dict[str, str]) -> None:
        self._names = names

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, e: BaseException | None, trace: object) -> None:
        if isinstance(e, InvalidValue):
            last = e.field.rpartition(".")[2]
            raise InvalidValue(self._names.get(last, last), e.problem) from None


def _afpacket(key: Key, obj: dict[str, Any], say: Any) -> AfPacket | None:
    # an interface of VPP has many fields that are nobody's business here
    known = Names("name", "type", "enabled", "afpacket")
    mine = {name: value for raw, value in obj.items() if (name := known.get(raw))}
    type_ = mine.get("type")
    named = isinstance(type_, str) and type_.upper() in _AFPACKET_NAMES
    if not named and (isinstance(type_, bool) or type_ != _AFPACKET_NUMBER[key.layout]):
        return None
    f = Fields(mine, known, (), say)
    name = f.text("name")
    if key.layout == "v3" and name != key.name:
        raise f.bad("name", f"{name!r} is not the name in the key, {key.name!r}" if name else "is empty")
    link = f.message("afpacket", _AFPACKET)
    return AfPacket(
        name=name or key.name,
        host_if_name=link.text("host_if_name"),
        linux_interface=link.text("linux_interface"),
        enabled=f.flag("enabled"),
    )


_DECODERS: dict[str, Any] = {"interface": _interface, "route": _route, "arp": _arp, "afpacket": _afpacket}
