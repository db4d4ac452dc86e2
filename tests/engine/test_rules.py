"""Policy rules and kernel settings of an end, through the engine: asked for, listed, audited, resumed and flushed."""

from __future__ import annotations

import contextlib
import errno
import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from fastnl.testing import eventually, ip_json, nsenter, ping
from fastnl_engine.model import Connection, encode
from fastnl_engine.testing import end, pair

PLAIN = {"table": 100, "from": "10.1.0.0/16", "priority": 500}
FULL = {"table": 70000, "to": "fd00::/64", "iif": "lo", "fwmark": 16, "ipproto": 17, "sport": 53, "dport": [1, 9]}
MORE = {"rules": [PLAIN, FULL], "route_localnet": True, "ping_group_range": [0, 2147483647]}
JOB = pair("c1", end("blue", "e0", "10.0.0.1/24", **MORE), end("red", "e0", "10.0.0.2/24", rules=[PLAIN]))

pytestmark = pytest.mark.usefixtures("blue", "red")


def ip(netns, command):
    subprocess.run(["ip", "-n", netns, *command.split()], check=True)


def inside(netns, path):
    done = subprocess.run(nsenter(netns, "cat", f"/proc/sys/net/{path}"), check=True, capture_output=True, text=True)
    return done.stdout.split()


def write(netns, path, value):
    subprocess.run(nsenter(netns, "sh", "-c", f"echo {value} > /proc/sys/net/{path}"), check=True)


def rules(netns):
    """The priorities of what somebody added."""
    rows = [row for family in "46" for row in ip_json(netns, f"-{family}", "rule", "show")]
    return sorted(row["priority"] for row in rows if row["priority"] not in (0, 32766, 32767))


def settings(netns="blue", ifname="e0"):
    return inside(netns, f"ipv4/conf/{ifname}/route_localnet"), inside(netns, "ipv4/ping_group_range")


ALL_SET = (["1"], ["0", "2147483647"])


@pytest.fixture
def engine(make_engine):
    """Beside the shared one, so of another name."""
    return make_engine(instance="own").start()


def interrupted(engine, *jobs):
    """Leaves the state as a kill in the middle of these does; `engine` has been killed."""
    with contextlib.closing(sqlite3.connect(engine.state / "state.db")) as db, db:
        for job in jobs:
            spec = encode(msgspec.convert(job, Connection))
            row = (job["id"], spec, msgspec.msgpack.encode([5, 6]))
            db.execute("INSERT INTO intent VALUES (?, 'create', ?, ?)", row)


def test_an_end_gets_what_it_asks_for_and_loses_it_again(shared_engine):
    client = shared_engine.client()
    [result] = client.connect([JOB])
    assert result["ok"] and result["changed"], result
    assert (rules("blue"), rules("red"), settings()) == ([500, 32765], [500], ALL_SET)
    assert client.verify(["c1"])[0] == {"id": "c1", "ok": True, "differences": []}
    assert not client.connect([JOB])[0]["changed"]
    [row] = client.list(ids=["c1"])
    assert {key: value for key, value in row["a"].items() if key in JOB["a"]} == JOB["a"]
    assert client.disconnect(["c1"])[0]["changed"]
    assert (rules("blue"), rules("red")) == ([], [])
    # that of the namespace stays
    assert inside("blue", "ipv4/ping_group_range") == ["0", "2147483647"]


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"rules": [{}]}, "a.rules[0]"),
        ({"rules": [PLAIN, {"table": 0}]}, "a.rules[1].table"),
        ({"rules": [PLAIN, PLAIN]}, "a.rules[1]"),
        ({"rules": [{"table": 5, "from": "10.0.0.0/33"}]}, "a.rules[0].from"),
        ({"rules": [{"table": 5, "from": "10.0.0.0/8", "to": "fd00::/8"}]}, "a.rules[0].to"),
        ({"rules": [{"table": 5, "from": "10.0.0.0/8", "family": 6}]}, "a.rules[0].family"),
        ({"rules": [{"table": 5, "family": 5}]}, "a.rules[0].family"),
        ({"rules": [{"table": 5, "sport": 65535}]}, "a.rules[0].sport"),
        ({"rules": [{"table": 5, "dport": [2, 1]}]}, "a.rules[0].dport"),
        ({"rules": [{"table": 5, "dport": [1, 2, 3]}]}, "a.rules[0].dport"),
        ({"rules": [{"table": 5, "ipproto": 256}]}, "a.rules[0].ipproto"),
        ({"rules": [{"table": 5, "priority": 0}]}, "a.rules[0].priority"),
        ({"rules": [{"table": 5, "iif": "a/b"}]}, "a.rules[0].iif"),
        ({"rules": [{"table": 5, "source": "10.0.0.0/8"}]}, "a.rules[0]"),
        ({"rules": [{"table": n + 1} for n in range(4097)]}, "a.rules"),
        ({"route_localnet": 1}, "a.route_localnet"),
        ({"ping_group_range": [0]}, "a.ping_group_range"),
        ({"ping_group_range": [2, 1]}, "a.ping_group_range[1]"),
        ({"ping_group_range": [0, 1 << 31]}, "a.ping_group_range[1]"),
    ],
)
def test_a_bad_value_is_named(shared_engine, more, field):
    [result] = shared_engine.client().connect([pair("bad", end("blue", "e0", **more), end("red", "e0"))])
    assert (result["error"]["code"], result["error"]["field"]) == ("invalid", field), result
    assert rules("blue") == []


