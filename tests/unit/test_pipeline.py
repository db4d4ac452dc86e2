"""Kernel and disk are at work side by side, and a cycle is given back when both are done with it."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.test_engine_order import Bench, Kernel, Memory

from fastnl.testing import PATIENCE, eventually
from fastnl_engine import engine as engine_module
from fastnl_engine import pipeline as pipeline_module
from fastnl_engine.executor import Executor
from fastnl_engine.judgement import judge
from fastnl_engine.model import Connection, EndSpec, Record, encode, values_of
from fastnl_engine.pipeline import Cycle, Pipeline
from fastnl_engine.planner import Action, Claims, Job, plan
from fastnl_engine.store.base import Outcome, StoreError


class Disk(Memory):
    """Remembers; `sync` takes for as long as there is nothing in `room`, and fails as `problem` says."""

    def __init__(self, *, durable: bool = True) -> None:
        super().__init__()
        self.durable = durable
        self.room = threading.Semaphore(0)
        self.syncing = 0  # calls that have begun
        self.problem = ""

    def sync(self) -> None:
        self.calls.append("sync")
        self.syncing += 1
        assert self.room.acquire(timeout=PATIENCE)
        if self.problem:
            raise StoreError(self.problem)

    def spin(self, turns: int = 1) -> None:
        self.room.release(turns)


class Line:
    """A pipeline between stand-ins."""

    def __init__(self, *, durable: bool = True) -> None:
        self.kernel, self.disk = Kernel(), Disk(durable=durable)
        self.pipeline = Pipeline(self.disk, Executor(self.kernel), judge)
        self.sent: list[Cycle] = []
        self.back: list[Cycle] = []
        self.stopped = False

    def put(self, *ids: str, sweep: bool = False) -> Cycle:
        """Sends a cycle off that creates connections, or with `sweep` one that removes them."""
        return self.send(Cycle([self._remove(id_) if sweep else self._create(id_) for id_ in ids], sweep=sweep))

    def send(self, cycle: Cycle) -> Cycle:
        self.sent.append(cycle)
        self.pipeline.put(cycle)
        return cycle

    def _create(self, id_: str) -> Action:
        connection = Connection(id_, "veth", EndSpec("", f"a{id_}"), EndSpec("", f"b{id_}"))
        job = Job("connect", id_, connection, values_of(connection), encode(connection), ticket="ticket")
        return plan(job, None, Claims())

    def _remove(self, id_: str) -> Action:
        record = self.disk.records[id_]
        return plan(Job("disconnect", id_, ticket="ticket"), record, Claims())

    def has_come_back(self, *cycles: Cycle) -> bool:
        self.back += self.pipeline.take()
        return all(any(cycle is one for one in self.back) for cycle in cycles)

    def comes_back(self, *cycles: Cycle) -> bool:
        """Waits for it as the gateway does, that is for `wakeup` alone."""
        while not self.has_come_back(*cycles):
            if not self.is_woken():
                return False
        return True

    def is_on_disk(self, cycle: Cycle) -> bool:
        """Waits until the disk has everything that was sent off; the kernel is not done with this cycle yet."""
        return eventually(lambda: self.disk.syncing == len(self.sent) and cycle.missing == 1)

    def is_woken(self, seconds: float = PATIENCE) -> bool:
        return bool(select.select([self.pipeline.wakeup], [], [], seconds)[0])

    def stop(self) -> None:
        self.stopped = True
        self.pipeline.stop()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.kernel.gate.set()
        self.disk.spin(1000)
        if not self.stopped:
            self.stop()
        self.pipeline.close()


@pytest.fixture
def line() -> Iterator[Line]:
    with Line() as line:
        yield line


@pytest.fixture
def busy(line: Line) -> Line:
    """The kernel has a cycle and will not be done with it before its gate opens; the disk has the intent."""
    line.kernel.gate.clear()
    first = line.put("first")
    assert first.alone
    line.disk.spin()
    assert eventually(lambda: line.disk.syncing == 1)
    return line


@pytest.fixture
def disks(monkeypatch: pytest.MonkeyPatch) -> list[Disk]:
    """Of the engines between stand-ins that a test makes."""
    made: list[Disk] = []

    def make() -> Disk:
        made.append(Disk())
        return made[-1]

    monkeypatch.setattr("tests.unit.test_engine_order.Memory", make)
    return made


# -- both have to be done --------------------------------------------------------------------------


def test_a_cycle_does_not_come_back_before_the_disk_has_its_intent_though_all_else_is_done(line):
    cycle = line.put("c")
    # done in the kernel, the outcome is stored, and the disk has been asked
    assert eventually(lambda: "c" in line.disk.records and line.disk.syncing == 1)
    assert not line.is_woken(0.1) and not line.has_come_back(cycle)
    line.disk.spin()
    assert line.comes_back(cycle)
    assert (cycle.alone, cycle.ran, cycle.refused, [o.id for o in cycle.outcomes]) == (True, True, "", ["c"])


def test_a_cycle_does_not_come_back_before_the_kernel_is_done_though_the_disk_has_its_intent(line):
    line.kernel.gate.clear()
    cycle = line.put("c")
    line.disk.spin()
    assert line.is_on_disk(cycle)
    assert not line.is_woken(0.1) and not line.has_come_back(cycle)
    line.kernel.gate.set()
    assert line.comes_back(cycle)
    assert (cycle.ran, cycle.refused, list(line.disk.records)) == (True, "", ["c"])


def test_the_kernel_does_not_wait_for_the_disk_nor_the_disk_for_the_kernel(line):
    line.kernel.gate.clear()
    line.put("c")
    assert eventually(lambda: line.disk.syncing == 1)  # it writes while the kernel is at work ...
    line.kernel.gate.set()
    assert eventually(lambda: line.kernel.done)  # ... which is done meanwhile


def test_a_cycle_behind_another_waits_for_disk_and_kernel_as_well(busy):
    second = busy.put("second")
    assert not second.alone
    assert eventually(lambda: busy.disk.syncing == 2)
    busy.kernel.gate.set()
    assert eventually(lambda: [id_ for id_, _ in busy.kernel.done] == ["first", "second"])
    assert not busy.is_woken(0.1) and not busy.has_come_back(second)
    busy.disk.spin()
    assert busy.comes_back(second)
    assert [o.id for cycle in busy.back for o in cycle.outcomes] == ["first", "second"]
    assert set(busy.disk.records) == {"first", "second"}


def test_the_disk_does_not_give_a_cycle_back_that_waits_behind_another_for_the_kernel(busy):
    second = busy.put("second")
    busy.disk.spin()
    assert busy.is_on_disk(second)
    assert not busy.is_woken(0.1) and not busy.has_come_back(second)
    busy.kernel.gate.set()
    assert busy.comes_back(second)


def test_a_sweep_waits_for_the_disk_as_well(line):
    line.disk.spin()
    assert line.comes_back(line.put("c"))
    sweep = line.put("c", sweep=True)
    assert eventually(lambda: line.kernel.done[-1] == ("c", "disconnect None"))
    assert not eventually(lambda: line.has_come_back(sweep), 0.1)
    line.disk.spin()
    assert line.comes_back(sweep)
    assert (sweep.alone, sweep.ran, sweep.refused) == (False, True, "")


def test_what_needs_no_intent_does_not_wait_for_the_disk(line):
    places = ()
    forget = Action("forget", Job("disconnect", "c"), Record("c", b"", "pending", places))
    cycle = line.send(Cycle([forget]))
    assert line.comes_back(cycle)
    assert (cycle.outcomes, line.disk.calls) == ([Outcome("c", None)], ["settle"])


@pytest.mark.parametrize("behind", [False, True])
def test_what_writes_nothing_does_not_wait_for_the_disk(line, behind):
    seen: list[str] = []
    cycles = [line.send(Cycle([], chore=lambda: seen.append(threading.current_thread().name)))]
    if behind:
        cycles.append(line.send(Cycle([], chore=lambda: seen.append(threading.current_thread().name))))
    assert line.comes_back(*cycles)
    assert (seen, line.disk.calls) == (["kernel"] * len(cycles), [])


@pytest.mark.parametrize("behind", [False, True])
def test_a_store_that_is_not_durable_is_not_waited_for(behind):
    with Line(durable=False) as line:
        line.kernel.gate.clear()
        cycles = [line.put("c")]
        if behind:
            cycles.append(line.put("d"))
        line.kernel.gate.set()
        assert line.comes_back(*cycles)
        assert "sync" not in line.disk.calls
        assert all(cycle.ran and not cycle.refused for cycle in cycles)


# -- a disk that fails -----------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [False, True])
def test_what_the_disk_did_not_take_is_answered_with_the_reason_and_booked(disks, behind):
    with Bench() as bench:
        [disk] = disks
        bench.kernel.gate.clear()
        places = [bench.submit("connect", "c")]
        bench.engine.turn()
        if behind:
            assert eventually(lambda: disk.syncing == 1)
            disk.spin()
            places.append(bench.submit("connect", "d"))
            bench.engine.turn()
            assert eventually(lambda: disk.syncing == 2)
        disk.problem = "the disk is on fire"
        bench.kernel.gate.set()
        disk.spin(1000)
        bench.settle()
        last = dict(bench.answers)[places[-1]]
        assert (last["ok"], last["error"]["code"]) == (False, "internal")
        assert "it was done" in last["error"]["message"] and "the disk is on fire" in last["error"]["message"]
        assert [result["ok"] for _, result in bench.answers] == [False] * 1 if not behind else [True, False]
        # what is there is known, so that it can be had or taken away
        assert bench.engine.records[last["id"]].state == "up"
        assert bench.store.records[last["id"]].state == "up"
        disk.problem = ""
        again = bench.submit("connect", last["id"])
        bench.settle()
        assert dict(bench.answers)[again]["ok"]
        assert len(bench.kernel.done) == len(places)
        bench.submit("disconnect", last["id"])
        bench.settle()
        assert bench.answers[-1][1]["ok"] and last["id"] not in bench.engine.records


def test_what_was_not_done_is_not_said_to_be_done_when_the_disk_fails_too(line):
    def broken(values: Sequence[Any], **_: Any) -> Any:
        raise SystemError("a bug")

    line.pipeline.executor.run = broken
    line.disk.problem = "the disk is on fire"
    line.disk.spin()
    cycle = line.put("c")
    assert line.comes_back(cycle)
    assert not cycle.ran
    assert "a bug" in cycle.refused and "it was done" not in cycle.refused


def test_after_a_disk_that_failed_the_next_cycle_is_as_any_other(line):
    line.disk.problem = "the disk is on fire"
    line.disk.spin()
    first = line.put("c")
    assert line.comes_back(first)
    line.disk.problem = ""
    line.disk.spin()
    second = line.put("d")
    assert line.comes_back(second)
    assert "on fire" in first.refused and second.refused == ""


def test_the_outcome_of_a_lone_cycle_that_could_not_be_written_is_tried_again_unasked(line, monkeypatch):
    monkeypatch.setattr(pipeline_module, "RETRY", 0.01)
    tries: list[str] = []
    settle = line.disk.settle

    def full(outcomes: Sequence[Outcome]) -> None:
        tries.append(threading.current_thread().name)
        raise StoreError("no room")

    line.disk.settle = full
    line.disk.spin()
    line.kernel.gate.clear()
    cycle = line.put("c")
    assert line.is_on_disk(cycle)
    time.sleep(0.05)  # the store's thread has nothing to do by now, and sleeps
    line.kernel.gate.set()
    assert line.comes_back(cycle)
    assert cycle.alone and cycle.ran
    assert "no room" in cycle.refused and "it was done" in cycle.refused
    assert line.pipeline.unwritten == 1
    assert eventually(lambda: len(tries) > 3)
    assert (tries[0], set(tries[1:])) == ("kernel", {"store"})
    line.disk.settle = settle
    assert eventually(lambda: line.pipeline.unwritten == 0)
    assert (list(line.disk.records), line.disk.intents) == (["c"], {})
    # and it does not go on when there is nothing left to write
    writes = line.disk.calls.count("settle")
    assert not eventually(lambda: line.disk.calls.count("settle") > writes, 0.1)


# -- order and room --------------------------------------------------------------------------------


def test_a_cycle_is_alone_as_long_as_no_other_is_on_its_way_to_the_kernel_or_in_it(line):
    line.disk.spin(10)
    first = line.put("c1")
    assert line.comes_back(first)
    line.kernel.gate.clear()
    alone, behind = line.put("c2"), line.put("c3")
    line.kernel.gate.set()
    assert line.comes_back(alone, behind)
    last = line.put("c4")
    assert line.comes_back(last)
    assert [cycle.alone for cycle in (first, alone, behind, last)] == [True, True, False, True]


def test_a_lone_cycle_does_not_need_the_stores_thread_while_that_waits_for_the_disk(line):
    first = line.put("c1")
    assert eventually(lambda: "c1" in line.disk.records and line.disk.syncing == 1)
    second = line.put("c2")
    assert second.alone
    assert eventually(lambda: "c2" in line.disk.records)
    assert line.disk.syncing == 1  # still the first one's
    line.disk.spin(2)
    assert line.comes_back(first, second)
    assert line.back == [first, second]


def test_the_intent_is_stored_before_the_kernel_begins_wherever_the_cycle_goes(line):
    seen: list[tuple[str, bool]] = []
    connect = line.kernel.connect

    def watched(values: Sequence[Any], **more: Any) -> Any:
        seen.extend((v.id, v.id in line.disk.intents) for v in values)
        return connect(values, **more)

    line.kernel.connect = watched
    line.disk.spin(1000)
    cycles = [line.put(f"c{n}") for n in range(100)]
    assert line.comes_back(*cycles)
    assert seen == [(f"c{n}", True) for n in range(100)]


def test_who_asked_for_room_is_woken_when_the_kernel_takes_the_cycle_that_waited(busy):
    settling, on = threading.Event(), threading.Event()
    settle = busy.disk.settle

    def slow(outcomes: Sequence[Outcome]) -> None:
        settling.set()
        assert on.wait(PATIENCE)
        settle(outcomes)

    busy.disk.settle = slow
    busy.disk.spin()
    assert busy.pipeline.has_room  # one is in the kernel, and none waits
    second = busy.put("second")
    assert busy.is_on_disk(second)
    assert not busy.pipeline.has_room
    assert not busy.is_woken(0.1)
    busy.kernel.gate.set()
    # nothing has come back yet, as no outcome is stored
    assert busy.is_woken()
    assert settling.wait(PATIENCE)
    assert busy.pipeline.take() == []
    assert busy.pipeline.has_room
    on.set()
    assert busy.comes_back(second)


def drive(bench: Bench, jobs: Iterator[tuple[str, int]], most: int) -> int:
    """Submits jobs as answers come, sleeping as the gateway does; how many there were.  Fails at a lost wake."""
    sent = 0
    while True:
        bench.engine.book()
        while sent - len(bench.answers) < most and (job := next(jobs, None)) is not None:
            bench.submit("connect", *job)
            sent += 1
        bench.engine.plan()
        bench.engine.send()
        if len(bench.answers) == sent:
            return sent
        # this long nothing lasts here, so nobody would ever have woken it
        assert select.select([bench.engine.pipeline.wakeup], [], [], PATIENCE)[0], "it sleeps for ever"


@settings(max_examples=60)
@given(st.integers(1, 12), st.integers(1, 4), st.lists(st.integers(0, 5), min_size=30, max_size=120))
def test_no_wake_is_lost_however_small_the_cycles_are(most, size, ids):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "CYCLE", size)
        with Bench() as bench:
            jobs = ((f"c{n}", 1300 + k) for k, n in enumerate(ids))
            assert drive(bench, jobs, most) == len(ids)
            assert all(result["ok"] for _, result in bench.answers)
            last = {f"c{n}": 1300 + k for k, n in enumerate(ids)}
            assert {id_: r.connection.mtu for id_, r in bench.engine.records.items()} == last
            assert bench.store.intents == {}


def test_thousands_of_cycles_one_after_another_and_behind_one_another_all_come_back(line):
    line.disk.spin(10_000)
    made: list[Cycle] = []
    for n in range(3000):
        cycle = line.put(f"c{n}")
        made.append(cycle)
        # every burst is another one: from all alone to ten behind one another
        if n % (1 + n % 10) == 0:
            assert line.comes_back(cycle)
    assert line.comes_back(*made[-20:])
    assert eventually(lambda: line.has_come_back() and len(line.back) == len(made))
    assert [id_ for id_, _ in line.kernel.done] == [f"c{n}" for n in range(3000)]  # the order in which they were sent
    assert {c.alone for c in made} == {True, False}
    assert all(c.ran and not c.refused and c.missing == 0 for c in made)
    assert line.disk.intents == {}
    assert len(line.disk.records) == 3000


# -- what nobody waits for -------------------------------------------------------------------------


def test_answers_leave_before_anybody_else_is_told():
    with Bench() as bench:
        seen: list[tuple[int, int]] = []
        bench.engine.send_answers = lambda: seen.append((len(bench.answers), len(bench.events)))
        bench.submit("connect", "c")
        bench.submit("connect", "d")
        bench.settle()
        assert seen == [(2, 0)]
        assert [(name, fields["id"]) for name, fields in bench.events] == [("up", "c"), ("up", "d")]
        bench.submit("disconnect", "c")
        bench.settle()
        assert seen == [(2, 0), (3, 2)]
        assert bench.events[-1][0] == "removed"


def test_who_asks_from_within_has_heard_of_the_connection_when_it_is_answered():
    """A northbound takes what it has not heard of for not there."""
    with Bench() as bench:
        heard: list[list[str]] = []
        connection = Connection("c", "veth", EndSpec("", "a"), EndSpec("", "b"))
        more = connection, values_of(connection), encode(connection)
        answer = lambda place, result: heard.append([name for name, _ in bench.events])  # noqa: E731
        bench.engine.submit(Job("connect", "c", *more, ticket=answer))
        bench.settle()
        bench.engine.submit(Job("connect", "c", *more, ticket=answer))  # needs nothing, so nothing is told
        bench.settle()
        assert heard == [["up"], ["up"]]


def test_the_next_cycle_is_planned_while_the_kernel_is_in_the_first(monkeypatch):
    """Of one request that is larger than a cycle: nothing else comes that would wake the gateway."""
    monkeypatch.setattr(engine_module, "CYCLE", 4)
    with Bench() as bench:
        bench.kernel.gate.clear()
        for n in range(12):
            bench.submit("connect", f"c{n}")
        bench.engine.turn()
        deadline = time.monotonic() + PATIENCE
        while bench.engine.totals["cycles"] < 2 and time.monotonic() < deadline:
            if select.select([bench.engine.pipeline.wakeup], [], [], PATIENCE)[0]:
                bench.engine.turn()
        assert bench.engine.totals["cycles"] == 2
        assert bench.answers == []


def test_what_is_finished_at_a_stop_is_answered_and_told():
    bench = Bench()
    bench.kernel.gate.clear()
    bench.submit("connect", "c")
    bench.engine.turn()
    threading.Timer(0.1, bench.kernel.gate.set).start()
    bench.engine.stop()
    assert [result["ok"] for _, result in bench.answers] == [True]
    assert [name for name, _ in bench.events] == ["up"]
    assert bench.engine.totals["connected"] == 1


# -- a stop ----------------------------------------------------------------------------------------


def stopped_while(line: Line, go_on: Callable[[], None]) -> list[Cycle]:
    stop = threading.Thread(target=line.stop)
    stop.start()
    assert not eventually(lambda: not stop.is_alive(), 0.1)
    go_on()
    stop.join(PATIENCE)
    assert not stop.is_alive()
    assert not line.pipeline.alive
    return line.pipeline.take()


@pytest.mark.parametrize("before", ["disk", "kernel"])
def test_a_stop_gives_a_lone_cycle_back_that_is_in_the_kernel(line, before):
    line.kernel.gate.clear()
    cycle = line.put("c")
    assert eventually(lambda: line.disk.syncing == 1)

    def go_on() -> None:
        if before == "disk":
            line.disk.spin()
            assert line.is_on_disk(cycle)
        line.kernel.gate.set()
        if before == "kernel":
            assert eventually(lambda: "c" in line.disk.records)
            line.disk.spin()

    assert stopped_while(line, go_on) == [cycle]
    assert (cycle.alone, cycle.ran, cycle.refused) == (True, True, "")
    assert (list(line.disk.records), line.disk.intents) == (["c"], {})


def test_a_stop_gives_back_what_waits_for_the_store_the_kernel_and_a_sweep(busy):
    busy.disk.records["old"] = judged(busy, "old")
    made = [busy.put("second")]
    assert eventually(lambda: busy.disk.syncing == 2)
    # the store's thread waits for the disk, and these for that thread
    made += [busy.put("third"), busy.put("old", sweep=True)]

    def go_on() -> None:
        busy.kernel.gate.set()
        busy.disk.spin(1000)

    back = stopped_while(busy, go_on)
    assert {id(cycle) for cycle in back} >= {id(cycle) for cycle in made}
    assert [a.job.id for c in back for a in c.actions if not c.sweep] == ["first", "second", "third"]
    assert all(c.ran and not c.refused for c in back)
    assert set(busy.disk.records) == {"first", "second", "third"}


def judged(line: Line, id_: str) -> Record:
    """The record of a connection that was made."""
    action = line._create(id_)
    [action.result] = Kernel().connect([action.values])
    outcome = judge(action)
    assert outcome is not None and outcome.record is not None
    return outcome.record


def test_an_outcome_that_is_owed_at_a_stop_is_tried_once_more(line, monkeypatch):
    monkeypatch.setattr(pipeline_module, "RETRY", 1000)
    settle = line.disk.settle

    def full(outcomes: Sequence[Outcome]) -> None:
        raise StoreError("no room")

    line.disk.settle = full
    line.disk.spin()
    assert line.comes_back(line.put("c"))
    assert line.pipeline.unwritten == 1
    line.disk.settle = settle
    line.stop()
    assert list(line.disk.records) == ["c"]
