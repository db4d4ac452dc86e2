"""Interfaces that a Ligato agent made: they carry its alias, /vnf-agent/<label>/<name>[/<peer>]."""

from __future__ import annotations

import os
from collections.abc import Iterable

import structlog

import fastnl
from fastnl._nl import Tour
from fastnl.netns import RUN_NETNS, Handles
from fastnl_engine.northbound.ligato import keys

log = structlog.get_logger()


def remove(host: fastnl.Host, references: Iterable[str], label: str) -> int:
    """Removes all of an agent's, from some namespaces, every named one and the engine's own; gives how many.

    Whoever calls this makes anew what is still wanted.  One end of a pair takes the other along, wherever that is.
    """
    mark = keys.prefix(label)
    removed = 0
    for reference in dict.fromkeys(("", *references, *_named())):
        try:
            found = [row for row in host.links(reference) if row.alias.startswith(mark)]
            if not found:
                continue
            with Handles() as handles:
                tour = Tour(len(found))
                visit = tour.visit(handles.open(reference))
                for item, row in enumerate(found):
                    visit.delete(item, row.ifindex)
                host.run(tour)
        except fastnl.FastnlError as e:
            log.warning("not looked into for a Ligato's interfaces", netns=reference, reason=str(e))
            continue
        for row in found:
            log.info("interface of a Ligato removed", netns=reference, interface=row.ifname, alias=row.alias)
        removed += len(found)
    return removed


def _named() -> list[str]:
    try:
        return os.listdir(RUN_NETNS)
    except FileNotFoundError:
        return []
