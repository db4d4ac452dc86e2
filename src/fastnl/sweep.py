"""Deleting: many interfaces with one message a namespace.

A single RTM_DELLINK waits for grace periods that a hundred can share, so interfaces are put into a
temporary group and the group is deleted.  Of a pair it is enough to delete one end, and the end is chosen
so that few namespaces have to be visited.
"""

from __future__ import annotations

import errno
import heapq
import secrets
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from fastnl import found, rules
from fastnl._nl import Phase, Problem, Tour, Visit
from fastnl.errors import FastnlError, InvalidValue, KernelError, NetnsNotFound
from fastnl.explain import explain
from fastnl.links import End
from fastnl.netns import Handles, Identity
from fastnl.wired import Result, Wired

if TYPE_CHECKING:
    from fastnl.batch import Host

THREADS = 256  # namespaces swept at a time: their rcu_barriers overlap outside the lock; one waits for nobody else
GONE = (errno.ENODEV, errno.EADDRNOTAVAIL, errno.ESRCH)

K = TypeVar("K", bound=Hashable)


class Target(NamedTuple):
    """A connection to be removed: its ends with the open namespace and index of each; fd -1: out of reach."""

    ends: tuple[End, ...]
    fds: tuple[int, ...]
    indexes: tuple[int, ...]
    error: FastnlError | None = None


def cover(pairs: Sequence[tuple[K, ...]]) -> list[int]:
    """Which end of each pair to take so that few distinct places are needed.

    A greedy vertex cover: the place that most of the pairs left touch comes first.  At most twice ln(n)
    worse than the best, and exact for a star and for a mesh.
    """
    touching: dict[K, list[int]] = defaultdict(list)
    for n, places in enumerate(pairs):
        for place in set(places):
            touching[place].append(n)
    left = Counter({place: len(numbers) for place, numbers in touching.items()})
    order = {place: i for i, place in enumerate(touching)}
    heap = [(-count, order[place], place) for place, count in left.items()]
    heapq.heapify(heap)
    chosen = [-1] * len(pairs)
    while heap:
        count, tie, place = heapq.heappop(heap)
        if left[place] != -count:
            if left[place]:
                heapq.heappush(heap, (-left[place], tie, place))
            continue
        for n in touching[place]:
            if chosen[n] < 0:
                chosen[n] = pairs[n].index(place)
                for other in set(pairs[n]):
                    left[other] -= 1
    return chosen


def remove(host: Host, handles: Handles, wired: Sequence[Wired]) -> list[Result]:
    """Removes connections; see Host.disconnect."""
    if not rules.any_of(w.connection for w in wired):
        return remove_interfaces(host, handles, wired)
    errors = _take_rules_down(host, handles, wired)
    going = [n for n, error in enumerate(errors) if error is None]
    removed = remove_interfaces(host, handles, [wired[n] for n in going])
    results = {n: Result(wired=wired[n], error=e, changed=False) for n, e in enumerate(errors) if e is not None}
    results |= zip(going, removed, strict=True)
    return [results[n] for n in range(len(wired))]


def _take_rules_down(host: Host, handles: Handles, wired: Sequence[Wired]) -> list[FastnlError | None]:
    """Before the interfaces go: what is left when that fails is still known, and so are they."""
    errors: list[FastnlError | None] = [None] * len(wired)
    there: list[tuple[int, rules.Some]] = []
    for n, w in enumerate(wired):
        try:
            fds = [
                _reach(handles, end.netns, place.netns) if end.rules else -1
                for end, place in zip(w.connection.ends, w.places, strict=True)
            ]
        except FastnlError as e:
            errors[n] = e
        else:
            there += [(n, some) for some in rules.of(w.connection, fds)]
    for (n, _), error in zip(there, rules.take_down(host, [some for _, some in there]), strict=True):
        errors[n] = errors[n] or error
    return errors


def remove_interfaces(host: Host, handles: Handles, wired: Sequence[Wired]) -> list[Result]:
    """The same for connections that have no policy rules, or not any more."""
    if any(w.connection.found for w in wired):
        there = [n for n, w in enumerate(wired) if w.connection.found]
        made = [n for n, w in enumerate(wired) if not w.connection.found]
        results_of = dict(zip(made, remove_interfaces(host, handles, [wired[n] for n in made]), strict=True))
        results_of |= zip(there, found.let_go(host, handles, [wired[n] for n in there]), strict=True)
        return [results_of[n] for n in range(len(wired))]
    chosen = cover([tuple(p.netns for p in w.places) for w in wired])
    handles.open_all(w.connection.ends[end].netns for w, end in zip(wired, chosen, strict=True))
    errors = sweep(host, [_target(handles, w, end) for w, end in zip(wired, chosen, strict=True)])
    # somebody may have moved the chosen end elsewhere: then the pair is still there, and the other end tells
    gone = [n for n, e in enumerate(errors) if e is not None and e.errno == errno.ENODEV and len(wired[n].places) == 2]
    others = sweep(host, [_target(handles, wired[n], 1 - chosen[n]) for n in gone])
    for n, error in zip(gone, others, strict=True):
        errors[n] = error
    results = []
    for w, error in zip(wired, errors, strict=True):
        if error is None or error.errno == errno.ENODEV:
            host.count(w.places, -1)
            results.append(Result(wired=w, changed=error is None))
        else:
            results.append(Result(wired=w, error=error, changed=False))
    return results


