"""What fastnl-afpacket does with what it is told; without interfaces."""

from __future__ import annotations

import re
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgpack
import pytest
import zmq

from fastnl._afpacket import Port, pump
from fastnl.testing import PATIENCE
from fastnl_engine.afpacket.attend import Attendant
from fastnl_engine.afpacket.crossing import COUNTERS, Place, total
from fastnl_engine.afpacket.switchboard import Switchboard


class Crossing:
    """Counts one frame each way."""

    failing = 0
    open: ClassVar[list[tuple[int, int]]] = []

    def __init__(self, a: Place, b: Place) -> None:
        if Crossing.failing:
            Crossing.failing -= 1
            raise OSError(12, "Cannot allocate memory")
        self.indexes = (a.ifindex, b.ifindex)
        self.open.append(self.indexes)

    def counts(self) -> tuple[Any, Any]:
        return total([{"frames": 1, "bytes": 60}]), total([{"frames": 2, "bytes": 120}])

    def close(self) -> None:
        self.open.remove(self.indexes)


@pytest.fixture
def board() -> Switchboard:
    Crossing.failing = 0
    Crossing.open = []
    return Switchboard([("p", "q"), ("r", "s")], Crossing)  # type: ignore[arg-type]


def test_two_that_are_there_are_joined(board):
    board.create("q", Place("", 2))
    board.create("r", Place("", 3))
    board.create("unknown", Place("", 4))
    assert Crossing.open == []
    board.create("p", Place("", 1))
    assert Crossing.open == [(1, 2)]
    board.create("p", Place("", 1))
    assert Crossing.open == [(1, 2)] and board.counts()[0]["times"] == 1
    board.create("p", Place("", 5))
    assert Crossing.open == [(5, 2)]
    board.delete("q")
    board.delete("q")
    assert Crossing.open == []
    board.create("q", Place("blue", 2))
    board.close()
    assert Crossing.open == []


def test_counters_go_on_when_an_interface_returns(board):
    for n in range(3):
        board.create("p", Place("", 1))
        board.create("q", Place("", 2))
        assert board.counts()[0]["there"]["frames"] == n + 1
        board.delete("p")
    first, second = board.counts()
    assert first["back"]["bytes"] == 360 and first["times"] == 3 and not first["joined"]
    assert second["there"] == dict.fromkeys(COUNTERS, 0)


def test_what_cannot_be_opened_is_tried_again(board):
    Crossing.failing = 2
    board.create("p", Place("", 1))
    board.create("q", Place("", 2))
    for _ in range(2):
        assert 0 < board.timeout <= 1 and Crossing.open == []
        time.sleep(board.timeout)
        board.turn()
    assert Crossing.open == [(1, 2)] and board.timeout > 1e9
    Crossing.failing = 1
    board.delete("p")
    board.create("p", Place("", 1))
    board.delete("p")
    assert board.timeout > 1e9


