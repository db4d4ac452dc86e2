"""Forwarders as processes, with the real gRPC API.

make_forwarder   starts engines that serve the mesh, each with a folder of its own
forwarder        one that is running
blue, red        namespaces
hosts            namespaces with a network between them
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastnl.testing import Census, Namespaces, eventually, ip_json
from fastnl_engine.adapters.nsm.gate import SPEAKER
from fastnl_engine.adapters.nsm.testing import Forwarder
from fastnl_engine.testing import EngineProcess

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE) and {"make_forwarder", "netns"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.kernel)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="makes real interfaces, which needs root"))


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """As everywhere, but for threads and descriptors: gRPC has some of its own in the process of the tests."""
    if request.node.get_closest_marker("kernel") is None:
        yield
        return

    def take() -> Census:
        return dataclasses.replace(Census.take(), fds=frozenset(), threads=frozenset())

    before = take()
    yield
    left: list[str] = []

    def clean() -> bool:
        left[:] = take().difference(before)
        return not left

    if not eventually(clean):
        pytest.fail("left behind:\n  " + "\n  ".join(left), pytrace=False)


def speakers_of(engine: int) -> list[int]:
    """Processes that speak gRPC for an engine, zombies too."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            words = (place / "cmdline").read_bytes()
            if parent == engine and (not words or SPEAKER.encode() in words):
                found.append(int(place.name))
    return found


class ForwarderProcess(EngineProcess):
    """An engine that serves the mesh at `target`."""

    def __init__(self, folder: Path, *flags: str, **more: object) -> None:
        self.target = f"unix:{folder}/nsm.sock"
        super().__init__(folder, "--nsm", self.target, *flags, **more)
        self._faces: list[Forwarder] = []

    def face(self) -> Forwarder:
        """A client that `close` closes; calls wait until the forwarder serves."""
        self._faces.append(Forwarder(self.target))
        return self._faces[-1]

    def hang_up(self) -> None:
        for face in self._faces:
            face.channel.close()
        self._faces.clear()
        super().hang_up()

    @property
    def speaker(self) -> int:
        """The process that speaks gRPC for it."""
        [pid] = speakers_of(self.pid)
        return pid

    def held(self) -> int:
        """Descriptors of both."""
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in (self.pid, self.speaker))

    def start(self) -> ForwarderProcess:
        super().start()
        mesh = "forwarding for the mesh"
        assert eventually(lambda: mesh in self.log.rpartition("event=serving")[2]), self.log
        return self


@pytest.fixture
def make_forwarder(nothing_left: None) -> Iterator[Callable[..., ForwarderProcess]]:
    # with a short path, for the sockets
    with tempfile.TemporaryDirectory(prefix="fastnl-") as folder, contextlib.ExitStack() as made:
        places = (Path(folder, str(n)) for n in itertools.count())

        def make(*flags: str, **more: object) -> ForwarderProcess:
            place = next(places)
            place.mkdir()
            return made.enter_context(contextlib.closing(ForwarderProcess(place, *flags, **more)))

        yield make


@pytest.fixture
def forwarder(make_forwarder: Callable[..., ForwarderProcess]) -> ForwarderProcess:
    return make_forwarder().start()


@pytest.fixture
def blue(netns: Namespaces) -> str:
    return netns.make("blue")


@pytest.fixture
def red(netns: Namespaces) -> str:
    return netns.make("red")


@pytest.fixture
def hosts(netns: Namespaces) -> dict[str, str]:
    """Namespaces that stand for hosts, and their addresses in the network between them."""
    hosts = {netns.make("host1"): "192.0.2.1", netns.make("host2"): "192.0.2.2"}
    between = ["name", "under", "netns", "host1", "type", "veth", "peer", "name", "under", "netns", "host2"]
    subprocess.run(["ip", "link", "add", *between], check=True)
    for host, address in hosts.items():
        subprocess.run(["ip", "-n", host, "addr", "add", f"{address}/24", "dev", "under"], check=True)
        for ifname in ("lo", "under"):
            subprocess.run(["ip", "-n", host, "link", "set", ifname, "up"], check=True)
    return hosts


@pytest.fixture
def links() -> Callable[[str], dict[str, dict[str, Any]]]:
    """The interfaces of a namespace as `ip` sees them, by name."""
    return lambda netns: {row["ifname"]: row for row in ip_json(netns, "link", "show")}
