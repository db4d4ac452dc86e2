"""What etcd forgets, loses or does not answer, and hosts that are removed while something is going on."""

from __future__ import annotations

import json
import time

from fastnl.testing import eventually
from fastnl_engine.fleet.testing import LEASE, far
from fastnl_engine.testing import end, pair


def connected(machine, *connections, wait=False):
    results = machine.client().connect(list(connections), wait=wait)
    assert all(r["ok"] for r in results), results
    return results


def places(fleet):
    return {
        (m.name, *where): link["ifindex"] for m in fleet.machines.values() for where, link in m.everything().items()
    }


def state(machine, id_="c1"):
    rows = list(machine.client().list(ids=[id_]))
    return rows[0]["state"] if rows else None


def test_an_etcd_that_was_emptied_takes_nothing_away(make_fleet):
    fleet = make_fleet("one", "two")
    one, two = fleet["one"], fleet["two"]
    connected(one, far(1), far(2))
    before = places(fleet)
    fleet.etcd.kill()
    [member] = fleet.etcd.members
    member.lose_data()
    fleet.etcd.start()
    fleet.wait_alive("one", "two")
    # long enough for what would be wrong
    assert eventually(lambda: all("vanished" in m.engine.log for m in (one, two))), one.engine.log
    time.sleep(1)
    assert places(fleet) == before
    assert one.ping("blue", "10.0.1.2") and two.ping("red", "10.0.2.1")
    hosts = {row["host"]: row for row in json.loads(fleet.cli(one, "fleet", "hosts", "--json"))}
    assert hosts["one"]["strays"] == 2
    # neither does a restart
    for machine in (one, two):
        machine.engine.hang_up()
        machine.engine.kill()
        machine.engine.start()
    fleet.wait_alive("one", "two")
    assert eventually(lambda: "stray" in one.engine.log.rpartition("event=serving")[2]), one.engine.log
    assert places(fleet) == before
    # asked for anew they are taken over, with whatever number; others are ended by hand
    connected(two, far(1))
    assert one.ping("blue", "10.0.1.2")
    for machine in (one, two):
        [gone] = machine.client().disconnect(["fleet/c2"])
        assert gone["ok"], gone
    assert set(places(fleet)) == {("one", "blue", "a1"), ("two", "red", "b1")}
    connected(one, far(2), far(3))
    assert one.ping("blue", "10.0.3.2") and one.ping("blue", "10.0.2.2")
    one.client().disconnect(["c1", "c2", "c3"])
    assert eventually(lambda: not places(fleet) and not fleet.of_connections()), fleet.stored()


def test_what_was_compacted_while_a_host_did_not_listen_is_made_up_for(make_fleet):
    fleet = make_fleet("one", "two")
    one, two = fleet["one"], fleet["two"]
    connected(one, far(1), far(2))
    kept = places(fleet)[("two", "red", "b1")]
    with two.engine.paused():
        assert eventually(lambda: "two" not in fleet.alive())
        client = one.client()
        client.disconnect(["c2"])
        client.connect([far(3)], wait=True)
        revision = json.loads(fleet.etcd.ctl("get", "/x", "-w", "json"))["header"]["revision"]
        fleet.etcd.ctl("compact", "--physical", str(revision))
        fleet.etcd.kill()  # so that no stream goes on either
    fleet.etcd.start()
    fleet.wait_alive("one", "two")
    assert one.ping("blue", "10.0.3.2")
    assert eventually(lambda: ("red", "b2") not in two.everything())
    assert eventually(lambda: len(fleet.stored("vni/")) == 2), fleet.stored()
    assert places(fleet)[("two", "red", "b1")] == kept


def test_an_engine_that_stood_still_for_longer_than_its_lease(make_fleet):
    fleet = make_fleet("one", "two")
    one, two = fleet["one"], fleet["two"]
    connected(one, far(1))
    before = places(fleet)
    with two.engine.paused():
        assert eventually(lambda: state(one) == "degraded")
        # a job for it is told so at once, and not after the whole patience
        [result] = one.client().connect([far(2)])
        assert result["error"]["code"] == "host_away", result
        time.sleep(LEASE)
    assert eventually(lambda: state(one) == "up")
    assert places(fleet) == before
    connected(two, far(2))


