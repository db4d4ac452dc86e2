"""Deletes go on beside everything else, and whoever comes after one for the same things finds them free."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from fastnl.testing import Namespaces, eventually, ip_json
from fastnl_engine.client import Client
from fastnl_engine.testing import end, pair, tunnel

TIMES = 12  # that a thing is handed on, as who comes first is for the threads to decide


@pytest.fixture
def crowd(client: Client, netns: Namespaces) -> list[dict[str, Any]]:
    """Connections of others, whose deletes keep the thread for sweeps at work."""
    rooms = netns.many(8, "crowd")
    made = [pair(f"x{n}", end(rooms[n % 8], f"x{n}a"), end(rooms[(n + 1) % 8], f"x{n}b")) for n in range(64)]
    assert all(r["ok"] for r in client.connect(made))
    return made


def links(netns: str) -> dict[str, dict[str, Any]]:
    return {row["ifname"]: row for row in ip_json(netns, "addr", "show") if row["ifname"] != "lo"}


def in_a_row(client: Client, *requests: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Replies in the order of the requests, which are all sent before the first is answered."""
    ids = [client.send(op, **fields) for op, fields in requests]
    replies = {reply["id"]: reply for reply in (client.receive() for _ in ids)}
    return [replies[id_] for id_ in ids]


def gone(*ids: str) -> tuple[str, dict[str, Any]]:
    return "disconnect", {"ids": list(ids)}


