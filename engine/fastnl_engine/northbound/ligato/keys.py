"""The keys of both layouts, under /vnf-agent/<label>/.

             v1                                    v3
    interface  linux/config/v1/interface/<name>      config/linux/interfaces/v2/interface/<name>
    arp        linux/config/v1/arp/<name>            config/linux/l3/v2/arp/<interface>/<ip>
    route      linux/config/v1/route/<name>          config/linux/l3/v2/route/<ip>/<prefix>/<interface>
    afpacket   vpp/config/v1/interface/<name>        config/vpp/v2/interfaces/<name>

Names may hold slashes and colons: an interface's name is all that is left of its key, and the parts of a
route or neighbour are cut from the end that cannot hold a slash.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Layout = Literal["v1", "v3"]
Kind = Literal["interface", "arp", "route", "afpacket", "other"]

ROOT = "/vnf-agent/"

PREFIXES: dict[tuple[Layout, Kind], str] = {
    ("v1", "interface"): "linux/config/v1/interface/",
    ("v1", "arp"): "linux/config/v1/arp/",
    ("v1", "route"): "linux/config/v1/route/",
    ("v1", "afpacket"): "vpp/config/v1/interface/",
    ("v3", "interface"): "config/linux/interfaces/v2/interface/",
    ("v3", "arp"): "config/linux/l3/v2/arp/",
    ("v3", "route"): "config/linux/l3/v2/route/",
    ("v3", "afpacket"): "config/vpp/v2/interfaces/",
}
# Configuration of Linux that nothing here understands, rule chains for one: its writer is told so.
OTHERS: tuple[tuple[str, Layout], ...] = (("linux/config/", "v1"), ("config/linux/", "v3"))

# All that is above is under one of these, and no status is.
CONFIGURATION = ("linux/config/", "config/", "vpp/config/v1/interface/")

V1_STATUS = {
    "interface": "linux/status/v1/interface/",
    "arp": "linux/status/v1/arp/",
    "route": "linux/status/v1/route/",
    # vpp/status/v1/interface/ is the VPP agent's own
    "afpacket": "linux/status/v1/afpacket/",
}


class Key(NamedTuple):
    """A key, taken apart.

    text   the whole key; name: all that comes after the prefix
    parts  v3 neighbour: (interface, ip); v3 route: (ip, prefix, interface); else empty, also when they are not
           there, which `problem` says
    """

    text: str
    layout: Layout
    kind: Kind
    name: str
    parts: tuple[str, ...] = ()
    problem: str = ""


def prefix(label: str) -> str:
    """What all keys of one agent begin with.  Raises ValueError for a label that none can have."""
    if not label or "/" in label or not label.isprintable():
        raise ValueError(f"microservice label {label!r}: must be printable text without a slash")
    return f"{ROOT}{label}/"


def parse_key(key: str | bytes, label: str) -> Key | None:
    """The key taken apart; None for one that is no configuration of this agent's Linux plugins."""
    text = key.decode("utf-8", "surrogateescape") if isinstance(key, bytes) else key
    head = f"{ROOT}{label}/"
    if not text.startswith(head):
        return None
    rest = text[len(head) :]
    for (layout, kind), start in PREFIXES.items():
        if rest.startswith(start):
            return _parse(text, layout, kind, rest[len(start) :])
    for start, layout in OTHERS:
        if rest.startswith(start):
            return Key(text, layout, "other", rest[len(start) :])
    return None


def _parse(text: str, layout: Layout, kind: Kind, name: str) -> Key:
    if not name:
        return Key(text, layout, kind, name, problem="the key ends where a name should be")
    if layout == "v3" and kind == "arp":
        interface, slash, ip = name.rpartition("/")
        if not (interface and slash and ip):
            return Key(text, layout, kind, name, problem="the key must end in <interface>/<ip>")
        return Key(text, layout, kind, name, (interface, ip))
    if layout == "v3" and kind == "route":
        parts = tuple(name.split("/", 2))
        if len(parts) != 3 or not all(parts):
            return Key(text, layout, kind, name, problem="the key must end in <ip>/<prefix>/<interface>")
        return Key(text, layout, kind, name, parts)
    return Key(text, layout, kind, name)


def format_key(label: str, layout: Layout, kind: Kind, *parts: str) -> str:
    """The key of a value: one part, the name, but for v3's neighbours (interface, ip) and routes (network, interface).

    >>> format_key("vpp1", "v3", "route", "10.1.0.0/16", "veth1")
    '/vnf-agent/vpp1/config/linux/l3/v2/route/10.1.0.0/16/veth1'
    """
    return prefix(label) + PREFIXES[layout, kind] + "/".join(parts)


def status_key(key: Key, label: str) -> str:
    """Where the status of the key's value goes."""
    head = prefix(label)
    if key.layout == "v1" and key.kind != "other":
        return head + V1_STATUS[key.kind] + key.name
    rest = key.text[len(head) :]
    if key.layout == "v1":
        return head + rest.replace("linux/config/", "linux/status/", 1)
    return head + rest.replace("config/", "config-status/", 1)


def ligato_alias(label: str, name: str, peer: str = "") -> str:
    """What a running Ligato writes as alias on an interface of its own."""
    return prefix(label) + name + (f"/{peer}" if peer else "")
