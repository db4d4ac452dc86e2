"""Policy rules of connections: put up after their interfaces, taken down with them, and none of others touched.

Rules belong to a namespace and not to an interface, so nothing takes them along.  Ours carry a protocol of their own
(FRA_PROTOCOL), which the kernel compares when it deletes.
"""

from __future__ import annotations

import errno
from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from fastnl._nl import Problem, Rule, RuleRow, Tour, Visit
from fastnl.errors import Conflict, FastnlError, InternalError, NetnsNotFound
from fastnl.explain import explain
from fastnl.links import Connection
from fastnl.netns import Handles
from fastnl.reach import open_end

if TYPE_CHECKING:
    from fastnl.batch import Host

PROTOCOL = 102  # "f"; none of the RTPROT_ numbers of include/uapi/linux/rtnetlink.h
PROTOCOLS = {0: "unspec", 2: "kernel", 3: "boot", 4: "static", PROTOCOL: "fastnl"}
GONE = (errno.ENOENT, errno.EAFNOSUPPORT)  # the latter: a kernel without policy rules, which can have none of ours

# Rules with their protocols, by what two of them share if one may be in the other's way: there may be thousands
There = dict[tuple[int, int, int], list[tuple[Rule, int]]]


class Some(NamedTuple):
    """Rules of one end of a connection, with the open namespace that they are for and their places in the end."""

    connection: Connection
    fd: int
    end: int
    rules: tuple[tuple[int, Rule], ...]


def of(connection: Connection, fds: Sequence[int], without: Connection | None = None) -> list[Some]:
    """Those of a connection, by its ends, that another does not have; fd -1: an end that does not matter."""
    out = []
    for n, (end, fd) in enumerate(zip(connection.ends, fds, strict=True)):
        kept = frozenset(without.ends[n].rules) if without is not None else frozenset()
        some = tuple((i, rule) for i, rule in enumerate(end.rules) if rule not in kept)
        if some and fd >= 0:
            out.append(Some(connection, fd, n, some))
    return out


def any_of(connections: Iterable[Connection]) -> bool:
    return any(end.rules for c in connections for end in c.ends)


def covers(a: Rule, b: Rule) -> bool:
    """Whether the kernel, asked to delete `a`, may take `b`: what a rule leaves open it compares with nothing.

    rule_find, net/core/fib_rules.c.
    """
    if _place(a) != _place(b):
        return False
    return all(not mine or mine == theirs for mine, theirs in zip(a.selectors, b.selectors, strict=True))


def _place(rule: Rule) -> tuple[int, int, int]:
    return rule.family, rule.table, rule.priority


def put_up(host: Host, batches: Sequence[Sequence[Some]]) -> list[FastnlError | None]:
    """Adds rules, all of a batch or none; an error for each batch.

    Refused is what is there already, whoever made it, and what could not be told apart from another rule of ours when
    one of them has to go.
    """
    errors: list[FastnlError | None] = [None] * len(batches)
    there = _read(host, {some.fd for batch in batches for some in batch})
    tour = Tour(len(batches), False)
    visits: dict[int, Visit] = {}
    for n, batch in enumerate(batches):
        errors[n] = _claim(batch, there)
        if errors[n] is not None:
            continue
        for some in batch:
            visit = visits.get(some.fd)
            if visit is None:
                visit = visits[some.fd] = tour.visit(some.fd)
            for place, rule in some.rules:
                visit.rule(n, rule, True, some.end, place)
    host.run(tour)
    refused: dict[int, list[Problem]] = {}
    for problem in tour.problems():
        refused.setdefault(problem.item, []).append(problem)
    for n, problems in refused.items():
        said = next((p for p in problems if p.errno), None)
        if said is not None:
            errors[n] = explain(batches[n][0].connection, said)
        else:
            errors[n] = InternalError("the kernel's answers were lost (ENOBUFS)", phase="rule")
    # those that were refused are not ours to take down
    not_added = {(n, p.end, p.place) for n, problems in refused.items() for p in problems if p.errno}
    take_down(
        host,
        [
            some._replace(rules=tuple((i, rule) for i, rule in some.rules if (n, some.end, i) not in not_added))
            for n in refused
            for some in batches[n]
        ],
    )
    return errors


