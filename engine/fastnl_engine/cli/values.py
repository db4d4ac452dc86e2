"""Keys as people write them, and whether a value can be what its key says, before it is written."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from fastnl_engine.northbound.ligato.keys import PREFIXES, ROOT, Key, parse_key, prefix


class Unreadable(click.ClickException):
    """A file that cannot be read; nothing was written."""

    exit_code = 2


class Rejected(Exception):
    """A value that its key cannot have; `error` as the engine's protocol has errors, with line and column."""

    def __init__(self, problem: str, **error: Any) -> None:
        super().__init__(problem)
        self.error = {"code": "invalid", "message": problem, **error}


def full_key(key: str, label: str) -> str:
    """The whole key of a short one; one that begins with a slash is whole.  Raises UsageError."""
    try:
        key.encode()
    except UnicodeEncodeError:
        raise click.UsageError(f"{key!r} is not UTF-8") from None
    if key.startswith("/"):
        return key
    try:
        return prefix(label) + key
    except ValueError as e:
        raise click.UsageError(str(e)) from None


def short_key(key: str, label: str) -> str:
    """As full_key takes it."""
    return key.removeprefix(f"{ROOT}{label}/")


def parsed(key: str) -> Key | None:
    """A whole key taken apart, of whichever agent; None for what is no configuration."""
    label = key.removeprefix(ROOT).partition("/")[0] if key.startswith(ROOT) else ""
    return parse_key(key, label) if label else None


def read_value(file: str) -> tuple[bytes, str]:
    """The contents of a file or of standard input, and what to call it.  Raises Unreadable."""
    if file == "-":
        return sys.stdin.buffer.read(), "standard input"
    try:
        return Path(file).read_bytes(), file
    except OSError as e:
        raise Unreadable(f"{file}: {e.strerror}") from None


def check(key: str, value: bytes, name: str) -> list[str]:
    """What is odd in a value that fastnl takes; `name`: of its file.  Raises Rejected."""
    found = parsed(key)
    if found is None:
        known = "\n".join(f"  {ROOT}<label>/{start}…" for start in PREFIXES.values())
        raise Rejected(f"{key}: fastnl reads nothing there. What it reads is\n{known}", field="key")
    return check_parsed(found, value, name)


def check_parsed(key: Key, value: bytes, name: str) -> list[str]:
    """The same for a key that is one of configuration."""
    from fastnl_engine.northbound.ligato.decode import decode
    from fastnl_engine.northbound.ligato.text import DecodeError

    try:
        decoded = decode(key, value)
    except DecodeError as e:
        if e.field == "key":
            raise Rejected(f"{key.text}: {e.problem}", field="key") from None
        at = f"{name}, line {e.line}, column {e.column}: " if e.line else f"{name}: "
        place = {"line": e.line, "column": e.column} if e.line else {}
        raise Rejected(at + e.message, field=e.field, **place) from None
    if decoded.value is None:
        raise Rejected(f"{name}: is no AF_PACKET interface, and fastnl reads no other of VPP", field="type")
    return [f"{name}, line {r.line}, column {r.column}: {r.field}: {r.problem}" for r in decoded.remarks]
