"""A topology as SVG, and as an HTML page to look around in.

Both stand alone: no font, script or picture is fetched from anywhere.  Every name and id is escaped.
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Sequence

from fastnl_engine.layout import Point, Size, place
from fastnl_engine.topology import (
    COLOURS,
    QUIET,
    WIDTHS,
    Edge,
    Node,
    Topology,
    border,
    colour,
    rank,
    shorten,
    tally,
    width,
    worst,
)

FONT = "ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace"
LETTER, LETTER_SMALL = 6.9, 5.8  # pixels of a letter at 11 and 9
HEIGHT = 22.0  # of a node
MARGIN = 24.0
DASHES = {"veth": "", "vxlan": "7 4", "tunnel": "2 3"}
MANY = 120  # of more edges those that are up stand back
NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# along an edge: where its label may stand, the best first
STOPS = (0.5, 0.42, 0.58, 0.35, 0.65, 0.28, 0.72)

STYLE = """
text { font: 11px FONT; fill: #1f2328; text-anchor: middle; }
.edge path { fill: none; stroke-linecap: round; }
.edge text { font-size: 9px; fill: #59636e; }
.edge rect { fill: #fff; fill-opacity: 0.9; }
.many .up path { stroke-opacity: 0.5; stroke-width: 1; }
.legend text { text-anchor: start; }
.legend .head { font-weight: bold; font-size: 13px; }
""".replace("FONT", FONT)


def svg(topology: Topology) -> str:
    """A picture: namespaces as boxes, connections as lines, coloured by state."""
    return "\n".join(['<?xml version="1.0" encoding="UTF-8"?>', *_picture(topology), ""])


def html(topology: Topology) -> str:
    """A page with the picture, to be dragged, zoomed and searched."""
    ids = json.dumps([edge.ids for edge in topology.edges])
    # in a script "</" would end it, and "<!--" begin a comment
    data = ids.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    # not by replace(): the picture may hold any word
    head, _, rest = PAGE.partition("PICTURE")
    middle, _, tail = rest.partition("IDS")
    return head + "\n".join(_picture(topology)) + middle + data + tail


def _picture(topology: Topology) -> list[str]:
    nodes, edges = topology.nodes, topology.edges
    labels = [shorten(node.label) for node in nodes]
    boxes = [(max(40.0, _letters(label) * LETTER + 18), HEIGHT) for label in labels]
    points = place(boxes, [(edge.a, edge.b) for edge in edges])
    legend, legend_width = _legend(topology)
    top = MARGIN + 74
    points = [(x + MARGIN, y + top) for x, y in points]
    right = max([x + w / 2 for (w, _), (x, _) in zip(boxes, points, strict=True)] + [legend_width]) + MARGIN
    bottom = max([y + h / 2 for (_, h), (_, y) in zip(boxes, points, strict=True)] + [top]) + MARGIN
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right:.0f} {bottom:.0f}" '
        f'width="{right:.0f}" height="{bottom:.0f}" role="img">',
        f"<title>{_text(tally(topology.states))}</title>",
        f"<style>{STYLE}</style>",
        f'<rect width="{right:.0f}" height="{bottom:.0f}" fill="#ffffff"/>',
        *legend,
        f'<g class="{"many" if len(edges) > MANY else "few"}">',
    ]
    curves = _curves(edges, points, boxes)
    spots = _spots(topology, curves, boxes, points)
    # what needs a look is drawn last, over the rest
    order = sorted(range(len(edges)), key=lambda i: (rank(edges[i].state), i))
    for i in order:
        out += _edge(edges[i], i, curves[i], spots[i], nodes)
    for n, node in enumerate(nodes):
        out += _node(node, n, labels[n], boxes[n], points[n])
    return [*out, "</g>", "</svg>"]


def _legend(topology: Topology) -> tuple[list[str], float]:
    """Lines of the legend, and its width: only what the picture holds."""
    namespaces = sum(1 for node in topology.nodes if node.kind == "netns")
    head = f"{tally(topology.states)}; {namespaces} namespace{'s' if namespaces != 1 else ''}"
    out = ['<g class="legend">', f'<text class="head" x="{MARGIN}" y="{MARGIN + 12}">{_text(head)}</text>']
    x, y = MARGIN, MARGIN + 36
    for state in COLOURS:
        if topology.states.get(state):
            out.append(
                f'<path d="M{x} {y - 4}h26" stroke="{COLOURS[state]}" stroke-width="{WIDTHS[state]}"/>'
                f'<text x="{x + 32}" y="{y}">{state}</text>'
            )
            x += 32 + len(state) * LETTER + 24
    words = {"veth": "veth", "vxlan": "VXLAN, to the namespace of its tunnel", "tunnel": "its tunnel"}
    kinds = {edge.kind for edge in topology.edges}
    if kinds - {"veth"}:
        for kind, word in words.items():
            if kind in kinds:
                out.append(
                    f'<path d="M{x} {y - 4}h26" stroke="{QUIET}" stroke-width="1.4" stroke-dasharray="{DASHES[kind]}"/>'
                    f'<text x="{x + 32}" y="{y}">{word}</text>'
                )
                x += 32 + len(word) * LETTER + 24
    if any(node.missing for node in topology.nodes):
        out.append(
            f'<rect x="{x}" y="{y - 12}" width="26" height="15" rx="7" fill="#fff" stroke="{COLOURS["pending"]}" '
            f'stroke-dasharray="3 3"/><text x="{x + 32}" y="{y}">namespace not there</text>'
        )
        x += 32 + len("namespace not there") * LETTER
    return [*out, "</g>"], max(x, MARGIN + len(head) * 8.3)


# -- edges -------------------------------------------------------------------------------------------

Curve = tuple[Point, Point, Point]  # of a quadratic Bézier: begin, control, end


def _curves(edges: Sequence[Edge], points: Sequence[Point], boxes: Sequence[Size]) -> list[Curve]:
    """Straight between two nodes, bent where there are several; a loop for a namespace wired to itself."""
    used: dict[tuple[int, int], int] = {}
    out = []
    for edge in edges:
        (ax, ay), (bx, by) = points[edge.a], points[edge.b]
        nth = used.get((edge.a, edge.b), 0)
        used[edge.a, edge.b] = nth + 1
        if edge.a == edge.b:
            width = boxes[edge.a][0]
            reach = 60.0 + 24 * nth
            out.append(((ax - width / 4, ay), (ax, ay - reach), (ax + width / 4, ay)))
            continue
        bend = 36.0 * ((nth + 1) // 2) * (1 if nth % 2 else -1)
        length = math.hypot(bx - ax, by - ay) or 1.0
        mx, my = (ax + bx) / 2 - (by - ay) / length * bend, (ay + by) / 2 + (bx - ax) / length * bend
        out.append(((ax, ay), (mx, my), (bx, by)))
    return out


def _at(curve: Curve, t: float) -> Point:
    (ax, ay), (mx, my), (bx, by) = curve
    p, q, r = (1 - t) ** 2, 2 * t * (1 - t), t * t
    return p * ax + q * mx + r * bx, p * ay + q * my + r * by


def _spots(
    topology: Topology, curves: Sequence[Curve], boxes: Sequence[Size], points: Sequence[Point]
) -> list[tuple[float, float, str] | None]:
    """For each edge where its label stands, and the label: clear of nodes and of other labels, as far as can be."""
    taken = _Taken()
    for (x, y), (w, h) in zip(points, boxes, strict=True):
        taken.add(x, y, w, h)
    out: list[tuple[float, float, str] | None] = []
    for edge, curve in zip(topology.edges, curves, strict=True):
        label = shorten(edge.label(topology.named), 24)
        if not label:
            out.append(None)
            continue
        w, h = _letters(label) * LETTER_SMALL, 11.0
        x, y = min((_at(curve, t) for t in STOPS), key=lambda p: taken.overlap(p[0], p[1], w, h))
        taken.add(x, y, w, h)
        out.append((x, y, label))
    return out


class _Taken:
    """Rectangles that are in use already."""

    CELL = 120.0

    def __init__(self) -> None:
        self._cells: dict[tuple[int, int], list[tuple[float, float, float, float]]] = {}

    def _places(self, x: float, y: float, w: float, h: float) -> list[tuple[int, int]]:
        return [
            (cx, cy)
            for cx in range(int((x - w / 2) // self.CELL), int((x + w / 2) // self.CELL) + 1)
            for cy in range(int((y - h / 2) // self.CELL), int((y + h / 2) // self.CELL) + 1)
        ]

    def add(self, x: float, y: float, w: float, h: float) -> None:
        for cell in self._places(x, y, w, h):
            self._cells.setdefault(cell, []).append((x, y, w, h))

    def overlap(self, x: float, y: float, w: float, h: float) -> float:
        """Area that would be covered twice."""
        total = 0.0
        for cell in self._places(x, y, w, h):
            for ox, oy, ow, oh in self._cells.get(cell, ()):
                dx, dy = (w + ow) / 2 - abs(x - ox), (h + oh) / 2 - abs(y - oy)
                if dx > 0 and dy > 0:
                    total += dx * dy
        return total


def _edge(edge: Edge, place: int, curve: Curve, spot: tuple[float, float, str] | None, nodes: list[Node]) -> list[str]:
    (ax, ay), (mx, my), (bx, by) = curve
    thick = width(edge.state) + min(2.0, 0.5 * math.log2(len(edge.records)))
    dash = f' stroke-dasharray="{DASHES[edge.kind]}"' if DASHES[edge.kind] else ""
    label = ""
    if spot is not None:
        x, y, text = spot
        wide = _letters(text) * LETTER_SMALL + 2
        label = (
            f'<rect x="{x - wide / 2:.1f}" y="{y - 6:.1f}" width="{wide:.1f}" height="12" rx="3"/>'
            f'<text x="{x:.1f}" y="{y + 3:.1f}">{_text(text)}</text>'
        )
    return [
        f'<g class="edge {edge.state}" data-edge="{place}" data-a="{edge.a}" data-b="{edge.b}">'
        f"<title>{_text(edge.title(nodes))}</title>"
        f'<path d="M{ax:.1f} {ay:.1f}Q{mx:.1f} {my:.1f} {bx:.1f} {by:.1f}" stroke="{colour(edge.state)}" '
        f'stroke-width="{thick:.1f}"{dash}/>{label}</g>'
    ]


def _node(node: Node, place: int, label: str, box: Size, point: Point) -> list[str]:
    (w, h), (x, y) = box, point
    fill = "#f6f8fa" if node.kind == "netns" else "#ddf4ff"
    round_ = h / 2 if node.kind == "netns" else 2
    dash = ' stroke-dasharray="4 3"' if node.missing else ""
    return [
        f'<g class="node" data-node="{place}" data-name="{_text(node.label)}"><title>{_text(node.title)}</title>'
        f'<rect x="{x - w / 2:.1f}" y="{y - h / 2:.1f}" width="{w:.1f}" height="{h:.1f}" rx="{round_}" '
        f'fill="{fill}" stroke="{border(node)}" stroke-width="{1.2 if worst(node.states) == "up" else 2}"{dash}/>'
        f'<text x="{x:.1f}" y="{y + 4:.1f}">{_text(label)}</text></g>'
    ]


# -- text --------------------------------------------------------------------------------------------


def _letters(text: str) -> int:
    """How wide a text is, in letters; those of East Asia count twice."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def _text(text: str) -> str:
    """As text or attribute of XML, in which not every character may be."""
    clean = NOT_IN_XML.sub("\ufffd", text)
    return clean.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>fastnl topology</title>
<style>
html, body { margin: 0; height: 100%; overflow: hidden; font: 13px system-ui, sans-serif; }
body > svg { width: 100%; height: 100%; cursor: grab; touch-action: none; }
body > svg.drag { cursor: grabbing; }
.node { cursor: pointer; }
.dim { opacity: 0.12; }
.hit rect { stroke: #0969da; stroke-width: 3; }
.edge.hit path { stroke-width: 4; }
form { position: fixed; top: 10px; right: 10px; display: flex; gap: 6px; align-items: center;
       background: #ffffffe8; padding: 6px 8px; border: 1px solid #d1d9e0; border-radius: 6px; }
input { width: 15em; padding: 3px 6px; }
</style>
</head>
<body>
<form>
<input type="search" placeholder="namespace or connection" aria-label="namespace or connection"
       title="Enter goes there" autofocus>
<output></output>
<button type="reset">all</button>
</form>
PICTURE
<script>
"use strict";
const ids = IDS;
const svg = document.querySelector("svg");
const form = document.forms[0], field = form.querySelector("input"), found = form.querySelector("output");
const nodes = [...svg.querySelectorAll(".node")], edges = [...svg.querySelectorAll(".edge")];
const whole = svg.viewBox.baseVal, home = [whole.x, whole.y, whole.width, whole.height];
svg.removeAttribute("width");
svg.removeAttribute("height");

function view(x, y, w, h) { svg.setAttribute("viewBox", [x, y, w, h].join(" ")); }

function at(event) {
  return new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
}

svg.addEventListener("wheel", (event) => {
  event.preventDefault();
  const v = svg.viewBox.baseVal, p = at(event);
  const by = Math.exp(Math.max(-60, Math.min(60, event.deltaY)) * 0.004);
  const w = Math.max(100, Math.min(4 * home[2], v.width * by)), k = w / v.width;
  view(p.x - (p.x - v.x) * k, p.y - (p.y - v.y) * k, w, v.height * k);
}, {passive: false});

let grip = null, moved = false;
svg.addEventListener("pointerdown", (event) => { grip = at(event); moved = false; });
svg.addEventListener("pointermove", (event) => {
  if (!grip || !event.buttons) { grip = null; svg.classList.remove("drag"); return; }
  const v = svg.viewBox.baseVal, p = at(event);
  if (Math.hypot(p.x - grip.x, p.y - grip.y) * svg.clientWidth / v.width > 3) moved = true;
  if (!moved) return;
  svg.classList.add("drag");
  view(v.x + grip.x - p.x, v.y + grip.y - p.y, v.width, v.height);
});
window.addEventListener("pointerup", () => { grip = null; svg.classList.remove("drag"); });
svg.addEventListener("dblclick", () => view(...home));

// shows some nodes and edges, dims the rest
function show(lit, hits, text) {
  for (const e of [...nodes, ...edges]) {
    e.classList.toggle("dim", lit !== null && !lit.has(e));
    e.classList.toggle("hit", hits !== null && hits.has(e));
  }
  found.textContent = text;
}

function around(hits) {
  const lit = new Set(hits);
  for (const e of edges) {
    const a = nodes[e.dataset.a], b = nodes[e.dataset.b];
    if (hits.has(e) || hits.has(a) || hits.has(b)) lit.add(e).add(a).add(b);
  }
  return lit;
}

function search() {
  const word = field.value.trim().toLowerCase();
  if (!word) return show(null, null, "");
  const hits = new Set(nodes.filter((n) => n.dataset.name.toLowerCase().includes(word)));
  let connections = 0;
  for (const e of edges) {
    const fits = ids[e.dataset.edge].filter((id) => id.toLowerCase().includes(word)).length;
    if (fits) hits.add(e);
    connections += fits;
  }
  show(around(hits), hits, `${hits.size ? "" : "nothing: "}${[...hits].filter((h) => h.dataset.node).length} ` +
    `namespaces, ${connections} connections`);
}

field.addEventListener("input", search);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  const boxes = [...svg.querySelectorAll(".hit")].map((hit) => hit.getBBox());
  if (!boxes.length) return;
  const x = Math.min(...boxes.map((b) => b.x)), y = Math.min(...boxes.map((b) => b.y));
  const w = Math.max(...boxes.map((b) => b.x + b.width)) - x, h = Math.max(...boxes.map((b) => b.y + b.height)) - y;
  const room = Math.max(100, 0.2 * Math.max(w, h));
  view(x - room, y - room, w + 2 * room, h + 2 * room);
});
form.addEventListener("reset", () => { show(null, null, ""); view(...home); });
svg.addEventListener("click", (event) => {
  if (moved) return;
  const node = event.target.closest(".node");
  if (!node) return search();
  const hits = new Set([node]), lit = around(hits);
  show(lit, hits, `${[...lit].filter((e) => e.dataset.node).length - 1} neighbours`);
});
</script>
</body>
</html>
"""
