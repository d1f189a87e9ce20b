"""What cannot be used, kept whole on a topic of its own."""

from streamapp.core.events import DeadLetter
from streamapp.stream.producer import Record
from streamapp.stream.topics import Topics

ERROR_LENGTH = 500


def dead_letter(topics: Topics, letter: DeadLetter) -> Record:
    """Return the record that keeps a message: its bytes as the value, where and why as headers."""
    return Record(
        topic=topics.dead_letters,
        partition=None,
        key=letter.key or f"{letter.topic}-{letter.partition}".encode(),
        value=letter.value if letter.value is not None else b"",
        headers=(
            ("reason", letter.reason.encode()),
            ("topic", topics.full(letter.topic).encode()),
            ("partition", str(letter.partition).encode()),
            ("offset", str(letter.offset).encode()),
            ("error", letter.error[:ERROR_LENGTH].encode("utf-8", "replace")),
        ),
    )
