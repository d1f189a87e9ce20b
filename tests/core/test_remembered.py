"""Hashes are found exactly, whatever the filter lets through; what is forgotten is gone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamapp.core.joining.hashfilter import ROOM, HashFilter
from streamapp.core.joining.hashindex import FIRST, HashIndex
from streamapp.core.joining.remembered import RESOLVED, SEGMENT_ROWS, SEGMENTS, Remembered

FEW = st.lists(st.integers(0, 40), max_size=30).map(lambda numbers: np.array(numbers, dtype=np.uint64))
"""Badly mixed on purpose: they crowd into the same slots."""


def hashes(n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, n, dtype=np.uint64)


def pairs(found) -> list[tuple[int, int]]:
    return sorted(zip(*(column.tolist() for column in found), strict=True))


@settings(deadline=None)
@given(st.lists(FEW, max_size=8), FEW)
def test_an_index_finds_every_number_of_a_hash_and_no_other(parts, asked):
    index, numbered = HashIndex(), []
    for part in parts:
        index.add(part)
        numbered += part.tolist()
        expected = [(i, n) for i, one in enumerate(asked.tolist()) for n, other in enumerate(numbered) if one == other]
        assert pairs(index.find(asked)) == sorted(expected)
    assert index.hashes.tolist() == numbered


def test_an_index_grows_and_still_finds_what_came_first():
    index, all_of_them = HashIndex(), hashes(5 * FIRST)
    for start in range(0, len(all_of_them), 700):
        index.add(all_of_them[start : start + 700])
    order = np.random.default_rng(2).permutation(len(all_of_them))
    assert pairs(index.find(all_of_them[order])) == sorted(enumerate(order.tolist()))
    assert pairs(index.find(hashes(1000, seed=3))) == []


def test_hashes_that_all_want_the_last_slot_go_round_to_the_first():
    index = HashIndex()
    same = np.full(20, FIRST - 1, np.uint64) + np.arange(20, dtype=np.uint64) * np.uint64(FIRST)
    index.add(same)
    assert pairs(index.find(same[::-1].copy())) == sorted(enumerate(range(19, -1, -1)))


def test_a_filter_never_denies_what_was_added_and_rarely_lets_through_what_was_not():
    kept, own = HashFilter(), hashes(20_000)
    for start in range(0, len(own), 1000):
        kept.add(own[start : start + 1000])
        if kept.crowded:
            kept.renew([own[: start + 1000]], start + 1000)
    assert kept.may_have(own).all()
    assert len(own) * ROOM <= 2**22
    assert np.count_nonzero(kept.may_have(hashes(100_000, seed=9))) < 100_000 / 150


def rows(of: np.ndarray, horizon: float, name: int = 0) -> np.ndarray:
    made = np.zeros(len(of), RESOLVED)
    made["id_hash"], made["horizon"], made["name"] = of, horizon, name
    return made


@settings(deadline=None)
@given(st.lists(st.tuples(FEW, st.sampled_from([0.0, 4.0, 60.0]), st.integers(0, 30)), max_size=12), FEW)
def test_what_is_remembered_is_found_until_its_horizon_whatever_it_is_remembered_for(steps, asked):
    remembered, kept, clock = Remembered(), [], 0.0
    for number, (part, remember, wait) in enumerate(steps):
        clock += wait
        if len(part):
            remembered.add(rows(part, clock + remember, number), np.full(len(part), remember))
        kept += [(one, number, clock + remember) for one in part.tolist()]
        remembered.forget(clock)
        places, found = remembered.find(asked)
        got = sorted(zip(places.tolist(), found["name"].tolist(), found["horizon"].tolist(), strict=True))
        due = [(i, n, h) for i, one in enumerate(asked.tolist()) for other, n, h in kept if one == other]
        # It may stay longer, with what came after it; what is asked looks at the horizon itself.
        assert [one for one in got if one[2] >= clock] == sorted(one for one in due if one[2] >= clock)
        assert set(got) <= set(due)
        assert remembered.may_have(asked)[places].all()
    remembered.forget(1e9)
    assert len(remembered) == 0


def test_rows_from_a_checkpoint_are_found_and_forgotten_in_the_order_of_their_horizons():
    own = hashes(3000)
    stored = np.concatenate([rows(own[2000:], 9.0, 2), rows(own[:2000], 5.0, 1)])
    remembered = Remembered()
    remembered.restore(stored)
    remembered.forget(5.0)
    places, found = remembered.find(own)
    assert places[np.argsort(places)].tolist() == list(range(3000))
    assert found["name"][np.argsort(places)].tolist() == [1] * 2000 + [2] * 1000
    remembered.forget(9.5)
    assert len(remembered) == 0


def test_memory_of_what_came_long_ago_is_let_go_while_new_rows_come():
    remembered, most = Remembered(), 0
    for second in range(600):
        remembered.add(rows(hashes(500, seed=second), second + 60.0), np.full(500, 60.0))
        remembered.forget(float(second))
        most = max(most, len(remembered))
    assert most <= 500 * 61 * (1 + 1 / SEGMENTS) + 500
    assert len(list(remembered.segments())) <= SEGMENTS + 2


@pytest.mark.parametrize("n", [SEGMENT_ROWS + 5, 3 * SEGMENT_ROWS])
def test_what_comes_at_once_is_divided_so_that_no_step_takes_long(n):
    remembered = Remembered()
    own = hashes(n)
    for start in range(0, n, 20_000):
        part = own[start : start + 20_000]
        remembered.add(rows(part, 60.0), np.full(len(part), 60.0))
    assert max(map(len, remembered.segments())) <= SEGMENT_ROWS
    places, _ = remembered.find(own[::1000].copy())
    assert sorted(places.tolist()) == list(range(len(own[::1000])))
