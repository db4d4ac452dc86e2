"""What somebody changed or deleted behind our back is seen at a glance, and made what it was."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from fastnl import Address, End, NameInUse, Neighbour, NetnsGone, NetnsNotFound, Route, Veth
from fastnl._nl import Glances, look_around
from fastnl.testing import eventually, ip_json, ping

PEER = "02:00:00:00:00:02"
IN_BLUE = ("ip", "netns", "exec", "blue")


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


REMOVED = ["10.0.0.77/24", "10.77.0.1/16", "fd77::1/64"]


def test_foreign_addresses_stay_and_go_only_when_that_is_asked_for(host, wired):
    before = look()
    for address in REMOVED:
        ip("blue", f"addr add {address} dev e0 nodad" if ":" in address else f"addr add {address} dev e0")
    assert host.mend([wired])[0].error is None
    assert len(look()[5]) == len(before[5]) + len(REMOVED)
    assert host.mend([wired], strict=True)[0].error is None
    assert look() == before
    assert ping("blue", "10.0.0.2") and ping("blue", "fd00::2")
    assert [a["scope"] for a in ip_json("blue", "-6", "addr", "show", "e0")[0]["addr_info"]].count("link") == 1


@pytest.mark.parametrize("address", ["10.0.0.1", "fd00::1"])
def test_an_address_with_another_prefix_length_is_not_ours(host, wired, address):
    before = look()
    ip("blue", f"addr flush dev e0 to {address}")
    ip("blue", f"addr add {address}/{16 if '.' in address else 48} dev e0" + (" nodad" if ":" in address else ""))
    ip("blue", "addr add 10.77.0.1/16 dev e0")
    assert host.mend([wired])[0].error is None
    ip("blue", "addr del 10.77.0.1/16 dev e0")  # which nobody asked for, and which stayed
    assert look() == before


def test_ours_that_hangs_on_a_foreign_address_outlives_it(host, wired):
    """A secondary goes with its primary, which is the first of a subnet, whoever made it."""
    before = look()
    ip("blue", "addr del 10.0.0.1/24 dev e0")
    ip("blue", "addr add 10.0.0.77/24 dev e0")
    ip("blue", "addr add 10.0.0.1/24 dev e0")
    assert host.mend([wired], strict=True)[0].error is None
    assert look() == before
    assert ping("blue", "10.0.0.2")


@pytest.mark.parametrize("command", ["alias stolen", "group 7"])
def test_the_mark_of_ownership_is_put_back(host, wired, command):
    before = ip_json("blue", "link", "show", "e0")
    ip("blue", f"link set e0 {command}")
    assert host.mend([wired])[0].wired == wired
    assert ip_json("blue", "link", "show", "e0") == before


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


def glance(wired, *, mtu: int = 1400, address: str | None = "10.0.0.1/24", path: str = "/run/netns/blue") -> list:
    glances = Glances(path, tuple(wired.places[0].netns))
    glances.add(7, wired.places[0].ifindex, "e0", mtu, address and Address(address))
    look_around([glances])
    assert glances.seen
    return glances.changed()


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


def test_a_glance_is_at_the_right_namespace_or_at_none(wired, netns, tmp_path):
    place = wired.places[0]
    plain = tmp_path / "plain"
    plain.touch()
    sites = [
        Glances("/run/netns/red", tuple(place.netns)),  # another one
        Glances("/run/netns/none", tuple(place.netns)),
        Glances(str(plain), tuple(place.netns)),
        Glances("/run/netns/blue", (place.netns.inode, place.netns.id + 1)),
        Glances("/run/netns/blue", tuple(place.netns), careful=False),
    ]
    for site in sites:
        site.add(1, 1 << 30, "none")
    look_around(sites)
    assert [site.seen for site in sites] == [False] * 4 + [True]
    assert [site.changed() for site in sites] == [[]] * 4 + [[(1, "gone")]]
    look_around([])


def test_many_glances_at_many_namespaces_hold_none(host, netns):
    names = netns.many(50)
    ends = [Veth(End(a, "e0", ["10.0.0.1/24"]), End(b, "e0")) for a, b in zip(names[::2], names[1::2], strict=True)]
    results = host.connect(ends)
    sites = []
    for n, r in enumerate(results):
        for end, place in zip(r.wired.connection.ends, r.wired.places, strict=True):
            sites.append(Glances(f"/run/netns/{end.netns}", tuple(place.netns)))
            sites[-1].add(n, place.ifindex, "e0", 0, end.addresses[0] if end.addresses else None)
    look_around(sites)
    assert all(site.seen and not site.changed() for site in sites)
    ip("n4", "link set e0 down")
    ip("n8", "link del e0")
    look_around(sites)
    assert [what for site in sites for what in site.changed()] == [(2, "down"), (4, "gone"), (4, "gone")]
    before = len(os.listdir("/proc/self/fd"))
    look_around(sites)
    assert len(os.listdir("/proc/self/fd")) == before
    host.disconnect([r.wired for r in results])


def test_look_around_takes_glances_only():
    with pytest.raises(TypeError):
        look_around([Glances("/run/netns/blue", (1, 0)), "no"])


def test_an_ipv6_address_comes_back_where_somebody_switched_ipv6_off(host, wired):
    plain = Veth(End("blue", "e0", ["10.0.0.1/24", "fd00::1/64"]), End("red", "e0"), id="mine")
    [result] = host.update([(wired, plain)])
    subprocess.run([*IN_BLUE, "sysctl", "-qw", "net.ipv6.conf.e0.disable_ipv6=1"], check=True)
    [mended] = host.mend([result.wired])
    assert mended.ok and ("fd00::1", 64) in look()[5]
    subprocess.run([*IN_BLUE, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"], check=True)
    [mended] = host.mend([result.wired])
    assert mended.ok and mended.wired == result.wired and ("fd00::1", 64) in look()[5]
    # nobody else's switch
    done = subprocess.run([*IN_BLUE, "sysctl", "-n", "net.ipv6.conf.all.disable_ipv6"], capture_output=True, check=True)
    assert done.stdout.strip() == b"1"


READ_ONLY = """
import subprocess
from fastnl import End, Host, Veth
def run(command):
    subprocess.run(command.split(), check=True)
run("mount --bind /proc/sys /proc/sys")
pair = Veth(End("blue", "m0", ["10.7.0.1/24", "fd07::1/64"]), End("red", "m0"))
[made] = Host().connect([pair])
run("ip netns exec blue sysctl -qw net.ipv6.conf.all.disable_ipv6=1")
run("mount -o remount,bind,ro /proc/sys")
[mended] = Host().mend([made.wired])
print(mended.error.field, mended.error.errno)
"""


def test_an_address_that_the_interface_does_not_take_any_more_is_not_called_mended(wired):
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", READ_ONLY], capture_output=True, text=True, check=True
    )  # fmt: skip
    assert done.stdout == f"a.addresses[1] {errno.EACCES}\n"
