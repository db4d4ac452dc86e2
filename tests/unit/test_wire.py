"""Frames become requests, or an error that says which field is at fault and belongs to the right request."""

from __future__ import annotations

from typing import Any

import msgpack
import msgspec
import pytest

from fastnl_engine import wire
from fastnl_engine.wire import MAX_FRAME, MAX_ITEMS, ProtocolError

PAIR = {
    "id": "c1",
    "kind": "veth",
    "a": {"netns": "blue", "ifname": "e0"},
    "b": {"netns": "red", "ifname": "e0"},
}


def frame(**fields: Any) -> bytes:
    return msgpack.packb({"v": 1, "id": 7, "op": "info", **fields})


def refused(raw: bytes) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        wire.decode(raw)
    return caught.value


# -- what is taken ---------------------------------------------------------------------------------


def test_each_op_becomes_a_request_of_its_own_with_the_defaults_of_the_protocol():
    connect = wire.decode(frame(op="connect", connections=[PAIR]))
    assert isinstance(connect, wire.Connect)
    assert (connect.id, connect.wait, len(connect.connections)) == (7, False, 1)
    disconnect = wire.decode(frame(op="disconnect", ids=["c1", "c2"]))
    assert isinstance(disconnect, wire.Disconnect)
    assert [wire.decode_text(raw) for raw in disconnect.ids] == ["c1", "c2"]
    move = wire.decode(frame(op="move", moves=[{"id": "c1", "end": "b", "netns": "green"}]))
    assert isinstance(move, wire.Move)
    assert wire.decode_move(move.moves[0]) == wire.MoveSpec("c1", "b", "green", "move")
    listing = wire.decode(frame(op="list"))
    assert isinstance(listing, wire.List)
    assert (listing.ids, listing.netns, listing.state, listing.labels) == (None, None, None, None)
    assert (listing.limit, listing.after) == (10_000, None)
    for op, kind in (("verify", wire.Verify), ("stats", wire.Stats)):
        query = wire.decode(frame(op=op))
        assert isinstance(query, kind)
        assert query.ids is None
    events = wire.decode(frame(op="events"))
    assert isinstance(events, wire.EventsSince)
    assert (events.since, events.limit) == (0, 1_000)
    assert isinstance(wire.decode(frame(op="info")), wire.Info)


@pytest.mark.parametrize("id_", ["", "one", "x" * 200, 0, -5, 2**63, 2**64 - 1, b"", b"\x00\xff", None])
def test_an_id_of_text_bytes_or_a_number_comes_back_as_it_was(id_):
    request = wire.decode(frame(id=id_))
    assert request.id == id_ and type(request.id) is type(id_)
    reply = msgpack.unpackb(wire.reply(request.id, []))
    assert reply == {"v": 1, "id": id_, "ok": True, "results": []}


def test_a_request_without_an_id_is_served_and_answered_without_one():
    request = wire.decode(msgpack.packb({"v": 1, "op": "info"}))
    assert request.id is None


def test_a_field_that_this_version_does_not_know_is_passed_over():
    # so that a newer client can talk to an older engine
    assert isinstance(wire.decode(frame(op="info", since="v1.7", more=[1, {"x": None}])), wire.Info)


def test_the_largest_request_is_taken_and_one_item_more_is_too_large():
    assert len(wire.decode(frame(op="disconnect", ids=["c"] * MAX_ITEMS)).ids) == MAX_ITEMS
    for op, field, item in (
        ("connect", "connections", PAIR),
        ("disconnect", "ids", "c"),
        ("move", "moves", {}),
        ("list", "ids", "c"),
        ("verify", "ids", "c"),
        ("stats", "ids", "c"),
    ):
        error = refused(frame(op=op, **{field: [item] * (MAX_ITEMS + 1)}))
        assert (error.code, error.field, error.id) == ("too_large", field, 7)


def test_a_frame_over_the_limit_is_refused_before_it_is_decoded():
    error = refused(b"\xff" * (MAX_FRAME + 1))
    assert error.code == "too_large"
    assert str(MAX_FRAME) in error.message and str(MAX_FRAME + 1) in error.message
    # up to the limit the bytes are looked at
    assert refused(b"\xff" * MAX_FRAME).code == "bad_request"


