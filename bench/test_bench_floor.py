"""The floor and the seed's sequence, as suites of their own: `make bench` sets them against the library.

python -m pytest bench/test_bench_floor.py
"""

from __future__ import annotations

import subprocess

import pytest

from bench.replay import FLOOR, Floor, build
from fastnl.testing import ip_json
from fastnl_engine.bench import workloads
from fastnl_engine.bench.contenders import BATCH
from fastnl_engine.bench.seed_sequence import SeedSequence

pytestmark = pytest.mark.usefixtures("private")


@pytest.fixture(params=["spread", "star", "mesh", "dense"])
def connections(request):
    made = workloads.pairs(request.param, BATCH)
    workloads.make_namespaces(made)
    return made


@pytest.mark.parametrize("kept", [False, True], ids=["", "kept"])
def test_floor(benchmark, connections, kept, tmp_path):
    """Benchmark the replay of a batch of 64 pairs, created and deleted."""
    build()
    floor = Floor(connections, tmp_path, kept=kept)
    assert floor.messages["create"] >= 7
    benchmark.pedantic(lambda: [floor.step(step) for step in ("create", "delete")], rounds=5)


def test_the_floor_makes_what_the_library_makes_and_says_when_it_cannot(connections, tmp_path):
    build()
    floor = Floor(connections, tmp_path)
    floor.step("create")
    end = connections[-1].a
    [row] = ip_json(end.netns, "address", "show", end.ifname)
    assert [f"{a['local']}/{a['prefixlen']}" for a in row["addr_info"]] == [end.addresses[0].text]
    assert "UP" in row["flags"]
    again = subprocess.run([FLOOR, floor.recording("create")], check=False, capture_output=True, text=True)
    assert (again.returncode, "File exists" in again.stderr) == (1, True)
    floor.step("delete")
    assert not [row for row in ip_json(end.netns, "link") if row["ifname"] == end.ifname]


def test_seed_sequence(benchmark, connections):
    """Benchmark two pairs made by create-and-move, and removed."""
    seed = SeedSequence(connections[:2])
    benchmark.pedantic(lambda: [seed.step(step) for step in ("create", "delete")], rounds=3)
