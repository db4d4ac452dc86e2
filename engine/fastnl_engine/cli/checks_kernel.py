"""The doctor's checks of the kernel: its version, drivers, features and settings."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Iterator

from fastnl_engine.cli.machine import Check, Machine, size

OLDEST = (5, 10)
THRESHOLD = 4096  # neighbours; the kernel's default of 1024 is shared by all namespaces
DATAGRAM = 65536 + 32  # bytes of one datagram to the kernel, and what the kernel keeps of its buffer
ANSWERS = 4 << 20  # bytes that the library asks for to receive answers
NAMESPACES = 4096


def kernel(machine: Machine) -> Iterator[Check]:
    release = machine.text("/proc/sys/kernel/osrelease")
    found = re.match(r"(\d+)\.(\d+)", release)
    if not found:
        yield Check("kernel", "warn", f"version {release!r}", "fastnl needs Linux 5.10 or later")
    elif (int(found[1]), int(found[2])) < OLDEST:
        yield Check("kernel", "fail", release, "fastnl needs Linux 5.10 or later")
    else:
        yield Check("kernel", "ok", release)


def features(machine: Machine) -> Iterator[Check]:
    """What the kernel can do: as the engine found out, or tried here and now in namespaces of its own."""
    if machine.info is not None:
        has = machine.info["features"]
    else:
        from fastnl.features import probe

        try:
            has = probe().as_dict()
        except OSError as e:
            yield Check(
                "features",
                "fail",
                f"cannot be tried out: {e.strerror or e}",
                "run the doctor as root, or start an engine",
            )
            return
    yield _driver("veth", has["veth"], "fail", "no pair can be made")
    yield _driver("vxlan", has["vxlan"], "warn", "no VXLAN connection can be made")
    yield Check("dummy", "ok", "there" if has["dummy"] else "no driver; only tests would use it")
    if has["ipv6"]:
        yield Check("ipv6", "ok", "on")
    else:
        yield Check(
            "ipv6",
            "warn",
            "off: IPv6 addresses are refused",
            "start the kernel without ipv6.disable=1, or load module ipv6",
        )
    yield _feature(
        "stable_id", has, "namespaces are told apart by their inode numbers, which are given again", "Linux 6.18"
    )
    if has["writable_sysctl"]:
        yield Check("writable_sysctl", "ok", "IPv6 can be switched off per interface")
    else:
        yield Check(
            "writable_sysctl",
            "warn",
            "/proc/sys/net is read-only: many interfaces in one namespace cost more and more",
            "mount /proc/sys read-write where the engine runs (a container: privileged, or its own procfs)",
        )
    # the library has another way for each of these
    for name, without in (
        ("live_rename", "a connection whose interface gets another name is made anew; from Linux 6.2 on it is renamed"),
        ("pidfd_netns", "a process's namespace is found by way of /proc; from Linux 6.11 on directly"),
        (
            "born_by_target_name",
            "a VXLAN interface cannot have the name of one in its tunnel's namespace; from Linux 6.15 on it can",
        ),
    ):
        yield Check(name, "ok", "there" if has[name] else f"not there: {without}")


def _driver(name: str, there: bool, status: str, without: str) -> Check:
    if there:
        return Check(name, "ok", "there")
    advice = f"`modprobe {name}`; if there is no such module, the kernel was built without CONFIG_{name.upper()}"
    return Check(name, "fail" if status == "fail" else "warn", f"no driver: {without}", advice)


def _feature(name: str, has: dict[str, bool], without: str, since: str) -> Check:
    if has[name]:
        return Check(name, "ok", "there")
    return Check(name, "warn", f"not there: {without}", f"{since} or later has it")


def rcu(machine: Machine) -> Iterator[Check]:
    """Deletes and moves wait for grace periods: whatever makes those long makes them slow."""
    if machine.number("/sys/kernel/rcu_normal") == 1:
        yield Check(
            "rcu",
            "warn",
            "/sys/kernel/rcu_normal is 1: every delete and move waits for long grace periods",
            "echo 0 > /sys/kernel/rcu_normal, and start the kernel without rcupdate.rcu_normal=1",
        )
    elif machine.number("/sys/kernel/realtime") == 1:
        yield Check(
            "rcu",
            "warn",
            "a PREEMPT_RT kernel, whose grace periods are long: deletes and moves are slow",
            "take a kernel without PREEMPT_RT if that matters",
        )
    else:
        yield Check("rcu", "ok", "expedited grace periods are allowed")


def tick(machine: Machine) -> Iterator[Check]:
    """The end of a delete or move waits for ticks of the clock."""
    rate = _build_option(machine, "HZ")
    if not rate:
        yield Check("tick", "ok", "CONFIG_HZ is not told by this kernel")
    elif int(rate) <= 100:
        yield Check(
            "tick",
            "warn",
            f"CONFIG_HZ={rate}: moves, and deletes one by one, take longer than with 250 or 1000",
            "take a kernel with a higher CONFIG_HZ if that matters, and disconnect many at once",
        )
    else:
        yield Check("tick", "ok", f"CONFIG_HZ={rate}")


def _build_option(machine: Machine, name: str) -> str:
    """A number that the kernel was built with, "" if nobody tells."""
    try:
        text = gzip.decompress(machine.path("/proc/config.gz").read_bytes()).decode(errors="replace")
    except (OSError, EOFError):
        text = machine.text(f"/boot/config-{machine.text('/proc/sys/kernel/osrelease')}")
    found = re.search(rf"^CONFIG_{name}=(\d+)$", text, re.MULTILINE)
    return found[1] if found else ""


def neighbours(machine: Machine) -> Iterator[Check]:
    """One table for all namespaces: in a full one nobody finds a new peer."""
    for family in ("ipv4", "ipv6"):
        setting = f"net.{family}.neigh.default.gc_thresh3"
        name = f"neighbours_{family}"
        most = machine.number("/proc/sys/" + setting.replace(".", "/"))
        if most is None:
            yield Check(name, "ok", f"{setting} is not visible here; the host's first network namespace has it")
        elif most < THRESHOLD:
            yield Check(
                name,
                "warn",
                f"{setting} is {most} for all namespaces together: of more peers at a time, new ones are not reached",
                f"sysctl -w {setting}={16 * THRESHOLD}, or more than all ends that talk at one time",
            )
        else:
            yield Check(name, "ok", f"{setting} is {most}")


def buffers(machine: Machine) -> Iterator[Check]:
    """Of the sockets to the kernel."""
    send = machine.number("/proc/sys/net/core/wmem_default")
    receive = machine.number("/proc/sys/net/core/rmem_max")
    if send is None or receive is None:
        yield Check("socket_buffers", "ok", "net.core.*mem_* are not visible in this namespace")
        return
    found = f"net.core.wmem_default is {size(send)}, net.core.rmem_max {size(receive)}"
    if send < DATAGRAM:
        advice = "sysctl -w net.core.wmem_default=212992: batches go to the kernel in smaller pieces now"
        yield Check("socket_buffers", "warn", found, advice)
    elif receive < ANSWERS and machine.in_user_namespace:
        # with CAP_NET_ADMIN of the host the library passes over this limit
        advice = (
            f"sysctl -w net.core.rmem_max={ANSWERS} on the host, or answers of large batches are lost and asked again"
        )
        yield Check("socket_buffers", "warn", found, advice)
    else:
        yield Check("socket_buffers", "ok", found)


def namespaces(machine: Machine) -> Iterator[Check]:
    """How many there may be."""
    most = machine.number("/proc/sys/user/max_net_namespaces")
    named = len(machine.names("/run/netns"))
    if most is None:
        yield Check("namespaces", "ok", f"{named} named; user.max_net_namespaces is not told")
        return
    found = f"user.max_net_namespaces is {most}, {named} are named"
    advice = "sysctl -w user.max_net_namespaces=100000"
    if most == 0:
        yield Check("namespaces", "fail", found, advice)
    elif most < NAMESPACES or named > most * 0.8:
        yield Check("namespaces", "warn", found, advice)
    else:
        yield Check("namespaces", "ok", found)


def threads(machine: Machine) -> Iterator[Check]:
    """Deletes in many namespaces run on up to 256 threads at a time; fewer do the same work."""
    room: dict[str, float] = {}
    running = machine.text("/proc/loadavg").partition("/")[2].split()
    if running and running[0].isdigit():
        for name in ("threads-max", "pid_max"):
            most = machine.number(f"/proc/sys/kernel/{name}")
            if most is not None:
                room[f"kernel.{name}"] = most - int(running[0])
    # RLIMIT_NPROC does not bind root
    processes = machine.limit("Max processes")
    if processes is not None and os.geteuid() != 0 and not machine.pid:
        room["RLIMIT_NPROC"] = processes
    if (group := _pids_left(machine)) is not None:
        room["pids.max of the control group"] = group
    if not room:
        yield Check("threads", "ok", "no limit is told")
        return
    tightest = min(room, key=lambda name: room[name])
    left = room[tightest]
    found = f"{tightest} leaves room for {int(left) if left != float('inf') else 'any number'} ({machine.whose})"
    if left < 48:
        yield Check("threads", "fail", found, "raise it (systemd: TasksMax=, containers: --pids-limit); 48 are needed")
    elif left < 288:
        yield Check("threads", "warn", found, "raise it (systemd: TasksMax=, containers: --pids-limit)")
    else:
        yield Check("threads", "ok", found)


def _pids_left(machine: Machine) -> int | None:
    """What the control group of the process may still start; None without a limit."""
    for line in machine.text(f"{machine.process}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "pids"):
            continue
        folder = f"/sys/fs/cgroup/{controllers}/{path}"
        most, now = machine.number(f"{folder}/pids.max"), machine.number(f"{folder}/pids.current")
        if most is not None and now is not None:
            return most - now
    return None


CHECKS = (kernel, features, rcu, tick, neighbours, buffers, namespaces, threads)
