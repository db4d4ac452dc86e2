"""Interfaces that lead nowhere else: made by us, or found and furnished."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest

from fastnl import (
    Device,
    End,
    IfnameNotFound,
    InvalidValue,
    KernelError,
    Move,
    NameInUse,
    Neighbour,
    Route,
    Veth,
    verify,
)
from fastnl.testing import eventually, ip_json, nsenter, ping


def ip(netns: str, command: str) -> None:
    subprocess.run(["ip", "-n", netns, *command.split()], check=True)


def show(netns: str, ifname: str) -> dict:
    [row] = ip_json(netns, "-d", "addr", "show", "dev", ifname)
    return row


def addresses(netns: str, ifname: str) -> set[str]:
    return {f"{a['local']}/{a['prefixlen']}" for a in show(netns, ifname)["addr_info"] if a["scope"] != "link"}


def needs(kind: str) -> None:
    """Skips where the running kernel lacks a kind of interface."""
    argv = ["unshare", "-n", "ip", "link", "add", "x", "type", kind, *(["table", "7"] if kind == "vrf" else [])]
    if kind == "tap":
        argv = ["unshare", "-n", "ip", "tuntap", "add", "x", "mode", "tap"]
    if subprocess.run(argv, capture_output=True, check=False).returncode:
        pytest.skip(f"this kernel has no interfaces of kind {kind}")


def one(host, connection):
    [result] = host.connect([connection])
    assert result.error is None, result.error
    [verdict] = verify.verify([result.wired], alias=host.alias)
    assert verdict.ok, verdict.differences
    return result.wired


@pytest.fixture
def blue(netns):
    return netns.make("blue")


# -- made ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "more", "seen"),
    [("bridge", {}, "bridge"), ("dummy", {}, "dummy"), ("vrf", {"table": 1007}, "vrf"), ("tap", {}, "tun")],
)
def test_a_device_is_made_changed_mended_and_taken_away(host, blue, kind, more, seen):
    needs(kind)
    end = End(blue, "d0", ["10.0.0.1/24"], mac="02:00:00:00:00:01", mtu=1400)
    wired = one(host, Device(kind, end, "mine", **more))
    row = show(blue, "d0")
    assert (row["linkinfo"]["info_kind"], row["ifindex"], row["mtu"]) == (seen, wired.places[0].ifindex, 1400)
    assert (row["ifalias"], "UP" in row["flags"]) == ("fastnl/test/mine/a", True)
    assert int(row["group"]) == host.group
    if kind == "vrf":
        assert row["linkinfo"]["info_data"]["table"] == 1007
    if kind == "tap":
        assert (row["linkinfo"]["info_data"]["type"], row["linkinfo"]["info_data"]["persist"]) == ("tap", True)
    changed = Device(kind, End(blue, "d1", ["10.0.0.2/24"], mac="02:00:00:00:00:01", mtu=1300), "mine", **more)
    [result] = host.update([(wired, changed)])
    assert result.error is None and result.wired.places == wired.places
    assert (addresses(blue, "d1"), show(blue, "d1")["mtu"]) == ({"10.0.0.2/24"}, 1300)
    ip(blue, "link set d1 down")
    assert host.mend([result.wired])[0].error is None
    assert "UP" in show(blue, "d1")["flags"]
    ip(blue, "link del d1")
    [result] = host.mend([result.wired])
    assert result.error is None and addresses(blue, "d1") == {"10.0.0.2/24"}
    assert host.disconnect([result.wired])[0].changed
    assert [r["ifname"] for r in ip_json(blue, "link")] == ["lo"]


def test_a_kind_that_the_kernel_lacks_is_told_as_such(host, blue):
    """Of those that are made, each is there or refused with what to do."""
    results = host.connect(
        [
            Device("dummy", End(blue, "d0"), "d"),
            Device("vrf", End(blue, "v0"), "v", table=9),
            Device("bridge", End(blue, "b0")),
        ]
    )
    for result in results:
        assert result.ok or "load the module" in result.error.message, result.error
    host.disconnect([r.wired for r in results if r.ok])


@pytest.mark.parametrize("kind", ["bridge", "tap"])
def test_a_name_that_is_taken_is_told_and_its_owner_left_alone(host, blue, foreign, kind):
    needs(kind)
    foreign(blue, "d0")
    before = ip_json(blue, "link", "show")
    [result] = host.connect([Device(kind, End(blue, "d0"), "mine")])
    assert isinstance(result.error, NameInUse)
    assert ip_json(blue, "link", "show") == before


def test_a_failing_device_leaves_nothing_and_its_neighbours_whole(host, blue):
    needs("tap")
    bad = End(blue, "t0", ["10.0.0.1/24"], routes=[Route("10.9.0.0/24", via="172.16.0.1")])
    results = host.connect([Device("tap", bad, "bad"), Device("bridge", End(blue, "d0", ["10.1.0.1/24"]), "good")])
    assert isinstance(results[0].error, KernelError) and results[0].error.field == "a.routes[0]"
    assert results[1].ok
    assert {r["ifname"] for r in ip_json(blue, "link")} == {"lo", "d0"}
    host.disconnect([results[1].wired])


def test_ports_of_a_bridge_that_is_in_the_same_batch(host, netns, blue):
    leaves = [netns.make("red"), netns.make("green")]
    ports = [
        Veth(End(blue, f"p{n}", master="br0"), End(leaf, "e0", [f"10.0.0.{n + 1}/24"]), f"port{n}")
        for n, leaf in enumerate(leaves)
    ]
    results = host.connect([*ports, Device("bridge", End(blue, "br0"), "bridge")])
    assert all(r.ok for r in results), [r.error for r in results]
    assert show(blue, "p0")["master"] == "br0"
    assert eventually(lambda: ping("red", "10.0.0.2", wait=1))
    ip(blue, "link set p0 nomaster")
    assert host.mend([results[0].wired])[0].error is None
    assert show(blue, "p0")["master"] == "br0" and eventually(lambda: ping("red", "10.0.0.2", wait=1))
    plain = Veth(End(blue, "p0", ["10.0.0.9/24"]), ports[0].b, "port0")
    [result] = host.update([(results[0].wired, plain)])
    assert result.error is None and "master" not in show(blue, "p0") and ping("red", "10.0.0.9")
    [refused] = host.move([Move(results[1].wired, 0, "red")])
    assert isinstance(refused.error, InvalidValue) and refused.error.field == "mode"
    host.disconnect([results[2].wired])
    assert "master" not in show(blue, "p1")


def test_ports_of_a_vrf(host, netns, blue):
    needs("vrf")
    red = netns.make("red")
    vrf = Device("vrf", End(blue, "vrf7"), "vrf", table=7)
    port = Veth(End(blue, "p0", ["10.0.0.1/24"], master="vrf7"), End(red, "p0", ["10.0.0.2/24"]), "port")
    assert all(r.ok for r in host.connect([port, vrf]))
    assert any(r["dst"] == "10.0.0.0/24" for r in ip_json(blue, "route", "show", "table", "7"))
    assert ping(red, "10.0.0.1")


def test_a_master_that_is_not_there_is_named(host, blue):
    [result] = host.connect([Device("tap", End(blue, "d0", master="nowhere"))])
    assert isinstance(result.error, IfnameNotFound) and result.error.field == "a.master"
    assert "nowhere" in result.error.message
    assert [r["ifname"] for r in ip_json(blue, "link")] == ["lo"]


def test_an_end_that_is_to_be_down_is_down_until_it_is_to_be_up(host, netns, blue):
    red = netns.make("red")
    down = Veth(End(blue, "e0", ["10.0.0.1/24"], up=False), End(red, "e0", ["10.0.0.2/24"]), "pair")
    wired = one(host, down)
    assert "UP" not in show(blue, "e0")["flags"] and addresses(blue, "e0") == {"10.0.0.1/24"}
    assert not ping(red, "10.0.0.1", wait=0.3)
    up = Veth(End(blue, "e0", ["10.0.0.1/24"], routes=[Route("10.9.0.0/24", via="10.0.0.2")]), down.b, "pair")
    [result] = host.update([(wired, up)])
    assert result.error is None and result.wired.places == wired.places
    assert ping(red, "10.0.0.1") and any(r["dst"] == "10.9.0.0/24" for r in ip_json(blue, "route"))
    [result] = host.update([(result.wired, down)])
    assert result.error is None and "UP" not in show(blue, "e0")["flags"]
    assert host.mend([result.wired])[0].error is None and "UP" not in show(blue, "e0")["flags"]


ETHTOOL = """
import ctypes, fcntl, socket, struct, sys
for command in (0x14, 0x16):  # ETHTOOL_GRXCSUM, ETHTOOL_GTXCSUM
    value = ctypes.create_string_buffer(struct.pack("II", command, 0))
    request = struct.pack("16sP", sys.argv[1].encode(), ctypes.addressof(value))
    fcntl.ioctl(socket.socket(), 0x8946, request)
    print("on" if struct.unpack_from("II", value)[1] else "off")
