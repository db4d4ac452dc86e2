"""Halves of a connection between hosts, and what the engine of a host is asked for."""

from __future__ import annotations

import msgspec
import pytest

from fastnl import InvalidValue
from fastnl_engine.fleet.local import MAX_ID, Unreachable, check, connection_here, halves_of, path_mtu, told_of
from fastnl_engine.fleet.records import Host
from fastnl_engine.model import Connection, values_of

HOSTS = {
    "one": Host("192.0.2.1", 1500, "i1"),
    "two": Host("192.0.2.2", 9000, "i2"),
    "six": Host("2001:db8::6", 1500, "i6"),
    "seven": Host("2001:db8::7", 1400, "i7"),
}


def far(one="one", two="two", **more):
    a = {"netns": "blue", "ifname": "a0", "host": one, **more.pop("a", {})}
    b = {"netns": "red", "ifname": "b0", "host": two, **more.pop("b", {})}
    return msgspec.convert({"id": "c", "kind": "veth", "a": a, "b": b, **more}, Connection)


def here(connection, host, **known):
    hosts = HOSTS | known
    half = halves_of(connection, generation=3, home="one", vni=7, port=4789)[host]
    return connection_here("c", half, hosts[host], hosts.get(half.peer))


def test_two_hosts_have_a_tunnel_each():
    one, two = here(far(), "one"), here(far(), "two")
    assert (one.id, one.kind, one.b, one.mtu) == ("fleet/c", "vxlan", None, 1450)
    assert (one.a.netns, two.a.netns, one.a.host, two.a.host) == ("blue", "red", "", "")
    assert (one.vxlan.vni, one.vxlan.port, one.vxlan.local, one.vxlan.remote) == (7, 4789, "192.0.2.1", "192.0.2.2")
    assert (two.vxlan.vni, two.vxlan.port, two.vxlan.local, two.vxlan.remote) == (7, 4789, "192.0.2.2", "192.0.2.1")
    values_of(one), values_of(two)


def test_one_host_has_a_pair():
    pair = here(far("one", "one", labels={"app": "shop"}, mtu=9000), "one")
    assert (pair.kind, pair.a.ifname, pair.b.ifname, pair.mtu) == ("veth", "a0", "b0", 9000)
    assert pair.vxlan is None and pair.labels == {"app": "shop"}
    values_of(pair)


@pytest.mark.parametrize(("one", "two", "mtu"), [("one", "two", 1450), ("six", "seven", 1330), ("six", "six", 1430)])
def test_the_mtu_is_that_of_the_path(one, two, mtu):
    assert path_mtu(HOSTS[one], HOSTS[two]) == path_mtu(HOSTS[two], HOSTS[one]) == mtu


def test_a_smaller_mtu_is_kept_and_a_path_that_became_narrow_narrows_the_tunnel():
    assert here(far(mtu=1300), "one").mtu == 1300
    assert here(far(a={"mtu": 1200}), "one").mtu == 1200
    assert here(far(a={"mtu": 1200}), "two").mtu == 1450
    assert here(far(mtu=1450), "two", one=Host("192.0.2.1", 1300, "i1")).mtu == 1250


def test_addresses_of_two_families_do_not_meet():
    with pytest.raises(Unreachable, match="IPv6"):
        path_mtu(HOSTS["one"], HOSTS["six"])
    with pytest.raises(InvalidValue) as e:
        check(far("one", "six"), HOSTS)
    assert e.value.field == "b.host"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"kind": "vxlan"}, "kind"),
        ({"vxlan": {"vni": 3}}, "vxlan"),
        ({"mtu": 1451}, "mtu"),
        ({"a": {"mtu": 1451}}, "a.mtu"),
        ({"b": {"mtu": 9000}}, "b.mtu"),
        ({"a": {"host": ""}}, "a.host"),
        ({"b": {"host": ""}}, "b.host"),
        ({"b": {"host": "x/y"}}, "b.host"),
        ({"b": {"ifname": "x" * 16}}, "b.ifname"),
        ({"b": {"addresses": ["10.0.0.1/24", "10.0.0.1/24"]}}, "b.addresses[1]"),
        ({"a": {"addresses": ["10.0.0.300/24"]}}, "a.addresses[0]"),
        ({"id": ""}, "id"),
        ({"id": "x" * (MAX_ID + 1)}, "id"),
        ({"id": "a\nb"}, "id"),
    ],
)
def test_what_cannot_be_is_refused_with_its_field(change, field):
    with pytest.raises(InvalidValue) as e:
        check(far(**change), HOSTS)
    assert e.value.field == field


def test_an_end_is_missing():
    with pytest.raises(InvalidValue) as e:
        check(msgspec.structs.replace(far(), b=None), HOSTS)
    assert e.value.field == "b"


@pytest.mark.parametrize("id_", ["c", "x" * MAX_ID, "a/b", "/", "../x", "ä😀"])
def test_what_can_be(id_):
    check(far(id=id_, mtu=1450), HOSTS)
    check(far("one", "one", id=id_, mtu=65535), HOSTS)


def test_errors_of_the_second_end_are_told_with_its_paths():
    halves = halves_of(far(), generation=1, home="one", vni=7, port=4789)
    error = {"code": "netns_not_found", "message": "a.netns: there is none", "field": "a.netns", "errno": 2}
    assert told_of(halves["one"], error) == error
    assert told_of(halves["two"], error) == error | {"message": "b.netns: there is none", "field": "b.netns"}
    assert told_of(halves["two"], {"code": "vni_in_use", "message": "vxlan.vni: 7", "field": "vxlan.vni"})["field"] == (
        "vxlan.vni"
    )
    [pair] = halves_of(far("one", "one"), generation=1, home="one", vni=0, port=0).values()
    assert told_of(pair, error) == error
