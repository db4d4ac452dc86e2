"""Other ways to make and delete the same pairs, as messages: what `bench.studies` compares with what fastnl sends.

A plan fills a tour with the messages of a batch.  It is gone through once, written down and replayed by the floor's C
program, as the library's own messages are.  So what is compared is the kernel's work alone.  What a plan leaves
behind is read back, and what differs from the library's is said.
"""

from __future__ import annotations

import ctypes
import functools
import os
import secrets
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from bench.record import Recorder
from bench.replay import FLOOR, Floor
from fastnl import Host, Veth, netns
from fastnl._nl import Tour, Visit
from fastnl.netns import RUN_NETNS, Handles
from fastnl.sweep import cover
from fastnl_engine.bench.contenders import BATCH, Clock, Step, Time, split

RTM_NEWLINK, IFF_UP = 16, 1
CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000
_libc = ctypes.CDLL(None, use_errno=True)


class Pair(NamedTuple):
    """One pair of a batch: its number there, and the open namespace and the index of each end."""

    n: int
    veth: Veth
    fds: tuple[int, ...]
    indexes: tuple[int, ...]


@dataclass
class Batch:
    tour: Tour
    pairs: Sequence[Pair]
    host: Host
    here: int  # the namespace of the process, open
    room: int = -1  # another one, where pairs are held ready


Fill = Callable[[Batch], None]


