"""list, verify, stats and info."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess

import pytest

import fastnl
from fastnl.testing import ip_json, ping
from fastnl_engine.client import EngineError
from fastnl_engine.testing import EngineProcess, end, pair, tunnel

ENGINE_ENV = {"FASTNL_AUDIT": "0"}  # or what a test breaks would be mended before it is looked at

VNIS = itertools.count(1)  # the kernel takes its time to end a namespace, and the tunnel of a VXLAN in it


@pytest.fixture
def engine(shared_engine: EngineProcess) -> EngineProcess:
    return shared_engine


def ip(netns: str, *args: str) -> None:
    """Breaks something behind the engine's back."""
    subprocess.run(["ip", "-n", netns, *args], check=True, capture_output=True)


# -- list ------------------------------------------------------------------------------------------


@pytest.fixture
def some(client, netns, blue, red):
    """Five that are up and one that waits."""
    jobs = [
        pair("a1", end(blue, "e1", "10.0.1.1/24", mtu=1400), end(red, "e1"), labels={"app": "web", "tier": "1"}),
        pair("a2", end(blue, "e2"), end(netns.make("green"), "e2"), labels={"app": "web", "tier": "2"}),
        pair("b1", end("green", "e3"), end(f"name:{red}", "e3")),
        pair("b2", end("", "e4"), end(red, "e4")),
        tunnel("t1", end(blue, "vx0"), vni=next(VNIS), remote="192.0.2.9"),
        pair("w1", end(blue, "e5"), end("later", "e5"), labels={"app": "db"}),
    ]
    results = client.connect(jobs, wait=True)
    assert all(r["ok"] for r in results), results
    return {job["id"]: (job, result) for job, result in zip(jobs, results, strict=True)}


def test_list_gives_each_connection_as_it_was_submitted_with_how_it_stands(client, some):
    rows = {row["id"]: row for row in client.list()}
    assert list(rows) == sorted(some)
    for id_, (job, result) in some.items():
        row = rows[id_]
        assert row.pop("ok") is True
        assert row.pop("state") == result["state"]
        assert isinstance(row.pop("since"), float)
        assert row.pop("reason", None) == result.get("reason")
        for name in ("a", "b"):
            if name in row:
                assert row[name].pop("ifindex", None) == result.get(name, {}).get("ifindex")
        assert row == job


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ({}, ["a1", "a2", "b1", "b2", "t1", "w1"]),
        ({"ids": ["t1", "a1", "nobody", "a1"]}, ["a1", "t1"]),
        ({"ids": []}, []),
        ({"netns": "blue"}, ["a1", "a2", "t1", "w1"]),
        ({"netns": "name:red"}, ["a1", "b1", "b2"]),
        ({"netns": ""}, ["b2"]),
        ({"netns": "later"}, ["w1"]),
        ({"netns": "nowhere"}, []),
        ({"netns": "no/where"}, []),
        ({"state": "up"}, ["a1", "a2", "b1", "b2", "t1"]),
        ({"state": "pending"}, ["w1"]),
        ({"state": "failed"}, []),
        ({"labels": {"app": "web"}}, ["a1", "a2"]),
        ({"labels": {"app": "web", "tier": "2"}}, ["a2"]),
        ({"labels": {"app": ""}}, []),
        ({"labels": {}}, ["a1", "a2", "b1", "b2", "t1", "w1"]),
        ({"netns": "blue", "state": "up", "labels": {"tier": "1"}, "ids": ["a1", "a2"]}, ["a1"]),
    ],
)
def test_list_takes_filters_that_all_have_to_fit(client, some, filters, ids):
    assert [row["id"] for row in client.list(**filters)] == ids


@pytest.mark.parametrize("limit", [1, 2, 5, 6, 7])
def test_list_comes_in_pages_that_together_are_everything_once(client, some, limit):
    seen: list[str] = []
    after = None
    while True:
        reply = client.request("list", limit=limit, after=after)
        page = [row["id"] for row in reply["results"]]
        assert len(page) <= limit
        seen += page
        after = reply["after"]
        if after is None:
            break
        assert after == page[-1]
    assert seen == sorted(some)


def test_list_pages_what_is_left_by_the_filters(client, some):
    first = client.request("list", netns="blue", limit=2)
    assert ([r["id"] for r in first["results"]], first["after"]) == (["a1", "a2"], "a2")
    rest = client.request("list", netns="blue", limit=2, after="a2")
    assert ([r["id"] for r in rest["results"]], rest["after"]) == (["t1", "w1"], None)


def test_list_goes_on_after_an_id_that_is_gone_meanwhile(client, some):
    client.disconnect(["a2"])
    assert [r["id"] for r in client.list(after="a2")] == ["b1", "b2", "t1", "w1"]


# -- verify ----------------------------------------------------------------------------------------


def test_verify_finds_nothing_where_nothing_is_wrong(client, some):
    verdicts = {v["id"]: v for v in client.verify()}
    assert sorted(verdicts) == sorted(some)
    waiting = verdicts.pop("w1")
    assert all(v == {"id": id_, "ok": True, "differences": []} for id_, v in verdicts.items())
    assert waiting == {
        "id": "w1", "ok": False, "differences": [{"field": "state", "want": "up", "have": "pending"}],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("command", "field"),
    [
        (["addr", "del", "10.0.1.1/24", "dev", "e1"], "a.addresses[0]"),
        (["addr", "add", "10.0.1.77/24", "dev", "e1"], "a.addresses"),
        (["link", "set", "e1", "mtu", "1300"], "a.mtu"),
        (["link", "set", "e1", "name", "e7"], "a.ifname"),
        (["link", "set", "e1", "down"], "a.up"),
    ],
)
def test_verify_names_what_was_changed_behind_our_back(client, some, blue, command, field):
    ip(blue, *command)
    [verdict] = client.verify(["a1"])
    assert verdict["ok"] is False
    assert field in [d["field"] for d in verdict["differences"]], verdict
    assert all(set(d) == {"field", "want", "have"} for d in verdict["differences"])
    # and the others are as they were
    assert all(v["ok"] for v in client.verify(["a2", "b1", "b2", "t1"]))


