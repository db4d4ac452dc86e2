"""All of it without etcd: the keys are in the engine's own file."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.fixtures.docker import Docker
from tests.ligato.conftest import addresses, comes, goes, links, veth1, veth3
from tests.ligato.test_afpacket import afpacket  # noqa: F401
from tests.ligato.test_dependents import Consumer
from tests.ligato.test_operator import routes

from fastnl.testing import Namespaces, eventually, ip_json, ping
from fastnl_engine.testing import EngineProcess

I1, I3 = "linux/config/v1/interface/", "config/linux/interfaces/v2/interface/"
R1, A1 = "linux/config/v1/route/", "linux/config/v1/arp/"
R3, A3 = "config/linux/l3/v2/route/", "config/linux/l3/v2/arp/"
VPP1 = "vpp/config/v1/interface/"
PLACES = {"linux/config/v1/": "linux/status/v1/", VPP1: "linux/status/v1/afpacket/", "config/": "config-status/"}
ROOT = "/vnf-agent/vpp1/"


class Keys:
    """An engine that keeps its keys itself, and clients that write them over ZeroMQ."""

    def __init__(self, engine: EngineProcess) -> None:
        self.engine = engine
        self._client = engine.client()

    def start_again(self) -> None:
        """After SIGKILL."""
        self.engine.hang_up()
        self.engine.kill()
        self._client = self.engine.start().resumed().client()

    def put(self, key: str, value: Any) -> None:
        reply = self._client.request("kv", action="put", key=ROOT + key, value=json.dumps(value))
        assert reply["ok"], reply

    def delete(self, key: str) -> None:
        assert self._client.request("kv", action="delete", key=ROOT + key)["ok"]

    def status(self, key: str) -> dict[str, Any]:
        place = next(ROOT + place + key.removeprefix(head) for head, place in PLACES.items() if key.startswith(head))
        found = self._client.request("kv", action="get", key=place)["results"]
        status: dict[str, Any] = json.loads(found[0]["value"])["value"] if found else {}
        return status

    def expect(self, key: str, state: str, *words: str) -> None:
        def there() -> bool:
            status = self.status(key)
            text = status.get("error", "") + " ".join(status.get("details", ()))
            return status.get("state") == state and all(word in text for word in words)

        assert eventually(there), f"{key}: {self.status(key)}, not {state} {words}\n{self.engine.log}"


@pytest.fixture
def make_keys(make_engine: Callable[..., EngineProcess]) -> Callable[..., Keys]:
    def make(top: str = "", **settings: Any) -> Keys:
        lines = {"store": "embedded", "statistics": 0} | settings
        text = "\n".join(f"{name} = {json.dumps(value)}" for name, value in lines.items())
        return Keys(make_engine(f"{top}\n[ligato]\n{text}\n").start())

    return make


def neighbours(netns: str) -> dict[str, str]:
    return {row["dst"]: row.get("lladdr", "") for row in ip_json(netns, "neigh", "show", "nud", "permanent")}


def test_routes_and_neighbours_of_both_layouts_come_in_any_order_and_outlive_a_kill(
    make_keys: Callable[..., Keys], netns: Namespaces
) -> None:
    keys = make_keys()
    netns.many(2)
    mac = "92:c7:42:67:ab:cd"
    values: dict[str, Any] = {
        A3 + "va/10.0.0.7": {"interface": "va", "ip_address": "10.0.0.7", "hw_address": mac},
        A1 + "n": {"name": "n", "interface": "va", "ip_addr": "10.0.0.8", "hw_address": mac},
        R3 + "10.9.0.0/16/va": {"outgoing_interface": "va", "dst_network": "10.9.0.0/16", "gw_addr": "10.0.0.2"},
        R1 + "r": {"name": "r", "interface": "va", "default": True, "gw_addr": "10.0.0.2"},
    }
    for key, value in values.items():
        keys.put(key, value)
        keys.expect(key, "PENDING", "outgoing-interface-is-up")
    keys.put(I1 + "va", veth1("va", "vb", "n0", "10.0.0.1/24"))
    keys.expect(R1 + "r", "PENDING", "peer vb is not configured")
    keys.start_again()  # between the halves
    keys.put(I3 + "vb", veth3("vb", "va", "n1", "10.0.0.2/24"))
    for key in (*values, I1 + "va", I3 + "vb"):
        keys.expect(key, "CONFIGURED")
    index = links("n0")["va"]["ifindex"]
    for _ in range(2):  # before and after a kill
        assert ping("n0", "10.0.0.2") and {"default", "10.9.0.0/16"} <= routes("n0").keys()
        assert neighbours("n0") == {"10.0.0.7": mac, "10.0.0.8": mac}
        assert links("n0")["va"]["ifindex"] == index
        keys.start_again()
    keys.delete(I3 + "vb")
    assert goes("n0", "va")
    keys.expect(R1 + "r", "PENDING", "peer vb is not configured")
    keys.put(I3 + "vb", veth3("vb", "va", "n1", "10.0.0.2/24"))
    assert comes("n0", "va")
    keys.expect(R1 + "r", "CONFIGURED")
    keys.delete(R1 + "r")
    keys.delete(A1 + "n")
    assert eventually(lambda: "default" not in routes("n0") and "10.0.0.8" not in neighbours("n0"))


def test_a_microservice_that_comes_goes_and_returns(
    docker: Docker, make_keys: Callable[..., Keys], netns: Namespaces
) -> None:
    netns.make("n0")
    keys = make_keys(f'docker = "{docker.socket}"')
    service = {"type": "MICROSERVICE", "reference": "web"}
    keys.put(I3 + "va", veth3("va", "vb", "n0", "10.0.0.1/24"))
    keys.put(I3 + "vb", veth3("vb", "va", "", "10.0.0.2/24", namespace=service))
    keys.put(R3 + "10.9.0.0/16/va", {"outgoing_interface": "va", "dst_network": "10.9.0.0/16", "gw_addr": "10.0.0.2"})
    keys.expect(I3 + "va", "PENDING", "microservice-available")
    docker.run("web", env=["MICROSERVICE_LABEL=web"])
    for how in ("restart?t=0", ""):
        assert comes("n0", "va") and ping("n0", "10.0.0.2")
        keys.expect(R3 + "10.9.0.0/16/va", "CONFIGURED")
        if how:
            docker.post("web", how)
    docker.remove("web")
    assert goes("n0", "va")
    keys.expect(I3 + "vb", "PENDING", "microservice-available")


@pytest.mark.parametrize("layout", ["v1", "v3"])
def test_a_dependent_comes_after_its_host_interface_and_goes_before_it(
    make_keys: Callable[..., Keys], netns: Namespaces, layout: str
) -> None:
    keys = make_keys()
    netns.make("n0")
    key, value = {
        "v1": (VPP1 + "af", {"name": "af", "type": 4, "enabled": True, "afpacket": {"host_if_name": "va"}}),
        "v3": ("config/vpp/v2/interfaces/af",
               {"name": "af", "type": "AF_PACKET", "enabled": True, "afpacket": {"linux_interface": "va"}}),
    }[layout]  # fmt: skip
    keys.put(key, value)
    keys.expect(key, "PENDING", "host-interface-exists")
    consumer = Consumer(keys)  # type: ignore[arg-type]
    for _ in range(2):
        keys.put(I1 + "va", veth1("va", "vb", "", "10.0.0.1/24"))
        keys.put(I1 + "vb", veth1("vb", "va", "n0", "10.0.0.2/24"))
        step = consumer.step()
        index = links("")["va"]["ifindex"]
        assert (step["action"], step["name"], step["ifindex"]) == ("create", "af", index)
        consumer.done()
        keys.expect(key, "CONFIGURED")
        keys.delete(I1 + "vb")
        assert consumer.step()["action"] == "delete"
        assert links("")["va"]["ifindex"] == index  # it waits for us
        consumer.done()
        assert goes("", "va")
        keys.expect(key, "PENDING", "host-interface-exists")


def test_two_namespaces_are_joined_by_fastnl_afpacket(
    make_keys: Callable[..., Keys],
    netns: Namespaces,
    afpacket: Callable[..., Any],  # noqa: F811
) -> None:
    """The usage example of Ligato's plugin on one machine, through a kill of either side."""
    netns.many(2)
    keys = make_keys()
    for n in (0, 1):
        keys.put(VPP1 + f"afp{n}", {"name": f"afp{n}", "type": 4, "enabled": True,
                                    "afpacket": {"host_if_name": f"host{n}"}})  # fmt: skip
    process = afpacket("--pair", "afp0", "afp1", "--endpoint", keys.engine.endpoint)
    for n in (0, 1):
        keys.put(I1 + f"host{n}", veth1(f"host{n}", f"far{n}"))
        keys.put(I1 + f"far{n}", veth1(f"far{n}", f"host{n}", f"n{n}", f"10.0.0.{n + 1}/24"))
    assert ping("n0", "10.0.0.2"), process.log
    keys.start_again()
    assert ping("n0", "10.0.0.2")
    process.kill()
    assert not ping("n0", "10.0.0.2", wait=0.5)
    process.start()
    assert ping("n0", "10.0.0.2")
    assert addresses("n1", "far1") == {"10.0.0.2/24"}
    keys.delete(I1 + "far0")
    assert goes("", "host0")
    keys.expect(VPP1 + "afp0", "PENDING", "host-interface-exists")
    keys.put(I1 + "far0", veth1("far0", "host0", "n0", "10.0.0.1/24"))
    assert ping("n0", "10.0.0.2")
    assert "did not let go in time" not in keys.engine.log
