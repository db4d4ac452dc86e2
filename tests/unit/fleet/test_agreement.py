"""Whoever decides on what, and in whatever order transactions come: a number has one connection, and nothing is left.

Desks decide on what they read and commit later, hosts take up and let go of halves when they please, hosts are removed.
Between any two steps anybody may die: nothing that is not in the store is needed to go on.
"""

from __future__ import annotations

import asyncio
import itertools

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from fastnl_engine.fleet import plan
from fastnl_engine.fleet.keys import Keys
from fastnl_engine.fleet.plan import Job, Refused, View, decide
from fastnl_engine.fleet.records import Agreed, Half, Host, Outcome, decode, encode
from fastnl_engine.fleet.reports import Report, Reports
from fastnl_engine.kv.base import Compare, Delete, Entry, Get, Put, TxnResult, check_ops
from fastnl_engine.model import Connection

NAMES = ("one", "two", "three")
IDS = ("c", "d")
VNIS = 6  # in all: allocators do meet


def far(id_, one, two, address):
    ends = [
        {"netns": "n", "ifname": f"{id_}{e}", "host": h, "addresses": [address]} for e, h in (("a", one), ("b", two))
    ]
    return msgspec.convert({"id": id_, "kind": "veth", "a": ends[0], "b": ends[1]}, Connection)


class Memory:
    """etcd's transactions, as `plan` and `reports` use them.

    entries  by key; `revision` counts transactions that changed something"""

    def __init__(self):
        self.entries: dict[str, Entry] = {}
        self.revision = 1
        self.after_reading = None  # a coroutine function: what others do between a look and what follows from it

    def holds(self, c: Compare) -> bool:
        entry = self.entries.get(c.key)
        have = getattr(entry, c.target) if entry else 0
        return {"=": have == c.operand, "!=": have != c.operand, "<": have < c.operand, ">": have > c.operand}[
            c.relation
        ]

    async def txn(self, compares, then, otherwise=()):
        assert len(compares) <= 128
        check_ops(then)
        succeeded = all(self.holds(c) for c in compares)
        results = []
        ops = then if succeeded else otherwise
        self.revision += any(not isinstance(op, Get) for op in ops)
        for op in ops:
            match op:
                case Get(key):
                    results.append(self.entries.get(key))
                case Put(key, value, lease):
                    old = self.entries.get(key)
                    made, version = (old.create_revision, old.version + 1) if old else (self.revision, 1)
                    self.entries[key] = Entry(key, value, made, self.revision, version, lease)
                    results.append(None)
                case Delete(key):
                    results.append(int(self.entries.pop(key, None) is not None))
        if self.after_reading is not None and ops and all(isinstance(op, Get) for op in ops):
            between, self.after_reading = self.after_reading, None
            await between()
        return TxnResult(succeeded, self.revision, results)

    def under(self, prefix: str) -> dict[str, Entry]:
        return {key.removeprefix(prefix): e for key, e in self.entries.items() if key.startswith(prefix)}