def test_verify_says_what_it_wants_and_what_there_is(client, some, blue):
    ip(blue, "link", "set", "e1", "mtu", "1300")
    [verdict] = client.verify(["a1"])
    assert {"field": "a.mtu", "want": 1400, "have": 1300} in verdict["differences"]


def test_verify_tells_that_interfaces_are_gone(client, some, blue):
    ip(blue, "link", "del", "e1")
    [verdict] = client.verify(["a1"])
    assert not verdict["ok"]
    assert {d["field"].partition(".")[0] for d in verdict["differences"]} == {"a", "b"}


def test_verify_tells_that_an_interface_carries_another_mark(client, some, blue):
    ip(blue, "link", "set", "e1", "alias", "somebody's")
    [verdict] = client.verify(["a1"])
    assert "a.alias" in [d["field"] for d in verdict["differences"]]


# -- stats -----------------------------------------------------------------------------------------


def test_stats_count_what_went_through(client, blue, red):
    client.connect([pair("c1", end(blue, "e0", "10.0.0.1/24"), end(red, "e0", "10.0.0.2/24"))])
    assert ping(blue, "10.0.0.2", count=3)
    [row] = client.stats(["c1"])
    assert (row["id"], row["ok"], row["state"]) == ("c1", True, "up")
    for name, netns in (("a", blue), ("b", red)):
        got = row[name]
        assert (got["ifname"], got["up"]) == ("e0", True)
        [seen] = ip_json(netns, "-s", "link", "show", "e0")
        for way in ("rx", "tx"):
            assert got[f"{way}_packets"] == seen["stats64"][way]["packets"] >= 3
            assert got[f"{way}_bytes"] == seen["stats64"][way]["bytes"] > 0


def test_stats_of_everything_leave_nothing_out(client, some):
    rows = {row["id"]: row for row in client.stats()}
    assert sorted(rows) == sorted(some)
    assert "a" not in rows["w1"] and rows["w1"]["state"] == "pending"
    assert "b" not in rows["t1"] and rows["t1"]["a"]["ifname"] == "vx0"


def test_stats_tell_that_an_interface_is_gone(client, some, blue):
    ip(blue, "link", "del", "e1")
    [row] = client.stats(["a1"])
    assert (row["ok"], row["error"]["code"], row["error"]["field"]) == (False, "kernel", "b")


@pytest.mark.parametrize("op", ["verify", "stats"])
def test_an_unknown_id_fails_alone(client, some, op):
    rows = getattr(client, op)(["a1", "nobody", "a2"])
    assert [r["ok"] for r in rows] == [True, False, True]
    assert (rows[1]["error"]["code"], rows[1]["error"]["field"]) == ("unknown_id", "id")


# -- info ------------------------------------------------------------------------------------------


def test_info_says_who_serves_and_what_it_can_and_has_done(make_engine, blue, red):
    client = make_engine(instance="other").start().client()
    client.connect([pair(f"c{n}", end(blue, f"e{n}"), end(red, f"e{n}")) for n in range(5)])
    client.connect([pair("w1", end(blue, "w1"), end("later", "w1"))], wait=True)
    info = client.info()
    assert (info["version"], info["protocol"], info["instance"]) == (fastnl.__version__, 1, "other")
    assert info["features"]["veth"] is True
    assert info["limits"] == {"frame_bytes": 16 << 20, "items": 10_000, "queue": 10_000}
    assert info["connections"] == {"up": 5, "pending": 1}
    assert info["totals"]["connected"] == 5
    assert info["load"] == 0
    client.disconnect(["c1", "w1"])
    assert client.info()["totals"]["disconnected"] == 1
    assert client.info()["uptime"] >= info["uptime"] >= 0


def test_a_query_with_a_bad_field_is_refused_as_a_whole(client):
    with pytest.raises(EngineError) as caught:
        list(client.list(state="sideways"))
    assert (caught.value.code, caught.value.error["field"]) == ("bad_request", "state")


def test_queries_are_answered_while_the_kernel_is_busy(client, netns):
    hub = netns.make("hub")
    jobs = [pair(f"c{n}", end(hub, f"e{n}"), end("", f"x{n}")) for n in range(600)]
    busy = client.send("connect", connections=jobs)
    asked = [client.send("info"), client.send("list", limit=1), client.send("verify", ids=[])]
    replies = {r["id"]: r for r in (client.receive() for _ in range(4))}
    assert set(replies) == {busy, *asked}
    assert all(r["ok"] for r in replies.values())
    client.disconnect([j["id"] for j in jobs])


def test_no_query_leaves_a_namespace_open(client, engine, some):
    # an open descriptor would keep it alive when its owner lets it go
    assert all(r["ok"] for r in client.verify(["a1", "a2", "b1", "b2", "t1"]))
    assert all(r["ok"] for r in client.stats())
    held = []
    for fd in os.listdir(f"/proc/{engine.pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            held.append(os.readlink(f"/proc/{engine.pid}/fd/{fd}"))
    assert not [link for link in held if link.startswith("net:")]
