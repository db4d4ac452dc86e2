"""Pairs on the real kernel, read back by two readers that share no code with fastnl."""

from __future__ import annotations

import subprocess

import pytest

from fastnl import End, Neighbour, Route, Veth
from fastnl.testing import ip_json, nsenter, ping

MAC, PEER = "02:00:00:00:00:01", "02:00:00:00:00:02"


def pair(a: str, b: str, name: str = "e0", *, net: int = 0, **kwargs) -> Veth:
    return Veth(End(a, name, [f"10.0.{net}.1/24"]), End(b, name, [f"10.0.{net}.2/24"]), **kwargs)


def connected(host, *connections):
    results = host.connect(connections)
    assert [r.error for r in results] == [None] * len(connections)
    assert all(r.changed for r in results)
    return [r.wired for r in results]


@pytest.fixture
def full(host, netns):
    """A pair that asks for everything a pair can have, wired between blue and red."""
    blue, red = netns.make("blue"), netns.make("red")
    a = End(
        blue,
        "left.0",
        ["10.0.0.1/24", "10.1.0.1/32", "fd00::1/64"],
        mac=MAC,
        mtu=1400,
        routes=[
            Route("10.9.0.0/16", via="10.0.0.2", metric=50, source="10.1.0.1"),
            Route("10.8.0.0/16", table=1000),
            Route("default", via="192.0.2.1", onlink=True, metric=7),
            Route("fd09::/64", via="fd00::2", metric=60),
            Route("default", via="fd00::2", table=300),
        ],
        neighbours=[Neighbour("10.0.0.2", PEER), Neighbour("fd00::2", PEER, state="noarp")],
        txqlen=123,
    )
    b = End(red, "é" * 7, ["10.0.0.2/24", "fd00::2/64"], mac=PEER, queues=2)
    [wired] = connected(host, Veth(a, b, id="the-pair", mtu=9000))
    return wired


def test_a_pair_reads_back_as_asked_with_ip(full, host):
    [a] = ip_json("blue", "addr", "show", "left.0")
    [b] = ip_json("red", "link", "show", "é" * 7)
    assert [a["ifindex"], b["ifindex"]] == [p.ifindex for p in full.places]
    assert (a["link_index"], b["link_index"]) == (b["ifindex"], a["ifindex"])
    assert (a["address"], b["address"]) == (MAC, PEER)
    assert (a["mtu"], b["mtu"]) == (1400, 9000)
    assert (a["txqlen"], b["txqlen"]) == (123, 1000)
    assert (a["num_tx_queues"], a["num_rx_queues"]) == (1, 1)
    assert (b["num_tx_queues"], b["num_rx_queues"]) == (2, 2)
    assert (a["ifalias"], b["ifalias"]) == ("fastnl/test/the-pair/a", "fastnl/test/the-pair/b")
    assert a["group"] == b["group"] == str(host.group)
    assert "UP" in a["flags"]
    assert "UP" in b["flags"]
    assert a["linkinfo"]["info_kind"] == "veth"
    found = {(f["local"], f["prefixlen"], f.get("broadcast")) for f in a["addr_info"] if f["scope"] == "global"}
    assert found == {("10.0.0.1", 24, "10.0.0.255"), ("10.1.0.1", 32, None), ("fd00::1", 64, None)}


def test_routes_read_back_as_asked_with_ip(full):
    def routes(*args):
        return {(r["dst"], r.get("gateway"), r.get("metric"), r.get("prefsrc")) for r in ip_json("blue", *args)}

    assert routes("route", "show", "proto", "static") == {
        ("10.9.0.0/16", "10.0.0.2", 50, "10.1.0.1"),
        ("default", "192.0.2.1", 7, None),
    }
    [default] = [r for r in ip_json("blue", "route", "show", "proto", "static") if r["dst"] == "default"]
    assert "onlink" in default["flags"]
    assert routes("route", "show", "table", "1000") == {("10.8.0.0/16", None, None, None)}
    assert routes("-6", "route", "show", "proto", "static") == {("fd09::/64", "fd00::2", 60, None)}
    assert routes("-6", "route", "show", "table", "300") == {("default", "fd00::2", 1024, None)}


