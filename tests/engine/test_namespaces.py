"""Namespaces that come and go: who waits for them, who is told, and that none is held or taken for another."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fastnl.netns import Identity
from fastnl.testing import eventually, ip_json, ping, spawn
from fastnl_engine.client import Client
from fastnl_engine.testing import EngineProcess, end, pair, tunnel
from fastnl_engine.watch import namespaces as watching

LIBC = ctypes.CDLL(None, use_errno=True)
MS_BIND, MNT_DETACH = 4096, 2


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True)


def names(netns: str) -> set[str]:
    return {row["ifname"] for row in ip_json(netns, "link", "show")} - {"lo"}


def state(client: Client, id_: str = "c1") -> str:
    [row] = client.list(ids=[id_])
    return row["state"]


def reason(client: Client, id_: str = "c1") -> str:
    [row] = client.list(ids=[id_])
    return row.get("reason", "")


def becomes(client: Client, wanted: str, id_: str = "c1") -> bool:
    return eventually(lambda: state(client, id_) == wanted)


def bind(source: str, target: Path) -> None:
    """A bind mount of a namespace, as container runtimes make them."""
    target.touch()
    assert LIBC.mount(source.encode(), str(target).encode(), None, ctypes.c_ulong(MS_BIND), None) == 0


def unbind(target: Path) -> None:
    assert LIBC.umount2(str(target).encode(), MNT_DETACH) == 0


class Process:
    """A process in a network namespace of its own, until `end`."""

    def __init__(self) -> None:
        self._process = spawn(["unshare", "--net", "sleep", "3600"])
        self.pid = self._process.pid
        own = os.stat("/proc/self/ns/net").st_ino
        assert eventually(lambda: os.stat(self.file).st_ino != own)

    @property
    def file(self) -> str:
        return f"/proc/{self.pid}/ns/net"

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def process(nothing_left: None) -> Iterator[Callable[[], Process]]:
    made: list[Process] = []

    def make() -> Process:
        made.append(Process())
        return made[-1]

    yield make
    for p in made:
        p.end()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for path in tmp_path.rglob("*"):
        LIBC.umount2(str(path).encode(), MNT_DETACH)


class Witness:
    """Tells when a namespace ends: a pair of its own with the test's namespace, which goes with it."""

    count = 0

    def __init__(self, where: str) -> None:
        Witness.count += 1
        self._name = f"wit{Witness.count}"
        ip("link", "add", self._name, "type", "veth", "peer", "name", self._name, "netns", where)

    def is_gone(self) -> bool:
        return self._name not in names("")


# -- waiting ---------------------------------------------------------------------------------------


def test_a_name_that_comes_and_goes_takes_its_connection_along_every_time(client, netns, blue):
    client.connect([pair("c1", end(blue, "e0", "10.0.0.1/24"), end("red", "e0", "10.0.0.2/24"))], wait=True)
    for _ in range(10):
        assert state(client) == "pending" and "red" in reason(client)
        netns.make("red")
        assert becomes(client, "up")
        assert ping(blue, "10.0.0.2")
        netns.let_go("red")
        assert becomes(client, "pending")
        assert names(blue) == set()


def test_a_file_is_waited_for_with_the_folders_before_it(client, process, folder, blue):
    target = folder / "one" / "two" / "ns"
    client.connect([pair("c1", end(blue, "e0"), end(f"file:{target}", "e0"))], wait=True)
    for _ in range(3):
        p = process()
        assert state(client) == "pending"
        target.parent.mkdir(parents=True)
        bind(p.file, target)
        assert becomes(client, "up")
        assert names(blue) == {"e0"}
        unbind(target)
        target.unlink()
        target.parent.rmdir()
        target.parent.parent.rmdir()
        assert becomes(client, "pending")
        assert names(blue) == set()


def test_a_file_that_was_there_for_long_becomes_a_namespace_by_a_mount(client, process, folder, blue):
    """A mount tells the folder nothing."""
    target = folder / "ns"
    target.touch()
    client.connect([pair("c1", end(blue, "e0"), end(f"file:{target}", "e0"))], wait=True)
    time.sleep(2)
    assert state(client) == "pending"
    bind(process().file, target)
    assert becomes(client, "up")
    unbind(target)
    assert becomes(client, "pending")
    assert names(blue) == set()


