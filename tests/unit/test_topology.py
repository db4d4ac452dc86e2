"""Connections as a graph, its layout, and its pictures: the same every time, and safe whatever the names are."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from html.parser import HTMLParser
from itertools import combinations
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnl_engine import drawing, layout, topology
from fastnl_engine.topology import Topology

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "</script><script>alert(1)</script>\"'&<>`*#|\\ PICTURE IDS \u2028 漢字 é\u0301"


def pair(id: str, a: str, b: str, state: str = "up", **more) -> dict:
    ends = {"a": {"netns": a, "ifname": f"{id}a"}, "b": {"netns": b, "ifname": f"{id}b"}}
    return {"id": id, "ok": True, "kind": "veth", **ends, "state": state, "since": 0.0, **more}


def tunnel(id: str, a: str, *, underlay: str = "", state: str = "up", **vxlan) -> dict:
    spec = {"vni": 42, "underlay": underlay, **vxlan}
    return {"id": id, "ok": True, "kind": "vxlan", "a": {"netns": a, "ifname": id}, "vxlan": spec, "state": state}


def star(count: int) -> list[dict]:
    return [pair(f"c{i}", "hub", f"pod-{i}") for i in range(count)]


def fabric(spines: int, leaves: int, hosts: int) -> list[dict]:
    out = [pair(f"s{s}l{n}", f"spine{s}", f"leaf{n}") for s in range(spines) for n in range(leaves)]
    return out + [pair(f"l{n}h{h}", f"leaf{n}", f"host{n}-{h}") for n in range(leaves) for h in range(hosts)]


def at_random(count: int, rooms: int) -> list[dict]:
    dice = random.Random(count)
    return [pair(f"c{i}", f"ns{dice.randrange(rooms)}", f"ns{dice.randrange(rooms)}") for i in range(count)]


SHAPES = {
    "nothing": [],
    "one": [pair("c", "a", "b")],
    "own": [pair("c", "a", "a")],
    "10": at_random(10, 6),
    "100": at_random(100, 60),
    "1000": at_random(1000, 400),
    "star of 10": star(10),
    "star of 1000": star(1000),
    "fabric": fabric(4, 30, 29),
    "mesh": [pair(f"c{a}-{b}", f"n{a}", f"n{b}") for a, b in combinations(range(30), 2)],
    "chain": [pair(f"c{i}", f"n{i}", f"n{i + 1}") for i in range(50)],
    "ring": [pair(f"c{i}", f"n{i}", f"n{(i + 1) % 40}") for i in range(40)],
    "tree": [pair(f"c{i}", f"n{(i - 1) // 3}", f"n{i}") for i in range(1, 300)],
    "pairs": [pair(f"c{i}", f"a{i}", f"b{i}") for i in range(500)],
    "tunnels": [tunnel(f"t{i}", f"pod-{i}", local="10.0.0.1", remote=f"10.0.0.{2 + i % 8}") for i in range(100)],
}


# -- the graph ---------------------------------------------------------------------------------------


def names(graph: Topology) -> list[str]:
    return [node.name for node in graph.nodes]


def edges(graph: Topology) -> list[tuple[str, str, str, list[str]]]:
    return [(graph.nodes[e.a].name, graph.nodes[e.b].name, e.kind, e.ids) for e in graph.edges]


def test_connections_between_the_same_namespaces_are_one_edge_whichever_way_they_go():
    graph = Topology.of([pair("c1", "blue", "red"), pair("c2", "red", "name:blue", "failed"), pair("c3", "red", "")])
    assert names(graph) == ["", "blue", "red"]
    assert edges(graph) == [("", "red", "veth", ["c3"]), ("blue", "red", "veth", ["c1", "c2"])]
    both = graph.edges[1]
    assert both.states == {"up": 1, "failed": 1}
    assert both.state == "failed"
    assert both.label(named=True) == "×2, 1 not up"
    assert graph.nodes[0].label == "(own)"


def test_nodes_are_in_the_order_that_people_count_in():
    assert names(Topology.of(star(12)))[:4] == ["hub", "pod-0", "pod-1", "pod-2"]
    assert names(Topology.of(star(12)))[-1] == "pod-11"


def test_a_namespace_that_is_wired_to_itself_counts_the_connection_once():
    graph = Topology.of([pair("c", "a", "a")])
    assert edges(graph) == [("a", "a", "veth", ["c"])]
    assert graph.nodes[0].states == {"up": 1}


def test_a_tunnel_goes_by_its_underlay_to_a_remote_host():
    graph = Topology.of([tunnel("t", "pod", local="10.0.0.1", remote="10.0.0.2", underlay="uplink")])
    assert [(n.name, n.kind) for n in graph.nodes] == [("pod", "netns"), ("uplink", "netns"), ("10.0.0.2", "remote")]
    assert edges(graph) == [("pod", "uplink", "vxlan", ["t"]), ("uplink", "10.0.0.2", "tunnel", ["t"])]
    assert all(node.states == {"up": 1} for node in graph.nodes)


def test_tunnels_of_several_pods_to_one_host_are_one_edge():
    graph = Topology.of([tunnel(f"t{i}", f"pod{i}", remote="2001:db8::1") for i in range(3)])
    assert ("", "2001:db8::1", "tunnel", ["t0", "t1", "t2"]) in edges(graph)


def test_a_tunnel_whose_other_end_is_here_too_ends_there():
    here = tunnel("t1", "pod1", local="2001:db8::1", remote="2001:db8:0::2", underlay="host1")
    there = tunnel("t2", "pod2", local="2001:db8::2", remote="2001:db8::1", underlay="host2")
    other = tunnel("t3", "pod3", local="2001:db8::1", remote="2001:db8::2", underlay="host1", vni=7)
    graph = Topology.of([here, there, other])
    assert ("host1", "host2", "tunnel", ["t1", "t2"]) in edges(graph)
    assert ("host1", "2001:db8::2", "tunnel", ["t3"]) in edges(graph)


def test_a_tunnel_without_a_remote_and_one_in_its_underlay_have_one_edge():
    assert edges(Topology.of([tunnel("t", "pod", external=True)])) == [("", "pod", "vxlan", ["t"])]
    assert edges(Topology.of([tunnel("t", "", remote="10.0.0.2")])) == [("", "10.0.0.2", "tunnel", ["t"])]


@pytest.mark.parametrize(
    ("record", "missing"),
    [
        (pair("c", "blue", "red", "pending", reason="b.netns: namespace 'red': there is no /run/netns/red"), ["red"]),
        (pair("c", "blue", "red", "failed", error={"code": "kernel", "message": "a.ifname: in use"}), []),
        (pair("c", "blue", "red"), []),
        (tunnel("t", "blue", underlay="red", state="pending") | {"reason": "vxlan.underlay: namespace 'red'"}, ["red"]),
    ],
)
def test_a_namespace_that_a_connection_waits_for_is_marked(record, missing):
    assert [node.name for node in Topology.of([record]).nodes if node.missing] == missing


def test_an_edge_tells_of_what_is_not_up_first_and_not_of_too_many():
    records = [pair(f"c{i}", "a", "b") for i in range(30)]
    records[20] = pair("c20", "a", "b", "pending", reason="waits")
    lines = Topology.of(records).edges[0].title(Topology.of(records).nodes).splitlines()
    assert lines[:3] == ["a - b: 30 connections: 29 up, 1 pending", "c20 pending: waits", "c0 up, c0a - c0b"]
    assert lines[-1] == "and 18 more"


def test_a_state_that_is_not_known_here_is_shown_as_the_worst():
    graph = Topology.of([pair("c1", "a", "b", "odd"), pair("c2", "a", "b", "failed")])
    assert graph.edges[0].state == "odd"
    assert "1 odd" in drawing.svg(graph)


def test_long_names_keep_both_ends():
    assert topology.shorten("x" * 28) == "x" * 28
    short = topology.shorten("file:/var/run/docker/netns/0123456789ab")
    assert len(short) == 28
    assert short.startswith("file:/var/run") and short.endswith("0123456789ab")


# -- layout ------------------------------------------------------------------------------------------


def overlaps(boxes: list[layout.Size], points: list[layout.Point]) -> list[tuple[int, int]]:
    order = sorted(range(len(boxes)), key=lambda i: points[i][0] - boxes[i][0] / 2)
    found = []
    for n, i in enumerate(order):
        for j in order[n + 1 :]:
            if points[j][0] - boxes[j][0] / 2 >= points[i][0] + boxes[i][0] / 2:
                break
            if abs(points[i][1] - points[j][1]) < (boxes[i][1] + boxes[j][1]) / 2:
                found.append((i, j))
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_no_box_covers_another(shape):
    graph = Topology.of(SHAPES[shape])
    boxes = [(20.0 + 7 * len(node.label), 22.0) for node in graph.nodes]
    points = layout.place(boxes, [(e.a, e.b) for e in graph.edges])
    assert overlaps(boxes, points) == []


@given(
    st.lists(st.tuples(st.floats(10, 300), st.floats(10, 40)), min_size=1, max_size=40),
    st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=80),
)
def test_no_box_covers_another_whatever_the_graph(boxes, links):
    links = [(a % len(boxes), b % len(boxes)) for a, b in links]
    points = layout.place(boxes, links)
    assert overlaps(boxes, points) == []
    assert all(x - w / 2 >= -0.01 and y - h / 2 >= -0.01 for (w, h), (x, y) in zip(boxes, points, strict=True))


def test_a_chain_goes_to_and_fro():
    graph = Topology.of(SHAPES["chain"])
    points = layout.place([(40.0, 22.0)] * 51, [(e.a, e.b) for e in graph.edges])
    width, height = max(x for x, _ in points), max(y for _, y in points)
    assert width < 3 * height


def test_a_large_star_is_in_reading_order_around_its_hub():
    points = layout.place([(60.0, 22.0)] * 101, [(0, i) for i in range(1, 101)])
    rows = [(round(y), round(x)) for x, y in points[1:]]
    assert rows == sorted(rows)
    assert min(x for x, _ in points) < points[0][0] < max(x for x, _ in points)


# -- pictures ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_svg_is_xml_with_everything_inside(shape):
    graph = Topology.of(SHAPES[shape])
    root = ElementTree.fromstring(drawing.svg(graph))
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    groups = root.findall(f".//{SVG}g")
    nodes = [g for g in groups if g.get("class") == "node"]
    lines = [g for g in groups if (g.get("class") or "").startswith("edge ")]
    assert (len(nodes), len(lines)) == (len(graph.nodes), len(graph.edges))
    for node in nodes:
        box = node.find(f"{SVG}rect").attrib
        assert 0 <= float(box["x"]) <= float(box["x"]) + float(box["width"]) <= width
        assert 0 <= float(box["y"]) <= float(box["y"]) + float(box["height"]) <= height


def test_the_order_of_the_records_makes_no_difference():
    records = [*at_random(200, 80), tunnel("t", "ns1", remote="10.0.0.1")]
    other = records[:]
    random.Random(5).shuffle(other)
    assert drawing.html(Topology.of(records)) == drawing.html(Topology.of(other))


def test_edges_have_the_colour_of_their_worst_state_and_the_worst_are_on_top():
    records = [pair("c1", "a", "b", "failed"), pair("c2", "b", "c"), pair("c3", "c", "d", "pending")]
    root = ElementTree.fromstring(drawing.svg(Topology.of([*records, pair("c4", "a", "b")])))
    groups = [g for g in root.findall(f".//{SVG}g") if (g.get("class") or "").startswith("edge ")]
    found = [(g.get("class"), g.find(f"{SVG}path").get("stroke")) for g in groups]
    assert found == [(f"edge {s}", topology.COLOURS[s]) for s in ("up", "pending", "failed")]


def test_few_edges_tell_their_ids_and_many_do_not():
    def texts(records):
        return {t.text for t in ElementTree.fromstring(drawing.svg(Topology.of(records))).iter(f"{SVG}text")}

    assert {f"c{i}" for i in range(10)} <= texts(star(10))
    assert not {f"c{i}" for i in range(100)} & texts(star(100))


def test_labels_of_edges_keep_clear_of_nodes_and_of_each_other():
    graph = Topology.of([pair("one", "a", "d"), pair("two", "b", "c"), pair("three", "a", "c")])
    points = [(0.0, 0.0), (400.0, 0.0), (0.0, 200.0), (400.0, 200.0), (200.0, 100.0)]
    boxes = [(40.0, 22.0)] * 4
    lines = [((points[e.a]), (200.0, 100.0), points[e.b]) for e in graph.edges]  # all but the last cross in the middle
    spots = drawing._spots(graph, lines, boxes, points[:4])
    assert [label for *_, label in spots] == [e.label(True) for e in graph.edges]
    labels = [(x, y) for x, y, _ in spots]
    assert overlaps([*boxes, *[(30.0, 11.0)] * 3], [*points[:4], *labels]) == []


class Page(HTMLParser):
    """Counts tags, keeps what scripts say and where anything would be fetched from."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.fetched: list[str] = []
        self.script = ""

    def handle_starttag(self, tag, attrs):
        self.tags[tag] += 1
        self.fetched += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "action", "srcset")]

    def handle_data(self, data):
        if self.lasttag == "script":
            self.script += data


