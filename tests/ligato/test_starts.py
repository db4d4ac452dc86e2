"""What a start finds: keys of the other layout, a state folder that is lost, ten thousand keys."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from typing import Any

from tests.ligato.conftest import Agent, comes, goes, ligato, links, veth1, veth3

from fastnl.testing import PATIENCE, Namespaces, eventually, ping
from fastnl_engine.kv.testing import Etcd
from fastnl_engine.testing import EngineProcess

I1, I3 = "linux/config/v1/interface/", "config/linux/interfaces/v2/interface/"
R1, R3 = "linux/config/v1/route/", "config/linux/l3/v2/route/"


# -- from v1 to v3 -----------------------------------------------------------------------------------


def test_keys_go_from_v1_to_v3_and_nothing_notices(agent: Agent, netns: Namespaces) -> None:
    netns.many(2)
    old: dict[str, Any] = {
        I1 + "va": veth1("va", "vb", "n0", "10.0.0.1/24", mtu=1400),
        I1 + "vb": veth1("vb", "va", "n1", "10.0.0.2/24"),
        R1 + "r": {"name": "r", "interface": "va", "dst_ip_addr": "10.9.0.0/16", "gw_addr": "10.0.0.2"},
    }
    new: dict[str, Any] = {
        I3 + "va": veth3("va", "vb", "n0", "10.0.0.1/24", mtu=1400),
        I3 + "vb": veth3("vb", "va", "n1", "10.0.0.2/24"),
        R3 + "10.9.0.0/16/va": {"outgoing_interface": "va", "dst_network": "10.9.0.0/16", "gw_addr": "10.0.0.2"},
    }
    agent.put_all(old)
    for key in old:
        agent.expect(key, "CONFIGURED")
    before = [links("n0"), links("n1")]
    told = agent.engine.subscribe("connection.")
    for key, value in new.items():  # one at a time, while the old ones are there
        agent.put(key, value)
    for key in new:
        agent.expect(key, *(("FAILED",) if key.startswith(R3) else ("CONFIGURED",)))  # two for one destination
    agent.expect(I1 + "va", "PENDING", "configured-once")
    for key in old:
        agent.delete(key)
    for key in new:
        agent.expect(key, "CONFIGURED")
    assert [links("n0"), links("n1")] == before
    # the next one that anybody hears of is this
    agent.put(I3 + "t", {"name": "t", "type": "TAP_TO_VPP", "namespace": {"type": "NSID", "reference": "n0"}})
    events = [told.next()[0]]
    while not events[-1].startswith("connection.up.ligato/vpp1/t"):
        events.append(told.next()[0])
    # the route is handed over, which is a change in place of its own
    assert set(events[:-1]) <= {"connection.up.ligato/vpp1/va+vb"}
    # and all in one transaction, with nobody there
    agent.engine.kill()
    root = agent.root
    lines = [f"del {json.dumps(root + key)}" for key in new]
    lines += [f"put {json.dumps(root + key)} {json.dumps(json.dumps(value))}" for key, value in old.items()]
    agent.etcd.ctl("txn", input="\n" + "\n".join(lines) + "\n\n\n")
    agent.engine.start().resumed()
    for key in old:
        agent.expect(key, "CONFIGURED")
    for n, was in enumerate(before):
        now = links(f"n{n}")
        assert {name: now[name]["ifindex"] for name in was} == {name: row["ifindex"] for name, row in was.items()}
    assert ping("n0", "10.0.0.2")


# -- the state folder is lost ------------------------------------------------------------------------


def test_what_is_obsolete_is_found_by_its_mark_when_the_state_is_lost(
    agent: Agent, netns: Namespaces, foreign: Callable[..., int]
) -> None:
    """Also in a namespace that the configuration does not name any more."""
    netns.many(4)
    agent.put_all({I1 + "a": veth1("a", "b", "n0", "10.0.0.1/24"), I1 + "b": veth1("b", "a", "n1", "10.0.0.2/24")})
    agent.put_all({I1 + "c": veth1("c", "d", "n2"), I1 + "d": veth1("d", "c", "n3")})
    agent.put(I1 + "t", {"name": "t", "type": 1, "namespace": {"type": 2, "name": "n3"}})
    stranger = foreign("n2", "stranger")
    for name in ("a", "c", "t"):
        agent.expect(I1 + name, "CONFIGURED")
    agent.engine.kill()
    shutil.rmtree(agent.engine.state)
    for name in ("c", "d", "t"):
        agent.delete(I1 + name)
    agent.engine.start()
    assert goes("n2", "c") and goes("n3", "d") and goes("n3", "t")
    agent.expect(I1 + "a", "CONFIGURED")
    assert comes("n0", "a") and ping("n0", "10.0.0.2")
    assert links("n2")["stranger"]["ifindex"] == stranger


# -- ten thousand keys -------------------------------------------------------------------------------

PAIRS = 5000


def test_ten_thousand_keys_at_a_start(
    make_etcd: Callable[..., Etcd],
    make_engine: Callable[..., EngineProcess],
    netns: Namespaces,
    record_property: Callable[[str, object], None],
) -> None:
    """Everything comes in few cycles, and the next start does nothing but read.  Times are told, not judged."""
    netns.many(20)
    agent = Agent(make_engine(ligato((etcd := make_etcd()).urls, status_lease=60)), etcd)
    values: dict[str, Any] = {}
    for n in range(PAIRS):
        a, b = f"a{n}", f"b{n}"
        values[I1 + a] = veth1(a, b, f"n{n % 20}", f"10.{n >> 8}.{n & 255}.1/30")
        values[I3 + b] = veth3(b, a, f"n{(n + 1) % 20}", f"10.{n >> 8}.{n & 255}.2/30")
    keys = list(values)
    for at in range(0, len(keys), 120):  # a transaction has 128 operations at most
        agent.put_all({key: values[key] for key in keys[at : at + 120]})

    def up() -> int:
        return int(client.info()["connections"].get("up", 0))

    began = time.monotonic()
    agent.engine.start()
    client = agent.engine.client()
    assert eventually(lambda: up() == PAIRS, PATIENCE * 5), agent.engine.log
    took = time.monotonic() - began
    info = client.info()
    kernel = next(v["seconds"] for k, v in info["stages"].items() if k == "kernel")
    record_property("seconds at the first start, and of them in the kernel", (took, kernel))
    assert (info["totals"]["connected"], info["totals"]["updated"]) == (PAIRS, 0)
    assert info["totals"]["cycles"] <= PAIRS / 20  # many share one
    assert "configuration read" in agent.engine.log and f"connections={PAIRS}" in agent.engine.log
    assert len(links("n3")) == 2 * PAIRS / 20

    statuses = (agent.root + "linux/status/v1/interface/", agent.root + "config-status/linux/interfaces/v2/interface/")

    def told() -> int:
        asked = [etcd.ctl("get", head, "--prefix", "--limit=1", "--keys-only", "-w", "json") for head in statuses]
        return sum(json.loads(answer).get("count", 0) for answer in asked)

    assert eventually(lambda: told() == 2 * PAIRS, PATIENCE * 5)
    before = {name: row["ifindex"] for name, row in links("n3").items()}
    client.close()
    agent.engine.kill()
    began = time.monotonic()
    agent.engine.start().resumed()
    client = agent.engine.client()
    assert eventually(lambda: "configuration read" in agent.engine.log.rpartition("event=serving")[2])
    record_property("seconds at the second", time.monotonic() - began)
    agent.put(I1 + "t", {"name": "t", "type": 1, "namespace": {"type": 2, "name": "n3"}})
    agent.expect(I1 + "t", "CONFIGURED")  # it came after all of them
    totals = client.info()["totals"]
    assert (totals["connected"], totals["updated"], totals["disconnected"], totals["failed"]) == (1, 0, 0, 0)
    after = {name: row["ifindex"] for name, row in links("n3").items() if name != "t"}
    assert after == before
