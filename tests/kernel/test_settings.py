"""Kernel settings of an end that are files under /proc/sys/net, and IPv6 where a namespace has it switched off."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fastnl import Device, End, KernelError, Move, NameInUse, Route, Veth, Vxlan, verify
from fastnl._nl import Tour, new_netns, read_settings
from fastnl.testing import ip_json, nsenter, ping

IPV4, IPV6 = "/proc/sys/net/ipv4", "/proc/sys/net/ipv6/conf"


def inside(netns: str, path: str) -> str:
    return subprocess.run(nsenter(netns, "cat", path), check=True, capture_output=True, text=True).stdout.strip()


def write(netns: str, path: str, value: object) -> None:
    subprocess.run(nsenter(netns, "sh", "-c", f"echo {value} > {path}"), check=True)


def off(netns: str) -> None:
    """As Docker leaves a container's namespace."""
    for which in ("all", "default"):
        write(netns, f"{IPV6}/{which}/disable_ipv6", 1)


def localnet(netns: str, ifname: str) -> str:
    return inside(netns, f"{IPV4}/conf/{ifname}/route_localnet")


def groups(netns: str) -> list[str]:
    return inside(netns, f"{IPV4}/ping_group_range").split()


def addresses(netns: str, ifname: str) -> set[str]:
    [row] = ip_json(netns, "addr", "show", "dev", ifname)
    return {f"{a['local']}/{a['prefixlen']}" for a in row["addr_info"] if a["scope"] != "link"}


def one(host, connection):
    [result] = host.connect([connection])
    assert result.error is None, result.error
    assert verify.verify([result.wired], alias=host.alias)[0].differences == ()
    return result.wired


@pytest.fixture
def rooms(netns):
    return [netns.make(name) for name in ("blue", "red", "green")]


SET = End("blue", "e0", ["10.0.0.1/24"], route_localnet=True, ping_group_range=(0, 2147483647))
PAIR = Veth(SET, End("red", "e0", ["10.0.0.2/24"]), id="set")


# -- settings --------------------------------------------------------------------------------------


def test_settings_of_an_interface_and_of_its_namespace(host, rooms):
    wired = one(host, PAIR)
    assert (localnet("blue", "e0"), groups("blue")) == ("1", ["0", "2147483647"])
    # neither the other end nor anything else has them
    assert (localnet("red", "e0"), localnet("blue", "default"), localnet("blue", "all")) == ("0", "0", "0")
    assert groups("red") == ["1", "0"] and Path(f"{IPV4}/ping_group_range").read_text().split() == ["1", "0"]
    # that of the namespace stays
    host.disconnect([wired])
    assert groups("blue") == ["0", "2147483647"]
    # and may be given back
    wired = one(host, replace(PAIR, a=replace(SET, ping_group_range=(1, 0))))
    assert groups("blue") == ["1", "0"]
    host.disconnect([wired])


def test_settings_change_in_place(host, rooms):
    wired = one(host, PAIR)
    for end in (
        replace(SET, route_localnet=False, ping_group_range=(5, 6)),
        replace(SET, ifname="e1"),
        replace(SET, ifname="e2", route_localnet=False),
        replace(SET, ifname="e0", ping_group_range=None),
    ):
        [result] = host.update([(wired, replace(PAIR, a=end))])
        assert result.ok and result.wired.places == wired.places, result.error
        wired = result.wired
        assert localnet("blue", end.ifname) == str(int(end.route_localnet))
        assert groups("blue") == [str(n) for n in end.ping_group_range or (0, 2147483647)]
        assert verify.verify([wired])[0].ok
    host.disconnect([wired])


@pytest.mark.parametrize("name", ["e0", "e1"])
def test_a_change_that_fails_gives_the_settings_back(host, rooms, name):
    wired = one(host, PAIR)
    bad = replace(
        SET, ifname=name, route_localnet=False, ping_group_range=(5, 6), routes=[Route("10.9.0.0/16", via="192.0.2.1")]
    )
    [result] = host.update([(wired, replace(PAIR, a=bad))])
    assert result.error is not None and result.error.phase == "route"
    assert (localnet("blue", "e0"), groups("blue")) == ("1", ["0", "2147483647"])
    host.disconnect([result.wired])


