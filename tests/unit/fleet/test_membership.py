"""When a host takes orders of the fleet."""

from __future__ import annotations

import pytest

from fastnl_engine.config import Fleet
from fastnl_engine.fleet.keys import Keys
from fastnl_engine.fleet.membership import Membership
from fastnl_engine.fleet.records import Alive, Host, encode
from fastnl_engine.kv.base import Entry
from fastnl_engine.kv.mirror import Change, Changes

KEYS = Keys("test")


def entry(key, value):
    return Entry(key, value, 1, 2, 1)


def member(alive):
    """One that was registered, and what it reads of itself now."""
    found = Membership(None, KEYS, "one", "mine", None, Fleet())
    found.registered = True
    found._take_hosts(Changes(2, [Change(KEYS.host("one"), None, host_key())], False))
    found._work.clear()
    found._take_alive(Changes(2, [Change(KEYS.alive("one"), None, entry(KEYS.alive("one"), alive))], False))
    found._update_ready()
    return found


def host_key():
    return entry(KEYS.host("one"), encode(Host("192.0.2.1", 1500, "mine")))


@pytest.mark.parametrize(("identity", "ready"), [("mine", True), ("another", False)])
def test_one_that_stood_still_takes_no_orders_while_another_of_its_name_is_alive(identity, ready):
    assert member(encode(Alive(identity, 1.0))).ready.is_set() == ready


def test_whatever_becomes_of_its_own_keys_is_looked_at():
    assert member(b"rubbish")._work.is_set()
    mine = member(encode(Alive("mine", 1.0)))
    mine._work.clear()
    mine._take_hosts(Changes(3, [Change(KEYS.host("one"), host_key(), entry(KEYS.host("one"), b"{}"))], False))
    assert mine._work.is_set()
