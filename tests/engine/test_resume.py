"""Jobs are served while a start still looks at what the last run left."""

from __future__ import annotations

import subprocess

import pytest

from fastnl.testing import eventually, ip_json
from fastnl_engine.testing import end, pair


def ip(netns, *args):
    subprocess.run(["ip", "-n", netns, *args], check=True)


MANY = 300  # namespaces: more than two steps of a start


@pytest.fixture
def leaves(netns):
    return [netns.make(f"leaf{n}") for n in range(MANY)]


def job(n):
    return pair(f"c{n}", end("hub", f"h{n}", f"10.1.{n // 200}.{n % 200 + 1}/32"), end(f"leaf{n}", "eth0"))


def interfaces(netns):
    return {r["ifname"]: (r["ifindex"], r.get("ifalias")) for r in ip_json(netns, "link") if r["ifname"] != "lo"}


@pytest.fixture
def wired(engine, netns, leaves):
    netns.make("hub")
    results = engine.client().connect([job(n) for n in range(MANY - 20)])
    assert all(r["ok"] for r in results)
    return {leaf: interfaces(leaf) for leaf in leaves} | {"hub": interfaces("hub")}


def test_jobs_that_come_at_once_find_everything_as_it_is_to_be(engine, wired):
    """Of known and of new connections, while there are leftovers and differences that nobody has looked at yet."""
    engine.kill()
    # a leftover in the way of a new connection, far back in the order in which namespaces are looked at
    ip("leaf290", "link", "add", "eth0", "type", "veth", "peer", "name", "left", "netns", "leaf291")
    ip("leaf290", "link", "set", "eth0", "alias", "fastnl/test/lost/a")
    ip("leaf291", "link", "set", "left", "alias", "fastnl/test/lost/b")
    ip("leaf270", "link", "set", "eth0", "down")
    ip("leaf271", "link", "del", "eth0")
    engine.launch()
    raw = engine.raw()
    raw.ask(id=1, op="connect", connections=[job(290), job(275)])
    raw.ask(id=2, op="disconnect", ids=["c277", "c271"])
    raw.ask(id=3, op="move", moves=[{"id": "c278", "end": "b", "netns": "leaf295"}])
    raw.ask(id=4, op="connect", connections=[job(277)])
    replies = {r["id"]: r for r in (raw.reply() for _ in range(4))}
    assert [r["changed"] for r in replies[1]["results"]] == [True, False], replies[1]
    assert [r["changed"] for r in replies[2]["results"]] == [True, True] and replies[3]["ok"], (replies[2], replies[3])
    assert replies[4]["results"][0]["changed"]
    engine.resumed()
    client = engine.client()
    assert eventually(lambda: all(v["ok"] for v in client.verify()))
    assert {r["state"] for r in client.list()} == {"up"}
    assert "left" not in interfaces("leaf291")
    assert "c271" not in {r["id"] for r in client.list()}
    # what nobody touched is what it was
    for n in range(MANY - 30):
        assert interfaces(f"leaf{n}") == wired[f"leaf{n}"]
    assert interfaces("leaf270") == wired["leaf270"]  # mended, not made again
    hub = interfaces("hub")
    assert {n: hub[f"h{n}"] for n in range(270)} == {n: wired["hub"][f"h{n}"] for n in range(270)}
    assert len(hub) == MANY - 20  # c290 came, c271 went


def test_a_start_that_is_killed_is_taken_up_by_the_next(engine, wired):
    engine.kill()
    for n in range(0, 200, 10):
        ip(f"leaf{n}", "link", "del", "eth0")
    for _ in range(5):
        engine.start()
        engine.kill()
    engine.start().resumed()
    client = engine.client()
    assert eventually(lambda: all(v["ok"] for v in client.verify()) and len(list(client.verify())) == MANY - 20)
    for n in range(1, 200, 10):
        assert interfaces(f"leaf{n}") == wired[f"leaf{n}"]


def test_a_stop_during_the_start_is_obeyed(engine, wired):
    engine.kill()
    engine.start()
    assert engine.stop() == 0
    engine.start().resumed()
    assert "adopted=280 mended=0 made_again=0 orphans_removed=0" in engine.log.splitlines()[-1]