# -- what is refused -------------------------------------------------------------------------------


NOT_A_REQUEST = {
    "nothing": b"",
    "the byte that msgpack never uses": b"\xc1",
    "text": msgpack.packb("connect"),
    "a number": msgpack.packb(1),
    "nil": msgpack.packb(None),
    "a list": msgpack.packb([1, "id", "info"]),
    "a map cut off": frame()[:-3],
    "two requests in one frame": frame() + frame(),
    "keys that are numbers": msgpack.packb({1: 1}),
    "text that is not UTF-8": b"\x81\xa1v\xa2\xff\xfe",
    "a map that claims four billion entries": b"\xdf\xff\xff\xff\xff",
    "a list that claims four billion items": b"\x81\xa1v\xdd\xff\xff\xff\xff",
    "text that claims four gigabytes": b"\x81\xa1v\xdb\xff\xff\xff\xff",
    "bytes that claim four gigabytes": b"\x81\xa1v\xc6\xff\xff\xff\xff",
    "an extension that claims four gigabytes": b"\x81\xa1v\xc9\xff\xff\xff\xff\x01",
    "JSON": b'{"v":1,"id":1,"op":"info"}',
    "lists in lists, ten thousand deep": b"\x81\xa1v" + b"\x91" * 10_000 + b"\xc0",
    "maps in maps, ten thousand deep": b"\x81\xa1v" + b"\x81\xa1v" * 10_000 + b"\xc0",
    "depth in a field that nobody asked for": b"\x81\xa1x" + b"\x91" * 10_000 + b"\xc0",
}


@pytest.mark.parametrize("raw", NOT_A_REQUEST.values(), ids=NOT_A_REQUEST.keys())
def test_bytes_that_are_no_msgpack_map_are_a_bad_request(raw):
    error = refused(raw)
    assert (error.code, error.id) == ("bad_request", None)
    assert msgpack.unpackb(wire.refuse(error))["error"]["message"]


@pytest.mark.parametrize("version", [0, 2, -1, "1", None, True, 1.0, 1.5, [1], {"v": 1}, b"\x01"])
def test_another_version_is_refused_with_the_id_of_the_request(version):
    error = refused(frame(v=version))
    assert (error.code, error.field, error.id) == ("unsupported_version", "v", 7)
    assert "version 1" in error.message


def test_a_missing_version_is_refused():
    assert refused(msgpack.packb({"id": "x", "op": "info"})).code == "unsupported_version"


@pytest.mark.parametrize("depth", [100, 500, 900])
def test_a_deep_value_where_a_word_belongs_is_refused_without_being_printed(depth):
    deep = b"\x91" * depth + b"\xc0"
    for raw in (b"\x81\xa1v" + deep, b"\x83\xa1v\x01\xa2id\x07\xa2op" + deep, b"\x82\xa1v\x01\xa2id" + deep):
        error = refused(raw)
        assert error.code in ("unsupported_version", "unknown_op", "bad_request")
        assert len(error.message) < 200


@pytest.mark.parametrize("op", ["", "CONNECT", "connect ", "destroy", "x" * 10_000, None, 1, True, ["connect"], {}])
def test_an_unknown_op_is_refused_with_the_ops_that_there_are(op):
    error = refused(frame(op=op))
    assert (error.code, error.field, error.id) == ("unknown_op", "op", 7)
    assert ", ".join(wire.OPS) in error.message
    assert len(error.message) < 200


