"""fastnl-afpacket as its users have it: a process that joins interfaces, and real traffic through it.

Namespace `a` has eth0, whose other end is veth1 of the test's own namespace, and `b` has eth0 and veth2; nothing but
the process joins veth1 and veth2.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from fastnl._nl import socket_in
from fastnl.netns import open_reference
from fastnl.testing import PATIENCE, Namespaces, eventually, ip_json, nsenter, ping, spawn
from fastnl_engine.afpacket.crossing import COUNTERS
from fastnl_engine.northbound.dependents import Attendance, Dependent, Step

SOL_PACKET, PACKET_AUXDATA, PACKET_VNET_HDR = 263, 8, 15  # include/uapi/linux/if_packet.h
AUXDATA = struct.Struct("=IIIHHHH")  # tpacket_auxdata: status, len, snaplen, mac, net, vlan_tci, vlan_tpid
TP_STATUS_VLAN_VALID = 1 << 4
MACS = bytes.fromhex("ffffffffffff020000000009")
KIND = 0x88B5  # for experiments, IEEE 802


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True, capture_output=True)


def wire(ns: str, host_end: str, address: str = "", mtu: int = 1500, index: int = 0, host_ns: str = "") -> None:
    """eth0 of a namespace and its other end, both up."""
    where = ["-n", host_ns] if host_ns else []
    which = ["index", str(index)] if index else []
    # always the same hardware address: when it is made again, others still know it
    peer = ["peer", "eth0", "address", f"02:00:00:00:00:0{ns}", "mtu", str(mtu), "netns", ns]
    ip(*where, "link", "add", host_end, *which, "mtu", str(mtu), "type", "veth", *peer)
    ip(*where, "link", "set", host_end, "up")
    ip("-n", ns, "link", "set", "eth0", "up")
    if address:
        ip("-n", ns, "addr", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))


def index_of(ifname: str) -> int:
    return int(ip_json("", "link", "show", ifname)[0]["ifindex"])


def silence() -> None:
    """No frames of IPv6's own, in this namespace and those made from here on."""
    for name in ("all", "default"):
        Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")


@pytest.fixture
def ends(netns: Namespaces) -> Iterator[None]:
    for name in "ab":
        netns.make(name)
    wire("a", "veth1", "10.0.0.1/24")
    wire("b", "veth2", "10.0.0.2/24")
    yield
    for ifname in ("veth1", "veth2"):
        subprocess.run(["ip", "link", "del", ifname], check=False, capture_output=True)


class Afpacket:
    """The process; `counts` once it has ended."""

    def __init__(self, *args: str) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="fastnl-")
        self.args = args
        self.lines: list[dict[str, Any]] = []
        self.start()

    def start(self) -> None:
        place = Path(self.folder.name)
        command = [sys.executable, "-m", "fastnl_engine.afpacket.main", *self.args]
        with open(place / "out", "w") as out, open(place / "log", "a") as log:
            self.process = spawn(command, stdout=out, stderr=log)
        said = self.log.count("running")
        assert eventually(lambda: self.log.count("running") > said or self.process.poll() is not None)
        assert self.process.poll() is None, self.log

    @property
    def log(self) -> str:
        return (Path(self.folder.name) / "log").read_text()

    @property
    def printed(self) -> list[dict[str, Any]]:
        lines = (Path(self.folder.name) / "out").read_text().splitlines()
        return [pair for line in lines for pair in json.loads(line)["pairs"]]

    def stop(self) -> dict[str, Any]:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE) == 0, self.log
        return self.printed[-1]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.kill()
        self.folder.cleanup()


@pytest.fixture
def afpacket(nothing_left: None) -> Iterator[Callable[..., Afpacket]]:
    with contextlib.ExitStack() as stack:

        def make(*args: str) -> Afpacket:
            made = Afpacket(*args)
            stack.callback(made.close)
            return made

        yield make


@contextlib.contextmanager
def packet_socket(netns: str, *, aux: bool = False, vnet: bool = False) -> Iterator[socket.socket]:
    """On eth0 of a namespace."""
    fd = open_reference(netns)
    try:
        made = socket_in(fd, socket.AF_PACKET, socket.SOCK_RAW, 0)
    finally:
        os.close(fd)
    with socket.socket(fileno=made) as s:
        if aux:
            s.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        if vnet:
            s.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        s.bind(("eth0", 3))  # ETH_P_ALL
        s.settimeout(0.2)
        yield s


