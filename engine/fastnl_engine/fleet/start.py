"""From the settings to a host of a fleet: a thread with a loop, and starting again after a defect."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from fastnl import Host
from fastnl_engine.config import Config, ConfigError, Fleet
from fastnl_engine.engine import Engine
from fastnl_engine.fleet.desk import Desk
from fastnl_engine.fleet.door import Answered, Door, Result
from fastnl_engine.fleet.halves import Halves
from fastnl_engine.fleet.keys import Keys
from fastnl_engine.fleet.local import PREFIX
from fastnl_engine.fleet.membership import Membership
from fastnl_engine.fleet.removal import Removal
from fastnl_engine.fleet.reports import Reports
from fastnl_engine.fleet.show import Show
from fastnl_engine.fleet.vnis import Vnis
from fastnl_engine.fleet.waits import Waits
from fastnl_engine.kv.access import of_config
from fastnl_engine.kv.base import KVError
from fastnl_engine.northbound.port import Port
from fastnl_engine.northbound.thread import Life, Northbound

if TYPE_CHECKING:
    from fastnl_engine.kv.etcd import EtcdKV


log = structlog.get_logger()


class Service:
    """One host's part in a fleet.  `run` does all of it, until it is cancelled."""

    def __init__(self, kv: EtcdKV, port: Port, host: Host, settings: Fleet, name: str, identity: str) -> None:
        keys = Keys(settings.name)
        self._kv = kv
        self.membership = Membership(kv, keys, name, identity, host, settings)
        self._reports = Reports(kv, keys, name)
        self.halves = Halves(kv, keys, port, self.membership, self._reports, settings.underlay)
        self._waits = Waits(kv, keys, self.membership)
        vnis = Vnis(kv, keys, settings.port, settings.vni_first, settings.vni_last)
        self.desk = Desk(kv, keys, self.membership, self._waits, vnis, settings.port, settings.patience)
        self.show = Show(kv, keys, self.membership, self.halves, settings.port)
        self.removal = Removal(kv, keys, self.membership, self.desk)
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving = False
        self.port = port
        self.membership.on_hosts = self.halves.hosts_changed
        self.membership.on_alive = self._alive_changed
        self.membership.on_removed = self._removed
        self.halves.on_vni_in_use = self.desk.take_other_vni

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for part in (self.membership, self._reports, self.halves, self._waits, self.desk):
                    group.create_task(part.run())
        finally:
            self.desk.give_up("the fleet's part of the engine has failed; ask again")
            for task in self._tasks:
                task.cancel()

    def _start(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _alive_changed(self, hosts: set[str]) -> None:
        self.halves.alive_changed(hosts)
        self._waits.alive_changed()

    def _removed(self) -> None:
        if not self._leaving:
            self._leaving = True
            self._start(self._leave())

    async def _leave(self) -> None:
        """Takes everything of the fleet away; `removed` is asked about again and again until that was done."""
        try:
            if await self.halves.take_all_away():
                await self.removal.come_back()
        except KVError as e:
            log.debug("not left yet", reason=str(e))
        finally:
            self._leaving = False


def start(config: Config, engine: Engine, result: Result, answered: Answered) -> tuple[Northbound, Door]:
    """Begins to take part, on a thread.  Raises KVError, ConfigError when that cannot be; an etcd that is away can."""
    host = config.fleet.host or socket.gethostname()
    if "/" in host or not host:
        raise ConfigError(f"fleet.host: {host!r} is no name for a host of a fleet")
    identity = _identity(Path(config.state_dir) / "fleet.json")
    doors: list[Door] = []

    async def open_(stack: contextlib.AsyncExitStack) -> Life:
        kv = of_config(config.fleet, "fleet").open()
        stack.push_async_callback(kv.close)
        doors.append(Door(asyncio.get_running_loop(), engine, result, answered, config.fleet.patience))
        return _life(kv, engine, config, host, identity, doors[0])

    return Northbound("fleet", open_), doors[0]


def _life(kv: EtcdKV, engine: Engine, config: Config, host: str, identity: str, door: Door) -> Life:
    def make() -> Service:
        return Service(kv, Port(engine, "fleet", PREFIX), engine.host, config.fleet, host, identity)

    async def live() -> None:
        assert door.service is not None
        try:
            await door.service.run()
        except* Exception as e:
            door.service = make()  # before the pause: what is asked for in it would be heard by nobody
            away, defects = e.split(KVError)
            if away is not None:
                log.error("no part in the fleet", reason="; ".join(_reasons(away)))
            if defects is not None:
                raise defects from None

    door.service = make()
    return live


def _reasons(group: BaseExceptionGroup[Any]) -> list[str]:
    """Of a group of groups."""
    return [text for e in group.exceptions for text in (_reasons(e) if isinstance(e, BaseExceptionGroup) else [str(e)])]


def _identity(path: Path) -> str:
    """Of this state folder: made once, and there for good."""
    with contextlib.suppress(FileNotFoundError, ValueError, KeyError):
        return str(json.loads(path.read_text())["identity"])
    identity = uuid.uuid4().hex
    new = path.with_suffix(".new")
    new.write_text(json.dumps({"identity": identity}))
    new.replace(path)
    return identity
