"""Creating: every connection of a batch born in place by one message, then each namespace visited once."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

from fastnl import found, rules, settings, sweep
from fastnl._nl import Phase, Problem, Tour, Visit, make_tap
from fastnl.errors import (
    Conflict,
    FastnlError,
    InternalError,
    InvalidValue,
    KernelError,
    NetnsGone,
    NoPermission,
)
from fastnl.explain import explain, name_in_use
from fastnl.links import MASTERS, Connection, Device, End, Vxlan
from fastnl.netns import Handles
from fastnl.offload import offload
from fastnl.reach import not_there, open_end, open_named
from fastnl.wired import Place, Result, Wired

if TYPE_CHECKING:
    from fastnl.batch import Host

# With more ends of ours than this in a namespace, IPv6 is turned off through each interface's own sysctl file, as
# otherwise its routes make every further one dearer.  With fewer, by addr_gen_mode in the message that is sent
# anyway, which leaves the interface able to have IPv6 later.  docs/performance.md has the figures.
CROWD = 256

TRIES = 3  # of a create whose index was taken or whose answer was lost


class _Item:
    """One connection on its way into the kernel."""

    __slots__ = ("connection", "created", "error", "fds", "indexes", "lower", "masters", "sender", "tries")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.fds: tuple[int, ...] = ()
        self.indexes: tuple[int, ...] = ()
        self.sender = -1
        self.lower = 0
        self.masters: tuple[int, ...] = (0,) * len(connection.ends)
        self.error: FastnlError | None = None
        self.created = False
        self.tries = 0


def create(
    host: Host,
    handles: Handles,
    connections: Sequence[Connection],
    indexes: Sequence[tuple[int, ...]] | None = None,
    ids: set[str] | None = None,
) -> list[Result]:
    """Makes the connections; see Host.connect.  `ids` are those that the request has had already."""
    results = _make(host, handles, connections, indexes, ids)
    return _with_rules(host, handles, results) if rules.any_of(connections) else results


def _with_rules(host: Host, handles: Handles, results: list[Result]) -> list[Result]:
    """Puts up the policy rules of what was made; what cannot have them is removed again."""
    made = [(n, r.wired) for n, r in enumerate(results) if r.wired and rules.any_of([r.wired.connection])]
    fds = [[open_end(handles, e, "ab"[i]) for i, e in enumerate(w.connection.ends)] for _, w in made]
    errors = rules.put_up(host, [rules.of(w.connection, at) for (_, w), at in zip(made, fds, strict=True)])
    failed = [(n, w, e) for (n, w), e in zip(made, errors, strict=True) if e is not None]
    sweep.remove_interfaces(host, handles, [w for _, w, _ in failed])
    for n, _, error in failed:
        results[n] = Result(error=error, changed=False)
    return results


def _make(
    host: Host,
    handles: Handles,
    connections: Sequence[Connection],
    indexes: Sequence[tuple[int, ...]] | None,
    ids: set[str] | None,
) -> list[Result]:
    unable = _unable(host) if connections else None
    if unable is not None:
        return [Result(error=unable, changed=False) for _ in connections]
    if any(c.found for c in connections):
        return _with_found(host, handles, connections, indexes, ids)
    items = [_Item(c) for c in connections]
    _open(host, handles, items, ids if ids is not None else set())
    for i, item in enumerate(items):
        if item.error is None:
            item.indexes = indexes[i] if indexes is not None else host.take_indexes(len(item.connection.ends))
    # masters first, so that a port of one may be in the same batch
    for master in (True, False):
        wave = [item for item in items if item.error is None and _is_master(item.connection) is master]
        find_masters(host, wave)
        waiting = [item for item in wave if item.error is None]
        while waiting:
            waiting = _attempt(host, handles, waiting)
        _offload([item for item in wave if item.error is None])
    _check_still_there(handles, items)
    _undo(host, handles, [item for item in items if item.error is not None and item.created])
    return [_result(host, handles, item) for item in items]


def _with_found(
    host: Host,
    handles: Handles,
    connections: Sequence[Connection],
    indexes: Sequence[tuple[int, ...]] | None,
    ids: set[str] | None,
) -> list[Result]:
    """A batch in which some interfaces are there already."""
    there = [n for n, c in enumerate(connections) if c.found]
    made = [n for n, c in enumerate(connections) if not c.found]
    ids = ids if ids is not None else set()
    chosen = [indexes[n] for n in made] if indexes is not None else None
    results = dict(zip(made, _make(host, handles, [connections[n] for n in made], chosen, ids), strict=True))
    results |= zip(there, found.take(host, handles, [connections[n] for n in there], ids), strict=True)
    return [results[n] for n in range(len(connections))]


def _is_master(connection: Connection) -> bool:
    return connection.kind in MASTERS


def _unable(host: Host) -> FastnlError | None:
    """Why nothing at all can be made, found out with the first batch."""
    try:
        host.features  # noqa: B018
    except OSError as e:
        message = f"the kernel cannot be probed in a namespace of our own: {e.strerror}"
        if e.errno in (errno.EPERM, errno.EACCES):
            return NoPermission(f"{message}; CAP_SYS_ADMIN and CAP_NET_ADMIN are needed", errno=e.errno)
        return KernelError(message, errno=e.errno or 0)
    return None


def _result(host: Host, handles: Handles, item: _Item) -> Result:
    if item.error is not None:
        return Result(error=item.error, changed=False)
    wired = Wired(item.connection, _places(handles, item))
    host.count(wired.places, 1)
    return Result(wired=wired)


def _places(handles: Handles, item: _Item) -> tuple[Place, ...]:
    return tuple(Place(i, handles.identity(fd)) for i, fd in zip(item.indexes, item.fds, strict=True))


def _open(host: Host, handles: Handles, items: list[_Item], ids: set[str]) -> None:
    """Opens the namespaces, finds lower devices, and turns away what excludes something else in the batch."""
    names: dict[tuple[int, str], str] = {}
    lower: list[_Item] = []
    ends = (end.netns for item in items for end in item.connection.ends)
    handles.open_all(chain(ends, (_sender(item.connection) for item in items)))
    for item in items:
        connection = item.connection
        try:
            item.fds = tuple(open_end(handles, e, "ab"[n]) for n, e in enumerate(connection.ends))
            item.sender = open_named(handles, _sender(connection), "vxlan.underlay")
            if isinstance(connection, Vxlan) and connection.dev is not None:
                lower.append(item)
            _claim(item, names, ids)
        except FastnlError as e:
            item.error = e
    if lower:
        _find_lower(host, lower)


def _sender(connection: Connection) -> str:
    """Where the create is sent from: a VXLAN's tunnel stays there, and a pair may be sent from anywhere."""
    return connection.underlay if isinstance(connection, Vxlan) else ""


