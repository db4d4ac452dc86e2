"""What has to be done: from what is wanted and what is known to a plan.  No input, no output.

The names and VNIs that connections claim are booked here, when they are planned, so that two jobs of one
cycle cannot both get them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

import fastnl
from fastnl import Wired
from fastnl.netns import canonical
from fastnl_engine.model import Connection, Record, encode, values_of
from fastnl_engine.wire import MoveSpec

Verb = Literal["create", "update", "remove", "forget", "move", "mend", "nothing"]


@dataclass(slots=True)
class Job:
    """One item of a request, or something that the engine asks of itself (then `ticket` is None).

    ticket, place   the request that it belongs to and where its result goes there; a function is called with place
                    and result
    client          whose it is, as far as turns are concerned
    reason          of a suspension or mending: what happened to the connection
    about           of a mending or suspension: the record that it is about; when there is another one, nothing is
                    to be done
    again           it is tried for the second time

    "pass" is for what the fleet does: it is answered in its turn, with whether the id is free here.
    """

    op: Literal["connect", "disconnect", "move", "retry", "suspend", "mend", "pass"]
    id: str
    connection: Connection | None = None
    values: fastnl.Connection | None = None
    spec: bytes = b""
    move: MoveSpec | None = None
    wait: bool = False
    ticket: Any = None
    place: int = 0
    client: Any = None
    reason: str = ""
    about: Record | None = None
    again: bool = False


@dataclass(slots=True)
class Action:
    """One step of a cycle, and in the end what became of it.

    verb     create: make `values`; update: turn `wired` into `values`; remove: take `wired` away;
             forget: drop a record that has no interfaces; move: `wired`'s end elsewhere; mend: make `wired`
             again what it was; nothing
    indexes  of the interfaces to be created, chosen beforehand so that they can be written down
    result   what the library said, for the verbs that touch the kernel
    error    what the planner refused
    owner    the connection that has what was asked for, if that is why
    """

    verb: Verb
    job: Job
    record: Record | None = None
    wired: Wired | None = None
    values: fastnl.Connection | None = None
    spec: bytes = b""
    indexes: tuple[int, ...] = ()
    result: fastnl.Result | None = None
    error: fastnl.FastnlError | None = None
    owner: str = ""


@dataclass(slots=True)
class Claims:
    """Which connection has which name in which namespace, and which VNI on which underlay."""

    _owner: dict[tuple[str, ...], str] = field(default_factory=dict)

    def keys_of(self, connection: Connection) -> list[tuple[str, tuple[str, ...]]]:
        """(field, key) of everything that a connection needs for itself."""
        keys: list[tuple[str, tuple[str, ...]]] = [("a.ifname", (canonical(connection.a.netns), connection.a.ifname))]
        if connection.b is not None:
            keys.append(("b.ifname", (canonical(connection.b.netns), connection.b.ifname)))
        if connection.vxlan is not None:
            v = connection.vxlan
            keys.append(("vxlan.vni", ("vni", canonical(v.underlay), str(v.vni), str(v.port))))
        return keys

    def refuse(self, connection: Connection) -> fastnl.FastnlError | None:
        """Why another connection is in the way, or None."""
        for path, key, owner in self._taken(connection):
            if path == "vxlan.vni":
                return fastnl.VniInUse(
                    f"vxlan.vni: {key[2]} on port {key[3]} belongs to connection {owner!r}", field=path
                )
            return fastnl.Conflict(
                f"{path}: {key[1]!r} in namespace {key[0]!r} belongs to connection {owner!r}", field=path
            )
        return None

    def in_the_way(self, connection: Connection) -> str:
        """The connection for which `refuse` refuses this one."""
        return next((owner for _, _, owner in self._taken(connection)), "")

    def _taken(self, connection: Connection) -> Iterator[tuple[str, tuple[str, ...], str]]:
        """(field, key, owner) of everything that it needs and another connection has."""
        for path, key in self.keys_of(connection):
            owner = self._owner.get(key, connection.id)
            if owner != connection.id:
                yield path, key, owner

    def owner(self, netns: str, ifname: str) -> str | None:
        """The connection that has an interface."""
        return self._owner.get((canonical(netns), ifname))

    def take(self, connection: Connection) -> None:
        for _, key in self.keys_of(connection):
            self._owner[key] = connection.id

    def release(self, connection: Connection) -> None:
        for _, key in self.keys_of(connection):
            if self._owner.get(key) == connection.id:
                del self._owner[key]


def plan(job: Job, record: Record | None, claims: Claims) -> Action:
    """The action for one job, given what is known of its connection.  Books claims, changes nothing else."""
    if job.op == "connect":
        return _plan_connect(job, record, claims)
    if job.op == "pass":
        taken = fastnl.Conflict(f"id: {job.id!r} is a connection of this host alone; choose another", field="id")
        return Action("nothing", job, record, error=taken if record is not None else None)
    if job.op == "disconnect":
        return _plan_disconnect(job, record, claims)
    if job.op == "suspend":
        # the record and its claims stay; what is left in the kernel goes
        if record is None or not record.places or (job.about is not None and job.about is not record):
            return Action("nothing", job, record)
        return Action("remove", job, record, record.wired())
    if job.op == "mend":
        if record is None or record.state != "up" or (job.about is not None and job.about is not record):
            return Action("nothing", job, record)
        return Action("mend", job, record, record.wired(), spec=record.spec)
    if job.op == "retry":
        # as it is wanted now, which may be another way than when the retry was asked for, or not at all
        if record is None or record.state == "up":
            return Action("nothing", job, record)
        if record.places:
            return Action("mend", job, record, record.wired(), spec=record.spec)
        return Action("create", job, record, None, values_of(record.connection), record.spec)
    return _plan_move(job, record, claims)


def _plan_connect(job: Job, record: Record | None, claims: Claims) -> Action:
    assert job.connection is not None and job.values is not None
    if record is not None and record.state == "up" and record.spec == job.spec:
        return Action("nothing", job, record)
    if refused := claims.refuse(job.connection):
        return Action("nothing", job, record, error=refused, owner=claims.in_the_way(job.connection))
    if record is not None:
        claims.release(record.connection)
    claims.take(job.connection)
    if record is not None and record.places:
        if record.spec == job.spec:
            return Action("mend", job, record, record.wired(), spec=record.spec)
        return Action("update", job, record, record.wired(), job.values, job.spec)
    return Action("create", job, record, None, job.values, job.spec)


def _plan_disconnect(job: Job, record: Record | None, claims: Claims) -> Action:
    if record is None:
        return Action("nothing", job)
    claims.release(record.connection)
    if record.places:
        return Action("remove", job, record, record.wired())
    return Action("forget", job, record)


def _plan_move(job: Job, record: Record | None, claims: Claims) -> Action:
    assert job.move is not None
    if record is None:
        return Action("nothing", job, error=UnknownId(f"id: there is no connection {job.id!r}", field="id"))
    try:
        moved = moved_connection(record.connection, job.move)
        values = values_of(moved)
    except fastnl.CallerError as e:
        return Action("nothing", job, record, error=e)
    if refused := claims.refuse(moved):
        return Action("nothing", job, record, error=refused, owner=claims.in_the_way(moved))
    spec = encode(moved)
    if spec == record.spec and record.state == "up":
        return Action("nothing", job, record)
    claims.release(record.connection)
    claims.take(moved)
    if record.places:
        return Action("move", job, record, record.wired(), values, spec)
    return Action("create", job, record, None, values, spec)


def moved_connection(connection: Connection, move: MoveSpec) -> Connection:
    """The connection as it reads after a move.  Raises InvalidValue."""
    if move.end == "b" and connection.b is None:
        raise fastnl.InvalidValue("end", "a vxlan connection has no end b here")
    end = connection.a if move.end == "a" else connection.b
    assert end is not None
    return msgspec.structs.replace(connection, **{move.end: msgspec.structs.replace(end, netns=move.netns)})


class UnknownId(fastnl.CallerError):
    code = "unknown_id"
