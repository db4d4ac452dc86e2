"""A start: what the last engine of this state left is adopted, mended or removed, while jobs are served already.

Namespaces are read in parts.  One that a job concerns is read before that job runs, so that nothing is made
where a leftover may be in the way, and nothing is changed that was not looked at.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import structlog

from fastnl import Host, InvalidValue
from fastnl.fence import fenced
from fastnl.netns import Identity
from fastnl_engine import reconcile
from fastnl_engine.model import Record, State, check_reach
from fastnl_engine.store.base import Intent, Store
from fastnl_engine.upkeep import ends_of, ends_of_spec, lost_for_good

log = structlog.get_logger()

STEP = 128  # namespaces of one step: what a job waits for at most


def presume(records: Sequence[Record], intents: Sequence[Intent]) -> list[Record]:
    """The records after a power cut: what was intended counts as done, as that may have been acknowledged.

    Only intents have to be on the disk by then.  The namespaces went with the power, and with them what was half done.
    """
    known = {record.id: record for record in records}
    for record in records:
        if lost := lost_for_good(record.spec):
            known[record.id] = Record(record.id, record.spec, "pending", reason=lost, since=record.since)
    for intent in intents:
        before = known.pop(intent.id, None)
        spec = before.spec if before is not None and intent.verb == "suspend" else intent.spec
        if intent.verb != "remove" and spec:
            lost = lost_for_good(spec)
            reason = lost or "the machine stopped while this was being done"
            state: State = "pending" if lost else "failed"  # what has failed is tried again
            known[intent.id] = Record(intent.id, spec, state, reason=reason, since=time.time())
    return list(known.values())


def as_known(store: Store, records: list[Record], intents: Sequence[Intent]) -> list[Record]:
    """The records as a start takes them up."""
    before = store.meta("boot")
    return presume(records, intents) if before is not None and before != boot_id() else records


def boot_id() -> str:
    """Another one after each start of the machine; "" where that cannot be read, as which no boot is known."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError as e:
        log.warning("the boot's id cannot be read: unfinished work counts as done", reason=e.strerror)
        return ""


class Resume:
    """Which namespaces have been read and what was found in them.  For the thread that changes the kernel.

    before the records as they were stored, where they are presumed to be other ones: a restored copy of the state, or a
           container whose every start is a boot, may have left something of either
    adopt  records that are up, which stay as they are where the kernel agrees
    anew   what cannot be taken over, id -> reason: of these whatever is found is removed
    """

    def __init__(
        self, host: Host, records: Sequence[Record], intents: Sequence[Intent], *,
        before: Sequence[Record] | None = None, recreate: bool = False,
    ) -> None:  # fmt: skip
        self._host = host
        self._wrong: list[tuple[Record, str]] = []
        self._ends: dict[str, list[tuple[Record, int]]] = {}
        self._keep: set[tuple[Identity, int]] = set()
        self.adopted = 0  # that were expected to be up
        self.mended = 0  # of those, the ones that were not as they should be
        self.orphans = 0
        unfinished = {intent.id for intent in intents}
        self.anew: dict[str, str] = {}
        for record in records:
            if fenced() or b"microservice:" in record.spec:
                try:
                    check_reach(record.connection)
                except InvalidValue as e:
                    self.anew[record.id] = str(e)  # it fails, with that reason, until the settings allow it
                    continue
            if record.state != "up":
                continue
            if recreate:
                self.anew[record.id] = "everything is made anew at this start"
            elif record.id in unfinished:
                self.anew[record.id] = "its last change was not finished"
            else:
                self._expect(record)
        known = {record.id: record.spec for record in records}
        was = [r for r in (records if before is None else before) if r.id in unfinished]
        half_done = [(i.id, i.spec) for i in intents if i.spec] + [(r.id, r.spec) for r in was]
        self._unmarked = reconcile.half_made(spec for _, spec in half_done)
        reconcile.give_back(host, [spec for id_, spec in half_done if spec != known.get(id_)])
        for problem in reconcile.take_rules_back(
            host,
            dict.fromkeys([spec for _, spec in half_done] + [r.spec for r in records if r.id in self.anew]),
            [r.spec for r in records if r.state == "up" and r.id not in self.anew],
        ):
            log.error("policy rule not removed", reason=str(problem))
        self._todo = reconcile.references([*records, *was], intents)
        self._done: set[str] = set()
        # what was half done is remembered by its intent only, so it is tidied up before that is forgotten
        self.visit(end for _, spec in half_done for end in ends_of_spec(spec))

    def _expect(self, record: Record) -> None:
        self.adopted += 1
        self._host.count(record.places, 1)
        for n, (reference, place) in enumerate(zip(ends_of(record), record.places, strict=True)):
            self._ends.setdefault(reference, []).append((record, n))
            self._keep.add((place.netns, place.ifindex))

    @property
    def finished(self) -> bool:
        return not self._todo

    def step(self) -> None:
        """Reads the next few namespaces."""
        self.visit([reference for reference, _ in zip(self._todo, range(STEP), strict=False)])

    def visit(self, references: Iterable[str]) -> None:
        """Reads namespaces unless they were read: notes what differs and removes what is ours and nobody's."""
        new = [r for r in dict.fromkeys(references) if r not in self._done]
        if not new:
            return
        seen, unread = reconcile.look(self._host, new, self._unmarked)
        for reference, error in unread.items():
            log.error("not read at the start", netns=reference, reason=str(error))
        for problem in reconcile.sweep_orphans(self._host, seen, self._keep):
            self.orphans += problem is None
            if problem is not None:
                log.error("leftover not removed", reason=str(problem))
        for reference, there in seen.items():
            for record, n in self._ends.get(reference, ()):
                # a namespace that went or is another one is the watch's business
                if record.places[n].netns == there.identity:
                    reason = reconcile.mismatch(record.wired(), n, there)
                    if reason:
                        self._wrong.append((record, reason))
        for reference in new:
            self._done.add(reference)
            self._todo.pop(reference, None)
            self._ends.pop(reference, None)

    def take_wrong(self) -> list[tuple[Record, str]]:
        """What was found to differ since the last call; each record once for each of its ends."""
        wrong, self._wrong = self._wrong, []
        self.mended += len({record.id for record, _ in wrong})
        return wrong