def _claim(item: _Item, names: dict[tuple[int, str], str], ids: set[str]) -> None:
    connection = item.connection
    if connection.id:
        if connection.id in ids:
            raise Conflict(f"id: {connection.id!r} is there twice in one request", field="id")
        ids.add(connection.id)
    keys = [(fd, e.ifname) for fd, e in zip(item.fds, connection.ends, strict=True)]
    if len(keys) == 2 and keys[0] == keys[1]:
        raise InvalidValue("b.ifname", f"both ends would be {keys[0][1]!r} in one namespace")
    for n, key in enumerate(keys):
        if key in names:
            raise Conflict(
                f"{'ab'[n]}.ifname: {key[1]!r} in namespace {connection.ends[n].netns!r} is taken by connection "
                f"{names[key]!r} of the same request",
                field=f"{'ab'[n]}.ifname",
            )
    names.update((key, connection.id) for key in keys)


def _find_lower(host: Host, items: list[_Item]) -> None:
    """Indexes of the lower devices, asked for by name in the underlay's namespaces."""
    tour = Tour(len(items))
    visits: dict[int, Visit] = {}
    asked = []
    for n, item in enumerate(items):
        assert isinstance(item.connection, Vxlan)
        visit = visits.get(item.sender)
        if visit is None:
            visit = visits[item.sender] = tour.visit(item.sender, asks=True)
        visit.get_link(n, name=item.connection.dev)
        asked.append((item, item.connection))
    host.run(tour)
    found = {fd: {row.ifname: row for row in visit.rows()} for fd, visit in visits.items()}
    for item, connection in asked:
        row = found[item.sender].get(connection.dev)
        if row is None:
            item.error = InvalidValue("vxlan.dev", f"the underlay's namespace has no interface {connection.dev!r}")
            continue
        item.lower = row.ifindex
        mtu, most = connection.inner_mtu, row.mtu - connection.overhead
        if mtu is not None and mtu > most:  # the kernel would take less without a word (vxlan_config_apply)
            field = "mtu" if connection.a.mtu is None else "a.mtu"
            item.error = InvalidValue(field, f"{mtu} is more than fits through {connection.dev!r}, {most}")


