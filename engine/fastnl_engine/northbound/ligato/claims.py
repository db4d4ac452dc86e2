"""What only one can have: a name, a name in a namespace, a destination. Whoever was there first has it."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable, Iterator
from typing import Any

Rank = tuple[Any, ...]


class Claims:
    """Claimants stand in a row at each slot, ordered by rank, whatever the order of their coming.

    The last item of a rank is the claimant, so that no two ranks are equal.
    """

    def __init__(self) -> None:
        self._rows: dict[Hashable, list[Rank]] = {}

    def take(self, slot: Hashable, rank: Rank) -> None:
        insort(self._rows.setdefault(slot, []), rank)

    def drop(self, slot: Hashable, rank: Rank) -> None:
        row = self._rows[slot]
        del row[bisect_left(row, rank)]
        if not row:
            del self._rows[slot]

    def holder(self, slot: Hashable) -> str | None:
        row = self._rows.get(slot)
        return row[0][-1] if row else None

    def claimants(self, slot: Hashable) -> Iterator[str]:
        """All of them, the holder first."""
        for rank in self._rows.get(slot, ()):
            yield rank[-1]
