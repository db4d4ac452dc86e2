"""Which pairs there are, and which of their interfaces: two that are there are joined."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from fastnl.errors import FastnlError
from fastnl_engine.afpacket.crossing import Crossing, Place, is_gone, total

log = structlog.get_logger()

RETRY = 1.0  # seconds until an interface that could not be opened is tried again


class Pair:
    """Two names.  While one of the interfaces is missing the other one is not open: its frames have nowhere to go."""

    def __init__(self, names: tuple[str, str]) -> None:
        self.names = names
        self.places: dict[str, Place] = {}
        self.crossing: Crossing | None = None
        self.retry_at = math.inf
        self.opened = 0
        self._past = total(()), total(())  # of crossings that are closed, there and back

    def open(self, cross: Callable[[Place, Place], Crossing]) -> None:
        self.retry_at = math.inf
        if self.crossing is not None or len(self.places) < 2:
            return
        a, b = (self.places[name] for name in self.names)
        try:
            self.crossing = cross(a, b)
        except (OSError, FastnlError) as e:
            # one that is gone already is about to be told so
            (log.info if is_gone(e) else log.warning)("cannot join", pair="-".join(self.names), reason=str(e))
            self.retry_at = time.monotonic() + RETRY
            return
        self.opened += 1
        log.info("joined", pair="-".join(self.names), a=a.ifindex, b=b.ifindex)

    def close(self) -> None:
        if self.crossing is None:
            return
        crossing, self.crossing = self.crossing, None
        crossing.close()
        for past, last in zip(self._past, crossing.counts(), strict=True):
            past.update(last)
        log.info("parted", pair="-".join(self.names))

    def counts(self) -> dict[str, Any]:
        now = self.crossing.counts() if self.crossing is not None else ({}, {})
        there, back = (total(parts) for parts in zip(self._past, now, strict=True))
        return {
            "pair": list(self.names), "joined": self.crossing is not None, "times": self.opened,
            "there": there, "back": back,
        }  # fmt: skip


class Switchboard:
    """Joins and parts as interfaces come and go; for one thread.  Call `turn` when `timeout` has passed."""

    def __init__(self, pairs: Sequence[tuple[str, str]], cross: Callable[[Place, Place], Crossing]) -> None:
        self._cross = cross
        self.pairs = [Pair(names) for names in pairs]
        self._of = {name: pair for pair in self.pairs for name in pair.names}

    def create(self, name: str, place: Place) -> None:
        """An interface is there.  Saying so again changes nothing; names of no pair are passed over."""
        pair = self._of.get(name)
        if pair is None or pair.places.get(name) == place:
            return
        self.delete(name)
        pair.places[name] = place
        pair.open(self._cross)

    def delete(self, name: str) -> None:
        """It goes, or is gone; when this returns nothing is open on it."""
        pair = self._of.get(name)
        if pair is not None and pair.places.pop(name, None) is not None:
            pair.retry_at = math.inf
            pair.close()

    @property
    def timeout(self) -> float:
        """Seconds until `turn` has something to do."""
        return max(0.0, min((pair.retry_at for pair in self.pairs), default=math.inf) - time.monotonic())

    def turn(self) -> None:
        now = time.monotonic()
        for pair in self.pairs:
            if pair.retry_at <= now:
                pair.open(self._cross)

    def counts(self) -> list[dict[str, Any]]:
        return [pair.counts() for pair in self.pairs]

    def close(self) -> None:
        for pair in self.pairs:
            pair.close()
