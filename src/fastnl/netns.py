"""References to network namespaces, and the short time in which they are held open.

A reference is text:

    ""                  the caller's own namespace
    blue, name:blue     /run/netns/blue, as `ip netns` makes them
    file:/path          a bind mount or /proc/PID/ns/net
    pid:123             of a process; a pidfd keeps a reused pid from being taken for it
    inode:4026532008    by inode number, found among processes and /run/netns
    inode:4026532008.17 by inode number and id (see Identity); the kernel finds it, whoever has it
    microservice:web    of a container, for a process that has set `microservices`

An open descriptor keeps a namespace alive, so Handles is a context manager that closes everything at the
end of a batch.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import functools
import os
import re
import select
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from fastnl import fence
from fastnl._nl import close_all, inodes, netns_at, netns_identity, new_netns, open_all, open_netns
from fastnl.errors import FastnlError, InvalidValue, KernelError, NetnsNotFound, NoPermission

RUN_NETNS = "/run/netns"
# Gives the process of a microservice; None: none of that label runs.  Raises NetnsUnknown while that cannot be told.
# Like the fence it is the process's own; None: it does not follow microservices.
microservices: Callable[[str], int | None] | None = None

PIDFD_GET_NET_NAMESPACE = 0xFF04  # _IO(0xFF, 4), include/uapi/linux/pidfd.h, Linux 6.11
FD_NSFS_ROOT = -10003  # include/uapi/linux/fcntl.h, Linux 6.18: stands for where all namespaces are
FILEID_NSFS = 0xF1  # include/linux/exportfs.h
CLONE_NEWNET = 0x40000000

AT_EMPTY_PATH = 0x1000
# struct file_handle: its size and type, then struct nsfs_file_handle: id, type of namespace, inode
_HANDLE = "=IiQII"

_libc = ctypes.CDLL(None, use_errno=True)


class Identity(NamedTuple):
    """What tells one namespace from another: `inode`, and `id`, which is never given twice in one boot.

    id is 0 before Linux 6.18; inode numbers are given again soon after a namespace has died.
    """

    inode: int
    id: int


def split(reference: str) -> tuple[str, str]:
    """("name", "blue") for "blue" or "name:blue"; ("", "") for the caller's own.

    Raises InvalidValue for a reference that cannot be one.
    """
    if not isinstance(reference, str):
        raise InvalidValue("netns", f"must be text, not {type(reference).__name__}")
    if reference == "":
        return "", ""
    kind, colon, value = reference.partition(":")
    if not colon:
        kind, value = "name", reference
    if "\0" in value or not value.isprintable():
        raise InvalidValue("netns", f"{reference!r} holds characters that cannot be printed")
    if kind == "name":
        if not value or "/" in value or value in (".", "..") or len(value) > 255:
            raise InvalidValue("netns", f"{reference!r}: {value!r} cannot be the name of a namespace")
    elif kind == "file":
        if not value.startswith("/"):
            raise InvalidValue("netns", f"{reference!r}: the path must begin with /")
    elif kind == "inode" and "." in value:
        if (
            not re.fullmatch(r"[1-9][0-9]{0,9}\.[1-9][0-9]{0,18}", value, re.ASCII)
            or int(value.partition(".")[0]) >> 32
        ):
            raise InvalidValue("netns", f"{reference!r}: {value!r} is not INODE.ID, two numbers")
    elif kind in ("pid", "inode"):
        most = (1 << 31) - 1 if kind == "pid" else (1 << 63) - 1
        if not (value.isascii() and value.isdigit() and len(value) < 20 and 0 < int(value) <= most):
            raise InvalidValue("netns", f"{reference!r}: {value!r} is not a number from 1 to {most}")
    elif kind == "microservice":
        if not value or len(value.encode()) > 255:
            raise InvalidValue("netns", f"{reference!r}: {value!r} cannot be the label of a microservice")
    else:
        raise InvalidValue(
            "netns",
            f"{reference!r}: {kind!r} is none of name, file, pid, inode, microservice; a plain name has no colon",
        )
    return kind, value


@functools.lru_cache(maxsize=8192)
def canonical(reference: str) -> str:
    """One spelling for each way to say the same: "name:blue" becomes "blue"."""
    kind, value = split(reference)
    if kind == "name" and ":" not in value:
        return value
    return f"{kind}:{value}" if kind else ""


def check_reach(reference: str, field: str = "netns") -> None:
    """Raises InvalidValue, with the field, for what this process does not open whatever it is.

    That is a file outside the fence, and a microservice where these are not followed.
    """
    if reference.startswith("microservice:") and microservices is None:
        raise InvalidValue(field, _unfollowed(reference))
    if reference.startswith("file:") and fence.fenced():
        try:
            fence.place(reference.removeprefix("file:"))
        except InvalidValue as e:
            raise InvalidValue(field, e.problem) from None


def _unfollowed(reference: str) -> str:
    return f"{reference!r}: microservices are not followed; the engine's setting `docker` makes it do so"


def path_of(reference: str) -> str | None:
    """Where the namespace can be opened; None for what has to be searched for.

    Behind the path of a process may be another one by now, so whoever opens it has to compare identities.
    """
    kind, value = split(reference)
    if kind == "pid":
        return f"/proc/{value}/ns/net"
    return {"": "/proc/self/ns/net", "name": f"{RUN_NETNS}/{value}", "file": value}.get(kind)


def open_reference(reference: str, *, fenced: bool = True) -> int:
    """The namespace as a descriptor; the caller closes it.

    fenced=False opens files that the fence (see fastnl.fence) keeps out, too: only to clean up behind it.
    Raises InvalidValue, NetnsNotFound (with what to do) or NoPermission.
    """
    kind, value = split(reference)
    path = _file_of(kind, value)
    try:
        if kind == "file" and fenced and fence.fenced():
            return _open_fenced(value)
        if path is not None:
            return open_netns(path, careful=kind == "file")
        if kind == "pid":
            return _open_pid(int(value))
        if kind == "microservice":
            return _open_microservice(value)
        if "." in value:
            return _open_handle(*(int(number) for number in value.split(".")))
        return _open_inode(int(value))
    except OSError as e:
        raise _not_found(reference, kind, value, e) from None


def _file_of(kind: str, value: str) -> str | None:
    """The file to open for a reference, for the calling thread."""
    return {"": "/proc/thread-self/ns/net", "name": f"{RUN_NETNS}/{value}", "file": value}.get(kind)


def _not_found(reference: str, kind: str, value: str, e: OSError) -> FastnlError:
    if e.errno in (errno.EACCES, errno.EPERM):
        # of another user's process the kernel shows the namespace to who may trace it; a folder is another matter
        traced = kind in ("pid", "inode", "microservice") or value.startswith("/proc/")
        needed = "CAP_SYS_PTRACE" if traced else "CAP_DAC_READ_SEARCH, or a path whose folders are open to all,"
        return NoPermission(f"namespace {reference!r}: {e.strerror}; {needed} is needed", errno=e.errno)
    if e.errno in (errno.EMFILE, errno.ENFILE):
        return KernelError(f"namespace {reference!r}: {e.strerror}; raise the limit of open files", errno=e.errno)
    if e.errno == errno.EINVAL:
        why = f"{e.filename or value} is there but is no network namespace"
        if kind == "name":
            why += " (a plain file: its mount did not propagate here, or its maker died)"
    elif kind == "name":
        why = f"there is no {RUN_NETNS}/{value}; `ip netns add {value}` would make it"
    elif kind == "pid":
        why = f"there is no process {value}"
    elif kind == "microservice":
        why = f"no container runs as microservice {value!r}"
    elif kind == "inode" and "." in value:
        why = "it is gone" if e.errno == errno.ESTALE else f"{e.strerror}; Linux 6.18 opens it by its id"
    elif kind == "inode":
        why = f"no process and no file in {RUN_NETNS} has a namespace with inode {value}"
    else:
        why = e.strerror or str(e)
    return NetnsNotFound(f"namespace {reference!r}: {why}", errno=e.errno or 0)


def _open_fenced(path: str) -> int:
    look = fence.open_inside(path)
    try:
        return open_netns(f"/proc/self/fd/{look}")
    except OSError as e:
        raise OSError(e.errno, e.strerror, path) from None
    finally:
        os.close(look)


def _open_pid(pid: int) -> int:
    """A process's namespace without the race of its pid being given to another one."""
    pidfd = os.pidfd_open(pid)
    try:
        try:
            return fcntl.ioctl(pidfd, PIDFD_GET_NET_NAMESPACE)
        except OSError as e:
            if e.errno not in (errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP):
                raise
        fd = open_netns(f"/proc/{pid}/ns/net")
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if poll.poll(0):  # it has ended, so /proc/PID may have been somebody else's
            os.close(fd)
            raise ProcessLookupError(errno.ESRCH, "No such process")
        return fd
    finally:
        os.close(pidfd)