class Replay(Floor):
    """What plans do, step by step, gone through once and written down; then it is a contender like the floor.

    steps    the plan of each step
    sizes    pairs of a batch, where that is not `batch`
    kept     namespaces and sockets are opened while the clock stands still
    room     a namespace besides those of the pairs
    before   is called before each step, while the clock stands still
    after    what was left by the step that made the pairs, as `look` tells it
    """

    def __init__(
        self,
        name: str,
        pairs: Sequence[Veth],
        folder: Path,
        steps: Mapping[str, Fill],
        *,
        batch: int = BATCH,
        sizes: Mapping[str, int] | None = None,
        kept: bool = False,
        room: str = "",
        before: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.name, self.count, self.messages = name, len(pairs), {}
        self._command = [str(FLOOR), *(["-k"] if kept else [])]
        self._folder = folder / "".join(c if c.isalnum() else "-" for c in name)
        self._folder.mkdir(parents=True)
        self._before = before
        host = Host("bench")
        numbered = [(pair, host.take_indexes(2)) for pair in pairs]
        for step, fill in steps.items():
            before(step)
            recorder = Recorder()
            for part in split(numbered, (sizes or {}).get(step, batch)):
                recorder.begin()
                with Handles() as handles:
                    # in the library's order, so that even descriptors are the same
                    handles.open_all(e.netns for veth, _ in part for e in veth.ends)
                    here = handles.open("")
                    work = [
                        Pair(n, veth, tuple(handles.open(e.netns) for e in veth.ends), indexes)
                        for n, (veth, indexes) in enumerate(part)
                    ]
                    tour = Tour(len(work))
                    fill(Batch(tour, work, host, here, handles.open(room)))
                    threads = len(tour.visits) if isinstance(fill, Sweep) else 1  # as the library does
                    tour.run(threads)
                    if tour.problems():
                        raise RuntimeError(f"{name}, {step}: {tour.problems()[:3]}")
                    recorder(tour, threads)
            recorder.write(self.recording(step))  # type: ignore[arg-type]  # steps of our own
            self.messages[step] = recorder.messages / self.count
            if step in ("create", "hand out"):
                time.sleep(0.3)  # link-local addresses come when the kernel has found the carrier
                self.after = look(host, pairs[-1])

    def step(self, step: Step) -> Time:
        self._before(step)
        return super().step(step)


def look(host: Host, pair: Veth) -> dict[str, object]:
    """What can be seen of a pair, without what is different each time."""
    seen: dict[str, object] = {}
    for side, end in zip("ab", pair.ends, strict=True):
        for row in host.links(end.netns):
            if row.ifname == end.ifname:
                mine = [a.address for a in host.addresses(end.netns) if a.ifindex == row.ifindex]
                seen |= {
                    f"{side}: up": row.up, f"{side}: alias": bool(row.alias), f"{side}: group": row.group == host.group,
                    f"{side}: IPv6 mode": row.addr_gen_mode, f"{side}: mtu": row.mtu,
                    f"{side}: IPv4 addresses": sum("." in a for a in mine),
                    f"{side}: link-local addresses": sum(":" in a for a in mine),
                    f"{side}: carrier": bool(row.flags & 1 << 16),
                }  # fmt: skip
    return seen


def different(mine: Mapping[str, object], its: Mapping[str, object]) -> str:
    """In words, what is not the same."""
    keys = [key for key in its if mine.get(key) != its[key]]
    return ", ".join(f"{key} {mine.get(key, 'nothing')} instead of {its[key]}" for key in keys)


# -- making ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Birth:
    """How pairs are made; as it stands, like the library's.

    mode         IPv6's mode: in a message "before" the one that brings an end up; "merged" with it at the end that
                 comes first and has no carrier yet; "never"; "file": the interface's own disable_ipv6
    born_up      the first end comes up with the create
    alias        whether there is one
    first        what comes first after the mode: "up" or "addresses"
    order        of the ends
    by_group     mode and up in one message for each namespace, for a group that only this batch is in
    inside       the create is sent from the first end's namespace, within the visit that is made anyway
    create       whether they have to be made at all, or are there already and down
    """

    mode: str = "before"
    born_up: bool = False
    alias: bool = True
    first: str = "up"
    order: tuple[int, ...] = (0, 1)
    by_group: bool = False
    inside: bool = False
    create: bool = True

    def __call__(self, batch: Batch) -> None:
        group = secrets.randbelow(1 << 30) | 1 << 30 if self.by_group else batch.host.group
        home = _visits(batch)
        if self.create:
            for pair in batch.pairs:
                message = birth(pair, group)
                if self.born_up:
                    struct.pack_into("=II", message, 24, IFF_UP, IFF_UP)  # ifi_flags, ifi_change
                home(pair.fds[0] if self.inside else batch.here).raw(pair.n, bytes(message))
        for pair in batch.pairs:
            for end in self.order:
                visit = home(pair.fds[end])
                if not self.by_group:
                    self._furnish(batch, visit, pair, end)
        if self.by_group:
            self._furnish_groups(batch, home, group)

    def _furnish(self, batch: Batch, visit: Visit, pair: Pair, end: int) -> None:
        n, index, e = pair.n, pair.indexes[end], pair.veth.ends[end]
        alias = batch.host.alias(pair.veth, end) if self.alias else None
        if self.first == "addresses":
            visit.furnish(n, end, index, e)
        if self.mode == "file":
            visit.no_ipv6(n, e.ifname)
        if self.born_up and end == 0:
            visit.change(n, index, alias=alias, addr_gen_mode=1)
        elif self.mode == "before":
            visit.bring_up(n, end, index, alias, 1)
        elif self.mode == "merged" and end == self.order[0]:
            visit.change(n, index, up=True, alias=alias, addr_gen_mode=1)
        else:
            visit.bring_up(n, end, index, alias, 1 if self.mode == "merged" else -1)
        if self.first == "up":
            visit.furnish(n, end, index, e)

    def _furnish_groups(self, batch: Batch, home: Callable[[int], Visit], group: int) -> None:
        """A namespace's members together; the alias is for each, and puts it into the group that it shall stay in."""
        for fd in dict.fromkeys(fd for pair in batch.pairs for fd in pair.fds):
            visit = home(fd)
            visit.raw(batch.pairs[0].n, to_group(group, addr_gen_mode=1))
            visit.raw(batch.pairs[0].n, to_group(group, up=True))
            for pair in batch.pairs:
                for end in (end for end in self.order if pair.fds[end] == fd):
                    index = pair.indexes[end]
                    visit.change(pair.n, index, alias=batch.host.alias(pair.veth, end), group=batch.host.group)
                    visit.furnish(pair.n, end, index, pair.veth.ends[end])


def birth(pair: Pair, group: int) -> bytearray:
    """The message that the library creates a pair with."""
    draft = Tour(1).visit(pair.fds[0])
    draft.veth(0, pair.veth, pair.fds[0], pair.indexes[0], pair.fds[1], pair.indexes[1], group)
    return bytearray(draft.messages()[0])


def to_group(group: int, *, up: bool | None = None, addr_gen_mode: int = -1) -> bytes:
    """A change of all members of a group in a namespace (rtnl_group_changelink): RTM_NEWLINK that names nobody."""
    draft = Tour(1).visit(0)
    draft.change(0, 0, up=up, addr_gen_mode=addr_gen_mode, group=group)
    message = bytearray(draft.messages()[0])
    struct.pack_into("=H", message, 4, RTM_NEWLINK)
    return bytes(message)


class Create(Birth):
    """The pairs alone, not furnished."""

    def __call__(self, batch: Batch) -> None:
        hold()(batch)


def settings_of_namespaces(pairs: Sequence[Veth], file: str) -> Callable[[str], None]:
    """To be called before each step: the default of every namespace is 1 for a create, and 0 again for a delete.

    Written by a thread that ends afterwards, as it has left its namespace.
    """

    def write(value: str) -> None:
        for name in dict.fromkeys(e.netns for p in pairs for e in p.ends):
            fd = os.open(f"{RUN_NETNS}/{name}", os.O_RDONLY | os.O_CLOEXEC)
            if _libc.setns(fd, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            os.close(fd)
            Path(f"/proc/sys/net/ipv6/conf/default/{file}").write_text(value)

    def before(step: str) -> None:
        writer = threading.Thread(target=write, args=("1" if step == "create" else "0",))
        writer.start()
        writer.join()

    return before


# -- pairs held ready --------------------------------------------------------------------------------


def nothing(batch: Batch) -> None:
    """A step that is none."""
    _seen(batch, [batch.here])


def _seen(batch: Batch, fds: Iterable[int]) -> None:
    """A descriptor that a message names has to be written down, so its namespace gets a visit without messages."""
    for fd in dict.fromkeys(fds):
        batch.tour.visit(fd)


def hold(ends: Sequence[int] = (), *, prefix: str = "") -> Fill:
    """Makes pairs of which these ends are in the holding room, and the others where they belong.

    prefix: of names that had to be chosen before anybody asked.
    """

    def fill(batch: Batch) -> None:
        visit = batch.tour.visit(batch.here)
        for pair in batch.pairs:
            fds = tuple(batch.room if end in ends else fd for end, fd in enumerate(pair.fds))
            a, b = (replace(e, ifname=prefix + e.ifname) for e in pair.veth.ends)
            held = pair._replace(fds=fds, veth=replace(pair.veth, a=a, b=b))
            visit.raw(pair.n, bytes(birth(held, batch.host.group)))
        _seen(batch, [batch.room, *(fd for pair in batch.pairs for fd in pair.fds)])

    return fill


def hand_out(ends: Sequence[int] = ()) -> Fill:
    """Moves these ends from the holding room to where they belong, and furnishes both."""

    def fill(batch: Batch) -> None:
        if ends:
            visit = batch.tour.visit(batch.room)
            for pair in batch.pairs:
                for end in ends:
                    visit.move(pair.n, pair.indexes[end], pair.fds[end])
        Birth(create=False)(batch)

    return fill


def rename(batch: Batch) -> None:
    """Gives pairs that are ready in place the names that are asked for, and furnishes them."""
    visits = _visits(batch)
    for pair in batch.pairs:
        for end, e in enumerate(pair.veth.ends):
            visits(pair.fds[end]).change(pair.n, pair.indexes[end], name=e.ifname)
    Birth(create=False)(batch)


class Namespaces:
    """Namespaces under names that are not known beforehand: made, or taken from those that were made before.

    One that is ready is given its name by a second mount of it; the first one goes with the last step.
    """

    form = "born"

    def __init__(self, name: str, count: int, *, held: bool) -> None:
        self.name, self.count, self._held = name, count, held

    def step(self, step: Step) -> Time:
        clock = Clock(self.count)
        for n in range(self.count):
            self._one(step, f"held{n}", f"asked{n}")
        return clock.read()

    def _one(self, step: str, held: str, asked: str) -> None:
        if step == "prepare":
            if self._held:
                netns.create(held)
        elif step == "hand out":
            if not self._held:
                netns.create(asked)
                return
            (Path(RUN_NETNS) / asked).touch(exist_ok=False)
            if _libc.mount(*(f"{RUN_NETNS}/{name}".encode() for name in (held, asked)), None, MS_BIND, None):
                raise OSError(ctypes.get_errno(), "mount")
        else:
            netns.remove(asked)
            if self._held:
                netns.remove(held)


# -- deleting ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sweep:
    """How pairs are deleted; as it stands, like the library's.

    probe      whether the group is asked for members first
    addresses  whether they are removed first
    lone       one that goes alone in its namespace is deleted by its index, without a group
    born       everything of the group that they were born into goes, without marking
    """

    probe: bool = True
    addresses: bool = True
    lone: bool = False
    born: bool = False

    def __call__(self, batch: Batch) -> None:
        group = batch.host.group if self.born else secrets.randbelow(1 << 30) | 1 << 30
        places: dict[int, list[tuple[Pair, int]]] = {}
        for pair, end in zip(batch.pairs, cover([p.fds for p in batch.pairs]), strict=True):
            places.setdefault(pair.fds[end], []).append((pair, end))
        for fd, going in places.items():
            visit = batch.tour.visit(fd)
            alone = self.lone and len(going) == 1
            item = going[0][0].n
            if self.probe and not alone and not self.born:
                visit.probe_group(item, group)
            for pair, end in going:
                if self.addresses:
                    drop(visit, pair, end)
                if alone:
                    visit.delete(item, pair.indexes[end])
                elif not self.born:
                    visit.mark(item, pair.indexes[end], group)
            if not alone:
                visit.delete_group(item, group)


def drop(visit: Visit, pair: Pair, end: int) -> None:
    for address in pair.veth.ends[end].addresses:
        visit.address(pair.n, pair.indexes[end], address, False, end)


def down(batch: Batch) -> None:
    """One end of each down: the other one has no carrier then."""
    visits = _visits(batch)
    for pair, end in zip(batch.pairs, cover([p.fds for p in batch.pairs]), strict=True):
        visits(pair.fds[end]).change(pair.n, pair.indexes[end], up=False)


def without_addresses(batch: Batch) -> None:
    """The addresses of both ends gone: nothing is routed any more, but the link is there."""
    visits = _visits(batch)
    for pair in batch.pairs:
        for end, fd in enumerate(pair.fds):
            drop(visits(fd), pair, end)


def _visits(batch: Batch) -> Callable[[int], Visit]:
    """One visit for each namespace."""
    return functools.cache(batch.tour.visit)
