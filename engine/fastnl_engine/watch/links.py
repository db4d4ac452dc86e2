"""Interfaces of the engine's own namespace that come, go and change, as the kernel tells it.

Of this namespace only: a socket holds the namespace that it is in, and nobody else's may be held.
"""

from __future__ import annotations

import errno
import fcntl
import select
import socket
import struct
import time
from typing import NamedTuple

import structlog

RTMGRP_LINK = 1  # include/uapi/linux/rtnetlink.h
RTM_NEWLINK, RTM_DELLINK = 16, 17
IFLA_IFNAME, IFLA_OPERSTATE = 3, 16  # include/uapi/linux/if_link.h
IFF_UP, IFF_RUNNING = 1, 0x40
SIOCGIFFLAGS = 0x8913  # include/uapi/linux/sockios.h
OPER_UNKNOWN, OPER_UP = 0, 6  # include/uapi/linux/if.h; unknown: of what has no carrier, such as lo

HEAD = struct.Struct("=IHHIIBxHiII")  # nlmsghdr and ifinfomsg
ATTRIBUTE = struct.Struct("=HH")
ENOUGH = 512  # bytes of a message that are read: what is asked for stands at its beginning
MOST = 256  # messages of one turn
PAUSE = 0.02  # seconds without a look after so many: a flood of them is the audit's

log = structlog.get_logger()


class Link(NamedTuple):
    """An interface after a change; `gone`: it was deleted, or moved to another namespace."""

    ifindex: int
    name: str
    gone: bool
    up: bool
    running: bool


class Links:
    """For one thread.  Its descriptor, `fileno()`, belongs in a poll set; call `take` when it is readable or
    `timeout` has passed.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        self._socket.bind((0, RTMGRP_LINK))
        self._epoll = select.epoll()
        self._epoll.register(self._socket, select.EPOLLIN)
        self._buffer = bytearray(ENOUGH)
        self._paused = 0.0

    def fileno(self) -> int:
        return self._epoll.fileno()

    @property
    def timeout(self) -> float:
        """Seconds until something is due without any event."""
        return max(0.0, self._paused - time.monotonic()) if self._paused else 1.0

    def take(self) -> list[Link]:
        """What has happened, in its order; some of it, when there is very much."""
        if self._paused:
            if time.monotonic() < self._paused:
                return []
            self._paused = 0.0
            self._epoll.modify(self._socket, select.EPOLLIN)
        found: list[Link] = []
        for _ in range(MOST):
            try:
                size = self._socket.recv_into(self._buffer)
            except BlockingIOError:
                return found
            except OSError as e:
                if e.errno != errno.ENOBUFS:
                    raise
                log.debug("changes of interfaces were lost, the audit will find them")
                continue
            link = parse(memoryview(self._buffer)[:size])
            if link is not None:
                found.append(link)
        self._paused = time.monotonic() + PAUSE
        self._epoll.modify(self._socket, 0)
        return found

    def is_running(self, name: str) -> bool:
        """Whether an interface has a carrier now; not one that is not there."""
        try:
            reply = fcntl.ioctl(self._socket, SIOCGIFFLAGS, struct.pack("16s24x", name.encode()))
        except OSError:
            return False
        return bool(struct.unpack_from("=H", reply, 16)[0] & IFF_RUNNING)

    def close(self) -> None:
        self._epoll.close()
        self._socket.close()


def parse(message: memoryview) -> Link | None:
    """None: not about an interface itself, such as what a bridge says of its ports."""
    if len(message) < HEAD.size:
        return None
    length, kind, _, _, _, family, _, index, flags, _ = HEAD.unpack_from(message)
    if kind not in (RTM_NEWLINK, RTM_DELLINK) or family != socket.AF_UNSPEC:
        return None
    name, state = "", OPER_UNKNOWN
    at, end = HEAD.size, min(length, len(message))
    while at + ATTRIBUTE.size < end:
        size, what = ATTRIBUTE.unpack_from(message, at)
        value = message[at + ATTRIBUTE.size : at + size]
        if what == IFLA_IFNAME:
            name = bytes(value).rstrip(b"\0").decode(errors="surrogateescape")
        elif what == IFLA_OPERSTATE:
            state = value[0]
            break  # the name comes before
        at += max(ATTRIBUTE.size, (size + 3) & ~3)
    up = bool(flags & IFF_UP)
    return Link(index, name, kind == RTM_DELLINK, up, up and state in (OPER_UNKNOWN, OPER_UP))
