"""Every rule by which configuration becomes connections, and what a value's status says when it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from fastnl_engine.northbound.ligato.compile import Compiler
from fastnl_engine.northbound.ligato.dependents import Dependent
from fastnl_engine.northbound.ligato.keys import format_key
from fastnl_engine.northbound.ligato.status import ValueStatus, blamed, settle

if TYPE_CHECKING:
    from tests.unit.ligato.conftest import Desk

PAIR = "ligato/vpp1/veth1+veth2"


def test_a_pair_is_one_connection(desk: Desk) -> None:
    one, two = desk.pair(host_if_name="eth0", mtu=1500, phys_address="D2:74:8C:12:67:D2")
    assert desk.compiler.changes() == {
        PAIR: {
            "id": PAIR,
            "kind": "veth",
            "a": {
                "netns": "ns1",
                "ifname": "eth0",
                "addresses": ["192.168.22.1/24"],
                "mac": "d2:74:8c:12:67:d2",
                "mtu": 1500,
            },
            "b": {"netns": "ns2", "ifname": "veth2", "addresses": ["192.168.22.2/24"]},
            "labels": {"ligato.label": "vpp1", "ligato.a": "veth1", "ligato.b": "veth2"},
        }
    }
    assert desk.status(one) == ValueStatus(one, "CONFIGURED", last_operation="CREATE")
    assert desk.state(two) == "CONFIGURED"
    assert desk.compiler.changes() == {}


def test_half_a_pair_waits_and_is_never_forgotten(desk: Desk) -> None:  # R1, R2, R4, R4b
    one = desk.veth("veth1", "veth2")
    assert desk.compiler.changes() == {}
    status = desk.status(one)
    assert status == ValueStatus(one, "PENDING", details=("veth-peer-exists: peer veth2 is not configured",))
    two = desk.veth("veth2", "veth1")
    assert list(desk.compiler.changes()) == [PAIR]
    for gone, left in ((one, two), (two, one)):
        desk.compiler.verdicts()
        desk.compiler.delete(gone)
        assert desk.compiler.changes() == {PAIR: None}
        assert desk.compiler.statuses()[gone] is None
        status = desk.status(left)
        assert (status.state, status.last_operation) == ("PENDING", "DELETE")
        desk.veth(*(("veth1", "veth2") if gone == one else ("veth2", "veth1")))
        assert list(desk.compiler.changes()) == [PAIR]
        assert desk.status(left).last_operation == "CREATE"


def test_both_halves_of_one_burst_are_one_change(desk: Desk) -> None:
    one, _ = desk.pair()
    desk.compiler.changes()
    desk.veth("veth1", "veth2", "ns1", mtu=9000)
    desk.veth("veth2", "veth1", "ns3")
    (change,) = desk.compiler.changes().values()
    assert change is not None
    assert (change["a"]["mtu"], change["b"]["netns"]) == (9000, "ns3")
    assert desk.status(one).last_operation == "UPDATE"
    # there and back again is no change at all
    desk.compiler.delete(one)
    desk.veth("veth1", "veth2", "ns1", mtu=9000)
    assert desk.compiler.changes() == {}


def test_a_peer_that_does_not_point_back(desk: Desk) -> None:  # h.9
    one = desk.veth("veth1", "veth2")
    two = desk.veth("veth2", "veth9")
    assert desk.ids() == []
    assert desk.why(one) == "veth-peer-points-back: veth2 does not point back: its peer is veth9"
    assert desk.why(two) == "veth-peer-exists: peer veth9 is not configured"
    desk.veth("veth2", "veth1")
    assert desk.ids() == [PAIR]


def test_a_third_that_claims_a_taken_peer(desk: Desk) -> None:
    desk.pair()
    third = desk.veth("veth3", "veth2")
    assert desk.ids() == [PAIR]
    assert desk.state(third) == "FAILED"
    assert desk.why(third) == "veth.peer_if_name: veth2 is taken: it and veth1 are a pair"
    desk.compiler.changes()
    desk.veth("veth2", "veth3", "ns2")
    assert desk.compiler.changes()[PAIR] is None
    assert desk.ids() == ["ligato/vpp1/veth2+veth3"]
    assert desk.state(third) == "CONFIGURED"


def test_a_third_hears_when_the_pair_parts(desk: Desk) -> None:
    desk.pair()
    third = desk.veth("veth3", "veth2")
    assert desk.state(third) == "FAILED"
    desk.veth("veth1", "veth9", "ns1")
    assert desk.why(third) == "veth-peer-points-back: veth2 does not point back: its peer is veth1"


def test_peers_that_cannot_be(desk: Desk) -> None:
    one = desk.veth("veth1", "veth2")
    self_named = desk.veth("x", "x")
    assert desk.state(self_named) == "INVALID"
    assert "the interface itself" in desk.why(self_named)
    desk.v3("veth2", type="DUMMY")
    assert desk.why(one) == "veth-peer-exists: peer veth2 is a DUMMY, not a VETH"
    desk.v3("veth2", type="VETH", veth={"peer_if_name": "veth1"}, mtu=3)
    assert desk.why(one) == "veth-peer-exists: peer veth2 is INVALID"
    assert desk.ids() == []


def test_wrong_values_say_so_and_stay(desk: Desk) -> None:
    one, two = desk.pair()
    desk.compiler.changes()
    desk.veth("veth1", "veth2", "ns1", ip_addresses=["10.0.0.1/99"])
    assert desk.compiler.changes() == {PAIR: None}
    status = desk.status(one)
    assert (status.state, status.last_operation) == ("INVALID", "VALIDATE")
    assert status.error.startswith("ip_addresses[0]: ")
    assert desk.state(two) == "PENDING"
    desk.pair()
    assert list(desk.compiler.changes()) == [PAIR]


def test_change_of_type(desk: Desk) -> None:  # R5
    one, two = desk.pair()
    desk.compiler.statuses()
    desk.compiler.delete(one)
    new = desk.v3("veth1", type="DUMMY")
    desk.compiler.statuses()
    assert desk.ids() == ["ligato/vpp1/veth1"]
    desk.v3("veth1", type="VRF_DEVICE", vrf_dev={"routing_table": 7})
    assert desk.compiler.changes()["ligato/vpp1/veth1"]["kind"] == "vrf"  # type: ignore[index]
    assert "type changed from DUMMY to VRF_DEVICE: made anew" in desk.why(new)
    assert desk.status(new).last_operation == "CREATE"
    assert desk.why(two) == "veth-peer-exists: peer veth1 is a VRF_DEVICE, not a VETH"


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        ({"enabled": False}, {"up": False}),
        ({"mtu": 0, "phys_address": ""}, {}),
        ({"mtu": 9000}, {"mtu": 9000}),
        ({"ip_addresses": ["10.0.0.1", "fd00::1"]}, {"addresses": ["10.0.0.1/32", "fd00::1/128"]}),
        ({"ip_addresses": ["10.0.0.1/8"], "link_only": True}, {"keep_addresses": True}),
        ({"namespace": {"type": 1, "microservice": "web"}}, {"netns": "microservice:web"}),
        ({"namespace": {"type": 0, "pid": 9}}, {"netns": "pid:9"}),
        ({"namespace": {"type": 3, "filepath": "/x"}}, {"netns": "file:/x"}),
        ({"veth": {"peer_if_name": "veth2", "rx_checksum_offloading": 1}}, {"rx_checksum": True}),
        ({"veth": {"peer_if_name": "veth2", "tx_checksum_offloading": 2}}, {"tx_checksum": False}),
        ({"veth": {"peer_if_name": "veth2", "tx_checksum_offloading": 0}}, {}),
    ],
)
def test_fields_of_an_end(desk: Desk, fields: dict[str, Any], end: dict[str, Any]) -> None:
    desk.veth("veth1", "veth2", **fields)
    desk.veth("veth2", "veth1", "ns2")
    assert desk.compiler.desired()[PAIR]["a"] == {"netns": "", "ifname": "veth1", **end}


@pytest.mark.parametrize(
    ("fields", "kind", "more"),
    [
        ({"type": "DUMMY"}, "dummy", {}),
        ({"type": "TAP_TO_VPP", "tap": {"vpp_tap_if_name": "t"}}, "tap", {}),
        ({"type": "VRF_DEVICE", "vrf_dev": {"routing_table": 9}}, "vrf", {"vrf": {"table": 9}}),
        ({"type": "EXISTING"}, "existing", {}),
    ],
)
def test_other_types(desk: Desk, fields: dict[str, Any], kind: str, more: dict[str, Any]) -> None:
    key = desk.v3("x0", **fields)
    id = "ligato/vpp1/x0"
    labels = {"ligato.label": "vpp1", "ligato.a": "x0"}
    assert desk.compiler.desired() == {
        id: {"id": id, "kind": kind, "a": {"netns": "", "ifname": "x0"}, "labels": labels, **more}
    }
    assert desk.state(key) == "CONFIGURED"


def test_loopback(desk: Desk) -> None:
    desk.v3("lo-of-ns1", type="LOOPBACK", enabled=False, namespace={"type": 1, "reference": "ns1"}, link_only=True)
    assert desk.compiler.desired()["ligato/vpp1/lo-of-ns1"]["a"] == {"netns": "ns1", "ifname": "lo"}


def test_vrf_and_its_members(desk: Desk) -> None:
    red = {"vrf_master_interface": "red"}
    key = desk.v3("d0", type="DUMMY", ip_addresses=["10.0.0.1/24"], **red)
    desk.route3("10.9.0.0/16", "d0", gw_addr="10.0.0.2")
    assert desk.why(key) == "vrf-interface-exists: VRF red is not configured"
    desk.v3("red", type="DUMMY")
    assert desk.why(key) == "vrf-interface-exists: red is a DUMMY, not a VRF_DEVICE"
    desk.v3("red", type="VRF_DEVICE")
    assert desk.why(key).startswith("vrf-interface-exists: VRF red is INVALID: vrf_dev.routing_table")
    vrf: dict[str, Any] = {"type": "VRF_DEVICE", "host_if_name": "vrf-red", "vrf_dev": {"routing_table": 9}}
    desk.v3("red", **vrf, namespace={"type": 1, "reference": "ns1"})
    assert desk.why(key) == "vrf-interface-exists: VRF red is in namespace 'ns1', not in ''"
    desk.compiler.changes()
    desk.v3("red", **vrf)
    changes = desk.compiler.changes()
    assert list(changes) == ["ligato/vpp1/red", "ligato/vpp1/d0"], "the VRF has to be there before its members"
    end = desk.compiler.desired()["ligato/vpp1/d0"]["a"]
    assert end["master"] == "vrf-red"
    assert end["routes"] == [{"to": "10.9.0.0/16", "via": "10.0.0.2", "table": 9}]
    # the VRF of one half keeps the whole pair
    desk.veth("veth1", "veth2", **red)
    two = desk.veth("veth2", "veth1", "ns2")
    assert PAIR in desk.ids()
    desk.compiler.delete(format_key("vpp1", "v3", "interface", "red"))
    assert desk.ids() == []
    assert "peer veth1 is PENDING: VRF red is not configured" in desk.why(two)


def test_members_go_with_a_vrf_that_loses_its_name(desk: Desk) -> None:
    member = desk.v3("d0", type="DUMMY", vrf_master_interface="red")
    desk.v3("red", since=5, type="VRF_DEVICE", vrf_dev={"routing_table": 9})
    assert desk.state(member) == "CONFIGURED"
    desk.v3("older", since=1, type="DUMMY", host_if_name="red")
    assert desk.ids() == ["ligato/vpp1/older"]
    assert "VRF red is FAILED: host_if_name: red in the engine's own namespace" in desk.why(member)


def test_what_goes_comes_first(desk: Desk) -> None:
    desk.pair()
    desk.compiler.changes()
    desk.veth("veth1", "aaa", "ns1")
    desk.veth("aaa", "veth1", "ns1")
    assert list(desk.compiler.changes()) == [PAIR, "ligato/vpp1/aaa+veth1"]


def test_one_name_in_the_kernel_for_one_interface(desk: Desk) -> None:
    desk.v3("later", since=7, type="DUMMY", host_if_name="eth0")
    later = format_key("vpp1", "v3", "interface", "later")
    assert desk.state(later) == "CONFIGURED"
    older = desk.v3("zzz-older", since=3, type="DUMMY", host_if_name="eth0")
    assert desk.ids() == ["ligato/vpp1/zzz-older"]
    assert desk.state(later) == "FAILED"
    assert desk.why(later) == "host_if_name: eth0 in the engine's own namespace belongs to interface zzz-older"
    desk.v3("elsewhere", since=9, type="DUMMY", host_if_name="eth0", namespace={"type": 1, "reference": "ns1"})
    desk.compiler.delete(older)
    assert desk.ids() == ["ligato/vpp1/elsewhere", "ligato/vpp1/later"]
    # two halves of a pair, too
    desk.veth("veth1", "veth2", "ns2", host_if_name="x")
    two = desk.veth("veth2", "veth1", "ns2", host_if_name="x")
    assert desk.why(two) == "host_if_name: x in namespace ns2 belongs to interface veth1"
    assert PAIR not in desk.ids()


def test_both_layouts_configure_one_name(desk: Desk) -> None:  # h.18
    old = desk.v1("x0", type="DUMMY", mtu=1400)
    new = desk.v3("x0", type="DUMMY", mtu=1500)
    assert desk.compiler.desired()["ligato/vpp1/x0"]["a"]["mtu"] == 1500
    assert desk.state(old) == "PENDING"
    assert desk.why(old) == f"configured-once: {new} configures x0 and takes precedence"
    desk.compiler.delete(new)
    assert desk.compiler.desired()["ligato/vpp1/x0"]["a"]["mtu"] == 1400
    assert desk.state(old) == "CONFIGURED"


def test_the_name_in_the_value_counts_in_v1(desk: Desk) -> None:
    key = format_key("vpp1", "v1", "interface", "some-key")
    desk.compiler.put(key, b'{"name": "x0", "type": "DUMMY"}')
    assert desk.ids() == ["ligato/vpp1/x0"]
    assert "is not the name in the key" in desk.why(key)
    exact = desk.v1("x0", since=9, type="DUMMY", mtu=1500)
    assert desk.state(exact) == "CONFIGURED"
    assert desk.why(key).startswith(f"configured-once: {exact}")


def routes_of(desk: Desk, end: str = "a") -> list[dict[str, Any]]:
    return desk.compiler.desired()[PAIR][end].get("routes", [])  # type: ignore[no-any-return]


def test_routes_and_neighbours_wait_for_their_interface(desk: Desk) -> None:  # R12, S2
    route = desk.route3("10.9.0.0/16", "veth1", gw_addr="192.168.22.9")
    arp = desk.arp3("veth1", "192.168.22.9")
    waits = "outgoing-interface-is-up: interface veth1 is not configured"
    assert (desk.why(route), desk.why(arp)) == (waits, waits)
    one, two = desk.pair()
    assert routes_of(desk) == [{"to": "10.9.0.0/16", "via": "192.168.22.9"}]
    neighbours = desk.compiler.desired()[PAIR]["a"]["neighbours"]
    assert neighbours == [{"ip": "192.168.22.9", "mac": "02:00:00:00:00:09"}]
    assert desk.state(route) == desk.state(arp) == "CONFIGURED"
    desk.compiler.delete(two)
    assert desk.state(route) == "PENDING"
    assert "interface veth1 is PENDING: peer veth2 is not configured" in desk.why(arp)
    assert desk.status(route).last_operation == "DELETE"
    desk.compiler.delete(one)
    assert desk.why(route) == waits
    desk.pair()
    assert len(routes_of(desk)) == 1
    desk.pair(enabled=False)
    assert "routes" not in desk.compiler.desired()[PAIR]["a"]
    assert desk.why(route) == "outgoing-interface-is-up: interface veth1 is not enabled"
    desk.compiler.delete(route)
    desk.pair()
    assert routes_of(desk) == []


def test_gateways_have_to_be_in_reach(desk: Desk) -> None:
    far = desk.route3("10.9.0.0/16", "veth1", gw_addr="10.5.0.1")
    desk.pair()
    assert routes_of(desk) == []
    assert desk.why(far) == "gw-reachable: no address of veth1 and no link route through it covers 10.5.0.1"
    link = desk.route3("10.5.0.0/24", "veth1", scope="LINK")
    # the route that the other needs stands before it, though its key comes after
    assert routes_of(desk) == [{"to": "10.5.0.0/24"}, {"to": "10.9.0.0/16", "via": "10.5.0.1"}]
    desk.compiler.delete(link)
    assert desk.state(far) == "PENDING"
    desk.pair(ip_addresses=["10.5.0.9/24"])
    assert desk.state(far) == "CONFIGURED"
    desk.pair(link_only=True, ip_addresses=[])
    assert desk.state(far) == "CONFIGURED", "which addresses it has is not known here"


def test_neighbours_need_an_address(desk: Desk) -> None:
    arp = desk.arp3("veth1", "10.0.0.9")
    desk.pair(ip_addresses=[])
    assert desk.why(arp) == "outgoing-interface-has-ip-address: interface veth1 has none"


@pytest.mark.parametrize(
    ("fields", "route"),
    [
        ({"default": True, "gw_addr": "192.168.22.9"}, {"to": "0.0.0.0/0", "via": "192.168.22.9"}),
        (
            {"dst_ip_addr": "10.1.0.0/16", "table": 7, "metric": 5, "src_ip_addr": "192.168.22.1"},
            {"to": "10.1.0.0/16", "metric": 5, "source": "192.168.22.1", "table": 7},
        ),
        ({"dst_ip_addr": "10.1.0.0/16", "scope": {"type": 1}}, {"to": "10.1.0.0/16", "scope": "site"}),
        ({"dst_ip_addr": "10.1.0.0/16", "scope": {"type": 2}}, {"to": "10.1.0.0/16"}),
        ({"dst_ip_addr": "10.1.0.0/16", "namespace": {"type": 2, "name": "ns1"}}, {"to": "10.1.0.0/16"}),
    ],
)
def test_routes_of_v1(desk: Desk, fields: dict[str, Any], route: dict[str, Any]) -> None:
    key = desk.v1("r1", "route", interface="veth1", **fields)
    desk.pair()
    assert routes_of(desk) == [route]
    assert desk.state(key) == "CONFIGURED"


def test_neighbours_of_v1(desk: Desk) -> None:
    desk.v1("n", "arp", interface="veth2", ip_addr="fd00::9", hw_address="02:00:00:00:00:09", state={"type": 3})
    desk.pair()
    assert desk.compiler.desired()[PAIR]["b"]["neighbours"] == [
        {"ip": "fd00::9", "mac": "02:00:00:00:00:09", "state": "stale"}
    ]


def test_routes_that_exclude_each_other(desk: Desk) -> None:
    desk.pair()
    one = desk.v1("r1", "route", since=2, interface="veth1", dst_ip_addr="10.1.0.0/16")
    two = desk.v1("r2", "route", since=1, interface="veth1", dst_ip_addr="10.1.2.0/16", gw_addr="192.168.22.9")
    assert desk.state(two) == "CONFIGURED"
    assert desk.why(one) == f"has the destination, table and metric of {two}"
    desk.v1("r2", "route", since=1, interface="veth1", dst_ip_addr="10.1.2.0/16", metric=5)
    assert desk.state(one) == desk.state(two) == "CONFIGURED"
    main = desk.v1("r4", "route", since=9, interface="veth1", dst_ip_addr="10.1.0.0/16", table=254)
    assert desk.why(main) == f"has the destination, table and metric of {one}", "254 is the main table"
    desk.compiler.delete(main)
    # through another interface of the same namespace
    desk.v3("d0", type="DUMMY", namespace={"type": 1, "reference": "ns1"})
    three = desk.v1("r3", "route", since=3, interface="d0", dst_ip_addr="10.1.0.0/16")
    assert desk.state(three) == "FAILED"
    desk.compiler.delete(one)
    assert desk.state(three) == "CONFIGURED"
    first = desk.arp3("veth1", "192.168.22.7")
    second = desk.v1("n", "arp", interface="veth1", ip_addr="192.168.22.7", hw_address="02:00:00:00:00:01")
    assert desk.state(first) == "CONFIGURED"
    assert desk.why(second) == f"has the address of {first}"


def test_routes_that_do_not_go_with_their_interface(desk: Desk) -> None:
    desk.pair(mtu=1000)
    wrong = desk.v1(
        "r1", "route", interface="veth1", dst_ip_addr="10.1.0.0/16", namespace={"type": 2, "name": "ns2"}
    )  # fmt: skip
    assert desk.why(wrong) == "namespace: 'ns2' is not that of interface veth1, 'ns1'"
    six = desk.route3("fd00::/64", "veth1")
    assert desk.why(six) == "IPv6 needs an MTU of at least 1280; interface veth1 has 1000"
    assert PAIR in desk.ids()


def test_more_routes_than_an_end_takes(desk: Desk) -> None:
    desk.pair()
    keys = [desk.route3(f"10.{i // 250}.{i % 250}.0/24", "veth1") for i in range(4098)]
    assert len(routes_of(desk)) == 4096
    assert sum(desk.compiler.verdicts()[key].state is not None for key in keys) == 2


def test_dependents(desk: Desk) -> None:  # R10
    key = desk.afpacket("af1", host_if_name="veth1Name")
    assert desk.compiler.dependents() == {"af1": Dependent("af1", "veth1Name", True)}
    assert desk.why(key).startswith("host-interface-exists: an interface called veth1Name is not configured")
    desk.veth("veth1", "veth2", host_if_name="veth1Name")
    assert "veth1 is PENDING: peer veth2 is not configured" in desk.why(key)
    two = desk.veth("veth2", "veth1", "ns2")
    assert desk.compiler.dependents() == {"af1": Dependent("af1", "veth1Name", True, PAIR, "a")}
    assert desk.state(key) == "CONFIGURED"
    desk.compiler.delete(two)
    assert desk.compiler.dependents() == {"af1": Dependent("af1", "veth1Name", True)}
    assert desk.state(key) == "PENDING"
    desk.veth("veth2", "veth1", "ns2")
    assert desk.compiler.dependents()["af1"] == Dependent("af1", "veth1Name", True, PAIR, "a")
    desk.veth("veth1", "veth2", host_if_name="other")
    assert desk.compiler.dependents() == {"af1": Dependent("af1", "veth1Name", True)}
    desk.afpacket("af1", linux_interface="veth1")
    assert desk.compiler.dependents() == {"af1": Dependent("af1", "other", True, PAIR, "a")}
    desk.veth("veth1", "veth2", "ns1")
    assert desk.why(key).endswith("interface veth1 is in namespace ns1, not in the engine's own")
    desk.compiler.delete(key)
    assert desk.compiler.dependents() == {"af1": None}


def test_dependent_of_both_layouts(desk: Desk) -> None:
    desk.v3("h0", type="DUMMY")
    old = format_key("vpp1", "v1", "afpacket", "af1")
    desk.compiler.put(old, b'{"name": "af1", "type": 4, "afpacket": {"host_if_name": "h0"}}')
    assert desk.state(old) == "CONFIGURED"
    new = desk.afpacket("af1", host_if_name="h1")
    assert desk.why(old) == f"configured-once: {new} configures af1 and takes precedence"
    assert desk.state(new) == "PENDING"
    desk.afpacket("af1", host_if_name="a/b")
    assert desk.state(new) == "INVALID"
    desk.compiler.dependents()
    desk.compiler.delete(new)
    assert desk.compiler.dependents() == {"af1": Dependent("af1", "h0", False, "ligato/vpp1/h0", "a")}


def test_what_is_not_ours(desk: Desk) -> None:
    put = desk.compiler.put
    assert not put("/vnf-agent/other/linux/config/v1/interface/x", b"{}")
    assert not put(b"\xff\xfe", b"\xff")
    assert not desk.compiler.delete("/vnf-agent/vpp1/linux/config/v1/interface/x")
    put(format_key("vpp1", "v1", "afpacket", "memif"), b'{"type": 2}')
    assert desk.compiler.statuses() == {}
    rules = "/vnf-agent/vpp1/config/linux/iptables/v2/rulechain/x"
    put(rules, b"{}")
    assert desk.state(rules) == "UNIMPLEMENTED"
    desk.compiler.delete(rules)
    desk.compiler.statuses()
    assert desk.compiler.verdicts() == {}


def test_resync(desk: Desk) -> None:
    one, two = desk.pair()
    desk.compiler.changes()
    desk.compiler.statuses()
    other = Compiler("vpp1")
    values = {
        one: b'{"name":"veth1","enabled":true,"veth":{"peer_if_name":"veth2"},"namespace":{"type":2,"name":"ns1"},'
        b'"ip_addresses":["192.168.22.1/24"]}'
    }
    desk.compiler.resync([(one, values[one], 0), ("/elsewhere", b"", 0)])
    assert desk.compiler.changes() == {PAIR: None}
    assert desk.compiler.statuses()[two] is None
    other.resync([(one, values[one], 0)])
    assert other.verdicts() == desk.compiler.verdicts()


def test_order_of_routes(desk: Desk) -> None:
    """Equal configuration is equal for the engine, too, or it would have something to do."""
    desk.pair()
    desk.route3("10.8.0.0/16", "veth1")
    desk.route3("10.7.0.0/16", "veth1")
    assert [r["to"] for r in routes_of(desk)] == ["10.7.0.0/16", "10.8.0.0/16"]


@pytest.mark.parametrize("names", [("a+b", "c"), ("a", "b+c"), ("a%2Bb", "c"), ("ä/ö", "x y")])
def test_ids_are_one_to_one(names: tuple[str, str]) -> None:
    from fastnl_engine.northbound.ligato.entries import connection_id

    seen = {connection_id("vpp1", *pair) for pair in (("a+b", "c"), ("a", "b+c"), ("a%2Bb", "c"), ("ä/ö", "x y"))}
    assert len(seen) == 4
    assert connection_id("vpp1", *names) == connection_id("vpp1", *reversed(names))
    long = connection_id("vpp1", "n" * 150, "m" * 150)
    assert len(long) <= 200
    assert long != connection_id("vpp1", "n" * 150, "m" * 151)


@pytest.mark.parametrize(
    ("record", "state", "text"),
    [
        (None, "PENDING", "not yet asked for"),
        ({"state": "up"}, "CONFIGURED", ""),
        ({"state": "pending", "reason": "there is no /run/netns/ns1"}, "PENDING", "there is no /run/netns/ns1"),
        (
            {"state": "pending", "reason": "namespace 'microservice:web' is not there"},
            "PENDING",
            "microservice-available: namespace 'microservice:web' is not there",
        ),
        ({"state": "removing"}, "PENDING", ""),
        ({"state": "failed", "error": {"code": "kernel", "message": "no memory"}}, "RETRYING", "no memory"),
        ({"state": "failed", "error": {"code": "invalid", "message": "no", "field": "b.mtu"}}, "INVALID", "no"),
        (
            {"state": "failed", "error": {"code": "invalid", "message": "no", "field": "a.mtu"}},
            "PENDING",
            "veth-peer-exists: no",
        ),
        ({"state": "failed"}, "RETRYING", "failed"),
    ],
)
def test_completed_by_what_the_engine_says(desk: Desk, record: dict[str, Any] | None, state: str, text: str) -> None:
    desk.veth("veth1", "veth2", namespace={"type": 1, "microservice": "web"})
    key = desk.veth("veth2", "veth1")
    status = settle(key, desk.compiler.verdicts()[key], record)
    assert status.state == state
    assert " | ".join(filter(None, (status.error, *status.details))) == text


def test_blame_for_what_failed(desk: Desk) -> None:
    one, two = desk.pair()
    good = desk.route3("10.8.0.0/16", "veth1")
    bad = desk.route3("10.9.0.0/16", "veth1", gw_addr="192.168.22.9")
    record = {"state": "failed", "error": {"code": "kernel", "message": "unreachable", "field": "a.routes[1]"}}
    assert desk.status(bad, record) == ValueStatus(bad, "RETRYING", "unreachable", "CREATE")
    assert desk.status(good, record).details == ("outgoing-interface-is-up: unreachable",)
    assert desk.status(one, record).error == desk.status(two, record).error == "unreachable"


def test_what_the_kernel_refuses_is_left_out(desk: Desk) -> None:
    desk.pair()
    good, bad = desk.route3("10.8.0.0/16", "veth1"), desk.route3("10.9.0.0/16", "veth1")
    [id] = desk.compiler.desired()
    error = {"code": "kernel", "message": "no", "field": "a.routes[1].via"}
    verdicts = desk.compiler.verdicts()
    assert [key for key in verdicts if blamed(verdicts[key], error)] == [bad]
    assert not any(blamed(verdicts[key], {"code": "kernel", "message": "no"}) for key in verdicts)

    def left() -> list[str]:
        return [route["to"] for route in desk.compiler.desired()[id]["a"]["routes"]]

    refused = blamed(verdicts[bad], error)
    desk.compiler.bar(bad, refused)
    assert left() == ["10.8.0.0/16"] and desk.compiler.verdicts()[bad] == refused
    assert desk.compiler.verdicts()[good].state is None
    desk.compiler.bar(bad, None)
    assert left() == ["10.8.0.0/16", "10.9.0.0/16"]
    desk.compiler.bar(bad, refused)
    desk.veth("veth1", "veth2", mtu=1400)  # another interface may be one that it goes with
    assert left() == ["10.8.0.0/16", "10.9.0.0/16"]


def test_as_json(desk: Desk) -> None:
    one = desk.veth("veth1", "veth2")
    assert desk.status(one).json() == (
        b'{"value":{"key":"/vnf-agent/vpp1/linux/config/v1/interface/veth1","state":"PENDING",'
        b'"details":["veth-peer-exists: peer veth2 is not configured"]}}'
    )


def test_the_example_of_the_seed(desk: Desk) -> None:
    """One end for the VPP on the host, the other for one in a container."""
    host = desk.veth("to-web", "from-host", host_if_name="vpp-web", namespace={"type": 2, "name": ""})
    desk.veth("from-host", "to-web", host_if_name="eth1", namespace={"type": 1, "microservice": "web"})
    packet = desk.afpacket("af-web", host_if_name="vpp-web")
    (connection,) = desk.compiler.desired().values()
    assert {e["netns"] for e in (connection["a"], connection["b"])} == {"", "microservice:web"}
    assert desk.compiler.verdicts()[host].namespaces == ("microservice:web",)
    assert desk.state(packet) == "CONFIGURED"


def test_work_is_for_what_is_touched(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(300):
        desk.veth(f"a{i}", f"b{i}", "ns1")
        desk.veth(f"b{i}", f"a{i}", "ns2")
    for i in range(300):  # a crowd around one peer
        desk.veth(f"c{i}", "a0", "ns3")
    desk.compiler.changes()
    seen: list[str] = []
    problem: Callable[[Compiler, str], Any] = Compiler._problem
    monkeypatch.setattr(Compiler, "_problem", lambda self, name: (seen.append(name), problem(self, name))[1])
    desk.veth("a7", "b7", "ns1", mtu=9000)
    assert len(desk.compiler.changes()) == 1
    assert set(seen) == {"a7", "b7"}
    seen.clear()
    desk.veth("c7", "a0", "ns3", mtu=9000)
    assert desk.compiler.changes() == {}
    assert seen == ["c7"]
