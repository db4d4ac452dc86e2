"""How `fastnl` sends many items: in requests that the engine takes, one result for each."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from fastnl_engine.cli import talk
from fastnl_engine.cli.talk import Batch
from fastnl_engine.client import NoEngine
from fastnl_engine.wire import MAX_FRAME


class Desk:
    """An engine that takes `room` items at a time, says `code` to more, and answers the latest request first."""

    def __init__(self, room: int = 10_000, timeout: float = 5.0, code: str = "busy") -> None:
        self.code = code
        self.timeout = timeout
        self.room = room
        self.requests: list[list[Any]] = []
        self.replies: list[dict[str, Any]] = []
        self.most = 0
        self.silent_after = -1

    def send(self, op: str, *, ids: list[Any]) -> int:
        self.requests.append(ids)
        number = len(self.requests)
        error = {"code": self.code, "message": "full"} if len(ids) > self.room else None
        results = [{"id": id_, "ok": True, "changed": True} for id_ in ids]
        self.replies.append({"id": number, "error": error} if error else {"id": number, "results": results})
        self.most = max(self.most, len(self.replies))
        return number

    def receive(self) -> dict[str, Any]:
        if self.silent_after == 0:
            raise NoEngine("silent")
        self.silent_after -= 1
        return self.replies.pop()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talk, "BUSY_PAUSE", 0)


def send(batch: Batch, desk: Desk, progress: list[int] | None = None) -> None:
    batch.run(desk, progress.append if progress is not None else lambda n: None)  # type: ignore[arg-type]


def test_results_keep_the_order_of_the_items() -> None:
    ids = [f"c{i}" for i in range(10_050)]
    batch, desk, progress = Batch("disconnect", "ids", ids), Desk(), []
    send(batch, desk, progress)
    assert [r["id"] for r in batch.answered] == ids
    assert max(map(len, desk.requests)) <= talk.REQUEST
    assert 1 < desk.most <= talk.WINDOW
    assert sum(progress) == batch.sent == len(ids)


def test_requests_stay_below_the_size_of_a_frame() -> None:
    ids = [f"{i}" + 100_000 * "x" for i in range(300)]
    batch, desk = Batch("disconnect", "ids", ids), Desk()
    send(batch, desk)
    assert len(batch.answered) == len(ids)
    assert max(len(msgpack.packb(request)) for request in desk.requests) < MAX_FRAME


def test_an_item_that_is_too_large_fails_alone() -> None:
    batch = Batch("disconnect", "ids", ["a", MAX_FRAME * "x", "b"])
    send(batch, Desk())
    assert [r["ok"] for r in batch.answered] == [True, False, True]
    assert batch.answered[1]["error"]["code"] == "too_large"


def test_what_cannot_be_packed_fails_alone() -> None:
    loop: list[Any] = []
    loop.append(loop)
    batch = Batch("disconnect", "ids", ["a", 1 << 70, {1, 2}, "\ud800", loop, "b"])
    send(batch, Desk())
    assert [r["ok"] for r in batch.answered] == [True, False, False, False, False, True]
    assert {r["error"]["code"] for r in batch.answered if not r["ok"]} == {"invalid"}


def test_an_id_that_is_there_twice() -> None:
    batch, desk = Batch("disconnect", "ids", ["a", "b", "a"]), Desk()
    send(batch, desk)
    assert [r["ok"] for r in batch.answered] == [True, True, False]
    assert batch.answered[2]["error"]["code"] == "conflict"
    assert desk.requests == [["a", "b"]]


@pytest.mark.parametrize("code", ["busy", "too_large"])
def test_an_engine_that_takes_less_gets_smaller_requests(code: str) -> None:
    ids = [f"c{i}" for i in range(2500)]
    batch, desk = Batch("disconnect", "ids", ids), Desk(room=7, code=code)
    send(batch, desk)
    assert [r["id"] for r in batch.answered] == ids
    assert all(r["ok"] for r in batch.answered)


@pytest.mark.parametrize("code", ["busy", "too_large"])
def test_an_engine_that_takes_nothing(code: str) -> None:
    batch = Batch("disconnect", "ids", ["a", "b"])
    send(batch, Desk(room=0, timeout=0.05, code=code))
    assert [r["error"]["code"] for r in batch.answered] == [code, code]
    assert [r["id"] for r in batch.answered] == ["a", "b"]


def test_silence_half_way_keeps_what_was_answered() -> None:
    batch, desk = Batch("disconnect", "ids", [f"c{i}" for i in range(6000)]), Desk()
    desk.silent_after = 2
    with pytest.raises(NoEngine):
        send(batch, desk)
    assert len(batch.answered) == 2 * talk.REQUEST
    assert batch.sent == 6 * talk.REQUEST
