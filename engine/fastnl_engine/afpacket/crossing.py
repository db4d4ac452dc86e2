"""Two interfaces joined frame by frame, with a thread for each share of their traffic."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from fastnl._afpacket import Port, pump
from fastnl._nl import socket_in
from fastnl.netns import open_reference

BLOCK_KIB = 256  # of a ring, as _afpacket.pyx has it
COUNTERS = ("frames", "bytes", "ring_full", "truncated", "too_long", "interface_down", "refused")


@dataclass(frozen=True, slots=True)
class Place:
    """An interface that is there: its index in a namespace, "" is this process's own."""

    netns: str
    ifindex: int


@dataclass(frozen=True, slots=True)
class Shape:
    """How interfaces are opened.

    workers   threads of a pair, each with a socket and a ring on either interface
    ring      KiB of each ring
    retire    milliseconds that a frame waits at most for others
    """

    workers: int = 1
    ring: int = 8192
    retire: int = 1


class Crossing:
    """Frames that come in by one of two interfaces leave by the other, from now until `close`.

    Raises OSError or FastnlError when an interface or its namespace cannot be opened.
    """

    def __init__(self, a: Place, b: Place, shape: Shape) -> None:
        self._open = ExitStack()
        self._threads: list[threading.Thread] = []
        try:
            self._stop = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._open.callback(os.close, self._stop)
            self._ways = [self._ports(place, shape) for place in (a, b)]
            for n, ports in enumerate(zip(*self._ways, strict=True)):
                thread = threading.Thread(
                    target=pump, args=(*ports, self._stop), name=f"pump {a.ifindex}-{b.ifindex} {n}"
                )
                thread.start()
                self._threads.append(thread)
        except BaseException:
            self.close()
            raise

    def _ports(self, place: Place, shape: Shape) -> list[Port]:
        ports: list[Port] = []
        group = -1
        for _ in range(shape.workers):
            s = self._open.enter_context(_packet_socket(place.netns))
            port = Port(s.fileno(), place.ifindex, blocks=max(2, shape.ring // BLOCK_KIB), retire=shape.retire)
            self._open.callback(port.close)
            if shape.workers > 1:
                group = port.share(group)
            ports.append(port)
        return ports

    def counts(self) -> tuple[Counter[str], Counter[str]]:
        """Of what came in by the first interface, and by the second."""
        there, back = (total(port.counts() for port in ports) for ports in self._ways)
        return there, back

    def close(self) -> None:
        if self._threads:
            os.eventfd_write(self._stop, 1)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._open.close()


def total(parts: Iterable[Mapping[str, Any]]) -> Counter[str]:
    out = Counter(dict.fromkeys(COUNTERS, 0))
    for part in parts:
        out.update(part)
    return out


def _packet_socket(netns: str) -> socket.socket:
    """One that receives nothing yet.  In a namespace of others it wants CAP_SYS_ADMIN besides CAP_NET_RAW."""
    if not netns:
        return socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    fd = open_reference(netns)
    try:
        return socket.socket(fileno=socket_in(fd, socket.AF_PACKET, socket.SOCK_RAW, 0))
    finally:
        os.close(fd)


def is_gone(e: Exception) -> bool:
    """Whether an interface could not be opened because it is not there any more."""
    return isinstance(e, OSError) and e.errno in (errno.ENODEV, errno.ENXIO)