def test_a_process_is_waited_for_and_its_end_takes_the_other_end_away(engine, blue):
    with pid_namespace() as box:
        other = box.engine(engine)
        with Client(other.endpoint, timeout=60) as client:
            client.connect([pair("p1", end(blue, "p0"), end("pid:300", "p0"))], wait=True)
            assert state(client, "p1") == "pending"
            box.start(300)
            assert becomes(client, "up", "p1")
            assert names(blue) == {"p0"}
            box.end(300)
            assert becomes(client, "pending", "p1")
            assert names(blue) == set()


def test_two_spellings_of_a_folder_are_both_told(netns):
    """inotify has one number for a folder, whatever it is called."""
    told: list[tuple[str, bool]] = []
    watch = watching.Namespaces(lambda reference, who, was: told.append((reference, who is not None)))
    try:
        other = Path("/run/netns-again")
        other.symlink_to("/run/netns")
        spellings = {"blue", "file:/run/netns-again/blue"}
        for reference in spellings:
            assert watch.watch(reference) is None
        for there in (True, False):
            netns.make("blue") if there else netns.let_go("blue")
            # well before anything is looked at without having been told of
            assert eventually(lambda: watch.turn() or len(told) == 2, 0.5)
            assert set(told) == {(reference, there) for reference in spellings}
            told.clear()
    finally:
        other.unlink()
        watch.close()


def test_a_mount_is_told_of_at_once_to_whoever_polls_the_descriptor(process, folder, monkeypatch):
    monkeypatch.setattr(watching, "POLL", 3600.0)  # nothing is looked at without having been told of
    told: list[bool] = []
    watch = watching.Namespaces(lambda reference, who, was: told.append(who is not None))
    poll = select.poll()
    poll.register(watch.fileno(), select.POLLIN)
    try:
        target = folder / "ns"
        target.touch()
        assert watch.watch(f"file:{target}") is None
        bind(process().file, target)
        assert poll.poll(5000)
        watch.turn(True)
        assert told == [True]
        assert not poll.poll(0)  # or whoever waits for it would never sleep again
    finally:
        watch.close()


def test_watches_of_folders_go_with_the_last_reference_in_them(folder):
    watch = watching.Namespaces(lambda *_: None)
    try:

        def inotify_watches() -> int:
            return Path(f"/proc/self/fdinfo/{watch._inotify.fileno()}").read_text().count("inotify wd")

        references = [f"file:{folder}/{n}/ns" for n in range(20)]
        for reference in references:
            Path(reference.removeprefix("file:")).parent.mkdir()
            watch.watch(reference)
            watch.watch(reference + "2")
        assert inotify_watches() == 20
        watch.forget(references)
        assert inotify_watches() == 20
        watch.forget(r + "2" for r in references)
        assert inotify_watches() == 0
        assert watch.count == 0 and not watch._names and not watch._folders and not watch._numbers
    finally:
        watch.close()


# -- many ------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)
def test_500_namespaces_come_and_go_in_random_order_and_in_the_end_the_kernel_matches(client, engine, netns):
    draw = random.Random(500)
    count = 500
    client.connect([pair("first", end("n0", "first"), end("n1", "first"))], wait=True)
    client.disconnect(["first"])
    fds = len(os.listdir(f"/proc/{engine.pid}/fd"))
    # each of them is in two connections: a ring
    ring = [pair(f"r{n}", end(f"n{n}", "a"), end(f"n{(n + 1) % count}", "b")) for n in range(count)]
    assert all(r["ok"] for r in client.connect(ring, wait=True))
    there: set[str] = set()
    order = [f"n{n}" for n in range(count)] + [f"n{n}" for n in draw.choices(range(count), k=count)]
    draw.shuffle(order)
    for name in order:
        if name in there:
            netns.let_go(name)
        else:
            netns.make(name)
        there ^= {name}

    def wanted() -> dict[str, str]:
        return {r["id"]: "up" if {r["a"]["netns"], r["b"]["netns"]} <= there else "pending" for r in ring}

    assert eventually(lambda: {r["id"]: r["state"] for r in client.list()} == wanted())
    assert 0 < sum(s == "up" for s in wanted().values()) < count
    rows = {r["id"]: r for r in client.list()}
    for n in draw.sample([n for n in range(count) if f"n{n}" in there], 100):
        ours = {"a": rows[f"r{n}"]["a"], "b": rows[f"r{(n - 1) % count}"]["b"]}
        have = {row["ifname"]: row["ifindex"] for row in ip_json(f"n{n}", "link", "show") if row["ifname"] != "lo"}
        assert have == {name: e["ifindex"] for name, e in ours.items() if "ifindex" in e}
    assert all(v["ok"] for v in client.verify([i for i, s in wanted().items() if s == "up"]))
    for name in list(there):
        netns.let_go(name)
    assert eventually(lambda: {r["state"] for r in client.list()} == {"pending"})
    client.disconnect([r["id"] for r in ring])
    # a few for queries, which it makes when it is first asked
    assert eventually(lambda: len(os.listdir(f"/proc/{engine.pid}/fd")) < fds + 10)


