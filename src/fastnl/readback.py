"""What the kernel holds, read by pyroute2: eyes that share no code with the hand that writes.

pyroute2 itself would fork a child for each namespace.  Here its socket is made inside the namespace by
route_socket and handed over by descriptor, and IPRSocket reads from it without asyncio: so it works on any
thread, whether an event loop runs there or not, and leaves nothing behind.  Nothing here changes anything.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pyroute2 import IPRSocket
from pyroute2.netlink import NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, nla
from pyroute2.netlink.rtnl import (
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_GETNEIGH,
    RTM_GETNSID,
    RTM_GETROUTE,
    RTM_GETRULE,
    ndmsg,
    rt_type,
)
from pyroute2.netlink.rtnl.fibmsg import FR_ACT_TO_TBL, fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ifinfmsg.plugins.vxlan import vxlan
from pyroute2.netlink.rtnl.nsidmsg import nsidmsg
from pyroute2.netlink.rtnl.rtmsg import RTNH_F_ONLINK, rtmsg

from fastnl._nl import route_socket
from fastnl.errors import FastnlError, KernelError, NoPermission

GET = NLM_F_REQUEST | NLM_F_ACK
DUMP = NLM_F_REQUEST | NLM_F_DUMP
DUMP_TRIES = 8  # of a dump under which the table changed
IFF_UP = 1
SKIP_STATS = 1 << 3  # RTEXT_FILTER_SKIP_STATS: counters are summed over every CPU
RTM_F_CLONED = 0x200  # a cached exception, not a route
MAIN_TABLE = 254
NO_NUMBER = ALL_ONES = 0xFFFFFFFF  # the former: NETNSA_NSID_NOT_ASSIGNED
SCOPES = {0: "", 200: " scope site", 253: " scope link", 254: " scope host"}

# IFLA_VXLAN_* that are always told, and those that are left out when they are off
VXLAN_SWITCHES = {name: name for name in (
    "learning", "proxy", "rsc", "l2miss", "l3miss", "udp_csum", "udp_zero_csum6_tx", "udp_zero_csum6_rx",
    "remcsum_tx", "remcsum_rx", "localbypass",
)} | {"external": "collect_metadata"}  # fmt: skip
VXLAN_FLAGS = ("gbp", "gpe", "remcsum_nopartial", "vnifilter")


class Link(NamedTuple):
    """One interface.

    link          index of the veth peer or lower device, 0: none
    link_netns    the number by which its namespace knows the one that `link` is in, None: itself
    queues        transmit, receive
    vxlan         by the names of fastnl.Vxlan's fields, and "lower", the index of the device that it calls
                  `dev`; a value that the kernel does not tell is None; None for other kinds
    """

    ifindex: int
    ifname: str
    kind: str
    up: bool
    mtu: int
    mac: str
    alias: str
    txqlen: int
    queues: tuple[int, int]
    link: int
    link_netns: int | None
    vxlan: dict[str, str | int | bool | None] | None


class Route(NamedTuple):
    """One route through one interface; a route of several next hops is several of these."""

    ifindex: int
    to: str
    via: str
    metric: int
    table: int
    source: str
    onlink: bool
    scope: int
    kind: str

    def __str__(self) -> str:
        """As `ip route` spells it, without the device."""
        kind = "" if self.kind == "unicast" else f"{self.kind} "
        via = f" via {self.via}" if self.via else ""
        table = f" table {self.table}" if self.table != MAIN_TABLE else ""
        source = f" src {self.source}" if self.source else ""
        metric = f" metric {self.metric}" if self.metric else ""
        scope = SCOPES.get(self.scope, f" scope {self.scope}")
        return f"{kind}{self.to}{via}{table}{scope}{source}{metric}{' onlink' if self.onlink else ''}"


class Neighbour(NamedTuple):
    ifindex: int
    ip: str
    mac: str
    state: str

    def __str__(self) -> str:
        return f"{self.ip} lladdr {self.mac or '-'} {self.state}"


class Rule(NamedTuple):
    """One policy rule.

    others   what else selects packets or happens to them, by the kernel's names
    """

    family: int
    words: str
    others: tuple[str, ...]

    def __str__(self) -> str:
        """As `ip rule` spells it."""
        return " ".join((self.words, *self.others))


class _Vxlan(nla):  # type: ignore[misc]
    """pyroute2's table of IFLA_VXLAN_* with what vxlan_fill_info really sends (drivers/net/vxlan/vxlan_core.c)."""

    prefix = "IFLA_"
    port_range = vxlan.port_range
    nla_map = tuple(
        (
            dict(vxlan.nla_map)
            | {
                "IFLA_VXLAN_LABEL": "be32",
                "IFLA_VXLAN_TTL_INHERIT": "uint8",  # a flag in requests only
                "IFLA_VXLAN_VNIFILTER": "uint8",
                "IFLA_VXLAN_LOCALBYPASS": "uint8",
            }
        ).items()
    )


