"""Threads behind the gateway, so that the kernel never waits for Python nor Python for the kernel.

    gateway --cycle--> store thread: intent --> kernel thread: run --> store thread: outcome --> gateway
                              |             --> sweep thread:  run -->                      ^
                              +-- waits until the disk has the intent ----------------------+

The disk takes about as long as the kernel, so they are at work side by side: an outcome that its intent foretold need
not be on the disk, too.  While the store's thread waits for it the kernel thread is in the next cycle already; a cycle
that has the engine to itself does not change threads and does what is the store's on the kernel thread.  Deletes wait
for grace periods, on a thread of their own so that nothing else waits with them.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import structlog

from fastnl_engine.executor import Executor
from fastnl_engine.planner import Action
from fastnl_engine.store.base import Intent, Outcome, Store

log = structlog.get_logger()

RETRY = 1.0  # seconds between attempts to write what could not be written

Row = TypeVar("Row", Intent, Outcome)


@dataclass(slots=True)
class Cycle:
    """Actions on different connections that go through the kernel together.

    alone    no other is on its way to the kernel thread or on it
    sweep    goes to the thread for sweeps, beside the cycles that come before and after
    beside   a sweep was on its way when it was sent
    chore    something else to be done on the kernel's thread, in a cycle without actions
    refused  why the store could not take the intent (then nothing was done) or the outcome
    doubt    why the disk may not have the intent
    missing  what it still waits for: the kernel with its outcome, and the disk
    stages   seconds that it spent waiting, in intent, kernel and outcome
    """

    actions: list[Action]
    alone: bool = False
    sweep: bool = False
    beside: bool = False
    chore: Callable[[], None] | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    refused: str = ""
    ran: bool = False
    doubt: str = ""
    missing: int = 1
    stages: dict[str, float] = field(default_factory=dict)
    _since: float = field(default_factory=time.perf_counter)

    def passed(self, stage: str) -> None:
        """The time since the last call, or since the cycle was made, went into a stage."""
        now = time.perf_counter()
        self.stages[stage] = self.stages.get(stage, 0.0) + now - self._since
        self._since = now


class Pipeline:
    """Takes cycles in and gives them back finished, sweeps out of turn; `wakeup` is readable when there are some."""

    def __init__(
        self,
        store: Store,
        executor: Executor,
        judge: Callable[[Action], Outcome | None],
        on_write: Callable[[str, float], None] = lambda step, seconds: None,
    ) -> None:
        self._store = store
        self._on_write = on_write
        self.executor = executor
        self._judge = judge
        self._to_store: queue.SimpleQueue[tuple[str, Cycle] | None] = queue.SimpleQueue()
        self._to_kernel: queue.SimpleQueue[Cycle | None] = queue.SimpleQueue()
        self._to_sweep: queue.SimpleQueue[Cycle | None] = queue.SimpleQueue()
        self._finished: deque[Cycle] = deque()
        self._unwritten: dict[str, Outcome] = {}
        self._failing = False  # the last write was refused
        self._doubtful = False  # the last wait for the disk was
        self.wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.waiting = 0  # cycles taken in for the kernel thread whose run has not begun
        self.sweeping = 0  # and for the sweep thread whose run has not ended
        self._under_way = 0  # of those for the kernel thread, whose run has not ended
        self._wanted = False  # somebody wants to know when none is waiting
        self._count = threading.Lock()
        self._writing = threading.Lock()  # the store and what is owed to it
        self._threads = [
            threading.Thread(target=self._store_main, name="store", daemon=True),
            threading.Thread(target=self._kernel_main, name="kernel", daemon=True),
            threading.Thread(target=self._sweep_main, name="sweep", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def put(self, cycle: Cycle) -> None:
        with self._count:
            if cycle.sweep:
                self.sweeping += 1
            else:
                cycle.alone = self._under_way == 0
                self._under_way += 1
                self.waiting += 1
        if cycle.alone:
            self._to_kernel.put(cycle)
        else:
            self._to_store.put(("intend", cycle))

    @property
    def has_room(self) -> bool:
        """Whether the kernel thread is free for another cycle; if not, `wakeup` tells when it is."""
        with self._count:
            self._wanted = self.waiting > 0
            return not self._wanted

    def take(self) -> list[Cycle]:
        """Finished cycles, oldest first."""
        try:
            os.eventfd_read(self.wakeup)
        except BlockingIOError:
            return []
        done = []
        while self._finished:
            done.append(self._finished.popleft())
        return done

    @property
    def unwritten(self) -> int:
        """Outcomes that could not be written to the disk yet."""
        return len(self._unwritten)

    @property
    def alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    def wake(self) -> None:
        if self.wakeup >= 0:
            os.eventfd_write(self.wakeup, 1)

    def stop(self) -> None:
        """Ends the threads after what they have in hand; `take` has the cycles that they finished last."""
        # the word goes the way that a cycle goes, behind all of them
        self._to_store.put(("stop", Cycle([])))
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        fd, self.wakeup = self.wakeup, -1
        os.close(fd)

    def _store_main(self) -> None:
        running = len(self._threads) - 1  # of those that give cycles back
        while True:
            try:
                job = self._to_store.get(timeout=RETRY if self._unwritten else None)
            except queue.Empty:
                with contextlib.suppress(Exception), self._writing:  # it was told to the clients concerned
                    self._write([])
                continue
            if job is None:
                running -= 1
                if running:
                    continue
                with contextlib.suppress(Exception), self._writing:  # a last attempt; else intents tell the next start
                    self._write([])
                return
            step, cycle = job
            if step == "stop":
                self._to_kernel.put(None)
                self._to_sweep.put(None)
            elif step == "intend":
                self._intend(cycle)
                synced = cycle.missing > 1
                (self._to_sweep if cycle.sweep else self._to_kernel).put(cycle)
                if synced:
                    self._sync(cycle)
            elif step == "sync":
                self._sync(cycle)
            elif step == "settle":
                self._settle(cycle)

    def _intend(self, cycle: Cycle) -> None:
        cycle.passed("waiting")
        if cycle.chore is not None:
            return  # it writes nothing, so a disk that takes nothing is no reason to leave it
        self.executor.prepare(cycle.actions)
        intents = [
            # an interruption is no end: its connection stays
            Intent(a.job.id, "suspend" if a.job.op == "suspend" else a.verb, a.spec, a.indexes)
            for a in cycle.actions
            if a.verb in ("create", "update", "remove", "move", "mend")
        ]
        try:
            with self._writing:
                # What is owed goes first.  Written after the intent of a newer action on the same connection it would
                # take that intent away; and as long as it cannot be written, nothing more may come into doubt.
                self._write([])
                self._save(self._store.intend, intents)
            if intents and self._store.durable:
                cycle.missing += 1
        except Exception as e:
            cycle.refused = f"the state could not be written, so nothing was done: {e}"
        cycle.passed("intent")

    def _sync(self, cycle: Cycle) -> None:
        """Waits until the disk has the intent, on the store's thread."""
        began = time.perf_counter()
        try:
            self._store.sync()
            self._doubtful = False
        except Exception as e:
            cycle.doubt = str(e)
            if not self._doubtful:
                self._doubtful = True
                log.error("the disk does not take what is written", reason=str(e))
        self._on_write("sync", time.perf_counter() - began)
        self._give_back(cycle)

    def _settle(self, cycle: Cycle) -> None:
        if cycle.ran:
            try:
                with self._writing:
                    cycle.outcomes = [o for a in cycle.actions if (o := self._judge(a)) is not None]
                    self._write(cycle.outcomes)
            except Exception as e:
                cycle.refused = f"it was done, but the outcome could not be written: {e}"
        self._give_back(cycle)

    def _give_back(self, cycle: Cycle) -> None:
        """One of those that a cycle waits for is done with it; after the last one the gateway has it."""
        with self._count:
            cycle.missing -= 1
            if cycle.missing:
                return
        if cycle.doubt and cycle.ran and not cycle.refused:
            cycle.refused = f"it was done, but that could not be written: {cycle.doubt}"
            with self._writing:  # it is owed, until the disk has it
                self._unwritten.update((o.id, replace(o, foretold=False)) for o in cycle.outcomes)
        cycle.passed("outcome")
        self._finished.append(cycle)
        self.wake()

    def _write(self, outcomes: list[Outcome]) -> None:
        """Writes outcomes, and with them those that a full disk kept from being written before."""
        self._unwritten.update((o.id, o) for o in outcomes)
        self._save(self._store.settle, list(self._unwritten.values()))
        self._unwritten.clear()

    def _save(self, write: Callable[[Sequence[Row]], None], rows: Sequence[Row]) -> None:
        """Writes, if there is something, and tells the log when that begins to fail and when it is over."""
        if not rows:
            return
        began = time.perf_counter()
        try:
            write(rows)
        except Exception as e:
            if not self._failing:
                self._failing = True
                log.error("state cannot be written", reason=str(e))
            raise
        self._on_write(write.__name__, time.perf_counter() - began)
        if self._failing:
            self._failing = False
            log.info("state is written again")

    def _kernel_main(self) -> None:
        while (cycle := self._to_kernel.get()) is not None:
            with self._count:
                self.waiting -= 1
                wanted, self._wanted = self._wanted, False
            if wanted:
                self.wake()  # room for the next cycle to be made
            if cycle.alone:
                self._intend(cycle)
                if cycle.missing > 1:
                    self._to_store.put(("sync", cycle))
            self._run(cycle)
            with self._count:
                self._under_way -= 1
                alone = cycle.alone and not self._under_way
            if alone:
                self._settle(cycle)
                if cycle.refused:
                    self._to_store.put(("look", cycle))  # something may be owed now
            else:
                self._to_store.put(("settle", cycle))
        self._to_store.put(None)

    def _sweep_main(self) -> None:
        while (cycle := self._to_sweep.get()) is not None:
            self._run(cycle)
            with self._count:
                self.sweeping -= 1
            self._to_store.put(("settle", cycle))
            self.wake()  # what has come meanwhile can go
        self._to_store.put(None)

    def _run(self, cycle: Cycle) -> None:
        cycle.passed("waiting")
        if cycle.chore is not None:
            try:
                cycle.chore()
            except Exception as e:
                cycle.refused = f"{type(e).__name__}: {e}"
        elif not cycle.refused:
            try:
                self.executor.run(cycle.actions)
                cycle.ran = True
            except Exception as e:
                # the thread has to live on; what was half done is known by its intent
                cycle.refused = f"{type(e).__name__}: {e}; please report this"
        cycle.passed("kernel")