"""


def offloads(netns: str, ifname: str) -> list[str]:
    """What the interface does itself of (rx, tx) checksums, asked by ethtool's own ioctl."""
    argv = nsenter(netns, "python3", "-c", ETHTOOL, ifname)
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()


def test_checksums_are_left_to_the_interface_or_not(host, netns, blue):
    red = netns.make("red")
    pair = Veth(End(blue, "e0", rx_checksum=False, tx_checksum=False), End(red, "e0"), "pair")
    wired = one(host, pair)
    assert offloads(blue, "e0") == ["off", "off"]
    assert offloads(red, "e0") == ["on", "on"]
    [result] = host.update([(wired, Veth(End(blue, "e0", rx_checksum=True, tx_checksum=True), pair.b, "pair"))])
    assert result.error is None and result.wired.places == wired.places
    assert offloads(blue, "e0") == ["on", "on"]
    # what is no longer asked for is on, as at birth
    [result] = host.update([(result.wired, replace(pair, a=End(blue, "e0", tx_checksum=False)))])
    assert result.wired.places == wired.places and offloads(blue, "e0") == ["on", "off"]
    [result] = host.update([(result.wired, replace(pair, a=End(blue, "e0")))])
    assert result.wired.places == wired.places and offloads(blue, "e0") == ["on", "on"]


