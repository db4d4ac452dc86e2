"""Namespaces that come and go.

Names and files are watched through their folder by inotify and, as a mount is no event of the folder, through
the table of mounts; processes through a pidfd; of microservices somebody else tells when one has another process.
What no watch can see (a process that does not exist yet, or one that goes into another namespace) is looked at now
and then.  No namespace is held open: a reference is
opened, compared and closed again.
"""

from __future__ import annotations

import itertools
import os
import re
import select
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from inotify_simple import INotify, flags

import fastnl
from fastnl.errors import NetnsUnknown
from fastnl.netns import RUN_NETNS, Identity, meaning, process_of, split

POLL = 1.0  # seconds between looks at what no watch covers
ROUND = 5  # looks until each of those that one does cover has had its turn, too
EXPECT = 0.025  # seconds between looks for processes that do not exist yet
EXPECTED = 64  # of those that one look is for: bounds what it costs

CHANGES = flags.CREATE | flags.DELETE | flags.MOVED_FROM | flags.MOVED_TO | flags.DELETE_SELF | flags.MOVE_SELF

_PROC = re.compile(r"/proc/(\d+)/")

Change = Callable[[str, Identity | None, Identity | None], None]
Print = tuple[int, int, int]

# it could not be looked at, for want of descriptors or rights: no reason to take anything down
UNKNOWN = Identity(-1, -1)


@dataclass(slots=True, eq=False)
class Watch:
    """A reference: its file, "" if it is none; the process that it stands or falls with, 0 if there is none.

    who       what it means
    print     tells whether the file is still the one that was looked at
    at        what inotify tells of: the file, or the first folder that is missing before it; "": nothing
    pidfd     of the process, -1: none
    """

    reference: str
    path: str
    pid: int
    who: Identity | None = None
    print: Print | None = None
    at: str = ""
    pidfd: int = -1

    @property
    def named_by_others(self) -> bool:
        """Whether somebody else says which process it is; none may be known."""
        return self.reference.startswith("microservice:")


