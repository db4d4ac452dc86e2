"""Events: of what there are some, and that a follower has every one of them once."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.engine.conftest import InProcess

from fastnl.testing import PATIENCE, Namespaces, eventually, spawn
from fastnl_engine import events as published
from fastnl_engine import follow as following
from fastnl_engine.client import Client, NoEngine
from fastnl_engine.follow import OtherEngine, follow
from fastnl_engine.testing import EngineProcess, end, pair

FASTNL = str(Path(sys.executable).with_name("fastnl"))
MANY = 6000  # more than both high-water marks and the socket's buffer take


def waiting(n: int) -> dict[str, Any]:
    """A connection that costs the kernel nothing."""
    return pair(f"w{n}", end("nowhere", f"a{n}"), end("nowhere", f"b{n}"))


def make_events(client: Client, count: int) -> None:
    """So many events; each connection is good for two."""
    for at in range(0, count // 2, 500):
        jobs = [waiting(n) for n in range(at, min(at + 500, count // 2))]
        client.connect(jobs, wait=True)
        client.disconnect([job["id"] for job in jobs])


def upto(events: Iterator[dict[str, Any]], last: int) -> list[dict[str, Any]]:
    """Events up to a number, with what the follower says of itself."""
    got = []
    for event in events:
        got.append(event)
        if event.get("n") == last:
            return got
    raise AssertionError("a follower does not end")


def newest(client: Client) -> int:
    return int(client.events(since=1 << 40)["newest"])


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "SILENCE", 0.2)


@pytest.fixture
def followed(engine: EngineProcess) -> Iterator[Callable[..., Iterator[dict[str, Any]]]]:
    """follow(engine.endpoint, ...), closed after the test whatever becomes of it."""
    with contextlib.ExitStack() as stack:
        yield lambda **how: stack.enter_context(contextlib.closing(follow(engine.endpoint, **how)))


# -- what there is -----------------------------------------------------------------------------------


def test_a_namespace_that_comes_goes_and_comes_back_is_told_before_its_connections(
    engine: EngineProcess,
    client: Client,
    netns: Namespaces,
    blue: str,
    followed: Callable[..., Iterator[dict[str, Any]]],
) -> None:
    client.connect([pair("c1", end(blue, "e1"), end("later", "e1"))], wait=True)
    events = followed(since=0)

    def next_of(name: str) -> dict[str, Any]:
        return next(e for e in events if f"{e['of']} {e['event']}" == name)

    assert next_of("connection pending")["id"] == "c1"
    netns.make("later")
    appeared = next_of("namespace appeared")
    up = next_of("connection up")
    assert appeared["reference"] == "later"
    assert appeared["identity"]["inode"] == os.stat("/run/netns/later").st_ino
    assert appeared["n"] < up["n"]
    subprocess.run(["ip", "netns", "delete", "later"], check=True)
    gone = next_of("namespace gone")
    assert (gone["reference"], gone["identity"]) == ("later", None)
    assert next_of("connection pending")["n"] > gone["n"]


def test_a_topic_chooses_namespaces(engine: EngineProcess, client: Client, netns: Namespaces) -> None:
    heard = engine.subscribe("namespace.appeared.")
    client.connect([pair("c1", end("one", "e1"), end("two", "e1"))], wait=True)
    netns.make("two")
    topic, event = heard.next()
    assert topic == "namespace.appeared.two" or topic.startswith("connection.pending")
    assert event["of"] == "namespace"


def test_the_engine_tells_of_itself(engine: EngineProcess, client: Client) -> None:
    reply = client.events()
    mine = [e for e in reply["events"] if e["of"] == "engine"]
    assert "serving" in [e["event"] for e in mine]
    assert {e["instance"] for e in mine} == {engine.instance}
    heard = engine.subscribe("engine.")
    assert engine.stop() == 0
    assert heard.next()[0] == f"engine.stopping.{engine.instance}"


def at_the_answer(in_process: InProcess, do: Callable[[], object]) -> None:
    """Calls it once, the moment that answers would be sent."""

    def answered() -> None:
        in_process.engine.send_answers = lambda: None
        do()

    in_process.engine.send_answers = answered


def has_told(in_process: InProcess, *events: str) -> bool:
    in_process.engine.upkeep.namespaces.turn()
    in_process.engine.turn()
    return in_process.told == list(events)


def test_what_appears_as_soon_as_its_connection_is_said_to_wait_is_told(
    in_process: InProcess, netns: Namespaces, blue: str
) -> None:
    at_the_answer(in_process, lambda: netns.make("later"))
    in_process.connect([pair("c1", end(blue, "e1"), end("later", "e1"))], wait=True)
    told = ["connection pending", "namespace appeared", "connection up"]
    assert eventually(lambda: has_told(in_process, *told)), in_process.told


def test_what_goes_as_soon_as_its_connection_is_said_to_be_up_is_told(
    in_process: InProcess, netns: Namespaces, blue: str
) -> None:
    netns.make("going")
    at_the_answer(in_process, lambda: netns.let_go("going"))
    in_process.connect([pair("c1", end(blue, "e1"), end("going", "e1"))], wait=True)
    told = ["namespace gone", "connection up", "connection pending"]
    assert eventually(lambda: has_told(in_process, *told)), in_process.told


# -- none is missing, none comes twice ---------------------------------------------------------------


def test_a_follower_that_cannot_keep_up_has_every_event_once(
    engine: EngineProcess, client: Client, impatient: None, followed: Callable[..., Iterator[dict[str, Any]]]
) -> None:
    events = followed(since=0)
    first = next(events)
    assert first["n"] == 1
    # while nobody reads, far more happens than the sockets keep; what comes when there is room again shows the gap
    make_events(client, MANY)
    got = upto(events, 1500)
    make_events(client, 500)
    last = newest(client)
    got += upto(events, last)
    assert [e["n"] for e in got] == list(range(2, last + 1))


def test_the_sockets_alone_lose_some(engine: EngineProcess, client: Client) -> None:
    """What the test before is good for."""
    heard = engine.subscribe("connection.")
    make_events(client, MANY)
    arrived = 0
    while heard._socket.poll(1000):
        heard._socket.recv_multipart()
        arrived += 1
    assert arrived < MANY - 500


def test_the_last_event_before_a_silence_is_not_missed(
    engine: EngineProcess, client: Client, impatient: None, followed: Callable[..., Iterator[dict[str, Any]]]
) -> None:
    """Nothing comes after it whose number would show the gap."""
    events = followed(since=0)
    next(events)
    make_events(client, MANY)
    client.connect([waiting(1)], wait=True)
    got = upto(events, newest(client))
    assert (got[-1]["event"], got[-1]["id"]) == ("pending", "w1")


def test_what_the_log_has_no_more_is_said_to_be_lost(
    engine: EngineProcess, client: Client, impatient: None, followed: Callable[..., Iterator[dict[str, Any]]]
) -> None:
    count = published.LOG_EVENTS + 3000
    make_events(client, count)
    last = newest(client)
    events = followed(since=5)
    got = upto(events, last)
    lost = got[0]
    assert (lost["of"], lost["event"], lost["first"]) == ("follower", "lost", 6)
    assert [e["n"] for e in got[1:]] == list(range(lost["last"] + 1, last + 1))
    assert len(got) == published.LOG_EVENTS + 1


def test_a_follower_goes_on_with_the_engine_that_comes_after(
    engine: EngineProcess, client: Client, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "PATIENCE", 0.5)
    got: list[dict[str, Any]] = []
    stop = threading.Event()

    def read() -> None:
        events = follow(engine.endpoint, since=0)
        for event in events:
            got.append(event)
            if stop.is_set():
                break
        events.close()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        make_events(client, 10)
        assert eventually(lambda: any(e.get("n") == newest(client) for e in list(got)))
        before = newest(client)
        engine.kill()
        assert eventually(lambda: got[-1]["event"] == "away")
        engine.start()
        make_events(client, 20)
        now = newest(client)
        assert eventually(lambda: got[-1].get("n") == now), got[-3:]
    finally:
        stop.set()
        client.connect([waiting(1)], wait=True)
        reader.join(PATIENCE)
    at = next(n for n, e in enumerate(got) if e["event"] == "restarted")
    old = [e for e in got[:at] if e["of"] != "follower"]
    new = [e for e in got[at:] if e["of"] != "follower"]
    assert [e["n"] for e in old] == list(range(1, before + 1))
    assert [e["n"] for e in new] == list(range(1, len(new) + 1))
    assert {e["run"] for e in old} == {got[at]["was"]} and {e["run"] for e in new} == {got[at]["run"]}


def test_a_number_of_an_engine_before_begins_with_this_one(
    engine: EngineProcess, client: Client, followed: Callable[..., Iterator[dict[str, Any]]]
) -> None:
    last = newest(client)
    events = followed(since=last + 1000)
    assert next(events)["event"] == "restarted"
    assert next(events)["n"] == 1


def test_events_of_another_engine_are_not_taken_for_this_ones(make_engine: Any, impatient: None) -> None:
    one, two = make_engine(instance="one").start(), make_engine(instance="two").start()
    events = follow(one.endpoint, two.events)
    client = two.client()
    stop = threading.Event()

    def happen() -> None:
        while not stop.wait(0.05):
            make_events(client, 2)

    thread = threading.Thread(target=happen)
    thread.start()
    try:
        with pytest.raises(OtherEngine):
            next(events)
    finally:
        stop.set()
        thread.join()


def test_without_an_engine_a_follower_says_so(make_engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "PATIENCE", 0.2)
    with pytest.raises(NoEngine):
        next(follow(make_engine().endpoint))


# -- on the command line -----------------------------------------------------------------------------


def environ(engine: EngineProcess) -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("FASTNL_")} | {"FASTNL_ENDPOINT": engine.endpoint}


def fastnl(engine: EngineProcess, *args: str) -> str:
    done = subprocess.run(
        [FASTNL, *args], env=environ(engine), capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    return done.stdout


def test_a_follower_that_was_stopped_for_a_while_prints_every_event_once(engine: EngineProcess, client: Client) -> None:
    path = engine.folder / "followed"
    with open(path, "wb") as out:
        process = spawn([FASTNL, "events", "--follow", "--since", "0", "--json"], stdout=out, env=environ(engine))
    try:
        make_events(client, 20)
        assert eventually(lambda: path.read_text().count("\n") > 10)
        process.send_signal(signal.SIGSTOP)
        make_events(client, MANY)
        process.send_signal(signal.SIGCONT)
        assert eventually(lambda: path.read_text().count("\n") > 1500)
        make_events(client, 500)
        last = newest(client)
        assert eventually(lambda: f'"n": {last},' in path.read_text())
        time.sleep(1.5)  # whatever would come twice
    finally:
        process.kill()
        process.wait()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row.get("n") for row in rows] == list(range(1, last + 1))


def test_the_log_from_a_number_on(engine: EngineProcess, client: Client) -> None:
    make_events(client, 3000)
    last = newest(client)
    rows = [json.loads(line) for line in fastnl(engine, "events", "--since", "10", "--json").splitlines()]
    assert [row["n"] for row in rows] == list(range(11, last + 1))
    assert fastnl(engine, "events", "--since", str(last)) == ""
    first = fastnl(engine, "events", "--since", "0", "--state", "removed", "--count", "1")
    assert first.split()[1:] == ["removed", "w0", "was", "pending"]
    assert f"engine {engine.instance}" in fastnl(engine, "events", "--since", "0")
