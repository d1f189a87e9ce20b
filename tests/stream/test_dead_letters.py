"""A dead letter holds the message as it came, and always fits."""

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from streamapp.core.events import DeadLetter
from streamapp.stream.dead_letters import CUT, WHOLE, dead_letter
from streamapp.stream.producer import MOST_BYTES, Record
from streamapp.stream.topics import Topics


def letter(key: bytes | None, value: bytes | None, *, error: str = "no JSON") -> Record:
    return dead_letter(
        Topics("t."),
        DeadLetter(topic="predictions", partition=3, offset=17, key=key, value=value, reason="malformed", error=error),
    )


def test_value_and_key_are_kept_and_headers_say_where_and_why() -> None:
    record = letter(b"k", b"{")
    assert (record.topic, record.partition, record.key, record.value) == ("t.dead-letters", None, b"k", b"{")
    assert dict(record.headers) == {
        "reason": b"malformed",
        "topic": b"t.predictions",
        "partition": b"3",
        "offset": b"17",
        "error": b"no JSON",
    }


@pytest.mark.parametrize("key", [None, b""])
def test_a_message_without_a_key_gets_one_by_where_it_lay(key: bytes | None) -> None:
    assert letter(key, b"{").key == b"predictions-3"


@pytest.mark.parametrize("value", [None, b""])
def test_a_tombstone_is_kept_as_no_bytes(value: bytes | None) -> None:
    assert letter(b"k", value).value == b""


@pytest.mark.parametrize(
    ("key", "value"),
    [(1, 1_048_576), (1, WHOLE), (1, 50_000_000), (WHOLE - 1, 1), (1_500_000, 1_500_000), (50_000_000, 0)],
)
def test_whatever_was_read_the_letter_can_be_sent(key: int, value: int) -> None:
    record = letter(b"k" * key, b"v" * value, error="ü" * 10_000)
    size = DefaultRecordBatchBuilder.estimate_size_in_bytes(record.key, record.value, list(record.headers))
    assert size <= MOST_BYTES
    headers = dict(record.headers)
    if key + value <= WHOLE:
        assert (record.key, record.value) == (b"k" * key, b"v" * value)
        assert "cut_from" not in headers
    else:
        assert record.value == b"v" * min(value, CUT)
        assert headers["cut_from"] == str(value).encode()
