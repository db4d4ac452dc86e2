"""From requests to the engine's connections, without a kernel; and the environment."""

from __future__ import annotations

import pathlib
import re

import pytest

from fastnl_engine.adapters.nsm import policies, settings, translate
from fastnl_engine.adapters.nsm.errors import STATUS, Refused
from fastnl_engine.adapters.nsm.modern import arrive, leave
from fastnl_engine.adapters.nsm.pb.connection_pb2 import Connection, Path, PathSegment
from fastnl_engine.adapters.nsm.pb.connectioncontext_pb2 import PolicyRoute
from fastnl_engine.adapters.nsm.testing import addresses, cross_connect, kernel, vxlan
from fastnl_engine.adapters.nsm.translate import LEGACY, MODERN


def legacy(cross, *namespaces):
    return translate.connection_of(cross.id, *translate.sides_of(cross), namespaces, LEGACY, {}, lambda _: 1000)


def test_the_first_generation_reads_both_ends_in_the_clients_context():
    cross = cross_connect("1", kernel("a0", 5), kernel("b0", 6), addresses("10.0.0.1/30", "10.0.0.2/30"))
    cross.destination.ClearField("context")
    assert legacy(cross, "pid:1", "name:x") == {
        "id": "1", "kind": "veth", "mtu": 16000, "labels": {},
        "a": {"netns": "pid:1", "ifname": "a0", "addresses": ["10.0.0.1/30"]},
        "b": {"netns": "name:x", "ifname": "b0", "addresses": ["10.0.0.2/30"]},
    }  # fmt: skip


@pytest.mark.parametrize("outgoing", [True, False])
def test_the_direction_of_a_tunnel(outgoing):
    sides = [kernel("n", 5), vxlan("192.0.2.1", "192.0.2.2", 9)]
    context = addresses("10.0.0.1/30", "10.0.0.2/30")
    cross = cross_connect("1", *(sides if outgoing else sides[::-1]), context)
    made = legacy(cross, "pid:1")
    local, remote = ("192.0.2.1", "192.0.2.2") if outgoing else ("192.0.2.2", "192.0.2.1")
    assert made["vxlan"] == {"vni": 9, "learning": False, "local": local, "remote": remote, "port": 8472}
    assert made["a"]["addresses"] == ["10.0.0.1/30" if outgoing else "10.0.0.2/30"]


def test_a_port_that_the_peer_says():
    tunnel = vxlan("192.0.2.1", "192.0.2.2", 9, dst_port="7000", src_port="6000")
    assert legacy(cross_connect("1", kernel("n", 5), tunnel), "")["vxlan"]["port"] == 7000
    assert legacy(cross_connect("1", tunnel, kernel("n", 5)), "")["vxlan"]["port"] == 6000


def test_tables_of_policies(monkeypatch):
    # two places only, so that everything meets
    monkeypatch.setattr(policies, "TABLES", 8)

    def chosen(tables, id_, *about, inode=1):
        table_of = tables.choose(inode, id_)
        return [table_of(one) for one in about]

    tables = policies.Tables()
    first = chosen(tables, "a", "x", "y", "x")
    second = chosen(tables, "b", "x", "y", "x")
    assert len({*first, *second}) == 6
    assert chosen(tables, "a", "x", "y", "x") == first and chosen(tables, "b", "x", "y", "x") == second
    assert len(set(chosen(tables, "c", *"1234567", inode=2))) == 7  # another namespace has its own
    # over a restart all are known again before anything is asked for, in whatever order
    again = policies.Tables()
    for id_, numbers in (("b", second), ("a", first)):
        for number in numbers:
            again.add(1, number, id_)
    assert chosen(again, "b", "x", "y", "x") == second
    # what is given up may be had by others
    again.keep("a", [(1, first[0])])
    again.keep("b", ())
    assert len({*chosen(again, "d", *"1234567"), first[0]}) == 8


def test_policies_of_ports_and_families():
    def rules(**policy):
        found, _ = policies.translate([PolicyRoute(**policy)], "p", lambda about: 7)
        return found

    assert rules(dst_port="1-65535") == [{"table": 7, "family": 4, "dport": [1, 65534]}]
    assert rules(src_port="5", proto="132") == [{"table": 7, "family": 4, "sport": [5, 5], "ipproto": 132}]
    assert rules(**{"from": "::/0"}) == [{"table": 7, "family": 6}]
    assert rules(**{"from": "10.1.2.3/8"}) == [{"table": 7, "from": "10.0.0.0/8"}]


