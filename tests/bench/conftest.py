"""The measurements themselves: does each of them run, and say what it should?  No figure is looked at."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE) and item.get_closest_marker("measures") is not None and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="makes real interfaces, which needs root"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "measures: runs a measurement, which needs root")


@pytest.fixture(scope="session")
def fits_schema() -> Callable[[Any], bool]:
    """Raises jsonschema.ValidationError for what is no file of results."""
    schema = json.loads((ROOT / "bench" / "schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)

    def check(results: Any) -> bool:
        jsonschema.validate(results, schema, jsonschema.Draft202012Validator)
        return True

    return check