def _claim(batch: Sequence[Some], there: dict[int, There]) -> FastnlError | None:
    """Books the rules of a batch among those that are there; if one cannot be, none is, and the error tells why."""
    booked: list[list[tuple[Rule, int]]] = []
    for some in batch:
        for i, rule in some.rules:
            others = there[some.fd][_place(rule)]
            problem = next((p for other in others if (p := _in_the_way(rule, *other))), "")
            if problem:
                for book in booked:
                    book.pop()
                field = f"{'ab'[some.end]}.rules[{i}]"
                where = f"namespace {some.connection.ends[some.end].netns!r}"
                return Conflict(f"{field}: {where} {problem}", errno=errno.EEXIST, phase="rule", field=field)
            others.append((rule, PROTOCOL))
            booked.append(others)
    return None


def _in_the_way(rule: Rule, other: Rule, protocol: int) -> str:
    """Why a rule cannot be added beside another; "" if it can."""
    if rule == other:
        return f"has the rule {str(rule)!r} already, of protocol {PROTOCOLS.get(protocol, protocol)}"
    if protocol == PROTOCOL and (covers(rule, other) or covers(other, rule)):
        return (
            f"has a rule of fastnl's, {str(other)!r}, that the kernel cannot tell from {str(rule)!r} when one of them "
            "has to go; give one of them another priority"
        )
    return ""


def _read(host: Host, fds: Iterable[int]) -> dict[int, There]:
    """What rules namespaces have, with their protocols; without those that a Rule cannot say, which are not ours."""
    tour = Tour(1, False)
    questions = {fd: tour.visit(fd, asks=True) for fd in fds}
    for question in questions.values():
        question.dump_rules()
    host.run(tour)
    there: dict[int, There] = {fd: defaultdict(list) for fd in questions}
    for fd, question in questions.items():
        rows: list[RuleRow] = question.rows()
        for row in rows:
            if row.rule is not None:
                there[fd][_place(row.rule)].append((row.rule, row.protocol))
    return there


def take_down(host: Host, some: Sequence[Some]) -> list[FastnlError | None]:
    """Removes rules of ours, an error for each of `some`; one that is not there is no error."""
    errors: list[FastnlError | None] = [None] * len(some)
    tour = Tour(len(some), False)
    visits: dict[int, Visit] = {}
    for n, (_, fd, end, rules) in enumerate(some):
        for place, rule in rules:
            if fd not in visits:
                visits[fd] = tour.visit(fd)
            visits[fd].rule(n, rule, False, end, place, soft=True)
    host.run(tour)
    for problem in tour.problems():
        if problem.errno not in (0, *GONE):
            errors[problem.item] = explain(some[problem.item].connection, problem)
    return errors


def exchange(host: Host, old: Sequence[Some], new: Sequence[Some]) -> FastnlError | None:
    """Takes some down and puts others up; when that fails, it is as before."""
    error = next(filter(None, take_down(host, old)), None)
    if error is None and new:
        [error] = put_up(host, [new])
    if error is not None:
        tour = Tour(1, False)
        for _, fd, end, rules in old:
            visit = tour.visit(fd)
            for place, rule in rules:
                visit.rule(0, rule, True, end, place, soft=True)
        host.run(tour)
    return error


def give_back(
    host: Host, handles: Handles, connections: Iterable[Connection], kept: Container[tuple[str, Rule]] = ()
) -> list[FastnlError]:
    """Takes down what may have been put up for connections of which only the wish is known; what failed.

    kept   (namespace, rule) of those that belong to others of ours
    """
    errors: list[FastnlError] = []
    some: list[Some] = []
    for c in connections:
        for n, end in enumerate(c.ends):
            going = tuple((i, rule) for i, rule in enumerate(end.rules) if (end.netns, rule) not in kept)
            if not going:
                continue
            try:
                some.append(Some(c, open_end(handles, end, "ab"[n]), n, going))
            except NetnsNotFound:
                continue
            except FastnlError as e:
                errors.append(e)
    return errors + [e for e in take_down(host, some) if e is not None]
