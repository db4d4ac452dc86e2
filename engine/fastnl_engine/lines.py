"""Which connections something is being done to, and the jobs that have to wait until it is done.

Two jobs of one connection never run at once.  And a job waits for another connection's as well that may give up what it
needs, if the same client has asked for that before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from fastnl_engine.planner import Job


class Lines:
    """One line for each id that is under way, of the jobs that wait for it; in the order in which they came.

    A job that waits for another id has a line of its own, too: jobs of its id wait in that.
    """

    def __init__(self) -> None:
        self._lines: dict[str, deque[Job]] = {}
        self._behind = 0  # jobs that wait for their own id

    def __len__(self) -> int:
        """Jobs that are under way or wait."""
        return len(self._lines) + self._behind

    def __contains__(self, id_: str) -> bool:
        """Whether an id is under way, or waits for another one."""
        return id_ in self._lines

    def begin(self, id_: str) -> None:
        self._lines[id_] = deque()

    def wait(self, job: Job) -> bool:
        """Puts a job into the line of its own id; False: there is none."""
        line = self._lines.get(job.id)
        if line is None:
            return False
        line.append(job)
        self._behind += 1
        return True

    def wait_for(self, id_: str, job: Job) -> None:
        """Puts a job into the line of another id that is under way."""
        self._lines[id_].append(job)
        self.begin(job.id)

    def waiting(self, id_: str) -> Iterable[Job]:
        return self._lines.get(id_, ())

    def end(self, id_: str) -> list[Job]:
        """An id is not under way any more; the jobs that waited for it, and behind each those that waited for that."""
        jobs: list[Job] = []
        waiting = self._lines.pop(id_)
        while waiting:
            jobs.append(job := waiting.popleft())
            behind = self._lines.pop(job.id, None)
            if behind is None:
                self._behind -= 1
            else:
                waiting.extendleft(reversed(behind))
        return jobs

    def empty(self) -> list[Job]:
        """Every job that waits; what is under way stays so."""
        jobs: list[Job] = []
        for id_ in list(self._lines):
            if id_ in self._lines:  # else it waited for one before
                jobs += self.end(id_)
                self.begin(id_)
        return jobs
