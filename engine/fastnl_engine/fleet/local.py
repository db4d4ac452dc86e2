"""From a connection between hosts to the halves of it, and from a half to what this host's engine is asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from fastnl import InvalidValue
from fastnl_engine.fleet.records import Half, Host
from fastnl_engine.model import Connection, EndSpec, values_of

PREFIX = "fleet/"  # of the ids of halves in the engine
MAX_ID = 200 - len(PREFIX)  # bytes
OURS = f"begins with {PREFIX!r}, which is for what each host has of a connection between hosts"  # of such an id
OVERHEAD = {4: 50, 6: 70}  # bytes of outer Ethernet, IP, UDP and VXLAN headers


class Unreachable(Exception):
    """The two hosts of a tunnel cannot reach each other, as far as is known of them."""


def path_mtu(here: Host, there: Host) -> int:
    """Bytes of a packet inside a tunnel between two hosts.  Raises Unreachable."""
    if here.family != there.family:
        raise Unreachable(f"a tunnel from {here.address} to {there.address}: one is IPv4, the other IPv6")
    return min(here.mtu, there.mtu) - OVERHEAD[here.family]


def halves_of(spec: Connection, *, generation: int, home: str, vni: int, port: int) -> dict[str, Half]:
    """By host."""
    a, b = spec.a, spec.b
    assert b is not None
    common: dict[str, Any] = {"generation": generation, "home": home, "mtu": spec.mtu, "labels": spec.labels}
    if a.host == b.host:
        return {a.host: Half(a=_bare(a), b=_bare(b), **common)}
    common |= {"vni": vni, "port": port}
    return {a.host: Half(a=_bare(a), peer=b.host, **common), b.host: Half(b=_bare(b), peer=a.host, **common)}


def _bare(end: EndSpec) -> EndSpec:
    return msgspec.structs.replace(end, host="")


def connection_here(id_: str, half: Half, here: Host, there: Host | None, underlay: str = "") -> Connection:
    """What this host's engine is asked for; `there` is the peer.  Raises Unreachable.

    A tunnel's MTU is what is asked for, and not more than what the path carries now.  Its MAC stays the same when it
    is made anew: the other end does not see that, and would go on sending to the old one until its neighbour entry
    has run out.
    """
    end = half.a or half.b
    assert end is not None
    if half.a is not None and half.b is not None:
        return Connection(PREFIX + id_, "veth", half.a, half.b, mtu=half.mtu, labels=half.labels)
    if there is None:
        raise Unreachable(f"nothing is known of the host {half.peer}")
    most = path_mtu(here, there)
    mtu = min(end.mtu or half.mtu or most, most)
    tunnel = {"vni": half.vni, "local": here.address, "remote": there.address, "port": half.port, "underlay": underlay}
    mac = end.mac or _mac(id_, "a" if half.a is not None else "b")
    found = {
        "id": PREFIX + id_, "kind": "vxlan", "a": msgspec.structs.replace(end, mtu=None, mac=mac), "mtu": mtu,
        "vxlan": tunnel, "labels": half.labels,
    }  # fmt: skip
    return msgspec.convert(found, Connection)


def _mac(id_: str, end: str) -> str:
    """One that follows from what it is for: local and unicast."""
    first, *rest = hashlib.blake2b(f"{end}/{id_}".encode("utf-8", "surrogatepass"), digest_size=6).digest()
    return ":".join(f"{byte:02x}" for byte in (first & ~1 | 2, *rest))


def told_of(half: Half, error: dict[str, Any]) -> dict[str, Any]:
    """What the engine says of a half, with the paths of the connection: the only end of a half is `a` to the engine."""
    if half.a is not None or half.b is None:
        return error
    out = dict(error)
    for name in ("field", "message", "reason"):
        text = str(error.get(name, ""))
        if text.startswith(("a.", "a:")):
            out[name] = "b" + text[1:]
    return out


def fits(id_: str) -> bool:
    """Whether a connection between hosts may have an id of this length."""
    return len(id_.encode("utf-8", "surrogatepass")) <= MAX_ID


def check(spec: Connection, hosts: Mapping[str, Host]) -> None:
    """Raises InvalidValue, with the field, for a connection that no two hosts can have.

    Namespaces are looked for on their host, later.
    """
    if spec.kind != "veth":
        raise InvalidValue("kind", f"ends with hosts go with veth, not with {spec.kind}: the fleet makes the tunnel")
    if spec.vxlan is not None:
        raise InvalidValue("vxlan", "the fleet makes the tunnel of ends with hosts")
    if spec.b is None:
        raise InvalidValue("b", "a veth connection needs its other end")
    for name, end in (("a", spec.a), ("b", spec.b)):
        if not end.host:
            raise InvalidValue(f"{name}.host", "is missing: either both ends name their host or none does")
        if "/" in end.host or not end.host.isprintable():
            raise InvalidValue(f"{name}.host", f"{end.host[:60]!r} is no name of a host")
    if not spec.id:
        raise InvalidValue("id", "is empty")
    if not fits(spec.id):
        raise InvalidValue("id", f"is longer than {MAX_ID} bytes, the most between hosts")
    if spec.id.startswith(PREFIX):
        raise InvalidValue("id", OURS)
    alone = spec.a.host == spec.b.host
    for host, half in halves_of(spec, generation=1, home="", vni=0 if alone else 1, port=4789).items():
        one = "a" if half.a is not None else "b"
        try:
            here, there = hosts.get(host), hosts.get(half.peer)
            if here is None or (half.peer and there is None):
                here, there = _ANY, _ANY  # which of them is not known is told by whoever asks
            connection = connection_here(spec.id, half, here, there)
            if half.peer:
                most = path_mtu(here, there or _ANY)
                for field, asked in ((f"{one}.mtu", (half.a or half.b).mtu), ("mtu", half.mtu)):  # type: ignore[union-attr]
                    if asked is not None and asked > most:
                        path = f"the path between {spec.a.host} and {spec.b.host} carries {most}"
                        raise InvalidValue(field, f"{asked}: {path}")
            values_of(connection)
        except Unreachable as e:
            raise InvalidValue("b.host", str(e)) from None
        except InvalidValue as e:
            if one == "b" and e.field.startswith("a."):  # the only end of its half is called a there
                raise InvalidValue("b" + e.field[1:], e.problem) from None
            raise


_ANY = Host("192.0.2.1", 65535, "")
