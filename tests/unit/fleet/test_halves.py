"""What a host tells of its halves is what its engine said last, in whatever order it was heard."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import msgspec
import pytest

from fastnl_engine.fleet.halves import Halves
from fastnl_engine.fleet.keys import Keys
from fastnl_engine.fleet.local import halves_of
from fastnl_engine.fleet.records import Half, Host, Outcome, decode, encode
from fastnl_engine.fleet.reports import Report, Reports
from fastnl_engine.kv.base import Entry, Get, Put, TxnResult
from fastnl_engine.kv.mirror import Change, Changes
from fastnl_engine.model import Connection, Record
from fastnl_engine.northbound.port import Answer

KEYS = Keys("test")
HOSTS = {"one": Host("192.0.2.1", 1500, "i"), "two": Host("192.0.2.2", 1500, "j")}
SPEC = msgspec.convert(
    {"id": "c", "kind": "veth", "a": {"netns": "n", "ifname": "a", "host": "one"},
     "b": {"netns": "n", "ifname": "b", "host": "two"}},
    Connection,
)  # fmt: skip


def record(state):
    return Record("fleet/c", b"", state, reason="a.netns: there is none" if state == "pending" else "")


class Port:
    """An engine: `answers` are given one after the other, `before` is called before each."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.before = lambda: None
        self.asked = []
        self.told = []

    async def connect(self, connections):
        self.asked += [c["id"] for c in connections]
        if not connections:
            return []
        self.before()
        return [self.answers.pop(0)]

    async def disconnect(self, ids):
        self.asked += [f"-{id_}" for id_ in ids]
        return [Answer(None, None, True) for _ in ids]

    def tell(self, event, connections):
        self.told += [(event, c["id"]) for c in connections]


class Told(Reports):
    def __init__(self):
        super().__init__(None, KEYS, "one")
        self.puts = []

    def put(self, id_, report):
        self.puts.append(report.outcome)
        super().put(id_, report)


def entry(half, revision, made=1):
    return Entry(KEYS.half("one", "c"), encode(half), made, revision, 1)


def half(generation=1):
    return halves_of(SPEC, generation=generation, home="two", vni=7, port=4789)["one"]


def make(port):
    membership = SimpleNamespace(name="one", hosts=HOSTS, alive={"one": 1, "two": 1}, here=HOSTS["one"])
    halves = Halves(None, KEYS, port, membership, Told(), "")
    take(halves, None, entry(half(), 5))
    return halves


def take(halves, old, new):
    key = KEYS.half("one", "c")
    halves._take(Changes(9, [Change(key, old, new)], False), KEYS.halves("one"))


def part(halves):
    """One round of its work."""

    async def run():
        ids = list(halves._ready())
        for id_ in ids:
            del halves._due[id_]
        halves._busy.update(ids)
        await halves._part(ids)

    asyncio.run(run())
    return halves._reports.puts[-1].state if halves._reports.puts else ""


def test_what_changes_before_the_first_outcome_was_told_is_not_lost():
    halves = make(Port(Answer(None, record("pending"))))
    assert part(halves) == "pending"
    assert not halves._reports.told  # etcd is slow
    halves._heard([("fleet/c", record("up"))])
    assert halves._reports._due["c"].outcome.state == "up"


@pytest.mark.parametrize("comes", [True, False])
def test_a_peer_that_has_just_joined_is_asked_about(comes):
    halves = make(Port(Answer(None, record("up"))))
    hosts = halves._membership.hosts = {"one": HOSTS["one"]}

    async def catch_up(names):
        if comes:
            hosts.update({name: HOSTS[name] for name in names})

    halves._membership.catch_up = catch_up
    assert part(halves) == ("up" if comes else "failed")


def test_what_changes_while_the_engine_is_at_work_is_looked_at_again():
    up = record("up")
    port = Port(Answer(None, record("pending")), Answer(None, up))
    halves = make(port)
    port.before = lambda: halves._heard([("fleet/c", up)])
    part(halves)
    assert list(halves._due) == ["c"], "the answer and the news differ"
    port.before = lambda: halves._heard([("fleet/c", up)])
    assert part(halves) == "up"
    assert not halves._due, "what it heard of its own work is no news"