def test_where_a_namespace_is_named():
    def named(**parameters):
        cross = cross_connect("1", kernel("n", 5), kernel("n", 6))
        cross.source.mechanism.parameters.update(parameters)
        return translate.namespace_of(translate.sides_of(cross)[0])

    assert named() == 5
    assert named(inodeURL="inode://4/77") == 77
    assert named(inodeURL="file:///proc/12/ns/net") == "pid:12"
    assert named(inodeURL="file:///run/netns/x") == "file:/run/netns/x"
    for url in ("file:relative", "inode://4/", "http://x", "x"):
        with pytest.raises(Refused):
            named(inodeURL=url)


def test_what_is_remembered_comes_back_without_tokens():
    cross = cross_connect("1", kernel("n", 5), kernel("n", 6), addresses("10.0.0.1/30"))
    cross.source.path.path_segments[0].token = "secret"
    cross.source.labels["x"] = "y" * 20_000
    labels = translate.remember(cross)
    assert all(len(text) <= 4096 for text in labels.values()) and len(labels) < 256
    back = translate.recall(labels)
    cross.source.path.path_segments[0].ClearField("token")
    assert back == cross
    for other in ({}, {"app": "shop"}, {"nsm.000": "x"}, {"nsm.000": "{}" * 9}):
        assert translate.recall(other) is None


def test_empty_addresses_are_none():
    # how the first generation's single address is left out by some
    assert "addresses" not in legacy(cross_connect("1", kernel("n", 5), kernel("n", 6), addresses("", "")), "", "")["a"]


def test_names_of_interfaces():
    name = translate.interface_name("my service/with-marks", "id")
    assert len(name) == 15 and name.startswith("myservi-")
    assert name == translate.interface_name("my service/with-marks", "id") != translate.interface_name("x", "id")


def test_path_mtu():
    assert (translate.path_mtu(1500, "192.0.2.1"), translate.path_mtu(1500, "2001:db8::1")) == (1450, 1430)


# -- the path of the later generation ----------------------------------------------------------------


def test_there_and_back():
    sent = Connection(id="c", path=Path(path_segments=[PathSegment(name="client", id="c")]))
    ours = arrive(sent, "fwd")
    assert [s.name for s in ours.path.path_segments] == ["client", "fwd"] and ours.path.index == 1
    assert ours.id == ours.path.path_segments[1].id != "c"
    back = leave(ours)
    assert (back.id, back.path.index) == ("c", 0)
    # asked again, with all of the way or without, it is the same one
    back.path.path_segments.add(name="next", id="n")
    assert arrive(back, "fwd").id == arrive(sent, "fwd").id == ours.id
    assert [s.name for s in arrive(back, "fwd").path.path_segments] == ["client", "fwd", "next"]
    # another forwarder begins another way
    assert [s.name for s in arrive(back, "other").path.path_segments] == ["client", "other"]
    assert arrive(back, "other").id != ours.id


# -- the environment ---------------------------------------------------------------------------------


def test_the_environment_of_both_generations():
    plain = settings.read("unix:/run/x.sock", {})
    assert (plain.registrar, plain.manager, plain.probes, plain.tunnel_ip) == ("", "", "", "")
    assert (plain.legacy, plain.modern) == (LEGACY, MODERN)
    default = settings.read("default", {"FORWARDER_SOCKET_TYPE": "tcp", "FORWARDER_SOCKET": "0.0.0.0:9500"})
    assert (default.listen, default.probes) == ("0.0.0.0:9500", "0.0.0.0:5555")
    assert default.registrar == "unix:/var/lib/networkservicemesh/nsm.forwarder-registrar.io.sock"
    modern = settings.read("unix:/x", {"NSM_CONNECT_TO": "tcp://1.2.3.4:5", "NSM_MAX_TOKEN_LIFETIME": "1h30m"})
    assert (modern.manager, modern.lifetime) == ("1.2.3.4:5", 5400.0)
    for name, value in (
        ("NSM_MAX_TOKEN_LIFETIME", "long"), ("NSM_VXLAN_PORT", "x"), ("NSM_TUNNEL_IP", "300.1.1.1"),
        ("FORWARDER_PROBES", "5555"),
    ):  # fmt: skip
        with pytest.raises(settings.SettingsError, match=name):
            settings.read("unix:/x", {name: value})


def test_the_guide_tells_of_every_variable_and_code():
    guide = pathlib.Path(__file__).parents[2] / "docs" / "nsm.md"
    text = guide.read_text()
    source = pathlib.Path(settings.__file__).read_text()
    names = set(re.findall(r'"((?:NSM|FORWARDER)_[A-Z_]+)"', source))
    assert len(names) > 10
    assert {name for name in names if f"`{name}`" not in text} == set()
    for code, status in STATUS.items():
        [row] = [line for line in text.splitlines() if line.startswith(f"| {status.name} |")]
        assert f"`{code}`" in row
