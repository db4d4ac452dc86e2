"""The reader, fed with what pyroute2 encodes and with what no kernel would send."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from fastnl import Rule
from fastnl._nl import LinkRow, read_acks, read_rows

NEWLINK, NEWADDR, NEWROUTE, NEWNEIGH, NEWRULE, ERROR = 16, 20, 24, 28, 32, 2
CAPPED, ACK_TLVS = 0x100, 0x200  # NLM_F_*


def encoded(kind, number: int, attrs: list, **fields) -> bytes:
    """A message as pyroute2 writes it."""
    message = kind()
    message["header"]["type"] = number
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attrs
    message.encode()
    return bytes(message.data)


u32 = st.integers(0, 0xFFFFFFFF)
texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=15)
ip4, ip6 = st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str)
macs = st.binary(min_size=6, max_size=6).map(lambda raw: raw.hex(":"))


def same_ip(text: str, other: str) -> bool:
    import ipaddress

    return ipaddress.ip_interface(text) == ipaddress.ip_interface(other)


# -- rows ------------------------------------------------------------------------------------------


@given(st.integers(1, 1 << 30), u32, texts, u32, macs, texts, u32, u32, u32, st.integers(0, 3), st.integers(0, 99))
def test_a_link_reads_as_pyroute2_wrote_it(index, flags, name, mtu, mac, alias, group, queues, length, mode, peer):
    raw = encoded(
        ifinfmsg,
        NEWLINK,
        [
            ("IFLA_IFNAME", name),
            ("IFLA_MTU", mtu),
            ("IFLA_ADDRESS", mac),
            ("IFLA_IFALIAS", alias),
            ("IFLA_GROUP", group),
            ("IFLA_NUM_TX_QUEUES", queues),
            ("IFLA_NUM_RX_QUEUES", queues),
            ("IFLA_TXQLEN", length),
            ("IFLA_LINK", peer),
            ("IFLA_LINK_NETNSID", 3),
            ("IFLA_OPERSTATE", "UP"),
            ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "veth")]}),
            ("IFLA_AF_SPEC", {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", mode)]})]}),
        ],
        index=index,
        flags=flags,
    )
    [row] = read_rows(raw)
    assert (row.ifindex, row.flags, row.up) == (index, flags, bool(flags & 1))
    assert (row.ifname, row.mtu, row.mac, row.alias, row.group) == (name, mtu, mac, alias, group)
    assert (row.tx_queues, row.rx_queues, row.txqlen) == (queues, queues, length)
    assert (row.kind, row.addr_gen_mode, row.operstate) == ("veth", mode, 6)
    assert (row.link, row.link_netnsid) == (peer, 3)
    assert row.stats is None
    assert row.vxlan is None


@given(st.integers(0, (1 << 24) - 1), st.integers(0, 65535), ip4 | ip6, ip4 | ip6, st.booleans(), st.integers(0, 255))
def test_a_tunnel_reads_as_pyroute2_wrote_it(vni, port, local, remote, learning, ttl):
    six = {True: "6", False: ""}
    data = [
        ("IFLA_VXLAN_ID", vni),
        ("IFLA_VXLAN_PORT", port),
        (f"IFLA_VXLAN_LOCAL{six[':' in local]}", local),
        (f"IFLA_VXLAN_GROUP{six[':' in remote]}", remote),
        ("IFLA_VXLAN_LEARNING", int(learning)),
        ("IFLA_VXLAN_TTL", ttl),
    ]
    info = {"attrs": [("IFLA_INFO_KIND", "vxlan"), ("IFLA_INFO_DATA", {"attrs": data})]}
    [row] = read_rows(encoded(ifinfmsg, NEWLINK, [("IFLA_LINKINFO", info)], index=1))
    read = dict(row.vxlan)
    assert same_ip(read.pop("local"), local)
    assert same_ip(read.pop("remote"), remote)
    assert read == {"vni": vni, "port": port, "learning": learning, "ttl": ttl}


@given(ip4, ip4, st.integers(0, 32), u32, st.integers(1, 1 << 30))
def test_an_address_is_the_local_one_whichever_comes_first(local, peer, length, flags, index):
    # of a point-to-point address, IFA_ADDRESS is the other end
    for attrs in ([("IFA_ADDRESS", peer), ("IFA_LOCAL", local)], [("IFA_LOCAL", local), ("IFA_ADDRESS", peer)]):
        raw = encoded(
            ifaddrmsg, NEWADDR, [*attrs, ("IFA_FLAGS", flags)], family=2, prefixlen=length, index=index, flags=1,
            scope=2,
        )  # fmt: skip
        [row] = read_rows(raw)
        assert (row.ifindex, row.address, row.flags, row.scope) == (index, f"{local}/{length}", flags, 2)


@given(ip6, st.integers(0, 128))
def test_an_ipv6_address_reads_as_pyroute2_wrote_it(address, length):
    [row] = read_rows(encoded(ifaddrmsg, NEWADDR, [("IFA_ADDRESS", address)], family=10, prefixlen=length, index=1))
    assert same_ip(row.address, f"{address}/{length}")


@given(ip4, ip4, ip4, u32, u32, st.integers(1, 1 << 30), st.integers(0, 32))
def test_a_route_reads_as_pyroute2_wrote_it(to, via, source, metric, table, index, length):
    raw = encoded(
        rtmsg,
        NEWROUTE,
        [
            ("RTA_DST", to),
            ("RTA_GATEWAY", via),
            ("RTA_PREFSRC", source),
            ("RTA_PRIORITY", metric),
            ("RTA_TABLE", table),
            ("RTA_OIF", index),
        ],
        family=2, dst_len=length, table=252, proto=4, scope=253, type=1,
    )  # fmt: skip
    [row] = read_rows(raw)
    assert (row.to, row.via, row.source) == (f"{to}/{length}", via, source)
    assert (row.metric, row.table, row.ifindex) == (metric, table, index)
    assert (row.protocol, row.scope, row.kind) == (4, 253, 1)


@pytest.mark.parametrize(("family", "to"), [(2, "0.0.0.0/0"), (10, "::/0")])
def test_a_default_route_reads_as_one(family, to):
    [row] = read_rows(encoded(rtmsg, NEWROUTE, [], family=family, dst_len=0, table=254))
    assert (row.to, row.via, row.table) == (to, "", 254)


@given(ip4, macs, st.integers(0, 0xFFFF), st.integers(1, 1 << 30))
def test_a_neighbour_reads_as_pyroute2_wrote_it(ip, mac, state, index):
    raw = encoded(ndmsg, NEWNEIGH, [("NDA_DST", ip), ("NDA_LLADDR", mac)], family=2, ifindex=index, state=state)
    [row] = read_rows(raw)
    assert (row.ip, row.mac, row.state, row.ifindex) == (ip, mac, state, index)


@given(ip4, ip4, u32, u32, texts)
def test_a_rule_reads_as_pyroute2_wrote_it(source, to, priority, table, iif):
    raw = encoded(
        fibmsg,
        NEWRULE,
        [("FRA_SRC", source), ("FRA_DST", to), ("FRA_PRIORITY", priority), ("FRA_TABLE", table), ("FRA_IIFNAME", iif)],
        family=2, src_len=8, dst_len=24, table=252,
    )  # fmt: skip
    [row] = read_rows(raw)
    assert (row.family, row.source, row.to) == (2, f"{source}/8", f"{to}/24")
    assert (row.priority, row.table, row.iif) == (priority, table, iif)


@pytest.mark.parametrize(
    ("attributes", "head"),
    [
        ([("FRA_OIFNAME", "e0")], {}),
        ([("FRA_UID_RANGE", "1:2")], {}),
        ([("FRA_FWMARK", 1), ("FRA_FWMASK", 0xFF)], {}),
        ([("FRA_SUPPRESS_PREFIXLEN", 0)], {}),
        ([("FRA_L3MDEV", 1)], {}),
        ([], {"flags": 2}),  # FIB_RULE_INVERT
        ([], {"tos": 16}),
        ([], {"action": 6}),  # FR_ACT_BLACKHOLE
        ([], {"family": 129}),  # RTNL_FAMILY_IP6MR
    ],
)
def test_a_rule_that_a_value_cannot_say_is_none(attributes, head):
    usual = [("FRA_PRIORITY", 7), ("FRA_TABLE", 9), ("FRA_SUPPRESS_PREFIXLEN", 0xFFFFFFFF), ("FRA_PROTOCOL", 4)]
    kept = [pair for pair in usual if pair[0] not in dict(attributes)]
    fields = {"family": 2, "table": 9, "action": 1}
    [row] = read_rows(encoded(fibmsg, NEWRULE, kept + attributes, **fields | head))
    assert (row.rule, row.ours, row.protocol) == (None, False, 4)
    [row] = read_rows(encoded(fibmsg, NEWRULE, usual, **fields))
    assert row.rule == Rule(table=9, priority=7)


def test_other_messages_are_passed_over_and_the_order_is_kept():
    done = struct.pack("=IHHII", 20, 3, 0, 0, 0) + bytes(4)
    links = [encoded(ifinfmsg, NEWLINK, [("IFLA_IFNAME", name)], index=1) for name in "ab"]
    rows = read_rows(done + links[0] + done + links[1] + done)
    assert [row.ifname for row in rows] == ["a", "b"]


def test_a_link_without_attributes_has_defaults():
    [row] = read_rows(encoded(ifinfmsg, NEWLINK, [], index=5))
    assert isinstance(row, LinkRow)
    assert (row.ifindex, row.ifname, row.kind, row.mtu, row.addr_gen_mode, row.link_netnsid) == (5, "", "", 0, -1, -1)


LINK = encoded(
    ifinfmsg,
    NEWLINK,
    [
        ("IFLA_IFNAME", "eth0"),
        (
            "IFLA_LINKINFO",
            {"attrs": [("IFLA_INFO_KIND", "vxlan"), ("IFLA_INFO_DATA", {"attrs": [("IFLA_VXLAN_ID", 5)]})]},
        ),
        ("IFLA_AF_SPEC", {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", 1)]})]}),
        ("IFLA_MTU", 1500),
    ],
    index=7,
)  # fmt: skip


@pytest.mark.parametrize("length", range(len(LINK)))
def test_a_message_cut_anywhere_is_no_row_or_a_shorter_one(length):
    cut = LINK[:length]
    assert read_rows(cut) == []  # nlmsg_len says more than there is
    if length >= 16:
        told = struct.pack("=I", length) + cut[4:]
        for row in read_rows(told):
            assert row.ifindex == 7
            assert row.ifname in ("", "eth0")


@pytest.mark.parametrize("length", [0, 3, 4, 5, 0x7FFF, 0xFFFF])
def test_an_attribute_whose_length_cannot_be_true_ends_the_message(length):
    raw = bytearray(LINK)
    struct.pack_into("=H", raw, 32, length)  # of IFLA_IFNAME, the first
    [row] = read_rows(raw)
    assert row.ifindex == 7
    if length not in (4, 5):
        assert (row.ifname, row.mtu) == ("", 0)


@pytest.mark.parametrize("length", [0, 1, 15, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
def test_a_message_whose_length_cannot_be_true_ends_the_reading(length):
    bad = struct.pack("=IHHII", length, NEWLINK, 0, 0, 0) + bytes(16)
    assert [row.ifname for row in read_rows(LINK + bad + LINK)] == ["eth0"]


def test_a_number_of_the_wrong_width_is_read_as_far_as_it_goes():
    def mtu(payload: bytes) -> int:
        attr = struct.pack("=HH", 4 + len(payload), 4) + payload + bytes(-len(payload) % 4)
        raw = struct.pack("=IHHIIBxHiII", 32 + len(attr), NEWLINK, 0, 0, 0, 0, 0, 1, 0, 0) + attr
        return read_rows(raw)[0].mtu

    assert [mtu(b"\1\2\3\4\5\6\7\x08"[:n]) for n in range(6)] == [0, 1, 0x201, 0x201, 0x4030201, 0x4030201]


def test_text_that_is_no_utf8_is_escaped_and_text_without_a_nul_ends_with_its_attribute():
    def name(payload: bytes) -> str:
        attr = struct.pack("=HH", 4 + len(payload), 3) + payload + bytes(-len(payload) % 4)
        # what follows must not be taken for a part of it
        more = struct.pack("=HH", 8, 4) + b"\xff" * 4
        raw = struct.pack("=IHHIIBxHiII", 32 + len(attr + more), NEWLINK, 0, 0, 0, 0, 0, 1, 0, 0) + attr + more
        return read_rows(raw)[0].ifname

    assert name(b"\xffa\0") == "\\xffa"
    assert name(b"abcd") == "abcd"
    assert name(b"a\0b\0") == "a"
    assert name(b"") == ""


def test_counters_that_are_too_short_read_as_zero():
    attr = struct.pack("=HHQ", 12, 23, 5)  # IFLA_STATS64 with one of its numbers
    raw = struct.pack("=IHHIIBxHiII", 32 + len(attr), NEWLINK, 0, 0, 0, 0, 0, 1, 0, 0) + attr
    assert read_rows(raw)[0].stats == {
        "rx_packets": 5, "tx_packets": 0, "rx_bytes": 0, "tx_bytes": 0,
        "rx_errors": 0, "tx_errors": 0, "rx_dropped": 0, "tx_dropped": 0,
    }  # fmt: skip


# -- acknowledgements ------------------------------------------------------------------------------


def ack(seq: int, error: int, *, flags: int = CAPPED, tlvs: bytes = b"", request: bytes = b"") -> bytes:
    """An NLMSG_ERROR; without CAPPED it carries the whole request."""
    header = struct.pack("=IHHII", 16 + len(request), 19, 5, seq, 0)
    body = struct.pack("=i", -error) + header + request + tlvs
    return struct.pack("=IHHII", 16 + len(body), ERROR, flags, seq, 0) + body


def tlv(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


TLVS = tlv(1, b"no such thing\0") + tlv(2, struct.pack("=I", 40))  # NLMSGERR_ATTR_MSG, NLMSGERR_ATTR_OFFS


def test_success_and_failure_are_told_apart():
    assert read_acks(ack(1, 0) + ack(2, 17) + ack(3, 0)) == [(1, 0, 0, ""), (2, 17, 0, ""), (3, 0, 0, "")]


def test_the_kernels_words_and_the_offset_are_read_capped_or_not():
    assert read_acks(ack(5, 22, flags=CAPPED | ACK_TLVS, tlvs=TLVS)) == [(5, 22, 40, "no such thing")]
    assert read_acks(ack(5, 22, flags=ACK_TLVS, request=bytes(24), tlvs=TLVS)) == [(5, 22, 40, "no such thing")]
    # without the flag, what follows is no extended acknowledgement
    assert read_acks(ack(5, 22, tlvs=TLVS)) == [(5, 22, 0, "")]


FULL = ack(5, 22, flags=CAPPED | ACK_TLVS, tlvs=TLVS)


@pytest.mark.parametrize("length", range(20, len(FULL)))
def test_whatever_is_broken_behind_it_the_errno_counts(length):
    told = struct.pack("=I", length) + FULL[4:length]
    [(seq, error, _, text)] = read_acks(told)
    assert (seq, error) == (5, 22)
    assert "no such thing".startswith(text)


@pytest.mark.parametrize("length", [0, 15, 0xFFFFFFFF])
def test_an_echoed_request_whose_length_cannot_be_true_hides_nothing(length):
    raw = bytearray(ack(5, 22, flags=ACK_TLVS, tlvs=TLVS))
    struct.pack_into("=I", raw, 20, length)
    assert [a[:2] for a in read_acks(raw)] == [(5, 22)]


@pytest.mark.parametrize("number", [1, -4096, -(2**31), 2**31 - 1])
def test_an_errno_that_is_none_is_a_protocol_error(number):
    raw = bytearray(ack(5, 0))
    struct.pack_into("=i", raw, 16, number)
    assert read_acks(raw) == [(5, 71, 0, "")]


def test_an_ack_too_short_for_its_errno_is_none():
    assert read_acks(struct.pack("=IHHII", 18, ERROR, 0, 1, 0) + bytes(4)) == []


@pytest.mark.parametrize("reader", [read_acks, read_rows])
class TestAnyBytes:
    def test_nothing_is_nothing(self, reader):
        assert reader(b"") == reader(bytearray()) == []

    @given(st.binary(max_size=300))
    def test_any_bytes_give_a_value(self, reader, data):
        assert isinstance(reader(data), list)

    @given(
        st.binary(min_size=16, max_size=300), st.sampled_from([ERROR, NEWLINK, NEWADDR, NEWROUTE, NEWNEIGH, NEWRULE])
    )
    def test_any_bytes_behind_a_true_header_give_a_value(self, reader, data, kind):
        assert isinstance(reader(struct.pack("=IH", len(data), kind) + data[6:]), list)

    @pytest.mark.parametrize("wrong", [None, "text", 5, memoryview(b"abcd")[::2]])
    def test_what_is_no_run_of_bytes_is_refused(self, reader, wrong):
        with pytest.raises((TypeError, ValueError, BufferError)):
            reader(wrong)