# -- nobody's namespace is held --------------------------------------------------------------------


def test_a_name_that_its_owner_lets_go_ends_though_the_engine_has_connections_in_it(client, netns, blue):
    for _ in range(3):
        netns.make("brief")
        jobs = [pair(f"c{n}", end(blue, f"e{n}", f"10.0.{n}.1/24"), end("brief", f"e{n}")) for n in range(1, 30)]
        assert all(r["ok"] for r in client.connect(jobs))
        assert all(v["ok"] for v in client.verify())
        witness = Witness("brief")
        netns.let_go("brief")
        assert eventually(witness.is_gone)
        assert eventually(lambda: {r["state"] for r in client.list()} == {"pending"})


def test_a_namespace_ends_with_its_last_process_though_the_engine_has_connections_in_it(client, process, blue):
    p = process()
    for n, reference in enumerate((f"pid:{p.pid}", f"file:{p.file}", f"inode:{os.stat(p.file).st_ino}")):
        [result] = client.connect([pair(f"c{n}", end(blue, f"e{n}"), end(reference, f"e{n}"))])
        assert result["ok"], result
    witness = Witness(str(p.pid))
    p.end()
    assert eventually(witness.is_gone)
    assert eventually(lambda: {r["state"] for r in client.list()} == {"pending"})
    assert names(blue) == set()


def test_an_engine_that_starts_while_namespaces_go_holds_none_and_knows_which(engine, client, netns, blue):
    brief = netns.many(40)
    jobs = [pair(f"c{n}", end(blue, f"e{n}"), end(name, "e0")) for n, name in enumerate(brief)]
    assert all(r["ok"] for r in client.connect(jobs))
    witnesses = [Witness(name) for name in brief[:30]]
    for kill in (True, False, True):
        if kill:
            engine.kill()
        else:
            engine.stop()
        engine.launch()
        for name in list(netns)[1:11]:
            netns.let_go(name)
            time.sleep(0.03)
        assert eventually(lambda: Path(engine.endpoint.removeprefix("ipc://")).exists())
    client = engine.client()
    up = {f"c{n}" for n in range(30, 40)}
    assert eventually(lambda: {r["id"] for r in client.list(state="up")} == up)
    assert eventually(lambda: {r["id"] for r in client.list(state="pending")} == {j["id"] for j in jobs} - up)
    assert eventually(lambda: all(w.is_gone() for w in witnesses))
    assert names(blue) == {f"e{n}" for n in range(30, 40)}
    assert all(v["ok"] for v in client.verify(sorted(up)))


# -- never the wrong one ---------------------------------------------------------------------------


def test_a_name_that_is_made_again_is_wired_to_the_new_namespace(client, netns, blue, process):
    p = process()  # keeps the old one alive
    old = Path("/run/netns/red")
    bind(p.file, old)
    client.connect([pair("c1", end(blue, "e0", "10.0.0.1/24"), end("red", "e0", "10.0.0.2/24"))], wait=True)
    assert state(client) == "up"
    unbind(old)
    old.unlink()
    netns.make("red")
    assert eventually(lambda: state(client) == "up" and names("red") == {"e0"})
    assert ping(blue, "10.0.0.2")
    ip("netns", "attach", "former", str(p.pid))
    assert names("former") == set()
    ip("netns", "delete", "former")


