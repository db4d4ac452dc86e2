"""The short forms of `make flood`, `make soak` and `make memory`, which end with a verdict of their own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastnl.testing import spawn

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not (ROOT / "bench").is_dir(), reason="bench/ is not there, this is no source tree"),
]


def run(*words: str) -> str:
    """What a tool of bench/ prints, once it has ended well."""
    process = spawn(
        [sys.executable, "-m", *words], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said, _ = process.communicate(timeout=390)
    assert process.returncode == 0, said
    return said


def test_a_flood_of_64_clients_gets_one_reply_for_each_request_and_starves_nobody():
    assert "verdict: one reply for each request, no growth, nobody starved" in run("bench.flood", "--seconds", "6")


def test_nothing_grows_at_full_speed():
    assert "verdict: no growth" in run("bench.soak", "--seconds", "20")


def test_a_connection_costs_a_few_kib_and_everything_is_listed():
    said = run("bench.memory", "5000")
    assert "everything page by page" in said
    [first, again] = map(float, re.findall(r"([\d.]+) KiB a connection", said))
    # of so few, what the engine needs once and garbage that was not collected yet count much
    assert 0 < again < first < 8
