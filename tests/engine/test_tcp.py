"""Over TCP: whoever has a key with a role is served, everybody else is not even heard."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgpack
import pytest
import zmq

from fastnl.testing import PATIENCE, Namespaces, eventually, ip_json
from fastnl_engine.client import AsyncClient, Client, EngineError, NoEngine
from fastnl_engine.curve import Curve, KeyProblem, make, read_secret
from fastnl_engine.listeners import BACKLOG
from fastnl_engine.testing import EngineProcess, RawSocket, end, pair

# the tests have a network of their own, so the ports are free
JOBS, EVENTS = "tcp://127.0.0.1:7777", "tcp://127.0.0.1:7778"
FASTNL = [sys.executable, "-c", "from fastnl_engine.cli import main; main()"]
JOB = pair("far", end("blue", "e0"), end("red", "e0"))
INFO = msgpack.packb({"v": 1, "id": 1, "op": "info"})


@dataclass
class Keys:
    """Pairs by name, in files; `of` is what a client has."""

    folder: Path

    def __post_init__(self) -> None:
        self.public = {name: make(str(self.folder / name))[0] for name in ("engine", "op", "viewer", "stranger")}

    def file(self, name: str) -> str:
        return str(self.folder / f"{name}.key")

    def of(self, name: str, server: str = "engine") -> Curve:
        return Curve(self.public[server], read_secret(self.file(name)))


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


@pytest.fixture
def config(keys: Keys, tmp_path: Path) -> str:
    path = tmp_path / "engine.toml"
    path.write_text(
        f'tcp = "{JOBS}"\ntcp_events = "{EVENTS}"\ncurve_secret = "{keys.file("engine")}"\n'
        f'[roles]\noperator = ["key:{keys.public["op"]}"]\nviewer = ["key:{keys.public["viewer"]}", "uid:65533"]\n'
    )
    return str(path)


@pytest.fixture
def engine(make_engine: Callable[..., EngineProcess], config: str) -> EngineProcess:
    return make_engine("--config", config, instance="tcp").start()


def curve_options(curve: Curve) -> dict[int, bytes]:
    public = zmq.curve_public(curve.secret.encode())
    return {
        zmq.CURVE_SERVERKEY: curve.server.encode(),
        zmq.CURVE_SECRETKEY: curve.secret.encode(),
        zmq.CURVE_PUBLICKEY: public,
    }


@contextlib.contextmanager
def raw(endpoint: str, options: dict[int, bytes | int], kind: int = zmq.DEALER) -> Iterator[RawSocket]:
    out = RawSocket(endpoint, kind, options)
    try:
        yield out
    finally:
        out.close()


# -- who is known ----------------------------------------------------------------------------------


def test_an_operator_connects_from_afar_and_a_client_here_meanwhile(engine, keys, blue, red):
    with Client(JOBS, timeout=PATIENCE, curve=keys.of("op")) as far:
        assert far.connect([JOB])[0]["ok"]
        assert {row["ifname"] for row in ip_json("red", "link", "show")} == {"lo", "e0"}
        near = engine.client()
        # the numbers of requests are the same on both ways, and each gets its own answer
        for n in range(50):
            sent = [far.send("list", ids=["far"]), near.send("list", ids=[f"no{n}"])]
            answers = [client.receive()["results"] for client in (far, near)]
            assert sent[0] > 0 and len(answers[0]) == 1 and answers[1] == []
        assert far.disconnect(["far"])[0]["changed"]
    assert len(ip_json("red", "link", "show")) == 1
    assert engine.stop() == 0


def test_a_viewer_looks_and_changes_nothing(engine, keys, blue, red):
    with Client(JOBS, timeout=PATIENCE, curve=keys.of("viewer")) as client:
        assert client.info()["ok"] and list(client.list()) == []
        for call in (lambda: client.connect([JOB]), lambda: client.disconnect(["far"]), lambda: client.move([])):
            with pytest.raises(EngineError) as refused:
                call()
            assert refused.value.code == "forbidden"
    assert list(engine.client().list()) == []
    assert len(ip_json("red", "link", "show")) == 1


def test_an_asyncio_client_has_keys_too(engine, keys):
    async def ask() -> int:
        async with AsyncClient(JOBS, timeout=PATIENCE, curve=keys.of("viewer")) as client:
            return sum(r["ok"] for r in await asyncio.gather(*(client.info() for _ in range(5))))

    assert asyncio.run(ask()) == 5


def test_the_command_line_takes_keys_as_flags_and_from_the_environment(engine, keys):
    def fastnl(*args: str, code: int | None = 0, **env: str) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("FASTNL_")}
        done = subprocess.run([*FASTNL, *args], capture_output=True, text=True, check=False, env=clean | env)
        assert code is None or done.returncode == code, done.stdout + done.stderr
        return done

    flags = ["--server-key", keys.public["engine"], "--key", keys.file("op")]
    assert json.loads(fastnl("list", "--endpoint", JOBS, *flags, "--json").stdout) == []
    env = {"FASTNL_ENDPOINT": JOBS, "FASTNL_SERVER_KEY": keys.public["engine"], "FASTNL_KEY": keys.file("viewer")}
    assert json.loads(fastnl("list", "--json", **env).stdout) == []
    assert "forbidden" in fastnl("disconnect", "x", code=1, **env).stderr
    # the way to it is no setting of an engine that could be here
    found = {check["name"]: check for check in json.loads(fastnl("doctor", "--json", code=None, **env).stdout)}
    assert found["engine"]["status"] == "ok" and found["endpoint"]["found"].startswith("/run/fastnl")
    assert "does not know it" in fastnl("doctor", "x", code=1, **env).stdout
    far = fastnl("doctor", "x", "--endpoint", JOBS, "--json", *flags, code=1)
    assert json.loads(far.stdout)[0]["found"] == "the engine does not know it"
    assert "FASTNL_KEY" in fastnl("list", "--endpoint", JOBS, code=2).stderr
    wrong = env | {"FASTNL_KEY": keys.file("stranger")}
    assert "does it know your key" in fastnl("list", "--timeout", "1", code=2, **wrong).stderr
    assert "No such file" in fastnl("list", code=2, **env | {"FASTNL_KEY": "/no/such"}).stderr


# -- who is not ------------------------------------------------------------------------------------


def test_whoever_has_no_key_or_a_wrong_one_is_not_heard(engine, keys):
    plain = {zmq.PLAIN_USERNAME: b"root", zmq.PLAIN_PASSWORD: b"root"}
    strangers = {
        "unknown key": curve_options(keys.of("stranger")),
        "wrong server key": curve_options(keys.of("op", server="stranger")),
        # whoever has seen the public keys of both sides, as they are no secret
        "public keys only": curve_options(keys.of("stranger")) | {zmq.CURVE_PUBLICKEY: keys.public["op"].encode()},
        "no key": {},
        "a password": plain,
    }
    for who, options in strangers.items():
        with raw(JOBS, options) as peer:
            for _ in range(3):
                peer.send(INFO)
            assert not peer.socket.poll(700), who
    with pytest.raises(NoEngine), Client(JOBS, timeout=0.5, curve=keys.of("stranger")) as client:
        client.info()
    assert f"key:{keys.public['stranger']}" in engine.log and "turned away" in engine.log
    with Client(JOBS, timeout=PATIENCE, curve=keys.of("op")) as client:
        assert client.info()["ok"]


def test_a_client_of_this_library_does_not_go_over_tcp_without_keys(engine, monkeypatch):
    monkeypatch.delenv("FASTNL_KEY", raising=False)
    with pytest.raises(KeyProblem):
        Client(JOBS)


def test_events_are_for_those_with_a_role(engine, keys, blue, red):
    with (
        raw(EVENTS, curve_options(keys.of("viewer")), zmq.SUB) as hears,
        raw(EVENTS, curve_options(keys.of("stranger")), zmq.SUB) as deaf,
        raw(EVENTS, {}, zmq.SUB) as bare,
        raw(engine.events, {}, zmq.SUB) as near,
    ):
        for peer in (hears, deaf, bare, near):
            peer.socket.subscribe(b"connection.")
        client = engine.client()
        deadline = time.monotonic() + PATIENCE
        while not (hears.socket.poll(20) and near.socket.poll(20)):
            assert time.monotonic() < deadline, "no events"
            client.connect([JOB])
            client.disconnect(["far"])
        event = msgpack.unpackb(hears.frames()[1])
        assert event["of"] == "connection" and event["id"] == "far"
        assert not deaf.socket.poll(300) and not bare.socket.poll(0)


def test_a_peer_on_this_machine_is_who_the_kernel_says_whatever_it_claims(engine, keys):
    """ZeroMQ hands on what a peer calls itself: an ipc peer could claim to be a key, or an address."""
    path = Path(engine.endpoint.removeprefix("ipc://"))
    for folder in (engine.folder, engine.folder.parent):
        folder.chmod(0o755)
    path.chmod(0o777)
    code = f"""
