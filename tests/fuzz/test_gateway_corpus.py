"""Requests of the corpus, as they are and spoilt, to a real engine: one reply each, and nothing grows or stays.

`make fuzz` does it for longer.  A frame that once did harm goes to corpus/gateway/, which is sent every time;
`python tests/fuzz/test_gateway_corpus.py` makes those that are there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
from mutate import CORPUS, rounds, seeds, spoil

from fastnl.testing import PATIENCE, Census, Namespaces
from fastnl_engine.client import Client
from fastnl_engine.testing import EngineProcess, RawSocket, end, pair, tunnel

BATCH = 40  # frames in flight
GROWTH = 24_000  # KiB that the engine may take while it is fuzzed: caches fill, nothing else

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes real interfaces, which needs root"),
]


@pytest.fixture
def engine(nothing_left: None) -> Iterator[EngineProcess]:
    folder = Path(tempfile.mkdtemp(prefix="fastnl-"))
    with Namespaces() as rooms:
        for name in ("blue", "red"):
            rooms.make(name)
        before = Census.take().interfaces
        with EngineProcess(folder, instance="fuzz") as engine:
            yield engine
            assert engine.running, engine.log
            with Client(engine.endpoint, timeout=PATIENCE) as client:
                client.disconnect([row["id"] for row in client.list()])
                assert client.info()["connections"] == {}
        assert Census.take().interfaces == before
    shutil.rmtree(folder)


def answered(raw: RawSocket, frames: list[bytes]) -> None:
    """Sends frames; each gets one reply, and there is no other."""
    for frame in frames:
        raw.send(frame)
    for reply in (raw.reply() for _ in frames):
        assert reply["v"] == 1 and isinstance(reply["ok"], bool) and ("error" in reply) != ("results" in reply)
    raw.ask(id="the end", op="disconnect", ids=["nobody"])
    assert raw.reply()["id"] == "the end"


def resident(pid: int) -> int:
    """KiB."""
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0])


def test_every_frame_of_the_corpus_has_one_answer(engine):
    raw = engine.raw()
    for frame in seeds("gateway").values():
        answered(raw, [frame])


def test_spoilt_frames_have_one_answer_each_and_nothing_grows(engine):
    raw = engine.raw()
    frames = list(seeds("gateway").values())
    answered(raw, frames)
    first = 0
    for n, chance in enumerate(rounds()):
        batch = [spoil(chance, chance.choice(frames)) for _ in range(BATCH)]
        answered(raw, [frame for frame in batch if b"pid:" not in frame and b"file:" not in frame])
        if n == 20:
            first = resident(engine.pid)
    if first:
        assert resident(engine.pid) - first < GROWTH


def main() -> None:
    """Makes the corpus."""
    folder = CORPUS / "gateway"
    folder.mkdir(exist_ok=True)
    ends = {
        "routes": [{"to": "10.9.0.0/16", "via": "10.0.0.2"}],
        "neighbours": [{"ip": "10.0.0.2", "mac": "02:00:00:00:00:02"}],
        "mtu": 1400, "mac": "02:00:00:00:00:01",
    }  # fmt: skip
    jobs = [
        pair("c1", end("blue", "e0", "10.0.0.1/24", "fd00::1/64", **ends), end("red", "e0"), labels={"a": "b"}),
        tunnel("c2", end("red", "t0"), vni=7, remote="192.0.2.1", underlay="blue", ttl=9),
    ]
    requests = {
        "connect": {"op": "connect", "connections": jobs},
        "connect-wait": {
            "op": "connect",
            "wait": True,
            "connections": [pair("c3", end("later", "e"), end("red", "e1"))],
        },
        "move": {"op": "move", "moves": [{"id": "c1", "end": "b", "netns": "blue", "mode": "recreate"}]},
        "disconnect": {"op": "disconnect", "ids": ["c1", "c2", "c3", "c4"]},
        "list": {
            "op": "list",
            "ids": ["c1"],
            "netns": "blue",
            "state": "up",
            "labels": {"a": "b"},
            "limit": 5,
            "after": "",
        },
        "verify": {"op": "verify", "ids": ["c1"]},
        "stats": {"op": "stats"},
        "events": {"op": "events", "since": 0, "limit": 3},
        "info": {"op": "info"},
        "twice": {"op": "connect", "connections": [jobs[0], jobs[0]]},
        "empty": {"op": "connect", "connections": []},
        "no-op": {"op": None},
        "items-of-all-kinds": {"op": "connect", "connections": [None, 1, "x", [], {}, b"\xff", {"id": {}}, [[[]]]]},
        "large-number": {"op": "events", "since": 2**64 - 1},
        "surrogate": {"op": "disconnect", "ids": ["\ud800"]},
    }
    frames = {
        name: msgpack.packb({"v": 1, "id": name, **request}, unicode_errors="surrogatepass")
        for name, request in requests.items()
    }
    frames |= {
        "nothing": b"", "nil": b"\xc0", "never-used": b"\xc1", "deep": b"\x91" * 100_000,
        "promises-much": b"\xdf\xff\xff\xff\xff", "version": msgpack.packb({"v": 2, "id": 1, "op": "info"}),
        "long-id": msgpack.packb({"v": 1, "id": "x" * 300, "op": "info"}),
        "id-of-a-map": msgpack.packb({"v": 1, "id": {}, "op": "info"}),
        "timestamp": msgpack.packb({"v": 1, "id": msgpack.Timestamp(1), "op": "info"}),
    }  # fmt: skip
    for name, frame in frames.items():
        (folder / f"{name}.bin").write_bytes(frame)


if __name__ == "__main__":
    main()
