"""The programs that are measured beside fastnl do what it does, or their figures mean nothing."""

from __future__ import annotations

import pytest

from bench.peers import FORMS, GO, Peer, find
from fastnl.testing import Namespaces, ip_json
from fastnl_engine.bench.worker import KNOWN, Process
from fastnl_engine.bench.workloads import ROOMS, Workload, elsewhere, names, updated

pytestmark = [pytest.mark.measures, pytest.mark.kernel, pytest.mark.timeout(300)]

ALL = [*KNOWN, GO]
CHANGE = [name for name in ALL if name != "seed's sequence"]


@pytest.fixture(scope="module")
def peers() -> tuple[dict[str, Peer], dict[str, str]]:
    """Those that are here, and why the others are not."""
    found, missing = find()
    return {peer.name: peer for peer in found}, missing


@pytest.fixture
def peer(peers, name) -> Peer:
    found, missing = peers
    if name in missing:
        pytest.skip(missing[name])
    return found[name]


@pytest.fixture(params=["veth", "vxlan"])
def workload(request):
    workload = Workload("spread", request.param, 3, addresses=2, prefix="w")
    with Namespaces() as namespaces:
        for name in (*names(workload.connections()), *ROOMS):
            namespaces.make(name)
        yield workload


def there(netns: str) -> dict[str, tuple[int, bool, set[str]]]:
    """What `ip` sees in a namespace: MTU, whether it is up, and IPv4 addresses, by name."""
    return {
        row["ifname"]: (
            row["mtu"], "UP" in row["flags"],
            {f"{a['local']}/{a['prefixlen']}" for a in row["addr_info"] if a["family"] == "inet"},
        )
        for row in ip_json(netns, "addr", "show")
        if row["ifname"] != "lo"
    }  # fmt: skip


def process(peer: Peer, form: str, workload: Workload, folder) -> Process:
    return Process(peer.name, form, workload, folder / "w", peer.command)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ALL)
def test_what_a_peer_makes_is_up_where_it_belongs_and_goes(peer, form, workload, tmp_path):
    made = workload.connections()
    with process(peer, form, workload, tmp_path) as running:
        for _ in range(2):
            running.step("create")
            for end in (end for c in made for end in c.ends):
                mtu, up, addresses = there(end.netns)[end.ifname]
                assert up
                assert addresses == {a.text for a in end.addresses}
                assert mtu > 1000
            running.step("delete")
            assert not any(there(name) for name in (*names(made), ""))


@pytest.mark.parametrize("name", CHANGE)
def test_a_change_of_a_peer_is_the_one_that_fastnl_makes(peer, workload, tmp_path):
    made = workload.connections()
    changed = [updated(c) for c in made]
    moved = [elsewhere(c, n) for n, c in enumerate(changed)]
    with process(peer, "born", workload, tmp_path) as running:
        for _ in range(2):
            running.step("create")
            for step, before, after in (("update", made, changed), ("move", changed, moved)):
                running.step(step)
                for was, now in zip(before, after, strict=True):
                    assert there(now.a.netns)[now.a.ifname] == (1400, True, {a.text for a in now.a.addresses})
                    assert was.a.netns == now.a.netns or not there(was.a.netns)
            running.step("delete")
            assert not any(there(name) for name in (*names(made), *ROOMS))


def test_every_program_that_is_known_is_measured_or_missing(peers):
    found, missing = peers
    assert set(ALL) == set(found) | set(missing)
    assert {name for name, peer in found.items() if peer.changes} == set(CHANGE) - set(missing)
