"""What the doctor looks at: the files under /proc, /sys and /run, and the process that runs the engine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fastnl_engine.config import Config

MOST = 100

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: what was found, and what to do unless it is ok."""

    name: str
    status: Status
    found: str
    advice: str = ""


@dataclass(slots=True)
class Machine:
    """The machine as a tree of files, so that tests can show the checks another one.

    config   what the engine was told, as far as the doctor knows
    pid      of the engine; 0: none is running, so the checks look at the doctor's own process
    info     what the engine says of itself, or None
    records  connections to look at: those that are not up, at most MOST of each state
    problem  why it says nothing
    """

    config: Config = field(default_factory=Config)
    pid: int = 0
    info: dict[str, Any] | None = None
    records: list[dict[str, Any]] = field(default_factory=list)
    problem: str = ""
    root: Path = Path("/")

    @property
    def process(self) -> str:
        return f"/proc/{self.pid or 'self'}"

    @property
    def whose(self) -> str:
        """Whose limits and privileges those of `process` are."""
        return f"the engine's, pid {self.pid}" if self.pid else "this shell's"

    def path(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def text(self, path: str) -> str:
        """A file's text without the blanks around it; "" for one that is not there or not to be read."""
        try:
            return self.path(path).read_text(errors="replace").strip()
        except OSError:
            return ""

    def number(self, path: str) -> int | None:
        """The first number of a file; None without."""
        try:
            return int(self.text(path).split()[0])
        except (IndexError, ValueError):
            return None

    def status(self, key: str) -> list[str]:
        """The words of one line of the process's status, [] without."""
        for line in self.text(f"{self.process}/status").splitlines():
            name, _, value = line.partition(":")
            if name == key:
                return value.split()
        return []

    def limit(self, name: str) -> float | None:
        """A soft limit of the process; inf if there is none, None if it cannot be told."""
        for line in self.text(f"{self.process}/limits").splitlines():
            if line.startswith(name + " "):
                word = line[len(name) :].split()[0]
                return float("inf") if word == "unlimited" else float(word)
        return None

    def capabilities(self) -> int:
        """The effective set of the process, as a bit mask."""
        words = self.status("CapEff")
        return int(words[0], 16) if words else 0

    @property
    def in_user_namespace(self) -> bool:
        """Whether the process's capabilities count in a user namespace of its own only."""
        rows = self.text(f"{self.process}/uid_map").split()
        return bool(rows) and rows[:3] != ["0", "0", "4294967295"]

    def programs(self) -> set[str]:
        """Names of everything that runs, at most 15 bytes of each."""
        return {self.text(f"/proc/{pid}/comm") for pid in self.names("/proc") if pid.isdigit()}

    def names(self, path: str) -> list[str]:
        """What a folder holds, in order; [] for one that is not there or not to be read."""
        try:
            return sorted(os.listdir(self.path(path)))
        except OSError:
            return []

    def mount_of(self, path: str) -> Mount | None:
        """The mount that a path is on."""
        wanted = Path(path)
        found = None
        for mount in self._mounts():
            # of two mounts on one place the later covers the earlier
            if wanted.is_relative_to(mount.point) and (found is None or len(mount.point) >= len(found.point)):
                found = mount
        return found

    def _mounts(self) -> Iterator[Mount]:
        for line in self.text(f"{self.process}/mountinfo").splitlines():
            before, dash, after = line.partition(" - ")
            fields = before.split()
            if dash and len(fields) >= 6:
                yield Mount(fields[4], after.split()[0], any(f.startswith("shared:") for f in fields[6:]))


@dataclass(frozen=True, slots=True)
class Mount:
    """point: where it is; kind: of its file system; shared: whether what is mounted below is seen elsewhere."""

    point: str
    kind: str
    shared: bool


def size(number: int) -> str:
    """`208 KiB`"""
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number} {unit}"
        number //= 1024
    return f"{number} GiB"
