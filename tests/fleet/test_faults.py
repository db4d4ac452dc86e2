"""Engines that die, an etcd that is away, hosts that never come back, clients that want the same id."""

from __future__ import annotations

import threading
import time

import pytest

from fastnl.testing import PATIENCE, eventually
from fastnl_engine.fleet.testing import DEVICE, far
from fastnl_engine.testing import end, pair


def connected(machine, *connections, wait=False):
    results = machine.client().connect(list(connections), wait=wait)
    assert all(r["ok"] for r in results), results
    return results


def row_of(machine, id_="c1"):
    rows = list(machine.client().list(ids=[id_]))
    return rows[0] if rows else {}


def shows(machine, state, id_="c1"):
    """Waits until an engine shows a connection in a state."""
    assert eventually(lambda: row_of(machine, id_).get("state") == state), (state, row_of(machine, id_))
    return row_of(machine, id_)


def indexes(fleet):
    return {
        (m.name, *where): link["ifindex"] for m in fleet.machines.values() for where, link in m.everything().items()
    }


# -- an engine dies ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_the_connections_of_a_dead_engine_stay_up_and_are_shown_as_degraded(make_fleet, how):
    fleet = make_fleet("one", "two", "three")
    one, two, three = fleet.machines.values()
    connected(one, far(1), far(2, "two", "two"), far(3, "one", "three"))
    before = indexes(fleet)
    heard = one.engine.subscribe("connection.degraded.")
    getattr(two.engine, how)()
    for machine in (one, three):
        for id_ in ("c1", "c2"):
            row = shows(machine, "degraded", id_)
            assert "two" in row["reason"], row
        assert row_of(machine, "c3")["state"] == "up"
    topic, event = heard.next()
    assert topic.endswith("c1") and event["id"].endswith("c1") and "two" in event["reason"], (topic, event)
    # the state is the engine's; the kernel goes on
    assert indexes(fleet) == before
    assert one.ping("blue", "10.0.1.2") and two.ping("blue", "10.0.2.2") and two.ping("red", "10.0.1.1")
    two.engine.hang_up()
    two.engine.start()
    for machine in fleet.machines.values():
        for id_ in ("c1", "c2", "c3"):
            shows(machine, "up", id_)
    assert indexes(fleet) == before, "they were touched"


def test_a_peer_that_went_away_before_an_engine_started_is_told_of(make_fleet):
    fleet = make_fleet("one", "two")
    one, two = fleet["one"], fleet["two"]
    connected(one, far(1), far(2, "one", "one"))
    for machine in (one, two):
        machine.engine.hang_up()
        machine.engine.kill()
    assert eventually(lambda: not fleet.alive())
    one.engine.start()
    client = one.client()

    def told(word):
        return [e["id"] for e in client.events()["events"] if e["event"] == word and e.get("was") in ("up", "degraded")]

    assert eventually(lambda: told("degraded") == ["fleet/c1"]), client.events()
    two.engine.start()
    assert eventually(lambda: told("up") == ["fleet/c1"]), client.events()


def test_what_changes_while_an_engine_is_dead_is_made_up_for(make_fleet):
    fleet = make_fleet("one", "two", "three")
    one, two, three = fleet.machines.values()
    connected(one, far(1), far(2), far(3), far(4, "two", "two"), far(5, "two", "three"))
    two.engine.kill()
    two.engine.hang_up()
    shows(one, "degraded")
    # one is given up, one changes, one gets another end, and a new one comes; whoever asks may wait or be told
    client = one.client(timeout=2 * PATIENCE)
    gone = client.disconnect(["c1", "c4"])
    changed = far(2)
    changed["b"]["addresses"] = ["10.0.2.9/24"]
    results = client.connect([changed, far(3, "one", "three"), far(6)], wait=True)
    for result in (*gone, *results):
        assert result["ok"] or "two" in result["error"]["message"], result
    # nothing of what the dead one still has is given to others
    taken = {link["linkinfo"]["info_data"]["id"] for link in two.links("red").values() if "b" in link["ifname"]
             and link["linkinfo"]["info_kind"] == "vxlan"}  # fmt: skip
    kept = {int(key.rpartition("/")[2]) for key in fleet.stored("vni/")}
    assert taken <= kept, (taken, kept)
    two.engine.start()
    assert eventually(lambda: ("red", "b1") not in two.everything() and ("red", "b4") not in two.everything())
    assert one.ping("blue", "10.0.2.9")
    assert one.ping("blue", "10.0.3.2")
    assert one.ping("blue", "10.0.6.2")
    assert three.ping("red", "10.0.5.1")
    assert eventually(lambda: ("red", "b3") not in two.everything())
    assert eventually(lambda: len(fleet.stored("vni/")) == 4), fleet.stored("vni/")
    for machine in fleet.machines.values():
        for id_ in ("c2", "c3", "c5", "c6"):
            shows(machine, "up", id_)
        assert not row_of(machine, "c1") and not row_of(machine, "c4")


