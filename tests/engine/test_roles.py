"""Clients as other users: the kernel says who they are, the engine's user database which groups they are in."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fastnl.testing import PATIENCE, ip_json
from fastnl_engine.client import Client
from fastnl_engine.testing import EngineProcess, end, pair

NOBODY, VIEWER, OPERATOR, ADMIN, MEMBER = 65534, 40001, 40002, 40003, 40004
TEAM = 40100  # a group that only MEMBER is in, and not as its first one

JOB = pair("c", end("blue", "e0"), end("red", "e0"))
ASK = f"""
for op, fields in [("info", {{}}), ("list", {{}}), ("verify", {{}}), ("stats", {{}}), ("events", {{}}),
                   ("connect", {{"connections": [{JOB!r}]}}),
                   ("move", {{"moves": [{{"id": "c", "end": "b", "netns": "green"}}]}}),
                   ("disconnect", {{"ids": ["c"]}}),
                   ("attend", {{"consumer": "c", "leave": True}})]:
    reply = engine.request(op, **fields)
    print("ok" if reply["ok"] else reply["error"]["code"])
"""
LOOKS, CHANGES = 5, 4
VIEW, ALL = ["ok"] * LOOKS + ["forbidden"] * CHANGES, ["ok"] * (LOOKS + CHANGES)


@pytest.fixture
def engine(make_engine: Callable[..., EngineProcess], tmp_path: Path) -> EngineProcess:
    """Its user database is a file of the test's, in a mount namespace of its own."""
    users = tmp_path / "passwd"
    users.write_text(Path("/etc/passwd").read_text() + f"member:x:{MEMBER}:{MEMBER}::/:/bin/sh\n")
    groups = tmp_path / "group"
    groups.write_text(Path("/etc/group").read_text() + f"team:x:{TEAM}:member\n")
    config = tmp_path / "engine.toml"
    config.write_text(
        f'[roles]\nviewer = ["uid:{VIEWER}", "user:member"]\n'
        f'operator = ["gid:{OPERATOR}", "group:team"]\nadmin = ["uid:{ADMIN}", "gid:{VIEWER + 1000}"]\n'
    )
    mounts = f'mount --bind {users} /etc/passwd && mount --bind {groups} /etc/group && exec "$@"'
    prefix = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", mounts, "sh"]
    return make_engine("--config", str(config), instance="roles", prefix=prefix)


def opened(engine: EngineProcess) -> EngineProcess:
    """Whose sockets anybody may use, so that it is up to the roles alone."""
    engine.start()
    for folder in (engine.folder, engine.folder.parent):
        folder.chmod(0o755)
    for endpoint in (engine.endpoint, engine.events):
        Path(endpoint.removeprefix("ipc://")).chmod(0o777)
    return engine


def as_user(uid: int, script: str, *, gid: int | None = None, groups: str = "") -> subprocess.CompletedProcess[str]:
    who = [f"--reuid={uid}", f"--regid={uid if gid is None else gid}"]
    who.append(f"--groups={groups}" if groups else "--clear-groups")
    return subprocess.run(
        ["setpriv", *who, "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", script],
        capture_output=True, text=True, check=False, timeout=2 * PATIENCE,
    )  # fmt: skip


def asks(engine: EngineProcess, uid: int, **more: object) -> list[str]:
    prelude = f"from fastnl_engine.client import Client\nengine = Client({engine.endpoint!r}, timeout={PATIENCE})\n"
    done = as_user(uid, prelude + ASK, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_everybody_may_what_the_role_says_and_no_more(engine, netns):
    for name in ("blue", "red", "green"):
        netns.make(name)
    opened(engine)
    assert asks(engine, NOBODY) == ["forbidden"] * (LOOKS + CHANGES)
    assert asks(engine, VIEWER) == VIEW
    assert len(ip_json("red", "link", "show")) == 1 and list(engine.client().list()) == []
    assert asks(engine, OPERATOR) == ALL
    assert asks(engine, ADMIN) == ALL
    # by the group that the process has now, whoever it is
    assert asks(engine, NOBODY, gid=OPERATOR) == ALL
    # of several roles the highest
    assert asks(engine, VIEWER, gid=VIEWER + 1000) == ALL
    # as a supplementary group of the user, whichever the process has kept
    assert asks(engine, MEMBER) == ALL
    # but not as one that the process merely has: the kernel tells the first one only
    assert asks(engine, NOBODY, groups=str(OPERATOR)) == ["forbidden"] * (LOOKS + CHANGES)
    assert list(engine.client().list()) == [] and len(ip_json("red", "link", "show")) == 1


def test_what_happens_is_told_to_those_who_may_look(engine, netns):
    netns.make("blue")
    netns.make("red")
    opened(engine)
    script = f"""
import zmq
socket = zmq.Context().socket(zmq.SUB)
socket.setsockopt(zmq.LINGER, 0)
socket.subscribe(b"")
socket.connect({engine.events!r})
print("heard" if socket.poll(WAIT) else "deaf", flush=True)
import os
os._exit(0)
"""
    with Client(engine.endpoint, timeout=PATIENCE) as client:

        def hears(uid: int, wait: int) -> str:
            command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", sys.executable, "-c"]
            with subprocess.Popen(
                [*command, script.replace("WAIT", str(wait))], stdout=subprocess.PIPE, text=True
            ) as child:
                while child.poll() is None:
                    client.connect([JOB])
                    client.disconnect(["c"])
                assert child.stdout is not None
                return child.stdout.read().strip()

        assert hears(VIEWER, 1000 * PATIENCE) == "heard"
        assert hears(NOBODY, 2000) == "deaf"
    assert f":{NOBODY}:{NOBODY}:" in engine.log and "turned away" in engine.log


def test_who_is_not_in_the_group_does_not_reach_the_sockets(make_engine):
    engine = make_engine(instance="roles")
    folder = engine.folder / "run"
    engine.endpoint, engine.events = f"ipc://{folder}/e.sock", f"ipc://{folder}/v.sock"
    engine.start()
    for above in (engine.folder, engine.folder.parent):
        above.chmod(0o755)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    for name in ("e.sock", "v.sock"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o770
        knock = f"import socket; socket.socket(socket.AF_UNIX).connect('{folder}/{name}')"
        assert "PermissionError" in as_user(NOBODY, knock).stderr
    assert stat.S_IMODE((folder / "e.sock.lock").stat().st_mode) == 0o600
    for path in (engine.state, engine.state / "state.db"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
