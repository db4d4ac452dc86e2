"""Events: what happens to connections, their namespaces and the engine, for whoever subscribes.

Frames [topic, msgpack]; the topic is `<of>.<event>.<name>`, such as `connection.up.c1`, so that a subscriber can
ask for one kind of event or one connection by prefix.  Events are numbered from 1 in each run of the engine; a gap
tells a subscriber that it was too slow, and the `events` op has what it missed, as far back as the log reaches.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
import zmq

LOG_EVENTS = 10_000
LOG_BYTES = 8 << 20

# as plain numbers and one frame after the other: less than half of what send_multipart takes with zmq.Flag
LAST, MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)

NAMED_BY = {"connection": "id", "namespace": "reference", "engine": "instance"}  # the last word of a topic


class Events:
    """run   a word that is another one after each start, as the numbers begin anew with it"""

    def __init__(self, sockets: Sequence[zmq.Socket[bytes]]) -> None:
        self._sockets = sockets
        self.run = secrets.token_hex(4)
        self.newest = 0
        self._log: deque[bytes] = deque()
        self._log_bytes = 0

    def publish(self, event: str, fields: dict[str, Any], of: str = "connection") -> None:
        """Sends one event; a subscriber that does not keep up loses events, nobody waits for it."""
        self.newest += 1
        body = msgspec.msgpack.encode(
            {"v": 1, "n": self.newest, "run": self.run, "time": time.time(), "event": event, "of": of, **fields}
        )
        self._keep(body)
        topic = f"{of}.{event}.{fields[NAMED_BY[of]]}".encode()
        for socket in self._sockets:
            socket.send(topic, MORE)
            socket.send(body, LAST)

    @property
    def oldest(self) -> int:
        """Number of the oldest event in the log; newest + 1 when it is empty."""
        return self.newest - len(self._log) + 1

    def since(self, number: int, limit: int) -> list[msgspec.Raw]:
        """Events after `number`, oldest first."""
        skip = max(0, number - self.oldest + 1)
        chosen = list(self._log)[skip : skip + limit]
        return [msgspec.Raw(body) for body in chosen]

    def _keep(self, body: bytes) -> None:
        self._log.append(body)
        self._log_bytes += len(body)
        while len(self._log) > LOG_EVENTS or self._log_bytes > LOG_BYTES:
            self._log_bytes -= len(self._log.popleft())

    def close(self) -> None:
        for socket in self._sockets:
            socket.close()
