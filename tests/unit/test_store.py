"""The SQLite store: what was intended and not finished is known after a crash, what was settled is never lost."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fastnl import Place
from fastnl.netns import Identity
from fastnl_engine.model import Connection, EndSpec, Record, VxlanSpec, encode
from fastnl_engine.store.base import Intent, Outcome, StoreError
from fastnl_engine.store.sqlite import SCHEMA_VERSION, SqliteStore

SPEC = encode(
    Connection(
        "c1", "veth", EndSpec("blue", "e0", addresses=["10.0.0.1/24"]), EndSpec("red", "e0"), labels={"app": "é"}
    )
)
OTHER = encode(Connection("c1", "vxlan", EndSpec("", "vx0"), vxlan=VxlanSpec(42, remote="fd00::1", ttl="inherit")))
PLACES = (Place(1 << 20, Identity(4026532001, 9)), Place((1 << 31) - 1, Identity(4026532002, 0)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


def fields(record: Record) -> tuple:
    return tuple(getattr(record, name) for name in Record.__slots__)


def up(id: str = "c1", spec: bytes = SPEC) -> Record:
    return Record(id, spec, "up", PLACES, since=12.5)


def intent(id: str = "c1", verb: str = "create") -> Intent:
    return Intent(id, verb, SPEC, (7, 8))


def load(path: Path) -> tuple[dict[str, Record], list[Intent]]:
    store = SqliteStore(path)
    records, intents = store.load()
    store.close()
    return {r.id: r for r in records}, intents


def test_a_new_store_is_empty_and_for_its_owner_only(path):
    assert load(path) == ({}, [])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "record",
    [
        up(),
        Record("é/…", OTHER, "pending", (), reason="there is no /run/netns/blue"),
        Record("c2", SPEC, "failed", (), error={"code": "kernel", "message": "no", "errno": 22}, since=1e9),
    ],
)
def test_a_record_comes_back_field_by_field(path, record):
    store = SqliteStore(path)
    store.settle([Outcome(record.id, record)])
    store.close()
    [found] = load(path)[0].values()
    assert fields(found) == fields(record)


def test_an_intent_without_an_outcome_survives_and_one_with_an_outcome_does_not(path):
    store = SqliteStore(path)
    store.intend([intent("c1"), intent("c2", "remove"), intent("c3", "update")])
    store.settle([Outcome("c1", up("c1"))])
    store.close()
    records, intents = load(path)
    assert list(records) == ["c1"]
    assert intents == [intent("c2", "remove"), intent("c3", "update")]


def test_an_outcome_without_a_record_forgets_the_connection_and_its_intent(path):
    store = SqliteStore(path)
    store.settle([Outcome("c1", up())])
    store.intend([intent("c1", "remove")])
    store.settle([Outcome("c1", None)])
    store.close()
    assert load(path) == ({}, [])


def test_a_later_record_and_a_later_intent_replace_the_earlier(path):
    store = SqliteStore(path)
    store.settle([Outcome("c1", up(spec=OTHER))])
    store.settle([Outcome("c1", up(spec=SPEC))])
    store.intend([intent("c2", "create")])
    store.intend([intent("c2", "update")])
    store.close()
    records, intents = load(path)
    assert records["c1"].spec == SPEC
    assert intents == [intent("c2", "update")]


CRASH = """
import os, sys
from pathlib import Path
from fastnl_engine.model import Record
from fastnl_engine.store.base import Intent, Outcome
from fastnl_engine.store.sqlite import SqliteStore
store = SqliteStore(Path(sys.argv[1]), durable=sys.argv[2] == "durable")
spec = bytes.fromhex(sys.argv[3])
store.settle([Outcome(f"done{n}", Record(f"done{n}", spec, "up")) for n in range(100)])
store.intend([Intent(f"begun{n}", "create", spec, (n,)) for n in range(100)])
store._db.execute("BEGIN IMMEDIATE")        # the next outcome is being written ...
store._db.execute("DELETE FROM connection")
os.kill(os.getpid(), 9)                     # ... when the process dies
"""


@pytest.mark.parametrize("durable", ["durable", "fast"])
def test_what_was_settled_and_intended_survives_kill_9_in_the_middle_of_the_next_write(path, durable):
    done = subprocess.run([sys.executable, "-c", CRASH, str(path), durable, SPEC.hex()], check=False)
    assert done.returncode == -9
    records, intents = load(path)
    assert sorted(records) == sorted(f"done{n}" for n in range(100))
    assert {i.id for i in intents} == {f"begun{n}" for n in range(100)}


def pragmas(store: SqliteStore) -> list[int]:
    """The level of synchronisation at each COMMIT: 1 NORMAL, 2 FULL (that is, fsync)."""
    levels: list[int] = []

    def at(statement: str) -> None:
        if statement == "COMMIT":
            levels.append(current[0])
        elif statement.startswith("PRAGMA synchronous="):
            current[0] = {"NORMAL": 1, "FULL": 2}[statement.partition("=")[2]]

    current = [-1]
    store._db.set_trace_callback(at)
    return levels


@pytest.mark.parametrize(("durable", "outcome"), [(True, 2), (False, 1)])
def test_an_outcome_waits_for_the_disk_if_durable_and_an_intent_never_does(path, durable, outcome):
    store = SqliteStore(path, durable=durable)
    levels = pragmas(store)
    store.intend([intent()])
    store.settle([Outcome("c1", up())])
    store.intend([intent()])
    store.close()
    assert levels == [1, outcome, 1]


@pytest.mark.parametrize(("durable", "certain"), [(True, 2), (False, 1)])
def test_only_outcomes_that_were_all_foretold_do_not_wait_for_the_disk(path, durable, certain):
    store = SqliteStore(path, durable=durable)
    levels = pragmas(store)
    told, gone = Outcome("c1", up(), foretold=True), Outcome("c2", None, foretold=True)
    other, lost = Outcome("c3", up("c3")), Outcome("c4", None)
    for outcomes, level in [
        ([told], 1), ([gone], 1), ([told, gone], 1), ([other], certain), ([told, other], certain),
        ([other, told], certain), ([gone, lost, told], certain), ([told], 1), ([lost], certain),
    ]:  # fmt: skip
        store.intend([intent(o.id) for o in outcomes])
        store.settle(outcomes)
        assert levels == [1, level], outcomes
        levels.clear()
    store.meta("boot", "x")
    assert levels == [certain]
    store.close()


def test_a_write_that_failed_does_not_leave_the_next_one_less_certain(path):
    store = SqliteStore(path)
    levels = pragmas(store)
    for good in (Outcome("c1", up(), foretold=True), Outcome("c1", up())):
        with pytest.raises(sqlite3.Error):
            store.settle([Outcome("c2", up("c2", spec=None), foretold=not good.foretold)])
        store.settle([good])
    store.close()
    assert levels == [1, 2]


# -- the disk --------------------------------------------------------------------------------------


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files whose content was waited for, in order, beside what SQLite does itself."""
    real, files = os.fdatasync, []

    def fdatasync(fd: int) -> None:
        files.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    return files


