"""What comes out is a matter of what is configured, never of the order or of who asked when."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from fastnl_engine.model import Connection, values_of
from fastnl_engine.northbound.ligato.compile import Compiler
from fastnl_engine.northbound.ligato.keys import format_key
from fastnl_engine.northbound.ligato.status import settle

# most of it makes sense together, so that much is in connections when something changes
NAMES = st.sampled_from("aaabbbcde")
PARTNER = {"a": "b", "b": "a", "c": "d", "d": "c", "e": "a"}
NETNS = st.sampled_from(["", "", "", "x", "y"])
TYPES = [*["VETH"] * 9, "DUMMY", "DUMMY", "VRF_DEVICE", "EXISTING", "NONSENSE"]
NETS = st.sampled_from(["10.1.0.0/16", "10.2.0.0/16", "0.0.0.0/0", "fd00::/64"])


@st.composite
def interfaces(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    name, type_, netns = draw(NAMES), draw(st.sampled_from(TYPES)), draw(NETNS)
    value: dict[str, Any] = {
        "name": name,
        "type": type_,
        "enabled": draw(st.sampled_from([True, True, True, True, False])),
        "host_if_name": draw(st.sampled_from(["", "", "", "", "eth0", "eth1"])),
        "ip_addresses": draw(st.sampled_from([[], ["10.1.0.1/16"], ["10.1.0.1/16"], ["10.2.0.1"], ["nonsense"]])),
    }
    if type_ == "VETH":
        value["veth"] = {"peer_if_name": draw(st.sampled_from([PARTNER[name]] * 4 + list(PARTNER)))}
    if type_ == "VRF_DEVICE":
        value["vrf_dev"] = {"routing_table": 9}
    elif draw(st.integers(0, 5)) == 0:
        value["vrf_master_interface"] = draw(NAMES)
    if draw(st.booleans()):
        value["namespace"] = {"type": "NSID", "reference": netns} if netns else None
        return format_key("vpp1", "v3", "interface", name), value
    value["namespace"] = {"type": 2, "name": netns}
    return format_key("vpp1", "v1", "interface", draw(st.sampled_from([name, "k"]))), value


@st.composite
def attached(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    interface, to = draw(NAMES), draw(NETS)
    gateway = draw(st.sampled_from(["", "10.1.0.9", "10.2.0.9"]))
    if draw(st.integers(0, 2)) == 0:
        ip = draw(st.sampled_from(["10.1.0.9", "fd00::9"]))
        value = {"interface": interface, "ip_addr": ip, "hw_address": "02:00:00:00:00:01"}
        return format_key("vpp1", "v1", "arp", draw(st.sampled_from("mn"))), value
    if draw(st.booleans()):
        value = {"outgoing_interface": interface, "dst_network": to, "gw_addr": gateway}
        return format_key("vpp1", "v3", "route", to, interface), value
    space = {"type": 2, "name": draw(NETNS)}
    value = {"interface": interface, "dst_ip_addr": to, "gw_addr": gateway, "namespace": space}  # type: ignore[dict-item]
    return format_key("vpp1", "v1", "route", draw(st.sampled_from("rs"))), value


@st.composite
def packets(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    link = draw(st.sampled_from([{"host_if_name": "eth0"}, {"linux_interface": "a"}, {"host_if_name": "b"}, {}]))
    if draw(st.booleans()):
        return format_key("vpp1", "v3", "afpacket", "p"), {"name": "p", "type": 6, "afpacket": link}
    return format_key("vpp1", "v1", "afpacket", "p"), {"name": "p", "type": 4, "afpacket": link}


VALUES = st.one_of(interfaces(), interfaces(), attached(), packets())
# a key and its value, None to delete it; how old; whether somebody asks afterwards
STEPS = st.lists(
    st.tuples(VALUES, st.sampled_from([True, True, False]), st.integers(0, 2), st.booleans()),
    max_size=40,
)


class Mirror:
    """What somebody knows who only follows the changes."""

    def __init__(self, compiler: Compiler) -> None:
        self.compiler = compiler
        self.known: tuple[dict[str, Any], dict[str, Any], dict[str, Any]] = ({}, {}, {})

    def follow(self) -> None:
        c = self.compiler
        for known, changes in zip(self.known, (c.changes(), c.statuses(), c.dependents()), strict=True):
            for name, value in changes.items():
                if value is None:
                    known.pop(name, None)
                else:
                    known[name] = value


@settings(max_examples=600)
@given(STEPS, st.randoms(use_true_random=False))
def test_any_order_and_any_asking_gives_the_same(steps: list[Any], random: Any) -> None:
    compiler = Compiler("vpp1")
    mirror = Mirror(compiler)
    configured: dict[str, tuple[bytes, int]] = {}
    for (key, value), keep, since, ask in steps:
        if keep:
            configured[key] = (json.dumps(value).encode(), since)
            compiler.put(key, *configured[key])
        else:
            assert compiler.delete(key) == (configured.pop(key, None) is not None)
        if ask:
            mirror.follow()
    mirror.follow()
    fresh = Compiler("vpp1")
    items = list(configured.items())
    random.shuffle(items)
    for key, (raw, since) in items:
        fresh.put(key, raw, since)
    assert compiler.desired() == fresh.desired() == mirror.known[0]
    assert compiler.verdicts() == fresh.verdicts() == mirror.known[1]
    assert fresh.dependents() == mirror.known[2]
    assert set(mirror.known[1]) == set(configured)
    _agree(fresh)
    for key in configured:
        compiler.delete(key)
    mirror.follow()
    assert mirror.known == ({}, {}, {})
    parts = (compiler, compiler._claims, compiler._dependents, compiler._ledger)
    left = {name: kept for part in parts for name, kept in vars(part).items() if isinstance(kept, dict | set) and kept}
    assert left == {}, "something is kept of what is gone"


def _agree(compiler: Compiler) -> None:
    """The engine takes all connections, no two exclude each other, and what waits for the engine is in one."""
    for connection in compiler.desired().values():
        values_of(msgspec.convert(connection, Connection))
    ends = [
        (end["netns"], end["ifname"])
        for connection in compiler.desired().values()
        for end in (connection["a"], connection.get("b"))
        if end
    ]
    assert len(ends) == len(set(ends))
    for key, verdict in compiler.verdicts().items():
        status = settle(key, verdict, {"state": "up"})
        if verdict.state is None:
            assert verdict.connection in compiler.desired()
            assert status.state == "CONFIGURED"
            letter, _, part = verdict.path.partition(".")
            end = compiler.desired()[verdict.connection][letter]
            if part:
                name, _, index = part.rstrip("]").partition("[")
                assert end[name][int(index)]
        else:
            assert status.error or status.details, "a value is held back for no reason"


@given(st.lists(st.tuples(st.binary() | st.text(), st.binary())))
def test_nothing_raises(items: list[tuple[str | bytes, bytes]]) -> None:
    compiler = Compiler("vpp1")
    for key, value in items:
        for head in ("", "/vnf-agent/vpp1/linux/config/v1/interface/", "/vnf-agent/vpp1/config/linux/l3/v2/route/"):
            whole = head.encode() + key if isinstance(key, bytes) else head + key
            compiler.put(whole, value)
            compiler.statuses()
            compiler.delete(whole)
            compiler.changes()


@given(st.text(), st.text(), st.sampled_from(["interface", "arp", "route", "afpacket"]))
def test_any_text_for_a_name(one: str, two: str, kind: str) -> None:
    compiler = Compiler("vpp1")
    for name, peer in ((one, two), (two, one)):
        value = {
            "name": name, "host_if_name": "x" + str(name > peer), "type": 0, "veth": {"peer_if_name": peer},
            "interface": peer, "dst_ip_addr": "10.0.0.0/8", "ip_addr": "10.0.0.1", "hw_address": "02:00:00:00:00:01",
        }  # fmt: skip
        compiler.put(format_key("vpp1", "v1", kind, name), json.dumps(value).encode())  # type: ignore[arg-type]
    for id in compiler.changes():
        assert len(id.encode()) <= 200
        assert id.isprintable()
    compiler.statuses()
    compiler.dependents()
