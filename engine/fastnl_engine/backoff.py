"""When to try again what failed: soon at first, then ever later."""

from __future__ import annotations

import heapq
import random
import time

FIRST = 0.5  # seconds until the first attempt
LAST = 60.0  # the longest wait


class Backoff:
    """Ids that failed, each with the time of its next attempt."""

    def __init__(self) -> None:
        self._tries: dict[str, tuple[int, float]] = {}  # how often, and when next
        self._heap: list[tuple[float, str, int]] = []

    def put(self, id_: str, most: float | None = None) -> None:
        """It has failed (again); `most` bounds the wait, seconds."""
        tries = self._tries.get(id_, (0, 0.0))[0]
        # with some chance in it, so that what failed together does not come back together
        wait = min(LAST, most or LAST, FIRST * 2 ** min(tries, 16)) * random.uniform(0.75, 1.25)
        self._tries[id_] = tries + 1, time.monotonic() + wait
        heapq.heappush(self._heap, (self._tries[id_][1], id_, tries + 1))

    def attempts(self, id_: str) -> tuple[int, float]:
        """How often it has failed in a row, and when it is tried again, seconds since 1970; (0, 0.0): it has not."""
        tries, when = self._tries.get(id_, (0, 0.0))
        return (tries, time.time() + when - time.monotonic()) if tries else (0, 0.0)

    def forget(self, id_: str) -> None:
        self._tries.pop(id_, None)

    def due(self) -> list[str]:
        """What shall be tried now."""
        out = []
        now = time.monotonic()
        while self._heap and self._heap[0][0] <= now:
            _, id_, tries = heapq.heappop(self._heap)
            if self._tries.get(id_, (0, 0.0))[0] == tries:
                out.append(id_)
        return out

    @property
    def timeout(self) -> float:
        """Seconds until something is due."""
        return max(0.0, self._heap[0][0] - time.monotonic()) if self._heap else 3600.0