@pytest.mark.parametrize(
    "id_", [1.5, True, False, [1], {"a": 1}, "x" * 201, b"x" * 201, msgpack.ExtType(5, b"x"), msgpack.Timestamp(0)]
)
def test_an_id_of_another_kind_is_refused_and_not_repeated(id_):
    error = refused(frame(id=id_))
    assert (error.code, error.field, error.id) == ("bad_request", "id", None)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"op": "connect"}, ""),
        ({"op": "connect", "connections": PAIR}, "connections"),
        ({"op": "connect", "connections": None}, "connections"),
        ({"op": "connect", "connections": [], "wait": 1}, "wait"),
        ({"op": "connect", "connections": [], "wait": None}, "wait"),
        ({"op": "disconnect"}, ""),
        ({"op": "disconnect", "ids": "c1"}, "ids"),
        ({"op": "move", "moves": {}}, "moves"),
        ({"op": "list", "ids": [1]}, "ids[0]"),
        ({"op": "list", "ids": ["c1", None]}, "ids[1]"),
        ({"op": "list", "netns": 1}, "netns"),
        ({"op": "list", "state": "sideways"}, "state"),
        ({"op": "list", "labels": {"a": 1}}, "labels[...]"),
        ({"op": "list", "labels": ["a"]}, "labels"),
        ({"op": "list", "limit": 0}, "limit"),
        ({"op": "list", "limit": 10_001}, "limit"),
        ({"op": "list", "limit": "all"}, "limit"),
        ({"op": "list", "after": 5}, "after"),
        ({"op": "verify", "ids": "c1"}, "ids"),
        ({"op": "stats", "ids": [b"c1"]}, "ids[0]"),
        ({"op": "events", "since": -1}, "since"),
        ({"op": "events", "limit": 10_001}, "limit"),
    ],
)
def test_a_field_of_the_wrong_type_is_a_bad_request_that_names_its_path(fields, field):
    error = refused(frame(**fields))
    assert (error.code, error.field, error.id) == ("bad_request", field, 7)
    if field:
        assert error.message.startswith(f"{field}: ")


# -- items and replies -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "id_"),
    [
        (PAIR, "c1"),
        ({"id": "c1", "kind": 5}, "c1"),
        ({"id": 5}, None),
        ({}, None),
        ("c1", "c1"),
        (5, None),
        ([1], None),
        (None, None),
    ],
)
def test_the_id_of_a_broken_item_is_found_where_it_can_be(item, id_):
    assert wire.id_in(msgspec.Raw(msgpack.packb(item))) == id_


def test_the_id_of_an_item_that_cannot_be_decoded_is_none():
    assert wire.id_in(msgspec.Raw(b"\x81\xa2id\xa2\xff\xfe")) is None
    assert wire.id_in(msgspec.Raw(b"\x91" * 5000 + b"\xc0")) is None


@pytest.mark.parametrize(
    ("move", "field"),
    [
        ({"id": "c", "end": "c", "netns": "x"}, "end"),
        ({"id": "c", "end": "a", "netns": None}, "netns"),
        ({"id": "c", "end": "a", "netns": "x", "mode": "copy"}, "mode"),
        ({"id": 1, "end": "a", "netns": "x"}, "id"),
        ({"id": "c", "end": "a", "netns": "x", "wait": True}, ""),
    ],
)
def test_a_move_with_a_bad_field_says_which(move, field):
    with pytest.raises(msgspec.ValidationError) as caught:
        wire.decode_move(msgspec.Raw(msgpack.packb(move)))
    assert wire.explain(caught.value)[0] == field


def test_a_reply_is_ok_only_when_every_item_is():
    good, bad = {"id": "a", "ok": True}, {"id": "b", "ok": False, "error": {"code": "kernel", "message": "no"}}
    assert msgpack.unpackb(wire.reply("r", [good, good]))["ok"] is True
    assert msgpack.unpackb(wire.reply("r", [good, bad]))["ok"] is False
    assert msgpack.unpackb(wire.reply("r", [], after="x")) == {
        "v": 1, "id": "r", "ok": True, "results": [], "after": "x",
    }  # fmt: skip


def test_a_refusal_carries_the_error_in_place_of_results():
    reply = msgpack.unpackb(wire.refuse(ProtocolError("unknown_op", "op: no", b"\x01", "op")))
    assert reply == {
        "v": 1, "id": b"\x01", "ok": False, "error": {"code": "unknown_op", "message": "op: no", "field": "op"},
    }  # fmt: skip
