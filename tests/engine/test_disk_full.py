"""A disk that takes nothing any more, while the engine serves: nothing is forgotten, and it goes on by itself."""

from __future__ import annotations

import contextlib
import resource
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastnl.testing import eventually, ip_json
from fastnl_engine.testing import EngineProcess, end, pair

SIZE = 2 << 20  # bytes of the disk
PAGE = 4096


class Disk:
    """A small file system for the state folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ballast = folder / "ballast"

    def fill(self, but: int = 0) -> None:
        """Until not one byte more fits, or so many pages."""
        with open(self.ballast, "ab", buffering=0) as f:
            with contextlib.suppress(OSError):
                while True:
                    f.write(b"\0" * PAGE)
            f.truncate(f.tell() - but * PAGE)

    def free(self) -> None:
        self.ballast.unlink()


@pytest.fixture
def disk(make_engine: Callable[..., EngineProcess]) -> Iterator[tuple[EngineProcess, Disk]]:
    # the mount is seen by this process and its children only
    engine = make_engine()
    engine.state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "small", str(engine.state)], check=True)
    try:
        yield engine.start(), Disk(engine.state)
    finally:
        engine.close()
        subprocess.run(["umount", str(engine.state)], check=True)


def job(n: int, **more: Any) -> dict[str, Any]:
    return pair(f"c{n}", end("hub", f"e{n}"), end("", f"x{n}"), **more)


def names() -> set[str]:
    return {row["ifname"] for row in ip_json("hub", "link", "show")} - {"lo"}


def stored(engine: EngineProcess) -> tuple[set[str], set[str]]:
    """Ids of records and of intents, read by SQLite itself."""
    db = sqlite3.connect(f"file:{engine.state}/state.db?mode=ro", uri=True)
    rows = [{id_ for (id_,) in db.execute(f"SELECT id FROM {table}")} for table in ("connection", "intent")]
    db.close()
    return rows[0], rows[1]


def use_up(engine: EngineProcess, disk: Disk) -> tuple[set[str], dict[str, Any]]:
    """Fills the disk and connects until that is refused; the ids that were acknowledged, and the first refusal.

    SQLite writes over the parts of its log that are done with, so some more fit after the disk is full.
    """
    client = engine.client()
    done = {result["id"] for result in client.connect([job(n) for n in range(20)]) if result["ok"]}
    assert len(done) == 20
    disk.fill()
    for n in range(20, 20_000):
        [result] = client.connect([job(n, labels={"filler": "x" * 2000})])
        if not result["ok"]:
            return done, result
        done.add(result["id"])
    raise AssertionError("the disk takes everything")


def test_nothing_is_acknowledged_that_is_not_stored_and_it_goes_on_when_there_is_room(disk, netns):
    engine, full = disk
    netns.make("hub")
    client = engine.client()
    done, refusal = use_up(engine, full)
    assert refusal["error"]["code"] == "internal"
    message = refusal["error"]["message"]
    assert "state.db" in message and "full" in message and "goes on by itself" in message
    assert engine.log.count('event="state cannot be written"') == 1
    for n in range(30_000, 30_010):
        [result] = client.connect([job(n)])
        assert not result["ok"]
    [result] = client.disconnect(["c0"])
    assert not result["ok"]
    # it is alive and answers what needs no disk
    assert client.info()["protocol"] == 1
    known, begun = stored(engine)
    assert done <= known
    assert {f"c{n[1:]}" for n in names()} <= known | begun
    full.free()
    again = [job(n) for n in range(30_000, 30_010)]
    assert eventually(lambda: all(r["ok"] for r in client.connect(again)))
    assert eventually(lambda: stored(engine)[1] == set())
    assert 'event="state is written again"' in engine.log
    rows = {row["id"]: row["state"] for row in client.list()}
    assert set(rows) == stored(engine)[0] >= {j["id"] for j in again}
    assert {f"c{n[1:]}" for n in names()} == set(rows)
    client.disconnect(list(rows))
    assert names() == set()


def test_an_outcome_that_could_not_be_written_is_written_without_anybody_asking(disk, netns):
    """The intent found room and the outcome did not: done, not acknowledged, and remembered as soon as can be."""
    engine, full = disk
    netns.make("hub")
    client = engine.client()
    large = {f"filler{i}": "x" * 4000 for i in range(15)}  # some pages of the state file
    for n in range(4, 60):
        full.fill(but=n)
        [result] = client.connect([job(n, labels=large)])
        if "it was done" in result.get("error", {}).get("message", ""):
            break
        full.free()
    else:
        raise AssertionError("the disk never ran full between an intent and its outcome")
    assert f"e{n}" in names()
    known, begun = stored(engine)
    assert (f"c{n}" in known, f"c{n}" in begun) == (False, True)
    # nothing else comes into doubt meanwhile, and a newer action on the same connection does not overtake it
    [result] = client.disconnect([f"c{n}"])
    assert "nothing was done" in result["error"]["message"]
    assert f"e{n}" in names()
    full.free()
    assert eventually(lambda: stored(engine)[1] == set() and f"c{n}" in stored(engine)[0])
    client.disconnect([row["id"] for row in client.list()])
    assert names() == set()


def test_kill_9_on_a_full_disk_leaves_nothing_unknown(disk, netns):
    engine, full = disk
    netns.make("hub")
    done, _ = use_up(engine, full)
    raw = engine.raw()
    for n in range(40_000, 40_050):
        raw.ask(id=n, op="connect", connections=[job(n)])
    time.sleep(0.05)
    engine.kill()
    # on a disk that is still full it starts, or says why not; it never begins with nothing known
    before = len(engine.log)
    engine.launch()
    assert eventually(lambda: not engine.running or "event=serving" in engine.log[before:])
    if engine.running:
        engine.kill()
    else:
        assert "cannot start" in engine.log[before:] and "full" in engine.log[before:]
    full.free()
    engine.start()
    client = engine.client()
    assert eventually(lambda: client.info()["load"] == 0)
    rows = {row["id"]: row["state"] for row in client.list()}
    assert done <= set(rows)
    assert eventually(lambda: {f"c{n[1:]}" for n in names()} == set(rows))
    assert set(rows.values()) == {"up"}
    assert all(v["ok"] for v in client.verify())
    assert eventually(lambda: stored(engine) == (set(rows), set()))
    client.disconnect(list(rows))


def test_what_the_engine_has_to_do_itself_waits_for_room_too(disk, netns):
    """Namespaces come and go while nothing can be written: nobody would tell of them again."""
    engine, full = disk
    netns.make("hub")
    netns.make("gone")
    client = engine.client()
    client.connect([pair("w1", end("hub", "w1"), end("later", "w1")), pair("g1", end("hub", "g1"), end("gone", "g1"))],
                   wait=True)  # fmt: skip
    done, _ = use_up(engine, full)
    netns.make("later")
    netns.let_go("gone")
    time.sleep(1)
    full.free()

    def state(id_: str) -> str:
        return next(iter(client.list(ids=[id_])))["state"]

    assert eventually(lambda: state("w1") == "up" and state("g1") == "pending"), engine.log
    assert "g1" not in names() and "w1" in names()
    client.disconnect([*done, *(row["id"] for row in client.list())])


def test_a_disk_that_fails_in_another_way_is_survived_too(engine, netns):
    """A limit on the size of files gives EFBIG where a broken disk gives EIO; its words are SQLite's for both."""
    netns.make("hub")
    client = engine.client()
    resource.prlimit(engine.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
    [result] = client.connect([job(1)])
    assert (result["ok"], result["error"]["code"]) == (False, "internal")
    assert "state.db" in result["error"]["message"]
    assert names() == set()
    assert client.info()["protocol"] == 1
    resource.prlimit(engine.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    [result] = client.connect([job(1)])
    assert result["ok"], result
    client.disconnect(["c1"])


def test_a_state_folder_that_is_read_only_is_refused_and_left_alone(disk):
    engine, _ = disk
    engine.stop()
    content = (engine.state / "state.db").read_bytes()
    subprocess.run(["mount", "-o", "remount,ro", str(engine.state)], check=True)
    engine.launch()
    assert engine.wait() == 1
    last = engine.log.splitlines()[-1]
    assert "Read-only file system" in last and str(engine.state) in last
    assert (engine.state / "state.db").read_bytes() == content
    subprocess.run(["mount", "-o", "remount,rw", str(engine.state)], check=True)
    engine.start()