import os, socket, struct
os.setgroups([]); os.setgid(65534); os.setuid(65534)
def prop(name, value): return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value
s = socket.socket(socket.AF_UNIX); s.settimeout(60); s.connect({str(path)!r})
s.sendall(b"\\xff" + bytes(8) + b"\\x7f\\x03\\x00" + b"NULL".ljust(20, b"\\0") + b"\\0" + bytes(31))
got = b""
while len(got) < 64: got += s.recv(64 - len(got))
ready = b"\\x05READY" + prop(b"Socket-Type", b"DEALER") + prop(b"User-Id", b"key:{keys.public["op"]}")
ready += prop(b"Peer-Address", b"localhost:0:0:1") + prop(b"Identity", b"")
s.sendall(b"\\x04" + bytes([len(ready)]) + ready)
s.sendall(b"\\x00" + bytes([{len(INFO)}]) + {INFO!r})
got = b""
while b"forbidden" not in got and b"results" not in got: got += s.recv(4096) or exit("closed")
print("forbidden" if b"forbidden" in got else "let in")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "forbidden\n", done.stderr


# -- what strangers cost ---------------------------------------------------------------------------


def resident(pid: int) -> int:
    """KiB."""
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0])


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_strangers_that_never_stop_cost_next_to_nothing(engine, keys):
    client = engine.client()
    client.info()
    fds, before = descriptors(engine.pid), resident(engine.pid)
    context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, 4096)
    strangers = []
    for n in range(60):
        peer = context.socket(zmq.DEALER)
        peer.setsockopt(zmq.LINGER, 0)
        peer.setsockopt(zmq.RECONNECT_IVL, 5)
        for option, value in (curve_options(keys.of("stranger")) if n % 2 else {}).items():
            peer.setsockopt(option, value)
        peer.connect(JOBS if n % 3 else EVENTS)
        strangers.append(peer)
    until = time.monotonic() + 5
    while time.monotonic() < until:
        assert client.info()["ok"]
    for peer in strangers:
        peer.close()
    context.term()
    assert eventually(lambda: descriptors(engine.pid) <= fds + 2)
    assert resident(engine.pid) - before < 20_000
    assert engine.log.count("turned away") <= 3  # a line every ten seconds, not thousands
    assert client.info()["ok"]