def evil() -> list[dict]:
    return [
        pair(EVIL, EVIL, 'b"\\n', "failed", error={"code": "kernel", "message": EVIL}),
        pair("</script <!--", "file:/x" + "y" * 300, EVIL, labels={EVIL: EVIL}),
        pair("backslash\\", "backslash\\", "b"),
        pair("control\x07", "zero\x00", "lone\ud800"),
    ]


def test_names_stay_names_in_svg():
    root = ElementTree.fromstring(drawing.svg(Topology.of(evil())).encode())
    shown = {g.get("data-name") for g in root.iter(f"{SVG}g")} - {None}
    assert shown == {EVIL, 'b"\\n', "file:/x" + "y" * 300, "backslash\\", "b", "zero\ufffd", "lone\ufffd"}
    assert not list(root.iter(f"{SVG}script"))


def test_names_stay_names_in_html():
    graph = Topology.of(evil()[:3])
    page = Page()
    page.feed(drawing.html(graph))
    assert page.tags["script"] == 1
    assert page.tags["svg"] == 1
    text = re.search(r"const ids = (.*);", page.script)[1]
    assert not set("<>&") & set(text)  # browsers see ends of scripts where Python's parser sees none
    ids = json.loads(text)
    assert sorted(id for edge in ids for id in edge) == sorted([EVIL, "</script <!--", "backslash\\"])


