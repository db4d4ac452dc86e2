"""The end of an engine: a stop under load, and a flush."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgpack
import pytest

from fastnl.testing import PATIENCE, eventually, ip_json
from fastnl_engine.testing import EngineProcess, RawSocket, end, pair, tunnel

# -- stop --------------------------------------------------------------------------------------------

CLIENTS = 6
FLYING = 16  # requests that each client keeps in flight


class Churner(threading.Thread):
    """A client that connects and disconnects as fast as it is answered, until nobody answers any more.

    wanted   id -> what the last acknowledged request made of it: the index of end a, or None
    """

    def __init__(self, engine: EngineProcess, number: int) -> None:
        super().__init__()
        self.wanted: dict[str, int | None] = {}
        self.unsure: set[str] = set()
        self.codes: dict[str, int] = {}
        self.problem = ""
        self._number = number
        self._socket = RawSocket(engine.endpoint)
        self.stopping = threading.Event()

    def run(self) -> None:
        sent: dict[int, tuple[str, bool]] = {}
        number = 0
        while True:
            while len(sent) < FLYING and not self.stopping.is_set():
                id_ = f"s{self._number}-{number % 64}"
                connect = (number // 64) % 2 == 0
                a, b = end("hub", id_), end("", f"{id_}x")
                ask: dict[str, Any] = {"connections": [pair(id_, a, b)]} if connect else {"ids": [id_]}
                self._socket.ask(id=number, op="connect" if connect else "disconnect", **ask)
                sent[number] = id_, connect
                number += 1
            if not sent:
                return
            silent = time.monotonic()
            while not self._socket.socket.poll(100):
                # what was sent in the very last moment has not reached the engine
                if self.stopping.is_set() and time.monotonic() > silent + 2:
                    self.unsure = {id_ for id_, _ in sent.values()}
                    return
            reply = self._socket.reply()
            id_, connect = sent.pop(reply["id"])
            result = reply["results"][0] if "results" in reply else {"ok": False, **reply}
            if result["ok"]:
                self.wanted[id_] = result["a"]["ifindex"] if connect else None
            else:
                code = result["error"]["code"]
                self.codes[code] = self.codes.get(code, 0) + 1

    def close(self) -> None:
        self._socket.close()


def test_a_stop_under_load_answers_everybody_and_the_next_start_adopts_all(engine, netns):
    netns.make("hub")
    clients = [Churner(engine, n) for n in range(CLIENTS)]
    for client in clients:
        client.start()
    assert eventually(lambda: all(len(client.wanted) == 64 for client in clients))
    began = time.monotonic()
    engine.process.send_signal(signal.SIGTERM)
    assert engine.wait() == 0
    print(f"stopped in {time.monotonic() - began:.3f} s")
    for client in clients:
        client.stopping.set()
    for client in clients:
        client.join()
        client.close()
        assert set(client.codes) <= {"shutting_down"}
        # what was sent when nobody listened any more, and no more than that
        assert len(client.unsure) <= FLYING
    unsure = {id_ for client in clients for id_ in client.unsure}
    wanted = {id_: index for client in clients for id_, index in client.wanted.items() if id_ not in unsure}
    assert len(wanted) > CLIENTS * 64 / 2

    def there() -> dict[str, int]:
        return {row["ifname"]: row["ifindex"] for row in ip_json("hub", "link", "show") if row["ifname"] != "lo"}

    up = there()
    assert {id_: up.get(id_) for id_ in wanted} == wanted
    assert all("UP" in row["flags"] for row in ip_json("hub", "link", "show") if row["ifname"] != "lo")
    engine.start()
    assert eventually(lambda: engine.log.count("event=resumed") == 2)
    assert f"adopted={len(up)} mended=0 made_again=0 orphans_removed=0" in engine.log
    client = engine.client()
    assert {row["id"]: row["a"]["ifindex"] for row in client.list()} == up == there()
    client.disconnect(list(up))


# -- flush -------------------------------------------------------------------------------------------


@pytest.fixture
def jobs(engine: EngineProcess, blue: str, red: str) -> list[dict[str, Any]]:
    jobs = [pair(f"c{n}", end(blue, f"e{n}", f"10.0.{n}.1/24"), end(red, f"e{n}")) for n in range(20)]
    jobs += [pair("own", end("", "own0"), end(f"file:/run/netns/{blue}", "own1"))]
    jobs += [tunnel("t1", end(red, "vx0"), vni=3, remote="192.0.2.1"), pair("w1", end(blue, "w"), end("later", "w"))]
    assert all(r["ok"] for r in engine.client().connect(jobs, wait=True))
    return jobs


def flush(engine: EngineProcess, code: int = 0) -> str:
    """Runs `fastnl-engine --flush` with the settings of an engine; gives what it said."""
    done = subprocess.run([*engine.command, "--flush"], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def names(netns: str) -> set[str]:
    return {row["ifname"] for row in ip_json(netns, "link", "show")} - {"lo"}


@pytest.mark.parametrize("ended", ["stop", "kill"])
def test_a_flush_removes_all_that_the_instance_owns_and_nothing_else(engine, jobs, foreign, blue, red, ended):
    group = int(ip_json(blue, "link", "show", "e0")[0]["group"])
    getattr(engine, ended)()
    for n, netns in enumerate((blue, red)):
        foreign(netns, f"plain{n}", group=group)
    subprocess.run(["ip", "link", "add", "plain2", "group", str(group), "type", "bridge"], check=True)
    subprocess.run(["ip", "-n", blue, "link", "set", "plain0", "alias", "fastnl/other/c1/a"], check=True)
    # of a change that was not finished: made, and not marked yet
    index = 1_600_000
    foreign(red, "half0", index=index, group=group)
    db = sqlite3.connect(engine.state / "state.db")
    with db:
        spec = msgpack.packb(pair("h1", end(red, "half0"), end("", "half1")))
        db.execute("INSERT INTO intent VALUES ('h1', 'create', ?, ?)", (spec, msgpack.packb([index, index + 1])))
    db.close()
    said = flush(engine)
    # two ends each, but for the tunnel and what was half made; the one that waits had none
    assert f"interfaces={21 * 2 + 2} connections=23 kept=0" in said
    assert (names(blue), names(red), names("")) == ({"plain0"}, {"plain1"}, {"plain2"})
    subprocess.run(["ip", "link", "del", "plain2"], check=True)
    assert "interfaces=0 connections=0" in flush(engine)
    engine.start()  # the state file is as good as new
    assert list(engine.client().list()) == []
    [result] = engine.client().connect([jobs[0]])
    assert result["ok"]


def test_a_flush_is_refused_while_an_engine_runs(engine, jobs, make_engine, blue, red):
    before = names(blue), names(red)
    for shared in ("state", "instance"):
        other = make_engine(instance="other")
        setattr(other, shared, getattr(engine, shared))
        said = flush(other, code=1)
        assert "cannot flush" in said and "another engine" in said
    assert (names(blue), names(red)) == before
    assert len(list(engine.client().list())) == len(jobs)


def test_a_flush_needs_no_state_to_find_what_is_marked(engine, jobs, netns, blue, red):
    engine.stop()
    for file in engine.state.iterdir():
        file.unlink()
    assert "connections=0" in flush(engine)
    assert names(blue) == names(red) == names("") == set()


def test_a_flush_that_may_not_change_the_network_changes_nothing(engine, jobs, blue):
    engine.stop()
    lacking = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
    command = [*lacking, *engine.command, "--flush"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert "CAP_NET_ADMIN" in done.stderr
    assert len(names(blue)) == 21
    flush(engine)


def test_a_damaged_state_file_is_not_flushed_over(engine, jobs, blue):
    engine.stop()
    file = engine.state / "state.db"
    content, before = file.read_bytes(), names(blue)
    file.write_bytes(content[:5000])
    assert "damaged" in flush(engine, code=1)
    assert file.read_bytes() == content[:5000] and names(blue) == before
    file.write_bytes(content)
    flush(engine)


def test_a_namespace_that_is_gone_is_no_hindrance(engine, jobs, netns, red):
    engine.stop()
    netns.let_go(red)
    assert "kept=0" in flush(engine)
    assert Path(engine.state / "state.db").exists()


def test_a_start_does_not_wait_for_what_it_may_never_need():
    """Each of these takes a fifth of a second to load."""
    code = "import sys, fastnl_engine.main; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "fastnl.stray" in loaded and not {"pyroute2", "grpc", "aiohttp", "aiodocker"} & set(loaded)
