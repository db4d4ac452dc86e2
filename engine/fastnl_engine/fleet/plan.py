"""From what a job asks and what the fleet has to one transaction's part.  No input, no output.

Whatever is decided on is compared in the transaction, so that of two who decide at the same time one finds out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from fastnl import InvalidValue
from fastnl_engine.fleet.keys import Keys
from fastnl_engine.fleet.local import check, halves_of
from fastnl_engine.fleet.records import Agreed, Half, Host, encode
from fastnl_engine.kv.base import Compare, Delete, Op, Put, absent
from fastnl_engine.model import Connection
from fastnl_engine.planner import moved_connection
from fastnl_engine.wire import MoveSpec


@dataclass(slots=True, eq=False)
class Job:
    """One item of a request that was submitted here.

    reply   is called with the item's result
    token   marks what this job has written
    guesses how often it guessed a number for its tunnel
    unknown whether a transaction of it may have been done or not
    seen    the connection as it was when the job first looked, None: there was none; `looked`: whether it has
    """

    op: Literal["connect", "disconnect", "move"]
    id: str
    reply: Callable[[dict[str, Any]], None]
    token: str
    deadline: float
    spec: Connection | None = None
    move: MoveSpec | None = None
    wait: bool = False
    seen: Agreed | None = None
    looked: bool = False
    attempts: int = 0
    guesses: int = 0
    unknown: bool = False


class Refused(Exception):
    """A job cannot be; `error` is the item's."""

    def __init__(self, code: str, message: str, field: str = "") -> None:
        super().__init__(message)
        self.error = {"code": code, "message": message} | ({"field": field} if field else {})


@dataclass(slots=True)
class Step:
    """compares, ops  of the transaction; without ops there is nothing to be done
    agreed         the connection after it; None: there is none
    vni            a number that it takes, 0: none
    """

    agreed: Agreed | None
    compares: list[Compare] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    vni: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """What a desk knows of the fleet.  pick: gives a number for a tunnel that may be free."""

    keys: Keys
    home: str
    port: int
    hosts: Mapping[str, Host]
    alive: Mapping[str, Any]
    pick: Callable[[], int]


def decide(view: View, job: Job, agreed: Agreed | None, revision: int, leftovers: set[str]) -> Step:
    """agreed      the connection as it is, with the revision of its key; None: there is none
    leftovers   hosts that are no ends of it any more and have not let go of it

    Raises Refused.
    """
    if job.op == "disconnect" and (agreed is None or agreed.removing):
        return Step(agreed)  # whoever did it
    if not job.looked:
        job.looked, job.seen = True, agreed
    elif job.op == "connect" and agreed is not None and agreed.wanted == job.spec:
        return Step(agreed)  # somebody who wanted the same came first
    elif agreed is not None and agreed.token == job.token:
        return Step(agreed)  # it was done, though nobody could say so
    elif _other(agreed, job.seen):
        raise Refused("conflict", f"id: {job.id!r} was changed by somebody else at the same time", "id")
    if job.op == "disconnect":
        assert agreed is not None
        return disconnect(view, job.id, job.token, agreed, revision, leftovers)
    spec = job.spec if job.op == "connect" else _moved(job, agreed)
    assert spec is not None
    if agreed is not None and not agreed.removing and agreed.spec == spec:
        return Step(agreed)
    return connect(view, job.id, job.token, spec, agreed, revision, leftovers, wait=job.wait)


def _other(agreed: Agreed | None, seen: Agreed | None) -> bool:
    """Whether a connection is another one than it was.

    Another number for its tunnel does not make it so, and one that is being removed is as good as gone.
    """
    return (seen.wanted if seen is not None else None) != (agreed.wanted if agreed is not None else None)


def _moved(job: Job, agreed: Agreed | None) -> Connection:
    assert job.move is not None
    if agreed is None or agreed.removing:
        raise Refused("unknown_id", f"id: there is no connection {job.id!r}", "id")
    try:
        return moved_connection(agreed.spec, job.move)
    except InvalidValue as e:
        raise Refused("invalid", e.message, e.field) from None


