"""Policy routes: rules that lead packets of a client into tables of their own, and the routes in those."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from typing import Any

from fastnl_engine.adapters.nsm.errors import refuse
from fastnl_engine.adapters.nsm.pb.connectioncontext_pb2 import PolicyRoute

FIRST, TABLES = 1 << 28, 1 << 28  # numbers that people and other programs do not choose
LARGEST_PORT = 65534  # the kernel takes no 65535 as the end of a range of ports (net/core/fib_rules.c)

TableOf = Callable[[str], int]  # from what a policy is about to the number of its table
Value = dict[str, Any]


def translate(policies: Iterable[PolicyRoute], field: str, table_of: TableOf) -> tuple[list[Value], list[Value]]:
    """Rules and routes of an end of the engine's.  Raises Refused."""
    rules: list[Value] = []
    routes: list[Value] = []
    for i, policy in enumerate(policies):
        where = f"{field}[{i}]"
        # its routes are not part of it, so they may change without another table
        table = table_of(";".join((getattr(policy, "from"), policy.proto, policy.dst_port, policy.src_port)))
        rule: Value = {"table": table}
        source = _network(getattr(policy, "from"), f"{where}.from")
        prefixes = [_network(r.prefix, f"{where}.routes[{n}].prefix") for n, r in enumerate(policy.routes)]
        versions = {p.version for p in (source, *prefixes) if p is not None}
        if len(versions) > 1:
            raise refuse("invalid", where, "mixes IPv4 and IPv6")
        version = versions.pop() if versions else 4
        if source is not None and source.prefixlen:
            rule["from"] = str(source)
        else:
            rule["family"] = version
        if policy.proto:
            rule["ipproto"] = _number(policy.proto, 255, f"{where}.proto", "the number of an IP protocol")
        for name, text in (("sport", policy.src_port), ("dport", policy.dst_port)):
            if text:
                rule[name] = _ports(text, f"{where}.{'src' if name == 'sport' else 'dst'}_port")
        rules.append(rule)
        if not policy.routes:
            routes.append({"to": "0.0.0.0/0" if version == 4 else "::/0", "table": table})
        for n, (prefix, given) in enumerate(zip(prefixes, policy.routes, strict=True)):
            if prefix is None:
                raise refuse("invalid", f"{where}.routes[{n}].prefix", "is empty")
            route: Value = {"to": str(prefix), "table": table}
            if given.next_hop:
                try:
                    via = ipaddress.ip_address(given.next_hop)
                except ValueError as e:
                    raise refuse("invalid", f"{where}.routes[{n}].nextHop", str(e)) from None
                route |= {"via": str(via), "onlink": True}
            routes.append(route)
    return rules, routes


def _network(text: str, field: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text, strict=False) if text else None
    except ValueError as e:
        raise refuse("invalid", field, str(e)) from None


def _number(text: str, most: int, field: str, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 6 and int(text) <= most):
        raise refuse("invalid", field, f"{text!r} is not {what}")
    return int(text)


def _ports(text: str, field: str) -> list[int]:
    low, dash, high = text.partition("-")
    first, last = (
        _number(p, 65535, field, "a port, or two with a dash between them") for p in (low, high if dash else low)
    )
    if not 0 < first <= last or first > LARGEST_PORT:
        raise refuse("invalid", field, f"{text!r}: ports are 1 to {LARGEST_PORT}, the lower one first")
    return [first, min(last, LARGEST_PORT)]


class Tables:
    """Numbers of tables: of no two connections the same in one namespace, and of one always the same.

    For all planes of a forwarder.  A namespace is its inode.
    """

    def __init__(self) -> None:
        self._owners: dict[tuple[int, int], str] = {}
        self._of: dict[str, set[tuple[int, int]]] = {}

    def choose(self, inode: int, id_: str) -> TableOf:
        """For the policies of one request, which are told apart by what they are about.  Kept until `keep`."""
        ours: set[tuple[int, int]] = set()

        def table_of(about: str) -> int:
            for place in _numbers(f"{id_};{about}"):
                owner = self._owners.get((inode, place))
                if owner in (None, id_) and (inode, place) not in ours:
                    ours.add((inode, place))
                    self.add(inode, place, id_)
                    return place
            raise AssertionError("there is always another number")

        return table_of

    def add(self, inode: int, table: int, id_: str) -> None:
        self._owners[inode, table] = id_
        self._of.setdefault(id_, set()).add((inode, table))

    def of(self, id_: str) -> set[tuple[int, int]]:
        return set(self._of.get(id_, ()))

    def keep(self, id_: str, kept: Iterable[tuple[int, int]]) -> None:
        """These are a connection's tables, and no others any more."""
        stay = set(kept)
        for place in self._of.pop(id_, set()) - stay:
            del self._owners[place]
        for inode, table in stay:
            self.add(inode, table, id_)


def _numbers(text: str) -> Iterator[int]:
    """Always the same, and beyond the first one hardly ever asked for."""
    for attempt in count():
        digest = hashlib.sha256(f"{text};{attempt}".encode()).digest()
        yield FIRST + int.from_bytes(digest[:4], "big") % TABLES
