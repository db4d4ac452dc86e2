"""docs/protocol.md says what is so: every example on the page is run, in order, against one engine."""

from __future__ import annotations

import contextlib
import io
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from fastnl.testing import PATIENCE, Namespaces
from fastnl_engine import auth, wire
from fastnl_engine.config import ENDPOINT, EVENTS
from fastnl_engine.engine import Engine
from fastnl_engine.model import Connection, EndSpec, NeighbourSpec, RouteSpec, VxlanSpec
from fastnl_engine.testing import EngineProcess, RawSocket

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()

# of these only the type is compared: they differ from run to run, or are words for people
VARIES = {
    "ifindex", "since", "time", "run", "uptime", "message", "reason", "version", "ext_ack", "rx_packets", "tx_packets",
    # what is sent before the other end's carrier is seen counts as dropped
    "rx_bytes", "tx_bytes", "rx_dropped", "tx_dropped", "n", "newest", "cycles", "events", "state_dir",
    "count", "seconds", "within",
}  # fmt: skip
# what the kernel can is not ours to say
VARIES |= {"veth", "vxlan", "dummy", "ipv6", "born_by_target_name", "live_rename", "stable_id", "cookie", "pidfd_netns",
           "writable_sysctl"}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A fenced block: what its fence says, its text, and the line where it is."""

    kind: str
    text: str
    line: int


def blocks() -> Iterator[Block]:
    for found in re.finditer(r"^```([^\n]+)\n(.*?)^```$", PAGE, re.M | re.S):
        yield Block(found[1], found[2], PAGE.count("\n", 0, found.start()) + 1)


def compare(want: Any, have: Any, where: str = "") -> list[str]:
    """What differs in kind; [] if nothing does."""
    if isinstance(want, dict) and isinstance(have, dict):
        if want.keys() != have.keys():
            return [f"{where}: the page has {sorted(want)}, the engine {sorted(have)}"]
        out = []
        for key in want:
            if key in VARIES and not isinstance(want[key], dict):
                if type(want[key]) is not type(have[key]):
                    out.append(f"{where}.{key}: {want[key]!r} and {have[key]!r} are of different types")
            else:
                out += compare(want[key], have[key], f"{where}.{key}")
        return out
    if isinstance(want, list) and isinstance(have, list) and len(want) == len(have):
        return [d for n, (w, h) in enumerate(zip(want, have, strict=True)) for d in compare(w, h, f"{where}[{n}]")]
    return [] if want == have and type(want) is type(have) else [f"{where}: the page has {want!r}, the engine {have!r}"]


class Reader:
    """Goes through the page and does what it says."""

    def __init__(self, engine: EngineProcess, raw: RawSocket) -> None:
        self.engine = engine
        self.raw = raw
        self.events = RawSocket(engine.events, zmq.SUB, {zmq.SUBSCRIBE: b"connection.removed.web-later"})
        self.output: str | None = None
        self.waiting = False
        self.done: dict[str, int] = {}

    def follow(self, block: Block) -> list[str]:
        self.done[block.kind] = self.done.get(block.kind, 0) + 1
        if block.kind not in ("json reply", "json event") and self.waiting:
            self.raw.reply()  # a request whose reply the page does not show
            self.waiting = False
        match block.kind:
            case "json request":
                self.raw.send(msgpack.packb(json.loads(block.text)))
                self.waiting = True
            case "hex request":
                assert self.raw.request(bytes.fromhex(block.text))["ok"]
            case "json reply":
                assert self.waiting
                self.waiting = False
                return compare(json.loads(block.text), self.raw.reply())
            case "json event":
                topic, body = self.events.frames()
                return compare(json.loads(block.text), [topic.decode(), msgpack.unpackb(body)])
            case "python":
                self.output = self.run(block)
            case "output":
                assert self.output == block.text, f"the page has\n{block.text}\nand the program says\n{self.output}"
            case other:
                pytest.fail(f"line {block.line}: no such kind of example: {other}")
        return []

    def run(self, block: Block) -> str:
        text = block.text.replace(ENDPOINT, self.engine.endpoint).replace(EVENTS, self.engine.events)
        assert "/run/fastnl" not in text
        said = io.StringIO()
        program = compile("\n" * block.line + text, "docs/protocol.md", "exec")
        with contextlib.redirect_stdout(said):
            exec(program, {"__name__": "__main__"})
        zmq.Context.instance().term()
        return said.getvalue()


@contextlib.contextmanager
def traffic(engine: EngineProcess) -> Iterator[None]:
    """Something happens all the time, for the example that waits for events."""
    stop = threading.Event()
    job = {
        "id": "traffic", "kind": "veth",
        "a": {"netns": "blue", "ifname": "traffic"}, "b": {"netns": "red", "ifname": "traffic"},
    }  # fmt: skip

    def work() -> None:
        raw = RawSocket(engine.endpoint)
        while not stop.is_set():
            raw.request(id=1, op="connect", connections=[job])
            raw.request(id=2, op="disconnect", ids=["traffic"])
        raw.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(PATIENCE)


def test_every_example_does_what_the_page_says(make_keys_engine, netns: Namespaces):
    for name in ("blue", "red", "green"):
        netns.make(name)
    engine = make_keys_engine(instance="default").start()
    reader = Reader(engine, engine.raw())
    try:
        read(reader, engine)
    finally:
        reader.events.close()
    assert not reader.waiting
    assert reader.done["json request"] >= 14 and reader.done["python"] == 6 and reader.done["output"] == 5


def read(reader: Reader, engine: EngineProcess) -> None:
    for block in blocks():
        busy = traffic(engine) if "subscribe(" in block.text else contextlib.nullcontext()
        with busy:
            problems = reader.follow(block)
        assert not problems, f"line {block.line}:\n  " + "\n  ".join(problems)


# -- nothing is left out ---------------------------------------------------------------------------


def section(title: str) -> str:
    """What the page says under a heading."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
    assert found, title
    return found[1]