def heard(s: socket.socket, wanted: bytes, seconds: float = PATIENCE) -> tuple[bytes, tuple[int, ...]] | None:
    """The first frame that holds `wanted`, and what the kernel says of it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(TimeoutError):
            frame, extra, _, _ = s.recvmsg(70_000, 256)
            if wanted in frame:
                said = [data for level, kind, data in extra if (level, kind) == (SOL_PACKET, PACKET_AUXDATA)]
                return frame, AUXDATA.unpack(said[0]) if said else ()
    return None


SERVE = """
import hashlib, socket, sys
with socket.create_server((sys.argv[1], 5000)) as s:
    print("ready", flush=True)
    c, _ = s.accept()
    h = hashlib.sha256()
    while data := c.recv(1 << 20):
        h.update(data)
    c.sendall(h.digest())
    c.close()
"""
SEND = """
import socket, sys
c = socket.create_connection((sys.argv[1], 5000), timeout=60)
data = sys.stdin.buffer.read()
c.sendall(data)
c.shutdown(socket.SHUT_WR)
got = b""
while more := c.recv(64):
    got += more
print(got.hex())
"""


def transfer(data: bytes, address: str = "10.0.0.2") -> None:
    """From `a` to `b` over TCP; what arrives is what was sent."""
    server = spawn(nsenter("b", sys.executable, "-c", SERVE, address), stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None and server.stdout.readline() == b"ready\n"
        sent = subprocess.run(
            nsenter("a", sys.executable, "-c", SEND, address), input=data, capture_output=True, timeout=100, check=False
        )
        assert sent.stdout.decode().strip() == hashlib.sha256(data).hexdigest(), sent.stderr.decode()
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


# -- traffic -----------------------------------------------------------------------------------------


def test_it_joins_two_interfaces(ends, afpacket):
    assert not ping("a", "10.0.0.2", wait=0.3)
    process = afpacket("--pair-if", "veth1", "veth2")
    assert ping("a", "10.0.0.2")
    assert ping("b", "10.0.0.1")
    counts = process.stop()
    assert counts["pair"] == ["veth1", "veth2"] and counts["times"] == 1
    for way in ("there", "back"):
        assert list(counts[way]) == list(COUNTERS)
        assert counts[way]["frames"] >= 2 and counts[way]["bytes"] >= 2 * 98
        assert not any(counts[way][k] for k in ("truncated", "too_long", "refused", "ring_full"))
    assert not ping("a", "10.0.0.2", wait=0.3)


def test_ipv6(ends, afpacket):
    for name, address in (("a", "fd00::1/64"), ("b", "fd00::2/64")):
        ip("-n", name, "addr", "add", address, "dev", "eth0", "nodad")
    afpacket("--pair-if", "veth1", "veth2")
    assert ping("a", "fd00::2")


@pytest.mark.parametrize("segments", ["whole", "cut"])
@pytest.mark.parametrize("workers", [1, 3])
def test_tcp_whose_checksums_and_segments_are_left_to_the_interface(ends, afpacket, segments, workers):
    """By default veth computes no checksum and cuts no segment, as there is no wire: frames have up to 64 KiB."""
    if segments == "cut":
        for name in "ab":
            ip("-n", name, "link", "set", "eth0", "gso_max_segs", "1")
    process = afpacket("--pair-if", "veth1", "veth2", "--workers", str(workers))
    data = os.urandom(1 << 20) * 8
    transfer(data)
    counts = process.stop()
    assert counts["there"]["bytes"] > len(data)
    assert counts["there"]["too_long"] == counts["there"]["truncated"] == 0
    mean = counts["there"]["bytes"] / counts["there"]["frames"]
    assert mean > 1514 if segments == "whole" else mean <= 1514


def test_what_a_frame_lacks_arrives_with_it(ends, afpacket):
    """A checksum that nobody has computed yet comes out as such, so whoever needs it computes it."""
    afpacket("--pair-if", "veth1", "veth2")
    assert ping("a", "10.0.0.2")
    with packet_socket("b", vnet=True) as ear:
        sender = [sys.executable, "-c", "import socket; socket.socket(2, 2).sendto(b'fastnl-csum', ('10.0.0.2', 9))"]
        subprocess.run(nsenter("a", *sender), check=True)
        frame, _ = heard(ear, b"fastnl-csum")
    flags, _, _, _, start, offset = struct.unpack_from("=BBHHHH", frame)
    assert flags & 1 and (start, offset) == (34, 6)  # NEEDS_CSUM, of UDP behind Ethernet and IPv4


def test_jumbo_frames(netns, afpacket):
    netns.make("a")
    netns.make("b")
    wire("a", "veth1", "10.0.0.1/24", mtu=9000)
    wire("b", "veth2", "10.0.0.2/24", mtu=9000)
    process = afpacket("--pair-if", "veth1", "veth2")
    assert ping("a", "10.0.0.2", size=8972)
    ip("link", "set", "veth2", "mtu", "1500")
    assert not ping("a", "10.0.0.2", size=8972, wait=1)
    assert ping("a", "10.0.0.2", size=1472)
    counts = process.stop()
    assert counts["there"]["too_long"] >= 1 and counts["back"]["too_long"] == 0
    for ifname in ("veth1", "veth2"):
        ip("link", "del", ifname)


@pytest.mark.parametrize(
    "tags",
    [[(0x8100, 0xA123)], [(0x88A8, 0x0FFE)], [(0x88A8, 7), (0x8100, 0x7001)], [(0x8100, 0)]],
    ids=["802.1Q with priority", "802.1ad", "QinQ", "priority only"],
)
def test_vlan_tags(ends, afpacket, tags):
    afpacket("--pair-if", "veth1", "veth2")
    assert ping("a", "10.0.0.2")
    inside = b"".join(struct.pack("!HH", *tag) for tag in tags[1:]) + struct.pack("!H", KIND) + b"fastnl-vlan" * 8
    frame = MACS + struct.pack("!HH", *tags[0]) + inside
    with packet_socket("a") as mouth, packet_socket("b", aux=True) as ear:
        mouth.send(frame)
        got, aux = heard(ear, b"fastnl-vlan")
    assert got == MACS + inside
    assert aux[0] & TP_STATUS_VLAN_VALID
    assert (aux[6], aux[5]) == tags[0]


def test_a_checksum_behind_a_vlan_tag(ends, afpacket):
    """Where the checksum begins is counted from the beginning of the frame, which the tag moves."""
    afpacket("--pair-if", "veth1", "veth2")
    assert ping("a", "10.0.0.2")
    payload = b"fastnl-tagged-csum"
    udp = struct.pack("!HHHH", 9, 9, 8 + len(payload), 0) + payload
    ipv4 = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
    frame = MACS + struct.pack("!HHH", 0x8100, 5, 0x0800) + ipv4 + udp
    with packet_socket("a", vnet=True) as mouth, packet_socket("b", aux=True, vnet=True) as ear:
        mouth.send(struct.pack("=BBHHHH", 1, 0, 0, 0, 38, 6) + frame)
        got, aux = heard(ear, payload)
    flags, _, _, _, start, offset = struct.unpack_from("=BBHHHH", got)
    assert flags & 1 and (start, offset) == (34, 6)
    assert got[10:] == frame[:12] + frame[16:]
    assert aux[5] == 5


@pytest.mark.parametrize("workers", [1, 2])
def test_frames_neither_loop_nor_does_the_hosts_own_cross(netns, afpacket, workers):
    silence()
    for name in "ab":
        netns.make(name)
        for which in ("all", "default"):
            quiet = f"echo 1 >/proc/sys/net/ipv6/conf/{which}/disable_ipv6"
            subprocess.run(nsenter(name, "sh", "-c", quiet), check=True)
    wire("a", "veth1")
    wire("b", "veth2")
    process = afpacket("--pair-if", "veth1", "veth2", "--workers", str(workers))
    assert eventually(lambda: "joined" in process.log)
    with packet_socket("a") as mouth, packet_socket("b") as ear:
        for n in range(50):
            mouth.send(MACS + struct.pack("!H", KIND) + b"fastnl-%03d" % n + bytes(40))
        assert heard(ear, b"fastnl-049")
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as own:
            own.bind(("veth1", 0))
            own.send(MACS + struct.pack("!H", KIND) + b"fastnl-own" + bytes(40))
        assert heard(mouth, b"fastnl-own")
        assert heard(ear, b"fastnl-own", seconds=0.5) is None
    counts = process.stop()
    assert (counts["there"]["frames"], counts["back"]["frames"]) == (50, 0)
    assert counts["there"]["bytes"] == 50 * (14 + 10 + 40)
    for ifname in ("veth1", "veth2"):
        ip("link", "del", ifname)


def test_order_is_kept(ends, afpacket):
    afpacket("--pair-if", "veth1", "veth2")
    assert ping("a", "10.0.0.2")
    numbers: list[int] = []
    with packet_socket("a") as mouth, packet_socket("b") as ear:
        for n in range(2000):
            mouth.send(MACS + struct.pack("!HI", KIND, n) + bytes(n % 1400))
            if n % 25 == 24:  # more than the ear's own queue takes would be lost there
                while not numbers or numbers[-1] != n:
                    frame, *_ = heard(ear, struct.pack("!H", KIND))
                    numbers.append(struct.unpack_from("!I", frame, 14)[0])
    assert numbers == list(range(2000))


def test_a_way_out_that_is_full_holds_up_nothing_else(ends, afpacket):
    slow = ["tbf", "rate", "10mbit", "burst", "20kb", "limit", "100mb"]
    done = subprocess.run(["tc", "qdisc", "add", "dev", "veth2", "root", *slow], capture_output=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"this kernel has no token bucket filter: {done.stderr.decode().strip()}")
    process = afpacket("--pair-if", "veth1", "veth2", "--ring", "64")
    assert eventually(lambda: "joined" in process.log)
    count = 5000  # some 10 MiB as the kernel counts it, where 4 may be on their way
    with packet_socket("a") as mouth, packet_socket("b") as back:
        for n in range(count):
            mouth.send(MACS + struct.pack("!HI", KIND, n) + bytes(1400))
        before = cpu_of(process.process.pid)
        back.send(MACS + struct.pack("!H", KIND) + b"fastnl-back" + bytes(40))
        assert heard(mouth, b"fastnl-back")
        process.process.send_signal(signal.SIGUSR1)
        assert eventually(lambda: process.printed)
        assert process.printed[0]["there"]["frames"] < count, "nothing was held up, so nothing was tried"
        assert eventually(lambda: carried(process) >= count)
        assert cpu_of(process.process.pid) - before < 0.8, "it spins"
    counts = process.stop()
    assert counts["there"]["refused"] == counts["there"]["too_long"] == 0


def carried(process: Afpacket) -> int:
    """Frames that left for `b`, or found no room in the ring, by now."""
    said = len(process.printed)
    process.process.send_signal(signal.SIGUSR1)
    assert eventually(lambda: len(process.printed) > said)
    there = process.printed[-1]["there"]
    return int(there["frames"] + there["ring_full"])


# -- interfaces that come and go ---------------------------------------------------------------------


def test_an_interface_that_goes_down_and_comes_up_again(ends, afpacket):
    process = afpacket("--pair-if", "veth1", "veth2", "--workers", "2")
    assert ping("a", "10.0.0.2")
    ip("link", "set", "veth2", "down")
    assert not ping("a", "10.0.0.2", wait=0.5)
    before = cpu_of(process.process.pid)
    time.sleep(0.5)
    assert cpu_of(process.process.pid) - before < 0.4, "it spins"
    ip("link", "set", "veth2", "up")
    assert ping("a", "10.0.0.2")
    assert process.stop()["times"] == 1


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("same_index", [False, True])
def test_an_interface_that_is_made_again(ends, afpacket, same_index):
    process = afpacket("--pair-if", "veth1", "veth2")
    assert ping("a", "10.0.0.2")
    index = index_of("veth2") if same_index else 0
    ip("link", "del", "veth2")
    wire("b", "veth2", "10.0.0.2/24", index=index)
    assert ping("a", "10.0.0.2")
    counts = process.stop()
    assert counts["times"] == 2 and counts["there"]["frames"] >= 2


def test_interfaces_that_come_later(netns, afpacket):
    netns.make("a")
    netns.make("b")
    process = afpacket("--pair-if", "veth1", "veth2")
    wire("b", "veth2", "10.0.0.2/24")
    wire("a", "veth1", "10.0.0.1/24")
    assert ping("a", "10.0.0.2")
    process.stop()
    for ifname in ("veth1", "veth2"):
        ip("link", "del", ifname)


def test_in_a_namespace_of_its_own(netns, afpacket):
    for name in ("a", "b", "middle"):
        netns.make(name)
    wire("a", "veth1", "10.0.0.1/24", host_ns="middle")
    wire("b", "veth2", "10.0.0.2/24", host_ns="middle")
    afpacket("--pair-if", "veth1", "veth2", "--netns", "middle")
    assert ping("a", "10.0.0.2")


def test_counters_on_demand(ends, afpacket):
    process = afpacket("--pair-if", "veth1", "veth2", "--stats", "0.1")
    assert eventually(lambda: len(process.printed) >= 2)
    other = afpacket("--pair-if", "veth3", "veth4")
    assert other.printed == []
    other.process.send_signal(signal.SIGUSR1)
    assert eventually(lambda: other.printed)
    assert other.printed[0]["joined"] is False and process.printed[-1]["joined"] is True


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "nothing to join"),
        (["--pair-if", "veth1", "veth1"], "twice"),
        (["--pair", "a", "b", "--pair", "b", "c"], "twice"),
        (["--pair-if", "veth1", "veth2", "--netns", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_is_said(args, said):
    command = [sys.executable, "-m", "fastnl_engine.afpacket.main", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode in (1, 2) and said in done.stderr


def test_an_interface_without_ethernet_is_refused(nothing_left, afpacket):
    ip("tuntap", "add", "tun0", "mode", "tun")
    ip("link", "set", "tun0", "up")
    try:
        process = afpacket("--pair-if", "lo", "tun0")
        assert eventually(lambda: "carries no Ethernet" in process.log)
        assert process.stop()["joined"] is False
    finally:
        ip("link", "del", "tun0")


# -- with an engine ----------------------------------------------------------------------------------


class MiniEngine:
    """What the engine's ROUTER does for `attend`, on a thread; everything else of an engine is missing."""

    def __init__(self, folder: str) -> None:
        self.endpoint = f"ipc://{folder}/engine.sock"
        self.asked: list[dict[str, Any]] = []
        self._calls: list[Callable[[], None]] = []
        self._thread: threading.Thread | None = None

    def start(self, attendance: Attendance) -> None:
        self.attendance = attendance
        self._stop = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def do(self, call: Callable[[Attendance], None]) -> None:
        """On the thread that serves."""
        done = threading.Event()
        self._calls.append(lambda: (call(self.attendance), done.set()))  # type: ignore[func-returns-value]
        assert done.wait(PATIENCE)

    def stop(self) -> None:
        if self._thread is not None:
            self._stop = True
            self._thread.join()
            self._thread = None

    def _serve(self) -> None:
        with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
            router.linger = 0
            router.bind(self.endpoint)
            while not self._stop:
                if router.poll(5):
                    self._request(router, *router.recv_multipart())
                while self._calls:
                    self._calls.pop(0)()
                self.attendance.turn()

    def _request(self, router: Any, peer: bytes, frame: bytes) -> None:
        request = msgpack.unpackb(frame)
        self.asked.append(request)

        def answer(steps: list[Step], anew: bool) -> None:
            reply = {"v": 1, "id": request["id"], "ok": True, "results": [s.as_dict() for s in steps], "anew": anew}
            router.send_multipart([peer, msgpack.packb(reply)])

        if request.get("leave"):
            self.attendance.leave(request["consumer"])
            answer([], False)
        else:
            self.attendance.attend(request["consumer"], request.get("done"), request.get("wait", 30), answer)