def process_of(label: str) -> int | None:
    """The process of a microservice; None: none runs.  Raises NetnsUnknown, InvalidValue."""
    if microservices is None:
        raise InvalidValue("netns", _unfollowed(f"microservice:{label}"))
    return microservices(label)


def _open_microservice(label: str) -> int:
    pid = process_of(label)
    if pid is None:
        raise ProcessLookupError(errno.ESRCH, "No such process")
    return _open_pid(pid)


def _open_inode(inode: int) -> int:
    for path in candidates():
        try:
            if os.stat(path).st_ino != inode:
                continue
            fd = open_netns(path)
        except OSError:
            continue
        if os.fstat(fd).st_ino == inode:
            return fd
        os.close(fd)
    raise FileNotFoundError(errno.ENOENT, "No such namespace")


def _open_handle(inode: int, ns_id: int) -> int:
    """By the handle that the kernel has for every namespace, so nothing is held and nothing searched."""
    handle = struct.pack(_HANDLE, 16, FILEID_NSFS, ns_id, CLONE_NEWNET, inode)
    fd = int(_libc.open_by_handle_at(FD_NSFS_ROOT, handle, os.O_RDONLY | os.O_CLOEXEC))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return fd


def handle_reference(fd: int) -> str | None:
    """The reference of inode and id to what is behind a descriptor, also one of O_PATH; nothing is opened for it.

    None: it is no network namespace, or the kernel has no handles of them (before Linux 6.18).
    """
    handle = ctypes.create_string_buffer(struct.pack(_HANDLE, 16, 0, 0, 0, 0))
    mount = ctypes.c_int()
    if _libc.name_to_handle_at(fd, b"", handle, ctypes.byref(mount), AT_EMPTY_PATH):
        return None
    size, kind, ns_id, ns_type, inode = struct.unpack_from(_HANDLE, handle.raw)
    if (size, kind, ns_type) != (16, FILEID_NSFS, CLONE_NEWNET):
        return None
    return f"inode:{inode}.{ns_id}"


