"""Columns of codes: the same columns of own words, however many rows and words there are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamapp.core.joining.words import FEW, MANY, Words, firsts


@given(
    n=st.sampled_from([1, 2, FEW - 1, FEW, FEW + 1, 300]),
    size=st.sampled_from([1, 3, 400, MANY, MANY + 1, 10_000]),
    lowest=st.sampled_from([-1, 0]),
    seed=st.integers(0, 1000),
)
def test_distinct_codes_are_numbered_in_order_of_first_appearance(n: int, size: int, lowest: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    codes = draw.integers(lowest, min(size, draw.integers(1, size + 1)), n).astype(np.int32)
    found, places = firsts(codes, size)
    expected: list[int] = []
    for code in codes.tolist():
        if code >= 0 and code not in expected:
            expected.append(code)
    assert found.tolist() == expected
    assert places.tolist() == [expected.index(code) if code >= 0 else -1 for code in codes.tolist()]
    assert (found.dtype, places.dtype) == (np.int64, np.int32)


@pytest.mark.parametrize("n", [0, 5, FEW + 5])
def test_a_column_of_nothing_has_no_words(n: int) -> None:
    names = Words().names(np.full(n, -1, np.int32))
    assert names.words == ()
    assert names.code.tolist() == [-1] * n
