"""What was acknowledged is what a start after a power cut presumes, whatever of the state is on the disk by then."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.test_engine_order import Bench as Plain
from tests.unit.test_engine_order import Kernel, Memory

from fastnl import FastnlError, IfnameNotFound, KernelError, NetnsGone, NetnsNotFound, Place, Result, Wired
from fastnl.netns import Identity
from fastnl_engine.judgement import judge
from fastnl_engine.model import Connection, EndSpec, Record, encode, values_of
from fastnl_engine.planner import Action, Claims, Job, plan
from fastnl_engine.resume import presume
from fastnl_engine.store.base import Intent, Outcome
from fastnl_engine.upkeep import waits_in_vain
from fastnl_engine.wire import MoveSpec

PLACES = (Place(1, Identity(1, 1)), Place(2, Identity(2, 2)))
REFUSED = KernelError("the kernel does not like it")
ABSENT = NetnsNotFound("there is no /run/netns/blue")
UNMADE = IfnameNotFound("there is no e0")
GONE = NetnsGone("blue means another namespace than before")


def pair(id_: str = "c", mtu: int = 1500) -> Connection:
    return Connection(id_, "veth", EndSpec("blue", f"a{id_}"), EndSpec("red", f"b{id_}"), mtu=mtu)


OLD, NEW = encode(pair()), encode(pair(mtu=1400))
UP = Record("c", OLD, "up", PLACES, since=1.0)
PENDING = Record("c", OLD, "pending", reason=ABSENT.message, since=1.0)
FAILED = Record("c", OLD, "failed", error=REFUSED.as_dict(), since=1.0)
HALF = Record("c", OLD, "failed", PLACES, error=REFUSED.as_dict(), since=1.0)


def connect(mtu: int = 1500, **more: Any) -> Job:
    connection = pair(mtu=mtu)
    return Job("connect", "c", connection, values_of(connection), encode(connection), ticket="ticket", **more)


def move() -> Job:
    return Job("move", "c", move=MoveSpec("c", "b", "green"), ticket="ticket")


DISCONNECT = Job("disconnect", "c", ticket="ticket")
SUSPEND = Job("suspend", "c", reason="its namespace went")
MEND = Job("mend", "c", reason="renamed")
RETRY = Job("retry", "c")


def made(action: Action) -> Result:
    """It went well."""
    values = action.values or (action.wired.connection if action.wired else None)
    assert values is not None
    return Result(wired=Wired(values, PLACES))


def failed(error: FastnlError = REFUSED, *, kept: bool) -> Any:
    """It did not; kept: what was there before is there still."""
    return lambda action: Result(wired=action.wired if kept else None, error=error, changed=False)


@pytest.mark.parametrize(
    ("job", "record", "verb", "result", "foretold"),
    [
        (connect(), None, "create", made, True),
        (connect(), None, "create", failed(kept=False), False),
        (connect(), None, "create", failed(ABSENT, kept=False), False),
        (connect(wait=True), None, "create", failed(ABSENT, kept=False), False),  # it is pending now
        (connect(wait=True), None, "create", failed(UNMADE, kept=False), False),
        (connect(), PENDING, "create", made, True),
        (connect(1400), PENDING, "create", made, True),
        (connect(1400), PENDING, "create", failed(kept=False), False),
        (RETRY, PENDING, "create", made, True),
        (RETRY, PENDING, "create", failed(ABSENT, kept=False), False),
        (RETRY, FAILED, "create", failed(kept=False), False),
        (connect(1400), UP, "update", made, True),
        (connect(1400), UP, "update", failed(kept=True), False),
        (connect(1400), UP, "update", failed(kept=False), False),
        (connect(1400, wait=True), UP, "update", failed(ABSENT, kept=False), False),
        (connect(1400), HALF, "update", made, True),
        (connect(), HALF, "mend", made, True),
        (RETRY, HALF, "mend", made, True),
        (RETRY, HALF, "mend", failed(kept=True), False),
        (MEND, UP, "mend", made, True),
        (MEND, UP, "mend", failed(kept=True), False),
        (MEND, UP, "mend", failed(GONE, kept=False), False),
        (move(), UP, "move", made, True),
        (move(), UP, "move", failed(kept=True), False),
        (move(), UP, "move", failed(kept=False), False),
        (move(), PENDING, "create", made, True),
        (DISCONNECT, UP, "remove", made, True),
        (DISCONNECT, UP, "remove", failed(kept=True), False),
        (DISCONNECT, HALF, "remove", made, True),
        # the intent of an interruption says no more than that the connection stays
        (SUSPEND, UP, "remove", made, True),
        (SUSPEND, UP, "remove", failed(kept=True), True),
        # there is no intent
        (DISCONNECT, PENDING, "forget", None, False),
        (DISCONNECT, FAILED, "forget", None, False),
    ],
)
def test_an_outcome_is_foretold_where_the_intent_says_as_much(job, record, verb, result, foretold):
    claims = Claims()
    if record is not None:
        claims.take(record.connection)
    action = plan(job, record, claims)
    assert action.verb == verb
    action.result = result and result(action)
    outcome = judge(action)
    assert outcome is not None and outcome.foretold is foretold
    if foretold:
        intent = Intent("c", "suspend" if job.op == "suspend" else verb, action.spec, action.indexes)
        [then] = presume([record] if record else [], [intent]) or [None]
        now = outcome.record
        assert (then.spec if then else None) == (now.spec if now else None)


def test_nothing_is_remembered_of_what_needed_nothing():
    assert judge(plan(connect(), UP, Claims())) is None


# -- what a start presumes -------------------------------------------------------------------------


def test_what_is_presumed_is_made_again_and_what_nobody_was_about_to_change_is_as_it_was():
    others = [Record(f"other{n}", encode(pair(f"other{n}")), "up", PLACES) for n in range(3)]
    records = [UP, *others]
    assert presume(records, []) == records
    found = {r.id: r for r in presume(records, [Intent("c", "update", NEW, ())])}
    new = found.pop("c")
    assert list(found.values()) == others
    assert (new.id, new.spec, new.state, new.places) == ("c", NEW, "failed", ())
    assert new.reason and new.since > UP.since


@pytest.mark.parametrize("verb", ["create", "update", "move", "mend"])
@pytest.mark.parametrize("record", [None, UP, PENDING])
def test_what_was_to_be_counts_as_it_was_to_be(verb, record):
    [found] = presume([record] if record else [], [Intent("c", verb, NEW, ())])
    assert (found.id, found.spec, found.state) == ("c", NEW, "failed")


def test_what_was_to_go_is_gone_and_what_was_interrupted_stays():
    assert presume([UP], [Intent("c", "remove", b"", ())]) == []
    assert presume([], [Intent("c", "remove", b"", ())]) == []
    [found] = presume([UP], [Intent("c", "suspend", b"", ())])
    assert (found.spec, found.state, found.places) == (UP.spec, "failed", ())
    assert presume([], [Intent("c", "suspend", b"", ())]) == []


@pytest.mark.parametrize("reference", ["pid:4711", "inode:4026532001"])
@pytest.mark.parametrize("verb", ["create", "update", "move", "mend"])
def test_what_was_to_be_in_a_namespace_that_no_boot_has_again_waits_in_vain(reference, verb):
    """Whoever has that number now is somebody else."""
    spec = encode(Connection("c", "veth", EndSpec("blue", "a"), EndSpec(reference, "b")))
    [found] = presume([], [Intent("c", verb, spec, ())])
    assert (found.spec, found.state) == (spec, "pending")
    assert reference in found.reason and "b.netns" in found.reason
    assert waits_in_vain(found)


# -- whatever happens ------------------------------------------------------------------------------


class Platter(Memory):
    """Remembers every state that the disk may be in: what is certain, or any that was committed since."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._may_be: list[tuple[list[Record], list[Intent]]] = [([], [])]

    def _commit(self, *, certain: bool = False) -> None:
        if certain:
            self._may_be.clear()
        self._may_be.append(super().load())

    def intend(self, intents: Sequence[Intent]) -> None:
        with self._lock:
            super().intend(intents)
            self._commit()

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        with self._lock:
            super().settle(outcomes)
            self._commit(certain=not all(o.foretold for o in outcomes))

    def sync(self) -> None:
        with self._lock:
            now = len(self._may_be) - 1
            before = self._may_be[now]
        # others commit while it waits, and may even have more on the disk than it
        threading.Event().wait(0.0005)
        with self._lock:
            for n, state in enumerate(self._may_be):
                if state is before:
                    del self._may_be[:n]
                    return

    def after_a_power_cut(self) -> list[dict[str, bytes]]:
        """What a start may take for true."""
        with self._lock:
            states = list(self._may_be)
        return [{r.id: r.spec for r in presume(records, intents)} for records, intents in states]