class Namespaces:
    """Tells `on_change(reference, identity, was)` when a watched reference means something else; None: nothing.

    For one thread.  Its descriptor, `fileno()`, belongs in a poll set; call `turn` when it is readable or
    `timeout` has passed.
    """

    def __init__(self, on_change: Change) -> None:
        self._on_change = on_change
        self._watches: dict[str, Watch] = {}
        self._inotify = INotify()
        self._mounts = os.open("/proc/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._inotify.fileno(), select.EPOLLIN)
        self._epoll.register(self._mounts, select.EPOLLPRI)
        self._numbers: dict[str, int] = {}  # folder -> inotify's number
        self._folders: dict[int, set[str]] = {}  # and back: a folder may have two spellings
        # folder -> name in it -> who asked; a tuple, as there are many and nearly all have one member
        self._names: dict[str, dict[str, tuple[Watch, ...]]] = {}
        self._pidfds: dict[int, Watch] = {}
        self._unsettled: set[Watch] = set()  # the file is there and is no namespace yet
        self._expected: dict[Watch, None] = {}  # the process does not exist yet; the longest not looked for comes first
        self._uncovered: set[Watch] = set()
        self._mounted = False  # something was mounted or unmounted since the last look at everything
        self._part = 0
        self._next_poll = time.monotonic() + POLL
        self._next_expect = 0.0

    def fileno(self) -> int:
        return self._epoll.fileno()

    def __contains__(self, reference: str) -> bool:
        """Whether a reference is watched."""
        return reference in self._watches

    @property
    def count(self) -> int:
        """How many references are watched."""
        return len(self._watches)

    @property
    def missing(self) -> list[str]:
        """The references that mean no namespace now.  May be called from another thread."""
        return [w.reference for w in list(self._watches.values()) if w.who is None]

    @property
    def timeout(self) -> float:
        """Seconds until something is due without any event."""
        due = min(self._next_poll, self._next_expect) if self._expected else self._next_poll
        return max(0.0, due - time.monotonic())

    def watch(self, reference: str) -> Identity | None:
        """Begins to watch and tells what the reference means now; on_change tells of changes from here on."""
        w = self._watches.get(reference)
        if w is None:
            w = self._watches[reference] = Watch(reference, _path(reference), _pid(reference))
            # watch first, look then: what happens in between is seen twice, not missed
            self._place(w)
            w.who = self._look(w)
        return w.who

    def refresh(self, reference: str) -> Identity | None:
        """Looks at a watched reference now, before whatever its watch may still have to tell."""
        w = self._watches[reference]
        if w.pidfd >= 0 and _has_ended(w.pidfd):
            self._ended(w)
            if reference not in self._watches:
                return self.watch(reference)  # whoever asked for it has no use for another process
            self._place(w)
        self._look_again(w)
        return w.who

    def told(self, reference: str) -> None:
        """Somebody who knows says that a reference, watched or not, may mean another process by now."""
        w = self._watches.get(reference)
        if w is None:
            return
        self._leave_process(w)
        w.pid = _pid(reference)
        self._place(w)
        self._look_again(w)

    def forget(self, references: Iterable[str]) -> None:
        """Stops watching what nobody needs any more."""
        for reference in references:
            w = self._watches.pop(reference, None)
            if w is None:
                continue
            self._unsettled.discard(w)
            self._uncovered.discard(w)
            self._expected.pop(w, None)
            self._leave_folder(w)
            self._leave_process(w)

    def turn(self, woken: bool = True) -> None:
        """Looks at what events point to and at what is due.

        woken  the descriptor was readable.  The table of mounts tells of a change once only, which may be to
               whoever asked the descriptor, so this is all that is known of it.
        """
        touched: set[Watch] = set()
        if woken:
            self._mounted = True
            touched |= self._unsettled
            for fd, _ in self._epoll.poll(0):
                if fd == self._inotify.fileno():
                    touched |= self._changed_files()
                elif fd in self._pidfds and _has_ended(fd):  # the number may be another one's by now
                    self._ended(self._pidfds[fd])
        now = time.monotonic()
        if self._expected and now >= self._next_expect:
            self._next_expect = now + EXPECT
            for w in list(itertools.islice(self._expected, EXPECTED)):
                del self._expected[w]
                if self._place(w):
                    touched.add(w)
        if now >= self._next_poll:
            self._next_poll = now + POLL
            touched |= self._due()
        for w in touched:
            self._look_again(w)

    def close(self) -> None:
        self._epoll.close()
        self._inotify.close()
        os.close(self._mounts)
        for fd in self._pidfds:
            os.close(fd)
        self._pidfds.clear()

    # -- what happened -------------------------------------------------------------------------------

    def _changed_files(self) -> set[Watch]:
        touched: set[Watch] = set()
        for number, mask, _, name in self._inotify.read(timeout=0):
            folders = self._folders.get(number, set())
            if mask & flags.IGNORED:
                for folder in self._folders.pop(number, ()):
                    self._numbers.pop(folder, None)
            if name:
                for folder in folders:
                    touched.update(self._names.get(folder, {}).get(name, ()))
            elif number < 0:
                touched |= set(self._watches.values())  # events were lost
            else:
                # the folder itself went, perhaps to be another one
                for users in (users for folder in folders for users in self._names.get(folder, {}).values()):
                    touched.update(users)
                    self._uncovered.update(users)
        for w in touched:
            if w.at != w.path:
                self._place(w)  # a folder on its way is there now
        return touched

    def _ended(self, w: Watch) -> None:
        """A process has ended.  One that has its number by now is another one, so it is told of for itself."""
        self._leave_process(w)
        if w.named_by_others:
            w.pid = 0  # the next one has another number
            self._uncovered.add(w)
        else:
            self._expected[w] = None
        self._become(w, None)

    def _due(self) -> set[Watch]:
        """What no watch covers, and a part of what one does."""
        for w in list(self._uncovered):
            self._place(w)
        if self._mounted:
            # also a folder may be another one now that something is mounted over it
            self._mounted = False
            for folder in list(self._names):
                self._watch_folder(folder)
            part: Iterable[Watch] = self._watches.values()
        else:
            self._part = (self._part + 1) % ROUND
            part = itertools.islice(self._watches.values(), self._part, None, ROUND)
        # a process needs its namespace opened, of a file a stat tells enough
        return self._uncovered | {w for w in part if (_print(w.path) != w.print if w.path else w.pidfd >= 0)}

    # -- looking -------------------------------------------------------------------------------------

    def _look_again(self, w: Watch) -> None:
        if self._watches.get(w.reference) is not w:
            return  # forgotten meanwhile
        who = self._look(w)
        if who != UNKNOWN:
            self._become(w, who)

    def _become(self, w: Watch, who: Identity | None) -> None:
        was = w.who
        if who != was:
            w.who = who
            self._on_change(w.reference, who, was)

    def _look(self, w: Watch) -> Identity | None:
        """What a reference means now; what will have to be looked at again is taken note of."""
        w.print = _print(w.path) if w.path else None
        who = look(w.reference)
        if who == UNKNOWN:
            self._uncovered.add(w)
        # `ip netns add` makes an empty file first and mounts the namespace over it a moment later
        if who is None and w.print is not None:
            self._unsettled.add(w)
        else:
            self._unsettled.discard(w)
        return who

    def _place(self, w: Watch) -> bool:
        """Covers a reference by a watch; false where there is none to be had, which leaves it to the looks."""
        self._uncovered.discard(w)
        if w.named_by_others and not w.pid:
            w.pid = _pid(w.reference)
        if w.pid:
            if w.pidfd < 0:
                try:
                    w.pidfd = os.pidfd_open(w.pid)
                except OSError:
                    if w.named_by_others:
                        w.pid = 0
                        self._uncovered.add(w)
                    else:
                        self._expected[w] = None
                    return False
                self._pidfds[w.pidfd] = w
                self._epoll.register(w.pidfd, select.EPOLLIN)
            self._expected.pop(w, None)
        elif w.path:
            self._leave_folder(w)
            w.at = w.path
            folder, name = os.path.split(w.at)
            # Where the folder is missing, the one before it tells when it comes.  One that is watched already may be
            # another by now, which is told of soon, as it is when it happens a moment later.
            while folder not in self._numbers and not self._watch_folder(folder):
                if folder == "/":
                    w.at = ""
                    self._uncovered.add(w)
                    return False
                w.at = folder
                folder, name = os.path.split(w.at)
            names = self._names.setdefault(folder, {})
            names[name] = (*names.get(name, ()), w)
        else:
            self._uncovered.add(w)
            return False
        return True

    def _watch_folder(self, folder: str) -> bool:
        try:
            number = self._inotify.add_watch(folder, CHANGES)
        except OSError:
            return False
        before = self._numbers.get(folder)
        if before != number:
            if before is not None:
                self._drop_number(folder, before)
            self._numbers[folder] = number
            self._folders.setdefault(number, set()).add(folder)
        return True

    def _leave_process(self, w: Watch) -> None:
        if w.pidfd >= 0:
            del self._pidfds[w.pidfd]
            os.close(w.pidfd)
            w.pidfd = -1

    def _leave_folder(self, w: Watch) -> None:
        if not w.at:
            return
        folder, name = os.path.split(w.at)
        w.at = ""
        names = self._names[folder]
        users = tuple(other for other in names[name] if other is not w)
        if users:
            names[name] = users
        else:
            del names[name]
        if not names and self._names.pop(folder, None) is not None:
            number = self._numbers.pop(folder, None)
            if number is not None:
                self._drop_number(folder, number)

    def _drop_number(self, folder: str, number: int) -> None:
        users = self._folders.get(number, set())
        users.discard(folder)
        if not users and self._folders.pop(number, None) is not None:
            try:
                self._inotify.rm_watch(number)
            except OSError:
                return  # the folder is gone, and the watch with it


def look(reference: str) -> Identity | None:
    """Which namespace a reference means now; None: none; UNKNOWN: that cannot be told at the moment."""
    try:
        return meaning(reference)
    except NetnsUnknown:
        return UNKNOWN
    except (fastnl.NetnsNotFound, fastnl.InvalidValue):  # invalid: the settings keep it out
        return None
    except fastnl.FastnlError:
        return UNKNOWN


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _print(path: str) -> Print | None:
    """Changes when the file is replaced, also by a namespace that got the inode number of one that died."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns


def _path(reference: str) -> str:
    kind, value = split(reference)
    return f"{RUN_NETNS}/{value}" if kind == "name" else value if kind == "file" else ""


def _pid(reference: str) -> int:
    kind, value = split(reference)
    if kind == "pid":
        return int(value)
    if kind == "microservice":
        try:
            return process_of(value) or 0
        except fastnl.FastnlError:
            return 0
    found = _PROC.match(value) if kind == "file" else None
    return int(found[1]) if found else 0