class World:
    def __init__(self, draw):
        self.draw = draw
        self.kv = Memory()
        self.keys = Keys("test")
        self.hosts = {name: Host(f"192.0.2.{n}", 1500, name) for n, name in enumerate(NAMES, 1)}
        for name, host in self.hosts.items():
            self.do([], [Put(self.keys.host(name), encode(host))])
        self.view = View(self.keys, "one", 4789, self.hosts, self.hosts, lambda: draw(st.integers(1, VNIS)))
        self.kernel: dict[tuple[str, str], int] = {}  # (host, id) -> number of the tunnel there, 0: a pair
        self.decided: list[tuple[Job, plan.Step]] = []
        self.tokens = itertools.count()
        self.reports = {name: Reports(self.kv, self.keys, name) for name in NAMES}

    def do(self, compares, ops):
        return asyncio.run(self.kv.txn(compares, ops)).succeeded

    def look(self, id_):
        entry = self.kv.entries.get(self.keys.connection(id_))
        agreed = decode(Agreed, entry)
        left = set()
        if agreed is not None:
            left = {
                h for h in agreed.hosts if h not in agreed.ends.values() and self.keys.half(h, id_) in self.kv.entries
            }
        return agreed, entry.mod_revision if entry else 0, left

    # -- what may happen -------------------------------------------------------------------------------

    def ask(self):
        id_ = self.draw(st.sampled_from(IDS))
        job = Job("connect", id_, lambda _: None, f"t{next(self.tokens)}", 0.0, wait=True)
        if self.draw(st.booleans()):
            one, two = self.draw(st.sampled_from(NAMES)), self.draw(st.sampled_from(NAMES))
            job.spec = far(id_, one, two, self.draw(st.sampled_from(["10.0.0.1/24", "10.0.0.2/24"])))
        else:
            job.op = "disconnect"
        self.decide(job)

    def decide(self, job):
        try:
            step = decide(self.view, job, *self.look(job.id))
        except Refused as e:
            assert e.error["code"] in ("conflict", "host_unknown"), e.error
        else:
            if step.ops:
                self.decided.append((job, step))

    def commit(self):
        """A desk that decided earlier gets to its transaction, and decides again if it came too late."""
        if self.decided:
            job, step = self.decided.pop(self.draw(st.integers(0, len(self.decided) - 1)))
            if not self.do(step.compares, step.ops):
                self.decide(job)

    def realise(self):
        """A host does what one of its halves says; what it tells may come too late."""
        name = self.draw(st.sampled_from(NAMES))
        halves = self.kv.under(self.keys.halves(name))
        if not halves or name not in self.hosts:
            return
        id_ = self.draw(st.sampled_from(sorted(halves)))
        entry = halves[id_]
        half = decode(Half, entry)
        assert half is not None
        if half.removing:
            self.kernel.pop((name, id_), None)
        elif half.peer and (in_use := [i for (h, i), vni in self.kernel.items() if h == name and vni == half.vni]):
            assert in_use == [id_], f"{name} has number {half.vni} for {in_use} and is asked to use it for {id_}"
        else:
            self.kernel[name, id_] = half.vni
        outcome = Outcome(half.generation, "gone" if half.removing else "up")
        self.reports[name].put(id_, Report(half, entry.mod_revision, outcome))

    def tell(self):
        name, other = (self.draw(st.sampled_from(NAMES)) for _ in "ab")
        if other != name:
            self.kv.after_reading = lambda: self.send(other)
        asyncio.run(self.send(name))
        self.kv.after_reading = None

    async def send(self, name):
        due = dict(self.reports[name]._due)
        for id_ in await self.reports[name]._send(due) if due else ():
            self.reports[name]._due.pop(id_, None)

    def exchange(self):
        """The kernel of a host has the number of a tunnel for something else."""
        id_ = self.draw(st.sampled_from(IDS))
        agreed, revision, left = self.look(id_)
        if agreed is not None and not agreed.removing and agreed.vni and len(set(agreed.ends.values())) > 1:
            step = plan.other_vni(self.view, id_, agreed.token, agreed, revision, left)
            self.do(step.compares, step.ops)

    def lose(self):
        """Somebody dies: what was decided and what was not told is forgotten."""
        if self.draw(st.booleans()):
            self.decided.clear()
        else:
            self.reports[self.draw(st.sampled_from(NAMES))]._due.clear()

    # -- what must be so -------------------------------------------------------------------------------

    def check(self):
        connections = {id_: decode(Agreed, e) for id_, e in self.kv.under(self.keys.connections).items()}
        numbers = {int(n): e.value.decode() for n, e in self.kv.under(self.keys.vnis(4789)).items()}
        own = {id_: {*a.spent, *([a.vni] if a.vni else [])} for id_, a in connections.items()}
        assert {n: id_ for id_, mine in own.items() for n in mine} == numbers
        for (name, id_), vni in self.kernel.items():
            # whatever a host has in its kernel is still the connection's own, and will be taken away or kept
            assert self.keys.half(name, id_) in self.kv.entries, (name, id_)
            assert not vni or numbers[vni] == id_
        for name in NAMES:
            for id_ in self.kv.under(self.keys.halves(name)):
                assert id_ in connections and name in connections[id_].hosts


