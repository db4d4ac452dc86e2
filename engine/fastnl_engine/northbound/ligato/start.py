"""From the settings to a service that runs: the store, a thread with a loop, and starting again after a defect."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from fastnl_engine.config import Config, Ligato
from fastnl_engine.engine import Engine
from fastnl_engine.kv import open_etcd
from fastnl_engine.kv.base import KV, KVError
from fastnl_engine.kv.embedded import EmbeddedKV
from fastnl_engine.northbound.grounds import Grounds
from fastnl_engine.northbound.ligato.made import Made
from fastnl_engine.northbound.ligato.service import PREFIX, Service
from fastnl_engine.northbound.port import Northbound, Port

if TYPE_CHECKING:
    from fastnl_engine.kv.endpoints import Tls

AGAIN = 1.0  # seconds until the service begins anew after a defect

log = structlog.get_logger()

Offer = Callable[[KV, asyncio.AbstractEventLoop], None]


def start(config: Config, engine: Engine, offer: Offer, grounds: Grounds) -> Northbound:
    """Begins to serve, on a thread; `offer` is called on the engine's with an embedded store.

    Raises KVError when the store cannot be used at all.  An etcd that is away can.
    """
    opened = threading.Event()
    problem: list[KVError] = []

    async def serve(stopping: asyncio.Event) -> None:
        try:
            kv = _open(config)
        except KVError as e:
            problem.append(e)
            return
        finally:
            opened.set()
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(kv.close)
            if isinstance(kv, EmbeddedKV):
                loop = asyncio.get_running_loop()
                engine.soon(lambda: offer(kv, loop))
            made = Made(Path(config.state_dir) / "namespaces.json")
            running = asyncio.create_task(_keep_running(kv, engine, config.ligato, made, grounds))
            await stopping.wait()
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    northbound = Northbound("ligato", serve)
    opened.wait()
    if problem:
        northbound.stop()
        raise problem[0]
    return northbound


async def _keep_running(kv: KV, engine: Engine, settings: Ligato, made: Made, grounds: Grounds) -> None:
    while True:
        try:
            await Service(kv, Port(engine, "ligato", PREFIX, grounds), engine.host, settings, made).run()
        except* Exception:
            # what is up stays up meanwhile, and all is read anew
            log.exception("the ligato northbound has failed and begins anew; please report this")
            await asyncio.sleep(AGAIN)


def _open(config: Config) -> KV:
    settings = config.ligato
    if settings.store == "embedded":
        return EmbeddedKV(Path(config.state_dir) / "keys.db", durable=config.durable)
    password = ""
    if settings.password_file:
        try:
            password = Path(settings.password_file).read_text().partition("\n")[0]
        except OSError as e:
            raise KVError(f"ligato.password_file {settings.password_file}: {e.strerror}") from e
    return open_etcd(settings.endpoints, tls=_tls(settings), user=settings.user, password=password)


def _tls(settings: Ligato) -> Tls | None:
    if not (settings.ca or settings.cert):
        return None
    from fastnl_engine.kv.endpoints import Tls

    return Tls(settings.ca, settings.cert, settings.key)
