"""From what the kernel holds to what the records say, at a start.

Each namespace is read once.  What matches is adopted untouched; what does not is taken away and made
again; what an engine of this instance left half-made, and what carries its mark without a record, is removed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import fastnl
from fastnl import Host
from fastnl._nl import AddrRow, LinkRow, Tour
from fastnl.batch import FIRST_INDEX
from fastnl.netns import RUN_NETNS, Handles, Identity
from fastnl.sweep import Target, sweep
from fastnl_engine.model import Record, decode_connection, values_of
from fastnl_engine.store.base import Intent

BATCH = 512  # namespaces read at a time: bounds the open descriptors


@dataclass(slots=True)
class Seen:
    """What one namespace holds of ours."""

    identity: Identity
    links: dict[int, LinkRow]
    addresses: dict[int, set[str]]


@dataclass(slots=True)
class Findings:
    """adopted stay as they are; lost have to be made again; gone: indexes swept as nobody's, by namespace."""

    adopted: list[Record] = field(default_factory=list)
    lost: list[tuple[Record, str]] = field(default_factory=list)
    orphans: int = 0


def resume(host: Host, records: Sequence[Record], intents: Sequence[Intent], *, recreate: bool = False) -> Findings:
    """Compares, adopts and cleans up; the lost records are the caller's to submit again.

    recreate: take nothing over, whether it matches or not.
    """
    unfinished = {i.id for i in intents}
    seen = look(host, _references(records, intents))
    findings = Findings()
    # by namespace and not by reference: two references may name one namespace
    keep: set[tuple[Identity, int]] = set()
    for record in records:
        if record.state != "up":
            continue
        if recreate:
            reason = "everything is made anew at this start"
        elif record.id in unfinished:
            reason = "its last change was not finished"
        else:
            reason = mismatch(host, record, seen)
        if reason:
            findings.lost.append((record, reason))
            continue
        findings.adopted.append(record)
        wired = record.wired()
        host.count(wired, 1)
        keep |= {(place.netns, place.ifindex) for place in wired.places}
    findings.orphans = _sweep_orphans(host, seen, keep)
    return findings


def _references(records: Iterable[Record], intents: Iterable[Intent]) -> set[str]:
    """Every namespace that we may have left something in."""
    references = {""}
    if Path(RUN_NETNS).is_dir():
        references |= set(os.listdir(RUN_NETNS))
    for record in records:
        references |= {end.netns for end in values_of(record.connection).ends}
    for intent in intents:
        if intent.spec:
            references |= {end.netns for end in values_of(decode_connection(intent.spec)).ends}
    return references


def look(host: Host, references: Iterable[str]) -> dict[str, Seen]:
    """Reads links and addresses of namespaces; those that are not there are left out.

    Raises FastnlError when one that is there cannot be read: taken for empty, it would have everything in it
    made again.
    """
    out: dict[str, Seen] = {}
    todo = sorted(references)
    for at in range(0, len(todo), BATCH):
        with Handles() as handles:
            tour = Tour(1, False)
            visits = []
            for reference in todo[at : at + BATCH]:
                try:
                    fd = handles.open(reference)
                except fastnl.NetnsNotFound:
                    continue
                visit = tour.visit(fd, asks=True)
                visit.dump_links()
                visit.dump_addresses()
                visits.append((reference, handles.identity(fd), visit))
            host.run(tour, 2)
            for reference, identity, visit in visits:
                failed = [err for _, _, err in visit.states() if err]
                if failed:
                    raise fastnl.KernelError(
                        f"namespace {reference!r} cannot be read: {os.strerror(failed[0])}", errno=failed[0]
                    )
                out[reference] = _sort(host, identity, visit.rows())
    return out


def _sort(host: Host, identity: Identity, rows: list[LinkRow | AddrRow]) -> Seen:
    """Keeps what carries our mark or, made and not marked yet, our group and an index as only we choose them."""
    mark = f"fastnl/{host.instance}/"
    links = {
        r.ifindex: r
        for r in rows
        if isinstance(r, LinkRow)
        and (r.alias.startswith(mark) or (r.group == host.group and not r.alias and r.ifindex >= FIRST_INDEX))
    }
    addresses: dict[int, set[str]] = {}
    for r in rows:
        if isinstance(r, AddrRow) and r.ifindex in links:
            addresses.setdefault(r.ifindex, set()).add(r.address)
    return Seen(identity, links, addresses)


def mismatch(host: Host, record: Record, seen: dict[str, Seen]) -> str:
    """Why a record that should be up is not as it should be; "" if it is."""
    wired = record.wired()
    for n, (end, place) in enumerate(zip(wired.connection.ends, wired.places, strict=True)):
        where = f"{'ab'[n]}: "
        there = seen.get(end.netns)
        if there is None:
            return f"{where}namespace {end.netns!r} is gone"
        if there.identity != place.netns:
            return f"{where}{end.netns!r} is another namespace than before"
        link = there.links.get(place.ifindex)
        if link is None:
            return f"{where}interface {end.ifname!r} is gone"
        if link.ifname != end.ifname:
            return f"{where}{end.ifname!r} was renamed to {link.ifname!r}"
        if not link.up:
            return f"{where}interface {end.ifname!r} is down"
        mtu = end.mtu or wired.connection.mtu
        if mtu and link.mtu != mtu:
            return f"{where}MTU is {link.mtu}, not {mtu}"
        missing = {a.text for a in end.addresses} - there.addresses.get(place.ifindex, set())
        if missing:
            return f"{where}address {sorted(missing)[0]} is missing"
    return ""


def _sweep_orphans(host: Host, seen: dict[str, Seen], keep: set[tuple[Identity, int]]) -> int:
    """Deletes what is ours and belongs to no record that is up; how many interfaces."""
    count = 0
    with Handles() as handles:
        targets = []
        for reference, there in seen.items():
            for index in there.links:
                # what this very process made since it began is no orphan
                if (there.identity, index) in keep or host.has_given(index):
                    continue
                try:
                    fd = handles.open(reference)
                except fastnl.FastnlError:
                    continue
                targets.append(Target((fastnl.End(reference, "x"),), (fd,), (index,)))
        for error in sweep(host, targets):
            count += error is None
    return count
