"""Moving an end: the interface itself, or made anew in its new place."""

from __future__ import annotations

import errno
import subprocess

import pytest

from fastnl import End, KernelError, Move, NameInUse, Neighbour, NetnsNotFound, Route, Veth, Vxlan
from fastnl.testing import ip_json, ping

PEER = "02:00:00:00:00:02"


@pytest.fixture
def wired(host, netns):
    for name in ("blue", "red", "green"):
        netns.make(name)
    end = End(
        "blue", "e0", ["10.0.0.1/24", "fd00::1/64"], mtu=1400, routes=[Route("10.9.0.0/16", via="10.0.0.2")],
        neighbours=[Neighbour("10.0.0.2", PEER)],
    )  # fmt: skip
    [result] = host.connect([Veth(end, End("red", "e0", ["10.0.0.2/24", "fd00::2/64"], mac=PEER), id="mine")])
    assert result.ok
    return result.wired


def names_in(netns: str) -> set[str]:
    return {row["ifname"] for row in ip_json(netns, "link", "show")} - {"lo"}


def look(netns: str, ifname: str = "e0") -> dict:
    [row] = ip_json(netns, "addr", "show", ifname)
    row["addr_info"] = sorted((f["local"], f["prefixlen"]) for f in row["addr_info"] if f["scope"] == "global")
    kept = ("ifindex", "address", "mtu", "group", "ifalias", "addr_info", "num_tx_queues", "link_index")
    return {key: row.get(key) for key in kept} | {"up": "UP" in row["flags"]}


def test_a_true_move_keeps_index_mac_and_all_that_was_asked_for(host, wired):
    before = look("blue")
    [result] = host.move([Move(wired, 0, "green")])
    assert (result.error, result.changed) == (None, True)
    assert names_in("blue") == set()
    assert look("green") == before
    assert result.wired.connection.a.netns == "green"
    assert result.wired.places[0].ifindex == wired.places[0].ifindex
    assert result.wired.places[1] == wired.places[1]
    assert ping("green", "10.0.0.2")
    assert ping("red", "fd00::1")
    assert [r["gateway"] for r in ip_json("green", "route", "show", "10.9.0.0/16")] == ["10.0.0.2"]
    assert [n["dst"] for n in ip_json("green", "neigh", "show", "nud", "permanent")] == ["10.0.0.2"]
    assert host.disconnect([result.wired])[0].changed
    assert names_in("green") == names_in("red") == set()


@pytest.mark.parametrize("kind", ["veth", "vxlan"])
def test_what_somebody_deleted_is_made_anew_where_it_was_to_go(host, netns, kind):
    for name in ("blue", "red", "green"):
        netns.make(name)
    here = End("blue", "e0", ["10.0.0.1/24"])
    pair, tunnel = Veth(here, End("red", "e0"), id="mine"), Vxlan(a=here, vni=7, remote="192.0.2.1", id="mine")
    [before] = host.connect([pair if kind == "veth" else tunnel])
    subprocess.run(["ip", "-n", "blue", "link", "del", "e0"], check=True)
    [result] = host.move([Move(before.wired, 0, "green")])
    assert (result.error, result.changed) == (None, True)
    assert names_in("blue") == set()
    assert look("green")["addr_info"] == [("10.0.0.1", 24)]
    assert host.disconnect([result.wired])[0].changed
    assert names_in("green") == names_in("red") == set()


def test_the_other_end_moves_as_well(host, wired):
    [result] = host.move([Move(wired, 1, "green")])
    assert result.ok
    assert ping("blue", "10.0.0.2")
    assert (names_in("red"), names_in("green")) == (set(), {"e0"})


def test_a_recreated_end_is_wired_anew_in_its_new_place(host, wired):
    [result] = host.move([Move(wired, 0, "green", "recreate")])
    assert (result.error, result.changed) == (None, True)
    assert result.wired.places[0].ifindex != wired.places[0].ifindex
    assert ping("green", "10.0.0.2")
    assert names_in("blue") == set()


@pytest.mark.parametrize("mode", ["move", "recreate"])
def test_there_and_back_again(host, wired, mode):
    [there] = host.move([Move(wired, 0, "green", mode)])
    [back] = host.move([Move(there.wired, 0, "blue", mode)])
    assert back.wired.connection == wired.connection
    assert ping("blue", "10.0.0.2")
    assert names_in("green") == set()


@pytest.mark.parametrize("mode", ["move", "recreate"])
def test_a_move_onto_a_taken_name_leaves_everything_as_it_was(host, wired, foreign, mode):
    index = foreign("green", "e0")
    before = {**look("blue"), "ifindex": 0, "link_index": 0, "address": 0}
    [result] = host.move([Move(wired, 0, "green", mode)])
    assert isinstance(result.error, NameInUse)
    assert result.error.field == "a.ifname"
    assert result.wired.connection == wired.connection
    if mode == "move":
        assert result.wired == wired
    assert {**look("blue"), "ifindex": 0, "link_index": 0, "address": 0} == before
    assert look("blue")["ifindex"] == result.wired.places[0].ifindex
    assert ping("blue", "10.0.0.2")
    [row] = ip_json("green", "addr", "show", "e0")
    assert (row["ifindex"], row["linkinfo"]["info_kind"], row["addr_info"]) == (index, "bridge", [])