def test_who_connects_and_says_nothing_is_hung_up_on(engine):
    client = engine.client()
    client.info()
    fds = descriptors(engine.pid)
    with contextlib.ExitStack() as crowd:
        # fewer than the listener's queue holds: beyond it TCP tries again after seconds, when the first ones are gone
        silent = [crowd.enter_context(socket.create_connection(("127.0.0.1", 7777))) for _ in range(BACKLOG - 4)]
        assert eventually(lambda: descriptors(engine.pid) >= fds + len(silent))
        # one that begins a message that would be larger than any may be
        greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + b"\0" + bytes(31)
        silent[0].sendall(greeting + b"\x06" + (1 << 40).to_bytes(8, "big") + b"x" * 1000)
        assert eventually(lambda: descriptors(engine.pid) <= fds + 2)
    assert client.info()["ok"]


def test_a_message_beyond_the_limit_ends_the_connection_and_not_the_engine(engine, keys):
    with raw(JOBS, curve_options(keys.of("op"))) as peer:
        peer.send(b"\0" * ((16 << 20) + 5000))
        deadline = time.monotonic() + PATIENCE
        while not peer.socket.poll(200):
            assert time.monotonic() < deadline
            peer.send(INFO)
        assert peer.reply()["id"] == 1
    assert engine.client().info()["ok"]


