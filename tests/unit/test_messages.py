"""What is built is what was asked for, as pyroute2's own parser reads it."""

from __future__ import annotations

import socket
import struct

from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from fastnl import Address, End, Neighbour, Route, Rule, Veth, Vxlan, readback
from fastnl._nl import Tour, name_problem, read_rows
from fastnl.rules import PROTOCOL

REQUEST, ACK, REPLACE, EXCL, CREATE = 0x1, 0x4, 0x100, 0x200, 0x400  # include/uapi/linux/netlink.h
NEW = REQUEST | CREATE | EXCL


# -- reading with pyroute2 -------------------------------------------------------------------------


def decode(raw: bytes):
    [message] = MarshalRtnl().parse(raw)
    assert message["header"]["length"] == len(raw)
    assert len(raw) % 4 == 0
    return message


def built(method: str, *args, **kwargs):
    """The one message that a method of Visit makes, decoded."""
    visit = Tour(1).visit(-1)
    getattr(visit, method)(*args, **kwargs)
    [raw] = visit.messages()
    return decode(raw)


def attrs(of) -> dict:
    """Attributes by name; each may be there once."""
    pairs = [(a[0], a[1]) for a in of["attrs"]]
    assert len({name for name, _ in pairs}) == len(pairs)
    return dict(pairs)


def head(message) -> tuple[str, int]:
    return message["event"], message["header"]["flags"]


def given_only(**fields) -> dict:
    return {name: value for name, value in fields.items() if value is not None}


# -- any valid value -------------------------------------------------------------------------------

names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=15).filter(
    lambda text: name_problem(text) is None
)
macs = (
    st.binary(min_size=6, max_size=6).map(lambda b: bytes([b[0] & 0xFE, *b[1:]])).filter(any).map(lambda b: b.hex(":"))
)
any_ip4, any_ip6 = st.ip_addresses(v=4), st.ip_addresses(v=6)
ip4 = any_ip4.filter(lambda a: not a.is_multicast and not a.is_unspecified).map(str)
ip6 = any_ip6.filter(lambda a: not a.is_multicast and not a.is_unspecified).map(str)
u32 = st.integers(0, 0xFFFFFFFF)
groups = st.integers(0, (1 << 31) - 1)
indexes = st.integers(1, (1 << 31) - 1)
fds = st.integers(3, (1 << 31) - 1)
addresses = st.builds("{}/{}".format, ip4, st.integers(0, 32)) | st.builds("{}/{}".format, ip6, st.integers(0, 128))
neighbours = st.builds(
    Neighbour, ip4 | ip6, macs, state=st.sampled_from(["permanent", "reachable", "stale", "noarp"])
)  # fmt: skip


@st.composite
def routes(draw):
    ip = draw(st.sampled_from([ip4, ip6]))
    bits = 32 if ip is ip4 else 128
    via = draw(st.none() | ip)
    return Route(
        f"{draw(ip)}/{draw(st.integers(0, bits))}",
        via=via,
        metric=draw(u32),
        table=draw(st.sampled_from([0, 1, 254, 255, 256, 1000, 0xFFFFFFFF]) | u32),
        source=draw(st.none() | ip),
        onlink=via is not None and draw(st.booleans()),
    )


@st.composite
def ends(draw, netns="blue", most=65535):
    listed = draw(st.lists(addresses, max_size=4, unique_by=lambda a: Address(a).text))
    routed, reached = (
        draw(st.lists(routes(), max_size=3)),
        draw(st.lists(neighbours, max_size=3, unique_by=lambda n: n.ip)),
    )
    ipv6 = any(x.family == 6 for x in (*map(Address, listed), *routed, *reached))
    return End(
        netns,
        draw(names),
        listed,
        mac=draw(st.none() | macs),
        mtu=draw(st.none() | st.integers(1280 if ipv6 else 68, most)),
        routes=routed,
        neighbours=reached,
        queues=draw(st.integers(1, 4096)),
        txqlen=draw(st.none() | st.integers(0, (1 << 31) - 1)),
    )


mtus = st.none() | st.integers(1280, 65535)
veths = st.builds(Veth, ends("blue"), ends("red"), mtu=mtus)

