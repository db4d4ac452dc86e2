"""What the kernel holds of ours, and how that differs from what the records say."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path

import fastnl
from fastnl import Host, Wired, found, rules
from fastnl._nl import AddrRow, LinkRow, Tour
from fastnl.batch import FIRST_INDEX
from fastnl.links import FOUND
from fastnl.netns import RUN_NETNS, Handles, Identity, canonical
from fastnl.sweep import Target, sweep
from fastnl_engine.model import Record, connection_of, values_of
from fastnl_engine.store.base import Intent
from fastnl_engine.upkeep import ends_of, ends_of_spec

BATCH = 512  # namespaces read at a time: bounds the open descriptors
RULES = b"\xa5rules"  # the key in a spec, so that those without are not decoded


@dataclass(slots=True)
class Seen:
    """What one namespace holds of ours."""

    identity: Identity
    links: dict[int, LinkRow]
    addresses: dict[int, set[str]]


def references(records: Iterable[Record], intents: Iterable[Intent]) -> dict[str, None]:
    """Every namespace that we may have left something in; those that are close in the records are close here."""
    out: dict[str, None] = {}
    for intent in intents:
        if intent.spec:
            out |= dict.fromkeys(ends_of_spec(intent.spec))
    for record in records:
        out |= dict.fromkeys(ends_of(record))
    out[""] = None
    if Path(RUN_NETNS).is_dir():
        out |= dict.fromkeys(sorted(os.listdir(RUN_NETNS)))
    return out


def half_made(specs: Iterable[bytes]) -> frozenset[tuple[str, str]]:
    """Where a TAP may be that was made and not marked yet: it is born without a group."""
    return frozenset(
        (canonical(connection.a.netns), connection.a.ifname)
        for connection in map(connection_of, filter(None, specs))
        if connection.kind == "tap"
    )


def give_back(host: Host, specs: Iterable[bytes]) -> None:
    """Takes away what interfaces of somebody else may have been given; no mark tells of that."""
    connections = (connection_of(spec) for spec in specs if spec)
    kept = [values_of(c) for c in connections if c.kind in FOUND]
    for at in range(0, len(kept), BATCH):
        with Handles(fenced=False) as handles:
            found.give_back(host, handles, kept[at : at + BATCH])


def take_rules_back(host: Host, specs: Iterable[bytes], kept: Iterable[bytes] = ()) -> list[fastnl.FastnlError]:
    """Takes down the policy rules of connections; what failed.  Nothing in a rule tells which connection's it is.

    kept   connections that have theirs, and keep them
    """
    going, staying = _with_rules(specs), _with_rules(kept)
    stay = {(end.netns, rule) for c in staying for end in c.ends for rule in end.rules} if going else set()
    errors: list[fastnl.FastnlError] = []
    for at in range(0, len(going), BATCH):
        with Handles(fenced=False) as handles:
            errors += rules.give_back(host, handles, going[at : at + BATCH], stay)
    return errors


def _with_rules(specs: Iterable[bytes]) -> list[fastnl.Connection]:
    return [values_of(connection_of(spec)) for spec in specs if RULES in spec]


def look(
    host: Host, wanted: Iterable[str], unmarked: Container[tuple[str, str]] = ()
) -> tuple[dict[str, Seen], dict[str, fastnl.FastnlError]]:
    """Reads links and addresses of namespaces; `unmarked` as `half_made` gives it.

    Those that are not there are in neither part of what comes back; those that are there and cannot be read are
    in the second: taken for empty, they would have everything in them made again.
    """
    seen: dict[str, Seen] = {}
    unread: dict[str, fastnl.FastnlError] = {}
    todo = list(wanted)
    for at in range(0, len(todo), BATCH):
        # what a fence keeps out by now may hold something of ours
        with Handles(fenced=False) as handles:
            tour = Tour(1, False)
            visits = []
            for reference in todo[at : at + BATCH]:
                try:
                    fd = handles.open(reference)
                except fastnl.NetnsNotFound:
                    continue
                except fastnl.FastnlError as e:
                    unread[reference] = e
                    continue
                visit = tour.visit(fd, asks=True)
                visit.dump_links()
                visit.dump_addresses()
                visits.append((reference, handles.identity(fd), visit))
            host.run(tour, 2)
            for reference, identity, visit in visits:
                failed = [err for _, _, err in visit.states() if err]
                if failed:
                    unread[reference] = fastnl.KernelError(
                        f"namespace {reference!r} cannot be read: {os.strerror(failed[0])}", errno=failed[0]
                    )
                else:
                    seen[reference] = _sort(host, identity, visit.rows(), reference, unmarked)
    return seen, unread


def _sort(
    host: Host,
    identity: Identity,
    rows: list[LinkRow | AddrRow],
    reference: str,
    unmarked: Container[tuple[str, str]],
) -> Seen:
    """Keeps what carries our mark or, made and not marked yet, our group and an index as only we choose them."""
    mark = f"fastnl/{host.instance}/"

    def is_ours(r: LinkRow) -> bool:
        if r.alias or r.ifindex < FIRST_INDEX:
            return r.alias.startswith(mark)
        return r.group == host.group or (r.kind == "tun" and not r.group and (reference, r.ifname) in unmarked)

    links = {r.ifindex: r for r in rows if isinstance(r, LinkRow) and is_ours(r)}
    addresses: dict[int, set[str]] = {}
    for r in rows:
        if isinstance(r, AddrRow) and r.ifindex in links:
            addresses.setdefault(r.ifindex, set()).add(r.address)
    return Seen(identity, links, addresses)


def mismatch(wired: Wired, n: int, there: Seen) -> str:
    """How an end that should be up differs from what its namespace holds; "" if it does not."""
    if wired.connection.found:
        return ""  # it carries no mark to be found by; the audit sees whether it is as it should be
    end, place = wired.connection.ends[n], wired.places[n]
    where = f"{'ab'[n]}: "
    link = there.links.get(place.ifindex)
    if link is None:
        return f"{where}interface {end.ifname!r} is gone"
    if link.ifname != end.ifname:
        return f"{where}{end.ifname!r} was renamed to {link.ifname!r}"
    if end.up and not link.up:
        return f"{where}interface {end.ifname!r} is down"
    mtu = end.mtu or wired.connection.mtu
    if mtu and link.mtu != mtu:
        return f"{where}MTU is {link.mtu}, not {mtu}"
    missing = {a.text for a in end.addresses} - there.addresses.get(place.ifindex, set())
    if missing:
        return f"{where}address {sorted(missing)[0]} is missing"
    return ""


def sweep_orphans(
    host: Host, seen: dict[str, Seen], keep: set[tuple[Identity, int]]
) -> list[fastnl.FastnlError | None]:
    """Deletes what is ours and not to be kept; for each such connection the error, or None.

    keep: by namespace and not by reference, as two references may name one namespace.
    """
    with Handles(fenced=False) as handles:
        targets = []
        done: set[Identity] = set()
        for reference, there in seen.items():
            if there.identity in done:
                continue
            done.add(there.identity)
            # what this very process made since it began is no orphan
            orphans = [i for i in there.links if (there.identity, i) not in keep and not host.has_given(i)]
            if not orphans:
                continue
            try:
                fd = handles.open(reference)
            except fastnl.FastnlError:
                continue
            if handles.identity(fd) == there.identity:
                targets += [Target((fastnl.End(reference, "x"),), (fd,), (index,)) for index in orphans]
        return sweep(host, targets)
