"""The verdict on every value, which of them changed, and what was done last."""

from __future__ import annotations

from msgspec.structs import replace

from fastnl_engine.northbound.ligato.entries import Entry
from fastnl_engine.northbound.ligato.model import Interface, Value
from fastnl_engine.northbound.ligato.status import Operation, ValueState, Verdict


class Ledger:
    """By key."""

    def __init__(self) -> None:
        self._verdicts: dict[str, Verdict] = {}
        self._changed: dict[str, Verdict | None] = {}
        self._applied: dict[str, Value | None] = {}  # values as they were when a connection last had them

    def say(self, entry: Entry, verdict: Verdict | None) -> None:
        """A verdict on a value; None, or what is wrong with the value itself comes first: the entry's own."""
        verdict = entry.verdict or verdict
        assert verdict is not None
        before = self._verdicts.get(entry.text)
        operation, note = self._done(entry, verdict, before)
        verdict = replace(verdict, remarks=entry.remarks, operation=operation, note=note)
        if before != verdict or (before.operation, before.note) != (operation, note):
            self._verdicts[entry.text] = self._changed[entry.text] = verdict

    def forget(self, text: str) -> None:
        """The value is deleted."""
        self._applied.pop(text, None)
        if self._verdicts.pop(text, None) is not None:
            self._changed[text] = None

    def take_changes(self) -> dict[str, Verdict | None]:
        out, self._changed = self._changed, {}
        return out

    def all(self) -> dict[str, Verdict]:
        return dict(self._verdicts)

    def _done(self, entry: Entry, verdict: Verdict, before: Verdict | None) -> tuple[Operation, str]:
        """The last operation on a value, and what it meant besides."""
        if verdict.state in (ValueState.INVALID, ValueState.UNIMPLEMENTED):
            return Operation.VALIDATE, ""
        if verdict.state is not None:
            if before is None or before.operation is Operation.VALIDATE:
                return Operation.UNDEFINED, ""
            return (Operation.DELETE if before.state is None else before.operation), ""
        applied = self._applied.get(entry.text)
        self._applied[entry.text] = entry.value
        if isinstance(applied, Interface) and entry.interface and applied.type != entry.interface.type:
            note = f"type changed from {applied.type_name} to {entry.interface.type_name}: made anew"
            return Operation.CREATE, note
        if before is None or before.state is not None or before.connection != verdict.connection:
            return Operation.CREATE, ""
        return (before.operation, before.note) if applied == entry.value else (Operation.UPDATE, "")