def test_an_answer_about_a_half_that_is_another_one_by_now_says_nothing():
    port = Port(Answer(None, record("up")))
    halves = make(port)
    port.before = lambda: take(halves, entry(half(), 5), entry(half(2), 6))
    part(halves)
    assert halves._reports.puts == [] and list(halves._due) == ["c"]


def test_one_that_vanishes_is_left_alone_and_one_that_shall_go_goes():
    port = Port(Answer(None, record("up")))
    halves = make(port)
    part(halves)
    take(halves, entry(half(), 5), None)
    assert not halves._due and halves.records.keys() == {"c"} and port.asked == ["fleet/c"]
    take(halves, None, entry(Half(2, "two", ending=True), 8, made=8))
    assert part(halves) == "gone" and port.asked == ["fleet/c", "-fleet/c"]


def test_a_number_that_is_in_use_is_exchanged_before_it_is_called_a_failure():
    taken = {"code": "vni_in_use", "message": "vxlan.vni: 7", "field": "vxlan.vni"}
    halves = make(Port(*[Answer(taken, None)] * 3))
    asked = []

    async def other(id_, half):
        asked.append((id_, half.vni))
        return len(asked) < 2

    halves.on_vni_in_use = other
    assert part(halves) == "" and not asked  # it may be one whose namespace has just gone
    halves._want("c")
    assert part(halves) == "" and asked == [("c", 7)]
    halves._want("c")
    assert part(halves) == "failed"


def test_a_peer_that_goes_and_comes_back_is_told_of():
    port = Port(Answer(None, record("up")))
    halves = make(port)
    part(halves)
    halves._membership.alive.pop("two")
    halves.alive_changed({"two", "three"})
    halves.alive_changed({"two"})
    halves._membership.alive["two"] = 1
    halves.alive_changed({"two"})
    assert port.told == [("degraded", "fleet/c"), ("up", "fleet/c")]


def test_another_address_of_the_peer_has_its_tunnels_changed():
    halves = make(Port(Answer(None, record("up"))))
    part(halves)
    halves.hosts_changed({"three"})
    assert not halves._due
    halves.hosts_changed({"two"})
    assert list(halves._due) == ["c"]


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_put_while_the_same_is_being_told_is_told_after_it(fails):
    """up was told, pending is on its way, up again: in the end it is up."""

    class Store:
        def __init__(self):
            self.entries = {}
            self.going = asyncio.Event()
            self.go = asyncio.Event()

        async def txn(self, compares, ops):
            if any(isinstance(op, Get) for op in ops):
                return TxnResult(True, 1, [entry(half(), 5)])
            for op in ops:
                if isinstance(op, Put):
                    self.entries[op.key] = op.value
            self.going.set()
            await self.go.wait()
            if fails:
                from fastnl_engine.kv.base import OutcomeUnknown

                if not self.entries.get("failed"):
                    self.entries["failed"] = b"x"
                    raise OutcomeUnknown("broken")
            return TxnResult(True, 1, [])

    async def run():
        store = Store()
        reports = Reports(store, KEYS, "one")
        up, pending = Outcome(1, "up"), Outcome(1, "pending")
        reports.told["c"] = up
        running = asyncio.create_task(reports.run())
        reports.put("c", Report(half(), 5, pending))
        await store.going.wait()
        if fails:
            store.go.set()
            await asyncio.sleep(0.1)
        reports.put("c", Report(half(), 5, up))
        store.go.set()
        async with asyncio.timeout(30):
            while reports._due or reports.told.get("c") != up:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        running.cancel()
        return store.entries[KEYS.outcome("one", "c")]

    value = asyncio.run(run())
    assert decode(Outcome, Entry("k", value, 1, 1, 1)).state == "up"
