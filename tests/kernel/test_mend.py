"""What somebody changed or deleted behind our back is seen at a glance, and made what it was."""

from __future__ import annotations

import subprocess

import pytest

from fastnl import Address, End, NameInUse, Neighbour, NetnsGone, NetnsNotFound, Route, Veth
from fastnl._nl import Tour
from fastnl.testing import eventually, ip_json, ping

PEER = "02:00:00:00:00:02"


@pytest.fixture
def wired(host, netns):
    netns.make("blue")
    netns.make("red")
    a = End(
        "blue", "e0", ["10.0.0.1/24", "fd00::1/64"], mac="02:00:00:00:00:01", mtu=1400, txqlen=100,
        routes=[Route("10.9.0.0/16", via="10.0.0.2"), Route("fd09::/64", via="fd00::2")],
        neighbours=[Neighbour("10.0.0.2", PEER)],
    )  # fmt: skip
    [result] = host.connect([Veth(a, End("red", "e0", ["10.0.0.2/24", "fd00::2/64"], mac=PEER), id="mine")])
    assert result.ok
    return result.wired


def ip(netns: str, command: str) -> None:
    subprocess.run(["ip", "-n", netns, *command.split()], check=True)


def look() -> tuple:
    [row] = ip_json("blue", "addr", "show", "e0")
    return (
        row["mtu"], row["address"], row["txqlen"], row["ifalias"], "UP" in row["flags"],
        {(f["local"], f["prefixlen"]) for f in row["addr_info"] if f["scope"] == "global"},
        {(r["dst"], r["gateway"]) for v in ("-4", "-6") for r in ip_json("blue", v, "route", "show", "proto", "4")},
        {n["dst"] for n in ip_json("blue", "neigh", "show", "nud", "permanent")},
    )  # fmt: skip


DAMAGE = {
    "down": "link set e0 down",
    "mtu": "link set e0 mtu 1300",
    "mac": "link set e0 address 02:00:00:00:00:99",
    "txqlen": "link set e0 txqueuelen 5",
    "renamed": "link set e0 name other",
    "address": "addr del 10.0.0.1/24 dev e0",
    "addresses": "addr flush dev e0 scope global",
    "route": "route del 10.9.0.0/16",
    "ipv6 route": "-6 route del fd09::/64",
    "neighbour": "neigh del 10.0.0.2 dev e0",
}


@pytest.mark.parametrize("command", DAMAGE.values(), ids=DAMAGE)
def test_what_was_changed_is_mended_in_place(host, wired, command):
    before = look()
    ip("blue", command)
    [result] = host.mend([wired])
    assert result.error is None
    assert result.wired == wired
    assert look() == before
    assert ping("blue", "10.0.0.2")
    assert ping("blue", "fd00::2")


@pytest.mark.parametrize("end", ["blue", "red"])
def test_what_was_deleted_is_made_anew(host, wired, end):
    before = look()
    ip(end, "link delete e0")
    [result] = host.mend([wired])
    assert result.error is None
    assert result.wired.connection == wired.connection
    assert result.wired.places != wired.places
    assert look() == before
    assert ping("blue", "10.0.0.2")
    assert host.disconnect([result.wired])[0].changed


def test_what_is_as_it_was_stays_as_it_is(host, wired):
    before = look()
    [result] = host.mend([wired])
    assert (result.error, result.wired) == (None, wired)
    assert look() == before


def test_one_that_cannot_be_mended_leaves_the_others_whole(host, wired, foreign):
    [other] = host.connect([Veth(End("blue", "x0", ["10.5.0.1/24"]), End("red", "x0", ["10.5.0.2/24"]))])
    ip("blue", "link delete e0")
    foreign("blue", "e0")
    ip("red", "link set x0 down")
    lost, mended = host.mend([wired, other.wired])
    assert isinstance(lost.error, NameInUse)
    assert lost.wired is None
    assert mended.error is None
    assert ping("blue", "10.5.0.2")
    assert ip_json("blue", "link", "show", "e0")[0]["linkinfo"]["info_kind"] == "bridge"
    assert {row["ifname"] for row in ip_json("red", "link", "show")} == {"lo", "x0"}


def test_a_namespace_that_went_is_told_and_its_successor_not_touched(host, wired, netns):
    netns.let_go("red")
    [result] = host.mend([wired])
    assert isinstance(result.error, NetnsNotFound)
    netns.make("red")
    [result] = host.mend([wired])
    assert isinstance(result.error, NetnsGone)
    assert [row["ifname"] for row in ip_json("red", "link", "show")] == ["lo"]
    assert eventually(lambda: [row["ifname"] for row in ip_json("blue", "link", "show")] == ["lo"])


# -- glances ---------------------------------------------------------------------------------------


def glance(wired, *, mtu: int = 1400, address: str | None = "10.0.0.1/24") -> list:
    tour = Tour(8)
    with open("/run/netns/blue") as f:
        visit = tour.visit(f.fileno())
        visit.glance(7, wired.places[0].ifindex, "e0", mtu, address and Address(address))
        tour.run()
    assert tour.problems() == []
    return visit.changed()


def test_a_glance_at_what_is_as_it_was_sees_nothing(wired):
    assert glance(wired) == []
    assert glance(wired, mtu=0, address=None) == []
    # only IPv4 addresses are looked for
    assert glance(wired, address="fd00::99/64") == []


@pytest.mark.parametrize(
    ("command", "seen"),
    [
        ("link delete e0", "gone"),
        ("link set e0 netns red name e9", "gone"),
        ("link set e0 name other", "renamed"),
        ("link set e0 down", "down"),
        ("link set e0 mtu 1300", "mtu"),
        ("addr del 10.0.0.1/24 dev e0", "address"),
    ],
)
def test_a_glance_sees_what_somebody_changed(wired, command, seen):
    ip("blue", command)
    assert glance(wired) == [(7, seen)]


def test_a_glance_takes_several_addresses_one_at_a_time(wired):
    ip("blue", "addr add 10.7.0.1/24 dev e0")
    assert glance(wired, address="10.7.0.1/24") == []
    assert glance(wired, address="10.7.0.2/24") == [(7, "address")]
