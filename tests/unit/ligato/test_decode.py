"""JSON in all the forms that people have in etcd, and errors that point at the place."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnl_engine.northbound.ligato.decode import Decoded, decode
from fastnl_engine.northbound.ligato.keys import Key, format_key, parse_key
from fastnl_engine.northbound.ligato.model import AfPacket, Arp, Interface, Route
from fastnl_engine.northbound.ligato.text import MAX_BYTES, DecodeError, locate


def key(layout: str, kind: str, *parts: str) -> Key:
    found = parse_key(format_key("vpp1", layout, kind, *parts), "vpp1")  # type: ignore[arg-type]
    assert found is not None
    return found


def interface(layout: str, **fields: Any) -> Decoded:
    return decode(key(layout, "interface", "veth1"), json.dumps({"name": "veth1", **fields}).encode())


def v1(**fields: Any) -> Decoded:
    return interface("v1", **{"veth": {"peer_if_name": "veth2"}, **fields})


def v3(**fields: Any) -> Decoded:
    return interface("v3", **{"type": "VETH", "veth": {"peer_if_name": "veth2"}, **fields})


def error(layout: str, **fields: Any) -> DecodeError:
    with pytest.raises(DecodeError) as e:
        (v1 if layout == "v1" else v3)(**fields)
    return e.value


def remarks(decoded: Decoded) -> str:
    return " | ".join(map(str, decoded.remarks))


def test_the_files_of_the_seed() -> None:
    value = {
        "name": "veth1",
        "type": 0,
        "enabled": True,
        "phys_address": "d2:74:8c:12:67:d2",
        "namespace": {"type": 2, "name": "ns1"},
        "mtu": 1500,
        "ip_addresses": ["192.168.22.1/24", "2001:db8:0:0:0:ff00:89e3:bb42/48"],
        "host_if_name": "veth1Name",
        "veth": {"peer_if_name": "veth2"},
    }
    assert v1(**value) == Decoded(
        Interface(
            "veth1", "veth", "ns1", "veth1Name", True, ("192.168.22.1/24", "2001:db8::ff00:89e3:bb42/48"),
            "d2:74:8c:12:67:d2", 1500, "veth2",
        )
    )  # fmt: skip
    tap = interface("v1", type=1, host_if_name="linux-tap", tap={"temp_if_name": "tap1"})
    assert isinstance(tap.value, Interface)
    assert (tap.value.type, tap.value.host_if_name, tap.value.tap_source) == ("tap", "linux-tap", "tap1")
    assert "no VPP" in remarks(tap)


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "VETH", "veth": {"peer_if_name": "veth2"}},
        {"type": "veth", "veth": {"peerIfName": "veth2"}},
        {"type": 1, "Veth": {"PeerIfName": "veth2"}},
        {"type": "1", "VETH": {"PEER_IF_NAME": "veth2"}},
        {"type": 1, "link": {"veth": {"peer_if_name": "veth2"}}, "namespace": None, "mtu": None, "tap": None},
        {"type": 1, "veth": {"peer-if-name": "veth2"}, "ip_addresses": None, "linkOnly": False},
    ],
)
def test_spellings(fields: dict[str, Any]) -> None:
    assert interface("v3", **fields).value == Interface("veth1", "veth", peer="veth2")


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"vrf": "red"}, "vrf: is no field here"),
        ({"mtu": 1500, "MTU": 9000}, "MTU: is mtu once more"),
        ({"host-if-name": "eth0"}, "host-if-name: is spelled with hyphens: taken for host_if_name"),
        ({"name": ""}, "name: is empty: taken from the key, 'veth1'"),
        ({"name": "other"}, "name: 'other' is not the name in the key, 'veth1': the value counts"),
        ({"ip_addresses": ["10.0.0.1"]}, "ip_addresses[0]: '10.0.0.1' has no prefix length: taken for /32"),
        ({"ip_addresses": ["fd00::1"]}, "taken for /128"),
        ({"ip_addresses": "10.0.0.1/24"}, "ip_addresses: is one text, not a list"),
        ({"ip_addresses": ["10.0.0.1/24", "10.0.0.1/24"]}, "ip_addresses: holds an address twice"),
        ({"tap": {}}, "tap: does not go with the type VETH: ignored"),
        ({"namespace": {"type": 3, "name": "ns1"}}, "namespace.name: does not go with the type FILE_REF_NS: ignored"),
        ({"namespace": {"name": "ns1"}}, "namespace.name: does not go with the type PID_REF_NS: ignored"),
        ({"link": {"veth": {"peer_if_name": "x"}}}, "link: should not be there"),
        ({"link_only": True, "ip_addresses": ["10.0.0.1/24"]}, "ip_addresses: are left alone"),
        ({"type": "LOOPBACK", "veth": None}, "enabled: a LOOPBACK stays up"),
    ],
)
def test_odd_but_taken(fields: dict[str, Any], what: str) -> None:
    assert what in remarks(v1(**fields))


def test_a_remark_says_where() -> None:
    text = b'{\n  "name": "veth1",\n  "veth": {"peer_if_name": "veth2"},\n  "bandwidth": 7\n}'
    (remark,) = decode(key("v1", "interface", "veth1"), text).remarks
    assert (remark.field, remark.line, remark.column) == ("bandwidth", 4, 16)


@pytest.mark.parametrize(
    ("layout", "namespace", "reference"),
    [
        ("v1", {}, ""),
        ("v1", {"type": 0, "pid": 0}, ""),
        ("v1", {"pid": 42}, "pid:42"),
        ("v1", {"type": 1, "microservice": "web"}, "microservice:web"),
        ("v1", {"type": "MICROSERVICE_REF_NS", "microservice": "a/b:c"}, "microservice:a/b:c"),
        ("v1", {"type": 2, "name": ""}, ""),
        ("v1", {"type": 2, "name": "ns1"}, "ns1"),
        ("v1", {"type": 2, "name": "pid:1"}, "name:pid:1"),
        ("v1", {"type": 3, "filepath": ""}, ""),
        ("v1", {"type": 3, "filepath": "/proc/7/ns/net"}, "file:/proc/7/ns/net"),
        ("v1", {"type": "NSID", "reference": "ns1"}, "ns1"),
        ("v3", {"type": 1, "reference": "ns1"}, "ns1"),
        ("v3", {"type": "PID", "reference": "42"}, "pid:42"),
        ("v3", {"type": "FD", "reference": "/x"}, "file:/x"),
        ("v3", {"type": 3}, ""),
        ("v3", {"type": "microservice", "reference": "web"}, "microservice:web"),
        ("v3", {"type": "NAMED_NS", "name": "ns1"}, "ns1"),
    ],
)
def test_namespaces(layout: str, namespace: dict[str, Any], reference: str) -> None:
    value = (v1 if layout == "v1" else v3)(namespace=namespace).value
    assert isinstance(value, Interface)
    assert value.netns == reference


def test_old_name_of_the_namespace() -> None:
    value = v1(linux_namespace={"type": 2, "name": "ns1"}).value
    assert isinstance(value, Interface)
    assert value.netns == "ns1"


@pytest.mark.parametrize(
    ("layout", "fields", "field", "problem"),
    [
        ("v1", {"name": "a\nb"}, "name", "cannot be printed"),
        ("v1", {"name": "\ud800"}, "name", "cannot be printed"),
        ("v1", {"name": "n" * 256, "host_if_name": "x"}, "name", "longer than 255"),
        ("v1", {"name": 7}, "name", "must be text, not 7"),
        ("v1", {"type": 9}, "type", "9 is none of VETH (0), AUTO_TAP (1)"),
        ("v1", {"type": "BRIDGE"}, "type", "'BRIDGE' is none of"),
        ("v1", {"type": True}, "type", "true is none of"),
        ("v1", {"type": 1.5}, "type", "1.5 is none of"),
        ("v1", {"enabled": "yes"}, "enabled", "must be true or false"),
        ("v1", {"mtu": -1}, "mtu", "not between"),
        ("v1", {"mtu": 40}, "mtu", "40 is not between 68"),
        ("v1", {"mtu": 1000, "ip_addresses": ["fd00::1/64"]}, "mtu", "IPv6 needs"),
        ("v1", {"mtu": 10**400}, "mtu", "a number that large"),
        ("v1", {"mtu": []}, "mtu", "must be a whole number, not a list"),
        ("v1", {"ip_addresses": {"a": 1}}, "ip_addresses", "must be a list of texts, not an object"),
        ("v1", {"ip_addresses": ["10.0.0.1/24", 3]}, "ip_addresses[1]", "must be text, not 3"),
        ("v1", {"ip_addresses": ["10.0.0.1/24", "10.0.0.1/33"]}, "ip_addresses[1]", "prefix length"),
        ("v1", {"ip_addresses": ["alloc:net1"]}, "ip_addresses[0]", "not supported"),
        ("v1", {"ip_addresses": ["10.0.0.1"] * 5000}, "ip_addresses", "more than 4096"),
        ("v1", {"phys_address": "01:00:00:00:00:01"}, "phys_address", "multicast"),
        ("v1", {"phys_address": "zz"}, "phys_address", "not a MAC"),
        ("v1", {"host_if_name": "sixteen-letters-"}, "host_if_name", "16 bytes"),
        ("v1", {"host_if_name": "a/b"}, "host_if_name", "holds '/'"),
        ("v1", {"name": "a-long-logical-name"}, "host_if_name", "is empty, and the name cannot take its place"),
        ("v1", {"veth": {}}, "veth.peer_if_name", "is empty"),
        ("v1", {"veth": None}, "veth.peer_if_name", "is empty"),
        ("v1", {"veth": {"peer_if_name": "veth1"}}, "veth.peer_if_name", "the interface itself"),
        ("v1", {"veth": "veth2"}, "veth", "must be an object, not 'veth2'"),
        ("v1", {"namespace": "ns1"}, "namespace", "must be an object"),
        ("v1", {"namespace": {"type": 1}}, "namespace.microservice", "is empty"),
        ("v1", {"namespace": {"type": 2, "name": "a/b"}}, "namespace.name", "cannot be the name"),
        ("v1", {"namespace": {"type": 3, "filepath": "x"}}, "namespace.filepath", "must begin with /"),
        ("v1", {"namespace": {"type": 4}}, "namespace.type", "4 is none of"),
        ("v1", {"namespace": {"type": 2, "reference": "x"}}, "namespace.reference", "that is name"),
        ("v3", {"namespace": {"type": "NSID", "name": "x"}}, "namespace.name", "that is reference"),
        ("v3", {"namespace": {}}, "namespace.type", "not defined"),
        ("v3", {"namespace": {"type": 1}}, "namespace.reference", "is empty"),
        ("v3", {"namespace": {"type": 2, "reference": "x"}}, "namespace.reference", "not a number"),
        ("v3", {"name": ""}, "name", "is empty"),
        ("v3", {"name": "other"}, "name", "is not the name in the key"),
        ("v3", {"type": None}, "type", "is not defined"),
        ("v3", {"type": 0}, "type", "is not defined"),
        ("v3", {"tap": {}}, "tap", "does not go with the type VETH"),
        ("v3", {"veth": {"peer_if_name": "x", "rx_checksum_offloading": 3}}, "veth.rx_checksum_offloading", "none of"),
        ("v3", {"type": "EXISTING", "veth": None, "namespace": {"type": 1, "reference": "x"}}, "namespace", "EXISTING"),
        ("v3", {"type": "VRF_DEVICE", "veth": None}, "vrf_dev.routing_table", "0 is not between"),
        (
            "v3",
            {"type": 5, "veth": None, "vrf_dev": {"routing_table": 9}, "phys_address": "02:00:00:00:00:01"},
            "phys_address",
            "VRF_DEVICE",
        ),
        (
            "v3",
            {"type": 5, "veth": None, "vrf_dev": {"routing_table": 9}, "vrf_master_interface": "red"},
            "vrf_master_interface",
            "cannot be in a VRF",
        ),
        ("v3", {"type": 3, "veth": None, "host_if_name": "lo1"}, "host_if_name", "is called lo"),
        ("v3", {"vrf_master_interface": "veth1"}, "vrf_master_interface", "the interface itself"),
    ],
)
def test_wrong(layout: str, fields: dict[str, Any], field: str, problem: str) -> None:
    e = error(layout, **fields)
    assert e.field == field
    assert problem in e.problem
    assert e.line == 1
    assert str(e).startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("value", "problem", "line", "column"),
    [
        (b"", "is not JSON", 1, 1),
        (b'{\n "name": "veth1"\n "mtu": 1}', "is not JSON", 3, 2),
        (b"\n\n  [1]", "must be a JSON object", 3, 3),
        (b'"text"', "must be a JSON object", 1, 1),
        (b'{"name":\n"\xff"}', "is not UTF-8", 2, 2),
        ('{"näme":"'.encode() + b'\xff"}', "is not UTF-8", 1, 10),
        (b"{" + b'"a":{' * 100_000, "", 0, 0),
        (b'{"mtu":' + b"1" * 5000 + b"}", "thousands of digits", 0, 0),
        (b'{"mtu": NaN}', "must be a whole number", 1, 9),
        (b'{"mtu": 1e999}', "must be a whole number", 1, 9),
        (b" " * (MAX_BYTES + 1), "the limit is", 0, 0),
    ],
)
def test_not_even_an_object(value: bytes, problem: str, line: int, column: int) -> None:
    with pytest.raises(DecodeError) as e:
        decode(key("v1", "interface", "veth1"), value)
    assert problem in e.value.problem
    if line:
        assert (e.value.line, e.value.column) == (line, column)
        assert str(e.value).endswith(f"(line {line}, column {column})")


def test_error_at_its_place() -> None:
    text = b'{\n  "name": "veth1",\n  "IpAddresses": ["10.0.0.1/24",\n     "10.0.0.x/24"],\n  "veth": {}}'
    with pytest.raises(DecodeError) as e:
        decode(key("v1", "interface", "veth1"), text)
    assert (e.value.field, e.value.line, e.value.column) == ("ip_addresses[1]", 4, 6)
    copy = pickle.loads(pickle.dumps(e.value))
    assert (str(copy), copy.line) == (str(e.value), 4)


def test_types_of_v3() -> None:
    def of(**fields: Any) -> Interface:
        value = interface("v3", **fields).value
        assert isinstance(value, Interface)
        return value

    assert of(type="DUMMY").type == "dummy"
    assert of(type=3).host_if_name == "lo"
    assert of(type="EXISTING", host_if_name="eth0").type == "existing"
    assert of(type="VRF_DEVICE", vrf_dev={"routing_table": "100"}).table == 100
    assert of(type="TAP_TO_VPP", tap={"vpp_tap_if_name": "t"}).tap_source == "t"
    offloads = {"peer_if_name": "veth2", "rx_checksum_offloading": 2, "txChecksumOffloading": "CHKSM_OFFLOAD_ENABLED"}
    veth = of(type=1, veth=offloads, mtu="1500")
    assert (veth.rx_checksum, veth.tx_checksum, veth.mtu) == (False, True, 1500)


def route(layout: str, parts: tuple[str, ...], **fields: Any) -> Decoded:
    return decode(key(layout, "route", *parts), json.dumps(fields).encode())


@pytest.mark.parametrize(
    ("decoded", "want"),
    [
        (
            lambda: route("v1", ("r",), interface="a", dst_ip_addr="10.1.0.0/16", gw_addr="10.0.0.1", metric=5),
            Route("a", "10.1.0.0/16", "10.0.0.1", metric=5),
        ),
        (
            lambda: route("v1", ("r",), interface="a", default=True, gw_addr="fd00::1", table=7),
            Route("a", "::/0", "fd00::1", table=7),
        ),
        (
            lambda: route("v1", ("r",), interface="a", dst_ip_addr="10.1.0.0/16", scope={"type": 2}),
            Route("a", "10.1.0.0/16"),
        ),
        (
            lambda: route("v1", ("r",), interface="a", dst_ip_addr="10.1.0.0/16", scope={"type": 0}),
            Route("a", "10.1.0.0/16", scope="global"),
        ),
        (
            lambda: route("v1", ("r",), interface="a", **{"dst-ip-addr": "10.1.0.0/16", "gw-addr": "10.0.0.1/24"}),
            Route("a", "10.1.0.0/16", "10.0.0.1"),
        ),
        (
            lambda: route(
                "v1", ("r",), interface="a", dst_ip_addr="10.1.0.0/16", src_ip_addr="10.0.0.2",
                namespace={"type": 2, "name": "ns1"},
            ),
            Route("a", "10.1.0.0/16", source="10.0.0.2", netns="ns1"),
        ),
        (
            lambda: route("v3", ("10.1.0.0/16", "a"), outgoing_interface="a", dst_network="10.1.2.3/16", scope="LINK"),
            Route("a", "10.1.0.0/16"),
        ),
        (
            lambda: route(
                "v3", ("2001:db8::/32", "a"), outgoingInterface="a", dstNetwork="2001:db8:0:0::/32", scope=2
            ),
            Route("a", "2001:db8::/32"),
        ),
    ],
)  # fmt: skip
def test_routes(decoded: Any, want: Route) -> None:
    assert decoded().value == want


@pytest.mark.parametrize(
    ("layout", "parts", "fields", "field", "problem"),
    [
        ("v1", ("r",), {"dst_ip_addr": "10.0.0.0/8"}, "interface", "is empty"),
        ("v1", ("r",), {"interface": "a"}, "dst_ip_addr", "is empty"),
        ("v1", ("r",), {"interface": "a", "dst_ip_addr": "x"}, "dst_ip_addr", "'x'"),
        ("v1", ("r",), {"interface": "a", "default": True, "gw_addr": "x"}, "gw_addr", "'x'"),
        (
            "v1",
            ("r",),
            {"interface": "a", "default": True, "gw_addr": "10.0.0.1", "scope": {"type": "HOST"}},
            "scope",
            "HOST",
        ),
        (
            "v3",
            ("10.0.0.0/8", "a"),
            {"outgoing_interface": "b", "dst_network": "10.0.0.0/8"},
            "outgoing_interface",
            "key",
        ),
        ("v3", ("10.0.0.0/8", "a"), {"outgoing_interface": "a", "dst_network": "10.0.0.0/9"}, "dst_network", "key"),
        ("v3", ("x/y", "a"), {"outgoing_interface": "a", "dst_network": "10.0.0.0/9"}, "dst_network", "key"),
    ],
)
def test_wrong_routes(layout: str, parts: tuple[str, ...], fields: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(DecodeError) as e:
        route(layout, parts, **fields)
    assert e.value.field == field
    assert problem in e.value.problem


def test_neighbours() -> None:
    def arp(layout: str, parts: tuple[str, ...], **fields: Any) -> Decoded:
        return decode(key(layout, "arp", *parts), json.dumps(fields).encode())

    mac = "02:00:00:00:00:01"
    want = Arp("a", "10.0.0.9", mac)
    assert arp("v3", ("a", "10.0.0.9"), interface="a", ip_address="10.0.0.9", hw_address=mac.upper()).value == want
    assert arp("v1", ("n",), interface="a", ip_addr="10.0.0.9", hw_address="02-00-00-00-00-01").value == want
    full = arp(
        "v1", ("n",), interface="a", ip_addr="10.0.0.9", hw_address=mac, ip_family={"family": 0}, state={"type": 1},
        namespace={"type": 3, "name": "ns1"},
    )  # fmt: skip
    assert full.value == Arp("a", "10.0.0.9", mac, "noarp")
    assert "namespace.name: does not go" in remarks(full)
    for fields, field in (
        ({"interface": "a", "ip_addr": "x", "hw_address": mac}, "ip_addr"),
        ({"interface": "a", "ip_addr": "10.0.0.9", "hw_address": "x"}, "hw_address"),
        ({"interface": "a", "ip_addr": "10.0.0.9", "hw_address": mac, "ip_family": {"family": 3}}, "ip_family"),
        ({"interface": "", "ip_addr": "10.0.0.9", "hw_address": mac}, "interface"),
    ):
        with pytest.raises(DecodeError) as e:
            arp("v1", ("n",), **fields)
        assert e.value.field == field
    with pytest.raises(DecodeError, match="not the address in the key"):
        arp("v3", ("a", "10.0.0.8"), interface="a", ip_address="10.0.0.9", hw_address=mac)


def test_interfaces_of_vpp() -> None:
    def vpp(layout: str, **fields: Any) -> Decoded:
        return decode(key(layout, "afpacket", "af1"), json.dumps({"name": "af1", **fields}).encode())

    for layout, type_ in (("v1", 4), ("v1", "AF_PACKET_INTERFACE"), ("v3", 6), ("v3", "AF_PACKET")):
        got = vpp(layout, type=type_, enabled=True, afpacket={"host_if_name": "h0"}, rx_mode_settings={"a": 1})
        assert got == Decoded(AfPacket("af1", "h0", enabled=True))
    assert vpp("v3", type=6, afpacket={"linux_interface": "veth1"}).value == AfPacket("af1", "", "veth1")
    for other in (0, 2, "MEMIF", None, [], True):
        assert vpp("v1", type=other) == Decoded(None)
    assert decode(key("v1", "afpacket", "af1"), b"\xff") == Decoded(None)
    with pytest.raises(DecodeError) as e:
        vpp("v3", type=6, afpacket={})
    assert e.value.field == "afpacket.host_if_name"


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
FIELDS = [
    "name", "type", "enabled", "ip_addresses", "phys_address", "mtu", "host_if_name", "namespace", "veth", "tap",
    "vrf_dev", "link", "interface", "dst_ip_addr", "gw_addr", "scope", "state", "ip_family", "ip_addr", "hw_address",
    "afpacket", "outgoing_interface", "dst_network", "ip_address", "default", "metric", "table", "link_only",
]  # fmt: skip
KEYS = [
    key(layout, kind, *parts)
    for layout in ("v1", "v3")
    for kind, parts in (("interface", ("x",)), ("afpacket", ("x",)))
] + [
    key("v1", "arp", "x"), key("v1", "route", "x"), key("v3", "arp", "x", "10.0.0.1"),
    key("v3", "route", "10.0.0.0/8", "x"),
]  # fmt: skip
SHAPED = st.dictionaries(
    st.sampled_from(FIELDS),
    ANY_JSON
    | st.sampled_from(["10.0.0.1/24", "fd00::1", "x", 0, 1, 2, 4, 6, {"type": 1}, {"peer_if_name": "y"}, ["10.0.0.1"]]),
)


@given(st.sampled_from(KEYS), st.binary() | (ANY_JSON | SHAPED).map(lambda v: json.dumps(v).encode()))
def test_nothing_but_decode_errors(where: Key, value: bytes) -> None:
    try:
        decode(where, value)
    except DecodeError as e:
        assert str(e)
        if e.line:
            lines = value.decode("utf-8", "replace").split("\n")
            assert 1 <= e.line <= len(lines)
            assert 1 <= e.column <= len(lines[e.line - 1]) + 1


@given(ANY_JSON, st.lists(st.integers(0, 3) | st.sampled_from(["a", "b"])))
def test_any_path_has_a_place(value: Any, path: list[str | int]) -> None:
    line, column = locate(json.dumps(value, indent=1), tuple(path))
    assert line >= 1
    assert column >= 1
