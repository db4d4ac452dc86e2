"""The engine's heart: what is known, what is waiting, and which cycle comes next.

Used from one thread, the gateway's.  It knows no sockets: jobs come in with tickets, results go out through
`on_result`, events through `on_event`.
"""

from __future__ import annotations

import errno
import functools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import structlog
from sortedcontainers import SortedDict

import fastnl
from fastnl.links import FOUND
from fastnl.netns import Identity
from fastnl_engine.backlog import Backlog, Planned
from fastnl_engine.backoff import Backoff
from fastnl_engine.executor import Executor
from fastnl_engine.judgement import NETNS_ERRORS, judge, may_succeed_now, result_of
from fastnl_engine.ledger import Ledger, Watched
from fastnl_engine.lines import Lines
from fastnl_engine.metrics import Metrics
from fastnl_engine.model import Record, connection_of
from fastnl_engine.pipeline import RETRY, Cycle, Pipeline
from fastnl_engine.planner import Action, Claims, Job, plan
from fastnl_engine.resume import Resume
from fastnl_engine.store.base import Outcome, Store
from fastnl_engine.sweeps import Sweeps
from fastnl_engine.upkeep import WAITED_FOR, Upkeep, astray, waits_for

log = structlog.get_logger()

LOOK = 2.0  # seconds at most between looks for an interface that somebody else has to make
SETTLE = 64  # records of the last run that one turn looks after
CYCLE = 128  # actions of one cycle: large enough to share visits, small enough that replies flow

ResultSink = Callable[[Any, int, dict[str, Any]], None]
EventSink = Callable[[str, dict[str, Any], str], None]


class Guard(Protocol):
    """Knows what others have on interfaces, and has them let go before one goes."""

    def hold(self, action: Action, go: Callable[[], None]) -> bool:
        """Whether an action has to wait; then `go` is called once it need not any more, maybe before this returns."""

    def settled(self, id_: str) -> None:
        """An action of a connection is over, whatever came of it."""