def there(*connections: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return "connect", {"connections": list(connections)}


def test_names_and_addresses_go_from_one_connection_to_the_next(client, blue, red, crowd):
    ids = [c["id"] for c in crowd]
    for n in range(TIMES):
        old, new = f"c{n}", f"c{n + 1}"
        ends = end(blue, "e0", "10.0.0.1/24"), end(red, "e0", "10.0.0.2/24")
        if n == 0:
            assert client.connect([pair(old, *ends)])[0]["ok"]
        requests = [gone(*ids[:30]), gone(old), there(pair(new, *ends)), gone(*ids[30:]), there(*crowd)]
        for reply in in_a_row(client, *requests):
            assert reply["ok"], reply
        for room, side in ((blue, "a"), (red, "b")):
            assert links(room)["e0"]["ifalias"] == f"fastnl/test/{new}/{side}"
            assert [a["local"] for a in links(room)["e0"]["addr_info"]] == [f"10.0.0.{'ab'.index(side) + 1}"]
            assert [r["dst"] for r in ip_json(room, "route", "show")] == ["10.0.0.0/24"]


def test_a_name_goes_on_under_another_reference_to_its_namespace(client, blue, red, crowd):
    """That both mean one namespace is not known beforehand."""
    spelled = [blue, f"file:/run/netns/{blue}"]
    for n in range(TIMES):
        new = pair(f"c{n + 1}", end(spelled[n % 2], "e0"), end(red, f"e{n + 1}"))
        if n == 0:
            assert client.connect([pair("c0", end(blue, "e0"), end(red, "e0"))])[0]["ok"]
            continue
        old = f"c{n}" if n > 1 else "c0"
        for reply in in_a_row(client, gone(*[c["id"] for c in crowd]), gone(old), there(new), there(*crowd)):
            assert reply["ok"], reply
        assert links(blue)["e0"]["ifalias"] == f"fastnl/test/{new['id']}/a"


def test_a_route_a_vni_and_a_bridge_with_its_port_go_on_too(client, blue, red, crowd):
    def wanted(n: int) -> list[dict[str, Any]]:
        road = [{"to": "198.51.100.0/24"}]
        return [
            pair(f"r{n}", end(blue, f"r{n}", "10.0.0.1/24", routes=road), end(red, f"r{n}")),
            tunnel(f"v{n}", end(blue, f"v{n}"), vni=7, local="192.0.2.1", remote="192.0.2.2"),
            {"id": f"b{n}", "kind": "bridge", "a": end(blue, "br0")},
            pair(f"p{n}", end(blue, f"p{n}", master="br0"), end(red, f"p{n}")),
        ]

    for n in range(TIMES):
        requests = [gone(*[c["id"] for c in crowd]), there(*wanted(n)), there(*crowd)]
        if n:
            requests.insert(1, gone(*[c["id"] for c in wanted(n - 1)]))
        for reply in in_a_row(client, *requests):
            assert reply["ok"], reply
        found = links(blue)
        assert found.keys() == {f"r{n}", f"v{n}", "br0", f"p{n}"}
        assert found[f"p{n}"]["master"] == "br0"
        [route] = ip_json(blue, "route", "show", "198.51.100.0/24")
        assert route["dev"] == f"r{n}"
        assert all(r["ok"] and not r["differences"] for r in client.verify([c["id"] for c in wanted(n)]))


def test_a_port_goes_on_to_a_tunnel_that_receives_otherwise(client, blue, crowd):
    """Its socket can be had only once the other one is closed."""
    for n in range(TIMES):
        new = tunnel(f"v{n}", end(blue, f"v{n}"), vni=n + 1, local="192.0.2.1", remote="192.0.2.2")
        new["vxlan"]["gbp"] = n % 2 == 1
        requests = [gone(*[c["id"] for c in crowd]), gone(f"v{n - 1}"), there(new), there(*crowd)]
        for reply in in_a_row(client, *requests):
            assert reply["ok"] and reply["results"][0]["ok"], reply


def test_what_is_given_back_by_a_delete_that_waits_itself_can_be_had(client, blue, red, crowd):
    ends = end(blue, "e0", "10.0.0.1/24"), end(red, "e0", "10.0.0.2/24")
    requests = [gone(*[c["id"] for c in crowd])]
    for n in range(TIMES):
        requests += [there(pair(f"c{n}", *ends)), gone(f"c{n}")]
    for reply in in_a_row(client, *requests, there(pair("last", *ends))):
        assert all(r["ok"] for r in reply["results"]), reply
    assert links(blue)["e0"]["ifalias"] == "fastnl/test/last/a"
    assert [row["id"] for row in client.list()] == ["last"]


def test_a_namespace_may_go_while_its_interfaces_are_being_deleted(client, blue, netns, crowd):
    for n in range(TIMES):
        room = netns.make(f"room{n}")
        assert client.connect([pair("c", end(blue, "e0"), end(room, "e0"))])[0]["ok"]
        for ids in ([c["id"] for c in crowd], ["c"]):
            client.send("disconnect", ids=ids)
        netns.let_go(room)
        assert client.receive()["ok"] and client.receive()["ok"]
        assert eventually(lambda: not links(blue))
        assert all(r["ok"] for r in client.connect(crowd))
    assert not list(client.list(ids=["c"]))


def test_a_stop_during_deletes_answers_each_and_leaves_what_the_store_says(engine, netns, blue):
    client = engine.client()
    rooms = netns.many(40, "room")
    made = [pair(f"c{n}", end(blue, f"c{n}"), end(rooms[n % 40], f"e{n}")) for n in range(200)]
    assert all(r["ok"] for r in client.connect(made))
    for c in made:
        client.send("disconnect", ids=[c["id"]])
    replies = [client.receive()]
    assert engine.stop() == 0
    replies += [client.receive() for _ in made[1:]]
    kept = {r["id"]: r["error"]["code"] for reply in replies for r in reply["results"] if not r["ok"]}
    assert set(kept.values()) <= {"shutting_down"}
    assert links(blue).keys() == kept.keys()
    engine.start().resumed()
    assert {row["id"] for row in engine.client().list()} == kept.keys() == links(blue).keys()


def test_what_was_being_deleted_when_the_engine_was_killed_is_as_one_of_both_says(engine, netns, blue):
    """Gone and unknown, or there and known; so is what was being made beside it."""
    client = engine.client()
    rooms = netns.many(100, "room")
    made = [pair(f"c{n}", end(blue, f"c{n}"), end(room, "e0")) for n, room in enumerate(rooms)]
    assert all(r["ok"] for r in client.connect(made))
    client.send("disconnect", ids=[c["id"] for c in made])
    for n, room in enumerate(rooms[:20]):
        client.send("connect", connections=[pair(f"d{n}", end(blue, f"d{n}"), end(room, "e1"))])
    assert client.receive()["ok"]
    engine.kill()
    engine.start().resumed()
    client = engine.client()
    # what was not finished is made anew
    assert eventually(lambda: all(row["state"] == "up" for row in client.list()))
    known = {row["id"] for row in client.list()}
    assert links(blue).keys() == known
    others = Counter(name for room in rooms for name in links(room))
    assert others == Counter({"c": "e0", "d": "e1"}[id_[0]] for id_ in known)
