"""`python -m bench.fleet` in short: what docs/scale.md is measured with still runs, and its counts are exact."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastnl_engine.kv.testing import Etcd

TOP = Path(__file__).parent.parent.parent
CODE = """
from bench import fleet, fleet_hosts

if __name__ == "__main__":  # what writes records is in processes of its own, which read this, too
    fleet_hosts.LEASE = 2
    fleet.IDLE = 0.5
    fleet.FURTHER = 40
    fleet.main({})
"""


def said(folder, what):
    """What a run of it says last, by line."""
    try:
        Etcd(folder / "probe").start().kill()
    except FileNotFoundError:
        pytest.skip("etcd is not installed (Debian: etcd-server, etcd-client)")
    # in a process of its own, as gRPC has threads in the one that has used it
    file = folder / "short.py"
    file.write_text(CODE.format(what))
    paths = os.pathsep.join([str(TOP), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": paths}
    command = [sys.executable, str(file)]
    done = subprocess.run(command, cwd=TOP, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {line[:52].strip(): line[52:].strip() for line in done.stdout.splitlines()}, done.stdout


def test_a_small_fleet(tmp_path):
    found, everything = said(tmp_path, "hosts=6, connections=300, seconds=120")
    assert found["connections up"] == "300" and found["failed"] == "0", everything
    # connection, number, two halves, two outcomes; and what each host has
    news = int(found["keys"]) - 6 * 300 - 2 * 6
    assert 0 < news <= 6, everything
    assert found["idle: changes"] == "0"


def test_what_is_loaded_is_what_hosts_would_have_made(tmp_path):
    found, everything = said(tmp_path, "hosts=6, connections=300, seconds=120, live=3")
    # three are live, and have an end of most; nothing of it is news to them
    assert 200 < int(found["halves of all of them"]) < 600, everything
    assert found["outcomes that were told anew"] == "0", everything
    assert found["connections up"] == "40" and found["failed"] == "0", everything
    # 40 and the 100 that are made one by one come to what was there
    assert int(found["a host starts again: halves"]) > 60, everything
