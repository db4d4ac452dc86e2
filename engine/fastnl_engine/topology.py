"""What is wired to what: connections as a graph of namespaces, and that graph as DOT and Mermaid.

Connections between the same two namespaces are one edge that counts them.  A VXLAN connection is an edge from its
namespace to the one that carries its tunnel, and the tunnel another from there to the remote host: a node of its own,
unless the far end of the tunnel is a connection of this engine too.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fastnl.errors import InvalidValue
from fastnl.netns import canonical

Record = Mapping[str, Any]  # as `list` gives it
NodeKind = Literal["netns", "remote"]
EdgeKind = Literal["veth", "vxlan", "tunnel"]

OWN = "(own)"  # the engine's own namespace
COLOURS = {"up": "#2f8f5b", "removing": "#7d8590", "pending": "#d08700", "failed": "#d1242f"}  # the worst comes last
WIDTHS = {"up": 1.4, "removing": 1.4, "pending": 2.2, "failed": 3.0}
QUIET = "#59636e"
LISTED = 12  # connections that a tooltip names
NAMED = 40  # up to so many edges each tells the connection's id, beyond only how many there are
LONGEST = 28  # characters of a name that are shown


@dataclass(slots=True)
class Node:
    """A namespace, or a host at the other end of a tunnel.

    missing  no connection found it there
    """

    name: str
    kind: NodeKind = "netns"
    missing: bool = False
    states: Counter[str] = field(default_factory=Counter)

    @property
    def label(self) -> str:
        return self.name or OWN

    @property
    def title(self) -> str:
        what = "remote host " if self.kind == "remote" else "the engine's own namespace" if not self.name else ""
        return f"{what}{self.name}: {tally(self.states)}" + (", not there" if self.missing else "")


@dataclass(slots=True)
class Edge:
    """Every connection of one kind between two nodes, which are places in Topology.nodes."""

    a: int
    b: int
    kind: EdgeKind
    records: list[Record] = field(default_factory=list)

    @property
    def ids(self) -> list[str]:
        return [r["id"] for r in self.records]

    @property
    def states(self) -> Counter[str]:
        return Counter(r["state"] for r in self.records)

    @property
    def state(self) -> str:
        return worst(self.states)

    def label(self, named: bool) -> str:
        """Its id, or how many it stands for; "" where that would say nothing."""
        if len(self.records) > 1:
            bad = sum(1 for r in self.records if r["state"] != "up")
            return f"×{len(self.records)}" + (f", {bad} not up" if 0 < bad < len(self.records) else "")
        # the id stands at the edge to the tunnel's namespace already
        return self.records[0]["id"] if named and self.kind != "tunnel" else ""

    def title(self, nodes: list[Node]) -> str:
        lines = [f"{nodes[self.a].label} - {nodes[self.b].label}: {tally(self.states)}"]
        chosen = sorted(self.records, key=lambda r: (-rank(r["state"]), _natural(r["id"])))
        lines += [_line(r) for r in chosen[:LISTED]]
        if len(chosen) > LISTED:
            lines.append(f"and {len(chosen) - LISTED} more")
        return "\n".join(lines)


@dataclass(slots=True)
class Topology:
    """Nodes in the order of their names; the same records give the same graph."""

    nodes: list[Node]
    edges: list[Edge]
    states: Counter[str]

    @classmethod
    def of(cls, records: Iterable[Record]) -> Topology:
        known = sorted(records, key=lambda r: _natural(r["id"]))
        links = list(_links(known))
        names: dict[tuple[NodeKind, str], Node] = {}
        counted = set()  # a connection may touch a namespace twice
        for ends, _, record in links:
            for kind, name in ends:
                node = names.setdefault((kind, name), Node(name, kind))
                if (kind, name, record["id"]) not in counted:
                    counted.add((kind, name, record["id"]))
                    node.states[record["state"]] += 1
        for record in known:
            missing = missing_netns(record)
            if missing is not None and ("netns", missing) in names:
                names["netns", missing].missing = True
        order = sorted(names, key=lambda key: (key[0], _natural(key[1])))
        places = {key: place for place, key in enumerate(order)}
        edges: dict[tuple[int, int, EdgeKind], Edge] = {}
        for ends, edge_kind, record in links:
            a, b = sorted(places[end] for end in ends)
            edge = edges.setdefault((a, b, edge_kind), Edge(a, b, edge_kind))
            edge.records.append(record)
        states = Counter(r["state"] for r in known)
        return cls([names[key] for key in order], [edges[key] for key in sorted(edges)], states)

    @property
    def named(self) -> bool:
        """Whether there is room for the ids of connections."""
        return len(self.edges) <= NAMED

    def as_dict(self) -> dict[str, Any]:
        return {
            "nodes": [
                {"name": n.name, "kind": n.kind, "missing": n.missing, "connections": dict(n.states)}
                for n in self.nodes
            ],
            "edges": [
                {"a": e.a, "b": e.b, "kind": e.kind, "state": e.state, "states": dict(e.states), "ids": e.ids}
                for e in self.edges
            ],
            "states": dict(self.states),
        }


def rank(state: str) -> int:
    """Higher is worse; what we do not know is worst."""
    return list(COLOURS).index(state) if state in COLOURS else len(COLOURS)


def colour(state: str) -> str:
    return COLOURS.get(state, COLOURS["failed"])


def width(state: str) -> float:
    """Of a line."""
    return WIDTHS.get(state, WIDTHS["failed"])


def border(node: Node) -> str:
    """Colour of a node's border: a quiet one unless something is not up."""
    state = worst(node.states)
    return QUIET if state == "up" else colour(state)


