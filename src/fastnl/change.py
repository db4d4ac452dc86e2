"""Changing: from what is wired to what is wanted, by the fewest messages, all or nothing."""

from __future__ import annotations

import errno
from collections.abc import Container, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fastnl import birth, rules, settings, sweep
from fastnl._nl import Address, AddrRow, LinkRow, Phase, Problem, Tour, Visit
from fastnl.errors import FastnlError, InternalError, InvalidValue, NetnsGone
from fastnl.explain import explain, name_in_use
from fastnl.links import Connection, End, Veth, Vxlan
from fastnl.netns import Handles
from fastnl.offload import offload
from fastnl.reach import open_end, open_named
from fastnl.wired import Move, Place, Result, Wired

if TYPE_CHECKING:
    from fastnl.batch import Host

RT_SCOPE_LINK = 253  # include/uapi/linux/rtnetlink.h
BORN_MTU, BORN_TXQLEN = 1500, 1000  # of an Ethernet device of which nothing is asked


def in_place(old: Connection, new: Connection) -> bool:
    """Whether one can become the other without being made anew."""
    if type(old) is not type(new) or any(
        o.netns != n.netns or o.queues != n.queues for o, n in zip(old.ends, new.ends, strict=True)
    ):
        return False
    # only the end and the MTU of these can change while they live
    if not isinstance(old, Veth) and not isinstance(new, Veth) and replace(old, a=new.a, mtu=new.mtu) != new:
        return False
    # another name means another interface where it was found; a new master makes the interface come up anew
    if any(
        o.master != n.master or (old.found and o.ifname != n.ifname) for o, n in zip(old.ends, new.ends, strict=True)
    ):
        return False
    return not any(
        # an MTU or queue length that is no longer asked for goes back only to what is known
        (not (_is_ethernet(old) or old.found) and _is_dropped(o, old, n, new))
        or (not (isinstance(old, Veth) or old.found) and _says_less_of_checksums(o, n))
        # an IPv6 side does not go, nor come without a link-local address, while the interface lives
        or (o.ipv6 and not n.ipv6)
        or ((_mtu(o, old) or 1500) < 1280 <= (_mtu(n, new) or 1500))
        for o, n in zip(old.ends, new.ends, strict=True)
    )


def _is_dropped(o: End, old: Connection, n: End, new: Connection) -> bool:
    return (_mtu(o, old) is not None and _mtu(n, new) is None) or (o.txqlen is not None and n.txqlen is None)


def _says_less_of_checksums(o: End, n: End) -> bool:
    before, now = (o.rx_checksum, o.tx_checksum), (n.rx_checksum, n.tx_checksum)
    return any(b is not None and w is None for b, w in zip(before, now, strict=True))


def _is_ethernet(connection: Connection) -> bool:
    """Whether the kernel makes it with ETH_DATA_LEN and DEFAULT_TX_QUEUE_LEN."""
    return connection.kind in ("veth", "tap", "dummy")


def _mtu(end: End, connection: Connection) -> int | None:
    return connection.inner_mtu if isinstance(connection, Vxlan) else end.mtu or connection.mtu


def update(host: Host, handles: Handles, changes: Sequence[tuple[Wired, Connection]]) -> list[Result]:
    """See Host.update."""
    results: list[Result | None] = [None] * len(changes)
    alter: list[int] = []
    anew: list[int] = []
    for n, (wired, new) in enumerate(changes):
        if wired.connection == new:
            results[n] = Result(wired=wired, changed=False)
        elif in_place(wired.connection, new):
            alter.append(n)
        else:
            anew.append(n)
    for n, result in zip(alter, _alter(host, handles, [changes[n] for n in alter]), strict=True):
        if result is None:
            anew.append(n)
        else:
            results[n] = result
    for n, result in zip(anew, _recreate(host, handles, [changes[n] for n in anew]), strict=True):
        results[n] = result
    return [r for r in results if r is not None]


# -- in place --------------------------------------------------------------------------------------


