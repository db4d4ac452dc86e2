"""Values are checked when they are made, and an error names the field at fault."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnl import Address, CallerError, Device, End, Host, InvalidValue, Neighbour, Route, Rule, Veth, Vxlan
from fastnl._nl import name_problem
from fastnl.rules import covers

MAC = "02:00:00:00:00:01"


def blame(make, *args, **kwargs) -> str:
    """The field that the error of a bad value names."""
    with pytest.raises(InvalidValue) as caught:
        make(*args, **kwargs)
    assert caught.value.message.startswith(caught.value.field + ": ")
    return caught.value.field


def vxlan(**fields) -> Vxlan:
    return Vxlan(a=End("blue", "vx0"), **{"vni": 1, **fields})


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "a/b", "/", "a:b", "a b", " ", "a\tb", "a\nb", "\x0b", "\x0c", "\r", "16-bytes-is-many", "é" * 8,
        "eth%d", "%", "all", "default", "a\0b", "\x01", "\x7f", "à", "\ud800", None, 5, b"eth0",
    ],
)  # fmt: skip
def test_a_name_that_the_kernel_refuses_or_misreads_is_invalid(name):
    # "à" is 0xc3 0xa0 in UTF-8, and isspace() of the kernel's Latin-1 table takes 0xa0 for a space
    assert name_problem(name)
    assert blame(End, "blue", name) == "ifname"
    assert blame(End, "blue", name, where="b") == "b.ifname"


@pytest.mark.parametrize(
    "name", ["e", "15-bytes-is-all", "a.b", "eth0.100", "...", "all0", "Default", "é" * 7, "a,b;c"]
)
def test_a_name_with_dots_inside_or_of_fifteen_bytes_is_fine(name):
    assert name_problem(name) is None
    assert End("blue", name).ifname == name


# -- ends ------------------------------------------------------------------------------------------


def test_text_becomes_addresses_in_the_kernels_own_spelling():
    end = End("blue", "e0", ["10.0.0.1", "fd00:0:0::1/64"])
    assert [a.text for a in end.addresses] == ["10.0.0.1/32", "fd00::1/64"]
    assert [a.family for a in end.addresses] == [4, 6]
    assert end.ipv6
    assert not End("blue", "e0", ["10.0.0.1"]).ipv6


def test_a_bad_address_is_named_with_its_place():
    assert blame(End, "blue", "e0", ["10.0.0.1/24", "10.0.0.256/24"], where="a") == "a.addresses[1]"


@pytest.mark.parametrize(
    "text",
    [
        "", "10.0.0", "10.0.0.1/33", "10.0.0.1/", "10.0.0.1/-1", "10.0.0.1/+1", "10.0.0.1/²", "10.0.0.1/24/24",
        "fd00::1/129", "fd00::g", "0.0.0.0/0", "::/0", "224.0.0.1/4", "239.255.255.255", "ff02::1/8", "10.0.0.1\0",
        "\ud800", "host", None, 1,
    ],
)  # fmt: skip
def test_what_cannot_be_an_address_of_an_interface_is_invalid(text):
    assert blame(Address, text, "here") == "here"


def test_an_address_twice_is_invalid_however_it_is_spelled():
    assert blame(End, "blue", "e0", ["fd00::1/64", "10.0.0.1/8", "fd00:0::1/64"]) == "addresses[2]"
    # one address with two prefix lengths is two addresses to the kernel
    assert len(End("blue", "e0", ["10.0.0.1/8", "10.0.0.1/24"]).addresses) == 2


@pytest.mark.parametrize("mtu", [0, 67, 65536, -1, 1 << 40, True, "1500", 1500.0])
def test_an_mtu_outside_68_to_65535_is_invalid(mtu):
    assert blame(End, "blue", "e0", mtu=mtu, where="a") == "a.mtu"
    assert blame(Veth, End("blue", "e0"), End("red", "e0"), mtu=mtu) == "mtu"
    assert blame(vxlan, mtu=mtu) == "mtu"


@pytest.mark.parametrize("mtu", [68, 1500, 65535])
def test_the_bounds_of_an_mtu_are_inside(mtu):
    assert End("blue", "e0", mtu=mtu).mtu == mtu


def test_a_vxlan_leaves_room_for_the_outer_headers():
    assert vxlan(local="192.0.2.1", mtu=65485).inner_mtu == 65485
    assert blame(vxlan, local="192.0.2.1", mtu=65486) == "mtu"
    assert blame(vxlan, local="2001:db8::1", mtu=65485) == "mtu"
    assert blame(Vxlan, a=End("blue", "vx0", mtu=65486), vni=1) == "a.mtu"
    assert vxlan(local="192.0.2.1").inner_mtu == 1450
    assert vxlan(local="2001:db8::1").inner_mtu == 1430
    assert vxlan(remote="2001:db8::1").inner_mtu == 1430
    assert vxlan(dev="eth0").inner_mtu is None


@pytest.mark.parametrize(
    "ipv6",
    [
        {"addresses": ["fd00::1/64"]},
        {"routes": [Route("fd00::/64")]},
        {"neighbours": [Neighbour("fd00::2", MAC)]},
    ],
)
def test_ipv6_needs_an_mtu_of_1280(ipv6):
    assert blame(End, "blue", "e0", mtu=1279, **ipv6) == "mtu"
    assert End("blue", "e0", mtu=1280, **ipv6).ipv6
    assert blame(Veth, End("blue", "e0"), End("red", "e0", **ipv6), mtu=1279) == "mtu"
    assert blame(Vxlan, a=End("blue", "e0", **ipv6), vni=1, mtu=1279) == "mtu"
    # the end's own MTU goes before the connection's
    assert Veth(End("blue", "e0"), End("red", "e0", mtu=1280, **ipv6), mtu=1279)


@pytest.mark.parametrize(
    "mac",
    [
        "", "02:00:00:00:00", "02:00:00:00:00:0g", "020000000001", "02-00-00-00-00-01", "01:00:5e:00:00:01",
        "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "02:00:00:00:00:01 ", "\ud800" * 17, 5,
    ],
)  # fmt: skip
def test_a_mac_that_no_interface_can_have_is_invalid(mac):
    assert blame(End, "blue", "e0", mac=mac, where="a") == "a.mac"


@pytest.mark.parametrize(
    ("field", "value"),
    [("queues", 0), ("queues", 4097), ("queues", True), ("txqlen", -1), ("txqlen", 1 << 31), ("txqlen", "1000")],
)
def test_queues_and_their_length_have_bounds(field, value):
    assert blame(End, "blue", "e0", where="b", **{field: value}) == f"b.{field}"


def test_a_namespace_reference_must_be_text():
    assert blame(End, None, "e0", where="a") == "a.netns"
    assert blame(vxlan, underlay=7) == "vxlan.underlay"


# -- routes, neighbours, rules ---------------------------------------------------------------------


def test_a_route_clears_host_bits_and_knows_its_family():
    assert Route("10.1.2.3/16").to == "10.1.0.0/16"
    assert Route("fd00::ff:1/124").to == "fd00::ff:0/124"
    assert (Route("default").family, Route("default").to) == (4, "0.0.0.0/0")
    assert Route("default", via="fd00::1").to == "::/0"
    assert Route("default", source="fd00::1").to == "::/0"


@pytest.mark.parametrize(
    ("field", "args", "kwargs"),
    [
        ("to", ["10.0.0.0/33"], {}),
        ("to", [None], {}),
        ("via", ["10.0.0.0/8", "10.0.0.300"], {}),
        ("via", ["10.0.0.0/8", "fd00::1"], {}),
        ("via", ["10.0.0.0/8", "0.0.0.0"], {}),
        ("via", ["10.0.0.0/8", "10.0.0.1/24"], {}),
        ("source", ["10.0.0.0/8"], {"source": "fd00::1"}),
        ("source", ["10.0.0.0/8"], {"source": 1}),
        ("metric", ["10.0.0.0/8"], {"metric": -1}),
        ("metric", ["10.0.0.0/8"], {"metric": 1 << 32}),
        ("metric", ["10.0.0.0/8"], {"metric": True}),
        ("table", ["10.0.0.0/8"], {"table": 1 << 32}),
        ("table", ["10.0.0.0/8"], {"table": "main"}),
        ("onlink", ["10.0.0.0/8"], {"onlink": True}),
    ],
)
def test_a_bad_route_is_invalid(field, args, kwargs):
    assert blame(Route, *args, **kwargs, field="a.routes[2]") == f"a.routes[2].{field}"


def test_a_bad_neighbour_is_invalid():
    assert blame(Neighbour, "10.0.0.1/24", MAC) == "neighbour.ip"
    assert blame(Neighbour, "10.0.0.1", "nonsense") == "neighbour.mac"
    assert blame(Neighbour, "10.0.0.1", None) == "neighbour.mac"
    assert blame(Neighbour, "10.0.0.1", MAC, state="gone") == "neighbour.state"


def test_a_bad_rule_is_invalid():
    assert blame(Rule, table=0) == "rule.table"
    assert blame(Rule, table=1 << 32) == "rule.table"
    assert blame(Rule, table=10, source="10.0.0.0/99") == "rule.from"
    assert blame(Rule, table=10, source="10.0.0.0/8", to="fd00::/8") == "rule.to"
    assert blame(Rule, table=10, family=6, source="10.0.0.0/8") == "rule.family"
    assert blame(Rule, table=10, family=5) == "rule.family"
    assert blame(Rule, table=10, source="0.0.0.0/0", to="fd00::/8") == "rule.to"
    assert blame(Rule, table=10, source="fd00::1/8", field="a.rules[2]", to="10.0.0.0/8") == "a.rules[2].to"
    assert blame(Rule, table=10, priority=0) == "rule.priority"
    assert blame(Rule, table=10, priority=1 << 32) == "rule.priority"
    assert blame(Rule, table=10, ipproto=256) == "rule.ipproto"
    for port in (0, 65535, (0, 5), (1, 65535), (5, 4), (1, 2, 3), (), "80", True, (1, "2")):
        assert blame(Rule, table=10, sport=port) == "rule.sport"
        assert blame(Rule, table=10, dport=port) == "rule.dport"
    assert blame(Rule, table=10, fwmark=1 << 32) == "rule.fwmark"
    assert blame(Rule, table=10, iif="a/b") == "rule.iif"


# -- pairs -----------------------------------------------------------------------------------------


def test_both_ends_in_one_namespace_with_one_name_are_invalid():
    assert blame(Veth, End("blue", "e0"), End("blue", "e0")) == "b.ifname"
    assert Veth(End("blue", "e0"), End("blue", "e1"))
    assert Veth(End("blue", "e0"), End("red", "e0"))


@pytest.mark.parametrize("value", [1, None, b"x"])
def test_an_id_must_be_text(value):
    if value is None:  # like "", it means that there is none
        assert Veth(End("a", "e"), End("b", "e"), id=value)
    else:
        assert blame(Veth, End("a", "e"), End("b", "e"), id=value) == "id"


@pytest.mark.parametrize("value", ["x" * 201, "é" * 101, "a\nb", "a\0b", "\ud800"])
def test_an_id_must_be_printable_and_fit_the_alias(value):
    assert blame(Veth, End("a", "e"), End("b", "e"), id=value) == "id"
    assert blame(vxlan, id=value) == "id"


def test_the_longest_alias_fits_the_kernels_limit():
    # IFALIASZ, include/uapi/linux/if.h: 256 with the NUL
    host = Host("i" * 32)
    alias = host.alias(Veth(End("a", "e"), End("b", "e"), id="x" * 200), 1)
    assert alias == f"fastnl/{'i' * 32}/{'x' * 200}/b"
    assert len(alias.encode()) < 256


@pytest.mark.parametrize("instance", ["", "a/b", "x" * 33, "é" * 17, "a\nb"])
def test_an_instance_that_would_garble_the_alias_is_invalid(instance):
    assert blame(Host, instance) == "instance"


@pytest.mark.parametrize("group", [0, 1, 65535, 1 << 31])
def test_a_group_that_others_may_use_is_invalid(group):
    assert blame(Host, "lib", group=group) == "group"


# -- VXLAN -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vni", 1 << 24), ("vni", -1), ("vni", True), ("vni", "1"),
        ("port", 0), ("port", 65536), ("port", None),
        ("local", "192.0.2.300"), ("local", "224.0.0.1"), ("local", 5), ("local", "192.0.2.1/24"),
        ("remote", "nonsense"), ("remote", "192.0.2.1/24"), ("remote", 5),
        ("dev", "a/b"), ("dev", ""),
        ("ttl", 256), ("ttl", -1), ("ttl", "auto"), ("tos", 256), ("tos", True),
        ("df", "maybe"), ("df", 1), ("label", 1 << 20), ("label", -1),
        ("ageing", -1), ("ageing", 1 << 32), ("limit", 1 << 32), ("limit", "many"),
        ("gpe", True), ("vnifilter", True),
    ],
)  # fmt: skip
def test_a_bad_tunnel_parameter_is_invalid(field, value):
    fields = {field: value} | ({"gbp": True} if field == "gpe" else {})
    assert blame(vxlan, **fields) == f"vxlan.{field}"


def test_a_vni_has_24_bits():
    assert vxlan(vni=(1 << 24) - 1).vni == 0xFFFFFF
    assert blame(vxlan, vni=1 << 24) == "vxlan.vni"


def test_a_port_range_has_a_low_and_a_high_end():
    assert blame(vxlan, port_range=(0, 5)) == "vxlan.port_range[0]"
    assert blame(vxlan, port_range=(5, 4)) == "vxlan.port_range[1]"
    assert blame(vxlan, port_range=(5, 65536)) == "vxlan.port_range[1]"
    assert vxlan(port_range=(5, 5)).port_range == (5, 5)


def test_local_and_remote_must_be_of_one_family():
    assert blame(vxlan, local="192.0.2.1", remote="2001:db8::1") == "vxlan.remote"
    assert blame(vxlan, local="2001:db8::1", remote="192.0.2.1") == "vxlan.remote"


def test_a_flow_label_needs_ipv6():
    assert blame(vxlan, local="192.0.2.1", label=5) == "vxlan.label"
    assert vxlan(local="2001:db8::1", label=5).label == 5


@pytest.mark.parametrize("group", ["239.1.1.1", "224.0.0.1", "ff05::100"])
def test_a_multicast_group_needs_a_lower_device(group):
    assert blame(vxlan, remote=group) == "vxlan.dev"
    assert vxlan(remote=group, dev="eth0").remote == group


@pytest.mark.parametrize("remote", ["ff::1", "fff::1", "240.0.0.1", "fe80::1"])
def test_an_address_that_only_looks_like_a_multicast_group_needs_none(remote):
    # ff::1 is 00ff::1
    assert vxlan(remote=remote).remote == remote


# -- all of them -----------------------------------------------------------------------------------

VALUES = [
    Address("10.0.0.1/24"),
    Neighbour("fd00::1", MAC, state="stale"),
    Route("10.0.0.0/8", via="10.1.0.1", metric=5, table=1000, source="10.1.0.2", onlink=True),
    End("blue", "e0", ["10.0.0.1/24"], mac=MAC, mtu=1400, routes=[Route("default")], queues=2, txqlen=5),
    Veth(End("blue", "e0", ["fd00::1/64"]), End("red", "e0"), id="one", mtu=1400),
    vxlan(local="192.0.2.1", remote="192.0.2.2", port_range=(1, 2), id="two"),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda v: type(v).__name__)
def test_values_pickle_compare_and_hash(value):
    twin = pickle.loads(pickle.dumps(value))
    assert twin == value
    assert hash(twin) == hash(value)
    assert value != "something else"
    assert len({twin, value}) == 1


def test_values_are_frozen():
    with pytest.raises(FrozenInstanceError):
        VALUES[3].mtu = 9000
    with pytest.raises(AttributeError):
        VALUES[0].text = "10.0.0.2/24"


def test_what_tells_errors_where_they_are_is_no_part_of_the_value():
    assert End("blue", "e0", where="a") == End("blue", "e0", where="b")


def test_a_connection_can_be_replaced_in_part():
    pair = Veth(End("blue", "e0"), End("red", "e0"))
    assert replace(pair, mtu=1400).mtu == 1400
    assert blame(replace, pair, mtu=5) == "mtu"


@given(st.text())
def test_any_text_is_an_interface_name_or_has_a_problem(text):
    problem = name_problem(text)
    raw = text.encode("utf-8", "surrogatepass")
    if problem is None:
        assert 0 < len(raw) < 16
        assert not set(raw) & set(b"/: \t\n\v\f\r%\xa0\0")


@given(st.text() | st.from_regex(r"[0-9a-f.:]{1,40}(/[0-9]{1,3})?", fullmatch=True))
def test_any_text_is_an_address_or_invalid(text):
    try:
        address = Address(text, "here")
    except CallerError as e:
        assert e.field == "here"
    else:
        assert Address(address.text) == address


@given(st.text(alphabet="0123456789abcdefABCDEF:-gG", max_size=20))
def test_any_text_is_a_mac_or_invalid(text):
    try:
        assert End("blue", "e0", mac=text).mac == text
    except InvalidValue as e:
        assert e.field == "mac"


@pytest.mark.parametrize(
    ("field", "value"), [("routes", "10.0.0.0/8"), ("neighbours", ("10.0.0.1", "02:00:00:00:00:01"))]
)
def test_a_route_or_neighbour_of_another_type_is_named_with_its_place(field, value):
    with pytest.raises(InvalidValue) as caught:
        End("blue", "eth0", where="b", **{field: [value]})
    assert caught.value.field == f"b.{field}[0]"


def test_rules_are_values():
    rule = Rule(table=7, source="10.0.0.0/8", priority=5)
    assert rule == Rule(table=7, source="10.0.0.0/8", priority=5) == pickle.loads(pickle.dumps(rule))
    assert len({rule, Rule(table=7, source="10.0.0.0/8", priority=5), Rule(table=8)}) == 2
    full = Rule(
        table=7, source="fd00::1/64", to="::/0", iif="e0", fwmark=16, ipproto=6, sport=80, dport=(1, 9), priority=5
    )
    assert full == pickle.loads(pickle.dumps(full)) and full.family == 6
    assert str(full) == "5: from fd00::/64 fwmark 0x10 iif e0 ipproto 6 sport 80 dport 1-9 lookup 7"
    # what selects nothing is not there; it tells the family
    assert Rule(table=7, source="0.0.0.0/0") == Rule(table=7) != Rule(table=7, to="::/0") == Rule(table=7, family=6)
    assert Rule(table=7, sport=80) == Rule(table=7, sport=(80, 80)) != Rule(table=7, sport=(80, 81))
    assert Rule(table=7, source="10.1.2.3/8").source == "10.0.0.0/8"


def test_settings_and_rules_of_an_end():
    rule = Rule(table=7)
    end = End("blue", "e0", rules=[rule], ping_group_range=(0, 5))
    assert (end.rules, end.ping_group_range, end.route_localnet) == ((rule,), (0, 5), False)
    assert End("blue", "e0", ping_group_range=(1, 0)).ping_group_range == (1, 0)  # nobody
    assert blame(End, "blue", "e0", rules=[rule, Rule(table=7)], where="a") == "a.rules[1]"
    assert blame(End, "blue", "e0", rules=["x"]) == "rules[0]"
    for groups, field in (
        ((5, 4), "[1]"), ((-1, 4), "[0]"), ((0, 1 << 31), "[1]"), ((1,), ""), ([0, 1], ""), ((True, 1), "[0]"),
    ):  # fmt: skip
        assert blame(End, "blue", "e0", ping_group_range=groups) == f"ping_group_range{field}"
    assert blame(Device, "existing", End("blue", "e0", route_localnet=True)) == "a.route_localnet"


def test_rules_that_the_kernel_could_not_tell_apart_when_one_goes():
    plain, ports = Rule(table=7, source="10.0.0.0/8"), Rule(table=7, source="10.0.0.0/8", dport=80)
    assert covers(plain, ports) and not covers(ports, plain) and covers(plain, plain)
    assert covers(Rule(table=7), plain) and not covers(Rule(table=7, family=6), plain)
    assert not covers(Rule(table=8), plain) and not covers(Rule(table=7, priority=9), plain)
    assert not covers(Rule(table=7, source="10.0.0.0/9"), plain)
