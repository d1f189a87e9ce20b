import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamapp.core.quantiles import ZERO, bins, count, merge, quantile

VALUES = st.lists(st.one_of(st.just(0.0), st.floats(1e-9, 1e300)), min_size=1, max_size=50)


@given(VALUES, st.floats(0, 1))
def test_quantile_is_within_one_percent_of_the_exact_one(values, q):
    exact = float(np.quantile(np.array(values), q))
    assert quantile(count(np.array(values)), q) == pytest.approx(exact, rel=0.01, abs=1e-12)


@given(VALUES, VALUES)
def test_merged_counts_are_the_counts_of_all_values(a, b):
    assert merge(count(np.array(a)), count(np.array(b))) == count(np.array(a + b))


def test_merge_changes_neither_argument():
    a, b = {1: 2}, {1: 3, 4: 5}
    assert merge(a, b) == {1: 5, 4: 5}
    assert (a, b) == ({1: 2}, {1: 3, 4: 5})


def test_zero_and_tiny_and_negative_values_share_the_zero_bin():
    assert bins(np.array([0.0, 9e-10, -3.0])).tolist() == [ZERO] * 3
    assert quantile({ZERO: 3}, 0.5) == 0.0


def test_bins_grow_with_the_value():
    values = np.geomspace(1e-9, 1e300, 1000)
    assert (np.diff(bins(values)) > 0).all()


def test_nan_is_left_out_of_counts_and_has_no_bin():
    assert count(np.array([np.nan, 0.0])) == {ZERO: 1}
    with pytest.raises(ValueError, match="nan has no bin"):
        bins(np.array([np.nan]))


def test_quantile_of_nothing_is_none():
    assert quantile({}, 0.5) is None
    assert count(np.array([])) == {}


def test_q_outside_the_unit_interval_is_refused():
    with pytest.raises(ValueError, match="expected q"):
        quantile({1: 1}, 1.5)


def test_the_largest_number_has_a_finite_quantile():
    assert quantile(count(np.array([1.7976931348623157e308])), 1.0) == pytest.approx(1.7976931348623157e308, rel=0.01)
