"""Questions: list, events and info from memory, verify and stats from the kernel.

All but info are answered on threads of their own, so that no question, however large, keeps jobs waiting.
"""

from __future__ import annotations

import heapq
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from typing import Any

import msgspec
import structlog

import fastnl
from fastnl.netns import canonical
from fastnl_engine import wire
from fastnl_engine.backoff import Backoff
from fastnl_engine.config import Config
from fastnl_engine.engine import Engine
from fastnl_engine.events import Events
from fastnl_engine.judgement import ends_of
from fastnl_engine.model import Connection, Record, decode_connection

log = structlog.get_logger()

Rows = list[dict[str, Any]]
Answer = tuple[Rows, dict[str, Any]]  # the results of a reply, and what stands next to them

Question = wire.List | wire.EventsSince | wire.Verify | wire.Stats

WORST = 10  # of the namespaces that connections wait for, how many info names
PAGE_BYTES = 4 << 20  # of records in one reply of `list`, about; there is always one record at least
ROW_BYTES = 128  # of a record in a reply, beside what was submitted


class Lane:
    """A thread that answers questions one after the other.

    answered(ticket, reply)  is called on that thread; the results are in the ticket, too
    waiting                  asked and not sent back yet; kept by whoever sends
    """

    def __init__(self, name: str, answered: Callable[[Any, bytes], None]) -> None:
        self._answered = answered
        self._asked: queue.SimpleQueue[tuple[Any, Callable[[], Answer]] | None] = queue.SimpleQueue()
        self.waiting = 0
        self._thread = threading.Thread(target=self._main, name=name)
        self._thread.start()

    def put(self, ticket: Any, question: Callable[[], Answer]) -> None:
        self._asked.put((ticket, question))

    def stop(self) -> list[Any]:
        """Ends the thread after the question that it is at; gives the tickets of the others."""
        left = []
        while not self._asked.empty():
            asked = self._asked.get()
            if asked is not None:
                left.append(asked[0])
        self._asked.put(None)
        self._thread.join()
        return left

    def _main(self) -> None:
        while (asked := self._asked.get()) is not None:
            ticket, question = asked
            try:
                ticket.results, more = question()
                reply = wire.reply(ticket.id, ticket.results, **more)
            except Exception as e:
                log.exception("query failed", op=ticket.asked.op)
                reply = wire.refuse(wire.ProtocolError("internal", f"{type(e).__name__}: {e}", ticket.id))
            self._answered(ticket, reply)


class Queries:
    def __init__(self, engine: Engine, events: Events, config: Config) -> None:
        self._engine = engine
        self._events = events
        self._config = config
        self._started = time.time()

    def prepare(self, request: Question) -> Callable[[], Answer]:
        """What to run on another thread.  Records are replaced, never changed, so a copy of the list is enough."""
        match request:
            case wire.List():
                return self._list(request)
            case wire.EventsSince():
                return self._since(request)
        records = self._engine.records
        work = self._verify if isinstance(request, wire.Verify) else self._stats
        if request.ids is None:
            everything = list(dict.values(records))
            return lambda: (work([(record.id, record) for record in everything]), {})
        chosen = [(id_, records.get(id_)) for id_ in request.ids]
        return lambda: (work(chosen), {})

    def info(self) -> dict[str, Any]:
        states = Counter(map(attrgetter("state"), dict.values(self._engine.records)))
        return {
            "version": fastnl.__version__,
            "protocol": wire.VERSION,
            "instance": self._config.instance,
            "events": self._config.events,
            "state_dir": self._config.state_dir,
            "features": self._engine.host.features.as_dict(),
            "limits": {
                "frame_bytes": wire.MAX_FRAME,
                "items": wire.MAX_ITEMS,
                "queue": self._engine.queue,
            },
            "uptime": round(time.time() - self._started, 3),
            "connections": dict(states),
            "totals": dict(self._engine.totals),
            "load": self._engine.load,
            "waiting_for": [{"netns": n, "connections": count} for n, count in self._engine.upkeep.missing(WORST)],
            "errors": self._engine.metrics.errors(),
            "stages": self._engine.metrics.stages(),
        }

    def _list(self, request: wire.List) -> Callable[[], Answer]:
        """One page in the order of ids, and the id to go on after, None at the end."""
        records = self._engine.records
        candidates: Sequence[Record]
        if request.ids is not None:
            candidates = [records[id_] for id_ in dict.fromkeys(request.ids) if id_ in records]
        elif request.state or request.netns is not None or request.labels:
            candidates = list(dict.values(records))  # quickly, in one step; in their order are those that fit
        else:
            # one more than the page has tells that there are more
            following = records.irange(request.after, inclusive=(False, True))
            candidates = [records[id_] for id_ in islice(following, request.limit + 1)]
        return lambda: _page(request, candidates, self._engine.backoff)

    def _since(self, request: wire.EventsSince) -> Callable[[], Answer]:
        events = self._events
        rows = [{"ok": True, "event": body} for body in events.since(request.since, request.limit)]
        bounds = {"run": events.run, "oldest": events.oldest, "newest": events.newest}
        return lambda: (rows, bounds)

    def _verify(self, chosen: Sequence[tuple[str, Record | None]]) -> list[dict[str, Any]]:
        from fastnl.verify import verify

        up = [(id_, r) for id_, r in chosen if r is not None and r.state == "up"]
        verdicts = dict(
            zip((id_ for id_, _ in up), verify([r.wired() for _, r in up], alias=self._engine.host.alias), strict=True)
        )
        out = []
        for id_, record in chosen:
            if record is None:
                out.append(_unknown(id_))
            elif record.state != "up":
                difference = {"field": "state", "want": "up", "have": record.state}
                out.append({"id": id_, "ok": False, "differences": [difference]})
            else:
                found = verdicts[id_]
                differences = [{"field": d.field, "want": d.want, "have": d.have} for d in found.differences]
                out.append({"id": id_, "ok": found.ok, "differences": differences})
        return out

    def _stats(self, chosen: Sequence[tuple[str, Record | None]]) -> list[dict[str, Any]]:
        """Counters of both ends; each namespace is read once."""
        read: dict[str, dict[int, Any] | fastnl.FastnlError] = {}
        out = []
        for id_, record in chosen:
            if record is None:
                out.append(_unknown(id_))
                continue
            row: dict[str, Any] = {"id": id_, "ok": True, "state": record.state}
            connection = record.connection
            for name, end, place in zip("ab", (connection.a, connection.b), record.places, strict=False):
                if end is None:
                    continue
                links = self._read(end.netns, read)
                if isinstance(links, fastnl.FastnlError):
                    row.update(ok=False, error=links.as_dict())
                elif place.ifindex in links:
                    row[name] = links[place.ifindex]
                else:
                    row.update(
                        ok=False, error={"code": "kernel", "message": f"{name}: the interface is gone", "field": name}
                    )
            out.append(row)
        return out

    def _read(
        self, netns: str, read: dict[str, dict[int, Any] | fastnl.FastnlError]
    ) -> dict[int, Any] | fastnl.FastnlError:
        if netns not in read:
            try:
                rows = self._engine.host.links(netns, stats=True)
                read[netns] = {row.ifindex: {"ifname": row.ifname, "up": row.up, **(row.stats or {})} for row in rows}
            except fastnl.FastnlError as e:
                read[netns] = e
        return read[netns]


