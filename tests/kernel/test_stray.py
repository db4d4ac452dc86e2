"""A tunnel that is not where it was made keeps its VNI, until it is found by its mark."""

from __future__ import annotations

import pytest

from fastnl import End, Vxlan, stray
from fastnl.testing import ip_json

pytestmark = pytest.mark.kernel


def tunnel(where, under, vni=7):
    return Vxlan(a=End(where, "vx"), vni=vni, remote="192.0.2.1", underlay=under, id="c")


def names(where):
    return {row["ifname"] for row in ip_json(where, "link")}


@pytest.mark.parametrize("at_home", [False, True], ids=["apart", "at home"])
def test_only_what_has_the_underlay_is_taken(host, netns, at_home):
    """An engine of the same name in another network namespace, such as a container's, may have one of that id."""
    for name in ("inner", "outer", "mine", "theirs"):
        netns.make(name)
    ours = tunnel("mine" if at_home else "inner", "mine")
    theirs = tunnel("theirs" if at_home else "outer", "theirs")
    assert all(r.ok for made in (ours, theirs) for r in host.connect([made]))
    assert stray.remove(host, [ours]) == {"c"}
    assert names(ours.a.netns) == {"lo"} and "vx" in names(theirs.a.netns)
    assert stray.remove(host, [ours]) == set()


def test_what_has_another_vni_is_left(host, netns):
    netns.make("inner")
    [made] = host.connect([tunnel("inner", "")])
    assert stray.remove(host, [tunnel("inner", "", 8)]) == set()
    assert "vx" in names("inner")
    host.disconnect([made.wired])


def test_an_underlay_that_is_not_there_has_none(host, netns):
    netns.make("inner")
    [made] = host.connect([tunnel("inner", "")])
    assert stray.remove(host, [tunnel("inner", "nowhere")]) == set()
    host.disconnect([made.wired])
