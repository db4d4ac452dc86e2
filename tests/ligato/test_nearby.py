"""What others do to interfaces in the engine's own namespace: noticed at once, though the audit never looks."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest
from tests.ligato.conftest import Agent, addresses, comes, links, veth1
from tests.ligato.test_dependents import Consumer

from fastnl.testing import Namespaces, eventually, ping
from fastnl_engine.testing import EngineProcess, end, pair

I1, I3 = "linux/config/v1/interface/", "config/linux/interfaces/v2/interface/"
EXISTING = {"name": "ex", "type": "EXISTING", "enabled": True, "host_if_name": "host0", "ip_addresses": ["10.5.0.1/24"]}


def states(agent: Agent) -> list[str]:
    return [agent.interface(I1 + half).get("oper_status", "") for half in ("va", "vb")]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@pytest.fixture
def blind(make_agent: Callable[..., Agent]) -> Agent:
    """An agent without audit, whose status tells nothing of its own accord."""
    return make_agent("audit = 0")


@pytest.fixture
def bridges(nothing_left: None) -> Iterator[None]:
    yield
    for name in ("host0", "host1"):
        subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)


def test_existing_goes_when_its_interface_is_deleted_and_returns_with_it(
    blind: Agent, netns: Namespaces, bridges: None
) -> None:
    ip("link", "add", "host0", "type", "bridge")
    blind.put(I3 + "ex", EXISTING)
    blind.expect(I3 + "ex", "CONFIGURED")
    for _ in range(3):
        ip("link", "del", "host0")
        blind.expect(I3 + "ex", "PENDING", "host0")
        ip("link", "add", "host0", "type", "bridge")
        blind.expect(I3 + "ex", "CONFIGURED")
        assert addresses("", "host0") == {"10.5.0.1/24"}


def test_existing_goes_with_its_name(blind: Agent, netns: Namespaces, bridges: None) -> None:
    ip("link", "add", "host0", "type", "bridge")
    blind.put(I3 + "ex", EXISTING)
    blind.expect(I3 + "ex", "CONFIGURED")
    ip("link", "set", "host0", "down")
    ip("link", "set", "host0", "name", "host1")
    blind.expect(I3 + "ex", "PENDING", "host0")
    ip("link", "set", "host1", "name", "host0")
    blind.expect(I3 + "ex", "CONFIGURED")


def test_a_port_that_leaves_its_bridge_is_not_deleted(blind: Agent, netns: Namespaces, bridges: None) -> None:
    """Though the kernel says RTM_DELLINK of it, for the bridge's family."""
    netns.make("n0")
    blind.put(I1 + "va", veth1("va", "vb", "", "10.0.0.1/24"))
    blind.put(I1 + "vb", veth1("vb", "va", "n0", "10.0.0.2/24"))
    blind.expect(I1 + "va", "CONFIGURED")
    told = blind.engine.subscribe("connection.mended.")
    index = links("")["va"]["ifindex"]
    ip("link", "add", "host0", "type", "bridge")
    ip("link", "set", "va", "master", "host0")
    ip("link", "set", "va", "nomaster")
    ip("link", "del", "va")  # the first that is mended is this one
    assert eventually(lambda: links("").get("va", {}).get("ifindex", index) != index)
    told.next()
    assert links("")["va"]["ifindex"] != index and ping("n0", "10.0.0.1")


def test_a_host_interface_that_is_deleted_returns_at_once(
    make_engine: Callable[..., EngineProcess], netns: Namespaces
) -> None:
    """Also one that a client asked for."""
    netns.make("n0")
    engine = make_engine("audit = 0\n").start()
    client = engine.client()
    [made] = client.connect([pair("c", end("", "va", "10.0.0.1/24"), end("n0", "vb", "10.0.0.2/24"))])
    ip("link", "del", "va")
    assert eventually(lambda: links("").get("va", {}).get("ifindex", made["a"]["ifindex"]) != made["a"]["ifindex"])
    assert ping("n0", "10.0.0.1")


