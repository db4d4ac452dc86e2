"""Changing what is wired: in place where the kernel can, taken back where it fails."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest

from fastnl import (
    Device,
    End,
    InvalidValue,
    KernelError,
    NameInUse,
    Neighbour,
    NetnsGone,
    NetnsNotFound,
    Route,
    Veth,
    Vxlan,
)
from fastnl.testing import ip_json, nsenter, ping

MAC, PEER = "02:00:00:00:00:01", "02:00:00:00:00:02"


def a(**fields) -> End:
    return End("blue", fields.pop("ifname", "e0"), fields.pop("addresses", ["10.0.0.1/24"]), **fields)


def b(**fields) -> End:
    return End("red", fields.pop("ifname", "e0"), fields.pop("addresses", ["10.0.0.2/24"]), **fields)


@pytest.fixture
def wired(host, netns):
    netns.make("blue")
    netns.make("red")
    [result] = host.connect([Veth(a(mac=MAC, mtu=1500, txqlen=1000), b(mac=PEER))])
    assert result.ok
    return result.wired


def everything(name: str = "blue") -> list:
    """All that can be seen of a namespace, but for counters, lifetimes and what the kernel does in its own time."""
    out = []
    for what in (("addr", "show"), ("-4", "route", "show", "table", "all"), ("neigh", "show", "nud", "permanent")):
        for row in ip_json(name, *what):
            row["addr_info"] = sorted((f["local"], f["prefixlen"]) for f in row.get("addr_info", []))
            out.append({key: value for key, value in row.items() if key not in ("link_netnsid", "operstate", "flags")})
    return sorted(out, key=repr)


def updated(host, wired, new):
    [result] = host.update([(wired, new)])
    assert result.error is None
    assert result.wired.connection == new
    return result


IN_PLACE = {
    "mtu": {"mtu": 1400},
    "mac": {"mac": "02:00:00:00:00:77"},
    "txqlen": {"txqlen": 55},
    "name": {"ifname": "renamed"},
    "address added": {"addresses": ["10.0.0.1/24", "10.5.0.1/16"]},
    "address replaced": {"addresses": ["10.0.0.3/24"]},
    "addresses gone": {"addresses": []},
    "ipv6 address": {"addresses": ["10.0.0.1/24", "fd00::1/64"]},
    "route": {"routes": [Route("10.9.0.0/16", via="10.0.0.2", metric=5)]},
    "neighbour": {"neighbours": [Neighbour("10.0.0.9", PEER)]},
    "all at once": {
        "ifname": "other", "mtu": 1300, "mac": "02:00:00:00:00:78", "addresses": ["10.0.0.7/24"], "txqlen": 9,
        "routes": [Route("default", via="10.0.0.2")], "neighbours": [Neighbour("10.0.0.2", PEER)],
    },
}  # fmt: skip


@pytest.mark.parametrize("change", IN_PLACE.values(), ids=IN_PLACE)
def test_what_can_change_in_place_keeps_its_index(host, wired, change):
    before = everything()
    first = Veth(a(**({"mac": MAC, "mtu": 1500, "txqlen": 1000} | change)), b(mac=PEER))
    result = updated(host, wired, first)
    assert result.changed
    assert result.wired.places == wired.places
    end = first.a
    [row] = ip_json("blue", "addr", "show", end.ifname)
    assert row["ifindex"] == wired.places[0].ifindex
    assert (row["mtu"], row["address"], row["txqlen"]) == (end.mtu, end.mac, end.txqlen)
    assert row["ifalias"] == host.alias(first, 0)
    assert {f"{f['local']}/{f['prefixlen']}" for f in row["addr_info"] if f["scope"] == "global"} == {
        address.text for address in end.addresses
    }
    static = {
        (r["dst"], r.get("gateway"), r.get("metric", 0)) for r in ip_json("blue", "route", "show", "proto", "static")
    }
    assert static == {(r.to if r.to != "0.0.0.0/0" else "default", r.via, r.metric) for r in end.routes}
    assert {n["dst"] for n in ip_json("blue", "neigh", "show", "nud", "permanent")} == {n.ip for n in end.neighbours}
    # and back
    back = updated(host, result.wired, wired.connection)
    if not end.ipv6:  # which does not go while the interface lives
        assert back.wired.places == wired.places
        assert everything() == before


def test_what_is_no_longer_asked_for_is_as_at_birth_but_for_the_mac(host, wired):
    full = Veth(a(mac=MAC, mtu=1400, txqlen=9), b(mac=PEER))
    result = updated(host, wired, full)
    bare = updated(host, result.wired, Veth(a(), b(mac=PEER)))
    assert bare.changed and bare.wired.places == wired.places
    [row] = ip_json("blue", "link", "show", "e0")
    assert (row["mtu"], row["txqlen"], row["address"]) == (1500, 1000, MAC)
    # and a change that fails is taken back
    full = updated(host, bare.wired, full)
    taken = Veth(a(routes=[Route("10.9.0.0/16", via="10.77.0.1")]), b(mac=PEER))
    [failed] = host.update([(full.wired, taken)])
    assert failed.error is not None and failed.wired.places == wired.places
    [row] = ip_json("blue", "link", "show", "e0")
    assert (row["mtu"], row["txqlen"], row["address"]) == (1400, 9, MAC)


@pytest.mark.parametrize("kind", ["tap", "dummy"])
def test_an_mtu_and_a_queue_length_of_an_interface_alone_go_back_too(host, netns, kind):
    netns.make("blue")
    born = host.connect([Device(kind, a())])[0]
    if born.error is not None:
        pytest.skip(f"this kernel makes no {kind}: {born.error}")
    [before] = ip_json("blue", "link", "show", "e0")
    full = updated(host, born.wired, Device(kind, a(mtu=1400, txqlen=9)))
    bare = updated(host, full.wired, Device(kind, a()))
    assert bare.wired.places == born.wired.places
    [after] = ip_json("blue", "link", "show", "e0")
    assert (after["mtu"], after["txqlen"]) == (before["mtu"], before["txqlen"])


def test_an_update_to_the_same_changes_nothing(host, wired):
    tours = []
    host.trace = lambda tour, threads: tours.append(tour)
    [result] = host.update([(wired, wired.connection)])
    assert (result.ok, result.changed, result.wired) == (True, False, wired)
    assert [len(visit) for tour in tours for visit in tour.visits] == []


def test_a_changed_address_carries_traffic_at_once(host, wired):
    updated(
        host,
        wired,
        Veth(
            a(mac=MAC, mtu=1500, txqlen=1000, addresses=["10.0.0.1/24", "fd00::1/64"]),
            b(mac=PEER, addresses=["10.0.0.5/24", "fd00::5/64"]),
        ),
    )
    assert ping("blue", "10.0.0.5")
    assert ping("blue", "fd00::5")
    assert not ping("blue", "10.0.0.2", wait=0.2)


def test_a_new_id_changes_the_alias_only(host, wired):
    result = updated(host, wired, replace(wired.connection, id="named"))
    assert result.wired.places == wired.places
    assert ip_json("red", "link", "show", "e0")[0]["ifalias"] == "fastnl/test/named/b"


def test_routes_survive_the_loss_of_an_address_that_they_went_through(host, netns):
    netns.make("blue")
    netns.make("red")
    kept = Route("10.9.0.0/16", via="10.0.0.2")
    [result] = host.connect([Veth(a(addresses=["10.0.0.1/24", "10.0.0.7/32"], routes=[kept]), b())])
    updated(host, result.wired, Veth(a(addresses=["10.0.0.3/24", "10.0.0.7/32"], routes=[kept]), b()))
    assert [r["gateway"] for r in ip_json("blue", "route", "show", "10.9.0.0/16")] == ["10.0.0.2"]


FAILING = [Route("10.77.0.0/16", via="172.31.0.1")]  # its gateway is unreachable


@pytest.mark.parametrize("change", [*IN_PLACE.values()], ids=IN_PLACE)
def test_an_update_that_fails_is_taken_back_completely(host, wired, change):
    before = everything(), everything("red")
    change = {"mac": MAC, "mtu": 1500, "txqlen": 1000} | change
    change["routes"] = [*change.get("routes", []), *FAILING]
    [result] = host.update([(wired, Veth(a(**change), b(mac=PEER, mtu=1450, addresses=["10.0.0.9/24"])))])
    assert isinstance(result.error, KernelError)
    assert result.error.field == f"a.routes[{len(change['routes']) - 1}]"
    assert (result.changed, result.wired) == (False, wired)
    assert (everything(), everything("red")) == before
    assert ping("blue", "10.0.0.2")


@pytest.mark.parametrize(
    "change", [{"mtu": 1400}, {"mac": MAC}, {"txqlen": 7}, {"mtu": 1400, "mac": MAC, "txqlen": 7}], ids=str
)
def test_what_the_kernel_had_chosen_is_taken_back_too(host, netns, change):
    netns.make("blue")
    netns.make("red")
    [made] = host.connect([Veth(a(), b())])
    before = everything(), everything("red")
    [result] = host.update([(made.wired, Veth(a(**change, routes=FAILING), b(**change)))])
    assert not result.ok
    assert (everything(), everything("red")) == before


def test_an_update_that_fails_leaves_its_neighbours_in_the_batch_whole(host, netns):
    netns.make("blue")
    netns.make("red")
    pairs = [
        Veth(End("blue", f"e{i}", [f"10.{i}.0.1/24"]), End("red", f"e{i}", [f"10.{i}.0.2/24"]), id=str(i))
        for i in range(4)
    ]
    made = [r.wired for r in host.connect(pairs)]
    new = [
        Veth(
            End("blue", f"e{i}", [f"10.{i}.0.5/24"], routes=FAILING if i == 1 else []),
            End("red", f"e{i}", [f"10.{i}.0.2/24"]),
            id=str(i),
        )
        for i in range(4)
    ]
    results = host.update(list(zip(made, new, strict=True)))
    assert [r.ok for r in results] == [True, False, True, True]
    assert [ping("red", f"10.{i}.0.{1 if i == 1 else 5}") for i in range(4)] == [True] * 4


# -- names -----------------------------------------------------------------------------------------


def test_a_rename_onto_a_name_in_use_leaves_everything_as_it_was(host, wired, foreign):
    foreign("blue", "taken")
    before = everything()
    [result] = host.update([(wired, Veth(a(ifname="taken", mac=MAC, mtu=1400, txqlen=1000), b(mac=PEER)))])
    assert isinstance(result.error, NameInUse)
    assert (result.error.field, result.wired, result.changed) == ("a.ifname", wired, False)
    assert everything() == before


def test_a_renamed_interface_can_be_updated_and_disconnected(host, wired):
    result = updated(host, wired, Veth(a(ifname="renamed", mac=MAC, mtu=1500, txqlen=1000), b(mac=PEER)))
    again = updated(host, result.wired, Veth(a(ifname="twice", mac=MAC, mtu=1400, txqlen=1000), b(mac=PEER)))
    assert again.wired.places == wired.places
    assert host.disconnect([again.wired])[0].changed
    assert [row["ifname"] for row in ip_json("blue", "link", "show")] == ["lo"]


# -- anew ------------------------------------------------------------------------------------------


def test_another_namespace_is_reached_by_making_it_anew(host, wired, netns):
    netns.make("green")
    new = Veth(End("green", "e0", ["10.0.0.1/24"], mac=MAC), b(mac=PEER))
    result = updated(host, wired, new)
    assert result.changed
    assert result.wired.places[0].netns != wired.places[0].netns
    assert ping("green", "10.0.0.2")
    assert [row["ifname"] for row in ip_json("blue", "link", "show")] == ["lo"]


@pytest.mark.parametrize(
    "new",
    [
        Veth(a(mac=MAC, mtu=1500, txqlen=1000, queues=2), b(mac=PEER)),
        Vxlan(a=a(), vni=5, underlay="red"),
    ],
    ids=["queues", "kind"],
)
def test_what_cannot_change_in_place_is_made_anew(host, wired, new):
    result = updated(host, wired, new)
    assert result.wired.places[0].ifindex != wired.places[0].ifindex
    [row] = ip_json("blue", "link", "show", "e0")
    assert row["ifindex"] == result.wired.places[0].ifindex
    assert row["num_tx_queues"] == new.a.queues
    assert host.disconnect([result.wired])[0].changed


def test_a_tunnels_parameters_are_reached_by_making_it_anew_and_its_end_changes_in_place(host, netns):
    netns.make("blue")
    netns.make("red")
    old = Vxlan(a=a(), vni=5, underlay="red")
    [made] = host.connect([old])
    kept = updated(host, made.wired, replace(old, a=a(addresses=["10.0.0.9/24"]), mtu=1400))
    assert kept.wired.places == made.wired.places
    assert ip_json("blue", "link", "show", "e0")[0]["mtu"] == 1400
    anew = updated(host, kept.wired, replace(old, vni=6))
    assert anew.wired.places != made.wired.places
    assert ip_json("blue", "link", "show", "e0")[0]["linkinfo"]["info_data"]["id"] == 6


def test_a_new_connection_that_cannot_be_made_gives_the_old_one_back(host, wired, netns, foreign):
    netns.make("green")
    foreign("green", "e0")
    [result] = host.update([(wired, Veth(End("green", "e0"), b(mac=PEER)))])
    assert isinstance(result.error, NameInUse)
    assert result.wired.connection == wired.connection
    assert ping("blue", "10.0.0.2")
    assert [row["ifname"] for row in ip_json("green", "link", "show")] == ["lo", "e0"]
    assert host.disconnect([result.wired])[0].changed


@pytest.mark.parametrize(("reference", "error"), [("nosuch", NetnsNotFound), ("what:ever", InvalidValue)])
def test_a_new_namespace_that_is_not_there_leaves_everything_as_it_was(host, wired, reference, error):
    before = everything()
    [result] = host.update([(wired, Veth(End(reference, "e0"), b(mac=PEER)))])
    assert isinstance(result.error, error)
    assert (result.error.field, result.wired, result.changed) == ("a.netns", wired, False)
    assert everything() == before


def test_ipv6_comes_to_an_end_that_was_made_without_it_in_a_crowd(host, netns):
    netns.make("blue")
    netns.make("red")
    assert all(r.ok for r in host.connect([Veth(End("blue", f"c{i}"), End("red", f"c{i}")) for i in range(257)]))
    [made] = host.connect([Veth(a(), b())])
    path = "/proc/sys/net/ipv6/conf/e0/disable_ipv6"
    assert subprocess.run(nsenter("blue", "cat", path), capture_output=True, check=True).stdout == b"1\n"
    kept = updated(host, made.wired, Veth(a(addresses=["fd00::1/64"]), b(addresses=["fd00::2/64"])))
    assert ping("blue", "fd00::2") and kept.wired.places == made.wired.places


def test_what_somebody_deleted_is_made_anew_as_it_is_wanted_now(host, wired):
    subprocess.run(["ip", "-n", "blue", "link", "del", wired.connection.a.ifname], check=True)
    [result] = host.update([(wired, Veth(a(mac=MAC, mtu=1400, txqlen=1000), b(mac=PEER)))])
    assert result.ok
    assert result.wired.places != wired.places
    [row] = ip_json("blue", "link", "show", wired.connection.a.ifname)
    assert (row["mtu"], row["address"], row["ifindex"]) == (1400, MAC, result.wired.places[0].ifindex)


def test_in_a_namespace_that_is_another_one_now_nothing_is_updated(host, wired, netns):
    netns.let_go("red")
    netns.make("red")
    [result] = host.update([(wired, Veth(a(mac=MAC, mtu=1400, txqlen=1000), b(mac=PEER)))])
    assert isinstance(result.error, NetnsGone)


def test_what_was_there_before_is_not_taken_away_by_a_change_that_fails(host, wired):
    """An address that somebody else gave an interface of ours is in the way of the same one from us."""
    subprocess.run(["ip", "-n", "blue", "addr", "add", "10.44.0.1/16", "dev", "e0"], check=True)
    before = everything()
    more = ["10.0.0.1/24", "10.45.0.1/16", "10.44.0.1/16"]
    [result] = host.update([(wired, replace(wired.connection, a=a(mac=MAC, mtu=1500, txqlen=1000, addresses=more)))])
    assert isinstance(result.error, KernelError) and result.error.field == "a.addresses[2]"
    assert everything() == before


@pytest.mark.parametrize("kind", ["veth", "vxlan"])
def test_what_somebody_deleted_is_made_again_by_a_change_that_only_takes_away(host, netns, kind):
    for name in ("blue", "red"):
        netns.make(name)

    def connection(*addresses: str) -> Veth | Vxlan:
        here = End("blue", "e0", addresses)
        if kind == "vxlan":
            return Vxlan(a=here, vni=7, remote="192.0.2.1", id="mine")
        return Veth(here, End("red", "e0"), id="mine")

    [before] = host.connect([connection("10.0.0.1/24", "10.0.1.1/24")])
    subprocess.run(["ip", "-n", "blue", "link", "del", "e0"], check=True)
    [result] = host.update([(before.wired, connection("10.0.0.1/24"))])
    assert (result.error, result.changed) == (None, True)
    [row] = ip_json("blue", "addr", "show", "e0")
    assert row["ifindex"] == result.wired.places[0].ifindex
    assert [a["local"] for a in row["addr_info"]] == ["10.0.0.1"]