class Reader:
    """One network namespace, open for questions as long as the `with` block.

    `ns_fd` is borrowed.  An index of 0 asks for everything; an interface that is not there has no rows.
    Every method raises NoPermission or KernelError.
    """

    def __init__(self, ns_fd: int) -> None:
        self._sequence = 0
        try:
            fd = route_socket(ns_fd)
        except OSError as e:
            raise _error("opening a socket", e.errno or 0, "") from None
        try:
            # strict: the kernel obeys what a dump is narrowed down to, instead of ignoring it
            self._socket = IPRSocket(fileno=fd, strict_check=True, ext_ack=True)
            _ = self._socket.socket  # from here on it is pyroute2's to close
        except BaseException:
            os.close(fd)
            raise

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def links(self) -> list[Link]:
        """Every interface."""
        return [_link(m) for m in self._ask(RTM_GETLINK, ifinfmsg, DUMP, {}, IFLA_EXT_MASK=SKIP_STATS)]

    def link(self, index: int = 0, name: str = "") -> Link | None:
        """One interface by index or name, None if there is none."""
        by_name = {} if index else {"IFLA_IFNAME": name}
        asked = self._ask(RTM_GETLINK, ifinfmsg, GET, {"index": index}, **by_name, IFLA_EXT_MASK=SKIP_STATS)
        found = [_link(m) for m in asked]
        # the kernel finds alternative names too
        return found[0] if found and (index or found[0].ifname == name) else None

    def addresses(self, index: int = 0) -> list[tuple[int, str]]:
        """(index, "10.0.0.1/24"); "10.0.0.1 peer 10.0.0.2/32" for one that is point to point."""
        return [_address(m) for m in self._ask(RTM_GETADDR, ifaddrmsg, DUMP, {"index": index})]

    def routes(self, table: int, index: int = 0) -> list[Route]:
        """What leads through an interface, from one table, both families."""
        oif = {"RTA_OIF": index} if index else {}
        asked = self._ask(RTM_GETROUTE, rtmsg, DUMP, {"family": socket.AF_UNSPEC}, RTA_TABLE=table, **oif)
        return [route for m in asked for route in _routes(m)]

    def neighbours(self, index: int = 0) -> list[Neighbour]:
        narrowed = {"NDA_IFINDEX": index} if index else {}
        return [_neighbour(m) for m in self._ask(RTM_GETNEIGH, ndmsg.ndmsg, DUMP, {}, **narrowed)]

    def rules(self) -> list[Rule]:
        """The policy rules of both families; none where the kernel has none."""
        return [_rule(m) for m in self._ask(RTM_GETRULE, fibmsg, DUMP, {"family": socket.AF_UNSPEC})]

    def number_of(self, ns_fd: int) -> int | None:
        """The number by which this namespace knows another one, None if it does not know it."""
        for m in self._ask(RTM_GETNSID, nsidmsg, GET, {}, NETNSA_FD=ns_fd):
            number: int = m.get_attr("NETNSA_NSID")
            if number != NO_NUMBER:
                return number
        return None

    def _ask(self, kind: int, form: Any, flags: int, head: dict[str, int], **attributes: Any) -> list[Any]:
        """The answers to one question.  A dump that stays inconsistent through every try is used as it is."""
        rows: list[Any] = []
        for _ in range(DUMP_TRIES):
            question = form()
            for name, value in head.items():
                question[name] = value
            question["attrs"] = list(attributes.items())
            self._sequence += 1
            try:
                self._socket.put(question, kind, flags, msg_seq=self._sequence)
                rows, torn = self._answers()
            except OSError as e:
                raise _error("reading back", e.errno or 0, str(e)) from None
            if not torn:
                break
        return rows

    def _answers(self) -> tuple[list[Any], bool]:
        rows: list[Any] = []
        torn = False
        while True:
            for m in self._socket.get():
                header = m["header"]
                if header["sequence_number"] != self._sequence:
                    continue
                torn = torn or bool(header["flags"] & NLM_F_DUMP_INTR)
                if header["error"] is not None:
                    code = getattr(header["error"], "code", 0)
                    if code == errno.ENODEV:
                        return [], False
                    raise _error("reading back", code, str(header["error"]))
                if header["type"] in (NLMSG_DONE, NLMSG_ERROR):
                    return rows, torn
                rows.append(m)


