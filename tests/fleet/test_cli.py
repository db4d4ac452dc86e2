"""`fastnl fleet`, and the other commands for connections between hosts."""

from __future__ import annotations

import json

from fastnl_engine.fleet.testing import far


def test_hosts_connections_and_numbers(fleet):
    one = fleet["one"]
    results = one.client().connect([far(1), far(2, "two", "three"), far(3, "one", "one")])
    assert all(r["ok"] for r in results), results
    [number] = [int(k.rpartition("/")[2]) for k, v in fleet.stored("vni/").items() if v.strip('"') == "c1"]
    for machine in fleet.machines.values():
        said = fleet.cli(machine, "fleet")
        assert all(word in said for word in ("one", "two", "three", "192.0.2.1")), said
        hosts = fleet.cli(machine, "fleet", "hosts")
        for host in fleet.machines.values():
            [line] = [line for line in hosts.splitlines() if host.name in line.split()]
            assert host.addresses[4] in line, hosts
        connections = fleet.cli(machine, "fleet", "connections")
        [line] = [line for line in connections.splitlines() if "c1" in line.split()]
        assert "one" in line and "two" in line and "up" in line and str(number) in line, connections
        numbers = fleet.cli(machine, "fleet", "vnis")
        [line] = [line for line in numbers.splitlines() if str(number) in line.split()]
        assert "c1" in line, numbers


def test_as_json(fleet):
    one = fleet["one"]
    results = one.client().connect([far(1), far(2, "two", "three"), far(3, "one", "one")])
    assert all(r["ok"] for r in results), results
    hosts = {row["host"]: row for row in json.loads(fleet.cli(one, "fleet", "hosts", "--json"))}
    assert set(hosts) == {"one", "two", "three"}
    assert all(row["alive"] is True for row in hosts.values())
    assert hosts["two"]["address"] == "192.0.2.2" and hosts["two"]["connections"] == 2, hosts
    connections = {row["id"]: row for row in json.loads(fleet.cli(one, "fleet", "connections", "--json"))}
    assert {id_: row["state"] for id_, row in connections.items()} == {"c1": "up", "c2": "up", "c3": "up"}
    numbers = {row["id"]: row["vni"] for row in json.loads(fleet.cli(one, "fleet", "vnis", "--json"))}
    assert numbers == {v.strip('"'): int(k.rpartition("/")[2]) for k, v in fleet.stored("vni/").items()}


def test_connect_from_a_file_list_and_disconnect(fleet, tmp_path):
    file = tmp_path / "c.json"
    file.write_text(json.dumps([far(1)]))
    fleet.cli(fleet["three"], "connect", str(file))
    assert fleet["one"].ping("blue", "10.0.1.2")
    assert "fleet/c1" in fleet.cli(fleet["two"], "list")
    said = fleet.cli(fleet["two"], "show", "c1")
    assert "one" in said and "two" in said, said
    fleet.cli(fleet["two"], "disconnect", "c1")
    assert not fleet["one"].everything()
