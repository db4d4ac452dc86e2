"""Whatever differs from what was asked for is named, exactly, and nothing else is."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from fastnl import Connection, End, Host, Neighbour, Route, Veth, Vxlan, Wired, sight
from fastnl.errors import InvalidValue, NoPermission
from fastnl.testing import Namespaces, eventually, ip_json, nsenter
from fastnl.verify import Difference, verify

MAC_A, MAC_B, MAC_C = "02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0c"


def ip(netns: str, command: str) -> None:
    subprocess.run(["ip", "-n", netns, *command.split()] if netns else ["ip", *command.split()], check=True)


def wire(host: Host, *connections: Connection) -> list[Wired]:
    results = host.connect(connections)
    assert not [r.error for r in results if r.error]
    return [r.wired for r in results if r.wired]


def found(wired: Wired, **kwargs: Callable[[Connection, int], str]) -> dict[str, tuple[object, object]]:
    """The differences of one connection, which has one at most for each field."""
    [verdict] = verify([wired], **kwargs)
    assert verdict.ok is (not verdict.differences)
    out = {d.field: (d.want, d.have) for d in verdict.differences}
    assert len(out) == len(verdict.differences)
    return out


def by_name(wired: Wired) -> Wired:
    return Wired(wired.connection, ())


def full(a: str, b: str) -> Veth:
    """A pair that uses every field there is, in both families."""
    return Veth(
        End(
            a,
            "e0",
            ["10.0.0.1/24", "10.7.0.1/32", "FD00:0::1/64", "fd07::7/128"],
            mac=MAC_A.upper(),
            mtu=1400,
            txqlen=77,
            queues=2,
            routes=[
                Route("10.1.0.0/16", "10.0.0.2"),
                Route("10.2.0.0/16"),
                Route("10.3.0.0/16", "10.0.0.2", metric=5, table=1000, source="10.7.0.1"),
                Route("10.4.0.0/16", "198.51.100.9", onlink=True),
                Route("fd01::/64", "fd00::2"),
                Route("fd02::/64"),
                Route("fd03::/64", "fd00::2", metric=5, table=200, source="fd07::7"),
                Route("fd04::/64", "fe80::99", onlink=True),
                Route("default", "10.0.0.2"),
                Route("default", "fd00::2"),
            ],
            neighbours=[
                Neighbour("10.0.0.2", MAC_B),
                Neighbour("fd00::2", MAC_B.upper(), state="noarp"),
                Neighbour("10.0.0.9", MAC_C, state="stale"),
            ],
        ),
        End(b, "e0", ["10.0.0.2/24", "fd00::2/64"], mac=MAC_B),
        id="full",
        mtu=1500,
    )


@pytest.fixture
def pair(netns: Namespaces, host: Host) -> Wired:
    """A simple pair, between namespaces a and b."""
    a = End(netns.make("a"), "e0", ["10.0.0.1/24"], routes=[Route("10.1.0.0/16", "10.0.0.2")])
    b = End(netns.make("b"), "e0", ["10.0.0.2/24"], neighbours=[Neighbour("10.0.0.1", MAC_A)])
    return wire(host, Veth(a, b))[0]


@pytest.fixture
def pair6(netns: Namespaces, host: Host) -> Wired:
    a = End(netns.make("a"), "e0", ["fd00::1/64"], routes=[Route("fd01::/64", "fd00::2")])
    b = End(netns.make("b"), "e0", ["fd00::2/64"], neighbours=[Neighbour("fd00::1", MAC_A)])
    return wire(host, Veth(a, b))[0]


# -- nothing to tell -------------------------------------------------------------------------------


def test_a_fresh_pair_with_everything(netns: Namespaces, host: Host) -> None:
    [w] = wire(host, full(netns.make("a"), netns.make("b")))
    assert found(w, alias=host.alias) == {}
    assert found(by_name(w), alias=host.alias) == {}


def test_nothing_is_nothing() -> None:
    assert verify([]) == []


def test_verdicts_come_in_the_order_given(netns: Namespaces, host: Host) -> None:
    a, b = netns.make("a"), netns.make("b")
    wired = wire(host, *(Veth(End(a, f"e{i}"), End(b, f"e{i}")) for i in range(5)))
    ip(a, "link set e3 mtu 1300")
    wired[3] = replace(wired[3], connection=replace(wired[3].connection, mtu=1500))
    wired.reverse()
    verdicts = verify(wired)
    assert [v.wired for v in verdicts] == wired
    assert [v.ok for v in verdicts] == [True, False, True, True, True]


def test_what_was_not_asked_for_is_not_compared(pair: Wired) -> None:
    ip("a", f"link set e0 mtu 1300 address {MAC_C} txqueuelen 5 alias whatever")
    ip("a", "route add 10.9.0.0/16 via 10.0.0.2")
    ip("a", f"neigh add 10.0.0.77 lladdr {MAC_C} dev e0")
    assert found(pair) == {}


def test_link_local_addresses_go_with_ipv6(pair6: Wired) -> None:
    assert any(
        x["scope"] == "link" for x in ip_json("a", "-6", "addr", "show", "e0")[0]["addr_info"]
    )  # and they are not counted
    assert found(pair6) == {}


def test_both_ends_in_one_namespace(netns: Namespaces, host: Host) -> None:
    a = netns.make("a")
    [w] = wire(host, Veth(End(a, "e0", ["10.0.0.1/24"]), End(a, "e1")))
    assert found(w) == found(by_name(w)) == {}


def test_the_callers_own_namespace_and_every_way_to_say_the_same(netns: Namespaces, host: Host) -> None:
    a = netns.make("a")
    inode = os.stat(f"/run/netns/{a}").st_ino
    refs = ["", f"pid:{os.getpid()}", f"inode:{inode}", f"name:{a}", f"file:/run/netns/{a}"]
    wired = wire(host, *(Veth(End(ref, f"x{i}"), End(a, f"y{i}")) for i, ref in enumerate(refs)))
    try:
        assert [v.differences for v in verify(wired)] == [()] * len(refs)
        assert [v.differences for v in verify([by_name(w) for w in wired])] == [()] * len(refs)
    finally:
        host.disconnect(wired)


def test_many_in_one_namespace_are_read_with_one_dump(
    netns: Namespaces, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = netns.make("a"), netns.make("b")
    count = sight.FEW + 4
    wired = wire(
        host,
        *(
            Veth(
                End(a, f"e{i}", [f"10.{i}.0.1/24", f"fd{i:02}::1/64"], routes=[Route(f"10.{i}.9.0/24", f"10.{i}.0.2")]),
                End(b, f"e{i}", [f"10.{i}.0.2/24"], neighbours=[Neighbour(f"10.{i}.0.1", MAC_A)]),
            )
            for i in range(count)
        ),
    )
    monkeypatch.setattr(sight.Reader, "link", None)  # none is asked for by itself
    assert [v.differences for v in verify(wired)] == [()] * count
    assert [v.differences for v in verify([by_name(w) for w in wired])] == [()] * count
    ip(a, "route del 10.7.9.0/24")
    ip(b, "neigh del 10.9.0.1 dev e9")
    ip(a, "addr del 10.11.0.1/24 dev e11")
    assert {i: [d.field for d in v.differences] for i, v in enumerate(verify(wired)) if not v.ok} == {
        7: ["a.routes[0]"],
        9: ["b.neighbours[0]"],
        11: ["a.addresses[0]", "a.routes[0]"],
    }


# -- an end that is not what it was ----------------------------------------------------------------

CHANGES = {
    "link set e0 down": {"a.up": (True, False), "a.routes[0]": ("10.1.0.0/16 via 10.0.0.2", None)},
    "link set e0 mtu 1400": {},
    "link set e0 name e9": {"a.ifname": ("e0", "e9")},
    "addr del 10.0.0.1/24 dev e0": {
        "a.addresses[0]": ("10.0.0.1/24", None),
        "a.routes[0]": ("10.1.0.0/16 via 10.0.0.2", None),
    },
    "addr add 10.0.0.8/24 dev e0": {"a.addresses": (None, "10.0.0.8/24")},
    "addr add 10.0.0.8 peer 10.0.0.9/32 dev e0": {"a.addresses": (None, "10.0.0.8 peer 10.0.0.9/32")},
    "addr add fd00::8/64 dev e0": {"a.addresses": (None, "fd00::8/64")},
    "addr add 169.254.1.1/16 dev e0": {"a.addresses": (None, "169.254.1.1/16")},
    "addr add fe80::8/64 dev e0": {"a.addresses": (None, "fe80::8/64")},
    "route del 10.1.0.0/16": {"a.routes[0]": ("10.1.0.0/16 via 10.0.0.2", None)},
    "route replace 10.1.0.0/16 via 10.0.0.3": {"a.routes[0]": ("10.1.0.0/16 via 10.0.0.2", "10.1.0.0/16 via 10.0.0.3")},
    "route replace 10.1.0.0/16 via 10.0.0.2 dev e0 onlink": {
        "a.routes[0]": ("10.1.0.0/16 via 10.0.0.2", "10.1.0.0/16 via 10.0.0.2 onlink")
    },
    "route replace 10.1.0.0/16 dev e0": {"a.routes[0]": ("10.1.0.0/16 via 10.0.0.2", "10.1.0.0/16 scope link")},
    "route replace 10.1.0.0/16 nexthop via 10.0.0.2 nexthop via 10.0.0.3": {},  # ours is one of its next hops
    "route replace unreachable 10.1.0.0/16": {"a.routes[0]": ("10.1.0.0/16 via 10.0.0.2", None)},
}


@pytest.mark.parametrize("command", CHANGES)
def test_a_change_is_named(pair: Wired, command: str) -> None:
    ip("a", command)
    assert found(pair) == CHANGES[command]


def test_a_route_of_another_metric_table_or_source(netns: Namespaces, host: Host) -> None:
    a, b = netns.make("a"), netns.make("b")
    [w] = wire(host, full(a, b))
    for old, new in [
        ("10.3.0.0/16 table 1000", "10.3.0.0/16 via 10.0.0.2 table 1000 metric 6 src 10.7.0.1 dev e0"),
        ("10.2.0.0/16", "10.2.0.0/16 dev e0 scope global"),
        ("10.4.0.0/16", "10.4.0.0/16 dev e0 table 7"),
        ("fd01::/64", "fd01::/64 via fd00::2 metric 1025"),
        ("fd03::/64 table 200", "fd03::/64 via fd00::2 table 200 metric 5"),
        ("default", "default via 10.0.0.2 metric 1"),
        ("fd02::/64", "fd02::/64 dev e0 table 7"),
    ]:
        family = "-6 " if "fd" in old else ""
        ip(a, f"{family}route del {old}")
        ip(a, f"{family}route add {new}")
    assert found(w) == {
        "a.routes[1]": ("10.2.0.0/16 scope link", "10.2.0.0/16"),
        "a.routes[2]": (
            "10.3.0.0/16 via 10.0.0.2 table 1000 src 10.7.0.1 metric 5",
            "10.3.0.0/16 via 10.0.0.2 table 1000 src 10.7.0.1 metric 6",
        ),
        "a.routes[3]": ("10.4.0.0/16 via 198.51.100.9 onlink", None),
        "a.routes[4]": ("fd01::/64 via fd00::2 metric 1024", "fd01::/64 via fd00::2 metric 1025"),
        "a.routes[5]": ("fd02::/64 metric 1024", None),
        "a.routes[6]": (
            "fd03::/64 via fd00::2 table 200 src fd07::7 metric 5",
            "fd03::/64 via fd00::2 table 200 metric 5",
        ),
        "a.routes[8]": ("0.0.0.0/0 via 10.0.0.2", "0.0.0.0/0 via 10.0.0.2 metric 1"),
    }


def test_a_route_of_that_kind_through_another_interface_does_not_count(pair: Wired, host: Host) -> None:
    wire(host, Veth(End("a", "e1", ["10.0.5.1/24"]), End("b", "e1")))
    ip("a", "route replace 10.1.0.0/16 via 10.0.5.2 dev e1")
    assert found(pair) == {"a.routes[0]": ("10.1.0.0/16 via 10.0.0.2", None)}


def test_an_address_of_another_length_is_one_difference(pair: Wired) -> None:
    ip("b", "addr add 10.0.0.2/25 dev e0")  # first, as the last address takes the neighbours along
    ip("b", "addr del 10.0.0.2/24 dev e0")
    assert found(pair) == {"b.addresses[0]": ("10.0.0.2/24", "10.0.0.2/25")}


def test_ipv6_addresses(pair6: Wired) -> None:
    ip("b", "addr del fd00::2/64 dev e0")
    ip("b", "addr add fd00::3/64 dev e0")
    assert found(pair6) == {"b.addresses[0]": ("fd00::2/64", None), "b.addresses": (None, "fd00::3/64")}


def test_mtu_mac_queue_and_alias_that_were_asked_for(netns: Namespaces, host: Host) -> None:
    a, b = netns.make("a"), netns.make("b")
    [w] = wire(host, full(a, b))
    ip(a, f"link set e0 mtu 1300 txqueuelen 78 address {MAC_C} alias mine")
    ip(b, "link set e0 mtu 1450")
    assert found(w, alias=host.alias) == {
        "a.mtu": (1400, 1300),
        "a.mac": (MAC_A, MAC_C),
        "a.txqlen": (77, 78),
        "a.alias": ("fastnl/test/full/a", "mine"),
        "b.mtu": (1500, 1450),
        # a change of the MAC makes the kernel forget them
        "a.neighbours[0]": (f"10.0.0.2 lladdr {MAC_B} permanent", None),
        "a.neighbours[1]": (f"fd00::2 lladdr {MAC_B} noarp", None),
        "a.neighbours[2]": (f"10.0.0.9 lladdr {MAC_C} stale", None),
    }


def test_the_number_of_queues(pair: Wired) -> None:
    a, b = pair.connection.ends
    asked = Veth(End("a", "e0", a.addresses, routes=a.routes, queues=4), b)
    assert found(Wired(asked, pair.places)) == {"a.queues": (4, 1)}


@pytest.mark.parametrize(
    ("command", "have"),
    [
        ("neigh del 10.0.0.1 dev e0", None),
        (f"neigh replace 10.0.0.1 lladdr {MAC_B} dev e0", f"10.0.0.1 lladdr {MAC_B} permanent"),
        (f"neigh replace 10.0.0.1 lladdr {MAC_A} nud noarp dev e0", f"10.0.0.1 lladdr {MAC_A} noarp"),
        (f"neigh replace 10.0.0.1 lladdr {MAC_A} nud stale dev e0", f"10.0.0.1 lladdr {MAC_A} stale"),
    ],
)
def test_neighbours(pair: Wired, command: str, have: str | None) -> None:
    ip("b", command)
    assert found(pair) == {"b.neighbours[0]": (f"10.0.0.1 lladdr {MAC_A} permanent", have)}


def test_a_neighbour_that_ages_is_no_difference(netns: Namespaces, host: Host) -> None:
    a, b = netns.make("a"), netns.make("b")
    end = End(a, "e0", ["10.0.0.1/24"], neighbours=[Neighbour("10.0.0.2", MAC_B, state="reachable")])
    [w] = wire(host, Veth(end, End(b, "e0", ["10.0.0.2/24"])))
    ip(a, f"neigh replace 10.0.0.2 lladdr {MAC_B} nud stale dev e0")
    assert found(w) == {}
    ip(a, f"neigh replace 10.0.0.2 lladdr {MAC_C} nud reachable dev e0")
    assert set(found(w)) == {"a.neighbours[0]"}


# -- an end that is not there ----------------------------------------------------------------------


def test_deleted(pair: Wired) -> None:
    a, b = pair.places
    ip("a", "link del e0")
    assert found(pair) == {"a.ifindex": (a.ifindex, None), "b.ifindex": (b.ifindex, None)}
    assert found(by_name(pair)) == {"a.ifname": ("e0", None), "b.ifname": ("e0", None)}


def test_deleted_and_made_again_by_somebody_else(pair: Wired) -> None:
    a, b = pair.places
    ip("a", "link del e0")
    ip("a", "link add e0 index 4242 type bridge")
    assert found(pair) == {"a.ifindex": (a.ifindex, 4242), "b.ifindex": (b.ifindex, None)}
    assert found(by_name(pair)) == {
        "a.kind": ("veth", "bridge"),
        "a.up": (True, False),
        "a.addresses[0]": ("10.0.0.1/24", None),
        "a.routes[0]": ("10.1.0.0/16 via 10.0.0.2", None),
        "b.ifname": ("e0", None),
    }


def test_an_alternative_name_is_not_the_name(pair: Wired) -> None:
    ip("b", "link set e0 down")
    ip("b", "link set e0 name other")
    ip("b", "link property add dev other altname e0")
    assert found(by_name(pair)) == {"b.ifname": ("e0", None)}


def test_moved(netns: Namespaces, pair: Wired) -> None:
    ip("a", f"link set e0 netns {netns.make('c')}")
    assert found(pair) == {"a.ifindex": (pair.places[0].ifindex, None)}


def test_the_namespace_is_missing(netns: Namespaces, pair: Wired) -> None:
    netns.let_go("a")
    # its interface and so the other end go in the kernel's own time, which may be while it is looked at
    differences = found(pair)
    assert differences.pop("a.netns") == (f"inode:{pair.places[0].netns.inode}", None)
    assert all(field.startswith("b.") for field in differences)
    assert eventually(lambda: set(found(pair)) == {"a.netns", "b.ifindex"})
    assert found(by_name(pair))["a.netns"] == ("a", None)


def test_the_namespace_was_replaced_by_one_of_the_same_name(netns: Namespaces, pair: Wired) -> None:
    fd = os.open("/run/netns/a", os.O_RDONLY)  # the old one lives on, and the pair with it
    try:
        netns.let_go("a")
        netns.make("a")
        have = os.stat("/run/netns/a").st_ino
        assert found(pair) == {"a.netns": (f"inode:{pair.places[0].netns.inode}", f"inode:{have}")}
    finally:
        os.close(fd)


def test_a_namespace_with_the_inode_of_one_that_died(netns: Namespaces, pair: Wired) -> None:
    a, b = pair.places
    if a.netns.id == 0:
        pytest.skip("this kernel gives namespaces no id of their own")
    past = replace(a, netns=a.netns._replace(id=a.netns.id - 1))
    assert found(Wired(pair.connection, (past, b))) == {
        "a.netns": (
            f"inode:{a.netns.inode} (id {a.netns.id - 1})",
            f"inode:{a.netns.inode} (id {a.netns.id})",
        )
    }


def test_a_plain_file_is_no_namespace(pair: Wired) -> None:
    connection = replace(pair.connection, a=End("file:/etc/passwd", "e0"))
    assert found(Wired(connection, pair.places)) == {"a.netns": (f"inode:{pair.places[0].netns.inode}", None)}


def test_a_reference_that_cannot_be_one(pair: Wired) -> None:
    with pytest.raises(InvalidValue):
        verify([Wired(replace(pair.connection, a=End("nonsense:1", "e0")), ())])


# -- the other side of a pair ----------------------------------------------------------------------


def test_the_wrong_peer(netns: Namespaces, host: Host) -> None:
    a, b = netns.make("a"), netns.make("b")
    one, two = wire(host, Veth(End(a, "e0"), End(b, "e0")), Veth(End(a, "e1"), End(b, "e1")))
    crossed = Wired(Veth(one.connection.ends[0], two.connection.ends[1]), (one.places[0], two.places[1]))
    assert found(crossed) == {
        "a.peer": (two.places[1].ifindex, one.places[1].ifindex),
        "b.peer": (one.places[0].ifindex, two.places[0].ifindex),
    }


def test_indexes_that_match_by_chance_are_not_a_pair(netns: Namespaces, host: Host) -> None:
    """Four interfaces of the same index, in four namespaces, two pairs: only the namespaces tell which."""
    names = netns.many(4)
    ends = [End(name, "e0") for name in names]
    pairs = [Veth(ends[0], ends[1]), Veth(ends[2], ends[3])]
    results = host.connect(pairs, indexes=[(500, 500), (500, 500)])
    assert all(r.ok for r in results)
    wrong = Wired(Veth(ends[0], ends[3]), (results[0].wired.places[0], results[1].wired.places[1]))
    for wired in (wrong, by_name(wrong)):
        assert found(wired) == {
            "a.peer": (500, "500 in another namespace"),
            "b.peer": (500, "500 in another namespace"),
        }
    for result in results:
        assert found(result.wired) == found(by_name(result.wired)) == {}


# -- tunnels ---------------------------------------------------------------------------------------


@pytest.fixture
def underlay(netns: Namespaces) -> str:
    name = netns.make("under")
    for command in (
        "link add br0 type bridge",
        "addr add 192.0.2.1/24 dev br0",
        "addr add 2001:db8::1/64 dev br0 nodad",
        "link set br0 up",
        "link add br1 type bridge",
    ):
        ip(name, command)
    return name


V4 = {"local": "192.0.2.1", "remote": "192.0.2.2"}
V6 = {"local": "2001:DB8::0:1", "remote": "2001:db8::2"}
TUNNELS = {
    "v4": {"vni": 42, **V4},
    "v6": {"vni": 42, **V6},
    "port": {"vni": 16777215, "port": 9999, **V4},
    "numbers": {
        "vni": 7, **V4, "port_range": (1000, 2000), "ttl": 9, "tos": 16, "df": "set", "ageing": 12, "limit": 34,
    },
    "inherit": {"vni": 7, **V4, "ttl": "inherit", "tos": "inherit", "df": "inherit"},
    "zeros": {"vni": 0, **V4, "ttl": 0, "tos": 0, "df": "unset", "ageing": 0, "limit": 0},
    "label": {"vni": 7, **V6, "label": 0x12345, "udp_zero_csum6_tx": True, "udp_zero_csum6_rx": True},
    "on": {
        "vni": 7, **V4, "learning": True, "proxy": True, "rsc": True, "l2miss": True, "l3miss": True, "udp_csum": True,
        "remcsum_tx": True, "remcsum_rx": True, "remcsum_nopartial": True, "gbp": True,
    },
    "off": {
        "vni": 7, **V4, "learning": False, "proxy": False, "rsc": False, "l2miss": False, "l3miss": False,
        "udp_csum": False, "remcsum_tx": False, "remcsum_rx": False, "remcsum_nopartial": False, "gbp": False,
        "gpe": False, "external": False, "vnifilter": False,
    },
    "external": {"external": True},
    "group": {"vni": 8, "remote": "239.1.1.1", "dev": "br0"},
    "dev": {"vni": 9, **V4, "dev": "br0", "mtu": 1300},
}  # fmt: skip


@pytest.mark.parametrize("options", TUNNELS)
def test_a_fresh_tunnel(netns: Namespaces, underlay: str, host: Host, options: str) -> None:
    a = End(netns.make("a"), "vx0", ["10.9.0.1/24", "fd09::1/64"])
    [w] = wire(host, Vxlan(a=a, underlay=underlay, **TUNNELS[options]))
    assert found(w, alias=host.alias) == found(by_name(w)) == {}


def test_a_tunnel_in_its_own_underlay(underlay: str, host: Host) -> None:
    [w] = wire(host, Vxlan(a=End(underlay, "vx0"), underlay=underlay, vni=1, dev="br0", **V4))
    assert found(w) == {}
    assert found(Wired(replace(w.connection, underlay=""), w.places)) == {"vxlan.underlay": ("", "another namespace")}


def test_every_option_of_a_tunnel_is_compared(netns: Namespaces, underlay: str, host: Host) -> None:
    [w] = wire(host, Vxlan(a=End(netns.make("a"), "vx0"), underlay=underlay, vni=1, dev="br0", **V4))
    asked = replace(
        w.connection, vni=2, local="192.0.2.8", remote="192.0.2.9", port=1, port_range=(3, 4), ttl=5, tos=6, df="set",
        ageing=8, limit=9, learning=False, proxy=True, rsc=True, l2miss=True, l3miss=True, udp_csum=False,
        udp_zero_csum6_tx=True, udp_zero_csum6_rx=True, remcsum_tx=True, remcsum_rx=True, remcsum_nopartial=True,
        gbp=True, external=True, vnifilter=True, dev="br1", mtu=1234,
    )  # fmt: skip
    switches = ("proxy", "rsc", "l2miss", "l3miss", "udp_zero_csum6_tx", "udp_zero_csum6_rx", "remcsum_tx",
                "remcsum_rx", "remcsum_nopartial", "gbp", "external", "vnifilter")  # fmt: skip
    br0 = ip_json(underlay, "link", "show", "br0")[0]["ifindex"]
    assert found(Wired(asked, w.places)) == {
        "a.mtu": (1234, 1450),
        "vxlan.vni": (2, 1),
        "vxlan.local": ("192.0.2.8", "192.0.2.1"),
        "vxlan.remote": ("192.0.2.9", "192.0.2.2"),
        "vxlan.port": (1, 4789),
        "vxlan.port_range": ("3-4", "0-0"),
        "vxlan.ttl": (5, 0),
        "vxlan.tos": (6, 0),
        "vxlan.df": ("set", "unset"),
        "vxlan.ageing": (8, 300),
        "vxlan.limit": (9, 0),
        "vxlan.learning": (False, True),
        "vxlan.udp_csum": (False, True),
        **{f"vxlan.{name}": (True, False) for name in switches},
        "vxlan.dev": ("br1", f"index {br0}"),
    }


def test_a_tunnel_changed_behind_its_back(netns: Namespaces, underlay: str, host: Host) -> None:
    a = netns.make("a")
    [w] = wire(host, Vxlan(a=End(a, "vx0"), underlay=underlay, vni=1, **V4))
    ip(a, "link set vx0 type vxlan remote 192.0.2.77")
    assert found(w) == {"vxlan.remote": ("192.0.2.2", "192.0.2.77")}
    ip(a, "link del vx0")
    assert found(w) == {"a.ifindex": (w.places[0].ifindex, None)}


def test_the_namespace_of_the_underlay_is_missing(netns: Namespaces, underlay: str, host: Host) -> None:
    [w] = wire(host, Vxlan(a=End(netns.make("a"), "vx0"), underlay=underlay, vni=1, **V4))
    gone = Wired(replace(w.connection, underlay="gone"), w.places)
    assert found(gone) == {"vxlan.underlay": ("gone", None)}


# -- where it runs ---------------------------------------------------------------------------------


def test_beside_a_running_event_loop(pair: Wired) -> None:
    async def main() -> dict[str, tuple[object, object]]:
        return found(pair)

    assert asyncio.run(main()) == {}


def test_on_several_threads_at_a_time(pair: Wired) -> None:
    said: list[object] = []

    def look() -> None:
        said.extend(found(pair) for _ in range(20))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == [{}] * 80


def test_no_child_is_forked_and_nothing_is_left_open(pair: Wired, monkeypatch: pytest.MonkeyPatch) -> None:
    def forked() -> int:
        raise AssertionError("forked")

    monkeypatch.setattr(os, "fork", forked)
    before = sorted(os.listdir("/proc/self/fd")), os.listdir("/proc/self/task")
    for _ in range(20):
        assert found(pair) == {}
    assert (sorted(os.listdir("/proc/self/fd")), os.listdir("/proc/self/task")) == before


def test_it_changes_nothing(pair: Wired) -> None:
    def everything() -> list[str]:
        shown = ("addr", "route show table all", "-6 route show table all", "neigh", "rule", "netns list-id")
        commands = [nsenter(name, "ip", *what.split()) for name in "ab" for what in shown]
        return [subprocess.run(c, check=True, capture_output=True, text=True).stdout for c in commands]

    before = everything()
    assert found(pair) == {}
    assert everything() == before


def test_without_the_right_to_look(pair: Wired) -> None:
    code = (
        "import sys, pickle; from fastnl.verify import verify\n"
        "try: verify([pickle.load(sys.stdin.buffer)])\n"
        "except Exception as e: print(type(e).__name__)"
    )
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", code],
        input=pickle.dumps(pair),
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode().strip() == NoPermission.__name__, done.stderr


def test_a_difference_in_words() -> None:
    assert str(Difference("a.mtu", 1400, 1500)) == "a.mtu: want 1400, have 1500"
    assert str(Difference("a.addresses", None, "10.0.0.1/24")) == "a.addresses: want nothing, have 10.0.0.1/24"
