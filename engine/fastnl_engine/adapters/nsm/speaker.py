"""The process that speaks gRPC: calls become frames for the engine, whose frames become their answers.

    python -m fastnl_engine.adapters.nsm.speaker SOCKET ADDRESS TLS

SOCKET is the number of a descriptor, TLS the files as JSON or null.  It lives as long as the other end of SOCKET does.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, TypeAlias, cast

import grpc
import grpc.aio
import msgspec
import structlog

from fastnl_engine.adapters.nsm.frames import Frames, Word
from fastnl_engine.adapters.nsm.tls import Tls, server_credentials

CALLS = 10_000  # at a time; beyond, they are refused with RESOURCE_EXHAUSTED
STREAMS = 1000  # of them that one client may have; it keeps others back itself, as HTTP/2 has it
HANDSHAKE = 10_000  # ms that a client has to speak HTTP/2 in
OPTIONS = {
    "grpc.so_reuseport": 0,
    "grpc.max_concurrent_streams": STREAMS,
    "grpc.server_handshake_timeout_ms": HANDSHAKE,
}
CAP_DAC_READ_SEARCH, CAP_NET_BIND_SERVICE = 2, 10  # include/uapi/linux/capability.h
_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_NO_NEW_PRIVS = 38  # include/uapi/linux/prctl.h
STATUS: dict[int, grpc.StatusCode] = {status.value[0]: status for status in grpc.StatusCode}

Context = grpc.aio.ServicerContext[bytes, bytes]
Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"  # of which only the stubs are generic


class Speaker(grpc.GenericRpcHandler):
    """Between a server of gRPC and the frames of a socket."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server
        self._handlers: dict[str, Handler] = {}
        self._calls: dict[int, asyncio.Queue[list[Any]]] = {}  # and what was said about them
        self._last = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.ended = asyncio.Event()
        self.frames = Frames(self._heard, self.ended.set)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        return self._handlers.get(handler_call_details.method)

    def _heard(self, frame: list[Any]) -> None:
        match frame:
            case [Word.SERVE, methods]:
                for method, streams in methods.items():
                    self._handlers[method] = self._stream(method) if streams else self._single(method)
                self._server.add_generic_rpc_handlers((self,))
                self._spawn(self._server.start())
            case [Word.STOP, seconds]:
                self._spawn(self._stop(seconds))
            case [_, n, *_] if n in self._calls:  # else whoever called has gone meanwhile
                self._calls[n].put_nowait(frame)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)

    async def _stop(self, seconds: float) -> None:
        await self._server.stop(seconds)
        self.frames.close()

    @contextlib.contextmanager
    def _asked(self, method: str, message: bytes, context: Context) -> Iterator[tuple[int, asyncio.Queue[list[Any]]]]:
        self._last = n = self._last + 1
        said = self._calls[n] = asyncio.Queue()
        self.frames.say(Word.CALL, n, method, message, context.time_remaining())
        try:
            yield n, said
        except BaseException:
            self.frames.say(Word.GONE, n)
            raise
        finally:
            del self._calls[n]

    def _single(self, method: str) -> Handler:
        async def answer(message: bytes, context: Context) -> bytes:
            await self.frames.room()  # so that calls which do not stay do not pile up for an engine that is behind
            with self._asked(method, message, context) as (_, said):
                word, _, *rest = await said.get()
            if word == Word.END:
                await end(context, *rest)
            return cast("bytes", rest[0])

        return grpc.unary_unary_rpc_method_handler(answer)

    def _stream(self, method: str) -> Handler:
        async def answer(message: bytes, context: Context) -> AsyncIterator[bytes]:
            await self.frames.room()
            with self._asked(method, message, context) as (n, said):
                while (frame := await said.get())[0] == Word.ANSWER:
                    yield frame[2]
                    self.frames.say(Word.MORE, n)
            await end(context, *frame[2:])

        return grpc.unary_stream_rpc_method_handler(answer)


def give_up_capabilities(keep: set[int]) -> None:
    """Leaves those that are kept, if they are there: strangers talk to this process, and it needs no more.

    It is for the calling thread and for those that it starts.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    who = struct.pack("Ii", _CAPABILITY_VERSION_3, 0)
    has = ctypes.create_string_buffer(24)  # effective, permitted, inheritable: of the first 32, then of the others
    if libc.capget(who, has) == 0:
        low = struct.unpack_from("I", has, 4)[0] & sum(1 << n for n in keep)
        if libc.capset(who, struct.pack("6I", low, low, 0, 0, 0, 0)) == 0:
            libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            return
    problem = os.strerror(ctypes.get_errno())
    structlog.get_logger().warning("keeps the engine's capabilities", reason=problem)


async def end(context: Context, status: int, details: str, trailing: list[tuple[str, bytes]]) -> None:
    if status:
        await context.abort(STATUS[status], details, tuple((name, value) for name, value in trailing))


async def main(channel: socket.socket, address: str, tls: Tls | None) -> None:
    server = grpc.aio.server(options=list(OPTIONS.items()), maximum_concurrent_rpcs=CALLS)
    problem = ""
    try:
        if tls is None:
            server.add_insecure_port(address)
        else:
            server.add_secure_port(address, server_credentials(tls))
    except (RuntimeError, OSError) as e:
        problem = str(e) or type(e).__name__
    speaker = Speaker(server)
    await asyncio.get_running_loop().create_connection(lambda: speaker.frames, sock=channel)
    speaker.frames.say(Word.BOUND, problem)
    await speaker.ended.wait()
    os._exit(0)  # nobody is left whom gRPC could take leave of


if __name__ == "__main__":
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)  # they are for the engine, which says when
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.LogfmtRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    gc.set_threshold(5_000, 10, 20)
    gc.freeze()
    channel = socket.socket(fileno=int(sys.argv[1]))
    channel.setblocking(False)
    tls = msgspec.json.decode(sys.argv[3], type=Tls | None)
    # an agent of somebody else renews the files of TLS
    give_up_capabilities({CAP_NET_BIND_SERVICE} | ({CAP_DAC_READ_SEARCH} if tls is not None else set()))
    asyncio.run(main(channel, sys.argv[2], tls))