def _alter(host: Host, handles: Handles, changes: Sequence[tuple[Wired, Connection]]) -> list[Result | None]:
    """Changes in place; None where only a new interface can take the change."""
    results: list[Result | None] = [None] * len(changes)
    tour = Tour(len(changes))
    visits: dict[int, Visit] = {}
    looks = Tour(len(changes), False)
    looking: dict[int, Visit] = {}
    for n, (wired, new) in enumerate(changes):
        try:
            fds = _reach(handles, wired)
        except FastnlError as e:
            results[n] = Result(wired=wired, error=e, changed=False)
            continue
        for end, fd in enumerate(fds):
            visit = visits.get(fd)
            if visit is None:
                visit = visits[fd] = tour.visit(fd)
            _write_changes(host, visit, n, end, wired, new, _name(host, fd, wired, new, end))
            if _sets_what_was_left_open(wired.connection, new, end):
                if fd not in looking:
                    looking[fd] = looks.visit(fd, asks=True)
                looking[fd].get_link(n, wired.places[end].ifindex)
    if looking:
        host.run(looks)
    host.run(tour)
    first: dict[int, Problem] = {}
    refused: set[tuple[int, int, int, int]] = set()
    for problem in tour.problems():
        if not problem.soft:
            first.setdefault(problem.item, problem)
            refused.add(problem[:4])
    back = []
    for n, (wired, new) in enumerate(changes):
        found = first.get(n)
        if results[n] is not None:
            continue
        if found is None:
            error = _offload_anew(handles, wired, new) or _rules_anew(host, handles, wired, new)
            if error is None:
                results[n] = Result(wired=Wired(new, wired.places))
            else:
                results[n] = Result(wired=wired, error=error, changed=False)
                back.append(n)
            continue
        back.append(n)
        if not _only_anew(wired.connection, found):
            results[n] = Result(wired=wired, error=_change_error(new, found), changed=False)
    if back:
        was = {(fd, row.ifindex): row for fd, visit in looking.items() for row in visit.rows()}
        not_done = {(back.index(n), phase, end, i) for n, phase, end, i in refused if n in back}
        _take_back(host, handles, [changes[n] for n in back], was, not_done)
    return results


def _offload_anew(handles: Handles, wired: Wired, new: Connection) -> FastnlError | None:
    for n, (old, end, fd) in enumerate(zip(wired.connection.ends, new.ends, _reach(handles, wired), strict=True)):
        if (old.rx_checksum, old.tx_checksum) != (end.rx_checksum, end.tx_checksum):
            # what is found keeps what it has
            refused = offload(fd, end, "ab"[n], None if new.found else old)
            if refused is not None:
                return refused
    return None


def _rules_anew(host: Host, handles: Handles, wired: Wired, new: Connection) -> FastnlError | None:
    old = wired.connection
    if not rules.any_of((old, new)):
        return None
    fds = _reach(handles, wired)
    return rules.exchange(host, rules.of(old, fds, without=new), rules.of(new, fds, without=old))


def _only_anew(old: Connection, found: Problem) -> bool:
    """Whether the kernel refuses for a reason that a new interface would not have."""
    if found.errno == errno.ENODEV:
        return True  # somebody deleted the interface
    if found.phase == Phase.CHANGE:
        return found.errno == errno.EBUSY  # before 6.2 an interface that is up cannot be renamed
    if found.phase == Phase.SETTING:
        return found.errno == errno.ENOENT and not old.found  # somebody deleted or renamed it
    # somebody switched IPv6 off on it
    return found.phase == Phase.ADDRESS and found.errno == errno.EACCES and not old.found


def _sets_what_was_left_open(old: Connection, new: Connection, end: int) -> bool:
    """Whether a value that the kernel chose is about to be replaced: to take it back it has to be known."""
    o, w = old.ends[end], new.ends[end]
    return any(
        then is None and now is not None
        for then, now in ((_mtu(o, old), _mtu(w, new)), (o.mac, w.mac), (o.txqlen, w.txqlen))
    )


def _change_error(new: Connection, found: Problem) -> FastnlError:
    if found.errno == errno.EEXIST and found.phase == Phase.CHANGE:
        return name_in_use(new, found.end)
    return explain(new, found)


def _reach(handles: Handles, wired: Wired) -> tuple[int, ...]:
    """The open namespaces of a wired connection, each checked to be the one it was wired in."""
    fds = []
    for n, (end, place) in enumerate(zip(wired.connection.ends, wired.places, strict=True)):
        fd = open_end(handles, end, "ab"[n])
        if handles.identity(fd) != place.netns:
            field = f"{'ab'[n]}.netns"
            raise NetnsGone(f"{field}: {end.netns!r} means another namespace than before", field=field)
        fds.append(fd)
    return tuple(fds)


