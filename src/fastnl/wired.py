"""What connect gives and the other calls take: connections that the kernel holds, and results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastnl.errors import FastnlError
from fastnl.links import Connection
from fastnl.netns import Identity


@dataclass(frozen=True, slots=True)
class Place:
    """Where one end really is: index of the interface and identity of its namespace."""

    ifindex: int
    netns: Identity


@dataclass(frozen=True, slots=True)
class Wired:
    """A connection that the kernel holds; `places` are in the order of `connection.ends`."""

    connection: Connection
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one connection: `wired`, or `error` and nothing left of it."""

    wired: Wired | None = None
    error: FastnlError | None = None
    changed: bool = True

    @property
    def ok(self) -> bool:
        return self.error is None


@dataclass(frozen=True, slots=True)
class Move:
    """Takes one end (0: a, 1: b) of a wired connection to another namespace.

    mode "move" moves the interface itself, which keeps its MAC, index and counters and costs milliseconds;
    "recreate" makes the connection anew with the end in its new place, which waits for far less.
    """

    wired: Wired
    end: int
    netns: str
    mode: Literal["move", "recreate"] = "move"
