"""What each client has in the engine: jobs, questions and replies that it has not read; and when it is enough.

A bounded queue alone would let one client take all of it.  So a client may have as many jobs waiting as there is
room left: one alone gets half of the queue, and n that send as fast as they can get 1/(n + 1) of it each, which
leaves as much for the next one.

Replies wait in ZeroMQ, and here when its queue for the client is full.  Who reads slowly gets all of them; who
does not read gets `busy` before there are too many, and what comes on top of that is thrown away.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import zmq

from fastnl_engine.events import LAST, MORE

HIGH_WATER = 256  # small replies that ZeroMQ keeps for one client
LARGE = 16 << 10  # bytes from which ZeroMQ tells when a reply has left; below, they are copied and forgotten
UNREAD = 16 << 20  # bytes of replies that a client may leave unread before its requests are refused
LOST = 64 << 20  # and from which its replies are thrown away
ALL_UNREAD = 512 << 20  # bytes over all clients from which questions are refused
QUESTIONS = 8  # questions of one client that may wait
OVERHEAD = 128  # bytes of a small reply besides itself
RETRY = 0.02  # seconds until a full queue of ZeroMQ is tried again
SWEEP = 1.0  # seconds between looks at what has left


class Peer:
    """One client, for as long as there is anything of it.

    requests          that have no reply yet; jobs, questions: those of them that were taken on
    unread            bytes of replies that have not left the engine, as far as they are counted
    """

    __slots__ = ("flying", "held", "jobs", "key", "questions", "requests", "unread")

    def __init__(self, key: tuple[zmq.Socket[bytes], bytes]) -> None:
        self.key = key
        self.requests = 0
        self.jobs = 0
        self.questions = 0
        self.unread = 0
        self.held: deque[tuple[list[bytes], bytes]] = deque()
        self.flying: deque[tuple[Any, int]] = deque()


class Peers:
    """For the gateway's thread.  `on_lost` is called for each reply that is thrown away."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self._peers: dict[tuple[zmq.Socket[bytes], bytes], Peer] = {}
        self._holding: set[Peer] = set()
        self._flying: set[Peer] = set()
        self._unread = 0
        self._next_try = self._next_sweep = 0.0
        self._on_lost = on_lost

    @staticmethod
    def prepare(router: zmq.Socket[bytes]) -> None:
        """Sets what has to be set before `router` is bound."""
        # a message that cannot be sent is an error then, and not dropped in silence
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        router.setsockopt(zmq.SNDHWM, HIGH_WATER)
        router.copy_threshold = LARGE

    def asks(self, router: zmq.Socket[bytes], route: bytes) -> Peer:
        """The client that a request came from; `send` is to be called for it once."""
        key = (router, route)
        peer = self._peers.get(key)
        if peer is None:
            peer = self._peers[key] = Peer(key)
        peer.requests += 1
        return peer

    def too_much(self, peer: Peer, *, question: bool) -> str:
        """Why a request is refused, "" if it is not."""
        self._settle(peer)
        if peer.unread > UNREAD:
            return f"{peer.unread} bytes of replies to you are unread; read them first"
        if not question:
            return ""
        if peer.questions >= QUESTIONS:
            return f"{peer.questions} of your questions are waiting; try again in a moment"
        if self._unread > ALL_UNREAD:
            self._sweep()
            if self._unread > ALL_UNREAD:
                return f"{self._unread} bytes of replies to all clients are unread; try again in a moment"
        return ""

    def send(self, peer: Peer, address: list[bytes], reply: bytes) -> None:
        """Never waits.  A client that is gone loses its replies."""
        peer.requests -= 1
        if peer.held or not self._hand_over(peer, address, reply):
            if peer.unread + len(reply) > LOST:
                self._on_lost()
            else:
                peer.held.append((address, reply))
                self._count(peer, len(reply) + OVERHEAD)
                self._holding.add(peer)
        self._forget(peer)

    def _forget(self, peer: Peer) -> None:
        """Drops a client of which there is nothing; its next request brings it back."""
        if not (peer.requests or peer.held or peer.flying):
            self._peers.pop(peer.key, None)

    @property
    def timeout(self) -> float:
        """Seconds until `turn` has something to do that cannot wait."""
        return max(0.0, self._next_try - time.monotonic()) if self._holding else 3600.0

    def turn(self) -> None:
        """Tries again what ZeroMQ would not take."""
        now = time.monotonic()
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP
            self._sweep()
        if not self._holding or now < self._next_try:
            return
        self._next_try = now + RETRY
        for peer in list(self._holding):
            self._settle(peer)
            while peer.held and self._hand_over(peer, *peer.held[0]):
                if peer.held:  # else it turned out to be gone
                    _, reply = peer.held.popleft()
                    self._count(peer, -len(reply) - OVERHEAD)
            if not peer.held:
                self._holding.discard(peer)
                self._forget(peer)

    def finish(self, seconds: float) -> None:
        """Waits until ZeroMQ has taken everything; what it has not after `seconds` is lost with the engine."""
        deadline = time.monotonic() + seconds
        while self._holding and time.monotonic() < deadline:
            self._next_try = 0.0
            self.turn()
            time.sleep(0.001)
        for peer in self._holding:
            for _ in peer.held:
                self._on_lost()

    def _sweep(self) -> None:
        for peer in list(self._flying):
            self._settle(peer)
            if not peer.flying:
                self._flying.discard(peer)
                self._forget(peer)

    def _hand_over(self, peer: Peer, address: list[bytes], reply: bytes) -> bool:
        """Gives a reply to ZeroMQ; False: it has too many for this client already."""
        router = peer.key[0]
        try:
            large = len(reply) >= LARGE
            if large and peer.unread > LOST:
                return False
            for frame in address:
                router.send(frame, MORE)
            if not large:
                router.send(reply, LAST)
                return True
            tracker = router.send(reply, LAST, copy=False, track=True)
        except zmq.Again:
            return False
        except zmq.ZMQError:  # EHOSTUNREACH: it is gone
            for _, waiting in peer.held:
                self._count(peer, -len(waiting) - OVERHEAD)
            peer.held.clear()
            return True
        peer.flying.append((tracker, len(reply)))
        self._count(peer, len(reply))
        self._flying.add(peer)
        return True

    def _settle(self, peer: Peer) -> None:
        """Strikes off what has left the engine, or went with its client."""
        while peer.flying and peer.flying[0][0].done:
            self._count(peer, -peer.flying.popleft()[1])

    def _count(self, peer: Peer, size: int) -> None:
        peer.unread += size
        self._unread += size