def worst(states: Mapping[str, int]) -> str:
    """The state that should be looked at first."""
    return max((s for s in states if states[s]), key=rank, default="up")


def tally(states: Mapping[str, int]) -> str:
    """`12 connections: 10 up, 2 failed`"""
    total = sum(states.values())
    parts = [f"{states[s]} {s}" for s in sorted(states, key=lambda s: (rank(s), s)) if states[s]]
    return f"{total} connection{'s' if total != 1 else ''}" + (f": {', '.join(parts)}" if parts else "")


def shorten(text: str, longest: int = LONGEST) -> str:
    """Cut in the middle: names of generated namespaces differ at either end."""
    return text if len(text) <= longest else f"{text[: longest // 2 - 1]}…{text[-(longest - longest // 2) :]}"


def _links(records: list[Record]) -> Iterable[tuple[list[tuple[NodeKind, str]], EdgeKind, Record]]:
    """(the two nodes, kind, record) of every edge before edges are merged."""
    tunnels = {_tunnel(r): _netns(r["vxlan"].get("underlay", "")) for r in records if "vxlan" in r}
    for record in records:
        a: tuple[NodeKind, str] = ("netns", _netns(record["a"]["netns"]))
        if "b" in record:
            yield [a, ("netns", _netns(record["b"]["netns"]))], "veth", record
            continue
        if "vxlan" not in record:
            continue  # it leads nowhere else
        vni, port, local, remote = _tunnel(record)
        underlay: tuple[NodeKind, str] = ("netns", _netns(record["vxlan"].get("underlay", "")))
        if a != underlay or not remote:
            yield [a, underlay], "vxlan", record
        if remote:
            there = tunnels.get((vni, port, remote, local))
            far: tuple[NodeKind, str] = ("remote", remote) if there is None else ("netns", there)
            if far != underlay:
                yield [underlay, far], "tunnel", record


def _tunnel(record: Record) -> tuple[int, int, str, str]:
    spec = record["vxlan"]
    return spec["vni"], spec.get("port", 4789), _address(spec.get("local")), _address(spec.get("remote"))