@pytest.mark.parametrize("mode", ["move", "recreate"])
def test_a_move_to_where_a_route_is_refused_leaves_everything_as_it_was(host, wired, mode):
    subprocess.run(["ip", "-n", "green", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "-n", "green", "route", "add", "10.9.0.0/16", "dev", "lo"], check=True)
    before = look("blue")
    [result] = host.move([Move(wired, 0, "green", mode)])
    assert isinstance(result.error, KernelError)
    assert (result.error.phase, result.error.errno) == ("route", errno.EEXIST)
    assert result.wired.connection == wired.connection
    assert names_in("green") == set()
    if mode == "move":
        assert look("blue") == before
    assert ping("blue", "10.0.0.2")
    assert ping("blue", "fd00::2")
    assert [r["gateway"] for r in ip_json("blue", "route", "show", "10.9.0.0/16")] == ["10.0.0.2"]


def test_an_interface_that_has_the_index_in_the_new_place_is_left_alone(host, wired, foreign):
    taken = wired.places[0].ifindex
    foreign("green", "theirs", index=taken)
    [result] = host.move([Move(wired, 0, "green")])
    assert result.ok
    # the one thing that could not be kept
    assert result.wired.places[0].ifindex != taken
    assert look("green")["ifindex"] == result.wired.places[0].ifindex
    assert ping("green", "10.0.0.2")
    [row] = ip_json("green", "addr", "show", "theirs")
    assert (row["ifindex"], row["addr_info"], row.get("ifalias"), "UP" in row["flags"]) == (taken, [], None, False)
    assert host.disconnect([result.wired])[0].changed
    assert names_in("green") == {"theirs"}


@pytest.mark.parametrize("mode", ["move", "recreate"])
def test_a_move_to_where_there_is_nothing_leaves_everything_as_it_was(host, wired, mode):
    before = look("blue")
    [result] = host.move([Move(wired, 0, "nosuch", mode)])
    assert isinstance(result.error, NetnsNotFound)
    assert (result.error.field, result.wired, result.changed) == ("a.netns", wired, False)
    assert look("blue") == before


@pytest.mark.parametrize("mode", ["move", "recreate"])
def test_a_move_to_where_it_is_changes_nothing(host, wired, mode):
    before = look("blue")
    [result] = host.move([Move(wired, 0, "blue", mode)])
    assert (result.ok, result.changed, result.wired) == (True, False, wired)
    assert look("blue") == before


def test_another_name_for_the_same_place_moves_nothing(host, wired):
    before = look("blue")
    [result] = host.move([Move(wired, 0, "file:/run/netns/blue")])
    assert (result.ok, result.changed) == (True, False)
    assert result.wired.connection.a.netns == "file:/run/netns/blue"
    assert look("blue") == before


@pytest.mark.parametrize("mode", ["move", "recreate"])
def test_an_end_cannot_move_onto_the_other(host, wired, mode):
    before = look("blue")
    [result] = host.move([Move(wired, 0, "red", mode)])
    assert not result.ok
    assert result.error.code in ("invalid", "ifname_in_use")
    assert look("blue") == before


def test_a_batch_of_moves_answers_one_by_one(host, netns):
    names = netns.many(3)
    made = [
        r.wired
        for r in host.connect(
            [
                Veth(End(names[0], f"e{i}", [f"10.{i}.0.1/24"]), End(names[1], f"e{i}", [f"10.{i}.0.2/24"]))
                for i in range(6)
            ]
        )
    ]
    targets = [names[2], "nosuch", names[2], names[0], names[2], "nosuch"]
    modes = ["move", "move", "recreate", "recreate", "recreate", "recreate"]
    results = host.move([Move(w, 0, t, m) for w, t, m in zip(made, targets, modes, strict=True)])
    assert [(r.ok, r.changed) for r in results] == [
        (True, True), (False, False), (True, True), (True, False), (True, True), (False, False),
    ]  # fmt: skip
    assert names_in(names[2]) == {"e0", "e2", "e4"}
    assert all(ping(names[2] if i in (0, 2, 4) else names[0], f"10.{i}.0.2") for i in range(6))


@pytest.mark.parametrize("mode", ["move", "recreate"])
def test_a_tunnels_end_moves_and_its_tunnel_stays(host, netns, mode):
    left, right, blue, red, green = (netns.make(n) for n in ("left", "right", "blue", "red", "green"))
    [under] = host.connect([Veth(End(left, "u0", ["192.0.2.1/24"]), End(right, "u0", ["192.0.2.2/24"]))])
    assert under.ok
    first, _ = host.connect(
        [
            Vxlan(a=End(blue, "vx0", ["10.9.0.1/24"]), vni=1, local="192.0.2.1", remote="192.0.2.2", underlay=left),
            Vxlan(a=End(red, "vx0", ["10.9.0.2/24"]), vni=1, local="192.0.2.2", remote="192.0.2.1", underlay=right),
        ]
    )
    [result] = host.move([Move(first.wired, 0, green, mode)])
    assert result.error is None
    assert ping(green, "10.9.0.2")
    assert names_in(blue) == set()