# -- the start -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "code", "words"),
    [
        ('endpoint = "tcp://127.0.0.1:7777"', 2, ["endpoint", "tcp://127.0.0.1:7777", "curve_secret"]),
        ('events = "tcp://127.0.0.1:7778"', 2, ["events", "tcp_events", "curve_secret"]),
        ('tcp = "tcp://127.0.0.1:7777"', 2, ["tcp needs curve_secret", "fastnl keys"]),
        ('tcp_events = "tcp://127.0.0.1:7777"', 2, ["tcp_events needs curve_secret"]),
        ('tcp = "127.0.0.1:7777"\ncurve_secret = "KEY"', 2, ["tcp://ADDRESS:PORT"]),
        ('tcp = "tcp://127.0.0.1:7777"\ncurve_secret = "/no/such"', 1, ["/no/such", "fastnl keys"]),
        ('tcp = "tcp://127.0.0.1:7777"\ncurve_secret = "OPEN"', 1, ["chmod 600"]),
        ('tcp = "tcp://127.0.0.1:7777"\ncurve_secret = "PUB"', 1, ["pub"]),
        ('tcp = "tcp://127.0.0.1:nonsense"\ncurve_secret = "KEY"', 1, ["cannot bind tcp://127.0.0.1:nonsense"]),
        ('tcp = "tcp://192.0.2.1:7777"\ncurve_secret = "KEY"', 1, ["cannot bind tcp://192.0.2.1:7777"]),
    ],
)
def test_tcp_without_what_it_needs_is_refused_at_the_start(make_engine, keys, tmp_path, settings, code, words):
    make(str(tmp_path / "open"))[1].chmod(0o644)
    for name, path in (("KEY", keys.file("engine")), ("OPEN", tmp_path / "open.key"), ("PUB", tmp_path / "op.pub")):
        settings = settings.replace(name, str(path))
    engine = make_engine()
    config = tmp_path / "bad.toml"
    config.write_text(settings)
    flags = [f for f in engine.command if f not in ("--endpoint", engine.endpoint, "--events", engine.events)]
    environ = {k: v for k, v in os.environ.items() if not k.startswith("FASTNL_")}
    # where the file says nothing, the sockets must not be the machine's
    environ |= {f"FASTNL_{n.upper()}": getattr(engine, n) for n in ("endpoint", "events") if f"{n} =" not in settings}
    done = subprocess.run(
        [*flags, "--config", str(config)], capture_output=True, text=True, check=False, env=environ, timeout=PATIENCE
    )
    assert done.returncode == code, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_is_refused_and_names_it(engine, make_engine, config):
    other = make_engine("--config", config, instance="other")
    other.launch()
    assert other.wait() == 1
    assert f"cannot bind {JOBS}" in other.log
    assert engine.client().info()["ok"]


def test_no_key_of_tcp_is_let_in_without_a_role(make_engine, keys, tmp_path):
    config = tmp_path / "e.toml"
    config.write_text(f'tcp = "{JOBS}"\ncurve_secret = "{keys.file("engine")}"\n[roles]\noperator = ["everyone"]\n')
    engine = make_engine("--config", str(config), instance="tcp").start()
    with pytest.raises(NoEngine), Client(JOBS, timeout=1, curve=keys.of("op")) as client:
        client.info()
    assert engine.client().info()["ok"]


def test_over_ipv6(make_engine, keys, tmp_path):
    config = tmp_path / "e.toml"
    config.write_text(
        f'tcp = "tcp://[::1]:7777"\ncurve_secret = "{keys.file("engine")}"\n'
        f'[roles]\nviewer = ["key:{keys.public["op"]}"]\n'
    )
    make_engine("--config", str(config), instance="tcp").start()
    with Client("tcp://[::1]:7777", timeout=PATIENCE, curve=keys.of("op")) as client:
        assert client.info()["ok"]


def test_namespaces_are_out_of_the_way_of_the_sockets(engine, keys, netns: Namespaces):
    """The engine's threads enter namespaces; its port stays in its own."""
    netns.make("blue")
    netns.make("red")
    with Client(JOBS, timeout=PATIENCE, curve=keys.of("op")) as client:
        client.connect([JOB])
        ports = subprocess.run(["ip", "netns", "exec", "blue", "cat", "/proc/net/tcp"], capture_output=True, text=True)
        assert len(ports.stdout.splitlines()) == 1
        client.disconnect(["far"])
