"""A configuration as people write it, and what becomes of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fastnl_engine.northbound.ligato.compile import Compiler
from fastnl_engine.northbound.ligato.keys import format_key
from fastnl_engine.northbound.ligato.status import ValueStatus, settle

UP = {"state": "up"}


class Desk:
    """Puts values and reads verdicts; names instead of whole keys."""

    def __init__(self, label: str = "vpp1") -> None:
        self.label = label
        self.compiler = Compiler(label)

    def v1(self, name: str, kind: str = "interface", since: int = 0, **fields: Any) -> str:
        key = format_key(self.label, "v1", kind, name)  # type: ignore[arg-type]
        assert self.compiler.put(key, json.dumps({"name": name, **fields}).encode(), since)
        return key

    def veth(self, name: str, peer: str, netns: str = "", since: int = 0, **fields: Any) -> str:
        """A VETH of v1, enabled."""
        space = {"namespace": {"type": 2, "name": netns}} if netns else {}
        return self.v1(name, since=since, **{"enabled": True, "veth": {"peer_if_name": peer}, **space, **fields})

    def pair(self, **fields: Any) -> tuple[str, str]:
        """veth1 in ns1 and veth2 in ns2, as the predefined ones are; `fields` go to veth1."""
        one = self.veth("veth1", "veth2", "ns1", **{"ip_addresses": ["192.168.22.1/24"], **fields})
        return one, self.veth("veth2", "veth1", "ns2", ip_addresses=["192.168.22.2/24"])

    def v3(self, name: str, since: int = 0, **fields: Any) -> str:
        key = format_key(self.label, "v3", "interface", name)
        assert self.compiler.put(key, json.dumps({"name": name, "enabled": True, **fields}).encode(), since)
        return key

    def route3(self, to: str, interface: str, **fields: Any) -> str:
        key = format_key(self.label, "v3", "route", to, interface)
        value = {"dst_network": to, "outgoing_interface": interface, **fields}
        assert self.compiler.put(key, json.dumps(value).encode())
        return key

    def arp3(self, interface: str, ip: str, mac: str = "02:00:00:00:00:09") -> str:
        key = format_key(self.label, "v3", "arp", interface, ip)
        value = {"interface": interface, "ip_address": ip, "hw_address": mac}
        assert self.compiler.put(key, json.dumps(value).encode())
        return key

    def afpacket(self, name: str, since: int = 0, **link: Any) -> str:
        key = format_key(self.label, "v3", "afpacket", name)
        value = {"name": name, "type": "AF_PACKET", "enabled": True, "afpacket": link}
        assert self.compiler.put(key, json.dumps(value).encode(), since)
        return key

    def status(self, key: str, record: dict[str, Any] | None = None) -> ValueStatus:
        """As it is published while the engine says `record`, of every connection that it is up."""
        return settle(key, self.compiler.verdicts()[key], record or UP)

    def state(self, key: str) -> str:
        return self.status(key).state

    def why(self, key: str) -> str:
        """Error and details in one."""
        status = self.status(key)
        return " | ".join(filter(None, (status.error, *status.details)))

    def ids(self) -> list[str]:
        return sorted(self.compiler.desired())


@pytest.fixture
def desk() -> Desk:
    return Desk()
