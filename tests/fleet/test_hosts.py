"""The hosts of the other tests are what they are meant to be: engines that know nothing of each other reach across."""

from __future__ import annotations

import pytest

from fastnl_engine.testing import end, pair, tunnel


@pytest.mark.parametrize("family", [4, 6])
def test_tunnels_between_hosts_with_namespaces_of_the_same_name(make_fleet, family):
    fleet = make_fleet()
    one, two = fleet.add("one"), fleet.add("two")
    for machine in (one, two):
        machine.make("blue")
        machine.engine.env.clear()  # an engine like any other
        machine.engine.start()
    for machine, other, address in ((one, two, "10.0.0.1/24"), (two, one, "10.0.0.2/24")):
        [result] = machine.client().connect(
            [
                tunnel(
                    "t", end("blue", "t0", address),
                    vni=7, local=machine.addresses[family], remote=other.addresses[family],
                )
            ]
        )  # fmt: skip
        assert result["ok"], result
    assert one.ping("blue", "10.0.0.2") and two.ping("blue", "10.0.0.1")
    assert set(one.everything()) == set(two.everything()) == {("blue", "t0")}
    assert one.run("hostname") == "one\n"
    assert fleet.stored() == {}
    one.client().disconnect(["t"])
    assert not one.everything() and two.everything()
    two.engine.kill()
    two.engine.start()
    two.client().disconnect(["t"])
    assert not two.everything()


def test_an_engine_without_a_fleet_takes_no_hosts(make_fleet):
    fleet = make_fleet()
    one = fleet.add("one")
    one.make("blue", "red")
    one.engine.env.clear()
    one.engine.start()
    job = pair("c", {**end("blue", "c0"), "host": "one"}, {**end("red", "c0"), "host": "one"})
    [result] = one.client().connect([job])
    assert not result["ok"], result
    assert not one.everything()
