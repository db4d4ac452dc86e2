"""Events: what happens to connections, for whoever subscribes.

Frames [topic, msgpack]; the topic is `connection.<state>.<id>`, so that a subscriber can ask for one state
or one connection by prefix.  Events are numbered; a gap tells a subscriber that it was too slow.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec
import zmq


class Events:
    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self._number = 0

    def publish(self, state: str, fields: dict[str, Any]) -> None:
        """Sends one event; a subscriber that does not keep up loses events, nobody waits for it."""
        self._number += 1
        body = {"v": 1, "n": self._number, "time": time.time(), "event": state, **fields}
        topic = f"connection.{state}.{fields.get('id', '')}"
        self._socket.send_multipart([topic.encode(), msgspec.msgpack.encode(body)], zmq.NOBLOCK)

    def close(self) -> None:
        self._socket.close()
