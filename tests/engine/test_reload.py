"""SIGHUP: settings change while clients are connected and interfaces are up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fastnl.testing import eventually, ip_json
from fastnl_engine.testing import EngineProcess, end, pair

NOBODY = 65534

# a client that stays connected: one request for each line that it is sent
CLIENT = """
import sys
from fastnl_engine.client import Client
with Client(sys.argv[1], timeout=60) as client:
    for line in sys.stdin:
        reply = client.request(line.strip(), **({"ids": ["nobody"]} if line.strip() == "disconnect" else {}))
        print(reply["error"]["code"] if "error" in reply else "ok", flush=True)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "engine.toml").write_text("")
    return tmp_path / "engine.toml"


@pytest.fixture
def engine(make_engine: Callable[..., EngineProcess], file: Path) -> EngineProcess:
    return make_engine("--config", str(file)).start()


def reload(engine: EngineProcess, file: Path, text: str, word: str = "event=reloaded") -> str:
    """Writes the file, sends SIGHUP and waits for the line that says what came of it."""
    before = len(engine.log)
    file.write_text(text)
    engine.process.send_signal(signal.SIGHUP)
    assert eventually(lambda: word in engine.log[before:]), engine.log
    return next(line for line in engine.log[before:].splitlines() if word in line)


def test_roles_change_for_a_client_that_stays_connected(engine, file):
    for folder in (engine.folder, engine.folder.parent):
        folder.chmod(0o755)
    Path(engine.endpoint.removeprefix("ipc://")).chmod(0o777)
    command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", sys.executable, "-c", CLIENT]
    with subprocess.Popen([*command, engine.endpoint], stdin=-1, stdout=-1, text=True) as user:

        def ask(op: str) -> str:
            user.stdin.write(f"{op}\n")
            user.stdin.flush()
            return user.stdout.readline().strip()

        assert ask("info") == "forbidden"
        assert "changed=roles" in reload(engine, file, f'[roles]\nviewer = ["uid:{NOBODY}"]')
        assert (ask("info"), ask("disconnect")) == ("ok", "forbidden")
        reload(engine, file, f'[roles]\noperator = ["uid:{NOBODY}"]')
        assert (ask("info"), ask("disconnect")) == ("ok", "ok")
        reload(engine, file, "")
        assert ask("info") == "forbidden"
        user.stdin.close()
        assert user.wait(60) == 0


def test_a_queue_a_log_level_and_an_audit_change_and_connections_stay(engine, file, blue, red):
    client = engine.client()
    client.connect([pair("c1", end(blue, "e0"), end(red, "e0"))])
    before = ip_json(blue, "link", "show", "e0")
    said = reload(engine, file, 'queue = 7\nlog_level = "debug"\naudit = 1')
    assert {"changed=queue,log_level,audit", "level=info"} <= set(said.replace('"', "").split())
    assert client.info()["limits"]["queue"] == 7
    assert ip_json(blue, "link", "show", "e0") == before
    # debug tells of questions, and warning does not tell of jobs
    assert eventually(lambda: "op=info" in engine.log)
    said = reload(engine, file, 'log_level = "warning"\nresync = "recreate"', "needs_restart=resync")
    length = len(engine.log)
    client.disconnect(["c1"])
    client.info()
    assert "op=" not in engine.log[length:]


def test_an_audit_is_switched_on_and_off(make_engine, file, blue, red):
    file.write_text("audit = 0")
    engine = make_engine("--config", str(file)).start()
    engine.client().connect([pair("c1", end(blue, "e0"), end(red, "e0"))])
    threads = len(os.listdir(f"/proc/{engine.pid}/task"))  # and whatever is just about to end
    down = ["ip", "-n", blue, "link", "set", "e0", "down"]
    reload(engine, file, "audit = 1")
    subprocess.run(down, check=True)
    assert eventually(lambda: "UP" in ip_json(blue, "link", "show", "e0")[0]["flags"])
    reload(engine, file, "audit = 0")
    assert eventually(lambda: len(os.listdir(f"/proc/{engine.pid}/task")) <= threads)
    subprocess.run(down, check=True)
    assert not eventually(lambda: "UP" in ip_json(blue, "link", "show", "e0")[0]["flags"], 3)


