"""/liveness and /readiness over HTTP, where deployments of the first generation look for them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable

SAYS_NOTHING = 5.0  # seconds until a peer that sends no request is cut off


def bind_probes(address: str) -> socket.socket:
    """Takes HOST:PORT.  Raises OSError when it cannot be had."""
    host, _, port = address.rpartition(":")
    return socket.create_server(
        (host.strip("[]"), int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET
    )


async def serve_probes(bound: socket.socket, ready: Callable[[], bool]) -> Callable[[], Awaitable[None]]:
    """Begins to answer; gives a way to end it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(SAYS_NOTHING):
                line = await reader.readline()
                while (await reader.readline()).strip():
                    pass
                words = line.split()
                path = words[1].partition(b"?")[0] if len(words) > 1 else b""
                status, body = b"200 OK", b"OK"
                if path not in (b"/liveness", b"/readiness"):
                    status, body = b"404 Not Found", b"/liveness, /readiness"
                elif path == b"/readiness" and not ready():
                    status, body = b"503 Service Unavailable", b"the mesh is not served yet"
                length = b"%d" % len(body)
                writer.write(
                    b"HTTP/1.1 " + status + b"\r\nContent-Length: " + length + b"\r\nConnection: close\r\n\r\n"
                )
                writer.write(body)
                await writer.drain()
        except (OSError, TimeoutError, ValueError):  # ValueError: a line without an end
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, sock=bound)

    async def end() -> None:
        server.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(server.wait_closed(), SAYS_NOTHING)

    return end
