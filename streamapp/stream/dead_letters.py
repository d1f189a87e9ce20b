"""What cannot be used, kept whole on a topic of its own."""

from streamapp.core.events import DeadLetter
from streamapp.stream.producer import Record
from streamapp.stream.topics import Topics

ERROR_LENGTH = 500
WHOLE = 2_000_000
"""Bytes of key and value up to which both are kept whole: a record of more could not be sent."""
CUT = 1_000_000
KEY_LENGTH = 10_000


def dead_letter(topics: Topics, letter: DeadLetter) -> Record:
    """Return the record that keeps a message: its bytes as the value, where and why as headers.

    Of a value that is too large for any record (compressed, it was small) the first million bytes are kept, and the
    header ``cut_from`` says how many there were.
    """
    key, value = letter.key or b"", letter.value or b""
    cut: tuple[tuple[str, bytes], ...] = ()
    if len(key) + len(value) > WHOLE:
        cut = (("cut_from", str(len(value)).encode()),)
        key, value = key if len(key) <= KEY_LENGTH else b"", value[:CUT]
    return Record(
        topic=topics.dead_letters,
        partition=None,
        key=key or f"{letter.topic}-{letter.partition}".encode(),
        value=value,
        headers=(
            ("reason", letter.reason.encode()),
            ("topic", topics.full(letter.topic).encode()),
            ("partition", str(letter.partition).encode()),
            ("offset", str(letter.offset).encode()),
            ("error", letter.error[:ERROR_LENGTH].encode("utf-8", "replace")),
            *cut,
        ),
    )
