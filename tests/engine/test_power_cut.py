"""The power goes: namespaces are gone, and of the state there is what was waited for, which may be intents alone."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from fastnl.testing import Namespaces, eventually, ip_json
from fastnl_engine.testing import EngineProcess, end, pair

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
ANOTHER = "00000000-0000-4000-8000-000000000000"


def job(n: int, **more: Any) -> dict[str, Any]:
    return pair(f"c{n}", end("blue", f"e{n}", f"10.0.{n}.1/24"), end("red", f"e{n}", f"10.0.{n}.2/24"), **more)


def interfaces(netns: str) -> dict[str, dict[str, Any]]:
    return {row["ifname"]: row for row in ip_json(netns, "addr", "show") if row["ifname"] != "lo"}


def states(engine: EngineProcess) -> dict[str, str]:
    return {row["id"]: row["state"] for row in engine.client().list()}


def begun(engine: EngineProcess) -> set[str]:
    with state_of(engine) as db:
        return {id_ for (id_,) in db.execute("SELECT id FROM intent")}


@contextlib.contextmanager
def state_of(engine: EngineProcess) -> Iterator[sqlite3.Connection]:
    db = sqlite3.connect(engine.state / "state.db")
    with db:
        yield db
    db.close()


class Lost:
    """Takes outcomes back out of the state of an engine that does not run, so that only their intents are left."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db

    def _intend(self, id_: str, verb: str, spec: bytes = b"", indexes: tuple[int, ...] = ()) -> None:
        row = (id_, verb, spec, msgpack.packb(indexes))
        self.db.execute("INSERT INTO intent VALUES (?, ?, ?, ?)", row)

    def spec(self, id_: str) -> bytes:
        [(spec,)] = self.db.execute("SELECT spec FROM connection WHERE id = ?", (id_,))
        return bytes(spec)

    def create(self, id_: str, indexes: tuple[int, ...]) -> None:
        self._intend(id_, "create", self.spec(id_), indexes)
        self.db.execute("DELETE FROM connection WHERE id = ?", (id_,))

    def change(self, id_: str, before: bytes, verb: str = "update") -> None:
        self._intend(id_, verb, self.spec(id_))
        self.db.execute("UPDATE connection SET spec = ? WHERE id = ?", (before, id_))

    def leave(self, id_: str, verb: str) -> None:
        """A removal, or an interruption, whose connection is still in the state."""
        self._intend(id_, verb)


def cut_power(engine: EngineProcess, netns: Namespaces, boot: str = ANOTHER) -> None:
    """Everything in the kernel is gone, and it is another boot when the engine is started again."""
    if engine.running:
        engine.kill()
    for name in list(netns):
        netns.let_go(name)
        netns.make(name)
    with state_of(engine) as db:
        assert db.execute("UPDATE meta SET value = ? WHERE key = 'boot'", (boot,)).rowcount == 1


def is_whole(engine: EngineProcess, *wanted: int) -> bool:
    """Whether these connections are up and in the kernel, and no others."""
    there = {f"e{n}" for n in wanted}
    return (
        states(engine) == {f"c{n}": "up" for n in wanted}
        and set(interfaces("blue")) == set(interfaces("red")) == there
        and all(v["ok"] for v in engine.client().verify())
    )


@pytest.fixture
def wired(engine: EngineProcess, blue: str, red: str) -> EngineProcess:
    """Six connections that are up."""
    assert all(r["ok"] for r in engine.client().connect([job(n) for n in range(6)]))
    return engine


def indexes_of(n: int) -> tuple[int, int]:
    return interfaces("blue")[f"e{n}"]["ifindex"], interfaces("red")[f"e{n}"]["ifindex"]


def boot_of(engine: EngineProcess) -> list[str]:
    with state_of(engine) as db:
        return [value for (value,) in db.execute("SELECT value FROM meta WHERE key = 'boot'")]


# -- another boot ----------------------------------------------------------------------------------


def test_a_start_remembers_the_boot_it_is_in(engine, netns):
    assert boot_of(engine) == [BOOT]
    cut_power(engine, netns)
    assert boot_of(engine) == [ANOTHER]
    engine.start()
    assert boot_of(engine) == [BOOT]


def test_after_a_power_cut_everything_is_made_again_in_new_namespaces(wired, netns):
    cut_power(wired, netns)
    assert interfaces("blue") == {}
    wired.start()
    assert eventually(lambda: is_whole(wired, *range(6))), states(wired)


