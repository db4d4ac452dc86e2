"""Docker's own tests; the fixtures are those of everybody."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever starts Docker here is a kernel test: checked for leftovers, and for root only."""
    for item in items:
        if item.path.is_relative_to(HERE) and {"docker", "make_docker", "follow"} & set(
            getattr(item, "fixturenames", ())
        ):
            item.add_marker(pytest.mark.kernel)
            if {"docker", "make_docker"} & set(item.fixturenames) and os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="Docker needs root"))
