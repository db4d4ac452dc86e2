"""Tunnels of ours that are not where they were made: moved, or in a namespace that has lost its name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastnl._nl import LinkRow, Tour
from fastnl.errors import FastnlError
from fastnl.links import End, Vxlan
from fastnl.netns import Handles, candidates
from fastnl.sweep import Target, sweep

if TYPE_CHECKING:
    from fastnl.batch import Host

BATCH = 256  # namespaces open at a time


def remove(host: Host, tunnels: Sequence[Vxlan]) -> set[str]:
    """Deletes what carries the mark of a tunnel and its VNI, wherever on this machine it is; gives the ids found.

    Only where it has the same underlay: in another network namespace an engine may go by the same name as ours.
    Looks into every namespace that has a name or a process: some 0.1 ms each.
    """
    wanted = {host.alias(t, 0): t for t in tunnels}
    removed: set[str] = set()
    places = _places()
    for at in range(0, len(places), BATCH):
        with Handles(fenced=False) as handles:
            tour = Tour(1, False)
            visits = []
            for path in places[at : at + BATCH]:
                try:
                    fd = handles.open(f"file:{path}")
                except FastnlError:
                    continue  # it went a moment ago
                visit = tour.visit(fd, asks=True)
                visit.dump_links()
                visits.append((path, fd, visit))
            host.run(tour, 2)
            found = [
                (wanted[row.alias].id, Target((End(f"file:{path}", "x"),), (fd,), (row.ifindex,)))
                for path, fd, visit in visits
                for row in visit.rows()
                if isinstance(row, LinkRow) and row.alias in wanted and _is(handles, row, fd, wanted[row.alias])
            ]
            errors = sweep(host, [target for _, target in found])
            removed |= {id_ for (id_, _), error in zip(found, errors, strict=True) if error is None}
    return removed


def _is(handles: Handles, row: LinkRow, fd: int, tunnel: Vxlan) -> bool:
    """Whether an interface in an open namespace is what keeps a tunnel from having its VNI."""
    if row.vxlan is None or row.vxlan["vni"] != tunnel.vni:
        return False
    from fastnl.readback import Reader  # pyroute2 takes a fifth of a second to load, which a start shall not

    try:
        underlay = handles.open(tunnel.underlay)
        if handles.identity(underlay) == handles.identity(fd):
            return bool(row.link_netnsid < 0)
        with Reader(fd) as reader:
            return reader.number_of(underlay) == row.link_netnsid
    except FastnlError:
        return False  # not to be told, so not to be touched


def _places() -> list[str]:
    """Each network namespace once, by a path to it."""
    by_inode: dict[tuple[int, int], str] = {}
    for path in candidates():
        try:
            status = os.stat(path)
        except OSError:
            continue
        by_inode.setdefault((status.st_dev, status.st_ino), path)
    return list(by_inode.values())
