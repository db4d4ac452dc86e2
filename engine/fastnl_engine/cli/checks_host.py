"""The doctor's checks of everything else: the engine, its privileges and folders, and who else is at work."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from fastnl_engine.cli.machine import Check, Machine, Status, size
from fastnl_engine.listeners import ENOUGH

RUN_NETNS = "/run/netns"
DESCRIPTORS = 640  # two namespaces for each of 256 connections of a batch, threads' sockets, and the engine's own
ROOM = 64 << 20  # bytes of disk
LONGEST_PATH = 107  # bytes, sun_path of include/uapi/linux/un.h
NETWORKED = ("nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs")

OWN_FOLDER = "give the sockets a folder of their own with mode 0750, such as /run/fastnl"

NEEDED = {12: "CAP_NET_ADMIN", 21: "CAP_SYS_ADMIN"}
WANTED = {19: "CAP_SYS_PTRACE"}

MATCH = "[Match] Driver=veth vxlan"
# program, as the kernel cuts its name: (what it does to a new interface, the file that prevents it, what to put there)
MANAGERS = {
    "systemd-udevd": (
        "may rename it and change its MAC",
        "/etc/systemd/network/10-fastnl.link",
        f"{MATCH}, [Link] NamePolicy=keep and MACAddressPolicy=none",
    ),
    "systemd-network": (
        "may configure it",
        "/etc/systemd/network/10-fastnl.network",
        f"{MATCH}, [Link] Unmanaged=yes",
    ),
    "NetworkManager": (
        "may configure it",
        "/etc/NetworkManager/conf.d/10-fastnl.conf",
        "[keyfile] unmanaged-devices=driver:veth;driver:vxlan",
    ),
}


def engine(machine: Machine) -> Iterator[Check]:
    if machine.info is not None:
        from fastnl import __version__

        info = machine.info
        connections = sum(info["connections"].values())
        pid = f", pid {machine.pid}" if machine.pid else ""
        found = f"version {info['version']}{pid}, {connections} connections, up {info['uptime']:.0f} s"
        if info["version"] != __version__:
            yield Check("engine", "warn", found, f"this is the command line of {__version__}; restart the engine")
        else:
            yield Check("engine", "ok", found)
    elif machine.pid:
        yield Check(
            "engine", "fail", machine.problem, f"process {machine.pid} listens but does not answer; look at its log"
        )
    else:
        yield Check("engine", "warn", machine.problem, "start it with `fastnl-engine` as root, or give --endpoint")


def privileges(machine: Machine) -> Iterator[Check]:
    words = machine.status("Uid")
    uid = int(words[1]) if len(words) > 1 else os.geteuid()
    has = machine.capabilities()
    missing = [name for bit, name in NEEDED.items() if not has >> bit & 1]
    lacking = [name for bit, name in WANTED.items() if not has >> bit & 1]
    found = (
        f"user {uid}, {', '.join(missing + lacking) + ' missing' if missing + lacking else 'all capabilities needed'}"
    )
    found += f" ({machine.whose})"
    if missing:
        yield Check(
            "privileges",
            "fail",
            found,
            f"run the engine as root, or give its unit AmbientCapabilities={' '.join(missing)}",
        )
    elif lacking:
        advice = "give it to the engine, or namespaces of other users' processes (pid:, inode:) cannot be named"
        yield Check("privileges", "warn", found, advice)
    else:
        yield Check("privileges", "ok", found)
    if machine.in_user_namespace:
        yield Check(
            "user_namespace",
            "warn",
            f"capabilities count in a user namespace only ({machine.whose})",
            "namespaces that belong to the host cannot be wired from here; run the engine outside",
        )
    else:
        yield Check("user_namespace", "ok", "the host's")


def descriptors(machine: Machine) -> Iterator[Check]:
    most = machine.limit("Max open files")
    if most is None:
        yield Check("open_files", "warn", "the limit of open files is not told", f"it should be {ENOUGH} or more")
        return
    found = f"{'any number' if most == float('inf') else int(most)} ({machine.whose})"
    advice = "`ulimit -n 65536` before the start, or LimitNOFILE=65536 in the unit"
    if most < DESCRIPTORS:
        yield Check("open_files", "fail", f"{found}: a batch needs up to {DESCRIPTORS}", advice)
    elif most < ENOUGH:
        few = f"{found}: enough for a batch, but many clients at a time could take all of them and end the engine"
        yield Check("open_files", "warn", few, advice)
    else:
        yield Check("open_files", "ok", found)


def run_netns(machine: Machine) -> Iterator[Check]:
    names = machine.names(RUN_NETNS)
    mount = machine.mount_of(RUN_NETNS)
    if not machine.path(RUN_NETNS).is_dir():
        yield Check("run_netns", "ok", f"{RUN_NETNS} is not there yet; the first `ip netns add` makes it")
    elif (stale := _stale(machine, names)) != []:
        shown = ", ".join(stale[:10]) + (f" and {len(stale) - 10} more" if len(stale) > 10 else "")
        yield Check(
            "run_netns",
            "warn",
            f"no namespaces but plain files: {shown}",
            "their maker died, or its mount did not propagate here: `ip netns delete NAME`, then make them again",
        )
    elif (unseen := _unseen_by_engine(machine, names)) != []:
        yield Check(
            "run_netns",
            "fail",
            f"the engine does not see {', '.join(unseen[:10])}: it lives in another mount namespace",
            f"give it {RUN_NETNS} with mount propagation (container: rslave or rshared; unit: no MountFlags=private)",
        )
    elif mount is not None and not mount.shared:
        yield Check(
            "run_netns",
            "warn" if not machine.pid else "ok",
            f"{len(names)} named; mounts on {mount.point} do not propagate",
            "an engine in another mount namespace will not see what is made here: "
            + ("" if mount.point == RUN_NETNS else f"`mount --bind {RUN_NETNS} {RUN_NETNS}` and ")
            + f"`mount --make-shared {RUN_NETNS}`",
        )
    else:
        yield Check("run_netns", "ok", f"{len(names)} named, mounts propagate")


def _stale(machine: Machine, names: list[str]) -> list[str]:
    """Names whose file is no namespace.  Nothing is opened: that would hold a namespace for a moment."""
    try:
        nsfs = machine.path("/proc/self/ns/net").stat().st_dev
    except OSError:
        return []
    return [name for name in names if _file(machine.path(f"{RUN_NETNS}/{name}"))[0] not in (nsfs, -1)]


def _unseen_by_engine(machine: Machine, names: list[str]) -> list[str]:
    if not machine.pid:
        return []
    theirs = machine.path(f"{machine.process}/root{RUN_NETNS}")
    if not os.access(theirs.parent, os.X_OK):
        return []
    return [name for name in names if _file(theirs / name) != _file(machine.path(f"{RUN_NETNS}/{name}"))]


def _file(path: Path) -> tuple[int, int]:
    """(device, inode); (-1, -1) for one that is not there."""
    try:
        found = path.stat()
    except OSError:
        return -1, -1
    return found.st_dev, found.st_ino


def state_folder(machine: Machine) -> Iterator[Check]:
    name = "state_dir"
    path = machine.path(machine.config.state_dir)
    if not os.path.lexists(path):
        yield Check(name, "ok", f"{path} is not there yet; the engine makes it")
        return
    try:
        mode = path.stat()
    except OSError as e:
        yield Check(name, "fail", f"{path}: {e.strerror}", "run the doctor as root")
        return
    mount = machine.mount_of(machine.config.state_dir)
    if not stat.S_ISDIR(mode.st_mode):
        yield Check(name, "fail", f"{path} is no folder", "move it away, or give --state-dir")
    elif not machine.pid and not os.access(path, os.W_OK | os.X_OK):
        yield Check(name, "fail", f"{path} may not be written by you", "run the engine as root, or give --state-dir")
    elif mode.st_mode & 0o077:
        found = f"{path} has mode {stat.S_IMODE(mode.st_mode):04o}: others may look in or write"
        yield Check(name, "warn", found, f"chmod 0700 {path}")
    elif mount is not None and mount.kind in NETWORKED:
        found = f"{path} is on {mount.kind}, where SQLite's log in shared memory is not safe"
        yield Check(name, "fail", found, "give --state-dir on a local disk")
    elif (free := _free(path)) < ROOM:
        yield Check(name, "fail" if free < 1 << 20 else "warn", f"{path} has {size(free)} left", "make room there")
    else:
        yield Check(name, "ok", f"{path}, {size(free)} free")


def _free(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def endpoint(machine: Machine) -> Iterator[Check]:
    for name, where in (("endpoint", machine.config.endpoint), ("events", machine.config.events)):
        if not where.startswith("ipc://"):
            yield Check(
                name,
                "warn",
                f"{where}: whoever reaches it may connect",
                "use an ipc:// endpoint, whose peers the kernel vouches for",
            )
            continue
        path = where.removeprefix("ipc://")
        if path.startswith("@"):
            found = f"{where} is in the abstract namespace, which has no permissions"
            yield Check(name, "warn", found, "use a path")
        elif len(os.fsencode(path)) > LONGEST_PATH:
            yield Check(name, "fail", f"{path} is longer than {LONGEST_PATH} bytes", "use a shorter path")
        else:
            yield _socket_folder(name, machine.path(path))


def _socket_folder(name: str, path: Path) -> Check:
    folder = path.parent
    try:
        mode = folder.stat().st_mode
    except FileNotFoundError:
        return Check(name, "ok", f"{folder} is not there yet; the engine makes it")
    except OSError as e:
        return Check(name, "warn", f"{folder}: {e.strerror}", "be root, or in the group that the folder belongs to")
    found = f"{folder} has mode {stat.S_IMODE(mode):04o}"
    if not stat.S_ISDIR(mode):
        return Check(name, "fail", f"{folder} is no folder", "give another endpoint")
    if mode & stat.S_IWOTH:
        # with the sticky bit nobody can take a socket away, but still be there first
        status: Status = "warn" if mode & stat.S_ISVTX else "fail"
        return Check(name, status, f"{found}: anybody may put a socket of his own there", OWN_FOLDER)
    if mode & stat.S_IXOTH and _open_to_all(path):
        return Check(name, "warn", f"{found}: every user may connect", OWN_FOLDER)
    return Check(name, "ok", found)


def _open_to_all(path: Path) -> bool:
    """Whether others may connect; of a socket that is not there yet we cannot know."""
    try:
        return bool(path.stat().st_mode & stat.S_IWOTH)
    except OSError:
        return False


def managers(machine: Machine) -> Iterator[Check]:
    """Programs that react to every new interface of the host's namespace; in other namespaces they see nothing."""
    running = machine.programs()
    seen = False
    for program, (does, file, content) in MANAGERS.items():
        if program not in running:
            continue
        seen = True
        name = "systemd-networkd" if program == "systemd-network" else program
        if machine.path(file).exists():
            yield Check(name, "ok", f"running, told about fastnl by {file}")
        else:
            found = f"running: for a new interface in the host's namespace it {does}"
            yield Check(name, "warn", found, f"if ends shall live there, put into {file}: {content}")
    if not seen:
        yield Check("managers", "ok", "no program that reacts to new interfaces is running")


CHECKS = (engine, privileges, descriptors, run_netns, state_folder, endpoint, managers)