@pytest.fixture
def engine(nothing_left: None) -> Iterator[MiniEngine]:
    with tempfile.TemporaryDirectory(prefix="fastnl-") as folder:
        engine = MiniEngine(folder)
        yield engine
        engine.stop()


def attendance(*, up: bool = True) -> Attendance:
    made = Attendance(time.monotonic)
    for n in (1, 2):
        made.configure(Dependent(f"afp{n}", f"veth{n}"))
        if up:
            made.up("", f"veth{n}", index_of(f"veth{n}"))
    return made


def packet_sockets() -> set[int]:
    """Indexes of the interfaces of this namespace that packet sockets are bound to."""
    lines = Path("/proc/net/packet").read_text().splitlines()[1:]
    return {int(line.split()[4]) for line in lines}


def test_it_opens_and_closes_as_the_engine_says(ends, engine, afpacket):
    engine.start(attendance())
    process = afpacket("--pair", "afp1", "afp2", "--endpoint", engine.endpoint)
    assert ping("a", "10.0.0.2")
    assert "done" not in engine.asked[0] and engine.asked[0]["consumer"] == "fastnl-afpacket"
    index = index_of("veth1")
    assert index in packet_sockets()
    seen: list[set[int]] = []
    engine.do(lambda a: a.hold("", "veth1", lambda: seen.append(packet_sockets())))
    assert eventually(lambda: seen)
    assert index not in seen[0], "it is still open"
    assert not ping("a", "10.0.0.2", wait=0.3)
    ip("link", "del", "veth1")
    engine.do(lambda a: a.gone("", "veth1"))
    wire("a", "veth1", "10.0.0.1/24")
    engine.do(lambda a: a.up("", "veth1", index_of("veth1")))
    assert ping("a", "10.0.0.2")
    assert process.stop()["times"] == 2
    assert engine.asked[-1].get("leave") is True
    released: list[float] = []
    engine.do(lambda a: a.hold("", "veth1", lambda: released.append(0)))
    assert released  # nobody is left to be waited for


