"""Records the seeds of the fuzz tests from the running kernel: python tests/fuzz/record.py (as root).

Each file of corpus/ holds what the kernel answered to one question, byte for byte.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from fastnl import End, Host, Neighbour, Route, Rule, Veth, Vxlan
from fastnl._nl import Tour
from fastnl.testing import Namespaces, isolate

CORPUS = Path(__file__).parent / "corpus"
SOL_NETLINK, EXT_ACK, CAP_ACK = 270, 11, 10


def furnish() -> None:
    """Puts one of everything into this process's own namespace."""
    other = "other"
    near = End(
        "", "e0", ["10.0.0.1/24", "fd00::1/64"],
        routes=[Route("10.9.0.0/16", via="10.0.0.2", metric=5, table=1000), Route("fd09::/64")],
        neighbours=[Neighbour("10.0.0.2", "02:00:00:00:00:02"), Neighbour("fd00::2", "02:00:00:00:00:02")],
    )  # fmt: skip
    four = Vxlan(a=End("", "vx4"), vni=4, local="10.0.0.1", remote="10.0.0.2", ttl=9)
    six = Vxlan(a=End("", "vx6"), vni=6, local="fd00::1", remote="fd00::2", learning=False)
    for result in Host("fuzz").connect([Veth(near, End(other, "e0"), id="seed"), four, six]):
        assert result.ok, result.error
    tour = Tour(1)
    with open("/proc/self/ns/net") as own:
        tour.visit(own.fileno()).rule(0, Rule(table=1000, source="10.0.0.0/24", to="10.9.0.0/16", iif="e0", priority=7))
        tour.run()
    assert not tour.problems()


def question(kind: int, head: int, flags: int = 0x300, tail: bytes = b"") -> bytes:
    body = bytes(head) + tail
    return struct.pack("=IHHII", 16 + len(body), kind, 1 | flags, 7, 0) + body


def answers(message: bytes, *options: int) -> bytes:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as s:
        for option in options:
            s.setsockopt(SOL_NETLINK, option, 1)
        s.send(message)
        out = b""
        while True:
            try:
                out += s.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return out


def main() -> None:
    isolate()
    CORPUS.mkdir(exist_ok=True)
    no_such_kind = b"\x14\0\x12\0\x0e\0\x01\0nosuchkind\0\0"
    bad_link = question(16, 16, 0x605, no_such_kind)
    with Namespaces() as namespaces:
        namespaces.make("other")
        furnish()
        seeds = {
            "links": answers(question(18, 16)),
            "addresses": answers(question(22, 8)),
            "routes": answers(question(26, 12)),
            "neighbours": answers(question(30, 12)),
            "rules": answers(question(34, 12)),
            "ack": answers(question(18, 16, 4, struct.pack("=HH4s", 7, 3, b"lo\0"))),
            "refusal": answers(bad_link),
            "refusal-in-words": answers(bad_link, EXT_ACK),
            "refusal-in-words-capped": answers(bad_link, EXT_ACK, CAP_ACK),
        }
    for name, data in seeds.items():
        assert data, name
        (CORPUS / f"{name}.bin").write_bytes(data)
        print(f"{name}: {len(data)} bytes")


if __name__ == "__main__":
    main()