def test_a_job_is_not_lost_in_an_etcd_that_hangs_in_the_middle_of_it(make_fleet):
    """Whether the transaction was done is not known to the desk at first."""
    fleet = make_fleet("one", "two")
    one = fleet["one"]
    [member] = fleet.etcd.members
    raw = one.engine.raw()
    jobs = [far(n) for n in range(100)]
    for job in jobs:
        raw.ask(id=job["id"], op="connect", connections=[job])
    raw.reply()  # the others are on their way
    member.hang()
    time.sleep(8)  # longer than a request may take
    member.go_on()
    replies = [raw.reply() for _ in jobs[1:]]
    bad = [r["results"][0] for r in replies if not r["ok"]]
    assert all(r["error"]["code"] in ("unavailable", "host_away") for r in bad), bad
    # asked for again, all of them are there, and each number is one connection's
    fleet.wait_alive("one", "two")
    results = one.client().connect(jobs)
    assert all(r["ok"] for r in results), [r for r in results if not r["ok"]]
    vnis = fleet.stored("vni/")
    assert len(vnis) == len(set(vnis.values())) == 100
    one.client().disconnect([job["id"] for job in jobs])
    assert eventually(lambda: not places(fleet) and not fleet.of_connections()), fleet.stored()


def test_a_host_that_is_removed_while_it_lives(make_fleet):
    fleet = make_fleet("one", "two", "three")
    one, two, three = fleet.machines.values()
    connected(one, far(1), far(2, "two", "two"), far(3, "one", "three"))
    connected(two, pair("local", end("blue", "l0"), end("red", "l0")))
    fleet.cli(three, "fleet", "remove", "two", "--force")
    want = {("one", "blue", "a3"), ("three", "red", "b3"), ("two", "blue", "l0"), ("two", "red", "l0")}
    assert eventually(lambda: set(places(fleet)) == want), places(fleet)
    # it joins anew, with nothing
    assert eventually(lambda: "host/two" in fleet.stored() and not fleet.stored("removed/"))
    fleet.wait_alive("two")
    assert eventually(lambda: len(fleet.stored("vni/")) == 1)
    connected(one, far(1))
    assert one.ping("blue", "10.0.1.2")
    assert set(places(fleet)) == want | {("one", "blue", "a1"), ("two", "red", "b1")}


def test_a_removal_that_was_cut_short_goes_on(make_fleet):
    fleet = make_fleet("one", "two")
    one, two = fleet["one"], fleet["two"]
    connected(one, far(1), far(2))
    two.engine.hang_up()
    two.engine.kill()
    assert eventually(lambda: "two" not in fleet.alive())
    # as far as the first transaction of it goes
    prefix = "/fastnl/fleet/default/"
    identity = json.loads(fleet.stored("host/two")["host/two"])["identity"]
    fleet.etcd.ctl("put", f"{prefix}removed/two/{identity}", '{"at":0,"by":"one"}')
    fleet.etcd.ctl("del", prefix + "host/two")
    assert eventually(lambda: one.client().connect([far(3)])[0].get("error", {}).get("code") == "host_unknown")
    said = fleet.cli(one, "fleet", "remove", "two")
    assert "2 connections" in said, said
    assert eventually(lambda: not one.everything() and not fleet.of_connections()), fleet.stored()
    # the host itself would go on, too
    two.engine.start()
    assert eventually(lambda: not two.everything())


def test_a_change_of_the_underlay_is_followed_while_all_run(make_fleet):
    fleet = make_fleet("one", "two")
    one, two = fleet["one"], fleet["two"]
    connected(one, far(1))
    two.run("ip", "link", "set", "under", "mtu", "1400")
    assert eventually(lambda: one.links("blue")["a1"]["mtu"] == two.links("red")["b1"]["mtu"] == 1350)
    assert one.ping("blue", "10.0.1.2", size=1350 - 28)


def test_what_one_client_was_promised_another_ones_failure_does_not_take_back(make_fleet):
    """The same connection twice at the same time, its namespace missing: one client waits for it, one does not."""
    fleet = make_fleet("one", "two")
    one, two = fleet["one"], fleet["two"]
    for n in range(15):
        job = far(n)
        job["b"]["netns"] = "later"
        raws = [one.engine.raw(), two.engine.raw()]
        raws[0].ask(id=0, op="connect", connections=[job])
        raws[1].ask(id=1, op="connect", connections=[job], wait=True)
        hasty, patient = (raw.reply()["results"][0] for raw in raws)
        assert patient["ok"] and patient["state"] == "pending", patient
        assert hasty["ok"] is False and hasty["error"]["code"] == "netns_not_found", hasty
        one.engine.hang_up()
        two.engine.hang_up()
    time.sleep(1)
    assert {key.removeprefix("connection/") for key in fleet.stored("connection/")} == {f"c{n}" for n in range(15)}
    two.make("later")
    assert all(one.ping("blue", f"10.0.{n}.2") for n in range(15))