def test_a_host_that_is_known_but_away(make_fleet):
    fleet = make_fleet("one", "two")
    one, two = fleet["one"], fleet["two"]
    two.engine.kill()
    two.engine.hang_up()
    assert eventually(lambda: "two" not in fleet.alive())
    # without `wait` it says which end is not up and why, and nothing is left of it
    [result] = one.client().connect([far(1)])
    assert not result["ok"], result
    assert "two" in result["error"]["message"] and result["error"]["field"].startswith("b"), result
    assert eventually(lambda: not one.everything())
    # with it, it comes up when the host does
    [result] = connected(one, far(2), wait=True)
    assert result["state"] in ("pending", "degraded") and "two" in result["reason"], result
    two.engine.start()
    assert one.ping("blue", "10.0.2.2")
    assert eventually(lambda: "b1" not in two.links("red"))
    shows(two, "up", "c2")
    connected(two, far(1))


def test_what_somebody_deletes_is_mended_on_either_host(make_fleet):
    fleet = make_fleet("one", "two")
    one, two = fleet["one"], fleet["two"]
    connected(one, far(1))
    two.run("ip", "link", "del", "b1", netns="red")
    assert eventually(lambda: ("red", "b1") in two.everything())
    assert one.ping("blue", "10.0.1.2")
    two.remove("red")
    row = shows(one, "pending")
    assert "two" in row["reason"], row
    two.make("red")
    assert one.ping("blue", "10.0.1.2")
    shows(one, "up")


def test_a_host_that_is_cut_off_from_the_rest(make_fleet):
    fleet = make_fleet("one", "two")
    one, two = fleet["one"], fleet["two"]
    connected(one, far(1))
    before = indexes(fleet)
    two.run("ip", "link", "set", DEVICE, "down")
    shows(one, "degraded")
    # its engine goes on with what is its own
    connected(two, pair("local", end("blue", "l0", "10.9.9.1/24"), end("red", "l0", "10.9.9.2/24")))
    assert two.ping("blue", "10.9.9.2")
    two.client().disconnect(["local"])
    two.run("ip", "link", "set", DEVICE, "up")
    two.run("ip", "route", "replace", "default", "via", "192.0.2.254")
    two.run("ip", "addr", "replace", f"{two.addresses[6]}/64", "dev", DEVICE, "nodad")
    shows(one, "up")
    shows(two, "up")
    assert indexes(fleet) == before
    assert one.ping("blue", "10.0.1.2")


# -- etcd is away ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["kill", "hang"])
def test_without_etcd_what_is_up_stays_up_and_local_jobs_go_on(make_fleet, how):
    fleet = make_fleet("one", "two")
    one, two = fleet["one"], fleet["two"]
    connected(one, far(1))
    before = indexes(fleet)
    [member] = fleet.etcd.members
    getattr(member, how)()
    local = pair("local", end("blue", "l0", "10.9.9.1/24"), end("red", "l0", "10.9.9.2/24"))
    began = time.monotonic()
    connected(one, local)
    passed = time.monotonic() - began
    assert one.ping("blue", "10.9.9.2")
    # a job for the fleet is told so, and does not keep others waiting
    raw = one.engine.raw()
    raw.ask(id=1, op="connect", connections=[far(2)])
    assert [r["ok"] for r in one.client().disconnect(["local"])] == [True]
    reply = raw.reply()
    [result] = reply["results"]
    assert not result["ok"] and "etcd" in result["error"]["message"], result
    [again] = one.client().disconnect(["c1"])
    assert not again["ok"], again
    time.sleep(4)  # longer than the lease
    assert indexes(fleet) == before, passed
    assert one.ping("blue", "10.0.1.2") and two.ping("red", "10.0.1.1")
    assert row_of(one), "it is still listed"
    if how == "hang":
        member.go_on()
    fleet.etcd.start()
    fleet.wait_alive("one", "two")
    # what it was told may have happened or not; asked again, it is as asked for
    connected(two, far(1), far(2))
    assert one.ping("blue", "10.0.2.2") and one.ping("blue", "10.0.1.2")
    one.client().disconnect(["c1", "c2"])
    assert eventually(lambda: not fleet.of_connections() and not indexes(fleet)), fleet.stored()