def test_a_tunnel_is_made_in_the_new_namespace_though_a_process_holds_the_old_one(client, netns, process):
    """The old interface cannot be reached by its name any more, and it has the VNI."""
    holder, name = process(), Path("/run/netns/held")
    bind(holder.file, name)
    job = tunnel("c1", end("held", "vx0"), vni=78, local="127.0.0.1", remote="127.0.0.2")
    assert client.connect([job], wait=True)[0]["state"] == "up"
    unbind(name)
    name.unlink()
    assert becomes(client, "pending")
    netns.make("held")
    assert becomes(client, "up")
    assert client.verify(["c1"])[0]["ok"]
    command = ["nsenter", f"--net={holder.file}", "ip", "-j", "link"]
    left = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert [row["ifname"] for row in left] == ["lo"]


def test_a_bind_mount_that_is_replaced_is_followed(client, process, folder, blue):
    """Neither unmount nor mount are events of the folder, and the file stays the same."""
    first, second = process(), process()
    target = folder / "ns"
    bind(first.file, target)
    client.connect([pair("c1", end(blue, "e0"), end(f"file:{target}", "e0"))])
    for p, former in ((second, first), (first, second)):
        unbind(target)
        bind(p.file, target)
        assert eventually(lambda p=p: state(client) == "up" and interfaces_of(p) == {"e0"})
        assert interfaces_of(former) == set()


def test_a_name_in_another_mount_namespace_is_none_here(client, blue):
    holder = spawn(["unshare", "--mount", "sh", "-c", "ip netns add hidden && echo made && exec sleep 3600"],
                   stdout=subprocess.PIPE)  # fmt: skip
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"made\n"
        # the empty file may be seen here, the mount over it is not
        [result] = client.connect([pair("c1", end(blue, "e0"), end("hidden", "e0"))], wait=True)
        assert (result["ok"], result["state"]) == (True, "pending")
        [refused] = client.connect([pair("c2", end(blue, "e2"), end("hidden", "e2"))])
        assert refused["error"]["code"] == "netns_not_found"
        assert names(blue) == set()
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
        Path("/run/netns/hidden").unlink(missing_ok=True)


def interfaces_of(p: Process) -> set[str]:
    done = subprocess.run(
        ["nsenter", f"--net={p.file}", "ip", "-o", "link", "show"], check=True, capture_output=True, text=True
    )
    return {line.split(": ")[1].split("@")[0] for line in done.stdout.splitlines()} - {"lo"}


