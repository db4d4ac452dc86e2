"""Jobs of one id are carried out one after another in the order of arrival, however the rest comes in between."""

from __future__ import annotations

import select
import threading
from collections.abc import Iterable, Sequence
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastnl import NetnsGone, Place, Result, Wired
from fastnl.netns import Identity
from fastnl.testing import eventually
from fastnl_engine import engine as engine_module
from fastnl_engine.engine import CYCLE, Engine
from fastnl_engine.model import Connection, EndSpec, Record, encode, values_of
from fastnl_engine.planner import Job
from fastnl_engine.store.base import Intent, Outcome, StoreError


class Kernel:
    """Stands in for fastnl.Host: does what it is told, when `gate` is open, and writes down what that was."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.done: list[tuple[str, str]] = []
        self._index = 0

    def take_indexes(self, count: int) -> tuple[int, ...]:
        self._index += count
        return tuple(range(self._index - count, self._index))

    def connect(self, values: Sequence[Any], *, indexes: Any = None) -> list[Result]:
        assert self.gate.wait(30)
        return [self._result("connect", v, v) for v in values]

    def update(self, changes: Sequence[Any]) -> list[Result]:
        assert self.gate.wait(30)
        return [self._result("update", v, v) for _, v in changes]

    def disconnect(self, wired: Sequence[Wired]) -> list[Result]:
        assert self.gate.wait(30)
        return [self._result("disconnect", w.connection, w.connection) for w in wired]

    def mend(self, wired: Sequence[Wired], **_: Any) -> list[Result]:
        return [self._result("mend", w.connection, w.connection) for w in wired]

    def _result(self, what: str, values: Any, shown: Any) -> Result:
        self.done.append((values.id, f"{what} {shown.mtu}"))
        return Result(wired=Wired(values, (Place(1, Identity(1, 1)), Place(2, Identity(2, 2)))))


class Memory:
    """Stands in for the store."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.intents: dict[str, Intent] = {}
        self.calls: list[str] = []

    def intend(self, intents: Sequence[Intent]) -> None:
        self.calls.append("intend")
        self.intents.update((i.id, i) for i in intents)

    durable = True

    def sync(self) -> None:
        pass

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        self.calls.append("settle")
        for o in outcomes:
            self.intents.pop(o.id, None)
            if o.record is None:
                self.records.pop(o.id, None)
            else:
                self.records[o.id] = o.record

    def load(self) -> tuple[list[Record], list[Intent]]:
        return list(self.records.values()), list(self.intents.values())

    def meta(self, key: str, value: str | None = None) -> str | None:
        return None

    def close(self) -> None:
        pass


class Bench:
    """An engine between stand-ins; `answers` are the results in the order in which they came, by place."""

    def __init__(self, **more: Any) -> None:
        self.kernel, self.store = Kernel(), Memory()
        self.answers: list[tuple[int, dict[str, Any]]] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.engine = Engine(self.kernel, self.store, self._answer, self._event, **more)
        self._next = 0

    def _answer(self, ticket: Any, place: int, result: dict[str, Any]) -> None:
        self.answers.append((place, result))

    def _event(self, name: str, fields: dict[str, Any], of: str = "connection") -> None:
        self.events.append((name, fields))

    def submit(self, op: str, id_: str, mtu: int = 1500) -> int:
        """Hands a job over; gives the place under which its answer will come."""
        self._next += 1
        connection = Connection(id_, "veth", EndSpec("", f"a{id_}"), EndSpec("", f"b{id_}"), mtu=mtu)
        more = (connection, values_of(connection), encode(connection)) if op == "connect" else ()
        self.engine.submit(Job(op, id_, *more, ticket="ticket", place=self._next))
        return self._next

    def settle(self) -> None:
        """Until nothing is left to do."""
        while True:
            self.engine.turn()
            if self.engine.idle:
                return
            select.select([self.engine.pipeline.wakeup], [], [], 1)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.kernel.gate.set()
        self.settle()
        self.engine.stop()


@pytest.fixture
def bench():
    with Bench() as bench:
        yield bench


def test_jobs_of_one_id_run_one_after_another(bench):
    places = [bench.submit("connect", "c", 1400 + n) for n in range(5)]
    places += [bench.submit("disconnect", "c"), bench.submit("connect", "c", 9000)]
    bench.settle()
    assert [what for _, what in bench.kernel.done] == [
        "connect 1400", "update 1401", "update 1402", "update 1403", "update 1404", "disconnect 1404", "connect 9000",
    ]  # fmt: skip
    assert [place for place, _ in bench.answers] == places