switches = {
    "learning": "LEARNING", "proxy": "PROXY", "rsc": "RSC", "l2miss": "L2MISS", "l3miss": "L3MISS",
    "udp_csum": "UDP_CSUM", "udp_zero_csum6_tx": "UDP_ZERO_CSUM6_TX", "udp_zero_csum6_rx": "UDP_ZERO_CSUM6_RX",
    "remcsum_tx": "REMCSUM_TX", "remcsum_rx": "REMCSUM_RX",
}  # fmt: skip
flags = {"remcsum_nopartial": "REMCSUM_NOPARTIAL"}
maybe = st.none() | st.booleans()


@st.composite
def vxlans(draw):
    ip = draw(st.sampled_from([ip4, ip6]))
    dev = draw(st.none() | names)
    groups_too = (any_ip4 if ip is ip4 else any_ip6).map(str) if dev else ip
    local, remote = draw(st.none() | ip), draw(st.none() | groups_too)
    v4 = any(x and ":" not in x for x in (local, remote))
    low = draw(st.integers(1, 65535))
    external = draw(maybe)
    return Vxlan(
        a=draw(ends(most=65465)),
        vni=draw(st.integers(0, (1 << 24) - 1)),
        local=local,
        remote=remote,
        port=draw(st.integers(1, 65535)),
        dev=dev,
        mtu=draw(st.none() | st.integers(1280, 65465)),
        port_range=draw(st.none() | st.tuples(st.just(low), st.integers(low, 65535))),
        ttl=draw(st.none() | st.just("inherit") | st.integers(0, 255)),
        tos=draw(st.none() | st.just("inherit") | st.integers(0, 255)),
        df=draw(st.sampled_from([None, "unset", "set", "inherit"])),
        label=None if v4 else draw(st.none() | st.integers(0, (1 << 20) - 1)),
        ageing=draw(st.none() | st.integers(0, 2**31 // 100)),
        limit=draw(st.none() | u32),
        external=external,
        vnifilter=draw(maybe) if external else None,
        localbypass=draw(maybe),
        **draw(st.sampled_from([{}, {"gbp": True}, {"gpe": True}, {"gbp": False, "gpe": False}])),
        **{name: draw(maybe) for name in (*switches, *flags)},
    )


# -- links -----------------------------------------------------------------------------------------


def born(end: End, fd: int, mtu: int | None, group: int) -> dict:
    """The attributes that an interface is born with."""
    return given_only(
        IFLA_IFNAME=end.ifname,
        IFLA_NET_NS_FD=fd,
        IFLA_MTU=mtu,
        IFLA_ADDRESS=end.mac,
        IFLA_GROUP=group or None,
        IFLA_TXQLEN=end.txqlen,
        IFLA_NUM_TX_QUEUES=end.queues,
        IFLA_NUM_RX_QUEUES=end.queues,
    )


@given(veths, fds, indexes, fds, indexes, groups)
def test_a_pairs_message_decodes_to_what_was_asked(pair, a_fd, a_index, b_fd, b_index, group):
    message = built("veth", 0, pair, a_fd, a_index, b_fd, b_index, group)
    assert head(message) == ("RTM_NEWLINK", NEW)
    # an end that is up in the create makes the kernel refuse the pair, the peer always and so neither is
    assert (message["index"], message["flags"], message["change"]) == (a_index, 0, 0)
    outer = attrs(message)
    info = attrs(outer.pop("IFLA_LINKINFO"))
    assert outer == born(pair.a, a_fd, pair.a.mtu or pair.mtu, group)
    assert info.pop("IFLA_INFO_KIND") == "veth"
    [(name, data)] = info.items()
    assert name == "IFLA_INFO_DATA"
    [(name, peer)] = attrs(data).items()
    assert name == "VETH_INFO_PEER"
    assert (peer["index"], peer["flags"], peer["change"]) == (b_index, 0, 0)
    assert attrs(peer) == born(pair.b, b_fd, pair.b.mtu or pair.mtu, group)


def tunnel(v: Vxlan, lower: int) -> dict:
    """The attributes of vxlan_policy for a Vxlan; those that pyroute2 has no name for are looked at apart."""
    six = {True: "6", False: ""}
    out = given_only(
        IFLA_VXLAN_ID=v.vni,
        IFLA_VXLAN_PORT=v.port,
        IFLA_VXLAN_LINK=lower or None,
        IFLA_VXLAN_TTL=v.ttl if v.ttl != "inherit" else None,
        IFLA_VXLAN_TTL_INHERIT=True if v.ttl == "inherit" else None,
        IFLA_VXLAN_TOS=1 if v.tos == "inherit" else v.tos,
        IFLA_VXLAN_DF=None if v.df is None else ["unset", "set", "inherit"].index(v.df),
        IFLA_VXLAN_LABEL=socket.htonl(v.label) if v.label else None,
        IFLA_VXLAN_AGEING=v.ageing,
        IFLA_VXLAN_LIMIT=v.limit,
        IFLA_VXLAN_COLLECT_METADATA=None if v.external is None else int(v.external),
        IFLA_VXLAN_GBP=v.gbp or None,
        IFLA_VXLAN_GPE=v.gpe or None,
        **{f"IFLA_VXLAN_{name}": getattr(v, field) or None for field, name in flags.items()},
    )
    for field, name in switches.items():
        if getattr(v, field) is not None:
            out[f"IFLA_VXLAN_{name}"] = int(getattr(v, field))
    if v.local is not None:
        out[f"IFLA_VXLAN_LOCAL{six[':' in v.local]}"] = Address(v.local).ip
    if v.remote is not None:
        out[f"IFLA_VXLAN_GROUP{six[':' in v.remote]}"] = Neighbour(v.remote, "02:00:00:00:00:01").ip
    return out


@given(vxlans(), fds, indexes, st.integers(0, (1 << 31) - 1), groups)
def test_a_tunnels_message_decodes_to_what_was_asked(v, fd, index, lower, group):
    visit = Tour(1).visit(-1)
    visit.vxlan(0, v, fd, index, lower, group)
    [raw] = visit.messages()
    message = decode(raw)
    assert head(message) == ("RTM_NEWLINK", NEW)
    assert (message["index"], message["flags"], message["change"]) == (index, 0, 0)
    outer = attrs(message)
    info = attrs(outer.pop("IFLA_LINKINFO"))
    assert outer == born(v.a, fd, v.inner_mtu, group)
    assert info.pop("IFLA_INFO_KIND") == "vxlan"
    data = info.pop("IFLA_INFO_DATA")
    assert not info
    # newer than pyroute2's table: IFLA_VXLAN_VNIFILTER and IFLA_VXLAN_LOCALBYPASS
    data["attrs"] = [a for a in data["attrs"] if a[0] != "UNKNOWN"]
    for number, value in ((30, v.vnifilter), (31, v.localbypass)):
        assert (struct.pack("=HHB3x", 5, number, value or 0) in raw) >= (value is not None)
    read = attrs(data)
    ports = read.pop("IFLA_VXLAN_PORT_RANGE", None)
    assert (ports and (ports["low"], ports["high"])) == v.port_range
    assert read == tunnel(v, lower)


def test_ports_are_in_network_order():
    # 8472 is the kernel's own default and 0x2118, 4789 is 0x12b5
    visit = Tour(1).visit(-1)
    visit.vxlan(0, Vxlan(a=End("", "vx0"), vni=1, port=4789, port_range=(0x0102, 0x0304)), 3, 1)
    [raw] = visit.messages()
    assert b"\x06\x00\x0f\x00\x12\xb5\0\0" in raw
    assert b"\x08\x00\x0a\x00\x01\x02\x03\x04" in raw


@given(
    st.sampled_from(["bridge", "dummy", "ifb"]),
    names,
    st.none() | fds,
    indexes,
    groups,
    st.none() | st.integers(68, 65535),
)
def test_a_plain_device_decodes_to_what_was_asked(kind, name, fd, index, group, mtu):
    message = built("device", 0, kind, name, ns_fd=-1 if fd is None else fd, index=index, group=group, mtu=mtu or 0)
    assert head(message) == ("RTM_NEWLINK", NEW)
    assert message["index"] == index
    read = attrs(message)
    assert attrs(read.pop("IFLA_LINKINFO")) == {"IFLA_INFO_KIND": kind}
    assert read == given_only(IFLA_IFNAME=name, IFLA_NET_NS_FD=fd, IFLA_GROUP=group or None, IFLA_MTU=mtu)


def inet6_mode(read: dict) -> int | None:
    spec = read.pop("IFLA_AF_SPEC", None)
    return spec and attrs(attrs(spec)["AF_INET6"])["IFLA_INET6_ADDR_GEN_MODE"]


@given(
    index=indexes,
    up=maybe,
    name=st.none() | names,
    mtu=st.none() | u32,
    mac=st.none() | macs,
    alias=st.none() | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=100),
    group=st.none() | u32,
    txqlen=st.none() | u32,
    mode=st.integers(-1, 3),
)
def test_a_change_decodes_to_what_was_asked(index, up, name, mtu, mac, alias, group, txqlen, mode):
    message = built(
        "change", 0, index, up=up, name=name, mtu=mtu, mac=mac, alias=alias, group=group, txqlen=txqlen,
        addr_gen_mode=mode,
    )  # fmt: skip
    assert head(message) == ("RTM_SETLINK", REQUEST)
    assert message["index"] == index
    assert (message["flags"], message["change"]) == (int(bool(up)), int(up is not None))
    read = attrs(message)
    assert inet6_mode(read) == (None if mode < 0 else mode)
    assert read == given_only(
        IFLA_IFNAME=name, IFLA_MTU=mtu, IFLA_ADDRESS=mac, IFLA_IFALIAS=alias, IFLA_GROUP=group, IFLA_TXQLEN=txqlen
    )


@given(indexes, st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=50), st.integers(-1, 3))
def test_bringing_up_carries_the_alias_and_sends_the_ipv6_mode_before_the_flag(index, alias, mode):
    visit = Tour(1).visit(-1)
    visit.bring_up(0, 1, index, alias, mode)
    messages = [decode(raw) for raw in visit.messages()]
    assert all((*head(m), m["index"]) == ("RTM_SETLINK", REQUEST, index) for m in messages)
    assert (messages[-1]["flags"], messages[-1]["change"]) == (1, 1)
    if mode >= 0:
        [marks, up] = messages
        assert (marks["flags"], marks["change"], up["attrs"]) == (0, 0, [])
        read = attrs(marks)
        assert inet6_mode(read) == mode
    else:
        [up] = messages
        read = attrs(up)
    assert read == {"IFLA_IFALIAS": alias}


