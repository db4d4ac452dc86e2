"""Connections whose ends name hosts: what comes of them, on which host, and what the client is told."""

from __future__ import annotations

import itertools

import pytest

from fastnl.testing import eventually
from fastnl_engine.fleet.testing import at, far
from fastnl_engine.testing import end, pair


def connected(machine, *connections, wait=False):
    results = machine.client().connect(list(connections), wait=wait)
    assert all(r["ok"] for r in results), results
    return results


def refused(machine, connection, wait=False):
    [result] = machine.client().connect([connection], wait=wait)
    assert not result["ok"], result
    return result["error"]


def listed(machine, id_):
    rows = list(machine.client().list(ids=[id_]))
    return rows[0] if rows else None


# -- one host, two hosts -----------------------------------------------------------------------------


@pytest.mark.parametrize("taker", ["one", "two"])
def test_both_ends_on_one_host_are_a_pair(fleet, taker):
    one, two = fleet["one"], fleet["two"]
    [result] = connected(fleet[taker], far(1, "one", "one"))
    assert (result["state"], result["changed"]) == ("up", True)
    found = one.everything()
    assert {where: link["linkinfo"]["info_kind"] for where, link in found.items()} == {
        ("blue", "a1"): "veth",
        ("red", "b1"): "veth",
    }
    assert result["a"]["ifindex"] == found["blue", "a1"]["ifindex"]
    assert result["b"]["ifindex"] == found["red", "b1"]["ifindex"]
    assert one.ping("blue", "10.0.1.2") and one.ping("red", "10.0.1.1")
    assert not two.everything()


@pytest.mark.parametrize("taker", ["one", "two", "three"])
def test_ends_on_two_hosts_are_a_tunnel_between_them(fleet, taker):
    one, two = fleet["one"], fleet["two"]
    [result] = connected(fleet[taker], far(1))
    assert (result["state"], result["changed"]) == ("up", True)
    [(place, a)], [(other, b)] = one.everything().items(), two.everything().items()
    assert (place, other) == (("blue", "a1"), ("red", "b1"))
    assert (result["a"]["ifindex"], result["b"]["ifindex"]) == (a["ifindex"], b["ifindex"])
    tunnels = [link["linkinfo"] for link in (a, b)]
    assert {t["info_kind"] for t in tunnels} == {"vxlan"}
    [one_way, other_way] = [t["info_data"] for t in tunnels]
    assert one_way["id"] == other_way["id"] > 0
    assert one_way["port"] == other_way["port"] == 4789
    assert (one_way["local"], one_way["remote"]) == (one.addresses[4], two.addresses[4])
    assert (other_way["local"], other_way["remote"]) == (two.addresses[4], one.addresses[4])
    assert not fleet["three"].everything()
    assert one.ping("blue", "10.0.1.2") and two.ping("red", "10.0.1.1")
    # the whole MTU goes through the tunnel unfragmented
    assert a["mtu"] == b["mtu"] == 1450
    assert one.ping("blue", "10.0.1.2", size=1450 - 28) and two.ping("red", "10.0.1.1", size=1450 - 28)
    for machine in fleet.machines.values():
        assert listed(machine, "c1") is not None, machine.name
        assert listed(machine, "c1")["state"] == "up"


def test_many_of_all_sorts_in_one_request(fleet):
    hosts = list(fleet.machines)
    jobs = [
        far(n, a, b) for n, (a, b) in enumerate(itertools.islice(itertools.cycle(itertools.product(hosts, hosts)), 45))
    ]
    local = pair("local", end("blue", "l0", "10.9.9.1/24"), end("red", "l0", "10.9.9.2/24"))
    results = connected(fleet["two"], *jobs, local)
    assert [r["id"] for r in results] == [j["id"] for j in jobs] + ["local"]
    for job in jobs:
        net = job["a"]["addresses"][0].rpartition(".")[0]
        assert fleet[job["a"]["host"]].ping("blue", f"{net}.2"), job
        assert fleet[job["b"]["host"]].ping("red", f"{net}.1"), job
    assert fleet["two"].ping("blue", "10.9.9.2")
    remote = [j for j in jobs if j["a"]["host"] != j["b"]["host"]]
    assert len(fleet.stored("vni/")) == len(remote)
    vnis = [
        link["linkinfo"]["info_data"]["id"]
        for machine in fleet.machines.values()
        for link in machine.everything().values()
        if link["linkinfo"]["info_kind"] == "vxlan"
    ]
    assert sorted(vnis) == sorted(2 * sorted(set(vnis))) and len(set(vnis)) == len(remote)
    fleet["one"].client().disconnect([j["id"] for j in jobs])
    assert not fleet.of_connections()
    assert set(fleet["two"].everything()) == {("blue", "l0"), ("red", "l0")}


