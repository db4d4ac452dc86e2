"""What goes wrong: etcd away, compacted, full, slow; the engine killed; and what a start finds."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from tests.ligato.conftest import Agent, comes, goes, ligato, links, veth1

from fastnl.testing import Namespaces, eventually, ping
from fastnl_engine.kv.testing import Etcd
from fastnl_engine.testing import EngineProcess, end, pair

I1 = "linux/config/v1/interface/"


def halves(n: int, **more: object) -> dict[str, object]:
    return {
        f"{I1}a{n}": veth1(f"a{n}", f"b{n}", "n0", f"10.0.{n}.1/24", **more),
        f"{I1}b{n}": veth1(f"b{n}", f"a{n}", "n1", f"10.0.{n}.2/24", **more),
    }


def put(agent: Agent, values: dict[str, object]) -> None:
    for key, value in values.items():
        agent.put(key, value)


@pytest.fixture
def own(make_etcd: Callable[..., Etcd], make_engine: Callable[..., EngineProcess]) -> Callable[..., Agent]:
    """An engine on an etcd that may be hurt."""

    def make(*flags: str, **settings: object) -> Agent:
        etcd = make_etcd(*flags)
        return Agent(make_engine(ligato(etcd.urls, **settings)).start(), etcd)

    return make


def indexes(netns: str) -> dict[str, int]:
    return {name: row["ifindex"] for name, row in links(netns).items()}


@pytest.mark.parametrize("way", ["killed", "hung"])
def test_while_etcd_is_away_nothing_is_torn_down_and_all_is_caught_up_after(
    own: Callable[..., Agent], netns: Namespaces, way: str
) -> None:
    netns.many(2)
    agent = own()
    for n in range(3):
        put(agent, halves(n))
    assert comes("n0", "a2") and comes("n0", "a0") and comes("n0", "a1")
    before = indexes("n0")
    member = agent.etcd.members[0]
    member.kill() if way == "killed" else member.hang()
    time.sleep(3)
    assert indexes("n0") == before
    netns.let_go("n1")  # the kernel goes on meanwhile
    assert goes("n0", "a0")
    netns.make("n1")
    assert comes("n0", "a0") and ping("n0", "10.0.0.2")
    if way == "killed":
        agent.etcd.start()
    else:
        member.go_on()
    agent.delete(I1 + "a0")
    agent.put(I1 + "b1", veth1("b1", "a1", "n1", "10.0.1.2/24", mtu=1400))
    put(agent, halves(3))
    assert goes("n1", "b0") and comes("n0", "a3")
    assert eventually(lambda: links("n1")["b1"]["mtu"] == 1400)
    agent.expect(I1 + "a3", "CONFIGURED")
    agent.expect(I1 + "b0", "PENDING", "veth-peer-exists")


def test_changes_that_were_compacted_away_while_we_were_away_are_found(
    own: Callable[..., Agent], netns: Namespaces
) -> None:
    netns.many(2)
    agent = own()
    put(agent, halves(0) | halves(1))
    assert comes("n0", "a0") and comes("n0", "a1")
    with agent.engine.paused():  # the watch cannot keep up
        agent.etcd.kill()
        agent.etcd.start()
        agent.delete(I1 + "a0")
        put(agent, halves(2))
        revision = json.loads(agent.etcd.ctl("endpoint", "status", "-w", "json"))[0]["Status"]["header"]["revision"]
        agent.etcd.ctl("compact", str(revision))
    assert comes("n0", "a2") and goes("n1", "b0")
    assert "a1" in links("n0")
    agent.expect(I1 + "b0", "PENDING")


def test_a_full_etcd_keeps_statuses_from_being_written_and_nothing_else(
    own: Callable[..., Agent], netns: Namespaces
) -> None:
    netns.many(2)
    agent = own("--quota-backend-bytes", str(8 << 20))
    put(agent, halves(0) | {k: v for k, v in halves(1).items() if k.endswith("a1")})
    agent.expect(I1 + "a0", "CONFIGURED")
    with pytest.raises(AssertionError, match="space"):
        for n in range(40):
            agent.etcd.ctl("put", f"/filler/{n}", input="x" * 500_000)
    agent.delete(I1 + "a0")
    assert goes("n0", "a0")  # what is told still counts
    assert eventually(lambda: "status cannot be written" in agent.engine.log)
    agent.etcd.ctl("del", "/filler/", "--prefix")
    revision = json.loads(agent.etcd.ctl("endpoint", "status", "-w", "json"))[0]["Status"]["header"]["revision"]
    agent.etcd.ctl("compact", str(revision))
    agent.etcd.ctl("defrag")
    agent.etcd.ctl("alarm", "disarm")
    agent.expect(I1 + "b0", "PENDING", "veth-peer-exists")
    put(agent, halves(1))
    assert comes("n0", "a1")
    agent.expect(I1 + "a1", "CONFIGURED")


@contextlib.contextmanager
def slow(etcd: Etcd) -> Iterator[None]:
    """It stands still most of the time."""
    member, done = etcd.members[0], threading.Event()

    def drag() -> None:
        while not done.wait(0.03):
            member.hang()
            done.wait(0.3)
            member.go_on()

    thread = threading.Thread(target=drag)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def test_a_slow_etcd_costs_nothing_but_time(own: Callable[..., Agent], netns: Namespaces) -> None:
    netns.many(2)
    agent = own()
    put(agent, halves(0))
    agent.expect(I1 + "a0", "CONFIGURED")
    before = indexes("n0")
    with slow(agent.etcd):
        for n in range(1, 4):
            put(agent, halves(n))
        for n in range(4):
            agent.expect(f"{I1}a{n}", "CONFIGURED")
        agent.delete(I1 + "a3")
        assert goes("n1", "b3")
        agent.expect(I1 + "b3", "PENDING", "veth-peer-exists")
        time.sleep(6)  # more than the lease of the statuses
        assert agent.status(I1 + "a0")["state"] == "CONFIGURED"
    assert indexes("n0")["a0"] == before["a0"]


def test_an_engine_that_is_killed_between_two_halves_goes_on_with_the_second(agent: Agent, netns: Namespaces) -> None:
    netns.many(2)
    first, second = halves(0).items()
    agent.put(*first)
    agent.expect(first[0], "PENDING", "veth-peer-exists")
    agent.engine.kill()
    agent.put(*second)
    agent.engine.start()
    assert comes("n0", "a0") and ping("n0", "10.0.0.2")
    agent.expect(first[0], "CONFIGURED")


def test_a_killed_engine_adopts_all_and_removes_what_went_meanwhile_and_nothing_else(
    agent: Agent, netns: Namespaces, foreign: Callable[..., int]
) -> None:
    netns.many(2)
    for n in range(4):
        put(agent, halves(n))
    client = agent.engine.client()
    client.connect([pair("mine", end("n0", "m0"), end("n1", "m1"))])
    stranger = foreign("n0", "stranger")
    for n in range(4):
        agent.expect(f"{I1}a{n}", "CONFIGURED")
    before = indexes("n0")
    agent.engine.hang_up()
    agent.engine.kill()
    agent.delete(I1 + "a3")
    agent.put(I1 + "a2", veth1("a2", "b2", "n0", "10.0.2.1/24", mtu=1400))
    agent.engine.start()
    assert goes("n1", "b3")
    assert eventually(lambda: links("n0")["a2"]["mtu"] == 1400)
    after = indexes("n0")
    assert after == {name: index for name, index in before.items() if name != "a3"}
    assert after["stranger"] == stranger
    agent.expect(I1 + "a0", "CONFIGURED")
    # an interface is gone before its record is
    asked_for = {"mine", *(f"ligato/vpp1/a{n}+b{n}" for n in range(3))}
    assert eventually(lambda: {row["id"] for row in agent.engine.client().list()} == asked_for)


def test_nothing_is_torn_down_by_a_start_without_etcd(own: Callable[..., Agent], netns: Namespaces) -> None:
    netns.many(2)
    agent = own()
    put(agent, halves(0) | halves(1))
    agent.expect(I1 + "a0", "CONFIGURED")
    agent.expect(I1 + "a1", "CONFIGURED")
    before = indexes("n0")
    agent.engine.kill()
    agent.etcd.kill()
    agent.engine.start().resumed()
    time.sleep(2)
    assert indexes("n0") == before
    agent.etcd.start()
    agent.delete(I1 + "a1")
    assert goes("n1", "b1")
    assert indexes("n0") == {"a0": before["a0"]}


def test_everything_is_made_anew_when_told_to(agent: Agent, netns: Namespaces) -> None:
    netns.many(2)
    put(agent, halves(0))
    agent.expect(I1 + "a0", "CONFIGURED")
    before = indexes("n0")
    agent.engine.stop()
    agent.engine.env["FASTNL_RESYNC"] = "recreate"
    agent.engine.start()
    assert eventually(lambda: indexes("n0").get("a0", before["a0"]) != before["a0"])
    assert ping("n0", "10.0.0.2")


def test_statuses_go_with_the_engine_and_return_with_it(agent: Agent, netns: Namespaces) -> None:
    netns.many(2)
    put(agent, halves(0))
    agent.expect(I1 + "a0", "CONFIGURED")
    agent.engine.kill()
    assert eventually(lambda: agent.status(I1 + "a0") == {})
    agent.engine.start()
    agent.expect(I1 + "a0", "CONFIGURED")
    assert agent.engine.stop() == 0
    assert agent.status(I1 + "a0") == {}


def test_statuses_return_after_their_lease_was_lost(agent: Agent, netns: Namespaces) -> None:
    netns.many(2)
    put(agent, halves(0))
    agent.expect(I1 + "a0", "CONFIGURED")
    for lease in json.loads(agent.etcd.ctl("lease", "list", "-w", "json"))["leases"]:
        agent.etcd.ctl("lease", "revoke", f"{lease['id']:x}")
    agent.expect(I1 + "a0", "CONFIGURED")


def test_the_status_of_an_interface_tells_what_the_kernel_has(agent: Agent, netns: Namespaces) -> None:
    netns.many(2)
    put(agent, halves(0))
    agent.expect(I1 + "a0", "CONFIGURED")
    assert eventually(lambda: agent.interface(I1 + "a0").get("oper_status") == "UP")
    found = agent.interface(I1 + "a0")
    row = links("n0")["a0"]
    assert found == {
        "name": "a0", "internal_name": "a0", "type": "VETH", "if_index": row["ifindex"], "admin_status": "UP",
        "oper_status": "UP", "phys_address": row["address"], "mtu": 1500,
    }  # fmt: skip


def test_counters_come_as_events_and_in_statuses(make_agent: Callable[..., Agent], netns: Namespaces) -> None:
    netns.many(2)
    agent = make_agent(statistics=1)
    put(agent, halves(0))
    agent.expect(I1 + "a0", "CONFIGURED")
    told = agent.engine.subscribe("connection.statistics.")
    assert ping("n0", "10.0.0.2", count=3)
    assert eventually(lambda: agent.interface(I1 + "a0").get("statistics", {}).get("in_packets", 0) >= 3)
    topic, body = told.next()
    assert topic == "connection.statistics.ligato/vpp1/a0+b0"
    assert set(body["a"]) == set(agent.interface(I1 + "a0")["statistics"])


def test_values_whose_statuses_cannot_be_written_are_in_nobodys_way(agent: Agent, netns: Namespaces) -> None:
    netns.many(2)
    for n in range(8):  # their keys fill a transaction by themselves
        agent.put("config/linux/iptables/v2/rulechain/" + str(n) * 120_000, {})
    put(agent, halves(0))
    agent.expect(I1 + "a0", "CONFIGURED")