def _error(doing: str, number: int, said: str) -> FastnlError:
    words = os.strerror(number) if number else said or "an answer that pyroute2 could not decode"
    kind = NoPermission if number in (errno.EPERM, errno.EACCES) else KernelError
    return kind(f"{doing}: {words}", errno=number, phase="query")


def _attributes(m: Any) -> Callable[[str], Any]:
    """The values of a message's attributes by name, None: not there; each is decoded when it is asked for."""
    slots = {slot[0]: slot for slot in m["attrs"]}
    return lambda name: slots[name][1] if name in slots else None


def _link(m: Any) -> Link:
    get = _attributes(m)
    info = get("IFLA_LINKINFO")
    of_kind = _attributes(info) if info is not None else lambda name: None
    kind = of_kind("IFLA_INFO_KIND") or ""
    return Link(
        ifindex=m["index"],
        ifname=get("IFLA_IFNAME"),
        kind=kind,
        up=bool(m["flags"] & IFF_UP),
        mtu=get("IFLA_MTU"),
        mac=get("IFLA_ADDRESS") or "",
        alias=get("IFLA_IFALIAS") or "",
        txqlen=get("IFLA_TXQLEN"),
        queues=(get("IFLA_NUM_TX_QUEUES"), get("IFLA_NUM_RX_QUEUES")),
        link=get("IFLA_LINK") or 0,
        link_netns=get("IFLA_LINK_NETNSID"),
        vxlan=_vxlan(of_kind("IFLA_INFO_DATA")) if kind == "vxlan" else None,
    )


def _vxlan(data: Any) -> dict[str, str | int | bool | None]:
    again = _Vxlan(data.data, offset=data.offset)
    again.decode()
    raw = {name.removeprefix("IFLA_VXLAN_").lower(): value for name, value in again["attrs"]}
    ports = raw.get("port_range")
    return {
        "vni": raw.get("id"),
        "port": raw.get("port"),
        "local": raw.get("local") or raw.get("local6"),
        "remote": raw.get("group") or raw.get("group6"),
        "lower": raw.get("link") or 0,
        "port_range": f"{ports['low']}-{ports['high']}" if ports else None,
        "ttl": "inherit" if raw.get("ttl_inherit") else raw.get("ttl"),
        "tos": "inherit" if raw.get("tos") == 1 else raw.get("tos"),
        "df": dict(enumerate(("unset", "set", "inherit"))).get(raw.get("df", -1)),
        **{name: raw.get(name) for name in ("label", "ageing", "limit")},
        **{name: bool(raw[kept]) if kept in raw else None for name, kept in VXLAN_SWITCHES.items()},
        **{name: bool(raw.get(name)) for name in VXLAN_FLAGS},
    }


