"""From the settings to a service that runs: the store, and a thread with a loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from fastnl_engine.config import Config
from fastnl_engine.engine import Engine
from fastnl_engine.kv.access import of_config
from fastnl_engine.kv.base import KV
from fastnl_engine.kv.embedded import EmbeddedKV
from fastnl_engine.northbound.grounds import Grounds
from fastnl_engine.northbound.ligato.made import Made
from fastnl_engine.northbound.ligato.service import PREFIX, Service
from fastnl_engine.northbound.port import Port
from fastnl_engine.northbound.thread import Life, Northbound

Offer = Callable[[KV, asyncio.AbstractEventLoop], None]


def start(config: Config, engine: Engine, offer: Offer, grounds: Grounds) -> Northbound:
    """Begins to serve, on a thread; `offer` is called with an embedded store before this returns.

    Raises KVError when the store cannot be used at all.  An etcd that is away can.
    """

    async def open_(stack: contextlib.AsyncExitStack) -> Life:
        kv = _open(config)
        stack.push_async_callback(kv.close)
        if isinstance(kv, EmbeddedKV):
            offer(kv, asyncio.get_running_loop())
        made = Made(Path(config.state_dir) / "namespaces.json")
        return lambda: Service(kv, Port(engine, "ligato", PREFIX, grounds), engine.host, config.ligato, made).run()

    return Northbound("ligato", open_)


def _open(config: Config) -> KV:
    settings = config.ligato
    if settings.store == "embedded":
        return EmbeddedKV(Path(config.state_dir) / "keys.db", durable=config.durable)
    return of_config(settings, "ligato").open()
