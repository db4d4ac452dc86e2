"""/metrics over HTTP, and what is in it."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import urllib.request
from collections.abc import Callable

import pytest

from fastnl.testing import PATIENCE, Namespaces, eventually
from fastnl_engine.testing import EngineProcess, end, pair
from fastnl_engine.upkeep import WAITED_FOR


def free_port(family: int, host: str) -> int:
    with socket.socket(family) as s:
        s.bind((host, 0))
        port: int = s.getsockname()[1]
        return port


def series(address: str) -> dict[str, float]:
    """`name{labels}` -> value."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"http://{address}/metrics", timeout=PATIENCE) as answer:
        lines = answer.read().decode().splitlines()
    return {key: float(value) for key, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}


@pytest.fixture
def measured(make_engine: Callable[..., EngineProcess]) -> tuple[EngineProcess, str]:
    address = f"127.0.0.1:{free_port(socket.AF_INET, '127.0.0.1')}"
    return make_engine("--http", address).start(), address


def test_over_ipv6(make_engine: Callable[..., EngineProcess]) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    address = f"[::1]:{free_port(socket.AF_INET6, '::1')}"
    make_engine("--http", address).start()
    found = series(address)
    assert any(name.startswith("fastnl_info{") for name in found)


def test_who_connects_and_does_not_ask_takes_neither_threads_nor_descriptors(
    measured: tuple[EngineProcess, str],
) -> None:
    engine, address = measured
    host, _, port = address.rpartition(":")
    before = threads(engine), descriptors(engine)
    silent = [socket.create_connection((host, int(port)), timeout=PATIENCE) for _ in range(200)]
    most = [0, 0]

    def all_hung_up() -> bool:
        most[:] = max(most[0], threads(engine)), max(most[1], descriptors(engine))
        return all(hung_up(s) for s in silent)

    # those beyond the bound at once, the others when they have said nothing for a while; then there is room again
    assert eventually(all_hung_up)
    assert most[0] <= before[0] + 50 and most[1] <= before[1] + 60
    assert eventually(lambda: (threads(engine), descriptors(engine) <= before[1] + 5) == (before[0], True))
    assert series(address)
    for s in silent:
        s.close()


def hung_up(s: socket.socket) -> bool:
    s.setblocking(False)
    try:
        return s.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def threads(engine: EngineProcess) -> int:
    return len(os.listdir(f"/proc/{engine.pid}/task"))


def descriptors(engine: EngineProcess) -> int:
    return len(os.listdir(f"/proc/{engine.pid}/fd"))


def test_no_series_tells_when_it_began(measured: tuple[EngineProcess, str]) -> None:
    found = series(measured[1])
    assert [name for name in found if "_created" in name] == []
    assert all(name.startswith("fastnl_") for name in found)


def test_results_by_op_and_code(measured: tuple[EngineProcess, str], blue: str, red: str) -> None:
    engine, address = measured
    client = engine.client()
    client.connect([pair("c1", end(blue, "e1"), end(red, "e1")), pair("c2", end(blue, "lo"), end(red, "e2"))])
    client.connect([pair("c1", end(blue, "e1"), end(red, "e1")), {"id": "c3"}])
    client.disconnect(["c1", "c9"])
    found = series(address)
    assert {k: v for k, v in found.items() if k.startswith("fastnl_results_total") and 'op="info"' not in k} == {
        'fastnl_results_total{op="connect",result="ok"}': 2,
        'fastnl_results_total{op="connect",result="ifname_in_use"}': 1,
        'fastnl_results_total{op="connect",result="invalid"}': 1,
        'fastnl_results_total{op="disconnect",result="ok"}': 2,
    }
    assert found[f'fastnl_kernel_errors_total{{errno="{errno.errorcode[errno.EEXIST]}"}}'] == 1
    for step in ("intend", "settle"):
        assert found[f'fastnl_store_seconds_count{{step="{step}"}}'] >= 2
        assert 0 < found[f'fastnl_store_seconds_sum{{step="{step}"}}'] < PATIENCE


def test_what_pending_connections_wait_for(measured: tuple[EngineProcess, str], netns: Namespaces, blue: str) -> None:
    engine, address = measured
    client = engine.client()
    references = ["later", "later", "it's", "file:/nowhere/at/all", "inode:1", f"pid:{2**22 - 1}"]
    jobs = [pair(f"c{n}", end(blue, f"e{n}"), end(there, f"e{n}")) for n, there in enumerate(references)]
    assert all(result["state"] == "pending" for result in client.connect(jobs, wait=True))
    found = series(address)
    waiting = {k: v for k, v in found.items() if k.startswith("fastnl_pending")}
    assert set(re.findall(r'reason="(\w+)"', " ".join(waiting))) == set(WAITED_FOR)
    assert {re.findall(r'"(\w+)"', k)[0]: v for k, v in waiting.items() if v} == {
        "name": 3, "file": 1, "inode": 1, "pid": 1
    }  # fmt: skip
    assert client.info()["waiting_for"][0] == {"netns": "later", "connections": 2}
    netns.make("later")
    assert eventually(lambda: client.info()["connections"] == {"up": 2, "pending": 4})
    assert series(address)['fastnl_namespace_changes_total{change="appeared"}'] == 1
    subprocess.run(["ip", "netns", "delete", "later"], check=True)
    assert eventually(lambda: client.info()["connections"] == {"pending": 6})
    assert series(address)['fastnl_namespace_changes_total{change="gone"}'] == 1
    # and of what went the reason is of the same kind
    assert series(address)['fastnl_pending{reason="name"}'] == 3


def test_info_has_what_top_shows(engine: EngineProcess, blue: str, red: str) -> None:
    client = engine.client()
    client.connect([pair("c1", end(blue, "e1"), end(red, "e1")), pair("c2", end(blue, "lo"), end(red, "e2"))])
    info = client.info()
    assert info["errors"] == {"ifname_in_use": 1}
    assert info["events"] == engine.events
    assert info["state_dir"] == str(engine.state)
    assert set(info["stages"]) == {"waiting", "intent", "kernel", "outcome"}
    for stage in info["stages"].values():
        bounds = [bound for bound, _ in stage["within"]]
        counts = [count for _, count in stage["within"]]
        assert bounds == sorted(bounds) and counts == sorted(counts)
        assert stage["count"] >= counts[-1] and stage["seconds"] > 0
