"""Tunnels between two namespaces that stand for hosts, with an underlay pair between them."""

from __future__ import annotations

import socket
import subprocess

import pytest

from fastnl import End, InvalidValue, KernelError, NetnsNotFound, Veth, VniInUse, Vxlan
from fastnl.testing import eventually, ip_json, nsenter, ping

OUTER = {4: ("192.0.2.1", "192.0.2.2", 24), 6: ("2001:db8::1", "2001:db8::2", 64)}


@pytest.fixture
def hosts(host, netns):
    """Two namespaces as hosts, u0 in each, with addresses of both families."""
    left, right = netns.make("left"), netns.make("right")
    ends = [
        End(name, "u0", [f"{OUTER[family][i]}/{OUTER[family][2]}" for family in (4, 6)])
        for i, name in enumerate((left, right))
    ]
    [result] = host.connect([Veth(*ends)])
    assert result.ok
    return left, right


def tunnels(family: int, netns, **fields) -> list[Vxlan]:
    """One on each host, from a namespace of its own: their ends are 10.9.0.1 and 10.9.0.2."""
    local, remote, _ = OUTER[family]
    return [
        Vxlan(a=End(name, "vx0", [f"10.9.0.{n}/24"]), local=here, remote=there, underlay=at, **{"vni": 42, **fields})
        for n, (name, here, there, at) in enumerate(
            [(netns.make("blue"), local, remote, "left"), (netns.make("red"), remote, local, "right")], 1
        )
    ]  # fmt: skip


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("port", [4789, 8472])
def test_ping_goes_across_a_tunnel_between_two_hosts(host, hosts, netns, family, port):
    results = host.connect(tunnels(family, netns, port=port))
    assert [r.error for r in results] == [None, None]
    assert ping("blue", "10.9.0.2")
    assert ping("red", "10.9.0.1")
    assert all(r.changed for r in host.disconnect([r.wired for r in results]))
    assert [len(ip_json(name, "link", "show")) for name in ("blue", "red", "left", "right")] == [1, 1, 2, 2]


def test_the_tunnel_stays_in_the_underlay_while_its_interface_lives_elsewhere(host, hosts, netns):
    [result, _] = host.connect(tunnels(4, netns))

    def listening(name: str) -> bool:
        out = subprocess.run(nsenter(name, "ss", "-Hlun"), check=True, capture_output=True, text=True).stdout
        return ":4789 " in out

    assert listening("left")
    assert not listening("blue")
    [row] = ip_json("blue", "link", "show", "vx0")
    assert (row["linkinfo"]["info_kind"], row["ifindex"]) == ("vxlan", result.wired.places[0].ifindex)


def test_ports_and_numbers_read_back_as_asked(host, hosts, netns, seen):
    v = Vxlan(
        a=End(netns.make("blue"), "vx0", mac="02:00:00:00:00:05"),
        vni=0xABCDEF,
        local="192.0.2.1",
        remote="192.0.2.2",
        port=1234,
        underlay="left",
        dev="u0",
        mtu=1300,
        port_range=(2000, 3000),
        ttl=7,
        tos=8,
        df="set",
        learning=False,
        ageing=77,
        limit=500,
        proxy=True,
        rsc=True,
        l2miss=True,
        l3miss=True,
        udp_csum=True,
        id="tunnel",
    )
    [result] = host.connect([v])
    assert result.error is None
    [row] = ip_json("blue", "link", "show", "vx0")
    data = row["linkinfo"]["info_data"]
    assert (row["mtu"], row["address"], row["ifalias"]) == (1300, "02:00:00:00:00:05", "fastnl/test/tunnel/a")
    assert (row["num_tx_queues"], row["group"]) == (1, str(host.group))
    assert (data["id"], data["port"], data["port_range"]) == (0xABCDEF, 1234, {"low": 2000, "high": 3000})
    assert (data["local"], data["remote"], data["ttl"]) == ("192.0.2.1", "192.0.2.2", 7)
    assert (int(data["tos"], 16), data["df"]) == (8, "set")
    assert (data["learning"], data["ageing"], data["limit"]) == (False, 77, 500)
    assert data["proxy"] and data["rsc"] and data["l2miss"] and data["l3miss"] and data["udp_csum"]
    link = seen("blue").links["vx0"]
    info = link.get(("linkinfo", "data"))
    assert (info.get("vxlan_id"), info.get("vxlan_port")) == (0xABCDEF, 1234)
    assert info.get("vxlan_link") == ip_json("left", "link", "show", "u0")[0]["ifindex"]
    [mine] = [r for r in host.links("blue") if r.ifname == "vx0"]
    assert mine.vxlan == {
        "vni": 0xABCDEF, "port": 1234, "local": "192.0.2.1", "remote": "192.0.2.2", "learning": False, "ttl": 7,
    }  # fmt: skip


