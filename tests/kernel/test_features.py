"""What the kernel can do is found out by trying."""

from __future__ import annotations

import os
from pathlib import Path

from fastnl import features
from fastnl.testing import Census


def test_features_are_probed_once_and_leave_nothing():
    features.probe.cache_clear()
    before = Census.take()
    found = features.probe()
    assert before.leaks() == []
    assert features.probe() is found
    assert all(isinstance(value, bool) for value in found.as_dict().values())


def test_what_the_tests_need_is_there():
    found = features.probe()
    assert found.veth
    assert found.vxlan


def test_features_agree_with_the_kernels_release():
    # the release only bounds them: distributions backport, and drivers may be left out
    found = features.probe()
    release = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    for name, since in (
        ("born_by_target_name", (6, 15)),
        ("live_rename", (6, 2)),
        ("cookie", (5, 14)),
        ("pidfd_netns", (6, 11)),
    ):
        if release >= since:
            assert getattr(found, name), name
    assert found.ipv6 == Path("/proc/net/if_inet6").exists()