def test_all_that_an_end_can_have(fleet):
    one, two = fleet["one"], fleet["two"]
    a = at(
        "one", "blue", "lan", "10.5.0.1/24", "fd05::1/64", mac="02:00:00:00:05:01",
        routes=[{"to": "10.6.0.0/16", "via": "10.5.0.2"}],
        neighbours=[{"ip": "10.5.0.2", "mac": "02:00:00:00:05:02"}],
    )  # fmt: skip
    b = at("two", "red", "lan", "10.5.0.2/24", "fd05::2/64", mac="02:00:00:00:05:02")
    connected(fleet["three"], pair("c", a, b, labels={"app": "shop"}))
    link = one.links("blue")["lan"]
    assert link["address"] == "02:00:00:00:05:01"
    assert {f"{x['local']}/{x['prefixlen']}" for x in link["addr_info"]} >= {"10.5.0.1/24", "fd05::1/64"}
    assert "10.6.0.0/16 via 10.5.0.2" in one.run("ip", "route", netns="blue")
    assert "PERMANENT" in one.run("ip", "neigh", "show", "10.5.0.2", netns="blue")
    assert one.ping("blue", "10.5.0.2") and two.ping("red", "fd05::1")
    for machine in (one, two):
        assert [row["id"] for row in machine.client().list(labels={"app": "shop"})] == ["fleet/c"], machine.name


# -- again, changed, moved, gone ---------------------------------------------------------------------


def test_the_same_again_changes_nothing_wherever_it_is_submitted(fleet):
    [first] = connected(fleet["one"], far(1))
    asked = {key: value for key, value in fleet.stored().items() if key.startswith(("connection/", "half/", "vni/"))}
    for machine in fleet.machines.values():
        [again] = connected(machine, far(1))
        assert again["changed"] is False
        assert (again["a"], again["b"]) == (first["a"], first["b"])
    assert {key: value for key, value in fleet.stored().items() if key in asked} == asked


def test_a_change_of_addresses_keeps_the_interfaces_and_the_number(fleet):
    one, two = fleet["one"], fleet["two"]
    [first] = connected(one, far(1))
    vnis = fleet.stored("vni/")
    job = far(1)
    job["b"]["addresses"] = ["10.0.1.7/24"]
    [result] = connected(fleet["three"], job)
    assert result["changed"] and (result["a"], result["b"]) == (first["a"], first["b"])
    assert one.ping("blue", "10.0.1.7") and not one.ping("blue", "10.0.1.2", wait=1)
    assert {x["local"] for x in two.links("red")["b1"]["addr_info"]} == {"10.0.1.7"}
    assert fleet.stored("vni/") == vnis


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (("one", "two"), ("one", "three")),
        (("one", "two"), ("three", "two")),
        (("one", "two"), ("two", "one")),
        (("one", "two"), ("one", "one")),
        (("one", "one"), ("one", "two")),
        (("one", "one"), ("two", "two")),
        (("one", "two"), ("three", "three")),
    ],
)
def test_ends_change_their_hosts(fleet, before, after):
    connected(fleet["one"], far(1, *before))
    connected(fleet["two"], far(1, *after))
    assert fleet[after[0]].ping("blue", "10.0.1.2") and fleet[after[1]].ping("red", "10.0.1.1")
    want = {(after[0], "blue", "a1"), (after[1], "red", "b1")}

    def there():
        return {(m.name, *place) for m in fleet.machines.values() for place in m.everything()}

    assert eventually(lambda: there() == want), there()
    # the number is its own for life, also while it has no tunnel
    tunnels = sum(a != b for a, b in (before, after))
    assert list(fleet.stored("vni/").values()) == ["c1"] * min(tunnels, 1)


