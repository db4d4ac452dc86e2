"""The way to etcd is cut while others go on writing to it: nothing is torn down meanwhile, all is caught up after.

As long as FASTNL_OUTAGE says, in seconds; without it shorter than a minute, but longer than the lease of statuses.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from tests.ligato.conftest import Agent, comes, goes, ligato, links, veth1
from tests.ligato.test_faults import I1, halves, indexes, put

from fastnl.testing import Namespaces, eventually, nsenter, ping
from fastnl_engine.kv.testing import Etcd, free_port
from fastnl_engine.testing import EngineProcess, end, pair

OUTAGE = float(os.environ.get("FASTNL_OUTAGE", "7"))
LEASE = 5  # seconds, of statuses


class Wire:
    """TCP to a server, through us: it can be cut so that nobody answers any more, or so that everybody is refused."""

    def __init__(self, port: int) -> None:
        self._behind = ("127.0.0.1", port)
        self._ends: dict[socket.socket, socket.socket] = {}
        self._lock = threading.Lock()
        self._cut = ""
        self._ending = False
        self.port = free_port()
        self._listener = self._listen()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _listen(self) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen(100)
        return listener

    def cut(self, way: str) -> None:
        """`refused`: connections end and none is taken; `silent`: they stay, and nothing comes through."""
        with self._lock:
            self._cut = way
            if way == "refused":
                self._hang_up()
                self._listener.close()

    def mend(self) -> None:
        with self._lock:
            # what was said meanwhile is lost, as by a firewall that has forgotten its connections
            self._hang_up()
            if self._cut == "refused":
                self._listener = self._listen()
            self._cut = ""

    def close(self) -> None:
        self._ending = True
        self._thread.join()
        self._hang_up()
        self._listener.close()

    def _hang_up(self) -> None:
        for one in self._ends:
            one.close()
        self._ends.clear()

    def _run(self) -> None:
        while not self._ending:
            with self._lock:
                if not self._cut:
                    for ready in select.select([self._listener, *self._ends], [], [], 0.005)[0]:
                        if ready is self._listener:
                            self._accept()
                        elif ready in self._ends:
                            self._pass_on(ready)
            threading.Event().wait(0.001)  # lets `cut` have the lock

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            server = socket.create_connection(self._behind)
        except OSError:
            client.close()
            return
        self._ends |= {client: server, server: client}

    def _pass_on(self, ready: socket.socket) -> None:
        other = self._ends[ready]
        try:
            data = ready.recv(65536)
            other.sendall(data)
        except OSError:
            data = b""
        if not data:
            for one in (ready, other):
                del self._ends[one]
                one.close()


Wired = tuple[Agent, Wire]


@pytest.fixture
def wired(make_etcd: Callable[..., Etcd], make_engine: Callable[..., EngineProcess]) -> Iterator[Wired]:
    """An agent that reaches its etcd through a wire; others, `agent.put` for one, reach it without."""
    etcd = make_etcd()
    wire = Wire(int(etcd.urls[0].rpartition(":")[2]))
    try:
        engine = make_engine(ligato([f"http://127.0.0.1:{wire.port}"], status_lease=LEASE))
        yield Agent(engine.start(), etcd), wire
    finally:
        wire.close()


@contextlib.contextmanager
def monitored(netns: str) -> Iterator[list[str]]:
    """What becomes of the interfaces of a namespace, as `ip monitor` says it; complete after the block."""
    said: list[str] = []
    command = nsenter(netns, "stdbuf", "-oL", "ip", "-o", "monitor", "link")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        time.sleep(0.5)  # until it listens
        try:
            yield said
        finally:
            time.sleep(0.5)
            process.terminate()
            assert process.stdout is not None
            said += process.stdout.read().splitlines()


def compact(etcd: Etcd) -> None:
    revision = json.loads(etcd.ctl("endpoint", "status", "-w", "json"))[0]["Status"]["header"]["revision"]
    etcd.ctl("compact", str(revision))


@pytest.mark.parametrize("way", ["refused", "silent"])
@pytest.mark.parametrize("compacted", [False, True], ids=["", "compacted"])
def test_others_go_on_writing_while_etcd_cannot_be_reached(
    wired: Wired, netns: Namespaces, way: str, compacted: bool
) -> None:
    agent, wire = wired
    netns.many(2)
    for n in range(5):
        put(agent, halves(n))
    for n in range(5):
        agent.expect(f"{I1}a{n}", "CONFIGURED")
    before = indexes("n0")
    with monitored("n0") as said:
        wire.cut(way)
        began = time.monotonic()
        agent.delete(I1 + "a0")  # one goes
        agent.put(I1 + "b1", veth1("b1", "a1", "n1", "10.0.1.2/24", mtu=1400))  # one changes
        put(agent, halves(5))  # one comes
        for _ in range(2):  # one goes and returns, twice
            agent.delete(I1 + "a2")
            agent.put(I1 + "a2", veth1("a2", "b2", "n0", "10.0.2.1/24"))
        agent.put(I1 + "a4", veth1("a4", "b4", "n0", "10.0.44.1/24"))  # one becomes another and what it was
        agent.put(I1 + "a4", veth1("a4", "b4", "n0", "10.0.4.1/24"))
        if compacted:
            compact(agent.etcd)
        time.sleep(max(0.0, OUTAGE - (time.monotonic() - began)))
        assert agent.status(I1 + "a3") == {}  # nobody vouches for it any more
        assert indexes("n0") == before and links("n1")["b1"]["mtu"] == 1500
    assert said == []
    # clients are served all the same
    client = agent.engine.client()
    assert client.connect([pair("c", end("n0", "ca", "10.9.0.1/24"), end("n1", "cb", "10.9.0.2/24"))])[0]["ok"]
    wire.mend()
    assert goes("n1", "b0") and comes("n0", "a5")
    assert eventually(lambda: links("n1")["b1"]["mtu"] == 1400)
    for name in ("a1", "a2", "a3", "a4", "a5"):
        agent.expect(I1 + name, "CONFIGURED")
    agent.expect(I1 + "b0", "PENDING", "veth-peer-exists")
    after = indexes("n0")
    # what is as it was has been touched by nobody
    assert {name: after[name] for name in ("a1", "a2", "a3", "a4")} == {
        name: before[name] for name in ("a1", "a2", "a3", "a4")
    }
    assert set(after) == {"a1", "a2", "a3", "a4", "a5", "ca"}
    for n in (1, 2, 3, 4, 5, 9):
        assert ping("n0", f"10.0.{n}.2" if n < 9 else "10.9.0.2")


def test_a_namespace_goes_and_returns_and_an_interface_is_deleted_while_etcd_cannot_be_reached(
    wired: Wired, netns: Namespaces
) -> None:
    """The engine needs no etcd to keep what it knows."""
    agent, wire = wired
    netns.many(2)
    put(agent, halves(0) | halves(1))
    agent.expect(I1 + "a0", "CONFIGURED")
    agent.expect(I1 + "a1", "CONFIGURED")
    wire.cut("silent")
    netns.let_go("n1")
    assert goes("n0", "a0") and goes("n0", "a1")
    netns.make("n1")
    assert comes("n0", "a0") and ping("n0", "10.0.0.2")
    subprocess.run(["ip", "-n", "n0", "link", "del", "a0"], check=True)
    assert comes("n0", "a0") and ping("n0", "10.0.0.2")
    wire.mend()
    agent.delete(I1 + "b1")
    assert goes("n0", "a1")
    agent.expect(I1 + "a0", "CONFIGURED")
