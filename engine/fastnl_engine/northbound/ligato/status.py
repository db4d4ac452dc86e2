"""What becomes of a value: what its configuration alone says of it, and that completed by what the engine says.

Words and numbers of states and operations are those of Ligato's scheduler, so that its tools can read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, NamedTuple

import msgspec


class ValueState(IntEnum):
    NONEXISTENT = 0
    MISSING = 1
    UNIMPLEMENTED = 2
    REMOVED = 3
    CONFIGURED = 4
    OBTAINED = 5
    DISCOVERED = 6
    PENDING = 7
    INVALID = 8
    FAILED = 9
    RETRYING = 10


class Operation(IntEnum):
    UNDEFINED = 0
    VALIDATE = 1
    CREATE = 2
    UPDATE = 3
    DELETE = 4


# codes of errors that no repetition mends, as the value is at fault; with all others the engine tries again by itself
INVALID = ("invalid", "bad_request", "too_large")


class Unmet(NamedTuple):
    """A dependency that does not hold: its label, as Ligato has it where it has one, and which and why."""

    label: str
    text: str

    def __str__(self) -> str:
        return f"{self.label}: {self.text}"


class Verdict(msgspec.Struct, frozen=True, eq=False):
    """What configuration says of a value.

    state        PENDING, INVALID, FAILED or UNIMPLEMENTED; None: nothing is in the way, ask the engine
    error, unmet     why not
    remarks      what is odd in the value
    connection   id of the engine's connection that it is part of, "" without; path: where in it, "a.routes[0]"
    namespaces   that the connection needs, as references
    operation    the last one; note: what it meant besides.  Both tell of the way here, so they do not compare.
    """

    state: ValueState | None
    error: str = ""
    unmet: tuple[Unmet, ...] = ()
    remarks: tuple[str, ...] = ()
    connection: str = ""
    path: str = ""
    namespaces: tuple[str, ...] = ()
    operation: Operation = Operation.UNDEFINED
    note: str = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Verdict) and self._meaning == other._meaning

    __hash__ = None  # type: ignore[assignment]

    @property
    def _meaning(self) -> tuple[object, ...]:
        return self.state, self.error, self.unmet, self.remarks, self.connection, self.path, self.namespaces

    @property
    def reason(self) -> str:
        """In one line, for those who depend on it."""
        why = self.error or "; ".join(u.text for u in self.unmet)
        return f"{self.state.name}: {why}" if self.state is not None and why else ""


def pending(label: str, text: str) -> Verdict:
    return Verdict(ValueState.PENDING, unmet=(Unmet(label, text),))


def failed(error: str) -> Verdict:
    return Verdict(ValueState.FAILED, error)


class ValueStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is published; `state` and `last_operation` by name."""

    key: str
    state: str = "NONEXISTENT"
    error: str = ""
    last_operation: str = "UNDEFINED"
    details: tuple[str, ...] = ()

    def json(self, interface: object = None) -> bytes:
        """As Ligato publishes it: the value's own status, without derived ones; `interface` is an addition."""
        return msgspec.json.encode({"value": self} | ({"interface": interface} if interface is not None else {}))


def settle(key: str, verdict: Verdict, record: Mapping[str, Any] | None) -> ValueStatus:
    """The status of the value under `key`.

    `record` is what the engine says of verdict.connection: state, reason, error as `list` gives them; None while
    it has not said anything.
    """
    details = [str(u) for u in verdict.unmet]
    state, error = verdict.state, verdict.error
    if state is None:
        state, error, found = _of_record(verdict, record or {"state": "pending", "reason": "not yet asked for"})
        details += found
    details += verdict.remarks
    if verdict.note:
        details.append(verdict.note)
    # also what only the engine could find out
    operation = Operation.VALIDATE if state is ValueState.INVALID else verdict.operation
    return ValueStatus(key, state.name, error, operation.name, tuple(details))


def blamed(verdict: Verdict, error: Mapping[str, Any]) -> Verdict | None:
    """The verdict on a part of a connection that alone is why all of it failed; None: it is not."""
    field = str(error.get("field") or "")
    if verdict.path in ("", "a", "b") or not f"{field}.".startswith(f"{verdict.path}."):
        return None
    state, message, _ = _of_record(verdict, {"state": "failed", "error": error})
    return Verdict(state, message)


def _of_record(verdict: Verdict, record: Mapping[str, Any]) -> tuple[ValueState, str, list[str]]:
    if record["state"] == "up":
        return ValueState.CONFIGURED, "", []
    reason = str(record.get("reason") or "")
    if record["state"] != "failed":
        for namespace in verdict.namespaces:
            if namespace.startswith("microservice:") and namespace in reason:
                return ValueState.PENDING, "", [f"microservice-available: {reason}"]
        return ValueState.PENDING, "", [reason] if reason else []
    error = record.get("error") or {}
    message = str(error.get("message") or reason or "failed")
    field = str(error.get("field") or "")
    whole = verdict.path in ("a", "b")
    if not whole and not f"{field}.".startswith(f"{verdict.path}."):
        # a route of an interface that fails for another reason only waits for it
        return ValueState.PENDING, "", [f"outgoing-interface-is-up: {message}"]
    code = error.get("code")
    if code in INVALID and whole and field.partition(".")[0] in {"a", "b"} - {verdict.path}:
        return ValueState.PENDING, "", [f"veth-peer-exists: {message}"]
    if code in INVALID:
        return ValueState.INVALID, message, []
    return (ValueState.FAILED if code == "conflict" else ValueState.RETRYING), message, []
