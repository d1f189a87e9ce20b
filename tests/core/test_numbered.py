"""Checkpoint entries that are counted are found by their numbers, and what is no number is refused by its name."""

import pytest

from streamapp.core.joining.numbered import key, numbered
from streamapp.errors import CheckpointError


def test_entries_come_in_the_order_of_their_numbers() -> None:
    entries = {key(b"a/", number): b"" for number in (10, 9, 0)} | {b"b/1": b"", b"a": b""}
    assert numbered(entries, b"a/") == [(0, b"a/0"), (9, b"a/9"), (10, b"a/10")]


@pytest.mark.parametrize("name", [b"a/", b"a/x", b"a/-1", b"a/\xff"])
def test_what_is_no_number_is_refused_by_its_name(name: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"a/.*not a number"):
        numbered([b"a/1", name], b"a/")