def test_ipv6_tunnels_read_back_as_asked(host, hosts, netns):
    v = Vxlan(
        a=End(netns.make("blue"), "vx0"), vni=1, local="2001:db8::1", remote="2001:db8::2", underlay="left",
        label=0x12345, ttl="inherit", udp_zero_csum6_tx=True, udp_zero_csum6_rx=True,
    )  # fmt: skip
    assert host.connect([v])[0].error is None
    data = ip_json("blue", "link", "show", "vx0")[0]["linkinfo"]["info_data"]
    assert (data["local6"], data["remote6"], data["label"]) == ("2001:db8::1", "2001:db8::2", "0x12345")
    assert data["udp_zero_csum6_tx"] and data["udp_zero_csum6_rx"]


@pytest.mark.parametrize(
    ("fields", "mtu"),
    [
        ({"local": "192.0.2.1"}, 1450),
        ({"local": "2001:db8::1"}, 1430),
        ({"local": "192.0.2.1", "dev": "u0"}, 1450),
        ({"local": "192.0.2.1", "mtu": 1234}, 1234),
    ],
)
def test_the_outer_headers_have_room(host, hosts, netns, fields, mtu):
    assert host.connect([Vxlan(a=End(netns.make("blue"), "vx0"), vni=1, underlay="left", **fields)])[0].error is None
    assert ip_json("blue", "link", "show", "vx0")[0]["mtu"] == mtu


def test_a_multicast_group_has_a_lower_device(host, hosts, netns):
    v = Vxlan(a=End(netns.make("blue"), "vx0"), vni=1, remote="239.1.1.1", dev="u0", underlay="left")
    assert host.connect([v])[0].error is None
    assert ip_json("blue", "link", "show", "vx0")[0]["linkinfo"]["info_data"]["group"] == "239.1.1.1"


def test_one_external_device_carries_many(host, hosts, netns):
    v = Vxlan(a=End(netns.make("blue"), "vx0"), underlay="left", external=True, vnifilter=True, learning=False)
    assert host.connect([v])[0].error is None
    data = ip_json("blue", "link", "show", "vx0")[0]["linkinfo"]["info_data"]
    assert data["external"] and data["vnifilter"]


def test_group_policy_and_checksum_switches_are_taken(host, hosts, netns):
    v = Vxlan(
        a=End(netns.make("blue"), "vx0"), vni=1, underlay="left", gbp=True, remcsum_tx=True, remcsum_rx=True,
        remcsum_nopartial=True, localbypass=True, tos="inherit", df="inherit",
    )  # fmt: skip
    assert host.connect([v])[0].error is None
    data = ip_json("blue", "link", "show", "vx0")[0]["linkinfo"]["info_data"]
    assert data["gbp"] and data["remcsum_tx"] and data["remcsum_rx"]
    assert data["tos"] in ("0x1", "inherit")


# -- what goes wrong -------------------------------------------------------------------------------


def only_lo(*names: str) -> None:
    for name in names:
        assert [row["ifname"] for row in ip_json(name, "link", "show") if row["ifname"] not in ("lo", "u0")] == []


def test_a_vni_in_use_in_the_underlay_is_an_error_and_its_neighbours_are_whole(host, hosts, netns):
    a, b, c = netns.many(3)
    results = host.connect(
        [
            Vxlan(a=End(a, "vx0"), vni=7, underlay="left"),
            Vxlan(a=End(b, "vx0"), vni=7, underlay="left"),
            Vxlan(a=End(c, "vx0"), vni=7, underlay="right"),
        ]
    )
    assert [r.ok for r in results] == [True, False, True]
    assert isinstance(results[1].error, VniInUse)
    assert results[1].error.field == "vxlan.vni"
    assert "already exists" in results[1].error.ext_ack
    only_lo(b)
    # also in a batch of its own, and with another port it is free
    assert isinstance(host.connect([Vxlan(a=End(b, "vx0"), vni=7, underlay="left")])[0].error, VniInUse)
    assert host.connect([Vxlan(a=End(b, "vx0"), vni=7, port=4790, underlay="left")])[0].ok


