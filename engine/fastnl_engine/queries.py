"""Questions: list and info from memory, verify and stats from the kernel."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

import fastnl
from fastnl.netns import canonical
from fastnl_engine import wire
from fastnl_engine.config import Config
from fastnl_engine.engine import Engine, ends_of
from fastnl_engine.model import Record


class Queries:
    def __init__(self, engine: Engine, config: Config) -> None:
        self._engine = engine
        self._config = config
        self._started = time.time()

    def answer(self, request: wire.Info | wire.List) -> bytes:
        """From memory, at once."""
        if isinstance(request, wire.Info):
            return wire.reply(request.id, [{"ok": True, **self.info()}])
        rows, after = self._list(request)
        return wire.reply(request.id, rows, after=after)

    def info(self) -> dict[str, Any]:
        states: dict[str, int] = {}
        for record in self._engine.records.values():
            states[record.state] = states.get(record.state, 0) + 1
        return {
            "version": fastnl.__version__,
            "protocol": wire.VERSION,
            "instance": self._config.instance,
            "features": self._engine.host.features.as_dict(),
            "limits": {
                "frame_bytes": wire.MAX_FRAME,
                "items": wire.MAX_ITEMS,
                "queue": self._engine.queue,
            },
            "uptime": round(time.time() - self._started, 3),
            "connections": states,
            "totals": dict(self._engine.totals),
            "load": self._engine.load,
        }

    def _list(self, request: wire.List) -> tuple[list[dict[str, Any]], str | None]:
        """One page in the order of ids, and the id to go on after, None at the end."""
        records = self._engine.records
        wanted = records if request.ids is None else {i for i in request.ids if i in records}
        netns = canonical_or_none(request.netns)
        rows: list[dict[str, Any]] = []
        for id_ in sorted(i for i in wanted if request.after is None or i > request.after):
            row = row_of(records[id_])
            if _matches(row, request, netns):
                if len(rows) == request.limit:
                    return rows, rows[-1]["id"]
                rows.append(row)
        return rows, None

    def prepare(self, request: wire.Verify | wire.Stats) -> Callable[[], list[dict[str, Any]]]:
        """What to run on another thread: records are replaced, never changed, so a copy of the list is enough."""
        records = self._engine.records
        ids = list(records) if request.ids is None else request.ids
        chosen = [(id_, records.get(id_)) for id_ in ids]
        work = self._verify if isinstance(request, wire.Verify) else self._stats
        return lambda: work(chosen)

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


def _matches(row: dict[str, Any], request: wire.List, netns: str | None) -> bool:
    if request.state is not None and row["state"] != request.state:
        return False
    if request.labels and any(row.get("labels", {}).get(k) != v for k, v in request.labels.items()):
        return False
    if netns is not None:
        return netns in (canonical_or_none(row[end]["netns"]) for end in ("a", "b") if end in row)
    return True


def canonical_or_none(reference: str | None) -> str | None:
    try:
        return None if reference is None else canonical(reference)
    except fastnl.InvalidValue:
        return reference


def _unknown(id_: str) -> dict[str, Any]:
    error = {"code": "unknown_id", "message": f"id: there is no connection {id_!r}", "field": "id"}
    return {"id": id_, "ok": False, "error": error}
