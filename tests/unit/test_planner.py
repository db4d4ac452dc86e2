"""The planner: from what is wanted and what is known to one action, and who has which name and VNI."""

from __future__ import annotations

import copy
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnl import Conflict, InvalidValue, Place, VniInUse
from fastnl.netns import Identity
from fastnl_engine.model import Connection, Record, decode_connection, encode, values_of
from fastnl_engine.planner import Action, Claims, Job, UnknownId, plan
from fastnl_engine.wire import MoveSpec

PLACES = (Place(11, Identity(1, 1)), Place(12, Identity(2, 2)))


def pair(id: str = "c1", a: str = "blue/e0", b: str = "red/e0", **fields: Any) -> Connection:
    """A veth connection; an end is "namespace/interface"."""
    ends = {name: dict(zip(("netns", "ifname"), end.split("/"), strict=True)) for name, end in (("a", a), ("b", b))}
    return decode_connection(msgpack.packb({"id": id, "kind": "veth", **ends, **fields}))


def tunnel(id: str = "v1", a: str = "blue/vx0", vni: int = 42, **vxlan: Any) -> Connection:
    end = dict(zip(("netns", "ifname"), a.split("/"), strict=True))
    return decode_connection(msgpack.packb({"id": id, "kind": "vxlan", "a": end, "vxlan": {"vni": vni, **vxlan}}))


def connect(connection: Connection, **more: Any) -> Job:
    return Job("connect", connection.id, connection, values_of(connection), encode(connection), **more)


def disconnect(id: str = "c1") -> Job:
    return Job("disconnect", id)


def move(id: str, end: str, netns: str, mode: str = "move") -> Job:
    return Job("move", id, move=MoveSpec(id, end, netns, mode))


def known(connection: Connection, state: str = "up") -> Record:
    places = PLACES[: 1 if connection.b is None else 2] if state == "up" else ()
    return Record(connection.id, encode(connection), state, places)


def claimed(*connections: Connection) -> Claims:
    claims = Claims()
    for connection in connections:
        claims.take(connection)
    return claims


def holders(claims: Claims, *connections: Connection) -> list[bool]:
    """Whether each connection could be had by somebody else than the one that has it."""
    return [claims.refuse(c) is None for c in connections]


# -- connect ---------------------------------------------------------------------------------------


def test_what_is_not_known_is_created_and_claims_its_names():
    claims = Claims()
    job = connect(pair())
    action = plan(job, None, claims)
    assert (action.verb, action.spec, action.values, action.error) == ("create", job.spec, job.values, None)
    assert isinstance(claims.refuse(pair("c2")), Conflict)


def test_what_is_up_and_the_same_is_left_alone():
    record = known(pair())
    claims = claimed(pair())
    action = plan(connect(pair()), record, claims)
    assert (action.verb, action.error, action.record) == ("nothing", None, record)
    assert claims.refuse(pair()) is None


def test_the_order_in_which_fields_were_sent_makes_no_difference():
    forwards = {"id": "c", "kind": "veth", "a": {"netns": "x", "ifname": "e"}, "b": {"netns": "y", "ifname": "e"}}
    backwards = dict(reversed(forwards.items())) | {"a": {"ifname": "e", "netns": "x"}}
    one, other = (decode_connection(msgpack.packb(c)) for c in (forwards, backwards))
    assert plan(connect(other), known(one), claimed(one)).verb == "nothing"


@pytest.mark.parametrize(
    "changed",
    [
        pair(mtu=1400),
        pair(labels={"app": "x"}),
        pair(a="blue/e9"),
        pair(a="green/e0"),
        tunnel("c1"),
    ],
)
def test_what_is_up_and_differs_is_updated_from_what_is_wired(changed):
    record = known(pair())
    action = plan(connect(changed), record, claimed(pair()))
    assert action.verb == "update"
    assert action.wired is not None
    assert (action.wired.connection, action.wired.places) == (values_of(pair()), PLACES)
    assert action.values == values_of(changed)
    assert action.spec == encode(changed)


@pytest.mark.parametrize("state", ["pending", "failed"])
@pytest.mark.parametrize("wanted", [pair(), pair(mtu=1400)])
def test_what_is_known_and_not_up_is_created_even_if_it_is_the_same(state, wanted):
    action = plan(connect(wanted), known(pair(), state), claimed(pair()))
    assert (action.verb, action.wired) == ("create", None)


def test_an_update_gives_its_old_names_back_and_takes_the_new_ones():
    claims = claimed(pair())
    plan(connect(pair(a="blue/e1")), known(pair()), claims)
    assert holders(claims, pair("x", "blue/e0", "x/x"), pair("x", "blue/e1", "x/x"), pair("x", "red/e0", "x/x")) == [
        True, False, False,
    ]  # fmt: skip


