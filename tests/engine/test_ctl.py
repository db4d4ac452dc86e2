"""The real `fastnl ctl` against a real etcd and against an engine: what it does to keys, prints, and its exit codes."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from fastnl.testing import PATIENCE, Namespaces, eventually, ip_json, ping, spawn
from fastnl_engine.cli import ctl as commands
from fastnl_engine.cli import vpp_agent_ctl
from fastnl_engine.kv.testing import Etcd
from fastnl_engine.testing import EngineProcess

FASTNL = str(Path(sys.executable).with_name("fastnl"))
AGENT = "/vnf-agent/vpp1/"
INTERFACES = "linux/config/v1/interface/"
VETH1 = '{"name": "veth1", "type": 0, "enabled": true, "veth": {"peer_if_name": "veth2"}}'

GUIDE = (Path(__file__).parents[2] / "docs" / "ligato.md").read_text()

Run = Callable[..., subprocess.CompletedProcess[str]]


def environ(**more: str) -> dict[str, str]:
    bare = {k: v for k, v in os.environ.items() if not k.startswith(("FASTNL_", "ETCD", "MICROSERVICE_"))}
    return bare | more


def ctl(env: dict[str, str], *args: object, code: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [FASTNL, "ctl", *map(str, args)]
    done = subprocess.run(command, env=env, input=stdin, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr, done.stderr
    assert done.returncode == code, done.stdout + done.stderr
    return done


class Kept:
    """A store as others see it, and how `fastnl ctl` gets there."""

    def __init__(self, env: dict[str, str], read: Callable[[], dict[str, str]], write: Callable[[str, str], None]):
        self.env = env
        self.read = read
        self.write = write

    def run(self, *args: object, **more: Any) -> subprocess.CompletedProcess[str]:
        return ctl(self.env, *args, **more)

    def json(self, *args: object, **more: Any) -> Any:
        return json.loads(self.run("--json", *args, **more).stdout)


@pytest.fixture(params=["etcd", "embedded"])
def kept(request: pytest.FixtureRequest) -> Kept:
    if request.param == "etcd":
        etcd = request.getfixturevalue("etcd")
        return Kept(
            environ(ETCD_ENDPOINTS=etcd.urls[0]), lambda: contents(etcd), lambda k, v: print(etcd.ctl("put", k, v))
        )
    raw = request.getfixturevalue("make_keys_engine")().start()
    client = raw.raw()

    def read() -> dict[str, str]:
        rows = client.request(id=1, op="kv", action="range", prefix="")["results"]
        return {row["key"]: row["value"] for row in rows}

    def write(key: str, value: str) -> None:
        assert client.request(id=1, op="kv", action="put", key=key, value=value)["ok"]

    return Kept(environ(FASTNL_ENDPOINT=raw.endpoint), read, write)


def contents(etcd: Etcd) -> dict[str, str]:
    found = json.loads(etcd.ctl("get", "", "--prefix", "--write-out=json")).get("kvs", [])
    return {base64.b64decode(kv["key"]).decode(): base64.b64decode(kv["value"]).decode() for kv in found}


# -- one key -------------------------------------------------------------------------------------------


def test_put_get_del(kept: Kept, tmp_path: Path) -> None:
    file = tmp_path / "veth1.json"
    file.write_text(VETH1)
    done = kept.run("put", INTERFACES + "veth1", file)
    assert re.fullmatch(rf"put {AGENT}{INTERFACES}veth1, revision \d+\n", done.stdout)
    assert done.stderr == ""
    kept.run("put", f"/vnf-agent/web/{INTERFACES}veth10", "-", stdin=VETH1.replace("veth1", "veth10"))
    assert kept.read()[AGENT + INTERFACES + "veth1"] == VETH1
    assert kept.run("get", INTERFACES + "veth1").stdout == VETH1 + "\n"
    found = kept.json("--label", "web", "get", INTERFACES + "veth10")
    assert (found["key"], found["value"]["name"]) == (f"/vnf-agent/web/{INTERFACES}veth10", "veth10")
    assert kept.run("del", INTERFACES + "veth1").stdout == f"deleted {AGENT}{INTERFACES}veth1\n"
    assert "was not there" in kept.run("del", INTERFACES + "veth1").stdout
    assert list(kept.read()) == [f"/vnf-agent/web/{INTERFACES}veth10"]
    assert "is not there" in kept.run("get", INTERFACES + "veth1", code=1).stderr
    assert kept.json("get", INTERFACES + "veth1", code=1)["value"] is None


def test_del_takes_one_key_and_a_prefix_only_when_told(kept: Kept) -> None:
    for name in ("veth1", "veth10", "veth100", "other"):
        kept.write(AGENT + INTERFACES + name, "{}")
    kept.write("/vnf-agent/vpp10/" + INTERFACES + "veth1", "{}")
    kept.run("del", INTERFACES + "veth1")
    assert [key.rpartition("/")[2] for key in kept.read()] == ["other", "veth10", "veth100", "veth1"]
    done = kept.run("del", "--prefix", INTERFACES + "veth1")
    assert done.stdout.splitlines() == [
        f"deleted {AGENT}{INTERFACES}veth10",
        f"deleted {AGENT}{INTERFACES}veth100",
        "2 keys deleted",
    ]
    for much in ("/", "/vnf-agent/", "/vnf-agent/vpp1"):
        assert "beyond one agent" in kept.run("del", "--prefix", much, code=2).stderr
    assert kept.json("del", "--prefix", "") == {"keys": [f"{AGENT}{INTERFACES}other"], "deleted": 1}
    assert list(kept.read()) == ["/vnf-agent/vpp10/" + INTERFACES + "veth1"]


# -- what cannot be is not written -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "text", "pattern"),
    [
        (INTERFACES + "v", '{\n  "name": "v",\n  "mtu": "x"\n}', r"line 3, column 10: mtu: must be a whole number"),
        (INTERFACES + "v", '{"name": "v",}', r"line 1, column \d+: value: is not JSON"),
        (INTERFACES + "v", "[1]", r"line 1, column 1: value: must be a JSON object"),
        (INTERFACES + "v", '{"veth": {"peer_if_name": "w"},\n "ip_addresses": ["10.0.0.1/24",\n "10.0.0.x"]}',
         r"line 3, column 2: ip_addresses\[1\]: '10\.0\.0\.x'"),
        (INTERFACES + "v", "{}", r"line 1, column 1: veth\.peer_if_name: is empty"),
        ("config/linux/interfaces/v2/interface/v", '{"name": "w", "type": "DUMMY"}',
         r"column 10: name: 'w' is not the name in the key"),
        ("config/linux/l3/v2/route/10.0.0.0/8", "{}", r"must end in <ip>/<prefix>/<interface>"),
        ("linux/config/v1/bridge/b", "{}", r"linux/config/v1/bridge/b: this kind of configuration is not supported"),
        ("some/where", "{}", r"fastnl reads nothing there.*\n(.*\n)*.*linux/config/v1/interface/"),
        ("vpp/config/v1/interface/m", '{"type": 2}', r"is no AF_PACKET interface"),
    ],
)  # fmt: skip
def test_what_fastnl_cannot_use_is_refused(etcd: Etcd, key: str, text: str, pattern: str, tmp_path: Path) -> None:
    env = environ(ETCD_ENDPOINTS=etcd.urls[0])
    file = tmp_path / "value.json"
    file.write_text(text)
    done = ctl(env, "put", key, file, code=1)
    assert re.search(pattern, done.stderr), done.stderr
    assert "Nothing was written; --force" in done.stderr and done.stdout == ""
    error = json.loads(ctl(env, "put", "--json", key, file, code=1).stdout)["error"]
    assert error["code"] == "invalid" and "field" in error
    assert contents(etcd) == {}
    forced = ctl(env, "put", "--force", key, file)
    assert re.search(pattern, forced.stderr)
    assert list(contents(etcd)) == [AGENT + key]


def test_what_is_odd_is_written_and_told(etcd: Etcd) -> None:
    env = environ(ETCD_ENDPOINTS=etcd.urls[0])
    odd = '{"name": "veth1",\n "colour": "red",\n "veth": {"peer_if_name": "veth2"}}'
    done = ctl(env, "put", INTERFACES + "veth1", "-", stdin=odd)
    assert "Remark: standard input, line 2, column 12: colour: is no field here" in done.stderr
    assert json.loads(ctl(env, "put", "--json", INTERFACES + "veth1", "-", stdin=odd).stdout)["remarks"] != []
    assert contents(etcd)[AGENT + INTERFACES + "veth1"].startswith('{"name"')


def test_files_and_words_that_cannot_be(tmp_path: Path) -> None:
    env = environ(ETCD_ENDPOINTS="127.0.0.1:1")
    assert "No such file" in ctl(env, "put", INTERFACES + "a", tmp_path / "none.json", code=2).stderr
    assert "without a slash" in ctl(env, "--label", "a/b", "list", code=2).stderr
    assert "Missing argument 'KEY'" in ctl(env, "get", code=2).stderr
    assert "No such command" in ctl(env, "frobnicate", code=2).stderr


# -- many keys -------------------------------------------------------------------------------------------


def test_list_and_dump(kept: Kept) -> None:
    kept.write(AGENT + INTERFACES + "a", '{"name":"a"}')
    kept.write("/vnf-agent/web/x", "no json")
    assert kept.run("list").stdout == f"{AGENT}{INTERFACES}a\n"
    assert kept.json("list", "/") == [AGENT + INTERFACES + "a", "/vnf-agent/web/x"]
    assert kept.run("dump", "/vnf-agent/").stdout == (
        f'{AGENT}{INTERFACES}a\n{{\n  "name": "a"\n}}\n\n/vnf-agent/web/x\nno json\n\n'
    )
    [row] = kept.json("dump")
    assert (row["key"], row["value"]) == (AGENT + INTERFACES + "a", {"name": "a"})
    assert "no keys under /vnf-agent/other/" in kept.run("--label", "other", "list").stderr
    assert kept.run("--label", "other", "dump").stdout == ""


@pytest.fixture
def following() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`fastnl ctl watch …`, once it watches."""
    made: list[subprocess.Popen[Any]] = []

    def follow(env: dict[str, str], *args: str) -> subprocess.Popen[Any]:
        watcher = spawn(
            [FASTNL, "ctl", "watch", *args], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        made.append(watcher)
        assert watcher.stderr is not None
        assert "watching" in watcher.stderr.readline()
        return watcher

    yield follow
    for watcher in made:
        watcher.kill()
        watcher.communicate()


def test_watch(kept: Kept, following: Callable[..., subprocess.Popen[str]]) -> None:
    kept.write(AGENT + INTERFACES + "there", "{}")
    watcher = following(kept.env, "--json", "--count", "3", INTERFACES)
    kept.write(AGENT + INTERFACES + "a", '{"mtu": 1500}')
    kept.write(AGENT + "elsewhere", "{}")
    kept.run("del", INTERFACES + "there")
    kept.run("del", INTERFACES + "a")
    out, _ = watcher.communicate(timeout=PATIENCE)
    assert watcher.returncode == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert [(row["event"], row["key"].rpartition("/")[2]) for row in rows] == [
        ("put", "a"), ("delete", "there"), ("delete", "a"),
    ]  # fmt: skip
    assert rows[0]["value"] == {"mtu": 1500}
    assert [row["revision"] for row in rows] == sorted({row["revision"] for row in rows})


def test_watch_begins_with_what_is_there_if_told(kept: Kept, following: Callable[..., subprocess.Popen[str]]) -> None:
    kept.write(AGENT + INTERFACES + "there", '{"mtu": 1500}')
    watcher = following(kept.env, "--initial")
    assert watcher.stdout is not None
    assert re.fullmatch(
        rf'\d\d:\d\d:\d\d  put     {AGENT}{INTERFACES}there  {{"mtu": 1500}}\n', watcher.stdout.readline()
    )
    watcher.send_signal(signal.SIGINT)
    watcher.communicate(timeout=PATIENCE)
    assert watcher.returncode == 130


def test_watch_lives_through_a_restart_of_etcd(
    tmp_path: Path, following: Callable[..., subprocess.Popen[str]], shared_etcd: Etcd
) -> None:
    with Etcd(tmp_path / "etcd") as etcd:
        env = environ(ETCD_ENDPOINTS=etcd.urls[0])
        watcher = following(env, "--json", "--count", "2")
        etcd.ctl("put", AGENT + "a", "1")
        etcd.kill()
        etcd.start()
        etcd.ctl("put", AGENT + "b", "2")
        out, err = watcher.communicate(timeout=PATIENCE)
        assert [json.loads(line)["key"] for line in out.splitlines()] == [AGENT + "a", AGENT + "b"]
        assert watcher.returncode == 0, err


def test_watch_lives_through_a_restart_of_the_engine(
    make_keys_engine: Callable[..., EngineProcess], following: Callable[..., subprocess.Popen[str]]
) -> None:
    engine = make_keys_engine().start()
    watcher = following(environ(FASTNL_ENDPOINT=engine.endpoint), "--json", "--count", "3")
    put = {"op": "kv", "action": "put", "value": ""}
    assert engine.raw().request(id=1, key=AGENT + "a", **put)["ok"]
    assert watcher.stdout is not None
    first = watcher.stdout.readline()
    engine.kill()
    engine.start()
    assert engine.raw().request(id=1, key=AGENT + "b", **put)["ok"]
    assert engine.raw().request(id=1, op="kv", action="delete", key=AGENT + "a")["ok"]
    out, err = watcher.communicate(timeout=PATIENCE)
    told = {(row["event"], row["key"]) for row in map(json.loads, [first, *out.splitlines()])}
    assert told == {("put", AGENT + "a"), ("put", AGENT + "b"), ("delete", AGENT + "a")}
    assert watcher.returncode == 0
    assert "no answer from" in err


# -- status ----------------------------------------------------------------------------------------------


def test_status(kept: Kept) -> None:
    told = {
        "linux/config/v1/interface/veth1": (
            "linux/status/v1/interface/veth1", {"state": "CONFIGURED", "last_operation": "CREATE"},
        ),
        "config/linux/interfaces/v2/interface/web": (
            "config-status/linux/interfaces/v2/interface/web",
            {"state": "PENDING", "last_operation": "VALIDATE", "details": ["veth-peer-exists: 'x' is not configured"]},
        ),
        "linux/config/v1/route/r1": ("linux/status/v1/route/r1", {"state": "INVALID", "error": "gw_addr: no address"}),
        "linux/config/v1/interface/veth10": None,
    }  # fmt: skip
    for key, status in told.items():
        kept.write(AGENT + key, "{}")
        if status:
            kept.write(AGENT + status[0], json.dumps({"value": {"key": AGENT + key, **status[1]}}))
    lines = kept.run("status").stdout.splitlines()
    for pattern in (
        r"KEY +STATE +LAST OPERATION +WHY",
        r"linux/config/v1/interface/veth1 +CONFIGURED +CREATE",
        r"linux/config/v1/interface/veth10 +- +- +no engine says anything of it; is one running\?",
        r"linux/config/v1/route/r1 +INVALID +- +gw_addr: no address",
        r"config/linux/interfaces/v2/interface/web +PENDING +VALIDATE +veth-peer-exists: 'x' is not configured",
    ):
        assert any(re.fullmatch(pattern, line) for line in lines), (pattern, lines)
    assert len(lines) == 5
    [row] = kept.json("status", "veth1")
    assert row == {
        "key": AGENT + "linux/config/v1/interface/veth1", "name": "veth1", "state": "CONFIGURED", "error": "",
        "last_operation": "CREATE", "details": [],
    }  # fmt: skip
    for name in ("config/linux/interfaces/v2/interface/web", AGENT + "config/linux/interfaces/v2/interface/web"):
        assert len(kept.json("status", name)) == 1
    done = kept.run("status", "veth1", "veth2", code=1)
    assert "nothing called 'veth2'" in done.stderr and "CONFIGURED" in done.stdout
    assert "nothing is configured" in kept.run("--label", "other", "status").stderr


# -- the pair --------------------------------------------------------------------------------------------


def test_the_predefined_pair(kept: Kept) -> None:
    kept.write(AGENT + INTERFACES + "veth10", "{}")
    kept.run("veth")
    found = {key: json.loads(value) for key, value in kept.read().items()}
    for name, namespace, address, peer in (
        ("veth1", "ns1", "192.168.22.1/24", "veth2"),
        ("veth2", "ns2", "192.168.22.2/24", "veth1"),
    ):
        value = found[AGENT + INTERFACES + name]
        assert (value["name"], value["type"], value["enabled"]) == (name, 0, True)
        assert value["namespace"] == {"type": 2, "name": namespace}
        assert value["ip_addresses"] == [address]
        assert value["veth"] == {"peer_if_name": peer}
        # as if somebody had written it
        file = json.dumps(value)
        assert kept.run("put", INTERFACES + name, "-", stdin=file).stderr == ""
    kept.run("veth-del")
    assert list(kept.read()) == [AGENT + INTERFACES + "veth10"]
    assert kept.run("veth-del").stdout.count("was not there") == 2
    assert len(kept.json("--label", "web", "veth")) == 2
    assert f"/vnf-agent/web/{INTERFACES}veth1" in kept.read()


def test_from_a_key_to_the_wire(make_engine: Callable[..., EngineProcess], netns: Namespaces, tmp_path: Path) -> None:
    """The engine's own store as it is configured, with the service behind it."""
    netns.make("ns1")
    config = tmp_path / "engine.toml"
    config.write_text('[ligato]\nstore = "embedded"\n')
    engine = make_engine("--config", str(config)).start()
    env = environ(FASTNL_ENDPOINT=engine.endpoint)

    def states() -> dict[str, str]:
        return {row["name"]: row["state"] for row in json.loads(ctl(env, "status", "--json").stdout)}

    ctl(env, "veth")
    assert eventually(lambda: set(states().values()) == {"PENDING"}), states()
    assert "ns2" in ctl(env, "status", "veth2").stdout
    netns.make("ns2")
    assert eventually(lambda: states() == {"veth1": "CONFIGURED", "veth2": "CONFIGURED"}), states()
    assert ping("ns1", "192.168.22.2")
    ctl(env, "veth-del")
    assert eventually(lambda: not [link for link in ip_json("ns1", "link") if link["ifname"] == "veth1"])
    assert states() == {}


# -- which store -----------------------------------------------------------------------------------------


def test_options_before_the_environment_and_before_or_after_the_command(etcd: Etcd, tmp_path: Path) -> None:
    etcd.ctl("put", "/vnf-agent/web/x", "{}")
    wrong = environ(ETCD_ENDPOINTS="127.0.0.1:1", MICROSERVICE_LABEL="web")
    url = etcd.urls[0]
    bare = url.removeprefix("http://")
    for args in (("--etcd", url, "list"), ("list", "--etcd", bare), ("list", f"--etcd=127.0.0.1:1,{bare}")):
        assert ctl(wrong, *args).stdout == "/vnf-agent/web/x\n"
    config = tmp_path / "etcd.yaml"
    config.write_text(f"insecure-transport: true\ndial-timeout: 1000000000\nendpoints:\n - {bare}\n")
    assert ctl(wrong, "list", "--etcd-config", config).stdout == "/vnf-agent/web/x\n"
    assert ctl(environ(ETCD_CONFIG=str(config)), "list", "--label", "web").stdout == "/vnf-agent/web/x\n"
    # the endpoints of the environment come before those of the file that it names
    both = environ(ETCDV3_CONFIG=str(config), ETCDV3_ENDPOINTS="127.0.0.1:1")
    assert "127.0.0.1:1" in ctl(both, "list", "--timeout", "2", code=2).stderr


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "No such file"),
        ("endpoints: [", "while parsing"),
        ("[]", "must have endpoints"),
        ("endpoints: 5", "endpoints must be a list"),
        ("endpoints: [a:1]\ninsecure-transport: 'yes'", "insecure-transport must be true or false"),
        ("endpoints: [a:1]\ninsecure-skip-tls-verify: true", "insecure-skip-tls-verify is not possible here.*ca-file"),
        ("endpoints: [a:1]\nca-file: 5", "ca-file must be the path"),
        ("endpoints: [a:1]\nca-file: /none.pem", "/none.pem: No such file"),
        ("endpoints: [a:1]\ncert-file: /none.pem", "both `cert` and `key`"),
        ("endpoints: [nonsense]\ninsecure-transport: true", "'http://nonsense' is no endpoint"),
    ],
)
def test_an_etcd_yaml_that_cannot_be(text: str | None, problem: str, tmp_path: Path) -> None:
    config = tmp_path / "etcd.yaml"
    if text is not None:
        config.write_text(text)
    done = ctl(environ(), "list", "--etcd-config", config, "--timeout", "2", code=2)
    assert re.search(problem, done.stderr), done.stderr


