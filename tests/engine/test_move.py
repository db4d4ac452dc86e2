"""Moving one end to another namespace, as itself or by making the connection anew."""

from __future__ import annotations

from typing import Any

import pytest

from fastnl.testing import ip_json, ping
from fastnl_engine.testing import EngineProcess, end, pair, tunnel


@pytest.fixture
def engine(shared_engine: EngineProcess) -> EngineProcess:
    return shared_engine


def names(netns: str) -> set[str]:
    return {row["ifname"] for row in ip_json(netns, "link", "show")} - {"lo"}


def move(id: str, end: str, netns: str, mode: str | None = None) -> dict[str, str]:
    out = {"id": id, "end": end, "netns": netns}
    return out | {"mode": mode} if mode else out


@pytest.fixture
def green(netns) -> str:
    return netns.make("green")


@pytest.fixture
def c1(client, blue, red) -> dict[str, Any]:
    """The result of a connection that is up."""
    [result] = client.connect([
        pair("c1", end(blue, "e0", "10.0.0.1/24"), end(red, "e0", "10.0.0.2/24", mac="02:00:00:00:00:02")),
    ])  # fmt: skip
    assert result["ok"]
    return result


def test_a_moved_end_keeps_its_index_and_its_addresses(client, c1, blue, red, green):
    [result] = client.move([move("c1", "b", green)])
    assert result == c1 | {"b": {"ifindex": c1["b"]["ifindex"], "ifname": "e0"}, "changed": True}
    assert names(red) == set() and names(green) == {"e0"}
    [link] = ip_json(green, "link", "show", "e0")
    assert (link["ifindex"], link["address"]) == (c1["b"]["ifindex"], "02:00:00:00:00:02")
    assert ping(blue, "10.0.0.2") and ping(green, "10.0.0.1")
    assert all(r["ok"] for r in client.verify(["c1"]))


def test_a_recreated_connection_is_a_new_one_in_the_new_place(client, c1, blue, red, green):
    [result] = client.move([move("c1", "b", green, "recreate")])
    assert result["ok"] and result["changed"]
    assert result["b"]["ifindex"] != c1["b"]["ifindex"]
    assert names(red) == set() and names(green) == {"e0"}
    assert ping(blue, "10.0.0.2")


def test_a_move_to_where_it_is_already_changes_nothing(client, c1, red):
    assert client.move([move("c1", "b", red)]) == [c1 | {"changed": False}]
    assert client.move([move("c1", "b", f"name:{red}")])[0]["b"] == c1["b"]


def test_a_tunnel_moves_and_its_underlay_stays(client, netns, blue, green):
    one, two = netns.many(2)
    cable = pair("cable", end(one, "up", "192.0.2.1/24"), end(two, "up", "192.0.2.2/24"))
    tunnels = [
        tunnel("t1", end(blue, "vx0", "10.9.0.1/24"), vni=7, underlay=one, local="192.0.2.1", remote="192.0.2.2"),
        tunnel("t2", end(two, "vx0", "10.9.0.2/24"), vni=7, underlay=two, local="192.0.2.2", remote="192.0.2.1"),
    ]
    assert all(r["ok"] for r in client.connect([cable, *tunnels]))
    [result] = client.move([move("t1", "a", green)])
    assert result["ok"], result
    assert names(blue) == set()
    assert ping(green, "10.9.0.2")


@pytest.mark.parametrize("mode", ["move", "recreate"])
@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"id": "c9"}, "unknown_id", "id"),
        ({"netns": "nowhere"}, "netns_not_found", "b.netns"),
        ({"netns": "no/where"}, "invalid", "b.netns"),
        ({"netns": "taken"}, "ifname_in_use", "b.ifname"),
        ({"netns": "claimed"}, "conflict", "b.ifname"),
        ({"netns": "blue"}, "invalid", "b.ifname"),
        ({"end": "c"}, "invalid", "end"),
        ({"netns": None}, "invalid", "netns"),
    ],
)
def test_a_move_that_cannot_be_leaves_everything_where_it_was(
    client, netns, foreign, c1, blue, red, mode, change, code, field
):
    foreign(netns.make("taken"), "e0")
    client.connect([pair("c2", end(netns.make("claimed"), "e0"), end(blue, "e2"))])
    [result] = client.move([move("c1", "b", "green", mode) | change])
    assert (result["ok"], result["error"]["code"], result["error"].get("field")) == (False, code, field)
    assert ip_json(red, "link", "show", "e0")[0]["ifindex"] == c1["b"]["ifindex"] or mode == "recreate"
    assert ping(blue, "10.0.0.2")
    assert all(r["ok"] for r in client.verify())
    assert ip_json("taken", "link", "show", "e0")[0]["linkinfo"]["info_kind"] == "bridge"


def test_one_move_of_a_request_fails_alone(client, netns, c1, blue, red, green):
    client.connect([pair("c2", end(blue, "e2"), end(red, "e2")), pair("c3", end(blue, "e3"), end(red, "e3"))])
    results = client.move([move("c1", "b", green), move("c2", "b", "nowhere"), move("c3", "b", green, "recreate")])
    assert [r["ok"] for r in results] == [True, False, True]
    assert names(green) == {"e0", "e3"} and names(red) == {"e2"}


def test_a_connection_that_waits_moves_by_being_made_in_the_new_place(client, blue, green):
    client.connect([pair("c1", end(blue, "e0"), end("later", "e0"))], wait=True)
    [refused] = client.move([move("c1", "b", "nowhere")])
    assert refused["error"]["code"] == "netns_not_found"
    [result] = client.move([move("c1", "b", green)])
    assert (result["ok"], result["state"], result["changed"]) == (True, "up", True)
    assert names(green) == {"e0"}
