"""Settings that change while the engine runs, on SIGHUP.

They are read as at a start: the file, the environment of the process, the flags that it was started with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import structlog

import fastnl
from fastnl_engine.auth import RoleError
from fastnl_engine.config import Config, ConfigError

log = structlog.get_logger()

# what can be changed with clients connected and interfaces up; everything else needs a restart
LIVE = ("log_level", "roles", "queue", "audit", "file_prefixes")


class Reload:
    """Settings are taken over all together or, if one of them cannot be, not at all.

    config   as they are in force
    read     gives those of a start at this moment; raises ConfigError
    apply    puts settings that differ in LIVE into force; raises RoleError or InvalidValue and has done nothing then
    """

    def __init__(self, config: Config, read: Callable[[], Config], apply: Callable[[Config], None]) -> None:
        self.config = config
        self._read = read
        self._apply = apply
        self._asked = False
        self.wake: Callable[[], None] = lambda: None

    def ask(self) -> None:
        """For a signal handler: takes note, and has the thread wake up that will call `turn`."""
        self._asked = True
        self.wake()

    def turn(self) -> None:
        """Reads the settings again if that was asked for."""
        if not self._asked:
            return
        self._asked = False
        try:
            wanted = self._read()
            changed = [f.name for f in fields(Config) if getattr(wanted, f.name) != getattr(self.config, f.name)]
            new = replace(self.config, **{name: getattr(wanted, name) for name in changed if name in LIVE})
            # also when nothing differs: a user may have joined a group
            self._apply(new)
        except (ConfigError, RoleError, fastnl.InvalidValue) as e:
            log.error("not reloaded", reason=str(e), settings="stay as they were")
            return
        self.config = new
        waiting = [name for name in changed if name not in LIVE]
        told = {"changed": ",".join(name for name in changed if name in LIVE) or "nothing"}
        if waiting:
            log.warning("reloaded", **told, needs_restart=",".join(waiting))
        else:
            log.info("reloaded", **told)