def test_nobody_there() -> None:
    env = environ(FASTNL_ENDPOINT="ipc:///nowhere/engine.sock")
    assert "no engine at ipc:///nowhere/engine.sock: there is no such socket" in ctl(env, "list", code=2).stderr
    assert "no connection to etcd" in ctl(env, "--etcd", "127.0.0.1:1", "list", code=2).stderr
    assert "does not go with --embedded" in ctl(env, "--etcd", "a:1", "--embedded", "list", code=2).stderr
    assert "--etcd-user needs --etcd" in ctl(env, "--etcd-user", "anna", "list", code=2).stderr
    # told to, it leaves etcd alone
    env["ETCD_ENDPOINTS"] = "127.0.0.1:1"
    assert "no engine at" in ctl(env, "--embedded", "list", code=2).stderr


def test_an_engine_without_a_store(make_engine: Callable[..., EngineProcess]) -> None:
    engine = make_engine().start()
    done = ctl(environ(FASTNL_ENDPOINT=engine.endpoint), "list", code=2)
    assert 'store = "embedded"' in done.stderr


@pytest.fixture
def papers(tmp_path: Path) -> Path:
    ca, folder = trustme.CA(), tmp_path / "papers"
    folder.mkdir()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    for name, cert in (("server", ca.issue_cert("127.0.0.1")), ("client", ca.issue_cert("client.host"))):
        cert.private_key_pem.write_to_path(folder / f"{name}.key")
        cert.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
    return folder


