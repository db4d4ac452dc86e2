"""Records in SQLite, in WAL mode.

An intent is committed without fsync (synchronous=NORMAL): interfaces do not survive a power cut, so what
was about to be done to them need not either; kill -9 does not take what the kernel's page cache has.  An
outcome is committed with fsync (FULL) unless the store was opened as not durable.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec

from fastnl_engine.model import Record, State, decode_connection, pack_places, unpack_places
from fastnl_engine.store.base import Intent, Outcome, StoreError

SCHEMA_VERSION = 1
STATES = frozenset(get_args(State))
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE connection (
    id TEXT PRIMARY KEY, spec BLOB NOT NULL, state TEXT NOT NULL, places BLOB NOT NULL,
    reason TEXT NOT NULL, error BLOB, since REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE intent (id TEXT PRIMARY KEY, verb TEXT NOT NULL, spec BLOB NOT NULL, indexes BLOB NOT NULL) WITHOUT ROWID;
"""


class SqliteStore:
    """Raises StoreError when the file cannot be opened, is damaged, or was written by a newer version."""

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        self.path = path
        self._durable = "FULL" if durable else "NORMAL"
        with self._refusing():
            if not path.exists():
                self._make()
            # the engine hands it from thread to thread and never uses it from two at once
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
        try:
            with self._refusing():
                self._prepare()
        except StoreError:
            self._db.close()  # which takes along what SQLite puts beside the file
            raise

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        """What SQLite says about a file that it cannot use, as a StoreError."""
        try:
            yield
        except sqlite3.OperationalError as e:
            raise StoreError(f"{self.path}: {e}; is the folder there, writable, and not full?") from e
        except (sqlite3.DatabaseError, msgspec.DecodeError, ValueError, TypeError, RecursionError) as e:
            raise StoreError(
                f"{self.path}: {e}; the file is damaged. It was left as it is: put a copy of it back, or move it away "
                "to start with nothing known. Then every interface of this instance is removed at the start"
            ) from e

    def _make(self) -> None:
        """An empty store, under its name only when it is whole: so a file without a schema is known for damaged."""
        new = self.path.with_name(self.path.name + ".new")
        for left in (new, Path(f"{self.path}-wal"), Path(f"{self.path}-shm")):
            left.unlink(missing_ok=True)  # a log of another file would be taken for one of this
        with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as db:
            db.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
        new.rename(self.path)

    def _prepare(self) -> None:
        owner = self.path.stat().st_uid
        if owner not in (0, os.geteuid()):
            raise StoreError(
                f"{self.path}: belongs to user id {owner}, who could have the engine do anything; "
                "chown it to the engine's user if its content is to be trusted"
            )
        self.path.chmod(0o600)
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{self.path}: written by a newer fastnl (schema {version}, this one knows {SCHEMA_VERSION}); "
                "run that version, or move the file away to start with nothing known"
            )
        if version < 1:
            raise sqlite3.DatabaseError("it is empty, or not a state file of fastnl")
        self._db.execute("PRAGMA journal_mode=WAL")

    def load(self) -> tuple[list[Record], list[Intent]]:
        with self._refusing():
            records = [
                _record(*row)
                for row in self._db.execute("SELECT id, spec, state, places, reason, error, since FROM connection")
            ]
            intents = [_intent(*row) for row in self._db.execute("SELECT id, verb, spec, indexes FROM intent")]
        return records, intents

    @contextlib.contextmanager
    def _writing(self, synchronous: str) -> Iterator[None]:
        """A transaction; StoreError when the disk does not take it, and then nothing of it is there."""
        try:
            with _Transaction(self._db, synchronous):
                yield
        except sqlite3.OperationalError as e:
            raise StoreError(
                f"{self.path}: {e}; is the disk full or read-only? It goes on by itself when there is room again"
            ) from e

    def intend(self, intents: Sequence[Intent]) -> None:
        rows = [(i.id, i.verb, i.spec, msgspec.msgpack.encode(i.indexes)) for i in intents]
        with self._writing("NORMAL"):
            self._db.executemany("INSERT OR REPLACE INTO intent VALUES (?, ?, ?, ?)", rows)

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        kept, dropped = [], []
        for o in outcomes:
            if o.record is None:
                dropped.append((o.id,))
                continue
            r = o.record
            error = msgspec.msgpack.encode(r.error) if r.error else None
            kept.append((r.id, r.spec, r.state, pack_places(r.places), r.reason, error, r.since))
        with self._writing(self._durable):
            self._db.executemany("INSERT OR REPLACE INTO connection VALUES (?, ?, ?, ?, ?, ?, ?)", kept)
            self._db.executemany("DELETE FROM connection WHERE id = ?", dropped)
            self._db.executemany("DELETE FROM intent WHERE id = ?", [(o.id,) for o in outcomes])

    def meta(self, key: str, value: str | None = None) -> str | None:
        if value is not None:
            with self._writing(self._durable):
                self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
            return value
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def close(self) -> None:
        self._db.close()


def _record(
    id_: str, spec: bytes, state: State, places: bytes, reason: str, error: bytes | None, since: float
) -> Record:
    # what cannot be read shall be found out now, not when it is needed; SQLite puts any value into any column
    decode_connection(spec)
    whole = type(id_) is str and state in STATES and type(reason) is str and type(since) is float
    why = msgspec.msgpack.decode(error, type=dict[str, Any]) if error else None
    if not whole:
        raise ValueError(f"the record {id_!r} is not whole")
    return Record(id_, spec, state, unpack_places(places), reason, why, since)


def _intent(id_: str, verb: str, spec: bytes, indexes: bytes) -> Intent:
    if spec:
        decode_connection(spec)
    if type(id_) is not str or type(verb) is not str:
        raise ValueError(f"the intent {id_!r} is not whole")
    return Intent(id_, verb, spec, msgspec.msgpack.decode(indexes, type=tuple[int, ...]))


class _Transaction:
    """BEGIN to COMMIT at a level of durability; undone when anything in between fails."""

    def __init__(self, db: sqlite3.Connection, synchronous: str) -> None:
        self.db = db
        self.synchronous = synchronous

    def __enter__(self) -> None:
        self.db.execute(f"PRAGMA synchronous={self.synchronous}")
        self.db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.db.execute("COMMIT")
        finally:
            # also after a COMMIT that failed: SQLite may leave the transaction open, and no other could begin
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