class Engine:
    """Takes jobs, makes cycles of them and books what became of them.

    on_result(ticket, place, result)   one item's result, as in a reply
    on_event(event, fields, of)        something happened to a "connection", a "namespace" or the "engine"
    """

    def __init__(
        self, host: fastnl.Host, store: Store, on_result: ResultSink, on_event: EventSink, *,
        queue: int = 10_000, strict: bool = False,
    ) -> None:  # fmt: skip
        self.host = host
        self.records: SortedDict[str, Record] = SortedDict()
        self.claims = Claims()
        self.queue = queue
        self.totals = {"connected": 0, "disconnected": 0, "updated": 0, "moved": 0, "failed": 0, "cycles": 0}
        self.metrics = Metrics()
        self._on_result = on_result
        self._on_event = on_event
        self.send_answers: Callable[[], None] = lambda: None
        self._backlog = Backlog()
        self._lines = Lines()
        self.guard: Guard | None = None
        self._guarded: dict[str, Action] = {}  # by id: planned, and waiting until others have let go
        self._ready = Planned()  # for the kernel thread
        self._sweeps = Sweeps()
        self._outbox: deque[Cycle] = deque()
        self._cycles = 0
        self.pipeline = Pipeline(store, Executor(host, strict=strict), judge, self._wrote)
        self.upkeep = Upkeep(self.retry, self.suspend, self._namespace)
        self.ledger = Ledger(strict)
        self.backoff = Backoff()
        self._found: deque[tuple[Watched, str]] = deque()
        self._arriving: deque[Record] = deque()
        self._resume: Resume | None = None
        self._chores = 0
        self._on_resumed: Callable[[], None] = lambda: None
        self._finished: deque[Cycle] = deque()
        self._booked: list[tuple[Action, Record | None, Record | None]] = []  # and answered: was, is
        self._owed: deque[tuple[Callable[[int, dict[str, Any]], None], int, dict[str, Any]]] = deque()
        self._soon: deque[Callable[[], None]] = deque()  # from other threads
        self._called = False
        self.listeners: list[EventSink] = []
        self._postponed: deque[tuple[float, Job, Record | None]] = deque()  # due when, and what it is about

    # -- in ------------------------------------------------------------------------------------------

    @property
    def load(self) -> int:
        """Jobs that have been taken on and not been answered."""
        return len(self._backlog) + len(self._lines)

    def has_room(self, jobs: int) -> bool:
        return self.load + jobs <= self.queue

    def is_changing(self, id_: str) -> bool:
        """Whether an action on that connection is on its way through the kernel."""
        return id_ in self._lines

    def submit(self, job: Job) -> None:
        """Takes a job on; it is planned when its turn comes, after every earlier job of the same id."""
        # also when the id is in a cycle: the backlog may hold earlier jobs of that id
        self._backlog.append(job)

    def take_over(self, records: Iterable[Record], resume: Resume, on_resumed: Callable[[], None]) -> None:
        """Takes the records of the last run over; `turn` looks after them bit by bit, and jobs go on meanwhile."""
        for record in records:
            if record.id in resume.anew:
                reason = resume.anew[record.id]
                # an interface of somebody else still has what it was given
                left = record.places if record.connection.kind in FOUND else ()
                if lost := astray(record):
                    record = Record(record.id, record.spec, "pending", left, reason=lost, since=time.time())
                else:
                    record = Record(record.id, record.spec, "failed", left, reason=reason, since=time.time())
                    self.retry(record)
            self.records[record.id] = record
            self.claims.take(record.connection)
        self._arriving = deque(self.records.values())
        self._resume = self.pipeline.executor.resume = resume
        self._on_resumed = on_resumed

    def adopt(self, record: Record) -> None:
        """Takes on a connection whose interfaces somebody else made; it is to be connected as the record says."""
        if record.id not in self.records and self.claims.refuse(record.connection) is None:
            self.records[record.id] = record
            self.claims.take(record.connection)
            self.host.count(record.places, 1)

    def _settle_in(self) -> None:
        """Watches over some of the records that were taken over, and has more of the kernel looked at."""
        for _ in range(min(SETTLE, len(self._arriving))):
            record = self._arriving.popleft()
            # what a job changed meanwhile was booked with that job
            if self.records.get(record.id) is record:
                self._watch_over(record)
        if self._resume is not None and not self._chores and self.pipeline.has_room:
            self._chores += 1
            self._outbox.append(Cycle([], chore=self._resume.step))
        if self._arriving:
            self.pipeline.wake()

    def _watch_over(self, record: Record) -> None:
        if record.state == "up":
            self.ledger.put(record.id, record.wired())
        elif record.state == "failed" or record.error:
            self.backoff.put(record.id, most=LOOK if record.state == "pending" else None)
        self.upkeep.follow(None, record)

    def _looked(self, cycle: Cycle) -> None:
        """Takes in what a step of the start has found."""
        self._chores -= 1
        resume = self._resume
        if resume is None:
            return
        finished = resume.finished  # asked first: a job may be looking at the last namespaces right now
        for record, reason in resume.take_wrong():
            if self.records.get(record.id) is record:
                self.submit(Job("mend", record.id, reason=reason, about=record))
        if cycle.refused:
            log.error("the start was not looked at to its end", reason=cycle.refused)
        if finished or cycle.refused:
            self._resume = self.pipeline.executor.resume = None
            self._on_resumed()

    def retry(self, record: Record) -> None:
        self.submit(Job("retry", record.id))

    def broken(self, watched: Watched, reason: str) -> None:
        """Somebody changed a connection's interfaces.  May be called from another thread."""
        self._found.append((watched, reason))
        self.pipeline.wake()

    def suspend(self, record: Record, reason: str) -> None:
        self.submit(Job("suspend", record.id, reason=reason, about=record))

    def soon(self, do: Callable[[], None]) -> None:
        """Has something done on this thread, at its next turn; for other threads."""
        self._soon.append(do)
        if not self._called:  # else it was woken for one before, and has not looked yet
            self._called = True
            self.pipeline.wake()

    def turn(self) -> None:
        """Everything that there is to be done now."""
        self.book()
        self.plan()
        self.send()

    def send(self) -> None:
        """Sends off what was planned.

        Whoever does it should have nothing else to do then, as the threads that wake up need the interpreter's lock.
        """
        if not self._outbox:
            return
        while self._outbox:
            self.pipeline.put(self._outbox.popleft())
        # asked behind it: either the kernel thread has it already, or it tells when it has
        if (self._backlog or self._ready) and self.pipeline.has_room:
            self.pipeline.wake()

    def book(self) -> None:
        """Takes in what has finished, and answers."""
        for cycle in self.pipeline.take():
            self._finish(cycle)
        self._follow_up()

    def plan(self) -> None:
        """Looks at what is new, and plans the next cycle when the kernel thread is free for it."""
        if self._arriving or self._resume is not None:
            self._settle_in()
        self._called = False  # first: what comes while it looks has to wake it again
        while self._soon:
            self._soon.popleft()()
        while self._found:
            watched, reason = self._found.popleft()
            # what is being changed right now, or was since it was looked at, need not look as it did
            if not self.is_changing(watched.id) and self.ledger.has(watched):
                self.submit(Job("mend", watched.id, reason=reason, about=self.records.get(watched.id)))
        for id_ in self.backoff.due():
            self.submit(Job("retry", id_))
        while self._postponed and self._postponed[0][0] <= time.monotonic():
            _, job, record = self._postponed.popleft()
            if self.records.get(job.id) is record:
                self.submit(job)
        if (self._backlog or self._ready) and self.pipeline.has_room:
            self._plan()
            if self._ready:
                self._post(Cycle(self._ready.take(CYCLE)))
            elif self._backlog:
                self.pipeline.wake()  # not all at once: who asks for something meanwhile is heard first
        sweeping = self.pipeline.sweeping
        while self._sweeps.due(sweeping):
            self._post(Cycle(self._sweeps.take(), sweep=True))
            sweeping += 1

    def _post(self, cycle: Cycle) -> None:
        self._cycles += 1
        self.totals["cycles"] += 1
        cycle.beside = len(self._sweeps) > 0
        self._outbox.append(cycle)

    @property
    def idle(self) -> bool:
        return not (self._backlog or self._ready or self._sweeps or self._cycles or self._chores)

    def refuse_backlog(self, error: dict[str, Any]) -> None:
        """Answers everything that is not in a cycle with an error, at a stop."""
        self._resume = None  # the next start does it again
        while self._soon:
            self._soon.popleft()()
        waiting = list(self._backlog)
        ready = self._ready.take(len(self._ready))
        for action in (*ready, *self._sweeps.give_up(), *self._guarded.values()):
            self._reclaim(action)
            waiting += [action.job, *self._lines.end(action.job.id)]
        self._guarded.clear()
        waiting += self._lines.empty()
        self._backlog.clear()
        for job in waiting:
            self._answer(job, {"id": job.id, "ok": False, "error": error})

    # -- planning ------------------------------------------------------------------------------------

    def _plan(self) -> None:
        """Plans jobs until a cycle is full; what needs nothing from the kernel is answered at once."""
        room = CYCLE
        while self._backlog and room:
            job = self._backlog.popleft()
            if self._lines.wait(job):
                continue
            action = plan(job, self.records.get(job.id), self.claims)
            if any(earlier.client == job.client for earlier in self._to_come(action.owner)):
                # one of these may give up what is in the way, and was sent before
                self._lines.wait_for(action.owner, job)
                room -= 1  # there may be many, and each is planned again
            elif action.verb == "nothing":
                self._reply(action)
            else:
                room -= 1
                self._lines.begin(job.id)
                self._guarded[job.id] = action
                if self.guard is None or not self.guard.hold(action, functools.partial(self._release, job.id)):
                    self._go(self._guarded.pop(job.id))
                elif job.id in self._guarded and action.verb == "remove" and action.record is not None:
                    self.claims.take(action.record.connection)  # it has its names for as long as others are on it

    def _to_come(self, id_: str) -> Iterator[Job]:
        """What has been asked for of a connection in a cycle and has not begun."""
        if id_ in self._guarded:
            yield self._guarded[id_].job
        yield from self._lines.waiting(id_)

    def _go(self, action: Action) -> None:
        """Has an action done, once the sweeps that are in its way are over."""
        if self._sweeps.hold(action):
            return
        # a start looks at namespaces before they are changed, on the kernel thread
        if self.pipeline.executor.resume is None and self._sweeps.takes(action):
            self._sweeps.put(action)
        else:
            self._ready.put(action)

    def _release(self, id_: str) -> None:
        """Nothing is on the interfaces any more that an action takes away."""
        action = self._guarded.pop(id_, None)
        if action is not None:
            if action.job.op == "disconnect" and action.record is not None:
                self.claims.release(action.record.connection)
            self._go(action)
            self.pipeline.wake()

    # -- out -----------------------------------------------------------------------------------------

    def _finish(self, cycle: Cycle) -> None:
        if cycle.chore is not None:
            self._looked(cycle)
            return
        self._cycles -= 1
        self._finished.append(cycle)
        outcomes = {o.id: o for o in cycle.outcomes}
        handing = cycle.beside or any(a.verb in ("update", "move") for a in cycle.actions)
        for action in cycle.actions:
            id_ = action.job.id
            if cycle.ran:
                outcome = outcomes.get(id_)
                if outcome is not None:
                    self._book(action, outcome)
            if cycle.refused:
                error = {"code": "internal", "message": cycle.refused}
                self._answer(action.job, {"id": id_, "ok": False, "error": error})
                if not cycle.ran:
                    self._reclaim(action)
                    if action.job.ticket is None:
                        # the engine asked for it when something changed, and that will not happen again
                        self._postponed.append((time.monotonic() + RETRY, action.job, self.records.get(id_)))
            if self.guard is not None:
                self.guard.settled(id_)
            for waiting in self._sweeps.over(id_):
                self._ready.put(waiting)
            # they arrived before whatever the backlog holds for this id by now
            self._backlog.extendleft(reversed(self._lines.end(id_)))
            if not cycle.refused:
                if handing and may_succeed_now(action):
                    action.job.again = True
                    self._backlog.appendleft(action.job)
                else:
                    self._reply(action)

    def _book(self, action: Action, outcome: Outcome) -> None:
        """Takes over what is true now, as far as an answer depends on it."""
        id_, old, new = action.job.id, self.records.get(action.job.id), outcome.record
        if new is None:
            self.records.pop(id_, None)
        else:
            self.records[id_] = new
        if action.result is not None and action.result.error is not None:
            self._reclaim(action)
        self._booked.append((action, old, new))

    def _follow_up(self) -> None:
        """What else there is to be done about what was booked, while the answers are on their way.

        Who asked from within this process is answered at the end, as it has heard of the connections by then.
        """
        if not self._finished:
            return
        booked, self._booked = self._booked, []
        # who reads that a connection waits may make its namespace next, and that it appeared is to be told
        for action, old, new in booked:
            if _waits(new):
                self._note(action, old, new)
        self.send_answers()
        while self._finished:
            cycle = self._finished.popleft()
            for stage, seconds in cycle.stages.items():
                self.metrics.stage.labels(stage).observe(seconds)
            self.metrics.cycle.observe(len(cycle.actions))
        for action, old, new in booked:
            if not _waits(new):
                self._note(action, old, new)
        while self._owed:
            ticket, place, result = self._owed.popleft()
            ticket(place, result)

    def _note(self, action: Action, old: Record | None, new: Record | None) -> None:
        """Watches over what is true now, and tells those who listen."""
        id_ = action.job.id
        if new is None or not (new.state == "failed" or new.error):
            self.backoff.forget(id_)
        else:
            # nothing tells when an interface that is waited for is there
            self.backoff.put(id_, most=LOOK if new.state == "pending" else None)
        self.ledger.put(id_, action.result.wired if new and new.state == "up" and action.result else None)
        self.upkeep.follow(old, new)
        error = action.result.error if action.result is not None else None
        if new is not None and new.state == "failed" and new.places and isinstance(error, NETNS_ERRORS):
            # no mending brings the namespace of old back: what is left goes, and all of it is made again
            self.suspend(new, error.message)
        waits = _waits(new)
        failed = error is not None and not waits
        result = "pending" if waits else error.code if error is not None else "ok"
        self.metrics.items.add(action.verb, result)
        if error is not None and error.errno:
            self.metrics.kernel_errors.labels(errno.errorcode.get(error.errno, str(error.errno))).inc()
        name = {"create": "connected", "update": "updated", "move": "moved", "remove": "disconnected"}.get(action.verb)
        if failed:
            self.totals["failed"] += 1
        elif name and not waits:
            self.totals[name] += 1
        before, after = old.state if old else None, new.state if new else None
        if action.verb == "mend" and not failed:
            self.metrics.mends.inc()
            self._tell("mended", {"id": id_, "state": after, "was": before, "reason": action.job.reason})
        elif after != before or (action.verb in ("update", "move") and not failed):
            fields: dict[str, Any] = {"id": id_, "state": after, "was": before}
            if new is not None and new.reason:
                fields["reason"] = new.reason
            if error is not None and not waits:
                fields["error"] = error.as_dict()
            self._tell(after or "removed", fields)

    def _tell(self, event: str, fields: dict[str, Any], of: str = "connection") -> None:
        self.metrics.events.add()
        self._on_event(event, fields, of)
        for listener in self.listeners:
            listener(event, fields, of)

    def _namespace(self, event: str, reference: str, who: Identity | None) -> None:
        self.metrics.namespace_changes.labels(event).inc()
        fields: dict[str, Any] = {"reference": reference, "identity": who._asdict() if who else None}
        self._tell(event, fields, "namespace")

    def tell(self, event: str, **fields: Any) -> None:
        """Something happened to the engine itself."""
        self._tell(event, {"instance": self.host.instance, **fields}, "engine")

    def tell_of(self, event: str, fields: dict[str, Any]) -> None:
        """Publishes an event that changes nothing about a connection; those who listen for changes are not told."""
        self.metrics.events.add()
        self._on_event(event, fields, "connection")

    def tell_link(self, watched: Watched, *, running: bool, news: bool) -> None:
        """An interface has a carrier or has none any more; without news only those within the engine are told."""
        fields = {"id": watched.id, "ab"[watched.end]: {"oper_status": "UP" if running else "DOWN"}}
        if news:
            self.tell_of("link", fields)
        for listener in self.listeners:
            listener("link", fields, "connection")

    def _reclaim(self, action: Action) -> None:
        """Claims are as the record has them, whatever was planned and did not come true."""
        if action.spec:
            self.claims.release(connection_of(action.spec))
        record = self.records.get(action.job.id)
        if record is not None:
            self.claims.take(record.connection)

    def _reply(self, action: Action) -> None:
        # what the engine asks of itself has nobody to answer, and its record may be gone meanwhile
        if action.job.ticket is not None:
            self._answer(action.job, result_of(action, self.records.get(action.job.id)))

    def _answer(self, job: Job, result: dict[str, Any]) -> None:
        if callable(job.ticket):
            if self._finished:
                self._owed.append((job.ticket, job.place, result))
            else:
                job.ticket(job.place, result)
        elif job.ticket is not None:
            self._on_result(job.ticket, job.place, result)

    def _wrote(self, step: str, seconds: float) -> None:
        """The store has committed; called on its thread."""
        self.metrics.store.labels(step).observe(seconds)

    def refresh_metrics(self) -> None:
        """Brings the gauges up to date; may be called from another thread."""
        m = self.metrics
        counts = dict.fromkeys(("up", "pending", "failed"), 0)
        waiting = dict.fromkeys(WAITED_FOR, 0)
        for record in list(dict.values(self.records)):
            counts[record.state] = counts.get(record.state, 0) + 1
            if record.state == "pending":
                waiting[waits_for(record.reason)] += 1
        for state, count in counts.items():
            m.connections.labels(state).set(count)
        for reason, count in waiting.items():
            m.pending.labels(reason).set(count)
        m.queue.set(self.load)
        m.namespaces.set(self.upkeep.namespaces.count)
        m.unwritten.set(self.pipeline.unwritten)

    def stop(self) -> None:
        """Ends the threads after the cycles that are on their way, and books those."""
        self.pipeline.stop()
        for cycle in self.pipeline.take():
            self._finish(cycle)
        self._follow_up()
        self.pipeline.close()
        self.upkeep.namespaces.close()


def _waits(record: Record | None) -> bool:
    return record is not None and record.state == "pending"
