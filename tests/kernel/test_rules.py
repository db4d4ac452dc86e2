"""Policy rules: put up with their connection, taken down with it, and none of others touched."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from dataclasses import replace

import pytest

from fastnl import Conflict, Device, End, KernelError, Move, NameInUse, Route, Rule, Veth, Vxlan, verify
from fastnl._nl import Tour, new_netns
from fastnl.rules import PROTOCOL
from fastnl.testing import Census, ip_json, ping

PLAIN = Rule(table=100, source="10.1.0.0/16", priority=500)
FULL = Rule(
    table=70000, source="10.0.0.1/32", to="10.9.0.0/16", iif="lo", fwmark=16, ipproto=6, sport=80, dport=(1000, 2000)
)
SIX = Rule(table=101, source="fd00::/64", dport=53)
OF_KERNEL = {0, 32766, 32767}


def ip(netns: str, command: str, *, check: bool = True) -> bool:
    return subprocess.run(["ip", "-n", netns, *command.split()], check=check, capture_output=not check).returncode == 0


def rules(netns: str) -> list[dict]:
    """What somebody added, of both families, as `ip` shows it."""
    rows = [row for family in "46" for row in ip_json(netns, f"-{family}", "rule", "show")]
    return [row for row in rows if row["priority"] not in OF_KERNEL]


def shown(rows: list[dict]) -> list[str]:
    return [" ".join(f"{key} {value}" for key, value in row.items()) for row in rows]


@pytest.fixture
def rooms(netns):
    return netns.make("blue"), netns.make("red")


def pair(*mine: Rule, theirs: tuple[Rule, ...] = (), name: str = "e0", **more) -> Veth:
    a = End("blue", name, [more.pop("address", "10.0.0.1/24")], rules=mine, **more)
    return Veth(a, End("red", name, ["10.0.0.2/24"], rules=theirs), id=name)


def one(host, connection):
    [result] = host.connect([connection])
    assert result.error is None, result.error
    assert verify.verify([result.wired], alias=host.alias)[0].differences == ()
    return result.wired


def test_rules_come_and_go_with_their_connection(host, rooms):
    wired = one(host, pair(PLAIN, FULL, SIX, theirs=(PLAIN,)))
    mark = {"protocol": str(PROTOCOL)}
    assert rules("blue") == [
        {"priority": 500, "src": "10.1.0.0", "srclen": 16, "table": "100", **mark},
        {
            "priority": 32765, "src": "10.0.0.1", "dst": "10.9.0.0", "dstlen": 16, "fwmark": "0x10", "iif": "lo",
            "ipproto": "tcp", "sport": 80, "dport_start": 1000, "dport_end": 2000, "table": "70000", **mark,
        },
        {"priority": 32765, "src": "fd00::", "srclen": 64, "dport": 53, "table": "101", **mark},
    ]  # fmt: skip
    assert [row["priority"] for row in rules("red")] == [500]
    ip("blue", "rule add from 10.1.0.0/16 lookup 100 priority 501")
    [result] = host.disconnect([wired])
    assert result.changed and rules("red") == []
    assert [row["priority"] for row in rules("blue")] == [501]


def test_a_rule_decides_where_packets_go(host, rooms, netns):
    """Two routes to one destination in two tables; a rule says which one a source takes."""
    netns.make("green")
    table = Route("10.9.0.9/32", via="10.0.0.2", table=100)
    made = [
        one(host, pair(Rule(table=100, source="10.5.0.1/32"), routes=[table])),
        one(host, Veth(End("blue", "e1", ["10.5.0.1/24"], routes=[Route("10.9.0.9/32", via="10.5.0.2")]),
                       End("green", "e1", ["10.5.0.2/24", "10.9.0.9/32"]))),
    ]  # fmt: skip
    [plain] = ip_json("blue", "route", "get", "10.9.0.9")
    [ruled] = ip_json("blue", "route", "get", "10.9.0.9", "from", "10.5.0.1")
    assert (plain["dev"], ruled["dev"]) == ("e1", "e0")
    host.disconnect(made[:1])
    [ruled] = ip_json("blue", "route", "get", "10.9.0.9", "from", "10.5.0.1")
    assert ruled["dev"] == "e1"


@pytest.mark.parametrize("who", [{"protocol": 4}, {"protocol": 0}])
def test_a_rule_of_somebody_else_is_not_taken_for_ours(host, rooms, who):
    ip("blue", f"rule add from 10.1.0.0/16 lookup 100 priority 500 protocol {who['protocol']}")
    before = rules("blue")
    good = Veth(End("blue", "g0"), End("red", "g0"), id="good")
    bad, fine = host.connect([pair(SIX, PLAIN, theirs=(PLAIN,)), good])
    assert isinstance(bad.error, Conflict) and fine.ok
    assert (bad.error.field, bad.error.phase, bad.error.errno) == ("a.rules[1]", "rule", errno.EEXIST)
    assert "'blue' has the rule '500: from 10.1.0.0/16 lookup 100' already" in bad.error.message
    # nothing of it is left, the other end's rules and the interfaces neither
    assert (rules("blue"), rules("red")) == (before, [])
    assert {row["ifname"] for row in ip_json("blue", "link", "show")} == {"lo", "g0"}
    host.disconnect([fine.wired])
    assert rules("blue") == before


def test_a_rule_of_another_connection_is_refused_and_stays_with_it(host, rooms):
    first = one(host, pair(PLAIN))
    [again] = host.connect([pair(PLAIN, name="e1", address="10.2.0.1/24")])
    assert isinstance(again.error, Conflict) and "protocol fastnl" in again.error.message
    # in one batch, too: the first has it
    both = host.connect([pair(SIX, name=f"t{n}", address=f"10.{n}.0.1/24") for n in (3, 4)])
    assert [r.ok for r in both] == [True, False] and both[1].error.field == "a.rules[0]"
    assert len(rules("blue")) == 2
    host.disconnect([first, both[0].wired])
    assert rules("blue") == []


def test_rules_that_the_kernel_could_not_tell_apart_when_one_goes_are_refused(host, rooms):
    """Asked to delete the wider one, it takes the narrower one if that comes first."""
    narrow = Rule(table=100, source="10.1.0.0/16", dport=80, priority=500)
    first = one(host, pair(narrow))
    [wide] = host.connect([pair(PLAIN, name="e1", address="10.2.0.1/24")])
    assert isinstance(wide.error, Conflict) and "another priority" in wide.error.message
    second = one(host, pair(Rule(table=100, source="10.1.0.0/16", priority=501), name="e1", address="10.2.0.1/24"))
    host.disconnect([second])
    assert [row["priority"] for row in rules("blue")] == [500]
    # the kernel really does so: this is what is kept from happening
    ip("blue", f"rule add from 10.1.0.0/16 lookup 100 priority 500 protocol {PROTOCOL}")
    ip("blue", f"rule del from 10.1.0.0/16 lookup 100 priority 500 protocol {PROTOCOL}")
    assert "dport" not in shown(rules("blue"))[0]
    host.disconnect([first])


def test_rules_change_in_place(host, rooms):
    wired = one(host, pair(PLAIN, SIX))
    [result] = host.update([(wired, pair(SIX, FULL))])
    assert result.ok and result.wired.places == wired.places
    assert verify.verify([result.wired])[0].ok
    assert sorted(row["priority"] for row in rules("blue")) == [32765, 32765]
    # the wider one goes before the narrower one of the same priority comes
    narrow = Rule(table=101, source="fd00::/64", dport=53, sport=53)
    [result] = host.update([(result.wired, pair(narrow, FULL))])
    assert result.ok, result.error
    [result] = host.update([(result.wired, pair())])
    assert result.ok and rules("blue") == []
    host.disconnect([result.wired])


def test_a_change_that_fails_leaves_the_rules_as_they_were(host, rooms):
    ip("blue", "rule add from 10.7.0.0/16 lookup 7 priority 7")
    wired = one(host, pair(PLAIN, SIX))
    before = rules("blue"), ip_json("blue", "addr", "show", "e0")[0]["addr_info"][0]["local"]
    taken = Rule(table=7, source="10.7.0.0/16", priority=7)
    [result] = host.update([(wired, pair(SIX, FULL, taken, address="10.0.0.9/24"))])
    assert isinstance(result.error, Conflict) and result.error.field == "a.rules[2]"
    assert result.wired == wired
    after = rules("blue"), ip_json("blue", "addr", "show", "e0")[0]["addr_info"][0]["local"]
    assert (sorted(shown(after[0])), after[1]) == (sorted(shown(before[0])), before[1])
    # made anew in vain, they come back with the interface
    [result] = host.update([(wired, pair(SIX, taken, queues=2))])
    assert isinstance(result.error, Conflict)
    assert sorted(shown(rules("blue"))) == sorted(shown(before[0]))
    host.disconnect([result.wired])
    assert [row["priority"] for row in rules("blue")] == [7]


def test_a_rule_that_somebody_removed_is_told_of_and_put_back(host, rooms):
    wired = one(host, pair(PLAIN, FULL))
    ip("blue", "rule del priority 500")
    ip("blue", "rule add from 10.1.0.0/17 lookup 100 priority 500")
    [verdict] = verify.verify([wired])
    [difference] = verdict.differences
    assert (difference.field, difference.want) == ("a.rules[0]", "500: from 10.1.0.0/16 lookup 100")
    assert difference.have == "500: from 10.1.0.0/17 lookup 100"
    [result] = host.mend([wired])
    assert result.ok and result.wired == wired
    assert verify.verify([wired])[0].ok
    host.disconnect([wired])
    assert [row["srclen"] for row in rules("blue")] == [17]


def test_a_rule_with_more_to_it_is_another_one(host, rooms):
    wired = one(host, pair(PLAIN))
    ip("blue", "rule del priority 500")
    ip("blue", "rule add not from 10.1.0.0/16 lookup 100 priority 500 oif lo")
    [difference] = verify.verify([wired])[0].differences
    assert difference.have == "500: from 10.1.0.0/16 lookup 100 oifname not"
    host.disconnect([wired])


@pytest.mark.parametrize("mode", ["move", "recreate"])
def test_rules_move_with_their_end(host, rooms, netns, mode):
    netns.make("green")
    wired = one(host, pair(PLAIN, SIX, theirs=(PLAIN,)))
    [result] = host.move([Move(wired, 0, "green", mode)])
    assert result.ok, result.error
    assert (rules("blue"), len(rules("green")), len(rules("red"))) == ([], 2, 1)
    assert verify.verify([result.wired])[0].ok
    host.disconnect([result.wired])
    assert rules("green") == rules("red") == []


@pytest.mark.parametrize("mode", ["move", "recreate"])
def test_a_move_to_where_a_rule_is_taken_leaves_everything_as_it_was(host, rooms, netns, mode):
    netns.make("green")
    ip("green", "rule add from 10.1.0.0/16 lookup 100 priority 500")
    wired = one(host, pair(PLAIN, SIX))
    before = sorted(shown(rules("blue")))
    [result] = host.move([Move(wired, 0, "green", mode)])
    assert isinstance(result.error, Conflict) and result.error.field == "a.rules[0]"
    assert sorted(shown(rules("blue"))) == before
    assert len(rules("green")) == 1 and [row["ifname"] for row in ip_json("green", "link", "show")] == ["lo"]
    assert ping("blue", "10.0.0.2")
    host.disconnect([result.wired])
    assert rules("blue") == []


def test_a_connection_that_fails_puts_no_rules_up(host, rooms, foreign):
    foreign("red", "e0")
    [result] = host.connect([pair(PLAIN)])
    assert isinstance(result.error, NameInUse) and rules("blue") == []


def test_rules_go_though_the_interface_has_gone_before(host, rooms):
    wired = one(host, pair(PLAIN))
    ip("blue", "link del e0")
    [result] = host.disconnect([wired])
    assert result.ok and rules("blue") == []


def test_rules_of_the_end_that_is_left_go_when_the_other_ends_namespace_has(host, rooms):
    wired = one(host, pair(PLAIN, theirs=(SIX,)))
    subprocess.run(["ip", "netns", "del", "blue"], check=True)
    assert host.disconnect([wired])[0].ok and rules("red") == []


def test_other_kinds_have_rules(host, rooms):
    ip("blue", "link add d0 type bridge")
    made = [
        one(host, Device("existing", End("blue", "d0", rules=[PLAIN]), id="found")),
        one(host, Vxlan(a=End("blue", "vx0", rules=[SIX]), vni=5, underlay="red")),
    ]
    assert len(rules("blue")) == 2
    # one that is refused gives an interface of others nothing
    [refused] = host.connect([Device("loopback", End("blue", "lo", ["10.77.0.1/32"], rules=[PLAIN]))])
    assert isinstance(refused.error, Conflict)
    assert "10.77.0.1" not in str(ip_json("blue", "addr", "show", "lo"))
    host.disconnect(made)
    assert rules("blue") == []


def test_both_ends_in_one_namespace(host, rooms):
    a, b = End("blue", "e0", rules=[PLAIN]), End("blue", "e1", rules=[SIX])
    wired = one(host, Veth(a, b))
    assert len(rules("blue")) == 2
    host.disconnect([wired])
    [result] = host.connect([Veth(a, replace(b, rules=[PLAIN]))])
    assert isinstance(result.error, Conflict) and result.error.field == "b.rules[0]"
    assert rules("blue") == []


def test_what_the_kernel_refuses_is_an_error_and_leaves_nothing(host, rooms, monkeypatch):
    """As when somebody adds one between the look and the request: here nobody looks."""
    monkeypatch.setattr("fastnl.rules._claim", lambda batch, there: None)
    ip("blue", f"rule add from 10.1.0.0/16 lookup 100 priority 500 protocol {PROTOCOL}")
    [result] = host.connect([pair(SIX, PLAIN)])
    assert isinstance(result.error, KernelError) and result.error.field == "a.rules[1]"
    # the one that was there is there, and the one that was added is not
    assert [row["priority"] for row in rules("blue")] == [500]
    assert {row["ifname"] for row in ip_json("blue", "link", "show")} == {"lo"}


def test_a_thousand_rules_leave_no_descriptor(host, rooms):
    before = Census.take()
    many = [Rule(table=n, source=f"10.{n // 256}.{n % 256}.0/24") for n in range(1, 1001)]
    wired = one(host, pair(*many))
    assert len(rules("blue")) == 1000
    host.disconnect([wired])
    assert rules("blue") == [] and Census.take().fds == before.fds


def test_what_many_rules_and_routes_cost_grows_as_they_do(host, rooms):
    """A change is no more work than to make them; it was a hundred times that when each was looked for in a row."""

    def many(*, udp):
        places = [(n, f"10.{n // 256}.{n % 256}.0/24") for n in range(1, 3001)]
        rules = [Rule(table=n, source=source, ipproto=17 if udp and n == 1 else 0) for n, source in places]
        return pair(*rules, routes=[Route("0.0.0.0/0", table=n) for n, _ in places])

    before, after = many(udp=False), many(udp=True)
    began = time.process_time()
    [result] = host.connect([before])
    made = time.process_time()
    [result] = host.update([(result.wired, after)])
    changed = time.process_time()
    assert result.error is None and len(rules("blue")) == 3000
    assert changed - made < 3 * (made - began)
    host.disconnect([result.wired])  # as the kernel is slow to take a namespace down with them


def test_the_kernel_takes_no_rule_of_a_family_that_it_does_not_know():
    """As where it was built without policy rules for IPv6: made up by a family that has none."""
    fd = new_netns()
    try:
        tour = Tour(1)
        visit = tour.visit(fd)
        rule = Tour(1).visit(-1)
        rule.rule(0, SIX)
        raw = bytearray(rule.messages()[0])
        raw[16] = 7  # AF_BRIDGE
        visit.raw(0, bytes(raw))
        tour.run()
        assert [p.errno for p in tour.problems()] == [errno.EAFNOSUPPORT]
    finally:
        os.close(fd)
