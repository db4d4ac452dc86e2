"""The SQLite side of the embedded store: requests and transactions, for one thread."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fastnl_engine.kv.base import (
    Compare,
    Delete,
    DeletePrefix,
    Entry,
    Event,
    Get,
    KVError,
    Op,
    OpResult,
    Put,
    Refused,
    Snapshot,
    TxnResult,
    decode,
    encode,
    prefix_range,
)

SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counter VALUES ('revision', 1), ('lease', 0);
CREATE TABLE entry (
    key BLOB PRIMARY KEY, value BLOB NOT NULL, create_revision INTEGER NOT NULL, mod_revision INTEGER NOT NULL,
    version INTEGER NOT NULL, lease INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX leased ON entry (lease) WHERE lease != 0;
"""
COLUMNS = "key, value, create_revision, mod_revision, version, lease"


class Table:
    """The file.  Raises KVError or sqlite3.Error when it cannot be used."""

    def __init__(self, path: Path, durable: bool) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1)
        try:
            path.chmod(0o600)
            # nobody else may change what watches are told about
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise KVError(
                    f"{path}: written by a newer fastnl (schema {version}, this one knows {SCHEMA_VERSION}); run that "
                    "version, or move the file away to start with no keys"
                )
            if version == 0:
                self._db.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
            self.revision = self._counter("revision")
            self.leases: set[int] = set()
            self.events: list[Event] = []  # of the transaction under way
            with self.transaction():
                self._delete("lease != 0")
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Committed at the end; undone when anything in it fails."""
        before = self.revision
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            if self.revision != before:
                self._db.execute("UPDATE counter SET value = ? WHERE name = 'revision'", (self.revision,))
            self._db.execute("COMMIT")
        except BaseException:
            self.revision = before
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """One request within a transaction: undone alone when it fails."""
        before, events = self.revision, len(self.events)
        self._db.execute("SAVEPOINT step")
        try:
            yield
        except BaseException:
            self.revision = before
            del self.events[events:]
            self._db.execute("ROLLBACK TO step")
            raise
        finally:
            self._db.execute("RELEASE step")

    def _counter(self, name: str) -> int:
        (value,) = self._db.execute("SELECT value FROM counter WHERE name = ?", (name,)).fetchone()
        assert isinstance(value, int)
        return value

    # -- requests; each within `step` ----------------------------------------------------------------

    def get(self, key: str) -> Entry | None:
        row = self._db.execute(f"SELECT {COLUMNS} FROM entry WHERE key = ?", (encode(key),)).fetchone()
        return _entry(row) if row else None

    def get_prefix(self, prefix: str) -> Snapshot:
        where, bounds = _under(prefix)
        rows = self._db.execute(f"SELECT {COLUMNS} FROM entry WHERE {where} ORDER BY key", bounds)
        return Snapshot(prefix, self.revision, {e.key: e for e in map(_entry, rows)})

    def txn(self, compares: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op]) -> TxnResult:
        succeeded = all(self._holds(c) for c in compares)
        branch = then if succeeded else otherwise
        number = self.revision + 1  # of everything that it changes
        results = [self._do(op, number) for op in branch]
        return TxnResult(succeeded, self.revision, results)

    def grant(self) -> int:
        lease = self._counter("lease") + 1
        self._db.execute("UPDATE counter SET value = ? WHERE name = 'lease'", (lease,))
        self.leases.add(lease)
        return lease

    def revoke(self, lease: int) -> None:
        self.leases.discard(lease)
        self._delete("lease = ?", (lease,))

    # -- pieces of them ------------------------------------------------------------------------------

    def _holds(self, c: Compare) -> bool:
        entry = self.get(c.key)
        if c.target == "value":
            if entry is None:
                return False
            have: Any = entry.value
        else:
            have = getattr(entry, c.target) if entry else 0
        match c.relation:
            case "=":
                return bool(have == c.operand)
            case "!=":
                return bool(have != c.operand)
            case "<":
                return bool(have < c.operand)
            case ">":
                return bool(have > c.operand)

    def _do(self, op: Op, number: int) -> OpResult:
        match op:
            case Get(key):
                return self.get(key)
            case Put(key, value, lease):
                self._put(key, value, lease, number)
                return None
            case Delete(key):
                return self._delete("key = ?", (encode(key),), number)
            case DeletePrefix(prefix):
                return self._delete(*_under(prefix), number)

    def _put(self, key: str, value: bytes, lease: int, number: int) -> None:
        if lease and lease not in self.leases:
            raise Refused(f"lease {lease} is not there; it has ended, so put {key!r} with a new one")
        old = self.get(key)
        created, version = (old.create_revision, old.version + 1) if old else (number, 1)
        entry = Entry(key, value, created, number, version, lease)
        self._db.execute(
            "INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?, ?, ?)",
            (encode(key), value, created, number, version, lease),
        )
        self.revision = number
        self.events.append(Event(key, entry, number))

    def _delete(self, where: str, values: Sequence[Any] = (), number: int = 0) -> int:
        gone = self._db.execute(f"DELETE FROM entry WHERE {where} RETURNING key", values).fetchall()
        if gone:
            self.revision = number or self.revision + 1
            self.events += [Event(decode(key), None, self.revision) for (key,) in gone]
        return len(gone)


def _entry(row: tuple[bytes, bytes, int, int, int, int]) -> Entry:
    return Entry(decode(row[0]), *row[1:])


def _under(prefix: str) -> tuple[str, tuple[bytes, ...]]:
    start, end = prefix_range(prefix)
    if end == b"\0":
        return "key >= ?", (start,)
    return "key >= ? AND key < ?", (start, end)
