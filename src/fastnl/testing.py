"""For tests that use the real kernel: a place of their own to do it in, and independent eyes to look with.

    isolate()                                   # first thing in the process, before any thread
    before = Census.take()
    with Namespaces() as ns:
        blue, red = ns.make("blue"), ns.make("red")
        [result] = Host().connect([Veth(End(blue, "e0", ["10.0.0.1/24"]), End(red, "e0", ["10.0.0.2/24"]))])
        assert ping(blue, "10.0.0.2")
        assert ip_json(blue, "link", "show", "e0")[0]["ifname"] == "e0"
    assert before.leaks() == []

Nothing here is needed to use fastnl.  It wants `ip` (iproute2), `ping` (iputils) and `nsenter` (util-linux).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastnl import netns as _netns

__all__ = [
    "PATIENCE",
    "Census",
    "Namespaces",
    "allow_many_files",
    "eventually",
    "ip_json",
    "isolate",
    "nsenter",
    "ping",
    "spawn",
]

PATIENCE = 60  # seconds until something counts as not happening; a slow machine is no failure

_CLONE_NEWNS = 0x00020000  # include/uapi/linux/sched.h
_CLONE_NEWNET = 0x40000000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000  # include/uapi/linux/mount.h
_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1

_libc = ctypes.CDLL(None, use_errno=True)


# -- a place of one's own --------------------------------------------------------------------------


def isolate() -> None:
    """Puts this process into network and mount namespaces of its own, for good.

    Mounts are private, /run/netns is an empty tmpfs and `lo` is up.  Whatever the process starts later
    inherits all of it, so the machine's interfaces, named namespaces and network sysctls are out of reach,
    and the kernel cleans up when the last process ends, killed or not.

    Raises PermissionError without CAP_SYS_ADMIN, and RuntimeError when the process has more than one
    thread: the others would stay outside.
    """
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        raise RuntimeError(
            f"isolate() must come before any thread is started; {threads} are running, and only the caller "
            "would be moved"
        )
    if _libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        if number == errno.EPERM:
            raise PermissionError(
                number, "namespaces of one's own need root, or CAP_SYS_ADMIN (in a container: run it privileged)"
            )
        raise OSError(number, os.strerror(number), "unshare")
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    Path(_netns.RUN_NETNS).mkdir(parents=True, exist_ok=True)
    _mount("fastnl-testing", _netns.RUN_NETNS, "tmpfs", 0)
    _set_up("lo")


def _mount(source: str | None, target: str, kind: str | None, flags: int) -> None:
    def raw(text: str | None) -> bytes | None:
        return None if text is None else os.fsencode(text)

    if _libc.mount(raw(source), raw(target), raw(kind), ctypes.c_ulong(flags), None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def _set_up(ifname: str) -> None:
    """IFF_UP by ioctl, so that a broken library does not stop its own tests from starting."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        request = fcntl.ioctl(s, _SIOCGIFFLAGS, struct.pack("16sH14x", ifname.encode(), 0))
        (flags,) = struct.unpack_from("H", request, 16)
        fcntl.ioctl(s, _SIOCSIFFLAGS, struct.pack("16sH14x", ifname.encode(), flags | _IFF_UP))


def allow_many_files() -> None:
    """Raises this process's limit of open files as far as it may: a login shell's is too low for crowds of clients."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Namespaces:
    """Named network namespaces that live as long as the `with` block."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def __enter__(self) -> Namespaces:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._names):
            # a test may have removed the file itself
            with contextlib.suppress(FileNotFoundError):
                self.let_go(name)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._names))

    def make(self, name: str) -> str:
        """Makes one, as `ip netns add` does, and gives its name back."""
        _netns.create(name)
        self._names.append(name)
        return name

    def many(self, count: int, prefix: str = "n") -> list[str]:
        """n0, n1, n2, …"""
        return [self.make(f"{prefix}{i}") for i in range(count)]

    def let_go(self, name: str) -> None:
        """Removes the name now; the namespace ends when nobody holds it any more."""
        self._names.remove(name)
        _netns.remove(name)


# -- independent eyes ------------------------------------------------------------------------------


def nsenter(netns: str, *argv: str) -> list[str]:
    """The command line that runs `argv` in a named namespace; "" is the caller's own."""
    return ["nsenter", f"--net={_netns.RUN_NETNS}/{netns}", "--", *argv] if netns else list(argv)


def ip_json(netns: str, *args: str) -> list[dict[str, Any]]:
    """What `ip -n NETNS -j -d ARGS` prints, decoded: a reader that shares no code with fastnl.

    Raises subprocess.CalledProcessError, whose `stderr` holds ip's words.
    """
    where = ["-n", netns] if netns else []
    done = subprocess.run(["ip", *where, "-j", "-d", *args], check=True, capture_output=True, text=True)
    rows: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    return [row for row in rows if row]  # ip leaves empty objects for rows that it filtered out


