"""A start: what the last engine of this state left is adopted, mended or removed, while jobs are served already.

Namespaces are read in parts.  One that a job concerns is read before that job runs, so that nothing is made
where a leftover may be in the way, and nothing is changed that was not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import structlog

from fastnl import Host, InvalidValue
from fastnl.fence import fenced
from fastnl.netns import Identity
from fastnl_engine import reconcile
from fastnl_engine.model import Record, check_reach
from fastnl_engine.store.base import Intent
from fastnl_engine.upkeep import ends_of, ends_of_spec

log = structlog.get_logger()

STEP = 128  # namespaces of one step: what a job waits for at most


class Resume:
    """Which namespaces have been read and what was found in them.  For the thread that changes the kernel.

    adopt  records that are up, which stay as they are where the kernel agrees
    anew   what cannot be taken over, id -> reason: of these whatever is found is removed
    """

    def __init__(
        self, host: Host, records: Sequence[Record], intents: Sequence[Intent], *, recreate: bool = False
    ) -> None:
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
        self._unmarked = reconcile.half_made(
            [i.spec for i in intents] + [r.spec for r in records if r.id in unfinished]
        )
        known = {record.id: record.spec for record in records}
        reconcile.give_back(host, [i.spec for i in intents if i.spec != known.get(i.id)])
        for problem in reconcile.take_rules_back(
            host,
            [i.spec for i in intents] + [r.spec for r in records if r.id in self.anew],
            [r.spec for r in records if r.state == "up" and r.id not in self.anew],
        ):
            log.error("policy rule not removed", reason=str(problem))
        self._todo = reconcile.references(records, intents)
        self._done: set[str] = set()
        # what was half done is remembered by its intent only, so it is tidied up before that is forgotten
        self.visit(end for intent in intents if intent.spec for end in ends_of_spec(intent.spec))
        self.visit(end for record in records if record.id in unfinished for end in ends_of(record))

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