def test_neighbours_read_back_as_asked_with_ip(full):
    found = {
        (n["dst"], n["lladdr"], *n["state"]) for n in ip_json("blue", "neigh", "show", "nud", "all") if "lladdr" in n
    }
    assert {("10.0.0.2", PEER, "PERMANENT"), ("fd00::2", PEER, "NOARP")} <= found


def test_a_pair_reads_back_as_asked_with_pyroute2(full, host, seen):
    blue, red = seen("blue"), seen("red")
    a, b = blue.links["left.0"], red.links["é" * 7]
    for link, other, place, mtu, mac, end in ((a, b, 0, 1400, MAC, "a"), (b, a, 1, 9000, PEER, "b")):
        assert link["index"] == full.places[place].ifindex
        assert link["flags"] & 1
        assert (link.get("mtu"), link.get("address"), link.get("group")) == (mtu, mac, host.group)
        assert link.get("ifalias") == f"fastnl/test/the-pair/{end}"
        assert link.get("link") == other["index"]
        assert link.get(("linkinfo", "kind")) == "veth"
    assert (a.get("num_tx_queues"), a.get("num_rx_queues"), b.get("num_tx_queues")) == (1, 1, 2)
    assert blue.addresses("left.0") >= {"10.0.0.1/24", "10.1.0.1/32", "fd00::1/64"}
    assert red.addresses("é" * 7) >= {"10.0.0.2/24", "fd00::2/64"}
    static = {
        (r.get("dst"), r["dst_len"], r.get("gateway"), r.get("table"), r.get("priority"), r.get("prefsrc"))
        for r in blue.routes
        if r["proto"] == 4
    }
    assert static == {
        ("10.9.0.0", 16, "10.0.0.2", 254, 50, "10.1.0.1"),
        ("10.8.0.0", 16, None, 1000, None, None),
        (None, 0, "192.0.2.1", 254, 7, None),
        ("fd09::", 64, "fd00::2", 254, 60, None),
        (None, 0, "fd00::2", 300, 1024, None),
    }
    assert {(n.get("dst"), n.get("lladdr"), n["state"]) for n in blue.neighbours} >= {
        ("10.0.0.2", PEER, 0x80),
        ("fd00::2", PEER, 0x40),
    }


def test_a_pair_reads_back_as_asked_with_fastnl(full, host):
    [row] = [row for row in host.links("blue", stats=True) if row.ifname == "left.0"]
    assert (row.ifindex, row.mtu, row.mac, row.txqlen, row.kind) == (full.places[0].ifindex, 1400, MAC, 123, "veth")
    assert (row.link, row.tx_queues, row.rx_queues, row.up) == (full.places[1].ifindex, 1, 1, True)
    assert row.stats["tx_packets"] >= 0
    assert {a.address for a in host.addresses("blue")} >= {"10.0.0.1/24", "10.1.0.1/32", "fd00::1/64"}
    assert ("10.9.0.0/16", "10.0.0.2", 50) in {(r.to, r.via, r.metric) for r in host.routes("blue")}
    assert ("10.0.0.2", PEER) in {(n.ip, n.mac) for n in host.neighbours("blue")}


def test_disconnecting_leaves_nothing(full, host):
    [result] = host.disconnect([full])
    assert (result.ok, result.changed) == (True, True)
    for name in ("blue", "red"):
        assert [row["ifname"] for row in ip_json(name, "link", "show")] == ["lo"]
        assert [r for r in ip_json(name, "route", "show", "table", "all") if r.get("dev") != "lo"] == []


def test_disconnecting_what_is_gone_is_no_error_and_changes_nothing(full, host):
    assert [r.changed for r in host.disconnect([full])] == [True]
    [again] = host.disconnect([full])
    assert (again.ok, again.changed, again.wired) == (True, False, full)


# -- traffic ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["10.0.0.2", "fd00::2"])
def test_ping_goes_across(host, netns, address):
    blue, red = netns.make("blue"), netns.make("red")
    connected(host, Veth(End(blue, "e0", ["10.0.0.1/24", "fd00::1/64"]), End(red, "e0", ["10.0.0.2/24", "fd00::2/64"])))
    assert ping(blue, address)


