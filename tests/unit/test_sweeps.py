"""Deletes have a thread of their own, and still everything comes out as if one thing was done after the other."""

from __future__ import annotations

import errno
import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.test_engine_order import Bench as Plain
from tests.unit.test_engine_order import Kernel

from fastnl import KernelError, NameInUse, Result, Wired
from fastnl.testing import eventually
from fastnl_engine import engine as engine_module
from fastnl_engine import sweeps as sweeps_module
from fastnl_engine.model import Connection, EndSpec, RouteSpec, RuleSpec, VxlanSpec, encode, values_of
from fastnl_engine.planner import Action, Job

ROUTE = RouteSpec("192.0.2.0/24")


class Sweeping(Kernel):
    """Deletes wait until `sweeps` is open; what is there has a name that nothing else there may have."""

    def __init__(self) -> None:
        super().__init__()
        self.sweeps = threading.Event()
        self.sweeps.set()
        self.there: dict[tuple[str, str], str] = {}
        self.batches: list[list[str]] = []
        self.deleting = False

    def connect(self, values: Sequence[Any], *, indexes: Any = None) -> list[Result]:
        results = []
        for one, result in zip(values, super().connect(values), strict=True):
            taken = [end.ifname for end in one.ends if (end.netns, end.ifname) in self.there]
            if taken:
                results.append(Result(error=NameInUse(f"a.ifname: {taken}", errno=errno.EEXIST), changed=False))
            else:
                self.there |= {(end.netns, end.ifname): one.id for end in one.ends}
                assert result.wired is not None
                results.append(Result(wired=Wired(one, result.wired.places[: len(one.ends)])))
        return results

    def update(self, changes: Sequence[tuple[Wired, Any]]) -> list[Result]:
        results = super().update(changes)
        for n, (old, new) in enumerate(changes):
            after = {(end.netns, end.ifname): new.id for end in new.ends}
            if any(self.there.get(name, new.id) != new.id for name in after):
                error = NameInUse("a.ifname: taken", errno=errno.EEXIST)
                results[n] = Result(wired=old, error=error, changed=False)
            else:
                for end in old.connection.ends:
                    del self.there[end.netns, end.ifname]
                self.there |= after
        return results

    def disconnect(self, wired: Sequence[Wired]) -> list[Result]:
        self.deleting = True
        self.batches.append([w.connection.id for w in wired])
        assert self.sweeps.wait(30)
        for w in wired:
            for end in w.connection.ends:
                assert self.there.pop((end.netns, end.ifname)) == w.connection.id
        self.deleting = False
        return super().disconnect(wired)


class Bench(Plain):
    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.kernel = self.engine.host = self.engine.pipeline.executor.host = Sweeping()
        self.engine.upkeep.follow = lambda old, new: None  # the namespaces are made up

    def connect(self, connection: Connection, *, client: str = "") -> int:
        self._next += 1
        job = Job("connect", connection.id, connection, values_of(connection), encode(connection))
        job.ticket, job.place, job.client = "ticket", self._next, client
        self.engine.submit(job)
        return self._next

    def made(self, *connections: Connection) -> None:
        """Connects, and has it in the kernel."""
        places = [self.connect(c) for c in connections]
        self.settle()
        assert all(dict(self.answers)[place]["ok"] for place in places)

    def swept(self, *ids: str) -> list[int]:
        """Has connections deleted, and waits until the deletes are in the kernel, where they stay."""
        self.kernel.sweeps.clear()
        places = [self.submit("disconnect", id_) for id_ in ids]
        self.engine.turn()
        assert eventually(lambda: self.kernel.deleting)
        return places

    def answered(self, place: int) -> bool:
        def done() -> bool:
            self.engine.turn()
            return place in dict(self.answers)

        return eventually(done)

    def waits(self, place: int) -> bool:
        """Whether something is still not answered when another connection, which waits for nothing, is."""
        assert self.answered(self.connect(pair(f"other{self._next}", "far-a", "far-b")))
        return place not in dict(self.answers)

    def __exit__(self, *failed: object) -> None:
        self.kernel.sweeps.set()
        super().__exit__(*failed)


