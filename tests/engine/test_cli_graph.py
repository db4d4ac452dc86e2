"""`fastnl graph` against a real engine: what is wired is what is drawn."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fastnl_engine.testing import EngineProcess, end, pair, tunnel

FASTNL = str(Path(sys.executable).with_name("fastnl"))

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(engine: EngineProcess) -> Run:
    def run(*args: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        command = [FASTNL, "--endpoint", engine.endpoint, "graph", *map(str, args)]
        environ = {k: v for k, v in os.environ.items() if not k.startswith("FASTNL_")}
        done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60, check=False)
        assert "Traceback" not in done.stderr
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


@pytest.fixture
def wired(engine: EngineProcess, blue: str, red: str) -> None:
    """Two pairs between blue and red, a tunnel of red, and a pair whose namespace is not there."""
    client = engine.client()
    results = client.connect(
        [
            pair("c1", end(blue, "e1"), end(red, "e1"), labels={"tier": "web"}),
            pair("c2", end(red, "e2"), end(blue, "e2")),
            tunnel("t", end(red, "v"), vni=7, local="192.0.2.1", remote="192.0.2.2"),
        ]
    )
    assert all(r["ok"] for r in results), results
    client.connect([pair("later", end(blue, "e3"), end("nowhere", "e3"))], wait=True)


def test_everything_is_in_the_graph(run: Run, wired: None) -> None:
    graph = json.loads(run("--json").stdout)
    name = [n["name"] for n in graph["nodes"]]
    edges = {(name[e["a"]], name[e["b"]], e["kind"]): (e["state"], e["ids"]) for e in graph["edges"]}
    assert edges == {
        ("blue", "red", "veth"): ("up", ["c1", "c2"]),
        ("blue", "nowhere", "veth"): ("pending", ["later"]),
        ("", "red", "vxlan"): ("up", ["t"]),
        ("", "192.0.2.2", "tunnel"): ("up", ["t"]),
    }
    assert [n["name"] for n in graph["nodes"] if n["missing"]] == ["nowhere"]
    assert graph["states"] == {"up": 3, "pending": 1}


def test_filters_are_those_of_list(run: Run, wired: None) -> None:
    def ids(*args: str) -> set[str]:
        return {i for e in json.loads(run("--json", *args).stdout)["edges"] for i in e["ids"]}

    assert ids("--state", "pending") == {"later"}
    assert ids("--label", "tier=web") == {"c1"}
    assert ids("--netns", "nowhere") == {"later"}
    assert ids("--limit", "2") == {"c1", "c2"}


def test_the_ending_of_the_file_chooses_the_format(run: Run, wired: None, tmp_path: Path) -> None:
    beginnings = {"x.svg": "<?xml", "x.html": "<!DOCTYPE html>", "x.dot": "graph fastnl {", "x.mmd": "graph LR"}
    beginnings["x.mermaid"] = "graph LR"
    for file, beginning in beginnings.items():
        done = run("-o", tmp_path / file)
        assert (tmp_path / file).read_text().startswith(beginning)
        assert done.stdout == ""
        assert "4 connections: 3 up, 1 pending" in done.stderr
    run("--format", "mermaid", "-o", tmp_path / "x.svg")
    assert (tmp_path / "x.svg").read_text().startswith("graph LR")


def test_svg_goes_to_standard_output(run: Run, wired: None) -> None:
    root = ElementTree.fromstring(run().stdout)
    names = {g.get("data-name") for g in root.iter("{http://www.w3.org/2000/svg}g")} - {None}
    assert names == {"blue", "red", "nowhere", "(own)", "192.0.2.2"}


def test_nothing_wired_is_a_picture_too(run: Run) -> None:
    assert "0 connections" in run().stdout
    assert run("--format", "dot").stdout.startswith("graph fastnl {")


def test_a_file_that_cannot_be_written_is_named(run: Run, tmp_path: Path) -> None:
    done = run("-o", tmp_path / "no" / "x.svg", code=1)
    assert "no/x.svg: No such file or directory" in done.stderr


def test_without_an_engine(run: Run, engine: EngineProcess) -> None:
    engine.stop()
    assert "no engine at" in run(code=2).stderr
