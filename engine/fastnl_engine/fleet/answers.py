"""How a connection of the fleet stands, as replies and lists tell it.  Nothing of it is stored: it follows from the
connection, the outcomes of its hosts, and which hosts are alive.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import msgspec

from fastnl_engine.fleet.records import Agreed, Outcome

Outcomes = Mapping[str, Outcome | None]  # by host


def state_of(agreed: Agreed, outcomes: Outcomes, alive: Container[str]) -> tuple[str, str, dict[str, Any] | None]:
    """State, reason and error.

    degraded   it is up, but the engine of one of its hosts does not answer: what is up stays up, and nobody mends it
    """
    if agreed.removing:
        waits = [host for host in agreed.hosts if host not in alive]
        return "removing", f"host {waits[0]} is away; its half goes when it is back" if waits else "", None
    pending: list[str] = []
    away: list[str] = []
    for end, host in agreed.ends.items():
        outcome = _current(agreed, outcomes, host)
        if outcome is not None and outcome.state == "failed":
            return "failed", "", error_of(agreed, end, outcome)
        if host not in alive:
            away.append(host)
            if outcome is None:
                pending.append(f"{end}: host {host} is away")
        elif outcome is None:
            pending.append(f"{end}: host {host} is at work on it")
        elif outcome.state != "up":
            pending.append(f"on host {host}: {outcome.reason}")
    if pending:
        return "pending", pending[0], None
    return ("degraded", f"host {away[0]} is away", None) if away else ("up", "", None)


def error_of(agreed: Agreed, end: str, outcome: Outcome) -> dict[str, Any]:
    """Of an end that is not up, with its field as the connection has it, and its host."""
    host = agreed.ends[end]
    error = {"code": "internal", "message": ""}  # of one that somebody else has written
    error |= outcome.error or {"code": "netns_not_found", "message": outcome.reason}
    if outcome.error is None:  # it waits: the reason begins with the path of what it waits for
        error["field"] = outcome.reason.partition(":")[0]
    error["message"] = f"on host {host}: {error['message']}"
    return error | {"host": host}


def ends_of(agreed: Agreed, outcomes: Outcomes) -> dict[str, dict[str, Any]]:
    out = {}
    for end, host in agreed.ends.items():
        outcome = _current(agreed, outcomes, host)
        found = dict(outcome.ends.get(end, {})) if outcome is not None else {}
        out[end] = {"host": host, **found}
    return out


def row_of(id_: str, agreed: Agreed, outcomes: Outcomes, alive: Container[str]) -> dict[str, Any]:
    """A connection as `list` shows it."""
    row: dict[str, Any] = {"id": id_, "ok": True, **msgspec.to_builtins(agreed.spec)}
    row["state"], reason, error = state_of(agreed, outcomes, alive)
    for end, found in ends_of(agreed, outcomes).items():
        row[end] |= found
    if agreed.vni:
        row["vni"] = agreed.vni
    if reason:
        row["reason"] = reason
    if error:
        row["error"] = error
    return row


def _current(agreed: Agreed, outcomes: Outcomes, host: str) -> Outcome | None:
    outcome = outcomes.get(host)
    return outcome if outcome is not None and outcome.generation == agreed.generation else None
