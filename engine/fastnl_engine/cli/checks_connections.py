"""The doctor's checks of connections that are not up: why, and what to do."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastnl_engine.cli.checks_host import NEEDED, RUN_NETNS, WANTED
from fastnl_engine.cli.machine import Check, Machine
from fastnl_engine.topology import missing_netns

Record = dict[str, Any]

SHOWN = 20  # of those that are not well; the others are counted
ELSEWHERE = ("/run/docker/netns", "/var/run/docker/netns", "/run/containerd/netns")
CAP_DAC_READ_SEARCH = 2


def connections(machine: Machine) -> Iterator[Check]:
    """The worst of them, for a look at everything."""
    if machine.info is None or not machine.records:
        return
    yield from (one(machine, record) for record in machine.records[:SHOWN])
    states = machine.info["connections"]
    rest = states.get("failed", 0) + states.get("pending", 0) - SHOWN
    if rest > 0:
        found = f"{rest} more are not up"
        yield Check("connections", "warn", found, "`fastnl list --state failed` and `--state pending` name them")


def one(machine: Machine, record: Record) -> Check:
    """What is the matter with a connection, from its record as `list` gives it."""
    name = f"connection {record['id']}"
    state = record["state"]
    if state == "up":
        return Check(name, "ok", "up")
    since = f"{state} for {_duration(time.time() - record.get('since', time.time()))}"
    error = record.get("error")
    found = f"{since}: {error['code'] + ': ' + error['message'] if error else record.get('reason', 'no reason told')}"
    if record.get("tries"):
        wait = max(0.0, record["retry_at"] - time.time())
        found += f"; failed {record['tries']} times, tried again in {_duration(wait)}"
    reference = missing_netns(record)
    if error is None or error["code"] in ("netns_not_found", "netns_gone"):
        advice = absent(machine, reference) if reference is not None else "it comes up by itself when that is over"
    else:
        advice = _after(machine, record, error)
    return Check(name, "fail" if state == "failed" else "warn", found, advice)


# -- a namespace that is not there -------------------------------------------------------------------


def absent(machine: Machine, reference: str) -> str:
    """What to do about a namespace that the engine does not find."""
    from fastnl.netns import split

    kind, value = split(reference)
    match kind:
        case "name":
            return _no_name(machine, value)
        case "file":
            return _no_file(machine, value)
        case "pid":
            if machine.path(f"/proc/{value}").exists():
                return (
                    f"process {value} is there now: the engine sees it within a second, if it is in its PID namespace"
                )
            return (
                f"process {value} has ended or is in another PID namespace; disconnect it, or name a process that runs"
            )
        case "inode":
            return (
                f"nothing has the namespace {value} any more (`lsns -t net` lists them); numbers are not lasting names"
            )
    return "it comes up by itself when the namespace is there"


def _no_name(machine: Machine, name: str) -> str:
    names = machine.names(RUN_NETNS)
    if name in names:
        if machine.path(f"{machine.process}/root{RUN_NETNS}").is_dir() and machine.pid:
            theirs = machine.path(f"{machine.process}/root{RUN_NETNS}/{name}")
            if not theirs.exists() or theirs.stat().st_ino != machine.path(f"{RUN_NETNS}/{name}").stat().st_ino:
                return f"{RUN_NETNS}/{name} is here, but the engine lives in another mount namespace: see run_netns"
        return f"{RUN_NETNS}/{name} is a plain file: `ip netns delete {name}`, and make it again"
    for folder in ELSEWHERE:
        if name in machine.names(folder):
            return f"there is {folder}/{name}: say file:{folder}/{name}, or `ln -s` it into {RUN_NETNS}"
    close = difflib.get_close_matches(name, names, n=3)
    like = f"; there is {', '.join(close)}" if close else f"; {len(names)} other names are there"
    return f"looked for {RUN_NETNS}/{name}; `ip netns add {name}` makes it{like}"


def _no_file(machine: Machine, path: str) -> str:
    """The first part of the path that is in the way."""
    for part in [*reversed(Path(path).parents), Path(path)]:
        seen = machine.path(f"{machine.process}/root{part}") if machine.pid else machine.path(str(part))
        try:
            found = seen.stat()
        except PermissionError:
            return f"you may not look at {part}; run the doctor as root"
        except OSError:
            return f"there is no {part} where the engine lives; it waits for it"
        closed = stat.S_ISDIR(found.st_mode) and not found.st_mode & stat.S_IXOTH and found.st_uid != _uid(machine)
        if closed and not machine.capabilities() >> CAP_DAC_READ_SEARCH & 1:
            return f"{part} is closed to others: give the engine CAP_DAC_READ_SEARCH, or `chmod o+x {part}`"
    return f"{path} is there and no namespace: `mount --bind /proc/PID/ns/net {path}` makes it one"


def _uid(machine: Machine) -> int:
    words = machine.status("Uid")
    return int(words[1]) if len(words) > 1 else os.geteuid()


# -- what failed -------------------------------------------------------------------------------------


def _after(machine: Machine, record: Record, error: dict[str, Any]) -> str:
    match error["code"]:
        case "ifname_in_use":
            return _holder(record, error)
        case "vni_in_use":
            return _tunnel(record)
        case "conflict":
            return "disconnect the connection that has it, or connect this one with another name"
        case "no_permission":
            has = machine.capabilities()
            missing = [name for bit, name in (NEEDED | WANTED).items() if not has >> bit & 1]
            lacks = f"the engine lacks {', '.join(missing)}" if missing else "a user namespace is in the way"
            return f"{lacks}: see privileges"
        case "kernel":
            word = errno.errorcode.get(error.get("errno", 0), "")
            return f"{word}: submit it again with what the kernel takes, or disconnect it; `dmesg` may tell more"
        case "internal":
            return "the engine's log tells more; see state_dir if it is the disk"
    return "submit it again with what is wrong put right, or disconnect it"


def _holder(record: Record, error: dict[str, Any]) -> str:
    """Who has the name of an end."""
    end = record.get(error.get("field", "a")[:1]) or record["a"]
    netns, ifname = end["netns"], end["ifname"]
    row = next((r for r in _links(netns) if r.ifname == ifname), None)
    where = f"namespace {netns!r}" if netns else "the engine's namespace"
    remove = f"ip {'-n ' + netns + ' ' if netns and ':' not in netns else ''}link delete {ifname}"
    if row is None:
        return f"look at {ifname} in {where}: remove it (`{remove}`) or choose another name"
    who = f"{row.kind or 'a physical or loopback'} interface, index {row.ifindex}"
    if row.alias:
        who += f", alias {row.alias!r}"
    return f"{ifname} in {where} is a {who}: remove it (`{remove}`) or choose another name"


def _tunnel(record: Record) -> str:
    """Who has the tunnel's number."""
    vxlan = record["vxlan"]
    vni, port = vxlan["vni"], vxlan.get("port", 4789)
    netns = vxlan.get("underlay", "")
    for row in _links(netns):
        if row.vxlan is not None and (row.vxlan["vni"], row.vxlan["port"]) == (vni, port):
            return (
                f"{row.ifname} in {netns or 'the engine'}'s namespace has it, alias {row.alias!r}; choose another vni"
            )
    return (
        f"a tunnel over the namespace {netns!r} has vni {vni} on port {port}, its interface is in another namespace: "
        f"`fastnl list --json` if it is ours, `ip -all netns exec ip -d link show type vxlan` if not"
    )


def _links(netns: str) -> list[Any]:
    """Interfaces of a namespace; [] if it may not be looked into."""
    import fastnl

    with contextlib.suppress(fastnl.FastnlError, OSError):
        return list(fastnl.Host("doctor").links(netns))
    return []


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


CHECKS = (connections,)