@pytest.mark.parametrize("op", wire.OPS)
def test_every_op_has_its_section_with_every_field(op):
    text = section(op)
    fields = set(wire.OPS[op].__struct_fields__) - {"id"}
    if op == "move":
        fields |= set(wire.MoveSpec.__struct_fields__)
    assert [f for f in fields if f"`{f}`" not in text] == []


@pytest.mark.parametrize("kind", [Connection, EndSpec, RouteSpec, NeighbourSpec, VxlanSpec])
def test_every_field_of_a_connection_is_there(kind):
    text = section("Connections")
    assert [f for f in kind.__struct_fields__ if f"`{f}`" not in text] == []


def test_every_error_code_is_there():
    import fastnl
    from fastnl_engine import planner

    text = section("Errors")
    codes = {e.code for e in vars(fastnl).values() if isinstance(e, type) and issubclass(e, fastnl.FastnlError)}
    codes |= {planner.UnknownId.code}
    source = "".join(p.read_text() for p in Path(wire.__file__).parent.glob("*.py"))
    codes |= set(re.findall(r'ProtocolError\(\s*"(\w+)"', source)) | set(re.findall(r'"code": "(\w+)"', source))
    assert len(codes) > 14
    assert [c for c in codes if f"| `{c}` |" not in text] == []


def test_limits_and_roles_are_those_of_the_code():
    text = section("Limits")
    assert f"{wire.MAX_FRAME >> 20} MiB" in text
    assert f"{wire.MAX_ITEMS:,}" in text
    assert f"| `id` of a request | {wire.MAX_ID} " in text
    roles = section("Transport")
    assert all(op in roles for op in auth.NEEDED)
    assert Engine.__init__.__kwdefaults__["queue"] == wire.MAX_ITEMS


def test_every_link_on_the_page_leads_somewhere():
    headings = {h.lower().replace(" ", "-") for h in re.findall(r"^#+ (.+)$", PAGE, re.M)}
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) <= headings
