"""The setting `file_prefixes`: requests, stored connections and links that turn bad later."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastnl.testing import Namespaces, eventually, ip_json
from fastnl_engine.testing import EngineProcess, end, pair


@pytest.fixture
def folders(netns: Namespaces, tmp_path: Path) -> Iterator[Path]:
    """in/red, in/blue and out/red, which are the namespaces of those names."""
    mounted = []
    for name in ("red", "blue"):
        netns.make(name)
    for name in ("in/red", "in/blue", "out/red", "out/blue"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
        subprocess.run(["mount", "--bind", f"/run/netns/{path.name}", path], check=True)
        mounted.append(path)
    yield tmp_path
    for path in mounted:
        subprocess.run(["umount", path], check=True)


@pytest.fixture
def fenced(make_engine: Callable[..., EngineProcess], folders: Path) -> EngineProcess:
    return make_engine(instance="fenced", env={"FASTNL_FILE_PREFIXES": f"/no/such/folder:{folders}/in"})


def interfaces(netns: str) -> set[str]:
    return {row["ifname"] for row in ip_json(netns, "link", "show")} - {"lo"}


def test_a_request_outside_is_refused_by_field_and_one_inside_is_done(fenced, folders):
    client = fenced.start().client()
    inside, outside = f"file:{folders}/in/red", f"file:{folders}/in/../out/red"
    tunnel = {"id": "t", "kind": "vxlan", "a": end(inside, "t0"), "vxlan": {"vni": 7, "underlay": outside}}
    jobs = [
        pair("a", end(outside, "e0"), end("blue", "e0")), pair("b", end("blue", "e0"), end(outside, "e0")),
        tunnel, pair("good", end(inside, "e1"), end(f"file:{folders}/in/blue", "e1")),
    ]  # fmt: skip
    *bad, good = client.connect(jobs, wait=True)
    assert [(r["ok"], r["error"]["code"], r["error"]["field"]) for r in bad] == [
        (False, "invalid", "a.netns"), (False, "invalid", "b.netns"), (False, "invalid", "vxlan.underlay"),
    ]  # fmt: skip
    assert "file_prefixes" in bad[0]["error"]["message"]
    assert good["ok"] and interfaces("red") == {"e1"} and interfaces("blue") == {"e1"}
    [moved] = client.move([{"id": "good", "end": "b", "netns": outside}])
    assert (moved["error"]["code"], moved["error"]["field"]) == ("invalid", "b.netns")
    assert [record["id"] for record in client.list()] == ["good"]
    assert all(v["ok"] for v in client.verify())
    client.disconnect(["good"])


def test_a_link_that_leads_out_is_refused_when_it_is_opened(fenced, folders):
    (folders / "in" / "link").symlink_to("../out/red")
    client = fenced.start().client()
    [result] = client.connect([pair("c", end("blue", "e0"), end(f"file:{folders}/in/link", "e0"))], wait=True)
    assert (result["ok"], result["error"]["code"], result["error"]["field"]) == (False, "invalid", "b.netns")
    assert interfaces("blue") == set() == interfaces("red")


def test_a_link_that_leads_out_later_is_unwired(fenced, folders):
    link = folders / "in" / "link"
    link.symlink_to("red")
    client = fenced.start().client()
    assert client.connect([pair("c", end("blue", "e0"), end(f"file:{folders}/in/link", "e0"))])[0]["ok"]
    link.unlink()
    link.symlink_to("../out/blue")
    assert eventually(lambda: interfaces("blue") == set() and interfaces("red") == set())
    assert eventually(lambda: next(client.list())["state"] in ("pending", "failed"))
    [record] = client.list()
    assert record.get("reason") or record.get("error")
    client.disconnect(["c"])


@pytest.mark.parametrize("a", ["blue", "file:{}/out/blue"])
def test_what_was_stored_before_the_fence_fails_with_a_reason_and_is_taken_down(make_engine, folders, a):
    engine = make_engine(instance="fenced").start()
    client = engine.client()
    jobs = [
        pair("out", end(a.format(folders), "e0"), end(f"file:{folders}/out/red", "e0")),
        pair("in", end("blue", "e1"), end(f"file:{folders}/in/red", "e1")),
    ]
    later = pair("later", end("blue", "e2"), end(f"file:{folders}/out/none", "e2"))
    assert all(r["ok"] for r in client.connect(jobs)) and client.connect([later], wait=True)[0]["ok"]
    index = {row["ifname"]: row["ifindex"] for row in ip_json("red", "link", "show")}
    assert engine.stop() == 0
    engine.env["FASTNL_FILE_PREFIXES"] = f"{folders}/in"
    client = engine.start().client()
    assert eventually(lambda: interfaces("red") == {"e1"} == interfaces("blue"))
    assert {row["ifname"]: row["ifindex"] for row in ip_json("red", "link", "show")}["e1"] == index["e1"]
    assert eventually(lambda: all(r.get("error") for r in client.list(state="failed")))
    records = {r["id"]: r for r in client.list()}
    assert {id_: r["state"] for id_, r in records.items()} == {"in": "up", "out": "failed", "later": "failed"}
    for id_ in ("out", "later"):
        error = records[id_]["error"]
        assert error["code"] == "invalid" and error["field"] in ("a.netns", "b.netns")
    # and when the fence is moved it comes back
    engine.env["FASTNL_FILE_PREFIXES"] = ""
    engine.restart()
    assert eventually(lambda: interfaces("red") == {"e0", "e1"})
    assert engine.client().disconnect(["in", "out", "later"])


def test_a_folder_that_is_no_folder_is_refused_at_the_start(make_engine):
    engine = make_engine(env={"FASTNL_FILE_PREFIXES": "/fine:relative"})
    engine.launch()
    assert engine.wait() == 2
    assert "file_prefixes" in engine.log and "'relative'" in engine.log
