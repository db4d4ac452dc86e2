"""What a consumer is told by op `attend`, and what the engine waits for, whoever asks for a change."""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any

import pytest
from tests.ligato.conftest import Agent, comes, goes, links, veth1
from tests.ligato.test_dependents import I1, VALUES, Consumer

from fastnl.testing import Namespaces, eventually
from fastnl_engine.testing import RawSocket, end, pair

KEY, VALUE = VALUES["v1"]  # "af" on "va"
LONG_ENOUGH = 0.5  # seconds after which an interface that is still there counts as waiting


@pytest.fixture
def consumer(agent: Agent, netns: Namespaces) -> Consumer:
    """It has "af" on end a of the connection "c", which a client has made."""
    netns.many(2)
    agent.put(KEY, VALUE)
    agent.expect(KEY, "PENDING")
    connect(agent)
    consumer = Consumer(agent)
    assert consumer.step()["action"] == "create"
    consumer.done()
    return consumer


def wanted(netns: str = "n0", **more: Any) -> dict[str, Any]:
    return pair("c", end("", "va"), end(netns, "vb"), **more)


def connect(agent: Agent, netns: str = "n0", **more: Any) -> None:
    [result] = agent.engine.client().connect([wanted(netns, **more)])
    assert result["ok"], result


def index() -> int:
    return int(links("")["va"]["ifindex"])


def asked(agent: Agent, **request: Any) -> RawSocket:
    """A request that is not waited for; `reply` of what it gives does."""
    raw = agent.engine.raw()
    raw.ask(id=1, **request)
    return raw


def waits(raw: RawSocket) -> bool:
    return not raw.socket.poll(1000 * LONG_ENOUGH)


def told(consumer: Consumer, *actions: str) -> list[dict[str, Any]]:
    """The next steps, each done at once."""
    steps = []
    for action in actions:
        steps.append(consumer.step())
        assert steps[-1]["action"] == action, steps
        consumer.done()
    return steps


def hears_nothing(consumer: Consumer) -> bool:
    return not consumer.raw.socket.poll(1000 * LONG_ENOUGH)


def test_what_a_client_disconnects_goes_when_consumers_have_let_go(agent: Agent, consumer: Consumer) -> None:
    was = index()
    gone = asked(agent, op="disconnect", ids=["c"])
    step = consumer.step()
    assert (step["action"], step["ifindex"], step["reason"]) == ("delete", was, "it is being removed")
    # nobody else waits
    [other] = agent.engine.client().connect([pair("d", end("n0", "x"), end("n1", "x"))])
    assert other["ok"]
    assert waits(gone) and index() == was
    consumer.done()
    assert gone.reply()["results"] == [{"id": "c", "ok": True, "changed": True}]
    assert "va" not in links("")
    connect(agent)
    [step] = told(consumer, "create")
    assert step["ifindex"] == index() != was


def test_what_a_client_changes_waits_only_if_it_is_made_anew(agent: Agent, consumer: Consumer) -> None:
    was = index()
    connect(agent, mtu=1400)
    client = agent.engine.client()
    assert client.move([{"id": "c", "end": "b", "netns": "n1"}])[0]["ok"]
    assert hears_nothing(consumer) and index() == was
    for change in (
        {"op": "connect", "connections": [wanted("n0", mtu=1400)]},
        {"op": "move", "moves": [{"id": "c", "end": "b", "netns": "n1", "mode": "recreate"}]},
    ):
        was = index()
        changed = asked(agent, **change)
        assert consumer.step()["action"] == "delete"
        assert waits(changed) and index() == was
        consumer.done()
        assert changed.reply()["results"][0]["ok"]
        [step] = told(consumer, "create")
        assert step["ifindex"] == index() != was
    taken = asked(agent, op="move", moves=[{"id": "c", "end": "a", "netns": "n0"}])
    assert consumer.step()["action"] == "delete"
    assert waits(taken) and "va" in links("")
    consumer.done()
    assert taken.reply()["results"][0]["ok"]
    assert "va" not in links("") and hears_nothing(consumer)


def test_an_interface_whose_change_fails_may_be_had_again(agent: Agent, consumer: Consumer) -> None:
    was = index()
    refused = asked(agent, op="connect", connections=[wanted("no-such-namespace")])
    told(consumer, "delete", "create")
    assert refused.reply()["results"][0]["error"]["code"] == "netns_not_found"
    assert index() == was


def test_jobs_of_a_connection_that_waits_keep_their_order(agent: Agent, consumer: Consumer) -> None:
    gone = asked(agent, op="disconnect", ids=["c"])
    assert consumer.step()["action"] == "delete"
    back = asked(agent, op="connect", connections=[wanted("n1")])
    assert waits(back)
    consumer.done()
    assert gone.reply()["results"][0]["changed"]
    assert back.reply()["results"][0]["state"] == "up"
    told(consumer, "create")
    assert "vb" in links("n1")


def test_a_consumer_that_leaves_is_not_waited_for(agent: Agent, consumer: Consumer) -> None:
    gone = asked(agent, op="disconnect", ids=["c"])
    assert consumer.step()["action"] == "delete"
    assert waits(gone)
    consumer.ask(leave=True)
    assert consumer.raw.reply()["results"] == []
    assert gone.reply()["results"][0]["changed"]
    assert "did not let go" not in agent.engine.log


