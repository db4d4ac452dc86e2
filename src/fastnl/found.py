"""Interfaces that somebody else made: they get what an End says and lose it again; none is created or deleted."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

from fastnl import settings
from fastnl._nl import LinkRow, Phase, Tour, Visit
from fastnl.errors import Conflict, FastnlError, NetnsGone, NetnsNotFound
from fastnl.explain import explain, name_in_use
from fastnl.links import Connection
from fastnl.netns import Handles
from fastnl.offload import offload
from fastnl.reach import not_there, open_end
from fastnl.wired import Place, Result, Wired

if TYPE_CHECKING:
    from fastnl.batch import Host

# without these a namespace does not work; whoever names them does not mean them to go with the connection
KEPT = ("127.0.0.1/8", "::1/128")


def take(host: Host, handles: Handles, connections: Sequence[Connection], ids: set[str]) -> list[Result]:
    """Finds the interfaces and furnishes them; one that cannot be furnished gets nothing."""
    results: dict[int, Result] = {}
    looking: dict[int, tuple[int, Visit]] = {}
    tour = Tour(len(connections))
    names: set[tuple[int, str]] = set()
    for n, c in enumerate(connections):
        end = c.ends[0]
        try:
            fd = open_end(handles, end, "a")
            if (c.id and c.id in ids) or (fd, end.ifname) in names:
                what = "id" if c.id and c.id in ids else "a.ifname"
                raise Conflict(f"{what}: {c.id or end.ifname!r} is there twice in one request", field=what)
        except FastnlError as e:
            results[n] = Result(error=e, changed=False)
            continue
        ids.add(c.id)
        names.add((fd, end.ifname))
        visit = tour.visit(fd, asks=True)
        visit.get_link(n, name=end.ifname)
        looking[n] = (fd, visit)
    host.run(tour)
    wired: dict[int, Wired] = {}
    for n, (fd, visit) in looking.items():
        rows: list[LinkRow] = visit.rows()
        if not rows:
            results[n] = Result(
                error=not_there("a.ifname", connections[n].ends[0].netns, connections[n].ends[0].ifname)
            )
        elif rows[0].alias.startswith("fastnl/"):
            results[n] = Result(error=name_in_use(connections[n], 0, rows[0]), changed=False)
        else:
            wired[n] = Wired(connections[n], (Place(rows[0].ifindex, handles.identity(fd)),))
    results |= _furnish(host, wired, {n: fd for n, (fd, _) in looking.items()})
    return [results[n] for n in range(len(connections))]


def _furnish(host: Host, wired: dict[int, Wired], fds: dict[int, int]) -> dict[int, Result]:
    tour = Tour(len(wired))
    numbers = list(wired)
    for item, n in enumerate(numbers):
        w = wired[n]
        end, index = w.connection.ends[0], w.places[0].ifindex
        visit = tour.visit(fds[n])
        if end.settings:
            settings.write(visit, item, 0, end)
        visit.change(
            item, index, mtu=end.mtu or w.connection.mtu, mac=end.mac, txqlen=end.txqlen, up=end.up,
        )  # fmt: skip
        for i, address in enumerate(end.addresses):
            visit.address(item, index, address, True, 0, i, soft=address.text in KEPT)
        for i, route in enumerate(end.routes):
            visit.route(item, index, route, True, 0, i)
        for i, neighbour in enumerate(end.neighbours):
            visit.neighbour(item, index, neighbour, True, 0, i)
    host.run(tour)
    results = {n: Result(wired=w) for n, w in wired.items()}
    failed: dict[int, FastnlError] = {}
    refused: set[tuple[int, int, int]] = set()  # what is there of that is not ours to take away
    for problem in tour.problems():
        if not problem.soft:
            n = numbers[problem.item]
            refused.add((n, problem.phase, problem.place))
            failed.setdefault(n, explain(wired[n].connection, problem))
    for n, w in wired.items():
        error = failed.get(n) or offload(fds[n], w.connection.ends[0], "a")
        if error is not None:
            failed[n] = error
    if failed:
        not_done = {(i, phase, place) for i, n in enumerate(failed) for m, phase, place in refused if m == n}
        _unfurnish(host, [(wired[n], fds[n]) for n in failed], not_done)
    return results | {n: Result(error=e, changed=False) for n, e in failed.items()}


def let_go(host: Host, handles: Handles, wired: Sequence[Wired]) -> list[Result]:
    """Takes away what the interfaces were given; they stay."""
    results: dict[int, Result] = {}
    going: list[tuple[int, int]] = []
    for n, w in enumerate(wired):
        try:
            fd = open_end(handles, w.connection.ends[0], "a")
        except (NetnsNotFound, NetnsGone):
            results[n] = Result(wired=w, changed=False)
            continue
        except FastnlError as e:
            results[n] = Result(wired=w, error=e, changed=False)
            continue
        if handles.identity(fd) != w.places[0].netns:
            results[n] = Result(wired=w, changed=False)
        else:
            going.append((n, fd))
    changed = _unfurnish(host, [(wired[n], fd) for n, fd in going])
    for (n, _), did in zip(going, changed, strict=True):
        results[n] = Result(wired=wired[n], changed=did)
    return [results[n] for n in range(len(wired))]


def give_back(host: Host, handles: Handles, connections: Sequence[Connection]) -> None:
    """Takes away what interfaces may have been given for connections of which only the wish is known."""
    looking = []
    tour = Tour(len(connections), False)
    for n, c in enumerate(connections):
        try:
            fd = open_end(handles, c.ends[0], "a")
        except FastnlError:
            continue  # what cannot be reached is gone, or is told of by whoever has to reach it
        visit = tour.visit(fd, asks=True)
        visit.get_link(n, name=c.ends[0].ifname)
        looking.append((c, fd, visit))
    host.run(tour)
    there = {(fd, row.ifname): row for _, fd, visit in looking for row in visit.rows()}
    found = [(c, fd, there[fd, c.ends[0].ifname]) for c, fd, _ in looking if (fd, c.ends[0].ifname) in there]
    _unfurnish(
        host,
        [
            (Wired(c, (Place(row.ifindex, handles.identity(fd)),)), fd)
            for c, fd, row in found
            if not row.alias.startswith("fastnl/")
        ],
    )


def _unfurnish(
    host: Host, ends: Sequence[tuple[Wired, int]], not_done: Container[tuple[int, int, int]] = ()
) -> list[bool]:
    """Whether there was an interface to take something away from.

    not_done: (item, phase, place) of what it was not given.
    """
    tour = Tour(len(ends))
    for item, (w, fd) in enumerate(ends):
        end, index = w.connection.ends[0], w.places[0].ifindex
        visit = tour.visit(fd)
        visit.change(item, index)  # asks for nothing: it tells whether the interface is there
        for i, neighbour in enumerate(end.neighbours):
            if (item, Phase.NEIGHBOUR, i) not in not_done:
                visit.neighbour(item, index, neighbour, False, 0, i, soft=True)
        for i, route in enumerate(end.routes):
            if (item, Phase.ROUTE, i) not in not_done:
                visit.route(item, index, route, False, 0, i, soft=True)
        for i, address in enumerate(end.addresses):
            if address.text not in KEPT and (item, Phase.ADDRESS, i) not in not_done:
                visit.address(item, index, address, False, 0, i, soft=True)
    host.run(tour)
    gone = {problem.item for problem in tour.problems() if not problem.soft}
    return [item not in gone for item in range(len(ends))]