# -- conflicts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "field"),
    [
        (pair("c2", "blue/e0", "x/x"), "a.ifname"),
        (pair("c2", "x/x", "blue/e0"), "b.ifname"),
        (pair("c2", "red/e0", "x/x"), "a.ifname"),
        (pair("c2", "name:blue/e0", "x/x"), "a.ifname"),
        (tunnel("v1", "red/e0"), "a.ifname"),
    ],
)
def test_a_name_that_another_connection_has_is_a_conflict_that_names_both(other, field):
    action = plan(connect(other), None, claimed(pair()))
    assert action.verb == "nothing"
    assert isinstance(action.error, Conflict)
    assert action.error.field == field
    assert "'c1'" in action.error.message


@pytest.mark.parametrize("other", [tunnel("v2", "x/x"), tunnel("v2", "x/x", underlay="", port=4789)])
def test_a_vni_that_another_connection_has_on_the_same_underlay_and_port_is_in_use(other):
    action = plan(connect(other), None, claimed(tunnel()))
    assert isinstance(action.error, VniInUse)
    assert action.error.field == "vxlan.vni"


@pytest.mark.parametrize(
    "other", [tunnel("v2", "x/x", 43), tunnel("v2", "x/x", port=4790), tunnel("v2", "x/x", underlay="host2")]
)
def test_a_vni_is_free_on_another_port_or_underlay(other):
    assert plan(connect(other), None, claimed(tunnel())).verb == "create"


def test_who_is_refused_claims_nothing_and_keeps_what_it_had():
    other = pair("c2", "green/e0", "green/e1")
    claims = claimed(pair(), other)
    before = copy.deepcopy(claims)
    action = plan(connect(pair("c2", "green/e7", "blue/e0")), known(other), claims)
    assert (action.verb, action.error.code) == ("nothing", "conflict")
    assert claims == before


def test_a_name_given_back_by_one_job_can_be_had_by_the_next():
    claims = claimed(pair())
    plan(disconnect("c1"), known(pair()), claims)
    assert plan(connect(pair("c2")), None, claims).verb == "create"


def test_giving_back_what_another_connection_has_meanwhile_takes_nothing_from_it():
    claims = claimed(pair("c2"))
    claims.release(pair("c1"))
    assert isinstance(claims.refuse(pair("c1")), Conflict)


# -- disconnect ------------------------------------------------------------------------------------


def test_an_unknown_id_is_nothing_to_do_and_no_error():
    action = plan(disconnect("never-seen"), None, Claims())
    assert (action.verb, action.error) == ("nothing", None)


def test_what_is_up_is_removed_and_gives_its_names_back():
    claims = claimed(pair())
    action = plan(disconnect(), known(pair()), claims)
    assert (action.verb, action.spec) == ("remove", b"")
    assert action.wired.places == PLACES
    assert claims == Claims()


@pytest.mark.parametrize("state", ["pending", "failed"])
def test_what_is_not_in_the_kernel_is_forgotten(state):
    claims = claimed(pair())
    action = plan(disconnect(), known(pair(), state), claims)
    assert (action.verb, action.wired) == ("forget", None)
    assert claims == Claims()


# -- move ------------------------------------------------------------------------------------------


def test_a_move_of_what_is_not_known_is_an_unknown_id():
    action = plan(move("c9", "a", "green"), None, Claims())
    assert (action.verb, type(action.error), action.error.field) == ("nothing", UnknownId, "id")


@pytest.mark.parametrize("mode", ["move", "recreate"])
def test_a_move_is_what_is_wired_with_one_end_elsewhere(mode):
    claims = claimed(pair())
    action = plan(move("c1", "b", "green", mode), known(pair()), claims)
    assert action.verb == "move"
    assert action.wired.places == PLACES
    assert action.spec == encode(pair(b="green/e0"))
    assert action.values == values_of(pair(b="green/e0"))
    assert holders(claims, pair("x", "red/e0", "x/x"), pair("x", "green/e0", "x/x")) == [True, False]


def test_a_move_to_where_it_is_already_is_nothing():
    assert plan(move("c1", "b", "red"), known(pair()), claimed(pair())).verb == "nothing"


def test_a_move_of_what_is_not_up_creates_it_in_its_new_place():
    action = plan(move("c1", "b", "green"), known(pair(), "pending"), claimed(pair()))
    assert (action.verb, action.spec) == ("create", encode(pair(b="green/e0")))