def test_a_job_that_arrives_while_its_id_is_in_the_kernel_waits_behind_those_still_in_the_backlog(bench):
    bench.kernel.gate.clear()
    bench.submit("connect", "c", 1401)
    for n in range(CYCLE + 10):
        bench.submit("connect", f"other{n}")
    bench.submit("connect", "c", 1402)  # beyond the first cycle, so it stays in the backlog
    bench.engine.turn()
    bench.submit("connect", "c", 1403)
    bench.kernel.gate.set()
    bench.settle()
    assert [what for id_, what in bench.kernel.done if id_ == "c"] == ["connect 1401", "update 1402", "update 1403"]
    assert bench.store.records["c"].connection.mtu == 1403


SMALL = 4  # actions of a cycle here, so that jobs spread over many

STEP = st.one_of(
    st.tuples(st.just("connect"), st.sampled_from("cde"), st.integers(1300, 1310)),
    st.tuples(st.just("disconnect"), st.sampled_from("cde"), st.just(0)),
    st.tuples(st.just("crowd"), st.integers(1, 2 * SMALL), st.just(0)),
    st.tuples(st.just("turn"), st.just(""), st.just(0)),
    st.tuples(st.just("shut"), st.just(""), st.just(0)),
    st.tuples(st.just("open"), st.just(""), st.just(0)),
)


@settings(max_examples=500)
@given(st.lists(STEP, max_size=40))
def test_however_jobs_arrive_each_is_answered_once_and_the_last_of_an_id_decides(steps):
    with patch.object(engine_module, "CYCLE", SMALL), Bench() as bench:
        wanted: dict[str, int | None] = {}
        sent: dict[str, list[int]] = {}
        crowd = 0
        for what, which, mtu in steps:
            if what in ("connect", "disconnect"):
                sent.setdefault(which, []).append(bench.submit(what, which, mtu))
                wanted[which] = mtu if what == "connect" else None
            elif what == "crowd":
                for _ in range(which):
                    crowd += 1
                    sent[f"other{crowd}"] = [bench.submit("connect", f"other{crowd}")]
            elif what == "turn":
                bench.engine.turn()
            elif what == "shut":
                bench.kernel.gate.clear()
            else:
                bench.kernel.gate.set()
        bench.kernel.gate.set()
        bench.settle()
        order: dict[str, list[int]] = {}
        for place, result in bench.answers:
            assert result["ok"], result
            order.setdefault(result["id"], []).append(place)
        assert order == sent
        for id_, mtu in wanted.items():
            record = bench.store.records.get(id_)
            assert (record.connection.mtu if record else None) == mtu
        assert bench.store.intents == {}
        assert bench.engine.load == 0


def test_the_intent_is_written_before_the_kernel_is_touched_and_the_outcome_before_the_answer(bench):
    bench.kernel.gate.clear()
    bench.submit("connect", "c")
    bench.engine.turn()
    assert eventually(lambda: bench.store.intents)
    assert (bench.kernel.done, bench.answers) == ([], [])
    intent = bench.store.intents["c"]
    assert (intent.verb, len(intent.indexes)) == ("create", 2)
    assert intent.spec
    seen: list[Any] = []
    settle = bench.store.settle

    def watched(outcomes: Sequence[Outcome]) -> None:
        seen.append((list(bench.kernel.done), list(bench.answers)))
        settle(outcomes)

    bench.store.settle = watched
    bench.kernel.gate.set()
    bench.settle()
    assert seen == [([("c", "connect 1500")], [])]
    assert [result["ok"] for _, result in bench.answers] == [True]
    assert bench.store.calls == ["intend", "settle"]


def test_what_cannot_be_intended_is_not_done_and_answered_with_an_error(bench):
    def full(intents: Sequence[Intent]) -> None:
        raise OSError("disk full")

    bench.store.intend = full
    bench.submit("connect", "c")
    bench.settle()
    assert bench.kernel.done == []
    [(_, result)] = bench.answers
    assert (result["ok"], result["error"]["code"]) == (False, "internal")
    assert "disk full" in result["error"]["message"]
    # and its names are free again
    del bench.store.intend
    bench.submit("connect", "c")
    bench.settle()
    assert bench.answers[-1][1]["ok"]


def test_what_is_done_and_cannot_be_written_down_is_not_acknowledged(bench):
    def full(outcomes: Sequence[Outcome]) -> None:
        raise OSError("disk full")

    settle, bench.store.settle = bench.store.settle, full
    bench.submit("connect", "c")
    bench.settle()
    [(_, result)] = bench.answers
    assert (result["ok"], result["error"]["code"]) == (False, "internal")
    assert "c" in bench.store.intents  # so the next start looks after it
    bench.store.settle = settle
    bench.submit("disconnect", "c")
    bench.settle()
    assert bench.kernel.done[-1] == ("c", "disconnect 1500")
    assert bench.store.intents == {}