def candidates() -> Iterator[str]:
    """Paths to every namespace that has a name or a process; one may come several times, or be gone."""
    yield "/proc/self/ns/net"
    with contextlib.suppress(OSError):
        yield from (f"{RUN_NETNS}/{name}" for name in os.listdir(RUN_NETNS))
    yield from (f"/proc/{pid}/ns/net" for pid in os.listdir("/proc") if pid.isdigit())


def identity(fd: int) -> Identity:
    """Who the namespace behind an open descriptor is."""
    return Identity(*netns_identity(fd))


def meaning(reference: str) -> Identity:
    """Who a reference means now; nothing is left open.  Raises what open_reference does."""
    kind, value = split(reference)
    path = _file_of(kind, value)
    if path is None or (kind == "file" and fence.fenced()):
        fd = open_reference(reference)
        try:
            return identity(fd)
        finally:
            os.close(fd)
    try:
        return Identity(*netns_at(path, careful=kind == "file"))
    except OSError as e:
        raise _not_found(reference, kind, value, e) from None


class Handles:
    """Open namespaces of one batch, each opened once, all closed at the end.

    References that mean one namespace share one descriptor.
    """

    def __init__(self, *, fenced: bool = True) -> None:
        self._fenced = fenced
        self._fds: dict[str, int] = {}
        self._files: dict[str, str] = {}  # of those that are a file
        self._failed: dict[str, FastnlError] = {}
        self._who: dict[int, Identity] = {}
        self._known: dict[Identity, int] = {}

    def __enter__(self) -> Handles:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, reference: str) -> int:
        """The descriptor of a reference, valid until close.

        A reference that failed once fails the same way for the rest of the batch.
        """
        fd = self._fds.get(reference)
        if fd is not None:
            return fd
        if reference in self._failed:
            raise self._failed[reference]
        try:
            fd = open_reference(reference, fenced=self._fenced)
        except FastnlError as e:
            self._failed[reference] = e
            raise
        return self._take(reference, fd, identity(fd))

    def open_all(self, references: Iterable[str]) -> None:
        """Opens what will be asked for, all together; of what cannot be opened `open` tells why."""
        paths: dict[str, str] = {}
        anything: dict[str, str] = {}  # in any folder
        for reference in dict.fromkeys(references):
            if reference in self._fds:
                continue
            try:
                kind, value = split(reference)
            except InvalidValue:
                continue
            path = _file_of(kind, value)
            if kind != "file" and path is not None:
                paths[reference] = path
            elif kind == "file" and not (self._fenced and fence.fenced()):
                anything[reference] = value
        for some, careful in ((paths, False), (anything, True)):
            for reference, opened in zip(some, open_all([*some.values()], careful), strict=True):
                if opened is not None:
                    fd, inode, id_ = opened
                    self._take(reference, fd, Identity(inode, id_))
            self._files |= some
        self._files.pop("", None)  # one's own cannot go away

    def _take(self, reference: str, fd: int, who: Identity) -> int:
        known = self._fds[reference] = self._known.setdefault(who, fd)
        if known != fd:
            os.close(fd)
        self._who[known] = who
        return known

    def identity(self, fd: int) -> Identity:
        who = self._who.get(fd)
        if who is None:
            who = self._who[fd] = identity(fd)
        return who

    def lost(self) -> set[str]:
        """The references that do not mean any more what they meant when they were opened."""
        there = dict(zip(self._files, inodes([*self._files.values()]), strict=True))
        return {
            reference
            for reference, fd in self._fds.items()
            # one that is held open keeps its inode from being given again
            if (there[reference] != self._who[fd].inode if reference in there else not _means(reference, self._who[fd]))
        }

    def close(self) -> None:
        close_all([*self._known.values()])
        self._known.clear()
        self._fds.clear()
        self._files.clear()
        self._who.clear()
        self._failed.clear()


