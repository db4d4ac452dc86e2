"""`fastnl bench`, as users of an installed package have it, and the churn of connections."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fastnl.testing import Namespaces
from fastnl_engine.bench.churn import churn
from fastnl_engine.bench.workloads import Workload, names
from fastnl_engine.testing import EngineProcess, RawSocket

CHURNED = Workload("star", "veth", 60).connections()
SMALL = ["--connections", "4", "--rounds", "1", "--shape", "star"]

pytestmark = [pytest.mark.measures, pytest.mark.kernel, pytest.mark.timeout(300)]


def fastnl(*words: str, prefix: tuple[str, ...] = (), path: str = "") -> subprocess.CompletedProcess[str]:
    """path: where programs are looked for, instead of the usual places."""
    environ = os.environ | {"PATH": path} if path else None
    # not from the source tree: what it needs has to be installed
    command = [*prefix, sys.executable, "-c", "from fastnl_engine.cli import main; main()", *words]
    return subprocess.run(command, cwd="/", env=environ, capture_output=True, text=True, check=False)


@pytest.fixture
def short_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("e")


@pytest.mark.parametrize("kind", ["veth", "vxlan"])
def test_bench_measures_and_leaves_nothing(short_folder, fits_schema, kind):
    done = fastnl("bench", *SMALL, "--kind", kind, "--folder", str(short_folder), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert fits_schema(found)
    who = {(s["who"], s["step"]) for s in found["series"]}
    for name in ("library", "engine", "engine, not durable", "pyroute2", "ip -batch", "seed's sequence"):
        assert {(name, "create"), (name, "delete")} <= who
    assert set(found["missing"]) == {"floor", "vishvananda/netlink", "etcd northbound, gRPC forwarder"}
    assert list(short_folder.iterdir()) == []


def test_bench_names_what_is_not_here(short_folder, tmp_path):
    done = fastnl("bench", *SMALL, "--folder", str(short_folder), path=str(tmp_path))
    assert done.returncode == 0, done.stderr
    for who in (
        "ip -batch: no `ip` here",
        "floor: it is",
        "vishvananda/netlink: it is",
        "etcd northbound, gRPC forwarder",
    ):
        assert f"left out: {who}" in done.stdout


def test_bench_prints_a_table_for_people(short_folder):
    done = fastnl("bench", *SMALL, "--folder", str(short_folder))
    assert done.returncode == 0, done.stderr
    assert "kernel " in done.stdout.splitlines()[0]
    assert "fastnl-engine, durable, 8 clients" in done.stdout


def test_bench_without_root_says_so():
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    done = fastnl("bench", "--folder", "/var/tmp", prefix=nobody)
    assert done.returncode == 2
    assert "need root, or CAP_SYS_ADMIN" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_program_that_fails_ends_the_measurement_with_its_name(tmp_path, short_folder):
    broken = tmp_path / "ip"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    done = fastnl("bench", *SMALL, "--folder", str(short_folder), path=f"{tmp_path}:{os.environ['PATH']}")
    assert done.returncode == 1
    assert "the measurement failed: ip -batch (born) did not survive create" in done.stderr
    assert list(short_folder.iterdir()) == []


def test_a_folder_with_a_long_path_is_refused(tmp_path):
    long = tmp_path / ("x" * 60)
    long.mkdir()
    done = fastnl("bench", "--folder", str(long))
    assert done.returncode == 2
    assert "is longer than 60 bytes" in done.stderr


def test_bench_that_is_interrupted_tidies_up(short_folder):
    command = [
        sys.executable,
        "-c",
        "from fastnl_engine.cli import main; main()",
        "bench",
        "--folder",
        str(short_folder),
    ]
    process = subprocess.Popen([*command, "--rounds", "100"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(short_folder.glob("*/*/engine.sock")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert list(short_folder.iterdir()) == []


@pytest.fixture
def engine(short_folder):
    with Namespaces() as namespaces, EngineProcess(short_folder, "--no-durable") as engine:
        for name in names(CHURNED):
            namespaces.make(name)
        yield engine


def test_a_stall_of_the_engine_shows_in_everything_that_arrives_meanwhile(engine, monkeypatch):
    sent = []
    goes_on = threading.Timer(0.7, lambda: engine.process.send_signal(signal.SIGCONT))

    def stall(raw: RawSocket, *frames: bytes) -> None:
        raw.socket.send_multipart(frames)
        sent.append(frames)
        if len(sent) == len(CHURNED) // 2 + 20:
            engine.process.send_signal(signal.SIGSTOP)
            goes_on.start()

    monkeypatch.setattr(RawSocket, "send", stall)
    found = churn(engine, CHURNED, rate=30, seconds=3, clients=4)
    goes_on.join()
    assert engine.client().info()["connections"] == {}
    late = [x for x in found.create + found.delete if x > 0.1]
    assert len(late) >= 5
    assert max(late) > 0.4
    assert 40 < len(found.create) + len(found.delete) < 160


def test_latencies_count_from_the_moment_at_which_a_request_was_meant_to_be_sent(engine, monkeypatch):
    sent = []

    def hesitate(raw: RawSocket, *frames: bytes) -> None:
        sent.append(frames)
        if len(sent) == len(CHURNED) // 2 + 2:
            time.sleep(3)
        raw.socket.send_multipart(frames)

    monkeypatch.setattr(RawSocket, "send", hesitate)
    found = churn(engine, CHURNED, rate=20, seconds=2, clients=1)
    assert found.late > 1
    assert len([x for x in found.create + found.delete if x > 1]) >= 12