def test_a_move_to_a_name_that_another_connection_has_is_a_conflict():
    claims = claimed(pair(), pair("c2", "green/e0", "x/x"))
    before = copy.deepcopy(claims)
    action = plan(move("c1", "b", "green"), known(pair()), claims)
    assert (action.verb, type(action.error), action.error.field) == ("nothing", Conflict, "b.ifname")
    assert claims == before


def test_a_vxlan_connection_has_no_end_b_to_move():
    action = plan(move("v1", "b", "green"), known(tunnel()), claimed(tunnel()))
    assert (action.verb, type(action.error), action.error.field) == ("nothing", InvalidValue, "end")
    assert plan(move("v1", "a", "green"), known(tunnel()), claimed(tunnel())).verb == "move"


@pytest.mark.parametrize(("netns", "field"), [("a/b", "b.netns"), ("pid:x", "b.netns"), ("blue", "b.ifname")])
def test_a_move_to_where_it_cannot_be_is_invalid(netns, field):
    # in "blue" the other end has the name
    action = plan(move("c1", "b", netns), known(pair()), claimed(pair()))
    assert (action.verb, type(action.error), action.error.field) == ("nothing", InvalidValue, field)


# -- what the engine asks of itself ----------------------------------------------------------------


def broken(connection: Connection) -> Record:
    """One that failed with its interfaces still known."""
    record = known(connection)
    record.state = "failed"
    return record


@pytest.mark.parametrize(
    ("op", "record", "verb"),
    [
        ("retry", None, "nothing"),
        ("retry", known(pair()), "nothing"),
        ("retry", known(pair(), "pending"), "create"),
        ("retry", known(pair(), "failed"), "create"),
        ("retry", broken(pair()), "mend"),
        ("suspend", None, "nothing"),
        ("suspend", known(pair()), "remove"),
        ("suspend", known(pair(), "pending"), "nothing"),
        ("mend", None, "nothing"),
        ("mend", known(pair()), "mend"),
        ("mend", known(pair(), "pending"), "nothing"),
    ],
)
def test_what_the_engine_asks_of_itself_follows_the_record_as_it_is_now(op, record, verb):
    claims = claimed(pair()) if record else Claims()
    before = copy.deepcopy(claims)
    action = plan(Job(op, "c1"), record, claims)
    assert (action.verb, action.error) == (verb, None)
    # the connection keeps what it has claimed, so that nobody has its name when it comes back
    assert claims == before
    if verb == "create":
        assert (action.spec, action.values) == (record.spec, values_of(pair()))
    if verb == "mend":
        assert action.wired.places == PLACES


def test_what_was_found_broken_and_changed_since_is_not_mended():
    was, now = known(pair()), known(pair(mtu=1400))
    assert plan(Job("mend", "c1", about=was), was, claimed(pair())).verb == "mend"
    assert plan(Job("mend", "c1", about=was), now, claimed(pair())).verb == "nothing"


def test_what_failed_with_its_interfaces_known_is_mended_changed_or_removed():
    same, other = connect(pair()), connect(pair(mtu=1400))
    assert plan(same, broken(pair()), claimed(pair())).verb == "mend"
    assert plan(other, broken(pair()), claimed(pair())).verb == "update"
    assert plan(disconnect(), broken(pair()), claimed(pair())).verb == "remove"


# -- any sequence ----------------------------------------------------------------------------------

PLACE = st.builds("{}/{}".format, st.sampled_from(["", "blue", "red"]), st.sampled_from(["e0", "e1"]))
ID = st.sampled_from(["c1", "c2", "c3"])


def carry_out(action: Action, records: dict[str, Record], claims: Claims) -> None:
    """What the engine does when everything goes well."""
    id_ = action.job.id
    if action.verb in ("remove", "forget"):
        del records[id_]
    elif action.verb != "nothing":
        records[id_] = known(decode_connection(action.spec))


@given(st.lists(st.one_of(
    st.tuples(st.just("connect"), ID, PLACE, PLACE),
    st.tuples(st.just("disconnect"), ID),
    st.tuples(st.just("move"), ID, st.sampled_from("ab"), st.sampled_from(["", "blue", "red"])),
), max_size=40))  # fmt: skip
def test_after_any_jobs_the_claims_are_exactly_those_of_the_records_and_no_two_share_one(jobs):
    records: dict[str, Record] = {}
    claims = Claims()
    for job in jobs:
        if job[0] == "connect":
            if job[2] == job[3]:
                continue
            made = connect(pair(*job[1:]))
        else:
            made = disconnect(job[1]) if job[0] == "disconnect" else move(*job[1:])
        carry_out(plan(made, records.get(made.id), claims), records, claims)
        assert claims == claimed(*(r.connection for r in records.values()))
        keys = [key for r in records.values() for _, key in claims.keys_of(r.connection)]
        assert len(keys) == len(set(keys))
