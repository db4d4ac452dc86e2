"""From an item of a request to a job, and from what is wrong with it to an error with its field."""

from __future__ import annotations

from typing import Any

import msgspec

import fastnl
from fastnl import netns
from fastnl_engine import wire
from fastnl_engine.model import check_reach, decode_connection, encode, values_of
from fastnl_engine.planner import Job

# what the functions below raise for an item that cannot be
ITEM_ERRORS = (fastnl.FastnlError, msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError)


def connect_job(raw: msgspec.Raw, wait: bool, *, fleet: bool = False) -> Job:
    """fleet: whether this engine is in one; then ends that name hosts are its business."""
    connection = decode_connection(raw)
    if fleet and (connection.a.host or (connection.b is not None and connection.b.host)):
        return Job("pass", connection.id, connection, wait=wait)
    values = values_of(connection)
    check_reach(connection)
    return Job("connect", connection.id, connection, values, encode(connection), wait=wait)


def disconnect_job(raw: msgspec.Raw) -> Job:
    return Job("disconnect", wire.decode_text(raw))


def move_job(raw: msgspec.Raw) -> Job:
    move = wire.decode_move(raw)
    netns.check_reach(move.netns, f"{move.end}.netns")
    return Job("move", move.id, move=move)


def item_error(e: Exception) -> dict[str, Any]:
    if isinstance(e, fastnl.FastnlError):
        return e.as_dict()
    field, problem = wire.explain(e)
    error: dict[str, Any] = {"code": "invalid", "message": f"{field}: {problem}" if field else problem}
    return error | {"field": field} if field else error
