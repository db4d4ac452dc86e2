"""Records in SQLite, in WAL mode.

Everything is committed without fsync (synchronous=NORMAL) where that will do: kill -9 does not take what the kernel's
page cache has.  What has to survive a power cut is waited for: an intent by `sync`, beside the kernel's work, and an
outcome by an fsync of its own (FULL) if it is not what the intent said.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec

from fastnl_engine.model import Record, State, decode_connection, pack_places, unpack_places
from fastnl_engine.store.base import Intent, Outcome, StoreError

# Rows of one statement, tried in turn.  sqlite3 gives the interpreter's lock away at every statement and waits behind
# the gateway to have it back, up to half a millisecond each time.  Few lengths, as each is compiled once and kept.
CHUNKS = (128, 32, 8, 1)

SCHEMA_VERSION = 1
T = TypeVar("T")

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
        self.durable = durable
        self._log = -1  # the WAL's file
        self._level = ""  # of synchronisation, for now
        self._gap = ""  # why the disk may lack something of the log
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
    def _writing(self, *, certain: bool = False) -> Iterator[None]:
        """A transaction; StoreError when the disk does not take it, and then nothing of it is there.

        certain: it survives a power cut when it is over, if the store is durable.
        """
        try:
            if self._gap:
                self._close_gap()
            self._set_level("FULL" if certain and self.durable else "NORMAL")
            with _Transaction(self._db):
                yield
        except sqlite3.OperationalError as e:
            raise StoreError(
                f"{self.path}: {e}; is the disk full or read-only? It goes on by itself when there is room again"
            ) from e

    def intend(self, intents: Sequence[Intent]) -> None:
        rows = [(i.id, i.verb, i.spec, msgspec.msgpack.encode(i.indexes)) for i in intents]
        with self._writing():
            self._put("intent", rows)

    def sync(self) -> None:
        if not self.durable:
            return
        if self._gap:
            raise StoreError(f"{self.path}-wal: {self._gap}")
        try:
            if self._log < 0:
                # it is there as soon as something was committed, and the same file for as long as the store is open
                self._log = os.open(f"{os.path.realpath(self.path)}-wal", os.O_RDONLY | os.O_CLOEXEC)
            # what a checkpoint has taken out of the log meanwhile is on the disk: SQLite waits for that itself
            os.fdatasync(self._log)
        except OSError as e:
            self._gap = f"{e.strerror}; is the disk full, or has it gone?"
            raise StoreError(f"{self.path}-wal: {self._gap}") from e

    def _close_gap(self) -> None:
        """Has everything written once more, to the database itself, and begins a new log.

        The kernel tells of a page that the disk did not take once and forgets it.  Behind such a gap in the log all
        that follows is lost in a power cut, however well it was written.
        """
        self._set_level("FULL")
        busy, *_ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise sqlite3.OperationalError(self._gap)
        self._gap = ""

    def _set_level(self, level: str) -> None:
        if level != self._level:
            self._db.execute(f"PRAGMA synchronous={level}")
            self._level = level

    def settle(self, outcomes: Sequence[Outcome]) -> None:
        kept, dropped = [], []
        for o in outcomes:
            if o.record is None:
                dropped.append(o.id)
                continue
            r = o.record
            error = msgspec.msgpack.encode(r.error) if r.error else None
            kept.append((r.id, r.spec, r.state, pack_places(r.places), r.reason, error, r.since))
        with self._writing(certain=not all(o.foretold for o in outcomes)):
            self._put("connection", kept)
            self._delete("connection", dropped)
            self._delete("intent", [o.id for o in outcomes])

    def _put(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        for part in _chunks(rows):
            values = ", ".join([f"({', '.join('?' * len(part[0]))})"] * len(part))
            self._db.execute(f"INSERT OR REPLACE INTO {table} VALUES {values}", [*chain.from_iterable(part)])

    def _delete(self, table: str, ids: Sequence[str]) -> None:
        for part in _chunks(ids):
            self._db.execute(f"DELETE FROM {table} WHERE id IN ({', '.join('?' * len(part))})", part)

    def meta(self, key: str, value: str | None = None) -> str | None:
        if value is not None:
            with self._writing(certain=True):
                self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
            return value
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def close(self) -> None:
        if self._log >= 0:
            os.close(self._log)
            self._log = -1
        self._db.close()


def _chunks(rows: Sequence[T]) -> Iterator[Sequence[T]]:
    at = 0
    for size in CHUNKS:
        while len(rows) - at >= size:
            yield rows[at : at + size]
            at += size


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
    """BEGIN to COMMIT; undone when anything in between fails."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db

    def __enter__(self) -> None:
        self.db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.db.execute("COMMIT")
        finally:
            # also after a COMMIT that failed: SQLite may leave the transaction open, and no other could begin
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
