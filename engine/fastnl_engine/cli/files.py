"""Connections from a file: YAML or JSON, one connection or a list of them.

YAML is read by the rules of YAML 1.2 where those of 1.1 would bend values: `12:34:56:12:34:56` is a MAC and no
number of seconds, `no` and `007` are text.  Numbers with a fraction are text too, for no field has any, and
the version `1.10` of a label shall not become 1.1.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import click

Connection = dict[str, Any]


class Broken(click.ClickException):
    """The file cannot be used at all; nothing of it was sent."""

    exit_code = 2


def read_connections(path: str) -> list[Connection]:
    """Every connection of a file, or of standard input for "-".  Raises Broken."""
    text, name = _read(path)
    try:
        documents = _documents(text, name)
    except RecursionError:
        raise Broken(f"{name}: nested too deeply") from None
    items = [i for d in documents if d is not None for i in (d if isinstance(d, list) else [d])]
    if not items and [] not in documents:
        raise Broken(f"{name}: there is no connection in it")
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict):
            raise Broken(f"{name}: item {number} is {_kind(item)}; a connection is a mapping with id, kind, a and b")
    return items


def read_export(path: str) -> Any:
    """The one document of a file that `fastnl export` wrote, in JSON or turned into YAML.  Raises Broken."""
    text, name = _read(path)
    try:
        # of an export that was cut short the YAML reader would tell nothing better, and slowly
        documents = [_json(text, name)] if text.lstrip()[:1] == "{" else _documents(text, name)
    except RecursionError:
        raise Broken(f"{name}: nested too deeply") from None
    return documents[0] if len(documents) == 1 else None


def _read(path: str) -> tuple[str, str]:
    """The text, and what to call where it came from."""
    name = "standard input" if path == "-" else path
    try:
        raw = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as e:
        raise Broken(f"{name}: {e.strerror}") from None
    try:
        return raw.decode("utf-8-sig"), name
    except UnicodeDecodeError as e:
        before = raw[: e.start]
        line, column = before.count(b"\n") + 1, e.start - before.rfind(b"\n")
        raise Broken(f"{name}, line {line}, column {column}: not UTF-8: {e.reason}") from None


def _documents(text: str, name: str) -> list[Any]:
    if name.endswith(".json"):
        return [_json(text, name)]
    if text.lstrip()[:1] in ("[", "{"):
        # YAML may begin like that too, and its reader tells the place of every mistake
        with contextlib.suppress(Broken):
            return [_json(text, name)]
    return _yaml(text, name)


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_pairs, parse_constant=_constant)
    except json.JSONDecodeError as e:
        raise Broken(f"{name}, line {e.lineno}, column {e.colno}: {e.msg}") from None
    except ValueError as e:
        raise Broken(f"{name}: {e}") from None


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {twice!r} is there twice in one object")
    return out


def _constant(word: str) -> None:
    raise ValueError(f"{word} is no value that a connection could have")


def _yaml(text: str, name: str) -> list[Any]:
    import yaml

    try:
        return list(yaml.load_all(text, _loader()))
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        context = f" ({e.context})" if e.context else ""
        raise Broken(f"{name}{where}: {e.problem or 'cannot be read'}{context}") from None
    except yaml.reader.ReaderError as e:
        before = text[: e.position]
        line, column = before.count("\n") + 1, e.position - before.rfind("\n")
        raise Broken(
            f"{name}, line {line}, column {column}: character #x{ord(text[e.position]):04x}: {e.reason}"
        ) from None
    except (yaml.YAMLError, ValueError) as e:
        raise Broken(f"{name}: {e}") from None


@functools.cache
def _loader() -> Any:
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc]
        yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            _each_key_once(node.value, node.start_mark.index, node.end_mark.index)
            return super().construct_mapping(node, deep=deep)

    def plain(tag: str, pattern: str, first: Iterable[str]) -> None:
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list(first))

    plain("null", "~|null|Null|NULL|", ["~", "n", "N", ""])
    plain("bool", "true|True|TRUE|false|False|FALSE", "tTfF")
    plain("int", "[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789")
    plain("merge", "<<", "<")
    return Loader


def _each_key_once(pairs: Iterable[tuple[Any, Any]], begin: int, end: int) -> None:
    """Refuses the key that PyYAML would let override an earlier one.  Merged keys come from elsewhere and may be."""
    import yaml

    seen: set[str] = set()
    for key, _ in pairs:
        if not isinstance(key, yaml.ScalarNode) or not begin <= key.start_mark.index < end:
            continue
        if key.value in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} is there twice", key.start_mark)
        seen.add(key.value)


def _kind(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    return "a list" if isinstance(value, list) else "text" if isinstance(value, str) else type(value).__name__