@given(indexes, fds, st.none() | names, st.none() | indexes)
def test_a_move_decodes_to_what_was_asked(index, fd, name, new_index):
    message = built("move", 0, index, fd, name=name, new_index=new_index or 0)
    assert head(message) == ("RTM_SETLINK", REQUEST)
    assert message["index"] == index
    assert attrs(message) == given_only(IFLA_NET_NS_FD=fd, IFLA_IFNAME=name, IFLA_NEW_IFINDEX=new_index)


@given(indexes, st.integers(1, 0xFFFFFFFF), names)
def test_a_sweeps_messages_decode_to_what_was_asked(index, group, name):
    mark = built("mark", 0, index, group)
    assert (head(mark), mark["index"], attrs(mark)) == (("RTM_SETLINK", REQUEST), index, {"IFLA_GROUP": group})
    every = built("delete_group", 0, group)
    assert (head(every), every["index"], attrs(every)) == (("RTM_DELLINK", REQUEST), 0, {"IFLA_GROUP": group})
    one = built("delete", 0, index)
    assert (head(one), one["index"], attrs(one)) == (("RTM_DELLINK", REQUEST), index, {})
    named = built("delete_name", 0, name)
    assert (head(named), named["index"], attrs(named)) == (("RTM_DELLINK", REQUEST), 0, {"IFLA_IFNAME": name})
    # without CREATE: the kernel then changes every member of the group, here to what none can be
    probe = built("probe_group", 0, group)
    assert (head(probe), probe["index"]) == (("RTM_NEWLINK", REQUEST), 0)
    assert attrs(probe) == {"IFLA_GROUP": group, "IFLA_MTU": 0xFFFFFFFF}


