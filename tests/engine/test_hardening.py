"""The engine does all its work inside the fence that the systemd unit puts around it.

There is no systemd here to start the unit; what it would set is read from the unit and set by the same means:
capabilities by setpriv, system calls and socket families by libseccomp, the rest by prctl.
"""

from __future__ import annotations

import ctypes.util
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fastnl.testing import PATIENCE, Namespaces, eventually, ip_json, ping
from fastnl_engine.curve import Curve, make, read_secret
from fastnl_engine.testing import Client, EngineProcess, end, pair, tunnel

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "fastnl-engine.service"

# puts filters on itself and becomes the command that comes after; families and calls have spaces between them
LAUNCHER = """
import ctypes, os, socket, sys
families, calls, command = sys.argv[1].split(), sys.argv[2].split(), sys.argv[3:]
ERRNO, ALLOW, EQ, MASKED_EQ = 0x00050000, 0x7FFF0000, 4, 7
NEWNET, NAMESPACES = 0x40000000, 0x7E020080  # of clone(2): all kinds
class Compare(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]
lib = ctypes.CDLL("libseccomp.so.2")
lib.seccomp_init.restype = ctypes.c_void_p
context = ctypes.c_void_p(lib.seccomp_init(ERRNO | 1))
def allow(name, *compares, action=ALLOW):
    number = lib.seccomp_syscall_resolve_name(name.encode())
    if number != -1:
        array = (Compare * len(compares))(*compares)
        assert lib.seccomp_rule_add_array(context, action, number, len(compares), array) == 0, name
other = NAMESPACES & ~NEWNET
special = {
    "socket": [[Compare(0, EQ, getattr(socket, f), 0)] for f in families],
    "setns": [[Compare(1, EQ, NEWNET, 0)]],
    "unshare": [[Compare(0, MASKED_EQ, other, 0)]],
    "clone": [[Compare(0, MASKED_EQ, other, 0)]],
}
for name in calls:
    for compares in special.get(name, [] if name == "clone3" else [[]]):
        allow(name, *compares)
allow("clone3", action=ERRNO | 38)  # its flags cannot be looked at: the C library takes clone then
libc = ctypes.CDLL(None)
libc.prctl(65, 1, 0, 0, 0)  # PR_SET_MDWE, Linux 6.3: no memory that is written and run
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert lib.seccomp_load(context) == 0
os.execv(command[0], command)
"""

pytestmark = [
    pytest.mark.skipif(not UNIT.is_file(), reason="deploy/ is not there, this is no source tree"),
    pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze knows which calls a group has"),
    pytest.mark.skipif(ctypes.util.find_library("seccomp") is None, reason="libseccomp is not installed"),
]


def setting(name: str) -> list[str]:
    lines = UNIT.read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.startswith(f"{name}=")]


def calls_of(group: str) -> set[str]:
    done = subprocess.run(["systemd-analyze", "syscall-filter", group], capture_output=True, text=True, check=True)
    words = [line.strip() for line in done.stdout.splitlines()[1:] if not line.strip().startswith("#")]
    names = {word for word in words if word and not word.startswith("@")}
    return names.union(*(calls_of(word) for word in words if word.startswith("@")))


def allowed() -> set[str]:
    calls: set[str] = set()
    for value in setting("SystemCallFilter"):
        groups = value.removeprefix("~").split()
        found = set[str]().union(*(calls_of(group) if group.startswith("@") else {group} for group in groups))
        calls = calls - found if value.startswith("~") else calls | found
    # what systemd always lets through (@default), and what starts a program
    return calls | calls_of("@default") | {"execve"}


def fence(calls: set[str]) -> list[str]:
    caps = [word.removeprefix("CAP_").lower() for word in setting("CapabilityBoundingSet")[0].split()]
    keep = ",".join(f"+{cap}" for cap in caps)
    families = " ".join(setting("RestrictAddressFamilies")).strip()
    return [
        "setpriv", f"--bounding-set=-all,{keep}", "--inh-caps=-all", "--no-new-privs", "--",
        sys.executable, "-c", LAUNCHER, families, " ".join(sorted(calls)),
    ]  # fmt: skip


