"""Verdicts are counted by the prediction that they belong to."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.soak.ledger import Marks

MESSAGES = st.lists(st.lists(st.integers(0, 70_000) | st.integers(0, 20), max_size=30), max_size=20)


@given(MESSAGES, st.integers(0, 70_001))
def test_missing_and_doubled_are_what_counting_says(messages: list[list[int]], end: int) -> None:
    marks = Marks()
    for message in messages:
        marks.add(np.array(message, np.int64))
    counts = Counter(offset for message in messages for offset in message)
    assert marks.verdicts == counts.total()
    assert marks.doubled == counts.total() - len(counts)
    assert marks.missing(end) == end - sum(offset < end for offset in counts)