def test_an_end_moves_between_the_namespaces_of_its_host(fleet):
    one, two = fleet["one"], fleet["two"]
    connected(one, far(1))
    [result] = fleet["three"].client().move([{"id": "c1", "end": "b", "netns": "green"}])
    assert result["ok"] and result["changed"], result
    assert set(two.everything()) == {("green", "b1")}
    assert one.ping("blue", "10.0.1.2")
    [row] = fleet["three"].client().list(ids=["c1"])
    assert row["b"]["netns"] == "green"
    [result] = one.client().move([{"id": "c1", "end": "b", "netns": "nowhere"}])
    assert not result["ok"] and result["error"]["code"] == "netns_not_found", result
    assert set(two.everything()) == {("green", "b1")} and one.ping("blue", "10.0.1.2")
    # as ever, the same again finds it there
    job = far(1)
    job["b"]["netns"] = "green"
    [result] = connected(two, job)
    assert result["changed"] is False


def test_an_end_of_a_tunnel_that_is_made_anew_keeps_its_mac(fleet):
    """The other host is not told, and has a neighbour entry for the old one."""
    one, two = fleet["one"], fleet["two"]
    connected(one, far(1))
    assert one.ping("blue", "10.0.1.2")
    links = one.links("blue")["a1"], two.links("red")["b1"]
    assert links[0]["address"] != links[1]["address"]
    two.run("ip", "link", "del", "b1", netns="red")
    assert eventually(lambda: "b1" in two.links("red"))
    assert two.links("red")["b1"]["address"] == links[1]["address"]
    [result] = fleet["three"].client().move([{"id": "c1", "end": "b", "netns": "green"}])
    assert result["ok"], result
    assert two.links("green")["b1"]["address"] == links[1]["address"]
    assert one.links("blue")["a1"]["address"] == links[0]["address"]
    assert one.ping("blue", "10.0.1.2")


@pytest.mark.parametrize("taker", ["one", "two", "three"])
def test_disconnect_from_anywhere(fleet, taker):
    connected(fleet["one"], far(1), far(2, "two", "three"), far(3, "two", "two"))
    gone, unknown = fleet[taker].client().disconnect(["c1", "never"])
    assert gone["ok"] and gone["changed"] is True, gone
    assert unknown["ok"] and unknown["changed"] is False, unknown
    # what the reply says is so: nothing of it is left
    assert not fleet["one"].everything() and ("red", "b1") not in fleet["two"].everything()
    assert not [key for key in fleet.of_connections() if "c1" in key.split("/")]
    assert fleet["two"].ping("blue", "10.0.2.2") and fleet["two"].ping("blue", "10.0.3.2")
    assert len(fleet.stored("vni/")) == 1
    # and its names are free again
    connected(fleet[taker], far(1, "three", "one"), {**far(1), "id": "other"})


def test_jobs_for_one_id_sent_in_one_go_take_effect_in_their_order(fleet):
    raw = fleet["three"].engine.raw()
    job, other = far(1), far(1, "two", "three")
    raw.ask(id=0, op="connect", connections=[job])
    raw.ask(id=1, op="connect", connections=[other])
    raw.ask(id=2, op="disconnect", ids=["c1"])
    raw.ask(id=3, op="connect", connections=[job])
    raw.ask(id=4, op="disconnect", ids=["c1"])
    raw.ask(id=5, op="connect", connections=[other])
    replies = {reply["id"]: reply for reply in (raw.reply() for _ in range(6))}
    assert all(reply["ok"] for reply in replies.values()), replies
    want = {("two", "blue", "a1"), ("three", "red", "b1")}

    def there():
        return {(m.name, *place) for m in fleet.machines.values() for place in m.everything()}

    assert eventually(lambda: there() == want), there()
    assert fleet["two"].ping("blue", "10.0.1.2")
    assert len(fleet.stored("vni/")) == 1


# -- what fails says where ---------------------------------------------------------------------------


@pytest.mark.parametrize(("which", "host", "netns"), [("a", "one", "blue"), ("b", "two", "red")])
@pytest.mark.parametrize("taker", ["one", "two", "three"])
def test_an_end_that_cannot_be_is_named_and_nothing_is_left(fleet, which, host, netns, taker):
    job = far(1)
    fleet[host].run("ip", "link", "add", job[which]["ifname"], "type", "bridge", netns=netns)
    try:
        error = refused(fleet[taker], job)
        assert error["code"] == "ifname_in_use", error
        assert error["field"].startswith(f"{which}."), error
        assert host in error["message"], error
        assert eventually(lambda: not fleet.of_connections()), fleet.stored()
        assert sum(len(m.everything()) for m in fleet.machines.values()) == 1
    finally:
        fleet[host].run("ip", "link", "del", job[which]["ifname"], netns=netns)
    connected(fleet[taker], job)
    assert fleet["one"].ping("blue", "10.0.1.2")