def test_a_fence_is_put_up_and_moved(engine, file, netns, tmp_path):
    netns.make("far")
    client = engine.client()
    job = pair("c1", end("file:/run/netns/far", "e0"), end("", "e0"))
    reload(engine, file, f'file_prefixes = ["{tmp_path}"]')
    [result] = client.connect([job])
    assert (result["ok"], result["error"]["field"]) == (False, "a.netns")
    reload(engine, file, 'file_prefixes = ["/run/netns"]')
    [result] = client.connect([job])
    assert result["ok"], result
    client.disconnect(["c1"])


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("queue = ", "engine.toml"),
        ("queue = 0", "queue must be"),
        ("colour = 'red'", "colour"),
        ("queue = 9\n[roles]\nviewer = ['user:no-such-user']", "no-such-user"),
        ("queue = 9\nfile_prefixes = ['relative']", "relative"),
        (None, "engine.toml"),
    ],
)
def test_settings_that_cannot_be_leave_the_old_ones_in_force(engine, file, text, word):
    reload(engine, file, "queue = 5\n[roles]\nviewer = ['everyone']")
    if text is None:
        file.rename(file.with_name("gone"))
        before = len(engine.log)
        engine.process.send_signal(signal.SIGHUP)
        assert eventually(lambda: "not reloaded" in engine.log[before:])
        said = engine.log[before:]
    else:
        said = reload(engine, file, text, "not reloaded")
    assert word in said and "level=error" in said
    assert engine.client().info()["limits"]["queue"] == 5
    assert "changed=queue" in reload(engine, file.with_name("engine.toml"), "queue = 6\n[roles]\nviewer = ['everyone']")


def test_what_needs_a_restart_is_named_each_time_and_not_taken_over(engine, file):
    for _ in range(2):
        said = reload(engine, file, 'durable = false\nresync = "recreate"\nhttp = "127.0.0.1:1"\nqueue = 3')
        assert "needs_restart=durable,http,resync" in said and "level=warning" in said
    # a flag counts more than the file, as at the start
    said = reload(engine, file, 'endpoint = "ipc:///elsewhere"\ninstance = "other"\nqueue = 3')
    assert "changed=nothing" in said and "needs_restart" not in said
    assert engine.client().info()["limits"]["queue"] == 3


def test_many_signals_under_load_harm_nobody(engine, file, netns):
    hub = netns.make("hub")
    raw = engine.raw()
    for n in range(200):
        raw.ask(id=n, op="connect", connections=[pair(f"c{n}", end(hub, f"e{n}"), end("", f"x{n}"))])
        if n % 4 == 0:
            file.write_text(f"queue = {1000 + n}")
            engine.process.send_signal(signal.SIGHUP)
            time.sleep(0.002)
    assert all(raw.reply()["ok"] for _ in range(200))
    assert eventually(lambda: engine.client().info()["limits"]["queue"] == 1196)
    engine.client().disconnect([f"c{n}" for n in range(200)])


def test_a_signal_during_the_start_does_not_end_it(make_engine, file, netns):
    engine = make_engine("--config", str(file))
    engine.launch()
    status = Path(f"/proc/{engine.pid}/status")

    def caught() -> bool:
        """Whether the handler is there: the kernel lists it, signal 1 in the lowest bit."""
        [mask] = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("SigCgt")]
        return bool(int(mask, 16) & 1)

    assert eventually(caught)
    engine.process.send_signal(signal.SIGHUP)
    assert eventually(lambda: "event=reloaded" in engine.log)
    assert engine.client().info()["protocol"] == 1
