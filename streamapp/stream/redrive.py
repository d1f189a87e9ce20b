"""Dead letters as they are read again, and what is sent to redrive one: the message as it came, where it came from.

What has been redriven is said on the same topic, in the same transaction, by a *note*: a record whose header
``redriven`` says of how many letters it is, and whose value lists their offsets in its partition. It outlives the
letters that it is about, so no letter is sent twice unless that is asked for.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from streamapp.stream.codec import MAX_BYTES
from streamapp.stream.producer import Record
from streamapp.stream.topics import Topics

INPUTS = ("predictions", "outcomes")
"""Topics that letters are sent back to: what was on others was written by us, and belongs where it was or nowhere."""
NOTE = "redriven"
FROM = "redriven_from"


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """What is known of a dead letter beside the message itself."""

    partition: int
    offset: int
    at: float
    """When it was put there, in seconds."""
    reason: str
    error: str
    topic: str
    """Where the message was; its full name."""
    source_partition: int
    """-1 where it is not said."""
    source_offset: int
    size: int
    """Length of the value as it is kept."""
    cut_from: int | None
    """Its length before it was cut; None for most, which are whole."""

    def refusal(self, topics: Topics) -> str | None:
        """Return why the letter cannot be sent again, None if it can."""
        if self.cut_from is not None:
            return "cut: not all of the message was kept"
        if self.topic not in map(topics.full, INPUTS) or self.source_partition < 0:
            return "not from predictions or outcomes"
        if not self.size:
            return "empty: there is nothing in it"
        if self.size > MAX_BYTES:
            return "too large to be accepted"
        return None


def letter(record: Any) -> Letter:
    """Return what a record of ``dead-letters`` says of the message in it."""
    said = {name: value.decode("utf-8", "replace") for name, value in record.headers}
    return Letter(
        partition=record.partition,
        offset=record.offset,
        at=record.timestamp / 1000,
        reason=said.get("reason", ""),
        error=said.get("error", ""),
        topic=said.get("topic", ""),
        source_partition=_number(said.get("partition")),
        source_offset=_number(said.get("offset")),
        size=len(record.value or b""),
        cut_from=_number(said["cut_from"]) if "cut_from" in said else None,
    )


def again(record: Any, topics: Topics) -> Record:
    """Return the record that brings a letter's message back to its topic."""
    found = letter(record)
    short = found.topic.removeprefix(topics.prefix)
    # A message without a key was given one on its way here; it goes where it was.
    keyless = record.key == f"{short}-{found.source_partition}".encode()
    place = f"{topics.dead_letters}/{found.partition}/{found.offset}"
    return Record(
        topic=found.topic,
        partition=found.source_partition if keyless else None,
        key=None if keyless else record.key,
        value=record.value,
        headers=((FROM, place.encode()),),
    )


def note(topics: Topics, partition: int, offsets: Sequence[int]) -> Record:
    """Return the record that says that the letters at these offsets of a partition have been redriven."""
    return Record(
        topic=topics.dead_letters,
        partition=partition,
        key=NOTE.encode(),
        value=msgspec.json.encode(offsets),
        headers=((NOTE, str(len(offsets)).encode()),),
    )


def noted(record: Any) -> Iterable[int] | None:
    """Return the offsets that a note is about, None for a record that is none."""
    if not any(name == NOTE for name, _ in record.headers):
        return None
    try:
        return msgspec.json.decode(record.value or b"", type=list[int])
    except msgspec.DecodeError:
        return ()


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() else -1
