"""What the reader makes of answers that a healthy kernel seldom gives."""

from __future__ import annotations

import errno

import pytest
from pyroute2.netlink import NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR
from pyroute2.netlink.exceptions import NetlinkDecodeError, NetlinkError
from pyroute2.netlink.rtnl import RTM_NEWADDR
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg

from fastnl import readback
from fastnl.errors import KernelError, NoPermission
from fastnl.readback import Reader, Route


class Scripted:
    """Stands in for pyroute2's socket: each question gets the next answer, a list of messages or an OSError."""

    def __init__(self, *answers: list[dict] | OSError) -> None:
        self.answers = list(answers)
        self.sequence = 0

    def put(self, message: object, kind: int, flags: int, msg_seq: int) -> None:
        self.sequence = msg_seq

    def get(self) -> list[dict]:
        answer = self.answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        for m in answer:
            m["header"].setdefault("sequence_number", self.sequence)
        return answer


def message(kind: int, flags: int = 0, error: Exception | None = None, **header: int) -> dict:
    return {"header": {"type": kind, "flags": flags, "error": error, **header}}


def row(ip: str, flags: int = 0, **header: int) -> ifaddrmsg:
    out = ifaddrmsg()
    out["index"], out["prefixlen"], out["attrs"] = 3, 24, [("IFA_LOCAL", ip), ("IFA_ADDRESS", ip)]
    out["header"] = message(RTM_NEWADDR, flags, **header)["header"]
    return out


def reader(*answers: list[dict] | OSError) -> Reader:
    out = Reader.__new__(Reader)
    out._sequence = 0
    out._socket = Scripted(*answers)
    return out


def done(flags: int = 0) -> dict:
    return message(NLMSG_DONE, flags)


def test_an_answer_in_several_pieces():
    r = reader([row("10.0.0.1")], [row("10.0.0.2")], [done()])
    assert r.addresses() == [(3, "10.0.0.1/24"), (3, "10.0.0.2/24")]


def test_answers_to_an_earlier_question_are_passed_over():
    r = reader(
        [row("10.0.0.9", sequence_number=77), message(NLMSG_DONE, sequence_number=77)], [row("10.0.0.1"), done()]
    )
    assert r.addresses() == [(3, "10.0.0.1/24")]


@pytest.mark.parametrize("where", ["row", "end"])
def test_a_dump_under_which_the_table_changed_is_asked_for_again(where):
    torn = [row("10.0.0.9", NLM_F_DUMP_INTR if where == "row" else 0), done(NLM_F_DUMP_INTR if where == "end" else 0)]
    assert reader(torn, [row("10.0.0.1"), done()]).addresses() == [(3, "10.0.0.1/24")]


def test_a_dump_that_never_gets_better_is_used():
    torn = [[row("10.0.0.9"), done(NLM_F_DUMP_INTR)] for _ in range(readback.DUMP_TRIES)]
    assert reader(*torn).addresses() == [(3, "10.0.0.9/24")]


def test_what_is_not_there_has_no_rows():
    assert reader([message(NLMSG_ERROR, error=NetlinkError(errno.ENODEV))]).addresses(5) == []


@pytest.mark.parametrize(
    ("answer", "kind", "number"),
    [
        ([message(NLMSG_ERROR, error=NetlinkError(errno.EPERM))], NoPermission, errno.EPERM),
        ([message(NLMSG_ERROR, error=NetlinkError(errno.ENOMEM))], KernelError, errno.ENOMEM),
        ([message(RTM_NEWADDR, error=NetlinkDecodeError(ValueError()))], KernelError, 0),
        (OSError(errno.ENOBUFS, "No buffer space available"), KernelError, errno.ENOBUFS),
    ],
)
def test_errors(answer, kind, number):
    with pytest.raises(kind) as caught:
        reader(answer).addresses()
    assert (caught.value.errno, caught.value.phase) == (number, "query")
    assert caught.value.message.startswith("reading back: ")


@pytest.mark.parametrize(
    ("route", "text"),
    [
        (Route(1, "10.0.0.0/8", "", 0, 254, "", False, 253, "unicast"), "10.0.0.0/8 scope link"),
        (Route(1, "::/0", "fe80::1", 1024, 254, "", True, 0, "unicast"), "::/0 via fe80::1 metric 1024 onlink"),
        (
            Route(1, "10.0.0.0/8", "10.9.9.9", 7, 1000, "10.1.1.1", False, 77, "multicast"),
            "multicast 10.0.0.0/8 via 10.9.9.9 table 1000 scope 77 src 10.1.1.1 metric 7",
        ),
    ],
)
def test_routes_in_words(route, text):
    assert str(route) == text