def test_a_rule_that_is_there_is_a_conflict_that_names_it(shared_engine):
    ip("blue", "rule add from 10.1.0.0/16 lookup 100 priority 500")
    client = shared_engine.client()
    good = pair("good", end("blue", "g0"), end("red", "g0"))
    bad, fine = client.connect([JOB, good])
    assert fine["ok"] and not bad["ok"]
    error = bad["error"]
    assert (error["code"], error["field"], error["phase"], error["errno"]) == (
        "conflict", "a.rules[0]", "rule", errno.EEXIST
    )  # fmt: skip
    assert "500: from 10.1.0.0/16 lookup 100" in error["message"]
    assert (rules("blue"), rules("red")) == ([500], [])
    assert [row["id"] for row in client.list()] == ["good"]
    ip("blue", "rule del priority 500")
    assert client.connect([JOB])[0]["ok"]


def test_a_change_and_a_move(shared_engine, netns):
    netns.make("green")
    client = shared_engine.client()
    first = client.connect([JOB])[0]
    changed = pair("c1", end("blue", "e0", "10.0.0.1/24", rules=[FULL, {"table": 9, "priority": 9}]), JOB["b"])
    [result] = client.connect([changed])
    assert result["ok"] and result["changed"] and result["a"] == first["a"]
    assert (rules("blue"), settings()[0]) == ([9, 32765], ["0"])
    assert client.move([{"id": "c1", "end": "a", "netns": "green"}])[0]["ok"]
    assert (rules("blue"), rules("green"), rules("red")) == ([], [9, 32765], [500])
    assert client.verify(["c1"])[0]["ok"]


@pytest.mark.parametrize(
    ("damage", "field"),
    [
        (lambda: ip("blue", "rule del priority 500"), "a.rules[0]"),
        (lambda: ip("blue", "-6 rule flush"), "a.rules[1]"),
        (lambda: write("blue", "ipv4/conf/e0/route_localnet", 0), "a.route_localnet"),
        (lambda: write("blue", "ipv4/ping_group_range", "'5 6'"), "a.ping_group_range"),
    ],
    ids=["rule", "ipv6 rules", "route_localnet", "ping_group_range"],
)
def test_what_somebody_took_away_comes_back(shared_engine, damage, field):
    client = shared_engine.client()
    [result] = client.connect([JOB])
    ip("blue", "rule add from 10.66.0.0/16 lookup 66 priority 66")
    events = shared_engine.subscribe("connection.mended.")
    damage()
    if field == "a.rules[1]":  # flush takes that of the kernel along, which is not ours to bring back
        ip("blue", "-6 rule add lookup main priority 32766")
    topic, event = events.next()
    assert topic == "connection.mended.c1" and event["reason"].startswith("a: interface 'e0': "), event
    assert eventually(lambda: (rules("blue"), settings()) == ([66, 500, 32765], ALL_SET))
    assert client.verify(["c1"])[0]["ok"]
    [row] = client.list(ids=["c1"])
    assert row["a"]["ifindex"] == result["a"]["ifindex"]
    client.disconnect(["c1"])
    assert rules("blue") == [66]


def test_rules_of_the_other_end_go_with_a_namespace_and_come_back_with_it(shared_engine, netns):
    client = shared_engine.client()
    assert client.connect([JOB])[0]["ok"]
    netns.let_go("blue")
    assert eventually(lambda: rules("red") == [])
    netns.make("blue")
    assert eventually(lambda: (rules("red"), rules("blue")) == ([500], [500, 32765]))
    assert eventually(lambda: client.verify(["c1"])[0]["ok"])


def test_a_start_takes_over_what_is_there_and_it_goes_with_its_connection(engine):
    assert engine.client().connect([JOB])[0]["ok"]
    before = ip_json("blue", "rule", "show"), ip_json("blue", "link", "show", "e0")[0]["ifindex"]
    engine.kill()
    engine.start().resumed()
    assert (ip_json("blue", "rule", "show"), ip_json("blue", "link", "show", "e0")[0]["ifindex"]) == before
    client = engine.client()
    assert client.verify(["c1"])[0]["ok"] and not client.connect([JOB])[0]["changed"]
    engine.kill()
    engine.start()
    assert client.disconnect(["c1"])[0]["changed"]
    assert (rules("blue"), rules("red")) == ([], [])


