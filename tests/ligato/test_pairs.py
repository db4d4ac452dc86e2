"""VETH pairs: two values that name each other, in a real etcd and a real kernel."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from tests.ligato.conftest import Agent, addresses, comes, goes, links, veth1, veth3

from fastnl.testing import Namespaces, eventually, ip_json, ping
from fastnl_engine.testing import end, pair

I1, I3 = "linux/config/v1/interface/", "config/linux/interfaces/v2/interface/"
LAYOUTS = {"v1": (I1, veth1), "v3": (I3, veth3)}


def put_pair(agent: Agent) -> None:
    agent.put(I1 + "va", veth1("va", "vb", "n0", "10.0.0.1/24"))
    agent.put(I1 + "vb", veth1("vb", "va", "n1", "10.0.0.2/24"))


def is_up() -> bool:
    return comes("n0", "va") and comes("n1", "vb") and ping("n0", "10.0.0.2")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("first", ["a", "b"])
def test_a_pair_comes_when_both_halves_are_there_in_either_order(
    agent: Agent, netns: Namespaces, layout: str, first: str
) -> None:
    prefix, veth = LAYOUTS[layout]
    netns.many(2)
    halves = {"a": veth("va", "vb", "n0", "10.0.0.1/24"), "b": veth("vb", "va", "n1", "10.0.0.2/24")}
    second = "b" if first == "a" else "a"
    agent.put(f"{prefix}v{first}", halves[first])
    agent.expect(f"{prefix}v{first}", "PENDING", "veth-peer-exists")
    assert not links("n0") and not links("n1")
    agent.put(f"{prefix}v{second}", halves[second])
    assert is_up()
    for half in "ab":
        agent.expect(f"{prefix}v{half}", "CONFIGURED")


@pytest.mark.parametrize("half", ["va", "vb"])
def test_removing_either_half_removes_both_ends_and_putting_it_back_brings_them_back(
    agent: Agent, netns: Namespaces, half: str
) -> None:
    netns.many(2)
    put_pair(agent)
    assert is_up()
    value = agent.value(I1 + half)
    agent.delete(I1 + half)
    assert goes("n0", "va") and goes("n1", "vb")
    other = "vb" if half == "va" else "va"
    agent.expect(I1 + other, "PENDING", "veth-peer-exists")
    assert eventually(lambda: agent.status(I1 + half) == {})
    agent.put(I1 + half, value)
    assert is_up()
    agent.expect(I1 + other, "CONFIGURED")


def test_a_pair_waits_for_its_namespaces_goes_with_one_and_returns_with_it(agent: Agent, netns: Namespaces) -> None:
    netns.make("n0")
    put_pair(agent)
    agent.expect(I1 + "va", "PENDING", "n1")
    assert not links("n0")
    netns.make("n1")
    assert is_up()
    agent.expect(I1 + "va", "CONFIGURED")
    netns.let_go("n1")
    assert goes("n0", "va")
    agent.expect(I1 + "vb", "PENDING", "n1")
    netns.make("n1")
    assert is_up()
    agent.expect(I1 + "vb", "CONFIGURED")


def test_a_peer_that_points_elsewhere_and_a_third_that_claims_it_say_so(agent: Agent, netns: Namespaces) -> None:
    netns.many(3)
    put_pair(agent)
    assert is_up()
    agent.put(I1 + "vc", veth1("vc", "vb", "n2"))
    agent.expect(I1 + "vc", "FAILED", "taken")
    agent.put(I1 + "va", veth1("va", "vc", "n0", "10.0.0.1/24"))
    assert goes("n1", "vb")
    agent.expect(I1 + "va", "PENDING", "veth-peer-points-back")
    agent.put(I1 + "vb", veth1("vb", "vc", "n1"))
    assert comes("n2", "vc") and comes("n1", "vb")
    assert not links("n0")
    agent.put(I1 + "va", veth1("va", "va", "n0"))
    agent.expect(I1 + "va", "INVALID", "itself")


def test_what_is_wrong_with_a_value_is_told_and_mended_by_the_next(agent: Agent, netns: Namespaces) -> None:
    netns.many(2)
    put_pair(agent)
    assert is_up()
    agent.put(I1 + "va", veth1("va", "vb", "n0", "10.0.0.x/24"))
    agent.expect(I1 + "va", "INVALID", "ip_addresses[0]")
    assert goes("n1", "vb")
    agent.put(I1 + "va", "{no json")
    agent.expect(I1 + "va", "INVALID", "line 1")
    put_pair(agent)
    assert is_up()


def test_every_field_is_in_the_kernel_and_changes_in_place(agent: Agent, netns: Namespaces) -> None:
    netns.many(2)
    agent.put(I3 + "va", veth3("va", "vb", "n0", "10.0.0.1/24", "fd00::1/64", hostIfName="eth0",
                               physAddress="D2:74:8C:12:67:D2", mtu=1400))  # fmt: skip
    agent.put(I3 + "vb", veth3("vb", "va", "n1", "10.0.0.2", enabled=False, host_if_name="eth7", mtu=1300))
    assert comes("n0", "eth0") and comes("n1", "eth7")
    agent.expect(I3 + "va", "CONFIGURED")
    row = links("n0")["eth0"]
    assert (row["address"], row["mtu"], "UP" in row["flags"]) == ("d2:74:8c:12:67:d2", 1400, True)
    assert addresses("n0", "eth0") == {"10.0.0.1/24", "fd00::1/64"}
    assert links("n1")["eth7"]["mtu"] == 1300 and "UP" not in links("n1")["eth7"]["flags"]
    index = row["ifindex"]

    agent.put(I3 + "va", veth3("va", "vb", "n0", "10.0.0.9/24", "fd00::1/64", hostIfName="eth1",
                               physAddress="d2:74:8c:12:67:d3", mtu=1410))  # fmt: skip
    assert comes("n0", "eth1")
    assert eventually(lambda: addresses("n0", "eth1") == {"10.0.0.9/24", "fd00::1/64"})
    row = links("n0")["eth1"]
    assert (row["ifindex"], row["address"], row["mtu"]) == (index, "d2:74:8c:12:67:d3", 1410)
    assert eventually(lambda: agent.status(I3 + "va").get("last_operation") == "UPDATE")
    agent.expect(I3 + "va", "CONFIGURED")
    agent.put(I3 + "vb", veth3("vb", "va", "n1", "10.0.0.2", host_if_name="eth7", mtu=1300))
    assert eventually(lambda: "UP" in links("n1")["eth7"]["flags"])
    assert links("n0")["eth1"]["ifindex"] == index


def test_a_new_namespace_or_type_makes_the_interface_anew(agent: Agent, netns: Namespaces) -> None:
    netns.many(3)
    put_pair(agent)
    assert is_up()
    agent.put(I1 + "vb", veth1("vb", "va", "n2", "10.0.0.2/24"))
    assert comes("n2", "vb") and goes("n1", "vb") and ping("n0", "10.0.0.2")
    agent.put(I1 + "va", {"name": "va", "type": 1, "enabled": True, "namespace": {"type": 2, "name": "n0"}})
    assert eventually(lambda: links("n0").get("va", {}).get("linkinfo", {}).get("info_kind") == "tun")
    assert goes("n2", "vb")
    agent.expect(I1 + "va", "CONFIGURED", "type changed")


@pytest.mark.parametrize(
    ("namespace", "state", "word"),
    [({"type": 2, "name": "n2"}, "PENDING", "n2"), ({"type": 1, "microservice": "web"}, "INVALID", "`docker`")],
)
def test_a_pair_that_is_to_go_where_it_cannot_be_does_not_stay_where_it_was(
    agent: Agent, netns: Namespaces, namespace: dict[str, Any], state: str, word: str
) -> None:
    netns.many(2)
    put_pair(agent)
    assert is_up()
    agent.put(I1 + "vb", veth1("vb", "va", "n1", "10.0.0.2/24") | {"namespace": namespace})
    assert goes("n1", "vb") and goes("n0", "va")
    agent.expect(I1 + "vb", state, word)
    if state == "PENDING":
        netns.make("n2")
        assert comes("n2", "vb") and ping("n0", "10.0.0.2")
    else:
        assert agent.status(I1 + "vb")["last_operation"] == "VALIDATE"
        agent.expect(I1 + "va", "PENDING", "veth-peer-exists")
        put_pair(agent)
        assert is_up()
    agent.expect(I1 + "va", "CONFIGURED")


def test_a_change_of_both_ends_is_one_job(agent: Agent, netns: Namespaces) -> None:
    netns.many(2)
    agent.put_all({I1 + "va": veth1("va", "vb", "n0"), I1 + "vb": veth1("vb", "va", "n1")})
    assert comes("n0", "va")
    agent.expect(I1 + "va", "CONFIGURED")
    client = agent.engine.client()
    before = client.info()["totals"]
    agent.put_all({I1 + "va": veth1("va", "vb", "n0", mtu=1400), I1 + "vb": veth1("vb", "va", "n1", mtu=1400)})
    assert eventually(lambda: links("n1")["vb"]["mtu"] == 1400)
    # the kernel has it a moment before it is booked
    assert eventually(lambda: client.info()["totals"]["updated"] > before["updated"])
    totals = client.info()["totals"]
    assert (totals["updated"] - before["updated"], totals["cycles"] - before["cycles"]) == (1, 1)


def test_names_that_swap_come_true(agent: Agent, netns: Namespaces) -> None:
    """What is freed by one connection is had by the other, whoever is planned first."""
    netns.many(3)
    values = {
        I1 + "va": veth1("va", "vb", "n0", host_if_name="x"), I1 + "vb": veth1("vb", "va", "n1"),
        I1 + "vc": veth1("vc", "vd", "n0", host_if_name="y"), I1 + "vd": veth1("vd", "vc", "n2"),
    }  # fmt: skip
    agent.put_all(values)
    assert comes("n0", "x") and comes("n0", "y")
    values[I1 + "va"]["host_if_name"], values[I1 + "vc"]["host_if_name"] = "y", "x"
    agent.put_all(values)

    def swapped() -> bool:
        return {row.get("ifalias", "").split("/")[-2:][0]: name for name, row in links("n0").items()} == {
            "va+vb": "y", "vc+vd": "x",
        }  # fmt: skip

    assert eventually(swapped), links("n0")
    for key in values:
        agent.expect(key, "CONFIGURED")


def test_a_name_that_somebody_else_has_fails_and_is_taken_when_it_is_free(agent: Agent, netns: Namespaces) -> None:
    netns.many(2)
    client = agent.engine.client()
    client.connect([pair("other", end("n0", "va"), end("n1", "o"))])
    put_pair(agent)
    agent.expect(I1 + "va", "FAILED", "other")
    client.disconnect(["other"])
    assert is_up()
    agent.expect(I1 + "va", "CONFIGURED")


def test_what_is_not_ours_in_the_way_is_not_touched(
    agent: Agent, netns: Namespaces, foreign: Callable[..., int]
) -> None:
    netns.many(2)
    index = foreign("n0", "va")
    put_pair(agent)
    agent.expect(I1 + "va", "RETRYING", "va")
    assert links("n0")["va"]["ifindex"] == index and "vb" not in links("n1")
    subprocess.run(["ip", "-n", "n0", "link", "del", "va"], check=True)
    assert is_up()


def test_names_are_those_of_a_namespace(agent: Agent, netns: Namespaces) -> None:
    """The same ones may be in others, and in the engine's own, where nothing of ours ever shows."""
    netns.many(4)
    subprocess.run(["ip", "link", "add", "eth0", "type", "bridge"], check=True)
    try:
        stranger = links("")["eth0"]["ifindex"]
        for n, (a, b) in enumerate((("n0", "n1"), ("n2", "n3"))):
            agent.put(f"{I1}a{n}", veth1(f"a{n}", f"b{n}", a, "10.0.0.1/24", host_if_name="eth0"))
            agent.put(f"{I1}b{n}", veth1(f"b{n}", f"a{n}", b, "10.0.0.2/24", host_if_name="eth0"))
        for name in ("a0", "b0", "a1", "b1"):
            agent.expect(I1 + name, "CONFIGURED")
        assert [set(links(f"n{n}")) for n in range(4)] == [{"eth0"}] * 4
        assert ping("n0", "10.0.0.2") and ping("n2", "10.0.0.2")
        assert links("")["eth0"]["ifindex"] == stranger
    finally:
        subprocess.run(["ip", "link", "del", "eth0"], check=False)


