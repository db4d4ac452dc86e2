"""Limits of the writer: what does not fit is refused, and leaves no trace in the visit."""

from __future__ import annotations

import struct

import pytest

from fastnl import Address, End, InvalidValue, Veth
from fastnl._nl import Tour


@pytest.fixture
def visit():
    return Tour(1).visit(-1)


def test_an_attribute_holds_65531_bytes_and_not_one_more(visit):
    # nla_len is 16 bits wide and counts its own header of four
    visit.change(0, 1, alias="x" * 65530)  # and the NUL
    [raw] = visit.messages()
    assert len(raw) == 32 + 65536
    assert struct.unpack_from("=H", raw, 32) == (65535,)
    with pytest.raises(OverflowError, match="65535 bytes"):
        visit.change(0, 1, alias="x" * 65531)


def test_a_nest_holds_65535_bytes_and_not_one_more(visit):
    visit.device(0, "x" * 65524, "e0")  # in IFLA_INFO_KIND, with IFLA_LINKINFO around it
    with pytest.raises(OverflowError):
        visit.device(0, "x" * 65525, "e0")
    assert len(visit) == 1


def refused_too_long(visit):
    visit.change(0, 1, alias="x" * 70000)


def refused_mac(visit):
    visit.change(0, 1, name="e1", mac="nonsense")


def refused_negative(visit):
    visit.change(0, 1, mtu=-1)


def refused_number(visit):
    visit.change(0, 1, group=1 << 32)


def refused_text(visit):
    visit.change(0, 1, alias="\ud800")


def refused_type(visit):
    visit.veth(0, "no pair", 3, 1, 3, 2)


@pytest.mark.parametrize(
    "refused",
    [refused_too_long, refused_mac, refused_negative, refused_number, refused_text, refused_type],
    ids=lambda f: f.__name__,
)
def test_a_refused_message_leaves_no_trace(visit, refused):
    visit.change(0, 1, mtu=1400)
    before = visit.messages()
    with pytest.raises((OverflowError, ValueError, AttributeError, TypeError)):
        refused(visit)
    assert visit.messages() == before
    visit.change(0, 2, mtu=1500)
    assert visit.messages()[:-1] == before
    assert [struct.unpack_from("=I", raw)[0] for raw in visit.messages()] == [len(raw) for raw in visit.messages()]


def test_a_bad_mac_is_named(visit):
    with pytest.raises(InvalidValue, match=r"^mac: 'nonsense'"):
        refused_mac(visit)


def test_ten_thousand_messages_fit_and_none_moves(visit):
    for i in range(10_000):
        visit.address(i, i + 1, Address(f"10.{i >> 8}.{i & 255}.1/24"))
    messages = visit.messages()
    assert len(visit) == len(messages) == 10_000
    # nlmsg_len at 0, ifa_index at 20
    assert [struct.unpack_from("=I", raw, 20)[0] for raw in messages] == list(range(1, 10_001))
    assert {struct.unpack_from("=I", raw)[0] for raw in messages} == {48}


def test_padding_is_zero(visit):
    visit.change(0, 1, name="a" * 15)
    visit.change(0, 1, name="b")
    [_, raw] = visit.messages()
    assert raw[32:] == b"\x06\0\x03\0b\0\0\0"


@pytest.mark.parametrize("message", [b"", b"x" * 15, b"x" * 18])
def test_a_raw_message_has_a_header_and_whole_words(visit, message):
    with pytest.raises(ValueError, match="16 bytes"):
        visit.raw(0, message)
    assert len(visit) == 0


def test_a_delete_of_nothing_in_particular_is_refused(visit):
    # index 0 or group 0 would mean something else to the kernel
    with pytest.raises(ValueError, match="index"):
        visit.delete(0, 0)
    with pytest.raises(ValueError, match="group 0"):
        visit.delete_group(0, 0)
    assert len(visit) == 0


def test_questions_need_a_visit_that_asks(visit):
    for question in (visit.get_link, visit.dump_links, visit.dump_rules):
        with pytest.raises(ValueError, match="asks"):
            question(0)


def test_a_tours_bounds():
    with pytest.raises(ValueError, match="negative"):
        Tour(-1)
    with pytest.raises(ValueError, match="at least one"):
        Tour(1, datagram_messages=0)
    tour = Tour(2)
    assert not tour.failed(1)
    for item in (-1, 2):
        with pytest.raises(IndexError):
            tour.failed(item)


def test_none_is_no_value(visit):
    for add in (visit.address, visit.route, visit.neighbour):
        with pytest.raises(TypeError):
            add(0, 1, None)


def test_the_messages_of_a_connection_take_only_its_own_bytes(visit):
    pair = Veth(End("", "a"), End("", "b"))
    visit.veth(0, pair, 3, 1, 4, 2)
    once = visit.messages()[0]
    visit.veth(0, pair, 3, 1, 4, 2)
    assert visit.messages() == [once, once]