def test_ipv6_addresses_are_usable_at_once_without_duplicate_address_detection(host, netns):
    blue, red = netns.make("blue"), netns.make("red")
    connected(host, Veth(End(blue, "e0", ["fd00::1/64"]), End(red, "e0", ["fd00::2/64"])))
    for name in (blue, red):
        [found] = [f for f in ip_json(name, "addr", "show", "e0")[0]["addr_info"] if f["scope"] == "global"]
        assert found.get("nodad")
        assert not found.get("tentative")


def test_a_packet_of_the_mtu_goes_through_and_one_more_byte_does_not(host, netns):
    blue, red = netns.make("blue"), netns.make("red")
    connected(host, pair(blue, red, mtu=2000))
    assert ping(blue, "10.0.0.2", size=2000 - 28)
    assert not ping(blue, "10.0.0.2", size=2000 - 27, wait=0.2)


def test_a_route_carries_traffic_to_what_is_behind_the_other_end(host, netns):
    blue, red = netns.make("blue"), netns.make("red")
    connected(
        host,
        Veth(
            End(blue, "e0", ["10.0.0.1/24"], routes=[Route("10.77.0.0/16", via="10.0.0.2")]),
            End(red, "e0", ["10.0.0.2/24", "10.77.0.1/32"]),
        ),
    )
    assert ping(blue, "10.77.0.1")


def test_a_neighbour_replaces_arp(host, netns):
    blue, red = netns.make("blue"), netns.make("red")
    wrong = Neighbour("10.0.0.2", "02:00:00:00:00:99")
    connected(
        host, Veth(End(blue, "e0", ["10.0.0.1/24"], neighbours=[wrong]), End(red, "e0", ["10.0.0.2/24"], mac=PEER))
    )
    assert not ping(blue, "10.0.0.2", wait=0.2)


# -- batches ---------------------------------------------------------------------------------------


def test_a_batch_of_0_works(host):
    assert host.connect([]) == host.disconnect([]) == host.update([]) == host.move([]) == []


def test_a_batch_over_several_tours_keeps_its_order(host, netns):
    names = netns.many(4)
    asked = [pair(names[i % 4], names[(i + 1) % 4], f"e{i}", net=i % 250, id=str(i)) for i in range(600)]
    wired = connected(host, *asked)
    assert [w.connection.id for w in wired] == [str(i) for i in range(600)]
    assert sum(len(ip_json(n, "link", "show")) - 1 for n in names) == 1200
    assert [r.changed for r in host.disconnect(wired)] == [True] * 600
    assert [len(ip_json(n, "link", "show")) for n in names] == [1] * 4


def test_both_ends_may_be_in_one_namespace(host, netns):
    blue = netns.make("blue")
    [wired] = connected(host, Veth(End(blue, "e0", ["10.0.0.1/24"]), End("name:blue", "e1")))
    assert {row["ifname"] for row in ip_json(blue, "link", "show")} == {"lo", "e0", "e1"}
    assert [r.changed for r in host.disconnect([wired])] == [True]


def test_an_end_may_be_in_the_callers_own_namespace(host, netns):
    blue = netns.make("blue")
    [wired] = connected(host, pair("", blue, "mine"))
    assert ping("", "10.0.0.2")
    assert ping(blue, "10.0.0.1")
    assert host.disconnect([wired])[0].changed


def test_an_interface_of_that_name_where_the_call_is_made_does_not_matter(host, netns, foreign):
    # before 6.15 the kernel looks in the sender's namespace, and would change the interface that it finds
    blue, red, here = netns.make("blue"), netns.make("red"), netns.make("here")
    mine = Veth(End("", "e0"), End(here, "x"))
    [wired] = connected(host, mine)
    connected(host, pair(blue, red, "e0"))
    assert ping(blue, "10.0.0.2")
    assert host.disconnect([wired])[0].changed


@pytest.mark.parametrize("end", [0, 1])
def test_an_index_that_somebody_has_already_is_replaced_by_another(host, netns, foreign, end):
    names = [netns.make("blue"), netns.make("red")]
    taken = host._next_index + end
    foreign(names[end], "foreign", index=taken)
    [wired] = connected(host, pair(*names))
    assert wired.places[end].ifindex != taken
    assert ping(names[0], "10.0.0.2")
    [row] = ip_json(names[end], "link", "show", "foreign")
    assert (row["ifindex"], row.get("ifalias")) == (taken, None)