def test_an_interface_that_vanishes_behind_the_engines_back(ends, engine, afpacket):
    engine.start(attendance())
    process = afpacket("--pair", "afp1", "afp2", "--endpoint", engine.endpoint)
    assert ping("a", "10.0.0.2")
    ip("link", "del", "veth2")
    wire("b", "veth2", "10.0.0.2/24")
    engine.do(lambda a: a.up("", "veth2", index_of("veth2")))
    assert ping("a", "10.0.0.2")
    assert process.stop()["times"] == 2


@pytest.mark.parametrize("first", ["engine", "consumer"])
def test_who_starts_first_does_not_matter(ends, engine, afpacket, first):
    if first == "engine":
        engine.start(attendance())
        afpacket("--pair", "afp1", "afp2", "--endpoint", engine.endpoint)
    else:
        afpacket("--pair", "afp1", "afp2", "--endpoint", engine.endpoint)
        engine.start(attendance(up=False))
        for n in (2, 1):
            engine.do(lambda a, n=n: a.up("", f"veth{n}", index_of(f"veth{n}")))
    assert ping("a", "10.0.0.2")


def test_what_is_joined_stays_through_a_restart_of_the_engine(ends, engine, afpacket):
    engine.start(attendance())
    process = afpacket("--pair", "afp1", "afp2", "--endpoint", engine.endpoint)
    assert ping("a", "10.0.0.2")
    engine.stop()
    assert ping("a", "10.0.0.2")
    engine.asked.clear()
    engine.start(attendance())
    assert eventually(lambda: len(engine.asked) >= 2)
    assert "done" not in engine.asked[0] and len(engine.asked[1]["done"]) == 2
    seen: list[set[int]] = []
    index = index_of("veth1")
    engine.do(lambda a: a.hold("", "veth1", lambda: seen.append(packet_sockets())))
    assert eventually(lambda: seen) and index not in seen[0]
    assert process.stop()["times"] == 1


def test_a_consumer_that_was_killed_takes_up_again(ends, engine, afpacket):
    engine.start(attendance())
    process = afpacket("--pair", "afp1", "afp2", "--endpoint", engine.endpoint)
    assert ping("a", "10.0.0.2")
    process.kill()
    assert not ping("a", "10.0.0.2", wait=0.3)
    process.start()
    assert ping("a", "10.0.0.2")
