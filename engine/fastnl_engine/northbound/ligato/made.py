"""Named namespaces that were made because configuration names them, and go when nobody needs them any more.

A file remembers them, each with the print of its mount: what somebody else has put in its place meanwhile, or after
the machine was started anew, is not ours to remove.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import structlog

from fastnl import FastnlError, netns

log = structlog.get_logger()


class Made:
    """For one thread at a time.

    file   where they are remembered
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._made: dict[str, list[int]] = {}
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        try:
            known = json.loads(file.read_text())
            if known["boot"] == self._boot:
                self._made = known["made"]
        except FileNotFoundError:
            pass
        except (OSError, ValueError, LookupError, TypeError) as e:
            log.warning("namespaces that were made are not known", file=str(file), reason=str(e))

    @property
    def names(self) -> list[str]:
        return list(self._made)

    def make(self, names: Iterable[str]) -> None:
        """Makes those that are not there.  What cannot be made stays missing, and the log says why."""
        before = dict(self._made)
        for name in names:
            try:
                netns.create(name)
                self._made[name] = _print(name)
            except FileExistsError:
                continue
            except (OSError, FastnlError) as e:
                log.error("namespace cannot be made", netns=name, reason=str(e))
                continue
            log.info("namespace made", netns=name)
        if self._made != before:
            self._write()

    def let_go(self, names: Iterable[str]) -> None:
        """Removes those of them that are still what was made."""
        for name in names:
            print_ = self._made.pop(name, None)
            try:
                if print_ is not None and _print(name) == print_:
                    netns.remove(name)
                    log.info("namespace removed", netns=name)
            except FileNotFoundError:
                pass
            except OSError as e:
                log.error("namespace cannot be removed", netns=name, reason=str(e))
        self._write()

    def _write(self) -> None:
        new = self._file.with_suffix(".new")
        with contextlib.suppress(OSError):  # a full disk: then they stay when the engine ends, which is no harm
            new.write_text(json.dumps({"boot": self._boot, "made": self._made}))
            new.replace(self._file)


def _print(name: str) -> list[int]:
    """Another one for each mount, also where the inode number is given again."""
    status = os.stat(str(netns.path_of(name)))
    return [status.st_dev, status.st_ino, status.st_ctime_ns]


def missing(references: Iterable[str]) -> list[str]:
    """Names among the references that are not there."""
    return [
        reference
        for reference in dict.fromkeys(references)
        if netns.split(reference)[0] == "name" and not Path(str(netns.path_of(reference))).exists()
    ]
