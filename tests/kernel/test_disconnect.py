"""Deleting: a group at a time, few namespaces visited, and never what is not ours."""

from __future__ import annotations

import subprocess

import pytest

from fastnl import End, Host, Veth, Vxlan, sweep
from fastnl._nl import Phase, Tour
from fastnl.testing import eventually, ip_json


def names_in(netns: str) -> set[str]:
    return {row["ifname"] for row in ip_json(netns, "link", "show")} - {"lo"}


def wired(host, *connections):
    results = host.connect(connections)
    assert [r.error for r in results] == [None] * len(connections)
    return [r.wired for r in results]


@pytest.fixture
def tours(host):
    """Every tour of the host from here on."""
    seen = []
    host.trace = lambda tour, threads: seen.append(tour)
    return seen


def deletes(tours) -> list[str]:
    """How each interface or group was deleted, by the attributes of the RTM_DELLINK messages."""
    sent = [raw for tour in tours for visit in tour.visits for raw in visit.messages() if raw[4:6] == b"\x11\0"]
    return ["group" if len(raw) > 32 else "one" for raw in sent]


def test_a_star_is_deleted_with_one_message_in_one_namespace(host, netns, tours):
    hub, *spokes = netns.many(9)
    pairs = [
        Veth(*(End(name, f"e{i}", [f"10.{i}.0.{n}/24"]) for n, name in enumerate((hub, spoke), 1)))
        for i, spoke in enumerate(spokes)
    ]
    made = wired(host, *pairs)
    tours.clear()
    assert [r.changed for r in host.disconnect(made)] == [True] * 8
    assert deletes(tours) == ["group"]
    assert [names_in(name) for name in (hub, *spokes)] == [set()] * 9


def test_pairs_that_share_no_namespace_are_deleted_with_a_message_each(host, netns, tours):
    names = netns.many(12)
    made = wired(host, *[Veth(End(names[2 * i], "e0"), End(names[2 * i + 1], "e0")) for i in range(6)])
    tours.clear()
    assert [r.changed for r in host.disconnect(made)] == [True] * 6
    assert deletes(tours) == ["group"] * 6
    assert [names_in(name) for name in names] == [set()] * 12


def test_a_mesh_is_deleted_whole(host, netns):
    names = netns.many(6)
    mesh = [
        Veth(End(a, f"to-{b}", [f"10.{i}.0.1/24"]), End(b, f"to-{a}")) for i, a in enumerate(names) for b in names[:i]
    ]
    made = wired(host, *mesh)
    assert [r.changed for r in host.disconnect(made)] == [True] * 15
    assert [names_in(name) for name in names] == [set()] * 6


def test_only_what_was_asked_for_goes(host, netns, foreign):
    blue, red = netns.make("blue"), netns.make("red")
    foreign(blue, "theirs", group=host.group)  # even in the group that everything of ours is in
    other = wired(Host("other"), Veth(End(blue, "other"), End(red, "other")))
    made = wired(host, *[Veth(End(blue, f"e{i}"), End(red, f"e{i}")) for i in range(10)])
    assert all(r.changed for r in host.disconnect(made[:5]))
    assert names_in(blue) == {"theirs", "other", *(f"e{i}" for i in range(5, 10))}
    assert names_in(red) == {"other", *(f"e{i}" for i in range(5, 10))}
    assert len(other) == 1


@pytest.mark.parametrize("count", [1, 3, 20])
def test_a_foreign_member_of_the_temporary_group_is_left_alone(host, netns, foreign, monkeypatch, tours, count):
    # the group that the sweep will take, though chosen among 2^30, has a member already
    blue, red = netns.make("blue"), netns.make("red")
    monkeypatch.setattr(sweep.secrets, "randbelow", lambda _: 0x2345678)
    for name in (blue, red):
        foreign(name, "theirs", group=0x2345678 | 1 << 30)
    made = wired(host, *[Veth(End(blue, f"e{i}", [f"10.0.{i}.1/24"]), End(red, f"e{i}")) for i in range(count)])
    tours.clear()
    results = host.disconnect(made)
    assert [(r.ok, r.changed) for r in results] == [(True, True)] * count
    assert names_in(blue) == names_in(red) == {"theirs"}
    # one by one then, each with an answer of its own
    sent = [
        (state, raw) for tour in tours for v in tour.visits for state, raw in zip(v.states(), v.messages(), strict=True)
    ]
    assert sum(state[1] for state, raw in sent if raw[4:6] == b"\x11\0") == count


