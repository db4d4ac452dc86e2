"""Interfaces of one namespace by name, for `fastnl-afpacket` without an engine."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable

from fastnl._nl import route_socket
from fastnl.netns import open_reference
from fastnl.readback import Reader

RTMGRP_LINK = 1  # include/uapi/linux/rtnetlink.h
RTM_DELLINK = 17
ROOM = 65536  # bytes of one message of the kernel's
HEAD = struct.Struct("=IHHIIBxHi")  # nlmsghdr and the beginning of ifinfomsg


class Watch:
    """Tells `create(name, ifindex)` and `delete(name)` of the interfaces with these names; for one thread.

    Its descriptor, `fileno()`, belongs in a poll set; call `turn` when it can be read.  It keeps the namespace alive.
    Raises OSError or FastnlError when the namespace cannot be opened.
    """

    def __init__(
        self, netns: str, names: Iterable[str], create: Callable[[str, int], None], delete: Callable[[str], None]
    ) -> None:
        self._names = list(names)
        self._create = create
        self._delete = delete
        self._there: dict[str, int] = {}
        self._ns = open_reference(netns)
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, fileno=route_socket(self._ns))
            self._socket.setblocking(False)
            self._socket.bind((0, RTMGRP_LINK))
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def turn(self) -> None:
        """Also once at the beginning, for what is there already."""
        gone = self._drain()
        with Reader(self._ns) as reader:
            links = {name: reader.link(name=name) for name in self._names}
        for name, link in links.items():
            before, now = self._there.get(name), link.ifindex if link is not None else None
            if before is not None and (before != now or before in gone):
                del self._there[name]
                self._delete(name)
            if now is not None and name not in self._there:
                self._there[name] = now
                self._create(name, now)

    def _drain(self) -> set[int]:
        """Indexes of interfaces that were deleted: one with the same index may be there again already."""
        gone: set[int] = set()
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    message = self._socket.recv(ROOM)
                except OSError as e:
                    if e.errno != errno.ENOBUFS:
                        raise
                    continue  # some were lost; what is there now is looked up anyway
                if len(message) >= HEAD.size:
                    _, kind, *_, index = HEAD.unpack_from(message)
                    if kind == RTM_DELLINK:
                        gone.add(index)
        return gone

    def close(self) -> None:
        if hasattr(self, "_socket"):
            self._socket.close()
        os.close(self._ns)