def pair(id_: str, a: str = "blue", b: str = "red", *, names: str = "", **more: Any) -> Connection:
    names = names or id_
    return Connection(id_, "veth", EndSpec(a, f"{names}a", **more), EndSpec(b, f"{names}b"))


@pytest.fixture
def bench():
    with Bench() as bench:
        yield bench


def test_a_connect_does_not_wait_for_a_delete(bench):
    bench.made(pair("c"))
    [gone] = bench.swept("c")
    assert bench.answered(bench.connect(pair("d")))
    assert gone not in dict(bench.answers)
    bench.kernel.sweeps.set()
    assert bench.answered(gone)
    assert "c" not in bench.store.records and not bench.store.intents


def test_deletes_that_come_during_a_sweep_go_together(bench):
    bench.made(*(pair(f"c{n}") for n in range(6)))
    bench.swept("c0")
    places = []
    for n in range(1, 6):
        places.append(bench.submit("disconnect", f"c{n}"))
        bench.engine.turn()
    bench.kernel.sweeps.set()
    assert all(bench.answered(place) for place in places)
    assert bench.kernel.batches == [["c0"], ["c1", "c2", "c3", "c4", "c5"]]


def test_many_deletes_go_in_full_sweeps_one_of_which_is_ready_beforehand(bench, monkeypatch):
    monkeypatch.setattr(sweeps_module, "SWEEP", 4)
    bench.made(*(pair(f"c{n}") for n in range(10)))
    bench.swept(*(f"c{n}" for n in range(10)))
    assert eventually(lambda: len(bench.store.intents) == 8)  # what is not on its way is in no doubt
    bench.kernel.sweeps.set()
    bench.settle()
    assert [len(batch) for batch in bench.kernel.batches] == [4, 4, 2]
    assert not bench.store.records and not bench.engine._sweeps._givers


def test_a_client_with_many_deletes_delays_another_one_by_its_turn_only(bench, monkeypatch):
    monkeypatch.setattr(sweeps_module, "SWEEP", 2)
    bench.made(*(pair(f"c{n}") for n in range(9)), pair("d"))
    bench.kernel.sweeps.clear()
    for client, ids in (("many", [f"c{n}" for n in range(9)]), ("one", ["d"])):
        for id_ in ids:
            bench.engine.submit(Job("disconnect", id_, client=client))
        for _ in range(3):
            bench.engine.turn()  # everything is planned, and two sweeps are on their way
    bench.kernel.sweeps.set()
    bench.settle()
    assert bench.kernel.batches[2] == ["c4", "d"]


def test_so_does_one_whose_connects_waited_for_a_delete(bench, monkeypatch):
    monkeypatch.setattr(engine_module, "CYCLE", 2)
    bench.made(pair("c"))
    bench.swept("c")
    waiting = [bench.connect(pair(f"w{n}", "blue", f"far{n}", routes=[ROUTE]), client="many") for n in range(60)]
    for _ in range(40):
        bench.engine.turn()
    bench.kernel.sweeps.set()
    assert bench.answered(waiting[1])
    bench.connect(pair("d", "far-a", "far-b"), client="one")
    bench.settle()
    made = [id_ for id_, what in bench.kernel.done if what.startswith("connect")]
    assert made.index("d") < made.index("w59")


@pytest.mark.parametrize(
    "other",
    [
        pair("c", names="d"),
        pair("d", names="c"),
        pair("d", b="green", names="c"),
        pair("d", a="name:blue", b="green", names="c"),
        pair("d", b="green", addresses=["192.0.2.1/32"]),
        pair("d", b="green", routes=[ROUTE]),
        pair("d", a="green", b="yellow", master="br0"),
        pair("d", a="green", b="yellow", rules=[RuleSpec(7)]),
        Connection("d", "bridge", EndSpec("green", "br0")),
        Connection("d", "vxlan", EndSpec("green", "vx"), vxlan=VxlanSpec(7, "192.0.2.1", "192.0.2.2", dev="x")),
    ],
    ids=["id", "names", "name", "spelling", "address", "route", "port", "rule", "bridge", "lower device"],
)
def test_what_needs_what_is_being_deleted_waits_for_it(bench, other):
    bench.made(pair("c", addresses=["192.0.2.1/24"]))
    [gone] = bench.swept("c")
    place = bench.connect(other)
    bench.engine.turn()
    assert bench.waits(place)
    bench.kernel.sweeps.set()
    assert bench.answered(place)
    assert dict(bench.answers)[place]["ok"] and dict(bench.answers)[place]["changed"]
    order = [place for place, _ in bench.answers]
    assert order.index(gone) < order.index(place)