def _name(host: Host, fd: int, wired: Wired, new: Connection, end: int) -> str:
    """What an interface is called now, if a change of it may write files; "" if not, or if it is gone.

    They go by its name, and by the name that it ought to have they may be somebody else's.
    """
    o, w = wired.connection.ends[end], new.ends[end]
    again = o is w  # as when it is mended
    if not (o.settings or w.settings or (w.ipv6 and (again or not o.ipv6))):
        return ""
    tour = Tour(1, False)
    visit = tour.visit(fd, asks=True)
    visit.get_link(0, wired.places[end].ifindex)
    host.run(tour)
    rows: list[LinkRow] = visit.rows()
    return rows[0].ifname if rows else ""


def _write_changes(
    host: Host,
    visit: Visit,
    n: int,
    end: int,
    wired: Wired,
    new: Connection,
    name: str,
    not_there: Container[tuple[int, int, int, int]] = (),
) -> None:
    """The messages that turn one end into what it shall be; what goes goes first, so that it is not in the way.

    name: see _name; not_there: (item, phase, end, place) of what the old connection has and the interface never got.
    """
    old = wired.connection
    o, w, index = old.ends[end], new.ends[end], wired.places[end].ifindex
    # sets, as there may be thousands
    had, wanted = ({*e.addresses, *e.routes, *e.neighbours} for e in (o, w))
    if name:
        settings.write_changes(visit, n, end, o, w, name)
    if name and w.ipv6 and not o.ipv6 and not new.found:
        # made without it in a crowd, or in a namespace where it is switched off for new interfaces
        visit.allow_ipv6(n, end, name)
    for i, neighbour in enumerate(o.neighbours):
        if neighbour not in wanted and (n, Phase.NEIGHBOUR, end, i) not in not_there:
            visit.neighbour(n, index, neighbour, False, end, i, soft=True)
    for i, route in enumerate(o.routes):
        if route not in wanted and (n, Phase.ROUTE, end, i) not in not_there:
            visit.route(n, index, route, False, end, i, soft=True)
    for i, address in enumerate(o.addresses):
        if address not in wanted and (n, Phase.ADDRESS, end, i) not in not_there:
            visit.address(n, index, address, False, end, i, soft=True)
    mtu, mac, txqlen, alias = _mtu(w, new), w.mac or o.mac, w.txqlen, host.alias(new, end)
    if _is_ethernet(new):
        # which MAC it once had nobody knows, so it keeps this one
        mtu = mtu or (BORN_MTU if _mtu(o, old) else None)
        txqlen = BORN_TXQLEN if txqlen is None and o.txqlen is not None else txqlen
    if mtu != _mtu(o, old) or mac != o.mac or txqlen != o.txqlen or w.ifname != o.ifname or w.up != o.up:
        visit.change(
            n,
            index,
            end=end,
            name=w.ifname if w.ifname != o.ifname else None,
            mtu=mtu if mtu != _mtu(o, old) else None,
            mac=mac if mac != o.mac else None,
            txqlen=txqlen if txqlen != o.txqlen else None,
            up=w.up if w.up != o.up else None,
        )
    if alias != host.alias(old, end) or (end == 0 and not new.found):
        # also when it stays: messages that only take away do not notice that somebody deleted the interface
        visit.change(n, index, end=end, alias=alias)
    # An address that goes takes the secondaries of its subnet along, and routes and neighbours that hung on
    # it; a new MAC makes the kernel forget the neighbours, and what goes down its IPv6 addresses.  So what stays is
    # said again.
    shaken = mac != o.mac or w.up != o.up or any(a not in wanted for a in o.addresses)
    for i, address in enumerate(w.addresses):
        kept = address in had
        if not kept or shaken:
            visit.address(n, index, address, True, end, i, soft=kept)
    for i, route in enumerate(w.routes):
        kept = route in had
        if not kept or shaken:
            visit.route(n, index, route, True, end, i, replace=kept)
    for i, neighbour in enumerate(w.neighbours):
        if neighbour not in had or shaken:
            visit.neighbour(n, index, neighbour, True, end, i)


def _take_back(
    host: Host,
    handles: Handles,
    changes: Sequence[tuple[Wired, Connection]],
    was: dict[tuple[int, int], LinkRow],
    refused: set[tuple[int, int, int, int]],
) -> None:
    """Undoes changes of which a part failed; what was not done yet fails again, which is fine.

    was      how the kernel had chosen what the old connection leaves open, by namespace and index
    refused  (item, phase, end, place) that the kernel did not take: what is there of it is somebody else's
    """
    tour = Tour(len(changes), False)
    for n, (wired, new) in enumerate(changes):
        for end, fd in enumerate(_reach(handles, wired)):
            visit, index = tour.visit(fd), wired.places[end].ifindex
            name = _name(host, fd, wired, new, end)
            _write_changes(host, visit, n, end, Wired(new, wired.places), wired.connection, name, refused)
            row = was.get((fd, index))
            if row is not None:
                visit.change(n, index, end=end, mtu=row.mtu, mac=row.mac, txqlen=row.txqlen)
    host.run(tour)