def test_what_changed_while_the_engine_was_away_is_mended(engine):
    assert engine.client().connect([JOB])[0]["ok"]
    engine.kill()
    ip("blue", "rule del priority 500")
    write("blue", "ipv4/conf/e0/route_localnet", 0)
    engine.start()
    assert eventually(lambda: (rules("blue"), settings()) == ([500, 32765], ALL_SET))


def test_rules_of_an_unfinished_connect_are_taken_down_at_the_next_start(engine):
    other = pair("up", end("blue", "u0", rules=[{"table": 8, "priority": 8}]), end("red", "u0"))
    assert engine.client().connect([other])[0]["ok"]
    engine.kill()
    # the pair is gone, two of its rules are not; and one was about to be refused, as it is that of another
    refused = pair("late", end("blue", "l0", rules=[{"table": 8, "priority": 8}]), end("red", "l0"))
    interrupted(engine, JOB, refused)
    for netns in ("blue", "red"):
        ip(netns, "rule add from 10.1.0.0/16 lookup 100 priority 500 protocol 102")
        ip(netns, "rule add from 10.1.0.0/16 lookup 100 priority 501 protocol 102")
    engine.start().resumed()
    assert (rules("blue"), rules("red")) == ([8, 501], [501])
    client = engine.client()
    assert [row["id"] for row in client.list()] == ["up"] and client.verify()[0]["ok"]
    assert client.connect([JOB])[0]["ok"]


@pytest.mark.parametrize("why", ["unfinished", "recreate"])
def test_what_is_made_anew_at_a_start_is_not_in_its_own_way(engine, why):
    assert engine.client().connect([JOB])[0]["ok"]
    index = ip_json("blue", "link", "show", "e0")[0]["ifindex"]
    engine.kill()
    if why == "unfinished":
        interrupted(engine, JOB)
    else:
        engine.env["FASTNL_RESYNC"] = "recreate"
    engine.start().resumed()
    client = engine.client()
    assert eventually(lambda: [r["state"] for r in client.list()] == ["up"]), engine.log
    assert ip_json("blue", "link", "show", "e0")[0]["ifindex"] != index
    assert (rules("blue"), rules("red")) == ([500, 32765], [500]) and client.verify(["c1"])[0]["ok"]


def test_a_flush_takes_rules_along_and_none_of_others(engine):
    assert engine.client().connect([JOB])[0]["ok"]
    ip("blue", "rule add from 10.1.0.0/16 lookup 100 priority 501 protocol 102")
    ip("blue", "rule add from 10.1.0.0/16 lookup 100 priority 502")
    engine.kill()
    done = subprocess.run([*engine.command, "--flush"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert (rules("blue"), rules("red")) == ([501, 502], [])
    assert [row["ifname"] for row in ip_json("blue", "link", "show")] == ["lo"]


def test_a_file_of_connections_has_them_in_the_same_words(shared_engine, tmp_path):
    fastnl = str(Path(sys.executable).with_name("fastnl"))
    (tmp_path / "job.json").write_text(json.dumps(JOB))

    def run(*argv):
        return subprocess.run(
            [fastnl, "--endpoint", shared_engine.endpoint, *argv], capture_output=True, text=True, check=True
        ).stdout  # fmt: skip

    run("connect", str(tmp_path / "job.json"))
    [row] = json.loads(run("export"))["connections"]
    assert row == JOB
    assert rules("blue") == [500, 32765]


# -- IPv6 where it is switched off -------------------------------------------------------------------


def test_ipv6_in_a_namespace_that_has_it_switched_off(engine):
    """As in every container of Docker: the interface's own switch is turned, at every start and mending, too."""
    for which in ("all", "default"):
        write("blue", f"ipv6/conf/{which}/disable_ipv6", 1)
    client = engine.client()
    job = pair("six", end("blue", "e0", "10.0.0.1/24", "fd00::1/64"), end("red", "e0", "fd00::2/64"))
    [result] = client.connect([job])
    assert result["ok"], result
    assert ping("blue", "fd00::2") and client.verify(["six"])[0]["ok"]
    assert [inside("blue", f"ipv6/conf/{name}/disable_ipv6") for name in ("all", "default", "lo", "e0")] == [
        ["1"], ["1"], ["1"], ["0"]
    ]  # fmt: skip
    engine.kill()
    write("blue", "ipv6/conf/all/disable_ipv6", 1)
    engine.start()
    assert eventually(lambda: engine.client().verify(["six"])[0]["ok"])
    assert ip_json("blue", "link", "show", "e0")[0]["ifindex"] == result["a"]["ifindex"]
    assert inside("blue", "ipv6/conf/all/disable_ipv6") == ["1"]
