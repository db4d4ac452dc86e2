"""Fixtures of the pytest-benchmark suites.

    python -m pytest bench                          # measure
    python -m pytest bench --benchmark-disable      # only see that everything still runs
    python -m pytest bench -k "batch and star" --benchmark-json=out.json

Nothing is asserted about time.  Suites that touch the kernel need root; they work in namespaces of their own.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from fastnl.testing import isolate

sys.path.insert(0, str(Path(__file__).parent.parent))  # for `bench`, as pytest is told to leave sys.path alone
ROOT = os.geteuid() == 0


def pytest_configure() -> None:
    """A network and a /run/netns of the process's own, before pytest-timeout starts its thread."""
    if ROOT:
        isolate()


@pytest.fixture
def private() -> None:
    """For what touches the kernel."""
    if not ROOT:
        pytest.skip("makes real interfaces, which needs root")
