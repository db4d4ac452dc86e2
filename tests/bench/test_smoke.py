"""Every measurement runs once, as small as it can be, and a report can be made of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.experiments import EXPERIMENTS, FORMS, SIZES
from bench.figures import FIGURES
from bench.peers import GO
from bench.words import MEANINGS
from fastnl_engine.bench.results import Results
from fastnl_engine.bench.workloads import KINDS

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
    assert int(results.machine["hz"]) in range(24, 1201)


def test_all_levels_and_peers_are_there_or_named_as_missing(out):
    results = Results.read(out)
    levels = {s.who for s in results.find("levels", kind="veth")} | set(results.missing)
    assert {"floor", "library", "engine", "engine, not durable", "etcd northbound", "gRPC forwarder"} <= levels
    tunnels = {s.who for s in results.find("levels", kind="vxlan")} | set(results.missing)
    assert {"floor", "library", "engine", "etcd northbound, vxlan", "gRPC forwarder"} <= tunnels
    for kind in KINDS:
        peers = {(s.who, s.form) for s in results.find("peers", kind=kind)}
        assert ("floor, sockets kept", "born") in peers
        for name in ("library", "seed's sequence", "ip", "ip -batch", "pyroute2", "pyroute2 IPBatch", GO):
            assert {(name, "born"), (name, "moved")} <= peers or results.missing[name]
        for step in ("update", "move"):
            changed = {s.who for s in results.find("peers-changes", kind=kind, step=step)}
            for name in ("floor", "library", "ip", "ip -batch", "pyroute2", "pyroute2 IPBatch", GO):
                assert name in changed or results.missing[name]


def test_each_workload_is_of_several_shapes_and_sizes(out):
    results = Results.read(out)
    form = FORMS["smoke"]
    for name in ("batches", "sizes", "changes", "clients", "arrivals", "deletes"):
        for kind in KINDS:
            assert {s.setting["shape"] for s in results.find(name, kind=kind)} == set(form.shapes), (name, kind)
    for name, step in (("batches", "create"), ("batches", "delete"), ("changes", "update"), ("changes", "recreate")):
        assert {s.setting["batch"] for s in results.find(name, step=step)} == set(form.batches), (name, step)
    assert {s.setting["clients"] for s in results.find("clients")} == set(form.clients)
    assert {(s.setting["addresses"], s.setting["routes"]) for s in results.find("sizes")} == set(SIZES)
    assert {s.setting["standing"] for s in results.find("growth")} == set(form.standing)


def test_no_figure_is_there_twice(out):
    keys = [s.key for s in Results.read(out).series]
    assert len(set(keys)) == len(keys)


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


def test_the_figures_to_reach_are_printed_for_the_documents(out):
    done = run("bench.report", str(out), "--markdown", "targets")
    assert done.returncode == 0, done.stderr
    head, line, *rows = done.stdout.splitlines()
    assert head == "| what | where | target | measured | the floor reaches |  |"
    assert all(row.count("|") == line.count("|") for row in rows)
    assert any("vishvananda/netlink against the library" in row for row in rows) or GO in Results.read(out).missing


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
    assert "no experiment wrong; there are bytes, levels" in done.stderr
