"""Numbers of tunnels: never two at once, remembered, given back."""

from __future__ import annotations

import itertools
import threading
from collections import Counter

from fastnl.testing import eventually
from fastnl_engine.fleet.testing import DEVICE, far


def numbers(fleet):
    """By connection, from the interfaces of every host; the port and both ends' agreement are checked on the way."""
    found = {}
    for machine in fleet.machines.values():
        seen = Counter()
        for (_, ifname), link in machine.everything().items():
            if link["linkinfo"]["info_kind"] != "vxlan":
                continue
            data = link["linkinfo"]["info_data"]
            seen[data["id"], data["port"]] += 1
            id_ = f"c{ifname[1:]}"
            assert found.setdefault(id_, data["id"]) == data["id"], f"the ends of {id_} differ"
        assert not seen or max(seen.values()) == 1, f"twice on {machine.name}: {seen}"
    return found


def check(fleet):
    """etcd and the kernel agree, and no number has two connections."""
    have = numbers(fleet)
    assert len(set(have.values())) == len(have), have
    assert {key: value.strip('"') for key, value in fleet.stored("vni/").items()} == {
        f"vni/4789/{vni:08}": id_ for id_, vni in have.items()
    }
    return have


def test_a_number_is_kept_for_life_and_given_back(make_fleet):
    fleet = make_fleet()
    # only two numbers in all
    for name in ("one", "two", "three"):
        fleet.add(name, vni_first="100", vni_last="101").make("blue", "red")
    fleet.start()
    client = fleet["three"].client()
    # which of three in one request goes without, nobody promises
    results = [*client.connect([far(1), far(2, "two", "three")]), *client.connect([far(3, "one", "three")])]
    assert [r["ok"] for r in results] == [True, True, False], results
    error = results[2]["error"]
    assert error["code"] == "vni_in_use" and "100" in error["message"] and "101" in error["message"], error
    first = check(fleet)
    assert set(first.values()) == {100, 101}
    # through restarts of everything
    for machine in fleet.machines.values():
        machine.engine.kill()
    fleet.start()
    client = fleet["three"].client()
    [again] = client.connect([far(1)])
    assert again["ok"] and again["changed"] is False, again
    assert check(fleet) == first
    # and a connection on one host needs none
    [local] = client.connect([far(4, "one", "one")])
    assert local["ok"]
    client.disconnect(["c1"])
    [result] = client.connect([far(3, "one", "three")])
    assert result["ok"], result
    assert numbers(fleet)["c3"] == first["c1"]
    client.disconnect(["c2", "c3", "c4"])
    assert not fleet.of_connections()


def test_a_number_that_the_kernel_has_already_is_exchanged_for_another(make_fleet):
    fleet = make_fleet()
    for name in ("one", "two"):
        fleet.add(name, vni_first="100", vni_last="103").make("blue", "red")
    fleet.start()
    one, two = fleet["one"], fleet["two"]
    # somebody else's tunnels, on one side and on the other
    for machine, vni in ((one, 100), (two, 101), (two, 102)):
        machine.run(
            "ip", "link", "add", f"other{vni}", "type", "vxlan", "id", str(vni), "dstport", "4789", "dev", DEVICE
        )
    try:
        [result] = one.client().connect([far(1)])
        assert result["ok"], result
        assert one.ping("blue", "10.0.1.2")
        assert one.links("blue")["a1"]["linkinfo"]["info_data"]["id"] == 103
        # those that it could not have stay its own for life, so that nobody else tries them
        numbers = fleet.stored("vni/")
        assert "vni/4789/00000103" in numbers and set(numbers.values()) == {"c1"}, numbers
        one.client().disconnect(["c1"])
        assert not fleet.of_connections()
    finally:
        for machine, vni in ((one, 100), (two, 101), (two, 102)):
            machine.run("ip", "link", "del", f"other{vni}")


def test_many_engines_that_allocate_at_once_from_few_numbers(make_fleet):
    """Ninety connections from a hundred numbers, so allocators do meet."""
    fleet = make_fleet()
    for name in ("one", "two", "three"):
        fleet.add(name, vni_first="1000", vni_last="1099").make("blue", "red")
    fleet.start()
    pairs = list(itertools.islice(itertools.cycle(itertools.permutations(fleet.machines, 2)), 90))
    jobs = [far(n, a, b) for n, (a, b) in enumerate(pairs)]
    answers = {}

    def submit(machine, mine):
        answers[machine.name] = machine.client().connect(mine)

    threads = [
        threading.Thread(target=submit, args=(machine, jobs[n::3])) for n, machine in enumerate(fleet.machines.values())
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bad = [r for results in answers.values() for r in results if not r["ok"]]
    assert not bad and len(answers) == 3, bad
    assert len(check(fleet)) == 90
    for n, (a, b) in enumerate(pairs):
        assert fleet[a].ping("blue", f"10.0.{n}.2"), (n, a, b)
    fleet["one"].client().disconnect([job["id"] for job in jobs])
    assert eventually(lambda: not fleet.of_connections()), fleet.stored()


def test_engines_that_are_killed_while_they_allocate(make_fleet):
    """What a killed engine had begun is there wholly or not at all, and its numbers are nobody else's."""
    fleet = make_fleet()
    for name in ("one", "two", "three"):
        fleet.add(name, vni_first="1000", vni_last="1199").make("blue", "red")
    fleet.start()
    numbers_of = itertools.count()
    asked = []
    for victim in ("three", "one", "two", "three"):
        jobs = [far(next(numbers_of), a, b) for a, b in itertools.permutations(fleet.machines, 2) for _ in range(5)]
        asked += jobs
        raws = {m.name: m.engine.raw() for m in fleet.machines.values()}
        for n, raw in enumerate(raws.values()):
            for job in jobs[n::3]:
                raw.ask(id=job["id"], op="connect", connections=[job])
        raws[victim].reply()  # it is in the middle of them
        fleet[victim].engine.kill()
        fleet[victim].engine.start()
        fleet[victim].engine.hang_up()
    fleet.wait_alive(*fleet.machines)
    # whatever became of them, asking again makes them be there
    client = fleet["two"].client()
    results = client.connect(asked)
    assert all(r["ok"] for r in results), [r for r in results if not r["ok"]]
    have = check(fleet)
    assert set(have) == {job["id"] for job in asked}
    for job in asked:
        net = job["a"]["addresses"][0].rpartition(".")[0]
        assert fleet[job["a"]["host"]].ping("blue", f"{net}.2"), job
    client.disconnect([job["id"] for job in asked])
    assert eventually(lambda: not fleet.of_connections()), fleet.stored()
    assert eventually(lambda: not numbers(fleet))


def test_engines_of_a_fleet_agree_on_the_port(make_fleet):
    fleet = make_fleet()
    for name in ("one", "two"):
        fleet.add(name, port="8472").make("blue", "red")
    fleet.start()
    [result] = fleet["one"].client().connect([far(1)])
    assert result["ok"], result
    assert fleet["two"].links("red")["b1"]["linkinfo"]["info_data"]["port"] == 8472
    assert [key.rpartition("/")[0] for key in fleet.stored("vni/")] == ["vni/8472"]
    assert fleet["one"].ping("blue", "10.0.1.2")