def test_what_was_being_made_is_made_again_after_a_power_cut(wired, netns):
    """It may have been acknowledged: its intent was on the disk, and its outcome need not have been."""
    indexes = indexes_of(2)
    wired.kill()
    with state_of(wired) as db:
        Lost(db).create("c2", indexes)
    cut_power(wired, netns)
    wired.start()
    assert "c2" in states(wired)  # at once
    assert eventually(lambda: is_whole(wired, *range(6))), states(wired)
    [address] = [a["local"] for a in interfaces("blue")["e2"]["addr_info"] if a["family"] == "inet"]
    assert address == "10.0.2.1"
    assert begun(wired) == set()


def test_what_was_being_removed_is_gone_after_a_power_cut(wired, netns):
    wired.kill()
    with state_of(wired) as db:
        Lost(db).leave("c3", "remove")
    cut_power(wired, netns)
    wired.start()
    assert "c3" not in states(wired)
    assert eventually(lambda: is_whole(wired, 0, 1, 2, 4, 5)), states(wired)
    # its names are free
    assert wired.client().connect([job(3)])[0]["ok"]
    assert begun(wired) == set()


def test_what_was_being_interrupted_is_still_wanted_after_a_power_cut(wired, netns):
    wired.kill()
    with state_of(wired) as db:
        Lost(db).leave("c4", "suspend")
    cut_power(wired, netns)
    wired.start()
    assert "c4" in states(wired)
    assert eventually(lambda: is_whole(wired, *range(6))), states(wired)
    assert begun(wired) == set()


@pytest.mark.parametrize("verb", ["update", "mend"])
def test_what_was_being_changed_is_as_it_was_to_be_after_a_power_cut(wired, netns, verb):
    wired.kill()
    with state_of(wired) as db:
        before = Lost(db).spec("c1")
    wired.start()
    new = pair("c1", end("blue", "e1", "10.0.1.1/24", "10.0.77.1/24"), end("red", "e1", "10.0.1.2/24"), mtu=1400)
    assert wired.client().connect([new])[0]["ok"]
    wired.kill()
    with state_of(wired) as db:
        Lost(db).change("c1", before, verb)
    cut_power(wired, netns)
    wired.start()
    assert eventually(lambda: is_whole(wired, *range(6))), states(wired)
    found = interfaces("blue")["e1"]
    assert found["mtu"] == 1400
    assert {a["local"] for a in found["addr_info"] if a["family"] == "inet"} == {"10.0.1.1", "10.0.77.1"}
    # and it is what is known: the same again changes nothing
    assert wired.client().connect([new])[0]["changed"] is False


def test_what_was_being_moved_is_where_it_was_to_be_after_a_power_cut(wired, netns):
    netns.make("green")
    wired.kill()
    with state_of(wired) as db:
        before = Lost(db).spec("c0")
    wired.start()
    assert wired.client().move([{"id": "c0", "end": "b", "netns": "green"}])[0]["ok"]
    wired.kill()
    with state_of(wired) as db:
        Lost(db).change("c0", before, "move")
    cut_power(wired, netns)
    wired.start()
    assert eventually(lambda: set(states(wired).values()) == {"up"} and "e0" in interfaces("green")), wired.log
    assert set(interfaces("blue")) == {f"e{n}" for n in range(6)}
    assert set(interfaces("red")) == {f"e{n}" for n in range(1, 6)}


def test_names_that_one_connection_gave_up_for_another_are_the_others_after_a_power_cut(wired, netns):
    """Both intents of one cycle."""
    client = wired.client()
    other = pair("other", end("blue", "e5"), end("red", "e5"))
    assert client.disconnect(["c5"])[0]["ok"] and client.connect([other])[0]["ok"]
    indexes = indexes_of(5)
    wired.kill()
    with state_of(wired) as db:
        lost = Lost(db)
        lost.create("other", indexes)
        row = db.execute("SELECT * FROM connection WHERE id = 'c4'").fetchone()
        c5 = msgpack.packb(job(5))
        db.execute("INSERT INTO connection VALUES (?, ?, ?, ?, ?, ?, ?)", ("c5", c5, *row[2:]))
        lost.leave("c5", "remove")
    cut_power(wired, netns)
    wired.start()
    assert eventually(lambda: set(interfaces("blue")) == {f"e{n}" for n in range(6)})
    assert eventually(lambda: states(wired) == {**{f"c{n}": "up" for n in range(5)}, "other": "up"})
    assert interfaces("blue")["e5"]["ifalias"].split("/")[2] == "other"


def test_what_was_being_made_waits_for_a_namespace_that_does_not_come_back_with_the_power(wired, netns):
    indexes = indexes_of(2)
    wired.kill()
    with state_of(wired) as db:
        Lost(db).create("c2", indexes)
    cut_power(wired, netns)
    netns.let_go("red")
    wired.start()
    assert eventually(lambda: set(states(wired).values()) == {"pending"}), states(wired)
    assert set(states(wired)) == {f"c{n}" for n in range(6)}
    netns.make("red")
    assert eventually(lambda: is_whole(wired, *range(6))), states(wired)