def test_routes_and_neighbours_come_in_any_order(agent: Agent, netns: Namespaces) -> None:
    netns.many(2)
    agent.put("config/linux/l3/v2/arp/va/10.0.0.7",
              {"interface": "va", "ip_address": "10.0.0.7", "hw_address": "92:c7:42:67:ab:cd"})  # fmt: skip
    agent.put("linux/config/v1/route/r1",
              {"name": "r1", "interface": "va", "dst_ip_addr": "10.9.0.0/16", "gw_addr": "10.8.0.9"})  # fmt: skip
    agent.put("config/linux/l3/v2/route/10.8.0.0/24/va",
              {"outgoing_interface": "va", "dst_network": "10.8.0.0/24", "scope": "LINK"})  # fmt: skip
    agent.expect("linux/config/v1/route/r1", "PENDING", "outgoing-interface-is-up")
    put_pair(agent)
    assert is_up()
    routes = {row["dst"]: row for row in ip_json("n0", "route")}
    assert routes["10.9.0.0/16"]["gateway"] == "10.8.0.9" and "10.8.0.0/24" in routes
    assert [n["lladdr"] for n in ip_json("n0", "neigh") if n["dst"] == "10.0.0.7"] == ["92:c7:42:67:ab:cd"]
    for key in ("linux/config/v1/route/r1", "config/linux/l3/v2/route/10.8.0.0/24/va",
                "config/linux/l3/v2/arp/va/10.0.0.7"):  # fmt: skip
        agent.expect(key, "CONFIGURED")
    agent.delete("config/linux/l3/v2/route/10.8.0.0/24/va")
    agent.expect("linux/config/v1/route/r1", "PENDING", "gw-reachable")
    assert eventually(lambda: "10.9.0.0/16" not in {r["dst"] for r in ip_json("n0", "route")})
    agent.delete(I1 + "vb")
    agent.expect("config/linux/l3/v2/arp/va/10.0.0.7", "PENDING", "outgoing-interface-is-up")


