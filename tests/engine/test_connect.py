"""Connect, connect again, change and disconnect, read back with `ip` and with pyroute2."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pyroute2
import pytest

from fastnl.testing import eventually, ip_json, ping
from fastnl_engine.testing import EngineProcess, end, pair, tunnel

MAC = "02:00:00:00:00:01"
ENGINE_ENV = {"FASTNL_AUDIT": "1"}


@pytest.fixture
def engine(shared_engine: EngineProcess) -> EngineProcess:
    return shared_engine


def links(netns: str) -> dict[str, dict[str, Any]]:
    """Every interface but lo, by name, as `ip` sees them."""
    return {row["ifname"]: row for row in ip_json(netns, "addr", "show") if row["ifname"] != "lo"}


def addresses(netns: str, ifname: str) -> set[str]:
    return {f"{a['local']}/{a['prefixlen']}" for a in links(netns)[ifname]["addr_info"]}


def routes(netns: str) -> set[str]:
    return {row["dst"] for row in ip_json(netns, "route", "show")}


def ip(netns: str, *args: str) -> None:
    """Does something behind the engine's back."""
    subprocess.run(["ip", "-n", netns, *args], check=True, capture_output=True)


def one(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The only result, which has to be good."""
    [result] = results
    assert result["ok"], result
    return result


@pytest.fixture
def c1(blue, red) -> dict[str, Any]:
    return pair("c1", end(blue, "e0", "10.0.0.1/24"), end(red, "e0", "10.0.0.2/24"))


# -- making and removing ---------------------------------------------------------------------------


def test_a_pair_is_up_in_both_namespaces_under_our_mark_and_answers_pings(client, blue, red, c1):
    result = one(client.connect([c1]))
    assert (result["id"], result["state"], result["changed"]) == ("c1", "up", True)
    for netns, name, address in ((blue, "a", "10.0.0.1/24"), (red, "b", "10.0.0.2/24")):
        link = links(netns)["e0"]
        assert result[name] == {"ifindex": link["ifindex"], "ifname": "e0"}
        assert {"UP", "LOWER_UP"} <= set(link["flags"])
        assert link["ifalias"] == f"fastnl/test/c1/{name}"
        assert addresses(netns, "e0") == {address}  # and no link-local one
    assert ping(blue, "10.0.0.2") and ping(red, "10.0.0.1")
    assert one(client.disconnect(["c1"])) == {"id": "c1", "ok": True, "changed": True}
    assert links(blue) == links(red) == {}


def test_pyroute2_sees_the_same(client, blue, red, c1):
    result = one(client.connect([c1 | {"mtu": 1400}]))
    with pyroute2.NetNS(blue) as ns:
        [link] = ns.get_links(ifname="e0")
        assert link["index"] == result["a"]["ifindex"]
        assert link.get_attr("IFLA_MTU") == 1400
        assert link.get_attr("IFLA_IFALIAS") == "fastnl/test/c1/a"
        [address] = ns.get_addr(index=link["index"])
        assert (address.get_attr("IFA_LOCAL"), address["prefixlen"]) == ("10.0.0.1", 24)
    one(client.disconnect(["c1"]))
    with pyroute2.NetNS(blue) as ns:
        assert list(ns.get_links(ifname="e0")) == []  # a tuple, or in older releases a list


def test_everything_that_an_end_can_have_is_there(client, blue, red):
    full = end(
        blue, "e0", "10.0.0.1/24", "fd00::1/64",
        mac=MAC, mtu=9000, txqlen=77, queues=2,
        routes=[{"to": "10.9.0.0/16", "via": "10.0.0.2", "metric": 5}, {"to": "fd09::/64", "via": "fd00::2"}],
        neighbours=[{"ip": "10.0.0.7", "mac": "02:00:00:00:00:07"}],
    )  # fmt: skip
    one(client.connect([pair("c1", full, end(red, "e0", mtu=9000))]))
    link = links(blue)["e0"]
    assert (link["address"], link["mtu"], link["txqlen"]) == (MAC, 9000, 77)
    assert link.get("num_tx_queues") == 2
    assert addresses(blue, "e0") >= {"10.0.0.1/24", "fd00::1/64"}
    [route] = ip_json(blue, "route", "show", "10.9.0.0/16")
    assert (route["gateway"], route["dev"], route["metric"]) == ("10.0.0.2", "e0", 5)
    [route] = ip_json(blue, "-6", "route", "show", "fd09::/64")
    assert route["gateway"] == "fd00::2"
    [neighbour] = ip_json(blue, "neigh", "show", "10.0.0.7")
    assert (neighbour["lladdr"], neighbour["state"]) == ("02:00:00:00:00:07", ["PERMANENT"])


def test_a_tunnel_joins_two_namespaces_over_the_underlay_of_two_others(client, netns):
    host1, host2, one_, two = (netns.make(n) for n in ("host1", "host2", "one", "two"))
    cable = pair("cable", end(host1, "up", "192.0.2.1/24"), end(host2, "up", "192.0.2.2/24"))
    ends = [
        tunnel(f"t{n}", end(where, "vx0", f"10.9.0.{n}/24"), vni=42, underlay=host, local=f"192.0.2.{n}", remote=there)
        for n, where, host, there in ((1, one_, host1, "192.0.2.2"), (2, two, host2, "192.0.2.1"))
    ]
    results = client.connect([cable, *ends])
    assert [r["ok"] for r in results] == [True] * 3
    assert "b" not in results[1]
    link = links(one_)["vx0"]
    assert link["linkinfo"]["info_data"]["id"] == 42
    assert link["mtu"] == 1450
    assert ping(one_, "10.9.0.2")
    assert all(r["ok"] for r in client.disconnect(["t1", "t2", "cable"]))
    assert links(one_) == links(host1) == {}


def test_an_end_can_be_in_the_namespace_of_the_engine(client, blue):
    one(client.connect([pair("c1", end("", "here0", "10.0.0.1/24"), end(blue, "e0", "10.0.0.2/24"))]))
    assert ping("", "10.0.0.2")
    one(client.disconnect(["c1"]))
    assert "here0" not in links("")


@pytest.mark.parametrize("form", ["name:{0}", "file:/run/netns/{0}", "inode:{1}"])
def test_a_namespace_can_be_named_in_every_form(client, blue, red, form):
    reference = form.format(blue, os.stat(f"/run/netns/{blue}").st_ino)
    one(client.connect([pair("c1", end(reference, "e0"), end(red, "e0"))]))
    assert "e0" in links(blue)


def test_results_come_in_the_order_of_the_items(client, netns):
    names = netns.many(20)
    jobs = [pair(f"c{n}", end(names[n], "e0"), end(names[-1 - n], "e1")) for n in range(20)]
    assert [r["id"] for r in client.connect(jobs)] == [f"c{n}" for n in range(20)]
    order = [f"c{n}" for n in reversed(range(20))]
    assert [r["id"] for r in client.disconnect(order)] == order


def test_no_items_are_no_work_and_no_error(client):
    assert client.connect([]) == client.disconnect([]) == client.move([]) == []


def test_disconnecting_what_is_not_there_is_done_already(client, c1):
    assert one(client.disconnect(["never-seen"])) == {"id": "never-seen", "ok": True, "changed": False}
    one(client.connect([c1]))
    assert one(client.disconnect(["c1"]))["changed"] is True
    assert one(client.disconnect(["c1"]))["changed"] is False


def test_a_name_is_free_again_in_the_same_moment_in_which_it_was_given_back(client, blue, red, c1):
    one(client.connect([c1]))
    # both are in the engine before it starts on the first
    first = client.send("disconnect", ids=["c1"])
    second = client.send("connect", connections=[c1 | {"id": "c2"}])
    replies = {r["id"]: r for r in (client.receive(), client.receive())}
    assert replies[first]["ok"] and replies[second]["ok"], replies
    assert links(blue)["e0"]["ifalias"] == "fastnl/test/c2/a"


# -- the same again --------------------------------------------------------------------------------


def test_connecting_the_same_again_changes_nothing(client, blue, red, c1):
    first = one(client.connect([c1]))
    before = ip_json(blue, "addr", "show"), ip_json(red, "addr", "show")
    again = one(client.connect([c1]))
    assert again == first | {"changed": False}
    # in another order of fields, and with values spelled in another way
    respelled = {k: c1[k] for k in reversed(c1)} | {"a": end(f"name:{blue}", "e0", "10.0.0.1/24", mtu=None)}
    del respelled["a"]["mtu"]
    assert one(client.connect([respelled])) == first | {"changed": False}
    assert (ip_json(blue, "addr", "show"), ip_json(red, "addr", "show")) == before


def test_labels_are_remembered_and_change_nothing_in_the_kernel(client, c1):
    first = one(client.connect([c1]))
    assert one(client.connect([c1 | {"labels": {"app": "web"}}])) == first | {"changed": False}
    assert next(client.list())["labels"] == {"app": "web"}


# -- changes in place ------------------------------------------------------------------------------


def changed(client, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Connects one and then the other, which must not make a new interface; gives the last result."""
    first = one(client.connect([before]))
    last = one(client.connect([after]))
    assert (last["state"], last["changed"]) == ("up", True)
    assert [last[e]["ifindex"] for e in "ab"] == [first[e]["ifindex"] for e in "ab"]
    assert all(r["ok"] for r in client.verify([after["id"]]))
    return last


def test_addresses_change_in_place(client, blue, red):
    other = end(red, "e0", "10.0.0.2/24")
    changed(
        client,
        pair("c1", end(blue, "e0", "10.0.0.1/24", "10.0.1.1/24", "10.0.2.1/24"), other),
        pair("c1", end(blue, "e0", "10.0.0.1/24", "10.0.1.9/24", "10.0.2.1/25"), other),
    )
    assert addresses(blue, "e0") == {"10.0.0.1/24", "10.0.1.9/24", "10.0.2.1/25"}
    assert ping(red, "10.0.0.1")


def test_an_ipv6_address_can_come_later_and_go_again(client, blue, red):
    plain = pair("c1", end(blue, "e0", "10.0.0.1/24"), end(red, "e0", "10.0.0.2/24"))
    both = pair("c1", end(blue, "e0", "10.0.0.1/24", "fd00::1/64"), end(red, "e0", "10.0.0.2/24", "fd00::2/64"))
    changed(client, plain, both)
    assert "fd00::1/64" in addresses(blue, "e0")
    assert eventually(lambda: ping(blue, "fd00::2"))
    one(client.connect([plain]))
    assert not any(a.startswith("fd00") for a in addresses(blue, "e0"))
    assert ping(blue, "10.0.0.2")


def test_routes_change_in_place_and_survive_a_change_of_their_address(client, blue, red):
    via = "10.0.0.2"
    other = end(red, "e0", "10.0.0.2/24")
    first = end(
        blue, "e0", "10.0.0.1/24", routes=[{"to": "10.5.0.0/16", "via": via}, {"to": "10.6.0.0/16", "via": via}]
    )
    second = first | {"routes": [{"to": "10.6.0.0/16", "via": via}, {"to": "10.7.0.0/16", "via": via}]}
    changed(client, pair("c1", first, other), pair("c1", second, other))
    assert routes(blue) == {"10.0.0.0/24", "10.6.0.0/16", "10.7.0.0/16"}
    # the kernel drops the routes through an address with the address
    third = second | {"addresses": ["10.0.0.9/24"]}
    changed(client, pair("c1", second, other), pair("c1", third, other))
    assert routes(blue) == {"10.0.0.0/24", "10.6.0.0/16", "10.7.0.0/16"}


def test_neighbours_change_in_place(client, blue, red):
    def with_neighbours(*macs: str) -> dict[str, Any]:
        neighbours = [{"ip": f"10.0.0.{n}", "mac": mac} for n, mac in enumerate(macs, 5)]
        return pair("c1", end(blue, "e0", "10.0.0.1/24", neighbours=neighbours), end(red, "e0"))

    changed(
        client,
        with_neighbours("02:00:00:00:00:05", "02:00:00:00:00:06"),
        with_neighbours("02:00:00:00:00:99"),
    )
    assert {n["dst"]: n["lladdr"] for n in ip_json(blue, "neigh", "show")} == {"10.0.0.5": "02:00:00:00:00:99"}


@pytest.mark.parametrize(
    ("field", "before", "after"), [("mtu", 1400, 9000), ("mac", MAC, "02:00:00:00:00:02"), ("txqlen", 10, 20)]
)
def test_mtu_mac_and_queue_length_change_in_place(client, blue, red, field, before, after):
    other = end(red, "e0", mtu=9000)
    changed(
        client,
        pair("c1", end(blue, "e0", "10.0.0.1/24", **{field: before}), other),
        pair("c1", end(blue, "e0", "10.0.0.1/24", **{field: after}), other),
    )
    link = links(blue)["e0"]
    assert {"mtu": link["mtu"], "mac": link["address"], "txqlen": link["txqlen"]}[field] == after
    assert addresses(blue, "e0") == {"10.0.0.1/24"}


def test_a_name_changes_in_place(client, blue, red, c1):
    renamed = pair("c1", end(blue, "eth9", "10.0.0.1/24"), c1["b"])
    last = changed(client, c1, renamed)
    assert last["a"]["ifname"] == "eth9"
    assert set(links(blue)) == {"eth9"}
    assert ping(blue, "10.0.0.2")
    # and the old name is free for others
    one(client.connect([pair("c2", end(blue, "e0"), end(red, "e2"))]))


def test_the_end_of_a_tunnel_changes_in_place_and_its_parameters_by_making_it_anew(client, blue):
    vxlan = {"vni": 42, "remote": "192.0.2.9"}
    first = one(client.connect([tunnel("t", end(blue, "vx0", "10.9.0.1/24"), **vxlan)]))
    second = one(client.connect([tunnel("t", end(blue, "vx1", "10.9.0.2/24"), mtu=1300, **vxlan)]))
    assert second["a"]["ifindex"] == first["a"]["ifindex"]
    assert (links(blue)["vx1"]["mtu"], addresses(blue, "vx1")) == (1300, {"10.9.0.2/24"})
    third = one(client.connect([tunnel("t", end(blue, "vx1", "10.9.0.2/24"), mtu=1300, **vxlan | {"vni": 43})]))
    assert third["a"]["ifindex"] != first["a"]["ifindex"]
    assert links(blue)["vx1"]["linkinfo"]["info_data"]["id"] == 43


def test_an_ipv6_address_can_come_later_where_a_crowd_of_ends_is(client, netns):
    # in a crowd IPv6 is turned off by another way than in a small company
    hub = netns.make("hub")
    jobs = [pair(f"c{n}", end(hub, f"e{n}"), end("", f"x{n}")) for n in range(300)]
    assert all(r["ok"] for r in client.connect(jobs))
    one(client.connect([pair("c299", end(hub, "e299", "fd00::1/64"), end("", "x299"))]))
    assert "fd00::1/64" in addresses(hub, "e299")
    assert all(r["ok"] for r in client.verify(["c299"]))
    assert all(r["ok"] for r in client.disconnect([j["id"] for j in jobs]))


def test_what_somebody_else_put_on_an_interface_stays(client, blue, red, c1):
    one(client.connect([c1]))
    ip(blue, "addr", "add", "10.44.0.1/24", "dev", "e0")
    one(client.connect([c1 | {"a": end(blue, "e0", "10.0.0.9/24")}]))
    assert addresses(blue, "e0") == {"10.0.0.9/24", "10.44.0.1/24"}


# -- changes that make it anew ---------------------------------------------------------------------


def test_another_namespace_makes_it_anew_and_takes_the_old_one_away(client, netns, blue, red, c1):
    green = netns.make("green")
    first = one(client.connect([c1]))
    last = one(client.connect([c1 | {"b": end(green, "e0", "10.0.0.2/24")}]))
    assert last["changed"] and last["a"]["ifindex"] != first["a"]["ifindex"]
    assert links(red) == {}
    assert ping(blue, "10.0.0.2")
    assert addresses(green, "e0") == {"10.0.0.2/24"}


def test_another_kind_makes_it_anew(client, blue, red, c1):
    one(client.connect([c1]))
    one(client.connect([tunnel("c1", end(blue, "e0", "10.0.0.1/24"), vni=5, remote="192.0.2.2")]))
    assert links(blue)["e0"]["linkinfo"]["info_kind"] == "vxlan"
    assert links(red) == {}


def test_what_has_no_value_to_go_back_to_makes_it_anew(client, blue, red, c1):
    # the MTU that an interface had before it was given one is not known any more
    one(client.connect([c1 | {"mtu": 1300}]))
    one(client.connect([c1]))
    assert links(blue)["e0"]["mtu"] == links(red)["e0"]["mtu"] == 1500


def test_a_change_that_fails_leaves_it_as_it_was(client, blue, red, c1):
    first = one(client.connect([c1]))
    before = ip_json(blue, "addr", "show", "e0"), routes(blue)
    bad = c1 | {
        "a": end(blue, "e7", "10.0.0.77/24", mtu=1300, routes=[{"to": "10.9.0.0/16", "via": "192.0.2.1"}]),
    }
    [result] = client.connect([bad])
    assert (result["ok"], result["error"]["code"], result["error"]["field"]) == (False, "kernel", "a.routes[0]")
    assert (ip_json(blue, "addr", "show", "e0"), routes(blue)) == before
    [row] = client.list()
    assert (row["state"], row["a"]["ifname"], row["a"]["ifindex"]) == ("up", "e0", first["a"]["ifindex"])
    assert one(client.connect([c1]))["changed"] is False


def test_making_it_anew_that_fails_brings_the_old_one_back(client, netns, blue, red, c1):
    one(client.connect([c1]))
    [result] = client.connect([c1 | {"b": end("nowhere", "e0")}])
    assert (result["ok"], result["error"]["code"], result["error"]["field"]) == (False, "netns_not_found", "b.netns")
    assert ping(blue, "10.0.0.2")
    assert all(r["ok"] for r in client.verify(["c1"]))


# -- what somebody did behind our back -------------------------------------------------------------


def test_a_connection_whose_interfaces_somebody_deleted_can_be_disconnected(client, blue, red, c1):
    one(client.connect([c1]))
    ip(blue, "link", "del", "e0")
    assert one(client.disconnect(["c1"]))["changed"] is True
    assert list(client.list()) == []


@pytest.mark.parametrize(
    "damage",
    [
        ("link", "del", "e0"),
        ("link", "set", "e0", "down"),
        ("link", "set", "e0", "mtu", "1300"),
        ("link", "set", "e0", "name", "other"),
        ("addr", "del", "10.0.0.1/24", "dev", "e0"),
    ],
    ids=" ".join,
)
def test_what_somebody_changes_is_mended_and_told(client, engine, blue, red, c1, damage):
    one(client.connect([c1 | {"mtu": 1400}]))
    events = engine.subscribe("connection.mended.")
    ip(blue, *damage)
    topic, event = events.next()
    assert (topic, event["id"], event["state"]) == ("connection.mended.c1", "c1", "up")
    assert event["reason"].startswith(("a: ", "b: "))
    assert all(v["ok"] for v in client.verify(["c1"]))
    assert ping(blue, "10.0.0.2")
    assert set(links(blue)) == {"e0"}


# -- waiting for a namespace -----------------------------------------------------------------------


def test_with_wait_a_missing_namespace_is_no_error_and_the_connection_comes_up_with_it(client, engine, netns, blue, c1):
    waiting = c1 | {"b": end("later", "e0", "10.0.0.2/24")}
    [refused] = client.connect([waiting])
    assert refused["error"]["code"] == "netns_not_found"
    assert list(client.list()) == []
    result = one(client.connect([waiting], wait=True))
    assert (result["state"], result["changed"]) == ("pending", True)
    assert "later" in result["reason"]
    assert links(blue) == {}
    netns.make("later")
    assert eventually(lambda: next(client.list())["state"] == "up")
    assert ping(blue, "10.0.0.2")
    assert one(client.connect([waiting]))["changed"] is False


def test_a_waiting_connection_can_be_changed_and_disconnected(client, blue):
    first = pair("c1", end(blue, "e0"), end("later", "e0"))
    one(client.connect([first], wait=True))
    assert one(client.connect([first], wait=True))["state"] == "pending"
    second = pair("c1", end(blue, "e9"), end("later", "e0"))
    assert one(client.connect([second], wait=True))["state"] == "pending"
    # a refusal changes nothing
    [refused] = client.connect([first])
    assert refused["error"]["code"] == "netns_not_found"
    [row] = client.list()
    assert (row["state"], row["a"]["ifname"]) == ("pending", "e9")
    assert one(client.disconnect(["c1"]))["changed"] is True
    assert list(client.list()) == []


def test_waiting_excuses_a_missing_namespace_and_nothing_else(client, blue, red):
    first = pair("c1", end(blue, "e0"), end("later", "e0"))
    one(client.connect([first], wait=True))
    one(client.connect([pair("c2", end(blue, "e2"), end(red, "e2"))]))
    for a, code in (
        (end(blue, "e2"), "conflict"),
        (end(blue, "lo"), "ifname_in_use"),
        (end(blue, "e0", routes=[{"to": "10.9.0.0/16", "via": "192.0.2.1"}]), "kernel"),
    ):
        [result] = client.connect([pair("c1", a, end(red, "e0"))], wait=True)
        assert (result["ok"], result.get("error", {}).get("code")) == (False, code), result
        [row] = client.list(ids=["c1"])
        assert (row["state"], row["a"], row["b"]["netns"]) == ("pending", end(blue, "e0"), "later")


def test_a_connection_that_is_up_does_not_become_one_that_waits(client, blue, red, c1):
    one(client.connect([c1]))
    [result] = client.connect([c1 | {"b": end("later", "e0")}], wait=True)
    assert (result["ok"], result["error"]["code"]) == (False, "netns_not_found")
    assert ping(blue, "10.0.0.2") and next(client.list())["state"] == "up"


def test_a_name_is_kept_for_a_connection_that_waits(client, blue, red):
    one(client.connect([pair("c1", end(blue, "e0"), end("later", "e0"))], wait=True))
    [result] = client.connect([pair("c2", end(blue, "e0"), end(red, "e0"))])
    assert (result["error"]["code"], result["error"]["field"]) == ("conflict", "a.ifname")


def test_a_connection_whose_namespace_goes_is_pending_and_comes_back_with_it(client, netns, blue, red, c1):
    one(client.connect([c1]))
    netns.let_go(red)
    assert eventually(lambda: next(client.list())["state"] == "pending")
    [row] = client.list()
    assert "red" in row["reason"] and "ifindex" not in row["a"]
    assert eventually(lambda: links(blue) == {})
    netns.make(red)
    assert eventually(lambda: next(client.list())["state"] == "up")
    assert ping(blue, "10.0.0.2")
