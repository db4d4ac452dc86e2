"""Hosts with an underlay between them, an engine on each and one real etcd.

make_fleet   makes a fleet of its own, to be hurt: make_fleet("one", "two") or make_fleet() and fleet.add(…)
fleet        three hosts for all tests of a module: one, two and three, each with the namespaces blue, red and green;
             whatever is connected after a test is disconnected, and nothing may be left of it

What is left is looked for with readers that share no code with the engine: `ip` in every namespace of every host, and
etcdctl below the fleet's prefix.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastnl.testing import Census, eventually
from fastnl_engine.fleet.testing import Fleet, reachable

HERE = Path(__file__).parent
HAVE_ETCD = bool(shutil.which("etcd") and shutil.which("etcdctl"))
NAMESPACES = ("blue", "red", "green")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE) and {"make_fleet", "fleet"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.kernel)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="makes real interfaces, which needs root"))


@contextlib.contextmanager
def built() -> Iterator[Fleet]:
    """A fleet without hosts, and its etcd."""
    if not HAVE_ETCD:
        pytest.skip("etcd and etcdctl are not installed (Debian: etcd-server, etcd-client)")
    folder = Path(tempfile.mkdtemp(prefix="fastnl-"))  # with a short path, for the sockets
    try:
        etcd = reachable(folder / "etcd")
        with Fleet(folder, etcd) as fleet, etcd:
            yield fleet
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def make_fleet(nothing_left: None) -> Iterator[Callable[..., Fleet]]:
    with contextlib.ExitStack() as stack:

        def make(*names: str) -> Fleet:
            fleet = stack.enter_context(built())
            for name in names:
                fleet.add(name).make(*NAMESPACES)
            return fleet.start() if names else fleet

        yield make


@pytest.fixture(scope="module")
def one_for_all() -> Iterator[Fleet]:
    def take() -> Census:  # of each test pytest-timeout has a thread
        return dataclasses.replace(Census.take(), threads=frozenset())

    before = take()
    with built() as fleet:
        for name in ("one", "two", "three"):
            fleet.add(name).make(*NAMESPACES)
        yield fleet.start()
    assert eventually(lambda: take().difference(before) == []), take().difference(before)


@pytest.fixture
def fleet(one_for_all: Fleet, nothing_left: None) -> Iterator[Fleet]:
    for machine in one_for_all.machines.values():
        assert machine.engine.running, f"{machine.name} ended in an earlier test:\n{machine.engine.log}"
    yield one_for_all
    empty(one_for_all)
    for machine in one_for_all.machines.values():
        machine.engine.hang_up()


def empty(fleet: Fleet) -> None:
    """Disconnects everything, and sees that it is gone everywhere."""
    for machine in fleet.machines.values():
        assert machine.engine.running, f"{machine.name} ended:\n{machine.engine.log}"
        client = machine.client()
        client.disconnect([row["id"] for row in client.list()])
    if ids := list(machine.connections()):
        client.disconnect(ids)
    gone(fleet)


def gone(fleet: Fleet) -> None:
    """Nothing of any connection is in etcd, nor on any host."""
    assert eventually(lambda: not fleet.of_connections()), f"left in etcd: {fleet.stored()}"
    for machine in fleet.machines.values():
        assert eventually(lambda machine=machine: not machine.everything()), (
            f"left on {machine.name}: {list(machine.everything())}"
        )
        assert eventually(lambda machine=machine: not [*machine.client().list()]), [*machine.client().list()]
