"""Every test process lives in namespaces of its own, and every kernel test leaves them as it found them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from pyroute2 import IPRoute

from fastnl import Host
from fastnl.testing import PATIENCE, Census, Namespaces, allow_many_files, ip_json, isolate

pytest_plugins = ("tests.fixtures.docker", "tests.fixtures.etcd")

ROOT = os.geteuid() == 0
NEEDS_ROOT = ("kernel", "chaos")  # folders whose tests touch the kernel


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kernel: makes real interfaces, which needs root")
    # `make fuzz` looks for what nobody has seen; `make test` judges a change, so it tries the same each time.  A slow
    # machine is no failure, so there are no deadlines.
    seconds = os.environ.get("FASTNL_FUZZ_SECONDS")
    examples = int(100 * float(seconds)) if seconds else 200
    hypothesis.settings.register_profile(
        "fastnl", deadline=None, max_examples=examples, derandomize=not seconds, print_blob=True
    )
    hypothesis.settings.load_profile("fastnl")
    # who waits for an engine asks it again and again, each time as another client: more than a login shell allows
    allow_many_files()
    # what a script starts in the background ignores it, and so would the programs under test
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if ROOT:
        isolate()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and item.path.relative_to(here).parts[0] in NEEDS_ROOT:
            item.add_marker(pytest.mark.kernel)
            if not ROOT:
                item.add_marker(pytest.mark.skip(reason="makes real interfaces, which needs root"))


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a kernel test that leaves an interface, namespace, descriptor, thread or child process behind."""
    if request.node.get_closest_marker("kernel") is None:
        yield
        return
    before = Census.take()
    yield
    left = before.leaks(PATIENCE)
    if left:
        pytest.fail("left behind:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture
def netns(nothing_left: None) -> Iterator[Namespaces]:
    """Named namespaces that are gone after the test."""
    with Namespaces() as namespaces:
        yield namespaces


@pytest.fixture
def host() -> Host:
    return Host("test")


@pytest.fixture
def foreign() -> Callable[..., int]:
    """Makes an interface that fastnl knows nothing of; gives its index.  It goes with its namespace."""

    def make(netns: str, ifname: str, *, index: int | None = None, group: int | None = None) -> int:
        command = ["ip", "-n", netns, "link", "add", "name", ifname]
        if index is not None:
            command += ["index", str(index)]
        if group is not None:
            command += ["group", str(group)]
        subprocess.run([*command, "type", "bridge"], check=True, capture_output=True)
        return int(ip_json(netns, "link", "show", ifname)[0]["ifindex"])

    return make


class Seen:
    """A namespace as pyroute2 reads it: a reader that shares no code with fastnl."""

    def __init__(self, netns: str) -> None:
        with IPRoute(netns=netns or None) as ipr:
            self.links = {link.get("ifname"): link for link in ipr.get_links()}
            self._addresses = [
                (a["index"], f"{a.get('local') or a.get('address')}/{a['prefixlen']}") for a in ipr.get_addr()
            ]
            self.routes = list(ipr.get_routes())
            self.neighbours = list(ipr.get_neighbours())

    def addresses(self, ifname: str) -> set[str]:
        index = self.links[ifname]["index"]
        return {address for owner, address in self._addresses if owner == index}


@pytest.fixture
def seen() -> Callable[[str], Seen]:
    return Seen
