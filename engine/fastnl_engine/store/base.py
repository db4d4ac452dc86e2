"""What a store has to do, whatever it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fastnl_engine.model import Record


@dataclass(frozen=True, slots=True)
class Intent:
    """What was about to be done to a connection when the engine stopped, if it stopped.

    verb "create", "update", "move", "mend", "remove" or "suspend", a removal that leaves the connection waiting; spec:
    what it was to become, b"" for a removal; indexes: of the interfaces to be created.
    """

    id: str
    verb: str
    spec: bytes
    indexes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is to be remembered of a connection from now on; record None: nothing.

    foretold: its intent says as much, so it need not survive a power cut if that does.
    """

    id: str
    record: Record | None
    foretold: bool = False


class StoreError(Exception):
    """The store cannot be used; the message says why and what to do."""


class Store(Protocol):
    """One thread at a time may use it, and another one `sync` meanwhile.

    durable: whether anything survives a power cut for certain.
    """

    @property
    def durable(self) -> bool: ...

    def load(self) -> tuple[list[Record], list[Intent]]:
        """Every record, and the intents whose outcome was never written."""

    def intend(self, intents: Sequence[Intent]) -> None:
        """Remembers what is about to be done, so that kill -9 leaves nothing unknown.

        Raises StoreError when it cannot be written, as on a full disk; then nothing of it is.
        """

    def sync(self) -> None:
        """Waits until what was intended before survives a power cut.  Raises StoreError."""

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Remembers what was done and forgets the intents.

        Survives a power cut when this returns; only where all of it was foretold the intents may come back.

        Raises StoreError when it cannot be written; then nothing of it is.
        """

    def meta(self, key: str, value: str | None = None) -> str | None:
        """Reads a word about the whole store, or writes it."""

    def close(self) -> None: ...
