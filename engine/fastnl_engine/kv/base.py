"""What a store of keys and values has to do, whatever it is made of.

Keys are text; bytes that are not UTF-8 come and go as surrogates (PEP 383), so no key of others is lost.
The store counts its changes: a revision is the number of one, and everything that one request changes
has the same.  A prefix is plain text at the beginning of a key: end it with "/" to mean a folder; "" is everything.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, Self

OPS = 128  # what a transaction may hold: etcd's own default (--max-txn-ops)

# -- values ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """A key with its value.

    create_revision, mod_revision   when it was made and when it was last put
    version                         how often it was put since it was made
    lease                           the lease that it goes with; 0: none
    """

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything under a prefix at one revision, in the order of the keys."""

    prefix: str
    revision: int
    entries: Mapping[str, Entry]


@dataclass(frozen=True, slots=True)
class Event:
    """A key that was put, or deleted (entry None), at a revision."""

    key: str
    entry: Entry | None
    revision: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What a watch has to tell: with these events applied, a copy is as the store was at `revision`.

    reread: found by reading everything, as at the start and after a gap, so each key comes once and what was
    between is not known.
    """

    revision: int
    events: Sequence[Event]
    reread: bool = False


# -- transactions ------------------------------------------------------------------------------------

Target = Literal["version", "create_revision", "mod_revision", "value", "lease"]
Relation = Literal["=", "!=", "<", ">"]


@dataclass(frozen=True, slots=True)
class Compare:
    """A condition on one key.  A key that is not there has version, revisions and lease 0, and no value compares."""

    key: str
    target: Target
    relation: Relation
    operand: int | bytes


def absent(key: str) -> Compare:
    """The key is not there."""
    return Compare(key, "version", "=", 0)


def unchanged(entry: Entry) -> Compare:
    """Nobody has put or deleted the key since it was read."""
    return Compare(entry.key, "mod_revision", "=", entry.mod_revision)


@dataclass(frozen=True, slots=True)
class Get:
    """Its result is the Entry, or None."""

    key: str


@dataclass(frozen=True, slots=True)
class Put:
    """Its result is None."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Its result is how many keys there were: 0 or 1."""

    key: str


@dataclass(frozen=True, slots=True)
class DeletePrefix:
    """Its result is how many keys there were."""

    prefix: str


Op = Get | Put | Delete | DeletePrefix
OpResult = Entry | int | None


@dataclass(frozen=True, slots=True)
class TxnResult:
    """succeeded: which branch was taken; results: one for each operation of that branch."""

    succeeded: bool
    revision: int
    results: Sequence[OpResult]


# -- errors ------------------------------------------------------------------------------------------


class KVError(Exception):
    """Something about the store failed; the message names the endpoint or file, and what to do."""


class Unavailable(KVError):
    """Nobody answered in time.  Nothing was changed; trying again later is right."""


class OutcomeUnknown(KVError):
    """The connection broke after the request was sent: it may have been done or not.  Read, then decide."""


class Denied(KVError):
    """User, password, certificate or role does not allow it; trying again does not help."""


class Refused(KVError):
    """The store does not take this request: too large, a lease that is gone, no space left, …"""


class Compacted(KVError):
    """The revision is older than what the store remembers."""


# -- the store ---------------------------------------------------------------------------------------


class Lease(Protocol):
    """Time that is renewed in the background while its owner lives; keys put with it end when it does.

    id      of the lease now; 0 before the first one was granted
    alive   whether the keys are there for sure: false once it may have run out unrenewed
    """

    @property
    def id(self) -> int: ...

    @property
    def alive(self) -> bool: ...

    async def close(self) -> None:
        """Ends it and deletes its keys, as far as the store can be reached; else they end with their time."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...


OnGrant = Callable[[int], Awaitable[None]]


class KV(Protocol):
    """To be used from one event loop; from another thread: `asyncio.run_coroutine_threadsafe(kv.put(…), loop)`.

    Every method may raise Unavailable, Denied or Refused; those that change something OutcomeUnknown as well.
    """

    @property
    def trouble(self) -> str:
        """What was wrong the last time that the store was spoken to; "" if nothing."""

    async def get(self, key: str, *, revision: int = 0) -> Entry | None:
        """One key, now or as it was at a revision.  Raises Compacted."""

    async def get_prefix(self, prefix: str, *, revision: int = 0) -> Snapshot:
        """All keys under a prefix, however many, as they were at one moment or revision.  Raises Compacted."""

    async def put(self, key: str, value: bytes, *, lease: int = 0) -> int:
        """Gives the revision."""

    async def delete(self, key: str) -> bool:
        """Deletes exactly this key; False if it was not there."""

    async def delete_prefix(self, prefix: str) -> int:
        """Deletes every key under a prefix, "" for the whole store, and tells how many there were."""

    async def txn(self, compares: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op] = ()) -> TxnResult:
        """`then` if all compares hold, else `otherwise`: as a whole or not at all, and with nothing in between.

        A branch may put no key twice, and has at most OPS operations; Refused otherwise.
        """

    def watch(self, prefix: str, *, since: Snapshot | None = None) -> AsyncGenerator[Batch, None]:
        """What changes under a prefix, for ever.

        The first batch is everything that is there, also when that is nothing; `since` a snapshot of the prefix only
        what has changed.  A break of any length loses nothing: it goes on at the last revision or, where the store
        does not remember that far, with the difference between what it told and what is there.  Raises Denied only;
        whatever may pass is waited for.  Leave it with `contextlib.aclosing`, so that it ends when you do.
        """

    def lease(self, ttl: int, on_grant: OnGrant | None = None) -> Lease:
        """A lease of `ttl` seconds, granted and kept in the background.

        on_grant(id) puts the keys that shall go with it: called for the first lease, and again when one was lost and
        another had to be granted; when it raises KVError it is called again.
        """

    async def close(self) -> None:
        """Ends watches and leases of this object; requests under way are cancelled."""


def check_ops(ops: Sequence[Op]) -> None:
    """Raises Refused for a branch of a transaction that etcd would not take either."""
    if len(ops) > OPS:
        raise Refused(f"a transaction with {len(ops)} operations; at most {OPS} are possible, so split it")
    puts = [op.key for op in ops if isinstance(op, Put)]
    if len(set(puts)) != len(puts):
        twice = next(key for key in puts if puts.count(key) > 1)
        raise Refused(f"a transaction that puts {twice!r} twice; leave one of them out")
    for op in ops:
        hit = [
            key
            for key in puts
            if (isinstance(op, Delete) and key == op.key)
            or (isinstance(op, DeletePrefix) and key.startswith(op.prefix))
        ]
        if hit:
            raise Refused(f"a transaction that both puts and deletes {hit[0]!r}; leave one of them out")


def encode(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")


def decode(key: bytes) -> str:
    return key.decode("utf-8", "surrogateescape")


def prefix_range(prefix: str) -> tuple[bytes, bytes]:
    """First key of a prefix, and the first key after it; b"\\0" for no end, as etcd has it."""
    start = encode(prefix)
    stem = start.rstrip(b"\xff")
    end = stem[:-1] + bytes([stem[-1] + 1]) if stem else b"\0"
    return start or b"\0", end


def check_key(key: str) -> None:
    if not key:
        raise Refused("an empty key; name one")
