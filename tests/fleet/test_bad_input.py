"""What somebody else writes into etcd, and items that etcd cannot hold: nobody else has to bear it."""

from __future__ import annotations

import json

from fastnl.testing import eventually
from fastnl_engine.fleet.testing import far
from fastnl_engine.testing import end, pair

PREFIX = "/fastnl/fleet/default/"


def connected(machine, *connections):
    results = machine.client().connect(list(connections))
    assert all(r["ok"] for r in results), results


def test_a_connection_of_somebody_elses_making_without_its_ends(fleet):
    one = fleet["one"]
    spec = {"id": "odd", "kind": "veth", "a": {"netns": "blue", "ifname": "q0", "host": "one"}}
    for id_, more in {"odd": {}, "odd2": {"b": {"netns": "red", "ifname": "q1"}}}.items():
        value = {"spec": {**spec, "id": id_, **more}, "generation": 1, "token": "t", "hosts": ["one"]}
        fleet.etcd.ctl("put", f"{PREFIX}connection/{id_}", "--", json.dumps(value))
    assert one.connections() == {}
    # nobody can read them, so they count as nothing
    connected(one, {**far(1), "id": "odd"}, {**far(2), "id": "odd2"}, far(3))
    assert one.ping("blue", "10.0.1.2") and one.ping("blue", "10.0.3.2")


def test_an_outcome_of_somebody_elses_making_without_a_message(fleet):
    connected(fleet["one"], far(1))
    value = {"generation": 1, "state": "failed", "error": {}}
    fleet.etcd.ctl("put", f"{PREFIX}outcome/two/c1", "--", json.dumps(value))
    row = fleet["three"].connections()["c1"]
    assert row["state"] == "failed" and row["error"]["host"] == "two", row
    [again] = fleet["three"].client().connect([far(1)])
    assert again["error"]["host"] == "two", again


def test_a_host_mends_its_own_keys(fleet):
    before = {kind: fleet.stored(f"{kind}/two") for kind in ("host", "alive")}
    for kind in before:
        fleet.etcd.ctl("put", f"{PREFIX}{kind}/two", "--", "{}")
    for kind, keys in before.items():
        assert eventually(lambda kind=kind, keys=keys: fleet.stored(f"{kind}/two") == keys), kind
    # and they are there with a lease again, not for ever
    answer = json.loads(fleet.etcd.ctl("get", f"{PREFIX}alive/two", "--write-out", "json"))
    assert answer["kvs"][0].get("lease"), answer


def test_what_a_host_has_of_a_connection_is_not_to_be_submitted(fleet):
    one = fleet["one"]
    connected(one, far(1))
    for id_ in ("fleet/c1", "fleet/another"):
        [refused] = one.client().connect([pair(id_, end("blue", "l0"), end("red", "l0"))])
        assert (refused["error"]["code"], refused["error"]["field"]) == ("invalid", "id"), refused
    assert set(one.everything()) == {("blue", "a1")}
    assert one.ping("blue", "10.0.1.2")


def test_what_etcd_does_not_take_is_refused_at_once_and_keeps_nobody_waiting(fleet):
    one = fleet["one"]
    large = far(1, labels={f"k{i}": "x" * 4000 for i in range(200)})
    bad, good = one.client().connect([large, far(2)])
    assert good["ok"], good
    assert bad["error"]["code"] == "unavailable", bad
    assert "too large" in bad["error"]["message"] and "nothing was done" in bad["error"]["message"], bad
    # of no such id there can be anything
    long = "x" * 3_000_000
    [none, gone] = one.client().disconnect([long, "c2"])
    assert none["ok"] and not none["changed"], none["error"]
    assert gone["ok"] and gone["changed"], gone
    connected(one, far(3))
    assert [row["id"] for row in one.client().list(ids=[long, "c3"])] == ["c3"]
