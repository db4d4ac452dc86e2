"""Sizes and loads: what is too much is refused or waits, and everybody else is served."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from pathlib import Path

import msgpack
import pytest
import zmq

from fastnl.testing import PATIENCE, eventually, ip_json
from fastnl_engine.listeners import AHEAD, ENOUGH, SPARE, Listeners
from fastnl_engine.testing import EngineProcess, RawSocket, end, pair

FRAME = 16 << 20
ITEMS = 10_000
INFO = msgpack.packb({"v": 1, "id": "info", "op": "info"})


@pytest.fixture
def engine(shared_engine: EngineProcess) -> EngineProcess:
    return shared_engine


def serves(engine: EngineProcess) -> bool:
    return engine.client().info()["protocol"] == 1


# -- frames ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("frames", [(b"", b""), (INFO, INFO), (INFO, b""), (b"a", b"b", b"c"), (b"",) * 50])
def test_too_many_frames_are_a_bad_request_with_one_answer(engine, raw, frames):
    raw.send(*frames)
    reply = raw.frames()
    error = msgpack.unpackb(reply[-1])
    assert (error["id"], error["error"]["code"]) == (None, "bad_request")
    raw.send(INFO)
    assert msgpack.unpackb(raw.frames()[-1])["id"] == "info"  # so there was one answer only


def test_too_many_frames_of_a_req_socket_are_answered_as_it_expects(engine):
    raw = engine.raw(zmq.REQ)
    raw.send(INFO, INFO)
    assert "2" in raw.reply()["error"]["message"]
    raw.send(INFO)
    assert raw.reply()["ok"]


def test_an_empty_frame_is_a_bad_request(engine, raw):
    assert raw.request(b"")["error"]["code"] == "bad_request"
    assert engine.raw(zmq.REQ).request(b"")["error"]["code"] == "bad_request"


def test_a_frame_over_the_limit_is_too_large(engine, raw):
    reply = raw.request(msgpack.packb({"v": 1, "id": 1, "op": "info", "x": b"\0" * FRAME}))
    assert (reply["ok"], reply["id"], reply["error"]["code"]) == (False, None, "too_large")
    assert str(FRAME) in reply["error"]["message"]
    assert raw.request(id=1, op="info")["ok"]


def test_the_largest_frame_is_taken(engine, raw):
    head = msgpack.packb({"v": 1, "id": 1, "op": "info", "x": b""})[:-2]
    rest = FRAME - len(head) - 5
    assert raw.request(head + b"\xc6" + rest.to_bytes(4, "big") + b"\0" * rest)["ok"]


def test_a_peer_that_sends_several_times_the_limit_is_cut_off_and_may_come_back(engine, raw):
    raw.send(b"\0" * (4 * FRAME + 1))
    # there is no answer: the engine did not take it in.  The socket connects again by itself.
    raw.send(INFO)
    raw.send(INFO)
    other = engine.raw()
    assert other.request(id=1, op="info")["ok"]
    while not raw.socket.poll(100):
        raw.send(INFO)  # what was sent to the connection that was cut off went with it
    assert raw.reply()["id"] == "info"


# -- items -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "field", "item"),
    [("connect", "connections", {}), ("disconnect", "ids", "x"), ("move", "moves", {}), ("list", "ids", "x"),
     ("verify", "ids", "x"), ("stats", "ids", "x")],
)  # fmt: skip
def test_ten_thousand_items_are_taken_and_one_more_is_too_large(engine, raw, op, field, item):
    reply = raw.request(id=1, op=op, **{field: [item] * (ITEMS + 1)})
    assert (reply["ok"], reply["error"]["code"], reply["error"]["field"]) == (False, "too_large", field)
    reply = raw.request(id=2, op=op, **{field: [item] * ITEMS})
    assert "error" not in reply
    assert len(reply["results"]) == (0 if op == "list" else ITEMS)


def test_a_request_of_many_cycles_is_one_request(engine, client, netns):
    rooms = netns.many(20)
    jobs = [pair(f"c{n}", end(rooms[n % 20], f"a{n}"), end(rooms[(n + 1) % 20], f"b{n}")) for n in range(1500)]
    assert all(r["ok"] for r in client.connect(jobs))
    assert sum(len(ip_json(room, "link", "show")) - 1 for room in rooms) == 3000
    assert all(r["changed"] for r in client.disconnect([j["id"] for j in jobs]))
    assert all(len(ip_json(room, "link", "show")) == 1 for room in rooms)


# -- loads -----------------------------------------------------------------------------------------


def jobs(hub: str, numbers: range) -> list[dict]:
    return [pair(f"c{n}", end(hub, f"e{n}"), end("", f"x{n}")) for n in numbers]


def test_a_full_queue_is_busy_and_what_was_taken_is_done(make_engine, netns):
    hub = netns.make("hub")
    engine = make_engine(instance="small", env={"FASTNL_QUEUE": "60"}).start()
    raw = engine.raw()
    raw.request(id=0, op="info")  # it is connected, so order is kept from here on
    with engine.paused():
        raw.ask(id="taken", op="connect", connections=jobs(hub, range(20)))
        raw.ask(id="full", op="connect", connections=jobs(hub, range(20, 41)))
        raw.ask(id="fits", op="connect", connections=jobs(hub, range(40, 60)))
        raw.ask(id="query", op="list", limit=1)
    replies = {r["id"]: r for r in (raw.reply() for _ in range(4))}
    assert replies["full"]["error"]["code"] == "busy"
    assert "results" not in replies["full"]
    assert replies["taken"]["ok"] and replies["fits"]["ok"] and replies["query"]["ok"]
    assert len(list(engine.client().list())) == 40
    # and now there is room again
    assert raw.request(id="again", op="connect", connections=jobs(hub, range(60, 61)))["ok"]


def test_a_client_has_as_much_of_the_queue_as_there_is_room_left(make_engine, netns):
    hub = netns.make("hub")
    engine = make_engine(instance="small", env={"FASTNL_QUEUE": "90"}).start()
    greedy, modest = engine.raw(), engine.raw()
    for raw in (greedy, modest):
        raw.request(id=0, op="info")
    with engine.paused():
        for n in range(90):  # one by one, as fast as can be
            greedy.ask(id=n, op="connect", connections=jobs(hub, range(n, n + 1)))
        modest.ask(id="modest", op="connect", connections=jobs(hub, range(100, 120)))
    codes = [greedy.reply().get("error", {}).get("code", "ok") for _ in range(90)]
    assert set(codes) == {"ok", "busy"}
    assert codes.count("ok") >= 30  # (90 - 20) / 2, and what was done meanwhile
    assert modest.reply()["ok"]


def test_questions_that_wait_are_bounded_for_each_client_and_for_all(engine, netns):
    asked = 30
    clients = [engine.raw() for _ in range(12)]
    for raw in clients:
        raw.request(id=0, op="info")
    refused = set()

    def flood():
        with engine.paused():
            for raw in clients:
                for n in range(asked):
                    raw.ask(id=n, op=["verify", "stats", "list", "events"][n % 4])
        for raw in clients:
            replies = [raw.reply() for _ in range(asked)]
            assert sorted(r["id"] for r in replies) == list(range(asked))
            assert sum("results" in r for r in replies) >= 1
            refused.update(r["error"]["code"] for r in replies if "error" in r)
        return bool(refused)

    # not in each flood, nor each client: what left a client late has found room
    assert eventually(flood)
    assert refused == {"busy"}
    assert clients[0].request(id="again", op="verify")["ok"]


def test_more_than_the_queue_holds_is_too_large_and_not_busy_for_ever(make_engine, netns):
    hub = netns.make("hub")
    engine = make_engine(instance="small", env={"FASTNL_QUEUE": "10"}).start()
    raw = engine.raw()
    reply = raw.request(id=1, op="connect", connections=jobs(hub, range(11)))
    assert (reply["error"]["code"], "10" in reply["error"]["message"]) == ("too_large", True)
    assert raw.request(id=2, op="connect", connections=jobs(hub, range(10)))["ok"]


def test_a_client_that_never_reads_harms_nobody(engine, netns):
    hub = netns.make("hub")
    deaf = RawSocket(engine.endpoint, options={zmq.RCVHWM: 1, zmq.SNDHWM: 0})
    for n in range(5_000):
        deaf.ask(id=n, op="list")
    client = engine.client()
    assert all(r["ok"] for r in client.connect(jobs(hub, range(100))))
    assert all(r["ok"] for r in client.disconnect([f"c{n}" for n in range(100)]))
    deaf.close()
    assert serves(engine)


def resident(engine: EngineProcess) -> int:
    """MiB of the engine that are in memory."""
    text = Path(f"/proc/{engine.pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) // 1024


def test_large_replies_that_nobody_reads_do_not_pile_up_and_others_are_served(make_engine):
    engine = make_engine(instance="deaf").start()
    client = engine.client()
    labels = {f"label{n}": "x" * 4000 for n in range(20)}
    ends = {end_: {"netns": "absent", "ifname": end_} for end_ in "ab"}
    for n in range(100):  # 8 MiB of records
        room = {key: {**value, "netns": f"absent{n}"} for key, value in ends.items()}
        client.connect([{"id": f"w{n}", "kind": "veth", **room, "labels": labels}], wait=True)
    before = resident(engine)
    deaf = [RawSocket(engine.endpoint, options={zmq.RCVHWM: 1, zmq.RCVBUF: 1 << 16}) for _ in range(4)]
    for n in range(200):
        for raw in deaf:
            raw.ask(id=n, op="list")
            raw.ask(id=n, op="disconnect", ids=["nobody"])
        client.info()
    # 1600 replies, of which half have 4 MiB
    assert eventually(lambda: client.info()["load"] == 0)
    assert resident(engine) - before < 4 * 80, "a client may leave some 48 MiB unread"
    assert client.request("list", limit=1)["ok"]
    # and who begins to read again is served again
    late = deaf[0]
    got = {late.reply()["id"] for _ in range(3)}
    assert got <= set(range(200))
    while late.socket.poll(500):
        late.frames()
    assert eventually(lambda: late.request(id="served", op="list", limit=1).get("ok"))
    for raw in deaf:
        raw.close()
    assert eventually(lambda: client.request("list", limit=1)["ok"])


def test_a_slow_reader_gets_every_reply(engine, netns):
    """More replies than ZeroMQ keeps for one client wait in the engine."""
    slow = RawSocket(engine.endpoint, options={zmq.RCVHWM: 1, zmq.SNDHWM: 0, zmq.RCVBUF: 1 << 16})
    asked = 6000
    for n in range(asked):
        slow.ask(id=n, op="info")
    assert serves(engine)
    got = [slow.reply()["id"] for _ in range(asked)]
    slow.close()
    assert got == list(range(asked))


def crowd_of(most: int, path: str, stack: contextlib.ExitStack, *, patience: int) -> list[socket.socket]:
    """Clients that connect and say nothing, until so many are there or the next one has waited `patience` seconds.

    Each waits while the queue of the listener is full: a try that fails would be no client, and no crowd.
    """
    crowd: list[socket.socket] = []
    while len(crowd) < most:
        one = stack.enter_context(socket.socket(socket.AF_UNIX))
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", patience, 0))
        try:
            one.connect(path)
        except BlockingIOError:
            break
        crowd.append(one)
    return crowd


def test_clients_beyond_the_limit_of_open_files_are_turned_away_and_the_engine_lives(make_engine, netns):
    # libzmq ends a process that has no descriptor for a new client
    most = 2 * SPARE
    engine = make_engine(instance="crowd", prefix=["prlimit", f"--nofile={most}:{most}"]).start()
    client = engine.client()
    client.info()
    with contextlib.ExitStack() as stack:
        crowd = crowd_of(most + 1000, engine.endpoint.removeprefix("ipc://"), stack, patience=PATIENCE)
        assert len(crowd) == most + 1000
        # who was there before is served all the same
        hub = netns.make("hub")
        assert all(r["ok"] for r in client.connect(jobs(hub, range(3))))
        assert eventually(lambda: "client turned away" in engine.log)
        assert len(os.listdir(f"/proc/{engine.pid}/fd")) < most - 1000
        assert engine.running
    # and when they are gone there is room again
    assert engine.client().info()["connections"] == {"up": 3}


def test_no_more_clients_are_accepted_than_there_is_room_for_while_nobody_looks_at_them(tmp_path):
    """However late the thread that turns them away, as on a machine that has other things to do."""
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq.Context())
        router = stack.enter_context(context.socket(zmq.ROUTER))
        listeners = Listeners()
        listeners.add(router)
        router.bind(f"ipc://{tmp_path}/e")
        before = len(os.listdir("/proc/self/fd"))
        crowd = crowd_of(2 * AHEAD, f"{tmp_path}/e", stack, patience=3)
        assert len(crowd) < 2 * AHEAD  # the last one waits
        accepted = len(os.listdir("/proc/self/fd")) - before - (len(crowd) + 1)
        assert 0 < accepted <= AHEAD
        # and when it looks at them, everybody gets on
        listeners.start()
        assert len(crowd_of(AHEAD, f"{tmp_path}/e", stack, patience=PATIENCE)) == AHEAD
        listeners.close()


def test_an_engine_that_may_open_few_files_says_what_that_means(make_engine):
    engine = make_engine(instance="few", prefix=["prlimit", "--nofile=1024:1024"]).start()
    assert f"allow {ENOUGH} or more" in engine.log


def test_a_subscription_that_is_too_long_is_cut_off_and_others_are_told(engine, client, netns):
    """ZeroMQ keeps a subscription as a tree with a node for each byte."""
    events = engine.subscribe()
    greedy = zmq.Context()
    sub = greedy.socket(zmq.SUB)
    sub.setsockopt(zmq.LINGER, 0)
    monitor = sub.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    sub.subscribe(b"x" * 20_000)  # much more would be too much for the subscriber itself
    sub.connect(engine.events)
    assert monitor.poll(PATIENCE * 1000), "it was taken"
    hub = netns.make("hub")
    assert client.connect(jobs(hub, range(1)))[0]["ok"]
    assert events.next()[0] == "connection.up.c0"
    sub.disable_monitor()
    monitor.close()
    sub.close()
    greedy.term()


def test_a_client_that_goes_before_its_answer_has_its_work_done(engine, client, netns):
    hub = netns.make("hub")
    gone = RawSocket(engine.endpoint)
    gone.request(id=0, op="info")
    gone.ask(id=1, op="connect", connections=jobs(hub, range(50)))
    assert gone.request(id=2, op="info")["ok"]  # so the one before has been taken
    gone.close()
    assert eventually(lambda: client.info()["connections"] == {"up": 50})


def test_many_clients_come_and_go(engine, netns):
    hub = netns.make("hub")
    for n in range(60):
        raw = RawSocket(engine.endpoint)
        assert raw.request(id=n, op="connect", connections=jobs(hub, range(1)))["ok"]
        if n % 3:
            raw.ask(id="unread", op="list")
        raw.close()
    before = len(os.listdir(f"/proc/{engine.pid}/fd"))
    assert eventually(lambda: len(os.listdir(f"/proc/{engine.pid}/fd")) <= before)
    assert serves(engine)
