"""AF_PACKET interfaces: after their host interface, and gone before it goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from tests.ligato.conftest import Agent, goes, links, veth1

from fastnl.testing import Namespaces, eventually

I1 = "linux/config/v1/interface/"
VALUES = {
    "v1": (
        "vpp/config/v1/interface/af",
        {"name": "af", "type": 4, "enabled": True, "afpacket": {"host_if_name": "va"}},
    ),
    "v3": (
        "config/vpp/v2/interfaces/af",
        {"name": "af", "type": "AF_PACKET", "enabled": True, "afpacket": {"hostIfName": "va"}},
    ),
}


class Consumer:
    """Attends an engine by the book."""

    def __init__(self, agent: Agent, name: str = "test") -> None:
        self.name = name
        self.raw = agent.engine.raw()
        self._numbers: list[int] = []
        self._id = 0
        self.ask()

    def ask(self, **fields: Any) -> None:
        self._id += 1
        self.raw.ask(id=self._id, op="attend", consumer=self.name, wait=30, **fields)

    def step(self) -> dict[str, Any]:
        """The next step; it is not done until `done`."""
        while True:
            reply = self.raw.reply()
            assert reply["ok"], reply
            if reply["results"]:
                (step,) = reply["results"]
                self._numbers = [step["n"]]
                return step
            self.ask(done=[])

    def done(self) -> None:
        self.ask(done=self._numbers)


@pytest.mark.parametrize("layout", VALUES)
def test_a_dependent_comes_after_its_host_interface_and_goes_before_it(
    agent: Agent, netns: Namespaces, layout: str
) -> None:
    netns.make("n1")
    key, value = VALUES[layout]
    agent.put(key, value)
    agent.expect(key, "PENDING", "host-interface-exists")
    consumer = Consumer(agent)
    agent.put(I1 + "va", veth1("va", "vb"))
    agent.put(I1 + "vb", veth1("vb", "va", "n1", mtu=1400))
    step = consumer.step()
    row = links("")["va"]
    assert (step["action"], step["name"], step["ifindex"], step["mac"]) == (
        "create",
        "af",
        row["ifindex"],
        row["address"],
    )
    consumer.done()
    agent.expect(key, "CONFIGURED")

    agent.delete(I1 + "vb")
    step = consumer.step()
    assert (step["action"], step["name"]) == ("delete", "af")
    time.sleep(0.5)
    assert links("")["va"]["ifindex"] == row["ifindex"]  # it waits for us
    consumer.done()
    assert goes("", "va")
    agent.expect(key, "PENDING", "host-interface-exists")

    agent.put(I1 + "vb", veth1("vb", "va", "n1"))
    step = consumer.step()
    assert (step["action"], step["ifindex"]) == ("create", links("")["va"]["ifindex"])
    consumer.done()
    agent.delete(key)
    assert consumer.step()["action"] == "delete"
    consumer.done()


def test_a_host_interface_that_is_made_anew_is_released_before_and_one_that_changes_is_not(
    agent: Agent, netns: Namespaces
) -> None:
    netns.many(3)
    key, value = VALUES["v1"]
    agent.put(key, value)
    agent.put(I1 + "va", veth1("va", "vb"))
    agent.put(I1 + "vb", veth1("vb", "va", "n1"))
    consumer = Consumer(agent)
    first = consumer.step()
    consumer.done()
    agent.put(I1 + "va", veth1("va", "vb", mtu=1400))
    assert eventually(lambda: links("")["va"]["mtu"] == 1400)
    agent.put(I1 + "vb", veth1("vb", "va", "n2"))
    step = consumer.step()
    assert step["action"] == "delete" and links("")["va"]["ifindex"] == first["ifindex"]
    agent.put(I1 + "vb", veth1("vb", "va", "n0"))  # what is wanted last is what is there in the end
    consumer.done()
    while (step := consumer.step())["action"] == "delete" or not links("n0"):
        consumer.done()
    assert step["ifindex"] == links("")["va"]["ifindex"] != first["ifindex"]
    assert not links("n2")
    consumer.done()


def test_a_consumer_that_does_not_answer_is_waited_for_no_longer_than_five_seconds(
    make_agent: Callable[..., Agent], netns: Namespaces
) -> None:
    agent = make_agent()
    netns.make("n1")
    key, value = VALUES["v1"]
    agent.put(key, value)
    agent.put(I1 + "va", veth1("va", "vb"))
    agent.put(I1 + "vb", veth1("vb", "va", "n1"))
    consumer = Consumer(agent)
    consumer.step()
    consumer.done()
    agent.delete(I1 + "va")
    assert consumer.step()["action"] == "delete"
    assert goes("", "va")
    assert "did not let go in time" in agent.engine.log