def after_a_power_cut(path: Path, folder: Path) -> tuple[dict[str, Record], list[Intent]]:
    """What a store finds in the files as they are now."""
    folder.mkdir()
    for suffix in ("", "-wal"):
        (folder / f"{path.name}{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())
    return load(folder / path.name)


def test_what_was_intended_before_a_sync_is_in_the_file_that_it_waited_for(path, tmp_path, synced):
    store = SqliteStore(path)
    for n in range(3):
        store.intend([intent(f"c{n}")])
        store.sync()
        assert synced == [f"{path}-wal"] * (n + 1)
        records, intents = after_a_power_cut(path, tmp_path / str(n))
        assert (records, {i.id for i in intents}) == ({}, {f"c{i}" for i in range(n + 1)})
    store.settle([Outcome("c0", up("c0"), foretold=True)])
    store.sync()
    records, intents = after_a_power_cut(path, tmp_path / "settled")
    assert (list(records), {i.id for i in intents}) == (["c0"], {"c1", "c2"})
    store.close()


def test_a_checkpoint_between_an_intent_and_its_sync_loses_neither_the_log_nor_the_intent(path, tmp_path, synced):
    store = SqliteStore(path)
    store.intend([intent("c1")])
    store.sync()
    # the log begins anew, in the same file
    assert store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
    store.intend([intent("c2")])
    store.sync()
    assert synced == [f"{path}-wal"] * 2
    assert {i.id for i in after_a_power_cut(path, tmp_path / "copy")[1]} == {"c1", "c2"}
    store.close()


def test_a_sync_goes_on_beside_the_writes_of_another_thread(path, monkeypatch):
    begun, on = threading.Event(), threading.Event()
    monkeypatch.setattr(os, "fdatasync", lambda fd: begun.set() or on.wait(30))
    store = SqliteStore(path)
    store.intend([intent("c1")])
    disk = threading.Thread(target=store.sync)
    disk.start()
    assert begun.wait(30)
    store.settle([Outcome("c1", up(), foretold=True)])
    store.intend([intent("c2")])
    assert disk.is_alive()
    on.set()
    disk.join()
    store.close()
    assert [list(load(path)[0]), load(path)[1]] == [["c1"], [intent("c2")]]


def test_the_log_of_a_state_file_behind_a_symbolic_link_is_waited_for(path, synced):
    (path.parent / "disk").mkdir()
    SqliteStore(path.parent / "disk" / path.name).close()
    path.symlink_to(path.parent / "disk" / path.name)
    store = SqliteStore(path)
    store.intend([intent("c1")])
    store.sync()
    store.close()
    assert len(synced) == 1


def test_a_store_that_is_not_durable_waits_for_nothing(path, synced, monkeypatch):
    store = SqliteStore(path, durable=False)
    store.intend([intent()])
    opened: list[object] = []
    monkeypatch.setattr(os, "open", lambda *args, **_: opened.append(args))
    store.sync()
    assert (opened, synced) == ([], [])
    store.close()


def test_a_store_keeps_one_descriptor_of_its_log_and_closes_it(path):
    before = set(os.listdir("/proc/self/fd"))
    store = SqliteStore(path)
    store.intend([intent()])
    store.sync()
    after = len(os.listdir("/proc/self/fd"))
    for n in range(10):
        store.intend([intent(f"c{n}")])
        store.sync()
    assert len(os.listdir("/proc/self/fd")) == after
    store.close()
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_disk_that_does_not_take_the_log_is_told_with_the_files_name_until_a_new_log_is_begun(
    path, synced, monkeypatch
):
    store = SqliteStore(path)
    store.intend([intent()])
    works = os.fdatasync

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", broken)
    for attempt in range(3):
        if attempt == 2:
            monkeypatch.setattr(os, "fdatasync", works)  # which makes nothing good: the kernel tells of it once
        with pytest.raises(StoreError) as caught:
            store.sync()
        assert f"{path}-wal" in str(caught.value) and os.strerror(errno.EIO) in str(caught.value)
    # the next write begins a new log
    store.intend([intent("c2")])
    store.sync()
    assert synced == [f"{path}-wal"]
    assert {i.id for i in store.load()[1]} == {"c1", "c2"}
    store.close()


def test_a_log_that_is_not_there_is_said_to_be_so(path):
    store = SqliteStore(path)
    store.intend([intent()])
    Path(f"{path}-wal").unlink()
    with pytest.raises(StoreError) as caught:
        store.sync()
    assert f"{path}-wal" in str(caught.value) and os.strerror(errno.ENOENT) in str(caught.value)
    store.close()


# -- many rows -------------------------------------------------------------------------------------


def transactions(store: SqliteStore) -> list[str]:
    """BEGIN, and what ended it."""
    words: list[str] = []

    def at(statement: str) -> None:
        word = statement.partition(" ")[0]
        if word in ("BEGIN", "COMMIT", "ROLLBACK"):
            words.append(word)

    store._db.set_trace_callback(at)
    return words


@pytest.mark.parametrize("count", [0, 1, 7, 8, 33, 128, 129, 167, 168, 169, 300])
def test_however_many_rows_come_each_is_stored_and_deleted_and_all_in_one_transaction(path, count):
    ids = [f"c{n}" for n in range(count)]
    store = SqliteStore(path)
    store.settle([Outcome("other", up("other"))])
    store.intend([intent("other", "update")])
    words = transactions(store)

    def once() -> bool:
        done, words[:] = list(words), []
        return done == ["BEGIN", "COMMIT"]

    store.intend([Intent(id_, "create", SPEC, (n, n + 1)) for n, id_ in enumerate(ids)])
    assert once()
    found = {i.id: i for i in store.load()[1]}
    assert found.pop("other") == intent("other", "update")
    assert found == {id_: Intent(id_, "create", SPEC, (n, n + 1)) for n, id_ in enumerate(ids)}

    records = [Record(id_, SPEC, "up", PLACES, since=float(n)) for n, id_ in enumerate(ids)]
    store.settle([Outcome(r.id, r) for r in records])
    assert once()
    stored, intents = store.load()
    assert {fields(r) for r in stored} == {fields(r) for r in [*records, up("other")]}
    assert [i.id for i in intents] == ["other"]

    # every other one goes, and the rest becomes another
    store.settle([Outcome(r.id, None if n % 2 else up(r.id, OTHER)) for n, r in enumerate(records)])
    assert once()
    assert {r.id: r.spec for r in store.load()[0]} == dict.fromkeys(ids[::2], OTHER) | {"other": SPEC}

    store.settle([Outcome(id_, None) for id_ in ids])
    assert once()
    assert [r.id for r in store.load()[0]] == ["other"]
    store.close()


def test_a_failure_in_the_last_of_many_rows_leaves_none_of_them(path):
    store = SqliteStore(path)
    store.intend([intent(f"c{n}") for n in range(300)])
    with pytest.raises(sqlite3.Error):
        store.settle([Outcome(f"c{n}", up(f"c{n}", spec=None if n == 299 else SPEC)) for n in range(300)])
    records, intents = store.load()
    assert (records, len(intents)) == ([], 300)
    store.close()


def test_the_last_of_several_rows_of_one_id_counts(path):
    store = SqliteStore(path)
    store.intend([intent("c1", verb) for verb in ("create", "update", "mend")] * 20)
    store.settle([Outcome("c2", up("c2", OTHER if n < 59 else SPEC)) for n in range(60)])
    records, intents = store.load()
    assert ([i.verb for i in intents], [r.spec for r in records]) == (["mend"], [SPEC])
    store.close()


def test_a_failing_write_changes_nothing_and_the_store_goes_on(path):
    store = SqliteStore(path)
    store.settle([Outcome("c1", up(spec=OTHER))])
    with pytest.raises(sqlite3.Error):
        # the second row is refused by the table, so the first must not stay
        store.settle([Outcome("c1", up(spec=SPEC)), Outcome("c2", up("c2", spec=None))])
    store.settle([Outcome("c3", up("c3"))])
    store.close()
    records, _ = load(path)
    assert {id_: r.spec for id_, r in records.items()} == {"c1": OTHER, "c3": SPEC}


def test_a_word_about_the_store_is_kept(path):
    store = SqliteStore(path)
    assert store.meta("boot") is None
    assert store.meta("boot", "x") == "x"
    store.close()
    store = SqliteStore(path)
    assert store.meta("boot") == "x"
    store.close()


# -- files that are not ours to write --------------------------------------------------------------


def refusal(path: Path) -> str:
    with pytest.raises(StoreError) as caught:
        store = SqliteStore(path)
        store.load()
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_file_of_a_newer_version_is_refused_and_left_as_it_is(path):
    store = SqliteStore(path)
    store.settle([Outcome("c1", up())])
    store._db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    store.close()
    before = path.read_bytes()
    assert "newer" in refusal(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("content", [b"not a database at all, but text " * 100, os.urandom(8192)])
def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(path, content):
    path.write_bytes(content)
    assert "damaged" in refusal(path)
    assert path.read_bytes() == content


def test_a_database_with_damaged_pages_is_refused_when_it_is_read(path):
    store = SqliteStore(path)
    store.settle([Outcome(f"c{n}", up(f"c{n}")) for n in range(200)])
    store.close()
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)  # all but the page that holds the schema
    path.write_bytes(content)
    assert "damaged" in refusal(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("change", ["places = x'c1'", "places = x'9101'", "spec = x'80'", "error = x'81'"])
def test_a_record_that_does_not_read_as_one_is_damage(path, change):
    store = SqliteStore(path)
    store.settle([Outcome("c1", up())])
    store._db.execute(f"UPDATE connection SET {change}")
    store.close()
    assert "damaged" in refusal(path)


@pytest.mark.parametrize("change", ["spec = x'80'", "indexes = x'a161'"])
def test_an_intent_that_does_not_read_as_one_is_damage(path, change):
    store = SqliteStore(path)
    store.intend([intent("c1", "remove")])
    store._db.execute(f"UPDATE intent SET {change}")
    store.close()
    assert "damaged" in refusal(path)


def test_a_folder_that_is_not_there_is_said_to_be_so(tmp_path):
    assert "is the folder there" in refusal(tmp_path / "none" / "state.db")


def test_an_empty_file_is_damage_for_a_store_is_never_made_in_steps(path):
    path.touch()
    assert "damaged" in refusal(path)
    assert path.read_bytes() == b""


def test_a_store_that_was_being_made_when_the_process_died_is_made_again(path):
    path.with_name("state.db.new").write_bytes(b"half")
    assert load(path) == ({}, [])
    assert os.listdir(path.parent) == [path.name]


def test_the_log_of_a_file_that_was_moved_away_is_not_taken_for_ones_own(path):
    store = SqliteStore(path)
    store.settle([Outcome("c1", up())])
    log = Path(f"{path}-wal").read_bytes()  # as kill -9 leaves it
    store.close()
    path.unlink()
    Path(f"{path}-wal").write_bytes(log)
    assert load(path) == ({}, [])


def test_the_database_of_another_program_is_refused_and_left_as_it_is(path):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE birds (name TEXT)")
    db.close()
    before = path.read_bytes()
    assert "not a state file" in refusal(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_file_that_was_cut_off_is_refused_and_left_as_it_is(path):
    store = SqliteStore(path)
    store.settle([Outcome(f"c{n}", up(f"c{n}")) for n in range(500)])
    store.close()
    content = path.read_bytes()
    for size in (100, 4096, len(content) // 2, len(content) - 4096):
        path.write_bytes(content[:size])
        assert "damaged" in refusal(path)
        assert path.read_bytes() == content[:size]


@pytest.mark.parametrize("left", [0.0, 0.3, 0.6, 0.9, 1.0])
def test_a_log_that_was_cut_off_gives_what_was_committed_before_the_cut(tmp_path, path, left):
    store = SqliteStore(path)
    for n in range(50):
        store.settle([Outcome(f"a{n}", up(f"a{n}")), Outcome(f"b{n}", up(f"b{n}"))])
    copy = tmp_path / "copy.db"
    copy.write_bytes(path.read_bytes())
    log = Path(f"{path}-wal").read_bytes()
    Path(f"{copy}-wal").write_bytes(log[: int(len(log) * left)])
    store.close()
    records, _ = load(copy)
    whole = len(records) // 2
    # each transaction is there whole or not at all, and none is missing before one that is there
    assert set(records) == {f"{c}{n}" for c in "ab" for n in range(whole)}
    assert (whole == 50) == (left == 1.0) and (whole == 0) == (left == 0.0)


def test_a_folder_in_its_place_is_refused(path):
    path.mkdir()
    refusal(path)
    assert path.is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away, which needs root")
def test_a_file_that_belongs_to_somebody_else_is_refused_and_left_as_it_is(path):
    SqliteStore(path).close()
    os.chown(path, 65534, 65534)
    path.chmod(0o644)
    assert "belongs to user id 65534" in refusal(path)
    assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (65534, 0o644)


def test_a_commit_that_fails_leaves_no_transaction_open(path):
    store = SqliteStore(path)
    store._db.execute("PRAGMA foreign_keys=ON")
    # a check that comes with the COMMIT fails it, as a full disk does
    store._db.execute("CREATE TABLE parent (id PRIMARY KEY)")
    store._db.execute("CREATE TABLE child (id REFERENCES parent DEFERRABLE INITIALLY DEFERRED)")
    store._db.execute(
        "CREATE TRIGGER t AFTER INSERT ON connection WHEN NEW.id='bad' BEGIN INSERT INTO child VALUES (1); END"
    )
    with pytest.raises(sqlite3.IntegrityError):
        store.settle([Outcome("bad", up("bad"))])
    store.settle([Outcome("good", up("good"))])
    assert [r.id for r in store.load()[0]] == ["good"]
    store.close()
