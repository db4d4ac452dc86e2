"""The examples in docs/ligato.md are configuration, and its tables are whole."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fastnl_engine.northbound.ligato import compile as compiling
from fastnl_engine.northbound.ligato import ends, status
from fastnl_engine.northbound.ligato.compile import Compiler
from fastnl_engine.northbound.ligato.keys import PREFIXES

DOC = (Path(__file__).parents[3] / "docs/ligato.md").read_text()
EXAMPLES = re.findall(r"^`(/vnf-agent/[^`]+)`\n\n```json\n(.*?)```", DOC, re.MULTILINE | re.DOTALL)


def test_examples() -> None:
    compiler = Compiler("vpp1")
    for key, value in EXAMPLES:
        assert compiler.put(key, value.encode())
    verdicts = compiler.verdicts()
    # the same AF_PACKET interface in both layouts, of which one counts
    shadowed = verdicts.pop("/vnf-agent/vpp1/vpp/config/v1/interface/af-web")
    assert [u.label for u in shadowed.unmet] == ["configured-once"]
    for key, verdict in verdicts.items():
        assert verdict.state is None, f"{key}: {verdict}"
        assert verdict.remarks == (), key
    assert len(EXAMPLES) == 9
    for id in compiler.desired():
        assert f"`{id}`" in DOC


@pytest.mark.parametrize("prefix", PREFIXES.values())
def test_every_key(prefix: str) -> None:
    assert f"`{prefix}<" in DOC


def test_every_label_of_what_a_value_waits_for() -> None:
    used: set[str] = set()
    for module in (compiling, ends, status):
        source = Path(module.__file__).read_text()
        used |= set(
            re.findall(r'pending\(\s*"([a-z-]+)"|label(?:, master)? = "([a-z-]+)"|"(microservice-available)', source)
        )
    labels = {label for found in used for label in found if label} | {"microservice-available"}
    listed = set(re.findall(r"^\| `([a-z]+(?:-[a-z]+)+)` \|", DOC, re.MULTILINE))
    assert labels == listed