# -- found -----------------------------------------------------------------------------------------


def test_an_interface_of_somebody_else_gets_what_it_shall_have_and_loses_only_that(host, blue, foreign):
    foreign(blue, "br0")
    ip(blue, "addr add 10.44.0.1/24 dev br0")
    before = ip_json(blue, "addr", "show", "dev", "br0")
    end = End(
        blue, "br0", ["10.0.0.1/24"], routes=[Route("10.9.0.0/24", via="10.0.0.9")],
        neighbours=[Neighbour("10.0.0.9", "02:00:00:00:00:09")],
    )  # fmt: skip
    wired = one(host, Device("existing", end, "ext"))
    assert wired.places[0].ifindex == before[0]["ifindex"]
    assert addresses(blue, "br0") == {"10.44.0.1/24", "10.0.0.1/24"}
    assert "ifalias" not in show(blue, "br0") and show(blue, "br0")["group"] == "default"
    more = Device("existing", End(blue, "br0", ["10.0.0.1/24", "10.0.1.1/24"]), "ext")
    [result] = host.update([(wired, more)])
    assert result.error is None and addresses(blue, "br0") == {"10.44.0.1/24", "10.0.0.1/24", "10.0.1.1/24"}
    ip(blue, "addr del 10.0.0.1/24 dev br0")
    assert host.mend([result.wired])[0].error is None and "10.0.0.1/24" in addresses(blue, "br0")
    assert host.disconnect([result.wired])[0].changed
    after = ip_json(blue, "addr", "show", "dev", "br0")
    assert [a["local"] for a in after[0]["addr_info"] if a["scope"] == "global"] == ["10.44.0.1"]
    assert after[0]["ifindex"] == before[0]["ifindex"]