# -- what an interface is furnished with -----------------------------------------------------------


def broadcast(address: Address) -> str:
    (number,) = struct.unpack("!I", socket.inet_aton(address.ip))
    return socket.inet_ntoa(struct.pack("!I", number | (0xFFFFFFFF >> address.prefixlen)))


@given(addresses.map(Address), indexes, st.booleans())
def test_an_addresss_message_decodes_to_what_was_asked(address, index, add):
    message = built("address", 0, index, address, add)
    assert head(message) == (("RTM_NEWADDR", NEW) if add else ("RTM_DELADDR", REQUEST))
    assert message["family"] == (socket.AF_INET if address.family == 4 else socket.AF_INET6)
    assert (message["index"], message["prefixlen"], message["scope"]) == (index, address.prefixlen, 0)
    expected = {"IFA_LOCAL": address.ip, "IFA_ADDRESS": address.ip}
    if add and address.family == 4 and address.prefixlen < 31:
        expected["IFA_BROADCAST"] = broadcast(address)
    if add and address.family == 6:
        expected["IFA_FLAGS"] = 0x02  # IFA_F_NODAD: usable at once
    assert attrs(message) == expected


@given(routes(), indexes, st.booleans(), st.booleans())
def test_a_routes_message_decodes_to_what_was_asked(route, index, add, replace):
    message = built("route", 0, index, route, add, replace=replace)
    how = CREATE | (REPLACE if replace else EXCL)
    assert head(message) == (("RTM_NEWROUTE", REQUEST | how) if add else ("RTM_DELROUTE", REQUEST))
    to, length = route.to.split("/")
    table = route.table or 254
    assert message["family"] == (socket.AF_INET if route.family == 4 else socket.AF_INET6)
    assert message["dst_len"] == int(length)
    # the header has eight bits for the table; RT_TABLE_COMPAT says that the attribute counts
    assert message["table"] == (table if table < 256 else 252)
    if add:
        assert (message["proto"], message["type"]) == (4, 1)  # RTPROT_STATIC, RTN_UNICAST
        assert message["scope"] == (253 if route.family == 4 and route.via is None else 0)
        assert message["flags"] == (4 if route.onlink else 0)  # RTNH_F_ONLINK
    assert attrs(message) == given_only(
        RTA_DST=to if int(length) else None,
        RTA_OIF=index,
        RTA_GATEWAY=route.via,
        RTA_PREFSRC=route.source,
        RTA_PRIORITY=route.metric or None,
        RTA_TABLE=table,
    )


