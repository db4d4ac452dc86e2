"""Jobs that wait for their turn, fairly: clients in turns, those of one client in the order in which they came.

However many jobs one client has waiting, another one's next job waits for one of each client only: with more of each,
a flood of many clients would keep it waiting for several cycles (`make flood` tells for how long).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from fastnl_engine.planner import Action, Job


class Backlog:
    """What a deque has of it; `client` of a job tells whose it is, None is the engine itself."""

    def __init__(self) -> None:
        self._of: dict[Any, deque[Job]] = {}
        self._turns: deque[Any] = deque()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Job]:
        return chain.from_iterable(self._of.values())

    def append(self, job: Job) -> None:
        self._queue(job).append(job)

    def appendleft(self, job: Job) -> None:
        """Puts a job back: before all others of its client, but out of turn it does not come."""
        self._queue(job).appendleft(job)

    def extendleft(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self.appendleft(job)

    def popleft(self) -> Job:
        """Raises IndexError when there is none."""
        client = self._turns.popleft()
        jobs = self._of[client]
        job = jobs.popleft()
        self._length -= 1
        if jobs:
            self._turns.append(client)
        else:
            del self._of[client]
        return job

    def clear(self) -> None:
        self._of.clear()
        self._turns.clear()
        self._length = 0

    def _queue(self, job: Job) -> deque[Job]:
        jobs = self._of.get(job.client)
        if jobs is None:
            jobs = self._of[job.client] = deque()
            self._turns.append(job.client)
        self._length += 1
        return jobs


class Planned:
    """Actions that wait to be sent, each of another connection, in the same turns."""

    def __init__(self) -> None:
        self._turns = Backlog()
        self._of: dict[str, Action] = {}

    def __len__(self) -> int:
        return len(self._of)

    def put(self, action: Action) -> None:
        self._turns.append(action.job)
        self._of[action.job.id] = action

    def take(self, most: int) -> list[Action]:
        return [self._of.pop(self._turns.popleft().id) for _ in range(min(most, len(self)))]
