"""References to microservices: what Docker tells of containers, for all who open namespaces in this process."""

from __future__ import annotations

import structlog

from fastnl import netns
from fastnl.errors import NetnsUnknown
from fastnl_engine.config import Config
from fastnl_engine.engine import Engine

PATIENCE = 1.0  # seconds that a start waits for Docker's first list

log = structlog.get_logger()


class Containers:
    """From its making to `close`, `microservice:` references mean something, if the setting `docker` is there.

    engine   looks again at what changes, as soon as there is one

    Raises ImportError when aiodocker is not installed.
    """

    def __init__(self, config: Config) -> None:
        self.engine: Engine | None = None
        self._socket = config.docker
        if not config.docker:
            return
        from fastnl_engine.watch.docker import Microservices

        self._known = Microservices(self._changed, socket=config.docker, docker_label=config.microservice_label)
        netns.microservices = self._process_of
        self._known.start()
        # what was up before this start is looked at, so it should be known where that is
        if not self._known.wait_listed(PATIENCE):
            log.warning("docker has not answered yet", socket=config.docker)

    def close(self) -> None:
        if self._socket:
            self._known.close()
            netns.microservices = None

    def _process_of(self, label: str) -> int | None:
        listed = self._known.listed  # asked first: what is listed in between is found
        pid = self._known.pid_of(label)
        if pid is None and not listed:
            raise NetnsUnknown(f"namespace 'microservice:{label}': Docker at {self._socket} has not answered yet")
        return pid

    def _changed(self, label: str, pid: int | None) -> None:
        engine = self.engine
        if engine is not None:
            engine.soon(lambda: engine.upkeep.namespaces.told(f"microservice:{label}"))