def _address(text: str | None) -> str:
    """One spelling for every way to write an address."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(text or ""))
    return text or ""


def _netns(reference: str) -> str:
    try:
        return canonical(reference)
    except InvalidValue:  # of an engine that knows more kinds than we do
        return reference


def missing_netns(record: Record) -> str | None:
    """The namespace that a connection waits for."""
    reason = record.get("reason") or record.get("error", {}).get("message", "")
    for end in ("a", "b"):
        if record["state"] != "up" and end in record and reason.startswith(f"{end}.netns:"):
            return _netns(record[end]["netns"])
    if record["state"] != "up" and "vxlan" in record and reason.startswith("vxlan.underlay:"):
        return _netns(record["vxlan"].get("underlay", ""))
    return None


def _line(record: Record) -> str:
    """`c1 up, eth0 - eth1` or `c1 failed: why`"""
    why = record.get("reason") or record.get("error", {}).get("message", "")
    if why:
        return f"{record['id']} {record['state']}: {why}"
    ends = [record[end]["ifname"] for end in ("a", "b") if end in record]
    tunnel = [f"vni {record['vxlan']['vni']}"] if "vxlan" in record else []
    return f"{record['id']} {record['state']}, {' - '.join(ends + tunnel)}"


def _natural(text: str) -> list[tuple[int, str]]:
    """pod2 comes before pod10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", text)]


# -- text formats ------------------------------------------------------------------------------------


def dot(topology: Topology) -> str:
    """For Graphviz."""
    lines = ["graph fastnl {", "  graph [overlap=false, splines=true];"]
    lines.append('  node [shape=box, style=rounded, fontname="monospace", fontsize=11, margin="0.1,0.04", height=0.3];')
    lines.append('  edge [fontname="monospace", fontsize=9];')
    for n, node in enumerate(topology.nodes):
        more = ", style=dashed" if node.missing else ", shape=hexagon, style=solid" if node.kind == "remote" else ""
        lines.append(
            f'  n{n} [label="{_dot(shorten(node.label))}", tooltip="{_dot(node.title)}", color="{border(node)}"{more}];'
        )
    styles = {"veth": "solid", "vxlan": "dashed", "tunnel": "dotted"}
    lines += [
        f'  n{edge.a} -- n{edge.b} [label="{_dot(shorten(edge.label(topology.named)))}", '
        f'color="{colour(edge.state)}", penwidth={width(edge.state)}, style={styles[edge.kind]}, '
        f'tooltip="{_dot(edge.title(topology.nodes))}"];'
        for edge in topology.edges
    ]
    return "\n".join([*lines, "}", ""])


def _dot(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def mermaid(topology: Topology) -> str:
    """For Markdown.  Mermaid draws 500 edges at most unless its `maxEdges` is raised."""
    lines = ["graph LR"]
    for n, node in enumerate(topology.nodes):
        left, right = ("{{", "}}") if node.kind == "remote" else ("(", ")")
        lines.append(f'  n{n}{left}"{_mermaid(shorten(node.label))}"{right}')
    arrows = {"veth": "---", "vxlan": "-.-", "tunnel": "-.-"}
    by_state: dict[str, list[int]] = {}
    for place, edge in enumerate(topology.edges):
        label = _mermaid(shorten(edge.label(topology.named)))
        lines.append(f"  n{edge.a} {arrows[edge.kind]}" + (f'|"{label}"| ' if label else " ") + f"n{edge.b}")
        by_state.setdefault(edge.state, []).append(place)
    for state, places in sorted(by_state.items()):
        lines.append(f"  linkStyle {','.join(map(str, places))} stroke:{colour(state)},stroke-width:{width(state)}px")
    missing = [f"n{n}" for n, node in enumerate(topology.nodes) if node.missing]
    if missing:
        lines.append(f"  classDef missing stroke:{COLOURS['pending']},stroke-dasharray:4")
        lines.append(f"  class {','.join(missing)} missing")
    return "\n".join([*lines, ""])


def _mermaid(text: str) -> str:
    """Whatever is neither a letter, a digit nor harmless becomes its number: Mermaid's text may hold Markdown."""
    return "".join(c if c.isalnum() or c in " .-_/(),…×" else f"#{ord(c)};" for c in text)
