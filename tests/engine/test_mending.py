"""What others change behind the engine's back is made what it was, told by an event, and nothing else is touched."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fastnl.testing import eventually, ip_json, ping
from fastnl_engine.testing import end, pair, tunnel


def ip(netns, command):
    subprocess.run(["ip", "-n", netns, *command.split()], check=True)


def seen(netns, ifname="e0"):
    """Everything of an interface that a mending has to bring back, but its index and its MAC."""
    [row] = ip_json(netns, "addr", "show", "dev", ifname)
    return (
        row["mtu"], row["ifalias"], "UP" in row["flags"],
        {(a["local"], a["prefixlen"]) for a in row["addr_info"] if a["scope"] == "global"},
        {(r["dst"], r.get("gateway")) for v in ("-4", "-6") for r in ip_json(netns, v, "route", "show", "dev", ifname)
         if r.get("protocol") == "static"},
        {n["dst"] for n in ip_json(netns, "neigh", "show", "dev", ifname, "nud", "permanent")},
    )  # fmt: skip


def index(netns, ifname="e0"):
    return ip_json(netns, "link", "show", "dev", ifname)[0]["ifindex"]


RICH = {
    "mtu": 1400,
    "routes": [{"to": "10.9.0.0/16", "via": "10.0.0.2"}, {"to": "fd09::/64", "via": "fd00::2"}],
    "neighbours": [{"ip": "10.0.0.9", "mac": "02:00:00:00:00:09"}],
}
PLAIN = pair("plain", end("blue", "p0", "10.5.0.1/24"), end("red", "p0", "10.5.0.2/24"))
FULL = pair(
    "full", end("blue", "e0", "10.0.0.1/24", "fd00::1/64", **RICH), end("red", "e0", "10.0.0.2/24", "fd00::2/64")
)

DAMAGE = {
    "deleted": "link del e0",
    "renamed": "link set e0 name other",
    "taken down": "link set e0 down",
    "moved": "link set e0 netns green",
    "mtu": "link set e0 mtu 1300",
    "address removed": "addr del 10.0.0.1/24 dev e0",
    "ipv6 address removed": "-6 addr del fd00::1/64 dev e0",
    "route removed": "route del 10.9.0.0/16",
    "ipv6 route removed": "-6 route del fd09::/64",
    "neighbour removed": "neigh del 10.0.0.9 dev e0",
}


@pytest.fixture
def places(netns):
    return [netns.make(name) for name in ("blue", "red", "green")]


@pytest.mark.parametrize("command", DAMAGE.values(), ids=DAMAGE)
def test_what_somebody_changed_is_what_it_was_again_and_an_event_tells_of_it(shared_engine, places, command):
    client = shared_engine.client()
    assert all(r["ok"] for r in client.connect([PLAIN, FULL]))
    before, other = seen("blue"), (seen("blue", "p0"), index("blue", "p0"), index("red", "p0"))
    events = shared_engine.subscribe("connection.mended.")
    ip("blue", command)
    topic, event = events.next()
    assert topic == "connection.mended.full" and event["state"] == "up" and event["reason"], event
    assert eventually(lambda: seen("blue") == before), (seen("blue"), before)
    assert ping("blue", "10.0.0.2") and ping("blue", "fd00::2")
    assert client.verify(["full"])[0]["ok"]
    assert (seen("blue", "p0"), index("blue", "p0"), index("red", "p0")) == other
    assert [r["ifname"] for r in ip_json("green", "link")] == ["lo"]
    [row] = client.list(ids=["full"])
    assert (row["a"]["ifindex"], row["b"]["ifindex"]) == (index("blue"), index("red"))


def test_an_address_that_got_another_prefix_is_missing(shared_engine, places):
    client = shared_engine.client()
    assert client.connect([PLAIN])[0]["ok"]
    events = shared_engine.subscribe("connection.mended.")
    ip("blue", "addr del 10.5.0.1/24 dev p0")
    ip("blue", "addr add 10.5.0.1/16 dev p0")
    assert events.next()[0] == "connection.mended.plain"
    assert ("10.5.0.1", 24) in seen("blue", "p0")[3]


@pytest.mark.parametrize("command", ["link set p0 nomaster", "link del br0"])
def test_a_port_is_one_again_whatever_became_of_its_bridge(shared_engine, places, command):
    client = shared_engine.client()
    bridge = {"id": "br", "kind": "bridge", "a": end("blue", "br0")}
    port = pair("port", end("blue", "p0", master="br0"), end("red", "p0"))
    assert all(r["ok"] for r in client.connect([bridge, port]))
    ip("blue", command)
    assert eventually(lambda: _master("p0") == "br0")
    assert all(r["state"] == "up" for r in client.list())


def _master(ifname):
    [row] = ip_json("blue", "link", "show", "dev", ifname)
    return row.get("master")


def test_a_tunnel_that_somebody_deleted_comes_back(shared_engine, places):
    client = shared_engine.client()
    job = tunnel("t1", end("blue", "vx0", "10.7.0.1/24"), vni=77, local="127.0.0.1", remote="127.0.0.2")
    assert client.connect([job])[0]["ok"]
    events = shared_engine.subscribe("connection.mended.")
    ip("blue", "link del vx0")
    assert events.next()[0] == "connection.mended.t1"
    assert client.verify(["t1"])[0]["ok"]


def elsewhere(vni):
    """A tunnel with a VNI of its own: the namespaces of the last test, and what is in them, end in their own time."""
    return {"vni": vni, "local": "127.0.0.1", "remote": "127.0.0.2"}


def test_a_tunnel_that_somebody_moved_is_back_and_not_in_its_own_way(shared_engine, places):
    """Wherever it is, it has its VNI on the underlay, which no other can have."""
    client = shared_engine.client()
    assert client.connect([tunnel("t1", end("blue", "vx0", "10.7.0.1/24"), **elsewhere(78))])[0]["ok"]
    events = shared_engine.subscribe("connection.mended.")
    ip("blue", "link set vx0 netns green")
    assert events.next()[0] == "connection.mended.t1"
    assert client.verify(["t1"])[0]["ok"]
    assert [r["ifname"] for r in ip_json("green", "link")] == ["lo"]


def test_a_tunnel_of_somebody_else_keeps_its_vni(shared_engine, places):
    client = shared_engine.client()
    assert client.connect([tunnel("t1", end("blue", "vx0"), **elsewhere(79))])[0]["ok"]
    events = shared_engine.subscribe("connection.")
    of_others = ["type", "vxlan", "id", "79", "dstport", "4789", "remote", "127.0.0.9"]
    with shared_engine.paused():  # or it would have the VNI back before somebody else does
        ip("blue", "link del vx0")
        subprocess.run(["ip", "link", "add", "foreign", *of_others], check=True)
    assert events.next()[0] == "connection.failed.t1"
    assert ip_json("", "link", "show", "dev", "foreign")
    subprocess.run(["ip", "link", "del", "foreign"], check=True)
    assert events.next()[0] == "connection.up.t1"


def test_what_is_not_ours_and_addresses_that_others_gave_ours_stay(shared_engine, places, foreign):
    client = shared_engine.client()
    foreign("blue", "plain0")
    foreign("red", "plain1")
    assert client.connect([FULL])[0]["ok"]
    ip("blue", "addr add 10.0.0.77/24 dev e0")
    ip("blue", "addr add 10.44.0.1/24 dev plain0")
    strangers = [ip_json("blue", "addr", "show", "dev", "plain0"), ip_json("red", "link", "show", "dev", "plain1")]
    events = shared_engine.subscribe("connection.mended.")
    ip("blue", "route del 10.9.0.0/16")
    events.next()
    assert ("10.0.0.77", 24) in seen("blue")[3]
    assert [
        ip_json("blue", "addr", "show", "dev", "plain0"),
        ip_json("red", "link", "show", "dev", "plain1"),
    ] == strangers


def test_strict_removes_addresses_that_nobody_asked_for_from_ours_only(make_engine, places, foreign):
    engine = make_engine(instance="other", env={"FASTNL_STRICT": "true", "FASTNL_AUDIT": "1"}).start()
    client = engine.client()
    foreign("blue", "plain0")
    assert all(r["ok"] for r in client.connect([PLAIN, FULL]))
    before, plain = seen("blue"), seen("blue", "p0")
    indexes = index("blue"), index("blue", "p0")
    for command in ("addr add 10.0.0.77/24 dev e0", "addr add fd77::1/64 dev e0", "addr add 10.77.0.1/16 dev p0"):
        ip("blue", command)
    ip("blue", "addr add 10.44.0.1/24 dev plain0")
    assert eventually(lambda: (seen("blue"), seen("blue", "p0")) == (before, plain)), seen("blue")
    assert (index("blue"), index("blue", "p0")) == indexes
    assert ip_json("blue", "addr", "show", "dev", "plain0")[0]["addr_info"][0]["local"] == "10.44.0.1"
    assert ping("blue", "10.0.0.2") and ping("blue", "fd00::2")


def test_what_cannot_be_mended_is_failed_with_its_error_tried_ever_more_seldom_and_recovers(
    shared_engine, places, foreign
):
    client = shared_engine.client()
    assert all(r["ok"] for r in client.connect([PLAIN, FULL]))
    events = shared_engine.subscribe("connection.")
    with shared_engine.paused():
        ip("blue", "link del e0")
        foreign("blue", "e0")
    topic, event = events.next()
    assert topic == "connection.failed.full" and event["error"]["code"] == "ifname_in_use", event
    [row] = client.list(ids=["full"])
    assert (row["state"], row["error"]["field"]) == ("failed", "a.ifname")
    assert [r["ifname"] for r in ip_json("red", "link") if r["ifname"] != "lo"] == ["p0"]  # nothing half made
    ip("blue", "link del e0")
    assert events.next()[0] == "connection.up.full"
    assert ping("blue", "10.0.0.2") and client.verify(["full"])[0]["ok"]


def test_with_no_audit_nothing_is_looked_at(make_engine, places):
    engine = make_engine(instance="other", env={"FASTNL_AUDIT": "0"}).start()
    assert engine.client().connect([PLAIN])[0]["ok"]
    threads = {p.read_text().strip() for p in Path(f"/proc/{engine.pid}/task").glob("*/comm")}
    assert "audit" not in threads
