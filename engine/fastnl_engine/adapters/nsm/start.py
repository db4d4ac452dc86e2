"""From the settings to a forwarder that serves, on a thread with a loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import threading
from pathlib import Path

import grpc
import grpc.aio
import structlog

from fastnl_engine.adapters.nsm import legacy, modern
from fastnl_engine.adapters.nsm.inodes import Inodes
from fastnl_engine.adapters.nsm.probes import bind_probes, serve_probes
from fastnl_engine.adapters.nsm.settings import Settings
from fastnl_engine.engine import Engine
from fastnl_engine.northbound.port import Northbound, Port

GRACE = 1.0  # seconds that calls have to end in at a stop

log = structlog.get_logger()


def start(settings: Settings, engine: Engine) -> Northbound:
    """Takes the address at once, and begins to serve as soon as the engine does.

    Raises OSError when the address cannot be had.
    """
    bound = threading.Event()
    problem: list[OSError] = []

    async def serve(stopping: asyncio.Event) -> None:
        try:
            server = _bind(settings.listen)
            probes = bind_probes(settings.probes) if settings.probes else None
        except OSError as e:
            problem.append(e)
            return
        finally:
            bound.set()
        async with contextlib.AsyncExitStack() as stack:
            await _serve(settings, engine, server, stack)
            if probes is not None:
                stack.push_async_callback(await serve_probes(probes))
            await stopping.wait()

    northbound = Northbound("nsm", serve)
    bound.wait()
    if problem:
        northbound.stop()
        raise problem[0]
    return northbound


async def _serve(settings: Settings, engine: Engine, server: grpc.aio.Server, stack: contextlib.AsyncExitStack) -> None:
    inodes = Inodes()
    first = legacy.Legacy(Port(engine, "nsm-legacy", legacy.PREFIX), inodes, settings)
    later = modern.Modern(Port(engine, "nsm-modern", modern.PREFIX), inodes, settings)
    stack.push_async_callback(first.plane.end)
    stack.push_async_callback(later.end)
    await first.plane.begin()
    await later.begin()
    first.serve(server)
    later.serve(server)
    stack.push_async_callback(server.stop, GRACE)
    await server.start()
    log.info("forwarding for the mesh", listen=settings.listen, name=settings.name)
    registering = [legacy.keep_registered] if settings.registrar else []
    registering += [modern.keep_registered] if settings.manager else []
    for keep in registering:
        stack.push_async_callback(_end, asyncio.create_task(keep(settings)))


def _bind(address: str) -> grpc.aio.Server:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    _make_room(address)
    try:
        server.add_insecure_port(address)
    except RuntimeError as e:
        raise OSError(f"nsm: cannot listen on {address}: {e}") from None
    return server


def _make_room(address: str) -> None:
    """The folder of a socket, and away with the socket that a run before us has left."""
    if not address.startswith("unix:"):
        return
    path = Path(address.removeprefix("unix:"))
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(f"nsm: {path} is there and is no socket")
        path.unlink()


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