def items_of(connections: Sequence[Connection], fds: Sequence[tuple[int, ...]]) -> list[_Item]:
    items = [_Item(c) for c in connections]
    for item, at in zip(items, fds, strict=True):
        item.fds = at
    return items


def find_masters(host: Host, items: Sequence[_Item]) -> None:
    """Indexes of the masters of ends that are ports, asked for by name in the namespaces of the ends."""
    asking = [item for item in items if any(end.master for end in item.connection.ends)]
    if not asking:
        return
    tour = Tour(len(asking))
    visits: dict[int, Visit] = {}
    for n, item in enumerate(asking):
        for end, fd in zip(item.connection.ends, item.fds, strict=True):
            if end.master:
                if fd not in visits:
                    visits[fd] = tour.visit(fd, asks=True)
                visits[fd].get_link(n, name=end.master)
    host.run(tour)
    there = {fd: {row.ifname: row.ifindex for row in visit.rows()} for fd, visit in visits.items()}
    for item in asking:
        masters = []
        for n, (end, fd) in enumerate(zip(item.connection.ends, item.fds, strict=True)):
            masters.append(there[fd].get(end.master, 0) if end.master else 0)
            if end.master and not masters[-1]:
                item.error = not_there(f"{'ab'[n]}.master", end.netns, end.master)
        item.masters = tuple(masters)


def _make_taps(items: Sequence[_Item]) -> None:
    for item in items:
        if item.connection.kind == "tap" and item.error is None:
            err = make_tap(item.fds[0], item.connection.ends[0].ifname, item.indexes[0])
            item.created = not err
            if err in (errno.EEXIST, errno.EBUSY, errno.EINVAL):  # EINVAL: it is there, and no TAP
                item.error = name_in_use(item.connection, 0)
            elif err:
                problem = Problem(0, Phase.CREATE, 0, 0, err, "", 0, False)
                item.error = explain(item.connection, problem)


def _offload(items: Sequence[_Item]) -> None:
    """Who computes checksums, where something was said about it."""
    for item in items:
        for n, (end, fd) in enumerate(zip(item.connection.ends, item.fds, strict=True)):
            item.error = item.error or offload(fd, end, "ab"[n])


def _attempt(host: Host, handles: Handles, items: list[_Item]) -> list[_Item]:
    """One tour for the items; those to try again come back."""
    _make_taps(items)
    items = [item for item in items if item.error is None]
    again = any(item.tries for item in items)
    # one message a datagram is one answer at a time: that many cannot be lost
    tour = Tour(len(items), datagram_messages=1) if again else Tour(len(items))
    senders: dict[int, Visit] = {}
    for n, item in enumerate(items):
        item.tries += 1
        visit = senders.get(item.sender)
        if visit is None:
            visit = senders[item.sender] = tour.visit(item.sender)
        if isinstance(item.connection, Device):
            if item.connection.kind != "tap":
                visit.lone(n, item.connection, item.fds[0], item.indexes[0], host.group)
        elif isinstance(item.connection, Vxlan):
            visit.vxlan(n, item.connection, item.fds[0], item.indexes[0], item.lower, host.group)
        else:
            visit.veth(n, item.connection, item.fds[0], item.indexes[0], item.fds[1], item.indexes[1], host.group)
    _furnish_all(host, handles, tour, dict(enumerate(items)))
    host.run(tour)
    return _judge(host, handles, items, _with_ipv6(host, handles, items, tour.problems()))