# -- mending ---------------------------------------------------------------------------------------


def mend(host: Host, handles: Handles, wired: Sequence[Wired], strict: bool) -> list[Result]:
    """See Host.mend."""
    tour = Tour(len(wired))
    visits: dict[int, Visit] = {}
    anew: list[int] = []
    results: dict[int, Result] = {}
    reached: dict[int, tuple[int, ...]] = {}
    for n, w in enumerate(wired):
        try:
            reached[n] = _reach(handles, w)
        except FastnlError as e:
            results[n] = Result(wired=w, error=e, changed=False)
    foreign = _foreign_addresses(host, {n: (wired[n], fds) for n, fds in reached.items()}, strict)
    masters = _masters(host, {n: (wired[n], fds) for n, fds in reached.items()})
    for n, fds in reached.items():
        w = wired[n]
        for end, fd in enumerate(fds):
            if fd not in visits:
                visits[fd] = tour.visit(fd)
            # they go first: one of ours that is a secondary of theirs goes with it, and is said again
            for address in foreign.get((fd, w.places[end].ifindex), ()):
                visits[fd].address(n, w.places[end].ifindex, address, False, end, 0, soft=True)
            named = _name(host, fd, w, w.connection, end) == w.connection.ends[end].ifname
            _say_all_again(host, visits[fd], n, end, w, masters.get((n, end), 0), named)
    host.run(tour)
    broken = {problem.item for problem in tour.problems() if not problem.soft or _is_still_missing(problem)}
    broken |= _renamed(host, {n: (wired[n], fds) for n, fds in reached.items() if wired[n].connection.found})
    for n, w in enumerate(wired):
        if n in broken:
            anew.append(n)
        elif n not in results:
            results[n] = Result(wired=w)
    results |= zip(anew, _recreate(host, handles, [(wired[n], wired[n].connection) for n in anew]), strict=True)
    return [results[n] for n in range(len(wired))]


def _renamed(host: Host, found: dict[int, tuple[Wired, tuple[int, ...]]]) -> set[int]:
    """Interfaces of others that have another name now: they are not what was asked for any more."""
    if not found:
        return set()
    tour = Tour(len(found), False)
    looking = {}
    for n, (w, fds) in found.items():
        looking[n] = tour.visit(fds[0], asks=True)
        looking[n].get_link(n, w.places[0].ifindex)
    host.run(tour)
    return {n for n, visit in looking.items() if any(r.ifname != found[n][0].connection.a.ifname for r in visit.rows())}


def _is_still_missing(problem: Problem) -> bool:
    """Whether an address or rule could not be put back; that it is there is no problem."""
    return problem.phase in (Phase.ADDRESS, Phase.RULE) and problem.errno not in (0, errno.EEXIST, *sweep.GONE)


def _foreign_addresses(
    host: Host, ends: dict[int, tuple[Wired, tuple[int, ...]]], strict: bool
) -> dict[tuple[int, int], list[Address]]:
    """The addresses that are in the way, by open namespace and index: ours with another prefix length.

    IPv6 takes such a one for ours when it is added again.  strict: every address that nobody asked for.
    """
    tour = Tour(1, False)
    wanted: dict[tuple[int, int], set[str]] = {}
    only: dict[tuple[int, int], set[str]] = {}
    questions: dict[int, Visit] = {}
    for w, fds in ends.values():
        for end, place, fd in zip(w.connection.ends, w.places, fds, strict=True):
            all_go = strict and not (end.keep_addresses or w.connection.found)
            if not (all_go or end.addresses):
                continue
            wanted[fd, place.ifindex] = {a.text for a in end.addresses}
            if not all_go:
                only[fd, place.ifindex] = {a.ip for a in end.addresses}
            if fd not in questions:
                questions[fd] = tour.visit(fd, asks=True)
                questions[fd].dump_addresses()
    host.run(tour)
    foreign: dict[tuple[int, int], list[Address]] = {}
    for fd, question in questions.items():
        for row in question.rows():
            asked, ips = wanted.get((fd, row.ifindex)), only.get((fd, row.ifindex))
            if ips is not None and row.address.partition("/")[0] not in ips:
                continue
            if asked is not None and is_foreign(row, asked):
                foreign.setdefault((fd, row.ifindex), []).append(Address(row.address))
    return foreign