def test_one_that_does_not_let_go_is_waited_for_once_for_each_interface_and_named(
    agent: Agent, consumer: Consumer
) -> None:
    began = time.monotonic()
    gone = asked(agent, op="disconnect", ids=["c"])
    assert consumer.step()["action"] == "delete"
    assert gone.reply()["results"][0]["changed"]
    assert time.monotonic() - began >= 4.9
    said = agent.engine.log
    assert said.count("did not let go in time") == 1 and "consumer=test" in said and "ifname=va" in said
    # it has nothing on the next one of that name, so nobody waits for it
    connect(agent)
    assert agent.engine.client().disconnect(["c"])[0]["changed"]
    assert agent.engine.log.count("did not let go in time") == 1


def test_one_whose_configuration_goes_with_its_host_interface_is_waited_for(agent: Agent, netns: Namespaces) -> None:
    netns.many(1)
    agent.put_all({KEY: VALUE, I1 + "va": veth1("va", "vb"), I1 + "vb": veth1("vb", "va", "n0")})
    consumer = Consumer(agent)
    told(consumer, "create")
    for together in (True, False):
        was = index()
        if together:
            keys = [KEY, I1 + "va", I1 + "vb"]
            lines = "\n".join(f"del {json.dumps(agent.root + key)}" for key in keys)
            agent.etcd.ctl("txn", input=f"\n{lines}\n\n\n")
        else:
            agent.delete(KEY)
            agent.put(I1 + "va", veth1("va", "vb", mtu=1400))
            assert eventually(lambda: links("")["va"]["mtu"] == 1400)
            agent.delete(I1 + "va")
        assert consumer.step()["action"] == "delete"
        time.sleep(LONG_ENOUGH)
        assert index() == was
        consumer.done()
        assert goes("", "va")
        agent.put_all({KEY: VALUE, I1 + "va": veth1("va", "vb"), I1 + "vb": veth1("vb", "va", "n0")})
        told(consumer, "create")
    assert "did not let go" not in agent.engine.log


def test_what_is_mended_is_released_before_if_it_is_there(agent: Agent, consumer: Consumer) -> None:
    was = index()
    subprocess.run(["ip", "link", "del", "va"], check=True)
    steps = told(consumer, "delete", "create")
    assert (steps[0]["ifindex"], steps[1]["ifindex"]) == (was, index()) and index() != was
    was = index()
    subprocess.run(["ip", "-n", "n0", "link", "set", "vb", "netns", "n1"], check=True)
    assert consumer.step()["action"] == "delete"
    time.sleep(LONG_ENOUGH)
    assert index() == was
    consumer.done()
    assert comes("n0", "vb")
    [step] = told(consumer, "create")
    assert step["ifindex"] == index() != was


def test_a_stop_ends_what_waits_and_leaves_the_interface(agent: Agent, consumer: Consumer) -> None:
    was = index()
    gone = asked(agent, op="disconnect", ids=["c"])
    later = asked(agent, op="connect", connections=[wanted("n1")])
    assert consumer.step()["action"] == "delete"
    consumer.ask(done=[])
    assert waits(gone)
    assert agent.engine.stop() == 0
    for raw in (gone, later):
        assert raw.reply()["results"][0]["error"]["code"] == "shutting_down"
    assert consumer.raw.reply()["error"]["code"] == "shutting_down"
    assert index() == was
    agent.engine.start()
    consumer.ask()
    assert consumer.raw.reply()["results"][0]["ifindex"] == was
    assert agent.engine.client().disconnect(["c"])


def test_a_new_session_hears_everything_and_an_open_poll_gives_way(agent: Agent, consumer: Consumer) -> None:
    consumer.ask()
    assert consumer.raw.reply()["results"] == []  # of the poll that was open
    reply = consumer.raw.reply()
    assert reply["anew"] and [step["action"] for step in reply["results"]] == ["create"]
    second = Consumer(agent, name="second")
    assert second.step()["name"] == "af"
    second.done()
    gone = asked(agent, op="disconnect", ids=["c"])
    second.step()
    second.done()
    assert waits(gone)  # for the other one
    consumer.ask(done=[step["n"] for step in reply["results"]])
    told(consumer, "delete")
    assert gone.reply()["ok"]


def test_others_do_not_wait_for_a_consumer(agent: Agent, netns: Namespaces) -> None:
    """Though they came in the same change."""
    netns.many(2)
    agent.put_all({KEY: VALUE, I1 + "va": veth1("va", "vb"), I1 + "vb": veth1("vb", "va", "n0")})
    consumer = Consumer(agent)
    for turn, where in enumerate(("n1", "n0", "n1")):  # once has to be soon enough, on a slow machine too
        told(consumer, "create")
        x, y = f"x{turn}", f"y{turn}"
        agent.put_all(
            {
                I1 + "vb": veth1("vb", "va", where),
                I1 + x: veth1(x, y, "n0"),
                I1 + y: veth1(y, x, "n1"),
            }
        )
        assert consumer.step()["action"] == "delete"
        agent.expect(I1 + x, "CONFIGURED")
        waited = "vb" not in links(where)
        consumer.done()
        assert comes(where, "vb")
        if waited:
            return
    pytest.fail("the others came after it")
