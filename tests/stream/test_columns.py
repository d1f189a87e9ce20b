"""A column is read as it was packed, and refused where it is none of so many rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamapp.errors import DecodeError
from streamapp.stream import columns

ints = st.lists(st.one_of(st.integers(0, 3), st.integers(-1, 2**40)), max_size=30)


@given(st.lists(st.floats(), max_size=30), st.integers(1, 12))
def test_floats_come_back_to_the_bit(numbers, times):
    column = np.array(numbers * times)
    assert columns.read(columns.pack(b"d", column), len(column), b"d").tobytes() == column.tobytes()


@given(ints, st.integers(0, 1), st.booleans())
def test_integers_come_back_less_what_is_subtracted(numbers, less, same):
    column = np.array(numbers[:1] * len(numbers) if same else numbers, np.int64)
    found = columns.read_ints(columns.pack_counts(column), len(column), less)
    assert found.tolist() == (column - less).tolist()
    assert found.dtype == np.int64


def test_a_value_that_all_rows_have_lies_in_memory_once():
    column = columns.read(columns.pack(b"d", np.full(20, np.nan)), 20, b"d")
    assert len(column) == 20
    assert column.strides == (0,)


@pytest.mark.parametrize("n", [3, 20])
@pytest.mark.parametrize("data", [b"", b"d", b"d" + bytes(16), b"B\x07", b"I" + bytes(4)])
def test_other_columns_are_refused_every_time(data, n):
    for _ in range(2):
        with pytest.raises(DecodeError, match="expected"):
            columns.read_codes(data, n, 7)


def test_items_that_are_not_whole_are_refused():
    for n in (3, 20):
        with pytest.raises(ValueError, match="buffer size"):
            columns.read(b"d" + bytes(7), n, b"d")
