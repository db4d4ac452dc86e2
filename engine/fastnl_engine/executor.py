"""From a plan to the kernel: the only module of the engine that changes it.

Runs on the kernel thread, and for sweeps on one beside it; both spend their time in C with the GIL released.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import fastnl
from fastnl import stray
from fastnl_engine.planner import Action

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastnl_engine.resume import Resume


class Executor:
    """Carries out the actions of a cycle; each action gets its result.

    Removals come first, so that what they give back (names, VNIs, addresses) can be had in the same cycle.
    """

    def __init__(self, host: fastnl.Host, *, strict: bool = False) -> None:
        self.host = host
        self.strict = strict  # whether mending removes addresses that nobody asked for
        self.resume: Resume | None = None  # while the leftovers of the last run are being looked at

    def prepare(self, actions: Sequence[Action]) -> None:
        """Chooses the indexes of what will be created, before the intent is written."""
        for action in actions:
            if action.verb == "create" and action.values is not None:
                action.indexes = self.host.take_indexes(len(action.values.ends))

    def run(self, actions: Sequence[Action]) -> None:
        resume = self.resume  # another thread takes it away
        if resume is not None:
            resume.visit(reference for action in actions for reference in _namespaces_of(action))
        self._each(actions, "remove", lambda part: self.host.disconnect([a.wired for a in part if a.wired]))
        self._each(actions, "mend", lambda part: self.host.mend([a.wired for a in part if a.wired], strict=self.strict))
        self._each(actions, "move", self._move)
        self._each(
            actions,
            "update",
            lambda part: self.host.update([(a.wired, a.values) for a in part if a.wired and a.values]),
        )
        self._each(
            actions,
            "create",
            lambda part: self.host.connect([a.values for a in part if a.values], indexes=[a.indexes for a in part]),
        )
        self._take_vnis_back(actions)

    def _take_vnis_back(self, actions: Sequence[Action]) -> None:
        """Makes tunnels whose VNI an earlier self still has.

        One that somebody moved, or whose namespace lives on without its name, is out of reach of its reference.
        Only for what the engine does itself: it backs off, and a client could have it search all the time.
        """
        stuck = [
            (action, values)
            for action in actions
            if action.job.ticket is None
            and action.result is not None
            and isinstance(action.result.error, fastnl.VniInUse)
            and isinstance(values := action.values or (action.wired and action.wired.connection), fastnl.Vxlan)
        ]
        if not stuck:
            return
        freed = stray.remove(self.host, [values for _, values in stuck])
        again = [(action, values) for action, values in stuck if values.id in freed]
        for (action, _), result in zip(again, self.host.connect([values for _, values in again]), strict=True):
            action.result = result

    def _move(self, actions: Sequence[Action]) -> list[fastnl.Result]:
        moves = []
        for action in actions:
            assert action.wired is not None and action.job.move is not None
            m = action.job.move
            moves.append(fastnl.Move(action.wired, "ab".index(m.end), m.netns, m.mode))
        return self.host.move(moves)

    def _each(
        self, actions: Sequence[Action], verb: str, do: Callable[[Sequence[Action]], list[fastnl.Result]]
    ) -> None:
        part = [a for a in actions if a.verb == verb]
        if not part:
            return
        try:
            results = do(part)
        except Exception as e:
            # ours to mend, but no reason to leave the clients of a whole cycle without an answer
            problem = fastnl.InternalError(f"{verb}: {type(e).__name__}: {e}; please report this")
            results = [fastnl.Result(wired=a.wired, error=problem, changed=False) for a in part]
        for action, result in zip(part, results, strict=True):
            action.result = result


def _namespaces_of(action: Action) -> Iterator[str]:
    """Where an action will find or put interfaces."""
    for connection in (action.wired.connection if action.wired else None, action.values):
        if connection is not None:
            yield from (end.netns for end in connection.ends)