@pytest.mark.parametrize(
    "other",
    [pair("d"), pair("d", "green", "yellow", names="c"), pair("d", "green", "yellow", routes=[ROUTE])],
    ids=["namespaces", "names", "routes elsewhere"],
)
def test_what_needs_nothing_of_it_does_not_wait(bench, other):
    bench.made(pair("c", addresses=["192.0.2.1/24"]))
    bench.swept("c")
    assert bench.answered(bench.connect(other))


def test_a_vni_is_waited_for(bench):
    tunnel = VxlanSpec(7, "192.0.2.1", "192.0.2.2")
    bench.made(Connection("c", "vxlan", EndSpec("blue", "vx"), vxlan=tunnel))
    bench.swept("c")
    place = bench.connect(Connection("d", "vxlan", EndSpec("red", "vx"), vxlan=tunnel))
    bench.engine.turn()
    assert bench.waits(place)


def test_what_waits_for_several_goes_with_the_last(bench, monkeypatch):
    monkeypatch.setattr(sweeps_module, "SWEEP", 1)
    bench.made(pair("c"), pair("d"))
    bench.swept("c", "d")
    both = Connection("e", "veth", EndSpec("blue", "ca"), EndSpec("blue", "da"))
    place = bench.connect(both)
    bench.kernel.sweeps.set()
    assert bench.answered(place) and dict(bench.answers)[place]["ok"]
    assert bench.kernel.done[-3:] == [("c", "disconnect None"), ("d", "disconnect None"), ("e", "connect None")]


def test_a_name_by_another_reference_is_tried_again_when_the_sweeps_are_over(bench):
    """That two references mean one namespace is seen by the kernel only."""
    bench.made(pair("c"))
    bench.swept("c")
    bench.kernel.there["file:/blue", "ca"] = "c"
    place = bench.connect(pair("d", "file:/blue", "green", names="c"))
    bench.engine.turn()
    assert bench.waits(place)
    del bench.kernel.there["file:/blue", "ca"]
    bench.kernel.sweeps.set()
    assert bench.answered(place) and dict(bench.answers)[place]["ok"]


def test_what_is_refused_without_a_sweep_is_not_tried_again(bench):
    bench.kernel.there["blue", "ca"] = "a stranger's"
    place = bench.connect(pair("c"))
    assert bench.answered(place)
    assert dict(bench.answers)[place]["error"]["code"] == NameInUse("").code
    assert [id_ for id_, _ in bench.kernel.done] == ["c"]


def test_a_delete_that_fails_lets_go_who_waits_for_it(bench):
    bench.made(pair("c"))
    refuse = KernelError("no", errno=errno.EPERM)
    bench.kernel.disconnect = lambda wired: [Result(wired=w, error=refuse, changed=False) for w in wired]
    gone, place = bench.submit("disconnect", "c"), bench.connect(pair("d", names="c"))
    assert bench.answered(gone) and bench.answered(place)
    assert [dict(bench.answers)[p]["ok"] for p in (gone, place)] == [False, False]
    assert bench.engine.records["c"].state == "up"
    assert bench.engine.claims.owner("blue", "ca") == "c"


