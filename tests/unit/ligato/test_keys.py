"""Keys of both layouts, there and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnl_engine.northbound.ligato.keys import format_key, ligato_alias, parse_key, prefix, status_key

HEAD = "/vnf-agent/vpp1/"


@pytest.mark.parametrize(
    ("rest", "layout", "kind", "name", "parts"),
    [
        ("linux/config/v1/interface/veth1", "v1", "interface", "veth1", ()),
        ("linux/config/v1/arp/gateway", "v1", "arp", "gateway", ()),
        ("linux/config/v1/route/default route/2", "v1", "route", "default route/2", ()),
        ("config/linux/interfaces/v2/interface/veth1", "v3", "interface", "veth1", ()),
        ("config/linux/interfaces/v2/interface/pod/eth 0:ä", "v3", "interface", "pod/eth 0:ä", ()),
        ("config/linux/l3/v2/arp/veth1/10.0.0.1", "v3", "arp", "veth1/10.0.0.1", ("veth1", "10.0.0.1")),
        ("config/linux/l3/v2/arp/a/b/fd00::1", "v3", "arp", "a/b/fd00::1", ("a/b", "fd00::1")),
        ("config/linux/l3/v2/route/10.0.0.0/8/a/b", "v3", "route", "10.0.0.0/8/a/b", ("10.0.0.0", "8", "a/b")),
        ("config/linux/l3/v2/route/fd00::/64/veth1", "v3", "route", "fd00::/64/veth1", ("fd00::", "64", "veth1")),
        ("vpp/config/v1/interface/af1", "v1", "afpacket", "af1", ()),
        ("config/vpp/v2/interfaces/af1", "v3", "afpacket", "af1", ()),
        ("config/linux/iptables/v2/rulechain/x", "v3", "other", "iptables/v2/rulechain/x", ()),
    ],
)
def test_taken_apart(rest: str, layout: str, kind: str, name: str, parts: tuple[str, ...]) -> None:
    for key in (HEAD + rest, (HEAD + rest).encode()):
        got = parse_key(key, "vpp1")
        assert got is not None
        assert (got.text, got.layout, got.kind, got.name, got.parts, got.problem) == (
            HEAD + rest, layout, kind, name, parts, "",
        )  # fmt: skip


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/vnf-agent/vpp10/linux/config/v1/interface/veth1",
        "/vnf-agent/vpp1/check/status/v1/agent",
        "/vnf-agent/vpp1/config-status/linux/interfaces/v2/interface/veth1",
        "/vnf-agent/vpp1/linux/status/v1/interface/veth1",
        "/vnf-agent/vpp1/vpp/config/v1/bd/x",
        "linux/config/v1/interface/veth1",
    ],
)
def test_not_ours(key: str) -> None:
    assert parse_key(key, "vpp1") is None


@pytest.mark.parametrize(
    ("rest", "problem"),
    [
        ("linux/config/v1/interface/", "where a name should be"),
        ("config/linux/l3/v2/arp/veth1", "<interface>/<ip>"),
        ("config/linux/l3/v2/arp/veth1/", "<interface>/<ip>"),
        ("config/linux/l3/v2/route/10.0.0.0/veth1", "<ip>/<prefix>/<interface>"),
    ],
)
def test_cut_short(rest: str, problem: str) -> None:
    got = parse_key(HEAD + rest, "vpp1")
    assert got is not None
    assert problem in got.problem


NAME = st.text(st.characters(codec="utf-8"), min_size=1)


@given(NAME, st.sampled_from(["v1", "v3"]), st.sampled_from(["interface", "arp", "route", "afpacket"]))
def test_there_and_back(name: str, layout: str, kind: str) -> None:
    parts: tuple[str, ...] = (name,)
    if layout == "v3" and kind == "arp":
        parts = (name, "fd00::1")
    elif layout == "v3" and kind == "route":
        parts = ("fd00::/64", name)
    got = parse_key(format_key("vpp1", layout, kind, *parts), "vpp1")  # type: ignore[arg-type]
    assert got is not None
    assert (got.layout, got.kind, got.name, got.problem) == (layout, kind, "/".join(parts), "")


@pytest.mark.parametrize(
    ("rest", "status"),
    [
        ("linux/config/v1/interface/veth1", "linux/status/v1/interface/veth1"),
        ("linux/config/v1/route/r/1", "linux/status/v1/route/r/1"),
        ("vpp/config/v1/interface/af1", "linux/status/v1/afpacket/af1"),
        ("config/linux/interfaces/v2/interface/veth1", "config-status/linux/interfaces/v2/interface/veth1"),
        ("config/linux/l3/v2/arp/veth1/fd00::1", "config-status/linux/l3/v2/arp/veth1/fd00::1"),
        ("config/vpp/v2/interfaces/af1", "config-status/vpp/v2/interfaces/af1"),
        ("config/linux/iptables/v2/rulechain/x", "config-status/linux/iptables/v2/rulechain/x"),
        ("linux/config/v2/x", "linux/status/v2/x"),
    ],
)
def test_where_the_status_goes(rest: str, status: str) -> None:
    key = parse_key(HEAD + rest, "vpp1")
    assert key is not None
    assert status_key(key, "vpp1") == HEAD + status
    assert parse_key(HEAD + status, "vpp1") is None, "our own status would come back as configuration"


@pytest.mark.parametrize("label", ["", "a/b", "a\nb", "a\0"])
def test_a_label_that_none_can_have(label: str) -> None:
    with pytest.raises(ValueError, match="microservice label"):
        prefix(label)


def test_alias_of_a_running_ligato() -> None:
    assert ligato_alias("vpp1", "veth1", "veth2") == "/vnf-agent/vpp1/veth1/veth2"
    assert ligato_alias("vpp1", "tap1") == "/vnf-agent/vpp1/tap1"
