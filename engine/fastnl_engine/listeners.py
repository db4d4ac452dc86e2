"""Turns new clients away while descriptors are scarce.

When accept() on an ipc socket finds no descriptor left, libzmq ends the process (src/ipc_listener.cpp), so it must
not come to that; and the engine needs some itself, for the namespaces of a batch.  Clients that are connected notice
nothing, and the ZeroMQ of those that were turned away tries again by itself.

A thread of its own listens to what ZeroMQ says about new connections, as there may be thousands in a second.
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

SPARE = 1024  # descriptors that clients do not get, or half of all if that is less
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
        # so many can come before the first of them is turned away
        socket.setsockopt(zmq.BACKLOG, BACKLOG)
        self._sockets.append(socket)
        self._monitors.append(socket.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_MONITOR_STOPPED))

    def start(self) -> None:
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
        # ZeroMQ closes it when it sees the end.  Should it be something else by now: no socket cannot be shut down
        with contextlib.suppress(OSError):
            connection = socket.socket(fileno=fd)
            try:
                connection.shutdown(socket.SHUT_RDWR)
            finally:
                connection.detach()
        if time.monotonic() > self._next_line:
            self._next_line = time.monotonic() + QUIET
            log.warning("client turned away", reason=f"of {self._most} open files too few are left; raise the limit")