class Engine:
    """A ROUTER whose replies a test writes."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.context = zmq.Context()
        self.bind()

    def bind(self) -> None:
        self.router = self.context.socket(zmq.ROUTER)
        self.router.linger = 0
        self.router.bind(self.endpoint)

    def request(self, attendant: Attendant | None = None) -> dict[str, Any]:
        """The next one; the attendant runs meanwhile."""
        end = time.monotonic() + PATIENCE
        while not self.router.poll(5):
            assert time.monotonic() < end, "nothing was asked"
            if attendant is not None:
                attendant.turn()
        self.peer, frame = self.router.recv_multipart()
        asked: dict[str, Any] = msgpack.unpackb(frame)
        self.id = asked["id"]
        return asked

    def reply(self, *steps: tuple[int, str, str], **more: Any) -> None:
        results = [
            {"ok": True, "n": n, "action": action, "name": name, "netns": "", "ifindex": n} for n, action, name in steps
        ]
        self.send({"v": 1, "id": self.id, "ok": True, "results": results, **more})

    def send(self, reply: dict[str, Any]) -> None:
        self.router.send_multipart([self.peer, msgpack.packb(reply)])

    def close(self) -> None:
        self.router.close()
        self.context.term()


@pytest.fixture
def engine() -> Iterator[Engine]:
    with tempfile.TemporaryDirectory(prefix="fastnl-") as folder:
        engine = Engine(f"ipc://{folder}/e.sock")
        yield engine
        engine.close()


@pytest.fixture
def happened() -> list[str]:
    return []


@pytest.fixture
def attendant(engine: Engine, happened: list[str]) -> Iterator[Attendant]:
    attendant = Attendant(
        engine.endpoint,
        "switch",
        lambda step: happened.append(f"+{step['name']}"),
        lambda name: happened.append(f"-{name}"),
        wait=0.3,
    )
    yield attendant
    attendant.close()


def test_it_says_what_it_has_done(engine, attendant, happened):
    first = engine.request(attendant)
    assert {k: first[k] for k in ("v", "op", "consumer", "wait")} == {
        "v": 1, "op": "attend", "consumer": "switch", "wait": 0.3
    }  # fmt: skip
    assert "done" not in first
    engine.reply((4, "create", "p"), (5, "create", "q"))
    assert engine.request(attendant)["done"] == [4, 5]
    assert happened == ["+p", "+q"]
    engine.reply((6, "delete", "p"))
    assert engine.request(attendant)["done"] == [6]
    engine.reply()
    assert engine.request(attendant)["done"] == []
    assert happened == ["+p", "+q", "-p"]


def test_a_late_reply_to_something_else_is_passed_over(engine, attendant, happened):
    engine.request(attendant)
    engine.id += 100
    engine.reply((4, "create", "p"))
    engine.id -= 100
    engine.reply((5, "create", "q"))
    assert engine.request(attendant)["done"] == [5]
    assert happened == ["+q"]


@pytest.mark.parametrize("told", ["the engine restarted", "the engine has forgotten it"])
def test_what_a_new_session_does_not_name_is_let_go(engine, attendant, happened, told):
    engine.request(attendant)
    engine.reply((1, "create", "p"), (2, "create", "q"), anew=True)
    engine.request(attendant)
    if told == "the engine restarted":
        engine.router.close()
        engine.bind()
        assert "done" not in engine.request(attendant)
    engine.reply((1, "create", "q"), anew=True)
    assert happened == ["+p", "+q"]
    while "-p" not in happened:
        assert engine.request(attendant)["done"] is not None
        time.sleep(0.05)
        engine.reply(anew=False)
    assert happened == ["+p", "+q", "+q", "-p"]


def test_a_refusal_is_not_the_end(engine, attendant, monkeypatch):
    monkeypatch.setattr("fastnl_engine.afpacket.attend.GRACE", 0.2)
    engine.request(attendant)
    engine.send({"v": 1, "id": engine.id, "ok": False, "error": {"code": "forbidden", "message": "not for you"}})
    assert "done" not in engine.request(attendant)


def test_silence_is_not_the_end(engine, attendant, monkeypatch):
    monkeypatch.setattr("fastnl_engine.afpacket.attend.GRACE", 0.2)
    engine.request(attendant)
    engine.reply()
    engine.request(attendant)  # whose reply is lost
    assert "done" not in engine.request(attendant)


def test_it_says_good_bye(engine, happened):
    attendant = Attendant(engine.endpoint, "switch", lambda step: None, lambda name: None)
    engine.request(attendant)
    attendant.close()
    assert engine.request()["leave"] is True


def test_a_port_wants_a_packet_socket(tmp_path):
    with open(tmp_path / "file", "w") as f, pytest.raises(OSError, match="PACKET_VERSION"):
        Port(f.fileno(), 1)
    with pytest.raises(ValueError, match="at least 2"):
        Port(0, 1, blocks=1)
    with pytest.raises(TypeError):
        pump(None, None, 0)  # type: ignore[arg-type]


def test_the_example_of_the_guide_is_a_consumer(engine):
    guide = (Path(__file__).parents[2] / "docs" / "afpacket.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    happened: list[Any] = []

    class Enough(Exception):
        pass

    def delete(name: str) -> None:
        happened.append(name)
        if len(happened) == 3:
            raise Enough

    def run() -> None:
        with pytest.raises(Enough):
            names["attend"](engine.endpoint, lambda *what: happened.append(what), delete)

    thread = threading.Thread(target=run)
    thread.start()
    assert "done" not in engine.request()
    engine.reply((1, "create", "p"), anew=True)
    assert engine.request()["done"] == [1]
    engine.reply((2, "delete", "p"))
    assert engine.request()["done"] == [2]
    engine.reply((3, "delete", "q"))
    thread.join(PATIENCE)
    assert happened == [("p", "", 1), "p", "q"]