class Fickle(Kernel):
    """Does or refuses things as `fates` says for each connection, in turn; for the rest all goes well."""

    def __init__(self) -> None:
        super().__init__()
        self.fates: dict[str, list[str]] = {}

    def _fate(self, values: Any, result: Result, wired: Wired | None) -> Result:
        fates = self.fates.get(values.id)
        fate = fates.pop(0) if fates else "well"
        if fate == "well":
            return result
        error = {"refused": REFUSED, "lost": REFUSED, "absent": ABSENT, "gone": GONE}[fate]
        return Result(wired=wired if fate in ("refused", "gone") else None, error=error, changed=False)

    def connect(self, values: Sequence[Any], *, indexes: Any = None) -> list[Result]:
        done = super().connect(values, indexes=indexes)
        return [self._fate(v, r, None) for v, r in zip(values, done, strict=True)]

    def update(self, changes: Sequence[Any]) -> list[Result]:
        return [self._fate(v, r, old) for (old, v), r in zip(changes, super().update(changes), strict=True)]

    def move(self, moves: Sequence[Any]) -> list[Result]:
        done = [Result(wired=Wired(m.wired.connection, PLACES)) for m in moves]
        return [self._fate(m.wired.connection, r, m.wired) for m, r in zip(moves, done, strict=True)]

    def disconnect(self, wired: Sequence[Wired]) -> list[Result]:
        # what could not be taken away is there still
        return [self._fate(w.connection, r, w) for w, r in zip(wired, super().disconnect(wired), strict=True)]

    def mend(self, wired: Sequence[Wired], **more: Any) -> list[Result]:
        return [self._fate(w.connection, r, w) for w, r in zip(wired, super().mend(wired, **more), strict=True)]


