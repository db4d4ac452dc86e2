"""Which folders `file:` references may lead into.

A path is only a wish: a symbolic link in an allowed folder may point anywhere, and may have been put there after
the path was looked at.  So the kernel resolves it (openat2, Linux 5.6), from the folder on and never out of it, in
the same step that opens it.  The fence is the process's own, like its umask, so that no way in can forget it.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Sequence

from fastnl.errors import InvalidValue

OPENAT2 = 437  # on every architecture
RESOLVE_NO_MAGICLINKS, RESOLVE_BENEATH = 0x02, 0x08  # include/uapi/linux/openat2.h

_libc = ctypes.CDLL(None, use_errno=True)
_folders: tuple[str, ...] = ()


class _OpenHow(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


def fence_files(folders: Sequence[str]) -> None:
    """Lets `file:` references of this process lead into these folders only, from now on; none: anywhere.

    The folders need not be there yet, and may be symbolic links themselves.  Raises InvalidValue.
    """
    global _folders  # noqa: PLW0603
    for folder in folders:
        if not folder.startswith("/") or "\0" in folder:
            raise InvalidValue("file_prefixes", f"{folder!r} must be the absolute path of a folder")
    _folders = tuple(os.path.normpath(folder) for folder in folders)


def fenced() -> bool:
    return bool(_folders)


def place(path: str) -> tuple[str, str]:
    """(folder, rest) of a path that reads as if it were inside the fence.  Raises InvalidValue."""
    whole = "/" + os.path.normpath(path).lstrip("/")  # POSIX lets a path keep two slashes at its beginning
    for folder in _folders:
        inner = folder.rstrip("/") + "/"
        if whole.startswith(inner):
            return folder, whole[len(inner) :]
    raise _outside(path, "is in none of the folders that `file:` may lead into")


def open_inside(path: str) -> int:
    """The file as an O_PATH descriptor, if it really is inside.  Raises InvalidValue, OSError."""
    folder, rest = place(path)
    base = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        how = _OpenHow(os.O_PATH | os.O_CLOEXEC, 0, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)
        while True:
            fd = int(_libc.syscall(OPENAT2, base, os.fsencode(rest), ctypes.byref(how), ctypes.sizeof(how)))
            number = ctypes.get_errno()
            if fd >= 0:
                return fd
            if number not in (errno.EAGAIN, errno.EINTR):  # EAGAIN: something was renamed on the way
                break
    finally:
        os.close(base)
    if number in (errno.EXDEV, errno.ELOOP):
        raise _outside(path, "is a link that leads out of the folders that `file:` may lead into")
    raise OSError(number, os.strerror(number), path)


def _outside(path: str, why: str) -> InvalidValue:
    return InvalidValue(
        "netns", f"'file:{path}' {why}: {', '.join(_folders)}; the engine's setting `file_prefixes` decides"
    )
