"""Compares what was asked for with what the kernel holds, field by field.

    for verdict in verify([result.wired for result in host.connect(connections)]):
        for difference in verdict.differences:
            print(difference)               # a.mtu: want 1400, have 1500

What was not asked for is not compared; only an address too many is told.  The kernel is read through
pyroute2 and never written.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass

from fastnl import readback, settings
from fastnl.links import Connection, End, Neighbour, Route, Veth, Vxlan
from fastnl.netns import Identity
from fastnl.readback import Link
from fastnl.sight import Sight, look
from fastnl.wired import Place, Wired

__all__ = ["Difference", "Verdict", "verify"]

Value = str | int | bool | None

IPV6_METRIC = 1024  # IP6_RT_PRIO_USER, include/uapi/linux/ipv6_route.h
SCOPES = {"global": 0, "site": 200, "link": 253, "host": 254}
VXLAN_AGEING = 300  # FDB_AGE_DEFAULT, drivers/net/vxlan/vxlan_core.c: what 0 stands for
KERNEL_KINDS = {"tap": "tun"}  # IFLA_INFO_KIND of what has another name here
AGELESS = ("permanent", "noarp")  # states of a neighbour that the kernel does not change

# of Vxlan; `dev` and `underlay` are compared by what they are, not by what they are called
VXLAN_FIELDS = (
    "vni", "port", "local", "remote", "port_range", "ttl", "tos", "df", "label", "ageing", "limit",
    "learning", "proxy", "rsc", "l2miss", "l3miss", "udp_csum", "udp_zero_csum6_tx", "udp_zero_csum6_rx",
    "remcsum_tx", "remcsum_rx", "remcsum_nopartial", "gbp", "gpe", "external", "vnifilter", "localbypass",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Difference:
    """One field that is not as it was asked for.

    field   path: a.netns, a.ifindex, a.ifname, a.kind, a.up, a.mtu, a.mac, a.txqlen, a.queues, a.alias,
            a.addresses[i] (missing, or of another length), a.addresses (one too many), a.routes[i],
            a.neighbours[i], a.rules[i], a.route_localnet, a.ping_group_range, a.peer, the same for b, and vxlan.… by
            the names of Vxlan's fields
    want    as asked for; None: it should not be there
    have    as the kernel has it; None: it is not there

    A namespace is spelled "inode:4026532008", a route, a neighbour and a rule as `ip` does, a setting as its file does.
    """

    field: str
    want: Value
    have: Value

    def __str__(self) -> str:
        return f"{self.field}: want {_words(self.want)}, have {_words(self.have)}"


def _words(value: Value) -> str:
    return "nothing" if value is None else str(value)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found out about one connection."""

    wired: Wired
    differences: tuple[Difference, ...]

    @property
    def ok(self) -> bool:
        return not self.differences


def verify(wired: Sequence[Wired], *, alias: Callable[[Connection, int], str] | None = None) -> list[Verdict]:
    """One Verdict per connection, in the order given.

    An end is looked for by the namespace and index of its place.  Wired(connection, ()) has no places: its
    ends are looked for by name.

    alias   gives the alias that an end must carry, e.g. Host.alias; None: it is not compared

    Raises InvalidValue for a reference that cannot be one, NoPermission and KernelError where a namespace that
    is there cannot be read.  For any thread, beside a running event loop too.
    """
    sight = look(wired)
    return [Verdict(w, tuple(_differences(w, sight, alias))) for w in wired]