def _target(handles: Handles, wired: Wired, end: int) -> Target:
    """A connection to be removed through one of its ends; only that one is opened."""
    fds = [-1] * len(wired.places)
    error = None
    try:
        fds[end] = _reach(handles, wired.connection.ends[end].netns, wired.places[end].netns)
    except FastnlError as e:
        error = e  # it may well be there, as when we are out of descriptors: not to be taken for gone
    return Target(wired.connection.ends, tuple(fds), tuple(p.ifindex for p in wired.places), error)


def _reach(handles: Handles, reference: str, who: Identity) -> int:
    """The open namespace; -1 if it is gone or the reference means another one now.  Raises FastnlError."""
    try:
        fd = handles.open(reference)
    except (NetnsNotFound, InvalidValue):  # invalid: it leads out of the fence by now
        return -1
    return fd if handles.identity(fd) == who else -1


def sweep(host: Host, targets: Sequence[Target]) -> list[FastnlError | None]:
    """Deletes interfaces; one error per target, None: gone now, errno ENODEV: was gone already."""
    errors: list[FastnlError | None] = [target.error for target in targets]
    reachable: list[int] = []
    for n, target in enumerate(targets):
        if target.error is not None:
            continue
        if any(fd >= 0 for fd in target.fds):
            reachable.append(n)
        else:
            errors[n] = KernelError("its namespaces are gone, and its interfaces with them", errno=errno.ENODEV)
    within = [tuple(fd for fd in targets[n].fds if fd >= 0) for n in reachable]
    groups: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for n, places, choice in zip(reachable, within, cover(within), strict=True):
        fd = places[choice]
        groups[fd].append((n, targets[n].indexes[targets[n].fds.index(fd)]))
    if groups:
        _sweep_groups(host, targets, groups, errors)
    return errors


def _sweep_groups(
    host: Host,
    targets: Sequence[Target],
    groups: dict[int, list[tuple[int, int]]],
    errors: list[FastnlError | None],
) -> None:
    group = secrets.randbelow(1 << 30) | 1 << 30
    tour = Tour(len(groups))
    visits: dict[int, Visit] = {}
    for item, (fd, members) in enumerate(groups.items()):
        visit = visits[fd] = tour.visit(fd)
        # whoever is in that group already is not ours: then the rest of the visit is left out
        visit.probe_group(item, group)
        for n, index in members:
            _drop_addresses(visit, item, targets[n], fd, index)
            visit.mark(item, index, group, n)
        visit.delete_group(item, group)
    host.run(tour, min(THREADS, len(groups)))
    gone: set[int] = set()
    singly: list[int] = []
    for problem in tour.problems():
        if problem.phase == Phase.MARK and problem.errno in GONE:
            gone.add(problem.place)
        elif problem.phase in (Phase.QUERY, Phase.MARK, Phase.DELETE, Phase.RAW):
            singly.append(problem.item)
    by_item = list(groups.items())
    again = [(n, fd, index) for i in dict.fromkeys(singly) for fd, m in [by_item[i]] for n, index in m if n not in gone]
    for n in gone:
        errors[n] = KernelError("was gone already", errno=errno.ENODEV, phase="delete")
    if again:
        _one_by_one(host, targets, again, errors)


def _drop_addresses(visit: Visit, item: int, target: Target, fd: int, index: int) -> None:
    """Addresses first: a device that still has routes makes the kernel walk the whole FIB when it goes."""
    end = target.ends[target.fds.index(fd)]
    for address in end.addresses:
        if address.family == 4:
            visit.address(item, index, address, False, soft=True)


def _one_by_one(
    host: Host, targets: Sequence[Target], again: list[tuple[int, int, int]], errors: list[FastnlError | None]
) -> None:
    """The slow way for what the group could not take: every delete with an answer of its own."""
    tour = Tour(len(again), False, datagram_messages=1)
    visits: dict[int, Visit] = {}
    for item, (_, fd, index) in enumerate(again):
        visit = visits.get(fd)
        if visit is None:
            visit = visits[fd] = tour.visit(fd)
        visit.delete(item, index)
    host.run(tour, min(THREADS, len(visits)))
    for problem in tour.problems():
        n = again[problem.item][0]
        errors[n] = _delete_error(targets[n], problem)


def _delete_error(target: Target, problem: Problem) -> FastnlError:
    from fastnl.links import Veth, Vxlan

    ends = target.ends
    connection = Veth(*ends) if len(ends) == 2 else Vxlan(a=ends[0])
    return explain(connection, problem)
