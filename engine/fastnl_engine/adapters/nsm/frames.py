"""What the process that speaks gRPC and the engine say to each other: arrays of msgpack, their length before them."""

from __future__ import annotations

import asyncio
import enum
import struct
from collections.abc import Callable
from typing import Any

import msgspec

LENGTH = struct.Struct("!I")
decode = msgspec.msgpack.Decoder(list).decode
encode = msgspec.msgpack.Encoder().encode


class Word(enum.IntEnum):
    """The first of an array, and what follows it; `n` is the number of a call.

    The gate says    BOUND   what is wrong with the address, "" for nothing; once, and first of all
                     CALL    n, method, message, seconds that whoever calls waits or None
                     MORE    n: the last message of a stream has been sent
                     GONE    n: nobody waits for its answer any more
    The engine says  SERVE   which methods there are: whether each answers with a stream
                     ANSWER  n, message; it ends a call that is not answered with a stream
                     END     n, status, details, trailing metadata
                     STOP    seconds that calls have to end in
    """

    BOUND = 0
    CALL = 1
    MORE = 2
    GONE = 3
    SERVE = 4
    ANSWER = 5
    END = 6
    STOP = 7


class Frames(asyncio.Protocol):
    """One side's.  For one loop; what is said in one turn of it goes together.

    heard  called with each that comes
    ended  called when the other side has gone, or it is closed
    """

    def __init__(self, heard: Callable[[list[Any]], None], ended: Callable[[], None]) -> None:
        self._heard = heard
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._rest = bytearray()
        self._room = asyncio.Event()
        self._room.set()
        self._to_say: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        rest = self._rest
        rest += data
        at, end = 0, len(rest)
        while end - at >= LENGTH.size:
            begin = at + LENGTH.size
            stop = begin + LENGTH.unpack_from(rest, at)[0]
            if stop > end:
                break
            self._heard(decode(rest[begin:stop]))
            at = stop
        del rest[:at]

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._room.set()

    async def room(self) -> None:
        """Waits as long as the other side is behind with what was said."""
        await self._room.wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._ended()

    def say(self, *frame: Any) -> None:
        if not self._to_say:
            self._loop.call_soon(self._flush)
        packed = encode(frame)
        self._to_say += (LENGTH.pack(len(packed)), packed)

    def _flush(self) -> None:
        said, self._to_say = b"".join(self._to_say), []
        if self._transport is not None:
            self._transport.write(said)

    def close(self) -> None:
        """As soon as everything has been said."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """At once."""
        if self._transport is not None:
            self._transport.abort()
