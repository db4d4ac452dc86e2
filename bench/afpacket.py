"""What fastnl-afpacket carries: python -m bench.afpacket [seconds], as root.

Two namespaces, joined through the host ends of their veth pairs: by nothing else than fastnl-afpacket, and, to compare,
by a bridge of the kernel's.  Generator, joint and receiver share the machine's processors.
"""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastnl.testing import Namespaces, eventually, ip_json, isolate, nsenter, ping, spawn

SMALL = 18  # bytes in a UDP datagram that make a frame of 60, the smallest of Ethernet

# UDP_SEGMENT has one system call send many datagrams; as eth0 takes one segment at a time, they leave as single frames
FLOOD = """
import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(17, 103, int(sys.argv[1]))
s.connect(("10.0.0.9", 9))
burst = bytes(60 * int(sys.argv[1])) if int(sys.argv[1]) < 1000 else bytes(40 * int(sys.argv[1]))
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    s.send(burst)
"""
RECEIVE = """
import socket
with socket.create_server(("10.0.0.2", 5000)) as s:
    print("ready", flush=True)
    c, _ = s.accept()
    while c.recv(1 << 20):
        pass
"""
SEND = """
import socket, sys, time
c = socket.create_connection(("10.0.0.2", 5000))
data, begun, sent = bytes(1 << 20), time.monotonic(), 0
while (passed := time.monotonic() - begun) < float(sys.argv[1]):
    c.sendall(data)
    sent += len(data)
print(8 * sent / passed / 1e9)
"""


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True)


@contextmanager
def ends() -> Iterator[None]:
    with Namespaces() as namespaces:
        for name, host_end, address in (("a", "veth1", "10.0.0.1/24"), ("b", "veth2", "10.0.0.2/24")):
            namespaces.make(name)
            mac = f"02:00:00:00:00:0{name}"
            ip("link", "add", host_end, "type", "veth", "peer", "eth0", "address", mac, "netns", name)
            ip("link", "set", host_end, "up")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "address", "add", address, "dev", "eth0")
        # an address that nobody has: `b` takes the frames and does nothing more with them
        ip("-n", "a", "neighbour", "add", "10.0.0.9", "lladdr", "02:00:00:00:00:0b", "dev", "eth0")
        yield
        for host_end in ("veth1", "veth2"):
            ip("link", "delete", host_end)


@contextmanager
def afpacket(workers: int) -> Iterator[int]:
    command = [
        sys.executable,
        "-m",
        "fastnl_engine.afpacket.main",
        "--pair-if",
        "veth1",
        "veth2",
        "--log-level",
        "error",
    ]
    process = spawn([*command, "--workers", str(workers)], stdout=subprocess.DEVNULL)
    yield process.pid
    process.send_signal(signal.SIGTERM)
    process.wait()


@contextmanager
def bridge() -> Iterator[int]:
    ip("link", "add", "br0", "type", "bridge")
    for name in ("veth1", "veth2"):
        ip("link", "set", name, "master", "br0")
    ip("link", "set", "br0", "up")
    yield 0
    ip("link", "delete", "br0")


def frames(netns: str, which: str) -> int:
    stats = ip_json(netns, "-s", "link", "show", "eth0")[0]["stats64"]
    return int(stats[which]["packets"])


def cpu_of(pid: int) -> float:
    if not pid:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def flood(size: int, seconds: float, pid: int) -> dict[str, float]:
    ip("-n", "a", "link", "set", "eth0", "gso_max_segs", "1")
    before, cpu = (frames("a", "tx"), frames("b", "rx")), cpu_of(pid)
    subprocess.run(nsenter("a", sys.executable, "-c", FLOOD, str(size), str(seconds)), check=True)
    time.sleep(0.5)
    sent, got = frames("a", "tx") - before[0], frames("b", "rx") - before[1]
    ip("-n", "a", "link", "set", "eth0", "gso_max_segs", "65535")
    return {
        "offered_per_s": round(sent / seconds),
        "carried_per_s": round(got / seconds),
        "lost_percent": round(100 * (sent - got) / sent, 1),
        "cores": round((cpu_of(pid) - cpu) / seconds, 2),
    }


def tcp(seconds: float) -> float:
    server = spawn(nsenter("b", sys.executable, "-c", RECEIVE), stdout=subprocess.PIPE)
    assert server.stdout is not None
    server.stdout.readline()
    done = subprocess.run(
        nsenter("a", sys.executable, "-c", SEND, str(seconds)), check=True, capture_output=True, text=True
    )
    server.wait()
    return round(float(done.stdout), 2)


def round_trips() -> dict[str, float]:
    done = subprocess.run(
        nsenter("a", "ping", "-n", "-c", "500", "-i", "0.005", "10.0.0.2"), check=True, capture_output=True, text=True
    )
    times = sorted(float(t) for t in re.findall(r"time=([\d.]+) ms", done.stdout))
    return {"p50_ms": round(statistics.median(times), 2), "p99_ms": times[int(len(times) * 0.99)]}


def main(seconds: float = 5) -> None:
    isolate()
    for label, joint in (
        ("afpacket, 1 worker", lambda: afpacket(1)),
        ("afpacket, 2 workers", lambda: afpacket(2)),
        ("bridge of the kernel's", bridge),
    ):
        with ends(), joint() as pid:
            assert ping("a", "10.0.0.2")
            out = {
                "round_trip": round_trips(),
                "frames_of_60_bytes": flood(SMALL, seconds, pid),
                "frames_of_1514_bytes": flood(1472, seconds, pid),
                "tcp_gbit_per_s": tcp(seconds),
            }
            ip("-n", "a", "link", "set", "eth0", "gso_max_segs", "1")
            out["tcp_gbit_per_s_in_frames_of_1514_bytes"] = tcp(seconds)
        assert eventually(lambda: not [r for r in ip_json("", "link", "show") if r["ifname"] == "veth1"])
        print(json.dumps({label: out}, indent=2), flush=True)


if __name__ == "__main__":
    main(*(float(argument) for argument in sys.argv[1:]))
