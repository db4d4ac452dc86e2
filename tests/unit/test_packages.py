"""What is in the tree is in the wheel."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not (ROOT / "engine").is_dir(), reason="this is no source tree")
def test_every_package_is_named():
    named = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    modules = [path for path in (ROOT / "engine").rglob("*.py") if "__pycache__" not in path.parts]
    found = {".".join(path.parent.relative_to(ROOT / "engine").parts) for path in modules}
    assert found | {"fastnl"} == named