def _furnish_all(host: Host, handles: Handles, tour: Tour, items: dict[int, _Item], *, again: bool = False) -> None:
    """The visits to the namespaces of items, by their numbers.

    again   they were furnished in part, by a visit that found IPv6 switched off: so it is switched on
    """
    homes: dict[int, Visit] = {}
    crowds: dict[int, int] = {}
    for n, item in items.items():
        for end, fd in enumerate(item.fds):
            visit = homes.get(fd)
            if visit is None:
                visit = homes[fd] = tour.visit(fd)
                crowds[fd] = host.population(handles.identity(fd))
            crowds[fd] += 1
            if again:
                _unfurnish(visit, n, item.connection, end, item.indexes[end])
            furnish(host, visit, n, item.connection, end, item.indexes[end], crowds[fd], item.masters[end], again)
    for n, item in items.items():
        for end, e in enumerate(item.connection.ends):
            if needs_carrier(e):
                tour.visit(item.fds[end]).furnish_late(n, end, item.indexes[end], e)


def _with_ipv6(host: Host, handles: Handles, items: list[_Item], problems: list[Problem]) -> list[Problem]:
    """Switches IPv6 on for interfaces that were refused an address, and furnishes them again.

    A new interface has it off where its namespace says so, as in most containers.  Which do is not looked up: the
    refusal costs those that do a second visit, and the others nothing.  What comes back are the problems that are left.
    """
    refused = {p.item for p in problems if p.phase == Phase.ADDRESS and p.errno == errno.EACCES}
    if not refused:
        return problems
    tour = Tour(len(items))
    _furnish_all(host, handles, tour, {n: items[n] for n in sorted(refused)}, again=True)
    host.run(tour)
    return [p for p in problems if p.item not in refused] + tour.problems()


def _unfurnish(visit: Visit, n: int, connection: Connection, end: int, index: int) -> None:
    """Takes back what a visit may have given the interface, so that it can be given again."""
    e = connection.ends[end]
    for i, route in enumerate(e.routes):
        visit.route(n, index, route, False, end, i, soft=True)
    for i, address in enumerate(e.addresses):
        visit.address(n, index, address, False, end, i, soft=True)


def needs_carrier(end: End) -> bool:
    """Whether it has neighbours that the kernel drops as long as the other end is down."""
    return any(neighbour.state != "permanent" for neighbour in end.neighbours)


def furnish(
    host: Host,
    visit: Visit,
    n: int,
    connection: Connection,
    end: int,
    index: int,
    crowd: int,
    master: int = 0,
    allow_ipv6: bool = False,
) -> None:
    """What an interface gets after it was created: marks, IPv6 mode, up, addresses, routes, permanent neighbours.

    crowd: how many ends of ours the namespace holds, this one counted; master: index of the interface that it is
    a port of, 0: none; allow_ipv6: IPv6, if it is asked for, may be switched off in the namespace.
    """
    e = connection.ends[end]
    addr_gen_mode = -1
    if e.settings or allow_ipv6:
        settings.write(visit, n, end, e)
        if allow_ipv6 and e.ipv6:
            visit.allow_ipv6(n, end, e.ifname)
    if not e.ipv6 and (e.mtu or connection.mtu or 1500) >= 1280 and host.features.ipv6:
        if crowd > CROWD and host.features.writable_sysctl:
            visit.no_ipv6(n, e.ifname)
        else:
            addr_gen_mode = 1  # IN6_ADDR_GEN_MODE_NONE
    group = 0
    if connection.kind == "tap":
        # made by ioctl, it is born with nothing but a name and an index
        group = host.group
        visit.change(n, index, end=end, mtu=e.mtu or connection.mtu, mac=e.mac, txqlen=e.txqlen)
    visit.bring_up(
        n, end, index, host.alias(connection, end), addr_gen_mode, up=e.up, group=group, master=master
    )  # fmt: skip
    visit.furnish(n, end, index, e)