def test_a_fault_of_ours_is_answered_and_the_engine_goes_on(bench):
    def broken(values: Sequence[Any], **_: Any) -> list[Result]:
        raise RuntimeError("a bug")

    bench.kernel.connect = broken
    bench.submit("connect", "c")
    bench.settle()
    [(_, result)] = bench.answers
    assert result["error"]["code"] == "internal"
    assert "a bug" in result["error"]["message"]
    del bench.kernel.connect
    bench.submit("connect", "c")
    bench.settle()
    assert bench.answers[-1][1]["ok"]


def test_what_waits_is_refused_at_a_stop_and_what_runs_is_finished(bench):
    bench.kernel.gate.clear()
    running = bench.submit("connect", "c")
    bench.engine.turn()
    waiting = [bench.submit("connect", "c", 1400), bench.submit("disconnect", "c"), bench.submit("connect", "d")]
    bench.engine.refuse_backlog({"code": "shutting_down", "message": "…"})
    assert sorted(place for place, _ in bench.answers) == waiting
    assert {r["error"]["code"] for _, r in bench.answers} == {"shutting_down"}
    bench.kernel.gate.set()
    bench.settle()
    assert bench.answers[-1][0] == running and bench.answers[-1][1]["ok"]
    assert bench.kernel.done == [("c", "connect 1500")]


def test_the_load_counts_every_job_that_has_no_answer_yet():
    with Bench(queue=10) as bench:
        bench.kernel.gate.clear()
        for n in range(3):
            bench.submit("connect", "c", 1400 + n)
            bench.submit("connect", f"d{n}")
        bench.engine.turn()
        bench.submit("connect", "c", 1500)
        assert bench.engine.load == 7
        assert bench.engine.has_room(3) and not bench.engine.has_room(4)
        bench.kernel.gate.set()
        bench.settle()
        assert bench.engine.load == 0


@pytest.mark.parametrize("op", ["retry", "suspend", "mend"])
@pytest.mark.parametrize("then", ["disconnect", "connect"])
def test_what_the_engine_asks_of_itself_may_come_too_late(bench, op, then):
    # it was asked for while the connection was there, and its turn comes when it is gone or another one
    bench.submit("connect", "c")
    bench.settle()
    bench.submit(then, "c", 1400)
    bench.engine.submit(Job(op, "c", reason="just a moment ago"))
    bench.engine.submit(Job(op, "never-seen", reason="nor this"))
    bench.settle()
    assert len(bench.answers) == 2
    bench.submit("connect", "c", 1400)
    bench.settle()
    assert bench.answers[-1][1]["ok"]


def test_what_is_owed_is_written_before_the_intent_of_a_newer_action(bench):
    def full(outcomes: Sequence[Outcome]) -> None:
        raise OSError("disk full")

    settle, bench.store.settle = bench.store.settle, full
    bench.submit("connect", "c")
    bench.settle()
    # while it is owed nothing more comes into doubt, of this connection and of others
    bench.submit("connect", "c", 1400)
    bench.submit("connect", "d")
    bench.settle()
    assert bench.kernel.done == [("c", "connect 1500")]
    assert all("nothing was done" in result["error"]["message"] for _, result in bench.answers[1:])
    bench.store.settle = settle
    bench.store.calls.clear()
    bench.kernel.gate.clear()
    bench.submit("connect", "c", 1400)
    bench.engine.turn()
    assert eventually(lambda: "c" in bench.store.intents and bench.store.intents["c"].verb == "update")
    # the newer action is in the kernel: its intent must be there, beside the older outcome
    assert bench.store.calls[-2:] == ["settle", "intend"]
    assert bench.store.records["c"].connection.mtu == 1500
    assert bench.engine.pipeline.unwritten == 0
    bench.kernel.gate.set()
    bench.settle()
    assert bench.store.records["c"].connection.mtu == 1400
    assert bench.store.intents == {}


@pytest.mark.parametrize("op", ["suspend", "mend"])
def test_what_the_engine_asks_of_itself_is_done_when_the_disk_takes_it(bench, op, monkeypatch):
    monkeypatch.setattr(engine_module, "RETRY", 0.01)
    bench.submit("connect", "c")
    bench.settle()

    def full(intents: Sequence[Intent]) -> None:
        raise OSError("disk full")

    bench.store.intend = full
    bench.engine.submit(Job(op, "c", reason="somebody did something"))
    bench.settle()
    assert len(bench.kernel.done) == 1
    del bench.store.intend

    def done() -> bool:
        bench.settle()
        return len(bench.kernel.done) == 2

    assert eventually(done)
    assert bench.kernel.done[1][1].startswith({"suspend": "disconnect", "mend": "mend"}[op])


