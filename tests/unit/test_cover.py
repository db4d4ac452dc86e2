"""Which end of each pair is deleted: few namespaces, and every pair in one of them."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from fastnl.sweep import cover

places = st.integers(0, 12)
pairs = st.lists(st.tuples(places, places) | st.tuples(places), max_size=60)


def visited(pairs, choice):
    return {pair[end] for pair, end in zip(pairs, choice, strict=True)}


@given(pairs)
def test_every_pair_is_covered_by_one_of_its_own_ends(pairs):
    choice = cover(pairs)
    assert len(choice) == len(pairs)
    assert all(0 <= end < len(pair) for pair, end in zip(pairs, choice, strict=True))


@given(pairs)
def test_no_more_places_than_pairs_or_namespaces(pairs):
    assert len(visited(pairs, cover(pairs))) <= min(len(pairs), len({p for pair in pairs for p in pair}))


@given(st.integers(1, 50), st.randoms())
def test_a_star_takes_one_place(spokes, random):
    star = [random.choice([("hub", n), (n, "hub")]) for n in range(spokes)]
    assert visited(star, cover(star)) == {"hub"} or spokes == 1


@given(st.integers(1, 50))
def test_pairs_that_share_nothing_take_one_place_each(count):
    apart = [((n, 0), (n, 1)) for n in range(count)]
    assert len(visited(apart, cover(apart))) == count


@given(st.integers(2, 9))
def test_of_a_full_mesh_one_place_is_left_out(nodes):
    mesh = list(itertools.combinations(range(nodes), 2))
    assert len(visited(mesh, cover(mesh))) == nodes - 1


@given(pairs.filter(lambda pairs: len({p for pair in pairs for p in pair}) <= 7))
def test_it_is_near_the_best_there_is(pairs):
    """Greedy: at most H(n) times the best, which is under 3 times for so few places."""
    places = {p for pair in pairs for p in pair}
    best = next(
        size
        for size in range(len(places) + 1)
        if any(all(set(pair) & set(chosen) for pair in pairs) for chosen in itertools.combinations(places, size))
    )
    assert len(visited(pairs, cover(pairs))) <= 3 * best


def test_nothing_to_cover():
    assert cover([]) == []
