"""The MTU is that of the path: the smaller underlay of both sides, less what the tunnel adds."""

from __future__ import annotations

import pytest

from fastnl.testing import eventually
from fastnl_engine.fleet.testing import DEVICE, far

OVERHEAD = {4: 50, 6: 70}
HEADERS = 28  # IPv4 and ICMP, in front of ping's payload


@pytest.mark.parametrize("family", [4, 6])
def test_the_smaller_underlay_less_the_tunnel(make_fleet, family):
    fleet = make_fleet()
    underlays = {"one": 9000, "two": 1400, "three": 9000}
    for name, mtu in underlays.items():
        fleet.add(name, mtu=mtu, family=family).make("blue", "red")
    fleet.start()
    for number, (a, b) in enumerate([("one", "two"), ("two", "one"), ("one", "three")]):
        want = min(underlays[a], underlays[b]) - OVERHEAD[family]
        # one that knows neither end, or one of them: it makes no difference
        [result] = fleet["three"].client().connect([far(number, a, b)])
        assert result["ok"], result
        assert fleet[a].links("blue")[f"a{number}"]["mtu"] == want
        assert fleet[b].links("red")[f"b{number}"]["mtu"] == want
        key = "local" if family == 4 else "local6"
        assert fleet[a].links("blue")[f"a{number}"]["linkinfo"]["info_data"][key] == fleet[a].addresses[family]
        # as much as that goes through in one piece, both ways, and no more
        assert fleet[a].ping("blue", f"10.0.{number}.2", size=want - HEADERS)
        assert fleet[b].ping("red", f"10.0.{number}.1", size=want - HEADERS)
        assert not fleet[a].ping("blue", f"10.0.{number}.2", size=want - HEADERS + 1, wait=1)
    fleet["one"].client().disconnect([f"c{n}" for n in range(3)])


def test_one_that_is_asked_for_is_had_up_to_the_path(make_fleet):
    fleet = make_fleet()
    fleet.add("one", mtu=9000).make("blue", "red")
    fleet.add("two", mtu=1400).make("blue", "red")
    fleet.start()
    client = fleet["one"].client()
    job = far(1, mtu=1300)
    job["b"]["mtu"] = 1200
    results = client.connect([job, far(2, mtu=1351), far(3, mtu=1350), far(4, "one", "one", mtu=9000)])
    assert [r["ok"] for r in results] == [True, False, True, True], results
    assert fleet["one"].links("blue")["a1"]["mtu"] == 1300 and fleet["two"].links("red")["b1"]["mtu"] == 1200
    error = results[1]["error"]
    assert (error["code"], error["field"]) == ("invalid", "mtu"), error
    assert "1350" in error["message"], error
    assert fleet["two"].links("red")["b3"]["mtu"] == 1350 and fleet["one"].links("red")["b4"]["mtu"] == 9000
    client.disconnect(["c1", "c3", "c4"])


def test_an_underlay_that_has_another_mtu_after_a_restart(make_fleet):
    fleet = make_fleet("one", "two")
    one, two = fleet["one"], fleet["two"]
    [result] = one.client().connect([far(1)])
    assert result["ok"], result
    two.engine.stop()
    two.run("ip", "link", "set", DEVICE, "mtu", "1300")
    two.engine.start()
    for machine, where, ifname in ((one, "blue", "a1"), (two, "red", "b1")):
        mended = eventually(lambda m=machine, w=where, i=ifname: m.links(w)[i]["mtu"] == 1250)
        assert mended, machine.links(where)[ifname]
    assert one.ping("blue", "10.0.1.2", size=1250 - HEADERS)


def test_the_address_of_the_underlay_is_found(make_fleet):
    fleet = make_fleet()
    # by its interface, and by the default route
    fleet.add("one", address="", interface=DEVICE).make("blue")
    fleet.add("two", address="").make("red")
    fleet.start()
    [result] = fleet["one"].client().connect([far(1)])
    assert result["ok"], result
    data = fleet["one"].links("blue")["a1"]["linkinfo"]["info_data"]
    assert (data["local"], data["remote"]) == (fleet["one"].addresses[4], fleet["two"].addresses[4])
    assert fleet["one"].ping("blue", "10.0.1.2")


def test_the_hostname_is_the_name_of_a_host_that_has_none(make_fleet):
    fleet = make_fleet()
    fleet.add("one", host="").make("blue")
    fleet.add("two").make("red")
    fleet.start()
    [result] = fleet["two"].client().connect([far(1)])
    assert result["ok"], result
    assert fleet["one"].ping("blue", "10.0.1.2")


def test_hosts_of_different_families_are_told_apart(make_fleet):
    fleet = make_fleet()
    fleet.add("one", family=4).make("blue")
    fleet.add("two", family=6).make("red")
    fleet.start()
    [result] = fleet["one"].client().connect([far(1)])
    assert not result["ok"], result
    assert "IPv4" in result["error"]["message"] and "IPv6" in result["error"]["message"], result
    assert eventually(lambda: not fleet.of_connections()), fleet.stored()


def test_a_host_that_comes_back_with_another_address(make_fleet):
    fleet = make_fleet("one", "two")
    one, two = fleet["one"], fleet["two"]
    [result] = one.client().connect([far(1)])
    assert result["ok"], result
    two.engine.stop()
    two.run("ip", "addr", "del", "192.0.2.2/24", "dev", DEVICE)
    two.run("ip", "addr", "add", "192.0.2.77/24", "dev", DEVICE)
    two.run("ip", "route", "replace", "default", "via", "192.0.2.254")
    two.engine.env["FASTNL_FLEET_ADDRESS"] = "192.0.2.77"
    two.engine.start()

    def remote():  # it is made anew
        link = one.links("blue").get("a1")
        return link and link["linkinfo"]["info_data"]["remote"]

    assert eventually(lambda: remote() == "192.0.2.77"), remote()
    assert one.ping("blue", "10.0.1.2")