def test_what_was_postponed_is_dropped_when_the_connection_is_another_one_by_then(bench, monkeypatch):
    monkeypatch.setattr(engine_module, "RETRY", 0.2)
    bench.submit("connect", "c")
    bench.settle()

    def full(intents: Sequence[Intent]) -> None:
        raise OSError("disk full")

    bench.store.intend = full
    bench.engine.submit(Job("suspend", "c", reason="its namespace went"))
    bench.settle()
    del bench.store.intend
    bench.submit("disconnect", "c")
    bench.submit("connect", "c", 1400)
    bench.settle()
    assert eventually(lambda: (bench.settle(), not bench.engine._postponed)[1])
    assert [what for _, what in bench.kernel.done] == ["connect 1500", "disconnect 1500", "connect 1400"]


def test_what_cannot_be_mended_as_its_namespace_is_another_one_is_taken_away_and_waits(bench):
    bench.submit("connect", "c")
    bench.settle()
    gone = NetnsGone("b.netns: 'red' means another namespace than before")
    bench.kernel.mend = lambda wired, **_: [Result(wired=w, error=gone, changed=False) for w in wired]
    bench.engine.submit(Job("mend", "c", reason="it was deleted"))
    bench.settle()
    record = bench.engine.records["c"]
    assert (record.state, record.reason, record.places) == ("pending", gone.message, ())
    assert [what for _, what in bench.kernel.done] == ["connect 1500", "disconnect 1500"]


def test_a_suspension_is_about_the_record_that_it_was_asked_for(bench):
    bench.submit("connect", "c")
    bench.settle()
    before = bench.engine.records["c"]
    bench.submit("connect", "c", 1400)
    bench.settle()
    bench.engine.suspend(before, "its namespace is gone")
    bench.settle()
    assert bench.engine.records["c"].state == "up"


def test_what_was_found_out_holds_behind_a_change_that_failed(bench):
    bench.submit("connect", "c")
    bench.settle()
    gone = NetnsGone("b.netns: 'red' went away meanwhile")
    bench.kernel.update = lambda changes: [Result(wired=w, error=gone, changed=False) for w, _ in changes]
    bench.submit("connect", "c", 1400)
    bench.engine.submit(Job("mend", "c", reason="it was deleted", about=bench.engine.records["c"]))
    bench.settle()
    assert [what for _, what in bench.kernel.done] == ["connect 1500", "mend 1500"]


class Start:
    """Stands in for a Resume with three steps; what a step finds differs from its record."""

    def __init__(self, record: Record) -> None:
        self.anew: dict[str, str] = {}
        self.steps = 0
        self.wrong: list[tuple[Record, str]] = []
        self.record = record
        self.looks_meanwhile = lambda: None

    def step(self) -> None:
        self.steps += 1

    def visit(self, references: Iterable[str]) -> None:
        list(references)

    @property
    def finished(self) -> bool:
        return self.steps >= 3

    def take_wrong(self) -> list[tuple[Record, str]]:
        wrong, self.wrong = self.wrong, []
        self.looks_meanwhile()
        return wrong


@pytest.fixture
def record():
    connection = Connection("old", "veth", EndSpec("", "a-old"), EndSpec("", "b-old"))
    places = (Place(1, Identity(1, 1)), Place(2, Identity(1, 1)))
    return Record("old", encode(connection), "up", places, since=1.0)


def test_a_start_is_gone_through_to_its_end_though_nothing_can_be_written(bench, record):
    """An outcome is owed to a full disk; what only looks does not wait for room, nor is it given up."""
    start, resumed = Start(record), []

    def refuse(outcomes: Sequence[Outcome]) -> None:
        raise StoreError("no room")

    settle, bench.store.settle = bench.store.settle, refuse
    place = bench.submit("connect", "c1")
    bench.settle()
    assert "could not be written" in dict(bench.answers)[place]["error"]["message"]
    bench.engine.take_over([record], start, lambda: resumed.append(start.steps))
    bench.settle()
    assert eventually(lambda: bench.engine.turn() or resumed)
    assert resumed == [3]
    bench.store.settle = settle


def test_what_a_job_finds_while_the_last_step_is_booked_is_not_lost(bench, record):
    start = Start(record)

    def look() -> None:
        # the kernel's thread, for a job, between two lines of the gateway's
        start.wrong.append((record, "renamed"))
        start.steps, start.looks_meanwhile = 3, lambda: None

    start.looks_meanwhile = look
    bench.engine.take_over([record], start, lambda: None)
    bench.settle()
    assert eventually(lambda: bench.engine.turn() or "mended" in [name for name, _ in bench.events])
