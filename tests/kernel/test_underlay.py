"""A tunnel lives and dies with the namespace that carries it."""

from __future__ import annotations

import pytest

from fastnl import End, NetnsGone, Vxlan
from fastnl.testing import ip_json
from fastnl.verify import verify

pytestmark = pytest.mark.kernel


def test_an_underlay_that_goes_between_check_and_use_is_an_error_and_nothing_is_left(host, netns):
    netns.make("inner")
    netns.make("under")

    def let_go(*_: object) -> None:
        if "under" in netns:
            netns.let_go("under")

    host.trace = let_go
    [result] = host.connect([Vxlan(a=End("inner", "vx"), vni=7, remote="192.0.2.1", underlay="under")])
    host.trace = None
    assert isinstance(result.error, NetnsGone)
    assert result.error.field == "vxlan.underlay"
    assert [row["ifname"] for row in ip_json("inner", "link")] == ["lo"]


@pytest.mark.parametrize("goes", ["mac", "mtu"])
def test_what_a_tunnel_is_not_given_any_more(host, netns, goes):
    """The interface stays: its MAC, as nobody knows the one it was born with, and its MTU as at birth."""
    inner = netns.make("inner")
    full = {"mac": "02:00:00:00:00:07", "mtu": 1300}
    less = {k: v for k, v in full.items() if k != goes}
    before, after = (Vxlan(a=End(inner, "vx", ["10.0.0.1/24"], **v), vni=7, local="127.0.0.1") for v in (full, less))
    [made] = host.connect([before])
    [changed] = host.update([(made.wired, after)])
    assert changed.ok
    assert changed.wired.places == made.wired.places
    assert verify([changed.wired])[0].ok
    [row] = ip_json(inner, "link", "show", "vx")
    assert row["mtu"] == (1300 if goes == "mac" else 1450)
    assert row["address"] == full["mac"]
    host.disconnect([changed.wired])


def test_a_tunnel_that_loses_its_ipv6_address_loses_its_link_local_one_too(host, netns):
    inner = netns.make("inner")
    v6, v4 = (Vxlan(a=End(inner, "vx", [ip]), vni=7, local="127.0.0.1") for ip in ("fd00::1/64", "10.0.0.1/24"))
    [made] = host.connect([v6])
    [changed] = host.update([(made.wired, v4)])
    assert verify([changed.wired])[0].ok
    host.disconnect([changed.wired])