class Box:
    """A PID namespace whose numbers the test chooses, with a shell-like init that starts what it is told."""

    INIT = """
import os, sys, ctypes, signal, time
libc = ctypes.CDLL(None, use_errno=True)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print(os.getpid(), flush=True)
for line in sys.stdin:
    words = line.split()
    if words[0] == "start":
        pid = 0
        while pid != int(words[1]):  # the number may take a moment to be free
            if pid:
                os.kill(pid, signal.SIGKILL)
            open("/proc/sys/kernel/ns_last_pid", "w").write(str(int(words[1]) - 1))
            ready, said = os.pipe()
            pid = os.fork()
            if pid == 0:
                libc.unshare(0x40000000)
                os.write(said, b"x")
                while True:
                    signal.pause()
            os.read(ready, 1)
            os.close(ready)
            os.close(said)
        print(pid, flush=True)
    elif words[0] == "run":
        pid = os.fork()
        if pid == 0:
            os.execvp(words[1], words[1:])
        print(pid, flush=True)
    else:
        os.kill(int(words[1]), signal.SIGKILL)
        while os.path.exists("/proc/" + words[1]):
            time.sleep(0.001)
        print("ended", flush=True)
"""

    def __init__(self) -> None:
        self._init = spawn(
            ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-c", self.INIT],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._say("") == "1"

    def _say(self, line: str) -> str:
        assert self._init.stdin is not None and self._init.stdout is not None
        if line:
            self._init.stdin.write(line + "\n")
            self._init.stdin.flush()
        return self._init.stdout.readline().strip()

    def start(self, pid: int) -> None:
        """A process with a network namespace of its own and just this number."""
        assert self._say(f"start {pid}") == str(pid)

    def end(self, pid: int) -> None:
        self._say(f"end {pid}")

    def engine(self, like: EngineProcess) -> EngineProcess:
        """An engine in here, to which the numbers mean what they mean here."""
        folder = like.folder / "box"
        folder.mkdir(exist_ok=True)
        other = EngineProcess(folder, instance="boxed")
        self._engine = self._say("run " + " ".join(other.command))
        assert eventually(lambda: Path(other.endpoint.removeprefix("ipc://")).exists())
        return other

    def kill_engine(self) -> None:
        self.end(int(self._engine))

    def close(self) -> None:
        assert self._init.stdin is not None and self._init.stdout is not None
        self._init.stdin.close()
        self._init.kill()
        self._init.wait()
        self._init.stdout.close()


@contextlib.contextmanager
def pid_namespace() -> Iterator[Box]:
    box = Box()
    try:
        yield box
    finally:
        box.close()


def test_a_process_that_gets_the_number_of_one_that_ended_is_not_taken_for_it(engine, blue, red):
    with pid_namespace() as box:
        box.start(300)
        other = box.engine(engine)
        with Client(other.endpoint, timeout=60) as client:
            jobs = [
                pair("c1", end(blue, "e1"), end("pid:300", "e1")),
                pair("c2", end(blue, "e2"), end("file:/proc/300/ns/net", "e2")),
            ]
            assert all(r["ok"] for r in client.connect(jobs))
            # what waits for something else as well
            client.connect([pair("c3", end("later", "e3"), end("pid:300", "e3"))], wait=True)
            box.end(300)
            box.start(300)
            for id_ in ("c1", "c2"):
                assert becomes(client, "pending", id_)
                assert "for good" in reason(client, id_)
            ip("netns", "add", "later")
            time.sleep(3)  # longer than any look takes to come round
            assert {r["state"] for r in client.list()} == {"pending"}
            assert names(blue) == set() == names("later")
            # nor by an engine that was not there when the first one ended
            box.kill_engine()
            other = box.engine(engine)
        with Client(other.endpoint, timeout=60) as client:
            time.sleep(3)
            assert {state(client, id_) for id_ in ("c1", "c2")} == {"pending"}
            assert names(blue) == set()
            # whoever asks for it now means the new one
            assert all(r["state"] == "up" for r in client.connect(jobs))
            time.sleep(2)
            assert {state(client, id_) for id_ in ("c1", "c2")} == {"up"}
            client.disconnect(["c1", "c2", "c3"])
        ip("netns", "delete", "later")


def test_a_number_that_was_given_again_while_no_engine_ran_is_not_taken_for_the_old_one(engine, blue):
    with pid_namespace() as box:
        box.start(300)
        other = box.engine(engine)
        with Client(other.endpoint, timeout=60) as client:
            assert client.connect([pair("c1", end(blue, "e1"), end("pid:300", "e1"))])[0]["ok"]
        box.kill_engine()
        box.end(300)
        box.start(300)
        other = box.engine(engine)
        with Client(other.endpoint, timeout=60) as client:
            assert becomes(client, "pending")
            assert "for good" in reason(client)
            time.sleep(2)
            assert state(client) == "pending" and names(blue) == set()
            client.disconnect(["c1"])


# -- what it costs ---------------------------------------------------------------------------------


def test_among_ten_thousand_references_only_the_one_that_changed_is_looked_at(netns, monkeypatch):
    told: list[tuple[str, Identity | None]] = []
    looked: list[str] = []
    look = watching.look
    monkeypatch.setattr(watching, "look", lambda reference: looked.append(reference) or look(reference))
    watch = watching.Namespaces(lambda reference, who, was: told.append((reference, who)))
    try:
        for n in range(10_000):
            watch.watch(f"n{n}")
        looked.clear()
        netns.make("n77")
        assert eventually(lambda: watch.turn() or told)
        netns.let_go("n77")
        assert eventually(lambda: watch.turn() or len(told) == 2)
        assert {reference for reference, _ in told} == {"n77"} == set(looked)
    finally:
        watch.close()


def test_a_process_can_be_watched_by_many_and_forgotten(process):
    told: list[str] = []
    watch = watching.Namespaces(lambda reference, who, was: told.append(reference))
    try:
        p = process()
        references = {f"pid:{p.pid}", f"file:{p.file}"}
        for reference in references:
            assert watch.watch(reference) is not None
        os.kill(p.pid, signal.SIGSTOP)
        watch.turn()
        assert told == []
        os.kill(p.pid, signal.SIGKILL)
        assert eventually(lambda: watch.turn() or set(told) == references)
        watch.forget(references)
        assert watch.count == 0 and not watch._pidfds and not watch._expected
    finally:
        watch.close()
