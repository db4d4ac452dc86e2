"""Bytes of a Unix socket passed on, and the descriptors that come along with them, which gRPC would lose.

Whoever speaks of a namespace by `inode://DEV/INODE` sends a descriptor of it with some byte before its request or
its answer, or soon after.  Of a descriptor only this is of use: which namespace it is.  So it is looked at and closed
at once, and nobody's namespace is held.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
from collections.abc import Callable

import structlog

CHUNK = 64 << 10  # bytes that one direction holds at most
LINES = 1024  # connections at a time
PAUSE = 0.1  # seconds without accepting, when that fails
SAYS_NOTHING = 10.0  # seconds until one that has not said anything is closed, at the latest
DESCRIPTORS = 64  # that one read may bring, and that may wait for a byte to go with
WAITS = 5.0  # seconds that they do at most, as they hold their namespaces and the target may be away
_ROOM = socket.CMSG_SPACE(DESCRIPTORS * 4)

log = structlog.get_logger()

Passed = Callable[[int], None]


class Relay:
    """Connects every client of a listening socket to `target`, the path of another.  For one loop.

    passed  called with each descriptor that comes from either side; it is closed afterwards
    """

    def __init__(self, listening: socket.socket, target: str, passed: Passed) -> None:
        self.passed = passed
        self._listening = listening
        self._target = target
        self._loop = asyncio.get_running_loop()
        self._silent: dict[Line, asyncio.TimerHandle] = {}  # the longest silent comes first
        self._lines: set[Line] = set()
        self._to_send: dict[int, asyncio.TimerHandle] = {}  # the longest waiting comes first
        listening.setblocking(False)
        self._resume = self._loop.call_soon(self._listen)

    def _listen(self) -> None:
        self._loop.add_reader(self._listening.fileno(), self._accept)

    def send(self, fd: int) -> None:
        """Has a descriptor go to the target with the next byte that does; it is the relay's from now on."""
        if len(self._to_send) >= DESCRIPTORS:
            self._forget(next(iter(self._to_send)))
        self._to_send[fd] = self._loop.call_later(WAITS, self._forget, fd)

    def _forget(self, fd: int) -> None:
        self._to_send.pop(fd).cancel()
        os.close(fd)

    def close(self) -> None:
        """Ends every connection; the socket that listens is left to whoever made it."""
        self._resume.cancel()
        self._loop.remove_reader(self._listening.fileno())
        for line in list(self._lines):
            line.close()
        for fd in self.take():
            os.close(fd)

    def _accept(self) -> None:
        try:
            near, _ = self._listening.accept()
        except OSError as e:
            if not isinstance(e, BlockingIOError) and not self._make_room():
                log.warning("cannot accept a connection", reason=e.strerror)  # of descriptors there are none left
                self._loop.remove_reader(self._listening.fileno())
                self._resume = self._loop.call_later(PAUSE, self._listen)
            return
        near.setblocking(False)
        if len(self._lines) >= LINES and not self._make_room():
            log.warning("too many connections, closed", most=LINES)
            near.close()
            return
        line = Line(self, near)
        self._lines.add(line)
        self._silent[line] = self._loop.call_later(SAYS_NOTHING, line.close)
        self._loop.add_reader(near.fileno(), self._begin, line)

    def _make_room(self) -> bool:
        """Closes who is silent for longest; whether there was one."""
        line = next(iter(self._silent), None)
        if line is not None:
            line.close()
        return line is not None

    def _begin(self, line: Line) -> None:
        """A client says something, which makes it worth a connection to the target."""
        self._silent.pop(line).cancel()
        line.begin(self._target)

    def ended(self, line: Line) -> None:
        self._lines.discard(line)
        timer = self._silent.pop(line, None)
        if timer is not None:
            timer.cancel()

    def take(self) -> list[int]:
        """The descriptors that are to go, which are the caller's from now on."""
        waiting, self._to_send = self._to_send, {}
        for timer in waiting.values():
            timer.cancel()
        return list(waiting)


class Line:
    """A client and its connection to the target."""

    def __init__(self, relay: Relay, near: socket.socket) -> None:
        self.relay = relay
        self._loop = asyncio.get_running_loop()
        self._near = near
        self._far: socket.socket | None = None

    def begin(self, target: str) -> None:
        self._loop.remove_reader(self._near.fileno())
        with contextlib.suppress(OSError):
            if not self._near.recv(1, socket.MSG_PEEK):  # it has gone without a word
                self.close()
                return
        try:
            self._far = far = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            far.connect(target)  # at once or not at all, as it is a Unix socket
        except OSError:
            self.close()
            return
        Direction(self, self._near, far, self.relay.take, self._nothing_more).read()
        # who serves does not stop halfway: it has closed, and a client that goes on to say nothing must not stay
        Direction(self, far, self._near, list, self.close).read()

    def _nothing_more(self) -> None:
        """The client has said everything, and may still be waiting for the answer."""
        assert self._far is not None
        with contextlib.suppress(OSError):
            self._far.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.relay.ended(self)
        for end in (self._near, self._far):
            if end is not None and end.fileno() >= 0:
                self._loop.remove_reader(end.fileno())
                self._loop.remove_writer(end.fileno())
                end.close()


class Direction:
    """From one socket to another, no faster than that is read.

    take    gives the descriptors that are to go along
    at_end  is called when everything has gone
    """

    def __init__(
        self,
        line: Line,
        source: socket.socket,
        sink: socket.socket,
        take: Callable[[], list[int]],
        at_end: Callable[[], None],
    ) -> None:
        self._line = line
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._sink = sink
        self._take = take
        self._at_end = at_end
        self._rest = b""

    def read(self) -> None:
        self._loop.add_reader(self._source.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            data, ancillary, _, _ = self._source.recvmsg(CHUNK, _ROOM, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            self._line.close()
            return
        if ancillary:
            self._received(ancillary)
        if data:
            self._send(data)
        else:
            self._loop.remove_reader(self._source.fileno())
            self._at_end()

    def _received(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, payload in ancillary:
            if (level, kind) != (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                continue
            fds = array.array("i")
            fds.frombytes(payload[: len(payload) // fds.itemsize * fds.itemsize])
            try:
                for fd in fds:
                    self._line.relay.passed(fd)
            finally:
                for fd in fds:
                    os.close(fd)

    def _send(self, data: bytes) -> None:
        fds = self._take()
        try:
            sent = socket.send_fds(self._sink, [data], fds) if fds else self._sink.send(data)
        except BlockingIOError:
            sent = 0
            for fd in fds:
                self._line.relay.send(os.dup(fd))  # with the byte that does go
        except OSError:
            self._line.close()
            return
        finally:
            for fd in fds:
                os.close(fd)
        if sent < len(data):
            if not self._rest:
                self._loop.remove_reader(self._source.fileno())
                self._loop.add_writer(self._sink.fileno(), self._writable)
            self._rest = data[sent:]
        elif self._rest:
            self._rest = b""
            self._loop.remove_writer(self._sink.fileno())
            self.read()

    def _writable(self) -> None:
        self._send(self._rest)