def _differences(w: Wired, sight: Sight, alias: Callable[[Connection, int], str] | None) -> Iterator[Difference]:
    links: list[Link] = []
    for n, end in enumerate(w.connection.ends):
        at = "ab"[n]
        link = yield from _find(at, end, w.places[n] if w.places else None, sight)
        seen = sight.at(end.netns)
        if link is None or seen is None:
            continue
        yield from _link(at, w.connection, end, link)
        if alias is not None and not w.connection.found:
            yield from _compare(f"{at}.alias", alias(w.connection, n), link.alias)
        yield from _addresses(at, end, seen.addresses.get(link.ifindex, []), w.connection.found)
        yield from _routes(at, end, link.ifindex, seen.routes.get(link.ifindex, []))
        yield from _neighbours(at, end, seen.neighbours.get(link.ifindex, []))
        yield from _rules(at, end, seen.rules)
        for field, (path, want) in settings.wanted(end).items():
            yield from _compare(f"{at}.{field}", want, seen.settings.get(path))
        if link.kind == KERNEL_KINDS.get(w.connection.kind, w.connection.kind):
            links.append(link)
    if len(links) < len(w.connection.ends):
        return  # how what is not there is tied to the rest goes without saying
    if isinstance(w.connection, Vxlan):
        yield from _vxlan(w.connection, links[0], sight)
    elif isinstance(w.connection, Veth):
        (a, b), (link_a, link_b) = w.connection.ends, links
        yield from _peer("a", a, link_a, b, link_b, sight)
        yield from _peer("b", b, link_b, a, link_a, sight)


def _compare(path: str, want: Value, have: Value) -> Iterator[Difference]:
    if want != have:
        yield Difference(path, want, have)


# -- an end ----------------------------------------------------------------------------------------


def _find(at: str, end: End, place: Place | None, sight: Sight) -> Generator[Difference, None, Link | None]:
    """The interface of an end; None, with a Difference, if it is not there or not the one that was wired."""
    who, seen = sight.who[end.netns], sight.at(end.netns)
    if who is None or seen is None:
        yield Difference(f"{at}.netns", _namespace(place.netns) if place else end.netns, None)
        return None
    if place is None:
        link = seen.by_name.get(end.ifname)
        if link is None:
            yield Difference(f"{at}.ifname", end.ifname, None)
        return link
    if who != place.netns:
        exact = who.inode == place.netns.inode
        yield Difference(f"{at}.netns", _namespace(place.netns, exact=exact), _namespace(who, exact=exact))
        return None
    link = seen.by_index.get(place.ifindex)
    if link is None:
        other = seen.by_name.get(end.ifname)
        yield Difference(f"{at}.ifindex", place.ifindex, other.ifindex if other else None)
    return link


def _namespace(who: Identity, *, exact: bool = False) -> str:
    """`exact` tells namespaces apart that had the same inode one after the other."""
    return f"inode:{who.inode} (id {who.id})" if exact else f"inode:{who.inode}"


def _link(at: str, connection: Connection, end: End, link: Link) -> Iterator[Difference]:
    mtu = connection.inner_mtu if isinstance(connection, Vxlan) else end.mtu or connection.mtu
    yield from _compare(f"{at}.ifname", end.ifname, link.ifname)
    if not connection.found:
        yield from _compare(f"{at}.kind", KERNEL_KINDS.get(connection.kind, connection.kind), link.kind)
    yield from _compare(f"{at}.up", end.up, link.up)
    if mtu is not None:
        yield from _compare(f"{at}.mtu", mtu, link.mtu)
    if end.mac is not None:
        yield from _compare(f"{at}.mac", end.mac.lower(), link.mac)
    if end.txqlen is not None:
        yield from _compare(f"{at}.txqlen", end.txqlen, link.txqlen)
    for queues in sorted(set(link.queues) - {end.queues}):
        yield Difference(f"{at}.queues", end.queues, queues)


def _addresses(at: str, end: End, have: list[str], found: bool) -> Iterator[Difference]:
    want = [address.text for address in end.addresses]
    extra = [text for text in have if text not in want]
    for i, address in enumerate(end.addresses):
        if address.text in have:
            continue
        other = next((text for text in extra if text.split("/")[0] == address.ip), None)
        if other is not None:
            extra.remove(other)
        yield Difference(f"{at}.addresses[{i}]", address.text, other)
    for text in () if found or end.keep_addresses else extra:
        # an interface with IPv6 has a link-local address without being asked
        if not (end.ipv6 and text.startswith("fe80:")):
            yield Difference(f"{at}.addresses", None, text)