def is_foreign(row: AddrRow, asked: Container[str]) -> bool:
    """Whether an address is neither one of those asked for nor the link-local one that the kernel gives itself."""
    return row.address not in asked and row.scope != RT_SCOPE_LINK


def _masters(host: Host, ends: dict[int, tuple[Wired, tuple[int, ...]]]) -> dict[tuple[int, int], int]:
    """The indexes of masters, by item and end; those that are not there are left out."""
    out: dict[tuple[int, int], int] = {}
    for n, (w, fds) in ends.items():
        items = birth.items_of([w.connection], [fds])
        birth.find_masters(host, items)
        out |= {(n, end): index for end, index in enumerate(items[0].masters) if index}
    return out


def _say_all_again(host: Host, visit: Visit, n: int, end: int, wired: Wired, master: int, named: bool) -> None:
    """Everything that can be said of an interface that is there; what is so already changes nothing.

    named   it has the name that it ought to have
    """
    connection, index = wired.connection, wired.places[end].ifindex
    e = connection.ends[end]
    ours = not connection.found
    # the files of an interface of that name are not ours if somebody has renamed ours
    if e.settings and named:
        settings.write(visit, n, end, e)
    if e.ipv6 and ours and named:
        visit.allow_ipv6(n, end, e.ifname)
    if master:
        visit.change(n, index, end=end, master=master)
    visit.change(
        n, index, end=end, name=e.ifname if ours else None, mtu=_mtu(e, connection), mac=e.mac, txqlen=e.txqlen,
        up=e.up, alias=host.alias(connection, end) if ours else None, group=host.group if ours else None,
    )  # fmt: skip
    for i, address in enumerate(e.addresses):
        visit.address(n, index, address, True, end, i, soft=True)
    for i, route in enumerate(e.routes):
        visit.route(n, index, route, True, end, i, replace=True)
    for i, neighbour in enumerate(e.neighbours):
        visit.neighbour(n, index, neighbour, True, end, i)
    for i, rule in enumerate(e.rules):
        visit.rule(n, rule, True, end, i, soft=True)


# -- anew ------------------------------------------------------------------------------------------


def _recreate(host: Host, handles: Handles, changes: Sequence[tuple[Wired, Connection]]) -> list[Result]:
    """Removes and makes anew; where the new one cannot be made, the old one is made again."""
    results = _out_of_reach(handles, changes)
    leaving = [n for n in range(len(changes)) if n not in results]
    removed = sweep.remove(host, handles, [changes[n][0] for n in leaving])
    results |= zip(leaving, removed, strict=True)
    going = [n for n in leaving if results[n].error is None]
    made = birth.create(host, handles, [changes[n][1] for n in going])
    failed = [n for n, r in zip(going, made, strict=True) if r.error is not None]
    again = birth.create(host, handles, [changes[n][0].connection for n in failed])
    results |= zip(going, made, strict=True)
    for n, old in zip(failed, again, strict=True):
        error = results[n].error
        if old.wired is None and error is not None:
            error.message += f"; and what was there before could not be restored: {old.error}"
        results[n] = Result(wired=old.wired, error=error, changed=old.wired is None)
    return [results[n] for n in range(len(changes))]


def _out_of_reach(handles: Handles, changes: Sequence[tuple[Wired, Connection]]) -> dict[int, Result]:
    """Those whose new namespaces are not there: nothing is taken down for them."""
    results = {}
    for n, (wired, new) in enumerate(changes):
        try:
            for i, end in enumerate(new.ends):
                open_end(handles, end, "ab"[i])
            if isinstance(new, Vxlan):
                open_named(handles, new.underlay, "vxlan.underlay")
        except FastnlError as e:
            results[n] = Result(wired=wired, error=e, changed=False)
    return results


# -- moves -----------------------------------------------------------------------------------------


