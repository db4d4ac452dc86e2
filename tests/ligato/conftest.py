"""Engines that are configured through keys, in a real etcd or their own file.

make_engine   makes engines that are not started yet; `ligato(…)` are its flags
agent         an engine that runs on `etcd`, with the keys of label vpp1 to be put and looked at
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from fastnl.testing import eventually, ip_json
from fastnl_engine.kv.testing import Etcd
from fastnl_engine.testing import EngineProcess

HERE = Path(__file__).parent
STATUS = {
    "linux/config/v1/": "linux/status/v1/",
    "vpp/config/v1/interface/": "linux/status/v1/afpacket/",
    "config/": "config-status/",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All here are kernel tests: checked for leftovers, and for root only."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.kernel)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="makes real interfaces, which needs root"))


class Agent:
    """An engine and the store that configures it.

    put, delete, status   by key, without /vnf-agent/<label>/
    """

    def __init__(self, engine: EngineProcess, etcd: Etcd, label: str = "vpp1") -> None:
        self.engine = engine
        self.etcd = etcd
        self.root = f"/vnf-agent/{label}/"

    def put(self, key: str, value: Any) -> None:
        text = value if isinstance(value, str) else json.dumps(value)
        self.etcd.ctl("put", "--", self.root + key, text)

    def put_all(self, values: dict[str, Any]) -> None:
        """In one transaction."""
        lines = [f"put {json.dumps(self.root + key)} {json.dumps(json.dumps(v))}" for key, v in values.items()]
        self.etcd.ctl("txn", input="\n" + "\n".join(lines) + "\n\n\n")

    def delete(self, key: str) -> None:
        self.etcd.ctl("del", self.root + key)

    def value(self, key: str) -> Any:
        found = json.loads(self.etcd.ctl("get", self.root + key, "-w", "json")).get("kvs")
        if not found:
            return None
        return json.loads(base64.b64decode(found[0]["value"]))

    def _told(self, key: str) -> dict[str, Any]:
        for head, place in STATUS.items():
            if key.startswith(head):
                return self.value(place + key.removeprefix(head)) or {}
        raise ValueError(key)

    def status(self, key: str) -> dict[str, Any]:
        """Of the value under a key; {} while there is none."""
        return self._told(key).get("value", {})

    def interface(self, key: str) -> dict[str, Any]:
        """What the status tells of an interface."""
        return self._told(key).get("interface", {})

    def expect(self, key: str, state: str, *words: str) -> dict[str, Any]:
        """Waits for a status, and for words in its error or details."""

        def there() -> bool:
            status = self.status(key)
            text = status.get("error", "") + " ".join(status.get("details", ()))
            return status.get("state") == state and all(word in text for word in words)

        assert eventually(there), f"{key}: {self.status(key)}, not {state} {words}\n{self.engine.log}"
        return self.status(key)


@pytest.fixture
def make_engine(nothing_left: None) -> Iterator[Callable[..., EngineProcess]]:
    # not tmp_path: the path of a Unix socket may have 107 bytes only
    with tempfile.TemporaryDirectory(prefix="fastnl-") as folder, contextlib.ExitStack() as made:
        places = (Path(folder, str(n)) for n in itertools.count())

        def make(toml: str = "", **more: Any) -> EngineProcess:
            place = next(places)
            place.mkdir()
            (place / "engine.toml").write_text(toml)
            engine = EngineProcess(place, "--config", str(place / "engine.toml"), **more)
            return made.enter_context(contextlib.closing(engine))

        yield make


def ligato(urls: Sequence[str], top: str = "", **settings: Any) -> str:
    """The settings of an engine that is configured through an etcd."""
    lines = {"store": "etcd", "endpoints": list(urls), "statistics": 0, "status_lease": 5} | settings
    return top + "\n[ligato]\n" + "\n".join(f"{name} = {json.dumps(value)}" for name, value in lines.items())


@pytest.fixture
def make_agent(etcd: Etcd, make_engine: Callable[..., EngineProcess]) -> Callable[..., Agent]:
    def make(top: str = "", **settings: Any) -> Agent:
        return Agent(make_engine(ligato(etcd.urls, top, **settings)).start(), etcd, settings.get("label", "vpp1"))

    return make


@pytest.fixture
def agent(make_agent: Callable[..., Agent]) -> Agent:
    return make_agent()


def links(netns: str) -> dict[str, dict[str, Any]]:
    """The interfaces of a namespace by name, as `ip` sees them."""
    return {row["ifname"]: row for row in ip_json(netns, "link", "show") if row["ifname"] != "lo"}


def comes(netns: str, ifname: str) -> bool:
    def there() -> bool:
        try:
            return ifname in links(netns)
        except subprocess.CalledProcessError:
            return False  # a namespace that is being made has its file before it is one

    return eventually(there)


def goes(netns: str, ifname: str) -> bool:
    return eventually(lambda: ifname not in links(netns))


def addresses(netns: str, ifname: str) -> set[str]:
    rows = ip_json(netns, "address", "show", "dev", ifname)
    return {f"{a['local']}/{a['prefixlen']}" for row in rows for a in row["addr_info"] if a["scope"] != "link"}


# -- values ----------------------------------------------------------------------------------------


def veth1(name: str, peer: str, netns: str = "", *ips: str, **more: Any) -> dict[str, Any]:
    """A half of a pair as v1 has it."""
    value = {"name": name, "enabled": True, "veth": {"peer_if_name": peer}, "ip_addresses": list(ips)}
    return value | ({"namespace": {"type": 2, "name": netns}} if netns else {}) | more


def veth3(name: str, peer: str, netns: str = "", *ips: str, **more: Any) -> dict[str, Any]:
    """And as v3 has it."""
    value = {"name": name, "type": "VETH", "enabled": True, "veth": {"peerIfName": peer}, "ipAddresses": list(ips)}
    return value | ({"namespace": {"type": "NSID", "reference": netns}} if netns else {}) | more
