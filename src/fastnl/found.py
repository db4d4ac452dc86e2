"""Interfaces that somebody else made: they get what an End says and lose it again; none is created or deleted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastnl._nl import LinkRow, Tour, Visit
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
    for problem in tour.problems():
        if not problem.soft:
            n = numbers[problem.item]
            failed.setdefault(n, explain(wired[n].connection, problem))
    for n, w in wired.items():
        refused = failed.get(n) or offload(fds[n], w.connection.ends[0], "a")
        if refused is not None:
            failed[n] = refused
    if failed:
        _unfurnish(host, [(wired[n], fds[n]) for n in failed])
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


def _unfurnish(host: Host, ends: Sequence[tuple[Wired, int]]) -> list[bool]:
    """Whether there was an interface to take something away from."""
    tour = Tour(len(ends))
    for item, (w, fd) in enumerate(ends):
        end, index = w.connection.ends[0], w.places[0].ifindex
        visit = tour.visit(fd)
        visit.change(item, index)  # asks for nothing: it tells whether the interface is there
        for i, neighbour in enumerate(end.neighbours):
            visit.neighbour(item, index, neighbour, False, 0, i, soft=True)
        for i, route in enumerate(end.routes):
            visit.route(item, index, route, False, 0, i, soft=True)
        for i, address in enumerate(end.addresses):
            if address.text not in KEPT:
                visit.address(item, index, address, False, 0, i, soft=True)
    host.run(tour)
    gone = {problem.item for problem in tour.problems() if not problem.soft}
    return [item not in gone for item in range(len(ends))]