def test_settings_that_somebody_changed_are_told_of_and_mended(host, rooms):
    wired = one(host, PAIR)
    write("blue", f"{IPV4}/conf/e0/route_localnet", 0)
    write("blue", f"{IPV4}/ping_group_range", "'7 8'")
    [verdict] = verify.verify([wired])
    assert {(d.field, d.want, d.have) for d in verdict.differences} == {
        ("a.route_localnet", "1", "0"),
        ("a.ping_group_range", "0 2147483647", "7 8"),
    }
    [result] = host.mend([wired])
    assert result.ok and result.wired == wired and verify.verify([wired])[0].ok
    host.disconnect([wired])


def test_a_name_that_somebody_else_has_is_not_taken_for_ours(host, rooms):
    """Files go by name; ours has another by now, and an interface of others has the one that it ought to have."""
    six = replace(PAIR, a=replace(SET, addresses=["fd00::1/64"]))
    wired = one(host, six)

    def their(ifname: str) -> list[str]:
        return [localnet("blue", ifname), inside("blue", f"{IPV6}/{ifname}/disable_ipv6")]

    subprocess.run(["ip", "-n", "blue", "link", "add", "e1", "type", "bridge"], check=True)
    write("blue", f"{IPV4}/conf/e1/route_localnet", 1)
    write("blue", f"{IPV6}/e1/disable_ipv6", 1)
    # a change to a name that is taken fails, and what it had set is given back, to ours
    wish = replace(SET, addresses=["fd00::1/64"], ifname="e1", route_localnet=False)
    [result] = host.update([(wired, replace(six, a=wish))])
    assert isinstance(result.error, NameInUse)
    assert (localnet("blue", "e0"), their("e1")) == ("1", ["1", "1"])
    subprocess.run(["ip", "-n", "blue", "link", "set", "e0", "name", "mine"], check=True)
    subprocess.run(["ip", "-n", "blue", "link", "set", "e1", "name", "e0"], check=True)
    write("blue", f"{IPV4}/conf/e0/route_localnet", 0)
    [result] = host.mend([wired])
    assert result.error is not None and their("e0") == ["0", "1"]
    [result] = host.update([(wired, replace(six, a=replace(wish, ifname="other")))])
    assert their("e0") == ["0", "1"]
    host.disconnect([result.wired] if result.wired else [])


@pytest.mark.parametrize("mode", ["move", "recreate"])
def test_settings_move_with_their_end(host, rooms, mode):
    wired = one(host, PAIR)
    [result] = host.move([Move(wired, 0, "green", mode)])
    assert result.ok
    assert (localnet("green", "e0"), groups("green")) == ("1", ["0", "2147483647"])
    assert verify.verify([result.wired])[0].ok
    host.disconnect([result.wired])


def test_other_kinds_have_settings(host, rooms):
    for connection in (
        Vxlan(a=SET, vni=5, underlay="red"),
        Device("bridge", SET),
        Device("loopback", End("blue", "lo", ping_group_range=(3, 4))),
    ):
        host.disconnect([one(host, connection)])
    assert groups("blue") == ["3", "4"]


def test_a_group_that_the_user_namespace_does_not_have_is_an_error(rooms):
    script = """
from fastnl import *
from fastnl._nl import new_netns
import os
fd = new_netns()
[r] = Host().connect([Veth(End(f"file:/proc/self/fd/{fd}", "e0", ping_group_range=(0, 7)), End("", "e0"))])
print(r.error.field, r.error.errno, r.error.phase)
print(os.listdir("/sys/class/net"))
"""
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", "--mount", "sh", "-c",
         'mount -t sysfs none /sys && exec "$0" -c "$1"', sys.executable, script],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "unshare failed" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(f"no user namespaces here: {done.stderr.strip()}")
    assert done.stdout.splitlines() == [f"a.ping_group_range {errno.EINVAL} setting", "['lo']"], done.stderr


