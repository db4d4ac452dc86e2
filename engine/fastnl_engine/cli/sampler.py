"""Looks at the engine again and again: what `top` shows, as numbers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fastnl_engine.cli import rates
from fastnl_engine.cli.talk import Result
from fastnl_engine.client import Client, NoEngine

NOT_WELL = 1000  # records that are failed or pending and looked at for their reasons
MOST = 10_000  # connections whose counters are asked for: one request's worth
SHARE = 0.1  # of the time in which the engine may be busy with our larger questions
BUSY = 50  # connections that are kept as the busiest


@dataclass(slots=True)
class Busy:
    """Bytes and packets a second from end a and to it, and what was lost at either end."""

    id: str
    out_bytes: float
    in_bytes: float
    out_packets: float
    in_packets: float
    lost: float


@dataclass(slots=True)
class Sample:
    """One look; what needs two looks is None or empty in the first.

    rates         a second, by the names of `totals`
    cycle_items   jobs that shared a cycle
    unwell        how many records by (state, error code or "")
    stages        by stage of a cycle the seconds that half and 99 of 100 stayed below, since the look before
    errors        items that failed and requests that were refused, by code, since the look before
    problem       why this look failed; then everything else is as it was
    """

    info: Result = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    cycle_items: float | None = None
    unwell: dict[tuple[str, str], int] = field(default_factory=dict)
    stages: dict[str, tuple[float, float]] = field(default_factory=dict)
    errors: dict[str, int] | None = None
    busiest: list[Busy] = field(default_factory=list)
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        out = asdict(self)
        out["unwell"] = [{"state": s, "code": c, "count": n} for (s, c), n in self.unwell.items()]
        out["info"] = {k: v for k, v in self.info.items() if k != "ok"}
        return out


class Sampler:
    def __init__(self, client: Client) -> None:
        self._client = client
        self.last = Sample()
        self._at = 0.0
        self._counters: list[Result] = []
        self._counted = 0.0
        self._next_query = 0.0

    def look(self) -> Sample:
        """Raises NoEngine at the first look only."""
        try:
            sample = self._look()
        except NoEngine as e:
            if not self.last.info:
                raise
            self.last.problem = str(e)
            return self.last
        self.last = sample
        return sample

    def _look(self) -> Sample:
        info = self._client.info()
        now = time.monotonic()
        sample = Sample(info, unwell=self.last.unwell, busiest=self.last.busiest)
        old = self.last.info
        if old and info["uptime"] >= old["uptime"]:
            sample.rates = rates.per_second(old["totals"], info["totals"], now - self._at)
            sample.stages = stages(old["stages"], info["stages"])
            sample.errors = errors(old["errors"], info["errors"])
        if sample.rates.get("cycles"):
            sample.cycle_items = sum(v for k, v in sample.rates.items() if k != "cycles") / sample.rates["cycles"]
        self._at = now
        if now >= self._next_query:
            rated = bool(self._counters)
            sample.unwell = self._unwell(info["connections"])
            self._count(sample)
            asked = time.monotonic() - now
            # rates need a second look, however long the first one took
            self._next_query = now + asked / SHARE if rated else now
        return sample

    def _unwell(self, states: Mapping[str, int]) -> dict[tuple[str, str], int]:
        found: Counter[tuple[str, str]] = Counter()
        for state in ("failed", "pending"):
            if states.get(state):
                reply = self._client.request("list", state=state, limit=NOT_WELL)
                for record in reply.get("results", ()):
                    found[state, record.get("error", {}).get("code", "")] += 1
        return dict(found.most_common())

    def _count(self, sample: Sample) -> None:
        """The busiest connections."""
        if sum(sample.info["connections"].values()) > MOST:
            return
        new, now = self._client.stats(), time.monotonic()
        if self._counters:
            sample.busiest = busiest(rates.of_ends(self._counters, new, now - self._counted))
        self._counters, self._counted = new, now


def busiest(rated: Sequence[Result]) -> list[Busy]:
    found = []
    for row in rated:
        a, b = row.get("a", {}), row.get("b", {})
        if "tx_bytes" not in a:
            continue
        lost = sum(e.get(n, 0.0) for e in (a, b) for n in ("rx_errors", "tx_errors", "rx_dropped", "tx_dropped"))
        if a["tx_bytes"] or a["rx_bytes"] or lost:
            found.append(Busy(row["id"], a["tx_bytes"], a["rx_bytes"], a["tx_packets"], a["rx_packets"], lost))
    return sorted(found, key=lambda b: (-(b.out_bytes + b.in_bytes), b.id))[:BUSY]


def stages(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Of every stage that something went through between two looks: (median, 99th percentile)."""
    found = {}
    for stage, now in new.items():
        before = old.get(stage, {"count": 0, "within": [(bound, 0) for bound, _ in now["within"]]})
        steps = [(bound, n - o) for (bound, n), (_, o) in zip(now["within"], before["within"], strict=True)]
        steps.append((float("inf"), now["count"] - before["count"]))
        if steps[-1][1] > 0:
            found[stage] = (quantile(steps, 0.5), quantile(steps, 0.99))
    return found


def quantile(steps: Sequence[tuple[float, float]], q: float) -> float:
    """From (upper bound, how many are at or below it), as Prometheus does it."""
    wanted = q * steps[-1][1]
    below, count = 0.0, 0.0
    for bound, so_far in steps:
        if so_far >= wanted:
            if bound == float("inf"):
                return below
            return below + (bound - below) * (wanted - count) / (so_far - count) if so_far > count else bound
        below, count = bound, so_far
    return below


def errors(old: Mapping[str, int], new: Mapping[str, int]) -> dict[str, int]:
    """How many since the look before, by code."""
    more = {code: count - old.get(code, 0) for code, count in new.items() if count > old.get(code, 0)}
    return dict(sorted(more.items(), key=lambda pair: (-pair[1], pair[0])))