def test_the_loopback_interface_keeps_what_makes_it_one(host, blue):
    wired = one(host, Device("loopback", End(blue, "lo", ["127.0.0.1/8", "10.255.0.1/32"]), "lo"))
    assert addresses(blue, "lo") >= {"127.0.0.1/8", "10.255.0.1/32"}
    assert host.disconnect([wired])[0].changed
    assert "127.0.0.1/8" in addresses(blue, "lo") and "10.255.0.1/32" not in addresses(blue, "lo")
    assert "UP" in show(blue, "lo")["flags"]


def test_what_is_not_there_is_told_and_taken_when_it_is(host, blue, foreign):
    want = Device("existing", End(blue, "br0", ["10.0.0.1/24"]), "ext")
    [result] = host.connect([want])
    assert isinstance(result.error, IfnameNotFound) and result.error.field == "a.ifname"
    foreign(blue, "br0")
    wired = one(host, want)
    ip(blue, "link del br0")
    [result] = host.mend([wired])
    assert isinstance(result.error, IfnameNotFound)
    assert not host.disconnect([wired])[0].changed
    foreign(blue, "br0")
    host.disconnect([one(host, want)])


def test_what_is_ours_already_is_nobodys_to_find(host, blue):
    made = one(host, Device("bridge", End(blue, "d0"), "d"))
    [result] = host.connect([Device("existing", End(blue, "d0", ["10.0.0.1/24"]), "ext")])
    assert isinstance(result.error, NameInUse)
    host.disconnect([made])


def test_found_that_cannot_be_furnished_gets_nothing(host, blue, foreign):
    foreign(blue, "br0")
    bad = End(blue, "br0", ["10.0.0.1/24"], routes=[Route("10.9.0.0/24", via="172.16.0.1")])
    [result] = host.connect([Device("existing", bad, "ext")])
    assert isinstance(result.error, KernelError) and result.error.field == "a.routes[0]"
    assert addresses(blue, "br0") == set()


