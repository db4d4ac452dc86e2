"""The real `fastnl` against a real engine: every command, what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import yaml
import zmq

import fastnl
from fastnl.testing import PATIENCE, Namespaces, eventually, ip_json, ping, spawn
from fastnl_engine.testing import EngineProcess

FASTNL = str(Path(sys.executable).with_name("fastnl"))

Run = Callable[..., subprocess.CompletedProcess[str]]


def environ(engine: EngineProcess | None = None) -> dict[str, str]:
    bare = {k: v for k, v in os.environ.items() if not k.startswith("FASTNL_")}
    return bare | ({"FASTNL_ENDPOINT": engine.endpoint, "FASTNL_EVENTS": engine.events} if engine else {})


@pytest.fixture
def engine(make_engine: Callable[..., EngineProcess]) -> EngineProcess:
    """Without audits, or what a test breaks would be mended before it is looked at."""
    return make_engine(env={"FASTNL_AUDIT": "0"}).start()


@pytest.fixture
def run(engine: EngineProcess) -> Run:
    """Runs `fastnl ARGS`, which finds the engine through its environment; checks the exit code."""

    def run(*args: object, code: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return fastnl_with(environ(engine), *args, code=code, stdin=stdin)

    return run


def fastnl_with(env: dict[str, str], *args: object, code: int, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [FASTNL, *map(str, args)]
    done = subprocess.run(command, env=env, input=stdin, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done.stdout + done.stderr
    return done


def pair(id: str = "c1", a: str = "blue", b: str = "red", **more: Any) -> dict[str, Any]:
    return {
        "id": id,
        "kind": "veth",
        "a": {"netns": a, "ifname": f"{id}a", "addresses": ["10.0.0.1/24"]},
        "b": {"netns": b, "ifname": f"{id}b", "addresses": ["10.0.0.2/24"]},
        **more,
    }


@pytest.fixture
def wired(run: Run, blue: str, red: str) -> dict[str, Any]:
    """Connection c1 between blue and red, as `connect --json` told of it."""
    [result] = json.loads(run("connect", "-", "--json", stdin=json.dumps(pair(labels={"tier": "web"}))).stdout)
    return result


# -- changing ----------------------------------------------------------------------------------------


def test_connect_yaml(run: Run, blue: str, red: str, tmp_path: Path) -> None:
    file = tmp_path / "wires.yaml"
    file.write_text(yaml.safe_dump([pair("c1"), pair("c2", b="")]))
    done = run("connect", file)
    assert re.search(r"^c1 +up +changed +c1a#\d+ +c1b#\d+$", done.stdout, re.MULTILINE)
    assert "connect: 2 in all, 2 changed, 0 failed" in done.stdout
    assert ping(blue, "10.0.0.2")
    assert ip_json("", "link", "show", "c2b")
    again = run("connect", file)
    assert re.search(r"^c1 +up +as it was ", again.stdout, re.MULTILINE)
    assert "0 changed" in again.stdout


def test_connect_json(wired: dict[str, Any], blue: str) -> None:
    [link] = ip_json(blue, "link", "show", "c1a")
    assert wired["id"] == "c1"
    assert wired["ok"] and wired["changed"]
    assert wired["state"] == "up"
    assert wired["a"] == {"ifindex": link["ifindex"], "ifname": "c1a"}
    assert set(wired["b"]) == {"ifindex", "ifname"}


def test_each_failing_item_is_shown(run: Run, blue: str, red: str) -> None:
    items = [pair("good"), pair("lost", b="nowhere"), pair("bad", mtu=7), {"id": 5}, pair("good")]
    done = run("connect", "-", stdin=json.dumps(items), code=1)
    assert "connect: 5 in all, 1 changed, 4 failed" in done.stdout
    for pattern in (
        r"^lost +netns_not_found +b\.netns +b\.netns: namespace 'nowhere'.*ip netns add nowhere",
        r"^bad +invalid +mtu +mtu: 7 is not between",
        r"^\(item 4\) +invalid +id +id: Expected `str`, got `int`",
        r"^good +conflict +id +id: 'good' is there twice",
    ):
        assert re.search(pattern, done.stderr, re.MULTILINE), done.stderr
    assert ip_json(blue, "link", "show", "gooda")


def test_failing_items_as_json(run: Run, blue: str, red: str) -> None:
    items = [pair("good"), pair("lost", b="nowhere"), {"id": 5}]
    done = run("connect", "--json", "-", stdin=json.dumps(items), code=1)
    good, lost, broken = json.loads(done.stdout)
    assert good["ok"]
    assert (lost["id"], lost["ok"]) == ("lost", False)
    assert (lost["error"]["code"], lost["error"]["field"]) == ("netns_not_found", "b.netns")
    assert (broken["id"], broken["error"]["code"], broken["error"]["field"]) == (None, "invalid", "id")
    assert done.stderr == ""


def test_connect_wait(run: Run, blue: str) -> None:
    done = run("connect", "--wait", "-", stdin=json.dumps(pair(b="later")))
    assert re.search(r"^c1 +pending .*no /run/netns/later", done.stdout, re.MULTILINE)
    [result] = json.loads(run("list", "--json").stdout)
    assert result["state"] == "pending"


def test_many_items_go_in_several_requests(run: Run, blue: str, red: str) -> None:
    items = [pair(f"c{i}", b=f"no{i}") for i in range(2500)]
    items[1700] = pair("good")
    items[2400] = pair("good", a="red", b="blue")  # another request than the first of that id
    results = json.loads(run("connect", "-", "--json", stdin=json.dumps(items), code=1).stdout)
    assert [r["id"] for r in results] == [item["id"] for item in items]
    assert [r["id"] for r in results if r["ok"]] == ["good"]
    assert results[2400]["error"]["code"] == "conflict"
    assert all(r["error"]["code"] == "netns_not_found" for i, r in enumerate(results) if i not in (1700, 2400))


def test_more_than_the_engine_takes_at_once(make_engine: Callable[..., EngineProcess], blue: str, red: str) -> None:
    engine = make_engine(env={"FASTNL_QUEUE": "90"}).start()
    items = [pair(f"c{i}", b=f"no{i}") for i in range(700)]
    done = fastnl_with(environ(engine), "connect", "-", "--json", stdin=json.dumps(items), code=1)
    assert {r["error"]["code"] for r in json.loads(done.stdout)} == {"netns_not_found"}


def test_no_items(run: Run) -> None:
    assert json.loads(run("connect", "-", "--json", stdin="[]").stdout) == []
    assert "0 in all" in run("connect", "-", stdin="[]").stdout


def test_disconnect(run: Run, wired: dict[str, Any], blue: str) -> None:
    done = run("disconnect", "c1", "unknown", "c1")
    assert re.search(r"^c1 +removed$", done.stdout, re.MULTILINE)
    assert re.search(r"^unknown +was not there$", done.stdout, re.MULTILINE)
    assert "disconnect: 2 in all, 1 changed, 0 failed" in done.stdout
    assert [link["ifname"] for link in ip_json(blue, "link", "show")] == ["lo"]
    again = json.loads(run("disconnect", "c1", "--json").stdout)
    assert again == [{"id": "c1", "ok": True, "changed": False}]


def test_disconnect_all(run: Run, blue: str, red: str) -> None:
    run("connect", "-", stdin=json.dumps([pair("c1"), pair("c2")]))
    assert "--yes" in run("disconnect", "--all", code=2).stderr
    assert len(json.loads(run("list", "--json").stdout)) == 2
    done = run("disconnect", "--all", "--yes", "--json")
    assert [(r["id"], r["changed"]) for r in json.loads(done.stdout)] == [("c1", True), ("c2", True)]
    assert json.loads(run("disconnect", "--all", "--yes", "--json").stdout) == []


@pytest.mark.parametrize("args", [[], ["--all", "c1"]])
def test_disconnect_needs_either(run: Run, args: list[str]) -> None:
    assert "either" in run("disconnect", *args, code=2).stderr


@pytest.mark.parametrize("mode", ["move", "recreate"])
def test_move(run: Run, wired: dict[str, Any], netns: Namespaces, mode: str) -> None:
    green = netns.make("green")
    [result] = json.loads(run("move", "c1", "b", green, "--mode", mode, "--json").stdout)
    assert (result["id"], result["ok"], result["state"]) == ("c1", True, "up")
    assert ip_json(green, "link", "show", "c1b")[0]["ifindex"] == result["b"]["ifindex"]
    if mode == "move":
        assert result["b"] == wired["b"]


def test_move_that_fails(run: Run, wired: dict[str, Any]) -> None:
    [result] = json.loads(run("move", "c1", "b", "nowhere", "--json", code=1).stdout)
    assert result["error"]["code"] == "netns_not_found"
    assert re.search(r"^no +unknown_id +id ", run("move", "no", "a", "", code=1).stderr, re.MULTILINE)
    assert "'c' is not one of" in run("move", "c1", "c", "", code=2).stderr


# -- looking -----------------------------------------------------------------------------------------


@pytest.fixture
def several(run: Run, blue: str, red: str) -> None:
    tunnel = {"vni": 42, "local": "192.0.2.1", "remote": "192.0.2.2"}
    run(
        "connect", "--wait", "-",
        stdin=json.dumps([
            pair("c1", labels={"tier": "web", "rack": "7"}),
            pair("c2", b="", labels={"tier": "db", "note": "a=b"}),
            pair("c3", b="later"),
            {"id": "v1", "kind": "vxlan", "a": {"netns": "red", "ifname": "vx0"}, "vxlan": tunnel},
        ]),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ([], ["c1", "c2", "c3", "v1"]),
        (["--netns", "red"], ["c1", "v1"]),
        (["--netns", "name:red"], ["c1", "v1"]),
        (["--netns", ""], ["c2"]),
        (["--state", "pending"], ["c3"]),
        (["--label", "tier=web"], ["c1"]),
        (["--label", "tier=web", "--label", "rack=8"], []),
        (["--label", "note=a=b"], ["c2"]),
        (["--limit", "2"], ["c1", "c2"]),
        (["--netns", "blue", "--limit", "1", "--state", "up"], ["c1"]),
    ],
)
def test_list_filters(run: Run, several: None, filters: list[str], ids: list[str]) -> None:
    assert [r["id"] for r in json.loads(run("list", "--json", *filters).stdout)] == ids


def test_list_table(run: Run, several: None) -> None:
    header, *rows = run("list").stdout.splitlines()
    assert header.split() == ["ID", "KIND", "STATE", "A", "B", "OR", "TUNNEL", "REASON"]
    assert [row.split()[0] for row in rows] == ["c1", "c2", "c3", "v1"]
    assert "(own)/c2b 10.0.0.2/24" in rows[1]
    assert "no /run/netns/later; `ip netns add later` would make it" in rows[2]  # whole, as this is no terminal
    assert "vni 42 192.0.2.1 to 192.0.2.2" in rows[3]
    empty = run("list", "--state", "failed")
    assert (empty.stdout, empty.stderr) == ("", "no connections\n")


@pytest.mark.parametrize(
    "filters", [["--label", "tier"], ["--label", "=x"], ["--state", "odd"], ["--limit", "0"], ["--limit", "x"]]
)
def test_list_usage(run: Run, filters: list[str]) -> None:
    assert "Usage: fastnl list" in run("list", *filters, code=2).stderr


def test_show(run: Run, wired: dict[str, Any]) -> None:
    record = json.loads(run("show", "c1", "--json").stdout)
    assert record["id"] == "c1"
    assert record["state"] == "up"
    assert record["a"]["netns"] == "blue"
    assert record["a"]["ifindex"] == wired["a"]["ifindex"]
    assert record["labels"] == {"tier": "web"}
    assert yaml.safe_load(run("show", "c1").stdout) == record


def test_show_unknown(run: Run) -> None:
    assert re.search(r"^no +unknown_id ", run("show", "no", code=1).stderr, re.MULTILINE)
    assert json.loads(run("show", "no", "--json", code=1).stdout)["error"]["code"] == "unknown_id"


def test_verify(run: Run, wired: dict[str, Any], blue: str) -> None:
    assert run("verify").stdout == "verify: 1 in all, 0 not as they should be\n"
    assert json.loads(run("verify", "c1", "--json").stdout) == [{"id": "c1", "ok": True, "differences": []}]
    subprocess.run(["ip", "-n", blue, "link", "set", "c1a", "mtu", "1300"], check=True)
    subprocess.run(["ip", "-n", blue, "address", "flush", "dev", "c1a"], check=True)
    done = run("verify", code=1)
    assert re.search(r"^c1 +a\.addresses\[0\] +10\.0\.0\.1/24 +-$", done.stdout, re.MULTILINE), done.stdout
    first, second = json.loads(run("verify", "c1", "no", "--json", code=1).stdout)
    assert {"field": "a.addresses[0]", "want": "10.0.0.1/24", "have": None} in first["differences"]
    assert second["error"]["code"] == "unknown_id"


def test_stats(run: Run, wired: dict[str, Any], blue: str) -> None:
    assert ping(blue, "10.0.0.2", count=3)
    [row] = json.loads(run("stats", "c1", "--json").stdout)
    assert row["a"]["ifname"] == "c1a"
    assert row["a"]["tx_packets"] >= 3
    assert row["b"]["rx_bytes"] == row["a"]["tx_bytes"]
    header, a, b = run("stats").stdout.splitlines()
    assert header.startswith("ID  END  INTERFACE")
    assert a.split()[:3] == ["c1", "a", "c1a"]
    assert int(b.split()[3]) >= 3
    assert re.search(r"^no +unknown_id ", run("stats", "no", code=1).stderr, re.MULTILINE)


def test_nothing_to_look_at(run: Run) -> None:
    for command in ("verify", "stats", "list"):
        assert json.loads(run(command, "--json").stdout) == []
        run(command)


def test_info(run: Run, wired: dict[str, Any]) -> None:
    info = json.loads(run("info", "--json").stdout)
    assert info["version"] == fastnl.__version__
    assert info["connections"] == {"up": 1}
    assert info["features"]["veth"] is True
    assert yaml.safe_load(run("info").stdout)["instance"] == info["instance"]


# -- events ------------------------------------------------------------------------------------------


class Listener:
    """`fastnl events ARGS`, which has seen an event of connection c0 when it is made."""

    def __init__(self, engine: EngineProcess, *args: str) -> None:
        self._client = engine.client()
        self._out = engine.folder / "heard"
        with open(self._out, "wb") as out:
            self.process = spawn(
                [FASTNL, "events", *args], env=environ(engine), text=True, stdout=out, stderr=subprocess.PIPE
            )
        assert eventually(lambda: self.happen() or self.lines)

    def happen(self) -> None:
        """Two events of connection c0: pending and removed."""
        ends = {end: {"netns": "no-such-namespace", "ifname": end} for end in "ab"}
        self._client.connect([{"id": "c0", "kind": "veth", **ends}], wait=True)
        self._client.disconnect(["c0"])

    @property
    def lines(self) -> list[str]:
        """Every whole line so far."""
        return [line for line in self._out.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def wait_for(self, text: str) -> str:
        """The first line that holds a text."""
        assert eventually(lambda: any(text in line for line in self.lines))
        return next(line for line in self.lines if text in line)

    def end(self) -> tuple[int, str]:
        """Its exit code and what it said on standard error."""
        _, err = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, err


@pytest.fixture
def listen(engine: EngineProcess) -> Iterator[Callable[..., Listener]]:
    listeners = []

    def listen(*args: str) -> Listener:
        listeners.append(Listener(engine, *args))
        return listeners[-1]

    yield listen
    for listener in listeners:
        listener.process.kill()
        listener.end()


def test_events(listen: Callable[..., Listener], run: Run, blue: str, red: str) -> None:
    listener = listen()
    run("connect", "-", stdin=json.dumps(pair()))
    run("disconnect", "c1")
    assert listener.wait_for("removed   c1").endswith("c1  was up\n")
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3}  up        c1\n", listener.wait_for("c1"))


def test_events_as_json(listen: Callable[..., Listener], run: Run, blue: str, red: str) -> None:
    listener = listen("--json", "--state", "pending")
    run("connect", "--wait", "-", stdin=json.dumps(pair(b="later")))
    event = json.loads(listener.wait_for('"c1"'))
    assert (event["id"], event["state"], event["was"]) == ("c1", "pending", None)
    assert "no /run/netns/later" in event["reason"]
    assert {"time", "n"} <= set(event)
    assert {json.loads(line)["event"] for line in listener.lines} == {"pending"}


def test_events_count(listen: Callable[..., Listener]) -> None:
    listener = listen("--count", "7")
    for _ in range(3):
        listener.happen()
    assert listener.end() == (0, "")
    assert len(listener.lines) == 7


# -- cut short ---------------------------------------------------------------------------------------


class Desk:
    """Takes requests in an engine's place."""

    def __init__(self, folder: Path) -> None:
        self.endpoint = f"ipc://{folder}/desk.sock"
        self.environ = environ() | {"FASTNL_ENDPOINT": self.endpoint}
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 1000)
        self._socket.bind(self.endpoint)

    def take(self) -> tuple[bytes, dict[str, Any]]:
        """The next request and who it is from."""
        assert self._socket.poll(PATIENCE * 1000)
        who, frame = self._socket.recv_multipart()
        return who, msgpack.unpackb(frame)

    def answer(self, **reply: Any) -> None:
        """To the next request."""
        who, request = self.take()
        self._socket.send_multipart([who, msgpack.packb({"v": 1, "id": request["id"], **reply})])

    def close(self) -> None:
        self._socket.close()
        self._context.term()