@settings(max_examples=300)
@given(st.data())
def test_numbers_have_one_owner_and_nothing_is_left(data):
    world = World(data.draw)
    acts = [world.ask, world.commit, world.realise, world.tell, world.exchange, world.lose]
    for _ in range(data.draw(st.integers(0, 60))):
        data.draw(st.sampled_from(acts))()
        world.check()
    # and then everybody wants to have nothing: however it was, it ends
    world.decided.clear()
    for id_ in IDS:
        job = Job("disconnect", id_, lambda _: None, f"t{next(world.tokens)}", 0.0)
        step = decide(world.view, job, *world.look(id_))
        assert world.do(step.compares, step.ops)
    for _ in range(4):
        for name in NAMES:
            for id_, entry in world.kv.under(world.keys.halves(name)).items():
                half = decode(Half, entry)
                assert half.removing
                world.kernel.pop((name, id_), None)
                world.reports[name].put(id_, Report(half, entry.mod_revision, Outcome(half.generation, "gone")))
            asyncio.run(world.send(name))
        world.check()
    left = [key for key in world.kv.entries if key.split("/")[4] in ("connection", "half", "outcome", "vni")]
    assert left == [] and not world.kernel


def test_two_hosts_that_let_go_at_the_same_time():
    """Each finds the other's half there still; the one that comes second has to end the connection."""
    world = World(lambda _: 5)
    job = Job("connect", "c", lambda _: None, "t", 0.0, spec=far("c", "one", "two", "10.0.0.1/24"))
    step = decide(world.view, job, *world.look("c"))
    assert world.do(step.compares, step.ops)
    job = Job("disconnect", "c", lambda _: None, "u", 0.0)
    step = decide(world.view, job, *world.look("c"))
    assert world.do(step.compares, step.ops)
    for name in ("one", "two"):
        entry = world.kv.entries[world.keys.half(name, "c")]
        half = decode(Half, entry)
        world.reports[name].put("c", Report(half, entry.mod_revision, Outcome(half.generation, "gone")))
    world.kv.after_reading = lambda: world.send("two")
    asyncio.run(world.send("one"))
    assert not world.reports["two"]._due and world.reports["one"]._due, "it is not done with"
    asyncio.run(world.send("one"))
    assert not world.reports["one"]._due
    assert {key.split("/")[4] for key in world.kv.entries} == {"host", "news"}


def test_a_job_whose_answer_was_lost_knows_its_own_work():
    world = World(lambda _: 5)
    job = Job("connect", "c", lambda _: None, "mine", 0.0, spec=far("c", "one", "two", "10.0.0.1/24"))
    step = decide(world.view, job, *world.look("c"))
    assert world.do(step.compares, step.ops)
    again = decide(world.view, job, *world.look("c"))
    assert not again.ops and again.agreed.token == "mine"
    # and somebody else's of the same content is no conflict either
    other = Job("connect", "c", lambda _: None, "other", 0.0, spec=job.spec)
    assert not decide(world.view, other, *world.look("c")).ops
    # nor where both looked before either wrote
    world.do([], [Delete(world.keys.connection("c"))])
    decide(world.view, twin := Job("connect", "c", lambda _: None, "twin", 0.0, spec=job.spec), *world.look("c"))
    first = Job("connect", "c", lambda _: None, "first", 0.0, spec=job.spec)
    world.do([], [Delete(world.keys.vni(4789, 5))])
    step = decide(world.view, first, *world.look("c"))
    assert world.do(step.compares, step.ops)
    assert decide(world.view, twin, *world.look("c")).agreed.token == "first"
    late = Job("connect", "c", lambda _: None, "late", 0.0, spec=far("c", "one", "two", "10.0.0.2/24"))
    decide(world.view, late, *world.look("c"))
    world.do([], [Delete(world.keys.connection("c"))])
    try:
        decide(world.view, late, *world.look("c"))
    except Refused as e:
        assert e.error["code"] == "conflict" and e.error["field"] == "id"
    else:
        raise AssertionError("two that change one connection at the same time")
