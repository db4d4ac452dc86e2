"""Acts at once on what becomes of interfaces in the engine's own namespace; elsewhere the audit finds it."""

from __future__ import annotations

import socket

from fastnl.links import FOUND
from fastnl_engine.audit import WORDS
from fastnl_engine.engine import Engine
from fastnl_engine.ledger import Watched
from fastnl_engine.northbound.grounds import Grounds
from fastnl_engine.watch.links import Link, Links

SPARE = 64  # interfaces that are remembered beyond those that there are


class Nearby:
    """For the gateway's thread: `fileno` and `timeout` for its poll set, and `turn`."""

    def __init__(self, engine: Engine, grounds: Grounds) -> None:
        self._engine = engine
        self._grounds = grounds
        self._links = Links()
        self._running: dict[int, bool] = {}  # by index, of our ends: as was last told

    def fileno(self) -> int:
        return self._links.fileno()

    @property
    def timeout(self) -> float:
        return self._links.timeout

    def turn(self, ready: bool) -> None:
        if not ready and self._links.timeout:
            return
        for link in self._links.take():
            if link.gone:
                self._gone(link)
            else:
                self._seen(link)

    def _gone(self, link: Link) -> None:
        self._running.pop(link.ifindex, None)
        watched = self._engine.ledger.here.get(link.ifindex)
        if watched is not None:
            self._check(watched)
        else:
            self._grounds.changed(link.name)

    def _seen(self, link: Link) -> None:
        watched = self._engine.ledger.here.get(link.ifindex)
        if watched is not None:
            if link.name != watched.ifname:
                self._check(watched)
            self._carrier(watched, running=link.running)
            return
        id_ = self._engine.claims.owner("", link.name)
        if id_ is None:
            self._grounds.changed(link.name)
            return
        record = self._engine.records.get(id_)
        if record is not None and record.state == "pending" and record.connection.kind in FOUND:
            self._engine.retry(record)

    def _check(self, watched: Watched) -> None:
        """Looks for itself: what was told may be the middle of a change, or over already."""
        try:
            name = socket.if_indextoname(watched.place.ifindex)
        except OSError:
            name = ""
        if name != watched.ifname:
            what = WORDS["renamed" if name else "gone"]
            self._engine.broken(watched, f"{'ab'[watched.end]}: interface {watched.ifname!r}: {what}")

    def _carrier(self, watched: Watched, *, running: bool) -> None:
        index = watched.place.ifindex
        before = self._running.get(index)
        if before is None and not running:
            # it may be what was told while it was being made
            running = self._links.is_running(watched.ifname)
        if running == before:
            return
        self._running[index] = running
        if len(self._running) > 2 * len(self._engine.ledger.here) + SPARE:
            self._running = {i: r for i, r in self._running.items() if i in self._engine.ledger.here}
        # no news: that one comes up soon after it was made, and what the engine does to it itself
        news = (before is not None or not running) and not self._engine.is_changing(watched.id)
        self._engine.tell_link(watched, running=running, news=news)

    def close(self) -> None:
        self._links.close()