def connect(
    view: View, id_: str, token: str, spec: Connection, agreed: Agreed | None, revision: int, leftovers: set[str], *,
    wait: bool,
) -> Step:  # fmt: skip
    """Makes a connection what `spec` says, whatever it was.  Raises Refused."""
    keys = view.keys
    try:
        check(spec, view.hosts)
    except InvalidValue as e:
        raise Refused("invalid", e.message, e.field) from None
    assert spec.b is not None
    ends = {"a": spec.a.host, "b": spec.b.host}
    for end, host in ends.items():
        if host not in view.hosts:
            raise Refused("host_unknown", f"{end}.host: the fleet has no host {host!r}", f"{end}.host")
        if host not in view.alive and not wait:
            message = f"{end}.host: the engine of {host} does not answer; nothing was done. With `wait` it waits for it"
            raise Refused("host_away", message, f"{end}.host")
    step = Step(None, _compares(view, id_, revision))
    old = agreed.hosts if agreed is not None else []
    tunnel = ends["a"] != ends["b"]
    vni = agreed.vni if agreed is not None else 0
    port = (agreed.port if agreed is not None else 0) or view.port
    if tunnel and not vni:
        step.vni = vni = view.pick()
        step.compares.append(absent(keys.vni(port, vni)))
        step.ops.append(Put(keys.vni(port, vni), id_.encode()))
    generation = (agreed.generation if agreed is not None else 0) + 1
    halves = halves_of(spec, generation=generation, home=view.home, vni=vni, port=port)
    for host in {*leftovers, *old} - halves.keys():
        if host in view.hosts and (agreed is None or host in leftovers or host in agreed.ends.values()):
            halves[host] = Half(generation, view.home)
    spent = agreed.spent if agreed is not None else []
    # of which port its numbers are does not change while it has any, whatever the settings say by now
    step.agreed = Agreed(spec, generation, token, sorted(halves), vni, port if vni or spent else 0, spent)
    _put(view, step, id_, halves)
    return step


def disconnect(
    view: View, id_: str, token: str, agreed: Agreed, revision: int, leftovers: set[str], without: str = ""
) -> Step:
    """Has every host take its half away; the last one ends the connection.  `without`: a host that never will."""
    step = Step(None, _compares(view, id_, revision))
    hosts = sorted(h for h in {*agreed.ends.values(), *leftovers} if h in view.hosts and h != without)
    vnis = [*([agreed.vni] if agreed.vni else []), *agreed.spent]
    if not hosts:
        step.ops = [Delete(view.keys.connection(id_)), *(Delete(view.keys.vni(agreed.port, vni)) for vni in vnis)]
        return step
    generation = agreed.generation + 1
    halves = {
        host: Half(
            generation, view.home, ending=True, others=[h for h in hosts if h != host], vnis=vnis, port=agreed.port
        )
        for host in hosts
    }
    step.agreed = msgspec.structs.replace(agreed, generation=generation, token=token, hosts=hosts, removing=True)
    _put(view, step, id_, halves)
    return step


def other_vni(view: View, id_: str, token: str, agreed: Agreed, revision: int, leftovers: set[str]) -> Step:
    """Gives a connection another number, and keeps the old one from others for as long as it lives."""
    again = msgspec.structs.replace(agreed, vni=0, spent=[*agreed.spent, agreed.vni])
    return connect(view, id_, token, agreed.spec, again, revision, leftovers, wait=True)


def _compares(view: View, id_: str, revision: int) -> list[Compare]:
    return [Compare(view.keys.connection(id_), "mod_revision", "=", revision)]


def _put(view: View, step: Step, id_: str, halves: Mapping[str, Half]) -> None:
    assert step.agreed is not None
    step.ops.append(Put(view.keys.connection(id_), encode(step.agreed)))
    for host, half in halves.items():
        # a host that is being removed gets nothing any more
        step.compares.append(Compare(view.keys.host(host), "version", ">", 0))
        step.ops.append(Put(view.keys.half(host, id_), encode(half)))