def move(host: Host, handles: Handles, moves: Sequence[Move]) -> list[Result]:
    """See Host.move."""
    results: list[Result | None] = [None] * len(moves)
    anew: list[tuple[int, Connection]] = []
    real: list[tuple[int, Connection]] = []
    for n, m in enumerate(moves):
        try:
            new = elsewhere(m)
        except FastnlError as e:
            results[n] = Result(wired=m.wired, error=e, changed=False)
            continue
        if new == m.wired.connection:
            results[n] = Result(wired=m.wired, changed=False)
        else:
            (real if m.mode == "move" else anew).append((n, new))
    for n, new in real:
        # one after another: each costs grace periods that no batch can share
        result = _move(host, handles, moves[n], new)
        if result.error is not None and result.error.phase == "move" and result.error.errno == errno.ENODEV:
            anew.append((n, new))  # somebody deleted it, so there is nothing to be kept
        else:
            results[n] = result
    recreated = _recreate(host, handles, [(moves[n].wired, new) for n, new in anew])
    for (n, _), result in zip(anew, recreated, strict=True):
        results[n] = result
    return [r for r in results if r is not None]


def elsewhere(m: Move) -> Connection:
    """The connection with one end in its new namespace.  Raises InvalidValue."""
    old = m.wired.connection
    if old.found:
        raise InvalidValue("id", f"{old.id!r} is an interface that somebody else made, which stays where it is")
    e = old.ends[m.end]
    if e.master and m.mode == "move":
        raise InvalidValue("mode", f"a port of {e.master!r} cannot be moved, only made anew")
    moved = replace(e, netns=m.netns, where="ab"[m.end])
    if isinstance(old, Veth):
        return replace(old, a=moved) if m.end == 0 else replace(old, b=moved)
    return replace(old, a=moved)


def _move(host: Host, handles: Handles, m: Move, new: Connection) -> Result:
    wired = m.wired
    try:
        source = _reach(handles, wired)[m.end]
        target = open_end(handles, new.ends[m.end], "ab"[m.end])
    except FastnlError as e:
        return Result(wired=wired, error=e, changed=False)
    index = there = wired.places[m.end].ifindex
    if target == source:
        return Result(wired=Wired(new, wired.places), changed=False)
    error = _carry(host, wired.connection, new, m.end, (index, there), source, target)
    if error is not None and error.phase == "move" and error.errno == errno.EBUSY:
        # somebody in the target has that index
        there = host.take_indexes(1)[0]
        error = _carry(host, wired.connection, new, m.end, (index, there), source, target)
    error = error or _carry_rules(host, wired.connection, new, m.end, source, target)
    if error is None:
        places = list(wired.places)
        places[m.end] = Place(there, handles.identity(target))
        moved = Wired(new, tuple(places))
        host.count(wired.places, -1)
        host.count(moved.places, 1)
        return Result(wired=moved)
    if error.phase == "move":
        return Result(wired=wired, error=error, changed=False)
    back = _carry(host, new, wired.connection, m.end, (there, index), target, source)
    if back is not None:
        error.message += f"; and it could not be taken back: {back}"
    return Result(wired=wired if back is None else None, error=error, changed=back is not None)


def _carry_rules(
    host: Host, old: Connection, new: Connection, end: int, source: int, target: int
) -> FastnlError | None:
    """Policy rules stay where they are: an end that moves gets them anew."""
    here, there = [-1] * len(old.ends), [-1] * len(old.ends)
    here[end], there[end] = source, target
    return rules.exchange(host, rules.of(old, here), rules.of(new, there)) if rules.any_of((old,)) else None


def _carry(
    host: Host, old: Connection, new: Connection, end: int, indexes: tuple[int, int], source: int, target: int
) -> FastnlError | None:
    """Moves one interface and furnishes it again: it arrives down, without addresses, routes and neighbours.

    indexes: here and there.  The latter is asked for, so that the kernel refuses (EBUSY) where it would
    otherwise give another one, and the furniture go to whoever has the index there.
    """
    tour = Tour(1)
    # going down first is part of the move anyway; as its own message it costs no more
    tour.visit(source).move(0, indexes[0], target, end=end, new_index=indexes[1])
    arrival = tour.visit(target)
    birth.furnish(host, arrival, 0, new, end, indexes[1], 1, allow_ipv6=True)
    arrival.furnish_late(0, end, indexes[1], new.ends[end])
    host.run(tour)
    for problem in tour.problems():
        if problem.soft:
            continue
        if problem.errno == 0:
            return InternalError("the kernel's answer to a move was lost", phase="move")
        if problem.phase == Phase.MOVE and problem.errno == errno.EEXIST:
            error: FastnlError = name_in_use(new, end)
            error.phase = "move"
            return error
        return explain(new if problem.phase != Phase.MOVE else old, problem)
    return None
