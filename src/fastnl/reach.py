"""From the names in a connection to what they mean now; an error says which field it was."""

from __future__ import annotations

import errno

from fastnl.errors import FastnlError, IfnameNotFound, InvalidValue
from fastnl.links import End
from fastnl.netns import Handles


def open_end(handles: Handles, end: End, field: str) -> int:
    """The namespace of an end; an error names the end."""
    return open_named(handles, end.netns, field + ".netns")


def open_named(handles: Handles, reference: str, field: str) -> int:
    try:
        return handles.open(reference)
    except FastnlError as e:
        problem = e.problem if isinstance(e, InvalidValue) else e.message
        if isinstance(e, InvalidValue):
            raise InvalidValue(field, problem) from None
        raise type(e)(f"{field}: {problem}", errno=e.errno, field=field) from None


def not_there(field: str, netns: str, ifname: str) -> IfnameNotFound:
    return IfnameNotFound(f"{field}: namespace {netns!r} has no interface {ifname!r}", errno=errno.ENODEV, field=field)