@given(neighbours, indexes, st.booleans())
def test_a_neighbours_message_decodes_to_what_was_asked(neighbour, index, add):
    message = built("neighbour", 0, index, neighbour, add)
    assert head(message) == (("RTM_NEWNEIGH", REQUEST | CREATE | REPLACE) if add else ("RTM_DELNEIGH", REQUEST))
    assert message["family"] == (socket.AF_INET if neighbour.family == 4 else socket.AF_INET6)
    states = {"permanent": 0x80, "reachable": 0x02, "stale": 0x04, "noarp": 0x40}
    assert (message["ifindex"], message["state"]) == (index, states[neighbour.state])
    assert attrs(message) == given_only(NDA_DST=neighbour.ip, NDA_LLADDR=neighbour.mac if add else None)


@st.composite
def rules(draw):
    ip, bits, family = draw(st.sampled_from([(ip4, 32, 4), (ip6, 128, 6)]))
    prefixes = st.none() | st.builds("{}/{}".format, ip, st.integers(0, bits))
    ports = st.integers(1, 65534)
    ranges = st.none() | ports | st.tuples(ports, ports).map(lambda pair: tuple(sorted(pair)))
    return Rule(
        table=draw(st.integers(1, 0xFFFFFFFF)),
        source=draw(prefixes),
        to=draw(prefixes),
        priority=draw(st.integers(1, 0xFFFFFFFF)),
        fwmark=draw(u32),
        iif=draw(st.none() | names),
        ipproto=draw(st.integers(0, 255)),
        sport=draw(ranges),
        dport=draw(ranges),
        family=family,
    )