def test_found_stays_where_it_is_and_mixes_with_what_is_made(host, netns, blue, foreign):
    red = netns.make("red")
    foreign(blue, "br0")
    results = host.connect(
        [
            Device("existing", End(blue, "br0", ["10.0.0.1/24"]), "ext"),
            Veth(End(blue, "e0"), End(red, "e0"), "pair"),
            Device("loopback", End(red, "lo", ["10.255.0.1/32"]), "lo"),
            Device("existing", End(blue, "none"), "none"),
            Device("bridge", End(red, "d0"), "d"),
        ]
    )
    assert [r.ok for r in results] == [True, True, True, False, True]
    [refused] = host.move([Move(results[0].wired, 0, red)])
    assert isinstance(refused.error, InvalidValue)
    assert all(r.changed for r in host.disconnect([r.wired for r in results if r.ok]))
    assert {r["ifname"] for r in ip_json(blue, "link")} == {"lo", "br0"}
    assert [r["ifname"] for r in ip_json(red, "link")] == ["lo"]


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Device("teapot", End("", "b0")), "kind"),
        (lambda: Device("vrf", End("", "v0")), "vrf.table"),
        (lambda: Device("vrf", End("", "v0"), table=0), "vrf.table"),
        (lambda: Device("bridge", End("", "d0"), table=7), "vrf"),
        (lambda: Device("loopback", End("", "lo1")), "a.ifname"),
        (lambda: Device("loopback", End("", "lo", up=False)), "a.up"),
        (lambda: Device("vrf", End("", "v0", master="v1"), table=7), "a.master"),
        (lambda: End("", "d0", master="d0"), "master"),
        (lambda: End("", "d0", master="x" * 16), "master"),
        (lambda: End("", "d0", up=False, routes=[Route("10.0.0.0/8")]), "routes"),
        (lambda: Device("existing", End("", "d0", queues=2)), "a.queues"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_field(make, field):
    with pytest.raises(InvalidValue) as caught:
        make()
    assert caught.value.field == field


def test_without_the_device_file_a_tap_is_refused_with_a_reason(host, blue):
    needs("tap")
    subprocess.run(["mount", "-t", "tmpfs", "none", "/dev/net"], check=True)
    try:
        [result] = host.connect([Device("tap", End(blue, "t0"), "t")])
    finally:
        subprocess.run(["umount", "/dev/net"], check=True)
    assert isinstance(result.error, KernelError) and "/dev/net/tun" in result.error.message


def test_a_route_has_the_scope_that_was_asked_for(host, netns, blue):
    red = netns.make("red")
    routes = [Route("10.8.0.0/24", scope="host"), Route("10.9.0.0/24", via="10.0.0.2", scope="site")]
    pair = Veth(End(blue, "e0", ["10.0.0.1/24"], routes=routes), End(red, "e0", ["10.0.0.2/24"]), "pair")
    wired = one(host, pair)
    scopes = {r["dst"]: r.get("scope") for r in ip_json(blue, "-d", "route", "show", "proto", "static")}
    assert scopes == {"10.8.0.0/24": "host", "10.9.0.0/24": "site"}
    [result] = host.update([(wired, Veth(End(blue, "e0", ["10.0.0.1/24"], routes=routes[:1]), pair.b, "pair"))])
    assert result.error is None
    assert [r["dst"] for r in ip_json(blue, "-d", "route", "show", "proto", "static")] == ["10.8.0.0/24"]


@pytest.mark.parametrize(("to", "more"), [("10.0.0.0/8", {"scope": "moon"}), ("fd00::/8", {"scope": "link"}),
                                          ("10.0.0.0/8", {"scope": "link", "via": "10.0.0.1"})])  # fmt: skip
def test_a_scope_that_cannot_be_is_refused(to, more):
    with pytest.raises(InvalidValue) as caught:
        Route(to, **more)
    assert caught.value.field == "route.scope"


def test_addresses_of_others_are_kept_where_that_is_asked_for(host, netns, blue):
    red = netns.make("red")
    wired = one(host, Veth(End(blue, "e0", ["10.0.0.1/24"], keep_addresses=True), End(red, "e0"), "pair"))
    ip(blue, "addr add 10.44.0.1/24 dev e0")
    ip(red, "addr add 10.44.0.2/24 dev e0")
    [verdict] = verify.verify([wired])
    assert [d.field for d in verdict.differences] == ["b.addresses"]
    assert host.mend([wired], strict=True)[0].error is None
    assert addresses(blue, "e0") == {"10.0.0.1/24", "10.44.0.1/24"} and addresses(red, "e0") == set()


def test_what_was_there_before_an_interface_was_found_is_not_taken_away_by_a_failure(host, blue, foreign):
    foreign(blue, "br0")
    for command in ("addr add 10.44.0.1/24 dev br0", "link set br0 up", "route add 10.9.0.0/24 dev br0"):
        ip(blue, command)
    end = End(blue, "br0", ["10.44.0.1/24", "10.0.0.1/24"], routes=[Route("10.9.0.0/24")])
    [result] = host.connect([Device("existing", end, "ext")])
    assert isinstance(result.error, KernelError) and result.error.field == "a.addresses[0]"
    assert addresses(blue, "br0") == {"10.44.0.1/24"}
    assert [r["dst"] for r in ip_json(blue, "route", "show", "dev", "br0")].count("10.9.0.0/24") == 1
