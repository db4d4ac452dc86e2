"""One hierarchy of errors.

    FastnlError
        CallerError             what was asked cannot be done: the caller can do something about it
            InvalidValue        a value that no kernel would take; `field` is its path
            Conflict            two things in one request, or a request and what is there, exclude each other
            NetnsNotFound       a namespace that is not there or is none
                NetnsUnknown    it cannot be told yet whether it is there
            NetnsGone           a namespace that went away while it was being used
            IfnameNotFound      an interface that somebody else has to make is not there
            NameInUse           an interface of that name is there already
            VniInUse            a VXLAN of that VNI and port has its tunnel in that namespace already
            NoPermission        the process lacks a capability
        KernelError             the kernel refused; errno and its own words are there
        InternalError           a fault of fastnl itself: please report it

`code` is the same word as in the engine's protocol.
"""

from __future__ import annotations

import os


class FastnlError(Exception):
    """Base of all; `message` is for people, everything else for programs.

    errno    of the kernel, 0: none
    ext_ack  the kernel's own words (extended ACK), "" without
    offset   where in the message the kernel stopped, bytes; 0: not told
    phase    "create", "up", "address", "route", "neighbour", "change", "move", "delete", … or ""
    field    path of the value at fault, e.g. "a.addresses[1]", or ""
    """

    code = "internal"

    def __init__(
        self,
        message: str,
        *,
        errno: int = 0,
        ext_ack: str = "",
        offset: int = 0,
        phase: str = "",
        field: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.errno = errno
        self.ext_ack = ext_ack
        self.offset = offset
        self.phase = phase
        self.field = field

    def as_dict(self) -> dict[str, str | int]:
        """The error as the engine's protocol carries it; empty fields are left out."""
        out: dict[str, str | int] = {"code": self.code, "message": self.message}
        for name in ("errno", "ext_ack", "phase", "field"):
            value = getattr(self, name)
            if value:
                out[name] = value
        return out


class CallerError(FastnlError):
    """The caller asked for something that cannot be."""


class InvalidValue(CallerError, ValueError):
    """A value is out of its bounds or not of its form."""

    code = "invalid"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}", field=field)
        self.problem = problem

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.field, self.problem)


class Conflict(CallerError):
    code = "conflict"


class NetnsNotFound(CallerError):
    code = "netns_not_found"


class NetnsUnknown(NetnsNotFound):
    """Whoever knows whether the namespace is there has not said yet."""


class NetnsGone(CallerError):
    code = "netns_gone"


class IfnameNotFound(CallerError):
    """An interface that somebody else has to make is not there."""

    code = "ifname_not_found"


class NameInUse(CallerError):
    code = "ifname_in_use"


class VniInUse(CallerError):
    code = "vni_in_use"


class NoPermission(CallerError):
    code = "no_permission"


class KernelError(FastnlError):
    code = "kernel"


class InternalError(FastnlError):
    code = "internal"


def errno_name(number: int) -> str:
    """For 17, "EEXIST: File exists"."""
    import errno

    return f"{errno.errorcode.get(number, number)}: {os.strerror(number)}"
