"""Checkpoint entries that are counted are found by their numbers, and what is no number is refused by its name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamapp.core.joining.numbered import key, numbered, told
from streamapp.errors import CheckpointError


def test_entries_come_in_the_order_of_their_numbers() -> None:
    entries = {key(b"a/", number): b"" for number in (10, 9, 0)} | {b"b/1": b"", b"a": b""}
    assert numbered(entries, b"a/") == [(0, b"a/0"), (9, b"a/9"), (10, b"a/10")]


@pytest.mark.parametrize("name", [b"a/", b"a/x", b"a/-1", b"a/\xff"])
def test_what_is_no_number_is_refused_by_its_name(name: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"a/.*not a number"):
        numbered([b"a/1", name], b"a/")


def test_entries_are_told_by_kind_with_the_stretches_of_their_numbers() -> None:
    there = [b"meta", b"pending/3", b"pending/7", b"pending/6", b"pending/5", b"resolved/0", b"odd/\xff"]
    assert told(there) == "meta; odd; pending 3, 5 to 7; resolved 0"


def test_a_great_many_numbers_are_told_in_part() -> None:
    text = told(f"pending/{number}".encode() for number in range(0, 200, 2))
    assert text.startswith("pending 0, 2, 4, ")
    assert text.endswith(", 22, ...")


@given(st.sets(st.integers(0, 60), max_size=10))
def test_each_number_that_is_there_is_told(numbers: set[int]) -> None:
    words = told(f"x/{number}".encode() for number in numbers).removeprefix("x ").split(", ")
    found = set[int]()
    for word in filter(None, words):
        first, _, last = word.partition(" to ")
        found |= set(range(int(first), int(last or first) + 1))
    assert found == numbers
