"""Connections that are one interface: made, waited for, found and given back."""

from __future__ import annotations

import sqlite3
import subprocess

import msgpack
import pytest

from fastnl.testing import eventually, ip_json, ping
from fastnl_engine.testing import end, pair


def test_a_device_is_a_connection_as_any_other(engine, client, blue, red):
    bridge = {"id": "br", "kind": "bridge", "a": end(blue, "br0", "10.0.0.254/24")}
    port = pair("p", end(blue, "p0", master="br0"), end(red, "e0", "10.0.0.1/24", tx_checksum=False))
    results = client.connect([port, bridge])
    assert [(r["ok"], r["state"]) for r in results] == [(True, "up")] * 2, results
    assert eventually(lambda: ping(red, "10.0.0.254", wait=1))
    assert all(v["ok"] for v in client.verify())
    assert [r["changed"] for r in client.connect([port, bridge])] == [False, False]
    engine.restart().resumed()
    assert "adopted=2 mended=0 made_again=0" in engine.log.splitlines()[-1]
    again = engine.client()
    assert [r["changed"] for r in again.connect([bridge, port])] == [False, False]
    subprocess.run(["ip", "-n", blue, "link", "del", "br0"], check=True)
    assert eventually(lambda: all(v["ok"] for v in again.verify())), again.verify()
    assert all(r["changed"] for r in again.disconnect(["br", "p"]))


def test_an_interface_of_somebody_else_is_waited_for_and_given_back(client, blue, foreign):
    job = {"id": "ext", "kind": "existing", "a": end(blue, "br0", "10.0.0.1/24")}
    [refused] = client.connect([job])
    assert (refused["error"]["code"], refused["error"]["field"]) == ("ifname_not_found", "a.ifname")
    [waiting] = client.connect([job], wait=True)
    assert waiting["state"] == "pending" and "br0" in waiting["reason"]
    foreign(blue, "br0")
    assert eventually(lambda: next(client.list())["state"] == "up")
    assert client.verify()[0]["ok"]
    assert client.disconnect(["ext"])[0]["changed"]
    assert "br0" in {row["ifname"] for row in ip_json(blue, "link")}
    given = ip_json(blue, "addr", "show", "dev", "br0")[0]["addr_info"]
    assert [a for a in given if a["scope"] == "global"] == []


def test_an_end_that_is_down_is_no_difference_to_mend(client, blue, red):
    job = pair("c1", end(blue, "e0", "10.0.0.1/24", up=False), end(red, "e0", "10.0.0.2/24"))
    assert client.connect([job])[0]["ok"] and client.verify()[0]["ok"]
    job["a"]["up"] = True
    assert client.connect([job])[0]["changed"] and ping(blue, "10.0.0.2")


@pytest.mark.parametrize(
    ("job", "field"),
    [
        ({"kind": "vrf", "a": end("blue", "v0")}, "vrf.table"),
        ({"kind": "dummy", "a": end("blue", "d0"), "vrf": {"table": 7}}, "vrf"),
        ({"kind": "dummy", "a": end("blue", "d0"), "b": end("red", "d0")}, "b"),
        ({"kind": "loopback", "a": end("blue", "d0")}, "a.ifname"),
        ({"kind": "dummy", "a": end("blue", "d0", vxlan=1)}, "a"),
    ],
)
def test_a_device_that_makes_no_sense_names_the_field(client, blue, job, field):
    [result] = client.connect([{"id": "x", **job}])
    assert result["error"]["code"] == "invalid" and result["error"]["field"].startswith(field), result


def cut_off(engine, job, index):
    """Kills the engine; its state then says that the connect of this job had begun and no more."""
    engine.kill()
    db = sqlite3.connect(engine.state / "state.db")
    with db:
        [spec] = db.execute("SELECT spec FROM connection WHERE id = ?", (job["id"],)).fetchone()
        db.execute("DELETE FROM connection WHERE id = ?", (job["id"],))
        db.execute("INSERT INTO intent VALUES (?, 'create', ?, ?)", (job["id"], spec, msgpack.packb([index])))
    db.close()


def given(netns, ifname):
    [row] = ip_json(netns, "addr", "show", "dev", ifname)
    return {a["local"] for a in row["addr_info"] if a["scope"] == "global"}


def test_of_a_found_interface_that_was_being_furnished_when_the_engine_died_nothing_is_kept(engine, blue, foreign):
    foreign(blue, "br0")
    subprocess.run(["ip", "-n", blue, "addr", "add", "10.44.0.1/24", "dev", "br0"], check=True)
    job = {"id": "ext", "kind": "existing", "a": end(blue, "br0", "10.0.0.1/24")}
    [result] = engine.client().connect([job])
    cut_off(engine, job, result["a"]["ifindex"])
    assert given(blue, "br0") == {"10.0.0.1", "10.44.0.1"}
    engine.start().resumed()
    assert given(blue, "br0") == {"10.44.0.1"}
    assert engine.client().connect([job])[0]["ok"]


@pytest.mark.parametrize("way", ["start", "flush"])
def test_a_tap_that_was_made_and_not_marked_when_the_engine_died_is_removed(engine, blue, way):
    """It is born without a group, so nothing but its name and the intent tells whose it is."""
    job = {"id": "t", "kind": "tap", "a": end(blue, "tap0", "10.0.0.1/24")}
    [result] = engine.client().connect([job])
    cut_off(engine, job, result["a"]["ifindex"])
    subprocess.run(["ip", "-n", blue, "link", "set", "tap0", "alias", "", "group", "default"], check=True)
    subprocess.run(["ip", "-n", blue, "tuntap", "add", "tap1", "mode", "tap"], check=True)
    if way == "start":
        engine.start().resumed()
    else:
        subprocess.run([*engine.command, "--flush"], check=True)
    assert {row["ifname"] for row in ip_json(blue, "link")} == {"lo", "tap1"}
    subprocess.run(["ip", "-n", blue, "link", "del", "tap1"], check=True)


def test_a_found_interface_keeps_what_it_was_given_when_everything_is_made_anew(make_engine, blue, foreign):
    engine = make_engine(env={"FASTNL_RESYNC": "recreate"}).start()
    foreign(blue, "br0")
    job = {"id": "ext", "kind": "existing", "a": end(blue, "br0", "10.0.0.1/24")}
    assert engine.client().connect([job])[0]["ok"]
    engine.restart().resumed()
    client = engine.client()
    assert eventually(lambda: next(client.list())["state"] == "up")
    assert given(blue, "br0") == {"10.0.0.1"}
    assert "failed" not in [e["event"] for e in client.events()["events"]]


def test_a_flush_gives_found_interfaces_back_as_they_were(engine, blue, foreign):
    foreign(blue, "br0")
    subprocess.run(["ip", "-n", blue, "addr", "add", "10.44.0.1/24", "dev", "br0"], check=True)
    job = {"id": "ext", "kind": "existing", "a": end(blue, "br0", "10.0.0.1/24")}
    assert engine.client().connect([job])[0]["ok"]
    engine.stop()
    subprocess.run([*engine.command, "--flush"], check=True)
    assert given(blue, "br0") == {"10.44.0.1"}
