"""From the settings to a forwarder that serves, on a thread with a loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog

from fastnl_engine.adapters.nsm import legacy, modern
from fastnl_engine.adapters.nsm.counters import keep_counting, links_of
from fastnl_engine.adapters.nsm.gate import Gate
from fastnl_engine.adapters.nsm.inodes import Inodes
from fastnl_engine.adapters.nsm.policies import Tables
from fastnl_engine.adapters.nsm.probes import bind_probes, serve_probes
from fastnl_engine.adapters.nsm.relay import Relay
from fastnl_engine.adapters.nsm.settings import Settings
from fastnl_engine.engine import Engine
from fastnl_engine.northbound.port import Port
from fastnl_engine.northbound.thread import Life, Northbound

GRACE = 1.0  # seconds that calls have to end in at a stop

log = structlog.get_logger()


def start(settings: Settings, engine: Engine, folder: Path) -> Northbound:
    """Takes the address at once, and begins to serve as soon as the engine does.

    folder  for sockets that are nobody else's
    Raises OSError when the address cannot be had.
    """

    async def open_(stack: contextlib.AsyncExitStack) -> Life:
        forwarder = Forwarder(settings, engine, folder, stack)
        if settings.probes:
            stack.push_async_callback(await serve_probes(bind_probes(settings.probes), lambda: forwarder.serving))
        return forwarder.life

    return Northbound("nsm", open_)


class Forwarder:
    """Both generations at one address, from one defect to the next.

    On a Unix socket a relay listens, as gRPC does not receive the descriptors that clients pass; the process that
    speaks gRPC is behind it.  Raises OSError when the address cannot be had.
    """

    def __init__(self, settings: Settings, engine: Engine, folder: Path, stack: contextlib.AsyncExitStack) -> None:
        self.serving = False
        self._settings = settings
        self._engine = engine
        folder.mkdir(mode=0o700, exist_ok=True)
        # through a descriptor, as the path of a socket has 107 bytes at most and a state folder may have more
        self._folder = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, self._folder)
        self._listening: socket.socket | None = None
        self._address = settings.listen
        if settings.listen.startswith("unix:"):
            self._listening = stack.enter_context(_listen(settings.listen.removeprefix("unix:")))
            self._address = f"unix:{self._private('served')}"
        self._bound: Gate | None = self._bind()
        stack.callback(self._release)

    def _private(self, name: str) -> str:
        return f"/proc/self/fd/{self._folder}/{name}"

    def _bind(self) -> Gate:
        try:
            return Gate(self._address, self._settings.tls, [self._folder])
        except OSError as e:
            raise OSError(f"nsm: cannot listen on {self._settings.listen}: {e}") from None

    def _release(self) -> None:
        if self._bound is not None:
            self._bound.close()

    async def life(self) -> None:
        """Serves until cancelled, or until something is wrong with us, which is raised."""
        settings, engine = self._settings, self._engine
        gate, self._bound = self._bound or self._bind(), None
        inodes, tables = Inodes(), Tables()
        defect: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def broken(e: BaseException) -> None:
            if not defect.done():
                defect.set_exception(e)

        def ended(method: str) -> Callable[[str], None]:
            return lambda status: engine.metrics.nsm_calls.labels(method, status).inc()

        async with contextlib.AsyncExitStack() as stack:
            stack.callback(gate.close)
            way = modern.Way(settings, self._private("next"), inodes.passed)
            stack.push_async_callback(way.close)
            first = legacy.Legacy(Port(engine, "nsm-legacy", legacy.PREFIX), inodes, settings, broken, tables, ended)
            later = modern.Modern(
                Port(engine, "nsm-modern", modern.PREFIX), inodes, settings, way, broken, tables, ended
            )
            stack.push_async_callback(first.plane.end)
            stack.push_async_callback(later.end)
            await first.plane.begin()
            await later.begin()
            first.serve(gate)
            later.serve(gate)
            if self._listening is not None:
                relay = Relay(self._listening, self._private("served"), inodes.passed)
                stack.callback(relay.close)
            stack.push_async_callback(gate.stop, GRACE)
            await gate.start(broken)
            self.serving = True
            stack.callback(setattr, self, "serving", False)
            log.info("forwarding for the mesh", listen=settings.listen, name=settings.name)
            async with asyncio.TaskGroup() as tasks:
                if settings.registrar:
                    tasks.create_task(legacy.keep_registered(settings))
                if settings.manager:
                    tasks.create_task(modern.keep_registered(settings))
                if settings.counting:
                    planes = (first.plane, later.plane)
                    tasks.create_task(keep_counting(settings.counting, links_of(engine.host), planes))
                await defect


@contextlib.contextmanager
def _listen(path: str) -> Iterator[socket.socket]:
    """A Unix socket, in the place of one that a run before us has left, and away with it at the end."""
    place = Path(path)
    place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(f"nsm: {path} is there and is no socket")
        place.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        try:
            listening.bind(path)
        except OSError as e:
            raise OSError(f"nsm: cannot listen on {path}: {e.strerror}") from None
        listening.listen(socket.SOMAXCONN)
        ours = os.stat(path).st_ino
        yield listening
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == ours:  # and not that of one that has taken our place
                place.unlink()