def test_indexes_may_be_chosen_by_the_caller(host, netns):
    blue, red = netns.make("blue"), netns.make("red")
    [result] = host.connect([pair(blue, red)], indexes=[(4711, 4712)])
    assert [p.ifindex for p in result.wired.places] == [4711, 4712]
    assert ip_json(blue, "link", "show", "e0")[0]["ifindex"] == 4711


def test_a_name_can_be_used_again_at_once(host, netns):
    blue, red = netns.make("blue"), netns.make("red")
    for _ in range(3):
        [wired] = connected(host, pair(blue, red))
        assert host.disconnect([wired])[0].changed


# -- IPv6 is off where nobody asked for it ---------------------------------------------------------


def link_local(netns: str, ifname: str) -> list[str]:
    return [f["local"] for f in ip_json(netns, "addr", "show", ifname)[0]["addr_info"] if f["scope"] == "link"]


def inside(netns: str, path: str) -> str:
    """A file of /proc/sys as a namespace sees it."""
    return subprocess.run(nsenter(netns, "cat", path), check=True, capture_output=True, text=True).stdout.strip()


def test_an_end_without_ipv6_has_no_link_local_address_and_one_with_it_has(host, netns):
    blue, red = netns.make("blue"), netns.make("red")
    connected(host, Veth(End(blue, "e0", ["10.0.0.1/24"]), End(red, "e0", ["fd00::2/64"])))
    assert link_local(blue, "e0") == []
    assert len(link_local(red, "e0")) == 1
    assert ip_json(blue, "link", "show", "e0")[0]["inet6_addr_gen_mode"] == "none"
    assert ip_json(red, "link", "show", "e0")[0]["inet6_addr_gen_mode"] == "eui64"


def test_a_small_mtu_leaves_no_ipv6_to_switch_off(host, netns):
    blue, red = netns.make("blue"), netns.make("red")
    connected(host, pair(blue, red, mtu=1000))
    assert link_local(blue, "e0") == []
    assert ping(blue, "10.0.0.2")


def test_over_256_ends_in_one_namespace_are_switched_off_one_by_one_and_the_namespace_is_not(host, netns):
    blue, red = netns.make("blue"), netns.make("red")
    first = connected(host, *[Veth(End(blue, f"e{i}"), End(red, f"e{i}")) for i in range(250)])
    more = connected(host, *[Veth(End(blue, f"m{i}"), End(red, f"m{i}")) for i in range(10)])
    conf = "/proc/sys/net/ipv6/conf"
    assert [inside(blue, f"{conf}/{name}/disable_ipv6") for name in ("e0", "e249", "m5", "m6", "m9")] == list("00011")
    assert [inside(blue, f"{conf}/{name}/disable_ipv6") for name in ("default", "all")] == ["0", "0"]
    assert [link_local(blue, name) for name in ("e0", "m5", "m9")] == [[], [], []]
    # where its owner has it off for new ones there is nothing to write
    switch = ["sh", "-c", f"echo 1 > {conf}/default/disable_ipv6"]
    subprocess.run(nsenter(blue, *switch), check=True)
    more += connected(host, *[Veth(End(blue, f"n{i}"), End(red, f"n{i}")) for i in range(3)])
    assert [inside(blue, f"{conf}/n{i}/disable_ipv6") for i in range(3)] == list("111")
    assert [inside(red, f"{conf}/n{i}/disable_ipv6") for i in range(3)] == list("111")
    subprocess.run(nsenter(blue, *[word.replace("echo 1", "echo 0") for word in switch]), check=True)
    # with the crowd gone, the next ones are few again
    assert all(r.changed for r in host.disconnect(first + more))
    connected(host, Veth(End(blue, "e0"), End(red, "e0")))
    assert inside(blue, f"{conf}/e0/disable_ipv6") == "0"


def test_an_end_with_ipv6_works_in_a_crowd_too(host, netns):
    blue, red = netns.make("blue"), netns.make("red")
    connected(host, *[Veth(End(blue, f"e{i}"), End(red, f"e{i}")) for i in range(257)])
    connected(host, Veth(End(blue, "six", ["fd00::1/64"]), End(red, "six", ["fd00::2/64"])))
    assert ping(blue, "fd00::2")