def _address(m: Any) -> tuple[int, str]:
    get = _attributes(m)
    # with IFA_LOCAL present, IFA_ADDRESS is the other end of a point-to-point address
    near, far = get("IFA_LOCAL"), get("IFA_ADDRESS")
    peer = f" peer {far}" if near and far and near != far else ""
    return m["index"], f"{near or far}{peer}/{m['prefixlen']}"


def _routes(m: Any) -> Iterator[Route]:
    if m["flags"] & RTM_F_CLONED or m["src_len"] or m["tos"]:
        return
    get = _attributes(m)
    to = get("RTA_DST") or ("::" if m["family"] == socket.AF_INET6 else "0.0.0.0")
    hops = get("RTA_MULTIPATH")
    for hop in hops or (m,):
        of_hop = _attributes(hop)
        via = of_hop("RTA_GATEWAY") or of_hop("RTA_VIA") or ""
        yield Route(
            ifindex=(hop["oif"] if hops else get("RTA_OIF")) or 0,
            to=f"{to}/{m['dst_len']}",
            via=via if isinstance(via, str) else str(via["addr"]),
            metric=get("RTA_PRIORITY") or 0,
            table=get("RTA_TABLE") or m["table"],
            source=get("RTA_PREFSRC") or "",
            onlink=bool(hop["flags"] & RTNH_F_ONLINK),
            scope=m["scope"],
            kind=rt_type.get(m["type"], str(m["type"])),
        )


def _neighbour(m: Any) -> Neighbour:
    get = _attributes(m)
    names = [name for name, bit in ndmsg.states.items() if m["state"] & bit]
    return Neighbour(m["ifindex"], get("NDA_DST") or "", get("NDA_LLADDR") or "", ",".join(names))


# attributes of every rule, and those that select nothing in their usual form
RULE_ATTRIBUTES = ("SRC", "DST", "IIFNAME", "PRIORITY", "TABLE", "FWMARK", "PROTOCOL", "IP_PROTO", "PAD")
RULE_USUAL = {"FWMASK": ALL_ONES, "SUPPRESS_PREFIXLEN": ALL_ONES}
FIB_RULE_INVERT = 2


def _rule(m: Any) -> Rule:
    get = _attributes(m)
    words = [f"{get('FRA_PRIORITY') or 0}: from", f"{get('FRA_SRC')}/{m['src_len']}" if m["src_len"] else "all"]
    for word, value in (
        ("to", f"{get('FRA_DST')}/{m['dst_len']}" if m["dst_len"] else None),
        ("fwmark", hex(get("FRA_FWMARK")) if get("FRA_FWMARK") else None),
        ("iif", get("FRA_IIFNAME")),
        ("ipproto", get("FRA_IP_PROTO")),
        ("sport", _ports(get("FRA_SPORT_RANGE"))),
        ("dport", _ports(get("FRA_DPORT_RANGE"))),
    ):
        if value:
            words += [word, str(value)]
    words += ["lookup", str(get("FRA_TABLE") or m["table"])]
    others = [
        name.removeprefix("FRA_").lower()
        for name, value in m["attrs"]
        if name.startswith("FRA_")
        and not name.endswith("_RANGE")
        and name.removeprefix("FRA_") not in RULE_ATTRIBUTES
        and RULE_USUAL.get(name.removeprefix("FRA_")) != value
    ]
    others += ["uidrange"] if get("FRA_UID_RANGE") else []
    others += ["not"] if m["flags"] & FIB_RULE_INVERT else []
    others += [f"tos {m['tos']}"] if m["tos"] else []
    others += [f"action {m['action']}"] if m["action"] != FR_ACT_TO_TBL else []
    return Rule(m["family"], " ".join(words), tuple(others))


def _ports(text: str | None) -> str | None:
    """pyroute2 spells a range "80:81"."""
    if text is None:
        return None
    low, high = text.split(":")
    return low if low == high else f"{low}-{high}"