def _routes(at: str, end: End, ifindex: int, have: list[readback.Route]) -> Iterator[Difference]:
    for i, route in enumerate(end.routes):
        want = _as_kept(route, ifindex)
        if want not in have:
            similar = [row for row in have if (row.to, row.table) == (want.to, want.table)]
            yield Difference(f"{at}.routes[{i}]", str(want), ", ".join(map(str, similar)) or None)


def _as_kept(route: Route, ifindex: int) -> readback.Route:
    """A route as the kernel keeps it, with the defaults that the kernel fills in."""
    return readback.Route(
        ifindex=ifindex,
        to=route.to,
        via=route.via or "",
        metric=route.metric or (IPV6_METRIC if route.family == 6 else 0),
        table=route.table or readback.MAIN_TABLE,
        source=route.source or "",
        onlink=route.onlink,
        scope=SCOPES[route.scope or ("link" if route.family == 4 and route.via is None else "global")],
        kind="unicast",
    )


def _neighbours(at: str, end: End, have: list[readback.Neighbour]) -> Iterator[Difference]:
    by_ip = {row.ip: row for row in have}
    for i, neighbour in enumerate(end.neighbours):
        row = by_ip.get(neighbour.ip)
        if row is None or not _same(neighbour, row):
            want = f"{neighbour.ip} lladdr {neighbour.mac} {neighbour.state}"
            yield Difference(f"{at}.neighbours[{i}]", want, str(row) if row else None)


def _same(want: Neighbour, have: readback.Neighbour) -> bool:
    return want.mac == have.mac and (want.state == have.state or not {want.state, have.state} & set(AGELESS))


def _rules(at: str, end: End, have: list[readback.Rule]) -> Iterator[Difference]:
    for i, rule in enumerate(end.rules):
        family = socket.AF_INET6 if rule.family == 6 else socket.AF_INET
        like = [row for row in have if row.family == family and row.words.startswith(f"{rule.priority}:")]
        if not any(row.words == str(rule) and not row.others for row in like):
            yield Difference(f"{at}.rules[{i}]", str(rule), ", ".join(map(str, like)) or None)


def _peer(at: str, end: End, link: Link, other: End, peer: Link, sight: Sight) -> Iterator[Difference]:
    """Whether a veth leads to the other end; an index alone may mean an interface of another namespace."""
    if link.link != peer.ifindex:
        yield Difference(f"{at}.peer", peer.ifindex, link.link or None)
    elif not sight.tied(link, end.netns, other.netns):
        yield Difference(f"{at}.peer", peer.ifindex, f"{link.link} in another namespace")


# -- a tunnel --------------------------------------------------------------------------------------


def _vxlan(v: Vxlan, link: Link, sight: Sight) -> Iterator[Difference]:
    have = link.vxlan or {}
    for name in VXLAN_FIELDS:
        want = _as_told(name, getattr(v, name))
        if want is not None:
            yield from _compare(f"vxlan.{name}", want, have.get(name))
    if not sight.tied(link, v.a.netns, v.underlay):
        yield Difference("vxlan.underlay", v.underlay, "another namespace" if sight.at(v.underlay) else None)
    elif v.dev is not None:
        underlay = sight.at(v.underlay)
        lower = underlay.by_name.get(v.dev) if underlay else None
        if lower is None or lower.ifindex != have.get("lower"):
            yield Difference("vxlan.dev", v.dev, f"index {have['lower']}" if have.get("lower") else None)


def _as_told(name: str, want: Value | tuple[int, int]) -> Value:
    """A value of Vxlan as the kernel keeps it, in the spelling of readback.Link.vxlan."""
    if isinstance(want, tuple):
        return "{}-{}".format(*want)
    if isinstance(want, str) and name in ("local", "remote"):
        family = socket.AF_INET6 if ":" in want else socket.AF_INET
        return socket.inet_ntop(family, socket.inet_pton(family, want))
    if name == "ageing":
        return VXLAN_AGEING if want == 0 else want
    return "inherit" if name == "tos" and want == 1 else want