def _judge(host: Host, handles: Handles, items: list[_Item], problems: list[Problem]) -> list[_Item]:
    """Books what became of each item; those to try again come back."""
    first: dict[int, Problem] = {}
    unknown: set[int] = set()
    for problem in problems:
        if problem.soft:
            continue
        if problem.errno == 0:
            unknown.add(problem.item)
        elif problem.item not in first:
            first[problem.item] = problem
    again = []
    collided = []
    for n, item in enumerate(items):
        found = first.get(n)
        item.created = found is None or found.phase != Phase.CREATE
        if found is None:
            continue
        if found.phase == Phase.CREATE and found.errno in (errno.EEXIST, errno.EBUSY):
            collided.append((item, found))
        else:
            item.error = explain(item.connection, found)
    if collided:
        again += _after_collision(host, collided)
    lost = [items[n] for n in sorted(unknown - first.keys())]
    if lost:
        again += _read_back(host, handles, lost)
    return again


def _after_collision(host: Host, collided: list[tuple[_Item, Problem]]) -> list[_Item]:
    """EEXIST and EBUSY at create: is it a name, the VNI or an index?"""
    tour = Tour(len(collided))
    visits = []
    for n, (item, _) in enumerate(collided):
        for end, fd in enumerate(item.fds):
            visit = tour.visit(fd, asks=True)
            visit.get_link(n * 2 + end, name=item.connection.ends[end].ifname)
            visits.append((item, end, visit))
    host.run(tour)
    for item, end, visit in visits:
        rows = visit.rows()
        if rows and item.error is None:
            item.error = name_in_use(item.connection, end, rows[0])
    again = []
    for item, problem in collided:
        if item.error is not None:
            continue
        vni_taken = isinstance(item.connection, Vxlan) and "VNI" in problem.ext_ack
        if vni_taken or item.tries >= TRIES:
            item.error = explain(item.connection, problem)
            continue
        item.indexes = host.take_indexes(len(item.connection.ends))
        again.append(item)
    return again


def _read_back(host: Host, handles: Handles, items: list[_Item]) -> list[_Item]:
    """Settles items whose acknowledgements were lost: by looking whether they were created.

    One that was is removed, so that every item goes one way: it is made again, now with an answer to every
    single message.
    """
    tour = Tour(len(items))
    visits = []
    for n, item in enumerate(items):
        visit = tour.visit(item.fds[0], asks=True)
        visit.get_link(n, item.indexes[0])
        visits.append(visit)
    host.run(tour)
    missing = {problem.item for problem in tour.problems() if problem.errno == errno.ENODEV}
    # an interface of that index may also be the foreign one that was in the way
    there = [
        item
        for n, (item, visit) in enumerate(zip(items, visits, strict=True))
        if n not in missing
        and all(row.group == host.group and row.ifname == item.connection.ends[0].ifname for row in visit.rows())
    ]
    for item in there:
        item.created = True
    _undo(host, handles, there)
    again = []
    for item in items:
        item.created = False
        if item.tries >= TRIES:
            item.error = InternalError("the kernel's answers were lost again and again (ENOBUFS)", phase="create")
        else:
            item.indexes = host.take_indexes(len(item.connection.ends))
            again.append(item)
    return again


def _undo(host: Host, handles: Handles, items: list[_Item]) -> None:
    """Removes what was made of connections that failed."""
    if items:
        sweep.sweep(host, [sweep.Target(i.connection.ends, i.fds, i.indexes) for i in items])


def _check_still_there(handles: Handles, items: list[_Item]) -> None:
    """A namespace that was let go during the batch takes its interfaces along as soon as we close it."""
    lost = handles.lost()
    if not lost:
        return
    for item in items:
        for n, end in enumerate(item.connection.ends):
            if item.error is None and end.netns in lost:
                field = f"{'ab'[n]}.netns"
                item.error = NetnsGone(f"{field}: namespace {end.netns!r} went away meanwhile", field=field)
        underlay = _sender(item.connection)  # of a pair it is our own, which does not go
        if item.error is None and underlay in lost:
            field = "vxlan.underlay"
            item.error = NetnsGone(f"{field}: namespace {underlay!r} went away meanwhile", field=field)
