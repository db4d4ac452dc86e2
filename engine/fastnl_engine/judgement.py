"""What an action has come to: for the store, and for whoever asked for it."""

from __future__ import annotations

import errno
import time
from dataclasses import replace
from typing import Any

import fastnl
from fastnl_engine.model import Record
from fastnl_engine.planner import Action
from fastnl_engine.store.base import Outcome

NETNS_ERRORS = (fastnl.NetnsNotFound, fastnl.NetnsGone)
WAITED_FOR_ERRORS = (*NETNS_ERRORS, fastnl.IfnameNotFound)


def may_succeed_now(action: Action) -> bool:
    """Whether something was refused that another action may have given up a moment later."""
    error = action.result.error if action.result is not None else None
    # the second: a UDP port is one tunnel's, or those tunnels' that receive alike
    taken = error is not None and (
        isinstance(error, fastnl.NameInUse) or error.errno in (errno.EEXIST, errno.EADDRINUSE)
    )
    return taken and not action.job.again


def judge(action: Action) -> Outcome | None:
    """What is to be remembered after an action.  Called behind the kernel; changes nothing."""
    outcome = _outcome(action)
    return outcome and replace(outcome, foretold=_is_foretold(action, outcome.record))


def _is_foretold(action: Action, record: Record | None) -> bool:
    """Whether a record is what the intent of its action said that it would be; see `resume.presume`."""
    if action.verb == "remove":
        return (record is None) == (action.job.op == "disconnect")
    return record is not None and record.state == "up" and record.spec == action.spec


def _outcome(action: Action) -> Outcome | None:
    job, result, old = action.job, action.result, action.record
    if action.verb == "nothing":
        return None
    if action.verb == "forget":
        return Outcome(job.id, None)
    assert result is not None
    if action.verb == "remove":
        if result.error is None and job.op == "suspend" and old is not None:
            return Outcome(job.id, Record(job.id, old.spec, "pending", reason=job.reason, since=time.time()))
        return Outcome(job.id, None if result.error is None else old)
    if result.error is None and result.wired is not None:
        return Outcome(job.id, Record(job.id, action.spec, "up", result.wired.places, since=time.time()))
    error = result.error
    assert error is not None
    if isinstance(error, WAITED_FOR_ERRORS) and (job.wait or job.op == "retry"):
        if result.wired is None:
            waits = Record(job.id, action.spec, "pending", reason=error.message, since=time.time())
            if isinstance(error, fastnl.IfnameNotFound):
                waits.error = error.as_dict()
            return Outcome(job.id, waits)
    elif job.op == "retry":
        # what a mending could not take away is still there, and ours
        left = result.wired.places if result.wired else ()
        return Outcome(job.id, Record(job.id, action.spec, "failed", left, error=error.as_dict(), since=time.time()))
    if action.verb == "create":
        return Outcome(job.id, old)
    assert old is not None
    if action.verb == "mend":
        failure = Record(job.id, old.spec, "failed", result.wired.places if result.wired else (), since=time.time())
        failure.error = error.as_dict()
        return Outcome(job.id, failure)
    if result.wired is None:
        # the change failed and could not be taken back: nothing is in the kernel any more
        return Outcome(job.id, Record(job.id, old.spec, "failed", error=error.as_dict(), since=time.time()))
    if result.wired.places == old.places:
        return Outcome(job.id, old)  # the very same: what somebody has just found out about it still holds
    made_again = Record(job.id, old.spec, old.state, result.wired.places, old.reason, old.error, old.since)
    return Outcome(job.id, made_again)


def result_of(action: Action, record: Record | None) -> dict[str, Any]:
    """One item of a reply."""
    job = action.job
    error = action.error or (action.result.error if action.result is not None else None)
    waits = job.wait and isinstance(error, WAITED_FOR_ERRORS) and record is not None and record.state == "pending"
    if error is not None and not waits:
        return {"id": job.id, "ok": False, "error": error.as_dict()}
    if job.op == "pass":
        return {"id": job.id, "ok": True}
    if job.op == "disconnect":
        changed = action.verb == "forget" or (action.verb == "remove" and action.result is not None)
        return {"id": job.id, "ok": True, "changed": changed}
    assert record is not None
    changed = action.verb != "nothing" and (action.result is None or action.result.changed or record.state == "pending")
    return {"id": job.id, "ok": True, "state": record.state, "changed": changed, **ends_of(record)}


def ends_of(record: Record) -> dict[str, Any]:
    """Where the ends are, and why they are not."""
    out: dict[str, Any] = {}
    if record.places:
        connection = record.connection
        for name, end, place in zip("ab", (connection.a, connection.b), record.places, strict=False):
            if end is not None:
                out[name] = {"ifindex": place.ifindex, "ifname": end.ifname}
    if record.reason:
        out["reason"] = record.reason
    if record.error:
        out["error"] = record.error
    return out
