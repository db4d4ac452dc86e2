"""What upkeep asks for when more has happened than it was told: real namespaces, without an engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fastnl import Place
from fastnl.netns import meaning
from fastnl_engine.model import Connection, EndSpec, Record, VxlanSpec, encode
from fastnl_engine.upkeep import Upkeep, waits_in_vain
from fastnl_engine.watch import namespaces


@pytest.fixture
def asked() -> list[tuple[str, str]]:
    """(id, reason) of what was to be suspended, (id, "") of what was to be made again."""
    return []


@pytest.fixture
def upkeep(asked: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> Iterator[Upkeep]:
    monkeypatch.setattr(namespaces, "POLL", 3600.0)  # it sees what it is told of and nothing else
    upkeep = Upkeep(
        lambda record: asked.append((record.id, "")),
        lambda record, reason: asked.append((record.id, reason)),
        lambda *_: None,
    )
    yield upkeep
    upkeep.namespaces.close()


def tunnel(end: str, underlay: str) -> Record:
    """One that is up."""
    connection = Connection("t", "vxlan", EndSpec(end, "vx0"), vxlan=VxlanSpec(7, underlay=underlay))
    return Record("t", encode(connection), "up", (Place(9, meaning(end)),), since=1.0)


def test_a_tunnel_whose_underlay_goes_waits_until_it_is_there_again(upkeep, asked, netns, wanderer):
    netns.make("host")
    upkeep.follow(None, tunnel(f"pid:{wanderer.pid}", "host"))
    upkeep.namespaces.turn()
    assert asked == []
    netns.let_go("host")
    upkeep.namespaces.turn()
    [(_, reason)] = asked
    assert "vxlan.underlay: namespace 'host' is gone" in reason


def test_a_tunnel_whose_underlay_goes_is_not_made_again_in_another_process(upkeep, asked, netns, wanderer):
    """Its end's number means another process by then, which nobody has told of yet."""
    netns.make("host")
    record = tunnel(f"pid:{wanderer.pid}", "host")
    upkeep.follow(None, record)
    wanderer.wander()
    netns.let_go("host")
    upkeep.namespaces.turn()
    [(_, reason)] = asked
    assert f"a.netns: namespace 'pid:{wanderer.pid}' is gone for good" in reason
    assert waits_in_vain(Record("t", record.spec, "pending", reason=reason))
