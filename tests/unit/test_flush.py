"""A flush that meets what it cannot remove: it says so, goes on with the rest, and keeps what concerns it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import structlog

import fastnl
from fastnl.netns import Identity
from fastnl_engine import flush as flushing
from fastnl_engine import reconcile
from fastnl_engine.model import Connection, EndSpec, Record, encode
from fastnl_engine.reconcile import Seen
from fastnl_engine.store.base import Intent, Outcome
from fastnl_engine.store.sqlite import SqliteStore


class Kernel:
    """Stands in for reconcile's look and sweep: interfaces by namespace, some of which stay or cannot be seen."""

    def __init__(self, *, sticky: set[str] = frozenset(), dark: set[str] = frozenset()) -> None:
        self.links = {"blue": {1: "e1"}, "red": {1: "e1"}, "green": {2: "e2"}}
        self.sticky, self.dark = sticky, dark

    def look(self, host, wanted, unmarked=()):
        seen, unread = {}, {}
        for n, reference in enumerate(wanted):
            if reference in self.dark:
                unread[reference] = fastnl.NoPermission(f"{reference} is dark")
            elif reference in self.links:
                links = {i: SimpleNamespace(ifname=name, ifindex=i) for i, name in self.links[reference].items()}
                seen[reference] = Seen(Identity(hash(reference) + 0 * n, 0), links, {})
        return seen, unread

    def sweep(self, host, seen, keep):
        for reference in seen:
            if reference not in self.sticky:
                self.links[reference] = {}
        return [fastnl.KernelError("device or resource busy", errno=16)] * len(self.sticky & set(seen))


def record(id_: str, a: str, b: str) -> Record:
    return Record(id_, encode(Connection(id_, "veth", EndSpec(a, "e1"), EndSpec(b, "e1"))), "up")


@pytest.fixture
def store(tmp_path: Path):
    store = SqliteStore(tmp_path / "state.db")
    rows = [record("c1", "blue", "red"), record("c2", "green", "gone")]
    store.settle([Outcome(r.id, r) for r in rows])
    store.intend([Intent("c3", "create", record("c3", "blue", "x").spec, (1,)), Intent("c4", "remove", b"", ())])
    yield store
    store.close()


def run(store: SqliteStore, kernel: Kernel) -> tuple[bool, list, set[str], set[str]]:
    with (
        patch.object(reconcile, "look", kernel.look),
        patch.object(reconcile, "sweep_orphans", kernel.sweep),
        structlog.testing.capture_logs() as said,
    ):
        done = flushing.flush(None, store)
    records, intents = store.load()
    return done, said, {r.id for r in records}, {i.id for i in intents}


def test_all_is_removed_and_forgotten(store):
    done, said, records, intents = run(store, Kernel())
    assert (done, records, intents) == (True, set(), set())
    assert [(e["event"], e["interfaces"], e["connections"], e["kept"]) for e in said] == [("flushed", 3, 2, 0)]


def test_what_stays_is_named_with_its_reason_and_its_records_are_kept(store):
    done, said, records, intents = run(store, Kernel(sticky={"blue"}))
    assert (done, records, intents) == (False, {"c1"}, {"c3"})
    assert [(e["netns"], e["interface"]) for e in said if e["event"] == "cannot be removed"] == [("blue", "e1")]
    assert "busy" in said[0]["reason"]
    assert (said[-1]["interfaces"], said[-1]["connections"], said[-1]["kept"]) == (2, 1, 2)
    # and the next attempt finds it
    assert run(store, Kernel())[::2] == (True, set())


def test_a_namespace_that_cannot_be_looked_into_is_named(store):
    done, said, records, _ = run(store, Kernel(dark={"green"}))
    assert (done, records) == (False, {"c2"})
    assert [(e["netns"], e["reason"]) for e in said if e["event"] == "cannot be looked into"] == [
        ("green", "green is dark")
    ]
