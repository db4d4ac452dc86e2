"""The protocol of docs/protocol.md: one frame of msgpack in, one out.

Sizes are checked before anything is decoded.  The items of a request are decoded one by one, so that a
bad one fails alone.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

VERSION = 1
MAX_FRAME = 16 << 20  # bytes of one request
MAX_ITEMS = 10_000  # connections, ids or moves of one request
MAX_ID = 200  # characters of a request's id
MAX_KEY = 4096  # characters of a key or prefix
MAX_VALUE = 1 << 20  # bytes of a value
MAX_WAIT = 60  # seconds that a watch may wait

RequestId = str | int | bytes | None
Items = Annotated[list[msgspec.Raw], msgspec.Meta(max_length=MAX_ITEMS)]
Ids = Annotated[list[str], msgspec.Meta(max_length=MAX_ITEMS)]


class ProtocolError(Exception):
    """A request that cannot be served; `id` is whatever could be read of its id."""

    def __init__(self, code: str, message: str, id: RequestId = None, field: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.id = id
        self.field = field

    def as_dict(self) -> dict[str, str]:
        out = {"code": self.code, "message": self.message}
        if self.field:
            out["field"] = self.field
        return out


class _Head(msgspec.Struct):
    v: Any = None
    id: Any = None
    op: Any = None


class Connect(msgspec.Struct, kw_only=True):
    id: Any = None  # a RequestId: msgspec has no union of text and bytes, so decode looks at it
    connections: Items
    wait: bool = False


class Disconnect(msgspec.Struct, kw_only=True):
    id: Any = None
    ids: Items


class MoveSpec(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    end: Literal["a", "b"]
    netns: str
    mode: Literal["move", "recreate"] = "move"


class Move(msgspec.Struct, kw_only=True):
    id: Any = None
    moves: Items


class List(msgspec.Struct, kw_only=True):
    id: Any = None
    ids: Ids | None = None
    netns: str | None = None
    state: Literal["up", "pending", "failed", "removing", "degraded"] | None = None
    labels: dict[str, str] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 10_000
    after: str | None = None


class Verify(msgspec.Struct, kw_only=True):
    id: Any = None
    ids: Ids | None = None


class Stats(msgspec.Struct, kw_only=True):
    id: Any = None
    ids: Ids | None = None


class EventsSince(msgspec.Struct, kw_only=True):
    id: Any = None
    since: Annotated[int, msgspec.Meta(ge=0)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1_000


class Info(msgspec.Struct, kw_only=True):
    id: Any = None


KeyText = Annotated[str, msgspec.Meta(max_length=MAX_KEY)]


class Kv(msgspec.Struct, kw_only=True):
    """`value` is text or bytes, which msgspec cannot tell apart in a union; fastnl_engine.kv_requests looks at it."""

    id: Any = None
    action: Literal["get", "range", "put", "delete", "watch"]
    key: KeyText | None = None
    prefix: KeyText | None = None
    value: Any = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 10_000
    after: KeyText | None = None
    since: Annotated[int, msgspec.Meta(ge=0)] | None = None
    wait: Annotated[float, msgspec.Meta(ge=0, le=MAX_WAIT)] = 30.0


class Attend(msgspec.Struct, kw_only=True):
    id: Any = None
    consumer: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID)]
    done: Annotated[list[int], msgspec.Meta(max_length=MAX_ITEMS)] | None = None
    wait: Annotated[float, msgspec.Meta(ge=0, le=MAX_WAIT)] = 30.0
    leave: bool = False


class Fleet(msgspec.Struct, kw_only=True):
    id: Any = None
    action: Literal["hosts", "connections", "vnis", "remove"] = "hosts"
    host: Annotated[str, msgspec.Meta(max_length=MAX_ID)] | None = None
    force: bool = False
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1_000
    after: str | None = None


Request = Connect | Disconnect | Move | List | Verify | Stats | EventsSince | Info | Kv | Attend | Fleet

OPS: dict[str, type[Request]] = {
    "connect": Connect,
    "disconnect": Disconnect,
    "move": Move,
    "list": List,
    "verify": Verify,
    "stats": Stats,
    "events": EventsSince,
    "info": Info,
    "kv": Kv,
    "attend": Attend,
    "fleet": Fleet,
}
NAMES = {kind: op for op, kind in OPS.items()}
_decoders = {op: msgspec.msgpack.Decoder(kind) for op, kind in OPS.items()}
_head = msgspec.msgpack.Decoder(_Head)
_move = msgspec.msgpack.Decoder(MoveSpec)
_text = msgspec.msgpack.Decoder(str)
encode = msgspec.msgpack.Encoder().encode


def decode(frame: bytes) -> Request:
    """A request from its frame.  Raises ProtocolError and nothing else, whatever the bytes are."""
    if len(frame) > MAX_FRAME:
        raise ProtocolError("too_large", f"a request may have {MAX_FRAME} bytes, this one has {len(frame)}")
    try:
        head = _head.decode(frame)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError) as e:
        raise ProtocolError("bad_request", f"not a msgpack map: {e}") from None
    id_ = request_id(head.id)
    if type(head.v) is not int or head.v != VERSION:
        raise ProtocolError(
            "unsupported_version", f"v: {_short(head.v)}; this engine speaks version {VERSION}", id_, "v"
        )
    if head.id is not None and id_ is None:
        raise ProtocolError("bad_request", f"id: must be text, bytes or a number of at most {MAX_ID}", None, "id")
    if not isinstance(head.op, str) or head.op not in OPS:
        raise ProtocolError("unknown_op", f"op: {_short(head.op)} is none of {', '.join(OPS)}", id_, "op")
    try:
        return _decoders[head.op].decode(frame)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError) as e:
        field, problem = explain(e)
        code = "too_large" if "length <=" in problem else "bad_request"
        raise ProtocolError(code, f"{field}: {problem}" if field else problem, id_, field) from None


def name_of(request: Request) -> str:
    """What a request does: its op, and with keys what it does with them, such as "kv.put"."""
    match request:
        case Kv():
            return f"kv.{request.action}"
        case Fleet(action="remove"):
            return "fleet.remove"
    return NAMES[type(request)]


def request_id(value: Any) -> RequestId:
    if isinstance(value, (str, bytes)) and len(value) <= MAX_ID:
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return None


def explain(e: Exception) -> tuple[str, str]:
    """("a.mtu", "Expected `int`, got `str`") from msgspec's message, which ends in "- at `$.a.mtu`"."""
    text, _, where = str(e).partition(" - at `")
    return where.rstrip("`").removeprefix("key in ").removeprefix("$").removeprefix("."), text


def decode_move(raw: msgspec.Raw) -> MoveSpec:
    return _move.decode(raw)


def decode_text(raw: msgspec.Raw) -> str:
    return _text.decode(raw)


def id_in(raw: msgspec.Raw) -> str | None:
    """The id of an item that is otherwise broken, if it can be read."""
    try:
        value = msgspec.msgpack.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError):
        return None
    found = value.get("id") if isinstance(value, dict) else value
    return found if isinstance(found, str) else None


def reply(id_: RequestId, results: list[dict[str, Any]], **more: Any) -> bytes:
    ok = all(r["ok"] for r in results)
    return encode({"v": VERSION, "id": id_, "ok": ok, "results": results, **more})


def refuse(error: ProtocolError) -> bytes:
    return encode({"v": VERSION, "id": error.id, "ok": False, "error": error.as_dict()})


def _short(value: Any) -> str:
    """A value as it was sent, for a message; what may be large or deep is not printed."""
    if not isinstance(value, (str, bytes, int, float, type(None))):
        return f"of type {type(value).__name__}"
    text = repr(value[:60] if isinstance(value, (str, bytes)) else value)
    return text if len(text) <= 60 else text[:57] + "..."
