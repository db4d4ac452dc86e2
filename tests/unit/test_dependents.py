"""Dependents are told of host interfaces in order, and host interfaces wait until they are let go of."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fastnl_engine.northbound.dependents import MAX_CONSUMERS, Attendance, Dependent, Step, TooManyConsumers


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Consumer:
    """One that does what it is told, when a test says so."""

    def __init__(self, attendance: Attendance, name: str = "switch", wait: float = 30) -> None:
        self.attendance = attendance
        self.name = name
        self.wait = wait
        self.open = False
        self.steps: list[Step] = []  # told and not done
        self.anew: bool | None = None
        self.answers = 0
        self.has: dict[str, Step] = {}
        self.on_told: Callable[[Step], None] = lambda step: None
        self._session = 0

    def attend(self, *done: int) -> list[Step]:
        return self._attend(done)

    def begin(self) -> list[Step]:
        """As after a restart: it has nothing and knows nothing."""
        self.steps.clear()
        self.has.clear()
        return self._attend(None)

    def _attend(self, done: Any) -> list[Step]:
        self._session += 1
        session = self._session

        def answer(steps: list[Step], anew: bool) -> None:
            if session != self._session:
                assert not steps, "steps for a poll that nobody waits for any more"
                return
            assert self.open
            self.open, self.anew, self.answers = False, anew, self.answers + 1
            self.steps += steps
            for step in steps:
                self.on_told(step)

        self.open = True
        self.attendance.attend(self.name, done, self.wait, answer)
        return list(self.steps)

    def do(self) -> list[Step]:
        """Carries everything out, says so and gives what comes next."""
        done, self.steps = self.steps, []
        for step in done:
            if step.action == "create":
                assert step.name not in self.has
                self.has[step.name] = step
            else:
                del self.has[step.name]
        return self.attend(*(step.n for step in done))

    def told(self) -> list[tuple[str, str, int]]:
        return [(step.action, step.name, step.host.ifindex) for step in self.steps]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def late() -> list[tuple[str, Any]]:
    return []


@pytest.fixture
def attendance(clock: Clock, late: list[tuple[str, Any]]) -> Attendance:
    return Attendance(clock, release=5, on_late=lambda consumer, ground: late.append((consumer, ground)))


@pytest.fixture
def switch(attendance: Attendance) -> Consumer:
    return Consumer(attendance)


@pytest.fixture
def settled(attendance: Attendance, switch: Consumer) -> Consumer:
    """Has created afp1 on veth1."""
    attendance.configure(Dependent("afp1", "veth1"))
    attendance.up("", "veth1", 12, mac="02:00:00:00:00:01", mtu=1500)
    switch.begin()
    switch.do()
    assert list(switch.has) == ["afp1"] and switch.open
    return switch


# -- after it ----------------------------------------------------------------------------------------


def test_a_dependent_waits_for_its_host_interface(attendance, switch):
    attendance.configure(Dependent("afp1", "veth1"))
    assert switch.begin() == [] and switch.open
    attendance.up("", "veth2", 11)
    assert switch.open
    attendance.up("", "veth1", 12, mac="02:00:00:00:00:01", mtu=1400)
    [step] = switch.steps
    assert step.as_dict() == {
        "ok": True, "n": step.n, "action": "create", "name": "afp1", "host_if_name": "veth1", "netns": "",
        "ifindex": 12, "mac": "02:00:00:00:00:01", "mtu": 1400,
    }  # fmt: skip


def test_the_order_of_configuration_does_not_matter(attendance, switch):
    attendance.up("", "veth1", 12)
    switch.begin()
    attendance.configure(Dependent("afp1", "veth1"))
    assert switch.told() == [("create", "afp1", 12)]


def test_namespaces_are_told_apart(attendance, switch):
    attendance.configure(Dependent("afp1", "veth1", "blue"))
    attendance.up("", "veth1", 12)
    assert switch.begin() == []
    attendance.up("blue", "veth1", 13)
    assert switch.told() == [("create", "afp1", 13)]


def test_one_that_is_not_enabled_waits(attendance, switch):
    attendance.configure(Dependent("afp1", "veth1", enabled=False))
    attendance.up("", "veth1", 12)
    assert switch.begin() == []
    attendance.configure(Dependent("afp1", "veth1"))
    switch.do()
    assert switch.has
    attendance.configure(Dependent("afp1", "veth1", enabled=False))
    assert switch.told() == [("delete", "afp1", 12)] and "enabled" in switch.steps[0].reason


def test_what_is_told_again_changes_nothing(attendance, settled):
    attendance.up("", "veth1", 12, mac="02:00:00:00:00:02", mtu=9000)
    attendance.configure(Dependent("afp1", "veth1"))
    assert settled.open and not settled.steps


# -- never without it --------------------------------------------------------------------------------


def test_one_that_is_unconfigured_is_deleted(attendance, settled):
    attendance.unconfigure("afp1")
    assert settled.told() == [("delete", "afp1", 12)]
    settled.do()
    assert not settled.has and settled.open
    attendance.unconfigure("afp1")
    assert settled.open


def test_one_that_moves_to_another_interface_is_made_anew(attendance, settled):
    attendance.up("", "veth2", 13)
    attendance.configure(Dependent("afp1", "veth2"))
    assert settled.told() == [("delete", "afp1", 12)]
    assert settled.do()[0].host.ground == ("", "veth2")
    assert settled.told() == [("create", "afp1", 13)]


def test_an_interface_that_vanished_is_told_with_the_reason_and_returns(attendance, settled):
    attendance.gone("", "veth1", "somebody deleted it")
    assert settled.told() == [("delete", "afp1", 12)] and settled.steps[0].reason == "somebody deleted it"
    attendance.up("", "veth1", 15)
    assert settled.do()[-1].as_dict()["ifindex"] == 15
    assert settled.told() == [("create", "afp1", 15)]


def test_one_that_was_made_again_is_another_one_even_with_the_same_index(attendance, settled):
    attendance.configure(Dependent("afp2", "veth2"))
    attendance.up("", "veth2", 13)  # which answers the poll, so that the rest happens unseen
    attendance.gone("", "veth1")
    attendance.up("", "veth1", 12)
    settled.do()
    assert settled.told() == [("delete", "afp1", 12)]
    settled.do()
    assert settled.told() == [("create", "afp1", 12)]


def test_another_index_means_that_it_was_made_again(attendance, settled):
    attendance.up("", "veth1", 13)
    assert settled.told() == [("delete", "afp1", 12)] and settled.steps[0].reason == "it was made again"
    settled.do()
    assert settled.told() == [("create", "afp1", 13)]


def test_the_next_step_waits_for_the_last_one(attendance, switch):
    attendance.configure(Dependent("afp1", "veth1"))
    attendance.up("", "veth1", 12)
    [create] = switch.begin()
    attendance.gone("", "veth1")
    switch.steps.clear()
    assert switch.attend() == []  # the create is not done yet
    assert switch.open
    switch.attend(create.n)
    assert switch.told() == [("delete", "afp1", 12)]


def test_what_came_and_went_before_anybody_asked_is_not_told(attendance, settled):
    attendance.configure(Dependent("afp2", "veth2"))
    settled.attendance.configure(Dependent("afp3", "veth3"))
    attendance.up("", "veth3", 30)  # answers the poll
    attendance.up("", "veth2", 20)
    attendance.gone("", "veth2")
    settled.do()
    assert settled.open and set(settled.has) == {"afp1", "afp3"}


# -- go before it ------------------------------------------------------------------------------------


def test_it_is_let_go_when_the_last_consumer_has_deleted(attendance, settled):
    other = Consumer(attendance, "capture")
    other.begin()
    other.do()
    released: list[str] = []
    attendance.hold("", "veth1", lambda: released.append("veth1"), "it is being removed")
    assert settled.told() == other.told() == [("delete", "afp1", 12)]
    assert settled.steps[0].reason == "it is being removed"
    settled.do()
    assert not released
    other.do()
    assert released == ["veth1"]
    assert settled.open and other.open


def test_create_follows_again_after_a_release(attendance, settled):
    released: list[str] = []
    attendance.hold("", "veth1", lambda: released.append("veth1"))
    settled.do()
    attendance.up("", "veth1", 12)  # a look that came in between
    assert settled.open
    attendance.gone("", "veth1")
    attendance.up("", "veth1", 12)
    assert settled.told() == [("create", "afp1", 12)] and released == ["veth1"]


def test_a_held_interface_may_stay_after_all(attendance, settled):
    attendance.hold("", "veth1", lambda: None)
    settled.do()
    assert settled.open
    attendance.keep("", "veth1")
    assert settled.told() == [("create", "afp1", 12)]
    attendance.keep("", "veth1")  # nothing is held
    assert settled.do() == []


def test_a_create_that_was_told_counts_until_it_is_undone(attendance, switch):
    attendance.configure(Dependent("afp1", "veth1"))
    attendance.up("", "veth1", 12)
    switch.begin()
    released: list[str] = []
    attendance.hold("", "veth1", lambda: released.append("veth1"))
    assert not released
    switch.do()
    assert switch.told() == [("delete", "afp1", 12)] and not released
    switch.do()
    assert released


@pytest.mark.parametrize("attends", [False, True])
def test_it_is_let_go_at_once_when_nobody_has_it(attendance, switch, attends):
    attendance.configure(Dependent("afp1", "veth1", enabled=False))
    attendance.up("", "veth1", 12)
    if attends:
        switch.begin()
    released: list[str] = []
    attendance.hold("", "veth1", lambda: released.append("veth1"))
    attendance.hold("", "no-such", lambda: released.append("no-such"))
    assert released == ["veth1", "no-such"]


def test_nobody_waits_longer_than_the_limit(attendance, settled, clock, late):
    released: list[float] = []
    attendance.hold("", "veth1", lambda: released.append(clock.now))
    assert attendance.timeout == 5
    clock.now += 4.9
    attendance.turn()
    assert not released
    clock.now += attendance.timeout
    attendance.turn()
    assert released and late == [("switch", ("", "veth1"))]
    attendance.gone("", "veth1")
    attendance.up("", "veth1", 13)
    assert settled.told() == [("delete", "afp1", 12)]  # the old one still comes first
    settled.do()
    assert settled.told() == [("create", "afp1", 13)] and len(released) == 1


def test_a_release_may_take_the_interface_away_within_the_call(attendance, settled):
    def take_away() -> None:
        attendance.gone("", "veth1")
        attendance.up("", "veth1", 13)

    attendance.hold("", "veth1", take_away)
    settled.do()
    assert settled.told() == [("create", "afp1", 13)]


def test_an_interface_that_vanishes_while_it_is_held_is_released(attendance, settled):
    released: list[str] = []
    attendance.hold("", "veth1", lambda: released.append("veth1"))
    attendance.gone("", "veth1")
    assert released == ["veth1"]


# -- consumers ---------------------------------------------------------------------------------------


def test_a_new_session_hears_everything(attendance, settled):
    assert settled.told() == []
    settled.begin()
    assert settled.told() == [("create", "afp1", 12)] and settled.anew
    settled.do()
    attendance.gone("", "veth1")
    assert settled.anew is False


def test_a_consumer_that_is_not_known_hears_everything_whatever_it_has_done(attendance, switch):
    attendance.configure(Dependent("afp1", "veth1"))
    attendance.up("", "veth1", 12)
    switch.attend(1, 2, 3)
    assert switch.told() == [("create", "afp1", 12)] and switch.anew


def test_a_poll_ends_after_its_time(attendance, settled, clock):
    before = settled.answers
    assert attendance.timeout == 30
    clock.now += 30
    attendance.turn()
    assert settled.answers == before + 1 and not settled.open and not settled.steps
    settled.attend()
    assert settled.open and not settled.steps and settled.anew is False


def test_a_second_poll_ends_the_first(attendance, settled):
    answers: list[list[Step]] = []
    attendance.attend("monitor", None, 30, lambda steps, anew: answers.append(steps))
    n = answers[0][0].n
    attendance.attend("monitor", [n], 30, lambda steps, anew: answers.append(steps))
    assert len(answers) == 1
    attendance.attend("monitor", [], 30, lambda steps, anew: answers.append(steps))
    assert [len(steps) for steps in answers] == [1, 0]


def test_a_consumer_that_does_not_come_back_is_forgotten(attendance, settled, clock):
    clock.now += 30
    attendance.turn()
    released: list[str] = []
    clock.now += 29
    attendance.turn()
    attendance.hold("", "veth1", lambda: released.append("veth1"))
    assert not released
    clock.now += attendance.timeout
    attendance.turn()
    assert released == ["veth1"]
    assert math.isinf(attendance.timeout)
    assert settled.attend() == [] and settled.open  # held: nothing to create


def test_a_restart_of_the_consumer_lets_go(attendance, settled):
    released: list[str] = []
    attendance.hold("", "veth1", lambda: released.append("veth1"))
    settled.begin()
    assert released == ["veth1"] and settled.open


def test_a_consumer_that_leaves_is_not_waited_for(attendance, settled):
    released: list[str] = []
    attendance.hold("", "veth1", lambda: released.append("veth1"))
    attendance.leave("switch")
    assert released == ["veth1"]
    attendance.leave("switch")
    settled.begin()
    attendance.leave("switch")  # the open poll is answered
    assert not settled.open and not settled.steps and math.isinf(attendance.timeout)


def test_who_has_what(attendance, settled):
    assert attendance.holders("afp1") == ["switch"]
    attendance.gone("", "veth1")
    assert attendance.holders("afp1") == []
    assert attendance.holders("afp9") == []


def test_many_steps_come_in_parts(attendance, switch):
    for n in range(2500):
        attendance.configure(Dependent(f"afp{n}", f"veth{n}"))
        attendance.up("", f"veth{n}", n + 1)
    assert len(switch.begin()) == 1000
    while switch.steps:
        switch.do()
    assert len(switch.has) == 2500


def test_deletes_come_first(attendance, settled):
    attendance.configure(Dependent("afp0", "veth0"))
    attendance.configure(Dependent("afp2", "veth2"))
    attendance.up("", "veth0", 10)
    attendance.up("", "veth2", 11)
    attendance.gone("", "veth1")
    settled.do()
    assert settled.told() == [("delete", "afp1", 12), ("create", "afp2", 11)]


def test_there_is_a_limit_to_consumers(attendance):
    for n in range(MAX_CONSUMERS):
        attendance.attend(f"c{n}", None, 30, lambda steps, anew: None)
    with pytest.raises(TooManyConsumers, match="64"):
        attendance.attend("one-more", None, 30, lambda steps, anew: None)
    attendance.attend("c0", None, 30, lambda steps, anew: None)


# -- any order ---------------------------------------------------------------------------------------

GROUNDS = st.sampled_from(["veth1", "veth2"])
NAMES = st.sampled_from(["afp1", "afp2", "afp3"])
CONSUMERS = st.sampled_from(["one", "two"])


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order; the kernel of this world has an index for every life of an interface."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.attendance = Attendance(self.clock, release=5)
        self.consumers = {name: Consumer(self.attendance, name) for name in ("one", "two")}
        self.kernel: dict[str, int] = {}  # what is really there
        self.configured: dict[str, Dependent] = {}
        self.held: dict[str, float] = {}  # not released yet, since when
        self.leaving: set[str] = set()  # from the hold to the removal
        self.indexes = iter(range(1, 100_000))
        for consumer in self.consumers.values():
            consumer.on_told = self.told

    def told(self, step: Step) -> None:
        netns, ifname = step.host.ground
        if step.action == "create":
            assert self.kernel.get(ifname) == step.host.ifindex, "told of what is not there"
            assert ifname not in self.leaving, "told of what is about to go"
            assert self.configured[step.name].ground == (netns, ifname)

    def released(self, ifname: str) -> None:
        assert ifname in self.held
        since = self.held.pop(ifname)
        if self.clock.now - since < 5 and ifname in self.kernel:
            for consumer in self.consumers.values():
                known = consumer.name in self.attendance._consumers
                on = [s for s in [*consumer.has.values(), *consumer.steps] if s.host.ifindex == self.kernel[ifname]]
                assert not known or not [s for s in on if s.action == "create"], "let go while somebody has it"

    @rule(ifname=GROUNDS)
    def appears(self, ifname: str) -> None:
        if ifname not in self.kernel:
            self.kernel[ifname] = next(self.indexes)
            self.attendance.up("", ifname, self.kernel[ifname])

    @rule(ifname=GROUNDS)
    def is_seen_again(self, ifname: str) -> None:
        if ifname in self.kernel:
            self.attendance.up("", ifname, self.kernel[ifname])

    @rule(ifname=GROUNDS)
    def vanishes(self, ifname: str) -> None:
        if self.kernel.pop(ifname, None) is not None:
            self.leaving.discard(ifname)
            self.attendance.gone("", ifname)

    @rule(ifname=GROUNDS)
    def is_made_again(self, ifname: str) -> None:
        if ifname in self.kernel:
            self.kernel[ifname] = next(self.indexes)  # before anybody is told that the old one is gone
            self.leaving.discard(ifname)
            self.attendance.up("", ifname, self.kernel[ifname])

    @rule(ifname=GROUNDS)
    def is_to_go(self, ifname: str) -> None:
        if ifname in self.kernel and ifname not in self.leaving:
            self.held[ifname] = self.clock.now
            self.leaving.add(ifname)
            self.attendance.hold("", ifname, lambda: self.released(ifname))

    @rule(ifname=GROUNDS, stays=st.booleans())
    def goes(self, ifname: str, stays: bool) -> None:
        if ifname in self.leaving and ifname not in self.held:
            self.leaving.discard(ifname)
            if stays:
                self.attendance.keep("", ifname)
            else:
                del self.kernel[ifname]
                self.attendance.gone("", ifname)

    @rule(name=NAMES, ifname=GROUNDS, enabled=st.sampled_from([True, True, False]))
    def is_configured(self, name: str, ifname: str, enabled: bool) -> None:
        self.configured[name] = Dependent(name, ifname, enabled=enabled)
        self.attendance.configure(self.configured[name])

    @rule(name=NAMES)
    def is_unconfigured(self, name: str) -> None:
        self.configured.pop(name, None)
        self.attendance.unconfigure(name)

    @rule(name=CONSUMERS)
    def begins(self, name: str) -> None:
        self.consumers[name].begin()

    @precondition(lambda self: any(not c.open for c in self.consumers.values()))
    @rule(name=CONSUMERS)
    def works(self, name: str) -> None:
        consumer = self.consumers[name]
        if consumer.open:
            return
        if name not in self.attendance._consumers:  # it was forgotten, and hears so
            consumer.begin()
        else:
            consumer.do()

    @rule(seconds=st.sampled_from([0.1, 1.0, 4.0, 31.0, 62.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds
        self.attendance.turn()

    @invariant()
    def nothing_is_held_longer_than_the_limit(self) -> None:
        for since in self.held.values():
            assert self.clock.now - since < 5

    def teardown(self) -> None:
        """Everybody works; then all have exactly what is configured and there."""
        for ifname in list(self.leaving):
            self.clock.now += 5
            self.attendance.turn()
            self.goes(ifname, stays=True)
        for consumer in self.consumers.values():
            if consumer.name not in self.attendance._consumers or not consumer.answers:
                consumer.begin()
            for _ in range(10):
                if consumer.open:
                    break
                consumer.do()
            assert consumer.open and not consumer.steps
            assert {(name, s.host.ifindex) for name, s in consumer.has.items()} == {
                (d.name, self.kernel[d.host_if_name])
                for d in self.configured.values()
                if d.enabled and d.host_if_name in self.kernel
            }


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
