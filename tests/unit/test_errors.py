"""One hierarchy: the caller's fault, the kernel's refusal and our own bugs are different types."""

from __future__ import annotations

import errno
import pickle
from dataclasses import replace

import pytest

import fastnl
from fastnl import errors
from fastnl._nl import Phase, Problem
from fastnl.explain import PHASE_NAMES, explain, field_of
from fastnl.links import Device, End, Neighbour, Route, Rule, Veth, Vxlan

CALLERS = [
    errors.InvalidValue, errors.Conflict, errors.NetnsNotFound, errors.NetnsGone, errors.NameInUse, errors.VniInUse,
    errors.NoPermission,
]  # fmt: skip
PAIR = Veth(
    End("blue", "e0", ["10.0.0.1/24"], routes=[Route("10.1.0.0/16"), Route("10.2.0.0/16")]),
    End("red", "e0", neighbours=[Neighbour("10.0.0.1", "02:00:00:00:00:01")]),
)


def problem(phase: int, number: int, *, end: int = 0, place: int = 0, text: str = "") -> Problem:
    return Problem(0, phase, end, place, number, text, 0)


def test_the_callers_fault_and_ours_are_different_types():
    assert all(issubclass(e, errors.CallerError) for e in CALLERS)
    for ours in (errors.KernelError, errors.InternalError):
        assert not issubclass(ours, errors.CallerError)
        assert issubclass(ours, errors.FastnlError)
    assert issubclass(errors.InvalidValue, ValueError)


def test_every_error_has_a_code_of_its_own():
    leaves = [*CALLERS, errors.KernelError, errors.InternalError]
    assert [e.code for e in leaves] == [
        "invalid", "conflict", "netns_not_found", "netns_gone", "ifname_in_use", "vni_in_use", "no_permission",
        "kernel", "internal",
    ]  # fmt: skip
    assert all(getattr(fastnl, e.__name__) is e for e in leaves)


def test_as_dict_leaves_out_what_is_empty():
    assert errors.Conflict("twice").as_dict() == {"code": "conflict", "message": "twice"}
    full = errors.KernelError("no", errno=22, ext_ack="bad", offset=40, phase="create", field="a")
    assert full.as_dict() == {
        "code": "kernel", "message": "no", "errno": 22, "ext_ack": "bad", "phase": "create", "field": "a",
    }  # fmt: skip


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidValue("a.mtu", "is odd"),
        errors.KernelError("no", errno=22, ext_ack="bad", offset=40, phase="create", field="a"),
        errors.NetnsNotFound("gone", errno=2, field="a.netns"),
    ],
    ids=lambda e: e.code,
)
def test_errors_go_through_pickle(error):
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is type(error)
    assert str(twin) == str(error)
    assert twin.as_dict() == error.as_dict()
    assert twin.offset == error.offset


def test_a_pickled_invalid_value_still_has_its_problem():
    assert pickle.loads(pickle.dumps(errors.InvalidValue("a.mtu", "is odd"))).problem == "is odd"


def test_an_errno_has_a_name():
    assert errors.errno_name(17) == "EEXIST: File exists"
    assert errors.errno_name(9999).startswith("9999")


@pytest.mark.parametrize(
    ("found", "field"),
    [
        (problem(Phase.ADDRESS, 1), "a.addresses[0]"),
        (problem(Phase.ROUTE, 1, place=1), "a.routes[1]"),
        (problem(Phase.NEIGHBOUR, 1, end=1), "b.neighbours[0]"),
        (problem(Phase.UP, 1, end=1), "b"),
        (problem(Phase.CREATE, 1), ""),
    ],
)
def test_a_message_that_failed_names_the_value_it_was_made_from(found, field):
    assert field_of(PAIR, found) == field
    assert explain(PAIR, found).field == field


def test_what_the_kernel_said_is_in_the_error():
    error = explain(PAIR, problem(Phase.ROUTE, errno.ENETUNREACH, place=1, text="Nexthop has invalid gateway"))
    assert isinstance(error, errors.KernelError)
    assert (error.errno, error.ext_ack, error.phase) == (errno.ENETUNREACH, "Nexthop has invalid gateway", "route")
    assert "10.2.0.0/16" in error.message
    assert "onlink" in error.message  # what to do


def test_no_privilege_is_the_callers_to_mend():
    assert isinstance(explain(PAIR, problem(Phase.CREATE, errno.EPERM)), errors.NoPermission)


def test_eexist_at_the_create_of_a_vxlan_is_its_vni():
    error = explain(Vxlan(a=End("blue", "vx0"), vni=42), problem(Phase.CREATE, errno.EEXIST))
    assert isinstance(error, errors.VniInUse)
    assert error.field == "vxlan.vni"


def test_every_phase_has_a_name():
    assert set(PHASE_NAMES) == {v for k, v in vars(Phase).items() if k.isupper()}


def test_a_lost_answer_is_said_to_be_lost():
    assert "lost" in explain(PAIR, problem(Phase.UP, 0)).message


def test_a_problem_of_an_end_that_a_connection_does_not_have_is_still_explained():
    assert explain(Vxlan(a=End("blue", "vx0"), vni=42), problem(Phase.ADDRESS, 22, end=1, place=9))


@pytest.mark.parametrize(
    ("found", "field", "words"),
    [
        (problem(Phase.RULE, errno.EAFNOSUPPORT), "a.rules[0]", "without policy rules"),
        (problem(Phase.RULE, errno.EEXIST, end=1, place=3), "b.rules[3]", "has that rule already"),
        (problem(Phase.SETTING, errno.EROFS), "a.route_localnet", "read-only"),
        (problem(Phase.SETTING, errno.EINVAL, end=1, place=1), "b.ping_group_range", "group"),
        (problem(Phase.ADDRESS, errno.EACCES), "a.addresses[0]", "/proc/sys could not be written"),
    ],
)
def test_a_rule_or_setting_that_was_refused_is_named(found, field, words):
    ruled = replace(PAIR, a=replace(PAIR.a, rules=[Rule(table=7)]))
    error = explain(ruled, found)
    assert (error.field, error.phase) == (field, PHASE_NAMES[found.phase])
    assert words in error.message


def test_ipv6_of_an_interface_of_others_is_theirs():
    existing = Device("existing", End("blue", "x0", ["fd00::1/64"]))
    assert "its owner's to switch on" in explain(existing, problem(Phase.ADDRESS, errno.EACCES)).message
