"""Who is measured: each takes the same connections through the same steps, and says what one cost it.

A round begins and ends with empty namespaces: create, what may come between, delete.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from fastnl import Connection, End, Host, Move, Result, Wired
from fastnl_engine.bench import workloads

T = TypeVar("T")

BATCH = 64

Step = Literal["create", "update", "move", "recreate", "delete"]


class Time(NamedTuple):
    """What a step took, in seconds for each connection.

    cpu     processor time, which a busy machine disturbs less; 0 where nobody measured it
    calls   seconds of each batch or request, where they came one after the other
    """

    passed: float
    cpu: float = 0
    calls: Sequence[float] = ()


class Contender(Protocol):
    """form: "born" in place, or created and "moved"; "" where that makes no difference."""

    name: str
    form: str
    count: int

    def step(self, step: Step) -> Time: ...


def split(items: Sequence[T], size: int = BATCH) -> list[list[T]]:
    return [list(items[at : at + size]) for at in range(0, len(items), size)]


def wired(results: Sequence[Result]) -> list[Wired]:
    """What was made; an error ends the measurement."""
    for result in results:
        if result.error is not None:
            raise result.error
    return [result.wired for result in results if result.wired is not None]


class Clock:
    """Started when made; read() gives the time passed for each of `count`."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._cpu = time.process_time()
        self._begin = time.perf_counter()

    def read(self) -> Time:
        passed, cpu = time.perf_counter() - self._begin, time.process_time() - self._cpu
        return Time(passed / self._count, cpu / self._count)


def between(moments: Sequence[float]) -> list[float]:
    """The time from each moment to the next."""
    return [later - earlier for earlier, later in pairwise(moments)]


def settle() -> None:
    """Lets the kernel's work that nobody waits for come to its end, so that the next one does not pay for it."""
    time.sleep(0.03)


class Library:
    """The methods of Host, a batch a call.

    sweep    connections that one disconnect takes, where that is not `batch`
    at_once  disconnects of different threads
    host     where it has made something already
    before   is called before each call of the host
    """

    form = "born"

    def __init__(
        self,
        connections: Sequence[Connection],
        batch: int = BATCH,
        name: str = "library",
        *,
        sweep: int | None = None,
        at_once: int = 1,
        host: Host | None = None,
    ) -> None:
        self.name = name
        self.host = host or Host("bench")
        self.count = len(connections)
        self._batch, self._sweep, self._at_once = batch, sweep or batch, at_once
        self.before: Callable[[], None] = lambda: None
        self._connections = connections
        self._made: list[Wired] = []

    def step(self, step: Step) -> Time:
        calls = self._calls(step)
        gc.collect()
        if step == "delete" and self._at_once > 1:
            with ThreadPoolExecutor(self._at_once) as threads:
                list(threads.map(time.sleep, [0.001] * self._at_once))  # they are started before the clock
                clock = Clock(self.count)
                results = list(threads.map(lambda call: call(), calls))
                took = clock.read()
        else:
            results, moments = [], [time.perf_counter()]
            clock = Clock(self.count)
            for call in calls:
                self.before()
                results.append(call())
                moments.append(time.perf_counter())
            took = clock.read()._replace(calls=between(moments))
        made = [w for part in results for w in wired(part)]
        self._made = [] if step == "delete" else made
        return took

    def _calls(self, step: Step) -> list[Callable[[], list[Result]]]:
        host = self.host
        if step == "create":
            return [partial(host.connect, part) for part in split(self._connections, self._batch)]
        if step == "delete":
            return [partial(host.disconnect, part) for part in split(self._made, self._sweep)]
        if step == "update":
            changes = [(w, workloads.updated(w.connection)) for w in self._made]
            return [partial(host.update, part) for part in split(changes, self._batch)]
        mode: Literal["move", "recreate"] = "move" if step == "move" else "recreate"
        moves = [Move(w, 0, workloads.room(n), mode) for n, w in enumerate(self._made)]
        return [partial(host.move, part) for part in split(moves, self._batch)]


class MovedLibrary(Library):
    """The same, but nothing is born in place: made in the host's namespace, moved from there, then furnished."""

    form = "moved"

    def _calls(self, step: Step) -> list[Callable[[], list[Result]]]:
        if step == "create":
            return [partial(self._create, part) for part in split(self._connections, self._batch)]
        return super()._calls(step)

    def _create(self, connections: Sequence[Connection]) -> list[Result]:
        made = wired(self.host.connect([_at_home(c) for c in connections]))
        for k in range(len(connections[0].ends)):
            moves = [Move(w, k, c.ends[k].netns) for w, c in zip(made, connections, strict=True)]
            made = wired(self.host.move(moves))
        return self.host.update(list(zip(made, connections, strict=True)))


def _at_home(c: Connection) -> Connection:
    """The connection as nothing but interfaces in the host's namespace, down."""
    ends: dict[str, Any] = {"ab"[k]: End("", end.ifname, up=False) for k, end in enumerate(c.ends)}
    return replace(c, **ends)