def test_a_lower_device_that_is_not_there_is_an_error(host, hosts, netns):
    blue, red = netns.make("blue"), netns.make("red")
    good, bad = host.connect(
        [
            Vxlan(a=End(blue, "vx0"), vni=1, underlay="left", dev="u0", local="192.0.2.1"),
            Vxlan(a=End(red, "vx0"), vni=2, underlay="left", dev="nosuch", local="192.0.2.1"),
        ]
    )
    assert good.ok
    assert isinstance(bad.error, InvalidValue)
    assert bad.error.field == "vxlan.dev"
    only_lo(red)


def test_an_underlay_that_is_not_there_is_an_error(host, hosts, netns):
    [result] = host.connect([Vxlan(a=End(netns.make("blue"), "vx0"), vni=1, underlay="nosuch")])
    assert isinstance(result.error, NetnsNotFound)
    assert result.error.field == "vxlan.underlay"
    only_lo("blue")


def test_an_mtu_that_the_lower_device_cannot_carry_is_an_error(host, hosts, netns):
    # the kernel would take less without a word (vxlan_config_apply)
    blue = netns.make("blue")
    for fields in ({"mtu": 1451, "local": "192.0.2.1"}, {"mtu": 1431, "local": "2001:db8::1"}):
        [result] = host.connect([Vxlan(a=End(blue, "vx0"), vni=1, underlay="left", dev="u0", **fields)])
        assert isinstance(result.error, InvalidValue), fields
        assert result.error.field == "mtu"
        only_lo(blue)
    assert host.connect([Vxlan(a=End(blue, "vx0"), vni=1, underlay="left", dev="u0", mtu=1450)])[0].ok


def test_a_udp_port_that_another_program_has_is_an_error_and_nothing_is_left(host, hosts, netns):
    blue = netns.make("blue")
    script = (
        "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', 4789)); print(1, flush=True); input()"
    )
    with subprocess.Popen(
        nsenter("left", "python3", "-c", script), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "1\n"
        [result] = host.connect([Vxlan(a=End(blue, "vx0"), vni=1, underlay="left")])
        other.communicate("\n")
    assert isinstance(result.error, KernelError)
    assert (result.error.phase, result.error.field) == ("up", "a")
    assert "UDP port" in result.error.message
    only_lo(blue)


def test_a_tunnel_whose_container_is_gone_is_disconnected_without_an_error(host, hosts, netns):
    results = host.connect(tunnels(4, netns))
    netns.let_go("blue")
    done = host.disconnect([r.wired for r in results])
    assert [r.ok for r in done] == [True, True]
    assert done[1].changed
    # with the container its interface went, and with that the tunnel's socket in the underlay
    assert eventually(lambda: host.connect([Vxlan(a=End("red", "again"), vni=42, underlay="left")])[0].ok)


def test_deleting_the_lower_device_takes_its_tunnels_along_and_that_is_no_error(host, hosts, netns):
    [result] = host.connect(
        [Vxlan(a=End(netns.make("blue"), "vx0"), vni=1, underlay="left", dev="u0", local="192.0.2.1")]
    )
    subprocess.run(["ip", "-n", "left", "link", "delete", "u0"], check=True)
    only_lo("blue")
    [done] = host.disconnect([result.wired])
    assert (done.ok, done.changed) == (True, False)


def test_a_hundred_tunnels_share_one_port(host, hosts, netns):
    blue = netns.make("blue")
    results = host.connect([Vxlan(a=End(blue, f"vx{i}"), vni=i + 1, underlay="left") for i in range(100)])
    assert all(r.ok for r in results)
    assert socket.if_nameindex()  # the process itself has not moved
    assert {r.vxlan["vni"] for r in host.links(blue) if r.vxlan} == set(range(1, 101))
    assert all(r.changed for r in host.disconnect([r.wired for r in results]))
    only_lo(blue)
