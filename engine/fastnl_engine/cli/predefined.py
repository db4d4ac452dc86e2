"""Values that the command lines have ready, to try things with, by their short keys."""

from __future__ import annotations

import json
from typing import Any

V1 = "linux/config/v1/"
INTERFACES = V1 + "interface/"

Value = dict[str, Any]


def _named(name: str) -> Value:
    return {"type": 2, "name": name}


# what people hand on is the shape that they would write themselves: every field once, in the order of the model
VETH: dict[str, Value] = {
    INTERFACES + "veth1": {
        "name": "veth1", "type": 0, "enabled": True, "ip_addresses": ["192.168.22.1/24"],
        "phys_address": "D2:74:8C:12:67:D2", "mtu": 1500, "namespace": _named("ns1"),
        "veth": {"peer_if_name": "veth2"},
    },
    INTERFACES + "veth2": {
        "name": "veth2", "type": 0, "enabled": True, "ip_addresses": ["192.168.22.2/24"],
        "phys_address": "92:C7:42:67:AB:CD", "mtu": 1500, "namespace": _named("ns2"),
        "veth": {"peer_if_name": "veth1"},
    },
}  # fmt: skip

TAP: dict[str, Value] = {
    INTERFACES + "tap1": {
        "name": "tap1", "type": 1, "enabled": True, "ip_addresses": ["172.52.45.127/24"],
        "phys_address": "BC:FE:E9:5E:07:04", "mtu": 1500, "host_if_name": "tap-host", "namespace": _named("ns1"),
    },
}  # fmt: skip

ROUTE: dict[str, Value] = {
    V1 + "route/route1": {
        "name": "route1", "namespace": _named("ns1"), "interface": "veth1", "dst_ip_addr": "10.0.2.0/24",
        "metric": 100,
    },
}  # fmt: skip

ARP: dict[str, Value] = {
    V1 + "arp/arp1": {
        "name": "arp1", "namespace": _named("ns1"), "interface": "veth1", "ip_addr": "192.168.22.3",
        "hw_address": "46:06:18:DB:05:3A",
    },
}  # fmt: skip


def with_address(values: dict[str, Value], name: str, address: str) -> dict[str, Value]:
    """The same, with one more address on an interface."""
    key = INTERFACES + name
    value = values[key]
    return {**values, key: {**value, "ip_addresses": [*value["ip_addresses"], address]}}


def as_json(value: Value) -> bytes:
    return json.dumps(value).encode()
