"""Who is let in at all: the answers to ZeroMQ's question (ZAP) about a peer that wants to connect.

ZeroMQ asks before it hands on anything that a peer sends, for sockets that have a ZAP domain.  Here these are the
events, which a peer without a role must not hear, and everything over TCP, where a peer is let in if it has the secret
key to a public one in `roles`.  Jobs over an ipc socket are not asked about: a refusal with words is better.

The gateway's thread answers, so that roles are read and changed by one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog
import zmq
from zmq.utils import z85

from fastnl_engine import wire
from fastnl_engine.auth import VIEWER, Roles, peer_of

log = structlog.get_logger()

AT_A_TIME = 64  # questions answered in a row, so that many strangers do not keep the engine from its work
QUIET = 10.0  # seconds between lines of the log about peers that were turned away
HANDSHAKE = 5_000  # milliseconds that a peer has to show its key; ZeroMQ's own limit is 30 s
OVERHEAD = 1024  # bytes that encryption adds to a message, and more
SUBSCRIPTION = 4096  # bytes of what a subscriber may send


class Door:
    """For one context; made before a socket of it is bound.

    secret  the engine's secret key, "" if nothing is bound to TCP
    roles   who may do what, now
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], secret: str, roles: Callable[[], Roles]) -> None:
        self._secret = secret
        self._roles = roles
        self._refused = 0  # since the last line of the log
        self._last = ""
        self._next_line = 0.0
        self.socket = context.socket(zmq.REP)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind("inproc://zeromq.zap.01")

    def guard(self, socket: zmq.Socket[bytes]) -> None:
        """Lets nobody without a role in.  Before the socket is bound, as what follows."""
        socket.setsockopt(zmq.ZAP_DOMAIN, b"fastnl")

    def lock(self, socket: zmq.Socket[bytes], *, ipv6: bool) -> None:
        """Lets nobody in but over an encrypted connection, and with a key that has a role."""
        self.guard(socket)
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._secret.encode())
        socket.setsockopt(zmq.IPV6, int(ipv6))
        # what a stranger can make the engine hold: one message each, for as long as the handshake may take
        socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE)
        socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_FRAME + OVERHEAD if socket.type == zmq.ROUTER else SUBSCRIPTION)
        # peers whose machine is gone do not say so
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 60)
        socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 15)
        socket.setsockopt(zmq.TCP_KEEPALIVE_CNT, 4)

    def turn(self) -> None:
        """Answers the questions that are there."""
        for _ in range(AT_A_TIME):
            try:
                question = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            # version, request, domain, address, routing id, mechanism, credentials…: from ZeroMQ itself
            version, request, _, address, _, mechanism = question[:6]
            who, known = self._judge(address.decode("ascii", "replace"), mechanism, question[6:])
            if known:
                answer = [b"200", b"OK", who.encode(), b""]
            else:
                self._refused += 1
                self._last = who
                answer = [b"400", b"no role", b"", b""]
            self.socket.send_multipart([version, request, *answer])
        if self._refused and time.monotonic() >= self._next_line:
            # a stranger's ZeroMQ tries ten times a second
            log.warning("turned away", times=self._refused, last=self._last)
            self._refused = 0
            self._next_line = time.monotonic() + QUIET

    def _judge(self, address: str, mechanism: bytes, credentials: list[bytes]) -> tuple[str, bool]:
        """Who it is, and whether that is somebody."""
        roles = self._roles()
        if mechanism == b"CURVE":
            key = z85.encode(credentials[0]).decode()
            return f"key:{key}", key in roles.keys
        peer = peer_of(address)
        return address, peer is not None and mechanism == b"NULL" and roles.of(peer[0], peer[1]) >= VIEWER

    def close(self) -> None:
        self.socket.close()
