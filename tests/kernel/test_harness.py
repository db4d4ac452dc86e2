"""The tests' own footing: nothing they do reaches the machine, and nothing they leave goes unnoticed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fastnl import End, Host, Veth
from fastnl.testing import Census, Namespaces, eventually, ip_json, nsenter, ping, spawn

TESTS = Path(__file__).parents[1]


def python(script: str, *prefix: str, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*prefix, sys.executable, "-c", script], capture_output=True, text=True, check=False, **kwargs
    )


# -- isolation -------------------------------------------------------------------------------------

ISOLATED = """
import os, subprocess, sys
from fastnl import End, Host, Veth
from fastnl.testing import Namespaces, ip_json, isolate
isolate()
assert os.listdir("/run/netns") == []
[lo] = ip_json("", "link", "show")
assert (lo["ifname"], "UP" in lo["flags"]) == ("lo", True)
with Namespaces() as ns:
    ns.make("inner")
    [result] = Host().connect([Veth(End("", "mine"), End("inner", "mine"))])
    assert result.ok
    # what is started later is inside as well
    assert b"mine" in subprocess.run(["ip", "link", "show"], capture_output=True, check=True).stdout
    open("/proc/sys/net/ipv4/ip_forward", "w").write("1")
    print("made", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("end", ["clean", "killed"])
def test_what_an_isolated_process_does_stays_inside_and_goes_with_it(end):
    def outside() -> tuple:
        forward = Path("/proc/sys/net/ipv4/ip_forward").read_text()
        return os.listdir("/run/netns"), [row["ifname"] for row in ip_json("", "link", "show")], forward

    before = outside()
    with spawn([sys.executable, "-c", ISOLATED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "made\n"
        assert outside() == before
        if end == "killed":
            process.kill()
        else:
            process.communicate("\n")
    assert process.returncode == (0 if end == "clean" else -signal.SIGKILL)
    assert outside() == before


def test_isolation_is_refused_once_there_are_threads():
    done = python(
        "import threading, time; from fastnl.testing import isolate\n"
        "threading.Thread(target=time.sleep, args=(5,), daemon=True).start()\n"
        "isolate()"
    )
    assert "RuntimeError: isolate() must come before any thread is started; 2 are running" in done.stderr


def test_isolation_without_privilege_says_what_is_missing():
    done = python("from fastnl.testing import isolate; isolate()", "setpriv", "--bounding-set=-sys_admin")
    assert "PermissionError" in done.stderr
    assert "CAP_SYS_ADMIN" in done.stderr


def test_these_tests_are_isolated_themselves():
    assert " /run/netns rw" in Path("/proc/self/mountinfo").read_text()
    assert "fastnl-testing" in Path("/proc/self/mountinfo").read_text()
    assert [row["ifname"] for row in ip_json("", "link", "show")] == ["lo"]


def test_without_root_kernel_tests_are_skipped_with_a_reason_and_unit_tests_run():
    # in a user namespace without a mapping nobody is root
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-rs",
        "-p",
        "no:cacheprovider",
        "unit/test_cover.py",
        "kernel/test_harness.py",
    ]
    done = subprocess.run(["unshare", "--user", *command], cwd=TESTS, capture_output=True, text=True, check=False)
    if "unshare failed" in done.stderr:
        pytest.skip("this machine allows no user namespaces")
    assert "which needs root" in done.stdout
    assert " passed" in done.stdout
    assert "failed" not in done.stdout


LEAVING = """
import os, subprocess, threading
import conftest
import pytest
from fastnl.testing import spawn
conftest.PATIENCE = 0.1
pytestmark = pytest.mark.kernel
kept = []

def test_interface():
    subprocess.run(["ip", "link", "add", "left0", "type", "bridge"], check=True)

def test_namespace():
    subprocess.run(["ip", "netns", "add", "left1"], check=True)

def test_descriptor():
    kept.append(os.open("/dev/null", os.O_RDONLY))

def test_thread():
    kept.append(threading.Thread(target=threading.Event().wait, daemon=True))
    kept[-1].start()

def test_child():
    kept.append(spawn(["sleep", "600"]))

def test_clean():
    pass
"""


def test_a_test_that_leaves_something_fails(tmp_path):
    file = tmp_path / "test_leaving.py"
    file.write_text(LEAVING)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-c", os.devnull, "--rootdir", tmp_path, str(file)],
        env=os.environ | {"PYTHONPATH": str(TESTS)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "6 passed, 5 errors" in done.stdout
    for word in ("interface left0", "namespace left1", "fd ", "thread ", "child "):
        assert f"new: {word}" in done.stdout


# -- the helpers -----------------------------------------------------------------------------------


def test_a_census_tells_what_came_and_what_went(netns):
    before = Census.take()
    assert before.leaks(0) == []
    blue = netns.make("blue")
    [made] = Host().connect([Veth(End("", "e0"), End(blue, "e0"))])
    index = made.wired.places[0].ifindex
    fd = os.open("/dev/null", os.O_RDONLY)
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    with spawn(["sleep", "600"]) as child:
        found = Census.take().difference(before)
        child.kill()
    for line in (
        f"new: interface e0 (index {index}) in the process's own namespace",
        f"new: interface e0 (index {made.wired.places[1].ifindex}) in namespace blue",
        "new: namespace blue",
        f"new: fd {fd} on /dev/null",
        f"new: child {child.pid}",
    ):
        assert line in found
    assert any(line.startswith(f"new: thread {thread.native_id} ") for line in found)
    assert f"missing: fd {fd} on /dev/null" in before.difference(Census.take())
    os.close(fd)
    stop.set()
    thread.join()
    netns.let_go(blue)
    assert before.leaks() == []


def test_namespaces_are_gone_after_the_block_also_when_it_fails():
    with pytest.raises(ZeroDivisionError), Namespaces() as ns:
        assert ns.many(2, "x") == ["x0", "x1"]
        assert list(ns) == ["x0", "x1"]
        ns.let_go("x0")
        subprocess.run(["ip", "netns", "delete", "x1"], check=True)
        ns.make("x2")
        1 / 0  # noqa: B018
    assert list(Path("/run/netns").iterdir()) == []


def test_a_spawned_process_dies_with_its_parent_however_that_ends():
    script = "from fastnl.testing import spawn; print(spawn(['sleep', '600']).pid, flush=True); input()"
    with spawn([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        os.kill(child, 0)
        parent.kill()

    def gone() -> bool:
        # it is waited for by whoever adopts orphans here; until then it is a zombie
        try:
            return Path(f"/proc/{child}/stat").read_text().rpartition(") ")[2][0] == "Z"
        except FileNotFoundError:
            return True

    assert eventually(gone)


def test_a_ping_that_nobody_answers_is_false(host, netns):
    blue, red = netns.make("blue"), netns.make("red")
    host.connect([Veth(End(blue, "e0", ["10.0.0.1/24"]), End(red, "e0", ["10.0.0.2/24"]))])
    assert ping(blue, "10.0.0.2", count=2)
    assert not ping(blue, "10.0.0.3", wait=0.1)
    assert not ping(blue, "192.0.2.1", wait=0.1)


def test_reading_where_there_is_nothing_is_an_error():
    with pytest.raises(subprocess.CalledProcessError) as caught:
        ip_json("nosuch", "link", "show")
    assert "nosuch" in caught.value.stderr


def test_a_command_runs_inside_a_namespace(netns):
    blue = netns.make("blue")
    inode = os.stat(f"/run/netns/{blue}").st_ino
    out = subprocess.run(
        nsenter(blue, "readlink", "/proc/self/ns/net"), check=True, capture_output=True, text=True
    ).stdout
    assert out == f"net:[{inode}]\n"
    assert nsenter("", "true") == ["true"]


def test_waiting_is_bounded():
    begin = time.monotonic()
    assert not eventually(lambda: False, 0.05)
    assert eventually(lambda: time.monotonic() > begin)