@pytest.mark.parametrize("shape", ["10", "star of 1000"])
def test_html_fetches_nothing(shape):
    text = drawing.html(Topology.of(SHAPES[shape]))
    page = Page()
    page.feed(text)
    assert page.fetched == []
    assert "default-src 'none'" in text
    assert re.findall(r"https?://[^\s\"']+", text) == ["http://www.w3.org/2000/svg"]
    assert "@import" not in text and "url(" not in text


DOT_TEXT = r'"(?:[^"\\\n]|\\.)*"'


def test_dot_is_made_of_statements():
    text = topology.dot(Topology.of([*evil()[:3], pair("p", "x", "y", "pending"), tunnel("t", "x", remote="10.0.0.1")]))
    attribute = rf"\w+=(?:{DOT_TEXT}|#?[\w.]+)"
    attributes = rf"\[{attribute}(?:, {attribute})*\]"
    statement = rf"  (?:graph|node|edge|n\d+|n\d+ -- n\d+) {attributes};"
    first, *middle, last = text.rstrip("\n").split("\n")
    assert (first, last) == ("graph fastnl {", "}")
    assert [line for line in middle if not re.fullmatch(statement, line)] == []
    assert len([line for line in middle if " -- " in line]) == 6


def test_mermaid_is_made_of_statements():
    text = topology.mermaid(Topology.of([*evil()[:3], tunnel("t", "x", remote="10.0.0.1")]))
    label = r'"[\w .\-/(),…×#;]*"'
    node = rf"  n\d+(?:\({label}\)|\{{\{{{label}\}}\}})"
    edge = rf"  n\d+ (?:---|-\.-)(?:\|{label}\|)? n\d+"
    style = r"  linkStyle [\d,]+ stroke:#\w+,stroke-width:[\d.]+px"
    first, *rest = text.rstrip("\n").split("\n")
    assert first == "graph LR"
    assert [line for line in rest if not re.fullmatch(f"{node}|{edge}|{style}", line)] == []


def test_as_numbers():
    graph = Topology.of([pair("c1", "a", "b"), pair("c2", "a", "b", "failed")])
    assert json.loads(json.dumps(graph.as_dict())) == {
        "nodes": [
            {"name": n, "kind": "netns", "missing": False, "connections": {"up": 1, "failed": 1}} for n in ("a", "b")
        ],
        "edges": [
            {
                "a": 0, "b": 1, "kind": "veth", "state": "failed", "states": {"up": 1, "failed": 1}, "ids": ["c1", "c2"]
            }
        ],
        "states": {"up": 1, "failed": 1},
    }  # fmt: skip