class Bench(Plain):
    """With every answer it is looked at what would be left of it if the power went now."""

    def __init__(self) -> None:
        super().__init__()
        self.store: Platter
        self.kernel = self.engine.host = self.engine.pipeline.executor.host = Fickle()
        self.engine.upkeep.follow = lambda old, new: None  # the namespaces are made up
        self.unanswered: dict[str, int] = {}
        self.own = False  # whether the engine has asked something of itself

    def ask(self, job: Job) -> None:
        if job.ticket is not None:
            self._next += 1
            job.place = self._next
            self.unanswered[job.id] = self.unanswered.get(job.id, 0) + 1
        self.engine.submit(job)

    def _answer(self, ticket: Any, place: int, result: dict[str, Any]) -> None:
        super()._answer(ticket, place, result)
        id_ = result["id"]
        self.unanswered[id_] -= 1
        # while a later job is on its way either of both may be true
        if not self.unanswered[id_] and not self.engine._backlog and not self.own:
            self.check([id_])

    def check(self, ids: Sequence[str]) -> None:
        now = {id_: self.engine.records[id_].spec for id_ in ids if id_ in self.engine.records}
        for then in self.store.after_a_power_cut():
            assert {id_: then[id_] for id_ in ids if id_ in then} == now


def jobs(id_: str, mtu: int) -> st.SearchStrategy[Job]:
    connection = pair(id_, mtu)
    asked = {"ticket": "ticket"}
    values, spec = values_of(connection), encode(connection)
    return st.one_of(
        st.builds(lambda wait: Job("connect", id_, connection, values, spec, wait=wait, **asked), st.booleans()),
        st.builds(lambda: Job("disconnect", id_, **asked)),
        st.builds(lambda where: Job("move", id_, move=MoveSpec(id_, "b", where), **asked), st.sampled_from("xy")),
        st.builds(lambda op: Job(op, id_, reason="something"), st.sampled_from(["suspend", "mend", "retry"])),
    )


IDS = "cde"
STEPS = st.lists(
    st.one_of(
        st.sampled_from([(id_, mtu) for id_ in IDS for mtu in (1400, 1500)]).flatmap(lambda one: jobs(*one)),
        st.just("wait"),
        st.just("turn"),
    ),
    max_size=30,
)
FATES = st.fixed_dictionaries(
    {id_: st.lists(st.sampled_from(["well", "well", "refused", "lost", "absent", "gone"]), max_size=12) for id_ in IDS}
)


@settings(max_examples=300)
@given(STEPS, FATES)
def test_what_was_answered_is_what_any_state_of_the_disk_comes_to(steps, fates):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.unit.test_engine_order.Memory", Platter)
        with Bench() as bench:
            bench.kernel.fates = {id_: list(fate) for id_, fate in fates.items()}
            for step in steps:
                if step == "wait":
                    bench.settle()
                    bench.own = False
                    bench.check(IDS)
                elif step == "turn":
                    bench.engine.turn()
                else:
                    bench.own |= step.ticket is None
                    bench.ask(step)
            bench.settle()
            bench.check(IDS)
