"""The list of rules and their tests is whole, and every test in it is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
ROWS = re.findall(r"^\| ([RSW]\d+) \| [^|]+ \| ([^|]+) \|$", (TESTS / "ligato/README.md").read_text(), re.MULTILINE)


def test_every_rule_has_its_row() -> None:
    rules = [f"{letter}{n}" for letter, most in (("R", 13), ("S", 14), ("W", 18)) for n in range(1, most + 1)]
    assert [name for name, _ in ROWS] == rules


@pytest.mark.parametrize(("rule", "named"), ROWS, ids=[name for name, _ in ROWS])
def test_its_tests_are_there(rule: str, named: str) -> None:
    tests = re.findall(r"`([\w/]+\.py)::(test_\w+)`", named)
    assert tests and len(tests) == named.count("`") / 2
    for path, name in tests:
        assert re.search(rf"^(async )?def {name}\(", (TESTS / path).read_text(), re.MULTILINE), f"{path}::{name}"
