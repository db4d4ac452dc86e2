"""`fastnl export` and `fastnl import`: the whole state as a document, and back, here or on another host."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fastnl.testing import eventually, ip_json, ping
from fastnl_engine.client import Client
from fastnl_engine.testing import EngineProcess, end, pair, tunnel

FASTNL = str(Path(sys.executable).with_name("fastnl"))

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run() -> Run:
    """Runs `fastnl ARGS` for an engine, or for none; checks the exit code."""

    def run(engine: EngineProcess | None, *args: object, code: int = 0, stdin: str = "") -> Any:
        bare = {k: v for k, v in os.environ.items() if not k.startswith("FASTNL_")}
        env = bare | {"FASTNL_ENDPOINT": engine.endpoint if engine else "ipc:///nowhere"}
        command = [FASTNL, *map(str, args)]
        done = subprocess.run(command, env=env, input=stdin, capture_output=True, text=True, timeout=120, check=False)
        assert "Traceback" not in done.stderr
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def jobs(blue: str, red: str) -> list[dict[str, Any]]:
    """Connections of every kind and state, in the order of their ids, with all that an end can have."""
    rich = pair(
        "c1",
        end(
            blue, "e1", "10.0.1.1/24", "fd00::1/64", mac="02:00:00:00:00:01", mtu=1400,
            routes=[{"to": "10.77.0.0/16", "via": "10.0.1.2", "metric": 7}],
            neighbours=[{"ip": "10.0.1.2", "mac": "02:00:00:00:00:02"}], route_localnet=True, ping_group_range=[1, 9],
            rules=[{"table": 7, "from": "10.7.0.0/16", "dport": [1, 9], "sport": 5, "ipproto": 6, "fwmark": 1}],
        ),
        end(red, "e1", "10.0.1.2/24", mac="02:00:00:00:00:02"),
        labels={"app": "é ✓", "empty": ""},
    )  # fmt: skip
    return [
        rich,
        pair("c2", end(f"file:/run/netns/{blue}", "e2"), end("", "e2x"), mtu=1300),
        tunnel("t1", end(blue, "vx0", "10.9.0.1/24"), vni=3, remote="192.0.2.1", port_range=[1000, 2000]),
        pair("w1", end(blue, "w1"), end("later", "w1")),
    ]


@pytest.fixture
def filled(engine: EngineProcess, jobs: list[dict[str, Any]]) -> EngineProcess:
    assert all(r["ok"] for r in engine.client().connect(jobs, wait=True))
    return engine


def states(engine: EngineProcess) -> dict[str, str]:
    return {row["id"]: row["state"] for row in engine.client().list()}


def document(*connections: dict[str, Any], **changes: Any) -> str:
    whole = {"format": "fastnl-export", "version": 1, "instance": "test", "connections": list(connections)}
    return json.dumps(whole | {"count": len(connections)} | changes)


def test_an_export_holds_what_was_submitted_and_nothing_else(filled, jobs, run, tmp_path):
    said = json.loads(run(filled, "export").stdout)
    assert said == {"format": "fastnl-export", "version": 1, "instance": "test", "connections": jobs, "count": 4}
    file = tmp_path / "state.json"
    assert "4 connections" in run(filled, "export", file).stdout
    assert json.loads(file.read_text()) == said
    assert file.stat().st_mode & 0o777 == 0o600
    assert json.loads(run(filled, "export", "--json", file).stdout)["count"] == 4
    assert os.listdir(tmp_path) == [file.name]


def test_the_state_file_says_the_same_and_is_not_changed(filled, run):
    said = json.loads(run(filled, "export").stdout)
    assert "an engine uses it" in run(None, "export", "--state-dir", filled.state, code=2).stderr
    filled.kill()  # so that the last writes are in the log beside the file
    assert (filled.state / "state.db-wal").stat().st_size > 0

    def fingerprint() -> dict[str, Any]:
        files = sorted(filled.state.iterdir())
        return {f.name: (hashlib.sha256(f.read_bytes()).digest(), f.stat().st_mtime_ns) for f in files}

    before = fingerprint()
    assert json.loads(run(None, "export", "--state-dir", filled.state).stdout) == said | {"instance": None}
    assert fingerprint() == before


def test_an_import_restores_everything_on_another_instance(filled, make_engine, run, tmp_path, blue, red):
    file = tmp_path / "state.json"
    run(filled, "export", file)
    before = list(filled.client().list())
    # nothing is left of the first one
    filled.client().disconnect([row["id"] for row in before])
    filled.stop()
    other = make_engine(instance="other").start()
    said = run(other, "import", file).stdout
    assert "import: 4 in all, 4 changed, 0 failed" in said and "1 wait for their namespaces" in said
    assert json.loads(run(other, "export").stdout) == json.loads(file.read_text()) | {"instance": "other"}
    assert states(other) == {row["id"]: row["state"] for row in before}
    assert all(v["ok"] for v in other.client().verify(["c1", "c2", "t1"]))
    assert ping(blue, "10.0.1.2")
    other.client().disconnect([row["id"] for row in before])


def test_importing_again_touches_nothing(filled, run, blue):
    before = {row["id"]: (row["a"]["ifindex"], row["since"]) for row in filled.client().list(state="up")}
    text = run(filled, "export").stdout
    said = json.loads(run(filled, "import", "--json", "-", stdin=text).stdout)
    assert {r["id"]: r["changed"] for r in said["connections"] if r["state"] == "up"} == dict.fromkeys(before, False)
    assert said["removed"] == []
    assert {row["id"]: (row["a"]["ifindex"], row["since"]) for row in filled.client().list(state="up")} == before


def test_without_replace_what_is_not_in_the_file_stays(filled, jobs, run):
    changed = jobs[1] | {"mtu": 1280}
    said = json.loads(run(filled, "import", "--json", "-", stdin=document(changed)).stdout)
    assert [(r["id"], r["changed"]) for r in said["connections"]] == [("c2", True)]
    assert set(states(filled)) == {"c1", "c2", "t1", "w1"}
    assert ip_json("", "link", "show", "e2x")[0]["mtu"] == 1280


def test_with_replace_it_is_removed_first_and_the_summary_says_so(filled, run, blue):
    # a name and a VNI of connections that are not in the file
    new = [pair("n1", end(blue, "e1"), end("", "n1")), tunnel("n2", end(blue, "vx0"), vni=3, remote="192.0.2.9")]
    done = run(filled, "import", "--replace", "-", stdin=document(*new))
    assert "disconnect: 4 in all, 4 changed, 0 failed" in done.stdout
    assert "import: 2 in all, 2 changed, 0 failed" in done.stdout
    assert states(filled) == {"n1": "up", "n2": "up"}
    run(filled, "import", "--replace", "-", stdin=document())
    assert states(filled) == {}
    assert {row["ifname"] for row in ip_json(blue, "link", "show")} == {"lo"}


def test_yaml_is_taken_too(engine, run, blue):
    text = yaml.safe_dump(json.loads(document(pair("c1", end(blue, "e0"), end("", "x0")))))
    run(engine, "import", "-", stdin=text)
    assert states(engine) == {"c1": "up"}
    run(engine, "disconnect", "c1")


def test_each_item_has_its_result_and_one_that_fails_makes_it_1(filled, run, blue, foreign):
    foreign(blue, "taken")
    new = [pair("n1", end(blue, "taken"), end("", "n1")), pair("n2", end(blue, "n2"), end("", "n2"))]
    done = run(filled, "import", "-", stdin=document(*new), code=1)
    assert "import: 2 in all, 1 changed, 1 failed" in done.stdout
    assert "n1" in done.stderr and "ifname_in_use" in done.stderr
    run(filled, "disconnect", "n2")


GOOD = pair("c9", end("blue", "e9"), end("red", "e9"))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (document(GOOD, version=2), "newer"),
        (document(GOOD, version="1"), "version"),
        (document(GOOD, version=True), "version"),
        (document(GOOD, count=2), "count"),
        (document(GOOD, connections=None), "no list"),
        (document(GOOD, GOOD), "twice"),
        (document(GOOD, GOOD | {"id": "x", "kind": "teapot"}), "connection 2 (x): kind"),
        (document(GOOD, GOOD | {"id": "x", "a": end("blue", "a/b")}), "a.ifname"),
        (document(GOOD, "c1"), "connection 2"),
        (document(GOOD)[:-30], "line"),
        (json.dumps([GOOD]), "no export"),
        (json.dumps(GOOD), "no export"),
        ("", "no export"),
        ("{" * 100_000, ""),
    ],
)
def test_a_broken_or_newer_document_is_refused_before_anything_is_submitted(shared_engine, run, text, word):
    for more in ([], ["--replace"]):
        assert word in run(shared_engine, "import", *more, "-", stdin=text, code=2).stderr
    assert states(shared_engine) == {}


def test_a_state_file_that_cannot_be_read_is_named(run, tmp_path):
    folder = tmp_path / "state"
    folder.mkdir()
    assert f"{folder}/state.db" in run(None, "export", "--state-dir", folder, code=2).stderr
    (folder / "state.db").write_bytes(b"nonsense " * 1000)
    said = run(None, "export", "--state-dir", folder, code=2).stderr
    assert f"{folder}/state.db" in said and "damaged" in said
    db = sqlite3.connect(folder / "newer.db")
    db.execute("PRAGMA user_version=99")
    db.close()
    (folder / "newer.db").rename(folder / "state.db")
    assert "newer" in run(None, "export", "--state-dir", folder, code=2).stderr


def test_without_an_engine_it_says_so_and_leaves_the_file_as_it_was(run, tmp_path):
    file = tmp_path / "state.json"
    file.write_text("precious")
    assert "no engine" in run(None, "export", file, code=2).stderr
    assert file.read_text() == "precious"
    assert "no engine" in run(None, "import", "-", stdin=document(), code=2).stderr
    assert os.listdir(tmp_path) == [file.name]


def test_many_records_go_in_pages(shared_engine, run, tmp_path):
    """Pending ones need no namespaces; the engine answers others meanwhile."""
    engine, count = shared_engine, 12_000
    many = [pair(f"m{n:06}", end(f"none{n}", "e0", "10.0.0.1/24"), end(f"none{n}", "e1")) for n in range(count)]
    file = tmp_path / "many.json"
    file.write_text(document(*many))
    said = run(engine, "import", file).stdout
    assert f"import: {count} in all, {count} changed, 0 failed" in said
    out = tmp_path / "out.json"
    assert f"{count} connections" in run(engine, "export", out).stdout
    assert json.loads(out.read_text())["connections"] == many
    run(engine, "import", "--replace", "-", stdin=document())
    with Client(engine.endpoint, timeout=60) as client:
        assert eventually(lambda: client.info()["connections"] == {})
