"""Whatever is accepted can also be said: what follows from the largest events still fits into a message."""

import json
from typing import Any

import pytest

from streamapp.core.join import Joiner
from streamapp.core.settings import Settings
from streamapp.errors import DecodeError
from streamapp.stream.codec import (
    MAX_BYTES,
    MAX_CLASS_NAME,
    MAX_CLASSES,
    decode_outcomes,
    decode_predictions,
    encode_scored,
    split,
)
from streamapp.stream.joining import MESSAGE_BYTES, input_batch
from streamapp.stream.producer import MOST_BYTES
from streamapp.stream.records import Records
from tests.stream.doubles import START, Stored

ROOM = MAX_BYTES - 200
WORDS = ("prediction", "series", "version", "unit", "experiment")


def scored_sizes(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[int]:
    """Return how large the messages are that follow from pairs of a prediction and its outcome."""
    joiner = Joiner(0, Settings())
    for number, (prediction, outcome) in enumerate(pairs):
        both = {"prediction_id": f"p{number}", "ts": START}
        values = [json.dumps({**both, **event}).encode() for event in ({"model": "m", **prediction}, outcome)]
        for value, decode, take in zip(
            values, (decode_predictions, decode_outcomes), (joiner.predictions, joiner.outcomes), strict=True
        ):
            assert len(value) <= MAX_BYTES
            batch = input_batch(Records.of([Stored(number, int(START * 1000), b"", value)]), decode)
            assert not any(isinstance(event, DecodeError) for event in batch.events)
            take(batch)
    joiner.advance(predictions=START + 1, outcomes=START + 1)
    messages = [part for rows in joiner.take().rows for part in split(rows, MESSAGE_BYTES)]
    assert sum(map(len, messages)) == len(pairs)
    return [len(encode_scored(message)) for message in messages]


@pytest.mark.parametrize(
    ("prediction", "outcome"),
    [
        ({"prediction": True, "features": {"x": "y" * (ROOM - 30)}}, {"outcome": True}),
        (
            {name: name[0] * 256 for name in WORDS} | {"features": {"x": "y" * (ROOM - 2000)}},
            {"outcome": "b" * 256},
        ),
    ],
)
def test_the_largest_pairs_fit_into_a_message_each(prediction: dict[str, Any], outcome: dict[str, Any]) -> None:
    assert max(scored_sizes([(prediction, outcome)] * 3)) <= MOST_BYTES - 1000


def test_rows_with_the_longest_names_of_classes_fit_into_a_message_each() -> None:
    def scores(number: int) -> dict[str, float]:
        names = [f"{number}-{i}".ljust(MAX_CLASS_NAME, "x") for i in range(MAX_CLASSES)]
        return {name: float(i == 0) for i, name in enumerate(names)}

    pairs = [({"scores": scores(number)}, {"outcome": "b" * 256}) for number in range(3)]
    assert max(scored_sizes(pairs)) <= MOST_BYTES - 1000


@pytest.mark.parametrize(("length", "reason"), [(MAX_CLASS_NAME, ""), (MAX_CLASS_NAME + 1, "out_of_range")])
def test_a_longer_name_of_a_class_is_rejected(length: int, reason: str) -> None:
    value = json.dumps({"prediction_id": "p", "model": "m", "ts": START, "scores": {"x" * length: 1.0}}).encode()
    (event,) = decode_predictions([value])
    assert (event.reason if isinstance(event, DecodeError) else "") == reason


@pytest.mark.parametrize("field", WORDS)
@pytest.mark.parametrize(("length", "reason"), [(256, ""), (257, "out_of_range"), (900_000, "out_of_range")])
def test_strings_that_state_is_kept_by_are_short(field: str, length: int, reason: str) -> None:
    value = json.dumps({"prediction_id": "p", "model": "m", "ts": START, "prediction": True, field: "ü" * length})
    (event,) = decode_predictions([value.encode() if length < 1000 else value.replace("\\u00fc", "u").encode()])
    assert (event.reason if isinstance(event, DecodeError) else "") == reason
    if reason:
        assert str(event) == f"expected `str` of length <= 256 - at `$.{field}`"


@pytest.mark.parametrize(("length", "reason"), [(256, ""), (257, "out_of_range")])
def test_a_longer_outcome_is_rejected(length: int, reason: str) -> None:
    (event,) = decode_outcomes([json.dumps({"prediction_id": "p", "ts": START, "outcome": "x" * length}).encode()])
    assert (event.reason if isinstance(event, DecodeError) else "") == reason
