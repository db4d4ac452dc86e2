"""From an errno to an error that says which value is at fault and what to do about it."""

from __future__ import annotations

import errno
import os
from typing import Any

from fastnl._nl import LinkRow, Phase, Problem
from fastnl.errors import FastnlError, KernelError, NameInUse, NoPermission, VniInUse
from fastnl.links import Connection, Vxlan

PHASE_NAMES = {
    Phase.CREATE: "create",
    Phase.UP: "up",
    Phase.ADDRESS: "address",
    Phase.ROUTE: "route",
    Phase.NEIGHBOUR: "neighbour",
    Phase.CHANGE: "change",
    Phase.MOVE: "move",
    Phase.MARK: "mark",
    Phase.DELETE: "delete",
    Phase.RULE: "rule",
    Phase.QUERY: "query",
    Phase.RAW: "raw",
    Phase.SETTING: "setting",
}
SETTINGS = ("route_localnet", "ping_group_range", "addresses")  # fields by place

# what to do, by phase and errno; the first line of the message says what failed
HINTS = {
    (Phase.ROUTE, errno.ENETUNREACH): "no address of this end covers the next hop; add one, or set onlink",
    (Phase.ROUTE, errno.EHOSTUNREACH): "no address of this end covers the next hop; add one, or set onlink",
    (Phase.ROUTE, errno.EEXIST): "the namespace has a route to that destination with that metric already",
    (Phase.ROUTE, errno.EINVAL): "the next hop or source address does not fit this end's addresses",
    (Phase.ADDRESS, errno.EEXIST): "the namespace has that address already",
    (Phase.ADDRESS, errno.EACCES): "IPv6 is switched off on that interface (disable_ipv6)",
    (Phase.ADDRESS, errno.EAFNOSUPPORT): "this kernel runs without that address family",
    (Phase.ADDRESS, errno.EOPNOTSUPP): "this kernel runs without that address family",
    (Phase.ADDRESS, errno.ENODEV): "the interface is gone, or IPv6 is off on it (its MTU is below 1280)",
    (Phase.ROUTE, errno.EAFNOSUPPORT): "this kernel runs without that address family",
    (Phase.ROUTE, errno.EOPNOTSUPP): "this kernel runs without that address family",
    (
        Phase.NEIGHBOUR,
        errno.ENOBUFS,
    ): "the neighbour table is full of learned entries: raise net.ipv4.neigh.default.gc_thresh3",
    (Phase.RULE, errno.EEXIST): "the namespace has that rule already",
    (Phase.RULE, errno.EAFNOSUPPORT): "this kernel runs without policy rules of that address family",
    (Phase.RULE, errno.EOPNOTSUPP): "this kernel runs without policy rules of that address family",
    (Phase.SETTING, errno.ENOENT): "this kernel has no such setting, or /proc is not there",
    (Phase.SETTING, errno.EROFS): "/proc/sys is mounted read-only here; the engine needs to write it",
    (Phase.SETTING, errno.EACCES): "/proc/sys cannot be written here",
    (Phase.SETTING, errno.EINVAL): "a group that the user namespace does not have",
    (Phase.CREATE, errno.EOPNOTSUPP): "this kernel has no driver of that kind; load the module",
    (Phase.CREATE, errno.ENOBUFS): "the kernel is out of memory or of interface numbers",
    (Phase.CREATE, errno.ENOENT): "there is no /dev/net/tun here; load the module tun",
    (Phase.CREATE, errno.ENODEV): "the kernel has no TAP devices; load the module tun",
    (Phase.UP, errno.EADDRINUSE): "another program has the UDP port of the tunnel",
    (Phase.UP, errno.EADDRNOTAVAIL): "the tunnel's local address is not an address of the underlay",
    (Phase.UP, errno.ENODEV): "somebody deleted the interface meanwhile",
}


# fields of an End that are lists, by the phase of their messages
LISTS = {
    Phase.ADDRESS: "addresses",
    Phase.ROUTE: "routes",
    Phase.NEIGHBOUR: "neighbours",
    Phase.RULE: "rules",
}


def field_of(connection: Connection, problem: Problem) -> str:
    """Path of the value that a message was made from, e.g. "a.routes[2]"."""
    end = "ab"[problem.end] if problem.end < 2 else "a"
    if problem.phase == Phase.SETTING:
        return f"{end}.{SETTINGS[problem.place]}"
    field = LISTS.get(problem.phase)
    if field:
        return f"{end}.{field}[{problem.place}]"
    if problem.phase == Phase.CREATE:
        return "vxlan" if isinstance(connection, Vxlan) else ""
    return end


def _value_at(connection: Connection, problem: Problem) -> str:
    if problem.end >= len(connection.ends):
        return ""
    end = connection.ends[problem.end]
    field = LISTS.get(problem.phase)
    listed: tuple[object, ...] = getattr(end, field) if field else ()
    if problem.place < len(listed):
        value = listed[problem.place]
        return str(getattr(value, "text", value))
    return end.ifname


def explain(connection: Connection, problem: Problem) -> FastnlError:
    """The error of a message that failed; name collisions at create need a look first, see birth.py."""
    phase = PHASE_NAMES.get(problem.phase, "")
    field = field_of(connection, problem)
    words = os.strerror(problem.errno) if problem.errno else "the kernel's answer was lost"
    said = f" ({problem.ext_ack})" if problem.ext_ack else ""
    subject = _value_at(connection, problem) if problem.phase != Phase.CREATE else connection.kind
    message = f"{field + ': ' if field else ''}{phase} {subject}: {words}{said}"
    details: dict[str, Any] = {
        "errno": problem.errno,
        "ext_ack": problem.ext_ack,
        "offset": problem.offset,
        "phase": phase,
        "field": field,
    }
    if problem.errno == errno.EPERM:
        return NoPermission(f"{message}; CAP_NET_ADMIN is needed in every namespace concerned", **details)
    if problem.phase == Phase.CREATE and problem.errno == errno.EEXIST and isinstance(connection, Vxlan):
        details["field"] = "vxlan.vni"
        return VniInUse(
            f"vxlan.vni: {connection.vni} on port {connection.port} has a tunnel already in the underlay's "
            f"namespace {connection.underlay!r}",
            **details,
        )
    hint = HINTS.get((problem.phase, problem.errno))
    if (problem.phase, problem.errno) == (Phase.ADDRESS, errno.EACCES):
        owner = "its owner's to switch on" if connection.found else "/proc/sys could not be written to switch it on"
        hint = f"{hint}; {owner}"
    return KernelError(f"{message}; {hint}" if hint else message, **details)


def name_in_use(connection: Connection, end: int, row: LinkRow | None = None) -> NameInUse:
    """An interface that this connection did not make has the name; it is left alone.  `row`: that interface."""
    e = connection.ends[end]
    what = ""
    if row is not None and row.alias.startswith("fastnl/"):
        what = f" (made by fastnl, alias {row.alias!r})"
    elif row is not None:
        what = f" ({row.kind or 'physical or loopback'}); fastnl never touches what it did not make"
    return NameInUse(
        f"{'ab'[end]}.ifname: namespace {e.netns!r} has an interface {e.ifname!r} already{what}",
        errno=errno.EEXIST,
        phase="create",
        field=f"{'ab'[end]}.ifname",
    )
