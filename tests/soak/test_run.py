"""The capacity is of what monitors have taken."""

import pytest

from tests.soak.run import taken


def test_verdicts_that_no_monitor_has_taken_do_not_count() -> None:
    assert taken({"verdicts": 900, "scored": 60, "lag": {"scored": 20}}) == pytest.approx(600)
    assert taken({"verdicts": 0, "scored": 0, "lag": {"scored": 0}}) == 0
