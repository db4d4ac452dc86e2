"""How a connection stands follows from its outcomes and from who is alive."""

from __future__ import annotations

import msgspec
import pytest

from fastnl_engine.fleet.answers import ends_of, error_of, row_of, state_of
from fastnl_engine.fleet.records import Agreed, Outcome
from fastnl_engine.model import Connection

SPEC = msgspec.convert(
    {"id": "c", "kind": "veth", "a": {"netns": "blue", "ifname": "a0", "host": "one"},
     "b": {"netns": "red", "ifname": "b0", "host": "two"}},
    Connection,
)  # fmt: skip
AGREED = Agreed(SPEC, 3, "token", ["one", "two"], 7, 4789)
UP = Outcome(3, "up", {"a": {"ifindex": 5, "ifname": "a0"}})
UP_B = Outcome(3, "up", {"b": {"ifindex": 6, "ifname": "b0"}})
PENDING = Outcome(3, "pending", reason="b.netns: namespace 'red': there is none")
FAILED = Outcome(3, "failed", error={"code": "kernel", "message": "b: no", "errno": 22})
OLD = Outcome(2, "up")
BOTH = {"one", "two"}


@pytest.mark.parametrize(
    ("one", "two", "alive", "state", "word"),
    [
        (UP, UP_B, BOTH, "up", ""),
        (UP, UP_B, {"one"}, "degraded", "two"),
        (UP, UP_B, set(), "degraded", "one"),
        (UP, None, BOTH, "pending", "two"),
        (UP, None, {"one"}, "pending", "away"),
        (UP, OLD, BOTH, "pending", "at work"),
        (UP, OLD, {"one"}, "pending", "away"),
        (UP, PENDING, BOTH, "pending", "b.netns"),
        (UP, FAILED, BOTH, "failed", ""),
        (None, FAILED, {"two"}, "failed", ""),
    ],
)
def test_states(one, two, alive, state, word):
    found, reason, error = state_of(AGREED, {"one": one, "two": two}, alive)
    assert found == state and word in reason
    assert (error is not None) == (state == "failed")


def test_one_that_is_removed_says_whom_it_waits_for():
    removing = msgspec.structs.replace(AGREED, removing=True)
    assert state_of(removing, {}, BOTH) == ("removing", "", None)
    assert "two" in state_of(removing, {}, {"one"})[1]


def test_errors_name_the_host_and_what_is_waited_for():
    error = error_of(AGREED, "b", PENDING)
    assert (error["code"], error["field"], error["host"]) == ("netns_not_found", "b.netns", "two")
    assert "two" in error["message"]
    assert error_of(AGREED, "b", FAILED)["errno"] == 22


def test_a_row_is_what_was_submitted_and_where_it_is():
    row = row_of("c", AGREED, {"one": UP, "two": UP_B}, {"one"})
    assert row["a"] == {"netns": "blue", "ifname": "a0", "host": "one", "ifindex": 5}
    assert (row["b"]["ifindex"], row["vni"], row["state"]) == (6, 7, "degraded")
    assert "two" in row["reason"]
    assert ends_of(AGREED, {"one": OLD, "two": UP_B})["a"] == {"host": "one"}
