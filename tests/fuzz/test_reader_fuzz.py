"""Whatever bytes the reader gets, it gives a value and never looks past their end.

The bytes lie at the end of a page whose neighbour cannot be read, so that a single byte too many ends the
process; under AddressSanitizer they lie in an allocation of exactly their size as well.  Seeds are what a
real kernel answered (record.py).  FASTNL_FUZZ_ROUNDS sets how many mutations of each seed are tried.
"""

from __future__ import annotations

import array
import ctypes
import mmap
import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnl._nl import AddrRow, LinkRow, NeighRow, RouteRow, RuleRow, read_acks, read_rows

CORPUS = {path.stem: path.read_bytes() for path in sorted((Path(__file__).parent / "corpus").glob("*.bin"))}
ROUNDS = int(os.environ.get("FASTNL_FUZZ_ROUNDS", "10000"))
ROWS = (LinkRow, AddrRow, RouteRow, NeighRow, RuleRow)
FIELDS = {kind: [name for name in dir(kind) if not name.startswith("_")] for kind in ROWS}
ROOM = 16 * mmap.PAGESIZE


class Guarded:
    """Memory that ends where nothing can be read."""

    def __init__(self) -> None:
        self.map = mmap.mmap(-1, ROOM + mmap.PAGESIZE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mprotect(ctypes.c_void_p(address + ROOM), mmap.PAGESIZE, 0) == 0

    def put(self, data: bytes) -> memoryview:
        # netlink messages are aligned to four bytes, so up to three stay between the end and the guard
        begin = ROOM - (len(data) + 3 & ~3)
        self.map[begin : begin + len(data)] = data
        return memoryview(self.map)[begin : begin + len(data)]


GUARDED = Guarded()


def read(data: bytes) -> list:
    """Reads as rows and as acknowledgements, twice, and looks at every field of what comes out."""
    data = data[:ROOM]
    out = []
    for where in (GUARDED.put(data), array.array("B", data)):
        rows, acks = read_rows(where), read_acks(where)
        assert all(isinstance(row, ROWS) for row in rows)
        assert all(0 <= number < 4096 and isinstance(text, str) for _, number, _, text in acks)
        # a header has 16 bytes, so there cannot be more of them
        assert len(rows) + len(acks) <= len(data) // 16
        out.append(([{name: getattr(row, name) for name in FIELDS[type(row)]} for row in rows], acks))
    # what depends on anything but the bytes was read from somewhere else
    assert out[0] == out[1]
    return out[0]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to four things that go wrong: flipped bits, wrong lengths, cuts, repeats, holes."""
    raw = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if len(raw) < 4:
            return bytes(raw)
        at = rng.randrange(len(raw))
        match rng.randrange(6):
            case 0:
                raw[at] ^= 1 << rng.randrange(8)
            case 1:  # lengths are 16 or 32 bits wide and begin at multiples of four
                at &= ~3
                struct.pack_into(
                    "=H", raw, min(at, len(raw) - 2), rng.choice([0, 1, 3, 4, 5, 0xFF, 0x7FFF, 0x8000, 0xFFFF])
                )
            case 2:
                at &= ~3
                struct.pack_into(
                    "=I", raw, min(at, len(raw) - 4), rng.choice([0, 15, 16, 17, 1 << 31, (1 << 32) - 1, len(raw) + 1])
                )
            case 3:
                del raw[at:]
            case 4:
                raw[at:at] = raw[rng.randrange(len(raw)) :][: rng.randrange(64)]
            case _:
                raw[at : at + rng.randrange(16)] = bytes(rng.randrange(16))
    return bytes(raw)


def mutations(data: bytes, seed: int, rounds: int) -> Iterator[bytes]:
    rng = random.Random(seed)
    for _ in range(rounds):
        yield mutate(data, rng)


def test_there_are_seeds_of_every_kind():
    kinds = {type(row) for data in CORPUS.values() for row in read_rows(data)}
    assert kinds == set(ROWS)
    assert {text for data in CORPUS.values() for *_, text in read_acks(data)} == {"", "Unknown device type"}


def test_the_guard_is_where_the_bytes_end():
    assert bytes(GUARDED.put(b"abcd")) == b"abcd"
    assert GUARDED.map[ROOM - 4 : ROOM] == b"abcd"


@pytest.mark.parametrize("name", CORPUS)
def test_every_beginning_of_a_real_answer_gives_a_value(name):
    data = CORPUS[name]
    for length in range(min(len(data), 2000) + 1):
        read(data[:length])


@pytest.mark.parametrize("name", CORPUS)
def test_every_beginning_whose_header_says_so_gives_a_value(name):
    data = CORPUS[name]
    (whole,) = struct.unpack_from("=I", data)
    for length in range(16, min(whole, 2000) + 1):
        read(struct.pack("=I", length) + data[4:length])


@pytest.mark.parametrize("name", CORPUS)
def test_mutated_real_answers_give_a_value(name):
    for mutation in mutations(CORPUS[name], hash_of(name), ROUNDS):
        read(mutation)


def hash_of(name: str) -> int:
    """The same in every run, so that a failure comes again."""
    return int.from_bytes(name.encode(), "big")


@given(st.binary(max_size=2000))
def test_any_bytes_give_a_value(data):
    read(data)


@given(st.lists(st.tuples(st.sampled_from([2, 3, 16, 20, 24, 28, 32]), st.binary(max_size=200)), max_size=6))
def test_any_bodies_of_known_messages_give_a_value(messages):
    read(
        b"".join(
            struct.pack("=IHHII", 16 + len(body), kind, 0x300, 1, 0) + body + bytes(-len(body) % 4)
            for kind, body in messages
        )
    )


attributes = st.recursive(
    st.tuples(st.integers(0, 70), st.binary(max_size=40)),
    lambda inner: st.tuples(st.integers(0, 70), st.lists(inner, max_size=4)),
    max_leaves=12,
)


def encode(attribute) -> bytes:
    kind, content = attribute
    body = content if isinstance(content, bytes) else b"".join(map(encode, content))
    return struct.pack("=HH", 4 + len(body), kind) + body + bytes(-len(body) % 4)


@given(st.sampled_from([16, 20, 24, 28, 32]), st.binary(min_size=20, max_size=20), st.lists(attributes, max_size=6))
def test_any_well_formed_attributes_give_a_value(kind, head, listed):
    body = head + b"".join(map(encode, listed))
    read(struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 0) + body)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 12])
@pytest.mark.parametrize(
    ("kind", "head", "path"),
    [
        (16, 16, [3]),  # IFLA_IFNAME
        (16, 16, [20]),  # IFLA_IFALIAS
        (16, 16, [1]),  # IFLA_ADDRESS
        (16, 16, [18, 1]),  # IFLA_LINKINFO, IFLA_INFO_KIND
        (16, 16, [26, 10, 8]),  # IFLA_AF_SPEC, AF_INET6, IFLA_INET6_ADDR_GEN_MODE
        (16, 16, [23]),  # IFLA_STATS64
        (20, 8, [2]),  # IFA_LOCAL
        (24, 12, [1]),  # RTA_DST
        (28, 12, [2]),  # NDA_LLADDR
        (32, 12, [3]),  # FRA_IIFNAME
        (2, 20, [1]),  # NLMSGERR_ATTR_MSG
        (2, 20, [2]),  # NLMSGERR_ATTR_OFFS
    ],
)
def test_what_fills_its_attribute_to_the_end_of_memory_is_not_read_further(kind, head, path, size):
    body = b"x" * size
    for number in reversed(path):
        body = struct.pack("=HH", 4 + len(body), number) + body
    read(struct.pack("=IHHII", 16 + head + len(body), kind, 0x300, 1, 0) + bytes(head) + body)
