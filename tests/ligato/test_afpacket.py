"""The usage example of Ligato's plugin: two places joined through host ends, AF_PACKET interfaces and fastnl-afpacket.

    n1 eth ---- host1  afp1 -- fastnl-afpacket -- afp2  host2 ---- eth in n2, or in a container

Nothing but the process joins host1 and host2, so a ping that comes through tells that all of it is there.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.fixtures.docker import Docker
from tests.kernel.test_afpacket import Afpacket
from tests.ligato.conftest import Agent, comes, goes, links, veth1, veth3

from fastnl.testing import Namespaces, eventually, ping

KEYS = {
    "v1": ("linux/config/v1/interface/", "vpp/config/v1/interface/"),
    "v3": ("config/linux/interfaces/v2/interface/", "config/vpp/v2/interfaces/"),
}
WEB: dict[str, Any] = {
    "v1": {"type": 1, "microservice": "web"},
    "v3": {"type": "MICROSERVICE", "reference": "web"},
}


class Scene:
    """What is configured, and the process that joins it."""

    def __init__(self, agent: Agent, afpacket: Callable[..., Afpacket], layout: str, *, web: bool) -> None:
        self.agent = agent
        self.interface, self.packet = KEYS[layout]
        half = veth1 if layout == "v1" else veth3
        where = ["n1", "" if web else "n2"]
        self.values = {}
        for n, netns in enumerate(where, 1):
            # a hardware address of its own: when it is made again, the other side knows it still
            more: dict[str, Any] = {"phys_address" if layout == "v1" else "physAddress": f"02:00:00:00:00:0{n}"}
            if not netns:
                more["namespace"] = WEB[layout]
            self.values[f"host{n}"] = half(f"host{n}", f"far{n}")
            self.values[f"far{n}"] = half(f"far{n}", f"host{n}", netns, f"10.0.0.{n}/24", **more)
        for n in (1, 2):
            packet = {"name": f"afp{n}", "enabled": True}
            packet |= (
                {"type": 4, "afpacket": {"host_if_name": f"host{n}"}}
                if layout == "v1"
                else {"type": "AF_PACKET", "afpacket": {"hostIfName": f"host{n}"}}
            )
            agent.put(self.packet + f"afp{n}", packet)
            # it is there before what it stands on
            agent.expect(self.packet + f"afp{n}", "PENDING", "host-interface-exists")
        self.consumer = afpacket("--pair", "afp1", "afp2", "--endpoint", agent.engine.endpoint)
        for name in self.values:
            self.put(name)

    def put(self, name: str) -> None:
        self.agent.put(self.interface + name, self.values[name])

    def works(self) -> None:
        joined = ping("n1", "10.0.0.2")
        assert joined, f"{self.consumer.log}\n{self.agent.engine.log}\n{links('')}"
        for n in (1, 2):
            self.agent.expect(self.packet + f"afp{n}", "CONFIGURED")

    def silent(self) -> bool:
        return not ping("n1", "10.0.0.2", wait=0.5)

    # -- what happens to it --------------------------------------------------------------------------

    def configuration(self) -> None:
        """The last word on one half is taken back, and said again."""
        parted = self.consumer.log.count("parted")
        self.agent.delete(self.interface + "far1")
        assert goes("", "host1")
        assert self.consumer.log.count("parted") == parted + 1  # it was let go before it went
        self.agent.expect(self.packet + "afp1", "PENDING", "host-interface-exists")
        self.put("far1")

    def host_interface(self) -> None:
        """Somebody deletes it."""
        before = links("")["host2"]["ifindex"]
        subprocess.run(["ip", "link", "del", "host2"], check=True)
        assert eventually(lambda: links("").get("host2", {}).get("ifindex", before) != before)

    def process(self) -> None:
        self.consumer.kill()
        assert self.silent()
        self.consumer.start()

    def engine(self) -> None:
        self.agent.engine.kill()
        assert ping("n1", "10.0.0.2")  # what is joined stays joined
        self.agent.engine.start()

    def both_and_the_process_first(self) -> None:
        self.consumer.kill()
        self.agent.engine.kill()
        self.consumer.start()
        self.agent.engine.start()

    def both_and_the_engine_first(self) -> None:
        self.agent.engine.kill()
        self.consumer.kill()
        self.agent.engine.start()
        self.consumer.start()

    def configuration_without_engine(self) -> None:
        """What the next engine finds obsolete goes in the same way, and comes back."""
        self.agent.engine.kill()
        self.agent.delete(self.interface + "far2")
        self.agent.engine.start()
        assert goes("", "host2")
        self.put("far2")

    def all_that_happens(self) -> list[Callable[[], None]]:
        return [
            self.configuration,
            self.host_interface,
            self.process,
            self.engine,
            self.both_and_the_process_first,
            self.both_and_the_engine_first,
            self.configuration_without_engine,
        ]

    def suffers(self, happens: list[Callable[[], None]], seed: int) -> None:
        """All of it, in an order of the seed's; a ping comes through after each."""
        random.Random(seed).shuffle(happens)
        self.works()
        for thing in happens:
            thing()
            self.works()
        assert "did not let go in time" not in self.agent.engine.log


@pytest.fixture
def afpacket(nothing_left: None) -> Iterator[Callable[..., Afpacket]]:
    with contextlib.ExitStack() as stack:

        def make(*args: str) -> Afpacket:
            made = Afpacket(*args)
            stack.callback(made.close)
            return made

        yield make


@pytest.mark.parametrize(("layout", "seed"), [("v1", 1), ("v1", 2), ("v3", 1), ("v3", 2)])
def test_two_namespaces_are_joined_whatever_happens_to_either_side(
    agent: Agent,
    netns: Namespaces,
    afpacket: Callable[..., Afpacket],
    layout: str,
    seed: int,
) -> None:
    netns.make("n1")
    netns.make("n2")
    scene = Scene(agent, afpacket, layout, web=False)
    scene.suffers(scene.all_that_happens(), seed)
    scene.agent.delete(scene.packet + "afp1")
    assert eventually(scene.silent)
    assert comes("", "host1")


@pytest.mark.parametrize(("layout", "seed"), [("v1", 3), ("v3", 4)])
def test_a_namespace_and_a_container_are_joined_whatever_happens_to_either_side(
    docker: Docker,
    make_agent: Callable[..., Agent],
    netns: Namespaces,
    afpacket: Callable[..., Afpacket],
    layout: str,
    seed: int,
) -> None:
    netns.make("n1")
    agent = make_agent(f'docker = "{docker.socket}"')
    scene = Scene(agent, afpacket, layout, web=True)
    docker.run("web", env=["MICROSERVICE_LABEL=web"])

    def container() -> None:
        docker.post("web", "restart?t=0")

    def container_that_is_away() -> None:
        docker.post("web", "kill")
        assert goes("", "host2")
        agent.expect(scene.packet + "afp2", "PENDING")
        docker.post("web", "start")

    def container_and_engine() -> None:
        agent.engine.kill()
        docker.post("web", "restart?t=0")
        agent.engine.start()

    def container_and_process() -> None:
        scene.consumer.kill()
        docker.post("web", "restart?t=0")
        scene.consumer.start()

    happens = [container, container_that_is_away, container_and_engine, container_and_process]
    scene.suffers(scene.all_that_happens() + happens, seed)
