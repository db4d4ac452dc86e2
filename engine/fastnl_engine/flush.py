"""Removes everything that an instance owns: for an uninstall, or to begin from nothing.

Interfaces go before records: whoever ends this half way finds in the records what is still to be done.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import structlog

import fastnl
from fastnl.netns import Identity
from fastnl_engine import reconcile
from fastnl_engine.model import Record
from fastnl_engine.reconcile import Seen
from fastnl_engine.store.base import Intent, Outcome, Store
from fastnl_engine.upkeep import ends_of, ends_of_spec

log = structlog.get_logger()


def flush(host: fastnl.Host, store: Store) -> bool:
    """Removes every interface that carries the instance's mark, then forgets the records.

    Looks into the namespaces of records and of unfinished changes, into /run/netns and the engine's own.
    False when something could not be removed: the log names it, and the records that concern it are kept, for
    another attempt.  Raises StoreError.
    """
    records, intents = store.load()
    references = list(reconcile.references(records, intents))
    found: set[tuple[Identity, int]] = set()
    stuck: set[str] = set()  # references of namespaces where something is left
    unmarked = reconcile.half_made([i.spec for i in intents] + [r.spec for r in records])
    reconcile.give_back(host, [i.spec for i in intents] + [r.spec for r in records if r.places])
    rules = reconcile.take_rules_back(host, [i.spec for i in intents] + [r.spec for r in records])
    for problem in rules:
        log.error("policy rule not removed", reason=str(problem))
    for part in _parts(references):
        seen, unread = reconcile.look(host, part, unmarked)
        found |= _interfaces(seen)
        errors = [e for e in reconcile.sweep_orphans(host, seen, set()) if e is not None]
        left, lost = reconcile.look(host, seen, unmarked)
        for reference, error in (unread | lost).items():
            log.error("cannot be looked into", netns=reference, reason=str(error))
            stuck.add(reference)
        for reference, there in left.items():
            found -= {(there.identity, index) for index in there.links}
            for link in there.links.values():
                log.error(
                    "cannot be removed",
                    netns=reference,
                    interface=link.ifname,
                    ifindex=link.ifindex,
                    reason=str(errors[0]) if errors else "it is still there",
                )
                stuck.add(reference)
    kept = _concerned(records, intents, stuck)
    if rules:
        kept |= {r.id for r in records if reconcile.RULES in r.spec} | {
            i.id for i in intents if reconcile.RULES in i.spec
        }
    forgotten = {record.id for record in records} - kept
    store.settle([Outcome(id_, None) for id_ in forgotten | {intent.id for intent in intents} - kept])
    log.info("flushed", interfaces=len(found), connections=len(forgotten), kept=len(kept), namespaces=len(references))
    return not stuck and not rules


def _parts(references: list[str]) -> Iterator[list[str]]:
    """So many at a time that the open descriptors stay bounded."""
    rest = iter(references)
    while part := list(itertools.islice(rest, reconcile.BATCH)):
        yield part


def _interfaces(seen: dict[str, Seen]) -> set[tuple[Identity, int]]:
    return {(there.identity, index) for there in seen.values() for index in there.links}


def _concerned(records: list[Record], intents: list[Intent], stuck: set[str]) -> set[str]:
    """Ids of connections with an end where something is left."""
    if not stuck:
        return set()
    ends = [(record.id, ends_of(record)) for record in records]
    ends += [(intent.id, ends_of_spec(intent.spec)) for intent in intents if intent.spec]
    return {id_ for id_, references in ends if stuck & set(references)}
