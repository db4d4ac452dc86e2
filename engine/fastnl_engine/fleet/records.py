"""What the keys of a fleet hold, as JSON, which people can read with etcdctl."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec
import structlog

from fastnl_engine.kv.base import Entry
from fastnl_engine.model import Connection, EndSpec

T = TypeVar("T")

log = structlog.get_logger()


class Host(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where the tunnels of a host end.

    address   v4 or v6
    mtu       bytes of a packet there
    identity  of the engine's state folder: tells two engines of the same name from one that was started again
    """

    address: str
    mtu: int
    identity: str
    version: str = ""

    @property
    def family(self) -> int:
        return 6 if ":" in self.address else 4


class Alive(msgspec.Struct, frozen=True):
    identity: str
    since: float


class Agreed(msgspec.Struct, frozen=True, omit_defaults=True):
    """A connection of the fleet.

    spec        as it was submitted
    generation  counts its changes, from 1
    token       of the job that made this generation
    hosts       that may have something of it
    vni         of its tunnel, 0 if it has none; `spent`: numbers that it had before.  They are its own until it ends:
                somebody may have an interface with them yet
    """

    spec: Connection
    generation: int
    token: str
    hosts: list[str]
    vni: int = 0
    port: int = 0
    spent: list[int] = []
    removing: bool = False

    def __post_init__(self) -> None:
        # which all that reads one relies on, and somebody may have put another here
        if self.spec.b is None or not (self.spec.a.host and self.spec.b.host):
            raise ValueError("a connection of the fleet has two ends, each with its host")

    @property
    def wanted(self) -> Connection | None:
        return None if self.removing else self.spec

    @property
    def ends(self) -> dict[str, str]:
        """The host of each end; none while it is removed."""
        assert self.spec.b is not None
        return {} if self.removing else {"a": self.spec.a.host, "b": self.spec.b.host}


class Half(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one host has to do for a connection.

    home      the host whose desk has asked for this and wants to hear
    a, b      the ends that are here: one of them, or both; none: what is here has to go
    peer      host of the other end
    ending    the connection itself ends with its last half: its numbers `vnis` are given back then
    others    hosts whose halves have to be gone before
    """

    generation: int
    home: str
    a: EndSpec | None = None
    b: EndSpec | None = None
    mtu: int | None = None
    labels: dict[str, str] = {}
    vni: int = 0
    port: int = 0
    peer: str = ""
    ending: bool = False
    others: list[str] = []
    vnis: list[int] = []

    @property
    def removing(self) -> bool:
        return self.a is None and self.b is None


OutcomeState = Literal["up", "pending", "failed", "gone"]


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a half: of which generation, and where its interfaces are ({"a": {ifindex, ifname}})."""

    generation: int
    state: OutcomeState
    ends: dict[str, dict[str, Any]] = {}
    reason: str = ""
    error: dict[str, Any] | None = None


class News(msgspec.Struct, frozen=True, array_like=True):
    """What a host made of a connection, among others that are told together."""

    id: str
    host: str
    outcome: Outcome


class Removed(msgspec.Struct, frozen=True):
    at: float
    by: str


encode = msgspec.json.Encoder().encode
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}


def decode(kind: type[T], entry: Entry | None) -> T | None:
    """None where there is no key, or where somebody else has put something there that is none of ours."""
    if entry is None:
        return None
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.json.Decoder(kind)
    try:
        found: T = decoder.decode(entry.value)
    except msgspec.DecodeError as e:
        log.error("key is not readable", key=entry.key, reason=str(e))
        return None
    return found