def span(ports) -> str | None:
    """As pyroute2 spells it."""
    return "{}:{}".format(*ports) if ports else None


@given(rules(), st.booleans())
def test_a_rules_message_decodes_to_what_was_asked(rule, add):
    message = built("rule", 0, rule, add)
    assert head(message) == (("RTM_NEWRULE", NEW) if add else ("RTM_DELRULE", REQUEST))
    source, to = (p.split("/") if p else (None, 0) for p in (rule.source, rule.to))
    assert message["family"] == (socket.AF_INET if rule.family == 4 else socket.AF_INET6)
    assert (message["src_len"], message["dst_len"], message["action"]) == (int(source[1]), int(to[1]), 1)
    assert message["table"] == (rule.table if rule.table < 256 else 252)
    assert attrs(message) == given_only(
        FRA_SRC=source[0],
        FRA_DST=to[0],
        FRA_IIFNAME=rule.iif,
        FRA_PRIORITY=rule.priority,
        FRA_FWMARK=rule.fwmark or None,
        FRA_IP_PROTO=rule.ipproto or None,
        FRA_SPORT_RANGE=span(rule.sport),
        FRA_DPORT_RANGE=span(rule.dport),
        FRA_TABLE=rule.table,
        FRA_PROTOCOL=PROTOCOL,  # also in a delete, so that none of others can be meant
    )


@given(rules())
def test_a_rule_reads_back_as_the_value_that_it_was_made_from(rule):
    visit = Tour(1).visit(-1)
    visit.rule(0, rule)
    [raw] = visit.messages()
    [row] = read_rows(raw)  # the kernel tells of a rule in the form of the request
    assert (row.rule, row.ours) == (rule, True)
    # and so does the other reader, in the words of `ip rule`
    assert readback._rule(decode(raw)).words == str(rule)


@given(ends(), indexes)
def test_an_end_is_furnished_with_addresses_then_routes_then_neighbours(end, index):
    visit, late = Tour(1).visit(-1), Tour(1).visit(-1)
    visit.furnish(0, 0, index, end)
    late.furnish_late(0, 0, index, end)
    permanent = [n for n in end.neighbours if n.state == "permanent"]
    assert [decode(raw)["event"] for raw in visit.messages()] == (
        ["RTM_NEWADDR"] * len(end.addresses) + ["RTM_NEWROUTE"] * len(end.routes) + ["RTM_NEWNEIGH"] * len(permanent)
    )
    # the others need a carrier, and so both ends up
    messages = [decode(raw) for raw in late.messages()]
    assert [m["event"] for m in messages] == ["RTM_NEWNEIGH"] * (len(end.neighbours) - len(permanent))
    assert all(m["state"] != 0x80 for m in messages)


def test_dumps_decode_to_what_was_asked():
    visit = Tour(1).visit(-1, asks=True)
    visit.get_link(0, 7)
    visit.get_link(0, name="e0", stats=True)
    visit.dump_links()
    visit.dump_links(stats=True)
    visit.dump_addresses()
    visit.dump_routes()
    visit.dump_neighbours()
    visit.dump_rules()
    by_index, by_name, links, counted, *others = map(decode, visit.messages())
    assert (head(by_index), by_index["index"]) == (("RTM_GETLINK", REQUEST | ACK), 7)
    assert (by_name["index"], attrs(by_name)["IFLA_IFNAME"]) == (0, "e0")
    assert [attrs(m).get("IFLA_EXT_MASK", 0) for m in (by_index, by_name, links, counted)] == [8, 0, 8, 0]
    assert [head(m) for m in (links, counted, *others)] == [
        (event, REQUEST | 0x300)  # NLM_F_DUMP
        for event in ["RTM_GETLINK"] * 2 + ["RTM_GETADDR", "RTM_GETROUTE", "RTM_GETNEIGH", "RTM_GETRULE"]
    ]
