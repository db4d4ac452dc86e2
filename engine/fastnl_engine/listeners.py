"""Turns new clients away while descriptors are scarce.

When accept() on an ipc socket finds no descriptor left, libzmq ends the process (src/ipc_listener.cpp), so it must
not come to that; and the engine needs some itself, for the namespaces of a batch.  Clients that are connected notice
nothing, and the ZeroMQ of those that were turned away tries again by itself.

A thread of its own hears from ZeroMQ of each new connection, as there may be thousands in a second.  It may be late, on
a busy machine or while another thread has the interpreter's lock, and accept() does not wait for it.  But what it is
told goes through a queue, and when that is full ZeroMQ's thread waits.  So there is a bound to how many connections
nobody has looked at, and room is kept for as many.
"""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
import time

import structlog
import zmq
from zmq.utils.monitor import parse_monitor_message

log = structlog.get_logger()

# connections of one socket that nobody has looked at: as the queue holds, 1,000 at ZeroMQ's end and 1 at ours, and one
AHEAD = 1002
# descriptors that clients do not get, or half of all if that is less; jobs and events have a socket each, two with TCP
SPARE = 1024 + 4 * AHEAD
ENOUGH = 2 * SPARE
BACKLOG = 64  # connections that the kernel keeps until they are accepted; those beyond try again
QUIET = 10.0  # seconds between lines of the log


class Listeners:
    def __init__(self) -> None:
        self._sockets: list[zmq.Socket[bytes]] = []
        self._monitors: list[zmq.Socket[bytes]] = []
        self._most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._spare = min(SPARE, self._most // 2)
        self._next_line = 0.0
        self._thread = threading.Thread(target=self._main, name="listeners")

    def add(self, socket: zmq.Socket[bytes]) -> None:
        """Looks after a socket that is about to be bound."""
        socket.setsockopt(zmq.BACKLOG, BACKLOG)
        self._sockets.append(socket)
        where = f"inproc://listeners.{len(self._monitors)}"
        socket.monitor(where, zmq.EVENT_ACCEPTED | zmq.EVENT_MONITOR_STOPPED)
        monitor = socket.context.socket(zmq.PAIR)
        monitor.setsockopt(zmq.RCVHWM, 1)  # it adds to the other end's
        monitor.connect(where)
        self._monitors.append(monitor)

    def start(self) -> None:
        if self._most < ENOUGH:
            reason = f"of {self._most} open files a crowd of clients could take all, which ends the engine"
            log.warning("few open files", reason=reason, advice=f"allow {ENOUGH} or more (LimitNOFILE=, ulimit -Hn)")
        self._thread.start()

    def close(self) -> None:
        """Before the sockets are closed."""
        for watched in self._sockets:
            watched.disable_monitor()
        if self._thread.ident is not None:
            self._thread.join()

    def _main(self) -> None:
        poller = zmq.Poller()
        for monitor in self._monitors:
            poller.register(monitor, zmq.POLLIN)
        while self._monitors:
            for monitor, _ in poller.poll():
                event = parse_monitor_message(monitor.recv_multipart())
                if event["event"] == zmq.EVENT_MONITOR_STOPPED:
                    poller.unregister(monitor)
                    self._monitors.remove(monitor)
                    monitor.close()
                elif self._lowest_free() >= self._most - self._spare:
                    self._turn_away(event["value"])

    def _lowest_free(self) -> int:
        """At least that many descriptors are in use: the kernel always gives the lowest."""
        try:
            fd = os.dup(2)
        except OSError:
            return self._most
        os.close(fd)
        return fd

    def _turn_away(self, fd: int) -> None:
        # ZeroMQ closes it when it sees the end.  Should the number be another one's by now: what is no socket cannot be
        # shut down, and every connection of the engine is made again when it ends
        with contextlib.suppress(OSError):
            connection = socket.socket(fileno=fd)
            try:
                connection.shutdown(socket.SHUT_RDWR)
            finally:
                connection.detach()
        if time.monotonic() > self._next_line:
            self._next_line = time.monotonic() + QUIET
            log.warning("client turned away", reason=f"of {self._most} open files too few are left; raise the limit")