def test_certificates_user_and_password(papers: Path, tmp_path: Path, shared_etcd: Etcd) -> None:
    etcd = Etcd(
        tmp_path / "etcd", f"--cert-file={papers}/server.pem", f"--key-file={papers}/server.key",
        f"--trusted-ca-file={papers}/ca.pem", "--client-cert-auth", scheme="https",
        ctl=[f"--cacert={papers}/ca.pem", f"--cert={papers}/client.pem", f"--key={papers}/client.key"],
    )  # fmt: skip
    with etcd:
        etcd.ctl("put", AGENT + "x", "{}")
        bare = etcd.urls[0].removeprefix("https://")
        flags = [
            "--etcd-ca",
            papers / "ca.pem",
            "--etcd-cert",
            papers / "client.pem",
            "--etcd-key",
            papers / "client.key",
        ]
        assert ctl(environ(), "list", "--etcd", bare, *flags).stdout == f"{AGENT}x\n"
        assert (
            "no connection to etcd" in ctl(environ(), "list", "--etcd", etcd.urls[0], "--timeout", "3", code=2).stderr
        )
        config = papers / "etcd.yaml"
        config.write_text(
            f"endpoints: ['{bare}']\nca-file: {papers}/ca.pem\ncert-file: {papers}/client.pem\n"
            f"key-file: {papers}/client.key\n"
        )
        env = environ(ETCD_CONFIG=str(config))
        assert ctl(env, "list").stdout == f"{AGENT}x\n"
        for command in (
            ("user", "add", "root:rootpw"), ("user", "grant-role", "root", "root"), ("user", "add", "anna:annapw"),
            ("role", "add", "a"), ("role", "grant-permission", "a", "--prefix=true", "readwrite", AGENT),
            ("user", "grant-role", "anna", "a"), ("auth", "enable"),
        ):  # fmt: skip
            etcd.ctl(*command)
        password = papers / "password"
        password.write_text("annapw\n")
        assert ctl(env, "list", "--etcd-user", "anna", "--etcd-password-file", password).stdout == f"{AGENT}x\n"
        assert ctl(env | {"ETCD_USER": "anna", "ETCD_PASSWORD": "annapw"}, "get", "x").stdout == "{}\n"
        wrong = env | {"ETCD_USER": "anna", "ETCD_PASSWORD": "other"}
        assert "check user and password" in ctl(wrong, "get", "x", code=1).stderr
        anna = env | {"ETCD_USER": "anna", "ETCD_PASSWORD": "annapw"}
        assert "permission denied" in ctl(anna, "get", "/vnf-agent/other/x", code=1).stderr
        assert "needs a password" in ctl(env, "--etcd-user", "anna", "get", "x", code=2).stderr
        assert (
            "No such file" in ctl(env, "--etcd-user", "a", "--etcd-password-file", "/none", "get", "x", code=2).stderr
        )


