"""Two threads behind the gateway, so that the kernel never waits for Python nor Python for the kernel.

    gateway --cycle--> store thread: intent --> kernel thread: run --> store thread: outcome --> gateway

The store has one thread of its own because SQLite has one writer; while it waits for the disk the kernel
thread is in the next cycle already.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from fastnl_engine.executor import Executor
from fastnl_engine.planner import Action
from fastnl_engine.store.base import Intent, Outcome, Store

RETRY = 1.0  # seconds between attempts to write what could not be written


@dataclass(slots=True)
class Cycle:
    """Actions on different connections that go through the kernel together.

    refused  why the store could not take the intent (then nothing was done) or the outcome
    stages   seconds that it spent waiting, in intent, kernel and outcome
    """

    actions: list[Action]
    outcomes: list[Outcome] = field(default_factory=list)
    refused: str = ""
    ran: bool = False
    stages: dict[str, float] = field(default_factory=dict)
    _since: float = field(default_factory=time.perf_counter)

    def passed(self, stage: str) -> None:
        """The time since the last call, or since the cycle was made, went into a stage."""
        now = time.perf_counter()
        self.stages[stage] = self.stages.get(stage, 0.0) + now - self._since
        self._since = now


class Pipeline:
    """Takes cycles in, gives them back finished, in order; `wakeup` is readable when there are some."""

    def __init__(self, store: Store, executor: Executor, judge: Callable[[Action], Outcome | None]) -> None:
        self._store = store
        self._executor = executor
        self._judge = judge
        self._to_store: queue.SimpleQueue[tuple[str, Cycle] | None] = queue.SimpleQueue()
        self._to_kernel: queue.SimpleQueue[Cycle | None] = queue.SimpleQueue()
        self._finished: deque[Cycle] = deque()
        self._unwritten: dict[str, Outcome] = {}
        self.wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.waiting = 0  # cycles taken in whose run has not begun
        self._count = threading.Lock()
        self._threads = [
            threading.Thread(target=self._store_main, name="store"),
            threading.Thread(target=self._kernel_main, name="kernel"),
        ]
        for thread in self._threads:
            thread.start()

    def put(self, cycle: Cycle) -> None:
        with self._count:
            self.waiting += 1
        self._to_store.put(("intend", cycle))

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
        """Ends both threads after what they have in hand; `take` has the cycles that they finished last."""
        # the word goes the way that a cycle goes, behind all of them
        self._to_store.put(("stop", Cycle([])))
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        fd, self.wakeup = self.wakeup, -1
        os.close(fd)

    def _store_main(self) -> None:
        while True:
            try:
                job = self._to_store.get(timeout=RETRY if self._unwritten else None)
            except queue.Empty:
                with contextlib.suppress(Exception):  # whatever it is, it was told to the clients concerned
                    self._write([])
                continue
            if job is None:
                return
            step, cycle = job
            cycle.passed("waiting")
            if step == "stop":
                self._to_kernel.put(None)
            elif step == "intend":
                self._intend(cycle)
                cycle.passed("intent")
                self._to_kernel.put(cycle)
            else:
                self._settle(cycle)
                cycle.passed("outcome")
                self._finished.append(cycle)
                self.wake()

    def _intend(self, cycle: Cycle) -> None:
        self._executor.prepare(cycle.actions)
        intents = [
            Intent(a.job.id, a.verb, a.spec, a.indexes)
            for a in cycle.actions
            if a.verb in ("create", "update", "remove", "move", "mend")
        ]
        try:
            if intents:
                self._store.intend(intents)
        except Exception as e:
            cycle.refused = f"the state could not be written, so nothing was done: {e}"

    def _settle(self, cycle: Cycle) -> None:
        if not cycle.ran:
            return
        try:
            cycle.outcomes = [o for a in cycle.actions if (o := self._judge(a)) is not None]
            self._write(cycle.outcomes)
        except Exception as e:
            cycle.refused = f"it was done, but the outcome could not be written: {e}"

    def _write(self, outcomes: list[Outcome]) -> None:
        """Writes outcomes, and with them those that a full disk kept from being written before."""
        self._unwritten.update((o.id, o) for o in outcomes)
        if self._unwritten:
            self._store.settle(list(self._unwritten.values()))
            self._unwritten.clear()

    def _kernel_main(self) -> None:
        while (cycle := self._to_kernel.get()) is not None:
            with self._count:
                self.waiting -= 1
            self.wake()  # room for the next cycle to be made
            cycle.passed("waiting")
            if not cycle.refused:
                cycle.ran = True
                self._executor.run(cycle.actions)
            cycle.passed("kernel")
            self._to_store.put(("settle", cycle))
        self._to_store.put(None)
