"""From the settings to a service that runs: the store, and a thread with a loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from fastnl_engine.config import Config
from fastnl_engine.engine import Engine
from fastnl_engine.kv.access import of_config
from fastnl_engine.kv.base import KV, KVError
from fastnl_engine.kv.embedded import EmbeddedKV
from fastnl_engine.northbound.grounds import Grounds
from fastnl_engine.northbound.ligato.made import Made
from fastnl_engine.northbound.ligato.service import PREFIX, Service
from fastnl_engine.northbound.port import Northbound, Port, keep_running

Offer = Callable[[KV, asyncio.AbstractEventLoop], None]


def start(config: Config, engine: Engine, offer: Offer, grounds: Grounds) -> Northbound:
    """Begins to serve, on a thread; `offer` is called with an embedded store before this returns.

    Raises KVError when the store cannot be used at all.  An etcd that is away can.
    """
    opened = threading.Event()
    problem: list[KVError] = []

    async def serve(stopping: asyncio.Event) -> None:
        try:
            kv = _open(config)
            if isinstance(kv, EmbeddedKV):
                offer(kv, asyncio.get_running_loop())
        except KVError as e:
            problem.append(e)
            return
        finally:
            opened.set()
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(kv.close)
            made = Made(Path(config.state_dir) / "namespaces.json")

            def life() -> Coroutine[Any, Any, None]:
                return Service(kv, Port(engine, "ligato", PREFIX, grounds), engine.host, config.ligato, made).run()

            running = asyncio.create_task(keep_running(life))
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


def _open(config: Config) -> KV:
    settings = config.ligato
    if settings.store == "embedded":
        return EmbeddedKV(Path(config.state_dir) / "keys.db", durable=config.durable)
    return of_config(settings, "ligato").open()
