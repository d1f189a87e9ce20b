"""A letter goes back as the message that it keeps, and no letter goes that cannot."""

from dataclasses import dataclass
from typing import Any

import pytest

from streamapp.core.events import DeadLetter
from streamapp.stream.codec import MAX_BYTES
from streamapp.stream.dead_letters import WHOLE, dead_letter
from streamapp.stream.producer import Record
from streamapp.stream.redrive import again, letter, note, noted
from streamapp.stream.topics import Topics

TOPICS = Topics("t.")


@dataclass
class Stored:
    """A record of ``dead-letters`` as it is read."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    partition: int = 0
    offset: int = 9
    timestamp: int = 1_500


def stored(record: Record) -> Stored:
    return Stored(record.key, record.value, tuple(record.headers))


def kept(**fields: Any) -> Stored:
    given = {"topic": "outcomes", "partition": 3, "offset": 17, "key": b"k", "value": b"{", "reason": "malformed"}
    return stored(dead_letter(TOPICS, DeadLetter(**{**given, "error": "no JSON", **fields})))


def test_a_letter_says_where_its_message_was_and_why() -> None:
    found = letter(kept())
    assert (found.partition, found.offset, found.at) == (0, 9, 1.5)
    assert (found.topic, found.source_partition, found.source_offset) == ("t.outcomes", 3, 17)
    assert (found.reason, found.error, found.size, found.cut_from) == ("malformed", "no JSON", 1, None)
    assert found.refusal(TOPICS) is None


@pytest.mark.parametrize(("key", "partition"), [(b"k", None), (None, 3), (b"", 3)])
def test_the_message_has_the_key_it_had_and_without_one_lies_where_it_lay(
    key: bytes | None, partition: int | None
) -> None:
    record = again(kept(key=key), TOPICS)
    assert (record.topic, record.key, record.value) == ("t.outcomes", key or None, b"{")
    assert record.partition == partition
    assert record.headers == (("redriven_from", b"t.dead-letters/0/9"),)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"value": b"x" * (WHOLE + 1)}, "cut"),
        ({"key": b"x" * (WHOLE + 1)}, "cut"),
        ({"value": b"x" * (MAX_BYTES + 1)}, "too large"),
        ({"value": None}, "empty"),
        ({"topic": "scored"}, "not from"),
        ({"topic": "retrain"}, "not from"),
    ],
)
def test_what_cannot_be_sent_again_as_it_was_is_refused(fields: dict[str, Any], words: str) -> None:
    assert words in (letter(kept(**fields)).refusal(TOPICS) or "")


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("topic", b"t.outcomes"),),
        (("topic", b"t.outcomes"), ("partition", b"-1")),
        (("topic", b"t.outcomes"), ("partition", "²".encode())),
        (("topic", b"other.outcomes"), ("partition", b"1")),
        (("topic", b"\xff"), ("partition", b"1")),
    ],
)
def test_what_others_put_there_is_refused(headers: tuple[tuple[str, bytes], ...]) -> None:
    assert letter(Stored(b"k", b"{}", headers)).refusal(TOPICS) == "not from predictions or outcomes"


def test_a_note_says_which_letters_were_sent_and_a_letter_is_no_note() -> None:
    record = note(TOPICS, 2, [4, 7])
    assert (record.topic, record.partition) == ("t.dead-letters", 2)
    assert noted(stored(record)) == [4, 7]
    assert noted(kept()) is None
    assert noted(Stored(b"redriven", b"{", (("redriven", b"1"),))) == ()