def test_the_engine_does_all_its_work_inside_the_fence(
    make_engine: Callable[..., EngineProcess], netns: Namespaces, tmp_path: Path
):
    for name in ("blue", "red", "green"):
        netns.make(name)
    public, _, _ = make(str(tmp_path / "k"))
    config = tmp_path / "engine.toml"
    config.write_text(
        f'tcp = "tcp://127.0.0.1:7777"\ncurve_secret = "{tmp_path}/k.key"\nhttp = "127.0.0.1:9464"\naudit = 1\n'
        f'file_prefixes = ["/run/netns"]\n[roles]\noperator = ["key:{public}"]\n'
    )
    engine = make_engine("--config", str(config), instance="fenced", prefix=fence(allowed())).start()
    status = Path(f"/proc/{engine.pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status
    bounding = int(status.split("CapBnd:")[1].split()[0], 16)
    assert bin(bounding).count("1") == len(setting("CapabilityBoundingSet")[0].split())
    client = engine.client()
    jobs = [
        pair("p", end("blue", "e0", "10.0.0.1/24", "fd00::1/64"), end("file:/run/netns/red", "e0", "10.0.0.2/24")),
        tunnel("t", end("blue", "t0", "10.1.0.1/24"), vni=7, remote="192.0.2.1"),
        pair("w", end("later", "e0"), end("red", "e1")),
    ]
    assert all(r["ok"] for r in client.connect(jobs, wait=True))
    assert ping("blue", "10.0.0.2")
    netns.make("later")
    assert eventually(lambda: next(client.list(ids=["w"]))["state"] == "up")
    assert client.move([{"id": "p", "end": "b", "netns": "green"}])[0]["ok"]
    assert all(r["ok"] for r in client.verify()) and all(r["ok"] for r in client.stats())
    subprocess.run(["ip", "-n", "blue", "link", "delete", "t0"], check=True)
    assert eventually(lambda: "t0" in {row["ifname"] for row in ip_json("blue", "link", "show")})
    curve = Curve(public, read_secret(str(tmp_path / "k.key")))
    with Client("tcp://127.0.0.1:7777", timeout=PATIENCE, curve=curve) as far:
        assert far.info()["ok"]
    engine.restart()
    assert all(r["ok"] for r in engine.client().disconnect(["p", "t", "w"]))
    assert engine.stop() == 0


def test_the_mesh_is_served_inside_the_fence(
    make_engine: Callable[..., EngineProcess], netns: Namespaces, tmp_path: Path
):
    pytest.importorskip("grpc", reason="the mesh is an extra")
    from fastnl_engine.adapters.nsm.inodes import inode_of
    from fastnl_engine.adapters.nsm.testing import Forwarder, addresses, cross_connect, kernel

    rooms = [netns.make("blue"), netns.make("red")]
    engine = make_engine("--nsm", f"unix:{tmp_path}/nsm.sock", instance="fenced", prefix=fence(allowed())).start()
    mesh = Forwarder(f"unix:{tmp_path}/nsm.sock")
    sides = [kernel("nsm0", inode_of(f"name:{room}")) for room in rooms]
    asked = cross_connect("1", *sides, addresses("172.16.1.1/30", "172.16.1.2/30"))
    mesh.cross.Request(asked, timeout=PATIENCE, wait_for_ready=True)
    assert ping("blue", "172.16.1.2")
    mesh.cross.Close(asked, timeout=PATIENCE)
    mesh.channel.close()
    assert engine.stop() == 0
    assert "level=warning" not in engine.log


@pytest.mark.parametrize("call", ["setns", "sched_setscheduler", "openat2"])
def test_the_fence_is_there(make_engine: Callable[..., EngineProcess], call: str):
    """Without a call that it needs the engine does not work: so the filter above is one."""
    engine = make_engine(
        instance="fenced", prefix=fence(allowed() - {call}), env={"FASTNL_FILE_PREFIXES": "/run/netns"}
    )
    engine.launch()
    if call == "openat2":
        client = engine.client()
        [result] = client.connect([pair("c", end("file:/run/netns/x", "e0"), end("", "e1"))])
        assert "Operation not permitted" in result["error"]["message"] or result["error"]["code"] == "no_permission"
    else:
        assert engine.wait() != 0
