"""`fastnl doctor`: on this machine, and each check on a machine made of files."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fastnl
from fastnl.testing import Namespaces, eventually
from fastnl_engine.cli.checks_connections import SHOWN, one
from fastnl_engine.cli.doctor import examine
from fastnl_engine.cli.machine import Check, Machine
from fastnl_engine.config import Config
from fastnl_engine.testing import EngineProcess, end, pair

FASTNL = str(Path(sys.executable).with_name("fastnl"))
ROOT = os.geteuid() == 0


def doctor(
    *args: str, code: int | None = None, prefix: tuple[str, ...] = (), **env: str
) -> subprocess.CompletedProcess[str]:
    bare = {k: v for k, v in os.environ.items() if not k.startswith("FASTNL_")}
    done = subprocess.run(
        [*prefix, FASTNL, "doctor", *args], env=bare | env, capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr
    assert code is None or done.returncode == code, done.stdout + done.stderr
    return done


def checks(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in json.loads(done.stdout)}


# -- this machine ------------------------------------------------------------------------------------


def test_with_an_engine(engine: EngineProcess, blue: str) -> None:
    found = checks(doctor("--json", "--state-dir", str(engine.state), FASTNL_ENDPOINT=engine.endpoint))
    assert found["engine"]["status"] == "ok"
    assert f"version {fastnl.__version__}, pid {engine.pid}, 0 connections" in found["engine"]["found"]
    assert found["privileges"]["status"] == "ok"
    assert f"pid {engine.pid}" in found["open_files"]["found"]
    assert found["veth"]["status"] == "ok"
    assert found["run_netns"]["found"].startswith("1 named")
    assert str(engine.state) in found["state_dir"]["found"]
    assert found["endpoint"]["status"] == "ok"
    for check in found.values():
        assert set(check) == {"name", "status", "found", "advice"}
        assert check["status"] in ("ok", "warn", "fail")
        assert check["status"] == "ok" or check["advice"]


def test_for_people(engine: EngineProcess) -> None:
    done = doctor("--state-dir", str(engine.state), FASTNL_ENDPOINT=engine.endpoint)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ok    engine ")
    assert lines[-1].endswith(" failed")
    assert done.returncode == (0 if lines[-1].endswith(" 0 failed") else 1)


def test_engine_that_does_not_answer(engine: EngineProcess) -> None:
    with engine.paused():
        found = checks(doctor("--json", "--timeout", "0.3", FASTNL_ENDPOINT=engine.endpoint, code=1))
    assert found["engine"]["status"] == "fail"
    assert "no answer within 0.3 s" in found["engine"]["found"]
    assert f"process {engine.pid}" in found["engine"]["advice"]


def test_limits_are_the_engines(make_engine: Callable[..., EngineProcess]) -> None:
    engine = make_engine(prefix=["prlimit", "--nofile=700:700", "--"]).start()
    found = checks(doctor("--json", FASTNL_ENDPOINT=engine.endpoint))
    assert found["open_files"]["status"] == "warn"
    assert found["open_files"]["found"].startswith(f"700 (the engine's, pid {engine.pid})")


def test_without_an_engine(tmp_path: Path) -> None:
    found = checks(doctor("--json", "--endpoint", f"ipc://{tmp_path}/e"))
    assert found["engine"]["status"] == "warn"
    assert "there is no such socket" in found["engine"]["found"]
    assert "fastnl-engine" in found["engine"]["advice"]


def test_plain_files_among_the_namespaces(netns: Namespaces, tmp_path: Path) -> None:
    netns.make("blue")
    stale = Path("/run/netns/stale")
    stale.touch()
    try:
        found = checks(doctor("--json", "--endpoint", f"ipc://{tmp_path}/e"))
    finally:
        stale.unlink()
    assert found["run_netns"]["status"] == "warn"
    assert found["run_netns"]["found"] == "no namespaces but plain files: stale"


@pytest.mark.skipif(not ROOT, reason="gives up root")
def test_without_capabilities(tmp_path: Path) -> None:
    none = ("setpriv", "--inh-caps=-all", "--bounding-set=-all", "--")
    done = doctor("--json", "--endpoint", f"ipc://{tmp_path}/e", prefix=none, code=1)
    found = checks(done)
    assert found["privileges"]["status"] == "fail"
    assert "CAP_NET_ADMIN, CAP_SYS_ADMIN, CAP_SYS_PTRACE missing" in found["privileges"]["found"]
    assert found["features"]["status"] == "fail"
    assert "as root" in found["features"]["advice"]


@pytest.mark.skipif(not ROOT, reason="becomes another user")
def test_as_another_user(tmp_path: Path) -> None:
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")
    if subprocess.run([*nobody, FASTNL, "--version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("another user cannot run this installation")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    done = doctor("--json", "--endpoint", f"ipc://{closed}/e", "--state-dir", f"{closed}/state", prefix=nobody, code=1)
    found = checks(done)
    assert found["privileges"]["found"].startswith("user 65534")
    assert "may not use it" in found["engine"]["found"]
    people = doctor("--endpoint", f"ipc://{closed}/e", prefix=nobody, code=1)
    assert "fail  privileges " in people.stdout


def test_settings(tmp_path: Path) -> None:
    file = tmp_path / "engine.toml"
    file.write_text(f'state_dir = "{tmp_path}/state"\nendpoint = "ipc://{tmp_path}/e"\n')
    found = checks(doctor("--json", "--config", str(file)))
    assert f"{tmp_path}/state is not there yet" in found["state_dir"]["found"]
    assert f"{tmp_path}/e" in found["engine"]["found"]
    file.write_text("nonsense = 1")
    assert "nonsense" in doctor("--config", str(file), code=2).stderr
    assert "No such file" in doctor("--config", "/nowhere", code=2).stderr


# -- a machine made of files ---------------------------------------------------------------------------

FEATURES = (
    "veth", "vxlan", "dummy", "ipv6", "born_by_target_name", "live_rename", "stable_id", "cookie", "pidfd_netns",
    "writable_sysctl",
)  # fmt: skip

HEALTHY = {
    "/proc/sys/kernel/osrelease": "6.18.0-test",
    "/proc/sys/kernel/threads-max": "100000",
    "/proc/sys/kernel/pid_max": "4194304",
    "/proc/loadavg": "0.00 0.00 0.00 1/200 4242",
    "/proc/7/status": "Name:\tfastnl-engine\nUid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff",
    "/proc/7/uid_map": "0 0 4294967295",
    "/proc/7/cgroup": "0::/engine",
    "/proc/7/limits": (
        "Limit                     Soft Limit           Hard Limit           Units\n"
        "Max processes             1000                 1000                 processes\n"
        "Max open files            65536                65536                files"
    ),
    "/proc/7/mountinfo": "1 0 8:1 / / rw shared:1 - ext4 /dev/sda rw\n2 1 0:9 / /run rw shared:2 - tmpfs t rw",
    "/proc/7/comm": "fastnl-engine",
    "/sys/fs/cgroup/engine/pids.max": "max",
    "/sys/kernel/rcu_normal": "0",
    "/proc/sys/net/ipv4/neigh/default/gc_thresh3": "65536",
    "/proc/sys/net/ipv6/neigh/default/gc_thresh3": "65536",
    "/proc/sys/net/core/wmem_default": "212992",
    "/proc/sys/net/core/rmem_max": "212992",
    "/proc/sys/user/max_net_namespaces": "50000",
    "/proc/self/ns/net": "",
    "/boot/config-6.18.0-test": "CONFIG_HZ_250=y\nCONFIG_HZ=250\n",
}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """One that has nothing wrong with it; tests change what they are about."""
    made = Machine(Config(), pid=7, root=tmp_path)
    made.info = {
        "version": fastnl.__version__,
        "features": dict.fromkeys(FEATURES, True),
        "connections": {"up": 3},
        "uptime": 5.0,
    }
    for path, text in HEALTHY.items():
        write(made, path, text)
    for folder, mode in (("/var/lib/fastnl", 0o700), ("/run/fastnl", 0o750)):
        made.path(folder).mkdir(parents=True)
        made.path(folder).chmod(mode)
    return made


def write(machine: Machine, path: str, text: str) -> None:
    file = machine.path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def edit(machine: Machine, path: str, old: str, new: str) -> None:
    text = machine.text(path)
    assert old in text
    write(machine, path, text.replace(old, new))


def amiss(machine: Machine) -> dict[str, Check]:
    return {check.name: check for check in examine(machine) if check.status != "ok"}


def test_nothing_amiss(machine: Machine) -> None:
    assert amiss(machine) == {}
    assert len({check.name for check in examine(machine)}) == len(examine(machine))


def test_bare_machine(tmp_path: Path) -> None:
    """Where nothing can be read, every check still says something."""
    found = examine(Machine(root=tmp_path, problem="none"))
    assert not [check for check in found if "could not be looked at" in check.found]
    assert not [check for check in found if check.status != "ok" and not check.advice]


@pytest.mark.parametrize(
    ("path", "text", "name", "status"),
    [
        ("/proc/sys/kernel/osrelease", "5.4.0", "kernel", "fail"),
        ("/proc/sys/kernel/osrelease", "odd", "kernel", "warn"),
        ("/sys/kernel/rcu_normal", "1", "rcu", "warn"),
        ("/sys/kernel/realtime", "1", "rcu", "warn"),
        ("/boot/config-6.18.0-test", "CONFIG_HZ=100", "tick", "warn"),
        ("/proc/sys/net/ipv4/neigh/default/gc_thresh3", "1024", "neighbours_ipv4", "warn"),
        ("/proc/sys/net/ipv6/neigh/default/gc_thresh3", "1024", "neighbours_ipv6", "warn"),
        ("/proc/sys/net/core/wmem_default", "4608", "socket_buffers", "warn"),
        ("/proc/sys/user/max_net_namespaces", "0", "namespaces", "fail"),
        ("/proc/sys/user/max_net_namespaces", "100", "namespaces", "warn"),
        ("/proc/sys/kernel/threads-max", "210", "threads", "fail"),
        ("/proc/sys/kernel/pid_max", "300", "threads", "warn"),
    ],
)
def test_kernel_settings(machine: Machine, path: str, text: str, name: str, status: str) -> None:
    write(machine, path, text)
    found = amiss(machine)
    assert list(found) == [name]
    assert found[name].status == status
    assert found[name].advice


def test_tick_from_the_running_kernel(machine: Machine) -> None:
    machine.path("/proc/config.gz").write_bytes(gzip.compress(b"# CONFIG_HZ_1000 is not set\nCONFIG_HZ=100\n"))
    assert amiss(machine)["tick"].found.startswith("CONFIG_HZ=100")
    machine.path("/proc/config.gz").write_bytes(b"torn")
    assert "tick" not in amiss(machine)


@pytest.mark.parametrize(
    ("feature", "status"),
    [("veth", "fail"), ("vxlan", "warn"), ("ipv6", "warn"), ("stable_id", "warn"), ("writable_sysctl", "warn")],
)
def test_features(machine: Machine, feature: str, status: str) -> None:
    assert machine.info is not None
    machine.info["features"][feature] = False
    found = amiss(machine)
    assert list(found) == [feature]
    assert found[feature].status == status
    if feature in ("veth", "vxlan"):
        assert f"modprobe {feature}" in found[feature].advice


@pytest.mark.parametrize("feature", ["dummy", "cookie", "live_rename", "pidfd_netns", "born_by_target_name"])
def test_features_that_can_be_done_without(machine: Machine, feature: str) -> None:
    assert machine.info is not None
    machine.info["features"][feature] = False
    assert amiss(machine) == {}


def test_limited_control_group(machine: Machine) -> None:
    write(machine, "/proc/7/cgroup", "8:pids:/box\n0::/")
    write(machine, "/sys/fs/cgroup/pids/box/pids.max", "60")
    write(machine, "/sys/fs/cgroup/pids/box/pids.current", "20")
    found = amiss(machine)["threads"]
    assert found.status == "fail"
    assert "leaves room for 40" in found.found


@pytest.mark.parametrize(("capabilities", "status"), [("0000000000200000", "fail"), ("0000000000201000", "warn")])
def test_capabilities(machine: Machine, capabilities: str, status: str) -> None:
    edit(machine, "/proc/7/status", "000001ffffffffff", capabilities)
    found = amiss(machine)["privileges"]
    assert found.status == status
    assert "CAP_SYS_PTRACE missing (the engine's, pid 7)" in found.found


def test_user_namespace(machine: Machine) -> None:
    write(machine, "/proc/7/uid_map", "0 1000 1")
    assert list(amiss(machine)) == ["user_namespace", "socket_buffers"]


@pytest.mark.parametrize(("limit", "status"), [("256", "fail"), ("1024", "warn"), ("10063", "warn")])
def test_open_files(machine: Machine, limit: str, status: str) -> None:
    edit(machine, "/proc/7/limits", "65536                65536", f"{limit} 65536")
    found = amiss(machine)
    assert list(found) == ["open_files"]
    assert found["open_files"].status == status
    assert "LimitNOFILE" in found["open_files"].advice


def test_no_limit_of_open_files(machine: Machine) -> None:
    edit(machine, "/proc/7/limits", "65536                65536", "unlimited unlimited")
    assert amiss(machine) == {}


def test_engine_of_another_version(machine: Machine) -> None:
    assert machine.info is not None
    machine.info["version"] = "0.0.1"
    assert "restart the engine" in amiss(machine)["engine"].advice


def test_namespaces_that_the_engine_does_not_see(machine: Machine) -> None:
    write(machine, "/run/netns/blue", "")
    machine.path("/proc/7/root/run").mkdir(parents=True)
    found = amiss(machine)["run_netns"]
    assert found.status == "fail"
    assert "does not see blue" in found.found
    machine.path("/proc/7/root/run").rmdir()
    machine.path("/proc/7/root").rmdir()
    machine.path("/proc/7/root").symlink_to(machine.root)
    assert amiss(machine) == {}


def test_mounts_that_do_not_propagate(machine: Machine) -> None:
    machine.path("/run/netns").mkdir()
    write(machine, "/proc/7/mountinfo", "2 1 0:9 / /run/netns rw - tmpfs t rw")
    assert amiss(machine) == {}  # the engine was looked at itself
    write(machine, "/proc/self/mountinfo", "2 1 0:9 / /run/netns rw - tmpfs t rw")
    machine.pid = 0
    found = amiss(machine)["run_netns"]
    assert (found.status, "make-shared" in found.advice) == ("warn", True)


@pytest.mark.parametrize(("mode", "status"), [(0o755, "warn"), (0o777, "warn")])
def test_state_folder_of_everybody(machine: Machine, mode: int, status: str) -> None:
    machine.path("/var/lib/fastnl").chmod(mode)
    assert amiss(machine)["state_dir"].status == status


def test_state_folder(machine: Machine) -> None:
    shutil.rmtree(machine.path("/var/lib/fastnl"))
    assert amiss(machine) == {}
    write(machine, "/var/lib/fastnl", "")
    assert amiss(machine)["state_dir"].found.endswith("is no folder")


def test_state_folder_on_the_network(machine: Machine) -> None:
    edit(machine, "/proc/7/mountinfo", "/run rw", "/var/lib rw")
    edit(machine, "/proc/7/mountinfo", "tmpfs t", "nfs4 host:/x")
    assert amiss(machine)["state_dir"].status == "fail"


@pytest.mark.parametrize(("mode", "status"), [(0o777, "fail"), (0o1777, "warn")])
def test_socket_folder_of_everybody(machine: Machine, mode: int, status: str) -> None:
    machine.path("/run/fastnl").chmod(mode)
    found = amiss(machine)
    assert list(found) == ["endpoint", "events"]
    assert {check.status for check in found.values()} == {status}


def test_socket_that_everybody_may_use(machine: Machine) -> None:
    machine.path("/run/fastnl").chmod(0o755)
    assert amiss(machine) == {}
    write(machine, "/run/fastnl/engine.sock", "")
    machine.path("/run/fastnl/engine.sock").chmod(0o777)
    assert amiss(machine)["endpoint"].found.endswith("every user may connect")


@pytest.mark.parametrize("endpoint", ["tcp://0.0.0.0:7000", "ipc://@engine", "ipc:///" + 120 * "x"])
def test_other_endpoints(machine: Machine, endpoint: str) -> None:
    machine.config = Config(endpoint=endpoint)
    assert list(amiss(machine)) == ["endpoint"]


@pytest.mark.parametrize(
    ("comm", "name", "file"),
    [
        ("systemd-udevd", "systemd-udevd", "/etc/systemd/network/10-fastnl.link"),
        ("systemd-network", "systemd-networkd", "/etc/systemd/network/10-fastnl.network"),
        ("NetworkManager", "NetworkManager", "/etc/NetworkManager/conf.d/10-fastnl.conf"),
    ],
)
def test_programs_that_manage_interfaces(machine: Machine, comm: str, name: str, file: str) -> None:
    write(machine, "/proc/99/comm", comm + "\n")
    found = amiss(machine)
    assert list(found) == [name]
    assert found[name].status == "warn"
    assert file in found[name].advice
    write(machine, file, "")
    assert amiss(machine) == {}


def test_a_check_that_breaks(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(Machine, "programs", broken)
    assert amiss(machine)["managers"].found == "could not be looked at: ZeroDivisionError: odd"


# -- connections that are not up ---------------------------------------------------------------------


def on(engine: EngineProcess, *args: str, code: int = 1) -> dict[str, dict[str, str]]:
    return checks(doctor("--json", *args, code=code, FASTNL_ENDPOINT=engine.endpoint))


def test_a_namespace_that_is_missing(engine: EngineProcess, blue: str) -> None:
    engine.client().connect([pair("c1", end(blue, "e1"), end("bleu", "e1"))], wait=True)
    found = on(engine, "c1", code=0)["connection c1"]
    assert found["status"] == "warn"
    assert found["found"].startswith("pending for ") and "b.netns: namespace 'bleu'" in found["found"]
    assert found["advice"] == "looked for /run/netns/bleu; `ip netns add bleu` makes it; there is blue"
    # a look at everything has it too
    everything = checks(doctor("--json", "--state-dir", str(engine.state), FASTNL_ENDPOINT=engine.endpoint))
    assert everything["connection c1"]["advice"] == found["advice"]


def test_a_name_that_somebody_else_has(make_engine: Callable[..., EngineProcess], blue: str, red: str) -> None:
    engine = make_engine(env={"FASTNL_AUDIT": "1"}).start()
    engine.client().connect([pair("c1", end(blue, "e1"), end(red, "e1"))])
    with engine.paused():  # or it would have the name back before somebody else does
        for command in ("link delete e1", "link add e1 type bridge", "link set e1 alias mine"):
            subprocess.run(["ip", "-n", blue, *command.split()], check=True)
    assert eventually(lambda: engine.client().info()["connections"] == {"failed": 1})
    found = on(engine, "c1")["connection c1"]
    assert found["status"] == "fail"
    assert re.search(r"^failed for .*: ifname_in_use: .*; failed \d+ times, tried again in \d+ s$", found["found"])
    assert re.search(r"^e1 in namespace 'blue' is a bridge interface, index \d+, alias 'mine'", found["advice"])
    assert "`ip -n blue link delete e1`" in found["advice"]
    [record] = engine.client().list(state="failed")
    assert record["tries"] >= 1
    assert record["since"] < record["retry_at"] < time.time() + 90
    subprocess.run(["ip", "-n", blue, "link", "delete", "e1"], check=True)
    assert eventually(lambda: engine.client().info()["connections"] == {"up": 1})
    assert on(engine, "c1", code=0)["connection c1"]["status"] == "ok"


def test_a_connection_that_is_gone_or_never_was(engine: EngineProcess, blue: str) -> None:
    client = engine.client()
    client.connect([pair("c1", end(blue, "e1"), end("nowhere", "e1"))], wait=True)
    client.disconnect(["c1"])
    found = on(engine, "c1", "c2")
    assert re.search(r"^last heard of: [\d:.]+  removed   c1  was pending$", found["connection c1"]["advice"])
    assert "its error went to the client" in found["connection c2"]["advice"]


def test_a_connection_that_differs_from_the_kernel(
    make_engine: Callable[..., EngineProcess], blue: str, red: str
) -> None:
    engine = make_engine(env={"FASTNL_AUDIT": "0"}).start()
    engine.client().connect([pair("c1", end(blue, "e1"), end(red, "e1"))])
    subprocess.run(["ip", "-n", blue, "link", "set", "e1", "mtu", "1400"], check=True)
    engine.client().connect([pair("c1", end(blue, "e1", mtu=1300), end(red, "e1"))])
    subprocess.run(["ip", "-n", blue, "link", "set", "e1", "mtu", "1400"], check=True)
    assert on(engine, "c1")["connection c1"]["found"] == "up, but a.mtu is 1400, not 1300"


def record(state: str = "pending", **more: Any) -> dict[str, Any]:
    return {"id": "c1", "state": state, "since": time.time(), **more}


def waits(reference: str) -> dict[str, Any]:
    return record(a=end(reference, "e1"), b=end("", "e2"), reason=f"a.netns: namespace {reference!r}: it is not there")


def test_namespaces_of_every_kind_that_are_missing(machine: Machine) -> None:
    write(machine, "/run/docker/netns/abc", "")
    write(machine, "/run/netns/plain", "")
    machine.path("/srv/closed/sub").mkdir(parents=True)
    machine.root.chmod(0o755)
    machine.path("/srv/closed").chmod(0o700)
    edit(machine, "/proc/7/status", "000001ffffffffff", "0000000000201000")
    edit(machine, "/proc/7/status", "Uid:\t0\t0", "Uid:\t0\t4711")
    machine.path("/proc/7/root").symlink_to(machine.root)
    for reference, advice in {
        "abc": "there is /run/docker/netns/abc: say file:/run/docker/netns/abc",
        "plain": "is a plain file",
        "file:/srv/closed/sub/ns": "/srv/closed is closed to others: give the engine CAP_DAC_READ_SEARCH",
        "file:/none/at/all": "there is no /none where the engine lives",
        "pid:99999": "process 99999 has ended",
        "inode:4026532008": "nothing has the namespace 4026532008 any more",
    }.items():
        check = one(machine, waits(reference))
        assert (check.status, advice in check.advice) == ("warn", True), (reference, check.advice)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ({"code": "no_permission", "message": "no"}, "the engine lacks CAP_SYS_PTRACE"),
        ({"code": "kernel", "message": "x", "errno": 105}, "ENOBUFS: submit it again"),
        ({"code": "internal", "message": "x"}, "the engine's log"),
        ({"code": "conflict", "message": "x"}, "disconnect the connection that has it"),
        ({"code": "vni_in_use", "message": "x", "field": "vxlan.vni"}, "has vni 7 on port 4789"),
        ({"code": "something new", "message": "x"}, "submit it again"),
    ],
)
def test_what_to_do_about_each_failure(machine: Machine, error: dict[str, Any], advice: str) -> None:
    edit(machine, "/proc/7/status", "000001ffffffffff", "0000000000201000")
    failed = record("failed", error=error, a=end("", "e1"), vxlan={"vni": 7, "underlay": "not-there"})
    check = one(machine, failed)
    assert (check.status, advice in check.advice) == ("fail", True), check.advice
    assert check.found.startswith(f"failed for 0 s: {error['code']}: ")


def test_many_that_are_not_well_are_counted(machine: Machine) -> None:
    assert machine.info is not None
    machine.info["connections"] = {"up": 1, "pending": 500}
    machine.records = [waits(f"n{n}") | {"id": f"c{n}"} for n in range(100)]
    found = amiss(machine)
    assert len(found) == SHOWN + 1
    assert found["connections"].found == f"{500 - SHOWN} more are not up"