@pytest.fixture
def desk() -> Iterator[Desk]:
    with tempfile.TemporaryDirectory(prefix="fastnl-") as folder:
        desk = Desk(Path(folder))
        yield desk
        desk.close()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A job in a shell's background is told to ignore SIGINT, and so would be what we start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_interrupted_events(interruptible: None, listen: Callable[..., Listener]) -> None:
    listener = listen()
    listener.process.send_signal(signal.SIGINT)
    assert listener.end() == (130, "")


def test_interrupted_connect(interruptible: None, desk: Desk) -> None:
    process = spawn(
        [FASTNL, "connect", "-"], env=desk.environ, text=True, stdin=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdin.write(json.dumps(pair()))
    process.stdin.close()
    process.stdin = None
    desk.take()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert err == "1 have no answer and may still be done; `fastnl list` shows what is there\n"


@pytest.mark.parametrize("args", [["list", "--json"], ["info"], ["doctor"]])
def test_reader_went_away(engine: EngineProcess, args: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [FASTNL, *args], env=environ(engine), stdout=write, stderr=subprocess.PIPE, timeout=PATIENCE, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


# -- no engine, wrong usage --------------------------------------------------------------------------


ASKING = [
    ["connect", "-"],
    ["disconnect", "c1"],
    ["disconnect", "--all", "--yes"],
    ["move", "c1", "a", "blue"],
    ["list"],
    ["show", "c1"],
    ["verify"],
    ["verify", "c1"],
    ["stats"],
    ["info"],
    ["events"],
]


@pytest.mark.parametrize("args", ASKING, ids=" ".join)
def test_no_engine(tmp_path: Path, args: list[str]) -> None:
    nowhere = {"FASTNL_ENDPOINT": f"ipc://{tmp_path}/e", "FASTNL_EVENTS": f"ipc://{tmp_path}/v"}
    done = fastnl_with(environ() | nowhere, *args, code=2, stdin="[]")
    assert done.stdout == ""
    assert "there is no such socket" in done.stderr
    assert "Start one with `fastnl-engine`" in done.stderr
    assert "--endpoint or FASTNL_ENDPOINT" in done.stderr


def test_engine_that_died(engine: EngineProcess, run: Run) -> None:
    engine.kill()
    assert "nobody listens on it any more" in run("list", code=2).stderr


def test_engine_that_is_silent(desk: Desk) -> None:
    assert "no answer within 0.3 s" in fastnl_with(desk.environ, "--timeout", "0.3", "list", code=2).stderr
    two = json.dumps([pair("c1"), pair("c2")])
    done = fastnl_with(desk.environ, "connect", "-", "--timeout", "0.3", stdin=two, code=2)
    assert done.stderr.startswith("2 have no answer and may still be done")
    assert "no answer within 0.3 s" in done.stderr


def test_engine_that_refuses(desk: Desk) -> None:
    error = {"code": "unsupported_version", "message": "v: 1; this engine speaks version 2"}
    for args in (["list"], ["connect", "-"]):
        process = spawn(
            [FASTNL, *args], env=desk.environ, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        process.stdin.write(json.dumps(pair()))
        process.stdin.close()
        process.stdin = None
        desk.answer(ok=False, error=error)
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 1
        assert "unsupported_version" in err
        assert "this engine speaks version 2" in err


def test_flags_go_before_or_after_the_command(engine: EngineProcess) -> None:
    nowhere = environ() | {"FASTNL_ENDPOINT": "ipc:///nowhere"}
    before = fastnl_with(nowhere, "--endpoint", engine.endpoint, "--json", "info", code=0)
    after = fastnl_with(nowhere, "info", "--json", "--endpoint", engine.endpoint, code=0)
    assert set(json.loads(before.stdout)) == set(json.loads(after.stdout))
    both = fastnl_with(nowhere, "--endpoint", "ipc:///elsewhere", "info", "--endpoint", engine.endpoint, code=0)
    assert both.stdout.startswith("version: ")


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["--endpoint", "nonsense", "list"], "nonsense is no endpoint"),
        (["--events", "nonsense", "events"], "nonsense is no endpoint"),
        (["events", "--count", "0"], "--count"),
        (["--endpoint", "ipc:///" + 120 * "x", "list"], "too long"),
        (["--timeout", "0", "list"], "--timeout"),
        (["--timeout", "nan", "list"], "--timeout"),
        (["unknown"], "No such command"),
        (["move", "c1"], "Missing argument"),
        (["connect"], "Missing argument"),
        (["list", "--nonsense"], "No such option"),
    ],
)
def test_wrong_usage(args: list[str], problem: str) -> None:
    assert problem in fastnl_with(environ(), *args, code=2).stderr


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.yaml", "a: 1\nb: [1\nc: 2\n", r"a\.yaml, line 3, column 2: .*expected ',' or '\]'"),
        ("a.json", '{"id": "x",\n "kind" 3}', r"a\.json, line 2, column 9: Expecting ':' delimiter"),
        ("a.yaml", "- 5\n", r"a\.yaml: item 1 is a number; a connection is a mapping"),
    ],
)
def test_broken_file(run: Run, tmp_path: Path, name: str, text: str, problem: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    done = run("connect", file, code=2)
    assert re.search(problem, done.stderr), done.stderr
    assert done.stdout == ""


def test_file_that_is_not_there(run: Run, tmp_path: Path) -> None:
    assert "No such file" in run("connect", tmp_path / "no.yaml", code=2).stderr
    assert "Is a directory" in run("connect", tmp_path, code=2).stderr
    assert "standard input, line 1, column 2" in run("connect", "-", stdin="[}", code=2).stderr


def test_help_needs_no_engine() -> None:
    listed = fastnl_with(environ(), "--help", code=0).stdout
    for command in ("connect", "disconnect", "move", "list", "show", "verify", "stats", "events", "info", "doctor"):
        assert re.search(rf"^  {command} ", listed, re.MULTILINE)
        assert "--json" in fastnl_with(environ(), command, "--help", code=0).stdout
    assert fastnl.__version__ in fastnl_with(environ(), "--version", code=0).stdout


def test_help_imports_nothing_slow() -> None:
    code = "import sys, fastnl_engine.cli; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"zmq", "rich", "yaml", "msgspec", "fastnl", "pyroute2", "asyncio"} & set(done.stdout.split())
