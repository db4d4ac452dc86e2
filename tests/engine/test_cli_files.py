"""What `fastnl connect` reads: YAML and JSON, and what is wrong with them."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from fastnl_engine.cli.files import Broken, read_connections


def read(tmp_path: Path, text: str | bytes, name: str = "wires.yaml") -> list[dict[str, Any]]:
    file = tmp_path / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_connections(str(file))


def problem(tmp_path: Path, text: str | bytes, name: str = "wires.yaml") -> str:
    with pytest.raises(Broken) as caught:
        read(tmp_path, text, name)
    assert caught.value.exit_code == 2
    return caught.value.message.removeprefix(f"{tmp_path}/{name}")


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("id: c1", [{"id": "c1"}]),
        ("- id: c1\n- id: c2", [{"id": "c1"}, {"id": "c2"}]),
        ("id: c1\n---\n- id: c2\n---\n", [{"id": "c1"}, {"id": "c2"}]),
        ('{"id": "c1"}', [{"id": "c1"}]),
        (' [{"id": "c1"}]', [{"id": "c1"}]),
        ("{id: c1, a: {netns: blue}}", [{"id": "c1", "a": {"netns": "blue"}}]),
        ("[]", []),
        ("---\n[]", []),
        ("\ufeffid: c1", [{"id": "c1"}]),
        ("base: &b {kind: veth}\nc: {<<: *b, id: c1}", [{"base": {"kind": "veth"}, "c": {"kind": "veth", "id": "c1"}}]),
        ("base: &b {kind: veth}\nc: {<<: *b, kind: x}", [{"base": {"kind": "veth"}, "c": {"kind": "x"}}]),
    ],
)
def test_forms(tmp_path: Path, text: str, items: list[Any]) -> None:
    assert read(tmp_path, text) == items


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("12:34:56:12:34:56", "12:34:56:12:34:56"),
        ("10:20", "10:20"),
        ("no", "no"),
        ("on", "on"),
        ("007", "007"),
        ("1.10", "1.10"),
        ("1e5", "1e5"),
        ("1_000", "1_000"),
        ("2026-01-01", "2026-01-01"),
        ("true", True),
        ("False", False),
        ("1450", 1450),
        ("-3", -3),
        ("0", 0),
        ("0x10", 16),
        ("0o17", 15),
        ("null", None),
        ("", None),
        ("'5'", "5"),
    ],
)
def test_values(tmp_path: Path, written: str, value: object) -> None:
    [item] = read(tmp_path, f"x: {written}")
    assert item["x"] == value
    assert type(item["x"]) is type(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: b: c", ", line 1, column 5: mapping values are not allowed"),
        ("a: 1\n\tb: 2", ", line 2, column 1: found "),
        ("id: c1\nid: c2", ", line 2, column 1: key 'id' is there twice"),
        ("- a: {netns: x, netns: y}", ", line 1, column 17: key 'netns' is there twice"),
        ("a: *b", ", line 1, column 4: found undefined alias"),
        ("a: !!python/object:os.system x", ", line 1, column 4: could not determine a constructor"),
        ("a: \x01", ", line 1, column 4: character #x0001"),
        ("? [a]\n: b", ", line 1, column 3: found unhashable key"),
        (b"id: \xff\n", ", line 1, column 5: not UTF-8"),
        (b"id: a\nb: \xc3", ", line 2, column 4: not UTF-8"),
        ("", ": there is no connection in it"),
        ("# nothing\n", ": there is no connection in it"),
        ("hello", ": item 1 is text; a connection is a mapping"),
        ("- {id: c1}\n- 5", ": item 2 is a number; a connection is a mapping"),
        ("- {id: c1}\n-", ": item 2 is empty; a connection is a mapping"),
        ("- [a]", ": item 1 is a list; a connection is a mapping"),
        ("- yes\n- true", ": item 1 is text"),
        ("- true", ": item 1 is true or false"),
    ],
)
def test_mistakes_in_yaml(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert problem(tmp_path, text).startswith(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"id": "c1",}', ", line 1, column 1"),
        ('[{"id": "c1"}\n{"id": "c2"}]', ", line 2, column 1: Expecting ',' delimiter"),
        ("", ", line 1, column 1: Expecting value"),
        ('{"id": "a", "id": "b"}', ": key 'id' is there twice in one object"),
        ('{"mtu": NaN}', ": NaN is no value"),
        ('{"mtu": ' + 5000 * "1" + "}", ": Exceeds the limit"),
        (100_000 * "[", ": nested too deeply"),
    ],
)
def test_mistakes_in_json(tmp_path: Path, text: str, said: str) -> None:
    assert problem(tmp_path, text, "wires.json").startswith(said)


def test_mistakes_in_json_that_is_not_called_so(tmp_path: Path) -> None:
    assert problem(tmp_path, '{"id": "c1",\n "kind" "veth"}', "wires").startswith(", line 2, column 9: ")
    assert problem(tmp_path, '{"id": "a",\n "id": "b"}', "wires").startswith(", line 2, column 2: key 'id'")
    assert problem(tmp_path, 100_000 * "[", "wires").startswith(": nested too deeply")


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"id: c1")))
    assert read_connections("-") == [{"id": "c1"}]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"[")))
    with pytest.raises(Broken, match=r"^standard input, line \d, column \d: "):
        read_connections("-")