def test_an_interface_that_is_deleted_behind_our_back_returns(agent: Agent, netns: Namespaces) -> None:
    netns.many(2)
    put_pair(agent)
    assert is_up()
    index = links("n0")["va"]["ifindex"]
    subprocess.run(["ip", "-n", "n0", "link", "del", "va"], check=True)
    assert eventually(lambda: links("n0").get("va", {}).get("ifindex", index) != index)
    assert is_up()
    agent.expect(I1 + "va", "CONFIGURED")


def test_the_kinds_that_are_alone(agent: Agent, netns: Namespaces) -> None:
    netns.make("n0")
    here = {"type": "NSID", "reference": "n0"}
    agent.put(I3 + "t", {"name": "t", "type": "TAP_TO_VPP", "enabled": True, "namespace": here})
    agent.put(I3 + "l", {"name": "l", "type": "LOOPBACK", "enabled": True, "namespace": here,
                         "ip_addresses": ["10.4.0.1/32"]})  # fmt: skip
    for name in ("t", "l"):
        agent.expect(I3 + name, "CONFIGURED")
    assert links("n0")["t"]["linkinfo"]["info_kind"] == "tun"
    assert "10.4.0.1/32" in addresses("n0", "lo")
    agent.put(I3 + "e", {"name": "e", "type": "EXISTING", "enabled": True, "host_if_name": "nobody0"})
    agent.expect(I3 + "e", "PENDING", "nobody0")


