"""JSON text: its value, and where in it a field stands, so that an error can name line and column."""

from __future__ import annotations

import json
import re
from typing import Any

from fastnl import InvalidValue

Path = tuple[str | int, ...]

MAX_BYTES = 1 << 20
_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


class DecodeError(InvalidValue):
    """A value that cannot be configuration.

    field          its path, "" for the text as a whole; problem: without field and place
    line, column   from 1; 0: not known
    """

    def __init__(self, field: str, problem: str, line: int = 0, column: int = 0) -> None:
        super().__init__(field or "value", problem)
        self.field = field
        self.line = line
        self.column = column

    def __str__(self) -> str:
        return f"{self.message}{_place(self.line, self.column)}"

    def __reduce__(self) -> tuple[type, tuple[str, str, int, int]]:  # type: ignore[override]
        return type(self), (self.field, self.problem, self.line, self.column)


def _place(line: int, column: int) -> str:
    return f" (line {line}, column {column})" if line else ""


def fold(name: str) -> str:
    """One spelling for snake_case, camelCase, what Go takes for the same, and hyphens."""
    return name.lower().replace("_", "").replace("-", "")


def parse_object(value: bytes) -> tuple[str, dict[str, Any]]:
    """The text and the JSON object in it.  Raises DecodeError with line and column."""
    if len(value) > MAX_BYTES:
        raise DecodeError("", f"has {len(value)} bytes; the limit is {MAX_BYTES}")
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as e:
        before = value[: e.start].decode()
        raise DecodeError("", "is not UTF-8", *line_column(before, len(before))) from None
    try:
        obj = json.loads(text)
    except json.JSONDecodeError as e:
        raise DecodeError("", f"is not JSON: {e.msg}", e.lineno, e.colno) from None
    except RecursionError:
        raise DecodeError("", "is nested too deeply") from None
    except ValueError:  # Python's own limit, which keeps reading from taking minutes
        raise DecodeError("", "holds a number of thousands of digits") from None
    if not isinstance(obj, dict):
        raise DecodeError("", "must be a JSON object, { … }", *line_column(text, _skip(text, 0)))
    return text, obj


def line_column(text: str, position: int) -> tuple[int, int]:
    """Both from 1."""
    return text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)


def locate(text: str, path: Path) -> tuple[int, int]:
    """Line and column of the value at `path` in JSON text that parses, or of what should hold it.

    Names in the path are compared folded.
    """
    position = _skip(text, 0)
    for step in path:
        try:
            inner = _member(text, position, step)
        except RecursionError:  # its sibling is nested as deeply as can just be read
            break
        if inner is None:
            break
        position = inner
    return line_column(text, position)


def _skip(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _member(text: str, position: int, step: str | int) -> int | None:
    """Where the member of the object or array at `position` begins; the last one of that name, as parsers do."""
    opening = text[position : position + 1]
    if opening != ("[" if isinstance(step, int) else "{"):
        return None
    found, index = None, 0
    position = _skip(text, position + 1)
    while text[position] not in "]}":
        if opening == "{":
            name, position = _DECODER.raw_decode(text, position)
            position = _skip(text, _skip(text, position) + 1)  # over the colon
            if fold(name) == step:
                found = position
        elif index == step:
            return position
        _, position = _DECODER.raw_decode(text, position)
        position = _skip(text, position)
        if text[position] == ",":
            position = _skip(text, position + 1)
        index += 1
    return found