def ping(netns: str, target: str, *, count: int = 1, wait: float = PATIENCE, size: int | None = None) -> bool:
    """Whether `target` answers ICMP echo requests sent from a namespace, tried again for `wait` seconds.

    count   requests sent at a time; one answer is enough
    size    payload bytes, sent with fragmentation forbidden, to try an MTU

    A request right after a connect may be lost: an end that came up before the other one gets its queue
    when the kernel's link watch finds the carrier, in its own time (net/core/link_watch.c).
    """
    options = ["-n", "-q", "-c", str(count), "-i", "0.2", "-W", str(min(wait, 0.5))]
    if size is not None:
        options += ["-s", str(size), "-M", "do"]
    command = nsenter(netns, "ping", *options, target)
    return eventually(lambda: subprocess.run(command, capture_output=True, check=False).returncode == 0, wait)


def eventually(condition: Callable[[], Any], seconds: float = PATIENCE) -> bool:
    """Waits for what the kernel does in its own time; false when it did not happen within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


# -- what is left ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Census:
    """What this process and its namespaces hold at one moment, in words.

    interfaces   of the process's own namespace and of every named one
    namespaces   names in /run/netns
    fds, threads, children   of this process
    """

    interfaces: frozenset[str]
    namespaces: frozenset[str]
    fds: frozenset[str]
    threads: frozenset[str]
    children: frozenset[str]

    @classmethod
    def take(cls) -> Census:
        # first what asking for the interfaces would disturb
        fds, threads, children = _fds(), _threads(), _children()
        try:
            names = sorted(path.name for path in Path(_netns.RUN_NETNS).iterdir())
        except FileNotFoundError:
            names = []
        return cls(
            interfaces=frozenset(line for netns in ("", *names) for line in _interfaces(netns)),
            namespaces=frozenset(f"namespace {name}" for name in names),
            fds=fds,
            threads=threads,
            children=children,
        )

    def difference(self, before: Census) -> list[str]:
        """What is here and was not there `before`, and the other way round; [] if nothing."""
        now, then = self._everything(), before._everything()
        return [f"new: {line}" for line in sorted(now - then)] + [f"missing: {line}" for line in sorted(then - now)]

    def leaks(self, seconds: float = PATIENCE) -> list[str]:
        """What is not as it was at this census, and does not become so within `seconds`; [] if all is.

        The kernel removes the interfaces of a namespace that was let go in its own time, and lists a thread
        for a moment after it has ended; that one is gone counts for nothing.
        """

        end = time.monotonic() + seconds
        while True:
            left = [line for line in Census.take().difference(self) if not line.startswith("missing: thread")]
            if not left or time.monotonic() > end:
                return left
            time.sleep(0.01)

    def _everything(self) -> frozenset[str]:
        return self.interfaces | self.namespaces | self.fds | self.threads | self.children


def _interfaces(netns: str) -> list[str]:
    try:
        rows = ip_json(netns, "link", "show")
    except subprocess.CalledProcessError:  # a plain file in /run/netns, or gone meanwhile
        return []
    where = f"namespace {netns}" if netns else "the process's own namespace"
    return [f"interface {row['ifname']} (index {row['ifindex']}) in {where}" for row in rows]


def _fds() -> frozenset[str]:
    out = set()
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the descriptor of this very listing
            out.add(f"fd {fd.name} on {fd.readlink()}")
    return frozenset(out)


def _threads() -> frozenset[str]:
    out = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            out.add(f"thread {task.name} {(task / 'comm').read_text().strip()}")
    return frozenset(out)


def _children() -> frozenset[str]:
    """Ended but not waited for counts as well.  Empty where the kernel lists no children (PROC_CHILDREN)."""
    out: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            out.update(f"child {pid}" for pid in (task / "children").read_text().split())
    return frozenset(out)


def spawn(argv: Sequence[str], **kwargs: Any) -> subprocess.Popen[Any]:
    """subprocess.Popen, but the kernel kills the child with SIGKILL when the thread that called this ends.

    So a test that is killed leaves no process behind.  Not for threads that end before the child shall.
    """
    parent = os.getpid()

    def die_with_parent() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it ended before prctl could see it
            os._exit(1)

    # between fork and exec it takes no lock, which is what makes preexec_fn unsafe beside threads
    return subprocess.Popen(argv, preexec_fn=die_with_parent, **kwargs)  # noqa: PLW1509