def has_driver(kind: str) -> bool:
    made = subprocess.run(["ip", "-n", "n0", "link", "add", "probe", "type", *kind.split()], capture_output=True)
    subprocess.run(["ip", "-n", "n0", "link", "del", "probe"], capture_output=True, check=False)
    return made.returncode == 0


def test_a_vrf_and_a_dummy_in_it_come_where_the_kernel_has_them_and_say_so_where_not(
    agent: Agent, netns: Namespaces
) -> None:
    netns.make("n0")
    here = {"type": "NSID", "reference": "n0"}
    agent.put(I3 + "d", {"name": "d", "type": "DUMMY", "enabled": True, "namespace": here,
                         "ip_addresses": ["10.3.0.1/24"], "vrf_master_interface": "red"})  # fmt: skip
    agent.expect(I3 + "d", "PENDING", "vrf-interface-exists")
    agent.put(I3 + "red", {"name": "red", "type": "VRF_DEVICE", "enabled": True, "namespace": here,
                           "vrf_dev": {"routing_table": 77}})  # fmt: skip
    if not has_driver("vrf table 78"):
        agent.expect(I3 + "red", "RETRYING", "no driver")
        agent.expect(I3 + "d", "PENDING", "red")
    elif has_driver("dummy"):
        agent.expect(I3 + "d", "CONFIGURED")
        there = links("n0")
        assert there["d"]["master"] == "red" and there["red"]["linkinfo"]["info_data"]["table"] == 77
