"""The log: a line for each request, a line for each failure, and never a reason to stop."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from fastnl.testing import PATIENCE, eventually
from fastnl_engine import requestlog
from fastnl_engine.client import EngineError
from fastnl_engine.requestlog import FAILURES, Asked, RequestLog
from fastnl_engine.testing import EngineProcess, end, pair

WHO = rf"uid={os.geteuid()} pid={os.getpid()}"


def lines(engine: EngineProcess, event: str) -> list[str]:
    word = f'event="{event}"' if " " in event else f"event={event} "
    return [line for line in engine.log.splitlines() if word in line]


def fields(line: str) -> dict[str, str]:
    """Of one line, as any reader of logfmt has them."""
    found = re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)', line)
    return {key: value[1:-1].replace('\\"', '"') if value.startswith('"') else value for key, value in found}


def test_each_request_is_a_line_with_who_asked_what_and_how_it_ended(
    engine: EngineProcess, blue: str, red: str
) -> None:
    client = engine.client()
    client.connect([pair(f"c{n}", end(blue, f"e{n}"), end(red, f"e{n}")) for n in range(3)])
    client.disconnect(["c0", "never"])
    list(client.list())
    assert eventually(lambda: len(lines(engine, "request")) == 2)
    connect, disconnect = map(fields, lines(engine, "request"))
    assert (connect["op"], connect["items"], connect["failed"], connect["request"]) == ("connect", "3", "0", "1")
    assert (connect["uid"], connect["pid"]) == (str(os.geteuid()), str(os.getpid()))
    assert connect["level"] == "info"
    assert 0 < float(connect["ms"]) < 1000 * PATIENCE
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", connect["timestamp"])
    assert (disconnect["op"], disconnect["items"]) == ("disconnect", "2")


def test_questions_are_for_debug_only(make_engine: Callable[..., EngineProcess]) -> None:
    engine = make_engine("--log-level", "debug").start()
    client = engine.client()
    client.info()
    list(client.list())
    assert eventually(lambda: {"info", "list"} <= {fields(line)["op"] for line in lines(engine, "request")})


def test_each_failure_is_a_line_up_to_a_number(engine: EngineProcess, blue: str) -> None:
    client = engine.client()
    count = FAILURES + 7
    client.connect([pair(f"c{n}", end(blue, f"e{n}"), end("nowhere", f"e{n}")) for n in range(count)])
    assert eventually(lambda: lines(engine, "request"))
    failed = [fields(line) for line in lines(engine, "item failed")]
    assert [f["id"] for f in failed] == [f"c{n}" for n in range(FAILURES)]
    assert {(f["code"], f["op"], f["level"]) for f in failed} == {("netns_not_found", "connect", "warning")}
    assert "there is no /run/netns/nowhere" in failed[0]["message"]
    [more] = lines(engine, "more items failed")
    assert fields(more)["count"] == "7"


def test_a_refused_request_is_a_line(engine: EngineProcess) -> None:
    with pytest.raises(EngineError):
        list(engine.client().list(state="sideways"))
    engine.raw().request(b"nonsense")
    assert eventually(lambda: len(lines(engine, "refused")) == 2)
    assert {fields(line)["code"] for line in lines(engine, "refused")} == {"bad_request"}
    assert all(re.search(WHO, line) for line in lines(engine, "refused"))


def test_the_level_leaves_out_what_went_well(make_engine: Callable[..., EngineProcess], blue: str, red: str) -> None:
    engine = make_engine("--log-level", "warning").start()
    client = engine.client()
    client.connect([pair("c1", end(blue, "e1"), end(red, "e1"))])
    client.connect([pair("c2", end(blue, "e2"), end("nowhere", "e2"))])
    assert eventually(lambda: lines(engine, "item failed"))
    assert not lines(engine, "request")


def test_a_connection_that_cannot_be_mended_is_a_line(
    make_engine: Callable[..., EngineProcess], blue: str, red: str
) -> None:
    import subprocess

    engine = make_engine(env={"FASTNL_AUDIT": "1"}).start()
    engine.client().connect([pair("c1", end(blue, "e1"), end(red, "e1"))])
    subprocess.run(["ip", "-n", blue, "link", "delete", "e1"], check=True)
    subprocess.run(["ip", "-n", blue, "link", "add", "e1", "type", "bridge"], check=True)
    assert eventually(lambda: lines(engine, "connection failed"))
    found = fields(lines(engine, "connection failed")[0])
    assert (found["id"], found["code"]) == ("c1", "ifname_in_use")


def test_what_a_client_calls_itself_makes_no_line_of_its_own(engine: EngineProcess) -> None:
    raw = engine.raw()
    evil = 'x\nlevel=error event=serving endpoint="\x1b[31m\x9b'
    raw.request(id=evil, op="connect", connections=[{"id": evil}])
    raw.request(id=b"\xff\n\x00", op="disconnect", ids=[evil])
    assert eventually(lambda: len(lines(engine, "request")) == 2)
    assert not set(engine.log) & {"\x1b", "\x9b", "\x00"}
    assert len([line for line in engine.log.splitlines() if "event=serving " in line]) == 1 + sum(
        "level=error event=serving" in line for line in lines(engine, "request") + lines(engine, "item failed")
    )


# -- a log that does not take them -------------------------------------------------------------------


def ask(log: RequestLog, count: int, **result: Any) -> None:
    for n in range(count):
        log.done(Asked("connect", "uid=0 pid=1"), n, [{"id": "c", "ok": True, **result}])


def test_a_pipe_that_nobody_reads_stops_nothing() -> None:
    read, write = os.pipe()
    log = RequestLog("info", write)
    ask(log, 100_000)
    log.flush()  # would wait for ever
    ask(log, 100)
    text = b""
    while chunk := os.read(read, 1 << 20):
        text += chunk
        log.flush()
        if not log._lines:
            break
    log.flush()
    os.close(write)
    while chunk := os.read(read, 1 << 20):
        text += chunk
    os.close(read)
    found = text.decode().splitlines()
    told = sum(int(fields(line)["count"]) for line in found if "lines of this log are lost" in line)
    assert told > 50_000
    assert told + sum("event=request " in line for line in found) == 100_100
    assert all(line.endswith("Z") for line in found)


def test_a_flood_of_refusals_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requestlog, "WARNINGS", 20)
    clock = time.time() // 1 + 0.5
    monkeypatch.setattr(time, "time", lambda: clock)
    read, write = os.pipe()
    log = RequestLog("warning", write)
    for n in range(500):
        log.refused(Asked("connect", "uid=1 pid=2"), n, "busy", "wait")
    clock += 1
    log.refused(Asked("connect", "uid=1 pid=2"), 500, "busy", "wait")
    log.flush()
    os.close(write)
    with os.fdopen(read) as f:
        found = f.read().splitlines()
    assert len(found) == 22
    assert fields(found[20])["count"] == "480"
