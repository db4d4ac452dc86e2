"""`python -m bench.fleet` in short: what docs/scale.md is measured with still runs, and its counts are exact."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fastnl_engine.kv.testing import Etcd

TOP = Path(__file__).parent.parent.parent
CODE = """
from bench import fleet
fleet.LEASE = 2
fleet.IDLE = 0.5
fleet.main(hosts=6, connections=300, seconds=120)
"""


def test_a_small_fleet(tmp_path):
    try:
        Etcd(tmp_path).start().kill()
    except FileNotFoundError:
        pytest.skip("etcd is not installed (Debian: etcd-server, etcd-client)")
    # in a process of its own, as gRPC has threads in the one that has used it
    done = subprocess.run([sys.executable, "-c", CODE], cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = {line[:52].strip(): line[52:].strip() for line in done.stdout.splitlines()}
    assert said["connections up"] == "300" and said["failed"] == "0", done.stdout
    # connection, number, two halves, two outcomes; and what each host has
    news = int(said["keys"]) - 6 * 300 - 2 * 6
    assert 0 < news <= 6, done.stdout
    assert said["idle: changes"] == "0"
