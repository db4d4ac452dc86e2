"""`fastnl fleet` when something is away, or was never there."""

from __future__ import annotations

import json

from fastnl.testing import eventually
from fastnl_engine.fleet.testing import far


def test_a_dead_host_and_its_connections(make_fleet):
    fleet = make_fleet("one", "two")
    one, two = fleet["one"], fleet["two"]
    [result] = one.client().connect([far(1)])
    assert result["ok"], result
    two.engine.hang_up()
    two.engine.kill()

    def degraded():
        [row] = json.loads(fleet.cli(one, "fleet", "connections", "--json"))
        return row["state"] == "degraded" and "two" in row["reason"]

    assert eventually(degraded)
    hosts = {row["host"]: row["alive"] for row in json.loads(fleet.cli(one, "fleet", "hosts", "--json"))}
    assert hosts == {"one": True, "two": False}
    assert "degraded" in fleet.cli(one, "show", "c1")


def test_without_a_fleet_it_says_which_setting_is_missing(make_fleet):
    fleet = make_fleet()
    one = fleet.add("one")
    one.engine.env.clear()
    one.engine.start()
    for command in (("fleet",), ("fleet", "hosts"), ("fleet", "remove", "two")):
        said = fleet.cli(one, *command, code=2)
        assert "fleet" in said and "endpoints" in said, said


def test_without_etcd_it_says_so(make_fleet):
    fleet = make_fleet("one")
    fleet.etcd.kill()
    one = fleet["one"]
    said = fleet.cli(one, "fleet", "remove", "two", code=1)
    assert "etcd" in said, said