def test_a_job_that_is_asked_for_while_etcd_is_away_for_a_moment_is_done(make_fleet):
    fleet = make_fleet("one", "two")
    one = fleet["one"]
    fleet.etcd.kill()
    raw = one.engine.raw()
    raw.ask(id=1, op="connect", connections=[far(1)])
    fleet.etcd.start()
    [result] = raw.reply()["results"]
    if not result["ok"]:  # a slow machine: it was told so in time
        assert "etcd" in result["error"]["message"], result
        connected(one, far(1))
    assert one.ping("blue", "10.0.1.2")


def test_engines_that_start_before_etcd_does(make_fleet):
    fleet = make_fleet("one", "two")
    one, two = fleet["one"], fleet["two"]
    connected(one, far(1))
    before = indexes(fleet)
    for machine in (one, two):
        machine.engine.hang_up()
        machine.engine.kill()
    fleet.etcd.kill()
    for machine in (one, two):
        machine.engine.start()
    connected(one, pair("local", end("blue", "l0"), end("red", "l0")))
    one.client().disconnect(["local"])
    time.sleep(1)
    assert indexes(fleet) == before, "they were touched"
    assert one.ping("blue", "10.0.1.2")
    fleet.etcd.start()
    fleet.wait_alive("one", "two")
    for machine in (one, two):
        shows(machine, "up")
    assert indexes(fleet) == before, "they were touched"


def test_a_disconnect_that_etcd_knows_of_and_a_dead_engine_does_not(make_fleet):
    """Killed between the moment that it was written and the moment that the kernel did it."""
    fleet = make_fleet("one", "two")
    one, two = fleet["one"], fleet["two"]
    connected(one, *(far(n) for n in range(20)))
    raw = one.engine.raw()
    raw.ask(id=1, op="disconnect", ids=[f"c{n}" for n in range(20)])
    eventually(lambda: len(one.everything()) < 20 or len(two.everything()) < 20, 5)
    one.engine.kill()
    two.engine.kill()
    for machine in (one, two):
        machine.engine.hang_up()
        machine.engine.start()
    [*results] = one.client().disconnect([f"c{n}" for n in range(20)])
    assert all(r["ok"] for r in results), results
    assert eventually(lambda: not fleet.of_connections() and not indexes(fleet)), fleet.stored()


# -- a host is gone for good -------------------------------------------------------------------------


def test_a_host_that_is_removed_for_good(make_fleet):
    fleet = make_fleet("one", "two", "three")
    one, two, three = fleet.machines.values()
    connected(one, far(1), far(2, "two", "two"), far(3, "one", "three"), far(4, "three", "two"))
    # not while it lives
    said = fleet.cli(one, "fleet", "remove", "two", code=1)
    assert "two" in said, said
    assert set(fleet.stored("host/")) == {"host/one", "host/two", "host/three"}
    two.engine.kill()
    two.engine.hang_up()
    assert eventually(lambda: "two" not in fleet.alive())
    fleet.cli(one, "fleet", "remove", "two")
    assert set(fleet.stored("host/")) == {"host/one", "host/three"}
    assert eventually(lambda: set(one.everything()) == {("blue", "a3")}), one.everything()
    assert eventually(lambda: set(three.everything()) == {("red", "b3")}), three.everything()
    assert eventually(lambda: len(fleet.stored("vni/")) == 1), fleet.stored()
    # nothing but the note that it was removed, which is for itself
    [left] = [key for key in fleet.stored() if "two" in key.split("/")]
    assert left.startswith("removed/two/"), fleet.stored()
    for machine in (one, three):
        assert eventually(lambda m=machine: [r["id"] for r in m.client().list()] == ["fleet/c3"])
        assert list(machine.connections()) == ["c3"]
    assert one.ping("blue", "10.0.3.2")
    # unknown hosts are told apart
    assert "nobody" in fleet.cli(one, "fleet", "remove", "nobody", code=1)
    # one that comes back after all lets go of what it still has, and can be used again
    assert two.everything()
    two.engine.start()
    assert eventually(lambda: not two.everything()), two.everything()
    assert eventually(lambda: "host/two" in fleet.stored("host/"))
    assert not fleet.stored("removed/")
    connected(one, far(1))
    assert one.ping("blue", "10.0.1.2")