READ_ONLY = """
import sys
from fastnl import *
from fastnl.testing import ip_json
plain = End("red", "e0")
for end in (End("blue", "e0", route_localnet=True), End("blue", "e0", ["fd00::1/64"])):
    [r] = Host().connect([Veth(end, plain)])
    print(r.error.field, r.error.errno, r.error.message.rpartition(";")[2])
print(len(ip_json("blue", "link", "show")))
"""


def test_where_proc_sys_is_read_only_the_error_says_so(host, rooms):
    off("blue")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c",
         'mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$0" -c "$1"',
         sys.executable, READ_ONLY],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        f"a.route_localnet {errno.EROFS}  the engine needs to write it",
        f"a.addresses[0] {errno.EACCES}  /proc/sys could not be written to switch it on",
        "1",
    ]


def test_settings_are_read_inside_the_namespace(netns):
    netns.make("blue")
    write("blue", f"{IPV4}/ping_group_range", "'7 8'")
    fd = os.open("/run/netns/blue", os.O_RDONLY)
    try:
        paths = [f"{IPV4}/ping_group_range", f"{IPV4}/nosuch", f"{IPV4}/conf/lo/route_localnet"]
        assert read_settings(fd, paths) == ["7 8", None, "0"]
        assert read_settings(fd, []) == []
    finally:
        os.close(fd)
    with pytest.raises(OSError, match="Bad file"):
        read_settings(fd, paths)


def test_a_setting_that_cannot_be_written_fails_its_item_before_its_messages():
    fd = new_netns()
    try:
        tour = Tour(2)
        visit = tour.visit(fd)
        visit.route_localnet(0, 1, "nosuch")
        visit.allow_ipv6(1, 0, "nosuch")
        visit.device(0, "bridge", "d0")
        visit.device(1, "bridge", "d1")
        tour.run()
        seen = [(p.item, p.phase, p.end, p.place, p.errno, p.soft) for p in tour.problems()]
        assert seen == [(0, 13, 1, 0, errno.ENOENT, False), (1, 13, 0, 2, errno.ENOENT, True)]
        assert [sent for _, sent, _ in visit.states()] == [False, True]
        assert visit.files() == [(0, f"{IPV4}/conf/nosuch/route_localnet"), (1, f"{IPV6}/nosuch/disable_ipv6")]
    finally:
        os.close(fd)
    gone = Tour(1)
    gone.visit(fd).ping_group_range(0, 0, 1, 2)
    gone.run()
    assert [(p.item, p.phase, p.errno) for p in gone.problems()] == [(0, 13, errno.EBADF)] and gone.failed(0)


# -- IPv6 where it is switched off -------------------------------------------------------------------


def test_an_ipv6_address_where_the_namespace_has_it_switched_off(host, rooms):
    off("blue")
    full = End(
        "blue", "e0", ["10.0.0.1/24", "fd00::1/64", "10.0.1.1/24"],
        routes=[Route("10.9.0.0/16", via="10.0.0.2"), Route("fd09::/64", via="fd00::2")],
    )  # fmt: skip
    plain = Veth(End("blue", "p0"), End("red", "p0"), id="plain")
    pair = Veth(full, End("red", "e0", ["10.0.0.2/24", "fd00::2/64"]), id="six")
    results = host.connect([plain, pair])
    assert [r.error for r in results] == [None, None]
    assert all(v.ok for v in verify.verify([r.wired for r in results], alias=host.alias))
    assert addresses("blue", "e0") == {"10.0.0.1/24", "fd00::1/64", "10.0.1.1/24"}
    assert ping("blue", "fd00::2") and ping("red", "fd00::1")
    # nobody else's switch was touched, nor that of an interface that did not ask
    assert [inside("blue", f"{IPV6}/{name}/disable_ipv6") for name in ("all", "default", "lo", "p0", "e0")] == [
        *"1111", "0"
    ]  # fmt: skip
    host.disconnect([r.wired for r in results])


