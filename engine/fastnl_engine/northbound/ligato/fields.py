"""The fields of one JSON object, read tolerantly: any spelling of a name, null for absent, names for enums."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fastnl_engine.northbound.ligato.text import Path, fold

Say = Callable[[Path, str], None]


class Bad(Exception):
    """A field that cannot be; the path is folded for the place, `field` as it is documented."""

    def __init__(self, path: tuple[str | int, ...], problem: str) -> None:
        super().__init__(problem)
        self.path = path
        self.problem = problem


class Names:
    """The fields that a message has, by every spelling."""

    def __init__(self, *names: str, **aliases: str) -> None:
        self._spelled = {name: name for name in names} | {fold(name): name for name in names}
        self._spelled |= aliases | {fold(alias): name for alias, name in aliases.items()}

    def get(self, raw: str) -> str | None:
        return self._spelled.get(raw) or self._spelled.get(fold(raw))


class Fields:
    """`say` is told of what is odd but no error."""

    __slots__ = ("_got", "_path", "_say")

    def __init__(self, obj: dict[str, Any], names: Names, path: Path, say: Say) -> None:
        self._got: dict[str, Any] = {}
        self._path = path
        self._say = say
        for raw, value in obj.items():
            name = names.get(raw)
            if name is None:
                say((*path, raw), "is no field here: ignored")
                continue
            if "-" in raw:
                say((*path, raw), f"is spelled with hyphens: taken for {name}")
            if value is None:
                continue
            if name in self._got:
                say((*path, raw), f"is {name} once more: the last one counts")
            self._got[name] = value

    def __contains__(self, name: str) -> bool:
        return name in self._got

    def bad(self, name: str, problem: str, *more: int) -> Bad:
        return Bad((*self._path, name, *more), problem)

    def text(self, name: str) -> str:
        value = self._got.get(name, "")
        if not isinstance(value, str):
            raise self.bad(name, f"must be text, not {_shown(value)}")
        return value

    def texts(self, name: str) -> list[str]:
        value = self._got.get(name, [])
        if isinstance(value, str):
            self._say((*self._path, name), "is one text, not a list: taken for a list of one")
            return [value]
        if not isinstance(value, list):
            raise self.bad(name, f"must be a list of texts, not {_shown(value)}")
        for i, entry in enumerate(value):
            if not isinstance(entry, str):
                raise self.bad(name, f"must be text, not {_shown(entry)}", i)
        return value

    def flag(self, name: str) -> bool:
        value = self._got.get(name, False)
        if not isinstance(value, bool):
            raise self.bad(name, f"must be true or false, not {_shown(value)}")
        return value

    def number(self, name: str, most: int = 0xFFFFFFFF) -> int:
        value = self._got.get(name, 0)
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
            value = int(value)  # protojson writes and reads numbers in quotes, too
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.bad(name, f"must be a whole number, not {_shown(value)}")
        if not 0 <= value <= most:
            raise self.bad(name, f"{_shown(value)} is not between 0 and {most}")
        return value

    def choice(self, name: str, numbers: Mapping[int, str], names: Mapping[str, str]) -> str | None:
        """An enum: by number, or by name in any case; None without the field."""
        value = self._got.get(name)
        if value is None:
            return None
        if isinstance(value, str):
            if value.isascii() and value.isdigit() and len(value) < 10:
                value = int(value)
            else:
                found = names.get(value.upper().replace("-", "_"))
                if found is not None:
                    return found
        if isinstance(value, int) and not isinstance(value, bool) and value in numbers:
            return numbers[value]
        known = ", ".join(f"{word} ({number})" for number, word in numbers.items())
        raise self.bad(name, f"{_shown(value)} is none of {known}")

    def is_object(self, name: str) -> bool:
        return isinstance(self._got.get(name), dict)

    def message(self, name: str, names: Names) -> Fields:
        """A nested object; without the field, one without fields."""
        value = self._got.get(name, {})
        if not isinstance(value, dict):
            raise self.bad(name, f"must be an object, not {_shown(value)}")
        return Fields(value, names, (*self._path, name), self._say)

    def flatten(self, name: str, names: Names) -> None:
        """Takes what a nested object has as if it stood here."""
        if name in self._got:
            self._say((*self._path, name), "should not be there: its contents belong one level up; taken all the same")
            self._got = {**self.message(name, names)._got, **self._got}


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if value is True or value is False:
        return "true" if value else "false"
    text = repr(value) if not isinstance(value, int) or value.bit_length() < 256 else "a number that large"
    return text if len(text) <= 60 else text[:57] + "…"