def test_a_change_that_fails_is_taken_back(fleet):
    one, two = fleet["one"], fleet["two"]
    connected(one, far(1))
    two.run("ip", "link", "add", "taken", "type", "bridge", netns="red")
    try:
        job = far(1)
        job["a"]["addresses"], job["b"]["ifname"] = ["10.0.1.9/24"], "taken"
        assert refused(fleet["three"], job)["code"] == "ifname_in_use"
        assert two.ping("red", "10.0.1.1") and one.ping("blue", "10.0.1.2")
        for machine in fleet.machines.values():
            assert eventually(lambda m=machine: listed(m, "c1")["state"] == "up"), listed(machine, "c1")
            assert listed(machine, "c1")["b"]["ifname"] == "b1"
    finally:
        two.run("ip", "link", "del", "taken", netns="red")


def test_a_namespace_that_is_not_there_is_named(fleet):
    job = far(1)
    job["b"]["netns"] = "later"
    error = refused(fleet["one"], job)
    assert (error["code"], error["field"]) == ("netns_not_found", "b.netns"), error
    assert "two" in error["message"], error
    assert eventually(lambda: not fleet.of_connections()), fleet.stored()


def test_with_wait_a_connection_comes_up_when_its_namespace_does(fleet):
    one, two = fleet["one"], fleet["two"]
    job = far(1)
    job["b"]["netns"] = "later"
    [result] = connected(fleet["three"], job, wait=True)
    assert result["state"] == "pending" and "later" in result["reason"], result
    assert "two" in result["reason"], result
    for machine in fleet.machines.values():
        assert eventually(lambda m=machine: (listed(m, "c1") or {}).get("state") == "pending"), machine.name
    try:
        two.make("later")
        assert one.ping("blue", "10.0.1.2")
        for machine in fleet.machines.values():
            assert eventually(lambda m=machine: listed(m, "c1")["state"] == "up"), listed(machine, "c1")
    finally:
        two.remove("later")
    assert eventually(lambda: listed(fleet["three"], "c1")["state"] == "pending")
    # it may be asked for once more, and be given up
    [result] = connected(one, job, wait=True)
    assert result["state"] == "pending"
    [gone] = fleet["three"].client().disconnect(["c1"])
    assert gone["ok"] and gone["changed"]
    assert not fleet.of_connections() and not one.everything()


def test_the_same_waiting_end_on_its_own_host(fleet):
    job = far(1, "one", "one")
    job["b"]["netns"] = "later"
    assert refused(fleet["two"], job)["field"] == "b.netns"
    [result] = connected(fleet["two"], job, wait=True)
    assert result["state"] == "pending"
    try:
        fleet["one"].make("later")
        assert fleet["one"].ping("blue", "10.0.1.2")
    finally:
        fleet["one"].remove("later")


# -- ids and names -----------------------------------------------------------------------------------


def test_an_id_belongs_to_the_host_or_to_the_fleet(fleet):
    one, two = fleet["one"], fleet["two"]
    local = pair("c1", end("blue", "l0"), end("red", "l0"))
    connected(one, local)
    assert refused(one, far(1))["code"] == "conflict"
    one.client().disconnect(["c1"])
    connected(two, far(1))
    assert refused(one, local)["code"] == "conflict"
    assert one.ping("blue", "10.0.1.2")


def test_a_name_that_another_connection_has(fleet):
    connected(fleet["one"], far(1))
    error = refused(fleet["three"], {**far(1), "id": "other"})
    assert error["code"] == "conflict" and "c1" in error["message"], error
    assert eventually(lambda: len(fleet.stored("vni/")) == 1)
    local = pair("local", end("blue", "a1"), end("green", "a1"))
    assert refused(fleet["one"], local)["code"] == "conflict"
    assert fleet["one"].ping("blue", "10.0.1.2")


# -- questions ---------------------------------------------------------------------------------------


def test_verify_and_stats_of_a_remote_connection(fleet):
    connected(fleet["one"], far(1))
    assert fleet["one"].ping("blue", "10.0.1.2")
    for name in ("one", "two"):
        client = fleet[name].client()
        [verdict] = client.verify(["fleet/c1"])
        assert verdict["ok"], verdict
        [stats] = client.stats(["fleet/c1"])
        assert stats["ok"], stats
        assert stats["a"]["rx_packets"] > 0, stats  # a half has one end, which is its a