@pytest.mark.parametrize(
    ("verb", "boot"), [("create", ANOTHER), ("suspend", ANOTHER), (None, ANOTHER), ("suspend", BOOT), (None, BOOT)]
)
def test_what_was_in_a_process_is_not_given_to_another_with_its_number(wired, netns, wanderer, verb, boot):
    """Being made, interrupted or simply up when the power went, or when the engine and its process ended."""
    guest = pair("guest", end("blue", "guest"), end(f"pid:{wanderer.pid}", "guest"))
    assert wired.client().connect([guest])[0]["ok"]
    wired.kill()
    with state_of(wired) as db:
        if verb == "create":
            Lost(db).create("guest", (1_500_000, 1_500_001))
        elif verb:
            Lost(db).leave("guest", verb)
    cut_power(wired, netns, boot)
    wanderer.wander()
    wired.start().resumed()
    assert eventually(lambda: {s for id_, s in states(wired).items() if id_ != "guest"} == {"up"}), states(wired)
    time.sleep(1.5)  # longer than the first attempts of what has failed
    [row] = wired.client().list(ids=["guest"])
    assert (row["state"], f"pid:{wanderer.pid}" in row.get("reason", "")) == ("pending", True), row
    assert "guest" not in interfaces("blue")


def test_a_process_that_is_seen_going_into_another_namespace_is_followed(engine, blue, wanderer):
    guest = pair("guest", end("blue", "guest"), end(f"pid:{wanderer.pid}", "guest"))
    client = engine.client()
    assert client.connect([guest])[0]["ok"]
    client.info()  # the engine begins to see to a process behind its answer, and before the next one
    before = interfaces("blue")["guest"]["ifindex"]
    wanderer.wander()
    assert eventually(lambda: interfaces("blue").get("guest", {}).get("ifindex") not in (None, before))
    assert eventually(lambda: states(engine) == {"guest": "up"})
    assert all(v["ok"] for v in client.verify())


@pytest.mark.parametrize(("boot", "known"), [(ANOTHER, {0, 1, 2, 4, 5}), (BOOT, {0, 1, 3, 4, 5})])
def test_an_export_of_the_state_has_what_a_start_would_take_up(wired, boot, known):
    indexes = indexes_of(2)
    wired.kill()
    with state_of(wired) as db:
        Lost(db).create("c2", indexes)
        Lost(db).leave("c3", "remove")
        db.execute("UPDATE meta SET value = ? WHERE key = 'boot'", (boot,))
    command = [str(Path(sys.executable).with_name("fastnl")), "export", "--state-dir", str(wired.state)]
    said = json.loads(subprocess.run(command, stdout=subprocess.PIPE, timeout=60, check=True).stdout)
    assert [c["id"] for c in said["connections"]] == sorted(f"c{n}" for n in known)


def test_a_start_after_a_power_cut_that_is_killed_is_taken_up_by_the_next(wired, netns):
    indexes = indexes_of(2)
    wired.kill()
    with state_of(wired) as db:
        Lost(db).create("c2", indexes)
        Lost(db).leave("c3", "remove")
    cut_power(wired, netns)
    for _ in range(3):
        wired.start()
        wired.kill()
    wired.start()
    assert eventually(lambda: is_whole(wired, 0, 1, 2, 4, 5)), states(wired)


# -- the same boot ---------------------------------------------------------------------------------


def test_in_the_same_boot_what_was_being_made_is_undone(wired):
    """Only kill -9 can have been there, and before that nothing is acknowledged without its outcome."""
    indexes = indexes_of(2)
    wired.kill()
    with state_of(wired) as db:
        Lost(db).create("c2", indexes)
    wired.start().resumed()
    assert eventually(lambda: is_whole(wired, 0, 1, 3, 4, 5)), states(wired)
    assert begun(wired) == set()


def test_in_the_same_boot_what_was_being_removed_is_there_again(wired):
    wired.kill()
    with state_of(wired) as db:
        Lost(db).leave("c3", "remove")
    wired.start().resumed()
    assert eventually(lambda: is_whole(wired, *range(6))), states(wired)


def test_a_state_that_does_not_know_its_boot_is_taken_for_one_of_this(wired):
    """As an earlier version left it, which had every outcome on the disk."""
    indexes = indexes_of(2)
    wired.kill()
    with state_of(wired) as db:
        Lost(db).create("c2", indexes)
        db.execute("DELETE FROM meta WHERE key = 'boot'")
    wired.start().resumed()
    assert eventually(lambda: is_whole(wired, 0, 1, 3, 4, 5)), states(wired)
    assert boot_of(wired) == [BOOT]
