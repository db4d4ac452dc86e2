"""The studies of what the kernel could be spared: each runs, and what it starts from is what the library sends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import cheaper

ROOT = Path(__file__).parents[2]
PATIENCE = 300  # seconds; a slow machine is no failure

pytestmark = [pytest.mark.measures, pytest.mark.timeout(PATIENCE)]

# what the tables of each say, besides the names of its plans
SAID = {
    "refused": "ENOTCONN",
    "births": "first end up at birth",
    "defaults": "default disable_ipv6",
    "lone": "sockets kept open",
    "ready": "both ends ready elsewhere, moved",
    "namespaces": "taken from those held ready",
    "sweeps": "without the question",
    "deferred": "down, then swept",
    "beside": "creates beside lone deletes",
}


def python(*words: str) -> str:
    """What a program of its own prints; the namespaces are its own, too."""
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("study", cheaper.STUDIES)
def test_each_study_runs(study):
    assert SAID[study] in python("-m", "bench.studies", study, "--rounds", "1", "--pairs", "2")


@pytest.mark.parametrize(("program", "said"), [("beside", "star: connect, p95"), ("held", "handed out")])
def test_what_goes_through_an_engine_runs(program, said):
    assert said in python("-m", f"bench.{program}", "--rounds", "1", "--pairs", "4")


def test_what_a_study_starts_from_is_byte_for_byte_what_the_library_sends():
    same = python("-c", SAME)
    assert same.splitlines() == ["star create", "star delete", "spread create"]


# Only what is drawn anew each time is pinned: indexes, the group of a sweep.  A delete in the spread shape opens fewer
# namespaces in the library, so the descriptors in its recording are others.
SAME = """
import secrets, tempfile
from pathlib import Path
from unittest import mock
from fastnl.testing import isolate

isolate()
from bench.plans import Birth, Replay, Sweep
from bench.replay import Floor, build
from fastnl_engine.bench import workloads

build()
with mock.patch.object(secrets, "randbelow", lambda n: 4711), tempfile.TemporaryDirectory() as folder:
    for shape in ("star", "spread"):
        made = workloads.pairs(shape, 5)
        workloads.make_namespaces(made)
        place = Path(folder) / shape
        theirs = Floor(made, place, name="library")
        mine = Replay("plan", made, place, {"create": Birth(), "delete": Sweep()})
        for step in ("create", "delete"):
            if mine.recording(step).read_bytes() == theirs.recording(step).read_bytes():
                print(shape, step)
"""
