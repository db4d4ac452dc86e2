"""What the kernel takes in the message that creates a pair, besides what the library puts there."""

from __future__ import annotations

import errno
import itertools
import struct
from collections.abc import Iterator

from bench.plans import IFF_UP, Pair, birth
from fastnl import Host, Veth
from fastnl._nl import Tour
from fastnl.netns import Handles
from fastnl_engine.bench.contenders import Clock

ALIAS = struct.pack("=HH8s", 12, 20, b"fastnl/x")
# IFLA_AF_SPEC, in it AF_INET6, in it IFLA_INET6_ADDR_GEN_MODE none
MODE = struct.pack("=HHHHHHB3x", 16, 26 | 1 << 15, 12, 10 | 1 << 15, 5, 8, 1)
UP = struct.pack("=II", IFF_UP, IFF_UP)


def what_a_create_takes(pair: Veth) -> Iterator[str]:
    """In words, what becomes of alias, IPv6 mode and up in the message that creates a pair, at either end."""
    host = Host("bench")
    for end, what in itertools.product((0, 1), ("alias", "IPv6 mode", "up")):
        with Handles() as handles:
            fds = tuple(handles.open(e.netns) for e in pair.ends)
            one = Pair(0, pair, fds, host.take_indexes(2))
            message = birth(one, host.group)
            if what == "up":
                place = 24 if end == 0 else _peer(message)[-1] + 4 + 8
                message[place : place + 8] = UP
            else:
                message += ALIAS if what == "alias" else MODE
                for at in _peer(message) if end == 1 else ():
                    (length,) = struct.unpack_from("=H", message, at)
                    struct.pack_into("=H", message, at, length + len(ALIAS if what == "alias" else MODE))
                struct.pack_into("=I", message, 0, len(message))
            tour = Tour(1)
            tour.visit(handles.open("")).raw(0, bytes(message))
            clock = Clock(1)
            tour.run()
            passed = clock.read().passed
            side = "first end" if end == 0 else "second end"
            for problem in tour.problems():
                yield f"{what}, {side}: {errno.errorcode[problem.errno]} {problem.ext_ack}, after {1e3 * passed:.1f} ms"
                break
            else:
                [row] = [r for r in host.links(pair.ends[end].netns) if r.ifname == pair.ends[end].ifname]
                has = {"alias": bool(row.alias), "IPv6 mode": row.addr_gen_mode == 1, "up": row.up}[what]
                yield f"{what}, {side}: {'taken' if has else 'accepted and ignored'}"
                last = Tour(1)
                last.visit(fds[0]).delete(0, one.indexes[0])
                last.run()


def _peer(message: bytearray) -> list[int]:
    """Where the nests begin that the second end is in: IFLA_LINKINFO, IFLA_INFO_DATA, VETH_INFO_PEER."""
    found, at = [], 32
    for kind in (18, 2, 1):
        while True:
            length, this = struct.unpack_from("=HH", message, at)
            if this & 0x3FFF == kind:
                break
            at += length + 3 & ~3
        found.append(at)
        at += 4
    return found