def test_what_others_hang_on_is_deleted_by_the_kernel_thread(bench):
    """Policy rules of one namespace are shared, and ports lean on their bridge."""
    bench.made(pair("c", rules=[RuleSpec(7)]), Connection("br", "bridge", EndSpec("blue", "br")))
    bench.kernel.sweeps.clear()
    bench.submit("disconnect", "c")
    bench.submit("disconnect", "br")
    bench.engine.turn()
    assert eventually(lambda: bench.kernel.deleting)
    assert not bench.engine._sweeps
    place = bench.connect(pair("d"))
    bench.engine.turn()
    assert place not in dict(bench.answers)


def test_at_a_stop_a_sweep_is_finished_and_those_behind_it_are_refused(bench):
    bench.made(pair("c"), pair("d"))
    [gone] = bench.swept("c")
    kept, behind = bench.submit("disconnect", "d"), bench.connect(pair("e", names="c"))
    again = bench.submit("disconnect", "e")
    bench.engine.turn()
    bench.engine.refuse_backlog({"code": "shutting_down", "message": "…"})
    refused = dict(bench.answers)
    assert {refused[place]["error"]["code"] for place in (kept, behind, again)} == {"shutting_down"}
    assert not bench.engine.idle
    bench.kernel.sweeps.set()
    bench.settle()
    assert dict(bench.answers)[gone] == {"id": "c", "ok": True, "changed": True}
    assert [*bench.store.records] == ["d"] and bench.engine.load == 0 and not bench.store.intents
    # the names are as the records have them
    assert [bench.engine.claims.owner("blue", f"{n}a") for n in "cde"] == [None, "d", None]


def test_at_a_stop_what_waited_and_has_not_begun_is_refused_as_well(bench, monkeypatch):
    monkeypatch.setattr(engine_module, "CYCLE", 2)
    bench.made(pair("c"))
    bench.swept("c")
    waiting = [bench.connect(pair(f"w{n}", "blue", f"far{n}", routes=[ROUTE])) for n in range(20)]
    for _ in range(20):
        bench.engine.turn()
    bench.kernel.sweeps.set()
    while bench.engine._sweeps:
        bench.engine.turn()
    bench.engine.refuse_backlog({"code": "shutting_down", "message": "…"})
    bench.settle()
    done = [place for place in waiting if dict(bench.answers)[place]["ok"]]
    assert len(done) < 10  # a cycle or two were on their way
    assert len(bench.store.records) == len(done) and bench.engine.load == 0
    assert not bench.engine.claims.owner("blue", "w19a")


def in_a_row(bench: Bench, *jobs: Connection | str) -> list[int]:
    """Connections to be made and ids to be deleted, one after the other from one client."""
    places = []
    for job in jobs:
        if isinstance(job, str):
            places.append(bench.submit("disconnect", job))
        else:
            places.append(bench.connect(job, client=None))
    return places


@pytest.mark.parametrize("turns", [0, 1])
def test_what_a_delete_gives_back_that_waits_itself_can_be_had(bench, turns):
    """Each needs the name of the one before, which is still being made when it is asked for."""
    bench.kernel.gate.clear()
    one = in_a_row(bench, pair("c"))
    for _ in range(turns):
        bench.engine.turn()
    more = in_a_row(bench, "c", pair("d", names="c"), "d", pair("e", names="c"), pair("d", "far", "far"), "e")
    bench.engine.turn()
    bench.kernel.gate.set()
    bench.settle()
    assert [dict(bench.answers)[place]["ok"] for place in one + more] == [True] * 7
    assert [*bench.store.records] == ["d"] and bench.engine.load == 0
    assert bench.engine.claims.owner("blue", "ca") is None


def test_a_name_can_be_had_of_what_others_have_to_let_go_of_first(bench):
    held = []

    class Guard:
        def hold(self, action: Action, go: Callable[[], None]) -> bool:
            if action.verb == "remove":
                held.append(go)
            return action.verb == "remove"

        def settled(self, id_: str) -> None:
            pass

    bench.made(pair("c"))
    bench.engine.guard = Guard()
    places = in_a_row(bench, "c", pair("d", names="c"), pair("d", names="c"))
    other = bench.connect(pair("e", names="c"), client="another")
    bench.engine.turn()
    assert bench.waits(places[1])
    assert dict(bench.answers)[other]["error"]["code"] == "conflict"
    for go in held:
        go()
    bench.settle()
    assert [dict(bench.answers)[place]["ok"] for place in places] == [True] * 3
    assert bench.engine.claims.owner("blue", "ca") == "d" and bench.engine.load == 0


