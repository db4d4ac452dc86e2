"""Whatever became of the state file: the store opens it soundly, or refuses it in words and leaves it as it was.

`make fuzz` does it for longer.  A file that once did harm goes to corpus/store/, which is tried every time;
`python tests/fuzz/test_store_fuzz.py` makes those that are there.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from mutate import CORPUS, rounds, seeds, spoil

import fastnl
from fastnl import Place
from fastnl.netns import Identity
from fastnl_engine.model import Record, decode_connection, encode, values_of
from fastnl_engine.store.base import Intent, Outcome, StoreError
from fastnl_engine.store.sqlite import STATES, SqliteStore
from fastnl_engine.testing import EngineProcess, end, pair

COLUMNS = {
    "connection": ("id", "spec", "state", "places", "reason", "error", "since"),
    "intent": ("id", "verb", "spec", "indexes"),
    "meta": ("key", "value"),
}
GARBAGE = [
    None, b"", b"\xff", b"\xc1", b"\x80", b"\x90", b"\x91" * 5000, b"\x93\x01\x02\x03", b"\x81\xa2id\x01", "", "up",
    "upp", "\0", "x" * 5000, 0, -1, 2**62, 0.0, float("inf"), "NaN",
]  # fmt: skip


def fill(path: Path) -> None:
    """One of everything that a store can hold."""
    store = SqliteStore(path, durable=False)
    places = (Place(7, Identity(4026532008, 9)), Place(8, Identity(4026532009, 10)))

    def spec(id_: str) -> bytes:
        job = pair(id_, end("blue", "e0", "10.0.0.1/24"), end("red", "e0", "fd00::1/64"), labels={"a": "b"})
        return encode(decode_connection(msgspec.msgpack.encode(job)))

    error = {"code": "kernel", "message": "no", "errno": 22}
    records = [
        Record("up", spec("up"), "up", places, since=1.5),
        Record("waits", spec("waits"), "pending", reason="b.netns: there is no such", since=2.5),
        Record("failed", spec("failed"), "failed", error=error, since=3.5),
    ]
    store.intend([Intent("half", "create", spec("half"), (7, 8)), Intent("up", "remove", b"", ())])
    store.settle([Outcome(record.id, record) for record in records])
    store.intend([Intent("half", "create", spec("half"), (7, 8)), Intent("up", "remove", b"", ())])
    store.meta("word", "value")
    store.close()


def judge(path: Path) -> bool:
    """Whether the store takes a file, which then has to make sense; refused, it is as it was."""
    before = path.read_bytes()
    try:
        store = SqliteStore(path, durable=False)
    except StoreError as e:
        assert str(path) in str(e)
        assert path.read_bytes() == before
        return False
    try:
        records, intents = store.load()
    except StoreError as e:
        assert str(path) in str(e)
        return False
    finally:
        store.close()
        # the owner of the file keeps what was in it; the first bytes tell SQLite's own counters
        assert path.read_bytes()[100:] == before[100:]
    for record in records:
        assert record.state in STATES and isinstance(record.id, str) and isinstance(record.since, float)
        assert record.error is None or isinstance(record.error, dict)
        try:
            values_of(record.connection)
        except fastnl.InvalidValue as e:
            assert e.field  # the start refuses it by name
    for intent in intents:
        assert isinstance(intent.verb, str) and all(isinstance(i, int) for i in intent.indexes)
    return True


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("store") / "state.db"
    fill(path)
    assert judge(path)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.mark.parametrize("name", seeds("store"))
def test_every_file_of_the_corpus_is_opened_soundly_or_refused(path, name):
    path.write_bytes(seeds("store")[name])
    assert judge(path) == name.startswith("good")


def test_a_spoilt_file_is_opened_soundly_or_refused(path, good):
    tried = {True: 0, False: 0}
    for chance in rounds():
        for left in path.parent.iterdir():
            left.unlink()
        path.write_bytes(spoil(chance, good))
        tried[judge(path)] += 1
    assert tried[False]


def test_garbage_in_any_column_is_refused_or_makes_sense(path, good):
    for chance in rounds():
        for left in path.parent.iterdir():
            left.unlink()
        path.write_bytes(good)
        with closing(sqlite3.connect(path)) as db:
            for _ in range(chance.randint(1, 3)):
                table = chance.choice(list(COLUMNS))
                column = chance.choice(COLUMNS[table])
                value = chance.choice([*GARBAGE, chance.randbytes(chance.randint(0, 60))])
                if isinstance(value, bytes) and chance.random() < 0.5:
                    row = db.execute(f"SELECT {column} FROM {table} LIMIT 1").fetchone()
                    if row and isinstance(row[0], bytes):
                        value = spoil(chance, row[0])
                try:
                    one = f"(SELECT {COLUMNS[table][0]} FROM {table} LIMIT 1)"
                    db.execute(f"UPDATE {table} SET {column} = ? WHERE {COLUMNS[table][0]} = {one}", [value])
                except sqlite3.IntegrityError:
                    continue  # SQLite itself keeps it out
            db.commit()
        judge(path)


@pytest.mark.parametrize("name", seeds("store"))
@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="starts an engine, which needs root")
def test_an_engine_serves_from_a_file_or_does_not_start_and_leaves_it(nothing_left, tmp_path, name):
    engine = EngineProcess(tmp_path, instance="fuzz")
    engine.endpoint, engine.events = "ipc://@fastnl-fuzz-jobs", "ipc://@fastnl-fuzz-events"
    engine.state.mkdir(mode=0o700)
    file = engine.state / "state.db"
    file.write_bytes(seeds("store")[name])
    file.chmod(0o600)
    if name.startswith("good"):
        with engine:
            assert engine.client().info()["ok"]
            assert engine.stop() == 0
    else:
        engine.launch()
        assert engine.wait() in (1, 2), engine.log
        assert "state.db" in engine.log or "Error" in engine.log
        assert file.read_bytes() == seeds("store")[name]
    assert "Traceback" not in engine.log


def main() -> None:
    """Makes the corpus."""
    folder = CORPUS / "store"
    folder.mkdir(exist_ok=True)
    path = folder / "good.db"
    path.unlink(missing_ok=True)
    fill(path)
    good = path.read_bytes()
    page = 4096
    spoilt = {
        "empty": b"", "text": b"no database at all\n" * 50, "header": b"X" + good[1:], "cut": good[: page + 100],
        "half": good[: len(good) // 2], "zeroed": good[:page] + bytes(len(good) - page),
    }  # fmt: skip
    for name, data in spoilt.items():
        (folder / f"{name}.db").write_bytes(data)
    for name, statement in {
        "newer": "PRAGMA user_version = 99",
        "spec": "UPDATE connection SET spec = x'c1'",
        "spec-is-text": "UPDATE connection SET spec = 'text'",
        "state": "UPDATE connection SET state = 'sideways'",
        "places": "UPDATE connection SET places = x'9101'",
        "deep": "UPDATE connection SET error = x'" + "91" * 5000 + "'",
        "since": "UPDATE connection SET since = 'yesterday'",
        "reason": "UPDATE connection SET reason = x'ff'",
        "verb": "UPDATE intent SET verb = x'ff'",
        "indexes": "UPDATE intent SET indexes = x'a161'",
        "no-table": "DROP TABLE intent",
    }.items():
        path = folder / f"{name}.db"
        path.write_bytes(good)
        with closing(sqlite3.connect(path)) as db:
            db.execute(statement)
            db.commit()
    for left in (*folder.glob("*-wal"), *folder.glob("*-shm")):
        left.unlink()


if __name__ == "__main__":
    main()