# -- help ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", commands.ctl.commands)
def test_every_command_has_help_with_examples(name: str) -> None:
    text = ctl(environ(), name, "--help").stdout
    assert re.search(rf"^  Examples?:\n(.*\n)*?    fastnl ctl .*\b{name}\b", text, re.MULTILINE), text
    assert "--json" in text


def test_the_guide(make_keys_engine: Callable[..., EngineProcess], tmp_path: Path) -> None:
    """Its commands run as they stand there, and no command and no word is missing."""
    section = GUIDE.partition("\n## Command line\n")[2]
    [script] = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    for name in ("veth1", "veth2"):
        value = re.search(rf"^```json\n({{\n  \"name\": \"{name}\".*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
        assert value is not None
        (tmp_path / f"{name}.json").write_text(value[1])
    env = environ(FASTNL_ENDPOINT=make_keys_engine().start().endpoint)
    env["PATH"] = f"{Path(FASTNL).parent}:{env['PATH']}"
    done = subprocess.run(
        ["sh", "-ex", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "deleted /vnf-agent/vpp1/linux/config/v1/interface/veth2\n1 key deleted" in done.stdout
    for name in commands.ctl.commands:
        assert re.search(rf"^\|.*`{name}( .*)?`.*\|.*\|$", section, re.MULTILINE), name
    for word in (*vpp_agent_ctl.ARGUMENTS, *vpp_agent_ctl.PREARRANGED):
        assert re.search(rf"^\|.*`{word}( .*)?`", section, re.MULTILINE), word


def test_the_shell_completes_commands(tmp_path: Path) -> None:
    env = environ(_FASTNL_COMPLETE="bash_complete", COMP_WORDS="fastnl ctl ve", COMP_CWORD="2")
    done = subprocess.run([FASTNL], env=env, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.stdout.split() == ["plain,veth", "plain,veth-del"]