def test_what_an_af_packet_interface_stands_on_is_followed(blind: Agent, netns: Namespaces, bridges: None) -> None:
    """An interface that is no connection's: a dependent has it while it is there."""
    key = "vpp/config/v1/interface/af"
    blind.put(key, {"name": "af", "type": 4, "enabled": True, "afpacket": {"host_if_name": "host0"}})
    blind.expect(key, "PENDING", "host-interface-exists")
    consumer = Consumer(blind)
    for _ in range(3):
        ip("link", "add", "host0", "type", "bridge")
        step = consumer.step()
        assert (step["action"], step["ifindex"]) == ("create", links("")["host0"]["ifindex"])
        consumer.done()
        ip("link", "del", "host0")
        assert consumer.step()["action"] == "delete"
        consumer.done()


def test_a_carrier_is_told_as_an_event_and_in_the_status(blind: Agent, netns: Namespaces) -> None:
    netns.make("n0")
    blind.put(I1 + "va", veth1("va", "vb", "", "10.0.0.1/24"))
    blind.put(I1 + "vb", veth1("vb", "va", "n0", "10.0.0.2/24"))
    assert eventually(lambda: blind.interface(I1 + "va").get("oper_status") == "UP")
    told = blind.engine.subscribe("connection.link.")
    for how, is_now in (("down", "DOWN"), ("up", "UP")):
        subprocess.run(["ip", "-n", "n0", "link", "set", "vb", how], check=True)
        heard = [told.next(), told.next()]  # the end in the namespace is looked at because of the one here
        assert {topic for topic, _ in heard} == {"connection.link.ligato/vpp1/va+vb"}
        assert [heard[0][1]["a"], heard[1][1]["b"]] == [{"oper_status": is_now}] * 2
        assert eventually(lambda is_now=is_now: states(blind) == [is_now, is_now]), states(blind)


def test_the_carrier_of_a_pair_that_is_elsewhere_is_told_when_it_is_looked_at(
    make_agent: Callable[..., Agent], netns: Namespaces
) -> None:
    netns.many(2)
    agent = make_agent("audit = 0", statistics=1)
    agent.put(I1 + "va", veth1("va", "vb", "n0", "10.0.0.1/24"))
    agent.put(I1 + "vb", veth1("vb", "va", "n1", "10.0.0.2/24"))
    assert eventually(lambda: agent.interface(I1 + "va").get("oper_status") == "UP")
    told = agent.engine.subscribe("connection.link.")
    subprocess.run(["ip", "-n", "n1", "link", "set", "vb", "down"], check=True)
    topic, body = told.next()
    assert topic == "connection.link.ligato/vpp1/va+vb"
    assert body.get("a", body.get("b")) == {"oper_status": "DOWN"}
    assert eventually(lambda: agent.interface(I1 + "va").get("oper_status") == "DOWN")


def test_a_flood_of_others_changes_keeps_nobody_waiting(blind: Agent, netns: Namespaces, bridges: None) -> None:
    """More than the kernel keeps for a listener: what is lost is found by another way."""
    ip("link", "add", "host0", "type", "bridge")
    blind.put(I3 + "ex", EXISTING)
    blind.expect(I3 + "ex", "CONFIGURED")
    with blind.engine.paused():  # it cannot listen
        lines = "".join(f"link set host0 mtu {1400 + n % 2}\n" for n in range(2000))
        subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True)
    assert blind.engine.client().info()["ok"]
    netns.make("n0")
    blind.put(I1 + "va", veth1("va", "vb"))
    blind.put(I1 + "vb", veth1("vb", "va", "n0"))
    assert comes("n0", "vb")
    ip("link", "del", "host0")  # and what comes after it is heard again
    blind.expect(I3 + "ex", "PENDING", "host0")
