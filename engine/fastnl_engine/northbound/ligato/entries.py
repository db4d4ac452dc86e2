"""One value of the configuration, kept whether it makes sense or not, and the ids that are made of names."""

from __future__ import annotations

import hashlib

from fastnl.links import MAX_ID
from fastnl_engine.northbound.ligato.claims import Rank
from fastnl_engine.northbound.ligato.decode import decode
from fastnl_engine.northbound.ligato.keys import Key
from fastnl_engine.northbound.ligato.model import AfPacket, Interface, Value
from fastnl_engine.northbound.ligato.status import ValueState, Verdict
from fastnl_engine.northbound.ligato.text import DecodeError


class Entry:
    """`value` is None for what is invalid, as `verdict` says, and for what is nobody's business (`ours` False).

    name    logical name that the value goes by; rank: who comes first among several of one name
    since   what orders the values by age
    barred  the verdict on a route or neighbour that the kernel refused: it is left out until it is tried again
    """

    __slots__ = ("barred", "key", "name", "ours", "remarks", "since", "value", "verdict")

    def __init__(self, key: Key, raw: bytes, since: int) -> None:
        self.key = key
        self.since = since
        self.value: Value | None = None
        self.remarks: tuple[str, ...] = ()
        self.verdict: Verdict | None = None
        self.barred: Verdict | None = None
        self.ours = True
        self.name = key.name
        try:
            self.value, remarks = decode(key, raw)
        except DecodeError as e:
            state = ValueState.UNIMPLEMENTED if key.kind == "other" else ValueState.INVALID
            self.verdict = Verdict(state, str(e))
            return
        self.remarks = tuple(map(str, remarks))
        self.ours = self.value is not None
        if isinstance(self.value, Interface | AfPacket):
            self.name = self.value.name

    @property
    def text(self) -> str:
        return self.key.text

    @property
    def rank(self) -> Rank:
        """Of those that configure one name: v3 before v1, then the key of that name, then the older."""
        return (self.key.layout == "v1", self.name != self.key.name, self.since, self.text)

    @property
    def interface(self) -> Interface | None:
        return self.value if isinstance(self.value, Interface) else None

    def same_as(self, other: Entry) -> bool:
        return (
            self.value == other.value
            and self.since == other.since
            and self.verdict == other.verdict
            and self.remarks == other.remarks
        )


def connection_id(label: str, *names: str) -> str:
    """The id of the connection of one interface or of a pair, the same in whatever order it is named."""
    id = f"ligato/{_escaped(label)}/" + "+".join(sorted(map(_escaped, names)))
    if len(id.encode()) > MAX_ID:
        return "ligato/#" + hashlib.sha256(id.encode()).hexdigest()
    return id


def _escaped(name: str) -> str:
    # "a+b" and "c" must not be "a" and "b+c"
    return name.replace("%", "%25").replace("+", "%2B").replace("#", "%23")