def test_a_name_that_nobody_is_about_to_give_up_is_refused(bench):
    bench.made(pair("c"))
    bench.kernel.gate.clear()
    places = in_a_row(bench, pair("c", addresses=["192.0.2.1/24"]))
    places += in_a_row(bench, pair("c"), pair("d", names="c"), "d", pair("d"))
    other = bench.connect(pair("e", names="c"), client="another")
    bench.engine.turn()
    assert dict(bench.answers)[other]["error"]["code"] == "conflict"  # it was promised nothing, and need not wait
    bench.kernel.gate.set()
    bench.settle()
    answers = [dict(bench.answers)[place] for place in places]
    assert [a["ok"] for a in answers] == [True, True, False, True, True]
    assert answers[2]["error"]["code"] == "conflict" and answers[3]["changed"] is False


def test_many_wait_each_for_a_name_of_the_one_before(bench):
    """More than calls can be nested: each has a name already, wants the next one's, and goes."""
    ids = [f"c{n}" for n in range(1200)]
    bench.made(*(pair(id_) for id_ in ids))
    bench.kernel.gate.clear()
    places = in_a_row(bench, pair("c0", addresses=["192.0.2.1/24"]))
    bench.engine.turn()
    places += in_a_row(bench, pair("c0"), "c0")
    for before, id_ in itertools.pairwise(ids):
        places += in_a_row(bench, pair(id_, names=before), id_)
    for _ in range(40):
        bench.engine.turn()
    bench.kernel.gate.set()
    bench.settle()
    assert sorted(place for place, _ in bench.answers)[-len(places) :] == places
    assert not bench.store.records and bench.engine.load == 0


def test_at_a_stop_what_waits_for_a_name_is_refused_once(bench):
    bench.kernel.gate.clear()
    places = in_a_row(bench, pair("c"))
    bench.engine.turn()
    places += in_a_row(bench, "c", pair("d", names="c"), "d", pair("e", names="c"))
    bench.engine.turn()
    bench.engine.refuse_backlog({"code": "shutting_down", "message": "…"})
    bench.kernel.gate.set()
    bench.settle()
    assert sorted(place for place, _ in bench.answers) == places
    assert [dict(bench.answers)[place]["ok"] for place in places] == [True, False, False, False, False]
    assert bench.engine.load == 0 and [*bench.store.records] == ["c"]


STEP = st.one_of(
    st.tuples(st.just("connect"), st.sampled_from("cdef"), st.sampled_from("cdef")),
    st.tuples(st.just("disconnect"), st.sampled_from("cdef"), st.just("")),
    st.tuples(st.sampled_from(["turn", "shut", "open"]), st.just(""), st.just("")),
)


@settings(max_examples=300)
@given(st.lists(STEP, max_size=40))
def test_however_names_go_from_one_to_the_next_nobody_finds_them_taken(steps):
    """What is refused is refused before the kernel is asked, because the one before still has the name."""
    with patch.object(sweeps_module, "SWEEP", 2), Bench() as bench:
        places = []
        for what, id_, names in steps:
            if what == "connect":
                places.append(bench.connect(pair(id_, names=names)))
            elif what == "disconnect":
                places.append(bench.submit("disconnect", id_))
            elif what == "turn":
                bench.engine.turn()
            elif what == "shut":
                bench.kernel.sweeps.clear()
            else:
                bench.kernel.sweeps.set()
        bench.kernel.sweeps.set()
        bench.settle()
        assert sorted(place for place, _ in bench.answers) == places
        assert {r["error"]["code"] for _, r in bench.answers if not r["ok"]} <= {"conflict"}
        kept = {(e.netns, e.ifname): r.id for r in bench.store.records.values() for e in values_of(r.connection).ends}
        assert bench.kernel.there == kept
        assert not bench.store.intents and bench.engine.load == 0
