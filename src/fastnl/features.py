"""What the running kernel can do, found out by trying and not by its version number."""

from __future__ import annotations

import errno
import functools
import os
from dataclasses import dataclass, fields

from fastnl._nl import Tour, netns_identity, new_netns


@dataclass(frozen=True, slots=True)
class Features:
    """Probed once per process.

    veth, vxlan, dummy     the kernel has (or loaded) the driver
    ipv6                   interfaces get an IPv6 side
    born_by_target_name    a new interface's name is looked up where it will live, not where the message
                           comes from (6.15)
    live_rename            an interface that is up can be renamed (6.2)
    stable_id              namespaces have an id that is never reused (ioctl NS_GET_ID, 6.18)
    cookie                 SO_NETNS_COOKIE (5.14)
    pidfd_netns            a pidfd gives the namespace without a detour over /proc (6.11)
    writable_sysctl        /proc/sys/net can be written: IPv6 is switched off per interface in crowds
    """

    veth: bool
    vxlan: bool
    dummy: bool
    ipv6: bool
    born_by_target_name: bool
    live_rename: bool
    stable_id: bool
    cookie: bool
    pidfd_netns: bool
    writable_sysctl: bool

    def as_dict(self) -> dict[str, bool]:
        return {f.name: getattr(self, f.name) for f in fields(self)}


@functools.cache
def probe() -> Features:
    """Tries everything out in two namespaces of its own that vanish with the call.

    Raises OSError when no namespace can be made (EPERM: CAP_SYS_ADMIN is missing).
    """
    from fastnl.links import End, Veth, Vxlan

    here, there = new_netns(), new_netns()
    try:
        tour = Tour(8, False)
        visit = tour.visit(here)
        pair = Veth(End("", "fnlprobe0"), End("", "fnlprobe1"))
        visit.veth(0, pair, here, 1001, here, 1002)
        # the name is taken where the message comes from, and free where the interface will live
        visit.veth(1, Veth(End("", "fnlprobe0"), End("", "fnlprobe2")), there, 0, there, 0)
        visit.vxlan(2, Vxlan(a=End("", "fnlprobe3"), vni=1), here, 1005)
        visit.device(3, "dummy", "fnlprobe4", index=1006)
        visit.change(4, 1001, up=True)
        visit.change(5, 1001, name="fnlprobe5")
        tour.run()
        failed = {p.item: p.errno for p in tour.problems()}
        if failed.get(0) == errno.EPERM:
            raise PermissionError(errno.EPERM, "CAP_NET_ADMIN is missing in a namespace of our own")
        look = Tour(1)
        asked = look.visit(here, asks=True)
        asked.dump_links()
        writes = Tour(1, False)
        written = writes.visit(here)
        written.allow_ipv6(0, 0, "fnlprobe1")
        written.bring_up(0, 0, 1002, "")
        writes.run()
        look.run()
        return Features(
            veth=0 not in failed,
            vxlan=2 not in failed,
            dummy=3 not in failed,
            ipv6=any(row.addr_gen_mode >= 0 for row in asked.rows()),
            born_by_target_name=1 not in failed,
            live_rename=5 not in failed,
            stable_id=netns_identity(here)[1] != 0,
            cookie=asked.cookie != 0,
            pidfd_netns=_pidfd_netns(),
            writable_sysctl=written.file_errors == 0,
        )
    finally:
        os.close(here)
        os.close(there)


def _pidfd_netns() -> bool:
    import fcntl

    from fastnl.netns import PIDFD_GET_NET_NAMESPACE

    pidfd = os.pidfd_open(os.getpid())
    try:
        os.close(fcntl.ioctl(pidfd, PIDFD_GET_NET_NAMESPACE))
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True