def test_a_foreign_member_in_one_namespace_does_not_slow_the_others(host, netns, foreign, monkeypatch):
    a, b, c, d = netns.many(4)
    monkeypatch.setattr(sweep.secrets, "randbelow", lambda _: 5)
    foreign(a, "theirs", group=5 | 1 << 30)
    foreign(b, "theirs", group=5 | 1 << 30)
    made = wired(host, Veth(End(a, "e0"), End(b, "e0")), Veth(End(c, "e0"), End(d, "e0")))
    assert [r.changed for r in host.disconnect(made)] == [True, True]
    assert [names_in(n) for n in (a, b, c, d)] == [{"theirs"}, {"theirs"}, set(), set()]


def test_deleting_what_somebody_else_deleted_is_no_error(host, netns):
    blue, red = netns.make("blue"), netns.make("red")
    made = wired(host, *[Veth(End(blue, f"e{i}", [f"10.0.{i}.1/24"]), End(red, f"e{i}")) for i in range(6)])
    for i in (1, 4):
        subprocess.run(["ip", "-n", blue, "link", "delete", f"e{i}"], check=True)
    results = host.disconnect(made)
    assert [(r.ok, r.changed) for r in results] == [(True, i not in (1, 4)) for i in range(6)]
    assert names_in(blue) == names_in(red) == set()


def test_deleting_when_all_is_gone_already_is_no_error(host, netns):
    blue, red = netns.make("blue"), netns.make("red")
    made = wired(host, *[Veth(End(blue, f"e{i}"), End(red, f"e{i}")) for i in range(3)])
    assert all(r.changed for r in host.disconnect(made))
    assert [(r.ok, r.changed) for r in host.disconnect(made)] == [(True, False)] * 3


@pytest.mark.parametrize("gone", [("blue",), ("red",), ("blue", "red")])
def test_deleting_when_a_namespace_is_gone_is_no_error(host, netns, gone):
    names = {name: netns.make(name) for name in ("blue", "red")}
    made = wired(host, Veth(End(names["blue"], "e0"), End(names["red"], "e0")))
    for name in gone:
        netns.let_go(name)
    [result] = host.disconnect(made)
    assert result.ok
    for name in {"blue", "red"} - set(gone):
        assert eventually(lambda name=name: names_in(name) == set())


def test_addresses_go_before_the_interface_so_that_its_routes_are_not_searched_for(host, netns, tours):
    blue, red = netns.make("blue"), netns.make("red")
    made = wired(host, Veth(End(blue, "e0", ["10.0.0.1/24", "10.1.0.1/24"]), End(red, "e0")))
    tours.clear()
    assert host.disconnect(made)[0].changed
    [tour] = tours
    [visit] = tour.visits
    # RTM_NEWLINK to probe the group, RTM_DELADDR, RTM_SETLINK to mark, RTM_DELLINK of the group
    assert [raw[4] for raw in visit.messages()] in ([16, 21, 21, 19, 17], [16, 19, 17])
    assert tour.problems() == []


def test_pairs_and_tunnels_go_together(host, netns):
    blue, red = netns.make("blue"), netns.make("red")
    made = wired(
        host,
        Veth(End(blue, "e0"), End(red, "e0")),
        *[Vxlan(a=End(blue, f"vx{i}", [f"10.{i}.0.1/24"]), vni=i + 1, underlay=red) for i in range(5)],
        Veth(End(blue, "e1"), End(blue, "e2")),
    )
    assert all(r.changed for r in host.disconnect(made))
    assert names_in(blue) == names_in(red) == set()


def test_the_probe_of_a_group_says_whether_it_has_members_and_changes_nothing(netns, foreign):
    blue = netns.make("blue")
    foreign(blue, "theirs", group=77777)
    before = ip_json(blue, "link", "show", "theirs")
    with open(f"/run/netns/{blue}") as f:
        tour = Tour(2, datagram_messages=100)
        visit = tour.visit(f.fileno())
        visit.probe_group(0, 77777)
        visit.delete_group(0, 77777)
        visit.probe_group(1, 88888)
        visit.change(1, 1, alias="reached")
        tour.run()
    [problem] = tour.problems()
    assert (problem.item, problem.phase) == (0, Phase.QUERY)
    # what follows the probe travels in a datagram of its own, and is left out
    assert [sent for _, sent, _ in visit.states()] == [True, False, True, True]
    assert ip_json(blue, "link", "show", "theirs") == before
    assert ip_json(blue, "link", "show", "lo")[0]["ifalias"] == "reached"