def test_where_it_is_on_nothing_is_written_and_nothing_visited_twice(host, rooms):
    tours = []
    host.trace = lambda tour, threads: tours.append([len(v.files()) for v in tour.visits])
    one(host, Veth(End("blue", "e0", ["fd00::1/64"]), End("red", "e0", ["fd00::2/64"])))
    assert tours == [[0, 0, 0]]


def test_the_other_end_and_other_kinds(host, rooms):
    off("red")
    for connection in (
        Veth(End("blue", "e0"), End("red", "e0", ["fd00::2/64"])),
        Vxlan(a=End("red", "vx0", ["fd00::2/64"]), vni=5, underlay="blue"),
        Device("bridge", End("red", "br0", ["fd00::2/64"])),
    ):
        wired = one(host, connection)
        assert addresses("red", connection.ends[-1].ifname) == {"fd00::2/64"}
        host.disconnect([wired])


def test_a_route_that_is_there_is_not_replaced_by_the_second_visit(host, rooms):
    off("blue")
    subprocess.run(["ip", "-n", "blue", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "-n", "blue", "route", "add", "10.9.0.0/16", "dev", "lo"], check=True)
    bad = End("blue", "e0", ["fd00::1/64", "10.0.0.1/24"], routes=[Route("10.9.0.0/16", via="10.0.0.2")])
    [result] = host.connect([Veth(bad, End("red", "e0"))])
    assert isinstance(result.error, KernelError)
    assert (result.error.field, result.error.errno) == ("a.routes[0]", errno.EEXIST)
    assert [row["ifname"] for row in ip_json("blue", "link", "show")] == ["lo"]
    assert ip_json("blue", "route", "show", "10.9.0.0/16")[0]["dev"] == "lo"


def test_an_address_that_comes_later(host, rooms):
    off("blue")
    wired = one(host, Veth(End("blue", "e0", ["10.0.0.1/24"]), End("red", "e0", ["fd00::2/64"])))
    six = Veth(End("blue", "e0", ["10.0.0.1/24", "fd00::1/64"]), End("red", "e0", ["fd00::2/64"]))
    [result] = host.update([(wired, six)])
    assert result.ok and result.wired.places == wired.places
    assert ping("blue", "fd00::2")
    # somebody switches it off again
    write("blue", f"{IPV6}/e0/disable_ipv6", 1)
    assert not verify.verify([result.wired])[0].ok
    [mended] = host.mend([result.wired])
    assert mended.ok and mended.wired == result.wired and verify.verify([mended.wired])[0].ok
    host.disconnect([mended.wired])


@pytest.mark.parametrize("mode", ["move", "recreate"])
def test_a_move_to_where_it_is_switched_off(host, rooms, mode):
    off("green")
    wired = one(host, Veth(End("blue", "e0", ["fd00::1/64"]), End("red", "e0", ["fd00::2/64"])))
    [result] = host.move([Move(wired, 0, "green", mode)])
    assert result.ok, result.error
    assert verify.verify([result.wired])[0].ok and ping("green", "fd00::2")
    host.disconnect([result.wired])


def test_an_interface_of_others_keeps_its_switch(host, rooms):
    off("blue")
    subprocess.run(["ip", "-n", "blue", "link", "add", "d0", "type", "bridge"], check=True)
    [result] = host.connect([Device("existing", End("blue", "d0", ["10.0.0.1/24", "fd00::1/64"]))])
    assert (result.error.field, result.error.errno) == ("a.addresses[1]", errno.EACCES)
    assert "its owner's to switch on" in result.error.message
    assert inside("blue", f"{IPV6}/d0/disable_ipv6") == "1" and addresses("blue", "d0") == set()