def test_list_gives_back_what_was_submitted(fleet):
    job = far(1, labels={"app": "shop"})
    connected(fleet["three"], job)
    for machine in fleet.machines.values():
        row = listed(machine, "c1")
        for side in "ab":
            assert {k: v for k, v in row[side].items() if k != "ifindex"} == job[side]
        assert (row["kind"], row["labels"], row["state"]) == ("veth", {"app": "shop"}, "up")
    # without ids it is what this engine itself has: its half
    assert [r["id"] for r in fleet["one"].client().list(netns="blue")] == ["fleet/c1"]
    assert not list(fleet["three"].client().list())


def test_pages_of_all_connections_have_no_doubles_and_no_gaps(fleet):
    connected(fleet["one"], *(far(n) for n in range(7)), *(far(n, "two", "two") for n in range(7, 10)))
    for page in (1, 2, 3, 9, 10, 100):
        assert list(fleet["three"].connections(page)) == [f"c{n}" for n in range(10)]


# -- what cannot be ----------------------------------------------------------------------------------


def _with(path, value):
    job = far(1)
    target = job
    *folders, last = path.split(".")
    for folder in folders:
        target = target.setdefault(folder, {})
    if value is None:
        del target[last]
    else:
        target[last] = value
    return job


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("a.host", None, "a.host"),
        ("b.host", None, "b.host"),
        ("b.host", "", "b.host"),
        ("b.host", 7, "b.host"),
        ("b.host", "a/b", "b.host"),
        ("b.host", "x" * 5000, "b.host"),
        ("b.host", "nobody", "b.host"),
        ("mtu", 1451, "mtu"),
        ("a.mtu", 9000, "a.mtu"),
        ("b.mtu", 9000, "b.mtu"),
        ("mtu", 67, "mtu"),
        ("kind", "vxlan", None),
        ("kind", "dummy", None),
        ("vxlan", {"vni": 7}, "vxlan"),
        ("b", None, "b"),
        ("a.ifname", "x" * 16, "a.ifname"),
        ("a.addresses", ["10.0.0.300/24"], "a.addresses[0]"),
        ("a.addresses", ["10.0.0.1/24", "10.0.0.1/24"], "a.addresses[1]"),
        ("a.colour", "red", "a"),
        ("id", "x" * 201, "id"),
        ("id", "", "id"),
        ("labels", {"a": 1}, None),
    ],
)
def test_what_cannot_be_is_refused_at_its_field_and_leaves_nothing(fleet, path, value, field):
    before = fleet.of_connections()
    error = refused(fleet["one"], _with(path, value), wait=True)
    assert error["code"] == ("host_unknown" if value == "nobody" else "invalid"), error
    if field is not None:
        assert error["field"] == field, error
    assert fleet.of_connections() == before
    # the others of the request are not disturbed by it
    bad, good = fleet["one"].client().connect([_with(path, value), {**far(9), "id": "good"}])
    assert not bad["ok"] and good["ok"], (bad, good)


@pytest.mark.parametrize("id_", ["a/b", "../x", "/", "/a", "half/one/c", "ä€😀", "a b", "%2f", "." * 194, "ä" * 97])
def test_any_id_is_possible(fleet, id_):
    connected(fleet["one"], {**far(1), "id": id_})
    assert fleet["one"].ping("blue", "10.0.1.2")
    for machine in fleet.machines.values():
        assert listed(machine, id_)["state"] == "up"
    [gone] = fleet["three"].client().disconnect([id_])
    assert gone["changed"]
    assert not fleet.of_connections() and not fleet["one"].everything() and not fleet["two"].everything()


@pytest.mark.parametrize("id_", ["fleet/", "fleet/a", "x" * 195, "ä" * 98])
def test_ids_that_are_not(fleet, id_):
    error = refused(fleet["one"], {**far(1), "id": id_})
    assert (error["code"], error["field"]) == ("invalid", "id"), error
    assert id_.startswith("fleet/") or "194" in error["message"], error


def test_one_id_twice_in_a_request(fleet):
    results = fleet["three"].client().connect([far(1), far(1, "two", "three")])
    codes = [r.get("error", {}).get("code") for r in results]
    assert "conflict" in codes, results
