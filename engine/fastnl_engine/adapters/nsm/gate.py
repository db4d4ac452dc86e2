"""gRPC in a process of its own, as its Python would keep the engine's from running: one interpreter has one lock.

Calls are answered here, by handlers as gRPC has them; between the two go the bytes of messages.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import grpc
import msgspec
import structlog
from google.protobuf.message import DecodeError

from fastnl_engine.adapters.nsm.frames import LENGTH, Frames, Word, decode
from fastnl_engine.adapters.nsm.tls import Tls

BEGINS = 60.0  # seconds that the process has to say whether it has the address
SPEAKER = "fastnl_engine.adapters.nsm.speaker"

log = structlog.get_logger()


class Ended(Exception):
    """A call has its status."""


class Call:
    """What a handler is given as the context of a call."""

    def __init__(self, remaining: float | None) -> None:
        self._until = None if remaining is None else time.monotonic() + remaining
        self.sent = asyncio.Event()  # the last message of a stream
        self.status: tuple[int, str, Sequence[tuple[str, bytes]]] = (0, "", ())

    def time_remaining(self) -> float | None:
        """Seconds that whoever called waits; None: there is no end to that."""
        return None if self._until is None else max(self._until - time.monotonic(), 0.0)

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Sequence[tuple[str, bytes]] = ()
    ) -> NoReturn:
        self.status = (code.value[0], details, trailing_metadata)
        raise Ended


class Gate:
    """The process, and what answers its calls.  Has the address from the beginning, and serves between start and stop.

    keep  descriptors that the address speaks of
    Raises OSError when the address cannot be had.
    """

    def __init__(self, address: str, tls: Tls | None, keep: Sequence[int]) -> None:
        self._handlers: dict[str, Any] = {}
        self._calls: dict[int, tuple[asyncio.Task[None], Call]] = {}
        self._frames: Frames | None = None
        self._broken: Callable[[BaseException], None] = lambda e: None
        self._ended = asyncio.Event()
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [
                    # -P: else modules would be taken from the folder that we were started in, whosever that is
                    sys.executable, "-I" if sys.flags.isolated else "-P", "-m", SPEAKER,
                    str(theirs.fileno()), address, msgspec.json.encode(tls).decode(),
                ],
                stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(), *keep),
            )  # fmt: skip
        try:
            self._socket.settimeout(BEGINS)
            problem = decode(self._read(LENGTH.unpack(self._read(LENGTH.size))[0]))[1]
            if problem:
                raise OSError(problem)
        except BaseException:
            self.close()
            raise

    def _read(self, size: int) -> bytes:
        data = self._socket.recv(size, socket.MSG_WAITALL)
        if len(data) < size:
            raise OSError(f"the process that speaks gRPC has ended, with {self._process.wait()}")
        return data

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Of no use here: what is generated gives them by their names, too."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self._handlers |= {f"/{service}/{name}": handler for name, handler in handlers.items()}

    async def start(self, broken: Callable[[BaseException], None]) -> None:
        """broken  called when the process ends before it was told to."""
        self._broken = broken
        self._socket.setblocking(False)
        self._frames = frames = Frames(self._heard, self._has_ended)
        await asyncio.get_running_loop().create_connection(lambda: frames, sock=self._socket)
        frames.say(Word.SERVE, {method: handler.response_streaming for method, handler in self._handlers.items()})

    async def stop(self, seconds: float) -> None:
        """Takes no more calls; those there are have so many seconds to end in."""
        self._broken = lambda e: None
        if self._frames is not None:
            self._frames.say(Word.STOP, seconds)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), seconds + 1)
        tasks = [task for task, _ in self._calls.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def close(self) -> None:
        """At once."""
        if self._frames is not None:
            self._frames.abort()  # a loop that still had something to write would know a descriptor that is gone
        self._socket.close()
        self._process.kill()
        self._process.wait()

    def _has_ended(self) -> None:
        self._ended.set()
        for task, _ in self._calls.values():
            task.cancel()
        self._broken(RuntimeError("the process that speaks gRPC has ended"))

    def _heard(self, frame: list[Any]) -> None:
        match frame:
            case [Word.CALL, n, method, message, remaining]:
                call = Call(remaining)
                task = asyncio.create_task(self._answer(n, method, message, call))
                self._calls[n] = task, call
                # not at the end of what it does: of one that is cancelled before it begins, nothing is done
                task.add_done_callback(lambda _: self._calls.pop(n, None))
            case [word, n] if n in self._calls:  # else it is answered already
                task, call = self._calls[n]
                if word == Word.MORE:
                    call.sent.set()
                else:
                    task.cancel()

    async def _answer(self, n: int, method: str, message: bytes, call: Call) -> None:
        assert self._frames is not None
        say = self._frames.say
        try:
            handler = self._handlers[method]
            request = handler.request_deserializer(message)
            if not handler.response_streaming:
                say(Word.ANSWER, n, handler.response_serializer(await handler.unary_unary(request, call)))
                return
            async with contextlib.aclosing(handler.unary_stream(request, call)) as responses:
                async for response in responses:
                    say(Word.ANSWER, n, handler.response_serializer(response))
                    await call.sent.wait()  # so that nothing piles up for who reads slowly
                    call.sent.clear()
            say(Word.END, n, *call.status)
        except Ended:
            say(Word.END, n, *call.status)
        except DecodeError as e:
            say(Word.END, n, grpc.StatusCode.INVALID_ARGUMENT.value[0], f"invalid: not a message of {method}: {e}", ())
        except Exception as e:
            log.exception("a call has failed; please report this")
            say(Word.END, n, grpc.StatusCode.INTERNAL.value[0], f"internal: {type(e).__name__}: {e}", ())
        except asyncio.CancelledError:  # maybe of something that it has waited for, and whoever called still waits
            say(Word.END, n, grpc.StatusCode.CANCELLED.value[0], "", ())
            raise
