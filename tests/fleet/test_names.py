"""Engines that come to the fleet with a name that is another's: the name, the connections and their numbers stay its
own until somebody removes it."""

from __future__ import annotations

import json
import shutil
import time

import yaml

from fastnl.testing import eventually
from fastnl_engine.fleet.testing import LEASE, far
from fastnl_engine.testing import end, pair


def connected(machine, *connections, wait=False):
    results = machine.client().connect(list(connections), wait=wait)
    assert all(r["ok"] for r in results), results


def twin(fleet):
    """A machine of its own, with a state folder of its own, and the name of another one."""
    machine = fleet.add("twin", host="two", patience="600")  # nothing that is asked of it may take that long
    machine.make("blue", "red")
    machine.engine.start()
    return machine


def standing(machine):
    return machine.client().info()["fleet"]


def refused(machine, *words):
    """Waits until it says that it may not have its name, wherever one looks, with what to do."""
    assert eventually(lambda: all(w in standing(machine)["reason"] for w in ("fleet.host", *words))), standing(machine)
    told = standing(machine)
    assert told["joined"] is False and "fastnl fleet remove two" in told["reason"] and "fleet.host" in told["reason"]
    assert told["reason"] in machine.engine.log, machine.engine.log
    return told["reason"]


def dead(fleet, machine, name="two"):
    machine.engine.hang_up()
    machine.engine.kill()
    assert eventually(lambda: name not in fleet.alive())


def numbers(machine, netns="red"):
    """Of the tunnels of a host, as its kernel has them."""
    links = machine.links(netns).values()
    return {k["linkinfo"]["info_data"]["id"] for k in links if k.get("linkinfo", {}).get("info_kind") == "vxlan"}


def test_the_second_one_stays_out_while_the_first_lives_and_when_it_is_dead(make_fleet):
    fleet = make_fleet("one", "two")
    one, two = fleet["one"], fleet["two"]
    connected(one, far(1))
    registered = fleet.stored("host/")
    second = twin(fleet)
    refused(second, "alive")
    # what is its own goes on, and what is the fleet's is told why not, at once
    connected(second, pair("local", end("blue", "l0"), end("red", "l0")))
    [result] = second.client().connect([far(2)])
    assert result["error"]["code"] == "unavailable" and "fleet remove two" in result["error"]["message"], result
    shown = fleet.cli(second, "fleet")
    assert "two has not joined" in shown and "fastnl fleet remove two" in shown, shown
    assert yaml.safe_load(fleet.cli(second, "info"))["fleet"]["joined"] is False
    assert standing(one) == {"host": "one", "joined": True, "reason": ""}
    # neither does it take the place of the dead: its interfaces are there, with their numbers
    dead(fleet, two)
    refused(second, "another machine")
    time.sleep(2 * LEASE)
    assert fleet.stored("host/") == registered and "two" not in fleet.alive()
    assert set(second.everything()) == {("blue", "l0"), ("red", "l0")}
    assert one.ping("blue", "10.0.1.2")
    # the first one comes back as if nothing had been
    two.engine.start()
    fleet.wait_alive("two")
    connected(one, far(2))
    assert one.ping("blue", "10.0.2.2") and ("red", "b2") in two.everything()
    assert numbers(two).isdisjoint(numbers(second))
    refused(second, "alive")


def test_after_a_crash_a_host_goes_on_at_once(make_fleet):
    fleet = make_fleet("one", "two")
    one, two = fleet["one"], fleet["two"]
    connected(one, far(1))
    before = two.everything()[("red", "b1")]["ifindex"]
    for _ in range(3):
        two.engine.hang_up()
        two.engine.kill()
        two.engine.start()  # its lease is there still
        assert eventually(lambda: standing(two)["joined"]), two.engine.log
    assert "not registered in the fleet" not in two.engine.log
    assert two.everything()[("red", "b1")]["ifindex"] == before
    connected(two, far(2))
    assert one.ping("blue", "10.0.2.2") and one.ping("blue", "10.0.1.2")


def test_a_machine_that_was_installed_anew_joins_when_what_it_was_is_removed(make_fleet):
    fleet = make_fleet("one", "two", "three")
    one, two, three = fleet.machines.values()
    connected(one, far(1), far(2, "one", "three"))
    dead(fleet, two)
    shutil.rmtree(two.engine.state)
    two.engine.start()
    refused(two, "state folder that it had before")
    # nobody has said yet that its connections shall go
    assert set(one.everything()) == {("blue", "a1"), ("blue", "a2")} and "half/two/c1" in fleet.of_connections()
    # it can be asked for that itself
    said = fleet.cli(two, "fleet", "remove", "two")
    assert "1 connections" in said, said
    assert eventually(lambda: standing(two) == {"host": "two", "joined": True, "reason": ""}), standing(two)
    assert eventually(lambda: set(one.everything()) == {("blue", "a2")})
    connected(three, far(1))
    assert one.ping("blue", "10.0.1.2") and one.ping("blue", "10.0.2.2")


def test_a_name_goes_to_another_machine_and_the_first_one_comes_back_after_all(make_fleet):
    fleet = make_fleet("one", "two")
    one, two = fleet["one"], fleet["two"]
    connected(one, far(1))
    dead(fleet, two)
    second = twin(fleet)
    refused(second)
    fleet.cli(one, "fleet", "remove", "two")
    assert eventually(lambda: standing(second)["joined"]), standing(second)
    connected(one, far(3))
    assert ("red", "b3") in second.everything() and one.ping("blue", "10.0.3.2")
    # it lets go of what it had, whose numbers may be others' by now, and touches nothing of its heir
    two.engine.start()
    assert eventually(lambda: not two.everything()), two.everything()
    refused(two, "alive")
    assert eventually(lambda: not fleet.stored("removed/")), fleet.stored("removed/")
    time.sleep(LEASE)
    assert one.ping("blue", "10.0.3.2")
    assert {"half/two/c3", "outcome/two/c3", "connection/c3"} <= fleet.of_connections()
    connected(one, far(4))
    assert one.ping("blue", "10.0.4.2")


def test_halves_alone_keep_a_name_too(make_fleet):
    """A removal that was cut short, of which the next machine of that name shall not get the rest."""
    fleet = make_fleet("one", "two")
    one, two = fleet["one"], fleet["two"]
    connected(one, far(1), far(2))
    dead(fleet, two)
    identity = json.loads(fleet.stored("host/two")["host/two"])["identity"]
    fleet.etcd.ctl("put", f"/fastnl/fleet/default/removed/two/{identity}", '{"at":0,"by":"one"}')
    fleet.etcd.ctl("del", "/fastnl/fleet/default/host/two")
    second = twin(fleet)
    refused(second, "earlier host")
    time.sleep(1)
    assert not second.everything() and "host/two" not in fleet.stored("host/")
    said = fleet.cli(second, "fleet", "remove", "two")
    assert "2 connections" in said, said
    assert eventually(lambda: standing(second)["joined"]), standing(second)
    connected(one, far(3))
    assert one.ping("blue", "10.0.3.2")


def test_another_name_is_a_way_out(make_fleet):
    fleet = make_fleet("one", "two")
    one = fleet["one"]
    second = twin(fleet)
    refused(second)
    second.engine.hang_up()
    second.engine.stop()
    second.engine.env["FASTNL_FLEET_HOST"] = "three"
    second.engine.start()
    assert eventually(lambda: "three" in fleet.alive()), second.engine.log
    assert standing(second) == {"host": "three", "joined": True, "reason": ""}
    connected(one, far(1, "one", "three"))
    assert one.ping("blue", "10.0.1.2")