def row_of(record: Record) -> dict[str, Any]:
    """A record as `list` shows it: the connection as it was submitted, and how it stands."""
    row: dict[str, Any] = {"id": record.id, "ok": True, **msgspec.to_builtins(record.connection)}
    row["state"] = record.state
    row["since"] = record.since
    for name, end in ends_of(record).items():
        if name in ("a", "b"):
            row[name]["ifindex"] = end["ifindex"]
        else:
            row[name] = end
    return row


def _page(request: wire.List, candidates: Sequence[Record], backoff: Backoff) -> Answer:
    chosen = heapq.nsmallest(request.limit + 1, _matching(request, candidates), key=attrgetter("id"))
    rows: list[dict[str, Any]] = []
    size = 0
    for record in chosen[: request.limit]:
        size += len(record.spec) + len(record.reason) + ROW_BYTES
        if rows and size > PAGE_BYTES:
            break
        row = row_of(record)
        if record.state == "failed":
            tries, again = backoff.attempts(record.id)
            if tries:
                row.update(tries=tries, retry_at=round(again, 3))
        rows.append(row)
    return rows, {"after": rows[-1]["id"] if len(rows) < len(chosen) else None}


def _matching(request: wire.List, candidates: Sequence[Record]) -> Iterator[Record]:
    netns = canonical_or_none(request.netns)
    labels = request.labels or {}
    # a record that does not even hold these words need not be decoded
    words = [word.encode() for word in (netns or "", *labels, *labels.values()) if word]
    for record in candidates:
        if request.after is not None and record.id <= request.after:
            continue
        if request.state is not None and record.state != request.state:
            continue
        if netns is not None or labels:
            if not all(word in record.spec for word in words):
                continue
            if not _fits(decode_connection(record.spec), netns, labels):
                continue
        yield record


def _fits(connection: Connection, netns: str | None, labels: dict[str, str]) -> bool:
    if any(connection.labels.get(key) != value for key, value in labels.items()):
        return False
    ends = (connection.a, connection.b)
    return netns is None or netns in (canonical_or_none(end.netns) for end in ends if end is not None)


def canonical_or_none(reference: str | None) -> str | None:
    try:
        return None if reference is None else canonical(reference)
    except fastnl.InvalidValue:
        return reference


def _unknown(id_: str) -> dict[str, Any]:
    error = {"code": "unknown_id", "message": f"id: there is no connection {id_!r}", "field": "id"}
    return {"id": id_, "ok": False, "error": error}
