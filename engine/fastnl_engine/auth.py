"""Who may do what.

On an ipc socket the kernel says who the peer is (SO_PEERCRED), and ZeroMQ hands it on with every message as
`Peer-Address`, "host:uid:gid:pid".  Over TCP a peer is known by its CURVE key, which fastnl_engine.door has let in.
Both map to a role:

    viewer      list, verify, stats, events, info, fleet, kv.get, kv.range, kv.watch
    operator    and connect, disconnect, move, attend, kv.put, kv.delete
    admin       and everything else: fleet.remove

A peer without a role gets `forbidden` with a reason: turned away at the door it would hear nothing and wait.
"""

from __future__ import annotations

import functools
import grp
import os
import pwd
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fastnl_engine.curve import is_key

VIEWER, OPERATOR, ADMIN = 1, 2, 3
ROLES = {"viewer": VIEWER, "operator": OPERATOR, "admin": ADMIN}

# by fastnl_engine.wire.name_of
NEEDED = {
    "list": VIEWER,
    "verify": VIEWER,
    "stats": VIEWER,
    "info": VIEWER,
    "events": VIEWER,
    "connect": OPERATOR,
    "disconnect": OPERATOR,
    "move": OPERATOR,
    "kv.get": VIEWER,
    "kv.range": VIEWER,
    "kv.watch": VIEWER,
    "attend": OPERATOR,  # it can delay what others ask for
    "kv.put": OPERATOR,
    "kv.delete": OPERATOR,
    "fleet": VIEWER,
    "fleet.remove": ADMIN,
}


class RoleError(ValueError):
    """An entry of a role that names nobody."""


@dataclass(frozen=True, slots=True)
class Roles:
    """Role by user id and by group id; the highest that fits counts.  And by public key, for peers over TCP.

    root and the engine's own user are always admin.
    """

    users: Mapping[int, int] = field(default_factory=dict)
    groups: Mapping[int, int] = field(default_factory=dict)
    everyone: int = 0
    keys: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, entries: Mapping[str, Sequence[str]]) -> Roles:
        """From {"operator": ["group:fastnl", "user:alice", "uid:1000", "gid:10", "key:…", "everyone"], …}.

        Raises RoleError.
        """
        users: dict[int, int] = {}
        groups: dict[int, int] = {}
        keys: dict[str, int] = {}
        everyone = 0
        for role, who in entries.items():
            if role not in ROLES:
                raise RoleError(f"{role!r} is none of {', '.join(ROLES)}")
            rank = ROLES[role]
            for entry in who:
                if entry == "everyone":
                    everyone = max(everyone, rank)
                    continue
                if entry.startswith("key:"):
                    key = _key(entry)
                    keys[key] = max(keys.get(key, 0), rank)
                    continue
                table, number = _resolve(entry)
                chosen = users if table == "user" else groups
                chosen[number] = max(chosen.get(number, 0), rank)
        return cls(users, groups, everyone, keys)

    def of(self, uid: int, gid: int) -> int:
        """The role of a user of this machine, 0: none."""
        if uid in (0, os.geteuid()):
            return ADMIN
        ranks = [self.everyone, self.users.get(uid, 0)]
        ranks += [self.groups.get(g, 0) for g in _groups_of(uid, gid)] if self.groups else []
        return max(ranks)


def _resolve(entry: str) -> tuple[str, int]:
    kind, _, value = entry.partition(":")
    try:
        if kind in ("uid", "gid"):
            return ("user" if kind == "uid" else "group"), int(value)
        if kind == "user":
            return "user", pwd.getpwnam(value).pw_uid
        if kind == "group":
            return "group", grp.getgrnam(value).gr_gid
    except (KeyError, ValueError):
        raise RoleError(f"{entry!r}: there is no such {kind} here") from None
    raise RoleError(f"{entry!r} is none of uid:N, gid:N, user:NAME, group:NAME, key:KEY, everyone")


def _key(entry: str) -> str:
    key = entry.removeprefix("key:")
    if not is_key(key):
        raise RoleError(f"{entry!r} is no public key of 40 characters, as `fastnl keys` prints it")
    return key


@functools.lru_cache(maxsize=1024)
def _groups_of(uid: int, gid: int) -> tuple[int, ...]:
    """Every group of a user: the peer's credentials carry the primary one only."""
    try:
        return tuple(os.getgrouplist(pwd.getpwuid(uid).pw_name, gid))
    except KeyError:
        return (gid,)


def forget_groups() -> None:
    """Makes the next question of a user's groups look them up again."""
    _groups_of.cache_clear()


def peer_of(address: str) -> tuple[int, int, int] | None:
    """(uid, gid, pid) from a Peer-Address of an ipc socket; None for any other."""
    parts = address.split(":")
    # an IPv6 address of exactly four parts has an empty one among the last three
    if len(parts) == 4 and all(p.isdigit() for p in parts[1:]):
        return int(parts[1]), int(parts[2]), int(parts[3])
    return None
