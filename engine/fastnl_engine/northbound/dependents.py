"""Interfaces of others that stand on ours: told when one comes, asked to let go before one goes.

A dependent, such as an AF_PACKET interface, stands on a host interface.  Its programs, the consumers, ask by long
poll what to do and say what they have done.  To each of them and for each dependent the steps come in turns, `create`
and `delete`, and the next one only when the last one is done.  Before the engine takes a host interface away it asks
for a release, which comes when no consumer has anything on it any more, or when they have taken too long.

Nothing here has a socket, a thread or a clock of its own; all of it is for one thread.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

Ground = tuple[str, str]  # namespace, "" is the engine's own; name of the interface in it

RELEASE = 5.0  # seconds that consumers get to let go of an interface
WAIT = 30.0  # seconds of a long poll that does not say
MAX_WAIT = 60.0
MAX_STEPS = 1000  # of one reply
MAX_CONSUMERS = 64


@dataclass(frozen=True, slots=True)
class Dependent:
    """An AF_PACKET interface and the host interface that it stands on; one that is not enabled waits."""

    name: str
    host_if_name: str
    netns: str = ""
    enabled: bool = True

    @property
    def ground(self) -> Ground:
        return self.netns, self.host_if_name


@dataclass(frozen=True, slots=True)
class Host:
    """A host interface that is there; `life` tells it from one of the same name and index before it."""

    ground: Ground
    ifindex: int
    mac: str
    mtu: int
    life: int


@dataclass(frozen=True, slots=True)
class Step:
    """What a consumer has to do next about one dependent; `reason` says why, where it is not plain."""

    n: int
    action: Literal["create", "delete"]
    name: str
    host: Host
    reason: str = ""

    def as_dict(self) -> dict[str, Any]:
        netns, ifname = self.host.ground
        out: dict[str, Any] = {
            "ok": True, "n": self.n, "action": self.action, "name": self.name, "host_if_name": ifname, "netns": netns,
            "ifindex": self.host.ifindex, "mac": self.host.mac, "mtu": self.host.mtu,
        }  # fmt: skip
        return out | {"reason": self.reason} if self.reason else out


# the steps, and whether they tell everything from the beginning
Answer = Callable[[list[Step], bool], None]


class TooManyConsumers(Exception):
    """One more cannot be served."""


@dataclass(slots=True, eq=False)
class _Held:
    """A host interface that is to go: who has to be told when everybody has let go, or at `until`."""

    until: float
    released: Callable[[], None] | None


@dataclass(slots=True, eq=False)
class _Consumer:
    """One program.

    has     what it was told to create and has not said to be deleted
    told    the step of a dependent that it has not said to be done
    at      names in `has`, by what they stand on
    dirty   dependents that there may be something to say about, in the order in which it happened
    """

    name: str
    asked: float  # when it attended last
    until: float = math.inf  # when the open poll has to be answered, or, without one, when it counts as gone
    wait: float = WAIT
    answer: Answer | None = None
    anew: bool = True
    has: dict[str, Host] = field(default_factory=dict)
    told: dict[str, Step] = field(default_factory=dict)
    numbers: dict[int, str] = field(default_factory=dict)
    at: dict[Ground, set[str]] = field(default_factory=lambda: defaultdict(set))
    dirty: dict[str, None] = field(default_factory=dict)


class Attendance:
    """Dependents, the host interfaces that are there, and the consumers.

    clock     seconds that never go back
    release   seconds that consumers get until an interface is let go without them
    on_late   told the name of a consumer that took longer, and what was let go

    Call `turn` when `timeout` has passed.  Callbacks are called from within the methods: one for a release may
    call any of them itself, one for an answer none.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        release: float = RELEASE,
        on_late: Callable[[str, Ground], None] = lambda consumer, ground: None,
    ) -> None:
        self.release = release
        self._clock = clock
        self._on_late = on_late
        self._lives = itertools.count(1)
        self._numbers = itertools.count(1)
        self._dependents: dict[str, Dependent] = {}
        self._standing: dict[Ground, set[str]] = defaultdict(set)
        self._hosts: dict[Ground, Host] = {}
        self._reasons: dict[Ground, str] = {}  # why it is not there any more
        self._held: dict[Ground, list[_Held]] = {}
        self._consumers: dict[str, _Consumer] = {}

    # -- what is configured --------------------------------------------------------------------------

    def configure(self, dependent: Dependent) -> None:
        """There is one, or it has changed."""
        self._drop(dependent.name)
        self._dependents[dependent.name] = dependent
        self._standing[dependent.ground].add(dependent.name)
        self._touch([dependent.name])

    def unconfigure(self, name: str) -> None:
        if self._drop(name):
            self._touch([name])

    def _drop(self, name: str) -> bool:
        old = self._dependents.pop(name, None)
        if old is None:
            return False
        names = self._standing[old.ground]
        names.discard(name)
        if not names:
            del self._standing[old.ground]
            self._reasons.pop(old.ground, None)
        return True

    # -- what is there -------------------------------------------------------------------------------

    def up(self, netns: str, ifname: str, ifindex: int, *, mac: str = "", mtu: int = 0) -> None:
        """The host interface is there.  Another index than before: it is another interface.

        One that is held stays held until it is `gone`, has another index, or is not to go after all (`keep`).
        """
        ground = (netns, ifname)
        old = self._hosts.get(ground)
        if old is not None and old.ifindex == ifindex:
            self._hosts[ground] = Host(ground, ifindex, mac, mtu, old.life)
            return
        if old is not None:
            self._explain(ground, "it was made again")
        self._let_go(ground)
        self._hosts[ground] = Host(ground, ifindex, mac, mtu, next(self._lives))
        self._touch(self._on(ground))

    def gone(self, netns: str, ifname: str, reason: str = "it is gone") -> None:
        """The host interface is not there, whoever took it away."""
        ground = (netns, ifname)
        if self._hosts.pop(ground, None) is not None and ground not in self._held:
            self._explain(ground, reason)
        self._let_go(ground)
        self._touch(self._on(ground))

    # -- letting go ----------------------------------------------------------------------------------

    def hold(self, netns: str, ifname: str, released: Callable[[], None], reason: str = "it is being removed") -> None:
        """Asks all consumers to let go of a host interface; `released` is called once, when it may be taken away.

        That is within this call where nobody has anything on it.  Afterwards say `gone`, or `keep` if it stays.
        """
        ground = (netns, ifname)
        self._held.setdefault(ground, []).append(_Held(self._clock() + self.release, released))
        self._explain(ground, reason)
        self._touch(self._on(ground))
        self._check(ground)

    def keep(self, netns: str, ifname: str) -> None:
        """A held interface stays after all.  Consumers that have let go of it may take it again."""
        ground = (netns, ifname)
        if ground in self._held:
            self._let_go(ground)
            self._touch(self._on(ground))

    def _let_go(self, ground: Ground) -> None:
        for held in self._held.pop(ground, ()):
            _fire(held)

    def _explain(self, ground: Ground, reason: str) -> None:
        if ground in self._standing:
            self._reasons[ground] = reason

    def _check(self, ground: Ground) -> None:
        if ground in self._held and not self._holders(ground):
            for held in list(self._held[ground]):
                _fire(held)

    def _holders(self, ground: Ground) -> list[_Consumer]:
        """Those that have something on the interface, and not on an earlier one of that name that is gone already."""
        host = self._hosts.get(ground)
        return [
            consumer
            for consumer in self._consumers.values()
            if any(host is None or consumer.has[name].life == host.life for name in consumer.at.get(ground, ()))
        ]

    def has_on(self, ground: Ground) -> bool:
        """Whether a consumer has something on a host interface, or was told to."""
        return any(consumer.at.get(ground) for consumer in self._consumers.values())

    # -- consumers -----------------------------------------------------------------------------------

    def attend(self, name: str, done: Iterable[int] | None, wait: float, answer: Answer) -> None:
        """A consumer asks for its next steps; `answer` is called once, within `wait` seconds or in this call.

        done   numbers of steps that it has carried out; None: it has nothing and wants to hear everything, as one
               does that is not known (any more).  Numbers that mean nothing are passed over.

        A poll that the consumer has open already is answered with nothing.  Raises TooManyConsumers.
        """
        now = self._clock()
        consumer = self._consumers.get(name)
        if consumer is None and len(self._consumers) >= MAX_CONSUMERS:
            raise TooManyConsumers(f"{MAX_CONSUMERS} consumers attend already")
        if consumer is not None:
            self._answer(consumer, [])
        if consumer is None or done is None:
            if consumer is not None:
                self._forget(consumer)
            consumer = self._consumers[name] = _Consumer(name, now, dirty=dict.fromkeys(self._dependents))
        else:
            for n in done:
                self._done(consumer, n)
        consumer.asked = now
        consumer.wait = min(max(wait, 0.0), MAX_WAIT)
        consumer.answer = answer
        consumer.until = now + consumer.wait
        self._tell(consumer)

    def leave(self, name: str) -> None:
        """A consumer ends; it has nothing any more and nobody need wait for it."""
        consumer = self._consumers.get(name)
        if consumer is not None:
            self._answer(consumer, [])
            self._forget(consumer)

    def _done(self, consumer: _Consumer, n: int) -> None:
        name = consumer.numbers.pop(n, None)
        if name is None:
            return
        step = consumer.told.pop(name)
        consumer.dirty[name] = None
        if step.action == "delete":
            self._lets_go(consumer, name)
            self._check(step.host.ground)

    def _lets_go(self, consumer: _Consumer, name: str) -> None:
        ground = consumer.has.pop(name).ground
        consumer.at[ground].discard(name)
        if not consumer.at[ground]:
            del consumer.at[ground]

    def _forget(self, consumer: _Consumer) -> None:
        del self._consumers[consumer.name]
        for ground in list(consumer.at):
            self._check(ground)

    def holders(self, name: str) -> list[str]:
        """The consumers that have said to have created a dependent."""
        return [c.name for c in self._consumers.values() if name in c.has and name not in c.told]

    # -- steps ---------------------------------------------------------------------------------------

    def _on(self, ground: Ground) -> set[str]:
        """The dependents that stand on a host interface, or still do somewhere."""
        return self._standing.get(ground, set()).union(*(c.at.get(ground, ()) for c in self._consumers.values()))

    def _touch(self, names: Iterable[str]) -> None:
        names = sorted(names)
        if not names:
            return
        for consumer in list(self._consumers.values()):
            consumer.dirty.update(dict.fromkeys(names))
            self._tell(consumer)

    def _wanted(self, name: str) -> Host | None:
        dependent = self._dependents.get(name)
        if dependent is None or not dependent.enabled or dependent.ground in self._held:
            return None
        return self._hosts.get(dependent.ground)

    def _tell(self, consumer: _Consumer) -> None:
        """Answers an open poll when there is something to say."""
        if consumer.answer is None:
            return
        steps: list[Step] = []
        # first what others wait for
        for action in ("delete", "create"):
            for name in list(consumer.dirty):
                if len(steps) == MAX_STEPS:
                    break
                if name in consumer.told:
                    del consumer.dirty[name]  # looked at again when that is done
                    continue
                step = self._next(consumer, name)
                if step is None:
                    del consumer.dirty[name]
                elif step.action == action:
                    del consumer.dirty[name]
                    steps.append(step)
        for step in steps:
            consumer.told[step.name] = step
            consumer.numbers[step.n] = step.name
            if step.action == "create":
                consumer.has[step.name] = step.host
                consumer.at[step.host.ground].add(step.name)
        if steps:
            self._answer(consumer, steps)

    def _next(self, consumer: _Consumer, name: str) -> Step | None:
        have, want = consumer.has.get(name), self._wanted(name)
        if have is None:
            return Step(next(self._numbers), "create", name, want) if want is not None else None
        if want is not None and want.life == have.life:
            return None
        return Step(next(self._numbers), "delete", name, have, self._why(name, have))

    def _why(self, name: str, have: Host) -> str:
        dependent = self._dependents.get(name)
        if dependent is None:
            return "it is not configured any more"
        if not dependent.enabled:
            return "it is not enabled"
        if dependent.ground != have.ground:
            return "it stands on another interface now"
        return self._reasons.get(have.ground, "")

    def _answer(self, consumer: _Consumer, steps: list[Step]) -> None:
        answer, consumer.answer = consumer.answer, None
        if answer is None:
            return
        anew, consumer.anew = consumer.anew, False
        # while it does what it was told it must not be taken for gone
        consumer.until = max(consumer.asked + 2 * consumer.wait, self._clock() + self.release)
        answer(steps, anew)

    # -- time ----------------------------------------------------------------------------------------

    @property
    def timeout(self) -> float:
        """Seconds until `turn` has something to do."""
        due = [c.until for c in self._consumers.values()]
        due += [h.until for held in self._held.values() for h in held if h.released is not None]
        return max(0.0, min(due, default=math.inf) - self._clock())

    def turn(self) -> None:
        """Answers polls whose time is over, forgets consumers that are gone, lets go of what took too long."""
        now = self._clock()
        for consumer in list(self._consumers.values()):
            if consumer.until > now:
                continue
            if consumer.answer is not None:
                self._answer(consumer, [])
            elif self._consumers.get(consumer.name) is consumer:
                self._forget(consumer)
        for ground, all_held in list(self._held.items()):
            late = [held for held in all_held if held.until <= now and held.released is not None]
            if late:
                for consumer in self._holders(ground):
                    self._on_late(consumer.name, ground)
            for held in late:
                _fire(held)


def _fire(held: _Held) -> None:
    released, held.released = held.released, None
    if released is not None:
        released()
