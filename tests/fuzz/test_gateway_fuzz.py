"""Any byte string to the gateway gives exactly one reply, and never harms the engine.

What decodes frames is tried in this process with thousands of examples; a smaller number goes to a real
engine, where also the counting of replies is put to the test.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastnl
from fastnl.testing import PATIENCE, Census, Namespaces
from fastnl_engine import wire
from fastnl_engine.client import Client
from fastnl_engine.jobs import connect_job, disconnect_job, item_error, move_job
from fastnl_engine.testing import EngineProcess, RawSocket

CODES = {
    "bad_request", "unsupported_version", "unknown_op", "too_large", "invalid", "conflict", "netns_not_found",
    "netns_gone", "ifname_in_use", "vni_in_use", "no_permission", "forbidden", "busy", "kernel", "unknown_id",
    "shutting_down",
}  # fmt: skip

# -- frames ----------------------------------------------------------------------------------------

# what msgpack can say, with the words of the protocol among it; no reference that leads out of the test's namespaces
WORDS = st.sampled_from([
    "v", "id", "op", "connections", "ids", "moves", "wait", "kind", "veth", "vxlan", "a", "b", "netns", "ifname",
    "addresses", "mtu", "mac", "routes", "to", "via", "neighbours", "ip", "labels", "vni", "remote", "local", "port",
    "limit", "after", "state", "end", "mode", "since", "blue", "red", "", "e0", "e1", "10.0.0.1/24", "fd00::1/64",
    "02:00:00:00:00:01", "up", "move", "recreate", "connect", "disconnect", "list", "verify", "stats", "info", "events",
])  # fmt: skip
NUMBERS = st.one_of(st.integers(-(2**63), 2**64 - 1), st.sampled_from([0, 1, 2, -1, 68, 1500, 65535, 65536, 2**24]))
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    st.floats(),
    WORDS,
    st.text(max_size=20).filter(lambda t: ":" not in t),
    st.binary(max_size=20),
    st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20)),
    st.datetimes(timezones=st.just(None)).map(lambda t: msgpack.Timestamp(t.year, t.microsecond)),
)
KEYS = st.one_of(WORDS, st.text(max_size=5), NUMBERS, st.binary(max_size=5), st.none())
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=6), st.dictionaries(KEYS, inner, max_size=6)),
    max_leaves=25,
)

NETNS = st.sampled_from(["", "blue", "red", "nowhere", "name:blue"])
IFNAME = st.sampled_from([f"fz{n}" for n in range(6)])
ADDRESS = st.sampled_from(["10.66.0.1/24", "10.66.0.2/24", "fd66::1/64", "10.66.0.1", "nonsense"])
ID = st.sampled_from([f"f{n}" for n in range(6)])
END = st.fixed_dictionaries(
    {"netns": NETNS, "ifname": IFNAME},
    optional={
        "addresses": st.lists(ADDRESS, max_size=3),
        "mtu": st.sampled_from([67, 68, 1400, 9000]),
        "mac": st.sampled_from(["02:00:00:00:00:01", "01:00:00:00:00:01"]),
        "routes": st.lists(
            st.fixed_dictionaries(
                {"to": st.sampled_from(["10.67.0.0/16", "fd67::/64"])},
                optional={"via": st.sampled_from(["10.66.0.2", "192.0.2.1"]), "metric": st.integers(0, 5)},
            ),
            max_size=2,
        ),
        "neighbours": st.lists(st.just({"ip": "10.66.0.9", "mac": "02:00:00:00:00:09"}), max_size=2),
        "queues": st.integers(0, 2),
    },
)
PAIR = st.fixed_dictionaries(
    {"id": ID, "kind": st.just("veth"), "a": END, "b": END},
    optional={"mtu": st.sampled_from([68, 1400]), "labels": st.dictionaries(st.text(max_size=3), st.text(max_size=3))},
)
TUNNEL = st.fixed_dictionaries(
    {
        "id": ID,
        "kind": st.just("vxlan"),
        "a": END,
        "vxlan": st.fixed_dictionaries(
            {"vni": st.sampled_from([1, 2, 2**24])},
            optional={
                "remote": st.sampled_from(["192.0.2.1", "fd66::9"]),
                "underlay": NETNS,
                "ttl": st.just("inherit"),
            },
        ),
    }
)
MOVE = st.fixed_dictionaries(
    {"id": ID, "end": st.sampled_from("ab"), "netns": NETNS}, optional={"mode": st.sampled_from(["move", "recreate"])}
)
OPS = st.one_of(
    st.fixed_dictionaries(
        {"op": st.just("connect"), "connections": st.lists(st.one_of(PAIR, TUNNEL), max_size=4)},
        optional={"wait": st.booleans()},
    ),
    st.fixed_dictionaries({"op": st.just("disconnect"), "ids": st.lists(ID, max_size=4)}),
    st.fixed_dictionaries({"op": st.just("move"), "moves": st.lists(MOVE, max_size=2)}),
    st.fixed_dictionaries(
        {"op": st.just("list")},
        optional={"ids": st.lists(ID), "netns": NETNS, "limit": st.integers(1, 5), "after": ID},
    ),
    st.fixed_dictionaries({"op": st.sampled_from(["verify", "stats"])}, optional={"ids": st.lists(ID, max_size=3)}),
    st.fixed_dictionaries({"op": st.just("events")}, optional={"since": st.integers(0, 50)}),
    st.just({"op": "info"}),
)
VALID = st.builds(lambda id_, op: {"v": 1, "id": id_, **op}, st.one_of(st.integers(0, 9), st.text(max_size=5)), OPS)


@st.composite
def misplaced(draw: st.DrawFn) -> bytes:
    """A valid request with one value somewhere in it replaced by anything at all."""
    request = draw(VALID)
    where: Any = request
    while True:
        key = draw(st.sampled_from(sorted(where)) if isinstance(where, dict) else st.integers(0, len(where) - 1))
        if isinstance(where[key], (dict, list)) and where[key] and draw(st.booleans()):
            where = where[key]
            continue
        where[key] = draw(VALUES)
        return packed(request)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """The bytes of a valid request with a few of them changed, cut out, put in or doubled."""
    frame = bytearray(packed(draw(VALID)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(frame)))
        how = draw(st.integers(0, 3))
        if how == 0 and at < len(frame):
            frame[at] = draw(st.integers(0, 255))
        elif how == 1:
            frame[at:at] = draw(st.binary(min_size=1, max_size=9))
        elif how == 2:
            del frame[at : at + draw(st.integers(1, 20))]
        else:
            frame[at:at] = frame[at : at + 30]
    return bytes(frame)


def packed(value: Any) -> bytes:
    return msgpack.packb(value, unicode_errors="surrogatepass")


FRAMES = st.one_of(
    st.binary(max_size=200),
    VALUES.map(packed),
    st.dictionaries(KEYS, VALUES, max_size=6).map(lambda d: packed({"v": 1, "id": 1, "op": "connect", **d})),
    misplaced(),
    mutated(),
    VALID.map(packed),
)

# -- in this process -------------------------------------------------------------------------------


def answer(frame: bytes) -> bytes | None:
    """What the gateway makes of a frame before anything is done: a refusal, or None for a request it takes.

    Every item of such a request becomes a job or an error of its own.
    """
    try:
        request = wire.decode(frame)
    except wire.ProtocolError as e:
        return wire.refuse(e)
    makers: list[tuple[list[msgspec.Raw], Any]] = []
    match request:
        case wire.Connect():
            makers = [(request.connections, lambda raw: connect_job(raw, request.wait))]
        case wire.Disconnect():
            makers = [(request.ids, disconnect_job)]
        case wire.Move():
            makers = [(request.moves, move_job)]
    for items, make in makers:
        for raw in items:
            try:
                job = make(raw)
            except (fastnl.FastnlError, msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError) as e:
                error = item_error(e)
                assert error["code"] == "invalid" and error["message"]
                wire.encode({"id": wire.id_in(raw), "error": error})
            else:
                assert isinstance(job.id, str)
    return None


def check_refusal(reply: bytes) -> None:
    said = msgpack.unpackb(reply, strict_map_key=False)
    assert set(said) == {"v", "id", "ok", "error"}
    assert (said["v"], said["ok"]) == (1, False)
    assert said["error"]["code"] in CODES
    assert 0 < len(said["error"]["message"]) < 1000


@settings(max_examples=3000)
@given(st.binary(max_size=400))
def test_any_bytes_are_refused_with_a_reply_or_are_a_request(frame):
    reply = answer(frame)
    if reply is not None:
        check_refusal(reply)


@settings(max_examples=3000)
@given(FRAMES)
def test_anything_that_msgpack_can_say_is_refused_with_a_reply_or_is_a_request(frame):
    reply = answer(frame)
    if reply is not None:
        check_refusal(reply)


@settings(max_examples=300)
@given(st.integers(1, 200_000), st.sampled_from([b"\x91", b"\x81\xa1a", b"\x81\xa2id", b"\xdc\x00\x01"]), FRAMES)
def test_any_depth_in_any_field_is_refused_with_a_reply_or_is_a_request(depth, nest, tail):
    for before in (b"", b"\x81\xa1v", b"\x83\xa1v\x01\xa2op\xa7connect\xabconnections\x91", b"\x82\xa1v\x01\xa2id"):
        reply = answer(before + nest * depth + tail)
        if reply is not None:
            check_refusal(reply)


# -- a real engine ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    folder = Path(tempfile.mkdtemp(prefix="fastnl-"))
    with EngineProcess(folder, instance="fuzz") as engine:
        yield engine
    shutil.rmtree(folder)


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="makes real interfaces, which needs root")
def test_an_engine_answers_every_frame_once_and_lives_and_leaves_nothing(engine, nothing_left):
    before = Census.take().interfaces
    with Namespaces() as rooms:
        rooms.make("blue")
        rooms.make("red")
        raw = RawSocket(engine.endpoint)

        @settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
        @given(st.lists(FRAMES, min_size=1, max_size=12))
        def every_frame_has_its_answer(frames: list[bytes]) -> None:
            for frame in frames:
                raw.send(frame)
            replies = [raw.reply() for _ in frames]
            # whatever else there is would come before the answer to this one, or after it with the next example
            raw.ask(id="the end", op="disconnect", ids=["nobody"])
            assert raw.reply() == {
                "v": 1, "id": "the end", "ok": True, "results": [{"id": "nobody", "ok": True, "changed": False}],
            }  # fmt: skip
            for reply in replies:
                check_reply(reply)
            assert Counter(map(id_of, frames)) >= Counter(repr(r["id"]) for r in replies if r["id"] is not None)

        try:
            every_frame_has_its_answer()
        finally:
            raw.close()
        assert engine.running, engine.log
        with Client(engine.endpoint, timeout=PATIENCE) as client:
            assert all(v["ok"] for v in client.verify([row["id"] for row in client.list(state="up")]))
            client.disconnect([row["id"] for row in client.list()])
            assert client.info()["connections"] == {}
    assert Census.take().interfaces == before


class Head(msgspec.Struct):
    id: Any = None


def id_of(frame: bytes) -> str:
    """The id that a frame carries, whatever the rest of it is; what no reply repeats if there is none to read."""
    try:
        return repr(msgspec.msgpack.decode(frame, type=Head).id)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return "None"


def check_reply(reply: dict[str, Any]) -> None:
    assert reply["v"] == 1
    if "error" in reply:
        assert reply["ok"] is False and set(reply) == {"v", "id", "ok", "error"}
        assert reply["error"]["code"] in CODES, reply
        return
    assert reply["ok"] == all(r["ok"] for r in reply["results"])
    for result in reply["results"]:
        assert result["ok"] or result.get("error", {}).get("code", "invalid") in CODES, result
