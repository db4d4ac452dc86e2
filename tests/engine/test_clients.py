"""Every way to talk to the engine: Client, AsyncClient, bare DEALER and REQ sockets, one or many at once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from typing import Any

import msgpack
import pytest
import zmq

from fastnl.testing import PATIENCE, ip_json
from fastnl_engine.client import AsyncClient, Client, EngineError, NoEngine, subscribe
from fastnl_engine.testing import EngineProcess, end, pair


def job(n: int, a: str = "hub", b: str = "", **more: Any) -> dict[str, Any]:
    return pair(f"c{n}", end(a, f"e{n}", **more), end(b, f"x{n}"))


@pytest.fixture
def hub(netns) -> str:
    return netns.make("hub")


def names(netns: str) -> set[str]:
    return {row["ifname"] for row in ip_json(netns, "link", "show")} - {"lo"}


# -- the two clients -------------------------------------------------------------------------------


def test_the_client_does_every_op(engine, netns, hub):
    other = netns.make("other")
    with Client(engine.endpoint, timeout=PATIENCE) as client:
        assert [r["state"] for r in client.connect([job(1), job(2)])] == ["up", "up"]
        assert client.move([{"id": "c1", "end": "a", "netns": other}])[0]["changed"]
        assert [r["id"] for r in client.list(netns=other)] == ["c1"]
        assert [v["ok"] for v in client.verify()] == [True, True]
        assert [s["id"] for s in client.stats(["c2"])] == ["c2"]
        assert client.info()["connections"] == {"up": 2}
        assert [r["changed"] for r in client.disconnect(["c1", "c2", "c3"])] == [True, True, False]


def test_the_asyncio_client_does_every_op(engine, netns, hub):
    other = netns.make("other")

    async def run() -> None:
        async with AsyncClient(engine.endpoint, timeout=PATIENCE) as client:
            assert [r["state"] for r in await client.connect([job(1), job(2)])] == ["up", "up"]
            assert (await client.move([{"id": "c1", "end": "a", "netns": other}]))[0]["changed"]
            assert [r["id"] async for r in client.list(netns=other)] == ["c1"]
            assert [v["ok"] for v in await client.verify()] == [True, True]
            assert [s["id"] for s in await client.stats(["c2"])] == ["c2"]
            assert (await client.info())["connections"] == {"up": 2}
            assert [r["changed"] for r in await client.disconnect(["c1", "c2", "c3"])] == [True, True, False]

    asyncio.run(run())


def test_many_tasks_share_one_asyncio_client(engine, hub):
    async def run() -> list[list[dict[str, Any]]]:
        async with AsyncClient(engine.endpoint, timeout=PATIENCE) as client:
            made = await asyncio.gather(*(client.connect([job(n)]) for n in range(50)))
            await asyncio.gather(*(client.disconnect([f"c{n}"]) for n in range(50)))
            return made

    assert [[r["id"] for r in results] for results in asyncio.run(run())] == [[f"c{n}"] for n in range(50)]


def test_a_refused_request_is_an_exception_with_its_code(client, engine):
    with pytest.raises(EngineError) as caught:
        client.connect([{}] * 10_001)
    assert (caught.value.code, caught.value.error["field"]) == ("too_large", "connections")

    async def run() -> None:
        async with AsyncClient(engine.endpoint, timeout=PATIENCE) as other:
            with pytest.raises(EngineError) as caught:
                await other.verify("c1")  # type: ignore[arg-type]
            assert caught.value.code == "bad_request"

    asyncio.run(run())


def test_without_an_engine_a_client_says_so(make_engine):
    engine = make_engine()
    with pytest.raises(NoEngine, match=engine.endpoint):
        engine.client(timeout=0.05).info()

    async def run() -> None:
        async with AsyncClient(engine.endpoint, timeout=0.05) as client:
            with pytest.raises(NoEngine, match=engine.endpoint):
                await client.info()

    asyncio.run(run())


def test_a_client_that_was_there_before_the_engine_finds_it(make_engine, hub):
    engine = make_engine()
    client = engine.client()
    asked = client.send("info")
    engine.start()
    assert client.receive()["id"] == asked


def test_a_client_goes_on_with_the_engine_that_comes_after(engine, hub):
    client = engine.client()
    client.connect([job(1)])
    engine.restart()
    assert client.connect([job(1)])[0]["changed"] is False


def test_the_client_lists_page_by_page(client, hub, monkeypatch):
    monkeypatch.setattr("fastnl_engine.client.PAGE", 7)
    client.connect([job(n) for n in range(40)])
    assert [r["id"] for r in client.list()] == sorted(f"c{n}" for n in range(40))
    assert len(list(client.list(after="c5"))) == 4


def test_results_that_come_out_of_order_find_their_request(client, hub):
    slow = client.send("connect", connections=[job(n) for n in range(300)])
    assert client.info()["instance"] == "test"  # answered from memory, while the kernel works
    assert client.request("disconnect", ids=["nobody"])["ok"]
    reply = client.receive()
    assert (reply["id"], reply["ok"]) == (slow, True)


def test_a_reply_that_comes_too_late_is_not_kept(engine, netns):
    hub = netns.make("hub")
    client = engine.client(timeout=0)
    for n in range(5):
        with pytest.raises(NoEngine):
            client.connect([pair(f"c{n}", end(hub, f"e{n}"), end("", f"x{n}"))])
    client.timeout = PATIENCE
    assert client.info()["instance"] == "test"
    asked = client.send("info")
    assert client.receive()["id"] == asked
    assert not client._early and not client._sent


def test_list_of_the_clients_takes_a_limit(engine, client, hub, monkeypatch):
    monkeypatch.setattr("fastnl_engine.client.PAGE", 4)
    client.connect([job(n) for n in range(10)])
    assert [r["id"] for r in client.list(limit=6)] == [f"c{n}" for n in range(6)]
    assert len(list(client.list(limit=100))) == 10
    assert list(client.list(limit=0)) == []

    async def run() -> list[str]:
        async with AsyncClient(engine.endpoint, timeout=PATIENCE) as other:
            return [r["id"] async for r in other.list(limit=5)]

    assert asyncio.run(run()) == [f"c{n}" for n in range(5)]


def test_subscribe_ends_when_nothing_comes(engine):
    assert list(subscribe(engine.events, "connection.", timeout=0.05)) == []


# -- events ----------------------------------------------------------------------------------------


def test_every_change_of_state_is_an_event(engine, client, netns, hub):
    events = engine.subscribe()
    client.connect([job(1)])
    client.connect([job(1)])  # changes nothing, so nothing is told
    client.connect([job(1, mtu=1400)])
    client.move([{"id": "c1", "end": "a", "netns": netns.make("other"), "mode": "recreate"}])
    client.connect([job(2, "later")], wait=True)
    client.disconnect(["c1", "c2", "c3"])
    got = [events.next() for _ in range(6)]
    assert [topic for topic, _ in got[:4]] == [
        "connection.up.c1", "connection.up.c1", "connection.up.c1", "connection.pending.c2",
    ]  # fmt: skip
    # of c2 there is nothing in the kernel to wait for
    assert {topic for topic, _ in got[4:]} == {"connection.removed.c1", "connection.removed.c2"}
    told = [(e["id"], e["was"], e["state"]) for _, e in got]
    assert told[:4] == [("c1", None, "up"), ("c1", "up", "up"), ("c1", "up", "up"), ("c2", None, "pending")]
    assert set(told[4:]) == {("c1", "up", None), ("c2", "pending", None)}
    assert all(e["v"] == 1 and e["event"] == topic.split(".")[1] for topic, e in got)
    assert "later" in got[3][1]["reason"]
    assert [e["n"] - got[0][1]["n"] for _, e in got] == list(range(6))


def test_a_subscriber_chooses_by_the_beginning_of_the_topic(engine, client, hub):
    events = engine.subscribe("connection.up.c2")
    client.connect([job(1), job(2)])
    client.disconnect(["c1", "c2"])
    client.connect([job(2)])
    assert [events.next()[0] for _ in range(2)] == ["connection.up.c2"] * 2


def test_subscribe_gives_events_as_they_come(engine, client, hub):
    events = subscribe(engine.events, "connection.removed.")
    # it subscribes with the first event that is asked for, so there have to be events until one arrives
    import threading

    enough = threading.Event()

    def toggle() -> None:
        with Client(engine.endpoint, timeout=PATIENCE) as other:
            while not enough.is_set():
                other.connect([job(1)])
                other.disconnect(["c1"])

    thread = threading.Thread(target=toggle)
    thread.start()
    try:
        event = next(events)
    finally:
        enough.set()
        thread.join()
        events.close()
    assert (event["event"], event["id"], event["was"]) == ("removed", "c1", "up")


# -- bare sockets ----------------------------------------------------------------------------------


def test_a_req_socket_is_served(engine, hub):
    raw = engine.raw(zmq.REQ)
    assert raw.request(id="q", op="connect", connections=[job(1)])["results"][0]["state"] == "up"
    assert raw.request(id="q", op="info")["ok"]
    assert raw.request(b"\xc1")["error"]["code"] == "bad_request"
    assert raw.request(id="q", op="disconnect", ids=["c1"])["ok"]


def test_a_dealer_gets_one_frame_and_one_that_puts_an_empty_frame_before_gets_it_back(engine, raw):
    request = msgpack.packb({"v": 1, "id": 1, "op": "info"})
    raw.send(request)
    assert len(raw.frames()) == 1
    raw.send(b"", request)
    empty, reply = raw.frames()
    assert (empty, msgpack.unpackb(reply)["id"]) == (b"", 1)


def test_the_same_request_id_may_be_used_again(raw, hub):
    assert [raw.request(id="again", op="disconnect", ids=[f"c{n}"])["id"] for n in range(3)] == ["again"] * 3
    raw.ask(id="twice", op="info")
    raw.ask(id="twice", op="info")
    assert [raw.reply()["id"] for _ in range(2)] == ["twice", "twice"]


def drive(engine: EngineProcess, requests: list[list[dict[str, Any]]], window: int = 64) -> list[dict[Any, Any]]:
    """Sends each client's requests over its own DEALER, `window` in flight; gives the replies by request id.

    Fails on a reply to a request that was never sent, or that had its reply already.
    """
    clients = [engine.raw() for _ in requests]
    replies: list[dict[Any, Any]] = [{} for _ in requests]
    sent = [0] * len(requests)
    poller = zmq.Poller()
    for raw in clients:
        poller.register(raw.socket, zmq.POLLIN)
    while any(len(r) < len(q) for r, q in zip(replies, requests, strict=True)):
        for n, raw in enumerate(clients):
            while sent[n] < len(requests[n]) and sent[n] - len(replies[n]) < window:
                raw.ask(id=f"{n}/{sent[n]}", **requests[n][sent[n]])
                sent[n] += 1
        ready = dict(poller.poll(PATIENCE * 1000))
        assert ready, "no answer"
        for n, raw in enumerate(clients):
            if raw.socket in ready:
                reply = raw.reply()
                assert reply["id"] not in replies[n], "answered twice"
                assert reply["id"] in {f"{n}/{i}" for i in range(sent[n])}, "answered what was not asked, or to another"
                replies[n][reply["id"]] = reply
    for raw in clients:
        raw.ask(id="last", op="info")
        assert raw.reply()["id"] == "last"  # and nothing more has come
    return replies


def test_eight_clients_with_64_in_flight_each_get_every_answer_once(engine, netns):
    rooms = netns.many(16)
    rounds = 96
    requests: list[list[dict[str, Any]]] = []
    for c in range(8):
        mine: list[dict[str, Any]] = []
        for n in range(rounds):
            a, b = rooms[(c + n) % 16], rooms[(c * 3 + n * 5 + 1) % 16]
            mine.append({"op": "connect", "connections": [
                pair(f"{c}-{n}", end(a, f"a{c}-{n}", f"10.{c}.{n}.1/30"), end(b, f"b{c}-{n}", f"10.{c}.{n}.2/30")),
            ]})  # fmt: skip
        mine += [{"op": "disconnect", "ids": [f"{c}-{n}"]} for n in range(0, rounds, 2)]
        requests.append(mine)
    replies = drive(engine, requests)
    assert all(reply["ok"] for mine in replies for reply in mine.values())
    wanted = {f"{c}-{n}" for c in range(8) for n in range(1, rounds, 2)}
    client = engine.client()
    assert {row["id"] for row in client.list(state="up")} == wanted
    marks = Counter(row.get("ifalias") for room in rooms for row in ip_json(room, "link", "show"))
    del marks[None]  # lo
    assert set(marks) == {f"fastnl/test/{id_}/{e}" for id_ in wanted for e in "ab"}
    assert set(marks.values()) == {1}
    assert client.info()["load"] == 0


def test_clients_that_quarrel_over_the_same_ids_and_names_all_get_an_answer_and_the_kernel_one_truth(engine, netns):
    rooms = netns.many(4)
    dice = random.Random(7)

    def some_job() -> dict[str, Any]:
        id_ = f"q{dice.randrange(12)}"
        kind = dice.random()
        if kind < 0.6:
            a, b = dice.sample(rooms, 2)
            ends = end(a, f"e{dice.randrange(6)}"), end(b, f"f{dice.randrange(6)}", mtu=dice.choice([1400, 1500]))
            return {"op": "connect", "connections": [pair(id_, *ends)]}
        if kind < 0.9:
            return {"op": "disconnect", "ids": [id_]}
        move = {"id": id_, "end": dice.choice("ab"), "netns": dice.choice(rooms), "mode": "recreate"}
        return {"op": "move", "moves": [move]}

    replies = drive(engine, [[some_job() for _ in range(150)] for _ in range(8)], 32)
    codes = Counter(r["results"][0].get("error", {}).get("code", "ok") for mine in replies for r in mine.values())
    assert set(codes) <= {"ok", "conflict", "unknown_id", "invalid", "ifname_in_use"}, codes
    client = engine.client()
    assert all(v["ok"] for v in client.verify())
    seen = {row["ifalias"] for room in rooms for row in ip_json(room, "link", "show") if "ifalias" in row}
    assert seen == {f"fastnl/test/{row['id']}/{e}" for row in client.list() for e in "ab"}


def test_what_the_engine_changes_is_not_taken_for_somebody_elses_doing(make_engine, netns):
    """The audit looks while everything changes all the time, and finds nothing to mend."""
    rooms = netns.many(3)
    client = make_engine(env={"FASTNL_AUDIT": "1"}).start().client()
    dice = random.Random(5)
    for _ in range(25):
        jobs = []
        for n in range(40):
            a, b = (rooms[0], rooms[1]) if dice.random() < 0.8 else (rooms[2], rooms[1])
            address, mtu = f"10.{n}.{dice.randrange(9)}.1/24", dice.choice([1400, 1500])
            jobs.append(pair(f"c{n}", end(a, f"a{n}", address, mtu=mtu), end(b, f"b{n}")))
        assert all(r["ok"] for r in client.connect(jobs))
    told = Counter(e["event"] for e in client.events(limit=10_000)["events"] if e["of"] == "connection")
    assert set(told) == {"up"}, told
    assert all(v["ok"] for v in client.verify())


def test_jobs_of_one_id_take_effect_in_the_order_in_which_they_arrive(raw, hub):
    raw.ask(id=1, op="connect", connections=[job(1, mtu=1300)])
    raw.ask(id=2, op="connect", connections=[job(1, mtu=1400)])
    raw.ask(id=3, op="disconnect", ids=["c1"])
    raw.ask(id=4, op="connect", connections=[job(1, mtu=1500)])
    raw.ask(id=5, op="connect", connections=[job(1, mtu=1600)])
    replies = [raw.reply() for _ in range(5)]
    # each one saw what the one before it had done
    assert [r["id"] for r in replies] == [1, 2, 3, 4, 5]
    assert all(r["ok"] and r["results"][0]["changed"] for r in replies)
    index = [r["results"][0].get("a", {}).get("ifindex") for r in replies]
    assert index[0] == index[1] != index[3] == index[4]
    assert ip_json(hub, "link", "show", "e1")[0]["mtu"] == 1600


def test_the_order_holds_among_thousands_of_other_jobs(engine, netns):
    """Jobs of some ids come now and then among many others, while cycles begin and end."""
    hub = netns.make("hub")
    dice = random.Random(11)
    raw = engine.raw()
    last: dict[str, int | None] = {}
    asked: dict[str, list[int]] = defaultdict(list)
    crowd = 0
    answers: dict[str, list[int]] = defaultdict(list)

    def take(reply: dict[str, Any]) -> None:
        for result in reply["results"]:
            assert result["ok"], result
            if result["id"] in last:
                answers[result["id"]].append(reply["id"])

    for n in range(160):
        id_ = f"s{dice.randrange(4)}"
        asked[id_].append(n)
        if dice.random() < 0.25:
            last[id_] = None
            raw.ask(id=n, op="disconnect", ids=[id_])
        else:
            last[id_] = 1300 + n
            raw.ask(id=n, op="connect", connections=[pair(id_, end(hub, id_, mtu=1300 + n), end("", id_))])
        if n % 8 == 0:
            others = [f"o{crowd + i}" for i in range(dice.randrange(40, 160))]
            crowd += len(others)
            raw.ask(id=1000 + n, op="disconnect", ids=others)
            raw.ask(id=2000 + n, op="connect", connections=[
                pair(o, end(hub, o), end("", o)) for o in others[:20]
            ])  # fmt: skip
        while raw.socket.poll(0):
            take(raw.reply())
    while sum(map(len, answers.values())) < 160:
        take(raw.reply())
    assert answers == asked
    have = {row["ifname"]: row["mtu"] for row in ip_json(hub, "link", "show")}
    assert {id_: have.get(id_) for id_ in last} == last
