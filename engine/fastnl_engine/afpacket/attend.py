"""A consumer of the engine's: hears which interfaces come and go, does what it is told and says so.

The protocol, for consumers in any language, is in docs/afpacket.md.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from typing import Any

import msgpack
import structlog
import zmq
from zmq.utils.monitor import recv_monitor_message

from fastnl_engine.curve import reach

log = structlog.get_logger()

WAIT = 30.0  # seconds of a long poll
GRACE = 5.0  # seconds longer that an answer may take, and until a refused request is tried again
FAREWELL = 1000  # milliseconds that the engine gets to hear that this one leaves

Step = dict[str, Any]


class Attendant:
    """Asks an engine for steps and carries them out; for one thread.

    create   told a step's map, for an interface that is there; may be told again of what it knows
    delete   told the name of a dependent, which is closed when it returns

    `sockets` belong into a poll set; call `turn` when one can be read or `timeout` has passed.  Whether the engine is
    there, restarts or forgets does not matter: what was created stays until the engine says otherwise, or does not
    name it again within `wait` seconds of a new session.
    """

    def __init__(
        self,
        endpoint: str,
        consumer: str,
        create: Callable[[Step], None],
        delete: Callable[[str], None],
        *,
        wait: float = WAIT,
    ) -> None:
        self.endpoint = endpoint
        self.consumer = consumer
        self._create = create
        self._delete = delete
        self._wait = wait
        self._has: set[str] = set()
        self._stale: set[str] = set()  # of an earlier session, and not named again yet
        self._stale_at = math.inf
        self._id = 0
        self._due = math.inf
        self._known = False  # the engine knows this session
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        try:
            reach(self._socket, endpoint, None)
        except BaseException:
            self._end()
            raise
        self._ask(None)

    @property
    def sockets(self) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
        return self._socket, self._monitor

    @property
    def timeout(self) -> float:
        """Seconds until `turn` has something to do."""
        return max(0.0, min(self._due, self._stale_at) - time.monotonic())

    def turn(self) -> None:
        self._watch_connection()
        with contextlib.suppress(zmq.Again):
            while True:
                reply = msgpack.unpackb(self._socket.recv(zmq.NOBLOCK), strict_map_key=False)
                if reply.get("id") == self._id:
                    self._take(reply)
        now = time.monotonic()
        if now >= self._due:
            self._ask(None)
        if now >= self._stale_at:
            self._stale_at = math.inf
            for name in sorted(self._stale):
                self._lose(name)
            self._stale.clear()

    def _watch_connection(self) -> None:
        """A request that was under way when the engine ended has no reply; the next engine gets a new one at once."""
        with contextlib.suppress(zmq.Again):
            while True:
                event = recv_monitor_message(self._monitor, zmq.NOBLOCK)
                if event["event"] == zmq.EVENT_DISCONNECTED:
                    log.warning("the engine is gone; what is joined stays", endpoint=self.endpoint)
                    self._ask(None)
                else:
                    log.info("attending", endpoint=self.endpoint, consumer=self.consumer)

    def _ask(self, done: list[int] | None) -> None:
        self._id += 1
        request = {"v": 1, "id": self._id, "op": "attend", "consumer": self.consumer, "wait": self._wait}
        if done is not None:
            request["done"] = done
        else:
            self._known = False
        with contextlib.suppress(zmq.Again):  # without an engine the queue may be full
            self._socket.send(msgpack.packb(request), zmq.NOBLOCK)
        self._due = time.monotonic() + self._wait + GRACE

    def _take(self, reply: dict[str, Any]) -> None:
        if "error" in reply:
            log.error("the engine refused", **reply["error"])
            self._id += 1  # nothing is open
            self._due = time.monotonic() + GRACE
            return
        if reply.get("anew", not self._known):
            self._stale = set(self._has)
            self._stale_at = time.monotonic() + self._wait if self._stale else math.inf
        self._known = True
        for step in reply["results"]:
            self._carry_out(step)
        self._ask([step["n"] for step in reply["results"]])

    def _carry_out(self, step: Step) -> None:
        name = step["name"]
        self._stale.discard(name)
        if step["action"] == "create":
            self._has.add(name)
            self._create(step)
        else:
            self._lose(name)

    def _lose(self, name: str) -> None:
        self._has.discard(name)
        self._delete(name)

    def close(self) -> None:
        """Says good-bye, so that the engine need not wait for this consumer; what it has must be closed by then."""
        request = {"v": 1, "id": self._id + 1, "op": "attend", "consumer": self.consumer, "leave": True}
        with contextlib.suppress(zmq.Again):
            self._socket.send(msgpack.packb(request), zmq.NOBLOCK)
            if self._known:
                self._socket.poll(FAREWELL)
        self._end()

    def _end(self) -> None:
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()
        self._context.term()
