"""Every measurement runs once, as small as it can be, and a report can be made of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.experiments import EXPERIMENTS
from bench.figures import FIGURES
from bench.words import MEANINGS
from fastnl_engine.bench.results import Results

ROOT = Path(__file__).parents[2]
PATIENCE = 900  # seconds; a slow machine is no failure

pytestmark = [pytest.mark.measures, pytest.mark.timeout(PATIENCE)]


def run(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A tool of bench/, once it has ended."""
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, cwd=ROOT, env=os.environ | (env or {}), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of everything has written."""
    file = tmp_path_factory.mktemp("smoke") / "results.json"
    done = run("bench.run", "--form", "smoke", "--out", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    return file


def test_every_experiment_leaves_figures_of_both_kinds_that_fit_the_schema(out, fits_schema):
    assert fits_schema(json.loads(out.read_text()))
    results = Results.read(out)
    for name in EXPERIMENTS:
        assert {"veth", "vxlan"} <= {s.setting.get("kind") for s in results.find(name)}, name
    assert results.machine["hz"]


def test_all_levels_and_peers_are_there_or_named_as_missing(out):
    results = Results.read(out)
    levels = {s.who for s in results.find("levels", kind="veth")} | set(results.missing)
    assert {"floor", "library", "engine", "engine, not durable", "etcd northbound", "gRPC forwarder"} <= levels
    peers = {(s.who, s.form) for s in results.find("peers", kind="veth")}
    assert ("seed's sequence", "moved") in peers
    for name in ("ip", "ip -batch", "pyroute2", "pyroute2 IPBatch", "vishvananda/netlink"):
        assert {(name, "born"), (name, "moved")} <= peers or results.missing[name]


def test_the_report_shows_and_explains_everything(out, tmp_path):
    page = tmp_path / "report.html"
    done = run("bench.report", str(out), "--out", str(page))
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert text.count("<svg") == len(FIGURES)
    assert not re.search(r"(src|href)=\"?(http|/|\.)", text.replace("http://www.w3.org", "")), "it needs another file"
    results = Results.read(out)
    for name, experiment in EXPERIMENTS.items():
        assert experiment.__doc__
        assert MEANINGS[name][:40] in text
    for s in results.series:
        assert s.label.replace("'", "&#x27;") in text
    assert str(results.machine["kernel"]) in text


def test_a_run_compared_with_itself_is_not_slower(out):
    done = run("bench.compare", str(out), str(out))
    assert done.returncode == 0
    assert re.search(r"\d\d+ ratios compared, 0 slower", done.stdout)


def test_what_is_measured_by_pytest_runs():
    done = run("pytest", "bench", "-q", "--benchmark-disable", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("start --connections 20 --rounds 1", "everything looked at after"),
        ("idle 10 1", "% of a core"),
        ("waiting 2", "file: 2 times"),
        ("mending 1", "let go: 1 times"),
        ("studies threads --rounds 1 --pairs 4", "spread"),
        ("afpacket 0.3", "bridge of the kernel's"),
        ("ligato --pairs 4 --halves 8 --rounds 1", "over ZeroMQ"),
    ],
    ids=lambda value: value.split()[0],
)
def test_what_has_a_command_of_its_own_runs(words, said):
    """The others are run by the tests of what they measure: flood, soak and memory, nsm, fleet."""
    done = run(*f"bench.{words}".split())
    assert done.returncode == 0, done.stdout + done.stderr
    assert said in done.stdout


def test_an_experiment_that_is_not_known_is_named():
    done = run("bench.run", "--only", "levels,wrong")
    assert done.returncode == 2
    assert "no experiment wrong; there are bytes, batches" in done.stderr