def _means(reference: str, who: Identity) -> bool:
    """Whether a reference still means a namespace that is held open, which keeps its inode from being given again."""
    kind, value = split(reference)
    if not kind:
        return True  # one's own cannot go away
    try:
        if kind in ("name", "file"):
            return os.stat(f"{RUN_NETNS}/{value}" if kind == "name" else value).st_ino == who.inode
        fd = open_reference(reference)
    except (OSError, FastnlError):
        return False
    try:
        return identity(fd) == who
    finally:
        os.close(fd)


def create(name: str) -> None:
    """Makes a named namespace, as `ip netns add` does.

    Raises FileExistsError, InvalidValue, OSError.
    """
    kind, value = split(name)
    if kind != "name":
        raise InvalidValue("netns", f"{name!r}: only a named namespace can be made")
    os.makedirs(RUN_NETNS, mode=0o755, exist_ok=True)
    path = f"{RUN_NETNS}/{value}"
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    try:
        os.close(new_netns(path))
    except BaseException:
        os.unlink(path)
        raise


def remove(name: str) -> None:
    """Lets a named namespace go, as `ip netns delete` does; it ends when nobody uses it any more.

    Raises FileNotFoundError, InvalidValue.
    """
    kind, value = split(name)
    if kind != "name":
        raise InvalidValue("netns", f"{name!r}: only a named namespace can be let go")
    path = Path(RUN_NETNS) / value
    _umount(str(path))
    path.unlink()


def _umount(path: str) -> None:
    # EINVAL: a plain file without a mount, which unlink removes all the same
    if _libc.umount2(os.fsencode(path), 2) and ctypes.get_errno() not in (errno.EINVAL, errno.ENOENT):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), path)
