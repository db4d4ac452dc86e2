"""The real `vpp-agent-ctl` against a real etcd: the old words, and what of the old tool is not to be had any more."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastnl.testing import PATIENCE
from fastnl_engine.cli import vpp_agent_ctl
from fastnl_engine.kv.testing import Etcd
from fastnl_engine.northbound.ligato.decode import decode
from fastnl_engine.northbound.ligato.keys import parse_key
from fastnl_engine.testing import EngineProcess

AGENT = "/vnf-agent/vpp1/"
VETH1 = AGENT + "linux/config/v1/interface/veth1"


def environ(etcd: Etcd | None = None, **more: str) -> dict[str, str]:
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("FASTNL_", "ETCD", "MICROSERVICE_"))}
    return bare | ({"ETCD_ENDPOINTS": etcd.urls[0]} if etcd else {}) | more


def run(env: dict[str, str], *words: object, code: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastnl_engine.cli.vpp_agent_ctl", *map(str, words)]
    done = subprocess.run(command, env=env, input=stdin, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, done.stdout + done.stderr
    return done


def contents(etcd: Etcd) -> dict[str, Any]:
    found = json.loads(etcd.ctl("get", "", "--prefix", "--write-out=json")).get("kvs", [])
    return {base64.b64decode(kv["key"]).decode(): json.loads(base64.b64decode(kv["value"])) for kv in found}


def test_it_is_an_entry_point() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    module, _, function = project["project"]["scripts"]["vpp-agent-ctl"].partition(":")
    assert getattr(sys.modules[module], function) is vpp_agent_ctl.main


def test_without_a_word_it_prints_its_commands_and_asks_nobody(tmp_path: Path) -> None:
    nowhere = environ(ETCD_ENDPOINTS="127.0.0.1:1", ETCD_CONFIG="/none")
    for words in ((), ("-h",), ("--help",), (tmp_path / "none.yaml",)):
        done = run(nowhere, *words)
        assert done.stderr == ""
        for word in (
            "-put <etc_key> <json-file>", "-get <etc_key>", "-del <etc_key>", "-dump", "-list", "-veth, -vethd",
            "-ltap, -ltapd", "-lrte, -lrted", "-larp, -larpd", "What differs from the tool", "no other", "exit code 1",
        ):  # fmt: skip
            assert word in done.stdout, word


def test_put_get_del_by_whole_keys(etcd: Etcd, tmp_path: Path) -> None:
    env = environ(etcd)
    file = tmp_path / "veth1.json"
    file.write_text('{"name": "veth1", "veth": {"peer_if_name": "veth2"}}')
    assert run(env, "-put", VETH1, file).stdout == f"DB put successful {VETH1} {file}\n"
    run(env, "-put", VETH1 + "0", "-", stdin=file.read_text().replace("veth1", "veth10"))
    run(env, "-put", AGENT + "vpp/config/v1/bd/bd1", "-", stdin='{"name": "bd1"}')  # whoever reads it
    assert run(env, "-get", VETH1).stdout == file.read_text() + "\n"
    done = run(env, "-get", VETH1 + "00", code=1)
    assert (done.stdout, done.stderr) == ("", f"vpp-agent-ctl: {VETH1}00 is not there\n")
    run(env, "-del", VETH1)
    assert set(contents(etcd)) == {VETH1 + "0", AGENT + "vpp/config/v1/bd/bd1"}
    assert "was not there" in run(env, "-del", VETH1).stdout


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "standard input, line 1, column 2: not a valid JSON"),
        ("[1]", "must be a JSON object"),
        ("", "line 1, column 1: not a valid JSON"),
        ("\xff", "not a valid JSON"),
        ("[" * 100_000, "not a valid JSON"),
        ('{"name": "veth1",\n "type": "VETHS"}', "standard input, line 2, column 10: type: 'VETHS' is none of"),
    ],
)
def test_what_cannot_be_is_no_panic_and_not_written(etcd: Etcd, text: str, problem: str) -> None:
    done = run(environ(etcd), "-put", VETH1, "-", code=1, stdin=text)
    assert problem in done.stderr and "Nothing was written." in done.stderr
    assert contents(etcd) == {}


def test_list_and_dump(etcd: Etcd) -> None:
    for key in (AGENT + "a", "/vnf-agent/web/b", "/other"):
        etcd.ctl("put", key, "{}")
    assert run(environ(etcd), "-list").stdout == f"key:  {AGENT}a\nkey:  /vnf-agent/web/b\n"
    assert run(environ(etcd), "-dump").stdout == f"/other\n{{}}\n\n{AGENT}a\n{{}}\n\n/vnf-agent/web/b\n{{}}\n\n"
    assert run(environ(etcd), "-dump", "/vnf-agent/web").stdout == "/vnf-agent/web/b\n{}\n\n"


@pytest.mark.parametrize(
    ("word", "keys"),
    [
        ("-veth", ["linux/config/v1/interface/veth1", "linux/config/v1/interface/veth2"]),
        ("-ltap", ["linux/config/v1/interface/tap1"]),
        ("-lrte", ["linux/config/v1/route/route1"]),
        ("-larp", ["linux/config/v1/arp/arp1"]),
    ],
)
def test_prearranged_values_come_and_go(etcd: Etcd, word: str, keys: list[str]) -> None:
    env = environ(etcd, MICROSERVICE_LABEL="web")
    etcd.ctl("put", f"/vnf-agent/web/{keys[0]}0", "{}")
    run(env, word)
    found = contents(etcd)
    assert sorted(found) == sorted([f"/vnf-agent/web/{key}" for key in keys] + [f"/vnf-agent/web/{keys[0]}0"])
    for key in keys:
        text = f"/vnf-agent/web/{key}"
        parsed = parse_key(text, "web")
        assert parsed is not None
        value, remarks = decode(parsed, json.dumps(found[text]).encode())
        assert value is not None and remarks == ()
    run(env, word + "d")
    assert list(contents(etcd)) == [f"/vnf-agent/web/{keys[0]}0"]
    assert "was not there" in run(env, word + "d").stdout


def test_the_pair_is_that_of_the_old_tool(etcd: Etcd) -> None:
    run(environ(etcd), "-veth")
    one, two = (contents(etcd)[AGENT + f"linux/config/v1/interface/veth{n}"] for n in (1, 2))
    assert one == {
        "name": "veth1", "type": 0, "enabled": True, "phys_address": "D2:74:8C:12:67:D2", "mtu": 1500,
        "namespace": {"type": 2, "name": "ns1"}, "ip_addresses": ["192.168.22.1/24", "10.0.2.2/24"],
        "veth": {"peer_if_name": "veth2"},
    }  # fmt: skip
    assert two == {
        "name": "veth2", "type": 0, "enabled": True, "phys_address": "92:C7:42:67:AB:CD", "mtu": 1500,
        "namespace": {"type": 2, "name": "ns2"}, "ip_addresses": ["192.168.22.2/24"],
        "veth": {"peer_if_name": "veth1"},
    }  # fmt: skip
    run(environ(etcd), "-ltap")
    tap = contents(etcd)[AGENT + "linux/config/v1/interface/tap1"]
    assert (tap["type"], tap["host_if_name"], tap["phys_address"]) == (1, "tap-host", "BC:FE:E9:5E:07:04")
    assert (tap["mtu"], tap["ip_addresses"]) == (1500, ["172.52.45.127/24"])


def test_etcd_from_a_file_or_the_environment(etcd: Etcd, tmp_path: Path) -> None:
    config = tmp_path / "etcd.yaml"
    config.write_text(f"insecure-transport: true\ndial-timeout: 1000000000\nendpoints:\n - '{etcd.urls[0]}'\n")
    run(environ(ETCD_ENDPOINTS="127.0.0.1:1"), config, "-larp")
    assert len(contents(etcd)) == 1
    run(environ(ETCD_CONFIG=str(config)), "-larpd")
    assert contents(etcd) == {}
    assert "No such file" in run(environ(), tmp_path / "none.yaml", "-list", code=2).stderr


def test_nobody_there_is_no_success() -> None:
    done = run(environ(ETCD_ENDPOINTS="127.0.0.1:1"), "-list", code=2)
    assert done.stdout == "" and "no connection to etcd at http://127.0.0.1:1" in done.stderr


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["-frob"], "there is no such command"),
        (["-put", "a"], "-put: takes <etc_key> <json-file>"),
        (["-get"], "-get: takes <etc_key>"),
        (["-del", "a", "b"], "-del: takes <etc_key>"),
        (["-dump", "a", "b"], "-dump: takes [<prefix>]"),
        (["-veth", "x"], "-veth: takes no arguments"),
        (["-put", "/k", "/none.json"], "/none.json: No such file"),
        *(
            ([word], "there is no VPP here")
            for word in ("-memif", "-memifd", "-bfds", "-errIf", "-txnd", "-el4", "-arp")
        ),
    ],
)
def test_wrong_words(words: list[str], problem: str) -> None:
    done = run(environ(ETCD_ENDPOINTS="127.0.0.1:1"), *words, code=2)
    assert problem in done.stderr and done.stdout == ""


def test_the_engines_own_store(make_keys_engine: Callable[..., EngineProcess]) -> None:
    engine = make_keys_engine().start()
    env = environ(FASTNL_ENDPOINT=engine.endpoint)
    run(env, "--embedded", "-veth")
    rows = engine.raw().request(id=1, op="kv", action="range", prefix="")["results"]
    assert [row["key"] for row in rows] == [VETH1, VETH1[:-1] + "2"]
    assert "veth1" in run(env, "--embedded", "-get", VETH1).stdout
    run(env, "--embedded", "-vethd")
    assert run(env, "--embedded", "-list").stdout == ""