# -- two clients, one id -----------------------------------------------------------------------------


def test_of_two_clients_that_want_one_id_at_the_same_time_one_wins(make_fleet):
    fleet = make_fleet("one", "two", "three")
    wins = {"one": 0, "two": 0}
    for attempt in range(12):
        wanted = {"one": far(1, "one", "two"), "two": far(1, "two", "three")}
        # only the labels differ, for every other attempt: it is content, too
        if attempt % 2:
            wanted = {name: far(1, labels={"of": name}) for name in wanted}
        barrier = threading.Barrier(2)
        results = {}

        def submit(name, barrier=barrier, wanted=wanted, results=results):
            client = fleet[name].client()
            barrier.wait()
            [results[name]] = client.connect([wanted[name]])

        threads = [threading.Thread(target=submit, args=(name,)) for name in wanted]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winners = [name for name, result in results.items() if result["ok"]]
        for result in results.values():
            if not result["ok"]:
                assert result["error"]["code"] == "conflict" and result["error"]["field"] == "id", result
        assert winners, results
        # one after the other is no fight: the second is a change of the first
        row = row_of(fleet["three"])
        found = [
            name
            for name in winners
            if row.get("labels", {}) == wanted[name].get("labels", {})
            and all(row[e]["host"] == wanted[name][e]["host"] for e in "ab")
        ]
        assert found, (row, results)
        for name in winners:
            wins[name] += 1
        a, b = (wanted[found[0]][e]["host"] for e in "ab")
        assert fleet[a].ping("blue", "10.0.1.2") and fleet[b].ping("red", "10.0.1.1")
        fleet["three"].client().disconnect(["c1"])
        assert eventually(lambda: not fleet.of_connections() and not indexes(fleet)), (
            fleet.stored(),
            indexes(fleet),
        )
    print(f"won: {wins}")


def test_many_that_fight_over_one_id_all_have_an_answer_long_before_their_patience_ends(make_fleet):
    """One that ends while somebody waits for it, and is made anew, is not waited for any more."""
    fleet = make_fleet("one", "two")
    until = time.monotonic() + 10
    unanswered: list[str] = []

    def fight(machine, number):
        client = machine.engine.client(PATIENCE)
        here, there = ("one", "two") if number % 2 else ("two", "one")
        while time.monotonic() < until:
            [made] = client.connect([{**far(number, here, there), "id": "c"}])
            [gone] = client.disconnect(["c"])
            unanswered.extend(str(r) for r in (made, gone) if "did not answer" in str(r) or "at work" in str(r))

    machines = list(fleet.machines.values())
    threads = [threading.Thread(target=fight, args=(machines[i % 2], i + 1)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not unanswered
    machines[0].client().disconnect(["c"])
    assert eventually(lambda: not fleet.of_connections()), fleet.stored()


# -- the store's own misfortunes ---------------------------------------------------------------------


def test_rubbish_below_the_prefix_harms_nobody(make_fleet):
    fleet = make_fleet("one", "two")
    one, two = fleet["one"], fleet["two"]
    connected(one, far(1))
    prefix = "/fastnl/fleet/default/"
    for key, value in {
        "half/one/odd": "no json", "half/one/": "{}", "half/two/x": "[1, 2]", "connection/odd": "\\x00",
        "connection/half": '{"connection": 7}', "outcome/c1/one": "{", "outcome/odd/nobody": "{}",
        "vni/4789/word": "c1", "host/": "{}", "host/odd": "7", "alive/odd": "", "other": "", "half/one/c1/more": "{}",
    }.items():  # fmt: skip
        fleet.etcd.ctl("put", prefix + key, "--", value)
    connected(two, far(2))
    assert one.ping("blue", "10.0.1.2") and one.ping("blue", "10.0.2.2")
    # what nobody can read counts as nothing
    for number, id_ in ((7, "odd"), (8, "half")):
        connected(two, {**far(number), "id": id_})
        assert one.ping("blue", f"10.0.{number}.2")
    for machine in (one, two):
        machine.engine.hang_up()
        machine.engine.kill()
        machine.engine.start()
    fleet.wait_alive("one", "two")
    connected(one, far(3))
    assert one.ping("blue", "10.0.3.2") and one.ping("blue", "10.0.1.2")
    for machine in (one, two):
        assert {r["id"] for r in machine.client().list()} >= {"fleet/c1", "fleet/c2", "fleet/c3"}
        assert {"c1", "c2", "c3"} <= set(machine.connections())
