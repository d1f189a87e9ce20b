"""What cannot be used, kept whole on a topic of its own."""

from collections.abc import Iterable, Iterator

from streamapp.core.events import DeadLetter
from streamapp.stream.producer import Record
from streamapp.stream.topics import Topics

ERROR_LENGTH = 500
WHOLE = 2_000_000
"""Bytes of key and value up to which both are kept whole: a record of more could not be sent."""
CUT = 1_000_000
KEY_LENGTH = 10_000

Headers = tuple[tuple[str, bytes], ...]


def dead_letter(topics: Topics, letter: DeadLetter) -> Record:
    """Return the record that keeps a message: its bytes as the value, where and why as headers.

    Of a value that is too large for any record (compressed, it was small) the first million bytes are kept, and the
    header ``cut_from`` says how many there were.
    """
    [record] = dead_letters(topics, [letter])
    return record


def dead_letters(topics: Topics, letters: Iterable[DeadLetter]) -> Iterator[Record]:
    """Yield the record of each letter, as :func:`dead_letter` describes it."""
    name = topics.dead_letters
    known: dict[tuple[str, int, str, str], tuple[bytes, Headers]] = {}
    """What letters that say the same of one partition share: there may be a hundred thousand of them."""
    for letter in letters:
        same = letter.topic, letter.partition, letter.reason, letter.error
        shared = known.get(same)
        if shared is None:
            shared = known[same] = f"{letter.topic}-{letter.partition}".encode(), _headers(topics, letter)
        without_key, headers = shared
        key, value = letter.key or b"", letter.value or b""
        headers = (*headers, ("offset", b"%d" % letter.offset))
        if len(key) + len(value) > WHOLE:
            headers = (*headers, ("cut_from", b"%d" % len(value)))
            key, value = key if len(key) <= KEY_LENGTH else b"", value[:CUT]
        yield Record(topic=name, partition=None, key=key or without_key, value=value, headers=headers)


def _headers(topics: Topics, letter: DeadLetter) -> Headers:
    return (
        ("reason", letter.reason.encode()),
        ("topic", topics.full(letter.topic).encode()),
        ("partition", str(letter.partition).encode()),
        ("error", letter.error[:ERROR_LENGTH].encode("utf-8", "replace")),
    )
