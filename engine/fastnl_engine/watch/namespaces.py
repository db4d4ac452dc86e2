"""Namespaces that come and go.

Names and files are watched through their folder by inotify, processes through a pidfd.  What no watch can
see (a process that does not exist yet, an unmount that leaves the file) is looked at now and then.  No
namespace is held open: a reference is opened, compared and closed again.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from inotify_simple import INotify, flags

import fastnl
from fastnl.netns import RUN_NETNS, Identity, identity, open_reference, split

POLL = 1.0  # seconds between looks at references that no watch covers
AUDIT = 5.0  # seconds between looks at those that one does

# milliseconds until the next look at a file that is there and is no namespace yet
SETTLE = (1, 2, 5, 10, 20, 50, 100, 200, 500)

CHANGES = flags.CREATE | flags.DELETE | flags.MOVED_FROM | flags.MOVED_TO | flags.DELETE_SELF | flags.MOVE_SELF

_PROC = re.compile(r"/proc/(\d+)/")

Change = Callable[[str, Identity | None], None]

# it could not be looked at, for want of descriptors or rights: no reason to take anything down
UNKNOWN = Identity(-1, -1)


class Namespaces:
    """Tells `on_change(reference, identity)` when a watched reference means something else; None: nothing.

    For one thread.  `fds` belong in its poll set; call `turn` when one is readable or `timeout` has passed.
    """

    def __init__(self, on_change: Change) -> None:
        self._on_change = on_change
        self._inotify = INotify()
        self._folders: dict[int, str] = {}  # inotify's number -> folder
        self._known: dict[str, Identity | None] = {}
        self._by_path: dict[tuple[str, str], set[str]] = {}  # (folder, name) -> references
        self._pidfds: dict[int, str] = {}
        self._pids: dict[str, int] = {}
        self._soon: dict[str, tuple[float, int]] = {}  # reference -> when to look, how often it was looked at
        self._uncovered: set[str] = set()
        self._next_poll = time.monotonic() + POLL
        self._next_audit = time.monotonic() + AUDIT

    @property
    def fds(self) -> list[int]:
        return [self._inotify.fileno(), *self._pidfds]

    @property
    def count(self) -> int:
        """How many references are watched."""
        return len(self._known)

    @property
    def timeout(self) -> float:
        """Seconds until something is due without any event."""
        due = [self._next_audit, *(when for when, _ in self._soon.values())]
        if self._uncovered:
            due.append(self._next_poll)
        return max(0.0, min(due) - time.monotonic())

    def watch(self, reference: str) -> Identity | None:
        """Begins to watch and tells what the reference means now; on_change tells of changes from here on."""
        if reference not in self._known:
            # watch first, look then: what happens in between is seen twice, not missed
            self._place_watch(reference)
            self._known[reference] = look(reference)
            if self._known[reference] == UNKNOWN:
                self._soon[reference] = (time.monotonic() + POLL, 0)
        return self._known[reference]

    def forget(self, references: Iterable[str]) -> None:
        """Stops watching what nobody needs any more."""
        for reference in references:
            if reference not in self._known:
                continue
            del self._known[reference]
            self._soon.pop(reference, None)
            self._uncovered.discard(reference)
            path = _path(reference)
            if path is not None:
                users = self._by_path.get(_key(path), set())
                users.discard(reference)
                if not users:
                    self._by_path.pop(_key(path), None)
            fd = self._pids.pop(reference, -1)
            if fd >= 0:
                del self._pidfds[fd]
                os.close(fd)

    def turn(self) -> None:
        """Looks at what events point to and at what is due."""
        touched = self._changed_files() | self._ended_processes()
        now = time.monotonic()
        touched |= {r for r, (when, _) in self._soon.items() if when <= now}
        if now >= self._next_poll:
            self._next_poll = now + POLL
            # also those that a watch covers from now on: they may have come before it
            touched |= self._uncovered
            for reference in list(self._uncovered):
                self._place_watch(reference)
        if now >= self._next_audit:
            self._next_audit = now + AUDIT
            touched |= {r for r, who in self._known.items() if not _same_file(r, who)}
        for reference in touched:
            self._look_again(reference)

    def close(self) -> None:
        self._inotify.close()
        for fd in self._pidfds:
            os.close(fd)
        self._pidfds.clear()

    def _changed_files(self) -> set[str]:
        touched: set[str] = set()
        for number, mask, _, name in self._inotify.read(timeout=0):
            if mask & flags.IGNORED:
                self._folders.pop(number, None)
            if name:
                touched |= self._by_path.get((self._folders.get(number, ""), name), set())
            else:
                # the folder itself went, or events were lost: everything may have changed
                touched |= set(self._known)
                self._uncovered |= set(self._known)
        return touched

    def _look_again(self, reference: str) -> None:
        if reference not in self._known:
            return
        who = look(reference)
        if who == UNKNOWN:
            self._soon[reference] = (time.monotonic() + POLL, 0)
            return
        tries = self._soon.pop(reference, (0.0, 0))[1]
        path = _path(reference)
        if who is None and path is not None and tries < len(SETTLE) and os.path.lexists(path):
            # `ip netns add` makes an empty file first and mounts the namespace over it a moment later
            self._soon[reference] = (time.monotonic() + SETTLE[tries] / 1000, tries + 1)
        if who != self._known[reference]:
            self._known[reference] = who
            self._on_change(reference, who)

    def _place_watch(self, reference: str) -> None:
        """Covers a reference by a watch, or leaves it to the poll."""
        self._uncovered.add(reference)
        path, pid = _path(reference), _pid(reference)
        with contextlib.suppress(OSError):  # no such folder or process yet: the poll tries again
            if pid:
                if reference not in self._pids:
                    fd = os.pidfd_open(pid)
                    self._pids[reference] = fd
                    self._pidfds[fd] = reference
            elif path is not None:
                self._by_path.setdefault(_key(path), set()).add(reference)
                folder = str(Path(path).parent)
                if folder not in self._folders.values():
                    self._folders[self._inotify.add_watch(folder, CHANGES)] = folder
            else:
                return
            self._uncovered.discard(reference)

    def _ended_processes(self) -> set[str]:
        if not self._pidfds:
            return set()
        poll = select.poll()
        for fd in self._pidfds:
            poll.register(fd, select.POLLIN)
        ended = set()
        for fd, _ in poll.poll(0):
            reference = self._pidfds.pop(fd)
            self._pids.pop(reference, None)
            self._uncovered.add(reference)
            os.close(fd)
            ended.add(reference)
        return ended


def look(reference: str) -> Identity | None:
    """Which namespace a reference means now; None: none; UNKNOWN: that cannot be told at the moment."""
    try:
        fd = open_reference(reference)
    except fastnl.NetnsNotFound:
        return None
    except fastnl.FastnlError:
        return UNKNOWN
    try:
        return identity(fd)
    finally:
        os.close(fd)


def _same_file(reference: str, who: Identity | None) -> bool:
    """A cheap look: whether the file has the inode that it had; true for what is no file."""
    path = _path(reference)
    if path is None:
        return True
    try:
        return who is not None and os.stat(path).st_ino == who.inode
    except OSError:
        return who is None


def _path(reference: str) -> str | None:
    kind, value = split(reference)
    return f"{RUN_NETNS}/{value}" if kind == "name" else value if kind == "file" else None


def _key(path: str) -> tuple[str, str]:
    return str(Path(path).parent), Path(path).name


def _pid(reference: str) -> int:
    """The process that a reference stands or falls with, 0: none."""
    kind, value = split(reference)
    if kind == "pid":
        return int(value)
    found = _PROC.match(value) if kind == "file" else None
    return int(found[1]) if found else 0
